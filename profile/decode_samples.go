package profile

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
)

// sampleDecoder is the scratch space of the samples' pass. Nothing in it is
// allocated per sample.
type sampleDecoder struct {
	// The location ids of this sample and of the last whose path was walked, packed, the leaf first. They are
	// the buffer's own bytes, but where ids came in several fields: then they are
	// put together in own[turn], and the other may be prev.
	ids, prev []byte
	idsEnd    int // where ids end in the buffer
	own       [2][]byte
	turn      int
	joined    bool     // ids is in own
	path      []uint32 // path[i] is the node of prev's i+1 outermost frames
	known     stackMemory
	vals      []int64
	n         int // samples so far

	label, prevLabel []byte // the labels of this sample and the one before, as they are on the wire
	labelEnd         int    // where label ends in the buffer
	prevSet          uint32
	setOf            spanTable // label bytes -> label set
	sets             *Builder  // makes label sets unique
	labels           []SampleLabel
	numLabels        int // in all sets together

	tree stackIndex
}

// stackMemory knows whole stacks by their ids' bytes. In a large profile a step from
// a node to its child is a miss of the cache, and a stack that comes again with other labels would take one
// for each of its frames.
type stackMemory struct {
	table       spanTable // ids -> node
	asked, hits int
}

const (
	memorySamples = 4096 // of a profile that is large: its tree outgrows the cache
	memorySteps   = 4    // more are worth a look-up
)

// worthIt says whether to look for a stack of so many ids that are not shared. Stacks may start to come
// again late, with the second of the processes that were merged; where fewer than one in sixteen have
// when half of the profile is read, the rest is not looked for.
func (m *stackMemory) worthIt(samples, steps int) bool {
	return samples >= memorySamples && steps > memorySteps && (m.asked <= samples/2 || m.hits > m.asked/16)
}

func (d *pprofDecoder) readSamples() error {
	p, s := d.p, &d.samples
	t, types := &d.tables[fieldSample], len(p.SampleTypes)
	p.LabelSets = [][]SampleLabel{nil}
	p.Stacks = Stacks{Parent: []uint32{0}, Loc: []uint32{0}}
	if types > 0 {
		p.Values = make([][]int64, types)
	}
	if t.n == 0 {
		return nil
	}
	if types == 0 {
		return corrupt(int(t.runs[0].lo), "there are samples, but no sample types")
	}
	// A sample of that many values has as many bytes: no message makes this large but by being large.
	room := min(t.n, len(d.b)/(types+2)+1)
	p.SampleStack = make([]uint32, 0, room)
	p.SampleLabels = make([]uint32, 0, room)
	for t := range p.Values {
		p.Values[t] = make([]int64, 0, room)
	}
	s.tree.nodes = append(slices.Grow(s.tree.nodes, 3*room+16), stackNode{})
	for range d.each(fieldSample) {
		if err := d.sample(d.lo, d.hi); err != nil {
			return err
		}
	}
	p.Stacks = s.tree.stacks()
	return nil
}

func (d *pprofDecoder) sample(lo, hi int) error {
	p, s := d.p, &d.samples
	s.ids, s.joined, s.vals, s.label = nil, false, s.vals[:0], nil
	for pos := lo; pos < hi; {
		next, err := d.next(pos, hi)
		if err != nil {
			return err
		}
		switch {
		case d.num == 1 && d.typ == wireBytes:
			s.addIDs(d.b[d.lo:d.hi:d.hi], d.hi)
		case d.num == 1 && d.typ == wireVarint:
			// A number's own bytes are a packed list of one. The byte before them ends the tag.
			from := next - 1
			for d.b[from-1] >= 0x80 {
				from--
			}
			s.addIDs(d.b[from:next:next], next)
		case d.num == 1:
			err = d.want(wireVarint, "sample: location_id")
		case d.num == 2 && d.typ == wireBytes:
			err = d.packedValues(d.lo, d.hi)
		case d.num == 2:
			s.vals, err = append(s.vals, int64(d.u)), d.want(wireVarint, "sample: value")
		case d.num == 3:
			s.addLabel(d.b, pos, next)
			err = d.want(wireBytes, "sample: label")
		}
		if err != nil {
			return err
		}
		pos = next
	}
	if len(s.vals) != len(p.Values) {
		return corrupt(lo, "sample %d has %d values, the profile %d sample types", s.n, len(s.vals), len(p.Values))
	}
	stack, err := d.stack(lo)
	if err != nil {
		return err
	}
	set, err := d.labelSet(lo)
	if err != nil {
		return err
	}
	p.SampleStack = append(p.SampleStack, stack)
	p.SampleLabels = append(p.SampleLabels, set)
	for t, v := range s.vals {
		p.Values[t] = append(p.Values[t], v)
	}
	s.n++
	return nil
}

// addIDs adds a packed list of location ids, which ends at end in the buffer, to the sample's.
func (s *sampleDecoder) addIDs(list []byte, end int) {
	if s.ids == nil {
		s.ids, s.idsEnd = list, end
		return
	}
	own := &s.own[s.turn]
	if !s.joined {
		*own, s.joined = append((*own)[:0], s.ids...), true
	}
	*own = append(*own, list...)
	s.ids = *own
}

// addLabel adds the label field b[pos:next] to the sample's.
func (s *sampleDecoder) addLabel(b []byte, pos, next int) {
	switch {
	case s.label == nil:
		s.label = b[pos:next:next]
	case s.labelEnd == pos:
		s.label = b[pos-len(s.label) : next : next]
	default:
		s.label = append(s.label, b[pos:next]...)
		next = -1 // not the buffer's
	}
	s.labelEnd = next
}

func (d *pprofDecoder) packedValues(lo, hi int) error {
	s, b := &d.samples, d.b[:hi]
	for pos := lo; pos < len(b); {
		u, next := uint64(b[pos]), pos+1
		if u >= 0x80 {
			if u, next = d.varint(pos, hi); next < 0 {
				return corrupt(pos, "value is no varint of 64 bits")
			}
		}
		if len(s.vals) > len(d.p.Values) {
			return corrupt(pos, "sample %d has more values than the profile's %d sample types", s.n, len(d.p.Values))
		}
		s.vals, pos = append(s.vals, int64(u)), next
	}
	return nil
}

// stack is the node of s.ids. What it shares with the sample before, from the
// root, is taken over without a look at it: profilers write neighbours together. The rest is read
// backwards, from the root to the leaf.
func (d *pprofDecoder) stack(at int) (uint32, error) {
	s, ids := &d.samples, d.samples.ids
	if n := len(ids); n > 0 && ids[n-1] >= 0x80 {
		return 0, corrupt(at, "sample %d: location_id is no varint of 64 bits", s.n)
	}
	end := len(ids) - sharedIDs(ids, s.prev)
	depth := countIDs(ids[end:])
	total := depth + countIDs(ids[:end])
	if total > d.lim.Depth {
		return 0, tooLarge("locations in one stack", total, d.lim.Depth)
	}
	var slot *spanSlot
	if !s.joined && s.known.worthIt(d.tables[fieldSample].n, total-depth) {
		s.known.asked++
		slot = s.known.table.find(d.b, span{uint32(s.idsEnd - len(ids)), uint32(s.idsEnd)})
		if slot.val != 0 {
			s.known.hits++
			return slot.val - 1, nil
		}
		// Every way out of here but the last is the end of the decoding: the slot will be set.
	}
	s.prev = ids
	if s.joined {
		s.turn ^= 1 // its bytes are prev's now
	}
	s.path = slices.Grow(s.path[:depth], total-depth)
	d.growStacks(total - depth)
	node, fresh := uint32(0), false
	if depth > 0 {
		node = s.path[depth-1]
	}
	for i := end; i > 0; {
		i--
		id := uint64(ids[i])
		if i > 0 && ids[i-1] >= 0x80 {
			if id, i = idBefore(ids, i); i < 0 {
				return 0, corrupt(at, "sample %d: location_id is no varint of 64 bits", s.n)
			}
		}
		loc := d.locs.get(id)
		if loc == 0 {
			return 0, corrupt(at, "sample %d has location %d, which is not there", s.n, id)
		}
		if fresh {
			node = s.tree.only(node, loc-1)
		} else {
			node, fresh = s.tree.child(node, loc-1)
		}
		s.path = append(s.path, node)
	}
	if slot != nil {
		slot.val = node + 1
	}
	// Depth bounds what one sample can add past the limit.
	if n := len(s.tree.nodes) - 1; n > d.lim.Stacks {
		return 0, tooLarge("distinct stacks", n, d.lim.Stacks)
	}
	return node, nil
}

// growStacks makes room for n nodes more.
func (d *pprofDecoder) growStacks(n int) {
	s := &d.samples
	have := len(s.tree.nodes)
	if cap(s.tree.nodes)-have >= n {
		return
	}
	// As many nodes as there will be if the samples to come are like those so far, and a bit;
	// at most twice as many, so that no message gets more than it earned.
	all := float64(have) * float64(d.tables[fieldSample].n) / float64(s.n+1)
	more := int(min(all*17/16, 2*float64(have))) - have + n
	s.tree.nodes = slices.Grow(s.tree.nodes, more)
}

// idBefore reads the id whose last byte is ids[last] and which has more bytes before it,
// and says where it starts: -1 if it has more than 64 bits.
func idBefore(ids []byte, last int) (id uint64, start int) {
	id, start = uint64(ids[last]), last
	for start > 0 && ids[start-1] >= 0x80 {
		start--
		if n := last - start; n > 9 || n == 9 && ids[last] > 1 {
			return 0, -1
		}
		id = id<<7 | uint64(ids[start]&0x7f)
	}
	return id, start
}

// sharedIDs is the length of the longest list of whole ids that both a and b end with.
func sharedIDs(a, b []byte) int {
	n, most := 0, min(len(a), len(b))
	for n < most {
		if n+8 > most {
			if a[len(a)-1-n] != b[len(b)-1-n] {
				break
			}
			n++
			continue
		}
		x := binary.LittleEndian.Uint64(a[len(a)-n-8:]) ^ binary.LittleEndian.Uint64(b[len(b)-n-8:])
		if x != 0 {
			n += bits.LeadingZeros64(x) / 8
			break
		}
		n += 8
	}
	// The equal bytes may start inside an id of a or of b: then that one is not shared.
	i, j := len(a)-n, len(b)-n
	if n > 0 && (i > 0 && a[i-1] >= 0x80 || j > 0 && b[j-1] >= 0x80) {
		for a[i] >= 0x80 {
			i++
		}
		i++
	}
	return len(a) - i
}

// countIDs is how many ids a packed list has: as many as bytes that end one.
func countIDs(list []byte) int {
	n := 0
	for ; len(list) >= 8; list = list[8:] {
		n += bits.OnesCount64(^binary.LittleEndian.Uint64(list) & 0x8080808080808080)
	}
	for _, c := range list {
		n += int(c>>7 ^ 1)
	}
	return n
}

// labelSet is the set of the labels in s.label. The same bytes are the same set, so
// labels are parsed once for each way they are written.
func (d *pprofDecoder) labelSet(at int) (uint32, error) {
	s := &d.samples
	if len(s.label) == 0 {
		return 0, nil
	}
	if s.prevSet != 0 && bytes.Equal(s.label, s.prevLabel) {
		return s.prevSet, nil
	}
	var set uint32
	if s.labelEnd < 0 { // not in the buffer as it stands here: too rare to remember
		var err error
		if set, err = d.parseLabels(at); err != nil {
			return 0, err
		}
	} else {
		slot := s.setOf.find(d.b, span{uint32(s.labelEnd - len(s.label)), uint32(s.labelEnd)})
		if slot.val == 0 {
			parsed, err := d.parseLabels(at)
			if err != nil {
				return 0, err
			}
			slot.val = parsed + 1
		}
		set = slot.val - 1
	}
	s.prevSet, s.prevLabel = set, s.label
	return set, nil
}

func (d *pprofDecoder) parseLabels(at int) (uint32, error) {
	p, s := d.p, &d.samples
	whole := d.b
	d.b = s.label // which need not be in the buffer as it stands here
	defer func() { d.b = whole }()
	s.labels = s.labels[:0]
	var f [4]uint64
	for pos := 0; pos < len(s.label); {
		next, err := d.next(pos, len(s.label))
		if err != nil {
			return 0, err // cannot be: sample has read these fields
		}
		if err := d.scalars(d.lo, d.hi, f[:], "label"); err != nil {
			return 0, corrupt(at, "sample %d: %v (counted from its first label)", s.n, err)
		}
		pos = next
		if m := max(f[0], f[1], f[3]); m >= uint64(len(d.strs)) {
			return 0, corrupt(at, "label of sample %d names string %d, the table has %d", s.n, int64(m), len(d.strs))
		}
		switch l := (SampleLabel{Key: d.strs[f[0]], Str: d.strs[f[1]], Num: int64(f[2]), Unit: d.strs[f[3]]}); {
		case f[1] != 0:
			// A string wins over a number, as pprof has it.
			s.labels = append(s.labels, SampleLabel{Key: l.Key, Str: l.Str})
		case f[2] != 0 || f[3] != 0:
			s.labels = append(s.labels, l)
		}
		if len(s.labels) > d.lim.Labels {
			return 0, tooLarge("labels of one sample", len(s.labels), d.lim.Labels)
		}
	}
	if s.numLabels += len(s.labels); s.numLabels > d.lim.LabelSets {
		return 0, tooLarge("labels in distinct sets", s.numLabels, d.lim.LabelSets)
	}
	if s.sets == nil {
		s.sets = &Builder{p: p, labelSets: map[string]uint32{"": 0}}
	}
	return s.sets.LabelSet(s.labels), nil
}

// compareLabels orders the labels of a set: by key, then by value.
func compareLabels(strs []string, x, y SampleLabel) int {
	if x == y {
		return 0
	}
	return cmp.Or(cmp.Compare(strs[x.Key], strs[y.Key]), cmp.Compare(strs[x.Str], strs[y.Str]),
		cmp.Compare(x.Num, y.Num), cmp.Compare(strs[x.Unit], strs[y.Unit]))
}

// sortLabels sorts a set of labels in place.
func sortLabels(strs []string, ls []SampleLabel) {
	slices.SortFunc(ls, func(x, y SampleLabel) int { return compareLabels(strs, x, y) })
}
