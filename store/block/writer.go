package block

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
)

// FormatID is an ID in text.
func FormatID(id ID) string {
	b := bytesOfID(id)
	return hex.EncodeToString(b[:])
}

// ParseID reads what FormatID writes.
func ParseID(s string) (ID, error) {
	var b [16]byte
	if len(s) != 32 {
		return ID{}, fmt.Errorf("profile id %.40q: it must be 32 hexadecimal digits", s)
	}
	if _, err := hex.Decode(b[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("profile id %q: %w", s, err)
	}
	return idOfBytes(b), nil
}

func bytesOfID(id ID) (b [16]byte) {
	binary.BigEndian.PutUint64(b[:8], id.Hi)
	binary.BigEndian.PutUint64(b[8:], id.Lo)
	return b
}

func idOfBytes(b [16]byte) ID {
	return ID{Hi: binary.BigEndian.Uint64(b[:8]), Lo: binary.BigEndian.Uint64(b[8:])}
}

// FunctionRow is a row of the roll-up by function: what a function had in one minute of one series.
type FunctionRow struct {
	Type, Series uint32 // indexes into Meta.Types and Meta.Series
	Function     string
	Minute       int64 // its start, Unix nanoseconds
	// Self and Cumulative are sums of values; Samples is how many samples have the function on
	// the stack. A function that calls itself counts once a sample.
	Self, Cumulative, Samples int64
}

// Compare orders the rows of functions.parquet: by type, function's name in bytes, series, minute.
func (a *FunctionRow) Compare(b *FunctionRow) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Function, b.Function), cmp.Compare(a.Series, b.Series), cmp.Compare(a.Minute, b.Minute))
}

// WriterOptions of [NewWriter]. The zero value is a good one.
type WriterOptions struct {
	FS vfs.FS // vfs.Default
}

// Writer writes a block into a folder. One goroutine uses it. Its memory is the tables it was
// given, some pages of each file, and at LevelHead the roll-up by function, which is
// no larger than what the rows take.
type Writer struct {
	fs     vfs.FS
	dir    string
	meta   Meta
	t      *Tables
	failed error

	profiles  *table[profileRow]
	samples   *table[sampleRow]
	functions *table[functionRow]
	totals    *table[totalRow]

	services []string            // of each series
	labels   []map[string]string // of each series
	ids      map[ID]struct{}
	from, to int64
	last     Row
	any      bool
	lastFn   FunctionRow
	anyFn    bool
	// Totals of the series that is being written: by stack, and of samples with labels by label set<<32 | stack.
	dense     []int64
	touched   []uint32
	labelled  map[uint64]int64
	roll      *rollup
	weights   [][]int64 // rows of samples by service and type
	byService map[string]int
	names     []string
	named     string // the function of the last row of functions.parquet
}

// NewWriter begins a block in dir, which is made. m says who and when (ULID, Region, Tenant, Level, Partition,
// Created, Sources, Types, Series); what it counts is filled in. t holds all that rows refer to.
func NewWriter(dir string, m Meta, t *Tables, opt WriterOptions) (*Writer, error) {
	if opt.FS == nil {
		opt.FS = vfs.Default
	}
	m.Version, m.Files = Version, map[string]File{}
	w := &Writer{fs: opt.FS, dir: dir, meta: m, t: t, ids: map[ID]struct{}{}, byService: map[string]int{}}
	if err := checkHead(&m); err != nil {
		return nil, err
	}
	for _, s := range m.Series {
		svc := s.Labels.Get(profile.LabelService)
		w.services = append(w.services, svc)
		ls := make(map[string]string, len(s.Labels))
		for _, l := range s.Labels {
			ls[l.Name] = l.Value
		}
		w.labels = append(w.labels, ls)
		if _, ok := w.byService[svc]; !ok {
			w.byService[svc] = len(w.names)
			w.names, w.weights = append(w.names, svc), append(w.weights, make([]int64, len(m.Types)))
		}
	}
	err := opt.FS.MkdirAll(dir)
	if err == nil {
		w.profiles, err = newTable[profileRow](w.fs, dir, ProfilesFile)
	}
	if err == nil {
		w.samples, err = newTable[sampleRow](w.fs, dir, SamplesFile)
	}
	if err == nil {
		w.functions, err = newTable[functionRow](w.fs, dir, FunctionsFile)
	}
	if err == nil && m.Level > LevelHead {
		w.dense, w.labelled = make([]int64, t.Stacks.Len()), map[uint64]int64{}
		w.totals, err = newTable[totalRow](w.fs, dir, TotalsFile)
	}
	if err != nil {
		w.Abort()
		return nil, fmt.Errorf("block %s: %w", m.ULID, err)
	}
	if m.Level == LevelHead {
		w.roll = newRollup(t)
	}
	return w, nil
}

// Dir is where the block is written.
func (w *Writer) Dir() string { return w.dir }

func (w *Writer) errorf(format string, args ...any) error {
	w.failed = fmt.Errorf("block %s: "+format, append([]any{w.meta.ULID}, args...)...)
	return w.failed
}

// Add writes one column of one profile. Rows come in the order of (Type, Series, From, ID).
func (w *Writer) Add(r *Row) error {
	if w.failed != nil {
		return w.failed
	}
	if err := w.check(r); err != nil {
		return err
	}
	if w.any && (r.Type != w.last.Type || r.Series != w.last.Series) {
		if err := w.writeTotals(); err != nil {
			return err
		}
	}
	typ, svc := w.meta.Types[r.Type], w.services[r.Series]
	err := w.profiles.add(profileRow{Type: typ, Service: svc, Series: r.Series, Time: r.From, End: r.To, Duration: r.Duration, Period: r.Period,
		Total: r.Total, ID: bytesOfID(r.ID), FirstRow: w.samples.rows, Rows: int64(len(r.Values)), Name: w.meta.Series[r.Series].Name, Labels: w.labels[r.Series]})
	if err != nil {
		return w.errorf("%w", err)
	}
	for i, v := range r.Values {
		if err := w.samples.add(sampleRow{typ, svc, r.Series, r.From, r.Sets[i], r.Stacks[i], v}); err != nil {
			return w.errorf("%w", err)
		}
	}
	if w.dense != nil {
		for i, v := range r.Values {
			s := r.Stacks[i]
			if set := r.Sets[i]; set != 0 {
				w.labelled[uint64(set)<<32|uint64(s)] += v
				continue
			}
			if w.dense[s] == 0 {
				w.touched = append(w.touched, s) // again if it came back to 0: sorted out later
			}
			w.dense[s] += v
		}
	}
	if w.roll != nil {
		if err := w.roll.add(r, func() error { return w.roll.each(w.writeFunction) }); err != nil {
			return w.errorf("%w", err)
		}
	}
	if !w.any {
		w.from, w.to = r.From, r.To
	}
	w.from, w.to = min(w.from, r.From), max(w.to, r.To)
	w.ids[r.ID] = struct{}{}
	w.weights[w.byService[svc]][r.Type] += int64(len(r.Values)) + 8
	w.last, w.any = Row{Type: r.Type, Series: r.Series, From: r.From, ID: r.ID}, true
	return nil
}

func (w *Writer) check(r *Row) error {
	if int(r.Type) >= len(w.meta.Types) || int(r.Series) >= len(w.meta.Series) {
		return w.errorf("a profile of type %d and series %d, there are %d and %d", r.Type, r.Series, len(w.meta.Types), len(w.meta.Series))
	}
	if len(r.Sets) != len(r.Values) || len(r.Stacks) != len(r.Values) {
		return w.errorf("columns of %d, %d and %d samples", len(r.Sets), len(r.Stacks), len(r.Values))
	}
	if w.any && compareRows(r, &w.last) <= 0 {
		return w.errorf("profile %s comes after %s, their order is the other way round", FormatID(r.ID), FormatID(w.last.ID))
	}
	total, prev := int64(0), int64(-1)
	for i, v := range r.Values {
		if int(r.Stacks[i]) >= w.t.Stacks.Len() || int(r.Sets[i]) >= len(w.t.LabelSets) {
			return w.errorf("profile %s: sample of stack %d with labels %d, there are %d and %d", FormatID(r.ID), r.Stacks[i], r.Sets[i], w.t.Stacks.Len(), len(w.t.LabelSets))
		}
		at := int64(r.Sets[i])<<32 | int64(r.Stacks[i])
		if at <= prev {
			return w.errorf("profile %s: sample %d is out of order, or there twice", FormatID(r.ID), i)
		}
		prev = at
		total += v
	}
	if total != r.Total {
		return w.errorf("profile %s: its samples sum up to %d, its total is %d", FormatID(r.ID), total, r.Total)
	}
	return nil
}

// compareRows orders profiles.
func compareRows(a, b *Row) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Series, b.Series), cmp.Compare(a.From, b.From),
		cmp.Compare(a.ID.Hi, b.ID.Hi), cmp.Compare(a.ID.Lo, b.ID.Lo))
}

// writeTotals ends a series.
func (w *Writer) writeTotals() error {
	if w.totals == nil {
		return nil
	}
	slices.Sort(w.touched)
	typ, svc := w.meta.Types[w.last.Type], w.services[w.last.Series]
	for _, s := range slices.Compact(w.touched) {
		if v := w.dense[s]; v != 0 {
			if err := w.totals.add(totalRow{typ, svc, w.last.Series, 0, s, v}); err != nil {
				return w.errorf("%w", err)
			}
			w.dense[s] = 0
		}
	}
	w.touched = w.touched[:0]
	for _, k := range slices.Sorted(maps.Keys(w.labelled)) {
		if v := w.labelled[k]; v != 0 {
			if err := w.totals.add(totalRow{typ, svc, w.last.Series, uint32(k >> 32), uint32(k), v}); err != nil {
				return w.errorf("%w", err)
			}
		}
	}
	clear(w.labelled)
	return nil
}

// AddFunction writes a row of the roll-up by function, in order, above LevelHead. Rows that sum up to
// nothing are left out by the caller.
func (w *Writer) AddFunction(r FunctionRow) error {
	switch {
	case w.failed != nil:
		return w.failed
	case w.roll != nil:
		return w.errorf("its roll-up by function is its own")
	case w.anyFn && r.Compare(&w.lastFn) <= 0:
		return w.errorf("the roll-up by function is out of order at %q", r.Function)
	case int(r.Type) >= len(w.meta.Types) || int(r.Series) >= len(w.meta.Series):
		return w.errorf("a roll-up of type %d and series %d, there are %d and %d", r.Type, r.Series, len(w.meta.Types), len(w.meta.Series))
	}
	w.lastFn, w.anyFn = r, true
	if err := w.writeFunction(&r); err != nil {
		return w.errorf("%w", err)
	}
	return nil
}

func (w *Writer) writeFunction(r *FunctionRow) error {
	if r.Function != w.named {
		w.named = r.Function
		w.functions.texts += len(r.Function)
	}
	return w.functions.add(functionRow{w.meta.Types[r.Type], r.Function, r.Series, r.Minute, r.Self, r.Cumulative, r.Samples})
}

// Close writes what is left, syncs every file, then meta.json, then the folder. After
// an error the folder has no meta.json.
func (w *Writer) Close() (Meta, error) {
	if w.failed == nil && !w.any {
		w.errorf("no profile was added")
	}
	if w.failed == nil {
		if err := w.finish(); err != nil {
			w.errorf("%w", err)
		}
	}
	if w.failed != nil {
		w.Abort()
		return Meta{}, w.failed
	}
	return w.meta, nil
}

func (w *Writer) finish() error {
	if err := w.writeTotals(); err != nil {
		return err
	}
	if w.roll != nil {
		if err := w.roll.each(w.writeFunction); err != nil {
			return err
		}
	}
	m := &w.meta
	m.From, m.To = time.Unix(0, w.from).UTC(), time.Unix(0, w.to).UTC()
	m.Profiles, m.Samples, m.Stacks = len(w.ids), w.samples.rows, w.t.Stacks.Len()
	close := []func(map[string]File) error{w.profiles.close, w.samples.close, w.functions.close}
	if w.totals != nil {
		close = append(close, w.totals.close)
	}
	for _, c := range append(close, w.writeTables) {
		if err := c(m.Files); err != nil {
			return err
		}
	}
	w.apportion()
	raw, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	f, err := createFile(w.fs, filepath.Join(w.dir, MetaFile))
	if err != nil {
		return err
	}
	if _, err := f.Write(append(raw, '\n')); err != nil {
		return err
	}
	if _, err := f.finish(0, 0); err != nil {
		return err
	}
	return w.fs.SyncDir(w.dir)
}

// apportion says how many bytes are whose, by rows of samples and profiles.
func (w *Writer) apportion() {
	var bytes, weights int64
	for _, f := range w.meta.Files {
		bytes += f.Bytes
	}
	for _, types := range w.weights {
		for _, n := range types {
			weights += n
		}
	}
	w.meta.Services, w.meta.Shares = map[string]int64{}, map[string]map[string]int64{}
	for i, name := range w.names {
		share := map[string]int64{}
		w.meta.Shares[name] = share
		for typ, n := range w.weights[i] {
			if n > 0 {
				n = int64(float64(bytes) * float64(n) / float64(max(1, weights)))
				share[w.meta.Types[typ]] = n
				w.meta.Services[name] += n
			}
		}
	}
}

// writeTables writes the dictionary.
func (w *Writer) writeTables(files map[string]File) error {
	stacks, err := newTable[stackRow](w.fs, w.dir, StacksFile)
	if err != nil {
		return err
	}
	t := w.t
	for i := 1; i < t.Stacks.Len(); i++ {
		if err := stacks.add(stackRow{uint32(i), t.Stacks.Parent[i], t.Stacks.Loc[i], t.StackIDs[i]}); err != nil {
			return err
		}
	}
	if err := stacks.close(files); err != nil {
		return err
	}
	frames, err := newTable[frameRow](w.fs, w.dir, FramesFile)
	if err != nil {
		return err
	}
	for i, l := range t.Locations {
		m := t.Mappings[l.Mapping]
		row := frameRow{Location: uint32(i), Depth: -1, Address: l.Address, Mapping: t.Strings[m.File], BuildID: t.Strings[m.BuildID], Folded: l.Folded}
		for j, ln := range t.Lines[l.FirstLine : l.FirstLine+l.NumLines] {
			f := t.Functions[ln.Function]
			row.Depth, row.Function, row.SystemName, row.File = int32(j), t.Strings[f.Name], t.Strings[f.SystemName], t.Strings[f.File]
			row.StartLine, row.Line, row.Column = f.StartLine, ln.Line, ln.Column
			frames.texts += len(row.Function) + len(row.SystemName) + len(row.File) + len(row.Mapping) + len(row.BuildID)
			if err := frames.add(row); err != nil {
				return err
			}
		}
		if l.NumLines == 0 {
			if err := frames.add(row); err != nil {
				return err
			}
		}
	}
	if err := frames.close(files); err != nil {
		return err
	}
	if len(t.LabelSets) <= 1 {
		return nil
	}
	labels, err := newTable[labelRow](w.fs, w.dir, LabelsFile)
	if err != nil {
		return err
	}
	for i, set := range t.LabelSets {
		for _, l := range set {
			row := labelRow{uint32(i), t.Strings[l.Key], t.Strings[l.Str], l.Num, t.Strings[l.Unit]}
			labels.texts += len(row.Key) + len(row.Value) + len(row.Unit)
			if err := labels.add(row); err != nil {
				return err
			}
		}
	}
	return labels.close(files)
}

// Abort removes what was written. What cannot be removed has no meta.json, and is nothing.
func (w *Writer) Abort() error {
	if w.failed == nil {
		w.failed = fmt.Errorf("block %s: aborted", w.meta.ULID)
	}
	for _, out := range w.open() {
		out.f.Close() // a second time for those that are closed: harmless
	}
	names, err := w.fs.List(w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// meta.json first: a folder with it must be whole.
	if slices.Contains(names, MetaFile) {
		err = errors.Join(err, w.fs.Remove(filepath.Join(w.dir, MetaFile)))
	}
	for _, name := range names {
		if name != MetaFile {
			err = errors.Join(err, w.fs.Remove(filepath.Join(w.dir, name)))
		}
	}
	return errors.Join(err, w.fs.Remove(w.dir))
}

func (w *Writer) open() (out []*fileWriter) {
	if w.profiles != nil {
		out = append(out, w.profiles.out)
	}
	if w.samples != nil {
		out = append(out, w.samples.out)
	}
	if w.functions != nil {
		out = append(out, w.functions.out)
	}
	if w.totals != nil {
		out = append(out, w.totals.out)
	}
	return out
}
