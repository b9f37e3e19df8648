package analyze

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/quantra-l/quantra/profile"
)

// moves is a call tree of both sides, with by how much each node's share changed, relative to what did not.
type moves struct {
	t      *profile.DiffTree
	ends   []int32
	before []float64 // a node's share with what it calls
	after  []float64
	own    []float64 // change of its own share
	was    []float64 // its own share before
	nodes  map[string][]int32
}

func newMoves(base, head *profile.Profile, rest float64) *moves {
	t := profile.NewDiffTree(profile.NewTree(base, 0), profile.NewTree(head, 0), false)
	m := &moves{t: t, ends: t.Ends(), before: make([]float64, t.Len()), after: make([]float64, t.Len()), own: make([]float64, t.Len()), was: make([]float64, t.Len()), nodes: map[string][]int32{}}
	b, h := float64(max(t.BaseTotal[0], 1)), float64(max(t.Total[0], 1))*rest
	for i := range m.before {
		m.before[i], m.after[i] = float64(t.BaseTotal[i])/b, float64(t.Total[i])/h
		m.was[i] = float64(t.BaseSelf[i]) / b
		m.own[i] = float64(t.Self[i])/h - m.was[i]
		if i > 0 {
			name := t.Names[t.Name[i]]
			m.nodes[name] = append(m.nodes[name], int32(i))
		}
	}
	return m
}

func (m *moves) name(i int32) string { return m.t.Names[m.t.Name[i]] }

// outermost are the nodes of a function that are not below another of it.
func (m *moves) outermost(function string) (out []int32) {
	end := int32(0)
	for _, i := range m.nodes[function] { // in preorder
		if i >= end {
			out = append(out, i)
			end = m.ends[i]
		}
	}
	return out
}

func (m *moves) diff(nodes []int32) (d float64) {
	for _, i := range nodes {
		d += m.after[i] - m.before[i]
	}
	return d
}

// deepest goes from a function down to the callee that has most of its change, as long as there is one. It does not go from
// a program's code into the runtime: that a function allocates more is that function's doing. path is all on the way, the
// function first, and what lies further down in the runtime, too.
func (m *moves) deepest(function string, up bool) (deepest string, path []string) {
	path = []string{function}
	deepest = function
	nodes := m.outermost(function)
	for range 10_000 { // no tree is deeper
		total := m.diff(nodes)
		if len(nodes) == 0 || (total > 0) != up {
			return deepest, path
		}
		callees := map[string][]int32{}
		for _, i := range nodes {
			for j := i + 1; j < m.ends[i]; j = m.ends[j] {
				callees[m.name(j)] = append(callees[m.name(j)], j)
			}
		}
		best, most := "", 0.0
		for name, c := range callees {
			if d := m.diff(c) / total; d > most || d == most && name < best {
				best, most = name, d
			}
		}
		if most < explains {
			return deepest, path
		}
		function, nodes = best, callees[best]
		path = append(path, function)
		if !isRuntime(function) || isRuntime(path[0]) {
			deepest = function
		}
	}
	return deepest, path
}

// ownCode goes from a function of the runtime up to the code whose doing its change is: the one caller that has most of it, and
// on from there, to the first that is not the runtime's. The function itself where there is no such caller.
func (m *moves) ownCode(function string, up bool) string {
	at, nodes := function, m.outermost(function)
	for range 10_000 {
		if !isRuntime(at) {
			return at
		}
		total := m.diff(nodes)
		if len(nodes) == 0 || (total > 0) != up {
			return function
		}
		callers := map[string]float64{}
		for _, i := range nodes {
			if p := m.t.Parent[i]; p != 0 {
				callers[m.name(p)] += m.after[i] - m.before[i]
			}
		}
		best, most := "", 0.0
		for name, d := range callers {
			if d /= total; d > most || d == most && name < best {
				best, most = name, d
			}
		}
		if most < explains {
			return function
		}
		var above []int32
		for _, i := range nodes {
			if p := m.t.Parent[i]; p != 0 && m.name(p) == best && !slices.Contains(above, p) {
				above = append(above, p)
			}
		}
		// What the caller gained elsewhere is not what is followed.
		nodes, at = above, best
		if (m.diff(nodes) > 0) != up {
			return function
		}
	}
	return function
}

// isRuntime says that a function is of Go's runtime or of the C library's kind, not of a program.
func isRuntime(function string) bool {
	for _, p := range []string{"runtime.", "internal/runtime/", "internal/bytealg.", "memmove", "memclr", "memeqbody", "aeshash", "cmpbody", "indexbody", "_", "[", "gcWriteBarrier", "syscall."} {
		if strings.HasPrefix(function, p) {
			return true
		}
	}
	return function == "malloc" || function == "free" || function == "calloc" || function == "realloc"
}

// under is the outermost nodes of a function that lie below nodes, or are them.
func (m *moves) under(nodes []int32, function string) (out []int32) {
	for _, i := range m.outermost(function) {
		for _, n := range nodes {
			if i >= n && i < m.ends[n] {
				out = append(out, i)
				break
			}
		}
	}
	return out
}

// above says that function a calls b, directly or through others.
func (m *moves) above(a, b string) bool { return a != b && len(m.under(m.outermost(a), b)) > 0 }

// fold takes out causes that others below them explain, and joins those that changed alike below one caller: what is called more
// often is one cause, the caller. The most specific come first.
func (m *moves) fold(all []*cause) []*cause {
	order := slices.Clone(all)
	slices.SortStableFunc(order, func(a, b *cause) int {
		return cmp.Or(cmp.Compare(math.Abs(m.diff(m.outermost(a.function))), math.Abs(m.diff(m.outermost(b.function)))), cmp.Compare(a.function, b.function))
	})
	gone := map[*cause]bool{}
	for _, x := range order {
		nodes := m.outermost(x.function)
		total := m.diff(nodes)
		if len(nodes) == 0 || total == 0 {
			continue
		}
		var below []*cause
		covered := make([]bool, m.t.Len())
		part := 0.0
		for _, y := range order {
			if y == x || gone[y] || y.up != x.up || !m.above(x.function, y.function) || m.above(y.function, x.function) {
				continue
			}
			below = append(below, y)
			for _, i := range m.under(nodes, y.function) {
				if !covered[i] {
					part += m.notCovered(i, covered)
				}
			}
		}
		if len(below) == 0 || part/total < explains*0.75 {
			continue
		}
		if len(below) >= 3 && m.alike(x, below) {
			x.alike, x.full = true, true
			for _, y := range below {
				x.members = append(x.members, y.members...)
				gone[y] = true
			}
			continue
		}
		slices.SortStableFunc(below, func(a, b *cause) int { return cmp.Compare(math.Abs(b.fit.Diff), math.Abs(a.fit.Diff)) })
		below[0].members = append(below[0].members, x.members...)
		gone[x] = true
	}
	return slices.DeleteFunc(all, func(x *cause) bool { return gone[x] })
}

// notCovered is the change of node i less what of it is covered, and covers all below i.
func (m *moves) notCovered(i int32, covered []bool) (d float64) {
	for j := i; j < m.ends[i]; j++ {
		if !covered[j] {
			d += m.own[j]
			covered[j] = true
		}
	}
	return d
}

// alike says that below x nearly all grew by the ratio that x did.
func (m *moves) alike(x *cause, below []*cause) bool {
	nodes := m.outermost(x.function)
	ratio := func(nodes []int32) float64 {
		var b, a float64
		for _, i := range nodes {
			b, a = b+m.before[i], a+m.after[i]
		}
		if b <= 0 || a <= 0 {
			return math.NaN()
		}
		return math.Log(a / b)
	}
	want := ratio(nodes)
	for _, y := range below {
		if got := ratio(m.under(nodes, y.function)); !(math.Abs(got-want) < 0.35*math.Abs(want)) {
			return false
		}
	}
	return true
}

// callers are the functions on the way from the root to where a function changed most, the nearest first.
func (m *moves) callers(function string) (out []string) {
	best, most := int32(-1), 0.0
	for _, i := range m.outermost(function) {
		if d := math.Abs(m.after[i] - m.before[i]); d > most {
			best, most = i, d
		}
	}
	if best < 0 {
		return nil
	}
	for p := m.t.Parent[best]; p != 0; p = m.t.Parent[p] {
		if n := m.name(p); n != function && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}
