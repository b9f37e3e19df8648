// Package console is `quantraband top`: what a program's goroutines do, its hottest
// functions, its memory and its scheduler, in a terminal.
//
// A [Model] is what is shown and what the keys do with it; it is pure, so that tests
// press keys and read the screen without a terminal. [Run] joins it to one. Where the
// figures come from is a [Source]: functions that the command fills.
package console

import (
	"context"
	"time"

	"github.com/quantra-l/quantra/agent/live"
	"github.com/quantra-l/quantra/analyze/sched"
	"github.com/quantra-l/quantra/profile"
)

// Source is where the figures come from. A nil function is a question that it cannot
// answer. No two are called at once, and none after its context ends.
type Source struct {
	Name string // of the program, as the first line shows it
	// Goroutines is a snapshot taken now; full asks for all details, whatever that costs the program.
	Goroutines func(ctx context.Context, full bool) (live.Snapshot, error)
	Functions  func(ctx context.Context) (Functions, error)
	Runtime    func(ctx context.Context) (Runtime, error)
	Trace      func(ctx context.Context) (sched.Summary, error)
}

// Functions is a table of what functions had of the processor.
type Functions struct {
	Rows   []profile.TopRow // the largest self first
	Sample profile.ValueType
	Total  int64
	Over   string // what they are of: "the last 5 s"
}

// Runtime is figures of a program, in groups.
type Runtime struct {
	Time    time.Time `json:"time"`
	Figures []Figure  `json:"figures"`
}

// Figure is one of them.
type Figure struct {
	Group   string  `json:"group,omitempty"`
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit,omitempty"` // bytes, nanoseconds, ratio, count; "" where Text says it
	Text    string  `json:"text,omitempty"`
	Counter bool    `json:"counter,omitempty"` // it only grows, so what it grew by a second is of interest
}

// View is one of the console's pages.
type View byte

// The views, by their keys.
const (
	Goroutines View = 'g'
	States     View = 's'
	Leaks      View = 'l'
	Hottest    View = 'f'
	Memory     View = 'r'
	Trace      View = 't'
)

// Views are all of them with their names, in the order of the keys' line.
var Views = []struct {
	View View
	Name string
	Help string
}{
	{Goroutines, "goroutines", "goroutines by who created whom"},
	{States, "states", "goroutines by what they wait for"},
	{Leaks, "leaks", "goroutines that grew in number, and those that wait long"},
	{Hottest, "functions", "the functions that take most of the processor"},
	{Memory, "runtime", "memory, garbage collection, settings"},
	{Trace, "trace", "take an execution trace: who ran, who waited for a processor"},
}

// Name is the view's name, "" for none of ours.
func (v View) Name() string {
	for _, w := range Views {
		if w.View == v {
			return w.Name
		}
	}
	return ""
}
