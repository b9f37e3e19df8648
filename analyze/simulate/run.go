package simulate

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
)

// Options say how much to simulate. The zero value takes about a minute.
type Options struct {
	Seed     uint64
	Services int       // with noise only, a day each; 0: 4
	Every    int       // minutes between looks at them; 0: 15
	Repeats  int       // of each planted change and refactoring; 0: 4
	Sizes    []float64 // of planted regressions, shares of the service; nil: 0.2, 0.05, 0.01, 0.005, 0.001
	Samples  []float64 // a minute; nil: 20,000 and 200,000
	Bases    []float64 // what share the function has before; nil: 0.02 and 0.002
	Workers  int       // at once; 0: as many as processors
}

// Full is the long form: false alarms on a day of some 60,000 series, looked at every minute.
func Full(seed uint64) Options {
	return Options{Seed: seed, Services: 120, Every: 1, Repeats: 20, Samples: []float64{2000, 20000, 200000, 2000000}}
}

func (o Options) orDefaults() (Options, error) {
	set := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	set(&o.Services, 4)
	set(&o.Every, 15)
	set(&o.Repeats, 4)
	set(&o.Workers, runtime.GOMAXPROCS(0))
	if o.Services < 0 || o.Every < 0 || o.Repeats < 0 || o.Workers < 0 {
		return o, errors.New("simulate: a number is negative")
	}
	if o.Sizes == nil {
		o.Sizes = []float64{0.2, 0.05, 0.01, 0.005, 0.001}
	}
	if o.Samples == nil {
		o.Samples = []float64{20000, 200000}
	}
	if o.Bases == nil {
		o.Bases = []float64{0.02, 0.002}
	}
	return o, nil
}

// Report is what was measured.
type Report struct {
	Options   Options
	Noise     []NoiseRow
	Sudden    []SuddenRow
	Gradual   []GradualRow
	Refactors []RefactorRow
	Causes    []CauseRow
	Methods   []MethodRow
}

// NoiseRow is what was said where there was nothing to say. A series that is said several times counts once.
type NoiseRow struct {
	Name       string
	SeriesDays int
	Looks      int // at each series
	Changed    int // series that a scan took for changed; a batch dilutes all others, too
	False      int // of which findings were made
	Events     int // times at which, an hour apart at least in one service: functions move together
	WentAway   int // looks at which a series was seen to have changed and gone back
}

// Per10000 is the false alarms per 10,000 series a day.
func (r NoiseRow) Per10000() float64 { return float64(r.False) / float64(max(r.SeriesDays, 1)) * 10000 }

// SuddenRow is a planted regression, looked at every minute for two hours.
type SuddenRow struct {
	History             int  // days before
	Runtime             bool // what the runtime does for the function grows
	Samples, Base, Size float64
	Runs, Found         int
	Named               int // of those found, the function is named as the cause
	Timed               int // the minute is in the interval that was said
	Others              int // findings beside it
	Minutes             float64
	// AfterSamples is how many samples of the service there were after the change, by the time it was said.
	AfterSamples float64
}

// GradualRow is a planted growth over two weeks.
type GradualRow struct {
	Samples, Base, Size float64
	Runs, Found, Named  int
}

// RefactorRow is cost that moved without growing.
type RefactorRow struct {
	Kind              string
	Runs, Seen, Wrong int // runs, those in which a change was seen, those in which a finding was made of it
}

// CauseRow is a regression in a part of the fleet.
type CauseRow struct {
	Where            string
	Runs, Found, Who int // runs, found, and with the right part named
}

// Run simulates. Equal options give equal reports, whatever the number of workers. It takes from seconds to an hour, by the
// options.
func Run(o Options) (*Report, error) {
	o, err := o.orDefaults()
	if err != nil {
		return nil, err
	}
	r := &Report{Options: o}
	for _, part := range []func() error{r.noise, r.sudden, r.gradual, r.refactor, r.cause, r.methods} {
		if err := part(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// each calls f for 0 to n-1, several at once, and is the first error by number.
func (r *Report) each(n int, f func(i int) error) error {
	errs := make([]error, n)
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(r.Options.Workers, n) {
		wg.Go(func() {
			for i := range next {
				errs[i] = f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

const window = 120 // columns of a minute that are scanned

func (r *Report) noise() error {
	o := r.Options
	kinds := []struct {
		name     string
		services int
		run      func(seed uint64, samples float64) (NoiseRow, error)
	}{
		{"minutes, in the first week", o.Services, func(seed uint64, samples float64) (NoiseRow, error) { return r.noiseDay(seed, samples, 0) }},
		{"minutes, after it", o.Services, func(seed uint64, samples float64) (NoiseRow, error) { return r.noiseDay(seed, samples, 7) }},
		{"hours, the long trend", (o.Services + 3) / 4, r.noiseLong},
	}
	for _, k := range kinds {
		rows := make([]NoiseRow, k.services)
		if err := r.each(k.services, func(i int) (err error) {
			rows[i], err = k.run(o.Seed+uint64(i), []float64{20000, 200000, 5000}[i%3])
			return err
		}); err != nil {
			return err
		}
		sum := NoiseRow{Name: k.name}
		for _, row := range rows {
			sum.SeriesDays += row.SeriesDays
			sum.Looks = row.Looks
			sum.False += row.False
			sum.Events += row.Events
			sum.Changed += row.Changed
			sum.WentAway += row.WentAway
		}
		r.Noise = append(r.Noise, sum)
	}
	return nil
}

// noiseDay looks at a day of minutes that follows so many days of history.
func (r *Report) noiseDay(seed uint64, samples float64, history int) (row NoiseRow, err error) {
	s, err := New(Spec{Name: "noise", Seed: seed, NoiseSeed: seed, Noise: Realistic, Samples: samples, Keep: true})
	if err != nil {
		return row, err
	}
	season := pastOf(s, history)
	f := Fleet{[]*Service{s}}
	t, _ := f.Table(window + minutes)
	return f.look(t, season, window, r.Options.Every, 1)
}

// pastOf draws so many days of hours; nil for none.
func pastOf(s *Service, days int) *analyze.Table {
	if days == 0 {
		return nil
	}
	keep := s.spec.Keep
	s.spec.Keep = false
	defer func() { s.spec.Keep = keep }()
	return s.Table(24*days, 60)
}

// bounds are those that the server scans with.
func bounds(t, season *analyze.Table) analyze.ScanOptions {
	if season == nil && t.Step == time.Minute {
		return analyze.FirstWeek(analyze.ScanOptions{})
	}
	return analyze.ScanOptions{}
}

// noiseLong looks at three weeks of hours, at each hour of the last one.
func (r *Report) noiseLong(seed uint64, samples float64) (row NoiseRow, err error) {
	s, err := New(Spec{Name: "noise", Seed: seed, NoiseSeed: seed, Noise: Realistic, Samples: samples, Keep: true})
	if err != nil {
		return row, err
	}
	return Fleet{[]*Service{s}}.look(s.Table(24*21, 60), nil, 24*14, max(1, r.Options.Every/4), 7)
}

// look scans t through a window of that many columns, every few of them.
func (f Fleet) look(t, season *analyze.Table, window, every, days int) (row NoiseRow, err error) {
	said, changed := map[string]bool{}, map[string]bool{}
	quiet := t.Start // from when on what is said is another event
	for at := 0; at+window <= t.Steps(); at += every {
		part := t.Columns(at, at+window)
		findings, _, got, err := found(f, t, nil, at, at+window, season)
		if err != nil {
			return row, err
		}
		for _, f := range findings {
			said[f.Function+"\x00"+f.Metric] = true
			if now := part.At(part.Steps()); !now.Before(quiet) {
				row.Events++
			}
			quiet = part.At(part.Steps()).Add(max(time.Hour, 2*part.Step))
		}
		row.Looks++
		row.SeriesDays = got.Tested * days
		row.WentAway += got.WentAway
		for _, c := range got.Changes {
			changed[c.Function+"\x00"+c.Metric] = true
		}
	}
	row.False, row.Changed = len(said), len(changed)
	return row, nil
}

// pick is the function whose share, or with runtime that of what the runtime does for it, is nearest to base.
func pick(s *Service, base float64, runtime bool) (name string, share float64) {
	names, shares := s.Functions(runtime)
	best := 0
	for i := range shares {
		if shares[i] > 0 && math.Abs(math.Log(shares[i]/base)) < math.Abs(math.Log(shares[best]/base)) {
			best = i
		}
	}
	return names[best], shares[best]
}

// found is what the pipeline says of the window's end, as the fleet's parts have it.
func found(f Fleet, t *analyze.Table, groups []analyze.Group, from, to int, season *analyze.Table) (findings []analyze.Finding, shifts []analyze.Shift, got *analyze.Scanned, err error) {
	part := t.Columns(from, to)
	o := bounds(t, season)
	if got, err = analyze.Scan(part, season, o); err != nil {
		return nil, nil, nil, err
	}
	for _, e := range analyze.Episodes(part, got.Changes) {
		column := func(at time.Time) int { return from + int(at.Sub(part.Start)/part.Step) }
		d := analyze.Detail{Table: part, Options: o}
		if d.Base, err = f.Profile(column(e.BaseFrom), column(e.BaseTo)); err != nil {
			return nil, nil, nil, err
		}
		if d.Head, err = f.Profile(column(e.HeadFrom), column(e.HeadTo)); err != nil {
			return nil, nil, nil, err
		}
		for _, g := range groups {
			g.Table = g.Table.Columns(from, to)
			if g.Labels.Get(profile.LabelVersion) != "" {
				d.Versions = append(d.Versions, g)
			} else if g.Labels.Get(profile.LabelInstance) != "" {
				d.Instances = append(d.Instances, g)
			}
		}
		fs, sh, err := analyze.Regressions(e.Changes, d)
		if err != nil {
			return nil, nil, nil, err
		}
		findings, shifts = append(findings, fs...), append(shifts, sh...)
	}
	return findings, shifts, got, nil
}

// about says that a finding is of function, or has it among what moved with it.
func about(f *analyze.Finding, function string) bool {
	return f.Function == function || slices.ContainsFunc(f.Also, func(m analyze.Moved) bool { return m.Function == function })
}

const plantedAt = 150

func (r *Report) sudden() error {
	o := r.Options
	for _, kind := range []struct {
		history int
		runtime bool
	}{{0, false}, {7, false}, {7, true}} {
		for _, samples := range o.Samples {
			for _, base := range o.Bases {
				for _, size := range o.Sizes {
					row := SuddenRow{History: kind.history, Runtime: kind.runtime, Samples: samples, Base: base, Size: size, Runs: o.Repeats}
					runs := make([]suddenRun, o.Repeats)
					if err := r.each(o.Repeats, func(i int) (err error) {
						runs[i], err = planted(o.Seed+uint64(i), row)
						return err
					}); err != nil {
						return err
					}
					row.sum(runs)
					r.Sudden = append(r.Sudden, row)
				}
			}
		}
	}
	return nil
}

func (row *SuddenRow) sum(runs []suddenRun) {
	var minutes []float64
	for _, x := range runs {
		if !x.found {
			continue
		}
		row.Found++
		row.Named += count(x.named)
		row.Timed += count(x.timed)
		row.Others += x.others
		minutes = append(minutes, float64(x.minutes))
	}
	if len(minutes) > 0 {
		slices.Sort(minutes)
		row.Minutes = minutes[len(minutes)/2]
		row.AfterSamples = row.Minutes * row.Samples
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

type suddenRun struct {
	found, named, timed bool
	others, minutes     int
}

// planted is one run of a row: a change at minute plantedAt, looked at until it is said, at most two hours.
func planted(seed uint64, row SuddenRow) (run suddenRun, err error) {
	s, err := New(Spec{Name: "planted", Seed: seed, NoiseSeed: seed + 1000, Noise: Realistic, Samples: row.Samples, Keep: true})
	if err != nil {
		return run, err
	}
	name, _ := pick(s, row.Base, row.Runtime)
	season := pastOf(s, row.History)
	if err := s.Plant(Plant{Function: name, At: row.History*minutes + plantedAt, Size: row.Size, Runtime: row.Runtime}); err != nil {
		return run, err
	}
	f := Fleet{[]*Service{s}}
	t, _ := f.Table(plantedAt + window)
	for end := plantedAt + 5; end <= t.Steps(); end++ {
		findings, _, _, err := found(f, t, nil, end-window, end, season)
		if err != nil {
			return run, err
		}
		i := slices.IndexFunc(findings, func(x analyze.Finding) bool { return x.Kind == analyze.Regression && about(&x, name) })
		if i < 0 {
			continue
		}
		// A minute before or after is the minute.
		off := findings[i].Since.Sub(t.At(plantedAt)).Abs()
		named := slices.ContainsFunc(findings, func(x analyze.Finding) bool { return x.Function == name })
		return suddenRun{found: true, named: named, timed: off <= 2*time.Minute, others: len(findings) - 1, minutes: end - plantedAt}, nil
	}
	return run, nil
}

func (r *Report) gradual() error {
	o := r.Options
	for _, samples := range o.Samples {
		for _, size := range o.Sizes {
			row := GradualRow{Samples: samples, Base: 0.02, Size: size, Runs: max(1, o.Repeats/2)}
			hits, named := make([]bool, row.Runs), make([]bool, row.Runs)
			if err := r.each(row.Runs, func(i int) error {
				s, err := New(Spec{Name: "gradual", Seed: o.Seed + uint64(i), NoiseSeed: o.Seed + uint64(i) + 2000, Noise: Realistic, Samples: samples, Keep: true})
				if err != nil {
					return err
				}
				name, _ := pick(s, row.Base, false)
				if err := s.Plant(Plant{Function: name, Size: size, Over: 14 * minutes}); err != nil {
					return err
				}
				t := s.Table(14*24, 60)
				findings, _, _, err := found(Fleet{[]*Service{s}}, t, nil, 0, t.Steps(), nil)
				for _, f := range findings {
					hits[i] = hits[i] || f.Kind == analyze.Regression && about(&f, name)
					named[i] = named[i] || f.Kind == analyze.Regression && f.Function == name
				}
				return err
			}); err != nil {
				return err
			}
			for i := range hits {
				row.Found += count(hits[i])
				row.Named += count(named[i])
			}
			r.Gradual = append(r.Gradual, row)
		}
	}
	return nil
}

func (r *Report) refactor() error {
	o := r.Options
	for _, kind := range []string{"rename", "split", "inline", "move"} {
		row := RefactorRow{Kind: kind, Runs: o.Repeats}
		type run struct{ seen, wrong bool }
		runs := make([]run, o.Repeats)
		if err := r.each(o.Repeats, func(i int) error {
			s, err := New(Spec{Name: "refactored", Seed: o.Seed + uint64(i), NoiseSeed: o.Seed + uint64(i) + 3000, Noise: Realistic, Samples: 100000, Keep: true})
			if err != nil {
				return err
			}
			names, _ := s.Functions(false)
			for _, name := range names[5:] { // the first that it can be done to
				if s.Refactor(Refactor{Kind: kind, Function: name, At: 80}) == nil {
					break
				}
			}
			f := Fleet{[]*Service{s}}
			t, _ := f.Table(window)
			findings, _, got, err := found(f, t, nil, 0, window, nil)
			if err != nil {
				return err
			}
			runs[i] = run{len(got.Changes) > 0, len(findings) > 0}
			return nil
		}); err != nil {
			return err
		}
		for _, x := range runs {
			row.Seen += count(x.seen)
			row.Wrong += count(x.wrong)
		}
		r.Refactors = append(r.Refactors, row)
	}
	return nil
}

// cause plants 2 % of the service in a new version that half of the fleet gets, or in one of five instances.
func (r *Report) cause() error {
	o := r.Options
	for _, where := range []string{"version", "instance"} {
		row := CauseRow{Where: where, Runs: o.Repeats}
		type run struct{ found, who bool }
		runs := make([]run, o.Repeats)
		if err := r.each(o.Repeats, func(i int) (err error) {
			runs[i].found, runs[i].who, err = causeRun(o.Seed+uint64(i), where)
			return err
		}); err != nil {
			return err
		}
		for _, x := range runs {
			row.Found += count(x.found)
			row.Who += count(x.who)
		}
		r.Causes = append(r.Causes, row)
	}
	return nil
}

func causeRun(seed uint64, where string) (hit, who bool, err error) {
	const at = 80
	parts, label := 2, profile.LabelVersion
	if where == "instance" {
		parts, label = 5, profile.LabelInstance
	}
	var f Fleet
	var name string
	for k := range parts {
		spec := Spec{Name: "caused", Seed: seed, NoiseSeed: seed*100 + 4000 + uint64(k), Noise: Realistic, Samples: 200000 / float64(parts), Instances: 14 / parts, Keep: true,
			Labels: profile.Labels{{Name: label, Value: fmt.Sprintf("%c%d", label[8], k+1)}}}
		if where == "version" {
			spec.Samples = 200000
			spec.Active = func(minute int) float64 { // v1 alone, then both
				if minute >= at {
					return 0.5
				}
				return float64(1 - k)
			}
		}
		s, err := New(spec)
		if err != nil {
			return false, false, err
		}
		if name, _ = pick(s, 0.02, false); k == 1 {
			if err := s.Plant(Plant{Function: name, At: at, Size: 0.02 * float64(parts)}); err != nil {
				return false, false, err
			}
		}
		f.Parts = append(f.Parts, s)
	}
	t, groups := f.Table(window)
	findings, _, _, err := found(f, t, groups, 0, window, nil)
	for i := range findings {
		if about(&findings[i], name) && findings[i].Kind == analyze.Regression {
			hit = true
			c := findings[i].Cause
			who = who || c != nil && c.Label == label && strings.HasSuffix(c.Value, "2")
		}
	}
	return hit, who, err
}
