package simulate

import (
	"fmt"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
)

// quick is a policy whose stages take as long as a verdict does.
func quick() *optimize.Policy {
	p := AutoPolicy()
	k := p.Kinds[optimize.Runtime]
	for i := range k.Plan.Stages {
		k.Plan.Stages[i].Dwell, k.Plan.Stages[i].Deadline = 5*time.Minute, 15*time.Minute
	}
	p.Kinds[optimize.Runtime] = k
	return p
}

func check(t *testing.T, what string, r Outcome, want ...optimize.State) {
	t.Helper()
	ok := false
	for _, s := range want {
		ok = ok || r.Change.State == s
	}
	if !ok {
		t.Errorf("%s: it ended as %s (%s; held: %s), want %v", what, r.Change.State, r.Change.Reason, r.Change.Held, want)
	}
	for _, b := range r.Broken {
		t.Errorf("%s: %s", what, b)
	}
	if r.Change.State == optimize.Done && r.On != r.Of {
		t.Errorf("%s: it is done, and in force at %d of %d nodes", what, r.On, r.Of)
	}
	if t.Failed() {
		for _, e := range r.Events {
			t.Logf("%s %s %s %s %s", e.Time.Format(time.TimeOnly), e.What, e.Target, e.Note, e.Actor)
		}
		t.FailNow()
	}
}

// TestCrashPoints lets the optimizer die before, and after, each single effect that it has in a change that is promoted, and in one that
// is undone: each time another takes up what it left, and it ends as without.
func TestCrashPoints(t *testing.T) {
	for name, s := range map[string]Scenario{
		"good":   {Every: 6, Fleet: Fleet{Nodes: 3}, Effect: Effect{CPU: 0.85}, Policy: quick()},
		"bad":    {Every: 3, Fleet: Fleet{Nodes: 4}, Effect: Effect{CPU: 1.6, P99: 2}, Policy: quick()},
		"single": {Fleet: Fleet{Nodes: 1}, Effect: Effect{CPU: 0.8}, Policy: quick()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plain, err := Run(t.Context(), 1, s)
			if err != nil {
				t.Fatal(err)
			}
			want := optimize.Done
			if name == "bad" {
				want = optimize.Failed
			}
			check(t, "without a crash", plain, want)
			if plain.Effects < 10 {
				t.Fatalf("%d effects: there is nothing to crash at", plain.Effects)
			}
			for at := 1; at <= plain.Effects; at += crashStep {
				for _, after := range []bool{false, true} {
					s.DieAt, s.DieAfter = at, after
					r, err := Run(t.Context(), 1, s)
					if err != nil {
						t.Fatal(err)
					}
					what := fmt.Sprintf("died at effect %d (after it: %t)", at, after)
					if r.Deaths != 1 {
						t.Fatalf("%s: it died %d times", what, r.Deaths)
					}
					check(t, what, r, want)
				}
			}
		})
	}
}
