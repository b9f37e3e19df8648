package simulate

import (
	"math"
	"slices"

	"github.com/quantra-l/quantra/analyze/change"
)

// MethodRow is how much of planted steps a method sees, if its threshold is such that it is wrong once in 1,000 series of noise.
type MethodRow struct {
	Method string
	Cost   string // of a series of n points
	Power  []float64
}

// Steps are the relative changes that methods are compared on.
var Steps = []float64{0.03, 0.05, 0.1, 0.2}

// methods compares ways to find a change in a window of minutes on the same series: noise as the services have it, all their
// functions with at least 50 samples a minute; the steps are planted into these very series, two thirds of the way.
func (r *Report) methods() error {
	var series []change.Ratio
	for i := range max(2, r.Options.Services/4) {
		n := Realistic
		n.Spikes = 0 // what goes away is no matter of the method
		s, err := New(Spec{Name: "methods", Seed: r.Options.Seed + uint64(i), NoiseSeed: r.Options.Seed + uint64(i) + 5000, Noise: n, Samples: 100000})
		if err != nil {
			return err
		}
		t := s.Table(4*window, 1)
		for _, f := range t.Functions {
			for at := 0; at < t.Steps(); at += window {
				x := change.Ratio{Binomial: true}
				sum := 0.0
				for c := at; c < at+window; c++ {
					x.K, x.N = append(x.K, float64(f.Self[c])/Unit), append(x.N, t.Total[c]/Unit)
					sum += x.K[c-at]
				}
				if sum >= 50*window {
					series = append(series, x)
				}
			}
		}
	}
	for _, m := range []struct {
		name, cost string
		score      func(change.Ratio) float64
	}{
		{"likelihood ratio, long-run spread", "n", func(x change.Ratio) float64 {
			_, p, _ := x.Test(0, len(x.N), change.Bounds{})
			return -math.Log(max(p, 1e-300))
		}},
		{"likelihood ratio, samples' spread", "n", func(x change.Ratio) float64 {
			_, z := x.Best(0, len(x.N), change.Bounds{Before: 10, After: 5})
			return z
		}},
		{"energy statistic (e-divisive)", "n²; n² a permutation", func(x change.Ratio) float64 {
			v := values(x)
			_, q := change.Energy(v)
			return q / scale(v)
		}},
		{"Hunter (windows of 30, t-test)", "30 n", hunterScore},
	} {
		row := MethodRow{Method: m.name, Cost: m.cost}
		scores := make([]float64, len(series))
		if err := r.each(len(series), func(i int) error { scores[i] = m.score(series[i]); return nil }); err != nil {
			return err
		}
		sorted := slices.Sorted(slices.Values(scores))
		threshold := sorted[len(sorted)-1-len(sorted)/1000]
		for _, by := range Steps {
			hits := make([]bool, len(series))
			if err := r.each(len(series), func(i int) error {
				x := series[i]
				x.K = slices.Clone(x.K)
				for c := window * 2 / 3; c < window; c++ {
					x.K[c] *= 1 + by
				}
				hits[i] = m.score(x) > threshold
				return nil
			}); err != nil {
				return err
			}
			n := 0
			for _, h := range hits {
				n += count(h)
			}
			row.Power = append(row.Power, float64(n)/float64(len(series)))
		}
		r.Methods = append(r.Methods, row)
	}
	return nil
}

func values(x change.Ratio) []float64 {
	var v []float64
	for i := range x.N {
		if x.N[i] > 0 {
			v = append(v, x.K[i]/x.N[i])
		}
	}
	return v
}

// scale is the mean difference of neighbours, which a change of level does not move.
func scale(v []float64) float64 {
	var sum float64
	for i := 1; i < len(v); i++ {
		sum += math.Abs(v[i] - v[i-1])
	}
	return max(sum/float64(len(v)-1), 1e-12)
}

// hunterScore is that of the surest change point that Hunter keeps.
func hunterScore(x change.Ratio) float64 {
	ps, err := change.Hunter(values(x), 30, 0.01, 0)
	if err != nil {
		return 0
	}
	best := 0.0
	for _, p := range ps {
		best = max(best, -math.Log(max(p.P, 1e-300)))
	}
	return best
}
