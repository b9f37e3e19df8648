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
	var h StackHasher
	return h.Extend(make([]uint64, 0, p.Stacks.Len()), p)
}

// StackHasher makes stack identities of tables that grow at the end: each frame and stack is
// hashed once. The zero value is ready.
type StackHasher struct {
	// The frames of each location, the outermost first, each after 8 bytes of
	// room for its caller's identity.
	buf   []byte
	ends  []int // of each frame in buf
	first []int // the frames of l are ends[first[l]:first[l+1]]
}

// Extend appends to ids those of p's stacks that are not in it yet. Locations that an
// earlier call has seen must be as they were.
func (h *StackHasher) Extend(ids []uint64, p *Profile) []uint64 {
	if len(h.first) == 0 {
		h.first = append(h.first, 0)
	}
	for l := len(h.first) - 1; l < len(p.Locations); l++ {
		lines := p.LinesOf(uint32(l))
		if len(lines) == 0 {
			h.buf = p.appendAddressFrame(append(h.buf, make([]byte, 8)...), &p.Locations[l])
			h.ends = append(h.ends, len(h.buf))
		}
		for i := len(lines) - 1; i >= 0; i-- {
			h.buf = p.appendLineFrame(append(h.buf, make([]byte, 8)...), lines[i], i < len(lines)-1)
			h.ends = append(h.ends, len(h.buf))
		}
		h.first = append(h.first, len(h.ends))
	}
	for n := len(ids); n < p.Stacks.Len(); n++ {
		if n == 0 {
			ids = append(ids, 0)
			continue
		}
		id, loc := ids[p.Stacks.Parent[n]], p.Stacks.Loc[n]
		for f := h.first[loc]; f < h.first[loc+1]; f++ {
			from := 0
			if f > 0 {
				from = h.ends[f-1]
			}
			binary.LittleEndian.PutUint64(h.buf[from:], id)
			id = xxh3.Hash(h.buf[from:h.ends[f]])
		}
		ids = append(ids, id)
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
