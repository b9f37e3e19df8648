package scale_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/scale"
	"github.com/quantra-l/quantra/optimize/scale/scaletest"
)

// memory is a place in memory.
type memory struct {
	groups map[string]*scale.State
	dry    []int // what dry runs asked for
	sets   int
	err    error // of each call
}

func (m *memory) Get(_ context.Context, group string) (scale.State, error) {
	if m.err != nil {
		return scale.State{}, m.err
	}
	g := m.groups[group]
	if g == nil {
		return scale.State{}, fmt.Errorf("memory: %w: no group %q", optimize.ErrGone, group)
	}
	return *g, nil
}

func (m *memory) Set(ctx context.Context, group string, was scale.State, n int, dry bool) error {
	st, err := m.Get(ctx, group)
	if err != nil {
		return err
	}
	if st.ID != was.ID || st.Replicas != was.Replicas {
		return fmt.Errorf("memory: %w: it is %+v", optimize.ErrRefused, st)
	}
	if dry {
		m.dry = append(m.dry, n)
		return nil
	}
	m.sets++
	m.groups[group].Replicas, m.groups[group].Drained = n, false
	return nil
}

func newMemory() *memory {
	return &memory{groups: map[string]*scale.State{"g": {ID: "1", Replicas: 4, Ready: 4, Current: 4}}}
}

func TestMemory(t *testing.T) {
	scaletest.Run(t, func(*testing.T) scaletest.Place {
		m := newMemory()
		return scaletest.Place{
			Replicas: m, Group: "g", Missing: "none",
			Meddle: func(n int) { m.groups["g"].Replicas = n },
			Settle: func() { g := m.groups["g"]; g.Ready, g.Current = g.Replicas, g.Replicas },
			Remove: func() { delete(m.groups, "g") },
		}
	})
}

func made(t *testing.T, p scale.Place, m *memory, from, to int) (*scale.Actuator, *optimize.Change) {
	t.Helper()
	p.Replicas = m
	a, err := scale.NewActuator(scale.ActuatorOptions{Place: scaletest.At("here", p)})
	if err != nil {
		t.Fatal(err)
	}
	spec, err := json.Marshal(scale.Spec{Place: "here", Group: "g", From: from, To: to})
	if err != nil {
		t.Fatal(err)
	}
	return a, &optimize.Change{Proposal: optimize.Proposal{Kind: optimize.Scale, Spec: spec}}
}

func TestRehearseIsBothWays(t *testing.T) {
	m := newMemory()
	a, c := made(t, scale.Place{}, m, 4, 6)
	snap, err := a.Snapshot(t.Context(), c, optimize.Target{})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Rehearse(t.Context(), c, optimize.Target{}, snap); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(m.dry) != "[6 4]" || m.sets != 0 {
		t.Errorf("dry runs %v and %d sets: want 6 and back to 4, and none", m.dry, m.sets)
	}
}

// TestRefusals are changes that are not made, each with its reason.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name     string
		o        scale.Place
		from, to int
		change   func(g *scale.State)
		says     string
	}{
		{"floor", scale.Place{}, 4, 1, nil, "1 replicas are below the floor of 2"},
		{"own floor", scale.Place{Floor: 4}, 4, 3, nil, "below the floor of 4"},
		{"ceiling", scale.Place{Ceiling: 5}, 4, 6, nil, "6 replicas are above the ceiling of 5"},
		{"no change", scale.Place{}, 4, 4, nil, "is no change"},
		{"another number", scale.Place{}, 3, 6, nil, "it has 4 replicas by now"},
		{"owned", scale.Place{}, 4, 6, func(g *scale.State) { g.Owner = "HorizontalPodAutoscaler shop/checkout" }, "HorizontalPodAutoscaler shop/checkout decides"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemory()
			if c.change != nil {
				c.change(m.groups["g"])
			}
			a, ch := made(t, c.o, m, c.from, c.to)
			_, err := a.Snapshot(t.Context(), ch, optimize.Target{})
			if c.name == "floor" || c.name == "own floor" || c.name == "ceiling" {
				err = a.Apply(t.Context(), ch, optimize.Target{}, json.RawMessage(`{"id":"1","replicas":4}`))
			}
			if !errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v: want refused, and %q", err, c.says)
			}
			if m.sets != 0 {
				t.Error("it was set all the same")
			}
		})
	}
}

// TestUndoIsNotHeld: an undo is made whatever the bounds have become, and gives drained replicas their load back.
func TestUndoIsNotHeld(t *testing.T) {
	m := newMemory()
	m.groups["g"].Replicas = 6
	a, c := made(t, scale.Place{Floor: 5, Ceiling: 5}, m, 4, 6)
	snap := json.RawMessage(`{"id":"1","replicas":4,"ready":4,"current":4}`)
	if err := a.Undo(t.Context(), c, optimize.Target{}, snap); err != nil || m.groups["g"].Replicas != 4 {
		t.Fatalf("%v, %+v", err, m.groups["g"])
	}
	m.groups["g"].Drained = true
	if st, word, err := a.Standing(t.Context(), c, optimize.Target{}, snap); st != optimize.Pending || err != nil {
		t.Errorf("drained: it stands %q (%s), %v: want pending", st, word, err)
	}
	if err := a.Undo(t.Context(), c, optimize.Target{}, snap); err != nil || m.groups["g"].Drained || m.sets != 2 {
		t.Errorf("%v, %+v after %d sets: want 2, and no drained replica", err, m.groups["g"], m.sets)
	}
}

// TestMadeAnew: a group of the same name and number that is another one is left.
func TestMadeAnew(t *testing.T) {
	m := newMemory()
	a, c := made(t, scale.Place{}, m, 4, 6)
	snap, err := a.Snapshot(t.Context(), c, optimize.Target{})
	if err != nil {
		t.Fatal(err)
	}
	m.groups["g"].ID = "2"
	for what, err := range map[string]error{
		"rehearse": a.Rehearse(t.Context(), c, optimize.Target{}, snap),
		"apply":    a.Apply(t.Context(), c, optimize.Target{}, snap),
		"undo":     a.Undo(t.Context(), c, optimize.Target{}, snap),
	} {
		if !errors.Is(err, optimize.ErrGone) || m.sets != 0 {
			t.Errorf("%s: %v, %d sets: want gone, and none", what, err, m.sets)
		}
	}
	if st, word, err := a.Standing(t.Context(), c, optimize.Target{}, snap); st != optimize.Gone || err != nil {
		t.Errorf("it stands %q (%s), %v: want gone", st, word, err)
	}
}

func TestUnavailableIsNotFinal(t *testing.T) {
	m := newMemory()
	a, c := made(t, scale.Place{}, m, 4, 6)
	m.err = errors.New("connection refused")
	for what, err := range map[string]error{
		"apply": a.Apply(t.Context(), c, optimize.Target{}, json.RawMessage(`{"id":"1","replicas":4}`)),
		"undo":  a.Undo(t.Context(), c, optimize.Target{}, json.RawMessage(`{"id":"1","replicas":4}`)),
	} {
		if err == nil || errors.Is(err, optimize.ErrRefused) || errors.Is(err, optimize.ErrGone) {
			t.Errorf("%s: %v: want an error that is not final", what, err)
		}
	}
	if err := a.Undo(t.Context(), c, optimize.Target{}, json.RawMessage(`{`)); !errors.Is(err, optimize.ErrRefused) {
		t.Errorf("a snapshot that is none: %v", err)
	}
}

func TestBadActuator(t *testing.T) {
	if _, err := scale.NewActuator(scale.ActuatorOptions{}); err == nil {
		t.Error("one without places is taken")
	}
	a, _ := made(t, scale.Place{}, newMemory(), 4, 5)
	for _, spec := range []string{`{`, `{"place":"here","group":"g","from":2,"to":2}`, `{"place":"here","group":"g","from":2,"to":-1}`} {
		c := &optimize.Change{Proposal: optimize.Proposal{Spec: json.RawMessage(spec)}}
		if _, err := a.Targets(t.Context(), c); !errors.Is(err, optimize.ErrRefused) {
			t.Errorf("spec %s: %v", spec, err)
		}
		if err := a.Check(&c.Proposal); err == nil {
			t.Errorf("spec %s can be proposed", spec)
		}
	}
}

// TestNoPlace: what was taken out of the policy has no targets and takes no proposal; an undo there is no lost cause: it is tried again until
// the place is back.
func TestNoPlace(t *testing.T) {
	a, c := made(t, scale.Place{}, newMemory(), 4, 6)
	c.Spec = json.RawMessage(`{"place":"away","group":"g","from":4,"to":6}`)
	if ts, err := a.Targets(t.Context(), c); err != nil || len(ts) != 0 {
		t.Errorf("%v, %v", ts, err)
	}
	if err := a.Check(&c.Proposal); !errors.Is(err, scale.ErrNoPlace) {
		t.Errorf("%v", err)
	}
	err := a.Undo(t.Context(), c, optimize.Target{}, json.RawMessage(`{"id":"1","replicas":4}`))
	if !errors.Is(err, scale.ErrNoPlace) || errors.Is(err, optimize.ErrRefused) || errors.Is(err, optimize.ErrGone) {
		t.Errorf("%v: want an error that is not final", err)
	}
	for spec, ok := range map[string]bool{
		`{"place":"here","group":"g","from":4,"to":6}`: true, `{"place":"here","group":"g","from":4,"to":1}`: false, `{"place":"here","group":"g","from":4,"to":1001}`: false,
	} {
		if err := a.Check(&optimize.Proposal{Spec: json.RawMessage(spec)}); (err == nil) != ok {
			t.Errorf("%s: %v", spec, err)
		}
	}
}
