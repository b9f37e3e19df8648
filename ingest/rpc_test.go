package ingest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quantra-l/quantra/profile"
)

func field(b []byte, num protowire.Number, in []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), in)
}

// pushRequest is push.v1's message with one series.
func pushRequest(raw []byte, labels ...string) []byte {
	var s []byte
	for i := 0; i < len(labels); i += 2 {
		s = field(s, 1, field(field(nil, 1, []byte(labels[i])), 2, []byte(labels[i+1])))
	}
	return field(nil, 1, field(s, 2, field(nil, 1, raw)))
}

func framed(flag byte, b []byte) []byte {
	head := append([]byte{flag}, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(head[1:], uint32(len(b)))
	return append(head, b...)
}

// post sends over HTTP/2, as gRPC does, or HTTP/1.1, and gives the status, gRPC's status (of headers or trailers), and the body.
func post(t *testing.T, url string, h2 bool, body []byte, header map[string]string) (status int, grpc string, answer string, h http.Header) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{Protocols: new(http.Protocols)}}
	defer client.CloseIdleConnections()
	client.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(h2)
	client.Transport.(*http.Transport).Protocols.SetHTTP1(!h2)
	req, err := http.NewRequest("POST", url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if grpc = res.Trailer.Get("Grpc-Status"); grpc == "" {
		grpc = res.Header.Get("Grpc-Status")
	}
	return res.StatusCode, grpc, string(b) + res.Trailer.Get("Grpc-Message") + res.Header.Get("Grpc-Message"), res.Header
}

func rpcServer(t *testing.T, s *sink, more func(*Options)) string {
	o := Options{Append: s.append, Now: func() time.Time { return now }}
	if more != nil {
		more(&o)
	}
	return serveHTTP2(t, o)
}

// TestCallForms: the same message in each form of a call comes to the same.
func TestCallForms(t *testing.T) {
	raw := gz(sample().AppendPprof(nil))
	msg := pushRequest(raw, "__name__", "process_cpu", "service_name", "checkout", "__delta__", "false", "k8s.pod.name", "p1")
	asJSON := fmt.Appendf(nil, `{"series":[{"labels":[{"name":"__name__","value":"process_cpu"},{"name":"service_name","value":"checkout"},{"name":"k8s.pod.name","value":"p1"}],"samples":[{"rawProfile":%q,"ID":"x"}]}]}`,
		base64.StdEncoding.EncodeToString(raw))
	snake := bytes.Replace(asJSON, []byte("rawProfile"), []byte("raw_profile"), 1)
	for name, c := range map[string]struct {
		h2     bool
		body   []byte
		header map[string]string
	}{
		"connect":            {false, msg, map[string]string{"Content-Type": "application/proto"}},
		"connect, gzip":      {false, gz(msg), map[string]string{"Content-Type": "application/proto", "Content-Encoding": "gzip"}},
		"connect, zstd":      {true, zst(t, msg), map[string]string{"Content-Type": "application/proto", "Content-Encoding": "zstd"}},
		"JSON":               {false, asJSON, map[string]string{"Content-Type": "application/json"}},
		"JSON, snake":        {false, snake, map[string]string{"Content-Type": "application/json; charset=utf-8"}},
		"gRPC":               {true, framed(0, msg), map[string]string{"Content-Type": "application/grpc+proto", "Te": "trailers"}},
		"gRPC, gzip":         {true, framed(1, gz(msg)), map[string]string{"Content-Type": "application/grpc", "Grpc-Encoding": "gzip", "Te": "trailers"}},
		"gRPC, not packed":   {true, framed(0, msg), map[string]string{"Content-Type": "application/grpc", "Grpc-Encoding": "gzip", "Te": "trailers"}},
		"gRPC-Web":           {false, framed(0, msg), map[string]string{"Content-Type": "application/grpc-web+proto"}},
		"gRPC-Web, gzip":     {false, framed(1, gz(msg)), map[string]string{"Content-Type": "application/grpc-web", "Grpc-Encoding": "gzip"}},
		"Parca's, connect":   {false, field(nil, 2, field(field(nil, 1, field(field(nil, 1, field(field(nil, 1, []byte("__name__")), 2, []byte("process_cpu"))), 1, field(field(nil, 1, []byte("job")), 2, []byte("checkout")))), 2, field(nil, 1, raw))), map[string]string{"Content-Type": "application/proto", "Path": writeRawProcedure}},
		"Parca's, connect J": {false, fmt.Appendf(nil, `{"series":[{"labels":{"labels":[{"name":"job","value":"checkout"}]},"samples":[{"rawProfile":%q}]}]}`, base64.StdEncoding.EncodeToString(raw)), map[string]string{"Content-Type": "application/json", "Path": writeRawProcedure}},
	} {
		t.Run(name, func(t *testing.T) {
			var s sink
			path := cmpOr(c.header["Path"], pushProcedure)
			delete(c.header, "Path")
			status, grpc, answer, _ := post(t, rpcServer(t, &s, nil)+path, c.h2, c.body, c.header)
			if status != 200 || grpc != "" && grpc != "0" {
				t.Fatalf("%d, gRPC %q: %s", status, grpc, answer)
			}
			p := s.last(t)
			if p.Name != "process_cpu" || p.Labels.Get("service_name") != "checkout" || p.Labels.Get("__delta__") != "" || p.Profile.Total(0) != 7 || !bytes.Equal(p.Pprof, raw) {
				t.Errorf("%s %v", p.Name, p.Labels)
			}
			if strings.Contains(path, "push") && p.Labels.Get("k8s_pod_name") != "p1" {
				t.Errorf("%v", p.Labels)
			}
		})
	}
}

// TestCallRefused: each fault is told in the call's own way, is counted by its code, keeps nothing, and the next call of the same connection works.
func TestCallRefused(t *testing.T) {
	raw := gz(sample().AppendPprof(nil))
	good := pushRequest(raw, "service_name", "checkout")
	late := sample()
	late.TimeNanos = now.Add(11 * time.Minute).UnixNano()
	old := sample()
	old.TimeNanos = now.Add(-8 * 24 * time.Hour).UnixNano()
	bomb := gz(make([]byte, 1<<20))
	var labels []string
	for i := range 40 {
		labels = append(labels, fmt.Sprintf("l%d", i), "x")
	}
	grpc := map[string]string{"Content-Type": "application/grpc", "Te": "trailers"}
	proto := map[string]string{"Content-Type": "application/proto"}
	plain := map[string]string{"Content-Type": "application/json"}
	with := func(h map[string]string, k, v string) map[string]string {
		out := map[string]string{k: v}
		for k, v := range h {
			out[k] = cmpOr(out[k], v)
		}
		return out
	}
	for name, c := range map[string]struct {
		body         []byte
		header       map[string]string
		status       int
		grpc         string // gRPC's status code
		code, answer string // the metric's, and a part of the answer
	}{
		"gRPC, clock ahead":           {framed(0, pushRequest(late.AppendPprof(nil), "service_name", "a")), grpc, 200, "3", "future", "set the sender's clock"},
		"gRPC, too old":               {framed(0, pushRequest(old.AppendPprof(nil), "service_name", "a")), grpc, 200, "3", "too_old", "not kept"},
		"gRPC, no profile":            {framed(0, pushRequest([]byte("nonsense"), "service_name", "a")), grpc, 200, "3", "corrupt_profile", "not a profile"},
		"gRPC, no message":            {nil, grpc, 200, "3", "protocol", "no message"},
		"gRPC, two messages":          {append(framed(0, good), framed(0, good)...), grpc, 200, "3", "protocol", "more than one"},
		"gRPC, a message cut":         {framed(0, good[:len(good)-9]), grpc, 200, "3", "message", "cannot be read"},
		"gRPC, gzip that is none":     {framed(1, good), with(grpc, "Grpc-Encoding", "gzip"), 200, "3", "content_encoding", "cannot be undone"},
		"gRPC, gzip cut":              {framed(1, gz(good)[:40]), with(grpc, "Grpc-Encoding", "gzip"), 200, "3", "content_encoding", "cannot be undone"},
		"gRPC, unknown packing":       {framed(1, good), with(grpc, "Grpc-Encoding", "snappy"), 200, "3", "content_encoding", "not understood"},
		"gRPC, unpacks to too much":   {framed(1, bomb), with(grpc, "Grpc-Encoding", "gzip"), 200, "8", "too_large", "limit"},
		"gRPC, too long":              {framed(0, make([]byte, 70<<10)), grpc, 200, "8", "too_large", "limit"},
		"gRPC, tenant":                {framed(0, good), with(grpc, "X-Scope-OrgID", "a/b"), 200, "3", "tenant", "X-Scope-OrgID"},
		"gRPC, label explosion":       {framed(0, pushRequest(raw, labels...)), grpc, 200, "3", "labels", "labels, the limit is"},
		"gRPC, labels without end":    {framed(0, pushRequest(raw, append(append(append(labels, labels...), labels...), labels...)...)), grpc, 200, "3", "labels", "more than"},
		"connect, clock ahead":        {pushRequest(late.AppendPprof(nil), "service_name", "a"), proto, 400, "", "future", `"code":"invalid_argument"`},
		"connect, no profile":         {pushRequest(nil), proto, 400, "", "corrupt_profile", ""},
		"connect, no series":          {nil, proto, 400, "", "empty", "no profile"},
		"connect, a group's end":      {[]byte{0x0c}, proto, 400, "", "message", "cannot be read"},
		"JSON, none":                  {[]byte("{"), plain, 400, "", "message", "cannot be read"},
		"JSON, labels of another way": {[]byte(`{"series":[{"labels":{"labels":[]}}]}`), plain, 400, "", "message", "labels"},
		"a content type that is none": {good, map[string]string{"Content-Type": "text/plain"}, 415, "", "protocol", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var s sink
			reg := prometheus.NewRegistry()
			url := rpcServer(t, &s, func(o *Options) {
				o.Registry = reg
				o.Limits = profile.Limits{Compressed: 64 << 10, Decoded: 256 << 10}
			}) + pushProcedure
			status, code, answer, _ := post(t, url, c.grpc != "", c.body, c.header)
			if status != c.status || code != c.grpc || !strings.Contains(unescape(answer), c.answer) {
				t.Errorf("%d, gRPC %q: %s; want %d, %q, ...%s...", status, code, unescape(answer), c.status, c.grpc, c.answer)
			}
			if len(s.pushes) > 0 {
				t.Error("it was kept")
			}
			if got := rejectedBy(t, reg, "pusher"); got[c.code] != 1 || len(got) != 1 {
				t.Errorf("counted %v, must be %s", got, c.code)
			}
			if status, code, answer, _ = post(t, url, true, framed(0, good), grpc); status != 200 || code != "0" || len(s.pushes) != 1 {
				t.Errorf("the next one: %d, gRPC %q: %s", status, code, answer)
			}
		})
	}
}

// unescape undoes the percents of gRPC's messages.
func unescape(s string) string {
	return strings.NewReplacer("%22", `"`, "%0A", "\n").Replace(s)
}

// rejectedBy is the counts of a route's refusals by code.
func rejectedBy(t *testing.T, reg *prometheus.Registry, route string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "quantra_ingest_rejected_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["route"] == route {
				out[labels["code"]] = m.GetCounter().GetValue()
			}
		}
	}
	return out
}

// TestCallOverload: a store that has no room is told of as gRPC's clients understand it, with when to come again.
func TestCallOverload(t *testing.T) {
	s := sink{err: fmt.Errorf("%w: no room", ErrOverloaded)}
	url := rpcServer(t, &s, nil)
	good := pushRequest(gz(sample().AppendPprof(nil)), "service_name", "a")
	status, code, answer, h := post(t, url+pushProcedure, true, framed(0, good), map[string]string{"Content-Type": "application/grpc", "Te": "trailers"})
	if status != 200 || code != "8" || !strings.Contains(answer, "no room") {
		t.Errorf("%d, gRPC %q: %s %v", status, code, answer, h)
	}
	if status, _, answer, h = post(t, url+pushProcedure, false, good, map[string]string{"Content-Type": "application/proto"}); status != 429 || h.Get("Retry-After") != "1" || !strings.Contains(answer, "google.rpc.RetryInfo") {
		t.Errorf("%d: %s %v", status, answer, h)
	}
	s.err = fmt.Errorf("%w: closing", ErrUnavailable)
	if status, code, answer, _ = post(t, url+pushProcedure, true, framed(0, good), map[string]string{"Content-Type": "application/grpc", "Te": "trailers"}); status != 200 || code != "14" {
		t.Errorf("%d, gRPC %q: %s", status, code, answer)
	}
}

// TestOTLPAnswers: OpenTelemetry's protocol over HTTP answers in the content type that was sent.
func TestOTLPAnswers(t *testing.T) {
	seed, err := os.ReadFile("otlp/testdata/collector-0.165.0.binpb")
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := os.ReadFile("otlp/testdata/collector-0.165.0.json")
	if err != nil {
		t.Fatal(err)
	}
	var s sink
	url := rpcServer(t, &s, nil) + otlpPath
	for kind, b := range map[string][]byte{"application/x-protobuf": seed, "application/json": asJSON} {
		status, _, answer, h := post(t, url, false, b, map[string]string{"Content-Type": kind})
		if want := map[string]string{"application/json": "{}"}[kind]; status != 200 || h.Get("Content-Type") != kind || answer != want {
			t.Errorf("%s: %d %q %v", kind, status, answer, h)
		}
		// Nothing is a request of no profiles in protobuf, and no JSON.
		status, _, answer, _ = post(t, url, false, nil, map[string]string{"Content-Type": kind})
		if kind == "application/json" && (status != 400 || !strings.Contains(answer, `"code":3`)) || kind != "application/json" && status != 200 {
			t.Errorf("%s, nothing: %d %q", kind, status, answer)
		}
	}
	status, _, answer, h := post(t, url, false, []byte{0x12, 0x01}, map[string]string{"Content-Type": "application/x-protobuf"})
	if status != 400 || h.Get("Content-Type") != "application/x-protobuf" || !strings.HasPrefix(answer, "\x08\x03\x12") {
		t.Errorf("%d %q", status, answer)
	}
	status, _, answer, _ = post(t, url, false, []byte(`{"dictionary":{"nonsense":1}}`), map[string]string{"Content-Type": "application/json"})
	var st struct {
		Code    int
		Message string
	}
	if err := json.Unmarshal([]byte(answer), &st); status != 400 || err != nil || st.Code != 3 || !strings.Contains(st.Message, "1.10 and 1.11") {
		t.Errorf("%d %q %v", status, answer, err)
	}
	if status, _, _, _ = post(t, url, false, seed, map[string]string{"Content-Type": "text/plain"}); status != 415 {
		t.Errorf("another content type: %d", status)
	}
	s.err = fmt.Errorf("%w: closing", ErrUnavailable)
	if status, _, _, h = post(t, url, false, seed, map[string]string{"Content-Type": "application/x-protobuf"}); status != 503 || h.Get("Retry-After") != "5" {
		t.Errorf("unavailable: %d %v", status, h)
	}
}

// TestOTLPPartial: what the store refuses of a request for good is counted in the answer, and the rest is kept.
func TestOTLPPartial(t *testing.T) {
	seed, err := os.ReadFile("otlp/testdata/collector-0.165.0.binpb")
	if err != nil {
		t.Fatal(err)
	}
	// The same resource twice: protobuf adds lists up. The store takes the first.
	n := 0
	url := serveHTTP2(t, Options{Now: func() time.Time { return now }, Append: func(_ context.Context, p Push) error {
		if n++; n > 1 {
			return fmt.Errorf("%w: enough of %s", ErrDenied, p.Name)
		}
		return nil
	}}) + otlpPath
	body := seed
	if err := eachField("the request", seed, func(num protowire.Number, b []byte) error {
		if num == 1 {
			body = field(body, 1, b)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	status, _, answer, _ := post(t, url, false, body, map[string]string{"Content-Type": "application/x-protobuf"})
	if status != 200 || !strings.Contains(answer, "enough of process_cpu") || !strings.Contains(answer, "\x08\x01\x12") {
		t.Errorf("%d %q", status, answer)
	}
	n = 1
	if status, _, answer, _ = post(t, url, false, seed, map[string]string{"Content-Type": "application/x-protobuf"}); status != 403 {
		t.Errorf("all refused: %d %q", status, answer)
	}
}
