package clickhouse_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/clickhouse"
	"github.com/quantra-l/quantra/store/clickhouse/clickhousetest"
	"github.com/quantra-l/quantra/store/storetest"
)

// TestWatch: of two servers on one database each hears of what the other put, once, and of its own only when it is acknowledged; one
// that starts later hears of all that was put since.
func TestWatch(t *testing.T) {
	p := newProxy(t)
	name, _ := newDatabase(t)
	url := clickhousetest.URL(p.addr, name)
	var polls atomic.Int64
	p.set(func(sql string) fate {
		if strings.Contains(sql, "toUnixTimestamp64Milli(recorded)") {
			polls.Add(1)
		}
		return pass
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	open := func() *store.DB {
		fs := vfs.NewMem()
		back, err := clickhouse.Open(ctx, clickhouse.Options{URL: url, FS: fs, Retention: -1, Now: func() time.Time { return trusting }, WatchEvery: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		db := openStore(t, fs, back)
		t.Cleanup(func() { db.Close() })
		return db
	}
	watch := func(db *store.DB, since time.Time) *store.Watch {
		w, err := db.Watch(since)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Close)
		return w
	}
	minute := storetest.Epoch.Truncate(time.Minute)
	mark := store.Change{Tenant: "mark", From: minute, To: minute.Add(time.Minute)}
	// heard takes what there is after all who watch have asked again: what was put before has been told then.
	heard := func(w *store.Watch, ups []store.Upload) (missing int, more []store.Change) {
		for n := polls.Load(); polls.Load() < n+20 && ctx.Err() == nil; {
			time.Sleep(time.Millisecond)
		}
		w.Again(mark)
		cs, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		more = slices.DeleteFunc(cs, func(c store.Change) bool {
			of := func(u store.Upload) bool {
				tenant := u.Tenant
				if tenant == "" {
					tenant = store.DefaultTenant
				}
				return tenant == c.Tenant && u.Labels.Get(profile.LabelService) == c.Service && u.Name == c.Name && !u.From.Before(c.From) && u.From.Before(c.To)
			}
			found := slices.ContainsFunc(ups, of)
			ups = slices.DeleteFunc(slices.Clone(ups), of)
			return found || c == mark
		})
		return len(ups), more
	}
	a, b := open(), open()
	wa, wb := watch(a, time.Time{}), watch(b, time.Time{})
	all := uploads(t, a, 1, 200)
	own, err := wa.Next(ctx)
	if err != nil || len(own) == 0 {
		t.Fatal(own, err)
	}
	drained(t, a)
	handed := handedOver(t, b, all)
	if len(handed) < 50 {
		t.Fatalf("%d uploads of a are seen by b: nothing is proven", len(handed))
	}
	if missing, more := heard(wb, handed); missing > 0 || len(more) > 0 {
		t.Errorf("b does not hear of %d uploads, and hears of %v", missing, more)
	}
	if _, more := heard(wa, nil); len(more) > 0 {
		t.Errorf("a hears once more of what it put: %v", more)
	}
	wa.Again(own...)
	if missing, more := heard(wa, all); missing > 0 || len(more) > 0 {
		t.Errorf("a does not hear of %d uploads of its own, and hears of %v", missing, more)
	}
	if missing, more := heard(watch(open(), time.Time{}), handed); missing > 0 || len(more) > 0 {
		t.Errorf("one who comes later does not hear of %d uploads, and hears of %v", missing, more)
	}
	if _, more := heard(watch(open(), storetest.Epoch.Add(time.Hour)), nil); len(more) > 0 {
		t.Errorf("blocks that were made before are told: %v", more)
	}
}

// handedOver is those of all that db finds.
func handedOver(t *testing.T, db *store.DB, all []store.Upload) (out []store.Upload) {
	t.Helper()
	there := map[int64]bool{}
	for _, tenant := range []string{"", "other"} {
		for name, types := range storetest.Kinds {
			r, err := db.Profiles(t.Context(), store.Query{Tenant: tenant, Type: profile.Type{Name: name, Sample: types[0], Period: types[len(types)-1]}}, store.MaxProfiles)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range r.Profiles {
				there[p.From.UnixNano()] = true
			}
		}
	}
	for _, u := range all {
		if there[u.From.UnixNano()] {
			out = append(out, u)
		}
	}
	return out
}
