package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quantra-l/quantra/internal/vfs"
)

// folder reads the tiles of a log.
type folder struct {
	fs  vfs.FS
	dir string
}

// tile is the bytes of a tile, or of a bundle (level -1), of w hashes or entries. The full one does for a partial one, which goes away
// when the full one is there; for a bundle of w entries the caller must cut it.
func (d folder) tile(level int, n uint64, w int) ([]byte, error) {
	limit := int64(maxBundle)
	if level >= 0 {
		limit = tileWidth * hashSize
	}
	b, err := readFile(d.fs, filepath.Join(d.dir, filepath.FromSlash(tilePath(level, n, w))), limit)
	if errors.Is(err, fs.ErrNotExist) && w < tileWidth {
		b, err = readFile(d.fs, filepath.Join(d.dir, filepath.FromSlash(tilePath(level, n, tileWidth))), limit)
		if err == nil && level >= 0 && len(b) > w*hashSize {
			b = b[:w*hashSize]
		}
	}
	return b, err
}

// hashes are those of a tile.
func (d folder) hashes(level int, n uint64, w int) ([]tlog.Hash, error) {
	b, err := d.tile(level, n, w)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing", ErrBroken, tilePath(level, n, w))
	} else if err != nil {
		return nil, err
	}
	h, err := splitTile(b, w)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBroken, tilePath(level, n, w), err)
	}
	return h, nil
}

// entries are the w first of bundle n. Where there is no bundle it is fs.ErrNotExist.
func (d folder) entries(n uint64, w int) ([][]byte, error) {
	b, err := d.tile(-1, n, w)
	if err != nil {
		return nil, err
	}
	out, err := splitBundle(b, w)
	if err != nil && w < tileWidth {
		if all, aerr := splitBundle(b, tileWidth); aerr == nil {
			return all[:w], nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s, of entries from %d on: %w", ErrBroken, tilePath(-1, n, w), n*tileWidth, err)
	}
	return out, nil
}

// loadEdge reads the right edge of a tree, and holds it to its checkpoint.
func loadEdge(d folder, c Checkpoint) (e edge, err error) {
	e.size = c.Size
	for level := range e.tiles {
		if w := widthAt(level, c.Size); w > 0 {
			if e.tiles[level], err = d.hashes(level, tilesAt(level, c.Size), w); err != nil {
				return e, err
			}
		}
	}
	if at := e.frontier(); at.root() != c.Root {
		return e, fmt.Errorf("%w: its last tiles are not those of its checkpoint of %d entries", ErrBroken, c.Size)
	}
	w := widthAt(-1, c.Size)
	if w == 0 {
		return e, nil
	}
	entries, err := d.entries(tilesAt(-1, c.Size), w)
	if errors.Is(err, fs.ErrNotExist) {
		return e, fmt.Errorf("%w: entries %d to %d are missing", ErrBroken, c.Size-uint64(w), c.Size-1)
	} else if err != nil {
		return e, err
	}
	for i, entry := range entries {
		if tlog.RecordHash(entry) != e.tiles[0][i] {
			return e, fmt.Errorf("%w: entry %d was altered", ErrBroken, c.Size-uint64(w)+uint64(i))
		}
		e.bundle = appendEntry(e.bundle, entry)
	}
	return e, nil
}

// tiles is a folder as package tlog reads it: tiles that are held to a checkpoint's hash before they are used.
type tiles struct{ folder }

// Height is of tlog.TileReader.
func (tiles) Height() int { return tileHeight }

// SaveTiles is of tlog.TileReader.
func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// ReadTiles is of tlog.TileReader.
func (d tiles) ReadTiles(want []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(want))
	for i, t := range want {
		h, err := d.hashes(t.L, uint64(t.N), t.W)
		if err != nil {
			return nil, err
		}
		out[i] = join(h)
	}
	return out, nil
}

// reader is the hashes of the tree that c is of.
func (d folder) reader(c Checkpoint) tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: int64(c.Size), Hash: c.Root}, tiles{d})
}

// rootAt is the hash of the tree of the first size entries of a log.
func (d folder) rootAt(c Checkpoint, size uint64) (tlog.Hash, error) {
	if size == 0 {
		return (&frontier{}).root(), nil
	}
	h, err := tlog.TreeHash(int64(size), d.reader(c))
	return h, broken(err)
}

// broken makes what tlog says of tiles that are not those of a tree an [ErrBroken].
func broken(err error) error {
	if err == nil || errors.Is(err, ErrBroken) {
		return err
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrBroken, err)
}

// differ says where two lists of hashes differ; -1 is nowhere.
func differ(a, b []tlog.Hash) int {
	for i := range min(len(a), len(b)) {
		if !bytes.Equal(a[i][:], b[i][:]) {
			return i
		}
	}
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	return -1
}
