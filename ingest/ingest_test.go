package ingest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/quantra-l/quantra/profile"
)

// now is the clock of every test that does not need a real one.
var now = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// sink is an Append that remembers.
type sink struct {
	mu     sync.Mutex
	pushes []Push
	err    error
}

func (s *sink) append(_ context.Context, p Push) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.pushes = append(s.pushes, p)
	}
	return s.err
}

func (s *sink) last(t *testing.T) Push {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pushes) == 0 {
		t.Fatal("nothing arrived")
	}
	return s.pushes[len(s.pushes)-1]
}

// serve starts a real server around the options.
func serve(t testing.TB, o Options) (*Ingest, *httptest.Server) {
	t.Helper()
	if o.Now == nil {
		o.Now = func() time.Time { return now }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	in, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	in.Register(mux)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return in, srv
}

// sample is a small profile whose only stack is main -> work.
func sample(types ...profile.ValueType) *profile.Profile {
	if len(types) == 0 {
		types = []profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}}
	}
	b := profile.NewBuilder(types...)
	stack := uint32(0)
	for i, name := range []string{"main.main", "main.work"} {
		f := b.Function(profile.Function{Name: b.String(name), SystemName: b.String(name), File: b.String("main.go"), StartLine: int64(10 * i)})
		stack = b.Stack(stack, b.Location(profile.Location{Address: uint64(4096 + i)}, profile.Line{Function: f, Line: int64(10*i + 3)}))
	}
	values := make([]int64, len(types))
	for i := range values {
		values[i] = int64(7 * (i + 1))
	}
	b.Add(stack, 0, values...)
	p := b.Profile()
	p.PeriodType, p.Period = profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, 10_000_000
	p.TimeNanos, p.DurationNanos = now.Add(-time.Minute).UnixNano(), int64(10*time.Second)
	return p
}

func gz(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(b)
	w.Close()
	return z.Bytes()
}

func zst(t testing.TB, b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// form makes a multipart body of name, content pairs.
func form(t testing.TB, fields ...string) (contentType string, body []byte) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i < len(fields); i += 2 {
		fw, err := w.CreateFormFile(fields[i], fields[i])
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(fw, fields[i+1])
	}
	w.Close()
	return w.FormDataContentType(), b.Bytes()
}

type request struct {
	method, path string
	header       map[string]string
	body         []byte
}

// do sends r and returns the status and the error of the answer.
func (r request) do(t testing.TB, srv *httptest.Server) (status int, code, text string, h http.Header) {
	t.Helper()
	req, err := http.NewRequest(cmpOr(r.method, "POST"), srv.URL+r.path, bytes.NewReader(r.body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range r.header {
		req.Header.Set(k, v)
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if ct := res.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("%s: Content-Type %q: %s", r.path, ct, b)
	}
	var e struct{ Error, Code string }
	if err := json.Unmarshal(b, &e); err != nil {
		t.Errorf("%s: answer %q: %v", r.path, b, err)
	}
	return res.StatusCode, e.Code, e.Error, res.Header
}

func cmpOr(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func TestPush(t *testing.T) {
	raw := sample().AppendPprof(nil)
	bodies := map[string]request{
		"raw":                    {body: raw},
		"gzip":                   {body: gz(raw)},
		"zstd":                   {body: zst(t, raw)},
		"raw, encoded gzip":      {body: gz(raw), header: map[string]string{"Content-Encoding": "gzip"}},
		"gzip, encoded gzip":     {body: gz(gz(raw)), header: map[string]string{"Content-Encoding": "gzip"}},
		"zstd, encoded gzip":     {body: gz(zst(t, raw)), header: map[string]string{"Content-Encoding": "gzip"}},
		"gzip, encoded zstd":     {body: zst(t, gz(raw)), header: map[string]string{"Content-Encoding": "zstd"}},
		"gzip of two members":    {body: append(gz(raw[:len(raw)/2]), gz(raw[len(raw)/2:])...)},
		"raw, but said to be gz": {body: raw, header: map[string]string{"Content-Encoding": "gzip"}},
	}
	for name, r := range bodies {
		t.Run(name, func(t *testing.T) {
			var s sink
			in, srv := serve(t, Options{Append: s.append})
			r.path = "/api/v1/profiles?service_name=checkout&service_version=v2&zone=a&name=process_cpu&from=2026-05-04T11:59:00Z&until=2026-05-04T11:59:10Z"
			if r.header == nil {
				r.header = map[string]string{}
			}
			r.header["X-Scope-OrgID"] = "acme"
			if status, code, text, _ := r.do(t, srv); status != 200 {
				t.Fatalf("status %d %s: %s", status, code, text)
			}
			p := s.last(t)
			if got, want := p.Labels.String(), `{service_name="checkout", service_version="v2", zone="a"}`; got != want {
				t.Errorf("labels %s, want %s", got, want)
			}
			if p.Tenant != "acme" || p.Name != "process_cpu" || p.To.Sub(p.From) != 10*time.Second || !p.To.Equal(now.Add(-50*time.Second)) {
				t.Errorf("tenant %q, name %q, %v to %v", p.Tenant, p.Name, p.From, p.To)
			}
			again, err := profile.DecodeBytes(p.Pprof, profile.Limits{})
			if err != nil || again.Total(1) != 14 || p.Profile.Total(1) != 14 {
				t.Errorf("the bytes handed on do not decode to the profile: %v", err)
			}
			if n := in.InFlightBytes(); n != 0 {
				t.Errorf("%d bytes still held", n)
			}
		})
	}
}

// TestWindow: what the sender says, else what the profile says, else now.
func TestWindow(t *testing.T) {
	at := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339Nano) }
	old := sample()
	old.TimeNanos, old.DurationNanos = 0, 0
	snap := sample()
	snap.DurationNanos = 0
	for _, c := range []struct {
		name, path string
		p          *profile.Profile
		from, to   time.Duration // from now
	}{
		{"said", "/api/v1/profiles?service_name=a&from=" + at(-time.Hour) + "&until=" + at(-time.Minute), sample(), -time.Hour, -time.Minute},
		{"said in ns", fmt.Sprintf("/api/v1/profiles?service_name=a&from=%d&until=%d", now.Add(-time.Hour).UnixNano(), now.UnixNano()), sample(), -time.Hour, 0},
		{"the profile's", "/api/v1/profiles?service_name=a", sample(), -time.Minute, -50 * time.Second},
		{"a snapshot's", "/api/v1/profiles?service_name=a", snap, -time.Minute, -time.Minute + time.Millisecond},
		{"none", "/api/v1/profiles?service_name=a", old, -10 * time.Second, 0},
		{"pyroscope s", fmt.Sprintf("/ingest?name=a&from=%d&until=%d", now.Unix()-60, now.Unix()), sample(), -time.Minute, 0},
		{"pyroscope ms", fmt.Sprintf("/ingest?name=a&from=%d&until=%d", now.UnixMilli()-60000, now.UnixMilli()), sample(), -time.Minute, 0},
		{"pyroscope us", fmt.Sprintf("/ingest?name=a&from=%d&until=%d", now.UnixMicro()-60000000, now.UnixMicro()), sample(), -time.Minute, 0},
		{"pyroscope ns", fmt.Sprintf("/ingest?name=a&from=%d&until=%d", now.Add(-time.Minute).UnixNano(), now.UnixNano()), sample(), -time.Minute, 0},
		{"pyroscope now", "/ingest?name=a&from=now-15m&until=now", sample(), -15 * time.Minute, 0},
		{"pyroscope flushed", fmt.Sprintf("/ingest?name=a&from=%d&until=%d", now.UnixNano(), now.UnixNano()), sample(), -time.Minute, -50 * time.Second},
		{"pyroscope none", "/ingest?name=a", old, -10 * time.Second, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s sink
			_, srv := serve(t, Options{Append: s.append})
			r := request{path: strings.ReplaceAll(c.path, "+", "%2B"), body: c.p.AppendPprof(nil)}
			if status, code, text, _ := r.do(t, srv); status != 200 {
				t.Fatalf("status %d %s: %s", status, code, text)
			}
			if p := s.last(t); !p.From.Equal(now.Add(c.from)) || !p.To.Equal(now.Add(c.to)) {
				t.Errorf("window %v to %v, want %v to %v", p.From, p.To, now.Add(c.from), now.Add(c.to))
			}
		})
	}
}

// TestColons: the types of perf's events are kept under names that a profile type's text can carry, in the bytes too.
func TestColons(t *testing.T) {
	var kept []Push
	in, err := New(Options{Append: func(_ context.Context, p Push) error { kept = append(kept, p); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	in.Register(mux)
	p := sample(profile.ValueType{Type: "cycles:P", Unit: "count"}, profile.ValueType{Type: "sched:sched_switch", Unit: "count"})
	p.DefaultSampleType, p.PeriodType = "cycles:P", p.SampleTypes[0]
	p.TimeNanos, p.DurationNanos = time.Now().Add(-time.Minute).UnixNano(), int64(time.Second)
	r := httptest.NewRequest(http.MethodPost, "/api/v1/profiles?service_name=shop", bytes.NewReader(p.AppendPprof(nil)))
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	if w.Code != http.StatusOK || len(kept) != 1 {
		t.Fatal(w.Code, w.Body, len(kept))
	}
	back, err := profile.DecodeBytes(kept[0].Pprof, profile.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []*profile.Profile{back, kept[0].Profile} {
		want := []profile.ValueType{{Type: "cycles_P", Unit: "count"}, {Type: "sched_sched_switch", Unit: "count"}}
		if !slices.Equal(got.SampleTypes, want) || got.PeriodType != want[0] || got.DefaultSampleType != "cycles_P" || got.Total(0) != p.Total(0) {
			t.Errorf("%v, period %v, default %q, total %d", got.SampleTypes, got.PeriodType, got.DefaultSampleType, got.Total(0))
		}
	}
}

// TestRefused is every way to be wrong, with what the sender is told.
func TestRefused(t *testing.T) {
	raw := sample().AppendPprof(nil)
	push := "/api/v1/profiles?service_name=a"
	twice := sample(profile.ValueType{Type: "a", Unit: "b"}, profile.ValueType{Type: "a", Unit: "b"})
	control := sample(profile.ValueType{Type: "a\tb", Unit: "c"})
	alike := sample(profile.ValueType{Type: "a:b", Unit: "c"}, profile.ValueType{Type: "a_b", Unit: "c"})
	noProfile, noProfileBody := form(t, "other", "x")
	badConfig, badConfigBody := form(t, "profile", string(raw), "sample_type_config", "{")
	jfr, jfrBody := form(t, "jfr", "FLR")
	cumulative, cumulativeBody := form(t, "profile", string(raw), "sample_type_config", `{"cpu":{"cumulative":true}}`)
	prev, prevBody := form(t, "profile", string(raw), "prev_profile", string(twice.AppendPprof(nil)), "sample_type_config", `{"cpu":{"cumulative":true}}`)
	cut, cutBody := form(t, "profile", string(raw))
	many, manyBody := form(t, strings.Split(strings.Repeat("x ", 40), " ")[:40]...)
	ct := func(v string) map[string]string { return map[string]string{"Content-Type": v} }

	for _, c := range []struct {
		name   string
		r      request
		status int
		code   string
		text   string // part of it
	}{
		{"GET", request{method: "GET", path: push}, 405, "method", "POST"},
		{"GET pyroscope", request{method: "GET", path: "/ingest?name=a"}, 405, "method", "POST"},
		{"a web page's", request{path: push, body: raw, header: map[string]string{"Sec-Fetch-Site": "cross-site"}}, 403, "cross_origin", "origin"},
		{"tenant", request{path: push, body: raw, header: map[string]string{"X-Scope-OrgID": "a/b"}}, 400, "tenant", `'/' at 1`},
		{"tenant ..", request{path: push, body: raw, header: map[string]string{"X-Scope-OrgID": ".."}}, 400, "tenant", "not a name"},
		{"tenant long", request{path: push, body: raw, header: map[string]string{"X-Scope-OrgID": strings.Repeat("a", 151)}}, 400, "tenant", "151"},
		{"no service", request{path: "/api/v1/profiles", body: raw}, 400, "service", "service_name=NAME"},
		{"empty service", request{path: "/api/v1/profiles?service_name=", body: raw}, 400, "service", "service_name=NAME"},
		{"query", request{path: push + "&x=%zz", body: raw}, 400, "query", "%zz"},
		{"twice", request{path: push + "&x=1&x=2", body: raw}, 400, "query", `"x" is given 2 times`},
		{"label", request{path: push + "&service.version=1", body: raw}, 400, "labels", `'.' at 7`},
		{"reserved", request{path: push + "&__profile_type__=x", body: raw}, 400, "labels", "reserved"},
		{"long label", request{path: push + "&x=" + strings.Repeat("v", 3000), body: raw}, 400, "labels", "3000 bytes"},
		{"not UTF-8", request{path: push + "&x=%ff", body: raw}, 400, "labels", "UTF-8"},
		{"name", request{path: push + "&name=a:b", body: raw}, 400, "name", "':' at 1"},
		{"from only", request{path: push + "&from=2026-05-04T11:59:00Z", body: raw}, 400, "time", "both"},
		{"from is not a time", request{path: push + "&from=yesterday&until=x", body: raw}, 400, "time", "RFC 3339"},
		{"from in seconds", request{path: push + "&from=1777895940&until=1777895950", body: raw}, 400, "time", "nanoseconds"},
		{"backwards", request{path: push + "&from=2026-05-04T11:59:00Z&until=2026-05-04T11:58:00Z", body: raw}, 400, "time", "not before"},
		{"future", request{path: push + "&from=2026-05-04T11:59:00Z&until=2026-05-04T14:59:00Z", body: raw}, 422, "future", "clock"},
		{"old", request{path: push + "&from=2026-01-04T11:59:00Z&until=2026-01-04T14:59:00Z", body: raw}, 422, "too_old", "168h"},
		{"empty", request{path: push}, 400, "empty", "bytes of a profile"},
		{"garbage", request{path: push, body: []byte("hello, world\n")}, 400, "corrupt_profile", "send pprof"},
		{"cut gzip", request{path: push, body: gz(raw)[:20]}, 400, "corrupt_profile", "decompress: unexpected EOF"},
		{"brotli", request{path: push, body: raw, header: map[string]string{"Content-Encoding": "br"}}, 415, "content_encoding", "gzip"},
		{"too long", request{path: push, body: make([]byte, 1<<16+1)}, 413, "too_large", "65536"},
		{"bomb", request{path: push, body: gz(make([]byte, 3<<20))}, 413, "too_large", "2097152"},
		{"encoded bomb", request{path: push, body: gz(gz(make([]byte, 3<<20))), header: map[string]string{"Content-Encoding": "gzip"}}, 413, "too_large", ""},
		{"type twice", request{path: push, body: twice.AppendPprof(nil)}, 422, "sample_type", "twice"},
		{"type with a tab", request{path: push, body: control.AppendPprof(nil)}, 422, "sample_type", `'\t'`},
		{"types alike", request{path: push, body: alike.AppendPprof(nil)}, 422, "sample_type", "twice"},
		{"no application", request{path: "/ingest", body: raw}, 400, "service", "name=NAME"},
		{"open brace", request{path: "/ingest?name=a%7Bb=c", body: raw}, 400, "name", "end with }"},
		{"no value", request{path: "/ingest?name=a%7Bb%7D", body: raw}, 400, "name", "key=value"},
		{"pyroscope time", request{path: "/ingest?name=a&from=now-x&until=now", body: raw}, 400, "time", "now-15m"},
		{"neither", request{path: "/ingest?name=a", body: []byte("hello\n")}, 400, "corrupt_profile", "send pprof"},
		{"not folded", request{path: "/ingest?name=a&format=groups", body: []byte("a;b 1\na;b x\n")}, 400, "corrupt_profile", "line 2"},
		{"sample rate", request{path: "/ingest?name=a&format=groups&sampleRate=0", body: []byte("a;b 1\n")}, 400, "sample_rate", "from 1"},
		{"overflow", request{path: "/ingest?name=a&format=groups", body: []byte("a;b 922337203685477580\n")}, 422, "overflow", "64 bits"},
		{"jfr", request{path: "/ingest?name=a&format=jfr", body: raw}, 400, "corrupt_profile", "Flight Recorder"},
		{"jfr form", request{path: "/ingest?name=a", body: jfrBody, header: ct(jfr)}, 400, "corrupt_profile", "Flight Recorder"},
		{"no boundary", request{path: "/ingest?name=a", body: raw, header: ct("multipart/form-data")}, 400, "multipart", "boundary"},
		{"no profile", request{path: "/ingest?name=a", body: noProfileBody, header: ct(noProfile)}, 400, "empty", `"profile"`},
		{"cut form", request{path: "/ingest?name=a", body: cutBody[:len(cutBody)-80], header: ct(cut)}, 400, "multipart", "EOF"},
		{"many fields", request{path: "/ingest?name=a", body: manyBody, header: ct(many)}, 400, "multipart", "16"},
		{"config", request{path: "/ingest?name=a", body: badConfigBody, header: ct(badConfig)}, 400, "sample_type_config", "JSON"},
		{"cumulative", request{path: "/ingest?name=a", body: cumulativeBody, header: ct(cumulative)}, 422, "cumulative", "prev_profile"},
		{"other types before", request{path: "/ingest?name=a", body: prevBody, header: ct(prev)}, 422, "prev_profile", "sample types"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s sink
			in, srv := serve(t, Options{Append: s.append, Limits: profile.Limits{Compressed: 1 << 16, Decoded: 2 << 20}})
			status, code, text, h := c.r.do(t, srv)
			if status != c.status || code != c.code || !strings.Contains(text, c.text) {
				t.Errorf("%d %s %q, want %d %s ...%q...", status, code, text, c.status, c.code, c.text)
			}
			if status == 405 && h.Get("Allow") != "POST" {
				t.Errorf("Allow: %q", h.Get("Allow"))
			}
			if len(s.pushes) != 0 {
				t.Error("it was kept all the same")
			}
			if n := in.InFlightBytes(); n != 0 {
				t.Errorf("%d bytes still held", n)
			}
		})
	}
}

// TestAppendErrors: what Append says decides whether the sender tries again.
func TestAppendErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   string
		retry  string
		text   string
	}{
		{fmt.Errorf("label x: %w", ErrInvalid), 422, "invalid", "", "label x"},
		{fmt.Errorf("queue full: %w", ErrOverloaded), 429, "overloaded", "1", "queue full"},
		{fmt.Errorf("disk full: %w", ErrUnavailable), 503, "unavailable", "5", "disk full"},
		{context.DeadlineExceeded, 503, "unavailable", "5", "in time"},
		{errors.New("secret of the house"), 500, "internal", "", "log"},
	} {
		reg := prometheus.NewRegistry()
		var logs bytes.Buffer
		s := sink{err: c.err}
		_, srv := serve(t, Options{Append: s.append, Registry: reg, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
		status, code, text, h := request{path: "/ingest?name=a", body: sample().AppendPprof(nil)}.do(t, srv)
		if status != c.status || code != c.code || h.Get("Retry-After") != c.retry || !strings.Contains(text, c.text) || strings.Contains(text, "secret") {
			t.Errorf("%v: %d %s %q, Retry-After %q", c.err, status, code, text, h.Get("Retry-After"))
		}
		srv.Close() // so that the log is written
		if logged := logs.Len() > 0; logged != (status >= 500) {
			t.Errorf("%v: log %q", c.err, logs.String())
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		if all := fmt.Sprint(families); !strings.Contains(all, "quantra_ingest_rejected_total") || !strings.Contains(all, `value:"`+c.code+`"`) {
			t.Errorf("%v: not counted: %s", c.err, all)
		}
	}
}

func TestAuthorize(t *testing.T) {
	var s sink
	_, srv := serve(t, Options{Append: s.append, Authorize: func(r *http.Request) error {
		if r.Header.Get("Authorization") != "yes" {
			return errors.New("no key")
		}
		return nil
	}})
	r := request{path: "/api/v1/profiles?service_name=a", body: sample().AppendPprof(nil)}
	if status, code, text, _ := r.do(t, srv); status != 403 || code != "denied" || text != "no key" {
		t.Errorf("%d %s %q", status, code, text)
	}
	r.header = map[string]string{"Authorization": "yes"}
	if status, _, text, _ := r.do(t, srv); status != 200 {
		t.Errorf("%d %q", status, text)
	}
}

// TestDenied: who may send nothing of this service reads why.
func TestDenied(t *testing.T) {
	_, srv := serve(t, Options{Append: func(context.Context, Push) error { return fmt.Errorf("%w: not of this service", ErrDenied) }})
	if status, code, text, _ := (request{path: "/api/v1/profiles?service_name=a", body: sample().AppendPprof(nil)}).do(t, srv); status != 403 || code != "denied" || text != "denied: not of this service" {
		t.Errorf("%d %s %q", status, code, text)
	}
}

// TestFlood holds the store back, floods the door, and expects that what is held
// stays within the bound, that everyone else is told to come again, and that who was let in is kept.
func TestFlood(t *testing.T) {
	const bound, senders = 1 << 20, 64
	pad := sample()
	pad.Comments = []string{strings.Repeat("x", 200<<10)}
	body := pad.AppendPprof(nil) // 200 KiB raw: at most 2 such, body and decoded, fit
	gate := make(chan struct{})
	inside := make(chan struct{}, senders)
	in, srv := serve(t, Options{InFlightBytes: bound, Append: func(ctx context.Context, p Push) error {
		inside <- struct{}{}
		<-gate
		return nil
	}})
	type answer struct {
		status int
		retry  string
	}
	answers := make(chan answer, senders)
	for range senders {
		go func() {
			status, _, _, h := request{path: "/api/v1/profiles?service_name=a", body: body}.do(t, srv)
			answers <- answer{status, h.Get("Retry-After")}
		}()
	}
	<-inside
	refused := 0
	for a := range answers { // all but those inside are refused while the gate is shut
		if n := in.InFlightBytes(); n > bound {
			t.Errorf("holds %d bytes, the bound is %d", n, bound)
		}
		if a.status != 429 || a.retry != "1" {
			t.Fatalf("status %d, Retry-After %q", a.status, a.retry)
		}
		if refused++; refused >= senders-2 {
			break
		}
	}
	close(gate)
	kept := 0
	for range senders - refused {
		if a := <-answers; a.status == 200 {
			kept++
		}
	}
	if kept == 0 || kept > 2 {
		t.Errorf("%d kept; 1 or 2 fit the bound", kept)
	}
	if n := in.InFlightBytes(); n != 0 {
		t.Errorf("%d bytes still held", n)
	}
}

// TestMemoryUnderFlood: bombs whose claims are small may not get past the bound together.
func TestMemoryUnderFlood(t *testing.T) {
	bomb := gz(make([]byte, 64<<20)) // 64 KiB that say 64 MiB
	var s sink
	_, srv := serve(t, Options{Append: s.append, InFlightBytes: 80 << 20, Limits: profile.Limits{Decoded: 128 << 20}})
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			status, _, _, _ := request{path: "/api/v1/profiles?service_name=a", body: bomb}.do(t, srv)
			if status != 429 && status != 400 {
				t.Errorf("status %d", status)
			}
		})
	}
	wg.Wait()
	var after runtime.MemStats
	runtime.ReadMemStats(&after)
	// Garbage between two collections doubles what is live; 32 bombs at once would be 2 GiB.
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 600<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

func TestMaxConcurrent(t *testing.T) {
	gate, inside := make(chan struct{}), make(chan struct{})
	_, srv := serve(t, Options{MaxConcurrent: 1, Append: func(context.Context, Push) error {
		close(inside)
		<-gate
		return nil
	}})
	r := request{path: "/api/v1/profiles?service_name=a", body: sample().AppendPprof(nil)}
	first := make(chan int)
	go func() {
		status, _, _, _ := r.do(t, srv)
		first <- status
	}()
	<-inside
	if status, code, _, h := r.do(t, srv); status != 429 || code != "overloaded" || h.Get("Retry-After") == "" {
		t.Errorf("%d %s", status, code)
	}
	close(gate)
	if status := <-first; status != 200 {
		t.Errorf("the first: %d", status)
	}
}

// TestSlowSender: a body that never ends ends in 408, and holds no more than what was sent.
func TestSlowSender(t *testing.T) {
	var s sink
	in, srv := serve(t, Options{Append: s.append, Timeout: 50 * time.Millisecond})
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /api/v1/profiles?service_name=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\nabc")
	answer, err := io.ReadAll(conn) // the server ends the connection: the rest of the body is not to be had
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 408 ")) || !bytes.Contains(answer, []byte(`"code":"timeout"`)) {
		t.Errorf("answer %q, %v", answer, err)
	}
	if n := in.InFlightBytes(); n != 0 {
		t.Errorf("%d bytes still held", n)
	}
}

// TestClaimCostsNothing: a Content-Length is only a claim, and no memory is held for it.
func TestClaimCostsNothing(t *testing.T) {
	h := &hold{budget: &budget{limit: 1 << 20}}
	r := io.MultiReader(strings.NewReader("abc"), readerFunc(func([]byte) (int, error) {
		if h.n > 64<<10 {
			t.Errorf("holds %d bytes for 3", h.n)
		}
		return 0, io.EOF
	}))
	if b, err := h.read(r, 900<<10, -1); err != nil || string(b) != "abc" {
		t.Errorf("%q, %v", b, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestPreviousProfile: old SDKs send what was counted since the start, twice.
func TestPreviousProfile(t *testing.T) {
	space := []profile.ValueType{{Type: "alloc_space", Unit: "bytes"}, {Type: "inuse_space", Unit: "bytes"}}
	p, prev := sample(space...), sample(space...)
	prev.Values[0][0], prev.Values[1][0] = 5, 100
	for name, fields := range map[string][]string{
		"by config":  {"profile", string(p.AppendPprof(nil)), "prev_profile", string(gz(prev.AppendPprof(nil))), "sample_type_config", `{"alloc_space":{"cumulative":true,"units":"bytes"},"inuse_space":{"units":"bytes","aggregation":"average"}}`},
		"by default": {"profile", string(p.AppendPprof(nil)), "prev_profile", string(prev.AppendPprof(nil))},
	} {
		var s sink
		_, srv := serve(t, Options{Append: s.append})
		kind, body := form(t, fields...)
		if status, _, text, _ := (request{path: "/ingest?name=a", body: body, header: map[string]string{"Content-Type": kind}}).do(t, srv); status != 200 {
			t.Fatalf("%s: %d %s", name, status, text)
		}
		got := s.last(t)
		again, err := profile.DecodeBytes(got.Pprof, profile.Limits{})
		if err != nil || got.Name != "memory" || again.Total(0) != 2 || again.Total(1) != 14 || got.Profile.Total(0) != 2 {
			t.Errorf("%s: %s, totals %d and %d, want 2 and 14: %v", name, got.Name, again.Total(0), again.Total(1), err)
		}
	}
}

func TestAppName(t *testing.T) {
	for in, want := range map[string]string{
		"app":                            `{service_name="app"}`,
		"app{}":                          `{service_name="app"}`,
		"a.b/c-d { } ":                   `{service_name="a.b/c-d"}`,
		"app{k=v,x=1}":                   `{k="v", service_name="app", x="1"}`,
		"app{__session_id__=00ff,k=v}":   `{k="v", service_name="app"}`,
		"app{service.version=v2}":        `{service_name="app", service_version="v2"}`,
		"app{hosts=a,b,k=v=w}":           `{hosts="a,b", k="v=w", service_name="app"}`,
		"app{service_name=shop, k = v }": `{app_name="app", k="v", service_name="shop"}`,
		"app{k=}":                        `{service_name="app"}`,
	} {
		app, tags, err := parseAppName(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		ls, err := labelsOf(tagLabels(app, tags))
		if err != nil || ls.String() != want {
			t.Errorf("%s: %s, want %s: %v", in, ls, want, err)
		}
	}
}

// TestFolded: text, as Pyroscope's documentation sends it with curl.
func TestFolded(t *testing.T) {
	for _, c := range []struct{ path, body, service, typ, top string }{
		{"/ingest?name=shop", "main;work 100\nmain;rest 20\n", "shop", "process_cpu:cpu:nanoseconds:cpu:nanoseconds", "work 1000000000"},
		{"/ingest?name=shop.cpu&format=groups&sampleRate=1000", "main;work 100\n", "shop", "process_cpu:cpu:nanoseconds:cpu:nanoseconds", "work 100000000"},
		{"/ingest?name=shop.eu&format=folded", "main;work 100\n", "shop.eu", "process_cpu:cpu:nanoseconds:cpu:nanoseconds", "work 1000000000"},
		{"/ingest?name=shop.alloc_space&format=groups", "main;work 4096\n", "shop", "memory:alloc_space:bytes:space:bytes", "work 4096"},
		{"/ingest?name=shop&format=lines", "main;work\nmain;work\n\nmain;rest", "shop", "process_cpu:cpu:nanoseconds:cpu:nanoseconds", "work 20000000"},
	} {
		var s sink
		_, srv := serve(t, Options{Append: s.append})
		if status, _, text, _ := (request{path: c.path, body: []byte(c.body)}).do(t, srv); status != 200 {
			t.Errorf("%s: %d %s", c.path, status, text)
			continue
		}
		p := s.last(t)
		again, err := profile.DecodeBytes(p.Pprof, profile.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		col := len(again.SampleTypes) - 1
		row := profile.Top(again, col)[0]
		typ := profile.Type{Name: p.Name, Sample: again.SampleTypes[col], Period: again.PeriodType}.String()
		if got := fmt.Sprint(row.Name, " ", row.Self); p.Labels.Get(profile.LabelService) != c.service || typ != c.typ || got != c.top {
			t.Errorf("%s: %s, %s, %s, want %s, %s, %s", c.path, p.Labels, typ, got, c.service, c.typ, c.top)
		}
	}
}

func FuzzAppName(f *testing.F) {
	for _, s := range []string{"app", "app{}", "app{k=v,x=1}", "app.cpu{__session_id__=1,service.version=v2}", "a{b,c=d}", "a{b=c,d}", "{", "a}", "a{=}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		app, tags, err := parseAppName(s)
		if err != nil {
			return
		}
		if ls, err := labelsOf(tagLabels(app, tags)); err == nil && ls.Get(profile.LabelService) == "" {
			t.Errorf("%q: %s has no service", s, ls)
		}
	})
}

// FuzzForm sends any body as a form: no answer but a clean one, and nothing held after.
func FuzzForm(f *testing.F) {
	// By default go test spends up to a minute on making each input that reaches new code smaller,
	// which leaves no time for finding any. What the command line says holds.
	said := false
	flag.Visit(func(fl *flag.Flag) { said = said || fl.Name == "test.fuzzminimizetime" })
	if !said {
		if err := flag.Set("test.fuzzminimizetime", "50x"); err != nil {
			f.Fatal(err)
		}
	}
	kind, body := form(f, "profile", string(gz(sample().AppendPprof(nil))), "sample_type_config", `{"cpu":{"display-name":"cpu","cumulative":false}}`)
	f.Add(kind, body)
	raw := string(sample().AppendPprof(nil))
	kind, body = form(f, "prev_profile", raw, "profile", raw, "sample_type_config", `{"cpu":{"cumulative":true}}`)
	f.Add(kind, body)
	f.Add("multipart/form-data; boundary=x", []byte("--x\r\nContent-Disposition: form-data; name=\"profile\"\r\n\r\n\r\n--x--"))
	f.Add("application/octet-stream", []byte(raw))
	f.Add("text/plain", []byte("main;work 100\nmain;rest 20\n"))
	in, err := New(Options{
		Append: func(_ context.Context, p Push) error {
			if p.Name == "" || p.Labels.Get(profile.LabelService) == "" || !p.From.Before(p.To) || len(p.Pprof) == 0 || p.Profile == nil {
				panic(fmt.Sprintf("unsound push: %+v", p))
			}
			return nil
		},
		Limits: profile.Limits{Compressed: 1 << 20, Decoded: 4 << 20}, InFlightBytes: 64 << 20,
		Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now },
	})
	if err != nil {
		f.Fatal(err)
	}
	mux := http.NewServeMux()
	in.Register(mux)
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		r := httptest.NewRequest("POST", "/ingest?name="+url.QueryEscape("app{k=v}"), bytes.NewReader(body))
		r.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code >= 500 || w.Code == 429 {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
		if in.InFlightBytes() != 0 {
			t.Errorf("%d bytes still held", in.InFlightBytes())
		}
	})
}

// serveHTTP2 is a server that speaks HTTP/2 without TLS beside HTTP/1.1, as the one of cmd does: gRPC needs it.
func serveHTTP2(t testing.TB, o Options) (url string) {
	t.Helper()
	in, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	in.Register(mux)
	srv := httptest.NewUnstartedServer(mux)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.URL
}
