package watch

import (
	"context"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

const (
	chartPast  = time.Hour // before a change began, or of what has no beginning
	chartStale = 5 * time.Minute
)

// draw gives a finding about a function's share a chart, where what found it had none, or when that has become old: the function's share
// over time, in the part of the service that the finding is about. Without an answer it stays as it is.
func (l *leader) draw(ctx context.Context, s *subject, f *analyze.Finding, at time.Time) error {
	t, err := profile.ParseType(f.Type)
	if err != nil || f.Function == "" || f.Unit != "share" || f.Metric != "self" && f.Metric != "total" {
		return nil // nothing to ask for
	}
	if n := len(f.Chart); n > 0 && at.Sub(f.Chart[n-1].Time) < chartStale {
		return nil
	}
	from := at.Add(-chartPast)
	if !f.Since.IsZero() && f.Since.Add(-chartPast).Before(from) {
		from = f.Since.Add(-chartPast)
	}
	step := max(column, at.Sub(from)/maxChart).Truncate(column)
	var more []store.Matcher
	if f.Head != nil {
		for name, value := range f.Head.Labels {
			more = append(more, equal(name, value))
		}
	}
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
