package optimize

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// undo begins to take the change back everywhere, and ends as to. What is said first comes before it in the history.
func (r *round) undo(ctx context.Context, c *Change, to State, reason string, first ...Event) error {
	c.State, c.UndoTo, c.Reason, c.Held = Undoing, to, reason, ""
	c.Tries, c.NextTry = 0, r.now
	if err := r.keep(ctx, c, false, append(first, Event{What: WhatUndoing, Note: reason})...); err != nil {
		return err
	}
	act := r.o.Actuators[c.Kind]
	if act == nil {
		return nil // step says so
	}
	return r.undoing(ctx, c, act) // seconds count
}

// undoing takes the change back from each unit where it may be in force. Nothing stops it: no pause, no window, and no audit log that
// cannot be written, as the journal has it. It goes on until each unit is as it was.
func (r *round) undoing(ctx context.Context, c *Change, act Actuator) error {
	if place := c.place(); place != nil && place.State == UnitUndoing && !r.rested(c) {
		return nil
	}
	events := r.leaving(ctx, c, act)
	for i := range c.Units {
		if u := &c.Units[i]; u.inForce() && u.State != UnitUndoing {
			u.State = UnitUndoing
			events = append(events, Event{What: WhatUndo, Target: u.ID})
		}
	}
	if len(events) > 0 {
		if err := r.keep(ctx, c, false, events...); err != nil {
			return err
		}
	}
	events = nil
	var errs []error
	left := 0
	for i := range c.Units {
		u := &c.Units[i]
		if u.State != UnitUndoing {
			continue
		}
		if err := r.undoUnit(ctx, c, act, u); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", u.ID, err))
		}
		if u.State == UnitUndoing {
			left++
			continue
		}
		events = append(events, Event{What: WhatUnit, Target: u.ID, Note: u.Note})
	}
	if left == 0 {
		events = append(events, r.leaving(ctx, c, act)...)
		return r.taken(ctx, c, events)
	}
	if len(events) > 0 {
		if err := r.keep(ctx, c, false, events...); err != nil {
			return err
		}
	}
	if len(errs) > 0 {
		c.Held = fmt.Sprintf("It could not be taken back from %d of its nodes yet, and is tried again: %v.", left, errs[0])
		return r.again(ctx, c, errors.Join(errs...))
	}
	if place := c.place(); place != nil && place.Note != "" {
		return r.hold(ctx, c, place.Note, false) // others must do something for it
	}
	return nil
}

// undoUnit asks for the undo of one unit, and looks whether it is done.
func (r *round) undoUnit(ctx context.Context, c *Change, act Actuator, u *Unit) error {
	if err := r.record(ctx, c, "undo", u.ID, c.Reason); err != nil {
		r.o.Logger.Error("an undo goes into the audit log late", "change", c.ID, "target", u.ID, "err", err)
	}
	delete(r.applied, c.ID+"\x00"+u.ID)
	err := r.call(ctx, func(ctx context.Context) error { return act.Undo(ctx, c, u.Target, u.Snapshot) })
	if errors.Is(err, ErrGone) {
		u.State, u.Undone, u.Note = UnitUndone, r.now, "it is gone"
		return nil
	}
	if errors.Is(err, ErrRefused) {
		// Somebody else has set it since: what is there is theirs, and not the change's any more.
		u.State, u.Undone, u.Note = UnitUndone, r.now, err.Error()
		return nil
	}
	if err != nil {
		return err
	}
	s, note, err := r.standing(ctx, c, act, u)
	switch {
	case errors.Is(err, ErrGone):
		s, note = Gone, "it is gone"
	case err != nil:
		return err
	}
	switch u.Note = note; s {
	case Absent, Gone, Refused:
		u.State, u.Undone = UnitUndone, r.now
	}
	return nil
}

// taken ends a change of which nothing is in force any more.
func (r *round) taken(ctx context.Context, c *Change, events []Event) error {
	r.accuse(ctx, c)
	was := !c.EndedAt.IsZero() // it was done
	c.State, c.EndedAt, c.Held, c.Tries, c.Awaiting = c.UndoTo, r.now, "", 0, false
	if c.State == "" {
		c.State = Undone
	}
	c.Units = slices.DeleteFunc(c.Units, func(u Unit) bool { return u.State == UnitPlanned })
	r.settle(c, c.State, was)
	delete(r.busy, c.Service)
	what := WhatUndone
	if c.State == Failed {
		what = WhatFailed
	}
	return r.keep(ctx, c, true, append(events, Event{What: what, Note: c.Reason})...)
}

// tend keeps a proven change in force, and brings it to what came new of the versions that it was proven on.
func (r *round) tend(ctx context.Context, c *Change, act Actuator) error {
	if act.Traits(c).Keep == 0 {
		return nil
	}
	if _, err := r.follow(ctx, c, act); err != nil {
		return err
	}
	if other := r.busy[c.Service]; r.stopped(c) || other != "" && other != c.ID {
		return nil // another change is being judged: nothing else moves meanwhile
	}
	targets, err := r.targets(ctx, c, act)
	if err != nil {
		return r.again(ctx, c, err)
	}
	fresh, _ := freshIn(targets, r.rails.Touched, r.now, r.policy.NodeEvery)
	free := map[string]bool{}
	for _, t := range fresh {
		free[t.ID] = true
	}
	proven, there := map[string]bool{}, 0
	for i := range c.Units {
		if u := &c.Units[i]; !u.Applied.IsZero() {
			proven[u.Version] = true
		}
	}
	added := false
	for _, t := range targets {
		if !proven[t.Version] {
			continue
		}
		there++
		if !free[t.ID] {
			continue
		}
		if u := c.unit(t.ID); u == nil {
			c.Units = append(c.Units, Unit{Target: t, State: UnitPlanned, Stage: c.Stage})
			added = true
		} else if u.State == UnitGone || u.State == UnitControl {
			u.State, u.Target, added = UnitPlanned, t, true
		}
	}
	switch {
	case there > 0 && !c.EmptyAt.IsZero():
		c.EmptyAt, added = time.Time{}, true
	case there == 0 && c.EmptyAt.IsZero():
		c.EmptyAt, added = r.now, true
	case there == 0 && r.now.Sub(c.EmptyAt) >= r.policy.WithdrawAfter:
		c.State, c.EndedAt = Withdrawn, r.now
		c.Reason = "The versions that it was proven on do not run any more."
		return r.keep(ctx, c, false, Event{What: WhatWithdrawn, Note: c.Reason})
	}
	if added {
		c.forget()
		if err := r.keep(ctx, c, false); err != nil {
			return err
		}
	}
	if err := r.applyAll(ctx, c, act); err != nil {
		return r.again(ctx, c, err)
	}
	return nil
}

// maxUnits bounds what is remembered of targets that are no more.
const maxUnits = 2000

// forget drops the oldest of the units that nothing is in force at, past the bound.
func (c *Change) forget() {
	over := len(c.Units) - maxUnits
	c.Units = slices.DeleteFunc(c.Units, func(u Unit) bool {
		if over > 0 && !u.inForce() && u.State != UnitPlanned {
			over--
			return true
		}
		return false
	})
}
