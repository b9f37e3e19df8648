package analyze

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/quantra-l/quantra/analyze/change"
	"github.com/quantra-l/quantra/profile"
)

var cpuType = profile.Type{Name: "process_cpu", Sample: profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: profile.ValueType{Type: "cpu", Unit: "nanoseconds"}}

// monday is when made tables begin.
var monday = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// made draws a table: n samples a column on average, of functions f00, f01, ... that share them equally but for what cost says
// of function f in column c: 1 is its equal part. Each column's mean has a relative noise of sd.
func made(seed uint64, columns int, step time.Duration, functions int, n, sd float64, cost func(f, c int) float64) *Table {
	rng := rand.New(rand.NewPCG(seed, 77))
	t := &Table{Service: "checkout", Type: cpuType, Start: monday, Step: step, Unit: 1e7, Total: make([]float64, columns), Profiles: make([]int, columns), Instances: make([]int, columns)}
	for f := range functions {
		t.Functions = append(t.Functions, Series{Function: fmt.Sprintf("f%02d", f), Self: make([]float32, columns), Full: make([]float32, columns)})
	}
	for c := range columns {
		t.Profiles[c], t.Instances[c] = 14, 14
		for f := range functions {
			mean := n / float64(functions) * cost(f, c) * math.Exp(sd*rng.NormFloat64())
			k := max(0, math.Round(mean+math.Sqrt(mean)*rng.NormFloat64())) * t.Unit
			t.Functions[f].Self[c], t.Functions[f].Full[c] = float32(k), float32(k)
			t.Total[c] += k
		}
	}
	return t
}

func equal(int, int) float64 { return 1 }

// stepAt makes f07 cost by times as much from column at to column until.
func stepAt(at, until int, by float64) func(f, c int) float64 {
	return func(f, c int) float64 {
		if f == 7 && c >= at && c < until {
			return by
		}
		return 1
	}
}

func scanned(t *testing.T, tab, season *Table) *Scanned {
	t.Helper()
	s, err := Scan(tab, season, ScanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// only is the one change of f07; others may have become less by dilution.
func only(t *testing.T, s *Scanned) Change {
	t.Helper()
	for _, c := range s.Changes {
		if c.Function == "f07" {
			return c
		}
		if c.Diff.Value > 0 {
			t.Errorf("%s rose: %+v", c.Function, c)
		}
	}
	t.Fatalf("f07 is not among %+v", s)
	return Change{}
}

func TestScanStep(t *testing.T) {
	tab := made(1, 120, time.Minute, 20, 20000, 0.03, stepAt(80, 1000, 1.5))
	tab.Total[40], tab.Profiles[40] = 0, 0 // a gap
	for i := range tab.Functions {
		tab.Functions[i].Self[40], tab.Functions[i].Full[40] = 0, 0
	}
	s := scanned(t, tab, nil)
	c := only(t, s)
	if c.At < 79 || c.At > 81 || c.SinceFirst.After(tab.At(80)) || c.SinceLast.Before(tab.At(80)) {
		t.Errorf("it is said to begin at %d, %v to %v; planted at 80", c.At, c.SinceFirst, c.SinceLast)
	}
	want := 1.5/20.5 - 1.0/20
	if c.Diff.Low > want || c.Diff.High < want || c.Diff.High-c.Diff.Low > want {
		t.Errorf("difference %+v, planted %g", c.Diff, want)
	}
	if !(c.Q <= 0.05) || !(c.P < c.Q) || c.Spread < 1 || c.AfterSamples < 700000 || c.Gradual || c.Metric != "self" {
		t.Errorf("change %+v", c)
	}
	if s.Tested != 20 {
		t.Errorf("%d series are tested, want 20: full values equal to self ones are one series", s.Tested)
	}
	if again := scanned(t, tab, nil); !reflect.DeepEqual(s, again) {
		t.Error("the same table gives another result")
	}
}

func TestScanSaysNothing(t *testing.T) {
	for name, tab := range map[string]*Table{
		"noise":              made(2, 120, time.Minute, 50, 20000, 0.05, equal),
		"a spike":            made(3, 120, time.Minute, 20, 20000, 0.03, stepAt(60, 90, 2)),
		"a spike's end":      made(4, 120, time.Minute, 20, 20000, 0.03, stepAt(0, 20, 2)),
		"a spike, ending":    made(5, 120, time.Minute, 20, 20000, 0.03, stepAt(100, 117, 2)),
		"a spike, just over": made(26, 120, time.Minute, 20, 200000, 0.01, stepAt(98, 118, 1.5)),
		"two spikes": made(27, 120, time.Minute, 20, 200000, 0.01, func(f, c int) float64 {
			return stepAt(90, 101, 1.5)(f, c) * stepAt(104, 1000, 1.5)(f, c)
		}),
		"one minute":    made(6, 120, time.Minute, 20, 20000, 0.03, stepAt(104, 105, 50)),
		"three columns": made(7, 3, time.Minute, 20, 20000, 0.03, stepAt(2, 3, 9)),
		"no columns":    made(8, 0, time.Minute, 20, 20000, 0.03, equal),
		"rare":          made(9, 120, time.Minute, 20, 20, 0, stepAt(60, 200, 3)),
		"too small":     made(10, 120, time.Minute, 20, 2e6, 0, stepAt(60, 200, 1.03)),
		"a drift": made(11, 120, time.Minute, 20, 2e6, 0.005, func(f, c int) float64 {
			if f == 7 {
				return 1 + float64(c)/240
			}
			return 1
		}),
		"no functions": {Start: monday, Step: time.Minute, Unit: 1, Total: make([]float64, 100)},
	} {
		if s := scanned(t, tab, nil); len(s.Changes) > 0 {
			t.Errorf("%s: %+v", name, s.Changes)
		}
	}
}

// TestScanDrift: what is not said is counted for what it is.
func TestScanDrift(t *testing.T) {
	s := scanned(t, made(11, 240, time.Minute, 20, 2e5, 0.03, func(f, c int) float64 {
		if f == 7 {
			return 1 + float64(c)/80
		}
		return 1
	}), nil)
	if s.Drifting == 0 || len(s.Changes)+len(s.Pending) > 0 {
		t.Errorf("%+v", s)
	}
}

func TestScanPending(t *testing.T) {
	tab := made(12, 120, time.Minute, 20, 20000, 0.03, stepAt(112, 1000, 2))
	s := scanned(t, tab, nil)
	if len(s.Changes) > 0 || len(s.Pending) == 0 || !slices.ContainsFunc(s.Pending, func(c Change) bool { return c.Function == "f07" && c.At == 112 }) {
		t.Errorf("8 minutes after it began: %+v", s)
	}
}

// TestScanVanishedAndNew: a function that was not there, and one that is no more.
func TestScanVanishedAndNew(t *testing.T) {
	s := scanned(t, made(13, 120, time.Minute, 20, 20000, 0.03, stepAt(0, 70, 0)), nil)
	if c := only(t, s); c.Before.Value != 0 || c.After.Value < 0.04 || c.At != 70 {
		t.Errorf("a new function: %+v", c)
	}
	s = scanned(t, made(14, 120, time.Minute, 20, 20000, 0.03, stepAt(70, 1000, 0)), nil)
	i := slices.IndexFunc(s.Changes, func(c Change) bool { return c.Function == "f07" })
	if i < 0 || s.Changes[i].After.Value != 0 || s.Changes[i].Diff.Value > -0.04 {
		t.Errorf("a function that is gone: %+v", s.Changes)
	}
}

// swing is a day's course of f07's cost, in a table with columns of step that begins at hour from of the first day.
func swing(step time.Duration, from float64, more func(hour float64) float64) func(f, c int) float64 {
	return func(f, c int) float64 {
		hour := from + float64(c)*step.Hours()
		if f != 7 {
			return 1
		}
		v := 1.0
		h := math.Mod(hour, 24) // office hours, from nine to six
		v += 0.6 / (1 + math.Exp(-2*(h-9))) / (1 + math.Exp(2*(h-18)))
		return v * more(hour)
	}
}

func one(float64) float64 { return 1 }

func TestScanSeason(t *testing.T) {
	history := func(seed uint64) *Table {
		return made(seed, 24*9+9, time.Hour, 20, 1.2e6, 0.01, swing(time.Hour, 0, one))
	}
	now := func(seed uint64, more func(hour float64) float64) *Table {
		tab := made(seed, 180, time.Minute, 20, 20000, 0.03, swing(time.Minute, 9*24+8, more))
		tab.Start = monday.Add((9*24 + 8) * time.Hour) // until 11:00
		return tab
	}
	if s := scanned(t, now(15, one), history(16)); len(s.Changes) > 0 {
		t.Errorf("every morning: %+v", s.Changes)
	}
	// On top of the morning, half as much again from 10:10 on.
	tab := now(17, func(h float64) float64 {
		if h >= 9*24+10+10.0/60 {
			return 1.5
		}
		return 1
	})
	s := scanned(t, tab, history(16))
	if c := only(t, s); c.At < 125 || c.At > 135 {
		t.Errorf("10:10 is column 130, found %+v", c)
	}
	// The season is what shows it: without, the morning's rise is in the way, or part of it.
	if s := scanned(t, tab, nil); slices.ContainsFunc(s.Changes, func(c Change) bool { return c.Function == "f07" && c.At >= 125 }) {
		t.Errorf("without a season: %+v", s.Changes)
	}
}

func TestScanLong(t *testing.T) {
	days := func(seed uint64, more func(hour float64) float64) *Table {
		return made(seed, 24*14, time.Hour, 20, 1.2e6, 0.02, swing(time.Hour, 0, more))
	}
	if s := scanned(t, days(18, one), nil); len(s.Changes) > 0 {
		t.Errorf("a daily swing: %+v", s.Changes)
	}
	c := only(t, scanned(t, days(19, func(h float64) float64 { return 1 + 0.3*h/(24*14) }), nil))
	if !c.Gradual || c.Diff.Value < 0.8*0.3/20 || c.Diff.Value > 1.5*0.3/20 {
		t.Errorf("30 %% in 14 days: %+v", c)
	}
	c = only(t, scanned(t, days(20, func(h float64) float64 {
		if h >= 24*10 {
			return 1.2
		}
		return 1
	}), nil))
	if c.Gradual || c.At < 238 || c.At > 242 {
		t.Errorf("a step at hour 240: %+v", c)
	}
	// Weekends, of which the last has just begun its second day.
	week := made(21, 24*14, time.Hour, 20, 1.2e6, 0.02, swing(time.Hour, 0, func(h float64) float64 {
		if d := int(h/24) % 7; d >= 5 {
			return 1.4
		}
		return 1
	}))
	if s := scanned(t, week, nil); len(s.Changes) > 0 {
		t.Errorf("weekends: %+v", s.Changes)
	}
}

// TestScanWeekends: ten days from a Thursday on, of which the last weekend has lasted longer than a change must.
func TestScanWeekends(t *testing.T) {
	tab := made(28, 24*11, time.Hour, 20, 1.2e6, 0.02, func(f, c int) float64 {
		if d := (3 + c/24) % 7; f == 7 && d >= 5 {
			return 1.4
		}
		return 1
	})
	if s := scanned(t, tab, nil); len(s.Changes) > 0 || s.WentAway == 0 {
		t.Errorf("%+v", s)
	}
}

// TestScanUsual: on every third day, at no hour of its own, what happens today happened, too.
func TestScanUsual(t *testing.T) {
	bump := func(hour float64, days ...int) float64 {
		if d := int(hour / 24); slices.Contains(days, d) && hour-float64(24*d) > 8.5 {
			return 1.5
		}
		return 1
	}
	history := func(days ...int) *Table {
		return made(29, 24*9+8, time.Hour, 20, 1.2e6, 0.01, func(f, c int) float64 {
			if f != 7 {
				return 1
			}
			return bump(float64(c), days...)
		})
	}
	now := made(30, 120, time.Minute, 20, 20000, 0.02, func(f, c int) float64 {
		if f != 7 {
			return 1
		}
		return bump(9*24+7.5+float64(c)/60, 9)
	})
	now.Start = monday.Add(9*24*time.Hour + 7*time.Hour + 30*time.Minute)
	if s := scanned(t, now, history(1, 4, 7)); len(s.Changes) > 0 || s.Seasonal != 1 {
		t.Errorf("as on three days of nine: %+v", s)
	}
	only(t, scanned(t, now, history()))
}

// TestFades: a change that loses half of itself, too little by little for any three columns to show it.
func TestFades(t *testing.T) {
	s := newScan(made(1, 120, time.Minute, 1, 100, 0, equal), nil, ScanOptions{})
	series := func(tail float64) change.Ratio {
		r := change.Ratio{}
		for c := range 120 {
			v := 100 + 3*float64(c%2*2-1)
			if c >= 90 {
				v += 4
			}
			if c >= 110 {
				v += tail - 4
			}
			r.K, r.N = append(r.K, v), append(r.N, 1)
		}
		return r
	}
	for tail, want := range map[float64]bool{4: false, 1: true} {
		r := series(tail)
		if got := s.fades(r, r.Measure(0, 90, 120)); got != want {
			t.Errorf("the last ten at %+g: %v", tail, got)
		}
	}
}

// TestWander: what lasts longer than a column is seen, by its size, and not where it is not.
func TestWander(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	const sd, rho = 0.05, 0.8
	e := make([]float64, 40)
	last := -1
	tab := made(60, 240, time.Minute, 40, 2e6, 0.02, func(f, c int) float64 {
		if c != last {
			last = c
			for i := range e {
				e[i] = rho*e[i] + math.Sqrt(1-rho*rho)*sd*rng.NormFloat64()
			}
		}
		return math.Exp(e[f])
	})
	// The long-run variance of such a series is (1+rho)/(1-rho) times that of a point.
	want := sd * sd * ((1+rho)/(1-rho) - 1)
	if got := newScan(tab, nil, ScanOptions{}).findWander(); got < want/2 || got > want*3 {
		t.Errorf("wander %g, made with %g", got, want)
	}
	if got := newScan(made(61, 240, time.Minute, 40, 2e6, 0.02, equal), nil, ScanOptions{}).findWander(); got > want/10 {
		t.Errorf("wander %g where there is none", got)
	}
	if got := newScan(tab.Columns(0, 3), nil, ScanOptions{}).findWander(); got != 0 {
		t.Errorf("wander %g in three columns", got)
	}
}

// TestScanBytes: values that are no samples have no spread of their own but what is seen.
func TestScanBytes(t *testing.T) {
	tab := made(22, 120, time.Minute, 20, 20000, 0.05, stepAt(80, 1000, 1.5))
	tab.Unit = 0
	if c := only(t, scanned(t, tab, nil)); c.At < 79 || c.At > 81 || c.AfterSamples != 0 {
		t.Errorf("%+v", c)
	}
	tab = made(23, 120, time.Minute, 20, 20000, 0.05, equal)
	tab.Unit = 0
	if s := scanned(t, tab, nil); len(s.Changes) > 0 {
		t.Errorf("noise: %+v", s.Changes)
	}
}

// TestScanRollout: a change in four steps is one change, from what was before the first to what is after the last.
func TestScanRollout(t *testing.T) {
	s := scanned(t, made(24, 120, time.Minute, 20, 100000, 0.02, func(f, c int) float64 {
		if f != 7 || c < 50 {
			return 1
		}
		return 1 + float64(min((c-40)/10, 4))/4
	}), nil)
	c := only(t, s)
	if math.Abs(c.Diff.Value-(2.0/21-1.0/20)) > 0.003 || c.At < 49 || c.At > 51 || c.Settled < 75 {
		t.Errorf("%+v", c)
	}
}

func TestScanBadTables(t *testing.T) {
	good := func() *Table { return made(25, 60, time.Minute, 3, 100, 0, equal) }
	for name, spoil := range map[string]func(*Table){
		"no step":          func(t *Table) { t.Step = 0 },
		"a short line":     func(t *Table) { t.Functions[1].Self = t.Functions[1].Self[:59] },
		"a short full":     func(t *Table) { t.Functions[1].Full = t.Functions[1].Full[:1] },
		"short profiles":   func(t *Table) { t.Profiles = t.Profiles[:3] },
		"a negative unit":  func(t *Table) { t.Unit = -1 },
		"no number":        func(t *Table) { t.Functions[2].Full[7] = float32(math.NaN()) },
		"a negative value": func(t *Table) { t.Functions[2].Self[7] = -1 },
		"an endless total": func(t *Table) { t.Total[3] = math.Inf(1) },
	} {
		tab := good()
		spoil(tab)
		if _, err := Scan(tab, nil, ScanOptions{}); !errors.Is(err, ErrTable) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Scan(good(), tab, ScanOptions{}); !errors.Is(err, ErrTable) {
			t.Errorf("%s, as the season: %v", name, err)
		}
	}
	if _, err := Scan(nil, nil, ScanOptions{}); !errors.Is(err, ErrTable) {
		t.Errorf("nil: %v", err)
	}
}

// FuzzScan: no values, however odd, crash it or give figures that are none.
func FuzzScan(f *testing.F) {
	f.Add(uint64(1), 120, 5, 100.0, 10.0, 60, 1.0)
	f.Add(uint64(2), 40, 2, 1e7, 0.0, 20, 0.0)
	f.Add(uint64(3), 200, 3, 0.5, 1000.0, 190, 1e7)
	f.Fuzz(func(t *testing.T, seed uint64, columns, functions int, n, by float64, at int, unit float64) {
		if columns < 0 || columns > 300 || functions < 1 || functions > 20 || !(n >= 0 && n < 1e9) || !(by >= 0 && by < 1e6) || !(unit >= 0 && unit < 1e12) {
			return
		}
		tab := made(seed, columns, time.Minute, functions, n, 0.1, stepAt(at, columns, by))
		tab.Unit = unit
		s, err := Scan(tab, nil, ScanOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range slices.Concat(s.Changes, s.Pending) {
			for _, v := range []float64{c.Before.Low, c.Before.High, c.After.Low, c.After.High, c.Diff.Low, c.Diff.Value, c.Diff.High, c.P, c.Q, c.Spread} {
				if math.IsNaN(v) || math.IsInf(v, 0) {
					t.Fatalf("%+v", c)
				}
			}
			if c.Q > 0.05 || c.P < 0 || c.Before.Low < 0 || c.After.High > 1 {
				t.Fatalf("%+v", c)
			}
		}
	})
}

// BenchmarkScan is 100,000 series of 120 columns: 50 services of 2,000, one in a hundred of which has a change.
func BenchmarkScan(b *testing.B) {
	tab := made(1, 120, time.Minute, 1000, 200000, 0.05, func(f, c int) float64 {
		if f%100 == 7 && c >= 80 {
			return 2
		}
		return 1
	})
	for i := range tab.Functions { // two series each
		tab.Functions[i].Full = slices.Clone(tab.Functions[i].Full)
		for c := range tab.Functions[i].Full {
			tab.Functions[i].Full[c] += tab.Functions[(i+1)%1000].Self[c]
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		for range 50 {
			s, err := Scan(tab, nil, ScanOptions{})
			if err != nil || s.Tested != 2000 || len(s.Changes) < 10 {
				b.Fatal(s.Tested, len(s.Changes), err)
			}
		}
	}
}

// TestFirstWeek: what history would tell from a change is not said without; stricter bounds of the caller stay.
func TestFirstWeek(t *testing.T) {
	tab := made(51, 120, time.Minute, 20, 200000, 0.01, stepAt(80, 1000, 1.15)) // f07 has 15 % more
	if s := scanned(t, tab, nil); len(s.Changes) != 1 {
		t.Fatalf("%d changes: the test shows nothing", len(s.Changes))
	}
	if s, err := Scan(tab, nil, FirstWeek(ScanOptions{})); err != nil || len(s.Changes) > 0 {
		t.Errorf("%+v, %v", s, err)
	}
	young := made(52, 120, time.Minute, 20, 200000, 0.01, stepAt(102, 1000, 1.5)) // 18 minutes
	if s, err := Scan(young, nil, FirstWeek(ScanOptions{})); err != nil || len(s.Changes) > 0 || len(s.Pending) == 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if o := FirstWeek(ScanOptions{MinRelative: 0.5, MinAge: time.Hour, Q: 0.001}); o.MinRelative != 0.5 || o.MinAge != time.Hour || o.Q != 0.001 {
		t.Errorf("%+v", o)
	}
}
