package scale

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
)

// Shape is a machine type, as the cloud lists it.
type Shape struct {
	Name   string
	Cores  float64
	Memory float64 // bytes
	// Odd is why it cannot be chosen, though it can be run on: cores that are shared, accelerators, an end that is announced. "" is nothing.
	Odd string
}

// Machine is one of a service's machines, with what was measured of it.
type Machine struct {
	ID       string // of the instance, in its profiles
	Resource string // the cloud's name: projects/P/zones/Z/instances/N
	Type     string // of Shapes
	// Hours are what it used, in steps of an hour or less.
	Hours []Usage
}

// Usage is what a machine used up to At. What was not measured is NaN.
type Usage struct {
	At     time.Time
	Cores  float64
	Memory float64 // bytes, of all that runs there
}

// MachineInput is what was measured of the machines of a service.
type MachineInput struct {
	Service  string
	Version  string
	Now      time.Time
	Machines []Machine
	Shapes   []Shape // that there are in the machines' zone
	Evidence []optimize.Evidence
}

// MachineOptions are the rules. Zero fields are the defaults beside them.
type MachineOptions struct {
	// Window is how far back usage is looked at, at least a week; 0 is a week.
	Window time.Duration
	// Target is what the 95th percentile should take of the cores and of the memory; 0 are 0.60 and 0.75.
	Target, TargetMemory float64
	// UpAt and UpAtMemory are above which a machine is too small; 0 are 0.80 and 0.90.
	UpAt, UpAtMemory float64
	// CoreMonth is what a core costs a month, in the currency of the policy; 0 is unknown.
	CoreMonth float64
}

// Check says what is wrong with the options; nil is nothing.
func (o MachineOptions) Check() error {
	_, err := o.withDefaults()
	return err
}

func (o MachineOptions) withDefaults() (MachineOptions, error) {
	o.Window, o.Target, o.TargetMemory = cmp.Or(o.Window, week), cmp.Or(o.Target, 0.60), cmp.Or(o.TargetMemory, 0.75)
	o.UpAt, o.UpAtMemory = cmp.Or(o.UpAt, 0.80), cmp.Or(o.UpAtMemory, 0.90)
	if o.Window < week || !(o.Target > 0 && o.Target < o.UpAt && o.UpAt <= 1) || !(o.TargetMemory > 0 && o.TargetMemory < o.UpAtMemory && o.UpAtMemory <= 1) || !(o.CoreMonth >= 0) {
		return o, fmt.Errorf("scale: window %v, target %v, up at %v, target of memory %v, up at %v, core month %v: the window must be a week or more, and 0 < target < up at <= 1 for both",
			o.Window, o.Target, o.UpAt, o.TargetMemory, o.UpAtMemory, o.CoreMonth)
	}
	return o, nil
}

// MachineSpec is a change of machine types, as it is in [optimize.Proposal].Spec.
type MachineSpec struct {
	From     string       `json:"from"`
	To       string       `json:"to"`
	Machines []MachineRef `json:"machines"` // sorted by ID
}

// MachineRef is a machine by both its names.
type MachineRef struct {
	ID       string `json:"id"`
	Resource string `json:"resource"`
}

const week = 7 * 24 * time.Hour

// ProposeMachine says which machine type a service's machines should have. Those of the largest group of one type are looked at; the
// busiest decides. A type of another family needs other disks and another processor, so it is never proposed.
func ProposeMachine(in MachineInput, o MachineOptions) (Decision, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Decision{}, err
	}
	no := func(format string, args ...any) (Decision, error) {
		return Decision{Why: fmt.Sprintf(format, args...)}, nil
	}
	of := alike(in.Machines)
	if len(of) < 2 {
		return no("%d machines of one type: at least one other must bear the load while one is stopped", len(of))
	}
	shape := slices.IndexFunc(in.Shapes, func(s Shape) bool { return s.Name == of[0].Type })
	if shape < 0 {
		return no("machine type %s is not among those of its zone", of[0].Type)
	}
	now := in.Shapes[shape]
	if now.Cores <= 0 || now.Memory <= 0 {
		return no("machine type %s has no size", now.Name)
	}
	var cpu, mem, top float64 // of the busiest
	for _, m := range of {
		c, b, most, ok := m.peak(in.Now, o.Window)
		if !ok {
			return no("machine %s was not measured for four fifths of the last %.0f days", m.ID, o.Window.Hours()/24)
		}
		cpu, mem, top = max(cpu, c), max(mem, b), max(top, most)
	}
	if cpu == 0 || mem == 0 {
		return no("nothing is used: it may be off, or not measured")
	}
	small := cpu > o.UpAt*now.Cores || mem > o.UpAtMemory*now.Memory
	to, ok := best(in.Shapes, now, func(s Shape) bool {
		// Memory cannot be queued for: the most that ever was must fit, too.
		return cpu <= o.Target*s.Cores && mem <= o.TargetMemory*s.Memory && top <= o.UpAtMemory*s.Memory
	}, small)
	use := fmt.Sprintf("at the 95th percentile the busiest of %d machines takes %s of %s cores and %s of %s", len(of), percent(cpu/now.Cores), cores(now.Cores),
		percent(mem/now.Memory), gib(now.Memory))
	if !ok {
		return no("%s is right: %s", now.Name, use)
	}
	return Decision{Proposal: machineProposal(in, o, of, now, to, use), Why: use}, nil
}

func machineProposal(in MachineInput, o MachineOptions, of []Machine, now, to Shape, use string) *optimize.Proposal {
	spec := MachineSpec{From: now.Name, To: to.Name}
	for _, m := range of {
		spec.Machines = append(spec.Machines, MachineRef{m.ID, m.Resource})
	}
	doc, err := json.Marshal(spec)
	if err != nil {
		panic(err) // strings
	}
	year, wk := in.Now.UTC().ISOWeek()
	p := &optimize.Proposal{
		Kind: optimize.Machine, Service: in.Service, Subject: now.Name, Spec: doc, Evidence: in.Evidence,
		Basis: fmt.Sprintf("%s %d-W%02d", in.Version, year, wk),
		Sentence: fmt.Sprintf("%s: %s, so %s -> %s (%s cores, %s)", in.Service, use, now.Name, to.Name,
			cores(to.Cores), gib(to.Memory)),
		Saving: (now.Cores - to.Cores) * float64(len(of)),
		Warnings: []string{
			"each machine is stopped for some minutes, and comes back only if the zone has room for it",
			"an external address that is not reserved changes when a machine is stopped",
		},
		// A machine does the same work with the same processors: that is what is expected to stay.
		Expected: map[string]analyze.Estimate{"cpu_per_request": {Value: 0, Low: -0.05, High: 0.05}},
		Metrics: []judge.Metric{
			{Name: "cpu_per_request", Critical: true, Tolerate: 0.10, PerRequest: true},
			{Name: "latency_p99", Critical: true, Tolerate: 0.15, PerRequest: true},
			{Name: "errors", Critical: true, Tolerate: 0.25, Floor: 0.002, PerRequest: true},
			{Name: "rss", Tolerate: 0.25, Stock: true},
		},
	}
	if p.Saving < 0 {
		p.Cost = -p.Saving * o.CoreMonth
		if o.CoreMonth == 0 {
			p.Warnings = append(p.Warnings, "what a core costs is not known, so no budget holds this: set the price")
		}
	}
	return p
}

// alike are the machines of the type that most have, sorted by ID.
func alike(all []Machine) (of []Machine) {
	count := map[string]int{}
	for _, m := range all {
		count[m.Type]++
	}
	most := ""
	for t, n := range count {
		if n > count[most] || n == count[most] && t < most {
			most = t
		}
	}
	for _, m := range all {
		if m.Type == most {
			of = append(of, m)
		}
	}
	slices.SortFunc(of, func(a, b Machine) int { return cmp.Compare(a.ID, b.ID) })
	return of
}

// peak is the 95th percentile of cores and memory, and the most memory; ok says that four fifths of the hours are there.
func (m *Machine) peak(now time.Time, window time.Duration) (cpu, mem, top float64, ok bool) {
	var c, b []float64
	hours := map[int64]bool{}
	for _, u := range m.Hours {
		if back := now.Sub(u.At); back < 0 || back >= window || !known(u.Cores) || !known(u.Memory) {
			continue
		}
		c, b = append(c, u.Cores), append(b, u.Memory)
		top = max(top, u.Memory)
		hours[int64(now.Sub(u.At)/time.Hour)] = true
	}
	return quantile(c, 0.95), quantile(b, 0.95), top, float64(len(hours)) >= 0.8*window.Hours()
}

// best is the smallest shape of the family that fits: a larger one if up, else a smaller one.
func best(shapes []Shape, now Shape, fits func(Shape) bool, up bool) (s Shape, ok bool) {
	family := func(name string) string { f, _, _ := strings.Cut(name, "-"); return f }
	size := func(a, b Shape) int {
		return cmp.Or(cmp.Compare(a.Cores, b.Cores), cmp.Compare(a.Memory, b.Memory), cmp.Compare(a.Name, b.Name))
	}
	for _, c := range shapes {
		if c.Odd != "" || family(c.Name) != family(now.Name) || c.Name == now.Name || c.Cores <= 0 || !fits(c) {
			continue
		}
		// A smaller one must save cores, and have no more of anything. A larger one is larger.
		if up && (c.Cores < now.Cores || c.Memory < now.Memory) || !up && (c.Cores >= now.Cores || c.Memory > now.Memory) {
			continue
		}
		if !ok || size(c, s) < 0 {
			s, ok = c, true
		}
	}
	return s, ok
}

func gib(bytes float64) string { return fmt.Sprintf("%.0f GiB", bytes/(1<<30)) }
