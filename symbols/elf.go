package symbols

import (
	"bytes"
	"debug/elf"
	"debug/gosym"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// Bounds on what is read of a binary: past the second and the third, lines and inlined calls are left out.
const (
	maxFunctions = 4 << 20
	maxInlines   = 4 << 20
	maxLines     = 8 << 20
)

// builder collects what a binary has, in any order.
type builder struct {
	t       *Table
	strings map[string]uint32
	funcs   []rawFunction
	lines   []line
	calls   int // inlined, of all functions
}

// rawFunction is a function with the calls that were inlined into it.
type rawFunction struct {
	function
	calls []inlined
	rank  int // of two at one place the lower is taken
}

func (b *builder) text(s string) uint32 {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "\uFFFD")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	i, ok := b.strings[s]
	if !ok {
		i = uint32(len(b.t.strings))
		b.t.strings = append(b.t.strings, s)
		b.strings[s] = i
	}
	return i
}

// ReadBinary makes the table of an ELF binary that is called name: from its debug information (DWARF), a Go program's table of functions,
// and its symbols, the better before the worse. The error wraps [ErrCorrupt] or [ErrTooLarge] and says what is missing.
func ReadBinary(r io.ReaderAt, name string) (t *Table, err error) {
	// debug/elf and debug/dwarf are not made for files that lie.
	defer func() {
		if p := recover(); p != nil {
			t, err = nil, fmt.Errorf("%w: the binary cannot be read: %v", ErrCorrupt, p)
		}
	}()
	var head [4]byte
	if _, err := r.ReadAt(head[:], 0); err != nil || string(head[:]) != elf.ELFMAG {
		return nil, fmt.Errorf("%w: it is no ELF binary (those of Linux are): it starts with %q", ErrCorrupt, head[:])
	}
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	defer f.Close()
	base := filepath.Base(name)
	if len(base) > maxID {
		base = strings.ToValidUTF8(base[:maxID], "")
	}
	b := &builder{t: &Table{File: strings.ToValidUTF8(base, "\uFFFD"), strings: []string{""}, BuildIDs: buildIDs(f)}, strings: map[string]uint32{"": 0}}
	if len(b.t.BuildIDs) == 0 {
		return nil, fmt.Errorf("%w: it has no build id, by which profiles would name it: link it with -Wl,--build-id", ErrCorrupt)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && p.Filesz > 0 && len(b.t.segments) < maxSegments {
			b.t.segments = append(b.t.segments, segment{p.Off, p.Vaddr, p.Filesz})
		}
	}
	for _, read := range []func(*elf.File) (bool, error){b.dwarf, b.pclntab, b.symtab} {
		found, err := read(f)
		if err != nil {
			return nil, err
		}
		if found && b.t.Source == "" {
			b.t.Source = []string{FromDWARF, FromGo, FromSymbols}[b.rank()]
		}
		if len(b.funcs) > maxFunctions {
			return nil, fmt.Errorf("%w: more than %d functions", ErrTooLarge, maxFunctions)
		}
	}
	if len(b.funcs) == 0 {
		return nil, fmt.Errorf("%w: it has no symbols: it was stripped; take the binary before that, or its file of debug information", ErrCorrupt)
	}
	return b.done(), nil
}

// rank is that of what was read last.
func (b *builder) rank() int { return b.funcs[len(b.funcs)-1].rank }

// done puts what was collected in order: functions that do not overlap, the better one where two are at a place.
func (b *builder) done() *Table {
	slices.SortStableFunc(b.funcs, func(x, y rawFunction) int {
		if x.rank != y.rank {
			return x.rank - y.rank
		}
		return compare(x.start, y.start)
	})
	// Those of one rank are merged into those that are there, as long as they do not overlap any.
	var kept []rawFunction
	for from := 0; from < len(b.funcs); {
		to := from
		for to < len(b.funcs) && b.funcs[to].rank == b.funcs[from].rank {
			to++
		}
		kept = merge(kept, b.funcs[from:to])
		from = to
	}
	t := b.t
	for i := range kept {
		f := kept[i].function
		f.first = uint32(len(t.inlined))
		slices.SortStableFunc(kept[i].calls, func(x, y inlined) int {
			if x.depth != y.depth {
				return int(x.depth) - int(y.depth)
			}
			return compare(x.start, y.start)
		})
		t.inlined = append(t.inlined, kept[i].calls...)
		t.funcs = append(t.funcs, f)
	}
	sort.SliceStable(b.lines, func(i, j int) bool { return b.lines[i].address < b.lines[j].address })
	for i, l := range b.lines {
		if i+1 < len(b.lines) && b.lines[i+1].address == l.address {
			continue // the last that is said of an address holds
		}
		if n := len(t.lines); n > 0 && t.lines[n-1].file == l.file && t.lines[n-1].line == l.line {
			continue
		}
		t.lines = append(t.lines, l)
	}
	return t
}

func compare(x, y uint64) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// merge adds those functions of more that overlap none of have. Both are sorted; of several of more that overlap, as aliases do, the first is taken.
func merge(have, more []rawFunction) []rawFunction {
	out := make([]rawFunction, 0, len(have)+len(more))
	i, end := 0, uint64(0)
	for j := range more {
		m := &more[j]
		for i < len(have) && have[i].start <= m.start {
			out = append(out, have[i])
			end = have[i].start + uint64(have[i].size)
			i++
		}
		if m.start < end || i < len(have) && have[i].start < m.start+uint64(m.size) {
			continue
		}
		out = append(out, *m)
		end = m.start + uint64(m.size)
	}
	return append(out, have[i:]...)
}

// buildIDs are what profiles may name the binary by: GNU's note in hex, Go's note as it is.
func buildIDs(f *elf.File) (out []string) {
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOTE || s.Size > 1<<16 {
			continue
		}
		b, err := s.Data()
		if err != nil {
			continue
		}
		for len(b) >= 12 {
			nameSize, size, typ := f.ByteOrder.Uint32(b), f.ByteOrder.Uint32(b[4:]), f.ByteOrder.Uint32(b[8:])
			at := 12 + (uint64(nameSize)+3)&^3
			end := at + uint64(size)
			if end > uint64(len(b)) {
				break
			}
			name, desc := string(bytes.TrimRight(b[12:12+nameSize], "\x00")), b[at:end]
			id := ""
			switch {
			case name == "GNU" && typ == 3: // NT_GNU_BUILD_ID
				id = hex.EncodeToString(desc)
			case name == "Go" && typ == 4:
				id = string(bytes.TrimRight(desc, "\x00"))
			}
			if id != "" && len(id) <= maxID && !slices.Contains(out, id) && len(out) < maxIDs && strings.ToValidUTF8(id, "") == id {
				out = append(out, id)
			}
			b = b[min((end+3)&^3, uint64(len(b))):]
		}
	}
	return out
}

// symtab reads the symbols of functions: all, and those that others link to.
func (b *builder) symtab(f *elf.File) (found bool, err error) {
	syms, _ := f.Symbols() // none is no fault: there are those below
	dynamic, _ := f.DynamicSymbols()
	for _, s := range append(syms, dynamic...) {
		typ := elf.ST_TYPE(s.Info)
		if typ != elf.STT_FUNC && typ != elf.STT_GNU_IFUNC || s.Value == 0 || s.Size == 0 || s.Size > math.MaxInt32 || s.Name == "" || s.Section == elf.SHN_UNDEF {
			continue
		}
		b.funcs = append(b.funcs, rawFunction{function: function{start: s.Value, size: uint32(s.Size), name: b.text(s.Name)}, rank: 2})
		found = true
	}
	return found, nil
}

// pclntab reads a Go program's own table of functions, which is there also where it was stripped. What the linker of another
// language has put before Go's code, only symbols tell, so a stripped program with cgo has none.
func (b *builder) pclntab(f *elf.File) (found bool, err error) {
	section, text := f.Section(".gopclntab"), f.Section(".text")
	if section == nil || text == nil || b.t.Source == FromDWARF {
		return false, nil
	}
	start := text.Addr
	if syms, err := f.Symbols(); err == nil {
		for _, s := range syms {
			if s.Name == "runtime.text" {
				start = s.Value
			}
		}
	} else if f.Section(".interp") != nil {
		return false, nil
	}
	data, err := section.Data()
	if err != nil {
		return false, fmt.Errorf("%w: .gopclntab: %w", ErrCorrupt, err)
	}
	table, err := gosym.NewTable(nil, gosym.NewLineTable(data, start))
	if err != nil {
		return false, fmt.Errorf("%w: .gopclntab: %w", ErrCorrupt, err)
	}
	for i := range table.Funcs {
		fn := &table.Funcs[i]
		if fn.End <= fn.Entry || fn.End-fn.Entry > math.MaxInt32 {
			continue
		}
		file, at, _ := table.PCToLine(fn.Entry)
		b.funcs = append(b.funcs, rawFunction{function: function{start: fn.Entry, size: uint32(fn.End - fn.Entry), name: b.text(fn.Name), file: b.text(file), line: uint32(max(at, 0))}, rank: 1})
		found = true
	}
	return found, nil
}
