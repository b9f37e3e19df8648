package analyze

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// sumTables adds tables of the same lines.
func sumTables(ts ...*Table) *Table {
	out := *ts[0]
	n := out.Steps()
	out.Total, out.Profiles, out.Instances = make([]float64, n), make([]int, n), make([]int, n)
	out.Functions = nil
	for _, f := range ts[0].Functions {
		out.Functions = append(out.Functions, Series{f.Function, make([]float32, n), make([]float32, n)})
	}
	for _, t := range ts {
		for c := range n {
			out.Total[c] += t.Total[c]
			out.Profiles[c] += t.Profiles[c]
			out.Instances[c] += t.Instances[c]
			for i := range t.Functions {
				out.Functions[i].Self[c] += t.Functions[i].Self[c]
				out.Functions[i].Full[c] += t.Functions[i].Full[c]
			}
		}
	}
	return &out
}

func labelled(t *testing.T, tab *Table, pairs ...string) Group {
	t.Helper()
	var ls []profile.Label
	for i := 0; i < len(pairs); i += 2 {
		ls = append(ls, profile.Label{Name: pairs[i], Value: pairs[i+1]})
	}
	labels, err := profile.NewLabels(ls...)
	if err != nil {
		t.Fatal(err)
	}
	return Group{labels, tab}
}

// between is a table without what is outside of columns from to to.
func between(tab *Table, from, to int) *Table {
	for c := range tab.Total {
		if c >= from && c < to {
			continue
		}
		tab.Total[c], tab.Profiles[c], tab.Instances[c] = 0, 0, 0
		for i := range tab.Functions {
			tab.Functions[i].Self[c], tab.Functions[i].Full[c] = 0, 0
		}
	}
	return tab
}

func regressions(t *testing.T, d Detail) ([]Finding, []Shift) {
	t.Helper()
	fs, shifts, err := Regressions(scanned(t, d.Table, nil).Changes, d)
	if err != nil {
		t.Fatal(err)
	}
	again, _, _ := Regressions(scanned(t, d.Table, nil).Changes, d)
	if !reflect.DeepEqual(fs, again) {
		t.Error("equal input, another answer")
	}
	return fs, shifts
}

// TestRegressionsDilution: f07 doubles, so all others' shares fall by 5 %, surely: none of them improved.
func TestRegressionsDilution(t *testing.T) {
	tab := made(31, 120, time.Minute, 20, 2e6, 0.01, stepAt(80, 1000, 4))
	s := scanned(t, tab, nil)
	if len(s.Changes) < 10 {
		t.Fatalf("%d changes are seen: the test shows nothing", len(s.Changes))
	}
	fs, _ := regressions(t, Detail{Table: tab})
	if len(fs) != 1 || fs[0].Function != "f07" || fs[0].Kind != Regression {
		t.Fatalf("findings %+v", fs)
	}
	f := fs[0]
	// 2,000,000 samples of 10 ms a minute are 333 cores; the growth is of 23/20 of that.
	if want := (4.0/23 - 1.0/20) * 2e6 * 1.15 / 6000; math.Abs(f.Saving-want) > 0.03*want || f.SavingUnit != "cores" {
		t.Errorf("%g %s, want %g cores", f.Saving, f.SavingUnit, want)
	}
	if f.Unit != "share" || f.Instances != 14 || f.Metric != "self" || len(f.Chart) != 120 || f.Base == nil || f.Head == nil || !f.Head.To.Equal(tab.At(120)) || f.Test == "" || !(f.Q <= 0.05) || f.Samples < 2e6*40 {
		t.Errorf("finding %+v", f)
	}
	if want := "`f07` rose from 5.0 % to 17.4 % of checkout's CPU (95 % interval "; !strings.HasPrefix(f.Sentence, want) || !strings.HasSuffix(f.Sentence, " points, 14 instances) at 01:20.") {
		t.Errorf("sentence %q", f.Sentence)
	}
}

func TestRegressionsVersion(t *testing.T) {
	v1 := between(made(32, 120, time.Minute, 20, 50000, 0.02, equal), 0, 120)
	v2 := between(made(33, 120, time.Minute, 20, 50000, 0.02, stepAt(0, 1000, 2)), 70, 120)
	tab := sumTables(v1, v2)
	d := Detail{Table: tab, Versions: []Group{labelled(t, v1, profile.LabelVersion, "v1"), labelled(t, v2, profile.LabelVersion, "v2")},
		Events: []Event{{tab.At(10), "deploy 17"}, {tab.At(68), "deploy 18"}, {tab.At(100), "deploy 19"}}}
	fs, _ := regressions(t, d)
	if len(fs) != 1 {
		t.Fatalf("%d findings: %+v", len(fs), fs)
	}
	c := fs[0].Cause
	if c == nil || c.Label != profile.LabelVersion || c.Value != "v2" || c.Event != "deploy 18" || math.Abs(c.Share-1) > 0.15 {
		t.Fatalf("cause %+v", c)
	}
	if !fs[0].Since.Equal(tab.At(70)) || !strings.HasSuffix(fs[0].Sentence, "at 01:10, with version v2.") || fs[0].Head.Labels[profile.LabelVersion] != "v2" {
		t.Errorf("since %v: %s", fs[0].Since, fs[0].Sentence)
	}
	// Both versions changed alike: the version is not the cause, the event is all that is known.
	v1 = made(34, 120, time.Minute, 20, 50000, 0.02, stepAt(70, 1000, 2))
	v2 = made(35, 120, time.Minute, 20, 50000, 0.02, stepAt(70, 1000, 2))
	d.Table, d.Versions = sumTables(v1, v2), []Group{labelled(t, v1, profile.LabelVersion, "v1"), labelled(t, v2, profile.LabelVersion, "v2")}
	fs, _ = regressions(t, d)
	if len(fs) != 1 || fs[0].Cause == nil || fs[0].Cause.Label != "" || fs[0].Cause.Event != "deploy 18" || !strings.HasSuffix(fs[0].Sentence, "with deploy 18.") {
		t.Errorf("both versions: %+v", fs)
	}
}

// TestRegressionsOnlyVersion: one version all the time is no cause.
func TestRegressionsOnlyVersion(t *testing.T) {
	v1 := made(36, 120, time.Minute, 20, 50000, 0.02, stepAt(70, 1000, 2))
	fs, _ := regressions(t, Detail{Table: v1, Versions: []Group{labelled(t, v1, profile.LabelVersion, "v1")}})
	if len(fs) != 1 || fs[0].Cause != nil {
		t.Errorf("%+v", fs)
	}
}

// called is a table where f07 is called by f00 until column at, then by f01, and the profiles of both sides; by is how f07's cost
// goes with the columns.
func called(t *testing.T, seed uint64, at int, by func(f, c int) float64) Detail {
	t.Helper()
	d := Detail{Table: made(seed, 120, time.Minute, 20, 50000, 0.02, by)}
	fs := d.Table.Functions
	for c := range 120 {
		if c < at {
			fs[0].Full[c] += fs[7].Self[c]
		} else {
			fs[1].Full[c] += fs[7].Self[c]
		}
	}
	folded := func(from, to int) *profile.Profile {
		var b strings.Builder
		for i := range fs {
			var sum float64
			for c := from; c < to; c++ {
				sum += float64(fs[i].Self[c]) / 1e7
			}
			stack := "main;" + fs[i].Function
			if i == 7 {
				stack = "main;" + fs[b2i(from >= at)].Function + ";f07"
			}
			fmt.Fprintf(&b, "%s %.0f\n", stack, sum)
		}
		p, err := profile.ParseFolded(strings.NewReader(b.String()), profile.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	d.Base, d.Head = folded(0, 70), folded(70, 120)
	return d
}

// TestRegressionsMovedCaller: f07 is called from elsewhere now, and costs what it did.
func TestRegressionsMovedCaller(t *testing.T) {
	fs, shifts := regressions(t, called(t, 62, 70, equal))
	if len(fs) > 0 || len(shifts) != 2 || !strings.Contains(shifts[0].Why, "`f07` is called from elsewhere now") {
		t.Errorf("findings %+v, shifts %+v", fs, shifts)
	}
}

// TestRegressionsDeepest: f07 costs more, so its caller does.
func TestRegressionsDeepest(t *testing.T) {
	fs, _ := regressions(t, called(t, 63, 1000, stepAt(70, 1000, 2)))
	if len(fs) != 1 || fs[0].Function != "f07" || len(fs[0].Also) != 1 || fs[0].Also[0].Function != "f00" || fs[0].Also[0].Why != "caller" {
		t.Errorf("findings %+v", fs)
	}
}

// stacked is a table of call stacks, each with what it takes of 100,000 samples a minute before and after column 70, and the profiles of
// both sides.
func stacked(t *testing.T, stacks map[string][2]float64) Detail {
	t.Helper()
	stacks = maps.Clone(stacks)
	for i := range 20 { // what does not change
		stacks[fmt.Sprintf("app.main;app.other%02d", i)] = [2]float64{4000, 4000}
	}
	const columns, at = 120, 70
	rng := rand.New(rand.NewPCG(64, 0))
	tab := &Table{Service: "checkout", Type: cpuType, Start: monday, Step: time.Minute, Unit: 1e7,
		Total: make([]float64, columns), Profiles: make([]int, columns), Instances: make([]int, columns)}
	lines := map[string]*Series{}
	line := func(name string) *Series {
		if lines[name] == nil {
			lines[name] = &Series{name, make([]float32, columns), make([]float32, columns)}
		}
		return lines[name]
	}
	var sides [2]strings.Builder
	for _, stack := range slices.Sorted(maps.Keys(stacks)) {
		frames := strings.Split(stack, ";")
		var sums [2]float64
		for c := range columns {
			want := stacks[stack][b2i(c >= at)]
			n := math.Max(0, math.Round(want+math.Sqrt(want)*rng.NormFloat64()))
			sums[b2i(c >= at)] += n
			tab.Total[c] += n * 1e7
			tab.Profiles[c], tab.Instances[c] = 14, 14
			line(frames[len(frames)-1]).Self[c] += float32(n * 1e7)
			for i, f := range frames {
				if !slices.Contains(frames[:i], f) {
					line(f).Full[c] += float32(n * 1e7)
				}
			}
		}
		for i := range sides {
			fmt.Fprintf(&sides[i], "%s %.0f\n", stack, sums[i])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		tab.Functions = append(tab.Functions, *lines[name])
	}
	d := Detail{Table: tab}
	for i, p := range []**profile.Profile{&d.Base, &d.Head} {
		var err error
		if *p, err = profile.ParseFolded(strings.NewReader(sides[i].String()), profile.Limits{}); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// TestRegressionsOwner: code that has the runtime do more is the cause, but not of what the runtime takes longer for.
func TestRegressionsOwner(t *testing.T) {
	const parse = "app.main;app.parse;"
	for name, x := range map[string]struct {
		stacks map[string][2]float64
		want   string
	}{
		"it allocates more": {map[string][2]float64{parse + "runtime.mallocgc": {1000, 3000}, parse + "runtime.mallocgc;runtime.nextFree": {600, 1800},
			"app.main;app.render;runtime.mallocgc": {1500, 1500}, "app.main;app.parse": {2000, 2000}}, "app.parse"},
		"it has the collector start more often, in two ways": {map[string][2]float64{parse + "runtime.gcStart;runtime.startTheWorld;runtime.futex": {500, 1500}, parse + "runtime.gcMarkDone;runtime.startTheWorld;runtime.futex": {500, 1500},
			"app.main;app.parse": {2000, 2000}}, "app.parse"},
		"allocation costs more everywhere": {map[string][2]float64{parse + "runtime.mallocgc": {2000, 6000}, "app.main;app.render;runtime.mallocgc": {300, 900},
			parse + "runtime.mallocgc;runtime.nextFree": {1500, 1500}}, "runtime.mallocgc"},
		"what it calls is as it was":          {map[string][2]float64{parse + "runtime.mapassign": {1000, 3000}, parse + "runtime.mapassign;runtime.memhash64": {900, 900}}, "runtime.mapassign"},
		"so is what is done beside it":        {map[string][2]float64{parse + "runtime.mallocgc;runtime.lock;runtime.lock2": {1000, 5000}, parse + "runtime.mallocgc": {2000, 2000}}, "runtime.lock2"},
		"it is called more, as all beside it": {map[string][2]float64{parse + "runtime.mallocgc;runtime.lock;runtime.lock2": {1000, 5000}, parse + "runtime.mallocgc": {500, 2500}}, "app.parse"},
		"it is given more":                    {map[string][2]float64{parse + "runtime.makeslice;runtime.memclrNoHeapPointers": {1000, 5000}, parse + "runtime.makeslice": {1000, 1000}}, "app.parse"},
		"nothing tells":                       {map[string][2]float64{parse + "runtime.futex": {1000, 5000}}, "app.parse"},
		"it is new":                           {map[string][2]float64{parse + "runtime.futex": {0, 5000}, "app.main;app.parse": {2000, 2000}}, "app.parse"},
		"it was more":                         {map[string][2]float64{parse + "runtime.mapassign": {3000, 1000}, parse + "runtime.mapassign;runtime.memhash64": {900, 900}}, "runtime.mapassign"},
	} {
		fs, shifts := regressions(t, stacked(t, x.stacks))
		if len(fs) != 1 || fs[0].Function != x.want {
			t.Errorf("%s: want %s, findings:", name, x.want)
			for _, f := range fs {
				t.Log(f.Sentence)
			}
			t.Log(shifts)
		}
	}
}

func TestRegressionsInstanceAndRegion(t *testing.T) {
	var groups []Group
	var tables []*Table
	for i := range 5 {
		by := 1.0
		if i == 3 {
			by = 6
		}
		tab := made(uint64(40+i), 120, time.Minute, 20, 20000, 0.02, stepAt(70, 1000, by))
		for c := range tab.Instances {
			tab.Instances[c] = 1
		}
		tables = append(tables, tab)
		groups = append(groups, labelled(t, tab, profile.LabelInstance, string(rune('a'+i))))
	}
	d := Detail{Table: sumTables(tables...), Instances: groups}
	fs, _ := regressions(t, d)
	if len(fs) != 1 || fs[0].Cause == nil || fs[0].Cause.Value != "d" || len(fs[0].Warnings) == 0 || !strings.Contains(fs[0].Warnings[0], "Only one of 5 instances (d)") {
		t.Fatalf("findings %+v", fs)
	}
	var eu, us = sumTables(tables[2:4]...), sumTables(tables[0], tables[1], tables[4])
	d.Others = [][]Group{{labelled(t, eu, "region", "eu"), labelled(t, us, "region", "us")}}
	fs, _ = regressions(t, d)
	if len(fs) != 1 || fs[0].Cause == nil || fs[0].Cause.Label != "region" || fs[0].Cause.Value != "eu" || !strings.Contains(fs[0].Sentence, "where region is eu") {
		t.Errorf("findings %+v", fs)
	}
	for i := range tables[0].Instances {
		d.Table.Instances[i] = 1
	}
	if fs, _ = regressions(t, d); !slices.ContainsFunc(fs[0].Warnings, func(w string) bool { return strings.HasPrefix(w, "There is one instance") }) {
		t.Errorf("one instance: %q", fs[0].Warnings)
	}
}

func TestRegressionsWarnings(t *testing.T) {
	warned := func(tab *Table, versions []Group, want string) {
		t.Helper()
		fs, _ := regressions(t, Detail{Table: tab, Versions: versions})
		if len(fs) == 0 || !slices.ContainsFunc(fs[0].Warnings, func(w string) bool { return strings.Contains(w, want) }) {
			t.Errorf("no warning of %q in %+v", want, fs)
		}
	}
	tab := made(50, 120, time.Minute, 20, 50000, 0.02, stepAt(70, 1000, 2))
	for c := 64; c < 72; c++ {
		tab.Total[c], tab.Profiles[c] = 0, 0
		for i := range tab.Functions {
			tab.Functions[i].Self[c], tab.Functions[i].Full[c] = 0, 0
		}
	}
	warned(tab, nil, "8 of 120 columns have no profiles, some just where it changed")
	tab = made(51, 120, time.Minute, 20, 50000, 0.02, stepAt(70, 1000, 2))
	for c := 70; c < 120; c++ {
		tab.Profiles[c] = 5
	}
	warned(tab, nil, "A profile holds 2.9 times as much")
	warned(made(52, 120, time.Minute, 20, 30, 0, stepAt(88, 1000, 6)), nil, "It rests on")
	// v2 comes, and half of what both spend grows: no version has it alone.
	v1 := made(53, 120, time.Minute, 20, 50000, 0.02, stepAt(70, 1000, 2))
	v2 := between(made(54, 120, time.Minute, 20, 50000, 0.02, stepAt(70, 1000, 2)), 70, 120)
	warned(sumTables(v1, v2), []Group{labelled(t, v1, profile.LabelVersion, "v1"), labelled(t, v2, profile.LabelVersion, "v2")}, "The mix of versions changed")
}

func TestRegressionsImprovement(t *testing.T) {
	fs, _ := regressions(t, Detail{Table: made(55, 120, time.Minute, 20, 50000, 0.02, stepAt(70, 1000, 0.4))})
	if len(fs) != 1 || fs[0].Kind != Improvement || fs[0].Saving <= 0 || !strings.HasPrefix(fs[0].Sentence, "`f07` fell from 5.0 % to 2.1 %") {
		t.Errorf("findings %+v", fs)
	}
}

func TestRegressionsRename(t *testing.T) {
	fs, shifts := regressions(t, Detail{Table: made(56, 120, time.Minute, 20, 50000, 0.02, func(f, c int) float64 {
		if f == 7 && c >= 70 || f == 8 && c < 70 {
			return 0
		}
		return 1
	})})
	if len(fs) > 0 || len(shifts) != 2 || !strings.Contains(shifts[0].Why, "rename") {
		t.Errorf("findings %+v, shifts %+v", fs, shifts)
	}
}

func TestRegressionsErrors(t *testing.T) {
	tab := made(57, 120, time.Minute, 20, 50000, 0.02, stepAt(70, 1000, 2))
	good := scanned(t, tab, nil).Changes
	other := made(57, 100, time.Minute, 20, 50000, 0.02, equal)
	two := profile.NewBuilder(profile.ValueType{Type: "a", Unit: "b"}, profile.ValueType{Type: "c", Unit: "d"}).Profile()
	one := profile.NewBuilder(cpuType.Sample).Profile()
	for name, d := range map[string]Detail{
		"no table":            {},
		"another table":       {Table: made(1, 120, time.Minute, 5, 100, 0, equal)},
		"a group's columns":   {Table: tab, Versions: []Group{labelled(t, other, "service_version", "v1")}},
		"a group of nothing":  {Table: tab, Others: [][]Group{{{}}}},
		"two columns":         {Table: tab, Base: two, Head: two},
		"a head without base": {Table: tab, Head: one},
	} {
		if _, _, err := Regressions(good, d); !errors.Is(err, ErrDetail) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if fs, _, err := Regressions(nil, Detail{Table: tab}); err != nil || len(fs) > 0 {
		t.Errorf("no changes: %v, %v", fs, err)
	}
	if _, _, err := Regressions(good, Detail{Table: tab, Base: one, Head: one}); err != nil {
		t.Errorf("empty profiles: %v", err)
	}
}

func TestEpisodes(t *testing.T) {
	tab := made(58, 120, time.Minute, 20, 50000, 0.02, func(f, c int) float64 {
		switch {
		case f == 7 && c >= 50:
			return 2
		case f < 3 && f > 0 && c >= 90:
			return 1.3
		}
		return 1
	})
	es := Episodes(tab, scanned(t, tab, nil).Changes)
	if len(es) != 2 || es[0].Changes[0].Function != "f07" || len(es[1].Changes) != 2 {
		t.Fatalf("episodes %+v", es)
	}
	if !es[0].BaseTo.Equal(tab.At(50)) || !es[0].HeadFrom.Equal(tab.At(50)) || !es[1].HeadTo.Equal(tab.At(120)) || !es[1].BaseTo.Equal(tab.At(90)) {
		t.Errorf("to compare: %v..%v with %v..%v", es[0].BaseFrom, es[0].BaseTo, es[0].HeadFrom, es[0].HeadTo)
	}
}

func TestPackageName(t *testing.T) {
	for name, want := range map[string]string{
		"github.com/a/b.v2/cache.(*LRU).evict":       "github.com/a/b.v2/cache.(*LRU)",
		"main.main.func1":                            "main",
		"runtime.mallocgc":                           "runtime",
		"slices.partitionCmpFunc[go.shape.string]":   "slices",
		"a.(*T[go.shape.int]).f.func2":               "a.(*T[go.shape.int])",
		"memmove":                                    "",
		"com.shop.Cart.total":                        "com.shop.Cart",
		"github.com/quantra-l/quantra/store.open":    "github.com/quantra-l/quantra/store",
		"github.com/quantra-l/quantra/store.Db.open": "github.com/quantra-l/quantra/store.Db",
	} {
		if got := packageName(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestWords(t *testing.T) {
	for want, got := range map[string]string{
		"3.1 %": percent(0.031), "0.05 %": strings.Replace(percent(0.0005), "0 %", " %", 1), "12.3 %": percent(0.1234), "0.42 %": percent(0.00421), "1.0 %": percent(0.009996),
		"+2.0..+2.6 points": points(Estimate{0.023, 0.02, 0.026}), "-0.3..+0.1 points": points(Estimate{-0.001, -0.003, 0.001}), "-0.310..-0.290 points": points(Estimate{-0.003, -0.0031, -0.0029}),
		"14:32": clock(monday.Add(14*time.Hour+32*time.Minute), monday.Add(15*time.Hour)), "2026-03-02 14:32": clock(monday.Add(14*time.Hour+32*time.Minute), monday.Add(25*time.Hour)),
		"+1.9 ms": quantity("seconds", 0.0034)(0.0019, true), "512.0": "512.0", "1.5 MiB/s": quantity("bytes/s", 1.6e6)(1.5*(1<<20), false), "240": quantity("count", 240)(240, false), "3.0 %": quantity("share", 0.1)(0.03, false),
		"a, b and c": list([]string{"a", "b", "c"}), "a, b, c and 2 more": list([]string{"a", "b", "c", "d", "e"}),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestScanFigures(t *testing.T) {
	points := func(seed uint64, at int, by float64) []float64 {
		tab := made(seed, 120, time.Minute, 8, 50000, 0.1, stepAt(at, 1000, by))
		var out []float64
		for _, v := range tab.Functions[7].Self {
			out = append(out, float64(v)/1e7/6250*0.0012)
		}
		return out
	}
	fs := Figures{Service: "checkout", Start: monday, Step: time.Minute, Instances: slices.Repeat([]int{3}, 120), Events: []Event{{monday.Add(79 * time.Minute), "deploy 18"}}, Figures: []Figure{
		{Name: "sched_latency", Type: "runtime:sched_latency:seconds::", Unit: "seconds", Points: points(1, 80, 3)},
		{Name: "goroutines", Unit: "count", Points: points(2, 80, 1)},
		{Name: "gc_cpu", Unit: "share", Points: make([]float64, 120)},
		{Name: "memory", Unit: "bytes", Points: points(3, 60, 1.1)}, // less than a fifth
		{Name: "short", Unit: "bytes", Points: []float64{1, 2, 3}},
	}}
	fs.Figures[0].Points[30] = math.NaN()
	got, err := ScanFigures(fs, ScanOptions{})
	if err != nil || len(got) != 1 {
		t.Fatalf("%+v: %v", got, err)
	}
	f := got[0]
	if f.Kind != Regression || f.Subject != "sched_latency" || f.Metric != "value" || f.Unit != "seconds" || f.After.Value < 0.0034 || f.After.Value > 0.0038 || !f.Since.Equal(monday.Add(80*time.Minute)) || len(f.Chart) != 119 {
		t.Errorf("%+v", f)
	}
	if !strings.HasPrefix(f.Sentence, "checkout's scheduling latency rose from 1.2 ms to 3.6 ms (95 % interval +2.") || !strings.HasSuffix(f.Sentence, " ms, 3 instances) at 01:20, with deploy 18.") {
		t.Errorf("%q", f.Sentence)
	}
	fs.Figures[1].Points[3] = -1
	if _, err := ScanFigures(fs, ScanOptions{}); !errors.Is(err, ErrTable) {
		t.Errorf("a negative point: %v", err)
	}
	if _, err := ScanFigures(Figures{Figures: fs.Figures}, ScanOptions{}); !errors.Is(err, ErrTable) {
		t.Errorf("no step: %v", err)
	}
}
