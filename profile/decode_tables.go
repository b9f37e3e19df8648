package profile

import (
	"iter"
	"slices"
	"strings"
	"unicode/utf8"
)

// pprofDecoder reads a Profile message. One pass over the top level, survey, counts and
// finds where each table lies, so that everything is allocated once; then
// strings, mappings, functions, locations, samples, each in a pass over its own fields.
type pprofDecoder struct {
	wireReader
	lim Limits
	p   *Profile

	tables [fieldString + 1]table

	strs                  []uint32 // index in the message's string table -> in p.Strings
	seen                  stringTable
	mappings, funcs, locs idTable

	periodType         *span // the last one counts, as in protobuf
	comments           []uint64
	drop, keep, st, dc uint64 // drop_frames, keep_frames, default_sample_type, doc_url

	samples sampleDecoder
}

// table is the fields of one number: how many, and where, in runs of neighbours.
// Most writers make one run a table; Go's writes a location when a sample first needs it.
type table struct {
	n    int
	runs []span
}

// span is bytes of the buffer: from lo, before hi.
type span struct{ lo, hi uint32 }

// pprof's field numbers in Profile.
const (
	fieldSampleType = 1
	fieldSample     = 2
	fieldMapping    = 3
	fieldLocation   = 4
	fieldFunction   = 5
	fieldString     = 6
	fieldDrop       = 7
	fieldKeep       = 8
	fieldTime       = 9
	fieldDuration   = 10
	fieldPeriodType = 11
	fieldPeriod     = 12
	fieldComment    = 13
	fieldDefault    = 14
	fieldDocURL     = 15
)

func (d *pprofDecoder) profile() (*Profile, error) {
	if len(d.b) == 0 {
		return nil, corrupt(0, "no data")
	}
	d.p = &Profile{}
	steps := []func() error{d.survey, d.readStrings, d.header, d.readMappings, d.readFunctions, d.readLocations, d.readSamples}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return d.p, nil
}

// each reads the fields of number num in order: d.lo and d.hi are the bytes of the
// i-th. survey has read them all before, so that there is no error.
func (d *pprofDecoder) each(num int) iter.Seq[int] {
	return func(yield func(i int) bool) {
		i := 0
		for _, run := range d.tables[num].runs {
			for pos, end := int(run.lo), int(run.hi); pos < end; i++ {
				pos, _ = d.next(pos, end)
				if !yield(i) {
					return
				}
			}
		}
	}
}

func (d *pprofDecoder) survey() error {
	most := [...]struct {
		n    int
		what string
	}{
		fieldSampleType: {d.lim.SampleTypes, "sample types"},
		fieldSample:     {d.lim.Samples, "samples"},
		fieldMapping:    {d.lim.Mappings, "mappings"},
		fieldLocation:   {d.lim.Locations, "locations"},
		fieldFunction:   {d.lim.Functions, "functions"},
		fieldString:     {d.lim.Strings, "strings"},
	}
	before := uint64(0) // the number of the field before
	for pos, end := 0, len(d.b); pos < end; {
		next, err := d.next(pos, end)
		if err != nil {
			return err
		}
		if d.num >= fieldSampleType && d.num <= fieldString {
			if d.typ != wireBytes {
				return d.want(wireBytes, "profile: "+most[d.num].what)
			}
			t := &d.tables[d.num]
			switch t.n++; {
			case t.n > most[d.num].n: // an error, but after the count
			case d.num == before:
				t.runs[len(t.runs)-1].hi = uint32(next)
			default:
				t.runs = append(t.runs, span{uint32(pos), uint32(next)})
			}
			if d.num == fieldString && d.hi-d.lo > d.lim.StringBytes {
				return tooLarge("bytes in one string", d.hi-d.lo, d.lim.StringBytes)
			}
		} else if err := d.headerField(); err != nil {
			return err
		}
		before, pos = d.num, next
	}
	for i, t := range d.tables {
		if t.n > most[i].n {
			return tooLarge(most[i].what, t.n, most[i].n)
		}
	}
	return nil
}

// headerField takes a field of no table, where survey passes it.
func (d *pprofDecoder) headerField() error {
	p := d.p
	switch d.num {
	case fieldPeriodType:
		d.periodType = &span{uint32(d.lo), uint32(d.hi)}
		return d.want(wireBytes, "profile: period_type")
	case fieldComment:
		if d.typ != wireBytes {
			d.comments = append(d.comments, d.u)
		} else {
			for pos := d.lo; pos < d.hi; {
				u, next := d.varint(pos, d.hi)
				if next < 0 {
					return corrupt(pos, "comment is no varint")
				}
				d.comments, pos = append(d.comments, u), next
			}
			d.typ = wireVarint
		}
		if len(d.comments) > d.lim.Comments {
			return tooLarge("comments", len(d.comments), d.lim.Comments)
		}
	case fieldDrop:
		d.drop = d.u
	case fieldKeep:
		d.keep = d.u
	case fieldTime:
		// A time twice is how pprof knows two profiles written one after the other.
		if p.TimeNanos != 0 {
			return corrupt(d.at, "time_nanos is there twice: these are several profiles one after the other; merge them instead")
		}
		p.TimeNanos = int64(d.u)
	case fieldDuration:
		p.DurationNanos = int64(d.u)
	case fieldPeriod:
		p.Period = int64(d.u)
	case fieldDefault:
		d.st = d.u
	case fieldDocURL:
		d.dc = d.u
	default:
		return nil // of a later version of the format
	}
	return d.want(wireVarint, "profile")
}

// readStrings copies the string table, a run of fields at once, and keeps each distinct
// string once: then strings are equal if their indexes are, and the profile keeps
// nothing of the buffer.
func (d *pprofDecoder) readStrings() error {
	t := &d.tables[fieldString]
	if t.n == 0 {
		return corrupt(len(d.b), "there is no string table")
	}
	d.strs = slices.Grow(d.strs, t.n)
	distinct := make([]string, 0, t.n)
	d.seen.init(t.n)
	for _, run := range t.runs {
		from := int(run.lo)
		text := string(d.b[from:run.hi])
		for pos := from; pos < int(run.hi); {
			pos, _ = d.next(pos, int(run.hi)) // survey has read it before
			s := text[d.lo-from : d.hi-from]
			if len(d.strs) == 0 && s != "" {
				return corrupt(d.at, "string 0 is %.40q, it must be empty", s)
			}
			if !utf8.ValidString(s) {
				s = strings.ToValidUTF8(s, "\uFFFD")
			}
			at, fresh := d.seen.get(s, distinct)
			if fresh {
				distinct = append(distinct, s)
			}
			d.strs = append(d.strs, at)
		}
	}
	d.p.Strings = distinct
	return nil
}

// str turns an index of the message into one of p.Strings.
func (d *pprofDecoder) str(u uint64, what string) (uint32, error) {
	if u >= uint64(len(d.strs)) {
		return 0, corrupt(d.at, "%s is string %d, the table has %d", what, int64(u), len(d.strs))
	}
	return d.strs[u], nil
}

func (d *pprofDecoder) valueType(lo, hi int) (ValueType, error) {
	var ix [2]uint64
	for pos := lo; pos < hi; {
		next, err := d.next(pos, hi)
		if err != nil {
			return ValueType{}, err
		}
		if d.num == 1 || d.num == 2 {
			if err := d.want(wireVarint, "value type"); err != nil {
				return ValueType{}, err
			}
			ix[d.num-1] = d.u
		}
		pos = next
	}
	t, err := d.str(ix[0], "type of values")
	if err != nil {
		return ValueType{}, err
	}
	u, err := d.str(ix[1], "unit of values")
	return ValueType{d.p.Strings[t], d.p.Strings[u]}, err
}

func (d *pprofDecoder) header() error {
	p := d.p
	for range d.each(fieldSampleType) {
		t, err := d.valueType(d.lo, d.hi)
		if err != nil {
			return err
		}
		p.SampleTypes = append(p.SampleTypes, t)
	}
	if s := d.periodType; s != nil {
		var err error
		if p.PeriodType, err = d.valueType(int(s.lo), int(s.hi)); err != nil {
			return err
		}
	}
	d.at = 0
	for _, f := range []struct {
		dst  *string
		ix   uint64
		what string
	}{
		{&p.DropFrames, d.drop, "drop_frames"}, {&p.KeepFrames, d.keep, "keep_frames"},
		{&p.DefaultSampleType, d.st, "default_sample_type"}, {&p.DocURL, d.dc, "doc_url"},
	} {
		i, err := d.str(f.ix, f.what)
		if err != nil {
			return err
		}
		*f.dst = p.Strings[i]
	}
	for _, c := range d.comments {
		i, err := d.str(c, "comment")
		if err != nil {
			return err
		}
		p.Comments = append(p.Comments, p.Strings[i])
	}
	return nil
}

// scalars reads the varint fields 1 to len(dst) of the message [lo, hi), and passes others over.
func (d *pprofDecoder) scalars(lo, hi int, dst []uint64, what string) error {
	clear(dst)
	for pos := lo; ; {
		if pos = varints(d.b[:hi], pos, dst); pos >= hi {
			d.at = lo
			return nil
		}
		next, err := d.next(pos, hi)
		if err != nil {
			return err
		}
		if n := d.num; n >= 1 && n <= uint64(len(dst)) {
			if err := d.want(wireVarint, what); err != nil {
				return err
			}
			dst[n-1] = d.u
		}
		pos = next
	}
}

// newID enters the identifier of row index of a table.
func (d *pprofDecoder) newID(t *idTable, id uint64, index uint32, what string) error {
	if id == 0 {
		return corrupt(d.at, "%s has id 0, which means none", what)
	}
	if !t.set(id, index) {
		return corrupt(d.at, "two %ss have id %d", what, id)
	}
	return nil
}

func (d *pprofDecoder) readMappings() error {
	n := d.tables[fieldMapping].n
	d.mappings.init(n)
	d.p.Mappings = make([]Mapping, 1, n+1)
	var f [10]uint64
	for i := range d.each(fieldMapping) {
		if err := d.scalars(d.lo, d.hi, f[:], "mapping"); err != nil {
			return err
		}
		file, err := d.str(f[4], "file of mapping")
		if err != nil {
			return err
		}
		build, err := d.str(f[5], "build id of mapping")
		if err != nil {
			return err
		}
		d.p.Mappings = append(d.p.Mappings, Mapping{Start: f[1], Limit: f[2], Offset: f[3], File: file, BuildID: build,
			HasFunctions: f[6] != 0, HasFilenames: f[7] != 0, HasLineNumbers: f[8] != 0, HasInlineFrames: f[9] != 0})
		if err := d.newID(&d.mappings, f[0], uint32(i)+1, "mapping"); err != nil {
			return err
		}
	}
	return nil
}

func (d *pprofDecoder) readFunctions() error {
	n := d.tables[fieldFunction].n
	d.funcs.init(n)
	d.p.Functions = make([]Function, n)
	var f [5]uint64
	for i := range d.each(fieldFunction) {
		if err := d.scalars(d.lo, d.hi, f[:], "function"); err != nil {
			return err
		}
		if m := max(f[1], f[2], f[3]); m >= uint64(len(d.strs)) {
			return corrupt(d.at, "function %d names string %d, the table has %d", f[0], int64(m), len(d.strs))
		}
		d.p.Functions[i] = Function{Name: d.strs[f[1]], SystemName: d.strs[f[2]], File: d.strs[f[3]], StartLine: int64(f[4])}
		if err := d.newID(&d.funcs, f[0], uint32(i), "function"); err != nil {
			return err
		}
	}
	return nil
}

func (d *pprofDecoder) readLocations() error {
	p := d.p
	n := d.tables[fieldLocation].n
	d.locs.init(n)
	p.Locations = make([]Location, n)
	p.Lines = make([]Line, 0, n+n/4)
	for i := range d.each(fieldLocation) {
		if err := d.location(d.lo, d.hi, uint32(i)); err != nil {
			return err
		}
	}
	return nil
}

func (d *pprofDecoder) location(lo, hi int, index uint32) error {
	p := d.p
	first := len(p.Lines)
	var f [5]uint64 // id, mapping, address, (lines,) folded
	b := d.b[:hi]
	for pos := lo; ; {
		if pos = varints(b, pos, f[:3]); pos >= hi {
			break
		}
		// A line the usual way: few bytes, and nothing in it but its numbers.
		if pos+1 < hi && b[pos] == 4<<3|wireBytes && int(b[pos+1]) < min(0x80, hi-pos-1) {
			var g [3]uint64
			end := pos + 2 + int(b[pos+1])
			if varints(b[:end], pos+2, g[:]) == end {
				if err := d.line(pos, g); err != nil {
					return err
				}
				pos = end
				continue
			}
		}
		next, err := d.next(pos, hi)
		switch {
		case err != nil:
		case d.num == 4:
			var g [3]uint64
			if err = d.want(wireBytes, "location: line"); err == nil {
				err = d.scalars(d.lo, d.hi, g[:], "line")
			}
			if err == nil {
				err = d.line(pos, g)
			}
		case d.num >= 1 && d.num <= 5:
			f[d.num-1], err = d.u, d.want(wireVarint, "location")
		}
		if err != nil {
			return err
		}
		pos = next
	}
	d.at = lo
	// A mapping that is not there is none: pprof reads it so.
	p.Locations[index] = Location{Address: f[2], Mapping: max(d.mappings.get(f[1]), 1) - 1, Folded: f[4] != 0,
		FirstLine: uint32(first), NumLines: uint32(len(p.Lines) - first)}
	return d.newID(&d.locs, f[0], index, "location")
}

// line adds a line, of the fields f: function, line, column.
func (d *pprofDecoder) line(at int, f [3]uint64) error {
	fn := d.funcs.get(f[0])
	if fn == 0 {
		return corrupt(at, "line of function %d, which is not there", f[0])
	}
	if len(d.p.Lines) >= d.lim.Lines {
		return tooLarge("lines", len(d.p.Lines)+1, d.lim.Lines)
	}
	d.p.Lines = append(d.p.Lines, Line{fn - 1, int64(f[1]), int64(f[2])})
	return nil
}
