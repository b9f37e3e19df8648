package audit

import (
	"crypto/sha256"

	"golang.org/x/mod/sumdb/tlog"
)

// frontier is a tree as far as adding to it needs: the hashes of its perfect subtrees, the largest first, one for each bit of its size.
type frontier struct {
	size   uint64
	hashes []tlog.Hash
}

func (f *frontier) add(leaf tlog.Hash) {
	for n := f.size; n&1 == 1; n >>= 1 {
		last := len(f.hashes) - 1
		leaf = tlog.NodeHash(f.hashes[last], leaf)
		f.hashes = f.hashes[:last]
	}
	f.hashes = append(f.hashes, leaf)
	f.size++
}

// root is the hash of the tree (RFC 6962 section 2.1).
func (f *frontier) root() tlog.Hash {
	if f.size == 0 {
		return sha256.Sum256(nil)
	}
	h := f.hashes[len(f.hashes)-1]
	for i := len(f.hashes) - 2; i >= 0; i-- {
		h = tlog.NodeHash(f.hashes[i], h)
	}
	return h
}

// file is one that is to be written: its path in the log's folder, in slashes.
type file struct {
	path string
	data []byte
}

// edge is the right edge of a tree in tiles: the last, partial bundle, and the hashes of the last, partial tile of each level.
type edge struct {
	size   uint64
	bundle []byte
	tiles  [maxLevel + 1][]tlog.Hash
}

// add adds an entry, and is the files that it completes.
func (e *edge) add(entry []byte) (out []file) {
	e.bundle = appendEntry(e.bundle, entry)
	n := e.size / tileWidth
	e.size++
	if e.size%tileWidth == 0 {
		out = append(out, file{tilePath(-1, n, tileWidth), e.bundle})
		e.bundle = nil
	}
	h := tlog.RecordHash(entry)
	for level := range e.tiles {
		e.tiles[level] = append(e.tiles[level], h)
		if len(e.tiles[level]) < tileWidth {
			break
		}
		out = append(out, file{tilePath(level, n, tileWidth), join(e.tiles[level])})
		h, n = subtree(e.tiles[level]), n/tileWidth
		e.tiles[level] = e.tiles[level][:0]
	}
	return out
}

// partial is the files of what is not complete, but for tiles that are as they were in a tree of size before.
func (e *edge) partial(before uint64) (out []file) {
	if e.size == before {
		return nil
	}
	if w := widthAt(-1, e.size); w > 0 {
		out = append(out, file{tilePath(-1, tilesAt(-1, e.size), w), e.bundle[:len(e.bundle):len(e.bundle)]})
	}
	for level := range e.tiles {
		w := widthAt(level, e.size)
		if w == 0 || e.size>>(tileHeight*level) == before>>(tileHeight*level) {
			continue
		}
		out = append(out, file{tilePath(level, tilesAt(level, e.size), w), join(e.tiles[level])})
	}
	return out
}

// frontier is the tree that has this edge.
func (e *edge) frontier() frontier {
	f := frontier{size: e.size}
	for level := maxLevel; level >= 0; level-- {
		f.hashes = append(f.hashes, perfect(e.tiles[level])...)
	}
	return f
}

// perfect is the hashes of the perfect subtrees over hashes, the largest first.
func perfect(h []tlog.Hash) (out []tlog.Hash) {
	for w := tileWidth / 2; w > 0; w /= 2 {
		if len(h) >= w {
			out, h = append(out, subtree(h[:w])), h[w:]
		}
	}
	return out
}

func join(h []tlog.Hash) []byte {
	b := make([]byte, 0, len(h)*hashSize)
	for i := range h {
		b = append(b, h[i][:]...)
	}
	return b
}
