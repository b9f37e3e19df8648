package store

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/quantra-l/quantra/profile"
)

// tables are a tenant's strings, functions, locations and stacks, each
// distinct one once, in the same form as a [profile.Profile] has them. They only grow
// at the end, so a copy of the struct is a snapshot: what it reaches never changes.
type tables struct {
	strings   []string
	mappings  []profile.Mapping
	functions []profile.Function
	lines     []profile.Line
	locations []profile.Location
	stacks    profile.Stacks
	labelSets [][]profile.SampleLabel
}

// dict numbers what profiles are made of. Only the applier uses it.
type dict struct {
	tables
	stringOf   map[string]uint32
	mappingOf  map[profile.Mapping]uint32
	functionOf map[profile.Function]uint32
	locationOf map[string]uint32
	labelSetOf map[string]uint32
	stackOf    pairIndex

	// The last segment whose profiles have the stack, or the label set: what is
	// older than the oldest segment is garbage.
	stackSeg, labelSetSeg []uint64

	bytes int64 // estimate of the memory held
	key   []byte
}

func newDict() *dict {
	return &dict{
		tables: tables{
			strings:   []string{""},
			mappings:  []profile.Mapping{{}},
			stacks:    profile.Stacks{Parent: []uint32{0}, Loc: []uint32{0}},
			labelSets: [][]profile.SampleLabel{nil},
		},
		stringOf:    map[string]uint32{"": 0},
		mappingOf:   map[profile.Mapping]uint32{{}: 0},
		functionOf:  map[profile.Function]uint32{},
		locationOf:  map[string]uint32{},
		labelSetOf:  map[string]uint32{"": 0},
		stackSeg:    []uint64{^uint64(0)}, // the root is never garbage,
		labelSetSeg: []uint64{^uint64(0)}, // nor is the empty set
	}
}

// What an entry of each table costs with its place in the map, measured on
// amd64 to within a quarter.
const (
	stringBytes   = 64
	functionBytes = 96
	locationBytes = 128
	lineBytes     = 24
	stackBytes    = 40
	labelSetBytes = 128
	labelBytes    = 24
)

// intern is the numbers here of p's stacks and label sets, and notes that segment
// seg has them.
func (d *dict) intern(p *profile.Profile, seg uint64) (stacks, sets []uint32) {
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
		n := d.stack(stacks[p.Stacks.Parent[i]], locs[p.Stacks.Loc[i]])
		stacks[i], d.stackSeg[n] = n, seg
	}
	sets = make([]uint32, len(p.LabelSets))
	for i := 1; i < len(sets); i++ {
		n := d.labelSet(p.LabelSets[i], str)
		sets[i], d.labelSetSeg[n] = n, max(seg, d.labelSetSeg[n])
	}
	return stacks, sets
}

func (d *dict) string(s string) uint32 {
	i, ok := d.stringOf[s]
	if !ok {
		s = strings.Clone(s) // the profile's arena must not live as long as one string of it
		i = uint32(len(d.strings))
		d.strings = append(d.strings, s)
		d.stringOf[s] = i
		d.bytes += stringBytes + int64(len(s))
	}
	return i
}

func (d *dict) function(f profile.Function) uint32 {
	i, ok := d.functionOf[f]
	if !ok {
		i = uint32(len(d.functions))
		d.functions = append(d.functions, f)
		d.functionOf[f] = i
		d.bytes += functionBytes
	}
	return i
}

// location is the number of l, whose lines are given. Where it has lines they say
// all that a merged profile can: its address and mapping go, so that the same line
// of two builds is one. Where it has none its address is made relative to the
// file it was loaded from, which is what a symboliser wants.
func (d *dict) location(p *profile.Profile, l *profile.Location, str []uint32, lines []profile.Line) uint32 {
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

func (d *dict) addLocation(l profile.Location, lines []profile.Line) uint32 {
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
		i = uint32(len(d.locations))
		l.FirstLine, l.NumLines = uint32(len(d.lines)), uint32(len(lines))
		d.lines = append(d.lines, lines...)
		d.locations = append(d.locations, l)
		d.locationOf[string(k)] = i
		d.bytes += locationBytes + int64(len(lines))*lineBytes
	}
	return i
}

func (d *dict) mapping(m profile.Mapping) uint32 {
	i, ok := d.mappingOf[m]
	if !ok {
		i = uint32(len(d.mappings))
		d.mappings = append(d.mappings, m)
		d.mappingOf[m] = i
		d.bytes += locationBytes
	}
	return i
}

func (d *dict) stack(parent, loc uint32) uint32 {
	i, fresh := d.stackOf.get(uint64(parent)<<32|uint64(loc), uint32(d.stacks.Len()))
	if fresh {
		d.stacks.Parent = append(d.stacks.Parent, parent)
		d.stacks.Loc = append(d.stacks.Loc, loc)
		d.stackSeg = append(d.stackSeg, 0)
		d.bytes += stackBytes
	}
	return i
}

// labelSet is the number of set, whose strings are those of a profile. Equal
// sets come in the same order: profiles sort them by text.
func (d *dict) labelSet(set []profile.SampleLabel, str []uint32) uint32 {
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
		i = uint32(len(d.labelSets))
		own := slices.Clone(set)
		for j, l := range own {
			own[j] = profile.SampleLabel{Key: str[l.Key], Str: str[l.Str], Num: l.Num, Unit: str[l.Unit]}
		}
		d.labelSets = append(d.labelSets, own)
		d.labelSetSeg = append(d.labelSetSeg, 0)
		d.labelSetOf[string(k)] = i
		d.bytes += labelSetBytes + int64(len(own))*labelBytes
	}
	return i
}

// garbage is how many stacks and label sets no segment from oldest on has.
func (d *dict) garbage(oldest uint64) int {
	n := 0
	for _, s := range d.stackSeg {
		if s < oldest {
			n++
		}
	}
	for _, s := range d.labelSetSeg {
		if s < oldest {
			n++
		}
	}
	return n
}

// compact is a new dict without the garbage, and the new number of each stack
// and label set that is kept. Numbers keep their order.
func (d *dict) compact(oldest uint64) (c *dict, stacks, sets []uint32) {
	c = newDict()
	const none = ^uint32(0)
	locs := slices.Repeat([]uint32{none}, len(d.locations))
	fns := slices.Repeat([]uint32{none}, len(d.functions))
	function := func(i uint32) uint32 {
		if fns[i] == none {
			f := d.functions[i]
			fns[i] = c.function(profile.Function{Name: c.string(d.strings[f.Name]), SystemName: c.string(d.strings[f.SystemName]),
				File: c.string(d.strings[f.File]), StartLine: f.StartLine})
		}
		return fns[i]
	}
	location := func(i uint32) uint32 {
		if locs[i] == none {
			l := d.locations[i]
			lines := slices.Clone(d.lines[l.FirstLine : l.FirstLine+l.NumLines])
			for j := range lines {
				lines[j].Function = function(lines[j].Function)
			}
			m := d.mappings[l.Mapping]
			m.File, m.BuildID = c.string(d.strings[m.File]), c.string(d.strings[m.BuildID])
			l.Mapping = c.mapping(m)
			locs[i] = c.addLocation(l, lines)
		}
		return locs[i]
	}
	stacks = make([]uint32, d.stacks.Len())
	for i := 1; i < len(stacks); i++ {
		// A stack's segment is never later than its parent's, so parents are kept.
		if d.stackSeg[i] >= oldest {
			n := c.stack(stacks[d.stacks.Parent[i]], location(d.stacks.Loc[i]))
			stacks[i], c.stackSeg[n] = n, d.stackSeg[i]
		}
	}
	sets = make([]uint32, len(d.labelSets))
	str := make([]uint32, len(d.strings))
	for i := 1; i < len(sets); i++ {
		if d.labelSetSeg[i] < oldest {
			continue
		}
		for _, l := range d.labelSets[i] {
			str[l.Key], str[l.Str], str[l.Unit] = c.string(d.strings[l.Key]), c.string(d.strings[l.Str]), c.string(d.strings[l.Unit])
		}
		n := c.labelSet(d.labelSets[i], str)
		sets[i], c.labelSetSeg[n] = n, d.labelSetSeg[i]
	}
	return c, stacks, sets
}

// pairIndex numbers pairs of indexes, by open addressing over a power of two. Of the
// keys the one of all ones cannot be.
type pairIndex struct {
	slots []pairSlot
	n     int
}

type pairSlot struct {
	key uint64 // of the pair, plus 1: 0 is empty
	val uint32
}

func (t *pairIndex) get(key uint64, next uint32) (val uint32, fresh bool) {
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

func (t *pairIndex) grow() {
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
