package live

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func dumpFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parseFile(t testing.TB, name string, lim Limits) Snapshot {
	t.Helper()
	s, err := ParseDump(bytes.NewReader(dumpFile(t, name)), lim)
	if err != nil {
		t.Fatal(err)
	}
	check(t, s)
	return s
}

// check holds a snapshot to what every snapshot must be.
func check(t testing.TB, s Snapshot) {
	t.Helper()
	sum := 0
	for i, g := range s.Groups {
		sum += g.Count
		if g.Count <= 0 || g.State == "" && g.Creator == nil && len(g.Stack) == 0 {
			t.Errorf("group %d is empty: %+v", i, g)
		}
		if g.WaitMin > g.WaitMax || g.Locked > g.Count || g.Leaked > g.Count || len(g.IDs) > maxIDs || len(g.IDs) > g.Count {
			t.Errorf("group %d: %+v", i, g)
		}
		if i > 0 && g.State != StateOther && g.Count > s.Groups[i-1].Count {
			t.Errorf("group %d is out of order", i)
		}
		parents := 0
		for _, n := range g.Parents {
			parents += n
		}
		if parents > g.Count {
			t.Errorf("group %d has %d parents", i, parents)
		}
	}
	if sum != s.Total {
		t.Errorf("groups hold %d goroutines, the total is %d", sum, s.Total)
	}
	if n := Tree(s); n.Total != s.Total {
		t.Errorf("the tree holds %d goroutines of %d", n.Total, s.Total)
	}
}

func byState(s Snapshot) map[string]int {
	m := map[string]int{}
	for _, g := range s.Groups {
		m[g.State] += g.Count
	}
	return m
}

func groupOf(t testing.TB, s Snapshot, entry string) Group {
	t.Helper()
	for _, g := range s.Groups {
		if g.Entry() == entry {
			return g
		}
	}
	t.Fatalf("no group begins with %s", entry)
	return Group{}
}

// TestDumps: real dumps of Go 1.21 and 1.26 have every goroutine once, in its state.
func TestDumps(t *testing.T) {
	all := map[string]int{
		"chan receive": 124, "chan send": 1, "chan receive (nil chan)": 1, "chan send (nil chan)": 1,
		"select": 1, "select (no cases)": 1, "sync.Mutex.Lock": 2, "sync.RWMutex.RLock": 1, "sync.WaitGroup.Wait": 1,
		"sync.Cond.Wait": 1, "sleep": 1, "IO wait": 2, "syscall": 1, "running": 1, "runnable": 1,
	}
	old := maps.Clone(all)
	delete(old, "sync.WaitGroup.Wait") // has its own word since Go 1.25
	old["semacquire"] = 1
	for name, want := range map[string]map[string]int{"go1.21.txt": old, "go1.26-minutes.txt": all, "go1.26-ancestors.txt": all} {
		s := parseFile(t, name, Limits{})
		if !maps.Equal(byState(s), want) {
			t.Errorf("%s: %v, want %v", name, byState(s), want)
		}
		if strings.Count(string(dumpFile(t, name)), "\ngoroutine ")+1 != s.Total || s.Detail != Full {
			t.Errorf("%s: %d goroutines", name, s.Total)
		}
	}

	s := parseFile(t, "go1.26-minutes.txt", Limits{})
	g := groupOf(t, s, "main.(*T[...]).work")
	if g.Count != 100 || g.WaitMax != 120 || g.Creator == nil || g.Creator.Func != "main.main" || g.Creator.Line != 78 ||
		g.Stack[0] != (Frame{"main.(*T[...]).work", "probe/states/main.go", 20}) || len(g.IDs) != 100 || g.Parents["main.main"] != 100 {
		t.Errorf("workers: %+v", g)
	}
	if g := groupOf(t, s, "main.spawn.func1"); g.Count != 20 || g.Parents[ParentEnded] != 20 || g.Creator.Func != "main.spawn" {
		t.Errorf("children of ended ones: %+v", g)
	}
	if g := groupOf(t, s, "main.main.func12"); g.Locked != 1 || g.State != "chan receive" {
		t.Errorf("locked: %+v", g)
	}
	if g := groupOf(t, s, "main.main.func15"); g.Stack[len(g.Stack)-1].Func != "runtime/pprof.Do" {
		t.Errorf("a goroutine begun by pprof.Do: %+v", g)
	}
	deep := groupOf(t, s, "main.deep")
	if len(deep.Stack) != 64 || !s.Truncated || deep.Stack[32] != (Frame{Func: Elided, Line: 151 - 63}) || deep.Creator.Func != "main.main" {
		t.Errorf("deep: %d frames, %v", len(deep.Stack), deep.Stack[32])
	}
}

// TestCrash: what a dying program prints has more in it, and breaks off.
func TestCrash(t *testing.T) {
	s := parseFile(t, "go1.26-throw-cut.txt", Limits{})
	if !s.Truncated || s.Total < 30 {
		t.Errorf("%d goroutines, truncated %v", s.Total, s.Truncated)
	}
	if g := groupOf(t, s, "main.main"); g.Stack[0].Func != "internal/runtime/maps.(*Map).putSlotSmallFast64" || len(g.Stack) != 2 {
		t.Errorf("main: %+v", g)
	}
	if g := groupOf(t, s, "runtime.forcegchelper"); g.State != "force gc (idle)" {
		t.Errorf("of the runtime alone: %+v", g)
	}
	leaked := parseFile(t, "go1.26-leaked.txt", Limits{})
	if g := groupOf(t, leaked, "main.leak.func1"); g.Leaked != 3 || g.State != "chan send" {
		t.Errorf("leaked: %+v", g)
	}
	bubble := parseFile(t, "go1.26-synctest.txt", Limits{})
	if want := map[string]int{"running": 1, "runnable": 1, "synctest.Run": 1, "chan receive": 2, "sleep": 1}; !maps.Equal(byState(bubble), want) {
		t.Errorf("in a bubble: %v, want %v", byState(bubble), want)
	}
}

// TestShapes: forms that the runtime has and the recorded dumps do not, from runtime/traceback.go.
func TestShapes(t *testing.T) {
	text := `panic: boom [recovered]
	again

goroutine 7 gp=0xc000002380 m=3 mp=0x55d0 [syscall, 90 minutes, locked to thread labels:{"a": "b]:"}]:
non-Go function at pc=7f0
poll(2)
	/usr/src/c file.c:12 pc=0x7f1
runtime.cgocall(0x1, 0x2)
	/go/src/runtime/cgocall.go:167 +0x4b fp=0xc0 sp=0xc1 pc=0x4
main._Cfunc_poll()
	C:/my src/x.go:4 +0x1d
exit status 2

goroutine 8 [running]:
	goroutine running on other thread; stack unavailable
created by main.main
	/src/a.go:3 +0x1

goroutine 9 [chan receive (scan)]:
main.f({0x1, 0x2, ...}, _)
	/src/a.go:9
...31 frames elided...
main.g(...)
	/src/a.go:10
created by main.h in goroutine 7
	/src/a.go:11 +0x5
exit status 2
`
	s, err := ParseDump(strings.NewReader(strings.ReplaceAll(text, "\n", "\r\n")), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, s)
	got := map[string]Group{}
	for _, g := range s.Groups {
		got[fmt.Sprint(g.IDs)] = g
	}
	c := got["[7]"]
	if want := []Frame{{Func: "non-Go function"}, {"poll", "/usr/src/c file.c", 12}, {"main._Cfunc_poll", "C:/my src/x.go", 4}}; !slices.Equal(c.Stack, want) ||
		c.State != "syscall" || c.WaitMax != 5400 || c.Locked != 1 {
		t.Errorf("in C: %+v", c)
	}
	if g := got["[8]"]; g.State != "running" || len(g.Stack) != 0 || g.Creator == nil || g.Creator.Func != "main.main" || g.Parents != nil {
		t.Errorf("no stack: %+v", g)
	}
	if g := got["[9]"]; g.State != "chan receive" || g.Parents["main._Cfunc_poll"] != 1 || len(g.Stack) != 3 || g.Stack[1] != (Frame{Func: Elided, Line: 31}) {
		t.Errorf("elided: %+v", g)
	}
	if s.Total != 3 || !s.Truncated {
		t.Errorf("%d goroutines, truncated %v", s.Total, s.Truncated)
	}
}

// TestNotGoroutines: what is no list is an error, not an empty snapshot.
func TestNotGoroutines(t *testing.T) {
	for _, text := range []string{"", "\n\n", "404 page not found\n", "goroutine profile: x", "goroutine x [running]:\n", "goroutine 1 running\n"} {
		if s, err := ParseDump(strings.NewReader(text), Limits{}); !errors.Is(err, ErrNotGoroutines) {
			t.Errorf("%q: %+v, %v", text, s, err)
		}
		if s, err := ParseCounts(strings.NewReader(text), Limits{}); !errors.Is(err, ErrNotGoroutines) {
			t.Errorf("%q: %+v, %v", text, s, err)
		}
	}
	broken := errors.New("broken")
	if _, err := ParseDump(&failing{dumpFile(t, "go1.21.txt")[:5000], broken}, Limits{}); !errors.Is(err, broken) {
		t.Errorf("a reader that fails: %v", err)
	}
}

type failing struct {
	b   []byte
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	if len(f.b) == 0 {
		return 0, f.err
	}
	n := copy(p, f.b)
	f.b = f.b[n:]
	return n, nil
}

// TestCutAnywhere: a dump that breaks off at any byte gives the goroutines before, and says so
// unless it breaks off between two lines.
func TestCutAnywhere(t *testing.T) {
	for _, name := range []string{"go1.26-leaked.txt", "go1.26-synctest.txt"} {
		b := dumpFile(t, name)
		for n := bytes.Index(b, []byte("]:")) + 2; n < len(b); n++ {
			s, err := ParseDump(bytes.NewReader(b[:n]), Limits{})
			if err != nil {
				t.Fatalf("%s cut at %d: %v", name, n, err)
			}
			check(t, s)
			if b[n-1] != '\n' && !s.Truncated {
				t.Errorf("%s cut at %d: it does not say that it is cut", name, n)
			}
			if want := strings.Count(string(b[:n]), "]:"); s.Total != want {
				t.Errorf("%s cut at %d: %d goroutines, want %d", name, n, s.Total, want)
			}
		}
	}
}

// TestLimits: past each bound the rest is summed, and the snapshot says so.
func TestLimits(t *testing.T) {
	b := dumpFile(t, "go1.26-minutes.txt")
	for name, lim := range map[string]Limits{"groups": {Groups: 3}, "sorted": {Groups: 10}, "one": {Groups: 1}, "frames": {Frames: 1}, "links": {Goroutines: 5}, "bytes": {Bytes: 9000}} {
		s, err := ParseDump(bytes.NewReader(b), lim)
		if err != nil {
			t.Fatal(err)
		}
		check(t, s)
		if !s.Truncated {
			t.Errorf("%s: it does not say that something is left out", name)
		}
		if lim.Groups > 0 {
			last := s.Groups[len(s.Groups)-1]
			if len(s.Groups) != lim.Groups+1 || last.State != StateOther || s.Total != 140 || last.WaitMax == 0 {
				t.Errorf("%s: %d groups of %d goroutines, the last %+v", name, len(s.Groups), s.Total, last)
			}
		}
		for _, g := range s.Groups {
			if lim.Frames > 0 && len(g.Stack) > 3 {
				t.Errorf("%d frames", len(g.Stack))
			}
		}
	}
	// A line longer than a line may be is cut, and what follows it is read.
	long := "goroutine 1 [running]:\nmain." + strings.Repeat("x", 3*maxLine) + "(0x1)\n\t/a.go:1 +0x1\n\ngoroutine 2 [select]:\nmain.f()\n\t/a.go:2\n"
	s, err := ParseDump(strings.NewReader(long), Limits{})
	if err != nil || s.Total != 2 || groupOf(t, s, "main.f").State != "select" {
		t.Errorf("after a long line: %+v, %v", s, err)
	}
}

// TestMadeUp: a text of nothing but distinct goroutines with long names takes a bounded part of the memory.
func TestMadeUp(t *testing.T) {
	for name, c := range map[string]struct {
		head  string
		one   string
		parse func(io.Reader, Limits) (Snapshot, error)
	}{
		"dump":   {"", "goroutine %[1]d [select]:\nmain.f%[1]d%[2]s()\n\t/%[2]s%[1]d.go:1 +0x1\n\n", ParseDump},
		"counts": {"goroutine profile: total 12000\n", "1 @ 0x%[1]x\n#\t0x%[1]x\tmain.f%[1]d%[2]s+0x1\t/%[2]s%[1]d.go:1\n\n", ParseCounts},
	} {
		var b bytes.Buffer
		b.WriteString(c.head)
		for i := range 12_000 {
			fmt.Fprintf(&b, c.one, i+1, strings.Repeat("x", 1000))
		}
		size := b.Len()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s, err := c.parse(&b, Limits{})
		runtime.ReadMemStats(&after)
		if err != nil || s.Total != 12_000 || !s.Truncated || len(s.Groups) > 2001 {
			t.Errorf("%s: %d goroutines in %d groups, %v", name, s.Total, len(s.Groups), err)
		}
		check(t, s)
		if took := after.TotalAlloc - before.TotalAlloc; took > 48<<20 {
			t.Errorf("%s: of %d bytes it made %d bytes", name, size, took)
		}
	}
}

// TestCountsText: the text of debug=1 has the same goroutines at the same places.
func TestCountsText(t *testing.T) {
	for _, v := range []string{"go1.21", "go1.26"} {
		full := parseFile(t, map[string]string{"go1.21": "go1.21.txt", "go1.26": "go1.26-minutes.txt"}[v], Limits{})
		counts, err := ParseCounts(bytes.NewReader(dumpFile(t, v+"-counts.txt")), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		check(t, counts)
		if counts.Detail != Counts || counts.Total != full.Total {
			t.Errorf("%s: %d goroutines, want %d", v, counts.Total, full.Total)
		}
		want := map[string]int{}
		for state, n := range byState(full) {
			switch {
			case strings.HasPrefix(state, "chan") || strings.HasPrefix(state, "select"):
				state = stateWaiting // this text does not tell
			}
			want[state] += n
		}
		if got := byState(counts); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", v, got, want)
		}
		if g := groupOf(t, counts, "main.(*T[...]).work"); g.Count != 101 || g.Stack[0].Line != 18 {
			t.Errorf("%s: workers: %+v", v, g)
		}
	}
	cut := dumpFile(t, "go1.26-counts.txt")[:3000]
	if s, err := ParseCounts(bytes.NewReader(cut), Limits{}); err != nil || !s.Truncated || s.Total >= 140 {
		t.Errorf("cut: %d goroutines, truncated %v, %v", s.Total, s.Truncated, err)
	}
}

func seeds(f *testing.F) {
	names, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(names) < 8 {
		f.Fatalf("seeds: %v, %v", names, err)
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// FuzzParseDump: whatever the text, the sums hold and the bounds are kept; and a goroutine
// that is put before it is found.
func FuzzParseDump(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		lim := Limits{Groups: 10, Frames: 5}
		s, err := ParseDump(bytes.NewReader(b), lim)
		if err != nil && !errors.Is(err, ErrNotGoroutines) {
			t.Fatal(err)
		}
		bounded(t, s, lim)
		own := "goroutine 18446744073709551615 [select]:\nfuzz.own(...)\n\t/own.go:1\n\n"
		with, err := ParseDump(strings.NewReader(own+string(b)), lim)
		if err != nil {
			t.Fatal(err)
		}
		bounded(t, with, lim)
		if with.Total != s.Total+1 {
			t.Errorf("%d goroutines, and %d with one more", s.Total, with.Total)
		}
		Compare(s, with)
	})
}

// FuzzParseCounts: as FuzzParseDump.
func FuzzParseCounts(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		lim := Limits{Groups: 10, Frames: 5}
		head := "goroutine profile: total 7\n"
		s, err := ParseCounts(strings.NewReader(head+string(b)), lim)
		if err != nil {
			t.Fatal(err)
		}
		bounded(t, s, lim)
		own := "7 @ 0x1 0x2\n#\t0x1\tfuzz.own+0x1\t/own.go:1\n\n"
		with, err := ParseCounts(strings.NewReader(head+own+string(b)), lim)
		if err != nil {
			t.Fatal(err)
		}
		bounded(t, with, lim)
		if with.Total != s.Total+7 {
			t.Errorf("%d goroutines, and %d with seven more", s.Total, with.Total)
		}
	})
}

func bounded(t *testing.T, s Snapshot, lim Limits) {
	t.Helper()
	if len(s.Groups) == 0 {
		return
	}
	check(t, s)
	if len(s.Groups) > lim.Groups+1 {
		t.Errorf("%d groups", len(s.Groups))
	}
	for _, g := range s.Groups {
		if len(g.Stack) > lim.Frames {
			t.Errorf("%d frames", len(g.Stack))
		}
	}
}
