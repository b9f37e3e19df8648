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
func dwell(s scene, n, every int, o Options) *rates {
	r := &rates{runs: n, why: map[string]int{}}
	for i := range n {
		s.seed = uint64(i + 1)
		in := s.input()
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
			n := runs(20, 500)
			every := runs(max(2, s.stage/30), 1)
			none := dwell(s, n, every, Options{})
			t.Logf("no effect:            %v", none)
			if none.fail > 1+n/100 {
				t.Errorf("a change that does nothing failed in %d of %d: %v", none.fail, n, none.why)
			}
			s.effect = map[string]float64{"cpu_per_request": 0.05, "latency_p99": 0.15, "rss": 0.10, "errors": 0.00225, "throughput": -0.10}
			edge := dwell(s, n, every, Options{})
			t.Logf("all that is tolerated: %v", edge)
			// HarmAlpha is of the guard; the judge's own test, once, has as much again.
			if most := 2 + n/10; edge.fail > most {
				t.Errorf("a change that is as bad as tolerated failed in %d of %d, more than %d: %v", edge.fail, n, most, edge.why)
			}
		})
	}
}
