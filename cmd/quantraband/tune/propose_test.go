package tune

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/measure"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// say is a poll of an agent that has GOGC 60 under 256 MiB.
func say(t *testing.T, f *fleet.Fleet, instance, more string) {
	t.Helper()
	mux := http.NewServeMux()
	f.Register(mux)
	body := fmt.Sprintf(`{"service":"shop","version":"v1","instance":%q,"settings":{"gogc":60,"gomemlimit":268435456,"gomaxprocs":2}%s}`, instance, more)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("POST", "/api/v1/agents/poll", strings.NewReader(body)))
	if w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
}

// fill keeps ten minutes of three instances: 16 % of the CPU is marking, 20 MiB are live, the goal is that of GOGC 60. The one that is gone was full.
func fill(t *testing.T, db *store.DB, began time.Time) {
	t.Helper()
	send := func(name, instance string, at time.Time, p *profile.Profile) {
		labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: "shop"}, profile.Label{Name: profile.LabelInstance, Value: instance})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Append(t.Context(), store.Upload{Name: name, Labels: labels, From: at, To: at.Add(10 * time.Second), Profile: p, Pprof: p.AppendPprof(nil)}); err != nil {
			t.Fatal(err)
		}
	}
	figures := map[string]int64{"process_cpu": 5e9, "gc_cpu": 1e9, "heap_live": 20 << 20, "heap_goal": 32 << 20, "memory": 50 << 20, "rss": 60 << 20, "cores": 4, "machine_load": 2000, "sched_latency_time": 1e8}
	for i := range 60 {
		for _, instance := range []string{"a", "b", "gone"} {
			at := began.Add(time.Duration(i) * 10 * time.Second)
			var types []profile.ValueType
			for name := range figures {
				types = append(types, profile.ValueType{Type: name, Unit: units[name]})
			}
			b := profile.NewBuilder(types...)
			row := make([]int64, len(types))
			for k, typ := range types {
				row[k] = figures[typ.Type] + int64(i%3) // it neither rises nor falls
				if instance == "gone" && typ.Type == "memory" {
					row[k] = 250 << 20
				}
			}
			b.Add(b.Stack(0, b.Location(profile.Location{Address: 1})), 0, row...)
			send("runtime", instance, at, b.Profile())
			c := profile.NewBuilder(cpuType.Sample)
			for name, n := range map[string]int64{"runtime.gcBgMarkWorker": 80, "main.main": 420} {
				c.Add(c.Stack(0, c.Location(profile.Location{}, profile.Line{Function: c.Function(profile.Function{Name: c.String(name)})})), 0, n*10e6)
			}
			p := c.Profile()
			p.Period, p.PeriodType = 10e6, cpuType.Period
			send("process_cpu", instance, at, p)
		}
	}
}

// TestPropose: from uploads and polls to a proposal, which is not made on top of a lease, of what grows, or of who is not there.
func TestPropose(t *testing.T) {
	began := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	to := began.Add(10 * time.Minute)
	db, err := store.Open(t.Context(), "data", store.Options{FS: vfs.NewMem(), Now: func() time.Time { return to }})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	f, err := fleet.New(fleet.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fill(t, db, began)
	r := measure.New(db, nil)
	p := &Proposer{Store: db, Reader: r, Fleet: f}
	spec := func() string {
		t.Helper()
		ps, err := p.Propose(t.Context(), "", "shop", began, to)
		if err != nil {
			t.Fatal(err)
		}
		out := ""
		for _, x := range ps {
			out += string(x.Spec)
			if x.Basis != "v1" || math.Abs(x.Expected["cpu_per_request"].Value+0.16*0.75) > 0.01 || x.Saving <= 0.1 || x.Saving >= 0.13 {
				t.Errorf("%+v", x)
			}
		}
		return out
	}
	if got := spec(); got != "" {
		t.Errorf("nobody is there, and %s is proposed", got)
	}
	say(t, f, "a", "")
	say(t, f, "b", "")
	if got := spec(); got != `{"gogc":250}` {
		t.Errorf("proposed is %q; 240 is four times 60, as a person writes it 250", got)
	}
	p.Growing = func(_ context.Context, _, service string) ([]string, error) {
		return []string{service + " leaks goroutines"}, nil
	}
	if got := spec(); got != "" {
		t.Errorf("a leak got %s", got)
	}
	p.Growing = nil
	_, err = f.Lease(t.Context(), fleet.Target{Service: "shop", Instance: "b"}, fleet.Settings{}, time.Minute)
	if got := spec(); err != nil || got == "" {
		t.Errorf("%v: who is watched is left out", err)
	}
	n := int64(300)
	_, err = f.Lease(t.Context(), fleet.Target{Service: "shop", Instance: "b"}, fleet.Settings{GOGC: &n}, time.Minute)
	if got := spec(); err != nil || got != "" {
		t.Errorf("%v: proposed is %s on top of a lease", err, got)
	}
	if err := f.Release(t.Context(), fleet.Target{Service: "shop", Instance: "b"}); err != nil {
		t.Fatal(err)
	}
	// What a change that is done has leased is not the program's own, and no person's either: other settings may be proposed.
	c := change(`{"gogc":300}`)
	c.Units = []optimize.Unit{{Target: optimize.Target{ID: "b"}, State: optimize.UnitApplied}, {Target: optimize.Target{ID: "a"}, State: optimize.UnitUndone}}
	p.Done = func(context.Context, string, string) ([]optimize.Change, error) { return []optimize.Change{*c}, nil }
	done, err := p.done(t.Context(), "", "shop")
	if err != nil || len(done) != 1 || len(done["b"]) != 1 {
		t.Fatalf("%v, %v", done, err)
	}
	for name, a := range map[string]struct {
		lease   fleet.Settings
		foreign bool
	}{"of the change": {fleet.Settings{GOGC: &n}, false}, "of a person, beside": {fleet.Settings{GOGC: &n, MaxProcs: &n}, true}, "of a person": {fleet.Settings{GOGC: new(int64)}, true}} {
		s, foreign := leased(&fleet.Agent{Granted: &fleet.Lease{Settings: a.lease}}, done["b"])
		if foreign != a.foreign || *s.GOGC != *a.lease.GOGC {
			t.Errorf("a lease %s: %s, somebody else's %t", name, s, foreign)
		}
	}
	p.Done = nil
	say(t, f, "b", `,"lease":"of another server"`)
	if got := spec(); got != "" {
		t.Errorf("proposed is %s on top of an unknown lease", got)
	}
	say(t, f, "b", "")
	say(t, f, "gone", "") // it is there now, and full
	if got := spec(); got != "" {
		t.Errorf("proposed is %s though one instance is full", got)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Propose(t.Context(), "", "shop", began, to); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("of a store that is closed: %v", err)
	}
}
