package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// How often the parts of a look are done, where profiles come all the time. The scan for changes is part of each look.
const (
	catalogEvery = 30 * time.Second
	compareEvery = 10 * time.Second
	wasteEvery   = 15 * time.Second
	nowEvery     = time.Minute
	trendEvery   = 10 * time.Minute

	// compareQ is the level at which versions that run beside each other are told apart. It is asked again and again, and each look is
	// another chance to be wrong: 0.05 over all looks of a day.
	compareQ = 0.05 * float64(compareEvery) / float64(24*time.Hour)

	recent      = 10 * time.Minute // what hot spots, waste and versions side by side are judged by
	leastBeside = 30 * time.Second // that two versions must have run beside each other
	replicates  = 16               // instances of a version that are compared, at most
	minShare    = 0.0005           // of the window's total that a function must have to be followed
)

// catalog is what there is of a service.
type catalog struct {
	types     map[string]profile.Type // by "name:sample type"
	instances []instance
	machines  []profile.Labels // of the instances, to price by
	last      time.Time        // end of the last window
}

type instance struct {
	name, version string
	labels        profile.Labels
	first, last   time.Time
}

// typ is the type of a profile's sample type, if there is one.
func (c *catalog) typ(name, sample string) (profile.Type, bool) {
	t, ok := c.types[name+":"+sample]
	return t, ok
}

func (l *leader) catalog(ctx context.Context, s *subject, at time.Time) error {
	sets, err := l.w.opt.Store.LabelSets(ctx, l.query(s, profile.Type{}, at.Add(-24*time.Hour), at))
	if err != nil {
		return fmt.Errorf("watch: %s: %w", s.service, err)
	}
	c := catalog{types: map[string]profile.Type{}}
	by := map[string]*instance{}
	for _, k := range sets {
		c.types[k.Name+":"+k.Type.Sample.Type] = k.Type
		first, last := time.Unix(0, k.First).UTC(), time.Unix(0, k.Last).UTC()
		if last.After(c.last) {
			c.last = last
		}
		name, version := k.Labels.Get(profile.LabelInstance), k.Labels.Get(profile.LabelVersion)
		i := by[name+"\x00"+version]
		if i == nil {
			i = &instance{name: name, version: version, labels: k.Labels, first: first, last: last}
			by[name+"\x00"+version] = i
		}
		i.first = minTime(i.first, first)
		if last.After(i.last) {
			i.last = last
		}
	}
	for _, i := range by {
		c.instances = append(c.instances, *i)
	}
	slices.SortFunc(c.instances, func(a, b instance) int {
		return cmp.Or(cmp.Compare(a.version, b.version), a.first.Compare(b.first), cmp.Compare(a.name, b.name))
	})
	for _, i := range c.instances {
		if c.last.Sub(i.last) < recent {
			c.machines = append(c.machines, i.labels)
		}
	}
	s.known, s.catalogedAt = c, at
	return nil
}

func (l *leader) query(s *subject, t profile.Type, from, to time.Time, more ...store.Matcher) store.Query {
	return store.Query{Tenant: s.tenant, Type: t, From: from, To: to,
		Matchers: append([]store.Matcher{{Name: profile.LabelService, Op: store.MatchEqual, Value: s.service}}, more...)}
}

func equal(name, value string) store.Matcher {
	return store.Matcher{Name: name, Op: store.MatchEqual, Value: value}
}

// times says whether a part is due, by the time of the profiles: a backlog is looked at as often as it would have been.
func (s *subject) times(part string, every time.Duration, at time.Time) bool {
	if last, ok := s.every[part]; ok && at.Sub(last) < every && !at.Before(last) {
		return false
	}
	s.every[part] = at
	return true
}

// look looks at a service as it is at a moment, and keeps what it finds.
func (l *leader) look(ctx context.Context, s *subject, at time.Time) error {
	w := l.w
	if at.Sub(s.catalogedAt) >= catalogEvery || at.Before(s.catalogedAt) || len(s.known.types) == 0 {
		if err := l.catalog(ctx, s, at); err != nil {
			return err
		}
	}
	if err := l.refresh(ctx, s, at); err != nil {
		return err
	}
	look := Look{Tenant: s.tenant, Service: s.service, At: at}
	for _, part := range []struct {
		name  string
		every time.Duration
		kinds []analyze.Kind
		do    func(ctx context.Context, s *subject, at time.Time) (found []analyze.Finding, enough bool, err error)
	}{
		{"changes", 0, nil, l.changes},
		{"figures", figuresEvery, nil, l.figures},
		{"versions", compareEvery, nil, l.versions},
		{"waste", wasteEvery, wasteKinds, l.waste},
		{"transitions", time.Minute, []analyze.Kind{analyze.Transition}, l.transitions},
		{"anomalies", wasteEvery, []analyze.Kind{analyze.Anomaly}, l.anomalies},
		{"trend", trendEvery, nil, l.trend},
	} {
		if !s.times(part.name, part.every, at) {
			look.Found = append(look.Found, s.last[part.name]...)
			continue
		}
		var found []analyze.Finding
		enough := false
		err := safely(func() (err error) {
			found, enough, err = part.do(ctx, s, at)
			return err
		})
		var p *poisoned
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &p), errors.Is(err, store.ErrCorrupt), errors.Is(err, store.ErrTooLarge), errors.Is(err, store.ErrInvalid), errors.Is(err, errPart):
			// Neither another try nor waiting would help: this part goes without.
			l.poison(s, part.name, at, err)
			found, enough = nil, false
		default:
			return fmt.Errorf("watch: %s of %s: %w", part.name, s.service, err)
		}
		s.last[part.name] = found
		look.Found = append(look.Found, found...)
		if enough {
			look.Looked = append(look.Looked, part.kinds...)
		}
	}
	for i := range look.Found {
		w.opt.Price(&look.Found[i], s.known.machines)
	}
	if err := l.keep(ctx, s, look); err != nil {
		return err
	}
	s.to = minTime(at, s.known.last)
	clear(s.dirty)
	return nil
}

// errPart marks an error of a pure function on some profiles.
var errPart = errors.New("cannot be analysed")

// poison sets aside what a part stumbled over: the minutes that came last, which are a gap from now on.
func (l *leader) poison(s *subject, part string, at time.Time, err error) {
	a := Aside{Tenant: s.tenant, Service: s.service, Reason: part + ": " + err.Error()}
	var p *poisoned
	if errors.As(err, &p) {
		l.w.opt.Logger.Error("a fault in the analysis", "service", s.service, "part", part, "error", p.what, "stack", p.stack)
	}
	for m := range s.dirty {
		from, to := time.Unix(m*60, 0).UTC(), time.Unix(m*60+60, 0).UTC()
		if a.From.IsZero() || from.Before(a.From) {
			a.From = from
		}
		if to.After(a.To) {
			a.To = to
		}
	}
	if part == "changes" && !a.From.IsZero() {
		for _, r := range s.rings {
			if lo, hi := max(0, r.index(a.From)), min(r.cols, r.index(a.To)); lo < hi {
				r.blank(lo, hi)
			}
		}
	}
	l.w.setAside(a)
}

// followed are the types whose functions are followed, by name and sample type, and what one sample is worth.
var followed = []struct{ name, sample string }{
	{"process_cpu", "cpu"}, {"memory", "alloc_space"}, {"mutex", "delay"}, {"lock", "wait"},
}

// refresh reads the columns that have changed.
func (l *leader) refresh(ctx context.Context, s *subject, at time.Time) error {
	cols := int(l.w.opt.Window / column)
	end := at.Truncate(column)
	if !end.Equal(at) {
		end = end.Add(column)
	}
	lo, hi := int64(0), int64(0)
	for m := range s.dirty {
		if lo == hi {
			lo, hi = m, m+1
		}
		lo, hi = min(lo, m), max(hi, m+1)
	}
	for _, f := range followed {
		t, ok := s.known.typ(f.name, f.sample)
		if !ok {
			continue
		}
		r := s.rings[t.String()]
		from, to := time.Unix(lo*60, 0).UTC(), time.Unix(hi*60, 0).UTC()
		if r == nil {
			r = newRing(t, end, cols)
			s.rings[t.String()] = r
			from, to = r.start, r.end()
		}
		r.shift(end)
		if from.Before(r.start) {
			from = r.start
		}
		if to.After(r.end()) {
			to = r.end()
		}
		if !to.After(from) {
			continue
		}
		res, err := l.w.opt.Store.Rollup(ctx, store.RollupQuery{Query: l.query(s, t, from, to), Step: column})
		switch {
		case errors.Is(err, store.ErrTooLarge), errors.Is(err, store.ErrCorrupt):
			l.w.setAside(Aside{Tenant: s.tenant, Service: s.service, Type: t.String(), From: from, To: to, Reason: err.Error()})
			continue
		case err != nil:
			return fmt.Errorf("watch: %s: %w", s.service, err)
		}
		r.put(res, l.w.opt.MaxSeries)
		for _, i := range r.bad() {
			at := r.start.Add(time.Duration(i) * column)
			if s.bad[at] {
				continue // it is known
			}
			s.bad[at] = true
			l.w.setAside(Aside{Tenant: s.tenant, Service: s.service, Type: t.String(), From: at, To: at.Add(column), Reason: "a profile of this minute has negative values"})
		}
	}
	return nil
}

// selectSum is all samples of a type in a range. nil where there are none.
func (l *leader) selectSum(ctx context.Context, s *subject, name, sample string, from, to time.Time, more ...store.Matcher) (*store.Result, error) {
	t, ok := s.known.typ(name, sample)
	if !ok {
		return nil, nil
	}
	res, err := l.w.opt.Store.Select(ctx, l.query(s, t, from, to, more...))
	if err != nil || res.Profiles == 0 {
		return nil, err
	}
	return res, nil
}

// versions compares versions that run side by side.
func (l *leader) versions(ctx context.Context, s *subject, at time.Time) ([]analyze.Finding, bool, error) {
	type version struct {
		name  string
		first time.Time
		on    []instance
	}
	by := map[string]*version{}
	var all []*version
	for _, i := range s.known.instances {
		if i.version == "" {
			continue
		}
		v := by[i.version]
		if v == nil {
			v = &version{name: i.version, first: i.first}
			by[i.version] = v
			all = append(all, v)
		}
		v.first = minTime(v.first, i.first)
		if at.Sub(i.last) < 3*time.Minute { // it is still there
			v.on = append(v.on, i)
		}
	}
	all = slices.DeleteFunc(all, func(v *version) bool { return len(v.on) == 0 })
	if len(all) < 2 {
		return nil, false, nil
	}
	// The older is what the newer is measured by. Two that came at once go by their names.
	slices.SortFunc(all, func(a, b *version) int {
		if d := a.first.Sub(b.first); max(d, -d) > 2*time.Minute {
			return a.first.Compare(b.first)
		}
		return cmp.Compare(a.name, b.name)
	})
	t, ok := s.known.typ("process_cpu", "cpu")
	if !ok {
		return nil, false, nil
	}
	base := all[0]
	var found []analyze.Finding
	for _, head := range all[max(1, len(all)-3):] {
		from := at.Add(-recent)
		for _, v := range []*version{base, head} {
			if v.first.After(from) {
				from = v.first
			}
		}
		from, to := s.clean(from, at)
		if to.Sub(from) < leastBeside {
			continue
		}
		var sides [2]analyze.Cohort
		for n, v := range []*version{base, head} {
			sides[n].Name = v.name
			for _, i := range v.on[:min(len(v.on), replicates)] {
				res, err := l.selectSum(ctx, s, "process_cpu", "cpu", from, to, equal(profile.LabelVersion, v.name), equal(profile.LabelInstance, i.name))
				if err != nil {
					return nil, false, err
				}
				if res != nil {
					sides[n].Replicates = append(sides[n].Replicates, analyze.Replicate{Name: i.name, Profile: res.Profile, Seconds: res.To.Sub(res.From).Seconds()})
				}
			}
		}
		c, err := analyze.Compare(sides[0], sides[1], analyze.CompareOptions{Q: compareQ})
		if errors.Is(err, analyze.ErrNothingToCompare) {
			continue
		}
		if err != nil {
			return nil, false, fmt.Errorf("%w: %w", errPart, err)
		}
		found = append(found, outstanding(c.Findings(s.service, analyze.ComparisonContext{Cores: cores(sides), Type: t, From: from, To: to, Since: head.first, Label: profile.LabelVersion, Base: base.name, Head: head.name}))...)
	}
	return found, true, nil
}

// outstanding are the findings of one comparison that stand beside its largest regression. A version that takes much more somewhere answers
// fewer requests, waits elsewhere and for longer, and so does a little less, or more, of everything: what is a tenth of the regression, and
// of what fell less than half, is more likely that than another change.
func outstanding(found []analyze.Finding) []analyze.Finding {
	var largest float64
	for i := range found {
		if found[i].Kind == analyze.Regression {
			largest = max(largest, found[i].Change.Value)
		}
	}
	return slices.DeleteFunc(found, func(f analyze.Finding) bool {
		if f.Kind == analyze.Regression {
			return f.Change.Value < largest/10
		}
		return -f.Change.Value < largest/2
	})
}

// cores is what the instances of both sides keep busy; less than 0 is unknown.
func cores(sides [2]analyze.Cohort) (n float64) {
	for _, side := range sides {
		for _, r := range side.Replicates {
			if r.Seconds <= 0 {
				return -1
			}
			n += float64(r.Profile.Total(r.Column)) / 1e9 / r.Seconds
		}
	}
	return n
}

// wasteKinds are what [analyze.Waste] finds.
var wasteKinds = []analyze.Kind{analyze.HotSpot, analyze.GCPressure, analyze.AllocHotLoop, analyze.Contention, analyze.Blocking, analyze.GoroutineGrowth, analyze.GoroutineLeak, analyze.Recursion, analyze.Repeated}

// waste looks for what takes much, or is spent for nothing, in the last minutes.
func (l *leader) waste(ctx context.Context, s *subject, at time.Time) ([]analyze.Finding, bool, error) {
	from, to := s.clean(at.Add(-recent), at)
	snap, err := l.snapshot(ctx, s, from, to, nil)
	if err != nil || snap == nil {
		return nil, false, err
	}
	if err := l.perInstance(ctx, s, snap); err != nil {
		return nil, false, err
	}
	found, err := analyze.Waste(*snap, analyze.WasteOptions{})
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", errPart, err)
	}
	return found, snap.To.Sub(snap.From) >= time.Minute, nil
}

func maxTime(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// snapshot is the profiles of a range, summed: those that are named, or all. nil is that there are none.
func (l *leader) snapshot(ctx context.Context, s *subject, from, to time.Time, names []string, more ...store.Matcher) (*analyze.Snapshot, error) {
	snap := &analyze.Snapshot{Service: s.service, From: from, To: to, Types: map[string]profile.Type{}}
	var first time.Time
	for _, part := range []struct {
		name    string
		samples []string
		to      *analyze.Profiles
		count   *int
	}{
		{"process_cpu", []string{"cpu"}, &snap.CPU, nil},
		{"memory", []string{"alloc_space", "alloc_objects", "inuse_space"}, &snap.Memory, nil},
		{"goroutine", []string{"goroutine", "goroutines"}, &snap.Goroutines, &snap.GoroutineSnapshots},
		{"mutex", []string{"contentions", "delay"}, &snap.Mutex, nil},
		{"block", []string{"contentions", "delay"}, &snap.Block, nil},
		{"lock", []string{"contentions", "wait", "acquisitions", "hold"}, &snap.Locks, nil},
		{"goroutineleak", []string{"goroutineleak"}, &snap.Leak, &snap.LeakSnapshots},
		{"runtime", []string{"process_cpu", "gc_cpu", "heap_live", "heap_goal", "memory", "memory_limit", "goroutines", "gomaxprocs", "sched_latency", "sched_latency_time", "mutex_wait", "windows"}, &snap.Runtime, nil},
	} {
		if names != nil && !slices.Contains(names, part.name) {
			continue
		}
		for _, sample := range part.samples {
			res, err := l.selectSum(ctx, s, part.name, sample, from, to, more...)
			if err != nil {
				return nil, err
			}
			if res == nil {
				continue
			}
			*part.to = append(*part.to, res.Profile)
			if t, ok := s.known.typ(part.name, sample); ok {
				snap.Types[sample] = t
			}
			if part.count != nil {
				*part.count = res.Profiles
			}
			if first.IsZero() || res.From.Before(first) {
				first = res.From
			}
			for _, warn := range res.Warnings {
				if !slices.Contains(snap.Warnings, warn) {
					snap.Warnings = append(snap.Warnings, warn)
				}
			}
		}
	}
	if first.IsZero() {
		return nil, nil
	}
	snap.From = maxTime(from, first)
	for _, i := range s.known.instances {
		if i.last.After(snap.From) && !i.first.After(to) {
			snap.Instances++
		}
	}
	if snap.Instances == 0 || !snap.To.After(snap.From) {
		return nil, nil
	}
	return snap, nil
}

// perInstance adds each process over time. The range is longer than the rest: growth takes its time.
func (l *leader) perInstance(ctx context.Context, s *subject, snap *analyze.Snapshot) error {
	by := map[string]*analyze.InstanceTables{}
	var names []string
	for _, part := range []struct {
		name, sample string
		minShare     float64
		to           func(*analyze.InstanceTables) **analyze.Table
	}{
		{"process_cpu", "cpu", 0.005, func(i *analyze.InstanceTables) **analyze.Table { return &i.CPU }},
		{"goroutine", "goroutine", 0.005, func(i *analyze.InstanceTables) **analyze.Table { return &i.Goroutines }},
	} {
		t, ok := s.known.typ(part.name, part.sample)
		if !ok {
			continue
		}
		groups, err := l.tables(ctx, s, t, snap.To.Add(-time.Hour), snap.To, part.minShare, profile.LabelInstance)
		if err != nil {
			return err
		}
		for _, g := range groups {
			name := g.Labels.String()
			i := by[name]
			if i == nil {
				i = &analyze.InstanceTables{Labels: g.Labels}
				by[name] = i
				names = append(names, name)
			}
			*part.to(i) = g.Table
		}
	}
	slices.Sort(names)
	for _, n := range names {
		snap.PerInstance = append(snap.PerInstance, *by[n])
	}
	return nil
}

// tables are a type's functions over time by groups.
func (l *leader) tables(ctx context.Context, s *subject, t profile.Type, from, to time.Time, minShare float64, by ...string) ([]analyze.Group, error) {
	res, err := l.w.opt.Store.Rollup(ctx, store.RollupQuery{Query: l.query(s, t, from.Truncate(column), to.Add(column-1).Truncate(column)), Step: column, GroupBy: by, MinShare: minShare})
	if err != nil {
		return nil, err
	}
	groups := make([]analyze.Group, len(res.Groups))
	for i := range res.Groups {
		groups[i] = analyze.Group{Labels: res.Groups[i].Labels, Table: tableOf(s.service, t, res, i)}
	}
	return groups, nil
}

func tableOf(service string, typ profile.Type, res *store.RollupResult, group int) *analyze.Table {
	g := &res.Groups[group]
	t := &analyze.Table{Service: service, Type: typ, Start: res.Start, Step: res.Step, Unit: unitOf(typ), Total: make([]float64, res.Steps), Profiles: g.Profiles, Instances: g.Instances}
	for i, v := range g.Total {
		t.Total[i] = float64(v)
	}
	for i := range g.Functions {
		f := &g.Functions[i]
		s := analyze.Series{Function: f.Name, Self: make([]float32, res.Steps), Full: make([]float32, res.Steps)}
		f.AddTo(s.Self, s.Full)
		t.Functions = append(t.Functions, s)
	}
	blankBad(t)
	return t
}

// clean is the longest part of a range without a minute that was set aside.
func (s *subject) clean(from, to time.Time) (time.Time, time.Time) {
	best, bestTo, start := from, from, from
	for t := from.Truncate(column); t.Before(to); t = t.Add(column) {
		if !s.bad[t] {
			continue
		}
		if t.Sub(start) > bestTo.Sub(best) {
			best, bestTo = start, t
		}
		start = t.Add(column)
	}
	if to.Sub(start) >= bestTo.Sub(best) {
		best, bestTo = start, to
	}
	return best, bestTo
}

// blankBad makes gaps of columns with negative values: see [ring.bad], which has told of them.
func blankBad(t *analyze.Table) {
	for i := range t.Total {
		bad := !(t.Total[i] >= 0)
		for _, f := range t.Functions {
			bad = bad || !(f.Self[i] >= 0) || !(f.Full[i] >= 0)
		}
		if !bad {
			continue
		}
		t.Total[i], t.Profiles[i], t.Instances[i] = 0, 0, 0
		for _, f := range t.Functions {
			f.Self[i], f.Full[i] = 0, 0
		}
	}
}

// unitOf is what one sample of a type is worth, as far as the type tells: that of CPU profiles at the usual rate.
func unitOf(t profile.Type) float64 {
	switch {
	case t.Name == "process_cpu" && t.Sample.Unit == "nanoseconds":
		return 1e7
	case t.Sample.Unit == "count" && strings.Contains(t.Name, "cpu"):
		return 1
	}
	return 0
}
