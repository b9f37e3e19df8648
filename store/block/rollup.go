package block

import (
	"cmp"
	"slices"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// rollup sums up by function and minute. Profiles come in a block's order, so those of one type, series and minute
// come together: they are summed up in arrays by name, and nothing is hashed.
type rollup struct {
	t *Tables
	// names are the functions' names, sorted: those of one name are one here.
	names  []string
	nameOf []uint32   // of each of t.Functions
	stacks [][]uint32 // of each stack, the names on it, each once; computed when first asked

	typ, series uint32
	minute      int64
	any         bool
	now         []rollCell // of this type, series and minute, by name
	touched     []uint32
	cells       []rollCell // of this type, in the order of (series, minute)
	keep        func(rollCell)
}

// rollCell is a row on its way.
type rollCell struct {
	name, series              uint32
	minute                    int64
	self, cumulative, samples int64
}

func newRollup(t *Tables) *rollup {
	r := &rollup{t: t, nameOf: make([]uint32, len(t.Functions)), stacks: make([][]uint32, t.Stacks.Len())}
	for _, f := range t.Functions {
		r.names = append(r.names, t.FunctionName(f))
	}
	slices.Sort(r.names)
	r.names = slices.Compact(r.names)
	for i, f := range t.Functions {
		n, _ := slices.BinarySearch(r.names, t.FunctionName(f))
		r.nameOf[i] = uint32(n)
	}
	r.now = make([]rollCell, len(r.names))
	r.keep = func(c rollCell) { r.cells = append(r.cells, c) }
	return r
}

// FunctionName is what a function is called in trees and tables: its name, or the linker's if it has none.
func (t *Tables) FunctionName(f profile.Function) string {
	return cmp.Or(t.Strings[f.Name], t.Strings[f.SystemName])
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

// add adds a profile; flush hears of the type before when another begins.
func (r *rollup) add(row *Row, flush func() error) error {
	if r.any && row.Type != r.typ {
		r.group()
		if err := flush(); err != nil {
			return err
		}
	}
	r.begin(row.Type, row.Series, row.From)
	for i, v := range row.Values {
		r.sample(row.Stacks[i], v)
	}
	return nil
}

// begin says whose and when the samples are that follow.
func (r *rollup) begin(typ, series uint32, from int64) {
	minute := minuteOf(from)
	if r.any && (typ != r.typ || series != r.series || minute != r.minute) {
		r.group()
	}
	r.typ, r.series, r.minute, r.any = typ, series, minute, true
}

func (r *rollup) sample(stack uint32, v int64) {
	for _, n := range r.on(stack) {
		c := &r.now[n]
		if c.samples == 0 {
			r.touched = append(r.touched, n)
		}
		c.cumulative += v
		c.samples++
	}
	if n, ok := r.leaf(stack); ok {
		r.now[n].self += v
	}
}

// group ends a type, series and minute.
func (r *rollup) group() {
	for _, n := range r.touched {
		c := r.now[n]
		c.name, c.series, c.minute = n, r.series, r.minute
		r.keep(c)
		r.now[n] = rollCell{}
	}
	r.touched = r.touched[:0]
}

// each calls see with the rows of the type that has ended, in order, and forgets them. Sorting by name alone
// keeps the order of series and minutes: it is a counting sort.
func (r *rollup) each(see func(*FunctionRow) error) error {
	r.group()
	at := make([]int32, len(r.names)+1)
	for i := range r.cells {
		at[r.cells[i].name+1]++
	}
	for i := 1; i < len(at); i++ {
		at[i] += at[i-1]
	}
	order := make([]int32, len(r.cells))
	for i := range r.cells {
		n := r.cells[i].name
		order[at[n]] = int32(i)
		at[n]++
	}
	for _, i := range order {
		c := &r.cells[i]
		row := FunctionRow{Type: r.typ, Series: c.series, Function: r.names[c.name], Minute: c.minute, Self: c.self, Cumulative: c.cumulative, Samples: c.samples}
		if err := see(&row); err != nil {
			return err
		}
	}
	r.cells = r.cells[:0]
	return nil
}
