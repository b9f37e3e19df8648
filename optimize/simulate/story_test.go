package simulate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
)

// story is a fleet with an optimizer that a test drives.
type story struct {
	*testing.T
	w         *World
	j         *journal
	o         *optimize.Optimizer
	policy    *optimize.Policy
	disabled  string
	recordErr error
	proposals []optimize.Proposal
}

// plant is a proposal; its number makes it one of its own.
func plant(n int) optimize.Proposal {
	return optimize.Proposal{Kind: optimize.Runtime, Service: "checkout", Subject: fmt.Sprint(n), Basis: "v1", Spec: []byte(`{}`), Sentence: "Planted."}
}

func newStory(t *testing.T, f Fleet, e Effect, proposals ...optimize.Proposal) *story {
	s := &story{T: t, w: NewWorld(7, f, e, Trouble{}), policy: quick(), proposals: proposals}
	if proposals == nil {
		s.proposals = []optimize.Proposal{plant(1)}
	}
	s.j = &journal{w: s.w}
	for range int(40 * time.Minute / Window) {
		s.w.Advance()
	}
	var err error
	s.o, err = optimize.New(optimize.Options{
		Journal: s.j, Look: s.w.Look, Now: func() time.Time { return s.w.Now },
		Actuators: map[optimize.Kind]optimize.Actuator{optimize.Runtime: s.w},
		Policy:    func() *optimize.Policy { return s.policy }, Enabled: func() string { return s.disabled },
		Propose: []func(context.Context, string) ([]optimize.Proposal, error){
			func(context.Context, string) ([]optimize.Proposal, error) { return s.proposals, nil },
		},
		Record: func(_ context.Context, e optimize.Entry) error {
			if s.recordErr == nil {
				s.w.Acts = append(s.w.Acts, Act{s.w.Now, "record " + e.Act, e.Target})
			}
			return s.recordErr
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// pass lets time pass.
func (s *story) pass(d time.Duration) {
	for range int(d / Window) {
		s.w.Advance()
		s.o.Consider(s.Context(), tenant)
		s.o.Tick(s.Context(), tenant) // errors are what the tests plant
	}
}

// leap lets much time pass in which nothing is measured.
func (s *story) leap(d time.Duration) {
	s.w.Now = s.w.Now.Add(d)
	s.pass(40 * time.Minute) // and a baseline
}

func (s *story) change(i int) optimize.Change {
	s.Helper()
	c, ok, err := s.j.Change(s.Context(), tenant, s.proposals[i].ID())
	if err != nil || !ok {
		s.Fatalf("proposal %d: there: %t, %v", i, ok, err)
	}
	return c
}

// until lets time pass until a change is in a state.
func (s *story) until(i int, want optimize.State, most time.Duration) optimize.Change {
	s.Helper()
	for end := s.w.Now.Add(most); s.w.Now.Before(end); {
		s.pass(Window)
		if c := s.change(i); c.State == want {
			return c
		}
	}
	c := s.change(i)
	s.history(i)
	s.Fatalf("change %d is %s (%s; held: %s) after %s, want %s", i, c.State, c.Reason, c.Held, most, want)
	return c
}

func (s *story) history(i int) {
	events, _ := s.j.Events(s.Context(), tenant, s.proposals[i].ID(), 0)
	for _, e := range events {
		s.Logf("%s %s %s %s", e.Time.Format(time.TimeOnly), e.What, e.Target, e.Note)
	}
}

func (s *story) on(want int) {
	s.Helper()
	if on, all := s.w.On(); on != want {
		s.Errorf("it is in force at %d of %d nodes, want %d", on, all, want)
	}
}

func (s *story) act(i int, do string) {
	s.Helper()
	if _, err := s.o.Act(s.Context(), tenant, s.proposals[i].ID(), optimize.Action{Do: do, By: "ada"}); err != nil {
		s.Fatalf("%s: %v", do, err)
	}
}

func (s *story) held(i int, want string) {
	s.Helper()
	if c := s.change(i); !strings.Contains(c.Held, want) {
		s.Errorf("change %d is %s and held by %q, want %q", i, c.State, c.Held, want)
	}
}

var good = Effect{CPU: 0.8}

// TestPause: a pause holds what is not proven, for as long as it lasts, and what is in force stays; its clock goes on where it stood.
func TestPause(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 4}, good)
	s.until(0, optimize.Dwelling, time.Minute)
	s.pass(2 * time.Minute)
	if err := s.o.Pause(t.Context(), tenant, "ada", "fair", time.Time{}); err != nil {
		t.Fatal(err)
	}
	s.pass(time.Hour)
	s.held(0, "paused by ada")
	s.on(1)
	if c := s.change(0); c.State != optimize.Dwelling || c.Stage != 0 {
		t.Errorf("after an hour of pause it is %s, stage %d", c.State, c.Stage)
	}
	if err := s.o.Resume(t.Context(), tenant, "ada"); err != nil {
		t.Fatal(err)
	}
	s.pass(2 * time.Minute)
	if c := s.change(0); c.Stage != 0 {
		t.Error("the dwell was cut short by the pause")
	}
	s.until(0, optimize.Done, time.Hour)
	// The same for a change by itself.
	s = newStory(t, Fleet{Nodes: 4}, good)
	s.until(0, optimize.Dwelling, time.Minute)
	s.act(0, "pause")
	s.pass(time.Hour)
	s.on(1)
	s.act(0, "resume")
	s.until(0, optimize.Done, time.Hour)
}

// TestPauseOfPeriods: where one node is switched on and off, a pause lets it stay as it is, and the periods go on after it.
func TestPauseOfPeriods(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 1}, good)
	s.until(0, optimize.Dwelling, time.Minute)
	s.pass(time.Minute)
	on, _ := s.w.On()
	s.act(0, "pause")
	s.pass(30 * time.Minute)
	s.on(on)
	s.act(0, "resume")
	s.until(0, optimize.Done, time.Hour)
	s.pass(time.Minute)
	s.on(1)
}

// TestHarmWhilePaused: a pause keeps nothing from being undone.
func TestHarmWhilePaused(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 4}, Effect{CPU: 2, Late: 3 * time.Minute})
	s.until(0, optimize.Dwelling, time.Minute)
	s.disabled = "The file optimizer.off is there."
	s.until(0, optimize.Failed, 20*time.Minute)
	s.on(0)
	if c := s.change(0); !strings.Contains(strings.ToLower(c.Reason), "cpu per request") {
		t.Errorf("the reason is %q", c.Reason)
	}
}

// TestSwitch: while the switch is off nothing is begun.
func TestSwitch(t *testing.T) {
	s := newStory(t, Fleet{}, good)
	s.disabled = "PROFILER_OPTIMIZER_ENABLED=false."
	s.pass(time.Hour)
	s.held(0, "PROFILER_OPTIMIZER_ENABLED")
	s.on(0)
	for _, a := range s.w.Acts {
		t.Errorf("%+v", a)
	}
}

// TestIncident: an open incident holds as a pause does; one that has an end ends.
func TestIncident(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 4}, good)
	if err := s.o.Incident(t.Context(), tenant, "INC-1", "pager", "disk", true, s.w.Now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	s.pass(30 * time.Minute)
	s.held(0, "INC-1")
	s.on(0)
	s.until(0, optimize.Done, 2*time.Hour)
}

// TestBreaker: after three that failed in a row none is begun for an hour; then one may try, and if it passes all may.
func TestBreaker(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 4}, Effect{CPU: 2}, plant(1), plant(2), plant(3), plant(4), plant(5))
	s.policy.NodeEvery = 0
	all := s.proposals
	for i := range 3 {
		s.proposals = all[:i+1]
		s.until(i, optimize.Failed, time.Hour)
	}
	failed := s.w.Now
	s.proposals = all[:4]
	s.pass(30 * time.Minute)
	s.held(3, "circuit breaker is open")
	s.on(0)
	s.until(3, optimize.Failed, 2*time.Hour)
	if took := s.w.Now.Sub(failed); took < time.Hour {
		t.Errorf("the trial failed after %s", took)
	}
	s.proposals = all
	s.pass(30 * time.Minute)
	s.held(4, "circuit breaker is open")
	s.w.effect.CPU = 0.8
	s.until(4, optimize.Done, 3*time.Hour)
	if r, err := s.j.Rails(t.Context(), tenant); err != nil || len(r.Breakers) != 0 {
		t.Errorf("after a change that passed the breakers are %+v, %v", r.Breakers, err)
	}
}

// TestSticky: what failed is not proposed again, whatever its figures, until what it rests on is another.
func TestSticky(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 4}, Effect{CPU: 2})
	s.policy.NodeEvery = 0
	s.until(0, optimize.Failed, time.Hour)
	s.proposals[0].Spec = []byte(`{"gogc":250}`)
	s.leap(30 * time.Hour)
	if cs, err := s.j.Changes(t.Context(), tenant, optimize.Filter{}); err != nil || len(cs) != 1 {
		t.Fatalf("%d changes, %v", len(cs), err)
	}
	s.proposals[0].Basis = "v2"
	s.pass(time.Minute)
	if c := s.change(0); c.State == optimize.Failed {
		t.Error("on a new basis it is not proposed")
	}
}

// TestMoney: what adds to the bill needs an approval above one amount, and above the other waits for the next month.
func TestMoney(t *testing.T) {
	a, b := plant(1), plant(2)
	a.Cost, b.Cost = 300, 300
	s := newStory(t, Fleet{Nodes: 4}, good, a, b)
	s.policy.NodeEvery = 0
	s.pass(10 * time.Minute)
	s.held(0, "needs an approval")
	s.on(0)
	s.act(0, "approve")
	s.until(0, optimize.Done, time.Hour)
	s.act(1, "approve")
	s.pass(time.Hour)
	s.held(1, "budget of 500")
	s.policy.WithdrawAfter = 1000 * time.Hour
	s.w.Now = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	s.pass(time.Minute)
	if c := s.change(1); c.State != optimize.Applying && c.State != optimize.Dwelling {
		t.Errorf("in the next month it is %s: %s", c.State, c.Held)
	}
}

// TestBudgetGivenBack: what was undone is not in the bill.
func TestBudgetGivenBack(t *testing.T) {
	a := plant(1)
	a.Cost = 40
	s := newStory(t, Fleet{Nodes: 4}, Effect{CPU: 2}, a)
	s.until(0, optimize.Failed, time.Hour)
	if r, err := s.j.Rails(t.Context(), tenant); err != nil || len(r.Spent) != 0 {
		t.Errorf("%v, %v", r.Spent, err)
	}
}

// TestNodeEvery: a node is not changed twice within an hour, by whatever change.
func TestNodeEvery(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 3}, good, plant(1), plant(2))
	s.pass(4 * time.Hour)
	for i := range s.proposals {
		if s.change(i).StartedAt.IsZero() {
			t.Errorf("change %d never began", i)
		}
	}
	last := map[string]time.Time{}
	for _, a := range s.w.Acts {
		if a.What != "intent" {
			continue
		}
		if at, was := last[a.Node]; was && a.At.Sub(at) < time.Hour {
			t.Errorf("%s was changed at %s and again at %s", a.Node, at.Format(time.TimeOnly), a.At.Format(time.TimeOnly))
		}
		last[a.Node] = a.At
	}
}

// TestOneAtATime: of one service one change is under way.
func TestOneAtATime(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 8}, good, plant(1), plant(2))
	s.pass(3 * time.Minute)
	a, b := s.change(0), s.change(1)
	if a.State == optimize.Waiting {
		a, b = b, a
	}
	if a.State != optimize.Dwelling || b.State != optimize.Waiting || !strings.Contains(b.Held, "there is one at a time") {
		t.Errorf("one is %s, the other %s and held by %q", a.State, b.State, b.Held)
	}
}

// TestWindows: outside of the windows nothing begins and nothing is promoted; harm is undone at all times.
func TestWindows(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 4}, good)
	s.policy.Windows = []optimize.Window{{From: 11 * time.Hour, To: 11*time.Hour + 3*time.Minute}}
	s.pass(30 * time.Minute)
	s.held(0, "No change window")
	s.on(0)
	s.until(0, optimize.Dwelling, 2*time.Hour)
	s.pass(3 * time.Hour)
	s.on(1)
	s.held(0, "No change window is open now")
	s.w.effect.CPU = 2
	s.until(0, optimize.Failed, 30*time.Minute)
	s.on(0)
}

// TestDecisions: what a person decides, and what she cannot.
func TestDecisions(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 4}, good, plant(1), plant(2))
	s.policy.Kinds[optimize.Runtime] = optimize.KindPolicy{Mode: optimize.Propose, Plan: quick().Kinds[optimize.Runtime].Plan}
	s.pass(time.Hour)
	s.on(0)
	s.act(1, "reject")
	s.leap(48 * time.Hour)
	if c := s.change(1); c.State != optimize.Withdrawn || !c.Rejected {
		t.Errorf("what was rejected is %s", c.State)
	}
	for _, do := range []string{"undo", "pause", "jump", ""} {
		if _, err := s.o.Act(t.Context(), tenant, s.proposals[0].ID(), optimize.Action{Do: do, By: "ada"}); !errors.Is(err, optimize.ErrState) && !errors.Is(err, optimize.ErrInvalid) {
			t.Errorf("%q of what is proposed: %v", do, err)
		}
	}
	if _, err := s.o.Act(t.Context(), tenant, "nothing", optimize.Action{Do: "start", By: "ada"}); !errors.Is(err, optimize.ErrNotFound) {
		t.Error(err)
	}
	s.act(0, "start")
	s.until(0, optimize.Done, time.Hour)
	s.pass(time.Minute)
	s.on(4)
	s.act(0, "undo")
	s.until(0, optimize.Undone, time.Minute)
	s.on(0)
	s.leap(12 * time.Hour)
	s.on(0)
}

// TestUndoGoesOn: an undo that fails is tried until it is done, and says so.
func TestUndoGoesOn(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 4}, good)
	s.until(0, optimize.Dwelling, time.Minute)
	s.w.Hook = func(call string, _ optimize.Target) error {
		if call == "undo" {
			return errors.New("no route")
		}
		return nil
	}
	s.act(0, "undo")
	s.pass(10 * time.Minute)
	if c := s.change(0); c.State != optimize.Undoing || !strings.Contains(c.Held, "no route") {
		t.Errorf("%s, held by %q", c.State, c.Held)
	}
	s.w.Hook = nil
	s.until(0, optimize.Undone, 2*time.Minute)
	s.on(0)
}

// TestUndoIsProvenFirst: where a rehearsal fails nothing is ever applied.
func TestUndoIsProvenFirst(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 4}, good)
	s.w.Hook = func(call string, _ optimize.Target) error {
		if call == "rehearse" {
			return errors.New("it would not come back")
		}
		return nil
	}
	c := s.until(0, optimize.Undone, 30*time.Minute)
	if !strings.Contains(c.Reason, "would not come back") {
		t.Errorf("the reason is %q", c.Reason)
	}
	for _, a := range s.w.Acts {
		if a.What == "apply" {
			t.Fatalf("%+v", a)
		}
	}
	// Where one target alone refuses, another takes its place.
	s = newStory(t, Fleet{Nodes: 4}, good)
	s.w.Hook = func(call string, t optimize.Target) error {
		if call == "rehearse" && t.ID == "node-00" {
			return optimize.ErrRefused
		}
		return nil
	}
	s.until(0, optimize.Done, time.Hour)
	s.pass(time.Minute)
	s.on(3)
}

// TestRecordFirst: what cannot be recorded is not done; but it is undone.
func TestRecordFirst(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 4}, Effect{CPU: 2, Late: 3 * time.Minute})
	s.recordErr = errors.New("the log is full")
	s.pass(20 * time.Minute)
	s.on(0)
	if c := s.change(0); c.State != optimize.Waiting {
		t.Errorf("it is %s", c.State)
	}
	s.recordErr = nil
	s.until(0, optimize.Dwelling, 10*time.Minute)
	s.recordErr = errors.New("the log is full")
	s.until(0, optimize.Failed, 20*time.Minute)
	s.on(0)
}

// TestEndedByItsTarget: where a target's own guard ends the change it has failed.
func TestEndedByItsTarget(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 4}, good)
	s.until(0, optimize.Dwelling, time.Minute)
	s.w.Stands = func(optimize.Target) (optimize.Standing, string) {
		return optimize.Refused, "the garbage collector took 40 % of the processor time"
	}
	c := s.until(0, optimize.Failed, time.Minute)
	if !strings.Contains(c.Reason, "40 %") {
		t.Errorf("the reason is %q", c.Reason)
	}
	s.w.Stands = nil
	s.pass(time.Minute)
	s.on(0)
}

// TestTend: what is proven is brought to new nodes of the same version, to those that started again, and to no other version.
func TestTend(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 4}, good)
	s.until(0, optimize.Done, time.Hour)
	s.pass(time.Minute)
	s.on(4)
	s.w.birth(s.w.Now, "v1")
	s.w.birth(s.w.Now, "v2")
	s.w.nodes[0].has = nil // it started again
	s.pass(2 * time.Minute)
	s.on(5)
	for _, n := range s.w.nodes {
		if n.Version == "v2" && n.on() {
			t.Error("it is in force at a version that it was not proven on")
		}
		if n.Version == "v1" {
			n.gone, n.has = true, nil
		}
	}
	s.proposals[0].Basis = "v2" // as whoever proposes would
	s.pass(time.Minute)
	s.leap(26 * time.Hour)
	if c, ok, err := s.j.Change(t.Context(), tenant, plant(1).ID()); err != nil || !ok || c.State != optimize.Withdrawn {
		t.Errorf("a day after its version has gone it is %s, %v", c.State, err)
	}
}

// TestRollout: that a new version takes the place of the one that has the change is no harm of it.
func TestRollout(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 6}, good)
	s.until(0, optimize.Dwelling, time.Minute)
	for _, n := range slices.Clone(s.w.nodes) {
		n.gone, n.has = true, nil
		s.w.birth(s.w.Now, "v2")
	}
	c := s.until(0, optimize.Undone, time.Minute)
	if !strings.Contains(c.Reason, "v2 is being rolled out") {
		t.Errorf("the reason is %q", c.Reason)
	}
}

// TestWithdrawn: what is not proposed any more goes after a day.
func TestWithdrawn(t *testing.T) {
	s := newStory(t, Fleet{}, good)
	s.policy.Kinds[optimize.Runtime] = optimize.KindPolicy{Mode: optimize.Propose, Plan: optimize.DefaultPlan()}
	s.pass(time.Minute)
	ps := s.proposals
	s.proposals = nil
	s.leap(25 * time.Hour)
	s.proposals = ps
	if c := s.change(0); c.State != optimize.Withdrawn {
		t.Errorf("it is %s", c.State)
	}
	s.pass(time.Minute)
	if c := s.change(0); c.State != optimize.Proposed {
		t.Errorf("when it is proposed again it is %s", c.State)
	}
}

// TestSubmit: what a person proposes goes the same way; what failed is not taken again on the same basis, and what is wrong is refused.
func TestSubmit(t *testing.T) {
	s := newStory(t, Fleet{Nodes: 4}, Effect{CPU: 2}, plant(1))
	own := s.proposals[0]
	own.Subject = "by hand"
	s.proposals = nil
	s.policy.NodeEvery = 0
	if _, err := s.o.Submit(t.Context(), tenant, own, "ada"); err != nil {
		t.Fatal(err)
	}
	s.proposals = []optimize.Proposal{own} // for until
	s.until(0, optimize.Failed, time.Hour)
	if _, err := s.o.Submit(t.Context(), tenant, own, "ada"); !errors.Is(err, optimize.ErrState) {
		t.Errorf("again: %v", err)
	}
	for name, spoil := range map[string]func(*optimize.Proposal){
		"kind":     func(p *optimize.Proposal) { p.Kind = "magic" },
		"actuator": func(p *optimize.Proposal) { p.Kind = optimize.Patch },
		"service":  func(p *optimize.Proposal) { p.Service = "" },
		"sentence": func(p *optimize.Proposal) { p.Sentence = "" },
		"spec":     func(p *optimize.Proposal) { p.Spec = []byte("{") },
	} {
		p := own
		spoil(&p)
		if _, err := s.o.Submit(t.Context(), tenant, p, "ada"); !errors.Is(err, optimize.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
