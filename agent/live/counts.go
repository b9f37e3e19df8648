package live

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strconv"
)

// Stack is how many goroutines were at the same place. Frames has the leaf first,
// the runtime's own frames included.
type Stack struct {
	Count  int
	Frames []Frame
}

// FromStacks groups stacks of a goroutine profile. States are told from the frames
// of the runtime, which then are dropped as a full list drops them.
func FromStacks(stacks []Stack, lim Limits) Snapshot {
	b := newBuilder(lim)
	var s stack
	for _, st := range stacks {
		s.reset()
		s.fill(st.Frames)
		b.add(&s, max(st.Count, 0))
	}
	return b.snapshot(Counts)
}

// fill makes s the goroutine with these frames.
func (s *stack) fill(frames []Frame) {
	s.state = append(s.state[:0], stateOf(frames)...)
	for _, f := range frames {
		s.push([]byte(f.Func), []byte(f.File), f.Line)
	}
	s.dropHidden()
}

// hidden says that the runtime leaves a function out of its lists of goroutines:
// its own, but for exported ones (runtime.showfuncinfo and isExportedRuntime).
func hidden(fn []byte) bool {
	name, ok := bytes.CutPrefix(fn, []byte("runtime."))
	return ok && (len(name) == 0 || name[0] < 'A' || name[0] > 'Z')
}

// ParseCounts reads /debug/pprof/goroutine?debug=1, or the same of
// pprof.Lookup("goroutine").WriteTo(w, 1). Labels are passed over: goroutines at one
// place are one group.
//
// This text leaves the runtime's innermost frames out, so that a channel and a select
// cannot be told apart: such a goroutine is "waiting", if another one shows the address
// that waiting goroutines have on top, else "runnable". The profile in protobuf form
// (debug=0) has these frames: see [FromStacks].
func ParseCounts(r io.Reader, lim Limits) (Snapshot, error) {
	return parseCounts(r, lim, nil)
}

// parseCounts reads the text; symbols, where given, says what is at the addresses
// of a stack, and the text's own frames are passed over.
func parseCounts(r io.Reader, lim Limits, symbols func(pcs []uintptr) []Frame) (Snapshot, error) {
	c := counts{b: newBuilder(lim), symbols: symbols}
	whole, err := eachLine(r, c.b.lim.Bytes, c.line)
	if err != nil {
		return Snapshot{}, fmt.Errorf("live: reading goroutines: %w", err)
	}
	if !c.head {
		return Snapshot{}, ErrNotGoroutines
	}
	c.end()
	c.unnamed()
	if !whole || c.b.total < c.total {
		c.b.truncated = true
	}
	// What was cut off is told by the head. A made-up head could tell anything; more than was listed is not believed.
	return c.b.snapshot(Counts), nil
}

// counts is the state of parseCounts between two lines.
type counts struct {
	b       *builder
	symbols func([]uintptr) []Frame
	head    bool
	total   int

	n      int // goroutines at the stack that is being read; 0 if none is
	pcs    []uintptr
	frames []Frame

	// Stacks whose state is not told by their frames, and the address on top of those that surely wait.
	later       []parked
	laterFrames int
	parkPC      uintptr
}

type parked struct {
	n      int
	top    uintptr
	frames []Frame
}

// maxLater bounds the frames that are kept until all is read, 40 bytes each.
const maxLater = 200_000

func (c *counts) line(line []byte) {
	switch {
	case !c.head:
		if rest, ok := bytes.CutPrefix(line, []byte("goroutine profile: total ")); ok {
			n, err := strconv.Atoi(string(rest))
			c.head, c.total = err == nil && n >= 0, n
		}
	case len(line) == 0:
		c.end()
	case line[0] == '#':
		if c.n > 0 && c.symbols == nil && len(c.frames) < maxFrames {
			c.frameLine(line[1:])
		}
	default:
		c.end()
		c.stackLine(line)
	}
}

// stackLine begins a stack: `3 @ 0x48488e 0x41816e 0x48b781`.
func (c *counts) stackLine(line []byte) {
	count, rest, ok := bytes.Cut(line, []byte(" @"))
	n, err := strconv.Atoi(string(count))
	if !ok || err != nil || n <= 0 || n > 1<<31 {
		return
	}
	c.n, c.pcs, c.frames = n, c.pcs[:0], c.frames[:0]
	for f := range bytes.FieldsSeq(rest) {
		hex, ok := bytes.CutPrefix(f, []byte("0x"))
		pc, err := strconv.ParseUint(string(hex), 16, 64)
		if !ok || err != nil || len(c.pcs) >= maxFrames {
			break
		}
		c.pcs = append(c.pcs, uintptr(pc))
	}
}

// frameLine reads `	0x483b24	internal/poll.runtime_pollWait+0x84		/go/src/runtime/netpoll.go:351`,
// in columns with any number of tabs between.
func (c *counts) frameLine(text []byte) {
	var cells [3][]byte
	n := 0
	for cell := range bytes.SplitSeq(text, []byte("\t")) {
		if len(cell) > 0 && n < len(cells) {
			cells[n] = cell
			n++
		}
	}
	if n != len(cells) || !bytes.HasPrefix(cells[0], []byte("0x")) {
		return // labels, or an address without a name
	}
	if c.b.text > maxText {
		return // end says that something is left out
	}
	fn, file, line := cells[1], cells[2], 0
	if i := bytes.LastIndex(fn, []byte("+0x")); i > 0 {
		fn = fn[:i]
	}
	if i := bytes.LastIndexByte(file, ':'); i >= 0 {
		if l, err := strconv.Atoi(string(file[i+1:])); err == nil && l >= 0 && l < 1<<31 {
			file, line = file[:i], l
		}
	}
	c.frames = append(c.frames, Frame{c.b.name(fn), c.b.name(file), line})
}

// end closes the stack that is being read.
func (c *counts) end() {
	n := c.n
	if c.n = 0; n == 0 {
		return
	}
	if c.symbols != nil {
		c.frames = append(c.frames[:0], c.symbols(c.pcs)...)
		c.add(n, c.frames, "")
		return
	}
	if c.b.text > maxText {
		c.b.truncated = true
		c.b.total += n
		c.b.other.Count += n
		return
	}
	state := stateOf(c.frames)
	var top uintptr
	if len(c.pcs) > 0 {
		top = c.pcs[0]
	}
	switch {
	case state == stateRunnable && top == c.parkPC && top != 0:
		state = stateWaiting
	case state == stateRunnable && c.laterFrames+len(c.frames) < maxLater:
		c.laterFrames += len(c.frames) + 1
		c.later = append(c.later, parked{n, top, append([]Frame(nil), c.frames...)})
		return
	case waits[state]:
		c.parkPC = top
	}
	c.add(n, c.frames, state)
}

// unnamed adds the stacks whose state is known only now.
func (c *counts) unnamed() {
	for _, p := range c.later {
		state := stateRunnable
		if p.top == c.parkPC && p.top != 0 {
			state = stateWaiting
		}
		c.add(p.n, p.frames, state)
	}
}

func (c *counts) add(n int, frames []Frame, state string) {
	var s stack
	s.fill(frames)
	if state != "" {
		s.state = append(s.state[:0], state...)
	}
	c.b.add(&s, n)
}

// framesAt are the frames at the addresses of a stack of this process.
func framesAt(pcs []uintptr) []Frame {
	var out []Frame
	if len(pcs) == 0 {
		return nil
	}
	frames := runtime.CallersFrames(pcs)
	for {
		f, more := frames.Next()
		if f.Function != "" {
			out = append(out, Frame{f.Function, f.File, f.Line})
		}
		if !more || len(out) >= maxFrames {
			return out
		}
	}
}
