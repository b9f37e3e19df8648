package blocks

import (
	"context"
	"fmt"
	"sort"

	"github.com/oklog/ulid/v2"
	"github.com/zeebo/xxh3"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

// Rollup is of [store.Backend]. Whole minutes come from the roll-up by function; minutes that the range begins or ends
// within, and all where samples or profiles are chosen singly, from samples. What a block has to say as a whole is kept in
// memory: who watches a fleet asks the same of it again and again.
func (b *Blocks) Rollup(ctx context.Context, p *store.Plan, q store.RollupQuery, exclude []ulid.ULID, g *store.RollupGather) error {
	return b.each(ctx, p, exclude, func(ctx context.Context, c *pick) (func() error, error) {
		x := &rollup{pick: c, q: q, g: g}
		make := func(ctx context.Context) (any, int64, error) {
			part, err := x.run(ctx)
			if err != nil || part == nil {
				return (*store.RollupPart)(nil), 0, err
			}
			return part, part.Bytes(), nil
		}
		var v any
		var err error
		if c.whole() && !p.HasSampleMatchers() {
			v, err = b.memory.get(ctx, memoryKey{block: c.k.Meta.ULID, kind: kindRollup, a: x.question(), b: hashSeries(c.series)}, make)
		} else {
			v, _, err = make(ctx)
		}
		if err != nil {
			return nil, err
		}
		part := v.(*store.RollupPart)
		if part == nil {
			return nil, nil
		}
		return func() error { return g.Add(part) }, nil
	})
}

// rollup is what one block has to say to a question.
type rollup struct {
	*pick
	q      store.RollupQuery
	g      *store.RollupGather
	part   *store.RollupPart
	groups []int // by series: its group plus 1
}

// question tells one question from another, of a block that both take whole.
func (x *rollup) question() int64 {
	h := xxh3.New()
	fmt.Fprintf(h, "%d %d %q", x.types[0], x.q.Step, x.q.GroupBy)
	return int64(h.Sum64())
}

// run makes the part; nil if the block has nothing.
func (x *rollup) run(ctx context.Context) (*store.RollupPart, error) {
	typ := x.types[0] // one: Rollup is of one type
	rows, err := x.rows(ctx, typ)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	from, to := max(x.p.From, x.k.Meta.From.UnixNano()), min(x.p.To, x.k.Meta.To.UnixNano(), x.k.Meta.Partition.Add(x.k.Meta.Span()).UnixNano())
	if from >= to {
		return nil, fmt.Errorf("%w: block %s: its profiles are not in its range", block.ErrCorrupt, x.k.Meta.ULID)
	}
	x.part = x.g.Part(from, to)
	defer x.part.Close()
	x.groups = make([]int, len(x.k.Meta.Series))
	if err := x.totals(ctx, typ, rows); err != nil {
		return nil, err
	}
	if err := x.functions(ctx, typ, rows); err != nil {
		return nil, err
	}
	return x.part, x.part.Done()
}

func (x *rollup) group(series, typ uint32) (int, error) {
	if x.groups[series] == 0 {
		n, err := x.part.Group(store.GroupLabels(x.k.Meta.Series[series].Labels, x.k.Meta.Types[typ], x.q.GroupBy))
		if err != nil {
			return 0, err
		}
		x.groups[series] = n + 1
	}
	return x.groups[series] - 1, nil
}

// totals adds what there is beside functions.
func (x *rollup) totals(ctx context.Context, typ uint32, rows []facts) error {
	cols, err := x.profiles(ctx, typ)
	if err != nil {
		return err
	}
	totals := cols.Total
	if x.p.HasSampleMatchers() {
		if totals, err = x.matchedTotals(ctx, cols, rows); err != nil {
			return err
		}
	}
	for n, f := range rows {
		if n%64 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		group, err := x.group(f.series, typ)
		if err != nil {
			return err
		}
		instance := x.k.Meta.Series[f.series].Labels.Get(profile.LabelInstance)
		for i := f.lo; i < f.hi; i++ {
			if err := x.part.Profiles(group, instance, cols.From[i], 1); err != nil {
				return err
			}
			if err := x.part.Total(group, cols.From[i], totals[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *rollup) functions(ctx context.Context, typ uint32, rows []facts) error {
	if len(x.ids) > 0 || x.p.HasSampleMatchers() {
		return x.fromSamples(ctx, typ, rows, x.p.From, x.p.To)
	}
	from, to := x.p.From, x.p.To
	if x.whole() {
		from, to = align(x.k.Meta.From.UnixNano(), minute), align(x.k.Meta.To.UnixNano(), minute)+minute
	}
	// [first, last) is the whole minutes of [from, to).
	first, last := align(from, minute), align(to, minute)
	if first != from {
		first += minute
	}
	if first >= last {
		return x.fromSamples(ctx, typ, rows, from, to)
	}
	if err := x.fromRollup(ctx, first, last); err != nil {
		return err
	}
	if err := x.fromSamples(ctx, typ, rows, from, first); err != nil {
		return err
	}
	return x.fromSamples(ctx, typ, rows, last, to)
}

// fromRollup reads the minutes that start in [from, to).
func (x *rollup) fromRollup(ctx context.Context, from, to int64) error {
	series := make([]bool, len(x.k.Meta.Series))
	for _, s := range x.series {
		series[s] = true
	}
	name, fn, n := "", uint32(0), 0
	for row, err := range x.r.Functions(ctx, nil, x.types[:1]) {
		if err != nil {
			return err
		}
		if n++; n%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if !series[row.Series] || row.Minute < from || row.Minute >= to {
			continue
		}
		if fn == 0 || row.Function != name { // they come together
			k, err := x.part.Function(row.Function)
			if err != nil {
				return err
			}
			name, fn = row.Function, k+1
		}
		group, err := x.group(row.Series, row.Type)
		if err != nil {
			return err
		}
		if err := x.part.Add(fn-1, group, row.Minute, row.Self, row.Cumulative); err != nil {
			return err
		}
	}
	return nil
}

// fromSamples does the same for windows that start in [from, to), from samples.
func (x *rollup) fromSamples(ctx context.Context, typ uint32, rows []facts, from, to int64) error {
	if from >= to {
		return nil
	}
	cols, err := x.profiles(ctx, typ)
	if err != nil {
		return err
	}
	var sums *store.FunctionSums // the dictionary is only read if it must be
	var sets []bool
	for _, f := range rows {
		lo := f.lo + sort.Search(f.hi-f.lo, func(i int) bool { return cols.From[f.lo+i] >= from })
		hi := lo + sort.Search(f.hi-lo, func(i int) bool { return cols.From[lo+i] >= to })
		if lo == hi {
			continue
		}
		if sums == nil {
			tables, err := x.tables(ctx)
			if err != nil {
				return err
			}
			bytes := store.FunctionSumsBytes(tables)
			if err := x.g.Reserve(bytes); err != nil {
				return err
			}
			defer x.g.Release(bytes)
			sums, sets = store.NewFunctionSums(tables), matchingSets(x.p, tables)
		}
		group, err := x.group(f.series, typ)
		if err != nil {
			return err
		}
		if err := x.addRows(ctx, cols, sums, sets, group, lo, hi); err != nil {
			return err
		}
	}
	return nil
}

// addRows adds the samples of rows of one series, column by column.
func (x *rollup) addRows(ctx context.Context, cols *block.ProfileColumns, sums *store.FunctionSums, sets []bool, group, lo, hi int) error {
	for lo < hi {
		at, end := align(cols.From[lo], int64(x.q.Step)), lo+1
		for end < hi && align(cols.From[end], int64(x.q.Step)) == at {
			end++
		}
		err := x.samples(ctx, cols, []facts{{lo: lo, hi: end}}, func(ch *chunk, a, b int) error {
			for i := a; i < b; i++ {
				set, stack, v := ch.at(i)
				if int(stack) >= sums.Stacks() || sets != nil && int(set) >= len(sets) {
					return errRange(x.k, stack, set)
				}
				if sets == nil || sets[set] {
					sums.Add(stack, v)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := sums.Flush(x.part, group, cols.From[lo]); err != nil {
			return err
		}
		lo = end
	}
	return nil
}
