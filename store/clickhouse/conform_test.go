package clickhouse_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/clickhouse"
	"github.com/quantra-l/quantra/store/clickhouse/clickhousetest"
	"github.com/quantra-l/quantra/store/storetest"
)

// trusting and careful are when a backend was opened, by its own clock: blocks that were staged before may have been
// tried by another, and are counted first.
var trusting, careful = storetest.Epoch.Add(-time.Hour), storetest.Epoch.Add(time.Hour)

func openBackend(t testing.TB, fs vfs.FS, url string, opened time.Time) *clickhouse.DB {
	t.Helper()
	back, err := clickhouse.Open(context.Background(), clickhouse.Options{URL: url, FS: fs, Retention: -1, Now: func() time.Time { return opened }})
	if err != nil {
		t.Fatal(err)
	}
	return back
}

// openStore opens a store with its log in fs.
func openStore(t testing.TB, fs vfs.FS, back store.Backend) *store.DB {
	t.Helper()
	db, err := store.Open(context.Background(), "/data", store.Options{FS: fs, Backend: back, Now: func() time.Time { return storetest.Epoch }, SegmentBytes: 20_000})
	if err != nil {
		back.Close()
		t.Fatal(err)
	}
	return db
}

// drained waits until all but the segment that is being written has been handed over.
func drained(t testing.TB, db *store.DB) {
	t.Helper()
	for range 120_000 {
		if db.Stats().Segments <= 1 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("it is not handed over: %v, %+v", db.Healthy(), db.Stats())
}

// TestConformance holds the store with ClickHouse behind it to the model.
func TestConformance(t *testing.T) {
	clickhousetest.Addr(t)
	storetest.Run(t, func(t *testing.T) storetest.Target {
		name, url := newDatabase(t)
		fs := vfs.NewMem()
		db := openStore(t, fs, openBackend(t, fs, url, trusting))
		t.Cleanup(func() {
			if n, _ := strconv.Atoi(clickhousetest.Query(t, name, "SELECT count() FROM blocks")); n < 4 {
				t.Errorf("%d blocks were put: little was proven of them", n)
			}
		})
		return storetest.Target{Store: db, Flush: func() { drained(t, db) }, Reopen: func() store.Store {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
			db = openStore(t, fs, openBackend(t, fs, url, careful))
			return db
		}}
	})
}
