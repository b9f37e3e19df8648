//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/profile"
)

// pooled is a whole server in virtual time, and a group of real processes that it scales by commands. What the processes use is what the
// test says that they use, as their agents would send it.
type pooled struct {
	t      *testing.T
	pool   string // the supervisor
	policy string
	base   string
	secret string       // of the server's owner
	clock  atomic.Int64 // Unix nanoseconds
}

// poolPolicy has the group's commands, and a place whose command is not there.
const poolPolicy = `
plan:
  stages: [{percent: 100, dwell: 3m, deadline: 20m}]
  baseline: 10m
  judge: {min_windows: 4, warm_up: 0s}
kinds:
  scale: {mode: propose}
approve_above: 1000
places:
  hello:
    replicas:
      command:
        group: hello
        get: [%[1]s, get, "{{.Group}}"]
        set: [%[1]s, set, "{{.Group}}", "{{.Replicas}}"]
        check: [%[1]s, check, "{{.Group}}", "{{.Replicas}}"]
        env: [POOL_DIR, PROFILER_ENABLED]
      floor: 2
      ceiling: 4
      up_for: 2m
      up_every: 1m
      down_every: 20m
      min_history: 0s
  ghost:
    replicas: {command: {group: ghost, get: [/nowhere/pool], set: [/nowhere/pool, "{{.Replicas}}"]}}
`

func newPooled(t *testing.T) *pooled {
	t.Helper()
	dir := t.TempDir()
	p := &pooled{t: t, pool: filepath.Join(dir, "pool"), policy: filepath.Join(dir, "policy.yaml")}
	if out, err := exec.Command("go", "build", "-o", p.pool, "../../examples/pool").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Setenv("POOL_DIR", filepath.Join(dir, "groups"))
	t.Setenv("PROFILER_ENABLED", "false")
	// A whole hour: load is kept in steps of five minutes, so where they begin is not to depend on when the test runs.
	p.clock.Store(time.Now().Add(-12 * time.Hour).Truncate(time.Hour).UnixNano())
	if err := os.WriteFile(p.policy, fmt.Appendf(nil, poolPolicy, p.pool), 0o600); err != nil {
		t.Fatal(err)
	}
	p.run("set", "hello", "2")
	t.Cleanup(func() { p.run("set", "hello", "0") })

	changes, err := openPolicy(t.TempDir(), p.policy, os.Getenv, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	changes.now, changes.tick, changes.consider = p.now, 20*time.Millisecond, 20*time.Millisecond
	p.base, p.secret = startWhole(t, changes)
	return p
}

// startWhole starts a whole server within the test, whose data folder is that of changes.
func startWhole(t *testing.T, changes changesOptions) (base, secret string) {
	t.Helper()
	var o upOptions
	o.engine.flags(&cobra.Command{})
	log := slog.New(slog.DiscardHandler)
	data := changes.dir
	e, err := (&app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}).openEngine(t.Context(), data, o.engine, log)
	if err != nil {
		t.Fatal(err)
	}
	audit, err := openAuditLog(data, filepath.Join(t.TempDir(), "audit.key"), log)
	if err != nil {
		t.Fatal(err)
	}
	o.noSelfProfile = true
	door, err := openDoor(data, o, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, e.control, nil, audit, log)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := openAnalysis(o, log)
	if err != nil {
		t.Fatal(err)
	}
	all, err := assemble(e, o, rules, changes, audit, door.guard, door.who, nil, openSigning(door.who, e.share, door.began), log)
	if err != nil {
		t.Fatal(err)
	}
	stop := inBackground(context.Background(), all.optimizer.Run)
	srv := httptest.NewServer(all)
	t.Cleanup(func() {
		stop()
		srv.Close()
		all.agents.Close()
		if err := errors.Join(door.close(), audit.Close()); err != nil {
			t.Error(err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return srv.URL, door.secret
}

func (p *pooled) now() time.Time { return time.Unix(0, p.clock.Load()).UTC() }

// run runs the supervisor.
func (p *pooled) run(args ...string) []byte {
	p.t.Helper()
	cmd := exec.Command(p.pool, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("pool %q: %v: %s", args, err, &stderr)
	}
	return out
}

// workers are the processes that there are, and how many are asked for.
func (p *pooled) workers() (names []string, want int) {
	p.t.Helper()
	var a struct {
		Replicas int
		Nodes    []string
	}
	if err := json.Unmarshal(p.run("get", "hello"), &a); err != nil {
		p.t.Fatal(err)
	}
	return a.Nodes, a.Replicas
}

const poolWindow = 20 * time.Second

// uses lets time pass in which the workers use so many cores together, evenly, of one each.
func (p *pooled) uses(d time.Duration, cores float64) {
	p.t.Helper()
	names, _ := p.workers()
	for end := p.now().Add(d); p.now().Before(end); {
		from := p.now()
		for _, name := range names {
			b := profile.NewBuilder(profile.ValueType{Type: "process_cpu", Unit: "nanoseconds"}, profile.ValueType{Type: "gomaxprocs", Unit: "count"}, profile.ValueType{Type: "rss", Unit: "bytes"})
			line := profile.Line{Function: b.Function(profile.Function{Name: b.String("all")})}
			used := min(1, cores/float64(len(names))) * poolWindow.Seconds() * 1e9
			b.Add(b.Stack(0, b.Location(profile.Location{}, line)), 0, int64(used), 1, 64<<20)
			q := url.Values{
				"name": {"runtime"}, "service_name": {"hello"}, "service_version": {"v1"}, "service_instance_id": {name},
				"from": {fmt.Sprint(from.UnixNano())}, "until": {fmt.Sprint(from.Add(poolWindow).UnixNano())},
			}
			if code, err := push(p.base, q.Encode(), b.Profile().AppendPprof(nil)); err != nil || code/100 != 2 {
				p.t.Fatalf("a profile: %d, %v", code, err)
			}
		}
		p.clock.Add(int64(poolWindow))
	}
}

// ask asks the server.
func (p *pooled) ask(method, path, body string, to any) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.base+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.secret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(to); err != nil || resp.StatusCode != http.StatusOK {
		p.t.Fatalf("%s %s: %s, %v", method, path, resp.Status, err)
	}
}

func (p *pooled) changes(state string) (out []optimize.Change, status optimize.Status) {
	p.t.Helper()
	var a changesAnswer
	p.ask("GET", optimize.ChangesPath+"?kind=scale&state="+state, "", &a)
	for i := range a.Changes {
		out = append(out, a.Changes[i].Change)
	}
	return out, a.Status
}

// until waits for what the server does by itself.
func (p *pooled) until(what string, ok func() (is string, done bool)) {
	p.t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		is, done := ok()
		if done {
			return
		}
		select {
		case <-end.C:
			p.t.Fatalf("%s: it is %s", what, is)
		case <-tick.C:
		}
	}
}

// place is what was last said of a service's place, once it was asked at the present time.
func (p *pooled) place(service string) (said optimize.PlaceStatus) {
	p.t.Helper()
	p.until("a look at the place of "+service, func() (string, bool) {
		_, status := p.changes("all")
		for _, s := range status.Places {
			if s.Service == service && !s.At.Before(p.now()) {
				said = s
				return "", true
			}
		}
		return fmt.Sprintf("%+v, %v", status.Places, status.Errors), false
	})
	return said
}

// proposal is the one that is open.
func (p *pooled) proposal() optimize.Change {
	p.t.Helper()
	p.place("hello")
	var c optimize.Change
	p.until("a proposal", func() (string, bool) {
		cs, status := p.changes("proposed")
		if len(cs) == 1 {
			c = cs[0]
		}
		return fmt.Sprintf("%d proposals, %+v", len(cs), status.Places), len(cs) == 1
	})
	return c
}

// made starts a change, and lets time pass under a load until it is done and as many processes are there.
func (p *pooled) made(c optimize.Change, cores float64, want int) {
	p.t.Helper()
	if !strings.Contains(c.Sentence, fmt.Sprintf("-> %d replicas", want)) {
		p.t.Fatalf("%q: want %d replicas", c.Sentence, want)
	}
	before, _ := p.workers()
	var a changeAnswer
	p.ask("POST", changePath(c.ID), `{"do":"start","by":"ada"}`, &a)
	state := func() optimize.State {
		p.ask("GET", changePath(c.ID), "", &a)
		return a.Change.State
	}
	p.until("the replicas", func() (string, bool) {
		names, asked := p.workers()
		if asked < 2 || len(names) < min(len(before), want) {
			p.t.Fatalf("%d of %d processes are there", len(names), asked)
		}
		s := state()
		return fmt.Sprintf("%s: %s; %d of %d", s, a.Change.Held, len(names), asked), s == optimize.Dwelling && len(names) == want && asked == want
	})
	for range 10 {
		p.uses(time.Minute, cores)
		p.place("hello") // all that is due at this time was looked at since
		if s := state(); s.Ended() {
			if s != optimize.Done {
				p.t.Fatalf("%s: %s", s, a.Change.Reason)
			}
			return
		}
	}
	p.t.Fatalf("it is %s: %s %s", a.Change.State, a.Change.Held, a.Change.Reason)
}

// TestScale: load rises, and a person is proposed more replicas; started, real processes are started by the operator's commands, judged and
// kept. The load goes, and after the cool-down they are fewer, step by step, and never below the floor. A place that cannot be reached says so, and
// stops nothing; and one that is taken out of the policy is no place any more.
func TestScale(t *testing.T) {
	p := newPooled(t)
	p.uses(35*time.Minute, 1.0)
	if s := p.place("hello"); !strings.Contains(s.Says, "2 replicas are right") || s.Error != "" || s.Place != "command:hello" {
		t.Errorf("at half of what there is: %+v", s)
	}
	if s := p.place("ghost"); !strings.Contains(s.Error, "cannot be started") {
		t.Errorf("a place that is not there: %+v", s)
	}
	cs, status := p.changes("all")
	if len(cs) != 0 || !strings.Contains(strings.Join(status.Errors, ";"), "scale of ghost at command:ghost") {
		t.Errorf("%d changes, errors %q", len(cs), status.Errors)
	}

	p.uses(10*time.Minute, 1.9) // two whole steps of it
	up := p.proposal()
	if up.Cost <= 0 || up.Service != "hello" || len(up.Evidence) == 0 {
		t.Errorf("%+v", up)
	}
	if names, _ := p.workers(); len(names) != 2 {
		t.Fatalf("%d processes: nobody has started it", len(names))
	}
	p.made(up, 1.9, 4)

	// Nothing while it was as high within the hour; then one fewer, and another after the cool-down.
	p.uses(5*time.Minute, 0.3)
	if s := p.place("hello"); !strings.Contains(s.Says, "4 replicas are right") {
		t.Errorf("just after the load: %+v", s)
	}
	p.uses(70*time.Minute, 0.3)
	down := p.proposal()
	if down.Cost >= 0 {
		t.Errorf("what it takes off the bill: %v", down.Cost)
	}
	p.made(down, 0.3, 3)
	if s := p.place("hello"); !strings.Contains(s.Says, "once in 20m0s is the most") {
		t.Errorf("within the cool-down: %+v", s)
	}
	p.uses(20*time.Minute, 0.3)
	p.made(p.proposal(), 0.3, 2)
	p.uses(20*time.Minute, 0.3)
	if s := p.place("hello"); !strings.Contains(s.Says, "2 replicas are right") {
		t.Errorf("at the floor: %+v", s)
	}
	if cs, _ := p.changes("proposed"); len(cs) != 0 {
		t.Errorf("below the floor it is proposed: %s", cs[0].Sentence)
	}

	if err := os.WriteFile(p.policy, []byte("kinds: {scale: {mode: propose}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.until("the policy is read again", func() (string, bool) {
		_, status := p.changes("all")
		return fmt.Sprintf("%+v, %v", status.Places, status.Errors), len(status.Places) == 0 && len(status.Errors) == 0
	})
}
