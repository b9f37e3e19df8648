package profile

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"
)

// NewTree is the call tree of column col of p. Stacks whose samples are all
// zero in that column are not in it.
func NewTree(p *Profile, col int) *Tree {
	t := growTree(p, col)
	t.permute(t.order(t.Total))
	return t
}

// NewLimitedTree is NewTree(p, col).Limit(maxNodes). Where the profile has many
// more nodes it costs less: what is left out is counted, but neither sorted nor moved.
func NewLimitedTree(p *Profile, col, maxNodes int) *Tree {
	t := growTree(p, col)
	if maxNodes > 0 && t.Len() > maxNodes {
		t, _ = t.limit(maxNodes, magnitudes(t.Total), t.siblings(t.Total))
	}
	t.permute(t.order(t.Total))
	return t
}

// growTree is the tree with its nodes in no order but parents before children.
//
// It grows from the root. A node knows the stacks that read as its path does;
// the frames that those call, told apart by name, are its children. So what has
// been seen is an array over the names, stamped with the node whose children are
// being made, where a table of all (parent, name) would be as large as the tree.
func growTree(p *Profile, col int) *Tree {
	values := p.Values[col]
	used := usedStacks(p, values)
	g := newTreeGrower(p, used)
	for c := g.callee[0]; c != 0; c = g.next[c] {
		g.place(0, c)
	}
	todo := g.made(nil, 1)
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		n := len(g.parent)
		g.expand(at)
		todo = g.made(todo, n)
	}
	t := &Tree{Names: g.frames.names, Files: g.frames.files, Parent: g.parent, Name: g.name, Self: make([]int64, len(g.parent)), Other: -1}
	for s, st := range p.SampleStack {
		t.Self[g.same[st]] += values[s] // 0 for a stack that is not used: its samples are zero
	}
	t.Total = sumUp(t.Parent, t.Self)
	return t
}

// treeGrower is a tree being grown. 0 ends every list of stacks: stack 0 is the root.
type treeGrower struct {
	locs   []uint32 // of each stack
	frames *frameNames

	callee, next []uint32 // of a stack: the first it calls, and the next that its caller calls
	same         []uint32 // of a stack: the next that reads the same; in the end, its node
	taken        []uint32 // of a stack: how many frames of its location are nodes already

	parent []int32
	name   []uint32
	stacks []uint32 // of a node: the first of its stacks

	seen  []int32 // by name: 1 + the node that last got a child of it
	child []int32 // by name: that child
}

func newTreeGrower(p *Profile, used []bool) *treeGrower {
	n, size := p.Stacks.Len(), 0
	g := &treeGrower{locs: p.Stacks.Loc, frames: newFrameNames(p, used),
		callee: make([]uint32, n), next: make([]uint32, n), same: make([]uint32, n), taken: make([]uint32, n)}
	for i := n - 1; i > 0; i-- {
		if used[i] {
			caller := p.Stacks.Parent[i]
			g.next[i], g.callee[caller] = g.callee[caller], uint32(i)
			size++
		}
	}
	g.parent, g.name, g.stacks = make([]int32, 1, size+1), make([]uint32, 1, size+1), make([]uint32, 1, size+1)
	g.seen, g.child = make([]int32, len(g.frames.names)), make([]int32, len(g.frames.names))
	return g
}

// made puts the nodes from n on to those that have no children yet.
func (g *treeGrower) made(todo []int32, n int) []int32 {
	for ; n < len(g.parent); n++ {
		todo = append(todo, int32(n))
	}
	return todo
}

// expand makes the children of a node.
func (g *treeGrower) expand(at int32) {
	for s := g.stacks[at]; s != 0; {
		then := g.same[s]
		if int(g.taken[s]) < len(g.frames.of(g.locs[s])) {
			g.place(at, s) // it goes on in what was inlined
		} else {
			g.same[s] = uint32(at)
			for c := g.callee[s]; c != 0; c = g.next[c] {
				g.place(at, c)
			}
		}
		s = then
	}
}

// place gives the next frame of stack s to the child of at that has its name.
func (g *treeGrower) place(at int32, s uint32) {
	name := g.frames.of(g.locs[s])[g.taken[s]]
	g.taken[s]++
	if g.seen[name] != at+1 {
		g.seen[name], g.child[name] = at+1, int32(len(g.parent))
		g.parent, g.name, g.stacks = append(g.parent, at), append(g.name, name), append(g.stacks, 0)
	}
	c := g.child[name]
	g.same[s], g.stacks[c] = g.stacks[c], s
}

// usedStacks marks the stacks that a sample with a value other than zero has,
// and all their callers.
func usedStacks(p *Profile, values []int64) []bool {
	used := make([]bool, p.Stacks.Len())
	for s, st := range p.SampleStack {
		if values[s] != 0 {
			used[st] = true
		}
	}
	for i := len(used) - 1; i > 0; i-- {
		if used[i] {
			used[p.Stacks.Parent[i]] = true
		}
	}
	used[0] = true
	return used
}

// frameNames gives every location its frames as indexes into names, the
// outermost first, each distinct name once.
type frameNames struct {
	names, files []string
	first        []uint32 // of location l: frames[first[l]:first[l+1]]
	frames       []uint32
}

func (f *frameNames) of(loc uint32) []uint32 { return f.frames[f.first[loc]:f.first[loc+1]] }

// newFrameNames names the locations of the used stacks. Index 0 of the names is the root's.
func newFrameNames(p *Profile, used []bool) *frameNames {
	wanted := make([]bool, len(p.Locations))
	for i := 1; i < len(used); i++ {
		if used[i] {
			wanted[p.Stacks.Loc[i]] = true
		}
	}
	f := &frameNames{
		names: []string{RootName}, files: []string{""},
		first:  make([]uint32, len(p.Locations)+1),
		frames: make([]uint32, 0, len(p.Lines)),
	}
	index := make(map[string]uint32, len(p.Functions))
	add := func(name, file string) uint32 {
		i, ok := index[name]
		if !ok {
			i = uint32(len(f.names))
			f.names, f.files = append(f.names, name), append(f.files, file)
			index[name] = i
		} else if f.files[i] == "" {
			f.files[i] = file
		}
		return i
	}
	byFunction := make([]uint32, len(p.Functions)) // 0: not yet named
	for l := range p.Locations {
		f.first[l] = uint32(len(f.frames))
		if !wanted[l] {
			continue
		}
		lines := p.LinesOf(uint32(l))
		for i := len(lines) - 1; i >= 0; i-- {
			fn := lines[i].Function
			if byFunction[fn] == 0 {
				fun := &p.Functions[fn]
				name := cmp.Or(p.Strings[fun.Name], p.Strings[fun.SystemName])
				if name == "" {
					f.frames = append(f.frames, add(addressName(p, uint32(l)), p.Strings[fun.File]))
					continue
				}
				byFunction[fn] = add(name, p.Strings[fun.File])
			}
			f.frames = append(f.frames, byFunction[fn])
		}
		if len(lines) == 0 {
			f.frames = append(f.frames, add(addressName(p, uint32(l)), ""))
		}
	}
	f.first[len(p.Locations)] = uint32(len(f.frames))
	return f
}

// addressName is the name of a frame that was never symbolised: the base name
// of its mapping and the address as an offset in the mapped file, which is the
// same in every process whatever address the file was loaded at.
func addressName(p *Profile, loc uint32) string {
	l := &p.Locations[loc]
	m := &p.Mappings[l.Mapping]
	file := p.Strings[m.File]
	if l.Address == 0 && file == "" {
		return "<unknown>"
	}
	addr := l.Address
	if addr >= m.Start && m.Start != 0 {
		addr = addr - m.Start + m.Offset
	}
	hex := "0x" + strconv.FormatUint(addr, 16)
	if file == "" {
		return hex
	}
	return path.Base(strings.ReplaceAll(file, `\`, "/")) + "+" + hex
}

// keeper chooses the nodes that a limited tree keeps.
type keeper struct {
	t           *Tree
	weight      []uint64 // none is less than a child's
	first, list []int32  // children
	keep        []bool
	left        []int32 // of a kept node: its children that are not kept
	size        int     // of the kept nodes, with one more for each that has children left
}

// cost is by how much size grows when i, whose parent is kept, is kept too.
func (k *keeper) cost(i int32) int {
	c := 1
	if k.first[i+1] > k.first[i] {
		c++ // its children are not kept yet: it needs one that sums them
	}
	if i > 0 && k.left[k.t.Parent[i]] == 1 {
		c-- // the last child: its parent needs none that sums the rest
	}
	return c
}

func (k *keeper) take(i int32) {
	k.size += k.cost(i)
	k.keep[i], k.left[i] = true, k.first[i+1]-k.first[i]
	if i > 0 {
		k.left[k.t.Parent[i]]--
	}
}

// giveBack undoes the last take.
func (k *keeper) giveBack(i int32) {
	if i > 0 {
		k.left[k.t.Parent[i]]++
	}
	k.keep[i] = false
	k.size -= k.cost(i)
}

// keepLargest chooses nodes by weight, so that they and one more child for each
// of them that lost some are no more than maxNodes. A node is never chosen
// before its parent; of nodes that weigh the same, the one that is drawn first
// is. It changes weight. siblings compares children of one node in the order they are
// drawn in; nil says that the tree is in that order.
func (t *Tree) keepLargest(maxNodes int, weight []uint64, siblings func(a, b int32) int) []bool {
	// In a difference a child can outweigh its parent; the parent is then as
	// important as the child is.
	for i := t.Len() - 1; i > 0; i-- {
		weight[t.Parent[i]] = max(weight[t.Parent[i]], weight[i])
	}
	k := &keeper{t: t, weight: weight, keep: make([]bool, t.Len()), left: make([]int32, t.Len())}
	k.first, k.list = t.children()
	bar := k.above(maxNodes)

	// Of those at the bar, as many as there is room for, in the order of the picture.
	todo, next := []int32{0}, []int32(nil)
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !k.keep[i] {
			if k.size+k.cost(i) > maxNodes {
				break
			}
			k.take(i)
		}
		next = next[:0]
		for _, c := range k.list[k.first[i]:k.first[i+1]] {
			if weight[c] >= bar {
				next = append(next, c)
			}
		}
		if siblings != nil && len(next) > 1 {
			slices.SortFunc(next, siblings)
		}
		slices.Reverse(next)
		todo = append(todo, next...)
	}

	// A node that would sum one single leaf is better that leaf.
	for i := 1; i < t.Len(); i++ {
		if p := t.Parent[i]; !k.keep[i] && k.keep[p] && k.left[p] == 1 && k.first[i+1] == k.first[i] {
			k.keep[i], k.left[p] = true, 0
		}
	}
	return k.keep
}

// above keeps the nodes above the least weight of which not all fit, and says which
// that is. Nodes come largest first out of a heap that the children of what is kept
// enter, so its cost is that of what is kept and not of the tree.
func (k *keeper) above(maxNodes int) (bar uint64) {
	var kept []int32
	heap := []int32{0}
	for len(heap) > 0 {
		i := heap[0]
		if k.size+k.cost(i) > maxNodes {
			bar = k.weight[i]
			break
		}
		heap = k.pop(heap)
		k.take(i)
		kept = append(kept, i)
		for _, c := range k.list[k.first[i]:k.first[i+1]] {
			heap = k.push(heap, c)
		}
	}
	// Which of those at the bar came first is the heap's whim. They are the last taken.
	for len(kept) > 0 && k.weight[kept[len(kept)-1]] == bar {
		k.giveBack(kept[len(kept)-1])
		kept = kept[:len(kept)-1]
	}
	return bar
}

func (k *keeper) push(heap []int32, i int32) []int32 {
	heap = append(heap, i)
	at := len(heap) - 1
	for at > 0 {
		up := (at - 1) / 2
		if k.weight[heap[up]] >= k.weight[i] {
			break
		}
		heap[at], at = heap[up], up
	}
	heap[at] = i
	return heap
}

func (k *keeper) pop(heap []int32) []int32 {
	n := len(heap) - 1
	last := heap[n]
	heap = heap[:n]
	at := 0
	for {
		down := 2*at + 1
		if down >= n {
			break
		}
		if down+1 < n && k.weight[heap[down+1]] > k.weight[heap[down]] {
			down++
		}
		if k.weight[heap[down]] <= k.weight[last] {
			break
		}
		heap[at], at = heap[down], down
	}
	if n > 0 {
		heap[at] = last
	}
	return heap
}
