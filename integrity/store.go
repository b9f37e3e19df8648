package integrity

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
)

// keep is how many baselines a store has; older ones are removed.
const keep = 10

// maxHead bounds the file that says which baseline is in force, in bytes.
const maxHead = 4 << 10

// Store is a folder of numbered baselines, and a signed head that says which is in force. Each step to a new one is on disk before the next, so
// that a crash leaves the old baseline in force, or the new one.
type Store struct {
	FS  vfs.FS // nil is the real one
	Dir string
	// Sign signs for a domain; nil: the store can only be read.
	Sign func(domain string, message []byte) ([]byte, error)
	// Verify returns nil for a signature in a domain of a key that is trusted.
	Verify func(domain string, message, signature []byte) error
	// Record, which may be nil, is called before a new baseline is in force; it then is only if that returned nil.
	Record func(context.Context, Event) error
}

// EventKind is what an event is about.
type EventKind string

// The kinds of events.
const (
	EventBaseline EventKind = "baseline" // a new one comes in force
	EventChange   EventKind = "change"   // a path differs from the baseline, or differs otherwise than before
	EventRestored EventKind = "restored" // a path is as in the baseline again
	EventProblem  EventKind = "problem"  // something could not be told
	EventLost     EventKind = "lost"     // the kernel dropped events: everything is looked at
)

// Event is what is recorded and told.
type Event struct {
	Time     time.Time `json:"time"`
	Kind     EventKind `json:"kind"`
	Baseline Mark      `json:"baseline"`
	Severity Severity  `json:"severity"`
	Path     string    `json:"path,omitempty"`
	Change   *Change   `json:"change,omitempty"`
	Text     string    `json:"text,omitempty"`
	// Approved are the paths whose changes a new baseline has; at most 1,000, and all are counted in Text.
	Approved []string `json:"approved,omitempty"`
}

// String is one line.
func (e Event) String() string {
	switch {
	case e.Change != nil:
		return e.Change.String()
	case e.Path != "":
		return fmt.Sprintf("%-8s %-8s %s: %s", e.Severity, e.Kind, printable(e.Path), e.Text)
	}
	return fmt.Sprintf("%-8s %-8s %s", e.Severity, e.Kind, e.Text)
}

func (s *Store) fs() vfs.FS {
	if s.FS == nil {
		return vfs.Default
	}
	return s.FS
}

func (s *Store) path(name string) string { return filepath.Join(s.Dir, name) }

func baselineName(n uint64) string { return fmt.Sprintf("baseline-%d", n) }

// readAll reads a small file.
func (s *Store) readAll(name string, most int64) ([]byte, error) {
	f, err := s.fs().Open(s.path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

func headText(m Mark) string { return fmt.Sprintf("quantra integrity head v1\n%s\n", m) }

// Head says which baseline is in force; [ErrNone] is that there is none.
func (s *Store) Head() (Mark, error) {
	raw, err := s.readAll("head", maxHead)
	if errors.Is(err, fs.ErrNotExist) {
		return Mark{}, fmt.Errorf("%w in %s: make one with `quantraband integrity baseline`", ErrNone, s.Dir)
	} else if err != nil {
		return Mark{}, fmt.Errorf("integrity: %w", err)
	}
	lines := strings.Split(string(raw), "\n")
	if len(lines) != 4 || lines[3] != "" {
		return Mark{}, corrupt("%s is not a head", s.path("head"))
	}
	m, err := ParseMark(lines[1])
	if err != nil || m.Number == 0 || headText(m) != lines[0]+"\n"+lines[1]+"\n" {
		return Mark{}, corrupt("%s is not a head", s.path("head"))
	}
	sig, err := hex.DecodeString(lines[2])
	if err != nil {
		return Mark{}, corrupt("%s: its signature is not hex", s.path("head"))
	}
	if err := s.Verify(HeadDomain, []byte(headText(m)), sig); err != nil {
		return Mark{}, fmt.Errorf("%s: %w: %w", s.path("head"), ErrSignature, err)
	}
	return m, nil
}

// Open opens the baseline in force, which is no older than floor, and not another one of floor's number. The zero Mark is no floor.
func (s *Store) Open(floor Mark) (*Baseline, error) {
	m, err := s.Head()
	if err != nil {
		return nil, err
	}
	if m.Number < floor.Number || m.Number == floor.Number && m.Digest != floor.Digest {
		return nil, fmt.Errorf("%w: %s says %s, and %s was", ErrRollback, s.path("head"), m, floor)
	}
	b, err := s.OpenNumber(m.Number)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, corrupt("%s, which the head names, is missing", s.path(baselineName(m.Number)))
	}
	if err != nil {
		return nil, err
	}
	if b.Mark != m {
		return nil, errors.Join(corrupt("%s is not the one that the head names", s.path(baselineName(m.Number))), b.Close())
	}
	return b, nil
}

// OpenNumber opens one of the baselines that are kept, in force or not.
func (s *Store) OpenNumber(n uint64) (*Baseline, error) {
	name := s.path(baselineName(n))
	f, err := s.fs().Open(name)
	if err != nil {
		return nil, fmt.Errorf("integrity: %w", err)
	}
	size, err := f.Size()
	var b *Baseline
	if err == nil {
		b, err = readBaseline(f, size, s.Verify)
	}
	if err == nil && b.Number != n {
		err = corrupt("it says that it is number %d", b.Number)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("integrity: %s: %w", name, err), f.Close())
	}
	b.close = f.Close
	return b, nil
}

// Roots are paths as a baseline takes them: absolute, sorted, none within another. The folders on the way to a path are resolved; where the
// path itself is a link, the link is a root, and what it leads to another. A path where nothing is is an error.
func Roots(paths []string) ([]string, error) {
	var all []string
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, err
		}
		dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		at := filepath.Join(dir, filepath.Base(abs))
		info, err := os.Lstat(at)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		all = append(all, filepath.ToSlash(at))
		if info.Mode()&fs.ModeSymlink != 0 {
			if to, err := filepath.EvalSymlinks(at); err == nil { // one that leads nowhere is a root all the same
				all = append(all, filepath.ToSlash(to))
			}
		}
	}
	slices.SortFunc(all, compare)
	var out []string
	for _, r := range all {
		if len(out) == 0 || !within(r, out[len(out)-1]) {
			out = append(out, r)
		}
	}
	return out, nil
}

// Made is a new baseline.
type Made struct {
	Baseline Mark      `json:"baseline"`
	Roots    []string  `json:"roots"`
	Entries  int64     `json:"entries"`
	Hashed   int64     `json:"hashed"`
	Bytes    int64     `json:"bytes"` // of files
	Size     int64     `json:"size"`  // of the baseline, in bytes
	Seconds  float64   `json:"seconds"`
	Problems []Problem `json:"problems"`
	// MoreProblems counts those past the bound.
	MoreProblems int `json:"more_problems,omitempty"`
}

// Create makes a baseline of what is there now, with the header's roots, exclusions and algorithm (0: BLAKE3). Where one is in force, replace
// says that this one shall be instead: all that changed since is taken as right. The store's own folder is not looked at.
func (s *Store) Create(ctx context.Context, h Header, l Look, replace bool) (*Made, error) {
	start := time.Now()
	if h.Algorithm == 0 {
		h.Algorithm = BLAKE3
	}
	if abs, err := filepath.Abs(s.Dir); err == nil {
		if resolved, err := filepath.EvalSymlinks(abs); err == nil {
			abs = resolved
		}
		if abs = filepath.ToSlash(abs); h.inRoots(abs) && isPattern(abs) {
			h.Exclude = append(slices.Clone(h.Exclude), abs)
		}
	}
	h.Number, h.Previous, h.Created = 1, Hash{}, start.UTC()
	switch was, err := s.Head(); {
	case errors.Is(err, ErrNone):
	case !replace && err == nil:
		return nil, fmt.Errorf("integrity: baseline %s is in force: approve what changed, or replace it", was)
	case err != nil:
		return nil, err
	default:
		h.Number, h.Previous = was.Number+1, was.Digest
	}
	var err error
	none := &Baseline{Header: h}
	if none.exclude, err = compilePatterns(h.Exclude); err != nil {
		return nil, fmt.Errorf("integrity: %w", err)
	}
	l.Full = true
	made := &Made{Roots: h.Roots, Problems: []Problem{}}
	var r Report
	e := Event{Kind: EventBaseline, Severity: Info, Text: "a new baseline of " + strings.Join(h.Roots[:min(len(h.Roots), 10)], ", ")}
	made.Baseline, made.Size, err = s.write(ctx, &h, e, func(w *writer) error {
		t, err := scan(ctx, none, nil, l, nil, func(x seen) error {
			if x.problem != nil {
				r.problem(x.problem)
			}
			if x.after == nil {
				return nil
			}
			return w.add(x.after)
		})
		made.Entries, made.Hashed, made.Bytes = t.entries, t.hashed, t.bytes
		if err == nil && t.entries == 0 {
			err = errors.New("there is nothing at its roots")
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("integrity: make a baseline: %w", err)
	}
	made.Problems, made.MoreProblems = append(made.Problems, r.Problems...), r.MoreProblems
	made.Seconds = time.Since(start).Seconds()
	return made, nil
}

// isPattern says that a path is a pattern of itself.
func isPattern(p string) bool {
	_, err := toRegexp(p)
	return err == nil && !strings.ContainsAny(p, "*?")
}

// Approve puts a baseline in force which is old, which must be in force, with the changes made to it: these very ones, as they were seen, whatever
// has changed further since.
func (s *Store) Approve(ctx context.Context, old *Baseline, changes []*Change) (Mark, error) {
	h := old.Header
	h.Number, h.Previous, h.Created = old.Number+1, old.Mark.Digest, time.Now().UTC()
	now := map[string]*Entry{} // nil: gone
	e := Event{Kind: EventBaseline, Severity: Info, Text: fmt.Sprintf("%d changes approved", len(changes))}
	for _, c := range changes {
		if c.From != "" {
			now[c.From] = nil
		}
	}
	for _, c := range changes {
		if c.After != nil && c.After.Unread {
			return Mark{}, fmt.Errorf("integrity: approve %s: it could not be read, so there is nothing to hold it to", printable(c.Path))
		}
		now[c.Path] = c.After
		if len(e.Approved) < maxProblems {
			e.Approved = append(e.Approved, inJSON(c.Path).text)
		}
	}
	if len(now) == 0 {
		return Mark{}, errors.New("integrity: approve: there is no change")
	}
	paths := make([]string, 0, len(now))
	for p := range now {
		paths = append(paths, p)
	}
	slices.SortFunc(paths, compare)
	mark, _, err := s.write(ctx, &h, e, func(w *writer) error { return merged(w, old, paths, now) })
	if err != nil {
		return Mark{}, fmt.Errorf("integrity: approve: %w", err)
	}
	return mark, nil
}

// merged writes old's entries, with those of now in the place of what they are of.
func merged(w *writer, old *Baseline, paths []string, now map[string]*Entry) error {
	c := old.from("")
	for {
		e, err := c.next()
		if err != nil {
			return err
		}
		for len(paths) > 0 && (e == nil || compare(paths[0], e.Path) <= 0) {
			p := paths[0]
			paths = paths[1:]
			if a := now[p]; a != nil {
				if err := w.add(a); err != nil {
					return err
				}
			}
			if e != nil && e.Path == p {
				e = &Entry{} // its place is taken
			}
		}
		if e == nil {
			return nil
		}
		if e.Path != "" {
			if err := w.add(e); err != nil {
				return err
			}
		}
	}
}

// write writes a baseline that fill fills, verifies it as a reader would, records it, and puts it in force.
func (s *Store) write(ctx context.Context, h *Header, e Event, fill func(*writer) error) (mark Mark, size int64, err error) {
	if s.Sign == nil {
		return mark, 0, errors.New("there is no key to sign with")
	}
	d := s.fs()
	if err := d.MkdirAll(s.Dir); err != nil {
		return mark, 0, err
	}
	if err := d.SyncDir(filepath.Dir(s.Dir)); err != nil {
		return mark, 0, err
	}
	lock, err := d.Lock(s.path("lock"))
	if err != nil {
		return mark, 0, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	var was Mark
	if was, err = s.Head(); err != nil && !errors.Is(err, ErrNone) {
		return mark, 0, err
	}
	if was.Number != h.Number-1 || was.Digest != h.Previous {
		return mark, 0, fmt.Errorf("baseline %s came in force meanwhile: look again", was)
	}
	name := baselineName(h.Number)
	if err := s.put(name, func(w io.Writer) error {
		b := newWriter(w, h)
		if err := errors.Join(b.err, fill(b)); err != nil {
			return err
		}
		_, err := b.finish(s.Sign)
		return err
	}); err != nil {
		return mark, 0, err
	}
	b, err := s.OpenNumber(h.Number)
	if err != nil {
		return mark, 0, fmt.Errorf("read it back: %w", err)
	}
	mark, size = b.Mark, b.Size
	if err := b.Close(); err != nil {
		return mark, 0, err
	}
	if s.Record != nil {
		e.Time, e.Baseline = h.Created, mark
		if err := s.Record(ctx, e); err != nil {
			return mark, 0, fmt.Errorf("record it: %w", err)
		}
	}
	text := headText(mark)
	sig, err := s.Sign(HeadDomain, []byte(text))
	if err != nil {
		return mark, 0, fmt.Errorf("sign: %w", err)
	}
	if err := s.put("head", func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s%x\n", text, sig)
		return err
	}); err != nil {
		return mark, 0, err
	}
	s.prune(mark.Number)
	return mark, size, nil
}

// put makes a file whole and durable under its name, or not at all.
func (s *Store) put(name string, fill func(io.Writer) error) error {
	d, tmp := s.fs(), s.path(name+".tmp")
	if err := d.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // what a crash left
	}
	f, err := d.Create(tmp)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, d.Remove(tmp))
	}
	if err := d.Rename(tmp, s.path(name)); err != nil {
		return err
	}
	return d.SyncDir(s.Dir)
}

// prune removes baselines that are out of force for long. One that cannot be removed is tried again with the next: it does no harm.
func (s *Store) prune(newest uint64) {
	names, _ := s.fs().List(s.Dir)
	for _, name := range names {
		n, err := strconv.ParseUint(strings.TrimPrefix(name, "baseline-"), 10, 64)
		if err == nil && name == baselineName(n) && n+keep <= newest {
			s.fs().Remove(s.path(name))
		}
	}
}
