package analyze

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
)

var testFrom = time.Date(2026, 11, 26, 14, 0, 0, 0, time.UTC)

// build is a profile with a sample for each line "outer;inner 10 200 lock=a", values in the order of types.
func build(t testing.TB, types []profile.ValueType, lines ...string) *profile.Profile {
	t.Helper()
	b := profile.NewBuilder(types...)
	for _, line := range lines {
		f := strings.Fields(line)
		stack := uint32(0)
		for name := range strings.SplitSeq(f[0], ";") {
			s := b.String(name)
			fn := b.Function(profile.Function{Name: s, SystemName: s})
			stack = b.Stack(stack, b.Location(profile.Location{}, profile.Line{Function: fn, Line: 7}))
		}
		var values []int64
		var labels []profile.SampleLabel
		for _, x := range f[1:] {
			if k, v, ok := strings.Cut(x, "="); ok {
				labels = append(labels, profile.SampleLabel{Key: b.String(k), Str: b.String(v)})
				continue
			}
			v, err := strconv.ParseInt(x, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, v)
		}
		b.Add(stack, b.LabelSet(labels), values...)
	}
	p := b.Profile()
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	return p
}

var (
	cpuTypes       = []profile.ValueType{{Type: "cpu", Unit: "nanoseconds"}}
	goroutineTypes = []profile.ValueType{{Type: "goroutine", Unit: "count"}}
	lockTypes      = []profile.ValueType{{Type: "contentions", Unit: "count"}, {Type: "wait", Unit: "nanoseconds"}, {Type: "acquisitions", Unit: "count"}, {Type: "hold", Unit: "nanoseconds"}}
)

// cpuOf is a CPU profile at 100 Hz with so many samples on each line.
func cpuOf(t testing.TB, lines ...string) *profile.Profile {
	p := build(t, cpuTypes, lines...)
	p.Period, p.PeriodType = 10e6, profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
	for i := range p.Values[0] {
		p.Values[0][i] *= 10e6
	}
	return p
}

// figuresOf is a runtime profile of n windows with these means.
func figuresOf(t testing.TB, n int64, figures map[string]int64) *profile.Profile {
	types := []profile.ValueType{{Type: "windows", Unit: "count"}}
	lines := []string{fmt.Sprintf("windows %d", n)}
	for _, name := range []string{"heap_live", "heap_goal", "memory_limit", "memory", "goroutines"} {
		types = append(types, profile.ValueType{Type: name})
		frame := name
		if name == "memory" {
			frame = "stacks"
		}
		lines = append(lines, frame+strings.Repeat(" 0", len(types)-1)+fmt.Sprintf(" %d", n*figures[name]))
	}
	return build(t, types, lines...)
}

// snapshot is ten minutes of two instances.
func snapshot(cpu *profile.Profile) Snapshot {
	return Snapshot{
		Service: "shop", From: testFrom, To: testFrom.Add(10 * time.Minute), Instances: 2, Covered: 20 * time.Minute,
		CPU: Profiles{cpu}, GoroutineSnapshots: 120,
	}
}

// alike is equal but for rounding.
func alike(a, b Estimate) bool {
	near := func(x, y float64) bool { return math.Abs(x-y) <= 1e-9*max(1, math.Abs(y)) }
	return near(a.Value, b.Value) && near(a.Low, b.Low) && near(a.High, b.High)
}

func mustWaste(t testing.TB, s Snapshot) []Finding {
	t.Helper()
	fs, err := Waste(s, WasteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := Waste(s, WasteOptions{})
	if err != nil || !reflect.DeepEqual(fs, again) {
		t.Errorf("the same snapshot gives other findings the second time: %v", err)
	}
	for _, f := range fs {
		checkFinding(t, &f)
		// Measured again it is what it was. What is repeated was found in an hour by instance, which in some tests is another than the profile.
		if Measures(&f) != nil && f.Kind != Repeated {
			if e, ok := Measure(&f, s); !ok || !alike(e, f.After) {
				t.Errorf("%s of %q, %q: measured again it is %+v (%v), and was %+v", f.Kind, f.Function, f.Subject, e, ok, f.After)
			}
		}
	}
	return fs
}

// checkFinding is what every finding owes its reader.
func checkFinding(t testing.TB, f *Finding) {
	t.Helper()
	switch e := f.After; {
	case f.Service == "" || !strings.HasSuffix(f.Sentence, ".") || strings.Contains(f.Sentence+f.Next, "NaN") || strings.Contains(f.Sentence+f.Next, "%!"):
		t.Errorf("%s: sentence %q, next %q", f.Kind, f.Sentence, f.Next)
	case math.IsNaN(e.Value) || e.Low > e.Value || e.High < e.Value:
		t.Errorf("%s: estimate %+v", f.Kind, e)
	case f.Samples <= 0 || f.Instances <= 0 || f.P < 0 || f.P > 1 || f.Q < 0 || f.Q > 1:
		t.Errorf("%s: rests on %v samples of %d instances, p %v, q %v", f.Kind, f.Samples, f.Instances, f.P, f.Q)
	case f.Saving != 0 && f.SavingUnit != "cores" && f.SavingUnit != "bytes" || f.Saving < 0 || math.IsNaN(f.Saving):
		t.Errorf("%s: saves %v %q", f.Kind, f.Saving, f.SavingUnit)
	case f.Type == "" || f.Unit == "" || f.Metric == "" || f.Head == nil || f.Next == "":
		t.Errorf("%s: type %q, unit %q, metric %q, head %v, next %q", f.Kind, f.Type, f.Unit, f.Metric, f.Head, f.Next)
	}
}

// of are the findings of a kind.
func of(fs []Finding, k Kind) (out []Finding) {
	for _, f := range fs {
		if f.Kind == k {
			out = append(out, f)
		}
	}
	return out
}

// tell logs findings, for who runs the tests to read.
func tell(t testing.TB, fs []Finding) {
	t.Helper()
	for _, f := range fs {
		t.Logf("%s: %s\n    %s", f.Kind, f.Sentence, f.Next)
		for _, w := range f.Warnings {
			t.Logf("    (%s)", w)
		}
	}
}

func TestWasteRefuses(t *testing.T) {
	ok := snapshot(cpuOf(t, "main.main;a.F 10"))
	for name, o := range map[string]WasteOptions{
		"HotSpot": {HotSpot: -1}, "GC": {GC: math.NaN()}, "Blocking": {Blocking: 1}, "Allocation": {Allocation: 2}, "Contention": {Contention: -0.1}, "HotSpots": {HotSpots: -1},
	} {
		if _, err := Waste(ok, o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: error %v, want one that names %s", o, err, name)
		}
	}
	none, still := ok, ok
	none.Instances, still.To = 0, still.From
	for _, s := range []Snapshot{none, still, {}} {
		if _, err := Waste(s, WasteOptions{}); !errors.Is(err, ErrNoSnapshot) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	torn := ok
	torn.PerInstance = []InstanceTables{{}, {CPU: &Table{Step: time.Minute, Total: make([]float64, 3), Profiles: make([]int, 2)}}}
	short := ok
	short.PerInstance = []InstanceTables{{Goroutines: &Table{Step: time.Minute, Total: make([]float64, 3), Profiles: make([]int, 3), Functions: []Series{{Function: "a/b.F", Full: make([]float32, 2)}}}}}
	for _, s := range []Snapshot{torn, short} {
		if _, err := Waste(s, WasteOptions{}); !errors.Is(err, ErrTable) {
			t.Errorf("a torn table: %v", err)
		}
	}
	// What is nil, empty, or of no samples says nothing.
	empty := Snapshot{Service: "s", From: testFrom, To: testFrom.Add(time.Minute), Instances: 1}
	blank := empty
	blank.CPU, blank.Memory, blank.Goroutines, blank.Locks, blank.Runtime = Profiles{nil, &profile.Profile{}}, Profiles{nil}, Profiles{nil}, Profiles{{}}, Profiles{{}}
	for _, s := range []Snapshot{empty, blank} {
		if fs := mustWaste(t, s); len(fs) > 0 {
			t.Errorf("of nothing: %+v", fs)
		}
	}
}

func TestCodeOf(t *testing.T) {
	for name, want := range map[string]codeKind{
		"runtime.mallocgc": codeRuntime, "internal/runtime/maps.(*Map).Put": codeRuntime, "memeqbody": codeRuntime, "runtime.main": codeRoot, "main.main": codeRoot,
		"main.(*Server).run": codeOwn, "github.com/acme/shop/cart.(*Cart).Add": codeOwn, "shop.(*Cart).Add": codeOwn, "shop/cart.Add[go.shape.int]": codeOwn,
		"net/http.(*conn).serve": codeStandard, "fmt.Sprintf": codeStandard, "slices.SortFunc[go.shape.[]github.com/acme/shop.Item]": codeStandard, "vendor/golang.org/x/net/http2.F": codeStandard,
		"golang.org/x/net/http2.(*Framer).ReadFrame": codeLibrary, "google.golang.org/grpc.(*Server).Serve": codeLibrary,
		"github.com/quantra-l/quantra/agent.(*collector).window": codeProfiler, "github.com/quantra-l/quantra/agent/lock.(*Mutex).Lock": codeProfiler,
	} {
		if got := codeOf(name); got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
	for name, want := range map[string]string{
		"github.com/a/b.(*T).M": "b.(*T).M", "main.f": "main.f", "slices.Sort[go.shape.[]a/b.T]": "slices.Sort[go.shape.[]a/b.T]", "a/b.F[c/d.E]": "b.F[c/d.E]",
	} {
		if got := shortFunction(name); got != want {
			t.Errorf("%s is %s for short, want %s", name, got, want)
		}
	}
}

// TestHotSpots: the deepest own function that carries a cost is named, not what everything passes through, not the runtime.
func TestHotSpots(t *testing.T) {
	const serve = "net/http.(*conn).serve;net/http.serverHandler.ServeHTTP;acme.io/shop.handle;"
	s := snapshot(cpuOf(t,
		serve+"acme.io/shop.evict 250", serve+"acme.io/shop.evict;runtime.mapIterNext 150",
		serve+"acme.io/shop.sign;crypto/sha256.Sum256;crypto/sha256.block 200",
		serve+"acme.io/shop.rare 20",
		serve+"acme.io/shop.a;strings.Fields 50", serve+"acme.io/shop.b;strings.Fields 50", serve+"acme.io/shop.c;strings.Fields 50", serve+"acme.io/shop.d;strings.Fields 50",
		serve+"github.com/quantra-l/quantra/agent/spans.(*Processor).OnStart;runtime.Stack 120", // not the handler's
		"runtime.gcBgMarkWorker;runtime.gcDrain 60", "runtime.mcall;runtime.schedule;runtime.findRunnable 100",
		"github.com/quantra-l/quantra/agent.(*Agent).run;compress/flate.(*Writer).Write 90",
	))
	fs := of(mustWaste(t, s), HotSpot)
	tell(t, fs)
	if len(fs) != 3 {
		t.Fatalf("%d hot spots, want evict, sign and strings.Fields", len(fs))
	}
	for i, want := range []struct {
		function, metric string
		share            float64
	}{{"acme.io/shop.evict", "total", 400. / 1190}, {"acme.io/shop.sign", "total", 200. / 1190}, {"strings.Fields", "self", 200. / 1190}} {
		f := fs[i]
		if f.Function != want.function && i == 0 || f.P != 1 || f.Unit != "share" {
			t.Errorf("%d: %+v", i, f)
		}
		if f.Function == want.function && (f.Metric != want.metric || math.Abs(f.After.Value-want.share) > 1e-9) {
			t.Errorf("%s: %s %v, want %s %v", f.Function, f.Metric, f.After.Value, want.metric, want.share)
		}
	}
	// Counts of samples say the same as their nanoseconds.
	counted := s
	c := *s.CPU[0]
	c.SampleTypes, c.Values = []profile.ValueType{{Type: "samples", Unit: "count"}}, [][]int64{make([]int64, c.NumSamples())}
	for i, v := range s.CPU[0].Values[0] {
		c.Values[0][i] = v / 10e6
	}
	counted.CPU = Profiles{&c}
	if other := of(mustWaste(t, counted), HotSpot); !reflect.DeepEqual(other, fs) {
		t.Errorf("by samples %+v, by nanoseconds %+v", other, fs)
	}
	// With few samples the same shares are not sure: only what is above the threshold for certain is told.
	few := snapshot(cpuOf(t, serve+"acme.io/shop.evict 100", serve+"acme.io/shop.sign 8", serve+"acme.io/shop.rare 2"))
	if fs := of(mustWaste(t, few), HotSpot); len(fs) != 1 {
		t.Errorf("of 110 samples, 8 of them in sign: %+v", fs)
	}
	if fs := mustWaste(t, snapshot(cpuOf(t, serve+"acme.io/shop.evict 90"))); len(fs) > 0 {
		t.Errorf("of 90 samples: %+v", fs)
	}
}

// gcSnapshot is a service that collects for a third of its time.
func gcSnapshot(t testing.TB, live, goal, limit, memory int64) Snapshot {
	s := snapshot(cpuOf(t, "net/http.serverHandler.ServeHTTP;acme.io/shop.work 600", "runtime.gcBgMarkWorker;runtime.scanSpan 200", "runtime.bgsweep;runtime.sweepone 50",
		"net/http.serverHandler.ServeHTTP;acme.io/shop.work;runtime.mallocgc;runtime.gcAssistAlloc 100", "net/http.serverHandler.ServeHTTP;acme.io/shop.work;runtime.mallocgc 50"))
	s.Runtime = Profiles{figuresOf(t, 120, map[string]int64{"heap_live": live, "heap_goal": goal, "memory_limit": limit, "memory": memory, "goroutines": 10})}
	return s
}

// TestGCPressure: the setting and what it saves follow the model; nothing is said where there is no room, or none that is known.
func TestGCPressure(t *testing.T) {
	const mb = 1 << 20
	fs := of(mustWaste(t, gcSnapshot(t, 100*mb, 150*mb, 1000*mb, 200*mb)), GCPressure)
	tell(t, fs)
	if len(fs) != 1 {
		t.Fatalf("%+v", fs)
	}
	f := fs[0]
	// GOGC is 50 and becomes 200: a quarter of the cycles, so of 30 % marking 22.5 points are saved, of 10 s/1,200 s x 2 cores.
	if want := 0.3 * 0.75 * 10 / 1200 * 2; f.Subject != "gc_cpu" || math.Abs(f.After.Value-0.35) > 1e-9 || math.Abs(f.Saving-want) > 1e-9 || !strings.Contains(f.Next, "Set GOGC=200 instead of about 50") {
		t.Errorf("share %v, saves %v, want 0.35 and %v: %s", f.After.Value, f.Saving, want, f.Next)
	}
	if strings.Contains(f.Next, "Green Tea") {
		t.Error("a collector that is there is advised")
	}
	// Room for half as much: GOGC goes no higher than half of what is free lets it.
	fs = of(mustWaste(t, gcSnapshot(t, 100*mb, 150*mb, 300*mb, 200*mb)), GCPressure)
	if len(fs) != 1 || !strings.Contains(fs[0].Next, "Set GOGC=100 ") {
		t.Errorf("with 100 MB free: %+v", fs)
	}
	if fs = of(mustWaste(t, gcSnapshot(t, 100*mb, 105*mb, 210*mb, 205*mb)), GCPressure); len(fs) != 1 || !strings.Contains(fs[0].Next, "memory limit makes the collector run") || fs[0].Saving != 0 {
		t.Errorf("at its limit: %+v", fs)
	}
	for name, s := range map[string]Snapshot{
		"no limit":   gcSnapshot(t, 100*mb, 150*mb, 0, 200*mb),
		"no room":    gcSnapshot(t, 100*mb, 150*mb, 230*mb, 200*mb),
		"no figures": {Service: "shop", From: testFrom, To: testFrom.Add(time.Minute), Instances: 1, CPU: gcSnapshot(t, 1, 2, 3, 0).CPU},
		"little to get": func() Snapshot {
			s := gcSnapshot(t, 100*mb, 150*mb, 1000*mb, 200*mb)
			s.CPU = Profiles{cpuOf(t, "acme.io/shop.work 950", "runtime.gcBgMarkWorker 50")}
			return s
		}(),
	} {
		if fs := of(mustWaste(t, s), GCPressure); len(fs) > 0 {
			t.Errorf("%s: %+v", name, fs)
		}
	}
}

// TestAllocations: bytes count for what they cost, and the line is named.
func TestAllocations(t *testing.T) {
	s := gcSnapshot(t, 100<<20, 150<<20, 0, 0)
	types := []profile.ValueType{{Type: "alloc_objects", Unit: "count"}, {Type: "alloc_space", Unit: "bytes"}}
	s.Memory = Profiles{build(t, types,
		fmt.Sprintf("acme.io/shop.(*Shop).handle;acme.io/shop.work;bytes.growSlice 100000 %d", 900<<20), fmt.Sprintf("acme.io/shop.other;fmt.Sprintf 1000000 %d", 100<<20))}
	fs := of(mustWaste(t, s), AllocHotLoop)
	tell(t, fs)
	if len(fs) != 1 || fs[0].Function != "acme.io/shop.work" || math.Abs(fs[0].After.Value-0.9) > 1e-9 || !strings.Contains(fs[0].Sentence, "line 7 by `bytes.growSlice`") {
		t.Fatalf("%+v", fs)
	}
	// 50 of 1,000 samples in the allocator, and 0.9 of the 350 that collect.
	if want := (0.05 + 0.9*0.35) * 10 / 1200 * 2; math.Abs(fs[0].Saving-want) > 1e-9 {
		t.Errorf("saves %v cores, want %v", fs[0].Saving, want)
	}
	s.CPU = Profiles{cpuOf(t, "acme.io/shop.work 1000")}
	if fs := of(mustWaste(t, s), AllocHotLoop); len(fs) > 0 {
		t.Errorf("bytes that cost nothing: %+v", fs)
	}
}

// TestContention: a lock's waiters and holders are told, and a lock that is waited for little is not.
func TestContention(t *testing.T) {
	s := snapshot(cpuOf(t, "acme.io/shop.Put;acme.io/shop.evict 900", "acme.io/shop.Get 100"))
	lock := func(wait float64) Profiles {
		return Profiles{build(t, lockTypes,
			fmt.Sprintf("acme.io/shop.handle;acme.io/shop.Get;github.com/quantra-l/quantra/agent/lock.(*Mutex).Lock 400 %.0f 0 0 lock=prices", wait),
			fmt.Sprintf("acme.io/shop.handle;acme.io/shop.Put;github.com/quantra-l/quantra/agent/lock.(*Mutex).Lock 0 0 1000 %d lock=prices", int64(4e9)),
			"acme.io/shop.handle;acme.io/shop.Log 40 9000000000 50 1 lock=log")}
	}
	s.Locks = lock(2e9)
	// The runtime's profile has the same lock, and must not tell it again.
	s.Mutex = Profiles{build(t, []profile.ValueType{{Type: "contentions", Unit: "count"}, {Type: "delay", Unit: "nanoseconds"}},
		"acme.io/shop.Put;github.com/quantra-l/quantra/agent/lock.(*Mutex).Unlock;sync.(*Mutex).Unlock 90000 3000000000")}
	fs := of(mustWaste(t, s), Contention)
	tell(t, fs)
	if len(fs) != 1 || fs[0].Subject != "prices" || fs[0].Function != "acme.io/shop.Put" || fs[0].Samples != 400 || math.Abs(fs[0].After.Value-2./1200) > 1e-12 {
		t.Fatalf("%+v", fs)
	}
	if !strings.Contains(fs[0].Next, "`shop.evict` (100 %)") || !strings.Contains(fs[0].Sentence, "`shop.Get` wait") {
		t.Errorf("%s %s", fs[0].Sentence, fs[0].Next)
	}
	s.Locks = lock(0.2e9) // a fiftieth of the CPU time
	if fs := of(mustWaste(t, s), Contention); len(fs) > 0 {
		t.Errorf("a lock that is waited for little: %+v", fs)
	}
	s.Locks = nil
	s.Mutex = Profiles{build(t, []profile.ValueType{{Type: "contentions", Unit: "count"}, {Type: "delay", Unit: "nanoseconds"}},
		"acme.io/shop.Put;sync.(*Mutex).Unlock 90000 3000000000", "acme.io/shop.Few;sync.(*Mutex).Unlock 200 9000000000", "runtime.mcall;runtime.unlock 900000 9000000000")}
	fs = of(mustWaste(t, s), Contention)
	tell(t, fs)
	if len(fs) != 1 || fs[0].Function != "acme.io/shop.Put" || fs[0].Subject != "" || fs[0].Samples != 900 {
		t.Errorf("by the runtime's profile: %+v", fs)
	}
}

// TestBlocking: a call that requests are seen in is told; where a server waits for the next one it is not.
func TestBlocking(t *testing.T) {
	const handler = "net/http.(*conn).serve;net/http.serverHandler.ServeHTTP;acme.io/shop.save;"
	idle := []string{
		"net/http.(*conn).serve;bufio.(*Reader).Peek;net.(*conn).Read;net.(*netFD).Read;internal/poll.runtime_pollWait;runtime.gopark 9000",
		"main.main;net/http.(*Server).Serve;net.(*TCPListener).Accept;internal/poll.runtime_pollWait;runtime.gopark 120",
		"acme.io/shop.flusher;os.(*File).Sync;syscall.Fsync;syscall.Syscall 500", // nobody waits for it
		"acme.io/shop.ticker;time.Sleep;runtime.gopark 120",
		handler + "acme.io/shop.ask;net.(*conn).Read;net.(*netFD).Read;internal/poll.(*FD).Read;syscall.Read;syscall.Syscall 30", // another service's answer
		handler + "acme.io/shop.hub;runtime.selectgo;runtime.gopark 20",
		handler + "acme.io/shop.lock;sync.(*Mutex).Lock;runtime.gopark 10",
	}
	s := snapshot(cpuOf(t, handler+"acme.io/shop.work 1000"))
	s.Goroutines = Profiles{build(t, goroutineTypes, idle...)}
	if fs := of(mustWaste(t, s), Blocking); len(fs) > 0 {
		t.Errorf("of idle waits: %+v", fs)
	}
	for subject, c := range map[string]struct{ stack, next string }{
		"fsync":               {"os.(*File).Sync;internal/poll.(*FD).Fsync;syscall.Fsync;syscall.Syscall", "group commit"},
		"file I/O":            {"os.(*File).Write;internal/poll.(*FD).Write;syscall.Write;syscall.Syscall", "writes for many"},
		"DNS look-up":         {"net.(*Resolver).LookupHost;net.(*Resolver).lookupIPAddr;runtime.selectgo;runtime.gopark", "Keep"},
		"connection set-up":   {"net.(*Dialer).DialContext;net.(*Resolver).lookupIPAddr;runtime.selectgo;runtime.gopark", "keep-alive"},
		"child process":       {"os/exec.(*Cmd).Run;os/exec.(*Cmd).Wait;syscall.Syscall6", "process"},
		"database connection": {"database/sql.(*DB).QueryContext;database/sql.(*DB).conn;runtime.selectgo;runtime.gopark", "SetMaxOpenConns"},
		"sleep":               {"time.Sleep;runtime.gopark", "event"},
		"system call":         {"syscall.Flock;syscall.Syscall", "flame"},
	} {
		s.Goroutines = Profiles{build(t, goroutineTypes, append(idle, handler+"acme.io/shop.store;"+c.stack+" 60")...)}
		fs := of(mustWaste(t, s), Blocking)
		tell(t, fs)
		if len(fs) != 1 || fs[0].Subject != subject || fs[0].Function != "acme.io/shop.store" || fs[0].Samples != 60 || math.Abs(fs[0].After.Value-60./120) > 1e-12 || !strings.Contains(fs[0].Next, c.next) {
			t.Errorf("%s: %+v", subject, fs)
		}
		s.Goroutines = Profiles{build(t, goroutineTypes, append(idle, handler+"acme.io/shop.store;"+c.stack+" 7")...)}
		if fs := of(mustWaste(t, s), Blocking); len(fs) > 0 {
			t.Errorf("%s, seen 7 times: %+v", subject, fs)
		}
	}
	// The CPU profile tells of handshakes, too.
	s.Goroutines = nil
	s.CPU = Profiles{cpuOf(t, handler+"acme.io/shop.work 900", handler+"acme.io/shop.pay;crypto/tls.(*Conn).clientHandshake;crypto/ecdsa.Verify 100")}
	fs := of(mustWaste(t, s), Blocking)
	tell(t, fs)
	if len(fs) != 1 || fs[0].Function != "acme.io/shop.pay" || fs[0].Saving <= 0 {
		t.Errorf("by CPU: %+v", fs)
	}
	// And the block profile, where nobody lists goroutines.
	s.CPU = Profiles{cpuOf(t, handler+"acme.io/shop.work 1000")}
	s.Block = Profiles{build(t, []profile.ValueType{{Type: "contentions", Unit: "count"}, {Type: "delay", Unit: "nanoseconds"}},
		handler+"acme.io/shop.ask;net/http.(*Transport).getConn;runtime.selectgo 600 60000000000", handler+"acme.io/shop.wait;runtime.chanrecv1 900 90000000000")}
	fs = of(mustWaste(t, s), Blocking)
	tell(t, fs)
	if len(fs) != 1 || fs[0].Function != "acme.io/shop.ask" || fs[0].Subject != "connection set-up" || math.Abs(fs[0].After.Value-0.4) > 1e-9 || fs[0].Samples != 600 {
		t.Errorf("by the block profile: %+v", fs)
	}
}

// counts is a table of goroutines of one instance, a column a minute.
func counts(function string, x []float64) *Table {
	t := &Table{Start: testFrom, Step: time.Minute, Unit: 1, Functions: []Series{{Function: function}, {Function: "net/http.(*conn).serve"}}}
	for _, v := range x {
		t.Total, t.Profiles, t.Instances = append(t.Total, 6*v), append(t.Profiles, 6), append(t.Instances, 1)
		t.Functions[0].Full = append(t.Functions[0].Full, float32(6*v*0.9))
		t.Functions[1].Full = append(t.Functions[1].Full, 3)
	}
	return t
}

func series(n int, f func(i int) float64) (out []float64) {
	for i := range n {
		out = append(out, f(i))
	}
	return out
}

// TestGoroutineGrowth: a leak is told with its function; a warm-up, a day's wave, growing load and a random walk are not.
func TestGoroutineGrowth(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	leak := series(60, func(i int) float64 { return 40 + 5*float64(i) + 8*r.NormFloat64() })
	s := snapshot(cpuOf(t, "acme.io/shop.work 1000"))
	s.PerInstance = []InstanceTables{{Goroutines: counts("acme.io/shop.watch", leak)}, {Goroutines: counts("acme.io/shop.watch", leak)}}
	s.Goroutines = Profiles{build(t, goroutineTypes, "acme.io/shop.watch;runtime.chanrecv1;runtime.gopark 20000", "net/http.(*conn).serve 100")}
	fs := of(mustWaste(t, s), GoroutineGrowth)
	tell(t, fs)
	if len(fs) != 1 || fs[0].Function != "acme.io/shop.watch" || fs[0].P > growthP || math.Abs(fs[0].Change.Value-225) > 30 || len(fs[0].Chart) != 60 {
		t.Fatalf("%+v", fs)
	}
	if strings.Contains(fs[0].Sentence, "the work does not") || !strings.Contains(fmt.Sprint(fs[0].Warnings), "more work") {
		t.Errorf("of work that is not known: %s %v", fs[0].Sentence, fs[0].Warnings)
	}
	if !strings.Contains(fs[0].Sentence, "300 more an hour") && !strings.Contains(fs[0].Sentence, " 29") && !strings.Contains(fs[0].Sentence, " 30") {
		t.Errorf("it grows by 300 an hour: %s", fs[0].Sentence)
	}
	cpu := &Table{Start: testFrom, Step: time.Minute, Unit: 10e6}
	for i := range 60 {
		cpu.Total, cpu.Profiles = append(cpu.Total, 1e9*(40+5*float64(i))), append(cpu.Profiles, 6)
	}
	flat := &Table{Start: testFrom, Step: time.Minute, Unit: 10e6, Total: series(60, func(int) float64 { return 6e9 }), Profiles: cpu.Profiles}
	s.PerInstance = []InstanceTables{{Goroutines: counts("acme.io/shop.watch", leak), CPU: flat}}
	if fs := of(mustWaste(t, s), GoroutineGrowth); len(fs) != 1 || !strings.Contains(fs[0].Sentence, "while the work does not") {
		t.Errorf("of work that is the same: %+v", fs)
	}
	for name, in := range map[string]InstanceTables{
		"noise":    {Goroutines: counts("a/b.F", series(60, func(int) float64 { return 300 + 20*r.NormFloat64() }))},
		"warm-up":  {Goroutines: counts("a/b.F", series(60, func(i int) float64 { return 300 - 280*math.Exp(-float64(i)/8) + 5*r.NormFloat64() }))},
		"wave":     {Goroutines: counts("a/b.F", series(60, func(i int) float64 { return 300 + 200*math.Sin(float64(i)/10) }))},
		"load":     {Goroutines: counts("a/b.F", leak), CPU: cpu},
		"too few":  {Goroutines: counts("a/b.F", series(60, func(i int) float64 { return 10 + float64(i)/2 }))},
		"too soon": {Goroutines: counts("a/b.F", leak[:8])},
		"gaps":     {Goroutines: &Table{Start: testFrom, Step: time.Minute, Total: make([]float64, 60), Profiles: make([]int, 60)}},
	} {
		s.PerInstance = []InstanceTables{in}
		if fs := of(mustWaste(t, s), GoroutineGrowth); len(fs) > 0 {
			t.Errorf("%s: %s", name, fs[0].Sentence)
		}
	}
	// Bursts are never told, and a random walk, which has trends by chance, as rarely as is bearable.
	const runs = 2000
	for name, c := range map[string]struct {
		next func(at float64) float64
		most int
	}{
		"bursts":       {func(float64) float64 { return 100 * math.Exp(1.5*r.NormFloat64()) }, runs / 500},
		"random walks": {func(at float64) float64 { return max(5, at+6*r.NormFloat64()) }, runs / 50},
	} {
		told := 0
		for range runs {
			at := 200.0
			in := counts("a/b.F", series(60, func(int) float64 { at = c.next(at); return at }))
			s.PerInstance = []InstanceTables{{Goroutines: in}}
			told += len(of(mustWaste(t, s), GoroutineGrowth))
		}
		t.Logf("%d of %d %s are told", told, runs, name)
		if told > c.most {
			t.Errorf("%d of %d %s are told, want at most %d", told, runs, name, c.most)
		}
	}
}

func TestGoroutineLeaks(t *testing.T) {
	s := snapshot(nil)
	s.Leak = Profiles{build(t, []profile.ValueType{{Type: "goroutineleak", Unit: "count"}},
		"acme.io/shop.watch.func1;runtime.chansend1;runtime.gopark 60", "acme.io/shop.once;runtime.chanrecv1;runtime.gopark 3")}
	s.LeakSnapshots = 3
	fs := of(mustWaste(t, s), GoroutineLeak)
	tell(t, fs)
	if len(fs) != 1 || fs[0].Function != "acme.io/shop.watch.func1" || fs[0].After.Value != 20 || !strings.Contains(fs[0].Sentence, "a reader of a channel") {
		t.Errorf("%+v", fs)
	}
	s.LeakSnapshots = 0
	if fs := mustWaste(t, s); len(fs) > 0 {
		t.Errorf("of an unknown number of snapshots: %+v", fs)
	}
}

// TestRecursion: what has lost the beginning of its stacks is told, if stacks have the memory for it; parsers are not.
func TestRecursion(t *testing.T) {
	deep := func(n int, cycle ...string) string {
		return strings.TrimSuffix(strings.Repeat(strings.Join(cycle, ";")+";", n), ";")
	}
	figures := func(stacks int64) Profiles {
		return Profiles{figuresOf(t, 100, map[string]int64{"memory": stacks, "heap_live": 1, "heap_goal": 2, "goroutines": 5})}
	}
	runaway := cpuOf(t, deep(64, "acme.io/shop.walk", "acme.io/shop.visit")+" 300", "main.main;acme.io/shop.walk;acme.io/shop.visit 3", "main.main;acme.io/shop.work 700")
	s := snapshot(runaway)
	s.Runtime = figures(200 << 20)
	fs := of(mustWaste(t, s), Recursion)
	tell(t, fs)
	if len(fs) != 1 || !strings.HasPrefix(fs[0].Function, "acme.io/shop.") || fs[0].Samples != 300 {
		t.Fatalf("%+v", fs)
	}
	s.Runtime = figures(1 << 20)
	if fs := of(mustWaste(t, s), Recursion); len(fs) > 0 {
		t.Errorf("with 1 MB of stacks: %+v", fs)
	}
	s.Runtime = nil
	if fs := of(mustWaste(t, s), Recursion); len(fs) != 1 || len(fs[0].Warnings) == 0 {
		t.Errorf("without the memory of stacks: %+v", fs)
	}
	parser := cpuOf(t,
		"main.main;acme.io/shop.parse;"+deep(20, "encoding/json.(*decodeState).value", "encoding/json.(*decodeState).object")+" 500",
		"main.main;"+deep(40, "acme.io/shop.expr", "acme.io/shop.term")+" 500",
		deep(70, "encoding/json.(*decodeState).value")+" 200",                                  // a library's, and nothing is known of its stacks
		deep(64, "acme.io/shop.tree")+" 100", "main.main;"+deep(9, "acme.io/shop.tree")+" 100") // deep at times: a tree
	if fs := of(mustWaste(t, snapshot(parser)), Recursion); len(fs) > 0 {
		t.Errorf("parsers and trees: %s", fs[0].Sentence)
	}
}

// TestRecursionReal: profiles of four programs that each recurse for seconds: to 3,000,000 frames, over a tree of 18 levels, over a list of 5,000
// entries, and in encoding/json over 5,000 brackets.
func TestRecursionReal(t *testing.T) {
	for name, want := range map[string]int{"runaway": 1, "tree": 0, "list5000": 0, "json": 0} {
		b, err := os.ReadFile(filepath.Join("testdata", "recursion", name+".pb.gz"))
		if err != nil {
			t.Fatal(err)
		}
		p, err := profile.DecodeBytes(b, profile.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		var stacks int64
		if _, err := fmt.Sscanf(strings.Join(p.Comments, " "), "%d bytes of stacks", &stacks); err != nil {
			t.Fatalf("%s: comments %q: %v", name, p.Comments, err)
		}
		s := snapshot(p)
		s.Runtime = Profiles{figuresOf(t, 10, map[string]int64{"memory": stacks})}
		fs := of(mustWaste(t, s), Recursion)
		tell(t, fs)
		if len(fs) != want {
			t.Errorf("%s, with %d bytes of stacks: %d findings, want %d", name, stacks, len(fs), want)
		}
	}
}

// cpuTable is an instance's CPU over ten minutes of 6 windows each, a series for each function, in samples a minute.
func cpuTable(r *rand.Rand, total float64, functions map[string]float64) *Table {
	t := &Table{Start: testFrom, Step: time.Minute, Unit: 10e6}
	poisson := func(m float64) float64 { return math.Max(0, math.Round(m+math.Sqrt(m)*r.NormFloat64())) }
	for range 10 {
		t.Total, t.Profiles = append(t.Total, 10e6*poisson(total)), append(t.Profiles, 6)
	}
	for _, name := range sorted(functions) {
		s := Series{Function: name}
		for range 10 {
			s.Full = append(s.Full, float32(10e6*poisson(functions[name])))
		}
		t.Functions = append(t.Functions, s)
	}
	return t
}

func sorted(m map[string]float64) (out []string) {
	for _, w := range heaviest(map[string]float64(m)) {
		out = append(out, w.name)
	}
	return out
}

// TestRepeated: a refresh that costs all the same is told, work that goes with the load is not, and nothing where loads do not differ.
func TestRepeated(t *testing.T) {
	run := func(seed uint64, loads ...float64) []Finding {
		r := rand.New(rand.NewPCG(seed, 2))
		s := snapshot(cpuOf(t, "acme.io/shop.refreshLoop;acme.io/shop.refresh 400", "net/http.serverHandler.ServeHTTP;acme.io/shop.serve 8000"))
		for _, l := range loads {
			s.PerInstance = append(s.PerInstance, InstanceTables{CPU: cpuTable(r, 60+l, map[string]float64{
				"acme.io/shop.refresh": 60, "acme.io/shop.refreshLoop": 60, "acme.io/shop.serve": l, "acme.io/shop.render": l / 5, "encoding/json.Marshal": l / 10,
			})})
		}
		return of(mustWaste(t, s), Repeated)
	}
	fs := run(1, 300, 600, 900, 400)
	tell(t, fs)
	if len(fs) != 1 || fs[0].Function != "acme.io/shop.refresh" && fs[0].Function != "acme.io/shop.refreshLoop" || fs[0].Saving <= 0 || fs[0].P > repeatedP {
		t.Fatalf("%+v", fs)
	}
	if fs := run(1, 500, 510, 490, 505); len(fs) > 0 {
		t.Errorf("loads that do not differ: %+v", fs)
	}
	if fs := run(1, 300, 900); len(fs) > 0 {
		t.Errorf("two instances: %+v", fs)
	}
	found, wrong := 0, 0
	for seed := range uint64(200) {
		for _, f := range run(seed, 300, 600, 900, 400) {
			if strings.HasPrefix(f.Function, "acme.io/shop.refresh") {
				found++
			} else {
				wrong++
			}
		}
	}
	t.Logf("found in %d of 200 fleets, %d others told", found, wrong)
	if found < 170 || wrong > 1 {
		t.Errorf("found in %d of 200 fleets, %d others told", found, wrong)
	}
}

// demoCapture is a minute, or one and a half, of the demo fleet as its agents sent it, summed over its four instances, on a machine
// whose two processors other programs wanted, too.
func demoCapture(t testing.TB, name string) Snapshot {
	t.Helper()
	read := func(file string) (*profile.Profile, int) {
		b, err := os.ReadFile(filepath.Join("testdata", "demo_"+name, file+".pb.gz"))
		if err != nil {
			t.Fatal(err)
		}
		p, err := profile.DecodeBytes(b, profile.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		if _, err := fmt.Sscanf(strings.Join(p.Comments, " "), "%d profiles", &n); err != nil {
			t.Fatalf("%s: comments %q: %v", file, p.Comments, err)
		}
		return p, n
	}
	s := Snapshot{Service: "checkout", Instances: 4}
	for file, to := range map[string]*Profiles{"process_cpu": &s.CPU, "memory": &s.Memory, "goroutine": &s.Goroutines, "mutex": &s.Mutex, "lock": &s.Locks, "runtime": &s.Runtime} {
		p, n := read(file)
		*to = Profiles{p}
		switch file {
		case "process_cpu":
			s.From = time.Unix(0, p.TimeNanos)
			s.To = s.From.Add(time.Duration(p.DurationNanos) / 4)
		case "goroutine":
			s.GoroutineSnapshots = n
		}
	}
	return s
}

// TestDemo: in real profiles of the demo fleet what is planted is found, and nothing else is claimed.
func TestDemo(t *testing.T) {
	const demo = "github.com/quantra-l/quantra/cmd/quantraband/demo."
	want := map[string]bool{ // see demo.Planted: regressions are found by others
		"contention " + demo + "(*Ledger).Post ledger":                    true,
		"blocking " + demo + "(*Bank).authorisePayment connection set-up": true,
		"gc_pressure  gc_cpu":                        true,
		"allocation " + demo + "compressJournal ":    true,
		"contention " + demo + "(*Cache).Put prices": false, // follows from v2's eviction under the lock
	}
	for _, name := range []string{"minute", "longer"} {
		t.Run(name, func(t *testing.T) {
			fs := mustWaste(t, demoCapture(t, name))
			tell(t, fs)
			found := map[string]bool{}
			for _, f := range fs {
				key := fmt.Sprintf("%s %s %s", f.Kind, f.Function, f.Subject)
				if _, ok := want[key]; !ok && f.Kind != HotSpot {
					t.Errorf("claimed: %s", key)
				}
				if f.Kind == HotSpot && !strings.HasPrefix(f.Function, demo) {
					t.Errorf("a hot spot that nobody of the demo wrote: %s", f.Function)
				}
				found[key] = true
			}
			for key, must := range want {
				if must && !found[key] {
					t.Errorf("not found: %s", key)
				}
			}
		})
	}
}

// TestCorpus: real programs that only compute are told what they compute, what they allocate, the one lock that their load holds for half
// of the time (codecLoad in profile), and nothing else.
func TestCorpus(t *testing.T) {
	locks := 0
	for _, name := range []string{"cache", "deflate", "hash", "json", "regexp", "sort"} {
		s := Snapshot{
			Service: name, From: testFrom, To: testFrom.Add(time.Second), Instances: 1, GoroutineSnapshots: 60, LeakSnapshots: 1,
			CPU: Profiles{corpusProfile(t, name+"_cpu")}, Memory: Profiles{corpusProfile(t, name+"_allocs")}, Goroutines: Profiles{corpusProfile(t, name+"_goroutine")},
			Mutex: Profiles{corpusProfile(t, name+"_delta_mutex")}, Block: Profiles{corpusProfile(t, name+"_block")},
		}
		fs := mustWaste(t, s)
		tell(t, fs)
		for _, f := range fs {
			if f.Kind == Contention && strings.HasSuffix(f.Function, "codecLoad.func1.1") {
				locks++
			} else if f.Kind != HotSpot && f.Kind != AllocHotLoop || codeOf(f.Function) == codeRuntime {
				t.Errorf("%s: claimed: %s of %s: %s", name, f.Kind, f.Function, f.Sentence)
			}
		}
		if len(of(fs, HotSpot)) == 0 {
			t.Errorf("%s: no hot spot", name)
		}
	}
	if locks == 0 {
		t.Error("the lock of the load is not found")
	}
}

func BenchmarkWaste(b *testing.B) {
	s := demoCapture(b, "longer")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Waste(s, WasteOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAnomalies(b *testing.B) {
	past, now, _ := planted(b, 1, 500)
	var all []Shape
	for _, two := range now {
		all = append(all, two[0])
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Anomalies("s", profile.Type{}, all, past, AnomalyOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
