package simulate

import (
	"fmt"
	"math"
	"slices"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
)

// Refactor is a change of code that costs nothing: what a function costs goes elsewhere from minute At on.
type Refactor struct {
	Kind     string // "rename", "split", "inline" or "move"
	Function string
	At       int
}

// Refactor makes one. A rename gives all of a function's nodes another name; a split puts half of what it spends into a
// new function that it calls; inlining gives its callers what it spends; a move has another part of the program call it,
// instead of where it is called most.
func (s *Service) Refactor(r Refactor) error {
	at, ok := slices.BinarySearch(s.names, r.Function)
	if !ok {
		return fmt.Errorf("simulate: no function %q", r.Function)
	}
	var nodes []int32
	for i := 1; i < len(s.name); i++ {
		if s.name[i] == int32(at) && s.begin[i] == 0 && s.end[i] == 0 {
			nodes = append(nodes, int32(i))
		}
	}
	switch r.Kind {
	case "rename":
		for _, i := range nodes {
			s.copyTree(i, s.parent[i], r.At, 1, r.Function, r.Function+"V2")
		}
	case "split":
		for _, i := range nodes {
			s.copyNode(i, i, r.At, 0.5, r.Function+"Part")
			s.copyNode(i, s.parent[i], r.At, 0.5, r.Function)
			s.end[i] = r.At
		}
	case "inline":
		for _, i := range nodes {
			p := s.parent[i]
			if p == 0 {
				return fmt.Errorf("simulate: %q has no caller", r.Function)
			}
			s.copyNode(i, s.parent[p], r.At, 1, s.names[s.name[p]])
			s.end[i] = r.At
		}
	case "move":
		if len(nodes) == 0 {
			return fmt.Errorf("simulate: %q is not called", r.Function)
		}
		from := slices.MaxFunc(nodes, func(a, b int32) int {
			switch wa, wb := s.below(a), s.below(b); {
			case wa < wb:
				return -1
			case wa > wb:
				return 1
			}
			return 0
		})
		to := s.elsewhere(from)
		if to == 0 {
			return fmt.Errorf("simulate: nowhere to move %q", r.Function)
		}
		s.copyTree(from, to, r.At, 1, "", "")
	default:
		return fmt.Errorf("simulate: no refactoring %q", r.Kind)
	}
	s.divide()
	return nil
}

// below is what a node and all below it weigh.
func (s *Service) below(i int32) float64 {
	sum := 0.0
	for j := i; int(j) < len(s.parent); j++ {
		for k := j; k >= i; k = s.parent[k] {
			if k == i {
				sum += s.weight[j]
				break
			}
			if k == 0 {
				break
			}
		}
	}
	return sum
}

// elsewhere is a node that calls something, in another branch from the root than i.
func (s *Service) elsewhere(i int32) int32 {
	top := func(i int32) int32 {
		for s.parent[i] != 0 {
			i = s.parent[i]
		}
		return i
	}
	for j := int32(len(s.parent) - 1); j > 0; j-- {
		if p := s.parent[j]; p != 0 && s.parent[p] != 0 && s.begin[j] == 0 && top(j) != top(i) {
			return p
		}
	}
	return 0
}

// copyTree ends node i and all below it at minute at and puts a copy below parent from then on, with one name for another.
func (s *Service) copyTree(i, parent int32, at int, by float64, name, as string) {
	to := map[int32]int32{}
	n := int32(len(s.parent))
	for j := i; j < n; j++ {
		p, inside := to[s.parent[j]]
		switch {
		case j == i:
			p = parent
		case !inside:
			continue
		}
		called := s.names[s.name[j]]
		if called == name {
			called = as
		}
		to[j] = s.copyNode(j, p, at, by, called)
		s.end[j] = at
	}
}

// copyNode adds a node like i, with by times its weight, that is there from minute at on.
func (s *Service) copyNode(i, parent int32, at int, by float64, name string) int32 {
	n := s.nameIndex(name)
	s.parent, s.name, s.weight = append(s.parent, parent), append(s.name, n), append(s.weight, s.weight[i]*by)
	s.begin, s.end = append(s.begin, at), append(s.end, 0)
	return int32(len(s.parent) - 1)
}

// nameIndex is the index of a name, which may be new.
func (s *Service) nameIndex(name string) int32 {
	at, ok := slices.BinarySearch(s.names, name)
	if ok {
		return int32(at)
	}
	s.names = slices.Insert(s.names, at, name)
	for i := range s.name {
		if s.name[i] >= int32(at) {
			s.name[i]++
		}
	}
	n := s.spec.Noise
	s.self = slices.Insert(s.self, at, n.Self*s.rng.NormFloat64())
	s.load = slices.Insert(s.load, at, 0)
	s.host = slices.Insert(s.host, at, 0)
	for i := range s.hosts {
		h := 1.0
		if n.Host > 0 {
			h = math.Exp(n.Host * s.rng.NormFloat64())
		}
		s.hosts[i] = slices.Insert(s.hosts[i], at, h)
		s.host[at] += h / float64(len(s.hosts))
	}
	return int32(at)
}

// Profile is the sum of the columns from from to to of all that was drawn; the service must have been told to keep it.
func (s *Service) Profile(from, to int) *profile.Profile {
	b := profile.NewBuilder(CPU.Sample)
	stack := make([]uint32, len(s.parent))
	for i := 1; i < len(s.parent); i++ {
		var sum float64
		for c := from; c < to && c < len(s.kept); c++ {
			sum += float64(s.kept[c][i])
		}
		n := s.names[s.name[i]]
		f := b.Function(profile.Function{Name: b.String(n), SystemName: b.String(n)})
		stack[i] = b.Stack(stack[s.parent[i]], b.Location(profile.Location{}, profile.Line{Function: f}))
		if sum > 0 {
			b.Add(stack[i], 0, int64(sum*Unit))
		}
	}
	p := b.Profile()
	p.PeriodType, p.Period = CPU.Period, Unit
	return p
}

// Fleet is a service in parts, each with its own noise: versions, instances.
type Fleet struct{ Parts []*Service }

// Table draws columns of a minute of all parts, and is their sum and each by itself.
func (f Fleet) Table(columns int) (*analyze.Table, []analyze.Group) {
	var groups []analyze.Group
	for _, p := range f.Parts {
		groups = append(groups, analyze.Group{Labels: p.spec.Labels, Table: p.Table(columns, 1)})
	}
	return Sum(groups), groups
}

// Profile is the sum of what the parts kept.
func (f Fleet) Profile(from, to int) (*profile.Profile, error) {
	var all []*profile.Profile
	for _, p := range f.Parts {
		all = append(all, p.Profile(from, to))
	}
	return profile.Merge(all...)
}

// Sum adds tables of the same columns up.
func Sum(groups []analyze.Group) *analyze.Table {
	first := groups[0].Table
	n := first.Steps()
	out := &analyze.Table{Service: first.Service, Type: first.Type, Start: first.Start, Step: first.Step, Unit: first.Unit,
		Total: make([]float64, n), Profiles: make([]int, n), Instances: make([]int, n)}
	index := map[string]int{}
	for _, g := range groups {
		for _, f := range g.Table.Functions {
			i, ok := index[f.Function]
			if !ok {
				i = len(out.Functions)
				index[f.Function] = i
				out.Functions = append(out.Functions, analyze.Series{Function: f.Function, Self: make([]float32, n), Full: make([]float32, n)})
			}
			for c := range n {
				out.Functions[i].Self[c] += f.Self[c]
				out.Functions[i].Full[c] += f.Full[c]
			}
		}
		for c := range n {
			out.Total[c] += g.Table.Total[c]
			out.Profiles[c] += g.Table.Profiles[c]
			out.Instances[c] += g.Table.Instances[c]
		}
	}
	slices.SortFunc(out.Functions, func(a, b analyze.Series) int {
		if a.Function < b.Function {
			return -1
		}
		return 1
	})
	return out
}
