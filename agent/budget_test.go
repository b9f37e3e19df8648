package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/pprof/profile"
)

// costs is a window of 10 s that cost a share of a program that uses half a core.
func costs(share float64) windowCost {
	agent := time.Duration(share * float64(5*time.Second))
	return windowCost{agent: agent, samples: int(agent / (10 * time.Millisecond)), period: 10 * time.Millisecond, program: 5 * time.Second, length: 10 * time.Second}
}

var tenMegabytes = Budget{CPU: 0.01, Memory: 10e6, BytesPerMinute: 1e6}

// TestLadder: an agent that is too dear sheds types, then the rate, then pauses, and comes all the way back.
func TestLadder(t *testing.T) {
	g := newGovernor(tenMegabytes, allTypes, 200, true)
	var steps []string
	var plans []plan
	for range 60 {
		if s := g.observe(costs(0.08), 4); s != "" {
			name, why, _ := strings.Cut(s, ": ")
			if !strings.Contains(why, "8.00 % of the program's processor time, it may take 1.00 %") {
				t.Errorf("step %q does not say why", s)
			}
			steps, plans = append(steps, name), append(plans, g.plan())
		}
	}
	want := []string{"no Block", "no GoroutineLeak", "no Mutex", "no Goroutine", "no Heap|Allocs", "CPU at 100 Hz", "CPU at 50 Hz", "paused"}
	if !slices.Equal(steps, want) || !slices.Equal(g.shed(), want) {
		t.Errorf("steps %q, told %q, want %q", steps, g.shed(), want)
	}
	for i, p := range plans {
		if i > 0 && p.types&^plans[i-1].types != 0 || i > 0 && p.rate > plans[i-1].rate {
			t.Errorf("step %d takes more than the one before: %+v, %+v", i, p, plans[i-1])
		}
	}
	if last := plans[len(plans)-1]; last != (plan{}) {
		t.Errorf("paused takes %+v", last)
	}
	back := 0
	for range 400 {
		if s := g.observe(costs(0), 4); s != "" {
			if !strings.Contains(s, "taken back") {
				t.Errorf("step %q of an agent that costs nothing", s)
			}
			back++
		}
	}
	if p := g.plan(); back != len(want) || p.types != allTypes || p.rate != 200 {
		t.Errorf("%d steps back, plan %+v; want all of it again", back, p)
	}
}

// TestBudgetHolds: what is within the budget, or not surely over it, changes nothing.
func TestBudgetHolds(t *testing.T) {
	for _, c := range []windowCost{
		costs(0.009),
		costs(0.0105), // 5 samples a window: within the doubt
		{agent: 15 * time.Millisecond, samples: 1, period: 10 * time.Millisecond, program: time.Millisecond, length: 10 * time.Second}, // idle
	} {
		g := newGovernor(tenMegabytes, DefaultTypes, 100, true)
		for range 1000 {
			if s := g.observe(c, 4); s != "" {
				t.Errorf("%+v: step %q", c, s)
				break
			}
		}
	}
	g := newGovernor(Budget{CPU: -1, Memory: -1, BytesPerMinute: -1}, DefaultTypes, 100, true)
	dear := costs(0.5)
	dear.memory, dear.bytes = math.MaxInt64, 1<<40
	for range 100 {
		if s := g.observe(dear, 4); s != "" {
			t.Fatalf("without bounds: step %q", s)
		}
	}
}

// TestNoFlapping: a step that is taken back too soon is taken back ever later.
func TestNoFlapping(t *testing.T) {
	g := newGovernor(tenMegabytes, CPU|Mutex, 100, true)
	var downs []int
	for i := range 6 * 600 { // ten hours
		c := costs(0.05)
		if g.plan().types&Mutex == 0 {
			c = costs(0.001)
		}
		if s := g.observe(c, 4); strings.HasPrefix(s, "no Mutex: the agent") {
			downs = append(downs, i)
		}
	}
	if n := len(downs); n < 4 || n > 16 {
		t.Errorf("%d steps down in ten hours, at %v", n, downs)
	}
	for i := 2; i < len(downs) && i < 5; i++ {
		if a, b := downs[i-1]-downs[i-2], downs[i]-downs[i-1]; b < a*3/2 {
			t.Errorf("the steps down are at windows %v: want ever longer pauses", downs)
		}
	}
}

func TestMemoryAndBytes(t *testing.T) {
	g := newGovernor(tenMegabytes, DefaultTypes, 100, true)
	c := costs(0.001)
	c.memory = 11e6
	if s := g.observe(c, 4); !strings.Contains(s, "holds 11000000 bytes, it may hold 10000000") {
		t.Errorf("11 MB: step %q", s)
	}
	g = newGovernor(tenMegabytes, DefaultTypes, 100, true)
	c = costs(0.001)
	c.bytes = 200_000
	step := ""
	for range 3 {
		step = g.observe(c, 4)
	}
	if !strings.Contains(step, "1200000 bytes of profiles a minute") {
		t.Errorf("1.2 MB a minute: step %q", step)
	}
}

// TestHighLoad: the rate falls while all processors are busy, and rises after.
func TestHighLoad(t *testing.T) {
	g := newGovernor(tenMegabytes, DefaultTypes, 200, true)
	hot, cool := costs(0), costs(0)
	hot.program, cool.program = 38*time.Second, 20*time.Second // of 40 with 4 processors
	if s := g.observe(hot, 4); s != "" {
		t.Errorf("one hot window: %q", s)
	}
	if s := g.observe(hot, 4); !strings.HasPrefix(s, "CPU at 50 Hz") || g.plan().rate != 50 || len(g.shed()) != 1 {
		t.Errorf("two hot windows: %q, %+v", s, g.plan())
	}
	if s := g.observe(cool, 4); s == "" || g.plan().rate != 200 {
		t.Errorf("a cool window: %q, %+v", s, g.plan())
	}
}

// TestLeasedRate: the server's wish counts, below what the budget allows.
func TestLeasedRate(t *testing.T) {
	g := newGovernor(tenMegabytes, DefaultTypes, 100, true)
	g.leased = 200
	if p := g.plan(); p.rate != 200 {
		t.Errorf("leased 200: %+v", p)
	}
	g.leased = 0
	if p := g.plan(); p.rate != 0 || p.types&CPU != 0 || p.types&Heap == 0 {
		t.Errorf("leased 0: %+v", p)
	}
	g.leased, g.rates = 200, false
	if p := g.plan(); p.rate != 100 {
		t.Errorf("leased 200 where there is no such rate: %+v", p)
	}
}

// TestRates: each rate is what the profile says, and the runtime has nothing to complain of.
func TestRates(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("rates other than 100 need Linux")
	}
	if err := pprof.StartCPUProfile(io.Discard); err != nil {
		t.Skip("the tests themselves are profiled: ", err)
	}
	pprof.StopCPUProfile()
	complaint := stderrOf(t, func() {
		for _, hz := range cpuRates {
			var b bytes.Buffer
			if err := startCPU(&b, hz); err != nil {
				t.Fatal(err)
			}
			spin(func() bool { return samplesIn(hz) })
			pprof.StopCPUProfile()
			p, err := profile.Parse(&b)
			if err != nil || p.Period != int64(time.Second)/int64(hz) || len(p.Sample) == 0 {
				t.Errorf("%d Hz: period %d, %d samples, %v", hz, p.Period, len(p.Sample), err)
			}
		}
		// Where another profile runs there is an error, and nothing is said either.
		if err := pprof.StartCPUProfile(io.Discard); err != nil {
			t.Fatal(err)
		}
		defer pprof.StopCPUProfile()
		if err := startCPU(io.Discard, 200); err == nil || errors.Is(err, errRate) {
			t.Errorf("while another profile runs: %v", err)
		}
	})
	if complaint != "" {
		t.Errorf("on stderr: %q", complaint)
	}
	// The runtime does say it where the thread is not mute: else this test could not fail.
	complaint = stderrOf(t, func() {
		runtime.SetCPUProfileRate(50)
		if err := pprof.StartCPUProfile(io.Discard); err != nil {
			t.Fatal(err)
		}
		pprof.StopCPUProfile()
	})
	if !strings.Contains(complaint, "cannot set cpu profile rate") {
		t.Errorf("the runtime says %q: this test proves nothing any more", complaint)
	}
}

var spun int

// spin burns processor time until enough.
func spin(enough func() bool) {
	for !enough() {
		for i := range 1000 {
			spun += i
		}
	}
}

// samplesIn is whether the process has used ten more sampling periods of processor time since it was first asked.
func samplesIn(hz int) bool {
	user, system := processCPU()
	if spinFrom == 0 {
		spinFrom = user + system
	}
	if user+system-spinFrom > 10*time.Second/time.Duration(hz) {
		spinFrom = 0
		return true
	}
	return false
}

var spinFrom time.Duration

// stderrOf is what is written to descriptor 2 while f runs.
func stderrOf(t *testing.T, f func()) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	undo := redirectStderr(t, w)
	text := make(chan string)
	go func() {
		b, _ := io.ReadAll(r)
		text <- string(b)
	}()
	func() {
		defer undo()
		f()
	}()
	w.Close()
	return <-text
}

func TestCalibrate(t *testing.T) {
	starts, stops := 0, 0
	d := calibrateSignal(func(w io.Writer, hz int) error { starts++; return startCPU(w, hz) }, func() { stops++; pprof.StopCPUProfile() })
	if d <= 0 || d > 10*time.Millisecond || starts != stops || runtime.GOOS == "linux" && starts != 1 {
		t.Errorf("a signal costs %v, %d starts, %d stops", d, starts, stops)
	}
	if runtime.GOOS != "linux" {
		return
	}
	if d := calibrateSignal(func(io.Writer, int) error { return errors.New("taken") }, func() { t.Error("stopped") }); d != assumedSignalCost {
		t.Errorf("where another profile runs: %v", d)
	}
}

// TestOwnSamples: the agent finds its own goroutines' samples in a profile.
func TestOwnSamples(t *testing.T) {
	var b bytes.Buffer
	if err := pprof.StartCPUProfile(&b); err != nil {
		t.Skip("the tests themselves are profiled: ", err)
	}
	done := make(chan struct{})
	go pprof.Do(t.Context(), pprof.Labels(selfLabel, "1", "other", "x"), func(context.Context) {
		defer close(done)
		spin(func() bool { return samplesIn(25) })
	})
	<-done
	spin(func() bool { return samplesIn(50) })
	pprof.StopCPUProfile()
	p, err := profile.ParseData(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	want := ownSamples{period: time.Duration(p.Period)}
	for _, s := range p.Sample {
		want.all += int(s.Value[0])
		if len(s.Label[selfLabel]) > 0 {
			want.labelled += int(s.Value[0])
		}
	}
	c := &collector{}
	if got := c.own(b.Bytes()); got != want || got.labelled == 0 || got.all == got.labelled {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := c.own([]byte("no profile")); got != (ownSamples{}) {
		t.Errorf("of garbage: %+v", got)
	}
	if got := c.own(zipped([]byte{0x12, 0x7f})); got != (ownSamples{}) {
		t.Errorf("of a torn profile: %+v", got)
	}
}

// TestFigures: the runtime's figures are a sound profile whose columns are what happened.
func TestFigures(t *testing.T) {
	v := newVital()
	if gs, _ := v.look(); gs != nil {
		t.Errorf("the first look has %v, there is no window yet", gs)
	}
	spin(func() bool { return samplesIn(25) })
	runtime.GC()
	gs, f := v.look()
	if f.cpu < 300*time.Millisecond || f.cycles == 0 || f.buckets == 0 {
		t.Errorf("figures %+v", f)
	}
	from := time.Unix(1_700_000_000, 0)
	p, err := profile.ParseData(gaugeProfile(gs, from, from.Add(10*time.Second)))
	if err == nil {
		err = p.CheckValid()
	}
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]int64{}
	for _, s := range p.Sample {
		for i, n := range s.Value {
			sums[p.SampleType[i].Type] += n
		}
	}
	for _, name := range []string{"process_cpu", "heap_live", "heap_goal", "memory", "goroutines", "gomaxprocs", "sched_latency", "sched_latency_time", "gc_cpu"} {
		if sums[name] <= 0 {
			t.Errorf("%s is %d", name, sums[name])
		}
	}
	if sums["windows"] != 1 || sums["gomaxprocs"] != int64(runtime.GOMAXPROCS(0)) || sums["process_cpu"] != int64(f.cpu) || p.TimeNanos != from.UnixNano() || p.DurationNanos != int64(10*time.Second) {
		t.Errorf("windows %d, gomaxprocs %d, process_cpu %d, %d+%d", sums["windows"], sums["gomaxprocs"], sums["process_cpu"], p.TimeNanos, p.DurationNanos)
	}
	if len(gaugeTypes) != len(p.SampleType) {
		t.Errorf("%d sample types of %d", len(p.SampleType), len(gaugeTypes))
	}
}

// TestTakingTurns: two agents in one process have about as many windows each.
func TestTakingTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two, cpu := new(fakeServer), new(fakeServer), new(fakeCPU)
		a := mustStart(t, fakeOptions(one), cpu.sources())
		b := mustStart(t, fakeOptions(two), cpu.sources())
		time.Sleep(10 * time.Minute)
		if err := errors.Join(a.Stop(t.Context()), b.Stop(t.Context())); err != nil {
			t.Error(err)
		}
		if n, m := len(one.uploads()), len(two.uploads()); n < 40 || m < 40 {
			t.Errorf("%d and %d windows in 10 minutes, want a part of nearly each", n, m)
		}
		for i, s := range []*fakeServer{one, two} {
			var d time.Duration
			for _, u := range s.uploads() {
				d += instant(t, u, "until").Sub(instant(t, u, "from"))
			}
			if d < time.Minute || d > 9*time.Minute {
				t.Errorf("agent %d has profiled %v of 10 minutes", i, d)
			}
		}
		if a.Status().Gaps == 0 || b.Status().Gaps == 0 {
			t.Error("an agent does not say that it has gaps")
		}
	})
}

// TestShortestWindow: a window that Stop cuts at once has its CPU profile, and no gap.
func TestShortestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cpu := new(fakeServer), new(fakeCPU)
		src := cpu.sources()
		start := src.startCPU
		src.startCPU = func(w io.Writer, hz int) error {
			time.Sleep(time.Millisecond) // a start takes its time
			return start(w, hz)
		}
		a := mustStart(t, fakeOptions(s), src)
		time.Sleep(1100 * time.Microsecond)
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if st := a.Status(); st.Gaps != 0 || len(s.uploads()) != 1 {
			t.Errorf("%d uploads, status %+v", len(s.uploads()), st)
		}
	})
}

// TestForeignProfiler: another profiler is waited for, and left room for.
func TestForeignProfiler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cpu := new(fakeServer), new(fakeCPU)
		src := cpu.sources()
		if err := src.startCPU(io.Discard, 100); err != nil {
			t.Fatal(err)
		}
		a := mustStart(t, fakeOptions(s), cpu.sources())
		time.Sleep(13 * time.Second)
		src.stopCPU()
		time.Sleep(time.Minute)
		// The other asks twice a second, as one that wants 10 s of every minute; it gets its turn within a window.
		tries := 0
		for src.startCPU(io.Discard, 100) != nil {
			if tries++; tries > 30 {
				t.Fatal("the other never has its turn")
			}
			time.Sleep(500 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		src.stopCPU()
		time.Sleep(30 * time.Second)
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if n := len(s.uploads()); n < 5 {
			t.Errorf("%d windows beside another profiler", n)
		}
	})
}

// TestRateOfWindows: windows run at the rate that was asked for, and at the runtime's where there is no other.
func TestRateOfWindows(t *testing.T) {
	for _, possible := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s, cpu := new(fakeServer), new(fakeCPU)
			src := cpu.sources()
			if !possible {
				start := src.startCPU
				src.startCPU = func(w io.Writer, hz int) error {
					if hz != 100 {
						return errRate
					}
					return start(w, hz)
				}
			}
			o := fakeOptions(s)
			o.CPURate = 200
			a := mustStart(t, o, src)
			time.Sleep(time.Minute)
			st := a.Status()
			if err := a.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			want := 200
			if !possible {
				want = 100
				if len(st.Notes) != 1 || !strings.Contains(st.Notes[0], "100 Hz") {
					t.Errorf("warnings %q", st.Notes)
				}
			}
			if st.CPURate != want || !reflect.DeepEqual(slices.Compact(slices.Clone(cpu.hz)), []int{want}) {
				t.Errorf("rate %d, windows at %v, want %d", st.CPURate, cpu.hz, want)
			}
		})
	}
}

// TestMemoryProfileSkipped: without a garbage collection there is no new memory profile.
func TestMemoryProfileSkipped(t *testing.T) {
	lookups := 0
	src := new(fakeCPU).sources()
	src.lookup = func(name string, w io.Writer) error {
		lookups++
		return pprof.Lookup(name).WriteTo(w, 0)
	}
	a := &Agent{cfg: config{types: Heap | Allocs}, queue: newQueue(1 << 20), status: newStatus(quiet()), src: src}
	c := newCollector(a)
	defer noGC()()
	c.baseline()
	runtime.GC()
	c.collect(time.Now(), time.Now())
	was := lookups
	c.collect(time.Now(), time.Now())
	c.collect(time.Now(), time.Now())
	if lookups > was {
		t.Errorf("%d looks at allocations without a collection", lookups-was)
	}
	runtime.GC()
	c.collect(time.Now(), time.Now())
	if lookups != was+1 {
		t.Errorf("%d looks after a collection, want 1", lookups-was)
	}
}

// TestContentionSkipped: without contention there is no new mutex profile, and with it there is.
func TestContentionSkipped(t *testing.T) {
	defer runtime.SetMutexProfileFraction(runtime.SetMutexProfileFraction(1))
	lookups := 0
	src := new(fakeCPU).sources()
	src.lookup = func(name string, w io.Writer) error {
		lookups++
		return pprof.Lookup(name).WriteTo(w, 0)
	}
	a := &Agent{cfg: config{types: Mutex}, queue: newQueue(1 << 20), status: newStatus(quiet()), src: src}
	c := newCollector(a)
	c.baseline()
	for range 5 {
		contend()
		c.collect(time.Now(), time.Now())
	}
	if n, _, _ := a.queue.stats(); lookups != 6 || n != 5 {
		t.Errorf("%d looks, %d profiles of 5 windows with contention", lookups, n)
	}
	runtime.SetMutexProfileFraction(0)
	// The runtime may still note a contention of its own locks that was before.
	for range 1000 {
		was := lookups
		c.collect(time.Now(), time.Now())
		if lookups == was {
			return
		}
	}
	t.Error("each of 1000 windows without contention was looked at")
}

// TestGoroutineLeak: leaked goroutines are a profile where the runtime offers it
// (GOEXPERIMENT=goroutineleakprofile), looked for once in ten minutes, and a gap elsewhere.
func TestGoroutineLeak(t *testing.T) {
	offered := pprof.Lookup("goroutineleak") != nil
	if offered {
		leak()
	}
	src := runtimeSources
	src.rates = false
	a := &Agent{cfg: config{types: GoroutineLeak}, queue: newQueue(1 << 20), status: newStatus(quiet()), src: src}
	c := newCollector(a)
	c.settings()
	c.collect(time.Now(), time.Now())
	if n, _, _ := a.queue.stats(); n != 0 || a.status.get().Gaps != 0 {
		t.Errorf("looked at once: %d profiles", n)
	}
	look := func() (item, bool) {
		c.leaks = c.leaks.Add(-leakEvery)
		c.collect(time.Now(), time.Now())
		c.collect(time.Now(), time.Now()) // not again so soon
		return a.queue.take()
	}
	i, ok := look()
	if !offered {
		if st := a.status.get(); ok || st.Gaps != 1 || !strings.Contains(st.LastGap, "goroutineleak") {
			t.Errorf("the runtime has no such profile: %d gaps, %q", st.Gaps, st.LastGap)
		}
		return
	}
	for ; ok; i, ok = look() { // until the goroutine has come to where it leaks
		p, err := profile.ParseData(i.body)
		if err != nil || i.name != "goroutineleak" || p.SampleType[0].Type != "goroutineleak" {
			t.Fatalf("%s: %v, %v", i.name, p, err)
		}
		if sum(p, 0) > 0 {
			return
		}
	}
	t.Error("no profile")
}

// leak leaves a goroutine that nobody can wake.
//
//go:noinline
func leak() {
	c := make(chan int)
	go func() { c <- 1 }()
}

// TestRuntimeProfileIsSent: the figures go with each window, the agent's cost among them.
func TestRuntimeProfileIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cpu := new(fakeServer), new(fakeCPU)
		o := fakeOptions(s)
		o.Types = CPU | Runtime
		a := mustStart(t, o, cpu.sources())
		time.Sleep(time.Minute)
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		n := 0
		for _, u := range s.uploads() {
			if u.query.Get("name") != "runtime" {
				continue
			}
			n++
			z, err := gzip.NewReader(strings.NewReader(u.body))
			if err != nil {
				t.Fatal(err)
			}
			p, err := profile.Parse(z)
			if err != nil || len(p.Sample) == 0 {
				t.Fatalf("%v", err)
			}
		}
		if n != cpu.windows() {
			t.Errorf("%d windows, %d with figures", cpu.windows(), n)
		}
		if c := a.Status().Cost; c.Memory <= 0 || c.Budget.CPUPercent != 1 || c.SignalNanos != int64(assumedSignalCost) {
			t.Errorf("cost %+v", c)
		}
	})
}

// noGC turns the collector off.
func noGC() (undo func()) {
	was := debug.SetGCPercent(-1)
	return func() { debug.SetGCPercent(was) }
}
