package control

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)

func finding(id string, minutes int) Row {
	return Row{ID: id, Service: "checkout", Kind: "regression", State: "new", Seen: noon.Add(time.Duration(minutes) * time.Minute), Doc: []byte(`{"id":"` + id + `"}`)}
}

func TestFindings(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		url := fresh()
		d := open(t, url, Options{})
		ctx := t.Context()
		var all []RowUpdate
		for i, id := range []string{"a", "b", "c"} {
			f := finding(id, i)
			if id == "b" {
				f.Service, f.Kind, f.State = "billing", "waste", "fixed"
			}
			all = append(all, RowUpdate{f, [][]byte{[]byte(`"found"`)}})
		}
		if err := d.KeepFindings(ctx, "t", all, map[string][]byte{"analysed/checkout": []byte("1")}); err != nil {
			t.Fatal(err)
		}
		if err := d.KeepFindings(ctx, "other", all[:1], nil); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			f    RowFilter
			want string
		}{
			{RowFilter{}, "c b a"},
			{RowFilter{Limit: 2}, "c b"},
			{RowFilter{Service: "checkout"}, "c a"},
			{RowFilter{Kinds: []string{"waste", "x"}}, "b"},
			{RowFilter{States: []string{"new"}, Since: noon.Add(2 * time.Minute)}, "c"},
			{RowFilter{Service: "none"}, ""},
		} {
			list, err := d.Findings(ctx, "t", c.f)
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, f := range list {
				ids = append(ids, f.ID)
				if f.Version != 1 || f.Tenant != "t" || !strings.Contains(string(f.Doc), f.ID) {
					t.Errorf("%+v", f)
				}
			}
			if got := strings.Join(ids, " "); got != c.want {
				t.Errorf("%+v: %q, want %q", c.f, got, c.want)
			}
		}

		// Changed, and changed by one who has not seen that.
		f, ok, err := d.Finding(ctx, "t", "a")
		if err != nil || !ok || !f.Seen.Equal(noon) {
			t.Fatalf("%+v, %v, %v", f, ok, err)
		}
		f.State = "muted"
		if err := d.KeepFindings(ctx, "t", []RowUpdate{{f, [][]byte{[]byte(`"muted"`)}}}, nil); err != nil {
			t.Fatal(err)
		}
		for _, again := range []Row{f, finding("a", 9)} {
			err := d.KeepFindings(ctx, "t", []RowUpdate{{finding("d", 1), nil}, {again, [][]byte{[]byte(`"lost"`)}}}, map[string][]byte{"analysed/checkout": []byte("2")})
			if !errors.Is(err, ErrConflict) {
				t.Errorf("version %d again: %v", again.Version, err)
			}
		}
		if _, ok, _ := d.Finding(ctx, "t", "d"); ok {
			t.Error("half of what conflicted was kept")
		}
		if m, err := d.Mark(ctx, "t", "analysed/checkout"); err != nil || string(m) != "1" {
			t.Errorf("the mark is %q, %v", m, err)
		}
		events, err := d.FindingEvents(ctx, "t", "a")
		if err != nil || len(events) != 2 || string(events[1]) != `"muted"` {
			t.Errorf("%q, %v", events, err)
		}
		if ts, err := d.FindingTenants(ctx); err != nil || !slices.Equal(ts, []string{"other", "t"}) {
			t.Errorf("%v, %v", ts, err)
		}
		big := finding("big", 0)
		big.Doc = make([]byte, MaxFindingDoc+1)
		if err := d.KeepFindings(ctx, "t", []RowUpdate{{big, nil}}, nil); !errors.Is(err, ErrInvalid) {
			t.Error(err)
		}

		// Another process sees it all; what is fixed and old is forgotten, with its history.
		d.Close()
		d = open(t, url, Options{})
		if err := d.ForgetFindings(ctx, "fixed", noon.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, ok, _ := d.Finding(ctx, "t", "b"); !ok {
			t.Error("it was seen at that time, not before")
		}
		if err := d.ForgetFindings(ctx, "fixed", noon.Add(2*time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, ok, _ := d.Finding(ctx, "t", "b"); ok {
			t.Error("it is still there")
		}
		if e, err := d.FindingEvents(ctx, "t", "b"); err != nil || len(e) != 0 {
			t.Errorf("its history is %q, %v", e, err)
		}
		if e, _ := d.FindingEvents(ctx, "t", "a"); len(e) != 2 {
			t.Error("another's history went with it")
		}
	})
}

// TestFindingEventsAreBounded: of a finding that happens all the time the last events stay.
func TestFindingEventsAreBounded(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		d := open(t, fresh(), Options{})
		f := finding("a", 0)
		for n := range 5 {
			var events [][]byte
			for i := range 50 {
				events = append(events, []byte(fmt.Sprint(n*50+i)))
			}
			if err := d.KeepFindings(t.Context(), "t", []RowUpdate{{f, events}}, nil); err != nil {
				t.Fatal(err)
			}
			f.Version++
		}
		events, err := d.FindingEvents(t.Context(), "t", "a")
		if err != nil || len(events) != maxFindingEvents || string(events[0]) != "50" || string(events[maxFindingEvents-1]) != "249" {
			t.Errorf("%d events from %s, %v", len(events), events[0], err)
		}
	})
}

// TestChangeMark: nobody's change is lost.
func TestChangeMark(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		url := fresh()
		var wg sync.WaitGroup
		for range 4 {
			d := open(t, url, Options{})
			wg.Go(func() {
				for range 5 {
					err := d.ChangeMark(t.Context(), "t", "n", func(old []byte) ([]byte, error) {
						n, _ := strconv.Atoi(string(old))
						return []byte(strconv.Itoa(n + 1)), nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		d := open(t, url, Options{})
		if m, err := d.Mark(t.Context(), "t", "n"); err != nil || string(m) != "20" {
			t.Errorf("%q, %v", m, err)
		}
		no := errors.New("no")
		if err := d.ChangeMark(t.Context(), "t", "n", func([]byte) ([]byte, error) { return nil, no }); !errors.Is(err, no) {
			t.Error(err)
		}
		if err := d.ChangeMark(t.Context(), "t", "", func([]byte) ([]byte, error) { return nil, nil }); !errors.Is(err, ErrInvalid) {
			t.Error(err)
		}
	})
}
