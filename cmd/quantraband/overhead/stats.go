package overhead

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Interval is a mean of paired differences with its 95 % confidence interval.
type Interval struct {
	N    int     `json:"n"`
	Mean float64 `json:"mean"`
	SD   float64 `json:"sd"` // of the differences
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	// Known says that there is an interval: at least minPairs differences. Low and High are the mean where there is none.
	Known bool `json:"known"`
}

const (
	// confidence is two-sided.
	confidence = 0.95
	// minPairs is how many differences an interval needs. Of two, Student's t is 12.7 and the spread is one number: that says nothing.
	minPairs = 3
)

// paired is the mean of differences and its interval by Student's t: mean ± t(0.975, n-1) · sd/√n. (W. S. Gosset, "The Probable Error of a
// Mean", Biometrika 6, 1908; in today's form NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.2 and 7.3.1.1 for paired observations.)
func paired(diffs []float64) Interval {
	iv := Interval{N: len(diffs), Mean: mean(diffs), SD: sd(diffs)}
	iv.Low, iv.High = iv.Mean, iv.Mean
	if iv.Known = iv.N >= minPairs; iv.Known {
		half := student((1+confidence)/2, iv.N-1) * iv.SD / math.Sqrt(float64(iv.N))
		iv.Low, iv.High = iv.Mean-half, iv.Mean+half
	}
	return iv
}

// manyTrials is where pairsNeeded stops counting.
const manyTrials = 10_000

// pairsNeeded is how many pairs would make an interval's half as wide as its mean's distance from the budget, if mean and spread stayed as
// they are: the least n of t(0.975, n-1) · sd/√n < distance. 0 where more than manyTrials would not do.
func pairsNeeded(iv Interval, budget float64) int {
	distance := math.Abs(iv.Mean - budget)
	enough := func(n int) bool {
		return student((1+confidence)/2, n-1)*iv.SD/math.Sqrt(float64(n)) < distance
	}
	if distance == 0 || !enough(manyTrials) {
		return 0
	}
	low, high := minPairs, manyTrials
	for low < high { // the half width falls with n
		if mid := (low + high) / 2; enough(mid) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}

func mean(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	sum := 0.0
	for _, x := range xs {
		sum += x
	}
	return sum / float64(len(xs))
}

// sd is the standard deviation of a sample, with n-1 below.
func sd(xs []float64) float64 {
	if len(xs) < 2 {
		return 0
	}
	m, sum := mean(xs), 0.0
	for _, x := range xs {
		sum += (x - m) * (x - m)
	}
	return math.Sqrt(sum / float64(len(xs)-1))
}

// Median is the middle of xs, or the mean of the two in the middle; 0 of none.
func Median(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(xs))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func spread(xs []float64) Spread { return Spread{Median(xs), sd(xs), len(xs)} }

// student is the quantile of Student's t distribution with df degrees of freedom, for p of 0.5 to below 1.
func student(p float64, df int) float64 {
	low, high := 0.0, 1.0
	for studentCDF(high, df) < p {
		high *= 2
	}
	for range 100 { // until neighbours are equal
		mid := (low + high) / 2
		if studentCDF(mid, df) < p {
			low = mid
		} else {
			high = mid
		}
	}
	return (low + high) / 2
}

// studentCDF is the part of Student's t distribution below t >= 0: 1 - I_x(df/2, 1/2)/2 with x = df/(df+t²). (Abramowitz and Stegun, 26.7.1 with 26.5.2.)
func studentCDF(t float64, df int) float64 {
	n := float64(df)
	return 1 - betaRegularized(n/(n+t*t), n/2, 0.5)/2
}

// betaRegularized is the regularized incomplete beta function I_x(a, b), by the continued fraction of NIST's Digital Library of
// Mathematical Functions, 8.17.22, which converges fast below x = (a+1)/(a+b+2); above it by I_x(a, b) = 1 - I_{1-x}(b, a), 8.17.4.
func betaRegularized(x, a, b float64) float64 {
	if x <= 0 {
		return 0
	}
	if x >= 1 {
		return 1
	}
	if x > (a+1)/(a+b+2) {
		return 1 - betaRegularized(1-x, b, a)
	}
	lgab, _ := math.Lgamma(a + b)
	lga, _ := math.Lgamma(a)
	lgb, _ := math.Lgamma(b)
	front := math.Exp(lgab-lga-lgb+a*math.Log(x)+b*math.Log1p(-x)) / a
	// From the front, by Lentz's method as Thompson and Barnett changed it, so that no denominator is 0.
	const tiny, precise = 1e-300, 1e-15
	f, c, d := 1.0, 1.0, 0.0
	for i := range 10_000 {
		m := float64(i / 2)
		var num float64
		switch {
		case i == 0:
			num = 1
		case i%2 == 0:
			num = m * (b - m) * x / ((a + 2*m - 1) * (a + 2*m))
		default:
			num = -(a + m) * (a + b + m) * x / ((a + 2*m) * (a + 2*m + 1))
		}
		d = 1 + num*d
		if math.Abs(d) < tiny {
			d = tiny
		}
		c = 1 + num/c
		if math.Abs(c) < tiny {
			c = tiny
		}
		d = 1 / d
		f *= c * d
		if math.Abs(1-c*d) < precise {
			break
		}
	}
	return front * (f - 1)
}

// shuffled is 0 to n-1 in an order of chance.
func shuffled(n int, seed, stream uint64) []int {
	return rand.New(rand.NewPCG(seed, stream)).Perm(n)
}
