package analyze

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
)

// How much of something is it: of a function's samples below another, of a change that others explain.
const (
	mostlyUnder   = 0.9
	partlyUnder   = 0.5
	causeExplains = 0.5
	// What holds both ends of a shift may have so many times the cost that moved. In something larger two changes that have nothing
	// to do with each other may well cancel out. (FBDetect, SOSP'24, leaves large domains of cost out for the same reason.)
	domainMost = 5
	maxCauses  = 200 // looked into; what is beyond them is smaller
)

// compareTrie is the stacks of both sides by name, as a tree, parents first. Node 0 is the root.
type compareTrie struct {
	parent, fn, owner []int32
	self              [2][]float64 // in samples
	index             map[uint64]int32
}

func (t *compareTrie) child(parent, fn, owner int32) int32 {
	if t.index == nil {
		t.index = map[uint64]int32{}
		t.parent, t.fn, t.owner = []int32{0}, []int32{-1}, []int32{-1}
		t.self = [2][]float64{{0}, {0}}
	}
	key := uint64(uint32(parent))<<32 | uint64(uint32(fn))
	n, ok := t.index[key]
	if !ok {
		n = int32(len(t.parent))
		t.index[key] = n
		t.parent, t.fn, t.owner = append(t.parent, parent), append(t.fn, fn), append(t.owner, owner)
		for side := range t.self {
			t.self[side] = append(t.self[side], 0)
		}
	}
	return n
}

func (t *compareTrie) add(side int, node int32, v float64) { t.self[side][node] += v }

// standardRoots are the first elements of the standard library's import paths (go1.26, `go list std`). A module's
// path has a dot in its first element, unless it was never meant to be fetched.
var standardRoots = map[string]bool{
	"archive": true, "bufio": true, "bytes": true, "cmp": true, "compress": true, "container": true, "context": true, "crypto": true, "database": true,
	"debug": true, "embed": true, "encoding": true, "errors": true, "expvar": true, "flag": true, "fmt": true, "go": true, "hash": true, "html": true,
	"image": true, "index": true, "internal": true, "io": true, "iter": true, "log": true, "maps": true, "math": true, "mime": true, "net": true, "os": true,
	"path": true, "plugin": true, "reflect": true, "regexp": true, "runtime": true, "slices": true, "sort": true, "strconv": true, "strings": true,
	"structs": true, "sync": true, "syscall": true, "testing": true, "text": true, "time": true, "type": true, "unicode": true, "unique": true, "unsafe": true,
	"vendor": true, "weak": true,
}

// packageOf is the import path of a Go function's package; of other languages' names, what is before their last dot; "" where there is none.
func packageOf(name string) string {
	if i := strings.IndexByte(name, '['); i >= 0 {
		name = name[:i] // type arguments have paths of their own
	}
	slash := strings.LastIndexByte(name, '/') + 1
	if dot := strings.IndexByte(name[slash:], '.'); dot >= 0 {
		return name[:slash+dot]
	}
	return ""
}

// isStandard says that a function is of Go's standard library or its runtime: assembly's names without a package are, too.
func isStandard(name string) bool {
	pkg := packageOf(name)
	if pkg == "" {
		return isRuntime(name)
	}
	root, _, _ := strings.Cut(pkg, "/")
	return standardRoots[root]
}

// changes is every function in both sides, with q-values over all that could show a difference at all.
func (c *comparer) changes() []Compared {
	var out []Compared
	var p [2][]float64 // of own and full; of self
	var at [2][]*float64
	for f := range c.funcs {
		fn := &c.funcs[f]
		if fn.alias != int32(f) {
			continue
		}
		ch := Compared{Function: fn.name, File: fn.file, Line: fn.line, Verdict: Same}
		for m, d := range []*Difference{&ch.Self, &ch.Full, &ch.Own} {
			*d = c.difference([2]moments{c.sides[0].moments[m][f], c.sides[1].moments[m][f]})
		}
		out = append(out, ch)
	}
	for i := range out {
		f := c.ids[out[i].Function]
		for m, d := range []*Difference{&out[i].Self, &out[i].Full, &out[i].Own} {
			if c.sides[0].moments[m][f].x+c.sides[1].moments[m][f].x < testedSamples {
				d.P, d.Q = 1, 1 // whatever side they are on, they show nothing (Bourgon et al. 2010 on filters by the sum)
				continue
			}
			family := 0
			if m == mSelf {
				family = 1
			}
			p[family] = append(p[family], d.P)
			at[family] = append(at[family], &d.Q)
		}
	}
	for family := range p {
		for i, q := range adjustBH(p[family]) {
			*at[family][i] = q
		}
	}
	for from := range c.funcs {
		if to := c.funcs[from].alias; int(to) != from {
			if i := slices.IndexFunc(out, func(ch Compared) bool { return ch.Function == c.funcs[to].name }); i >= 0 {
				out[i].Was = c.funcs[from].name
			}
		}
	}
	return out
}

// testedSamples is how many samples both sides together must have of a function for it to be tested.
const testedSamples = 5

// sure says that a difference is one.
func (c *comparer) sure(d *Difference) bool {
	return d.Q <= c.o.Q && math.Abs(d.Change.Value) >= c.o.MinChange
}

// judge finds the causes among the changes.
func (c *comparer) judge(out *Comparison) {
	j := &judging{comparer: c, out: out, of: map[int32]*Compared{}, nodes: map[int32][]int32{}}
	for i := range out.Changes {
		j.of[c.ids[out.Changes[i].Function]] = &out.Changes[i]
	}
	for n := 1; n < len(c.trie.parent); n++ {
		if c.trie.self[0][n] != 0 || c.trie.self[1][n] != 0 {
			o := c.alias(c.trie.owner[n])
			j.nodes[o] = append(j.nodes[o], int32(n))
		}
	}
	var own []int32
	for f, ch := range j.of {
		if c.sure(&ch.Own) {
			own = append(own, f)
		}
	}
	slices.SortFunc(own, func(a, b int32) int {
		return cmp.Or(cmp.Compare(math.Abs(j.of[b].Own.Real.Value), math.Abs(j.of[a].Own.Real.Value)), cmp.Compare(a, b))
	})
	own = own[:min(len(own), maxCauses)]
	under := map[int32]map[int32]float64{}
	for _, f := range own {
		under[f] = j.under(f)
	}
	for _, f := range own {
		j.of[f].Verdict, j.of[f].Metric = direction(&j.of[f].Own), j.metric(j.of[f])
	}
	shifted := map[int32]int32{}
	for _, f := range own {
		if from, ok := j.shift(f, own, under); ok {
			shifted[f] = from
		}
	}
	for f, from := range shifted {
		j.of[f].Verdict, j.of[f].By = Shifted, c.funcs[from].name
	}
	j.explain(own)
	j.rest(own)
}

// judging is the state of judge.
type judging struct {
	*comparer
	out   *Comparison
	of    map[int32]*Compared
	nodes map[int32][]int32 // with samples, by owner
	// explained is, for each function, how much of what changed in it (for the same work) causes explain, and the most
	// that one does, and which.
	explained, most map[int32]float64
	by              map[int32]int32
}

func direction(d *Difference) Verdict {
	if d.Change.Value < 0 {
		return Fell
	}
	return Grew
}

// metric is the value that says a cause best: its self where that is about all, else its total where that says as much.
func (j *judging) metric(ch *Compared) string {
	own := ch.Own.Change.Value
	switch {
	case math.Abs(ch.Self.Change.Value) >= 0.8*math.Abs(own) && ch.Self.Change.Value*own > 0:
		return "self"
	case ch.Full.P <= 0.05 && math.Abs(ch.Full.Change.Value) >= 0.8*math.Abs(own) && ch.Full.Change.Value*own > 0:
		return "total"
	}
	return "own"
}

func (c *comparer) alias(f int32) int32 {
	if f < 0 {
		return f
	}
	return c.funcs[f].alias
}

// real is what node n changed for the same work, as a share of the head.
func (c *comparer) real(n int32) float64 {
	return c.trie.self[1][n]/c.sides[1].sum - c.scale.Value*c.trie.self[0][n]/c.sides[0].sum
}

// above visits the functions of node n's stack, each once.
func (c *comparer) above(n int32, visit func(f int32)) {
	var seen [16]int32
	visited := seen[:0]
	for ; n != 0; n = c.trie.parent[n] {
		if f := c.alias(c.trie.fn[n]); !slices.Contains(visited, f) {
			visited = append(visited, f)
			visit(f)
		}
	}
}

// under is how much of what f owns lies below each function, as a share of it, in the side where it has more.
func (j *judging) under(f int32) map[int32]float64 {
	side := 0
	if j.of[f].Own.Change.Value > 0 {
		side = 1
	}
	sums, all := map[int32]float64{}, 0.0
	for _, n := range j.nodes[f] {
		v := j.trie.self[side][n]
		if v == 0 {
			continue
		}
		all += v
		j.above(n, func(g int32) { sums[g] += v })
	}
	for g := range sums {
		sums[g] /= all
	}
	return sums
}

// shift says whether f's change is cost that moved: something not much larger holds f and others that changed the other way by
// about as much, and did surely not change by half as much itself. What holds them is a caller of them, their package, or the whole.
func (j *judging) shift(f int32, own []int32, under map[int32]map[int32]float64) (from int32, ok bool) {
	change := j.of[f].Own.Real.Value
	most := domainMost * math.Abs(change)
	if j.scaleBy() == "" {
		most = min(most, 0.5) // shares of about the whole always cancel out: that shows nothing
	}
	holds := func(d Difference) bool {
		if max(d.Before.Value, d.After.Value) > most {
			return false
		}
		if change > 0 {
			return d.Real.High < causeExplains*change
		}
		return d.Real.Low > causeExplains*change
	}
	against := func(with func(g int32) bool) (int32, bool) {
		var sum, most float64
		from := int32(-1)
		for _, g := range own {
			v := j.of[g].Own.Real.Value
			if g == f || v*change >= 0 || !with(g) {
				continue
			}
			if sum += math.Abs(v); math.Abs(v) > most {
				from, most = g, math.Abs(v)
			}
		}
		return from, sum >= causeExplains*math.Abs(change)
	}
	for _, g := range slices.Sorted(maps.Keys(under[f])) {
		if share := under[f][g]; share < mostlyUnder || j.of[g] == nil || !holds(j.of[g].Full) {
			continue
		}
		if from, ok := against(func(h int32) bool { return under[h][g] >= partlyUnder }); ok {
			return from, true
		}
	}
	pkg := j.funcs[f].pkg
	if d := j.difference([2]moments{j.sides[0].packages[pkg], j.sides[1].packages[pkg]}); holds(d) {
		if from, ok := against(func(h int32) bool { return j.funcs[h].pkg == pkg }); ok {
			return from, true
		}
	}
	whole := Difference{Before: Estimate{Value: 1}, Real: Estimate{1 - j.scale.Value, 1 - j.scale.High, 1 - j.scale.Low}}
	if holds(whole) {
		return against(func(int32) bool { return true })
	}
	return -1, false
}

// explain reckons for every function how much of its change the causes explain.
func (j *judging) explain(causes []int32) {
	j.explained, j.most, j.by = map[int32]float64{}, map[int32]float64{}, map[int32]int32{}
	for _, f := range causes {
		j.explainBy(f, j.nodes[f])
	}
}

func (j *judging) explainBy(f int32, nodes []int32) {
	part := map[int32]float64{}
	for _, n := range nodes {
		v := j.real(n)
		j.above(n, func(g int32) { part[g] += v })
	}
	for g, v := range part {
		j.explained[g] += v
		if math.Abs(v) > math.Abs(j.most[g]) {
			j.most[g], j.by[g] = v, f
		}
	}
}

// rest goes through the functions whose full share changed, the smallest first: what causes explain is said to be so, and what
// they do not is a cause of its own, which then explains its callers.
func (j *judging) rest(own []int32) {
	var full []int32
	isOwn := map[int32]bool{}
	for _, f := range own {
		isOwn[f] = true
	}
	for f, ch := range j.of {
		if !isOwn[f] && j.sure(&ch.Full) {
			full = append(full, f)
		}
	}
	size := func(f int32) float64 { return j.of[f].Full.Before.Value + j.of[f].Full.After.Value }
	slices.SortFunc(full, func(a, b int32) int { return cmp.Or(cmp.Compare(size(a), size(b)), cmp.Compare(a, b)) })
	known := map[int32]bool{}
	for f := range isOwn {
		known[f] = true
	}
	found := 0
	for _, f := range full {
		ch := j.of[f]
		change := ch.Full.Real.Value
		if left := change - j.explained[f]; math.Abs(left) <= causeExplains*math.Abs(change) || left*change < 0 || found >= maxCauses {
			ch.Verdict, ch.Metric = Explained, "total"
			if by, ok := j.by[f]; ok {
				ch.By = j.funcs[by].name
				j.noteMoved(by, f)
			}
			continue
		}
		found++
		nodes := j.within(f, known)
		ch.Verdict, ch.Metric = direction(&ch.Full), "total"
		if owner, ok := j.calledElsewhere(change-j.explained[f], nodes); ok {
			ch.Verdict, ch.By = Shifted, j.funcs[owner].name
		}
		// What it holds that no cause owns is from here on explained by it.
		j.explainBy(f, nodes)
		known[f] = true
	}
}

// calledElsewhere says whether a change of what is called is mostly of functions that do not change themselves: they are called
// from elsewhere as much less, or more. It names the largest.
func (j *judging) calledElsewhere(change float64, nodes []int32) (owner int32, ok bool) {
	here := map[int32]float64{}
	for _, n := range nodes {
		here[j.alias(j.trie.owner[n])] += j.real(n)
	}
	var sum, most float64
	for _, f := range slices.Sorted(maps.Keys(here)) { // in order, so that sums are the same each time
		v := here[f]
		if own := j.of[f].Own.Real.Value; v*change <= 0 || own*v > 0 && math.Abs(own) >= causeExplains*math.Abs(v) {
			continue
		}
		if sum += math.Abs(v); math.Abs(v) > most || math.Abs(v) == most && f < owner {
			owner, most = f, math.Abs(v)
		}
	}
	return owner, sum >= causeExplains*math.Abs(change)
}

// within is the nodes with samples below f that no known cause owns or holds.
func (j *judging) within(f int32, known map[int32]bool) []int32 {
	var out []int32
	for owner, nodes := range j.nodes {
		if known[owner] {
			continue
		}
		for _, n := range nodes {
			in := false
			held := false
			j.above(n, func(g int32) { in, held = in || g == f, held || known[g] })
			if in && !held {
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	return out
}

// noteMoved keeps that f moved with the cause by.
func (j *judging) noteMoved(by, f int32) {
	ch := j.of[f]
	why := "caller"
	for _, n := range j.nodes[by] {
		// A callee is nearer to the sample than the cause is.
		for at := n; at != 0; at = j.trie.parent[at] {
			g := j.alias(j.trie.fn[at])
			if g == by {
				break
			}
			if g == f {
				why = "callee"
			}
		}
		if why == "callee" {
			break
		}
	}
	name := j.funcs[by].name
	j.out.moved[name] = append(j.out.moved[name], Moved{ch.Function, ch.Full.Before.Value, ch.Full.After.Value, why})
}
