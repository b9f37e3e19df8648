package profile

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
)

// Tree is a call tree by function name: the sum of all stacks that read alike,
// whatever line or address they were at. Inlined functions are nodes of their
// own, as in pprof. It is what a flame graph draws: upwards from the root it is
// a flame graph, downwards an icicle graph.
//
// Nodes are columns in preorder, so the descendants of a node follow it
// directly and Parent[i] < i. Node 0 is the root; its Parent is 0. Siblings are
// ordered by total, the largest first, then by name. Alphabetical order, which
// other flame graphs use so that equal frames become neighbours and merge, has
// nothing to merge here, and the largest first puts what matters at the left
// edge of every level and the rest, which [Tree.Limit] sums, at the right.
type Tree struct {
	Names  []string // distinct names; Name indexes them
	Files  []string // of the function with that name, "" if unknown; beside Names
	Parent []int32
	Name   []uint32
	Self   []int64 // of samples that end here
	Total  []int64 // Self and that of all descendants

	// LeftOut is how many nodes [Tree.Limit] summed into nodes whose Name is
	// Other. Other is -1 as long as there are none. It is an index and not a
	// text, so that no function can pass for it.
	LeftOut int
	Other   int32
}

// RootName is the name of a tree's root, OtherName of what [Tree.Limit] leaves out.
const (
	RootName  = "total"
	OtherName = "other"
)

// Len is the number of nodes, the root among them.
func (t *Tree) Len() int { return len(t.Parent) }

// Levels is the depth of every node: 0 for the root.
func (t *Tree) Levels() []uint32 {
	lv := make([]uint32, t.Len())
	for i := 1; i < len(lv); i++ {
		lv[i] = lv[t.Parent[i]] + 1
	}
	return lv
}

// Ends is, for every node, the index after its last descendant: the
// descendants of i are i+1 to Ends[i]-1.
func (t *Tree) Ends() []int32 {
	end := make([]int32, t.Len())
	for i := len(end) - 1; i >= 0; i-- {
		end[i] = max(end[i], int32(i)+1)
		if p := t.Parent[i]; i > 0 {
			end[p] = max(end[p], end[i])
		}
	}
	return end
}

// treeBuilder makes nodes, each (parent, name) once. Parents come before children.
type treeBuilder struct {
	parent []int32
	name   []uint32
	nodes  pairTable
}

func newTreeBuilder(sizeHint int) *treeBuilder {
	return &treeBuilder{parent: make([]int32, 1, sizeHint), name: make([]uint32, 1, sizeHint)}
}

func (b *treeBuilder) child(parent int32, name uint32) int32 {
	i, fresh := b.nodes.get(uint64(uint32(parent))<<32|uint64(name), uint32(len(b.parent)))
	if fresh {
		b.parent = append(b.parent, parent)
		b.name = append(b.name, name)
	}
	return int32(i)
}

// tree is the finished tree: totals summed, nodes in preorder, siblings in order.
// self is as long as the nodes.
func (b *treeBuilder) tree(names, files []string, self []int64, other int32) *Tree {
	t := &Tree{Names: names, Files: files, Parent: b.parent, Name: b.name, Self: self, Other: other}
	t.Total = sumUp(t.Parent, t.Self)
	t.permute(t.order(t.Total))
	return t
}

// sumUp is the totals of a tree with parents before children.
func sumUp(parent []int32, self []int64) []int64 {
	total := slices.Clone(self)
	for i := len(total) - 1; i > 0; i-- {
		total[parent[i]] += total[i]
	}
	return total
}

// children lists the children of every node: those of i are list[first[i]:first[i+1]],
// in the order they have as nodes.
func (t *Tree) children() (first, list []int32) {
	n := t.Len()
	first = make([]int32, n+1)
	for i := 1; i < n; i++ {
		first[t.Parent[i]]++
	}
	var sum int32
	for i := range first {
		sum += first[i]
		first[i] = sum
	}
	list = make([]int32, sum)
	for i := n - 1; i > 0; i-- { // from the last: first goes back from each list's end to its start
		p := t.Parent[i]
		first[p]--
		list[first[p]] = int32(i)
	}
	return first, list
}

// siblings compares nodes of one parent by the order they are drawn in: see [Tree.order].
func (t *Tree) siblings(weight []int64) func(a, b int32) int {
	isOther := func(i int32) bool { return t.Other >= 0 && t.Name[i] == uint32(t.Other) }
	return func(a, b int32) int {
		if isOther(a) != isOther(b) {
			if isOther(a) {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(magnitude(weight[b]), magnitude(weight[a])),
			cmp.Compare(t.Names[t.Name[a]], t.Names[t.Name[b]]))
	}
}

// order is the nodes in preorder, siblings by the magnitude of their weight,
// the largest first, then by name, and what was left out last of all.
func (t *Tree) order(weight []int64) []int32 {
	n := t.Len()
	first, children := t.children()
	compare := t.siblings(weight)
	out := make([]int32, 0, n)
	todo := make([]int32, 1, 64)
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		out = append(out, i)
		c := children[first[i]:first[i+1]]
		if len(c) > 1 {
			slices.SortFunc(c, compare)
		}
		for j := len(c) - 1; j >= 0; j-- {
			todo = append(todo, c[j])
		}
	}
	return out
}

// permute reorders the nodes: node order[i] becomes node i.
func (t *Tree) permute(order []int32) {
	n := len(order)
	at := make([]int32, n)
	parent, name := make([]int32, n), make([]uint32, n)
	self, total := make([]int64, n), make([]int64, n)
	for i, from := range order {
		at[from] = int32(i)
		parent[i] = at[t.Parent[from]]
		name[i], self[i], total[i] = t.Name[from], t.Self[from], t.Total[from]
	}
	t.Parent, t.Name, t.Self, t.Total = parent, name, self, total
}

func magnitudes(values []int64) []uint64 {
	out := make([]uint64, len(values))
	for i, v := range values {
		out[i] = magnitude(v)
	}
	return out
}

// magnitude is |v|, also for the smallest int64.
func magnitude(v int64) uint64 {
	if v < 0 {
		return -uint64(v)
	}
	return uint64(v)
}

// Invert is the tree bottom up: the root's children are the functions that
// samples end in, below each its callers. A node's Total is the value of the
// stacks that end in the path from it to the root; its Self, of those that
// also begin there, so sums work as in every tree.
func (t *Tree) Invert() *Tree {
	b := newTreeBuilder(t.Len())
	self := make([]int64, 1, t.Len())
	for i, v := range t.Self {
		if v == 0 {
			continue
		}
		at := int32(0)
		for j := int32(i); j != 0; j = t.Parent[j] {
			at = b.child(at, t.Name[j])
		}
		for len(self) < len(b.parent) {
			self = append(self, 0)
		}
		self[at] += v
	}
	inv := b.tree(t.Names, t.Files, self, t.Other)
	inv.LeftOut = t.LeftOut
	return inv
}

// Limit is the tree of at most maxNodes nodes, those with the largest totals.
// What is left out below a node is summed into one child of it, called
// [OtherName], so every total stays what it was; LeftOut counts the nodes.
// maxNodes <= 0 is no limit; the least is 2, the root and the rest.
func (t *Tree) Limit(maxNodes int) *Tree {
	if maxNodes <= 0 || t.Len() <= maxNodes {
		return t
	}
	lim, _ := t.limit(maxNodes, magnitudes(t.Total), nil)
	lim.permute(lim.order(lim.Total))
	return lim
}

// limit keeps the nodes of the largest weight, and spends weight on finding them.
// siblings is as for keepLargest. from is, for every node of the result, the node
// it was, or for one that sums others its parent's, negated.
func (t *Tree) limit(maxNodes int, weight []uint64, siblings func(a, b int32) int) (lim *Tree, from []int32) {
	maxNodes = max(maxNodes, 2)
	keep := t.keepLargest(maxNodes, weight, siblings)
	size := min(maxNodes, t.Len())
	lim = &Tree{Names: t.Names, Files: t.Files, LeftOut: t.LeftOut, Other: t.Other,
		Parent: make([]int32, 0, size), Name: make([]uint32, 0, size), Self: make([]int64, 0, size), Total: make([]int64, 0, size)}
	from = make([]int32, 0, size)
	at := make([]int32, t.Len())
	other := make([]int32, t.Len()) // of a kept node: its child that sums the rest, 0 if none
	add := func(parent int32, name uint32, self, total int64, was int32) int32 {
		lim.Parent, lim.Name = append(lim.Parent, parent), append(lim.Name, name)
		lim.Self, lim.Total = append(lim.Self, self), append(lim.Total, total)
		from = append(from, was)
		return int32(len(lim.Parent) - 1)
	}
	for i := range t.Parent {
		p := t.Parent[i]
		if keep[i] {
			at[i] = add(at[p], t.Name[i], t.Self[i], t.Total[i], int32(i))
			continue
		}
		if t.Other < 0 || t.Name[i] != uint32(t.Other) {
			lim.LeftOut++
		}
		if !keep[p] {
			continue // in the total of an ancestor already
		}
		if lim.Other < 0 {
			lim.Other = int32(len(t.Names))
			lim.Names = append(slices.Clip(t.Names), OtherName)
			lim.Files = append(slices.Clip(t.Files), "")
		}
		if other[p] == 0 {
			other[p] = add(at[p], uint32(lim.Other), 0, 0, -p-1)
		}
		lim.Self[other[p]] += t.Total[i]
		lim.Total[other[p]] += t.Total[i]
	}
	return lim, from
}

// DiffTree is two trees in one shape: Self and Total are the head's, BaseSelf
// and BaseTotal the base's. A node that only one side has is zero in the other.
// Siblings are ordered by the sum of both sides, so that neither what vanished
// nor what is new is hidden at the end.
type DiffTree struct {
	Tree
	BaseSelf, BaseTotal []int64
	// BaseFactor is what the base was multiplied with: 1, or with normalize the
	// head's total divided by the base's.
	BaseFactor float64
}

// NewDiffTree lays head over base. With normalize the base is scaled so that
// both totals are equal, as pprof's -normalize does: then a difference is a
// change in share and not in load.
func NewDiffTree(base, head *Tree, normalize bool) *DiffTree {
	names, files := slices.Clone(head.Names), slices.Clone(head.Files)
	index := make(map[string]uint32, len(names)+len(base.Names))
	// What was left out on either side is one name, apart from a function called so.
	const otherKey = "\x00other"
	key := func(t *Tree, i int) string {
		if int32(i) == t.Other {
			return otherKey
		}
		return t.Names[i]
	}
	// Index 0 is the root's name, which a function may have too.
	for i := 1; i < len(names); i++ {
		index[key(head, i)] = uint32(i)
	}
	toHead := make([]uint32, len(base.Names))
	for i := 1; i < len(base.Names); i++ {
		k := key(base, i)
		j, ok := index[k]
		if !ok {
			j = uint32(len(names))
			names, files = append(names, base.Names[i]), append(files, base.Files[i])
			index[k] = j
		}
		toHead[i] = j
	}

	b := newTreeBuilder(head.Len() + base.Len()/4)
	self := b.overlay(head, nil)
	baseSelf, factor := base.Self, 1.0
	if normalize && base.Len() > 0 && base.Total[0] != 0 {
		baseSelf = scaleTo(base.Self, base.Total[0], head.Total[0])
		factor = float64(head.Total[0]) / float64(base.Total[0])
	}
	node := b.overlay(base, toHead)
	n := len(b.parent)
	d := &DiffTree{BaseFactor: factor, BaseSelf: make([]int64, n), Tree: Tree{
		Names: names, Files: files, Parent: b.parent, Name: b.name, Self: make([]int64, n), Other: -1,
		LeftOut: head.LeftOut + base.LeftOut,
	}}
	for i, at := range self {
		d.Self[at] += head.Self[i]
	}
	for i, at := range node {
		d.BaseSelf[at] += baseSelf[i]
	}
	if o, ok := index[otherKey]; ok {
		d.Other = int32(o)
	}
	d.Total, d.BaseTotal = sumUp(d.Parent, d.Self), sumUp(d.Parent, d.BaseSelf)
	d.sort()
	return d
}

// overlay adds the nodes of t and returns the node that each became. rename
// maps t's names; nil leaves them.
func (b *treeBuilder) overlay(t *Tree, rename []uint32) []int32 {
	node := make([]int32, t.Len())
	for i := 1; i < t.Len(); i++ {
		name := t.Name[i]
		if rename != nil {
			name = rename[name]
		}
		node[i] = b.child(node[t.Parent[i]], name)
	}
	return node
}

func (d *DiffTree) sort() {
	weight := make([]int64, d.Len())
	for i := range weight {
		weight[i] = int64((magnitude(d.Total[i]) + magnitude(d.BaseTotal[i])) >> 1)
	}
	order := d.order(weight)
	baseSelf, baseTotal := make([]int64, len(order)), make([]int64, len(order))
	for i, from := range order {
		baseSelf[i], baseTotal[i] = d.BaseSelf[from], d.BaseTotal[from]
	}
	d.permute(order)
	d.BaseSelf, d.BaseTotal = baseSelf, baseTotal
}

// Limit is as [Tree.Limit], by the larger of both sides.
func (d *DiffTree) Limit(maxNodes int) *DiffTree {
	if maxNodes <= 0 || d.Len() <= maxNodes {
		return d
	}
	weight := make([]uint64, d.Len())
	for i := range weight {
		weight[i] = max(magnitude(d.Total[i]), magnitude(d.BaseTotal[i]))
	}
	lim, from := d.limit(maxNodes, weight, nil)
	out := &DiffTree{Tree: *lim, BaseFactor: d.BaseFactor,
		BaseSelf: make([]int64, len(from)), BaseTotal: make([]int64, len(from))}
	for i, f := range from {
		if f >= 0 {
			out.BaseSelf[i], out.BaseTotal[i] = d.BaseSelf[f], d.BaseTotal[f]
		}
	}
	// What a node's kept children and its own self do not explain, its "other" does.
	rest := slices.Clone(out.BaseTotal)
	other := make([]int32, len(from))
	for i := 1; i < len(from); i++ {
		p := out.Parent[i]
		if from[i] < 0 {
			other[p] = int32(i)
		} else {
			rest[p] -= out.BaseTotal[i]
		}
	}
	for i := range other {
		if o := other[i]; o != 0 {
			v := rest[i] - out.BaseSelf[i]
			out.BaseSelf[o], out.BaseTotal[o] = v, v
		}
	}
	out.sort()
	return out
}

// scaleTo scales values, whose sum is from, so that their sum is exactly to.
// It scales the running sum and takes differences: no value and no run of
// neighbours (in preorder: no subtree) is off by more than 1.
func scaleTo(values []int64, from, to int64) []int64 {
	out := make([]int64, len(values))
	var sum, done int64
	for i, v := range values {
		sum += v
		at := mulDiv(sum, to, from)
		out[i] = at - done
		done = at
	}
	return out
}

// mulDiv is a*b/c, rounded to the nearest, without overflow on the way. c is not 0.
func mulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(magnitude(a), magnitude(b))
	d := magnitude(c)
	lo, carry := bits.Add64(lo, d/2, 0)
	hi += carry
	if hi >= d {
		return int64(math.Round(float64(a) * (float64(b) / float64(c))))
	}
	q, _ := bits.Div64(hi, lo, d)
	if (a < 0) != (b < 0) != (c < 0) {
		return -int64(q)
	}
	return int64(q)
}
