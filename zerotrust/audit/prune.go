package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// Pruned is what [Log.Prune] did.
type Pruned struct {
	Next    Index // entries ahead of this one are gone from here
	Bundles int   // that were removed now
}

// Prune removes whole bundles whose entries are all from before a time; with an archive they are copied there first, by the paths that
// they have. Their hashes stay, so everything can be verified as before, and the log says first what it removes. Entries ahead of one
// whose time cannot be read stay.
func (l *Log) Prune(ctx context.Context, before time.Time, archive string) (p Pruned, err error) {
	v, err := OpenView(l.fs, l.o.Dir, nil)
	if err != nil {
		return p, err
	}
	var remove []uint64
	for n := range tilesAt(-1, v.c.Size) {
		if err := ctx.Err(); err != nil {
			return p, err
		}
		entries, err := v.bundle(n)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			p.Next = Index((n + 1) * tileWidth)
			continue
		case err != nil:
			return p, fmt.Errorf("audit: %s: nothing is pruned: %w", l.o.Dir, err)
		}
		if !allBefore(entries, before) {
			break
		}
		if archive != "" {
			if err := l.archive(n, entries, archive); err != nil {
				return p, fmt.Errorf("audit: %s: nothing is pruned: %w", l.o.Dir, err)
			}
		}
		remove = append(remove, n)
	}
	if len(remove) == 0 {
		return p, nil
	}
	next := (remove[len(remove)-1] + 1) * tileWidth
	first := remove[0] * tileWidth
	if err := l.appendOwn(ctx, own{Log: "pruned", First: &first, Next: &next, Note: "the hashes of these entries stay"}); err != nil {
		return p, err
	}
	p.Next = Index(next)
	for _, n := range remove {
		if err := l.fs.Remove(filepath.Join(l.o.Dir, filepath.FromSlash(tilePath(-1, n, tileWidth)))); err != nil {
			return p, fmt.Errorf("audit: %w", err)
		}
		p.Bundles++
	}
	return p, nil
}

// appendOwn records an entry of the log's own, and waits for it.
func (l *Log) appendOwn(ctx context.Context, e own) error {
	it := item{l.own(e), make(chan result, 1)}
	if err := l.probe(ctx); err != nil {
		return err
	}
	if err := l.offerWaiting(ctx, it); err != nil {
		return err
	}
	select {
	case r := <-it.done:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// allBefore says that all entries have a time, before t.
func allBefore(entries [][]byte, t time.Time) bool {
	for _, e := range entries {
		var has struct {
			Time time.Time `json:"time"`
		}
		if json.Unmarshal(e, &has) != nil || has.Time.IsZero() || !has.Time.Before(t) {
			return false
		}
	}
	return true
}

// archive copies a bundle, durably.
func (l *Log) archive(n uint64, entries [][]byte, to string) error {
	var b []byte
	for _, e := range entries {
		b = appendEntry(b, e)
	}
	name := filepath.Join(to, filepath.FromSlash(tilePath(-1, n, tileWidth)))
	dir := filepath.Dir(name)
	if err := l.fs.MkdirAll(dir); err != nil {
		return err
	}
	if err := replaceFile(l.fs, name, b); err != nil {
		return err
	}
	for ; dir != to && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if err := l.fs.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return nil
}
