// Package jfr reads recordings of Java's Flight Recorder as async-profiler
// writes them, and Pyroscope's Java agent with it sends: samples of CPU and wall
// time, allocations, live objects, contended monitors and parked threads.
//
// A recording describes itself: it says which classes of events and of values there
// are and of which fields they are made, so the reader follows that description and takes the fields that it knows by name. The
// format is that of https://openjdk.org/groups/hotspot (JFR version 2), of which
// every JDK since 9 has a reader (jdk.jfr.internal.consumer).
//
// Bytes come from strangers. No count is believed that the bytes that are left
// cannot hold, and reading a recording takes a bounded number of steps for each of its bytes, however it describes itself.
// Errors wrap [profile.ErrCorrupt] or [profile.ErrTooLarge].
package jfr

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/quantra-l/quantra/profile"
)

const (
	headerSize = 68
	typeMeta   = 0
	typePool   = 1

	// stepsPerByte bounds the values that are read for each byte: all but empty structures have at least one byte, and are read at most twice.
	stepsPerByte = 8
	maxDepth     = 16      // of structures in structures; real ones have 3
	maxClasses   = 4096    // real recordings have some 200
	maxFields    = 256     // of one class
	maxStrings   = 1 << 20 // bytes of one text
)

// class is a class of the recording's description.
type class struct {
	name   string
	simple bool // of one field, and written without a wrapping: as its field
	fields []field
}

type field struct {
	name  string
	class int64
	pool  bool // the value is a number in a pool of constants
	array bool
}

// chunk is one chunk of a recording: a whole one with description and constants.
type chunk struct {
	b       []byte
	off     int
	steps   int
	compact bool  // numbers are LEB128, else of fixed size
	from    int64 // Unix nanoseconds, by the header; 0 is not said
	length  int64 // nanoseconds
	ticks   float64
	classes map[int64]*class

	stacks  map[int64]trace
	methods map[int64]method
	names   map[int64]int64 // of java.lang.Class: its symbol
	symbols map[int64]string
	texts   map[int64]string // constants of java.lang.String
	states  map[int64]string // of threads
}

// trace is a stack: the innermost frame first.
type trace []frame

type frame struct{ method, line int64 }

type method struct{ class, name int64 }

// value is one field of a structure, as it is handed to who reads it.
type value struct {
	num  int64
	text string
}

func (c *chunk) corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: Flight Recorder: at byte %d of a chunk: %s", profile.ErrCorrupt, c.off, fmt.Sprintf(format, args...))
}

// chunks calls f with each chunk of a recording.
func chunks(b []byte, f func(*chunk) error) error {
	for at := 0; at < len(b); {
		rest := b[at:]
		bad := func(format string, args ...any) error {
			return fmt.Errorf("%w: Flight Recorder: the chunk at byte %d: %s", profile.ErrCorrupt, at, fmt.Sprintf(format, args...))
		}
		if len(rest) < headerSize || !bytes.HasPrefix(rest, []byte("FLR\x00")) {
			return bad("it does not begin with FLR and a header of %d bytes", headerSize)
		}
		if major := binary.BigEndian.Uint16(rest[4:]); major != 2 {
			return bad("version %d of the format: version 2 is read, which every JDK since 9 writes", major)
		}
		size := binary.BigEndian.Uint64(rest[8:])
		if size < headerSize || size > uint64(len(rest)) {
			return bad("its size is %d, and %d bytes are there", size, len(rest))
		}
		perSecond := int64(binary.BigEndian.Uint64(rest[56:]))
		if perSecond <= 0 {
			return bad("its clock has %d ticks a second", perSecond)
		}
		c := &chunk{
			b: rest[:size], steps: int(size)*stepsPerByte + 4096, compact: binary.BigEndian.Uint32(rest[64:])&1 != 0, ticks: 1e9 / float64(perSecond),
			from: max(int64(binary.BigEndian.Uint64(rest[32:])), 0), length: max(int64(binary.BigEndian.Uint64(rest[40:])), 0),
			classes: map[int64]*class{}, stacks: map[int64]trace{}, methods: map[int64]method{}, names: map[int64]int64{},
			symbols: map[int64]string{}, texts: map[int64]string{}, states: map[int64]string{},
		}
		if err := c.prepare(int64(binary.BigEndian.Uint64(rest[24:])), int64(binary.BigEndian.Uint64(rest[16:]))); err != nil {
			return err
		}
		if err := f(c); err != nil {
			return err
		}
		at += int(size)
	}
	return nil
}

// prepare reads the description and the constants, which stand at the end of a chunk.
func (c *chunk) prepare(meta, pool int64) error {
	if meta < headerSize || meta >= int64(len(c.b)) {
		return c.corrupt("its description is said to be at byte %d", meta)
	}
	c.off = int(meta)
	if err := c.description(); err != nil {
		return err
	}
	// Each set of constants says how far before it the one ahead of it is; none is before the header, so this ends.
	for at := pool; ; {
		if at < headerSize || at >= int64(len(c.b)) {
			return c.corrupt("constants are said to be at byte %d", at)
		}
		c.off = int(at)
		delta, err := c.constants()
		if err != nil {
			return err
		}
		if delta >= 0 {
			return nil
		}
		at += delta
	}
}

// step takes one of the steps that are left.
func (c *chunk) step() error {
	if c.steps--; c.steps < 0 {
		return c.corrupt("it describes more values than its bytes can have")
	}
	return nil
}

func (c *chunk) take(n int) ([]byte, error) {
	if n < 0 || n > len(c.b)-c.off {
		return nil, c.corrupt("%d bytes are needed, and %d are left", n, len(c.b)-c.off)
	}
	b := c.b[c.off : c.off+n]
	c.off += n
	return b, nil
}

// number reads a number that takes size bytes where numbers are not compact.
func (c *chunk) number(size int) (int64, error) {
	if err := c.step(); err != nil {
		return 0, err
	}
	if !c.compact {
		b, err := c.take(size)
		if err != nil {
			return 0, err
		}
		var n int64
		for _, x := range b {
			n = n<<8 | int64(x)
		}
		if shift := 64 - 8*size; shift > 0 {
			n = n << shift >> shift // the sign
		}
		return n, nil
	}
	// LEB128 of at most 9 bytes, the ninth of 8 bits.
	var n uint64
	for i := 0; ; i++ {
		if c.off >= len(c.b) {
			return 0, c.corrupt("a number is cut short")
		}
		x := c.b[c.off]
		c.off++
		if i == 8 {
			return int64(n | uint64(x)<<56), nil
		}
		if n |= uint64(x&0x7f) << (7 * i); x < 0x80 {
			return int64(n), nil
		}
	}
}

func (c *chunk) long() (int64, error) { return c.number(8) }
func (c *chunk) int() (int64, error)  { return c.number(4) }

// count reads how many there are of what takes at least least bytes each.
func (c *chunk) count(least int) (int, error) {
	n, err := c.int()
	if err != nil {
		return 0, err
	}
	if n < 0 || n*int64(max(least, 1)) > int64(len(c.b)-c.off) {
		return 0, c.corrupt("%d values, and %d bytes are left", n, len(c.b)-c.off)
	}
	return int(n), nil
}

// text reads a string in one of its encodings.
func (c *chunk) text() (string, error) {
	tag, err := c.take(1)
	if err != nil {
		return "", err
	}
	if err := c.step(); err != nil {
		return "", err
	}
	switch tag[0] {
	case 0, 1: // none, empty
		return "", nil
	case 2: // a constant
		n, err := c.long()
		return c.texts[n], err
	case 3, 5: // UTF-8, Latin-1
		n, err := c.count(1)
		if err != nil {
			return "", err
		}
		if n > maxStrings {
			return "", fmt.Errorf("%w: Flight Recorder: a text of %d bytes, the limit is %d", profile.ErrTooLarge, n, maxStrings)
		}
		b, err := c.take(n)
		if tag[0] == 3 {
			return string(bytes.ToValidUTF8(b, []byte("\uFFFD"))), err
		}
		r := make([]rune, len(b))
		for i, x := range b {
			r[i] = rune(x)
		}
		return string(r), err
	case 4: // UTF-16
		n, err := c.count(1)
		if err != nil {
			return "", err
		}
		if n > maxStrings {
			return "", fmt.Errorf("%w: Flight Recorder: a text of %d characters, the limit is %d", profile.ErrTooLarge, n, maxStrings)
		}
		r := make([]rune, n)
		for i := range r {
			x, err := c.number(2)
			if err != nil {
				return "", err
			}
			r[i] = rune(uint16(x))
		}
		return string(r), nil
	}
	return "", c.corrupt("a text of kind %d", tag[0])
}

// structure reads the fields of a class, and hands those of the outermost one to with by their names. with may be nil, and may
// itself read a field that is an array of structures: it says that it did.
func (c *chunk) structure(cl *class, depth int, with func(f *field, v value), array func(f *field, n int) (bool, error)) error {
	if depth > maxDepth {
		return c.corrupt("structures in structures, more than %d deep", maxDepth)
	}
	for i := range cl.fields {
		f := &cl.fields[i]
		n := 1
		if f.array {
			var err error
			if n, err = c.count(0); err != nil {
				return err
			}
			if array != nil {
				switch done, err := array(f, n); {
				case err != nil:
					return err
				case done:
					continue
				}
			}
		}
		for range n {
			v, err := c.value(f, depth)
			if err != nil {
				return err
			}
			if with != nil && !f.array {
				with(f, v)
			}
		}
	}
	return nil
}

// value reads one value of a field. A structure is read over.
func (c *chunk) value(f *field, depth int) (v value, err error) {
	if err := c.step(); err != nil {
		return v, err
	}
	if f.pool {
		v.num, err = c.long()
		return v, err
	}
	cl := c.classes[f.class]
	if cl == nil {
		return v, c.corrupt("field %.40q is of class %d, which is not described", f.name, f.class)
	}
	switch cl.name {
	case "boolean", "byte":
		b, err := c.take(1)
		if err == nil {
			v.num = int64(int8(b[0]))
		}
		return v, err
	case "short", "char":
		v.num, err = c.number(2)
	case "int":
		v.num, err = c.int()
	case "long":
		v.num, err = c.long()
	case "float":
		b, err := c.take(4)
		if err == nil {
			v.num = whole(float64(math.Float32frombits(binary.BigEndian.Uint32(b))))
		}
		return v, err
	case "double":
		b, err := c.take(8)
		if err == nil {
			v.num = whole(math.Float64frombits(binary.BigEndian.Uint64(b)))
		}
		return v, err
	case "java.lang.String":
		v.text, err = c.text()
	default:
		err = c.structure(cl, depth+1, nil, nil)
	}
	return v, err
}

func whole(f float64) int64 {
	if math.IsNaN(f) || math.Abs(f) >= math.MaxInt64 {
		return 0
	}
	return int64(f)
}
