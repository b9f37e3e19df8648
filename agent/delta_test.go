package agent

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

func lookup(t testing.TB, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := runtimeSources.lookup(name, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func parsed(t testing.TB, b []byte) *profile.Profile {
	t.Helper()
	p, err := profile.ParseData(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.CheckValid(); err != nil {
		t.Fatal(err)
	}
	return p
}

func sum(p *profile.Profile, column int) (n int64) {
	for _, s := range p.Sample {
		n += s.Value[column]
	}
	return n
}

func memoryMeter() *meter {
	alloc, inuse := column{keep: true, delta: true}, column{keep: true}
	return newMeter(new(scratch), "memory", "allocs", alloc, alloc, inuse, inuse)
}

var sink [][]byte

//go:noinline
func allocateDeep(depth, n int) {
	if depth > 0 {
		allocateDeep(depth-1, n)
		return
	}
	for range n {
		sink = append(sink, make([]byte, 64<<10))
	}
}

// TestMemoryAgrees: a window's values are the difference of runtime/pprof's own, read by
// google/pprof, sum for sum; what is live is the same, and stacks are whole.
func TestMemoryAgrees(t *testing.T) {
	m := memoryMeter()
	first := lookup(t, "allocs")
	if b, err := m.measure(first, time.Now(), time.Now()); b != nil || err != nil {
		t.Fatalf("first look: %d bytes, %v; want none", len(b), err)
	}
	last := parsed(t, first)
	for round := range 3 {
		allocateDeep(60, 200*(round+1))
		runtime.GC() // publishes what was allocated; the agent never does this
		runtime.GC()
		totals := lookup(t, "allocs")
		from := time.Now()
		b, err := m.measure(totals, from, from.Add(10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		got, want := parsed(t, b), parsed(t, totals)
		for c, what := range []string{"alloc_objects", "alloc_space", "inuse_objects", "inuse_space"} {
			w := sum(want, c)
			if c < 2 {
				w -= sum(last, c)
			}
			if g := sum(got, c); g != w || w == 0 {
				t.Errorf("round %d: %s is %d, runtime/pprof's is %d", round, what, g, w)
			}
			if got.SampleType[c].Type != what {
				t.Errorf("column %d is %s, want %s", c, got.SampleType[c].Type, what)
			}
		}
		if got.TimeNanos != from.UnixNano() || got.DurationNanos != int64(10*time.Second) || got.Period != want.Period || got.PeriodType.Type != "space" || got.DefaultSampleType != "alloc_space" {
			t.Errorf("round %d: time %d, duration %d, period %d %s, default %s", round, got.TimeNanos, got.DurationNanos, got.Period, got.PeriodType.Type, got.DefaultSampleType)
		}
		checkDeep(t, got)
		last = want
	}
	sink = nil
}

// checkDeep finds the stack of allocateDeep with all its 61 calls, start lines, mapping and size label.
func checkDeep(t *testing.T, p *profile.Profile) {
	t.Helper()
	for _, s := range p.Sample {
		calls := 0
		for _, l := range s.Location {
			for _, ln := range l.Line {
				if strings.HasSuffix(ln.Function.Name, "agent.allocateDeep") {
					calls++
					if ln.Function.StartLine == 0 || ln.Line <= ln.Function.StartLine {
						t.Errorf("line %d of a function that starts at %d", ln.Line, ln.Function.StartLine)
					}
					if l.Mapping == nil || l.Address == 0 {
						t.Error("location without mapping or address")
					}
				}
			}
		}
		if calls == 61 && len(s.NumLabel["bytes"]) == 1 {
			return
		}
	}
	t.Errorf("no sample has all 61 calls of allocateDeep: stacks are cut")
}

// TestContentionAgrees: mutex and block windows are differences of runtime/pprof's own.
func TestContentionAgrees(t *testing.T) {
	defer runtime.SetMutexProfileFraction(runtime.SetMutexProfileFraction(1))
	runtime.SetBlockProfileRate(1)
	defer runtime.SetBlockProfileRate(0)
	for _, name := range []string{"mutex", "block"} {
		both := column{keep: true, delta: true}
		m := newMeter(new(scratch), name, name, both, both)
		contend()
		first := lookup(t, name)
		if _, err := m.measure(first, time.Now(), time.Now()); err != nil {
			t.Fatal(err)
		}
		contend()
		totals := lookup(t, name)
		b, err := m.measure(totals, time.Now(), time.Now())
		if err != nil || b == nil {
			t.Fatalf("%s: %d bytes, %v", name, len(b), err)
		}
		got, before, after := parsed(t, b), parsed(t, first), parsed(t, totals)
		for c := range 2 {
			if g, w := sum(got, c), sum(after, c)-sum(before, c); g != w || w <= 0 {
				t.Errorf("%s: column %d is %d, runtime/pprof's is %d", name, c, g, w)
			}
		}
		if b, err := m.measure(totals, time.Now(), time.Now()); b != nil || err != nil {
			t.Errorf("%s: %d bytes of a window in which nothing was, %v", name, len(b), err)
		}
	}
}

func contend() {
	var mu sync.Mutex
	var wg sync.WaitGroup
	mu.Lock()
	for range 20 {
		wg.Go(func() { mu.Lock(); runtime.Gosched(); mu.Unlock() })
	}
	for range 1000 {
		runtime.Gosched() // lets them come to the lock
	}
	mu.Unlock()
	wg.Wait()
}

// TestColumns: one half of the memory profile alone.
func TestColumns(t *testing.T) {
	allocateDeep(1, 50)
	runtime.GC()
	runtime.GC()
	off, live := column{}, column{keep: true}
	m := newMeter(new(scratch), "memory", "allocs", off, off, live, live)
	if _, err := m.measure(lookup(t, "allocs"), time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	b, err := m.measure(lookup(t, "allocs"), time.Now(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if p := parsed(t, b); len(p.SampleType) != 2 || p.SampleType[0].Type != "inuse_objects" || p.DefaultSampleType == "alloc_space" {
		t.Errorf("types %v, default %q; want inuse alone", p.SampleType, p.DefaultSampleType)
	}
	sink = nil
}

// TestNewRate: when the sampling rate changes, the past scales anew and no difference is reported.
func TestNewRate(t *testing.T) {
	m := memoryMeter()
	totals := lookup(t, "allocs")
	if _, err := m.measure(totals, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	p := parsed(t, totals)
	p.Period *= 2
	for _, s := range p.Sample {
		s.Value[0], s.Value[1] = s.Value[0]*2, s.Value[1]*2
	}
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	out, err := m.measure(b.Bytes(), time.Now(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if out != nil {
		if p := parsed(t, out); sum(p, 0)+sum(p, 1) != 0 {
			t.Errorf("%d objects allocated by a change of rate", sum(p, 0))
		}
	}
}

// TestWholeAgent uploads all types to a real server, whose reader is google/pprof.
func TestWholeAgent(t *testing.T) {
	defer runtime.SetBlockProfileRate(0)
	var mu sync.Mutex
	seen := map[string]bool{}
	all := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == pollPath {
			http.NotFound(w, r)
			return
		}
		p, err := profile.Parse(r.Body)
		name := r.URL.Query().Get("name")
		if err != nil || p.CheckValid() != nil || r.URL.Path != "/api/v1/profiles" {
			t.Errorf("%s %s: %v", r.URL.Path, name, err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		io.WriteString(w, `{"service":"x"}`)
		seen[name] = true
		if len(seen) == 6 && all != nil {
			close(all)
			all = nil
		}
	}))
	defer srv.Close()
	done := all
	a, err := Start(t.Context(), Options{Server: srv.URL, Types: DefaultTypes | Block, Window: 100 * time.Millisecond, Upload: 50 * time.Millisecond, Logger: quiet(), SpoolBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	busy, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for busy.Err() == nil {
			contend()
		}
	})
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		mu.Lock()
		t.Errorf("after 30 s only %v came; status %+v", seen, a.Status())
		mu.Unlock()
	}
	cancel()
	wg.Wait()
	if err := a.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRealGap: another user of the runtime's CPU profiler is a gap, not a failure.
func TestRealGap(t *testing.T) {
	if err := pprof.StartCPUProfile(new(bytes.Buffer)); err != nil {
		t.Skip("the tests themselves are profiled: ", err)
	}
	s := new(fakeServer)
	o := fakeOptions(s)
	o.Window = 100 * time.Millisecond
	a, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for tick := time.NewTicker(time.Millisecond); a.Status().Gaps == 0; <-tick.C {
	}
	pprof.StopCPUProfile()
	for tick := time.NewTicker(time.Millisecond); a.Status().Uploaded == 0; <-tick.C {
	}
	if err := a.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// FuzzMeasure: no totals, however broken, make a meter panic, and what it makes of them is a profile.
func FuzzMeasure(f *testing.F) {
	for _, name := range []string{"allocs", "heap"} {
		p := parsed(f, lookup(f, name))
		p.Sample = p.Sample[:min(20, len(p.Sample))]
		p = p.Compact()
		var b bytes.Buffer
		if err := p.WriteUncompressed(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:b.Len()/2])
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := memoryMeter()
		totals := zipped(raw)
		if _, err := m.measure(totals, time.Now(), time.Now()); err != nil {
			return
		}
		out, err := m.measure(totals, time.Now(), time.Now())
		if err != nil || out == nil {
			return
		}
		if _, err := memoryMeter().measure(out, time.Now(), time.Now()); err != nil {
			t.Fatalf("its own output: %v", err)
		}
	})
}

// BenchmarkMemoryWindow is what the memory profile of one window costs, runtime/pprof's part apart.
func BenchmarkMemoryWindow(b *testing.B) {
	totals := lookup(b, "allocs")
	m := memoryMeter()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.measure(totals, time.Now(), time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
