package journal_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/control/controltest"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/journal"
	"github.com/quantra-l/quantra/optimize/judge"
)

func TestMain(m *testing.M) {
	code := m.Run()
	controltest.Stop()
	os.Exit(code)
}

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// each runs a test on every journal. open is the journal as one process has it; called again it is another process's on the same.
func each(t *testing.T, f func(t *testing.T, open func() optimize.Journal)) {
	t.Run("memory", func(t *testing.T) {
		m := &optimize.Memory{}
		f(t, func() optimize.Journal { return m })
	})
	onDatabase := func(url string) func(t *testing.T) {
		return func(t *testing.T) {
			if url == "" {
				url = controltest.URL(t)
			}
			f(t, func() optimize.Journal {
				db, err := control.Open(t.Context(), url, control.Options{})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { db.Close() })
				return journal.New(db)
			})
		}
	}
	t.Run("sqlite", onDatabase(filepath.Join(t.TempDir(), "control.db")))
	t.Run("postgres", onDatabase(""))
}

func change(id string, minutes int) *optimize.Change {
	return &optimize.Change{ID: id, Tenant: "t", State: optimize.Proposed, SeenAt: noon.Add(time.Duration(minutes) * time.Minute), ProposedAt: noon,
		Plan:     optimize.DefaultPlan(),
		Units:    []optimize.Unit{{Target: optimize.Target{ID: "n1", Zone: "a"}, State: optimize.UnitApplied, Snapshot: json.RawMessage(`{"gogc":100}`)}},
		Proposal: optimize.Proposal{Kind: optimize.Runtime, Service: "checkout", Sentence: "GOGC 100 -> 300.", Spec: json.RawMessage(`{"gogc":300}`)}}
}

func event(what string, minutes int) optimize.Event {
	return optimize.Event{Time: noon.Add(time.Duration(minutes) * time.Minute), Actor: "optimizer", What: what}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestKeep: what is kept comes back as it was, to every process; who has not seen the last write is told, and changes nothing: neither the
// change, nor its history, nor the rails.
func TestKeep(t *testing.T) {
	each(t, func(t *testing.T, open func() optimize.Journal) {
		j, other, ctx := open(), open(), t.Context()
		c := change("a", 0)
		rails := &optimize.Rails{Spent: map[string]float64{"2026-11": 12.5}, Touched: map[string]time.Time{"n1": noon},
			Breakers: map[optimize.Kind]optimize.Breaker{"": {Failures: 2}, optimize.Runtime: {Failures: 3, OpenUntil: noon.Add(time.Hour), Trial: "x"}}}
		verdict := judge.Verdict{Decision: judge.Pass, Reason: "Fine.", At: noon, Metrics: []judge.MetricVerdict{{Name: "rss", Better: judge.Higher}}}
		must(t, j.Keep(ctx, c, rails, event(optimize.WhatProposed, 0), optimize.Event{Time: noon, Actor: "ada", What: optimize.WhatVerdict, Verdict: &verdict,
			Evidence: []optimize.Evidence{{What: "stage", Link: "/changes/a"}}}))
		if c.Version() != 1 {
			t.Errorf("version %d", c.Version())
		}
		got, ok, err := other.Change(ctx, "t", "a")
		if err != nil || !ok || !reflect.DeepEqual(&got, c) {
			t.Errorf("%v, %v:\n%+v\nwant\n%+v", ok, err, got, c)
		}
		if r, err := other.Rails(ctx, "t"); err != nil || !reflect.DeepEqual(&r, rails) {
			t.Errorf("%+v, %v", r, err)
		}
		events, err := other.Events(ctx, "t", "a", 0)
		if err != nil || len(events) != 2 || events[0].Seq != 1 || events[1].Seq != 2 || !reflect.DeepEqual(*events[1].Verdict, verdict) || events[1].Evidence[0].Link != "/changes/a" {
			t.Errorf("%+v, %v", events, err)
		}

		got.State = optimize.Waiting
		must(t, other.Keep(ctx, &got, nil, event(optimize.WhatStarted, 1)))
		if r, err := j.Rails(ctx, "t"); err != nil || !reflect.DeepEqual(&r, rails) {
			t.Errorf("without rails they were written: %+v, %v", r, err)
		}
		for _, late := range []*optimize.Change{c, change("a", 9)} {
			was := late.Version()
			late.State = optimize.Failed
			if err := j.Keep(ctx, late, &optimize.Rails{}, event(optimize.WhatFailed, 2)); !errors.Is(err, optimize.ErrConflict) {
				t.Errorf("version %d over 2: %v", was, err)
			}
			if late.Version() != was {
				t.Error("its version is another")
			}
		}
		unknown := change("b", 0)
		unknown.SetVersion(3)
		if err := j.Keep(ctx, unknown, nil); !errors.Is(err, optimize.ErrConflict) {
			t.Errorf("version 3 of what was never kept: %v", err)
		}
		if r, _ := j.Rails(ctx, "t"); !reflect.DeepEqual(&r, rails) {
			t.Errorf("half of what conflicted was kept: %+v", r)
		}
		if events, _ := j.Events(ctx, "t", "a", 2); len(events) != 1 || events[0].What != optimize.WhatStarted || events[0].Seq != 3 {
			t.Errorf("%+v", events)
		}
		if got, _, _ := j.Change(ctx, "t", "a"); got.State != optimize.Waiting || got.Version() != 2 {
			t.Errorf("%s of version %d", got.State, got.Version())
		}
		if _, ok, err := j.Change(ctx, "other", "a"); ok || err != nil {
			t.Errorf("another tenant sees it: %v, %v", ok, err)
		}
	})
}

// TestEvents: numbers have no gap over writes, and pages go through all of them.
func TestEvents(t *testing.T) {
	each(t, func(t *testing.T, open func() optimize.Journal) {
		j, ctx := open(), t.Context()
		c := change("a", 0)
		n := 0
		for _, k := range []int{3, 0, 900, 700} {
			var events []optimize.Event
			for range k {
				n++
				e := event(optimize.WhatError, 0)
				e.Note, e.Seq = fmt.Sprint(n), 77 // the journal's numbers count, not the caller's
				events = append(events, e)
			}
			must(t, j.Keep(ctx, c, nil, events...))
		}
		seen := int64(0)
		for {
			page, err := j.Events(ctx, "t", "a", seen)
			must(t, err)
			if len(page) > optimize.MaxEvents {
				t.Fatal(len(page))
			}
			if len(page) == 0 {
				break
			}
			for _, e := range page {
				if seen++; e.Seq != seen || e.Note != fmt.Sprint(seen) {
					t.Fatalf("event %d is %+v", seen, e)
				}
			}
		}
		if seen != int64(n) {
			t.Errorf("%d of %d", seen, n)
		}
		for after, want := range map[int64]string{-2: "1602 1603", -5000: "604", 1603: "", 5000: ""} {
			last, err := j.Events(ctx, "t", "a", after)
			var got []string
			for _, e := range last {
				got = append(got, e.Note)
			}
			if s := strings.Join(got, " "); err != nil || s != want && (want == "" || !strings.HasPrefix(s, want+" ") || len(got) != optimize.MaxEvents) {
				t.Errorf("after %d: %.60s, %v", after, s, err)
			}
		}
		if e, err := j.Events(ctx, "t", "none", 0); err != nil || len(e) != 0 {
			t.Errorf("%v, %v", e, err)
		}
	})
}

// TestChanges: filters, and those that something happened to last come first.
func TestChanges(t *testing.T) {
	each(t, func(t *testing.T, open func() optimize.Journal) {
		j, ctx := open(), t.Context()
		for i, id := range []string{"a", "b", "c", "d"} {
			c := change(id, i)
			switch id {
			case "b":
				c.Kind, c.Service, c.State = optimize.Scale, "billing", optimize.Done
			case "c":
				c.State = optimize.Dwelling
			}
			must(t, j.Keep(ctx, c, nil, event(optimize.WhatProposed, i)))
		}
		a, _, err := j.Change(ctx, "t", "a")
		must(t, err)
		must(t, j.Keep(ctx, &a, nil, event(optimize.WhatWaiting, 10)))
		must(t, j.Keep(ctx, &a, nil)) // nothing happened: it is not older for that
		for _, c := range []struct {
			f    optimize.Filter
			want string
		}{
			{optimize.Filter{}, "a d c b"},
			{optimize.Filter{Limit: 2}, "a d"},
			{optimize.Filter{Service: "checkout", States: []optimize.State{optimize.Proposed}}, "a d"},
			{optimize.Filter{Kinds: []optimize.Kind{optimize.Scale, optimize.PGO}}, "b"},
			{optimize.Filter{States: []optimize.State{optimize.Dwelling, optimize.Done}}, "c b"},
			{optimize.Filter{Since: noon.Add(3 * time.Minute)}, "a d"},
			{optimize.Filter{Service: "none"}, ""},
		} {
			list, err := j.Changes(ctx, "t", c.f)
			must(t, err)
			var ids []string
			for i := range list {
				ids = append(ids, list[i].ID)
			}
			if got := strings.Join(ids, " "); got != c.want {
				t.Errorf("%+v: %q, want %q", c.f, got, c.want)
			}
		}
		other := change("z", 0)
		other.Tenant = "s"
		must(t, j.Keep(ctx, other, nil))
		if ts, err := j.Tenants(ctx); err != nil || fmt.Sprint(ts) != "[s t]" {
			t.Errorf("%v, %v", ts, err)
		}
	})
}

// TestHolds: nobody's change of what holds all changes is lost, and an error of the change's own changes nothing.
func TestHolds(t *testing.T) {
	each(t, func(t *testing.T, open func() optimize.Journal) {
		const people, each = 4, 5
		var all sync.WaitGroup
		for p := range people {
			j := open()
			all.Go(func() {
				for i := range each {
					err := j.ChangeHolds(t.Context(), "t", func(h *optimize.Holds) error {
						if h.Incidents == nil {
							h.Incidents = map[string]optimize.Hold{}
						}
						h.Incidents[fmt.Sprint(p, "/", i)] = optimize.Hold{By: fmt.Sprint(p), At: noon}
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		j := open()
		h, err := j.Holds(t.Context(), "t")
		if err != nil || len(h.Incidents) != people*each {
			t.Errorf("%d of %d are there, %v", len(h.Incidents), people*each, err)
		}
		no := errors.New("no")
		err = j.ChangeHolds(t.Context(), "t", func(h *optimize.Holds) error { h.Incidents = nil; return no })
		if !errors.Is(err, no) {
			t.Error(err)
		}
		if h, _ := j.Holds(t.Context(), "t"); len(h.Incidents) != people*each {
			t.Error("what failed was kept")
		}
		if h, err := j.Holds(t.Context(), "other"); err != nil || h.Paused != nil || h.Incidents != nil {
			t.Errorf("%+v, %v", h, err)
		}
	})
}

// TestRace: of many who write one change at once from the same version one comes through.
func TestRace(t *testing.T) {
	each(t, func(t *testing.T, open func() optimize.Journal) {
		first := open()
		must(t, first.Keep(t.Context(), change("a", 0), nil))
		var all sync.WaitGroup
		won := make(chan string, 4)
		type writer struct {
			j optimize.Journal
			c optimize.Change
		}
		var writers []writer
		for range cap(won) {
			j := open()
			c, _, err := j.Change(t.Context(), "t", "a")
			must(t, err)
			writers = append(writers, writer{j, c})
		}
		for i, w := range writers {
			all.Go(func() {
				j, c := w.j, w.c
				c.Reason = fmt.Sprint(i)
				switch err := j.Keep(t.Context(), &c, nil, event(optimize.WhatWaiting, i)); {
				case err == nil:
					won <- c.Reason
				case !errors.Is(err, optimize.ErrConflict):
					t.Error(err)
				}
			})
		}
		all.Wait()
		close(won)
		c, _, err := first.Change(t.Context(), "t", "a")
		must(t, err)
		events, err := first.Events(t.Context(), "t", "a", 0)
		must(t, err)
		if len(won) != 1 || c.Reason != <-won || len(events) != 1 {
			t.Errorf("%d came through, it is %q, with %d events", len(won)+1, c.Reason, len(events))
		}
	})
}
