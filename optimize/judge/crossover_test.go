package judge

import (
	"math"
	"strings"
	"testing"
	"time"
)

// switched is one node whose change is switched on and off, off first, each for so many windows. drift is what all of it grows by an hour, whatever is
// switched.
func switched(times, each int, effect map[string]float64, drift float64, seed uint64) Input {
	s := scene{treated: 1, stage: times * each, tails: true, seed: seed}
	in := s.input()
	for i := range times {
		from := noon.Add(time.Duration(i*each) * window)
		in.Periods = append(in.Periods, Period{From: from, To: from.Add(time.Duration(each) * window), On: i%2 == 1})
	}
	for name := range in.Treated[0].Series {
		edit(in.Treated, name, true, func(i int, p *Point) {
			p.Value *= 1 + drift*float64(i)/360
			if i/each%2 == 1 {
				if name == "errors" {
					p.Value += effect[name]
				} else {
					p.Value *= 1 + effect[name]
				}
			}
		})
	}
	return in
}

// TestOneNode: harm, gain and nothing on one node, with and without a drift; the guard looks at the end of each period.
func TestOneNode(t *testing.T) {
	for name, c := range map[string]struct {
		metric string
		effect float64
		drift  float64
		pass   bool // else fail
	}{
		"nothing":                    {"rss", 0, 0, true},
		"nothing, and a drift":       {"rss", 0, 0.5, true},
		"CPU a tenth less":           {"cpu_per_request", -0.10, 0.3, true},
		"CPU a third more":           {"cpu_per_request", 0.33, 0.3, false},
		"p99 double":                 {"latency_p99", 1, 0, false},
		"errors of a point":          {"errors", 0.01, 0, false},
		"throughput a third less":    {"throughput", -0.33, 0, false},
		"RSS a fifth more, drifting": {"rss", 0.20, 0.5, false},
		"RSS less":                   {"rss", -0.20, -0.5, true},
	} {
		t.Run(name, func(t *testing.T) {
			n, right, wrong := runs(20, 400), 0, 0
			for seed := range n {
				in := switched(17, 9, map[string]float64{c.metric: c.effect}, c.drift, uint64(seed+1))
				in.Metrics = only(c.metric)
				end := in.To
				v := Verdict{}
				for k := 1; k <= 17 && v.Decision != Fail; k++ {
					in.To = noon.Add(time.Duration(9*k) * window)
					in.Periods = in.Periods[:k]
					v = Guard(in, Options{})
					in.Periods = in.Periods[:17]
				}
				if in.To = end; v.Decision != Fail {
					v = Judge(in, Options{})
				}
				switch {
				case v.Decision == Pass && c.pass, v.Decision == Fail && !c.pass:
					right++
				case v.Decision != Hold:
					wrong++
					t.Logf("seed %d: %s: %s", seed, v.Decision, v.Reason)
				}
			}
			t.Logf("right %d, wrong %d of %d", right, wrong, n)
			if wrong > n/50 || right < n*7/10 {
				t.Errorf("right %d, wrong %d of %d", right, wrong, n)
			}
		})
	}
}

// TestOneNodeEdge: as bad as tolerated passes in Alpha of cases, and fails in HarmAlpha of them by each of guard and judge.
func TestOneNodeEdge(t *testing.T) {
	n, passed, failed := runs(200, 3000), 0, 0
	for seed := range n {
		in := switched(17, 9, map[string]float64{"rss": 0.10}, 0.3, uint64(seed+1))
		in.Metrics = only("rss")
		switch Judge(in, Options{}).Decision {
		case Pass:
			passed++
		case Fail:
			failed++
		}
	}
	t.Logf("passes %.1f %%, fails %.1f %%", float64(passed)*100/float64(n), float64(failed)*100/float64(n))
	if passed > n*9/100 || failed > n*12/100 {
		t.Errorf("passed %d, failed %d of %d", passed, failed, n)
	}
}

// TestOneNodeMissing: too few periods, and data that is missing while the change was on or off, are a hold.
func TestOneNodeMissing(t *testing.T) {
	good := func() Input {
		in := switched(17, 9, nil, 0, 1)
		in.Metrics = only("rss")
		return in
	}
	for name, c := range map[string]struct {
		f    func(in *Input)
		want string
	}{
		"few periods":   {func(in *Input) { in.Periods = in.Periods[:7] }, "RSS in 3 times on between two times off, 4 are needed"},
		"never off":     {func(in *Input) { in.Periods = in.Periods[1:2] }, "no RSS while the change was off"},
		"never on":      {func(in *Input) { in.Periods = in.Periods[:1] }, "no RSS while the change was on"},
		"no windows":    {func(in *Input) { in.Treated[0].Series = nil }, "no RSS while the change was on"},
		"on is missing": {func(in *Input) { keep(in.Treated, "rss", func(i int, _ *Point) bool { return i/9%2 == 0 }) }, "no RSS while the change was on"},
		"not a number":  {func(in *Input) { edit(in.Treated, "rss", true, func(_ int, p *Point) { p.Value = math.Inf(1) }) }, "no RSS while the change was on"},
		"it stopped":    {func(in *Input) { keep(in.Treated, "rss", func(i int, _ *Point) bool { return i < 100 }) }, "no RSS in the last time on"},
		"two overlap": {func(in *Input) {
			for i := range in.Periods {
				in.Periods[i].To = in.Periods[i].To.Add(time.Hour)
			}
		}, "periods are not in order"},
	} {
		in := good()
		c.f(&in)
		if v := Judge(in, Options{}); v.Decision != Hold || !strings.Contains(v.Reason, c.want) {
			t.Errorf("%s: %s, %q, want %q", name, v.Decision, v.Reason, c.want)
		}
	}
	if v := Judge(good(), Options{}); v.Decision != Pass {
		t.Errorf("as it is: %s, %s", v.Decision, v.Reason)
	}
}
