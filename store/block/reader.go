package block

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/profile"
)

// ErrCorrupt says that a block is not what was written. The text names the
// block, the file and the place.
var ErrCorrupt = errors.New("corrupt")

// ErrVersion says that a block was written by a later version of this program.
var ErrVersion = errors.New("written by a later version")

// Bounds on what meta.json may claim; none is near what a writer makes.
const (
	maxMeta   = 64 << 20 // bytes of meta.json
	maxFile   = 1 << 40
	maxTail   = 256 << 20 // bytes of a file's footer and page index
	maxDense  = 256       // rows in a byte: each page has a header
	maxStacks = 1 << 28
	maxSeries = 1 << 20
	maxTypes  = 1 << 10
	maxAhead  = 8 << 20 // values that room is made for before they have been read
)

// ReadMeta reads and checks meta.json.
func ReadMeta(b []byte) (Meta, error) {
	var m Meta
	if len(b) > maxMeta {
		return m, fmt.Errorf("%w: %s has %d bytes, at most %d can be", ErrCorrupt, MetaFile, len(b), maxMeta)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%w: %s: %w", ErrCorrupt, MetaFile, err)
	}
	if m.Version > Version {
		return m, fmt.Errorf("block %s: %w: version %d, this program knows %d", m.ULID, ErrVersion, m.Version, Version)
	}
	if err := checkHead(&m); err != nil {
		return m, fmt.Errorf("%w: %s: %w", ErrCorrupt, MetaFile, err)
	}
	if err := checkCounts(&m); err != nil {
		return m, fmt.Errorf("%w: block %s: %s: %w", ErrCorrupt, m.ULID, MetaFile, err)
	}
	return m, nil
}

// Span is how long a block's partition is.
func (m *Meta) Span() time.Duration {
	if m.Level == LevelDay {
		return 24 * time.Hour
	}
	return time.Hour
}

// Bytes is what the block's files weigh, without meta.json.
func (m *Meta) Bytes() (n int64) {
	for _, f := range m.Files {
		n += f.Bytes
	}
	return n
}

// checkHead checks what a writer is given.
func checkHead(m *Meta) error {
	switch {
	case m.Version < 1:
		return fmt.Errorf("version %d", m.Version)
	case m.ULID == ulid.ULID{}:
		return errors.New("no ulid")
	case m.Tenant == "" || m.Region == "":
		return fmt.Errorf("block %s: tenant %q, region %q: neither may be empty", m.ULID, m.Tenant, m.Region)
	case m.Level < LevelHead || m.Level > LevelDay:
		return fmt.Errorf("block %s: level %d", m.ULID, m.Level)
	case !m.Partition.Equal(m.Partition.Truncate(m.Span())):
		return fmt.Errorf("block %s: partition %v does not start at a multiple of %v", m.ULID, m.Partition, m.Span())
	case len(m.Types) == 0 || len(m.Types) > maxTypes || len(m.Series) == 0 || len(m.Series) > maxSeries:
		return fmt.Errorf("block %s: %d types, %d series", m.ULID, len(m.Types), len(m.Series))
	}
	for i, t := range m.Types {
		if _, err := profile.ParseType(t); err != nil {
			return fmt.Errorf("block %s: %w", m.ULID, err)
		}
		if i > 0 && t <= m.Types[i-1] {
			return fmt.Errorf("block %s: types are not sorted at %q", m.ULID, t)
		}
	}
	for i, s := range m.Series {
		ls, err := profile.NewLabels(s.Labels...)
		if err == nil && !slices.Equal(ls, s.Labels) {
			err = errors.New("labels are not sorted, or have empty values")
		}
		if err == nil {
			err = profile.CheckLabelName(s.Name)
		}
		if err == nil && i > 0 && s.Compare(&m.Series[i-1]) <= 0 {
			err = errors.New("series are not sorted")
		}
		if err != nil {
			return fmt.Errorf("block %s: series %d %s: %w", m.ULID, i, s.Labels, err)
		}
	}
	return nil
}

// Compare orders series: by service, so that a service's samples lie together, name, labels.
func (s *Series) Compare(o *Series) int {
	return cmp.Or(cmp.Compare(s.Labels.Get(profile.LabelService), o.Labels.Get(profile.LabelService)), cmp.Compare(s.Name, o.Name),
		slices.CompareFunc(s.Labels, o.Labels, func(a, b profile.Label) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Value, b.Value))
		}))
}

// checkCounts checks what a writer fills in.
func checkCounts(m *Meta) error {
	switch {
	case m.From.IsZero() || !m.To.After(m.From) || m.From.Before(m.Partition) || !m.From.Before(m.Partition.Add(m.Span())):
		return fmt.Errorf("windows from %v to %v in the partition of %v", m.From, m.To, m.Partition)
	case m.Profiles < 1 || m.Samples < 0 || m.Stacks < 1 || m.Stacks > maxStacks:
		return fmt.Errorf("%d profiles, %d samples, %d stacks", m.Profiles, m.Samples, m.Stacks)
	}
	for _, name := range []string{ProfilesFile, SamplesFile, StacksFile, FramesFile, FunctionsFile} {
		if _, ok := m.Files[name]; !ok {
			return fmt.Errorf("%s is not named", name)
		}
	}
	if _, ok := m.Files[TotalsFile]; ok != (m.Level > LevelHead) {
		return fmt.Errorf("%s at level %d", TotalsFile, m.Level)
	}
	for name, f := range m.Files {
		switch {
		case filepath.Base(name) != name || name == MetaFile || len(name) > 64:
			return fmt.Errorf("file %.70q", name)
		case f.Bytes < 12 || f.Bytes > maxFile || f.Tail < 0 || f.Tail > f.Bytes || f.Bytes-f.Tail > maxTail || f.Rows < 0 || f.Rows > f.Bytes*maxDense:
			return fmt.Errorf("%s: %d bytes, tail at %d, %d rows", name, f.Bytes, f.Tail, f.Rows)
		case int64(len(f.Chunks)) != (f.Bytes+ChunkBytes-1)/ChunkBytes*8:
			return fmt.Errorf("%s: %d bytes of checksums for %d bytes", name, len(f.Chunks), f.Bytes)
		}
		if _, err := hex.DecodeString(f.XXH3); err != nil || len(f.XXH3) != 32 {
			return fmt.Errorf("%s: checksum %.40q", name, f.XXH3)
		}
	}
	if m.Files[SamplesFile].Rows != m.Samples || m.Files[StacksFile].Rows != int64(m.Stacks)-1 {
		return fmt.Errorf("%d rows of samples and %d of stacks, the files have %d and %d", m.Samples, m.Stacks-1, m.Files[SamplesFile].Rows, m.Files[StacksFile].Rows)
	}
	return nil
}

// Reader reads a block, the parts that are asked for. Many goroutines may use it. It
// keeps footers; what else it has read is the caller's to keep.
type Reader struct {
	meta    Meta
	src     Source
	typeOf  map[string]uint32
	mu      sync.Mutex
	footers map[string]*footer
}

type footer struct {
	once sync.Once
	tail []byte
	pf   *parquetFile
	err  error
}

// Open reads nothing yet.
func Open(_ context.Context, m Meta, src Source) (*Reader, error) {
	r := &Reader{meta: m, src: src, typeOf: map[string]uint32{}, footers: map[string]*footer{}}
	for i, t := range m.Types {
		r.typeOf[t] = uint32(i)
	}
	return r, nil
}

// Meta is the block's.
func (r *Reader) Meta() *Meta { return &r.meta }

func (r *Reader) corrupt(file, format string, args ...any) error {
	return fmt.Errorf("%w: block %s: %s: %s", ErrCorrupt, r.meta.ULID, file, fmt.Sprintf(format, args...))
}

// file opens one file for a question that lives as long as ctx.
func (r *Reader) file(ctx context.Context, name string) (*scan, error) {
	f := r.meta.Files[name]
	cf := &checkedFile{ctx: ctx, name: name, meta: f, src: r.src}
	r.mu.Lock()
	ft := r.footers[name]
	if ft == nil {
		ft = &footer{}
		r.footers[name] = ft
	}
	r.mu.Unlock()
	ft.once.Do(func() {
		if ft.tail, ft.err = cf.chunks(cf.tailAt(), f.Bytes); ft.err != nil {
			return
		}
		cf.tail = ft.tail
		if ft.pf, ft.err = openParquet(cf); ft.err == nil && ft.pf.rows != f.Rows {
			ft.err = fmt.Errorf("%w: %d rows, meta.json says %d", ErrCorrupt, ft.pf.rows, f.Rows)
		}
	})
	if ft.err != nil {
		// It may go better next time, and for another's context.
		r.mu.Lock()
		if r.footers[name] == ft {
			delete(r.footers, name)
		}
		r.mu.Unlock()
		return nil, r.wrap(cf, ft.err)
	}
	cf.tail = ft.tail
	return &scan{cf: cf, pf: ft.pf}, nil
}

// wrap says where an error is. One of the source stays what it was; all others mean that the
// bytes, whole as they are, are not the table they should be.
func (r *Reader) wrap(cf *checkedFile, err error) error {
	if err == nil {
		return nil
	}
	if cf.err != nil {
		return fmt.Errorf("block %s: %s: %w", r.meta.ULID, cf.name, cf.err)
	}
	if errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("block %s: %s: %w", r.meta.ULID, cf.name, err)
	}
	if e := cf.ctx.Err(); e != nil {
		return e
	}
	return r.corrupt(cf.name, "%v", err)
}

// ProfileColumns are rows of profiles.parquet, ordered by type, series, From and ID.
type ProfileColumns struct {
	Type, Series                      []uint32
	From, To, Duration, Period, Total []int64
	ID                                []ID
	First                             []int64 // row of samples.parquet
	N                                 []int32 // how many
}

// Len is the number of rows.
func (c *ProfileColumns) Len() int { return len(c.Type) }

// Profiles reads the rows of the types, or of all if types is nil.
func (r *Reader) Profiles(ctx context.Context, types []uint32) (*ProfileColumns, error) {
	s, err := r.file(ctx, ProfilesFile)
	if err != nil {
		return nil, err
	}
	c, err := r.profileColumns(s, types)
	if err != nil {
		return nil, r.wrap(s.cf, err)
	}
	return c, nil
}

func (r *Reader) profileColumns(s *scan, types []uint32) (*ProfileColumns, error) {
	all, err := s.textColumn("type", 0, s.pf.rows, nil, r.typeIndex)
	if err != nil {
		return nil, err
	}
	c := &ProfileColumns{}
	for lo := 0; lo < len(all); {
		hi := lo
		for hi < len(all) && all[hi] == all[lo] {
			hi++
		}
		if types == nil || slices.Contains(types, all[lo]) {
			if err := c.read(s, all[lo:hi], int64(lo)); err != nil {
				return nil, err
			}
		}
		lo = hi
	}
	return c, r.checkProfiles(c)
}

func (r *Reader) typeIndex(t string) (uint32, error) {
	i, ok := r.typeOf[t]
	if !ok {
		return 0, fmt.Errorf("%w: type %.100q is not in meta.json", ErrCorrupt, t)
	}
	return i, nil
}

// read appends rows from first on, as many as there are types.
func (c *ProfileColumns) read(s *scan, types []uint32, first int64) (err error) {
	n := int64(len(types))
	c.Type = append(c.Type, types...)
	if c.Series, err = numbers(s, "series", first, n, c.Series); err != nil {
		return err
	}
	for _, col := range []struct {
		name string
		to   *[]int64
	}{{"time", &c.From}, {"end_time", &c.To}, {"duration", &c.Duration}, {"period", &c.Period}, {"total", &c.Total}, {"first_row", &c.First}} {
		if *col.to, err = numbers(s, col.name, first, n, *col.to); err != nil {
			return err
		}
	}
	rows, err := numbers[int64](s, "rows", first, n, nil)
	if err != nil {
		return err
	}
	for _, v := range rows {
		if v < 0 || v > math.MaxInt32 {
			return fmt.Errorf("%w: a profile of %d samples", ErrCorrupt, v)
		}
		c.N = append(c.N, int32(v))
	}
	had := int64(len(c.ID))
	err = s.fixed("id", 16, first, n, func(b []byte) { c.ID = append(c.ID, idOfBytes([16]byte(b))) })
	c.ID, err = counted(c.ID, had, n, "id", err)
	return err
}

// checkProfiles holds rows to their order and bounds, so that who uses them need not.
func (r *Reader) checkProfiles(c *ProfileColumns) error {
	from, to := r.meta.Partition.UnixNano(), r.meta.Partition.Add(r.meta.Span()).UnixNano()
	for i := range c.Type {
		row := Row{Type: c.Type[i], Series: c.Series[i], From: c.From[i], ID: c.ID[i]}
		switch {
		case int(c.Series[i]) >= len(r.meta.Series):
			return fmt.Errorf("%w: row %d: series %d of %d", ErrCorrupt, i, c.Series[i], len(r.meta.Series))
		case c.From[i] < from || c.From[i] >= to || c.To[i] <= c.From[i]:
			return fmt.Errorf("%w: row %d: a window from %d to %d", ErrCorrupt, i, c.From[i], c.To[i])
		case c.First[i] < 0 || c.First[i]+int64(c.N[i]) > r.meta.Samples:
			return fmt.Errorf("%w: row %d: samples %d and %d more, there are %d", ErrCorrupt, i, c.First[i], c.N[i], r.meta.Samples)
		case i > 0 && compareRows(&row, &Row{Type: c.Type[i-1], Series: c.Series[i-1], From: c.From[i-1], ID: c.ID[i-1]}) <= 0:
			return fmt.Errorf("%w: row %d is out of order", ErrCorrupt, i)
		case i > 0 && c.Type[i] == c.Type[i-1] && c.First[i] != c.First[i-1]+int64(c.N[i-1]):
			return fmt.Errorf("%w: row %d: its samples do not follow the row's before", ErrCorrupt, i)
		}
	}
	return nil
}

// SampleColumns are rows of samples.parquet.
type SampleColumns struct {
	Sets, Stacks []uint32
	Values       []int64
}

// Samples reads n rows from first into the columns, replacing what is there and keeping the room. Stacks and
// label sets are within the tables' bounds.
func (r *Reader) Samples(ctx context.Context, first, n int64, into *SampleColumns) error {
	if first < 0 || n < 0 || first+n > r.meta.Samples {
		return r.corrupt(SamplesFile, "rows %d to %d, there are %d", first, first+n, r.meta.Samples)
	}
	s, err := r.file(ctx, SamplesFile)
	if err != nil {
		return err
	}
	if _, ok := r.meta.Files[LabelsFile]; !ok {
		into.Sets = into.Sets[:0] // none has labels: they need not be read
	} else {
		into.Sets, err = numbers(s, "labels", first, n, into.Sets[:0])
	}
	if err == nil {
		if into.Stacks, err = numbers(s, "stack", first, n, into.Stacks[:0]); err == nil {
			into.Values, err = numbers(s, "value", first, n, into.Values[:0])
		}
	}
	if err != nil {
		return r.wrap(s.cf, err)
	}
	if len(into.Sets) == 0 {
		into.Sets = slices.Grow(into.Sets, len(into.Values))[:len(into.Values)]
		clear(into.Sets)
	}
	most := uint32(0)
	for _, v := range into.Stacks {
		most = max(most, v)
	}
	if int(most) >= r.meta.Stacks {
		return r.corrupt(SamplesFile, "a sample of stack %d, there are %d", most, r.meta.Stacks)
	}
	return nil
}

// TotalColumns are rows of totals.parquet, of one type, ordered by series, label set and stack.
type TotalColumns struct {
	Series, Sets, Stacks []uint32
	Values               []int64
}

// HasTotals says whether the block has a roll-up by stack.
func (r *Reader) HasTotals() bool {
	_, ok := r.meta.Files[TotalsFile]
	return ok
}

// Totals reads the rows of a type, of the series given in order, or of all if series is nil.
func (r *Reader) Totals(ctx context.Context, typ uint32, series []uint32) (*TotalColumns, error) {
	if int(typ) >= len(r.meta.Types) {
		return nil, r.corrupt(TotalsFile, "type %d of %d", typ, len(r.meta.Types))
	}
	s, err := r.file(ctx, TotalsFile)
	if err != nil {
		return nil, err
	}
	types, err := s.textColumn("type", 0, s.pf.rows, nil, r.typeIndex)
	if err != nil {
		return nil, r.wrap(s.cf, err)
	}
	lo, found := slices.BinarySearch(types, typ)
	if !found {
		return &TotalColumns{}, nil
	}
	hi, _ := slices.BinarySearch(types[lo:], typ+1)
	all, err := numbers[uint32](s, "series", int64(lo), int64(hi), nil)
	if err != nil {
		return nil, r.wrap(s.cf, err)
	}
	c := &TotalColumns{}
	for a := 0; a < len(all); {
		b := a
		for b < len(all) && all[b] == all[a] {
			b++
		}
		// Neighbours that are wanted are read as one.
		for series != nil && contains(series, all[a]) && b < len(all) && contains(series, all[b]) {
			b++
		}
		if series == nil {
			b = len(all)
		}
		if series == nil || contains(series, all[a]) {
			if err := c.read(s, all[a:b], int64(lo+a)); err != nil {
				return nil, r.wrap(s.cf, err)
			}
		}
		a = b
	}
	for i, st := range c.Stacks {
		if int(st) >= r.meta.Stacks || int(c.Series[i]) >= len(r.meta.Series) {
			return nil, r.corrupt(TotalsFile, "stack %d of series %d, there are %d and %d", st, c.Series[i], r.meta.Stacks, len(r.meta.Series))
		}
	}
	return c, nil
}

func contains(sorted []uint32, v uint32) bool {
	_, ok := slices.BinarySearch(sorted, v)
	return ok
}

func (c *TotalColumns) read(s *scan, series []uint32, first int64) (err error) {
	c.Series = append(c.Series, series...)
	if c.Sets, err = numbers(s, "labels", first, int64(len(series)), c.Sets); err != nil {
		return err
	}
	if c.Stacks, err = numbers(s, "stack", first, int64(len(series)), c.Stacks); err != nil {
		return err
	}
	c.Values, err = numbers(s, "value", first, int64(len(series)), c.Values)
	return err
}

// functionRun is how many rows of functions.parquet are decoded at a time.
const functionRun = 1 << 14

// Functions yields rows of the roll-up in order: those of the named functions and types, nil being all. Of
// named functions only the pages that may have them are read. After an error it ends.
func (r *Reader) Functions(ctx context.Context, names []string, types []uint32) iter.Seq2[FunctionRow, error] {
	return func(yield func(FunctionRow, error) bool) {
		s, err := r.file(ctx, FunctionsFile)
		if err != nil {
			yield(FunctionRow{}, err)
			return
		}
		runs, err := functionRuns(s, names)
		for _, run := range runs {
			if err != nil {
				break
			}
			var more bool
			if more, err = r.functionRows(s, run, names, types, yield); !more {
				return
			}
		}
		if err != nil {
			yield(FunctionRow{}, r.wrap(s.cf, err))
		}
	}
}

// functionRuns is the rows to read, as [first, end), none longer than functionRun.
func functionRuns(s *scan, names []string) (runs [][2]int64, err error) {
	add := func(lo, hi int64) {
		for ; lo < hi; lo += functionRun {
			runs = append(runs, [2]int64{lo, min(lo+functionRun, hi)})
		}
	}
	if names == nil {
		add(0, s.pf.rows)
		return runs, nil
	}
	col, ok := s.pf.cols["function"]
	if !ok {
		return nil, fmt.Errorf("%w: no column %q that has a value in every row", ErrCorrupt, "function")
	}
	at := int64(0)
	for i := range s.pf.groups {
		c := &s.pf.groups[i].cols[col]
		pages, err := c.pages(s.cf)
		if err != nil {
			return nil, err
		}
		first, last, err := c.minMax(s.cf, len(pages))
		if err != nil {
			return nil, err
		}
		for k, p := range pages {
			hi := c.rows
			if k+1 < len(pages) {
				hi = pages[k+1].first
			}
			if slices.ContainsFunc(names, func(n string) bool { return mayHave(n, string(first[k]), string(last[k])) }) {
				add(at+p.first, at+hi)
			}
		}
		at += c.rows
	}
	return runs, nil
}

// mayHave says whether a page whose texts are from first to last, cut to indexPrefix bytes, may have name.
func mayHave(name, first, last string) bool {
	if len(name) > indexPrefix-2 { // the last of a prefix may have been raised by one
		name = name[:indexPrefix-2]
		return name >= first[:min(len(first), len(name))] && name <= last
	}
	return name >= first && name <= last
}

// functionRows yields what is wanted of one run, and says whether to go on.
func (r *Reader) functionRows(s *scan, run [2]int64, names []string, types []uint32, yield func(FunctionRow, error) bool) (bool, error) {
	first, n := run[0], run[1]-run[0]
	var words []string
	fns, err := s.textColumn("function", first, n, nil, func(t string) (uint32, error) {
		words = append(words, t)
		return uint32(len(words) - 1), nil
	})
	if err != nil {
		return true, err
	}
	want := make([]bool, len(words))
	any := false
	for i, w := range words {
		want[i] = names == nil || slices.Contains(names, w)
		any = any || want[i]
	}
	if !any {
		return true, nil
	}
	// The columns are read from the first row that is wanted to the last.
	lo, hi := 0, len(fns)
	for ; !want[fns[lo]]; lo++ {
	}
	for ; !want[fns[hi-1]]; hi-- {
	}
	first, n, fns = first+int64(lo), int64(hi-lo), fns[lo:hi]
	typ, err := s.textColumn("type", first, n, nil, r.typeIndex)
	if err != nil {
		return true, err
	}
	series, err := numbers[uint32](s, "series", first, n, nil)
	if err != nil {
		return true, err
	}
	var cols [4][]int64
	for i, name := range []string{"minute", "self", "cumulative", "samples"} {
		if cols[i], err = numbers[int64](s, name, first, n, nil); err != nil {
			return true, err
		}
	}
	for i, f := range fns {
		if !want[f] || types != nil && !slices.Contains(types, typ[i]) {
			continue
		}
		if int(series[i]) >= len(r.meta.Series) {
			return true, fmt.Errorf("%w: row %d: series %d of %d", ErrCorrupt, first+int64(i), series[i], len(r.meta.Series))
		}
		row := FunctionRow{Type: typ[i], Series: series[i], Function: words[f], Minute: cols[0][i], Self: cols[1][i], Cumulative: cols[2][i], Samples: cols[3][i]}
		if !yield(row, nil) {
			return false, nil
		}
	}
	return true, nil
}
