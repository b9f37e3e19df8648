package optimize

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize/judge"
)

const (
	// keepVerdictEvery is how often what the guard saw last is kept, where it decides nothing: for pages of other servers.
	keepVerdictEvery = 30 * time.Second
	// judgeEvery is how often a stage that could not be judged is judged again.
	judgeEvery = 15 * time.Second
	// minWatch is half of the least part in which a stage that goes on is watched.
	minWatch = 10 * time.Minute
	// mostReplaced is how often a stage may lose all its nodes: nodes come and go, and one that died of the change looks the same. Twice
	// in a row is no accident.
	mostReplaced = 1
)

// dwelling watches a stage: what went away, whether it does harm, and, when its time is over, what it was worth.
func (r *round) dwelling(ctx context.Context, c *Change, act Actuator) error {
	if ended, err := r.follow(ctx, c, act); ended || err != nil {
		return err
	}
	if ended, err := r.guard(ctx, c); ended || err != nil {
		return err
	}
	if r.stopped(c) {
		return r.freeze(ctx, c)
	}
	if err := r.thaw(ctx, c); err != nil {
		return err
	}
	if r.now.Before(c.StageUntil) {
		return r.toggle(ctx, c, act)
	}
	if !r.open(r.now) {
		// Nothing is promoted, and nothing is undone for that: the deadline is for what cannot be shown.
		return r.hold(ctx, c, "No change window is open now: it stays as it is and is watched.", false)
	}
	return r.conclude(ctx, c, act)
}

// follow looks how the change stands at each unit, keeps it in force, and takes note of who went away. A round in which nothing
// happened writes nothing.
func (r *round) follow(ctx context.Context, c *Change, act Actuator) (ended bool, err error) {
	if v, ok := act.(Versioned); ok {
		return r.followVersion(ctx, c, act, v)
	}
	var events []Event
	var errs []error
	targets, err := r.targets(ctx, c, act)
	if err != nil {
		errs = append(errs, err)
	}
	for _, v := range versions(targets) {
		if c.State == Dwelling && c.Versions != nil && !slices.Contains(c.Versions, v) {
			// Nodes go away for that, and those that come are something else: what was measured is of what ran before.
			return true, r.undo(ctx, c, Undone, fmt.Sprintf("Version %s is being rolled out: what runs then is judged anew.", v))
		}
	}
	started := map[string]time.Time{}
	for _, t := range targets {
		started[t.ID] = t.Started
	}
	for i := range c.Units {
		u := &c.Units[i]
		switch at, there := started[u.ID]; {
		case u.State == UnitControl && err == nil && !there:
			u.State, u.Left = UnitGone, r.now
			events = append(events, Event{What: WhatGone, Target: u.ID, Note: "It was left as before, to be compared with."})
			continue
		case there && (u.State == UnitControl || u.State == UnitApplied) && !at.Equal(u.Started):
			if !u.Started.IsZero() {
				u.Restarts++
				events = append(events, Event{What: WhatRestarted, Target: u.ID})
			}
			u.Started = at
		}
		if u.State != UnitApplied {
			continue
		}
		e, err := r.followUnit(ctx, c, act, u)
		events = append(events, e...)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", u.ID, err))
		}
		if u.State == UnitRefused && c.State == Dwelling {
			u.State = UnitApplied // what is left of it is taken back with the rest
			return true, r.undo(ctx, c, Failed, fmt.Sprintf("%s ended it by itself: %s.", u.ID, u.Note), events...)
		}
	}
	if len(events) > 0 {
		if err := r.keep(ctx, c, false, events...); err != nil {
			return false, err
		}
	}
	if err := r.watch(ctx, c, act); err != nil {
		errs = append(errs, err)
	}
	if c.State == Dwelling && c.treated() == 0 {
		return true, r.replace(ctx, c, targets)
	}
	if len(errs) > 0 {
		r.o.Logger.Warn("change cannot be followed", "change", c.ID, "err", errors.Join(errs...))
	}
	return false, nil
}

// watch has the controls measured as often as the treated are, where the actuator can.
func (r *round) watch(ctx context.Context, c *Change, act Actuator) error {
	w, ok := act.(Watcher)
	key := c.ID + "\x00"
	if at, is := r.applied[key]; !ok || is && r.now.Sub(at) < act.Traits(c).Keep {
		return nil
	}
	var controls []Target
	for i := range c.Units {
		if u := &c.Units[i]; u.State == UnitControl || u.State == UnitOff {
			controls = append(controls, u.Target)
		}
	}
	if len(controls) == 0 {
		return nil
	}
	r.applied[key] = r.now
	return r.call(ctx, func(ctx context.Context) error { return w.Watch(ctx, c, controls) })
}

// followUnit is follow for a unit at which the change shall be in force.
func (r *round) followUnit(ctx context.Context, c *Change, act Actuator, u *Unit) (events []Event, err error) {
	s, note, err := r.standing(ctx, c, act, u)
	switch {
	case errors.Is(err, ErrGone):
		s = Gone
	case err != nil:
		return nil, err
	}
	again := func() error {
		r.applied[c.ID+"\x00"+u.ID] = r.now
		return r.call(ctx, func(ctx context.Context) error { return act.Apply(ctx, c, u.Target, u.Snapshot) })
	}
	switch s {
	case Gone:
		u.State, u.Note, u.Left = UnitGone, note, r.now
		return []Event{{What: WhatGone, Target: u.ID, Note: note}}, nil
	case Refused:
		if err := r.takeBack(ctx, c, act, u); err != nil {
			return nil, err // it is asked again
		}
		u.State, u.Note = UnitRefused, note
		return []Event{{What: WhatRefused, Target: u.ID, Note: note}}, nil
	case Absent:
		// Its process is another, or a server that held its lease has ended. That it is wanted there is in the journal.
		if err := r.record(ctx, c, "apply", u.ID, "It was in force and is not any more."); err != nil {
			return nil, err
		}
		return []Event{{What: WhatIntent, Target: u.ID, Note: "It was not in force any more."}}, again()
	}
	keep := act.Traits(c).Keep
	if at, ok := r.applied[c.ID+"\x00"+u.ID]; keep > 0 && (!ok || r.now.Sub(at) >= keep) {
		return nil, again()
	}
	return nil, nil
}

// replace begins a stage again at other nodes, where all that it was at have gone. Nodes come and go, and one that died of the change looks
// the same: it is harm where it happens twice, and those that were left as before are still there.
func (r *round) replace(ctx context.Context, c *Change, targets []Target) error {
	var gone []string
	others, version := 0, false
	for i := range c.Units {
		u := &c.Units[i]
		switch {
		case u.State != UnitGone:
		case u.Applied.IsZero():
			if u.Stage == c.Stage {
				others++
			}
		default:
			gone = append(gone, u.ID)
			version = version || slices.ContainsFunc(targets, func(t Target) bool { return t.Version == u.Version })
		}
	}
	if !version {
		return r.undo(ctx, c, Undone, fmt.Sprintf("The version that it was in force at does not run any more: %s went away.", list(gone)))
	}
	if others == 0 {
		if c.Replaced >= mostReplaced {
			return r.undo(ctx, c, Failed, fmt.Sprintf("The nodes that it was in force at went away, twice, and none of the others: %s.", list(gone)))
		}
		c.Replaced++
	}
	fresh, _ := freshIn(targets, r.rails.Touched, r.now, r.policy.NodeEvery)
	c.State = Applying
	if !r.plan(c, targets, fresh) {
		return r.undo(ctx, c, Undone, fmt.Sprintf("The nodes that it was in force at went away, and there is no other: %s.", list(gone)))
	}
	return r.keep(ctx, c, false, stageEvent(c))
}

// guard undoes the change at once if it is shown to do harm. What cannot be measured shows nothing: the deadline bounds how long.
func (r *round) guard(ctx context.Context, c *Change) (ended bool, err error) {
	if c.applied().IsZero() {
		return false, nil
	}
	in, err := r.look(ctx, c, false)
	if err != nil {
		r.o.Logger.Warn("change cannot be measured", "change", c.ID, "err", err)
		return false, nil
	}
	v := judge.Guard(in, c.Plan.Judge)
	clean(&v, r.now)
	r.mu.Lock()
	r.latest[c.ID] = v
	r.mu.Unlock()
	if v.Decision == judge.Fail {
		if full, err := r.look(ctx, c, true); err == nil {
			name(&v, judge.Judge(full, c.Plan.Judge))
			clean(&v, r.now)
		}
		c.Verdict = &v
		c.Verdicts = append(c.Verdicts, v)
		return true, r.undo(ctx, c, Failed, v.Reason, Event{What: WhatVerdict, Note: v.Reason, Verdict: &v, Evidence: c.evidence(r.now)})
	}
	if c.Verdict == nil || v.At.Sub(c.Verdict.At) >= keepVerdictEvery {
		c.Verdict = &v
		return false, r.keep(ctx, c, false)
	}
	return false, nil
}

// clean dates a verdict and makes it JSON's: an interval without an end is one that ends very far away.
func clean(v *judge.Verdict, now time.Time) {
	const far = math.MaxFloat64
	finite := func(fs ...*float64) {
		for _, f := range fs {
			switch {
			case math.IsNaN(*f):
				*f = 0
			case math.IsInf(*f, 0):
				*f = math.Copysign(far, *f)
			}
		}
	}
	estimate := func(es ...*analyze.Estimate) {
		for _, e := range es {
			finite(&e.Value, &e.Low, &e.High)
		}
	}
	v.At = now
	for i := range v.Metrics {
		m := &v.Metrics[i]
		finite(&m.Before, &m.After, &m.Worse, &m.P, &m.PHarm, &m.E)
		estimate(&m.Effect, &m.Difference, &m.PerHour)
	}
	for i := range v.Functions {
		for _, d := range []*analyze.Difference{&v.Functions[i].Self, &v.Functions[i].Full, &v.Functions[i].Own} {
			estimate(&d.Before, &d.After, &d.Change, &d.Real)
			finite(&d.P, &d.Q)
		}
	}
}

// name adds to what the guard saw which functions it was, from a look with profiles.
func name(v *judge.Verdict, full judge.Verdict) {
	v.Functions, v.Guilty = full.Functions, full.Guilty
	if v.Guilty != "" {
		v.Reason = fmt.Sprintf("%s. What grew is %s.", strings.TrimRight(v.Reason, "."), v.Guilty)
	}
}

// accuse names the function that grew, where a change has failed before there were figures enough for that: what was measured until it was
// taken back is there now.
func (r *round) accuse(ctx context.Context, c *Change) {
	if c.UndoTo != Failed || c.applied().IsZero() || c.Verdict != nil && c.Verdict.Guilty != "" {
		return
	}
	in, err := r.look(ctx, c, true)
	if err != nil {
		r.o.Logger.Warn("a change that failed cannot be looked into", "change", c.ID, "err", err)
		return
	}
	full := judge.Judge(in, c.Plan.Judge)
	v := full
	if c.Verdict != nil {
		v = *c.Verdict
	}
	v.Reason = c.Reason
	name(&v, full)
	clean(&v, r.now)
	c.Reason, c.Verdict = v.Reason, &v
}

// applied is when the change first came into force anywhere; zero is that it has not.
func (c *Change) applied() (first time.Time) {
	for i := range c.Units {
		if at := c.Units[i].Applied; !c.Units[i].Place && !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// look measures treated and control. What lies between the first time that the change was in force and the stage is left out: then some
// had it, and it is neither the stage nor the baseline.
func (r *round) look(ctx context.Context, c *Change, profiles bool) (judge.Input, error) {
	first := c.applied()
	from := c.StageAt
	if c.Stage == 0 || first.After(from) {
		from = first
	}
	if !profiles && c.Periods == nil {
		// What was long good must not hide what is bad since: a stage that goes on is watched in parts.
		part := 2 * max(c.Plan.Stages[c.Stage].Dwell, minWatch)
		from = from.Add(r.now.Sub(from).Truncate(part))
	}
	q := Question{Tenant: c.Tenant, Service: c.Service, Whole: r.whole(c), From: first.Add(-c.Plan.Baseline), To: r.now}
	if profiles {
		q.ProfileFrom, q.BaselineTo = from, first
	}
	units := map[string]*Unit{}
	for i := range c.Units {
		u := &c.Units[i]
		left := u.Place || u.State == UnitGone && u.Left.Before(c.StageAt) // it is nothing of this stage
		if u.State == UnitControl || u.State == UnitGone && !left || !u.Applied.IsZero() && (u.State != UnitUndone || c.State == Undoing) && !left {
			units[u.ID] = u
			q.Instances = append(q.Instances, u.ID)
		}
	}
	slices.Sort(q.Instances)
	ctx, cancel := context.WithTimeout(ctx, r.o.LookTimeout)
	defer cancel()
	to := r.now
	if end := c.overlap(); !end.IsZero() {
		to, q.To = end, end
	}
	sight, err := r.o.Look(ctx, q)
	if err != nil {
		return judge.Input{}, err
	}
	if !sight.To.IsZero() && sight.To.Before(to) {
		to = sight.To
	}
	in := input{judge.Input{Metrics: c.Plan.Metrics, From: from, To: to, Periods: c.past(to)}}
	for _, m := range sight.Members {
		u := units[m.Name]
		if u == nil {
			continue
		}
		delete(units, m.Name)
		in.add(u, m, first, from)
	}
	for _, id := range sortedKeys(units) { // nothing was measured of these
		in.add(units[id], judge.Member{Name: id}, first, from)
	}
	return in.Input, nil
}

// whole says that a change is measured of its service as a whole. One that came with a version is not: instances of both run side by side.
func (o *Optimizer) whole(c *Change) bool {
	act := o.o.Actuators[c.Kind]
	return act != nil && act.Traits(c).Whole && c.place() == nil
}

// input is a judge's input that is being gathered.
type input struct{ judge.Input }

func (in *input) add(u *Unit, m judge.Member, first, from time.Time) {
	m.Zone, m.Version, m.Started = cmp.Or(m.Zone, u.Zone), cmp.Or(m.Version, u.Version), u.Started
	m.Restarts, m.Gone, m.Applied = u.Restarts, u.State == UnitGone, u.Applied
	for name, ps := range m.Series {
		m.Series[name] = slices.DeleteFunc(ps, func(p judge.Point) bool { return p.To.After(first) && p.From.Before(from) })
	}
	if u.State == UnitControl || u.Applied.IsZero() {
		m.Applied = time.Time{}
		in.Control = append(in.Control, m)
		return
	}
	in.Treated = append(in.Treated, m)
}

// past are the periods that are over.
func (c *Change) past(to time.Time) (out []judge.Period) {
	for _, p := range c.Periods {
		if !p.To.After(to) {
			out = append(out, p)
		}
	}
	return out
}

// toggle switches a single target as its periods say.
func (r *round) toggle(ctx context.Context, c *Change, act Actuator) error {
	if c.Periods == nil {
		return nil
	}
	if last := c.Periods[len(c.Periods)-1].To; !r.now.Before(last) && r.now.Before(c.Deadline) {
		// What could not be told yet is told by more of the same.
		each := c.Periods[0].To.Sub(c.Periods[0].From)
		c.Periods = append(c.Periods, judge.Period{From: last, To: last.Add(each), On: true}, judge.Period{From: last.Add(each), To: last.Add(2 * each)})
	}
	on := true // past the deadline it is undone as a whole
	for _, p := range c.Periods {
		if !r.now.Before(p.From) && r.now.Before(p.To) {
			on = p.On
		}
	}
	for i := range c.Units {
		u := &c.Units[i]
		if u.State != UnitApplied && u.State != UnitOff || on == (u.State == UnitApplied) {
			continue
		}
		what := map[bool]string{true: "apply", false: "off"}[on]
		if err := r.record(ctx, c, what, u.ID, "It is switched on and off to be judged."); err != nil {
			return r.again(ctx, c, err)
		}
		// Both ways are safe to repeat: the state is kept first.
		u.State = map[bool]UnitState{true: UnitApplied, false: UnitOff}[on]
		if err := r.keep(ctx, c, false, Event{What: map[bool]string{true: WhatIntent, false: WhatUndo}[on], Target: u.ID, Note: "for a period"}); err != nil {
			return err
		}
		if on {
			r.applied[c.ID+"\x00"+u.ID] = r.now
		}
		if err := r.call(ctx, func(ctx context.Context) error {
			if on {
				return act.Apply(ctx, c, u.Target, u.Snapshot)
			}
			return act.Undo(ctx, c, u.Target, u.Snapshot)
		}); err != nil {
			return r.again(ctx, c, err)
		}
	}
	return nil
}

// conclude judges a stage whose dwell is over.
func (r *round) conclude(ctx context.Context, c *Change, act Actuator) error {
	last := r.judged[c.ID]
	if r.now.Sub(last) < judgeEvery && r.now.Before(c.Deadline) {
		return r.toggle(ctx, c, act)
	}
	r.judged[c.ID] = r.now
	var v judge.Verdict
	in, err := r.look(ctx, c, true)
	switch {
	case err != nil:
		v = judge.Verdict{Decision: judge.Hold, Reason: fmt.Sprintf("Nothing could be measured: %v.", err)}
	case act.Traits(c).Whole && c.place() == nil:
		v = judge.Alone(in, c.Plan.Judge)
	default:
		v = judge.Judge(in, c.Plan.Judge)
	}
	clean(&v, r.now)
	r.mu.Lock()
	r.latest[c.ID] = v
	r.mu.Unlock()
	told := Event{What: WhatVerdict, Note: v.Reason, Verdict: &v, Evidence: c.evidence(r.now)}
	switch {
	case v.Decision == judge.Pass:
		c.Verdict = &v
		return r.promote(ctx, c, act, told)
	case v.Decision == judge.Fail:
		c.Verdict, c.Verdicts = &v, append(c.Verdicts, v)
		return r.undo(ctx, c, Failed, v.Reason, told)
	case !r.now.Before(c.Deadline):
		c.Verdict, c.Verdicts = &v, append(c.Verdicts, v)
		return r.undo(ctx, c, Undone, "It could not be shown to be good in time. "+v.Reason, told)
	}
	c.Verdict = &v
	if err := r.hold(ctx, c, v.Reason, c.Held != ""); err != nil {
		return err
	}
	return r.toggle(ctx, c, act)
}

// promote begins the next stage that has more nodes than this one, or ends the change as proven.
func (r *round) promote(ctx context.Context, c *Change, act Actuator, told Event) error {
	targets, err := r.targets(ctx, c, act)
	if err != nil {
		return r.again(ctx, c, err)
	}
	nodes := len(targets)
	if c.place() != nil {
		nodes = len(c.Units) - 1 // those of both sides
	}
	c.save(nodes, r.o.Price)
	stage := c.Stage
	told.of = &stage
	was := *c
	c.Units = slices.Clone(c.Units)
	for next := c.Stage + 1; next < len(c.Plan.Stages); next++ {
		if c.want(next, c.takers(targets)) <= c.treated() {
			continue
		}
		fresh, _ := freshIn(targets, r.rails.Touched, r.now, r.policy.NodeEvery)
		n := c.treated()
		c.Stage, c.State, c.Replaced = next, Applying, 0
		if !r.plan(c, targets, fresh) || c.treated() == n {
			*c = was // the nodes that are left were changed by something else lately
			return r.hold(ctx, c, "It passed; the nodes that are left were changed too lately for the next stage.", false)
		}
		c.Held, c.Verdicts = "", append(c.Verdicts, *c.Verdict)
		return r.keep(ctx, c, false, told, stageEvent(c))
	}
	c.Held, c.Verdicts = "", append(c.Verdicts, *c.Verdict)
	c.State, c.EndedAt, c.Reason = Done, r.now, c.Verdict.Reason
	for i := range c.Units {
		if u := &c.Units[i]; u.State == UnitOff {
			u.State = UnitApplied // tend brings it back
		}
	}
	r.settle(c, Done, false)
	delete(r.busy, c.Service)
	return r.keep(ctx, c, true, told, Event{What: WhatDone, Note: c.Reason})
}

// save reckons the saving that came true: what the change did to the CPU for the same work, of what so many nodes use at the rate of
// requests that they have.
func (c *Change) save(nodes int, price func(string, analyze.Estimate) *analyze.Money) {
	var cpu, rate *judge.MetricVerdict
	for i := range c.Verdict.Metrics {
		switch m := &c.Verdict.Metrics[i]; m.Name {
		case "cpu_per_request":
			cpu = m
		case "throughput":
			rate = m
		}
	}
	if cpu == nil || rate == nil {
		return
	}
	cores := cpu.Before * rate.Before * float64(nodes)
	if !(cores > 0) || math.IsInf(cores, 0) {
		return
	}
	s := analyze.Estimate{Value: -cpu.Effect.Value * cores, Low: -cpu.Effect.High * cores, High: -cpu.Effect.Low * cores}
	c.Saved = &Saved{Cores: s, Price: price(c.Service, s)}
}

// evidence are links to what a verdict rests on, with times, so that they show the same for ever.
func (c *Change) evidence(now time.Time) []Evidence {
	if c.StageAt.IsZero() || !c.StageAt.Before(now) {
		return nil
	}
	return []Evidence{{What: "stage", Link: fmt.Sprintf("/changes/%s?from=%d&until=%d", c.ID, c.StageAt.UnixMilli(), now.UnixMilli())}}
}
