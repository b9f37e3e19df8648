package optimize_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/quantra-l/quantra/optimize"
)

// TestRunnerActs: a runner proposes, starts, watches and undoes by itself, tells how it is, and ends whole; a decision is acted on at once.
func TestRunnerActs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := optimize.DefaultPolicy()
		plan := optimize.DefaultPlan()
		policy.Kinds[optimize.Runtime] = optimize.KindPolicy{Mode: optimize.Auto, Plan: plan}
		j, place, reg := &optimize.Memory{}, newPlace(3), prometheus.NewRegistry()
		r, err := optimize.NewRunner(optimize.Options{
			Journal: j, Actuators: map[optimize.Kind]optimize.Actuator{optimize.Runtime: place}, Policy: func() *optimize.Policy { return policy },
			Look: func(context.Context, optimize.Question) (optimize.Sight, error) {
				return optimize.Sight{}, errors.New("not measured")
			},
			Propose: []func(context.Context, string) ([]optimize.Proposal, error){
				func(context.Context, string) ([]optimize.Proposal, error) { panic("a fault") },
				func(_ context.Context, tenant string) ([]optimize.Proposal, error) {
					return []optimize.Proposal{gogc("of-" + tenant)}, nil
				},
			},
		}, optimize.RunOptions{Tenants: func(context.Context) ([]string, error) { return []string{"b", "a"}, nil }, Registry: reg})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan bool)
		go func() { r.Run(ctx); close(ended) }()

		// One of those who propose panics: that is said, the others are heard, and nothing ends for it.
		time.Sleep(3 * time.Second)
		synctest.Wait()
		s, _, err := r.Status(ctx, "a")
		if err != nil || !s.Leader || s.Ticks == 0 || len(s.Errors) != 1 || !strings.Contains(s.Errors[0], "a fault") {
			t.Errorf("%+v, %v", s, err)
		}
		if err := r.Healthy(); err != nil {
			t.Error(err)
		}
		for _, tenant := range []string{"a", "b"} {
			if l, err := j.Changes(ctx, tenant, optimize.Filter{Service: "of-" + tenant}); err != nil || len(l) != 1 || l[0].State != optimize.Dwelling {
				t.Errorf("of %s: %+v, %v", tenant, l, err)
			}
		}
		cancel()
		<-ended
		if s, _, _ := r.Status(t.Context(), "a"); s.Leader {
			t.Error("it leads after its end")
		}
	})
}

// TestRunnerStory: what the policy starts is undone where nothing can be shown, and that is counted.
func TestRunnerStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := optimize.DefaultPolicy()
		policy.Kinds[optimize.Runtime] = optimize.KindPolicy{Mode: optimize.Auto, Plan: optimize.DefaultPlan()}
		j, place, reg := &optimize.Memory{}, newPlace(3), prometheus.NewRegistry()
		r, err := optimize.NewRunner(optimize.Options{
			Journal: j, Actuators: map[optimize.Kind]optimize.Actuator{optimize.Runtime: place}, Policy: func() *optimize.Policy { return policy },
			Look: func(context.Context, optimize.Question) (optimize.Sight, error) {
				return optimize.Sight{}, errors.New("not measured")
			},
			Propose: []func(context.Context, string) ([]optimize.Proposal, error){func(context.Context, string) ([]optimize.Proposal, error) {
				return []optimize.Proposal{gogc("checkout")}, nil
			}},
		}, optimize.RunOptions{Tenants: func(context.Context) ([]string, error) { return []string{"default"}, nil }, Registry: reg})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan bool)
		go func() { r.Run(ctx); close(ended) }()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if place.inForce() != "[n1]" {
			t.Errorf("after 20 s it is in force at %s", place.inForce())
		}
		time.Sleep(31 * time.Minute) // past the deadline
		synctest.Wait()
		list, err := j.Changes(ctx, "default", optimize.Filter{})
		if err != nil || len(list) != 1 || list[0].State != optimize.Undone || place.inForce() != "[]" {
			t.Errorf("%+v, %v, in force at %s", list, err, place.inForce())
		}
		metrics := `
# HELP quantra_changes Changes by kind and state, as the server that acts counted them last.
# TYPE quantra_changes gauge
quantra_changes{kind="runtime",state="undone"} 1
# HELP quantra_optimizer_leader 1 on the server that acts.
# TYPE quantra_optimizer_leader gauge
quantra_optimizer_leader 1
# HELP quantra_optimizer_verdicts_total Verdicts that ended a stage, by kind and decision.
# TYPE quantra_optimizer_verdicts_total counter
quantra_optimizer_verdicts_total{decision="hold",kind="runtime"} 1
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(metrics), "quantra_changes", "quantra_optimizer_leader", "quantra_optimizer_verdicts_total"); err != nil {
			t.Error(err)
		}
		if n := testutil.CollectAndCount(reg, "quantra_optimizer_undo_seconds"); n != 1 {
			t.Errorf("%d", n)
		}
		cancel()
		<-ended
	})
}

// TestRunnerStuck: a round that hangs makes the server say so; rounds never overlap.
func TestRunnerStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var inside, most atomic.Int32
		slow := func(ctx context.Context) ([]string, error) {
			most.Store(max(most.Load(), inside.Add(1)))
			defer inside.Add(-1)
			<-ctx.Done()
			return nil, fmt.Errorf("cut off: %w", ctx.Err())
		}
		r, err := optimize.NewRunner(optimize.Options{Journal: &optimize.Memory{}, Look: func(context.Context, optimize.Question) (optimize.Sight, error) {
			return optimize.Sight{}, nil
		}}, optimize.RunOptions{Tenants: slow})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan bool)
		go func() { r.Run(ctx); close(ended) }()
		time.Sleep(time.Minute)
		if err := r.Healthy(); err != nil {
			t.Errorf("after a minute: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if err := r.Healthy(); err == nil {
			t.Error("it hangs, and says that it is well")
		}
		if most.Load() != 2 { // the loop of changes, and that of proposals
			t.Errorf("%d at once", most.Load())
		}
		cancel()
		<-ended
	})
}
