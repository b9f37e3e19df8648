package store

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/quantra-l/quantra/profile"
)

// column is one column of one profile's values, packed: a few bytes a sample
// where arrays would take 16, so that memory holds several times as much and a
// query reads several times less. It is groups, one per set of sample labels, of
//
//	uvarint label set | uvarint count | count x (uvarint stack - previous stack | varint value / unit)
//
// ordered by label set and then stack. Values of 0 are left out.
type column struct {
	data  []byte
	unit  int64 // the greatest common divisor: samples at 100 Hz are multiples of 10 ms
	total int64
}

// pack turns p's samples into columns. stacks and sets number p's stacks and label
// sets in the dict.
func pack(p *profile.Profile, stacks, sets []uint32) []column {
	type ref struct {
		key uint64
		i   uint32
	}
	order := make([]ref, p.NumSamples())
	for i := range order {
		order[i] = ref{uint64(sets[p.SampleLabels[i]])<<32 | uint64(stacks[p.SampleStack[i]]), uint32(i)}
	}
	slices.SortFunc(order, func(a, b ref) int { return cmp.Compare(a.key, b.key) })
	cols := make([]column, len(p.Values))
	var buf []byte
	keys, sums := make([]uint64, 0, len(order)), make([]int64, 0, len(order))
	for t, values := range p.Values {
		c := &cols[t]
		c.unit, c.total = divisor(values), p.Total(t)
		// Stacks that differed in addresses only are one here.
		keys, sums = keys[:0], sums[:0]
		for lo := 0; lo < len(order); {
			v, hi := int64(0), lo
			for ; hi < len(order) && order[hi].key == order[lo].key; hi++ {
				v += values[order[hi].i]
			}
			if v != 0 {
				keys, sums = append(keys, order[lo].key), append(sums, v)
			}
			lo = hi
		}
		buf = buf[:0]
		for lo := 0; lo < len(keys); {
			set, hi := keys[lo]>>32, lo
			for hi < len(keys) && keys[hi]>>32 == set {
				hi++
			}
			buf = binary.AppendUvarint(buf, set)
			buf = binary.AppendUvarint(buf, uint64(hi-lo))
			prev := uint64(0)
			for i := lo; i < hi; i++ {
				stack := keys[i] & (1<<32 - 1)
				buf = binary.AppendUvarint(buf, stack-prev)
				buf = binary.AppendVarint(buf, sums[i]/c.unit)
				prev = stack
			}
			lo = hi
		}
		c.data = slices.Clone(buf)
	}
	return cols
}

// divisor is the greatest that divides all values; 1 if they are all 0.
func divisor(values []int64) int64 {
	g := uint64(0)
	for _, v := range values {
		a := uint64(v)
		if v < 0 {
			a = -a
		}
		for a != 0 {
			g, a = a, g%a
		}
		if g == 1 {
			break
		}
	}
	return int64(max(g, 1))
}

// uvarint reads what binary.AppendUvarint wrote; the first byte alone is the usual case.
func uvarint(b []byte, at int) (uint64, int) {
	if c := b[at]; c < 0x80 {
		return uint64(c), at + 1
	}
	v, shift := uint64(0), 0
	for {
		c := b[at]
		at++
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v, at
		}
		shift += 7
	}
}

func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

// each calls see with every sample of the column: by label set, then stack.
func (c *column) each(see func(set, stack uint32, value int64)) {
	b := c.data
	for at := 0; at < len(b); {
		var set, n, d, v uint64
		set, at = uvarint(b, at)
		n, at = uvarint(b, at)
		stack := uint64(0)
		for ; n > 0; n-- {
			d, at = uvarint(b, at)
			v, at = uvarint(b, at)
			stack += d
			see(uint32(set), uint32(stack), unzigzag(v)*c.unit)
		}
	}
}

// addTo adds the column's samples to s: those whose label sets are in keep, or all if it is nil.
func (c *column) addTo(s *Sums, keep []bool) {
	b, unit, dense := c.data, c.unit, s.Dense
	for at := 0; at < len(b); {
		var set, n, d, v uint64
		set, at = uvarint(b, at)
		n, at = uvarint(b, at)
		stack := uint64(0)
		kept := keep == nil || keep[set]
		for ; n > 0; n-- {
			d, at = uvarint(b, at)
			v, at = uvarint(b, at)
			stack += d
			switch {
			case !kept:
			case set == 0:
				dense[stack] += unzigzag(v) * unit
			default:
				s.Labelled[set<<32|stack] += unzigzag(v) * unit
			}
		}
	}
}

// totalOf is the sum of the samples whose label sets are in keep.
func (c *column) totalOf(keep []bool) int64 {
	if keep == nil {
		return c.total
	}
	var n int64
	c.each(func(set, _ uint32, v int64) {
		if keep[set] {
			n += v
		}
	})
	return n
}

// addFunctions adds the column's samples to s: those whose label sets are in keep, or all if it is nil.
func (c *column) addFunctions(s *FunctionSums, keep []bool) {
	b, unit := c.data, c.unit
	for at := 0; at < len(b); {
		var set, n, d, v uint64
		set, at = uvarint(b, at)
		n, at = uvarint(b, at)
		stack := uint64(0)
		kept := keep == nil || keep[set]
		for ; n > 0; n-- {
			d, at = uvarint(b, at)
			v, at = uvarint(b, at)
			stack += d
			if kept {
				s.Add(uint32(stack), unzigzag(v)*unit)
			}
		}
	}
}
