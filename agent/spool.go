package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// spool keeps profiles on disk while the server is away, oldest first, and
// finds those that an earlier run of the program left. It is a folder for the
// service with a folder for each running process, which that process holds a lock
// in; who starts takes over the folders that nobody holds.
//
//	<dir>/<service>-<hash>/<random>/lock
//	<dir>/<service>-<hash>/<random>/<sequence>.profile
//
// A file is a magic number, the length of a header, the header as JSON, the
// profile, and a checksum over all that (CRC-32C, little endian). It is written under
// another name and renamed, without fsync: what a power cut tears is seen by its
// checksum and dropped. One goroutine at a time.
type spool struct {
	root  string // the service's folder
	own   string // this process's; "" before the first item
	lock  *os.File
	limit int64

	entries []spooled // oldest first
	bytes   int64
	next    uint64 // sequence
	lost    int64  // dropped for want of room, or unreadable
}

type spooled struct {
	name string // in own
	size int64
}

// spoolHeader is what an item is beside its body.
type spoolHeader struct {
	Name   string `json:"name"`
	From   int64  `json:"from"` // Unix nanoseconds
	Until  int64  `json:"until"`
	Labels string `json:"labels"` // as a query
}

const (
	spoolMagic     = "QSPOOL1\n"
	spoolSuffix    = ".profile"
	spoolLock      = "lock"
	maxSpoolHeader = 64 << 10
	maxSpooled     = 64 << 20 // bytes of one file that are read
	maxSpoolFiles  = 100_000  // listed at the start
)

var (
	crcTable    = crc32.MakeTable(crc32.Castagnoli)
	errTorn     = errors.New("it is cut short or altered")
	errNoFolder = errors.New("there is no folder to write to")
)

// newSpool is the spool of a service below dir. Nothing is touched yet.
func newSpool(dir, service string, limit int64) *spool {
	h := fnv.New32a()
	h.Write([]byte(service))
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, service[:min(len(service), 60)])
	return &spool{root: filepath.Join(dir, fmt.Sprintf("%s-%08x", clean, h.Sum32())), limit: limit}
}

// adopt takes over what ended processes left. Problems leave it where it is.
func (s *spool) adopt() {
	if s == nil {
		return
	}
	folders, err := os.ReadDir(s.root)
	if err != nil {
		return // none yet, most often
	}
	for _, f := range folders {
		dir := filepath.Join(s.root, f.Name())
		if !f.IsDir() || dir == s.own {
			continue
		}
		lock, err := lockFolder(dir)
		if err != nil {
			continue // somebody's
		}
		s.takeOver(dir)
		lock.Close()
		os.Remove(filepath.Join(dir, spoolLock))
		os.Remove(dir) // where something is left in it, it stays
	}
}

func (s *spool) takeOver(dir string) {
	files, err := os.ReadDir(dir)
	if err != nil || len(files) > maxSpoolFiles {
		return
	}
	for _, f := range files { // sorted by name: by sequence
		if !strings.HasSuffix(f.Name(), spoolSuffix) {
			if f.Name() != spoolLock {
				os.Remove(filepath.Join(dir, f.Name())) // half written
			}
			continue
		}
		info, err := f.Info()
		if err != nil || !info.Mode().IsRegular() || s.open() != nil {
			continue
		}
		name := s.nextName()
		if os.Rename(filepath.Join(dir, f.Name()), filepath.Join(s.own, name)) == nil {
			s.entries = append(s.entries, spooled{name, info.Size()})
			s.bytes += info.Size()
		}
	}
	s.shed()
}

// open makes this process's folder where there is none yet.
func (s *spool) open() error {
	if s.own != "" {
		return nil
	}
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(s.root, "")
	if err != nil {
		return err
	}
	if s.lock, err = lockFolder(dir); err != nil {
		os.Remove(dir)
		return err
	}
	s.own = dir
	return nil
}

func (s *spool) nextName() string {
	s.next++
	return fmt.Sprintf("%020d%s", s.next, spoolSuffix)
}

// put writes an item behind all others. Past the bound the oldest go.
func (s *spool) put(i item) error {
	if s == nil {
		return errNoFolder
	}
	if err := s.open(); err != nil {
		return err
	}
	b, err := encodeSpooled(i)
	if err != nil {
		return err
	}
	name := s.nextName()
	half := filepath.Join(s.own, name+".half")
	err = os.WriteFile(half, b, 0o600)
	if errors.Is(err, fs.ErrNotExist) { // somebody cleaned up: begin anew
		s.lock.Close()
		s.lost += int64(len(s.entries))
		s.own, s.entries, s.bytes = "", nil, 0
		if err := s.open(); err != nil {
			return err
		}
		half = filepath.Join(s.own, name+".half")
		err = os.WriteFile(half, b, 0o600)
	}
	if err != nil {
		os.Remove(half)
		return err
	}
	if err := os.Rename(half, filepath.Join(s.own, name)); err != nil {
		os.Remove(half)
		return err
	}
	s.entries = append(s.entries, spooled{name, int64(len(b))})
	s.bytes += int64(len(b))
	s.shed()
	return nil
}

// shed drops the oldest until the bound holds.
func (s *spool) shed() {
	for s.bytes > s.limit && len(s.entries) > 0 {
		s.drop()
		s.lost++
	}
}

// head is the oldest item. What cannot be read is dropped and counted.
func (s *spool) head() (i item, ok bool) {
	for s != nil && len(s.entries) > 0 {
		i, err := readSpooled(filepath.Join(s.own, s.entries[0].name))
		if err == nil {
			return i, true
		}
		s.drop()
		s.lost++
	}
	return item{}, false
}

// waiting is what is there.
func (s *spool) waiting() []spooled {
	if s == nil {
		return nil
	}
	return s.entries
}

// drop removes the oldest item.
func (s *spool) drop() {
	os.Remove(filepath.Join(s.own, s.entries[0].name))
	s.bytes -= s.entries[0].size
	s.entries = s.entries[1:]
}

// close leaves what is there for the next run, and nothing where there is nothing.
func (s *spool) close() {
	if s == nil || s.own == "" {
		return
	}
	empty := len(s.entries) == 0
	s.lock.Close()
	if empty {
		os.Remove(filepath.Join(s.own, spoolLock))
		os.Remove(s.own)
		os.Remove(s.root) // the service's folder stays where another process uses it
	}
}

func encodeSpooled(i item) ([]byte, error) {
	h, err := json.Marshal(spoolHeader{Name: i.name, From: i.from.UnixNano(), Until: i.until.UnixNano(), Labels: i.labels})
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(spoolMagic)+8+len(h)+len(i.body))
	b = append(b, spoolMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(h)))
	b = append(append(b, h...), i.body...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crcTable)), nil
}

func readSpooled(file string) (item, error) {
	info, err := os.Lstat(file)
	if err != nil {
		return item{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSpooled {
		return item{}, fmt.Errorf("%s: %w", file, fs.ErrInvalid)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return item{}, err
	}
	return decodeSpooled(b)
}

func decodeSpooled(b []byte) (item, error) {
	least := len(spoolMagic) + 8
	if len(b) < least || string(b[:len(spoolMagic)]) != spoolMagic {
		return item{}, errTorn
	}
	end := len(b) - 4
	if crc32.Checksum(b[:end], crcTable) != binary.LittleEndian.Uint32(b[end:]) {
		return item{}, errTorn
	}
	n := int64(binary.LittleEndian.Uint32(b[len(spoolMagic):]))
	rest := b[len(spoolMagic)+4 : end]
	if n > maxSpoolHeader || n > int64(len(rest)) {
		return item{}, errTorn
	}
	var h spoolHeader
	if err := json.Unmarshal(rest[:n], &h); err != nil || h.Name == "" {
		return item{}, errTorn
	}
	return item{name: h.Name, from: time.Unix(0, h.From), until: time.Unix(0, h.Until), labels: h.Labels, body: slices.Clone(rest[n:])}, nil
}
