package symbols

import (
	"slices"
	"strings"

	"github.com/quantra-l/quantra/profile"
)

// writer writes a profile with more names than another, of which it shares what stays.
type writer struct {
	out       *profile.Profile
	strings   map[string]uint32 // those that were added
	functions map[profile.Function]uint32
}

func newWriter(p *profile.Profile) *writer {
	out := *p
	out.Strings, out.Functions = slices.Clone(p.Strings), slices.Clone(p.Functions)
	return &writer{&out, map[string]uint32{"": 0}, map[profile.Function]uint32{}}
}

func (w *writer) text(s string) uint32 {
	i, ok := w.strings[s]
	if !ok {
		i = uint32(len(w.out.Strings))
		w.out.Strings = append(w.out.Strings, s)
		w.strings[s] = i
	}
	return i
}

func (w *writer) function(f Frame) uint32 {
	fn := profile.Function{Name: w.text(Name(f.Name)), SystemName: w.text(f.Name), File: w.text(f.File), StartLine: f.StartLine}
	i, ok := w.functions[fn]
	if !ok {
		i = uint32(len(w.out.Functions))
		w.out.Functions = append(w.out.Functions, fn)
		w.functions[fn] = i
	}
	return i
}

// ownAddresses ends the build id of a mapping whose addresses are the binary's own. The store keeps of an address without a name
// its offset in the file, and of a mapping only its file and build id; where the sender has not said where the file was loaded
// (profilers of whole machines do not), the address is the binary's own, and what it is must not be forgotten.
const ownAddresses = " (own addresses)"

// Whence says what a profile's addresses are.
type Whence int

const (
	Arriving Whence = iota // as a process had them: the mapping says where the file was loaded
	Kept                   // as the store keeps them: offsets in the file
)

// Unnamed are the build ids of which a profile has addresses without names, sorted.
func Unnamed(p *profile.Profile) []string {
	var out []string
	seen := map[uint32]bool{}
	for i := range p.Locations {
		l := &p.Locations[i]
		if l.NumLines > 0 || l.Mapping == 0 || seen[l.Mapping] {
			continue
		}
		seen[l.Mapping] = true
		if id := strings.TrimSuffix(p.Strings[p.Mappings[l.Mapping].BuildID], ownAddresses); id != "" {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Resolve is p with names for addresses that have none, by the tables of build ids; a table may be nil. What of an arriving profile stays
// without a name is marked so that it can be given one later. Where there is nothing to do it is p.
func Resolve(p *profile.Profile, tables map[string]*Table, whence Whence) *profile.Profile {
	var w *writer
	change := func() *profile.Profile {
		if w == nil {
			w = newWriter(p)
			w.out.Locations, w.out.Lines, w.out.Mappings = slices.Clone(p.Locations), slices.Clone(p.Lines), slices.Clone(p.Mappings)
		}
		return w.out
	}
	for i := range p.Locations {
		l := &p.Locations[i]
		m := &p.Mappings[l.Mapping]
		if l.NumLines > 0 || l.Mapping == 0 || m.BuildID == 0 {
			continue
		}
		id, own := strings.CutSuffix(p.Strings[m.BuildID], ownAddresses)
		own = own || whence == Arriving && m.Start == 0
		t := tables[id]
		var frames []Frame
		if t != nil {
			frames = t.at(l.Address, m, own, whence)
		}
		if len(frames) == 0 {
			if own && whence == Arriving {
				out := change()
				out.Mappings[l.Mapping].BuildID = w.text(id + ownAddresses)
			}
			continue
		}
		out := change()
		loc := &out.Locations[i]
		loc.FirstLine, loc.NumLines = uint32(len(out.Lines)), uint32(len(frames))
		for _, f := range frames {
			out.Lines = append(out.Lines, profile.Line{Function: w.function(f), Line: f.Line})
		}
		out.Mappings[l.Mapping].HasFunctions = true
	}
	if w == nil {
		return p
	}
	return w.out
}

// at is the functions at an address of a profile's.
func (t *Table) at(address uint64, m *profile.Mapping, own bool, whence Whence) []Frame {
	if own {
		return t.Frames(address)
	}
	if whence == Arriving {
		if address < m.Start {
			return nil
		}
		address += m.Offset - m.Start
	}
	at, ok := t.AddressOf(address)
	if !ok {
		return nil
	}
	return t.Frames(at)
}
