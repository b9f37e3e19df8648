package block

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/quantra-l/quantra/profile"
)

// Dict numbers what profiles are made of. One goroutine at a time uses it; a copy of its
// Tables may be read by others while it grows.
type Dict struct {
	Tables
	stringOf   map[string]uint32
	mappingOf  map[profile.Mapping]uint32
	functionOf map[profile.Function]uint32
	locationOf map[string]uint32
	labelSetOf map[string]uint32
	stackOf    PairIndex
	hasher     profile.StackHasher

	bytes int64 // estimate of the memory held
	key   []byte
}

// NewDict is an empty dictionary: the empty string, no mapping, the root, no labels.
func NewDict() *Dict {
	return &Dict{
		Tables: Tables{
			Strings:   []string{""},
			Mappings:  []profile.Mapping{{}},
			Stacks:    profile.Stacks{Parent: []uint32{0}, Loc: []uint32{0}},
			StackIDs:  []uint64{0},
			LabelSets: [][]profile.SampleLabel{nil},
		},
		stringOf:   map[string]uint32{"": 0},
		mappingOf:  map[profile.Mapping]uint32{{}: 0},
		functionOf: map[profile.Function]uint32{},
		locationOf: map[string]uint32{},
		labelSetOf: map[string]uint32{"": 0},
	}
}

// Bytes estimates the memory that the dictionary holds.
func (d *Dict) Bytes() int64 { return d.bytes }

// What an entry of each table costs with its place in the map, measured on
// amd64 to within a quarter.
const (
	stringBytes   = 64
	functionBytes = 96
	locationBytes = 128
	lineBytes     = 24
	stackBytes    = 72 // with its identity, and its share of the hasher
	labelSetBytes = 128
	labelBytes    = 24
)

// Intern is the numbers here of p's stacks and label sets.
func (d *Dict) Intern(p *profile.Profile) (stacks, sets []uint32) {
	str := make([]uint32, len(p.Strings))
	for i, s := range p.Strings {
		str[i] = d.string(s)
	}
	fns := make([]uint32, len(p.Functions))
	for i, f := range p.Functions {
		fns[i] = d.function(profile.Function{Name: str[f.Name], SystemName: str[f.SystemName], File: str[f.File], StartLine: f.StartLine})
	}
	locs := make([]uint32, len(p.Locations))
	var lines []profile.Line
	for i := range p.Locations {
		lines = lines[:0]
		for _, ln := range p.LinesOf(uint32(i)) {
			lines = append(lines, profile.Line{Function: fns[ln.Function], Line: ln.Line, Column: ln.Column})
		}
		locs[i] = d.location(p, &p.Locations[i], str, lines)
	}
	stacks = make([]uint32, p.Stacks.Len())
	for i := 1; i < len(stacks); i++ {
		stacks[i] = d.stack(stacks[p.Stacks.Parent[i]], locs[p.Stacks.Loc[i]])
	}
	d.identify()
	sets = make([]uint32, len(p.LabelSets))
	for i := 1; i < len(sets); i++ {
		sets[i] = d.labelSet(p.LabelSets[i], str)
	}
	return stacks, sets
}

// Add is the numbers here of t's stacks and label sets, of those that are used; nil is all. The
// numbers of others are 0. A used stack's callers are used, too, whatever it says of them.
func (d *Dict) Add(t *Tables, usedStacks, usedSets []bool) (stacks, sets []uint32) {
	n := t.Stacks.Len()
	if usedStacks != nil {
		usedStacks = slices.Clone(usedStacks)
		for i := n - 1; i > 0; i-- {
			if usedStacks[i] {
				usedStacks[t.Stacks.Parent[i]] = true
			}
		}
	}
	const none = ^uint32(0)
	str := slices.Repeat([]uint32{none}, len(t.Strings))
	text := func(i uint32) uint32 {
		if str[i] == none {
			str[i] = d.string(t.Strings[i])
		}
		return str[i]
	}
	fns := slices.Repeat([]uint32{none}, len(t.Functions))
	locs := slices.Repeat([]uint32{none}, len(t.Locations))
	var lines []profile.Line
	location := func(i uint32) uint32 {
		if locs[i] != none {
			return locs[i]
		}
		l := t.Locations[i]
		lines = lines[:0]
		for _, ln := range t.Lines[l.FirstLine : l.FirstLine+l.NumLines] {
			if fns[ln.Function] == none {
				f := t.Functions[ln.Function]
				fns[ln.Function] = d.function(profile.Function{Name: text(f.Name), SystemName: text(f.SystemName), File: text(f.File), StartLine: f.StartLine})
			}
			lines = append(lines, profile.Line{Function: fns[ln.Function], Line: ln.Line, Column: ln.Column})
		}
		m := t.Mappings[l.Mapping]
		m.File, m.BuildID = text(m.File), text(m.BuildID)
		l.Mapping = d.mapping(m)
		locs[i] = d.addLocation(l, lines)
		return locs[i]
	}
	stacks = make([]uint32, n)
	for i := 1; i < n; i++ {
		if usedStacks == nil || usedStacks[i] {
			stacks[i] = d.stack(stacks[t.Stacks.Parent[i]], location(t.Stacks.Loc[i]))
		}
	}
	d.identify()
	sets = make([]uint32, len(t.LabelSets))
	for i := 1; i < len(sets); i++ {
		if usedSets != nil && !usedSets[i] {
			continue
		}
		for _, l := range t.LabelSets[i] {
			text(l.Key)
			text(l.Str)
			text(l.Unit)
		}
		sets[i] = d.labelSet(t.LabelSets[i], str)
	}
	return stacks, sets
}

// identify hashes the stacks that are new.
func (d *Dict) identify() {
	p := d.view()
	d.StackIDs = d.hasher.Extend(d.StackIDs, &p)
}

// view is the tables as a profile without samples.
func (t *Tables) view() profile.Profile {
	return profile.Profile{Strings: t.Strings, Mappings: t.Mappings, Functions: t.Functions, Lines: t.Lines, Locations: t.Locations, Stacks: t.Stacks}
}

func (d *Dict) string(s string) uint32 {
	i, ok := d.stringOf[s]
	if !ok {
		s = strings.Clone(s) // the profile's arena must not live as long as one string of it
		i = uint32(len(d.Strings))
		d.Strings = append(d.Strings, s)
		d.stringOf[s] = i
		d.bytes += stringBytes + int64(len(s))
	}
	return i
}

func (d *Dict) function(f profile.Function) uint32 {
	i, ok := d.functionOf[f]
	if !ok {
		i = uint32(len(d.Functions))
		d.Functions = append(d.Functions, f)
		d.functionOf[f] = i
		d.bytes += functionBytes
	}
	return i
}

// location is the number of l, whose lines are given. Where it has lines they say
// all that a merged profile can: its address and mapping go, so that the same line
// of two builds is one. Where it has none its address is made relative to the
// file it was loaded from, which is what a symboliser wants.
func (d *Dict) location(p *profile.Profile, l *profile.Location, str []uint32, lines []profile.Line) uint32 {
	loc := profile.Location{Folded: l.Folded}
	if len(lines) == 0 {
		m := p.Mappings[l.Mapping]
		loc.Address = l.Address
		if m.Start != 0 && l.Address >= m.Start {
			loc.Address = l.Address - m.Start + m.Offset
		}
		m.Start, m.Limit, m.Offset = 0, 0, 0
		m.File, m.BuildID = str[m.File], str[m.BuildID]
		loc.Mapping = d.mapping(m)
	}
	return d.addLocation(loc, lines)
}

func (d *Dict) addLocation(l profile.Location, lines []profile.Line) uint32 {
	k := d.key[:0]
	k = binary.AppendUvarint(k, l.Address)
	k = binary.AppendUvarint(k, uint64(l.Mapping))
	if l.Folded {
		k = append(k, 1)
	} else {
		k = append(k, 0)
	}
	for _, ln := range lines {
		k = binary.AppendUvarint(k, uint64(ln.Function))
		k = binary.AppendVarint(k, ln.Line)
		k = binary.AppendVarint(k, ln.Column)
	}
	d.key = k
	i, ok := d.locationOf[string(k)]
	if !ok {
		i = uint32(len(d.Locations))
		l.FirstLine, l.NumLines = uint32(len(d.Lines)), uint32(len(lines))
		d.Lines = append(d.Lines, lines...)
		d.Locations = append(d.Locations, l)
		d.locationOf[string(k)] = i
		d.bytes += locationBytes + int64(len(lines))*lineBytes
	}
	return i
}

func (d *Dict) mapping(m profile.Mapping) uint32 {
	i, ok := d.mappingOf[m]
	if !ok {
		i = uint32(len(d.Mappings))
		d.Mappings = append(d.Mappings, m)
		d.mappingOf[m] = i
		d.bytes += locationBytes
	}
	return i
}

func (d *Dict) stack(parent, loc uint32) uint32 {
	i, fresh := d.stackOf.Get(uint64(parent)<<32|uint64(loc), uint32(d.Stacks.Len()))
	if fresh {
		d.Stacks.Parent = append(d.Stacks.Parent, parent)
		d.Stacks.Loc = append(d.Stacks.Loc, loc)
		d.bytes += stackBytes
	}
	return i
}

// labelSet is the number of set, whose strings are those of a profile. Equal
// sets come in the same order: profiles sort them by text.
func (d *Dict) labelSet(set []profile.SampleLabel, str []uint32) uint32 {
	k := d.key[:0]
	for _, l := range set {
		k = binary.AppendUvarint(k, uint64(str[l.Key]))
		k = binary.AppendUvarint(k, uint64(str[l.Str]))
		k = binary.AppendVarint(k, l.Num)
		k = binary.AppendUvarint(k, uint64(str[l.Unit]))
	}
	d.key = k
	i, ok := d.labelSetOf[string(k)]
	if !ok {
		i = uint32(len(d.LabelSets))
		own := slices.Clone(set)
		for j, l := range own {
			own[j] = profile.SampleLabel{Key: str[l.Key], Str: str[l.Str], Num: l.Num, Unit: str[l.Unit]}
		}
		d.LabelSets = append(d.LabelSets, own)
		d.labelSetOf[string(k)] = i
		d.bytes += labelSetBytes + int64(len(own))*labelBytes
	}
	return i
}

// PairIndex numbers keys, pairs of indexes for the most part, by open addressing over a power of two. Of the
// keys the one of all ones cannot be.
type PairIndex struct {
	slots []pairSlot
	n     int
}

type pairSlot struct {
	key uint64 // of the pair, plus 1: 0 is empty
	val uint32
}

// Get is the number of key; next, and fresh, if it had none.
func (t *PairIndex) Get(key uint64, next uint32) (val uint32, fresh bool) {
	if t.n*4 >= len(t.slots)*3 {
		t.grow()
	}
	mask := uint64(len(t.slots) - 1)
	for i := spread(key) & mask; ; i = (i + 1) & mask {
		switch s := &t.slots[i]; s.key {
		case key + 1:
			return s.val, false
		case 0:
			*s = pairSlot{key + 1, next}
			t.n++
			return next, true
		}
	}
}

func (t *PairIndex) grow() {
	old := t.slots
	t.slots = make([]pairSlot, max(64, 2*len(old)))
	mask := uint64(len(t.slots) - 1)
	for _, s := range old {
		if s.key == 0 {
			continue
		}
		i := spread(s.key-1) & mask
		for t.slots[i].key != 0 {
			i = (i + 1) & mask
		}
		t.slots[i] = s
	}
}

// spread is Fibonacci hashing: multiplied by 2^64 over the golden ratio, the
// high bits depend on all of the key, and are folded onto the low ones.
func spread(k uint64) uint64 {
	k *= 0x9e3779b97f4a7c15
	return k ^ k>>32
}

// Each calls see with every key and its number, in no order.
func (t *PairIndex) Each(see func(key uint64, val uint32)) {
	for _, s := range t.slots {
		if s.key != 0 {
			see(s.key-1, s.val)
		}
	}
}

// Len is how many keys there are.
func (t *PairIndex) Len() int { return t.n }
