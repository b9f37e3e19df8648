package store_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// canon is column t of p in words: the sum by stack, outermost first, and sample labels.
func canon(p *profile.Profile, t int) map[string]int64 {
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
		k := words[s]
		for _, l := range p.LabelSets[p.SampleLabels[i]] {
			k += fmt.Sprintf(" [%s=%s%d%s]", p.Strings[l.Key], p.Strings[l.Str], l.Num, p.Strings[l.Unit])
		}
		sum[k] += p.Values[t][i]
	}
	maps.DeleteFunc(sum, func(_ string, v int64) bool { return v == 0 })
	return sum
}

// randomProfile has inlined frames, frames without symbols, sample labels, negative values
// and zeros. Its functions come from a few, so that stacks are shared.
func randomProfile(rng *rand.Rand, types []profile.ValueType, functions int) *profile.Profile {
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

var kinds = map[string][]profile.ValueType{
	"process_cpu": {{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
	"memory":      {{Type: "alloc_space", Unit: "bytes"}, {Type: "inuse_space", Unit: "bytes"}, {Type: "inuse_objects", Unit: "count"}},
}

func randomUpload(rng *rand.Rand, n, functions int) store.Upload {
	name := []string{"process_cpu", "memory"}[rng.IntN(2)]
	p := randomProfile(rng, kinds[name], functions)
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
	from := epoch.Add(time.Duration(rng.IntN(3600)-4000)*time.Second + time.Duration(n))
	return store.Upload{Tenant: []string{"", "other"}[rng.IntN(8)/7], Name: name, Labels: labels, From: from, To: from.Add(10 * time.Second), Profile: p, Pprof: p.AppendPprof(nil)}
}

func randomQuery(rng *rand.Rand) store.Query {
	name := []string{"process_cpu", "memory"}[rng.IntN(2)]
	types := kinds[name]
	q := store.Query{Type: profile.Type{Name: name, Sample: types[rng.IntN(len(types))], Period: types[len(types)-1]}, Tenant: []string{"", "other"}[rng.IntN(8)/7]}
	for range rng.IntN(3) {
		q.Matchers = append(q.Matchers, store.Matcher{
			Name:  []string{profile.LabelService, profile.LabelVersion, profile.LabelInstance, "none", profile.LabelType}[rng.IntN(5)],
			Op:    store.MatchOp(rng.IntN(4)),
			Value: []string{"", "s1", "v1", "s1|s2", "v.*", ".*", ".+", "i[01]", "v1|", "process_cpu:.*", q.Type.String()}[rng.IntN(11)],
		})
	}
	if rng.IntN(2) == 0 {
		q.From = epoch.Add(time.Duration(rng.IntN(3600)-4000) * time.Second)
	}
	if rng.IntN(2) == 0 {
		q.To = epoch.Add(time.Duration(rng.IntN(3600)-4000) * time.Second)
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

// TestModel compares the store with a list of uploads, through appends, restarts, and segments that go.
func TestModel(t *testing.T) {
	ctx := context.Background()
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 3))
		mem := vfs.NewMem()
		opt := store.Options{Now: func() time.Time { return epoch }, SegmentBytes: 20_000, MaxBytes: -1}
		functions := 10
		if seed%2 == 1 {
			opt.MaxBytes, functions = 60_000, 5000 // most stacks become garbage
		}
		db := openMem(t, mem, opt)
		var all []store.Upload
		answered := 0
		for step := range 400 {
			u := randomUpload(rng, len(all), functions)
			keep := u
			keep.Pprof = nil
			if err := db.Append(ctx, u); err != nil {
				t.Fatal(err)
			}
			all = append(all, keep)
			if step%97 == 96 && opt.MaxBytes < 0 { // a restart would do away with garbage by itself
				db.Close()
				db = openMem(t, mem, opt)
			}
			if step%10 == 9 {
				live := all
				if opt.MaxBytes > 0 {
					db.Tend()
					live = living(t, db, all)
				}
				q := randomQuery(rng)
				answered += compare(t, db, q, live)
			}
		}
		if st := db.Stats(); opt.MaxBytes > 0 && (st.Profiles == len(all) || st.LogBytes > opt.MaxBytes || st.Stacks > 4000) {
			t.Errorf("seed %d: nothing was dropped, or too little: %+v", seed, st)
		}
		db.Close()
		if answered < 5 {
			t.Errorf("seed %d: %d questions had an answer", seed, answered)
		}
	}
}

// living is what of all is still there: a suffix.
func living(t *testing.T, db *store.DB, all []store.Upload) []store.Upload {
	t.Helper()
	n := db.Stats().Profiles
	if n > len(all) {
		t.Fatalf("%d profiles of %d", n, len(all))
	}
	return all[len(all)-n:]
}

func compare(t *testing.T, db *store.DB, q store.Query, all []store.Upload) int {
	t.Helper()
	ctx := context.Background()
	want, profiles, series := map[string]int64{}, 0, map[string]bool{}
	points := map[string]int64{}
	for _, u := range all {
		if !naive(q, u) {
			continue
		}
		profiles++
		series[u.Labels.String()] = true
		col := u.Profile.Column(q.Type.Sample.Type)
		for k, v := range canon(u.Profile, col) {
			want[k] += v
		}
		points[fmt.Sprint(u.Labels.Get(profile.LabelService), u.From.Unix()/60*60)] += u.Profile.Total(col)
	}
	maps.DeleteFunc(want, func(_ string, v int64) bool { return v == 0 })
	r, err := db.Select(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Profile.Check(); err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	if r.Profiles != profiles || r.Series != len(series) {
		t.Fatalf("%+v: %d profiles of %d series, want %d of %d", q, r.Profiles, r.Series, profiles, len(series))
	}
	if got := canon(r.Profile, 0); !maps.Equal(got, want) {
		maps.DeleteFunc(got, func(k string, v int64) bool {
			same := v == want[k]
			if same {
				delete(want, k)
			}
			return same
		})
		t.Fatalf("%+v: it differs in\n%.500v\nwant\n%.500v", q, fmt.Sprint(got), fmt.Sprint(want))
	}
	s, err := db.Series(ctx, store.SeriesQuery{Query: q, Step: time.Minute, GroupBy: []string{profile.LabelService}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, l := range s.Lines {
		for _, p := range l.Points {
			got[fmt.Sprint(l.Labels.Get(profile.LabelService), p.Time.Unix())] = p.Value
		}
	}
	if !maps.Equal(got, points) {
		t.Fatalf("%+v: series %v, want %v", q, got, points)
	}
	names := map[string]bool{}
	for l := range series {
		for _, w := range strings.Split(strings.Trim(l, "{}"), ", ") {
			if n, v, _ := strings.Cut(w, "="); n == profile.LabelVersion {
				names[strings.Trim(v, `"`)] = true
			}
		}
	}
	values, err := db.LabelValues(ctx, profile.LabelVersion, q)
	if err != nil || !slices.Equal(values, slices.Sorted(maps.Keys(names))) {
		t.Fatalf("%+v: versions %q, want %v: %v", q, values, names, err)
	}
	return min(profiles, 1)
}
