package store_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/storetest"
)

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
			u := storetest.RandomUpload(rng, len(all), functions)
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
				q := storetest.RandomQuery(rng)
				answered += storetest.Compare(t, db, q, live)
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
