package audit

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"
)

// Sizes of the format (C2SP tlog-tiles).
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight // hashes of a tile, entries of a bundle
	hashSize   = tlog.HashSize

	// MaxEntry bounds an entry in bytes: its length has 16 bits in a bundle.
	MaxEntry = 1<<16 - 1
	// maxBundle is the size of the largest bundle there can be.
	maxBundle = tileWidth * (2 + MaxEntry)
	// maxLevel is the last level of tiles: 256^8 entries are more than there can be.
	maxLevel = 7
)

// The names in a log's folder, beside the tiles.
const (
	checkpointFile = "checkpoint"
	keysDir        = "keys"
	walDir         = "wal"
	lockFile       = "LOCK"
)

// tilePath is the path of tile n of a level, of w hashes, in slashes. Level -1 is the bundles of entries.
func tilePath(level int, n uint64, w int) string {
	l := "entries"
	if level >= 0 {
		l = strconv.Itoa(level)
	}
	path := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		path = fmt.Sprintf("x%03d/%s", n%1000, path)
	}
	path = "tile/" + l + "/" + path
	if w != tileWidth {
		path += ".p/" + strconv.Itoa(w)
	}
	return path
}

// widthAt is how many hashes the last, partial tile of a level has in a tree of size entries; 0 is that there is none.
func widthAt(level int, size uint64) int {
	return int(size >> (tileHeight * max(level, 0)) % tileWidth)
}

// tilesAt is how many full tiles a level has.
func tilesAt(level int, size uint64) uint64 {
	return size >> (tileHeight * (max(level, 0) + 1))
}

// appendEntry adds an entry to a bundle.
func appendEntry(b, entry []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(entry)))
	return append(b, entry...)
}

// splitBundle is the entries of a bundle, which must be want many and nothing else. They share b's memory.
func splitBundle(b []byte, want int) ([][]byte, error) {
	out := make([][]byte, 0, max(0, min(want, len(b)/2))) // on 32 bits a count of a record may come out below 0
	for len(b) > 0 {
		if len(b) < 2 {
			return nil, fmt.Errorf("it ends in the length of entry %d", len(out))
		}
		n := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; len(b) < n {
			return nil, fmt.Errorf("it ends in entry %d: %d bytes of %d", len(out), len(b), n)
		}
		if len(out) == want {
			return nil, fmt.Errorf("it has more than %d entries", want)
		}
		out, b = append(out, b[:n:n]), b[n:]
	}
	if len(out) != want {
		return nil, fmt.Errorf("it has %d entries, not %d", len(out), want)
	}
	return out, nil
}

// splitTile is the hashes of a tile, which must be want many.
func splitTile(b []byte, want int) ([]tlog.Hash, error) {
	if len(b) != want*hashSize {
		return nil, fmt.Errorf("it has %d bytes, not %d", len(b), want*hashSize)
	}
	out := make([]tlog.Hash, want)
	for i := range out {
		copy(out[i][:], b[i*hashSize:])
	}
	return out, nil
}

// subtree is the hash of a full tree over hashes, whose count is a power of two.
func subtree(h []tlog.Hash) tlog.Hash {
	if len(h) == 1 {
		return h[0]
	}
	return tlog.NodeHash(subtree(h[:len(h)/2]), subtree(h[len(h)/2:]))
}
