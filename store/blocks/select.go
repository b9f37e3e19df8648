package blocks

import (
	"context"
	"fmt"

	"github.com/oklog/ulid/v2"
	"github.com/zeebo/xxh3"

	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

// Select is of [store.Backend]. A block that the question takes whole is answered from its roll-up by stack, if
// it has one, else from its samples. Either way each block is added up by the
// stacks of its own dictionary first, and g sees each stack once for a block.
func (b *Blocks) Select(ctx context.Context, p *store.Plan, exclude []ulid.ULID, g *store.Gather) error {
	return b.each(ctx, p, exclude, func(ctx context.Context, c *pick) (func() error, error) {
		typ := c.types[0] // one: Select is of one type
		rows, err := c.rows(ctx, typ)
		if err != nil || len(rows) == 0 {
			return nil, err
		}
		tables, err := c.tables(ctx)
		if err != nil {
			return nil, err
		}
		n := tables.Stacks.Len()
		// The sums, and the dictionary: that one may be shared, and may be cached, but a
		// question over many large ones holds several at a time.
		bytes := int64(8*n) + tablesBytes(tables)
		if err := g.Reserve(bytes); err != nil {
			return nil, err
		}
		s := store.NewSums(n)
		c.facts(s, rows)
		if c.whole() && c.r.HasTotals() && !c.p.HasSampleMatchers() {
			err = c.addTotals(ctx, typ, s)
		} else {
			err = c.addSamples(ctx, typ, rows, tables, s)
		}
		if err != nil {
			g.Release(bytes)
			return nil, err
		}
		return func() error {
			defer g.Release(bytes)
			return g.Add(tables, s)
		}, nil
	})
}

// facts is what the sums rest on.
func (c *pick) facts(s *store.Sums, rows []facts) {
	for _, f := range rows {
		s.Profiles += f.hi - f.lo
		s.From, s.To = min(s.From, f.first), max(s.To, f.last)
		s.Duration += f.duration
		s.Period, s.ShortestPeriod = max(s.Period, f.period), min(s.ShortestPeriod, f.shortest)
		series := &c.k.Meta.Series[f.series]
		s.Series[store.SeriesHash(series.Name, series.Labels)] = struct{}{}
	}
}

// addTotals adds the block's own sums by stack. What is kept in memory is those of the series asked, added up: the
// same question again costs next to nothing.
func (c *pick) addTotals(ctx context.Context, typ uint32, s *store.Sums) error {
	key := memoryKey{block: c.k.Meta.ULID, kind: kindTotals, a: int64(typ), b: hashSeries(c.series)}
	v, err := c.b.memory.get(ctx, key, func(ctx context.Context) (any, int64, error) {
		series := c.series
		if len(series) == len(c.k.Meta.Series) {
			series = nil // all of them
		}
		cols, err := c.r.Totals(ctx, typ, series)
		if err != nil {
			return nil, 0, err
		}
		own := store.NewSums(len(s.Dense))
		for i, stack := range cols.Stacks {
			if err := add(c.k, own, cols.Sets[i], stack, cols.Values[i]); err != nil {
				return nil, 0, err
			}
		}
		ch := sparse(own)
		return ch, ch.bytes, nil
	})
	if err != nil {
		return err
	}
	return c.addChunk(v.(*chunk), 0, v.(*chunk).n, nil, s)
}

// sparse is the sums as rows.
func sparse(s *store.Sums) *chunk {
	var sets, stacks []uint32
	var values []int64
	for i, v := range s.Dense {
		if v != 0 {
			stacks, values = append(stacks, uint32(i)), append(values, v)
		}
	}
	sets = make([]uint32, len(stacks))
	for k, v := range s.Labelled {
		if v != 0 {
			sets, stacks, values = append(sets, uint32(k>>32)), append(stacks, uint32(k)), append(values, v)
		}
	}
	return newChunk(sets, stacks, values)
}

// addSamples adds the samples of the rows.
func (c *pick) addSamples(ctx context.Context, typ uint32, rows []facts, tables *block.Tables, s *store.Sums) error {
	cols, err := c.profiles(ctx, typ)
	if err != nil {
		return err
	}
	sets := matchingSets(c.p, tables)
	return c.samples(ctx, cols, rows, func(ch *chunk, lo, hi int) error { return c.addChunk(ch, lo, hi, sets, s) })
}

// addChunk adds rows of a chunk; sets, if not nil, says which label sets count.
func (c *pick) addChunk(ch *chunk, lo, hi int, sets []bool, s *store.Sums) error {
	if ch.sets == nil && sets == nil && ch.n > 0 && int(ch.most) < len(s.Dense) {
		ch.addTo(s.Dense, lo, hi)
		return nil
	}
	for i := lo; i < hi; i++ {
		set, stack, v := ch.at(i)
		if sets != nil && int(set) < len(sets) && !sets[set] {
			continue
		}
		if sets != nil && int(set) >= len(sets) {
			return errRange(c.k, stack, set)
		}
		if err := add(c.k, s, set, stack, v); err != nil {
			return err
		}
	}
	return nil
}

func add(k *Block, s *store.Sums, set, stack uint32, v int64) error {
	switch {
	case int(stack) >= len(s.Dense):
		return errRange(k, stack, set)
	case set == 0:
		s.Dense[stack] += v
	default:
		s.Labelled[uint64(set)<<32|uint64(stack)] += v
	}
	return nil
}

func errRange(k *Block, stack, set uint32) error {
	return fmt.Errorf("%w: block %s: %s has a sample of stack %d with labels %d, which the dictionary does not have", block.ErrCorrupt, k.Meta.ULID, block.SamplesFile, stack, set)
}

// matchingSets says which sets of sample labels a question takes; nil is all.
func matchingSets(p *store.Plan, t *block.Tables) []bool {
	if !p.HasSampleMatchers() {
		return nil
	}
	sets := make([]bool, len(t.LabelSets))
	for i, s := range t.LabelSets {
		sets[i] = p.MatchSample(t.Strings, s)
	}
	return sets
}

// hashSeries tells one choice of series from another.
func hashSeries(series []uint32) int64 {
	b := make([]byte, 0, 4*len(series))
	for _, s := range series {
		b = append(b, byte(s), byte(s>>8), byte(s>>16), byte(s>>24))
	}
	return int64(xxh3.Hash(b))
}
