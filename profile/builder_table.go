package profile

import (
	"bytes"
	"math/bits"
	"math/rand/v2"

	"github.com/zeebo/xxh3"
)

// stackIndex is a tree of stacks that grows, and finds the child of a node in it: the
// inner loop of decoding and merging. A node's first children are a list, through
// nodes that are added at the end, so that a new stack's tail is written
// one after the other and a known one is read as it was written; a hash table would
// miss the cache at every frame. Children past maxListed, which few nodes have, are in a hash table, so that
// no sender can make the lists long.
type stackIndex struct {
	nodes []stackNode // 0 is the root
	hubs  pairTable
}

// stackNode is 16 bytes: four to a line of cache, none across two. 0 ends a list: the root is nobody's child.
type stackNode struct{ parent, loc, first, next uint32 }

const maxListed = 8

// newStackIndex is for a tree with only the root, and has room for n nodes.
func newStackIndex(n int) stackIndex {
	return stackIndex{nodes: make([]stackNode, 1, n)}
}

// child is the node in which parent calls loc. It is made, and fresh, if it was not there.
func (x *stackIndex) child(parent, loc uint32) (node uint32, fresh bool) {
	nodes := x.nodes
	next := uint32(len(nodes))
	link := &nodes[parent].first
	for range maxListed {
		c := *link
		if c == 0 {
			*link = next
			x.nodes = append(nodes, stackNode{parent: parent, loc: loc})
			return next, true
		}
		n := &nodes[c]
		if n.loc == loc {
			return c, false
		}
		link = &n.next
	}
	if node, fresh = x.hubs.get(uint64(parent)<<32|uint64(loc), next); fresh {
		x.nodes = append(nodes, stackNode{parent: parent, loc: loc})
	}
	return node, fresh
}

// only is child for a parent that is known to have no children.
func (x *stackIndex) only(parent, loc uint32) uint32 {
	node := uint32(len(x.nodes))
	x.nodes[parent].first = node
	x.nodes = append(x.nodes, stackNode{parent: parent, loc: loc})
	return node
}

// stacks is the tree in columns.
func (x *stackIndex) stacks() Stacks {
	s := Stacks{Parent: make([]uint32, len(x.nodes)), Loc: make([]uint32, len(x.nodes))}
	for i, n := range x.nodes {
		s.Parent[i], s.Loc[i] = n.parent, n.loc
	}
	return s
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

// init makes t ready for n strings, and empty. It does not grow.
func (t *stringTable) init(n int) {
	t.slots, t.seed = zeroed(t.slots, 1<<bits.Len(uint(n+n/2+1))), rand.Uint64()
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

// spanTable numbers distinct stretches of one buffer.
type spanTable struct {
	slots []spanSlot
	n     int
	seed  uint64
}

type spanSlot struct {
	span
	hash uint32
	val  uint32 // number+1; 0 is an empty slot
}

// find is the slot of b[at.lo:at.hi]. Its val is 0 if it was not there: then the caller sets it, before
// it finds another.
func (t *spanTable) find(b []byte, at span) *spanSlot {
	if t.n*4 >= len(t.slots)*3 {
		t.grow()
	}
	text := b[at.lo:at.hi]
	hash := uint32(xxh3.HashSeed(text, t.seed))
	mask := uint32(len(t.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		s := &t.slots[i]
		if s.val == 0 {
			t.n++
			s.span, s.hash = at, hash
			return s
		}
		if s.hash == hash && bytes.Equal(b[s.lo:s.hi], text) {
			return s
		}
	}
}

func (t *spanTable) grow() {
	old := t.slots
	if old == nil {
		t.seed = rand.Uint64()
	}
	t.slots = make([]spanSlot, max(16, 2*len(old)))
	mask := uint32(len(t.slots) - 1)
	for _, s := range old {
		if s.val == 0 {
			continue
		}
		i := s.hash & mask
		for t.slots[i].val != 0 {
			i = (i + 1) & mask
		}
		t.slots[i] = s
	}
}
