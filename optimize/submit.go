package optimize

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
)

// Bounds of what a person may propose.
const (
	maxSpec     = 64 << 10
	maxSentence = 2000
	maxService  = 2048 // as labels of profiles
)

// Checker is an [Actuator] that can say of a proposal, before it is kept, that it can never be applied.
type Checker interface {
	Check(p *Proposal) error
}

// check says what is wrong with a proposal of a person's, before it is kept. Errors are [ErrInvalid] and [ErrState].
func (o *Optimizer) check(p *Proposal, by string) error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("optimize: %w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	switch {
	case !slices.Contains(Kinds, p.Kind):
		return wrong("kind %q: it must be one of %v", p.Kind, Kinds)
	case o.o.Actuators[p.Kind] == nil:
		return wrong("kind %s: this server makes no changes of that kind", p.Kind)
	case p.Service == "" || len(p.Service) > maxService:
		return wrong("service: it has 1 to %d bytes", maxService)
	case p.Sentence == "" || len(p.Sentence) > maxSentence:
		return wrong("sentence: it has 1 to %d bytes", maxSentence)
	case len(p.Spec) > maxSpec || !json.Valid(p.Spec):
		return wrong("spec: it must be JSON of at most %d bytes", maxSpec)
	case math.IsNaN(p.Cost) || math.IsInf(p.Cost, 0):
		return wrong("cost %v: it must be an amount a month", p.Cost)
	case by == "" || len(by) > maxBy:
		return wrong("by: it has 1 to %d bytes", maxBy)
	case o.o.Policy().For(p.Kind, p.Service).Mode == Off:
		return fmt.Errorf("optimize: %w: the policy has changes of the kind %s of %s off", ErrState, p.Kind, p.Service)
	}
	if c, ok := o.o.Actuators[p.Kind].(Checker); ok {
		if err := c.Check(p); err != nil {
			return wrong("spec: %v", err)
		}
	}
	return nil
}

// Submit keeps a proposal of a person's: it goes the way of all others, through stages and under the judge. One that is the same as
// one that is known is that one; one that failed on the same basis is refused with [ErrState]. Other errors: ErrInvalid.
func (o *Optimizer) Submit(ctx context.Context, tenant string, p Proposal, by string) (Change, error) {
	if err := o.check(&p, by); err != nil {
		return Change{}, err
	}
	if p.Subject == "" {
		p.Subject = "by hand"
	}
	now := o.o.Now().UTC()
	c, known, err := o.o.Journal.Change(ctx, tenant, p.ID())
	switch {
	case err != nil:
		return Change{}, err
	case known && c.State == Failed:
		return Change{}, fmt.Errorf("optimize: %w: change %s is the same and has failed on the same basis: %s", ErrState, c.ID, c.Reason)
	case known && !c.State.Ended():
		return c, nil
	case known:
		c.restart()
		c.ApprovedBy, c.Rejected = "", false
	default:
		c = Change{ID: p.ID(), Tenant: tenant}
	}
	c.Proposal, c.State, c.ProposedAt, c.SeenAt = p, Proposed, now, now
	if c.Price == nil {
		c.Price = o.o.Price(p.Service, p.saving())
	}
	return c, o.o.Journal.Keep(ctx, &c, nil, Event{Time: now, Actor: by, What: WhatProposed, Note: c.Sentence, Evidence: c.Evidence})
}
