package blocks

import "math"

// chunk is some rows of samples, decoded and narrowed to the fewest bytes that hold them:
// three or four a sample where the columns of Parquet would take sixteen. Adding them up is one pass
// without a branch.
type chunk struct {
	n     int
	sets  []uint32 // nil: none has labels
	s16   []uint16 // one of the two
	s32   []uint32
	unit  int64 // of the values: their greatest common divisor, 1 if they are not narrowed
	v8    []uint8
	v16   []uint16
	v32   []uint32
	v64   []int64 // one of the four
	most  uint32  // the greatest stack
	bytes int64
}

// chunkRows is how many rows of samples are decoded at a time, aligned.
const chunkRows = 1 << 16

func newChunk(sets, stacks []uint32, values []int64) *chunk {
	c := &chunk{n: len(values), unit: 1}
	for _, s := range sets {
		if s != 0 {
			c.sets = append([]uint32(nil), sets...)
			break
		}
	}
	var most uint32
	for _, s := range stacks {
		most = max(most, s)
	}
	c.most = most
	if most <= math.MaxUint16 {
		c.s16 = narrow(stacks)
	} else {
		c.s32 = append([]uint32(nil), stacks...)
	}
	var unit, top int64
	for _, v := range values {
		if v < 0 {
			unit, top = 1, math.MaxInt64
			break
		}
		unit, top = gcd(unit, v), max(top, v)
	}
	unit = max(unit, 1)
	switch top /= unit; {
	case top <= math.MaxUint8:
		c.unit, c.v8 = unit, divide[uint8](values, unit)
	case top <= math.MaxUint16:
		c.unit, c.v16 = unit, divide[uint16](values, unit)
	case top <= math.MaxUint32:
		c.unit, c.v32 = unit, divide[uint32](values, unit)
	default:
		c.v64 = append([]int64(nil), values...)
	}
	c.bytes = 160 + int64(4*len(c.sets)+2*len(c.s16)+4*len(c.s32)+len(c.v8)+2*len(c.v16)+4*len(c.v32)+8*len(c.v64))
	return c
}

func gcd(a, b int64) int64 {
	if a == 1 {
		return 1
	}
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func narrow(in []uint32) []uint16 {
	out := make([]uint16, len(in))
	for i, v := range in {
		out[i] = uint16(v)
	}
	return out
}

func divide[T uint8 | uint16 | uint32](in []int64, unit int64) []T {
	out := make([]T, len(in))
	for i, v := range in {
		out[i] = T(v / unit)
	}
	return out
}

// addTo adds rows [lo, hi), none of which has labels, to sums by stack.
func (c *chunk) addTo(dense []int64, lo, hi int) {
	if c.s16 != nil {
		addValues(dense, c.s16[lo:hi], c, lo, hi)
	} else {
		addValues(dense, c.s32[lo:hi], c, lo, hi)
	}
}

func addValues[S uint16 | uint32](dense []int64, stacks []S, c *chunk, lo, hi int) {
	switch {
	case c.v8 != nil:
		addPairs(dense, stacks, c.v8[lo:hi], c.unit)
	case c.v16 != nil:
		addPairs(dense, stacks, c.v16[lo:hi], c.unit)
	case c.v32 != nil:
		addPairs(dense, stacks, c.v32[lo:hi], c.unit)
	default:
		addPairs(dense, stacks, c.v64[lo:hi], 1)
	}
}

func addPairs[S uint16 | uint32, V uint8 | uint16 | uint32 | int64](dense []int64, stacks []S, values []V, unit int64) {
	values = values[:len(stacks)]
	for i, s := range stacks {
		dense[s] += int64(values[i]) * unit
	}
}

// at is row i.
func (c *chunk) at(i int) (set, stack uint32, value int64) {
	if c.sets != nil {
		set = c.sets[i]
	}
	if c.s16 != nil {
		stack = uint32(c.s16[i])
	} else {
		stack = c.s32[i]
	}
	switch {
	case c.v8 != nil:
		value = int64(c.v8[i]) * c.unit
	case c.v16 != nil:
		value = int64(c.v16[i]) * c.unit
	case c.v32 != nil:
		value = int64(c.v32[i]) * c.unit
	default:
		value = c.v64[i]
	}
	return set, stack, value
}
