package live

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"slices"
)

const (
	// growing is how many times the groups that are kept may be known while reading:
	// which are the largest is known only at the end.
	growing = 4
	// maxLine is how much of a line is read. Arguments can make lines long, names do not.
	maxLine = 64 << 10
	// maxText bounds the names that are kept, so that a made-up text cannot fill the memory.
	maxText = 16 << 20
	// maxIDs and maxParents bound what is listed of a group.
	maxIDs, maxParents = 100, 100
	// maxFrames is how many frames of one stack are looked at; the runtime prints 100.
	maxFrames = 512
)

// stack is the goroutine, or the kind of goroutine, that is being read. Its text
// lies in one buffer, so that reading a goroutine like one before allocates nothing.
type stack struct {
	state   []byte
	id      uint64
	parent  uint64
	minutes int
	locked  bool
	leaked  bool
	cut     bool // frames are missing

	text    []byte // names of functions and files, as the spans say
	frames  []span
	creator span
}

// span is a frame whose names lie in a stack's text: from at to mid and from mid to end.
type span struct{ at, mid, end, line int }

func (s *stack) reset() {
	*s = stack{state: s.state[:0], text: s.text[:0], frames: s.frames[:0]}
}

func (s *stack) span(fn, file []byte, line int) span {
	at := len(s.text)
	s.text = append(s.text, fn...)
	mid := len(s.text)
	s.text = append(s.text, file...)
	return span{at, mid, len(s.text), line}
}

// appendKey adds what tells f from other frames.
func (s *stack) appendKey(k []byte, f span) []byte {
	k = append(append(k, '\n'), s.text[f.at:f.end]...)
	return append(k, ':', byte(f.line), byte(f.line>>8), byte(f.line>>16), byte(f.line>>24))
}

func (s *stack) push(fn, file []byte, line int) {
	if len(s.frames) >= maxFrames {
		s.cut = true
		return
	}
	s.frames = append(s.frames, s.span(fn, file, line))
}

// group is a Group under construction.
type group struct {
	Group
	key string
}

// link is a goroutine and its creator, by their ids.
type link struct {
	id, parent uint64
	group      int32
}

// builder sums goroutines into groups.
type builder struct {
	lim       Limits
	total     int
	truncated bool // something is left out
	missing   bool // of that, goroutines
	byKey     map[string]int32
	groups    []group
	other     Group
	links     []link
	names     map[string]string
	text      int // bytes in names and keys
	key       []byte
}

func newBuilder(lim Limits) *builder {
	return &builder{lim: lim.orDefaults(), byKey: map[string]int32{}, names: map[string]string{}, other: Group{State: StateOther}}
}

// add counts n goroutines as s describes them.
func (b *builder) add(s *stack, n int) {
	b.total += n
	b.truncated = b.truncated || s.cut
	i := b.find(s)
	g := &b.other
	if i >= 0 {
		g = &b.groups[i].Group
	}
	wait := 60 * s.minutes
	if g.Count == 0 || wait < g.WaitMin {
		g.WaitMin = wait
	}
	g.WaitMax = max(g.WaitMax, wait)
	g.Count += n
	if s.locked {
		g.Locked += n
	}
	if s.leaked {
		g.Leaked += n
	}
	if s.id == 0 {
		return
	}
	if i >= 0 && len(g.IDs) < maxIDs {
		g.IDs = append(g.IDs, s.id)
	}
	if len(b.links) < b.lim.Goroutines {
		b.links = append(b.links, link{s.id, s.parent, i})
	} else {
		b.truncated, b.missing = true, true
	}
}

// find is the index of s's group, -1 where it is past a bound.
func (b *builder) find(s *stack) int32 {
	k := append(b.key[:0], s.state...)
	if s.leaked {
		k = append(k, '!')
	}
	for _, f := range s.frames {
		k = s.appendKey(k, f)
	}
	k = s.appendKey(append(k, '\n'), s.creator)
	b.key = k
	if i, ok := b.byKey[string(k)]; ok {
		return i
	}
	if len(b.groups) >= growing*b.lim.Groups || b.text > maxText {
		b.truncated = true
		return -1
	}
	key := string(k)
	b.text += len(key)
	g := group{key: key, Group: Group{State: b.name(s.state), Stack: b.frames(s)}}
	if s.creator.end > s.creator.at {
		f := b.frame(s, s.creator)
		g.Creator = &f
	}
	b.groups = append(b.groups, g)
	b.byKey[key] = int32(len(b.groups) - 1)
	return int32(len(b.groups) - 1)
}

func (b *builder) name(text []byte) string {
	if s, ok := b.names[string(text)]; ok {
		return s
	}
	s := string(text)
	b.text += len(s)
	b.names[s] = s
	return s
}

func (b *builder) frame(s *stack, f span) Frame {
	return Frame{b.name(s.text[f.at:f.mid]), b.name(s.text[f.mid:f.end]), f.line}
}

// frames is s's stack. Of one that is too deep the middle is left out: the leaf
// says what it does, the root what it is.
func (b *builder) frames(s *stack) []Frame {
	all := s.frames
	out := make([]Frame, 0, min(len(all), b.lim.Frames))
	leave := 0
	if len(all) > b.lim.Frames {
		leave = len(all) - b.lim.Frames + 1
		b.truncated = true
	}
	from := b.lim.Frames / 2
	for i := 0; i < len(all); i++ {
		if leave > 0 && i == from {
			gone := 0
			for _, f := range all[i : i+leave] { // what the runtime has left out may be among them
				if string(s.text[f.at:f.mid]) == Elided {
					gone += f.line
				} else {
					gone++
				}
			}
			out = append(out, Frame{Func: Elided, Line: gone})
			i += leave - 1
			continue
		}
		out = append(out, b.frame(s, all[i]))
	}
	return out
}

// snapshot is what was counted, with the creators looked up.
func (b *builder) snapshot(d Detail) Snapshot {
	b.parents()
	slices.SortFunc(b.groups, func(x, y group) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), cmp.Compare(x.key, y.key))
	})
	s := Snapshot{Detail: d, Total: b.total, Groups: []Group{}}
	for i, g := range b.groups {
		if i < b.lim.Groups {
			s.Groups = append(s.Groups, g.Group)
			continue
		}
		b.truncated = true
		if b.other.Count == 0 || g.WaitMin < b.other.WaitMin {
			b.other.WaitMin = g.WaitMin
		}
		b.other.WaitMax = max(b.other.WaitMax, g.WaitMax)
		b.other.Count += g.Count
		b.other.Locked += g.Locked
		b.other.Leaked += g.Leaked
	}
	if b.other.Count > 0 {
		b.other.Stack = []Frame{}
		s.Groups = append(s.Groups, b.other)
	}
	s.Truncated = b.truncated
	return s
}

// parents counts each group's goroutines by what created them. It must come before the groups are sorted.
func (b *builder) parents() {
	if len(b.links) == 0 {
		return
	}
	ids := slices.Clone(b.links)
	slices.SortFunc(ids, func(x, y link) int { return cmp.Compare(x.id, y.id) })
	gone := ParentEnded
	if b.missing {
		gone = ParentUnknown
	}
	for _, l := range b.links {
		if l.parent == 0 || l.group < 0 {
			continue
		}
		name := gone
		if i, ok := slices.BinarySearchFunc(ids, l.parent, func(x link, id uint64) int { return cmp.Compare(x.id, id) }); ok {
			if name = ParentUnknown; ids[i].group >= 0 {
				name = cmp.Or(b.groups[ids[i].group].Entry(), ParentUnknown)
			}
		}
		g := &b.groups[l.group]
		if g.Parents == nil {
			g.Parents = map[string]int{}
		}
		if _, ok := g.Parents[name]; !ok && len(g.Parents) >= maxParents {
			name = ParentUnknown
		}
		g.Parents[name]++
	}
}

// eachLine calls f with every line of r, without its end, as long as the bounds
// allow. It says whether that was all, and the last line ended as lines do.
func eachLine(r io.Reader, limit int64, f func(line []byte)) (whole bool, err error) {
	in := bufio.NewReaderSize(io.LimitReader(r, limit+1), maxLine)
	var n int64
	for {
		line, err := in.ReadSlice('\n')
		n += int64(len(line))
		if n > limit {
			return false, nil
		}
		long := errors.Is(err, bufio.ErrBufferFull)
		if len(line) > 0 {
			text, _ := bytes.CutSuffix(line, []byte("\n"))
			text, _ = bytes.CutSuffix(text, []byte("\r"))
			f(text)
		}
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a long line
			line, err = in.ReadSlice('\n')
			n += int64(len(line))
		}
		switch {
		case err == io.EOF:
			return len(line) == 0 && !long, nil
		case err != nil:
			return false, err
		}
	}
}
