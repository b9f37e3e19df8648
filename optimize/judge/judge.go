// Package judge says whether a change is good, harmful, or not yet known to be either, from what was measured of instances that have
// it (treated) and of instances that do not (control) at the same time.
//
// Everything here is a pure function over values: no clock, nothing kept between calls, nothing scheduled. [Guard] is asked every few seconds while a
// change is watched, and says only that harm is shown; [Judge] is asked at the end, and says pass only where data shows that
// nothing that matters became worse than tolerated. What is missing, thin or doubtful is a hold, never a pass.
//
// docs/judge.md tells how, and what was measured of it.
package judge

import (
	"fmt"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
)

// Direction is which way is better.
type Direction int8

// The directions. The zero value is Lower: most of what is measured is cost.
const (
	Lower  Direction = iota // lower is better
	Higher                  // higher is better
)

// String is "lower" or "higher".
func (d Direction) String() string {
	if d == Higher {
		return "higher"
	}
	return "lower"
}

// MarshalText writes a direction as [Direction.String] has it.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (d *Direction) UnmarshalText(b []byte) error {
	switch string(b) {
	case "lower":
		*d = Lower
	case "higher":
		*d = Higher
	default:
		return fmt.Errorf("direction %q: it must be lower or higher", b)
	}
	return nil
}

// Metric is what is compared, and what of it is harm.
type Metric struct {
	// Name is what [Member.Series] has it by: "cpu_per_request" (seconds), "latency_p99" (seconds), "rss" (bytes), "gc_cpu" (share of
	// the CPU, 0 to 1), "errors" (share of requests), "throughput" (requests/s), "cpu" (cores), "stacks" (bytes).
	Name   string    `json:"name"`
	Better Direction `json:"better"`
	// Critical says that harm in it fails the change, and that missing data in it holds it. Of another harm is a warning.
	Critical bool `json:"critical,omitempty"`
	// Tolerate is the relative change for the worse that is no harm: 0.05 is 5 %.
	Tolerate float64 `json:"tolerate,omitempty"`
	// Floor makes it what may be near 0, as a share of requests, compared by difference instead of ratio: a change for the worse of up to Floor + Tolerate times
	// what it was is no harm. 0 is a metric that is compared by ratio, and that is never 0 unless higher is better.
	Floor float64 `json:"floor,omitempty"`
	// Bound is the value past which the guard undoes at once, whatever the control does; 0 is none.
	Bound float64 `json:"bound,omitempty"`
	// PerRequest says that Weight counts requests, so that Options.MinRequests is asked of it.
	PerRequest bool `json:"per_request,omitempty"`
	// Stock says that it is a level that a leak fills: its slope against the control is judged, too.
	Stock bool `json:"stock,omitempty"`
}

// Point is what a metric was in one window of one member.
type Point struct {
	From, To time.Time
	Value    float64
	Weight   float64 // requests or seconds that it rests on; 0 counts as no data
}

// Member is an instance. Its name is that of the process's place: a restart keeps it.
type Member struct {
	Name, Zone, Version string
	Started             time.Time // of the process; zero is unknown, and counts as long ago
	Applied             time.Time // when the change came into force; zero for control
	Gone                bool      // it went away since; its points up to then count
	Restarts            int       // since Applied; of control since the stage began
	// Series is by metric name, ascending in time. Points of before the stage are the baseline.
	Series map[string][]Point
	// Profile is the CPU profile summed over the stage (since Applied and warm-up); nil is none. Column, Seconds and Requests are its own.
	Profile           *profile.Profile
	Column            int
	Seconds, Requests float64
	// Before is the same of before the stage, in the same Column; nil is none.
	Before *profile.Profile
}

// Period is a time in which the change was on or off, where one node is all there is.
type Period struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	On   bool      `json:"on"`
}

// Input is what is judged.
type Input struct {
	Metrics          []Metric // nil is DefaultMetrics
	Treated, Control []Member
	From, To         time.Time // of the stage, To is now; points of before From are the baseline
	Periods          []Period  // of the treated, ascending, if there is no control
}

// Options says how much is enough. The zero value is ready.
type Options struct {
	// MinWindows is how many windows both sides must have in the stage; 0 is 12: two minutes of 10 s.
	MinWindows int `json:"min_windows,omitempty"`
	// MinRequests is how many requests the treated must have had in the stage, for metrics that rest on requests; 0 is 300, <0 is none.
	MinRequests float64 `json:"min_requests,omitempty"`
	// WarmUp is how long after the change, or the start of a process, nothing is counted but bounds; 0 is 30 s, <0 is none.
	WarmUp time.Duration `json:"warm_up,omitempty"`
	// Alpha is how often a change that is exactly as bad as tolerated may pass, by metric; 0 is 0.05.
	Alpha float64 `json:"alpha,omitempty"`
	// HarmAlpha is how often, at most, a change that is exactly as bad as tolerated may fail in a whole dwell of looks, over all critical
	// metrics together, and as often again over the versions where there are several; 0 is 0.05. One that is no worse than it was fails
	// far more rarely: what is tolerated lies between.
	HarmAlpha float64 `json:"harm_alpha,omitempty"`
	// Q bounds the share of false ones among functions that are said to have changed; 0 is 0.05.
	Q float64 `json:"q,omitempty"`
	// FunctionTolerate is how much of the service's CPU a function may cost more than it did; 0 is 0.02.
	FunctionTolerate float64 `json:"function_tolerate,omitempty"`
	// HostSpread is by how much hosts are taken to differ, as a coefficient of variation, where there is no baseline to tell; 0 is 0.03.
	HostSpread float64 `json:"host_spread,omitempty"`
	// Settled is the age at which a process is what it will be: without a baseline, younger ones are compared only with their like; 0 is 15 min.
	Settled time.Duration `json:"settled,omitempty"`
	// Horizon is how far ahead a slope is followed; 0 is 6 h.
	Horizon time.Duration `json:"horizon,omitempty"`
}

// Decision is what to do.
type Decision string

// The decisions.
const (
	Pass Decision = "pass" // shown to be not worse than tolerated in anything critical
	Fail Decision = "fail" // harm is shown: undo
	Hold Decision = "hold" // neither is shown
)

// Verdict is what was found, and what it rests on.
type Verdict struct {
	Decision Decision        `json:"decision"`
	Reason   string          `json:"reason"` // a sentence for a person, with figures
	Metrics  []MetricVerdict `json:"metrics"`
	// Functions are those that differ for certain, causes first, as [analyze.Compare] found them: control before, treated after.
	Functions []analyze.Compared `json:"functions,omitempty"`
	// Guilty is the function that got worse and explains the harm; "" is none.
	Guilty string `json:"guilty,omitempty"`
	// Warnings is what may mislead. What must keep a change from passing is in Decision already.
	Warnings []string  `json:"warnings,omitempty"`
	Final    bool      `json:"final,omitempty"` // a Fail that more data would not change: undo at once
	At       time.Time `json:"at"`
}

// MetricVerdict is one metric's part of a verdict.
type MetricVerdict struct {
	Name     string    `json:"name"`
	Better   Direction `json:"better"`
	Critical bool      `json:"critical"`
	Decision Decision  `json:"decision"`
	Why      string    `json:"why,omitempty"`
	// Before is what the treated would have had without the change: their own baseline moved as the control moved, or, where there is no
	// baseline, the control. After is what they had. In the metric's unit.
	Before float64 `json:"before"`
	After  float64 `json:"after"`
	// Effect is what the change did, relative to Before, with its 95 % interval: 0.05 is 5 % more. Difference is the same in the metric's
	// unit; of metrics with a Floor it is what was judged.
	Effect     analyze.Estimate `json:"effect"`
	Difference analyze.Estimate `json:"difference"`
	Worse      float64          `json:"worse"` // the tolerated change for the worse, relative to Before
	// Windows of the treated in the stage that have a pair, of the control, and of the baseline; members on both sides that they are of.
	Windows         int              `json:"windows"`
	ControlWindows  int              `json:"control_windows"`
	BaselineWindows int              `json:"baseline_windows"`
	Members         int              `json:"members"`
	ControlMembers  int              `json:"control_members"`
	Units           int              `json:"units"`    // independent units of the treated that the test rests on
	Test            string           `json:"test"`     // which test, and of what
	P               float64          `json:"p"`        // that it is no worse than tolerated, were it exactly that: small shows no harm
	PHarm           float64          `json:"p_harm"`   // the same the other way: small shows harm
	E               float64          `json:"e"`        // evidence for harm at any time: 1/E bounds how often it comes to this without harm
	PerHour         analyze.Estimate `json:"per_hour"` // of a Stock: how fast it rises against the control, relative to Before
}
