package analyze

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// SpanWindow is the spans of a service that ended in a time.
type SpanWindow struct {
	From, To time.Time
	// Profile is the profile "spans" of all instances together, with its samples' labels (docs/format/spans.md): what a store answers for the type
	// spans:spans:count:spans:count. A column "duration" beside it is used where it is there. nil is none.
	Profile   *profile.Profile
	Instances int
}

// TransitionInput is what [Transitions] judges: one service.
type TransitionInput struct {
	Service string
	Labels  map[string]string // that the windows were selected by, beside the service's
	// Windows are of about equal length, the oldest first. The last Now of them are judged, by the others: 0 is 1. A step is slower than
	// its past when it is so for twice the judged length. Good are windows of 5 minutes over a day, with Now 1 or 2.
	Windows []SpanWindow
	Now     int
	// Known are steps, by name, that have been found slow, with since when. Windows from there on are no past of theirs: without that a
	// step that stays slow becomes its own past after a third of the time that Windows span.
	Known map[string]time.Time
}

// TransitionOptions say what is slow. The zero value is right for most.
type TransitionOptions struct {
	// Machines are declared state machines. Those of other services are passed over.
	Machines []Machine
	// DeclaredOnly leaves out steps that no machine declares. Else each path of operations is a step, judged by its own past.
	DeclaredOnly bool
	// MinEffect is by how much of what it took before a step must have become slower: 0 is 0.25. Buckets are 12.5 % wide:
	// much below that a step cannot be told from one that moved over a bound.
	MinEffect float64
	// MinChange is by how much time at least: 0 is 20 µs.
	MinChange time.Duration
	// MinCount is how many must be in the judged windows: 0 is 100.
	MinCount int64
	// FDR bounds the expected share of false ones among what is found in one call: 0 is 0.0001, as there is a call each few minutes
	// (docs/transitions.md has what that comes to in a day).
	FDR float64
	// MaxEdges bounds the steps: 0 is 1000. Those that took most time stay, of the first ten times as many.
	MaxEdges int
	// Meanwhile is the profile type of what ran meanwhile: "" is CPU time.
	Meanwhile string
}

// Edge is a step of a state machine, and how long it took.
type Edge struct {
	// Name is what findings call it: "connection: dial -> handshake" of a declared machine, else operations from the root to
	// the span, "GET / -> query", and of a step between events of a span "connection: dial -> handshake" too.
	Name string `json:"name"`
	// Machine and the states; Machine is "" of what is not declared, and From of a root.
	Machine string `json:"machine,omitempty"`
	From    string `json:"from,omitempty"`
	To      string `json:"to"`
	// Operation is the span's, as the label of samples that ran meanwhile has it; of several the one that took most time.
	Operation string `json:"operation"`

	N      int64    `json:"n"`
	Rate   float64  `json:"rate"`   // a second
	Errors Estimate `json:"errors"` // share of those that failed
	// P50 and P99 are in seconds, zero where there are too few for an interval: 6, and 368.
	P50 Estimate `json:"p50"`
	P99 Estimate `json:"p99"`
	// Past is the same of the windows before, for what there is of it.
	Past EdgePast `json:"past,omitzero"`
	// Slow is the share of those that surely took longer than the declared Slow, zero where none is declared.
	Slow Estimate `json:"slow,omitzero"`
}

// EdgePast is what a step was like. P50 and P99 are the geometric mean of those of up to twelve times of the judged length, the last ones before it was
// as it is now, with the interval of that; zero where there is too little.
type EdgePast struct {
	N     int64    `json:"n"`     // of all the past
	Times int      `json:"times"` // of the judged length, with enough spans for a median
	Rate  float64  `json:"rate"`
	P50   Estimate `json:"p50"`
	P99   Estimate `json:"p99"`
}

const (
	spansType      = "spans:duration:nanoseconds:spans:count"
	meanwhileType  = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
	spansOther     = "other" // docs/format/spans.md
	spansOrphan    = "(forgotten)"
	spansEvent     = "event"
	maxEdgePath    = 64 // frames of a stack that are looked at, from the leaf
	maxEdgeChart   = 300
	maxSpansJudged = 1 << 53 // what a float64 counts exactly
	edgesSeen      = 10      // times MaxEdges are looked at, to find those that took most time; what comes later in a profile is passed over
	leastTimes     = 3       // of the past before what is judged, to say how it goes up and down
)

// Transitions says how long each step of a service's state machines takes, which have become, or are, slow, and which became faster.
//
// A step with a declared threshold is slow when its quantile is above that by the whole 95 % interval; its p-value is the binomial one of so
// many above it. A step without is compared with its past, as [shiftOf] says. Over all steps of the service false discoveries are controlled
// after Y. Benjamini and Y. Hochberg (1995). What is significant must be by MinEffect and MinChange slower as well, and be so to the end.
// The same is done for steps that became faster, as a family of their own; those are findings of the kind [Improvement]. What has a
// threshold is not among them.
//
// Edges are sorted by the time that they took altogether, findings by how much slower they are, then by how much faster. A declared step that nothing was seen of is
// there too: its N is 0, and perhaps its pattern wrong. It is an error if windows are out of order, or a
// profile is not one of spans.
func Transitions(in TransitionInput, opt TransitionOptions) ([]Edge, []Finding, error) {
	if in.Now <= 0 {
		in.Now = 1
	}
	opt.MinEffect = cmp.Or(opt.MinEffect, 0.25)
	opt.MinChange = cmp.Or(opt.MinChange, 20*time.Microsecond)
	opt.MinCount = cmp.Or(opt.MinCount, 100)
	opt.FDR = cmp.Or(opt.FDR, 0.0001)
	opt.MaxEdges = cmp.Or(opt.MaxEdges, 1000)
	opt.Meanwhile = cmp.Or(opt.Meanwhile, meanwhileType)
	if err := checkTransitions(in, opt); err != nil {
		return nil, nil, err
	}
	r := &transitionRun{in: in, opt: opt, names: map[string]int{}}
	for _, m := range opt.Machines {
		if m.Service == "" || matchPattern(m.Service, in.Service) {
			r.machines = append(r.machines, m)
			for i := range m.Edges {
				r.edge(nil, declaredEdge(m.Name, &m.Edges[i]))
			}
		}
	}
	if err := r.read(); err != nil {
		return nil, nil, err
	}
	edges := make([]Edge, len(r.edges))
	for i, e := range r.edges {
		r.describe(e)
		edges[i] = e.Edge
	}
	return edges, r.judge(), nil
}

func checkTransitions(in TransitionInput, opt TransitionOptions) error {
	switch {
	case in.Service == "":
		return errors.New("transitions: no service")
	case len(in.Windows) < in.Now:
		return fmt.Errorf("transitions: %d windows, of which %d are to be judged", len(in.Windows), in.Now)
	case !(opt.MinEffect > 0) || opt.MinChange < 0 || opt.MinCount < 1 || opt.MaxEdges < 1 || !(opt.FDR > 0 && opt.FDR < 1):
		return fmt.Errorf("transitions: options %+v: what is least, or most, must be above 0, and FDR below 1", opt)
	}
	for i, w := range in.Windows {
		if !w.From.Before(w.To) {
			return fmt.Errorf("transitions: window %d is from %v to %v", i, w.From, w.To)
		}
		if i > 0 && w.From.Before(in.Windows[i-1].To) {
			return fmt.Errorf("transitions: window %d begins at %v, before the end of the one before", i, w.From)
		}
	}
	return nil
}

// transitionRun is one call of Transitions.
type transitionRun struct {
	in       TransitionInput
	opt      TransitionOptions
	machines []Machine
	names    map[string]int
	edges    []*transitionEdge
	full     bool          // no more edges are made
	past     time.Duration // of the past windows that have a profile
	spans    float64       // of all windows
}

// transitionEdge is a step under construction.
type transitionEdge struct {
	Edge
	declared *MachineEdge
	now      durations
	past     durations
	block    durations // of the past time under construction
	window   durations // of the window under construction
	ops      map[string]float64
	points   []edgePoint // of every window
	blocks   [2][]edgeBlock
	known    [2]int       // the first of blocks that is known to be slow, -1 is none
	shift    [2]edgeShift // zero without a past
	faster   [2]edgeShift // zero without one, and of a step that is known to be slow
}

// edgePoint is a window's quantiles in seconds; zero without enough.
type edgePoint struct{ p50, p99 Estimate }

var edgeQuantiles = [2]float64{0.5, 0.99}

// describe fills in the step's figures.
func (r *transitionRun) describe(e *transitionEdge) {
	most := -1.0
	for op, t := range e.ops {
		if t > most || t == most && op < e.Operation {
			e.Operation, most = op, t
		}
	}
	e.N = e.now.n + e.now.loose
	e.Rate = float64(e.N) / r.seconds().Seconds()
	e.Errors = shareOf(e.now.errors, e.N)
	e.P50, _ = e.now.quantile(0.5)
	e.P99, _ = e.now.quantile(0.99)
	if e.declared != nil && e.declared.Slow > 0 {
		e.Slow = shareOf(e.now.above(int64(e.declared.Slow)), e.now.n)
	}
	e.Past = EdgePast{N: e.past.n + e.past.loose, Times: len(e.blocks[0])}
	if r.past > 0 {
		e.Past.Rate = float64(e.Past.N) / r.past.Seconds()
	}
	for k, q := range edgeQuantiles {
		if v, variance, ok := e.now.logQuantile(q); ok {
			e.shift[k] = shiftOf(e.blocks[k], edgeBlock{v, variance}, e.known[k])
			if e.known[k] < 0 {
				e.faster[k] = fasterOf(e.blocks[k], edgeBlock{v, variance})
			}
		}
	}
	e.Past.P50, e.Past.P99 = e.shift[0].before, e.shift[1].before
}

// seconds is the length of the judged windows that have a profile.
func (r *transitionRun) seconds() (d time.Duration) {
	for _, w := range r.in.Windows[len(r.in.Windows)-r.in.Now:] {
		if w.Profile != nil {
			d += w.To.Sub(w.From)
		}
	}
	return max(d, 1)
}
