package overhead

import (
	"math"
	"math/bits"
	"time"
)

// Histogram counts durations in buckets whose width is 1/128 of their value at most, so that a quantile is right to 0.8 %. It is the
// bucketing of HdrHistogram (https://hdrhistogram.github.io/HdrHistogram/): 128 equal buckets for each power of two. The
// zero value is empty. It is not for use by several at once.
type Histogram struct {
	counts []uint64
	n      uint64
	max    time.Duration
}

const (
	subBits = 7 // 2^7 buckets for each power of two
	sub     = 1 << subBits
)

// bucket is where v is counted.
func bucket(v uint64) int {
	if v < 2*sub {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return shift*sub + int(v>>shift)
}

// top is the largest value of a bucket.
func top(i int) uint64 {
	if i < 2*sub {
		return uint64(i)
	}
	shift := i/sub - 1
	return (uint64(i-shift*sub)+1)<<shift - 1
}

// Add counts d; below 0 is 0.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	i := bucket(uint64(d))
	if i >= len(h.counts) {
		h.counts = append(h.counts, make([]uint64, i+1-len(h.counts))...)
	}
	h.counts[i]++
	h.n++
	h.max = max(h.max, d)
}

// Merge counts all of o as well.
func (h *Histogram) Merge(o *Histogram) {
	if len(o.counts) > len(h.counts) {
		h.counts = append(h.counts, make([]uint64, len(o.counts)-len(h.counts))...)
	}
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
	h.max = max(h.max, o.max)
}

// Count is how many were counted.
func (h *Histogram) Count() uint64 { return h.n }

// Max is the largest, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Quantile is the least duration, rounded up to its bucket's end, that at least a part q of all do not exceed. 0 where nothing was counted.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := max(1, min(h.n, uint64(math.Ceil(q*float64(h.n)))))
	for i, c := range h.counts {
		if c >= rank {
			return min(time.Duration(top(i)), h.max)
		}
		rank -= c
	}
	return h.max
}

// Curve is the latency at parts that come ever closer to 1, in ten steps each time that what is beyond becomes a tenth, as
// long as a request is beyond. The last point is the largest.
func (h *Histogram) Curve() (ps []Point) {
	if h.n == 0 {
		return nil
	}
	const steps = 10
	for i := 0; ; i++ {
		left := math.Pow(10, -float64(i)/steps)
		if left*float64(h.n) < 1 {
			break
		}
		ps = append(ps, Point{1 - left, h.Quantile(1 - left).Seconds()})
	}
	return append(ps, Point{1, h.max.Seconds()})
}
