package judge

import (
	"strings"
	"testing"
)

// ofVersions gives one of the treated, and one of the control, another version than the rest; the change costs worse there.
func ofVersions(seed uint64, worse float64) Input {
	in := scene{treated: 6, control: 3, before: 120, stage: 60, seed: seed}.input()
	for _, side := range [][]Member{in.Treated, in.Control} {
		for i := range side {
			if side[i].Version = "v1"; i == 0 {
				side[i].Version = "v2"
			}
		}
	}
	cpu := in.Treated[0].Series["cpu_per_request"]
	for i := range cpu {
		if !cpu[i].From.Before(noon) {
			cpu[i].Value *= 1 + worse
		}
	}
	return in
}

// TestVersions: harm to one version fails a change whose mean is within what is tolerated; where there is none, looking at each version costs few passes.
func TestVersions(t *testing.T) {
	found, named, passes, alone := 0, 0, 0, 0
	const seeds = 40
	for seed := range uint64(seeds) {
		bad := Judge(ofVersions(seed, 0.25), Options{}) // 4 % of the mean
		if bad.Decision == Fail {
			found++
			if strings.Contains(bad.Reason, "on version v2 CPU per request +") {
				named++
			}
		}
		if bad.Decision == Pass {
			t.Errorf("seed %d: passed with a quarter more in v2: %s", seed, bad.Reason)
		}
		in := ofVersions(seed, 0)
		if v := Judge(in, Options{}); v.Decision == Pass {
			passes++
		} else if v.Decision == Fail {
			t.Errorf("seed %d: nothing is worse, and it fails: %s", seed, v.Reason)
		}
		for _, side := range [][]Member{in.Treated, in.Control} {
			for i := range side {
				side[i].Version = "v1"
			}
		}
		if Judge(in, Options{}).Decision == Pass {
			alone++
		}
	}
	t.Logf("of %d: %d fail, %d of them by the version; without harm %d pass, %d where all are of one version", seeds, found, named, passes, alone)
	if found < seeds*9/10 || named < found/2 {
		t.Errorf("%d of %d were found, %d named the version", found, seeds, named)
	}
	if passes < alone-seeds/10 {
		t.Errorf("%d pass, and %d where all are of one version", passes, alone)
	}
}

// TestOldBaseline: a stage that begins half an hour after the change did still knows what was before.
func TestOldBaseline(t *testing.T) {
	for seed := range uint64(20) {
		in := scene{treated: 4, control: 1, before: 300, stage: 60, hosts: 0.15, seed: seed, effect: map[string]float64{"cpu_per_request": 0.12}}.input()
		for _, side := range [][]Member{in.Treated, in.Control} {
			for i := range side {
				for name, s := range side[i].Series {
					side[i].Series[name] = append(append([]Point{}, s[:120]...), s[300:]...) // half an hour is of other stages
				}
			}
		}
		v := Judge(in, Options{})
		for _, m := range v.Metrics {
			if m.Name == "cpu_per_request" && (m.BaselineWindows != 120 || m.Effect.Low > 0.12 || m.Effect.High < 0.12) {
				t.Errorf("seed %d: %d windows of before, %+v", seed, m.BaselineWindows, m.Effect)
			}
		}
		if v.Decision == Pass {
			t.Errorf("seed %d: 12 %% more pass: %s", seed, v.Reason)
		}
	}
}
