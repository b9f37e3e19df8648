package otlp

import (
	"fmt"
	"math"
	"strconv"

	"github.com/quantra-l/quantra/profile"
)

// writer builds the profiles of a request. What it may build is bounded for all of them together, as each may refer to
// all of the dictionary.
type writer struct {
	*data
	left   int // nodes of stacks that may still be built
	labels int // labels of sets of labels that were built
}

// part is the profile of one service.
type part struct {
	b       *profile.Builder
	service string
	locs    map[int32]uint32
	stacks  map[int32]uint32
	strings map[int32]uint32
	sets    map[string]uint32 // by the indexes that a sample has
	keys    []byte            // of sets, reused
}

func (w *writer) str(i int32) (string, error) {
	if i < 0 || int(i) >= len(w.strings) {
		return "", corrupt("string %d, and there are %d", i, len(w.strings))
	}
	return w.strings[i], nil
}

func (w *writer) valueType(v valueType) (profile.ValueType, error) {
	typ, err := w.str(v.typ)
	if err != nil {
		return profile.ValueType{}, err
	}
	unit, err := w.str(v.unit)
	return profile.ValueType{Type: typ, Unit: unit}, err
}

// attributes are those that indexes name, texts and numbers.
func (w *writer) attributes(indexes []int32) ([]Attr, error) {
	var out []Attr
	for _, i := range indexes {
		a, err := w.attr(i)
		if err != nil {
			return nil, err
		}
		if t := a.value.String(); t != "" {
			out = append(out, Attr{a.key, t})
		}
	}
	return out, nil
}

func (w *writer) attr(i int32) (*attribute, error) {
	if i < 0 || int(i) >= len(w.attrs) {
		return nil, corrupt("attribute %d, and there are %d", i, len(w.attrs))
	}
	return &w.attrs[i], nil
}

func (v value) String() string {
	if v.isNum {
		return strconv.FormatInt(v.num, 10)
	}
	return v.text
}

// profile builds one message: more profiles than one where samples name their own services, as those of a profiler of a whole machine do.
func (w *writer) profile(m *message) ([]Profile, error) {
	sampleType, err := w.valueType(m.sampleType)
	if err != nil {
		return nil, err
	}
	periodType, err := w.valueType(m.periodType)
	if err != nil {
		return nil, err
	}
	attrs, err := w.attributes(m.attrs)
	if err != nil {
		return nil, err
	}
	var resource []Attr
	if m.resource >= 0 {
		resource = w.resources[m.resource]
	}
	if m.timeNanos < 0 || m.durNanos < 0 {
		return nil, corrupt("the time or duration is beyond 63 bits of nanoseconds")
	}
	fixed, executable := get(resource, "service.name"), get(resource, "process.executable.name")
	parts := map[string]*part{}
	var order []*part
	err = m.samples(func(s *sample) error {
		service := fixed
		if service == "" {
			if service, err = w.serviceOf(s, executable); err != nil {
				return err
			}
			if parts[service] == nil && len(parts) >= maxServices {
				service = unknownService
			}
		}
		p := parts[service]
		if p == nil {
			p = &part{b: profile.NewBuilder(sampleType), service: service, locs: map[int32]uint32{}, stacks: map[int32]uint32{}, strings: map[int32]uint32{}, sets: map[string]uint32{}}
			parts[service] = p
			order = append(order, p)
		}
		return w.add(p, s)
	})
	if err != nil {
		return nil, err
	}
	var out []Profile
	for _, p := range order {
		q := p.b.Profile()
		q.PeriodType, q.Period = periodType, m.period
		q.TimeNanos, q.DurationNanos = m.timeNanos, m.durNanos
		out = append(out, Profile{Resource: resource, Attrs: attrs, Service: p.service, Profile: q})
	}
	return out, nil
}

// unknownService is the name of semantic conventions for want of one.
const unknownService = "unknown_service"

func get(attrs []Attr, key string) string {
	for _, a := range attrs {
		if a.Key == key {
			return a.Value
		}
	}
	return ""
}

// serviceOf is the service that a sample names.
func (w *writer) serviceOf(s *sample, executable string) (string, error) {
	for _, i := range s.attrs {
		a, err := w.attr(i)
		if err != nil {
			return "", err
		}
		switch a.key {
		case "service.name":
			if t := a.value.String(); t != "" {
				return t, nil
			}
		case "process.executable.name":
			if t := a.value.String(); t != "" {
				executable = t
			}
		}
	}
	if executable != "" {
		return unknownService + ":" + executable, nil
	}
	return unknownService, nil
}

// add adds one sample.
func (w *writer) add(p *part, s *sample) error {
	var v int64
	for _, x := range s.values {
		if x > 0 && v > math.MaxInt64-x || x < 0 && v < math.MinInt64-x {
			return corrupt("a sample's values are together more than 64 bits")
		}
		v += x
	}
	if len(s.values) == 0 {
		if v = int64(s.times); v == 0 {
			// What versions before 1.10 have in other fields reads as this.
			return fmt.Errorf("%w; a sample of this request has neither values nor timestamps", ErrVersion)
		}
	}
	stack, err := w.stack(p, s.stack)
	if err != nil {
		return err
	}
	labels, err := w.labelSet(p, s)
	if err != nil {
		return err
	}
	p.b.Add(stack, labels, v)
	return nil
}

// stack is the part's own stack of one of the dictionary. The dictionary has the innermost frame first.
func (w *writer) stack(p *part, i int32) (uint32, error) {
	if n, ok := p.stacks[i]; ok {
		return n, nil
	}
	if i == 0 && len(w.stacks) == 0 {
		return 0, nil
	}
	if i < 0 || int(i) >= len(w.stacks) {
		return 0, corrupt("stack %d, and there are %d", i, len(w.stacks))
	}
	locs := w.locs[w.stacks[i].from:w.stacks[i].to]
	if w.left -= len(locs) + 1; w.left < 0 {
		return 0, tooMany("frames of stacks", w.lim.Stacks)
	}
	stack := uint32(0)
	for j := len(locs) - 1; j >= 0; j-- {
		stack = p.b.Stack(stack, w.location(p, locs[j]))
	}
	p.stacks[i] = stack
	return stack, nil
}

// intern is a string of the dictionary in the part; [data.check] knows that it is there.
func (w *writer) intern(p *part, i int32) uint32 {
	n, ok := p.strings[i]
	if !ok {
		n = p.b.String(w.strings[i])
		p.strings[i] = n
	}
	return n
}

// location is a location of the dictionary in the part.
func (w *writer) location(p *part, i int32) uint32 {
	if n, ok := p.locs[i]; ok {
		return n
	}
	l := &w.locations[i]
	var lines []profile.Line
	for _, ln := range w.lines[l.lines.from:l.lines.to] {
		f := &w.functions[ln.function]
		system := f.system
		if system == 0 {
			system = f.name
		}
		name := f.name
		if name == 0 {
			name = system
		}
		fn := p.b.Function(profile.Function{Name: w.intern(p, name), SystemName: w.intern(p, system), File: w.intern(p, f.file), StartLine: f.start})
		lines = append(lines, profile.Line{Function: fn, Line: ln.line, Column: ln.col})
	}
	loc := profile.Location{Address: l.address}
	if l.mapping > 0 {
		m := &w.mappings[l.mapping]
		loc.Mapping = p.b.Mapping(profile.Mapping{Start: m.start, Limit: m.limit, Offset: m.offset, File: w.intern(p, m.file), BuildID: p.b.String(w.buildID(m)), HasFunctions: len(lines) > 0})
	}
	n := p.b.Location(loc, lines...)
	p.locs[i] = n
	return n
}

// buildID is the mapping's, by the attributes of semantic conventions, the one that debuggers know first.
func (w *writer) buildID(m *mapping) string {
	for _, key := range []string{"process.executable.build_id.gnu", "process.executable.build_id.go", "process.executable.build_id.htlhash"} {
		for _, i := range w.attrIndexes[m.attrs.from:m.attrs.to] {
			if int(i) < len(w.attrs) && w.attrs[i].key == key {
				return w.attrs[i].value.String()
			}
		}
	}
	return ""
}

// labelSet is the sample's attributes and link as labels, by their names with underscores, as spans of our own agents have them.
func (w *writer) labelSet(p *part, s *sample) (uint32, error) {
	if len(s.attrs) == 0 && s.link == 0 {
		return 0, nil
	}
	p.keys = strconv.AppendInt(p.keys[:0], int64(s.link), 36)
	for _, a := range s.attrs {
		p.keys = strconv.AppendInt(append(p.keys, ','), int64(a), 36)
	}
	if n, ok := p.sets[string(p.keys)]; ok {
		return n, nil
	}
	var set []profile.SampleLabel
	for _, i := range s.attrs {
		a, err := w.attr(i)
		if err != nil {
			return 0, err
		}
		l := profile.SampleLabel{Key: p.b.String(profile.LabelName(a.key))}
		switch {
		case a.key == "" || a.key == "service.name":
			continue
		case a.value.isNum:
			l.Num, l.Unit = a.value.num, w.intern(p, a.unit)
		case a.value.text == "":
			continue
		default:
			l.Str = p.b.String(a.value.text)
		}
		set = append(set, l)
	}
	if s.link != 0 {
		if s.link < 0 || int(s.link) >= len(w.links) {
			return 0, corrupt("link %d, and there are %d", s.link, len(w.links))
		}
		if k := w.links[s.link]; k.trace != "" {
			set = append(set, profile.SampleLabel{Key: p.b.String("trace_id"), Str: p.b.String(k.trace)})
			if k.span != "" {
				set = append(set, profile.SampleLabel{Key: p.b.String("span_id"), Str: p.b.String(k.span)})
			}
		}
	}
	if w.labels += len(set) + 1; w.labels > w.lim.LabelSets {
		return 0, tooMany("labels of samples", w.lim.LabelSets)
	}
	n := p.b.LabelSet(set)
	p.sets[string(p.keys)] = n
	return n, nil
}
