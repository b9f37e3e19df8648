package optimize

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/quantra-l/quantra/optimize/judge"
)

// unitsInRound bounds how many targets one round changes, so that what is urgent elsewhere need not wait for a large stage.
const unitsInRound = 50

// proposed starts what the policy starts, and withdraws what is proposed no more.
func (r *round) proposed(ctx context.Context, c *Change) error {
	if r.now.Sub(c.SeenAt) >= cmp.Or(c.Stands, r.policy.WithdrawAfter) {
		return r.withdraw(ctx, c)
	}
	if r.o.Actuators[c.Kind] == nil || r.policy.For(c.Kind, c.Service).Mode != Auto {
		return nil
	}
	c.State, c.StartedAt, c.StartedBy = Waiting, r.now, "policy"
	return r.keep(ctx, c, false, Event{What: WhatStarted, Actor: "policy"})
}

// withdraw ends a change that has not begun, as it is not proposed any more.
func (r *round) withdraw(ctx context.Context, c *Change) error {
	c.State, c.EndedAt, c.Held = Withdrawn, r.now, ""
	c.Reason = fmt.Sprintf("What it rests on has not been seen since %s.", c.SeenAt.Format("2 Jan 15:04 MST"))
	return r.keep(ctx, c, false, Event{What: WhatWithdrawn, Note: c.Reason})
}

// waiting begins the first stage, if no rail holds.
func (r *round) waiting(ctx context.Context, c *Change, act Actuator) error {
	if c.Stands > 0 && r.now.Sub(c.SeenAt) >= c.Stands {
		return r.withdraw(ctx, c)
	}
	kp := r.policy.For(c.Kind, c.Service)
	if why := r.blocked(c, &kp); why != "" {
		return r.hold(ctx, c, why, false)
	}
	targets, err := r.targets(ctx, c, act)
	if err != nil {
		return r.again(ctx, c, err)
	}
	c.Plan, c.Stage, c.Units = kp.Plan, 0, nil
	if c.Metrics != nil {
		c.Plan.Metrics = c.Metrics
	}
	tr := act.Traits(c)
	switch {
	case len(targets) == 0:
		return r.hold(ctx, c, "There is nothing now that it could be applied to.", false)
	case tr.Whole || len(targets) == 1:
		if !tr.Whole && !tr.Toggles {
			return r.hold(ctx, c, "There is one node only: it needs a second one to be compared with.", false)
		}
		c.Plan.Stages = c.Plan.Stages[:1]
	}
	fresh, next := freshIn(targets, r.rails.Touched, r.now, r.nodeEvery(tr))
	if !r.plan(c, targets, fresh) {
		c.Units = nil
		return r.hold(ctx, c, fmt.Sprintf("Each node was changed less than %s ago; the first is free at %s.", r.policy.NodeEvery, next.Format("15:04 MST")), false)
	}
	if err := r.record(ctx, c, "start", "", c.Sentence); err != nil {
		return r.again(ctx, c, err)
	}
	c.State, c.StartedAt, c.Tries, c.Held = Applying, r.now, 0, ""
	if _, ok := act.(Versioned); ok {
		c.Units[0].Place = true
	}
	c.Versions = versions(targets)
	r.spend(c)
	r.busy[c.Service] = c.ID
	return r.keep(ctx, c, true, stageEvent(c))
}

// nodeEvery is the least time between two changes at one target.
func (r *round) nodeEvery(tr Traits) time.Duration {
	if tr.Whole {
		return 0
	}
	return r.policy.NodeEvery
}

func (r *round) targets(ctx context.Context, c *Change, act Actuator) (ts []Target, err error) {
	err = r.call(ctx, func(ctx context.Context) error {
		ts, err = act.Targets(ctx, c)
		return err
	})
	return ts, err
}

// plan makes units of the targets that the stage needs beyond those that are there, and chooses the controls anew. It says whether the
// stage has any.
func (r *round) plan(c *Change, targets, fresh []Target) bool {
	c.StageAt, c.StageUntil, c.Deadline, c.Periods = r.now, time.Time{}, time.Time{}, nil
	var had []Target
	c.Units = slices.DeleteFunc(c.Units, func(u Unit) bool { return u.State == UnitControl })
	for i := range c.Units {
		if u := &c.Units[i]; u.inForce() || u.State == UnitPlanned {
			had = append(had, u.Target)
		}
	}
	free := slices.DeleteFunc(slices.Clone(fresh), func(t Target) bool { return c.unit(t.ID) != nil })
	want := c.want(c.Stage, c.takers(targets))
	chosen := choose(free, had, want-len(had))
	for _, t := range chosen {
		c.Units = append(c.Units, Unit{Target: t, State: UnitPlanned, Stage: c.Stage})
	}
	r.control(c, targets)
	return len(chosen)+len(had) > 0
}

// control chooses who is left as it is for this stage: as many as are treated and like them, of those that the change is not at.
func (r *round) control(c *Change, targets []Target) {
	c.Units = slices.DeleteFunc(c.Units, func(u Unit) bool { return u.State == UnitControl })
	var treated []Target
	for i := range c.Units {
		if u := &c.Units[i]; u.inForce() || u.State == UnitPlanned {
			treated = append(treated, u.Target)
		}
	}
	left := slices.DeleteFunc(slices.Clone(targets), func(t Target) bool { return c.unit(t.ID) != nil })
	for _, t := range controls(treated, left) {
		c.Units = append(c.Units, Unit{Target: t, State: UnitControl, Stage: c.Stage})
	}
}

func stageEvent(c *Change) Event {
	var at []string
	for i := range c.Units {
		if c.Units[i].State == UnitPlanned {
			at = append(at, c.Units[i].ID)
		}
	}
	return Event{What: WhatStage, Note: fmt.Sprintf("Stage %d of %d: %s.", c.Stage+1, len(c.Plan.Stages), list(at))}
}

// list is at most five of names, and how many more there are.
func list(names []string) string {
	const most = 5
	s := ""
	for i, n := range names {
		switch {
		case i == most:
			return fmt.Sprintf("%s and %d more", s, len(names)-most)
		case i > 0:
			s += ", "
		}
		s += n
	}
	return s
}

// applying brings the planned units into force, and guards those that are.
func (r *round) applying(ctx context.Context, c *Change, act Actuator) error {
	if r.now.Sub(c.StageAt) >= c.Plan.ApplyWithin && !r.stopped(c) {
		return r.undo(ctx, c, Undone, fmt.Sprintf("It did not come into force everywhere within %s.%s", c.Plan.ApplyWithin, c.lastNote()))
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
	if c.Awaiting && !r.rested(c) {
		return nil
	}
	if err := r.applyAll(ctx, c, act); err != nil {
		if errors.Is(err, ErrConflict) {
			return err
		}
		return r.again(ctx, c, err)
	}
	for i := range c.Units {
		switch u := &c.Units[i]; {
		case u.Place && u.State == UnitIntended:
			return r.await(ctx, c, u.Note)
		case u.State == UnitPlanned, u.State == UnitIntended:
			return nil // one was asked, and is not there yet
		}
	}
	return r.stageApplied(ctx, c, act)
}

// applyAll brings the change into force at the units that are still to have it, as many as a round takes. Units that meet an error do not
// keep the others from it.
func (r *round) applyAll(ctx context.Context, c *Change, act Actuator) error {
	var due []*Unit
	for i := range c.Units {
		if u := &c.Units[i]; (u.State == UnitPlanned || u.State == UnitIntended) && len(due) < unitsInRound {
			due = append(due, u)
		}
	}
	snaps := r.rehearse(ctx, c, act, due)
	var errs []error
	for _, u := range due {
		if err := r.applyTo(ctx, c, act, u, snaps[u.ID]); errors.Is(err, ErrConflict) {
			return err
		} else if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", u.ID, err))
		}
	}
	return errors.Join(errs...)
}

// rehearsal is what a target was like, and whether undo was proven there.
type rehearsal struct {
	snapshot json.RawMessage
	err      error
}

// rehearse takes the snapshots of units that are planned, and proves that undo works, for as many at a time as the actuator can.
func (r *round) rehearse(ctx context.Context, c *Change, act Actuator, due []*Unit) map[string]rehearsal {
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[string]rehearsal{}
	turns := make(chan struct{}, max(1, act.Traits(c).AtOnce))
	for _, u := range due {
		if u.State != UnitPlanned {
			continue
		}
		t := u.Target
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			var h rehearsal
			h.err = r.call(ctx, func(ctx context.Context) (err error) {
				h.snapshot, err = act.Snapshot(ctx, c, t)
				return err
			})
			if h.err == nil {
				if err := r.call(ctx, func(ctx context.Context) error { return act.Rehearse(ctx, c, t, h.snapshot) }); err != nil {
					h.err = fmt.Errorf("undo could not be proven: %w", err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			out[t.ID] = h
		})
	}
	wg.Wait()
	return out
}

// lastNote is what a unit that is not in force said last.
func (c *Change) lastNote() string {
	for i := range c.Units {
		if u := &c.Units[i]; u.Note != "" && u.State != UnitApplied {
			return fmt.Sprintf(" %s: %s.", u.ID, u.Note)
		}
	}
	return ""
}

// applyTo brings the change into force at one unit, as far as this round can. Each of its effects has its intent in the journal before.
func (r *round) applyTo(ctx context.Context, c *Change, act Actuator, u *Unit, h rehearsal) error {
	if u.State == UnitPlanned {
		if err := r.intend(ctx, c, u, h); err != nil {
			return r.final(ctx, c, act, u, err)
		}
	} else if s, note, err := r.standing(ctx, c, act, u); err != nil {
		return r.final(ctx, c, act, u, err)
	} else if s != Absent {
		return r.stood(ctx, c, act, u, s, note)
	}
	if err := r.record(ctx, c, "apply", u.ID, c.Sentence); err != nil {
		return err
	}
	if err := r.call(ctx, func(ctx context.Context) error { return act.Apply(ctx, c, u.Target, u.Snapshot) }); err != nil {
		return r.final(ctx, c, act, u, err)
	}
	r.applied[c.ID+"\x00"+u.ID] = r.now
	s, note, err := r.standing(ctx, c, act, u)
	if err != nil {
		return r.final(ctx, c, act, u, err)
	}
	return r.stood(ctx, c, act, u, s, note)
}

// intend keeps that the effect may happen from now on, with all that undo needs; but not without a proof that undo works.
func (r *round) intend(ctx context.Context, c *Change, u *Unit, h rehearsal) error {
	if h.err != nil {
		return h.err
	}
	u.State, u.Snapshot, u.Rehearsed, u.Note = UnitIntended, h.snapshot, true, ""
	r.touch(u.ID)
	return r.keep(ctx, c, true, Event{What: WhatIntent, Target: u.ID, Note: "Undo was rehearsed: " + short(h.snapshot)})
}

// short is JSON for a note.
func short(b []byte) string {
	const most = 500
	if len(b) > most {
		return string(b[:most]) + "..."
	}
	return string(b)
}

func (r *round) standing(ctx context.Context, c *Change, act Actuator, u *Unit) (s Standing, note string, err error) {
	err = r.call(ctx, func(ctx context.Context) error {
		s, note, err = act.Standing(ctx, c, u.Target, u.Snapshot)
		return err
	})
	return s, note, err
}

// stood keeps how the change stands at a unit that it was applied to.
func (r *round) stood(ctx context.Context, c *Change, act Actuator, u *Unit, s Standing, note string) error {
	switch s {
	case InForce:
		u.State, u.Applied, u.Note, u.Restarts = UnitApplied, r.now, "", 0
		c.Tries = 0
		return r.keep(ctx, c, false, Event{What: WhatApplied, Target: u.ID})
	case Refused:
		if err := r.takeBack(ctx, c, act, u); err != nil {
			u.Note = err.Error()
			return err
		}
		u.State, u.Note = UnitRefused, note
		return r.keep(ctx, c, false, Event{What: WhatRefused, Target: u.ID, Note: note})
	case Gone:
		u.State, u.Note, u.Left = UnitGone, note, r.now
		return r.keep(ctx, c, false, Event{What: WhatGone, Target: u.ID, Note: note})
	default:
		u.Note = note // asked again in the next round
		return nil
	}
}

// takeBack undoes what was asked of a target that refused it, before that is kept: what it was asked for together with, of another change,
// must not be refused for it again.
func (r *round) takeBack(ctx context.Context, c *Change, act Actuator, u *Unit) error {
	if u.Snapshot == nil {
		return nil // nothing was asked of it
	}
	err := r.call(ctx, func(ctx context.Context) error { return act.Undo(ctx, c, u.Target, u.Snapshot) })
	if errors.Is(err, ErrGone) || errors.Is(err, ErrRefused) {
		return nil
	}
	return err
}

// final makes of an error that says so the unit's end; any other stays an error.
func (r *round) final(ctx context.Context, c *Change, act Actuator, u *Unit, err error) error {
	switch {
	case errors.Is(err, ErrGone):
		return r.stood(ctx, c, act, u, Gone, err.Error())
	case errors.Is(err, ErrRefused):
		return r.stood(ctx, c, act, u, Refused, err.Error())
	}
	u.Note = err.Error()
	return err
}

// stageApplied begins the dwell, once no unit of the stage is left to be applied.
func (r *round) stageApplied(ctx context.Context, c *Change, act Actuator) error {
	targets, err := r.targets(ctx, c, act)
	if err != nil {
		return r.again(ctx, c, err)
	}
	applied := 0
	for i := range c.Units {
		if c.Units[i].State == UnitApplied {
			applied++
		}
	}
	if applied < c.want(c.Stage, c.takers(targets)) && !act.Traits(c).Whole {
		// Some refused, or went away: others take their places, as long as there are any.
		fresh, _ := freshIn(targets, r.rails.Touched, r.now, r.policy.NodeEvery)
		since := c.StageAt
		if n := c.treated(); r.plan(c, targets, fresh) && c.treated() > n {
			c.StageAt = since // the time to come into force is the stage's
			return r.keep(ctx, c, false, stageEvent(c))
		}
	}
	if applied == 0 {
		return r.undo(ctx, c, Undone, "Nothing that it could be applied to takes it."+c.lastNote())
	}
	var events []Event
	if v, ok := act.(Versioned); ok {
		if events, err = r.sides(ctx, c, v); err != nil {
			return r.again(ctx, c, err)
		}
		c.Awaiting, c.Versions = false, c.running()
		r.busy[c.Service] = c.ID
	} else {
		r.control(c, targets)
	}
	st := c.Plan.Stages[c.Stage]
	delete(r.applied, c.ID+"\x00") // these controls are others
	c.State, c.StageAt, c.Tries, c.Held = Dwelling, r.now, 0, ""
	c.StageUntil, c.Deadline = r.now.Add(st.Dwell), r.now.Add(st.Deadline)
	tr := act.Traits(c)
	if !tr.Whole && tr.Toggles && len(targets) == 1 {
		c.Periods = periods(r.now, st.Dwell)
		more := max(0, c.Periods[togglePeriods-1].To.Sub(c.StageUntil))
		c.StageUntil, c.Deadline = c.StageUntil.Add(more), c.Deadline.Add(more)
	}
	return r.keep(ctx, c, false, append(events, Event{What: WhatDwelling, Note: dwellNote(c)})...)
}

// togglePeriods is how many periods a single target is switched through: nine have four times on, each between two times off, and four is
// the least by which a rank test can tell anything (1 in 16).
const togglePeriods = 9

// minPeriod lets a period have a warm-up of 30 s and three windows of 10 s behind it.
const minPeriod = time.Minute

// periods are the times when a single target has the change, and when not, by turns; the first and the last are off.
func periods(from time.Time, dwell time.Duration) (out []judge.Period) {
	each := max(dwell/togglePeriods, minPeriod)
	for i := range togglePeriods {
		at := from.Add(time.Duration(i) * each)
		out = append(out, judge.Period{From: at, To: at.Add(each), On: i%2 == 1})
	}
	return out
}

func dwellNote(c *Change) string {
	var on, off []string
	for i := range c.Units {
		switch u := &c.Units[i]; {
		case u.Place:
		case u.State == UnitApplied, u.State == UnitTreated:
			on = append(on, u.ID)
		case u.State == UnitControl:
			off = append(off, u.ID)
		}
	}
	s := fmt.Sprintf("In force at %s", list(on))
	switch {
	case len(off) > 0:
		s += fmt.Sprintf("; %s left as before", list(off))
	case c.Periods != nil:
		s += fmt.Sprintf(", on and off by turns of %s", c.Periods[0].To.Sub(c.Periods[0].From).Round(time.Second))
	}
	return fmt.Sprintf("%s. Judged at %s.", s, c.StageUntil.Format("15:04:05 MST"))
}

// stopped says that c must not go forward now.
func (r *round) stopped(c *Change) bool { return r.frozen != "" || c.Paused }

// freeze stops the stage's clock; what is in force stays, and is watched.
func (r *round) freeze(ctx context.Context, c *Change) error {
	why := r.frozen
	if c.Paused {
		why = fmt.Sprintf("It is paused by %s.", c.PausedBy)
	}
	if c.FrozenAt.IsZero() {
		c.FrozenAt = r.now
	} else if c.Held == why {
		return nil
	}
	c.Held = why
	return r.keep(ctx, c, false, Event{What: WhatPaused, Note: why})
}

// thaw starts the stage's clock again, where it stood.
func (r *round) thaw(ctx context.Context, c *Change) error {
	if c.FrozenAt.IsZero() {
		return nil
	}
	since, by := c.FrozenAt, r.now.Sub(c.FrozenAt)
	c.FrozenAt, c.Held = time.Time{}, ""
	if c.State == Applying {
		c.StageAt = c.StageAt.Add(by) // it bounds the applying
	} else {
		c.StageUntil, c.Deadline = c.StageUntil.Add(by), c.Deadline.Add(by)
	}
	// The period that was under way goes on for what was left of it, and those behind it follow.
	for i := range c.Periods {
		if p := &c.Periods[i]; p.To.After(since) {
			if p.From.After(since) {
				p.From = p.From.Add(by)
			}
			p.To = p.To.Add(by)
		}
	}
	return r.keep(ctx, c, false, Event{What: WhatResumed, Note: fmt.Sprintf("The stage's clock stood still for %s.", by.Round(time.Second))})
}
