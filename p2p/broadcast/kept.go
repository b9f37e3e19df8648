package broadcast

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"path/filepath"
	"time"

	"github.com/quantra-l/quantra/seal"
)

// The file of authors: docs/format/envelope.md, "What is kept".
const (
	authorsName    = "authors"
	authorsMagic   = "QLBW"
	authorsVersion = 1
	authorsHead    = 4 + 1 + 1 + 2 + 4
	authorsEntry   = 32 + 8 + 8 + 8
	// maxKept is how many authors a file has at most: what Options.Authors can be.
	maxKept = 1 << 20

	// keepEvery is how often what was taken is put on disk.
	keepEvery = 2 * time.Second
	// keepSlack is what a crash may have forgotten, in the authors' own time: two keepEvery, and a second for the disk. What was signed up to
	// so much later than the last that is on disk is refused after a crash.
	keepSlack = 2*keepEvery + time.Second
)

// keptAuthor is what is on disk of an author.
type keptAuthor struct {
	key         seal.PublicKey
	epoch, high uint64
	latest      int64
}

// encodeAuthors is the file. Clean says that it was written at the end of a run, so that nothing is missing in it.
func encodeAuthors(clean bool, all []keptAuthor) []byte {
	b := append(make([]byte, 0, authorsHead+len(all)*authorsEntry+4), authorsMagic...)
	b = append(b, authorsVersion, 0, 0, 0)
	if clean {
		b[5] = 1
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(all)))
	for _, a := range all {
		b = append(b, a.key[:]...)
		b = binary.BigEndian.AppendUint64(b, a.epoch)
		b = binary.BigEndian.AppendUint64(b, a.high)
		b = binary.BigEndian.AppendUint64(b, uint64(a.latest))
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeAuthors(raw []byte) (clean bool, all []keptAuthor, err error) {
	bad := func(format string, args ...any) (bool, []keptAuthor, error) {
		return false, nil, fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
	if len(raw) < authorsHead+4 || string(raw[:4]) != authorsMagic || raw[4] != authorsVersion || raw[5] > 1 || raw[6] != 0 || raw[7] != 0 {
		return bad("it is no file of authors of version %d", authorsVersion)
	}
	n := int(binary.BigEndian.Uint32(raw[8:]))
	body := raw[authorsHead : len(raw)-4]
	if n > maxKept || len(body) != n*authorsEntry {
		return bad("it says %d authors, and has bytes for %d", n, len(body)/authorsEntry)
	}
	if binary.BigEndian.Uint32(raw[len(raw)-4:]) != crc32.Checksum(raw[:len(raw)-4], castagnoli) {
		return bad("its checksum is of other bytes")
	}
	all = make([]keptAuthor, n)
	for i := range all {
		e := body[i*authorsEntry:]
		all[i] = keptAuthor{seal.PublicKey(e), binary.BigEndian.Uint64(e[32:]), binary.BigEndian.Uint64(e[40:]), int64(binary.BigEndian.Uint64(e[48:]))}
		if all[i].latest < 0 {
			return bad("author %d was last heard before 1970", i)
		}
	}
	return raw[5] == 1, all, nil
}

// load fills the table with what the last run has kept, and marks the file as that of a run that has not ended: whatever is taken from now
// on, a crash finds the mark. A file that is damaged is as one that a crash left without any author.
func (s *Service) load() error {
	name := filepath.Join(s.o.Dir, authorsName)
	raw, err := readFile(s.o.FS, name, authorsHead+4+maxKept*authorsEntry)
	if errors.Is(err, fs.ErrNotExist) {
		return s.keep(false)
	}
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return err
	}
	now := s.o.Now()
	clean, all := false, []keptAuthor(nil)
	if err == nil {
		clean, all, err = decodeAuthors(raw)
	}
	if err != nil {
		s.o.Log.Warn("broadcast: what was known of authors is lost: messages signed before now are refused", "file", name, "error", err)
	}
	t := s.authors
	if !clean || len(all) > t.most {
		t.barred = now.UnixNano()
	}
	for _, k := range all {
		if len(t.all) >= t.most {
			break
		}
		a := &author{seen: now}
		a.window = window{epoch: k.epoch, high: k.high, floor: k.high, latest: k.latest}
		if !clean {
			a.window.barred = k.latest + min(int64(keepSlack), math.MaxInt64-k.latest)
		}
		t.all[k.key] = a
		t.by[a.via]++
	}
	return s.keep(false)
}

// keep writes the table, if something was taken since it was last written, or it is the end or the beginning.
func (s *Service) keep(clean bool) error {
	t := s.authors
	t.mu.Lock()
	all := make([]keptAuthor, 0, len(t.all))
	for key, a := range t.all {
		a.mu.Lock()
		all = append(all, keptAuthor{key, a.window.epoch, a.window.high, a.window.latest})
		a.mu.Unlock()
	}
	t.dirty = false
	t.mu.Unlock()
	err := replaceFile(s.o.FS, s.o.Dir, authorsName, encodeAuthors(clean, all))
	if err != nil {
		t.touch()
		return fmt.Errorf("%w: what was received cannot be kept: %w", ErrUnavailable, err)
	}
	return nil
}
