package store

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// part is what a query takes of one series.
type part struct {
	name    string
	labels  profile.Labels
	entries []*entry
}

// cut is what a query works on: it stays as it is whatever happens to the head.
type cut struct {
	tables
	parts []part
	plan  *Plan
	cols  map[*shape][]int
}

// cut finds the profiles of a query.
func (h *head) cut(p *Plan) *cut {
	c := &cut{plan: p, cols: map[*shape][]int{}}
	h.mu.RLock()
	defer h.mu.RUnlock()
	t := h.tenants[p.Tenant]
	if t == nil {
		return c
	}
	c.tables = t.view
	for _, s := range t.find(p.tests) {
		after := func(x *entry, from int64) int { return cmp.Compare(x.from, from) }
		lo, _ := slices.BinarySearchFunc(s.entries, p.From, after)
		hi, _ := slices.BinarySearchFunc(s.entries, p.To, after)
		if lo < hi {
			c.parts = append(c.parts, part{s.name, s.labels, s.entries[lo:hi:hi]})
		}
	}
	return c
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
	for i, t := range s.types {
		if !c.plan.AnyType && t != c.plan.Type {
			continue
		}
		if slices.ContainsFunc(c.plan.types, func(m test) bool { return !m.match(s.texts[i]) }) {
			continue
		}
		cols = append(cols, i)
	}
	c.cols[s] = cols
	return cols
}

// picked is one profile of a query, with the one column it is about.
type picked struct {
	e *entry
	c *column
}

// Select is of [Store].
func (db *DB) Select(ctx context.Context, q Query) (*Result, error) {
	p, err := q.Plan()
	if err == nil && p.AnyType {
		err = fmt.Errorf("%w: select needs a profile type", ErrInvalid)
	}
	if err == nil {
		err = db.open(ctx)
	}
	if err != nil {
		return nil, err
	}
	c := db.head.cut(p)
	r := &Result{Warnings: db.warnings()}
	var all []picked
	from, to := int64(math.MaxInt64), int64(math.MinInt64)
	var duration, period int64
	periods := false
	for _, part := range c.parts {
		n := len(all)
		for _, e := range part.entries {
			for _, i := range c.columns(e.shape) {
				if len(all) > 0 && e.period != period {
					periods = true
				}
				all = append(all, picked{e, &e.columns[i]})
				from, to = min(from, e.from), max(to, e.to)
				duration += cmp.Or(e.duration, e.to-e.from)
				period = max(period, e.period)
			}
		}
		if len(all) > n {
			r.Series++
		}
	}
	if periods {
		r.Warnings = append(r.Warnings, "The profiles were sampled at different periods: counts of samples do not compare, sums of time and bytes do.")
	}
	total, err := sum(ctx, all, c.stacks.Len())
	if err != nil {
		return nil, err
	}
	r.Profile = c.build(total)
	r.Profile.SampleTypes = []profile.ValueType{p.Type.Sample}
	r.Profile.DefaultSampleType = p.Type.Sample.Type
	r.Profile.PeriodType, r.Profile.Period = p.Type.Period, period
	if r.Profiles = len(all); len(all) > 0 {
		r.From, r.To = time.Unix(0, from).UTC(), time.Unix(0, to).UTC()
		r.Profile.TimeNanos, r.Profile.DurationNanos = from, duration
	}
	return r, nil
}

// sum adds the columns, on several cores where there is enough of them.
func sum(ctx context.Context, all []picked, stacks int) (*sums, error) {
	bytes := 0
	for _, p := range all {
		bytes += len(p.c.data)
	}
	// A worker costs an array over all stacks, made and added up.
	workers := max(1, min(runtime.GOMAXPROCS(0), bytes/(1<<20), bytes/(8*stacks+1)))
	parts := make([]sums, workers)
	var wg sync.WaitGroup
	for w := range parts {
		share := all[len(all)*w/workers : len(all)*(w+1)/workers]
		wg.Go(func() {
			s := &parts[w]
			s.dense = make([]int64, stacks)
			for i := range share {
				if i%64 == 0 && ctx.Err() != nil {
					return
				}
				s.add(share[i].c)
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for i := 1; i < workers; i++ {
		parts[0].merge(&parts[i])
	}
	return &parts[0], nil
}

// build is the profile of the sums, with only what they use: one pass backwards
// marks the stacks above each sample, one pass forwards gives new numbers.
func (c *cut) build(s *sums) *profile.Profile {
	p := &profile.Profile{
		Strings:   []string{""},
		Mappings:  []profile.Mapping{{}},
		Stacks:    profile.Stacks{Parent: []uint32{0}, Loc: []uint32{0}},
		LabelSets: [][]profile.SampleLabel{nil},
		Values:    [][]int64{nil},
	}
	n := c.stacks.Len()
	if n == 0 {
		return p
	}
	type labelledSum struct {
		key   uint64
		value int64
	}
	var labelled []labelledSum
	used := make([]bool, n)
	for _, slot := range s.labelled.slots {
		if slot.key != 0 && s.values[slot.val] != 0 {
			labelled = append(labelled, labelledSum{slot.key - 1, s.values[slot.val]})
			used[uint32(slot.key-1)] = true
		}
	}
	slices.SortFunc(labelled, func(a, b labelledSum) int { return cmp.Compare(a.key, b.key) })
	for i := n - 1; i > 0; i-- {
		if s.dense[i] != 0 {
			used[i] = true
		}
		if used[i] {
			used[c.stacks.Parent[i]] = true
		}
	}
	r := renumberer{from: &c.tables, to: p,
		strings: make([]uint32, len(c.strings)), functions: make([]uint32, len(c.functions)),
		locations: make([]uint32, len(c.locations)), mappings: make([]uint32, len(c.mappings))}
	now := make([]uint32, n)
	for i := 1; i < n; i++ {
		if used[i] {
			now[i] = uint32(p.Stacks.Len())
			p.Stacks.Parent = append(p.Stacks.Parent, now[c.stacks.Parent[i]])
			p.Stacks.Loc = append(p.Stacks.Loc, r.location(c.stacks.Loc[i]))
		}
	}
	for i, v := range s.dense {
		if v != 0 {
			p.SampleStack = append(p.SampleStack, now[i])
			p.SampleLabels = append(p.SampleLabels, 0)
			p.Values[0] = append(p.Values[0], v)
		}
	}
	last, set := uint64(0), uint32(0)
	for _, l := range labelled {
		if l.key>>32 != last {
			last, set = l.key>>32, uint32(len(p.LabelSets))
			own := slices.Clone(c.labelSets[last])
			for i, x := range own {
				own[i] = profile.SampleLabel{Key: r.string(x.Key), Str: r.string(x.Str), Num: x.Num, Unit: r.string(x.Unit)}
			}
			p.LabelSets = append(p.LabelSets, own)
		}
		p.SampleStack = append(p.SampleStack, now[uint32(l.key)])
		p.SampleLabels = append(p.SampleLabels, set)
		p.Values[0] = append(p.Values[0], l.value)
	}
	return p
}

// renumberer copies what a profile uses out of the tables. Its slices hold new
// numbers plus 1.
type renumberer struct {
	from                                    *tables
	to                                      *profile.Profile
	strings, functions, locations, mappings []uint32
}

func (r *renumberer) string(i uint32) uint32 {
	if i == 0 {
		return 0
	}
	if r.strings[i] == 0 {
		r.to.Strings = append(r.to.Strings, r.from.strings[i])
		r.strings[i] = uint32(len(r.to.Strings))
	}
	return r.strings[i] - 1
}

func (r *renumberer) location(i uint32) uint32 {
	if r.locations[i] == 0 {
		l := r.from.locations[i]
		lines := r.from.lines[l.FirstLine : l.FirstLine+l.NumLines]
		l.FirstLine, l.Mapping = uint32(len(r.to.Lines)), r.mapping(l.Mapping)
		for _, ln := range lines {
			ln.Function = r.function(ln.Function)
			r.to.Lines = append(r.to.Lines, ln)
		}
		r.to.Locations = append(r.to.Locations, l)
		r.locations[i] = uint32(len(r.to.Locations))
	}
	return r.locations[i] - 1
}

func (r *renumberer) function(i uint32) uint32 {
	if r.functions[i] == 0 {
		f := r.from.functions[i]
		r.to.Functions = append(r.to.Functions, profile.Function{Name: r.string(f.Name), SystemName: r.string(f.SystemName),
			File: r.string(f.File), StartLine: f.StartLine})
		r.functions[i] = uint32(len(r.to.Functions))
	}
	return r.functions[i] - 1
}

func (r *renumberer) mapping(i uint32) uint32 {
	if i == 0 {
		return 0
	}
	if r.mappings[i] == 0 {
		m := r.from.mappings[i]
		m.File, m.BuildID = r.string(m.File), r.string(m.BuildID)
		r.to.Mappings = append(r.to.Mappings, m)
		r.mappings[i] = uint32(len(r.to.Mappings))
	}
	return r.mappings[i] - 1
}

// Series is of [Store].
func (db *DB) Series(ctx context.Context, q SeriesQuery) (*SeriesResult, error) {
	p, err := q.Plan()
	switch {
	case err != nil:
	case p.AnyType:
		err = fmt.Errorf("%w: series needs a profile type", ErrInvalid)
	case q.Step < time.Second:
		err = fmt.Errorf("%w: step is %v, it must be at least 1s", ErrInvalid, q.Step)
	default:
		err = db.open(ctx)
	}
	if err != nil {
		return nil, err
	}
	for _, name := range q.GroupBy {
		if err := profile.CheckLabelName(name); err != nil {
			return nil, fmt.Errorf("%w: group by: %w", ErrInvalid, err)
		}
	}
	names := slices.Compact(slices.Sorted(slices.Values(q.GroupBy)))
	c := db.head.cut(p)
	type line struct {
		labels profile.Labels
		points map[int64]*Point
	}
	lines := map[string]*line{}
	for _, part := range c.parts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var labels profile.Labels
		for _, name := range names {
			v := part.labels.Get(name)
			if name == profile.LabelType {
				v = p.Type.String()
			}
			if v != "" {
				labels = append(labels, profile.Label{Name: name, Value: v})
			}
		}
		for _, e := range part.entries {
			for _, i := range c.columns(e.shape) {
				k := labels.String()
				l := lines[k]
				if l == nil {
					l = &line{labels, map[int64]*Point{}}
					lines[k] = l
				}
				at := align(e.from, int64(q.Step))
				pt := l.points[at]
				if pt == nil {
					pt = &Point{Time: time.Unix(0, at).UTC()}
					l.points[at] = pt
				}
				pt.Value += e.columns[i].total
				pt.Profiles++
			}
		}
	}
	r := &SeriesResult{Step: q.Step, Warnings: db.warnings()}
	for _, l := range lines {
		sl := SeriesLine{Labels: l.labels}
		for _, at := range slices.Sorted(maps.Keys(l.points)) {
			sl.Points = append(sl.Points, *l.points[at])
		}
		r.Lines = append(r.Lines, sl)
	}
	slices.SortFunc(r.Lines, func(a, b SeriesLine) int {
		return slices.CompareFunc(a.Labels, b.Labels, func(x, y profile.Label) int {
			return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Value, y.Value))
		})
	})
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

// visit calls see once for each series and shape of q.
func (db *DB) visit(ctx context.Context, q Query, see func(part, *shape, []int)) error {
	p, err := q.Plan()
	if err == nil {
		err = db.open(ctx)
	}
	if err != nil {
		return err
	}
	c := db.head.cut(p)
	for _, part := range c.parts {
		if err := ctx.Err(); err != nil {
			return err
		}
		var last *shape
		for _, e := range part.entries {
			if e.shape == last {
				continue // a series seldom has a second
			}
			last = e.shape
			if cols := c.columns(e.shape); len(cols) > 0 {
				see(part, e.shape, cols)
			}
		}
	}
	return nil
}

// ProfileTypes is of [Store].
func (db *DB) ProfileTypes(ctx context.Context, q Query) ([]profile.Type, error) {
	found := map[string]profile.Type{}
	err := db.visit(ctx, q, func(_ part, s *shape, cols []int) {
		for _, i := range cols {
			found[s.texts[i]] = s.types[i]
		}
	})
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
	err := db.visit(ctx, q, func(p part, _ *shape, _ []int) {
		found[profile.LabelType] = true
		for _, l := range p.labels {
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
	err := db.visit(ctx, q, func(p part, s *shape, cols []int) {
		if name == profile.LabelType {
			for _, i := range cols {
				found[s.texts[i]] = true
			}
		} else if v := p.labels.Get(name); v != "" {
			found[v] = true
		}
	})
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// Services is of [Store].
func (db *DB) Services(ctx context.Context, q Query) ([]Service, error) {
	p, err := q.Plan()
	if err == nil {
		err = db.open(ctx)
	}
	if err != nil {
		return nil, err
	}
	type service struct {
		types               map[string]profile.Type
		versions, instances map[string]bool
		profiles            int
		first, last         int64
	}
	found := map[string]*service{}
	c := db.head.cut(p)
	for _, part := range c.parts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for _, e := range part.entries {
			cols := c.columns(e.shape)
			if len(cols) == 0 {
				continue
			}
			name := part.labels.Get(profile.LabelService)
			s := found[name]
			if s == nil {
				s = &service{map[string]profile.Type{}, map[string]bool{}, map[string]bool{}, 0, math.MaxInt64, math.MinInt64}
				found[name] = s
			}
			for _, i := range cols {
				s.types[e.shape.texts[i]] = e.shape.types[i]
			}
			if v := part.labels.Get(profile.LabelVersion); v != "" {
				s.versions[v] = true
			}
			if v := part.labels.Get(profile.LabelInstance); v != "" {
				s.instances[v] = true
			}
			s.profiles++
			s.first, s.last = min(s.first, e.from), max(s.last, e.to)
		}
	}
	out := make([]Service, 0, len(found))
	for _, name := range slices.Sorted(maps.Keys(found)) {
		s := found[name]
		svc := Service{Name: name, Versions: slices.Sorted(maps.Keys(s.versions)), Instances: len(s.instances), Profiles: s.profiles,
			First: time.Unix(0, s.first).UTC(), Last: time.Unix(0, s.last).UTC()}
		for _, k := range slices.Sorted(maps.Keys(s.types)) {
			svc.Types = append(svc.Types, s.types[k])
		}
		out = append(out, svc)
	}
	return out, nil
}
