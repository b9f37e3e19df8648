package store_test

import (
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/storetest"
)

// TestConformance is of the store without a backend: all in memory and in the log.
func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Target {
		mem := vfs.NewMem()
		opt := store.Options{Now: func() time.Time { return storetest.Epoch }, SegmentBytes: 20_000, MaxBytes: -1}
		db := openMem(t, mem, opt)
		return storetest.Target{Store: db, Reopen: func() store.Store {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
			db = openMem(t, mem, opt)
			return db
		}}
	})
}
