// Package scaletest holds every place of replicas to the same contract, and the actuator on it to the optimizer's.
package scaletest

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/scale"
)

// Place is one that is tested, with a group of 4 replicas that all bear load.
type Place struct {
	Replicas scale.Replicas
	Group    string
	Missing  string // a group that there is not
	// Meddle sets the number as somebody else would.
	Meddle func(n int)
	// Settle waits, or lets happen, until as many as are asked for bear load.
	Settle func()
	// Remove takes the group away. nil is a place that cannot.
	Remove func()
}

// At is an actuator's Place where there is one place.
func At(name string, p scale.Place) func(*optimize.Change, scale.Spec) (scale.Place, error) {
	return func(_ *optimize.Change, s scale.Spec) (scale.Place, error) {
		if s.Place != name {
			return scale.Place{}, scale.ErrNoPlace
		}
		return p, nil
	}
}

// Run runs the suite on places that open makes; each is used once.
func Run(t *testing.T, open func(t *testing.T) Place) {
	t.Run("set", func(t *testing.T) { set(t, open(t)) })
	t.Run("story", func(t *testing.T) { story(t, open(t)) })
	t.Run("meddled", func(t *testing.T) { meddled(t, open(t)) })
	t.Run("gone", func(t *testing.T) { gone(t, open(t)) })
}

func (p *Place) get(t *testing.T) scale.State {
	t.Helper()
	st, err := p.Replicas.Get(t.Context(), p.Group)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	return st
}

func set(t *testing.T, p Place) {
	ctx := t.Context()
	was := p.get(t)
	if was.Replicas != 4 || was.Ready != 4 || was.Current != 4 || was.Owner != "" || was.Drained {
		t.Fatalf("it begins as %+v: want 4 replicas that bear load, and are nobody's", was)
	}
	for _, n := range []int{5, 4, 3} {
		if err := p.Replicas.Set(ctx, p.Group, was, n, true); err != nil {
			t.Errorf("dry run of %d: %v", n, err)
		}
	}
	if st := p.get(t); st.Replicas != 4 || st.ID != was.ID {
		t.Fatalf("a dry run left %+v", st)
	}
	for _, n := range []int{6, 6, 3} {
		before := p.get(t)
		if err := p.Replicas.Set(ctx, p.Group, before, n, false); err != nil {
			t.Fatalf("set %d: %v", n, err)
		}
		p.Settle()
		if st := p.get(t); st.Replicas != n || st.Ready != n || st.Current != n || st.ID != was.ID {
			t.Fatalf("set %d left %+v", n, st)
		}
	}
	if err := p.Replicas.Set(ctx, p.Group, was, 5, false); !errors.Is(err, optimize.ErrRefused) {
		t.Errorf("set with what was there before the last set: %v, want refused", err)
	}
	if st := p.get(t); st.Replicas != 3 {
		t.Errorf("a refused set left %+v", st)
	}
}

func change(t *testing.T, group string, from, to int) *optimize.Change {
	t.Helper()
	spec, err := json.Marshal(scale.Spec{Place: "here", Group: group, From: from, To: to})
	if err != nil {
		t.Fatal(err)
	}
	return &optimize.Change{ID: "c1", Tenant: "t", Proposal: optimize.Proposal{Kind: optimize.Scale, Service: "s", Spec: spec}}
}

func actuator(t *testing.T, p Place) *scale.Actuator {
	t.Helper()
	a, err := scale.NewActuator(scale.ActuatorOptions{Place: At("here", scale.Place{Replicas: p.Replicas})})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// story is a change up and one down, each made and undone, each step twice as after a crash.
func story(t *testing.T, p Place) {
	ctx := t.Context()
	a := actuator(t, p)
	for _, to := range []int{6, 3} {
		c := change(t, p.Group, 4, to)
		targets, err := a.Targets(ctx, c)
		if err != nil || len(targets) != 1 {
			t.Fatalf("targets: %v, %v", targets, err)
		}
		target := targets[0]
		snap, err := a.Snapshot(ctx, c, target)
		if err != nil {
			t.Fatal(err)
		}
		stands := func(want optimize.Standing) {
			t.Helper()
			got, word, err := a.Standing(ctx, c, target, snap)
			if err != nil || got != want {
				t.Fatalf("to %d: it stands %q (%s), %v: want %q", to, got, word, err, want)
			}
		}
		twice := func(what string, do func() error) {
			t.Helper()
			for range 2 {
				if err := do(); err != nil {
					t.Fatalf("to %d: %s: %v", to, what, err)
				}
			}
		}
		stands(optimize.Absent)
		twice("undo of what was never made", func() error { return a.Undo(ctx, c, target, snap) })
		twice("rehearse", func() error { return a.Rehearse(ctx, c, target, snap) })
		stands(optimize.Absent)
		twice("apply", func() error { return a.Apply(ctx, c, target, snap) })
		p.Settle()
		stands(optimize.InForce)
		twice("apply again", func() error { return a.Apply(ctx, c, target, snap) })
		twice("undo", func() error { return a.Undo(ctx, c, target, snap) })
		p.Settle()
		stands(optimize.Absent)
	}
}

// meddled: what somebody else has set is left.
func meddled(t *testing.T, p Place) {
	ctx := t.Context()
	a := actuator(t, p)
	c := change(t, p.Group, 4, 6)
	var target optimize.Target
	snap, err := a.Snapshot(ctx, c, target)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, optimize.ErrRefused) {
			t.Errorf("%s: %v, want refused", what, err)
		}
		if st := p.get(t); st.Replicas != 5 {
			t.Fatalf("%s: somebody else's 5 became %d", what, st.Replicas)
		}
	}
	p.Meddle(5)
	refused("rehearse", a.Rehearse(ctx, c, target, snap))
	refused("apply", a.Apply(ctx, c, target, snap))
	if got, word, err := a.Standing(ctx, c, target, snap); got != optimize.Refused || err != nil {
		t.Errorf("it stands %q (%s), %v: want refused", got, word, err)
	}
	if got, err := a.Targets(ctx, c); len(got) != 0 || err != nil {
		t.Errorf("targets %v, %v: want none", got, err)
	}
	_, err = a.Snapshot(ctx, c, target)
	refused("snapshot", err)
	p.Meddle(4)
	if err := a.Apply(ctx, c, target, snap); err != nil {
		t.Fatal(err)
	}
	p.Settle()
	p.Meddle(5)
	refused("undo", a.Undo(ctx, c, target, snap))
}

func gone(t *testing.T, p Place) {
	ctx := t.Context()
	if _, err := p.Replicas.Get(ctx, p.Missing); !errors.Is(err, optimize.ErrGone) {
		t.Errorf("get of what is not there: %v, want gone", err)
	}
	if p.Remove == nil {
		return
	}
	a := actuator(t, p)
	c := change(t, p.Group, 4, 6)
	snap, err := a.Snapshot(ctx, c, optimize.Target{})
	if err != nil {
		t.Fatal(err)
	}
	p.Remove()
	for what, err := range map[string]error{
		"apply":    a.Apply(ctx, c, optimize.Target{}, snap),
		"undo":     a.Undo(ctx, c, optimize.Target{}, snap),
		"rehearse": a.Rehearse(ctx, c, optimize.Target{}, snap),
	} {
		if !errors.Is(err, optimize.ErrGone) {
			t.Errorf("%s: %v, want gone", what, err)
		}
	}
	if got, word, err := a.Standing(ctx, c, optimize.Target{}, snap); got != optimize.Gone || err != nil {
		t.Errorf("it stands %q (%s), %v: want gone", got, word, err)
	}
	if got, err := a.Targets(ctx, c); len(got) != 0 || err != nil {
		t.Errorf("targets %v, %v: want none", got, err)
	}
}
