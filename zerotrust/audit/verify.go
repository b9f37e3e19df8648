package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/quantra-l/quantra/internal/vfs"
)

// VerifyOptions say what a log is held to.
type VerifyOptions struct {
	// Trust is the keys that vouch for it; none is that it is held to itself.
	Trust []PublicKey
	// Since are checkpoints of it that were kept elsewhere: it must have grown from each.
	Since [][]byte
	// Witnesses must each have cosigned its published checkpoint.
	Witnesses []PublicKey
	// Archive is a folder with bundles that were pruned, by the paths that they had; "" is none.
	Archive string
}

// Report is what was found in a log that is whole.
type Report struct {
	Checkpoint Checkpoint // of all there is
	Note       []byte     // the published one: kept elsewhere, it shows later that the log only grew
	Published  uint64     // entries in tiles; the others are in records only, for a moment
	Pruned     uint64     // entries ahead of this one are not all here; their hashes are
	Absent     uint64     // how many of them are nowhere
	Dropped    uint64     // events that the log says were not recorded
	Keys       []PublicKey
	Trusted    bool // a key from outside vouches for it
}

// Verify reads all of a log and holds it to its checkpoint, its keys and the checkpoints that were kept elsewhere. An error that is
// [ErrBroken] names the first entry, or the tile, that is not what was written.
func Verify(ctx context.Context, f vfs.FS, dir string, o VerifyOptions) (r Report, err error) {
	v, err := OpenView(f, dir, o.Trust)
	if err != nil {
		if r, why := explain(ctx, f, dir, o, err); why != nil {
			return r, why
		}
		return r, err
	}
	r = Report{Checkpoint: v.lastC, Note: v.note, Published: v.c.Size, Keys: v.keys, Trusted: v.Trusted()}
	c := check{ctx: ctx, d: v.d, c: v.c, r: &r}
	if o.Archive != "" {
		c.archive = &folder{f, o.Archive}
	}
	err = c.all(v)
	for i := 0; err == nil && i < len(o.Since); i++ {
		err = v.since(o.Since[i])
	}
	if err == nil {
		err = v.witnessed(o.Witnesses)
	}
	if err != nil {
		err = fmt.Errorf("audit: %s: %w", dir, err)
	}
	return r, err
}

// explain finds the entry that is wrong in a log whose edge is not its checkpoint's.
func explain(ctx context.Context, f vfs.FS, dir string, o VerifyOptions, err error) (r Report, why error) {
	if !errors.Is(err, ErrBroken) {
		return r, nil
	}
	v, err := openView(f, dir, o.Trust)
	if v == nil || err == nil {
		return r, nil
	}
	c := check{ctx: ctx, d: v.d, c: v.c, r: &r}
	if err := c.bottomUp(); err != nil {
		return r, fmt.Errorf("audit: %s: %w", dir, err)
	}
	return r, nil
}

// check is one reading of a log's tiles.
type check struct {
	ctx     context.Context
	d       folder
	archive *folder
	c       Checkpoint
	r       *Report
	holes   uint64 // bundles ahead of this entry are missing here
}

// all holds every tile to the one above it, the last ones being the checkpoint's, and every entry to its tile.
func (k *check) all(v *View) error {
	for level := maxLevel; level >= 0; level-- { // the highest is over the first entries
		if w := widthAt(level, k.c.Size); w > 0 {
			n := tilesAt(level, k.c.Size)
			h, err := k.d.hashes(level, n, w)
			if err != nil {
				return err
			}
			if err := k.under(level, n, h); err != nil {
				return err
			}
		}
	}
	for _, e := range v.tail {
		k.read(e)
	}
	if k.holes > k.r.Pruned {
		return fmt.Errorf("%w: entries are missing, the last of them ahead of %d, and the log says of those ahead of %d only that they were pruned", ErrBroken, k.holes, k.r.Pruned)
	}
	return nil
}

// under holds what is below a tile, whose hashes are known to be right, to it.
func (k *check) under(level int, n uint64, want []tlog.Hash) error {
	if level == 0 {
		return k.bundle(n, want)
	}
	for i, hash := range want {
		below := n*tileWidth + uint64(i)
		h, err := k.d.hashes(level-1, below, tileWidth)
		if err != nil {
			return err
		}
		if subtree(h) != hash {
			if level == 1 {
				return k.altered(below, h, hash)
			}
			return fmt.Errorf("%w: %s was altered: it is not what is above it", ErrBroken, tilePath(level-1, below, tileWidth))
		}
		if err := k.under(level-1, below, h); err != nil {
			return err
		}
	}
	return nil
}

// altered names what is wrong with a tile of entries' hashes that is not what is above it.
func (k *check) altered(n uint64, h []tlog.Hash, want tlog.Hash) error {
	entries, err := k.d.entries(n, len(h))
	if err != nil {
		return fmt.Errorf("%w: %s was altered: it is not what is above it", ErrBroken, tilePath(0, n, len(h)))
	}
	is := make([]tlog.Hash, len(h))
	for i, e := range entries {
		is[i] = tlog.RecordHash(e)
	}
	at := differ(is, h)
	if subtree(is) == want {
		return fmt.Errorf("%w: the hash of entry %d in %s was altered; the entry is as it was", ErrBroken, n*tileWidth+uint64(at), tilePath(0, n, len(h)))
	}
	if at < 0 {
		return fmt.Errorf("%w: entries among %d to %d were replaced, with their hashes", ErrBroken, n*tileWidth, n*tileWidth+uint64(len(h))-1)
	}
	return fmt.Errorf("%w: entry %d was altered, removed or moved", ErrBroken, n*tileWidth+uint64(at))
}

// bundle holds entries to their hashes.
func (k *check) bundle(n uint64, want []tlog.Hash) error {
	if err := k.ctx.Err(); err != nil {
		return err
	}
	first := n * tileWidth
	entries, err := k.d.entries(n, len(want))
	if errors.Is(err, fs.ErrNotExist) {
		k.holes = max(k.holes, first+uint64(len(want)))
		if k.archive == nil {
			k.r.Absent += uint64(len(want))
			return nil
		}
		if entries, err = k.archive.entries(n, len(want)); errors.Is(err, fs.ErrNotExist) {
			k.r.Absent += uint64(len(want))
			return nil
		}
	}
	if err != nil {
		return err
	}
	for i, e := range entries {
		if tlog.RecordHash(e) != want[i] {
			return fmt.Errorf("%w: entry %d was altered, removed or moved", ErrBroken, first+uint64(i))
		}
		k.read(e)
	}
	return nil
}

// read takes what the log says of itself out of an entry.
func (k *check) read(entry []byte) {
	o, ok := ownEntry(entry)
	if !ok {
		return
	}
	switch o.Log {
	case "dropped":
		k.r.Dropped += o.Count
	case "pruned":
		if o.Next != nil {
			k.r.Pruned = max(k.r.Pruned, *o.Next)
		}
	}
}

// ownEntry reads an entry that the log has made itself.
func ownEntry(entry []byte) (o own, ok bool) {
	if !bytes.Contains(entry, []byte(`"log"`)) {
		return o, false
	}
	err := json.Unmarshal(entry, &o)
	return o, err == nil && o.Log != ""
}

// bottomUp names the first entry or tile that is not as the tiles above it say, whatever the checkpoint.
func (k *check) bottomUp() error {
	for level := 0; level <= maxLevel; level++ {
		full, w := tilesAt(level, k.c.Size), widthAt(level, k.c.Size)
		for n := range full + 1 {
			if n == full {
				if w == 0 {
					break
				}
			} else {
				w = tileWidth
			}
			h, err := k.d.hashes(level, n, min(w, tileWidth))
			if err != nil {
				return err
			}
			if err := k.level(level, n, h); err != nil {
				return err
			}
			w = widthAt(level, k.c.Size)
		}
	}
	return nil
}

// level holds a tile to what is below it.
func (k *check) level(level int, n uint64, h []tlog.Hash) error {
	if level == 0 {
		return k.bundle(n, h)
	}
	for i := range h {
		below := n*tileWidth + uint64(i)
		b, err := k.d.hashes(level-1, below, tileWidth)
		if err != nil {
			return err
		}
		if subtree(b) != h[i] {
			return fmt.Errorf("%w: %s, or hash %d of %s, was altered", ErrBroken, tilePath(level-1, below, tileWidth), i, tilePath(level, n, len(h)))
		}
	}
	return nil
}

// since holds the log to a checkpoint that was kept elsewhere.
func (v *View) since(raw []byte) error {
	m, err := newMark(raw, v.keys)
	if err != nil {
		return err
	}
	if err := errOrigin(m.c.Origin, v.c.Origin); err != nil {
		return fmt.Errorf("%w: the checkpoint that was kept: %w", ErrBroken, err)
	}
	if m.c.Size <= v.c.Size {
		root, err := v.d.rootAt(v.c, m.c.Size)
		if err != nil {
			return err
		}
		return m.at(m.c.Size, func() tlog.Hash { return root })
	}
	e, err := loadEdge(v.d, v.c)
	if err != nil {
		return err
	}
	at := e.frontier()
	for _, entry := range v.tail {
		at.add(tlog.RecordHash(entry))
		if err := m.at(at.size, at.root); err != nil {
			return err
		}
	}
	return m.end(at.size)
}

// witnessed says which of the witnesses have not cosigned the published checkpoint.
func (v *View) witnessed(ws []PublicKey) error {
	for _, w := range ws {
		if !w.Witness {
			return fmt.Errorf("%s is the key of no witness", w)
		}
		if _, err := note.Open(v.note, verifiers([]PublicKey{w})); err != nil {
			return fmt.Errorf("%w: the witness %s has not cosigned the checkpoint of %d entries: %w", ErrBroken, w.Name, v.c.Size, err)
		}
	}
	return nil
}
