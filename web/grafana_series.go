package web

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	v1 "github.com/quantra-l/quantra/wire/quantra/v1"
	querierv1 "github.com/quantra-l/quantra/wire/querier/v1"
)

// Bounds of what a panel of Grafana's shows.
const (
	maxExemplars     = 100
	maxHeatmaps      = 50 // series of one heat map, of which each is a question of its own
	grafanaBuckets   = 20
	errNoSpanHeatmap = "heat maps of spans are not kept here: ask for individual profiles"
)

func (g *grafana) SelectSeries(ctx context.Context, req *connect.Request[querierv1.SelectSeriesRequest]) (*connect.Response[querierv1.SelectSeriesResponse], error) {
	m := req.Msg
	if m.GetStackTraceSelector().GetGoPgo() != nil || len(m.GetStackTraceSelector().GetCallSite()) > 0 {
		return nil, connect.NewError(connect.CodeUnimplemented, errors.New("stack_trace_selector: values over time are of whole profiles; leave it out"))
	}
	sel, err := selection(m, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	lines, step, err := g.series(ctx, sel, m.GetGroupBy(), m.GetStep())
	if err != nil {
		return nil, err
	}
	if n := m.GetLimit(); n > 0 && int64(len(lines)) > n {
		slices.SortStableFunc(lines, func(a, b store.SeriesLine) int { return cmp.Compare(totalOf(b), totalOf(a)) })
		lines = lines[:n]
	}
	res := &querierv1.SelectSeriesResponse{}
	average := m.GetAggregation() == querierv1.TimeSeriesAggregationType_TIME_SERIES_AGGREGATION_TYPE_AVERAGE
	for _, l := range lines {
		res.Series = append(res.Series, seriesOf(l, average))
	}
	if m.GetExemplarType() == querierv1.ExemplarType_EXEMPLAR_TYPE_INDIVIDUAL {
		err = g.exemplars(ctx, sel, func(i store.ProfileInfo, e *querierv1.Exemplar) {
			group := pairsOf(store.GroupLabels(i.Labels, i.Type.String(), sorted(m.GetGroupBy())))
			at := i.From.Truncate(step).UnixMilli()
			for _, s := range res.Series {
				if !slices.EqualFunc(s.Labels, group, samePair) {
					continue
				}
				if k := slices.IndexFunc(s.Points, func(p *querierv1.Point) bool { return p.Timestamp == at }); k >= 0 {
					s.Points[k].Exemplars = append(s.Points[k].Exemplars, e)
				}
			}
		})
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

func sorted(names []string) []string { return slices.Compact(slices.Sorted(slices.Values(names))) }

func samePair(a, b *querierv1.LabelPair) bool { return a.Name == b.Name && a.Value == b.Value }

// series asks the store for values over time.
func (g *grafana) series(ctx context.Context, sel *v1.Selection, groupBy []string, seconds float64) ([]store.SeriesLine, time.Duration, error) {
	if err := checkGroupBy(groupBy); err != nil {
		return nil, 0, err
	}
	q, err := g.selectionQuery(ctx, sel, false)
	if err != nil {
		return nil, 0, err
	}
	step, err := g.stepOf(ctx, q.Query, seconds)
	if err != nil {
		return nil, 0, err
	}
	res, err := g.opt.Store.Series(ctx, store.SeriesQuery{Query: q.Query, Step: step, GroupBy: groupBy})
	if err != nil {
		return nil, 0, err
	}
	return res.Lines, step, nil
}

func totalOf(l store.SeriesLine) (sum int64) {
	for _, p := range l.Points {
		sum += p.Value
	}
	return sum
}

func seriesOf(l store.SeriesLine, average bool) *querierv1.Series {
	s := &querierv1.Series{Labels: pairsOf(l.Labels)}
	for _, p := range l.Points {
		v := float64(p.Value)
		if average && p.Profiles > 0 {
			v /= float64(p.Profiles)
		}
		s.Points = append(s.Points, &querierv1.Point{Value: v, Timestamp: p.Time.UnixMilli()})
	}
	return s
}

// exemplars calls see for the largest single profiles of a selection, where the asker may see single profiles; to others a chart is a chart
// without them.
func (g *grafana) exemplars(ctx context.Context, sel *v1.Selection, see func(store.ProfileInfo, *querierv1.Exemplar)) error {
	q, err := g.selectionQuery(ctx, sel, true)
	var refused *Refusal
	if errors.As(err, &refused) && refused.Code == connect.CodePermissionDenied {
		return nil
	}
	if err != nil {
		return err
	}
	found, err := g.opt.Store.Profiles(ctx, q.Query, maxExemplars)
	if err != nil {
		return err
	}
	for _, i := range found.Profiles {
		see(i, &querierv1.Exemplar{Timestamp: i.From.UnixMilli(), ProfileId: store.FormatProfileID(i.ID), Value: i.Total, Labels: pairsOf(i.Labels)})
	}
	return nil
}

func (g *grafana) SelectHeatmap(ctx context.Context, req *connect.Request[querierv1.SelectHeatmapRequest]) (*connect.Response[querierv1.SelectHeatmapResponse], error) {
	m := req.Msg
	if m.GetQueryType() == querierv1.HeatmapQueryType_HEATMAP_QUERY_TYPE_SPAN || m.GetExemplarType() == querierv1.ExemplarType_EXEMPLAR_TYPE_SPAN {
		return nil, connect.NewError(connect.CodeUnimplemented, errors.New(errNoSpanHeatmap))
	}
	sel, err := selection(m, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	lines, step, err := g.series(ctx, sel, m.GetGroupBy(), m.GetStep()) // which groups there are, and how large
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(lines, func(a, b store.SeriesLine) int { return cmp.Compare(totalOf(b), totalOf(a)) })
	if n := m.GetLimit(); n > 0 && int64(len(lines)) > n {
		lines = lines[:n]
	}
	if len(lines) > maxHeatmaps {
		return nil, invalid("group_by: it makes %d heat maps, at most %d can be asked at once; give a limit", len(lines), maxHeatmaps)
	}
	res := &querierv1.SelectHeatmapResponse{}
	for _, l := range lines {
		s, err := g.heatmap(ctx, m, l.Labels, step)
		if err != nil {
			return nil, err
		}
		res.Series = append(res.Series, s)
	}
	return connect.NewResponse(res), nil
}

// heatmap is the heat map of one group.
func (g *grafana) heatmap(ctx context.Context, m *querierv1.SelectHeatmapRequest, group profile.Labels, step time.Duration) (*querierv1.HeatmapSeries, error) {
	sel, err := selection(m, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	ms, err := store.ParseMatchers(sel.Matchers)
	if err != nil {
		return nil, err
	}
	for _, name := range sorted(m.GetGroupBy()) {
		if name != profile.LabelType { // the selection's own
			ms = append(ms, store.Matcher{Name: name, Value: group.Get(name)})
		}
	}
	sel.Matchers = store.FormatMatchers(ms)
	q, err := g.selectionQuery(ctx, sel, false)
	if err != nil {
		return nil, err
	}
	h, err := g.opt.Store.Heatmap(ctx, store.HeatmapQuery{Query: q.Query, Step: step, Buckets: grafanaBuckets})
	if err != nil {
		return nil, err
	}
	s := &querierv1.HeatmapSeries{Labels: pairsOf(group)}
	slots := map[int64]*querierv1.HeatmapSlot{}
	for _, c := range h.Columns {
		slot := &querierv1.HeatmapSlot{Timestamp: c.Time.Add(step).UnixMilli(), YMin: h.Bounds[:len(h.Bounds)-1], Counts: make([]int32, len(c.Counts))}
		for i, n := range c.Counts {
			slot.Counts[i] = int32(n)
		}
		slots[slot.Timestamp] = slot
		s.Slots = append(s.Slots, slot)
	}
	if m.GetExemplarType() == querierv1.ExemplarType_EXEMPLAR_TYPE_INDIVIDUAL {
		err = g.exemplars(ctx, sel, func(i store.ProfileInfo, e *querierv1.Exemplar) {
			if slot := slots[i.From.Truncate(step).Add(step).UnixMilli()]; slot != nil {
				slot.Exemplars = append(slot.Exemplars, e)
			}
		})
	}
	return s, err
}

// underCallSite is p with the stacks that begin with the functions named, the outermost first; all where none is named.
func underCallSite(p *profile.Profile, site []*querierv1.StackTraceSelector_Location) *profile.Profile {
	if len(site) == 0 {
		return p
	}
	// How many of the names a stack begins with; off it: -1.
	matched := make([]int, p.Stacks.Len())
	for i := 1; i < len(matched); i++ {
		n := matched[p.Stacks.Parent[i]]
		lines := p.LinesOf(p.Stacks.Loc[i])
		for k := len(lines) - 1; k >= 0 && n >= 0 && n < len(site); k-- { // the last is the outermost
			if n++; p.Strings[p.Functions[lines[k].Function].Name] != site[n-1].GetName() {
				n = -1
			}
		}
		if len(lines) == 0 && n < len(site) {
			n = -1
		}
		matched[i] = n
	}
	q := *p
	q.Values = make([][]int64, len(p.Values))
	for t, col := range p.Values {
		q.Values[t] = slices.Clone(col)
		for i := range col {
			if matched[p.SampleStack[i]] < len(site) {
				q.Values[t][i] = 0
			}
		}
	}
	return q.Compact()
}
