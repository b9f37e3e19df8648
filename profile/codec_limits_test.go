package profile

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// codecMsg writes a message for tests: pairs of field number and value; an int
// is a varint, a string or bytes are length-delimited.
func codecMsg(pairs ...any) []byte {
	e := pprofEncoder{}
	for i := 0; i < len(pairs); i += 2 {
		n := pairs[i].(int)
		switch v := pairs[i+1].(type) {
		case int:
			e.b = append(e.b, byte(n<<3))
			e.varint(uint64(v))
		case string:
			e.head(n, len(v))
			e.b = append(e.b, v...)
		case []byte:
			e.head(n, len(v))
			e.b = append(e.b, v...)
		}
	}
	return e.b
}

// codecSmall is a valid message: one sample type, function, location and sample.
func codecSmall(more ...any) []byte {
	return append(codecMsg(6, "", 6, "cpu", 6, "ns", 1, codecMsg(1, 1, 2, 2), 5, codecMsg(1, 1, 2, 1),
		4, codecMsg(1, 1, 4, codecMsg(1, 1, 2, 7)), 2, codecMsg(1, "\x01", 2, "\x05")), codecMsg(more...)...)
}

var codecBroken = []struct {
	name string
	msg  []byte
	want string
}{
	{"nothing", nil, "no data"},
	{"no strings", codecMsg(9, 5), "no string table"},
	{"string 0 not empty", codecMsg(6, "x"), "must be empty"},
	{"cut", codecSmall()[:30], "byte"},
	{"varint overflows", append(codecSmall(), 12<<3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f), "varint"},
	{"group", append(codecSmall(), 12<<3|3), "wire type 3"},
	{"wrong wire type", codecSmall(12, "x"), "wire type"},
	{"dangling string", codecSmall(5, codecMsg(1, 2, 2, 9)), "string 9"},
	{"negative string", codecSmall(14, -1), "string -1"},
	{"function id 0", codecSmall(5, codecMsg(2, 1)), "id 0"},
	{"function id twice", codecSmall(5, codecMsg(1, 1)), "two functions have id 1"},
	{"location id twice", codecSmall(4, codecMsg(1, 1)), "two locations have id 1"},
	{"mapping id 0", codecSmall(3, codecMsg(2, 1)), "id 0"},
	{"dangling function", codecSmall(4, codecMsg(1, 2, 4, codecMsg(1, 5))), "function 5"},
	{"dangling location", codecSmall(2, codecMsg(1, "\x09", 2, "\x01")), "location 9"},
	{"too many values", codecSmall(2, codecMsg(1, "\x01", 2, "\x01\x02")), "2 values"},
	{"no value", codecSmall(2, codecMsg(1, "\x01")), "0 values"},
	{"no sample types", codecMsg(6, "", 2, codecMsg(2, "\x01")), "no sample types"},
	{"two profiles", codecSmall(9, 1, 9, 2), "time_nanos"},
	{"dangling label", codecSmall(2, codecMsg(2, "\x01", 3, codecMsg(1, 9, 2, 1))), "string 9"},
	{"label is no message", codecSmall(2, codecMsg(2, "\x01", 3, 7)), "wire type"},
	{"gzip without a body", []byte{0x1f, 0x8b, 8}, "gzip"},
	{"zstd without a body", []byte{0x28, 0xb5, 0x2f, 0xfd, 1}, "decompress"},
}

func TestCorrupt(t *testing.T) {
	if _, err := DecodeBytes(codecSmall(), Limits{}); err != nil {
		t.Fatalf("the profile that the cases break is broken itself: %v", err)
	}
	for _, c := range codecBroken {
		_, err := DecodeBytes(c.msg, Limits{})
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want corrupt and %q", c.name, err, c.want)
		}
	}
}

func TestTooLarge(t *testing.T) {
	stack := codecMsg(2, codecMsg(1, "\x01\x01\x01", 2, "\x05", 3, codecMsg(1, 1, 2, 2), 3, codecMsg(1, 2, 2, 2)))
	msg := codecSmall(3, codecMsg(1, 1), 3, codecMsg(1, 2), 13, 1, 13, 1, 5, codecMsg(1, 2), 4, codecMsg(1, 2, 4, codecMsg(1, 1)))
	msg = append(msg, stack...)
	if _, err := DecodeBytes(msg, Limits{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		lim  Limits
		want string
	}{
		{Limits{Compressed: 10}, "before decompression"}, {Limits{Decoded: 10}, "after decompression"},
		{Limits{Samples: 1}, "samples"}, {Limits{Depth: 2}, "locations in one stack"}, {Limits{Stacks: 2}, "distinct stacks"},
		{Limits{Labels: 1}, "labels of one sample"}, {Limits{LabelSets: 1}, "labels in distinct sets"},
		{Limits{Locations: 1}, "locations"}, {Limits{Lines: 1}, "lines"}, {Limits{Functions: 1}, "functions"},
		{Limits{Mappings: 1}, "mappings"}, {Limits{Comments: 1}, "comments"}, {Limits{Strings: 2}, "strings"},
		{Limits{StringBytes: 2}, "bytes in one string"},
	} {
		_, err := DecodeBytes(msg, c.lim)
		if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want too large and %q", c.lim, err, c.want)
		}
	}
	none := Limits{-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1}
	if _, err := DecodeBytes(msg, none); err != nil {
		t.Errorf("no limits: %v", err)
	}
}

func TestCompressedForms(t *testing.T) {
	raw := codecSmall()
	var members, bomb bytes.Buffer
	for _, part := range [][]byte{raw[:9], raw[9:]} {
		w := gzip.NewWriter(&members)
		w.Write(part)
		w.Close()
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"gzip of two members": members.Bytes(), "zstd": z.EncodeAll(raw, nil), "raw": raw} {
		p, err := Decode(io.MultiReader(bytes.NewReader(b)), Limits{})
		if err != nil || p.Total(0) != 5 {
			t.Errorf("%s: %v", name, err)
		}
	}
	w := gzip.NewWriter(&bomb)
	io.CopyN(w, codecZeroes{}, 64<<20)
	w.Close()
	if _, err := DecodeBytes(bomb.Bytes(), Limits{Decoded: 1 << 20}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("gzip bomb: %v", err)
	}
	if _, err := DecodeBytes(z.EncodeAll(make([]byte, 64<<20), nil), Limits{Decoded: 1 << 20}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("zstd bomb: %v", err)
	}
}

type codecZeroes struct{}

func (codecZeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestDecodeMeaning(t *testing.T) {
	// No samples, invalid UTF-8, unpacked fields, an unknown field and a dangling mapping.
	p, err := DecodeBytes(codecMsg(6, ""), Limits{})
	if err != nil || p.Check() != nil || p.NumSamples() != 0 {
		t.Fatalf("a profile without samples: %v, %v", err, p.Check())
	}
	msg := codecSmall(6, "a\xffb", 13, 3, 15, 0, 2, codecMsg(1, 1, 1, 1, 2, 9, 9, 4), 4, codecMsg(1, 700, 2, 99, 3, 4096))
	if p, err = DecodeBytes(msg, Limits{}); err != nil {
		t.Fatal(err)
	}
	codecRoundTrip(t, p)
	if p.Comments[0] != "a\uFFFDb" || p.Total(0) != 14 || p.Stacks.Len() != 3 || p.Locations[1].Mapping != 0 {
		t.Errorf("comment %q, total %d, %d stacks, mapping %d", p.Comments[0], p.Total(0), p.Stacks.Len(), p.Locations[1].Mapping)
	}
}

// TestStackIDsFrozen: stored identities never change. See docs/format/profile.md.
func TestStackIDsFrozen(t *testing.T) {
	build := func(addr uint64) *Profile {
		b := NewBuilder(ValueType{"cpu", "nanoseconds"})
		mp := b.Mapping(Mapping{Start: addr, Limit: addr + 0x1000, Offset: 0x200, BuildID: b.String("b1")})
		outer := b.Function(Function{Name: b.String("main.main"), SystemName: b.String("main.main"), File: b.String("main.go"), StartLine: 3})
		inner := b.Function(Function{Name: b.String("main.f"), SystemName: b.String("main.f"), File: b.String("main.go"), StartLine: 9})
		main := b.Stack(0, b.Location(Location{Address: addr + 1, Mapping: mp}, Line{outer, 5, 0}))
		leaf := b.Stack(main, b.Location(Location{Address: addr + 2, Mapping: mp}, Line{inner, 10, 0}, Line{outer, 6, 2}))
		raw := b.Stack(leaf, b.Location(Location{Address: addr + 0x10, Mapping: mp}))
		b.Add(raw, 0, 1)
		return b.Profile()
	}
	want := "[0 8fe49f433eb1fbf3 6e58576f5db6f955 1bf5a36254a5cc53]"
	for _, addr := range []uint64{0x400000, 0x7f0000} {
		if got := fmt.Sprintf("%x", build(addr).StackIDs()); got != want {
			t.Errorf("loaded at %x: %s, want %s", addr, got, want)
		}
	}
}

func TestMergeRules(t *testing.T) {
	make := func(addr uint64, types ...ValueType) *Profile {
		b := NewBuilder(types...)
		fn := b.Function(Function{Name: b.String("f")})
		mp := b.Mapping(Mapping{Start: addr, Limit: addr + 0x1000, File: b.String("bin")})
		vals := slices.Repeat([]int64{3}, len(types))
		b.Add(b.Stack(0, b.Location(Location{Address: addr + 4, Mapping: mp}, Line{fn, 1, 0})),
			b.LabelSet([]SampleLabel{{Key: b.String("k"), Str: b.String("v")}}), vals...)
		p := b.Profile()
		p.TimeNanos, p.DurationNanos, p.Period = int64(addr), 10, int64(addr)
		return p
	}
	cpu, wall := ValueType{"cpu", "ns"}, ValueType{"wall", "ns"}
	p, err := Merge(make(0x2000, cpu, wall), make(0x1000, wall))
	if err != nil {
		t.Fatal(err)
	}
	if p.NumSamples() != 1 || p.Total(0) != 6 || p.SampleTypes[0] != wall || p.TimeNanos != 0x1000 || p.DurationNanos != 20 || p.Period != 0x2000 {
		t.Errorf("merged %+v", p)
	}
	if _, err := Merge(make(1, cpu), make(1, wall)); err == nil || !strings.Contains(err.Error(), "cpu") || !strings.Contains(err.Error(), "wall") {
		t.Errorf("nothing in common: %v, want both named", err)
	}
	m := NewMerger(cpu)
	m.StripAddresses, m.DropLabels = true, true
	for _, scale := range []float64{1, 0.5} {
		if err := m.Add(make(0x5000, cpu), scale); err != nil {
			t.Fatal(err)
		}
	}
	if p = m.Profile(); p.Total(0) != 5 || p.Locations[0].Address != 0 || len(p.Mappings) != 1 || p.SampleLabels[0] != 0 || p.Check() != nil {
		t.Errorf("stripped: total %d, %+v, %v", p.Total(0), p, p.Check())
	}
	head := make(0x1000, cpu).Scale(4)
	if p, err = Diff(make(0x1000, cpu), head, false); err != nil || p.Total(0) != 9 {
		t.Errorf("diff: %v, total %d, want 9", err, p.Total(0))
	}
	if p, err = Diff(make(0x1000, cpu), head, true); err != nil || p.Total(0) != 0 {
		t.Errorf("normalized diff: %v, total %d, want 0", err, p.Total(0))
	}
	if p = make(1, cpu, wall).Project(1); p.Check() != nil || p.Total(0) != 3 || p.SampleTypes[0] != wall {
		t.Errorf("project: %+v, %v", p, p.Check())
	}
}
