package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// upload is a small profile of its own: values tell uploads apart.
func upload(t testing.TB, service string, from time.Time, value int64) store.Upload {
	t.Helper()
	b := profile.NewBuilder(profile.ValueType{Type: "samples", Unit: "count"}, profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	var parent uint32
	for _, name := range []string{"main.main", "main.serve", "main.work_" + service} {
		f := b.Function(profile.Function{Name: b.String(name), File: b.String("main.go"), StartLine: 10})
		parent = b.Stack(parent, b.Location(profile.Location{}, profile.Line{Function: f, Line: 12}))
		b.Add(parent, 0, 1, value)
	}
	p := b.Profile()
	p.PeriodType, p.Period = profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, 10_000_000
	labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: service})
	if err != nil {
		t.Fatal(err)
	}
	return store.Upload{Labels: labels, From: from, To: from.Add(10 * time.Second), Profile: p, Pprof: p.AppendPprof(nil)}
}

var cpu = profile.Type{Name: "process_cpu", Sample: profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: profile.ValueType{Type: "cpu", Unit: "nanoseconds"}}

func TestAppendSelectReopen(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	db, err := store.Open(ctx, dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	for i := range 10 {
		if err := db.Append(ctx, upload(t, "shop", now.Add(time.Duration(i)*time.Second), 1000)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		r, err := db.Select(ctx, store.Query{Type: cpu, Matchers: []store.Matcher{{Name: "service_name", Value: "shop"}}})
		if err != nil {
			t.Fatal(err)
		}
		if r.Profiles != 10 || r.Series != 1 || r.Profile.Total(0) != 30_000 || r.Profile.NumSamples() != 3 {
			t.Fatalf("got %d profiles, %d series, total %d, %d samples", r.Profiles, r.Series, r.Profile.Total(0), r.Profile.NumSamples())
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if db, err = store.Open(ctx, dir, store.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
