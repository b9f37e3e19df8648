package lock

//lint:file-ignore SA2001 locking is what is tested

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/pprof/profile"
)

// take is the profile of g, as google/pprof reads it.
func take(t *testing.T, g *registry) *profile.Profile {
	t.Helper()
	var b bytes.Buffer
	if err := g.writeProfile(&b); err != nil {
		t.Fatal(err)
	}
	p, err := profile.Parse(&b)
	if err == nil {
		err = p.CheckValid()
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// samples are those of a lock.
func samples(p *profile.Profile, name, mode string) []*profile.Sample {
	return slices.DeleteFunc(slices.Clone(p.Sample), func(s *profile.Sample) bool {
		return strings.Join(s.Label["lock"], ",") != name || strings.Join(s.Label["mode"], ",") != mode
	})
}

// functions are a sample's, leaf first.
func functions(s *profile.Sample) (names []string) {
	for _, l := range s.Location {
		for _, ln := range l.Line {
			names = append(names, strings.TrimPrefix(ln.Function.Name, "github.com/quantra-l/quantra/agent/lock."))
		}
	}
	return names
}

// begins fails unless the stacks of a lock begin where the program uses it, not within ours.
func begins(t *testing.T, name string) {
	t.Helper()
	n := 0
	for _, s := range take(t, all).Sample {
		if s.Label["lock"][0] != name {
			continue
		}
		n++
		if f := functions(s); !strings.HasPrefix(f[0], "Test") {
			t.Errorf("a stack is %v, want it to begin with the test", f)
		}
	}
	if n == 0 {
		t.Errorf("no stacks of %s", name)
	}
}

//go:noinline
func holder(m *Mutex, while func()) {
	inlined(m)
	while()
	m.Unlock()
}

func inlined(m *Mutex) { m.Lock() }

//go:noinline
func waiter(m *Mutex) {
	inlined(m)
	m.Unlock()
}

// The wait is where somebody waits, the hold where somebody holds.
func TestProfile(t *testing.T) {
	m := Mutex{Name: unique(t)}
	var wg sync.WaitGroup
	while := func() {
		wg.Go(func() { waiter(&m) })
		until(t, 1, m.Name, "")
		pass()
	}
	m.left = 1 // the next hold is sampled
	holder(&m, while)
	wg.Wait()
	m.left = 2 // the next hold is not: it is seen when it ends
	holder(&m, while)
	wg.Wait()

	p := take(t, all)
	var types []string
	for _, ty := range p.SampleType {
		types = append(types, ty.Type+"/"+ty.Unit)
	}
	if want := []string{"contentions/count", "wait/nanoseconds", "acquisitions/count", "hold/nanoseconds"}; !slices.Equal(types, want) {
		t.Errorf("sample types are %v, want %v", types, want)
	}
	got := samples(p, m.Name, "")
	if len(got) != 3 {
		t.Fatalf("%d samples, want 3: the waiter's, and the holder's with and without the beginning of the hold", len(got))
	}
	s := stat(t, m.Name, "")
	seen := map[string]int{}
	for _, s := range got {
		f, v := functions(s), s.Value
		leaf := s.Location[0].Line
		switch {
		case len(f) > 2 && f[0] == "inlined" && f[1] == "waiter":
			seen["waiter"]++
			if v[0] != 2 || v[1] <= 0 || v[2] != 2 || v[3] <= 0 {
				t.Errorf("the waiter's values are %v", v)
			}
			if len(leaf) != 2 {
				t.Errorf("the waiter's leaf has %d lines, want the inlined function's and its own", len(leaf))
			}
		case len(f) > 2 && f[0] == "inlined" && f[1] == "holder", f[0] == "holder":
			seen[f[0]]++
			if v[0] != 0 || v[1] != 0 || v[2] != 1 || v[3] < leastWaited {
				t.Errorf("the holder's values are %v", v)
			}
		default:
			t.Errorf("a stack is %v", f)
		}
		for _, l := range s.Location {
			for _, ln := range l.Line {
				if ln.Line < ln.Function.StartLine || ln.Function.StartLine <= 0 || ln.Function.Filename == "" || l.Address == 0 {
					t.Errorf("%s begins at line %d of %q and is at %d, %#x", ln.Function.Name, ln.Function.StartLine, ln.Function.Filename, ln.Line, l.Address)
				}
			}
		}
		if fn := leaf[0]; filepath.Base(fn.Function.Filename) != "profile_test.go" || fn.Line-fn.Function.StartLine > 3 {
			t.Errorf("the leaf is line %d of %+v", fn.Line, fn.Function)
		}
	}
	if want := map[string]int{"waiter": 1, "inlined": 1, "holder": 1}; !maps.Equal(seen, want) {
		t.Errorf("stacks are of %v, want %v", seen, want)
	}
	agree(t, *s, got)
}

// agree fails unless a lock's histograms sum up to its samples.
func agree(t *testing.T, s Stat, of []*profile.Sample) {
	t.Helper()
	var v [4]int64
	for _, s := range of {
		for i := range v {
			v[i] += s.Value[i]
		}
	}
	if want := [4]int64{s.Wait.Count, int64(s.Wait.Sum), s.Hold.Count, int64(s.Hold.Sum)}; v != want {
		t.Errorf("%s %s: the profile sums to %v, the histograms to %v", s.Name, s.Mode, v, want)
	}
}

// Under use from all sides totals never shrink, and when it is over both accounts agree.
func TestTotalsGrow(t *testing.T) {
	name := unique(t)
	m, rw := Mutex{Name: name}, RWMutex{Name: name}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	use := func(f func()) {
		for range 2 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						f()
					}
				}
			})
		}
	}
	use(func() { m.Lock(); runtime.Gosched(); m.Unlock() })
	use(func() { rw.Lock(); runtime.Gosched(); rw.Unlock() })
	use(func() { rw.RLock(); runtime.Gosched(); rw.RUnlock() })
	last := map[string][]int64{}
	grown := 0
	for range 30 {
		now := map[string][]int64{}
		for _, s := range take(t, all).Sample {
			key := fmt.Sprint(s.Label)
			for _, l := range s.Location {
				key += fmt.Sprintf(" %x", l.Address)
			}
			if now[key] != nil {
				t.Fatalf("a stack is there twice: %s", key)
			}
			now[key] = s.Value
		}
		for key, before := range last {
			after := now[key]
			if after == nil {
				t.Fatalf("a stack has gone: %s", key)
			}
			for i := range before {
				if after[i] < before[i] || after[i] < 0 {
					t.Fatalf("totals go from %v to %v: %s", before, after, key)
				}
				if after[i] > before[i] {
					grown++
				}
			}
		}
		last = now
		runtime.Gosched()
	}
	close(stop)
	wg.Wait()
	if grown == 0 {
		t.Error("nothing grew: this test saw nothing")
	}
	p := take(t, all)
	for _, mode := range []string{"", "read", "write"} {
		s := stat(t, name, mode)
		if s == nil || s.Waiting != 0 || s.Wait.Count == 0 {
			t.Errorf("mode %q: %+v, want waits, and nobody waiting", mode, s)
			continue
		}
		agree(t, *s, samples(p, name, mode))
	}
}

// left and right make 2^depth stacks.
//
//go:noinline
func left(path, depth int, f func()) { step(path, depth, f) }

//go:noinline
func right(path, depth int, f func()) { step(path, depth, f) }

func step(path, depth int, f func()) {
	switch {
	case depth == 0:
		f()
	case path&1 == 0:
		left(path>>1, depth-1, f)
	default:
		right(path>>1, depth-1, f)
	}
}

func TestStacks(t *testing.T) {
	g := newRegistry()
	m := g.series(t.Name()).mode(plain)
	const depth, n = 14, 1 << 14
	var wg sync.WaitGroup
	for range 2 { // each stack twice, at once
		wg.Go(func() {
			for path := range n {
				step(path, depth, func() {
					var pcs [maxDepth]uintptr
					m.record(pcs[:runtime.Callers(1, pcs[:])]).waitEnded(int64(path))
				})
			}
		})
	}
	wg.Wait()
	if c := g.stackCount.Load(); c != MaxStacks {
		t.Errorf("%d stacks are counted, want %d", c, MaxStacks)
	}
	p := take(t, g)
	got := samples(p, t.Name(), "")
	if len(p.Sample) != MaxStacks+1 || len(got) != MaxStacks+1 {
		t.Errorf("%d samples, want those of %d stacks and one of the rest", len(got), MaxStacks)
	}
	rest := 0
	for _, s := range got {
		if f := functions(s); len(f) == 1 && f[0] == otherStack {
			rest++
			// Two goroutines may have found the table full by a stack that the other then had not to add.
			if least := int64(2 * (n - MaxStacks)); s.Value[0] < least || s.Value[0] > least+MaxStacks {
				t.Errorf("%d waits are of other stacks, want %d", s.Value[0], least)
			}
		} else if s.Value[0] < 1 || s.Value[0] > 2 {
			t.Errorf("%d waits of a stack that waited twice", s.Value[0])
		}
	}
	if rest != 1 {
		t.Errorf("%d samples of other stacks, want 1", rest)
	}
	agree(t, g.stats()[0], got)
}

// A stack deeper than what is kept has its leaf.
func TestDeep(t *testing.T) {
	m := Mutex{Name: unique(t)}
	m.left = 1
	step(0, 2*maxDepth, func() { m.Lock(); m.Unlock() })
	got := samples(take(t, all), m.Name, "")
	if len(got) != 1 || got[0].Value[2] != HoldSample {
		t.Fatalf("%d samples, want one of %d holds", len(got), HoldSample)
	}
	f := functions(got[0])
	if len(f) != maxDepth || f[0] != "TestDeep.func1" || f[1] != "step" {
		t.Errorf("%d frames, want %d from the leaf: %v", len(f), maxDepth, f)
	}
}

// guarded is a writer behind a lock of ours, which somebody waits for as often as it writes.
type guarded struct {
	mu Mutex
	wg sync.WaitGroup
	bytes.Buffer
}

func (g *guarded) Write(b []byte) (int, error) {
	g.mu.Lock()
	g.wg.Go(func() { g.mu.Lock(); g.mu.Unlock() })
	for g.mu.since.Load() == 0 {
		runtime.Gosched()
	}
	g.mu.Unlock()
	g.wg.Wait()
	return g.Buffer.Write(b)
}

func TestWriteThroughLock(t *testing.T) {
	w := &guarded{mu: Mutex{Name: unique(t)}}
	if err := WriteProfile(w); err != nil {
		t.Fatal(err)
	}
	if _, err := profile.Parse(&w.Buffer); err != nil {
		t.Error(err)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestSource(t *testing.T) {
	s := Source()
	if s.Name != "lock" {
		t.Errorf("it is named %q", s.Name)
	}
	if err := s.Write(full{}); err != io.ErrShortWrite {
		t.Errorf("a writer that fails: %v", err)
	}
	if b, err := json.Marshal(s.Report()); err != nil || !bytes.Contains(b, []byte(`"locks":[`)) {
		t.Errorf("the report is %s, %v", b, err)
	}
	// The worst there is: every name, as long as can be, of characters that JSON escapes.
	g := newRegistry()
	for i := range MaxNames {
		for id := range modes {
			g.series(fmt.Sprintf("%04d", i) + strings.Repeat("\u0001", maxName)).mode(id).rest.waitEnded(int64(i) << 30)
		}
	}
	r := g.report()
	b, err := json.Marshal(r)
	if err != nil || len(b) > 60<<10 || len(r.Locks) != maxReport || r.More != int(modes)*MaxNames-maxReport {
		t.Errorf("the report is %d bytes of %d locks and %d more, %v", len(b), len(r.Locks), r.More, err)
	}
	if n := r.Locks[0].Name[:4]; n != fmt.Sprintf("%04d", MaxNames-1) {
		t.Errorf("%q is first, want the one that was waited for longest", n)
	}
}
