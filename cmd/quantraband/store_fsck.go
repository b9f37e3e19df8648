package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/blocks"
)

func (a *app) storeFsck() *cobra.Command {
	var o storeOptions
	var quick, repair bool
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check every byte that is kept",
		Long: `Check the log and the blocks in the data folder, and all blocks in the bucket: checksums,
bounds, order, totals, roll-ups, and that no profile is kept twice. Each thing found is a line:
what kind, where, what. It changes nothing, and may run beside a server.

--repair sets what is damaged aside, and deletes nothing: blocks of the bucket go to quarantine/ in
it, local files to quarantine in the data folder. The server must be stopped for it.

It ends with code 3 if there is damage that was not set aside.

  damaged     bytes are not what was written, or files are missing
  doubled     a profile is in two blocks, and counts twice
  trace       left by a crash; the next start deals with it
  orphan, superseded, tombstone, waiting
              what a server was about to deal with, a long time ago
  unknown     not ours, or of a later version`,
		Example: `  quantraband store fsck --data ./profiles
  quantraband store fsck --bucket gs://profiles --quick
  quantraband store fsck --json | jq -r '.findings[].where'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.fsck(cmd.Context(), &o, quick, repair) },
	}
	o.flags(cmd)
	cmd.Flags().Lookup("region").DefValue = ""
	cmd.Flags().Lookup("region").Usage = "only this region's `name` (default: all)"
	o.place.region = ""
	cmd.Flags().BoolVar(&quick, "quick", false, "names and lengths only; no block is read")
	cmd.Flags().BoolVar(&repair, "repair", false, "set aside what is damaged")
	return cmd
}

type fsckJSON struct {
	Blocks     int64            `json:"blocks"`
	Bytes      int64            `json:"bytes"`
	Findings   []blocks.Finding `json:"findings"`
	More       int              `json:"more,omitempty"` // findings that are not listed
	Damaged    int              `json:"damaged"`        // and not set aside
	Uncompared []string         `json:"uncompared,omitempty"`
}

func (a *app) fsck(ctx context.Context, o *storeOptions, quick, repair bool) (err error) {
	dir, err := o.folder()
	if err != nil {
		return err
	}
	aside := ""
	if repair {
		aside = filepath.Join(dir, quarantine)
		release, err := locked(dir)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	b, err := openBucket(ctx, dir, o.place.bucket, !repair)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()

	out := fsckJSON{Findings: []blocks.Finding{}}
	if err := checkFolder(ctx, dir, aside, &out); err != nil {
		return err
	}
	var read atomic.Int64
	bar := a.progress("checking "+b.URL(), -1)
	r, err := blocks.Fsck(ctx, b, blocks.FsckOptions{Dir: filepath.Join(dir, blocksDir), Region: o.place.region, Quick: quick, Quarantine: aside,
		Progress: func(n int64) { read.Add(n) }})
	bar.add(read.Load())
	bar.end()
	if err != nil {
		return bucketError(err)
	}
	out.Blocks, out.Bytes, out.More, out.Uncompared = r.Blocks, r.Bytes, r.More, r.Uncompared
	out.Damaged += r.Damaged
	for _, f := range r.Findings {
		if f.IsDamage() && f.Aside != "" {
			out.Damaged--
		}
	}
	out.Findings = append(out.Findings, r.Findings...)
	if err := a.fsckSays(o, &out); err != nil {
		return err
	}
	switch {
	case out.Damaged > 0 && repair:
		return corruptf("%d damaged, and not set aside; see above", out.Damaged)
	case out.Damaged > 0:
		return corruptf("%d damaged; stop the server and set it aside with --repair", out.Damaged)
	}
	return nil
}

// checkFolder checks the log and what is staged in the data folder.
func checkFolder(ctx context.Context, dir, aside string, out *fsckJSON) error {
	var failed error
	err := store.CheckDir(ctx, vfs.Default, dir, nil, func(p store.Problem) {
		f := blocks.Finding{Kind: "trace", Where: p.Path, What: p.What}
		if p.Damage {
			f.Kind = blocks.Damaged
		}
		if aside != "" && p.Aside != "" {
			to, err := blocks.SetAside(vfs.Default, p.Aside, aside)
			failed = errors.Join(failed, err)
			f.Aside = to
		}
		if p.Damage && f.Aside == "" {
			out.Damaged++
		}
		out.Findings = append(out.Findings, f)
	})
	return errors.Join(err, failed)
}

func (a *app) fsckSays(o *storeOptions, out *fsckJSON) error {
	if o.asJSON {
		return writeJSON(a.stdout, out)
	}
	for _, f := range out.Findings {
		if _, err := fmt.Fprintf(a.stdout, "%-10s %s: %s\n", f.Kind, f.Where, f.What); err != nil {
			return err
		}
		if f.Aside != "" {
			if _, err := fmt.Fprintf(a.stdout, "%-10s %s\n", "  moved to", f.Aside); err != nil {
				return err
			}
		}
	}
	if out.More > 0 {
		fmt.Fprintf(a.stdout, "and %d more\n", out.More)
	}
	for _, t := range out.Uncompared {
		fmt.Fprintf(a.stdout, "tenant %q has too many profiles to look for doubled ones\n", t)
	}
	verdict := "no damage"
	if out.Damaged > 0 {
		verdict = fmt.Sprintf("%d damaged", out.Damaged)
	}
	_, err := fmt.Fprintf(a.stdout, "%d blocks, %s: %s\n", out.Blocks, sizeText(out.Bytes), verdict)
	return err
}
