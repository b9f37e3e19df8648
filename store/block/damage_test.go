package block_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/zeebo/xxh3"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

// memory is a block in memory.
type memory map[string][]byte

func (m memory) source(_ context.Context, file string, off, n int64) ([]byte, error) {
	return slices.Clone(m[file][off : off+n]), nil
}

func memoryOf(t testing.TB, c *content) (memory, block.Meta) {
	t.Helper()
	fs, meta := c.mustWrite(t)
	m := memory{}
	for name := range meta.Files {
		m[name] = readFile(t, fs, "/block/"+name)
	}
	return m, meta
}

// resum gives a file the checksums of its bytes, as one who means harm would.
func resum(f block.File, b []byte) block.File {
	f.Bytes, f.XXH3, f.Chunks = int64(len(b)), block.FormatID(xxh3.Hash128(b)), nil
	for at := 0; at < len(b); at += block.ChunkBytes {
		f.Chunks = binary.BigEndian.AppendUint64(f.Chunks, xxh3.Hash(b[at:min(at+block.ChunkBytes, len(b))]))
	}
	return f
}

// FuzzReader alters bytes of a file and makes the checksums fit: what is behind them must
// stand on its own. An answer is ErrCorrupt or an answer, and in range.
func FuzzReader(f *testing.F) {
	c := contentOf(f, block.LevelHour, randomProfiles(f, rand.New(rand.NewPCG(21, 21)), 6))
	whole, meta := memoryOf(f, c)
	names := []string{block.ProfilesFile, block.SamplesFile, block.StacksFile, block.FramesFile, block.LabelsFile, block.FunctionsFile, block.TotalsFile}
	for i, name := range names {
		n := uint16(len(whole[name]))
		f.Add(byte(i), uint16(4), []byte{0xff})
		f.Add(byte(i), n/2, []byte{1, 2, 3})
		f.Add(byte(i), n-20, []byte{0x80, 0xff, 0xff, 0xff, 0xff, 0x0f})
		f.Add(byte(i), n-6, []byte{0xff})
	}
	f.Fuzz(func(t *testing.T, file byte, at uint16, with []byte) {
		name := names[int(file)%len(names)]
		bad := slices.Clone(whole[name])
		for i, x := range with {
			bad[(int(at)+i)%len(bad)] ^= x
		}
		m := memory{}
		for n, b := range whole {
			m[n] = b
		}
		m[name] = bad
		x := meta
		x.Files = map[string]block.File{}
		for n, v := range meta.Files {
			x.Files[n] = v
		}
		x.Files[name] = resum(x.Files[name], bad)
		ctx := context.Background()
		for _, err := range []error{readAll(ctx, x, m.source), block.Verify(ctx, x, m.source)} {
			if err != nil && !errors.Is(err, block.ErrCorrupt) {
				t.Fatalf("%s: %v", name, err)
			}
		}
	})
}

// TestShort gives files that end early, or are empty, or are another's: ErrCorrupt, whatever the checksums say.
func TestShort(t *testing.T) {
	c := contentOf(t, block.LevelHour, randomProfiles(t, rand.New(rand.NewPCG(22, 22)), 20))
	whole, meta := memoryOf(t, c)
	for name, good := range whole {
		for what, bad := range map[string][]byte{"half": good[:len(good)/2], "zeros": make([]byte, len(good)), "stacks": whole[block.StacksFile], "samples": whole[block.SamplesFile]} {
			if bytes.Equal(good, bad) {
				continue
			}
			m := memory{}
			for n, b := range whole {
				m[n] = b
			}
			m[name] = bad
			x := meta
			x.Files = map[string]block.File{}
			for n, v := range meta.Files {
				x.Files[n] = v
			}
			f := resum(x.Files[name], bad)
			f.Tail = min(f.Tail, f.Bytes)
			x.Files[name] = f
			if err := block.Verify(context.Background(), x, m.source); !errors.Is(err, block.ErrCorrupt) || !strings.Contains(fmt.Sprint(err), meta.ULID.String()) {
				t.Errorf("%s is %s: %v", name, what, err)
			}
		}
	}
}

// TestVerifyRollup gives a block a roll-up by function that is off by one in one place: Verify says so.
func TestVerifyRollup(t *testing.T) {
	ctx := context.Background()
	low := contentOf(t, block.LevelHead, randomProfiles(t, rand.New(rand.NewPCG(23, 23)), 30))
	fs, m := low.mustWrite(t)
	var rows []block.FunctionRow
	for row, err := range open(t, fs, m).Functions(ctx, nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	high := *low
	high.meta.Level = block.LevelHour
	for name, change := range map[string]func(rows []block.FunctionRow) []block.FunctionRow{
		"nothing":    func(rows []block.FunctionRow) []block.FunctionRow { return rows },
		"self":       func(rows []block.FunctionRow) []block.FunctionRow { rows[7].Self++; return rows },
		"cumulative": func(rows []block.FunctionRow) []block.FunctionRow { rows[7].Cumulative--; return rows },
		"samples":    func(rows []block.FunctionRow) []block.FunctionRow { rows[7].Samples++; return rows },
		"minute":     func(rows []block.FunctionRow) []block.FunctionRow { rows[7].Minute++; return rows },
		"missing":    func(rows []block.FunctionRow) []block.FunctionRow { return slices.Delete(rows, 7, 8) },
		"name":       func(rows []block.FunctionRow) []block.FunctionRow { rows[len(rows)-1].Function += "x"; return rows },
	} {
		mem := vfs.NewMem()
		w, err := block.NewWriter("/block", high.meta, &high.dict.Tables, block.WriterOptions{FS: mem})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range high.rows {
			if err := w.Add(r); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range change(slices.Clone(rows)) {
			if err := w.AddFunction(r); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		m, err := w.Close()
		if err != nil {
			t.Fatal(err)
		}
		err = block.Verify(ctx, m, block.DirSource(mem, "/block"))
		if name == "nothing" && err != nil || name != "nothing" && !errors.Is(err, block.ErrCorrupt) {
			t.Errorf("%s: Verify says %v", name, err)
		}
	}
}

var writeFixture = flag.Bool("write-fixture", false, "write store/block/testdata/v1 anew: only before a version is released")

// TestFixture reads blocks of version 1 that were written when it was fixed. Every later program must.
func TestFixture(t *testing.T) {
	ctx := context.Background()
	for level, name := range map[block.Level]string{block.LevelHead: "head", block.LevelDay: "day"} {
		dir := filepath.Join("testdata", "v1", name)
		if *writeFixture {
			c := contentOf(t, level, randomProfiles(t, rand.New(rand.NewPCG(1, uint64(level))), 12))
			c.meta.ULID = ulid.MustNew(uint64(hour.UnixMilli()), bytes.NewReader(make([]byte, 10)))
			if _, err := c.write(vfs.Default, dir); err != nil {
				t.Fatal(err)
			}
			os.RemoveAll(dir + ".low")
			if err := os.WriteFile(dir+".txt", []byte(dump(t, dir)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := os.ReadFile(filepath.Join(dir, block.MetaFile))
		if err != nil {
			t.Fatal(err)
		}
		m, err := block.ReadMeta(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := block.Verify(ctx, m, block.DirSource(vfs.Default, dir)); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(dir + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		if got := dump(t, dir); got != string(want) || len(want) < 10000 {
			t.Errorf("%s reads as %d bytes that differ from its .txt of %d", dir, len(got), len(want))
		}
	}
}

// dump is all that a block says, in text.
func dump(t *testing.T, dir string) string {
	t.Helper()
	ctx := context.Background()
	raw, err := os.ReadFile(filepath.Join(dir, block.MetaFile))
	if err != nil {
		t.Fatal(err)
	}
	m, err := block.ReadMeta(raw)
	if err != nil {
		t.Fatal(err)
	}
	r, err := block.Open(ctx, m, block.DirSource(vfs.Default, dir))
	if err != nil {
		t.Fatal(err)
	}
	tb, err := r.Tables(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintln(&b, m.ULID, m.Region, m.Tenant, m.Level, m.Partition, m.From, m.To, m.Created, m.Types, m.Profiles, m.Samples, m.Stacks)
	c, err := r.Profiles(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	var s block.SampleColumns
	for i := range c.Type {
		fmt.Fprintln(&b, m.Types[c.Type[i]], m.Series[c.Series[i]], c.From[i], c.To[i], c.Duration[i], c.Period[i], c.Total[i], block.FormatID(c.ID[i]))
		if err := r.Samples(ctx, c.First[i], int64(c.N[i]), &s); err != nil {
			t.Fatal(err)
		}
		for k, v := range s.Values {
			path, _, line := framesOf(tb, s.Stacks[k])
			fmt.Fprintf(&b, "  %016x %s %s %d", tb.StackIDs[s.Stacks[k]], strings.Join(path, ";"), line, v)
			for _, l := range tb.LabelSets[s.Sets[k]] {
				fmt.Fprintf(&b, " %s=%s%d%s", tb.Strings[l.Key], tb.Strings[l.Str], l.Num, tb.Strings[l.Unit])
			}
			fmt.Fprintln(&b)
		}
	}
	for row, err := range r.Functions(ctx, nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, row)
	}
	if !r.HasTotals() {
		return b.String()
	}
	for typ := range m.Types {
		c, err := r.Totals(ctx, uint32(typ), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range c.Values {
			fmt.Fprintf(&b, "total %d %d %d %016x %d\n", typ, c.Series[i], c.Sets[i], tb.StackIDs[c.Stacks[i]], v)
		}
	}
	return b.String()
}

// TestUnnamed: a function that has only the linker's name goes by it in the roll-up, as it does in trees.
func TestUnnamed(t *testing.T) {
	b := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	fn := b.Function(profile.Function{SystemName: b.String("_ZN3foo3barE")})
	b.Add(b.Stack(0, b.Location(profile.Location{}, profile.Line{Function: fn})), 0, 5)
	p := b.Profile()
	p.PeriodType = profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
	fs, m := contentOf(t, block.LevelHead, []timed{{p, "process_cpu", labelsOf(t, "s", "p"), hour}}).mustWrite(t)
	var got []block.FunctionRow
	for row, err := range open(t, fs, m).Functions(context.Background(), []string{"_ZN3foo3barE"}, nil) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, row)
	}
	if len(got) != 1 || got[0].Self != 5 || got[0].Cumulative != 5 || got[0].Samples != 1 {
		t.Errorf("the roll-up has %+v", got)
	}
	if name := profile.NewTree(p, 0).Names; !slices.Contains(name, "_ZN3foo3barE") {
		t.Errorf("the tree has %q", name)
	}
}
