package change

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestStudentP: Student's table, two-sided (Abramowitz and Stegun, table 26.10).
func TestStudentP(t *testing.T) {
	for _, c := range []struct{ t, df, p float64 }{
		{12.706, 1, 0.05}, {2.228, 10, 0.05}, {3.169, 10, 0.01}, {2.750, 30, 0.01}, {1.980, 120, 0.05}, {1.960, 1e9, 0.05}, {6.869, 7, 0.00024}, {0, 5, 1},
	} {
		if got := StudentP(c.t, c.df); math.Abs(got-c.p) > 0.002*c.p+5e-6 {
			t.Errorf("StudentP(%g, %g) = %g, want %g", c.t, c.df, got, c.p)
		}
		if got := studentQuantile(c.p, c.df); c.p < 1 && math.Abs(got-c.t) > 0.003*c.t {
			t.Errorf("studentQuantile(%g, %g) = %g, want %g", c.p, c.df, got, c.t)
		}
	}
	if StudentP(math.NaN(), 5) != 1 || StudentP(3, 0) != 1 || StudentP(math.Inf(1), 5) != 0 {
		t.Error("no number, no degrees of freedom or infinity")
	}
}

// TestMaxP: critical values of the largest F over the middle 70 % (Andrews, Econometrica 61, 1993; corrected 71, 2003, table 1).
func TestMaxP(t *testing.T) {
	for _, c := range []struct{ f, p float64 }{{7.12, 0.10}, {8.68, 0.05}, {12.16, 0.01}} {
		if got := MaxP(NormalP(math.Sqrt(c.f)), 0.15, 0.85, 1<<20); math.Abs(got-c.p) > 0.12*c.p {
			t.Errorf("MaxP of F %g is %g, published %g", c.f, got, c.p)
		}
	}
	for _, p := range []float64{1e-8, 1e-17, 1e-47, 1e-290, 0} { // far out it stays between one split and Bonferroni's bound
		if got := MaxP(p, 0.1, 0.9, 100); !(got >= p && got <= 100*max(p, 1e-300)) {
			t.Errorf("MaxP of %g is %g", p, got)
		}
	}
	if got, one := MaxP(1e-6, 0.1, 0.9, 1), 1e-6; got != one {
		t.Errorf("one split: %g, want %g", got, one)
	}
	if MaxP(1, 0.1, 0.9, 50) != 1 || MaxP(0.5, 0.1, 0.9, 50) != 1 {
		t.Error("nothing is not 1")
	}
}

func TestBenjaminiHochberg(t *testing.T) {
	// The example of Benjamini and Hochberg (1995), section 4: at 0.05 the first four of 15 are rejected.
	ps := []float64{0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1}
	n := 0
	qs := BenjaminiHochberg(ps, 15)
	for i, q := range qs {
		if q <= 0.05 {
			n++
		}
		if i > 0 && q < qs[i-1] {
			t.Errorf("q falls at %d", i)
		}
	}
	if n != 4 {
		t.Errorf("%d are rejected at 0.05, published 4", n)
	}
}

// counts draws points of about n samples at share p, scaled by level, with noise between points of a relative deviation of
// sd that remembers rho of its last value.
func counts(rng *rand.Rand, points int, n, p, sd, rho float64, level func(i int) float64) Ratio {
	r := Ratio{Binomial: true}
	e := rng.NormFloat64() * sd
	for i := range points {
		e = rho*e + math.Sqrt(1-rho*rho)*sd*rng.NormFloat64()
		mean := n * p * level(i) * math.Exp(e)
		r.N = append(r.N, n)
		r.K = append(r.K, poisson(rng, mean))
	}
	return r
}

// poisson draws a count of that mean: by waiting times, or past 50 by the normal distribution.
func poisson(rng *rand.Rand, mean float64) float64 {
	if mean > 50 {
		return max(0, math.Round(mean+math.Sqrt(mean)*rng.NormFloat64()))
	}
	n := -1.0
	for t := 0.0; t < mean; n++ {
		t += rng.ExpFloat64()
	}
	return n
}

// TestSplitP: P(X >= 8) of 10 fair coins is 56/1024, and both sides twice that.
func TestSplitP(t *testing.T) {
	for _, c := range []struct{ a, b, part, p float64 }{{8, 2, 0.5, 112.0 / 1024}, {2, 8, 0.5, 112.0 / 1024}, {5, 5, 0.5, 1}, {0, 3, 0.25, 2 * 0.421875}, {4, 0, 0.1, 2e-4}, {0, 0, 0.5, 1}} {
		if got := splitP(c.a, c.b, c.part); math.Abs(got-c.p) > 1e-9 {
			t.Errorf("%g and %g by %g: %g, want %g", c.a, c.b, c.part, got, c.p)
		}
	}
}

// TestIncompleteBeta: against sums of binomial probabilities (Abramowitz and Stegun, 26.5.24), in the middle and far out.
func TestIncompleteBeta(t *testing.T) {
	for _, n := range []int{1, 3, 20, 500, 20000} {
		for _, x := range []float64{0.001, 0.05, 0.3, 0.5, 0.9} {
			for _, z := range []float64{-7, -3, 0, 2, 5, 12} {
				k := int(float64(n)*x + z*math.Sqrt(float64(n)*x*(1-x)))
				if k < 1 || k > n {
					continue
				}
				want := 0.0
				for i := k; i <= n; i++ {
					a, _ := math.Lgamma(float64(n + 1))
					b, _ := math.Lgamma(float64(i + 1))
					c, _ := math.Lgamma(float64(n - i + 1))
					want += math.Exp(a - b - c + float64(i)*math.Log(x) + float64(n-i)*math.Log1p(-x))
				}
				if got := incompleteBeta(float64(k), float64(n-k+1), x); !(math.Abs(got-want) <= 1e-7*want+1e-12) && !(want < 1e-30 && math.Abs(got-want) < 1e-4*want) {
					t.Errorf("%d or more of %d by %g: %g, want %g", k, n, x, got, want)
				}
			}
		}
	}
}

func flat(int) float64 { return 1 }

// TestFalseAlarms: of 4,000 series without a change, those with p of at most 1 % and 0.1 %, for each kind of noise.
func TestFalseAlarms(t *testing.T) {
	for _, c := range []struct {
		name          string
		n, p, sd, rho float64
		most          [2]int // at 1 % and at 0.1 %
	}{
		{"binomial", 5000, 0.02, 0, 0, [2]int{40, 8}},
		{"rare", 5000, 0.0002, 0, 0, [2]int{40, 8}},
		{"overdispersed", 50000, 0.05, 0.1, 0, [2]int{40, 8}},
		{"remembers", 50000, 0.05, 0.1, 0.5, [2]int{60, 8}},
		{"remembers long", 50000, 0.05, 0.1, 0.8, [2]int{130, 40}},
	} {
		rng := rand.New(rand.NewPCG(5, 6))
		var got [2]int
		for range 4000 {
			_, p, ok := counts(rng, 120, c.n, c.p, c.sd, c.rho, flat).Test(0, 120, Bounds{})
			if !ok {
				t.Fatal("too little")
			}
			if p <= 0.01 {
				got[0]++
			}
			if p <= 0.001 {
				got[1]++
			}
		}
		t.Logf("%s: of 4,000 %d at 1 %%, %d at 0.1 %%", c.name, got[0], got[1])
		if got[0] > c.most[0] || got[1] > c.most[1] {
			t.Errorf("%s: of 4,000 %d at 1 %% and %d at 0.1 %%, want at most %v", c.name, got[0], got[1], c.most)
		}
	}
}

func TestSegments(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	r := counts(rng, 160, 20000, 0.03, 0.05, 0.3, func(i int) float64 {
		switch {
		case i >= 120:
			return 1.5
		case i >= 60 && i < 75:
			return 2 // a spike of 15 points
		}
		return 1
	})
	r.N[30], r.K[30] = 0, 0 // a gap
	got := r.Segments(Bounds{}, 1e-4)
	if len(got) != 3 || abs(got[0]-60) > 1 || abs(got[1]-75) > 1 || abs(got[2]-120) > 1 {
		t.Fatalf("segments at %v, want 60, 75 and 120", got)
	}
	f := r.Measure(75, 120, 160)
	if first, last := f.When(); first > 120 || last < 120 || last-first > 6 {
		t.Errorf("it began between %d and %d, want 120", first, last)
	}
	if math.Abs(f.Diff-0.015) > 4*f.Err || f.P > 1e-8 || f.Err > 0.003 {
		t.Errorf("measured %+v, planted a difference of 0.015", f)
	}
	if cuts := (Ratio{}).Segments(Bounds{}, 0.5); len(cuts) > 0 {
		t.Errorf("an empty series has segments at %v", cuts)
	}
	if _, _, ok := (Ratio{K: []float64{1, 1, 9}, N: []float64{9, 9, 9}, Binomial: true}).Test(0, 3, Bounds{}); ok {
		t.Error("three points say something")
	}
}

// TestIntervals: of 95 % intervals at a known place about 95 % hold what was planted, whatever the noise.
func TestIntervals(t *testing.T) {
	for _, sd := range []float64{0, 0.05} {
		rng := rand.New(rand.NewPCG(8, 8))
		held := 0
		for range 1000 {
			r := counts(rng, 120, 20000, 0.03, sd, 0, func(i int) float64 { return 1 + float64(i/60) })
			f := r.Measure(0, 60, 120)
			want := 0.03 * math.Exp(sd*sd/2)
			if low, high := Interval(f.Diff, f.Err, f.DF); low <= want && want <= high {
				held++
			}
		}
		if held < 925 || held > 990 {
			t.Errorf("deviation %g: %d of 1,000 intervals hold it", sd, held)
		}
	}
}

func TestTrend(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	ramp := counts(rng, 120, 50000, 0.03, 0.03, 0, func(i int) float64 { return 1 + float64(i)/120 })
	step := counts(rng, 120, 50000, 0.03, 0.03, 0, func(i int) float64 { return 1 + float64(i/70) })
	f, _, _ := ramp.Test(0, 120, Bounds{})
	if s, l := ramp.Trend(f); l < s+4 {
		t.Errorf("a ramp is taken for a step: %g, line %g", s, l)
	}
	f, _, _ = step.Test(0, 120, Bounds{})
	if s, l := step.Trend(f); s < l+4 || f.At != 70 {
		t.Errorf("a step at %d is taken for a ramp: %g, line %g", f.At, s, l)
	}
	l := ramp.Line(0, 120)
	if math.Abs(l.Before-0.03) > 4*l.BeforeErr || math.Abs(l.Diff-0.03*119/120) > 4*l.Err || l.P > 1e-12 {
		t.Errorf("line %+v, planted 0.03 to 0.06", l)
	}
	// Of 2,000 series without a slope, at 1 %.
	n := 0
	for range 2000 {
		if counts(rng, 120, 50000, 0.03, 0.03, 0.3, flat).Line(0, 120).P <= 0.01 {
			n++
		}
	}
	if n > 40 || n < 2 {
		t.Errorf("%d of 2,000 series of noise have a slope at 1 %%", n)
	}
}

// TestPlain: values that are no counts, some of them all equal.
func TestPlain(t *testing.T) {
	plain := func(x []float64) Ratio {
		n := make([]float64, len(x))
		for i := range n {
			n[i] = 1
		}
		return Ratio{K: x, N: n}
	}
	f, p, ok := plain(steps(1, 100, 110)).Test(0, 80, Bounds{})
	if !ok || p > 1e-12 || abs(f.At-40) > 1 {
		t.Errorf("10 deviations: %+v, p %g", f, p)
	}
	x := make([]float64, 80)
	for i := range x {
		x[i] = 5 + float64(i/40)
	}
	if f, p, _ := plain(x).Test(0, 80, Bounds{}); p > 1e-12 || f.At != 40 || math.IsNaN(f.Err) {
		t.Errorf("equal values: %+v, p %g", f, p)
	}
	if _, p, ok := plain(make([]float64, 80)).Test(0, 80, Bounds{}); ok && p < 1 {
		t.Errorf("zeros have p %g", p)
	}
}

func BenchmarkBest(b *testing.B) {
	r := counts(rand.New(rand.NewPCG(1, 1)), 120, 20000, 0.01, 0.05, 0.3, flat)
	for b.Loop() {
		r.Best(0, 120, Bounds{10, 5})
	}
}

func BenchmarkTest(b *testing.B) {
	r := counts(rand.New(rand.NewPCG(1, 1)), 120, 20000, 0.01, 0.05, 0.3, flat)
	for b.Loop() {
		r.Test(0, 120, Bounds{})
	}
}

func BenchmarkSegments(b *testing.B) {
	r := counts(rand.New(rand.NewPCG(1, 1)), 120, 20000, 0.01, 0.05, 0.3, func(i int) float64 { return 1 + float64(i/70) })
	for b.Loop() {
		r.Segments(Bounds{}, 1e-4)
	}
}
