package watch

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// keep writes what a look has found, and up to when it looked, as one.
func (l *leader) keep(ctx context.Context, s *subject, look Look) error {
	for try := 0; ; try++ {
		err := l.keepOnce(ctx, s, look)
		if !errors.Is(err, ErrConflict) || try == keepTries {
			return err
		}
	}
}

// keepTries is how often a person, or an alert, may come in between.
const keepTries = 10

func (l *leader) keepOnce(ctx context.Context, s *subject, look Look) error {
	w := l.w
	known, err := w.book.records(ctx, s.tenant, Filter{Service: s.service, States: States, Limit: maxKnown})
	if err != nil {
		return err
	}
	look.Now = l.now(ctx, s, known, look)
	updates := w.opt.Rules.Apply(known, look)
	for i := range updates {
		f := &updates[i].Record.Finding
		if err := l.draw(ctx, s, f, look.At); err != nil && ctx.Err() != nil {
			return ctx.Err() // any other means no new chart
		}
		f.Chart = thin(f.Chart, maxChart)
		f.Also = f.Also[:min(len(f.Also), maxAlso)]
	}
	if err := w.book.keep(ctx, s.tenant, s.service, look.At, updates); err != nil {
		return err
	}
	w.m.count(s.service, known, updates)
	return nil
}

// Bounds of what is kept.
const (
	maxKnown = 1000 // records of a service
	maxChart = 300
	maxAlso  = 30
)

// now measures changes that were found before and are not any more: they have left the window, or are over.
func (l *leader) now(ctx context.Context, s *subject, known []Record, look Look) func(*analyze.Finding) (analyze.Estimate, bool) {
	found := map[cause]bool{}
	for i := range look.Found {
		found[causeOf(&look.Found[i])] = true
	}
	type group struct{ typ, label, value string }
	ask := map[group][]string{}
	for i := range known {
		f := &known[i].Finding
		if known[i].State == StateFixed || !isChange(f.Kind) || found[causeOf(f)] || f.Function == "" || f.Unit != "share" {
			continue
		}
		g := group{typ: f.Type}
		if f.Cause != nil && f.Cause.Label != "" {
			g.label, g.value = f.Cause.Label, f.Cause.Value
		}
		ask[g] = append(ask[g], f.Function)
	}
	if !s.times("now", nowEvery, look.At) {
		return nil
	}
	type share struct{ self, full, total float64 }
	shares := map[group]map[string]share{}
	for g, functions := range ask {
		t, err := profile.ParseType(g.typ)
		if err != nil {
			continue
		}
		var more []store.Matcher
		if g.label != "" {
			more = append(more, equal(g.label, g.value))
		}
		q := l.query(s, t, look.At.Add(-recent), look.At, more...)
		sums, err := l.w.opt.Store.Series(ctx, store.SeriesQuery{Query: q, Step: time.Minute})
		if err != nil {
			continue // it is asked again
		}
		var total float64
		for _, line := range sums.Lines {
			for _, p := range line.Points {
				total += float64(p.Value)
			}
		}
		if total == 0 {
			continue
		}
		shares[g] = map[string]share{}
		for _, f := range functions {
			shares[g][f] = share{total: total}
		}
		for part := range chunks(functions, store.MaxTrendFunctions) {
			trend, err := l.w.opt.Store.Trend(ctx, store.TrendQuery{Query: q, Functions: part, Step: time.Minute})
			if err != nil {
				delete(shares, g)
				break
			}
			for _, line := range trend.Lines {
				x := shares[g][line.Function]
				for _, p := range line.Points {
					x.self += float64(p.Self)
					x.full += float64(p.Cumulative)
				}
				shares[g][line.Function] = x
			}
		}
	}
	return func(f *analyze.Finding) (analyze.Estimate, bool) {
		switch {
		case strings.HasPrefix(f.Type, "spans:"):
			v, ok := s.step(f)
			return v, ok
		case f.Function == "":
			v, ok := s.levels[f.Subject]
			return analyze.Estimate{Value: v, Low: v, High: v}, ok
		}
		g := group{typ: f.Type}
		if f.Cause != nil && f.Cause.Label != "" {
			g.label, g.value = f.Cause.Label, f.Cause.Value
		}
		x, ok := shares[g][f.Function]
		if !ok {
			return analyze.Estimate{}, false
		}
		v := x.full
		if f.Metric == "self" {
			v = x.self
		}
		samples := x.total
		if t, err := profile.ParseType(f.Type); err == nil {
			if u := unitOf(t); u > 0 {
				samples /= u
				if samples*max(f.Before.Value, f.After.Value) < minNow {
					return analyze.Estimate{}, false // too few to say that it is gone
				}
			}
		}
		return analyze.Share(v/x.total*samples, samples), true
	}
}

// step is the present quantile of a finding's step. Which of both it is the finding does not say: the one that is nearer to what it was
// and became.
func (s *subject) step(f *analyze.Finding) (now analyze.Estimate, ok bool) {
	of := math.Log(f.Before.Value) + math.Log(f.After.Value)
	far := math.Inf(1)
	for _, e := range s.steps[f.Subject] {
		if e.Value <= 0 {
			continue
		}
		if d := math.Abs(2*math.Log(e.Value) - of); d < far {
			now, far, ok = e, d, true
		}
	}
	return now, ok
}

// minNow is how many samples a function must be expected to have for its absence to mean something.
const minNow = 20

func chunks(list []string, n int) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		for len(list) > 0 {
			k := min(n, len(list))
			if !yield(list[:k]) {
				return
			}
			list = list[k:]
		}
	}
}
