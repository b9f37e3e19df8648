package clickhouse

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/zeebo/xxh3"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

// putters is how many blocks are on their way at once.
const putters = 4

// Put is of [store.Backend]. Blocks that are recorded already are not sent again.
func (db *DB) Put(ctx context.Context, blocks []store.Staged) (err error) {
	defer func() { db.settled(err) }()
	there, err := db.recorded(ctx, blocks)
	if err != nil {
		return fmt.Errorf("clickhouse: put: %w", err)
	}
	var wg sync.WaitGroup
	errs := make([]error, len(blocks))
	slots := make(chan struct{}, putters)
	for i := range blocks {
		if there[blocks[i].Meta.ULID.String()] {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			errs[i] = db.put(ctx, &blocks[i])
			<-slots
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// recorded says which blocks are there, whole.
func (db *DB) recorded(ctx context.Context, blocks []store.Staged) (map[string]bool, error) {
	if len(blocks) == 0 {
		return nil, nil
	}
	rs, err := db.ask(ctx, "SELECT block FROM blocks WHERE block IN "+list(blocks, func(s store.Staged) string { return quote(s.Meta.ULID.String()) }), "String")
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for rs.next() {
		there[rs.text()] = true
	}
	return there, rs.close()
}

// put sends one block, and records it when all of it is there.
func (db *DB) put(ctx context.Context, s *store.Staged) error {
	id := s.Meta.ULID
	// The server remembers for a while which inserts it has had, and for a block
	// that was staged under this process and not tried before that is long enough.
	db.mu.Lock()
	careful := db.tried[id] || ulid.Time(id.Time()).Before(db.opened)
	if db.watching > 0 {
		db.mine[id] = db.opt.Now()
	}
	db.mu.Unlock()
	p := &putting{db: db, meta: &s.Meta, dir: s.Dir, files: map[string]vfs.File{}}
	err := p.run(ctx, careful)
	for _, f := range p.files {
		err = errors.Join(err, f.Close())
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if err != nil {
		db.tried[id] = true
		return fmt.Errorf("clickhouse: put block %s: %w", id, err)
	}
	delete(db.tried, id)
	db.stats.Blocks++
	db.stats.Profiles += int64(s.Meta.Profiles)
	db.stats.Bytes += s.Meta.Bytes()
	return nil
}

// putting is a block on its way.
type putting struct {
	db    *DB
	meta  *block.Meta
	dir   string
	files map[string]vfs.File
}

// run sends the tables in an order in which nothing refers to what is not there yet.
func (p *putting) run(ctx context.Context, careful bool) error {
	bySample, byProfile, err := p.nth(ctx)
	if err != nil {
		return err
	}
	steps := []insert{p.series(), p.frames(), p.stacks(), p.samples(bySample), p.functions(), p.profiles(byProfile)}
	if _, ok := p.meta.Files[block.LabelsFile]; ok {
		steps = slices.Insert(steps, 0, p.labelSets())
	}
	for _, in := range append(steps, p.record()) {
		if err := p.send(ctx, in, careful); err != nil {
			return fmt.Errorf("table %s: %w", in.into, err)
		}
	}
	return nil
}

// insert is what one table gets of a block.
type insert struct {
	into  string
	sql   string   // after INSERT INTO
	files []string // of the block, that sql reads
	more  []table
	rows  int64 // that there must be of the block afterwards; less than 0: equal rows are one, and do not count
	when  string
	whose string // selects service and when of each row of files
	lasts string // which rows are counted; "": all
}

func (p *putting) send(ctx context.Context, in insert, careful bool) error {
	token := p.meta.ULID.String() + "/" + in.into
	if !careful || in.rows < 0 {
		return p.insert(ctx, in, token)
	}
	in, err := p.lasting(ctx, in, time.Now())
	if err != nil {
		return err
	}
	// The first insert has the token that one before it had, which may be under way on the server still, so that of the two one counts.
	const tries = 3
	for try := range tries {
		n, err := p.count(ctx, in)
		if err != nil || n == in.rows {
			return err
		}
		if n != 0 || in.lasts != "" { // what is let go of may be there though nothing else is
			if err := p.remove(ctx, in); err != nil {
				return err
			}
		}
		if n != 0 || in.lasts != "" || try > 0 {
			// What the server remembers under the old token is not there any more.
			token = p.meta.ULID.String() + "/" + in.into + "/" + strconv.FormatInt(time.Now().UnixNano(), 36)
		}
		if err := p.insert(ctx, in, token); err != nil {
			return err
		}
	}
	switch n, err := p.count(ctx, in); {
	case err != nil:
		return err
	case n != in.rows:
		return fmt.Errorf("%w: %d rows are there after %d inserts of %d", store.ErrUnavailable, n, tries, in.rows)
	}
	return nil
}

// settle is how long ClickHouse's clock and ours may differ, and a block take.
const settle = time.Hour

// lasting is in with only those rows counted that ClickHouse keeps until it is long done: a merge may take the others
// at any time, and of a block that is late by more than the retention none may ever be found.
func (p *putting) lasting(ctx context.Context, in insert, now time.Time) (insert, error) {
	opt := &p.db.opt
	soonest := opt.Retention
	for _, k := range opt.Keep {
		if k.For >= 0 && (soonest < 0 || k.For < soonest) {
			soonest = k.For
		}
	}
	now = now.Add(settle)
	if soonest < 0 || p.meta.Partition.Add(soonest).After(now) {
		return in, nil
	}
	in.lasts = fmt.Sprintf("%s > toDateTime(%d, 'UTC')", lives(tableNamed(in.into), opt.Retention, opt.Keep), now.Unix())
	st := statement{sql: fmt.Sprintf("SELECT toInt64(count()) FROM (SELECT %s AS tenant, * FROM (%s)) WHERE %s", quote(p.meta.Tenant), in.whose, in.lasts),
		tables: []table{p.seriesTable()}, settings: p.db.target.ask, read: true}
	for _, name := range in.files {
		t, err := p.table(ctx, name)
		if err != nil {
			return in, err
		}
		st.tables = append(st.tables, t)
	}
	var err error
	in.rows, err = p.db.number(ctx, st)
	return in, err
}

func (p *putting) insert(ctx context.Context, in insert, token string) error {
	st := statement{sql: "INSERT INTO " + in.into + " " + in.sql, tables: in.more, settings: append(insertSettings(token), p.db.target.insert...)}
	for _, name := range in.files {
		t, err := p.table(ctx, name)
		if err != nil {
			return err
		}
		st.tables = append(st.tables, t)
	}
	return p.db.http.exec(ctx, st)
}

// insertSettings make an insert one that can be repeated: read in one order, kept once, whole on
// all shards when the answer comes.
func insertSettings(token string) []setting {
	return []setting{{"insert_deduplicate", "1"}, {"insert_deduplication_token", token}, {"async_insert", "0"}, {"max_threads", "1"}, {"max_insert_threads", "1"},
		{"input_format_parquet_preserve_order", "1"}, {"distributed_foreground_insert", "1"}, {"min_insert_block_size_rows", "1048576"}, {"min_insert_block_size_bytes", "0"}}
}

func (p *putting) where(in insert) string {
	return fmt.Sprintf("tenant = %s AND %s >= %s AND %s < %s AND block = %s", quote(p.meta.Tenant), in.when, instant(p.meta.Partition.UnixNano()),
		in.when, instant(p.meta.Partition.Add(p.meta.Span()).UnixNano()), quote(p.meta.ULID.String()))
}

func (p *putting) count(ctx context.Context, in insert) (int64, error) {
	sql := "SELECT toInt64(count()) FROM " + in.into + " WHERE " + p.where(in)
	if in.lasts != "" {
		sql += " AND " + in.lasts
	}
	return p.db.number(ctx, statement{sql: sql, settings: p.db.target.ask, read: true})
}

// number is the one number that a statement answers.
func (db *DB) number(ctx context.Context, st statement) (n int64, err error) {
	rs, err := db.http.ask(ctx, st, "Int64")
	if err != nil {
		return 0, err
	}
	if rs.next() {
		n = rs.int64()
	}
	return n, rs.close()
}

func (p *putting) remove(ctx context.Context, in insert) error {
	t := p.db.target
	return p.db.http.exec(ctx, statement{sql: "DELETE FROM " + t.local(in.into) + t.onCluster() + " WHERE " + p.where(in), settings: []setting{{"mutations_sync", "2"}, {"lightweight_deletes_sync", "2"}}})
}

// structures of the block's files, as docs/format/block.md draws them.
var structures = map[string]string{
	block.ProfilesFile: "type String, service String, series UInt32, time DateTime64(9, 'UTC'), end_time DateTime64(9, 'UTC'), duration Int64, period Int64, total Int64, id FixedString(16), rows Int64",
	block.SamplesFile:  "type String, service String, series UInt32, time DateTime64(9, 'UTC'), labels UInt32, stack UInt32, value Int64",
	block.StacksFile:   "stack UInt32, parent UInt32, location UInt32, id UInt64",
	block.FramesFile: "location UInt32, depth Int32, function String, system_name String, file String, start_line Int64, line Int64, `column` Int64, address UInt64, mapping String, build_id String" +
		", folded Bool",
	block.LabelsFile:    "labels UInt32, key String, value String, number Int64, unit String",
	block.FunctionsFile: "type String, function String, series UInt32, minute DateTime64(9, 'UTC'), self Int64, cumulative Int64, samples Int64",
}

// nameOf is what statements call a file: _samples.
func nameOf(file string) string { return "_" + strings.TrimSuffix(file, ".parquet") }

// table is a file of the block, as it is; it is held to its checksum first.
func (p *putting) table(ctx context.Context, name string) (table, error) {
	want := p.meta.Files[name]
	f, ok := p.files[name]
	if !ok {
		var err error
		if f, err = p.db.opt.FS.Open(filepath.Join(p.dir, name)); err != nil {
			return table{}, err
		}
		p.files[name] = f
		sum := xxh3.New()
		n, err := io.Copy(sum, io.NewSectionReader(f, 0, want.Bytes+1))
		if err != nil {
			return table{}, err
		}
		if n != want.Bytes || block.FormatID(sum.Sum128()) != want.XXH3 {
			return table{}, fmt.Errorf("%w: %s: its bytes are not those that meta.json speaks of", store.ErrCorrupt, filepath.Join(p.dir, name))
		}
	}
	return table{name: nameOf(name), format: "Parquet", structure: structures[name], size: want.Bytes,
		open: func() io.Reader { return io.NewSectionReader(f, 0, want.Bytes) }}, ctx.Err()
}

// numbered is an array expression of a column of a table, by another that counts from first; in front is what
// number 0 is where that is not in the table.
func numbered(column, from, by string, first int) string {
	a := fmt.Sprintf("(SELECT groupArray(x) FROM (SELECT %s AS x FROM %s ORDER BY %s))", column, from, by)
	if first == 1 {
		a = "arrayConcat([toUInt64(0)], " + a + ")"
	}
	return a
}

// The identities of a location and of a label set: a hash of all that they are. Rows are sorted, so that it is the same on
// any number of threads.
const (
	locationRows = "SELECT location, arraySort(groupArray((depth, function, system_name, file, start_line, line, `column`, address, mapping, build_id, toUInt8(folded)))) AS f FROM _frames GROUP BY location"
	labelRows    = "SELECT labels, arraySort(groupArray((key, value, number, unit))) AS f FROM _labels GROUP BY labels"
)

// seriesTable is the block's series, by number, in RowBinary.
func (p *putting) seriesTable() table {
	var b bytes.Buffer
	text := func(s string) {
		b.Write(binary.AppendUvarint(nil, uint64(len(s))))
		b.WriteString(s)
	}
	texts := func(n int, at func(int) string) {
		b.Write(binary.AppendUvarint(nil, uint64(n)))
		for i := range n {
			text(at(i))
		}
	}
	for i, s := range p.meta.Series {
		b.Write(binary.LittleEndian.AppendUint32(nil, uint32(i)))
		b.Write(binary.LittleEndian.AppendUint64(nil, store.SeriesHash(s.Name, s.Labels)))
		text(s.Labels.Get(serviceOf))
		text(s.Name)
		texts(len(s.Labels), func(i int) string { return s.Labels[i].Name })
		texts(len(s.Labels), func(i int) string { return s.Labels[i].Value })
	}
	return table{name: "_series", format: "RowBinary", structure: "n UInt32, series UInt64, service String, name String, label Array(String), value Array(String)",
		size: int64(b.Len()), open: func() io.Reader { return bytes.NewReader(b.Bytes()) }}
}

func (p *putting) series() insert {
	return insert{into: "series", rows: -1, more: []table{p.seriesTable()},
		sql: fmt.Sprintf("(tenant, series, day, name, label, value) SELECT %s, series, %s, name, label, value FROM _series", quote(p.meta.Tenant), dayOf(p.meta.Partition))}
}

func (p *putting) frames() insert {
	return insert{into: "frames", rows: -1, files: []string{block.FramesFile},
		sql: fmt.Sprintf("(tenant, location, day, function, system_name, file, start_line, line, `column`, address, mapping, build_id, folded)"+
			" SELECT %s, cityHash64(f), %s, lines.2, lines.3, lines.4, lines.5, lines.6, lines.7, f[1].8, f[1].9, f[1].10, f[1].11"+
			" FROM (SELECT f, arrayFilter(x -> x.1 >= 0, f) AS lines FROM (%s))", quote(p.meta.Tenant), dayOf(p.meta.Partition), locationRows)}
}

func (p *putting) labelSets() insert {
	return insert{into: "label_sets", rows: -1, files: []string{block.LabelsFile},
		sql: fmt.Sprintf("(tenant, labels, day, key, value, number, unit) SELECT %s, cityHash64(f), %s, f.1, f.2, f.3, f.4 FROM (%s)",
			quote(p.meta.Tenant), dayOf(p.meta.Partition), labelRows)}
}

// pathLength is how many frames of a stack a row of stacks has: up is the stack above those.
const pathLength = 16

// stacks: each with the locations of its innermost frames, found by going up the block's
// tree of callers, all stacks a step at a time.
func (p *putting) stacks() insert {
	var steps, path, length []string
	for i := range pathLength {
		if i > 0 {
			steps = append(steps, fmt.Sprintf("parent_of[a%d + 1] AS a%d", i, i+1))
		}
		path = append(path, fmt.Sprintf("location_of[a%d + 1]", i))
		length = append(length, fmt.Sprintf("(a%d != 0)", i))
	}
	return insert{into: "stacks", rows: -1, files: []string{block.StacksFile, block.FramesFile},
		sql: fmt.Sprintf("(tenant, id, day, up, path) WITH %s AS hash_of, %s AS parent_of, %s AS id_of, %s AS location_of"+
			" SELECT %s, id, %s, id_of[a%d + 1], arrayResize([%s], %s) FROM (SELECT id, stack AS a0, parent AS a1, %s FROM _stacks)",
			numbered("cityHash64(f)", "("+locationRows+")", "location", 0), numbered("parent", "_stacks", "stack", 1), numbered("id", "_stacks", "stack", 1),
			numbered("hash_of[location + 1]", "_stacks", "stack", 1),
			quote(p.meta.Tenant), dayOf(p.meta.Partition), pathLength, strings.Join(path, ", "), strings.Join(length, " + "), strings.Join(steps, ", "))}
}

func (p *putting) samples(nth []table) insert {
	files, sets := []string{block.SamplesFile, block.StacksFile}, "[toUInt64(0)]"
	if _, ok := p.meta.Files[block.LabelsFile]; ok {
		files, sets = append(files, block.LabelsFile), numbered("cityHash64(f)", "("+labelRows+")", "labels", 1)
	}
	return insert{into: "samples", rows: p.meta.Samples, when: "time", whose: "SELECT service, time FROM _samples", files: files, more: append([]table{p.seriesTable()}, nth...),
		sql: fmt.Sprintf("(tenant, type, service, series, time, nth, labels, stack, value, block) WITH %s AS series_of, %s AS stack_of, %s AS set_of"+
			" SELECT %s, type, service, series_of[series + 1], time, nth, set_of[labels + 1], stack_of[stack + 1], value, %s FROM %s",
			numbered("series", "_series", "n", 0), numbered("id", "_stacks", "stack", 1), sets, quote(p.meta.Tenant), quote(p.meta.ULID.String()), fromNth("_samples", nth))}
}

func (p *putting) functions() insert {
	return insert{into: "functions", rows: p.meta.Files[block.FunctionsFile].Rows, when: "minute", whose: "SELECT s.service AS service, minute FROM _functions AS f JOIN _series AS s ON f.series = s.n", files: []string{block.FunctionsFile}, more: []table{p.seriesTable()},
		sql: fmt.Sprintf("(tenant, type, function, service, series, minute, self, cumulative, samples, block) WITH %s AS series_of, %s AS service_of"+
			" SELECT %s, type, function, service_of[series + 1], series_of[series + 1], minute, self, cumulative, samples, %s FROM _functions",
			numbered("series", "_series", "n", 0), numbered("service", "_series", "n", 0), quote(p.meta.Tenant), quote(p.meta.ULID.String()))}
}

func (p *putting) profiles(nth []table) insert {
	return insert{into: "profiles", rows: p.meta.Files[block.ProfilesFile].Rows, when: "time", whose: "SELECT service, time FROM _profiles", files: []string{block.ProfilesFile}, more: append([]table{p.seriesTable()}, nth...),
		sql: fmt.Sprintf("(tenant, type, service, series, time, end_time, nth, duration, period, total, samples, id, block) WITH %s AS series_of"+
			" SELECT %s, type, service, series_of[series + 1], time, end_time, nth, duration, period, total, rows, id, %s FROM %s",
			numbered("series", "_series", "n", 0), quote(p.meta.Tenant), quote(p.meta.ULID.String()), fromNth("_profiles", nth))}
}

// record is the last: from now on the block is asked.
func (p *putting) record() insert {
	m := p.meta
	return insert{into: "blocks", rows: -1,
		sql: fmt.Sprintf("(tenant, block, region, level, partition, first, last, profiles, samples, sources, created) SELECT %s, %s, %s, %d, %s, %s, %s, %d, %d, %s, fromUnixTimestamp64Milli(toInt64(%d), 'UTC')",
			quote(m.Tenant), quote(m.ULID.String()), quote(m.Region), m.Level, instant(m.Partition.UnixNano()), instant(m.From.UnixNano()), instant(m.To.UnixNano()), m.Profiles, m.Samples,
			sourcesOf(m), m.Created.UnixMilli())}
}

func sourcesOf(m *block.Meta) string {
	ids := make([]string, len(m.Sources))
	for i, id := range m.Sources {
		ids[i] = quote(id.String())
	}
	return "CAST([" + strings.Join(ids, ",") + "], 'Array(String)')"
}

// instant is a time in Unix nanoseconds as a literal.
func instant(ns int64) string {
	return "fromUnixTimestamp64Nano(toInt64(" + strconv.FormatInt(ns, 10) + "), 'UTC')"
}

// minTime and maxTime are the bounds of DateTime64(9).
var minTime, maxTime = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano(), time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()

// nth are tables that tell profiles of one series, type and start from each other, by row of samples.parquet and of
// profiles.parquet: nil nearly always. Two senders that name themselves alike make them.
func (p *putting) nth(ctx context.Context) (samples, profiles []table, err error) {
	r, err := block.Open(ctx, *p.meta, block.DirSource(p.db.opt.FS, p.dir))
	if err != nil {
		return nil, nil, err
	}
	var bySample, byProfile []byte
	row, any := uint64(0), false
	for typ := range p.meta.Types {
		c, err := r.Profiles(ctx, []uint32{uint32(typ)})
		if err != nil {
			return nil, nil, err
		}
		k := uint32(0)
		for i := range c.Len() { // they are in order
			if k++; i == 0 || c.Series[i] != c.Series[i-1] || c.From[i] != c.From[i-1] {
				k = 0
			}
			any = any || k > 0
			byProfile = appendNth(byProfile, row, k)
			if c.N[i] > 0 {
				bySample = appendNth(bySample, uint64(c.First[i]), k)
			}
			row++
		}
	}
	if !any {
		return nil, nil, nil
	}
	return []table{nthTable(bySample)}, []table{nthTable(byProfile)}, nil
}

func appendNth(b []byte, row uint64, nth uint32) []byte {
	b = append(b, 1)
	b = binary.LittleEndian.AppendUint64(b, row)
	return binary.LittleEndian.AppendUint32(b, nth)
}

func nthTable(b []byte) table {
	return table{name: "_nth", format: "RowBinary", structure: "one UInt8, row UInt64, nth UInt32", size: int64(len(b)), open: func() io.Reader { return bytes.NewReader(b) }}
}

// fromNth is what to select from where rows of file need nth: it is read by one thread, in order, so that rows can be
// numbered, and each row has the nth of the last profile that begins at or before it.
func fromNth(file string, nth []table) string {
	if nth == nil {
		return "(SELECT *, 0 AS nth FROM " + file + ")"
	}
	return "(SELECT s.*, n.nth AS nth FROM (SELECT *, toUInt8(1) AS one, rowNumberInAllBlocks() AS row FROM " + file + ") AS s ASOF LEFT JOIN _nth AS n ON s.one = n.one AND s.row >= n.row)"
}
