package analyze

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
)

func TestCompareFindings(t *testing.T) {
	r := seeded(3)
	head := withStacks(map[string]float64{evicting: 900, evicting + ";internal/runtime/maps.(*Iter).Next": 500})
	base := cohort(r, "v1", shop, 2, 20000, 0.02)
	next := cohort(r, "v2", head, 2, 22400, 0.02)
	c := compared(t, base, next, CompareOptions{})
	from := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	typ, err := profile.ParseType("process_cpu:cpu:nanoseconds:cpu:nanoseconds")
	if err != nil {
		t.Fatal(err)
	}
	ctx := ComparisonContext{Type: typ, From: from, To: from.Add(time.Hour), Label: profile.LabelVersion, Base: "v1", Head: "v2"}
	fs := c.Findings("checkout", ctx)
	if len(fs) != 1 {
		t.Fatalf("%d findings: %+v", len(fs), fs)
	}
	f := fs[0]
	if f.Kind != Regression || f.Service != "checkout" || f.Function != "shop.(*Cache).evict" || f.Metric != "total" || f.Unit != "share" || f.Type != typ.String() || f.Instances != 4 {
		t.Errorf("%+v", f)
	}
	// By hand: evict has 200 of 10,000, then 1400 of 11,200; for the same work 1200 of 11,200 more. Two instances
	// of 22,400 samples of 10 ms in 100 s keep 4.48 cores busy.
	near := func(what string, got, want, within float64) {
		t.Helper()
		if math.Abs(got-want) > within {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	near("before", f.Before.Value, 0.02, 0.003)
	near("after", f.After.Value, 0.125, 0.005)
	near("change", f.Change.Value, 0.105, 0.006)
	if f.Change.Low > 0.105 || f.Change.High < 0.105 || f.Change.High-f.Change.Low > 0.03 {
		t.Errorf("interval %+v", f.Change)
	}
	near("saving", f.Saving, 1200.0/11200*4.48, 0.05)
	// What a chart of its own code shows is the same share, of one instance at a time.
	own := f
	own.Metric = "own"
	e, ok := Measure(&own, Snapshot{From: from, To: from.Add(time.Minute), Instances: 1, CPU: Profiles{next.Replicates[0].Profile}})
	if near("own", e.Value, 0.125, 0.01); !ok || e.Low >= e.Value || e.High <= e.Value {
		t.Errorf("own code measured: %+v, %v", e, ok)
	}
	if f.SavingUnit != "cores" || f.P > 1e-4 || f.Q < f.P || f.Test == "" || len(f.Warnings) != 0 {
		t.Errorf("%+v", f)
	}
	if want := (Cause{Label: profile.LabelVersion, Value: "v2", Share: 1}); f.Cause == nil || *f.Cause != want {
		t.Errorf("cause %+v", f.Cause)
	}
	for _, part := range []string{"`shop.(*Cache).evict` rose from 2.", " % to 12.", " of checkout's CPU (95 % interval +", " points, 2 and 2 instances) from version v1 to v2."} {
		if !strings.Contains(f.Sentence, part) {
			t.Errorf("%q lacks %q", f.Sentence, part)
		}
	}
	why := map[string]string{}
	for _, m := range f.Also {
		why[m.Function] = m.Why
	}
	if why["shop.(*Cache).Put"] != "caller" || why["internal/runtime/maps.(*Iter).Next"] != "callee" || why["shop.price"] != "" {
		t.Errorf("also: %v", why)
	}
	if f.Base.Labels[profile.LabelVersion] != "v1" || f.Head.Labels[profile.LabelVersion] != "v2" {
		t.Errorf("selections %+v %+v", f.Base, f.Head)
	}
	if _, err := json.Marshal(fs); err != nil {
		t.Error(err)
	}
	// Whose cores are told has them told; where they are not known nothing is.
	ctx.Cores = 100
	near("saving of 100 cores", c.Findings("checkout", ctx)[0].Saving, 1200.0/11200*100, 1)
	ctx.Cores = -1
	if f := c.Findings("checkout", ctx)[0]; f.Saving != 0 || f.SavingUnit != "" {
		t.Errorf("unknown cores save %v %s", f.Saving, f.SavingUnit)
	}
	// The other way round it is an improvement, of the same function.
	back := compared(t, next, base, CompareOptions{}).Findings("checkout", ComparisonContext{Type: typ})
	if len(back) != 1 || back[0].Kind != Improvement || back[0].Function != f.Function || back[0].Change.Value >= 0 || back[0].Saving <= 0 || !strings.Contains(back[0].Sentence, " fell from 12.") {
		t.Errorf("back: %+v", back)
	}
}

// TestCompareWarns: what may mislead is said.
func TestCompareWarns(t *testing.T) {
	r := seeded(4)
	wide := cohort(r, "v2", shop, 2, 5000, 0)
	for i := range wide.Replicates {
		wide.Replicates[i].Profile = wide.Replicates[i].Profile.Scale(0.5)
		wide.Replicates[i].Profile.Period = tenMillis / 2
	}
	bytes := func() Cohort {
		p := *fake(r, shop, 5000, 0)
		p.PeriodType = profile.ValueType{Type: "contentions", Unit: "count"}
		return Cohort{Replicates: []Replicate{{Profile: &p}}}
	}
	for name, c := range map[string]struct {
		base, head Cohort
		want       string
	}{
		"one each":       {cohort(r, "v1", shop, 1, 5000, 0), cohort(r, "v2", shop, 1, 5000, 0), "one replicate a side"},
		"one of them":    {cohort(r, "v1", shop, 3, 5000, 0), cohort(r, "v2", shop, 1, 5000, 0), "v2 is one replicate"},
		"few samples":    {cohort(r, "v1", shop, 2, 5000, 0), cohort(r, "v2", shop, 2, 300, 0), "v2 has only "},
		"rates":          {cohort(r, "v1", shop, 2, 5000, 0), wide, "sampling rates differ: one sample each 10000000 and each 5000000 nanoseconds"},
		"no samples":     {bytes(), bytes(), "values are no samples of equal weight"},
		"few functions":  {cohort(r, "v1", map[string]float64{"a;b": 1, "a;c": 2}, 2, 5000, 0), cohort(r, "v2", map[string]float64{"a;b": 1, "a;c": 2}, 2, 5000, 0), "too few functions"},
		"much is saved":  {cohort(r, "v1", withStacks(map[string]float64{evicting: 90000}), 2, 50000, 0), cohort(r, "v2", shop, 2, 5000, 0), "so much changed that what did not has 10."},
		"empty replicas": {cohort(r, "v1", shop, 2, 5000, 0), Cohort{Name: "v2", Replicates: append(cohort(r, "v2", shop, 2, 5000, 0).Replicates, Replicate{Profile: profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"}).Profile()})}, "1 of v2's replicates have no sample"},
	} {
		got := compared(t, c.base, c.head, CompareOptions{})
		if !slices.ContainsFunc(got.Warnings, func(w string) bool { return strings.Contains(w, c.want) }) {
			t.Errorf("%s: %q, want %q", name, got.Warnings, c.want)
		}
	}
	if w := compared(t, cohort(r, "v1", shop, 2, 5000, 0), cohort(r, "v2", shop, 2, 5000, 0), CompareOptions{}).Warnings; len(w) != 0 {
		t.Errorf("nothing is wrong, and it warns: %q", w)
	}
}

// TestCompareRequests: where both sides count their work, cost for the same work is known even if everything changed.
func TestCompareRequests(t *testing.T) {
	r := seeded(5)
	base, head := cohort(r, "v1", shop, 4, 20000, 0.02), cohort(r, "v2", shop, 4, 40000, 0.02)
	for i := range base.Replicates {
		base.Replicates[i].Requests = 1000 + 10*float64(i)
		head.Replicates[i].Requests = 1000 + 10*float64(3-i)
	}
	c := compared(t, base, head, CompareOptions{})
	// Twice the cost by request: a function of the same share costs twice as much, and by share nothing changed.
	if c.ScaleBy != "requests" || math.Abs(c.Scale.Value-0.5) > 0.02 || math.Abs(c.Head.PerRequest/c.Base.PerRequest-2) > 0.05 {
		t.Errorf("scale %+v by %s, %v and %v by request", c.Scale, c.ScaleBy, c.Base.PerRequest, c.Head.PerRequest)
	}
	if c.causes() != "" {
		t.Errorf("shares are the same, and it says %s", c.causes())
	}
	if d := c.of(t, "shop.price").Full; math.Abs(d.Real.Value-d.After.Value/2) > 0.01 {
		t.Errorf("for the same work: %+v", d)
	}
}

// TestCompareRenamed: names of before are told.
func TestCompareRenamed(t *testing.T) {
	r := seeded(6)
	serve := "net/http.(*conn).serve;shop.handle;"
	head := withStacks(map[string]float64{evicting: 0, serve + "shop.(*Cache).Put;shop.(*Cache).dropOldest": 200})
	if ch := compared(t, cohort(r, "v1", shop, 3, 20000, 0.02), cohort(r, "v2", head, 3, 20000, 0.02), CompareOptions{}).of(t, "shop.(*Cache).dropOldest"); ch.Was != "shop.(*Cache).evict" || ch.Full.Before.Value == 0 {
		t.Errorf("%+v", ch)
	}
	// One that grew fourfold as well is another function by all that can be seen, unless it is told.
	head[serve+"shop.(*Cache).Put;shop.(*Cache).dropOldest"] = 800
	for _, known := range []map[string]string{nil, {"shop.(*Cache).evict": "shop.(*Cache).dropOldest"}} {
		c := compared(t, cohort(r, "v1", shop, 3, 20000, 0.02), cohort(r, "v2", head, 3, 21200, 0.02), CompareOptions{Rename: known})
		if ch := c.of(t, "shop.(*Cache).dropOldest"); (ch.Was != "") != (known != nil) || (ch.Full.Before.Value > 0.01) != (known != nil) {
			t.Errorf("told %v: %+v", known, ch)
		}
	}
}

func TestCompareWords(t *testing.T) {
	for share, want := range map[float64]string{0.0312: "3.1 %", 0: "0.0 %", 0.5: "50.0 %", 0.0049: "0.49 %", 0.00049: "0.049 %", 1: "100.0 %"} {
		if got := Percent(share); got != want {
			t.Errorf("%v is %q, want %q", share, got, want)
		}
	}
	if got := Points(Estimate{0.023, 0.02, 0.026}); got != "+2.0..+2.6 points" {
		t.Error(got)
	}
	for name, want := range map[string]string{
		"github.com/a/b.(*T).M": "github.com/a/b", "encoding/json.Marshal": "encoding/json", "main.main": "main", "memcpy": "", "gopkg.in/yaml.v3.Unmarshal": "gopkg.in/yaml",
		"slices.SortFunc[go.shape.[]example.com/x.T,go.shape.int]": "slices",
	} {
		if got := packageOf(name); got != want {
			t.Errorf("the package of %s is %q, want %q", name, got, want)
		}
	}
	for name, std := range map[string]bool{"runtime.mallocgc": true, "net/http.(*conn).serve": true, "internal/runtime/maps.(*Iter).Next": true, "main.main": false,
		"github.com/quantra-l/quantra/cmd/quantraband/demo.(*Cache).evict": false, "memcpy": false, "golang.org/x/net/http2.(*Framer).Write": false} {
		if isStandard(name) != std {
			t.Errorf("%s: standard library %v", name, !std)
		}
	}
}
