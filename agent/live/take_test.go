package live

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"net"
)

// inStates has goroutines in known states until the test ends. It returns when each is there.
func inStates(t *testing.T) {
	t.Helper()
	c, s, stop := make(chan int), make(chan int), make(chan int)
	var mu sync.Mutex
	var rw sync.RWMutex
	var busy, all sync.WaitGroup
	busy.Add(1)
	cond := sync.NewCond(new(sync.Mutex))
	mu.Lock()
	rw.Lock()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		all.Go(func() { <-c })
	}
	all.Go(func() {
		select {
		case s <- 1:
		case <-stop:
		}
	})
	sending := make(chan int)
	all.Go(func() { sending <- 1 })
	all.Go(func() { mu.Lock(); mu.Unlock() })   //lint:ignore SA2001 it is for the waiting
	all.Go(func() { rw.RLock(); rw.RUnlock() }) //lint:ignore SA2001 it is for the waiting
	all.Go(func() { busy.Wait() })
	all.Go(func() { cond.L.Lock(); cond.Wait(); cond.L.Unlock() })
	all.Go(func() { l.Accept() })
	all.Go(func() { runtime.LockOSThread(); <-c })
	t.Cleanup(func() {
		close(c)
		close(stop)
		<-sending
		mu.Unlock()
		rw.Unlock()
		busy.Done()
		cond.L.Lock()
		cond.Broadcast()
		cond.L.Unlock()
		l.Close()
		all.Wait()
	})
	want := map[string]int{"chan receive": 4, "select": 1, "chan send": 1, "sync.Mutex.Lock": 1, "sync.RWMutex.RLock": 1,
		"sync.WaitGroup.Wait": 1, "sync.Cond.Wait": 1, "IO wait": 1}
	for try := 0; ; try++ {
		snap, err := Take(context.Background(), Options{Full: true})
		if err != nil {
			t.Fatal(err)
		}
		if got := byState(mine(snap)); maps.Equal(got, want) {
			return
		}
		if try > 100_000 {
			t.Fatalf("%v, want %v", byState(mine(snap)), want)
		}
		runtime.Gosched()
	}
}

// mine are the goroutines that inStates made.
func mine(s Snapshot) Snapshot {
	s.Groups = slices.DeleteFunc(slices.Clone(s.Groups), func(g Group) bool {
		return !strings.Contains(g.Entry(), "live.inStates.func")
	})
	return s
}

// TestTakeAgrees: the two ways to look at this process find the same goroutines at the same places in the same states.
func TestTakeAgrees(t *testing.T) {
	inStates(t)
	full, err := Take(t.Context(), Options{Full: true})
	if err != nil {
		t.Fatal(err)
	}
	counts, err := Take(t.Context(), Options{MaxPause: -1})
	if err != nil {
		t.Fatal(err)
	}
	check(t, full)
	check(t, counts)
	if full.Detail != Full || counts.Detail != Counts || full.Truncated || counts.Truncated || full.Took <= 0 || counts.Took <= 0 || full.Time.IsZero() {
		t.Errorf("%s, %s; truncated %v, %v", full.Detail, counts.Detail, full.Truncated, counts.Truncated)
	}
	kinds := func(s Snapshot) map[string]int {
		m := map[string]int{}
		for _, g := range mine(s).Groups {
			g.Creator = nil
			m[strings.ReplaceAll(g.kind(), "\n", " < ")] += g.Count
		}
		return m
	}
	f, c := kinds(full), kinds(counts)
	for k, n := range f {
		if c[k] != n {
			t.Errorf("full has %d of %q, counts %d", n, k, c[k])
		}
	}
	if len(f) < 8 || len(f) != len(c) {
		t.Errorf("%d kinds in full, %d in counts: %q", len(f), len(c), slices.Collect(maps.Keys(c)))
	}
	for _, s := range []Snapshot{full, counts} {
		if n := byState(s)["running"]; n != 1 {
			t.Errorf("%s: %d goroutines run; the one that looks does", s.Detail, n)
		}
	}
	for _, g := range mine(full).Groups {
		if g.Creator == nil || g.Creator.Func != "sync.(*WaitGroup).Go" || len(g.Parents) != 1 {
			t.Errorf("creator: %+v", g)
		}
	}
}

// TestTakeChooses: the full list is taken as long as the stop is predicted to be short; what
// was learned is used, and forgotten again.
func TestTakeChooses(t *testing.T) {
	taking.Lock()
	was := taking.cost
	taking.Unlock()
	t.Cleanup(func() { set(was) })
	c := make(chan int)
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() { <-c })
	}
	t.Cleanup(func() { close(c); all.Wait() })
	for _, try := range []struct {
		cost time.Duration
		o    Options
		want Detail
	}{
		{0, Options{}, Counts}, // 1,000 at the first estimate are 6 ms
		{time.Microsecond, Options{}, Full},
		{time.Microsecond, Options{MaxPause: 100 * time.Microsecond}, Counts},
		{50 * time.Microsecond, Options{Full: true}, Full},
		{50 * time.Microsecond, Options{MaxPause: time.Second}, Full},
		{50 * time.Microsecond, Options{}, Counts},
	} {
		set(try.cost)
		s, err := Take(t.Context(), try.o)
		if err != nil {
			t.Fatal(err)
		}
		if s.Detail != try.want || s.Total < 1000 {
			t.Errorf("%v a goroutine, %+v: %s of %d, want %s", try.cost, try.o, s.Detail, s.Total, try.want)
		}
	}
	set(mostCost)
	for range 20 {
		if _, err := Take(t.Context(), Options{MaxPause: -1}); err != nil {
			t.Fatal(err)
		}
	}
	if taking.cost > firstCost+time.Microsecond {
		t.Errorf("after twenty snapshots by counts a goroutine is still thought to cost %v", taking.cost)
	}
}

func set(cost time.Duration) {
	taking.Lock()
	taking.cost, taking.bytes = cost, 1024
	taking.Unlock()
}

func TestTakeEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Take(ctx, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// BenchmarkTake is what a snapshot costs by the number of goroutines: for full the time is the time
// the program stands still, for counts it is processor time beside the running program.
func BenchmarkTake(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		c := make(chan int)
		var all sync.WaitGroup
		for range n {
			all.Go(func() { <-c })
		}
		for _, o := range []Options{{Full: true}, {MaxPause: -1}} {
			b.Run(fmt.Sprintf("%d/full=%v", n, o.Full), func(b *testing.B) {
				b.ReportAllocs()
				var took time.Duration
				for b.Loop() {
					s, err := Take(b.Context(), o)
					if err != nil || s.Total < n {
						b.Fatal(s.Total, err)
					}
					took += s.Took
				}
				b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "took-ns/op")
			})
		}
		close(c)
		all.Wait()
	}
}

func BenchmarkParseDump(b *testing.B) {
	text := strings.Repeat(string(dumpFile(b, "go1.26-minutes.txt"))+"\n", 100)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if s, err := ParseDump(strings.NewReader(text), Limits{}); err != nil || s.Total != 14000 {
			b.Fatal(s.Total, err)
		}
	}
}
