package ingest

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/ingest/clienttest"
)

// TestDatadogGo runs Datadog's client for Go in a busy program, until each kind of profile has come.
func TestDatadogGo(t *testing.T) {
	program := clienttest.Need(t, "QUANTRA_DATADOG_CLIENT", "the program of ingest/clients/datadog")
	s := &seen{news: make(chan struct{}, 1)}
	_, srv := serve(t, Options{Append: s.append, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	types := []string{"process_cpu:cpu:nanoseconds:cpu:nanoseconds", "memory:inuse_space:bytes:space:bytes", "memory:alloc_space:bytes:space:bytes", "goroutine:goroutine:count:goroutine:count"}
	work := regexp.MustCompile(`main\.busyWork$`)
	enough := func() bool {
		if !s.all(types) {
			return false
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.has("process_cpu", work)
	}
	runUntil(t, s.news, enough, []string{"DD_INSTRUMENTATION_TELEMETRY_ENABLED=false", "DD_REMOTE_CONFIGURATION_ENABLED=false"}, program, strings.TrimPrefix(srv.URL, "http://"))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pushes {
		for name, want := range map[string]string{"service_name": "dd.test", "deployment_environment": "ci", "service_version": "v3", "team": "shop", "process_runtime_name": "go", "profile_seq": ""} {
			if got := p.Labels.Get(name); got != want {
				t.Errorf("%s: label %s is %q, not %q", p.Name, name, got, want)
			}
		}
		if !p.From.Before(p.To) || time.Since(p.To) > time.Hour {
			t.Errorf("%s: from %v to %v", p.Name, p.From, p.To)
		}
	}
	clienttest.Record(t, clienttest.Row{
		Protocol: "Datadog /profiling/v1/input", Client: "dd-trace-go", Version: "v2.12.0",
		Sent: "CPU, heap (delta), mutex and goroutine profiles", Seen: "CPU, memory and goroutine types with samples, the busy function, tags as labels",
	})
}

// datadogForm is a form as Datadog's clients send it.
func datadogForm(t testing.TB, event string, files map[string][]byte) (kind string, body []byte) {
	t.Helper()
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	for name, b := range files {
		f, err := w.CreateFormFile(name, name)
		if err != nil {
			t.Fatal(err)
		}
		f.Write(b)
	}
	if event != "" {
		f, err := w.CreateFormFile("event", "event.json")
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(f, event)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return w.FormDataContentType(), buf.Bytes()
}

// TestDatadogFaults: each wrong form is refused with its reason, and the next right one is kept.
func TestDatadogFaults(t *testing.T) {
	s := &seen{news: make(chan struct{}, 1)}
	_, srv := serve(t, Options{Append: s.append})
	event := func(end time.Time) string {
		return `{"start":"` + end.Add(-time.Minute).Format(time.RFC3339Nano) + `","end":"` + end.Format(time.RFC3339Nano) + `","tags_profiler":"service:shop,host:a,runtime-id:1,profile_seq:3,_dd.x:1"}`
	}
	good := map[string][]byte{"delta-heap.pprof": benchProfile().AppendPprof(nil), "metrics.json": []byte("[]"), "go.trace": []byte("go 1.26 trace")}
	for _, c := range []struct {
		what, event string
		files       map[string][]byte
		status      int
		code        string
	}{
		{"no event", "", good, 400, "event"},
		{"event is no JSON", "{", good, 400, "event"},
		{"no profile", event(now), map[string][]byte{"metrics.json": []byte("[]")}, 400, "empty"},
		{"corrupt", event(now), map[string][]byte{"cpu.pprof": []byte("\x1f\x8b")}, 400, "corrupt_profile"},
		{"ahead", event(now.Add(time.Hour)), good, 422, "future"},
		{"long ago", event(now.Add(-30 * 24 * time.Hour)), good, 422, "too_old"},
		{"good", event(now), good, 200, ""},
	} {
		kind, body := datadogForm(t, c.event, c.files)
		resp, err := http.Post(srv.URL+"/api/v2/profile", kind, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Code string }
		err = json.NewDecoder(resp.Body).Decode(&got)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || got.Code != c.code {
			t.Errorf("%s: %d %s %v", c.what, resp.StatusCode, got.Code, err)
		}
	}
	if len(s.pushes) != 1 || s.pushes[0].Labels.String() != `{host_name="a", service_instance_id="1", service_name="shop"}` || s.pushes[0].To.Sub(s.pushes[0].From) != time.Minute {
		t.Errorf("kept: %+v", s.pushes)
	}
}
