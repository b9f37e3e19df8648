package clickhouse

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

// dictionaries keep what identities mean, by tenant, for the questions that come next: an identity is a hash of
// what it stands for, so what is kept never goes stale. Memory is bounded by forgetting the
// tenants that were asked about longest ago.
type dictionaries struct {
	limit int64

	mu      sync.Mutex
	tenants map[string]*dictionary
	clock   int64
}

// dictionary is one tenant's.
type dictionary struct {
	mu      sync.Mutex
	dict    *block.Dict
	stackOf map[uint64]uint32
	setOf   map[uint64]uint32
	series  map[uint64]*block.Series
	text    int64 // bytes of series
	used    int64 // clock of dictionaries when it was last asked for; under their lock
}

func newDictionaries(limit int64) *dictionaries {
	return &dictionaries{limit: limit, tenants: map[string]*dictionary{}}
}

func newDictionary() *dictionary {
	return &dictionary{dict: block.NewDict(), stackOf: map[uint64]uint32{0: 0}, setOf: map[uint64]uint32{0: 0}, series: map[uint64]*block.Series{}}
}

// Bytes that an entry takes beside what block.Dict counts.
const (
	indexBytes  = 40
	seriesBytes = 200
)

func (d *dictionary) bytes() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dict.Bytes() + d.text + int64(len(d.stackOf)+len(d.setOf))*indexBytes
}

// bytes is what all of them take.
func (ds *dictionaries) bytes() (n int64) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, d := range ds.tenants {
		n += d.bytes()
	}
	return n
}

// of is the tenant's dictionary.
func (ds *dictionaries) of(tenant string) *dictionary {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	d := ds.tenants[tenant]
	if d == nil {
		d = newDictionary()
		ds.tenants[tenant] = d
	}
	ds.clock++
	d.used = ds.clock
	return d
}

// trim forgets until what is kept is within the limit.
func (ds *dictionaries) trim() {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	total := int64(0)
	byAge := slices.SortedFunc(maps.Keys(ds.tenants), func(a, b string) int { return int(ds.tenants[a].used - ds.tenants[b].used) })
	for _, tenant := range byAge {
		total += ds.tenants[tenant].bytes()
	}
	for _, tenant := range byAge {
		if total <= ds.limit {
			return
		}
		total -= ds.tenants[tenant].bytes()
		delete(ds.tenants, tenant)
	}
}

// missing is those of ids that m does not have.
func missing[V any](m map[uint64]V, ids []uint64) []uint64 {
	var out []uint64
	for _, id := range ids {
		if _, ok := m[id]; !ok {
			out = append(out, id)
		}
	}
	return out
}

// perStatement is how many identities one statement names.
const perStatement = 20_000

// resolved is what a question's identities are, in tables that do not change.
type resolved struct {
	block.Tables
	stacks, sets []uint32 // of each identity that was asked for; 0 if nothing is known of it
}

// resolve finds out what stacks and label sets are. memory hears of bytes that it takes on the way.
func (s *scope) resolve(ctx context.Context, stacks, sets []uint64, memory func(int64) error) (*resolved, error) {
	d := s.db.names.of(s.plan.Tenant)
	defer s.db.names.trim()
	d.mu.Lock()
	noStacks, noSets := missing(d.stackOf, stacks), missing(d.setOf, sets)
	d.mu.Unlock()
	f := &fetched{s: s, memory: memory, rows: map[uint64]pathRow{}, locationOf: map[uint64]uint32{}, nodeOf: map[uint64]uint32{0: 0}, strings: map[string]uint32{"": 0},
		mappings: map[profile.Mapping]uint32{{}: 0}, functions: map[profile.Function]uint32{},
		t: block.Tables{Strings: []string{""}, Mappings: []profile.Mapping{{}}, Stacks: profile.Stacks{Parent: []uint32{0}, Loc: []uint32{0}}, LabelSets: [][]profile.SampleLabel{nil}}}
	if err := f.stacks(ctx, noStacks); err != nil {
		return nil, err
	}
	gotSets, err := f.labelSets(ctx, noSets)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now, nowSets := d.dict.Add(&f.t, nil, nil)
	unknown, wrong := 0, 0
	for _, id := range noStacks {
		switch n, ok := f.nodeOf[id]; {
		case !ok:
			unknown++
		case d.dict.StackIDs[now[n]] != id:
			wrong++
		default:
			d.stackOf[id] = now[n]
		}
	}
	for id, n := range gotSets {
		d.setOf[id] = nowSets[n]
	}
	if unknown > 0 {
		s.db.note(fmt.Sprintf("The frames of %d stacks of tenant %s are not in clickhouse at %s: their values are counted without frames.", unknown, s.plan.Tenant, s.db.target))
	}
	if wrong > 0 {
		s.db.note(fmt.Sprintf("The frames of %d stacks of tenant %s in clickhouse at %s are not those that were written: their values are counted without frames.", wrong, s.plan.Tenant, s.db.target))
	}
	r := &resolved{Tables: d.dict.Tables, stacks: make([]uint32, len(stacks)), sets: make([]uint32, len(sets))}
	for i, id := range stacks {
		r.stacks[i] = d.stackOf[id]
	}
	for i, id := range sets {
		n, ok := d.setOf[id]
		if !ok {
			return nil, fmt.Errorf("clickhouse: %w: a set of sample labels, %016x, is not in table label_sets", store.ErrCorrupt, id)
		}
		r.sets[i] = n
	}
	return r, nil
}

// pathRow is a row of stacks: the innermost frames, and the stack above them.
type pathRow struct {
	up   uint64
	path []uint64
}

// fetched builds tables of what was not known.
type fetched struct {
	s          *scope
	memory     func(int64) error
	rows       map[uint64]pathRow
	locationOf map[uint64]uint32
	nodeOf     map[uint64]uint32
	index      block.PairIndex
	strings    map[string]uint32
	mappings   map[profile.Mapping]uint32
	functions  map[profile.Function]uint32
	t          block.Tables
}

// What a row takes while it is on its way, about.
const (
	pathBytes  = 300
	frameBytes = 300
)

// maxRounds bounds how often more of the same stacks is asked for: the deepest stack that a profile may have.
const maxRounds = 4096/pathLength + 1

// stacks fetches paths until they all reach the root, then what their locations are.
func (f *fetched) stacks(ctx context.Context, ids []uint64) error {
	want := ids
	for range maxRounds {
		if len(want) == 0 {
			break
		}
		var ups []uint64
		for chunk := range slices.Chunk(want, perStatement) {
			if err := f.paths(ctx, chunk, &ups); err != nil {
				return err
			}
		}
		slices.Sort(ups)
		want = want[:0:0]
		for _, id := range slices.Compact(ups) {
			if _, ok := f.rows[id]; !ok && id != 0 {
				want = append(want, id)
			}
		}
	}
	var locations []uint64
	seen := map[uint64]bool{}
	for _, r := range f.rows {
		for _, l := range r.path {
			if !seen[l] {
				seen[l] = true
				locations = append(locations, l)
			}
		}
	}
	slices.Sort(locations) // the answer does not depend on the order of a map
	for chunk := range slices.Chunk(locations, perStatement) {
		if err := f.frames(ctx, chunk); err != nil {
			return err
		}
	}
	for _, id := range ids {
		f.node(id)
	}
	return nil
}

func (f *fetched) paths(ctx context.Context, ids []uint64, ups *[]uint64) error {
	if err := f.memory(int64(len(ids)) * pathBytes); err != nil {
		return err
	}
	rs, err := f.s.db.ask(ctx, fmt.Sprintf("SELECT id, up, path FROM stacks WHERE %s AND id IN %s LIMIT 1 BY id", f.s.days(), list(ids, number)), "UInt64", "UInt64", "Array(UInt64)")
	if err != nil {
		return err
	}
	for rs.next() {
		id := rs.uint64()
		r := pathRow{rs.uint64(), array(rs, rs.uint64)}
		f.rows[id] = r
		*ups = append(*ups, r.up)
	}
	return rs.close()
}

// node is the stack in the tables that are being built, made if all is known of it.
func (f *fetched) node(id uint64) (uint32, bool) {
	// The rows from here up to one that is a node already, without recursion: stacks may be deep.
	var chain []uint64
	at := id
	for {
		if _, ok := f.nodeOf[at]; ok {
			break
		}
		r, ok := f.rows[at]
		if !ok || len(r.path) == 0 || len(chain) > maxRounds {
			return 0, false
		}
		chain = append(chain, at)
		at = r.up
	}
	n := f.nodeOf[at]
	for _, at := range slices.Backward(chain) {
		for _, hash := range slices.Backward(f.rows[at].path) {
			loc, ok := f.locationOf[hash]
			if !ok {
				return 0, false
			}
			next, fresh := f.index.Get(uint64(n)<<32|uint64(loc), uint32(f.t.Stacks.Len()))
			if fresh {
				f.t.Stacks.Parent = append(f.t.Stacks.Parent, n)
				f.t.Stacks.Loc = append(f.t.Stacks.Loc, loc)
			}
			n = next
		}
		f.nodeOf[at] = n
	}
	return n, true
}

func (f *fetched) frames(ctx context.Context, locations []uint64) error {
	if err := f.memory(int64(len(locations)) * frameBytes); err != nil {
		return err
	}
	rs, err := f.s.db.ask(ctx, fmt.Sprintf("SELECT location, function, system_name, file, start_line, line, `column`, address, mapping, build_id, toUInt64(folded) FROM frames WHERE %s AND location IN %s LIMIT 1 BY location",
		f.s.days(), list(locations, number)),
		"UInt64", "Array(String)", "Array(String)", "Array(String)", "Array(Int64)", "Array(Int64)", "Array(Int64)", "UInt64", "String", "String", "UInt64")
	if err != nil {
		return err
	}
	for rs.next() {
		hash := rs.uint64()
		names, systems, files := array(rs, rs.text), array(rs, rs.text), array(rs, rs.text)
		starts, lines, columns := array(rs, rs.int64), array(rs, rs.int64), array(rs, rs.int64)
		l := profile.Location{Address: rs.uint64(), FirstLine: uint32(len(f.t.Lines)), NumLines: uint32(len(names))}
		m := profile.Mapping{File: f.string(rs.text()), BuildID: f.string(rs.text())}
		l.Folded = rs.uint64() != 0
		if rs.err != nil {
			break
		}
		if n := len(names); len(systems) != n || len(files) != n || len(starts) != n || len(lines) != n || len(columns) != n {
			rs.fail(fmt.Errorf("location %016x has columns of different lengths", hash))
			break
		}
		l.Mapping = number32(f.mappings, m, &f.t.Mappings)
		for i := range names {
			fn := profile.Function{Name: f.string(names[i]), SystemName: f.string(systems[i]), File: f.string(files[i]), StartLine: starts[i]}
			f.t.Lines = append(f.t.Lines, profile.Line{Function: number32(f.functions, fn, &f.t.Functions), Line: lines[i], Column: columns[i]})
		}
		f.locationOf[hash] = uint32(len(f.t.Locations))
		f.t.Locations = append(f.t.Locations, l)
	}
	return rs.close()
}

// number32 is x's place in all, at the end if it is new.
func number32[T comparable](of map[T]uint32, x T, all *[]T) uint32 {
	n, ok := of[x]
	if !ok {
		n = uint32(len(*all))
		*all = append(*all, x)
		of[x] = n
	}
	return n
}

func (f *fetched) string(s string) uint32 { return number32(f.strings, s, &f.t.Strings) }

// labelSets gives the numbers of the sets that it found.
func (f *fetched) labelSets(ctx context.Context, ids []uint64) (map[uint64]uint32, error) {
	found := map[uint64]uint32{}
	for chunk := range slices.Chunk(ids, perStatement) {
		if err := f.memory(int64(len(chunk)) * frameBytes); err != nil {
			return nil, err
		}
		rs, err := f.s.db.ask(ctx, fmt.Sprintf("SELECT labels, key, value, number, unit FROM label_sets WHERE %s AND labels IN %s LIMIT 1 BY labels", f.s.days(), list(chunk, number)),
			"UInt64", "Array(String)", "Array(String)", "Array(Int64)", "Array(String)")
		if err != nil {
			return nil, err
		}
		for rs.next() {
			id := rs.uint64()
			keys, values, numbers, units := array(rs, rs.text), array(rs, rs.text), array(rs, rs.int64), array(rs, rs.text)
			if n := len(keys); rs.err == nil && (n == 0 || len(values) != n || len(numbers) != n || len(units) != n) {
				rs.fail(fmt.Errorf("label set %016x has columns of different lengths", id))
			}
			if rs.err != nil {
				break
			}
			set := make([]profile.SampleLabel, len(keys))
			for i := range keys {
				set[i] = profile.SampleLabel{Key: f.string(keys[i]), Str: f.string(values[i]), Num: numbers[i], Unit: f.string(units[i])}
			}
			found[id] = uint32(len(f.t.LabelSets))
			f.t.LabelSets = append(f.t.LabelSets, set)
		}
		if err := rs.close(); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// seriesOf is what series are. All must be there: a question without them would not know whose profiles it counts.
func (s *scope) seriesOf(ctx context.Context, ids []uint64) (map[uint64]*block.Series, error) {
	d := s.db.names.of(s.plan.Tenant)
	defer s.db.names.trim()
	d.mu.Lock()
	no := missing(d.series, ids)
	d.mu.Unlock()
	got := map[uint64]*block.Series{}
	for chunk := range slices.Chunk(no, perStatement) {
		rs, err := s.db.ask(ctx, fmt.Sprintf("SELECT series, name, label, value FROM series WHERE %s AND series IN %s LIMIT 1 BY series", s.days(), list(chunk, number)),
			"UInt64", "String", "Array(String)", "Array(String)")
		if err != nil {
			return nil, err
		}
		for rs.next() {
			id, name, names, values := rs.uint64(), rs.text(), array(rs, rs.text), array(rs, rs.text)
			if rs.err != nil {
				break
			}
			x := &block.Series{Name: name, Labels: make(profile.Labels, 0, len(names))}
			for i := range min(len(names), len(values)) {
				x.Labels = append(x.Labels, profile.Label{Name: names[i], Value: values[i]})
			}
			if len(names) == len(values) && store.SeriesHash(x.Name, x.Labels) == id {
				got[id] = x
			}
		}
		if err := rs.close(); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, x := range got {
		if _, ok := d.series[id]; !ok {
			d.series[id] = x
			d.text += seriesBytes
			for _, l := range x.Labels {
				d.text += int64(len(l.Name)+len(l.Value)) + 32
			}
		}
	}
	out := make(map[uint64]*block.Series, len(ids))
	for _, id := range ids {
		x, ok := d.series[id]
		if !ok {
			return nil, fmt.Errorf("clickhouse: %w: the labels of a series, %016x, are not in table series", store.ErrCorrupt, id)
		}
		out[id] = x
	}
	return out, nil
}
