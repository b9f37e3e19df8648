package runtime

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/profile"
)

var began = time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)

// cpu is a CPU profile of 10 ms samples: so many of marking, of sweeping, and of the program's own.
func cpu(marking, sweeping, own int64) analyze.Profiles {
	nanos := profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
	b := profile.NewBuilder(nanos)
	for _, s := range []struct {
		stack []string
		n     int64
	}{
		{[]string{"runtime.gcBgMarkWorker", "runtime.systemstack", "runtime.gcDrain", "runtime.scanSpan"}, marking},
		{[]string{"main.main", "main.handle", "runtime.mallocgc", "runtime.deductSweepCredit", "runtime.sweepone"}, sweeping},
		{[]string{"main.main", "main.handle"}, own},
	} {
		stack := uint32(0)
		for _, f := range s.stack {
			stack = b.Stack(stack, b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String(f)})}))
		}
		b.Add(stack, 0, s.n*10e6)
	}
	p := b.Profile()
	p.Period, p.PeriodType = 10e6, nanos
	return analyze.Profiles{p}
}

// shop is one instance over ten minutes in windows of 10 s: GOGC 100 under 400 MiB, 40 MiB live, a goal of 80, 120 in use.
func shop(id string) Instance {
	r := rand.New(rand.NewPCG(1, uint64(len(id))+uint64(id[0])))
	in := Instance{ID: id, Version: "v1", Settings: Settings{num(100), num(400 << 20), num(2)}}
	for i := range 60 {
		from := began.Add(time.Duration(i) * 10 * time.Second)
		noise := 1 + 0.02*r.NormFloat64()
		in.Windows = append(in.Windows, Window{
			From: from, To: from.Add(10 * time.Second), CPU: 5 * noise, GC: 1 * noise, Live: noise * (40 << 20), Goal: noise * (80 << 20), Memory: 120 << 20, RSS: 130 << 20,
			Cores: 4, Load: 2, SchedTime: 0.1,
		})
	}
	return in
}

func input(instances ...Instance) Input {
	return Input{Service: "checkout", From: began, To: began.Add(10 * time.Minute), CPU: cpu(1500, 400, 8100), Cores: 2, Instances: instances}
}

// each changes every window of an instance.
func each(in Instance, change func(i int, w *Window)) Instance {
	for i := range in.Windows {
		change(i, &in.Windows[i])
	}
	return in
}

func one(t *testing.T, in Input) optimize.Proposal {
	t.Helper()
	ps := Propose(in)
	if len(ps) != 1 {
		t.Fatalf("%d proposals, want one: %+v", len(ps), ps)
	}
	p := ps[0]
	if _, err := ParseSpec(p.Spec); err != nil || p.Kind != optimize.Runtime || p.Service != in.Service || len(p.Evidence) == 0 {
		t.Errorf("%+v: %v", p, err)
	}
	if _, err := json.Marshal(p); err != nil {
		t.Error(err)
	}
	return p
}

// TestProposeGC: known figures. Marking is 15 % of the CPU; below 400 MiB 268 (less the pacer's 3 % of it) are free at the fullest, of which half may go,
// to a room of 40 that grows with GOGC: 100 * (1 + 134/40) is above 400, which is four times as rare. Of sweeping, 4 %, it saves 1 - (1 + 40/160) / (1 + 40/40).
func TestProposeGC(t *testing.T) {
	a, b := shop("a"), shop("b")
	b.Version = "v2"
	p := one(t, input(a, b))
	if string(p.Spec) != `{"gogc":400}` || p.Subject != "gc" || p.Basis != "v1,v2" {
		t.Errorf("%s %q on %q", p.Spec, p.Subject, p.Basis)
	}
	e := p.Expected["cpu_per_request"]
	if math.Abs(e.Value+0.15*0.75+0.04*0.375) > 0.002 || e.Low >= e.Value || e.High <= e.Value || e.High >= -0.03 {
		t.Errorf("expected %+v, want -0.15 * 3/4 - 0.04 * 3/8", e)
	}
	if r := p.Expected["rss"]; math.Abs(r.Value-120./130) > 0.02 || r.Low >= r.Value || r.High <= r.Value {
		t.Errorf("memory %+v, want 3 times the room of 40 MiB over 130", r)
	}
	if math.Abs(p.Saving-2*(0.15*0.75+0.04*0.375)) > 0.004 {
		t.Errorf("saves %v cores, want 2 * 0.13", p.Saving)
	}
	for _, figure := range []string{"checkout spends 19 % of its CPU in GC", "15 % is marking", "70 % of its memory limit unused", "120 MiB of 400 MiB", "40 MiB live", "a goal of 80 MiB", "2 instances",
		"GOGC 100 -> 400 under GOMEMLIMIT 400 MiB", "expected -13 % CPU", "120 MiB more memory"} {
		if !strings.Contains(p.Sentence, figure) {
			t.Errorf("%q does not say %q", p.Sentence, figure)
		}
	}
	for _, m := range p.Metrics {
		if m.Name == "rss" && (m.Tolerate < 1 || m.Bound < 400<<20 || m.Bound > 500<<20) {
			t.Errorf("memory is judged by %+v", m)
		}
	}
	if again := one(t, input(a, b)); again.ID() != p.ID() || again.Sentence != p.Sentence {
		t.Error("the same input gives another proposal")
	}
}

// TestProposeWorst: what one instance cannot have, none gets.
func TestProposeWorst(t *testing.T) {
	full := each(shop("b"), func(i int, w *Window) {
		if i == 30 {
			w.Memory = 300 << 20 // a peak
		}
	})
	// 400 * 0.97 - 300 = 88 MiB are free, half of which is 44 of a room of 40: up to 210, as a person writes it 200.
	if p := one(t, input(shop("a"), full)); string(p.Spec) != `{"gogc":200}` || !strings.Contains(p.Sentence, "25 % of its memory limit unused (300 MiB of 400 MiB") {
		t.Errorf("%s: %s", p.Spec, p.Sentence)
	}
	other := shop("b")
	other.Settings.GOGC = num(50)
	other = each(other, func(_ int, w *Window) { w.Goal = 60 << 20 })
	// The least of what is wanted is four times 50.
	if p := one(t, input(shop("a"), other)); string(p.Spec) != `{"gogc":200}` || !strings.Contains(p.Sentence, "GOGC 50 to 100 -> 200") {
		t.Errorf("%s: %s", p.Spec, p.Sentence)
	}
}

// TestProposeNothing: no proposal of the collector rests on what is missing, cannot be, or forbids it.
func TestProposeNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for name, change := range map[string]func(in *Input){
		"no instances":      func(in *Input) { in.Instances = nil },
		"no profile":        func(in *Input) { in.CPU = nil },
		"few samples":       func(in *Input) { in.CPU = cpu(60, 16, 324) },
		"little marking":    func(in *Input) { in.CPU = cpu(300, 400, 9300) },
		"a little sweeping": func(in *Input) { in.CPU = cpu(0, 500, 9500) },
		"few windows":       func(in *Input) { in.Instances[0].Windows = in.Instances[0].Windows[:11] },
		"a short time": func(in *Input) {
			each(in.Instances[0], func(i int, w *Window) {
				w.From = began.Add(time.Duration(i) * time.Second)
				w.To = w.From.Add(time.Second)
				w.CPU = 1
			})
		},
		"no limit":               func(in *Input) { in.Instances[0].Settings.MemoryLimit = num(NoLimit) },
		"settings unknown":       func(in *Input) { in.Instances[0].Settings = Settings{} },
		"GOGC off":               func(in *Input) { in.Instances[0].Settings.GOGC = num(-1) },
		"a person's lease":       func(in *Input) { in.Instances[0].Foreign = true },
		"changed already":        func(in *Input) { in.Instances[0].Leased = Settings{GOGC: num(60)} },
		"the limit drives":       func(in *Input) { each(in.Instances[0], func(_ int, w *Window) { w.Goal = w.Live * 1.2 }) },
		"the limit is full":      func(in *Input) { each(in.Instances[0], func(_ int, w *Window) { w.Memory = 380 << 20 }) },
		"a peak fills it":        func(in *Input) { in.Instances[0].Windows[7].Memory = 390 << 20 },
		"a peak of what is live": func(in *Input) { in.Instances[0].Windows[7].Live = 330 << 20 },
		"a finding of growth":    func(in *Input) { in.Growing = []string{"goroutines leak in a"} },
		"a leak": func(in *Input) {
			each(in.Instances[0], func(i int, w *Window) { w.Live *= 1 + 0.002*float64(i); w.Goal = 2 * w.Live })
		},
		"a slow leak": func(in *Input) {
			each(in.Instances[0], func(i int, w *Window) { w.Live = (40 << 20) * (1 + 0.00025*float64(i) + 0.0005*r.NormFloat64()) })
		},
		"NaN":                    func(in *Input) { in.Instances[0].Windows[5].Live = math.NaN() },
		"infinite":               func(in *Input) { in.Instances[0].Windows[5].Goal = math.Inf(1) },
		"below zero":             func(in *Input) { in.Instances[0].Windows[5].CPU = -1 },
		"more CPU than cores":    func(in *Input) { in.Instances[0].Windows[5].CPU = 100 },
		"windows without length": func(in *Input) { in.Instances[0].Windows[5].To = in.Instances[0].Windows[5].From },
		"windows in disorder":    func(in *Input) { w := in.Instances[0].Windows; w[5], w[6] = w[6], w[5] },
		"no live heap":           func(in *Input) { each(in.Instances[0], func(_ int, w *Window) { w.Live = 0 }) },
		"most instances unknown": func(in *Input) { in.Instances = append(in.Instances, Instance{ID: "b"}, Instance{ID: "c"}) },
		"a limit here, none there": func(in *Input) {
			b := each(shop("b"), func(_ int, w *Window) { w.MemoryMax = 1 << 30 })
			b.Settings.MemoryLimit = num(NoLimit)
			in.Instances = append(in.Instances, b)
		},
	} {
		in := input(shop("a"))
		if change(&in); true {
			if ps := Propose(in); len(ps) > 0 {
				t.Errorf("%s: %s", name, ps[0].Sentence)
			}
		}
	}
	if len(Propose(input(shop("a")))) == 0 {
		t.Error("unchanged there is nothing either: the test shows nothing")
	}
}

// TestProposeLeaks: of a hundred programs that leak, none gets room or a limit; of a hundred that do not, at least three quarters do.
func TestProposeLeaks(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	var given, sound int
	for range 100 {
		rate := 0.0005 + 0.005*r.Float64() // a window, of what is live: 3 % to 30 % in ten minutes
		leak := each(shop("a"), func(i int, w *Window) { w.Live *= 1 + rate*float64(i) + 0.01*r.NormFloat64(); w.Goal = 2 * w.Live })
		given += len(Propose(input(leak)))
		steady := each(shop("a"), func(_ int, w *Window) { w.Live = (40 << 20) * (1 + 0.03*r.NormFloat64()); w.Goal = 2 * w.Live })
		sound += len(Propose(input(steady)))
	}
	if given > 0 || sound < 75 {
		t.Errorf("%d of 100 that leak got a proposal, and %d of 100 that do not", given, sound)
	}
}

// TestProposeLeakAmongMany: one of forty that leaks is seen, and forty that do not are not taken for leaks as one of them rises by chance.
func TestProposeLeakAmongMany(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 11))
	var given, sound int
	for range 20 {
		var many []Instance
		for range 40 {
			many = append(many, each(shop("a"), func(_ int, w *Window) { w.Live = (40 << 20) * (1 + 0.03*r.NormFloat64()); w.Goal = 2 * w.Live }))
		}
		sound += len(Propose(input(many...)))
		many[7] = each(many[7], func(i int, w *Window) { w.Live *= 1 + 0.003*float64(i); w.Goal = 2 * w.Live })
		given += len(Propose(input(many...)))
		for k := range many { // all of them a little: 3 % in ten minutes
			many[k] = each(shop("a"), func(i int, w *Window) {
				w.Live = (40 << 20) * (1 + 0.0005*float64(i) + 0.03*r.NormFloat64())
				w.Goal = 2 * w.Live
			})
		}
		given += len(Propose(input(many...)))
	}
	if given > 0 || sound < 15 {
		t.Errorf("a leak got %d of 40 proposals, and what does not leak %d of 20", given, sound)
	}
}

// TestProposeSoon: what is known after 80 s of windows of 4 s finds a leak no more rarely than two minutes of windows of 10 s do, of any rate and
// noise, and most programs that do not leak are not made to wait.
func TestProposeSoon(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 17))
	refused := func(n int, window time.Duration, rate, noise float64) int { // of 400
		out := 0
		for range 400 {
			in := shop("a")
			in.Windows = nil
			wander := 0.0
			for i := range n {
				from := began.Add(time.Duration(i) * window)
				wander = 0.3*wander + noise*r.NormFloat64() // neighbours hang together a little
				live := (40 << 20) * (1 + rate*window.Minutes()*float64(i) + wander)
				in.Windows = append(in.Windows, Window{From: from, To: from.Add(window), CPU: window.Seconds() / 2, GC: window.Seconds() / 10, Live: live, Goal: 2 * live, Memory: 120 << 20, RSS: 130 << 20, Cores: 4, Load: 2})
			}
			m, sound := measure(&in)
			if m == nil || !sound {
				t.Fatalf("%d windows of %s are not enough", n, window)
			}
			if grows(&Input{}, []*measured{m}) != "" {
				out++
			}
		}
		return out
	}
	for _, noise := range []float64{0.003, 0.01, 0.03} {
		for _, rate := range []float64{0.003, 0.006, 0.01, 0.02, 0.04, 0.1} {
			soon, late := refused(21, 4*time.Second, rate, noise), refused(12, 10*time.Second, rate, noise)
			// By chance two counts of 400 differ by up to 3.3 standard errors of their difference once in a thousand times.
			if slack := 3.3 * math.Sqrt(2*400*0.25); float64(soon) < float64(late)-min(slack, 0.04*400) {
				t.Errorf("noise %.1f %%, a leak of %.1f %% a minute: found in %d of 400 soon, in %d after two minutes", 100*noise, 100*rate, soon, late)
			}
		}
		if soon := refused(21, 4*time.Second, 0, noise); soon > 120 {
			t.Errorf("noise %.1f %%: %d of 400 that do not leak are made to wait", 100*noise, soon)
		}
	}
	short := shop("a")
	short.Windows = each(shop("a"), func(i int, w *Window) {
		w.From = began.Add(time.Duration(i) * 4 * time.Second)
		w.To, w.CPU = w.From.Add(4*time.Second), 2
	}).Windows[:19]
	if m, _ := measure(&short); m != nil {
		t.Errorf("19 windows of 4 s are taken for enough: %s", m.span)
	}
}

// TestProposeLimit: where a container's end is known and no limit is set, the limit comes with the room, or alone.
func TestProposeLimit(t *testing.T) {
	free := func(id string) Instance {
		in := each(shop(id), func(_ int, w *Window) { w.MemoryMax = 512 << 20 })
		in.Settings.MemoryLimit = num(NoLimit)
		return in
	}
	// 90 % of 512 MiB less the 10 that are resident beside the runtime's 120.
	if p := one(t, input(free("a"), free("b"))); string(p.Spec) != fmt.Sprintf(`{"gogc":400,"gomemlimit":%d}`, 450<<20) || !strings.Contains(p.Sentence, "GOMEMLIMIT 450 MiB, which is not set yet (its container has 512 MiB)") {
		t.Errorf("%s: %s", p.Spec, p.Sentence)
	}
	in := input(free("a"))
	in.CPU = cpu(100, 100, 9800)
	if p := one(t, in); string(p.Spec) != fmt.Sprintf(`{"gomemlimit":%d}`, 450<<20) || p.Saving != 0 || p.Subject != "gc" || !strings.Contains(p.Sentence, "no memory limit though its container ends at 512 MiB") {
		t.Errorf("%s: %s", p.Spec, p.Sentence)
	}
	in.Growing = []string{"it leaks"}
	if ps := Propose(in); ps != nil {
		t.Errorf("a leak got a limit: %s", ps[0].Sentence)
	}
}

// TestProposeProcs: fewer processors where the quota throttles, more where goroutines wait while cores idle, and else nothing.
func TestProposeProcs(t *testing.T) {
	busy := func(change func(in *Instance, w *Window)) Input {
		a := shop("a")
		a.Settings.MaxProcs = num(8)
		for i := range a.Windows {
			w := &a.Windows[i]
			w.Cores, w.Quota, w.Throttled, w.CPU, w.SchedTime, w.Load = 16, 1.5, 2, 14, 4, 9
			change(&a, w)
		}
		in := input(a)
		in.CPU = nil // no word on the collector
		return in
	}
	p := one(t, busy(func(*Instance, *Window) {}))
	if string(p.Spec) != `{"gomaxprocs":2}` || p.Subject != "procs" || !strings.Contains(p.Sentence, "quota of 1.5 cores") || !strings.Contains(p.Sentence, "stood still for 14 %") {
		t.Errorf("%s: %s", p.Spec, p.Sentence)
	}
	more := func(_ *Instance, w *Window) { w.Quota, w.Throttled, w.CPU, w.SchedTime = 0, 0, 70, 60 }
	p = one(t, busy(more))
	if string(p.Spec) != `{"gomaxprocs":15}` || !strings.Contains(p.Sentence, "7.0 of 16 cores are idle") || !strings.Contains(p.Sentence, "waited 86 %") {
		t.Errorf("%s: %s", p.Spec, p.Sentence)
	}
	for name, change := range map[string]func(in *Instance, w *Window){
		"not throttled":        func(_ *Instance, w *Window) { w.Throttled = 0.1 },
		"as the quota":         func(in *Instance, _ *Window) { in.Settings.MaxProcs = num(2) },
		"cores unknown":        func(_ *Instance, w *Window) { w.Cores = 0 },
		"GOMAXPROCS unknown":   func(in *Instance, _ *Window) { in.Settings.MaxProcs = nil },
		"nobody waits":         func(in *Instance, w *Window) { more(in, w); w.SchedTime = 10 },
		"no core is idle":      func(in *Instance, w *Window) { more(in, w); w.Load = 15.5 },
		"load unknown":         func(in *Instance, w *Window) { more(in, w); w.Load = 0 },
		"it uses little":       func(in *Instance, w *Window) { more(in, w); w.CPU = 20 },
		"all cores it may use": func(in *Instance, w *Window) { more(in, w); w.Cores = 8 },
	} {
		if ps := Propose(busy(change)); ps != nil {
			t.Errorf("%s: %s", name, ps[0].Sentence)
		}
	}
}

// FuzzPropose: whatever is measured, what is proposed can be leased, says figures, and is JSON.
func FuzzPropose(f *testing.F) {
	f.Add(100.0, 400.0, 40.0, 80.0, 120.0, 130.0, 512.0, 5.0, 1500.0)
	f.Add(60.0, 256.0, 12.0, 20.0, 50.0, 60.0, 0.0, 2.0, 900.0)
	f.Add(math.NaN(), math.Inf(1), -1.0, 0.0, 1e300, 1.0, 1.0, 1.0, 1.0)
	f.Fuzz(func(t *testing.T, gogc, limit, live, goal, memory, rss, most, cpuSeconds, marking float64) {
		whole := func(x float64) *int64 { return num(int64(min(max(x, -1), 1e15))) }
		a := shop("a")
		a.Settings = Settings{whole(gogc), whole(limit * (1 << 20)), num(2)}
		a = each(a, func(_ int, w *Window) {
			w.Live, w.Goal, w.Memory, w.RSS, w.MemoryMax, w.CPU = live*(1<<20), goal*(1<<20), memory*(1<<20), rss*(1<<20), most*(1<<20), cpuSeconds
		})
		in := input(a)
		in.CPU = cpu(int64(min(max(marking, 0), 1e6)), 100, 8000)
		for _, p := range Propose(in) {
			s, err := ParseSpec(p.Spec)
			if err != nil {
				t.Errorf("%s: %v", p.Spec, err)
			}
			if _, err := json.Marshal(p); err != nil {
				t.Error(err)
			}
			if s.GOGC != nil && float64(*s.GOGC) < gogc {
				t.Errorf("GOGC %v -> %d", gogc, *s.GOGC)
			}
		}
	})
}
