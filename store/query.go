package store

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

// part is what a query takes of one series.
type part struct {
	name    string
	labels  profile.Labels
	entries []*entry
}

// cut is what a query works on: it stays as it is whatever happens to the head.
type cut struct {
	block.Tables
	parts []part
	plan  *Plan
	cols  map[*shape][]int
	keep  []bool // the label sets that are asked; nil is all
}

// cut finds the profiles of a query.
func (h *head) cut(p *Plan) *cut {
	c := &cut{plan: p, cols: map[*shape][]int{}}
	h.mu.RLock()
	t := h.tenants[p.Tenant]
	if t == nil {
		h.mu.RUnlock()
		return c
	}
	c.Tables = t.view
	for _, s := range t.find(p.tests) {
		after := func(x *entry, from int64) int { return cmp.Compare(x.from, from) }
		lo, _ := slices.BinarySearchFunc(s.entries, p.From, after)
		hi, _ := slices.BinarySearchFunc(s.entries, p.To, after)
		if lo < hi {
			c.parts = append(c.parts, part{s.name, s.labels, s.entries[lo:hi:hi]})
		}
	}
	h.mu.RUnlock()
	if len(p.IDs) > 0 {
		c.only(p.IDs)
	}
	if p.HasSampleMatchers() {
		c.keep = make([]bool, len(c.LabelSets))
		for i, set := range c.LabelSets {
			c.keep[i] = p.MatchSample(c.Strings, set)
		}
	}
	return c
}

// only leaves the named profiles.
func (c *cut) only(ids []block.ID) {
	want := make(map[block.ID]bool, len(ids))
	for _, id := range ids {
		want[id] = true
	}
	parts := c.parts[:0]
	for _, p := range c.parts {
		p.entries = slices.DeleteFunc(slices.Clone(p.entries), func(e *entry) bool { return !want[e.id] })
		if len(p.entries) > 0 {
			parts = append(parts, p)
		}
	}
	c.parts = parts
}

// stacks is how many stacks all dictionaries have.
func (h *head) stacks() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	n := 0
	for _, t := range h.tenants {
		n += t.view.Stacks.Len()
	}
	return n
}

// find is the series that pass tests, in no order. It starts from the fewest
// that the index gives for one test, and runs each regular expression once for each distinct value.
func (t *tenant) find(tests []test) []*series {
	passed := make([]map[string]bool, len(tests))
	best, count := -1, len(t.series)
	for i := range tests {
		m := &tests[i]
		passed[i] = map[string]bool{"": m.match("")}
		n := 0
		for v, ss := range t.index[m.Name] {
			ok := m.match(v)
			passed[i][v] = ok
			if ok {
				n += len(ss)
			}
		}
		if !passed[i][""] && n < count {
			best, count = i, n
		}
	}
	var out []*series
	check := func(s *series) {
		for i := range tests {
			if !passed[i][s.labels.Get(tests[i].Name)] {
				return
			}
		}
		out = append(out, s)
	}
	if best < 0 {
		for _, s := range t.series {
			check(s)
		}
		return out
	}
	for v, ss := range t.index[tests[best].Name] {
		if passed[best][v] {
			for s := range ss {
				check(s)
			}
		}
	}
	return out
}

// columns is the columns of an entry that the query is about. One goroutine at a time.
func (c *cut) columns(s *shape) []int {
	cols, ok := c.cols[s]
	if ok {
		return cols
	}
	for i, text := range s.texts {
		if c.plan.MatchType(text) {
			cols = append(cols, i)
		}
	}
	c.cols[s] = cols
	return cols
}

// ask checks a question, waits for its turn, and takes the snapshot that it is answered from. done must be called.
func (db *DB) ask(ctx context.Context, q Query, oneType bool) (p *Plan, src source, done func(), err error) {
	if p, err = q.Plan(); err != nil {
		return nil, src, nil, err
	}
	if oneType && p.AnyType {
		return nil, src, nil, fmt.Errorf("%w: the question needs a profile type", ErrInvalid)
	}
	if err := db.open(ctx); err != nil {
		return nil, src, nil, err
	}
	leave, err := db.gate.enter(ctx, p.Tenant)
	if err != nil {
		return nil, src, nil, err
	}
	src, release := db.sources()
	return p, src, func() { release(); leave() }, nil
}

// Select is of [Store].
func (db *DB) Select(ctx context.Context, q Query) (*Result, error) {
	p, src, done, err := db.ask(ctx, q, true)
	if err != nil {
		return nil, err
	}
	defer done()
	g := NewGather(db.opt.QueryMemory)
	for _, h := range src.heads {
		if err := h.selectInto(ctx, p, g); err != nil {
			return nil, err
		}
	}
	if db.opt.Backend != nil {
		if err := db.opt.Backend.Select(ctx, p, src.exclude, g); err != nil {
			return nil, err
		}
	}
	r := g.Result(p)
	r.Warnings = append(db.warnings(), r.Warnings...)
	return r, nil
}

// selectInto adds what the head has.
func (h *head) selectInto(ctx context.Context, p *Plan, g *Gather) error {
	c := h.cut(p)
	if len(c.parts) == 0 {
		return nil
	}
	n := c.Stacks.Len()
	if err := g.Reserve(8 * int64(n)); err != nil {
		return err
	}
	defer g.Release(8 * int64(n))
	s := NewSums(n)
	for _, part := range c.parts {
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, e := range part.entries {
			for _, i := range c.columns(e.shape) {
				e.columns[i].addTo(s, c.keep)
				s.Profiles++
				s.From, s.To = min(s.From, e.from), max(s.To, e.to)
				s.Duration += cmp.Or(e.duration, e.to-e.from)
				s.Period, s.ShortestPeriod = max(s.Period, e.period), min(s.ShortestPeriod, e.period)
				s.Series[SeriesHash(part.name, part.labels)] = struct{}{}
			}
		}
	}
	if s.Profiles == 0 {
		return nil
	}
	return g.Add(&c.Tables, s)
}

// lines collects points by line and time.
type lines[P any] struct {
	labels map[string]profile.Labels
	points map[string]map[int64]*P
}

func newLines[P any]() *lines[P] {
	return &lines[P]{labels: map[string]profile.Labels{}, points: map[string]map[int64]*P{}}
}

func (l *lines[P]) at(name string, labels profile.Labels, at int64) *P {
	k := name + "\x00" + labels.String()
	m := l.points[k]
	if m == nil {
		m = map[int64]*P{}
		l.points[k], l.labels[k] = m, labels
	}
	pt := m[at]
	if pt == nil {
		pt = new(P)
		m[at] = pt
	}
	return pt
}

func compareLabels(a, b profile.Labels) int {
	return slices.CompareFunc(a, b, func(x, y profile.Label) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Value, y.Value))
	})
}

// groupNames checks and sorts the labels to group by.
func groupNames(by []string) ([]string, error) {
	for _, name := range by {
		if err := profile.CheckLabelName(name); err != nil {
			return nil, fmt.Errorf("%w: group by: %w", ErrInvalid, err)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(by))), nil
}

// Series is of [Store].
func (db *DB) Series(ctx context.Context, q SeriesQuery) (*SeriesResult, error) {
	if q.Step < time.Second {
		return nil, fmt.Errorf("%w: step is %v, it must be at least 1s", ErrInvalid, q.Step)
	}
	names, err := groupNames(q.GroupBy)
	if err != nil {
		return nil, err
	}
	p, src, done, err := db.ask(ctx, q.Query, true)
	if err != nil {
		return nil, err
	}
	defer done()
	all := newLines[Point]()
	add := func(labels profile.Labels, pt Point) {
		at := align(pt.Time.UnixNano(), int64(q.Step))
		to := all.at("", labels, at)
		to.Time = time.Unix(0, at).UTC()
		to.Value += pt.Value
		to.Profiles += pt.Profiles
	}
	for _, h := range src.heads {
		c := h.cut(p)
		for _, part := range c.parts {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			labels := GroupLabels(part.labels, p.Type.String(), names)
			for _, e := range part.entries {
				for _, i := range c.columns(e.shape) {
					add(labels, Point{Time: time.Unix(0, e.from), Value: e.columns[i].totalOf(c.keep), Profiles: 1})
				}
			}
		}
	}
	if db.opt.Backend != nil {
		if err := db.opt.Backend.Series(ctx, p, q.Step, names, src.exclude, add); err != nil {
			return nil, err
		}
	}
	r := &SeriesResult{Step: q.Step, Warnings: db.warnings()}
	for k, m := range all.points {
		l := SeriesLine{Labels: all.labels[k]}
		for _, at := range slices.Sorted(maps.Keys(m)) {
			l.Points = append(l.Points, *m[at])
		}
		r.Lines = append(r.Lines, l)
	}
	slices.SortFunc(r.Lines, func(a, b SeriesLine) int { return compareLabels(a.Labels, b.Labels) })
	return r, nil
}

// align is the multiple of step at or before t.
func align(t, step int64) int64 {
	m := t % step
	if m < 0 {
		m += step
	}
	return t - m
}

// catalog calls see for each series and type there is of q; more than once for one that lies in several places.
func (db *DB) catalog(ctx context.Context, q Query, see func(Known)) error {
	p, src, done, err := db.ask(ctx, q, false)
	if err != nil {
		return err
	}
	defer done()
	for _, h := range src.heads {
		c := h.cut(p)
		for _, part := range c.parts {
			if err := ctx.Err(); err != nil {
				return err
			}
			c.known(part, see)
		}
	}
	if db.opt.Backend == nil {
		return nil
	}
	return db.opt.Backend.Catalog(ctx, p, src.exclude, see)
}

// known is what there is of one series in the head: by shape, of which a series seldom has a second.
func (c *cut) known(p part, see func(Known)) {
	byShape := map[*shape]*Known{}
	for _, e := range p.entries {
		k := byShape[e.shape]
		if k == nil {
			k = &Known{First: math.MaxInt64, Last: math.MinInt64}
			byShape[e.shape] = k
		}
		k.Profiles++
		k.First, k.Last = min(k.First, e.from), max(k.Last, e.to)
	}
	for s, k := range byShape {
		for _, i := range c.columns(s) {
			see(Known{Name: p.name, Labels: p.labels, Type: s.types[i], Profiles: k.Profiles, First: k.First, Last: k.Last})
		}
	}
}

// ProfileTypes is of [Store].
func (db *DB) ProfileTypes(ctx context.Context, q Query) ([]profile.Type, error) {
	found := map[string]profile.Type{}
	err := db.catalog(ctx, q, func(k Known) { found[k.Type.String()] = k.Type })
	if err != nil {
		return nil, err
	}
	types := make([]profile.Type, 0, len(found))
	for _, k := range slices.Sorted(maps.Keys(found)) {
		types = append(types, found[k])
	}
	return types, nil
}

// LabelNames is of [Store].
func (db *DB) LabelNames(ctx context.Context, q Query) ([]string, error) {
	found := map[string]bool{}
	err := db.catalog(ctx, q, func(k Known) {
		found[profile.LabelType] = true
		for _, l := range k.Labels {
			found[l.Name] = true
		}
	})
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// LabelValues is of [Store].
func (db *DB) LabelValues(ctx context.Context, name string, q Query) ([]string, error) {
	if err := profile.CheckLabelName(name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	found := map[string]bool{}
	err := db.catalog(ctx, q, func(k Known) {
		if name == profile.LabelType {
			found[k.Type.String()] = true
		} else if v := k.Labels.Get(name); v != "" {
			found[v] = true
		}
	})
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// LabelSets is of [Store].
func (db *DB) LabelSets(ctx context.Context, q Query) ([]Known, error) {
	found := map[string]*Known{}
	err := db.catalog(ctx, q, func(k Known) {
		id := k.Type.String() + "\x00" + k.Labels.String()
		have := found[id]
		if have == nil {
			found[id] = &k
			return
		}
		have.Profiles += k.Profiles
		have.First, have.Last = min(have.First, k.First), max(have.Last, k.Last)
	})
	if err != nil {
		return nil, err
	}
	out := make([]Known, 0, len(found))
	for _, id := range slices.Sorted(maps.Keys(found)) {
		out = append(out, *found[id])
	}
	return out, nil
}

// Services is of [Store].
func (db *DB) Services(ctx context.Context, q Query) ([]Service, error) {
	all, err := db.LabelSets(ctx, q)
	if err != nil {
		return nil, err
	}
	type service struct {
		types               map[string]profile.Type
		versions, instances map[string]bool
		profiles            map[string]int // by series: of its types the one with the most profiles
		first, last         int64
	}
	found := map[string]*service{}
	for _, k := range all {
		name := k.Labels.Get(profile.LabelService)
		s := found[name]
		if s == nil {
			s = &service{map[string]profile.Type{}, map[string]bool{}, map[string]bool{}, map[string]int{}, math.MaxInt64, math.MinInt64}
			found[name] = s
		}
		s.types[k.Type.String()] = k.Type
		if v := k.Labels.Get(profile.LabelVersion); v != "" {
			s.versions[v] = true
		}
		if v := k.Labels.Get(profile.LabelInstance); v != "" {
			s.instances[v] = true
		}
		id := seriesKey(k.Name, k.Labels)
		s.profiles[id] = max(s.profiles[id], k.Profiles)
		s.first, s.last = min(s.first, k.First), max(s.last, k.Last)
	}
	out := make([]Service, 0, len(found))
	for _, name := range slices.Sorted(maps.Keys(found)) {
		s := found[name]
		svc := Service{Name: name, Versions: slices.Sorted(maps.Keys(s.versions)), Instances: len(s.instances),
			First: time.Unix(0, s.first).UTC(), Last: time.Unix(0, s.last).UTC()}
		for _, n := range s.profiles {
			svc.Profiles += n
		}
		for _, k := range slices.Sorted(maps.Keys(s.types)) {
			svc.Types = append(svc.Types, s.types[k])
		}
		out = append(out, svc)
	}
	return out, nil
}
