package store_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

var minute0 = epoch.Truncate(time.Minute)

// minutes is a question over the n minutes from minute0.
func minutes(n int) store.RollupQuery {
	return store.RollupQuery{Query: store.Query{Type: cpu, From: minute0, To: minute0.Add(time.Duration(n) * time.Minute)}, Step: time.Minute}
}

// stackUpload has a sample for each stack: names from the root to the leaf, joined by ";", and its value.
func stackUpload(t testing.TB, service, instance string, from time.Time, stacks map[string]int64) store.Upload {
	t.Helper()
	b := profile.NewBuilder(profile.ValueType{Type: "samples", Unit: "count"}, profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	for path, v := range stacks {
		node := uint32(0)
		for _, name := range strings.Split(path, ";") {
			s := b.String(name)
			node = b.Stack(node, b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: s, SystemName: s}), Line: 1}))
		}
		b.Add(node, 0, v, v*10_000_000)
	}
	p := b.Profile()
	p.PeriodType, p.Period = profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, 10_000_000
	labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: service}, profile.Label{Name: profile.LabelInstance, Value: instance})
	if err != nil {
		t.Fatal(err)
	}
	return store.Upload{Name: "process_cpu", Labels: labels, From: from, To: from.Add(10 * time.Second), Profile: p, Pprof: p.AppendPprof(nil)}
}

// words is a function's values as text, in samples.
func words(f *store.RollupFunction) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:", f.Name)
	f.Each(func(i int, self, cumulative int64) {
		fmt.Fprintf(&b, " %d=%d/%d", i, self/10_000_000, cumulative/10_000_000)
	})
	return b.String()
}

// TestRollup is known answers: recursion, minutes between, who is left out.
func TestRollup(t *testing.T) {
	db := openMem(t, vfs.NewMem(), store.Options{Now: func() time.Time { return epoch }})
	defer db.Close()
	ctx := context.Background()
	for _, u := range []store.Upload{
		stackUpload(t, "a", "1", minute0.Add(5*time.Second), map[string]int64{"main;f;g;f": 7, "main;f": 2, "main": 91}),
		stackUpload(t, "a", "2", minute0.Add(9*time.Second), map[string]int64{"main;f": 100}),
		stackUpload(t, "a", "2", minute0.Add(125*time.Second), map[string]int64{"main;rare": 1, "main": 999}),
		stackUpload(t, "b", "1", minute0.Add(60*time.Second), map[string]int64{"main;rare": 50, "main;g": 1, "main": 949}),
		stackUpload(t, "b", "1", minute0.Add(4*time.Minute), map[string]int64{"main;late": 50}), // past the range
	} {
		if err := db.Append(ctx, u); err != nil {
			t.Fatal(err)
		}
	}
	q := minutes(4)
	q.GroupBy = []string{profile.LabelService}
	for _, c := range []struct {
		share float64
		out   int
		a, b  string
	}{
		{0, 0, "f: 0=109/109|g: 0=0/7|main: 0=91/200 2=999/1000|rare: 2=1/1", "g: 1=1/1|main: 1=949/1000|rare: 1=50/50"},
		// rare has 0.08 % of a, and stays there as it has 5 % of b.
		{0.05, 1, "f: 0=109/109|main: 0=91/200 2=999/1000|rare: 2=1/1", "main: 1=949/1000|rare: 1=50/50"},
		{0.06, 2, "f: 0=109/109|main: 0=91/200 2=999/1000", "main: 1=949/1000"},
	} {
		q.MinShare = c.share
		r, err := db.Rollup(ctx, q)
		if err != nil || len(r.Groups) != 2 || r.Steps != 4 || !r.Start.Equal(minute0) || r.LeftOut != c.out {
			t.Fatalf("%+v, %v", r, err)
		}
		for n, want := range []string{c.a, c.b} {
			var got []string
			for i := range r.Groups[n].Functions {
				got = append(got, words(&r.Groups[n].Functions[i]))
			}
			if strings.Join(got, "|") != want {
				t.Errorf("share %v, group %d: %q, want %q", c.share, n, got, want)
			}
		}
		a := r.Groups[0]
		if fmt.Sprint(a.Total, a.Profiles, a.Instances) != "[2000000000 0 10000000000 0] [2 0 1 0] [2 0 1 0]" {
			t.Errorf("%v %v %v", a.Total, a.Profiles, a.Instances)
		}
	}
	self, full := make([]float32, 4), make([]float32, 4)
	q.MinShare = 0
	r, err := db.Rollup(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	r.Groups[0].Functions[2].AddTo(self, full)
	if fmt.Sprint(self, full) != "[9.1e+08 0 9.99e+09 0] [2e+09 0 1e+10 0]" {
		t.Error(self, full)
	}
}

// TestRollupRefuses: what is asked wrongly is ErrInvalid, and what is too much is ErrTooLarge and says what to do.
func TestRollupRefuses(t *testing.T) {
	db := openMem(t, vfs.NewMem(), store.Options{Now: func() time.Time { return epoch }, QueryMemory: 100_000})
	defer db.Close()
	ctx := context.Background()
	change := func(f func(*store.RollupQuery)) store.RollupQuery {
		q := minutes(4)
		f(&q)
		return q
	}
	for n, q := range []store.RollupQuery{
		change(func(q *store.RollupQuery) { q.Type = profile.Type{} }),
		change(func(q *store.RollupQuery) { q.Step = time.Second }),
		change(func(q *store.RollupQuery) { q.Step = 90 * time.Second }),
		change(func(q *store.RollupQuery) { q.From = time.Time{} }),
		change(func(q *store.RollupQuery) { q.To = time.Time{} }),
		change(func(q *store.RollupQuery) { q.To = q.From }),
		change(func(q *store.RollupQuery) { q.To = q.From.Add(store.MaxSteps * time.Minute) }),
		change(func(q *store.RollupQuery) { q.From = time.Unix(-1<<50, 0) }),
		change(func(q *store.RollupQuery) { q.MinShare = 1 }),
		change(func(q *store.RollupQuery) { q.MinShare = -0.1 }),
		change(func(q *store.RollupQuery) { q.MinShare = math.NaN() }),
		change(func(q *store.RollupQuery) { q.GroupBy = []string{"a b"} }),
	} {
		if _, err := db.Rollup(ctx, q); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%d: %v", n, err)
		}
	}
	if r, err := db.Rollup(ctx, minutes(4)); err != nil || len(r.Groups) != 0 || r.Steps != 4 {
		t.Errorf("nothing there: %+v, %v", r, err)
	}
	many := map[string]int64{}
	for i := range 2000 {
		many[fmt.Sprint("main;function", i)] = 1
	}
	if err := db.Append(ctx, stackUpload(t, "a", "1", minute0, many)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Rollup(ctx, minutes(4)); !errors.Is(err, store.ErrTooLarge) || !strings.Contains(err.Error(), "shorter range") {
		t.Errorf("too much: %v", err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := db.Rollup(done, minutes(4)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestRollupMemory: 100,000 functions with values in each of 120 minutes, from a dozen sources, are answered within a question's usual
// bound, and the answer itself takes 100 MB at the most.
func TestRollupMemory(t *testing.T) {
	const functions, columns, sources = 100_000, 120, 12
	if functions*sources < 2*store.MaxGatherRows {
		t.Fatal("the sources' rows are never merged: nothing is proven")
	}
	q := minutes(columns)
	p, err := q.Query.Plan()
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, functions)
	for i := range names {
		names[i] = fmt.Sprintf("github.com/a/b/c.(*Type%d).Method", i)
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	g := store.NewRollupGather(256<<20, p, q)
	value := func(fn, column int) int64 { return int64(1+(fn*7+column*13)%300) * 10_000_000 }
	most := int64(0)
	for n := range sources {
		from := minute0.Add(time.Duration(n*columns/sources) * time.Minute)
		part := g.Part(from.UnixNano(), from.Add(columns/sources*time.Minute).UnixNano())
		group, err := part.Group(nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range names {
			fn, err := part.Function(name)
			if err != nil {
				t.Fatal(err)
			}
			for c := range columns / sources {
				v := value(i, n*columns/sources+c)
				if err := part.Add(fn, group, from.Add(time.Duration(c)*time.Minute).UnixNano(), v/3/10_000_000*10_000_000, v); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := part.Profiles(group, "", from.UnixNano(), 1); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(part.Done(), g.Add(part)); err != nil {
			t.Fatalf("source %d: %v", n, err)
		}
		most = max(most, g.Used())
	}
	r, err := g.Result(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	most = max(most, g.Used())
	g = nil
	if took := heap() - before; took > 100<<20 {
		t.Errorf("the answer takes %d MiB", took>>20)
	} else {
		t.Logf("the answer takes %d MiB, accounted on the way %d MiB", took>>20, most>>20)
	}
	if len(r.Groups) != 1 || len(r.Groups[0].Functions) != functions {
		t.Fatalf("%d groups", len(r.Groups))
	}
	for i := range r.Groups[0].Functions {
		var fn int
		f := &r.Groups[0].Functions[i]
		if _, err := fmt.Sscanf(f.Name, "github.com/a/b/c.(*Type%d).Method", &fn); err != nil {
			t.Fatal(err)
		}
		next := 0
		f.Each(func(c int, _, v int64) {
			if c != next || v != value(fn, c) {
				t.Fatalf("%s: column %d has %d, want %d", f.Name, c, v, value(fn, c))
			}
			next++
		})
		if next != columns {
			t.Fatalf("%s has %d columns", f.Name, next)
		}
	}
}

// BenchmarkRollupHead is all functions of 20 services with 1,000 functions each over 60 minutes, two instances of each, from memory
// alone: what analysis asks every few seconds of what has not been handed over.
func BenchmarkRollupHead(b *testing.B) {
	db, err := store.Open(context.Background(), b.TempDir(), store.Options{Now: func() time.Time { return epoch.Add(time.Hour) }})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	var wg sync.WaitGroup
	for service := range 20 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(service), 1))
			for minute := range 60 {
				for instance := range 2 {
					stacks := map[string]int64{}
					for fn := range 1000 {
						stacks[fmt.Sprintf("main;serve%d;handle%d;f%d", fn%20, fn%200, fn)] = int64(rng.IntN(4))
					}
					at := minute0.Add(time.Duration(minute)*time.Minute + time.Duration(instance)*time.Second)
					if err := db.Append(context.Background(), stackUpload(b, fmt.Sprint("service-", service), fmt.Sprint(instance), at, stacks)); err != nil {
						b.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	for _, c := range []struct {
		name     string
		from, to int
		share    float64
	}{{"60 min", 0, 60, 0}, {"60 min, from 0.01 %", 0, 60, 0.0001}, {"last 2 min", 58, 60, 0}} {
		q := minutes(60)
		q.From, q.To = minute0.Add(time.Duration(c.from)*time.Minute), minute0.Add(time.Duration(c.to)*time.Minute)
		q.GroupBy, q.MinShare = []string{profile.LabelService}, c.share
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r, err := db.Rollup(context.Background(), q)
				if err != nil || len(r.Groups) != 20 || len(r.Groups[7].Functions) < 1000 {
					b.Fatal(err)
				}
			}
		})
	}
}
