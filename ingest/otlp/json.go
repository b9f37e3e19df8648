package otlp

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The protocol's JSON is protobuf's with two exceptions (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding): identities of traces and spans
// are in hex, and enumerations are numbers. Whole numbers of 64 bits are texts or numbers.

// number is a whole number, as a number or as a text.
type number int64

func (n *number) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	if s == "null" {
		return nil
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		u, uerr := strconv.ParseUint(s, 10, 64)
		if uerr != nil {
			return fmt.Errorf("%.40s is not a whole number of 64 bits", b)
		}
		v = int64(u)
	}
	*n = number(v)
	return nil
}

type jsonRequest struct {
	ResourceProfiles []struct {
		Resource *struct {
			Attributes []struct {
				Key         string    `json:"key"`
				KeyStrindex int32     `json:"keyStrindex"`
				Value       jsonValue `json:"value"`
			} `json:"attributes"`
		} `json:"resource"`
		ScopeProfiles []struct {
			Profiles []json.RawMessage `json:"profiles"`
		} `json:"scopeProfiles"`
	} `json:"resourceProfiles"`
	Dictionary json.RawMessage `json:"dictionary"`
}

type jsonValue struct {
	String   *string  `json:"stringValue"`
	Bool     *bool    `json:"boolValue"`
	Int      *number  `json:"intValue"`
	Double   *float64 `json:"doubleValue"`
	Strindex *int32   `json:"stringValueStrindex"`

	Array  json.RawMessage `json:"arrayValue"` // no text
	Kvlist json.RawMessage `json:"kvlistValue"`
	Bytes  json.RawMessage `json:"bytesValue"`
}

type jsonDictionary struct {
	MappingTable []struct {
		MemoryStart      number  `json:"memoryStart"`
		MemoryLimit      number  `json:"memoryLimit"`
		FileOffset       number  `json:"fileOffset"`
		FilenameStrindex int32   `json:"filenameStrindex"`
		AttributeIndices []int32 `json:"attributeIndices"`
	} `json:"mappingTable"`
	LocationTable []struct {
		MappingIndex int32  `json:"mappingIndex"`
		Address      number `json:"address"`
		Lines        []struct {
			FunctionIndex int32  `json:"functionIndex"`
			Line          number `json:"line"`
			Column        number `json:"column"`
		} `json:"lines"`
		AttributeIndices []int32 `json:"attributeIndices"`
	} `json:"locationTable"`
	FunctionTable []struct {
		NameStrindex       int32  `json:"nameStrindex"`
		SystemNameStrindex int32  `json:"systemNameStrindex"`
		FilenameStrindex   int32  `json:"filenameStrindex"`
		StartLine          number `json:"startLine"`
	} `json:"functionTable"`
	LinkTable []struct {
		TraceID string `json:"traceId"`
		SpanID  string `json:"spanId"`
	} `json:"linkTable"`
	StringTable    []string `json:"stringTable"`
	AttributeTable []struct {
		KeyStrindex  int32     `json:"keyStrindex"`
		Value        jsonValue `json:"value"`
		UnitStrindex int32     `json:"unitStrindex"`
	} `json:"attributeTable"`
	StackTable []struct {
		LocationIndices []int32 `json:"locationIndices"`
	} `json:"stackTable"`
}

type jsonValueType struct {
	TypeStrindex int32 `json:"typeStrindex"`
	UnitStrindex int32 `json:"unitStrindex"`
}

type jsonProfile struct {
	SampleType jsonValueType `json:"sampleType"`
	Samples    []struct {
		StackIndex         int32    `json:"stackIndex"`
		AttributeIndices   []int32  `json:"attributeIndices"`
		LinkIndex          int32    `json:"linkIndex"`
		Values             []number `json:"values"`
		TimestampsUnixNano []number `json:"timestampsUnixNano"`
	} `json:"samples"`
	TimeUnixNano           number          `json:"timeUnixNano"`
	DurationNano           number          `json:"durationNano"`
	PeriodType             jsonValueType   `json:"periodType"`
	Period                 number          `json:"period"`
	ProfileID              json.RawMessage `json:"profileId"`
	DroppedAttributesCount number          `json:"droppedAttributesCount"`
	OriginalPayloadFormat  string          `json:"originalPayloadFormat"`
	OriginalPayload        json.RawMessage `json:"originalPayload"`
	AttributeIndices       []int32         `json:"attributeIndices"`
}

// strict reads a message of which every field must be known: an unknown one is another version's.
func strict(what string, b []byte, to any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	err := dec.Decode(to)
	if err != nil && strings.Contains(err.Error(), "unknown field") {
		return fmt.Errorf("%w; %s of this request: %v", ErrVersion, what, err)
	}
	if err != nil {
		return corrupt("%s: %v", what, err)
	}
	return nil
}

func (d *data) readJSON(b []byte) error {
	var q jsonRequest
	if err := json.Unmarshal(b, &q); err != nil {
		return corrupt("the request: %v", err)
	}
	if len(q.Dictionary) > 0 {
		var dict jsonDictionary
		if err := strict("the dictionary", q.Dictionary, &dict); err != nil {
			return err
		}
		if err := d.takeDictionary(&dict); err != nil {
			return err
		}
	}
	for _, r := range q.ResourceProfiles {
		resource := -1
		if r.Resource != nil {
			var attrs []Attr
			for _, a := range r.Resource.Attributes {
				v, err := d.jsonValue(&a.Value)
				if err != nil {
					return err
				}
				if a.KeyStrindex != 0 {
					if a.KeyStrindex < 0 || int(a.KeyStrindex) >= len(d.strings) {
						return corrupt("an attribute's key is string %d, and there are %d", a.KeyStrindex, len(d.strings))
					}
					a.Key = d.strings[a.KeyStrindex]
				}
				if t := v.String(); a.Key != "" && t != "" {
					if attrs = append(attrs, Attr{a.Key, t}); len(attrs) > maxAttributes {
						return tooMany("attributes of a resource", maxAttributes)
					}
				}
			}
			resource = len(d.resources)
			d.resources = append(d.resources, attrs)
		}
		for _, s := range r.ScopeProfiles {
			for _, raw := range s.Profiles {
				if err := d.takeProfile(raw, resource); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (d *data) jsonValue(j *jsonValue) (v value, err error) {
	switch {
	case j.String != nil:
		v.text = *j.String
	case j.Bool != nil:
		v.text = strconv.FormatBool(*j.Bool)
	case j.Int != nil:
		v.num, v.isNum = int64(*j.Int), true
	case j.Double != nil:
		v.text = strconv.FormatFloat(*j.Double, 'g', -1, 64)
	case j.Strindex != nil:
		if i := *j.Strindex; i < 0 || int(i) >= len(d.strings) {
			return v, corrupt("a value is string %d, and there are %d", i, len(d.strings))
		}
		v.text = d.strings[*j.Strindex]
	}
	return v, nil
}

// takeDictionary has the tables as the binary form has them. Its limits are those of the bytes that came: JSON says nothing in fewer bytes than
// a table takes here.
func (d *data) takeDictionary(q *jsonDictionary) error {
	d.strings = q.StringTable
	for _, m := range q.MappingTable {
		from := uint32(len(d.attrIndexes))
		d.attrIndexes = append(d.attrIndexes, m.AttributeIndices...)
		d.mappings = append(d.mappings, mapping{uint64(m.MemoryStart), uint64(m.MemoryLimit), uint64(m.FileOffset), m.FilenameStrindex, span{from, uint32(len(d.attrIndexes))}})
	}
	for _, l := range q.LocationTable {
		from := uint32(len(d.lines))
		for _, ln := range l.Lines {
			d.lines = append(d.lines, line{ln.FunctionIndex, int64(ln.Line), int64(ln.Column)})
		}
		d.locations = append(d.locations, location{l.MappingIndex, uint64(l.Address), span{from, uint32(len(d.lines))}})
	}
	for _, f := range q.FunctionTable {
		d.functions = append(d.functions, function{f.NameStrindex, f.SystemNameStrindex, f.FilenameStrindex, int64(f.StartLine)})
	}
	for _, k := range q.LinkTable {
		var out link
		if err := errors.Join(jsonIdentity(k.TraceID, 16, &out.trace), jsonIdentity(k.SpanID, 8, &out.span)); err != nil {
			return err
		}
		d.links = append(d.links, out)
	}
	for _, s := range q.StackTable {
		from := uint32(len(d.locs))
		d.locs = append(d.locs, s.LocationIndices...)
		d.stacks = append(d.stacks, span{from, uint32(len(d.locs))})
	}
	for _, a := range q.AttributeTable {
		if a.KeyStrindex < 0 || int(a.KeyStrindex) >= max(len(d.strings), 1) {
			return corrupt("an attribute's key is string %d, and there are %d", a.KeyStrindex, len(d.strings))
		}
		v, err := d.jsonValue(&a.Value)
		if err != nil {
			return err
		}
		out := attribute{value: v, unit: a.UnitStrindex}
		if len(d.strings) > 0 {
			out.key = d.strings[a.KeyStrindex]
		}
		d.attrs = append(d.attrs, out)
	}
	return nil
}

// jsonIdentity reads an identity in hex, or in base64, as protobuf's own JSON has it.
func jsonIdentity(s string, size int, to *string) error {
	b, err := hex.DecodeString(s)
	if err != nil {
		if b, err = base64.StdEncoding.DecodeString(s); err != nil {
			return corrupt("the identity %.40q is not in hex", s)
		}
	}
	return identity(b, size, to)
}

func (d *data) takeProfile(raw []byte, resource int) error {
	if len(d.profiles) == maxProfiles {
		return tooMany("profiles", maxProfiles)
	}
	q := new(jsonProfile)
	if err := strict("a profile", raw, q); err != nil {
		return err
	}
	if d.samples += len(q.Samples); d.samples > d.lim.Samples {
		return tooMany("samples", d.lim.Samples)
	}
	if len(q.AttributeIndices) > maxAttributes {
		return tooMany("attributes of a profile", maxAttributes)
	}
	d.profiles = append(d.profiles, message{
		resource:   resource,
		sampleType: valueType{q.SampleType.TypeStrindex, q.SampleType.UnitStrindex}, periodType: valueType{q.PeriodType.TypeStrindex, q.PeriodType.UnitStrindex},
		period: int64(q.Period), timeNanos: int64(q.TimeUnixNano), durNanos: int64(q.DurationNano),
		attrs: q.AttributeIndices,
		samples: func(yield func(*sample) error) error {
			var s sample
			for _, x := range q.Samples {
				s = sample{stack: x.StackIndex, link: x.LinkIndex, attrs: x.AttributeIndices, values: s.values[:0], times: len(x.TimestampsUnixNano)}
				if len(s.attrs) > maxAttributes {
					return tooMany("attributes of a sample", maxAttributes)
				}
				for _, v := range x.Values {
					s.values = append(s.values, int64(v))
				}
				if err := yield(&s); err != nil {
					return err
				}
			}
			return nil
		},
	})
	return nil
}
