package watch

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// TestRing: whatever is read again, moved on or blanked, the table is what a table made anew would be.
func TestRing(t *testing.T) {
	w := newWorld(t)
	typ, err := profile.ParseType("process_cpu:cpu:nanoseconds:cpu:nanoseconds")
	if err != nil {
		t.Fatal(err)
	}
	r := newRing(typ, noon, 10)
	for i := range 25 {
		of := shares{}
		for n := range 1 + i%4 {
			of[fmt.Sprint("f", (i+n)%7)] = 100 * (n + 1)
		}
		w.now = noon.Add(time.Duration(i)*time.Minute + 30*time.Second)
		w.push("a", "v1", of)
		end := noon.Add(time.Duration(i+1) * time.Minute)
		r.shift(end)
		from := end.Add(-time.Duration(1+rand.N(4)) * time.Minute)
		ask := func(from time.Time) *store.RollupResult {
			res, err := w.db.Rollup(t.Context(), store.RollupQuery{Query: store.Query{Type: typ, From: from, To: end}, Step: column})
			if err != nil {
				t.Fatal(err)
			}
			return res
		}
		r.put(ask(from), 100)
		fresh := newRing(typ, end, 10)
		fresh.put(ask(fresh.start), 100)
		if got, want := fmt.Sprintf("%+v", r.table("s", 1, 0.01)), fmt.Sprintf("%+v", fresh.table("s", 1, 0.01)); got != want {
			t.Fatalf("minute %d:\n%s\nwant\n%s", i, got, want)
		}
	}
	if r.put(&store.RollupResult{Start: noon.Add(-time.Hour), Step: column, Steps: 3}, 100); r.total[9] == 0 {
		t.Error("columns from before the ring were taken in")
	}
	full := newRing(typ, w.now.Truncate(column).Add(column), 10)
	res, err := w.db.Rollup(t.Context(), store.RollupQuery{Query: store.Query{Type: typ, From: full.start, To: full.end()}, Step: column})
	if err != nil {
		t.Fatal(err)
	}
	if full.put(res, 2); len(full.lines) != 2 || full.dropped == 0 {
		t.Errorf("%d lines, %d were left out", len(full.lines), full.dropped)
	}
	full.blank(0, 10)
	for name, l := range full.lines {
		if l.sum > 1 || l.sum < -1 {
			t.Errorf("%s has %v after all was blanked", name, l.sum)
		}
	}
}
