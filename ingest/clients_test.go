package ingest

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evanw/esbuild/pkg/api"

	"github.com/quantra-l/quantra/ingest/clienttest"
	"github.com/quantra-l/quantra/profile"
)

// clientToken is what the clients of these tests give in their native way.
const clientToken = "qlt_client_token"

// seen is what a client's profiles came to.
type seen struct {
	mu       sync.Mutex
	pushes   []Push
	unsigned int           // requests without the token
	news     chan struct{} // has a token when something came
}

func (s *seen) append(_ context.Context, p Push) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pushes = append(s.pushes, p)
	select {
	case s.news <- struct{}{}:
	default:
	}
	return nil
}

// authorize sees to it that the token is there, as Bearer or as the password.
func (s *seen) authorize(r *http.Request) error {
	_, password, _ := r.BasicAuth()
	if password != clientToken && r.Header.Get("Authorization") != "Bearer "+clientToken {
		s.mu.Lock()
		s.unsigned++
		s.mu.Unlock()
	}
	return nil
}

// types are the profile types that came, sorted, those of nothing but zeros left out.
func (s *seen) types() []string {
	var out []string
	for _, p := range s.pushes {
		for i, t := range p.Profile.SampleTypes {
			name := profile.Type{Name: p.Name, Sample: t, Period: p.Profile.PeriodType}.String()
			if p.Profile.Total(i) > 0 && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return out
}

// all says that all of these types have come.
func (s *seen) all(types []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.types()
	return !slices.ContainsFunc(types, func(t string) bool { return !slices.Contains(have, t) })
}

// has says that a function of this name has samples in a profile.
func (s *seen) has(name string, function *regexp.Regexp) bool {
	for _, p := range s.pushes {
		if p.Name == name && slices.ContainsFunc(profile.Top(p.Profile, 0), func(r profile.TopRow) bool { return function.MatchString(r.Name) && r.Total > 0 }) {
			return true
		}
	}
	return false
}

// clientServer is a server with a real clock, for programs that have one.
func clientServer(t *testing.T) (url string, s *seen) {
	t.Helper()
	s = &seen{news: make(chan struct{}, 1)}
	_, srv := serve(t, Options{Append: s.append, Authorize: s.authorize, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	return srv.URL, s
}

// runClient runs a client to its end, and is what it wrote.
func runClient(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // a machine this slow is broken
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, &out)
	}
	return out.String()
}

// runUntil runs a client until enough has come, or it ends by itself.
func runUntil(t *testing.T, news <-chan struct{}, enough func() bool, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for !enough() {
		select {
		case <-news:
		case err := <-ended:
			t.Fatalf("it ended (%v) before enough had come: %s", err, &out)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
}

// TestPyroscopeClients runs Grafana's own clients of other languages, each a program that is busy and profiles itself.
func TestPyroscopeClients(t *testing.T) {
	nodeTypes := []string{"wall:samples:count:wall:nanoseconds", "wall:wall:nanoseconds:wall:nanoseconds", "memory:inuse_objects:count:space:bytes", "memory:inuse_space:bytes:space:bytes"}
	modules := func(t *testing.T) string {
		return clienttest.Need(t, "QUANTRA_NODE_MODULES", "the folder with @pyroscope/nodejs")
	}
	for name, c := range map[string]struct {
		protocol, client, version string
		run                       func(t *testing.T, url string, s *seen)
		want                      []string
		function                  string // a regular expression
		service                   string
	}{
		"python": {
			"Pyroscope push.v1 (Connect)", "pyroscope-io (Python)", "1.4.0",
			func(t *testing.T, url string, _ *seen) {
				runClient(t, nil, clienttest.Need(t, "QUANTRA_PYTHON", "a Python with pyroscope-io"), "clients/python/client.py", url, clientToken, "3")
			},
			[]string{"process_cpu:cpu:nanoseconds:cpu:nanoseconds"},
			`busy_work`, "python.test",
		},
		"node": {
			"Pyroscope /ingest, pprof", "@pyroscope/nodejs", "0.6.4",
			func(t *testing.T, url string, s *seen) {
				// It sends while it runs, so it runs until enough is here.
				runUntil(t, s.news, func() bool { return s.all(nodeTypes) }, []string{"NODE_PATH=" + modules(t)}, "node", "clients/node/client.js", url, clientToken, "120")
			},
			nodeTypes,
			`busyWork`, "node.test",
		},
		"rust": {
			"Pyroscope push.v1 (Connect)", "pyroscope (Rust)", "2.1.5",
			func(t *testing.T, url string, _ *seen) {
				runClient(t, nil, clienttest.Need(t, "QUANTRA_RUST_CLIENT", "the program of ingest/clients/rust"), url, clientToken, "3")
			},
			[]string{"process_cpu:cpu:nanoseconds:cpu:nanoseconds"},
			`busy_work`, "rust.test",
		},
		"java": {
			"Pyroscope /ingest, Flight Recorder", "io.pyroscope:agent (Java)", "2.1.2",
			func(t *testing.T, url string, _ *seen) {
				jar := clienttest.Need(t, "QUANTRA_PYROSCOPE_JAVA", "the jar of io.pyroscope:agent")
				runClient(t, []string{
					"PYROSCOPE_SERVER_ADDRESS=" + url, "PYROSCOPE_APPLICATION_NAME=java.test", "PYROSCOPE_LABELS=region=eu,service.version=v1",
					"PYROSCOPE_BASIC_AUTH_USER=quantra", "PYROSCOPE_BASIC_AUTH_PASSWORD=" + clientToken, "PYROSCOPE_TENANT_ID=acme",
					"PYROSCOPE_UPLOAD_INTERVAL=1s", "PYROSCOPE_FORMAT=jfr", "PYROSCOPE_PROFILER_EVENT=itimer", "PYROSCOPE_PROFILER_ALLOC=64k", "PYROSCOPE_PROFILER_LOCK=100us",
				}, "java", "-javaagent:"+jar, "clients/java/Busy.java", "8")
			},
			[]string{
				"memory:alloc_objects:count:space:bytes", "memory:alloc_space:bytes:space:bytes", "mutex:contentions:count:contentions:count", "mutex:delay:nanoseconds:contentions:count",
				"process_cpu:cpu:nanoseconds:cpu:nanoseconds", "process_cpu:samples:count:cpu:nanoseconds",
			},
			`Busy\.busyWork`, "java.test",
		},
	} {
		t.Run(name, func(t *testing.T) {
			url, s := clientServer(t)
			c.run(t, url, s)
			s.mu.Lock()
			defer s.mu.Unlock()
			types := s.types()
			for _, w := range c.want {
				if !slices.Contains(types, w) {
					t.Errorf("nothing of %s; there are %q", w, types)
				}
			}
			if len(s.pushes) == 0 {
				t.Fatal("nothing came")
			}
			if name, _, _ := strings.Cut(c.want[0], ":"); !s.has(name, regexp.MustCompile(c.function)) {
				t.Errorf("the function at work is in no profile %s: %v", name, profile.Top(s.pushes[0].Profile, 0))
			}
			if s.unsigned > 0 {
				t.Errorf("%d requests came without the token", s.unsigned)
			}
			for _, p := range s.pushes {
				if p.Tenant != "acme" || p.Labels.Get("service_name") != c.service || p.Labels.Get("region") != "eu" || p.Labels.Get("service_version") != "v1" {
					t.Errorf("tenant %q, labels %v", p.Tenant, p.Labels)
				}
				if again, err := profile.DecodeBytes(p.Pprof, profile.Limits{}); err != nil || again.Total(0) != p.Profile.Total(0) {
					t.Errorf("the bytes handed on do not decode to the profile: %v", err)
				}
			}
			clienttest.Record(t, clienttest.Row{Protocol: c.protocol, Client: c.client, Version: c.version, Sent: "a busy program's own profiles, tags, tenant, token as password", Seen: strings.Join(types, " ")})
		})
	}
}

// TestCallClients sends one known profile by published clients: first one that is refused, then the good one by the same client.
func TestCallClients(t *testing.T) {
	for name, c := range map[string]struct {
		protocol, client, version string
		spans                     bool // the sample has a thread and a link
	}{
		"push-connect": {"Pyroscope push.v1 (Connect)", "github.com/grafana/pyroscope/api", "1.6.0", false},
		"push-grpc":    {"Pyroscope push.v1 (gRPC)", "github.com/grafana/pyroscope/api", "1.6.0", false},
		"push-json":    {"Pyroscope push.v1 (JSON)", "github.com/grafana/pyroscope/api", "1.6.0", false},
		"otlp-grpc":    {"OTLP profiles, gRPC, gzip", "OpenTelemetry collector's otlp exporter", "0.165.0", true},
		"otlp-http":    {"OTLP profiles, HTTP protobuf, zstd", "OpenTelemetry collector's otlphttp exporter", "0.165.0", true},
		"otlp-json":    {"OTLP profiles, HTTP JSON", "OpenTelemetry collector's otlphttp exporter", "0.165.0", true},
		"parca":        {"Parca WriteRaw (gRPC-Web)", "@parca/client (Parca's stubs)", "0.17.24", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := &seen{}
			url := serveHTTP2(t, Options{Append: s.append, Authorize: s.authorize, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
			var told string
			if name == "parca" {
				told = runParca(t, url)
			} else {
				told = runClient(t, nil, clienttest.Need(t, "QUANTRA_GO_CLIENT", "the program of ingest/clients/go"), name, url, clientToken)
			}
			why := "set the sender's clock"
			if name == "otlp-json" { // this exporter tells only the status of answers in JSON
				why = "HTTP Status Code 400"
			}
			if !strings.Contains(told, why) {
				t.Errorf("the client was not told why the first was refused: %s", told)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.pushes) != 1 || s.unsigned > 0 {
				t.Fatalf("%d profiles came, %d without the token", len(s.pushes), s.unsigned)
			}
			p := s.pushes[0]
			if got, want := strings.Join(s.types(), " "), "process_cpu:cpu:nanoseconds:cpu:nanoseconds process_cpu:samples:count:cpu:nanoseconds"; got != want {
				t.Errorf("types %s", got)
			}
			if p.Profile.Total(0) != 7 || p.Profile.Total(1) != 70_000_000 || p.To.Sub(p.From) != 10*time.Second {
				t.Errorf("%d samples, %d ns, %v to %v", p.Profile.Total(0), p.Profile.Total(1), p.From, p.To)
			}
			if p.Tenant != "acme" || p.Labels.Get("service_name") != "client.test" || p.Labels.Get("deployment_environment") != "test" || p.Labels.Get("process_command_line") != "" {
				t.Errorf("tenant %q, labels %v", p.Tenant, p.Labels)
			}
			var folded strings.Builder
			if err := profile.WriteFolded(&folded, p.Profile, 0); err != nil || folded.String() != "main.main;main.work 7\n" {
				t.Errorf("%q: %v", &folded, err)
			}
			if c.spans {
				checkSampleLabels(t, p.Profile)
			}
			clienttest.Record(t, clienttest.Row{Protocol: c.protocol, Client: c.client, Version: c.version, Sent: "a profile an hour ahead, then a good one", Seen: "the first refused with its reason, the second: " + strings.Join(s.types(), " ")})
		})
	}
}

func checkSampleLabels(t *testing.T, p *profile.Profile) {
	t.Helper()
	got := map[string]string{}
	for _, l := range p.LabelSets[p.SampleLabels[0]] {
		got[p.Strings[l.Key]] = p.Strings[l.Str]
	}
	want := map[string]string{"thread_name": "worker-1", "trace_id": "0102030405060708090a0b0c0d0e0f10", "span_id": "0102030405060708"}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("label %s of the sample is %q, must be %q", k, got[k], v)
		}
	}
	if len(p.Mappings) != 2 || p.Strings[p.Mappings[1].BuildID] != "abcdef" {
		t.Errorf("mappings %+v", p.Mappings)
	}
}

// runParca bundles Parca's stubs, which are made for bundlers, and sends by them.
func runParca(t *testing.T, url string) string {
	t.Helper()
	modules := clienttest.Need(t, "QUANTRA_NODE_MODULES", "the folder with @parca/client and @protobuf-ts/grpcweb-transport")
	dir := t.TempDir()
	bundle := filepath.Join(dir, "parca.js")
	res := api.Build(api.BuildOptions{EntryPoints: []string{"clients/node/parca.ts"}, Bundle: true, Platform: api.PlatformNode, Outfile: bundle, Write: true, NodePaths: []string{modules}, LogLevel: api.LogLevelSilent})
	if len(res.Errors) > 0 {
		t.Fatalf("bundling: %+v", res.Errors)
	}
	files := []string{}
	for i, at := range []time.Time{time.Now().Add(time.Hour), time.Now().Add(-time.Minute)} {
		p := sample()
		p.TimeNanos = at.UnixNano()
		p.Values[1][0] = 70_000_000
		path := filepath.Join(dir, []string{"bad", "good"}[i])
		if err := os.WriteFile(path, gz(p.AppendPprof(nil)), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	return runClient(t, nil, "node", bundle, url, clientToken, files[0], files[1])
}
