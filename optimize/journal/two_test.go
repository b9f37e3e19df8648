package journal_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/control/controltest"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/journal"
)

// service is one that two optimizers can change. It notes who has done what to it.
type service struct {
	mu  sync.Mutex
	on  map[string]bool
	did []string // "first apply n1", in order
	// acted has a token for each act.
	acted chan string
}

// hand is an actuator: one optimizer's hand on the service.
type hand struct {
	name string
	s    *service
}

func (h hand) do(what string, t optimize.Target, on bool) error {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	if on {
		h.s.on[t.ID] = true
	} else {
		delete(h.s.on, t.ID)
	}
	h.s.did = append(h.s.did, h.name+" "+what)
	select {
	case h.s.acted <- h.name + " " + what:
	default:
	}
	return nil
}

func (h hand) Traits(*optimize.Change) optimize.Traits { return optimize.Traits{} }

func (h hand) Targets(context.Context, *optimize.Change) ([]optimize.Target, error) {
	return []optimize.Target{{ID: "n1", Version: "v1"}, {ID: "n2", Version: "v1"}}, nil
}

func (h hand) Snapshot(context.Context, *optimize.Change, optimize.Target) (json.RawMessage, error) {
	return json.RawMessage(`{}`), nil
}

func (h hand) Rehearse(context.Context, *optimize.Change, optimize.Target, json.RawMessage) error {
	return nil
}

func (h hand) Apply(_ context.Context, _ *optimize.Change, t optimize.Target, _ json.RawMessage) error {
	return h.do("apply", t, true)
}

func (h hand) Undo(_ context.Context, _ *optimize.Change, t optimize.Target, _ json.RawMessage) error {
	return h.do("undo", t, false)
}

func (h hand) Standing(_ context.Context, _ *optimize.Change, t optimize.Target, _ json.RawMessage) (optimize.Standing, string, error) {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	if h.s.on[t.ID] {
		return optimize.InForce, "", nil
	}
	return optimize.Absent, "", nil
}

// TestTwo: of two optimizers on one PostgreSQL one acts. When it dies without a word the other takes over where it stood, and takes back
// what is to be taken back.
func TestTwo(t *testing.T) {
	url := controltest.URL(t)
	s := &service{on: map[string]bool{}, acted: make(chan string, 1000)}
	start := func(name string) (*optimize.Runner, *control.DB, func()) {
		db, err := control.Open(t.Context(), url, control.Options{})
		must(t, err)
		t.Cleanup(func() { db.Close() })
		r, err := optimize.NewRunner(optimize.Options{
			Journal: journal.New(db), Actuators: map[optimize.Kind]optimize.Actuator{optimize.Runtime: hand{name, s}},
			Look: func(context.Context, optimize.Question) (optimize.Sight, error) {
				return optimize.Sight{}, errors.New("not measured")
			},
		}, optimize.RunOptions{
			Tenants:   func(context.Context) ([]string, error) { return nil, nil },
			TickEvery: 5 * time.Millisecond, ConsiderEvery: 5 * time.Millisecond, LeaseEvery: 5 * time.Millisecond,
			Lease: func(ctx context.Context, n string) (context.Context, func(), bool, error) {
				l, ok, err := db.Lease(ctx, n, name, 3*time.Second)
				if err != nil || !ok {
					return nil, nil, false, err
				}
				return l.Context(), func() { l.Release() }, true, nil
			},
		})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan bool)
		go func() { defer close(done); r.Run(ctx) }()
		stop := func() { cancel(); <-done }
		t.Cleanup(stop)
		return r, db, stop
	}
	runners := map[string]*optimize.Runner{}
	dbs := map[string]*control.DB{}
	for _, name := range []string{"first", "second"} {
		runners[name], dbs[name], _ = start(name)
	}

	// Both are asked to start changes; only one of them does anything.
	j := journal.New(dbs["second"])
	for i := range 5 {
		c := change(fmt.Sprint("c", i), 0)
		c.Service, c.Units, c.SeenAt = fmt.Sprint("s", i), nil, time.Now()
		must(t, j.Keep(t.Context(), c, nil, event(optimize.WhatProposed, 0)))
		_, err := runners[[]string{"first", "second"}[i%2]].Act(t.Context(), "t", c.ID, optimize.Action{Do: "start", By: "ada"})
		must(t, err)
	}
	next := func(what string) string {
		t.Helper()
		for {
			select {
			case did := <-s.acted:
				if name, ok := strings.CutSuffix(did, " "+what); ok {
					return name
				}
			case <-time.After(time.Minute):
				t.Fatalf("nobody does %s", what)
			}
		}
	}
	leader := next("apply")
	other := map[string]string{"first": "second", "second": "first"}[leader]

	// A change of which something is in force: one that is only begun has nothing to be taken back.
	var list []optimize.Change
	for len(list) == 0 {
		var err error
		list, err = journal.New(dbs[other]).Changes(t.Context(), "t", optimize.Filter{States: []optimize.State{optimize.Dwelling}})
		must(t, err)
	}

	// It dies: its connection goes away with it, and its lease is not given back. What is asked of the other meanwhile is done by the other.
	must(t, dbs[leader].Close())
	for {
		_, err := runners[other].Act(t.Context(), "t", list[0].ID, optimize.Action{Do: "undo", By: "ada"})
		if err == nil {
			break
		}
		if !errors.Is(err, optimize.ErrConflict) {
			t.Fatal(err)
		}
	}
	if name := next("undo"); name != other {
		t.Errorf("%s undoes, and it is dead", name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	turned := false
	for _, did := range s.did {
		if strings.HasPrefix(did, other) {
			turned = true
		} else if turned {
			t.Errorf("both act, by turns: %q", s.did)
			break
		}
	}
	if !turned {
		t.Errorf("%q", s.did)
	}
}
