package profile

import (
	"encoding/binary"
	"slices"
)

// Builder makes a [Profile] bottom up, each distinct string, function,
// location, stack and label set once. It is how every reader and every
// operation that makes new stacks (merge, diff, filter) builds its result.
// The zero Builder is not ready; use [NewBuilder]. One goroutine at a time.
type Builder struct {
	p         *Profile
	strings   map[string]uint32
	mappings  map[Mapping]uint32
	functions map[Function]uint32
	locations map[string]uint32
	labelSets map[string]uint32
	stacks    stackIndex
	samples   pairTable // (stack, label set) -> sample
	key       []byte
	labels    []SampleLabel // where the next label sets are put: one object for many
}

// NewBuilder starts a profile with one column of values for each type.
func NewBuilder(types ...ValueType) *Builder {
	b := &Builder{
		p: &Profile{
			SampleTypes: slices.Clone(types),
			Strings:     []string{""},
			Mappings:    []Mapping{{}},
			LabelSets:   [][]SampleLabel{nil},
			Values:      make([][]int64, len(types)),
		},
		strings:   map[string]uint32{"": 0},
		mappings:  map[Mapping]uint32{{}: 0},
		functions: map[Function]uint32{},
		locations: map[string]uint32{},
		labelSets: map[string]uint32{"": 0},
		stacks:    newStackIndex(1),
	}
	return b
}

// String is the index of s.
func (b *Builder) String(s string) uint32 {
	i, ok := b.strings[s]
	if !ok {
		i = uint32(len(b.p.Strings))
		b.p.Strings = append(b.p.Strings, s)
		b.strings[s] = i
	}
	return i
}

// Mapping is the index of m.
func (b *Builder) Mapping(m Mapping) uint32 {
	i, ok := b.mappings[m]
	if !ok {
		i = uint32(len(b.p.Mappings))
		b.p.Mappings = append(b.p.Mappings, m)
		b.mappings[m] = i
	}
	return i
}

// Function is the index of f.
func (b *Builder) Function(f Function) uint32 {
	i, ok := b.functions[f]
	if !ok {
		i = uint32(len(b.p.Functions))
		b.p.Functions = append(b.p.Functions, f)
		b.functions[f] = i
	}
	return i
}

// Location is the index of the location with these lines, the innermost
// first. The line fields of l are ignored.
func (b *Builder) Location(l Location, lines ...Line) uint32 {
	k := b.key[:0]
	k = binary.LittleEndian.AppendUint64(k, l.Address)
	k = binary.LittleEndian.AppendUint32(k, l.Mapping)
	if l.Folded {
		k = append(k, 1)
	}
	for _, ln := range lines {
		k = binary.LittleEndian.AppendUint32(k, ln.Function)
		k = binary.AppendVarint(k, ln.Line)
		k = binary.AppendVarint(k, ln.Column)
	}
	b.key = k
	i, ok := b.locations[string(k)]
	if !ok {
		i = uint32(len(b.p.Locations))
		l.FirstLine, l.NumLines = uint32(len(b.p.Lines)), uint32(len(lines))
		b.p.Lines = append(b.p.Lines, lines...)
		b.p.Locations = append(b.p.Locations, l)
		b.locations[string(k)] = i
	}
	return i
}

// Stack is the node of the stack in which parent calls loc. The root is 0.
func (b *Builder) Stack(parent, loc uint32) uint32 {
	node, _ := b.stacks.child(parent, loc)
	return node
}

// LabelSet is the index of the set of labels. It sorts labels in place.
func (b *Builder) LabelSet(labels []SampleLabel) uint32 {
	sortLabels(b.p.Strings, labels)
	k := b.key[:0]
	for _, l := range labels {
		k = binary.LittleEndian.AppendUint32(k, l.Key)
		k = binary.LittleEndian.AppendUint32(k, l.Str)
		k = binary.LittleEndian.AppendUint64(k, uint64(l.Num))
		k = binary.LittleEndian.AppendUint32(k, l.Unit)
	}
	b.key = k
	i, ok := b.labelSets[string(k)]
	if !ok {
		i = uint32(len(b.p.LabelSets))
		if cap(b.labels)-len(b.labels) < len(labels) {
			b.labels = make([]SampleLabel, 0, max(len(labels), min(len(b.p.LabelSets), 256)))
		}
		from := len(b.labels)
		b.labels = append(b.labels, labels...)
		b.p.LabelSets = append(b.p.LabelSets, b.labels[from:len(b.labels):len(b.labels)])
		b.labelSets[string(k)] = i
	}
	return i
}

// Add adds values, one per sample type, to the sample of stack and labels.
// Values that are missing count as 0.
func (b *Builder) Add(stack, labels uint32, values ...int64) {
	i := b.sample(stack, labels)
	for t, v := range values {
		b.p.Values[t][i] += v
	}
}

// sample is the row of stack and labels.
func (b *Builder) sample(stack, labels uint32) uint32 {
	i, fresh := b.samples.get(uint64(stack)<<32|uint64(labels), uint32(len(b.p.SampleStack)))
	if fresh {
		b.newSample(stack, labels)
	}
	return i
}

// newSample appends a row of zeroes.
func (b *Builder) newSample(stack, labels uint32) uint32 {
	p := b.p
	p.SampleStack = append(p.SampleStack, stack)
	p.SampleLabels = append(p.SampleLabels, labels)
	for t := range p.Values {
		p.Values[t] = append(p.Values[t], 0)
	}
	return uint32(len(p.SampleStack) - 1)
}

// Profile is what was built. The caller may set its scalar fields (times,
// period, comments); the Builder is of no use after.
func (b *Builder) Profile() *Profile {
	p := b.p
	p.Stacks = b.stacks.stacks()
	b.p = nil
	return p
}
