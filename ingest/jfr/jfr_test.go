package jfr

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quantra-l/quantra/profile"
)

// recorded is what Pyroscope's agent 2.1.2 has sent on Java 17, with the bytes of events that tell of the machine set to 0.
func recorded(t testing.TB) []byte {
	t.Helper()
	f, err := os.Open("testdata/agent-2.1.2.jfr.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// When the recording was, by its header.
const wantFrom, wantLength = 1795700759003458000, 1949064000

// TestRecorded has the figures of the recording as the JDK's own reader prints its events (jfr print).
func TestRecorded(t *testing.T) {
	out, err := Parse(recorded(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][2]int64{"process_cpu": {33, 330_000_000}, "memory": {1361, 89_421_352}, "mutex": {7, 1_330_421_644}}
	if len(out) != len(want) {
		t.Errorf("%d profiles", len(out))
	}
	for _, n := range out {
		if err := n.Profile.Check(); err != nil {
			t.Errorf("%s: %v", n.Name, err)
		}
		if got := [2]int64{n.Profile.Total(0), n.Profile.Total(1)}; got != want[n.Name] {
			t.Errorf("%s: %v, must be %v", n.Name, got, want[n.Name])
		}
		if n.Profile.TimeNanos != wantFrom || n.Profile.DurationNanos != wantLength {
			t.Errorf("%s: at %d for %d", n.Name, n.Profile.TimeNanos, n.Profile.DurationNanos)
		}
		var b strings.Builder
		if err := profile.WriteFolded(&b, n.Profile, 0); err != nil || !strings.Contains(b.String(), "Busy.main") {
			t.Errorf("%s: %v %.200s", n.Name, err, &b)
		}
	}
}

// writer writes a small recording with known events.
type writer struct {
	b       bytes.Buffer
	strings []string
}

func (w *writer) num(n int64) {
	u := uint64(n)
	for range 8 {
		if u < 0x80 {
			break
		}
		w.b.WriteByte(byte(u) | 0x80)
		u >>= 7
	}
	w.b.WriteByte(byte(u))
}

func (w *writer) text(s string) {
	w.b.WriteByte(3)
	w.num(int64(len(s)))
	w.b.WriteString(s)
}

func (w *writer) ref(s string) {
	for i, t := range w.strings {
		if t == s {
			w.num(int64(i))
			return
		}
	}
	w.num(int64(len(w.strings)))
	w.strings = append(w.strings, s)
}

type xml struct {
	kind  string
	attrs []string
	in    []xml
}

func (w *writer) element(x xml) {
	w.ref(x.kind)
	w.num(int64(len(x.attrs) / 2))
	for _, a := range x.attrs {
		w.ref(a)
	}
	w.num(int64(len(x.in)))
	for _, c := range x.in {
		w.element(c)
	}
}

// sized puts the size before an event, which counts itself.
func sized(body []byte) []byte {
	var w writer
	w.num(int64(len(body) + 1))
	if w.b.Len() > 1 {
		w.b.Reset()
		w.num(int64(len(body) + 2))
	}
	return append(w.b.Bytes(), body...)
}

func f(name, class string, more ...string) xml {
	return xml{"field", append([]string{"name", name, "class", class}, more...), nil}
}

var pool = []string{"constantPool", "true"}

// classes of the recording: numbers as texts, as the format has them.
var classesOf = []xml{
	{"class", []string{"name", "long", "id", "2"}, nil},
	{"class", []string{"name", "int", "id", "3"}, nil},
	{"class", []string{"name", "java.lang.String", "id", "4"}, nil},
	{"class", []string{"name", "boolean", "id", "5"}, nil},
	{"class", []string{"name", "jdk.types.Symbol", "id", "10", "simpleType", "true"}, []xml{f("string", "4")}},
	{"class", []string{"name", "java.lang.Class", "id", "11"}, []xml{f("name", "10", pool...)}},
	{"class", []string{"name", "jdk.types.Method", "id", "12"}, []xml{f("type", "11", pool...), f("name", "10", pool...)}},
	{"class", []string{"name", "jdk.types.StackFrame", "id", "13"}, []xml{f("method", "12", pool...), f("lineNumber", "3")}},
	{"class", []string{"name", "jdk.types.StackTrace", "id", "14"}, []xml{f("truncated", "5"), f("frames", "13", "dimension", "1")}},
	{"class", []string{"name", "jdk.types.ThreadState", "id", "15"}, []xml{f("name", "4")}},
	{"class", []string{"name", "jdk.ExecutionSample", "id", "20"}, []xml{f("startTime", "2"), f("stackTrace", "14", pool...), f("state", "15", pool...), f("contextId", "2")}},
	{"class", []string{"name", "jdk.ThreadPark", "id", "21"}, []xml{f("startTime", "2"), f("duration", "2"), f("stackTrace", "14", pool...)}},
	{"class", []string{"name", "jdk.ActiveSetting", "id", "22"}, []xml{f("startTime", "2"), f("name", "4"), f("value", "4")}},
	{"class", []string{"name", "profiler.WallClockSample", "id", "23"}, []xml{f("startTime", "2"), f("stackTrace", "14", pool...), f("samples", "3")}},
}

// chunkOf is one chunk: events, constants, description.
func chunkOf(setting string, events ...[]byte) []byte {
	var body bytes.Buffer
	event := func(write func(w *writer)) {
		var w writer
		write(&w)
		body.Write(sized(w.b.Bytes()))
	}
	event(func(w *writer) { w.num(22); w.num(0); w.text("event"); w.text(setting) })
	for _, e := range events {
		body.Write(sized(e))
	}
	poolAt := headerSize + body.Len()
	event(func(w *writer) {
		w.num(1)
		w.num(0)
		w.num(0)
		w.num(0) // the only set
		w.b.WriteByte(0)
		w.num(5)
		w.num(10)
		w.num(4)
		for i, s := range []string{"com/shop/Cart", "total", "run", "com/shop/Cart$$Lambda$14+0x00007f/0x1234"} {
			w.num(int64(i + 1))
			w.text(s)
		}
		w.num(11)
		w.num(2)
		w.num(1)
		w.num(1)
		w.num(2)
		w.num(4)
		w.num(12)
		w.num(2)
		w.num(1)
		w.num(1)
		w.num(2) // Cart.total
		w.num(2)
		w.num(2)
		w.num(3) // the lambda's run
		w.num(14)
		w.num(1)
		w.num(1)
		w.b.WriteByte(0)
		w.num(2)
		w.num(1)
		w.num(42)
		w.num(2)
		w.num(7)
		w.num(15)
		w.num(2)
		w.num(1)
		w.text("STATE_RUNNABLE")
		w.num(2)
		w.text("STATE_SLEEPING")
	})
	metaAt := headerSize + body.Len()
	var tree writer
	tree.element(xml{"root", nil, []xml{{"metadata", nil, classesOf}, {"region", []string{"locale", "en"}, nil}}})
	event(func(w *writer) {
		w.num(0)
		w.num(0)
		w.num(0)
		w.num(1)
		w.num(int64(len(tree.strings)))
		for _, s := range tree.strings {
			w.text(s)
		}
		w.b.Write(tree.b.Bytes())
	})
	out := make([]byte, headerSize)
	copy(out, "FLR\x00")
	binary.BigEndian.PutUint16(out[4:], 2)
	binary.BigEndian.PutUint64(out[8:], uint64(headerSize+body.Len()))
	binary.BigEndian.PutUint64(out[16:], uint64(poolAt))
	binary.BigEndian.PutUint64(out[24:], uint64(metaAt))
	binary.BigEndian.PutUint64(out[56:], 1000) // ticks a second
	binary.BigEndian.PutUint32(out[64:], 1)
	return append(out, body.Bytes()...)
}

func nums(ns ...int64) []byte {
	var w writer
	for _, n := range ns {
		w.num(n)
	}
	return w.b.Bytes()
}

func TestPlanted(t *testing.T) {
	running, sleeping := nums(20, 5, 1, 1, 9), nums(20, 5, 1, 2, 0)
	park := nums(21, 5, 1500, 1)
	contexts := Contexts{9: {{Name: "controller.name", Value: "cart"}}}
	for _, c := range []struct {
		setting string
		events  [][]byte
		want    map[string][2]int64
	}{
		{"itimer", [][]byte{running, sleeping, park, park}, map[string][2]int64{"process_cpu": {2, 40_000_000}, "block": {2, 3_000_000_000}}},
		{"wall", [][]byte{running, sleeping}, map[string][2]int64{"process_cpu": {1, 20_000_000}, "wall": {2, 40_000_000}}},
		{"cpu", [][]byte{nums(23, 5, 1, 12)}, map[string][2]int64{"wall": {12, 240_000_000}}},
	} {
		b := chunkOf(c.setting, c.events...)
		out, err := Parse(append(b, b...), Options{Rate: 50, Contexts: contexts}) // two chunks
		if err != nil {
			t.Fatal(err)
		}
		if len(out) != len(c.want) {
			t.Errorf("%s: %d profiles", c.setting, len(out))
		}
		for _, n := range out {
			if got, want := [2]int64{n.Profile.Total(0) / 2, n.Profile.Total(1) / 2}, c.want[n.Name]; got != want {
				t.Errorf("%s: %s: %v, must be %v", c.setting, n.Name, got, want)
			}
			var b strings.Builder
			if err := profile.WriteFolded(&b, n.Profile, 0); err != nil || !strings.HasPrefix(b.String(), "com.shop.Cart$$Lambda.run;com.shop.Cart.total ") {
				t.Errorf("%s: %v %q", n.Name, err, &b)
			}
			if l := n.Profile.Lines[0].Line; l != 7 {
				t.Errorf("%s: the outer frame is at line %d", n.Name, l)
			}
		}
		if c.setting == "itimer" {
			if ls := out[0].Profile.ByLabel(0); len(ls) != 1 || ls[0].Key != "controller_name" || ls[0].Values[0].Value != "cart" || ls[0].Values[0].Total != 2 {
				t.Errorf("labels of contexts: %+v", ls)
			}
		}
	}
}

func TestContexts(t *testing.T) {
	num := func(b []byte, field protowire.Number, n uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
	}
	sub := func(b []byte, field protowire.Number, in []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), in)
	}
	b := sub(nil, 1, sub(num(nil, 1, 9), 2, sub(nil, 1, num(num(nil, 1, 1), 2, 2))))
	b = sub(b, 2, sub(num(nil, 1, 1), 2, []byte("key")))
	b = sub(b, 2, sub(num(nil, 1, 2), 2, []byte("value")))
	got, err := ParseContexts(b)
	if err != nil || len(got[9]) != 1 || got[9][0] != (profile.Label{Name: "key", Value: "value"}) {
		t.Errorf("%v %v", got, err)
	}
	if _, err := ParseContexts(b[:len(b)-1]); !errors.Is(err, profile.ErrCorrupt) {
		t.Errorf("cut: %v", err)
	}
}

func TestRefused(t *testing.T) {
	good := chunkOf("itimer", nums(20, 5, 1, 1, 0))
	edit := func(change func(b []byte)) []byte {
		b := bytes.Clone(good)
		change(b)
		return b
	}
	// A structure of no bytes in an array: many values of nothing.
	classesOf = append(classesOf,
		xml{"class", []string{"name", "empty", "id", "30"}, nil},
		xml{"class", []string{"name", "boxes", "id", "31"}, []xml{f("a", "30", "dimension", "1")}},
		xml{"class", []string{"name", "jdk.ObjectAllocationSample", "id", "32"}, []xml{f("x", "31", "dimension", "1")}},
		xml{"class", []string{"name", "itself", "id", "33"}, []xml{f("again", "33")}},
		xml{"class", []string{"name", "profiler.LiveObject", "id", "34"}, []xml{f("x", "33")}})
	defer func() { classesOf = classesOf[:len(classesOf)-5] }()
	many := nums(32, 500)
	for range 500 {
		many = append(many, nums(1000)...)
	}
	for name, c := range map[string]struct {
		b    []byte
		text string
	}{
		"empty":                   {nil, "empty"},
		"another format":          {[]byte("not a recording, but long enough to be one of a header and some more bytes"), "does not begin"},
		"version":                 {edit(func(b []byte) { b[5] = 1 }), "version 1"},
		"longer than it is":       {edit(func(b []byte) { b[11] = 1 }), "its size is"},
		"no description":          {edit(func(b []byte) { copy(b[24:32], b[16:24]) }), "must be"},
		"constants outside":       {edit(func(b []byte) { b[20] = 1 }), "constants are said"},
		"cut":                     {good[:len(good)-1], "its size is"},
		"values of nothing":       {chunkOf("itimer", many), "more values than its bytes"},
		"a structure in itself":   {chunkOf("itimer", nums(34)), "deep"},
		"an event beyond the end": {edit(func(b []byte) { b[headerSize] = 0x7f; b[headerSize+1] |= 0x80 }), ""},
	} {
		_, err := Parse(c.b, Options{})
		if !errors.Is(err, profile.ErrCorrupt) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse(good, Options{Limits: profile.Limits{Depth: 1}}); !errors.Is(err, profile.ErrTooLarge) {
		t.Errorf("deep: %v", err)
	}
}

// FuzzParse: whatever comes, profiles are sound or there is an error of the contract.
func FuzzParse(f *testing.F) {
	f.Add(chunkOf("itimer", nums(20, 5, 1, 1, 9), nums(21, 5, 1500, 1)))
	f.Add(chunkOf("wall", nums(23, 5, 1, 12)))
	f.Add(recorded(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := Parse(b, Options{Limits: profile.Limits{Stacks: 1 << 18, Samples: 1 << 18}})
		if err != nil && !errors.Is(err, profile.ErrCorrupt) && !errors.Is(err, profile.ErrTooLarge) {
			t.Fatalf("%v is of no kind", err)
		}
		for _, n := range out {
			if err := n.Profile.Check(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	raw := recorded(b)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(raw, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
