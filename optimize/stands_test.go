package optimize_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
)

// group is a service's replicas: what is changed as a whole.
type group struct{ *place }

func (group) Traits(*optimize.Change) optimize.Traits { return optimize.Traits{Whole: true} }

// crowd is an optimizer of a group, whose proposals the test makes.
type crowd struct {
	t *testing.T
	*optimize.Optimizer
	j         *optimize.Memory
	place     *place
	now       time.Time
	policy    *optimize.Policy
	proposals []optimize.Proposal
	asked     optimize.Question
}

func newCrowd(t *testing.T) *crowd {
	c := &crowd{t: t, j: &optimize.Memory{}, place: newPlace(1), now: wednesday, policy: optimize.DefaultPolicy()}
	metric := judge.Metric{Name: "cpu", Critical: true, Tolerate: 1}
	c.policy.Kinds[optimize.Scale] = optimize.KindPolicy{Mode: optimize.Propose, Plan: optimize.Plan{
		Stages:  []optimize.Stage{{Percent: 100, Dwell: time.Minute, Deadline: 10 * time.Minute}},
		Metrics: []judge.Metric{metric}, ApplyWithin: 5 * time.Minute, Baseline: 10 * time.Minute, Judge: judge.Options{MinWindows: 3, WarmUp: -1},
	}}
	var err error
	c.Optimizer, err = optimize.New(optimize.Options{
		Journal: c.j, Actuators: map[optimize.Kind]optimize.Actuator{optimize.Scale: group{c.place}},
		Look:    c.look,
		Propose: []func(context.Context, string) ([]optimize.Proposal, error){func(context.Context, string) ([]optimize.Proposal, error) { return c.proposals, nil }},
		Policy:  func() *optimize.Policy { return c.policy }, Now: func() time.Time { return c.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// look is a flat load, in windows of 10 s.
func (c *crowd) look(_ context.Context, q optimize.Question) (optimize.Sight, error) {
	c.asked = q
	var ps []judge.Point
	for at := q.From; at.Before(q.To); at = at.Add(10 * time.Second) {
		ps = append(ps, judge.Point{From: at, To: at.Add(10 * time.Second), Value: 1, Weight: 10})
	}
	return optimize.Sight{Members: []judge.Member{{Name: "n1", Series: map[string][]judge.Point{"cpu": ps}}}}, nil
}

// replicas proposes another number of them.
func replicas(from, to int, cost float64) optimize.Proposal {
	return optimize.Proposal{
		Kind: optimize.Scale, Service: "checkout", Subject: "here:g", Spec: json.RawMessage(fmt.Sprintf(`{"from":%d,"to":%d}`, from, to)),
		Basis: fmt.Sprint("from ", from), Sentence: fmt.Sprintf("%d -> %d replicas", from, to), Cost: cost, Stands: 15 * time.Minute, Again: 3 * time.Minute,
	}
}

func (c *crowd) after(d time.Duration) {
	c.t.Helper()
	c.now = c.now.Add(d)
	if err := c.Consider(c.t.Context(), "default"); err != nil {
		c.t.Fatal(err)
	}
	if err := c.Tick(c.t.Context(), "default"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *crowd) of(p optimize.Proposal) optimize.Change {
	c.t.Helper()
	got, ok, err := c.j.Change(c.t.Context(), "default", p.ID())
	if err != nil || !ok {
		c.t.Fatalf("%s is not known: %v", p.Sentence, err)
	}
	return got
}

func (c *crowd) do(p optimize.Proposal, what string) {
	c.t.Helper()
	if _, err := c.Act(c.t.Context(), "default", p.ID(), optimize.Action{Do: what, By: "ada"}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *crowd) is(p optimize.Proposal, want optimize.State) {
	c.t.Helper()
	if got := c.of(p); got.State != want {
		c.t.Errorf("at %s %q is %s (%s%s), want %s", c.now.Format("15:04"), p.Sentence, got.State, got.Reason, got.Held, want)
	}
}

// TestStands: a proposal of load is gone soon after it is not made any more, decided or not; one whose figures move keeps its place long
// enough to be decided, and once it is decided; and what is proposed on another basis ends what waits on an old one.
func TestStands(t *testing.T) {
	c := newCrowd(t)
	up, more, down := replicas(4, 8, 80), replicas(4, 9, 100), replicas(8, 7, 0)
	c.proposals = []optimize.Proposal{up}
	c.after(0)
	c.is(up, optimize.Proposed)
	c.proposals = []optimize.Proposal{more}
	c.after(time.Minute)
	c.is(up, optimize.Proposed) // a minute is too little to decide in
	c.after(5 * time.Minute)
	c.is(up, optimize.Withdrawn)
	c.is(more, optimize.Proposed)
	c.do(more, "start")
	c.after(0)
	c.is(more, optimize.Waiting) // for an approval
	c.proposals = []optimize.Proposal{up}
	for range 4 {
		c.after(6 * time.Minute)
		c.is(more, optimize.Waiting) // as it was decided
	}
	c.proposals = nil
	c.after(16 * time.Minute)
	c.is(more, optimize.Withdrawn)

	c.proposals = []optimize.Proposal{up}
	c.after(time.Minute)
	c.do(up, "start")
	c.after(time.Minute)
	c.is(up, optimize.Waiting)
	c.proposals = []optimize.Proposal{down}
	c.after(time.Minute)
	c.is(up, optimize.Withdrawn)
	c.is(down, optimize.Proposed)
	c.proposals = nil
	c.after(16 * time.Minute)
	c.is(down, optimize.Withdrawn)
	if got := c.place.inForce(); got != "[]" {
		t.Errorf("it was made at %s", got)
	}
}

// spent is what changes of this month have added to the bill.
func (c *crowd) spent() float64 {
	c.t.Helper()
	r, err := c.j.Rails(c.t.Context(), "default")
	if err != nil {
		c.t.Fatal(err)
	}
	return r.Spent["2026-11"]
}

// TestWhole: a change of a service as a whole is measured as such, may follow another within the hour that a node is left alone, is
// proposed again after its own time, and gives back what it takes off the bill, which an undo takes again.
func TestWhole(t *testing.T) {
	c := newCrowd(t)
	kp := c.policy.Kinds[optimize.Scale]
	kp.Mode = optimize.Auto
	c.policy.Kinds[optimize.Scale] = kp
	c.policy.ApproveAbove = 1000
	run := func(p optimize.Proposal, spent float64) {
		t.Helper()
		c.place.on = map[string]bool{} // what is there is another number by now
		c.proposals = []optimize.Proposal{p}
		c.after(time.Minute)
		c.proposals = nil
		for range 4 {
			c.after(time.Minute)
		}
		c.is(p, optimize.Done)
		if got := c.spent(); got != spent {
			t.Errorf("after %q: %v a month, want %v", p.Sentence, got, spent)
		}
	}
	up, down, last := replicas(4, 8, 80), replicas(8, 5, -60), replicas(5, 4, -40)
	run(up, 80)
	if !c.asked.Whole || fmt.Sprint(c.asked.Instances) != "[n1]" {
		t.Errorf("it asked for %+v", c.asked)
	}
	run(down, 20)
	run(last, 0)
	run(up, 80) // Again has passed
	c.do(up, "undo")
	c.after(0)
	c.is(up, optimize.Undone)
	if got := c.spent(); got != 0 {
		t.Errorf("undone it costs %v", got)
	}
	run(replicas(3, 6, 40), 40)
	run(replicas(6, 5, -30), 10)
	c.do(replicas(6, 5, -30), "undo")
	c.after(0)
	if got := c.spent(); got != 40 {
		t.Errorf("what was taken off is there again, and the month has %v", got)
	}
}
