package analyze

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

// leOf is the bucket of a duration, as docs/format/spans.md draws it; agent/spans has its own, and TestTransitionsOfRealSpans
// holds one to the other.
func leOf(ns int64) int64 {
	u := uint64(max(ns, 1) - 1)
	if u < 8 {
		return int64(u) + 1
	}
	e := bits.Len64(u) - 4
	return int64(u>>e+1) << e
}

func TestDurationBuckets(t *testing.T) {
	for _, c := range []struct{ ns, lower, le int64 }{{1, 0, 1}, {16, 15, 16}, {17, 16, 18}, {32, 30, 32}, {33, 32, 36}, {64, 60, 64}, {1_000_000, 983040, 1048576}} {
		if b := (durationBucket{le: leOf(c.ns)}); b.le != c.le || b.lower() != c.lower {
			t.Errorf("%d ns is in (%d, %d], want (%d, %d]", c.ns, b.lower(), b.le, c.lower, c.le)
		}
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 100_000 {
		ns := int64(math.Exp(r.Float64() * math.Log(1<<50)))
		b := durationBucket{le: leOf(ns)}
		if ns > b.le || ns <= b.lower() || b.le > 16 && float64(b.le-b.lower()) > float64(b.lower())/8 {
			t.Fatalf("%d ns is in (%d, %d]", ns, b.lower(), b.le)
		}
	}
}

// TestQuantileRanks: the ranks are those of published tables: of the median, D. J. Altman and others, Statistics with Confidence
// (2000), table 5 (exact, for n from 6); of 0.99, the least sample that bounds it, 368.
func TestQuantileRanks(t *testing.T) {
	for _, c := range []struct {
		n    int64
		q    float64
		l, u int64
		ok   bool
	}{
		{0, 0.5, 0, 0, false}, {5, 0.5, 0, 0, false},
		{6, 0.5, 1, 6, true}, {8, 0.5, 1, 8, true}, {9, 0.5, 2, 8, true}, {10, 0.5, 2, 9, true}, {12, 0.5, 3, 10, true}, {15, 0.5, 4, 12, true},
		{20, 0.5, 6, 15, true}, {25, 0.5, 8, 18, true}, {30, 0.5, 10, 21, true}, {40, 0.5, 14, 27, true}, {50, 0.5, 18, 33, true}, {70, 0.5, 27, 44, true}, {100, 0.5, 40, 61, true},
		{367, 0.99, 0, 0, false}, {368, 0.99, 360, 368, true},
	} {
		if l, u, ok := quantileRanks(c.n, c.q); ok != c.ok || l != c.l || u != c.u {
			t.Errorf("n %d, q %v: ranks %d to %d, %v; want %d to %d, %v", c.n, c.q, l, u, ok, c.l, c.u, c.ok)
		}
	}
	// Whatever the size, both sides are the tightest that are sure enough.
	for _, n := range []int64{368, 999, 10_000, 1_000_000, 30_000_000} {
		for _, q := range edgeQuantiles {
			l, u, ok := quantileRanks(n, q)
			if !ok || binomialBelow(n, l, q) > 0.025 || binomialBelow(n, l+1, q) <= 0.025 || 1-binomialBelow(n, u, q) > 0.025 || 1-binomialBelow(n, u-1, q) <= 0.025 {
				t.Errorf("n %d, q %v: ranks %d to %d, %v", n, q, l, u, ok)
			}
		}
	}
}

// TestBinomial: sums of the terms, and Clopper and Pearson's intervals as published: 0 and 5 of 10, 1 of 20.
func TestBinomial(t *testing.T) {
	const n, p = 20, 0.3
	sum, term := 0.0, math.Pow(1-p, n)
	for k := int64(0); k <= n; k++ {
		if got := binomialBelow(n, k, p); math.Abs(got-sum) > 1e-12 {
			t.Errorf("fewer than %d of %d: %v, want %v", k, n, got, sum)
		}
		if got := binomialAtLeast(n, k, p); math.Abs(got-(1-sum)) > 1e-12 {
			t.Errorf("%d of %d: %v, want %v", k, n, got, 1-sum)
		}
		sum += term
		term *= float64(n-k) / float64(k+1) * p / (1 - p)
	}
	if binomialAtLeast(n, n+1, p) != 0 || binomialBelow(n, n+1, p) != 1 {
		t.Error("more than all is possible")
	}
	for _, c := range []struct {
		k, n      int64
		low, high float64
	}{{0, 10, 0, 0.3085}, {5, 10, 0.1871, 0.8129}, {1, 20, 0.0013, 0.2487}, {20, 20, 0.8316, 1}} {
		if e := shareOf(c.k, c.n); math.Abs(e.Low-c.low) > 5e-5 || math.Abs(e.High-c.high) > 5e-5 || e.Value != float64(c.k)/float64(c.n) {
			t.Errorf("%d of %d: %+v, want %v to %v", c.k, c.n, e, c.low, c.high)
		}
	}
	if e := shareOf(0, 0); e != (Estimate{}) {
		t.Errorf("of none: %+v", e)
	}
	for _, n := range []int64{1e6, 1e8} { // many are no trouble: by the normal distribution
		k := n / 100
		half := z975 * math.Sqrt(0.01*0.99/float64(n))
		if e := shareOf(k, n); math.Abs(e.Low-(0.01-half)) > half/50 || math.Abs(e.High-(0.01+half)) > half/50 {
			t.Errorf("%d of %d: %+v, want 0.01 ± %v", k, n, e, half)
		}
	}
}

func histogramOf(ns []float64) *durations {
	var d durations
	for _, v := range ns {
		d.add(leOf(int64(v)), 1, v, false)
	}
	return &d
}

// TestQuantile: of distributions that are known, the interval has the true quantile at least 95 times in a hundred, and the value is off by the
// bucket's error at most where the sample is large.
func TestQuantile(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for _, c := range []struct {
		name string
		draw func() float64
		of   func(q float64) float64 // the true quantile, ns
	}{
		{"uniform", func() float64 { return 1e6 * r.Float64() }, func(q float64) float64 { return 1e6 * q }},
		{"exponential", func() float64 { return 1e6 * r.ExpFloat64() }, func(q float64) float64 { return -1e6 * math.Log(1-q) }},
		{"lognormal", func() float64 { return 1e6 * math.Exp(0.8*r.NormFloat64()) }, func(q float64) float64 { return 1e6 * math.Exp(0.8*map[float64]float64{0.5: 0, 0.99: 2.3263478740}[q]) }},
		{"constant", func() float64 { return 1e6 }, func(float64) float64 { return 1e6 }},
	} {
		for _, q := range edgeQuantiles {
			const rounds, n = 200, 1000
			missed := 0
			for range rounds {
				ns := make([]float64, n)
				for i := range ns {
					ns[i] = c.draw()
				}
				e, ok := histogramOf(ns).quantile(q)
				if !ok || e.Low > e.Value || e.Value > e.High {
					t.Fatalf("%s, q %v: %+v, %v", c.name, q, e, ok)
				}
				if v := c.of(q) / 1e9; v < e.Low || v > e.High {
					missed++
				}
			}
			// 5 % would be 10; that more than 23 are by chance is less than once in 10,000.
			if missed > 23 {
				t.Errorf("%s, q %v: %d of %d intervals miss the true value", c.name, q, missed, rounds)
			}
			ns := make([]float64, 200_000)
			for i := range ns {
				ns[i] = c.draw()
			}
			e, _ := histogramOf(ns).quantile(q)
			slices.Sort(ns)
			exact := ns[int(q*float64(len(ns)))] / 1e9
			if off := math.Abs(e.Value-exact) / exact; off > 1.0/8 || c.name != "constant" && off > 1.0/16 {
				t.Errorf("%s, q %v: %v is %.1f %% off %v", c.name, q, e.Value, 100*off, exact)
			}
		}
	}
}

func TestDurationsMerge(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	var all, sum durations
	sum.merge(&durations{})
	for range 5 {
		var part durations
		for range 200 {
			ns := 1e6 * r.ExpFloat64()
			le, failed := leOf(int64(ns)), r.IntN(10) == 0
			if r.IntN(20) == 0 {
				le = 0
			}
			part.add(le, 1, ns, failed)
			all.add(le, 1, ns, failed)
		}
		sum.merge(&part)
		part.by = append(part.by[:0], durationBucket{1, 1}) // which is no part of the sum
	}
	if !slices.Equal(all.by, sum.by) || all.n != sum.n || all.loose != sum.loose || all.errors != sum.errors || math.Abs(all.sum-sum.sum) > 1 {
		t.Errorf("parts add up to %+v, want %+v", sum, all)
	}
	if n := all.above(0); n != all.n {
		t.Errorf("%d of %d are above 0", n, all.n)
	}
	// Another sender's buckets: (0, 32], (32, 33], (33, 34].
	foreign := durations{n: 30, by: []durationBucket{{32, 10}, {33, 10}, {34, 10}}}
	for _, c := range []struct{ rank, want float64 }{{10, 32}, {10.5, 32.05}, {20, 33}, {30, 34}} {
		if got := foreign.at(c.rank); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("rank %v is %v, want %v", c.rank, got, c.want)
		}
	}
	if got := []int64{foreign.above(31), foreign.above(32), foreign.above(33)}; !slices.Equal(got, []int64{20, 20, 10}) {
		t.Errorf("surely above 31, 32, 33 are %v", got)
	}
	d := histogramOf([]float64{17, 18, 19, 20, 21})
	if got := []int64{d.above(15), d.above(16), d.above(17), d.above(18), d.above(20), d.above(21)}; !slices.Equal(got, []int64{5, 5, 3, 3, 1, 0}) {
		t.Errorf("surely above 15, 16, 17, 18, 20, 21 are %v", got)
	}
}
