package profile

// Sandwich is who calls function, and what it calls, in column col of p. Row 0
// of both trees is the function. See [Tree.Sandwich].
func Sandwich(p *Profile, col int, function string) (callers, callees *Tree) {
	return NewTree(p, col).Sandwich(function)
}

// Sandwich cuts every stack with function on it in two, at the outermost call
// of it: the part above, inverted, adds to callers, the part from there on to
// callees. So a recursive function counts once a sample, the totals of both
// roots are the function's total in [Top], and its calls of itself are in
// callees. Self in callees is what samples spent there; in callers it is the
// value of stacks that begin there, so that sums work as in every tree.
// If the tree does not have the function, both are one node of zero.
func (t *Tree) Sandwich(function string) (callers, callees *Tree) {
	name := uint32(0)
	for i := 1; i < len(t.Names); i++ {
		if t.Names[i] == function && int32(i) != t.Other {
			name = uint32(i)
		}
	}
	up, down := newTreeBuilder(64), newTreeBuilder(64)
	upSelf, downSelf := []int64{0}, []int64{0}
	const outside = -1
	at := make([]int32, t.Len()) // the node in callees
	at[0] = outside
	for i := 1; name != 0 && i < t.Len(); i++ {
		if p := at[t.Parent[i]]; p != outside {
			at[i] = down.child(p, t.Name[i])
			downSelf = extend(downSelf, len(down.parent))
			downSelf[at[i]] += t.Self[i]
			continue
		}
		if t.Name[i] != name {
			at[i] = outside
			continue
		}
		at[i] = 0
		downSelf[0] += t.Self[i]
		node := int32(0)
		for j := t.Parent[i]; j != 0; j = t.Parent[j] {
			node = up.child(node, t.Name[j])
		}
		upSelf = extend(upSelf, len(up.parent))
		upSelf[node] += t.Total[i]
	}
	finish := func(b *treeBuilder, self []int64) *Tree {
		// Index 0 of the names is the root's: here the function's.
		names, files := append([]string{function}, t.Names[1:]...), append([]string{t.Files[name]}, t.Files[1:]...)
		s := b.tree(names, files, self, t.Other)
		s.LeftOut = t.LeftOut
		return s
	}
	return finish(up, upSelf), finish(down, downSelf)
}

// extend is s with zeros up to length n.
func extend(s []int64, n int) []int64 {
	for len(s) < n {
		s = append(s, 0)
	}
	return s
}
