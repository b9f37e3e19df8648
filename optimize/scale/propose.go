package scale

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
)

// The defaults of [Options].
const (
	DefaultFloor   = 2
	DefaultCeiling = 1000
)

// Options are the rules. Zero fields are the defaults beside them.
type Options struct {
	Floor   int // the least number of replicas; 0 is 2
	Ceiling int // the most; 0 is 1000

	// Target is the share of the CPU that replicas are allowed which load should take at its peak; 0 is 0.60.
	Target float64
	// UpAt is the share above which there are too few at once, if it lasts UpFor; 0 are 0.80 and 5 minutes.
	UpAt  float64
	UpFor time.Duration
	// Band is by how much predicted load must pass Target before there are more, relative to it; 0 is 0.10. Fewer there are only where
	// load stays below Target itself: between the two nothing is done.
	Band float64
	// Peers is the most peers of a node, of services whose nodes have peers; 0 is 500.
	Peers int

	// Lead is how long a new replica takes until it bears load; 0 is 10 minutes.
	Lead time.Duration
	// Horizon is how far ahead the peak is looked for that must fit before there are fewer; 0 is 2 hours.
	Horizon time.Duration
	// MinHistory is how much history there must be before there are fewer; 0 is a day, below 0 is none.
	MinHistory time.Duration

	// UpEvery and DownEvery are the least time since the last change; 0 are 3 and 30 minutes.
	UpEvery, DownEvery time.Duration
	// UpMost and DownMost are the largest step, relative to what is there; at least one. 0 are 1 (double) and 0.10.
	UpMost, DownMost float64

	// MaxSched is the 99th percentile of scheduling latency above which there are never fewer: goroutines queue already. 0 is 10 ms.
	MaxSched time.Duration
	// CoreMonth is what a core costs a month, in the currency of the policy; 0 is unknown, which a proposal for more warns of.
	CoreMonth float64
}

// Bounds are the least and the most replicas.
func (o Options) Bounds() (floor, ceiling int) {
	return cmp.Or(o.Floor, DefaultFloor), cmp.Or(o.Ceiling, DefaultCeiling)
}

// Check says what is wrong with the options; nil is nothing.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

func (o Options) withDefaults() (Options, error) {
	o.Floor, o.Ceiling = o.Bounds()
	o.Target, o.UpAt, o.Band = cmp.Or(o.Target, 0.60), cmp.Or(o.UpAt, 0.80), cmp.Or(o.Band, 0.10)
	o.UpFor, o.Lead, o.Horizon = cmp.Or(o.UpFor, 5*time.Minute), cmp.Or(o.Lead, 10*time.Minute), cmp.Or(o.Horizon, 2*time.Hour)
	o.MinHistory, o.Peers = cmp.Or(o.MinHistory, 24*time.Hour), cmp.Or(o.Peers, 500)
	o.UpEvery, o.DownEvery = cmp.Or(o.UpEvery, 3*time.Minute), cmp.Or(o.DownEvery, 30*time.Minute)
	o.UpMost, o.DownMost = cmp.Or(o.UpMost, 1), cmp.Or(o.DownMost, 0.10)
	o.MaxSched = cmp.Or(o.MaxSched, 10*time.Millisecond)
	switch {
	case o.Floor < 1 || o.Ceiling < o.Floor:
		return o, fmt.Errorf("scale: floor %d, ceiling %d: the floor must be at least 1, and not above the ceiling", o.Floor, o.Ceiling)
	case !(o.Target > 0 && o.Target*(1+o.Band) < o.UpAt && o.UpAt <= 1 && o.Band > 0):
		return o, fmt.Errorf("scale: target %v with band %v, up at %v: it must be 0 < target < target with band < up at <= 1", o.Target, o.Band, o.UpAt)
	case o.UpFor < 2*step || o.Lead < 0 || o.Horizon < o.Lead || o.Horizon > 24*time.Hour:
		return o, fmt.Errorf("scale: up for %v, lead %v, horizon %v: the first must be 2 minutes or more, the horizon from the lead to 24h", o.UpFor, o.Lead, o.Horizon)
	case o.UpEvery < 0 || o.DownEvery < 0 || o.MaxSched < 0 || o.Peers < 1:
		return o, fmt.Errorf("scale: up every %v, down every %v, max sched %v, peers %d: none may be negative, nor peers 0", o.UpEvery, o.DownEvery, o.MaxSched, o.Peers)
	case !(o.UpMost > 0 && o.UpMost <= 10 && o.DownMost > 0 && o.DownMost <= 0.5):
		return o, fmt.Errorf("scale: up most %v, down most %v: the first must be up to 10, the other up to 0.5", o.UpMost, o.DownMost)
	case !(o.CoreMonth >= 0) || math.IsInf(o.CoreMonth, 0):
		return o, fmt.Errorf("scale: core month %v: it must be an amount", o.CoreMonth)
	}
	return o, nil
}

// step is the grid of what was measured lately: a minute of each instance.
const step = time.Minute

// Minute is what one instance was in the minute that ends at At. What was not measured is NaN.
type Minute struct {
	At       time.Time
	Used     float64 // cores
	Allowed  float64 // cores: GOMAXPROCS, or the quota where that is less
	Requests float64 // per second
	P99      float64 // seconds
	Sched    float64 // seconds: 99th percentile of the scheduling latency
	Peers    float64 // connected
}

// Instance is one replica, by its ID in profiles. Minutes ascend.
type Instance struct {
	ID      string
	Minutes []Minute
}

// Input is what was measured of one group of replicas. Only what is up to Now is looked at.
type Input struct {
	Service string
	Version string // of the service; it is part of the proposal's basis
	Place   string // of Spec
	Group   string
	Now     time.Time
	// Replicas is how many are asked for now.
	Replicas int
	// Instances are the replicas, with the last hour or more.
	Instances []Instance
	// History is what all of them used together, in cores, for up to 4 weeks.
	History []Load
	// Changed is when the number was last changed, by whom ever; zero is long ago.
	Changed  time.Time
	Evidence []optimize.Evidence
}

// Load is what a group used together in the minutes up to At, in cores.
type Load struct {
	At    time.Time
	Cores float64
}

// Decision is what comes of the rules.
type Decision struct {
	// Proposal is nil where nothing is to be done.
	Proposal *optimize.Proposal
	// Why says in a sentence why nothing is to be done, or which rule proposed.
	Why string
}

// Propose says how many replicas there should be. A proposal is made only on what was measured: missing data is no reason for
// anything, and less than that is none for fewer. Errors are of the options or the input alone.
func Propose(in Input, o Options) (Decision, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Decision{}, err
	}
	if in.Now.IsZero() || in.Replicas < 0 || in.Place == "" || in.Group == "" {
		return Decision{}, errors.New("scale: the input must have the time, the number of replicas, the place and the group")
	}
	if in.Replicas == 0 {
		return Decision{Why: "it is switched off: no replica is asked for"}, nil
	}
	f, why := measure(&in, o)
	if why != "" {
		return Decision{Why: why}, nil
	}
	if d, done := up(&in, &f, o); done {
		return d, nil
	}
	return down(&in, &f, o), nil
}

// up is the rules for more. It is done where they decide.
func up(in *Input, f *figures, o Options) (Decision, bool) {
	// room is how many cores of load one replica takes at Target; peers have the same headroom.
	room := o.Target * f.allowed
	roomPeers := float64(o.Peers) * o.Target / o.UpAt
	load, rule := 0.0, ""
	n := float64(in.Replicas)
	switch {
	case f.lowest > o.UpAt:
		load = max(f.load, f.soon.mid)
		rule = fmt.Sprintf("CPU has been above %s for %v: %s of the %s cores", percent(o.UpAt), o.UpFor, percent(f.used), cores(f.total()))
		if f.used > 0.95 {
			// What a saturated service would use is not seen: it is more than this.
			load = max(load, 2*f.load)
			rule += ", so demand may be more than can be seen"
		}
	case f.soon.mid > o.Target*(1+o.Band)*f.allowed*n:
		load = f.soon.mid
		rule = fmt.Sprintf("load of %s cores will be %s within %v (%s), %s of what %d replicas have", cores(f.load), cores(load), o.Lead, f.soon.basis,
			percent(load/(f.allowed*n)), in.Replicas)
	}
	want := int(math.Ceil(load/room - 1e-9))
	if f.peers > float64(o.Peers) {
		byPeers := int(math.Ceil(f.peers*n/roomPeers - 1e-9))
		if byPeers > want {
			want, rule = byPeers, fmt.Sprintf("there are %.0f peers per node, and %d are the most", f.peers, o.Peers)
		}
	}
	if rule == "" || want <= in.Replicas {
		return Decision{}, false
	}
	if since := in.Now.Sub(in.Changed); since < o.UpEvery {
		return Decision{Why: fmt.Sprintf("%s, but it was changed %v ago, and once in %v is the most", rule, since, o.UpEvery)}, true
	}
	var warnings []string
	to := min(want, in.Replicas+max(1, int(o.UpMost*n)), o.Ceiling)
	if to <= in.Replicas {
		return Decision{Why: fmt.Sprintf("%s: %d replicas would be needed, and the ceiling is %d", rule, want, o.Ceiling)}, true
	}
	if to < want {
		warnings = append(warnings, fmt.Sprintf("%d replicas would be needed: one step, or the ceiling of %d, allows %d", want, o.Ceiling, to))
	}
	if f.uneven != "" {
		warnings = append(warnings, f.uneven)
	}
	p := proposal(in, f, to, o)
	p.Sentence = fmt.Sprintf("%s: %s, so %d -> %d replicas, expected at %s of their CPU", in.Service, rule, in.Replicas, to, percent(load/(f.allowed*float64(to))))
	p.Basis = fmt.Sprintf("%s %s, from %d", in.Version, in.Now.UTC().Format(time.DateOnly), in.Replicas)
	p.Again = o.UpEvery
	if o.CoreMonth == 0 {
		warnings = append(warnings, "what a core costs is not known, so no budget holds this: set the price")
	}
	p.Warnings = append(p.Warnings, warnings...)
	return Decision{Proposal: p, Why: rule}, true
}

// down is the rules for fewer.
func down(in *Input, f *figures, o Options) Decision {
	no := func(format string, args ...any) Decision { return Decision{Why: fmt.Sprintf(format, args...)} }
	n := float64(in.Replicas)
	peak := f.peak
	// Peers do not go away with load: what is there must fit with the same headroom.
	want := max(int(math.Ceil(peak.high/(o.Target*f.allowed)-1e-9)), int(math.Ceil(f.peers*n/(float64(o.Peers)*o.Target/o.UpAt)-1e-9)), o.Floor)
	if want >= in.Replicas {
		return no("%d replicas are right: the peak of the next %v is up to %s cores, %s of theirs", in.Replicas, o.Horizon, cores(peak.high), percent(peak.high/(f.allowed*n)))
	}
	switch since := in.Now.Sub(in.Changed); {
	case f.history < o.MinHistory:
		return no("%d replicas might do, but there is only %v of history", want, f.history.Round(time.Minute))
	case !f.whole:
		return no("%d replicas might do, but not every replica was measured all the time", want)
	case f.spike != "":
		return no("%d replicas might do, but %s", want, f.spike)
	case f.sched > o.MaxSched.Seconds():
		return no("%d replicas might do, but goroutines wait %.0f ms for a processor", want, 1000*f.sched)
	case f.peers == 0 && f.requests == 0 && f.load < 0.01*f.allowed*n:
		return no("%d replicas might do, but there is no load at all: it may be cut off", want)
	case since < o.DownEvery:
		return no("%d replicas would do, but it was changed %v ago, and once in %v is the most", want, since.Round(time.Second), o.DownEvery)
	}
	to := max(want, in.Replicas-max(1, int(o.DownMost*n)))
	p := proposal(in, f, to, o)
	rule := fmt.Sprintf("load takes %s of %d replicas' CPU, and the peak of the next %v is up to %s (%s)", percent(f.used), in.Replicas, o.Horizon,
		percent(peak.high/(f.allowed*n)), peak.basis)
	p.Sentence = fmt.Sprintf("%s: %s, so %d -> %d replicas, expected at up to %s", in.Service, rule, in.Replicas, to, percent(peak.high/(f.allowed*float64(to))))
	year, week := in.Now.UTC().ISOWeek()
	p.Basis = fmt.Sprintf("%s %d-W%02d, from %d", in.Version, year, week, in.Replicas)
	p.Again = o.DownEvery
	if !f.seasonal {
		p.Warnings = append(p.Warnings, "there is no day of history to know the daily peak from")
	}
	if to > want {
		p.Warnings = append(p.Warnings, fmt.Sprintf("%d would do: it goes there by steps of %s", want, percent(o.DownMost)))
	}
	return Decision{Proposal: p, Why: rule}
}

// stands is how long a proposal is worth something once it is not made any more. The optimizer notes every 5 minutes that it is made still.
const stands = 15 * time.Minute

// proposal is what both have in common.
func proposal(in *Input, f *figures, to int, o Options) *optimize.Proposal {
	spec, err := json.Marshal(Spec{Place: in.Place, Group: in.Group, From: in.Replicas, To: to})
	if err != nil {
		panic(err) // strings and numbers
	}
	each := float64(in.Replicas)/float64(to) - 1 // of the load that one replica bears
	saving := float64(in.Replicas-to) * f.allowed
	metrics := Metrics(each, o.UpAt*f.allowed)
	var warnings []string
	if !f.asked {
		metrics = slices.DeleteFunc(metrics, func(m judge.Metric) bool { return m.PerRequest })
		warnings = []string{"no requests are measured: it is judged by CPU alone"}
	}
	return &optimize.Proposal{
		Kind: optimize.Scale, Service: in.Service, Subject: in.Place + ":" + in.Group, Spec: spec, Evidence: in.Evidence,
		Expected: map[string]analyze.Estimate{
			"cpu":        {Value: each, Low: (1+each)*(1-f.scatter) - 1, High: (1+each)*(1+f.scatter) - 1},
			"throughput": {Value: each, Low: (1+each)*(1-f.scatter) - 1, High: (1+each)*(1+f.scatter) - 1},
		},
		Saving: saving, Cost: -saving * o.CoreMonth, Metrics: metrics, Warnings: warnings, Stands: stands,
	}
}

// Metrics are what a change of the number of replicas is judged by. each is by how much one bears more (below 0 less), which is no
// harm by itself; bound the cores of one past which it is undone at once. What one does a second is expected to change: it is not judged.
func Metrics(each, bound float64) []judge.Metric {
	cpu := judge.Metric{Name: "cpu", Critical: true, Tolerate: max(0, each) + 0.25, Bound: bound}
	if each < 0 {
		cpu.Bound = 0 // there are more because it is past that
	}
	return []judge.Metric{
		// Fewer replicas each run fuller: caches are shared less, collections are larger. A tenth is what that may cost.
		{Name: "cpu_per_request", Critical: true, Tolerate: 0.10, PerRequest: true},
		{Name: "latency_p99", Critical: true, Tolerate: 0.15, PerRequest: true},
		{Name: "errors", Critical: true, Tolerate: 0.25, Floor: 0.002, PerRequest: true},
		cpu,
	}
}

func percent(x float64) string { return fmt.Sprintf("%.0f %%", 100*x) }

func cores(x float64) string {
	if x < 10 {
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.0f", x)
}
