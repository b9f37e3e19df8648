package analyze

import (
	"math"
	"math/bits"
	"slices"

	"gonum.org/v1/gonum/mathext"
)

// durations counts how long something took, in the buckets of docs/format/spans.md. The zero value counts nothing.
type durations struct {
	by     []durationBucket // ascending
	n      int64            // in buckets
	loose  int64            // without a bucket
	errors int64            // of n and loose
	sum    float64          // ns, of all
}

type durationBucket struct {
	le int64 // ns: the upper bound, which is in it
	n  int64
}

// lower is the bucket's lower bound, which is not in it.
func (b durationBucket) lower() int64 {
	if b.le <= 16 {
		return b.le - 1
	}
	return b.le - 1<<(bits.Len64(uint64(b.le-1))-4)
}

// middle is in ns; 0 of what has no bucket.
func (b durationBucket) middle() float64 {
	if b.le <= 0 {
		return 0
	}
	return float64(b.le+b.lower()) / 2
}

// add counts n that took at most le, 0 is any time, and ns together.
func (d *durations) add(le, n int64, ns float64, failed bool) {
	d.sum += ns
	if failed {
		d.errors += n
	}
	if le <= 0 {
		d.loose += n
		return
	}
	d.n += n
	i, there := slices.BinarySearchFunc(d.by, le, func(b durationBucket, le int64) int { return int(min(max(b.le-le, -1), 1)) })
	if !there {
		d.by = slices.Insert(d.by, i, durationBucket{le: le})
	}
	d.by[i].n += n
}

// merge adds all of o.
func (d *durations) merge(o *durations) {
	d.loose += o.loose
	d.errors += o.errors
	d.sum += o.sum
	d.n += o.n
	if len(o.by) == 0 {
		return
	}
	out := make([]durationBucket, 0, len(d.by)+len(o.by))
	a, b := d.by, o.by
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].le < b[0].le:
			out, a = append(out, a[0]), a[1:]
		case a[0].le > b[0].le:
			out, b = append(out, b[0]), b[1:]
		default:
			out = append(out, durationBucket{a[0].le, a[0].n + b[0].n})
			a, b = a[1:], b[1:]
		}
	}
	d.by = append(append(out, a...), b...)
}

// bucketAt is the bucket that the rank-th shortest is in, 1 is the first, its lower bound, and how many are in shorter ones. Bounds of senders that have
// other buckets may overlap: none begins before the one before it ends.
func (d *durations) bucketAt(rank int64) (b durationBucket, lower, before int64) {
	for _, b := range d.by {
		lower = max(lower, b.lower())
		if before+b.n >= rank {
			return b, lower, before
		}
		before += b.n
		lower = b.le
	}
	return durationBucket{}, lower, before
}

// at is the duration of a rank, in ns, if those in its bucket are spread evenly over it.
func (d *durations) at(rank float64) float64 {
	b, lower, before := d.bucketAt(int64(math.Ceil(rank)))
	return float64(lower) + float64(b.le-lower)*min(1, (rank-float64(before))/float64(b.n))
}

// above is how many surely took longer than ns: those in buckets that begin there, or later.
func (d *durations) above(ns int64) (n int64) {
	lower := int64(0)
	for _, b := range d.by {
		if max(lower, b.lower()) >= ns {
			n += b.n
		}
		lower = b.le
	}
	return n
}

// quantile is the q-quantile, in seconds, with its 95 % interval. That is made of two order statistics, so that it holds for any
// distribution, and reaches to the far ends of their buckets, so that it holds whatever is within. It is false where
// there are too few for an interval: 6 for the median, 368 for q = 0.99.
//
// Durations are taken as independent of each other. They are not quite: what is slow is often slow for many at once. So that is no test
// of a change; [Transitions] compares with how the past itself went up and down.
func (d *durations) quantile(q float64) (Estimate, bool) {
	l, u, ok := quantileRanks(d.n, q)
	if !ok {
		return Estimate{}, false
	}
	_, low, _ := d.bucketAt(l)
	high, _, _ := d.bucketAt(u)
	return Estimate{Value: d.at(max(1, q*float64(d.n))) / 1e9, Low: float64(low) / 1e9, High: float64(high.le) / 1e9}, true
}

// logQuantile is the logarithm of the q-quantile in ns with its variance, of the sample and of the buckets' width (as of an even spread over
// one). It is false where fewer than ten are on either side.
func (d *durations) logQuantile(q float64) (value, variance float64, ok bool) {
	n := float64(d.n)
	if n*min(q, 1-q) < leastTail {
		return 0, 0, false
	}
	half := z975 * math.Sqrt(n*q*(1-q))
	low, high := d.at(max(1, q*n-half)), d.at(min(n, q*n+half))
	sd := math.Log(high/low) / (2 * z975)
	b, lower, _ := d.bucketAt(int64(math.Ceil(q * n)))
	width := math.Log(float64(b.le) / max(1, float64(lower)))
	return math.Log(d.at(q * n)), sd*sd + width*width/12, true
}

const (
	z975      = 1.959963984540054 // the standard normal distribution's quantile
	leastTail = 10                // on the rarer side of a quantile, for a quantile of a block of windows
)

// quantileRanks are the ranks, 1 is the shortest, of the order statistics of a sample of n between which the q-quantile is with 95 %
// confidence at least, 2.5 % on either side. They come from the binomial distribution of how many are below the quantile: H. A. David
// and H. N. Nagaraja, Order Statistics, 3rd edition (2003), section 7.1; G. J. Hahn and W. Q. Meeker, Statistical Intervals (1991), section
// 5.2. It is false where the sample is too small.
func quantileRanks(n int64, q float64) (l, u int64, ok bool) {
	if n <= 0 || math.Pow(q, float64(n)) > 0.025 || math.Pow(1-q, float64(n)) > 0.025 {
		return 0, 0, false
	}
	half := z975 * math.Sqrt(float64(n)*q*(1-q))
	// The largest l with P(B < l) <= 0.025, from where the normal distribution has it.
	l = min(n, max(1, int64(float64(n)*q-half)))
	for l > 1 && binomialBelow(n, l, q) > 0.025 {
		l--
	}
	for l < n && binomialBelow(n, l+1, q) <= 0.025 {
		l++
	}
	// The smallest u with P(B >= u) <= 0.025.
	u = min(n, max(1, int64(float64(n)*q+half)+1))
	for u < n && 1-binomialBelow(n, u, q) > 0.025 {
		u++
	}
	for u > 1 && 1-binomialBelow(n, u-1, q) <= 0.025 {
		u--
	}
	return l, u, true
}

// binomialBelow is the probability of fewer than k of n, each with the chance p. By the incomplete beta function: NIST Digital Library of
// Mathematical Functions, 8.17.5.
func binomialBelow(n, k int64, p float64) float64 {
	switch {
	case k <= 0:
		return 0
	case k > n:
		return 1
	}
	return mathext.RegIncBeta(float64(n-k+1), float64(k), 1-p)
}

// binomialAtLeast is the probability of k or more of n.
func binomialAtLeast(n, k int64, p float64) float64 {
	switch {
	case k <= 0:
		return 1
	case k > n:
		return 0
	}
	return mathext.RegIncBeta(float64(k), float64(n-k+1), p)
}

// shareOf is k of n with its 95 % interval, by C. J. Clopper and E. S. Pearson, Biometrika 26 (1934).
func shareOf(k, n int64) Estimate {
	if n <= 0 {
		return Estimate{}
	}
	e := Estimate{Value: float64(k) / float64(n), High: 1}
	if k > 0 {
		e.Low = mathext.InvRegIncBeta(float64(k), float64(n-k+1), 0.025)
	}
	if k < n {
		e.High = mathext.InvRegIncBeta(float64(k+1), float64(n-k), 0.975)
	}
	return e
}
