package symbols

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"
)

var freeze = flag.Bool("freeze", false, "write the fixture of testdata anew: only while version 1 is not released")

// frozenTable is what testdata/v1.hex has: every part of a table, and every kind of number, is in it.
func frozenTable() *Table {
	return &Table{
		BuildIDs: []string{"8f1d0c2e5a", "go:xyz/abc"}, File: "shop", Source: FromDWARF,
		strings:  []string{"", "main.serve", "main.go", "main.(*cart).total", "cart.go", "main.price"},
		segments: []segment{{offset: 0x1000, address: 0x401000, size: 0x3000}, {offset: 0x5000, address: 0x501000, size: 0x200}},
		funcs: []function{
			{start: 0x401000, size: 0x100, name: 1, file: 2, line: 10},
			{start: 0x401180, size: 0x80, name: 3, file: 4, line: 300},
			{start: 0x501000, size: 0x40, name: 5, file: 4, first: 2},
		},
		inlined: []inlined{
			{start: 0x401190, size: 0x20, depth: 1, name: 5, file: 4, line: 7, callLine: 303},
			{start: 0x401198, size: 0x8, depth: 2, name: 1, file: 2, line: 10, callLine: 9},
		},
		lines: []line{{0x401000, 2, 11}, {0x401010, 2, 12}, {0x401180, 4, 301}, {0x401198, 2, 13}, {0x4011a0, 4, 8}, {0x401200, 0, 0}, {0x501000, 4, 40}},
	}
}

// TestFrozen: tables of version 1 are read, and written, as they were when the format was fixed. A change of it is another version.
func TestFrozen(t *testing.T) {
	const file = "testdata/v1.hex"
	want := frozenTable()
	if *freeze {
		if err := os.WriteFile(file, []byte(hex.Dump(want.Encode())), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dump, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.Dump(want.Encode()); got != string(dump) {
		t.Errorf("a table is written as\n%s\nit was\n%s", got, dump)
	}
	var raw []byte
	for row := range strings.Lines(string(dump)) {
		b, err := hex.DecodeString(strings.ReplaceAll(row[10:58], " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, b...)
	}
	got, err := Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) || !bytes.Equal(got.Encode(), raw) {
		t.Errorf("it is read as\n%+v\nnot\n%+v", got, want)
	}
	frames := got.Frames(0x401199)
	if len(frames) != 3 || frames[0] != (Frame{"main.serve", "main.go", 10, 13}) || frames[1] != (Frame{"main.price", "cart.go", 7, 9}) || frames[2] != (Frame{"main.(*cart).total", "cart.go", 300, 303}) {
		t.Errorf("frames: %+v", frames)
	}
}
