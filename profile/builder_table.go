package profile

import (
	"math/bits"
	"math/rand/v2"

	"github.com/zeebo/xxh3"
)

// pairTable numbers 64-bit keys, each a pair of indexes. Open addressing over
// a power of two, key and number in one slot, so that a look-up misses the cache
// once: insertion is the inner loop of decoding. Its hash has a random seed,
// since keys come from strangers; the numbers do not depend on it.
type pairTable struct {
	slots []pairSlot
	n     int
	seed  uint64
}

type pairSlot struct {
	hi, lo uint32
	val    uint32 // number+1, so that 0 is an empty slot
}

// newPairTable has room for about n keys before it grows.
func newPairTable(n int) pairTable {
	t := pairTable{seed: rand.Uint64()}
	t.slots = make([]pairSlot, 1<<bits.Len(uint(max(n, 8)+max(n, 8)/3)))
	return t
}

// get is the number of key: next, and fresh, if it was not there.
func (t *pairTable) get(key uint64, next uint32) (val uint32, fresh bool) {
	if t.n*4 >= len(t.slots)*3 {
		t.grow()
	}
	hi, lo := uint32(key>>32), uint32(key)
	slots := t.slots
	mask := len(slots) - 1
	for i := int(mixPair(key, t.seed)) & mask; ; i = (i + 1) & mask {
		s := &slots[i&(len(slots)-1)]
		if s.val == 0 {
			*s = pairSlot{hi, lo, next + 1}
			t.n++
			return next, true
		}
		if s.hi == hi && s.lo == lo {
			return s.val - 1, false
		}
	}
}

func (t *pairTable) grow() {
	old := t.slots
	if old == nil {
		t.seed = rand.Uint64()
	}
	t.slots = make([]pairSlot, max(64, 2*len(old)))
	mask := len(t.slots) - 1
	for _, s := range old {
		if s.val == 0 {
			continue
		}
		i := int(mixPair(uint64(s.hi)<<32|uint64(s.lo), t.seed)) & mask
		for t.slots[i].val != 0 {
			i = (i + 1) & mask
		}
		t.slots[i] = s
	}
}

// mixPair folds the 128-bit product of the seeded key with an odd constant (the
// golden ratio's), as wyhash does: one multiplication, all bits of both indexes in every bit.
func mixPair(key, seed uint64) uint64 {
	hi, lo := bits.Mul64(key^seed, 0x9e3779b97f4a7c15^seed<<1)
	return hi ^ lo
}

// stringTable numbers strings that the caller keeps in a slice.
type stringTable struct {
	slots []uint32 // number+1; 0 is an empty slot
	seed  uint64
}

// newStringTable has room for n strings and does not grow.
func newStringTable(n int) stringTable {
	return stringTable{slots: make([]uint32, 1<<bits.Len(uint(n+n/2+1))), seed: rand.Uint64()}
}

// get is the number of s in strs, or len(strs), and fresh, if it is not there: then the
// caller appends it.
func (t *stringTable) get(s string, strs []string) (val uint32, fresh bool) {
	mask := uint64(len(t.slots) - 1)
	for i := xxh3.HashStringSeed(s, t.seed) & mask; ; i = (i + 1) & mask {
		switch v := t.slots[i]; {
		case v == 0:
			t.slots[i] = uint32(len(strs)) + 1
			return uint32(len(strs)), true
		case strs[v-1] == s:
			return v - 1, false
		}
	}
}
