package pgo

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/quantra-l/quantra/profile"
)

// What branches of a caller depend on.
var (
	// ErrNoStartLines says that the compiler would refuse the profile: it counts lines from where a function
	// starts, and no function says where it does.
	ErrNoStartLines = errors.New("no function has a start line")
	// ErrNotCPU says that the profile does not measure what the compiler reads.
	ErrNotCPU = errors.New("not a CPU profile")
	// ErrNotGo says that there is no Go program in the profile.
	ErrNotGo = errors.New("not a Go program's profile")
	// ErrNoSamples says that there is nothing to go by.
	ErrNoSamples = errors.New("no samples")
	// ErrSize says that what the compiler acts on does not fit the bound on size.
	ErrSize = errors.New("the bound on size is too small")
)

// hotPercent is the part of all weight that hot edges have: the compiler's own default
// (-d=pgoinlinecdfthreshold, inlineCDFHotCallSiteThresholdPercent in cmd/compile/internal/inline of Go 1.26).
const hotPercent = 99

// Edge is a call as the compiler sees it: of which function, in which line after the caller's first, how often.
type Edge struct {
	Caller string
	Offset int64 // the call's line less the caller's start line
	Callee string
	Weight int64
}

// Edges are all calls of a profile, the heaviest first and else by their names, in the compiler's order.
type Edges struct {
	Total int64 // the sum of all weights
	List  []Edge
}

type edgeKey struct {
	caller string
	offset int64
	callee string
}

// EdgesOf is what the compiler reads of p (cmd/internal/pgo, Go 1.26): of each sample the calls among the
// innermost location and its caller, with those that were inlined into them. What is further up a stack is not looked at.
func EdgesOf(p *profile.Profile) (*Edges, error) {
	col, err := column(p)
	if err != nil {
		return nil, err
	}
	weights := map[edgeKey]int64{}
	started := false
	var frames []frame
	for i, stack := range p.SampleStack {
		w := p.Values[col][i]
		if w == 0 {
			continue
		}
		frames = lastCall(p, stack, frames[:0])
		for _, f := range frames {
			started = started || f.start != 0
		}
		calls(frames, func(caller, callee frame) {
			weights[edgeKey{caller.name, caller.line - caller.start, callee.name}] += w
		})
	}
	if !started && len(weights) > 0 {
		return nil, ErrNoStartLines
	}
	return newEdges(weights), nil
}

func newEdges(weights map[edgeKey]int64) *Edges {
	e := &Edges{List: make([]Edge, 0, len(weights))}
	for k, w := range weights {
		e.Total += w
		e.List = append(e.List, Edge{k.caller, k.offset, k.callee, w})
	}
	slices.SortFunc(e.List, func(a, b Edge) int {
		return cmp.Or(cmp.Compare(b.Weight, a.Weight), cmp.Compare(a.Caller, b.Caller), cmp.Compare(a.Callee, b.Callee), cmp.Compare(a.Offset, b.Offset))
	})
	return e
}

// column is the column that the compiler takes: the first of those it knows.
func column(p *profile.Profile) (int, error) {
	for i, t := range p.SampleTypes {
		if t == (profile.ValueType{Type: "samples", Unit: "count"}) || t == (profile.ValueType{Type: "cpu", Unit: "nanoseconds"}) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%w: its sample types are %v, and the compiler reads samples/count or cpu/nanoseconds", ErrNotCPU, p.SampleTypes)
}

// frame is what makes two places of code one to the compiler.
type frame struct {
	name        string
	address     uint64
	start, line int64
}

// lastCall appends the frames of the stack's innermost location and of its caller, the outermost first.
func lastCall(p *profile.Profile, stack uint32, frames []frame) []frame {
	if stack == 0 {
		return frames
	}
	if parent := p.Stacks.Parent[stack]; parent != 0 {
		frames = framesOf(p, p.Stacks.Loc[parent], frames)
	}
	return framesOf(p, p.Stacks.Loc[stack], frames)
}

func framesOf(p *profile.Profile, loc uint32, frames []frame) []frame {
	address := p.Locations[loc].Address
	lines := p.LinesOf(loc)
	if len(lines) == 0 {
		return append(frames, frame{address: address})
	}
	for _, ln := range slices.Backward(lines) {
		f := &p.Functions[ln.Function]
		frames = append(frames, frame{p.Strings[f.Name], address, f.StartLine, ln.Line})
	}
	return frames
}

// calls visits each call of one sample once. A place that calls itself is none.
func calls(frames []frame, visit func(caller, callee frame)) {
	for i := 1; i < len(frames); i++ {
		caller, callee := frames[i-1], frames[i]
		if caller == callee {
			continue
		}
		again := false // the same call further out in this sample; there are a handful of frames
		for j := 1; j < i && !again; j++ {
			again = frames[j-1] == caller && frames[j] == callee
		}
		if !again {
			visit(caller, callee)
		}
	}
}

// Hot are the edges that the compiler acts on: the heaviest, up to the one that brings them above 99 % of the whole.
func (e *Edges) Hot() []Edge {
	sum := int64(0)
	for i, edge := range e.List {
		sum += edge.Weight
		if float64(sum)/float64(e.Total)*100 > hotPercent {
			return e.List[:i+1]
		}
	}
	return e.List
}

// Agreement is how much of the weight of the hot edges of a and b is of edges that are hot in both, each side's
// weights as shares of its own: 1 is the same set, 0 is nothing in common. Of sides without weight it is 0.
func Agreement(a, b *Edges) float64 {
	share := func(e *Edges) (map[edgeKey]float64, float64) {
		m, sum := map[edgeKey]float64{}, 0.0
		for _, edge := range e.Hot() {
			s := float64(edge.Weight) / float64(e.Total)
			m[edgeKey{edge.Caller, edge.Offset, edge.Callee}] = s
			sum += s
		}
		return m, sum
	}
	if a.Total <= 0 || b.Total <= 0 {
		return 0
	}
	left, leftSum := share(a)
	right, rightSum := share(b)
	both, n := 0.0, 0
	for _, edge := range a.Hot() { // in a's order, so that the sum is the same each time
		k := edgeKey{edge.Caller, edge.Offset, edge.Callee}
		if s, ok := right[k]; ok {
			both += left[k] + s
			n++
		}
	}
	if n == len(left) && n == len(right) {
		return 1 // and not a rounding less
	}
	return min(1, both/(leftSum+rightSum))
}
