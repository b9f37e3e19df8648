// Package storetest holds implementations of [store.Store] to one another: the same uploads, the same
// questions, and the answers of a model that keeps a list and looks through it.
package storetest

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

// Epoch is where the clock of these tests stands.
var Epoch = time.Unix(1_700_000_000, 0).UTC()

// Target is a store to be held to the model. It must use a clock that says Epoch.
type Target struct {
	Store store.Store
	// Flush hands all that is in memory over, if that is a thing the store does, and waits until it is done.
	Flush func()
	// Settle lets the store do what it does in the background (compaction), and waits. Nil is nothing.
	Settle func()
	// Reopen closes the store and opens it again. Nil is never.
	Reopen func() store.Store
}

// Canon is column t of p in words: the sum by stack, outermost first, and sample labels,
// of the samples whose labels keep takes; nil takes all.
func Canon(p *profile.Profile, t int, keep func([]profile.SampleLabel) bool) map[string]int64 {
	words := make([]string, p.Stacks.Len())
	for i := 1; i < len(words); i++ {
		w := words[p.Stacks.Parent[i]]
		l := p.Stacks.Loc[i]
		lines := p.LinesOf(l)
		for j := len(lines) - 1; j >= 0; j-- {
			if w != "" {
				w += ";"
			}
			f := p.Functions[lines[j].Function]
			w += fmt.Sprintf("%s:%d", p.Strings[f.Name], lines[j].Line)
		}
		if len(lines) == 0 {
			m := p.Mappings[p.Locations[l].Mapping]
			w += fmt.Sprintf(";%s+%#x", p.Strings[m.File], p.Locations[l].Address-m.Start+m.Offset)
		}
		words[i] = w
	}
	sum := map[string]int64{}
	for i, s := range p.SampleStack {
		if keep != nil && !keep(p.LabelSets[p.SampleLabels[i]]) {
			continue
		}
		k := words[s]
		for _, l := range p.LabelSets[p.SampleLabels[i]] {
			k += fmt.Sprintf(" [%s=%s%d%s]", p.Strings[l.Key], p.Strings[l.Str], l.Num, p.Strings[l.Unit])
		}
		sum[k] += p.Values[t][i]
	}
	maps.DeleteFunc(sum, func(_ string, v int64) bool { return v == 0 })
	return sum
}

// RandomProfile has inlined frames, frames without symbols, sample labels, negative values
// and zeros. Its functions come from a few, so that stacks are shared.
func RandomProfile(rng *rand.Rand, types []profile.ValueType, functions int) *profile.Profile {
	b := profile.NewBuilder(types...)
	m := b.Mapping(profile.Mapping{Start: uint64(1+rng.IntN(5)) << 12, Limit: 1 << 20, Offset: 16, File: b.String("libc.so")})
	line := func() profile.Line {
		name := b.String(fmt.Sprint("f", rng.IntN(functions)))
		return profile.Line{Function: b.Function(profile.Function{Name: name, SystemName: name, File: b.String("f.go"), StartLine: 1}), Line: int64(rng.IntN(3))}
	}
	nodes := []uint32{0}
	for range 1 + rng.IntN(40) {
		var loc uint32
		switch rng.IntN(6) {
		case 0:
			loc = b.Location(profile.Location{Mapping: m, Address: 1<<16 + uint64(rng.IntN(4))})
		case 1:
			loc = b.Location(profile.Location{Mapping: m, Address: rng.Uint64()}, line(), line())
		default:
			loc = b.Location(profile.Location{Address: rng.Uint64()}, line())
		}
		nodes = append(nodes, b.Stack(nodes[rng.IntN(len(nodes))], loc))
	}
	for range rng.IntN(60) {
		set := uint32(0)
		if rng.IntN(4) == 0 {
			ls := []profile.SampleLabel{{Key: b.String("route"), Str: b.String(fmt.Sprint("/", rng.IntN(functions)))}}
			if rng.IntN(2) == 0 {
				ls = append(ls, profile.SampleLabel{Key: b.String("bytes"), Num: int64(rng.IntN(3)), Unit: b.String("bytes")})
			}
			set = b.LabelSet(ls)
		}
		values := make([]int64, len(types))
		for t := range values {
			values[t] = int64(rng.IntN(7)-2) * 10_000_000
			if rng.IntN(50) == 0 {
				values[t] = rng.Int64() >> 8
			}
		}
		b.Add(nodes[rng.IntN(len(nodes))], set, values...)
	}
	p := b.Profile()
	p.PeriodType, p.Period = types[len(types)-1], 1
	return p
}

// Kinds are the sample types of the profiles, by name.
var Kinds = map[string][]profile.ValueType{
	"process_cpu": {{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
	"memory":      {{Type: "alloc_space", Unit: "bytes"}, {Type: "inuse_space", Unit: "bytes"}, {Type: "inuse_objects", Unit: "count"}},
}

// RandomUpload is the n-th; no two are the same.
func RandomUpload(rng *rand.Rand, n, functions int) store.Upload {
	name := []string{"process_cpu", "memory"}[rng.IntN(2)]
	p := RandomProfile(rng, Kinds[name], functions)
	pairs := []profile.Label{{Name: profile.LabelService, Value: fmt.Sprint("s", rng.IntN(4))}}
	if rng.IntN(2) == 0 {
		pairs = append(pairs, profile.Label{Name: profile.LabelVersion, Value: fmt.Sprint("v", rng.IntN(3))})
	}
	if rng.IntN(3) == 0 {
		pairs = append(pairs, profile.Label{Name: profile.LabelInstance, Value: fmt.Sprint("i", rng.IntN(3))})
	}
	labels, err := profile.NewLabels(pairs...)
	if err != nil {
		panic(err)
	}
	// No two uploads start at once, so that a start says which it is.
	from := Epoch.Add(time.Duration(rng.IntN(3600)-4000)*time.Second + time.Duration(n))
	return store.Upload{Tenant: []string{"", "other"}[rng.IntN(8)/7], Name: name, Labels: labels, From: from, To: from.Add(10 * time.Second), Profile: p, Pprof: p.AppendPprof(nil)}
}

// RandomQuery is of one type.
func RandomQuery(rng *rand.Rand) store.Query {
	name := []string{"process_cpu", "memory"}[rng.IntN(2)]
	types := Kinds[name]
	q := store.Query{Type: profile.Type{Name: name, Sample: types[rng.IntN(len(types))], Period: types[len(types)-1]}, Tenant: []string{"", "other"}[rng.IntN(8)/7]}
	for range rng.IntN(3) {
		q.Matchers = append(q.Matchers, store.Matcher{
			Name:  []string{profile.LabelService, profile.LabelVersion, profile.LabelInstance, "none", profile.LabelType}[rng.IntN(5)],
			Op:    store.MatchOp(rng.IntN(4)),
			Value: []string{"", "s1", "v1", "s1|s2", "v.*", ".*", ".+", "i[01]", "v1|", "process_cpu:.*", q.Type.String()}[rng.IntN(11)],
		})
	}
	if rng.IntN(2) == 0 {
		q.From = Epoch.Add(time.Duration(rng.IntN(3600)-4000) * time.Second)
	}
	if rng.IntN(2) == 0 {
		q.To = Epoch.Add(time.Duration(rng.IntN(3600)-4000) * time.Second)
	}
	return q
}

// naive says whether q is about u, in the plainest way.
func naive(q store.Query, u store.Upload) bool {
	if q.Tenant != u.Tenant || u.Name != q.Type.Name || !slices.Contains(u.Profile.SampleTypes, q.Type.Sample) {
		return false
	}
	if !q.From.IsZero() && u.From.Before(q.From) || !q.To.IsZero() && !u.From.Before(q.To) {
		return false
	}
	for _, m := range q.Matchers {
		v := u.Labels.Get(m.Name)
		if m.Name == profile.LabelType {
			v = q.Type.String()
		}
		var ok bool
		switch m.Op {
		case store.MatchEqual, store.MatchNotEqual:
			ok = v == m.Value
		default:
			ok = regexp.MustCompile("^(" + m.Value + ")$").MatchString(v)
		}
		if ok != (m.Op == store.MatchEqual || m.Op == store.MatchRegexp) {
			return false
		}
	}
	return true
}

// Run compares the store with the model, under random uploads and questions.
func Run(t *testing.T, open func(t *testing.T) Target) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { run(t, seed, open(t)) })
	}
	t.Run("again", func(t *testing.T) { again(t, open(t)) })
}

func run(t *testing.T, seed uint64, target Target) {
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(seed, 3))
	var all []store.Upload
	answered := 0
	for step := range 240 {
		u := RandomUpload(rng, len(all), 10)
		keep := u
		if err := target.Store.Append(ctx, u); err != nil {
			t.Fatal(err)
		}
		all = append(all, keep)
		if step%30 == 29 && target.Flush != nil {
			target.Flush()
		}
		if step%60 == 59 && target.Settle != nil {
			target.Settle()
		}
		if step%80 == 79 && target.Reopen != nil {
			target.Store = target.Reopen()
		}
		if step%8 == 7 {
			q := RandomQuery(rng)
			if rng.IntN(3) == 0 {
				q.SampleMatchers = []store.Matcher{{Name: []string{"route", "bytes"}[rng.IntN(2)], Op: store.MatchOp(rng.IntN(4)), Value: []string{"", "/1", "/[0-4]", "2", ".*"}[rng.IntN(5)]}}
			}
			answered += Compare(t, target.Store, q, all)
		}
	}
	if answered < 8 {
		t.Errorf("%d questions had an answer", answered)
	}
	known(t, target.Store, all)
	if err := target.Store.Close(); err != nil {
		t.Error(err)
	}
}

// again sends everything twice, with a flush and a restart between.
func again(t *testing.T, target Target) {
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(9, 9))
	var all []store.Upload
	for n := range 40 {
		all = append(all, RandomUpload(rng, n, 10))
	}
	for round := range 3 {
		for _, u := range all {
			if err := target.Store.Append(ctx, u); err != nil {
				t.Fatal(err)
			}
		}
		if target.Flush != nil {
			target.Flush()
		}
		if round == 1 && target.Reopen != nil {
			target.Store = target.Reopen()
		}
	}
	for range 20 {
		Compare(t, target.Store, RandomQuery(rng), all)
	}
	if err := target.Store.Close(); err != nil {
		t.Error(err)
	}
}

// sampleTest is SampleMatchers in the plainest way.
func sampleTest(q store.Query, p *profile.Profile) func([]profile.SampleLabel) bool {
	if len(q.SampleMatchers) == 0 {
		return nil
	}
	return func(set []profile.SampleLabel) bool {
		for _, m := range q.SampleMatchers {
			v := ""
			for _, l := range set {
				if p.Strings[l.Key] != m.Name {
					continue
				}
				if v = p.Strings[l.Str]; l.Str == 0 {
					v = strconv.FormatInt(l.Num, 10)
				}
			}
			if !matches(m, v) {
				return false
			}
		}
		return true
	}
}

func matches(m store.Matcher, v string) bool {
	ok := v == m.Value
	if m.Op == store.MatchRegexp || m.Op == store.MatchNotRegexp {
		ok = regexp.MustCompile("^(?s:" + m.Value + ")$").MatchString(v)
	}
	return ok == (m.Op == store.MatchEqual || m.Op == store.MatchRegexp)
}

// expected is what the model says to a question.
type expected struct {
	sums                map[string]int64
	profiles            int
	series              map[string]bool
	versions            map[string]bool
	points, trend, heat map[string]int64
	totals              []int64
}

// trendOf is a function that random profiles have.
const trendOf = "f3"

func expect(q store.Query, all []store.Upload) expected {
	x := expected{sums: map[string]int64{}, series: map[string]bool{}, versions: map[string]bool{}, points: map[string]int64{}, trend: map[string]int64{}, heat: map[string]int64{}}
	for _, u := range all {
		if !naive(q, u) {
			continue
		}
		x.profiles++
		x.series[u.Labels.String()] = true
		if v := u.Labels.Get(profile.LabelVersion); v != "" {
			x.versions[v] = true
		}
		col := u.Profile.Column(q.Type.Sample.Type)
		keep := sampleTest(q, u.Profile)
		total := int64(0)
		for k, v := range Canon(u.Profile, col, keep) {
			x.sums[k] += v
			total += v
		}
		x.totals = append(x.totals, total)
		service := u.Labels.Get(profile.LabelService)
		x.points[fmt.Sprint(service, u.From.Unix()/60*60)] += total
		expectTrend(x.trend, u, col, keep)
	}
	maps.DeleteFunc(x.sums, func(_ string, v int64) bool { return v == 0 })
	return x
}

func expectTrend(into map[string]int64, u store.Upload, col int, keep func([]profile.SampleLabel) bool) {
	p := u.Profile
	for i, s := range p.SampleStack {
		if keep != nil && !keep(p.LabelSets[p.SampleLabels[i]]) {
			continue
		}
		on, self := false, false
		for n := s; n != 0; n = p.Stacks.Parent[n] {
			for j, ln := range p.LinesOf(p.Stacks.Loc[n]) {
				if p.Strings[p.Functions[ln.Function].Name] == trendOf {
					on = true
					self = self || n == s && j == 0
				}
			}
		}
		at := fmt.Sprint(u.Labels.Get(profile.LabelService), u.From.Unix()/300*300)
		if on {
			into[at+" cumulative"] += p.Values[col][i]
		}
		if self {
			into[at+" self"] += p.Values[col][i]
		}
	}
}

// Compare asks a question in all ways, of the store and of the model, which has all. It is 1 if there was
// something to find.
func Compare(t *testing.T, s store.Store, q store.Query, all []store.Upload) int {
	t.Helper()
	ctx := context.Background()
	x := expect(q, all)
	r, err := s.Select(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Profile.Check(); err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	if r.Profiles != x.profiles || r.Series != len(x.series) {
		t.Fatalf("%+v: %d profiles of %d series, want %d of %d", q, r.Profiles, r.Series, x.profiles, len(x.series))
	}
	if got := Canon(r.Profile, 0, nil); !maps.Equal(got, x.sums) {
		maps.DeleteFunc(got, func(k string, v int64) bool {
			same := v == x.sums[k]
			if same {
				delete(x.sums, k)
			}
			return same
		})
		t.Fatalf("%+v: it differs in\n%.500v\nwant\n%.500v", q, fmt.Sprint(got), fmt.Sprint(x.sums))
	}
	compareSeries(t, s, q, x)
	compareTrend(t, s, q, x)
	compareSingle(t, s, q, x)
	compareRollup(t, s, q, all)
	values, err := s.LabelValues(ctx, profile.LabelVersion, q)
	if err != nil || !slices.Equal(values, slices.Sorted(maps.Keys(x.versions))) {
		t.Fatalf("%+v: versions %q, want %v: %v", q, values, x.versions, err)
	}
	return min(x.profiles, 1)
}

func compareSeries(t *testing.T, s store.Store, q store.Query, x expected) {
	t.Helper()
	r, err := s.Series(context.Background(), store.SeriesQuery{Query: q, Step: time.Minute, GroupBy: []string{profile.LabelService}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, l := range r.Lines {
		for _, p := range l.Points {
			got[fmt.Sprint(l.Labels.Get(profile.LabelService), p.Time.Unix())] = p.Value
		}
	}
	if !maps.Equal(got, x.points) {
		t.Fatalf("%+v: series %v, want %v", q, got, x.points)
	}
}

func compareTrend(t *testing.T, s store.Store, q store.Query, x expected) {
	t.Helper()
	r, err := s.Trend(context.Background(), store.TrendQuery{Query: q, Step: 5 * time.Minute, GroupBy: []string{profile.LabelService}, Functions: []string{trendOf}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, l := range r.Lines {
		for _, p := range l.Points {
			at := fmt.Sprint(l.Labels.Get(profile.LabelService), p.Time.Unix())
			got[at+" self"], got[at+" cumulative"] = p.Self, p.Cumulative
		}
	}
	zero := func(_ string, v int64) bool { return v == 0 }
	maps.DeleteFunc(got, zero)
	maps.DeleteFunc(x.trend, zero)
	if !maps.Equal(got, x.trend) {
		t.Fatalf("%+v: trend %v, want %v", q, got, x.trend)
	}
}

// compareSingle lists single profiles, asks for one of them by its id, and counts the heat map.
func compareSingle(t *testing.T, s store.Store, q store.Query, x expected) {
	t.Helper()
	ctx := context.Background()
	r, err := s.Profiles(ctx, q, store.MaxProfiles)
	if err != nil {
		t.Fatal(err)
	}
	var totals []int64
	for _, p := range r.Profiles {
		totals = append(totals, p.Total)
	}
	slices.Sort(totals)
	slices.Sort(x.totals)
	if r.All != x.profiles || !slices.Equal(totals, x.totals) {
		t.Fatalf("%+v: %d single profiles of %v, want %d of %v", q, r.All, totals, x.profiles, x.totals)
	}
	if len(r.Profiles) > 0 {
		one := r.Profiles[len(r.Profiles)/2]
		by := q
		by.IDs = []block.ID{one.ID}
		got, err := s.Select(ctx, by)
		if err != nil || got.Profiles != 1 || got.Profile.Total(0) != one.Total {
			t.Fatalf("%+v: profile %s: %d of them, %v", q, block.FormatID(one.ID), got.Profiles, err)
		}
	}
	h, err := s.Heatmap(ctx, store.HeatmapQuery{Query: q, Step: time.Minute, Buckets: 7})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range h.Columns {
		for _, k := range c.Counts {
			n += k
		}
	}
	if n != x.profiles || n > 0 && (h.Min != x.totals[0] || h.Max != x.totals[n-1]) {
		t.Fatalf("%+v: a heat map of %d profiles from %d to %d, want %d", q, n, h.Min, h.Max, x.profiles)
	}
}

// known compares what the store says that there is.
func known(t *testing.T, s store.Store, all []store.Upload) {
	t.Helper()
	ctx := context.Background()
	services, err := s.Services(ctx, store.Query{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{}
	types := map[string]bool{}
	for _, u := range all {
		if u.Tenant != "" {
			continue
		}
		want[u.Labels.Get(profile.LabelService)]++
		for _, st := range u.Profile.SampleTypes {
			types[profile.Type{Name: u.Name, Sample: st, Period: u.Profile.PeriodType}.String()] = true
		}
	}
	got := map[string]int{}
	for _, svc := range services {
		got[svc.Name] = svc.Profiles
	}
	if !maps.Equal(got, want) {
		t.Fatalf("services %v, want %v", got, want)
	}
	ts, err := s.ProfileTypes(ctx, store.Query{})
	if err != nil || len(ts) != len(types) {
		t.Fatalf("%v, want %v: %v", ts, types, err)
	}
}
