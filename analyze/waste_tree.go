package analyze

import (
	"cmp"
	"slices"

	"github.com/quantra-l/quantra/profile"
)

// wasteTree is a call tree with, for each node, whose code it is and which of the reader's own functions it works for.
type wasteTree struct {
	*profile.Tree
	code  []codeKind // by name
	owner []int32    // by node: the nearest node at or above it that is own code; 0 is none
	total float64
	unit  float64 // values of one sample; 0 where they have none

	ownCost, all []float64 // by name: see ownCosts, and what has it anywhere on the stack
}

func newWasteTree(p *profile.Profile, col int) *wasteTree {
	t := &wasteTree{Tree: profile.NewTree(p, col)}
	t.code = make([]codeKind, len(t.Names))
	if isGo(p) {
		for i, n := range t.Names {
			t.code[i] = codeOf(n)
		}
	}
	t.owner = make([]int32, t.Len())
	for i := 1; i < t.Len(); i++ {
		t.owner[i] = t.owner[t.Parent[i]]
		switch t.code[t.Name[i]] {
		case codeOwn:
			t.owner[i] = int32(i)
		case codeProfiler:
			t.owner[i] = 0 // what it calls is its own affair
		}
	}
	if t.Len() > 0 {
		t.total = float64(t.Total[0])
	}
	t.ownCost, t.all = make([]float64, len(t.Names)), make([]float64, len(t.Names))
	for i := 1; i < t.Len(); i++ {
		if o := t.owner[i]; o > 0 {
			t.ownCost[t.Name[o]] += float64(t.Self[i])
		}
	}
	onPath := make([]int32, len(t.Names))
	var path []int32
	for i := 1; i < t.Len(); i++ {
		for len(path) > 0 && path[len(path)-1] != t.Parent[i] {
			onPath[t.Name[path[len(path)-1]]]--
			path = path[:len(path)-1]
		}
		path = append(path, int32(i))
		n := t.Name[i]
		if onPath[n] == 0 {
			t.all[n] += float64(t.Total[i])
		}
		onPath[n]++
	}
	return t
}

// name is a node's function.
func (t *wasteTree) name(node int32) string { return t.Names[t.Name[node]] }

// samples is a value as a number of samples.
func (t *wasteTree) samples(v float64) float64 {
	if t.unit > 0 {
		return v / t.unit
	}
	return v
}

// share is a value's part of all, with its interval by the samples it rests on.
func (t *wasteTree) share(v float64) Estimate { return Share(t.samples(v), t.samples(t.total)) }

// under marks the nodes at or below one whose name is chosen.
func (t *wasteTree) under(choose func(name string) bool) []bool {
	chosen := make([]bool, len(t.Names))
	for i, n := range t.Names {
		chosen[i] = choose(n)
	}
	in := make([]bool, t.Len())
	for i := 1; i < t.Len(); i++ {
		in[i] = in[t.Parent[i]] || chosen[t.Name[i]]
	}
	return in
}

// selfOf is the sum of the nodes that are in all of sets.
func (t *wasteTree) selfOf(sets ...[]bool) (sum float64) {
next:
	for i := 1; i < t.Len(); i++ {
		for _, s := range sets {
			if !s[i] {
				continue next
			}
		}
		sum += float64(t.Self[i])
	}
	return sum
}

// weighted is a name with a value.
type weighted struct {
	name  string
	value float64
}

// heaviest sorts names by value, the largest first, then by name.
func heaviest(m map[string]float64) []weighted {
	out := make([]weighted, 0, len(m))
	for n, v := range m {
		out = append(out, weighted{n, v})
	}
	slices.SortFunc(out, func(a, b weighted) int { return cmp.Or(cmp.Compare(b.value, a.value), cmp.Compare(a.name, b.name)) })
	return out
}
