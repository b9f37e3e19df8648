package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/quantra-l/quantra/optimize/pgo"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	quantrav1 "github.com/quantra-l/quantra/wire/quantra/v1"
	"github.com/quantra-l/quantra/wire/quantra/v1/quantrav1connect"
)

// labelRegion is the label that the agent sends as an instance's place.
const labelRegion = "region"

// pgoOfServer asks which instances there were when, and then for what each of the chosen did.
func (a *app) pgoOfServer(ctx context.Context, o *pgoOptions) (*pgo.Result, error) {
	c := o.q.client()
	sel, err := o.selection(ctx, c)
	if err != nil {
		return nil, err
	}
	t, err := profile.ParseType(sel.ProfileType)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.q.server, err)
	}
	cells, err := a.pgoCells(ctx, o, c, sel, t)
	if err != nil {
		return nil, err
	}
	plan, err := pgo.NewPlan(cells, pgo.PlanOptions{Version: o.version, AllVersions: o.allVersions, Cells: cmp.Or(o.cells, -1)})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.q.service, err)
	}
	for _, w := range plan.Warnings {
		a.warn(w)
	}
	m := pgo.NewMerger(plan.Version)
	for _, cell := range plan.Cells {
		p, err := o.cellProfile(ctx, sel, &cell)
		if err != nil {
			return nil, err
		}
		if p.NumSamples() == 0 {
			continue // what the server summed has gone since, by its retention
		}
		if err := m.Add(cell, p); err != nil {
			return nil, err
		}
	}
	return m.Result(o.most())
}

// selection is the service's CPU profiles in the range: processor time, or where there is none the samples counted.
func (o *pgoOptions) selection(ctx context.Context, c quantrav1connect.QuerierServiceClient) (*quantrav1.Selection, error) {
	matchers, err := o.q.selector()
	if err != nil {
		return nil, err
	}
	r, err := o.q.timeRange(time.Now())
	if err != nil {
		return nil, err
	}
	resp, err := c.ProfileTypes(ctx, connect.NewRequest(&quantrav1.ProfileTypesRequest{Matchers: matchers, Range: r}))
	if err != nil {
		return nil, o.q.serverError(err)
	}
	if len(resp.Msg.ProfileTypes) == 0 {
		return nil, undecidedf("%w", errNoProfiles)
	}
	typ, err := chooseType("cpu", resp.Msg.ProfileTypes)
	if err != nil {
		if typ, err = chooseType("process_cpu:samples", resp.Msg.ProfileTypes); err != nil {
			return nil, fmt.Errorf("%w; the compiler reads CPU profiles", err)
		}
	}
	return &quantrav1.Selection{ProfileType: typ, Matchers: matchers, Range: r}, nil
}

func (a *app) pgoCells(ctx context.Context, o *pgoOptions, c quantrav1connect.QuerierServiceClient, sel *quantrav1.Selection, t profile.Type) ([]pgo.Cell, error) {
	if err := o.bound(ctx, c, sel); err != nil {
		return nil, err
	}
	to := time.Now()
	if sel.Range.ToMs != 0 {
		to = time.UnixMilli(sel.Range.ToMs)
	}
	step := pgo.Step(to.Sub(time.UnixMilli(sel.Range.FromMs)))
	resp, err := c.Series(ctx, connect.NewRequest(&quantrav1.SeriesRequest{
		Selection: sel, StepMs: step.Milliseconds(), GroupBy: []string{profile.LabelInstance, profile.LabelVersion, labelRegion},
	}))
	if err != nil {
		return nil, o.q.serverError(err)
	}
	for _, w := range resp.Msg.Warnings {
		a.warn(w)
	}
	// How many samples a value stands for is known when its profile is read; Go's 100 Hz will do to choose by.
	perSample := 1.0
	if t.Sample.Unit == "nanoseconds" {
		perSample = 1e7
	}
	var cells []pgo.Cell
	for _, l := range resp.Msg.Lines {
		labels := labelsOf(l.Labels)
		for i := range min(len(l.TMs), len(l.Value)) {
			from := time.UnixMilli(int64(l.TMs[i])).UTC()
			cells = append(cells, pgo.Cell{
				Instance: labels.Get(profile.LabelInstance), Version: labels.Get(profile.LabelVersion), Zone: labels.Get(labelRegion),
				From: from, To: from.Add(time.Duration(resp.Msg.StepMs) * time.Millisecond), Samples: l.Value[i] / perSample,
			})
		}
	}
	return cells, nil
}

// bound gives a range without a beginning that of what there is.
func (o *pgoOptions) bound(ctx context.Context, c quantrav1connect.QuerierServiceClient, sel *quantrav1.Selection) error {
	if sel.Range.FromMs != 0 {
		return nil
	}
	resp, err := c.Services(ctx, connect.NewRequest(&quantrav1.ServicesRequest{}))
	if err != nil {
		return o.q.serverError(err)
	}
	for _, s := range resp.Msg.Services {
		if s.Name == o.q.service {
			sel.Range.FromMs = s.FirstMs
			return nil
		}
	}
	return undecidedf("%w", errNoProfiles)
}

// cellProfile is the sum of what one instance did in one stretch of time.
func (o *pgoOptions) cellProfile(ctx context.Context, sel *quantrav1.Selection, cell *pgo.Cell) (*profile.Profile, error) {
	ms, err := store.ParseMatchers(sel.Matchers)
	if err != nil {
		return nil, fmt.Errorf("matchers of our own: %w", err)
	}
	for _, l := range []profile.Label{{Name: profile.LabelInstance, Value: cell.Instance}, {Name: profile.LabelVersion, Value: cell.Version}, {Name: labelRegion, Value: cell.Zone}} {
		ms = append(ms, store.Matcher{Name: l.Name, Op: store.MatchEqual, Value: l.Value})
	}
	r := &quantrav1.TimeRange{FromMs: max(cell.From.UnixMilli(), sel.Range.FromMs), ToMs: cell.To.UnixMilli()}
	if sel.Range.ToMs != 0 {
		r.ToMs = min(r.ToMs, sel.Range.ToMs)
	}
	body, err := o.q.export(ctx, "pprof", &quantrav1.Selection{ProfileType: sel.ProfileType, Matchers: store.FormatMatchers(ms), Range: r})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	p, _, err := profile.Read(body, profile.Limits{})
	if err != nil {
		return nil, fmt.Errorf("%s: the profile of %s: %w", o.q.server, cmp.Or(cell.Instance, "an instance without a name"), err)
	}
	return p, nil
}
