package clickhouse

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

// scope is the state of the store that a question sees: the blocks that were whole when it came.
type scope struct {
	db          *DB
	plan        *store.Plan
	blocks      []string
	first, last int64 // of their partitions, Unix seconds
}

// scope lists the blocks of a question. A block that another replaces is not asked.
func (db *DB) scope(ctx context.Context, p *store.Plan, exclude []ulid.ULID) (*scope, error) {
	s := &scope{db: db, plan: p, first: math.MaxInt64, last: math.MinInt64}
	sql := "SELECT block, sources, toInt64(toUnixTimestamp(partition)) FROM blocks WHERE tenant = " + quote(p.Tenant)
	if p.From > minTime {
		sql += " AND last > " + instant(min(p.From, maxTime))
	}
	if p.To < maxTime {
		sql += " AND first < " + instant(max(p.To, minTime))
	}
	rs, err := db.ask(ctx, sql, "String", "Array(String)", "Int64")
	if err != nil {
		return nil, err
	}
	all, gone := map[string]int64{}, map[string]bool{}
	for _, id := range exclude {
		gone[id.String()] = true
	}
	for rs.next() {
		id, sources, at := rs.text(), array(rs, rs.text), rs.int64()
		all[id] = at
		for _, source := range sources {
			gone[source] = true
		}
	}
	if err := rs.close(); err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if !gone[id] {
			s.blocks = append(s.blocks, id)
			s.first, s.last = min(s.first, all[id]), max(s.last, all[id])
		}
	}
	return s, nil
}

// days is the condition on tables of names: that of the tenant, of the days that the blocks are of.
func (s *scope) days() string {
	return fmt.Sprintf("tenant = %s AND day >= %s AND day <= %s", quote(s.plan.Tenant), dayOf(time.Unix(s.first, 0)), dayOf(time.Unix(s.last, 0)))
}

// rows is the condition on tables of rows of blocks, by the column that has the time.
func (s *scope) rows(when string, from, to int64) string {
	var b strings.Builder
	b.WriteString("tenant = " + quote(s.plan.Tenant))
	if from > minTime {
		b.WriteString(" AND " + when + " >= " + instant(min(from, maxTime)))
	}
	if to < maxTime {
		b.WriteString(" AND " + when + " < " + instant(max(to, minTime)))
	}
	b.WriteString(" AND block IN " + list(s.blocks, quote))
	return b.String()
}

// found is a series of one type that there are profiles of.
type found struct {
	*block.Series
	hash                       uint64
	typ                        string
	profiles                   int
	first, last                int64
	duration, period, shortest int64
}

// picked is what of a scope a question is about.
type picked struct {
	*scope
	series []found
	where  string // on type, service and series
	// only is the condition on rows of samples where single profiles are asked for, and within
	// the times of those.
	only     string
	from, to int64
}

// pick finds the series of a question; nil if there are none.
func (s *scope) pick(ctx context.Context) (*picked, error) {
	if len(s.blocks) == 0 {
		return nil, nil
	}
	p := s.plan
	cond := s.rows("time", p.From, p.To)
	if !p.AnyType {
		cond += " AND type = " + quote(p.Type.String())
	}
	if service, ok := p.Equal(serviceOf); ok {
		cond += " AND service = " + quote(service)
	}
	cond += idsIn(p.IDs)
	rs, err := s.db.ask(ctx, "SELECT type, series, count(), toUnixTimestamp64Nano(min(time)), toUnixTimestamp64Nano(max(end_time))"+
		", sum(if(duration != 0, duration, toUnixTimestamp64Nano(end_time) - toUnixTimestamp64Nano(time))), max(period), min(period) FROM profiles WHERE "+cond+" GROUP BY type, series",
		"String", "UInt64", "UInt64", "Int64", "Int64", "Int64", "Int64", "Int64")
	if err != nil {
		return nil, err
	}
	var all []found
	var ids []uint64
	for rs.next() {
		f := found{typ: rs.text(), hash: rs.uint64(), profiles: int(rs.uint64()), first: rs.int64(), last: rs.int64(), duration: rs.int64(), period: rs.int64(), shortest: rs.int64()}
		all, ids = append(all, f), append(ids, f.hash)
	}
	if err := rs.close(); err != nil {
		return nil, err
	}
	names, err := s.seriesOf(ctx, ids)
	if err != nil {
		return nil, err
	}
	return s.choose(ctx, all, names)
}

// choose leaves the series that match, and writes the conditions.
func (s *scope) choose(ctx context.Context, all []found, names map[uint64]*block.Series) (*picked, error) {
	x := &picked{scope: s, from: s.plan.From, to: s.plan.To}
	services, hashes := map[string]bool{}, map[uint64]bool{}
	for _, f := range all {
		f.Series = names[f.hash]
		if s.plan.MatchType(f.typ) && s.plan.MatchLabels(f.Labels) {
			x.series = append(x.series, f)
			services[f.Labels.Get(serviceOf)] = true
			hashes[f.hash] = true
		}
	}
	if len(x.series) == 0 {
		return nil, nil
	}
	slices.SortFunc(x.series, func(a, b found) int { return cmp.Or(cmp.Compare(a.typ, b.typ), a.Compare(b.Series)) })
	if !s.plan.AnyType {
		x.where = " AND type = " + quote(s.plan.Type.String())
	}
	x.where += " AND service IN " + list(slices.Sorted(maps.Keys(services)), quote)
	for _, f := range all {
		if services[names[f.hash].Labels.Get(serviceOf)] && !hashes[f.hash] {
			x.where += " AND series IN " + list(slices.Sorted(maps.Keys(hashes)), number)
			break
		}
	}
	return x, x.single(ctx)
}

func idsIn(ids []block.ID) string {
	if len(ids) == 0 {
		return ""
	}
	return " AND id IN " + list(ids, func(id block.ID) string {
		b, _ := hex.DecodeString(block.FormatID(id)) // it is hexadecimal
		return "toFixedString(unhex('" + hex.EncodeToString(b) + "'), 16)"
	})
}

// single is where the samples of single profiles are: those of a series that start together are told apart by nth.
func (x *picked) single(ctx context.Context) error {
	if len(x.plan.IDs) == 0 {
		return nil
	}
	rs, err := x.db.ask(ctx, "SELECT block, series, toUnixTimestamp64Nano(time), toUInt64(nth) FROM profiles WHERE "+x.rows("time", x.from, x.to)+x.where+idsIn(x.plan.IDs), "String", "UInt64", "Int64", "UInt64")
	if err != nil {
		return err
	}
	var rows []string
	from, to := int64(math.MaxInt64), int64(math.MinInt64)
	for rs.next() {
		id, series, at, nth := rs.text(), rs.uint64(), rs.int64(), rs.uint64()
		rows = append(rows, fmt.Sprintf("(%s,%d,%d,%d)", quote(id), series, at, nth))
		from, to = min(from, at), max(to, at)
	}
	if err := rs.close(); err != nil {
		return err
	}
	if len(rows) == 0 { // they went between two statements
		x.only = " AND 0"
		return nil
	}
	x.only = " AND (block, series, toUnixTimestamp64Nano(time), nth) IN (" + strings.Join(rows, ",") + ")"
	x.from, x.to = max(x.from, from), min(x.to, to+1)
	return nil
}

// profileRows and sampleRows are the conditions on those tables.
func (x *picked) profileRows() string {
	return x.rows("time", x.plan.From, x.plan.To) + x.where + idsIn(x.plan.IDs)
}

func (x *picked) sampleRows(from, to int64) string {
	return x.rows("time", max(from, x.from), min(to, x.to)) + x.where + x.only
}

// labelled adds the condition on sample labels to one on samples; not any is false where no sample can match.
func (x *picked) labelled(ctx context.Context, cond string, memory func(int64) error) (_ string, any bool, err error) {
	if !x.plan.HasSampleMatchers() {
		return cond, true, nil
	}
	rs, err := x.db.ask(ctx, "SELECT DISTINCT labels FROM samples WHERE "+cond, "UInt64")
	if err != nil {
		return "", false, err
	}
	var sets []uint64
	for rs.next() {
		sets = append(sets, rs.uint64())
		if len(sets)%perStatement == 0 {
			if err := memory(perStatement * 8); err != nil {
				return "", false, joinClose(rs, err)
			}
		}
	}
	if err := rs.close(); err != nil {
		return "", false, err
	}
	r, err := x.resolve(ctx, nil, sets, memory)
	if err != nil {
		return "", false, err
	}
	var match []uint64
	for i, id := range sets {
		if x.plan.MatchSample(r.Strings, r.LabelSets[r.sets[i]]) {
			match = append(match, id)
		}
	}
	if len(match) < len(sets) {
		cond += " AND labels IN " + list(match, number)
	}
	return cond, len(match) > 0, nil
}

// joinClose ends an answer early, for err.
func joinClose(rs *rows, err error) error {
	if e := rs.close(); e != nil && rs.ctx.Err() == nil {
		return fmt.Errorf("%w (and %w)", err, e)
	}
	return err
}

// groups numbers the lines that series are grouped into: an expression over rows, and the lines' labels.
func (x *picked) groups(by []string) (string, []profile.Labels) {
	var lines []profile.Labels
	byText := map[string]int{}
	var hashes, numbers []string
	for _, f := range x.series {
		ls := store.GroupLabels(f.Labels, f.typ, by)
		n, ok := byText[ls.String()]
		if !ok {
			n = len(lines)
			lines = append(lines, ls)
			byText[ls.String()] = n
		}
		hashes, numbers = append(hashes, number(f.hash)), append(numbers, strconv.Itoa(n))
	}
	if len(lines) == 1 {
		return "toUInt64(0)", lines
	}
	return "transform(series, CAST([" + strings.Join(hashes, ",") + "], 'Array(UInt64)'), CAST([" + strings.Join(numbers, ",") + "], 'Array(UInt64)'), toUInt64(0))", lines
}

// aligned is the multiple of step at or before a time, in Unix nanoseconds.
func aligned(when string, step time.Duration) string {
	ns := "toUnixTimestamp64Nano(toDateTime64(" + when + ", 9, 'UTC'))"
	return fmt.Sprintf("toInt64(%s - positiveModulo(%s, toInt64(%d)))", ns, ns, int64(step))
}
