package broadcast

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

// The file of our own numbers: docs/format/envelope.md, "What is kept".
const (
	sequenceName    = "sequence"
	sequenceMagic   = "QLBS"
	sequenceVersion = 1
	sequenceSize    = 4 + 1 + 32 + 8 + 8 + 4
	// reserve is how many numbers are taken at once: what a crash may leave unused. A write for each 65,536 envelopes is one a minute at
	// a thousand envelopes a second.
	reserve = 1 << 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sequence gives out the numbers of our envelopes. On disk is always a number that none was given out above, so no number is ever given
// out twice, whatever happens between.
type sequence struct {
	fs   vfs.FS
	dir  string
	key  seal.PublicKey
	step uint64 // reserve, but for tests

	mu          sync.Mutex
	epoch       uint64
	next, limit uint64 // numbers from next up to and with limit may be given out
}

// openSequence goes on behind all numbers that were reserved, or begins an epoch where there are none of this key.
func openSequence(f vfs.FS, dir string, key seal.PublicKey, now time.Time, step uint64) (*sequence, error) {
	s := &sequence{fs: f, dir: dir, key: key, step: step}
	raw, err := readFile(f, filepath.Join(dir, sequenceName), sequenceSize)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		owner, epoch, limit, err := decodeSequence(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w; without it a new epoch is begun", filepath.Join(dir, sequenceName), err)
		}
		if owner == key {
			s.epoch, s.limit, s.next = epoch, limit, limit+1
			return s, nil
		}
	}
	s.epoch, s.next = uint64(max(now.UnixNano(), 1)), 1
	return s, s.more()
}

// take is the next number.
func (s *sequence) take() (epoch, n uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next > s.limit {
		if err := s.more(); err != nil {
			return 0, 0, fmt.Errorf("%w: numbers of messages cannot be reserved: %w", ErrUnavailable, err)
		}
	}
	s.next++
	return s.epoch, s.next - 1, nil
}

// more reserves numbers. If it fails none of them is given out, though they may be on disk.
func (s *sequence) more() error {
	limit := s.next + s.step - 1
	if err := replaceFile(s.fs, s.dir, sequenceName, encodeSequence(s.key, s.epoch, limit)); err != nil {
		return err
	}
	s.limit = limit
	return nil
}

func encodeSequence(key seal.PublicKey, epoch, limit uint64) []byte {
	b := append(make([]byte, 0, sequenceSize), sequenceMagic...)
	b = append(b, sequenceVersion)
	b = append(b, key[:]...)
	b = binary.BigEndian.AppendUint64(b, epoch)
	b = binary.BigEndian.AppendUint64(b, limit)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeSequence(raw []byte) (key seal.PublicKey, epoch, limit uint64, err error) {
	if len(raw) != sequenceSize || string(raw[:4]) != sequenceMagic || raw[4] != sequenceVersion ||
		binary.BigEndian.Uint32(raw[sequenceSize-4:]) != crc32.Checksum(raw[:sequenceSize-4], castagnoli) {
		return key, 0, 0, fmt.Errorf("%w: it is no file of numbers of version %d, or damaged", ErrCorrupt, sequenceVersion)
	}
	key = seal.PublicKey(raw[5:])
	epoch, limit = binary.BigEndian.Uint64(raw[37:]), binary.BigEndian.Uint64(raw[45:])
	if epoch == 0 || limit == 0 || limit > 1<<62 {
		return key, 0, 0, fmt.Errorf("%w: no epoch %d has the number %d", ErrCorrupt, epoch, limit)
	}
	return key, epoch, limit, nil
}

// readFile reads a file of at most limit bytes.
func readFile(f vfs.FS, name string, limit int64) (raw []byte, err error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	size, err := file.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%s: %w: %d bytes; %d are allowed", name, ErrCorrupt, size, limit)
	}
	raw = make([]byte, size)
	if _, err := io.ReadFull(file, raw); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return raw, nil
}

// replaceFile puts a file into place that is whole or not there: write, sync, rename, sync of the folder.
func replaceFile(f vfs.FS, dir, name string, raw []byte) (err error) {
	temp := filepath.Join(dir, name+".tmp")
	if err := f.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := f.Create(temp)
	if err != nil {
		return err
	}
	if _, err = file.Write(raw); err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := f.Rename(temp, filepath.Join(dir, name)); err != nil {
		return err
	}
	return f.SyncDir(dir)
}
