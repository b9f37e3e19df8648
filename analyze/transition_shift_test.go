package analyze

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func blocksOfValues(values ...float64) (out []edgeBlock) {
	for _, v := range values {
		out = append(out, edgeBlock{value: v})
	}
	return out
}

// TestDeparture: by hand. The level is the mean of two; departures of the past are 0.3 - 0.15, 0 - 0.3 and 0.3 - 0.15.
func TestDeparture(t *testing.T) {
	times := func(all []edgeBlock) edgeTimes { return newEdgeTimes(all[:len(all)-1], all[len(all)-1]) }
	all := blocksOfValues(0, 0.3, 0.3, 0, 0.3, 1, 1.2)
	mean, se, df := times(all[:6]).departure(5, 0, 2, 1)
	sum := 4*0.01*1.5 + 0.15*0.15 + 0.3*0.3 + 0.15*0.15
	if math.Abs(mean-0.85) > 1e-12 || math.Abs(df-7) > 1e-12 || math.Abs(se-math.Sqrt(sum/7)) > 1e-12 {
		t.Errorf("%v, %v, %v; want 0.85, %v, 7", mean, se, df, math.Sqrt(sum/7))
	}
	// Two times together: departures of the past are 0.15 - 0.15 and 0.15 - 0.3, each a half of one.
	mean, se, df = times(all).departure(5, 0, 2, 2)
	sum = 4*0.01*(0.5+0.5) + 0.15*0.15/2
	if math.Abs(mean-0.95) > 1e-12 || math.Abs(df-5) > 1e-12 || math.Abs(se-math.Sqrt(sum/5)) > 1e-12 {
		t.Errorf("%v, %v, %v; want 0.95, %v, 5", mean, se, df, math.Sqrt(sum/5))
	}
	// With a time between: of the past the one departure is 0.3 less the mean of the first two, one before.
	mean, se, df = times(all).departure(4, 1, 2, 1)
	sum = 4*0.01*1.5 + 0.15*0.15
	if math.Abs(mean-1.05) > 1e-12 || math.Abs(df-5) > 1e-12 || math.Abs(se-math.Sqrt(sum/5)) > 1e-12 {
		t.Errorf("%v, %v, %v; want 1.05, %v, 5", mean, se, df, math.Sqrt(sum/5))
	}
	// A smaller sample now is a larger doubt.
	all[5].variance = 0.5
	if _, wider, _ := times(all[:6]).departure(5, 0, 2, 1); math.Abs(wider*wider-(4*0.01*1.5+0.15*0.15+0.3*0.3+0.15*0.15)/7-0.5) > 1e-12 {
		t.Errorf("%v", wider)
	}
	if q := studentQuantile(5); math.Abs(q-2.5706) > 1e-4 { // Student's table
		t.Errorf("t of 5 is %v", q)
	}
}

func TestShift(t *testing.T) {
	flat := func(n int) (out []float64) {
		for i := range n {
			out = append(out, 14+0.01*float64(i%3))
		}
		return out
	}
	for _, c := range []struct {
		name  string
		past  []float64
		now   float64
		known int
		slow  bool
	}{
		{"nothing", flat(40), 14, -1, false},
		{"a spike", flat(40), 15, -1, false},
		{"twice", append(flat(40), 15), 15, -1, true},
		{"for very long", append(flat(90), slices.Repeat([]float64{15}, 45)...), 15, -1, true},
		{"for a day that is known", append(flat(20), slices.Repeat([]float64{15}, 120)...), 15, 20, true},
		{"no longer, which was known", append(flat(20), slices.Repeat([]float64{15}, 120)...), 14, 20, false},
		{"faster", append(flat(40), 13), 13, -1, false},
		{"a spike that goes", append(flat(40), 15, 15, 15), 14.3, -1, false},
		{"for long", append(flat(120), 15, 15, 15, 15, 15, 15, 15, 15, 15, 15), 15, -1, true},
	} {
		s := shiftOf(blocksOfValues(c.past...), edgeBlock{value: c.now}, c.known)
		if slow := s.off && s.p < 1e-6; slow != c.slow || slow && math.Abs(math.Log(s.before.Value*1e9)-14.01) > 0.1 || s.df == 0 || !(s.before.Low <= s.before.Value && s.before.Value <= s.before.High) {
			t.Errorf("%s: %+v", c.name, s)
		}
	}
	if s := shiftOf(blocksOfValues(14, 14), edgeBlock{value: 20}, -1); s != (edgeShift{}) {
		t.Errorf("of two times: %+v", s)
	}
	if s := shiftOf(blocksOfValues(14, 14, 14), edgeBlock{value: 20}, -1); s.p != 1 || s.off || s.df == 0 {
		t.Errorf("of three times, none of which can be judged: %+v", s)
	}
}

func TestFaster(t *testing.T) {
	past := append(slices.Repeat([]float64{14, 14.01, 14.02}, 20), 13)
	s := fasterOf(blocksOfValues(past...), edgeBlock{value: 13})
	if !s.off || s.p > 1e-6 || math.Abs(math.Log(s.before.Value*1e9)-14.01) > 0.05 || math.Abs(s.mean+1.01) > 0.05 || math.Abs(s.ratio+1.01) > 0.05 || !(s.before.Low < s.before.Value && s.before.Value < s.before.High) || s.begin != 60 {
		t.Errorf("%+v", s)
	}
	past[3], past[9], past[15], past[20], past[27], past[31], past[44] = 13, 13, 13, 13, 13, 13, 13 // more than a tenth of its past was so
	if s := fasterOf(blocksOfValues(past...), edgeBlock{value: 13}); s.off || s.p != 1 {
		t.Errorf("as it was before: %+v", s)
	}
	if s := fasterOf(blocksOfValues(14, 14), edgeBlock{value: 10}); s != (edgeShift{}) {
		t.Errorf("of two times: %+v", s)
	}
}

// TestShiftFalseAlarms measures how often a step that never changes is called slow: a call each ten minutes for days, each against the day
// before it, with a rhythm of the day of 20 % beside the noise. An alarm is the beginning of one. docs/transitions.md has the figures of
// 2,000 days of a step: 0, 0, 1 and 21.
func TestShiftFalseAlarms(t *testing.T) {
	const day, edges, days = 144, 20, 4
	r := rand.New(rand.NewPCG(1, 1))
	white := func() float64 { return 0.1 * r.NormFloat64() }
	for _, c := range []struct {
		name  string
		noise func() func() float64
		most  int
	}{
		{"10 %, independent", func() func() float64 { return white }, 1},
		{"30 %, independent", func() func() float64 { return func() float64 { return 3 * white() } }, 1},
		{"10 %, each 0.7 of the one before", func() func() float64 {
			x := 0.0
			return func() float64 { x = 0.7*x + 0.714*white(); return x }
		}, 1},
		{"10 %, of Student's t with 3 degrees of freedom", func() func() float64 {
			return func() float64 {
				chi2 := 0.0
				for range 3 {
					z := r.NormFloat64()
					chi2 += z * z
				}
				return white() / math.Sqrt(chi2/3)
			}
		}, 6},
	} {
		var series [edges][]edgeBlock
		for e := range series {
			noise, phase := c.noise(), 2*math.Pi*r.Float64()
			for i := range day * (1 + days) {
				series[e] = append(series[e], edgeBlock{16 + noise() + 0.2*math.Sin(phase+2*math.Pi*float64(i)/day), 0.0009})
			}
		}
		for _, faster := range []bool{false, true} {
			alarms, on := 0, [edges]bool{}
			for i := day; i < day*(1+days); i++ {
				tests := make([]*edgeTest, edges)
				for e := range series {
					s := shiftOf(series[e][i-day:i], series[e][i], -1)
					if faster {
						s = fasterOf(series[e][i-day:i], series[e][i])
						s.ratio, s.mean = -s.ratio, -s.mean
					}
					tests[e] = &edgeTest{edge: &transitionEdge{shift: [2]edgeShift{s}}, p: s.p}
				}
				transitionBH(tests)
				for e, t := range tests {
					s := t.edge.shift[0]
					alarm := t.q <= 0.0001 && min(s.ratio, s.mean) >= math.Log(1.25)
					if alarm && !on[e] {
						alarms++
					}
					on[e] = alarm
				}
			}
			t.Logf("noise of %s: %d alarms in %d days of a step, faster: %v", c.name, alarms, edges*days, faster)
			if alarms > c.most {
				t.Errorf("noise of %s: %d alarms, want %d at most, faster: %v", c.name, alarms, c.most, faster)
			}
		}
	}
}
