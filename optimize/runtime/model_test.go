package runtime

import (
	"math"
	stdruntime "runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

// node is what is live: small objects with pointers, as programs have.
type node struct {
	next *node
	_    [48]byte
}

var (
	kept *node
	sunk []byte
)

// TestModel: the goal of this runtime's collector is what the model says, at each GOGC, and it runs once for each room of allocations. What a
// cycle marks does not depend on GOGC, so the time for marking follows; docs/runtime.md has that measured on a whole program.
func TestModel(t *testing.T) {
	found, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(math.MaxInt64)
	defer func() {
		kept, sunk = nil, nil
		debug.SetGCPercent(found)
		debug.SetMemoryLimit(limit)
	}()
	for range 500_000 { // 28 MiB
		kept = &node{next: kept}
	}
	for _, gogc := range []int{20, 50, 100, 200, 400} {
		debug.SetGCPercent(gogc)
		stdruntime.GC() // live and the goal are of this GOGC
		begin := figuresNow()
		rooms, looks, last := 0.0, 0.0, begin
		for last.allocated-begin.allocated < 12*room(begin.live, begin.roots, float64(gogc)) {
			for range 100 {
				sunk = make([]byte, 1<<10)
			}
			last = figuresNow()
			r := room(last.live, last.roots, float64(gogc))
			if d := (last.goal - last.live) / r; d < 0.97 || d > 1.03 {
				// A cycle that ended between the two figures shows the live heap of one and the goal of the other.
				if again := figuresNow(); math.Abs((again.goal-again.live)/room(again.live, again.roots, float64(gogc))-1) > 0.03 {
					t.Errorf("GOGC %d: a goal of %.1f MiB with %.1f live and %.2f of roots: the room is %.2f of the model's", gogc, again.goal/(1<<20), again.live/(1<<20), again.roots/(1<<20), d)
				}
			}
			rooms, looks = rooms+r, looks+1
		}
		cycles, want := last.cycles-begin.cycles, (last.allocated-begin.allocated)/(rooms/looks)
		t.Logf("GOGC %d: %.1f MiB from one cycle to the next: %.0f cycles, by the model %.1f", gogc, rooms/looks/(1<<20), cycles, want)
		// A cycle begins before the goal, and what is allocated while it marks counts as live: the next one is later by that. Where marking waits for
		// a processor beside other tests, that is as much as the room itself.
		if cycles < 0.35*want-1 || cycles > 1.4*want+1 {
			t.Errorf("GOGC %d: %.0f cycles, the model says %.1f", gogc, cycles, want)
		}
	}
}

type modelFigures struct{ live, goal, roots, cycles, allocated float64 }

func figuresNow() (f modelFigures) {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}, {Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/goal:bytes"}}
	metrics.Read(s)
	n := func(i int) float64 { return float64(s[i].Value.Uint64()) }
	return modelFigures{n(0), n(5), n(1) + n(2), n(3), n(4)}
}

// TestRoom: by hand, the heap's minimum among it.
func TestRoom(t *testing.T) {
	for _, c := range []struct{ live, roots, gogc, want float64 }{
		{40 << 20, 0, 100, 40 << 20},
		{40 << 20, 10 << 20, 50, 25 << 20},
		{1 << 20, 0, 100, 3 << 20},  // a goal of 4 MiB
		{1 << 20, 0, 400, 15 << 20}, // of 16
		{3 << 20, 0, 200, 6 << 20},  // 8 - 3 is less than 6
		{40 << 20, 0, 10, 4 << 20},
	} {
		if got := room(c.live, c.roots, c.gogc); math.Abs(got-c.want) > 1 {
			t.Errorf("%v live, %v of roots, GOGC %v: %v, want %v", c.live, c.roots, c.gogc, got, c.want)
		}
	}
}
