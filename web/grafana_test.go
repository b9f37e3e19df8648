package web

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/quantra-l/quantra/store"
	querierv1 "github.com/quantra-l/quantra/wire/querier/v1"
	"github.com/quantra-l/quantra/wire/querier/v1/querierv1connect"
)

func grafanaClients(url string) map[string]querierv1connect.QuerierServiceClient {
	return map[string]querierv1connect.QuerierServiceClient{
		"proto": querierv1connect.NewQuerierServiceClient(http.DefaultClient, url),
		"json":  querierv1connect.NewQuerierServiceClient(http.DefaultClient, url, connect.WithProtoJSON()),
	}
}

const checkoutV1 = `{service_name="checkout", service_version="v1"}`

// apiRange is all that the tests' store has, in milliseconds.
var apiRange = [2]int64{apiNow.Add(-time.Hour).UnixMilli(), apiNow.UnixMilli()}

func stacksOf(selector string) *querierv1.SelectMergeStacktracesRequest {
	return &querierv1.SelectMergeStacktracesRequest{ProfileTypeID: apiCPU, LabelSelector: selector, Start: apiRange[0], End: apiRange[1]}
}

// node is one bar of a flame graph.
type node struct {
	level              int
	name               string
	start, total, self int64
}

// nodesOf undoes the rows of a flame graph by the format's own words, and checks that every bar lies in one of the row above.
func nodesOf(t *testing.T, fg *querierv1.FlameGraph) []node {
	t.Helper()
	var out, above []node
	for level, row := range fg.Levels {
		var here []node
		end := int64(0)
		for i := 0; i+4 <= len(row.Values); i += 4 {
			v := row.Values[i:]
			n := node{level, fg.Names[v[3]], end + v[0], v[1], v[2]}
			end = n.start + n.total
			if level > 0 && !slices.ContainsFunc(above, func(p node) bool { return n.start >= p.start+p.self && end <= p.start+p.total }) {
				t.Errorf("%+v lies in no bar of the row above", n)
			}
			here = append(here, n)
		}
		out, above = append(out, here...), here
	}
	return out
}

func TestGrafana(t *testing.T) {
	srv := apiServer(t, nil)
	for name, c := range grafanaClients(srv.URL) {
		t.Run(name, func(t *testing.T) {
			askGrafanaWhatThereIs(t, c)
			askGrafanaStacks(t, c)
			askGrafanaSeries(t, c)
		})
	}
}

func askGrafanaWhatThereIs(t *testing.T, c querierv1connect.QuerierServiceClient) {
	ctx := t.Context()
	types, err := c.ProfileTypes(ctx, connect.NewRequest(&querierv1.ProfileTypesRequest{Start: apiRange[0], End: apiRange[1]}))
	if err != nil || len(types.Msg.ProfileTypes) != 1 {
		t.Fatal(types, err)
	}
	if p := types.Msg.ProfileTypes[0]; p.ID != apiCPU || p.Name != "process_cpu" || p.SampleType != "cpu" || p.SampleUnit != "nanoseconds" || p.PeriodType != "cpu" || p.PeriodUnit != "nanoseconds" {
		t.Error(p)
	}
	names, err := c.LabelNames(ctx, connect.NewRequest(&querierv1.LabelNamesRequest{Matchers: []string{"{}"}}))
	if err != nil || !slices.Contains(names.Msg.Names, "service_version") || !slices.Contains(names.Msg.Names, "__profile_type__") || !slices.Contains(names.Msg.Names, "__name__") {
		t.Error(names, err)
	}
	for _, q := range []struct {
		name, want string
		matchers   []string
	}{
		{"service_version", "[v1 v2]", nil},
		{"service_version", "[v1 v2]", []string{""}},
		{"service_version", "[v2]", []string{`{service_version!="v1"}`}},
		{"service_version", "[v1 v2]", []string{`{service_version="v1"}`, `{service_version="v2"}`}},
		{"__profile_type__", "[" + apiCPU + "]", []string{`{__name__="process_cpu", __type__=~"c.*"}`}},
		{"__name__", "[process_cpu]", nil},
		{"__unit__", "[nanoseconds]", nil},
		{"service_version", "[]", []string{`{__name__="memory"}`}},
		{"service_version", "[v1 v2]", []string{`{__type__!="samples"}`}},
		{"nothing", "[]", nil},
	} {
		got, err := c.LabelValues(ctx, connect.NewRequest(&querierv1.LabelValuesRequest{Name: q.name, Matchers: q.matchers, Start: apiRange[0], End: apiRange[1]}))
		if err != nil || fmt.Sprint(got.Msg.Names) != q.want {
			t.Errorf("%s of %q: %v %v, want %s", q.name, q.matchers, got, err, q.want)
		}
	}
	series, err := c.Series(ctx, connect.NewRequest(&querierv1.SeriesRequest{LabelNames: []string{"service_name", "__profile_type__"}, Start: apiRange[0], End: apiRange[1]}))
	if err != nil || len(series.Msg.LabelsSet) != 1 || fmt.Sprint(pairsText(series.Msg.LabelsSet[0].Labels)) != "[__profile_type__="+apiCPU+" service_name=checkout]" {
		t.Error(series, err)
	}
	series, err = c.Series(ctx, connect.NewRequest(&querierv1.SeriesRequest{}))
	if err != nil || len(series.Msg.LabelsSet) != 2 || len(series.Msg.LabelsSet[0].Labels) != 8 {
		t.Error(series, err)
	}
	stats, err := c.GetProfileStats(ctx, connect.NewRequest(&querierv1.GetProfileStatsRequest{}))
	if err != nil || !stats.Msg.DataIngested || stats.Msg.OldestProfileTime != apiNow.Add(-time.Minute).UnixMilli() || stats.Msg.NewestProfileTime != apiNow.Add(-30*time.Second).UnixMilli() {
		t.Error(stats, err)
	}
	impact, err := c.AnalyzeQuery(ctx, connect.NewRequest(&querierv1.AnalyzeQueryRequest{Query: apiCPU + checkoutV1}))
	if err != nil || len(impact.Msg.QueryScopes) != 1 || impact.Msg.QueryScopes[0].ProfileCount != 3 || impact.Msg.QueryImpact.TotalQueriedSeries != 1 {
		t.Error(impact, err)
	}
}

func pairsText(ls []*querierv1.LabelPair) (out []string) {
	for _, l := range ls {
		out = append(out, l.Name+"="+l.Value)
	}
	return out
}

func askGrafanaStacks(t *testing.T, c querierv1connect.QuerierServiceClient) {
	ctx := t.Context()
	res, err := c.SelectMergeStacktraces(ctx, connect.NewRequest(stacksOf(checkoutV1)))
	if err != nil {
		t.Fatal(err)
	}
	want := []node{
		{0, "total", 0, 3000, 0}, {1, "main.main", 0, 3000, 210}, {2, "shop.serve", 210, 2790, 0},
		{3, "encoding/json.Marshal", 210, 2700, 1800}, {3, "shop.(*Cache).evict", 2910, 90, 90}, {4, "runtime.mallocgc", 2010, 900, 900},
	}
	fg := res.Msg.Flamegraph
	if got := nodesOf(t, fg); !slices.Equal(got, want) || fg.Total != 3000 || fg.MaxSelf != 1800 {
		t.Errorf("got %v, total %d, largest %d", got, fg.Total, fg.MaxSelf)
	}
	few := stacksOf(checkoutV1)
	few.MaxNodes = new(int64(4))
	if res, err = c.SelectMergeStacktraces(ctx, connect.NewRequest(few)); err != nil || !slices.Contains(res.Msg.Flamegraph.Names, "other") || res.Msg.Flamegraph.Total != 3000 {
		t.Error(res, err)
	}
	site := stacksOf(checkoutV1)
	for _, f := range []string{"main.main", "shop.serve", "encoding/json.Marshal"} {
		site.StackTraceSelector = &querierv1.StackTraceSelector{CallSite: append(site.StackTraceSelector.GetCallSite(), &querierv1.StackTraceSelector_Location{Name: f})}
	}
	if res, err = c.SelectMergeStacktraces(ctx, connect.NewRequest(site)); err != nil || res.Msg.Flamegraph.Total != 2700 {
		t.Error("under a call site:", res, err)
	}
	tree := stacksOf(checkoutV1)
	tree.Format = querierv1.ProfileFormat_PROFILE_FORMAT_TREE
	if res, err = c.SelectMergeStacktraces(ctx, connect.NewRequest(tree)); err != nil {
		t.Fatal(err)
	}
	if got := readTree(t, res.Msg.Tree); got != " 0;main.main 210;shop.serve 0;encoding/json.Marshal 1800;runtime.mallocgc 900;shop.(*Cache).evict 90;" {
		t.Error(got)
	}
	dot := stacksOf(checkoutV1)
	dot.Format = querierv1.ProfileFormat_PROFILE_FORMAT_DOT
	if res, err = c.SelectMergeStacktraces(ctx, connect.NewRequest(dot)); err != nil || !strings.HasPrefix(res.Msg.Dot, "digraph") || !strings.Contains(res.Msg.Dot, `1800 of 2700 (90`) {
		t.Error(res, err)
	}
	pb, err := c.SelectMergeProfile(ctx, connect.NewRequest(&querierv1.SelectMergeProfileRequest{ProfileTypeID: apiCPU, LabelSelector: checkoutV1, Start: apiRange[0], End: apiRange[1]}))
	if err != nil {
		t.Fatal(err)
	}
	total, labels := int64(0), 0
	for _, s := range pb.Msg.Sample {
		total += s.Value[0]
		labels += len(s.Label)
	}
	if total != 3000 || labels != 0 || pb.Msg.StringTable[pb.Msg.SampleType[0].Type] != "cpu" {
		t.Errorf("pprof: total %d, %d labels, types %v", total, labels, pb.Msg.SampleType)
	}
	diff, err := c.Diff(ctx, connect.NewRequest(&querierv1.DiffRequest{Left: stacksOf(checkoutV1), Right: stacksOf(strings.ReplaceAll(checkoutV1, "v1", "v2"))}))
	if err != nil {
		t.Fatal(err)
	}
	if d := diff.Msg.Flamegraph; d.LeftTicks != 3000 || d.RightTicks != 3810 || d.Total != 6810 || len(d.Levels) != 5 || len(d.Levels[3].Values) != 14 {
		t.Error(d)
	}
	span, err := c.SelectMergeSpanProfile(ctx, connect.NewRequest(&querierv1.SelectMergeSpanProfileRequest{ProfileTypeID: apiCPU, LabelSelector: "{}", Start: apiRange[0], End: apiRange[1], SpanSelector: []string{"9a517183f26a089d"}}))
	if err != nil || span.Msg.Flamegraph.GetTotal() != 0 || len(span.Msg.Flamegraph.Levels) != 1 {
		t.Error("of a span that there is not:", span, err)
	}
}

// readTree reads Pyroscope's tree in bytes as its readers do.
func readTree(t *testing.T, b []byte) string {
	t.Helper()
	var s strings.Builder
	for left := uint64(1); left > 0; {
		n, k := binary.Uvarint(b)
		name := string(b[k : k+int(n)])
		b = b[k+int(n):]
		self, k := binary.Uvarint(b)
		b = b[k:]
		children, k := binary.Uvarint(b)
		b = b[k:]
		left += children - 1
		fmt.Fprintf(&s, "%s %d;", name, self)
	}
	if len(b) != 0 {
		t.Errorf("%d bytes are left", len(b))
	}
	return s.String()
}

func askGrafanaSeries(t *testing.T, c querierv1connect.QuerierServiceClient) {
	ctx := t.Context()
	ask := &querierv1.SelectSeriesRequest{ProfileTypeID: apiCPU, LabelSelector: `{service_name="checkout"}`, Start: apiRange[0], End: apiRange[1], Step: 15,
		GroupBy: []string{"service_version"}, ExemplarType: querierv1.ExemplarType_EXEMPLAR_TYPE_INDIVIDUAL}
	res, err := c.SelectSeries(ctx, connect.NewRequest(ask))
	if err != nil || len(res.Msg.Series) != 2 {
		t.Fatal(res, err)
	}
	v1 := res.Msg.Series[0]
	if fmt.Sprint(pairsText(v1.Labels)) != "[service_version=v1]" || len(v1.Points) != 2 || v1.Points[0].Value != 2000 || v1.Points[0].Timestamp != apiNow.Add(-time.Minute).UnixMilli() {
		t.Error(v1)
	}
	if e := v1.Points[0].Exemplars; len(e) != 2 || e[0].Value != 1000 || e[0].ProfileId == "" {
		t.Error("exemplars:", e)
	}
	ids := stacksOf("{}")
	ids.ProfileIdSelector = []string{v1.Points[0].Exemplars[0].ProfileId}
	if one, err := c.SelectMergeStacktraces(ctx, connect.NewRequest(ids)); err != nil || one.Msg.Flamegraph.Total != 1000 {
		t.Error("the exemplar's own profile:", one, err)
	}
	ask.Aggregation, ask.Limit, ask.ExemplarType = new(querierv1.TimeSeriesAggregationType_TIME_SERIES_AGGREGATION_TYPE_AVERAGE), new(int64(1)), 0
	if res, err = c.SelectSeries(ctx, connect.NewRequest(ask)); err != nil || len(res.Msg.Series) != 1 || res.Msg.Series[0].Points[0].Value != 1270 || res.Msg.Series[0].Labels[0].Value != "v2" {
		t.Error("the largest, on average:", res, err)
	}
	heat, err := c.SelectHeatmap(ctx, connect.NewRequest(&querierv1.SelectHeatmapRequest{ProfileTypeID: apiCPU, LabelSelector: "{}", Start: apiRange[0], End: apiRange[1], Step: 15,
		GroupBy: []string{"service_version"}, QueryType: querierv1.HeatmapQueryType_HEATMAP_QUERY_TYPE_INDIVIDUAL, ExemplarType: querierv1.ExemplarType_EXEMPLAR_TYPE_INDIVIDUAL}))
	if err != nil || len(heat.Msg.Series) != 2 {
		t.Fatal(heat, err)
	}
	n := int32(0)
	for _, s := range heat.Msg.Series {
		for _, slot := range s.Slots {
			if len(slot.YMin) != len(slot.Counts) {
				t.Errorf("%d bounds for %d counts", len(slot.YMin), len(slot.Counts))
			}
			sum := int32(0)
			for _, k := range slot.Counts {
				sum += k
			}
			if int(sum) != len(slot.Exemplars) {
				t.Errorf("%d profiles, %d exemplars", sum, len(slot.Exemplars))
			}
			n += sum
		}
	}
	if n != 6 {
		t.Errorf("the heat maps count %d profiles, want 6", n)
	}
}

// TestGrafanaEmpty: a data source that is set up before anything has been sent shows nothing, and no error.
func TestGrafanaEmpty(t *testing.T) {
	db, err := store.Open(t.Context(), t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	srv := apiServer(t, func(o *Options) { o.Store = db })
	for name, c := range grafanaClients(srv.URL) {
		ctx := t.Context()
		if types, err := c.ProfileTypes(ctx, connect.NewRequest(&querierv1.ProfileTypesRequest{})); err != nil || len(types.Msg.ProfileTypes) != 0 {
			t.Error(name, types, err)
		}
		if _, err := c.LabelNames(ctx, connect.NewRequest(&querierv1.LabelNamesRequest{})); err != nil {
			t.Error(name, err)
		}
		if _, err := c.LabelValues(ctx, connect.NewRequest(&querierv1.LabelValuesRequest{Name: "service_name"})); err != nil {
			t.Error(name, err)
		}
		if _, err := c.Series(ctx, connect.NewRequest(&querierv1.SeriesRequest{LabelNames: []string{"service_name"}})); err != nil {
			t.Error(name, err)
		}
		if res, err := c.SelectMergeStacktraces(ctx, connect.NewRequest(stacksOf("{}"))); err != nil || len(res.Msg.Flamegraph.GetLevels()) != 1 || res.Msg.Flamegraph.Names[0] != "total" {
			t.Error(name, res, err)
		}
		if res, err := c.SelectMergeProfile(ctx, connect.NewRequest(&querierv1.SelectMergeProfileRequest{ProfileTypeID: apiCPU})); err != nil || len(res.Msg.Sample) != 0 {
			t.Error(name, res, err)
		}
		if res, err := c.SelectSeries(ctx, connect.NewRequest(&querierv1.SelectSeriesRequest{ProfileTypeID: apiCPU, Start: apiRange[0], End: apiRange[1], Step: 15})); err != nil || len(res.Msg.Series) != 0 {
			t.Error(name, res, err)
		}
		if res, err := c.SelectHeatmap(ctx, connect.NewRequest(&querierv1.SelectHeatmapRequest{ProfileTypeID: apiCPU, Start: apiRange[0], End: apiRange[1], Step: 15})); err != nil || len(res.Msg.Series) != 0 {
			t.Error(name, res, err)
		}
		if res, err := c.Diff(ctx, connect.NewRequest(&querierv1.DiffRequest{Left: stacksOf("{}"), Right: stacksOf("{}")})); err != nil || res.Msg.Flamegraph.Total != 0 {
			t.Error(name, res, err)
		}
		if res, err := c.GetProfileStats(ctx, connect.NewRequest(&querierv1.GetProfileStatsRequest{})); err != nil || res.Msg.DataIngested {
			t.Error(name, res, err)
		}
	}
	for _, path := range []string{"render?from=now-1h&query=", "render-diff?leftFrom=now-1h&rightFrom=now-1h&rightQuery=" + apiCPU + "{}&leftQuery="} {
		if res, b := apiGet(t, srv, "/pyroscope/"+path+url.QueryEscape(apiCPU+"{}")); res.StatusCode != 200 {
			t.Errorf("%s: %s %s", path, res.Status, b)
		}
	}
}

// TestGrafanaRequests sends what Profiles Drilldown's own code sends, letter for letter where it builds JSON by hand: names of fields in both
// styles, times as numbers, fields that we do not know.
func TestGrafanaRequests(t *testing.T) {
	srv := apiServer(t, nil)
	post := func(method, body string) map[string]any {
		res, err := http.Post(srv.URL+"/querier.v1.QuerierService/"+method, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		var out map[string]any
		if err != nil || res.StatusCode != 200 || json.Unmarshal(b, &out) != nil {
			t.Fatalf("%s: %s %s %v", method, res.Status, b, err)
		}
		return out
	}
	span := fmt.Sprintf(`"start":%d,"end":%d`, apiRange[0], apiRange[1])
	series := post("Series", `{`+span+`,"labelNames":["service_name","__profile_type__"],"matchers":[]}`)
	if sets := series["labelsSet"].([]any); len(sets) != 1 {
		t.Error(series)
	}
	pprof := post("SelectMergeProfile", `{"profile_typeID":"`+apiCPU+`","label_selector":"{service_name=\"checkout\"}",`+span+
		`,"stackTraceSelector":{"call_site":[{"name":"main.main"}],"frameFilter":{"unknown":1}},"maxNodes":500}`)
	if names := fmt.Sprint(pprof["stringTable"]); !strings.Contains(names, "shop.(*Cache).evict") {
		t.Error(pprof)
	}
	if stats := post("GetProfileStats", `{}`); stats["dataIngested"] != true || stats["oldestProfileTime"] != fmt.Sprint(apiNow.Add(-time.Minute).UnixMilli()) {
		t.Error(stats)
	}
}

func TestGrafanaWrong(t *testing.T) {
	c := grafanaClients(apiServer(t, nil).URL)["proto"]
	stacks := func(change func(*querierv1.SelectMergeStacktracesRequest)) error {
		m := stacksOf(checkoutV1)
		change(m)
		_, err := c.SelectMergeStacktraces(t.Context(), connect.NewRequest(m))
		return err
	}
	type M = *querierv1.SelectMergeStacktracesRequest
	for text, err := range map[string]error{
		"profile_type is empty": stacks(func(m M) { m.ProfileTypeID = "" }),
		"label_selector":        stacks(func(m M) { m.LabelSelector = "{x" }),
		"must be 16 hexa":       stacks(func(m M) { m.SpanSelector = []string{"a|b"} }),
		"must be 32 hexa":       stacks(func(m M) { m.TraceIdSelector = []string{"12"} }),
		"is not known here":     stacks(func(m M) { m.Format = 17 }),
		"profile_ids":           stacks(func(m M) { m.ProfileIdSelector = []string{"x"} }),
		"is not before":         stacks(func(m M) { m.End = m.Start }),
		"quantraband pgo":       stacks(func(m M) { m.StackTraceSelector = &querierv1.StackTraceSelector{GoPgo: &querierv1.GoPGO{}} }),
	} {
		code := connect.CodeOf(err)
		if err == nil || !strings.Contains(err.Error(), text) || code != connect.CodeInvalidArgument && code != connect.CodeUnimplemented {
			t.Errorf("want %q, got %v", text, err)
		}
	}
	_, err := c.LabelNames(t.Context(), connect.NewRequest(&querierv1.LabelNamesRequest{Matchers: make([]string, maxSelectors+1)}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Error(err)
	}
	_, err = c.SelectSeries(t.Context(), connect.NewRequest(&querierv1.SelectSeriesRequest{ProfileTypeID: apiCPU, Start: 1, End: apiRange[1], Step: 1}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "points") {
		t.Error(err)
	}
	_, err = c.SelectHeatmap(t.Context(), connect.NewRequest(&querierv1.SelectHeatmapRequest{ProfileTypeID: apiCPU, QueryType: querierv1.HeatmapQueryType_HEATMAP_QUERY_TYPE_SPAN}))
	if connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Error(err)
	}
}

func TestRender(t *testing.T) {
	srv := apiServer(t, nil)
	get := func(path string, v url.Values) (int, rendered, string) {
		res, b := apiGet(t, srv, "/pyroscope/"+path+"?"+v.Encode())
		var r rendered
		if res.StatusCode == 200 && res.Header.Get("Content-Type") == "application/json" {
			if err := json.Unmarshal(b, &r); err != nil {
				t.Fatal(err)
			}
		}
		return res.StatusCode, r, string(b)
	}
	q := url.Values{"query": {apiCPU + checkoutV1}, "from": {"now-5m"}, "until": {"now"}}
	status, r, b := get("render", q)
	if status != 200 || r.Version != 1 || r.Flamebearer.NumTicks != 3000 || r.Metadata.Units != "samples" || r.Metadata.SampleRate != 1e9 || r.Metadata.Format != "single" {
		t.Error(status, b)
	}
	if tl := r.Timeline; tl == nil || tl.StartTime != apiNow.Add(-5*time.Minute).Unix() || tl.DurationDelta != 15 || len(tl.Samples) != 20 || tl.Samples[16] != 2000 || tl.Samples[17] != 1000 {
		t.Error(r.Timeline)
	}
	q["groupBy"], q["query"] = []string{"service_version"}, []string{fmt.Sprintf(`{__profile_type__=%q}`, apiCPU)}
	q["from"], q["until"] = []string{fmt.Sprint(apiRange[0] / 1000)}, []string{fmt.Sprint(apiRange[1])}
	if status, r, b = get("render", q); status != 200 || len(r.Groups) != 2 || r.Flamebearer.NumTicks != 6810 {
		t.Error(status, b)
	}
	q.Set("format", "dot")
	if status, _, b = get("render", q); status != 200 || !strings.HasPrefix(b, "digraph") {
		t.Error(status, b)
	}
	d := url.Values{"leftQuery": {apiCPU + checkoutV1}, "leftFrom": {fmt.Sprint(apiRange[0])}, "leftUntil": {fmt.Sprint(apiRange[1])},
		"rightQuery": {apiCPU + `{service_version="v2"}`}, "rightFrom": {fmt.Sprint(apiRange[0])}, "rightUntil": {fmt.Sprint(apiRange[1])}, "max-nodes": {"100"}}
	if status, r, b = get("render-diff", d); status != 200 || r.LeftTicks != 3000 || r.RightTicks != 3810 || r.Metadata.Format != "double" || len(r.Flamebearer.Levels) != 5 {
		t.Error(status, b)
	}
	for text, v := range map[string]url.Values{
		"names no profile type":     {"query": {"{}"}, "from": {"now-1h"}},
		"profile type":              {"query": {"cpu{}"}, "from": {"now-1h"}},
		"is not before":             {"query": {apiCPU + "{}"}},
		"is not a time":             {"query": {apiCPU + "{}"}, "from": {"yesterday"}},
		"format=\\\"svg\\\" is not": {"query": {apiCPU + "{}"}, "from": {"now-1h"}, "format": {"svg"}},
	} {
		if status, _, b := get("render", v); status != 400 || !strings.Contains(b, text) {
			t.Errorf("%v: %d %s", v, status, b)
		}
	}
}

// TestGrafanaScope: what an asker may not see is in no answer of this API either, and labels of samples are in none.
func TestGrafanaScope(t *testing.T) {
	raw := 0
	srv := apiServer(t, func(o *Options) {
		o.Allow = scoped(&raw, Scope{Services: []string{"other"}})
	})
	c := grafanaClients(srv.URL)["proto"]
	if res, err := c.SelectMergeStacktraces(t.Context(), connect.NewRequest(stacksOf("{}"))); err != nil || res.Msg.Flamegraph.Total != 0 {
		t.Error(res, err)
	}
	if res, err := c.Series(t.Context(), connect.NewRequest(&querierv1.SeriesRequest{})); err != nil || len(res.Msg.LabelsSet) != 0 {
		t.Error(res, err)
	}
	if raw != 0 {
		t.Errorf("%d questions were for single profiles", raw)
	}
	hidden := apiServer(t, func(o *Options) {
		o.Allow = scoped(&raw, Scope{Rename: func(f string) (string, bool) { return "secret", f == "shop.serve" }})
	})
	c = grafanaClients(hidden.URL)["proto"]
	m := stacksOf("{}")
	m.StackTraceSelector = &querierv1.StackTraceSelector{CallSite: []*querierv1.StackTraceSelector_Location{{Name: "main.main"}, {Name: "shop.serve"}}}
	if res, err := c.SelectMergeStacktraces(t.Context(), connect.NewRequest(m)); err != nil || res.Msg.Flamegraph.Total != 0 {
		t.Error("a hidden name can be found out:", res, err)
	}
	m.StackTraceSelector.CallSite[1].Name = "secret"
	if res, err := c.SelectMergeStacktraces(t.Context(), connect.NewRequest(m)); err != nil || res.Msg.Flamegraph.Total == 0 {
		t.Error(res, err)
	}
}

// scoped allows every question within s, and counts those for single profiles, which it refuses.
func scoped(raw *int, s Scope) func(context.Context, Question) (Scope, error) {
	return func(_ context.Context, q Question) (Scope, error) {
		if q.Raw {
			*raw++
			return Scope{}, &Refusal{Code: connect.CodePermissionDenied, Text: "no single profiles"}
		}
		return s, nil
	}
}

// FuzzSelector: whatever a selector says, it is refused, or becomes one that the store reads to the same conditions or stricter words.
func FuzzSelector(f *testing.F) {
	for _, seed := range []string{checkoutV1, "", "{}", apiCPU + checkoutV1, `{__profile_type__="` + apiCPU + `", __name__=~"a|b"}`, `{__unit__!="count",}`, `{__type__=~"(["}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := selector(text); err == nil {
			before, err := store.ParseMatchers(text)
			after, err2 := store.ParseMatchers(s)
			if err != nil || err2 != nil || len(before) != len(after) {
				t.Errorf("%q became %q: %v, %v", text, s, err, err2)
			}
		}
		if typ, rest, err := typedSelector(text); err == nil && typ.Name != "" && rest != "" {
			if _, err := store.ParseMatchers(rest); err != nil && !strings.Contains(text, "{") {
				t.Errorf("%q left %q: %v", text, rest, err)
			}
		}
	})
}
