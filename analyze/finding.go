// Package analyze says what profiles mean: what got slower, what is wasted, what it costs, and how sure that is.
//
// Everything here is a pure function over values: no clock, no disk, no network, nothing scheduled. Who feeds it and who keeps
// what it says is package watch. Every answer carries its doubt: how much it rests on, an interval, the test that was used, and
// what may mislead. Where that is not enough to stand behind, nothing is said.
package analyze

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// Kind is what sort of thing was found.
type Kind string

// The kinds of findings.
const (
	Regression      Kind = "regression"       // takes more than it did, or than another version does
	Improvement     Kind = "improvement"      // takes less
	HotSpot         Kind = "hot_spot"         // takes much
	GCPressure      Kind = "gc_pressure"      // garbage collection takes much that a setting would save
	AllocHotLoop    Kind = "allocation"       // few lines allocate much of what there is to collect
	Contention      Kind = "contention"       // a lock is waited for
	Blocking        Kind = "blocking"         // a request waits in a system call
	GoroutineGrowth Kind = "goroutine_growth" // goroutines become more and more
	GoroutineLeak   Kind = "goroutine_leak"   // the runtime says that goroutines can never run again
	Recursion       Kind = "recursion"        // a function calls itself without bound
	Repeated        Kind = "repeated"         // every instance does the same, that one could do for all
	Transition      Kind = "transition"       // a step of a state machine is slow
	Anomaly         Kind = "anomaly"          // a profile unlike this service's past
)

// Kinds is all of them, in the order above.
var Kinds = []Kind{Regression, Improvement, HotSpot, GCPressure, AllocHotLoop, Contention, Blocking, GoroutineGrowth, GoroutineLeak, Recursion, Repeated, Transition, Anomaly}

// Finding is one thing that was found, with all it rests on. It is a value: two runs over the same profiles give the same.
type Finding struct {
	Kind    Kind   `json:"kind"`
	Service string `json:"service"`
	// Function is the cause by name, the deepest that explains it; "" where it is no function's.
	Function string `json:"function,omitempty"`
	// Subject is what else it is about: a lock's name, an edge "dial -> handshake", a figure as "gc_cpu".
	Subject string `json:"subject,omitempty"`
	// Type is the profile type it was measured in, as text; Metric which of a function's values: "self", "total", or
	// "value" where it is no function's.
	Type   string `json:"type"`
	Metric string `json:"metric"`

	// Sentence says it as a person would, without the price. It ends with a full stop.
	Sentence string `json:"sentence"`
	// Next is the suggested next step, a sentence or two; "" is none.
	Next string `json:"next,omitempty"`

	// Unit is what Before, After and Change are in: "share" (of all values of that type in the service, 0 to 1), "cores",
	// "seconds", "bytes", "bytes/s", "count", "count/s".
	Unit string `json:"unit"`
	// Before is zero where there is nothing to compare with.
	Before Estimate `json:"before"`
	After  Estimate `json:"after"`
	// Change is After less Before, with the interval of the difference.
	Change Estimate `json:"change"`

	// Since is when it began, the first moment of the new state. Zero is unknown, or ever.
	Since time.Time `json:"since,omitzero"`
	// From and To bound what was looked at.
	From time.Time `json:"from"`
	To   time.Time `json:"to"`

	// Cause is what came with it; nil is unknown.
	Cause *Cause `json:"cause,omitempty"`

	// Samples is how many samples (or windows, or spans) After rests on, Instances how many processes.
	Samples   float64 `json:"samples"`
	Instances int     `json:"instances"`
	// Test names the statistical test; P is its p-value, Q that after correction for all that was looked at (Benjamini and Hochberg, or
	// Benjamini and Yekutieli where tests depend on each other in any way). 1 where none was made: hot spots are measured, not
	// tested.
	Test string  `json:"test,omitempty"`
	P    float64 `json:"p"`
	Q    float64 `json:"q"`
	// Warnings say, each in a sentence, why it may mislead.
	Warnings []string `json:"warnings,omitempty"`

	// Also is what else moved with it, the largest first.
	Also []Moved `json:"also,omitempty"`
	// Chart is the series that shows it, at most 300 points.
	Chart []ChartPoint `json:"chart,omitempty"`
	// Base and Head are what to compare to see it, for the flame graph diff. Base is nil where it is no comparison.
	Base *Selection `json:"base,omitempty"`
	Head *Selection `json:"head,omitempty"`

	// Saving is what could be saved, what more is spent, or of an improvement what has been saved: in "cores" or "bytes" of memory, by the
	// whole service. It is what Price prices, never below 0; 0 is not known.
	Saving     float64 `json:"saving"`
	SavingUnit string  `json:"saving_unit,omitempty"` // "cores" or "bytes"
	Price      *Money  `json:"price,omitempty"`       // of Saving, by month
}

// Estimate is a figure with its 95 % interval.
type Estimate struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// Cause is what came with a change, and how much of it that explains.
type Cause struct {
	// Label and Value name the part of the fleet where the change is: service_version="v2". Event is one that was told
	// of: a deploy.
	Label string `json:"label,omitempty"`
	Value string `json:"value,omitempty"`
	Event string `json:"event,omitempty"`
	// Share is how much of the change is there, 0 to 1 (more, where others went the other way).
	Share float64 `json:"share"`
}

// Moved is another function that moved, in shares of the service.
type Moved struct {
	Function string  `json:"function"`
	Before   float64 `json:"before"`
	After    float64 `json:"after"`
	Why      string  `json:"why,omitempty"` // "caller", "callee", "moved from", ...; "" is unknown
}

// ChartPoint is a moment of a chart. Value is in the finding's Unit; Low and High are its 95 % interval.
type ChartPoint struct {
	Time  time.Time `json:"time"`
	Value float64   `json:"value"`
	Low   float64   `json:"low"`
	High  float64   `json:"high"`
}

// Selection names profiles: of a service, a type, a range, and labels that must be equal.
type Selection struct {
	Type   string            `json:"type"`
	From   time.Time         `json:"from"`
	To     time.Time         `json:"to"`
	Labels map[string]string `json:"labels,omitempty"` // beside the service's
	// Samples are labels that samples themselves must have: operation="GET /search".
	Samples map[string]string `json:"samples,omitempty"`
}

// Money is an amount by month.
type Money struct {
	Amount   float64 `json:"amount"`
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
	Currency string  `json:"currency"`
	Basis    string  `json:"basis"` // how it was reckoned: "0.031 USD a core-hour (default), 730 h a month"
}

// ID is the finding's identity: the same cause has the same, whenever it is found, whatever its figures. 16 hex digits
// of SHA-256 over what it is about.
func (f *Finding) ID() string {
	parts := []string{string(f.Kind), f.Service, f.Function, f.Subject, f.Type, f.Metric}
	if f.Cause != nil {
		parts = append(parts, f.Cause.Label, f.Cause.Value)
	}
	h := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(h[:8])
}

// Rank orders findings for a reader: by money, then by how much of the service it is, then by name.
func Rank(a, b *Finding) int {
	price := func(f *Finding) float64 {
		if f.Price == nil {
			return 0
		}
		return f.Price.Amount
	}
	return cmp.Or(cmp.Compare(price(b), price(a)), cmp.Compare(b.weight(), a.weight()), cmp.Compare(a.Service, b.Service), cmp.Compare(a.ID(), b.ID()))
}

func (f *Finding) weight() float64 {
	if f.Before != (Estimate{}) {
		return max(f.Change.Value, -f.Change.Value)
	}
	return f.After.Value
}

// Table is one profile type's values over time in one service: a line for each function, a column for each step.
type Table struct {
	Service string
	Type    profile.Type
	Start   time.Time     // of the first column
	Step    time.Duration // usually a minute
	// Unit is what one sample is worth, in values: 10,000,000 for nanoseconds at 100 Hz, 1 for counts of samples. 0
	// where values are no samples of equal weight, as bytes and waits: their spread must be found in the data.
	Unit float64
	// Total is all values of a column; 0 with no Profiles is a gap. Profiles is how many there are, Instances of
	// how many processes.
	Total     []float64
	Profiles  []int
	Instances []int
	// Functions are sorted by name. One that is not there was below the bound of who made the table, always.
	Functions []Series
}

// Series is a function's line in a Table. Both have a value for each column.
type Series struct {
	Function   string
	Self, Full []float32 // at the top of the stack; anywhere on it, once a sample
}

// Steps is how many columns there are.
func (t *Table) Steps() int { return len(t.Total) }

// At is the beginning of column i.
func (t *Table) At(i int) time.Time { return t.Start.Add(time.Duration(i) * t.Step) }

// Group is a part of a service, with its own table: an instance, a version.
type Group struct {
	Labels profile.Labels
	Table  *Table
}
