package judge

import (
	"flag"
	"fmt"
	"slices"
	"testing"
)

var long = flag.Bool("long", false, "measure rates on many more stages, as docs/judge.md has them")

// runs is how many stages a rate is measured on.
func runs(short, many int) int {
	if *long {
		return many
	}
	return short
}

// stages is runs, and a third of the short form under the race detector: it is ten times as slow, and looks for something else.
func stages(short, many int) int {
	if n := runs(short, many); !raceEnabled || *long {
		return n
	}
	return (short + 2) / 3
}

type rates struct {
	runs, pass, fail, hold, early int
	when                          []int // windows until the guard failed
	why                           map[string]int
}

func (r *rates) String() string {
	when := "-"
	if len(r.when) > 0 {
		slices.Sort(r.when)
		when = fmt.Sprint(r.when[len(r.when)/2])
	}
	pc := func(n int) float64 { return float64(n) * 100 / float64(r.runs) }
	return fmt.Sprintf("pass %5.1f %%  hold %5.1f %%  fail %5.1f %%  of it early %5.1f %%, at window %s", pc(r.pass), pc(r.hold), pc(r.fail), pc(r.early), when)
}

// dwell runs a scene many times: the guard at every look, each so many windows, and the judge in the end.
func dwell(s scene, metrics []Metric, n, every int, o Options) *rates {
	r := &rates{runs: n, why: map[string]int{}}
	for i := range n {
		s.seed = uint64(i + 1)
		in := s.input()
		in.Metrics = metrics
		failed := false
		for k := every; every > 0 && k <= s.stage && !failed; k += every {
			if v := Guard(s.until(in, k), o); v.Decision == Fail {
				failed = true
				r.early++
				r.when = append(r.when, k)
				r.why["guard: "+v.Reason]++
			}
		}
		if failed {
			r.fail++
			continue
		}
		switch v := Judge(in, o); v.Decision {
		case Pass:
			r.pass++
		case Fail:
			r.fail++
			r.why["judge: "+v.Reason]++
		default:
			r.hold++
		}
	}
	return r
}

// only is the default metric of a name, alone.
func only(name string) []Metric {
	for _, m := range DefaultMetrics() {
		if m.Name == name {
			m.Critical = true
			return []Metric{m}
		}
	}
	panic("no such metric: " + name)
}

// harsh is how a stage is noisy in tests: odd windows, spikes of load, the hour's swing.
func harsh(treated, control, before, stage int) scene {
	return scene{treated: treated, control: control, before: before, stage: stage, tails: true, spikes: true}
}

// TestFalseFails: a whole dwell of looks at a change that does nothing, and one that is exactly as bad as tolerated, in every kind of noise. The
// latter may fail in HarmAlpha of dwells by all metrics together, each by its part; looks of a whole hour are 360.
func TestFalseFails(t *testing.T) {
	for name, s := range map[string]scene{
		"usual noise":                   {treated: 1, control: 1, before: 60, stage: 60},
		"odd windows and spikes":        harsh(1, 1, 60, 60),
		"windows alike, 0.8":            {treated: 1, control: 1, before: 60, stage: 60, correlation: 0.8},
		"a short baseline":              harsh(1, 1, 10, 60),
		"no baseline, 1 and 1":          harsh(1, 1, 0, 60),
		"no baseline, 4 and 4":          harsh(4, 4, 0, 60),
		"10 and 10":                     harsh(10, 10, 60, 60),
		"an hour of looks":              harsh(1, 1, 60, 360),
		"hardly any requests":           {treated: 1, control: 1, before: 60, stage: 60, requests: 12},
		"hosts that differ by 20 %":     {treated: 2, control: 2, before: 60, stage: 60, hosts: 0.2},
		"an hour, windows alike at 0.7": {treated: 1, control: 1, before: 90, stage: 360, correlation: 0.7},
	} {
		t.Run(name, func(t *testing.T) {
			n := stages(20, 200)
			every := max(runs(2, 1), s.stage/runs(30, 60))
			none := dwell(s, nil, n, every, Options{})
			t.Logf("no effect:            %v", none)
			if none.fail > 1+n/100 {
				t.Errorf("a change that does nothing failed in %d of %d: %v", none.fail, n, none.why)
			}
			s.effect = map[string]float64{"cpu_per_request": 0.05, "latency_p99": 0.15, "rss": 0.10, "errors": 0.00225, "throughput": -0.10}
			edge := dwell(s, nil, n, every, Options{})
			t.Logf("all that is tolerated: %v", edge)
			// HarmAlpha is of the guard; the judge's own test, once, has as much again.
			if most := 2 + n/10; edge.fail > most {
				t.Errorf("a change that is as bad as tolerated failed in %d of %d, more than %d: %v", edge.fail, n, most, edge.why)
			}
		})
	}
}

// TestPower: planted harm and gain of every size, in harsh noise. Nothing that is worse than tolerated by a half may pass more than now and then, and
// what is twice as bad as tolerated never; gains pass.
func TestPower(t *testing.T) {
	for _, size := range []int{1, 4, 10} {
		for _, metric := range []string{"cpu_per_request", "latency_p99", "rss", "errors", "throughput"} {
			for _, e := range []float64{-0.50, -0.20, -0.10, -0.05, -0.02, 0, 0.02, 0.05, 0.10, 0.20, 0.50} {
				planted, tolerated := e, only(metric)[0].Tolerate
				switch metric {
				case "errors":
					if planted = e / 10; e < 0 { // 0.1 % cannot fall by a point
						continue
					}
					tolerated = 0.00225
				case "throughput":
					planted = -e
				}
				s := harsh(size, size, 60, 60)
				s.effect = map[string]float64{metric: planted}
				n := stages(6, 100)
				r := dwell(s, only(metric), n, runs(4, 1), Options{})
				what := fmt.Sprintf("%d and %d, %s %+.1f %%", size, size, metric, planted*100)
				t.Logf("%-44s %v", what, r)
				switch harm := max(planted, -planted) / tolerated; {
				case e > 0 && harm >= 2 && r.pass > n/100, e > 0 && harm >= 1.3 && r.pass > n/20:
					t.Errorf("%s: passed in %d of %d", what, r.pass, n)
				case e > 0 && harm >= 3 && size >= 4 && r.fail < n*8/10:
					t.Errorf("%s: failed in %d of %d only", what, r.fail, n)
				case e <= 0 && r.fail > 1+n/100:
					t.Errorf("%s: failed in %d of %d: %v", what, r.fail, n, r.why)
				case e <= 0 && size == 10 && r.pass < n*9/10-1:
					t.Errorf("%s: passed in %d of %d only", what, r.pass, n)
				}
			}
		}
	}
}

// TestEdgePasses: a change that is exactly as bad as tolerated in one metric passes in Alpha of dwells.
func TestEdgePasses(t *testing.T) {
	for _, c := range []struct {
		metric string
		effect float64
		s      scene
	}{
		{"cpu_per_request", 0.05, harsh(1, 1, 60, 60)},
		{"cpu_per_request", 0.05, scene{treated: 1, control: 1, before: 60, stage: 60, correlation: 0.8}},
		{"cpu_per_request", 0.05, harsh(8, 8, 60, 60)},
		{"cpu_per_request", 0.05, harsh(1, 1, 0, 60)},
		{"cpu_per_request", 0.05, harsh(8, 8, 0, 60)},
		{"cpu_per_request", 0.05, harsh(1, 1, 20, 20)},
		{"latency_p99", 0.15, harsh(2, 2, 60, 60)},
		{"rss", 0.10, harsh(1, 1, 60, 60)},
		{"errors", 0.00225, harsh(2, 2, 60, 60)},
		{"throughput", -0.10, harsh(1, 1, 60, 60)},
	} {
		c.s.effect = map[string]float64{c.metric: c.effect}
		n := runs(200, 3000)
		passed, failed := 0, 0
		for i := range n {
			c.s.seed = uint64(i + 1)
			in := c.s.input()
			in.Metrics = only(c.metric)
			switch Judge(in, Options{}).Decision {
			case Pass:
				passed++
			case Fail:
				failed++
			}
		}
		t.Logf("%d and %d, %d before, %d windows, %s at the edge: passes %.1f %%, fails %.1f %%", c.s.treated, c.s.control, c.s.before, c.s.stage, c.metric, float64(passed)*100/float64(n), float64(failed)*100/float64(n))
		if passed > n*10/100 || failed > n*11/100 {
			t.Errorf("%s: %d passed, %d failed of %d", c.metric, passed, failed, n)
		}
	}
}
