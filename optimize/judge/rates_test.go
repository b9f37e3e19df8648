package judge

import (
	"testing"
)

type rates struct {
	pass, fail, hold, early int
	when                    []int
	why                     map[string]int
}

// dwell runs a scene many times: the guard at every window, the judge in the end.
func dwell(s scene, runs int, o Options, looks bool) rates {
	r := rates{why: map[string]int{}}
	for i := range runs {
		s.seed = uint64(i + 1)
		in := s.input()
		failed := false
		if looks {
			for k := 1; k <= s.stage && !failed; k++ {
				if v := Guard(s.until(in, k), o); v.Decision == Fail {
					failed = true
					r.early++
					r.when = append(r.when, k)
					r.why["guard: "+first(v)]++
				}
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
			r.why["judge: "+first(v)]++
		default:
			r.hold++
			for _, m := range v.Metrics {
				if m.Critical && m.Decision != Pass {
					r.why["hold: "+m.Name]++
				}
			}
		}
	}
	return r
}

func first(v Verdict) string {
	for _, m := range v.Metrics {
		if m.Critical && m.Decision == Fail {
			return m.Name
		}
	}
	return v.Reason
}

func TestExplore(t *testing.T) {
	for name, s := range map[string]scene{
		"1v1":        {treated: 1, control: 1, before: 60, stage: 60},
		"1v1 tails":  {treated: 1, control: 1, before: 60, stage: 60, tails: true, spikes: true},
		"1v1 0.8":    {treated: 1, control: 1, before: 60, stage: 60, correlation: 0.8},
		"4v4":        {treated: 4, control: 4, before: 60, stage: 60},
		"8v8":        {treated: 8, control: 8, before: 60, stage: 60},
		"1v1 nobase": {treated: 1, control: 1, before: 0, stage: 60},
		"4v4 nobase": {treated: 4, control: 4, before: 0, stage: 60},
		"8v8 nobase": {treated: 8, control: 8, before: 0, stage: 60},
	} {
		r := dwell(s, 300, Options{}, true)
		t.Logf("%-12s pass %d fail %d (early %d) hold %d %v", name, r.pass, r.fail, r.early, r.hold, r.why)
	}
}
