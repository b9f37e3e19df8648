package profile

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// WriteFolded writes column col as folded stacks, Brendan Gregg's format for
// his flame graph scripts: a line for each distinct stack, frames from the
// outermost joined by ';', a space and the value. Frames that read alike are
// one. In a name, ';' becomes ':' and any control character (a newline among
// them) becomes a space, for the format has no escape. A sample without frames
// is a line with the one frame "[empty stack]". Lines are sorted.
func WriteFolded(w io.Writer, p *Profile, col int) error {
	return NewTree(p, col).WriteFolded(w)
}

// WriteFolded writes the tree as folded stacks: see the function [WriteFolded].
func (t *Tree) WriteFolded(w io.Writer) error {
	clean := make([]string, len(t.Names))
	for i, name := range t.Names {
		clean[i] = cmp.Or(strings.TrimSpace(strings.Map(func(r rune) rune {
			switch {
			case r == ';':
				return ':'
			case r < ' ' || r == 0x7f:
				return ' '
			}
			return r
		}, name)), "[no name]")
	}
	// Cleaning can make two names one, so lines are summed once more.
	type line struct {
		stack string
		value int64
	}
	var lines []line
	stack := make([]byte, 0, 1024)
	ends := make([]int, t.Len()) // of the stack's text, at each level
	levels := t.Levels()
	for i := range t.Parent {
		if i > 0 {
			stack = stack[:ends[levels[i]-1]]
			if levels[i] > 1 {
				stack = append(stack, ';')
			}
			stack = append(stack, clean[t.Name[i]]...)
		}
		ends[levels[i]] = len(stack)
		if v := t.Self[i]; v != 0 {
			text := string(stack)
			if i == 0 {
				text = emptyStack
			}
			lines = append(lines, line{text, v})
		}
	}
	slices.SortFunc(lines, func(a, b line) int { return strings.Compare(a.stack, b.stack) })
	out := bufio.NewWriter(w)
	for i := 0; i < len(lines); {
		sum, j := int64(0), i
		for ; j < len(lines) && lines[j].stack == lines[i].stack; j++ {
			sum += lines[j].value
		}
		if sum != 0 {
			fmt.Fprintf(out, "%s %d\n", lines[i].stack, sum)
		}
		i = j
	}
	return out.Flush()
}

const emptyStack = "[empty stack]"

// ParseFolded reads folded stacks: see [WriteFolded]. Empty lines are skipped,
// and lines that start with '#' unless they end in a value. The values are samples, without a unit, for
// the format does not say what they are. A value may be a decimal fraction, as
// some collectors write it; it is rounded. The suffixes of annotated frames
// (_[k] kernel, _[i] inlined, _[j] compiled at run time) stay in the names.
// The error wraps [ErrCorrupt] or [ErrTooLarge] and tells the line.
func ParseFolded(r io.Reader, lim Limits) (*Profile, error) {
	lines := newLineReader(r, lim)
	lim = lines.lim
	p := newTextProfile(lim, ValueType{"samples", "count"})
	for {
		line, err := lines.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		at := bytes.LastIndexAny(line, " \t")
		v, err := parseCount(string(line[at+1:]))
		switch {
		case line[0] == '#' && (at < 0 || err != nil):
			continue
		case at < 0:
			return nil, lines.corrupt("no value after the stack: %.60q", line)
		case err != nil:
			return nil, lines.corrupt("the value after the stack: %v", err)
		}
		if err := p.folded(lines, bytes.TrimSpace(line[:at]), v); err != nil {
			return nil, err
		}
	}
	if p.samples == 0 {
		return nil, fmt.Errorf("%w: folded stacks: no line with a stack and a value", ErrCorrupt)
	}
	return p.b.Profile(), nil
}

func parseCount(s string) (int64, error) {
	if v, err := strconv.ParseInt(s, 10, 64); err == nil {
		return v, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f > -1<<62 && f < 1<<62) {
		return 0, fmt.Errorf("%.40q is not a number that fits 64 bits", s)
	}
	if f < 0 {
		return int64(f - 0.5), nil
	}
	return int64(f + 0.5), nil
}

// textProfile builds a profile from a text with names only.
type textProfile struct {
	b         *Builder
	lim       Limits
	locations map[string]uint32 // by the frame's key
	samples   int
}

func newTextProfile(lim Limits, types ...ValueType) *textProfile {
	return &textProfile{b: NewBuilder(types...), lim: lim, locations: map[string]uint32{}}
}

func (p *textProfile) folded(lines *lineReader, stack []byte, v int64) error {
	if p.samples++; p.samples > p.lim.Samples {
		return lines.tooLarge("samples", p.samples, p.lim.Samples)
	}
	at, depth := uint32(0), 0
	if string(stack) != emptyStack {
		for frame := range bytes.SplitSeq(stack, []byte{';'}) {
			if frame = bytes.TrimSpace(frame); len(frame) == 0 {
				continue // stray separators, as stackcollapse scripts leave them
			}
			if depth++; depth > p.lim.Depth {
				return lines.tooLarge("depth", depth, p.lim.Depth)
			}
			loc, err := p.function(lines, frame)
			if err != nil {
				return err
			}
			at = p.b.Stack(at, loc)
		}
		if depth == 0 {
			return lines.corrupt("the stack before the value has no frame")
		}
	}
	p.b.Add(at, 0, v)
	return nil
}

// function is the location of a frame of which only the name is known.
func (p *textProfile) function(lines *lineReader, name []byte) (uint32, error) {
	if loc, ok := p.locations[string(name)]; ok {
		return loc, nil
	}
	if n := len(p.locations) + 1; n > p.lim.Functions {
		return 0, lines.tooLarge("functions", n, p.lim.Functions)
	}
	clean := strings.ToValidUTF8(string(name), "\uFFFD")
	s := p.b.String(clean)
	loc := p.b.Location(Location{}, Line{Function: p.b.Function(Function{Name: s, SystemName: s})})
	p.locations[string(name)] = loc
	return loc, nil
}

// lineReader reads a text line by line, bounded in bytes and in the length of a line.
type lineReader struct {
	in   *bufio.Reader
	lim  Limits
	n    int   // lines read
	size int64 // bytes read
	long []byte
}

func newLineReader(r io.Reader, lim Limits) *lineReader {
	return &lineReader{in: bufio.NewReaderSize(r, 64<<10), lim: lim.withDefaults()}
}

// next is the next line without its end. It is good until the next call.
func (l *lineReader) next() ([]byte, error) {
	l.n++
	l.long = l.long[:0]
	for {
		part, err := l.in.ReadSlice('\n')
		l.size += int64(len(part))
		if l.size > l.lim.Decoded {
			return nil, l.tooLarge("bytes", int(l.size), int(l.lim.Decoded))
		}
		if len(l.long)+len(part) > l.lim.StringBytes {
			return nil, l.tooLarge("bytes of one line", len(l.long)+len(part), l.lim.StringBytes)
		}
		switch {
		case err == nil && len(l.long) == 0:
			return bytes.TrimRight(part, "\r\n"), nil
		case err == nil, err == io.EOF && len(l.long)+len(part) > 0:
			l.long = append(l.long, part...)
			return bytes.TrimRight(l.long, "\r\n"), nil
		case err != bufio.ErrBufferFull:
			return nil, err // io.EOF, or the source's own error
		}
		l.long = append(l.long, part...)
	}
}

func (l *lineReader) corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: line %d: %s", ErrCorrupt, l.n, fmt.Sprintf(format, args...))
}

func (l *lineReader) tooLarge(what string, n, limit int) error {
	return fmt.Errorf("%w: line %d: %d %s, the limit is %d", ErrTooLarge, l.n, n, what, limit)
}
