package control

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestAccess(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		now := noon
		d := open(t, fresh(), Options{Now: func() time.Time { return now }})
		ctx := t.Context()
		row := AccessRow{Kind: "session", ID: "a", Owner: "p1", Expires: noon.Add(time.Hour), Doc: []byte(`{"x":1}`)}
		if err := d.KeepAccess(ctx, row); err != nil {
			t.Fatal(err)
		}
		if err := d.KeepAccess(ctx, row); !errors.Is(err, ErrConflict) {
			t.Errorf("made twice: %v", err)
		}
		got, ok, err := d.Access(ctx, "session", "a")
		if err != nil || !ok || got.Version != 1 || got.Owner != "p1" || !got.Expires.Equal(row.Expires) || string(got.Doc) != `{"x":1}` {
			t.Fatalf("%+v, %v, %v", got, ok, err)
		}
		if _, ok, err := d.Access(ctx, "token", "a"); ok || err != nil {
			t.Errorf("another kind's: %v, %v", ok, err)
		}
		got.Doc = []byte(`{"x":2}`)
		if err := d.KeepAccess(ctx, got); err != nil {
			t.Fatal(err)
		}
		if err := d.KeepAccess(ctx, got); !errors.Is(err, ErrConflict) {
			t.Errorf("changed by one who has not seen the change: %v", err)
		}
		for _, more := range []AccessRow{{Kind: "session", ID: "b", Owner: "p2"}, {Kind: "session", ID: "c", Owner: "p1"}, {Kind: "token", ID: "d", Owner: "p1"}} {
			if err := d.KeepAccess(ctx, more); err != nil {
				t.Fatal(err)
			}
		}
		if rows, err := d.AccessRows(ctx, "session", "", 10); err != nil || len(rows) != 3 || rows[0].ID != "a" {
			t.Errorf("all sessions: %+v, %v", rows, err)
		}
		if rows, err := d.AccessRows(ctx, "session", "p1", 10); err != nil || len(rows) != 2 {
			t.Errorf("one's sessions: %+v, %v", rows, err)
		}

		now = noon.Add(time.Hour) // from then on it is not there, whether or not it has been removed
		if _, ok, err := d.Access(ctx, "session", "a"); ok || err != nil {
			t.Errorf("expired: %v, %v", ok, err)
		}
		if _, ok, err := d.TakeAccess(ctx, "session", "a"); ok || err != nil {
			t.Errorf("expired, taken: %v, %v", ok, err)
		}
		if err := d.ExpireAccess(ctx); err != nil {
			t.Fatal(err)
		}
		if n, err := d.DropAccess(ctx, "session", "a", ""); n != 0 || err != nil {
			t.Errorf("an expired one was still there: %d, %v", n, err)
		}
		if n, err := d.DropAccess(ctx, "session", "", "p1"); n != 1 || err != nil {
			t.Errorf("one's sessions removed: %d, %v", n, err)
		}
		if _, err := d.DropAccess(ctx, "session", "", ""); !errors.Is(err, ErrInvalid) {
			t.Errorf("nobody's removed: %v", err)
		}
		if _, ok, _ := d.Access(ctx, "token", "d"); !ok {
			t.Error("a token went with the sessions")
		}
		if err := d.KeepAccess(ctx, AccessRow{Kind: "x", ID: "y", Doc: make([]byte, MaxAccessDoc+1)}); !errors.Is(err, ErrInvalid) {
			t.Errorf("too long: %v", err)
		}
	})
}

// TestTakeAccess: what can be had once is had once, however many ask.
func TestTakeAccess(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		d := open(t, fresh(), Options{})
		if err := d.KeepAccess(t.Context(), AccessRow{Kind: "link", ID: "once"}); err != nil {
			t.Fatal(err)
		}
		var got atomic.Int32
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				_, ok, err := d.TakeAccess(t.Context(), "link", "once")
				if err != nil {
					t.Error(err)
				}
				if ok {
					got.Add(1)
				}
			})
		}
		all.Wait()
		if got.Load() != 1 {
			t.Errorf("%d have had it", got.Load())
		}
	})
}
