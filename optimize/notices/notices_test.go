package notices_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/journal"
	"github.com/quantra-l/quantra/optimize/judge"
	"github.com/quantra-l/quantra/optimize/notices"
	"github.com/quantra-l/quantra/watch/alert"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// room is a teller with a real server that hears it, in a time that the test sets.
type room struct {
	t      *testing.T
	now    time.Time
	db     *control.DB
	j      *journal.Journal
	heard  []string // "channel what service", in order
	titles []string
	bodies []string
	answer func(channel string) int
	told   []string
	config *alert.Config
}

func newRoom(t *testing.T, rules string) *room {
	r := &room{t: t, now: noon, answer: func(string) int { return 200 }}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b, err := io.ReadAll(q.Body)
		if err != nil {
			t.Error(err)
		}
		channel := strings.Trim(q.URL.Path, "/")
		if code := r.answer(channel); code != 200 {
			w.WriteHeader(code)
			return
		}
		var m alert.Message
		if err := json.Unmarshal(b, &m); err != nil || m.Change == nil || m.Finding != nil || m.Status != m.Change.What {
			t.Errorf("%v: %s", err, b)
			return
		}
		r.heard = append(r.heard, strings.TrimSpace(channel+" "+m.Change.What+" "+m.Change.Service))
		r.titles, r.bodies = append(r.titles, m.Title()), append(r.bodies, string(b))
	}))
	t.Cleanup(s.Close)
	var err error
	r.config, err = alert.Parse([]byte(strings.ReplaceAll("channels: [{name: a, type: webhook, url: 'BASE/a'}, {name: b, type: webhook, url: 'BASE/b'}]\n"+rules, "BASE", s.URL)), func(string) (string, bool) { return "", false })
	must(t, err)
	r.db, err = control.Open(t.Context(), filepath.Join(t.TempDir(), "control.db"), control.Options{})
	must(t, err)
	t.Cleanup(func() { r.db.Close() })
	r.j = journal.New(r.db)
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tell is a round of a teller that has just been started, after some time.
func (r *room) tell(after time.Duration) string {
	r.t.Helper()
	must(r.t, r.try(r.t.Context(), after))
	s := strings.Join(r.heard, ", ")
	r.heard = nil
	return s
}

func (r *room) try(ctx context.Context, after time.Duration) error {
	r.now = r.now.Add(after)
	teller, err := notices.New(notices.Options{Journal: r.j, Control: r.db, Alerts: func() *alert.Config { return r.config }, Told: func() []string { return r.told },
		Link: func(id string) string { return "http://q/changes/" + id }, Now: func() time.Time { return r.now }})
	must(r.t, err)
	return teller.Tell(ctx, "t")
}

// happens writes to a change what happens to it now.
func (r *room) happens(service string, state optimize.State, events ...optimize.Event) {
	r.t.Helper()
	p := optimize.Proposal{Kind: optimize.Runtime, Service: service, Sentence: "GOGC 100 -> 300.", Price: &analyze.Money{Amount: 190, Currency: "USD"}}
	c, ok, err := r.j.Change(r.t.Context(), "t", p.ID())
	must(r.t, err)
	if !ok {
		c = optimize.Change{ID: p.ID(), Tenant: "t", Proposal: p, ProposedAt: r.now}
	}
	c.State, c.SeenAt = state, r.now
	for i := range events {
		events[i].Time = r.now
		if events[i].Actor == "" {
			events[i].Actor = "optimizer"
		}
	}
	must(r.t, r.j.Keep(r.t.Context(), &c, nil, events...))
}

func what(w string) optimize.Event { return optimize.Event{What: w} }

// TestTold: what happens is told once, in its order, to those who are to hear of it; what is of no use to people is not.
func TestTold(t *testing.T) {
	r := newRoom(t, "changes: [{kinds: [runtime], services: ['check*'], channels: [a]}, {what: [failed, not_undone], channels: [b]}]")
	r.happens("checkout", optimize.Proposed, what(optimize.WhatProposed))
	r.now = r.now.Add(time.Second)
	if got := r.tell(0); got != "" {
		t.Errorf("what was before the first look is told: %s", got)
	}
	r.happens("checkout", optimize.Waiting, optimize.Event{What: optimize.WhatStarted, Actor: "ada", Note: "try it"}, what(optimize.WhatWaiting))
	r.happens("billing", optimize.Proposed, what(optimize.WhatProposed))
	if got := r.tell(time.Second); got != "a started checkout" {
		t.Errorf("%s", got)
	}
	if !strings.Contains(r.bodies[0], `"by":"ada"`) || !strings.Contains(r.bodies[0], `"link":"http://q/changes/`) || r.titles[0] != "Started: GOGC 100 -> 300. Expected: 190 USD a month." {
		t.Errorf("%s %s", r.titles, r.bodies)
	}
	pass, fail := judge.Verdict{Decision: judge.Pass, Reason: "Fine."}, judge.Verdict{Decision: judge.Fail, Reason: "Slow."}
	r.happens("checkout", optimize.Dwelling, what(optimize.WhatStage), what(optimize.WhatIntent), what(optimize.WhatApplied), what(optimize.WhatPaused),
		optimize.Event{What: optimize.WhatVerdict, Verdict: &pass}, optimize.Event{What: optimize.WhatPaused, Actor: "ada"})
	if got := r.tell(time.Second); got != "a verdict checkout, a paused checkout" {
		t.Errorf("%s", got)
	}
	for _, service := range []string{"checkout", "billing"} {
		r.happens(service, optimize.Undoing, optimize.Event{What: optimize.WhatVerdict, Verdict: &fail}, what(optimize.WhatUndoing))
		r.happens(service, optimize.Failed, optimize.Event{What: optimize.WhatFailed, Note: "Slow."})
	}
	got := strings.Split(r.tell(time.Second), ", ")
	slices.Sort(got)
	if want := "[a failed checkout b failed billing b failed checkout]"; fmt.Sprint(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := r.tell(time.Hour); got != "" {
		t.Errorf("told again: %s", got)
	}
	// The policy's channels hear the rest, too.
	r.told = []string{"b", "none"}
	r.happens("billing", optimize.Proposed, what(optimize.WhatProposed))
	if got := r.tell(time.Second); got != "b proposed billing" {
		t.Errorf("%s", got)
	}
}

// TestRestart: ended at any moment between an answer and its mark, one notice is told twice and none is lost; a channel that does not
// answer hears all later, in order, and does not keep others from hearing.
func TestRestart(t *testing.T) {
	r := newRoom(t, "changes: [{channels: [a, b]}]")
	r.tell(0)
	for _, w := range []string{optimize.WhatProposed, optimize.WhatStarted, optimize.WhatDone} {
		r.now = r.now.Add(time.Second)
		r.happens("checkout", optimize.Done, what(w))
	}
	for n := range 6 { // the process ends when the n-th answer has been given
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		r.answer = func(string) int {
			if calls++; calls > 1 {
				cancel()
			}
			return 200
		}
		err := r.try(ctx, time.Second)
		if n == 0 && err == nil {
			t.Fatal("it was not cut off")
		}
		cancel()
	}
	count := map[string]int{}
	for _, h := range r.heard {
		count[h]++
	}
	if len(count) != 6 {
		t.Errorf("of six notices %d were heard: %v", len(count), count)
	}
	for h, n := range count {
		if n > 2 {
			t.Errorf("%s: %d times", h, n)
		}
	}

	r.answer = func(string) int { return 200 }
	r.tell(time.Hour)
	down := true
	r.answer = func(ch string) int {
		if ch == "a" && down {
			return 500
		}
		return 200
	}
	for _, w := range []string{optimize.WhatStarted, optimize.WhatUndone} {
		r.happens("checkout", optimize.Undone, what(w))
		if got := r.tell(time.Second); got != "b "+w+" checkout" {
			t.Errorf("%s", got)
		}
	}
	down = false
	if got := r.tell(time.Second); got != "" {
		t.Errorf("it is tried before its time: %s", got)
	}
	if got := r.tell(5 * time.Second); got != "a started checkout, a undone checkout" {
		t.Errorf("%s", got)
	}
}

// TestNotUndone: an undo that takes long is told once, and one that does not is not.
func TestNotUndone(t *testing.T) {
	r := newRoom(t, "changes: [{what: [not_undone], channels: [a]}]")
	r.tell(0)
	r.happens("quick", optimize.Undoing, what(optimize.WhatUndoing))
	r.happens("slow", optimize.Undoing, what(optimize.WhatUndoing))
	r.tell(time.Second)
	r.happens("quick", optimize.Undone, what(optimize.WhatUndone))
	if got := r.tell(30 * time.Second); got != "" {
		t.Errorf("%s", got)
	}
	if got := r.tell(30 * time.Second); got != "a not_undone slow" {
		t.Errorf("%s", got)
	}
	if !strings.HasPrefix(r.titles[0], "NOT UNDONE YET: ") {
		t.Errorf("%s", r.titles)
	}
	if got := r.tell(time.Hour); got != "" {
		t.Errorf("%s", got)
	}
}

// TestAll: breakers that open, and pauses, are told once each.
func TestAll(t *testing.T) {
	r := newRoom(t, "changes: [{channels: [a]}, {kinds: [scale], what: [breaker], channels: [b]}]")
	r.tell(0)
	open := func(kinds ...optimize.Kind) {
		t.Helper()
		rails := optimize.Rails{Breakers: map[optimize.Kind]optimize.Breaker{optimize.PGO: {Failures: 1}}}
		for _, k := range kinds {
			rails.Breakers[k] = optimize.Breaker{Failures: 3, OpenUntil: noon.Add(3 * time.Hour)}
		}
		c := optimize.Change{ID: fmt.Sprint(len(kinds), r.now.Unix()), Tenant: "t", SeenAt: r.now}
		must(t, r.j.Keep(t.Context(), &c, &rails))
	}
	open(optimize.Runtime)
	if got := r.tell(time.Second); got != "a breaker" {
		t.Errorf("%s", got)
	}
	open(optimize.Runtime, "")
	if got := r.tell(time.Second); got != "a breaker, b breaker" {
		t.Errorf("%s", got)
	}
	open()
	if got := r.tell(time.Second); got != "" {
		t.Errorf("%s", got)
	}
	pause := func(p *optimize.Hold) {
		must(t, r.j.ChangeHolds(t.Context(), "t", func(h *optimize.Holds) error { h.Paused = p; return nil }))
	}
	pause(&optimize.Hold{By: "ada", At: r.now, Note: "release", Until: r.now.Add(time.Hour)})
	if got := r.tell(time.Second) + ";" + r.tell(time.Second); got != "a paused;" {
		t.Errorf("%s", got)
	}
	if last := r.titles[len(r.titles)-1]; !strings.HasPrefix(last, "Paused: All changes are paused until 25 Nov 13:00 UTC.") {
		t.Errorf("%s", last)
	}
	if got := r.tell(time.Hour) + ";" + r.tell(time.Second); got != "a resumed;" {
		t.Errorf("%s", got)
	}
	pause(nil)
	if got := r.tell(time.Second); got != "" {
		t.Errorf("%s", got)
	}
}
