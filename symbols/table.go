// Package symbols gives names to what profiles have as addresses: functions of a
// binary, known by its build id, with the lines and the inlined calls that its
// debug information tells.
//
// [ReadBinary] makes a [Table] of a binary where the binary is; a table is what is
// sent, kept ([Store]) and asked ([Table.Frames]). It also writes names that
// compilers of C++ and Rust have mangled as people know them ([Demangle]).
//
// Tables come from strangers: [Decode] believes no count that the bytes cannot hold,
// and holds every index to what is there.
package symbols

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"
)

// ErrCorrupt says that bytes are no table, or a binary is none that can be read. ErrTooLarge says that one passes a bound.
var (
	ErrCorrupt  = errors.New("corrupt symbols")
	ErrTooLarge = errors.New("symbols too large")
)

// MaxTable bounds a table, in bytes before it is packed. A program of a hundred thousand functions with all its lines has some 8 MB.
const MaxTable = 48 << 20

const (
	maxIDs      = 4
	maxID       = 256      // bytes of a build id; Go's have 83
	maxText     = 16 << 10 // bytes of a name
	maxSegments = 1024
	maxInlined  = 256 // calls inlined at one address; compilers stop at some tens
)

// Where a table's functions are from, the best first.
const (
	FromDWARF   = "dwarf"
	FromGo      = "pclntab" // a Go program without debug information
	FromSymbols = "symtab"
)

// Table is the functions of one binary, by its own addresses. It is not changed after it was made.
type Table struct {
	BuildIDs []string // what profiles may name the binary by: GNU's in hex, Go's
	File     string   // the binary's name, without its folder
	Source   string

	strings  []string // 0 is ""
	segments []segment
	funcs    []function // by start; no two overlap
	inlined  []inlined  // by function, then by depth, then by start
	lines    []line     // by address
}

// segment is a part of the file that is loaded as code.
type segment struct{ offset, address, size uint64 }

type function struct {
	start      uint64
	size       uint32
	name, file uint32
	line       uint32 // where it begins; 0 is unknown
	first      uint32 // of its inlined calls
}

// inlined is a call that was inlined: at [start, start+size) runs name, called at line callLine of what it was inlined into.
type inlined struct {
	start      uint64
	size       uint32
	depth      uint32 // 1 is inlined into the function itself
	name, file uint32
	line       uint32
	callLine   uint32
}

// line says that from address on the code is of this line of this file. Line 0 is that nothing is known.
type line struct {
	address uint64
	file    uint32
	line    uint32
}

// Functions is how many there are.
func (t *Table) Functions() int { return len(t.funcs) }

// Lines and Inlined are how many entries of either there are: 0 where the binary does not tell.
func (t *Table) Lines() int   { return len(t.lines) }
func (t *Table) Inlined() int { return len(t.inlined) }

// Frame is one function at an address. Texts are as the linker has them.
type Frame struct {
	Name, File      string
	StartLine, Line int64 // 0 is unknown
}

// AddressOf is the binary's own address of an offset in its file, where that is loaded as code.
func (t *Table) AddressOf(offset uint64) (uint64, bool) {
	for _, s := range t.segments {
		if offset >= s.offset && offset-s.offset < s.size {
			return s.address + offset - s.offset, true
		}
	}
	return 0, false
}

// Frames are the functions at an address of the binary's, the innermost (most inlined) first; none where no function is known there.
func (t *Table) Frames(address uint64) []Frame {
	i := sort.Search(len(t.funcs), func(i int) bool { return t.funcs[i].start > address }) - 1
	if i < 0 || address-t.funcs[i].start >= uint64(t.funcs[i].size) {
		return nil
	}
	f := &t.funcs[i]
	last := len(t.inlined)
	if i+1 < len(t.funcs) {
		last = int(t.funcs[i+1].first)
	}
	out := []Frame{{Name: t.strings[f.name], File: t.strings[f.file], StartLine: int64(f.line)}}
	for k := range t.inlined[f.first:last] {
		in := &t.inlined[int(f.first)+k]
		// In order of depth; of one depth at most one is at an address.
		if address < in.start || address-in.start >= uint64(in.size) || int(in.depth) != len(out) {
			continue
		}
		out[len(out)-1].Line = int64(in.callLine)
		out = append(out, Frame{Name: t.strings[in.name], File: t.strings[in.file], StartLine: int64(in.line)})
	}
	j := sort.Search(len(t.lines), func(j int) bool { return t.lines[j].address > address }) - 1
	if j >= 0 && t.lines[j].address >= f.start && t.lines[j].line != 0 {
		in := &out[len(out)-1]
		in.Line = int64(t.lines[j].line)
		if in.File == "" {
			in.File = t.strings[t.lines[j].file]
		}
	}
	slices.Reverse(out)
	return out
}

// magic begins every table. docs/format/symbols.md draws the bytes.
const magic = "quantra symbols 1\n"

// Encode is the table's bytes. The same table always has the same.
func (t *Table) Encode() []byte {
	b := []byte(magic)
	num := func(v uint64) { b = binary.AppendUvarint(b, v) }
	text := func(s string) {
		num(uint64(len(s)))
		b = append(b, s...)
	}
	num(uint64(len(t.BuildIDs)))
	for _, id := range t.BuildIDs {
		text(id)
	}
	text(t.File)
	text(t.Source)
	num(uint64(len(t.strings)))
	num(uint64(len(t.segments)))
	num(uint64(len(t.funcs)))
	num(uint64(len(t.inlined)))
	num(uint64(len(t.lines)))
	for _, s := range t.strings {
		text(s)
	}
	for _, s := range t.segments {
		num(s.offset)
		num(s.address)
		num(s.size)
	}
	at, first := uint64(0), uint32(0)
	for i := range t.funcs {
		f := &t.funcs[i]
		num(f.start - at)
		num(uint64(f.size))
		num(uint64(f.name))
		num(uint64(f.file))
		num(uint64(f.line))
		num(uint64(f.first - first))
		at, first = f.start, f.first
	}
	for i := range t.inlined {
		in := &t.inlined[i]
		b = binary.AppendVarint(b, int64(in.start-at))
		num(uint64(in.size))
		num(uint64(in.depth))
		num(uint64(in.name))
		num(uint64(in.file))
		num(uint64(in.line))
		num(uint64(in.callLine))
		at = in.start
	}
	at = 0
	for _, l := range t.lines {
		num(l.address - at)
		num(uint64(l.file))
		num(uint64(l.line))
		at = l.address
	}
	return b
}

// decoder reads a table's numbers and texts.
type decoder struct {
	b   []byte
	off int
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: at byte %d: %s", ErrCorrupt, d.off, fmt.Sprintf(format, args...))
	}
}

func (d *decoder) num(what string) uint64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.b[d.off:])
	if n <= 0 {
		d.fail("%s is cut short or larger than 64 bits", what)
		return 0
	}
	d.off += n
	return v
}

func (d *decoder) signed(what string) int64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Varint(d.b[d.off:])
	if n <= 0 {
		d.fail("%s is cut short or larger than 64 bits", what)
		return 0
	}
	d.off += n
	return v
}

// below is a number less than bound.
func (d *decoder) below(what string, bound uint64) uint32 {
	v := d.num(what)
	if d.err == nil && v >= bound {
		d.fail("%s is %d, and must be less than %d", what, v, bound)
		return 0
	}
	return uint32(v)
}

func (d *decoder) text(what string, most int) string {
	n := d.num(what)
	if d.err == nil && (n > uint64(most) || n > uint64(len(d.b)-d.off)) {
		d.fail("%s of %d bytes; at most %d, and %d are left", what, n, most, len(d.b)-d.off)
	}
	if d.err != nil {
		return ""
	}
	s := string(d.b[d.off : d.off+int(n)])
	d.off += int(n)
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		d.fail("%s, %.40q, is no text", what, s)
	}
	return s
}

// Decode reads a table. The error wraps [ErrCorrupt] or [ErrTooLarge].
func Decode(b []byte) (*Table, error) {
	if len(b) > MaxTable {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(b), MaxTable)
	}
	d, t := &decoder{b: b}, &Table{}
	counts := d.header(t)
	for range counts[0] {
		t.strings = append(t.strings, d.text("a string", maxText))
	}
	if d.err == nil && (len(t.strings) == 0 || t.strings[0] != "") {
		d.fail("string 0 must be there and empty")
	}
	for range counts[1] {
		s := segment{d.num("a segment's offset"), d.num("its address"), d.num("its size")}
		if s.size > math.MaxUint64-s.address || s.size > math.MaxUint64-s.offset {
			d.fail("a segment ends past 64 bits")
		}
		t.segments = append(t.segments, s)
	}
	d.functions(t, counts[2], counts[3])
	d.inlinedCalls(t, counts[3])
	at, texts := uint64(0), uint64(len(t.strings))
	t.lines = make([]line, 0, counts[4])
	for range counts[4] {
		step := d.num("a line's address")
		if step > math.MaxUint64-at {
			d.fail("a line's address is past 64 bits")
		}
		at += step
		t.lines = append(t.lines, line{at, d.below("a line's file", texts), d.below("a line", math.MaxUint32)})
		if d.err != nil {
			break
		}
	}
	if d.err == nil && d.off < len(b) {
		d.fail("%d bytes follow the table", len(b)-d.off)
	}
	if d.err != nil {
		return nil, d.err
	}
	return t, nil
}

// head reads up to the counts, which it believes: of strings, segments, functions, inlined calls and lines.
func (d *decoder) head(t *Table) (counts [5]uint64) {
	if !strings.HasPrefix(string(d.b[:min(len(d.b), len(magic))]), magic) {
		d.fail("it does not begin with %q: it is no table of symbols, or of another version", magic)
		return counts
	}
	d.off = len(magic)
	for range d.below("the number of build ids", maxIDs+1) {
		id := d.text("a build id", maxID)
		if id == "" {
			d.fail("an empty build id")
		}
		t.BuildIDs = append(t.BuildIDs, id)
	}
	if len(t.BuildIDs) == 0 {
		d.fail("it has no build id")
	}
	t.File, t.Source = d.text("the file's name", maxID), d.text("the source", 16)
	for i := range counts {
		if counts[i] = d.num("a count"); counts[i] > math.MaxInt32 {
			d.fail("a count of %d", counts[i])
		}
	}
	return counts
}

// header is head, with counts that the bytes that are left can hold.
func (d *decoder) header(t *Table) (counts [5]int) {
	said := d.head(t)
	for i, what := range []struct {
		name  string
		least int
	}{{"strings", 1}, {"segments", 3}, {"functions", 6}, {"inlined calls", 7}, {"lines", 3}} {
		if said[i]*uint64(what.least) > uint64(len(d.b)-d.off) || i == 1 && said[i] > maxSegments {
			d.fail("%d %s, and %d bytes are left", said[i], what.name, len(d.b)-d.off)
		}
		counts[i] = int(said[i])
	}
	if d.err != nil {
		return [5]int{}
	}
	return counts
}

func (d *decoder) functions(t *Table, n, calls int) {
	texts := uint64(len(t.strings))
	end, first := uint64(0), uint64(0)
	at := uint64(0)
	t.funcs = make([]function, 0, n)
	for range n {
		step := d.num("a function's start")
		if step > math.MaxUint64-at || at+step < end {
			d.fail("a function begins before the one ahead of it ends")
		}
		at += step
		f := function{start: at, size: d.below("a function's size", math.MaxUint32), name: d.below("its name", texts), file: d.below("its file", texts), line: d.below("its line", math.MaxUint32)}
		if first += d.num("its first inlined call"); first > uint64(calls) || uint64(f.size) > math.MaxUint64-at {
			d.fail("a function's inlined calls begin at %d of %d, or it ends past 64 bits", first, calls)
		}
		f.first = uint32(first)
		end = at + uint64(f.size)
		t.funcs = append(t.funcs, f)
		if d.err != nil {
			return
		}
	}
}

func (d *decoder) inlinedCalls(t *Table, n int) {
	texts := uint64(len(t.strings))
	at := uint64(0)
	if len(t.funcs) > 0 {
		at = t.funcs[len(t.funcs)-1].start
	}
	t.inlined = make([]inlined, 0, n)
	for range n {
		at += uint64(d.signed("an inlined call's start"))
		t.inlined = append(t.inlined, inlined{start: at, size: d.below("its size", math.MaxUint32), depth: d.below("its depth", maxInlined+1),
			name: d.below("its name", texts), file: d.below("its file", texts), line: d.below("its line", math.MaxUint32), callLine: d.below("the line of the call", math.MaxUint32)})
		if d.err != nil {
			return
		}
	}
}
