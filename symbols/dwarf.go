package symbols

import (
	"debug/dwarf"
	"debug/elf"
	"fmt"
	"math"
	"sort"
)

// attrLinkageName is DW_AT_linkage_name of DWARF 4 and 5; what compilers wrote before is DW_AT_MIPS_linkage_name.
const (
	attrLinkageName     = dwarf.Attr(0x6e)
	attrMIPSLinkageName = dwarf.Attr(0x2007)
)

// maxNesting bounds how deep entries lie in each other.
const maxNesting = 1024

// unit is one compilation unit, as it is walked through.
type unit struct {
	*builder
	d      *dwarf.Data
	begins []dwarf.Offset // of all units
	from   dwarf.Offset
	files  []*dwarf.LineFile
	seen   map[dwarf.Offset]described
	seek   *dwarf.Reader // for entries that others refer to
}

// described is what an entry says that others refer to.
type described struct {
	name string
	file uint32
	line uint32
}

// dwarf reads debug information: functions, what was inlined into them, and lines.
func (b *builder) dwarf(f *elf.File) (found bool, err error) {
	if f.Section(".debug_info") == nil && f.Section(".zdebug_info") == nil {
		return false, nil
	}
	d, err := f.DWARF()
	if err != nil {
		return false, fmt.Errorf("%w: debug information: %w", ErrCorrupt, err)
	}
	before := len(b.funcs)
	u := &unit{builder: b, d: d, seen: map[dwarf.Offset]described{}, seek: d.Reader()}
	units := d.Reader()
	var all []*dwarf.Entry
	for {
		e, err := units.Next()
		if err != nil {
			return false, fmt.Errorf("%w: debug information: %w", ErrCorrupt, err)
		}
		if e == nil {
			break
		}
		if e.Tag == dwarf.TagCompileUnit {
			all = append(all, e)
		}
		u.begins = append(u.begins, e.Offset)
		units.SkipChildren()
	}
	for _, e := range all {
		if err := u.unit(e); err != nil {
			return false, fmt.Errorf("%w: debug information: %w", ErrCorrupt, err)
		}
		if len(b.funcs) > maxFunctions {
			break // the caller says so
		}
	}
	return len(b.funcs) > before, nil
}

// unit reads one compilation unit.
func (u *unit) unit(e *dwarf.Entry) error {
	u.from, u.files = e.Offset, nil
	lines, err := u.d.LineReader(e)
	if err != nil {
		return err
	}
	if lines != nil {
		u.readLines(lines)
		u.files = lines.Files()
	}
	r := u.d.Reader()
	r.Seek(e.Offset)
	if _, err := r.Next(); err != nil || !e.Children {
		return err
	}
	// open are the entries around the one that is read: the function that its code belongs to, and how many calls deep.
	type level struct{ function, depth int }
	open := []level{{-1, 0}}
	for len(open) > 0 {
		e, err := r.Next()
		if err != nil || e == nil {
			return err
		}
		at := open[len(open)-1]
		switch e.Tag {
		case 0:
			open = open[:len(open)-1]
			continue
		case dwarf.TagSubprogram:
			at = level{u.function(e), 0}
		case dwarf.TagInlinedSubroutine:
			if at.function >= 0 && at.depth < maxInlined && u.calls < maxInlines {
				at.depth++
				u.inlinedCall(e, at.function, at.depth)
			}
		}
		if e.Children {
			if open = append(open, at); len(open) > maxNesting {
				return fmt.Errorf("entries lie more than %d deep in each other", maxNesting)
			}
		}
	}
	return nil
}

// readLines takes the unit's lines.
func (u *unit) readLines(r *dwarf.LineReader) {
	var e dwarf.LineEntry
	for r.Next(&e) == nil { // a line program that breaks off has told what it could
		if len(u.lines) >= maxLines {
			return
		}
		l := line{address: e.Address}
		if !e.EndSequence && e.File != nil {
			l.file, l.line = u.text(e.File.Name), uint32(max(e.Line, 0))
		}
		u.lines = append(u.lines, l)
	}
}

// function takes an entry that is a function with code; it is -1 where it has none of its own (it is declared, or was inlined everywhere).
func (u *unit) function(e *dwarf.Entry) int {
	ranges, err := u.d.Ranges(e)
	if err != nil || len(ranges) == 0 {
		return -1
	}
	what := u.describe(e, 0)
	if what.name == "" {
		return -1
	}
	name := u.text(what.name)
	first := -1
	for _, r := range ranges { // code that is seldom run is put elsewhere, as a range of its own
		if r[0] == 0 || r[1] <= r[0] || r[1]-r[0] > math.MaxInt32 {
			continue // the linker has left it out
		}
		if first < 0 {
			first = len(u.funcs)
		}
		u.funcs = append(u.funcs, rawFunction{function: function{start: r[0], size: uint32(r[1] - r[0]), name: name, file: what.file, line: what.line}})
	}
	return first
}

// inlinedCall takes a call that was inlined into the function, which may have several ranges: they follow each other in funcs.
func (u *unit) inlinedCall(e *dwarf.Entry, fn, depth int) {
	ranges, err := u.d.Ranges(e)
	if err != nil {
		return
	}
	what := u.describe(e, 0)
	call, _ := e.Val(dwarf.AttrCallLine).(int64)
	for _, r := range ranges {
		if r[0] == 0 || r[1] <= r[0] || r[1]-r[0] > math.MaxInt32 {
			continue
		}
		for i := fn; i < len(u.funcs); i++ {
			f := &u.funcs[i]
			if r[0] < f.start || r[0]-f.start >= uint64(f.size) {
				continue
			}
			f.calls = append(f.calls, inlined{start: r[0], size: uint32(r[1] - r[0]), depth: uint32(depth), name: u.text(what.name), file: what.file, line: what.line, callLine: number32(call)})
			u.calls++
			break
		}
	}
}

func number32(v int64) uint32 {
	if v < 0 || v >= math.MaxUint32 {
		return 0
	}
	return uint32(v)
}

// describe is an entry's name and place, or those of what it is an instance of. The linker's name is preferred: it has the
// names of classes and modules in it.
func (u *unit) describe(e *dwarf.Entry, hops int) described {
	if hops == 0 {
		if d, ok := u.seen[e.Offset]; ok {
			return d
		}
	}
	var out described
	for _, a := range []dwarf.Attr{attrLinkageName, attrMIPSLinkageName, dwarf.AttrName} {
		if s, ok := e.Val(a).(string); ok && s != "" {
			out.name = s
			break
		}
	}
	declared, _ := e.Val(dwarf.AttrDeclLine).(int64)
	out.line = number32(declared)
	// The number of a file is its unit's.
	if i, ok := e.Val(dwarf.AttrDeclFile).(int64); ok && i >= 0 && i < int64(len(u.files)) && u.files[i] != nil && u.unitOf(e.Offset) == u.from {
		out.file = u.text(u.files[i].Name)
	}
	const maxHops = 4
	for _, a := range []dwarf.Attr{dwarf.AttrAbstractOrigin, dwarf.AttrSpecification} {
		at, ok := e.Val(a).(dwarf.Offset)
		if !ok || hops >= maxHops {
			continue
		}
		of, known := u.seen[at]
		if !known {
			u.seek.Seek(at)
			origin, err := u.seek.Next()
			if err != nil || origin == nil {
				continue
			}
			of = u.describe(origin, hops+1)
			u.seen[at] = of
		}
		if _, linked := e.Val(attrLinkageName).(string); of.name != "" && !linked {
			out.name = of.name
		}
		if out.line == 0 {
			out.line = of.line
		}
		if out.file == 0 {
			out.file = of.file
		}
	}
	return out
}

// unitOf is where the unit of an entry begins.
func (u *unit) unitOf(at dwarf.Offset) dwarf.Offset {
	i := sort.Search(len(u.begins), func(i int) bool { return u.begins[i] > at }) - 1
	if i < 0 {
		return 0
	}
	return u.begins[i]
}
