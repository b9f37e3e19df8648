package lock

import (
	"compress/gzip"
	"encoding/binary"
	"io"
	"reflect"
	"runtime"
	"time"
)

// encoder writes a profile: the messages of profile.proto (github.com/google/pprof/proto), whose field
// numbers these are. agent has one too, but that writes what it has read.
type encoder struct {
	out, msg, sub []byte // the profile, a message of it, what is inside that
	strings       map[string]uint64
	table         []string
	frames        map[uintptr][]frame // by return address
	locations     map[locationKey]uint64
	functions     map[functionKey]uint64
	group         []frame // of the location under construction
}

type (
	// frame is a call. Stacks share most of theirs, and the runtime's tables are slow to read.
	frame struct {
		pc             uintptr
		function, line uint64
		inlined        bool // in the next
	}
	// locationKey is a frame of machine code with the functions that are inlined in it; cut stacks may have but some.
	locationKey struct {
		pc    uintptr
		lines int
	}
	functionKey struct {
		name, file string
		start      int
	}
)

func (g *registry) writeProfile(w io.Writer) error {
	e := &encoder{
		strings: map[string]uint64{"": 0}, table: []string{""},
		frames: map[uintptr][]frame{}, locations: map[locationKey]uint64{}, functions: map[functionKey]uint64{},
	}
	e.valueType(1, "contentions", "count")
	e.valueType(1, "wait", "nanoseconds")
	e.valueType(1, "acquisitions", "count")
	e.valueType(1, "hold", "nanoseconds")
	g.each(e.sample)
	e.out = number(e.out, 9, uint64(time.Now().UnixNano()))
	e.valueType(11, "contentions", "count")
	e.out = number(e.out, 12, 1)
	e.out = number(e.out, 14, e.str("wait"))
	for _, s := range e.table {
		e.out = text(e.out, 6, s)
	}
	zip, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := zip.Write(e.out); err != nil {
		return err
	}
	return zip.Close()
}

// number appends a varint field; 0 is the default and left out.
func number(b []byte, field int, n uint64) []byte {
	if n == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, byte(field<<3)), n)
}

// text appends a field of bytes.
func text[B string | []byte](b []byte, field int, s B) []byte {
	return append(binary.AppendUvarint(append(b, byte(field<<3|2)), uint64(len(s))), s...)
}

func (e *encoder) str(s string) uint64 {
	i, ok := e.strings[s]
	if !ok {
		i = uint64(len(e.table))
		e.strings[s] = i
		e.table = append(e.table, s)
	}
	return i
}

func (e *encoder) valueType(field int, typ, unit string) {
	e.msg = number(number(e.msg[:0], 1, e.str(typ)), 2, e.str(unit))
	e.out = text(e.out, field, e.msg)
}

func (e *encoder) sample(r *record) {
	// Locations first: each writes messages of its own.
	e.sub = e.stack(e.sub[:0], r.stack)
	msg := text(e.msg[:0], 1, e.sub)
	e.sub = e.sub[:0]
	for _, v := range [...]int64{r.contentions.Load(), r.wait.Load(), r.acquisitions.Load(), r.hold.Load()} {
		e.sub = binary.AppendUvarint(e.sub, uint64(v))
	}
	msg = text(msg, 2, e.sub)
	msg = e.label(msg, "lock", r.mode.series.name)
	if r.mode.id != plain {
		msg = e.label(msg, "mode", r.mode.id.String())
	}
	e.msg = msg
	e.out = text(e.out, 2, msg)
}

func (e *encoder) label(msg []byte, key, value string) []byte {
	e.sub = number(number(e.sub[:0], 1, e.str(key)), 2, e.str(value))
	return text(msg, 3, e.sub)
}

// stack appends the ids of a stack's locations, leaf first.
func (e *encoder) stack(ids []byte, stack []uintptr) []byte {
	if len(stack) == 0 {
		other := frame{function: e.function(runtime.Frame{Function: otherStack})}
		return binary.AppendUvarint(ids, e.location([]frame{other}))
	}
	e.group = e.group[:0]
	for _, pc := range stack {
		for _, f := range e.symbolize(pc) {
			e.group = append(e.group, f)
			if !f.inlined {
				ids = binary.AppendUvarint(ids, e.location(e.group))
				e.group = e.group[:0]
			}
		}
	}
	if len(e.group) > 0 { // cut between a function and what is inlined in it
		ids = binary.AppendUvarint(ids, e.location(e.group))
	}
	return ids
}

// symbolize is the frames of a return address: one, as runtime.Callers has written an address for each
// inlined function, and none where the runtime does not know the code. What is inlined has no Func.
func (e *encoder) symbolize(pc uintptr) []frame {
	fs, ok := e.frames[pc]
	if ok {
		return fs
	}
	frames := runtime.CallersFrames([]uintptr{pc})
	for more := true; more; {
		var f runtime.Frame
		if f, more = frames.Next(); f.PC != 0 {
			fs = append(fs, frame{f.PC, e.function(f), uint64(f.Line), f.Func == nil})
		}
	}
	e.frames[pc] = fs
	return fs
}

func (e *encoder) location(lines []frame) uint64 {
	key := locationKey{lines[0].pc, len(lines)}
	id, ok := e.locations[key]
	if ok {
		return id
	}
	id = uint64(len(e.locations)) + 1
	e.locations[key] = id
	var line []byte
	msg := number(number(nil, 1, id), 3, uint64(key.pc))
	for _, f := range lines {
		line = number(number(line[:0], 1, f.function), 2, f.line)
		msg = text(msg, 4, line)
	}
	e.out = text(e.out, 4, msg)
	return id
}

func (e *encoder) function(f runtime.Frame) uint64 {
	key := functionKey{f.Function, f.File, startLine(f)}
	id, ok := e.functions[key]
	if ok {
		return id
	}
	id = uint64(len(e.functions)) + 1
	e.functions[key] = id
	msg := number(number(nil, 1, id), 2, e.str(key.name))
	msg = number(number(msg, 3, e.str(key.name)), 4, e.str(key.file))
	e.out = text(e.out, 5, number(msg, 5, uint64(key.start)))
	return id
}

// startLine is the line where the function begins, which tells functions of one name apart when their
// source moves. The runtime knows it, but of inlined functions it shows it to runtime/pprof alone; a
// field that is not exported may still be read. 0 is not known.
func startLine(f runtime.Frame) int {
	if v := reflect.ValueOf(f).FieldByName("startLine"); v.IsValid() && v.CanInt() {
		return int(max(0, v.Int()))
	}
	return 0
}
