package otlp

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quantra-l/quantra/profile"
)

// field is one field of a message as the wire has it.
type field struct {
	num   protowire.Number
	typ   protowire.Type
	u     uint64 // of a varint or a fixed number
	bytes []byte // of a message, a string or a packed list
}

// fields calls f with each field of a message.
func fields(what string, b []byte, f func(field) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return corrupt("%s: %v", what, protowire.ParseError(n))
		}
		b = b[n:]
		x := field{num: num, typ: typ}
		switch typ {
		case protowire.VarintType:
			x.u, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			x.u, n = protowire.ConsumeFixed64(b)
		case protowire.Fixed32Type:
			var u uint32
			u, n = protowire.ConsumeFixed32(b)
			x.u = uint64(u)
		case protowire.BytesType:
			x.bytes, n = protowire.ConsumeBytes(b)
		default: // groups are in no version
			return corrupt("%s: field %d has the wire type %d", what, num, typ)
		}
		if n < 0 {
			return corrupt("%s: field %d: %v", what, num, protowire.ParseError(n))
		}
		b = b[n:]
		if err := f(x); err != nil {
			return err
		}
	}
	return nil
}

// want refuses a field of another wire type than this version's.
func (f field) want(what string, typ protowire.Type) error {
	if f.typ != typ {
		return fmt.Errorf("%w; %s of this request has field %d in another form", ErrVersion, what, f.num)
	}
	return nil
}

func (f field) unknown(what string) error {
	return fmt.Errorf("%w; %s of this request has field %d, which they do not have", ErrVersion, what, f.num)
}

func (f field) int32(what string, to *int32) error {
	if err := f.want(what, protowire.VarintType); err != nil {
		return err
	}
	n := int64(f.u)
	if n < 0 || n > math.MaxInt32 {
		return corrupt("%s: field %d is %d, and must be from 0 to 31 bits", what, f.num, n)
	}
	*to = int32(n)
	return nil
}

func (f field) int64(what string, to *int64) error {
	*to = int64(f.u)
	return f.want(what, protowire.VarintType)
}

// ints reads a list of indexes, packed or not, and adds them to a list.
func (f field) ints(what string, to []int32, limit int) ([]int32, error) {
	var n int32
	if f.typ == protowire.VarintType {
		err := f.int32(what, &n)
		return append(to, n), err
	}
	if err := f.want(what, protowire.BytesType); err != nil {
		return to, err
	}
	for b := f.bytes; len(b) > 0; {
		v, k := protowire.ConsumeVarint(b)
		if k < 0 {
			return to, corrupt("%s: field %d: %v", what, f.num, protowire.ParseError(k))
		}
		b = b[k:]
		if v > math.MaxInt32 {
			return to, corrupt("%s: field %d has %d, and indexes are from 0 to 31 bits", what, f.num, int64(v))
		}
		if to = append(to, int32(v)); len(to) > limit {
			return to, tooMany(what+" indexes", limit)
		}
	}
	return to, nil
}

// readProto reads ExportProfilesServiceRequest.
func (d *data) readProto(b []byte) error {
	var dictionary []byte
	var resources [][]byte
	err := fields("the request", b, func(f field) error {
		if err := f.want("the request", protowire.BytesType); err != nil {
			return err
		}
		switch f.num {
		case 1:
			if len(resources) == maxProfiles {
				return tooMany("resources", maxProfiles)
			}
			resources = append(resources, f.bytes)
		case 2:
			dictionary = append(dictionary, f.bytes...) // protobuf merges a message that is there twice
		default:
			return f.unknown("the message")
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := d.readDictionary(dictionary); err != nil {
		return err
	}
	for _, r := range resources {
		if err := d.readResource(r); err != nil {
			return err
		}
	}
	return nil
}

func (d *data) readDictionary(b []byte) error {
	// Strings first: attributes may refer to those that come after.
	err := fields("dictionary", b, func(f field) error {
		if f.num != 5 || f.typ != protowire.BytesType {
			return nil
		}
		if len(d.strings) >= d.lim.Strings {
			return tooMany("strings", d.lim.Strings)
		}
		if len(f.bytes) > d.lim.StringBytes {
			return fmt.Errorf("%w: a string of %d bytes, the limit is %d", profile.ErrTooLarge, len(f.bytes), d.lim.StringBytes)
		}
		d.strings = append(d.strings, text(f.bytes))
		return nil
	})
	if err != nil {
		return err
	}
	return fields("dictionary", b, func(f field) error {
		if err := f.want("the dictionary", protowire.BytesType); err != nil {
			return err
		}
		switch f.num {
		case 1:
			return d.readMapping(f.bytes)
		case 2:
			return d.readLocation(f.bytes)
		case 3:
			return d.readFunction(f.bytes)
		case 4:
			return d.readLink(f.bytes)
		case 5:
			return nil
		case 6:
			return d.readAttribute(f.bytes)
		case 7:
			return d.readStack(f.bytes)
		}
		return f.unknown("the dictionary")
	})
}

func text(b []byte) string { return string(bytes.ToValidUTF8(b, []byte("\uFFFD"))) }

func (d *data) readMapping(b []byte) error {
	if len(d.mappings) >= d.lim.Mappings {
		return tooMany("mappings", d.lim.Mappings)
	}
	m := mapping{attrs: span{from: uint32(len(d.attrIndexes))}}
	err := fields("mapping", b, func(f field) (err error) {
		const what = "a mapping"
		switch f.num {
		case 1:
			m.start, err = f.u, f.want(what, protowire.VarintType)
		case 2:
			m.limit, err = f.u, f.want(what, protowire.VarintType)
		case 3:
			m.offset, err = f.u, f.want(what, protowire.VarintType)
		case 4:
			err = f.int32(what, &m.file)
		case 5:
			d.attrIndexes, err = f.ints(what, d.attrIndexes, d.lim.LabelSets)
		default:
			err = f.unknown(what)
		}
		return err
	})
	m.attrs.to = uint32(len(d.attrIndexes))
	d.mappings = append(d.mappings, m)
	return err
}

func (d *data) readLocation(b []byte) error {
	if len(d.locations) >= d.lim.Locations {
		return tooMany("locations", d.lim.Locations)
	}
	l := location{lines: span{from: uint32(len(d.lines))}}
	err := fields("location", b, func(f field) (err error) {
		const what = "a location"
		switch f.num {
		case 1:
			err = f.int32(what, &l.mapping)
		case 2:
			l.address, err = f.u, f.want(what, protowire.VarintType)
		case 3:
			if err := f.want(what, protowire.BytesType); err != nil {
				return err
			}
			return d.readLine(f.bytes)
		case 4: // attributes: the kind of frame, which has no place of its own here
			_, err = f.ints(what, nil, maxAttributes)
		default:
			err = f.unknown(what)
		}
		return err
	})
	l.lines.to = uint32(len(d.lines))
	d.locations = append(d.locations, l)
	return err
}

func (d *data) readLine(b []byte) error {
	if len(d.lines) >= d.lim.Lines {
		return tooMany("lines", d.lim.Lines)
	}
	var l line
	err := fields("line", b, func(f field) error {
		switch f.num {
		case 1:
			return f.int32("a line", &l.function)
		case 2:
			return f.int64("a line", &l.line)
		case 3:
			return f.int64("a line", &l.col)
		}
		return f.unknown("a line")
	})
	d.lines = append(d.lines, l)
	return err
}

func (d *data) readFunction(b []byte) error {
	if len(d.functions) >= d.lim.Functions {
		return tooMany("functions", d.lim.Functions)
	}
	var fn function
	err := fields("function", b, func(f field) error {
		switch f.num {
		case 1:
			return f.int32("a function", &fn.name)
		case 2:
			return f.int32("a function", &fn.system)
		case 3:
			return f.int32("a function", &fn.file)
		case 4:
			return f.int64("a function", &fn.start)
		}
		return f.unknown("a function")
	})
	d.functions = append(d.functions, fn)
	return err
}

func (d *data) readLink(b []byte) error {
	if len(d.links) >= d.lim.LabelSets {
		return tooMany("links", d.lim.LabelSets)
	}
	var k link
	err := fields("link", b, func(f field) error {
		if err := f.want("a link", protowire.BytesType); err != nil {
			return err
		}
		switch f.num {
		case 1:
			return identity(f.bytes, 16, &k.trace)
		case 2:
			return identity(f.bytes, 8, &k.span)
		}
		return f.unknown("a link")
	})
	d.links = append(d.links, k)
	return err
}

// identity is the identity of a trace or a span in hex; one of zeros is none.
func identity(b []byte, size int, to *string) error {
	if len(b) != 0 && len(b) != size {
		return corrupt("a link's identity has %d bytes, and must have %d", len(b), size)
	}
	for _, c := range b {
		if c != 0 {
			*to = hex.EncodeToString(b)
			return nil
		}
	}
	return nil
}

func (d *data) readStack(b []byte) error {
	if len(d.stacks) >= d.lim.Stacks {
		return tooMany("stacks", d.lim.Stacks)
	}
	s := span{from: uint32(len(d.locs))}
	err := fields("stack", b, func(f field) (err error) {
		if f.num != 1 {
			return f.unknown("a stack")
		}
		d.locs, err = f.ints("a stack", d.locs, 4*d.lim.Stacks)
		return err
	})
	s.to = uint32(len(d.locs))
	d.stacks = append(d.stacks, s)
	return err
}

func (d *data) readAttribute(b []byte) error {
	if len(d.attrs) >= d.lim.LabelSets {
		return tooMany("attributes", d.lim.LabelSets)
	}
	var a attribute
	err := fields("attribute", b, func(f field) error {
		switch f.num {
		case 1:
			var key int32
			if err := f.int32("an attribute", &key); err != nil {
				return err
			}
			if int(key) >= len(d.strings) {
				return corrupt("an attribute's key is string %d, and there are %d", key, len(d.strings))
			}
			a.key = d.strings[key]
			return nil
		case 2:
			if err := f.want("an attribute", protowire.BytesType); err != nil {
				return err
			}
			return d.readValue(f.bytes, &a.value)
		case 3:
			return f.int32("an attribute", &a.unit)
		}
		return f.unknown("an attribute")
	})
	d.attrs = append(d.attrs, a)
	return err
}

// readValue reads AnyValue. Lists, maps and bytes have no text and stay empty.
func (d *data) readValue(b []byte, v *value) error {
	return fields("value", b, func(f field) error {
		*v = value{}
		switch f.num {
		case 1:
			v.text = text(f.bytes)
			return f.want("a value", protowire.BytesType)
		case 2:
			v.text = strconv.FormatBool(f.u != 0)
		case 3:
			v.num, v.isNum = int64(f.u), true
		case 4:
			v.text = strconv.FormatFloat(math.Float64frombits(f.u), 'g', -1, 64)
			return f.want("a value", protowire.Fixed64Type)
		case 8:
			var i int32
			if err := f.int32("a value", &i); err != nil {
				return err
			}
			if int(i) >= len(d.strings) {
				return corrupt("a value is string %d, and there are %d", i, len(d.strings))
			}
			v.text = d.strings[i]
		default:
			return nil
		}
		return f.want("a value", protowire.VarintType)
	})
}

// readKeyValue reads an attribute of a resource: its key and its text may be in the dictionary as well.
func (d *data) readKeyValue(b []byte) (a Attr, err error) {
	var v value
	err = fields("attribute", b, func(f field) error {
		switch f.num {
		case 1:
			a.Key = text(f.bytes)
		case 2:
			return d.readValue(f.bytes, &v)
		case 3:
			var i int32
			if err := f.int32("an attribute", &i); err != nil {
				return err
			}
			if int(i) >= len(d.strings) {
				return corrupt("an attribute's key is string %d, and there are %d", i, len(d.strings))
			}
			a.Key = d.strings[i]
		}
		return nil
	})
	a.Value = v.String()
	return a, err
}

// readResource reads ResourceProfiles. Fields that are not known are left out here and in the scope: neither changes what samples mean.
func (d *data) readResource(b []byte) error {
	resource := -1
	var scopes [][]byte
	err := fields("resource profiles", b, func(f field) error {
		if f.num == 1 && f.typ == protowire.BytesType {
			resource = len(d.resources)
			var attrs []Attr
			err := fields("resource", f.bytes, func(f field) error {
				if f.num != 1 || f.typ != protowire.BytesType {
					return nil
				}
				a, err := d.readKeyValue(f.bytes)
				if a.Key != "" && a.Value != "" {
					if attrs = append(attrs, a); len(attrs) > maxAttributes {
						return tooMany("attributes of a resource", maxAttributes)
					}
				}
				return err
			})
			d.resources = append(d.resources, attrs)
			return err
		}
		if f.num == 2 && f.typ == protowire.BytesType {
			if len(scopes) == maxProfiles {
				return tooMany("scopes", maxProfiles)
			}
			scopes = append(scopes, f.bytes)
		}
		return nil
	})
	for _, s := range scopes {
		if err == nil {
			err = fields("scope profiles", s, func(f field) error {
				if f.num != 2 || f.typ != protowire.BytesType {
					return nil
				}
				return d.readProfile(f.bytes, resource)
			})
		}
	}
	return err
}

func (d *data) readProfile(b []byte, resource int) error {
	if len(d.profiles) == maxProfiles {
		return tooMany("profiles", maxProfiles)
	}
	m := message{resource: resource}
	const what = "a profile"
	err := fields("profile", b, func(f field) (err error) {
		switch f.num {
		case 1:
			err = readValueType(f, &m.sampleType)
		case 2:
			if d.samples++; d.samples > d.lim.Samples {
				return tooMany("samples", d.lim.Samples)
			}
			err = f.want(what, protowire.BytesType)
		case 3:
			m.timeNanos, err = int64(f.u), f.want(what, protowire.Fixed64Type)
		case 4:
			err = f.int64(what, &m.durNanos)
		case 5:
			err = readValueType(f, &m.periodType)
		case 6:
			err = f.int64(what, &m.period)
		case 7, 9, 10: // identity, original payload and its format
			err = f.want(what, protowire.BytesType)
		case 8: // how many attributes were dropped
			err = f.want(what, protowire.VarintType)
		case 11:
			m.attrs, err = f.ints(what, m.attrs, maxAttributes)
		default:
			err = f.unknown(what)
		}
		return err
	})
	m.samples = func(yield func(*sample) error) error {
		var s sample
		return fields("profile", b, func(f field) error {
			if f.num != 2 {
				return nil
			}
			if err := s.read(f.bytes); err != nil {
				return err
			}
			return yield(&s)
		})
	}
	d.profiles = append(d.profiles, m)
	return err
}

func readValueType(f field, v *valueType) error {
	const what = "a value's type"
	if err := f.want(what, protowire.BytesType); err != nil {
		return err
	}
	return fields(what, f.bytes, func(f field) error {
		switch f.num {
		case 1:
			return f.int32(what, &v.typ)
		case 2:
			return f.int32(what, &v.unit)
		}
		return f.unknown(what)
	})
}

// maxValues bounds the values of one sample: there is one for each timestamp, or one for all.
const maxValues = 1 << 20

// read reads a Sample into s, whose slices are used again.
func (s *sample) read(b []byte) error {
	*s = sample{attrs: s.attrs[:0], values: s.values[:0]}
	const what = "a sample"
	return fields("sample", b, func(f field) (err error) {
		switch f.num {
		case 1:
			err = f.int32(what, &s.stack)
		case 2:
			s.attrs, err = f.ints(what, s.attrs, maxAttributes)
		case 3:
			err = f.int32(what, &s.link)
		case 4:
			if f.typ == protowire.VarintType {
				s.values = append(s.values, int64(f.u))
				return nil
			}
			if err := f.want(what, protowire.BytesType); err != nil {
				return err
			}
			for b := f.bytes; len(b) > 0; {
				v, n := protowire.ConsumeVarint(b)
				if n < 0 {
					return corrupt("sample: values: %v", protowire.ParseError(n))
				}
				if b, s.values = b[n:], append(s.values, int64(v)); len(s.values) > maxValues {
					return tooMany("values in a sample", maxValues)
				}
			}
		case 5:
			if f.typ == protowire.Fixed64Type {
				s.times++
				return nil
			}
			if err := f.want(what, protowire.BytesType); err != nil {
				return err
			}
			if len(f.bytes)%8 != 0 {
				return corrupt("sample: timestamps of %d bytes, which are not of 8 each", len(f.bytes))
			}
			s.times += len(f.bytes) / 8
		default:
			err = f.unknown(what)
		}
		return err
	})
}
