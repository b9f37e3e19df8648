package rebalance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
)

// holder is a Mover in memory.
type holder struct {
	peers  map[string]int
	made   map[string]Move
	refuse string // moves to this node
	calls  int
	err    error // of the next Back
}

func newHolder() *holder {
	return &holder{peers: map[string]int{"a": 100, "b": 100, "c": 10, "d": 10}, made: map[string]Move{}}
}

func (h *holder) Nodes(context.Context, string) (out []Node, err error) {
	for id, n := range h.peers {
		out = append(out, Node{ID: id, Peers: n})
	}
	return out, nil
}

func (h *holder) Check(_ context.Context, _ string, m Move) error {
	if m.To == h.refuse {
		return fmt.Errorf("holder: %w: %s is full", optimize.ErrRefused, m.To)
	}
	return nil
}

func (h *holder) Move(ctx context.Context, service, id string, m Move) error {
	h.calls++
	if _, ok := h.made[id]; ok {
		return nil
	}
	if err := h.Check(ctx, service, m); err != nil {
		return err
	}
	h.peers[m.From], h.peers[m.To], h.made[id] = h.peers[m.From]-m.Peers, h.peers[m.To]+m.Peers, m
	return nil
}

func (h *holder) Back(_ context.Context, _, id string, _ Move) error {
	if h.err != nil {
		return h.err
	}
	if m, ok := h.made[id]; ok {
		h.peers[m.From], h.peers[m.To] = h.peers[m.From]+m.Peers, h.peers[m.To]-m.Peers
		delete(h.made, id)
	}
	return nil
}

func (h *holder) Moved(_ context.Context, _, id string, _ Move) (int, bool, error) {
	m, ok := h.made[id]
	return m.Peers, ok, nil
}

func change(moves ...Move) *optimize.Change {
	b, err := json.Marshal(Spec{moves})
	if err != nil {
		panic(err) // strings and numbers
	}
	return &optimize.Change{ID: "c1", Proposal: optimize.Proposal{Kind: optimize.Rebalance, Service: "s", Spec: b}}
}

func TestActuator(t *testing.T) {
	ctx := t.Context()
	h := newHolder()
	a, err := NewActuator(h)
	if err != nil {
		t.Fatal(err)
	}
	c := change(Move{"a", "c", 20}, Move{"b", "d", 10})
	targets, err := a.Targets(ctx, c)
	if err != nil || len(targets) != 1 || !a.Traits(c).Whole {
		t.Fatalf("targets %v, %v", targets, err)
	}
	snap, err := a.Snapshot(ctx, c, targets[0])
	if err != nil || string(snap) != `{"peers":{"a":100,"b":100,"c":10,"d":10}}` {
		t.Fatalf("%s, %v", snap, err)
	}
	is := func(want optimize.Standing, peers string) {
		t.Helper()
		st, word, err := a.Standing(ctx, c, targets[0], snap)
		if got := fmt.Sprint(h.peers); st != want || err != nil || got != peers {
			t.Fatalf("%q (%s), %v, peers %s: want %q and %s", st, word, err, got, want, peers)
		}
	}
	const before, after = "map[a:100 b:100 c:10 d:10]", "map[a:80 b:90 c:30 d:20]"
	if err := errors.Join(a.Undo(ctx, c, targets[0], snap), a.Rehearse(ctx, c, targets[0], snap)); err != nil {
		t.Fatal(err)
	}
	is(optimize.Absent, before)
	for range 2 {
		if err := a.Apply(ctx, c, targets[0], snap); err != nil {
			t.Fatal(err)
		}
		is(optimize.InForce, after)
	}
	delete(h.made, "c1/1") // half of it
	is(optimize.Pending, after)
	h.made["c1/1"] = Move{"b", "d", 10}
	for range 2 {
		if err := a.Undo(ctx, c, targets[0], snap); err != nil {
			t.Fatal(err)
		}
		is(optimize.Absent, before)
	}
}

// TestRefusedHalfway: what is refused is not in force, not even in part.
func TestRefusedHalfway(t *testing.T) {
	h := newHolder()
	h.refuse = "d"
	a, err := NewActuator(h)
	if err != nil {
		t.Fatal(err)
	}
	c := change(Move{"a", "c", 20}, Move{"b", "d", 10})
	if err := a.Rehearse(t.Context(), c, optimize.Target{}, nil); !errors.Is(err, optimize.ErrRefused) {
		t.Errorf("rehearse: %v, want refused", err)
	}
	if err := a.Apply(t.Context(), c, optimize.Target{}, nil); !errors.Is(err, optimize.ErrRefused) || h.peers["a"] != 100 || h.calls != 2 {
		t.Errorf("apply: %v, %v", err, h.peers)
	}
	h.err = errors.New("connection refused")
	if err := a.Apply(t.Context(), c, optimize.Target{}, nil); err == nil || errors.Is(err, optimize.ErrRefused) {
		t.Errorf("what cannot be taken back is not final: %v", err)
	}
	h.err = fmt.Errorf("%w: node c", optimize.ErrGone)
	if err := a.Undo(t.Context(), c, optimize.Target{}, nil); err != nil {
		t.Errorf("undo where a node is gone: %v", err)
	}
}

func TestNodeGone(t *testing.T) {
	h := newHolder()
	a, err := NewActuator(h)
	if err != nil {
		t.Fatal(err)
	}
	delete(h.peers, "c")
	if ts, err := a.Targets(t.Context(), change(Move{"a", "c", 20})); len(ts) != 0 || err != nil {
		t.Errorf("%v, %v: want none", ts, err)
	}
	for _, c := range []*optimize.Change{change(), change(Move{"a", "a", 1}), change(Move{"a", "b", 0}), change(Move{"a", "b", 1}, Move{"b", "d", 1}), {Proposal: optimize.Proposal{Spec: []byte("{")}}} {
		if _, err := a.Targets(t.Context(), c); !errors.Is(err, optimize.ErrRefused) {
			t.Errorf("spec %s: %v", c.Spec, err)
		}
	}
	if _, err := NewActuator(nil); err == nil {
		t.Error("nobody is taken for a mover")
	}
}

// TestBegunAgain: a change that was undone and is begun again makes its moves anew, under names of their own.
func TestBegunAgain(t *testing.T) {
	h := newHolder()
	a, err := NewActuator(h)
	if err != nil {
		t.Fatal(err)
	}
	c, seen := change(Move{"a", "c", 20}), map[string]bool{}
	for i := range 3 {
		c.StartedAt = time.UnixMilli(int64(1767225600000 + i))
		snap, err := a.Snapshot(t.Context(), c, optimize.Target{})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Apply(t.Context(), c, optimize.Target{}, snap); err != nil {
			t.Fatal(err)
		}
		for name := range h.made {
			if seen[name] {
				t.Errorf("a move %s there was before", name)
			}
			seen[name] = true
		}
		if st, _, err := a.Standing(t.Context(), c, optimize.Target{}, snap); st != optimize.InForce || err != nil {
			t.Errorf("%s, %v", st, err)
		}
		if err := a.Undo(t.Context(), c, optimize.Target{}, snap); err != nil || len(h.made) != 0 {
			t.Errorf("%v, %v", h.made, err)
		}
	}
	if len(seen) != 3 {
		t.Errorf("the moves are %v", seen)
	}
}
