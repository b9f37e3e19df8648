package web

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	v1 "github.com/quantra-l/quantra/wire/quantra/v1"
)

func invalid(format string, args ...any) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(format, args...))
}

// lastMs is the last millisecond that a time in nanoseconds can have, in the year 2262.
const lastMs = 9_223_372_036_854

// query is a question to the store that the asker may ask: there is no other way to one.
type query struct {
	store.Query
	scope Scope
}

// allow has Options.Allow decide about a question, and leaves out of its answer what the asker may not see.
func (s *Server) allow(ctx context.Context, raw bool, q store.Query) (query, error) {
	if s.opt.Allow == nil {
		return query{Query: q}, nil
	}
	asked := Question{Raw: raw}
	for _, m := range q.Matchers {
		if m.Name == profile.LabelService && m.Op == store.MatchEqual && m.Value != "" {
			asked.Services = append(asked.Services, m.Value)
		}
	}
	scope, err := s.opt.Allow(ctx, asked)
	if err != nil {
		return query{}, err
	}
	if scope.Services != nil {
		var either []string
		for _, name := range scope.Services {
			either = append(either, regexp.QuoteMeta(name))
		}
		q.Matchers = append(slices.Clone(q.Matchers), store.Matcher{Name: profile.LabelService, Op: store.MatchRegexp, Value: strings.Join(either, "|")})
	}
	return query{q, scope}, nil
}

// aggregateQuery is the query of a question about what there is.
func (s *Server) aggregateQuery(ctx context.Context, matchers string, r *v1.TimeRange) (query, error) {
	q, err := queryOf(ctx, matchers, r)
	if err != nil {
		return query{}, err
	}
	return s.allow(ctx, false, q)
}

// queryOf is what all questions have: tenant, matchers and range. It is to be allowed.
func queryOf(ctx context.Context, matchers string, r *v1.TimeRange) (store.Query, error) {
	q := store.Query{Tenant: tenantOf(ctx)}
	var err error
	if q.Matchers, err = store.ParseMatchers(matchers); err != nil {
		return q, invalid("matchers: %w", err)
	}
	from, to := r.GetFromMs(), r.GetToMs()
	if from < 0 || to < 0 || from > lastMs || to > lastMs {
		return q, invalid("range: from_ms %d and to_ms %d must be Unix milliseconds, or 0 for an open end", from, to)
	}
	if from != 0 {
		q.From = time.UnixMilli(from)
	}
	if to != 0 {
		q.To = time.UnixMilli(to)
	}
	if from != 0 && to != 0 && from >= to {
		return q, invalid("range: from_ms %d is not before to_ms %d", from, to)
	}
	return q, nil
}

// selectionQuery is the query of a selection, whose profile type must be there. What picks single profiles or samples by their labels is
// raw, whatever is asked of them.
func (s *Server) selectionQuery(ctx context.Context, sel *v1.Selection, raw bool) (query, error) {
	q, err := readSelection(ctx, sel)
	if err != nil {
		return query{}, err
	}
	raw = raw || len(q.IDs) > 0 || len(q.SampleMatchers) > 0 || sel.GetFilter().GetTagFocus() != "" || sel.GetFilter().GetTagIgnore() != ""
	return s.allow(ctx, raw, q)
}

func readSelection(ctx context.Context, sel *v1.Selection) (store.Query, error) {
	if sel.GetProfileType() == "" {
		return store.Query{}, invalid("profile_type is empty: ask ProfileTypes what there is")
	}
	q, err := queryOf(ctx, sel.GetMatchers(), sel.GetRange())
	if err != nil {
		return q, err
	}
	if q.Type, err = profile.ParseType(sel.GetProfileType()); err != nil {
		return q, invalid("%w", err)
	}
	if q.SampleMatchers, err = store.ParseMatchers(sel.GetSampleMatchers()); err != nil {
		return q, invalid("sample_matchers: %w", err)
	}
	if n := len(sel.GetProfileIds()); n > maxIDs {
		return q, invalid("profile_ids: %d ids, at most %d can be asked at once", n, maxIDs)
	}
	for _, text := range sel.GetProfileIds() {
		id, err := store.ParseProfileID(text)
		if err != nil {
			return q, invalid("profile_ids: %w", err)
		}
		q.IDs = append(q.IDs, id)
	}
	return q, nil
}

// unfiltered is the query of a selection whose filter must be empty, as the answer is not made from stacks.
func (s *Server) unfiltered(ctx context.Context, sel *v1.Selection, raw bool) (query, error) {
	f := sel.GetFilter()
	if f.GetFocus()+f.GetIgnore()+f.GetHide()+f.GetShow()+f.GetShowFrom()+f.GetTagFocus()+f.GetTagIgnore() != "" {
		return query{}, invalid("selection.filter: values over time are of whole profiles and cannot be filtered; leave it empty")
	}
	return s.selectionQuery(ctx, sel, raw)
}

func wireLabels(ls profile.Labels) (out []*v1.Label) {
	for _, l := range ls {
		out = append(out, &v1.Label{Name: l.Name, Value: l.Value})
	}
	return out
}

// selected is the answer to a selection, filtered.
type selected struct {
	*store.Result
	typ profile.Type
}

// selectProfile asks the store and applies the filter.
func (s *Server) selectProfile(ctx context.Context, sel *v1.Selection, raw bool) (*selected, error) {
	q, err := s.selectionQuery(ctx, sel, raw)
	if err != nil {
		return nil, err
	}
	f := sel.GetFilter()
	filter := profile.Filter{Focus: f.GetFocus(), Ignore: f.GetIgnore(), Hide: f.GetHide(), Show: f.GetShow(),
		ShowFrom: f.GetShowFrom(), TagFocus: f.GetTagFocus(), TagIgnore: f.GetTagIgnore()}
	res, err := s.opt.Store.Select(ctx, q.Query)
	if err != nil {
		return nil, err
	}
	if len(res.Profile.SampleTypes) != 1 {
		return nil, fmt.Errorf("store answered %v with %d sample types", q.Type, len(res.Profile.SampleTypes))
	}
	shown := res.Profile
	if q.scope.Rename != nil { // before the filter: whether it matches must not tell a name that is hidden
		shown = shown.Rename(q.scope.Rename)
	}
	p, warnings, err := shown.Filter(filter)
	if err != nil {
		return nil, invalid("filter: %w", err)
	}
	out := *res // the store's answer may be shared: it is not ours to change
	out.Profile = p
	out.Warnings = append(out.Warnings[:len(out.Warnings):len(out.Warnings)], warnings...)
	if err := ctx.Err(); err != nil { // what follows does not look
		return nil, err
	}
	return &selected{&out, q.Type}, nil
}

// selectBoth asks for two selections at the same time.
func (s *Server) selectBoth(ctx context.Context, base, head *v1.Selection, raw bool) (b, h *selected, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		var err error
		if b, err = s.selectProfile(ctx, base, raw); err != nil {
			cancel()
		}
		done <- err
	}()
	h, herr := s.selectProfile(ctx, head, raw)
	if herr != nil {
		cancel()
	}
	berr := <-done
	// The one that failed by itself is the one to tell, not the one it cancelled.
	switch {
	case berr != nil && (herr == nil || errors.Is(herr, context.Canceled)):
		return nil, nil, within("base", berr)
	case herr != nil:
		return nil, nil, within("head", herr)
	}
	if b.typ.Sample.Unit != h.typ.Sample.Unit {
		return nil, nil, invalid("base is in %s and head in %s: they cannot be compared", b.typ.Sample.Unit, h.typ.Sample.Unit)
	}
	return b, h, nil
}

// within says which side an error is of, and keeps its code.
func within(side string, err error) error {
	var c *connect.Error
	if errors.As(err, &c) {
		return connect.NewError(c.Code(), fmt.Errorf("%s: %s", side, c.Message()))
	}
	return fmt.Errorf("%s: %w", side, err)
}

// meta is what an answer says about itself.
func (s *selected) meta() *v1.Meta {
	m := &v1.Meta{
		ProfileType: s.typ.String(), Unit: s.typ.Sample.Unit, Total: float64(s.Profile.Total(0)),
		Profiles: uint32(s.Profiles), Series: uint32(s.Series), Samples: uint32(s.Profile.NumSamples()),
		Warnings: s.Warnings,
	}
	if !s.From.IsZero() && !s.To.IsZero() {
		m.Range = &v1.TimeRange{FromMs: s.From.UnixMilli(), ToMs: s.To.UnixMilli()}
	}
	return m
}
