package profile

import (
	"cmp"
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
	stacks    pairTable // (parent, location) -> node
	samples   pairTable // (stack, label set) -> sample
	key       []byte
}

// NewBuilder starts a profile with one column of values for each type.
func NewBuilder(types ...ValueType) *Builder {
	b := &Builder{
		p: &Profile{
			SampleTypes: slices.Clone(types),
			Strings:     []string{""},
			Mappings:    []Mapping{{}},
			Stacks:      Stacks{Parent: []uint32{0}, Loc: []uint32{0}},
			LabelSets:   [][]SampleLabel{nil},
			Values:      make([][]int64, len(types)),
		},
		strings:   map[string]uint32{"": 0},
		mappings:  map[Mapping]uint32{{}: 0},
		functions: map[Function]uint32{},
		locations: map[string]uint32{},
		labelSets: map[string]uint32{"": 0},
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
	s := &b.p.Stacks
	i, fresh := b.stacks.get(uint64(parent)<<32|uint64(loc), uint32(len(s.Parent)))
	if fresh {
		s.Parent = append(s.Parent, parent)
		s.Loc = append(s.Loc, loc)
	}
	return i
}

// LabelSet is the index of the set of labels. It sorts labels in place.
func (b *Builder) LabelSet(labels []SampleLabel) uint32 {
	slices.SortFunc(labels, func(x, y SampleLabel) int {
		return cmp.Or(cmp.Compare(b.p.Strings[x.Key], b.p.Strings[y.Key]),
			cmp.Compare(b.p.Strings[x.Str], b.p.Strings[y.Str]), cmp.Compare(x.Num, y.Num),
			cmp.Compare(b.p.Strings[x.Unit], b.p.Strings[y.Unit]))
	})
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
		b.p.LabelSets = append(b.p.LabelSets, slices.Clone(labels))
		b.labelSets[string(k)] = i
	}
	return i
}

// Add adds values, one per sample type, to the sample of stack and labels.
// Values that are missing count as 0.
func (b *Builder) Add(stack, labels uint32, values ...int64) {
	p := b.p
	i, fresh := b.samples.get(uint64(stack)<<32|uint64(labels), uint32(len(p.SampleStack)))
	if fresh {
		p.SampleStack = append(p.SampleStack, stack)
		p.SampleLabels = append(p.SampleLabels, labels)
		for t := range p.Values {
			p.Values[t] = append(p.Values[t], 0)
		}
	}
	for t, v := range values {
		p.Values[t][i] += v
	}
}

// Profile is what was built. The caller may set its scalar fields (times,
// period, comments); the Builder is of no use after.
func (b *Builder) Profile() *Profile {
	p := b.p
	b.p = nil
	return p
}

// pairTable numbers 64-bit keys, each a pair of indexes. Open addressing over
// a power of two: at the load and key sizes of stacks it is about twice as
// fast as Go's map, and insertion is the inner loop of decoding.
type pairTable struct {
	keys []uint64 // key+1, so that 0 is an empty slot
	vals []uint32
	n    int
}

// get is the number of key: next, and fresh, if it was not there.
func (t *pairTable) get(key uint64, next uint32) (val uint32, fresh bool) {
	if t.n*4 >= len(t.keys)*3 {
		t.grow()
	}
	mask := uint64(len(t.keys) - 1)
	for i := mix(key) & mask; ; i = (i + 1) & mask {
		switch t.keys[i] {
		case key + 1:
			return t.vals[i], false
		case 0:
			t.keys[i], t.vals[i] = key+1, next
			t.n++
			return next, true
		}
	}
}

func (t *pairTable) grow() {
	old := *t
	size := max(64, 2*len(old.keys))
	t.keys, t.vals = make([]uint64, size), make([]uint32, size)
	mask := uint64(size - 1)
	for j, k := range old.keys {
		if k == 0 {
			continue
		}
		i := mix(k-1) & mask
		for t.keys[i] != 0 {
			i = (i + 1) & mask
		}
		t.keys[i], t.vals[i] = k, old.vals[j]
	}
}

// mix is the finaliser of MurmurHash3 (Austin Appleby, public domain): it
// spreads the low bits of both indexes over the whole word.
func mix(k uint64) uint64 {
	k ^= k >> 33
	k *= 0xff51afd7ed558ccd
	k ^= k >> 33
	k *= 0xc4ceb9fe1a85ec53
	k ^= k >> 33
	return k
}
