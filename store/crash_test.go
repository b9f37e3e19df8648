package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
)

// epoch is where the virtual clock of these tests starts.
var epoch = time.Unix(1_700_000_000, 0).UTC()

const dataDir = "/data/quantra"

// options has segments of a few uploads each.
func options(fs vfs.FS, maxBytes int64) store.Options {
	return store.Options{FS: fs, Now: func() time.Time { return epoch }, SegmentBytes: 1200, MaxBytes: maxBytes}
}

// numbered is the i-th upload of a workload; its time and value say which it is.
func numbered(t testing.TB, i int) store.Upload {
	return upload(t, fmt.Sprintf("svc%d", i%3), epoch.Add(time.Duration(i-1000)*10*time.Second), int64(1000+i))
}

// present is which numbered uploads there are, each once and with its own value.
func present(t *testing.T, db *store.DB) map[int]bool {
	t.Helper()
	r, err := db.Series(context.Background(), store.SeriesQuery{Query: store.Query{Type: cpu}, Step: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	got := map[int]bool{}
	for _, l := range r.Lines {
		for _, p := range l.Points {
			i := int(p.Time.Sub(epoch)/(10*time.Second)) + 1000
			if p.Profiles != 1 || p.Value != 3*int64(1000+i) {
				t.Fatalf("upload %d is there %d times, with %d", i, p.Profiles, p.Value)
			}
			got[i] = true
		}
	}
	return got
}

func seeded(seed int) *rand.Rand {
	if seed == 0 {
		return nil
	}
	return rand.New(rand.NewPCG(uint64(seed), 7))
}

var errDead = errors.New("the machine is off")

// TestCrashAtEveryOperation turns the machine off ahead of each operation on the
// file system, and starts on what the disk then holds.
func TestCrashAtEveryOperation(t *testing.T) {
	const uploads = 24
	for _, maxBytes := range []int64{-1, 6000} {
		t.Run(fmt.Sprint("bound ", maxBytes), func(t *testing.T) {
			for at := 0; ; at++ {
				mem := vfs.NewMem()
				var acked, ops atomic.Int64
				var crashes []*vfs.Mem
				var ackedThen int
				db, err := store.Open(context.Background(), dataDir, options(vfs.Hook(mem, func(vfs.Op) error {
					switch n := int(ops.Add(1)) - 1; {
					case n < at:
						return nil
					case n == at:
						ackedThen = int(acked.Load())
						for seed := range 5 {
							crashes = append(crashes, mem.Crash(seeded(seed)))
						}
					}
					return errDead
				}), maxBytes))
				if err == nil {
					for i := range uploads {
						if db.Append(context.Background(), numbered(t, i)) != nil {
							break
						}
						acked.Add(1)
					}
					db.Close()
				}
				if crashes == nil {
					if at < 80 {
						t.Fatalf("the workload has %d operations: too few to prove anything", at)
					}
					return
				}
				for seed, c := range crashes {
					afterCrash(t, fmt.Sprintf("crash ahead of operation %d, seed %d", at, seed), c, ackedThen, maxBytes)
				}
			}
		})
	}
}

// afterCrash starts on mem, where the first acked uploads were acknowledged and one
// more may have been under way.
func afterCrash(t *testing.T, what string, mem *vfs.Mem, acked int, maxBytes int64) {
	t.Helper()
	var kept map[int]bool
	for round := range 3 {
		db, err := store.Open(context.Background(), dataDir, options(mem, maxBytes))
		if err != nil {
			t.Fatalf("%s: round %d: %v", what, round, err)
		}
		got := present(t, db)
		first := 0
		for maxBytes > 0 && first < acked && !got[first] {
			first++ // retention takes the oldest
		}
		for i := first; i < acked; i++ {
			if !got[i] {
				t.Fatalf("%s: round %d: upload %d of %d acknowledged is gone", what, round, i, acked)
			}
		}
		if st := db.Stats(); first > 0 && st.LogBytes < maxBytes/2 {
			t.Fatalf("%s: round %d: %d uploads are gone, and only %d bytes are left", what, round, first, st.LogBytes)
		}
		if r := db.Stats().Recovered; r.Skipped != 0 || r.Undecodable != 0 {
			t.Fatalf("%s: round %d: a crash is not damage: %+v", what, round, r)
		}
		for i := range got {
			if i > acked {
				t.Fatalf("%s: upload %d was never sent", what, i)
			}
		}
		for i := range kept {
			if !got[i] && maxBytes < 0 {
				t.Fatalf("%s: upload %d was there before the restart", what, i)
			}
		}
		// The client sends again what it had no answer for, and goes on.
		for range 2 {
			if err := db.Append(context.Background(), numbered(t, acked)); err != nil {
				t.Fatalf("%s: round %d: %v", what, round, err)
			}
		}
		acked++
		kept = present(t, db)
		if err := db.Close(); err != nil {
			t.Fatalf("%s: round %d: close: %v", what, round, err)
		}
	}
}

// TestFailAtEveryOperation fails one operation after the other; the client tries
// again, and then the machine is turned off. What was acknowledged is there.
func TestFailAtEveryOperation(t *testing.T) {
	const uploads = 24
	for _, fault := range []error{syscall.EIO, syscall.ENOSPC} {
		t.Run(fault.Error(), func(t *testing.T) {
			for at := 0; ; at++ {
				mem := vfs.NewMem()
				hit := false
				var mu sync.Mutex
				fail := vfs.FailNth(at, fault)
				opt := options(vfs.Hook(mem, func(op vfs.Op) error {
					err := fail(op)
					mu.Lock()
					defer mu.Unlock()
					hit = hit || err != nil
					return err
				}), -1)
				db, err := store.Open(context.Background(), dataDir, opt)
				if err != nil {
					if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, fault) {
						t.Fatalf("operation %d: open: %v", at, err)
					}
					if db, err = store.Open(context.Background(), dataDir, opt); err != nil {
						t.Fatalf("operation %d: second open: %v", at, err)
					}
				}
				for i := range uploads {
					err := db.Append(context.Background(), numbered(t, i))
					if err != nil {
						if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, fault) || db.Healthy() == nil {
							t.Fatalf("operation %d: append: %v, healthy: %v", at, err, db.Healthy())
						}
						if err = db.Append(context.Background(), numbered(t, i)); err != nil {
							t.Fatalf("operation %d: append again: %v", at, err)
						}
					}
				}
				if got := present(t, db); len(got) != uploads {
					t.Fatalf("operation %d: %d of %d are there", at, len(got), uploads)
				}
				if err := db.Healthy(); err != nil {
					t.Fatalf("operation %d: %v", at, err)
				}
				crashed := []*vfs.Mem{mem.Crash(nil), mem.Crash(seeded(1)), mem.Crash(seeded(2))}
				db.Close()
				for _, c := range append(crashed, mem) {
					db, err := store.Open(context.Background(), dataDir, options(c, -1))
					if err != nil {
						t.Fatalf("operation %d: reopen: %v", at, err)
					}
					if got := present(t, db); len(got) != uploads {
						t.Fatalf("operation %d: %d of %d are there after a crash", at, len(got), uploads)
					}
					db.Close()
				}
				if !hit {
					if at < 60 {
						t.Fatalf("the workload has %d operations: too few to prove anything", at)
					}
					return
				}
			}
		})
	}
}
