// Package otlp reads profiles as OpenTelemetry's protocol carries them: the
// request of opentelemetry.proto.collector.profiles.v1development.ProfilesService,
// in protobuf or in the protocol's JSON.
//
// The signal is in development, and its messages have changed with nearly every
// version. [Version] is the one that is read: all that samples refer to stands in one dictionary of the request. What another version
// would have sent is [ErrVersion] and never guessed at: the same bytes mean other things in it.
//
// The decoder is ours and not the generated one because messages are tiny: a sample of 4 bytes would be a struct of 150,
// and a request that is within its limits more memory than the server has. Here samples go from the bytes to
// columns.
package otlp

import (
	"cmp"
	"errors"
	"fmt"
	"math"

	"github.com/quantra-l/quantra/profile"
)

// Version is what is read, as https://github.com/open-telemetry/opentelemetry-proto numbers it.
const Version = "1.10 and 1.11"

// ErrVersion is what another version of the protocol would have sent.
var ErrVersion = fmt.Errorf("OTLP profiles are read as versions %s have them (in development, one dictionary for each request)", Version)

// Bounds of one request that [profile.Limits] does not have.
const (
	maxProfiles   = 4096 // an exporter's batch has some hundreds
	maxServices   = 256  // that one profile is split into
	maxAttributes = 128  // of a resource, a profile or a sample
)

// Attr is an attribute. Value is its text, as are numbers and truths; lists and maps have none and are left out.
type Attr struct{ Key, Value string }

// Profile is one profile of a request: of one resource, and of one service.
type Profile struct {
	Resource []Attr
	Attrs    []Attr // the profile's own
	// Service is what names the service: the resource's service.name, else the samples', else unknown_service, with the name of the executable
	// behind a colon where there is one, as semantic conventions have it.
	Service string
	Profile *profile.Profile
}

// Rejected is why one profile of a request is not read, while others are.
type Rejected struct {
	Index int // in the request, from 0
	Err   error
}

func (r *Rejected) Error() string { return fmt.Sprintf("profile %d: %v", r.Index, r.Err) }
func (r *Rejected) Unwrap() error { return r.Err }

// data is a request before its profiles are built, whether it came as protobuf or as JSON.
type data struct {
	lim     profile.Limits
	strings []string

	mappings  []mapping
	locations []location
	lines     []line // of all locations
	functions []function
	links     []link
	attrs     []attribute
	stacks    []span // of locs
	locs      []int32

	attrIndexes []int32 // of mappings
	resources   [][]Attr
	profiles    []message
	samples     int // of all profiles
}

type span struct{ from, to uint32 }

type mapping struct {
	start, limit, offset uint64
	file                 int32
	attrs                span // of attrIndexes
}

type location struct {
	mapping int32
	address uint64
	lines   span
}

type line struct {
	function  int32
	line, col int64
}

type function struct {
	name, system, file int32
	start              int64
}

type link struct{ trace, span string } // in hex, "" where there is none

type attribute struct {
	key   string
	value value
	unit  int32
}

// value is an AnyValue: a text, or a whole number.
type value struct {
	text  string
	num   int64
	isNum bool
}

// message is one profile that waits to be built.
type message struct {
	resource                    int // index, -1 for none
	sampleType, periodType      valueType
	period, timeNanos, durNanos int64
	attrs                       []int32
	samples                     func(yield func(*sample) error) error
}

type valueType struct{ typ, unit int32 }

// sample is one sample as it is read. Its slices are the reader's.
type sample struct {
	stack, link int32
	attrs       []int32
	values      []int64
	times       int // timestamps, each of an event
}

// withDefaults has the figures that a stranger's request is held to where the caller sets none.
func withDefaults(lim profile.Limits) profile.Limits {
	or := func(n *int, def int) {
		if *n = cmp.Or(*n, def); *n < 0 {
			*n = math.MaxInt32
		}
	}
	or(&lim.Samples, 4<<20)
	or(&lim.Depth, 4096)
	or(&lim.Stacks, 4<<20)
	or(&lim.Locations, 2<<20)
	or(&lim.Lines, 4<<20)
	or(&lim.Functions, 2<<20)
	or(&lim.Mappings, 64<<10)
	or(&lim.Strings, 2<<20)
	or(&lim.StringBytes, 1<<20)
	or(&lim.LabelSets, 1<<20)
	return lim
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: OTLP: %s", profile.ErrCorrupt, fmt.Sprintf(format, args...))
}

func tooMany(what string, limit int) error {
	return fmt.Errorf("%w: OTLP: more than %d %s in one request", profile.ErrTooLarge, limit, what)
}

// check holds the dictionary to what the protocol promises of it.
func (d *data) check() error {
	if len(d.profiles) == 0 {
		return nil
	}
	if len(d.strings) == 0 {
		return fmt.Errorf("%w; this request has no dictionary, or one without strings", ErrVersion)
	}
	if d.strings[0] != "" {
		return fmt.Errorf("%w; string 0 of this request's dictionary is %.40q, and must be empty", ErrVersion, d.strings[0])
	}
	at := func(what string, i int, field string, x int32, n int) error {
		if x < 0 || int(x) >= n {
			return corrupt("%s %d of the dictionary has the %s %d, and there are %d", what, i, field, x, n)
		}
		return nil
	}
	var err error
	first := func(e error) {
		if err == nil {
			err = e
		}
	}
	for i, m := range d.mappings {
		first(at("mapping", i, "file name", m.file, len(d.strings)))
		for _, a := range d.attrIndexes[m.attrs.from:m.attrs.to] {
			first(at("mapping", i, "attribute", a, max(len(d.attrs), 1)))
		}
	}
	for i, f := range d.functions {
		for _, s := range []int32{f.name, f.system, f.file} {
			first(at("function", i, "string", s, len(d.strings)))
		}
	}
	for i, l := range d.locations {
		first(at("location", i, "mapping", l.mapping, max(len(d.mappings), 1)))
		for _, ln := range d.lines[l.lines.from:l.lines.to] {
			first(at("location", i, "function", ln.function, len(d.functions)))
		}
	}
	for i, s := range d.stacks {
		for _, l := range d.locs[s.from:s.to] {
			first(at("stack", i, "location", l, len(d.locations)))
		}
		if n := int(s.to - s.from); n > d.lim.Depth {
			first(fmt.Errorf("%w: stack %d has %d locations, the limit is %d", profile.ErrTooLarge, i, n, d.lim.Depth))
		}
	}
	for i, a := range d.attrs {
		first(at("attribute", i, "unit", a.unit, len(d.strings)))
	}
	return err
}

// Decode reads a request in protobuf. It gives the profiles that are sound, and why others are not; an error is about the request as a
// whole.
func Decode(b []byte, lim profile.Limits) ([]Profile, []*Rejected, error) {
	d := &data{lim: withDefaults(lim)}
	if err := d.readProto(b); err != nil {
		return nil, nil, err
	}
	return d.build()
}

// DecodeJSON reads a request in the protocol's JSON.
func DecodeJSON(b []byte, lim profile.Limits) ([]Profile, []*Rejected, error) {
	d := &data{lim: withDefaults(lim)}
	if err := d.readJSON(b); err != nil {
		return nil, nil, err
	}
	return d.build()
}

// build makes profiles of what was read.
func (d *data) build() (out []Profile, rejected []*Rejected, err error) {
	if err := d.check(); err != nil {
		return nil, nil, err
	}
	w := &writer{data: d, left: d.lim.Stacks}
	for i := range d.profiles {
		ps, err := w.profile(&d.profiles[i])
		switch {
		case errors.Is(err, profile.ErrTooLarge): // of the request, not of this profile
			return nil, nil, err
		case err != nil:
			rejected = append(rejected, &Rejected{i, err})
		}
		out = append(out, ps...)
	}
	return out, rejected, nil
}
