package analyze

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/quantra-l/quantra/analyze/change"
	"github.com/quantra-l/quantra/profile"
)

// Detail is what is fetched for the changes of one service at about one time, to find out what caused them. All but Table may be
// missing; then less is said.
type Detail struct {
	Table *Table // that was scanned
	// Base and Head are the service's profiles before and after, of one column (see [Episode]).
	Base, Head *profile.Profile
	// Versions and Instances are the parts of the service, with the lines of at least the functions that changed, in the
	// same columns as Table. Others are further divisions: by region, by machine type.
	Versions, Instances []Group
	Others              [][]Group
	Events              []Event
	Options             ScanOptions // as scanned with
}

// Event is something that was told of: a deploy, a configuration.
type Event struct {
	Time  time.Time
	Label string
}

// Shift is a change that is none: cost that moved.
type Shift struct {
	Function, Metric string
	Why              string // a sentence
}

// Episode is changes of about one time, and what to compare to see them.
type Episode struct {
	Changes                  []Change
	BaseFrom, BaseTo         time.Time
	HeadFrom, HeadTo         time.Time
	from, until, at, settled int
	reference, columns       int
}

// Episodes divides changes by when they happened, the earliest first: those whose beginnings, with 95 %, overlap. What is
// compared is what the largest of them was measured on.
func Episodes(t *Table, changes []Change) []Episode {
	order := slices.Clone(changes)
	slices.SortStableFunc(order, func(a, b Change) int {
		return cmp.Or(cmp.Compare(b2i(a.Gradual), b2i(b.Gradual)), cmp.Compare(a.At, b.At))
	})
	var out []Episode
	var last time.Time
	for _, c := range order {
		n := len(out)
		if n == 0 || c.Gradual != out[n-1].Changes[0].Gradual || c.SinceFirst.After(last.Add(2*t.Step)) {
			out = append(out, Episode{})
			last = c.SinceLast
			n++
		}
		out[n-1].Changes = append(out[n-1].Changes, c)
		// The surest has the say when it was; one vague beginning must not join all others.
		if c.SinceLast.Before(last) {
			last = c.SinceLast
		}
	}
	for i := range out {
		e := &out[i]
		for j, c := range e.Changes {
			if math.Abs(c.Diff.Value) > math.Abs(e.Changes[e.reference].Diff.Value) {
				e.reference = j
			}
		}
		c := e.Changes[e.reference]
		e.from, e.until, e.at, e.settled, e.columns = c.From, c.Until, c.At, c.Settled, t.Steps()
		if c.Gradual { // its first quarter with its last
			e.from, e.until, e.at, e.settled = 0, t.Steps()/4, t.Steps()/4, t.Steps()-t.Steps()/4
		}
		e.BaseFrom, e.BaseTo = t.At(e.from), t.At(e.until)
		e.HeadFrom, e.HeadTo = t.At(e.settled), t.At(e.columns)
	}
	return out
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Regressions makes findings of changes that [Scan] has found: one for each cause. A change in a function is one in all its
// callers, so the deepest function that explains it is named and the others are told beside it. Shares sum to 1, so where one
// rises the others fall: all are judged relative to what did not change. What only moved, between functions, packages or
// callers, is no finding, but a shift.
//
// The order is [Rank]'s. Equal input gives equal output. Errors are [ErrTable] and [ErrDetail].
func Regressions(changes []Change, d Detail) ([]Finding, []Shift, error) {
	if d.Table == nil {
		return nil, nil, fmt.Errorf("%w: no table", ErrDetail)
	}
	if err := d.check(changes); err != nil {
		return nil, nil, err
	}
	var findings []Finding
	var shifts []Shift
	for _, e := range Episodes(d.Table, changes) {
		r := newRegress(e, d)
		f, s := r.findings()
		findings, shifts = append(findings, f...), append(shifts, s...)
	}
	slices.SortStableFunc(findings, func(a, b Finding) int { return Rank(&a, &b) })
	return findings, shifts, nil
}

// ErrDetail says that what was fetched does not fit the changes.
var ErrDetail = errors.New("analyze: detail does not fit the changes")

func (d *Detail) check(changes []Change) error {
	if err := d.Table.check(); err != nil {
		return err
	}
	for _, c := range changes {
		switch {
		case c.Index < 0 || c.Index >= len(d.Table.Functions) || d.Table.Functions[c.Index].Function != c.Function:
			return fmt.Errorf("%w: %q is not line %d of the table", ErrDetail, c.Function, c.Index)
		case c.From < 0 || c.Until < c.From || c.At < c.Until || c.Settled < c.At || c.Settled >= d.Table.Steps():
			return fmt.Errorf("%w: %q has columns %d, %d, %d, %d of %d", ErrDetail, c.Function, c.From, c.Until, c.At, c.Settled, d.Table.Steps())
		}
	}
	for _, groups := range append([][]Group{d.Versions, d.Instances}, d.Others...) {
		for _, g := range groups {
			if g.Table == nil || g.Table.Steps() != d.Table.Steps() || !g.Table.Start.Equal(d.Table.Start) || g.Table.Step != d.Table.Step {
				return fmt.Errorf("%w: the table of %v has other columns", ErrDetail, g.Labels)
			}
			if err := g.Table.check(); err != nil {
				return fmt.Errorf("%v: %w", g.Labels, err)
			}
		}
	}
	for _, p := range []*profile.Profile{d.Base, d.Head} {
		if p != nil && len(p.Values) != 1 {
			return fmt.Errorf("%w: a profile has %d columns, want one", ErrDetail, len(p.Values))
		}
	}
	if (d.Base == nil) != (d.Head == nil) {
		return fmt.Errorf("%w: only one of base and head is there", ErrDetail)
	}
	return nil
}

// regress is the work on one episode.
type regress struct {
	e      Episode
	d      Detail
	o      ScanOptions
	t      *Table
	shares shares
	rest   float64 // by what shares that did not change were multiplied
	wander float64 // as in scan
	tree   *moves  // nil without profiles
	self   map[string]change.Fit
	full   map[string]change.Fit
	shifts []Shift
}

func newRegress(e Episode, d Detail) *regress {
	r := &regress{e: e, d: d, o: d.Options.orDefaults(d.Table.Step), t: d.Table, shares: newShares(d.Table), self: map[string]change.Fit{}, full: map[string]change.Fit{}}
	s := newScan(d.Table, nil, d.Options)
	r.rest, r.wander = r.findRest(), s.findWander()
	if d.Base != nil {
		r.tree = newMoves(d.Base, d.Head, r.rest)
	}
	return r
}

// findRest is by what the shares of functions that did not change were multiplied, because others did: the weighted median of
// after over before (the median of ratios of Anders and Huber, Genome Biology 11, 2010, who have the same trouble with counts of
// genes). No function weighs more than 2 %, so that the large one that changed has no say. 1 with few functions to go by.
func (r *regress) findRest() float64 {
	type ratio struct{ by, weight float64 }
	var all []ratio
	var sum float64
	for i := range r.t.Functions {
		f := r.shares.ratio(r.t.Functions[i].Self, nil)
		b, a := level(f, r.e.from, r.e.until), level(f, r.e.settled, r.e.columns)
		if w := min(b, a, 0.02); w > 0 {
			all = append(all, ratio{a / b, w})
			sum += w
		}
	}
	if len(all) < 5 {
		return 1
	}
	slices.SortFunc(all, func(a, b ratio) int { return cmp.Compare(a.by, b.by) })
	half := sum / 2
	for _, x := range all {
		if half -= x.weight; half <= 0 {
			return x.by
		}
	}
	return 1
}

// measure is the change of values, relative to what did not change.
func (r *regress) measure(values []float32) change.Fit {
	x := r.shares.ratio(values, nil)
	for i := r.e.settled; i < len(x.K); i++ {
		x.K[i] /= r.rest
	}
	return x.MeasureSteps(r.e.from, r.e.until, r.e.settled, r.e.columns).WithWander(r.wander, 60)
}

func (r *regress) line(function string) *Series {
	i, ok := slices.BinarySearchFunc(r.t.Functions, function, func(f Series, name string) int { return cmp.Compare(f.Function, name) })
	if !ok {
		return nil
	}
	return &r.t.Functions[i]
}

// fit is the change of a function's self or full values, measured once. ok is false where the table does not have it.
func (r *regress) fit(function string, full bool) (f change.Fit, ok bool) {
	m := r.self
	if full {
		m = r.full
	}
	if f, ok = m[function]; ok {
		return f, true
	}
	l := r.line(function)
	if l == nil {
		return f, false
	}
	v := l.Self
	if full {
		v = l.Full
	}
	if v == nil {
		return f, false
	}
	f = r.measure(v)
	m[function] = f
	return f, true
}

// cause is a function that explains changes: those in members, by index into the episode's.
type cause struct {
	function string
	full     bool // its full values changed, rather than its own
	up       bool
	alike    bool // all that it calls changed by the same ratio
	fit      change.Fit
	members  []int
}

// findings goes through the changes of the episode.
func (r *regress) findings() ([]Finding, []Shift) {
	kept := r.undiluted()
	causes := r.causes(kept)
	causes = r.unmoved(causes)
	var out []Finding
	for _, c := range causes {
		out = append(out, r.finding(c))
	}
	return out, r.shifts
}

// undiluted are the changes that are ones relative to the rest, too: in the same direction, by at least the bounds, and
// surely.
func (r *regress) undiluted() (kept []int) {
	for i, c := range r.e.Changes {
		f, ok := r.fit(c.Function, c.Metric == "total")
		if !ok || f.Diff*c.Diff.Value <= 0 || f.P > 1e-3 && !c.Gradual {
			continue
		}
		if d := math.Abs(f.Diff); d < r.o.MinShare || d < f.Before*r.o.MinRelative {
			continue
		}
		kept = append(kept, i)
	}
	return kept
}

// explains is from which part on a callee's change is its caller's.
const explains = 0.8

// What is named instead of the function that changed must have changed by as much of its own, at least, whatever the bounds of what is
// said: code that does much else shows less of what the runtime does for it, and then might be any.
const leastCallee, leastOwner = 0.05, 0.1

// causes groups the changes by what explains them, in the order of the changes.
func (r *regress) causes(kept []int) []*cause {
	byKey := map[string]*cause{}
	var all []*cause
	for _, i := range kept {
		c := r.e.Changes[i]
		up := c.Diff.Value > 0
		name := c.Function
		if r.tree != nil && c.Metric == "total" {
			deepest, path := r.tree.deepest(name, up)
			if moved := r.movedBelow(c, path[1:]); moved != "" {
				r.shifts = append(r.shifts, Shift{c.Function, c.Metric, fmt.Sprintf("%s is called from elsewhere now, and costs as much in all as it did.", quote(moved))})
				continue
			}
			name = r.sure(deepest, name, up, leastCallee)
		}
		if owner := r.ownCode(name, up); owner != name {
			name = r.sure(owner, name, up, leastOwner)
		}
		key := name + "\x00" + fmt.Sprint(up)
		x := byKey[key]
		if x == nil {
			x = &cause{function: name, up: up}
			byKey[key] = x
			all = append(all, x)
		}
		x.members = append(x.members, i)
	}
	for _, x := range all {
		r.weigh(x)
	}
	if r.tree == nil {
		return r.withoutTree(all)
	}
	all = r.tree.fold(all)
	for _, x := range all {
		if f, ok := r.fit(x.function, true); x.alike && ok {
			x.fit = f
		}
	}
	return all
}

// sure is name if what is measured of it has the change, too, and by the least relative one, else the function that it was told for: a caller may
// be so large, or have so much noise of its own, that nothing can be said of it, and a callee may cost in all what it did.
func (r *regress) sure(name, told string, up bool, least float64) string {
	f, ok := r.fit(name, true)
	if !ok {
		f, ok = r.fit(name, false)
	}
	if ok && f.P < 1e-3 && (f.Diff > 0) == up && math.Abs(f.Diff) >= least*f.Before {
		return name
	}
	return told
}

// mostlyOwn says that a function's own values have the change of its full ones.
func mostlyOwn(self, full change.Fit) bool {
	return self.Diff*full.Diff > 0 && math.Abs(self.Diff) >= explains*math.Abs(full.Diff)
}

// weigh decides whether a cause's own values or its full ones tell the change, and measures it.
func (r *regress) weigh(x *cause) {
	self, okSelf := r.fit(x.function, false)
	full, okFull := r.fit(x.function, true)
	switch {
	case okSelf && okFull && mostlyOwn(self, full):
		x.fit = self
	case okFull && full.Diff != 0 && (full.Diff > 0) == x.up:
		x.fit, x.full = full, true
	case okSelf:
		x.fit = self
	default: // the table does not have it: its first member speaks for it
		c := r.e.Changes[x.members[0]]
		x.function, x.full = c.Function, c.Metric == "total"
		x.fit, _ = r.fit(c.Function, x.full)
	}
	// Where the change was seen in its own values only, those are what it is about.
	if x.full && okSelf {
		own := !slices.ContainsFunc(x.members, func(i int) bool {
			return r.e.Changes[i].Function == x.function && r.e.Changes[i].Metric == "total" || r.e.Changes[i].Function != x.function
		})
		if own {
			x.fit, x.full = self, false
		}
	}
}

// withoutTree folds what changed in full values only into the largest change of own values of the same direction: with no
// call tree, who calls whom is not known, but that a caller's full values hold its callees' is.
func (r *regress) withoutTree(all []*cause) []*cause {
	var own []*cause
	for _, x := range all {
		if !x.full {
			own = append(own, x)
		}
	}
	slices.SortStableFunc(own, func(a, b *cause) int { return cmp.Compare(math.Abs(b.fit.Diff), math.Abs(a.fit.Diff)) })
	var out []*cause
	for _, x := range all {
		i := slices.IndexFunc(own, func(o *cause) bool {
			return o != x && o.up == x.up && math.Abs(o.fit.Diff) >= 0.5*math.Abs(x.fit.Diff)
		})
		if x.full && i >= 0 {
			own[i].members = append(own[i].members, x.members...)
			continue
		}
		out = append(out, x)
	}
	return out
}
