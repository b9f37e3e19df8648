package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

// The test binary is every process of the fleet, and a parent that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		ctx, rest := context.Background(), os.Args[2:]
		var err error
		switch os.Args[1] {
		case ServiceCommand:
			err = ServiceMain(ctx, rest, os.Stdin, os.Stdout, os.Stderr)
		case LoadCommand:
			err = LoadMain(ctx, rest, os.Stdin, os.Stdout, os.Stderr)
		case "doomed-parent":
			err = doomedParent(ctx, rest[0])
		default:
			os.Exit(m.Run())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// doomedParent runs a fleet, prints its children's pids and waits to be killed.
func doomedParent(ctx context.Context, server string) error {
	f, err := StartFleet(ctx, FleetOptions{Server: server, N: 2, Window: 200 * time.Millisecond})
	if err != nil {
		return err
	}
	for len(f.PIDs()) < 3 {
		f.mu.Lock()
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond): // the load has no address to announce
		}
	}
	for name, pid := range f.PIDs() {
		fmt.Println(name, pid)
	}
	fmt.Println("all")
	select {}
}

// receiver is a server that keeps what the fleet's agents send.
type receiver struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string]*profile.Profile // "version name" -> the sum of its profiles
	more chan struct{}
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{seen: map[string]*profile.Profile{}, more: make(chan struct{}, 1)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/api/v1/profiles" {
			http.NotFound(w, req) // it takes no polls
			return
		}
		p, err := profile.Parse(req.Body)
		if err != nil {
			t.Errorf("upload: %v", err)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		q := req.URL.Query()
		key := q.Get("service_version") + " " + q.Get("name")
		if old := r.seen[key]; old != nil {
			if p, err = profile.Merge([]*profile.Profile{old, p}); err != nil {
				t.Errorf("merge: %v", err)
				return
			}
		}
		r.seen[key] = p
		io.WriteString(w, `{"service":"checkout"}`)
		select {
		case r.more <- struct{}{}:
		default:
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// share is the part of a profile's last value that has function on its stack, and the samples.
func (r *receiver) share(key, function string) (part float64, samples int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.seen[key]
	if p == nil {
		return 0, 0
	}
	var with, all int64
	for _, s := range p.Sample {
		v := s.Value[len(s.Value)-1]
		all += v
		samples += s.Value[0]
		if slices.ContainsFunc(s.Location, func(l *profile.Location) bool {
			return slices.ContainsFunc(l.Line, func(ln profile.Line) bool { return strings.HasSuffix(ln.Function.Name, function) })
		}) {
			with += v
		}
	}
	return float64(with) / float64(max(1, all)), samples
}

// has says that there are samples with each of the values of a label: a short span has few.
func (r *receiver) has(key, label string, values ...string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.seen[key]
	return p != nil && !slices.ContainsFunc(values, func(v string) bool {
		return !slices.ContainsFunc(p.Sample, func(s *profile.Sample) bool { return slices.Contains(s.Label[label], v) })
	})
}

// checkLabels: there are traces, each of one endpoint, whose label stays beside them, and spans within them.
func (r *receiver) checkLabels(t *testing.T, key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	endpoints, spans, operations := map[string]string{}, map[string]bool{}, map[string]bool{}
	for _, s := range r.seen[key].Sample {
		id, at := strings.Join(s.Label["trace_id"], " "), strings.Join(s.Label["endpoint"], " ")
		if id == "" {
			continue
		}
		if was, ok := endpoints[id]; at == "" || ok && was != at {
			t.Errorf("trace %s is of endpoints %q and %q", id, was, at)
		}
		endpoints[id], spans[s.Label["span_id"][0]], operations[s.Label["operation"][0]] = at, true, true
	}
	if len(endpoints) < 10 || len(spans) < 10 || !operations["price order"] || !operations["GET /search"] {
		t.Errorf("%d traces, %d spans, operations %v", len(endpoints), len(spans), operations)
	}
}

// busy is the part of a core that one process of the version takes.
func (r *receiver) busy(version string) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.seen[version+" process_cpu"]
	var cpu int64
	for _, s := range p.Sample {
		cpu += s.Value[1]
	}
	return float64(cpu) / float64(p.DurationNanos)
}

func testLogger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// TestFleet: both versions send CPU, memory and mutex profiles, and the planted regression shows.
func TestFleet(t *testing.T) {
	r := newReceiver(t)
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	f, err := StartFleet(ctx, FleetOptions{Server: r.URL, Window: time.Second, Rate: 300, Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Stop(ctx)
	if urls := f.URLs(); len(urls) != 4 || slices.Contains(urls, "") {
		t.Fatalf("services at %q, want 4", urls)
	}
	pids := f.PIDs()
	const evict, enough = "(*Cache).evict", 100 // samples of 10 ms: the shares are then good to a few percent
	for {
		_, n1 := r.share(V1+" process_cpu", evict)
		_, n2 := r.share(V2+" process_cpu", evict)
		_, m1 := r.share(V1+" mutex", "(*Ledger).Post")
		a1, _ := r.share(V1+" memory", "buildReport")
		if n1 >= enough && n2 >= enough && m1 > 0 && a1 > 0 && r.has(V1+" process_cpu", "operation", "price order", "GET /search") {
			break
		}
		select {
		case <-r.more:
		case <-ctx.Done():
			t.Fatalf("after 90 s: %d and %d CPU samples, %d contentions, %.2f of memory in buildReport, or a span has no sample", n1, n2, m1, a1)
		}
	}
	s1, _ := r.share(V1+" process_cpu", evict)
	s2, _ := r.share(V2+" process_cpu", evict)
	t.Logf("evict: %.1f %% of v1's CPU, %.1f %% of v2's; all services: %.0f %% of a core",
		100*s1, 100*s2, 100*2*(r.busy(V1)+r.busy(V2)))
	if s1 > 0.05 || s2 < 0.08 {
		t.Errorf("evict has %.1f %% of v1's CPU and %.1f %% of v2's; want under 5 %% and over 8 %%", 100*s1, 100*s2)
	}
	r.checkLabels(t, V1+" process_cpu")
	if part, _ := r.share(V1+" mutex", "(*Ledger).Post"); part < 0.3 {
		t.Errorf("the ledger has %.2f of the mutex waits, want most", part)
	}
	if err := f.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	for name, pid := range pids {
		if alive(pid) {
			t.Errorf("%s (pid %d) lives after Stop", name, pid)
		}
	}
	if left := f.PIDs(); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	if err := f.Stop(ctx); err != nil {
		t.Errorf("second Stop: %v", err)
	}
}

// TestRestart kills a service; another takes its place.
func TestRestart(t *testing.T) {
	r := newReceiver(t)
	f, err := StartFleet(t.Context(), FleetOptions{Server: r.URL, N: 2, Rate: -1, Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Stop(t.Context())
	wait := func(what string, ok func(url string) bool) {
		deadline := time.After(30 * time.Second)
		for {
			f.mu.Lock()
			url, changed := f.urls[0], f.changed
			f.mu.Unlock()
			if ok(url) {
				return
			}
			select {
			case <-changed:
			case <-deadline:
				t.Fatalf("not after 30 s: %s", what)
			}
		}
	}
	old := f.PIDs()[Service+"-1"]
	p, err := os.FindProcess(old)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	wait("the dead service has no address", func(url string) bool { return url == "" })
	wait("it is back", func(url string) bool { return url != "" })
	if now := f.PIDs()[Service+"-1"]; now == old || now == 0 {
		t.Errorf("pid is %d after the restart, was %d", now, old)
	}
}

// TestParentKilled kills -9 the parent of a fleet: the children end by themselves.
func TestParentKilled(t *testing.T) {
	r := newReceiver(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "doomed-parent", r.URL)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pids := map[string]int{}
	for s := bufio.NewScanner(out); s.Scan() && s.Text() != "all"; {
		name, pid, _ := strings.Cut(s.Text(), " ")
		if pids[name], err = strconv.Atoi(pid); err != nil {
			t.Fatalf("parent says %q", s.Text())
		}
	}
	if len(pids) != 3 {
		t.Fatalf("parent has children %v, want 3", pids)
	}
	for name, pid := range pids {
		if !alive(pid) {
			t.Errorf("%s (pid %d) does not live: the test shows nothing", name, pid)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // killed, as it should be
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for name, pid := range pids {
		for alive(pid) {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("%s (pid %d) outlives its killed parent by 20 s", name, pid)
			}
		}
	}
}

func TestStartFleetFails(t *testing.T) {
	for _, c := range []struct {
		name, want string
		o          FleetOptions
	}{
		{"one service", "at least 2", FleetOptions{N: 1}},
		{"no executable", "start checkout", FleetOptions{Exe: "/nonexistent/quantraband"}},
		{"wrong executable", "checkout-", FleetOptions{Args: []string{"-test.run=^$", "--"}}},
		{"bad server", "ended before it listened", FleetOptions{Server: "ftp://x"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Logger = testLogger(t)
			f, err := StartFleet(t.Context(), c.o)
			if err == nil {
				f.Stop(t.Context())
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want one with %q", err, c.want)
			}
		})
	}
}

func TestArguments(t *testing.T) {
	o, err := ParseService([]string{"--version", "v2", "--instance", "a", "--server", "http://h", "--window", "1s"})
	if err != nil || o.Version != V2 || o.Instance != "a" || o.Server != "http://h" || o.Window != time.Second {
		t.Errorf("service: %+v, %v", o, err)
	}
	l, err := ParseLoad([]string{"--rate", "7", "http://a", "http://b"})
	if err != nil || l.Rate != 7 || !slices.Equal(l.Targets, []string{"http://a", "http://b"}) {
		t.Errorf("load: %+v, %v", l, err)
	}
	for _, args := range [][]string{{"--version"}, {"--nonsense"}, {"argument"}} {
		if _, err := ParseService(args); err == nil {
			t.Errorf("service takes %q", args)
		}
	}
	if _, err := ParseLoad([]string{"--rate", "many"}); err == nil {
		t.Error("load takes a rate of many")
	}
	if err := Run(t.Context(), Options{Version: "v4"}); err == nil {
		t.Error("there is a v4")
	}
	if _, err := Load(t.Context(), LoadOptions{}); err == nil {
		t.Error("a load without targets")
	}
}

// TestShop asks each endpoint, and both caches for the same answers.
func TestShop(t *testing.T) {
	srv := httptest.NewServer(NewShop(V1, nil).Handler())
	defer srv.Close()
	for kind := range 10 {
		if err := visit(t.Context(), srv.Client(), srv.URL, kind); err != nil {
			t.Errorf("kind %d: %v", kind, err)
		}
	}
	resp, err := http.Post(srv.URL+"/checkout", "application/json", strings.NewReader("{"))
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("half an order: %s", resp.Status)
	}
	var r Receipt
	resp, err = http.Post(srv.URL+"/checkout", "application/json", bytes.NewReader(randomOrder()))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil || r.Cents <= 0 || len(r.Signature) != 64 || r.Journal == 0 {
		t.Errorf("receipt %+v: %v", r, err)
	}
}

// TestCacheVersionsAgree: v2 is slower and nothing else.
func TestCacheVersionsAgree(t *testing.T) {
	a, b := NewCache(10, false), NewCache(10, true)
	for i := range 2000 {
		k := strconv.Itoa(i * i % 37)
		x, okx := a.Get(k)
		y, oky := b.Get(k)
		if x != y || okx != oky {
			t.Fatalf("step %d: key %s is %d %t in v1 and %d %t in v2", i, k, x, okx, y, oky)
		}
		if !okx {
			a.Put(k, int64(i))
			b.Put(k, int64(i))
		}
		if len(a.byKey) > 10 || len(b.byKey) > 10 || len(a.byKey) != a.used.Len() {
			t.Fatalf("step %d: %d and %d entries, the limit is 10", i, len(a.byKey), len(b.byKey))
		}
	}
}
