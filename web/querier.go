package web

import (
	"cmp"
	"context"
	"errors"
	"math"
	"time"

	"connectrpc.com/connect"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	v1 "github.com/quantra-l/quantra/wire/quantra/v1"
)

// querier is quantra.v1.QuerierService.
type querier struct{ *Server }

// Bounds of answers. A browser draws defaultNodes in a frame; maxNodes and
// maxPoints are where an answer would be tens of megabytes.
const (
	defaultNodes = 16384
	maxNodes     = 1 << 20
	wantPoints   = 120
	maxPoints    = 11000
	maxIDs       = 1000
	wantProfiles = 100
	wantBuckets  = 20
)

func (q *querier) Services(ctx context.Context, req *connect.Request[v1.ServicesRequest]) (*connect.Response[v1.ServicesResponse], error) {
	query, err := q.aggregateQuery(ctx, "", req.Msg.GetRange())
	if err != nil {
		return nil, err
	}
	services, err := q.opt.Store.Services(ctx, query.Query)
	if err != nil {
		return nil, err
	}
	res := &v1.ServicesResponse{}
	for _, s := range services {
		res.Services = append(res.Services, &v1.Service{
			Name: s.Name, ProfileTypes: typeNames(s.Types), Versions: s.Versions,
			Instances: uint32(s.Instances), Profiles: uint32(s.Profiles),
			FirstMs: s.First.UnixMilli(), LastMs: s.Last.UnixMilli(),
		})
	}
	return connect.NewResponse(res), nil
}

func typeNames(types []profile.Type) []string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.String()
	}
	return names
}

func (q *querier) ProfileTypes(ctx context.Context, req *connect.Request[v1.ProfileTypesRequest]) (*connect.Response[v1.ProfileTypesResponse], error) {
	query, err := q.aggregateQuery(ctx, req.Msg.GetMatchers(), req.Msg.GetRange())
	if err != nil {
		return nil, err
	}
	types, err := q.opt.Store.ProfileTypes(ctx, query.Query)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ProfileTypesResponse{ProfileTypes: typeNames(types)}), nil
}

func (q *querier) LabelNames(ctx context.Context, req *connect.Request[v1.LabelNamesRequest]) (*connect.Response[v1.LabelNamesResponse], error) {
	query, err := q.aggregateQuery(ctx, req.Msg.GetMatchers(), req.Msg.GetRange())
	if err != nil {
		return nil, err
	}
	names, err := q.opt.Store.LabelNames(ctx, query.Query)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.LabelNamesResponse{Names: names}), nil
}

func (q *querier) LabelValues(ctx context.Context, req *connect.Request[v1.LabelValuesRequest]) (*connect.Response[v1.LabelValuesResponse], error) {
	if err := profile.CheckLabelName(req.Msg.GetName()); err != nil {
		return nil, invalid("name: %w", err)
	}
	query, err := q.aggregateQuery(ctx, req.Msg.GetMatchers(), req.Msg.GetRange())
	if err != nil {
		return nil, err
	}
	values, err := q.opt.Store.LabelValues(ctx, req.Msg.GetName(), query.Query)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.LabelValuesResponse{Values: values}), nil
}

func (q *querier) Series(ctx context.Context, req *connect.Request[v1.SeriesRequest]) (*connect.Response[v1.SeriesResponse], error) {
	query, err := q.unfiltered(ctx, req.Msg.GetSelection(), false)
	if err != nil {
		return nil, err
	}
	if err := checkGroupBy(req.Msg.GetGroupBy()); err != nil {
		return nil, err
	}
	step, err := q.step(ctx, query.Query, req.Msg.GetStepMs())
	if err != nil {
		return nil, err
	}
	series, err := q.opt.Store.Series(ctx, store.SeriesQuery{Query: query.Query, Step: step, GroupBy: req.Msg.GetGroupBy()})
	if err != nil {
		return nil, err
	}
	res := &v1.SeriesResponse{StepMs: series.Step.Milliseconds(), Warnings: series.Warnings}
	for _, l := range series.Lines {
		line := &v1.SeriesLine{TMs: make([]float64, len(l.Points)), Value: make([]float64, len(l.Points)), Profiles: make([]uint32, len(l.Points)), Labels: wireLabels(l.Labels)}
		for i, p := range l.Points {
			line.TMs[i], line.Value[i], line.Profiles[i] = float64(p.Time.UnixMilli()), float64(p.Value), uint32(p.Profiles)
		}
		res.Lines = append(res.Lines, line)
	}
	return connect.NewResponse(res), nil
}

func checkGroupBy(names []string) error {
	for _, name := range names {
		if err := profile.CheckLabelName(name); err != nil {
			return invalid("group_by: %w", err)
		}
	}
	return nil
}

func (q *querier) LabelSets(ctx context.Context, req *connect.Request[v1.LabelSetsRequest]) (*connect.Response[v1.LabelSetsResponse], error) {
	query, err := q.aggregateQuery(ctx, req.Msg.GetMatchers(), req.Msg.GetRange())
	if err != nil {
		return nil, err
	}
	known, err := q.opt.Store.LabelSets(ctx, query.Query)
	if err != nil {
		return nil, err
	}
	res := &v1.LabelSetsResponse{}
	for _, k := range known {
		res.Sets = append(res.Sets, &v1.LabelSet{Labels: wireLabels(k.Labels), ProfileType: k.Type.String(), Profiles: uint32(k.Profiles),
			FirstMs: time.Unix(0, k.First).UnixMilli(), LastMs: time.Unix(0, k.Last).UnixMilli()})
	}
	return connect.NewResponse(res), nil
}

func (q *querier) Profiles(ctx context.Context, req *connect.Request[v1.ProfilesRequest]) (*connect.Response[v1.ProfilesResponse], error) {
	query, err := q.unfiltered(ctx, req.Msg.GetSelection(), true)
	if err != nil {
		return nil, err
	}
	found, err := q.opt.Store.Profiles(ctx, query.Query, int(cmp.Or(req.Msg.GetLimit(), wantProfiles)))
	if err != nil {
		return nil, err
	}
	res := &v1.ProfilesResponse{All: uint32(found.All), Warnings: found.Warnings}
	for _, p := range found.Profiles {
		res.Profiles = append(res.Profiles, &v1.ProfileInfo{Id: store.FormatProfileID(p.ID), Labels: wireLabels(p.Labels),
			FromMs: p.From.UnixMilli(), ToMs: p.To.UnixMilli(), Total: float64(p.Total)})
	}
	return connect.NewResponse(res), nil
}

func (q *querier) Heatmap(ctx context.Context, req *connect.Request[v1.HeatmapRequest]) (*connect.Response[v1.HeatmapResponse], error) {
	query, err := q.unfiltered(ctx, req.Msg.GetSelection(), false)
	if err != nil {
		return nil, err
	}
	step, err := q.step(ctx, query.Query, req.Msg.GetStepMs())
	if err != nil {
		return nil, err
	}
	h, err := q.opt.Store.Heatmap(ctx, store.HeatmapQuery{Query: query.Query, Step: step, Buckets: int(cmp.Or(req.Msg.GetBuckets(), wantBuckets)), Log: req.Msg.GetLog()})
	if err != nil {
		return nil, err
	}
	res := &v1.HeatmapResponse{StepMs: h.Step.Milliseconds(), Min: float64(h.Min), Max: float64(h.Max), Bounds: h.Bounds, Warnings: h.Warnings}
	for _, c := range h.Columns {
		col := &v1.HeatmapColumn{TMs: float64(c.Time.UnixMilli()), Counts: make([]uint32, len(c.Counts))}
		for i, n := range c.Counts {
			col.Counts[i] = uint32(n)
		}
		res.Columns = append(res.Columns, col)
	}
	return connect.NewResponse(res), nil
}

func (q *querier) Trend(ctx context.Context, req *connect.Request[v1.TrendRequest]) (*connect.Response[v1.TrendResponse], error) {
	query, err := q.unfiltered(ctx, req.Msg.GetSelection(), false)
	if err != nil {
		return nil, err
	}
	if err := checkGroupBy(req.Msg.GetGroupBy()); err != nil {
		return nil, err
	}
	step, err := q.step(ctx, query.Query, req.Msg.GetStepMs())
	if err != nil {
		return nil, err
	}
	if req.Msg.GetStepMs() == 0 {
		step = max(step, time.Minute) // what there is of functions is by the minute
	}
	if rename := query.scope.Rename; rename != nil {
		for _, f := range req.Msg.GetFunctions() {
			if _, hidden := rename(f); hidden { // by its own name it is not there for this asker
				return nil, connect.NewError(connect.CodePermissionDenied, errors.New("a function that is asked for is shown to you under another name only, which has no trend"))
			}
		}
	}
	trend, err := q.opt.Store.Trend(ctx, store.TrendQuery{Query: query.Query, Functions: req.Msg.GetFunctions(), Step: step, GroupBy: req.Msg.GetGroupBy()})
	if err != nil {
		return nil, err
	}
	res := &v1.TrendResponse{StepMs: trend.Step.Milliseconds(), Warnings: trend.Warnings}
	for _, l := range trend.Lines {
		n := len(l.Points)
		line := &v1.TrendLine{Function: l.Function, Labels: wireLabels(l.Labels), TMs: make([]float64, n), Self: make([]float64, n), Cumulative: make([]float64, n), Samples: make([]uint32, n)}
		for i, p := range l.Points {
			line.TMs[i], line.Self[i], line.Cumulative[i], line.Samples[i] = float64(p.Time.UnixMilli()), float64(p.Self), float64(p.Cumulative), uint32(min(p.Samples, math.MaxUint32))
		}
		res.Lines = append(res.Lines, line)
	}
	return connect.NewResponse(res), nil
}

// step is the width of a point that was asked for, or one that a person can
// read off an axis, for about 120 points.
func (q *querier) step(ctx context.Context, query store.Query, ms int64) (time.Duration, error) {
	if ms != 0 && (ms < 1000 || ms > lastMs) {
		return 0, invalid("step_ms: %d is not at least 1000", ms)
	}
	from, to := query.From, query.To
	if from.IsZero() || to.IsZero() {
		services, err := q.opt.Store.Services(ctx, query)
		if err != nil {
			return 0, err
		}
		for i, s := range services {
			if query.From.IsZero() && (i == 0 || s.First.Before(from)) {
				from = s.First
			}
			if query.To.IsZero() && s.Last.After(to) {
				to = s.Last
			}
		}
	}
	length := max(to.Sub(from), 0) // an open end where there is nothing: any step will do
	if ms != 0 {
		step := time.Duration(ms) * time.Millisecond
		if length/step > maxPoints {
			return 0, invalid("step_ms: a step of %v makes more than %d points of %v", step, maxPoints, length.Round(time.Second))
		}
		return step, nil
	}
	for _, step := range []time.Duration{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 3 * 3600, 6 * 3600, 12 * 3600} {
		if step *= time.Second; length <= step*wantPoints {
			return step, nil
		}
	}
	const day = 24 * time.Hour
	return (length/wantPoints/day + 1) * day, nil
}

func (q *querier) FlameGraph(ctx context.Context, req *connect.Request[v1.FlameGraphRequest]) (*connect.Response[v1.FlameGraphResponse], error) {
	sel, err := q.selectProfile(ctx, req.Msg.GetSelection(), false)
	if err != nil {
		return nil, err
	}
	tree := profile.NewLimitedTree(sel.Profile, 0, nodes(req.Msg.GetMaxNodes()))
	return connect.NewResponse(&v1.FlameGraphResponse{Meta: sel.meta(), Tree: treeOf(tree)}), nil
}

func nodes(asked uint32) int {
	if asked == 0 {
		return defaultNodes
	}
	return int(min(asked, maxNodes))
}

// treeOf is t in the wire's columns. Names that no node has any more are left out.
func treeOf(t *profile.Tree) *v1.Tree {
	n := t.Len()
	out := &v1.Tree{Name: make([]uint32, n), Level: t.Levels(), Self: make([]float64, n), Total: make([]float64, n), LeftOut: uint32(t.LeftOut)}
	index := make([]uint32, len(t.Names)) // 1 + its place in out.Names
	for i, name := range t.Name {
		if index[name] == 0 {
			out.Names = append(out.Names, t.Names[name])
			index[name] = uint32(len(out.Names))
		}
		out.Name[i] = index[name] - 1
		out.Self[i], out.Total[i] = float64(t.Self[i]), float64(t.Total[i])
	}
	if t.Other >= 0 && index[t.Other] > 0 {
		out.Other = index[t.Other] - 1
	}
	return out
}

func rowsOf(rows []profile.TopRow) []*v1.TopRow {
	flat := make([]v1.TopRow, len(rows)) // one allocation, not one a row
	out := make([]*v1.TopRow, len(rows))
	for i, r := range rows {
		t := &flat[i]
		t.Name, t.File = r.Name, r.File
		t.Self, t.Total, t.BaseSelf, t.BaseTotal = float64(r.Self), float64(r.Total), float64(r.BaseSelf), float64(r.BaseTotal)
		out[i] = t
	}
	return out
}

func (q *querier) Top(ctx context.Context, req *connect.Request[v1.TopRequest]) (*connect.Response[v1.TopResponse], error) {
	sel, err := q.selectProfile(ctx, req.Msg.GetSelection(), false)
	if err != nil {
		return nil, err
	}
	rows := profile.Top(sel.Profile, 0)
	if limit := int(req.Msg.GetLimit()); limit > 0 && limit < len(rows) {
		rows = rows[:limit]
	}
	return connect.NewResponse(&v1.TopResponse{Meta: sel.meta(), Rows: rowsOf(rows)}), nil
}

func (q *querier) Sandwich(ctx context.Context, req *connect.Request[v1.SandwichRequest]) (*connect.Response[v1.SandwichResponse], error) {
	if req.Msg.GetFunction() == "" {
		return nil, invalid("function is empty: name the function, as Top lists it")
	}
	sel, err := q.selectProfile(ctx, req.Msg.GetSelection(), false)
	if err != nil {
		return nil, err
	}
	callers, callees := profile.Sandwich(sel.Profile, 0, req.Msg.GetFunction())
	limit := nodes(req.Msg.GetMaxNodes())
	return connect.NewResponse(&v1.SandwichResponse{Meta: sel.meta(), Callers: treeOf(callers.Limit(limit)), Callees: treeOf(callees.Limit(limit))}), nil
}

func (q *querier) Diff(ctx context.Context, req *connect.Request[v1.DiffRequest]) (*connect.Response[v1.DiffResponse], error) {
	base, head, err := q.selectBoth(ctx, req.Msg.GetBase(), req.Msg.GetHead(), false)
	if err != nil {
		return nil, err
	}
	diff := profile.NewDiffTree(profile.NewTree(base.Profile, 0), profile.NewTree(head.Profile, 0), req.Msg.GetNormalize())
	res := &v1.DiffResponse{Base: base.meta(), Head: head.meta(), Rows: rowsOf(diff.Top()), BaseFactor: diff.BaseFactor}
	diff = diff.Limit(nodes(req.Msg.GetMaxNodes()))
	res.Tree = treeOf(&diff.Tree)
	res.Tree.BaseSelf, res.Tree.BaseTotal = floats(diff.BaseSelf), floats(diff.BaseTotal)
	return connect.NewResponse(res), nil
}

func floats(v []int64) []float64 {
	f := make([]float64, len(v))
	for i, x := range v {
		f[i] = float64(x)
	}
	return f
}

func (q *querier) SampleLabels(ctx context.Context, req *connect.Request[v1.SampleLabelsRequest]) (*connect.Response[v1.SampleLabelsResponse], error) {
	sel, err := q.selectProfile(ctx, req.Msg.GetSelection(), true)
	if err != nil {
		return nil, err
	}
	res := &v1.SampleLabelsResponse{Meta: sel.meta()}
	for _, k := range sel.Profile.ByLabel(0) {
		key := &v1.SampleLabelKey{Key: k.Key}
		for _, v := range k.Values {
			key.Values = append(key.Values, &v1.SampleLabelValue{Value: v.Value, Total: float64(v.Total)})
		}
		res.Keys = append(res.Keys, key)
	}
	return connect.NewResponse(res), nil
}
