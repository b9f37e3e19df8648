package clickhouse

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

const minute = int64(time.Minute)

// Trend is of [store.Backend]. Whole minutes come from the roll-up by function. Minutes that the range begins or
// ends within, and all where samples or profiles are chosen singly, are worked out from
// the sums by stack.
func (db *DB) Trend(ctx context.Context, p *store.Plan, q store.TrendQuery, exclude []ulid.ULID, add func(string, profile.Labels, store.TrendPoint)) error {
	x, err := db.looked(ctx, p, exclude)
	if err != nil || x == nil {
		return err
	}
	t := &trend{picked: x, q: q, add: add, memory: budget()}
	t.group, t.lines = x.groups(q.GroupBy)
	if len(p.IDs) > 0 || p.HasSampleMatchers() {
		return t.fromSamples(ctx, p.From, p.To)
	}
	// [first, last) is the whole minutes of [From, To); a bound that is none stays so.
	first, last := p.From, p.To
	if first > math.MinInt64 {
		if first = floor(p.From); first != p.From {
			first += minute
		}
	}
	if last < math.MaxInt64 {
		last = floor(p.To)
	}
	if first >= last {
		return t.fromSamples(ctx, p.From, p.To)
	}
	if err := t.fromRollup(ctx, first, last); err != nil {
		return err
	}
	if p.From < first {
		if err := t.fromSamples(ctx, p.From, first); err != nil {
			return err
		}
	}
	if last < p.To {
		return t.fromSamples(ctx, last, p.To)
	}
	return nil
}

// floor is the start of the minute of t; not below what an int64 holds.
func floor(t int64) int64 {
	m := t % minute
	if m < 0 {
		m += minute
	}
	if t < math.MinInt64+m {
		return t
	}
	return t - m
}

type trend struct {
	*picked
	q      store.TrendQuery
	add    func(string, profile.Labels, store.TrendPoint)
	memory func(int64) error
	group  string
	lines  []profile.Labels
}

func (t *trend) fromRollup(ctx context.Context, from, to int64) error {
	rs, err := t.db.ask(ctx, fmt.Sprintf("SELECT function, %s AS line, %s AS at, sum(self), sum(cumulative), sum(samples) FROM functions WHERE %s%s AND function IN %s GROUP BY function, line, at",
		t.group, aligned("minute", t.q.Step), t.rows("minute", from, to), t.where, list(t.q.Functions, quote)), "String", "UInt64", "Int64", "Int64", "Int64", "Int64")
	if err != nil {
		return err
	}
	for rs.next() {
		function, line, at := rs.text(), rs.uint64(), rs.int64()
		pt := store.TrendPoint{Time: time.Unix(0, at).UTC(), Self: rs.int64(), Cumulative: rs.int64(), Samples: rs.int64()}
		if rs.err == nil && line >= uint64(len(t.lines)) {
			rs.fail(fmt.Errorf("line %d of %d", line, len(t.lines)))
		}
		if rs.err == nil {
			t.add(function, t.lines[line], pt)
		}
	}
	return rs.close()
}

// fromSamples does the same for windows that start in [from, to).
func (t *trend) fromSamples(ctx context.Context, from, to int64) error {
	cond, any, err := t.labelled(ctx, t.sampleRows(from, to), t.memory)
	if err != nil || !any {
		return err
	}
	rs, err := t.db.ask(ctx, fmt.Sprintf("SELECT stack, %s AS line, %s AS at, sum(value), count() FROM samples WHERE %s GROUP BY stack, line, at", t.group, aligned("time", t.q.Step), cond),
		"UInt64", "UInt64", "Int64", "Int64", "UInt64")
	if err != nil {
		return err
	}
	type row struct {
		line, n   uint64
		at, value int64
	}
	const rowBytes = 40
	var stacks []uint64
	var all []row
	for rs.next() {
		if len(all)%perStatement == 0 {
			if err := t.memory(perStatement * rowBytes); err != nil {
				return joinClose(rs, err)
			}
		}
		stacks = append(stacks, rs.uint64())
		all = append(all, row{line: rs.uint64(), at: rs.int64(), value: rs.int64(), n: rs.uint64()})
	}
	if err := rs.close(); err != nil {
		return err
	}
	r, err := t.resolve(ctx, stacks, nil, t.memory)
	if err != nil {
		return err
	}
	// Of all the stacks that are known, those of this answer only: there may be many functions.
	used := make([]bool, r.Stacks.Len())
	for _, n := range r.stacks {
		used[n] = true
	}
	own := block.NewDict()
	now, _ := own.Add(&r.Tables, used, make([]bool, len(r.LabelSets)))
	on := store.NewFunctionSets(&own.Tables, t.q.Functions)
	for i, x := range all {
		if x.line >= uint64(len(t.lines)) {
			return fmt.Errorf("%w: clickhouse: answer: line %d of %d", store.ErrUnavailable, x.line, len(t.lines))
		}
		points := make([]store.TrendPoint, len(t.q.Functions))
		on.Add(points, now[r.stacks[i]], x.value)
		for f, pt := range points {
			if pt.Samples > 0 {
				pt.Time, pt.Samples = time.Unix(0, x.at).UTC(), int64(x.n)
				t.add(t.q.Functions[f], t.lines[x.line], pt)
			}
		}
	}
	return nil
}
