package blocks

import (
	"context"
	"sort"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// Trend is of [store.Backend]. Whole minutes come from the roll-up by function, of which only the
// pages that may have the functions are read. Minutes that the range begins or ends within, and
// all where samples or profiles are chosen singly, are worked out from samples.
func (b *Blocks) Trend(ctx context.Context, p *store.Plan, q store.TrendQuery, exclude []ulid.ULID, add func(string, profile.Labels, store.TrendPoint)) error {
	return b.each(ctx, p, exclude, func(ctx context.Context, c *pick) (func() error, error) {
		t := &trend{pick: c, q: q, groups: map[uint32]int{}, lines: map[trendKey]*store.TrendPoint{}}
		if err := t.run(ctx); err != nil {
			return nil, err
		}
		return func() error {
			for k, pt := range t.lines {
				pt.Time = time.Unix(0, k.at).UTC()
				add(q.Functions[k.function], t.labels[k.group], *pt)
			}
			return nil
		}, nil
	})
}

type trendKey struct {
	function, group int
	at              int64
}

// trend is what one block has to say to a question.
type trend struct {
	*pick
	q      store.TrendQuery
	groups map[uint32]int // series -> index into labels
	byName map[string]int // of labels
	labels []profile.Labels
	lines  map[trendKey]*store.TrendPoint
}

func (t *trend) group(series, typ uint32) int {
	if g, ok := t.groups[series]; ok {
		return g
	}
	ls := store.GroupLabels(t.k.Meta.Series[series].Labels, t.k.Meta.Types[typ], t.q.GroupBy)
	if t.byName == nil {
		t.byName = map[string]int{}
	}
	g, ok := t.byName[ls.String()]
	if !ok {
		g = len(t.labels)
		t.labels = append(t.labels, ls)
		t.byName[ls.String()] = g
	}
	t.groups[series] = g
	return g
}

func (t *trend) point(function, group int, at int64) *store.TrendPoint {
	k := trendKey{function, group, align(at, int64(t.q.Step))}
	pt := t.lines[k]
	if pt == nil {
		pt = &store.TrendPoint{}
		t.lines[k] = pt
	}
	return pt
}

const minute = int64(time.Minute)

func (t *trend) run(ctx context.Context) error {
	from, to := t.p.From, t.p.To
	if len(t.ids) > 0 || t.p.HasSampleMatchers() {
		return t.fromSamples(ctx, from, to)
	}
	if first, last := t.k.Meta.From.UnixNano(), t.k.Meta.To.UnixNano(); t.whole() {
		from, to = align(first, minute), align(last, minute)+minute
	}
	// [first, last) is the whole minutes of [from, to).
	first, last := from, to
	if a := align(from, minute); a != from {
		first = a + minute
	}
	last = align(to, minute)
	if first >= last {
		return t.fromSamples(ctx, from, to)
	}
	if err := t.fromRollup(ctx, first, last); err != nil {
		return err
	}
	if from < first {
		if err := t.fromSamples(ctx, from, first); err != nil {
			return err
		}
	}
	if last < to {
		return t.fromSamples(ctx, last, to)
	}
	return nil
}

func (t *trend) fromRollup(ctx context.Context, from, to int64) error {
	wanted := make(map[string]int, len(t.q.Functions))
	for i, f := range t.q.Functions {
		wanted[f] = i
	}
	series := make([]bool, len(t.k.Meta.Series))
	for _, s := range t.series {
		series[s] = true
	}
	n := 0
	for row, err := range t.r.Functions(ctx, t.q.Functions, t.types) {
		if err != nil {
			return err
		}
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		f, ok := wanted[row.Function]
		if !ok || !series[row.Series] || row.Minute < from || row.Minute >= to {
			continue
		}
		pt := t.point(f, t.group(row.Series, row.Type), row.Minute)
		pt.Self += row.Self
		pt.Cumulative += row.Cumulative
		pt.Samples += row.Samples
	}
	return nil
}

// fromSamples does the same for windows that start in [from, to), sample by sample.
func (t *trend) fromSamples(ctx context.Context, from, to int64) error {
	if from >= to {
		return nil
	}
	var onStack *store.FunctionSets
	var sets []bool
	points := make([]store.TrendPoint, len(t.q.Functions))
	for _, typ := range t.types {
		rows, err := t.rows(ctx, typ)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			continue
		}
		cols, err := t.profiles(ctx, typ)
		if err != nil {
			return err
		}
		for _, f := range rows {
			lo := f.lo + sort.Search(f.hi-f.lo, func(i int) bool { return cols.From[f.lo+i] >= from })
			hi := lo + sort.Search(f.hi-lo, func(i int) bool { return cols.From[lo+i] >= to })
			if lo == hi {
				continue
			}
			if onStack == nil { // the dictionary is only read if it must be
				tables, err := t.tables(ctx)
				if err != nil {
					return err
				}
				onStack = store.NewFunctionSets(tables, t.q.Functions)
				sets = matchingSets(t.p, tables)
			}
			g := t.group(f.series, typ)
			for i := lo; i < hi; i++ {
				clear(points)
				err := t.samples(ctx, cols, []facts{{lo: i, hi: i + 1}}, func(ch *chunk, a, b int) error {
					return t.addSamples(points, onStack, sets, ch, a, b)
				})
				if err != nil {
					return err
				}
				for f, sum := range points {
					if sum.Samples > 0 {
						pt := t.point(f, g, cols.From[i])
						pt.Self += sum.Self
						pt.Cumulative += sum.Cumulative
						pt.Samples += sum.Samples
					}
				}
			}
		}
	}
	return nil
}

func (t *trend) addSamples(points []store.TrendPoint, on *store.FunctionSets, sets []bool, ch *chunk, lo, hi int) error {
	for i := lo; i < hi; i++ {
		set, stack, v := ch.at(i)
		if int(stack) >= on.Stacks() || sets != nil && int(set) >= len(sets) {
			return errRange(t.k, stack, set)
		}
		if sets == nil || sets[set] {
			on.Add(points, stack, v)
		}
	}
	return nil
}
