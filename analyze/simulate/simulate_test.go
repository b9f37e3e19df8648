package simulate

import (
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
)

// TestReport holds a small run to loose bounds. With QUANTRA_SIMULATE=full it is the long form, printed; it takes half an hour or more.
func TestReport(t *testing.T) {
	o := Options{Seed: 1, Services: 2, Every: 40, Repeats: 3, Sizes: []float64{0.05, 0.005}, Samples: []float64{100000}, Bases: []float64{0.02}}
	full := os.Getenv("QUANTRA_SIMULATE") == "full"
	if full {
		o = Full(1)
	}
	begin := time.Now()
	r, err := Run(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("took %v\n%s", time.Since(begin).Round(time.Second), r.Markdown())
	for _, x := range r.Noise {
		if x.SeriesDays < 300 || x.Looks < 10 {
			t.Errorf("%s: %d series, %d looks: it shows nothing", x.Name, x.SeriesDays, x.Looks)
		}
		if allowed := max(2, x.SeriesDays/10000); x.False > allowed {
			t.Errorf("%s: %d false alarms in %d series", x.Name, x.False, x.SeriesDays)
		}
	}
	for _, x := range r.Sudden {
		if x.Size >= 0.05 && x.Samples >= 20000 && (x.Found*10 < x.Runs*9 || x.Named*10 < x.Found*9 || x.Timed*4 < x.Found*3 || x.Minutes > 40) {
			t.Errorf("sudden: %+v", x)
		}
	}
	for _, x := range r.Gradual {
		if x.Size >= 0.05 && x.Found == 0 {
			t.Errorf("gradual: %+v", x)
		}
	}
	for _, x := range r.Refactors {
		if x.Seen*2 < x.Runs || x.Wrong*3 > x.Runs {
			t.Errorf("refactoring: %+v", x)
		}
	}
	for _, x := range r.Causes {
		if x.Found*3 < x.Runs*2 || x.Who*3 < x.Found*2 {
			t.Errorf("cause: %+v", x)
		}
	}
	// The choice of the method: no other finds more at the same rate of false alarms.
	if len(r.Methods) != 4 {
		t.Fatalf("methods %+v", r.Methods)
	}
	for _, m := range r.Methods[1:] {
		if m.Power[3] > r.Methods[0].Power[3]+0.05 {
			t.Errorf("%s finds %.2f, %s %.2f", m.Method, m.Power[3], r.Methods[0].Method, r.Methods[0].Power[3])
		}
	}
	if s := r.Smallest(); len(s) == 0 || s[0].Size > 0.05 {
		t.Errorf("smallest: %+v", s)
	}
}

func TestDeterministic(t *testing.T) {
	o := Options{Services: 1, Every: 700, Repeats: 1, Sizes: []float64{0.05}, Samples: []float64{20000}, Bases: []float64{0.02}, Workers: 1}
	a, err := Run(o)
	if err != nil {
		t.Fatal(err)
	}
	o.Workers = 3
	b, err := Run(o)
	if err != nil {
		t.Fatal(err)
	}
	b.Options.Workers = 1
	if !reflect.DeepEqual(a, b) || a.Markdown() != b.Markdown() {
		t.Errorf("equal options, other reports:\n%s\n%s", a.Markdown(), b.Markdown())
	}
}

// TestService: a table's columns add up, its shares are those of the tree, and a plant does what it says.
func TestService(t *testing.T) {
	s, err := New(Spec{Name: "s", Seed: 3, Samples: 100000, Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	name, share := pick(s, 0.05, false)
	if err := s.Plant(Plant{Function: name, At: 10, Size: 0.03}); err != nil {
		t.Fatal(err)
	}
	tab := s.Table(20, 1)
	for c := range tab.Total {
		sum := 0.0
		for _, f := range tab.Functions {
			if f.Full[c] < f.Self[c] || float64(f.Full[c]) > tab.Total[c]*1.000001 {
				t.Fatalf("%s has %g of its own and %g in all of %g", f.Function, f.Self[c], f.Full[c], tab.Total[c])
			}
			sum += float64(f.Self[c])
		}
		if math.Abs(sum-tab.Total[c]) > 1e-5*sum {
			t.Errorf("column %d: functions have %g, the total is %g", c, sum, tab.Total[c])
		}
	}
	i := slices.IndexFunc(tab.Functions, func(f analyze.Series) bool { return f.Function == name })
	part := func(from, to int) float64 {
		var k, n float64
		for c := from; c < to; c++ {
			k, n = k+float64(tab.Functions[i].Self[c]), n+tab.Total[c]
		}
		return k / n
	}
	if got := part(0, 10); math.Abs(got-share) > 0.002 {
		t.Errorf("before it has %g, want %g", got, share)
	}
	if got, want := part(10, 20), (share+0.03)/1.03; math.Abs(got-want) > 0.002 {
		t.Errorf("after it has %g, want %g", got, want)
	}
	p := s.Profile(0, 20)
	var total float64
	for _, v := range tab.Total {
		total += v
	}
	if got := float64(p.Total(0)); math.Abs(got-total) > 1e-9*total {
		t.Errorf("the profile has %g, the table %g", got, total)
	}
	for _, row := range profile.Top(p, 0) {
		if row.Name != name {
			continue
		}
		var full float64
		for _, v := range tab.Functions[i].Full {
			full += float64(v)
		}
		if math.Abs(float64(row.Total)-full) > 1e-5*full {
			t.Errorf("%s: the profile has %d in all, the table %g", name, row.Total, full)
		}
	}
	for _, bad := range []Plant{{Function: "no such"}, {Function: name, Size: -0.5}} {
		if s.Plant(bad) == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	if s.Refactor(Refactor{Kind: "rewrite", Function: name}) == nil || s.Refactor(Refactor{Kind: "rename", Function: "no such"}) == nil {
		t.Error("refactorings that are none are taken")
	}
	if _, err := New(Spec{Samples: -1}); err == nil {
		t.Error("negative samples are taken")
	}
	if _, err := Run(Options{Repeats: -1}); err == nil {
		t.Error("negative repeats are taken")
	}
}

// TestNoise: what is asked for is there. Each kind of noise by itself moves what it should.
func TestNoise(t *testing.T) {
	spread := func(n Noise) float64 {
		s, err := New(Spec{Seed: 4, Samples: 200000, Noise: n})
		if err != nil {
			t.Fatal(err)
		}
		name, _ := pick(s, 0.05, false)
		tab := s.Table(400, 1)
		i := slices.IndexFunc(tab.Functions, func(f analyze.Series) bool { return f.Function == name })
		var sum, sq float64
		for c, v := range tab.Functions[i].Self {
			x := float64(v) / tab.Total[c]
			sum, sq = sum+x, sq+x*x
		}
		mean := sum / 400
		return (sq/400 - mean*mean) / (mean * (1 - mean) / 200000)
	}
	if v := spread(Noise{}); v < 0.8 || v > 1.25 {
		t.Errorf("without noise the spread is %.2f of a binomial's", v)
	}
	if v := spread(Noise{Clump: 3}); v < 4 || v > 6 { // 2c - 1
		t.Errorf("clumps of 3: %.2f", v)
	}
	for name, n := range map[string]Noise{"mix": {Mix: 0.1}, "self": {Self: 0.1}, "hosts": {Host: 0.3, Restarts: 100}, "deploys": {Host: 0.3, Deploys: 100}} {
		if v := spread(n); v < 2 {
			t.Errorf("%s: %.2f", name, v)
		}
	}
	s, _ := New(Spec{Seed: 4, Noise: Noise{Swing: 0.4}})
	tab := s.Table(24, 60)
	if ratio := tab.Total[15] / tab.Total[3]; ratio < 2 || ratio > 2.6 {
		t.Errorf("at 15:00 load is %.2f times that at 3:00, want 1.4/0.6", ratio)
	}
}

func TestMarkdown(t *testing.T) {
	r := Report{Noise: []NoiseRow{{Name: "x", SeriesDays: 50000, Looks: 1440, Changed: 5, False: 2, Events: 1}}, Sudden: []SuddenRow{
		{Samples: 20000, Base: 0.02, Size: 0.01, Runs: 20, Found: 18, Named: 17, Timed: 16, Minutes: 20, AfterSamples: 400000},
		{Samples: 20000, Base: 0.02, Size: 0.001, Runs: 20, Found: 2}}}
	got := r.Markdown()
	// The 95 % bound of two that were seen is 6.30 (Garwood, Biometrika 28, 1936).
	for _, want := range []string{"| x | 50000 | 1440 | 5 | 2 | 1 | 0.40 | 1.26 |", "| 20000 | 2 % | 1 % | 18 of 20 | 17 of 18 | 16 of 18 | 20 | 4e+05 | 0 |", "1 % of the service at 20000 samples a minute"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func BenchmarkTable(b *testing.B) {
	s, err := New(Spec{Seed: 1, Noise: Realistic})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s.Table(120, 1)
	}
}
