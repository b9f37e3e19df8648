package change

import (
	"bufio"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// published reads testdata/tigerbeetle.txt.
func published(t testing.TB) (series []float64, cases []publishedCase) {
	t.Helper()
	f, err := os.Open("testdata/tigerbeetle.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	number := func(s string) float64 {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		w := strings.Fields(sc.Text())
		switch w[0] {
		case "series":
			for _, s := range w[1:] {
				series = append(series, number(s))
			}
		case "expect":
			c := publishedCase{window: int(number(w[1])), p: number(w[2]), magnitude: number(w[3])}
			for _, s := range w[4:] {
				c.at = append(c.at, int(number(s)))
			}
			cases = append(cases, c)
		}
	}
	if sc.Err() != nil || len(series) != 365 || len(cases) != 9 {
		t.Fatalf("%d values and %d cases: %v", len(series), len(cases), sc.Err())
	}
	return series, cases
}

type publishedCase struct {
	window       int
	p, magnitude float64
	at           []int
}

func places(ps []Point) []int {
	var at []int
	for _, p := range ps {
		at = append(at, p.At)
	}
	return at
}

// TestHunterPublished: the change points that Apache Otava publishes for TigerBeetle's benchmark.
func TestHunterPublished(t *testing.T) {
	series, cases := published(t)
	for _, c := range cases {
		got, err := Hunter(series, c.window, c.p, c.magnitude)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(places(got), c.at) {
			t.Errorf("p %g, magnitude %g:\n got %v\nwant %v", c.p, c.magnitude, places(got), c.at)
		}
	}
}

// slowSplit is the energy statistic as it is written down.
func slowSplit(x []float64) (at int, q float64) {
	sum := func(a, b []float64) (s float64) {
		for _, v := range a {
			for _, w := range b {
				s += math.Abs(v - w)
			}
		}
		return s
	}
	q = math.Inf(-1)
	for t := 1; t < len(x); t++ {
		for k := t + 1; k <= len(x); k++ {
			a, b := x[:t], x[t:k]
			n, m := float64(len(a)), float64(len(b))
			v := 2 * sum(a, b) / (n * m)
			if n > 1 {
				v -= sum(a, a) / (n * (n - 1))
			}
			if m > 1 {
				v -= sum(b, b) / (m * (m - 1))
			}
			if v *= n * m / (n + m); v > q+1e-9 {
				at, q = t, v
			}
		}
	}
	return at, q
}

func TestEnergySplit(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := 2; n < 40; n++ {
		x := make([]float64, n)
		for i := range x {
			x[i] = rng.NormFloat64()
			if i > n/2 {
				x[i] += 2
			}
		}
		at, q := energySplit(x)
		wantAt, want := slowSplit(x)
		if at != wantAt || math.Abs(q-want) > 1e-9*(1+math.Abs(want)) {
			t.Fatalf("%d points: %d %g, want %d %g", n, at, q, wantAt, want)
		}
	}
}

// steps is noise of deviation 1 around levels that hold for 40 points each.
func steps(seed uint64, levels ...float64) []float64 {
	rng := rand.New(rand.NewPCG(seed, 9))
	var x []float64
	for _, l := range levels {
		for range 40 {
			x = append(x, l+rng.NormFloat64())
		}
	}
	return x
}

func TestEDivisive(t *testing.T) {
	x := steps(3, 20, 24, 24, 18)
	got, err := EDivisive(x, 0.01, 199, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || abs(got[0].At-40) > 2 || abs(got[1].At-120) > 2 {
		t.Fatalf("found %v, want changes at 40 and 120", got)
	}
	again, _ := EDivisive(x, 0.01, 199, 1)
	if !slices.Equal(got, again) {
		t.Errorf("equal seeds: %v and %v", got, again)
	}
	// Of 200 series of noise, a test at 5 % says something of about 10.
	said := 0
	for seed := range uint64(200) {
		ps, _ := EDivisive(steps(seed, 5), 0.05, 99, seed)
		said += min(len(ps), 1)
	}
	if said < 2 || said > 22 {
		t.Errorf("%d of 200 series of noise have changes at 5 %%", said)
	}
}

func abs(i int) int { return max(i, -i) }

func TestBadArguments(t *testing.T) {
	if _, err := Hunter([]float64{1, 2, 3}, 1, 0.1, 0); err == nil {
		t.Error("a window of 1 is taken")
	}
	if _, err := Hunter([]float64{1, 2, 3}, 30, 0, 0); err == nil {
		t.Error("p of 0 is taken")
	}
	if _, err := EDivisive([]float64{1, 2, 3}, 0.1, 0, 0); err == nil {
		t.Error("no permutations are taken")
	}
	for _, x := range [][]float64{nil, {1}, {1, 1}, {1, 1, 1, 1}} {
		if ps, err := Hunter(x, 30, 0.01, 0); err != nil || len(ps) > 0 {
			t.Errorf("Hunter of %v: %v, %v", x, ps, err)
		}
		if ps, err := EDivisive(x, 0.01, 199, 0); err != nil || len(ps) > 0 {
			t.Errorf("EDivisive of %v: %v, %v", x, ps, err)
		}
	}
}

func BenchmarkHunter(b *testing.B) {
	x := steps(1, 5, 6, 5)
	for b.Loop() {
		if _, err := Hunter(x, 30, 0.001, 0.01); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEDivisive(b *testing.B) {
	x := steps(1, 5, 6, 5)
	for b.Loop() {
		if _, err := EDivisive(x, 0.01, 199, 1); err != nil {
			b.Fatal(err)
		}
	}
}
