package control

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestChangeEvents: events are numbered from 1 without a gap, none is ever removed, and pages of them are whole; past the bound a change
// is still kept.
func TestChangeEvents(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		d := open(t, fresh(), Options{})
		ctx := t.Context()
		c := finding("a", 0)
		kept := 0
		for _, n := range []int{1, 0, 700, 800} {
			var events [][]byte
			for range n {
				kept++
				events = append(events, fmt.Appendf(nil, "%d", kept))
			}
			if err := d.KeepChange(ctx, "t", RowUpdate{c, events}, nil); err != nil {
				t.Fatal(err)
			}
			c.Version++
		}
		var seqs []int64
		for after := int64(0); ; {
			page, err := d.ChangeEvents(ctx, "t", "a", after)
			if err != nil || len(page) > MaxChangeEventsRead {
				t.Fatal(len(page), err)
			}
			if len(page) == 0 {
				break
			}
			for _, e := range page {
				if fmt.Sprint(e.Seq) != string(e.Doc) {
					t.Fatalf("event %d is %s", e.Seq, e.Doc)
				}
				seqs = append(seqs, e.Seq)
			}
			after = page[len(page)-1].Seq
		}
		if len(seqs) != 1501 || seqs[0] != 1 || seqs[1500] != 1501 {
			t.Errorf("%d events", len(seqs))
		}
		last, err := d.ChangeEvents(ctx, "t", "a", -3)
		if err != nil || len(last) != 3 || last[0].Seq != 1499 || last[2].Seq != 1501 {
			t.Errorf("the last three: %v, %v", last, err)
		}
		if e, err := d.ChangeEvents(ctx, "t", "none", 0); err != nil || len(e) != 0 {
			t.Errorf("%v, %v", e, err)
		}

		// As if it had had all that it may have.
		if err := d.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, d.kind.param("insert into change_events (tenant, change, seq, doc) values (?1, ?2, ?3, ?4)"), "t", "a", maxChangeEvents-1, "x")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		c.State = "undone"
		if err := d.KeepChange(ctx, "t", RowUpdate{c, [][]byte{[]byte("taken"), []byte("not taken")}}, nil); err != nil {
			t.Fatal(err)
		}
		last, err = d.ChangeEvents(ctx, "t", "a", -1)
		if err != nil || len(last) != 1 || last[0].Seq != maxChangeEvents || string(last[0].Doc) != "taken" {
			t.Errorf("%v, %v", last, err)
		}
		if c, _, _ := d.Change(ctx, "t", "a"); c.State != "undone" {
			t.Errorf("its state is %s", c.State)
		}
	})
}

// TestChangeRows: what happens later never makes a change look older; one without news is kept as well; the document has its bound.
func TestChangeRows(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		d := open(t, fresh(), Options{})
		ctx := t.Context()
		c := finding("a", 5)
		c.Doc = []byte(`"` + strings.Repeat("x", MaxChangeDoc-2) + `"`)
		if err := d.KeepChange(ctx, "t", RowUpdate{c, nil}, nil); err != nil {
			t.Fatal(err)
		}
		c.Version, c.Seen = 1, noon
		if err := d.KeepChange(ctx, "t", RowUpdate{c, nil}, nil); err != nil {
			t.Fatal(err)
		}
		got, ok, err := d.Change(ctx, "t", "a")
		if err != nil || !ok || !got.Seen.Equal(noon.Add(5*time.Minute)) || got.Version != 2 || len(got.Doc) != MaxChangeDoc {
			t.Errorf("%v of version %d with %d bytes, %v", got.Seen, got.Version, len(got.Doc), err)
		}
		c.Version, c.Doc = 2, append(c.Doc, ' ')
		if err := d.KeepChange(ctx, "t", RowUpdate{c, nil}, nil); !errors.Is(err, ErrInvalid) {
			t.Error(err)
		}
		if f, err := d.Findings(ctx, "t", RowFilter{}); err != nil || len(f) != 0 {
			t.Errorf("a change is among the findings: %v, %v", f, err)
		}
		if ts, err := d.ChangeTenants(ctx); err != nil || len(ts) != 1 || ts[0] != "t" {
			t.Errorf("%v, %v", ts, err)
		}
	})
}
