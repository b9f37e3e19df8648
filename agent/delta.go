package agent

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"slices"
	"time"
	"unsafe"
)

// The runtime counts allocations and contentions since the program began. A
// meter makes of two such totals what was added between them. It works on the
// bytes that runtime/pprof writes, not on runtime.MemProfile and its like:
// those cut every stack to 32 frames and cannot give a function's start line,
// which profile-guided optimisation needs; runtime/pprof gives up to 128
// frames, scales samples and converts cycles to nanoseconds as everyone expects.
//
// Field numbers are those of profile.proto (github.com/google/pprof/proto).

// maxTotals bounds the decompressed totals that a meter reads.
const maxTotals = 256 << 20

// maxKeptBuffer is the most that a buffer keeps from window to window.
const maxKeptBuffer = 1 << 20

// maxColumns is the most sample types that a meter reads.
const maxColumns = 4

// column says what becomes of one sample type.
type column struct {
	keep  bool
	delta bool // what was added since the last look; else as it is
}

// meter remembers one running profile. One goroutine at a time.
type meter struct {
	name   string // the upload's
	source string // runtime/pprof's; "" has write
	write  func(io.Writer) error
	cols   []column
	looked bool
	period int64
	looks  uint32
	count  int64              // of contentions at the last look
	index  map[stackKey]int32 // into seen
	seen   []seenStack
	seeds  [2]maphash.Seed
	*scratch
}

// seenStack is what is remembered of a stack.
type seenStack struct {
	last   values // the totals at the last look
	looks  uint32 // the look that it was in
	sample int32  // its first sample in that look
}

type values [maxColumns]int64

// stackKey is a stack's addresses and labels, hashed with two random seeds: 128 bits, so that
// two of a million stacks meet with a chance below 1e-26, in a quarter of the memory.
type stackKey [2]uint64

// scratch is what profiles are read and written with: gzip's writer alone is 800 KB. All meters
// of an agent share it, and it is let go between windows: what lives counts twice in a program whose heap may double.
type scratch struct {
	zr      *gzip.Reader
	zw      *gzip.Writer
	in, out bytes.Buffer
	msg     []byte
	key     []byte
}

// unpack is what gzip bytes hold, until the next call.
func (s *scratch) unpack(b []byte) ([]byte, error) {
	var err error
	if s.zr == nil {
		s.zr, err = gzip.NewReader(bytes.NewReader(b))
	} else {
		err = s.zr.Reset(bytes.NewReader(b))
	}
	if err != nil {
		s.zr = nil
		return nil, err
	}
	if s.in.Cap() > maxKeptBuffer {
		s.in = bytes.Buffer{}
	}
	s.in.Reset()
	n, err := s.in.ReadFrom(io.LimitReader(s.zr, maxTotals+1))
	if err != nil {
		return nil, err
	}
	if n > maxTotals {
		return nil, fmt.Errorf("over %d bytes, the limit", maxTotals)
	}
	return s.in.Bytes(), nil
}

// pack is b in gzip, in memory of its own.
func (s *scratch) pack(b []byte) ([]byte, error) {
	s.out.Reset()
	if s.zw == nil {
		s.zw, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is a valid one
	}
	s.zw.Reset(&s.out)
	if _, err := s.zw.Write(b); err != nil {
		return nil, err
	}
	if err := s.zw.Close(); err != nil {
		return nil, err
	}
	packed := bytes.Clone(s.out.Bytes())
	if s.out.Cap() > maxKeptBuffer {
		s.out = bytes.Buffer{}
	}
	return packed, nil
}

// release lets go of all of it.
func (s *scratch) release() { *s = scratch{} }

// memory is what is kept, in bytes.
func (s *scratch) memory() int64 {
	n := int64(s.in.Cap() + s.out.Cap() + cap(s.msg) + cap(s.key))
	if s.zw != nil {
		n += 800 << 10 // compress/flate's tables at the fastest level
	}
	if s.zr != nil {
		n += 48 << 10 // its window and tables
	}
	return n
}

func newMeter(s *scratch, name, source string, cols ...column) *meter {
	return &meter{
		name: name, source: source, cols: cols, index: map[stackKey]int32{},
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, scratch: s,
	}
}

// memory is what the meter remembers, in bytes: a slot of the map is 20 bytes and takes about 30, as some are free.
func (m *meter) memory() int64 {
	return int64(len(m.index))*30 + int64(cap(m.seen))*int64(unsafe.Sizeof(seenStack{}))
}

// measure reads the totals, gzip as runtime/pprof writes them, and is the
// profile of the window since the last look, gzip too. It is nil at the first look,
// and where nothing happened. An error leaves the last look as it was.
func (m *meter) measure(totals []byte, from, until time.Time) ([]byte, error) {
	raw, err := m.unpack(totals)
	if err != nil {
		return nil, fmt.Errorf("totals: %w", err)
	}
	var p rawProfile
	if err := p.parse(raw); err != nil {
		return nil, fmt.Errorf("totals: %w", err)
	}
	if m.source == "" && len(m.cols) == 0 { // a Source's: all its columns are totals
		for range p.types {
			m.cols = append(m.cols, column{keep: true, delta: true})
		}
	}
	if len(p.types) != len(m.cols) {
		return nil, fmt.Errorf("totals: %d sample types, want %d", len(p.types), len(m.cols))
	}
	first := !m.looked
	m.delta(&p)
	if first || len(p.samples) == 0 {
		return nil, nil
	}
	e := encoder{p: &p, cols: m.cols, out: m.msg[:0]}
	m.msg = e.encode(from, until)
	body, err := m.pack(m.msg)
	if cap(m.msg) > maxKeptBuffer {
		m.msg = nil
	}
	return body, err
}

// delta replaces each sample of p by what was added, and forgets those to which nothing was.
func (m *meter) delta(p *rawProfile) {
	// Another sampling rate scales all the past anew: no difference makes sense.
	baseline := !m.looked || m.period != p.period
	m.looked, m.period = true, p.period
	m.looks++
	// A stack can be there twice: the runtime tells sizes apart that come out the same.
	distinct := p.samples[:0]
	stacks := make([]int32, 0, len(p.samples))
	for i := range p.samples {
		s := p.samples[i]
		k := m.stackKey(p, s)
		id, known := m.index[k]
		if !known {
			id = int32(len(m.seen))
			m.index[k] = id
			m.seen = append(m.seen, seenStack{})
		}
		stack := &m.seen[id]
		if stack.looks == m.looks {
			for c := range m.cols {
				distinct[stack.sample].values[c] += s.values[c]
			}
			continue
		}
		stack.looks, stack.sample = m.looks, int32(len(distinct))
		distinct, stacks = append(distinct, s), append(stacks, id)
	}
	p.samples = distinct[:0]
	for i, s := range distinct {
		stack := &m.seen[stacks[i]]
		total, some := s.values, false
		for c, col := range m.cols {
			switch {
			case !col.keep, col.delta && baseline:
				s.values[c] = 0
			case col.delta:
				s.values[c] = max(0, total[c]-stack.last[c])
			}
			some = some || s.values[c] != 0
		}
		stack.last = total
		if some {
			p.samples = append(p.samples, s)
		}
	}
}

func (m *meter) stackKey(p *rawProfile, s rawSample) stackKey {
	k := m.key[:0]
	for _, id := range p.stack(s) {
		// A program's addresses stay; the ids of locations are new in each look.
		k = binary.LittleEndian.AppendUint64(k, p.locs[id].address)
	}
	for _, l := range p.labelsOf(s) {
		for _, str := range [...]uint64{l.key, l.str, l.unit} {
			k = append(append(k, 0xff), p.strings[str]...) // 0xff is in no UTF-8
		}
		k = binary.LittleEndian.AppendUint64(k, uint64(l.num))
	}
	m.key = k
	return stackKey{maphash.Bytes(m.seeds[0], k), maphash.Bytes(m.seeds[1], k)}
}

// firstNumber is the first of packed numbers.
func firstNumber(b []byte) (uint64, error) {
	n, w := binary.Uvarint(b)
	if w <= 0 {
		return 0, errMessage
	}
	return n, nil
}

// rawProfile is a profile as its messages say, with indexes into its string
// table. The byte slices point into the parsed buffer. Ids of locations, functions and mappings
// are 1 to their number, as runtime/pprof gives them, so that tables are slices.
type rawProfile struct {
	types         []valueType
	samples       []rawSample
	stacks        []uint32   // locations of all samples
	labels        []rawLabel // of all samples
	maps          [][]byte   // messages, by id
	locs          []rawLocation
	lines         []rawLine // of all locations
	funcs         []rawFunction
	strings       [][]byte
	periodType    valueType
	period        int64
	defaultSample uint64
}

type valueType struct{ typ, unit uint64 }

type rawSample struct {
	first, end           uint32 // in stacks
	firstLabel, endLabel uint32 // in labels
	values               values
}

type rawLabel struct {
	key, str, unit uint64
	num            int64
}

type rawLocation struct {
	mapping     uint32
	first, end  uint32 // in lines
	folded, set bool
	address     uint64
}

type rawLine struct {
	function     uint32
	line, column uint64
}

type rawFunction struct {
	name, system, file, start uint64
	set                       bool
}

func (p *rawProfile) stack(s rawSample) []uint32      { return p.stacks[s.first:s.end] }
func (p *rawProfile) labelsOf(s rawSample) []rawLabel { return p.labels[s.firstLabel:s.endLabel] }

var (
	errMessage = errors.New("not a profile.proto message")
	errDense   = fmt.Errorf("%w: ids are not 1 to the number of their messages", errMessage)
)

// fields calls f for each field of a message: with n for a number, with b for bytes.
func fields(msg []byte, f func(field int, n uint64, b []byte) error) error {
	for len(msg) > 0 {
		tag, w := binary.Uvarint(msg)
		if w <= 0 || tag>>3 == 0 || tag>>3 > 1<<29 {
			return errMessage
		}
		msg = msg[w:]
		var n uint64
		var b []byte
		switch tag & 7 {
		case 0:
			if n, w = binary.Uvarint(msg); w <= 0 {
				return errMessage
			}
			msg = msg[w:]
		case 1, 5:
			size := 8
			if tag&7 == 5 {
				size = 4
			}
			if len(msg) < size {
				return errMessage
			}
			msg = msg[size:]
			continue // profile.proto has none: of a later version
		case 2:
			if n, w = binary.Uvarint(msg); w <= 0 || n > uint64(len(msg)-w) {
				return errMessage
			}
			b = msg[w : w+int(n) : w+int(n)]
			msg = msg[w+int(n):]
		default:
			return errMessage
		}
		if err := f(int(tag>>3), n, b); err != nil {
			return err
		}
	}
	return nil
}

// repeated adds a repeated number: packed, or one at a time.
func repeated(to []uint64, n uint64, b []byte) ([]uint64, error) {
	if b == nil {
		return append(to, n), nil
	}
	for len(b) > 0 {
		n, w := binary.Uvarint(b)
		if w <= 0 {
			return nil, errMessage
		}
		to, b = append(to, n), b[w:]
	}
	return to, nil
}

// Fields of the message Profile.
const (
	fieldSampleType = 1
	fieldSample     = 2
	fieldMapping    = 3
	fieldLocation   = 4
	fieldFunction   = 5
	fieldString     = 6
)

func (p *rawProfile) parse(msg []byte) error {
	// Counted first: the tables then have their size at once, and ids a bound.
	var counts [7]int
	if err := fields(msg, func(field int, _ uint64, b []byte) error {
		if field < len(counts) && b != nil {
			counts[field]++
		}
		return nil
	}); err != nil {
		return err
	}
	p.samples = make([]rawSample, 0, counts[fieldSample])
	p.stacks = make([]uint32, 0, 16*counts[fieldSample])
	p.labels = make([]rawLabel, 0, counts[fieldSample])
	p.maps = make([][]byte, counts[fieldMapping]+1)
	p.locs = make([]rawLocation, counts[fieldLocation]+1)
	p.lines = make([]rawLine, 0, counts[fieldLocation])
	p.funcs = make([]rawFunction, counts[fieldFunction]+1)
	p.strings = make([][]byte, 0, counts[fieldString])
	var nums []uint64
	err := fields(msg, func(field int, n uint64, b []byte) (err error) {
		switch field {
		case fieldSampleType:
			var t valueType
			t, err = parseValueType(b)
			p.types = append(p.types, t)
		case fieldSample:
			nums, err = p.parseSample(b, nums[:0])
		case fieldMapping:
			var id uint64
			if id, err = mappingID(b); err == nil && (id == 0 || id >= uint64(len(p.maps))) {
				err = errDense
			} else if err == nil {
				p.maps[id] = b
			}
		case fieldLocation:
			err = p.parseLocation(b)
		case fieldFunction:
			err = p.parseFunction(b)
		case fieldString:
			p.strings = append(p.strings, b)
		case 11:
			p.periodType, err = parseValueType(b)
		case 12:
			p.period = int64(n)
		case 14:
			p.defaultSample = n
		}
		return err
	})
	if err != nil {
		return err
	}
	return p.check()
}

// check makes sure that every index points at something, so that the rest need not.
func (p *rawProfile) check() error {
	ok := len(p.types) <= maxColumns && len(p.strings) > 0 && len(p.strings[0]) == 0
	str := func(indexes ...uint64) {
		for _, i := range indexes {
			ok = ok && i < uint64(len(p.strings))
		}
	}
	for _, t := range append(slices.Clone(p.types), p.periodType) {
		str(t.typ, t.unit)
	}
	str(p.defaultSample)
	for _, id := range p.stacks {
		ok = ok && id < uint32(len(p.locs)) && p.locs[id].set
	}
	for _, l := range p.labels {
		str(l.key, l.str, l.unit)
	}
	for _, l := range p.lines {
		ok = ok && l.function < uint32(len(p.funcs)) && p.funcs[l.function].set
	}
	for _, f := range p.funcs {
		str(f.name, f.system, f.file)
	}
	for _, m := range p.maps {
		if err := fields(m, func(field int, n uint64, b []byte) error {
			if field == 5 || field == 6 {
				str(n)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if !ok {
		return fmt.Errorf("%w: it refers to what is not there", errMessage)
	}
	return nil
}

func parseValueType(b []byte) (t valueType, err error) {
	err = fields(b, func(field int, n uint64, _ []byte) error {
		switch field {
		case 1:
			t.typ = n
		case 2:
			t.unit = n
		}
		return nil
	})
	return t, err
}

// parseSample adds a sample. nums is memory to use.
func (p *rawProfile) parseSample(b []byte, nums []uint64) ([]uint64, error) {
	s := rawSample{first: uint32(len(p.stacks)), firstLabel: uint32(len(p.labels))}
	columns := 0
	err := fields(b, func(field int, n uint64, b []byte) (err error) {
		switch field {
		case 1:
			nums, err = repeated(nums[:0], n, b)
			for _, id := range nums {
				p.stacks = append(p.stacks, uint32(min(id, math.MaxUint32)))
			}
		case 2:
			nums, err = repeated(nums[:0], n, b)
			for _, v := range nums {
				if columns == maxColumns {
					return errMessage
				}
				s.values[columns] = int64(v)
				columns++
			}
		case 3:
			var l rawLabel
			l, err = parseLabel(b)
			p.labels = append(p.labels, l)
		}
		return err
	})
	s.end, s.endLabel = uint32(len(p.stacks)), uint32(len(p.labels))
	p.samples = append(p.samples, s)
	return nums, err
}

func parseLabel(b []byte) (l rawLabel, err error) {
	err = fields(b, func(field int, n uint64, _ []byte) error {
		switch field {
		case 1:
			l.key = n
		case 2:
			l.str = n
		case 3:
			l.num = int64(n)
		case 4:
			l.unit = n
		}
		return nil
	})
	return l, err
}

func mappingID(b []byte) (id uint64, err error) {
	err = fields(b, func(field int, n uint64, _ []byte) error {
		if field == 1 {
			id = n
		}
		return nil
	})
	return id, err
}

func (p *rawProfile) parseLocation(b []byte) error {
	var id uint64
	l := rawLocation{set: true, first: uint32(len(p.lines))}
	err := fields(b, func(field int, n uint64, b []byte) error {
		switch field {
		case 1:
			id = n
		case 2:
			l.mapping = uint32(min(n, math.MaxUint32))
		case 3:
			l.address = n
		case 4:
			var ln rawLine
			err := fields(b, func(field int, n uint64, _ []byte) error {
				switch field {
				case 1:
					ln.function = uint32(min(n, math.MaxUint32))
				case 2:
					ln.line = n
				case 3:
					ln.column = n
				}
				return nil
			})
			p.lines = append(p.lines, ln)
			return err
		case 5:
			l.folded = n != 0
		}
		return nil
	})
	l.end = uint32(len(p.lines))
	if err != nil {
		return err
	}
	if id == 0 || id >= uint64(len(p.locs)) {
		return errDense
	}
	p.locs[id] = l
	return nil
}

func (p *rawProfile) parseFunction(b []byte) error {
	var id uint64
	f := rawFunction{set: true}
	err := fields(b, func(field int, n uint64, _ []byte) error {
		switch field {
		case 1:
			id = n
		case 2:
			f.name = n
		case 3:
			f.system = n
		case 4:
			f.file = n
		case 5:
			f.start = n
		}
		return nil
	})
	if err != nil {
		return err
	}
	if id == 0 || id >= uint64(len(p.funcs)) {
		return errDense
	}
	p.funcs[id] = f
	return nil
}
