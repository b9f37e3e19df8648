package analyze

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/stat/distuv"
)

// TestCompareStudent: quantiles are those of published tables (Student's t, 97.5 %).
func TestCompareStudent(t *testing.T) {
	for df, want := range map[float64]float64{1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645, 5: 2.57058, 10: 2.22814, 30: 2.04227, 120: 1.97993, 0: 1.95996} {
		if got := quantile975(df); math.Abs(got-want) > 6e-6*max(1, want) {
			t.Errorf("%v degrees of freedom: %v, want %v", df, got, want)
		}
	}
	for df := 1.0; df < 200; df *= 1.07 {
		if got, want := quantile975(df), (distuv.StudentsT{Sigma: 1, Nu: df}).Quantile(0.975); math.Abs(got-want) > 1e-6*want {
			t.Errorf("%v degrees of freedom: %v, gonum has %v", df, got, want)
		}
	}
}

// TestCompareAdjust: the example of Benjamini and Hochberg (1995), section 3.2: of 15 p-values, 4 are below 0.05 by theirs.
func TestCompareAdjust(t *testing.T) {
	p := []float64{0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000}
	q := adjustBH(p)
	n := 0
	for _, v := range q {
		if v <= 0.05 {
			n++
		}
	}
	if n != 4 || math.Abs(q[0]-0.0015) > 1e-12 || math.Abs(q[3]-0.035625) > 1e-12 || q[14] != 1 || !slices.IsSorted(q) {
		t.Errorf("%d are below 0.05: %v", n, q)
	}
}

// TestComparePrior: variances drawn from a scaled F distribution give back its scale and degrees of freedom.
func TestComparePrior(t *testing.T) {
	for _, c := range []struct{ d, d0, s0 float64 }{{2, 4, 1}, {6, 10, 2.5}, {4, 1, 0.5}} {
		r := seeded(7)
		v := make([]float64, 20000)
		for i := range v {
			truth := c.d0 * c.s0 / chi2(r, c.d0)
			v[i] = truth * chi2(r, c.d) / c.d
		}
		d0, s0 := prior(v, c.d)
		if math.Abs(d0/c.d0-1) > 0.15 || math.Abs(s0/c.s0-1) > 0.1 {
			t.Errorf("%+v: found %.2f degrees of freedom and a scale of %.2f", c, d0, s0)
		}
	}
	if d0, _ := prior([]float64{1, 2, 3}, 2); d0 != 0 {
		t.Errorf("three variances say %v", d0)
	}
}

func chi2(r *rand.Rand, k float64) float64 { return distuv.ChiSquared{K: k, Src: r}.Rand() }
