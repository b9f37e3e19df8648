package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
)

func watched(t *testing.T, db *store.DB, since time.Time) *store.Watch {
	t.Helper()
	w, err := db.Watch(since)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// told is what the watch has to say now: changes as text, in minutes after minute0. There must be something.
func told(t *testing.T, w *store.Watch) (out []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cs, err := w.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cs {
		out = append(out, fmt.Sprintf("%s/%s/%s %d-%d", c.Tenant, c.Service, c.Name, int(c.From.Sub(minute0)/time.Minute), int(c.To.Sub(minute0)/time.Minute)))
	}
	return out
}

func same(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// mark is a change that a test gives back, to see that there is no other.
var mark = store.Change{Tenant: "mark", From: minute0, To: minute0.Add(time.Minute)}

func appendAt(t *testing.T, db *store.DB, service string, at ...time.Duration) {
	t.Helper()
	for _, d := range at {
		if err := db.Append(context.Background(), stackUpload(t, service, "1", minute0.Add(d), map[string]int64{"main": 1})); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWatch: what is there at the beginning, what comes, late ones, all merged while nobody looks.
func TestWatch(t *testing.T) {
	db := openMem(t, vfs.NewMem(), store.Options{Now: func() time.Time { return epoch }})
	appendAt(t, db, "a", 0, 90*time.Second)
	w := watched(t, db, time.Time{})
	same(t, told(t, w), "default/a/process_cpu 0-2")
	appendAt(t, db, "a", 10*time.Minute, 12*time.Minute, 11*time.Minute+59*time.Second, -3*time.Minute)
	appendAt(t, db, "b", 10*time.Minute)
	same(t, told(t, w), "default/a/process_cpu -3--2", "default/a/process_cpu 10-13", "default/b/process_cpu 10-11")
	appendAt(t, db, "b", 10*time.Minute) // the same upload again changes nothing
	w.Again(mark)
	same(t, told(t, w), "mark// 0-1")

	// A change is told when questions are answered with it, and Append waits for nobody who looks.
	other := watched(t, db, time.Time{})
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			appendAt(t, db, fmt.Sprint("s", n), time.Duration(n)*time.Hour, time.Duration(n)*time.Hour+time.Minute)
		})
	}
	wg.Wait()
	seen := 0
	for seen < 8 {
		cs, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cs {
			r, err := db.Rollup(t.Context(), store.RollupQuery{Query: store.Query{Type: cpu, From: c.From, To: c.To}, Step: time.Minute, GroupBy: []string{"service_name"}})
			if err != nil || !slices.ContainsFunc(r.Groups, func(g store.RollupGroup) bool { return g.Labels.Get("service_name") == c.Service }) {
				t.Errorf("%+v is not in the answer: %v", c, err)
			}
			seen++
		}
	}
	if got := told(t, other); len(got) < 10 {
		t.Errorf("the other who watches: %q", got)
	}

	left, cancel := context.WithCancel(t.Context())
	cancel()
	other.Close()
	if _, err := other.Next(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("closed: %v", err)
	}
	if _, err := w.Next(left); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	waits := make(chan error, 1)
	go func() {
		_, err := w.Next(context.Background())
		waits <- err
	}()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waits; !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("the store is closed: %v", err)
	}
	if _, err := db.Watch(time.Time{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("watch after close: %v", err)
	}
}

// TestWatchAfterRestart: what was handed over before a restart, and what is in the log, is told; handing over is no change.
func TestWatchAfterRestart(t *testing.T) {
	mem := vfs.NewMem()
	opt := store.Options{Now: func() time.Time { return epoch.Add(3 * time.Hour) }}
	db, err := withBackend(mem, opt)
	if err != nil {
		t.Fatal(err)
	}
	w := watched(t, db, time.Time{})
	appendAt(t, db, "a", time.Minute, 2*time.Hour)
	same(t, told(t, w), "default/a/process_cpu 1-2", "default/a/process_cpu 120-121")
	flushed(t, db)
	appendAt(t, db, "b", 5*time.Minute)
	same(t, told(t, w), "default/b/process_cpu 5-6")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = withBackend(mem, opt); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	want := map[string]bool{"default/a/process_cpu 1-2": true, "default/a/process_cpu 120-121": true, "default/b/process_cpu 5-6": true}
	for w = watched(t, db, time.Time{}); len(want) > 0; {
		for _, c := range told(t, w) {
			if !want[c] {
				t.Errorf("%s is told", c)
			}
			delete(want, c)
		}
	}
	// Blocks that were made before are not.
	late := watched(t, db, epoch.Add(4*time.Hour))
	same(t, told(t, late), "default/b/process_cpu 5-6")
}

// TestWatchBounds: whatever comes in whatever order, every minute of it is told, and what is kept is bounded.
func TestWatchBounds(t *testing.T) {
	db := openMem(t, vfs.NewMem(), store.Options{Now: func() time.Time { return epoch }})
	defer db.Close()
	rng := rand.New(rand.NewPCG(1, 1))
	for round, c := range []struct{ changes, within int }{{10, 20}, {300, 400}, {4000, 20000}} {
		w := watched(t, db, time.Time{})
		want := map[int]bool{}
		for range c.changes {
			at, n := rng.IntN(c.within), 1+rng.IntN(3)
			from := minute0.Add(time.Duration(at) * time.Minute)
			w.Again(store.Change{Tenant: "t", Service: "s", From: from.Add(time.Duration(rng.IntN(60)) * time.Second), To: from.Add(time.Duration(n) * time.Minute)})
			for i := range n {
				want[at+i] = true
			}
		}
		cs, err := w.Next(t.Context())
		if err != nil || len(cs) > 256 {
			t.Fatalf("round %d: %d changes, %v", round, len(cs), err)
		}
		got, last := 0, time.Time{}
		for _, c := range cs {
			if !c.From.After(last) {
				t.Fatalf("round %d: %v after one that ends %v", round, c.From, last)
			}
			last = c.To
			for at := c.From; at.Before(c.To); at = at.Add(time.Minute) {
				got++
				delete(want, int(at.Sub(minute0)/time.Minute))
			}
		}
		if len(want) > 0 {
			t.Errorf("round %d: %d minutes are not told", round, len(want))
		}
		if most := c.within + 3; got > most {
			t.Errorf("round %d: %d minutes of %d", round, got, most)
		}
	}
	w := watched(t, db, time.Time{})
	for i := range store.MaxChangeKeys + 10 {
		w.Again(store.Change{Tenant: "t", Service: fmt.Sprint(i), Name: "n", From: minute0, To: minute0.Add(time.Minute)})
	}
	cs, err := w.Next(t.Context())
	if err != nil || len(cs) != store.MaxChangeKeys+1 || cs[0].Service != "" || cs[0].Tenant != "t" {
		t.Errorf("%d changes, the first %+v, %v", len(cs), cs[0], err)
	}
}
