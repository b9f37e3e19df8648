package overhead

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestStudent: the quantiles of the published table (NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2).
func TestStudent(t *testing.T) {
	for _, c := range []struct {
		df              int
		p95, p975, p995 float64
	}{
		{1, 6.314, 12.706, 63.657}, {2, 2.920, 4.303, 9.925}, {3, 2.353, 3.182, 5.841}, {4, 2.132, 2.776, 4.604}, {5, 2.015, 2.571, 4.032},
		{9, 1.833, 2.262, 3.250}, {10, 1.812, 2.228, 3.169}, {20, 1.725, 2.086, 2.845}, {30, 1.697, 2.042, 2.750}, {60, 1.671, 2.000, 2.660}, {100, 1.660, 1.984, 2.626},
		{100_000, 1.645, 1.960, 2.576}, // the normal distribution's
	} {
		for _, q := range []struct{ p, want float64 }{{0.95, c.p95}, {0.975, c.p975}, {0.995, c.p995}} {
			if got := student(q.p, c.df); math.Abs(got-q.want) > 0.0006 {
				t.Errorf("t(%g, %d) = %.4f, want %.3f", q.p, c.df, got, q.want)
			}
		}
	}
}

// TestPaired: Student's own data of 1908, the extra hours of sleep of ten patients by two drugs. R's
// t.test(paired = TRUE) gives 1.58, 0.7001142 to 2.4598858, t = 4.0621.
func TestPaired(t *testing.T) {
	iv := paired([]float64{1.2, 2.4, 1.3, 1.3, 0, 1, 1.8, 0.8, 4.6, 1.4})
	for _, c := range []struct{ got, want float64 }{{iv.Mean, 1.58}, {math.Round(1e4*iv.Mean/(iv.SD/math.Sqrt(10))) / 1e4, 4.0621}, {iv.Low, 0.7001142}, {iv.High, 2.4598858}} {
		if math.Abs(c.got-c.want) > 1e-6 {
			t.Errorf("%.7f, want %.7f", c.got, c.want)
		}
	}
	if !iv.Known || iv.N != 10 {
		t.Errorf("%+v", iv)
	}
	for _, few := range [][]float64{nil, {1}, {1, 2}} {
		if iv := paired(few); iv.Known || iv.Low != iv.Mean || iv.High != iv.Mean {
			t.Errorf("of %v: %+v", few, iv)
		}
	}
}

// TestPairedCovers: of many experiments the interval holds the truth in 95 %, as it says.
func TestPairedCovers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	const experiments = 4000
	for _, n := range []int{3, 6} {
		held := 0
		for range experiments {
			var d []float64
			for range n {
				d = append(d, 5+2*r.NormFloat64())
			}
			if iv := paired(d); iv.Low <= 5 && 5 <= iv.High {
				held++
			}
		}
		if part := float64(held) / experiments; part < 0.935 || part > 0.965 {
			t.Errorf("%d pairs: the interval holds the truth in %.1f %%, want 95", n, 100*part)
		}
	}
}

func TestPairsNeeded(t *testing.T) {
	for _, c := range []struct {
		mean, sd, budget float64
		want             int
	}{
		{0.5, 0.5, 1, 7},      // t(6)/√7 = 2.447/2.646 = 0.925 < 1, and t(5)/√6 = 1.049 is not
		{0.9, 0.2, 1, 18},     // t(17)/√18 = 0.4973 < 0.5, and t(16)/√17 = 0.514 is not
		{0, 0.1, 1, 3},        // never fewer than three
		{1, 0.1, 1, 0},        // on the budget itself no number is enough
		{0.999, 1, 1, 0},      // some four million
		{0.95, 1, 1, 1540},    // about (1.96·1/0.05)²
		{1.05, 1, 1, 1540},    // on the other side as well
		{0.5, 0, 1, minPairs}, // without any spread
	} {
		if got := pairsNeeded(Interval{Mean: c.mean, SD: c.sd}, c.budget); got != c.want {
			t.Errorf("mean %g, sd %g, budget %g: %d, want %d", c.mean, c.sd, c.budget, got, c.want)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		xs   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		before := slices.Clone(c.xs)
		if got := Median(c.xs); got != c.want || !slices.Equal(before, c.xs) {
			t.Errorf("of %v: %g, want %g", before, got, c.want)
		}
	}
}

// TestHistogram: quantiles beside those of the sorted values, on latencies of many sizes.
func TestHistogram(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	var h, other Histogram
	var all []time.Duration
	for i := range 20_000 {
		d := time.Duration(math.Exp(r.NormFloat64()*2+13) + 1) // about 0.4 ms, from 200 ns to a second
		all = append(all, d)
		if i%3 == 0 {
			other.Add(d)
		} else {
			h.Add(d)
		}
	}
	h.Merge(&other)
	slices.Sort(all)
	if h.Count() != 20_000 || h.Max() != all[len(all)-1] {
		t.Errorf("%d counted, the largest %v of %v", h.Count(), h.Max(), all[len(all)-1])
	}
	for _, q := range []float64{0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999, 1} {
		want := all[max(0, int(math.Ceil(q*20_000))-1)]
		if got := h.Quantile(q); got < want || float64(got-want) > float64(want)/128 {
			t.Errorf("quantile %g is %v, want %v and at most 1/128 more", q, got, want)
		}
	}
	if (&Histogram{}).Quantile(0.5) != 0 || (&Histogram{}).Curve() != nil {
		t.Error("an empty histogram has quantiles")
	}
}

// TestBuckets: buckets follow each other without a gap, and each holds its own ends.
func TestBuckets(t *testing.T) {
	next := uint64(0)
	for i := range bucket(math.MaxInt64) + 1 {
		if bucket(next) != i || bucket(top(i)) != i {
			t.Fatalf("bucket %d begins at %d, which is in %d, and ends at %d, which is in %d", i, next, bucket(next), top(i), bucket(top(i)))
		}
		next = top(i) + 1
	}
	if next != math.MaxInt64+1 {
		t.Errorf("the last bucket ends before %d", next)
	}
}

func TestCurve(t *testing.T) {
	var h Histogram
	for i := range 1000 {
		h.Add(time.Duration(i+1) * time.Millisecond)
	}
	c := h.Curve()
	if n := len(c); n != 32 || c[0].Part != 0 || c[n-1] != (Point{1, 1}) {
		t.Errorf("%d points from %v to %v", n, c[0], c[n-1])
	}
	for i, p := range c[1:] {
		if p.Part <= c[i].Part || p.Seconds < c[i].Seconds {
			t.Errorf("%v follows %v", p, c[i])
		}
	}
	if at := c[10]; math.Abs(at.Part-0.9) > 1e-9 || math.Abs(at.Seconds-0.9) > 0.01 {
		t.Errorf("%v at 90 %%", at)
	}
}

// TestOrder: each variant once a round, and once in each turn in as many rounds as there are variants; another seed is another order.
func TestOrder(t *testing.T) {
	const n = 5
	for block := range 3 {
		turns := map[[2]int]int{}
		for round := block * n; round < (block+1)*n; round++ {
			o := Order(n, round, 42)
			if s := slices.Sorted(slices.Values(o)); !slices.Equal(s, []int{0, 1, 2, 3, 4}) {
				t.Fatalf("round %d: %v", round, o)
			}
			for turn, v := range o {
				turns[[2]int{v, turn}]++
			}
		}
		if len(turns) != n*n {
			t.Errorf("rounds %d to %d: %d of %d turns", block*n, (block+1)*n-1, len(turns), n*n)
		}
	}
	if !slices.Equal(Order(n, 3, 42), Order(n, 3, 42)) {
		t.Error("a seed has two orders")
	}
	different := false
	for seed := range uint64(5) {
		different = different || !slices.Equal(Order(n, 0, seed), Order(n, 0, 42))
	}
	if !different {
		t.Error("all seeds have one order")
	}
}
