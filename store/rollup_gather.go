package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"sync"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// RollupPart is what one source (a block, a generation of the head) has to say to a [RollupQuery]: rows of one group
// and function, packed. It is made by one goroutine, and not changed once it is Done: then it may be kept, and added to
// the answers of many questions whose range has all of it.
type RollupPart struct {
	width int64 // of a column, nanoseconds
	base  int64 // number of its first column, counted from 1970
	steps int
	names []string
	byFn  map[string]uint32
	group []rollupSums
	byGrp map[string]int
	rows  []rollupRow
	buf   []byte

	// While it is made:
	g       *RollupGather
	taken   int64 // of g's memory
	cells   []rollupCell
	sorted  bool        // cells are in the order of functions
	scratch [][]selfCum // by group: by column
	touched []touchedGroup
}

// rollupSums is what a group has beside functions.
type rollupSums struct {
	labels    profile.Labels
	total     []int64
	profiles  []int
	instances map[string][]uint64 // by instance: a bit for each column
}

// rollupRow is a row in buf: of a group and function, some columns. A group and function may have several.
type rollupRow struct {
	fn, group uint32
	off       uint32
	sum       int64 // of cumulative
}

// rollupCell is a value on its way.
type rollupCell struct {
	fn, group  uint32
	step       int32
	self, full int64
}

type selfCum struct{ self, full int64 }

type touchedGroup struct {
	group  uint32
	lo, hi int32 // of the columns touched
}

const (
	rollupCellBytes = 32
	rollupRowBytes  = 24
	rollupNameBytes = 80      // of a name with its place in an index, without its text
	maxRollupCells  = 1 << 19 // before they are packed
	maxRollupBuf    = 1 << 30
)

// Part begins a part that covers windows which start in [from, to), Unix nanoseconds. Close must be called.
func (g *RollupGather) Part(from, to int64) *RollupPart {
	p := &RollupPart{width: g.width, base: align(from, g.width) / g.width, byFn: map[string]uint32{}, byGrp: map[string]int{}, g: g, sorted: true}
	p.steps = int(align(to-1, g.width)/g.width - p.base + 1)
	return p
}

// Close gives up what making it took, if it is not Done.
func (p *RollupPart) Close() {
	if p.g != nil {
		p.g.Release(p.taken)
		p.g, p.taken, p.cells, p.scratch, p.touched = nil, 0, nil, nil, nil
	}
}

func (p *RollupPart) take(n int64) error {
	if err := p.g.Reserve(n); err != nil {
		return err
	}
	p.taken += n
	return nil
}

// step is the column of a time, of which there may be none.
func (p *RollupPart) step(at int64) int64 { return align(at, p.width)/p.width - p.base }

func (p *RollupPart) column(at int64) (int, error) {
	s := p.step(at)
	if s < 0 || s >= int64(p.steps) {
		return 0, fmt.Errorf("store: query: %w: a window at %v is out of its block's range", ErrCorrupt, time.Unix(0, at).UTC())
	}
	return int(s), nil
}

// Group is the number of the group with these labels.
func (p *RollupPart) Group(labels profile.Labels) (int, error) {
	k := labels.String()
	if n, ok := p.byGrp[k]; ok {
		return n, nil
	}
	if err := p.take(int64(16*p.steps + 200)); err != nil {
		return 0, err
	}
	n := len(p.group)
	p.byGrp[k] = n
	p.group = append(p.group, rollupSums{labels: labels, total: make([]int64, p.steps), profiles: make([]int, p.steps), instances: map[string][]uint64{}})
	return n, nil
}

// Profiles notes n profiles of an instance.
func (p *RollupPart) Profiles(group int, instance string, at int64, n int) error {
	i, err := p.column(at)
	if err != nil {
		return err
	}
	s := &p.group[group]
	s.profiles[i] += n
	seen := s.instances[instance]
	if seen == nil {
		seen = make([]uint64, (p.steps+63)/64)
		if err := p.take(int64(8*len(seen) + rollupNameBytes)); err != nil {
			return err
		}
		s.instances[instance] = seen
	}
	seen[i/64] |= 1 << (i % 64)
	return nil
}

// Total adds to the total.
func (p *RollupPart) Total(group int, at, v int64) error {
	i, err := p.column(at)
	if err == nil {
		p.group[group].total[i] += v
	}
	return err
}

// Function is the number of the function with this name.
func (p *RollupPart) Function(name string) (uint32, error) {
	if n, ok := p.byFn[name]; ok {
		return n, nil
	}
	if err := p.take(int64(rollupNameBytes + len(name))); err != nil {
		return 0, err
	}
	n := uint32(len(p.names))
	p.byFn[name] = n
	p.names = append(p.names, name)
	return n, nil
}

// Add adds values of a function. It is quickest where those of one function come together.
func (p *RollupPart) Add(fn uint32, group int, at, self, full int64) error {
	i, err := p.column(at)
	if err != nil || self == 0 && full == 0 {
		return err
	}
	if len(p.cells) == cap(p.cells) {
		if len(p.cells) >= maxRollupCells {
			if err := p.pack(); err != nil {
				return err
			}
		} else if err := p.grow(); err != nil {
			return err
		}
	}
	if n := len(p.cells); n > 0 && p.cells[n-1].fn > fn {
		p.sorted = false
	}
	p.cells = append(p.cells, rollupCell{fn, uint32(group), int32(i), self, full})
	return nil
}

// grow doubles the room for cells.
func (p *RollupPart) grow() error {
	n := max(1024, 2*cap(p.cells))
	if err := p.take(int64(n-cap(p.cells)) * rollupCellBytes); err != nil {
		return err
	}
	p.cells = append(make([]rollupCell, 0, n), p.cells...)
	return nil
}

// Done packs what is left, and gives up what making it took.
func (p *RollupPart) Done() error {
	err := p.pack()
	p.buf, p.rows = slices.Clip(p.buf), slices.Clip(p.rows)
	p.byFn, p.byGrp = nil, nil
	p.Close()
	return err
}

// Bytes is what it takes, about.
func (p *RollupPart) Bytes() int64 {
	n := int64(len(p.buf) + len(p.rows)*rollupRowBytes)
	for _, name := range p.names {
		n += int64(16 + len(name))
	}
	for i := range p.group {
		n += int64(200 + 16*p.steps + len(p.group[i].instances)*(rollupNameBytes+(p.steps+63)/64*8))
	}
	return n
}

// pack turns cells into rows. Those of one function, group and column become one.
func (p *RollupPart) pack() error {
	cells := p.cells
	if !p.sorted {
		if err := p.take(int64(len(cells)) * rollupCellBytes); err != nil {
			return err
		}
		defer func(n int64) { p.g.Release(n); p.taken -= n }(int64(len(cells)) * rollupCellBytes)
		cells = byFunction(cells, len(p.names))
	}
	before := cap(p.buf) + cap(p.rows)*rollupRowBytes
	for lo := 0; lo < len(cells); {
		hi := lo
		for ; hi < len(cells) && cells[hi].fn == cells[lo].fn; hi++ {
			if err := p.scatter(&cells[hi]); err != nil {
				return err
			}
		}
		p.rowsOf(cells[lo].fn)
		lo = hi
	}
	if len(p.buf) > maxRollupBuf {
		return fmt.Errorf("store: query: %w: one block's answer has more than %d MiB; narrow the range or the labels", ErrTooLarge, maxRollupBuf>>20)
	}
	p.cells, p.sorted = p.cells[:0], true
	return p.take(int64(cap(p.buf) + cap(p.rows)*rollupRowBytes - before))
}

// byFunction is the cells in the order of functions: a counting sort.
func byFunction(cells []rollupCell, functions int) []rollupCell {
	at := make([]uint32, functions+1)
	for i := range cells {
		at[cells[i].fn+1]++
	}
	for i := 1; i < len(at); i++ {
		at[i] += at[i-1]
	}
	out := make([]rollupCell, len(cells))
	for i := range cells {
		out[at[cells[i].fn]] = cells[i]
		at[cells[i].fn]++
	}
	return out
}

// scatter adds a cell to the columns of its group.
func (p *RollupPart) scatter(c *rollupCell) error {
	for len(p.scratch) <= int(c.group) {
		p.scratch = append(p.scratch, nil)
	}
	cols := p.scratch[c.group]
	if cols == nil {
		if err := p.take(int64(16 * p.steps)); err != nil {
			return err
		}
		cols = make([]selfCum, p.steps)
		p.scratch[c.group] = cols
	}
	cols[c.step].self += c.self
	cols[c.step].full += c.full
	if n := len(p.touched); n > 0 && p.touched[n-1].group == c.group {
		t := &p.touched[n-1]
		t.lo, t.hi = min(t.lo, c.step), max(t.hi, c.step)
	} else {
		p.touched = append(p.touched, touchedGroup{c.group, c.step, c.step})
	}
	return nil
}

// rowsOf writes the rows of what was scattered, and clears it. A group that was touched twice is cleared the first time.
func (p *RollupPart) rowsOf(fn uint32) {
	slices.SortFunc(p.touched, func(a, b touchedGroup) int { return cmp.Compare(a.group, b.group) })
	for i := 0; i < len(p.touched); {
		t := p.touched[i]
		for i++; i < len(p.touched) && p.touched[i].group == t.group; i++ {
			t.lo, t.hi = min(t.lo, p.touched[i].lo), max(t.hi, p.touched[i].hi)
		}
		off := len(p.buf)
		var sum int64
		p.buf, sum = appendCells(p.buf, p.scratch[t.group], int(t.lo), int(t.hi)+1)
		clear(p.scratch[t.group][t.lo : t.hi+1])
		if len(p.buf) > off {
			p.rows = append(p.rows, rollupRow{fn, t.group, uint32(off), sum})
		}
	}
	p.touched = p.touched[:0]
}

// appendCells writes columns [lo, hi):
//
//	uvarint count | uvarint unit | count x (uvarint column - previous column | varint self / unit | varint (cumulative - self) / unit)
//
// where unit divides all values, and columns without a value are left out: nothing if that is all. sum is of cumulative.
func appendCells(b []byte, cols []selfCum, lo, hi int) (_ []byte, sum int64) {
	n, unit := 0, uint64(0)
	for i := lo; i < hi; i++ {
		if c := &cols[i]; c.self != 0 || c.full != 0 {
			n++
			sum += c.full
			if unit != 1 {
				unit = common(common(unit, c.self), c.full)
			}
		}
	}
	if n == 0 {
		return b, 0
	}
	u := int64(unit)
	if u <= 0 { // 1<<63, of the least int64 alone
		u = 1
	}
	b = binary.AppendUvarint(b, uint64(n))
	b = binary.AppendUvarint(b, uint64(u))
	prev := 0
	for i := lo; i < hi; i++ {
		if c := &cols[i]; c.self != 0 || c.full != 0 {
			b = binary.AppendUvarint(b, uint64(i-prev))
			b = binary.AppendVarint(b, c.self/u)
			b = binary.AppendVarint(b, c.full/u-c.self/u)
			prev = i
		}
	}
	return b, sum
}

// common is the greatest common divisor of a and the size of v; 0 divides nothing.
func common(a uint64, v int64) uint64 {
	b := uint64(v)
	if v < 0 {
		b = -b
	}
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// eachCell reads what appendCells wrote.
func eachCell(b []byte, see func(column int, self, full int64)) {
	if len(b) == 0 {
		return
	}
	n, at := uvarint(b, 0)
	u, at := uvarint(b, at)
	unit, col := int64(u), 0
	for ; n > 0; n-- {
		var d, s, f uint64
		d, at = uvarint(b, at)
		s, at = uvarint(b, at)
		f, at = uvarint(b, at)
		col += int(d)
		self := unzigzag(s)
		see(col, self*unit, (self+unzigzag(f))*unit)
	}
}

// RollupGather adds up the parts of an answer to a [RollupQuery]. Its memory is accounted. All methods may be called by many
// goroutines.
type RollupGather struct {
	limit    int64
	width    int64
	base     int64 // number of the first column
	steps    int
	minShare float64

	mu    sync.Mutex
	used  int64
	names []string
	byFn  map[string]uint32
	group []rollupSums
	byGrp map[string]uint32
	parts []*RollupPart
	rows  []gatherRow
	held  int64 // of used, by parts and rows
	least int   // how many rows were left when parts were last made one
}

// gatherRow is a row of a part, in the answer's numbers.
type gatherRow struct {
	fn, group uint32
	part, off uint32
	sum       int64
}

// NewRollupGather may use so many bytes. The query is one that was checked.
func NewRollupGather(limit int64, p *Plan, q RollupQuery) *RollupGather {
	w := int64(q.Step)
	g := &RollupGather{limit: limit, width: w, base: align(p.From, w) / w, minShare: q.MinShare, byFn: map[string]uint32{}, byGrp: map[string]uint32{}}
	g.steps = int(align(p.To-1, w)/w - g.base + 1)
	return g
}

// Reserve takes n bytes of the answer's memory; [ErrTooLarge] if they are not to be had. Release gives them back.
func (g *RollupGather) Reserve(n int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reserve(n)
}

func (g *RollupGather) reserve(n int64) error {
	if g.used+n > g.limit {
		return g.tooLarge()
	}
	g.used += n
	return nil
}

func (g *RollupGather) tooLarge() error {
	return fmt.Errorf("store: query: %w: the roll-up needs more than %d MiB of memory; ask for a shorter range, a longer step or fewer groups or services, or raise --query-memory", ErrTooLarge, g.limit>>20)
}

// Release gives back what Reserve took.
func (g *RollupGather) Release(n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.used -= n
}

// Add adds a part that is Done. The part is kept until the answer is, and not changed.
func (g *RollupGather) Add(p *RollupPart) error {
	if p.width != g.width || p.base < g.base || p.base+int64(p.steps) > g.base+int64(g.steps) {
		return fmt.Errorf("store: query: %w: a part of columns %d to %d for an answer of %d to %d", ErrCorrupt, p.base, p.base+int64(p.steps), g.base, g.base+int64(g.steps))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.rows)+len(p.rows) > max(maxGatherRows, 2*g.least) {
		if err := g.merge(); err != nil {
			return err
		}
	}
	// The rows are there twice while they are sorted.
	if err := g.hold(p.Bytes() + int64(len(p.rows))*2*rollupRowBytes); err != nil {
		return err
	}
	groups, fns := make([]uint32, len(p.group)), make([]uint32, len(p.names))
	for i := range p.group {
		n, err := g.addGroup(&p.group[i], int(p.base-g.base))
		if err != nil {
			return err
		}
		groups[i] = n
	}
	for i, name := range p.names {
		n, ok := g.byFn[name]
		if !ok {
			if err := g.reserve(rollupNameBytes); err != nil {
				return err
			}
			n = uint32(len(g.names))
			g.byFn[name] = n
			g.names = append(g.names, name)
		}
		fns[i] = n
	}
	part := uint32(len(g.parts))
	g.parts = append(g.parts, p)
	g.rows = slices.Grow(g.rows, len(p.rows))
	for _, r := range p.rows {
		g.rows = append(g.rows, gatherRow{fns[r.fn], groups[r.group], part, r.off, r.sum})
	}
	return nil
}

// maxGatherRows is how many rows there may be before those of one group and function are made one: many small blocks have
// a row each of every function.
const maxGatherRows = 1 << 19

func (g *RollupGather) hold(n int64) error {
	if err := g.reserve(n); err != nil {
		return err
	}
	g.held += n
	return nil
}

// merge makes one part of all. Under mu.
func (g *RollupGather) merge() error {
	g.sort()
	one := &RollupPart{width: g.width, base: g.base, steps: g.steps}
	w := rollupWriter{g: g, cols: make([]selfCum, g.steps)}
	rows := g.rows[:0] // what is written is behind what is read
	for lo := 0; lo < len(g.rows); {
		hi := runEnd(g.rows, lo)
		row := gatherRow{fn: g.rows[lo].fn, group: g.rows[lo].group, off: uint32(len(one.buf))}
		size := cap(one.buf)
		one.buf, row.sum = w.appendRow(one.buf, g.rows[lo:hi])
		if len(one.buf) > maxRollupBuf {
			return g.tooLarge()
		}
		if err := g.hold(int64(cap(one.buf) - size)); err != nil {
			return err
		}
		if len(one.buf) > int(row.off) {
			rows = append(rows, row)
		}
		lo = hi
	}
	g.parts, g.rows, g.least = []*RollupPart{one}, rows, len(rows)
	now := int64(cap(one.buf)) + int64(len(rows))*2*rollupRowBytes
	g.used += now - g.held
	g.held = now
	return nil
}

// runEnd is where the rows of the group and function of the row at lo end.
func runEnd(rows []gatherRow, lo int) int {
	hi := lo + 1
	for hi < len(rows) && rows[hi].group == rows[lo].group && rows[hi].fn == rows[lo].fn {
		hi++
	}
	return hi
}

// addGroup adds what a part's group has beside functions, whose first column is the answer's column at.
func (g *RollupGather) addGroup(s *rollupSums, at int) (uint32, error) {
	k := s.labels.String()
	n, ok := g.byGrp[k]
	if !ok {
		if err := g.reserve(int64(24*g.steps + 200)); err != nil {
			return 0, err
		}
		n = uint32(len(g.group))
		g.byGrp[k] = n
		g.group = append(g.group, rollupSums{labels: s.labels, total: make([]int64, g.steps), profiles: make([]int, g.steps), instances: map[string][]uint64{}})
	}
	to := &g.group[n]
	for i, v := range s.total {
		to.total[at+i] += v
		to.profiles[at+i] += s.profiles[i]
	}
	words := (g.steps + 63) / 64
	for name, seen := range s.instances {
		have := to.instances[name]
		if have == nil {
			if err := g.reserve(int64(8*words + rollupNameBytes)); err != nil {
				return 0, err
			}
			have = make([]uint64, words)
			to.instances[name] = have
		}
		for w, word := range seen {
			for ; word != 0; word &= word - 1 {
				i := at + w*64 + bits.TrailingZeros64(word)
				have[i/64] |= 1 << (i % 64)
			}
		}
	}
	return n, nil
}

// Result is the answer, to be asked for once.
func (g *RollupGather) Result(ctx context.Context) (*RollupResult, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := &RollupResult{Start: time.Unix(0, g.base*g.width).UTC(), Step: time.Duration(g.width), Steps: g.steps}
	groups := order(len(g.group), func(a, b int) int { return compareLabels(g.group[a].labels, g.group[b].labels) })
	fns := order(len(g.names), func(a, b int) int { return cmp.Compare(g.names[a], g.names[b]) })
	g.rank(groups, fns)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	keep := g.keep(len(fns), groups)
	for _, k := range keep {
		if !k {
			r.LeftOut++
		}
	}
	w := rollupWriter{g: g, cols: make([]selfCum, g.steps)}
	for lo, n := 0, 0; n < len(groups); n++ {
		s := &g.group[groups[n]]
		out := RollupGroup{Labels: s.labels, Total: s.total, Profiles: s.profiles, Instances: s.countInstances()}
		for lo < len(g.rows) && g.rows[lo].group == uint32(n) {
			hi := runEnd(g.rows, lo)
			if fn := g.rows[lo].fn; keep[fn] {
				cells, err := w.cells(g.rows[lo:hi])
				if err != nil {
					return nil, err
				}
				if cells != nil {
					out.Functions = append(out.Functions, RollupFunction{Name: g.names[fns[fn]], cells: cells})
				}
			}
			lo = hi
		}
		if slices.Max(s.profiles) > 0 {
			out.Functions = slices.Clip(out.Functions)
			r.Groups = append(r.Groups, out)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// order is the numbers below n, sorted.
func order(n int, compare func(a, b int) int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	slices.SortFunc(out, compare)
	return out
}

// rank turns the numbers in rows into places in the orders, and sorts the rows.
func (g *RollupGather) rank(groups, fns []int) {
	groupRank, fnRank := make([]uint32, len(groups)), make([]uint32, len(fns))
	for rank, i := range groups {
		groupRank[i] = uint32(rank)
	}
	for rank, i := range fns {
		fnRank[i] = uint32(rank)
	}
	for i := range g.rows {
		r := &g.rows[i]
		r.group, r.fn = groupRank[r.group], fnRank[r.fn]
	}
	g.sort()
}

// sort sorts the rows by group and function: two counting sorts, as there may be many.
func (g *RollupGather) sort() {
	spare := make([]gatherRow, len(g.rows))
	countingSort(spare, g.rows, len(g.names), func(r *gatherRow) uint32 { return r.fn })
	countingSort(g.rows, spare, len(g.group), func(r *gatherRow) uint32 { return r.group })
}

func countingSort(out, in []gatherRow, keys int, key func(*gatherRow) uint32) {
	at := make([]int, keys+1)
	for i := range in {
		at[key(&in[i])+1]++
	}
	for i := 1; i < len(at); i++ {
		at[i] += at[i-1]
	}
	for i := range in {
		k := key(&in[i])
		out[at[k]] = in[i]
		at[k]++
	}
}

// keep says of functions, by rank, whether one of the groups has enough of them. Rows are sorted.
func (g *RollupGather) keep(functions int, groups []int) []bool {
	out := make([]bool, functions)
	least := make([]float64, len(groups))
	for n, i := range groups {
		total := 0.0
		for _, v := range g.group[i].total {
			total += float64(v)
		}
		least[n] = g.minShare * math.Abs(total)
	}
	for lo := 0; lo < len(g.rows); {
		first, sum, hi := &g.rows[lo], 0.0, runEnd(g.rows, lo)
		for i := lo; i < hi; i++ {
			sum += float64(g.rows[i].sum)
		}
		if math.Abs(sum) >= least[first.group] {
			out[first.fn] = true
		}
		lo = hi
	}
	return out
}

// countInstances is how many instances there are in each column.
func (s *rollupSums) countInstances() []int {
	out := make([]int, len(s.profiles))
	for _, seen := range s.instances {
		for w, word := range seen {
			for ; word != 0; word &= word - 1 {
				out[w*64+bits.TrailingZeros64(word)]++
			}
		}
	}
	return out
}

// rollupWriter writes the cells of the answer into chunks.
type rollupWriter struct {
	g     *RollupGather
	cols  []selfCum
	row   []byte
	chunk []byte
}

const (
	rollupChunk         = 256 << 10
	rollupFunctionBytes = 40
)

// appendRow appends the sum of rows of one group and function; nothing if there is nothing in it.
func (w *rollupWriter) appendRow(b []byte, rows []gatherRow) (_ []byte, sum int64) {
	lo, hi := len(w.cols), 0
	for _, r := range rows {
		p := w.g.parts[r.part]
		at := int(p.base - w.g.base)
		eachCell(p.buf[r.off:], func(i int, self, full int64) {
			c := &w.cols[at+i]
			c.self += self
			c.full += full
			lo, hi = min(lo, at+i), max(hi, at+i+1)
		})
	}
	b, sum = appendCells(b, w.cols, lo, hi)
	if lo < hi {
		clear(w.cols[lo:hi])
	}
	return b, sum
}

// cells is the same as a function of the answer has it; nil if there is nothing in it.
func (w *rollupWriter) cells(rows []gatherRow) ([]byte, error) {
	w.row, _ = w.appendRow(w.row[:0], rows)
	if len(w.row) == 0 {
		return nil, nil
	}
	more := int64(rollupFunctionBytes)
	if len(w.row) > cap(w.chunk)-len(w.chunk) {
		n := max(rollupChunk, len(w.row))
		more += int64(n)
		w.chunk = make([]byte, 0, n)
	}
	if err := w.g.reserve(more); err != nil {
		return nil, err
	}
	at := len(w.chunk)
	w.chunk = append(w.chunk, w.row...)
	return w.chunk[at:len(w.chunk):len(w.chunk)], nil
}
