package scale

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
)

// monday is a Monday, at midnight.
var monday = time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)

// fleet is a service whose load is known, in virtual time. Replicas have 2 cores and bear load start after they were asked for.
type fleet struct {
	load     func(t time.Time) float64 // cores
	noise    float64                   // of each minute's load, and of a replica's share of it, relative
	start    time.Duration
	rng      *rand.Rand
	now      time.Time
	asked    int
	born     []time.Time // of replicas
	minutes  map[int][]Minute
	history  []Load
	changed  time.Time
	sum      float64
	sums     int
	ups      int
	downs    int
	turns    int // from up to down or back
	last     int
	late     int     // minutes in which load was more than 95 % of what there was
	replicas float64 // summed over minutes
	ticks    int
	says     []string
}

const each = 2.0 // cores of a replica

func newFleet(seed uint64, replicas int, load func(time.Time) float64) *fleet {
	f := &fleet{load: load, noise: 0.05, start: 4 * time.Minute, rng: rand.New(rand.NewPCG(seed, 1)), now: monday, minutes: map[int][]Minute{}}
	f.set(replicas)
	for i := range f.born {
		f.born[i] = monday.Add(-time.Hour)
	}
	f.changed = time.Time{}
	f.ups, f.downs, f.turns, f.last = 0, 0, 0, 0
	return f
}

func (f *fleet) set(n int) {
	d := 1
	if n < f.asked {
		d = -1
		f.downs++
	} else {
		f.ups++
	}
	if f.last*d < 0 {
		f.turns++
	}
	f.last = d
	for len(f.born) < n {
		f.born = append(f.born, f.now)
	}
	for i := n; i < len(f.born); i++ {
		delete(f.minutes, i)
	}
	f.born, f.asked, f.changed = f.born[:n], n, f.now
}

// minute goes on by one.
func (f *fleet) minute() {
	f.now = f.now.Add(time.Minute)
	load := f.load(f.now) * math.Exp(f.noise*f.rng.NormFloat64())
	ready := 0
	for _, b := range f.born {
		if f.now.Sub(b) >= f.start {
			ready++
		}
	}
	room := each * float64(ready)
	if load > 0.95*room {
		f.late++
	}
	used := min(load, room)
	for i, b := range f.born {
		if f.now.Sub(b) < f.start {
			continue
		}
		m := append(f.minutes[i], Minute{At: f.now, Used: used / float64(ready) * (1 + f.noise*f.rng.NormFloat64()), Allowed: each, Requests: 100 * load / float64(ready),
			P99: 0.05, Sched: 0.0005, Peers: math.NaN()})
		f.minutes[i] = m[max(0, len(m)-60):]
	}
	f.sum, f.sums = f.sum+used, f.sums+1
	if f.sums == 5 {
		f.history = append(f.history, Load{At: f.now, Cores: f.sum / 5})
		f.history = f.history[max(0, len(f.history)-29*288):]
		f.sum, f.sums = 0, 0
	}
	f.ticks++
	f.replicas += float64(len(f.born))
}

func (f *fleet) input() Input {
	in := Input{Service: "checkout", Version: "v1", Place: "kube", Group: "deployments.apps/shop/checkout", Now: f.now, Replicas: f.asked, History: f.history, Changed: f.changed}
	for i := range f.born {
		if m := f.minutes[i]; m != nil {
			in.Instances = append(in.Instances, Instance{ID: fmt.Sprintf("checkout-%d", i), Minutes: m})
		}
	}
	return in
}

// run goes on for a time, and follows what is proposed every so many minutes.
func (f *fleet) run(t *testing.T, o Options, d time.Duration, every int) {
	t.Helper()
	for end := f.now.Add(d); f.now.Before(end); {
		f.minute()
		if f.ticks%every != 0 {
			continue
		}
		got, err := Propose(f.input(), o)
		if err != nil {
			t.Fatal(err)
		}
		if got.Proposal == nil {
			continue
		}
		s := specOf(t, got.Proposal)
		if s.From != f.asked || s.To == s.From {
			t.Fatalf("%v: spec %+v while %d are asked for", f.now, s, f.asked)
		}
		if s.To < max(2, o.Floor) {
			t.Fatalf("%v: below the floor: %+v", f.now, s)
		}
		f.says = append(f.says, f.now.Format("Mon 15:04 ")+got.Proposal.Sentence)
		f.set(s.To)
	}
}

func specOf(t *testing.T, p *optimize.Proposal) Spec {
	t.Helper()
	var s Spec
	if err := json.Unmarshal(p.Spec, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// diurnal is a load with its peak at 14:00, and less on weekends.
func diurnal(low, high, weekend float64) func(time.Time) float64 {
	return func(t time.Time) float64 {
		h := float64(t.Hour()) + float64(t.Minute())/60
		v := low + (high-low)*math.Pow(0.5+0.5*math.Cos((h-14)/24*2*math.Pi), 2)
		// The weekend comes and goes within six hours: share is 1 from Saturday 06:00 to Monday 00:00.
		share := 0.0
		switch t.Weekday() {
		case time.Saturday:
			share = min(1, h/6)
		case time.Sunday:
			share = 1
		case time.Monday:
			share = max(0, 1-h/6)
		}
		return v * (1 - share*(1-weekend))
	}
}

// steady is a fleet that ran for days at a load, without anything being proposed.
func steady(t *testing.T, seed uint64, replicas int, d time.Duration, load func(time.Time) float64) *fleet {
	t.Helper()
	f := newFleet(seed, replicas, load)
	for end := f.now.Add(d); f.now.Before(end); {
		f.minute()
	}
	return f
}

func flat(v float64) func(time.Time) float64 { return func(time.Time) float64 { return v } }

func propose(t *testing.T, f *fleet, o Options) Decision {
	t.Helper()
	d, err := Propose(f.input(), o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestKnownAnswers(t *testing.T) {
	f := steady(t, 1, 10, 26*time.Hour, flat(6)) // 6 of 20 cores
	f.noise = 0
	d := propose(t, f, Options{})
	if d.Proposal == nil {
		t.Fatal("nothing is proposed at 30 %: ", d.Why)
	}
	if s := specOf(t, d.Proposal); s.From != 10 || s.To != 9 {
		t.Errorf("10 %% down from 10 is 9, not %+v", s)
	}
	p := d.Proposal
	if p.Saving != each || p.Cost != 0 || p.Kind != optimize.Scale || p.Expected["cpu"].Value < 0.11 || p.Expected["cpu"].Value > 0.112 {
		t.Errorf("saving %v, cost %v, expected %v: 2 cores, nothing and 10/9-1", p.Saving, p.Cost, p.Expected["cpu"])
	}
	for _, want := range []string{"checkout: load takes 3", "of 10 replicas' CPU", "10 -> 9 replicas"} {
		if !strings.Contains(p.Sentence, want) {
			t.Errorf("%q does not say %q", p.Sentence, want)
		}
	}
	t.Log(p.Sentence, p.Warnings)

	f.load = flat(17) // 85 %
	for range 7 {
		f.minute()
	}
	d = propose(t, f, Options{CoreMonth: 20})
	if d.Proposal == nil {
		t.Fatal("nothing is proposed at 85 % for 7 minutes: ", d.Why)
	}
	// 17 cores at 60 % of 2 are 14.2 replicas.
	if s := specOf(t, d.Proposal); s.To != 15 {
		t.Errorf("17 cores need 15 replicas at 60 %%, not %+v", s)
	}
	if p := d.Proposal; p.Saving != -10 || p.Cost != 200 {
		t.Errorf("saving %v, cost %v: 5 replicas of 2 cores at 20 each", p.Saving, p.Cost)
	}
	t.Log(d.Proposal.Sentence, d.Proposal.Warnings)
}

// TestRules is what keeps from a change: each case is one that would be made, but for one thing.
func TestRules(t *testing.T) {
	idle, busy := flat(6), flat(17)
	for _, c := range []struct {
		name     string
		load     func(time.Time) float64
		replicas int
		o        Options
		change   func(in *Input)
		to       int // 0 is nothing
		why      string
	}{
		{name: "idle", load: idle, replicas: 10, to: 9},
		{name: "20 % at once where told", load: idle, replicas: 10, o: Options{DownMost: 0.2}, to: 8},
		{name: "at the floor", load: flat(0.6), replicas: 2, why: "2 replicas are right"},
		{name: "own floor", load: idle, replicas: 10, o: Options{Floor: 10}, why: "are right"},
		{name: "just changed", load: idle, replicas: 10, change: func(in *Input) { in.Changed = in.Now.Add(-29 * time.Minute) }, why: "it was changed 29m0s ago"},
		{name: "half an hour ago", load: idle, replicas: 10, change: func(in *Input) { in.Changed = in.Now.Add(-30 * time.Minute) }, to: 9},
		{name: "less than a day", load: idle, replicas: 10, change: func(in *Input) { in.History = in.History[len(in.History)-280:] }, why: "of history"},
		{name: "less than a day, where told", load: idle, replicas: 10, o: Options{MinHistory: -1}, change: func(in *Input) { in.History = in.History[len(in.History)-280:] }, to: 9},
		{name: "a replica was not measured", load: idle, replicas: 10, change: func(in *Input) { in.Instances = in.Instances[:8] }, why: "not every replica was measured"},
		{name: "hardly any was measured", load: busy, replicas: 10, change: func(in *Input) { in.Instances = in.Instances[:4] }, why: "too little was measured"},
		{name: "nothing was measured", load: busy, replicas: 10, change: func(in *Input) { in.Instances = nil }, why: "too little was measured"},
		{name: "nothing since", load: busy, replicas: 10, change: func(in *Input) { in.Now = in.Now.Add(4 * time.Minute) }, why: "too little was measured"},
		{name: "nothing known", load: busy, replicas: 10, change: func(in *Input) {
			for _, i := range in.Instances {
				for j := range i.Minutes {
					i.Minutes[j].Used = math.NaN()
				}
			}
		}, why: "too little was measured"},
		{name: "goroutines queue", load: idle, replicas: 10, change: func(in *Input) { edit(in, func(m *Minute) { m.Sched = 0.02 }) }, why: "goroutines wait 20 ms"},
		{name: "latency rose", load: idle, replicas: 10, change: func(in *Input) {
			edit(in, func(m *Minute) {
				if in.Now.Sub(m.At) < 6*time.Minute {
					m.P99 = 0.2
				}
			})
		}, why: "the 99th percentile of latency is 200 ms, and was 50"},
		{name: "no load at all", load: flat(0), replicas: 10, why: "no CPU is used at all"},
		{name: "switched off", load: idle, replicas: 10, change: func(in *Input) { in.Replicas = 0 }, why: "switched off"},

		{name: "busy", load: busy, replicas: 10, to: 15},
		{name: "busy for 4 of 5 minutes", load: busy, replicas: 10, change: func(in *Input) {
			edit(in, func(m *Minute) {
				if b := in.Now.Sub(m.At); b >= 4*time.Minute {
					m.Used = 1
				}
			})
		}, why: "are right"},
		{name: "busy, and just changed", load: busy, replicas: 10, change: func(in *Input) { in.Changed = in.Now.Add(-2 * time.Minute) }, why: "once in 3m0s is the most"},
		{name: "busy at the ceiling", load: busy, replicas: 10, o: Options{Ceiling: 10}, why: "the ceiling is 10"},
		{name: "busy below the ceiling", load: busy, replicas: 10, o: Options{Ceiling: 12}, to: 12},
		{name: "busy, small steps", load: busy, replicas: 10, o: Options{UpMost: 0.2}, to: 12},
		{name: "saturated", load: flat(40), replicas: 10, to: 20},
		{name: "peers", load: idle, replicas: 10, change: func(in *Input) { edit(in, func(m *Minute) { m.Peers = 501 }) }, to: 14}, // 5010 at 375
		{name: "peers keep from fewer", load: idle, replicas: 10, change: func(in *Input) { edit(in, func(m *Minute) { m.Peers = 370 }) }, why: "are right"},
		{name: "between the two", load: flat(14), replicas: 10, why: "are right"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := steady(t, 2, c.replicas, 25*time.Hour, c.load)
			if c.load(f.now) > 13 { // history knows of it, else what is predicted decides
				for i := range f.history {
					f.history[i].Cores = min(f.history[i].Cores, 12.5)
				}
			}
			in := f.input()
			if c.change != nil {
				c.change(&in)
			}
			d, err := Propose(in, c.o)
			if err != nil {
				t.Fatal(err)
			}
			to := 0
			if d.Proposal != nil {
				to = specOf(t, d.Proposal).To
			}
			if to != c.to || c.to == 0 && !strings.Contains(d.Why, c.why) {
				t.Errorf("to %d, want %d; %q must say %q", to, c.to, d.Why, c.why)
			}
		})
	}
}

// edit changes all minutes of an input of its own.
func edit(in *Input, change func(*Minute)) {
	for i := range in.Instances {
		own := append([]Minute(nil), in.Instances[i].Minutes...)
		for j := range own {
			change(&own[j])
		}
		in.Instances[i].Minutes = own
	}
}

// TestWeeks follows what is proposed through weeks of virtual time.
func TestWeeks(t *testing.T) {
	const week = 7 * 24 * time.Hour
	for _, c := range []struct {
		name     string
		load     func(time.Time) float64
		replicas int
		weeks    time.Duration
		noise    float64
		turns    float64 // a day, at most
		late     int     // minutes, at most
		mean     [2]float64
	}{
		// 12 cores at 60 % are 10 replicas, and a little for its scatter.
		{name: "flat", load: flat(12), replicas: 16, weeks: 2, turns: 0.1, mean: [2]float64{10, 12}},
		{name: "flat, noisy", load: flat(12), replicas: 16, weeks: 2, noise: 0.10, turns: 0.2, mean: [2]float64{10, 14}},
		{name: "already right", load: flat(12), replicas: 11, weeks: 2, turns: 0.1, mean: [2]float64{10, 11.5}},
		// The peak of 30 cores needs 25: always 25 would be the price of none.
		{name: "diurnal", load: diurnal(6, 30, 1), replicas: 25, weeks: 2, turns: 2.5, mean: [2]float64{10, 19}},
		{name: "weekends", load: diurnal(6, 30, 0.3), replicas: 25, weeks: 3, turns: 2.5, mean: [2]float64{8, 18}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(3, c.replicas, c.load)
			if c.noise > 0 {
				f.noise = c.noise
			}
			f.run(t, Options{}, c.weeks*week, 5)
			days := float64(c.weeks) * 7
			got, mean := float64(f.turns)/days, f.replicas/float64(f.ticks)
			t.Logf("%d up, %d down, %.2f turns a day, %d minutes late, %.1f replicas on average", f.ups, f.downs, got, f.late, mean)
			if got > c.turns || f.late > c.late || mean < c.mean[0] || mean > c.mean[1] {
				t.Errorf("want at most %v turns a day, %d minutes late, and %v replicas\n%s", c.turns, c.late, c.mean, strings.Join(f.says[max(0, len(f.says)-40):], "\n"))
			}
		})
	}
}

// TestShapes are moments: what must and must not happen then.
func TestShapes(t *testing.T) {
	t.Run("spike", func(t *testing.T) {
		// Ten minutes of 2.6 times as much, twice a day, on a load that is far below the target: never fewer in it, nor right after.
		at := func(tm time.Time) float64 {
			if m := tm.Minute(); tm.Hour()%12 == 9 && m < 10 {
				return 13
			}
			return 5
		}
		f := steady(t, 4, 10, 24*time.Hour+8*time.Hour+50*time.Minute, at)
		for range 48 {
			f.minute()
			d := propose(t, f, Options{MinHistory: -1})
			if d.Proposal != nil && specOf(t, d.Proposal).To < 10 {
				t.Fatalf("%v: %s", f.now, d.Proposal.Sentence)
			}
		}
	})
	t.Run("ramp", func(t *testing.T) {
		// From 10 cores by 1.5 % a minute, as on no day before: more come before it is too late.
		from := monday.Add(26 * time.Hour)
		f := steady(t, 5, 9, 26*time.Hour, func(tm time.Time) float64 {
			if d := tm.Sub(from); d > 0 {
				return 10 * min(4, math.Exp(0.015*d.Minutes()))
			}
			return 10
		})
		f.downs = 0
		f.run(t, Options{}, 100*time.Minute, 1)
		if f.late > 0 || f.downs > 0 || f.asked < 33 {
			t.Errorf("%d minutes late, %d down, %d replicas at 40 cores: want none, none and 34\n%s", f.late, f.downs, f.asked, strings.Join(f.says, "\n"))
		}
	})
	t.Run("an outage elsewhere is no reason for fewer", func(t *testing.T) {
		from := monday.Add(48 * time.Hour)
		f := steady(t, 6, 10, 50*time.Hour, func(tm time.Time) float64 {
			if tm.After(from) {
				return 0.5
			}
			return 11
		})
		if d := propose(t, f, Options{}); d.Proposal != nil {
			t.Error(d.Proposal.Sentence)
		}
	})
	t.Run("a load that is gone for good is believed after a day", func(t *testing.T) {
		from := monday.Add(48 * time.Hour)
		f := steady(t, 6, 10, 74*time.Hour, func(tm time.Time) float64 {
			if tm.After(from) {
				return 4
			}
			return 11
		})
		if d := propose(t, f, Options{}); d.Proposal == nil || specOf(t, d.Proposal).To != 9 {
			t.Error(d.Why)
		}
	})
	t.Run("the morning is known of", func(t *testing.T) {
		// At 05:30 load is 40 % of what there is, and at 06:10 it will be 90 %.
		f := steady(t, 7, 10, 8*24*time.Hour+5*time.Hour+55*time.Minute, func(tm time.Time) float64 {
			if tm.Hour() >= 6 && tm.Hour() < 20 {
				return 18
			}
			return 8
		})
		d := propose(t, f, Options{})
		if d.Proposal == nil || specOf(t, d.Proposal).To < 14 {
			t.Fatal(d.Why)
		}
		t.Log(d.Proposal.Sentence)
	})
	t.Run("one bears more than the rest", func(t *testing.T) {
		f := steady(t, 8, 10, 25*time.Hour, flat(17))
		in := f.input()
		edit(&in, func(m *Minute) {
			if m.Used > 0 {
				m.Used = 1.4
			}
		})
		own := in.Instances[3].Minutes
		for i := range own {
			own[i].Used = 1.95
		}
		d, err := Propose(in, Options{UpAt: 0.7, Target: 0.5})
		if err != nil || d.Proposal == nil || !strings.Contains(strings.Join(d.Proposal.Warnings, " "), "checkout-3") {
			t.Errorf("%v %+v", err, d)
		}
	})
}

// TestProposalTerms: what a proposal costs, or takes off the bill; on what it rests, so that the next step is another; and by what it is judged
// where no requests are measured.
func TestProposalTerms(t *testing.T) {
	o := Options{CoreMonth: 20}
	up := propose(t, steady(t, 1, 4, 2*time.Hour, flat(7.2)), o).Proposal
	if s := specOf(t, up); up.Cost != 20*each*float64(s.To-s.From) || up.Again != 3*time.Minute || up.Stands != stands || !strings.HasSuffix(up.Basis, ", from 4") {
		t.Errorf("%+v", up)
	}
	f := steady(t, 1, 16, 48*time.Hour, flat(6))
	down := propose(t, f, o).Proposal
	if s := specOf(t, down); down.Cost != -20*each*float64(s.From-s.To) || down.Again != 30*time.Minute || !strings.HasSuffix(down.Basis, ", from 16") || len(down.Metrics) != 4 {
		t.Errorf("%+v", down)
	}
	in := f.input()
	edit(&in, func(m *Minute) { m.Requests, m.P99 = math.NaN(), math.NaN() })
	d, err := Propose(in, o)
	if err != nil || d.Proposal == nil || len(d.Proposal.Metrics) != 1 || d.Proposal.Metrics[0].Name != "cpu" || !strings.Contains(strings.Join(d.Proposal.Warnings, ";"), "CPU alone") {
		t.Errorf("%+v, %v", d, err)
	}
}
func TestBadOptions(t *testing.T) {
	in := Input{Now: monday, Place: "kube", Group: "g", Replicas: 1}
	for _, o := range []Options{
		{Floor: -1}, {Floor: 3, Ceiling: 2}, {Target: 0.9}, {Target: math.NaN()}, {UpAt: 1.1}, {Band: 0.5}, {UpFor: time.Second}, {Horizon: 25 * time.Hour},
		{Horizon: time.Minute}, {UpEvery: -1}, {UpMost: -1}, {DownMost: 0.6}, {CoreMonth: math.NaN()}, {Peers: -1},
	} {
		if _, err := Propose(in, o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	if _, err := Propose(Input{}, Options{}); err == nil {
		t.Error("an empty input is taken")
	}
}

// FuzzPropose: whatever was measured, nothing breaks, and no bound is passed.
func FuzzPropose(f *testing.F) {
	f.Add(uint8(10), 6.0, 2.0, uint16(400), uint16(3000), uint64(1))
	f.Add(uint8(2), math.Inf(1), 0.0, uint16(0), uint16(0), uint64(2))
	f.Add(uint8(255), -1.0, math.NaN(), uint16(65535), uint16(9000), uint64(3))
	f.Fuzz(func(t *testing.T, replicas uint8, load, allowed float64, gap, history uint16, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 1))
		in := Input{Service: "s", Place: "p", Group: "g", Now: monday, Replicas: int(replicas)}
		for i := range min(int(replicas), 20) {
			in.Instances = append(in.Instances, Instance{ID: fmt.Sprint(i)})
			for m := range 30 {
				if rng.IntN(65536) < int(gap) {
					continue
				}
				in.Instances[i].Minutes = append(in.Instances[i].Minutes, Minute{At: monday.Add(time.Duration(m-29) * time.Minute), Used: load * rng.Float64(), Allowed: allowed, Peers: math.NaN()})
			}
		}
		for i := range int(history) % 9000 {
			in.History = append(in.History, Load{At: monday.Add(-time.Duration(9000-i) * 5 * time.Minute), Cores: load * rng.ExpFloat64()})
		}
		d, err := Propose(in, Options{Floor: 3, Ceiling: 40})
		if err != nil {
			t.Fatal(err)
		}
		if d.Proposal == nil {
			if d.Why == "" {
				t.Error("nothing, and no reason")
			}
			return
		}
		s := specOf(t, d.Proposal)
		if s.To < s.From && (s.To < 3 || s.To < s.From-max(1, s.From/10)) || s.To > s.From && (s.To > 40 || s.To > 2*s.From) || s.To == s.From {
			t.Errorf("%+v passes a bound", s)
		}
	})
}
