package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
	"github.com/quantra-l/quantra/store/blocks"
	"github.com/quantra-l/quantra/store/bucket"
)

func (a *app) storeExport() *cobra.Command {
	var o storeOptions
	var out, tenant, from, to string
	cmd := &cobra.Command{
		Use:   "export -o FILE",
		Short: "Write blocks into one file",
		Long: `Write the blocks of the bucket into a tar: Parquet files as docs/format/block.md has them, which
"store import" takes in elsewhere, and which ClickHouse and DuckDB read. Whole blocks that have profiles
of the range are written. What is damaged ends it: "store fsck --repair" sets it aside. A server may run beside it;
what is in its log is not in the bucket yet. For one pprof file of a range, see "query export".`,
		Example: `  quantraband store export -o profiles.tar
  quantraband store export --from now-24h -o - | zstd > day.tar.zst`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opt := blocks.ExportOptions{Tenant: tenant}
			for _, end := range []struct {
				flag, text string
				to         *time.Time
			}{{"--from", from, &opt.From}, {"--to", to, &opt.To}} {
				if end.text == "" {
					continue
				}
				t, err := parseTime(end.text, time.Now())
				if err != nil {
					return usagef("%s %q: it must be RFC 3339 (2026-11-23T15:04:05Z), now, or now-24h", end.flag, end.text)
				}
				*end.to = t
			}
			if out == "" {
				return usagef("export needs -o FILE; - is standard output")
			}
			return a.export(cmd.Context(), &o, out, opt)
		},
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringVarP(&out, "output", "o", "", "`file` to write; - is standard output")
	f.StringVar(&tenant, "tenant", "", "only this tenant's `name`")
	f.StringVar(&from, "from", "", "begin at `time`: RFC 3339, or now-24h")
	f.StringVar(&to, "to", "", "end at `time`: RFC 3339, now, or now-5m")
	return cmd
}

func (a *app) export(ctx context.Context, o *storeOptions, out string, opt blocks.ExportOptions) error {
	var moved blocks.Moved
	err := a.beside(ctx, o, true, func(bs *blocks.Blocks, _ bucket.Bucket) error {
		bar := a.progress("writing "+out, bs.ExportBytes())
		defer bar.end()
		opt.Progress = bar.add
		return a.emit(out, true, func(w io.Writer) (err error) {
			moved, err = bs.Export(ctx, w, opt)
			return err
		})
	})
	if err != nil {
		return moveError(err)
	}
	return a.movedText(o.asJSON, "wrote", moved)
}

func (a *app) storeImport() *cobra.Command {
	var o storeOptions
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Take in blocks that were exported",
		Long: `Take in what "store export" wrote; - is standard input. Every block is checked whole before the bucket gets it.
Blocks that are there already are passed over, so a tar can be given again after it broke off; those that had been deleted
there stay deleted. A server may run beside it, and sees them within half a minute. It deletes what is
older than its --retention.`,
		Example: `  quantraband store import --data ./profiles profiles.tar
  zstd -dc day.tar.zst | quantraband store import --bucket gs://profiles -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.importFile(cmd.Context(), &o, args[0]) },
	}
	o.flags(cmd)
	return cmd
}

func (a *app) importFile(ctx context.Context, o *storeOptions, name string) error {
	in, size := a.stdin, int64(-1)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return pathError("read", name, err)
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil {
			size = info.Size()
		}
		in = f
	}
	if o.place.bucket == "" {
		// A new data folder is as good as one that is there.
		dir, err := dataDir(o.data)
		if err == nil {
			err = os.MkdirAll(dir, 0o700)
		}
		if err != nil {
			return err
		}
	}
	var moved blocks.Moved
	err := a.beside(ctx, o, false, func(bs *blocks.Blocks, _ bucket.Bucket) (err error) {
		bar := a.progress("reading "+name, size)
		defer bar.end()
		moved, err = bs.Import(ctx, bar.reader(bufio.NewReaderSize(in, 1<<20)))
		return err
	})
	if err != nil {
		if moved.Blocks > 0 {
			err = errors.Join(err, a.movedText(o.asJSON, "before that it took in", moved))
		}
		return moveError(err)
	}
	return a.movedText(o.asJSON, "took in", moved)
}

func moveError(err error) error {
	switch {
	case errors.Is(err, block.ErrCorrupt), errors.Is(err, store.ErrCorrupt), errors.Is(err, block.ErrVersion):
		return corruptf("%w", err)
	case errors.Is(err, store.ErrInvalid):
		return usagef("%w", err)
	}
	return bucketError(err)
}
