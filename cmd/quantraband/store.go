package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store/blocks"
	"github.com/quantra-l/quantra/store/bucket"
)

func (a *app) storeCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "store",
		GroupID: "main",
		Short:   "Look after what is kept: fsck, usage, compact, export, import, reindex",
		Long: `Look after what a server keeps: in the data folder, and in the bucket. fsck, usage,
export and import may run beside a server; compact and reindex need it stopped.
docs/operations.md says what lies where, and what to do when something is wrong.`,
		Example: `  quantraband store fsck
  quantraband store usage --by service,age
  quantraband store export -o profiles.tar`,
	}, a.storeFsck(), a.storeUsage(), a.storeCompact(), a.storeExport(), a.storeImport(), a.storeReindex())
}

// storeOptions say which store is meant.
type storeOptions struct {
	data   string
	place  engineOptions
	asJSON bool
}

func (o *storeOptions) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.data, "data", "", "the server's data `folder` (default: quantra in the user's data home)")
	o.place.placeFlags(cmd)
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "write JSON")
}

// folder is the data folder, which must be there unless the bucket is named.
func (o *storeOptions) folder() (string, error) {
	dir, err := dataDir(o.data)
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(dir); o.place.bucket == "" && (err != nil || !info.IsDir()) {
		return "", usagef("there is no data folder %s; name the server's with --data, or a bucket with --bucket", dir)
	}
	return dir, nil
}

// beside opens the blocks of the bucket without the server's data folder, so that a server may go on beside it. What it
// needs of local disk is in a folder of its own, which goes with it.
func (a *app) beside(ctx context.Context, o *storeOptions, readOnly bool, use func(*blocks.Blocks, bucket.Bucket) error) (err error) {
	dir, err := o.folder()
	if err != nil {
		return err
	}
	b, err := openBucket(ctx, dir, o.place.bucket, readOnly)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	tmp, err := os.MkdirTemp("", "quantra-store-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	bs, err := blocks.Open(ctx, b, blocks.Options{Dir: tmp, Region: o.place.region, CacheBytes: -1, MemoryBytes: -1, Compact: blocks.CompactOptions{Off: true}})
	if err != nil {
		return engineError(dir, err)
	}
	defer func() { err = errors.Join(err, bs.Close()) }()
	// That a listing failed is no error of Open's: a server goes on with what it has.
	if err := bs.Refresh(ctx); err != nil {
		return bucketError(err)
	}
	return use(bs, b)
}

func bucketError(err error) error {
	if errors.Is(err, bucket.ErrUnavailable) {
		return unavailablef("%w", err)
	}
	return err
}

func (a *app) storeReindex() *cobra.Command {
	var o storeOptions
	cmd := &cobra.Command{
		Use:   "reindex",
		Short: "Learn anew what the bucket has",
		Long: `Drop every local copy of what the bucket has, and learn anew from the bucket what
is there. Profiles in the log, and blocks that wait for the bucket, are no copies and stay.
The server must be stopped.`,
		Example: `  quantraband store reindex --data ./profiles`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			dir, err := o.folder()
			if err != nil {
				return err
			}
			b, err := openBucket(cmd.Context(), dir, o.place.bucket, false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, b.Close()) }()
			st, err := blocks.Reindex(cmd.Context(), b, blocks.Options{Dir: filepath.Join(dir, blocksDir), Region: o.place.region})
			if err != nil {
				return bucketError(engineError(dir, err))
			}
			if o.asJSON {
				return writeJSON(a.stdout, map[string]int{"blocks": st.Blocks, "asked": st.Asked, "damaged": st.Damaged, "waiting": st.QueueBlocks})
			}
			_, err = fmt.Fprintf(a.stdout, "%d blocks known from %s, %d of them asked; %d damaged; %d wait for the bucket\n", st.Blocks, b.URL(), st.Asked, st.Damaged, st.QueueBlocks)
			return err
		},
	}
	o.flags(cmd)
	return cmd
}

func (a *app) storeCompact() *cobra.Command {
	var o storeOptions
	engine := &o.place
	cmd := &cobra.Command{
		Use:   "compact",
		Short: "Merge, archive and delete what is due, now",
		Long: `Do at once what a server does bit by bit: merge blocks into hours and days, move old
ones to the archive class, delete those past --retention. What is deleted or replaced is marked
first; its bytes go a quarter of an hour later. The server must be stopped;
one that runs does this by itself.`,
		Example: `  quantraband store compact --data ./profiles --retention 14d`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.compact(cmd.Context(), &o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "", "the server's data `folder` (default: quantra in the user's data home)")
	engine.flags(cmd)
	for _, name := range []string{"flush-every", "compact-every", "memory", "query-memory", "queue-bytes", "tenant-rate", "tenant-series", "clickhouse"} {
		f.MarkHidden(name) // a server's
	}
	f.BoolVar(&o.asJSON, "json", false, "write JSON")
	return cmd
}

func (a *app) compact(ctx context.Context, o *storeOptions) (err error) {
	if err := o.place.check(); err != nil {
		return err
	}
	dir, err := o.folder()
	if err != nil {
		return err
	}
	b, err := openBucket(ctx, dir, o.place.bucket, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	log := slog.New(slog.DiscardHandler)
	db, err := control.Open(ctx, cmp.Or(o.place.control, "sqlite:"+filepath.Join(dir, controlDB)), control.Options{Logger: log})
	if err != nil {
		return controlError(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	bs, err := blocks.Open(ctx, b, blocks.Options{
		Dir: filepath.Join(dir, blocksDir), Region: o.place.region, MemoryBytes: -1,
		Lease: leases(db, log), Retention: o.place.retain(), Compact: blocks.CompactOptions{Off: true},
	})
	if err != nil {
		return engineError(dir, err)
	}
	defer func() { err = errors.Join(err, bs.Close()) }()
	if err := bs.Refresh(ctx); err != nil {
		return bucketError(err)
	}
	done := func(s blocks.Stats) int64 {
		return s.Compactions + s.Tombstones + s.DeletedBlocks + s.ArchivedBlocks + s.Orphans
	}
	for before := int64(-1); before != done(bs.Stats()); {
		before = done(bs.Stats())
		if err := bs.Maintain(ctx); err != nil {
			return bucketError(err)
		}
	}
	st := bs.Stats()
	if o.asJSON {
		return writeJSON(a.stdout, map[string]int64{"merges": st.Compactions, "merged_blocks": st.CompactedBlocks, "archived": st.ArchivedBlocks,
			"marked": st.Tombstones, "deleted": st.DeletedBlocks, "deleted_bytes": st.DeletedBytes})
	}
	_, err = fmt.Fprintf(a.stdout, "%d merges of %d blocks; %d archived; %d marked as deleted; %d deleted (%s)\n",
		st.Compactions, st.CompactedBlocks, st.ArchivedBlocks, st.Tombstones, st.DeletedBlocks, sizeText(st.DeletedBytes))
	return err
}

// movedText says what export or import has done.
func (a *app) movedText(asJSON bool, what string, m blocks.Moved) error {
	if asJSON {
		return writeJSON(a.stderr, m)
	}
	var also []string
	if m.Present > 0 {
		also = append(also, fmt.Sprintf("; %d were there", m.Present))
	}
	if m.Deleted > 0 {
		also = append(also, fmt.Sprintf("; %d had been deleted there and stay so", m.Deleted))
	}
	_, err := fmt.Fprintf(a.stderr, "%s %d blocks with %d profiles (%s)%s\n", what, m.Blocks, m.Profiles, sizeText(m.Bytes), strings.Join(also, ""))
	return err
}

// sizeText is bytes for people.
func sizeText(n int64) string {
	const units = "KMGTP"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, u := float64(n)/1024, 0
	for ; v >= 1023.95 && u < len(units)-1; u++ {
		v /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", v, units[u])
}

// locked takes the locks of a data folder, so that no server starts in it.
func locked(dir string) (release func() error, err error) {
	var held []interface{ Close() error }
	release = func() (err error) {
		for _, l := range held {
			err = errors.Join(err, l.Close())
		}
		return err
	}
	for _, name := range []string{filepath.Join(dir, "LOCK"), filepath.Join(dir, blocksDir, "lock")} {
		if _, err := os.Stat(filepath.Dir(name)); errors.Is(err, os.ErrNotExist) {
			continue
		}
		l, err := vfs.Default.Lock(name)
		if err != nil {
			return nil, errors.Join(engineError(dir, err), release())
		}
		held = append(held, l)
	}
	return release, nil
}
