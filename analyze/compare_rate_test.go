package analyze

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/quantra-l/quantra/profile"
)

var long = flag.Bool("long", false, "measure rates on many more fleets")

// real is a service with the stacks of a real profile (the corpus'), as weights.
func real(t testing.TB) *resampler {
	t.Helper()
	l := load(t, "../profile/testdata/corpus/json_cpu.pb.gz")
	col := l.ours.Column("cpu")
	s := &resampler{p: l.ours, weights: make([]float64, l.ours.NumSamples())}
	for i, v := range l.ours.Values[col] {
		s.weights[i] = float64(v)
		s.sum += float64(v)
	}
	for i, st := range l.ours.SampleStack {
		loc := l.ours.LinesOf(l.ours.Stacks.Loc[st])
		s.leaf = append(s.leaf, 0)
		if len(loc) > 0 {
			s.leaf[i] = loc[0].Function
		}
	}
	return s
}

// resampler draws profiles from one: the same program, sampled anew.
type resampler struct {
	p       *profile.Profile
	weights []float64
	leaf    []uint32 // of samples: the function at the top
	sum     float64
}

// draw is about n samples; each function is off by a factor of its own, which is the replicate's, times grow of its own.
func (s *resampler) draw(r *rand.Rand, n, spread float64, grow map[uint32]float64) *profile.Profile {
	off := map[uint32]float64{}
	p := *s.p
	p.SampleTypes = []profile.ValueType{{Type: "cpu", Unit: "nanoseconds"}}
	p.Period, p.PeriodType = tenMillis, p.SampleTypes[0]
	values := make([]int64, len(s.weights))
	for i, w := range s.weights {
		f := s.leaf[i]
		if _, ok := off[f]; !ok {
			off[f] = math.Exp(spread * r.NormFloat64())
			if g, ok := grow[f]; ok {
				off[f] *= g
			}
		}
		values[i] = poisson(r, n*w/s.sum*off[f]) * tenMillis
	}
	p.Values = [][]int64{values}
	return &p
}

func (s *resampler) cohort(r *rand.Rand, name string, replicates int, n, spread float64, grow map[uint32]float64) Cohort {
	c := Cohort{Name: name}
	for range replicates {
		c.Replicates = append(c.Replicates, Replicate{Profile: s.draw(r, n, spread, grow), Seconds: 60})
	}
	return c
}

// TestCompareAA: two sides of the same program are the same. With no difference anywhere, whatever is claimed is false, so the
// rate of false discoveries is the rate of comparisons that claim anything at all, and is held to its bound.
func TestCompareAA(t *testing.T) {
	s := real(t)
	runs := 40
	if *long {
		runs *= 10
	}
	for _, c := range []struct {
		base, head int
		n, spread  float64
	}{{2, 2, 6000, 0.05}, {2, 2, 6000, 0}, {2, 2, 30000, 0.1}, {4, 4, 6000, 0.05}, {8, 2, 3000, 0.1}, {6, 1, 6000, 0.05}, {1, 1, 6000, 0.02}, {3, 3, 1000, 0.05}, {2, 2, 300, 0.05}} {
		t.Run(fmt.Sprintf("%d and %d of %.0f spread %.2f", c.base, c.head, c.n, c.spread), func(t *testing.T) {
			t.Parallel()
			false1, outside, intervals := 0, 0, 0
			truth := s.truth()
			for i := range runs {
				r := seeded(i)
				got := compared(t, s.cohort(r, "a", c.base, c.n, c.spread, nil), s.cohort(r, "b", c.head, c.n, c.spread, nil), CompareOptions{})
				if got.causes() != "" {
					false1++
				}
				for _, ch := range got.Changes {
					if truth[ch.Function] < 0.01 {
						continue
					}
					intervals++
					if ch.Self.Change.Low > 0 || ch.Self.Change.High < 0 {
						outside++
					}
				}
			}
			// At 5 %, two of 40 claim something, and hardly ever more than 6 (three standard deviations).
			most := 0.05*float64(runs) + 3*math.Sqrt(0.05*0.95*float64(runs))
			cover := 1 - float64(outside)/float64(intervals)
			t.Logf("%s: false claims in %d of %d comparisons; 95 %% intervals of the difference hold 0 in %.1f %% of %d", t.Name(), false1, runs, 100*cover, intervals)
			if float64(false1) > most {
				t.Errorf("%d of %d claim a difference, more than %.0f", false1, runs, most)
			}
			if cover < 0.92 {
				t.Errorf("95 %% intervals hold the truth in %.1f %%", 100*cover)
			}
		})
	}
}

// truth is each function's self share.
func (s *resampler) truth() map[string]float64 {
	out := map[string]float64{}
	for i, w := range s.weights {
		out[s.p.Strings[s.p.Functions[s.leaf[i]].Name]] += w / s.sum
	}
	return out
}

// TestComparePower: planted regressions, each of so many points of the service, and how often they are found by name with
// nothing else claimed.
func TestComparePower(t *testing.T) {
	runs := 40
	if *long {
		runs *= 10
	}
	type planted struct {
		points     float64
		replicates int
		n, spread  float64
		least      float64
	}
	cases := []planted{{30, 2, 200, 0.05, 0.9}, {20, 2, 3000, 0.05, 0.9}, {5, 2, 6000, 0.05, 0.9}, {2, 4, 6000, 0.05, 0.9}, {2, 1, 20000, 0.02, 0.9}, {1, 4, 20000, 0.03, 0.9}, {0.5, 8, 20000, 0.03, 0.9}}
	if *long { // many samples: what a tenth of a point comes to is reported
		cases = append(cases, planted{0.1, 16, 100000, 0.03, 0.2})
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%v points, %d and %d of %.0f, spread %.2f", c.points, c.replicates, c.replicates, c.n, c.spread), func(t *testing.T) {
			t.Parallel()
			found, else1 := 0, 0
			head := withStacks(map[string]float64{evicting: 200 + 100*c.points})
			for i := range runs {
				r := seeded(1000 + i)
				n := c.n * (10000 + 100*c.points) / 10000
				got := compared(t, cohort(r, "v1", shop, c.replicates, c.n, c.spread), cohort(r, "v2", head, c.replicates, n, c.spread), CompareOptions{})
				for _, ch := range got.Changes {
					switch {
					case ch.Verdict == Grew && ch.Function == "shop.(*Cache).evict":
						found++
					case ch.Verdict == Grew || ch.Verdict == Fell:
						else1++
					}
				}
			}
			t.Logf("%s: found in %d of %d, %d other claims", t.Name(), found, runs, else1)
			if float64(found) < c.least*float64(runs) || else1 > runs/5 {
				t.Errorf("found in %d of %d, %d other claims", found, runs, else1)
			}
		})
	}
}

// BenchmarkCompare is two cohorts of instances of a real service.
func BenchmarkCompare(b *testing.B) {
	s := real(b)
	r := seeded(1)
	for _, n := range []int{1, 4, 32} {
		base, head := s.cohort(r, "a", n, 6000, 0.05, nil), s.cohort(r, "b", n, 6000, 0.05, nil)
		b.Run(fmt.Sprintf("%dx%d", n, n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				compared(b, base, head, CompareOptions{})
			}
		})
	}
}

// TestCompareFewSamples: where hardly a function has the samples to say how much replicates differ, thirty points are found all the same.
func TestCompareFewSamples(t *testing.T) {
	s := real(t)
	// A function of about 2 % that comes to have 30 %.
	var leaf uint32
	share := 0.0
	byLeaf := map[uint32]float64{}
	for i, w := range s.weights {
		byLeaf[s.leaf[i]] += w / s.sum
	}
	for f, p := range byLeaf {
		if p < 0.025 && p > share {
			leaf, share = f, p
		}
	}
	name := s.p.Strings[s.p.Functions[leaf].Name]
	grow := map[uint32]float64{leaf: 0.3 / 0.7 * (1 - share) / share}
	found, fits := 0, 0
	for i := range 20 {
		r := seeded(i)
		got := compared(t, s.cohort(r, "a", 2, 100, 0.02, nil), s.cohort(r, "b", 2, 100, 0.02, grow), CompareOptions{})
		if got.of(t, name).Full.Q <= 0.05 {
			found++
		}
		if got.SpreadDF == assumedDF {
			fits++
		}
	}
	if found < 18 || fits < 15 {
		t.Errorf("%s from %.1f %% to 30 %%: found in %d of 20; the spread was assumed in %d", name, 100*share, found, fits)
	}
}
