package scrape

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	httppprof "net/http/pprof"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"github.com/quantra-l/quantra/profile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// everything is a file with each way to find targets.
const everything = `
scrape_configs:
  - job_name: shop
    tenant: shop-team
    scrape_interval: 30s
    cpu_duration: 5s
    profiles: [cpu, memory]
    godeltaprof: true
    scheme: https
    pprof_path: /internal/pprof
    authorization: {credentials_file: token}
    tls_config: {insecure_skip_verify: true}
    static_configs:
      - targets: ['shop-1:6060', 'shop-2:6060']
        labels: {region: eu}
    relabel_configs:
      - source_labels: [__address__]
        regex: '([^:]+):.*'
        target_label: instance
  - job_name: found
    file_sd_configs: [{files: ['targets/*.json']}]
    dns_sd_configs: [{names: [_pprof._tcp.example.test]}]
    kubernetes_sd_configs: [{role: pod, api_server: 'http://127.0.0.1:1'}]
`

func TestParse(t *testing.T) {
	c, err := Parse(strings.NewReader(everything), "/etc/quantra")
	if err != nil {
		t.Fatal(err)
	}
	j := c.Jobs[0]
	if len(c.Jobs) != 2 || j.Tenant != "shop-team" || time.Duration(j.Interval) != 30*time.Second || time.Duration(j.Seconds) != 5*time.Second || !j.Deltas ||
		j.Client.Authorization.CredentialsFile != "/etc/quantra/token" || len(j.Relabel) != 1 || len(j.Found) != 1 {
		t.Errorf("%+v", j)
	}
	if j = c.Jobs[1]; time.Duration(j.Interval) != time.Minute || len(j.Profiles) != 5 || len(j.Found) != 3 {
		t.Errorf("%+v", j)
	}
	static := "static_configs: [{targets: ['a:1']}]"
	for text, file := range map[string]string{
		"it must have 1 to":           "scrape_configs: []",
		"has no job_name":             "scrape_configs: [{" + static + "}]",
		"is there twice":              "scrape_configs: [{job_name: a, " + static + "}, {job_name: a, " + static + "}]",
		"has no targets":              "scrape_configs: [{job_name: a}]",
		"must be at least 5s":         "scrape_configs: [{job_name: a, scrape_interval: 1s, " + static + "}]",
		"less than scrape_interval":   "scrape_configs: [{job_name: a, scrape_interval: 10s, " + static + "}]",
		"must be http or https":       "scrape_configs: [{job_name: a, scheme: ftp, " + static + "}]",
		"must begin with /":           "scrape_configs: [{job_name: a, pprof_path: x, " + static + "}]",
		`"heap" is not known`:         "scrape_configs: [{job_name: a, profiles: [heap], " + static + "}]",
		"relabel":                     "scrape_configs: [{job_name: a, relabel_configs: [{action: nothing}], " + static + "}]",
		"requires 'target_label'":     "scrape_configs: [{job_name: a, relabel_configs: [{action: replace}], " + static + "}]",
		"scrape_intervall":            "scrape_configs: [{job_name: a, scrape_intervall: 10s, " + static + "}]",
		"at most one of basic_auth":   "scrape_configs: [{job_name: a, basic_auth: {username: x}, authorization: {credentials: y}, " + static + "}]",
		"are about net/http/pprof":    "scrape_configs: [{job_name: a, tokio_console: true, profiles: [cpu], " + static + "}]",
		"only scheme and tls_config":  "scrape_configs: [{job_name: a, tokio_console: true, basic_auth: {username: x}, " + static + "}]",
		"the file has more than 1048": strings.Repeat("#", maxFile+1),
	} {
		if _, err := Parse(strings.NewReader(file), "."); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("want %q, got %v", text, err)
		}
	}
}

// kept is where profiles go in tests.
type kept struct {
	mu  sync.Mutex
	all []Profile
	err error
}

func (k *kept) append(_ context.Context, p Profile) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return k.err
	}
	if _, err := profile.DecodeBytes(p.Pprof, profile.Limits{}); err != nil {
		return err
	}
	k.all = append(k.all, p)
	return nil
}

// of is the profiles so far of a name, decoded.
func (k *kept) of(t *testing.T, name string) (out []*profile.Profile) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.all {
		if p.Name == name {
			d, err := profile.DecodeBytes(p.Pprof, profile.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, d)
		}
	}
	return out
}

func newScraper(t *testing.T, file string, change func(*Options)) (*Scraper, *kept, *Config) {
	t.Helper()
	c, err := Parse(strings.NewReader(file), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	k := &kept{}
	o := Options{Config: func() *Config { return c }, Append: k.append, Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()}
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s, k, c
}

// aTarget is the first target of the first job's static configuration, whose profiles tests take by hand.
func aTarget(t *testing.T, c *Config, address string) *target {
	t.Helper()
	made := newTarget(&job{Job: c.Jobs[0], client: http.DefaultClient}, nil, model.LabelSet{model.AddressLabel: model.LabelValue(address)})
	if made == nil || made.wrong != nil {
		t.Fatalf("%+v", made)
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return made
}

// TestLabels: relabelling is Prometheus's, and what comes out of it names a series as every other sender does.
func TestLabels(t *testing.T) {
	for name, c := range map[string]struct{ relabel, url, labels string }{
		"plain":   {"[]", "http://10.0.0.1:6060/debug/pprof", "service_instance_id=10.0.0.1:6060 service_name=shop zone=a"},
		"renamed": {"[{source_labels: [__meta_app], target_label: service_name}, {target_label: instance, replacement: pod-7}]", "http://10.0.0.1:6060/debug/pprof", "service_instance_id=pod-7 service_name=cart zone=a"},
		"mapped":  {"[{action: labelmap, regex: __meta_(.+)}, {action: labeldrop, regex: zone}]", "http://10.0.0.1:6060/debug/pprof", "app=cart service_instance_id=10.0.0.1:6060 service_name=shop"},
		"moved": {`[{source_labels: [__address__], regex: '(.+):\d+', replacement: '$1:7070', target_label: __address__}, {target_label: __pprof_path__, replacement: /x/}, {target_label: __scheme__, replacement: https}]`,
			"https://10.0.0.1:7070/x", "service_instance_id=10.0.0.1:7070 service_name=shop zone=a"},
		"dropped": {"[{source_labels: [__meta_app], regex: cart, action: drop}]", "", ""},
		"kept":    {"[{source_labels: [__meta_app], regex: cart|shop, action: keep}]", "http://10.0.0.1:6060/debug/pprof", "service_instance_id=10.0.0.1:6060 service_name=shop zone=a"},
	} {
		conf, err := Parse(strings.NewReader("scrape_configs: [{job_name: shop, static_configs: [{targets: ['x:1']}], relabel_configs: "+c.relabel+"}]"), ".")
		if err != nil {
			t.Fatal(name, err)
		}
		got := newTarget(&job{Job: conf.Jobs[0]}, model.LabelSet{"zone": "a"}, model.LabelSet{model.AddressLabel: "10.0.0.1:6060", "__meta_app": "cart"})
		if got == nil {
			if c.url != "" {
				t.Errorf("%s: dropped", name)
			}
			continue
		}
		var pairs []string
		for _, l := range got.labels {
			pairs = append(pairs, l.Name+"="+l.Value)
		}
		if labels := strings.Join(pairs, " "); got.wrong != nil || got.url != c.url || labels != c.labels {
			t.Errorf("%s: %s {%s} %v, want %s {%s}", name, got.url, labels, got.wrong, c.url, c.labels)
		}
	}
}

// heapOf is what a program has counted of one stack.
func heapOf(alloc, inuse int64) []byte {
	b := profile.NewBuilder(profile.ValueType{Type: "alloc_space", Unit: "bytes"}, profile.ValueType{Type: "inuse_space", Unit: "bytes"})
	f := b.Function(profile.Function{Name: b.String("grow")})
	b.Add(b.Stack(0, b.Location(profile.Location{}, profile.Line{Function: f, Line: 1})), 0, alloc, inuse)
	return b.Profile().AppendPprof(nil)
}

const oneJob = "scrape_configs: [{job_name: shop, profiles: [memory], static_configs: [{targets: ['x:1']}]}]"

// TestDelta: of what counts since the start only the difference is kept, of what is in use the state; a program that was started anew, an
// answer that is none and a full memory cost one interval and no wrong figure.
func TestDelta(t *testing.T) {
	var body []byte
	status := 200
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/debug/pprof/heap" {
			t.Errorf("asked for %s", r.URL)
		}
		w.WriteHeader(status)
		w.Write(body)
	}))
	defer srv.Close()
	s, k, c := newScraper(t, oneJob, func(o *Options) { o.MaxBytes = 1 << 10 })
	target := aTarget(t, c, srv.Listener.Addr().String())
	for i, step := range []struct {
		status int
		body   []byte
		want   string // of alloc and inuse, of all that is kept then
		err    string
	}{
		{200, heapOf(1000, 50), "", ""},
		{200, heapOf(1300, 20), "300/20", ""},
		{200, heapOf(1300, 25), "300/20 0/25", ""},
		{500, []byte("no"), "300/20 0/25", `the target answers 500 Internal Server Error: "no"`},
		{200, heapOf(1400, 30), "300/20 0/25 100/30", ""},
		{200, []byte("hello"), "300/20 0/25 100/30", "corrupt"},
		{200, heapOf(1500, 30), "300/20 0/25 100/30", "corrupt"}, // the one before is no profile
		{200, heapOf(1600, 30), "300/20 0/25 100/30 100/30", ""},
		{200, heapOf(10, 5), "300/20 0/25 100/30 100/30", ""}, // started anew
		{200, heapOf(17, 6), "300/20 0/25 100/30 100/30 7/6", ""},
		{200, make([]byte, 1<<10+1), "300/20 0/25 100/30 100/30 7/6", "more than 1024 bytes"},
	} {
		status, body = step.status, step.body
		s.round(t.Context(), target)
		var got []string
		for _, p := range k.of(t, "memory") {
			got = append(got, fmt.Sprintf("%d/%d", p.Total(0), p.Total(1)))
		}
		shown := target.show()
		if strings.Join(got, " ") != step.want || !strings.Contains(shown.LastError, step.err) || (step.err == "") != (shown.LastError == "") {
			t.Errorf("step %d: %v, %q; want %s, %q", i, got, shown.LastError, step.want, step.err)
		}
	}
	if p := k.all[0]; !p.From.Before(p.To) || p.Labels.Get(profile.LabelService) != "shop" {
		t.Errorf("%+v", p)
	}
	s.opt.PrevBytes = 1
	status, body = 200, heapOf(20, 1)
	s.round(t.Context(), target)
	s.round(t.Context(), target)
	if e := target.show().LastError; !strings.Contains(e, "which is the limit") {
		t.Errorf("past the bound: %q", e)
	}
	s.forget(target)
	if n := s.prev.Load(); n != 0 {
		t.Errorf("%d bytes are still counted for a target that is gone", n)
	}
}

// TestGodeltaprof: a program that subtracts by itself is asked at its own paths, and its first answer, of an unknown time, is not kept.
func TestGodeltaprof(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/debug/pprof/delta_heap" {
			t.Errorf("asked for %s", r.URL)
		}
		w.Write(heapOf(5, 6))
	}))
	defer srv.Close()
	s, k, c := newScraper(t, strings.Replace(oneJob, "job_name: shop", "job_name: shop, godeltaprof: true", 1), nil)
	target := aTarget(t, c, srv.Listener.Addr().String())
	s.round(t.Context(), target)
	s.round(t.Context(), target)
	if got := k.of(t, "memory"); len(got) != 1 || got[0].Total(0) != 5 {
		t.Error(got)
	}
}

// pprofServer is a program as Go programs are.
func pprofServer(t *testing.T) *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", httppprof.Index)
	mux.HandleFunc("/debug/pprof/profile", httppprof.Profile)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv
}

// TestRealProgram: net/http/pprof itself, in each interval and on demand.
func TestRealProgram(t *testing.T) {
	srv := pprofServer(t)
	s, k, c := newScraper(t, strings.Replace(oneJob, "profiles: [memory]", "scrape_interval: 5s, cpu_duration: 1s", 1), nil)
	target := aTarget(t, c, srv.Listener.Addr().String())
	for range 2 {
		s.round(t.Context(), target)
	}
	for name, want := range map[string]int{"process_cpu": 2, "goroutine": 2, "memory": 1, "mutex": 1, "block": 1} {
		if got := k.of(t, name); len(got) != want {
			t.Errorf("%d of %s, want %d", len(got), name, want)
		}
	}
	if shown := target.show(); shown.Health != "up" || len(shown.Profiles) != 5 {
		t.Errorf("%+v", shown)
	}
	s.targets[target.key] = target
	h := s.Handler(func(r *http.Request) (string, error) { return r.Header.Get("X-Scope-OrgID"), nil })
	before := len(k.all)
	for body, want := range map[string]int{
		`{"service":"shop","profile":"heap","seconds":1}`:    200,
		`{"service":"shop","profile":"mutex","seconds":1}`:   200,
		`{"service":"shop","profile":"profile","seconds":1}`: 200,
		`{"service":"other","profile":"heap","seconds":1}`:   404,
		`{"service":"shop","profile":"trace","seconds":1}`:   400,
		`{"service":"shop","profile":"heap","seconds":0}`:    400,
		`{"service":"shop","profile":"heap","second":1}`:     400,
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", NowPath, strings.NewReader(body)))
		if w.Code != want {
			t.Errorf("%s: %d %s, want %d", body, w.Code, w.Body, want)
		}
	}
	if n := len(k.all) - before; n != 3 {
		t.Errorf("%d profiles were kept, want 3", n)
	}
	if got := k.of(t, "memory"); len(got) != 2 || slices.ContainsFunc(got[1].SampleTypes, func(v profile.ValueType) bool { return strings.HasPrefix(v.Type, "alloc") }) {
		t.Errorf("a heap of now has what was allocated since the start: %v", got[len(got)-1].SampleTypes)
	}
	srv.Close()
	if n, err := s.Now(t.Context(), "", "shop", "heap", time.Second); n != 0 || err == nil {
		t.Errorf("a target that is gone: %d, %v", n, err)
	}
}

// TestRun: targets come and go with the file that names them, another configuration takes the place of the one before, and nothing is left
// running.
func TestRun(t *testing.T) {
	srv := pprofServer(t)
	address := srv.Listener.Addr().String()
	dir := t.TempDir()
	write := func(targets ...string) {
		raw, err := json.Marshal([]map[string]any{{"targets": targets, "labels": map[string]string{"team": "pay"}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "new"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "targets.json")); err != nil {
			t.Fatal(err)
		}
	}
	write(address, "127.0.0.1:1")
	parse := func(relabel string) *Config {
		c, err := Parse(strings.NewReader("scrape_configs: [{job_name: found, file_sd_configs: [{files: [targets.json], refresh_interval: 1s}], relabel_configs: "+relabel+"}]"), dir)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	var mu sync.Mutex
	config := parse("[]")
	s, k, _ := newScraper(t, oneJob, func(o *Options) {
		o.Config = func() *Config { mu.Lock(); defer mu.Unlock(); return config }
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	wait := func(what string, good func(Targets) bool) {
		t.Helper()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.After(time.Minute); !good(s.Targets("")); {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("%s: %+v", what, s.Targets(""))
			}
		}
	}
	wait("two targets", func(l Targets) bool { return len(l.Active) == 2 })
	if n, err := s.Now(ctx, "default", "found", "goroutine", time.Second); n != 1 || err != nil {
		t.Errorf("of two of which one is there: %d, %v", n, err)
	}
	if got := k.of(t, "goroutine"); len(got) != 1 || k.all[0].Labels.Get("team") != "pay" {
		t.Error(got)
	}
	write(address)
	wait("one target", func(l Targets) bool { return len(l.Active) == 1 && l.Active[0].URL == "http://"+address+"/debug/pprof" })
	mu.Lock()
	config = parse("[{action: drop, source_labels: [__address__], regex: .*}]")
	mu.Unlock()
	wait("none", func(l Targets) bool { return len(l.Active) == 0 && l.Dropped == 1 })
	cancel()
	<-done
}

// TestOffset: targets are spread over the interval, and each keeps its moment.
func TestOffset(t *testing.T) {
	_, _, c := newScraper(t, oneJob, nil)
	tenth := map[time.Duration]int{}
	for i := range 1000 {
		address := fmt.Sprintf("10.0.0.%d:6060", i)
		a, b := aTarget(t, c, address).offset(), aTarget(t, c, address).offset()
		if a != b || a < 0 || a >= time.Minute {
			t.Fatal(a, b)
		}
		tenth[a/(6*time.Second)]++
	}
	if len(tenth) != 10 || slices.Max(slices.Collect(maps.Values(tenth))) > 150 { // 100 each, and 5 standard deviations
		t.Error(tenth)
	}
}

// TestBound: targets past the bound are not scraped, which the list says.
func TestBound(t *testing.T) {
	file := "scrape_configs: [{job_name: shop, static_configs: [{targets: ['a:1', 'b:1', 'c:1', 'a:1']}]}]"
	s, _, _ := newScraper(t, file, func(o *Options) { o.MaxTargets = 2 })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(time.Minute); ; {
		if l := s.Targets(""); len(l.Active) == 2 && l.Surplus == 1 {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%+v", s.Targets(""))
		}
	}
	cancel()
	<-done
}

// TestConsole: targets of a job with tokio_console are watched, not fetched from; what is told of them is on the list, and they end with the
// scraper.
func TestConsole(t *testing.T) {
	watched, ended := make(chan ConsoleTarget, 1), make(chan bool, 1)
	s, _, _ := newScraper(t, "scrape_configs: [{job_name: rust, tenant: shop, tokio_console: true, scrape_interval: 7s, static_configs: [{targets: ['127.0.0.1:1'], labels: {zone: a}}]}]", func(o *Options) {
		o.Console = func(ctx context.Context, c ConsoleTarget, seen func(bool, error)) {
			seen(true, nil)
			seen(false, errors.New("it is gone"))
			watched <- c
			<-ctx.Done()
			ended <- true
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() { s.Run(ctx) })
	c := <-watched
	if c.Tenant != "shop" || c.URL != "http://127.0.0.1:1" || c.Interval != 7*time.Second || c.Labels.Get(profile.LabelService) != "rust" || c.Labels.Get("zone") != "a" {
		t.Errorf("%+v", c)
	}
	l := s.Targets("rust").Active
	if len(l) != 1 || l[0].Health != "down" || l[0].LastError != "tasks: it is gone" || l[0].Profiles[0].Kept != 1 {
		t.Errorf("%+v", l)
	}
	if n, err := s.Now(ctx, "shop", "rust", "heap", time.Second); n != 0 || err != nil {
		t.Errorf("it has no heap: %d, %v", n, err)
	}
	cancel()
	wait.Wait()
	if !<-ended {
		t.Error("it is watched on")
	}
}
