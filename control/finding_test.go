package control

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// seen is a finding of a service that was seen at a minute.
func seen(id, service string, minute int) *Finding {
	at := time.UnixMicro(1_800_000_000_000_000).Add(time.Duration(minute) * time.Minute).UTC()
	return &Finding{Tenant: "t", ID: id, Service: service, Kind: "regression", State: "new", FirstSeen: at, LastSeen: at, Doc: []byte(`{"a":"\u0000 é"}`)}
}

func put(t *testing.T, d *DB, f *Finding, events ...Event) {
	t.Helper()
	if err := d.Put(t.Context(), f, events...); err != nil {
		t.Fatal(err)
	}
}

// TestFinding: what is put is read, of the version that it has, and its history is kept in order.
func TestFinding(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		url, c := fresh(), newClock()
		a, b := open(t, url, c.opt()), open(t, url, c.opt())
		if _, err := a.Finding(t.Context(), "t", "one"); !errors.Is(err, ErrNotFound) {
			t.Errorf("not there: %v", err)
		}
		f := seen("one", "checkout", 0)
		events := []Event{{Actor: "watch", What: "found", Doc: []byte(`{"n":1}`)}}
		put(t, a, f, events...)
		if f.Version != 1 || !f.Updated.Equal(c.now()) || events[0].Seq != 1 {
			t.Errorf("%+v, %+v", f, events)
		}
		got, err := b.Finding(t.Context(), "t", "one")
		if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", *f) {
			t.Errorf("%+v, want %+v: %v", got, *f, err)
		}
		if err := b.Put(t.Context(), seen("one", "checkout", 0)); !errors.Is(err, ErrConflict) {
			t.Errorf("it is there already: %v", err)
		}
		c.move(time.Second)
		got.State, got.Doc, got.LastSeen = "muted", []byte(`{"b":2}`), got.LastSeen.Add(time.Minute)
		put(t, b, &got, Event{Actor: "ann", What: "muted"}, Event{Actor: "ann", What: "said"})
		f.State = "acknowledged"
		if err := a.Put(t.Context(), f, Event{What: "acknowledged"}); !errors.Is(err, ErrConflict) {
			t.Errorf("it was changed since: %v", err)
		}
		now, err := a.Finding(t.Context(), "t", "one")
		if err != nil || now.State != "muted" || now.Version != 2 || string(now.Doc) != `{"b":2}` || !now.Updated.Equal(c.now()) || !now.FirstSeen.Equal(f.FirstSeen) {
			t.Errorf("%+v, %v", now, err)
		}
		history, err := a.Events(t.Context(), "t", "one")
		if err != nil || len(history) != 3 || history[0].What != "found" || string(history[0].Doc) != `{"n":1}` || history[2].Seq != 3 || history[2].Actor != "ann" || history[2].Doc != nil ||
			!history[2].Time.Equal(c.now()) || !history[0].Time.Equal(c.now().Add(-time.Second)) {
			t.Errorf("%+v, %v", history, err)
		}
		gone := seen("two", "checkout", 0)
		gone.Version = 7
		if err := a.Put(t.Context(), gone); !errors.Is(err, ErrConflict) {
			t.Errorf("a version of what is not there: %v", err)
		}
	})
}

// TestHistoryIsBounded: the oldest lines go, and numbers go on.
func TestHistoryIsBounded(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		d := open(t, fresh(), Options{})
		f := seen("one", "s", 0)
		put(t, d, f, slices.Repeat([]Event{{What: "a"}}, MaxEvents)...)
		put(t, d, f, Event{What: "b"}, Event{What: "c"})
		history, err := d.Events(t.Context(), "t", "one")
		if err != nil || len(history) != MaxEvents || history[0].Seq != 3 || history[MaxEvents-1].Seq != MaxEvents+2 || history[MaxEvents-1].What != "c" {
			t.Errorf("%d lines, %+v: %v", len(history), history[0], err)
		}
	})
}

// TestUpdateIsOne: findings, history and marks come together or not at all, also where a later part fails.
func TestUpdateIsOne(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		d := open(t, fresh(), Options{})
		put(t, d, seen("old", "s", 0))
		mine := errors.New("mine")
		write := func(end func(*Tx) error) error {
			return d.Update(t.Context(), func(tx *Tx) error {
				f := seen("new", "s", 1)
				if err := tx.Put(f, Event{What: "found"}); err != nil {
					return err
				}
				if read, err := tx.Finding("t", "new"); err != nil || read.Version != 1 {
					t.Errorf("within: %+v, %v", read, err)
				}
				if err := tx.SetMark("t", "upto", []byte(`"12:00"`)); err != nil {
					return err
				}
				return end(tx)
			})
		}
		for n, c := range []struct {
			end  func(*Tx) error
			want error
		}{
			{func(*Tx) error { return mine }, mine},
			{func(tx *Tx) error { return tx.Put(seen("old", "s", 1)) }, ErrConflict},
			{func(tx *Tx) error { return tx.SetMark("t", "", nil) }, ErrInvalid},
			{func(tx *Tx) error { _, err := tx.Finding("t", "none"); return err }, ErrNotFound},
		} {
			if err := write(c.end); !errors.Is(err, c.want) || errors.Is(err, ErrUnavailable) {
				t.Errorf("%d: %v, want %v", n, err, c.want)
			}
			mark, err := d.Mark(t.Context(), "t", "upto")
			if mark != nil || err != nil {
				t.Errorf("%d: the mark stayed: %s, %v", n, mark, err)
			}
			if _, err := d.Finding(t.Context(), "t", "new"); !errors.Is(err, ErrNotFound) {
				t.Errorf("%d: the finding stayed: %v", n, err)
			}
			if h, err := d.Events(t.Context(), "t", "new"); len(h) > 0 || err != nil {
				t.Errorf("%d: the history stayed: %v, %v", n, h, err)
			}
		}
		// A conflict that is dealt with does not end it.
		if err := write(func(tx *Tx) error {
			if err := tx.Put(seen("old", "s", 1)); !errors.Is(err, ErrConflict) {
				return err
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if mark, err := d.Mark(t.Context(), "t", "upto"); string(mark) != `"12:00"` || err != nil {
			t.Errorf("%s, %v", mark, err)
		}
		if _, err := d.Finding(t.Context(), "t", "new"); err != nil {
			t.Error(err)
		}
	})
}

// TestPutTogether: of many who add one to the same finding none is lost, as those that lose try again.
func TestPutTogether(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		url := fresh()
		d := open(t, url, Options{})
		put(t, d, seen("one", "s", 0))
		const workers, times = 4, 10
		var wg sync.WaitGroup
		for w := range workers {
			other := open(t, url, Options{})
			wg.Go(func() {
				for done := 0; done < times; {
					f, err := other.Finding(t.Context(), "t", "one")
					if err != nil {
						t.Error(err)
						return
					}
					f.Doc = fmt.Appendf(nil, "%d", len(f.Doc)+1)
					switch err := other.Put(t.Context(), &f, Event{Actor: fmt.Sprint(w), What: "once more"}); {
					case err == nil:
						done++
					case !errors.Is(err, ErrConflict):
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		f, err := d.Finding(t.Context(), "t", "one")
		h, herr := d.Events(t.Context(), "t", "one")
		if err != nil || herr != nil || f.Version != 1+workers*times || len(h) != workers*times || h[len(h)-1].Seq != workers*times {
			t.Errorf("version %d, %d lines: %v, %v", f.Version, len(h), err, herr)
		}
	})
}

// TestFindings: filters, order and going on.
func TestFindings(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		d := open(t, fresh(), Options{})
		for i := range 10 {
			f := seen(fmt.Sprint("f", i), fmt.Sprint("s", i%2), i/2*2) // two at a time
			if i%3 == 0 {
				f.Kind = "hot_spot"
			}
			if i%5 == 0 {
				f.State = "fixed"
			}
			put(t, d, f)
		}
		other := seen("f0", "s0", 4)
		other.Tenant = "u"
		put(t, d, other)
		for n, c := range []struct {
			filter FindingFilter
			want   string
		}{
			{FindingFilter{}, "t/f8 t/f9 t/f6 t/f7 t/f4 t/f5 u/f0 t/f2 t/f3 t/f0 t/f1"},
			{FindingFilter{Tenant: "u"}, "u/f0"},
			{FindingFilter{Tenant: "nobody"}, ""},
			{FindingFilter{Tenant: "t", Service: "s1"}, "t/f9 t/f7 t/f5 t/f3 t/f1"},
			{FindingFilter{Tenant: "t", Kinds: []string{"hot_spot"}}, "t/f9 t/f6 t/f3 t/f0"},
			{FindingFilter{Tenant: "t", Kinds: []string{"hot_spot", "regression"}, States: []string{"fixed"}}, "t/f5 t/f0"},
			{FindingFilter{Tenant: "t", Since: seen("", "", 6).LastSeen}, "t/f8 t/f9 t/f6 t/f7"},
		} {
			for _, limit := range []int{0, 1, 3, MaxFindings} {
				var got []string
				filter := c.filter
				filter.Limit = limit
				for more := true; more; {
					var fs []Finding
					var err error
					if fs, more, err = d.Findings(t.Context(), filter); err != nil || more && len(fs) != limit {
						t.Fatalf("%d: %d findings, more %v, %v", n, len(fs), more, err)
					}
					for _, f := range fs {
						got = append(got, f.Tenant+"/"+f.ID)
						filter.After = &f
					}
					if len(got) > 100 {
						t.Fatalf("%d, limit %d: it goes on for ever: %v", n, limit, got[:20])
					}
				}
				if strings.Join(got, " ") != c.want {
					t.Errorf("%d, limit %d: %v, want %s", n, limit, got, c.want)
				}
			}
		}
		for _, limit := range []int{-1, MaxFindings + 1} {
			if _, _, err := d.Findings(t.Context(), FindingFilter{Limit: limit}); !errors.Is(err, ErrInvalid) {
				t.Errorf("limit %d: %v", limit, err)
			}
		}
	})
}

// TestFindingsAreBounded: large documents end an answer before its limit.
func TestFindingsAreBounded(t *testing.T) {
	d := open(t, "sqlite:"+t.TempDir()+"/c.db", Options{})
	big := fmt.Appendf(nil, "%q", strings.Repeat("x", MaxDoc-2))
	const n = maxFindingBytes/MaxDoc + 10
	err := d.Update(t.Context(), func(tx *Tx) error {
		for i := range n {
			f := seen(fmt.Sprintf("%04d", i), "s", 0)
			f.Doc = big
			if err := tx.Put(f); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	fs, more, err := d.Findings(t.Context(), FindingFilter{Limit: MaxFindings})
	if err != nil || !more || len(fs) > maxFindingBytes/MaxDoc+1 || !bytes.Equal(fs[0].Doc, big) {
		t.Fatalf("%d findings, more %v, %v", len(fs), more, err)
	}
	rest, more, err := d.Findings(t.Context(), FindingFilter{Limit: MaxFindings, After: &fs[len(fs)-1]})
	if err != nil || more || len(rest)+len(fs) != n {
		t.Errorf("%d and then %d findings, more %v, %v", len(fs), len(rest), more, err)
	}
}

// TestDropFindings: those of the state that were not written since, and their history, and no others.
func TestDropFindings(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		c := newClock()
		d := open(t, fresh(), c.opt())
		for i, state := range []string{"fixed", "new", "fixed", "fixed"} {
			f := seen(fmt.Sprint(i), "s", 0)
			f.State = state
			put(t, d, f, Event{What: "found"})
			c.move(time.Hour)
		}
		if n, err := d.DropFindings(t.Context(), "fixed", c.now().Add(-2*time.Hour)); n != 1 || err != nil {
			t.Errorf("%d dropped: %v", n, err)
		}
		for i, want := range []int{0, 1, 1, 1} {
			h, err := d.Events(t.Context(), "t", fmt.Sprint(i))
			if err != nil || len(h) != want {
				t.Errorf("%d: %d lines, %v", i, len(h), err)
			}
			if _, err := d.Finding(t.Context(), "t", fmt.Sprint(i)); errors.Is(err, ErrNotFound) != (want == 0) {
				t.Errorf("%d: %v", i, err)
			}
		}
	})
}

func TestMarks(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		d := open(t, fresh(), Options{})
		for _, c := range []struct{ tenant, doc string }{{"t", "1"}, {"u", "2"}, {"t", "3"}, {"", "4"}} {
			if err := d.SetMark(t.Context(), c.tenant, "n", []byte(c.doc)); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.SetMark(t.Context(), "u", "n", nil); err != nil {
			t.Fatal(err)
		}
		for tenant, want := range map[string]string{"t": "3", "u": "", "": "4"} {
			if got, err := d.Mark(t.Context(), tenant, "n"); string(got) != want || err != nil || (want == "") != (got == nil) {
				t.Errorf("%q has %q, want %q: %v", tenant, got, want, err)
			}
		}
	})
}

// TestFindingInvalid: what one of the databases would not keep as it is, neither is asked to.
func TestFindingInvalid(t *testing.T) {
	d := open(t, "sqlite:"+t.TempDir()+"/c.db", Options{})
	for n, change := range []func(*Finding, *Event){
		func(f *Finding, _ *Event) { f.Tenant = "" },
		func(f *Finding, _ *Event) { f.ID = "" },
		func(f *Finding, _ *Event) { f.ID = "a\x00b" },
		func(f *Finding, _ *Event) { f.Service = "a\xffb" },
		func(f *Finding, _ *Event) { f.Kind = strings.Repeat("k", maxText+1) },
		func(f *Finding, _ *Event) { f.State = "" },
		func(f *Finding, _ *Event) { f.FirstSeen = time.Time{} },
		func(f *Finding, _ *Event) { f.LastSeen = f.FirstSeen.Add(-1) },
		func(f *Finding, _ *Event) { f.Version = -1 },
		func(f *Finding, _ *Event) { f.Doc = nil },
		func(f *Finding, _ *Event) { f.Doc = []byte("{") },
		func(f *Finding, _ *Event) { f.Doc = []byte("\"\xff\"") },
		func(f *Finding, _ *Event) { f.Doc = fmt.Appendf(nil, "%q", strings.Repeat("x", MaxDoc)) },
		func(_ *Finding, e *Event) { e.What = "" },
		func(_ *Finding, e *Event) { e.Actor = "\x00" },
		func(_ *Finding, e *Event) { e.Doc = []byte("{") },
	} {
		f, e := seen("one", "s", 0), Event{What: "found"}
		change(f, &e)
		if err := d.Put(t.Context(), f, e); !errors.Is(err, ErrInvalid) || errors.Is(err, ErrUnavailable) {
			t.Errorf("%d: %v", n, err)
		}
	}
	if err := d.Put(t.Context(), seen("one", "s", 0), make([]Event, MaxEvents+1)...); !errors.Is(err, ErrInvalid) {
		t.Errorf("too many events: %v", err)
	}
	for _, doc := range []string{"", "{", fmt.Sprintf("%q", strings.Repeat("x", MaxDoc))} {
		if err := d.SetMark(t.Context(), "t", "n", []byte(doc)); !errors.Is(err, ErrInvalid) {
			t.Errorf("a mark of %d bytes: %v", len(doc), err)
		}
	}
	if fs, _, err := d.Findings(t.Context(), FindingFilter{}); len(fs) > 0 || err != nil {
		t.Errorf("%v, %v", fs, err)
	}
}
