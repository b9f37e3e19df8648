package simulate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
)

// tenant is whose fleet it is.
const tenant = "sim"

// Scenario is one run.
type Scenario struct {
	Name    string
	Fleet   Fleet
	Effect  Effect
	Trouble Trouble
	Policy  *optimize.Policy // nil is the default, with runtime changes started by themselves
	// For bounds how long it may take, in virtual time; 0 is what the policy's stages may take, and 3 h at least.
	For time.Duration
	// Every is after how many windows the optimizer looks each time; 0 is 1.
	Every int
	// DieAt lets the optimizer die at that effect (record, write of the journal, apply, undo), counted from 1, before or after it;
	// 0 is by Trouble.Crashes alone.
	DieAt    int
	DieAfter bool
	// Meddle is called once a window, as what people do meanwhile.
	Meddle func(ctx context.Context, o *optimize.Optimizer, w *World, change string)
}

// Outcome is how a run ended.
type Outcome struct {
	Change optimize.Change
	Events []optimize.Event
	Rails  optimize.Rails
	// On and Of are at how many nodes it is in force at the end, MostOn the most at a time.
	On, Of, MostOn int
	// Undone is how long it took from when it was first in force until nothing of it was any more; 0 if that was not.
	Undone time.Duration
	// NodeHours is for how long nodes had it, all together.
	NodeHours float64
	Deaths    int           // of the optimizer
	Effects   int           // that it had
	Took      time.Duration // virtual
	// Broken are promises that were not kept: "" is none.
	Broken []string
}

// AutoPolicy is the default, with changes of the runtime started by themselves.
func AutoPolicy() *optimize.Policy {
	p := optimize.DefaultPolicy()
	p.Kinds[optimize.Runtime] = optimize.KindPolicy{Mode: optimize.Auto, Plan: optimize.DefaultPlan()}
	return p
}

// Most is the longest that a change may take by a plan, in virtual time, with an hour for what the optimizer's deaths hold up.
func Most(p *optimize.Plan) time.Duration {
	most := time.Hour
	for _, s := range p.Stages {
		most += s.Deadline + p.ApplyWithin
	}
	return max(3*time.Hour, most)
}

// deathLasts is after how long a dead optimizer is started again.
const deathLasts = 20 * time.Second

// Run runs one scenario. The same seed is the same run.
func Run(ctx context.Context, seed uint64, s Scenario) (Outcome, error) {
	w := NewWorld(seed, s.Fleet, s.Effect, s.Trouble)
	w.dieAt, w.dieAfter = s.DieAt, s.DieAfter
	policy := s.Policy
	if policy == nil {
		policy = AutoPolicy()
	}
	j := &journal{w: w}
	proposal := optimize.Proposal{
		Kind: optimize.Runtime, Service: "checkout", Subject: "gc", Spec: []byte(`{"gogc":300}`), Basis: "v1",
		Sentence: "The planted change.", Saving: 1, Expected: map[string]analyze.Estimate{"cpu_per_request": {Value: -0.1, Low: -0.15, High: -0.05}},
	}
	start := func() (*optimize.Optimizer, error) {
		return optimize.New(optimize.Options{
			Journal: j, Look: w.Look, Now: func() time.Time { return w.Now },
			Actuators: map[optimize.Kind]optimize.Actuator{optimize.Runtime: w},
			Policy:    func() *optimize.Policy { return policy },
			Propose: []func(context.Context, string) ([]optimize.Proposal, error){func(context.Context, string) ([]optimize.Proposal, error) {
				return []optimize.Proposal{proposal}, nil
			}},
			Record: func(_ context.Context, e optimize.Entry) error {
				return w.effectOf(func() { w.Acts = append(w.Acts, Act{w.Now, "record " + e.Act, e.Target}) })
			},
		})
	}
	for range int(40 * time.Minute / Window) { // the past
		w.Advance()
	}
	o, err := start()
	if err != nil {
		return Outcome{}, err
	}
	r := Outcome{}
	begin, limit, reborn := w.Now, s.For, time.Time{}
	if limit == 0 {
		kp := policy.For(proposal.Kind, proposal.Service)
		limit = Most(&kp.Plan)
	}
	var first, clear time.Time
	writes := int64(-1)
	for w.Now.Sub(begin) < limit && ctx.Err() == nil {
		w.Advance()
		if w.dead {
			if reborn.IsZero() {
				r.Deaths++
				reborn = w.Now.Add(deathLasts)
			}
			if !w.Now.Before(reborn) {
				w.dead, reborn = false, time.Time{}
				if o, err = start(); err != nil {
					return Outcome{}, err
				}
			}
		}
		// Errors of both are the world's: what failed is tried again.
		since := w.Now.Sub(begin)
		if !w.dead && since%time.Minute == Window {
			o.Consider(ctx, tenant)
		}
		if !w.dead && int(since/Window)%max(1, s.Every) == 0 {
			o.Tick(ctx, tenant)
		}
		if s.Meddle != nil && !w.dead {
			s.Meddle(ctx, o, w, proposal.ID())
		}
		on, all := w.On()
		r.NodeHours += float64(on) * Window.Hours()
		r.MostOn = max(r.MostOn, on)
		if on > 0 && first.IsZero() {
			first = w.Now
		}
		if on == 0 && !first.IsZero() && clear.IsZero() {
			clear = w.Now
		} else if on > 0 {
			clear = time.Time{}
		}
		if writes != j.writes {
			writes = j.writes
			if r.Change, _, err = j.memory.Change(ctx, tenant, proposal.ID()); err != nil {
				return Outcome{}, err
			}
		}
		c := &r.Change
		if why := stageBroken(c, on, all); why != "" {
			r.Broken = append(r.Broken, why)
		}
		if c.State.Ended() && !w.dead && (c.State != optimize.Done || on == all) {
			break
		}
	}
	r.Took = w.Now.Sub(begin)
	r.On, r.Of = w.On()
	r.Effects = w.calls
	if !clear.IsZero() {
		r.Undone = clear.Sub(first)
	}
	if r.Events, err = j.memory.Events(ctx, tenant, proposal.ID(), 0); err != nil {
		return Outcome{}, err
	}
	if r.Rails, err = j.memory.Rails(ctx, tenant); err != nil {
		return Outcome{}, err
	}
	r.Broken = append(r.Broken, broken(w, &r)...)
	return r, nil
}

// stageBroken says that more nodes have the change than its stage may have.
func stageBroken(c *optimize.Change, on, all int) string {
	if c.State != optimize.Applying && c.State != optimize.Dwelling {
		return ""
	}
	units := 0
	for _, u := range c.Units {
		if u.State != optimize.UnitControl && u.State != optimize.UnitGone && u.State != optimize.UnitRefused && u.State != optimize.UnitUndone {
			units++
		}
	}
	if on > units {
		return fmt.Sprintf("at stage %d it is in force at %d nodes, and the journal knows of %d", c.Stage, on, units)
	}
	return ""
}

// broken checks the promises at the end of a run.
func broken(w *World, r *Outcome) (out []string) {
	switch s := r.Change.State; {
	case (s == optimize.Failed || s == optimize.Undone || s == optimize.Withdrawn || s == optimize.Proposed || s == optimize.Waiting) && r.On > 0:
		out = append(out, fmt.Sprintf("it is %s, and in force at %d nodes", s, r.On))
	case s == optimize.Undoing:
		out = append(out, "it is still being undone")
	}
	// Each apply is recorded, and intended in the journal, before; an intent comes after the last undo.
	recorded, intended := map[string]bool{}, map[string]bool{}
	for _, a := range w.Acts {
		switch a.What {
		case "record apply":
			recorded[a.Node] = true
		case "intent":
			intended[a.Node] = true
		case "apply":
			if !recorded[a.Node] {
				out = append(out, fmt.Sprintf("%s: %s was changed and that was not recorded before", a.At.Format(time.TimeOnly), a.Node))
			}
			if !intended[a.Node] {
				out = append(out, fmt.Sprintf("%s: %s was changed and that was not intended before", a.At.Format(time.TimeOnly), a.Node))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// journal is one in memory of an optimizer that may die at each write.
type journal struct {
	w      *World
	memory optimize.Memory
	writes int64
}

func (j *journal) Keep(ctx context.Context, c *optimize.Change, rails *optimize.Rails, events ...optimize.Event) (err error) {
	if dead := j.w.effectOf(func() {
		j.writes++
		if err = j.memory.Keep(ctx, c, rails, events...); err != nil {
			return
		}
		for _, e := range events {
			if e.What == optimize.WhatIntent {
				j.w.Acts = append(j.w.Acts, Act{j.w.Now, "intent", e.Target})
			}
		}
	}); dead != nil {
		return dead
	}
	return err
}

func (j *journal) Change(ctx context.Context, tenant, id string) (optimize.Change, bool, error) {
	if j.w.dead {
		return optimize.Change{}, false, errDead
	}
	return j.memory.Change(ctx, tenant, id)
}

func (j *journal) Changes(ctx context.Context, tenant string, f optimize.Filter) ([]optimize.Change, error) {
	if j.w.dead {
		return nil, errDead
	}
	return j.memory.Changes(ctx, tenant, f)
}

func (j *journal) Events(ctx context.Context, tenant, id string, after int64) ([]optimize.Event, error) {
	return j.memory.Events(ctx, tenant, id, after)
}

func (j *journal) Tenants(ctx context.Context) ([]string, error) { return j.memory.Tenants(ctx) }

func (j *journal) Rails(ctx context.Context, tenant string) (optimize.Rails, error) {
	return j.memory.Rails(ctx, tenant)
}

func (j *journal) Holds(ctx context.Context, tenant string) (optimize.Holds, error) {
	return j.memory.Holds(ctx, tenant)
}

func (j *journal) ChangeHolds(ctx context.Context, tenant string, change func(*optimize.Holds) error) error {
	return j.memory.ChangeHolds(ctx, tenant, change)
}
