package integrity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// testKey is the key that tests sign with.
var testKey, _ = seal.KeyFromSeed([]byte("the seed of the tests: 32 bytes."))

func sign(domain string, message []byte) ([]byte, error) {
	s, err := testKey.SignNote(append([]byte(domain+"\x00"), message...))
	return s[:], err
}

func verify(domain string, message, signature []byte) error {
	if len(signature) != seal.SignatureSize {
		return errors.New("no signature")
	}
	return testKey.Public().VerifyNote(append([]byte(domain+"\x00"), message...), seal.Signature(signature))
}

// tree is a tree of files with a store beside it.
type tree struct {
	testing.TB
	dir   string
	store *Store
}

func newTree(t testing.TB) *tree {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, os.Mkdir(filepath.Join(dir, "tree"), 0o755))
	return &tree{t, filepath.ToSlash(filepath.Join(dir, "tree")), &Store{Dir: filepath.Join(dir, "store"), Sign: sign, Verify: verify}}
}

func (t *tree) path(name string) string { return t.dir + "/" + name }

func (t *tree) write(name, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(t.path(name)), 0o755), os.WriteFile(t.path(name), []byte(text), 0o644))
}

func (t *tree) baseline(exclude ...string) {
	t.Helper()
	made, err := t.store.Create(context.Background(), Header{Roots: []string{t.dir}, Exclude: exclude}, Look{}, true)
	must(t, err)
	if len(made.Problems) > 0 {
		t.Fatalf("problems: %v", made.Problems)
	}
}

func (t *tree) open() *Baseline {
	t.Helper()
	b, err := t.store.Open(Mark{})
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	return b
}

func (t *tree) check(full bool) *Report {
	t.Helper()
	r, err := t.open().Check(context.Background(), Look{Full: full})
	must(t, err)
	return r
}

// lines are changes as text, without the tree's own path.
func (t *tree) lines(changes []*Change) []string {
	out := []string{}
	for _, c := range changes {
		s := fmt.Sprintf("%s %s", c.What, strings.TrimPrefix(c.Path, t.dir+"/"))
		if c.From != "" {
			s += " from " + strings.TrimPrefix(c.From, t.dir+"/")
		}
		if len(c.Aspects) > 0 {
			s += ": " + join(c.Aspects)
		}
		out = append(out, s)
	}
	return out
}

func (t *tree) expect(full bool, want ...string) {
	t.Helper()
	r := t.check(full)
	if got := t.lines(r.Changes); !slices.Equal(got, append([]string{}, want...)) {
		t.Errorf("found (full: %v):\n  %s\nnot:\n  %s", full, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	if len(r.Problems) > 0 {
		t.Errorf("problems: %v", r.Problems)
	}
}

func TestCompare(t *testing.T) {
	// A folder, what is in it, and then its next sibling, also where that has a byte below the slash.
	want := []string{"/", "/a", "/a/b", "/a/b/c", "/a/b-c", "/a b", "/a.txt", "/aa", "/b"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, compare)
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	for _, c := range []struct {
		path, dir string
		in        bool
	}{{"/a", "/a", true}, {"/a/b", "/a", true}, {"/ab", "/a", false}, {"/a", "/", true}, {"/", "/", true}, {"/", "/a", false}, {"C:/x", "C:/", true}} {
		if within(c.path, c.dir) != c.in {
			t.Errorf("%s within %s: %v", c.path, c.dir, !c.in)
		}
	}
}

func TestRoots(t *testing.T) {
	tr := newTree(t)
	tr.write("a/x", "x")
	tr.write("b", "b")
	got, err := Roots([]string{tr.path("b"), tr.path("a/x"), tr.path("a")})
	must(t, err)
	if want := []string{tr.path("a"), tr.path("b")}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if _, err := Roots([]string{tr.path("nosuch")}); err == nil {
		t.Error("a root that is not there")
	}
}

func TestStore(t *testing.T) {
	tr := newTree(t)
	if _, err := tr.store.Open(Mark{}); !errors.Is(err, ErrNone) {
		t.Fatal(err)
	}
	tr.write("a", "a")
	tr.write("b", "b")
	tr.baseline()
	first, err := tr.store.Head()
	must(t, err)
	if _, err := tr.store.Create(context.Background(), Header{Roots: []string{tr.dir}}, Look{}, false); err == nil {
		t.Error("a baseline was replaced unasked")
	}
	tr.write("a", "A!")
	tr.write("c", "c")
	must(t, os.Remove(tr.path("b")))
	b := tr.open()
	r, err := b.Check(context.Background(), Look{})
	must(t, err)
	if len(r.Changes) != 3 {
		t.Fatalf("%v", tr.lines(r.Changes))
	}
	second, err := tr.store.Approve(context.Background(), b, r.Changes[1:])
	must(t, err)
	tr.check(false)
	if got := tr.lines(tr.check(true).Changes); len(got) != 1 || !strings.HasPrefix(got[0], "changed a: content") {
		t.Errorf("after approval of b and c: %q", got)
	}
	if _, err := tr.store.Approve(context.Background(), b, r.Changes); err == nil || !strings.Contains(err.Error(), "came in force meanwhile") {
		t.Errorf("an approval on an old baseline: %v", err)
	}
	now, err := tr.store.OpenNumber(2)
	must(t, err)
	defer now.Close()
	if now.Mark != second || now.Previous != first.Digest {
		t.Errorf("%v, previous %v", now.Mark, now.Previous)
	}
	diff, err := now.Diff(b, nil)
	must(t, err)
	if got := tr.lines(diff); !slices.Equal(got, []string{"removed b", "added c"}) {
		t.Errorf("%q", got)
	}

	// An older one in the place of the newer.
	if _, err := tr.store.Open(Mark{second.Number + 1, second.Digest}); !errors.Is(err, ErrRollback) {
		t.Errorf("a rollback: %v", err)
	}
	if _, err := tr.store.Open(Mark{second.Number, first.Digest}); !errors.Is(err, ErrRollback) {
		t.Errorf("another of the same number: %v", err)
	}
	if _, err := tr.store.Open(first); err != nil {
		t.Errorf("a newer one: %v", err)
	}
	old, err := os.ReadFile(filepath.Join(tr.store.Dir, "baseline-1"))
	must(t, err, os.WriteFile(filepath.Join(tr.store.Dir, "baseline-2"), old, 0o644))
	if _, err := tr.store.Open(Mark{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("an old file by a new name: %v", err)
	}
}

func TestStoreKeys(t *testing.T) {
	tr := newTree(t)
	tr.write("a", "a")
	tr.baseline()
	other := *tr.store
	other.Verify = func(string, []byte, []byte) error { return errors.New("another key") }
	if _, err := other.Open(Mark{}); !errors.Is(err, ErrSignature) {
		t.Errorf("%v", err)
	}
	// A signature for one domain is none for the other.
	cross := *tr.store
	cross.Sign = func(_ string, m []byte) ([]byte, error) { return sign("another domain", m) }
	if _, err := cross.Create(context.Background(), Header{Roots: []string{tr.dir}}, Look{}, true); !errors.Is(err, ErrSignature) {
		t.Errorf("%v", err)
	}
	tr.open()
	read := *tr.store
	read.Sign = nil
	if _, err := read.Create(context.Background(), Header{Roots: []string{tr.dir}}, Look{}, true); err == nil {
		t.Error("made without a key")
	}
	// What cannot be recorded does not come in force.
	unrecorded := *tr.store
	unrecorded.Record = func(context.Context, Event) error { return errors.New("full") }
	if _, err := unrecorded.Create(context.Background(), Header{Roots: []string{tr.dir}}, Look{}, true); err == nil {
		t.Error("in force without a record")
	}
	if m, err := tr.store.Head(); err != nil || m.Number != 1 {
		t.Errorf("%v, %v", m, err)
	}
}

// TestSwapped: another baseline of the same number and key is not the one that the head names.
func TestSwapped(t *testing.T) {
	a, b := newTree(t), newTree(t)
	for _, tr := range []*tree{a, b} {
		tr.write("f", "f")
		tr.baseline()
	}
	raw, err := os.ReadFile(filepath.Join(b.store.Dir, "baseline-1"))
	must(t, err, os.WriteFile(filepath.Join(a.store.Dir, "baseline-1"), raw, 0o600))
	if _, err := a.store.Open(Mark{}); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "not the one that the head names") {
		t.Errorf("%v", err)
	}
}

// TestStoreCrash: at every operation, a crash or a failure leaves the old baseline in force or the new one, and the next step works.
func TestStoreCrash(t *testing.T) {
	tr := newTree(t)
	tr.write("a", "a")
	fail := errors.New("planted")
	for n := 0; ; n++ {
		disk := vfs.NewMem()
		s := &Store{FS: disk, Dir: "/s", Sign: sign, Verify: verify}
		h := Header{Roots: []string{tr.dir}}
		if _, err := s.Create(context.Background(), h, Look{}, false); err != nil {
			t.Fatal(err)
		}
		failing, fired := vfs.FailNth(n, fail), false
		s.FS = vfs.Hook(disk, func(op vfs.Op) error {
			err := failing(op)
			fired = fired || err != nil
			return err
		})
		_, err := s.Create(context.Background(), h, Look{}, true)
		for _, after := range []vfs.FS{disk, disk.Crash(nil)} {
			s.FS = after
			b, oerr := s.Open(Mark{})
			if oerr != nil {
				t.Fatalf("operation %d: %v", n, oerr)
			}
			if err == nil && b.Number != 2 {
				t.Errorf("operation %d: acknowledged, and number %d is in force", n, b.Number)
			}
			must(t, b.Close())
			made, cerr := s.Create(context.Background(), h, Look{}, true)
			if cerr != nil || made.Baseline.Number != b.Number+1 {
				t.Errorf("operation %d: the next: %+v, %v", n, made, cerr)
			}
		}
		if !fired {
			if n < 20 || err != nil {
				t.Fatalf("only %d operations, %v: nothing is shown", n, err)
			}
			return
		}
		if err != nil && !errors.Is(err, fail) { // what closes a file that was read, and what prunes, may fail without harm
			t.Fatalf("operation %d: %v", n, err)
		}
	}
}

func TestPrune(t *testing.T) {
	tr := newTree(t)
	tr.write("a", "a")
	for range keep + 3 {
		tr.baseline()
	}
	names, err := vfs.Default.List(tr.store.Dir)
	must(t, err)
	n := 0
	for _, name := range names {
		if strings.HasPrefix(name, "baseline-") {
			n++
		}
	}
	if b := tr.open(); n != keep || b.Number != keep+3 {
		t.Errorf("%d are kept, number %d is in force: %q", n, b.Number, names)
	}
}

func TestExclude(t *testing.T) {
	tr := newTree(t)
	for _, name := range []string{"keep", "log/a", "log/b/c", "x.tmp", "d/y.tmp/z", "logs"} {
		tr.write(name, name)
	}
	tr.baseline(tr.path("log"), "**/*.tmp")
	tr.write("log/b/c", "changed")
	tr.write("x.tmp", "changed")
	tr.write("log/new", "n")
	tr.expect(true)
	tr.write("logs", "changed")
	if got := tr.lines(tr.check(false).Changes); len(got) != 1 || !strings.HasPrefix(got[0], "changed logs") {
		t.Errorf("%q", got)
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		match         bool
	}{
		{"/a", "/a", true}, {"/a", "/a/b", true}, {"/a", "/ab", false}, {"/a/", "/a/b", true}, {"/*", "/a/b", true}, {"/*.go", "/a/b.go", false},
		{"/**/*.go", "/a/b.go", true}, {"**.go", "/a/b.go", true}, {"/a?c", "/abc", true}, {"/a?c", "/a/c", false}, {"/a.c", "/abc", false},
		{"/[x]", "/[x]", true}, {"/a*", "/a\nb", true}, {"/a*", "/a\xff", true}, {"/ä?", "/äö", true},
	} {
		p, err := compilePatterns([]string{"/never", c.pattern})
		must(t, err)
		if p.match(c.path) != c.match {
			t.Errorf("%q on %q: %v", c.pattern, c.path, !c.match)
		}
	}
	for _, bad := range []string{"", "a", "*.go", "/\xff", "/a\x00", "/" + strings.Repeat("a", maxPattern)} {
		if _, err := compilePatterns([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestRules(t *testing.T) {
	r, err := ReadRules(strings.NewReader(`
rules:
  - paths: [/etc/shadow, "/usr/bin/**"]
    changes: [content, added]
    severity: critical
  - paths: [/var/log]
    severity: ignore
  - changes: [setuid]
    severity: info
`))
	must(t, err)
	for _, c := range []struct {
		c    Change
		r    *Rules
		want Severity
	}{
		{Change{What: Changed, Path: "/etc/shadow", Aspects: []Aspect{AspectContent, AspectMTime}}, r, Critical},
		{Change{What: Changed, Path: "/etc/shadow", Aspects: []Aspect{AspectMTime}}, r, Info},
		{Change{What: Added, Path: "/usr/bin/x"}, r, Critical},
		{Change{What: Removed, Path: "/usr/bin/x"}, r, Warning},
		{Change{What: Renamed, Path: "/x", From: "/var/log/x"}, r, Ignore},
		{Change{What: Changed, Path: "/x", Aspects: []Aspect{AspectSetUID}}, r, Info},
		{Change{What: Changed, Path: "/x", Aspects: []Aspect{AspectSetUID}}, nil, Critical},
		{Change{What: Added, Path: "/x", Aspects: []Aspect{AspectSetGID}}, nil, Critical},
		{Change{What: Changed, Path: "/x", Aspects: []Aspect{AspectCTime}}, nil, Info},
		{Change{What: Changed, Path: "/x", Aspects: []Aspect{AspectXAttrs, AspectCTime}}, nil, Warning},
	} {
		if got := c.r.Severity(&c.c); got != c.want {
			t.Errorf("%+v: %v, not %v", c.c, got, c.want)
		}
	}
	for text, want := range map[string]string{
		"rules: []":                                       "line 1: rules: there is no rule",
		"rules:\n  - paths: [/a]":                         "line 2: rules[0]: it has no severity",
		"rules:\n  - severity: loud":                      `line 2: rules[0].severity: "loud": it must be one of ignore, info, warning, critical`,
		"rules:\n  - severity: info\n    changes: [gone]": `line 3: rules[0].changes[0]: "gone": it must be added`,
		"rules:\n  - severity: info\n    paths: [etc]":    `line 3: rules[0].paths[0]: "etc": it must begin with /`,
		"rules:\n  - severity: info\n    paths: []":       "rules[0].paths: it is empty",
		"rules:\n  - severity: info\n    path: [/etc]":    "line 3: rules[0].path: there is no such field",
		"rules:\n  - severity: info\n    severity: info":  "line 3: rules[0].severity: it is there twice",
		"rule: 1":                           "line 1: rule: there is no such field",
		"":                                  "it is empty",
		strings.Repeat("#", maxRulesFile+1): "it is larger than",
	} {
		_, err := ReadRules(strings.NewReader(text))
		if !errors.Is(err, ErrRules) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, not %s", text, err, want)
		}
	}
}

// FuzzRules: no bytes crash the reader, and what it takes judges any change.
func FuzzRules(f *testing.F) {
	f.Add("rules:\n  - paths: [/etc/shadow, \"/usr/bin/**\"]\n    changes: [content, added]\n    severity: critical\n")
	f.Add("rules:\n  - severity: ignore\n")
	f.Add("rules: [{paths: ['**/*.t?p'], severity: info}]")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ReadRules(strings.NewReader(text))
		if err != nil {
			if !errors.Is(err, ErrRules) {
				t.Fatal(err)
			}
			return
		}
		c := &Change{What: Renamed, Path: "/a/b.tmp\xff", From: "/etc/x", Aspects: Aspects}
		if s := r.Severity(c); s < Ignore || s > Critical {
			t.Fatalf("%d", s)
		}
	})
}

// TestRace: a file that never holds still is said, and its baseline claims nothing of its bytes.
func TestRace(t *testing.T) {
	tr := newTree(t)
	tr.write("quiet", "q")
	tr.write("busy", strings.Repeat("b", 4<<20))
	stop, done, begun := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		f, err := os.OpenFile(tr.path("busy"), os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				f.WriteAt([]byte{byte(i)}, 4<<20-1)
				if i == 0 {
					close(begun)
				}
			}
		}
	}()
	<-begun
	made, err := tr.store.Create(context.Background(), Header{Roots: []string{tr.dir}}, Look{Pace: Pace{BytesPerSecond: 64 << 20}}, false)
	close(stop)
	<-done
	must(t, err)
	if len(made.Problems) != 1 || made.Problems[0].Path != tr.path("busy") || !errors.Is(made.Problems[0], errMoved) {
		t.Fatalf("problems: %v", made.Problems)
	}
	// What was not read is not compared by its bytes, and is read by the next look.
	r := tr.check(false)
	for _, c := range r.Changes {
		if c.Path != tr.path("busy") || slices.Contains(c.Aspects, AspectContent) {
			t.Errorf("%v", c)
		}
	}
	if len(r.Problems) > 0 {
		t.Errorf("%v", r.Problems)
	}
}

// TestSettle: what changes once while it is read is read again, also where its size stays; what changes each time is not told.
func TestSettle(t *testing.T) {
	for _, c := range []struct {
		changes int
		told    bool
	}{{0, true}, {1, true}, {tries - 1, true}, {tries, false}} {
		tr := newTree(t)
		text := strings.Repeat("x", 3*chunk)
		tr.write("f", text)
		d, err := nowhere().open(tr.dir)
		must(t, err)
		defer d.release()
		left := c.changes
		p := newPacer(Pace{BytesPerSecond: 1 << 20})
		last := []byte("x")
		p.sleep = func(context.Context, time.Duration) error {
			// The second wait of a try: what was read first is changed behind the reader.
			p.mu.Lock()
			defer p.mu.Unlock()
			p.asked = p.asked.Add(1)
			if n := p.asked.Sub(time.Time{}); n%4 == 2 && left > 0 {
				left--
				last = []byte{byte('a' + left)}
				f, err := os.OpenFile(tr.path("f"), os.O_WRONLY, 0)
				if err != nil {
					return err
				}
				_, err = f.WriteAt(last, 0)
				return errors.Join(err, f.Close())
			}
			return nil
		}
		h := newHasher(BLAKE3, p)
		e, err := d.stat("f")
		must(t, err)
		e.Path = tr.path("f")
		j := &job{seen: seen{after: e}, in: d, name: "f", looked: time.Now()}
		s := &scanner{ctx: t.Context()}
		s.settle(j, h)
		if want := h.of([]byte(string(last) + text[1:])); c.told && (j.problem != nil || e.Hash != want || !e.Racy) {
			t.Errorf("%d changes: %+v, problem %v", c.changes, e, j.problem)
		}
		if !c.told && (j.problem == nil || !e.Unread || e.Hash != Hash{}) {
			t.Errorf("%d changes: %+v, problem %v", c.changes, e, j.problem)
		}
	}
}

func TestPairIDs(t *testing.T) {
	e := func(path string, inode uint64, h byte) *Entry {
		return &Entry{Path: path, Type: Regular, Inode: inode, Hash: Hash{h}, CTime: int64(len(path))}
	}
	changes := []*Change{change(nil, e("/a", 1, 1)), change(e("/bb", 1, 1), nil), change(e("/c", 2, 2), nil), change(nil, e("/d", 2, 3))}
	got := Pair(changes)
	if len(got) != 3 || got[0].What != Renamed || got[0].From != "/bb" || got[0].Path != "/a" || len(got[0].Aspects) != 0 || got[1].Path != "/c" {
		t.Errorf("%v", got)
	}
	ids := map[string]bool{}
	for _, c := range append(got, changes...) {
		ids[c.ID()] = true
	}
	if len(ids) != 5 {
		t.Errorf("%d IDs of 5 changes", len(ids))
	}
	racy := *changes[0].After
	racy.Racy = true
	if (&Change{What: Added, Path: "/a", After: &racy}).ID() != changes[0].ID() {
		t.Error("an ID tells how it was looked at")
	}
}

func TestMark(t *testing.T) {
	m := Mark{7, Hash{1, 2, 3}}
	got, err := ParseMark(m.String())
	if err != nil || got != m {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"7", "7:", "x:" + m.Digest.String(), "0:" + m.Digest.String(), "7:" + m.Digest.String()[1:], "-1:" + m.Digest.String()} {
		if _, err := ParseMark(bad); err == nil {
			t.Errorf("%q is a mark", bad)
		}
	}
}

func TestPrintable(t *testing.T) {
	for path, want := range map[string]string{"/a b": "/a b", "/ä": "/ä", "/a\nb": `"/a\nb"`, "/\x1b[2J": `"/\x1b[2J"`, "/\xff": `"/\xff"`, "/\u009b": `"/\u009b"`} {
		if got := printable(path); got != want {
			t.Errorf("%q: %s", path, got)
		}
	}
}

// TestPace: a rate holds over time, and a look that yields slows down while others wait and speeds up when none does.
func TestPace(t *testing.T) {
	now := time.Unix(0, 0)
	slept := time.Duration(0)
	p := newPacer(Pace{BytesPerSecond: 1 << 20})
	p.now = func() time.Time { return now }
	p.sleep = func(_ context.Context, d time.Duration) error { slept += d; now = now.Add(d); return nil }
	for range 64 {
		must(t, p.wait(context.Background(), chunk))
	}
	if got := slept.Seconds(); got < 7.9 || got > 8.1 {
		t.Errorf("8 MiB at 1 MiB a second took %v s", got)
	}
	if newPacer(Pace{}) != nil {
		t.Error("the zero Pace paces")
	}

	y := newPacer(Pace{Yield: true})
	y.now = func() time.Time { return now }
	y.sleep = func(context.Context, time.Duration) error { return nil }
	waits := &metrics.Float64Histogram{Counts: []uint64{0, 0}, Buckets: []float64{0, lateness.Seconds(), 1}}
	y.waits = func() *metrics.Float64Histogram { return waits }
	turn := func(soon, late uint64) float64 {
		waits.Counts = []uint64{waits.Counts[0] + soon, waits.Counts[1] + late}
		now = now.Add(askEvery)
		must(t, y.wait(context.Background(), 1))
		return y.rate
	}
	turn(0, 1000) // before it was asked first: not of this look
	for _, c := range []struct {
		soon, late uint64
		want       float64
	}{{100, 1, firstRate * 1.1}, {98, 2, firstRate * 1.1 / 2}, {0, 0, firstRate * 1.1 / 2}, {1000, 0, firstRate * 1.1 * 1.1 / 2}} {
		if got := turn(c.soon, c.late); got < c.want*0.999 || got > c.want*1.001 {
			t.Errorf("%d soon, %d late: %v, not %v", c.soon, c.late, got, c.want)
		}
	}
	for range 100 {
		turn(0, 1)
	}
	if y.rate != minRate {
		t.Errorf("while others wait: %v", y.rate)
	}
	for range 200 {
		turn(1, 0)
	}
	if y.rate != maxRate {
		t.Errorf("while nobody waits: %v", y.rate)
	}
}
