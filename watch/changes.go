package watch

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

const (
	leastColumns = 20                  // minutes with profiles before there is a past to compare with
	explainEvery = time.Minute         // how often the same changes are explained anew
	longWindow   = 14 * 24 * time.Hour // of the long trend
	longColumn   = time.Hour
	longMinShare = 0.002
	leastSeason  = 7 * 24 // hours with profiles before they say what is usual: see [analyze.FirstWeek]
)

// changes looks for functions, and other figures, that take more or less than they did.
func (l *leader) changes(ctx context.Context, s *subject, at time.Time) ([]analyze.Finding, bool, error) {
	var found []analyze.Finding
	for _, name := range slices.Sorted(maps.Keys(s.rings)) {
		r := s.rings[name]
		t := r.table(s.service, unitOf(r.typ), minShare)
		f, err := l.explained(ctx, s, "minutes "+name, t, s.season[name], at)
		if err != nil {
			return nil, false, err
		}
		found = append(found, f...)
	}
	return found, true, nil
}

// trend looks at the last two weeks by the hour: what grows too slowly for minutes to show. The table is also what a day's usual course
// is known by.
func (l *leader) trend(ctx context.Context, s *subject, at time.Time) ([]analyze.Finding, bool, error) {
	var found []analyze.Finding
	for _, f := range followed {
		t, ok := s.known.typ(f.name, f.sample)
		if !ok {
			continue
		}
		res, err := l.w.opt.Store.Rollup(ctx, store.RollupQuery{Query: l.query(s, t, at.Add(-longWindow).Truncate(longColumn), at.Truncate(longColumn)), Step: longColumn, MinShare: longMinShare})
		if err != nil {
			return nil, false, err
		}
		if len(res.Groups) == 0 {
			delete(s.season, t.String())
			continue
		}
		table := tableOf(s.service, t, res, 0)
		delete(s.season, t.String())
		if withProfiles(table) >= leastSeason {
			s.season[t.String()] = table
		}
		more, err := l.explained(ctx, s, "hours "+t.String(), table, nil, at)
		if err != nil {
			return nil, false, err
		}
		found = append(found, more...)
	}
	return found, true, nil
}

// withProfiles is how many columns are no gap.
func withProfiles(t *analyze.Table) (n int) {
	for _, p := range t.Profiles {
		if p > 0 {
			n++
		}
	}
	return n
}

// explanation is what changes were made of, so that the same ones are not explained all the time.
type explanation struct {
	of    string
	at    time.Time
	found []analyze.Finding
}

// explained scans a table and explains what changed.
func (l *leader) explained(ctx context.Context, s *subject, name string, t, season *analyze.Table, at time.Time) ([]analyze.Finding, error) {
	if withProfiles(t) < leastColumns {
		return nil, nil
	}
	options := analyze.ScanOptions{}
	if season == nil && t.Step < longColumn {
		options = analyze.FirstWeek(options)
	}
	scanned, err := analyze.Scan(t, season, options)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPart, err)
	}
	if len(scanned.Changes) == 0 {
		delete(s.explained, name)
		return nil, nil
	}
	var of strings.Builder
	for _, c := range scanned.Changes {
		fmt.Fprintln(&of, c.Function, c.Metric, c.Since.Unix())
	}
	if e := s.explained[name]; e != nil && e.of == of.String() && at.Sub(e.at) < explainEvery {
		return e.found, nil
	}
	var found []analyze.Finding
	for _, e := range analyze.Episodes(t, scanned.Changes) {
		d, err := l.detail(ctx, s, t, e)
		if err != nil {
			return nil, err
		}
		d.Options = options
		f, _, err := analyze.Regressions(e.Changes, d)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errPart, err)
		}
		found = append(found, f...)
	}
	s.explained[name] = &explanation{of.String(), at, found}
	return found, nil
}

// detail fetches what explains changes.
func (l *leader) detail(ctx context.Context, s *subject, t *analyze.Table, e analyze.Episode) (d analyze.Detail, err error) {
	d.Table = t
	for _, side := range []struct {
		from, to time.Time
		into     **profile.Profile
	}{{e.BaseFrom, e.BaseTo, &d.Base}, {e.HeadFrom, e.HeadTo, &d.Head}} {
		from, to := s.clean(side.from, side.to)
		res, err := l.w.opt.Store.Select(ctx, l.query(s, t.Type, from, to))
		if err != nil {
			return d, err
		}
		if res.Profiles > 0 {
			*side.into = res.Profile
		}
	}
	end := t.At(t.Steps())
	for _, by := range []struct {
		label string
		into  *[]analyze.Group
	}{{profile.LabelVersion, &d.Versions}, {profile.LabelInstance, &d.Instances}} {
		res, err := l.w.opt.Store.Rollup(ctx, store.RollupQuery{Query: l.query(s, t.Type, t.Start, end), Step: t.Step, GroupBy: []string{by.label}, MinShare: minShare})
		if err != nil {
			return d, err
		}
		for i := range res.Groups {
			*by.into = append(*by.into, analyze.Group{Labels: res.Groups[i].Labels, Table: tableOf(s.service, t.Type, res, i)})
		}
	}
	deploys, err := l.w.book.deploys(ctx, s.tenant, s.service)
	if err != nil {
		return d, err
	}
	for _, x := range deploys {
		if x.Time.After(t.Start) {
			d.Events = append(d.Events, analyze.Event{Time: x.Time, Label: strings.TrimSpace("deploy " + x.Version + " " + x.Note)})
		}
	}
	return d, nil
}
