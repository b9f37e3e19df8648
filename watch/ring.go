package watch

import (
	"maps"
	"slices"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// ring is the last minutes of one type of one service: what the scan for changes looks at. Columns that have changed are
// read again, the rest stays: a look costs what has come, not what there is.
type ring struct {
	typ   profile.Type
	start time.Time // of the first column
	cols  int

	total               []float64
	profiles, instances []int
	lines               map[string]*line
	names               []string // of lines, sorted; nil if some have come or gone
	dropped             int      // functions that the bound left out
}

// line is a function. sum is of full.
type line struct {
	self, full []float32
	sum        float64
}

const column = time.Minute

func newRing(typ profile.Type, end time.Time, cols int) *ring {
	return &ring{typ: typ, start: end.Add(-time.Duration(cols) * column), cols: cols,
		total: make([]float64, cols), profiles: make([]int, cols), instances: make([]int, cols), lines: map[string]*line{}}
}

func (r *ring) end() time.Time { return r.start.Add(time.Duration(r.cols) * column) }

// shift moves the ring on so that it ends at end, or stays where it is if it ends later.
func (r *ring) shift(end time.Time) {
	n := int(end.Sub(r.end()) / column)
	if n <= 0 {
		return
	}
	r.start = r.start.Add(time.Duration(n) * column)
	left(r.total, n)
	left(r.profiles, n)
	left(r.instances, n)
	for name, l := range r.lines {
		left(l.self, n)
		left(l.full, n)
		l.sum = 0 // anew: what is added and taken away for ever does not add up
		for _, v := range l.full {
			l.sum += float64(v)
		}
		if l.sum == 0 && !slices.ContainsFunc(l.full, func(v float32) bool { return v != 0 }) {
			delete(r.lines, name)
			r.names = nil
		}
	}
}

// left moves a by n to the left and clears what comes in.
func left[T int | float32 | float64](a []T, n int) {
	if n < len(a) {
		copy(a, a[n:])
	}
	clear(a[max(0, len(a)-n):])
}

// put sets the columns that res has. maxLines bounds how many functions there are: past it new ones are left out and counted.
func (r *ring) put(res *store.RollupResult, maxLines int) {
	off := int(res.Start.Sub(r.start) / column)
	lo, hi := max(0, off), min(r.cols, off+res.Steps)
	if lo >= hi {
		return
	}
	r.blank(lo, hi)
	for _, g := range res.Groups {
		for i := lo; i < hi; i++ {
			r.total[i] += float64(g.Total[i-off])
			r.profiles[i] += g.Profiles[i-off]
			r.instances[i] += g.Instances[i-off]
		}
		for f := range g.Functions {
			fn := &g.Functions[f]
			l := r.lines[fn.Name]
			if l == nil {
				if len(r.lines) >= maxLines {
					r.dropped++
					continue
				}
				l = &line{self: make([]float32, r.cols), full: make([]float32, r.cols)}
				r.lines[fn.Name], r.names = l, nil
			}
			fn.Each(func(i int, self, cumulative int64) {
				if i += off; i >= lo && i < hi {
					l.self[i] += float32(self)
					l.full[i] += float32(cumulative)
					l.sum += float64(float32(cumulative))
				}
			})
		}
	}
}

// bad is the columns with values that are no counts, as a profile of negative ones makes them. They are blanked: what was good in them is
// lost for the scan, not in the store.
func (r *ring) bad() (columns []int) {
	negative := make([]bool, r.cols)
	for i, v := range r.total {
		negative[i] = !(v >= 0)
	}
	for _, l := range r.lines {
		for i := range l.full {
			negative[i] = negative[i] || !(l.self[i] >= 0) || !(l.full[i] >= 0)
		}
	}
	for i, is := range negative {
		if is {
			columns = append(columns, i)
			r.blank(i, i+1)
		}
	}
	return columns
}

// blank makes columns a gap.
func (r *ring) blank(lo, hi int) {
	clear(r.total[lo:hi])
	clear(r.profiles[lo:hi])
	clear(r.instances[lo:hi])
	for _, l := range r.lines {
		for _, v := range l.full[lo:hi] {
			l.sum -= float64(v)
		}
		clear(l.self[lo:hi])
		clear(l.full[lo:hi])
	}
}

// index is the column of a moment, which may be outside.
func (r *ring) index(t time.Time) int { return int(t.Sub(r.start) / column) }

// table is the ring for the scan: functions with at least minShare of the total somewhere in it.
func (r *ring) table(service string, unit, minShare float64) *analyze.Table {
	t := &analyze.Table{Service: service, Type: r.typ, Start: r.start, Step: column, Unit: unit,
		Total: slices.Clone(r.total), Profiles: slices.Clone(r.profiles), Instances: slices.Clone(r.instances)}
	var all float64
	for _, v := range r.total {
		all += v
	}
	if r.names == nil {
		r.names = slices.Sorted(maps.Keys(r.lines))
	}
	for _, name := range r.names {
		if l := r.lines[name]; l.sum >= minShare*all && l.sum > 0 {
			t.Functions = append(t.Functions, analyze.Series{Function: name, Self: l.self, Full: l.full})
		}
	}
	return t
}
