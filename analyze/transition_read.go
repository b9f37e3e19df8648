package analyze

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/quantra-l/quantra/profile"
)

// read adds up all windows by step. The judged ones come first: what they do not have is no step.
func (r *transitionRun) read() error {
	first := len(r.in.Windows) - r.in.Now
	for i := first; i < len(r.in.Windows); i++ {
		if err := r.window(i); err != nil {
			return err
		}
		for _, e := range r.edges {
			e.now.merge(&e.window)
			if e.points == nil {
				e.points = make([]edgePoint, r.in.Now)
			}
			e.closeWindow(&e.points[i-first])
		}
	}
	slices.SortFunc(r.edges, func(a, b *transitionEdge) int {
		return cmp.Or(cmp.Compare(b.now.sum, a.now.sum), cmp.Compare(a.Name, b.Name))
	})
	r.full = true
	if len(r.edges) > r.opt.MaxEdges {
		r.edges = r.edges[:r.opt.MaxEdges]
	}
	clear(r.names)
	for i, e := range r.edges {
		r.names[e.key()] = i
		e.points = append(make([]edgePoint, first), e.points...)
	}
	// Past times are cut from the judged one backwards; the rest at the beginning is shorter, and left out.
	for i := first % r.in.Now; i < first; i++ {
		if err := r.window(i); err != nil {
			return err
		}
		w := r.in.Windows[i]
		if w.Profile != nil {
			r.past += w.To.Sub(w.From)
		}
		for _, e := range r.edges {
			e.past.merge(&e.window)
			e.block.merge(&e.window)
			e.closeWindow(&e.points[i])
			if (first-1-i)%r.in.Now == 0 {
				since, known := r.in.Known[e.Name]
				e.closeBlock(known && !w.From.Before(since))
			}
		}
	}
	return nil
}

// closeWindow keeps of a window its quantiles, in points.
func (e *transitionEdge) closeWindow(at *edgePoint) {
	at.p50, at.p99 = e.window.pointAt(0.5), e.window.pointAt(0.99)
	e.window = durations{by: e.window.by[:0]}
}

// closeBlock ends a past time, which may be known to be slow.
func (e *transitionEdge) closeBlock(slow bool) {
	for k, q := range edgeQuantiles {
		if v, variance, ok := e.block.logQuantile(q); ok {
			if slow && e.known[k] < 0 {
				e.known[k] = len(e.blocks[k])
			}
			e.blocks[k] = append(e.blocks[k], edgeBlock{v, variance})
		}
	}
	e.block = durations{by: e.block.by[:0]}
}

// pointAt is a quantile for a chart, in seconds, with the interval of the normal distribution's ranks (W. J. Conover, Practical
// Nonparametric Statistics, 3rd edition (1999), section 3.2), and zero where fewer than three are on its rarer side.
func (d *durations) pointAt(q float64) Estimate {
	n := float64(d.n)
	if n*min(q, 1-q) < 3 {
		return Estimate{}
	}
	half := z975 * math.Sqrt(n*q*(1-q))
	return Estimate{Value: d.at(q*n) / 1e9, Low: d.at(max(1, q*n-half)) / 1e9, High: d.at(min(n, q*n+half)) / 1e9}
}

// key tells steps apart.
func (e *transitionEdge) key() string {
	if e.declared != nil {
		return "\x00" + e.Machine + "\x00" + e.From + "\x00" + e.To
	}
	return e.Name
}

// window adds the profile of window i to the steps' own.
func (r *transitionRun) window(i int) error {
	p := r.in.Windows[i].Profile
	if p == nil {
		return nil
	}
	counts, ok := spanColumn(p, "spans")
	if !ok {
		return fmt.Errorf("transitions: the profile of window %d has no column spans", i)
	}
	times, exact := spanColumn(p, "duration")
	reader := spanReader{p: p, run: r, of: map[uint32][]int{}}
	for s, n := range counts {
		if n < 0 {
			return fmt.Errorf("transitions: the profile of window %d has negative values: it is a difference", i)
		}
		if n == 0 {
			continue
		}
		if r.spans += float64(n); r.spans > maxSpansJudged {
			return fmt.Errorf("transitions: window %d: more than 2^53 spans", i)
		}
		le, failed := reader.labels(p.SampleLabels[s])
		took := float64(n) * (durationBucket{le: le}).middle()
		if exact {
			took = float64(times[s])
		}
		operation, edges := reader.edges(p.SampleStack[s])
		for _, at := range edges {
			e := r.edges[at]
			e.window.add(le, n, took, failed)
			if !r.full {
				e.ops[operation] += took
			}
		}
	}
	return nil
}

func spanColumn(p *profile.Profile, name string) (values []int64, ok bool) {
	for i, t := range p.SampleTypes {
		if t.Type == name {
			return p.Values[i], true
		}
	}
	return nil, false
}

// spanReader finds the steps of a profile's samples.
type spanReader struct {
	p   *profile.Profile
	run *transitionRun
	of  map[uint32][]int // by stack
}

func (s *spanReader) labels(set uint32) (le int64, failed bool) {
	for _, l := range s.p.LabelSets[set] {
		switch s.p.Strings[l.Key] {
		case "le":
			le = l.Num
		case "status":
			failed = s.p.Strings[l.Str] == "error"
		}
	}
	return le, failed
}

// frame is the name of a stack's leaf, and whether it is two events.
func (s *spanReader) frame(stack uint32) (name string, event bool) {
	lines := s.p.LinesOf(s.p.Stacks.Loc[stack])
	if len(lines) == 0 {
		return "", false
	}
	f := s.p.Functions[lines[0].Function]
	return s.p.Strings[f.Name], s.p.Strings[f.File] == spansEvent
}

// edges are the steps that a stack counts for, and the operation of its span.
func (s *spanReader) edges(stack uint32) (operation string, edges []int) {
	if stack == 0 {
		return "", nil
	}
	leaf, event := s.frame(stack)
	operation = leaf
	if up := s.p.Stacks.Parent[stack]; event && up != 0 {
		operation, _ = s.frame(up)
	}
	if edges, known := s.of[stack]; known {
		return operation, edges
	}
	var path []string // operations, the root first
	lost := leaf == spansOther
	at := stack
	if event {
		at = s.p.Stacks.Parent[stack]
	}
	for ; at != 0 && len(path) < maxEdgePath; at = s.p.Stacks.Parent[at] {
		name, _ := s.frame(at)
		lost = lost || name == spansOther || name == spansOrphan
		path = append(path, name)
	}
	slices.Reverse(path)
	steps := ""
	if event {
		steps = leaf
	}
	declared := false
	for m := range s.run.machines {
		for k := range s.run.machines[m].Edges {
			if d := &s.run.machines[m].Edges[k]; d.matches(path, steps) {
				declared = true
				edges = s.run.edge(edges, declaredEdge(s.run.machines[m].Name, d))
			}
		}
	}
	if !declared && !lost && len(path) > 0 && !s.run.opt.DeclaredOnly {
		edges = s.run.edge(edges, pathEdge(path, steps))
	}
	s.of[stack] = edges
	return operation, edges
}

// edge appends the index of the step to a list, making it if it is new.
func (r *transitionRun) edge(to []int, e *transitionEdge) []int {
	at, known := r.names[e.key()]
	switch {
	case known && slices.Contains(to, at):
		return to
	case known:
		return append(to, at)
	case r.full || len(r.edges) >= edgesSeen*r.opt.MaxEdges:
		return to
	}
	e.ops, e.known = map[string]float64{}, [2]int{-1, -1}
	r.names[e.key()] = len(r.edges)
	r.edges = append(r.edges, e)
	return append(to, len(r.edges)-1)
}

// matches says that a span on a path, or a step between events in it, is this edge.
func (d *MachineEdge) matches(path []string, steps string) bool {
	if len(path) == 0 {
		return false
	}
	around := path
	if d.Span != "" {
		if steps != "" || !matchPattern(d.Span, path[len(path)-1]) {
			return false
		}
		around = path[:len(path)-1]
	} else if steps == "" || !matchPattern(d.Events[0]+" -> "+d.Events[1], steps) {
		return false
	}
	return d.In == "" || slices.ContainsFunc(around, func(op string) bool { return matchPattern(d.In, op) })
}

func declaredEdge(machine string, d *MachineEdge) *transitionEdge {
	e := &transitionEdge{declared: d}
	e.Machine, e.From, e.To = machine, d.From, d.To
	e.Name = machine + ": " + d.From + " -> " + d.To
	return e
}

// pathEdge is the step of a path that no machine declares. Of a long path its root and its end name it.
func pathEdge(path []string, steps string) *transitionEdge {
	e := &transitionEdge{}
	if e.To = path[len(path)-1]; len(path) > 1 {
		e.From = path[len(path)-2]
	}
	if len(path) > 4 {
		path = []string{path[0], "…", path[len(path)-2], path[len(path)-1]}
	}
	e.Name = strings.Join(path, " -> ")
	if steps != "" {
		e.Name += ": " + steps
		e.From, e.To, _ = strings.Cut(steps, " -> ")
	}
	return e
}
