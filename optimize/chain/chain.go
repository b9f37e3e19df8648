// Package chain is an audit log that shows when it was changed: JSON lines, each with its own number and the SHA-256 of the line before,
// and beside them a file of heads with the hash of each line. What Append has returned is on disk. The bytes are drawn in
// docs/format/audit.md.
package chain

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/quantra-l/quantra/internal/vfs"
)

// ErrBroken says that the log is not what was written: the text names the line. Nothing is appended to such a log.
var ErrBroken = errors.New("the audit log is broken")

// MaxLine bounds a line, in bytes.
const MaxLine = 1 << 20

// line is a line's form. Entry is the caller's.
type line struct {
	N     int64           `json:"n"`    // counts from 1
	Prev  string          `json:"prev"` // the SHA-256 of the line before, without its end; of the first line zeros
	Entry json.RawMessage `json:"entry"`
}

// zeros is what the first line has in place of a hash.
var zeros = strings.Repeat("0", 2*sha256.Size)

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// headsOf is the name of the file of heads of a log.
func headsOf(name string) string { return name + ".heads" }

// Report is what was found in a log.
type Report struct {
	Lines int64
	// Head is the SHA-256 of the last line: whoever keeps it elsewhere can show later that nothing up to it was changed.
	Head string
	// Torn says that behind the last line is the beginning of one that was never acknowledged, as a crash leaves it.
	Torn bool

	size, heads int64 // bytes of both files that are good
	ahead       bool  // the last line has no head yet
}

// Anchor is the number and the hash of a line, kept elsewhere.
type Anchor struct {
	N    int64
	Hash string
}

// ParseAnchors reads an anchor as N:HASH; "" is none.
func ParseAnchors(s string) ([]Anchor, error) {
	if s == "" {
		return nil, nil
	}
	n, hash, _ := strings.Cut(s, ":")
	a := Anchor{Hash: strings.ToLower(hash)}
	var err error
	if a.N, err = strconv.ParseInt(n, 10, 64); err != nil || a.N < 0 || len(hash) != len(zeros) {
		return nil, errors.New("it must be a line's number, a colon and the 64 digits of its hash")
	}
	return []Anchor{a}, nil
}

// Verify reads a log and its heads. An error that is [ErrBroken] names the first line that was altered, removed or moved, or that an
// anchor has otherwise.
func Verify(f vfs.FS, name string, anchors ...Anchor) (r Report, err error) {
	log, err := f.Open(name)
	if err != nil {
		return r, fmt.Errorf("chain: %w", err)
	}
	defer log.Close()
	heads, err := f.Open(headsOf(name))
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("chain: %s: %w: the file of its heads, %s, is missing", name, ErrBroken, headsOf(name))
	} else if err != nil {
		return r, fmt.Errorf("chain: %w", err)
	}
	defer heads.Close()
	r, err = verify(log, heads, anchors)
	if err != nil {
		err = fmt.Errorf("chain: %s: %w", name, err)
	}
	return r, err
}

// verify reads both in step: head n is the hash of line n. Of the log one line more may be there than heads, whole or torn: a crash
// between the two.
func verify(log, heads io.Reader, anchors []Anchor) (r Report, err error) {
	lines, sums := bufio.NewReaderSize(log, MaxLine+1), bufio.NewReaderSize(heads, 256)
	r.Head = zeros
	defer func() {
		for _, a := range anchors {
			switch {
			case err != nil:
			case a.N > r.Lines:
				err = fmt.Errorf("%w: line %d, which was there, is missing: it has %d", ErrBroken, a.N, r.Lines)
			case a.N == r.Lines && a.Hash != r.Head: // a last line whose head a crash has left out
				err = fmt.Errorf("%w: line %d has another hash than it had", ErrBroken, a.N)
			}
		}
	}()
	for {
		for _, a := range anchors {
			if a.N == r.Lines && a.Hash != r.Head {
				return r, fmt.Errorf("%w: line %d has another hash than it had: it or one before it was altered", ErrBroken, a.N)
			}
		}
		n := r.Lines + 1
		broken := func(format string, args ...any) (Report, error) {
			return r, fmt.Errorf("%w: line %d %s", ErrBroken, n, fmt.Sprintf(format, args...))
		}
		head, err := next(sums)
		if err != nil {
			return r, err
		}
		b, err := next(lines)
		if err != nil {
			return r, err
		}
		acknowledged := strings.HasSuffix(string(head), "\n")
		if !acknowledged {
			return last(r, b, lines)
		}
		if len(b) == 0 || b[len(b)-1] != '\n' {
			return broken("is missing, or its end is: the heads have it")
		}
		b = b[:len(b)-1]
		l, why := parse(b, n, r.Head)
		is := sum(b)
		switch want := fmt.Sprintf("%d %s\n", n, is); {
		case string(head) == want && why != "":
			return broken("%s", why) // and its head with it
		case why != "":
			return broken("was altered, removed or moved: %s", why)
		case string(head) != want:
			return broken("was altered: its head is another")
		}
		r.Lines, r.Head = l.N, is
		r.size += int64(len(b)) + 1
		r.heads += int64(len(head))
	}
}

// last is what is behind the last head: nothing, a whole line that a crash left without its head, or the beginning of one.
func last(r Report, b []byte, lines *bufio.Reader) (Report, error) {
	if len(b) == 0 {
		return r, nil
	}
	b = bytes.Clone(b) // reading on takes its memory
	if more, err := lines.Peek(1); err == nil && len(more) > 0 && b[len(b)-1] == '\n' && bytes.IndexByte(b, 0) < 0 {
		// A crash leaves one line at most. After zeros in place of its bytes anything may follow.
		return r, fmt.Errorf("%w: line %d and those behind it have no heads: the end of the heads was removed", ErrBroken, r.Lines+1)
	}
	if b[len(b)-1] == '\n' && bytes.IndexByte(b, 0) < 0 {
		_, why := parse(b[:len(b)-1], r.Lines+1, r.Head)
		if why != "" {
			return r, fmt.Errorf("%w: line %d was added: %s", ErrBroken, r.Lines+1, why)
		}
		r.Lines, r.Head, r.ahead = r.Lines+1, sum(b[:len(b)-1]), true
		r.size += int64(len(b))
		return r, nil
	}
	r.Torn = true
	return r, nil
}

// next is the next line with its end; without one it is the last, and empty at the end.
func next(r *bufio.Reader) ([]byte, error) {
	b, err := r.ReadSlice('\n')
	switch {
	case err == nil, err == io.EOF:
		return b, nil
	case errors.Is(err, bufio.ErrBufferFull):
		return b, nil // longer than any line that was written: it has no end, and so is no line
	}
	return nil, err
}

// parse says why b is not line n behind one with the hash prev; "" is that it is.
func parse(b []byte, n int64, prev string) (l line, why string) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	switch err := dec.Decode(&l); {
	case err != nil:
		return l, "it is no line of this log"
	case dec.InputOffset() != int64(len(b)):
		return l, "something is behind it"
	case l.N != n:
		return l, fmt.Sprintf("its number is %d", l.N)
	case l.Prev != prev:
		return l, "it has the hash of another line before it"
	case len(l.Entry) == 0:
		return l, "it has no entry"
	}
	return l, ""
}

// Log is a log that is open to append. Many goroutines may; one process at a time.
type Log struct {
	fs   vfs.FS
	name string

	mu         sync.Mutex
	log, heads vfs.File
	r          Report // of what is acknowledged
	dirty      bool   // a write failed: what is behind the acknowledged must go first
}

// Open opens a log, which is made if there is none, and reads all of it. What a crash left of a line that was never acknowledged is
// cut off. A log that is [ErrBroken] is not opened.
func Open(f vfs.FS, name string) (*Log, error) {
	l := &Log{fs: f, name: name}
	if err := l.create(); err != nil {
		return nil, fmt.Errorf("chain: %s: %w", name, err)
	}
	var err error
	if l.r, err = Verify(f, name); err != nil {
		return nil, err
	}
	if err := l.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("chain: %s: %w", name, err), l.Close())
	}
	return l, nil
}

func (l *Log) open() (err error) {
	if l.log, err = l.fs.Append(l.name); err != nil {
		return err
	}
	if l.heads, err = l.fs.Append(headsOf(l.name)); err != nil {
		return err
	}
	if err := l.cut(); err != nil {
		return err
	}
	return l.catchUp()
}

// create makes both files, the heads first: a log without heads is a broken one. A folder is synced before what is in it counts.
func (l *Log) create() error {
	for _, name := range []string{headsOf(l.name), l.name} {
		if name != l.name {
			if _, err := l.fs.Stat(l.name); err == nil {
				continue // its heads must be there, or are missed
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		f, err := l.fs.Create(name)
		if errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close(), l.fs.SyncDir(filepath.Dir(name))); err != nil {
			return err
		}
	}
	return nil
}

// cut removes what is behind what is acknowledged, of both files.
func (l *Log) cut() error {
	for _, c := range []struct {
		f    vfs.File
		size int64
	}{{l.log, l.r.size}, {l.heads, l.r.heads}} {
		switch size, err := c.f.Size(); {
		case err != nil:
			return err
		case size > c.size:
			if err := errors.Join(c.f.Truncate(c.size), c.f.Sync()); err != nil {
				return err
			}
		}
	}
	l.r.Torn = false
	return nil
}

// catchUp writes the head of a line that a crash left without. The line itself may be in memory only: its writer ended before it knew.
func (l *Log) catchUp() error {
	if !l.r.ahead {
		return nil
	}
	if err := l.log.Sync(); err != nil {
		return err
	}
	l.r.ahead = false
	return write(l.heads, fmt.Appendf(nil, "%d %s\n", l.r.Lines, l.r.Head), &l.r.heads)
}

// write appends b, durably, and counts it.
func write(f vfs.File, b []byte, size *int64) error {
	if n, err := f.Write(b); err != nil || n < len(b) {
		return errors.Join(err, io.ErrShortWrite)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	*size += int64(len(b))
	return nil
}

// Append writes an entry, as JSON. When it returns nil the entry is on disk, and so are all before it. After an error it is not in the
// log, and the next call begins where that one did.
func (l *Log) Append(entry any) error {
	raw, err := json.Marshal(entry)
	if err != nil {
		return fmt.Errorf("chain: %s: %w", l.name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b, err := json.Marshal(line{N: l.r.Lines + 1, Prev: l.r.Head, Entry: raw})
	switch {
	case err != nil:
		return fmt.Errorf("chain: %s: %w", l.name, err)
	case len(b) >= MaxLine:
		return fmt.Errorf("chain: %s: an entry of %d bytes; a line has at most %d", l.name, len(raw), MaxLine)
	case l.log == nil:
		return fmt.Errorf("chain: %s: it is closed", l.name)
	}
	if l.dirty {
		if err := l.cut(); err != nil {
			return fmt.Errorf("chain: %s: %w", l.name, err)
		}
		l.dirty = false
	}
	next := l.r
	next.Lines, next.Head = next.Lines+1, sum(b)
	if err := write(l.log, append(b, '\n'), &next.size); err != nil {
		l.dirty = true
		return fmt.Errorf("chain: %s: %w", l.name, err)
	}
	if err := write(l.heads, fmt.Appendf(nil, "%d %s\n", next.Lines, next.Head), &next.heads); err != nil {
		l.dirty = true
		return fmt.Errorf("chain: %s: %w", l.name, err)
	}
	l.r = next
	return nil
}

// Close closes the files. All that Append has returned is on disk already.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, f := range []vfs.File{l.log, l.heads} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	l.log, l.heads = nil, nil
	return errors.Join(errs...)
}
