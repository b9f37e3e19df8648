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
	msg     []byte // a message under construction
	sub     []byte // a message or packed numbers inside msg
	strings map[uint64]uint64
	table   []uint64 // new string index -> old
	maps    map[uint64]uint64
	locs    map[uint64]uint64
	funcs   map[uint64]uint64
}

func (e *encoder) encode(from, until time.Time) []byte {
	e.strings, e.table = map[uint64]uint64{0: 0}, []uint64{0}
	e.maps, e.locs, e.funcs = map[uint64]uint64{}, map[uint64]uint64{}, map[uint64]uint64{}
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
	i, ok := e.strings[old]
	if !ok {
		i = uint64(len(e.table))
		e.strings[old] = i
		e.table = append(e.table, old)
	}
	return i
}

func (e *encoder) valueType(field int, t valueType) {
	e.msg = number(number(e.msg[:0], 1, e.str(t.typ)), 2, e.str(t.unit))
	e.out = text(e.out, field, e.msg)
}

func (e *encoder) sample(s rawSample) {
	// Locations first: each writes messages of its own.
	e.sub = e.sub[:0]
	for _, id := range s.locs {
		e.sub = binary.AppendUvarint(e.sub, e.location(id))
	}
	msg := text(e.msg[:0], 1, e.sub)
	e.sub = e.sub[:0]
	for c := range e.p.types {
		if e.cols[c].keep {
			e.sub = binary.AppendUvarint(e.sub, uint64(s.values[c]))
		}
	}
	msg = text(msg, 2, e.sub)
	for _, l := range s.labels {
		e.sub = number(number(e.sub[:0], 1, e.str(l.key)), 2, e.str(l.str))
		e.sub = number(number(e.sub, 3, uint64(l.num)), 4, e.str(l.unit))
		msg = text(msg, 3, e.sub)
	}
	e.msg = msg
	e.out = text(e.out, 2, msg)
}

func (e *encoder) location(old uint64) uint64 {
	id, ok := e.locs[old]
	if ok {
		return id
	}
	id = uint64(len(e.locs)) + 1
	e.locs[old] = id
	l := e.p.locs[old]
	var msg, line []byte
	msg = number(msg, 1, id)
	msg = number(msg, 2, e.mapping(l.mapping))
	msg = number(msg, 3, l.address)
	for _, ln := range l.lines {
		line = number(line[:0], 1, e.function(ln.function))
		line = number(number(line, 2, ln.line), 3, ln.column)
		msg = text(msg, 4, line)
	}
	if l.folded {
		msg = number(msg, 5, 1)
	}
	e.out = text(e.out, 4, msg)
	return id
}

func (e *encoder) function(old uint64) uint64 {
	id, ok := e.funcs[old]
	if ok {
		return id
	}
	id = uint64(len(e.funcs)) + 1
	e.funcs[old] = id
	f := e.p.funcs[old]
	var msg []byte
	msg = number(number(msg, 1, id), 2, e.str(f.name))
	msg = number(number(msg, 3, e.str(f.system)), 4, e.str(f.file))
	e.out = text(e.out, 5, number(msg, 5, f.start))
	return id
}

// mapping writes a mapping with its two strings and its id renumbered. 0 is "none".
func (e *encoder) mapping(old uint64) uint64 {
	raw, there := e.p.maps[old]
	if old == 0 || !there {
		return 0
	}
	id, ok := e.maps[old]
	if ok {
		return id
	}
	id = uint64(len(e.maps)) + 1
	e.maps[old] = id
	var msg []byte
	// check has read it before: it cannot fail.
	_ = fields(raw, func(field int, n uint64, b []byte) error {
		switch {
		case b != nil || field > 15:
			return nil // none in profile.proto
		case field == 1:
			n = id
		case field == 5 || field == 6:
			n = e.str(n)
		}
		msg = number(msg, field, n)
		return nil
	})
	e.out = text(e.out, 3, msg)
	return id
}
