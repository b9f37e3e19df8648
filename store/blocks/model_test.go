package blocks

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

// canon is column t of p in words: the sum by stack, outermost first, and sample labels.
func canon(into map[string]int64, p *profile.Profile, t int, takes func([]profile.SampleLabel) bool) {
	words := make([]string, p.Stacks.Len())
	for i := 1; i < len(words); i++ {
		w := words[p.Stacks.Parent[i]]
		l := p.Stacks.Loc[i]
		lines := p.LinesOf(l)
		for j := len(lines) - 1; j >= 0; j-- {
			w += fmt.Sprintf(";%s:%d", p.Strings[p.Functions[lines[j].Function].Name], lines[j].Line)
		}
		if len(lines) == 0 {
			m := p.Mappings[p.Locations[l].Mapping]
			w += fmt.Sprintf(";%s+%#x", p.Strings[m.File], p.Locations[l].Address-m.Start+m.Offset)
		}
		words[i] = w
	}
	for i, s := range p.SampleStack {
		set := p.LabelSets[p.SampleLabels[i]]
		if takes != nil && !takes(set) {
			continue
		}
		k := words[s]
		for _, l := range set {
			k += fmt.Sprintf(" [%s=%s%d%s]", p.Strings[l.Key], p.Strings[l.Str], l.Num, p.Strings[l.Unit])
		}
		into[k] += p.Values[t][i]
		if into[k] == 0 {
			delete(into, k)
		}
	}
}

// question is a random one, and what the model says to it.
type question struct {
	q    store.Query
	all  []*upload
	step time.Duration
	fns  []string
}

func randomQuestion(rng *rand.Rand, all []*upload) question {
	q := question{all: all, step: []time.Duration{time.Minute, 7 * time.Minute, time.Hour}[rng.IntN(3)]}
	q.q.Type = []profile.Type{cpuTime, counts}[rng.IntN(2)]
	if rng.IntN(2) == 0 {
		q.q.Matchers = append(q.q.Matchers, store.Matcher{Name: profile.LabelService, Op: store.MatchEqual, Value: fmt.Sprint("svc", rng.IntN(4))})
	}
	if rng.IntN(3) == 0 {
		q.q.Matchers = append(q.q.Matchers, store.Matcher{Name: profile.LabelVersion, Op: store.MatchNotEqual, Value: "v1"})
	}
	at := func() time.Time { return epoch.Add(time.Duration(rng.Int64N(int64(5*time.Hour))) - time.Hour) }
	switch rng.IntN(6) {
	case 5: // it begins and ends just beside profiles, within their minutes
		from, to := all[rng.IntN(len(all))].from, all[rng.IntN(len(all))].from
		q.q.From = time.Unix(0, min(from, to)+rng.Int64N(3)-1)
		q.q.To = time.Unix(0, max(from, to)+rng.Int64N(3))
	case 0: // since ever, until ever
	case 1:
		q.q.From = at()
	case 2:
		q.q.From = epoch
		q.q.To = epoch.Add(time.Duration(1+rng.IntN(3)) * time.Hour)
	case 3:
		q.q.From = at().Truncate(time.Minute)
		q.q.To = q.q.From.Add(time.Duration(rng.IntN(200)) * time.Minute)
	default:
		q.q.From = at()
		q.q.To = q.q.From.Add(time.Duration(rng.Int64N(int64(2 * time.Hour))))
	}
	if rng.IntN(4) == 0 {
		q.q.SampleMatchers = []store.Matcher{{Name: "span_id", Op: store.MatchRegexp, Value: "s[01]"}}
	}
	if rng.IntN(6) == 0 {
		for range 1 + rng.IntN(3) {
			q.q.IDs = append(q.q.IDs, block.ID{Lo: all[rng.IntN(len(all))].id})
		}
	}
	for range 1 + rng.IntN(3) {
		if f := fmt.Sprint("f", rng.IntN(13)); !slices.Contains(q.fns, f) {
			q.fns = append(q.fns, f)
		}
	}
	return q
}

// takes is the uploads that the question is about.
func (q *question) takes() (out []*upload) {
	for _, u := range q.all {
		ok := (q.q.From.IsZero() || u.from >= q.q.From.UnixNano()) && (q.q.To.IsZero() || u.from < q.q.To.UnixNano())
		for _, m := range q.q.Matchers {
			ok = ok && (u.labels.Get(m.Name) == m.Value) == (m.Op == store.MatchEqual)
		}
		if len(q.q.IDs) > 0 {
			ok = ok && slices.Contains(q.q.IDs, block.ID{Lo: u.id})
		}
		if ok {
			out = append(out, u)
		}
	}
	return out
}

func (q *question) column() int {
	if q.q.Type == cpuTime {
		return 1
	}
	return 0
}

func (q *question) sample(u *upload) func([]profile.SampleLabel) bool {
	if q.q.SampleMatchers == nil {
		return nil
	}
	return func(set []profile.SampleLabel) bool {
		return slices.ContainsFunc(set, func(l profile.SampleLabel) bool {
			return u.p.Strings[l.Key] == "span_id" && (u.p.Strings[l.Str] == "s0" || u.p.Strings[l.Str] == "s1")
		})
	}
}

// ask compares every answer of b with the model's.
func (q *question) ask(t *testing.T, b *Blocks) {
	ctx := context.Background()
	p := planOf(t, q.q)
	ups := q.takes()
	text := fmt.Sprintf("%+v", q.q)

	want := map[string]int64{}
	for _, u := range ups {
		canon(want, u.p, q.column(), q.sample(u))
	}
	g := store.NewGather(1 << 30)
	if err := b.Select(ctx, p, nil, g); err != nil {
		t.Fatal(err)
	}
	r := g.Result(p)
	got := map[string]int64{}
	canon(got, r.Profile, 0, nil)
	if err := r.Profile.Check(); err != nil || !maps.Equal(got, want) || r.Profiles != len(ups) {
		t.Fatalf("%s: select: %d profiles, want %d, %v\ngot  %v\nwant %v", text, r.Profiles, len(ups), err, got, want)
	}

	wantLines, gotLines := map[string]int64{}, map[string]int64{}
	for _, u := range ups {
		k := fmt.Sprint(labelsOf(profile.LabelService, u.labels.Get(profile.LabelService)), align(u.from, int64(q.step)))
		own := map[string]int64{}
		canon(own, u.p, q.column(), q.sample(u))
		for _, v := range own {
			wantLines[k] += v
		}
		wantLines[k] += 0
		wantLines[k+" n"]++
	}
	err := b.Series(ctx, p, q.step, []string{profile.LabelService}, nil, func(ls profile.Labels, pt store.Point) {
		k := fmt.Sprint(ls, pt.Time.UnixNano())
		gotLines[k] += pt.Value
		gotLines[k+" n"] += int64(pt.Profiles)
	})
	if err != nil || !maps.Equal(gotLines, wantLines) {
		t.Fatalf("%s: series: %v\ngot  %v\nwant %v", text, err, gotLines, wantLines)
	}

	wantSeries, gotSeries := map[string][3]int64{}, map[string][3]int64{}
	see := func(into map[string][3]int64, k string, n, first, last int64) {
		s, ok := into[k]
		if !ok {
			s = [3]int64{0, first, last}
		}
		into[k] = [3]int64{s[0] + n, min(s[1], first), max(s[2], last)}
	}
	for _, u := range ups {
		see(wantSeries, u.labels.String()+q.q.Type.String(), 1, u.from, u.to)
	}
	err = b.Catalog(ctx, p, nil, func(k store.Known) {
		see(gotSeries, k.Labels.String()+k.Type.String(), int64(k.Profiles), k.First, k.Last)
	})
	if err != nil || !maps.Equal(gotSeries, wantSeries) {
		t.Fatalf("%s: catalog: %v\ngot  %v\nwant %v", text, err, gotSeries, wantSeries)
	}

	wantIDs, gotIDs := map[string]int{}, map[string]int{}
	for _, u := range ups {
		own, total := map[string]int64{}, int64(0)
		canon(own, u.p, q.column(), q.sample(u))
		for _, v := range own {
			total += v
		}
		wantIDs[fmt.Sprint(u.id, u.labels, u.from, u.to, total)]++
	}
	err = b.Profiles(ctx, p, nil, func(i store.ProfileInfo) bool {
		gotIDs[fmt.Sprint(i.ID.Lo, i.Labels, i.From.UnixNano(), i.To.UnixNano(), i.Total)]++
		return true
	})
	if err != nil || !maps.Equal(gotIDs, wantIDs) {
		t.Fatalf("%s: profiles: %v\ngot  %v\nwant %v", text, err, gotIDs, wantIDs)
	}
	q.askTrend(t, b, p, ups, text)
	q.askRollup(t, b, text)
}

// askRollup asks for all functions, twice: the second time what blocks had to say as a whole may be in memory.
func (q *question) askRollup(t *testing.T, b *Blocks, text string) {
	in := *q
	if in.q.From.IsZero() {
		in.q.From = epoch.Add(-90 * time.Minute)
	}
	if in.q.To.IsZero() {
		in.q.To = epoch.Add(4 * time.Hour)
	}
	if !in.q.To.After(in.q.From) {
		return
	}
	type cell struct {
		service, fn string
		column      int
	}
	type facts struct {
		total               int64
		profiles, instances int
	}
	start := align(in.q.From.UnixNano(), int64(q.step))
	want, wantFacts, seen := map[cell]fnSums{}, map[cell]facts{}, map[string]bool{}
	for _, u := range in.takes() {
		at := cell{service: u.labels.Get(profile.LabelService), column: int((u.from - start) / int64(q.step))}
		f := wantFacts[at]
		f.profiles++
		if k := fmt.Sprint(at, u.labels.Get(profile.LabelInstance)); !seen[k] {
			seen[k] = true
			f.instances++
		}
		own := map[string]int64{}
		canon(own, u.p, q.column(), q.sample(u))
		for _, v := range own {
			f.total += v
		}
		wantFacts[at] = f
		for fn, s := range u.functionsOf(q.column(), q.sample(u)) {
			k := at
			k.fn = fn
			want[k] = fnSums{self: want[k].self + s.self, cumulative: want[k].cumulative + s.cumulative}
		}
	}
	maps.DeleteFunc(want, func(_ cell, s fnSums) bool { return s == fnSums{} })
	rq := store.RollupQuery{Query: in.q, Step: q.step, GroupBy: []string{profile.LabelService}}
	p := planOf(t, rq.Query)
	for range 2 {
		g := store.NewRollupGather(1<<30, p, rq)
		if err := b.Rollup(context.Background(), p, rq, nil, g); err != nil {
			t.Fatalf("%s: roll-up: %v", text, err)
		}
		r, err := g.Result(context.Background())
		if err != nil {
			t.Fatalf("%s: roll-up: %v", text, err)
		}
		got, gotFacts := map[cell]fnSums{}, map[cell]facts{}
		for _, group := range r.Groups {
			at := cell{service: group.Labels.Get(profile.LabelService)}
			for i := range group.Total {
				at.column = i
				if f := (facts{group.Total[i], group.Profiles[i], group.Instances[i]}); f != (facts{}) {
					gotFacts[at] = f
				}
			}
			for _, f := range group.Functions {
				f.Each(func(i int, self, cumulative int64) {
					got[cell{at.service, f.Name, i}] = fnSums{self: self, cumulative: cumulative}
				})
			}
		}
		if !maps.Equal(got, want) || !maps.Equal(gotFacts, wantFacts) {
			t.Fatalf("%s: roll-up by %v:\ngot  %v\n     %v\nwant %v\n     %v", text, q.step, got, gotFacts, want, wantFacts)
		}
	}
}

func (q *question) askTrend(t *testing.T, b *Blocks, p *store.Plan, ups []*upload, text string) {
	want, got := map[string]fnSums{}, map[string]fnSums{}
	add := func(into map[string]fnSums, fn, service string, at int64, f fnSums) {
		if f == (fnSums{}) {
			return
		}
		k := fmt.Sprint(fn, " ", service, " ", align(at, int64(q.step)))
		s := into[k]
		into[k] = fnSums{s.self + f.self, s.cumulative + f.cumulative, s.samples + f.samples}
	}
	for _, u := range ups {
		for fn, f := range u.functionsOf(q.column(), q.sample(u)) {
			if slices.Contains(q.fns, fn) {
				add(want, fn, u.labels.Get(profile.LabelService), u.from, f)
			}
		}
	}
	tq := store.TrendQuery{Query: q.q, Functions: q.fns, Step: q.step, GroupBy: []string{profile.LabelService}}
	err := b.Trend(context.Background(), p, tq, nil, func(fn string, ls profile.Labels, pt store.TrendPoint) {
		add(got, fn, ls.Get(profile.LabelService), pt.Time.UnixNano(), fnSums{pt.Self, pt.Cumulative, pt.Samples})
	})
	if err != nil || !maps.Equal(got, want) {
		t.Fatalf("%s: trend of %v by %v: %v\ngot  %v\nwant %v", text, q.fns, q.step, err, got, want)
	}
}

// TestModel compares answers with those of a model that keeps uploads in a slice, over blocks of all levels, with
// memory and without, while blocks wait and when the bucket has them.
func TestModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(42, 1))
	for round := range 6 {
		mem := vfs.NewMem()
		opt := testOptions(mem)
		opt.MemoryBytes = []int64{-1, 1 << 20, 64 << 20}[round%3]
		b := openBlocks(t, folder(t, mem), opt)
		var all []*upload
		next := 1
		for hour := range 3 {
			start := epoch.Add(time.Duration(hour) * time.Hour)
			for range 1 + rng.IntN(3) {
				var ups []*upload
				for range 1 + rng.IntN(12) {
					at := time.Duration(rng.Int64N(int64(time.Hour)))
					if rng.IntN(3) == 0 {
						at = at.Truncate(time.Minute)
					}
					u := randomUpload(rng, uint64(len(all)+1), start.Add(at))
					ups, all = append(ups, u), append(all, u)
				}
				level := block.Level(rng.IntN(4))
				partition := start
				if level == block.LevelDay {
					partition = start.Truncate(24 * time.Hour)
				}
				if err := b.Put(context.Background(), []store.Staged{writeBlock(t, mem, next, level, partition, ups)}); err != nil {
					t.Fatal(err)
				}
				next++
			}
		}
		for i := range 60 {
			if i == 30 {
				settled(t, b)
			}
			q := randomQuestion(rng, all)
			q.ask(t, b)
		}
		if ws := b.Warnings(); ws != nil {
			t.Errorf("%q", ws)
		}
		b.Close()
	}
}
