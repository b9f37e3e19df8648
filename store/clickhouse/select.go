package clickhouse

import (
	"context"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/store"
)

// sumBytes is what a sum takes on its way: two identities, a value, and the places of all three.
const sumBytes = 40

// Select is of [store.Backend]. ClickHouse adds up by stack and label set; what those are is asked
// for only where no question has asked before.
func (db *DB) Select(ctx context.Context, p *store.Plan, exclude []ulid.ULID, g *store.Gather) error {
	s, err := db.scope(ctx, p, exclude)
	if err != nil {
		return err
	}
	x, err := s.pick(ctx)
	if err != nil || x == nil {
		return err
	}
	m := &memory{g: g}
	defer m.free()
	cond, any, err := x.labelled(ctx, x.sampleRows(p.From, p.To), m.take)
	if err != nil {
		return err
	}
	var stacks, sets []uint64
	var values []int64
	if any {
		if stacks, sets, values, err = x.sums(ctx, cond, m.take); err != nil {
			return err
		}
	}
	r, err := x.resolve(ctx, stacks, sets, m.take)
	if err != nil {
		return err
	}
	n := r.Stacks.Len()
	if err := m.take(int64(n) * 8); err != nil {
		return err
	}
	sums := store.NewSums(n)
	for i, v := range values {
		if r.sets[i] == 0 {
			sums.Dense[r.stacks[i]] += v
		} else {
			sums.Labelled[uint64(r.sets[i])<<32|uint64(r.stacks[i])] += v
		}
	}
	for _, f := range x.series {
		sums.Profiles += f.profiles
		sums.From, sums.To = min(sums.From, f.first), max(sums.To, f.last)
		sums.Duration += f.duration
		sums.Period, sums.ShortestPeriod = max(sums.Period, f.period), min(sums.ShortestPeriod, f.shortest)
		sums.Series[f.hash] = struct{}{}
	}
	return g.Add(&r.Tables, sums)
}

// sums is the values by stack and label set.
func (x *picked) sums(ctx context.Context, cond string, take func(int64) error) (stacks, sets []uint64, values []int64, err error) {
	rs, err := x.db.ask(ctx, "SELECT stack, labels, sum(value) FROM samples WHERE "+cond+" GROUP BY stack, labels", "UInt64", "UInt64", "Int64")
	if err != nil {
		return nil, nil, nil, err
	}
	const batch = 4096
	for rs.next() {
		if len(values)%batch == 0 {
			if err := take(batch * sumBytes); err != nil {
				return nil, nil, nil, joinClose(rs, err)
			}
		}
		stacks, sets, values = append(stacks, rs.uint64()), append(sets, rs.uint64()), append(values, rs.int64())
	}
	return stacks, sets, values, rs.close()
}

// memory is what a question has taken of its answer's bound.
type memory struct {
	g     *store.Gather
	taken int64
}

func (m *memory) take(n int64) error {
	if err := m.g.Reserve(n); err != nil {
		return err
	}
	m.taken += n
	return nil
}

func (m *memory) free() { m.g.Release(m.taken) }
