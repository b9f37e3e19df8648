package clickhouse

import (
	"context"
	"fmt"
	"math"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

// Rollup is of [store.Backend]. ClickHouse adds the roll-up by function up over series and blocks, and gives a row for each
// function and group, with its columns as arrays. Minutes that the range begins or ends within, and all where samples or
// profiles are chosen singly, are worked out from the sums by stack.
func (db *DB) Rollup(ctx context.Context, p *store.Plan, q store.RollupQuery, exclude []ulid.ULID, g *store.RollupGather) error {
	x, err := db.looked(ctx, p, exclude)
	if err != nil || x == nil {
		return err
	}
	r := &rollup{picked: x, q: q, g: g, part: g.Part(p.From, p.To)}
	defer r.part.Close()
	r.expr, r.lines = x.groups(q.GroupBy)
	for _, ls := range r.lines {
		n, err := r.part.Group(ls)
		if err != nil {
			return err
		}
		r.groups = append(r.groups, n)
	}
	if err := r.profiles(ctx); err != nil {
		return err
	}
	if err := r.functions(ctx); err != nil {
		return err
	}
	if err := r.part.Done(); err != nil {
		return err
	}
	return g.Add(r.part)
}

type rollup struct {
	*picked
	q      store.RollupQuery
	g      *store.RollupGather
	part   *store.RollupPart
	expr   string // a row's line
	lines  []profile.Labels
	groups []int // by line
	taken  int64
}

// group is the number of a line in the part.
func (r *rollup) group(rs *rows, line uint64) int {
	if rs.err == nil && line >= uint64(len(r.groups)) {
		rs.fail(fmt.Errorf("line %d of %d", line, len(r.groups)))
	}
	if rs.err != nil {
		return 0
	}
	return r.groups[line]
}

// profiles counts profiles and instances, and takes their totals where all samples count.
func (r *rollup) profiles(ctx context.Context) error {
	type of struct {
		group    int
		instance string
	}
	bySeries := map[uint64]of{}
	byText := map[string]int{}
	for i, ls := range r.lines {
		byText[ls.String()] = r.groups[i]
	}
	for _, f := range r.series {
		bySeries[f.hash] = of{byText[store.GroupLabels(f.Labels, f.typ, r.q.GroupBy).String()], f.Labels.Get(profile.LabelInstance)}
	}
	rs, err := r.db.ask(ctx, fmt.Sprintf("SELECT series, %s AS at, sum(total), count() FROM profiles WHERE %s GROUP BY series, at", aligned("time", r.q.Step), r.profileRows()),
		"UInt64", "Int64", "Int64", "UInt64")
	if err != nil {
		return err
	}
	for rs.next() {
		series, at, total, n := rs.uint64(), rs.int64(), rs.int64(), rs.uint64()
		s, ok := bySeries[series]
		if rs.err == nil && (!ok || n > math.MaxInt32) {
			rs.fail(fmt.Errorf("%d profiles of series %d", n, series))
		}
		if rs.err != nil {
			break
		}
		err := r.part.Profiles(s.group, s.instance, at, int(n))
		if err == nil && !r.plan.HasSampleMatchers() {
			err = r.part.Total(s.group, at, total)
		}
		if err != nil {
			return joinClose(rs, err)
		}
	}
	return rs.close()
}

func (r *rollup) functions(ctx context.Context) error {
	p := r.plan
	if len(p.IDs) > 0 || p.HasSampleMatchers() {
		return r.fromSamples(ctx, p.From, p.To, p.HasSampleMatchers())
	}
	// [first, last) is the whole minutes of [From, To).
	first, last := floor(p.From), floor(p.To)
	if first != p.From {
		first += minute
	}
	if first >= last {
		return r.fromSamples(ctx, p.From, p.To, false)
	}
	if err := r.fromRollup(ctx, first, last); err != nil {
		return err
	}
	if err := r.fromSamples(ctx, p.From, first, false); err != nil {
		return err
	}
	return r.fromSamples(ctx, last, p.To, false)
}

func (r *rollup) fromRollup(ctx context.Context, from, to int64) error {
	inner := fmt.Sprintf("SELECT function, %s AS line, %s AS at, sum(self) AS own, sum(cumulative) AS full FROM functions WHERE %s%s GROUP BY function, line, at",
		r.expr, aligned("minute", r.q.Step), r.rows("minute", from, to), r.where)
	rs, err := r.db.ask(ctx, "SELECT function, line, groupArray(at), groupArray(own), groupArray(full) FROM ("+inner+") GROUP BY function, line",
		"String", "UInt64", "Array(Int64)", "Array(Int64)", "Array(Int64)")
	if err != nil {
		return err
	}
	for rs.next() {
		name, line := rs.text(), rs.uint64()
		at, self, full := array(rs, rs.int64), array(rs, rs.int64), array(rs, rs.int64)
		group := r.group(rs, line)
		if rs.err == nil && (len(self) != len(at) || len(full) != len(at)) {
			rs.fail(fmt.Errorf("arrays of %d, %d and %d values", len(at), len(self), len(full)))
		}
		if rs.err != nil {
			break
		}
		fn, err := r.part.Function(name)
		for i := 0; err == nil && i < len(at); i++ {
			err = r.part.Add(fn, group, at[i], self[i], full[i])
		}
		if err != nil {
			return joinClose(rs, err)
		}
	}
	return rs.close()
}

// stackSum is what one stack has in one column of a group.
type stackSum struct {
	group     int
	at, value int64
	stack     uint32
}

// fromSamples does the same for windows that start in [from, to). totals says whether the samples are the totals too.
func (r *rollup) fromSamples(ctx context.Context, from, to int64, totals bool) error {
	if from >= to {
		return nil
	}
	defer func() { r.g.Release(r.taken); r.taken = 0 }()
	cond, any, err := r.labelled(ctx, r.sampleRows(from, to), r.take)
	if err != nil || !any {
		return err
	}
	sums, tables, err := r.stackSums(ctx, cond)
	if err != nil {
		return err
	}
	if err := r.take(store.FunctionSumsBytes(tables)); err != nil {
		return err
	}
	functions := store.NewFunctionSums(tables)
	for lo := 0; lo < len(sums); {
		hi := lo
		for ; hi < len(sums) && sums[hi].group == sums[lo].group && sums[hi].at == sums[lo].at; hi++ {
			functions.Add(sums[hi].stack, sums[hi].value)
			if totals {
				if err := r.part.Total(sums[hi].group, sums[hi].at, sums[hi].value); err != nil {
					return err
				}
			}
		}
		if err := functions.Flush(r.part, sums[lo].group, sums[lo].at); err != nil {
			return err
		}
		lo = hi
	}
	return nil
}

func (r *rollup) take(n int64) error {
	if err := r.g.Reserve(n); err != nil {
		return err
	}
	r.taken += n
	return nil
}

// stackSums is the values by group, column and stack, in that order, and the tables that the stacks are of.
func (r *rollup) stackSums(ctx context.Context, cond string) ([]stackSum, *block.Tables, error) {
	rs, err := r.db.ask(ctx, fmt.Sprintf("SELECT stack, %s AS line, %s AS at, sum(value) FROM samples WHERE %s GROUP BY stack, line, at ORDER BY line, at", r.expr, aligned("time", r.q.Step), cond),
		"UInt64", "UInt64", "Int64", "Int64")
	if err != nil {
		return nil, nil, err
	}
	const bytes = 40 + 8 + 4
	var stacks []uint64
	var sums []stackSum
	for rs.next() {
		if len(sums)%perStatement == 0 {
			if err := r.take(perStatement * bytes); err != nil {
				return nil, nil, joinClose(rs, err)
			}
		}
		stack, line := rs.uint64(), rs.uint64()
		stacks = append(stacks, stack)
		sums = append(sums, stackSum{group: r.group(rs, line), at: rs.int64(), value: rs.int64()})
	}
	if err := rs.close(); err != nil {
		return nil, nil, err
	}
	named, err := r.resolve(ctx, stacks, nil, r.take)
	if err != nil {
		return nil, nil, err
	}
	// Of all the stacks that are known, those of this answer only.
	used := make([]bool, named.Stacks.Len())
	for _, n := range named.stacks {
		used[n] = true
	}
	own := block.NewDict()
	now, _ := own.Add(&named.Tables, used, make([]bool, len(named.LabelSets)))
	for i := range sums {
		sums[i].stack = now[named.stacks[i]]
	}
	return sums, &own.Tables, nil
}
