package console

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"

	consolev1 "github.com/quantra-l/quantra/wire/console/v1"
)

// Bounds of a histogram. The widest that console-subscriber makes, of two digits up to 2^63 ns, has 7,424 counts.
const (
	maxHistogram = 64 << 10 // bytes
	maxCounts    = 1 << 17
	histogramV2  = 0x1c849303 // the cookie, without what says that counts are packed
)

// Histogram is how long something took, by how often.
type Histogram struct {
	Count uint64 `json:"count"`
	// Quantiles are in nanoseconds: 50, 90, 95, 99 and 100 percent took at most so long, within the histogram's precision.
	P50     uint64   `json:"p50_ns"`
	P90     uint64   `json:"p90_ns"`
	P95     uint64   `json:"p95_ns"`
	P99     uint64   `json:"p99_ns"`
	Max     uint64   `json:"max_ns"`
	Buckets []Bucket `json:"buckets"`
	// Outliers are longer than what the program counts: they stand in the last bucket. Longest is the longest of them.
	Outliers uint64 `json:"outliers,omitempty"`
	Longest  uint64 `json:"longest_ns,omitempty"`
}

// Bucket is how many took more than the bucket before, and at most so long.
type Bucket struct {
	UpTo  uint64 `json:"up_to_ns"`
	Count uint64 `json:"count"`
}

// readHistogram reads HdrHistogram's V2 format, not compressed: eight numbers, big-endian, and counts as zigzag LEB128, where a negative one is
// so many zeroes (HdrHistogram, AbstractHistogram.java, encodeIntoByteBuffer).
func readHistogram(n *consolev1.DurationHistogram, legacy []byte) (*Histogram, error) {
	b := n.GetRawHistogram()
	if n == nil {
		b = legacy
	}
	if len(b) == 0 {
		return nil, nil
	}
	const header = 40
	if len(b) < header || len(b) > maxHistogram {
		return nil, fmt.Errorf("%w: a histogram has %d bytes, it must have %d to %d", ErrCorrupt, len(b), header, maxHistogram)
	}
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }
	if u32(0)&^0xf0 != histogramV2 {
		return nil, fmt.Errorf("%w: a histogram begins with %#x, and not as version 2 does", ErrCorrupt, u32(0))
	}
	digits, lowest, offset := u32(12), binary.BigEndian.Uint64(b[16:]), u32(8)
	if digits > 5 || lowest == 0 || lowest > 1<<40 || offset != 0 || int(u32(4)) > len(b)-header {
		return nil, fmt.Errorf("%w: a histogram has %d digits, a lowest value of %d, an offset of %d and %d bytes of counts", ErrCorrupt, digits, lowest, offset, u32(4))
	}
	counts, err := readCounts(b[header : header+int(u32(4))])
	if err != nil {
		return nil, err
	}
	h := &Histogram{Outliers: n.GetHighOutliers(), Longest: n.GetHighestOutlier(), Buckets: []Bucket{}}
	s := newScale(digits, lowest)
	for i, c := range counts {
		if c == 0 {
			continue
		}
		upTo := s.highest(i)
		if h.Count+c < h.Count {
			return nil, fmt.Errorf("%w: a histogram counts past 2^64", ErrCorrupt)
		}
		h.Count += c
		h.Buckets = append(h.Buckets, Bucket{upTo, c})
	}
	h.P50, h.P90, h.P95, h.P99, h.Max = h.quantile(0.5), h.quantile(0.9), h.quantile(0.95), h.quantile(0.99), h.quantile(1)
	if h.Outliers > 0 {
		h.Max = max(h.Max, h.Longest)
	}
	return h, nil
}

func readCounts(b []byte) (counts []uint64, err error) {
	for len(b) > 0 {
		u, n := leb128(b)
		if n == 0 {
			return nil, fmt.Errorf("%w: a histogram's counts end in the middle of one", ErrCorrupt)
		}
		b = b[n:]
		v := int64(u>>1) ^ -int64(u&1)
		if v < 0 {
			if v < -maxCounts || len(counts)-int(v) > maxCounts {
				return nil, fmt.Errorf("%w: a histogram has more than %d counts", ErrCorrupt, maxCounts)
			}
			counts = append(counts, make([]uint64, -v)...)
			continue
		}
		if len(counts) >= maxCounts {
			return nil, fmt.Errorf("%w: a histogram has more than %d counts", ErrCorrupt, maxCounts)
		}
		counts = append(counts, uint64(v))
	}
	return counts, nil
}

// leb128 reads one number: seven bits a byte, the low ones first, and the ninth byte whole. The length is 0 where b ends in it.
func leb128(b []byte) (v uint64, n int) {
	for n < len(b) {
		c := b[n]
		if n == 8 {
			return v | uint64(c)<<56, 9
		}
		v |= uint64(c&0x7f) << (7 * n)
		n++
		if c < 0x80 {
			return v, n
		}
	}
	return 0, 0
}

// scale says which values a histogram's counts are of: buckets of twice the width, each of halfCount counts but for the first, which has twice
// as many.
type scale struct {
	unit, half uint // as powers of two
	halfCount  int
}

func newScale(digits uint32, lowest uint64) scale {
	fine := uint64(2 * math.Pow10(int(digits))) // values up to here are told apart by one unit
	count := max(uint(bits.Len64(fine-1)), 1)
	return scale{unit: uint(bits.Len64(lowest) - 1), half: count - 1, halfCount: 1 << (count - 1)}
}

// highest is the largest value that count i is of.
func (s scale) highest(i int) uint64 {
	bucket, sub := i>>s.half-1, i&(s.halfCount-1)+s.halfCount
	if bucket < 0 {
		bucket, sub = 0, sub-s.halfCount
	}
	shift := uint(bucket) + s.unit
	if shift+uint(bits.Len64(uint64(sub)+1)) > 63 {
		return math.MaxInt64
	}
	return uint64(sub+1)<<shift - 1
}

// quantile is what a part of q took at most, rounded to whole counts as HdrHistogram does.
func (h *Histogram) quantile(q float64) uint64 {
	want, seen := uint64(q*float64(h.Count)+0.5), uint64(0)
	for _, b := range h.Buckets {
		if seen += b.Count; seen >= want {
			return b.UpTo
		}
	}
	if n := len(h.Buckets); n > 0 { // rounding of a count past 2^53
		return h.Buckets[n-1].UpTo
	}
	return 0
}
