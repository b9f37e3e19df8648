package profile

import (
	"bytes"
	"cmp"
	"slices"
)

// sampleDecoder is the scratch space of the samples' pass. Nothing in it is
// allocated per sample.
type sampleDecoder struct {
	ids, prev []uint64 // location ids of this sample and the one before, the leaf first
	path      []uint32 // path[i] is the node of the previous sample's i+1 outermost frames
	vals      []int64
	n         int // samples so far

	label, prevLabel []byte // the labels of this sample and the one before, as they are on the wire
	prevSet          uint32
	setOf            map[string]uint32 // label bytes -> label set
	sets             *Builder          // makes label sets unique
	labels           []SampleLabel
	numLabels        int // in all sets together

	nodes stackIndex
}

func (d *pprofDecoder) readSamples() error {
	p, s := d.p, &d.samples
	n, types := d.fields[fieldSample].n, len(p.SampleTypes)
	p.LabelSets = [][]SampleLabel{nil}
	p.Stacks = Stacks{Parent: []uint32{0}, Loc: []uint32{0}}
	if types > 0 {
		p.Values = make([][]int64, types)
	}
	if n == 0 {
		return nil
	}
	if types == 0 {
		return corrupt(d.fields[fieldSample].lo, "there are samples, but no sample types")
	}
	// A sample of that many values has as many bytes: no message makes this large but by being large.
	room := min(n, len(d.b)/(types+2)+1)
	p.SampleStack = make([]uint32, 0, room)
	p.SampleLabels = make([]uint32, 0, room)
	for t := range p.Values {
		p.Values[t] = make([]int64, 0, room)
	}
	p.Stacks.Parent = append(make([]uint32, 0, room+room/2+16), 0)
	p.Stacks.Loc = append(make([]uint32, 0, room+room/2+16), 0)
	s.vals = make([]int64, 0, types)
	s.nodes = newStackIndex(room + room/2 + 16)

	for pos, end := d.fields[fieldSample].lo, d.fields[fieldSample].hi; pos < end; {
		next, err := d.next(pos, end)
		if err != nil {
			return err
		}
		if d.num == fieldSample {
			if err := d.sample(d.lo, d.hi); err != nil {
				return err
			}
		}
		pos = next
	}
	return nil
}

func (d *pprofDecoder) sample(lo, hi int) error {
	p, s := d.p, &d.samples
	s.ids, s.vals, s.label = s.ids[:0], s.vals[:0], s.label[:0]
	for pos := lo; pos < hi; {
		next, err := d.next(pos, hi)
		if err != nil {
			return err
		}
		switch {
		case d.num == 1 && d.typ == wireBytes:
			s.ids, err = d.packed(s.ids, d.lo, d.hi, "location_id")
		case d.num == 1:
			s.ids, err = append(s.ids, d.u), d.want(wireVarint, "sample: location_id")
		case d.num == 2 && d.typ == wireBytes:
			err = d.packedValues(d.lo, d.hi)
		case d.num == 2:
			s.vals, err = append(s.vals, int64(d.u)), d.want(wireVarint, "sample: value")
		case d.num == 3:
			s.label, err = append(s.label, d.b[pos:next]...), d.want(wireBytes, "sample: label")
		}
		if err != nil {
			return err
		}
		pos = next
	}
	if len(s.vals) != len(p.Values) {
		return corrupt(lo, "sample %d has %d values, the profile %d sample types", s.n, len(s.vals), len(p.Values))
	}
	if len(s.ids) > d.lim.Depth {
		return tooLarge("locations in one stack", len(s.ids), d.lim.Depth)
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

// packed appends the varints of [lo, hi). Identifiers below 16384, two bytes, are nearly all there are.
func (d *pprofDecoder) packed(dst []uint64, lo, hi int, what string) ([]uint64, error) {
	b := d.b[:hi]
	for pos := lo; pos < hi; {
		c := uint64(b[pos])
		if c < 0x80 {
			dst = append(dst, c)
			pos++
			continue
		}
		if pos+1 < hi && b[pos+1] < 0x80 {
			dst = append(dst, c&0x7f|uint64(b[pos+1])<<7)
			pos += 2
			continue
		}
		u, next := d.varint(pos, hi)
		if next < 0 {
			return dst, corrupt(pos, "%s is no varint of 64 bits", what)
		}
		dst, pos = append(dst, u), next
	}
	return dst, nil
}

func (d *pprofDecoder) packedValues(lo, hi int) error {
	s := &d.samples
	for pos := lo; pos < hi; {
		u, next := d.varint(pos, hi)
		if next < 0 {
			return corrupt(pos, "value is no varint of 64 bits")
		}
		if len(s.vals) > len(d.p.Values) {
			return corrupt(pos, "sample %d has more values than the profile's %d sample types", s.n, len(d.p.Values))
		}
		s.vals, pos = append(s.vals, int64(u)), next
	}
	return nil
}

// stack is the node of s.ids. What it shares with the sample before, from the
// root, is taken over without a look-up: profilers write neighbours together.
func (d *pprofDecoder) stack(at int) (uint32, error) {
	p, s := d.p, &d.samples
	n := len(s.ids)
	shared, most := 0, min(n, len(s.prev))
	for cur, prev := s.ids[n-most:], s.prev[len(s.prev)-most:]; shared < most && cur[most-1-shared] == prev[most-1-shared]; {
		shared++
	}
	s.path = s.path[:shared]
	node := uint32(0)
	if shared > 0 {
		node = s.path[shared-1]
	}
	tree := &p.Stacks
	if have := len(s.nodes.links); cap(s.nodes.links)-have < n {
		// As many nodes as there will be if the samples to come are like those so far, and a bit;
		// at most twice as many, so that no message gets more than it earned.
		all := float64(have) * float64(d.fields[fieldSample].n) / float64(s.n+1)
		more := int(min(all*17/16, 2*float64(have))) - have + n
		s.nodes.links = slices.Grow(s.nodes.links, more)
		tree.Parent, tree.Loc = slices.Grow(tree.Parent, more), slices.Grow(tree.Loc, more)
	}
	for i := n - 1 - shared; i >= 0; i-- {
		loc := d.locs.get(s.ids[i])
		if loc == 0 {
			return 0, corrupt(at, "sample %d has location %d, which is not there", s.n, s.ids[i])
		}
		node = s.nodes.child(tree, node, loc-1)
		s.path = append(s.path, node)
	}
	// Depth bounds what one sample can add past the limit.
	if len(tree.Parent)-1 > d.lim.Stacks {
		return 0, tooLarge("distinct stacks", len(tree.Parent)-1, d.lim.Stacks)
	}
	s.prev, s.ids = s.ids, s.prev
	return node, nil
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
	set, ok := s.setOf[string(s.label)]
	if !ok {
		var err error
		if set, err = d.parseLabels(at); err != nil {
			return 0, err
		}
		if s.setOf == nil {
			s.setOf = map[string]uint32{}
		}
		s.setOf[string(s.label)] = set
	}
	s.prevSet = set
	s.prevLabel, s.label = s.label, s.prevLabel
	return set, nil
}

func (d *pprofDecoder) parseLabels(at int) (uint32, error) {
	p, s := d.p, &d.samples
	r := pprofDecoder{wireReader: wireReader{b: s.label}, strs: d.strs}
	s.labels = s.labels[:0]
	var f [4]uint64
	for pos := 0; pos < len(s.label); {
		next, err := r.next(pos, len(s.label))
		if err != nil {
			return 0, err // cannot be: sample has walked these fields
		}
		if err := r.scalars(r.lo, r.hi, f[:], "label", nil); err != nil {
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
