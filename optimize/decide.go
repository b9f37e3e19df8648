package optimize

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/quantra-l/quantra/optimize/judge"
)

// Actions are what can be done with a change: start it, approve what it costs, pause it and let it go on, take it back, reject it.
var Actions = []string{"start", "approve", "pause", "resume", "undo", "reject"}

// Action is what a person does.
type Action struct {
	Do   string `json:"do"` // one of Actions
	By   string `json:"by"`
	Note string `json:"note,omitempty"`
}

// Bounds of what a person says.
const (
	maxBy   = 200
	maxNote = 2000
	// tries of a write that somebody else was quicker than.
	tries = 5
)

func (a *Action) check() error {
	switch {
	case !slices.Contains(Actions, a.Do):
		return fmt.Errorf("optimize: %w: do %q: it must be one of %v", ErrInvalid, a.Do, Actions)
	case a.By == "" || len(a.By) > maxBy || len(a.Note) > maxNote:
		return fmt.Errorf("optimize: %w: by has 1 to %d bytes, note at most %d", ErrInvalid, maxBy, maxNote)
	}
	return nil
}

// Act does with a change what a person decided. It takes effect with the next Tick. Errors: ErrInvalid, ErrNotFound, ErrState, ErrConflict.
func (o *Optimizer) Act(ctx context.Context, tenant, id string, a Action) (Change, error) {
	if err := a.check(); err != nil {
		return Change{}, err
	}
	for try := 1; ; try++ {
		c, ok, err := o.o.Journal.Change(ctx, tenant, id)
		switch {
		case err != nil:
			return Change{}, err
		case !ok:
			return Change{}, fmt.Errorf("optimize: %w: there is no change %q", ErrNotFound, id)
		}
		now := o.o.Now().UTC()
		e, err := c.act(a, now)
		if err != nil {
			return Change{}, err
		}
		if e.What == "" {
			return c, nil // it is so already
		}
		e.Time, e.Actor, e.Note, e.Stage = now, a.By, a.Note, c.Stage
		if err := o.o.Record(ctx, Entry{Time: now, Tenant: tenant, Change: id, Kind: c.Kind, Service: c.Service, Act: a.Do, Actor: a.By, Stage: c.Stage, Reason: a.Note}); err != nil && a.Do != "undo" && a.Do != "pause" {
			return Change{}, fmt.Errorf("optimize: %s of change %s is not done, as it could not be recorded: %w", a.Do, id, err)
		}
		err = o.o.Journal.Keep(ctx, &c, nil, e)
		if err == nil || !errors.Is(err, ErrConflict) || try == tries {
			return c, err
		}
	}
}

// act changes c as a says. Its event has no What where that is how c is already.
func (c *Change) act(a Action, now time.Time) (e Event, err error) {
	no := func() (Event, error) {
		return Event{}, fmt.Errorf("optimize: %w: a change that is %s cannot be made to %s", ErrState, c.State, a.Do)
	}
	switch a.Do {
	case "start":
		if c.State == Waiting || c.State.Acting() {
			return Event{}, nil
		}
		if c.State != Proposed && c.State != Undone {
			return no()
		}
		c.restart()
		c.State, c.StartedAt, c.StartedBy = Waiting, now, a.By
		return Event{What: WhatStarted}, nil
	case "approve":
		if c.State != Proposed && c.State != Waiting {
			return no()
		}
		c.ApprovedBy = a.By
		if c.State == Proposed {
			c.State, c.StartedAt, c.StartedBy = Waiting, now, a.By
		}
		return Event{What: WhatApproved}, nil
	case "pause":
		if c.Paused {
			return Event{}, nil
		}
		if c.State != Waiting && !c.State.Acting() {
			return no()
		}
		c.Paused, c.PausedBy = true, a.By
		return Event{What: WhatPaused}, nil
	case "resume":
		if !c.Paused {
			return Event{}, nil
		}
		c.Paused, c.PausedBy = false, ""
		return Event{What: WhatResumed}, nil
	case "undo":
		switch c.State {
		case Undoing:
			return Event{}, nil
		case Applying, Dwelling, Done:
			c.State, c.UndoTo, c.Reason, c.Held = Undoing, Undone, fmt.Sprintf("%s wants it undone.%s", a.By, note(a.Note)), ""
			c.Tries, c.NextTry = 0, time.Time{}
			return Event{What: WhatUndoing}, nil
		}
		return no()
	case "reject":
		if c.State == Withdrawn {
			return Event{}, nil
		}
		if c.State != Proposed && c.State != Waiting {
			return no()
		}
		c.State, c.EndedAt, c.Reason, c.Rejected = Withdrawn, now, fmt.Sprintf("%s has rejected it.%s", a.By, note(a.Note)), true
		return Event{What: WhatWithdrawn}, nil
	}
	return no()
}

// restart forgets how it went before.
func (c *Change) restart() {
	c.Units, c.Verdict, c.Verdicts, c.Saved, c.Periods = nil, nil, nil, nil, nil
	c.Stage, c.Replaced, c.Tries, c.UndoTo, c.Reason, c.Held = 0, 0, 0, "", "", ""
	c.EndedAt, c.NextTry, c.FrozenAt, c.Paused, c.Awaiting = time.Time{}, time.Time{}, time.Time{}, false, false
}

// Pause holds all changes of a tenant: nothing is begun or promoted, the clocks of stages stand still; what is in force stays, is watched,
// and is undone where it does harm. Resume lets them go on.
func (o *Optimizer) Pause(ctx context.Context, tenant string, by, why string, until time.Time) error {
	if by == "" || len(by) > maxBy || len(why) > maxNote {
		return fmt.Errorf("optimize: %w: by has 1 to %d bytes, the reason at most %d", ErrInvalid, maxBy, maxNote)
	}
	now := o.o.Now().UTC()
	// That it could not be recorded is no reason not to stop.
	if err := o.o.Record(ctx, Entry{Time: now, Tenant: tenant, Act: "pause", Actor: by, Reason: why}); err != nil {
		o.o.Logger.Error("a pause goes into the audit log late", "err", err)
	}
	return o.o.Journal.ChangeHolds(ctx, tenant, func(h *Holds) error {
		h.Paused = &Hold{By: by, At: now, Note: why, Until: until}
		return nil
	})
}

// Resume ends a pause of all changes.
func (o *Optimizer) Resume(ctx context.Context, tenant, by string) error {
	if by == "" || len(by) > maxBy {
		return fmt.Errorf("optimize: %w: by has 1 to %d bytes", ErrInvalid, maxBy)
	}
	if err := o.o.Record(ctx, Entry{Time: o.o.Now().UTC(), Tenant: tenant, Act: "resume", Actor: by}); err != nil {
		return fmt.Errorf("optimize: nothing is resumed, as it could not be recorded: %w", err)
	}
	return o.o.Journal.ChangeHolds(ctx, tenant, func(h *Holds) error {
		h.Paused = nil
		return nil
	})
}

// maxIncidents bounds those that are open at a time.
const maxIncidents = 100

// Incident opens an incident by its name, or closes it: while one is open nothing is begun or promoted.
func (o *Optimizer) Incident(ctx context.Context, tenant, name, by, why string, open bool, until time.Time) error {
	if name == "" || len(name) > maxBy || len(by) > maxBy || len(why) > maxNote {
		return fmt.Errorf("optimize: %w: an incident's name has 1 to %d bytes, by at most %d, the note at most %d", ErrInvalid, maxBy, maxBy, maxNote)
	}
	now := o.o.Now().UTC()
	return o.o.Journal.ChangeHolds(ctx, tenant, func(h *Holds) error {
		for n, i := range h.Incidents {
			if !i.Until.IsZero() && !now.Before(i.Until) {
				delete(h.Incidents, n)
			}
		}
		if !open {
			delete(h.Incidents, name)
			return nil
		}
		if _, known := h.Incidents[name]; !known && len(h.Incidents) >= maxIncidents {
			return fmt.Errorf("optimize: %w: %d incidents are open", ErrInvalid, maxIncidents)
		}
		if h.Incidents == nil {
			h.Incidents = map[string]Hold{}
		}
		h.Incidents[name] = Hold{By: by, At: now, Note: why, Until: until}
		return nil
	})
}

// Latest is what was judged of a change last, on the server that acts; ok is false where nothing was.
func (o *Optimizer) Latest(id string) (v judge.Verdict, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, ok = o.latest[id]
	return v, ok
}

// Proposals are for how long a change of the same kind, service and subject is not proposed again on the same basis.
const (
	// againAfter is that where nothing could be shown, or where it is done and more might be had.
	againAfter = 24 * time.Hour
	// freshenEvery is how often a proposal that is still made is written anew, where only its figures moved.
	freshenEvery = 5 * time.Minute
)

// Consider asks all that make proposals, and keeps what is new. Errors of one do not keep the others from being asked.
func (o *Optimizer) Consider(ctx context.Context, tenant string) error {
	var errs []error
	var all []Proposal
	for _, f := range o.o.Propose {
		ps, err := f(ctx, tenant)
		if err != nil {
			errs = append(errs, err)
		}
		all = append(all, ps...)
	}
	if len(all) == 0 {
		return errors.Join(errs...)
	}
	known, err := o.o.Journal.Changes(ctx, tenant, Filter{Limit: maxChanges})
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	now, policy := o.o.Now().UTC(), o.o.Policy()
	for i := range all {
		if err := o.consider(ctx, tenant, &all[i], known, policy, now); err != nil && !errors.Is(err, ErrConflict) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (o *Optimizer) consider(ctx context.Context, tenant string, p *Proposal, known []Change, policy *Policy, now time.Time) error {
	if !slices.Contains(Kinds, p.Kind) || p.Service == "" || p.Sentence == "" {
		return fmt.Errorf("optimize: %w: a proposal of kind %q for service %q: it must have both, and a sentence", ErrInvalid, p.Kind, p.Service)
	}
	if policy.For(p.Kind, p.Service).Mode == Off {
		return nil
	}
	id := p.ID()
	for i := range known {
		c := &known[i]
		if c.Kind != p.Kind || c.Service != p.Service || c.Subject != p.Subject {
			continue
		}
		switch {
		case c.State == Proposed && c.ID == id:
			if now.Sub(c.SeenAt) < freshenEvery {
				return nil
			}
			c.Proposal, c.SeenAt = *p, now
			return o.o.Journal.Keep(ctx, c, nil)
		case c.State == Waiting && p.Stands > 0 && c.Basis == p.Basis:
			if now.Sub(c.SeenAt) < freshenEvery {
				return nil
			}
			c.SeenAt = now // as it was decided: its figures alone moved
			return o.o.Journal.Keep(ctx, c, nil)
		case c.State == Waiting && p.Stands > 0: // what it was decided for has passed
		case c.State == Waiting || c.State.Acting():
			return nil
		case c.State == Proposed && p.Stands > 0 && c.Basis == p.Basis && now.Sub(c.ProposedAt) < freshenEvery:
			return nil // figures of load move each minute: who reads the one must have the time to decide
		case c.Basis != p.Basis && c.State != Proposed:
			continue
		case c.State == Failed, c.State == Withdrawn && c.Rejected:
			return nil // on this basis it is known
		case c.State == Undone && now.Sub(c.EndedAt) < againAfter, c.State == Done && now.Sub(c.EndedAt) < cmp.Or(p.Again, againAfter):
			return nil
		}
	}
	for i := range known { // what is proposed otherwise now takes the place of what was
		c := &known[i]
		if (c.State == Proposed || c.State == Waiting && p.Stands > 0) && c.Kind == p.Kind && c.Service == p.Service && c.Subject == p.Subject && c.ID != id {
			c.State, c.EndedAt, c.Reason, c.Held = Withdrawn, now, "Another proposal took its place.", ""
			if err := o.o.Journal.Keep(ctx, c, nil, Event{Time: now, Actor: self, What: WhatWithdrawn, Note: c.Reason}); err != nil {
				return err
			}
		}
	}
	c := Change{ID: id, Tenant: tenant, ProposedAt: now}
	if i := slices.IndexFunc(known, func(c Change) bool { return c.ID == id }); i >= 0 {
		c = known[i]
		c.restart()
		c.ApprovedBy, c.ProposedAt = "", now
	}
	c.Proposal, c.State, c.SeenAt = *p, Proposed, now
	if c.Price == nil {
		c.Price = o.o.Price(p.Service, p.saving())
	}
	return o.o.Journal.Keep(ctx, &c, nil, Event{Time: now, Actor: self, What: WhatProposed, Note: c.Sentence, Evidence: c.Evidence})
}
