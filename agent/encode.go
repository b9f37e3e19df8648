package agent

import (
	"encoding/binary"
	"time"
)

// encoder writes the samples that are left in a rawProfile, and of the
// mappings, locations, functions and strings those that they use.
type encoder struct {
	p    *rawProfile
	cols []column

	out     []byte
	msg     []byte   // a message under construction
	sub     []byte   // a message or packed numbers inside msg
	lines   []byte   // messages of a location's lines
	strings []uint32 // old string index -> new; 0 is not written yet, but for 0 itself
	table   []uint64 // new string index -> old
	maps    []uint32 // old id -> new; 0 is not written yet
	locs    []uint32
	funcs   []uint32
	nmaps   uint32
	nlocs   uint32
	nfuncs  uint32
}

func (e *encoder) encode(from, until time.Time) []byte {
	e.strings, e.table = make([]uint32, len(e.p.strings)), append(make([]uint64, 0, len(e.p.strings)), 0)
	e.maps, e.locs, e.funcs = make([]uint32, len(e.p.maps)), make([]uint32, len(e.p.locs)), make([]uint32, len(e.p.funcs))
	for c, t := range e.p.types {
		if e.cols[c].keep {
			e.valueType(1, t)
		}
	}
	for _, s := range e.p.samples {
		e.sample(s)
	}
	e.out = number(e.out, 9, uint64(from.UnixNano()))
	e.out = number(e.out, 10, uint64(until.Sub(from)))
	e.valueType(11, e.p.periodType)
	e.out = number(e.out, 12, uint64(e.p.period))
	if d := e.p.defaultSample; e.kept(d) {
		e.out = number(e.out, 14, e.str(d))
	}
	for _, old := range e.table {
		e.out = text(e.out, 6, e.p.strings[old])
	}
	return e.out
}

// kept says that a sample type of this name is written.
func (e *encoder) kept(name uint64) bool {
	for c, t := range e.p.types {
		if t.typ == name && e.cols[c].keep {
			return true
		}
	}
	return false
}

// number appends a varint field; 0 is the default and left out.
func number(b []byte, field int, n uint64) []byte {
	if n == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, byte(field<<3)), n)
}

// text appends a field of bytes.
func text(b []byte, field int, s []byte) []byte {
	return append(binary.AppendUvarint(append(b, byte(field<<3|2)), uint64(len(s))), s...)
}

func (e *encoder) str(old uint64) uint64 {
	if old == 0 || e.strings[old] != 0 {
		return uint64(e.strings[old])
	}
	i := len(e.table)
	e.strings[old] = uint32(i)
	e.table = append(e.table, old)
	return uint64(i)
}

func (e *encoder) valueType(field int, t valueType) {
	e.msg = number(number(e.msg[:0], 1, e.str(t.typ)), 2, e.str(t.unit))
	e.out = text(e.out, field, e.msg)
}

func (e *encoder) sample(s rawSample) {
	// Locations first: each writes messages of its own.
	e.sub = e.sub[:0]
	for _, id := range e.p.stack(s) {
		e.sub = binary.AppendUvarint(e.sub, uint64(e.location(id)))
	}
	msg := text(e.msg[:0], 1, e.sub)
	e.sub = e.sub[:0]
	for c := range e.p.types {
		if e.cols[c].keep {
			e.sub = binary.AppendUvarint(e.sub, uint64(s.values[c]))
		}
	}
	msg = text(msg, 2, e.sub)
	for _, l := range e.p.labelsOf(s) {
		e.sub = number(number(e.sub[:0], 1, e.str(l.key)), 2, e.str(l.str))
		e.sub = number(number(e.sub, 3, uint64(l.num)), 4, e.str(l.unit))
		msg = text(msg, 3, e.sub)
	}
	e.msg = msg
	e.out = text(e.out, 2, msg)
}

func (e *encoder) location(old uint32) uint32 {
	if id := e.locs[old]; id != 0 {
		return id
	}
	e.nlocs++
	e.locs[old] = e.nlocs
	l := e.p.locs[old]
	e.lines = e.lines[:0]
	for _, ln := range e.p.lines[l.first:l.end] {
		f := e.function(ln.function) // writes a message of its own first
		e.msg = number(number(number(e.msg[:0], 1, uint64(f)), 2, ln.line), 3, ln.column)
		e.lines = text(e.lines, 4, e.msg)
	}
	m := e.mapping(l.mapping)
	msg := number(number(number(e.msg[:0], 1, uint64(e.nlocs)), 2, uint64(m)), 3, l.address)
	msg = append(msg, e.lines...)
	if l.folded {
		msg = number(msg, 5, 1)
	}
	e.out = text(e.out, 4, msg)
	e.msg = msg
	return e.locs[old]
}

func (e *encoder) function(old uint32) uint32 {
	if id := e.funcs[old]; id != 0 {
		return id
	}
	e.nfuncs++
	e.funcs[old] = e.nfuncs
	f := e.p.funcs[old]
	msg := number(number(e.msg[:0], 1, uint64(e.nfuncs)), 2, e.str(f.name))
	msg = number(number(msg, 3, e.str(f.system)), 4, e.str(f.file))
	e.msg = number(msg, 5, f.start)
	e.out = text(e.out, 5, e.msg)
	return e.nfuncs
}

// mapping writes a mapping with its two strings and its id renumbered. 0 is "none".
func (e *encoder) mapping(old uint32) uint32 {
	if old == 0 || old >= uint32(len(e.maps)) || e.p.maps[old] == nil {
		return 0
	}
	if id := e.maps[old]; id != 0 {
		return id
	}
	e.nmaps++
	e.maps[old] = e.nmaps
	msg := e.msg[:0]
	// check has read it before: it cannot fail.
	_ = fields(e.p.maps[old], func(field int, n uint64, b []byte) error {
		switch {
		case b != nil || field > 15:
			return nil // none in profile.proto
		case field == 1:
			n = uint64(e.nmaps)
		case field == 5 || field == 6:
			n = e.str(n)
		}
		msg = number(msg, field, n)
		return nil
	})
	e.out = text(e.out, 3, msg)
	e.msg = msg
	return e.nmaps
}
