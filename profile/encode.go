package profile

import (
	"fmt"
	"io"
	"math/bits"

	"github.com/klauspost/compress/gzip"
)

// Encode writes p as `go tool pprof` reads it: the bytes of
// [Profile.AppendPprof], gzipped. The same profile always gives the same bytes.
func (p *Profile) Encode(w io.Writer) error {
	z := gzip.NewWriter(w)
	if _, err := z.Write(p.AppendPprof(nil)); err != nil {
		return fmt.Errorf("write profile: %w", err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("write profile: %w", err)
	}
	return nil
}

// AppendPprof appends p in pprof's wire format, not compressed. Identifiers are
// index+1 for functions and locations, and the index itself for mappings, whose
// index 0 is none. Strings that the header needs and p.Strings lacks follow p.Strings.
func (p *Profile) AppendPprof(dst []byte) []byte {
	e := pprofEncoder{p: p, b: dst, extra: map[string]uint64{"": 0}}
	e.header()
	e.samples()
	e.tables()
	return e.b
}

// pprofEncoder writes protobuf fields in the order of their numbers, except that the
// string table comes last but one: the header's strings are only known then.
type pprofEncoder struct {
	p     *Profile
	b     []byte
	extra map[string]uint64 // header strings -> index in the string table
	added []string          // those that follow p.Strings
}

// str is the index of a header string in the table to come.
func (e *pprofEncoder) str(s string) uint64 {
	i, ok := e.extra[s]
	if !ok {
		i = uint64(len(e.p.Strings) + len(e.added))
		for j, t := range e.p.Strings {
			if t == s {
				i = uint64(j)
				break
			}
		}
		if i == uint64(len(e.p.Strings)+len(e.added)) {
			e.added = append(e.added, s)
		}
		e.extra[s] = i
	}
	return i
}

func (e *pprofEncoder) varint(x uint64) {
	for x >= 0x80 {
		e.b = append(e.b, byte(x)|0x80)
		x >>= 7
	}
	e.b = append(e.b, byte(x))
}

// opt writes a varint field unless it is 0, protobuf's default.
func (e *pprofEncoder) opt(field int, x uint64) {
	if x != 0 {
		e.b = append(e.b, byte(field<<3))
		e.varint(x)
	}
}

func (e *pprofEncoder) optBool(field int, x bool) {
	if x {
		e.b = append(e.b, byte(field<<3), 1)
	}
}

// head starts a length-delimited field of n bytes. Every field number of
// pprof's is below 16, so its tag is one byte.
func (e *pprofEncoder) head(field, n int) {
	e.b = append(e.b, byte(field<<3|2))
	e.varint(uint64(n))
}

// open and done write a message whose length is known only when it is written. One
// byte is kept for the length; where it needs more the message moves up.
func (e *pprofEncoder) open(field int) (at int) {
	e.b = append(e.b, byte(field<<3|2), 0)
	return len(e.b)
}

func (e *pprofEncoder) done(at int) {
	n := len(e.b) - at
	if n < 0x80 {
		e.b[at-1] = byte(n)
		return
	}
	extra := varintLen(uint64(n)) - 1
	for range extra {
		e.b = append(e.b, 0)
	}
	copy(e.b[at+extra:], e.b[at:at+n])
	x := uint64(n)
	for i := at - 1; i < at+extra; i++ {
		e.b[i] = byte(x) | 0x80
		x >>= 7
	}
	e.b[at+extra-1] &= 0x7f
}

func varintLen(x uint64) int { return (bits.Len64(x|1) + 6) / 7 }

func (e *pprofEncoder) valueType(field int, t ValueType) {
	at := e.open(field)
	e.opt(1, e.str(t.Type))
	e.opt(2, e.str(t.Unit))
	e.done(at)
}

func (e *pprofEncoder) header() {
	p := e.p
	for _, t := range p.SampleTypes {
		e.valueType(1, t)
	}
	e.opt(7, e.str(p.DropFrames))
	e.opt(8, e.str(p.KeepFrames))
	e.opt(9, uint64(p.TimeNanos))
	e.opt(10, uint64(p.DurationNanos))
	if p.PeriodType != (ValueType{}) {
		e.valueType(11, p.PeriodType)
	}
	e.opt(12, uint64(p.Period))
	for _, c := range p.Comments {
		// Not packed and not left out when it is the empty string: a comment is an element of a list.
		e.b = append(e.b, 13<<3)
		e.varint(e.str(c))
	}
	e.opt(14, e.str(p.DefaultSampleType))
	e.opt(15, e.str(p.DocURL))
}

func (e *pprofEncoder) samples() {
	p := e.p
	// A label set is written many times and never changes: its bytes are made once.
	sets := make([][]byte, len(p.LabelSets))
	for i, set := range p.LabelSets {
		sub := pprofEncoder{p: p}
		for _, l := range set {
			at := sub.open(3)
			sub.opt(1, uint64(l.Key))
			sub.opt(2, uint64(l.Str))
			if l.Str == 0 {
				sub.opt(3, uint64(l.Num))
				sub.opt(4, uint64(l.Unit))
			}
			sub.done(at)
		}
		sets[i] = sub.b
	}
	for i, stack := range p.SampleStack {
		msg := e.open(2)
		if stack != 0 {
			list := e.open(1)
			for n := stack; n != 0; n = p.Stacks.Parent[n] {
				e.varint(uint64(p.Stacks.Loc[n]) + 1)
			}
			e.done(list)
		}
		if len(p.Values) > 0 {
			list := e.open(2)
			for _, col := range p.Values {
				e.varint(uint64(col[i]))
			}
			e.done(list)
		}
		e.b = append(e.b, sets[p.SampleLabels[i]]...)
		e.done(msg)
	}
}

func (e *pprofEncoder) tables() {
	p := e.p
	for i := 1; i < len(p.Mappings); i++ {
		m := &p.Mappings[i]
		at := e.open(3)
		e.opt(1, uint64(i))
		e.opt(2, m.Start)
		e.opt(3, m.Limit)
		e.opt(4, m.Offset)
		e.opt(5, uint64(m.File))
		e.opt(6, uint64(m.BuildID))
		e.optBool(7, m.HasFunctions)
		e.optBool(8, m.HasFilenames)
		e.optBool(9, m.HasLineNumbers)
		e.optBool(10, m.HasInlineFrames)
		e.done(at)
	}
	for i := range p.Locations {
		l := &p.Locations[i]
		at := e.open(4)
		e.opt(1, uint64(i)+1)
		e.opt(2, uint64(l.Mapping))
		e.opt(3, l.Address)
		for _, ln := range p.LinesOf(uint32(i)) {
			sub := e.open(4)
			e.opt(1, uint64(ln.Function)+1)
			e.opt(2, uint64(ln.Line))
			e.opt(3, uint64(ln.Column))
			e.done(sub)
		}
		e.optBool(5, l.Folded)
		e.done(at)
	}
	for i := range p.Functions {
		f := &p.Functions[i]
		at := e.open(5)
		e.opt(1, uint64(i)+1)
		e.opt(2, uint64(f.Name))
		e.opt(3, uint64(f.SystemName))
		e.opt(4, uint64(f.File))
		e.opt(5, uint64(f.StartLine))
		e.done(at)
	}
	for _, s := range p.Strings {
		e.head(6, len(s))
		e.b = append(e.b, s...)
	}
	for _, s := range e.added {
		e.head(6, len(s))
		e.b = append(e.b, s...)
	}
}
