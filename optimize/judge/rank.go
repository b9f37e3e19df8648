package judge

import (
	"cmp"
	"math"
	"slices"

	"github.com/quantra-l/quantra/analyze"
)

// Where the distribution of U is counted instead of taken for normal: below so many on either side (as R's wilcox.test has it), and where values
// are tied below so many altogether, as every subset of ranks is counted then.
const (
	exactSide = 50
	exactTied = 20
)

// mannWhitney is the two p-values of the Mann-Whitney U test (Mann and Whitney 1947) of x against y: that x is shifted down, and up. Exact where
// samples are small, also with ties; else normal with corrections for ties and continuity.
func mannWhitney(x, y []float64) (less, greater float64) {
	m, n := len(x), len(y)
	if m == 0 || n == 0 {
		return 1, 1
	}
	ranks2, ties := midranks(x, y)
	sum2 := 0 // of x's ranks, twice
	for _, r := range ranks2[:m] {
		sum2 += r
	}
	u2 := sum2 - m*(m+1)
	switch {
	case ties == 0 && m < exactSide && n < exactSide:
		cum := countU(m, n)
		u := u2 / 2
		return tail(cum, m*n, u), tail(cum, m*n, m*n-u)
	case ties > 0 && m+n <= exactTied:
		return tiedTails(ranks2, m, sum2)
	}
	total := float64(m + n)
	sd := math.Sqrt(float64(m) * float64(n) / 12 * (total + 1 - ties/(total*(total-1))))
	if sd == 0 {
		return 1, 1 // all values are one
	}
	off := float64(u2)/2 - float64(m)*float64(n)/2
	return normalCDF((off + 0.5) / sd), normalCDF((-off + 0.5) / sd)
}

// midranks is twice the rank of each value of x, then of y; and the sum of t^3-t over ties.
func midranks(x, y []float64) (twice []int, ties float64) {
	type item struct {
		v float64
		i int
	}
	all := make([]item, 0, len(x)+len(y))
	for i, v := range x {
		all = append(all, item{v, i})
	}
	for i, v := range y {
		all = append(all, item{v, len(x) + i})
	}
	slices.SortFunc(all, func(a, b item) int { return cmp.Compare(a.v, b.v) })
	twice = make([]int, len(all))
	for i := 0; i < len(all); {
		j := i + 1
		for j < len(all) && all[j].v == all[i].v {
			j++
		}
		for k := i; k < j; k++ {
			twice[all[k].i] = i + 1 + j
		}
		t := float64(j - i)
		ties += t*t*t - t
		i = j
	}
	return twice, ties
}

// countU is the distribution function of U without ties, at 0 to m*n/2; above that it is symmetrical. The counts are the
// coefficients of a Gaussian binomial, a product of (1-q^(n+i))/(1-q^i), of which the lower half needs only the lower halves.
func countU(m, n int) []float64 {
	half := m*n/2 + 1
	c := make([]float64, half)
	c[0] = 1
	total := 1.0
	for i := 1; i <= m; i++ {
		for u := half - 1; u >= n+i; u-- {
			c[u] -= c[u-n-i]
		}
		for u := i; u < half; u++ {
			c[u] += c[u-i]
		}
		total *= float64(n+i) / float64(i)
	}
	sum := 0.0
	for u := range c {
		sum += c[u]
		c[u] = sum / total
	}
	return c
}

// tail is P(U <= u), where U is of 0 to most and cum is the lower half of its distribution.
func tail(cum []float64, most, u int) float64 {
	switch {
	case u < 0:
		return 0
	case u >= most:
		return 1
	case u < len(cum):
		return min(1, cum[u])
	}
	return 1 - tail(cum, most, most-u-1)
}

// tiedTails is P(S <= sum) and P(S >= sum), where S is the sum of m of the ranks drawn at random.
func tiedTails(ranks []int, m, sum int) (less, greater float64) {
	total := 0
	for _, r := range ranks {
		total += r
	}
	ways := make([][]float64, m+1) // by how many were drawn, by their sum
	for i := range ways {
		ways[i] = make([]float64, total+1)
	}
	ways[0][0] = 1
	for _, r := range ranks {
		for k := m; k > 0; k-- {
			for s := total; s >= r; s-- {
				ways[k][s] += ways[k-1][s-r]
			}
		}
	}
	all := 0.0
	for s, w := range ways[m] {
		all += w
		if s <= sum {
			less += w
		}
		if s >= sum {
			greater += w
		}
	}
	return less / all, greater / all
}

// shift is how far x lies above y (Hodges and Lehmann 1963) with its 95 % interval, and the p-values of less and more than a margin.
type shift struct {
	analyze.Estimate
	less, more float64
}

// shiftOf judges x against y. Inflate is by how much more the difference varies, in standard deviations, than that of as many
// independent values: where neighbours are still alike it is above 1, and levels are moved by it on the normal scale.
func shiftOf(x, y []float64, margin, inflate float64) shift {
	m, n := len(x), len(y)
	if m == 0 || n == 0 {
		return shift{analyze.Estimate{}, 1, 1}
	}
	differences := make([]float64, 0, m*n)
	for _, a := range x {
		for _, b := range y {
			differences = append(differences, a-b)
		}
	}
	slices.Sort(differences)
	s := shift{}
	s.Value = middle(differences)
	// The interval is of the differences that leave less than its level outside on either side (Hollander and Wolfe 1999, 4.3).
	k := 0
	exact := m < exactSide && n < exactSide
	var cum []float64
	if level := normalCDF(-z975 * inflate); exact {
		cum = countU(m, n)
		for k < len(cum) && cum[k] <= level {
			k++
		}
	} else {
		sd := math.Sqrt(float64(m) * float64(n) * float64(m+n+1) / 12)
		k = int(math.Floor(float64(m)*float64(n)/2 - z975*inflate*sd))
	}
	k = min(max(k, 1), (len(differences)+1)/2)
	s.Low, s.High = differences[k-1], differences[len(differences)-k]
	if exact && !tied(differences, margin) { // U is how many differences are above the margin
		below, _ := slices.BinarySearch(differences, margin)
		s.less, s.more = tail(cum, m*n, m*n-below), tail(cum, m*n, below)
	} else {
		moved := make([]float64, m)
		for i, a := range x {
			moved[i] = a - margin
		}
		s.less, s.more = mannWhitney(moved, y)
	}
	s.less, s.more = inflated(s.less, inflate), inflated(s.more, inflate)
	return s
}

// tied says that two of the differences are one, as they are where two values of one side are, or one of them is the margin.
func tied(sorted []float64, margin float64) bool {
	for i, d := range sorted {
		if d == margin || i > 0 && d == sorted[i-1] {
			return true
		}
	}
	return false
}

const z975 = 1.959963984540054

// z99 is the normal distribution's 99 % quantile.
const z99 = 2.326347874040841

// inflated is a p-value of a statistic that varies by so many times more than was thought.
func inflated(p, by float64) float64 {
	if by <= 1 || p <= 0 || p >= 1 {
		return p
	}
	return normalCDF(normalQuantile(p) / by)
}

// middle is the median of what is sorted.
func middle(sorted []float64) float64 {
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return sorted[(n-1)/2]/2 + sorted[n/2]/2
}

func normalCDF(z float64) float64      { return 0.5 * math.Erfc(-z/math.Sqrt2) }
func normalQuantile(p float64) float64 { return -math.Sqrt2 * math.Erfcinv(2*p) }
