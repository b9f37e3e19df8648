package judge

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestMannWhitneyPublished: what R's wilcox.test (package stats) gives in its own examples.
func TestMannWhitneyPublished(t *testing.T) {
	na := func(v ...float64) []float64 { return v }
	for _, c := range []struct {
		name          string
		x, y          []float64
		less, greater float64 // <0: not published
		tol           float64
	}{
		// Permeability of placental membranes at term and early (Hollander and Wolfe 1973, p. 69 f.): W = 35, p = 0.1272, exact.
		{"permeability", na(0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46), na(1.15, 0.88, 0.90, 0.74, 1.21), -1, 0.1272, 5e-5},
		// Ozone in New York, May and August 1973 (airquality): W = 127.5, two-sided p = 0.0001208, normal with corrections.
		{"ozone", na(41, 36, 12, 18, 28, 23, 19, 8, 7, 16, 11, 14, 18, 14, 34, 6, 30, 11, 1, 11, 4, 32, 23, 45, 115, 37),
			na(39, 9, 16, 78, 35, 66, 122, 89, 110, 44, 28, 65, 22, 59, 23, 31, 44, 21, 9, 45, 168, 73, 76, 118, 84, 85), 0.0001208 / 2, -1, 5e-8},
	} {
		less, greater := mannWhitney(c.x, c.y)
		if c.less >= 0 && math.Abs(less-c.less) > c.tol || c.greater >= 0 && math.Abs(greater-c.greater) > c.tol {
			t.Errorf("%s: less %v, greater %v; published %v, %v", c.name, less, greater, c.less, c.greater)
		}
	}
}

// TestShiftPublished: the estimate and interval that Hollander and Wolfe give for the permeability above.
func TestShiftPublished(t *testing.T) {
	s := shiftOf([]float64{0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46}, []float64{1.15, 0.88, 0.90, 0.74, 1.21}, 0, 1)
	if math.Abs(s.Value-0.305) > 1e-9 || math.Abs(s.Low+0.15) > 1e-9 || math.Abs(s.High-0.76) > 1e-9 {
		t.Errorf("%+v, want 0.305 (-0.15 to 0.76)", s.Estimate)
	}
}

// TestMannWhitneyCounts: exact p-values, with and without ties, are those of all ways to choose.
func TestMannWhitneyCounts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 300 {
		m, n := 1+r.IntN(6), 1+r.IntN(6)
		x, y := make([]float64, m), make([]float64, n)
		for _, s := range [][]float64{x, y} {
			for j := range s {
				if s[j] = r.Float64(); i%2 == 0 {
					s[j] = float64(r.IntN(4)) // ties
				}
			}
		}
		less, greater := mannWhitney(x, y)
		wantLess, wantGreater := enumerate(x, y)
		if s := shiftOf(x, y, 0, 1); math.Abs(s.less-wantLess) > 1e-12 || math.Abs(s.more-wantGreater) > 1e-12 {
			t.Fatalf("%v against %v: shift has %v, %v; by counting %v, %v", x, y, s.less, s.more, wantLess, wantGreater)
		}
		if math.Abs(less-wantLess) > 1e-12 || math.Abs(greater-wantGreater) > 1e-12 {
			t.Fatalf("%v against %v: %v, %v; by counting %v, %v", x, y, less, greater, wantLess, wantGreater)
		}
	}
}

// enumerate is the two tails of U over all ways to choose len(x) of all values.
func enumerate(x, y []float64) (less, greater float64) {
	u := func(x, y []float64) float64 {
		var u float64
		for _, a := range x {
			for _, b := range y {
				if a > b {
					u++
				} else if a == b {
					u += 0.5
				}
			}
		}
		return u
	}
	all := append(append([]float64{}, x...), y...)
	seen := u(x, y)
	total := 0.0
	for set := range 1 << len(all) {
		var a, b []float64
		for i, v := range all {
			if set>>i&1 == 1 {
				a = append(a, v)
			} else {
				b = append(b, v)
			}
		}
		if len(a) != len(x) {
			continue
		}
		total++
		if v := u(a, b); v <= seen {
			less++
			if v == seen {
				greater++
			}
		} else {
			greater++
		}
	}
	return less / total, greater / total
}

// TestMannWhitneyLarge: the exact distribution and the normal one meet where one takes over from the other.
func TestMannWhitneyLarge(t *testing.T) {
	cum := countU(49, 49)
	mean, sd := 49.0*49/2, math.Sqrt(49.0*49*99/12)
	for _, z := range []float64{-3, -2, -1, 0} {
		u := int(mean + z*sd)
		if exact, normal := tail(cum, 49*49, u), normalCDF((float64(u)+0.5-mean)/sd); math.Abs(exact/normal-1) > 0.15 {
			t.Errorf("U <= %d: exact %v, normal %v", u, exact, normal)
		}
	}
	if p := tail(cum, 49*49, 49*49); p != 1 {
		t.Errorf("all of it is %v", p)
	}
}

// TestShiftCovers: the interval holds the truth 95 % of the time, and the test at the margin says so 5 % of the time.
func TestShiftCovers(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	const runs = 4000
	for _, size := range [][2]int{{5, 5}, {7, 12}, {60, 55}} {
		inside, less, more := 0, 0, 0
		for range runs {
			x, y := make([]float64, size[0]), make([]float64, size[1])
			for i := range x {
				x[i] = 0.3 + r.NormFloat64()
			}
			for i := range y {
				y[i] = r.NormFloat64()
			}
			s := shiftOf(x, y, 0.3, 1)
			if s.Low <= 0.3 && 0.3 <= s.High {
				inside++
			}
			if s.less <= 0.05 {
				less++
			}
			if s.more <= 0.05 {
				more++
			}
		}
		t.Logf("%v: 95 %% intervals hold the truth in %.1f %%, one-sided 5 %% tests say less in %.1f %%, more in %.1f %%", size, float64(inside)*100/runs, float64(less)*100/runs, float64(more)*100/runs)
		if inside < runs*94/100 || less > runs*6/100 || more > runs*6/100 {
			t.Errorf("%v: out of bounds", size)
		}
	}
}
