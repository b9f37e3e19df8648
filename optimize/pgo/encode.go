package pgo

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/quantra-l/quantra/profile"
)

// defaultMaxBytes bounds a file that is kept in a repository and read by every compile of every package.
const defaultMaxBytes = 1 << 20

// prunedName is the function that calls what is left out: calls that no program has. Their weight keeps the sum of
// all, of which hot is a part, what it was.
const prunedName = "quantraband.pruned"

// comment is in every file, for who looks into it.
const comment = "made by quantraband pgo for the Go compiler: one second of processor time of the fleet, stacks cut to the last call"

// call is one node with its weight.
type call struct {
	node   uint32
	weight int64
	key    string // names and lines: what calls of the same weight are ordered by
}

// edgesOfCalls is what the compiler would read of the calls.
func edgesOfCalls(acc *profile.Profile, list []call) *Edges {
	weights := map[edgeKey]int64{}
	addEdges(acc, list, weights)
	return newEdges(weights)
}

func addEdges(acc *profile.Profile, list []call, weights map[edgeKey]int64) {
	var frames []frame
	for _, c := range list {
		frames = lastCall(acc, c.node, frames[:0])
		calls(frames, func(caller, callee frame) {
			weights[edgeKey{caller.name, caller.line - caller.start, callee.name}] += c.weight
		})
	}
}

// callsOf is the nodes in whole numbers, the heaviest first.
func callsOf(acc *profile.Profile, shares map[uint32]float64) []call {
	var out []call
	var frames []frame
	var key strings.Builder
	for _, node := range slices.Sorted(maps.Keys(shares)) {
		w := int64(math.Round(shares[node] * total))
		if w == 0 {
			continue
		}
		key.Reset()
		frames = lastCall(acc, node, frames[:0])
		for _, f := range frames {
			fmt.Fprintf(&key, "%s\n%d %d\n", f.name, f.start, f.line)
		}
		// The same frames may be split into locations in two ways.
		fmt.Fprint(&key, acc.Locations[acc.Stacks.Loc[node]].NumLines)
		out = append(out, call{node, w, key.String()})
	}
	slices.SortFunc(out, func(a, b call) int { return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.key, b.key)) })
	return out
}

// encode writes what fits: all, or as many of the coldest left out as must be, and none of what the compiler acts on.
func encode(acc *profile.Profile, shares map[uint32]float64, maxBytes int, r *Report) (*Result, error) {
	if maxBytes == 0 {
		maxBytes = defaultMaxBytes
	}
	list := callsOf(acc, shares)
	edges := edgesOfCalls(acc, list)
	hot := edges.Hot()
	r.Edges, r.Hot = len(edges.List), len(hot)

	// Those with a hot edge come first, so that what is left out is always the end of the list.
	isHot := map[edgeKey]bool{}
	for _, e := range hot {
		isHot[edgeKey{e.Caller, e.Offset, e.Callee}] = true
	}
	must, may := []call{}, []call{}
	var frames []frame
	for _, c := range list {
		found := false
		frames = lastCall(acc, c.node, frames[:0])
		calls(frames, func(caller, callee frame) {
			found = found || isHot[edgeKey{caller.name, caller.line - caller.start, callee.name}]
		})
		if found {
			must = append(must, c)
		} else {
			may = append(may, c)
		}
	}
	list = append(must, may...)
	least := int64(1)
	if len(hot) > 0 {
		least = hot[len(hot)-1].Weight
	}
	write := func(n int) ([]byte, error) {
		var b bytes.Buffer
		err := build(acc, list[:n], pruned(acc, list[n:], least)).Encode(&b)
		return b.Bytes(), err
	}
	b, err := write(len(list))
	if err != nil {
		return nil, err
	}
	kept := len(list)
	if maxBytes > 0 && len(b) > maxBytes {
		// The more are kept the larger is the file, but for what compression makes of it: a search, then steps down.
		kept = len(must) + sort.Search(len(may), func(i int) bool {
			b, e := write(len(must) + i + 1)
			err = cmp.Or(err, e)
			return len(b) > maxBytes
		})
		for ; kept >= len(must); kept-- {
			if b, err = write(kept); err != nil {
				return nil, err
			}
			if len(b) <= maxBytes {
				break
			}
		}
		if kept < len(must) {
			return nil, fmt.Errorf("%w: the calls that the compiler acts on take %d bytes, more than %d", ErrSize, len(b), maxBytes)
		}
	}
	r.Kept, r.Bytes = len(edgesOfCalls(acc, list[:kept]).List), len(b)
	for _, c := range list[kept:] {
		r.Lost += float64(c.weight) / total
	}
	return &Result{b, edges, *r}, nil
}

// pruned is the weights of calls that stand for what is left out, each below the least hot one's.
func pruned(acc *profile.Profile, left []call, least int64) []int64 {
	rest := edgesOfCalls(acc, left).Total
	var out []int64
	for most := max(1, least-1); rest > 0; rest -= most {
		out = append(out, min(rest, most))
	}
	return out
}

// build makes the profile of calls, in their order, and of what stands for the others.
func build(acc *profile.Profile, list []call, rest []int64) *profile.Profile {
	b := profile.NewBuilder(acc.SampleTypes...)
	function := func(i uint32) uint32 {
		f := acc.Functions[i]
		return b.Function(profile.Function{Name: b.String(acc.Strings[f.Name]), StartLine: f.StartLine})
	}
	location := func(i uint32) uint32 {
		var lines []profile.Line
		for _, ln := range acc.LinesOf(i) {
			lines = append(lines, profile.Line{Function: function(ln.Function), Line: ln.Line})
		}
		return b.Location(profile.Location{}, lines...)
	}
	for _, c := range list {
		at := uint32(0)
		if parent := acc.Stacks.Parent[c.node]; parent != 0 {
			at = b.Stack(0, location(acc.Stacks.Loc[parent]))
		}
		b.Add(b.Stack(at, location(acc.Stacks.Loc[c.node])), 0, c.weight)
	}
	if len(rest) > 0 {
		caller := b.Function(profile.Function{Name: b.String(prunedName), StartLine: 1})
		callee := b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String(prunedName + ".call"), StartLine: 1})})
		for i, w := range rest {
			at := b.Stack(0, b.Location(profile.Location{}, profile.Line{Function: caller, Line: int64(i) + 2}))
			b.Add(b.Stack(at, callee), 0, w)
		}
	}
	p := b.Profile()
	p.Comments = []string{comment}
	p.PeriodType, p.Period = profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, 1
	return p
}
