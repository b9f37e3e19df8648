package tune

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	stdruntime "runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quantra-l/quantra/agent"
	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/runtime"
)

// The environment of a child process.
const (
	childServer   = "TUNE_TEST_SERVER"
	childInstance = "TUNE_TEST_INSTANCE"
	childVersion  = "TUNE_TEST_VERSION"
)

func TestMain(m *testing.M) {
	server := os.Getenv(childServer)
	if server == "" {
		os.Exit(m.Run())
	}
	if err := child(server); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child is a program with an agent, until its standard input ends. A line "gogc N" sets GOGC, as a program may do itself.
func child(server string) error {
	debug.SetGCPercent(150)
	a, err := agent.Start(context.Background(), agent.Options{
		Service: "shop", Version: cmp.Or(os.Getenv(childVersion), "v7"), Instance: os.Getenv(childInstance), Server: server, Region: "local", SpoolBytes: -1, Window: time.Second,
		Labels: map[string]string{"zone": "z-1"}, Types: agent.Runtime, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	defer a.Stop(context.Background())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var n int
		if _, err := fmt.Sscanf(lines.Text(), "gogc %d", &n); err != nil {
			return err
		}
		debug.SetGCPercent(n)
	}
	return nil
}

// rig is a server of agents, and programs that poll it.
type rig struct {
	t     *testing.T
	fleet *fleet.Fleet
	act   *runtime.Actuator
	ctx   context.Context
	url   string
	now   atomic.Pointer[http.ServeMux]
	up    chan string // instances of the uploads that come, as long as there is room
}

func newRig(t *testing.T, instances ...string) (*rig, []io.Writer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, up: make(chan string, 1000)}
	r.begin()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { r.now.Load().ServeHTTP(w, q) }))
	r.url = s.URL
	t.Cleanup(func() { r.fleet.Close(); s.CloseClientConnections(); s.Close() })
	var in []io.Writer
	for _, name := range instances {
		in = append(in, r.program(name))
	}
	r.until("all agents wait", func() bool {
		n := 0
		for _, a := range r.fleet.Agents("", "shop") {
			if a.Polling {
				n++
			}
		}
		return n == len(instances)
	})
	return r, in
}

// begin makes the server a new one, which knows nothing.
func (r *rig) begin() {
	r.t.Helper()
	f, err := fleet.New(fleet.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.t.Fatal(err)
	}
	act, err := runtime.NewActuator(Agents(f))
	if err != nil {
		r.t.Fatal(err)
	}
	mux := http.NewServeMux()
	f.Register(mux)
	mux.HandleFunc("/api/v1/profiles", func(w http.ResponseWriter, q *http.Request) {
		io.Copy(io.Discard, q.Body)
		select {
		case r.up <- q.URL.Query().Get("service_instance_id"):
		default:
		}
		io.WriteString(w, `{"service":"shop"}`)
	})
	r.now.Store(mux)
	if r.fleet != nil {
		r.fleet.Close()
	}
	r.fleet, r.act = f, act
}

// program starts a child process; it ends with the test.
func (r *rig) program(name string) io.Writer {
	r.t.Helper()
	in, _ := r.build(name, "")
	return in
}

// build is program of a version; end ends it before the test does.
func (r *rig) build(name, version string) (in io.Writer, end func()) {
	r.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childServer+"="+r.url, childInstance+"="+name, childVersion+"="+version, "PROFILER_OPTIMIZER_ENABLED=", "PROFILER_ENABLED=", "GOMEMLIMIT=", "GOMAXPROCS=")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			r.t.Errorf("%s: %v", name, err)
		}
	})
	r.t.Cleanup(end)
	return stdin, end
}

// until waits for what an agent does.
func (r *rig) until(what string, done func() bool) {
	r.t.Helper()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for !done() {
		select {
		case <-again.C:
		case <-r.ctx.Done():
			r.t.Fatalf("%s: it does not happen; agents: %+v", what, r.fleet.Agents("", "shop"))
		}
	}
}

func change(spec string) *optimize.Change {
	c := &optimize.Change{Tenant: "default"}
	c.Service, c.Spec = "shop", json.RawMessage(spec)
	return c
}

func (r *rig) target(c *optimize.Change, id string) optimize.Target {
	r.t.Helper()
	ts, err := r.act.Targets(r.ctx, c)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, t := range ts {
		if t.ID == id {
			return t
		}
	}
	r.t.Fatalf("%s is not among the targets %+v", id, ts)
	return optimize.Target{}
}

// stands waits for a standing, and is its note.
func (r *rig) stands(c *optimize.Change, t optimize.Target, snap json.RawMessage, want optimize.Standing) (note string) {
	r.t.Helper()
	r.until("standing "+string(want), func() bool {
		s, n, err := r.act.Standing(r.ctx, c, t, snap)
		if err != nil {
			r.t.Fatal(err)
		}
		note = n
		return s == want
	})
	return note
}

func (r *rig) must(what string, err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("%s: %v", what, err)
	}
}

func (r *rig) agent(id string) fleet.Agent {
	r.t.Helper()
	for _, a := range r.fleet.Agents("", "shop") {
		if a.Instance == id {
			return a
		}
	}
	r.t.Fatalf("there is no agent %s", id)
	return fleet.Agent{}
}

// TestStory: from the snapshot to undo, on a real program. The rehearsal leaves it as it was, also after one that was cut off; each call may be
// made twice; what a person leases is left alone.
func TestStory(t *testing.T) {
	t.Parallel()
	r, _ := newRig(t, "a", "b")
	c := change(`{"gogc":300,"gomaxprocs":1}`)
	a := r.target(c, "a")
	if a.Zone != "z-1" || a.Version != "v7" || a.Started.IsZero() {
		t.Errorf("target %+v", a)
	}
	snap, err := r.act.Snapshot(r.ctx, c, a)
	r.must("snapshot", err)
	var found runtime.Settings
	if err := json.Unmarshal(snap, &found); err != nil || *found.GOGC != 150 || *found.MemoryLimit != runtime.NoLimit || *found.MaxProcs != int64(stdruntime.GOMAXPROCS(0)) {
		t.Fatalf("snapshot %s: %v", snap, err)
	}
	r.stands(c, a, snap, optimize.Absent)

	left := fleet.Settings{GOGC: found.GOGC, MaxProcs: found.MaxProcs}
	_, err = r.fleet.Lease(r.ctx, fleet.Target{Service: "shop", Instance: "a"}, left, 5*time.Second) // of a rehearsal that a crash has cut off
	r.must("lease", err)
	if _, err := r.act.Snapshot(r.ctx, c, a); err == nil || errors.Is(err, optimize.ErrRefused) || errors.Is(err, optimize.ErrGone) {
		t.Errorf("snapshot under a lease that ends soon: %v, want an error that passes", err)
	}
	for range 2 {
		r.must("rehearse", r.act.Rehearse(r.ctx, c, a, snap))
		if g := r.agent("a"); g.Lease != "" || g.Granted != nil || *g.Settings.GOGC != 150 || *g.Settings.MaxProcs != *found.MaxProcs {
			t.Errorf("after the rehearsal: %+v", g)
		}
	}

	r.must("apply", r.act.Apply(r.ctx, c, a, snap))
	r.stands(c, a, snap, optimize.InForce)
	first := r.agent("a")
	if *first.Settings.GOGC != 300 || *first.Settings.MaxProcs != 1 {
		t.Errorf("in force: %+v", first)
	}
	r.must("apply again", r.act.Apply(r.ctx, c, a, snap))
	if again := r.agent("a").Granted; again.ID != first.Granted.ID || again.Expires.Before(first.Granted.Expires) {
		t.Errorf("%+v, then %+v: want it prolonged", first.Granted, again)
	}
	r.target(c, "a") // it stays one

	for range 2 {
		r.must("undo", r.act.Undo(r.ctx, c, a, snap))
	}
	if why := r.stands(c, a, snap, optimize.Absent); why != "" || *r.agent("a").Settings.GOGC != 150 {
		t.Errorf("after undo: %q, %+v", why, r.agent("a"))
	}

	// What a person has leased: no target, no snapshot, and nothing of ours takes it away.
	_, err = r.fleet.Lease(r.ctx, fleet.Target{Service: "shop", Instance: "a"}, fleet.Settings{GOGC: left.GOGC}, time.Hour)
	r.must("lease", err)
	if ts, err := r.act.Targets(r.ctx, c); err != nil || len(ts) != 1 || ts[0].ID != "b" {
		t.Errorf("targets %+v, %v; want b alone", ts, err)
	}
	for what, err := range map[string]error{
		"snapshot": func() error { _, err := r.act.Snapshot(r.ctx, c, a); return err }(),
		"apply":    r.act.Apply(r.ctx, c, a, snap),
	} {
		if !errors.Is(err, optimize.ErrRefused) {
			t.Errorf("%s over a person's lease: %v", what, err)
		}
	}
	if err := r.act.Rehearse(r.ctx, c, a, snap); err == nil {
		t.Error("rehearsed over a person's lease")
	}
	r.must("undo", r.act.Undo(r.ctx, c, a, snap))
	if g := r.agent("a").Granted; g == nil || *g.GOGC != 150 {
		t.Errorf("undo took a person's lease away: %+v", g)
	}
	r.until("it is in force", func() bool { return r.agent("a").Granted.InForce })
	if why := r.stands(c, a, snap, optimize.Absent); !strings.Contains(why, "another lease") {
		t.Errorf("standing under a person's lease: %q", why)
	}
}

// TestShared: a real agent has the settings of two changes by one lease; either is undone by itself, and what the other set stays in force.
func TestShared(t *testing.T) {
	t.Parallel()
	r, _ := newRig(t, "a")
	gc, procs := change(`{"gogc":300}`), change(`{"gomaxprocs":1}`)
	beside := func(c, other *optimize.Change) {
		c.Beside = map[string][]json.RawMessage{"a": {other.Spec}}
	}
	made := map[*optimize.Change]json.RawMessage{}
	put := func(c *optimize.Change) {
		t.Helper()
		a := r.target(c, "a")
		snap, err := r.act.Snapshot(r.ctx, c, a)
		r.must("snapshot", err)
		r.must("rehearse", r.act.Rehearse(r.ctx, c, a, snap))
		r.must("apply", r.act.Apply(r.ctx, c, a, snap))
		r.stands(c, a, snap, optimize.InForce)
		made[c] = snap
	}
	a := r.target(gc, "a")
	put(gc)
	beside(procs, gc)
	put(procs)
	beside(gc, procs)
	r.stands(gc, a, made[gc], optimize.InForce)
	if s := r.agent("a").Settings; *s.GOGC != 300 || *s.MaxProcs != 1 {
		t.Errorf("both changes made %+v", s)
	}
	r.must("apply the first again", r.act.Apply(r.ctx, gc, a, made[gc]))
	r.must("undo the first", r.act.Undo(r.ctx, gc, a, made[gc]))
	gone := r.stands(gc, a, made[gc], optimize.Absent)
	r.stands(procs, a, made[procs], optimize.InForce)
	if s := r.agent("a").Settings; gone != "" || *s.GOGC != 150 || *s.MaxProcs != 1 {
		t.Errorf("after the first was undone: %q, %+v", gone, s)
	}
	procs.Beside = nil
	r.must("undo the second", r.act.Undo(r.ctx, procs, a, made[procs]))
	r.stands(procs, a, made[procs], optimize.Absent)
	if g := r.agent("a"); g.Granted != nil || *g.Settings.MaxProcs != int64(stdruntime.GOMAXPROCS(0)) {
		t.Errorf("after both were undone: %+v", g)
	}
}

// TestServerLost: a new server knows of no lease; the change is made again as it stands, and undone as it was.
func TestServerLost(t *testing.T) {
	t.Parallel()
	r, _ := newRig(t, "a")
	c := change(`{"gogc":300}`)
	a := r.target(c, "a")
	snap, err := r.act.Snapshot(r.ctx, c, a)
	r.must("snapshot", err)
	r.must("apply", r.act.Apply(r.ctx, c, a, snap))
	r.stands(c, a, snap, optimize.InForce)
	r.begin()
	r.until("the agent is back", func() bool { return len(r.fleet.Agents("", "shop")) == 1 })
	r.must("apply", r.act.Apply(r.ctx, c, a, snap))
	r.stands(c, a, snap, optimize.InForce)
	r.must("undo", r.act.Undo(r.ctx, c, a, snap))
	if why := r.stands(c, a, snap, optimize.Absent); why != "" || *r.agent("a").Settings.GOGC != 150 {
		t.Errorf("after undo: %q, %+v", why, r.agent("a"))
	}
}

// TestRefused: the agent's own guards, and a program that sets what was leased, end a change for good.
func TestRefused(t *testing.T) {
	t.Parallel()
	r, in := newRig(t, "a")
	c := change(`{"gomemlimit":4194304}`)
	a := r.target(c, "a")
	snap, err := r.act.Snapshot(r.ctx, c, a)
	r.must("snapshot", err)
	r.must("rehearse", r.act.Rehearse(r.ctx, c, a, snap))
	r.must("apply", r.act.Apply(r.ctx, c, a, snap))
	if why := r.stands(c, a, snap, optimize.Refused); !strings.Contains(why, "too near") {
		t.Errorf("refused as %q", why)
	}
	if err := r.act.Apply(r.ctx, c, a, snap); !errors.Is(err, optimize.ErrRefused) {
		t.Errorf("apply again: %v", err)
	}
	r.must("undo", r.act.Undo(r.ctx, c, a, snap))
	r.stands(c, a, snap, optimize.Absent)

	c = change(`{"gogc":300}`)
	r.must("apply", r.act.Apply(r.ctx, c, a, snap))
	r.stands(c, a, snap, optimize.InForce)
	fmt.Fprintln(in[0], "gogc 77")
	if why := r.stands(c, a, snap, optimize.Refused); !strings.Contains(why, "the program itself set GOGC to 77") {
		t.Errorf("refused as %q", why)
	}
	r.must("undo", r.act.Undo(r.ctx, c, a, snap))
	if why := r.stands(c, a, snap, optimize.Absent); !strings.Contains(why, "77") {
		t.Errorf("after undo: %q; want it to say what the program has set", why)
	}

	lost := optimize.Target{ID: "nobody"}
	if _, err := r.act.Snapshot(r.ctx, c, lost); !errors.Is(err, optimize.ErrGone) {
		t.Errorf("snapshot of nobody: %v", err)
	}
	if s, _, err := r.act.Standing(r.ctx, c, lost, snap); s != optimize.Gone || err != nil {
		t.Errorf("standing of nobody: %v, %v", s, err)
	}
	if err := r.act.Undo(r.ctx, c, lost, snap); !errors.Is(err, optimize.ErrGone) {
		t.Errorf("undo of nobody: %v", err)
	}
}

// TestWatch: a control sends each window as it closes, and nothing of it is set. Its lease is in nobody's way.
func TestWatch(t *testing.T) {
	t.Parallel()
	r, _ := newRig(t, "a", "b")
	c := change(`{"gogc":300}`)
	b := r.target(c, "b")
	r.must("watch", r.act.Watch(r.ctx, c, []optimize.Target{b, {ID: "nobody"}}))
	r.until("it is followed", func() bool { g := r.agent("b"); return g.Granted != nil && g.Granted.InForce })
	if s := r.agent("b").Settings; *s.GOGC != 150 {
		t.Errorf("watching sets %+v", s)
	}
	// Uploads are once a minute without: of five in a row within the test's time each but the first is a window's own.
	for n := 0; n < 5; {
		select {
		case name := <-r.up:
			if name == "b" {
				n++
			}
		case <-r.ctx.Done():
			t.Fatalf("%d windows of b were sent", n)
		}
	}
	r.target(c, "b")
	snap, err := r.act.Snapshot(r.ctx, c, b)
	r.must("snapshot of who is watched", err)
	r.stands(c, b, snap, optimize.Absent)
	r.must("rehearse", r.act.Rehearse(r.ctx, c, b, snap))
	r.must("apply", r.act.Apply(r.ctx, c, b, snap))
	r.stands(c, b, snap, optimize.InForce)
	r.must("watch", r.act.Watch(r.ctx, c, []optimize.Target{b})) // a lease with settings stays
	if g := r.agent("b").Granted; g == nil || g.GOGC == nil {
		t.Errorf("watching took the lease: %+v", g)
	}
}

// TestWorded: the errors of a fleet in the optimizer's words.
func TestWorded(t *testing.T) {
	for err, want := range map[error]error{
		fleet.ErrNotFound: optimize.ErrGone, fleet.ErrRefused: optimize.ErrRefused, fleet.ErrInvalid: optimize.ErrRefused,
	} {
		if got := worded(fmt.Errorf("x: %w", err)); !errors.Is(got, want) || !errors.Is(got, err) {
			t.Errorf("%v is %v", err, got)
		}
	}
	if got := worded(fleet.ErrUnavailable); errors.Is(got, optimize.ErrGone) || errors.Is(got, optimize.ErrRefused) || !errors.Is(got, fleet.ErrUnavailable) {
		t.Errorf("what passes is %v", got)
	}
	if worded(nil) != nil {
		t.Error("no error is one")
	}
}
