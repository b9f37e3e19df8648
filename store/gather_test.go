package store_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
	"github.com/quantra-l/quantra/store/storetest"
)

// source is p's first column as a block would add it.
func source(p *profile.Profile) (*block.Tables, *store.Sums) {
	t := &block.Tables{Strings: p.Strings, Mappings: p.Mappings, Functions: p.Functions, Lines: p.Lines, Locations: p.Locations,
		Stacks: p.Stacks, StackIDs: p.StackIDs(), LabelSets: p.LabelSets}
	s := store.NewSums(p.Stacks.Len())
	for i, stack := range p.SampleStack {
		if set := p.SampleLabels[i]; set != 0 {
			s.Labelled[uint64(set)<<32|uint64(stack)] += p.Values[0][i]
		} else {
			s.Dense[stack] += p.Values[0][i]
		}
	}
	s.Profiles, s.From, s.To, s.Duration, s.Period, s.ShortestPeriod = 1, 10, 20, 10, 7, 7
	s.Series[1] = struct{}{}
	return t, s
}

// TestGather: sources whose dictionaries differ, added from several goroutines, are the sum stack by stack.
func TestGather(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 9))
	for range 50 {
		g := store.NewGather(1 << 30)
		want := map[string]int64{}
		var wg sync.WaitGroup
		n := rng.IntN(6)
		for range n {
			p := storetest.RandomProfile(rng, storetest.Kinds["process_cpu"], 1+rng.IntN(30))
			for k, v := range storetest.Canon(p, 0, nil) {
				want[k] += v
			}
			wg.Go(func() {
				if err := g.Add(source(p)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		plan, err := store.Query{Type: cpu}.Plan()
		if err != nil {
			t.Fatal(err)
		}
		r := g.Result(plan)
		if err := r.Profile.Check(); err != nil {
			t.Fatal(err)
		}
		maps.DeleteFunc(want, func(_ string, v int64) bool { return v == 0 })
		if got := storetest.Canon(r.Profile, 0, nil); !maps.Equal(got, want) {
			t.Fatalf("got %v\nwant %v", got, want)
		}
		if r.Profiles != n || n > 0 && (r.Series != 1 || r.From != time.Unix(0, 10).UTC() || r.Profile.DurationNanos != int64(10*n) || r.Profile.Period != 7 || r.Warnings != nil) {
			t.Fatalf("%+v", r)
		}
	}
}

// TestGatherBound: an answer that would be too large is an error that says what to do, and memory
// given back can be had again.
func TestGatherBound(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 9))
	g := store.NewGather(20_000)
	var err error
	for range 100 {
		if err = g.Add(source(storetest.RandomProfile(rng, storetest.Kinds["process_cpu"], 500))); err != nil {
			break
		}
	}
	if !errors.Is(err, store.ErrTooLarge) {
		t.Fatal(err)
	}
	g = store.NewGather(1000)
	for range 3 {
		if err := g.Reserve(900); err != nil {
			t.Fatal(err)
		}
		if err := g.Reserve(200); !errors.Is(err, store.ErrTooLarge) {
			t.Fatal(err)
		}
		g.Release(900)
	}
	tables, sums := source(storetest.RandomProfile(rng, storetest.Kinds["process_cpu"], 5))
	sums.Dense = sums.Dense[1:]
	if err := store.NewGather(1<<30).Add(tables, sums); !errors.Is(err, store.ErrCorrupt) {
		t.Error(err)
	}
}

// TestMatchSample: the span filter, and any tag.
func TestMatchSample(t *testing.T) {
	strings := []string{"", "span_id", "abc", "bytes", "op", "x", "y"}
	sets := [][]profile.SampleLabel{
		nil,
		{{Key: 1, Str: 2}},
		{{Key: 3, Num: 4096}},
		{{Key: 4, Str: 5}, {Key: 4, Str: 6}},
	}
	for _, c := range []struct {
		matchers, want string
	}{
		{``, "[0 1 2 3]"},
		{`span_id="abc"`, "[1]"},
		{`span_id!="abc"`, "[0 2 3]"},
		{`span_id=""`, "[0 2 3]"},
		{`span_id!=""`, "[1]"},
		{`bytes="4096"`, "[2]"},
		{`bytes=~"40.*"`, "[2]"},
		{`op="x"`, "[3]"},
		{`op="y", op="x"`, "[3]"},
		{`op!="x"`, "[0 1 2]"},
		{`op!~"[xy]"`, "[0 1 2]"},
		{`op=~"[xz]", span_id=""`, "[3]"},
	} {
		ms, err := store.ParseMatchers(c.matchers)
		if err != nil {
			t.Fatal(err)
		}
		p, err := store.Query{SampleMatchers: ms}.Plan()
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for i, set := range sets {
			if p.MatchSample(strings, set) {
				got = append(got, i)
			}
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%s: %v, want %s", c.matchers, got, c.want)
		}
	}
}

// BenchmarkGather adds sources of many stacks, half of which each source shares with all others.
func BenchmarkGather(b *testing.B) {
	for _, c := range []struct{ sources, stacks int }{{60, 20_000}, {7, 300_000}} {
		b.Run(fmt.Sprintf("%dx%d", c.sources, c.stacks), func(b *testing.B) {
			rng := rand.New(rand.NewPCG(1, 1))
			var ts []*block.Tables
			var ss []*store.Sums
			for range c.sources {
				pb := profile.NewBuilder(storetest.Kinds["process_cpu"]...)
				nodes := []uint32{0}
				for i := range c.stacks {
					f := pb.Function(profile.Function{Name: pb.String(fmt.Sprint("f", rng.IntN(5000)))})
					at := nodes[rng.IntN(len(nodes))]
					nodes = append(nodes, pb.Stack(at, pb.Location(profile.Location{}, profile.Line{Function: f, Line: int64(i % 50)})))
					pb.Add(nodes[len(nodes)-1], 0, 1, 1)
				}
				t, s := source(pb.Profile())
				ts, ss = append(ts, t), append(ss, s)
			}
			for b.Loop() {
				g := store.NewGather(4 << 30)
				for i := range ts {
					if err := g.Add(ts[i], ss[i]); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
