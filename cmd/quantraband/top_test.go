package main

import (
	"bytes"
	"context"
	"encoding/json"
	"expvar"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/agent/live"
	"github.com/quantra-l/quantra/analyze/sched"
	"github.com/quantra-l/quantra/cmd/quantraband/console"
)

// pages are a program's own: this test's, with net/http/pprof as any program has it.
func pages(t *testing.T, path string, vars bool) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc(path+"/pprof/", func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.TrimPrefix(r.URL.Path, strings.TrimSuffix(path, "/debug")) // Index wants /debug/pprof/
		pprof.Index(w, r)
	})
	mux.HandleFunc(path+"/pprof/profile", pprof.Profile)
	mux.HandleFunc(path+"/pprof/trace", pprof.Trace)
	if vars {
		mux.Handle(path+"/vars", expvar.Handler())
	}
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv
}

func waitHere(c chan int, begun, done *sync.WaitGroup) { begun.Done(); <-c; done.Done() }

// planted has n goroutines that wait in a function that is known, or are about to, when it returns.
func planted(t *testing.T, n int) {
	t.Helper()
	c := make(chan int)
	var begun, done sync.WaitGroup
	begun.Add(n)
	done.Add(n)
	for range n {
		go waitHere(c, &begun, &done)
	}
	begun.Wait()
	t.Cleanup(func() { close(c); done.Wait() })
}

// top runs `quantraband top` and decodes what it writes.
func top[T any](t *testing.T, args ...string) T {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), append([]string{"top", "--once", "--json"}, args...), strings.NewReader(""), &stdout, &stderr); code != exitOK {
		t.Fatalf("%v: code %d, %s", args, code, &stderr)
	}
	var out T
	if err := json.Unmarshal(stdout.Bytes(), &out); err != nil {
		t.Fatalf("%v: %v in %.500s", args, err, &stdout)
	}
	return out
}

func refusedTop(t *testing.T, code int, want string, args ...string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if got := run(t.Context(), append([]string{"top"}, args...), strings.NewReader(""), &stdout, &stderr); got != code || !strings.Contains(stderr.String(), want) || stdout.Len() > 0 {
		t.Errorf("%v: code %d, want %d; stderr %q, want %q; stdout %q", args, got, code, &stderr, want, &stdout)
	}
}

// TestTopPprof: each view is read from a real program's pages, at the path where they are.
func TestTopPprof(t *testing.T) {
	planted(t, 300)
	srv := pages(t, "/debug", true)
	addr := strings.TrimPrefix(srv.URL, "http://")

	few := top[live.Snapshot](t, addr)
	if g := groupIn(few, ".waitHere"); few.Detail != live.Full || g.Count != 300 || g.State != "chan receive" || g.Creator == nil {
		t.Errorf("few goroutines: %s, %+v", few.Detail, g)
	}
	planted(t, fullGoroutines)
	many := top[live.Snapshot](t, srv.URL)
	if g := groupIn(many, ".waitHere"); many.Detail != live.Counts || g.Count != 300+fullGoroutines || g.State != "chan receive" || g.Creator != nil {
		t.Errorf("many goroutines: %s, %+v", many.Detail, g)
	}
	if s := top[live.Snapshot](t, "--full", "--view", "states", srv.URL+"/debug/pprof/"); s.Detail != live.Full || groupIn(s, ".waitHere").Count < 300 {
		t.Errorf("with --full: %s", s.Detail)
	}
	if f := top[console.Runtime](t, "--view", "runtime", addr); len(f.Figures) < 10 || f.Figures[0].Value <= 0 {
		t.Errorf("runtime: %+v", f)
	}
	if s := top[sched.Summary](t, "--view", "trace", "--seconds", "1", addr); s.Window < 900*time.Millisecond || s.Goroutines < 1300 {
		t.Errorf("trace: %v, %d goroutines", s.Window, s.Goroutines)
	}
	if f := top[table](t, "--view", "functions", "--seconds", "1", addr); f.Type != "cpu" || f.Unit != "nanoseconds" {
		t.Errorf("functions: %+v", f)
	}
	// Pages at another path, without expvar: the heap profile says what there is of memory.
	other := pages(t, "/internal/debug", false)
	if f := top[console.Runtime](t, "--view", "runtime", other.URL+"/internal/debug/pprof"); len(f.Figures) < 10 {
		t.Errorf("runtime without expvar: %+v", f)
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"top", "--once", "-n", "5", addr}, strings.NewReader(""), &stdout, &stderr); code != exitOK ||
		!strings.Contains(stdout.String(), "COUNT") || !strings.Contains(stdout.String(), "rows more") || strings.Contains(stdout.String(), "\x1b") {
		t.Errorf("as text: %d\n%s%s", code, &stdout, &stderr)
	}
}

// TestTopLeaks: what grows between two looks is told, the most first.
func TestTopLeaks(t *testing.T) {
	planted(t, 3)
	inner := pages(t, "/debug", false)
	looks := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.RawQuery, "debug=2") {
			if looks++; looks == 2 {
				planted(t, 40)
			}
		}
		inner.Config.Handler.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	out := top[[]live.Growth](t, "--view", "leaks", "--full", "--every", "100ms", srv.URL)
	grew := 0
	for _, g := range out {
		if strings.HasSuffix(g.Entry(), ".waitHere") {
			grew += g.Count - g.Before
		}
	}
	if grew != 40 {
		t.Errorf("%d grew: %+v", grew, out)
	}
}

// groupIn is the largest group that begins with an entry function, with the count of all that do.
func groupIn(s live.Snapshot, entry string) live.Group {
	var out live.Group
	for _, g := range s.Groups {
		switch {
		case !strings.HasSuffix(g.Entry(), entry):
		case out.Count == 0:
			out = g
		default:
			out.Count += g.Count
		}
	}
	return out
}

// agentServer answers as docs/format/agents.md says, with bytes that our own rooms made.
func agentServer(t *testing.T) (url string, asked *[]string) {
	t.Helper()
	snap, err := live.Take(context.Background(), live.Options{Full: true})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join("..", "..", "analyze", "sched", "testdata", "small.trace"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum, err := sched.Summarize(f, sched.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	asked = new([]string)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.URL.Path+"?"+r.URL.RawQuery)
		refuse := func(status int, code, text string) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"message": %q, "code": %q}`, text, code)
		}
		switch service := r.URL.Query().Get("service"); {
		case service == "gone":
			refuse(404, "not_found", "there is no agent of service gone")
		case service == "slow":
			refuse(504, "deadline_exceeded", "it did not answer")
		case r.URL.Path == "/api/v1/agents/goroutines":
			json.NewEncoder(w).Encode(snap)
		case r.URL.Path == "/api/v1/agents/trace":
			json.NewEncoder(w).Encode(sum)
		case r.URL.Path == "/api/v1/agents":
			fmt.Fprint(w, `{"agents": [{"service": "checkout", "version": "v1", "instance": "host-4711", "agent": "quantra-agent/1", "go": "go1.26.8", "os": "linux/amd64",
				"started": "2026-11-25T10:00:00Z", "seen": "2026-11-25T10:00:00Z", "online": true, "optimizer": false, "lease": "01J", "unknown": {"a": 1},
				"settings": {"gogc": -1, "gomemlimit": 9223372036854775807, "gomaxprocs": 2, "cpu_rate": 100}},
				{"service": "checkout", "instance": "gone-1", "online": false}, {"service": "checkout", "instance": "host-9", "online": true}]}`)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, asked
}

// TestTopService: a service is asked for through the server, in the words of docs/format/agents.md.
func TestTopService(t *testing.T) {
	planted(t, 5)
	url, asked := agentServer(t)
	s := top[live.Snapshot](t, "--server", url, "checkout.eu")
	if g := groupIn(s, ".waitHere"); g.Count != 5 || s.Detail != live.Full {
		t.Errorf("%s, %+v", s.Detail, g)
	}
	if got := top[sched.Summary](t, "--server", url, "--view", "trace", "--seconds", "3", "--instance", "host 1", "checkout"); got.Goroutines == 0 || got.GC.Cycles != 1 {
		t.Errorf("%+v", got)
	}
	text := fmt.Sprintf("%+v", top[console.Runtime](t, "--server", url, "--view", "runtime", "checkout"))
	for _, want := range []string{"host-4711", "gogc=off gomemlimit=none gomaxprocs=2", "not allowed to change settings", "go1.26.8 on linux/amd64"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
	want := []string{"/api/v1/agents?service=checkout.eu", "/api/v1/agents/goroutines?full=false&instance=host-4711&service=checkout.eu",
		"/api/v1/agents/trace?instance=host+1&seconds=3&service=checkout", "/api/v1/agents?service=checkout", "/api/v1/agents?service=checkout"}
	if fmt.Sprint(*asked) != fmt.Sprint(want) {
		t.Errorf("it asked %q, want %q", *asked, want)
	}
	t.Setenv("QUANTRA_SERVER", url)
	if s := top[live.Snapshot](t, "--full", "checkout"); s.Total == 0 || !strings.HasSuffix((*asked)[6], "full=true&instance=host-4711&service=checkout") {
		t.Errorf("by the environment: %q", *asked)
	}
	refusedTop(t, exitFailed, "there is no agent of service gone", "--once", "gone")
	refusedTop(t, exitUnavailable, "it did not answer", "--once", "slow")
	refusedTop(t, exitFailed, "knows no agent of service checkout; ", "--once", "--view", "runtime", "--instance", "x", "checkout")
}

// TestTopRefused: what cannot be done is said, with the code that scripts branch on.
func TestTopRefused(t *testing.T) {
	notFound := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(notFound.Close)
	garbage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }))
	t.Cleanup(garbage.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{exitUsage, "accepts 1 arg", nil},
		{exitUsage, "must be a terminal; for scripts there is --once", []string{"localhost:1"}},
		{exitUsage, `--view "x": it must be one of goroutines`, []string{"--once", "--view", "x", "a:1"}},
		{exitUsage, "--json goes with --once", []string{"--json", "a:1"}},
		{exitUsage, "--every 1ms", []string{"--every", "1ms", "a:1"}},
		{exitUsage, "--seconds 99", []string{"--seconds", "99", "a:1"}},
		{exitUsage, "is no address", []string{"--once", "ftp://x"}},
		{exitUsage, "is no address", []string{"--once", "http://:x/"}},
		{exitUsage, "the name of the service is empty", []string{"--once", ""}},
		{exitUsage, "it must be an address like", []string{"--once", "--server", "ftp://x", "checkout"}},
		{exitUnavailable, "404 Not Found; does it import net/http/pprof", []string{"--once", notFound.URL}},
		{exitUnavailable, "is not a quantraband server", []string{"--once", "--server", notFound.URL, "checkout"}},
		{exitUnavailable, "no program answers at", []string{"--once", gone.URL}},
		{exitUnavailable, "no server answers at", []string{"--once", "--server", gone.URL, "checkout"}},
		{exitCorrupt, "", []string{"--once", garbage.URL}},
		{exitCorrupt, "not a list of goroutines", []string{"--once", "--full", garbage.URL}},
		{exitCorrupt, "not an execution trace", []string{"--once", "--view", "trace", garbage.URL}},
		{exitCorrupt, "not what expvar writes", []string{"--once", "--view", "runtime", garbage.URL}},
		{exitUnavailable, "is not a quantraband server", []string{"--once", "--server", garbage.URL, "checkout"}},
	} {
		refusedTop(t, c.code, c.want, c.args...)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	if code := run(ctx, []string{"top", "--once", notFound.URL}, strings.NewReader(""), &stdout, &stderr); code != exitInterrupted {
		t.Errorf("interrupted: code %d, %s", code, &stderr)
	}
}

// TestTopAddresses: what a user writes for an address.
func TestTopAddresses(t *testing.T) {
	for addr, want := range map[string]string{
		"localhost":                          "http://localhost:6060/debug/pprof http://localhost:6060/debug/vars",
		"localhost:8080":                     "http://localhost:8080/debug/pprof http://localhost:8080/debug/vars",
		"10.0.0.7":                           "http://10.0.0.7:6060/debug/pprof http://10.0.0.7:6060/debug/vars",
		"[::1]:80":                           "http://[::1]:80/debug/pprof http://[::1]:80/debug/vars",
		"https://h.example/":                 "https://h.example/debug/pprof https://h.example/debug/vars",
		"http://h.example/in/debug/pprof/?x": "http://h.example/in/debug/pprof http://h.example/in/debug/vars",
	} {
		p, err := newPprofSource(&liveTop{}, addr)
		if err != nil {
			t.Errorf("%s: %v", addr, err)
		} else if got := p.base + " " + p.vars; got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}
