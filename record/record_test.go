package record

import (
	"context"
	"encoding/json"
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
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/quantra-l/quantra/ingest/clienttest"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

const rules = `
rules:
  - record: shop:json:share
    profile_type: process_cpu:cpu:nanoseconds:cpu:nanoseconds
    matchers: '{service_name="shop"}'
    function: encoding/json.Marshal
    value: share
    group_by: [service_version]
    labels: {team: pay}
  - record: shop:json:self
    profile_type: process_cpu:cpu:nanoseconds:cpu:nanoseconds
    function: encoding/json.Marshal
    of: self
  - record: shop:cpu:sum
    profile_type: process_cpu:cpu:nanoseconds:cpu:nanoseconds
`

func parse(t *testing.T, file string) *Config {
	t.Helper()
	c, err := Parse(strings.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestParse(t *testing.T) {
	c := parse(t, rules+"remote_write: [{url: 'http://localhost:9090/api/v1/write', version: 2, token_file: /t, headers: {X-Scope-OrgID: a}}]")
	if r := c.Rules[0]; len(c.Rules) != 3 || !r.Share || r.Self || r.Labels["team"] != "pay" || len(r.Matchers) != 1 || c.Rules[1].Share || !c.Rules[1].Self {
		t.Errorf("%+v", c.Rules)
	}
	if r := c.Remotes[0]; r.Version != 2 || r.TokenFile != "/t" || r.Headers["X-Scope-OrgID"] != "a" {
		t.Errorf("%+v", r)
	}
	rule := func(s string) string {
		return "rules: [{record: a, profile_type: 'a:b:c:d:e', " + s + "}]"
	}
	remote := func(s string) string { return rule("") + "\nremote_write: [{" + s + "}]" }
	for text, file := range map[string]string{
		"there is none":             "remote_write: []",
		"rules[0].record":           "rules: [{profile_type: 'a:b:c:d:e'}]",
		"rules[0].profile_type":     "rules: [{record: a}]",
		"does not begin with any":   "rules: [{record: quantra_x, profile_type: 'a:b:c:d:e'}]",
		"it is missing: a share":    rule("value: share"),
		"it must be sum or share":   rule("value: rate"),
		"want a label's name":       rule("matchers: '{'"),
		"team is in group_by":       rule("group_by: [team], labels: {team: a}"),
		"there is no such field":    rule("functoin: a"),
		"character '-'":             rule("group_by: [a-b]"),
		"without a password in it":  remote("url: 'http://a:b@c/'"),
		"it must be 1 or 2":         remote("url: 'http://a', version: 1.5"),
		"or token_file, or neither": remote("url: 'http://a', username: a"),
		"not a header's name":       remote("url: 'http://a', headers: {'a b': c}"),
	} {
		if _, err := Parse(strings.NewReader(file)); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("want %q, got %v", text, err)
		}
	}
}

// noon is the minute that is recorded in these tests.
var noon = time.Now().UTC().Add(-Behind).Truncate(Minute)

// shop is a store with two versions in one minute: v1 spends 30 of 100 in json, of which 10 itself, v2 none of 50.
func shop(t *testing.T) store.Store {
	t.Helper()
	db, err := store.Open(t.Context(), t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	for version, values := range map[string][]int64{"v1": {70, 10, 20}, "v2": {50}} {
		b := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
		stack := uint32(0)
		for i, name := range []string{"main.main", "encoding/json.Marshal", "runtime.mallocgc"}[:len(values)] {
			f := b.Function(profile.Function{Name: b.String(name)})
			stack = b.Stack(stack, b.Location(profile.Location{}, profile.Line{Function: f, Line: 1}))
			b.Add(stack, 0, values[i])
		}
		p := b.Profile()
		p.PeriodType, p.Period = profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, 1
		ls, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: "shop"}, profile.Label{Name: profile.LabelVersion, Value: version})
		if err != nil {
			t.Fatal(err)
		}
		for _, from := range []time.Time{noon, noon.Add(-Minute), noon.Add(Minute)} { // the minutes beside are not to be seen
			if err := db.Append(t.Context(), store.Upload{Name: "process_cpu", Labels: ls, From: from, To: from.Add(10 * time.Second), Pprof: p.AppendPprof(nil), Profile: p}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return db
}

func newRecorder(t *testing.T, c *Config, change func(*Options)) *Recorder {
	t.Helper()
	o := Options{Config: func() *Config { return c }, Store: shop(t), Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()}
	if change != nil {
		change(&o)
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// textOf is samples as people write them, sorted.
func textOf(samples []sample) string {
	var out []string
	for _, s := range samples {
		var ls []string
		for _, l := range s.labels {
			ls = append(ls, l.Name+"="+l.Value)
		}
		out = append(out, fmt.Sprintf("%s %g @%d", strings.Join(ls, ","), s.value, s.at.Unix()))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func TestMinute(t *testing.T) {
	c := parse(t, rules)
	r := newRecorder(t, c, nil)
	got := r.minute(t.Context(), c, noon)
	at := noon.Add(Minute).Unix()
	want := fmt.Sprintf(`__name__=shop:cpu:sum 150 @%[1]d
__name__=shop:json:self 10 @%[1]d
__name__=shop:json:share,service_version=v1,team=pay 0.3 @%[1]d
__name__=shop:json:share,service_version=v2,team=pay 0 @%[1]d`, at)
	if text := textOf(got); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	r.keep(got)
	if err := testutil.GatherAndCompare(r.opt.Registry.(*prometheus.Registry), strings.NewReader(`
# HELP shop:json:share Recorded from profiles by a rule.
# TYPE shop:json:share gauge
shop:json:share{service_version="v1",team="pay"} 0.3
shop:json:share{service_version="v2",team="pay"} 0
`), "shop:json:share"); err != nil {
		t.Error(err)
	}
	if got := r.minute(t.Context(), c, noon.Add(time.Hour)); len(got) != 0 {
		t.Errorf("a minute without profiles: %s", textOf(got))
	}
}

// warned is a store whose answers have a warning.
type warned struct{ store.Store }

func (w warned) Series(ctx context.Context, q store.SeriesQuery) (*store.SeriesResult, error) {
	r, err := w.Store.Series(ctx, q)
	if err == nil {
		r.Warnings = []string{"a block is missing"}
	}
	return r, err
}

// TestDoubt: what may mislead is a gap, not a value.
func TestDoubt(t *testing.T) {
	c := parse(t, rules)
	r := newRecorder(t, c, func(o *Options) { o.Store = warned{o.Store} })
	if got := r.minute(t.Context(), c, noon); len(got) != 0 {
		t.Error(textOf(got))
	}
	if n := testutil.ToFloat64(r.results.WithLabelValues("doubtful")); n != 3 {
		t.Errorf("%v are counted", n)
	}
}

// receiver is what a receiver of version 2 reads, by Prometheus's own messages.
func receiver(t *testing.T, seen *[]string, answer func(w http.ResponseWriter, r *http.Request) bool) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*seen = append(*seen, r.Header.Get("X-Prometheus-Remote-Write-Version")+" "+r.Header.Get("Authorization"))
		if !answer(w, r) {
			return
		}
		raw, err := io.ReadAll(r.Body)
		if err == nil {
			raw, err = snappy.Decode(nil, raw)
		}
		var req writev2.Request
		if err == nil {
			err = req.Unmarshal(raw)
		}
		if err != nil || r.Header.Get("Content-Type") != "application/x-protobuf;proto=io.prometheus.write.v2.Request" || req.Symbols[0] != "" {
			t.Errorf("%v %s", err, r.Header)
		}
		for _, ts := range req.Timeseries {
			var ls []string
			for i := 0; i < len(ts.LabelsRefs); i += 2 {
				ls = append(ls, req.Symbols[ts.LabelsRefs[i]]+"="+req.Symbols[ts.LabelsRefs[i+1]])
			}
			*seen = append(*seen, fmt.Sprintf("%s %g @%d %s", strings.Join(ls, ","), ts.Samples[0].Value, ts.Samples[0].Timestamp/1000, ts.Metadata.Type))
		}
		w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", fmt.Sprint(len(req.Timeseries)))
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(srv.Close)
	return srv
}

var batch = []sample{{[]profile.Label{{Name: "__name__", Value: "a"}, {Name: "team", Value: "pay"}}, 0.5, time.Unix(1700000000, 0)},
	{[]profile.Label{{Name: "__name__", Value: "b"}, {Name: "team", Value: "pay"}}, -2, time.Unix(1700000060, 0)}}

// TestVersion2: the bytes of version 2 are what Prometheus's own reader of them takes them for.
func TestVersion2(t *testing.T) {
	var seen []string
	srv := receiver(t, &seen, func(http.ResponseWriter, *http.Request) bool { return true })
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &sender{r: newRecorder(t, parse(t, rules), nil), remote: Remote{URL: srv.URL, TokenFile: token}}
	if _, err := s.send(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	want := []string{"2.0.0 Bearer secret", "__name__=a,team=pay 0.5 @1700000000 METRIC_TYPE_GAUGE", "__name__=b,team=pay -2 @1700000060 METRIC_TYPE_GAUGE"}
	if !slices.Equal(seen, want) {
		t.Errorf("%q", seen)
	}
}

// TestAnswers: what a receiver says is followed: version 1 where it knows no 2, patience where it is busy, and no second try of what it refuses.
func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status  int
		header  string
		version int
		want    string // how often each version is tried
		after   time.Duration
		final   bool
		err     bool
	}{
		"an old receiver says nothing of what it wrote": {204, "", 0, "2.0.0 0.1.0", 0, false, false},
		"it knows no such type":                         {415, "", 2, "2.0.0", 0, true, true},
		"it is busy":                                    {429, "7", 2, "2.0.0", 7 * time.Second, false, true},
		"it is broken":                                  {500, "", 1, "0.1.0", 0, false, true},
		"it refuses":                                    {400, "", 1, "0.1.0", 0, true, true},
	} {
		var seen []string
		srv := receiver(t, &seen, func(w http.ResponseWriter, _ *http.Request) bool {
			if c.header != "" {
				w.Header().Set("Retry-After", c.header)
			}
			w.WriteHeader(c.status)
			return false
		})
		s := &sender{r: newRecorder(t, parse(t, rules), nil), remote: Remote{URL: srv.URL, Version: c.version}}
		after, err := s.send(t.Context(), batch)
		_, final := err.(*refusedError)
		if got := strings.Join(strings.Fields(strings.Join(seen, " ")), " "); got != c.want || after != c.after || (err != nil) != c.err || final != c.final {
			t.Errorf("%s: tried %s, after %v, %v", name, got, after, err)
		}
	}
}

// TestQueue: a receiver that is away costs the oldest minutes, in virtual time, and no memory.
func TestQueue(t *testing.T) {
	r := newRecorder(t, parse(t, rules), nil)
	s := &sender{r: r, queue: make(chan []sample, maxQueue)}
	for i := range maxQueue + 5 {
		s.put([]sample{{value: float64(i), at: noon}})
	}
	if first := <-s.queue; first[0].value != 5 || testutil.ToFloat64(r.results.WithLabelValues("dropped")) != 5 {
		t.Errorf("the oldest that is left is %v", first)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if wait(ctx, time.Minute) || !wait(t.Context(), time.Minute) {
			t.Error("wait")
		}
	})
}

// TestPrometheus: a real Prometheus takes what is sent, and answers with it.
func TestPrometheus(t *testing.T) {
	program, err := exec.LookPath("prometheus")
	if p := os.Getenv("QUANTRA_PROMETHEUS"); p != "" {
		program, err = p, nil
	}
	if err != nil {
		if os.Getenv("QUANTRA_CI") != "" {
			t.Fatal("there is no prometheus: apt install prometheus, or name it by QUANTRA_PROMETHEUS")
		}
		t.Skip("SKIPPED, NOT TESTED: there is no prometheus: apt install prometheus, or name it by QUANTRA_PROMETHEUS")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	cmd := exec.CommandContext(t.Context(), program, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--web.enable-remote-write-receiver")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() }) // its own end takes seconds, and nothing of it is kept
	get := func(path string) (string, bool) {
		res, err := http.Get("http://" + address + path)
		if err != nil {
			return "", false
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		return string(b), err == nil && res.StatusCode == 200
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(2 * time.Minute); ; {
		if _, ok := get("/-/ready"); ok {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("prometheus is not ready")
		}
	}
	c := parse(t, rules)
	r := newRecorder(t, c, nil)
	s := &sender{r: r, remote: Remote{URL: "http://" + address + "/api/v1/write"}} // which version it takes is found out
	samples := r.minute(t.Context(), c, noon)
	if _, err := s.send(t.Context(), samples); err != nil {
		t.Fatal(err)
	}
	text, ok := get("/api/v1/query?" + url.Values{"query": {`shop:json:share{service_version="v1"}`}, "time": {fmt.Sprint(noon.Add(Minute).Unix())}}.Encode())
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &answer); !ok || err != nil || len(answer.Data.Result) != 1 || answer.Data.Result[0].Value[1] != "0.3" || answer.Data.Result[0].Metric["team"] != "pay" {
		t.Errorf("%s %v", text, err)
	}
	version, _ := get("/api/v1/status/buildinfo")
	var build struct{ Data struct{ Version string } }
	if err := json.Unmarshal([]byte(version), &build); err != nil {
		t.Fatal(err)
	}
	clienttest.Record(t, clienttest.Row{Protocol: "Prometheus remote write", Client: "Prometheus of Debian, as the receiver", Version: build.Data.Version,
		Sent: fmt.Sprintf("%d series of rules, version found out by itself", len(samples)), Seen: "a query answers with the share that was planted"})
}
