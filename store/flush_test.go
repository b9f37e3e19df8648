package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/blocks"
	"github.com/quantra-l/quantra/store/bucket"
)

// withBackend opens the store on blocks in a folder of fs.
func withBackend(fs vfs.FS, opt store.Options) (*store.DB, error) {
	ctx := context.Background()
	b, err := bucket.Open(ctx, "file:///data/bucket", bucket.Options{FS: fs, Create: true})
	if err != nil {
		return nil, err
	}
	backend, err := blocks.Open(ctx, b, blocks.Options{FS: fs, Dir: "/data/blocks", Now: opt.Now})
	if err != nil {
		b.Close()
		return nil, err
	}
	opt.FS, opt.Backend = fs, backend
	db, err := store.Open(ctx, dataDir, opt)
	if err != nil {
		backend.Close()
		return nil, err
	}
	return db, nil
}

// flushed waits until all that is complete has been handed over.
func flushed(t testing.TB, db *store.DB) {
	t.Helper()
	for range 3_000 {
		db.SealNow()
		if st := db.Stats(); st.Segments == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("it is not handed over: %v, %+v", db.FlushErr(), db.Stats())
}

// TestCrashWhileFlushing turns the machine off ahead of each operation while uploads are acknowledged and handed over:
// what was acknowledged is there, once, and so it stays. QUANTRA_STORE_LONG takes every operation instead of every third.
func TestCrashWhileFlushing(t *testing.T) {
	const uploads = 12
	opt := store.Options{Now: func() time.Time { return epoch }, SegmentBytes: 900}
	step := 3
	switch {
	case os.Getenv("QUANTRA_STORE_LONG") != "":
		step = 1
	case underRace: // the detector looks for something else, and is ten times as slow
		step = 13
	}
	for at := 0; ; at += step {
		mem := vfs.NewMem()
		var acked, ops atomic.Int64
		var crashes []*vfs.Mem
		var ackedThen int
		db, err := withBackend(vfs.Hook(mem, func(op vfs.Op) error {
			switch n := int(ops.Add(1)) - 1; {
			case n < at:
				return nil
			case n == at:
				ackedThen = int(acked.Load())
				for seed := range 3 {
					crashes = append(crashes, mem.Crash(seeded(seed)))
				}
			}
			return errDead
		}), opt)
		if err == nil {
			for i := range uploads {
				if db.Append(context.Background(), numbered(t, i)) != nil {
					break
				}
				acked.Add(1)
			}
			if acked.Load() == uploads && ops.Load() <= int64(at) {
				for n := 0; n < 200 && ops.Load() <= int64(at) && db.Stats().Segments > 0; n++ {
					db.SealNow()
					time.Sleep(time.Millisecond)
				}
			}
			db.Close()
		}
		if ops.Load() <= int64(at) {
			if at < 150 {
				t.Fatalf("the workload has %d operations: too few to prove anything", at)
			}
			return
		}
		for seed, c := range crashes {
			afterFlushCrash(t, fmt.Sprintf("crash ahead of operation %d, seed %d", at, seed), c, ackedThen, opt)
		}
	}
}

func afterFlushCrash(t *testing.T, what string, mem *vfs.Mem, acked int, opt store.Options) {
	t.Helper()
	for round := range 2 {
		db, err := withBackend(mem, opt)
		if err != nil {
			t.Fatalf("%s: round %d: %v", what, round, err)
		}
		for n := 0; strings.Contains(fmt.Sprint(warningsOf(t, db)), "wait to be handed over"); n++ {
			if n > 2000 {
				t.Fatalf("%s: staged blocks are never put: %v", what, db.Healthy())
			}
			time.Sleep(time.Millisecond)
		}
		got := present(t, db) // each once
		for i := range acked {
			if !got[i] {
				t.Fatalf("%s: round %d: upload %d of %d acknowledged is gone", what, round, i, acked)
			}
		}
		// The client sends all again: nothing is doubled.
		for i := range acked {
			if err := db.Append(context.Background(), numbered(t, i)); err != nil {
				t.Fatalf("%s: round %d: %v", what, round, err)
			}
		}
		flushed(t, db)
		if again := present(t, db); len(again) < acked || len(again) != len(got) {
			t.Fatalf("%s: round %d: %d uploads, then %d", what, round, len(got), len(again))
		}
		if err := db.Close(); err != nil {
			t.Fatalf("%s: round %d: close: %v", what, round, err)
		}
	}
}

func warningsOf(t *testing.T, db *store.DB) []string {
	t.Helper()
	r, err := db.Select(context.Background(), store.Query{Type: cpu})
	if err != nil {
		t.Fatal(err)
	}
	return r.Warnings
}

// away is a backend that takes nothing while it is off.
type away struct {
	store.Backend
	off atomic.Bool
}

func (a *away) Put(ctx context.Context, b []store.Staged) error {
	if a.off.Load() {
		return fmt.Errorf("%w: the bucket is on holiday", store.ErrUnavailable)
	}
	return a.Backend.Put(ctx, b)
}

// TestBackendAway: while nothing can be handed over uploads are acknowledged up to the bound, questions are answered,
// health turns red; then all goes, and nothing is missing.
func TestBackendAway(t *testing.T) {
	ctx := context.Background()
	var clock atomic.Int64
	now := func() time.Time { return epoch.Add(time.Duration(clock.Load())) }
	mem := vfs.NewMem()
	b, err := bucket.Open(ctx, "file:///data/bucket", bucket.Options{FS: mem, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	inner, err := blocks.Open(ctx, b, blocks.Options{FS: mem, Dir: "/data/blocks", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	backend := &away{Backend: inner}
	backend.off.Store(true)
	db := openMem(t, mem, store.Options{Now: now, SegmentBytes: 1200, MaxHeadBytes: 60_000, Backend: backend})
	defer db.Close()
	n := 0
	for ; n < 500; n++ {
		if err = db.Append(ctx, numbered(t, n)); err != nil {
			break
		}
	}
	if !errors.Is(err, store.ErrOverloaded) || !strings.Contains(err.Error(), "on holiday") && !strings.Contains(err.Error(), "still being tried") {
		t.Fatalf("after %d uploads: %v", n, err)
	}
	if got := present(t, db); len(got) != n {
		t.Fatalf("%d uploads of %d", len(got), n)
	}
	clock.Store(int64(10 * time.Minute))
	if err := db.Healthy(); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "handed over") {
		t.Errorf("healthy: %v", err)
	}
	backend.off.Store(false)
	flushed(t, db)
	if err := db.Healthy(); err != nil {
		t.Errorf("healthy: %v", err)
	}
	if got := present(t, db); len(got) != n {
		t.Fatalf("%d uploads of %d after", len(got), n)
	}
	if err := db.Append(ctx, numbered(t, n)); err != nil {
		t.Error(err)
	}
}

// TestExactlyOnceWhileFlushing asks without pause while uploads come and go: no answer ever has one missing, or twice.
func TestExactlyOnceWhileFlushing(t *testing.T) {
	mem := vfs.NewMem()
	db, err := withBackend(mem, store.Options{Now: func() time.Time { return epoch }, SegmentBytes: 2000})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := context.Background()
	var acked atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; i < 150 || db.Stats().Flushes < 5; i++ {
			if err := db.Append(ctx, numbered(t, i)); err != nil {
				t.Error(err)
				return
			}
			acked.Add(1)
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		before := int(acked.Load())
		got := present(t, db)
		for i := range before {
			if !got[i] {
				t.Fatalf("upload %d of %d acknowledged is not in the answer", i, before)
			}
		}
		r, err := db.Select(ctx, store.Query{Type: cpu})
		if err != nil || r.Profiles < before {
			t.Fatalf("%d profiles of %d: %v", r.Profiles, before, err)
		}
		sum, lo := int64(0), int64(0)
		for i := range r.Profiles {
			sum += 3 * int64(1000+i)
			lo++
		}
		if got := r.Profile.Total(r.Profile.Column("")); got != sum {
			t.Fatalf("%d profiles sum up to %d, want %d", r.Profiles, got, sum)
		}
	}
	if st := db.Stats(); st.Flushes == 0 {
		t.Errorf("nothing was handed over meanwhile: %+v", st)
	}
}
