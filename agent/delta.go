package agent

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"time"
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
	last   map[stackKey]values // the totals at the last look
	seeds  [2]maphash.Seed

	// kept from look to look, so that a window makes little garbage
	in, out bytes.Buffer
	zip     *gzip.Writer
	key     []byte
}

type values [maxColumns]int64

// stackKey is a stack's addresses and labels, hashed with two random seeds: 128 bits, so that
// two of a million stacks meet with a chance below 1e-26, in a quarter of the memory.
type stackKey [2]uint64

func newMeter(name, source string, cols ...column) *meter {
	return &meter{name: name, source: source, cols: cols, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
}

// measure reads the totals, gzip as runtime/pprof writes them, and is the
// profile of the window since the last look, gzip too. It is nil at the first look,
// and where nothing happened. An error leaves the last look as it was.
func (m *meter) measure(totals []byte, from, until time.Time) ([]byte, error) {
	zr, err := gzip.NewReader(bytes.NewReader(totals))
	if err != nil {
		return nil, fmt.Errorf("totals: %w", err)
	}
	m.in.Reset()
	if n, err := m.in.ReadFrom(io.LimitReader(zr, maxTotals+1)); err != nil || n > maxTotals {
		return nil, fmt.Errorf("totals: %d bytes read, the limit is %d: %w", n, maxTotals, errors.Join(err))
	}
	var p rawProfile
	if err := p.parse(m.in.Bytes()); err != nil {
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
	body, err := m.delta(&p, from, until)
	for _, b := range []*bytes.Buffer{&m.in, &m.out} {
		if b.Cap() > maxKeptBuffer {
			*b = bytes.Buffer{}
		}
	}
	return body, err
}

// memory is what the meter holds between windows, in bytes: of a map's entry 40 bytes of key and value, and as
// much again for what is free in it, and gzip's own 800 KB at the fastest level.
func (m *meter) memory() int64 {
	n := int64(len(m.last))*2*48 + int64(m.in.Cap()+m.out.Cap())
	if m.zip != nil {
		n += 800 << 10
	}
	return n
}

// firstNumber is the first of packed numbers.
func firstNumber(b []byte) (uint64, error) {
	n, w := binary.Uvarint(b)
	if w <= 0 {
		return 0, errMessage
	}
	return n, nil
}

// delta replaces each sample of p by what was added, and forgets those to which nothing was.
func (m *meter) delta(p *rawProfile, from, until time.Time) ([]byte, error) {
	// A stack can be there twice: the runtime tells sizes apart that come out the same.
	index := make(map[stackKey]int, len(p.samples))
	distinct := p.samples[:0]
	keys := make([]stackKey, 0, len(p.samples))
	for _, s := range p.samples {
		k := m.stackKey(p, s)
		if i, ok := index[k]; ok {
			for c := range m.cols {
				distinct[i].values[c] += s.values[c]
			}
			continue
		}
		index[k] = len(distinct)
		distinct, keys = append(distinct, s), append(keys, k)
	}
	// Another sampling rate scales all the past anew: no difference makes sense.
	baseline := !m.looked || m.period != p.period
	now := make(map[stackKey]values, len(distinct))
	p.samples = distinct[:0]
	for i, s := range distinct {
		total := s.values
		now[keys[i]] = total
		last := m.last[keys[i]]
		some := false
		for c, col := range m.cols {
			switch {
			case !col.keep, col.delta && baseline:
				s.values[c] = 0
			case col.delta:
				s.values[c] = max(0, total[c]-last[c])
			}
			some = some || s.values[c] != 0
		}
		if some {
			p.samples = append(p.samples, s)
		}
	}
	first := !m.looked
	m.last, m.looked, m.period = now, true, p.period
	if first || len(p.samples) == 0 {
		return nil, nil
	}
	m.out.Reset()
	if m.zip == nil {
		m.zip, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is a valid one
	}
	m.zip.Reset(&m.out)
	e := encoder{p: p, cols: m.cols}
	if _, err := m.zip.Write(e.encode(from, until)); err != nil {
		return nil, err
	}
	if err := m.zip.Close(); err != nil {
		return nil, err
	}
	return bytes.Clone(m.out.Bytes()), nil
}

func (m *meter) stackKey(p *rawProfile, s rawSample) stackKey {
	k := m.key[:0]
	for _, id := range s.locs {
		// A program's addresses stay; the ids of locations are new in each look.
		k = binary.LittleEndian.AppendUint64(k, p.locs[id].address)
	}
	for _, l := range s.labels {
		for _, str := range [...]uint64{l.key, l.str, l.unit} {
			k = append(append(k, 0xff), p.strings[str]...) // 0xff is in no UTF-8
		}
		k = binary.LittleEndian.AppendUint64(k, uint64(l.num))
	}
	m.key = k
	return stackKey{maphash.Bytes(m.seeds[0], k), maphash.Bytes(m.seeds[1], k)}
}

// rawProfile is a profile as its messages say, with indexes into its string
// table. The byte slices point into the parsed buffer.
type rawProfile struct {
	types         []valueType
	samples       []rawSample
	maps          map[uint64][]byte // id -> message
	locs          map[uint64]rawLocation
	funcs         map[uint64]rawFunction
	strings       [][]byte
	periodType    valueType
	period        int64
	defaultSample uint64
}

type valueType struct{ typ, unit uint64 }

type rawSample struct {
	locs   []uint64
	values values
	labels []rawLabel
}

type rawLabel struct {
	key, str, unit uint64
	num            int64
}

type rawLocation struct {
	mapping, address uint64
	folded           bool
	lines            []rawLine
}

type rawLine struct{ function, line, column uint64 }

type rawFunction struct{ name, system, file, start uint64 }

var errMessage = errors.New("not a profile.proto message")

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

func (p *rawProfile) parse(msg []byte) error {
	p.maps, p.locs, p.funcs = map[uint64][]byte{}, map[uint64]rawLocation{}, map[uint64]rawFunction{}
	err := fields(msg, func(field int, n uint64, b []byte) (err error) {
		switch field {
		case 1:
			var t valueType
			t, err = parseValueType(b)
			p.types = append(p.types, t)
		case 2:
			var s rawSample
			s, err = parseSample(b)
			p.samples = append(p.samples, s)
		case 3:
			var id uint64
			id, err = mappingID(b)
			p.maps[id] = b
		case 4:
			err = p.parseLocation(b)
		case 5:
			err = p.parseFunction(b)
		case 6:
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
	for _, s := range p.samples {
		for _, id := range s.locs {
			_, there := p.locs[id]
			ok = ok && there
		}
		for _, l := range s.labels {
			str(l.key, l.str, l.unit)
		}
	}
	for _, l := range p.locs {
		for _, ln := range l.lines {
			_, there := p.funcs[ln.function]
			ok = ok && there
		}
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

func parseSample(b []byte) (s rawSample, err error) {
	nums := make([]uint64, 0, maxColumns)
	err = fields(b, func(field int, n uint64, b []byte) (err error) {
		switch field {
		case 1:
			s.locs, err = repeated(s.locs, n, b)
		case 2:
			nums, err = repeated(nums, n, b)
		case 3:
			var l rawLabel
			l, err = parseLabel(b)
			s.labels = append(s.labels, l)
		}
		return err
	})
	if len(nums) > maxColumns {
		return s, errMessage
	}
	for i, n := range nums {
		s.values[i] = int64(n)
	}
	return s, err
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
	var l rawLocation
	err := fields(b, func(field int, n uint64, b []byte) error {
		switch field {
		case 1:
			id = n
		case 2:
			l.mapping = n
		case 3:
			l.address = n
		case 4:
			var ln rawLine
			err := fields(b, func(field int, n uint64, _ []byte) error {
				switch field {
				case 1:
					ln.function = n
				case 2:
					ln.line = n
				case 3:
					ln.column = n
				}
				return nil
			})
			l.lines = append(l.lines, ln)
			return err
		case 5:
			l.folded = n != 0
		}
		return nil
	})
	p.locs[id] = l
	return err
}

func (p *rawProfile) parseFunction(b []byte) error {
	var id uint64
	var f rawFunction
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
	p.funcs[id] = f
	return err
}
