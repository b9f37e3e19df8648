// Package formats reads what profilers send that is neither pprof nor folded
// text: Pyroscope's binary trie and tree, speedscope's JSON, and what V8 writes
// (.cpuprofile, and the CPU profiles of Chrome's traces). Each reader takes bytes
// that are in memory already. Of all but V8's it gives a profile of one column;
// what its numbers mean, the formats do not say.
//
// Bytes come from strangers: no reader follows a count that the bytes that are
// left cannot hold, and all are bound by [profile.Limits]. Errors wrap
// [profile.ErrCorrupt] or [profile.ErrTooLarge].
package formats

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/quantra-l/quantra/profile"
)

// maxFrame bounds the name of one frame, in bytes. Names of C++ templates have some thousands.
const maxFrame = 16 << 10

// namesPerByte bounds the names of all frames by the bytes that came: a trie says common beginnings
// once, and real ones come to some 10 times their bytes.
const namesPerByte = 64

// stacks builds a profile of stacks of names.
type stacks struct {
	lim   profile.Limits
	b     *profile.Builder
	nodes int
	names int64 // bytes that names may still have
	locs  map[string]uint32
}

func newStacks(lim profile.Limits, input int, types ...profile.ValueType) *stacks {
	lim.Depth = bound(lim.Depth, 4096)
	lim.Stacks = bound(lim.Stacks, 4<<20)
	lim.Samples = bound(lim.Samples, 4<<20)
	return &stacks{lim: lim, b: profile.NewBuilder(types...), names: int64(input)*namesPerByte + 1<<20, locs: map[string]uint32{}}
}

// bound is a limit's figure as [profile.Limits] has it: 0 is the default, negative is none.
func bound(n, def int) int {
	if n = cmp.Or(n, def); n < 0 {
		return math.MaxInt
	}
	return n
}

// push is the stack in which parent calls the function name; depth is how deep that is, from 1.
func (s *stacks) push(parent uint32, name []byte, depth int) (uint32, error) {
	if depth > s.lim.Depth {
		return 0, fmt.Errorf("%w: a stack of %d frames, the limit is %d", profile.ErrTooLarge, depth, s.lim.Depth)
	}
	if s.nodes++; s.nodes > s.lim.Stacks {
		return 0, fmt.Errorf("%w: more than %d stacks", profile.ErrTooLarge, s.lim.Stacks)
	}
	loc, ok := s.locs[string(name)]
	if !ok {
		if s.names -= int64(len(name)); len(name) > maxFrame || s.names < 0 {
			return 0, fmt.Errorf("%w: the name %.40q... has %d bytes, the limit is %d each, and %d times what was sent for all", profile.ErrTooLarge, name, len(name), maxFrame, namesPerByte)
		}
		text := string(bytes.ToValidUTF8(name, []byte("\uFFFD")))
		n := s.b.String(text)
		loc = s.b.Location(profile.Location{}, profile.Line{Function: s.b.Function(profile.Function{Name: n, SystemName: n})})
		s.locs[string(name)] = loc
	}
	return s.b.Stack(parent, loc), nil
}

// reader reads the numbers and names of trie and tree.
type reader struct {
	b   []byte
	off int
}

func (r *reader) corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: at byte %d: %s", profile.ErrCorrupt, r.off, fmt.Sprintf(format, args...))
}

func (r *reader) number(what string) (uint64, error) {
	v, n := binary.Uvarint(r.b[r.off:])
	if n <= 0 {
		return 0, r.corrupt("%s is cut short or larger than 64 bits", what)
	}
	r.off += n
	return v, nil
}

// node is one node as both formats write it: a name with its length, a value, and how many children follow.
// Nodes are in the order of a walk from the root, the children of one after it.
func (r *reader) node() (name []byte, value int64, children uint64, err error) {
	n, err := r.number("a name's length")
	if err != nil {
		return nil, 0, 0, err
	}
	if n > uint64(len(r.b)-r.off) {
		return nil, 0, 0, r.corrupt("a name of %d bytes, and %d are left", n, len(r.b)-r.off)
	}
	name = r.b[r.off : r.off+int(n)]
	r.off += int(n)
	v, err := r.number("a value")
	if err != nil {
		return nil, 0, 0, err
	}
	if v > math.MaxInt64 {
		return nil, 0, 0, r.corrupt("the value %d is larger than 63 bits", v)
	}
	if children, err = r.number("the number of children"); err != nil {
		return nil, 0, 0, err
	}
	if least := uint64(3); children > uint64(len(r.b)-r.off)/least { // a node has at least 3 bytes
		return nil, 0, 0, r.corrupt("%d children, and %d bytes are left", children, len(r.b)-r.off)
	}
	return name, int64(v), children, nil
}

var count = profile.ValueType{Type: "samples", Unit: "count"}

// ParseTree reads Pyroscope's tree (format=tree): nodes are frames, and a value is what the frame had itself. The root has no name.
func ParseTree(b []byte, lim profile.Limits) (*profile.Profile, error) {
	type level struct {
		stack uint32
		left  uint64 // children that are still to come
	}
	r, s := &reader{b: b}, newStacks(lim, len(b), count)
	name, value, children, err := r.node()
	if err != nil {
		return nil, err
	}
	if len(name) > 0 {
		return nil, r.corrupt("the root is %.40q, and must have no name", name)
	}
	samples := 0
	add := func(stack uint32, v int64) {
		if v > 0 {
			samples++
			s.b.Add(stack, 0, v)
		}
	}
	add(0, value)
	path := []level{{0, children}}
	for {
		for len(path) > 0 && path[len(path)-1].left == 0 {
			path = path[:len(path)-1]
		}
		if len(path) == 0 {
			break
		}
		path[len(path)-1].left--
		parent := path[len(path)-1].stack
		if name, value, children, err = r.node(); err != nil {
			return nil, err
		}
		stack, err := s.push(parent, name, len(path))
		if err != nil {
			return nil, err
		}
		add(stack, value)
		path = append(path, level{stack, children})
	}
	return s.done(r, samples)
}

// done is the profile, when all of the bytes were one.
func (s *stacks) done(r *reader, samples int) (*profile.Profile, error) {
	if r.off < len(r.b) {
		return nil, r.corrupt("%d bytes follow the last node", len(r.b)-r.off)
	}
	if samples == 0 {
		return nil, r.corrupt("no node has a value")
	}
	return s.b.Profile(), nil
}

// ParseTrie reads Pyroscope's trie (format=trie): what nodes from the root on are called makes, one after the other, a folded stack, cut wherever two
// stacks part: also within a frame's name.
func ParseTrie(b []byte, lim profile.Limits) (*profile.Profile, error) {
	type level struct {
		left   uint64
		text   int // len(text) before this node
		frames int // len(frames) before this node
	}
	type frame struct {
		stack uint32
		from  int // where in text the frame after it begins
	}
	r, s := &reader{b: b}, newStacks(lim, len(b), count)
	var text []byte    // the stack so far
	var frames []frame // the frames that have ended with a semicolon
	path := []level{{left: 1}}
	samples := 0
	for {
		for len(path) > 0 && path[len(path)-1].left == 0 {
			top := path[len(path)-1]
			text, frames, path = text[:top.text], frames[:top.frames], path[:len(path)-1]
		}
		if len(path) == 0 {
			break
		}
		path[len(path)-1].left--
		name, value, children, err := r.node()
		if err != nil {
			return nil, err
		}
		path = append(path, level{children, len(text), len(frames)})
		at := func() frame {
			if len(frames) == 0 {
				return frame{}
			}
			return frames[len(frames)-1]
		}
		for _, c := range name {
			if text = append(text, c); c == ';' {
				outer := at()
				stack, err := s.push(outer.stack, text[outer.from:len(text)-1], len(frames)+1)
				if err != nil {
					return nil, err
				}
				frames = append(frames, frame{stack, len(text)})
			}
		}
		if value > 0 {
			outer := at()
			stack := outer.stack
			if outer.from < len(text) { // else the stack ends with a semicolon
				if stack, err = s.push(stack, text[outer.from:], len(frames)+1); err != nil {
					return nil, err
				}
			}
			samples++
			s.b.Add(stack, 0, value)
		}
	}
	return s.done(r, samples)
}
