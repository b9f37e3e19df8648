package analyze

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/quantra-l/quantra/analyze/change"
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

// owner is the code that has most of a change in a function of the runtime: of all calls of it, those that come, through the
// runtime, from that code. It is the function itself where it is not the runtime's, or no code has most of it.
func (m *moves) owner(function string, up bool) string {
	nodes := m.outermost(function)
	total := m.diff(nodes)
	if !isRuntime(function) || (total > 0) != up {
		return function
	}
	owners := map[string]float64{}
	for _, i := range nodes {
		p := m.t.Parent[i]
		for p != 0 && isRuntime(m.name(p)) {
			p = m.t.Parent[p]
		}
		if p != 0 {
			owners[m.name(p)] += m.after[i] - m.before[i]
		}
	}
	best, most := "", 0.0
	for name, d := range owners {
		if d /= total; d > most || d == most && name < best {
			best, most = name, d
		}
	}
	if most < explains {
		return function
	}
	return best
}

// ownCode is the code whose doing the change of a function of the runtime is: who does more of something brings about more of
// all that the runtime does for it, and nothing elsewhere. So it is the function itself where that changed by as much below
// other code, or where what it calls, or what its caller does beside it, is as it was.
func (r *regress) ownCode(function string, up bool) string {
	if r.tree == nil {
		return function
	}
	owner := r.tree.owner(function, up)
	own, okOwn := r.fit(function, false)
	full, ok := r.fit(function, true)
	if owner == function || !ok {
		return owner
	}
	self := okOwn && mostlyOwn(own, full)
	if self {
		full = own
	}
	a := r.tree.around(function, owner, self)
	if a.inside.before <= 0 {
		return owner // nobody called it before
	}
	ratio := a.inside.after/a.inside.before - 1
	// as is by which part of the function's ratio another changed. Three errors tell that from nothing.
	as := func(l shareLevel) (part float64, ok bool) {
		f := r.counted(change.Fit{Before: l.before, After: l.after}, full)
		want := l.before * ratio
		return f.Diff / want, f.Err > 0 && math.Abs(want) > 3*f.Err
	}
	if part, ok := as(a.outside); ok {
		if part > 0.5 {
			return function
		}
		return owner
	}
	if part, ok := as(a.called); self && ok {
		if part < 0.25 {
			return function
		}
		return owner
	}
	if !self || bySize(function) {
		return owner
	}
	for _, l := range a.beside {
		if part, ok := as(l); ok {
			if part < 0.25 {
				return function
			}
			break
		}
	}
	return owner
}

// shareLevel is a share before and after.
type shareLevel struct{ before, after float64 }

func (l *shareLevel) add(before, after float64) { l.before, l.after = l.before+before, l.after+after }

// vicinity is a function of the runtime with what is around it. All but outside is below the owner.
type vicinity struct {
	inside, outside shareLevel // the function below its owner, and elsewhere
	called          shareLevel // what it calls
	// beside is what its callers, and theirs in turn, do but for it, the nearest first, as far as they are the runtime's, too.
	beside []shareLevel
}

// around finds a vicinity. self takes only the function's own share for inside and outside.
func (m *moves) around(function, owner string, self bool) (a vicinity) {
	nodes := m.nodes[function]
	if !self {
		nodes = m.outermost(function)
	}
	owners, end := m.outermost(owner), int32(0)
	var within []int32 // the outermost below the owner
	for _, i := range nodes {
		l := shareLevel{m.before[i], m.after[i]}
		if self {
			l = shareLevel{m.was[i], m.was[i] + m.own[i]}
		}
		// The owner's nodes are in order and apart, so only the last before i may have it.
		if o, _ := slices.BinarySearch(owners, i); o == 0 || i >= m.ends[owners[o-1]] {
			a.outside.add(l.before, l.after)
			continue
		}
		a.inside.add(l.before, l.after)
		if i >= end {
			end = m.ends[i]
			within = append(within, i)
			a.called.add(m.before[i]-m.was[i], m.after[i]-m.was[i]-m.own[i])
		}
	}
	at := slices.Clone(within) // their callers
	for {
		var l shareLevel
		seen := map[int32]bool{}
		for k, i := range within {
			p := m.t.Parent[at[k]]
			if at[k] == 0 || p == 0 || !isRuntime(m.name(p)) {
				at[k] = 0
				continue
			}
			at[k] = p
			l.add(-m.before[i], -m.after[i])
			if !seen[p] {
				seen[p] = true
				l.add(m.before[p], m.after[p])
			}
		}
		if len(seen) == 0 {
			return a
		}
		a.beside = append(a.beside, l)
	}
}

// bySize says that what a function of the runtime costs goes by the size of what it is given: then a caller that gives it more is no
// more often there.
func bySize(function string) bool {
	for _, p := range []string{"runtime.mem", "runtime.growslice", "internal/bytealg.", "mem", "aeshash", "cmpbody", "indexbody"} {
		if strings.HasPrefix(function, p) {
			return true
		}
	}
	return false
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
