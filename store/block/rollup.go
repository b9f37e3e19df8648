package block

import (
	"slices"
	"time"
)

// rollup sums up by function and minute.
type rollup struct {
	t *Tables
	// names numbers functions by name: those of one name are one here.
	names  []string
	nameOf []uint32   // of each of t.Functions
	stacks [][]uint32 // of each stack, the names on it, each once; computed when first asked

	cells map[rollKey]*FunctionRow
	// The cells of the profile that is being added, by name: right where seen is gen.
	now  []*FunctionRow
	seen []uint64
	gen  uint64
}

type rollKey struct {
	typ, series, name uint32
	minute            int64
}

func newRollup(t *Tables) *rollup {
	r := &rollup{t: t, nameOf: make([]uint32, len(t.Functions)), stacks: make([][]uint32, t.Stacks.Len()), cells: map[rollKey]*FunctionRow{}}
	byString := map[uint32]uint32{} // strings of one table are distinct
	for i, f := range t.Functions {
		n, ok := byString[f.Name]
		if !ok {
			n = uint32(len(r.names))
			r.names = append(r.names, t.Strings[f.Name])
			byString[f.Name] = n
		}
		r.nameOf[i] = n
	}
	return r
}

// leaf is the name of the innermost frame of a stack, or not ok: the root, or a frame without a name.
func (r *rollup) leaf(stack uint32) (uint32, bool) {
	if stack == 0 {
		return 0, false
	}
	l := r.t.Locations[r.t.Stacks.Loc[stack]]
	if l.NumLines == 0 {
		return 0, false
	}
	return r.nameOf[r.t.Lines[l.FirstLine].Function], true
}

// on is the names on a stack: its parent's, and its own that the parent does not have.
func (r *rollup) on(stack uint32) []uint32 {
	if stack == 0 {
		return nil
	}
	if r.stacks[stack] != nil {
		return r.stacks[stack]
	}
	// Callers first, without recursion: stacks may be deep.
	var path []uint32
	for s := stack; s != 0 && r.stacks[s] == nil; s = r.t.Stacks.Parent[s] {
		path = append(path, s)
	}
	for _, s := range slices.Backward(path) {
		above := r.stacks[r.t.Stacks.Parent[s]]
		l := r.t.Locations[r.t.Stacks.Loc[s]]
		own := above
		for _, ln := range r.t.Lines[l.FirstLine : l.FirstLine+l.NumLines] {
			if n := r.nameOf[ln.Function]; !slices.Contains(own, n) {
				if len(own) == len(above) {
					own = append(make([]uint32, 0, len(above)+int(l.NumLines)), above...)
				}
				own = append(own, n)
			}
		}
		if own == nil {
			own = []uint32{}
		}
		r.stacks[s] = own
	}
	return r.stacks[stack]
}

// minuteOf is the start of the minute that t is in.
func minuteOf(t int64) int64 {
	m := t % int64(time.Minute)
	if m < 0 {
		m += int64(time.Minute)
	}
	return t - m
}

// add adds a profile. The map is asked once for each name in it.
func (r *rollup) add(row *Row) {
	if r.now == nil {
		r.now, r.seen = make([]*FunctionRow, len(r.names)), make([]uint64, len(r.names))
	}
	r.gen++
	minute := minuteOf(row.From)
	for i, v := range row.Values {
		stack := row.Stacks[i]
		for _, n := range r.on(stack) {
			c := r.now[n]
			if r.seen[n] != r.gen {
				c = r.cell(row, n, minute)
			}
			c.Cumulative += v
			c.Samples++
		}
		if n, ok := r.leaf(stack); ok {
			r.now[n].Self += v // it is on its stack
		}
	}
}

func (r *rollup) cell(row *Row, name uint32, minute int64) *FunctionRow {
	k := rollKey{row.Type, row.Series, name, minute}
	c := r.cells[k]
	if c == nil {
		c = &FunctionRow{Type: row.Type, Series: row.Series, Function: r.names[name], Minute: minute}
		r.cells[k] = c
	}
	r.now[name], r.seen[name] = c, r.gen
	return c
}

// rows is all of it, in order.
func (r *rollup) rows() []FunctionRow {
	out := make([]FunctionRow, 0, len(r.cells))
	for _, c := range r.cells {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b FunctionRow) int { return a.Compare(&b) })
	return out
}
