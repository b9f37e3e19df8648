// Command grafana asks a server what Grafana's Pyroscope data source and Profiles Drilldown ask, by the published client of Pyroscope's API,
// unmodified, and fails where an answer is not what they need. Grafana itself is in no registry that tests may use; which methods it calls
// with which fields is taken from its public sources (pkg/tsdb/grafana-pyroscope-datasource and grafana/profiles-drilldown).
//
//	grafana URL TYPE SELECTOR FROM_MS TO_MS TOTAL
//
// TOTAL is the sum of TYPE over the selection that the server must answer with; 0 is that nothing is there. QUANTRA_TOKEN is sent as the
// password of Basic authentication, which is how the data source is given one.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	querierv1 "github.com/grafana/pyroscope/api/gen/proto/go/querier/v1"
	"github.com/grafana/pyroscope/api/gen/proto/go/querier/v1/querierv1connect"
	typesv1 "github.com/grafana/pyroscope/api/gen/proto/go/types/v1"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// basic adds a token to each request, as the data source's HTTP client does.
type basic struct{ token string }

func (b basic) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.token != "" {
		r.SetBasicAuth("grafana", b.token)
	}
	return http.DefaultTransport.RoundTrip(r)
}

type asker struct {
	querierv1connect.QuerierServiceClient
	typ, selector string
	from, to      int64
	total         int64
}

func run(ctx context.Context, args []string) error {
	if len(args) != 6 {
		return errors.New("usage: grafana URL TYPE SELECTOR FROM_MS TO_MS TOTAL")
	}
	a := asker{typ: args[1], selector: args[2]}
	var errs [3]error
	a.from, errs[0] = strconv.ParseInt(args[3], 10, 64)
	a.to, errs[1] = strconv.ParseInt(args[4], 10, 64)
	a.total, errs[2] = strconv.ParseInt(args[5], 10, 64)
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	client := &http.Client{Transport: basic{os.Getenv("QUANTRA_TOKEN")}}
	for _, form := range []struct {
		name string
		opts []connect.ClientOption
	}{{"Connect", nil}, {"JSON", []connect.ClientOption{connect.WithProtoJSON()}}, {"gRPC-Web", []connect.ClientOption{connect.WithGRPCWeb()}}} {
		a.QuerierServiceClient = querierv1connect.NewQuerierServiceClient(client, args[0], form.opts...)
		for _, step := range []struct {
			name string
			ask  func(context.Context) (string, error)
		}{{"what there is", a.whatThereIs}, {"series", a.series}, {"flame graph", a.flameGraph}, {"heat map", a.heatmap}, {"pprof and diff", a.pprof}} {
			seen, err := step.ask(ctx)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", form.name, step.name, err)
			}
			fmt.Printf("%s: %s: %s\n", form.name, step.name, seen)
		}
	}
	return nil
}

func (a *asker) whatThereIs(ctx context.Context) (string, error) {
	types, err := a.ProfileTypes(ctx, connect.NewRequest(&querierv1.ProfileTypesRequest{Start: a.from, End: a.to}))
	if err != nil {
		return "", err
	}
	names, err := a.LabelNames(ctx, connect.NewRequest(&typesv1.LabelNamesRequest{Matchers: []string{a.selector}, Start: a.from, End: a.to}))
	if err != nil {
		return "", err
	}
	values, err := a.LabelValues(ctx, connect.NewRequest(&typesv1.LabelValuesRequest{Name: "service_name", Matchers: []string{a.selector}, Start: a.from, End: a.to}))
	if err != nil {
		return "", err
	}
	series, err := a.Series(ctx, connect.NewRequest(&querierv1.SeriesRequest{LabelNames: []string{"service_name", "__profile_type__"}, Matchers: []string{}, Start: a.from, End: a.to}))
	if err != nil {
		return "", err
	}
	stats, err := a.GetProfileStats(ctx, connect.NewRequest(&typesv1.GetProfileStatsRequest{}))
	if err != nil {
		return "", err
	}
	if a.total != 0 {
		has := false
		for _, t := range types.Msg.ProfileTypes { // the data source splits the id, and names it by the other fields
			has = has || t.ID == a.typ && t.ID == strings.Join([]string{t.Name, t.SampleType, t.SampleUnit, t.PeriodType, t.PeriodUnit}, ":")
		}
		if !has || len(values.Msg.Names) == 0 || len(series.Msg.LabelsSet) == 0 || !stats.Msg.DataIngested {
			return "", fmt.Errorf("types %v, values %v, series %v, statistics %v", types.Msg, values.Msg, series.Msg, stats.Msg)
		}
	}
	return fmt.Sprintf("%d types, %d label names, %d values, %d series, data %v", len(types.Msg.ProfileTypes), len(names.Msg.Names), len(values.Msg.Names), len(series.Msg.LabelsSet), stats.Msg.DataIngested), nil
}

func (a *asker) series(ctx context.Context) (string, error) {
	limit := int64(10)
	res, err := a.SelectSeries(ctx, connect.NewRequest(&querierv1.SelectSeriesRequest{ProfileTypeID: a.typ, LabelSelector: a.selector, Start: a.from, End: a.to,
		Step: 15, GroupBy: []string{"service_name"}, Limit: &limit, ExemplarType: typesv1.ExemplarType_EXEMPLAR_TYPE_NONE}))
	if err != nil {
		return "", err
	}
	sum, points := 0.0, 0
	for _, s := range res.Msg.Series {
		for _, p := range s.Points {
			sum += p.Value
			points++
		}
	}
	if int64(sum) != a.total {
		return "", fmt.Errorf("the points' sum is %v, want %d", sum, a.total)
	}
	return fmt.Sprintf("%d series, %d points, sum %.0f", len(res.Msg.Series), points, sum), nil
}

// flameGraph reads rows into a tree as the data source does, which trusts offsets and indexes.
func (a *asker) flameGraph(ctx context.Context) (string, error) {
	nodes := int64(16384)
	res, err := a.SelectMergeStacktraces(ctx, connect.NewRequest(&querierv1.SelectMergeStacktracesRequest{ProfileTypeID: a.typ, LabelSelector: a.selector, Start: a.from, End: a.to, MaxNodes: &nodes}))
	if err != nil {
		return "", err
	}
	span, err := a.SelectMergeSpanProfile(ctx, connect.NewRequest(&querierv1.SelectMergeSpanProfileRequest{ProfileTypeID: a.typ, LabelSelector: a.selector, SpanSelector: []string{"9a517183f26a089d"}, Start: a.from, End: a.to}))
	if code := connect.CodeOf(err); err != nil && code != connect.CodePermissionDenied { // what spans did is for who may read single profiles
		return "", err
	}
	_ = span
	fg := res.Msg.Flamegraph
	if fg == nil || len(fg.Levels) == 0 || len(fg.Levels[0].Values) != 4 || fg.Levels[0].Values[1] != a.total || fg.Total != a.total {
		return "", fmt.Errorf("the first row is not one bar of %d: %v", a.total, fg)
	}
	bars, self := 0, int64(0)
	for _, row := range fg.Levels {
		for i := 0; i < len(row.Values); i += 4 {
			if row.Values[i] < 0 || row.Values[i+3] >= int64(len(fg.Names)) {
				return "", fmt.Errorf("a bar %v that cannot be drawn", row.Values[i:i+4])
			}
			bars++
			self += row.Values[i+2]
		}
	}
	if self != a.total {
		return "", fmt.Errorf("the bars' own values are %d together, want %d", self, a.total)
	}
	return fmt.Sprintf("%d rows, %d bars, total %d", len(fg.Levels), bars, fg.Total), nil
}

func (a *asker) heatmap(ctx context.Context) (string, error) {
	res, err := a.SelectHeatmap(ctx, connect.NewRequest(&querierv1.SelectHeatmapRequest{ProfileTypeID: a.typ, LabelSelector: a.selector, Start: a.from, End: a.to, Step: 60,
		QueryType: querierv1.HeatmapQueryType_HEATMAP_QUERY_TYPE_INDIVIDUAL, ExemplarType: typesv1.ExemplarType_EXEMPLAR_TYPE_INDIVIDUAL}))
	if err != nil {
		return "", err
	}
	n := int32(0)
	for _, s := range res.Msg.Series {
		for _, slot := range s.Slots {
			for _, c := range slot.Counts {
				n += c
			}
		}
	}
	if (n == 0) != (a.total == 0) {
		return "", fmt.Errorf("the heat map counts %d profiles of a total of %d", n, a.total)
	}
	return fmt.Sprintf("%d profiles", n), nil
}

func (a *asker) pprof(ctx context.Context) (string, error) {
	res, err := a.SelectMergeProfile(ctx, connect.NewRequest(&querierv1.SelectMergeProfileRequest{ProfileTypeID: a.typ, LabelSelector: a.selector, Start: a.from, End: a.to}))
	if err != nil {
		return "", err
	}
	sum := int64(0)
	for _, s := range res.Msg.Sample {
		sum += s.Value[0]
	}
	if sum != a.total {
		return "", fmt.Errorf("the samples' sum is %d, want %d", sum, a.total)
	}
	side := &querierv1.SelectMergeStacktracesRequest{ProfileTypeID: a.typ, LabelSelector: a.selector, Start: a.from, End: a.to}
	diff, err := a.Diff(ctx, connect.NewRequest(&querierv1.DiffRequest{Left: side, Right: side}))
	if err != nil {
		return "", err
	}
	if d := diff.Msg.Flamegraph; d.LeftTicks != a.total || d.RightTicks != a.total {
		return "", fmt.Errorf("the difference with itself: %d and %d, want %d", d.LeftTicks, d.RightTicks, a.total)
	}
	return fmt.Sprintf("%d samples, sum %d", len(res.Msg.Sample), sum), nil
}
