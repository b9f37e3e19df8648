package web

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
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	v1 "github.com/quantra-l/quantra/wire/quantra/v1"
	"github.com/quantra-l/quantra/wire/quantra/v1/quantrav1connect"
)

var update = flag.Bool("update", false, "write the golden files anew")

// apiNow is the clock of these tests.
var apiNow = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

const apiCPU = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"

// apiProfile is a checkout service: evict grows with each version.
func apiProfile(evict int64) *profile.Profile {
	b := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	stack := func(names ...string) uint32 {
		s := uint32(0)
		for _, n := range names {
			f := b.Function(profile.Function{Name: b.String(n), SystemName: b.String(n), File: b.String("/src/shop/main.go"), StartLine: 1})
			s = b.Stack(s, b.Location(profile.Location{}, profile.Line{Function: f, Line: 3}))
		}
		return s
	}
	set := b.LabelSet([]profile.SampleLabel{{Key: b.String("endpoint"), Str: b.String("/checkout")}})
	b.Add(stack("main.main", "shop.serve", "shop.(*Cache).evict"), set, evict)
	b.Add(stack("main.main", "shop.serve", "encoding/json.Marshal"), set, 600)
	b.Add(stack("main.main", "shop.serve", "encoding/json.Marshal", "runtime.mallocgc"), 0, 300)
	b.Add(stack("main.main"), 0, 70)
	p := b.Profile()
	p.PeriodType, p.Period = profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, 10
	return p
}

// apiServer is a server over a real store with two versions of one service, each of three windows.
func apiServer(t testing.TB, change func(*Options)) *httptest.Server {
	t.Helper()
	db, err := store.Open(t.Context(), t.TempDir(), store.Options{Now: func() time.Time { return apiNow }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	for i, version := range []string{"v1", "v1", "v1", "v2", "v2", "v2"} {
		ls, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: "checkout"}, profile.Label{Name: profile.LabelVersion, Value: version})
		if err != nil {
			t.Fatal(err)
		}
		p := apiProfile(30 + int64(i/3)*270)
		from := apiNow.Add(time.Duration(i%3-6) * 10 * time.Second)
		if err := db.Append(t.Context(), store.Upload{Name: "process_cpu", Labels: ls, From: from, To: from.Add(10 * time.Second), Pprof: p.AppendPprof(nil), Profile: p}); err != nil {
			t.Fatal(err)
		}
	}
	reg := prometheus.NewRegistry()
	o := Options{Store: db, Now: func() time.Time { return apiNow }, Logger: slog.New(slog.DiscardHandler), Registry: reg, Gatherer: reg, Version: "test"}
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(s)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv
}

// apiGet is a GET with headers as name, value pairs.
func apiGet(t testing.TB, srv *httptest.Server, path string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest("GET", srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if req.Header.Set(header[i], header[i+1]); header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableCompression: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, b
}

func selectVersion(v string) *v1.Selection {
	return &v1.Selection{ProfileType: apiCPU, Matchers: fmt.Sprintf(`{service_name="checkout", service_version=%q}`, v)}
}

// TestQuestions asks every question over every protocol that Connect speaks.
func TestQuestions(t *testing.T) {
	srv := apiServer(t, nil)
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	for name, c := range map[string]quantrav1connect.QuerierServiceClient{
		"connect":          quantrav1connect.NewQuerierServiceClient(srv.Client(), srv.URL),
		"connect json":     quantrav1connect.NewQuerierServiceClient(srv.Client(), srv.URL, connect.WithProtoJSON()),
		"connect json get": quantrav1connect.NewQuerierServiceClient(srv.Client(), srv.URL, connect.WithProtoJSON(), connect.WithHTTPGet()),
		"grpc":             quantrav1connect.NewQuerierServiceClient(&http.Client{Transport: h2}, srv.URL, connect.WithGRPC()),
		"grpc-web":         quantrav1connect.NewQuerierServiceClient(srv.Client(), srv.URL, connect.WithGRPCWeb()),
	} {
		t.Run(name, func(t *testing.T) { askEverything(t, c) })
	}
}

func askEverything(t *testing.T, c quantrav1connect.QuerierServiceClient) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	services, err := c.Services(ctx, connect.NewRequest(&v1.ServicesRequest{}))
	must(err)
	if s := services.Msg.Services; len(s) != 1 || s[0].Name != "checkout" || s[0].Profiles != 6 || !slices.Equal(s[0].Versions, []string{"v1", "v2"}) ||
		!slices.Equal(s[0].ProfileTypes, []string{apiCPU}) || s[0].LastMs != apiNow.UnixMilli()-30000 {
		t.Errorf("services: %v", s)
	}
	types, err := c.ProfileTypes(ctx, connect.NewRequest(&v1.ProfileTypesRequest{Matchers: `{service_name=~"check.*"}`}))
	must(err)
	if !slices.Equal(types.Msg.ProfileTypes, []string{apiCPU}) {
		t.Errorf("types: %v", types.Msg)
	}
	names, err := c.LabelNames(ctx, connect.NewRequest(&v1.LabelNamesRequest{}))
	must(err)
	if !slices.Contains(names.Msg.Names, profile.LabelVersion) {
		t.Errorf("names: %v", names.Msg)
	}
	values, err := c.LabelValues(ctx, connect.NewRequest(&v1.LabelValuesRequest{Name: profile.LabelVersion}))
	must(err)
	if !slices.Equal(values.Msg.Values, []string{"v1", "v2"}) {
		t.Errorf("values: %v", values.Msg)
	}
	series, err := c.Series(ctx, connect.NewRequest(&v1.SeriesRequest{Selection: &v1.Selection{ProfileType: apiCPU, Range: &v1.TimeRange{FromMs: apiNow.UnixMilli() - 900_000, ToMs: apiNow.UnixMilli()}}, GroupBy: []string{profile.LabelVersion}}))
	must(err)
	if l := series.Msg.Lines; series.Msg.StepMs != 10_000 || len(l) != 2 || l[1].Labels[0].Value != "v2" || !slices.Equal(l[1].Value, []float64{1270, 1270, 1270}) || l[0].TMs[0] != float64(apiNow.UnixMilli()-60_000) {
		t.Errorf("series: %v", series.Msg)
	}
	flame, err := c.FlameGraph(ctx, connect.NewRequest(&v1.FlameGraphRequest{Selection: selectVersion("v1")}))
	must(err)
	if m := flame.Msg; m.Meta.Total != 3000 || m.Meta.Profiles != 3 || m.Meta.Series != 1 || m.Tree.Total[0] != 3000 || len(m.Tree.Name) != 6 || m.Meta.Range.FromMs != apiNow.UnixMilli()-60_000 {
		t.Errorf("flame graph: %v", m)
	}
	top, err := c.Top(ctx, connect.NewRequest(&v1.TopRequest{Selection: selectVersion("v2"), Limit: 2}))
	must(err)
	if r := top.Msg.Rows; len(r) != 2 || r[0].Name != "encoding/json.Marshal" || r[0].Self != 1800 || r[0].Total != 2700 {
		t.Errorf("top: %v", r)
	}
	sandwich, err := c.Sandwich(ctx, connect.NewRequest(&v1.SandwichRequest{Selection: selectVersion("v1"), Function: "encoding/json.Marshal"}))
	must(err)
	if m := sandwich.Msg; m.Callers.Total[0] != 2700 || len(m.Callers.Name) != 3 || m.Callees.Total[0] != 2700 || len(m.Callees.Name) != 2 || m.Callees.Names[0] != "encoding/json.Marshal" {
		t.Errorf("sandwich: %v", m)
	}
	diff, err := c.Diff(ctx, connect.NewRequest(&v1.DiffRequest{Base: selectVersion("v1"), Head: selectVersion("v2")}))
	must(err)
	if m := diff.Msg; m.Rows[0].Name != "shop.(*Cache).evict" || m.Rows[0].Self != 900 || m.Rows[0].BaseSelf != 90 || m.Tree.BaseTotal[0] != 3000 || m.Tree.Total[0] != 3810 || m.BaseFactor != 1 {
		t.Errorf("diff: %v", m)
	}
	diff, err = c.Diff(ctx, connect.NewRequest(&v1.DiffRequest{Base: selectVersion("v1"), Head: selectVersion("v2"), Normalize: true}))
	must(err)
	if m := diff.Msg; m.Tree.BaseTotal[0] != m.Tree.Total[0] || m.BaseFactor != 1.27 || m.Base.Total != 3000 {
		t.Errorf("normalised: %v", m)
	}
	tags, err := c.SampleLabels(ctx, connect.NewRequest(&v1.SampleLabelsRequest{Selection: selectVersion("v1")}))
	must(err)
	if k := tags.Msg.Keys; len(k) != 1 || k[0].Key != "endpoint" || k[0].Values[0].Value != "/checkout" || k[0].Values[0].Total != 1890 {
		t.Errorf("sample labels: %v", k)
	}
	sel := selectVersion("v1")
	sel.Filter = &v1.Filter{TagIgnore: "endpoint=/checkout"}
	tags, err = c.SampleLabels(ctx, connect.NewRequest(&v1.SampleLabelsRequest{Selection: sel}))
	must(err)
	if k := tags.Msg.Keys; len(k) != 0 || tags.Msg.Meta.Total != 1110 {
		t.Errorf("sample labels of samples without: %v", tags.Msg)
	}
	sel.Filter = &v1.Filter{Focus: "evict", Hide: `main\.main`, ShowFrom: "serve"}
	flame, err = c.FlameGraph(ctx, connect.NewRequest(&v1.FlameGraphRequest{Selection: sel}))
	must(err)
	if m := flame.Msg; m.Meta.Total != 90 {
		t.Errorf("filtered: %v", m)
	}
	sets, err := c.LabelSets(ctx, connect.NewRequest(&v1.LabelSetsRequest{Matchers: `{service_version="v2"}`}))
	must(err)
	if l := sets.Msg.Sets; len(l) != 1 || l[0].ProfileType != apiCPU || l[0].Profiles != 3 || l[0].FirstMs != apiNow.UnixMilli()-60_000 || l[0].LastMs != apiNow.UnixMilli()-30_000 {
		t.Errorf("label sets: %v", sets.Msg)
	}
	single, err := c.Profiles(ctx, connect.NewRequest(&v1.ProfilesRequest{Selection: &v1.Selection{ProfileType: apiCPU}, Limit: 2}))
	must(err)
	if m := single.Msg; m.All != 6 || len(m.Profiles) != 2 || m.Profiles[0].Total != 1270 || m.Profiles[0].ToMs <= m.Profiles[0].FromMs || len(m.Profiles[0].Labels) < 2 {
		t.Fatalf("single profiles: %v", m)
	}
	sel = &v1.Selection{ProfileType: apiCPU, ProfileIds: []string{single.Msg.Profiles[0].Id}}
	flame, err = c.FlameGraph(ctx, connect.NewRequest(&v1.FlameGraphRequest{Selection: sel}))
	must(err)
	if m := flame.Msg.Meta; m.Total != 1270 || m.Profiles != 1 {
		t.Errorf("one profile by its id: %v", m)
	}
	sel = selectVersion("v1")
	sel.SampleMatchers = `{endpoint="/checkout"}`
	flame, err = c.FlameGraph(ctx, connect.NewRequest(&v1.FlameGraphRequest{Selection: sel}))
	must(err)
	if m := flame.Msg.Meta; m.Total != 1890 {
		t.Errorf("samples of one endpoint: %v", m)
	}
	heat, err := c.Heatmap(ctx, connect.NewRequest(&v1.HeatmapRequest{Selection: &v1.Selection{ProfileType: apiCPU}, StepMs: 10_000, Buckets: 2}))
	must(err)
	if m := heat.Msg; m.Min != 1000 || m.Max != 1270 || len(m.Bounds) != 3 || len(m.Columns) != 3 || !slices.Equal(m.Columns[0].Counts, []uint32{1, 1}) {
		t.Errorf("heat map: %v", m)
	}
	trend, err := c.Trend(ctx, connect.NewRequest(&v1.TrendRequest{Selection: &v1.Selection{ProfileType: apiCPU}, Functions: []string{"shop.(*Cache).evict", "none"}, GroupBy: []string{profile.LabelVersion}}))
	must(err)
	var evict [2]float64
	for i, l := range trend.Msg.Lines {
		for _, v := range l.Self {
			evict[min(i, 1)] += v
		}
	}
	if m := trend.Msg; len(m.Lines) != 2 || m.Lines[1].Labels[0].Value != "v2" || evict != [2]float64{90, 900} || m.StepMs != 60_000 || m.Lines[0].Samples[0] == 0 {
		t.Errorf("trend: %v", m)
	}
	none, err := c.FlameGraph(ctx, connect.NewRequest(&v1.FlameGraphRequest{Selection: selectVersion("v9")}))
	must(err)
	if m := none.Msg; m.Meta.Profiles != 0 || m.Meta.Total != 0 || len(m.Tree.Name) != 1 {
		t.Errorf("nothing: %v", m)
	}
}

// TestWrongQuestions: bad input is never a fault of the server's.
func TestWrongQuestions(t *testing.T) {
	srv := apiServer(t, nil)
	for _, c := range []struct{ method, body, text string }{
		{"FlameGraph", `{}`, "profile_type is empty"},
		{"FlameGraph", `{"selection":{"profileType":"cpu"}}`, "name:sample type"},
		{"FlameGraph", `{"selection":{"profileType":"` + apiCPU + `","matchers":"{service_name=}"}}`, "matchers:"},
		{"FlameGraph", `{"selection":{"profileType":"` + apiCPU + `","matchers":"{a=~\"(\"}"}}`, "matchers:"},
		{"FlameGraph", `{"selection":{"profileType":"` + apiCPU + `","range":{"fromMs":"5","toMs":"5"}}}`, "not before"},
		{"FlameGraph", `{"selection":{"profileType":"` + apiCPU + `","range":{"fromMs":"-5"}}}`, "Unix milliseconds"},
		{"FlameGraph", `{"selection":{"profileType":"` + apiCPU + `","filter":{"focus":"("}}}`, "focus"},
		{"Series", `{"selection":{"profileType":"` + apiCPU + `","filter":{"focus":"x"}}}`, "cannot be filtered"},
		{"Series", `{"selection":{"profileType":"` + apiCPU + `"},"stepMs":"5"}`, "1000"},
		{"Series", `{"selection":{"profileType":"` + apiCPU + `","range":{"fromMs":"1"}},"stepMs":"1000"}`, "points"},
		{"Series", `{"selection":{"profileType":"` + apiCPU + `"},"groupBy":["a-b"]}`, "group_by"},
		{"LabelValues", `{}`, "name"},
		{"Sandwich", `{"selection":{"profileType":"` + apiCPU + `"}}`, "function is empty"},
		{"Diff", `{"base":{"profileType":"` + apiCPU + `"},"head":{"profileType":"x"}}`, "head: "},
		{"Diff", `{"base":{"profileType":"x"},"head":{"profileType":"` + apiCPU + `"}}`, "base: "},
		{"Diff", `{"base":{"profileType":"` + apiCPU + `"},"head":{"profileType":"memory:inuse_space:bytes:space:bytes"}}`, "cannot be compared"},
		{"Top", `{`, "unmarshal"},
	} {
		res, err := http.Post(srv.URL+"/quantra.v1.QuerierService/"+c.method, "application/json", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		var e struct{ Code, Message string }
		err = json.NewDecoder(res.Body).Decode(&e)
		res.Body.Close()
		if err != nil || res.StatusCode != 400 || e.Code != "invalid_argument" || !strings.Contains(e.Message, c.text) {
			t.Errorf("%s %s: %d %s %q, want ...%q: %v", c.method, c.body, res.StatusCode, e.Code, e.Message, c.text, err)
		}
	}
}

// failing is a real store whose Select has a fault.
type failing struct {
	store.Store
	err error
}

func (f failing) Select(ctx context.Context, _ store.Query) (*store.Result, error) {
	if f.err == nil { // hang until the time is over
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return nil, f.err
}

func TestStoreErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   string
		logged bool
	}{
		{fmt.Errorf("x: %w", store.ErrInvalid), 400, "invalid_argument", false},
		{fmt.Errorf("x: %w", store.ErrOverloaded), 429, "resource_exhausted", false},
		{fmt.Errorf("x: %w", store.ErrTooLarge), 400, "out_of_range", false},
		{fmt.Errorf("x: %w", store.ErrUnavailable), 503, "unavailable", false},
		{fmt.Errorf("x: %w", store.ErrCorrupt), 500, "data_loss", true},
		{errors.New("secret"), 500, "internal", true},
		{nil, 504, "deadline_exceeded", false},
	} {
		for _, path := range []string{
			"/quantra.v1.QuerierService/Top?encoding=json&message=" + url.QueryEscape(`{"selection":{"profileType":"`+apiCPU+`"}}`),
			"/api/v1/export?profile_type=" + apiCPU,
		} {
			var logs bytes.Buffer
			srv := apiServer(t, func(o *Options) {
				o.Store, o.Timeout, o.Logger = failing{o.Store, c.err}, 20*time.Millisecond, slog.New(slog.NewTextHandler(&logs, nil))
			})
			res, b := apiGet(t, srv, path)
			if res.StatusCode != c.status || !bytes.Contains(b, []byte(`"code":"`+c.code+`"`)) || bytes.Contains(b, []byte("secret")) {
				t.Errorf("%v %s: %d %s", c.err, path, res.StatusCode, b)
			}
			srv.Close()
			if c.logged != (logs.Len() > 0) {
				t.Errorf("%v: log %q", c.err, logs.String())
			}
		}
	}
}

// TestFlameGraphGolden is the bytes that the dashboard reads.
func TestFlameGraphGolden(t *testing.T) {
	srv := apiServer(t, nil)
	res, b := apiGet(t, srv, "/quantra.v1.QuerierService/FlameGraph?connect=v1&encoding=json&message="+
		url.QueryEscape(`{"selection":{"profileType":"`+apiCPU+`","matchers":"{service_version=\"v1\"}"},"maxNodes":5}`))
	if res.StatusCode != 200 {
		t.Fatalf("%d %s", res.StatusCode, b)
	}
	var got bytes.Buffer // protojson puts spaces in at random; indenting takes them out
	var flat bytes.Buffer
	if err := json.Compact(&flat, b); err != nil {
		t.Fatal(err)
	}
	if err := json.Indent(&got, flat.Bytes(), "", " "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	golden := filepath.Join("testdata", "flamegraph.golden.json")
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("got\n%s\nwant\n%s", got.Bytes(), want)
	}
}

func TestExport(t *testing.T) {
	srv := apiServer(t, nil)
	path := func(format string) string {
		return "/api/v1/export?format=" + format + "&profile_type=" + apiCPU + "&matchers=" + url.QueryEscape(`{service_version="v2"}`) + "&from=now-15m&to=now"
	}
	base := "&base_matchers=" + url.QueryEscape(`{service_version="v1"}`) + "&base_from=now-15m&normalize=true"
	for _, c := range []struct{ path, file, kind, text string }{
		{path("folded"), "process_cpu-cpu-20260504T115900Z.folded", "text/plain; charset=utf-8", "main.main;shop.serve;shop.(*Cache).evict 900\n"},
		{path("speedscope"), "process_cpu-cpu-20260504T115900Z.speedscope.json", "application/json", "shop.(*Cache).evict"},
		{path("svg"), "process_cpu-cpu-20260504T115900Z.svg", "image/svg+xml", "shop.(*Cache).evict"},
		{path("top"), "process_cpu-cpu-20260504T115900Z.txt", "text/plain; charset=utf-8", "shop.(*Cache).evict"},
		{path("svg") + base, "process_cpu-cpu-diff-20260504T115900Z.svg", "image/svg+xml", "shop.(*Cache).evict"},
		{path("top") + base, "process_cpu-cpu-diff-20260504T115900Z.txt", "text/plain; charset=utf-8", "shop.(*Cache).evict"},
		{path("folded") + "&focus=evict", "process_cpu-cpu-20260504T115900Z.folded", "text/plain; charset=utf-8", "main.main;shop.serve;shop.(*Cache).evict 900\n"},
	} {
		res, b := apiGet(t, srv, c.path)
		if d := res.Header.Get("Content-Disposition"); res.StatusCode != 200 || d != `attachment; filename="`+c.file+`"` || res.Header.Get("Content-Type") != c.kind || !bytes.Contains(b, []byte(c.text)) {
			t.Errorf("%s: %d, %s, %s\n%.300s", c.path, res.StatusCode, d, res.Header.Get("Content-Type"), b)
		}
	}
	res, b := apiGet(t, srv, path("pprof"))
	if res.StatusCode != 200 {
		t.Fatalf("%d %s", res.StatusCode, b)
	}
	file := filepath.Join(t.TempDir(), "x.pb.gz")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "tool", "pprof", "-top", file).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("shop.(*Cache).evict")) || !bytes.Contains(out, []byte("Time: ")) {
		t.Errorf("go tool pprof: %v\n%s", err, out)
	}
	for _, c := range []struct{ path, text string }{
		{"/api/v1/export?format=pdf&profile_type=" + apiCPU, "pdf"},
		{"/api/v1/export?format=svg&profile_type=" + apiCPU + "&sample_matchers=" + url.QueryEscape(`{trace_id=oops}`), "sample_matchers: "},
		{"/api/v1/export?format=svg", "profile_type is empty"},
		{path("pprof") + base, "difference"},
		{path("svg") + "&focsu=x", "focsu"},
		{path("svg") + "&from=1", "2 times"},
		{path("svg") + "&base_from=yesterday", "base_from"},
		{path("svg") + "&normalize=maybe", "normalize"},
		{path("svg") + "&x=%zz", "query"},
	} {
		res, b := apiGet(t, srv, c.path)
		if res.StatusCode != 400 || !bytes.Contains(b, []byte(`"code":"invalid_argument"`)) || !bytes.Contains(b, []byte(c.text)) {
			t.Errorf("%s: %d %s", c.path, res.StatusCode, b)
		}
	}
}

// TestDoor: who is let in, and what every answer says to a browser.
func TestDoor(t *testing.T) {
	srv := apiServer(t, func(o *Options) { o.Hosts = []string{"quantra.example"} })
	for host, want := range map[string]int{"localhost:4040": 200, "LOCALHOST": 200, "127.0.0.1": 200, "[::1]:80": 200, "10.0.0.3:4040": 200, "a.localhost": 200,
		"quantra.example:4040": 200, "evil.example": 421, "localhost.evil.example": 421} {
		if res, b := apiGet(t, srv, "/api/v1/export?profile_type="+apiCPU, "Host", host); res.StatusCode != want {
			t.Errorf("Host %s: %d, want %d: %.200s", host, res.StatusCode, want, b)
		}
	}
	res, _ := apiGet(t, srv, "/", "Host", "localhost")
	for h, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'self'", "Referrer-Policy": "no-referrer"} {
		if !strings.Contains(res.Header.Get(h), want) {
			t.Errorf("%s: %q", h, res.Header.Get(h))
		}
	}
	req, err := http.NewRequest("POST", srv.URL+"/quantra.v1.QuerierService/Services", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	if res, err := srv.Client().Do(req); err != nil || res.StatusCode != 403 {
		t.Errorf("another page's request: %v, %v", res.StatusCode, err)
	}
	if res, _ := apiGet(t, srv, "/api/v1/export?profile_type="+apiCPU, "X-Scope-OrgID", "a b"); res.StatusCode != 400 {
		t.Errorf("tenant with a space: %d", res.StatusCode)
	}
	if res, b := apiGet(t, srv, "/quantra.v1.QuerierService/Services?encoding=json&message={}", "X-Scope-OrgID", "other"); res.StatusCode != 200 || bytes.Contains(b, []byte("checkout")) {
		t.Errorf("another tenant: %d %s", res.StatusCode, b)
	}
	denied := apiServer(t, func(o *Options) { o.Authorize = func(*http.Request) error { return errors.New("no key") } })
	for path, want := range map[string]int{"/api/v1/export?profile_type=" + apiCPU: 403, "/quantra.v1.QuerierService/Services?encoding=json&message={}": 403, "/": 200, "/healthz": 200} {
		if res, _ := apiGet(t, denied, path); res.StatusCode != want {
			t.Errorf("%s without a key: %d, want %d", path, res.StatusCode, want)
		}
	}
}

func TestHealth(t *testing.T) {
	srv := apiServer(t, func(o *Options) { o.Ready = func() error { return errors.New("disk full") } })
	if res, b := apiGet(t, srv, "/healthz"); res.StatusCode != 200 || !bytes.Contains(b, []byte(`"version":"test"`)) {
		t.Errorf("%d %s", res.StatusCode, b)
	}
	if res, b := apiGet(t, srv, "/readyz", "Host", "any.example"); res.StatusCode != 503 || !bytes.Contains(b, []byte("disk full")) {
		t.Errorf("%d %s", res.StatusCode, b)
	}
	apiGet(t, srv, "/quantra.v1.QuerierService/Services?encoding=json&message={}")
	if res, b := apiGet(t, srv, "/metrics"); res.StatusCode != 200 || !bytes.Contains(b, []byte(`quantra_web_duration_seconds_count{code="ok",method="Services"} 1`)) {
		t.Errorf("%d %s", res.StatusCode, b)
	}
}

func TestFiles(t *testing.T) {
	srv := apiServer(t, nil)
	index, page := apiGet(t, srv, "/")
	if index.StatusCode != 200 || index.Header.Get("Content-Type") != "text/html; charset=utf-8" || !bytes.Contains(page, []byte("<!doctype html>")) && !bytes.Contains(page, []byte("<!DOCTYPE html>")) {
		t.Fatalf("%d %v %.100s", index.StatusCode, index.Header, page)
	}
	if _, b := apiGet(t, srv, "/explore?service=checkout"); !bytes.Equal(b, page) {
		t.Error("/explore is not the page")
	}
	for path, want := range map[string]int{"/nothing.js": 404, "/api/v1/nothing": 404, "/../server.go": 404, "/quantra.v1.QuerierService/Nothing": 404} {
		if res, _ := apiGet(t, srv, path); res.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, res.StatusCode, want)
		}
	}
	plain, js := apiGet(t, srv, "/app.js")
	packed, z := apiGet(t, srv, "/app.js", "Accept-Encoding", "br, gzip")
	if plain.Header.Get("Content-Encoding") != "" || packed.Header.Get("Content-Encoding") != "gzip" || plain.Header.Get("ETag") == packed.Header.Get("ETag") {
		t.Errorf("encodings: %v, %v", plain.Header, packed.Header)
	}
	r, err := gzip.NewReader(bytes.NewReader(z))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, js) {
		t.Errorf("the packed file is another: %v", err)
	}
	if res, b := apiGet(t, srv, "/app.js", "If-None-Match", `"x", W/`+plain.Header.Get("ETag")); res.StatusCode != 304 || len(b) != 0 {
		t.Errorf("the same again: %d, %d bytes", res.StatusCode, len(b))
	}
}

// BenchmarkFlameGraph is one question from socket to socket, JSON and all, over
// an hour of one instance: 360 profiles of 1000 samples. A service takes the same
// ways over and over: hour is 5,000 distinct stacks in a tree of 83,000 nodes, about what a
// large Go service has. In wild every sample of 24 frames goes a way of its own, 4.6
// million nodes: no program does so, and it is what an answer costs at its worst.
func BenchmarkFlameGraph(b *testing.B) {
	for _, c := range []struct {
		name  string
		paths int
	}{{"hour", 6000}, {"wild", 0}} {
		b.Run(c.name, func(b *testing.B) {
			srv := httptest.NewServer(benchServer(b, c.paths))
			defer srv.Close()
			body := `{"selection":{"profileType":"` + apiCPU + `","matchers":"{service_name=\"checkout\"}"}}`
			b.ReportAllocs()
			for b.Loop() {
				res, err := http.Post(srv.URL+"/quantra.v1.QuerierService/FlameGraph", "application/json", strings.NewReader(body))
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 || n == 0 {
					b.Fatal(res.Status, n, err)
				}
				b.SetBytes(n)
			}
		})
	}
}

// benchServer has samples that go one of so many paths, the first ones most often; with 0 each goes its own.
func benchServer(b *testing.B, paths int) *Server {
	db, err := store.Open(b.Context(), b.TempDir(), store.Options{Now: func() time.Time { return apiNow }, QueryMemory: 2 << 30})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: "checkout"})
	if err != nil {
		b.Fatal(err)
	}
	names := make([]string, 500)
	for n := range names {
		names[n] = fmt.Sprintf("example.com/shop/pkg%d.(*Service).Method%d", n%20, n)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 360 {
		bd := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
		for j := range 1000 {
			way := rand.New(rand.NewPCG(uint64(i), uint64(j)))
			if paths > 0 {
				way = rand.New(rand.NewPCG(0, uint64(float64(paths)*r.Float64()*r.Float64()*r.Float64())))
			}
			stack := uint32(0)
			for d := range 24 {
				n := (d*20 + way.IntN(d/4+2)) % len(names)
				name := bd.String(names[n])
				f := bd.Function(profile.Function{Name: name, SystemName: name})
				stack = bd.Stack(stack, bd.Location(profile.Location{}, profile.Line{Function: f, Line: int64(n)}))
			}
			bd.Add(stack, 0, 10_000_000)
		}
		p := bd.Profile()
		p.PeriodType = profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
		from := apiNow.Add(time.Duration(i-360) * 10 * time.Second)
		if err := db.Append(b.Context(), store.Upload{Name: "process_cpu", Labels: labels, From: from, To: from.Add(10 * time.Second), Pprof: p.AppendPprof(nil), Profile: p}); err != nil {
			b.Fatal(err)
		}
	}
	s, err := New(Options{Store: db})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// TestRoutes: what others answer here is guarded as questions are.
func TestRoutes(t *testing.T) {
	asked := 0
	srv := apiServer(t, func(o *Options) {
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked++; io.WriteString(w, "mine "+r.URL.Path) })
		o.Routes = map[string]http.Handler{"/api/v1/agents": h, "/api/v1/agents/": h}
		o.Authorize = func(r *http.Request) error {
			if r.Header.Get("X-User") == "mallory" {
				return errors.New("not you")
			}
			return nil
		}
	})
	for _, c := range []struct {
		header []string
		status int
	}{
		{nil, 200},
		{[]string{"X-User", "mallory"}, 403},
		{[]string{"Host", "evil.example"}, 421},
		{[]string{"X-Scope-OrgID", "a b"}, 400},
	} {
		before := asked
		res, body := apiGet(t, srv, "/api/v1/agents/x", c.header...)
		if res.StatusCode != c.status || (asked > before) != (c.status == 200) {
			t.Errorf("%v: %d %s", c.header, res.StatusCode, body)
		}
		if res.Header.Get("Content-Security-Policy") == "" || c.status == 200 && string(body) != "mine /api/v1/agents/x" {
			t.Errorf("%v: %v %s", c.header, res.Header, body)
		}
	}
	req, err := http.NewRequest("POST", srv.URL+"/api/v1/agents", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	before := asked
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.Body.Close(); res.StatusCode != 403 || asked != before {
		t.Errorf("of another origin: %d", res.StatusCode)
	}
	if res, body := apiGet(t, srv, "/api/v1/other"); res.StatusCode != 404 {
		t.Errorf("beside them: %d %s", res.StatusCode, body)
	}
	for pattern, h := range map[string]http.Handler{"/x": http.NotFoundHandler(), "/": http.NotFoundHandler(), "/api/x": nil, "GET /x": http.NotFoundHandler(), "/api/v1/export": http.NotFoundHandler(), "/api/{": http.NotFoundHandler()} {
		if _, err := New(Options{Store: failing{}, Routes: map[string]http.Handler{pattern: h}}); err == nil || !strings.Contains(err.Error(), "Options.Routes") {
			t.Errorf("%s: %v", pattern, err)
		}
	}
}
