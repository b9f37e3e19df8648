package judge

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/profile"
)

// shop is a service's stacks, from the outermost frame, and how often each is seen of 10,000 samples.
var shop = map[string]float64{
	"net/http.serve;shop.handle;shop.cache;runtime.mapaccess1":                 1600,
	"net/http.serve;shop.handle;shop.evict":                                    300,
	"net/http.serve;shop.handle;shop.encode;encoding/json.Marshal":             1500,
	"net/http.serve;shop.handle;shop.encode;encoding/json.Marshal;reflect.Len": 800,
	"net/http.serve;shop.handle;shop.price":                                    1100,
	"net/http.serve;shop.handle;shop.price;shop.tax":                           600,
	"net/http.serve;shop.handle;shop.price;shop.round":                         400,
	"net/http.serve;shop.handle;shop.auth;example.com/jwt.Verify":              1600,
	"net/http.serve;shop.handle;shop.log;fmt.Sprintf":                          300,
	"net/http.serve;syscall.write":                                             600,
	"runtime.gcBgMarkWorker;runtime.gcDrain;runtime.scanobject":                900,
	"runtime.mstart;runtime.schedule;runtime.findRunnable":                     300,
}

// cpu is a profile of about n samples of 10 ms; each leaf is off by a factor of its own, which is the host's.
func cpu(r *rand.Rand, weights map[string]float64, n float64, host map[string]float64) *profile.Profile {
	b := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	for _, stack := range slices.Sorted(maps.Keys(weights)) {
		leaf := stack[strings.LastIndexByte(stack, ';')+1:]
		mean := weights[stack] / 10000 * n * max(host[leaf], 0.01)
		k := max(0, math.Round(mean+math.Sqrt(mean)*r.NormFloat64()))
		at := uint32(0)
		for i, name := range strings.Split(stack, ";") {
			f := b.Function(profile.Function{Name: b.String(name), SystemName: b.String(name), File: b.String("shop.go"), StartLine: int64(i + 1)})
			at = b.Stack(at, b.Location(profile.Location{}, profile.Line{Function: f, Line: int64(i + 1)}))
		}
		b.Add(at, 0, int64(k)*10_000_000)
	}
	p := b.Profile()
	p.Period, p.PeriodType = 10_000_000, profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
	return p
}

// withProfiles gives members profiles of a stage and of before. The treated's of the stage have what grow says times as much of some stacks.
func withProfiles(in *Input, seed uint64, grow map[string]float64, spread float64) {
	r := rand.New(rand.NewPCG(seed, 5))
	changed := maps.Clone(shop)
	for stack, by := range grow {
		changed[stack] *= by
	}
	for side, members := range [2][]Member{in.Treated, in.Control} {
		for i := range members {
			host := map[string]float64{}
			for _, stack := range slices.Sorted(maps.Keys(shop)) {
				host[stack[strings.LastIndexByte(stack, ';')+1:]] = math.Exp(spread * r.NormFloat64())
			}
			m := &members[i]
			m.Before = cpu(r, shop, 20000, host)
			m.Profile = cpu(r, [2]map[string]float64{changed, shop}[side], 20000, host)
			m.Seconds, m.Requests = 900, 50000
		}
	}
}

const (
	evict  = "net/http.serve;shop.handle;shop.evict"
	mark   = "runtime.gcBgMarkWorker;runtime.gcDrain;runtime.scanobject"
	encode = "net/http.serve;shop.handle;shop.encode;encoding/json.Marshal"
)

// TestFunctions: who is guilty, and what is no harm.
func TestFunctions(t *testing.T) {
	for name, c := range map[string]struct {
		grow     map[string]float64
		cpu      float64 // effect on CPU per request
		members  int
		spread   float64
		decision Decision
		guilty   string
	}{
		"nothing changed":                            {nil, 0, 4, 0.02, Pass, ""},
		"a function is four times as dear":           {map[string]float64{evict: 4}, 0.09, 4, 0.02, Fail, "shop.evict"},
		"it is hidden in what CPU varies by":         {map[string]float64{evict: 2.5}, 0, 4, 0.02, Fail, "shop.evict"},
		"a little dearer than before":                {map[string]float64{evict: 1.3}, 0, 4, 0.02, Pass, ""},
		"one and one":                                {map[string]float64{evict: 4}, 0.09, 1, 0.02, Fail, "shop.evict"},
		"GOGC was raised: the collector does less":   {map[string]float64{mark: 0.3}, -0.06, 4, 0.02, Pass, ""},
		"GOGC was lowered: the collector does more":  {map[string]float64{mark: 4}, 0.27, 4, 0.02, Fail, "runtime.gcBgMarkWorker"},
		"one function dearer, all of it far cheaper": {map[string]float64{evict: 2.5, encode: 0.1}, -0.12, 4, 0.02, Pass, ""},
		"hosts differ by 30 % and did before":        {nil, 0, 4, 0.3, Pass, ""},
		"one and one whose hosts differ":             {nil, 0, 1, 0.4, Pass, ""},
	} {
		t.Run(name, func(t *testing.T) {
			wrong := 0
			for seed := range uint64(5) {
				s := scene{treated: c.members, control: c.members, before: 180, stage: 180, seed: seed + 1, effect: map[string]float64{"cpu_per_request": c.cpu}}
				in := s.input()
				in.Metrics = only("cpu_per_request")
				if c.members == 1 {
					in.Metrics[0].Tolerate = 0.1 // one pair tells no less
				}
				withProfiles(&in, seed, c.grow, c.spread)
				v := Judge(in, Options{})
				if v.Decision != c.decision || v.Guilty != c.guilty {
					wrong++
					t.Logf("seed %d: %s, guilty %q: %s", seed, v.Decision, v.Guilty, v.Reason)
				}
			}
			if wrong > 0 {
				t.Errorf("%d of 5 are not a %s for %q", wrong, c.decision, c.guilty)
			}
		})
	}
}

// TestGuardNamesGuilty: what the guard fails for is given a name at once.
func TestGuardNamesGuilty(t *testing.T) {
	s := scene{treated: 2, control: 2, before: 60, stage: 20, seed: 2, effect: map[string]float64{"cpu_per_request": 0.4}}
	in := s.input()
	withProfiles(&in, 2, map[string]float64{mark: 5}, 0.02)
	v := Guard(in, Options{})
	if v.Decision != Fail || !v.Final || v.Guilty != "runtime.gcBgMarkWorker" || !strings.Contains(v.Reason, v.Guilty) || len(v.Functions) == 0 {
		t.Errorf("%s, guilty %q: %s", v.Decision, v.Guilty, v.Reason)
	}
	t.Log(v.Reason)
}

// TestProfilesThatDoNotFit are told, and are no harm.
func TestProfilesThatDoNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		f    func(in *Input)
		want string
	}{
		"columns that are not there": {func(in *Input) { in.Treated[0].Column, in.Treated[1].Column = 7, -1 }, "functions are not compared: 0 profiles of the treated"},
		"none of the control":        {func(in *Input) { in.Control[0].Profile, in.Control[1].Profile = nil, nil }, "0 to compare them with"},
		"other samples": {func(in *Input) {
			b := profile.NewBuilder(profile.ValueType{Type: "x", Unit: "y"})
			b.Add(0, 0, 1)
			in.Treated[0].Profile = b.Profile()
		}, "functions are not compared: compare: "},
		"seconds that are no number": {func(in *Input) { in.Treated[0].Seconds = math.NaN() }, "functions are not compared: compare: "},
	} {
		in := scene{treated: 2, control: 2, before: 180, stage: 180, seed: 1}.input()
		withProfiles(&in, 1, nil, 0.02)
		c.f(&in)
		if v := Judge(in, Options{}); v.Decision == Fail || v.Guilty != "" || !has(v.Warnings, c.want) {
			t.Errorf("%s: %s: %s, warnings %q", name, v.Decision, v.Reason, v.Warnings)
		}
	}
}

func BenchmarkJudgeProfiles(b *testing.B) {
	in := scene{treated: 2, control: 2, before: 60, stage: 60, seed: 1}.input()
	withProfiles(&in, 1, nil, 0.02)
	for b.Loop() {
		if v := Judge(in, Options{}); len(v.Metrics) == 0 {
			b.Fatal(fmt.Sprint(v))
		}
	}
}
