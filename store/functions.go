package store

import (
	"math/bits"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

// MaxTrendFunctions bounds how many functions one question may name.
const MaxTrendFunctions = 100

// FunctionSets says of each stack of some tables which of some functions are on it, and which is its innermost frame.
type FunctionSets struct {
	any              []bool
	cumulative, self [][]bool // by function, by stack
}

// NewFunctionSets looks for functions by name.
func NewFunctionSets(t *block.Tables, names []string) *FunctionSets {
	wanted := make(map[string]int, len(names))
	for i, n := range names {
		wanted[n] = i
	}
	of := make([]int, len(t.Functions)) // function -> index into names plus 1
	for i, f := range t.Functions {
		if n, ok := wanted[t.FunctionName(f)]; ok {
			of[i] = n + 1
		}
	}
	n := t.Stacks.Len()
	s := &FunctionSets{any: make([]bool, n)}
	for range names {
		s.cumulative, s.self = append(s.cumulative, make([]bool, n)), append(s.self, make([]bool, n))
	}
	for i := 1; i < n; i++ {
		parent := t.Stacks.Parent[i]
		if s.any[parent] {
			s.any[i] = true
			for f := range names {
				s.cumulative[f][i] = s.cumulative[f][parent]
			}
		}
		l := t.Locations[t.Stacks.Loc[i]]
		for j, line := range t.Lines[l.FirstLine : l.FirstLine+l.NumLines] {
			f := of[line.Function] - 1
			if f < 0 {
				continue
			}
			s.any[i], s.cumulative[f][i] = true, true
			if j == 0 { // the innermost
				s.self[f][i] = true
			}
		}
	}
	return s
}

// Stacks is how many stacks it knows of.
func (s *FunctionSets) Stacks() int { return len(s.any) }

// Add adds a sample to the points of the functions that are on its stack.
func (s *FunctionSets) Add(points []TrendPoint, stack uint32, v int64) {
	if !s.any[stack] {
		return
	}
	for f := range s.cumulative {
		if s.cumulative[f][stack] {
			points[f].Cumulative += v
			points[f].Samples++
			if s.self[f][stack] {
				points[f].Self += v
			}
		}
	}
}

// FunctionSums adds samples up by function over stacks of some tables: all functions in one pass over the tree,
// whatever their number. A function that calls itself counts once a sample.
type FunctionSums struct {
	parent []uint32
	leaf   []int32  // by stack: name of its innermost frame, -1 if it has none
	first  []uint32 // by stack: where in fresh are the names that are on it and not on its parent, and
	number []uint32 // how many
	fresh  []uint32
	names  []string

	values []int64  // by stack
	stacks []uint64 // a bit for each stack with a value, or below one that has
	sums   []selfCum
	named  []uint64 // a bit for each name with a sum
	in     *RollupPart
	inPart []uint32 // by name: its number in that part, plus 1
}

// FunctionSumsBytes is what they take in memory, about.
func FunctionSumsBytes(t *block.Tables) int64 {
	return int64(t.Stacks.Len()*40 + len(t.Lines)*4 + len(t.Functions)*120)
}

// NewFunctionSums is ready to add to.
func NewFunctionSums(t *block.Tables) *FunctionSums {
	n := t.Stacks.Len()
	s := &FunctionSums{parent: t.Stacks.Parent[:n], leaf: make([]int32, n), first: make([]uint32, n), number: make([]uint32, n),
		values: make([]int64, n), stacks: make([]uint64, (n+63)/64)}
	nameOf, byName := make([]uint32, len(t.Functions)), make(map[string]uint32, len(t.Functions))
	for i, f := range t.Functions {
		name := t.FunctionName(f)
		k, ok := byName[name]
		if !ok {
			k = uint32(len(s.names))
			byName[name] = k
			s.names = append(s.names, name)
		}
		nameOf[i] = k
	}
	s.sums, s.named, s.inPart = make([]selfCum, len(s.names)), make([]uint64, (len(s.names)+63)/64), make([]uint32, len(s.names))
	s.walk(t, nameOf)
	return s
}

// walk goes through the tree, callers before callees, and knows at each stack how often each name is on it. It
// does not call itself: stacks may be deep.
func (s *FunctionSums) walk(t *block.Tables, nameOf []uint32) {
	n := len(s.parent)
	child, next := make([]uint32, n), make([]uint32, n)
	for i := n - 1; i > 0; i-- {
		next[i], child[s.parent[i]] = child[s.parent[i]], uint32(i)
	}
	on := make([]uint32, len(s.names))
	lines := func(i uint32) []profile.Line {
		l := t.Locations[t.Stacks.Loc[i]]
		return t.Lines[l.FirstLine : l.FirstLine+l.NumLines]
	}
	s.leaf[0] = -1
	for i := uint32(0); ; {
		if child[i] != 0 {
			i = child[i]
			s.enter(i, lines(i), nameOf, on)
			continue
		}
		for i != 0 && next[i] == 0 {
			leave(lines(i), nameOf, on)
			i = s.parent[i]
		}
		if i == 0 {
			return
		}
		leave(lines(i), nameOf, on)
		i = next[i]
		s.enter(i, lines(i), nameOf, on)
	}
}

func (s *FunctionSums) enter(i uint32, lines []profile.Line, nameOf, on []uint32) {
	s.leaf[i], s.first[i] = -1, uint32(len(s.fresh))
	for j, l := range lines {
		name := nameOf[l.Function]
		if j == 0 { // the innermost
			s.leaf[i] = int32(name)
		}
		if on[name] == 0 {
			s.fresh = append(s.fresh, name)
		}
		on[name]++
	}
	s.number[i] = uint32(len(s.fresh)) - s.first[i]
}

func leave(lines []profile.Line, nameOf, on []uint32) {
	for _, l := range lines {
		on[nameOf[l.Function]]--
	}
}

// Stacks is how many stacks it knows of.
func (s *FunctionSums) Stacks() int { return len(s.parent) }

// Add adds a sample of one of the stacks.
func (s *FunctionSums) Add(stack uint32, v int64) {
	s.values[stack] += v
	s.stacks[stack/64] |= 1 << (stack % 64)
	if n := s.leaf[stack]; n >= 0 {
		s.sums[n].self += v
		s.named[n/64] |= 1 << (n % 64)
	}
}

// Flush puts the sums into a part, as those of a group at a time, and begins anew.
func (s *FunctionSums) Flush(p *RollupPart, group int, at int64) error {
	if s.in != p {
		s.in = p
		clear(s.inPart)
	}
	// A parent is before its children: from the last stack on, each is whole when its turn comes.
	for w := len(s.stacks) - 1; w >= 0; w-- {
		for s.stacks[w] != 0 {
			b := bits.Len64(s.stacks[w]) - 1
			s.stacks[w] &^= 1 << b
			i := uint32(w*64 + b)
			v := s.values[i]
			s.values[i] = 0
			if i == 0 || v == 0 {
				continue
			}
			for _, name := range s.fresh[s.first[i] : s.first[i]+s.number[i]] {
				s.sums[name].full += v
				s.named[name/64] |= 1 << (name % 64)
			}
			up := s.parent[i]
			s.values[up] += v
			s.stacks[up/64] |= 1 << (up % 64)
		}
	}
	for w := range s.named {
		for ; s.named[w] != 0; s.named[w] &= s.named[w] - 1 {
			name := w*64 + bits.TrailingZeros64(s.named[w])
			sum := s.sums[name]
			s.sums[name] = selfCum{}
			if s.inPart[name] == 0 {
				n, err := p.Function(s.names[name])
				if err != nil {
					return err
				}
				s.inPart[name] = n + 1
			}
			if err := p.Add(s.inPart[name]-1, group, at, sum.self, sum.full); err != nil {
				return err
			}
		}
	}
	return nil
}
