package optimize

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/quantra-l/quantra/internal/jsonapi"
	"github.com/quantra-l/quantra/optimize/judge"
)

// Bounds of a chart.
const (
	maxSeriesPoints  = 300
	maxSeriesMembers = 100
)

// SeriesPoint is what a metric was from From to To, and how many requests or seconds that rests on.
type SeriesPoint struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Value  float64   `json:"value"`
	Weight float64   `json:"weight"`
}

// SeriesMember is an instance's part of a chart.
type SeriesMember struct {
	Name    string                   `json:"name"`
	Zone    string                   `json:"zone,omitempty"`
	Version string                   `json:"version,omitempty"`
	Treated bool                     `json:"treated"`
	Applied time.Time                `json:"applied,omitzero"` // when the change came into force there
	Series  map[string][]SeriesPoint `json:"series"`
}

// Series is what was measured of a stage: for charts.
type Series struct {
	Stage    int            `json:"stage"`
	From     time.Time      `json:"from"` // of the points: the baseline is before StageAt
	To       time.Time      `json:"to"`
	StageAt  time.Time      `json:"stage_at"`
	Periods  []judge.Period `json:"periods,omitempty"`
	Metrics  []judge.Metric `json:"metrics"`
	Members  []SeriesMember `json:"members"`
	Warnings []string       `json:"warnings,omitempty"`
}

func (r *Runner) askSeries(q *http.Request, tenant string) (any, error) {
	c, err := r.change(q.Context(), tenant, q.PathValue("id"))
	if err != nil {
		return nil, err
	}
	stage, err := jsonapi.Number("stage", q.URL.Query().Get("stage"), c.Stage, 0, max(0, len(c.Plan.Stages)-1))
	if err != nil {
		return nil, err
	}
	return r.series(q.Context(), &c, stage)
}

// series measures a stage of a change.
func (r *Runner) series(ctx context.Context, c *Change, stage int) (*Series, error) {
	if c.applied().IsZero() || stage > c.Stage {
		return nil, fmt.Errorf("optimize: %w: stage %d of change %s has not been in force", ErrState, stage, c.ID)
	}
	from, to, err := r.stageTimes(ctx, c, stage)
	if err != nil {
		return nil, err
	}
	s := &Series{Stage: stage, From: from.Add(-c.Plan.Baseline), To: to, StageAt: from, Metrics: c.Plan.Metrics, Members: []SeriesMember{}}
	if stage == c.Stage {
		s.Periods = c.Periods
	}
	units := map[string]*Unit{}
	question := Question{Tenant: c.Tenant, Service: c.Service, Whole: r.whole(c), From: s.From, To: s.To}
	for i := range c.Units {
		u := &c.Units[i]
		if u.Place || u.Applied.IsZero() && u.State != UnitControl {
			continue
		}
		if len(units) == maxSeriesMembers {
			s.Warnings = append(s.Warnings, fmt.Sprintf("Of %d nodes %d are shown.", len(c.Units), maxSeriesMembers))
			break
		}
		units[u.ID] = u
		question.Instances = append(question.Instances, u.ID)
	}
	slices.Sort(question.Instances)
	ctx, cancel := context.WithTimeout(ctx, r.o.LookTimeout)
	defer cancel()
	sight, err := r.o.Look(ctx, question)
	if err != nil {
		return nil, &jsonapi.Fault{Status: http.StatusServiceUnavailable, Code: "unavailable", Text: "it cannot be measured now: " + err.Error()}
	}
	for i := range sight.Members {
		m := &sight.Members[i]
		u := units[m.Name]
		if u == nil {
			continue
		}
		// A node that came later was still as before in this stage.
		sm := SeriesMember{Name: m.Name, Zone: u.Zone, Version: u.Version, Treated: !u.Applied.IsZero() && u.Stage <= stage, Series: map[string][]SeriesPoint{}}
		if sm.Treated {
			sm.Applied = u.Applied
		}
		for name, points := range m.Series {
			sm.Series[name] = thin(points, maxSeriesPoints)
		}
		s.Members = append(s.Members, sm)
	}
	return s, nil
}

// stageTimes are when a stage began to be in force and when it was over: of one that is over, by its history.
func (r *Runner) stageTimes(ctx context.Context, c *Change, stage int) (from, to time.Time, err error) {
	from, to = c.StageAt, r.o.Now().UTC()
	if !c.EndedAt.IsZero() {
		to = c.EndedAt
	}
	if stage == c.Stage {
		return from, to, nil
	}
	from = c.applied()
	for after := int64(0); ; {
		events, err := r.o.Journal.Events(ctx, c.Tenant, c.ID, after)
		if err != nil || len(events) == 0 {
			return from, to, err
		}
		for i := range events {
			e := &events[i]
			after = e.Seq
			switch {
			case e.Time.Before(c.StartedAt): // of an earlier try
			case e.What == WhatDwelling && e.Stage == stage:
				from = e.Time
			case e.What == WhatStage && e.Stage > stage:
				return from, e.Time, nil
			}
		}
	}
}

// thin is at most n points: neighbours are one, with the mean of their values by weight. What is no number is left out: JSON has none.
func thin(points []judge.Point, n int) []SeriesPoint {
	out := make([]SeriesPoint, 0, min(len(points), n))
	good := slices.DeleteFunc(slices.Clone(points), func(p judge.Point) bool {
		return !(p.Weight > 0) || math.IsInf(p.Weight, 0) || math.IsNaN(p.Value) || math.IsInf(p.Value, 0)
	})
	each := (len(good) + n - 1) / n
	for len(good) > 0 {
		k := min(each, len(good))
		p := SeriesPoint{From: good[0].From, To: good[k-1].To}
		for _, g := range good[:k] {
			p.Weight += g.Weight
		}
		for _, g := range good[:k] {
			p.Value += g.Value * (g.Weight / p.Weight)
		}
		out = append(out, p)
		good = good[k:]
	}
	return out
}
