package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/quantra-l/quantra/internal/vfs"
)

// The log ahead of the tiles: what was committed, one record a batch, until tiles have it.
const (
	walHeader  = 16      // bytes: magic, size of the body, CRC-32C of the body, of the eight before it
	walFixed   = 16      // bytes of a body ahead of its note: first index, count, size of the note
	walSegment = 8 << 20 // bytes after which a new file is begun
	maxRecord  = 8 << 20 // bytes of a body: one batch, with room for one entry more
)

// walMagic cannot be in an entry, which is UTF-8: so what a torn record leaves is never taken for one that follows.
var walMagic = [4]byte{0xD5, 'Q', 'A', 1}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is one batch: entries, and the checkpoint of the tree that has them.
type record struct {
	first   uint64
	count   int
	note    []byte // the signed checkpoint
	entries []byte // as in a bundle
}

func (r *record) next() uint64 { return r.first + uint64(r.count) }

func (r *record) encode() []byte {
	b := make([]byte, walHeader, walHeader+walFixed+len(r.note)+len(r.entries))
	b = binary.LittleEndian.AppendUint64(b, r.first)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.count))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.note)))
	b = append(append(b, r.note...), r.entries...)
	copy(b, walMagic[:])
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-walHeader))
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b[walHeader:], castagnoli))
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b[:12], castagnoli))
	return b
}

// errTorn says that there is no whole record: it was never written to its end, or was damaged.
var errTorn = errors.New("no whole record")

// decodeRecord reads the record that b begins with, and is how many bytes it has. What it has shares b's memory.
func decodeRecord(b []byte) (r record, size int, err error) {
	if len(b) < walHeader || !bytes.Equal(b[:4], walMagic[:]) || binary.LittleEndian.Uint32(b[12:]) != crc32.Checksum(b[:12], castagnoli) {
		return r, 0, errTorn
	}
	n := int64(binary.LittleEndian.Uint32(b[4:]))
	if n < walFixed || n > maxRecord || n > int64(len(b)-walHeader) {
		return r, 0, errTorn
	}
	body := b[walHeader : walHeader+n]
	if binary.LittleEndian.Uint32(b[8:]) != crc32.Checksum(body, castagnoli) {
		return r, 0, errTorn
	}
	r.first, r.count = binary.LittleEndian.Uint64(body), int(binary.LittleEndian.Uint32(body[8:]))
	notes := int64(binary.LittleEndian.Uint32(body[12:]))
	if notes > n-walFixed || r.first > 1<<62 || int64(r.count) > n/2 {
		return r, 0, errTorn
	}
	r.note, r.entries = body[walFixed:walFixed+notes], body[walFixed+notes:]
	return r, walHeader + int(n), nil
}

func segmentPath(dir string, n uint64) string {
	return filepath.Join(dir, walDir, fmt.Sprintf("%016d", n))
}

// segments is the numbers of the files of the log, in order.
func segments(f vfs.FS, dir string) (out []uint64, err error) {
	names, err := f.List(filepath.Join(dir, walDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	for _, name := range names {
		n, err := strconv.ParseUint(name, 10, 64)
		if err != nil || segmentPath(dir, n) != filepath.Join(dir, walDir, name) {
			return nil, fmt.Errorf("%w: %s is no file of this log", ErrBroken, filepath.Join(dir, walDir, name))
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

// replay gives the records of a log in order, from the one that has entry from. What a crash or a failed write left is passed over:
// the end of a file that has no whole record, and a record that was written twice.
func replay(f vfs.FS, dir string, from uint64, each func(record) error) error {
	segs, err := segments(f, dir)
	if err != nil {
		return err
	}
	next, last := from, []byte(nil)
	for _, seg := range segs {
		name := segmentPath(dir, seg)
		b, err := readFile(f, name, walSegment+walHeader+maxRecord)
		if err != nil {
			return err
		}
		for len(b) > 0 {
			r, size, err := decodeRecord(b)
			if err != nil {
				if follows(b[1:], next) {
					return fmt.Errorf("%w: entry %d, or its record in %s, was damaged: records follow it", ErrBroken, next, name)
				}
				break
			}
			raw := b[:size]
			b = b[size:]
			switch {
			case r.first > next:
				return fmt.Errorf("%w: entries %d to %d are missing: %s goes on behind them", ErrBroken, next, r.first-1, name)
			case r.next() <= from || bytes.Equal(raw, last):
				continue // tiles have it, or it was tried again in another file
			case r.first < next && next > from:
				return fmt.Errorf("%w: entry %d is there twice, the second time in %s", ErrBroken, r.first, name)
			case r.first < next:
				return fmt.Errorf("%w: entry %d in %s is behind a checkpoint that was made in the middle of its batch", ErrBroken, r.first, name)
			}
			if err := each(r); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			next, last = r.next(), raw
		}
	}
	return nil
}

// follows says that in b is a whole record that is not of what came before entry next. It looks at some places only: more than a few
// that look like records and are none were put there.
func follows(b []byte, next uint64) bool {
	for range 1000 {
		at := bytes.Index(b, walMagic[:])
		if at < 0 {
			return false
		}
		if r, _, err := decodeRecord(b[at:]); err == nil && r.next() > next {
			return true
		}
		b = b[at+1:]
	}
	return true
}

// readFile is a whole file of at most limit bytes.
func readFile(f vfs.FS, name string, limit int64) ([]byte, error) {
	r, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: %s has more than %d bytes", ErrBroken, name, limit)
	}
	return b, err
}
