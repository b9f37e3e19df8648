package profile

import (
	"strings"
	"unicode/utf8"
	"unsafe"
)

// pprofDecoder reads a Profile message. Its passes are over the top level only:
// survey counts and finds where each table lies, so that everything is
// allocated once; then strings, mappings, functions, locations, samples, each pass over
// its own part of the buffer.
type pprofDecoder struct {
	wireReader
	lim Limits
	p   *Profile

	fields      [16]tableSpan
	stringBytes int

	strs                  []uint32 // index in the message's string table -> in p.Strings
	mappings, funcs, locs idTable

	periodType         tableSpan // the last one counts, as in protobuf
	comments           []uint64
	drop, keep, st, dc uint64 // drop_frames, keep_frames, default_sample_type, doc_url

	samples sampleDecoder
}

// tableSpan is where the first field of a number starts, where the last ends, and how many there are.
type tableSpan struct{ lo, hi, n int }

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

// each calls f for every field of number num, in order.
func (d *pprofDecoder) each(num uint64, f func(i int) error) error {
	i := 0
	for pos, end := d.fields[num].lo, d.fields[num].hi; pos < end; {
		next, err := d.next(pos, end)
		if err != nil {
			return err
		}
		if d.num == num {
			if err := f(i); err != nil {
				return err
			}
			i++
		}
		pos = next
	}
	return nil
}

func (d *pprofDecoder) survey() error {
	for pos, end := 0, len(d.b); pos < end; {
		next, err := d.next(pos, end)
		if err != nil {
			return err
		}
		if d.num >= 1 && d.num < uint64(len(d.fields)) {
			s := &d.fields[d.num]
			if s.n == 0 {
				s.lo = pos
			}
			s.n, s.hi = s.n+1, next
			if err := d.surveyField(); err != nil {
				return err
			}
		}
		pos = next
	}
	for _, c := range []struct {
		field, limit int
		what         string
	}{
		{fieldSampleType, d.lim.SampleTypes, "sample types"},
		{fieldSample, d.lim.Samples, "samples"},
		{fieldMapping, d.lim.Mappings, "mappings"},
		{fieldLocation, d.lim.Locations, "locations"},
		{fieldFunction, d.lim.Functions, "functions"},
		{fieldString, d.lim.Strings, "strings"},
	} {
		if n := d.fields[c.field].n; n > c.limit {
			return tooLarge(c.what, n, c.limit)
		}
	}
	return nil
}

// surveyField takes the header's fields, which are few, where survey passes them.
func (d *pprofDecoder) surveyField() error {
	p := d.p
	switch d.num {
	case fieldSampleType, fieldSample, fieldMapping, fieldLocation, fieldFunction:
		return d.want(wireBytes, "profile")
	case fieldString:
		d.stringBytes += d.hi - d.lo
		if d.hi-d.lo > d.lim.StringBytes {
			return tooLarge("bytes in one string", d.hi-d.lo, d.lim.StringBytes)
		}
		return d.want(wireBytes, "string table")
	case fieldPeriodType:
		d.periodType = tableSpan{d.lo, d.hi, 1}
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
	}
	return d.want(wireVarint, "profile")
}

// readStrings copies the string table into one block, each distinct string once:
// then strings are equal if their indexes are, and the profile keeps
// nothing of the buffer.
func (d *pprofDecoder) readStrings() error {
	n := d.fields[fieldString].n
	if n == 0 {
		return corrupt(len(d.b), "there is no string table")
	}
	d.strs = make([]uint32, n)
	distinct := make([]string, 0, n)
	var arena strings.Builder
	arena.Grow(d.stringBytes)
	seen := newStringTable(n)
	err := d.each(fieldString, func(i int) error {
		raw := d.b[d.lo:d.hi]
		if i == 0 && len(raw) != 0 {
			return corrupt(d.at, "string 0 is %.40q, it must be empty", raw)
		}
		// A view of the buffer, only until the string is found or copied.
		s := unsafe.String(unsafe.SliceData(raw), len(raw))
		if !utf8.Valid(raw) {
			s = strings.ToValidUTF8(s, "\uFFFD")
		}
		at, fresh := seen.get(s, distinct)
		if fresh {
			from := arena.Len()
			arena.WriteString(s)
			distinct = append(distinct, arena.String()[from:])
		}
		d.strs[i] = at
		return nil
	})
	d.p.Strings = distinct
	return err
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
	if n := d.fields[fieldSampleType].n; n > 0 {
		p.SampleTypes = make([]ValueType, 0, n)
	}
	err := d.each(fieldSampleType, func(int) error {
		t, err := d.valueType(d.lo, d.hi)
		p.SampleTypes = append(p.SampleTypes, t)
		return err
	})
	if err != nil {
		return err
	}
	if d.periodType.n > 0 {
		if p.PeriodType, err = d.valueType(d.periodType.lo, d.periodType.hi); err != nil {
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

// scalars reads the varint fields 1 to len(dst) of the message [lo, hi). Other fields
// go to other, if it is not nil.
func (d *pprofDecoder) scalars(lo, hi int, dst []uint64, what string, other func() error) error {
	clear(dst)
	for pos := lo; pos < hi; {
		next, err := d.next(pos, hi)
		if err != nil {
			return err
		}
		if n := d.num; n >= 1 && n <= uint64(len(dst)) && (other == nil || n != 4) {
			if err := d.want(wireVarint, what); err != nil {
				return err
			}
			dst[n-1] = d.u
		} else if n == 4 && other != nil {
			if err := other(); err != nil {
				return err
			}
		}
		pos = next
	}
	d.at = lo
	return nil
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
	n := d.fields[fieldMapping].n
	d.mappings = newIDTable(n)
	d.p.Mappings = make([]Mapping, 1, n+1)
	var f [10]uint64
	return d.each(fieldMapping, func(i int) error {
		if err := d.scalars(d.lo, d.hi, f[:], "mapping", nil); err != nil {
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
		return d.newID(&d.mappings, f[0], uint32(i)+1, "mapping")
	})
}

func (d *pprofDecoder) readFunctions() error {
	n := d.fields[fieldFunction].n
	d.funcs = newIDTable(n)
	d.p.Functions = make([]Function, n)
	var f [5]uint64
	return d.each(fieldFunction, func(i int) error {
		if err := d.scalars(d.lo, d.hi, f[:], "function", nil); err != nil {
			return err
		}
		if m := max(f[1], f[2], f[3]); m >= uint64(len(d.strs)) {
			return corrupt(d.at, "function %d names string %d, the table has %d", f[0], int64(m), len(d.strs))
		}
		d.p.Functions[i] = Function{Name: d.strs[f[1]], SystemName: d.strs[f[2]], File: d.strs[f[3]], StartLine: int64(f[4])}
		return d.newID(&d.funcs, f[0], uint32(i), "function")
	})
}

func (d *pprofDecoder) readLocations() error {
	p := d.p
	n := d.fields[fieldLocation].n
	d.locs = newIDTable(n)
	p.Locations = make([]Location, n)
	p.Lines = make([]Line, 0, n+n/4)
	var f [5]uint64
	line := func() error {
		if err := d.want(wireBytes, "location: line"); err != nil {
			return err
		}
		var g [3]uint64
		if err := d.scalars(d.lo, d.hi, g[:], "line", nil); err != nil {
			return err
		}
		fn := d.funcs.get(g[0])
		if fn == 0 {
			return corrupt(d.at, "line of function %d, which is not there", g[0])
		}
		if len(p.Lines) >= d.lim.Lines {
			return tooLarge("lines", len(p.Lines)+1, d.lim.Lines)
		}
		p.Lines = append(p.Lines, Line{fn - 1, int64(g[1]), int64(g[2])})
		return nil
	}
	return d.each(fieldLocation, func(i int) error {
		first := len(p.Lines)
		if err := d.scalars(d.lo, d.hi, f[:], "location", line); err != nil {
			return err
		}
		// A mapping that is not there is none: pprof reads it so.
		p.Locations[i] = Location{Address: f[2], Mapping: max(d.mappings.get(f[1]), 1) - 1, Folded: f[4] != 0,
			FirstLine: uint32(first), NumLines: uint32(len(p.Lines) - first)}
		return d.newID(&d.locs, f[0], uint32(i), "location")
	})
}
