package web

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	v1 "github.com/quantra-l/quantra/wire/quantra/v1"
	querierv1 "github.com/quantra-l/quantra/wire/querier/v1"
)

// grafana is querier.v1.QuerierService: what Grafana's Pyroscope data source and its Profiles Drilldown ask. It is our own API in other
// words (docs/grafana.md has the table), so the same limits, turns and decisions hold.
type grafana struct{ *querier }

// maxSelectors bounds the selectors of one question, of which each is asked.
const maxSelectors = 16

// typeLabels are the labels by which Pyroscope tells the parts of a profile type; here they are one label.
var typeLabels = []string{"__name__", "__type__", "__unit__", "__period_type__", "__period_unit__"}

func partsOf(t profile.Type) []string {
	return []string{t.Name, t.Sample.Type, t.Sample.Unit, t.Period.Type, t.Period.Unit}
}

// selectors are the matchers of a question, of which one must match: none is everything.
func selectors(texts []string) ([]string, error) {
	if len(texts) > maxSelectors {
		return nil, invalid("matchers: %d selectors, at most %d can be asked at once", len(texts), maxSelectors)
	}
	var out []string
	for _, text := range texts {
		s, err := selector(text)
		if err != nil {
			return nil, err
		}
		if s == "{}" { // everything, so the others add nothing
			return []string{""}, nil
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		out = []string{""}
	}
	return out, nil
}

// selector is a Pyroscope selector in our words: conditions on a part of the profile type become one on the type.
func selector(text string) (string, error) {
	ms, err := store.ParseMatchers(text)
	if err != nil {
		return "", invalid("label_selector: %w", err)
	}
	for i, m := range ms {
		part := slices.Index(typeLabels, m.Name)
		if part < 0 {
			continue
		}
		value := m.Value
		if m.Op == store.MatchEqual || m.Op == store.MatchNotEqual {
			value = regexp.QuoteMeta(value)
		}
		parts := slices.Repeat([]string{"[^:]*"}, len(typeLabels))
		parts[part] = "(?:" + value + ")"
		ms[i] = store.Matcher{Name: profile.LabelType, Op: store.MatchRegexp, Value: strings.Join(parts, ":")}
		if m.Op == store.MatchNotEqual || m.Op == store.MatchNotRegexp {
			ms[i].Op = store.MatchNotRegexp
		}
	}
	return store.FormatMatchers(ms), nil
}

// eachSelector calls ask with the query of each selector.
func (g *grafana) eachSelector(ctx context.Context, texts []string, from, to int64, ask func(store.Query) error) error {
	all, err := selectors(texts)
	if err != nil {
		return err
	}
	for _, text := range all {
		q, err := g.aggregateQuery(ctx, text, &v1.TimeRange{FromMs: from, ToMs: to})
		if err != nil {
			return err
		}
		if err := ask(q.Query); err != nil {
			return err
		}
	}
	return nil
}

func (g *grafana) ProfileTypes(ctx context.Context, req *connect.Request[querierv1.ProfileTypesRequest]) (*connect.Response[querierv1.ProfileTypesResponse], error) {
	res := &querierv1.ProfileTypesResponse{}
	err := g.eachSelector(ctx, nil, req.Msg.GetStart(), req.Msg.GetEnd(), func(q store.Query) error {
		types, err := g.opt.Store.ProfileTypes(ctx, q)
		for _, t := range types {
			res.ProfileTypes = append(res.ProfileTypes, &querierv1.ProfileType{ID: t.String(), Name: t.Name,
				SampleType: t.Sample.Type, SampleUnit: t.Sample.Unit, PeriodType: t.Period.Type, PeriodUnit: t.Period.Unit})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

func (g *grafana) LabelNames(ctx context.Context, req *connect.Request[querierv1.LabelNamesRequest]) (*connect.Response[querierv1.LabelNamesResponse], error) {
	found := map[string]bool{}
	err := g.eachSelector(ctx, req.Msg.GetMatchers(), req.Msg.GetStart(), req.Msg.GetEnd(), func(q store.Query) error {
		names, err := g.opt.Store.LabelNames(ctx, q)
		for _, n := range names {
			found[n] = true
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if found[profile.LabelType] {
		for _, n := range typeLabels {
			found[n] = true
		}
	}
	return connect.NewResponse(&querierv1.LabelNamesResponse{Names: slices.Sorted(maps.Keys(found))}), nil
}

func (g *grafana) LabelValues(ctx context.Context, req *connect.Request[querierv1.LabelValuesRequest]) (*connect.Response[querierv1.LabelValuesResponse], error) {
	name := req.Msg.GetName()
	if err := profile.CheckLabelName(name); err != nil {
		return nil, invalid("name: %w", err)
	}
	part := slices.Index(typeLabels, name)
	found := map[string]bool{}
	err := g.eachSelector(ctx, req.Msg.GetMatchers(), req.Msg.GetStart(), req.Msg.GetEnd(), func(q store.Query) error {
		if part < 0 {
			values, err := g.opt.Store.LabelValues(ctx, name, q)
			for _, v := range values {
				found[v] = true
			}
			return err
		}
		types, err := g.opt.Store.ProfileTypes(ctx, q)
		for _, t := range types {
			found[partsOf(t)[part]] = true
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&querierv1.LabelValuesResponse{Names: slices.Sorted(maps.Keys(found))}), nil
}

// Series is each distinct set of the labels that are asked for. Drilldown's list of services is made of it.
func (g *grafana) Series(ctx context.Context, req *connect.Request[querierv1.SeriesRequest]) (*connect.Response[querierv1.SeriesResponse], error) {
	want := req.Msg.GetLabelNames()
	found := map[string]*querierv1.Labels{}
	err := g.eachSelector(ctx, req.Msg.GetMatchers(), req.Msg.GetStart(), req.Msg.GetEnd(), func(q store.Query) error {
		known, err := g.opt.Store.LabelSets(ctx, q)
		for _, k := range known {
			ls := slices.Clone(k.Labels)
			ls = append(ls, profile.Label{Name: profile.LabelType, Value: k.Type.String()})
			for i, v := range partsOf(k.Type) {
				ls = append(ls, profile.Label{Name: typeLabels[i], Value: v})
			}
			if len(want) > 0 {
				ls = slices.DeleteFunc(ls, func(l profile.Label) bool { return !slices.Contains(want, l.Name) })
			}
			if len(ls) == 0 {
				continue
			}
			slices.SortFunc(ls, func(a, b profile.Label) int { return strings.Compare(a.Name, b.Name) })
			found[ls.String()] = &querierv1.Labels{Labels: pairsOf(ls)}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	res := &querierv1.SeriesResponse{}
	for _, id := range slices.Sorted(maps.Keys(found)) {
		res.LabelsSet = append(res.LabelsSet, found[id])
	}
	return connect.NewResponse(res), nil
}

func pairsOf(ls profile.Labels) (out []*querierv1.LabelPair) {
	for _, l := range ls {
		out = append(out, &querierv1.LabelPair{Name: l.Name, Value: l.Value})
	}
	return out
}

// stacksRequest is what questions for stacks have in common.
type stacksRequest interface {
	GetProfileTypeID() string
	GetLabelSelector() string
	GetStart() int64
	GetEnd() int64
}

// selection is a question for stacks in our words. spans and traces pick samples, ids single profiles.
func selection(r stacksRequest, ids, spans, traces []string) (*v1.Selection, error) {
	matchers, err := selector(r.GetLabelSelector())
	if err != nil {
		return nil, err
	}
	var samples []store.Matcher
	for _, by := range []struct {
		label  string
		values []string
		digits int
	}{{"span_id", spans, 16}, {"trace_id", traces, 32}} {
		if len(by.values) == 0 {
			continue
		}
		if len(by.values) > maxIDs {
			return nil, invalid("%d values of %s, at most %d can be asked at once", len(by.values), by.label, maxIDs)
		}
		for _, v := range by.values {
			if len(v) != by.digits || strings.Trim(strings.ToLower(v), "0123456789abcdef") != "" {
				return nil, invalid("%s %.40q must be %d hexadecimal digits", by.label, v, by.digits)
			}
		}
		samples = append(samples, store.Matcher{Name: by.label, Op: store.MatchRegexp, Value: strings.ToLower(strings.Join(by.values, "|"))})
	}
	return &v1.Selection{ProfileType: r.GetProfileTypeID(), Matchers: matchers, SampleMatchers: store.FormatMatchers(samples),
		Range: &v1.TimeRange{FromMs: r.GetStart(), ToMs: r.GetEnd()}, ProfileIds: ids}, nil
}

func (g *grafana) SelectMergeStacktraces(ctx context.Context, req *connect.Request[querierv1.SelectMergeStacktracesRequest]) (*connect.Response[querierv1.SelectMergeStacktracesResponse], error) {
	m := req.Msg
	p, err := g.stacktraces(ctx, m)
	if err != nil {
		return nil, err
	}
	res := &querierv1.SelectMergeStacktracesResponse{}
	limit := limitOf(m.MaxNodes)
	switch m.GetFormat() {
	case querierv1.ProfileFormat_PROFILE_FORMAT_UNSPECIFIED, querierv1.ProfileFormat_PROFILE_FORMAT_FLAMEGRAPH:
		res.Flamegraph = flameGraphOf(profile.NewLimitedTree(p, 0, limit))
	case querierv1.ProfileFormat_PROFILE_FORMAT_TREE:
		res.Tree = appendTree(nil, profile.NewLimitedTree(p, 0, limit))
	case querierv1.ProfileFormat_PROFILE_FORMAT_DOT:
		res.Dot = dotOf(profile.NewTree(p, 0), m.GetMaxNodes())
	case querierv1.ProfileFormat_PROFILE_FORMAT_PPROF:
		pb, err := wireProfile(p)
		if err != nil {
			return nil, err
		}
		res.Pprof = &querierv1.PprofProfile{Profile: pb}
	default:
		return nil, invalid("format %d is not known here", m.GetFormat())
	}
	return connect.NewResponse(res), nil
}

// stacktraces is the sum that a question for stacks names, without labels of samples: those are for who may see single profiles.
func (g *grafana) stacktraces(ctx context.Context, m *querierv1.SelectMergeStacktracesRequest) (*profile.Profile, error) {
	sel, err := selection(m, m.GetProfileIdSelector(), m.GetSpanSelector(), m.GetTraceIdSelector())
	if err != nil {
		return nil, err
	}
	return g.sum(ctx, sel, m.GetStackTraceSelector())
}

func (g *grafana) sum(ctx context.Context, sel *v1.Selection, stacks *querierv1.StackTraceSelector) (*profile.Profile, error) {
	if stacks.GetGoPgo() != nil {
		return nil, connect.NewError(connect.CodeUnimplemented, errors.New("go_pgo: profiles for the Go compiler are made by `quantraband pgo`"))
	}
	s, err := g.selectProfile(ctx, sel, false)
	if err != nil {
		return nil, err
	}
	return underCallSite(withoutLabels(s.Profile), stacks.GetCallSite()), nil
}

func withoutLabels(p *profile.Profile) *profile.Profile {
	q := *p
	q.LabelSets = make([][]profile.SampleLabel, 1)
	q.SampleLabels = make([]uint32, len(p.SampleLabels))
	return q.Compact()
}

// limitOf is how many nodes an answer may have; not given, 0 and less are all the default.
func limitOf(asked *int64) int {
	if asked == nil || *asked <= 0 {
		return defaultNodes
	}
	return int(min(*asked, maxNodes))
}

func (g *grafana) SelectMergeSpanProfile(ctx context.Context, req *connect.Request[querierv1.SelectMergeSpanProfileRequest]) (*connect.Response[querierv1.SelectMergeSpanProfileResponse], error) {
	sel, err := selection(req.Msg, nil, req.Msg.GetSpanSelector(), nil)
	if err != nil {
		return nil, err
	}
	p, err := g.sum(ctx, sel, nil)
	if err != nil {
		return nil, err
	}
	t := profile.NewLimitedTree(p, 0, limitOf(req.Msg.MaxNodes))
	res := &querierv1.SelectMergeSpanProfileResponse{}
	if req.Msg.GetFormat() == querierv1.ProfileFormat_PROFILE_FORMAT_TREE {
		res.Tree = appendTree(nil, t)
	} else {
		res.Flamegraph = flameGraphOf(t)
	}
	return connect.NewResponse(res), nil
}

func (g *grafana) SelectMergeProfile(ctx context.Context, req *connect.Request[querierv1.SelectMergeProfileRequest]) (*connect.Response[querierv1.Profile], error) {
	m := req.Msg
	sel, err := selection(m, m.GetProfileIdSelector(), nil, m.GetTraceIdSelector())
	if err != nil {
		return nil, err
	}
	p, err := g.sum(ctx, sel, m.GetStackTraceSelector())
	if err != nil {
		return nil, err
	}
	pb, err := wireProfile(p)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(pb), nil
}

// wireProfile is p as a message: by way of its bytes, which are the message's.
func wireProfile(p *profile.Profile) (*querierv1.Profile, error) {
	pb := &querierv1.Profile{}
	if err := proto.Unmarshal(p.AppendPprof(nil), pb); err != nil {
		return nil, fmt.Errorf("pprof as querier.v1.Profile: %w", err)
	}
	return pb, nil
}

func (g *grafana) Diff(ctx context.Context, req *connect.Request[querierv1.DiffRequest]) (*connect.Response[querierv1.DiffResponse], error) {
	d, err := g.diff(ctx, req.Msg.GetLeft(), req.Msg.GetRight())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&querierv1.DiffResponse{Flamegraph: d}), nil
}

func (g *grafana) diff(ctx context.Context, left, right *querierv1.SelectMergeStacktracesRequest) (*querierv1.FlameGraphDiff, error) {
	var trees [2]*profile.Tree
	for i, side := range []*querierv1.SelectMergeStacktracesRequest{left, right} {
		p, err := g.stacktraces(ctx, side)
		if err != nil {
			return nil, within([]string{"left", "right"}[i], err)
		}
		trees[i] = profile.NewTree(p, 0)
	}
	d := profile.NewDiffTree(trees[0], trees[1], false)
	return flameGraphDiffOf(d.Limit(min(limitOf(left.MaxNodes), limitOf(right.MaxNodes)))), nil
}

func (g *grafana) GetProfileStats(ctx context.Context, _ *connect.Request[querierv1.GetProfileStatsRequest]) (*connect.Response[querierv1.GetProfileStatsResponse], error) {
	res := &querierv1.GetProfileStatsResponse{}
	err := g.eachSelector(ctx, nil, 0, 0, func(q store.Query) error {
		services, err := g.opt.Store.Services(ctx, q)
		for i, s := range services {
			first, last := s.First.UnixMilli(), s.Last.UnixMilli()
			if i == 0 {
				res.OldestProfileTime = first
			}
			res.DataIngested = true
			res.OldestProfileTime, res.NewestProfileTime = min(res.OldestProfileTime, first), max(res.NewestProfileTime, last)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// AnalyzeQuery says what a question would be about. Bytes are not known before it is asked, so they are 0.
func (g *grafana) AnalyzeQuery(ctx context.Context, req *connect.Request[querierv1.AnalyzeQueryRequest]) (*connect.Response[querierv1.AnalyzeQueryResponse], error) {
	typ, text, err := typedSelector(req.Msg.GetQuery())
	if err != nil {
		return nil, err
	}
	scope := &querierv1.QueryScope{ComponentType: "store", ComponentCount: 1}
	err = g.eachSelector(ctx, []string{text}, req.Msg.GetStart(), req.Msg.GetEnd(), func(q store.Query) error {
		q.Type = typ
		known, err := g.opt.Store.LabelSets(ctx, q)
		for _, k := range known {
			scope.SeriesCount++
			scope.ProfileCount += uint64(k.Profiles)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&querierv1.AnalyzeQueryResponse{QueryScopes: []*querierv1.QueryScope{scope},
		QueryImpact: &querierv1.QueryImpact{TotalQueriedSeries: scope.SeriesCount}}), nil
}

// typedSelector reads TYPE{LABELS}, or {LABELS} with the type among them; the type is zero where there is none.
func typedSelector(query string) (profile.Type, string, error) {
	name, rest, braced := strings.Cut(strings.TrimSpace(query), "{")
	if braced {
		rest = "{" + rest
	}
	if name = strings.TrimSpace(name); name == "" {
		ms, err := store.ParseMatchers(rest)
		if err != nil {
			return profile.Type{}, "", invalid("query: %w", err)
		}
		i := slices.IndexFunc(ms, func(m store.Matcher) bool {
			return m.Op == store.MatchEqual && (m.Name == profile.LabelType || m.Name == typeLabels[0] && strings.Count(m.Value, ":") == 4)
		})
		if i < 0 {
			return profile.Type{}, rest, nil
		}
		name = ms[i].Value
		rest = store.FormatMatchers(slices.Delete(ms, i, i+1))
	}
	t, err := profile.ParseType(name)
	if err != nil {
		return t, "", invalid("query: %w", err)
	}
	return t, rest, nil
}

// stepOf is a step in seconds as Grafana has it, in whole seconds.
func (g *grafana) stepOf(ctx context.Context, q store.Query, seconds float64) (time.Duration, error) {
	if !(seconds >= 0) || seconds > lastMs/1000 {
		return 0, invalid("step: %v is not a number of seconds", seconds)
	}
	if seconds > 0 {
		seconds = max(seconds, 1)
	}
	return g.step(ctx, q, 1000*int64(seconds))
}
