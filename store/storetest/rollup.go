package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// rollupModel is the answer to a roll-up in the plainest way.
type rollupModel struct {
	columns map[rollupColumn]rollupFacts
	cells   map[rollupCell]selfCum
	totals  map[string]int64            // group -> its total
	whole   map[string]map[string]int64 // function -> group -> cumulative over all columns
}

type rollupColumn struct {
	group  string
	column int
}

type rollupFacts struct {
	total               int64
	profiles, instances int
}

type rollupCell struct {
	group, function string
	column          int
}

type selfCum struct{ self, cumulative int64 }

func modelRollup(q store.RollupQuery, all []store.Upload) *rollupModel {
	m := &rollupModel{columns: map[rollupColumn]rollupFacts{}, cells: map[rollupCell]selfCum{}, totals: map[string]int64{}, whole: map[string]map[string]int64{}}
	instances := map[rollupColumn]map[string]bool{}
	first := floorDiv(q.From.UnixNano(), int64(q.Step))
	for _, u := range all {
		if !naive(q.Query, u) {
			continue
		}
		at := rollupColumn{store.GroupLabels(u.Labels, q.Type.String(), q.GroupBy).String(), int(floorDiv(u.From.UnixNano(), int64(q.Step)) - first)}
		if instances[at] == nil {
			instances[at] = map[string]bool{}
		}
		instances[at][u.Labels.Get(profile.LabelInstance)] = true
		f := m.columns[at]
		f.profiles, f.instances = f.profiles+1, len(instances[at])
		p, keep, col := u.Profile, sampleTest(q.Query, u.Profile), u.Profile.Column(q.Type.Sample.Type)
		for i, s := range p.SampleStack {
			if keep == nil || keep(p.LabelSets[p.SampleLabels[i]]) {
				f.total += p.Values[col][i]
				m.sample(p, s, p.Values[col][i], at)
			}
		}
		m.columns[at] = f
	}
	m.leaveOut(q.MinShare)
	return m
}

func floorDiv(a, b int64) int64 { return (a - ((a%b)+b)%b) / b }

func (m *rollupModel) sample(p *profile.Profile, stack uint32, v int64, at rollupColumn) {
	m.totals[at.group] += v
	self, on := map[string]bool{}, map[string]bool{}
	for n := stack; n != 0; n = p.Stacks.Parent[n] {
		for j, ln := range p.LinesOf(p.Stacks.Loc[n]) {
			name := p.Strings[p.Functions[ln.Function].Name]
			on[name] = true
			self[name] = self[name] || n == stack && j == 0
		}
	}
	for name := range on {
		k := rollupCell{at.group, name, at.column}
		c := m.cells[k]
		c.cumulative += v
		if self[name] {
			c.self += v
		}
		m.cells[k] = c
		if m.whole[name] == nil {
			m.whole[name] = map[string]int64{}
		}
		m.whole[name][at.group] += v
	}
}

// leaveOut drops the functions that have less than the share in every group, and cells without a value.
func (m *rollupModel) leaveOut(share float64) {
	maps.DeleteFunc(m.cells, func(_ rollupCell, c selfCum) bool { return c == selfCum{} })
	stays := map[string]bool{}
	for k := range m.cells {
		v := m.whole[k.function][k.group]
		stays[k.function] = stays[k.function] || math.Abs(float64(v)) >= share*math.Abs(float64(m.totals[k.group]))
	}
	maps.DeleteFunc(m.cells, func(k rollupCell, _ selfCum) bool { return !stays[k.function] })
}

// compareRollup asks for all functions: against the model, and what they must have in common with a sum and a trend of the same.
func compareRollup(t *testing.T, s store.Store, q store.Query, all []store.Upload) {
	t.Helper()
	if q.From.IsZero() {
		q.From = Epoch.Add(-70 * time.Minute)
	}
	if q.To.IsZero() {
		q.To = Epoch
	}
	questions := []store.RollupQuery{
		{Query: q, Step: time.Minute, GroupBy: []string{profile.LabelService}},
		{Query: q, Step: 20 * time.Minute},
		{Query: q, Step: 5 * time.Minute, GroupBy: []string{profile.LabelInstance, profile.LabelVersion}, MinShare: 0.2},
	}
	other := 1 + len(all)/10%2
	for _, rq := range []store.RollupQuery{questions[0], questions[other]} {
		r, err := s.Rollup(context.Background(), rq)
		if !q.To.After(q.From) {
			if !errors.Is(err, store.ErrInvalid) {
				t.Fatalf("%+v: a range that ends before it starts: %v", rq, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%+v: %v", rq, err)
		}
		want := modelRollup(rq, all)
		checkRollup(t, rq, r, want)
		if rq.MinShare == 0 {
			agreeWithSelect(t, s, rq, r)
		}
		if len(rq.GroupBy) == 1 {
			agreeWithTrend(t, s, rq, r)
		}
	}
}

func checkRollup(t *testing.T, q store.RollupQuery, r *store.RollupResult, want *rollupModel) {
	t.Helper()
	start := time.Unix(0, floorDiv(q.From.UnixNano(), int64(q.Step))*int64(q.Step))
	if !r.Start.Equal(start) || r.Step != q.Step || r.Start.Add(time.Duration(r.Steps)*r.Step).Before(q.To) || !r.Start.Add(time.Duration(r.Steps-1)*r.Step).Before(q.To) {
		t.Fatalf("%+v: %d columns of %v from %v", q, r.Steps, r.Step, r.Start)
	}
	columns, cells := map[rollupColumn]rollupFacts{}, map[rollupCell]selfCum{}
	for n, g := range r.Groups {
		if len(g.Total) != r.Steps || len(g.Profiles) != r.Steps || len(g.Instances) != r.Steps {
			t.Fatalf("%+v: %d, %d and %d of %d columns", q, len(g.Total), len(g.Profiles), len(g.Instances), r.Steps)
		}
		if n > 0 && r.Groups[n-1].Labels.String() >= g.Labels.String() && len(q.GroupBy) == 1 {
			t.Fatalf("%+v: group %v after %v", q, g.Labels, r.Groups[n-1].Labels)
		}
		for i, profiles := range g.Profiles {
			f := rollupFacts{g.Total[i], profiles, g.Instances[i]}
			if f != (rollupFacts{}) {
				columns[rollupColumn{g.Labels.String(), i}] = f
			}
		}
		for i, f := range g.Functions {
			if i > 0 && g.Functions[i-1].Name >= f.Name {
				t.Fatalf("%+v: function %q after %q", q, f.Name, g.Functions[i-1].Name)
			}
			last := -1
			f.Each(func(column int, self, cumulative int64) {
				if column <= last || column >= r.Steps {
					t.Fatalf("%+v: column %d after %d", q, column, last)
				}
				last = column
				cells[rollupCell{g.Labels.String(), f.Name, column}] = selfCum{self, cumulative}
			})
			if last < 0 {
				t.Fatalf("%+v: function %q has nothing", q, f.Name)
			}
		}
	}
	if !maps.Equal(columns, want.columns) {
		t.Fatalf("%+v: columns %v, want %v", q, columns, want.columns)
	}
	if !maps.Equal(cells, want.cells) {
		for k, c := range want.cells {
			if cells[k] != c {
				t.Fatalf("%+v: %+v is %v, want %v; %d cells, want %d", q, k, cells[k], c, len(cells), len(want.cells))
			}
		}
		t.Fatalf("%+v: %d cells, want %d", q, len(cells), len(want.cells))
	}
}

// agreeWithSelect: over all columns and groups a function has what the table of the same profiles says.
func agreeWithSelect(t *testing.T, s store.Store, q store.RollupQuery, r *store.RollupResult) {
	t.Helper()
	sum, err := s.Select(context.Background(), q.Query)
	if err != nil {
		t.Fatal(err)
	}
	profiles, total, functions := 0, int64(0), map[string]selfCum{}
	for _, g := range r.Groups {
		for i := range g.Total {
			profiles += g.Profiles[i]
			total += g.Total[i]
		}
		for _, f := range g.Functions {
			f.Each(func(_ int, self, cumulative int64) {
				have := functions[f.Name]
				functions[f.Name] = selfCum{have.self + self, have.cumulative + cumulative}
			})
		}
	}
	if profiles != sum.Profiles || total != sum.Profile.Total(0) {
		t.Fatalf("%+v: %d profiles of %d, the sum has %d of %d", q, profiles, total, sum.Profiles, sum.Profile.Total(0))
	}
	rows := map[string]selfCum{}
	for _, row := range profile.Top(sum.Profile, 0) {
		rows[row.Name] = selfCum{row.Self, row.Total}
	}
	for name, f := range functions {
		if f != rows[name] {
			t.Fatalf("%+v: %s has %+v, the table says %+v", q, name, f, rows[name])
		}
	}
}

func agreeWithTrend(t *testing.T, s store.Store, q store.RollupQuery, r *store.RollupResult) {
	t.Helper()
	trend, err := s.Trend(context.Background(), store.TrendQuery{Query: q.Query, Step: q.Step, GroupBy: q.GroupBy, Functions: []string{trendOf, "f1"}})
	if err != nil {
		t.Fatal(err)
	}
	want, got := map[string]selfCum{}, map[string]selfCum{}
	for _, l := range trend.Lines {
		for _, pt := range l.Points {
			if pt.Self != 0 || pt.Cumulative != 0 {
				want[fmt.Sprint(l.Function, l.Labels, int(pt.Time.Sub(r.Start)/r.Step))] = selfCum{pt.Self, pt.Cumulative}
			}
		}
	}
	for _, g := range r.Groups {
		for _, f := range g.Functions {
			if f.Name == trendOf || f.Name == "f1" {
				f.Each(func(i int, self, cumulative int64) {
					got[fmt.Sprint(f.Name, g.Labels, i)] = selfCum{self, cumulative}
				})
			}
		}
	}
	if !maps.Equal(got, want) {
		t.Fatalf("%+v: %v, the trend says %v", q, got, want)
	}
}
