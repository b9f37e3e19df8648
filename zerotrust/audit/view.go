package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quantra-l/quantra/internal/vfs"
)

// View is a log to read, as it was when it was opened: what tiles have, and behind it what is in records only. It takes no lock, so the
// log may be written meanwhile.
type View struct {
	d     folder
	trust []PublicKey
	keys  []PublicKey // the chain that the log has
	note  []byte
	c     Checkpoint // of the tiles
	tail  [][]byte   // entries behind them
	last  []byte     // the checkpoint of all of it
	lastC Checkpoint
}

// Record is an entry with its place.
type Record struct {
	Index Index
	Entry []byte
}

// OpenView opens a log to read. Its checkpoint must be signed by a key in trust, or by one that follows from it in the log's own list of
// keys. With none in trust the keys are those that the log itself names: it is held to itself only.
func OpenView(f vfs.FS, dir string, trust []PublicKey) (*View, error) {
	var err error
	// A server that goes on meanwhile removes records when they are in tiles: then the checkpoint is a newer one.
	for range 20 {
		var v *View
		if v, err = openView(f, dir, trust); err == nil {
			return v, nil
		}
		raw, rerr := readFile(f, filepath.Join(dir, checkpointFile), maxNote)
		if v == nil || rerr != nil || string(raw) == string(v.note) {
			break
		}
	}
	return nil, fmt.Errorf("audit: %s: %w", dir, err)
}

// openView is a view also with an error, if it has a checkpoint.
func openView(f vfs.FS, dir string, trust []PublicKey) (*View, error) {
	v := &View{d: folder{f, dir}, trust: trust}
	var err error
	if v.keys, err = readKeys(f, dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no audit log: %w", err)
	} else if err != nil {
		return nil, err
	}
	if v.note, err = readFile(f, filepath.Join(dir, checkpointFile), maxNote); err != nil {
		return nil, err
	}
	good := v.good()
	if good == nil {
		return nil, fmt.Errorf("%w: the log names %s, which does not follow from the key that is trusted", ErrKey, v.keys[0])
	}
	if v.c, _, err = openCheckpoint(v.note, v.good()); err == nil {
		err = errOrigin(v.c.Origin, v.keys[0].Name)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBroken, checkpointFile, err)
	}
	v.last, v.lastC = v.note, v.c
	e, err := loadEdge(v.d, v.c)
	if err != nil {
		return v, err
	}
	at := e.frontier()
	err = replay(f, dir, v.c.Size, func(r record) error {
		err := addRecord(&at, r, v.good(), v.c.Origin, func(uint64, func() tlog.Hash) error { return nil })
		if err != nil {
			return err
		}
		entries, err := splitBundle(r.entries, r.count)
		v.tail = append(v.tail, entries...)
		v.last, v.lastC = r.note, Checkpoint{v.c.Origin, at.size, at.root()}
		return err
	})
	return v, err
}

// good is the part of the chain of keys that is trusted.
func (v *View) good() []PublicKey { return trusted(v.keys, v.trust) }

// Size is how many entries there are.
func (v *View) Size() Index { return Index(v.lastC.Size) }

// Checkpoint is that of all there is; Published that of what is in tiles, as a note.
func (v *View) Checkpoint() Checkpoint { return v.lastC }

// Published is the note of the checkpoint that tiles have.
func (v *View) Published() []byte { return v.note }

// Keys are those of the log, the first one first.
func (v *View) Keys() []PublicKey { return v.keys }

// Trusted says that a key from outside vouches for the log.
func (v *View) Trusted() bool { return len(v.trust) > 0 }

// Entries are those from index from on. An entry whose bundle was pruned is left out. Each bundle is held to the tree before it is
// given: an error ends it, and is [ErrBroken] with the index if an entry is not what was written.
func (v *View) Entries(ctx context.Context, from Index) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for n := uint64(from) / tileWidth; n*tileWidth < v.c.Size; n++ {
			if err := ctx.Err(); err != nil {
				yield(Record{}, err)
				return
			}
			entries, err := v.bundle(n)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				yield(Record{}, fmt.Errorf("audit: %s: %w", v.d.dir, err))
				return
			}
			for i, e := range entries {
				if at := Index(n*tileWidth) + Index(i); at >= from && !yield(Record{at, e}, nil) {
					return
				}
			}
		}
		for i, e := range v.tail {
			if at := Index(v.c.Size) + Index(i); at >= from && !yield(Record{at, e}, nil) {
				return
			}
		}
	}
}

// bundle is the entries of bundle n, held to the tree.
func (v *View) bundle(n uint64) ([][]byte, error) {
	first := n * tileWidth
	w := int(min(tileWidth, v.c.Size-first))
	entries, err := v.d.entries(n, w)
	if err != nil {
		return nil, err
	}
	indexes := make([]int64, w)
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(0, int64(first)+int64(i))
	}
	want, err := v.d.reader(v.c).ReadHashes(indexes)
	if err != nil {
		return nil, broken(err)
	}
	for i, e := range entries {
		if tlog.RecordHash(e) != want[i] {
			return nil, fmt.Errorf("%w: entry %d was altered, removed or moved", ErrBroken, first+uint64(i))
		}
	}
	return entries, nil
}
