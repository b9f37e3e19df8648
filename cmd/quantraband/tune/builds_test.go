package tune

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/builds"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// busy is a profile of a Go program: main.work is called by main.main, hot, and main.rest, colder; more is added to the first.
func busy(more int64) *profile.Profile {
	nanos := profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
	b := profile.NewBuilder(nanos)
	at := func(name string, start, line int64) uint32 {
		return b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String(name), StartLine: start, File: b.String("/src/shop/main.go")}), Line: line})
	}
	root := b.Stack(0, at("runtime.main", 100, 140))
	top := b.Stack(root, at("main.main", 10, 20))
	b.Add(b.Stack(top, at("main.work", 30, 33)), 0, (80+more)*1e7)
	b.Add(b.Stack(top, at("main.rest", 50, 51)), 0, 20*1e7)
	p := b.Profile()
	p.Period, p.PeriodType = 1e7, nanos
	return p
}

// TestProfiles: from uploads to a profile for the compiler, which is proposed until the place has one that is as good; a new server
// proposes the same.
func TestProfiles(t *testing.T) {
	began := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	now := began.Add(20 * time.Minute)
	db, err := store.Open(t.Context(), "data", store.Options{FS: vfs.NewMem(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	f, err := fleet.New(fleet.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	upload := func(service, version string, at time.Time, p *profile.Profile) {
		t.Helper()
		labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: service}, profile.Label{Name: profile.LabelInstance, Value: "a-" + version}, profile.Label{Name: profile.LabelVersion, Value: version})
		if err == nil {
			err = db.Append(t.Context(), store.Upload{Name: "process_cpu", Labels: labels, From: at, To: at.Add(10 * time.Second), Profile: p, Pprof: p.AppendPprof(nil)})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		upload("shop", "v1", began.Add(time.Duration(i)*time.Minute), busy(int64(i%3)))
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "src", "default.pgo")
	places := &Places{Token: func() string { return "" }}
	defer places.Close()
	goal := Goal{Service: "shop", Where: builds.Where{File: file}, After: 10 * time.Minute, Warnings: []string{"planted"}}
	begin := func() *Profiles {
		return &Profiles{Store: db, Fleet: f, Dir: filepath.Join(dir, "pgo"), Read: places.Read,
			Goals: func() []Goal { return []Goal{goal, {Service: "nobody", Where: builds.Where{File: "x"}}} }}
	}
	p := begin()
	propose := func(at time.Time) []optimize.Proposal {
		t.Helper()
		ps, err := p.Propose(t.Context(), "", at)
		if err != nil {
			t.Fatal(err)
		}
		return ps
	}
	say(t, f, "a", `,"pgo":false`)
	ps := propose(now)
	if len(ps) != 1 || ps[0].Service != "shop" || ps[0].Basis != "v1" || !slices.Contains(ps[0].Warnings, "planted") || ps[0].Saving <= 0 {
		t.Fatalf("%+v", ps)
	}
	spec, err := builds.ParseSpec(ps[0].Spec)
	if err != nil {
		t.Fatal(err)
	}
	made, err := p.Profile(t.Context(), spec.Profile)
	if err != nil || !bytes.HasPrefix(made, []byte{0x1f, 0x8b}) {
		t.Fatalf("%x, %v", made, err)
	}
	p = begin() // a new server, some minutes later
	if again := propose(now.Add(5 * time.Minute)); len(again) != 1 || again[0].ID() != ps[0].ID() {
		t.Errorf("a new server proposes another: %+v", again)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, made, 0o644); err != nil {
		t.Fatal(err)
	}
	if ps := propose(now.Add(6 * time.Minute)); len(ps) != 0 {
		t.Errorf("what is there is proposed: %s", ps[0].Sentence)
	}
	if err := os.WriteFile(file, []byte("something else"), 0o644); err != nil {
		t.Fatal(err)
	}
	if ps := propose(now.Add(7 * time.Minute)); len(ps) != 1 {
		t.Errorf("what is no profile is left: %+v", ps)
	}
	goal.After = time.Hour
	p = begin()
	p.Dir = filepath.Join(dir, "other")
	if ps := propose(now); len(ps) != 0 {
		t.Errorf("proposed on 20 minutes, where an hour is asked for: %s", ps[0].Sentence)
	}
	if _, err := p.Profile(t.Context(), spec.Profile); !errors.Is(err, optimize.ErrRefused) {
		t.Errorf("a profile that is not there: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pgo", spec.Profile+".pgo"), []byte("torn"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := begin().Profile(t.Context(), spec.Profile); !errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a profile that is damaged: %v", err)
	}
}

// TestPlaces: a file on this machine, and an object in a bucket, are read, written whole, and removed; a place that cannot be is refused for good.
func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	places := &Places{Token: func() string { return "" }}
	for _, name := range []string{filepath.Join(dir, "default.pgo"), "file://" + filepath.ToSlash(dir) + "/bucket/default.pgo"} {
		place, err := places.Open(builds.Where{File: name})
		if err != nil {
			t.Fatal(err)
		}
		f := place.(*builds.Files)
		read := func() string {
			t.Helper()
			b, ok, err := f.Read(t.Context(), f.Name)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if !ok {
				return "none"
			}
			return string(b)
		}
		is := []string{read()}
		for _, text := range []string{"one", "two"} {
			if err := f.Write(t.Context(), f.Name, []byte(text)); err != nil {
				t.Fatal(err)
			}
			is = append(is, read())
		}
		for range 2 {
			if err := f.Remove(t.Context(), f.Name); err != nil {
				t.Fatal(err)
			}
			is = append(is, read())
		}
		if !slices.Equal(is, []string{"none", "one", "two", "none", "none"}) {
			t.Errorf("%s: %v", name, is)
		}
	}
	if err := places.Close(); err != nil {
		t.Error(err)
	}
	for _, w := range []builds.Where{{}, {File: "a/"}, {Pull: &builds.Pull{Repository: "a", Path: "b"}}, {Pull: &builds.Pull{Repository: "a/b", Path: "c", API: "ftp://x"}}} {
		if _, err := places.Open(w); !errors.Is(err, optimize.ErrRefused) {
			t.Errorf("%+v: %v", w, err)
		}
	}
}

// TestBuild: on real processes and a real file: the change stands once a process of a new version has come, and its undo once that has gone.
func TestBuild(t *testing.T) {
	t.Parallel()
	r, _ := newRig(t, "a", "b")
	file := filepath.Join(t.TempDir(), "default.pgo")
	where, pgo := builds.Where{File: file}, []byte("a profile")
	places := &Places{}
	act, err := builds.NewActuator(builds.Options{
		Where: func(string) (builds.Where, bool) { return where, true }, Open: places.Open, Instances: Instances(r.fleet),
		Profile: func(context.Context, string) ([]byte, error) { return pgo, nil }, AnyVersion: true,
	})
	r.must("actuator", err)
	c := change("{}")
	c.ID, c.Kind = "c1", optimize.PGO
	c.Spec, err = json.Marshal(builds.Spec{Where: where, Profile: builds.Sum(pgo), Version: "v7"})
	r.must("spec", err)
	ts, err := act.Targets(r.ctx, c)
	if err != nil || len(ts) != 1 {
		t.Fatalf("%+v, %v", ts, err)
	}
	snap, err := act.Snapshot(r.ctx, c, ts[0])
	r.must("snapshot", err)
	r.must("rehearse", act.Rehearse(r.ctx, c, ts[0], snap))
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the rehearsal has left something: %v", err)
	}
	r.must("apply", act.Apply(r.ctx, c, ts[0], snap))
	stands := func(want optimize.Standing) (note string) {
		t.Helper()
		r.until("standing "+string(want), func() bool {
			s, n, err := act.Standing(r.ctx, c, ts[0], snap)
			r.must("standing", err)
			note = n
			return s == want
		})
		return note
	}
	if why := stands(optimize.Pending); !strings.Contains(why, "version v7 at 2 instances") {
		t.Errorf("it waits: %s", why)
	}
	_, end := r.build("b-new", "v8")
	stands(optimize.InForce)
	s, err := act.Sides(r.ctx, c, ts[0], snap)
	if err != nil || len(s.Treated) != 1 || s.Treated[0].ID != "b-new" || s.Treated[0].Version != "v8" || len(s.Control) != 2 {
		t.Fatalf("%+v, %v", s, err)
	}
	c.State = optimize.Undoing
	c.Units = []optimize.Unit{{Target: s.Treated[0], State: optimize.UnitTreated, Applied: s.Treated[0].Started}}
	r.must("undo", act.Undo(r.ctx, c, ts[0], snap))
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is there after the undo: %v", err)
	}
	if why := stands(optimize.Pending); !strings.Contains(why, "version v8 still runs at 1 instances: roll back to v7") {
		t.Errorf("it is being undone: %s", why)
	}
	end()
	r.build("b-new", "v7") // rolled back
	stands(optimize.Absent)
}

// TestDue: a profile is made again each day, or when what it was made of has grown enough.
func TestDue(t *testing.T) {
	now := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	const week = 7 * 24 * time.Hour
	for what, c := range map[string]struct {
		span      time.Duration
		agreement float64
		later     time.Duration
		want      bool
	}{
		"just made":                 {time.Hour, 0.95, time.Minute, false},
		"twice as much":             {time.Hour, 0.95, time.Hour, true},
		"half as much again":        {time.Hour, 0.95, 30 * time.Minute, false},
		"unsteady, a little more":   {time.Hour, 0.8, 15 * time.Minute, true},
		"unsteady, hardly more":     {time.Hour, 0.8, 10 * time.Minute, false},
		"unsteady, of all there is": {week, 0.8, 20 * time.Hour, false},
		"a day old":                 {week, 0.95, 24 * time.Hour, true},
	} {
		m := made{At: now, From: now.Add(-c.span), To: now}
		m.Report.Agreement = c.agreement
		if got := m.due(week, now.Add(c.later)); got != c.want {
			t.Errorf("%s: %t", what, got)
		}
	}
}
