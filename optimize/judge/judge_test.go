package judge

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// usualScene passes as it is: what a test takes away or adds is why it does not.
func usualScene() scene { return scene{treated: 4, control: 4, before: 90, stage: 90, seed: 3} }

func has(list []string, part string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, part) })
}

// edit changes the windows of a metric in the stage (of before: all) of a side's members.
func edit(members []Member, name string, all bool, f func(i int, p *Point)) {
	for m := range members {
		for i := range members[m].Series[name] {
			if p := &members[m].Series[name][i]; all || !p.From.Before(noon) {
				f(i, p)
			}
		}
	}
}

func drop(members []Member, names ...string) {
	for m := range members {
		for _, n := range names {
			delete(members[m].Series, n)
		}
	}
}

// keep leaves the windows of a metric for which f says so.
func keep(members []Member, name string, f func(i int, p *Point) bool) {
	for m := range members {
		var left []Point
		for i := range members[m].Series[name] {
			if p := &members[m].Series[name][i]; f(i, p) {
				left = append(left, *p)
			}
		}
		members[m].Series[name] = left
	}
}

func TestUsualPasses(t *testing.T) {
	v := Judge(usualScene().input(), Options{})
	if v.Decision != Pass || len(v.Warnings) > 0 || v.Final {
		t.Errorf("%s: %s, warnings %q", v.Decision, v.Reason, v.Warnings)
	}
	t.Log(v.Reason)
	if !v.At.Equal(noon.Add(15 * time.Minute)) {
		t.Errorf("at %v", v.At)
	}
	for _, m := range v.Metrics {
		if m.Windows < 80 || m.Members != 4 || m.ControlMembers != 4 || m.Test == "" || m.Effect.Low > m.Effect.Value || m.Effect.High < m.Effect.Value {
			t.Errorf("%+v", m)
		}
	}
	if g := Guard(usualScene().input(), Options{}); g.Decision != Hold || g.Final {
		t.Errorf("the guard: %s, %s", g.Decision, g.Reason)
	}
}

// TestMissing: whatever is missing, thin or no number is a hold that says what, and nothing passes.
func TestMissing(t *testing.T) {
	late := func(_ int, p *Point) bool { return p.From.Before(noon.Add(5 * time.Minute)) }
	for name, c := range map[string]struct {
		f    func(in *Input, o *Options)
		want string
	}{
		"no treated":          {func(in *Input, _ *Options) { in.Treated = nil }, "no instance is treated"},
		"no control":          {func(in *Input, _ *Options) { in.Control = nil }, "there is no control"},
		"no metrics":          {func(in *Input, _ *Options) { in.Metrics = []Metric{} }, "no metric is critical"},
		"none critical":       {func(in *Input, _ *Options) { in.Metrics = []Metric{{Name: "rss", Tolerate: 1}} }, "no metric is critical"},
		"no time":             {func(in *Input, _ *Options) { in.To = in.From }, "it has no length"},
		"too many":            {func(in *Input, _ *Options) { in.Treated = make([]Member, maxMembers+1) }, "513 treated"},
		"a metric of nobody":  {func(in *Input, _ *Options) { drop(in.Treated, "rss"); drop(in.Control, "rss") }, "no RSS of either side"},
		"a metric of treated": {func(in *Input, _ *Options) { drop(in.Treated, "latency_p99") }, "no p99 of the treated, while the control has it"},
		"a metric of control": {func(in *Input, _ *Options) { drop(in.Control, "errors") }, "no errors of the control"},
		"nothing at all":      {func(in *Input, _ *Options) { in.Treated, in.Control = make([]Member, 2), make([]Member, 2) }, "neither side has requests"},
		"idle": {func(in *Input, _ *Options) {
			drop(in.Treated, "cpu_per_request", "latency_p99", "errors")
			drop(in.Control, "cpu_per_request", "latency_p99", "errors")
		}, "neither side has requests"},
		"two of four are silent": {func(in *Input, _ *Options) { drop(in.Treated[:2], "rss") }, "no RSS of 2 of 4 treated instances"},
		"it stopped":             {func(in *Input, _ *Options) { keep(in.Treated, "latency_p99", late) }, "p99"},
		"both stopped":           {func(in *Input, _ *Options) { keep(in.Treated, "rss", late); keep(in.Control, "rss", late) }, "RSS"},
		"half of the windows": {func(in *Input, _ *Options) {
			keep(in.Treated, "latency_p99", func(i int, _ *Point) bool { return i%2 == 0 })
		}, "p99 of the treated in"},
		"few windows":  {func(_ *Input, o *Options) { o.MinWindows = 1000 }, "1000 are needed"},
		"few requests": {func(_ *Input, o *Options) { o.MinRequests = 1e9 }, "1e+09 are needed"},
		"not a number": {func(in *Input, _ *Options) {
			edit(in.Treated, "rss", false, func(_ int, p *Point) { p.Value = math.NaN() })
		}, "no RSS of the treated"},
		"infinite": {func(in *Input, _ *Options) {
			edit(in.Treated, "errors", false, func(_ int, p *Point) { p.Value = math.Inf(1) })
		}, "no errors of the treated"},
		"below 0": {func(in *Input, _ *Options) {
			edit(in.Treated, "cpu_per_request", false, func(_ int, p *Point) { p.Value = -p.Value })
		}, "no CPU per request of the treated"},
		"a latency of 0": {func(in *Input, _ *Options) {
			edit(in.Treated, "latency_p99", false, func(_ int, p *Point) { p.Value = 0 })
		}, "no p99 of the treated"},
		"no weight": {func(in *Input, _ *Options) {
			edit(in.Treated, "throughput", false, func(_ int, p *Point) { p.Weight = 0 })
		}, "no throughput of the treated"},
		"a weight of nothing": {func(in *Input, _ *Options) {
			edit(in.Treated, "throughput", false, func(_ int, p *Point) { p.Weight = math.NaN() })
		}, "no throughput of the treated"},
		"windows that end first": {func(in *Input, _ *Options) {
			edit(in.Treated, "rss", false, func(_ int, p *Point) { p.From, p.To = p.To, p.From.Add(-time.Hour) })
		}, "no RSS of the treated"},
		"all of another year": {func(in *Input, _ *Options) {
			edit(in.Treated, "rss", true, func(_ int, p *Point) { p.From, p.To = p.From.AddDate(-300, 0, 0), p.To.AddDate(-300, 0, 0) })
		}, "no RSS of the treated"},
		"applied just now": {func(in *Input, _ *Options) { in.Treated[0].Applied = in.To; in.Treated = in.Treated[:1] }, "no"},
		"young beside old": {func(in *Input, _ *Options) {
			for i := range in.Treated {
				in.Treated[i].Started = noon.Add(time.Second)
			}
		}, "younger than 15m0s"},
		"old beside young": {func(in *Input, _ *Options) {
			for i := range in.Control {
				in.Control[i].Started = noon.Add(time.Second)
			}
		}, "younger than 15m0s"},
		"one restarted of two": {func(in *Input, _ *Options) { in.Treated = in.Treated[:2]; in.Treated[0].Restarts = 1 }, "it may be the change"},
		"all are gone": {func(in *Input, _ *Options) {
			for i := range in.Treated {
				in.Treated[i].Gone, in.Control[i].Gone = true, true
			}
		}, "all instances of both sides went away"},
	} {
		t.Run(name, func(t *testing.T) {
			in, o := usualScene().input(), Options{}
			c.f(&in, &o)
			v := Judge(in, o)
			if v.Decision != Hold || !strings.Contains(v.Reason, c.want) {
				t.Errorf("judge: %s, %q, want a hold for %q", v.Decision, v.Reason, c.want)
			}
			if name == "a latency of 0" && !has(v.Warnings, "a value of 0, which it cannot have") {
				t.Errorf("warnings %q", v.Warnings)
			}
			if g := Guard(in, o); g.Decision != Hold {
				t.Errorf("guard: %s, %q", g.Decision, g.Reason)
			}
		})
	}
}

// TestTold: what is left out, or may mislead, is told, and need not keep a change from passing.
func TestTold(t *testing.T) {
	for name, c := range map[string]struct {
		f    func(in *Input)
		want string
	}{
		"some windows are no numbers": {func(in *Input) {
			edit(in.Treated, "rss", false, func(i int, p *Point) {
				if i%10 == 0 {
					p.Value = math.NaN()
				}
			})
		}, "windows of RSS are not counted: the first has a value that is no finite number"},
		"one went away": {func(in *Input) {
			in.Control[1].Gone = true
			for name := range in.Control[1].Series {
				keep(in.Control[1:2], name, func(_ int, p *Point) bool { return p.From.Before(noon.Add(4 * time.Minute)) })
			}
		}, "control control-2 went away"},
		"a tolerance that is none": {func(in *Input) { in.Metrics = append(DefaultMetrics(), Metric{Name: "cpu", Tolerate: math.NaN()}) }, "Tolerate of cpu is NaN"},
		"no baseline": {func(in *Input) {
			for _, side := range [][]Member{in.Treated, in.Control} {
				for name := range side[0].Series {
					keep(side, name, func(_ int, p *Point) bool { return !p.From.Before(noon) })
				}
			}
		}, "RSS has no baseline"},
		"harm in what is not critical": {func(in *Input) { edit(in.Treated, "gc_cpu", false, func(_ int, p *Point) { p.Value *= 2 }) }, "GC CPU +1"},
	} {
		t.Run(name, func(t *testing.T) {
			in := scene{treated: 6, control: 6, before: 90, stage: 90, seed: 3, hosts: 0.005}.input()
			c.f(&in)
			v := Judge(in, Options{})
			if v.Decision != Pass || !has(v.Warnings, c.want) {
				t.Errorf("%s, %s; warnings %q, want %q", v.Decision, v.Reason, v.Warnings, c.want)
			}
		})
	}
}

// TestFailsAtOnce: crashes and bounds, which need no comparison.
func TestFailsAtOnce(t *testing.T) {
	bound := func(name string, b float64) []Metric {
		m := DefaultMetrics()
		for i := range m {
			if m[i].Name == name {
				m[i].Bound = b
			}
		}
		return m
	}
	last := func(in *Input, name string, v float64) {
		s := in.Treated[0].Series[name]
		s[len(s)-1].Value = v
	}
	for name, c := range map[string]struct {
		f    func(in *Input)
		want string // "" is no fail
	}{
		"one restarts again and again": {func(in *Input) { in.Treated[2].Restarts = 2 }, "a treated instance restarted 2 times"},
		"two restarted once":           {func(in *Input) { in.Treated[0].Restarts, in.Treated[1].Restarts = 1, 1 }, "4 treated instances restarted 2 times"},
		"as often as the control":      {func(in *Input) { in.Treated[0].Restarts, in.Treated[1].Restarts, in.Control[0].Restarts = 1, 1, 1 }, ""},
		"all went away":                {func(in *Input) { in.Treated = in.Treated[:1]; in.Treated[0].Gone = true }, "all of 1 treated instances went away"},
		"half went away":               {func(in *Input) { in.Treated[0].Gone, in.Treated[1].Gone = true, true }, "2 of 4 treated instances went away"},
		"one of four went away":        {func(in *Input) { in.Treated[0].Gone = true }, ""},
		"RSS past its bound":           {func(in *Input) { in.Metrics = bound("rss", 400e6); last(in, "rss", 401e6) }, "RSS of treated-1 is 4.01e+08, past the bound of 4e+08"},
		"throughput below its bound":   {func(in *Input) { in.Metrics = bound("throughput", 10); last(in, "throughput", 0) }, "throughput of treated-1 is 0, past the bound of 10"},
		"p99 of five requests": {func(in *Input) {
			in.Metrics = bound("latency_p99", 1)
			last(in, "latency_p99", 2)
			s := in.Treated[0].Series["latency_p99"]
			s[len(s)-1].Weight = 5
		}, ""},
		"the control past the bound": {func(in *Input) {
			in.Metrics = bound("rss", 1e9)
			s := in.Control[0].Series["rss"]
			s[len(s)-1].Value = 2e9
		}, ""},
		"past it before the change":     {func(in *Input) { in.Metrics = bound("rss", 1e9); in.Treated[0].Series["rss"][5].Value = 2e9 }, ""},
		"past it once while warming up": {func(in *Input) { in.Metrics = bound("rss", 1e9); in.Treated[0].Series["rss"][90].Value = 2e9 }, ""},
		"past it twice while warming up": {func(in *Input) {
			in.Metrics = bound("rss", 1e9)
			in.Treated[0].Series["rss"][90].Value, in.Treated[0].Series["rss"][91].Value = 2e9, 2e9
		}, "past the bound"},
	} {
		t.Run(name, func(t *testing.T) {
			in := usualScene().input()
			c.f(&in)
			for what, v := range map[string]Verdict{"guard": Guard(in, Options{}), "judge": Judge(in, Options{})} {
				if (v.Decision == Fail) != (c.want != "") || v.Decision == Fail && (!v.Final || !strings.Contains(v.Reason, c.want)) {
					t.Errorf("%s: %s (final %v), %q; want %q", what, v.Decision, v.Final, v.Reason, c.want)
				}
			}
		})
	}
}

// TestSpikes: what both sides have is no harm, what the treated alone have is none if it goes away, and is if it stays.
func TestSpikes(t *testing.T) {
	spike := func(from, to int, by float64, all bool) func(in *Input) {
		return func(in *Input) {
			for _, side := range [][]Member{in.Treated, in.Control} {
				edit(side, "latency_p99", true, func(i int, p *Point) {
					if i >= from && i < to {
						p.Value *= by
					}
				})
				if !all {
					break
				}
			}
		}
	}
	for name, c := range map[string]struct {
		f     func(in *Input)
		guard Decision // at any look
		judge Decision
	}{
		"both, for a minute":          {spike(120, 126, 8, true), Hold, Pass},
		"both, until the end":         {spike(120, 180, 8, true), Hold, Pass},
		"treated alone, for 20 s":     {spike(120, 122, 8, false), Hold, Pass},
		"treated alone, early, 20 s":  {spike(93, 95, 30, false), Hold, Pass},
		"treated alone, and it stays": {spike(120, 180, 2, false), Fail, Fail},
		"treated alone, at the end":   {spike(170, 180, 4, false), Fail, Fail},
		"again and again, one of five": {func(in *Input) {
			edit(in.Treated, "latency_p99", false, func(i int, p *Point) { p.Value *= []float64{1, 1, 1, 1, 6}[i%5] })
		}, Hold, Hold},
	} {
		t.Run(name, func(t *testing.T) {
			s := usualScene()
			in := s.input()
			in.Metrics = only("latency_p99")
			c.f(&in)
			guard := Hold
			for k := 1; k <= s.stage; k++ {
				if v := Guard(s.until(in, k), Options{}); v.Decision == Fail {
					t.Logf("window %d: %s", k, v.Reason)
					guard = Fail
					break
				}
			}
			v := Judge(in, Options{})
			if guard != c.guard || v.Decision != c.judge {
				t.Errorf("guard %s, judge %s (%s); want %s and %s", guard, v.Decision, v.Reason, c.guard, c.judge)
			}
		})
	}
}

// TestLeak: memory that rises all the time is seen before it is a tenth more; what levels off, or both sides do, is not a leak.
func TestLeak(t *testing.T) {
	for name, c := range map[string]struct {
		f     func(s *scene) func(in *Input)
		bound float64
		want  Decision
		says  string
	}{
		"none":                             {func(*scene) func(*Input) { return nil }, 0, Pass, "RSS"},
		"it leaks, and there is a bound":   {func(s *scene) func(*Input) { s.slope = map[string]float64{"rss": 0.4}; return nil }, 420e6, Fail, "reaches its bound in"},
		"it leaks, and there is none":      {func(s *scene) func(*Input) { s.slope = map[string]float64{"rss": 0.3}; return nil }, 0, Hold, "has not levelled off"},
		"a bound that is out of its reach": {func(s *scene) func(*Input) { s.slope = map[string]float64{"rss": 0.3}; return nil }, 1e15, Hold, "has not levelled off"},
		"too slow for one stage, and it has had two": {func(s *scene) func(*Input) {
			s.slope = map[string]float64{"rss": 0.05}
			s.stage = 240
			return func(in *Input) { in.From = noon.Add(25 * time.Minute) }
		}, 0, Hold, "against the control since 12:00:00"},
		"both sides leak": {func(*scene) func(*Input) {
			return func(in *Input) {
				for _, side := range [][]Member{in.Treated, in.Control} {
					edit(side, "rss", true, func(i int, p *Point) { p.Value *= 1 + float64(i)/400 })
				}
			}
		}, 900e6, Pass, "RSS"},
		// While it fills it may be held; here it has had twice the time.
		"it takes what it was given": {func(s *scene) func(*Input) {
			s.stage *= 2
			return func(in *Input) {
				edit(in.Treated, "rss", false, func(i int, p *Point) { p.Value *= 1 + 0.08*(1-math.Exp(-float64(i-90)/15)) })
			}
		}, 400e6, Pass, "RSS"},
	} {
		t.Run(name, func(t *testing.T) {
			fails, failed := 0, 0
			for seed := range 10 {
				s := usualScene()
				s.seed = uint64(seed + 1)
				f := c.f(&s)
				in := s.input()
				if f != nil {
					f(&in)
				}
				in.Metrics = only("rss")
				in.Metrics[0].Bound = c.bound
				v := Judge(in, Options{})
				if v.Decision == Fail {
					failed++
				}
				if v.Decision != c.want || !strings.Contains(v.Reason, c.says) {
					fails++
					t.Logf("seed %d: %s, %s", seed, v.Decision, v.Reason)
				}
			}
			if fails > 2 || c.want == Pass && failed > 0 {
				t.Errorf("%d of 10 are not a %s for %q, %d fail", fails, c.want, c.says, failed)
			}
		})
	}
}

// TestKeeps: what came and went in two windows does not keep on, three of the last four do.
func TestKeeps(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		diff []float64
		want bool
	}{
		{[]float64{0, 0, 9, 9, 0, 0}, false},
		{[]float64{0, 0, 0, 0, 9, 9}, false},
		{[]float64{0, 0, 0, 9, 9, 9}, true},
		{[]float64{9, nan, 9, 0, nan, 9, nan}, true},
		{[]float64{9, 9, 9, 9, 0, 0}, false},
		{[]float64{nan, 9, 9, 9}, false},
	} {
		x := &measured{g: &grid{}, diff: c.diff}
		if got := x.keeps(1); got != c.want {
			t.Errorf("%v: %v", c.diff, got)
		}
	}
}
