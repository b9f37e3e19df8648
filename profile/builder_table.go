package profile

import (
	"math/bits"
	"math/rand/v2"

	"github.com/zeebo/xxh3"
)

// stackIndex finds the child of a node in a tree of stacks, and grows the tree: the
// inner loop of decoding and merging. A node's first children are a list, through
// arrays that grow at their end, so that a new stack's tail is written
// one after the other and a known one is read as it was written; a hash table would
// miss the cache at every frame. Children past maxListed, which few nodes have, are in a hash table, so that
// no sender can make the lists long.
type stackIndex struct {
	links []stackLink
	hubs  pairTable
}

// stackLink is a node as its parent's list sees it. 0 ends a list: the root is nobody's child.
type stackLink struct{ loc, first, next uint32 }

const maxListed = 8

// newStackIndex is for a tree with only the root, and has room for n nodes.
func newStackIndex(n int) stackIndex {
	return stackIndex{links: make([]stackLink, 1, n)}
}

// child is the node in which parent calls loc. It is made, and fresh, if it was not there.
func (x *stackIndex) child(s *Stacks, parent, loc uint32) (node uint32, fresh bool) {
	links := x.links
	next := uint32(len(links))
	link := &links[parent].first
	for range maxListed {
		c := *link
		if c == 0 {
			*link = next
			x.add(s, parent, loc)
			return next, true
		}
		if links[c].loc == loc {
			return c, false
		}
		link = &links[c].next
	}
	if node, fresh = x.hubs.get(uint64(parent)<<32|uint64(loc), next); fresh {
		x.add(s, parent, loc)
	}
	return node, fresh
}

// only is child for a parent that is known to have no children.
func (x *stackIndex) only(s *Stacks, parent, loc uint32) uint32 {
	node := uint32(len(x.links))
	x.links[parent].first = node
	x.add(s, parent, loc)
	return node
}

func (x *stackIndex) add(s *Stacks, parent, loc uint32) {
	x.links = append(x.links, stackLink{loc: loc})
	s.Parent = append(s.Parent, parent)
	s.Loc = append(s.Loc, loc)
}

// pairTable numbers 64-bit keys, each a pair of indexes. Open addressing over
// a power of two, key and number in one slot, so that a look-up misses the cache
// once. Its hash has a random seed, since keys come from strangers; the numbers
// do not depend on it.
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
