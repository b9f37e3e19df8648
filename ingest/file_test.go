package ingest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
)

func parsed(t *testing.T, text string) *profile.Profile {
	t.Helper()
	p, _, err := profile.Read(strings.NewReader(text), profile.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestModelFiles: what files have is named as docs/model.md says.
func TestModelFiles(t *testing.T) {
	for measure, want := range map[string]struct {
		name   string
		types  []profile.ValueType
		values []int64
	}{
		"":            {"process_cpu", []profile.ValueType{vt("samples", "count"), vt("cpu", "nanoseconds")}, []int64{3, 3 * 2e7}},
		"wall":        {"wall", []profile.ValueType{vt("samples", "count"), vt("wall", "nanoseconds")}, []int64{3, 3 * 2e7}},
		"alloc_space": {"memory", []profile.ValueType{vt("alloc_space", "bytes")}, []int64{3}},
	} {
		p := parsed(t, "a;b 3\n")
		name, err := ModelStacks(p, Numbers{Measure: measure, Rate: 50})
		if err != nil || name != want.name || !reflect.DeepEqual(p.SampleTypes, want.types) {
			t.Errorf("%q: %s %v %v", measure, name, p.SampleTypes, err)
			continue
		}
		for i, v := range want.values {
			if p.Total(i) != v {
				t.Errorf("%q: column %d has %d", measure, i, p.Total(i))
			}
		}
	}
	if _, err := ModelStacks(parsed(t, "a 3\n"), Numbers{Measure: "love"}); err == nil {
		t.Error("a measure that is none")
	}
	for text, want := range map[string]struct {
		name  string
		types []profile.ValueType
	}{
		"x 1 12.5: 99 cpu-clock:u: \n\t10 f+0x1 (/a)\n":                                                     {"process_cpu", []profile.ValueType{vt("samples", "count"), vt("cpu", "nanoseconds")}},
		"x 1 12.5: 99 cycles: \n\t10 f+0x1 (/a)\n":                                                          {"process_cpu", []profile.ValueType{vt("samples", "count"), vt("cycles", "count")}},
		"x 1 12.5: 1 sched:sched_switch: \n\t10 f+0x1 (/a)\n\nx 1 12.6: 1 page-faults: \n\t10 f+0x1 (/a)\n": {"sched", []profile.ValueType{vt("samples", "count"), vt("sched_sched_switch", "count"), vt("page-faults", "count")}},
	} {
		p := parsed(t, text)
		if name := ModelPerf(p); name != want.name || !reflect.DeepEqual(p.SampleTypes, want.types) || p.PeriodType == (profile.ValueType{}) || checkTypes(p) != nil {
			t.Errorf("%q: %s %v %v", text, name, p.SampleTypes, p.PeriodType)
		}
	}
}

// TestNames: what arrives is kept with the names that it is given, in its bytes too.
func TestNames(t *testing.T) {
	var kept []Push
	in, err := New(Options{
		Append: func(_ context.Context, p Push) error { kept = append(kept, p); return nil },
		Names: func(_ context.Context, tenant string, p *profile.Profile) *profile.Profile {
			return p.Rename(func(name string) (string, bool) { return tenant + "." + name, name == "mangled" })
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	in.Register(mux)
	for _, text := range []string{"mangled 3\n", "plain 3\n"} {
		p := parsed(t, text)
		p.TimeNanos, p.DurationNanos = time.Now().Add(-time.Minute).UnixNano(), int64(time.Second)
		raw := p.AppendPprof(nil)
		r := httptest.NewRequest(http.MethodPost, "/api/v1/profiles?service_name=shop", strings.NewReader(string(raw)))
		r.Header.Set("X-Scope-OrgID", "acme")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
		got := kept[len(kept)-1]
		back, err := profile.DecodeBytes(got.Pprof, profile.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Replace(strings.Fields(text)[0], "mangled", "acme.mangled", 1)
		if name := back.Strings[back.Functions[0].Name]; name != want || got.Profile.Strings[got.Profile.Functions[0].Name] != want {
			t.Errorf("%q, want %q", name, want)
		}
		if want == "plain" && string(got.Pprof) != string(raw) {
			t.Error("bytes that are as they should be were written anew")
		}
	}
}
