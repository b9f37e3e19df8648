package analyze

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/quantra-l/quantra/analyze/change"
)

// unmoved are the causes that are not cost which only moved. What makes a move is FBDetect's (SOSP 2024) idea of a domain: a set of
// functions that cost moves within when code is rewritten. If the domain's total is as it was, surely, what changed in it
// is no change of cost. A domain whose own noise is larger than the change decides nothing.
func (r *regress) unmoved(all []*cause) (kept []*cause) {
	for _, x := range all {
		if why := r.moved(x, all); why != "" {
			metric := "self"
			if x.full {
				metric = "total"
			}
			r.shifts = append(r.shifts, Shift{x.function, metric, why})
			continue
		}
		kept = append(kept, x)
	}
	return kept
}

// moved is why x is a move, or "".
func (r *regress) moved(x *cause, all []*cause) string {
	full, ok := r.fit(x.function, true)
	if gradual := r.e.Changes[x.members[0]].Gradual; !gradual && (x.fit.P > 1e-3 || (x.fit.Diff > 0) != x.up) {
		return fmt.Sprintf("%s costs in all what it did, as far as can be told.", quote(x.function))
	}
	if ok && !x.full && r.unchanged(full, x.fit) {
		return fmt.Sprintf("What %s spends itself changed, but with what it calls it is as it was: cost moved between it and its callees, as by inlining.", quote(x.function))
	}
	if why := r.renamed(x, all); why != "" {
		return why
	}
	if f, pkg, n := r.packageOf(x.function); n > 1 && r.against(pkg, x) && r.unchanged(f, x.fit) {
		return fmt.Sprintf("Cost moved within %s, whose total is as it was.", quote(pkg))
	}
	if r.tree == nil {
		return ""
	}
	if r.absorbed(x) {
		return fmt.Sprintf("What %s spends itself changed by as much as callees that came or went with it: an inlining or a split.", quote(x.function))
	}
	if all, own := r.directCallers(x); r.unchanged(all, x.fit) || r.unchanged(own, x.fit) {
		return fmt.Sprintf("The functions that call %s cost as much as they did: cost moved between them and what they call.", quote(x.function))
	}
	nodes := r.tree.outermost(x.function)
	for k, caller := range r.tree.callers(x.function) {
		if k >= 5 {
			break
		}
		// A caller that has only some of the change says nothing about the rest.
		if r.tree.diff(r.tree.under(r.tree.outermost(caller), x.function))/r.tree.diff(nodes) < explains {
			continue
		}
		// One that is ten times as large holds much else that may have gone the other way.
		if f, ok := r.fit(caller, true); ok && f.Before < 10*max(x.fit.Before, x.fit.After) && r.unchanged(f, x.fit) {
			return fmt.Sprintf("Cost moved below %s, whose total is as it was.", quote(caller))
		}
	}
	return ""
}

// movedBelow is the callee on the way down from a change that costs, in all the program, what it did: then the change is who
// calls it. "" is none.
func (r *regress) movedBelow(c Change, path []string) string {
	f, ok := r.fit(c.Function, true)
	if !ok {
		return ""
	}
	for _, callee := range path {
		g, known := r.fit(callee, true)
		if !known {
			continue
		}
		low, high := change.Interval(g.Diff/f.Diff, g.Err/math.Abs(f.Diff), g.DF)
		if r.unchanged(g, f) || g.Diff/f.Diff < 0.25 && high < 1 && low < 0 {
			return callee
		}
	}
	return ""
}

// directCallers is the change of all nodes that call x, by the profiles: with all that they call, and of only what they spend
// themselves and in x, which has less noise. The errors are what counting samples gives, times the spread of x.
func (r *regress) directCallers(x *cause) (all, own change.Fit) {
	seen := map[int32]bool{}
	all = change.Fit{BeforeN: x.fit.BeforeN, AfterN: x.fit.AfterN, DF: x.fit.DF}
	own = all
	m := r.tree
	for _, i := range m.outermost(x.function) {
		p := m.t.Parent[i]
		if p == 0 {
			return change.Fit{}, change.Fit{} // called by nothing: it has no domain
		}
		own.Before, own.After = own.Before+m.before[i], own.After+m.after[i]
		if !seen[p] {
			seen[p] = true
			all.Before, all.After = all.Before+m.before[p], all.After+m.after[p]
			own.Before, own.After = own.Before+m.was[p], own.After+m.was[p]+m.own[p]
		}
	}
	return r.counted(all, x.fit), r.counted(own, x.fit)
}

// counted fills in the difference of f, with the error of counting samples times the spread of like.
func (r *regress) counted(f, like change.Fit) change.Fit {
	if !r.shares.binomial || like.BeforeN <= 0 || like.AfterN <= 0 {
		return change.Fit{}
	}
	f.Diff = f.After - f.Before
	f.Err = math.Sqrt(max(like.Spread, 1) * (f.Before/like.BeforeN + f.After/like.AfterN))
	return f
}

// absorbed says that what x spends itself changed by as much as those of its callees did, the other way, that came or went with it.
func (r *regress) absorbed(x *cause) bool {
	if x.full {
		return false
	}
	callees := map[string]*[2]float64{}
	own := 0.0
	for _, i := range r.tree.nodes[x.function] {
		own += r.tree.own[i]
		for j := i + 1; j < r.tree.ends[i]; j = r.tree.ends[j] {
			n := r.tree.name(j)
			if callees[n] == nil {
				callees[n] = &[2]float64{}
			}
			callees[n][0] += r.tree.was[j] // what they call in turn is called by x now, and no part of its own
			callees[n][1] += r.tree.was[j] + r.tree.own[j]
		}
	}
	var f change.Fit
	for _, c := range callees {
		from, to := c[0], c[1]
		if !x.up {
			from, to = to, from
		}
		if to < 0.1*from {
			f.Before, f.After = f.Before+c[0], f.After+c[1]
		}
	}
	if moved := f.After - f.Before; moved*own >= 0 || math.Abs(moved+own) > 0.5*math.Abs(own) {
		return false
	}
	self, _ := r.fit(x.function, false)
	f.Before, f.After = f.Before+self.Before, f.After+self.After
	f.BeforeN, f.AfterN, f.DF = x.fit.BeforeN, x.fit.AfterN, x.fit.DF
	return r.unchanged(r.counted(f, x.fit), x.fit)
}

// unchanged says that a domain did not change, surely: its interval holds nothing larger than half of the change c.
func (r *regress) unchanged(domain, c change.Fit) bool {
	if domain.BeforeN <= 0 || domain.AfterN <= 0 || c.Diff == 0 {
		return false
	}
	if r.rest == 1 && max(domain.Before, domain.After) > 0.5 {
		return false // nothing says what did not change, and the share of what is nearly all cannot rise
	}
	low, high := change.Interval(domain.Diff, domain.Err, domain.DF)
	if c.Diff < 0 {
		low, high = -high, -low
	}
	limit := 0.5 * math.Abs(c.Diff)
	return low > -limit && high < limit
}

// renamed says that other functions went or came at the same time, by as much as x came or went: a rename, a split, a
// merge, an inlining into several.
func (r *regress) renamed(x *cause, all []*cause) string {
	from, to := x.fit.Before, x.fit.After
	if !x.up {
		from, to = to, from
	}
	came := from < 0.1*to // or went, where it is less now
	sum, err := 0.0, x.fit.Err*x.fit.Err
	var names []string
	for _, y := range all {
		if y.up == x.up || y == x || r.tree != nil && (r.tree.above(x.function, y.function) || r.tree.above(y.function, x.function)) {
			continue
		}
		a, b := y.fit.Before, y.fit.After
		if y.up {
			a, b = b, a
		}
		// One of both must have come or gone for the most part; two functions that both go on are no rename.
		if !came && b > 0.1*a {
			continue
		}
		d := math.Abs(y.fit.Diff)
		if came && b > 0.1*a && d < 0.5*math.Abs(x.fit.Diff) {
			continue
		}
		sum += d
		err += y.fit.Err * y.fit.Err
		names = append(names, y.function)
	}
	if len(names) == 0 || math.Abs(sum-math.Abs(x.fit.Diff)) > max(2*math.Sqrt(err), 0.1*math.Abs(x.fit.Diff)) {
		return r.renamedOne(x, all)
	}
	slices.Sort(names)
	for i := range names {
		names[i] = quote(names[i])
	}
	verb := "went"
	if !x.up {
		verb = "came"
	}
	return fmt.Sprintf("As much %s with %s at the same time: a rename, a split or a merge.", verb, strings.Join(names[:min(len(names), 5)], ", "))
}

// renamedOne looks for one function, or the parts of one, among all that went the other way: with several refactorings at
// once the sum of all does not fit.
func (r *regress) renamedOne(x *cause, all []*cause) string {
	for _, y := range all {
		if y.up == x.up || y == x {
			continue
		}
		gone := func(c *cause) bool { return min(c.fit.Before, c.fit.After) < 0.1*max(c.fit.Before, c.fit.After) }
		if !gone(x) || !gone(y) {
			continue
		}
		if d := math.Abs(x.fit.Diff + y.fit.Diff); d <= max(2*math.Hypot(x.fit.Err, y.fit.Err), 0.1*math.Abs(x.fit.Diff)) {
			return fmt.Sprintf("%s took its place or gave it, with as much: a rename.", quote(y.function))
		}
	}
	return ""
}

// packageOf is the change of all own values of a function's package, or of its receiver's methods: what is before the name's last
// dot, its name, and of how many functions.
func (r *regress) packageOf(function string) (f change.Fit, pkg string, n int) {
	pkg = packageName(function)
	if pkg == "" {
		return f, "", 0
	}
	sum := make([]float32, r.t.Steps())
	for i := range r.t.Functions {
		l := &r.t.Functions[i]
		if packageName(l.Function) != pkg || l.Self == nil {
			continue
		}
		n++
		for c, v := range l.Self {
			sum[c] += v
		}
	}
	return r.measure(sum), pkg, n
}

// against says that within a package something moved against x, by half as much at least: with nothing there, its total is
// unchanged only by chance.
func (r *regress) against(pkg string, x *cause) bool {
	sum := 0.0
	for i := range r.t.Functions {
		n := r.t.Functions[i].Function
		if packageName(n) != pkg || n == x.function {
			continue
		}
		if f, ok := r.fit(n, false); ok && f.Diff*x.fit.Diff < 0 && f.P < 1e-3 {
			sum += math.Abs(f.Diff)
		}
	}
	return sum >= 0.5*math.Abs(x.fit.Diff)
}

// packageName is a function's package with its receiver's type, as Go, Java and Python write it: what is before the last dot that
// is not in brackets or parentheses. Closures (".func1", ".gowrap2") are their function's package.
func packageName(function string) string {
	depth, cut := 0, -1
	slash := strings.LastIndexByte(function, '/')
	for i, c := range []byte(function) {
		switch c {
		case '(', '[', '<':
			depth++
		case ')', ']', '>':
			depth--
		case '.':
			if depth == 0 && i > slash {
				rest := function[i+1:]
				if cut >= 0 && (strings.HasPrefix(rest, "func") || strings.HasPrefix(rest, "gowrap")) {
					return function[:cut]
				}
				cut = i
			}
		}
	}
	if cut < 0 {
		return ""
	}
	return function[:cut]
}
