package analyze

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// Profiles are profiles of one name that have its columns between them: one with all, or one for each type, as a store gives them.
type Profiles []*profile.Profile

// column finds a sample type.
func (ps Profiles) column(name string) (p *profile.Profile, col int, ok bool) {
	for _, p := range ps {
		if p == nil {
			continue
		}
		for i, t := range p.SampleTypes {
			if t.Type == name {
				return p, i, true
			}
		}
	}
	return nil, 0, false
}

// total is the sum of a column; 0 where there is none.
func (ps Profiles) total(name string) float64 {
	p, col, ok := ps.column(name)
	if !ok {
		return 0
	}
	return float64(p.Total(col))
}

// Snapshot is all that [Waste] looks at: a service over a range of time, summed over its instances. What is not known stays
// zero, and the kinds of findings that need it say nothing.
type Snapshot struct {
	Service   string
	From, To  time.Time
	Instances int // how many processes the profiles are of
	// Covered is the length of all windows of CPU profiles together: 4 instances of which each has ten minutes are 40
	// minutes. 0 takes the profile's own DurationNanos, and if that is 0 too, Instances times the range.
	Covered time.Duration

	CPU        Profiles // "cpu" in nanoseconds, else "samples"; the profile's Period is what one sample is worth
	Memory     Profiles // "alloc_space", "alloc_objects", "inuse_space"
	Goroutines Profiles // "goroutine" or "goroutines", summed over snapshots
	Mutex      Profiles // the runtime's: "contentions", "delay"
	Block      Profiles // the runtime's: "contentions", "delay"
	Locks      Profiles // of named locks: "contentions", "wait", "acquisitions", "hold", with the labels lock and mode
	Leak       Profiles // "goroutineleak": goroutines that can never run again, summed over snapshots
	Runtime    Profiles // figures of the runtime, each a sample type: see docs/agent.md

	// GoroutineSnapshots is how many profiles Goroutines is the sum of, and LeakSnapshots Leak.
	GoroutineSnapshots, LeakSnapshots int

	// PerInstance is the same by instance over time, for what needs to tell them apart.
	PerInstance []InstanceTables

	// Types are the profile types by sample type, for links; a sample type that is not there is named as
	// Go's agent would.
	Types map[string]profile.Type
	// Warnings are of who made the snapshot (profiles that could not be read, a gap); every finding repeats them.
	Warnings []string
}

// InstanceTables is one process over time.
type InstanceTables struct {
	Labels     profile.Labels
	CPU        *Table // of "cpu"; nil is unknown
	Goroutines *Table // of "goroutine"; nil is unknown
}

// WasteOptions says when a thing is worth a reader's time. The zero value works.
type WasteOptions struct {
	HotSpot    float64 // least share of the CPU of a hot spot, by its lower bound; 0 is 0.05
	HotSpots   int     // at most so many of them; 0 is 5
	GC         float64 // least share of the CPU that goes into collecting garbage; 0 is 0.08
	Contention float64 // least waiting for a lock, as a part of the CPU time used; 0 is 0.05
	Blocking   float64 // least part of requests' time; 0 is 0.05
	Allocation float64 // least part of all bytes that one function allocates; 0 is 0.2
}

func (o *WasteOptions) defaults() error {
	for _, f := range []struct {
		name  string
		v     *float64
		value float64
	}{{"HotSpot", &o.HotSpot, 0.05}, {"GC", &o.GC, 0.08}, {"Contention", &o.Contention, 0.05}, {"Blocking", &o.Blocking, 0.05}, {"Allocation", &o.Allocation, 0.2}} {
		if math.IsNaN(*f.v) || *f.v < 0 || *f.v >= 1 && f.name != "Contention" {
			return fmt.Errorf("waste: option %s is %v: it must be a part, from 0 to below 1", f.name, *f.v)
		}
		if *f.v == 0 {
			*f.v = f.value
		}
	}
	if o.HotSpots < 0 {
		return fmt.Errorf("waste: option HotSpots is %d: it must be 0 or more", o.HotSpots)
	}
	o.HotSpots = cmp.Or(o.HotSpots, 5)
	return nil
}

// mostOfAKind bounds the findings of a kind: what is past the ten heaviest nobody reads before those are mended.
const mostOfAKind = 10

// ErrNoSnapshot says that there is nothing to look at: no instances, or no time.
var ErrNoSnapshot = errors.New("nothing to look at")

// Waste is what takes much or is spent for nothing in s: all kinds but regressions, transitions and anomalies, the heaviest
// first. The same snapshot gives the same findings. The error is [ErrNoSnapshot], [ErrTable], or names an option that is wrong.
func Waste(s Snapshot, o WasteOptions) ([]Finding, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	if s.Instances <= 0 || !s.To.After(s.From) {
		return nil, fmt.Errorf("waste: %w: %d instances from %v to %v", ErrNoSnapshot, s.Instances, s.From, s.To)
	}
	for _, in := range s.PerInstance {
		for _, t := range []*Table{in.CPU, in.Goroutines} {
			if err := whole(t); err != nil {
				return nil, fmt.Errorf("waste: table of %v: %w", in.Labels, err)
			}
		}
	}
	w := newWaste(&s, o)
	var out []Finding
	for _, kind := range []func() []Finding{
		w.hotSpots, w.gcPressure, w.allocations, w.contention, w.blocking, w.goroutineGrowth, w.goroutineLeaks, w.recursion, w.repeated,
	} {
		out = append(out, kind()...)
	}
	slices.SortFunc(out, func(a, b Finding) int { return Rank(&a, &b) })
	return out, nil
}

// whole says why a table cannot be looked at instance by instance. nil is a table that is not there.
func whole(t *Table) error {
	if t == nil {
		return nil
	}
	if err := t.check(); err != nil {
		return err
	}
	if t.Profiles == nil {
		return fmt.Errorf("%w: it does not count profiles", ErrTable)
	}
	for _, s := range t.Functions {
		if s.Full == nil {
			return fmt.Errorf("%w: %q has no values", ErrTable, s.Function)
		}
	}
	return nil
}

// waste is one look at a snapshot, with what several kinds need.
type waste struct {
	s *Snapshot
	o WasteOptions

	cpu     *wasteTree // nil if there is none
	seconds float64    // of CPU
	covered float64    // seconds of all instances together
	cores   float64    // of the whole service
	figures RuntimeFigures

	gc Collecting
}

func newWaste(s *Snapshot, o WasteOptions) *waste {
	w := &waste{s: s, o: o, figures: ReadRuntime(s.Runtime)}
	w.covered = s.Covered.Seconds()
	if w.cpu = cpuTree(s.CPU); w.cpu != nil {
		p, _, _ := s.CPU.cpuColumn()
		w.seconds = w.cpu.samples(w.cpu.total) * sampleUnit(p) / 1e9
		if w.covered == 0 {
			w.covered = float64(p.DurationNanos) / 1e9
		}
	}
	if w.covered == 0 {
		w.covered = s.To.Sub(s.From).Seconds() * float64(s.Instances)
	}
	if w.cpu != nil {
		w.cores = w.seconds / w.covered * float64(s.Instances)
		w.gc = w.cpu.collecting()
	}
	return w
}

// cpuColumn finds what a CPU profile counts.
func (ps Profiles) cpuColumn() (p *profile.Profile, col int, ok bool) {
	if p, col, ok = ps.column("cpu"); !ok {
		p, col, ok = ps.column("samples")
	}
	return p, col, ok
}

// cpuTree is a CPU profile's tree; nil where there is none.
func cpuTree(ps Profiles) *wasteTree {
	p, col, ok := ps.cpuColumn()
	if !ok {
		return nil
	}
	t := newWasteTree(p, col)
	t.unit = 1
	if p.SampleTypes[col].Unit == "nanoseconds" {
		t.unit = sampleUnit(p)
	}
	return t
}

// sampleUnit is the nanoseconds that one CPU sample stands for: the period where it is that, else 10 ms, Go's default.
func sampleUnit(p *profile.Profile) float64 {
	if p.Period > 0 && p.PeriodType.Unit == "nanoseconds" {
		return float64(p.Period)
	}
	return 10e6
}

// finding begins a finding of a kind, measured in a sample type.
func (w *waste) finding(kind Kind, sample, metric string) Finding {
	f := Finding{
		Kind: kind, Service: w.s.Service, Type: w.typeOf(sample), Metric: metric,
		From: w.s.From, To: w.s.To, Instances: w.s.Instances, P: 1, Q: 1,
	}
	f.Head = &Selection{Type: f.Type, From: w.s.From, To: w.s.To}
	f.Warnings = append(f.Warnings, w.s.Warnings...)
	if w.s.Instances == 1 {
		f.Warnings = append(f.Warnings, "It is measured in one instance; others may differ.")
	}
	return f
}

// wasteTypes are the types that Go's agent sends, by sample type: see docs/agent.md.
var wasteTypes = map[string]profile.Type{
	"cpu":           {Name: "process_cpu", Sample: profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: profile.ValueType{Type: "cpu", Unit: "nanoseconds"}},
	"alloc_space":   {Name: "memory", Sample: profile.ValueType{Type: "alloc_space", Unit: "bytes"}, Period: profile.ValueType{Type: "space", Unit: "bytes"}},
	"alloc_objects": {Name: "memory", Sample: profile.ValueType{Type: "alloc_objects", Unit: "count"}, Period: profile.ValueType{Type: "space", Unit: "bytes"}},
	"goroutine":     {Name: "goroutine", Sample: profile.ValueType{Type: "goroutine", Unit: "count"}, Period: profile.ValueType{Type: "goroutine", Unit: "count"}},
	"goroutineleak": {Name: "goroutineleak", Sample: profile.ValueType{Type: "goroutineleak", Unit: "count"}, Period: profile.ValueType{Type: "goroutineleak", Unit: "count"}},
	"delay":         {Name: "mutex", Sample: profile.ValueType{Type: "delay", Unit: "nanoseconds"}, Period: profile.ValueType{Type: "contentions", Unit: "count"}},
	"wait":          {Name: "lock", Sample: profile.ValueType{Type: "wait", Unit: "nanoseconds"}},
	"gc_cpu":        {Name: "runtime", Sample: profile.ValueType{Type: "gc_cpu", Unit: "nanoseconds"}},
}

func (w *waste) typeOf(sample string) string {
	if t, ok := w.s.Types[sample]; ok {
		return t.String()
	}
	return wasteTypes[sample].String()
}

// Share is the part k of n samples with Wilson's 95 % score interval, which holds also near 0 and 1 (Wilson 1927;
// Brown, Cai, DasGupta 2001 recommend it). It counts samples as independent.
func Share(k, n float64) Estimate {
	if n <= 0 {
		return Estimate{High: 1}
	}
	const z = 1.959964
	p := k / n
	mid := (p + z*z/(2*n)) / (1 + z*z/n)
	half := z / (1 + z*z/n) * math.Sqrt(p*(1-p)/n+z*z/(4*n*n))
	return Estimate{Value: p, Low: max(0, mid-half), High: min(1, mid+half)}
}

// times is an estimate in another unit.
func (e Estimate) times(k float64) Estimate {
	return Estimate{Value: e.Value * k, Low: e.Low * k, High: e.High * k}
}

// percents writes parts of 1, as "12.3 %".
func percents(x float64) string {
	switch p := 100 * x; {
	case p >= 10:
		return fmt.Sprintf("%.0f %%", p)
	case p >= 1:
		return fmt.Sprintf("%.1f %%", p)
	default:
		return fmt.Sprintf("%.2g %%", p)
	}
}

// percentInterval is an interval of parts, as "95 % interval 11 to 14 %".
func percentInterval(e Estimate) string {
	format := func(x float64) string {
		if x >= 0.0995 {
			return fmt.Sprintf("%.0f", 100*x)
		}
		return fmt.Sprintf("%.1f", 100*x)
	}
	return fmt.Sprintf("95 %% interval %s to %s %%", format(e.Low), format(e.High))
}

// byteText is bytes as a person has them: "12 MB" of 2^20.
func byteText(b float64) string {
	units := []string{"bytes", "kB", "MB", "GB", "TB"}
	i := 0
	for ; b >= 1024 && i < len(units)-1; i++ {
		b /= 1024
	}
	if b < 10 && i > 0 {
		return fmt.Sprintf("%.1f %s", b, units[i])
	}
	return fmt.Sprintf("%.0f %s", b, units[i])
}

// secondsText is seconds in the unit that fits.
func secondsText(s float64) string {
	switch {
	case s >= 1:
		return fmt.Sprintf("%.3g s", s)
	case s >= 1e-3:
		return fmt.Sprintf("%.3g ms", s*1e3)
	default:
		return fmt.Sprintf("%.3g µs", s*1e6)
	}
}
