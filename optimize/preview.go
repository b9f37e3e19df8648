package optimize

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Planned is what would become of a change now, under some policy.
type Planned struct {
	Change Listed `json:"change"`
	Mode   Mode   `json:"mode"`
	// Starts says that it would start by itself now, or has been started and nothing holds it. Why is what keeps it from that.
	Starts bool   `json:"starts"`
	Why    string `json:"why,omitempty"`
	// Stages are how many nodes each stage would have, of Targets; Nodes are those of the first, and Controls those beside them.
	Targets  int      `json:"targets"`
	Stages   []int    `json:"stages"`
	Nodes    []string `json:"nodes"`
	Controls []string `json:"controls"`
	// Warnings is what keeps the rest from being known.
	Warnings []string `json:"warnings,omitempty"`
}

// Preview says what would happen now under a policy with what is proposed or waits. It asks actuators for their targets, and changes
// nothing.
func (o *Optimizer) Preview(ctx context.Context, tenant string, policy *Policy) ([]Planned, error) {
	r := round{Optimizer: o, tenant: tenant, now: o.o.Now().UTC(), policy: policy, busy: map[string]string{}}
	holds, err := o.o.Journal.Holds(ctx, tenant)
	if err != nil {
		return nil, err
	}
	if r.rails, err = o.o.Journal.Rails(ctx, tenant); err != nil {
		return nil, err
	}
	r.frozen = frozen(holds, o.o.Enabled(), r.now)
	changes, err := o.o.Journal.Changes(ctx, tenant, Filter{States: order, Limit: maxChanges})
	if err != nil {
		return nil, err
	}
	for i := range changes {
		if changes[i].busies() {
			r.busy[changes[i].Service] = changes[i].ID
		}
	}
	r.all = changes
	// As a round goes: what waits before what is proposed, the oldest first.
	slices.SortStableFunc(changes, func(a, b Change) int { return a.ProposedAt.Compare(b.ProposedAt) })
	var out []Planned
	for _, state := range []State{Waiting, Proposed} {
		for i := range changes {
			if changes[i].State == state {
				out = append(out, r.preview(ctx, &changes[i]))
			}
		}
	}
	return out, nil
}

// preview is what would become of one. What starts is in the way of those behind it.
func (r *round) preview(ctx context.Context, c *Change) Planned {
	kp := r.policy.For(c.Kind, c.Service)
	marked := *c
	r.policy.mark(&marked)
	p := Planned{Change: listed(marked), Mode: kp.Mode, Stages: []int{}, Nodes: []string{}, Controls: []string{}}
	act := r.o.Actuators[c.Kind]
	breakers := maps.Clone(r.rails.Breakers) // asking for a trial takes it
	switch {
	case act == nil:
		p.Why = fmt.Sprintf("This server makes no changes of the kind %s.", c.Kind)
		return p
	case c.State == Proposed && kp.Mode != Auto:
		p.Why = "Nobody has started it."
		if kp.Mode == Off {
			p.Why = r.blocked(c, &kp)
		}
	default:
		p.Why = r.blocked(c, &kp)
	}
	c.Beside = r.beside(c)
	targets, err := r.targets(ctx, c, act)
	if err != nil {
		p.Warnings = append(p.Warnings, fmt.Sprintf("Its targets could not be asked for: %v.", err))
		return p
	}
	p.Targets = len(targets)
	trial := *c
	trial.Plan, trial.Stage, trial.Units = kp.Plan, 0, nil
	tr := act.Traits(c)
	if tr.Whole || len(targets) == 1 {
		trial.Plan.Stages = trial.Plan.Stages[:1]
	}
	fresh, next := freshIn(targets, r.rails.Touched, r.now, r.nodeEvery(tr))
	planned := len(targets) > 0 && r.plan(&trial, targets, fresh)
	switch {
	case p.Why != "":
	case len(targets) == 0:
		p.Why = "There is nothing now that it could be applied to."
	case len(targets) == 1 && !tr.Whole && !tr.Toggles:
		p.Why = "There is one node only: it needs a second one to be compared with."
	case !planned:
		p.Why = fmt.Sprintf("Each node was changed less than %s ago; the first is free at %s.", r.policy.NodeEvery, next.Format("15:04 MST"))
	}
	if len(targets) > 0 {
		for i := range trial.Plan.Stages {
			p.Stages = append(p.Stages, trial.want(i, len(targets)))
		}
	}
	for i := range trial.Units {
		if u := &trial.Units[i]; u.State == UnitPlanned {
			p.Nodes = append(p.Nodes, u.ID)
		} else {
			p.Controls = append(p.Controls, u.ID)
		}
	}
	if p.Starts = p.Why == ""; !p.Starts {
		r.rails.Breakers = breakers
		return p
	}
	r.busy[c.Service] = c.ID
	trial.StartedAt = r.now
	r.spend(&trial)
	for _, id := range p.Nodes {
		r.touch(id)
	}
	return p
}
