package profile

import (
	"encoding/binary"

	"github.com/zeebo/xxh3"
)

// StackIDs is the identity of every node of p.Stacks: 64 bits that are the same for
// the same stack in any profile of any process, so that blocks, nodes and
// regions agree without talking. It is made frame by frame from functions, files,
// lines and whether the frame was inlined, never from where code was loaded. docs/format/profile.md draws the hashed bytes; they
// never change. The root's is 0.
func (p *Profile) StackIDs() []uint64 {
	// The frames of each location, the outermost first, each after 8 bytes of
	// room for its caller's identity.
	var buf []byte
	ends := make([]int, 0, len(p.Lines)+len(p.Locations)) // of each frame in buf
	first := make([]int, len(p.Locations)+1)              // the frames of l are ends[first[l]:first[l+1]]
	for l := range p.Locations {
		lines := p.LinesOf(uint32(l))
		if len(lines) == 0 {
			buf = p.appendAddressFrame(append(buf, make([]byte, 8)...), &p.Locations[l])
			ends = append(ends, len(buf))
		}
		for i := len(lines) - 1; i >= 0; i-- {
			buf = p.appendLineFrame(append(buf, make([]byte, 8)...), lines[i], i < len(lines)-1)
			ends = append(ends, len(buf))
		}
		first[l+1] = len(ends)
	}
	ids := make([]uint64, p.Stacks.Len())
	for n := 1; n < len(ids); n++ {
		id, loc := ids[p.Stacks.Parent[n]], p.Stacks.Loc[n]
		for f := first[loc]; f < first[loc+1]; f++ {
			from := 0
			if f > 0 {
				from = ends[f-1]
			}
			binary.LittleEndian.PutUint64(buf[from:], id)
			id = xxh3.Hash(buf[from:ends[f]])
		}
		ids[n] = id
	}
	return ids
}

// Kinds of frame in what StackIDs hashes.
const (
	frameLine    = 1
	frameAddress = 2
)

func (p *Profile) appendLineFrame(b []byte, ln Line, inlined bool) []byte {
	f := p.Functions[ln.Function]
	b = append(b, frameLine)
	for _, s := range []uint32{f.Name, f.SystemName, f.File} {
		b = binary.AppendUvarint(b, uint64(len(p.Strings[s])))
		b = append(b, p.Strings[s]...)
	}
	for _, n := range []int64{f.StartLine, ln.Line, ln.Column} {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	if inlined {
		return append(b, 1)
	}
	return append(b, 0)
}

func (p *Profile) appendAddressFrame(b []byte, l *Location) []byte {
	m := p.Mappings[l.Mapping]
	name := m.BuildID
	if name == 0 {
		name = m.File
	}
	b = append(b, frameAddress)
	b = binary.AppendUvarint(b, uint64(len(p.Strings[name])))
	b = append(b, p.Strings[name]...)
	return binary.LittleEndian.AppendUint64(b, l.Address-m.Start+m.Offset)
}
