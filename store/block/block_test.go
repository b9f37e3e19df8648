package block_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

// hour is where the windows of these tests start; the start of an hour.
var hour = time.Unix(1_700_002_800, 0).UTC()

// content is a block's rows in memory.
type content struct {
	meta block.Meta
	dict *block.Dict
	rows []*block.Row
}

// labelsOf is a series' labels.
func labelsOf(t testing.TB, service, pod string) profile.Labels {
	t.Helper()
	ls, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: service}, profile.Label{Name: profile.LabelInstance, Value: pod})
	if err != nil {
		t.Fatal(err)
	}
	return ls
}

// timed is a profile with whose and when it is.
type timed struct {
	p      *profile.Profile
	name   string
	labels profile.Labels
	from   time.Time
}

// contentOf makes rows of profiles, in a block's order.
func contentOf(t testing.TB, level block.Level, ps []timed) *content {
	t.Helper()
	c := &content{dict: block.NewDict(), meta: block.Meta{ULID: ulid.MustNew(uint64(hour.UnixMilli()), rand.NewChaCha8([32]byte{byte(level)})),
		Region: "local", Tenant: "default", Level: level, Partition: hour, Created: hour.Add(time.Hour)}}
	if level == block.LevelDay {
		c.meta.Partition = hour.Truncate(24 * time.Hour)
	}
	types := map[string]bool{}
	for _, x := range ps {
		s := block.Series{Name: x.name, Labels: x.labels}
		if i, ok := slices.BinarySearchFunc(c.meta.Series, s, func(a, b block.Series) int { return a.Compare(&b) }); !ok {
			c.meta.Series = slices.Insert(c.meta.Series, i, s)
		}
		for _, st := range x.p.SampleTypes {
			types[profile.Type{Name: x.name, Sample: st, Period: x.p.PeriodType}.String()] = true
		}
	}
	for typ := range types {
		c.meta.Types = append(c.meta.Types, typ)
	}
	slices.Sort(c.meta.Types)
	for n, x := range ps {
		stacks, sets := c.dict.Intern(x.p)
		s := block.Series{Name: x.name, Labels: x.labels}
		si, _ := slices.BinarySearchFunc(c.meta.Series, s, func(a, b block.Series) int { return a.Compare(&b) })
		for col, st := range x.p.SampleTypes {
			ti, _ := slices.BinarySearch(c.meta.Types, profile.Type{Name: x.name, Sample: st, Period: x.p.PeriodType}.String())
			row := &block.Row{Series: uint32(si), Type: uint32(ti), ID: block.ID{Hi: uint64(n) * 0x9e3779b97f4a7c15, Lo: uint64(n)}, From: x.from.UnixNano(), To: x.from.Add(10 * time.Second).UnixNano(),
				Duration: int64(10 * time.Second), Period: x.p.Period}
			sums := map[uint64]int64{}
			for i, v := range x.p.Values[col] {
				sums[uint64(sets[x.p.SampleLabels[i]])<<32|uint64(stacks[x.p.SampleStack[i]])] += v
			}
			keys := make([]uint64, 0, len(sums))
			for k, v := range sums {
				if v != 0 {
					keys = append(keys, k)
				}
			}
			slices.Sort(keys)
			for _, k := range keys {
				row.Sets, row.Stacks, row.Values = append(row.Sets, uint32(k>>32)), append(row.Stacks, uint32(k)), append(row.Values, sums[k])
				row.Total += sums[k]
			}
			c.rows = append(c.rows, row)
		}
	}
	c.sort()
	return c
}

// sort brings rows into a block's order.
func (c *content) sort() {
	slices.SortFunc(c.rows, func(a, b *block.Row) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Series, b.Series), cmp.Compare(a.From, b.From), cmp.Compare(a.ID.Hi, b.ID.Hi), cmp.Compare(a.ID.Lo, b.ID.Lo))
	})
}

// write writes the block to a folder. Above LevelHead the roll-up by function comes from a block of LevelHead.
func (c *content) write(fs vfs.FS, dir string) (block.Meta, error) {
	w, err := block.NewWriter(dir, c.meta, &c.dict.Tables, block.WriterOptions{FS: fs})
	if err != nil {
		return block.Meta{}, err
	}
	for _, r := range c.rows {
		if err := w.Add(r); err != nil {
			w.Abort()
			return block.Meta{}, err
		}
	}
	if c.meta.Level > block.LevelHead {
		low := *c
		low.meta.Level, low.meta.Partition = block.LevelHead, hour
		m, err := low.write(fs, dir+".low")
		if err != nil {
			w.Abort()
			return m, err
		}
		r, err := block.Open(context.Background(), m, block.DirSource(fs, dir+".low"))
		if err != nil {
			return m, err
		}
		for row, err := range r.Functions(context.Background(), nil, nil) {
			if err == nil {
				err = w.AddFunction(row)
			}
			if err != nil {
				w.Abort()
				return m, err
			}
		}
	}
	return w.Close()
}

// mustWrite is write on a memory of its own.
func (c *content) mustWrite(t testing.TB) (vfs.FS, block.Meta) {
	t.Helper()
	fs := vfs.NewMem()
	m, err := c.write(fs, "/block")
	if err != nil {
		t.Fatal(err)
	}
	return fs, m
}

// randomProfiles have inlined frames, frames without symbols, sample labels, negative values and zeros.
func randomProfiles(t testing.TB, rng *rand.Rand, n int) (out []timed) {
	t.Helper()
	kinds := map[string][]profile.ValueType{
		"process_cpu": {{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
		"memory":      {{Type: "alloc_space", Unit: "bytes"}, {Type: "inuse_space", Unit: "bytes"}},
	}
	for range n {
		name := []string{"process_cpu", "memory"}[rng.IntN(2)]
		types := kinds[name]
		b := profile.NewBuilder(types...)
		m := b.Mapping(profile.Mapping{Start: uint64(1+rng.IntN(5)) << 12, Limit: 1 << 20, Offset: 16, File: b.String("libc.so"), BuildID: b.String([]string{"", "abc"}[rng.IntN(2)])})
		line := func() profile.Line {
			fn := b.String(fmt.Sprint("f", rng.IntN(30)))
			return profile.Line{Function: b.Function(profile.Function{Name: fn, SystemName: fn, File: b.String("f.go"), StartLine: int64(rng.IntN(3))}), Line: int64(rng.IntN(3)), Column: int64(rng.IntN(2))}
		}
		nodes := []uint32{0}
		for range 1 + rng.IntN(40) {
			var loc uint32
			switch rng.IntN(6) {
			case 0:
				loc = b.Location(profile.Location{Mapping: m, Address: 1<<16 + uint64(rng.IntN(4)), Folded: rng.IntN(3) == 0})
			case 1:
				loc = b.Location(profile.Location{Mapping: m, Address: rng.Uint64()}, line(), line())
			default:
				loc = b.Location(profile.Location{Address: rng.Uint64()}, line())
			}
			nodes = append(nodes, b.Stack(nodes[rng.IntN(len(nodes))], loc))
		}
		for range rng.IntN(60) {
			set := uint32(0)
			if rng.IntN(4) == 0 {
				ls := []profile.SampleLabel{{Key: b.String("route"), Str: b.String(fmt.Sprint("/", rng.IntN(9)))}}
				if rng.IntN(2) == 0 {
					ls = append(ls, profile.SampleLabel{Key: b.String("size"), Num: int64(rng.IntN(3)), Unit: b.String("bytes")})
				}
				set = b.LabelSet(ls)
			}
			values := make([]int64, len(types))
			for i := range values {
				values[i] = int64(rng.IntN(7)-2) * 10_000_000
				if rng.IntN(50) == 0 {
					values[i] = rng.Int64() >> 16
				}
			}
			b.Add(nodes[rng.IntN(len(nodes))], set, values...)
		}
		p := b.Profile()
		p.PeriodType, p.Period = types[len(types)-1], 1
		out = append(out, timed{p, name, labelsOf(t, fmt.Sprint("s", rng.IntN(4)), fmt.Sprint("p", rng.IntN(2))), hour.Add(time.Duration(rng.IntN(3600)) * time.Second)})
	}
	return out
}

func open(t testing.TB, fs vfs.FS, m block.Meta) *block.Reader {
	t.Helper()
	r, err := block.Open(context.Background(), m, block.DirSource(fs, "/block"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRoundTrip writes random rows and reads them back, all and in parts.
func TestRoundTrip(t *testing.T) {
	ctx := context.Background()
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 1))
		level := []block.Level{block.LevelHead, block.LevelHour, block.LevelDay}[seed%3]
		c := contentOf(t, level, randomProfiles(t, rng, 1+rng.IntN(80)))
		fs, m := c.mustWrite(t)
		raw := readFile(t, fs, "/block/"+block.MetaFile)
		if again, err := block.ReadMeta(raw); err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("meta.json says\n%+v\nClose said\n%+v\n%v", again, m, err)
		}
		if err := block.Verify(ctx, m, block.DirSource(fs, "/block")); err != nil {
			t.Fatal(err)
		}
		r := open(t, fs, m)
		tables, err := r.Tables(ctx)
		if err != nil {
			t.Fatal(err)
		}
		sameTables(t, tables, &c.dict.Tables)
		cols, err := r.Profiles(ctx, nil)
		if err != nil || cols.Len() != len(c.rows) {
			t.Fatalf("%d rows of %d: %v", cols.Len(), len(c.rows), err)
		}
		for i, want := range c.rows {
			got := block.Row{Series: cols.Series[i], Type: cols.Type[i], ID: cols.ID[i], From: cols.From[i], To: cols.To[i], Duration: cols.Duration[i], Period: cols.Period[i], Total: cols.Total[i]}
			var s block.SampleColumns
			if err := r.Samples(ctx, cols.First[i], int64(cols.N[i]), &s); err != nil {
				t.Fatal(err)
			}
			got.Sets, got.Stacks, got.Values = s.Sets, s.Stacks, s.Values
			if len(got.Values) == 0 {
				got.Sets, got.Stacks, got.Values = nil, nil, nil
			}
			if !reflect.DeepEqual(&got, want) {
				t.Fatalf("row %d is\n%+v\nwant\n%+v", i, got, *want)
			}
		}
		for typ := range m.Types {
			some, err := r.Profiles(ctx, []uint32{uint32(typ)})
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, row := range c.rows {
				if row.Type == uint32(typ) {
					n++
				}
			}
			if some.Len() != n {
				t.Fatalf("%d rows of type %d, want %d", some.Len(), typ, n)
			}
		}
		checkTotals(t, c, r)
		checkFunctions(t, c, r)
	}
}

func readFile(t testing.TB, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// sameTables compares what the tables say; their numbering of strings, functions and lines may differ.
func sameTables(t *testing.T, got, want *block.Tables) {
	t.Helper()
	if !slices.Equal(got.Stacks.Parent, want.Stacks.Parent) || !slices.Equal(got.Stacks.Loc, want.Stacks.Loc) || !slices.Equal(got.StackIDs, want.StackIDs) {
		t.Fatal("the stacks differ")
	}
	say := func(x *block.Tables, l int) string {
		loc := x.Locations[l]
		m := x.Mappings[loc.Mapping]
		s := fmt.Sprint(loc.Address, loc.Folded, x.Strings[m.File], x.Strings[m.BuildID])
		for _, ln := range x.Lines[loc.FirstLine : loc.FirstLine+loc.NumLines] {
			f := x.Functions[ln.Function]
			s += fmt.Sprint("|", x.Strings[f.Name], x.Strings[f.SystemName], x.Strings[f.File], f.StartLine, ln.Line, ln.Column)
		}
		return s
	}
	for l := range want.Locations {
		if g, w := say(got, l), say(want, l); g != w {
			t.Fatalf("location %d is %s, want %s", l, g, w)
		}
	}
	labels := func(x *block.Tables, i int) (out []string) {
		for _, l := range x.LabelSets[i] {
			out = append(out, fmt.Sprint(x.Strings[l.Key], x.Strings[l.Str], l.Num, x.Strings[l.Unit]))
		}
		return out
	}
	if len(got.LabelSets) != len(want.LabelSets) {
		t.Fatalf("%d label sets, want %d", len(got.LabelSets), len(want.LabelSets))
	}
	for i := range want.LabelSets {
		if g, w := labels(got, i), labels(want, i); !slices.Equal(g, w) {
			t.Fatalf("label set %d is %q, want %q", i, g, w)
		}
	}
}

func checkTotals(t *testing.T, c *content, r *block.Reader) {
	t.Helper()
	if !r.HasTotals() {
		return
	}
	type key struct{ typ, series, set, stack uint32 }
	want := map[key]int64{}
	for _, row := range c.rows {
		for i, v := range row.Values {
			want[key{row.Type, row.Series, row.Sets[i], row.Stacks[i]}] += v
		}
	}
	for typ := range r.Meta().Types {
		var series []uint32
		for s := range r.Meta().Series {
			if s%2 == 0 {
				series = append(series, uint32(s))
			}
		}
		for _, ask := range [][]uint32{nil, series, {}} {
			cols, err := r.Totals(context.Background(), uint32(typ), ask)
			if err != nil {
				t.Fatal(err)
			}
			got := map[key]int64{}
			for i, s := range cols.Stacks {
				got[key{uint32(typ), cols.Series[i], cols.Sets[i], s}] = cols.Values[i]
			}
			n := 0
			for k, v := range want {
				if v == 0 || k.typ != uint32(typ) || ask != nil && !slices.Contains(ask, k.series) {
					continue
				}
				if n++; got[k] != v {
					t.Fatalf("total of %+v is %d, want %d", k, got[k], v)
				}
			}
			if len(got) != n {
				t.Fatalf("%d totals, want %d", len(got), n)
			}
		}
	}
}

func checkFunctions(t *testing.T, c *content, r *block.Reader) {
	t.Helper()
	type key struct {
		typ, series uint32
		function    string
		minute      int64
	}
	type cell struct{ self, cumulative, samples int64 }
	want := map[key]cell{}
	tb := &c.dict.Tables
	for _, row := range c.rows {
		for i, v := range row.Values {
			on := map[string]bool{}
			for s := row.Stacks[i]; s != 0; s = tb.Stacks.Parent[s] {
				l := tb.Locations[tb.Stacks.Loc[s]]
				for j, ln := range tb.Lines[l.FirstLine : l.FirstLine+l.NumLines] {
					name := tb.Strings[tb.Functions[ln.Function].Name]
					k := key{row.Type, row.Series, name, row.From / int64(time.Minute) * int64(time.Minute)}
					x := want[k]
					if !on[name] {
						on[name] = true
						x.cumulative += v
						x.samples++
					}
					if s == row.Stacks[i] && j == 0 {
						x.self += v
					}
					want[k] = x
				}
			}
		}
	}
	for _, names := range [][]string{nil, {"f1", "f7"}, {"none"}} {
		n := 0
		for row, err := range r.Functions(context.Background(), names, nil) {
			if err != nil {
				t.Fatal(err)
			}
			n++
			if got := (cell{row.Self, row.Cumulative, row.Samples}); got != want[key{row.Type, row.Series, row.Function, row.Minute}] {
				t.Fatalf("%+v, want %+v", row, want[key{row.Type, row.Series, row.Function, row.Minute}])
			}
		}
		m := 0
		for k := range want {
			if names == nil || slices.Contains(names, k.function) {
				m++
			}
		}
		if n != m {
			t.Fatalf("%d rows of %q, want %d", n, names, m)
		}
	}
}

// TestDamage flips bytes in every region of every file: each answer is ErrCorrupt, or the same as before.
func TestDamage(t *testing.T) {
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(7, 7))
	c := contentOf(t, block.LevelHour, randomProfiles(t, rng, 60))
	whole, m := c.mustWrite(t)
	files := map[string][]byte{}
	for name := range m.Files {
		files[name] = readFile(t, whole, "/block/"+name)
	}
	refused, tried := 0, 0
	for name, good := range files {
		for at := 0; at < len(good); at += max(1, len(good)/60) {
			bad := slices.Clone(good)
			bad[at] ^= byte(1 + rng.IntN(255))
			src := func(_ context.Context, file string, off, n int64) ([]byte, error) {
				b := files[file]
				if file == name {
					b = bad
				}
				return slices.Clone(b[off : off+n]), nil
			}
			tried++
			if err := block.Verify(ctx, m, src); !errors.Is(err, block.ErrCorrupt) {
				t.Fatalf("%s, byte %d: Verify says %v", name, at, err)
			}
			if err := readAll(ctx, m, src); err != nil {
				if !errors.Is(err, block.ErrCorrupt) {
					t.Fatalf("%s, byte %d: %v", name, at, err)
				}
				refused++
			}
		}
	}
	if refused < tried*9/10 {
		t.Errorf("%d of %d damages were read over", tried-refused, tried)
	}
}

// readAll reads everything there is.
func readAll(ctx context.Context, m block.Meta, src block.Source) error {
	r, err := block.Open(ctx, m, src)
	if err != nil {
		return err
	}
	if _, err := r.Tables(ctx); err != nil {
		return err
	}
	if _, err := r.Profiles(ctx, nil); err != nil {
		return err
	}
	var s block.SampleColumns
	if err := r.Samples(ctx, 0, m.Samples, &s); err != nil {
		return err
	}
	for typ := range m.Types {
		if !r.HasTotals() {
			break
		}
		if _, err := r.Totals(ctx, uint32(typ), nil); err != nil {
			return err
		}
	}
	for _, err := range r.Functions(ctx, nil, nil) {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestCrash crashes the disk at every operation of the writer: a folder has meta.json only if all
// of it is there.
func TestCrash(t *testing.T) {
	c := contentOf(t, block.LevelHead, randomProfiles(t, rand.New(rand.NewPCG(3, 3)), 5))
	for at := 0; ; at++ {
		mem := vfs.NewMem()
		fs := vfs.Hook(mem, vfs.FailNth(at, errors.New("the disk is gone")))
		_, err := c.write(fs, "/block")
		if err == nil {
			if at < 20 {
				t.Fatalf("the writer has %d operations: too few to prove anything", at)
			}
			return
		}
		for _, after := range []*vfs.Mem{mem.Crash(nil), mem} {
			names, _ := after.List("/block")
			if !slices.Contains(names, block.MetaFile) {
				continue
			}
			m, err := block.ReadMeta(readFile(t, after, "/block/"+block.MetaFile))
			if err != nil {
				continue // a torn meta.json is none
			}
			if err := block.Verify(context.Background(), m, block.DirSource(after, "/block")); err != nil {
				t.Fatalf("operation %d: %v", at, err)
			}
		}
	}
}

// TestRefused holds the writer to what it may be given.
func TestRefused(t *testing.T) {
	c := contentOf(t, block.LevelHead, randomProfiles(t, rand.New(rand.NewPCG(4, 4)), 10))
	var full *block.Row
	for _, r := range c.rows {
		if len(r.Values) > 2 {
			full = r
		}
	}
	for name, bad := range map[string]func(block.Row) block.Row{
		"stack": func(r block.Row) block.Row { r.Stacks = slices.Clone(r.Stacks); r.Stacks[0] = 1 << 30; return r },
		"set":   func(r block.Row) block.Row { r.Sets = slices.Clone(r.Sets); r.Sets[0] = 1 << 30; return r },
		"order": func(r block.Row) block.Row {
			r.Stacks = slices.Clone(r.Stacks)
			r.Stacks[1] = r.Stacks[0]
			r.Sets = slices.Clone(r.Sets)
			r.Sets[1] = r.Sets[0]
			return r
		},
		"total":  func(r block.Row) block.Row { r.Total++; return r },
		"type":   func(r block.Row) block.Row { r.Type = 99; return r },
		"series": func(r block.Row) block.Row { r.Series = 99; return r },
		"length": func(r block.Row) block.Row { r.Values = r.Values[1:]; return r },
	} {
		fs := vfs.NewMem()
		w, err := block.NewWriter("/block", c.meta, &c.dict.Tables, block.WriterOptions{FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		row := bad(*full)
		if err := w.Add(&row); err == nil {
			t.Errorf("%s: it was taken", name)
		}
		if _, err := w.Close(); err == nil {
			t.Errorf("%s: the block was closed all the same", name)
		}
		if names, _ := fs.List("/block"); len(names) > 0 {
			t.Errorf("%s: %q are left", name, names)
		}
	}
	m := c.meta
	m.Types = slices.Clone(m.Types)
	slices.Reverse(m.Types)
	if _, err := block.NewWriter("/x", m, &c.dict.Tables, block.WriterOptions{FS: vfs.NewMem()}); err == nil {
		t.Error("types in the wrong order were taken")
	}
}

// TestDictAdd holds Add to Intern: bringing a table in gives the stacks that the profiles had.
func TestDictAdd(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	all, merged := block.NewDict(), block.NewDict()
	for range 6 {
		part := block.NewDict()
		for _, x := range randomProfiles(t, rng, 10) {
			part.Intern(x.p)
			all.Intern(x.p)
		}
		stacks, sets := merged.Add(&part.Tables, nil, nil)
		for i, s := range stacks {
			if merged.StackIDs[s] != part.StackIDs[i] {
				t.Fatalf("stack %d became another", i)
			}
		}
		if len(sets) != len(part.LabelSets) {
			t.Fatal("label sets are missing")
		}
	}
	if err := merged.CheckIDs(); err != nil {
		t.Fatal(err)
	}
	a, b := slices.Sorted(slices.Values(all.StackIDs)), slices.Sorted(slices.Values(merged.StackIDs))
	if !slices.Equal(a, b) || len(all.LabelSets) != len(merged.LabelSets) || len(all.Strings) != len(merged.Strings) {
		t.Errorf("%d stacks and %d label sets, want %d and %d", len(b), len(merged.LabelSets), len(a), len(all.LabelSets))
	}
	used := make([]bool, all.Stacks.Len())
	used[len(used)-1] = true
	one := block.NewDict()
	one.Add(&all.Tables, used, make([]bool, len(all.LabelSets)))
	depth := 0
	for s := uint32(len(used) - 1); s != 0; s = all.Stacks.Parent[s] {
		depth++
	}
	if one.Stacks.Len() != depth+1 || len(one.LabelSets) != 1 {
		t.Errorf("%d stacks for a path of %d", one.Stacks.Len(), depth)
	}
}

// FuzzMeta holds the reader of meta.json to giving an error or a meta that says the same again.
func FuzzMeta(f *testing.F) {
	for level := range 3 {
		c := contentOf(f, block.Level(level), randomProfiles(f, rand.New(rand.NewPCG(uint64(level), 9)), 5))
		fs, _ := c.mustWrite(f)
		f.Add(readFile(f, fs, "/block/"+block.MetaFile))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := block.ReadMeta(raw)
		if err != nil {
			return
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := block.ReadMeta(again); err != nil {
			t.Fatalf("what was read is refused when written: %v", err)
		}
	})
}

// corpusBlock is an hour of real CPU profiles: services x pods x a profile a minute, each with values of its own.
func corpusBlock(t testing.TB, services, pods, minutes int) *content {
	t.Helper()
	var all []timed
	for _, ps := range corpus(t, services, pods, minutes) {
		all = append(all, ps...)
	}
	return contentOf(t, block.LevelHour, all)
}

// corpusMinutes is the same as a block of LevelHead for each minute.
func corpusMinutes(t testing.TB, services, pods, minutes int) (out []*content) {
	t.Helper()
	for _, ps := range corpus(t, services, pods, minutes) {
		out = append(out, contentOf(t, block.LevelHead, ps))
	}
	return out
}

// corpus is profiles by minute.
func corpus(t testing.TB, services, pods, minutes int) [][]timed {
	t.Helper()
	paths, err := filepath.Glob("../../profile/testdata/corpus/*cpu*.pb.gz")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no CPU profiles in profile/testdata/corpus: %v", err)
	}
	var ps []*profile.Profile
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		p, err := profile.DecodeBytes(raw, profile.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if p.Column("cpu") >= 0 && p.NumSamples() > 20 {
			ps = append(ps, p)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	all := make([][]timed, minutes)
	for s := range services {
		for pod := range pods {
			for m := range minutes {
				p := *ps[(s+m%3)%len(ps)]
				values := make([][]int64, len(p.Values))
				for i := range p.Values[0] {
					k := int64(rng.IntN(4))
					for c := range values {
						values[c] = append(values[c], p.Values[c][i]*k)
					}
				}
				p.Values = values
				all[m] = append(all[m], timed{&p, "process_cpu", labelsOf(t, fmt.Sprintf("service-%02d", s), fmt.Sprint("pod-", pod)), hour.Add(time.Duration(m) * time.Minute)})
			}
		}
	}
	return all
}

// BenchmarkWrite also reports what a sample costs on disk.
func BenchmarkWrite(b *testing.B) {
	c := corpusBlock(b, 20, 5, 60)
	dir := b.TempDir()
	samples := 0
	for _, r := range c.rows {
		samples += len(r.Values)
	}
	b.ReportAllocs()
	var m block.Meta
	n := 0
	for b.Loop() {
		var err error
		if m, err = c.write(vfs.Default, filepath.Join(dir, fmt.Sprint(n))); err != nil {
			b.Fatal(err)
		}
		n++
	}
	for name, f := range m.Files {
		b.ReportMetric(float64(f.Bytes)/float64(samples), name+"-B/sample")
	}
	b.ReportMetric(float64(samples), "samples")
	b.ReportMetric(float64(samples)*float64(b.N)/b.Elapsed().Seconds(), "samples/s")
}

func BenchmarkSamples(b *testing.B) {
	c := corpusBlock(b, 20, 5, 60)
	fs, m := c.mustWrite(b)
	r := open(b, fs, m)
	var s block.SampleColumns
	b.SetBytes(m.Files[block.SamplesFile].Bytes)
	for b.Loop() {
		if err := r.Samples(context.Background(), 0, m.Samples, &s); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(m.Samples)*float64(b.N)/b.Elapsed().Seconds(), "samples/s")
}

func BenchmarkTables(b *testing.B) {
	c := corpusBlock(b, 20, 5, 5)
	fs, m := c.mustWrite(b)
	r := open(b, fs, m)
	for b.Loop() {
		if _, err := r.Tables(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(m.Stacks)*float64(b.N)/b.Elapsed().Seconds(), "stacks/s")
}

func BenchmarkFunctions(b *testing.B) {
	c := corpusBlock(b, 20, 5, 60)
	fs, m := c.mustWrite(b)
	r := open(b, fs, m)
	for b.Loop() {
		for _, err := range r.Functions(context.Background(), []string{"runtime.mallocgc"}, nil) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
