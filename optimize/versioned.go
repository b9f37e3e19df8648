package optimize

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Versioned is an actuator of changes that come into force as a new version of the service, which others build and roll out. Its one target is where
// the change is made, which is no instance; it stands in force there once an instance of the new version runs. It is judged by what runs: instances of the new
// version beside those of the versions before, at the same time. What nobody has rolled out yet keeps no other change of the service from being made.
type Versioned interface {
	Sides(ctx context.Context, c *Change, t Target, snapshot json.RawMessage) (Sides, error)
}

// Sides are the instances of the version that has the change, and of those that do not, each sorted by ID.
type Sides struct{ Treated, Control []Target }

const (
	// awaitEvery is how often it is asked whether what others build is out, or has been taken back.
	awaitEvery = 5 * time.Second
	// mostSide bounds the instances of a side that are measured.
	mostSide = 50
)

// place is the unit where a change is made whose instances are others; nil where the change is made at instances.
func (c *Change) place() *Unit {
	for i := range c.Units {
		if c.Units[i].Place {
			return &c.Units[i]
		}
	}
	return nil
}

// busies says that c keeps other changes of its service from starting: something of it is, or may be, in force and not yet proven.
func (c *Change) busies() bool { return c.State.Acting() && !c.Awaiting }

// rested says that it is time to ask again about what others do.
func (r *round) rested(c *Change) bool {
	if at, asked := r.asked[c.ID]; asked && r.now.Sub(at) < awaitEvery {
		return false
	}
	r.asked[c.ID] = r.now
	return true
}

// await keeps that c waits for others, and for what.
func (r *round) await(ctx context.Context, c *Change, why string) error {
	if c.Awaiting {
		return r.hold(ctx, c, why, false)
	}
	c.Awaiting, c.Held = true, why
	delete(r.busy, c.Service)
	return r.keep(ctx, c, false, Event{What: WhatWaiting, Note: why})
}

// followVersion is follow for a change that came with a version: it takes note of the instances of both sides.
func (r *round) followVersion(ctx context.Context, c *Change, act Actuator, v Versioned) (ended bool, err error) {
	place := c.place()
	s, note, err := r.standing(ctx, c, act, place)
	switch {
	case err != nil:
		r.o.Logger.Warn("change cannot be followed", "change", c.ID, "err", err)
		return false, nil
	case s == Absent, s == Refused, s == Gone:
		return true, r.undo(ctx, c, Undone, fmt.Sprintf("Somebody has taken it back at %s.%s", place.ID, sentence(note)))
	}
	events, err := r.sides(ctx, c, v)
	if err != nil {
		r.o.Logger.Warn("change cannot be followed", "change", c.ID, "err", err)
		return false, nil
	}
	for i := range c.Units {
		if u := &c.Units[i]; u.Version != "" && !slices.Contains(c.Versions, u.Version) {
			return true, r.undo(ctx, c, Undone, fmt.Sprintf("Version %s is being rolled out: what runs then is judged anew.", u.Version), events...)
		}
	}
	if len(events) > 0 {
		return false, r.keep(ctx, c, false, events...)
	}
	return false, nil
}

// sides makes c's units those that run: the new version's are treated, the others control; who is there no more is gone.
func (r *round) sides(ctx context.Context, c *Change, v Versioned) (events []Event, err error) {
	place := *c.place()
	var s Sides
	if err := r.call(ctx, func(ctx context.Context) (err error) {
		s, err = v.Sides(ctx, c, place.Target, place.Snapshot)
		return err
	}); err != nil {
		return nil, err
	}
	there := map[string]UnitState{}
	for _, side := range []struct {
		targets []Target
		state   UnitState
	}{{s.Treated, UnitTreated}, {s.Control, UnitControl}} {
		for _, t := range side.targets[:min(len(side.targets), mostSide)] {
			there[t.ID] = side.state
			u := c.unit(t.ID)
			switch {
			case u == nil:
				c.Units = append(c.Units, Unit{Target: t, State: side.state, Stage: c.Stage})
				u = &c.Units[len(c.Units)-1]
				if side.state == UnitControl {
					break
				}
				u.Applied = t.Started
				events = append(events, Event{What: WhatApplied, Target: t.ID, Note: fmt.Sprintf("It runs version %s since %s.", t.Version, t.Started.Format("15:04:05 MST"))})
			case u.State == UnitControl && side.state == UnitTreated:
				// The node was of the versions before: what it was then stays its past.
				u.Target, u.State, u.Applied, u.Restarts = t, UnitTreated, t.Started, 0
				events = append(events, Event{What: WhatApplied, Target: t.ID, Note: fmt.Sprintf("It runs version %s since %s.", t.Version, t.Started.Format("15:04:05 MST"))})
			case u.State == side.state && !t.Started.Equal(u.Started):
				u.Started = t.Started
				u.Restarts++
				events = append(events, Event{What: WhatRestarted, Target: t.ID})
			}
		}
	}
	c.forget() // names of processes may be ever new ones
	for i := range c.Units {
		u := &c.Units[i]
		if (u.State == UnitTreated || u.State == UnitControl) && there[u.ID] != u.State {
			u.State, u.Left = UnitGone, r.now
			events = append(events, Event{What: WhatGone, Target: u.ID, Note: fmt.Sprintf("It does not run version %s any more.", u.Version)})
		}
	}
	return events, nil
}

// leaving takes note of the instances of a version that is being taken back. That they cannot be seen keeps nothing from being undone.
func (r *round) leaving(ctx context.Context, c *Change, act Actuator) []Event {
	v, ok := act.(Versioned)
	if !ok || c.place() == nil || c.applied().IsZero() {
		return nil
	}
	events, err := r.sides(ctx, c, v)
	if err != nil {
		r.o.Logger.Warn("change cannot be followed", "change", c.ID, "err", err)
	}
	return events
}

// overlap is until when both sides ran: what is measured of one alone compares nothing, and a node that has been rolled back is not what it was. Zero
// is that both do.
func (c *Change) overlap() (to time.Time) {
	if c.place() == nil {
		return time.Time{}
	}
	for _, state := range []UnitState{UnitTreated, UnitControl} {
		runs, left := false, time.Time{}
		for i := range c.Units {
			switch u := &c.Units[i]; {
			case u.State == state:
				runs = true
			case u.State == UnitGone && u.Applied.IsZero() == (state == UnitControl) && u.Left.After(left):
				left = u.Left
			}
		}
		if !runs && !left.IsZero() && (to.IsZero() || left.Before(to)) {
			to = left
		}
	}
	return to
}

// sentence is a note after another sentence; "" stays "".
func sentence(note string) string {
	if note == "" {
		return ""
	}
	return " " + note + "."
}
