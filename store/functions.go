package store

import "github.com/quantra-l/quantra/store/block"

// MaxTrendFunctions bounds how many functions one question may name.
const MaxTrendFunctions = 100

// FunctionSets says of each stack of some tables which of some functions are on it, and which is its innermost frame.
type FunctionSets struct {
	any              []bool
	cumulative, self [][]bool // by function, by stack
}

// NewFunctionSets looks for functions by name.
func NewFunctionSets(t *block.Tables, names []string) *FunctionSets {
	wanted := make(map[string]int, len(names))
	for i, n := range names {
		wanted[n] = i
	}
	of := make([]int, len(t.Functions)) // function -> index into names plus 1
	for i, f := range t.Functions {
		if n, ok := wanted[t.FunctionName(f)]; ok {
			of[i] = n + 1
		}
	}
	n := t.Stacks.Len()
	s := &FunctionSets{any: make([]bool, n)}
	for range names {
		s.cumulative, s.self = append(s.cumulative, make([]bool, n)), append(s.self, make([]bool, n))
	}
	for i := 1; i < n; i++ {
		parent := t.Stacks.Parent[i]
		if s.any[parent] {
			s.any[i] = true
			for f := range names {
				s.cumulative[f][i] = s.cumulative[f][parent]
			}
		}
		l := t.Locations[t.Stacks.Loc[i]]
		for j, line := range t.Lines[l.FirstLine : l.FirstLine+l.NumLines] {
			f := of[line.Function] - 1
			if f < 0 {
				continue
			}
			s.any[i], s.cumulative[f][i] = true, true
			if j == 0 { // the innermost
				s.self[f][i] = true
			}
		}
	}
	return s
}

// Stacks is how many stacks it knows of.
func (s *FunctionSets) Stacks() int { return len(s.any) }

// Add adds a sample to the points of the functions that are on its stack.
func (s *FunctionSets) Add(points []TrendPoint, stack uint32, v int64) {
	if !s.any[stack] {
		return
	}
	for f := range s.cumulative {
		if s.cumulative[f][stack] {
			points[f].Cumulative += v
			points[f].Samples++
			if s.self[f][stack] {
				points[f].Self += v
			}
		}
	}
}
