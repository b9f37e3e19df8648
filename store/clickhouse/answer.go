package clickhouse

import (
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

// looked is what one of these questions is about: its blocks, and of those its series; nil if there are none.
func (db *DB) looked(ctx context.Context, p *store.Plan, exclude []ulid.ULID) (*picked, error) {
	s, err := db.scope(ctx, p, exclude)
	if err != nil {
		return nil, err
	}
	return s.pick(ctx)
}

// questionBytes bounds the memory of a question that has no [store.Gather] to account to.
const questionBytes = 256 << 20

// budget is such a question's account.
func budget() func(int64) error {
	left := int64(questionBytes)
	return func(n int64) error {
		if left -= n; left < 0 {
			return fmt.Errorf("clickhouse: query: %w: it needs more than %d MiB of memory; narrow the range or the labels", store.ErrTooLarge, questionBytes>>20)
		}
		return nil
	}
}

// Series is of [store.Backend]: from the totals of profiles, or where sample labels are
// asked for from samples.
func (db *DB) Series(ctx context.Context, p *store.Plan, step time.Duration, groupBy []string, exclude []ulid.ULID, add func(profile.Labels, store.Point)) error {
	x, err := db.looked(ctx, p, exclude)
	if err != nil || x == nil {
		return err
	}
	group, lines := x.groups(groupBy)
	value := "sum(total)"
	if p.HasSampleMatchers() {
		value = "toInt64(0)"
	}
	points := func(what, table, cond string) error {
		rs, err := db.ask(ctx, fmt.Sprintf("SELECT %s AS line, %s AS at, %s FROM %s WHERE %s GROUP BY line, at", group, aligned("time", step), what, table, cond), "UInt64", "Int64", "Int64", "UInt64")
		if err != nil {
			return err
		}
		for rs.next() {
			line, at, v, n := rs.uint64(), rs.int64(), rs.int64(), rs.uint64()
			if rs.err == nil && line >= uint64(len(lines)) {
				rs.fail(fmt.Errorf("line %d of %d", line, len(lines)))
			}
			if rs.err == nil {
				add(lines[line], store.Point{Time: time.Unix(0, at).UTC(), Value: v, Profiles: int(n)})
			}
		}
		return rs.close()
	}
	if err := points(value+", count()", "profiles", x.profileRows()); err != nil || !p.HasSampleMatchers() {
		return err
	}
	cond, any, err := x.labelled(ctx, x.sampleRows(p.From, p.To), budget())
	if err != nil || !any {
		return err
	}
	return points("sum(value), toUInt64(0)", "samples", cond)
}

// Catalog is of [store.Backend].
func (db *DB) Catalog(ctx context.Context, p *store.Plan, exclude []ulid.ULID, see func(store.Known)) error {
	x, err := db.looked(ctx, p, exclude)
	if err != nil || x == nil {
		return err
	}
	for _, f := range x.series {
		t, err := profile.ParseType(f.typ)
		if err != nil {
			return fmt.Errorf("clickhouse: %w: table profiles: %w", store.ErrCorrupt, err)
		}
		see(store.Known{Name: f.Name, Labels: f.Labels, Type: t, Profiles: f.profiles, First: f.first, Last: f.last})
	}
	return nil
}

// Profiles is of [store.Backend].
func (db *DB) Profiles(ctx context.Context, p *store.Plan, exclude []ulid.ULID, see func(store.ProfileInfo) bool) error {
	x, err := db.looked(ctx, p, exclude)
	if err != nil || x == nil {
		return err
	}
	const columns = "type, series, id, toUnixTimestamp64Nano(time) AS begins, toUnixTimestamp64Nano(end_time) AS ends"
	sql := "SELECT " + columns + ", total FROM profiles WHERE " + x.profileRows()
	if p.HasSampleMatchers() {
		cond, any, err := x.labelled(ctx, x.sampleRows(p.From, p.To), budget())
		if err != nil {
			return err
		}
		if !any {
			cond += " AND 0"
		}
		// Each profile with the values of its samples that match. Both tables of a cluster are sharded alike, but this does not depend on it.
		sql = fmt.Sprintf("SELECT anyIf(type, mine) AS type, series, anyIf(id, mine) AS id, begins, max(ends), sum(value) FROM ("+
			"SELECT type, block, series, nth, id, toUnixTimestamp64Nano(time) AS begins, toUnixTimestamp64Nano(end_time) AS ends, toInt64(0) AS value, true AS mine FROM profiles WHERE %s"+
			" UNION ALL SELECT type, block, series, nth, toFixedString('', 16) AS id, toUnixTimestamp64Nano(time) AS begins, toInt64(-9223372036854775808) AS ends, value, false AS mine FROM samples WHERE %s"+
			") GROUP BY block, series, begins, nth HAVING max(mine)", x.profileRows(), cond)
	}
	rs, err := db.ask(ctx, sql, "String", "UInt64", "FixedString(16)", "Int64", "Int64", "Int64")
	if err != nil {
		return err
	}
	byHash, types := map[uint64]*block.Series{}, map[string]profile.Type{}
	for _, f := range x.series {
		byHash[f.hash] = f.Series
		if types[f.typ], err = profile.ParseType(f.typ); err != nil {
			return joinClose(rs, fmt.Errorf("clickhouse: %w: table profiles: %w", store.ErrCorrupt, err))
		}
	}
	for rs.next() {
		typ, hash, id, from, to, total := rs.text(), rs.uint64(), rs.fixed16(), rs.int64(), rs.int64(), rs.int64()
		s, ok := byHash[hash]
		if rs.err != nil || !ok {
			continue // ok is false of a profile that came to a block without its series: there is none
		}
		if !see(store.ProfileInfo{ID: idOf(id), Name: s.Name, Labels: s.Labels, Type: types[typ], From: time.Unix(0, from).UTC(), To: time.Unix(0, to).UTC(), Total: total}) {
			break
		}
	}
	return rs.close()
}

func idOf(b [16]byte) block.ID {
	id, err := block.ParseID(hex.EncodeToString(b[:]))
	if err != nil {
		panic(err) // 16 bytes are 32 digits
	}
	return id
}

// Recent is of [store.Backend].
func (db *DB) Recent(ctx context.Context, since time.Time) ([]block.ID, error) {
	blocks, err := db.ask(ctx, "SELECT block, tenant, toUnixTimestamp64Nano(first), toUnixTimestamp64Nano(last) FROM blocks WHERE created >= fromUnixTimestamp64Milli(toInt64("+fmt.Sprint(since.UnixMilli())+"), 'UTC')",
		"String", "String", "Int64", "Int64")
	if err != nil {
		return nil, err
	}
	// By tenant, so that the statement reads the hours that it must, and no others.
	type span struct {
		blocks   []string
		from, to int64
	}
	spans := map[string]*span{}
	for blocks.next() {
		id, tenant, from, to := blocks.text(), blocks.text(), blocks.int64(), blocks.int64()
		sp := spans[tenant]
		if sp == nil {
			sp = &span{from: from, to: to}
			spans[tenant] = sp
		}
		sp.blocks = append(sp.blocks, id)
		sp.from, sp.to = min(sp.from, from), max(sp.to, to)
	}
	if err := blocks.close(); err != nil {
		return nil, err
	}
	var ids []block.ID
	for tenant, sp := range spans {
		rs, err := db.ask(ctx, fmt.Sprintf("SELECT DISTINCT id FROM profiles WHERE tenant = %s AND time >= %s AND time < %s AND block IN %s", quote(tenant), instant(sp.from), instant(sp.to), list(sp.blocks, quote)), "FixedString(16)")
		if err != nil {
			return nil, err
		}
		for rs.next() {
			if id := rs.fixed16(); rs.err == nil {
				ids = append(ids, idOf(id))
			}
		}
		if err := rs.close(); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// Usage is of [store.Backend]. ClickHouse knows the bytes of a day's parts, of all
// tenants together: they are shared out by rows.
func (db *DB) Usage(ctx context.Context) ([]store.Usage, error) {
	parts := "system.parts"
	if db.target.cluster != "" {
		parts = "cluster(" + quote(db.target.cluster) + ", system.parts)" // one replica of each shard
	}
	cold := ""
	if db.target.coldVolume != "" {
		cold = fmt.Sprintf("disk_name IN (SELECT arrayJoin(disks) FROM system.storage_policies WHERE policy_name = %s AND volume_name = %s)", quote(db.target.policy), quote(db.target.coldVolume))
	} else {
		cold = "0"
	}
	rs, err := db.ask(ctx, fmt.Sprintf("SELECT toUInt64(toDate(partition)), toUInt64(max(%s)), toUInt64(sum(bytes_on_disk)) FROM %s WHERE database = %s AND active AND partition_id != 'all' AND length(partition) = 10 GROUP BY 1",
		cold, parts, quote(db.target.database)), "UInt64", "UInt64", "UInt64")
	if err != nil {
		return nil, err
	}
	type ofDay struct {
		cold  bool
		bytes uint64
		rows  uint64
	}
	days := map[uint64]*ofDay{}
	for rs.next() {
		day, cold, bytes := rs.uint64(), rs.uint64(), rs.uint64()
		days[day] = &ofDay{cold: cold != 0, bytes: bytes}
	}
	if err := rs.close(); err != nil {
		return nil, err
	}
	// A profile of a series with several types has its part in each.
	rs, err = db.ask(ctx, "SELECT tenant, service, type, toUInt64(day), sum(profiles / types), sum(samples + profiles) FROM ("+
		"SELECT tenant, service, type, series, toDate(time) AS day, count() AS profiles, sum(samples) AS samples, count() OVER (PARTITION BY tenant, series, day) AS types"+
		" FROM profiles GROUP BY tenant, service, type, series, day) GROUP BY tenant, service, type, day ORDER BY tenant, service, type, day",
		"String", "String", "String", "UInt64", "Float64", "UInt64")
	if err != nil {
		return nil, err
	}
	var out []store.Usage
	var rows []uint64
	for rs.next() {
		u := store.Usage{Tenant: rs.text(), Service: rs.text(), Type: rs.text(), Class: "standard"}
		day := rs.uint64()
		u.Profiles = math.Float64frombits(rs.uint64())
		rows = append(rows, rs.uint64())
		u.Day = time.Unix(int64(day)*86400, 0).UTC()
		if d := days[day]; d != nil {
			d.rows += rows[len(rows)-1]
			if d.cold {
				u.Class = "archive"
			}
		}
		out = append(out, u)
	}
	for i := range out {
		if d := days[uint64(out[i].Day.Unix()/86400)]; d != nil && d.rows > 0 {
			out[i].Bytes = int64(float64(d.bytes) * float64(rows[i]) / float64(d.rows))
		}
	}
	return out, rs.close()
}
