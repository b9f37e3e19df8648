package builds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
	"github.com/quantra-l/quantra/optimize/pgo"
	"github.com/quantra-l/quantra/optimize/pull"
	"github.com/quantra-l/quantra/optimize/pull/pulltest"
	"github.com/quantra-l/quantra/profile"
)

var wednesday = time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)

const (
	window = 30 * time.Second
	name   = "cmd/checkout/default.pgo"
)

// world is a service in virtual time, with people who build and roll out what they find, and an optimizer that may die at any of its effects.
type world struct {
	t         *testing.T
	now       time.Time
	instances []Instance
	files     map[string][]byte
	where     Where
	hub       *pulltest.Hub
	cpu       float64 // what a request costs with the new build, relative to what it does without
	stacks    float64 // bytes of stacks that the new build has more
	guilty    bool    // main.hash costs more with the new build
	late      bool    // profiles come late: there are none before it is being undone
	profile   []byte
	rename    bool               // each process has a name of its own
	patch     *optimize.Proposal // what is proposed is this, and no profile

	// What people do: they roll out one instance of what they built so long after the profile came, all others later, and roll back so long after it went.
	first, rest, back time.Duration
	there, gone       time.Time
	built             string // the instance that got the build first

	journal             optimize.Memory
	o                   *optimize.Optimizer
	effects, dieAt, ids int
	dieAfter, dead      bool
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, now: wednesday, files: map[string][]byte{}, where: Where{File: name}, cpu: 1, profile: []byte("a profile"),
		first: 10 * time.Minute, rest: 24 * time.Hour, back: 3 * time.Minute}
	for i := range 4 {
		w.instances = append(w.instances, Instance{ID: fmt.Sprint("host-", i+1), Version: "v1", Zone: "a", Started: wednesday.Add(-24 * time.Hour)})
	}
	w.start()
	return w
}

var errDead = errors.New("the optimizer is dead")

func (w *world) effect(f func() error) error {
	if w.dead {
		return errDead
	}
	w.effects++
	if w.effects == w.dieAt && !w.dieAfter {
		w.dead = true
		return errDead
	}
	err := f()
	if w.effects == w.dieAt {
		w.dead = true
		return errDead
	}
	return err
}

type journal struct {
	*optimize.Memory
	w *world
}

func (j journal) Keep(ctx context.Context, c *optimize.Change, r *optimize.Rails, events ...optimize.Event) error {
	return j.w.effect(func() error { return j.Memory.Keep(ctx, c, r, events...) })
}

// open is the world's place.
func (w *world) open(where Where) (Place, error) {
	if where.Pull != nil {
		client, err := pull.New(pull.Options{API: w.hub.URL + "/api/v3", Token: "t"})
		if err != nil {
			return nil, err
		}
		dry, err := pull.New(pull.Options{API: w.hub.URL + "/api/v3", Token: "t", DryRun: &bytes.Buffer{}})
		return &Pulls{Pull: *where.Pull, Client: client, Dry: dry}, err
	}
	return &Files{Name: where.File,
		Read: func(_ context.Context, n string) ([]byte, bool, error) { b, ok := w.files[n]; return b, ok, nil },
		Write: func(_ context.Context, n string, b []byte) error {
			return w.effect(func() error { w.files[n] = b; return nil })
		},
		Remove: func(_ context.Context, n string) error {
			return w.effect(func() error { delete(w.files, n); return nil })
		},
	}, nil
}

func (w *world) actuator() *Actuator {
	a, err := NewActuator(Options{
		Where:     func(service string) (Where, bool) { return w.where, service == "checkout" },
		Open:      w.open,
		Profile:   func(context.Context, string) ([]byte, error) { return w.profile, nil },
		Instances: func(string, string) []Instance { return slices.Clone(w.instances) },
		Now:       func() time.Time { return w.now },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// start makes an optimizer that knows what the journal knows.
func (w *world) start() {
	policy := optimize.DefaultPolicy()
	plan := optimize.DefaultPlan().For(optimize.PGO)
	plan.Stages[0].Dwell, plan.Stages[0].Deadline, plan.Baseline = 10*time.Minute, time.Hour, 15*time.Minute
	for _, k := range []optimize.Kind{optimize.PGO, optimize.Patch} {
		policy.Kinds[k] = optimize.KindPolicy{Mode: optimize.Auto, Plan: plan} // which starts no patch
	}
	var err error
	w.o, err = optimize.New(optimize.Options{
		Journal: journal{&w.journal, w}, Actuators: map[optimize.Kind]optimize.Actuator{optimize.PGO: w.actuator(), optimize.Patch: w.patcher()},
		Policy: func() *optimize.Policy { return policy }, Look: w.look, Now: func() time.Time { return w.now },
		Record: func(context.Context, optimize.Entry) error { return w.effect(func() error { return nil }) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// look measures: the same at each look.
func (w *world) look(_ context.Context, q optimize.Question) (s optimize.Sight, err error) {
	if q.Whole { // as what measures does: of a service as a whole there is one member
		return s, nil
	}
	for _, i := range w.instances {
		if !slices.Contains(q.Instances, i.ID) {
			continue
		}
		m := judge.Member{Name: i.ID, Version: i.Version, Series: map[string][]judge.Point{}}
		for at := q.From.Truncate(window); at.Before(q.To.Add(-window)); at = at.Add(window) {
			if w.rename && at.Before(i.Started) {
				continue // it is a process of its own
			}
			cpu, stacks := 1.0, 8e6
			if i.Version == "v2" && !at.Before(i.Started) {
				cpu, stacks = w.cpu, stacks+w.stacks
			}
			r := rand.New(rand.NewPCG(uint64(at.Unix()), uint64(len(i.ID))+uint64(i.ID[len(i.ID)-1])))
			for _, f := range []struct {
				name  string
				value float64
			}{{"cpu_per_request", 0.01 * cpu}, {"latency_p99", 0.1}, {"rss", 1e8}, {"gc_cpu", 0.1}, {"errors", 0}, {"throughput", 100}, {"stacks", stacks}} {
				m.Series[f.name] = append(m.Series[f.name], judge.Point{From: at, To: at.Add(window), Value: f.value * (1 + 0.01*r.NormFloat64()), Weight: 1000})
			}
		}
		if !q.ProfileFrom.IsZero() && (!w.late || !w.gone.IsZero()) {
			m.Profile, m.Seconds, m.Requests = cpuOf(1), 600, 60000
			if i.ID == w.built && w.guilty {
				m.Profile = cpuOf(4)
			}
			if !w.rename {
				m.Before = cpuOf(1)
			}
		}
		s.Members = append(s.Members, m)
	}
	return s, nil
}

// cpuOf is a CPU profile in which main.hash has so many times its usual tenth.
func cpuOf(hash int64) *profile.Profile {
	nanos := profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
	b := profile.NewBuilder(nanos)
	for _, f := range []struct {
		name string
		n    int64
	}{{"main.work", 5000}, {"main.read", 3000}, {"main.write", 1000}, {"main.hash", 1000 * hash}} {
		root := b.Stack(0, b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String("main.main")})}))
		b.Add(b.Stack(root, b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String(f.name)})})), 0, f.n*10e6)
	}
	p := b.Profile()
	p.Period, p.PeriodType = 10e6, nanos
	return p
}

// people do what they do: they build what is in the file.
func (w *world) people() {
	now := w.files[name]
	if w.hub != nil {
		now = []byte(w.hub.Branch("main")[name])
	}
	has := bytes.Equal(now, w.profile)
	if w.patch != nil {
		has = strings.Contains(w.hub.Branch("main")[priceFile], "time.Since(made)")
	}
	if !has {
		if w.there = (time.Time{}); w.gone.IsZero() {
			w.gone = w.now
		}
		for k := range w.instances {
			if w.now.Sub(w.gone) >= w.back && w.instances[k].Version != "v1" {
				w.restart(k, "v1")
			}
		}
		return
	}
	if w.gone = (time.Time{}); w.there.IsZero() {
		w.there = w.now
	}
	if since := w.now.Sub(w.there); since >= w.first && w.instances[3].Version == "v1" {
		w.restart(3, "v2")
	} else if since >= w.rest {
		for k := range w.instances {
			if w.instances[k].Version == "v1" {
				w.restart(k, "v2")
			}
		}
	}
}

func (w *world) restart(k int, version string) {
	i := &w.instances[k]
	i.Version, i.Started = version, w.now
	if w.rename {
		w.ids++
		i.ID = fmt.Sprintf("pod-%02d", w.ids)
	}
	if version == "v2" && w.built == "" {
		w.built = i.ID
	}
}

func (w *world) proposal() optimize.Proposal {
	if w.patch != nil {
		return *w.patch
	}
	return optimize.Proposal{Kind: optimize.PGO, Service: "checkout", Subject: "profile", Basis: "v1", Sentence: "checkout is built without a profile.",
		Spec: Spec{Where: w.where, Profile: Sum(w.profile), Version: "v1"}.raw()}
}

// propose lets it be proposed, and started by the policy.
func (w *world) propose() string {
	for {
		if c, err := w.o.Submit(w.t.Context(), "t", w.proposal(), "ada"); err == nil {
			return c.ID
		}
		w.pass()
	}
}

// pass lets a window pass. An optimizer that died is followed by another.
func (w *world) pass() {
	w.now = w.now.Add(window)
	w.people()
	if w.dead {
		w.now = w.now.Add(window)
		w.dead = false
		w.start()
	}
	w.o.Tick(w.t.Context(), "t") // errors are what the test plants
}

func (w *world) change(id string) optimize.Change {
	w.t.Helper()
	c, ok, err := w.journal.Change(w.t.Context(), "t", id)
	if err != nil || !ok {
		w.t.Fatalf("change %s: there: %t, %v", id, ok, err)
	}
	return c
}

func (w *world) until(what, id string, most time.Duration, ok func(c *optimize.Change) bool) optimize.Change {
	w.t.Helper()
	for end := w.now.Add(most); w.now.Before(end); {
		w.pass()
		if c := w.change(id); ok(&c) && !w.dead {
			return c
		}
	}
	c := w.change(id)
	events, _ := w.journal.Events(w.t.Context(), "t", id, 0)
	for _, e := range events {
		w.t.Logf("%s %s %s %s", e.Time.Format(time.TimeOnly), e.What, e.Target, e.Note)
	}
	w.t.Fatalf("%s: after %s it is %s (%s; held: %s)", what, most, c.State, c.Reason, c.Held)
	return c
}

func is(s optimize.State) func(*optimize.Change) bool {
	return func(c *optimize.Change) bool { return c.State == s }
}

func awaiting(c *optimize.Change) bool { return c.Awaiting }

// TestGood: a profile is put to its file, waits for a build without being in anybody's way, and is proven beside the version before.
func TestGood(t *testing.T) {
	for _, rename := range []bool{false, true} {
		t.Run(fmt.Sprintf("new names %t", rename), func(t *testing.T) {
			w := newWorld(t)
			w.cpu, w.rename, w.files[name] = 0.9, rename, []byte("an old profile")
			id := w.propose()
			c := w.until("it waits", id, 5*window, awaiting)
			if c.State != optimize.Applying || !strings.Contains(c.Held, "no new version") || !bytes.Equal(w.files[name], w.profile) {
				t.Errorf("it waits as %s: %s", c.State, c.Held)
			}
			c = w.until("a build is out", id, time.Hour, is(optimize.Dwelling))
			if c.Awaiting || !slices.Equal(c.Versions, []string{"v1", "v2"}) {
				t.Errorf("awaiting %t, versions %v", c.Awaiting, c.Versions)
			}
			sides := map[optimize.UnitState]int{}
			for _, u := range c.Units {
				sides[u.State]++
			}
			if sides[optimize.UnitTreated] != 1 || sides[optimize.UnitControl] != 3 {
				t.Errorf("sides %v", sides)
			}
			c = w.until("it is judged", id, 2*time.Hour, is(optimize.Done))
			if c.Saved == nil || c.Saved.Cores.Low <= 0 || c.Verdict.Decision != judge.Pass {
				t.Errorf("saved %+v: %s", c.Saved, c.Reason)
			}
			if !bytes.Equal(w.files[name], w.profile) || string(w.files[name+".before-"+id]) != "an old profile" {
				t.Errorf("files %v", slices.Sorted(maps.Keys(w.files)))
			}
		})
	}
}

// TestBad: what does harm is taken back at once, its function named; it is not undone before what was built with it has gone.
func TestBad(t *testing.T) {
	for _, before := range []string{"", "an old profile"} {
		w := newWorld(t)
		w.cpu, w.guilty, w.back = 1.4, true, 7*time.Minute
		w.late = before != "" // then it is accused of what is known when it is taken back
		if before != "" {
			w.files[name] = []byte(before)
		}
		id := w.propose()
		c := w.until("harm", id, 3*time.Hour, is(optimize.Undoing))
		if string(w.files[name]) != before {
			t.Errorf("the file is %q in the round in which harm was shown", w.files[name])
		}
		since := w.now
		c = w.until("what is to be done is said", id, 2*window, func(c *optimize.Change) bool { return c.Held != "" })
		if !strings.Contains(c.Held, "version v2 still runs at 1 instances: roll back to v1") {
			t.Errorf("held: %s", c.Held)
		}
		c = w.until("the roll-back", id, time.Hour, is(optimize.Failed))
		if w.now.Sub(since) < w.back-window || c.Verdict.Guilty != "main.hash" || !strings.Contains(c.Reason, "main.hash") {
			t.Errorf("it failed %s later; guilty is %q: %s", w.now.Sub(since), c.Verdict.Guilty, c.Reason)
		}
		if len(w.files) != len(before)/max(1, len(before)) {
			t.Errorf("files are left: %v", slices.Sorted(maps.Keys(w.files)))
		}
		if _, err := w.o.Submit(t.Context(), "t", w.proposal(), "ada"); !errors.Is(err, optimize.ErrState) {
			t.Errorf("what failed may be proposed again: %v", err)
		}
	}
}

// TestStacks: memory of stacks is judged, where a few MiB more are no harm.
func TestStacks(t *testing.T) {
	for more, want := range map[float64]optimize.State{3e6: optimize.Done, 30e6: optimize.Failed} {
		w := newWorld(t)
		w.cpu, w.stacks = 0.97, more
		id := w.propose()
		c := w.until("it is judged", id, 8*time.Hour, func(c *optimize.Change) bool { return c.State.Ended() })
		if c.State != want || want == optimize.Failed && !strings.Contains(c.Reason, "goroutine stacks") {
			t.Errorf("%.0f bytes more of stacks: %s, %s", more, c.State, c.Reason)
		}
	}
}

// TestNever: what is never built goes back after the plan's time; what is rolled out everywhere at once cannot be compared, and goes back, too.
func TestNever(t *testing.T) {
	w := newWorld(t)
	w.first = 1000 * time.Hour
	id := w.propose()
	w.until("it waits", id, 5*window, awaiting)
	w.now = w.now.Add(14*24*time.Hour - 3*window)
	w.pass()
	if c := w.change(id); c.State != optimize.Applying {
		t.Errorf("within its time it is %s", c.State)
	}
	c := w.until("its time is over", id, 10*time.Minute, is(optimize.Undone))
	if len(w.files) != 0 || !strings.Contains(c.Reason, "did not come into force") {
		t.Errorf("%s; files %v", c.Reason, w.files)
	}

	w = newWorld(t)
	w.cpu, w.rest = 0.9, w.first+time.Minute
	id = w.propose()
	c = w.until("nothing can be compared", id, 12*time.Hour, is(optimize.Undone))
	if len(w.files) != 0 || !strings.Contains(c.Reason, "could not be shown to be good in time") {
		t.Errorf("%s; files %v", c.Reason, w.files)
	}
}

// TestMeanwhile: another version that is rolled out ends it, as does somebody who puts the file back; a person's wish does at any time.
func TestMeanwhile(t *testing.T) {
	w := newWorld(t)
	id := w.propose()
	w.until("a build is out", id, time.Hour, is(optimize.Dwelling))
	w.restart(0, "v3")
	c := w.until("another version", id, 20*time.Minute, func(c *optimize.Change) bool { return c.State.Ended() })
	if c.State != optimize.Undone || !strings.Contains(c.Reason, "v3") || len(w.files) != 0 {
		t.Errorf("%s: %s", c.State, c.Reason)
	}

	w = newWorld(t)
	id = w.propose()
	w.until("a build is out", id, time.Hour, is(optimize.Dwelling))
	delete(w.files, name)
	c = w.until("somebody took it back", id, 20*time.Minute, func(c *optimize.Change) bool { return c.State.Ended() })
	if c.State != optimize.Undone || !strings.Contains(c.Reason, "Somebody has taken it back") {
		t.Errorf("%s: %s", c.State, c.Reason)
	}

	w = newWorld(t)
	id = w.propose()
	w.until("it waits", id, 5*window, awaiting)
	w.files[name] = []byte("another's")
	c = w.until("somebody has another", id, 20*time.Minute, func(c *optimize.Change) bool { return c.State.Ended() })
	if c.State != optimize.Undone || string(w.files[name]) != "another's" {
		t.Errorf("%s: %s; the file is %q", c.State, c.Reason, w.files[name])
	}

	w = newWorld(t)
	id = w.propose()
	w.until("it waits", id, 5*window, awaiting)
	if _, err := w.o.Act(t.Context(), "t", id, optimize.Action{Do: "undo", By: "ada"}); err != nil {
		t.Fatal(err)
	}
	w.until("a person's undo", id, 5*window, is(optimize.Undone))
	if len(w.files) != 0 {
		t.Errorf("files are left: %v", w.files)
	}
}

// TestPull: people merge, or do not; the undo of what is merged is another pull request, and is done when that is merged and the build has gone.
func TestPull(t *testing.T) {
	begin := func(t *testing.T) (*world, string) {
		w := newWorld(t)
		w.hub = pulltest.New(t, map[string]string{name: "an old profile"})
		w.where = Where{Pull: &Pull{Repository: "shop/checkout", Path: name}}
		w.cpu, w.guilty = 1.4, true
		id := w.propose()
		c := w.until("it waits", id, 5*window, awaiting)
		if !strings.Contains(c.Held, "pull request 7 waits to be merged") {
			t.Fatalf("held: %s", c.Held)
		}
		return w, id
	}
	t.Run("merged", func(t *testing.T) {
		w, id := begin(t)
		w.until("still it waits", id, 10*time.Minute, func(*optimize.Change) bool { return w.now.Sub(wednesday) > 5*time.Minute })
		if n := len(w.hub.Pulls); n != 1 {
			t.Fatalf("%d pull requests", n)
		}
		w.hub.Merge(7, w.now)
		c := w.until("harm", id, 3*time.Hour, is(optimize.Undoing))
		c = w.until("the pull request back", id, 10*time.Minute, func(c *optimize.Change) bool { return strings.Contains(c.Held, "pull request 8") })
		if !strings.Contains(c.Held, "waits to be merged") || !strings.Contains(c.Held, "roll back to v1") || len(w.hub.Pulls) != 2 {
			t.Errorf("held: %s; %d pull requests", c.Held, len(w.hub.Pulls))
		}
		body := w.hub.Pulls[1]["body"].(string)
		if title := w.hub.Pulls[1]["title"]; title != "default.pgo: back to what it was before #7" || !strings.Contains(body, "It is taken back") || !strings.Contains(body, "main.hash") {
			t.Errorf("%s\n%s", title, body)
		}
		for range 10 {
			w.pass()
		}
		if c := w.change(id); c.State != optimize.Undoing || len(w.hub.Pulls) != 2 {
			t.Errorf("before anybody has merged it is %s, with %d pull requests", c.State, len(w.hub.Pulls))
		}
		w.hub.Merge(8, w.now)
		w.until("the undo", id, time.Hour, is(optimize.Failed))
		if got := w.hub.Branch("main")[name]; got != "an old profile" {
			t.Errorf("the base has %q", got)
		}
	})
	t.Run("closed", func(t *testing.T) {
		w, id := begin(t)
		w.hub.Pulls[0]["state"] = "closed"
		c := w.until("nobody wants it", id, time.Hour, is(optimize.Undone))
		if !strings.Contains(c.Reason, "was closed and not merged") || len(w.hub.Pulls) != 1 {
			t.Errorf("%s; %d pull requests", c.Reason, len(w.hub.Pulls))
		}
	})
	t.Run("undone before it was merged", func(t *testing.T) {
		w, id := begin(t)
		if _, err := w.o.Act(t.Context(), "t", id, optimize.Action{Do: "undo", By: "ada"}); err != nil {
			t.Fatal(err)
		}
		w.until("the undo", id, 10*time.Minute, is(optimize.Undone))
		if w.hub.Pulls[0]["state"] != "closed" || len(w.hub.Pulls) != 1 {
			t.Errorf("%+v", w.hub.Pulls)
		}
	})
	t.Run("the way back is not wanted", func(t *testing.T) {
		w, id := begin(t)
		w.hub.Merge(7, w.now)
		w.until("the pull request back", id, 3*time.Hour, func(c *optimize.Change) bool { return strings.Contains(c.Held, "pull request 8") })
		w.hub.Pulls[1]["state"] = "closed"
		c := w.until("people keep it", id, 10*time.Minute, is(optimize.Failed))
		if note := c.Units[0].Note; !strings.Contains(note, "was closed: the profile stays where it is") {
			t.Errorf("note: %s", note)
		}
	})
	t.Run("no right to write", func(t *testing.T) {
		w := newWorld(t)
		w.hub = pulltest.New(t, nil)
		w.where = Where{Pull: &Pull{Repository: "shop/other", Path: name}}
		id := w.propose()
		c := w.until("it is refused", id, 10*time.Minute, func(c *optimize.Change) bool { return c.State.Ended() })
		if c.State != optimize.Undone || !strings.Contains(c.Reason, "there is none, or the token may not see it") {
			t.Errorf("%s: %s", c.State, c.Reason)
		}
	})
}

// TestCrashPoints: wherever the optimizer dies, before or after an effect, what is good ends as proven, and what is bad as taken back, the file as it was.
func TestCrashPoints(t *testing.T) {
	for _, cpu := range []float64{0.9, 1.4} {
		run := func(dieAt int, after bool) *world {
			w := newWorld(t)
			w.cpu, w.dieAt, w.dieAfter, w.files[name] = cpu, dieAt, after, []byte("an old profile")
			w.first, w.back = time.Minute, time.Minute
			id, want, file := w.propose(), optimize.Done, "a profile"
			if cpu > 1 {
				want, file = optimize.Failed, "an old profile"
			}
			w.until(fmt.Sprintf("died at effect %d (after it: %t)", dieAt, after), id, 8*time.Hour, is(want))
			if string(w.files[name]) != file {
				t.Fatalf("died at effect %d (after it: %t): the file is %q", dieAt, after, w.files[name])
			}
			return w
		}
		effects := run(0, false).effects
		if effects < 10 {
			t.Fatalf("%d effects: there is nothing to die at", effects)
		}
		// Those behind are the verdicts that are kept each half a minute: all alike. Good and bad die at the other side of an effect each.
		for at := 1; at <= min(effects, 24); at += crashStep {
			run(at, (at/crashStep)%2 == 0 == (cpu > 1))
		}
	}
}

// TestProfiled: a new version whose processes say that they were built without a profile is not the one that is waited for.
func TestProfiled(t *testing.T) {
	w := newWorld(t)
	no, yes := false, true
	a := w.actuator()
	c := &optimize.Change{Proposal: w.proposal()}
	j, err := a.job(c.Service, c.Spec)
	if err != nil {
		t.Fatal(err)
	}
	snap := &snapshot{At: w.now, Versions: []string{"v1"}}
	for what, s := range map[string]struct {
		i    Instance
		want int
	}{
		"new":                        {Instance{ID: "a", Version: "v2", Started: w.now.Add(time.Hour)}, 1},
		"new, with a profile":        {Instance{ID: "a", Version: "v2", Started: w.now.Add(time.Hour), Profiled: &yes}, 1},
		"new, without one":           {Instance{ID: "a", Version: "v2", Started: w.now.Add(time.Hour), Profiled: &no}, 0},
		"it ran before":              {Instance{ID: "a", Version: "v0", Started: w.now.Add(-time.Hour)}, 0},
		"of the version before, new": {Instance{ID: "a", Version: "v1", Started: w.now.Add(time.Hour)}, 0},
	} {
		w.instances = append(w.instances[:4:4], s.i)
		treated, control := a.sides(c, j, snap, Look{State: There})
		if len(treated) != s.want || len(control) < 4 {
			t.Errorf("%s: %d treated, %d control", what, len(treated), len(control))
		}
	}
	// Between two merges: what came before the second is not of it.
	w.instances = append(w.instances[:4:4], Instance{ID: "a", Version: "v2", Started: w.now.Add(time.Hour)})
	if treated, _ := a.sides(c, j, snap, Look{State: There, Since: w.now.Add(2 * time.Hour)}); len(treated) > 0 {
		t.Errorf("built before the merge: %v", treated)
	}
}

// TestCheck: a proposal goes only where the policy says.
func TestCheck(t *testing.T) {
	w := newWorld(t)
	a := w.actuator()
	p := w.proposal()
	if err := a.Check(&p); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(p *optimize.Proposal){
		"another file": func(p *optimize.Proposal) { p.Spec = Spec{Where{File: "/etc/passwd"}, Sum(nil), "v1"}.raw() },
		"another place": func(p *optimize.Proposal) {
			p.Spec = Spec{Where{Pull: &Pull{Repository: "a/b", Path: "c"}}, Sum(nil), "v1"}.raw()
		},
		"another service":   func(p *optimize.Proposal) { p.Service = "search" },
		"no profile":        func(p *optimize.Proposal) { p.Spec = Spec{w.where, "", "v1"}.raw() },
		"a way out":         func(p *optimize.Proposal) { p.Spec = Spec{w.where, "../../" + Sum(nil)[6:], "v1"}.raw() },
		"what is not known": func(p *optimize.Proposal) { p.Spec = []byte(`{"file":"x"}`) },
	} {
		p := w.proposal()
		change(&p)
		if err := a.Check(&p); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
}

// good is what a week of a service is proposed on.
func good() Input {
	return Input{Service: "checkout", Where: Where{File: name}, Sum: Sum(nil), Version: "v1", From: wednesday.Add(-7 * 24 * time.Hour), To: wednesday, Cores: 20,
		Made: pgo.Report{Samples: 52000, Instances: 12, Agreement: 0.97, Hot: 310}}
}

// TestPropose: each figure that a proposal rests on is in its sentence, and of the gain where it is from.
func TestPropose(t *testing.T) {
	p := Propose(good())
	if p == nil {
		t.Fatal("nothing is proposed")
	}
	for _, figure := range []string{"built without a profile", "52000 samples of 12 instances over 7 days", "97 %", "310 calls", name, "-4 % CPU (-14 % to 0 %", "go.dev/doc/pgo"} {
		if !strings.Contains(p.Sentence, figure) {
			t.Errorf("%q does not say %q", p.Sentence, figure)
		}
	}
	if p.Saving != 0.8 || p.Basis != "v1" || p.Expected["cpu_per_request"] != (analyze.Estimate{Value: -0.04, Low: -0.14}) || len(p.Warnings) != 1 {
		t.Errorf("%+v", p)
	}
	if _, err := ParseSpec(p.Spec); err != nil {
		t.Error(err)
	}
	in := good()
	in.There, in.Agrees, in.Of = true, 0.5, 12
	if p := Propose(in); p == nil || p.Expected["cpu_per_request"].Low != -0.07 || !strings.Contains(p.Sentence, "agrees with what it does now on 50 %") || !strings.Contains(strings.Join(p.Warnings, " "), "None of 12 instances") {
		t.Errorf("%+v", p)
	}
	in = good()
	in.Profiled, in.Of = 3, 12
	if p := Propose(in); p == nil || !strings.Contains(strings.Join(p.Warnings, " "), "3 of 12 instances say that they were built with a profile") {
		t.Errorf("%+v", p)
	}
	for what, change := range map[string]func(in *Input){
		"few samples":            func(in *Input) { in.Made.Samples = pgo.EnoughSamples - 1 },
		"halves that differ":     func(in *Input) { in.Made.Agreement = 0.89 },
		"halves that nobody has": func(in *Input) { in.Made.Agreement = -1 },
		"nothing hot":            func(in *Input) { in.Made.Hot = 0 },
		"half a day":             func(in *Input) { in.From = in.To.Add(-12 * time.Hour) },
		"as good as it gets":     func(in *Input) { in.There, in.Agrees = true, 0.97 },
		"no place":               func(in *Input) { in.Where = Where{} },
		"cores that cannot be":   func(in *Input) { in.Cores = -1 },
	} {
		in := good()
		change(&in)
		if p := Propose(in); p != nil {
			t.Errorf("%s: %s", what, p.Sentence)
		}
	}
}

// FuzzSpec: a spec that is taken names a place and a profile, and says the same when it is written again.
func FuzzSpec(f *testing.F) {
	f.Add([]byte(Spec{Where{File: name}, Sum(nil), "v1"}.raw()))
	f.Add([]byte(Spec{Where{Pull: &Pull{Repository: "shop/checkout", Path: name, Base: "main"}}, Sum([]byte("x")), ""}.raw()))
	f.Add([]byte(`{"where":{"file":"a","pull_request":{"repository":"a/b","path":"c"}},"profile":""}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := ParseSpec(raw)
		if err != nil {
			return
		}
		if s.Where.Check() != nil || len(s.Profile) != 64 || s.Where.String() == "" {
			t.Errorf("%s is taken", raw)
		}
		if again, err := ParseSpec(s.raw()); err != nil || !again.Where.equal(s.Where) || again.Profile != s.Profile || again.Version != s.Version {
			t.Errorf("%s: %+v, %v", raw, again, err)
		}
	})
}

// TestMarkdown: nothing that a profile or a person says becomes more than text in a pull request.
func TestMarkdown(t *testing.T) {
	for in, want := range map[string]string{
		"demo.(*Ledger).Post":     `demo.\(\*Ledger\).Post`,
		"<img src=x> [a](b) @ada": `\<img src=x\> \[a\]\(b\) <span>@</span>ada`,
		"two\nlines, #7":          "two lines, <span>#</span>7",
		"a `tick` and \xff":       "a \\`tick\\` and \uFFFD",
	} {
		if got := markdown(in, 100); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}
