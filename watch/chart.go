package watch

import (
	"context"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

const (
	chartPast  = time.Hour       // before a change began, or of what has no beginning
	chartStale = 5 * time.Minute // at most, until it is drawn anew
	// chartMeasured is how many parts a chart has whose every point is a look through profiles of its own.
	chartMeasured = 30
)

// draw gives a finding a chart, where what found it had none, or when that has become old: its figure over time, in the part of the service
// that the finding is about. Without an answer it stays as it is.
func (l *leader) draw(ctx context.Context, s *subject, f *analyze.Finding, at time.Time) error {
	if fresh(f.Chart, at) {
		return nil
	}
	from := at.Add(-chartPast)
	if !f.Since.IsZero() && f.Since.Add(-chartPast).Before(from) {
		from = f.Since.Add(-chartPast)
	}
	var more []store.Matcher
	if f.Head != nil {
		for name, value := range f.Head.Labels {
			more = append(more, equal(name, value))
		}
	}
	if analyze.Measures(f) != nil {
		return l.drawMeasured(ctx, s, f, from, at, more)
	}
	if f.Function == "" || f.Unit != "share" || f.Metric != "self" && f.Metric != "total" {
		return nil // what found it draws it
	}
	return l.drawShare(ctx, s, f, from, at, more)
}

// fresh says whether a chart will do: one that has just begun for less long than one of an hour, and none for less than two of its steps.
func fresh(chart []analyze.ChartPoint, at time.Time) bool {
	n := len(chart)
	if n < 2 {
		return false
	}
	last := chart[n-1].Time
	stale := min(chartStale, max(column, last.Sub(chart[0].Time)/10))
	return at.Sub(last) < max(stale, 2*last.Sub(chart[n-2].Time))
}

// drawMeasured measures the figure of a finding again, in each part of the time: profiles are summed and looked through for each, so the parts
// are few.
func (l *leader) drawMeasured(ctx context.Context, s *subject, f *analyze.Finding, from, at time.Time, more []store.Matcher) error {
	step := max(column, at.Sub(from)/chartMeasured).Truncate(column)
	var chart []analyze.ChartPoint
	for t := from.Truncate(step); t.Before(at); t = t.Add(step) {
		lo, hi := s.clean(t, minTime(t.Add(step), at))
		snap, err := l.snapshot(ctx, s, lo, hi, analyze.Measures(f), more...)
		if err != nil {
			return err
		}
		if snap == nil {
			continue
		}
		if e, ok := analyze.Measure(f, *snap); ok {
			chart = append(chart, analyze.ChartPoint{Time: t, Value: e.Value, Low: e.Low, High: e.High})
		}
	}
	f.Chart = chart
	return nil
}

// drawShare draws a function's share of its type.
func (l *leader) drawShare(ctx context.Context, s *subject, f *analyze.Finding, from, at time.Time, more []store.Matcher) error {
	t, err := profile.ParseType(f.Type)
	if err != nil {
		return nil // nothing to ask for
	}
	step := max(column, at.Sub(from)/maxChart).Truncate(column)
	q := l.query(s, t, from.Truncate(step), at.Truncate(column).Add(column), more...)
	sums, err := l.w.opt.Store.Series(ctx, store.SeriesQuery{Query: q, Step: step})
	if err != nil {
		return err
	}
	trend, err := l.w.opt.Store.Trend(ctx, store.TrendQuery{Query: q, Functions: []string{f.Function}, Step: step})
	if err != nil {
		return err
	}
	values := map[time.Time]float64{}
	for _, line := range trend.Lines {
		for _, p := range line.Points {
			v := p.Cumulative
			if f.Metric == "self" {
				v = p.Self
			}
			values[p.Time] += float64(v)
		}
	}
	unit := unitOf(t)
	var chart []analyze.ChartPoint
	for _, line := range sums.Lines {
		for _, p := range line.Points {
			if p.Value <= 0 {
				continue
			}
			v := values[p.Time]
			e := analyze.Estimate{Value: v / float64(p.Value)}
			e.Low, e.High = e.Value, e.Value
			if unit > 0 {
				e = analyze.Share(v/unit, float64(p.Value)/unit)
			}
			chart = append(chart, analyze.ChartPoint{Time: p.Time, Value: e.Value, Low: e.Low, High: e.High})
		}
	}
	f.Chart = chart
	return nil
}
