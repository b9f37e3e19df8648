package block

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/quantra-l/quantra/internal/vfs"
)

// Input is a block to be merged.
type Input struct {
	Meta   Meta
	Source Source
}

// MergeOptions of [Merge]. The zero value merges all.
type MergeOptions struct {
	FS vfs.FS // vfs.Default
	// Keep says which series stay; nil is all.
	Keep func(Series) bool
}

// ErrNothingKept says that no series of the inputs stays.
var ErrNothingKept = errors.New("nothing is kept")

// mergeRun is how many rows of samples are held of each input.
const mergeRun = 1 << 14

// Merge writes the inputs as one block into dir. m says who it is (ULID, Region, Tenant, Level above LevelHead, Partition,
// Created, Sources). An upload that several inputs have is kept once. Memory is the union
// of the dictionaries, a number for each stack of each input, the rows of profiles of one type,
// and a few thousand samples of each input.
func Merge(ctx context.Context, dir string, m Meta, inputs []Input, opt MergeOptions) (Meta, error) {
	g := &merger{ctx: ctx, opt: opt, dict: NewDict()}
	if err := g.open(&m, inputs); err != nil {
		return Meta{}, fmt.Errorf("merge into block %s: %w", m.ULID, err)
	}
	w, err := NewWriter(dir, m, &g.dict.Tables, WriterOptions{FS: opt.FS})
	if err != nil {
		return Meta{}, err
	}
	g.w, g.meta = w, &m
	if err := cmp.Or(g.profiles(), g.functions()); err != nil {
		return Meta{}, errors.Join(fmt.Errorf("merge into block %s: %w", m.ULID, err), w.Abort())
	}
	return w.Close()
}

type merger struct {
	ctx    context.Context
	opt    MergeOptions
	dict   *Dict
	w      *Writer
	meta   *Meta
	inputs []*mergeInput
	row    Row
	order  []mergedSample
	// double is the roll-up of what several inputs had, to be taken off; taken are its rows.
	double *rollup
	taken  []FunctionRow
}

// mergeInput is one block: its reader, its numbers in the output, and where in it the merge stands.
type mergeInput struct {
	r             *Reader
	types, series []uint32
	keep          []bool // by series
	stacks, sets  []uint32
	cols          *ProfileColumns
	at            int
	samples       SampleColumns
	first         int64 // row of samples
}

type mergedSample struct {
	key uint64 // label set<<32 | stack
	v   int64
}

// open reads the inputs' dictionaries into one.
func (g *merger) open(m *Meta, inputs []Input) error {
	if m.Level == LevelHead || len(inputs) == 0 {
		return fmt.Errorf("%d inputs for a block of level %d", len(inputs), m.Level)
	}
	types, series := map[string]bool{}, []Series{}
	for _, in := range inputs {
		r, err := Open(g.ctx, in.Meta, in.Source)
		if err != nil {
			return err
		}
		x := &mergeInput{r: r, keep: make([]bool, len(in.Meta.Series))}
		any := false
		for i, s := range in.Meta.Series {
			if x.keep[i] = g.opt.Keep == nil || g.opt.Keep(s); x.keep[i] {
				series = append(series, s)
				any = true
			}
		}
		if !any {
			continue
		}
		for _, t := range in.Meta.Types {
			types[t] = true
		}
		g.inputs = append(g.inputs, x)
	}
	if len(g.inputs) == 0 {
		return ErrNothingKept
	}
	slices.SortFunc(series, func(a, b Series) int { return a.Compare(&b) })
	m.Series = slices.CompactFunc(series, func(a, b Series) bool { return a.Compare(&b) == 0 })
	for t := range types {
		m.Types = append(m.Types, t)
	}
	slices.Sort(m.Types)
	for _, x := range g.inputs {
		if err := g.openInput(m, x); err != nil {
			return err
		}
	}
	return nil
}

func (g *merger) openInput(m *Meta, x *mergeInput) error {
	in := x.r.Meta()
	for _, t := range in.Types {
		i, _ := slices.BinarySearch(m.Types, t)
		x.types = append(x.types, uint32(i))
	}
	for i := range in.Series {
		n, _ := slices.BinarySearchFunc(m.Series, in.Series[i], func(a, b Series) int { return a.Compare(&b) })
		x.series = append(x.series, uint32(n))
	}
	t, err := x.r.Tables(g.ctx)
	if err != nil {
		return err
	}
	var stacks, sets []bool
	if slices.Contains(x.keep, false) {
		if stacks, sets, err = x.used(g.ctx, t); err != nil {
			return err
		}
	}
	x.stacks, x.sets = g.dict.Add(t, stacks, sets)
	return nil
}

// used is the stacks and label sets of the series that stay.
func (x *mergeInput) used(ctx context.Context, t *Tables) (stacks, sets []bool, err error) {
	stacks, sets = make([]bool, t.Stacks.Len()), make([]bool, len(t.LabelSets))
	c, err := x.r.Profiles(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	for i := range c.Type {
		if !x.keep[c.Series[i]] {
			continue
		}
		if err := x.read(ctx, c.First[i], int64(c.N[i])); err != nil {
			return nil, nil, err
		}
		at := c.First[i] - x.first
		for k := at; k < at+int64(c.N[i]); k++ {
			if int(x.samples.Sets[k]) >= len(sets) {
				return nil, nil, x.r.corrupt(SamplesFile, "label set %d of %d", x.samples.Sets[k], len(sets))
			}
			stacks[x.samples.Stacks[k]], sets[x.samples.Sets[k]] = true, true
		}
	}
	return stacks, sets, nil
}

// read makes sure that rows [first, first+n) are held.
func (x *mergeInput) read(ctx context.Context, first, n int64) error {
	if first >= x.first && first+n <= x.first+int64(len(x.samples.Values)) {
		return nil
	}
	x.first = first
	return x.r.Samples(ctx, first, min(max(n, mergeRun), x.r.meta.Samples-first), &x.samples)
}

// profiles merges the rows of profiles with their samples, type by type.
func (g *merger) profiles() error {
	for typ := range g.meta.Types {
		for _, x := range g.inputs {
			x.cols, x.at = &ProfileColumns{}, 0
			if i := slices.Index(x.types, uint32(typ)); i >= 0 {
				c, err := x.r.Profiles(g.ctx, []uint32{uint32(i)})
				if err != nil {
					return err
				}
				x.cols = c
			}
			x.skip()
		}
		if err := g.mergeType(uint32(typ)); err != nil {
			return err
		}
		if g.double != nil {
			g.double.each(func(r *FunctionRow) error {
				g.taken = append(g.taken, *r)
				return nil
			})
			g.double.any = false
		}
	}
	return nil
}

// skip goes on to the next row that stays.
func (x *mergeInput) skip() {
	for x.at < x.cols.Len() && !x.keep[x.cols.Series[x.at]] {
		x.at++
	}
}

// next is the input whose row comes first, nil at the end. There are few: looking at each is as quick as a heap.
func (g *merger) next(typ uint32) *mergeInput {
	var best *mergeInput
	var key Row
	for _, x := range g.inputs {
		if x.at == x.cols.Len() {
			continue
		}
		k := Row{Type: typ, Series: x.series[x.cols.Series[x.at]], From: x.cols.From[x.at], ID: x.cols.ID[x.at]}
		if best == nil || compareRows(&k, &key) < 0 {
			best, key = x, k
		}
	}
	return best
}

func (g *merger) mergeType(typ uint32) error {
	for n := 0; ; n++ {
		if err := g.ctx.Err(); n%64 == 0 && err != nil {
			return err
		}
		x := g.next(typ)
		if x == nil {
			return nil
		}
		last := Row{Type: g.row.Type, Series: g.row.Series, From: g.row.From, ID: g.row.ID}
		if err := g.take(typ, x); err != nil {
			return err
		}
		if n > 0 && compareRows(&last, &g.row) == 0 {
			if g.double == nil {
				g.double = newRollup(&g.dict.Tables)
			}
			if err := g.double.add(&g.row, func() error { return nil }); err != nil {
				return err
			}
		} else if err := g.w.Add(&g.row); err != nil {
			return err
		}
		x.at++
		x.skip()
	}
}

// take brings the input's row into g.row, in the output's numbers.
func (g *merger) take(typ uint32, x *mergeInput) error {
	c, i := x.cols, x.at
	if err := x.read(g.ctx, c.First[i], int64(c.N[i])); err != nil {
		return err
	}
	at := c.First[i] - x.first
	g.order = g.order[:0]
	for k := at; k < at+int64(c.N[i]); k++ {
		set := x.samples.Sets[k]
		if int(set) >= len(x.sets) {
			return x.r.corrupt(SamplesFile, "label set %d of %d", set, len(x.sets))
		}
		g.order = append(g.order, mergedSample{uint64(x.sets[set])<<32 | uint64(x.stacks[x.samples.Stacks[k]]), x.samples.Values[k]})
	}
	slices.SortFunc(g.order, func(a, b mergedSample) int { return cmp.Compare(a.key, b.key) })
	r := &g.row
	*r = Row{Type: typ, Series: x.series[c.Series[i]], ID: c.ID[i], From: c.From[i], To: c.To[i], Duration: c.Duration[i], Period: c.Period[i], Total: c.Total[i],
		Sets: r.Sets[:0], Stacks: r.Stacks[:0], Values: r.Values[:0]}
	for _, s := range g.order {
		r.Sets, r.Stacks, r.Values = append(r.Sets, uint32(s.key>>32)), append(r.Stacks, uint32(s.key)), append(r.Values, s.v)
	}
	return nil
}

// functionStream is one input's roll-up by function, in the output's numbers.
type functionStream struct {
	next func() (FunctionRow, error, bool)
	row  FunctionRow
	ok   bool
}

func (s *functionStream) advance(x *mergeInput) error {
	for {
		row, err, ok := s.next()
		if s.ok = ok; !ok || err != nil {
			return err
		}
		if x != nil {
			if !x.keep[row.Series] {
				continue
			}
			row.Type, row.Series = x.types[row.Type], x.series[row.Series]
		}
		s.row = row
		return nil
	}
}

// functions merges the roll-ups by function, and takes off what was there twice.
func (g *merger) functions() error {
	var streams []*functionStream
	inputs := append(slices.Clone(g.inputs), nil)
	for _, x := range inputs {
		rows := taken(g.taken)
		if x != nil {
			rows = x.r.Functions(g.ctx, nil, nil)
		}
		next, stop := iter.Pull2(rows)
		defer stop()
		s := &functionStream{next: next}
		if err := s.advance(x); err != nil {
			return err
		}
		streams = append(streams, s)
	}
	for n := 0; ; n++ {
		if err := g.ctx.Err(); n%4096 == 0 && err != nil {
			return err
		}
		var first *functionStream
		for _, s := range streams {
			if s.ok && (first == nil || s.row.Compare(&first.row) < 0) {
				first = s
			}
		}
		if first == nil {
			return nil
		}
		sum := FunctionRow{Type: first.row.Type, Series: first.row.Series, Function: first.row.Function, Minute: first.row.Minute}
		for i, s := range streams {
			if !s.ok || s.row.Compare(&sum) != 0 {
				continue
			}
			sum.Self += s.row.Self
			sum.Cumulative += s.row.Cumulative
			sum.Samples += s.row.Samples
			if err := s.advance(inputs[i]); err != nil {
				return err
			}
		}
		if sum.Samples == 0 && sum.Self == 0 && sum.Cumulative == 0 {
			continue
		}
		if err := g.w.AddFunction(sum); err != nil {
			return err
		}
	}
}

// taken yields rows with their signs turned.
func taken(rows []FunctionRow) iter.Seq2[FunctionRow, error] {
	return func(yield func(FunctionRow, error) bool) {
		for _, r := range rows {
			r.Self, r.Cumulative, r.Samples = -r.Self, -r.Cumulative, -r.Samples
			if !yield(r, nil) {
				return
			}
		}
	}
}
