package live

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// ParseDump reads what the runtime prints of all goroutines: runtime.Stack(buf, true),
// /debug/pprof/goroutine?debug=2, or a crash with GOTRACEBACK=all or system. What is
// around it is passed over. The runtime's form is that of Go 1.21 to 1.26
// (runtime/traceback.go: goroutineheader, traceback2, printcreatedby).
//
// A text that breaks off gives what it has, with Truncated; one without any
// goroutine is [ErrNotGoroutines]. Time and Took of the snapshot are the caller's to set.
func ParseDump(r io.Reader, lim Limits) (Snapshot, error) {
	d := dump{b: newBuilder(lim)}
	whole, err := eachLine(r, d.b.lim.Bytes, d.line)
	if err != nil {
		return Snapshot{}, fmt.Errorf("live: reading goroutines: %w", err)
	}
	if d.open && (!whole || d.fn != nil || len(d.s.frames) == 0 && !d.hidden) {
		d.s.cut = true
	}
	d.end()
	if d.b.total == 0 {
		return Snapshot{}, ErrNotGoroutines
	}
	if !whole {
		d.b.truncated, d.b.missing = true, true
	}
	return d.b.snapshot(Full), nil
}

// dump is the state of ParseDump between two lines.
type dump struct {
	b      *builder
	s      stack
	open   bool   // s is being read
	skip   bool   // in the stacks of s's ancestors (GODEBUG=tracebackancestors)
	hidden bool   // the runtime says that it cannot show the stack
	fn     []byte // a function's line, whose file's line is to come; nil if there is none
	fnBuf  []byte
	byLine bool // fn is the creator
}

// end closes the goroutine that is being read.
func (d *dump) end() {
	if d.open {
		d.s.dropHidden()
		d.b.add(&d.s, 1)
	}
	d.open, d.skip, d.hidden, d.fn = false, false, false, nil
}

func (d *dump) line(line []byte) {
	if bytes.HasPrefix(line, []byte("goroutine ")) && d.header(line) {
		return
	}
	switch {
	case !d.open:
	case len(line) == 0:
		d.end()
	case d.skip:
	case line[0] == '\t':
		d.fileLine(line[1:])
	case bytes.HasPrefix(line, []byte("created by ")):
		d.createdBy(line[len("created by "):])
	case bytes.HasPrefix(line, []byte("[originating from goroutine ")):
		d.skip = true
	case bytes.HasPrefix(line, []byte("...")) && bytes.HasSuffix(line, []byte(" frames elided...")):
		n, _ := strconv.Atoi(string(bytes.Fields(line[3:])[0])) // "additional" of ancestors has no number
		d.s.push([]byte(Elided), nil, max(n, 1))
		d.s.cut, d.fn = true, nil
	case bytes.HasPrefix(line, []byte("non-Go function at pc=")):
		d.s.push([]byte("non-Go function"), nil, 0)
		d.fn = nil
	default:
		// A function, if its file follows: after the last goroutine of a crash come lines like "exit status 2".
		d.fnBuf = append(d.fnBuf[:0], withoutArguments(line)...)
		d.fn, d.byLine = d.fnBuf, false
	}
}

// header begins a goroutine: `goroutine 7 [chan receive, 2 minutes, locked to thread]:`.
// A crash has `gp=0xc000002380 m=0 mp=0x55d` before the bracket.
func (d *dump) header(line []byte) bool {
	rest := line[len("goroutine "):]
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		digits++
	}
	id, err := strconv.ParseUint(string(rest[:digits]), 10, 64)
	open := bytes.IndexByte(rest, '[')
	if err != nil || open < 0 || !bytes.HasSuffix(rest, []byte("]:")) || open+1 > len(rest)-2 {
		return false
	}
	for _, f := range bytes.Fields(rest[digits:open]) {
		if bytes.IndexByte(f, '=') < 0 {
			return false
		}
	}
	d.end()
	d.open = true
	d.s.reset()
	d.s.id = id
	d.status(rest[open+1 : len(rest)-2])
	return true
}

// status reads what is between a header's brackets.
func (d *dump) status(text []byte) {
	if i := bytes.Index(text, []byte(" labels:{")); i >= 0 {
		text = text[:i]
	}
	state, rest, _ := bytes.Cut(text, []byte(", "))
	for {
		cut := false
		for _, addendum := range []string{" (scan)", " (durable)", " (leaked)"} {
			var ok bool
			if state, ok = bytes.CutSuffix(state, []byte(addendum)); ok {
				cut = true
				d.s.leaked = d.s.leaked || addendum == " (leaked)"
			}
		}
		if !cut {
			break
		}
	}
	if len(state) == 0 {
		state = []byte("???") // the runtime's own word for what it does not know
	}
	d.s.state = append(d.s.state, state[:min(len(state), 100)]...)
	for len(rest) > 0 {
		var part []byte
		part, rest, _ = bytes.Cut(rest, []byte(", "))
		if n, ok := bytes.CutSuffix(part, []byte(" minutes")); ok {
			m, err := strconv.Atoi(string(n))
			if err == nil && m > 0 && m < 1<<24 { // 30 years
				d.s.minutes = m
			}
		} else if string(part) == "locked to thread" {
			d.s.locked = true
		}
	}
}

// createdBy reads `net/http.(*Server).Serve in goroutine 18`; before Go 1.21 there was no id.
func (d *dump) createdBy(text []byte) {
	fn := text
	if i := bytes.LastIndex(text, []byte(" in goroutine ")); i >= 0 {
		if id, err := strconv.ParseUint(string(text[i+len(" in goroutine "):]), 10, 64); err == nil {
			fn, d.s.parent = text[:i], id
		}
	}
	d.fnBuf = append(d.fnBuf[:0], fn...)
	d.fn, d.byLine = d.fnBuf, true
}

// fileLine reads `/src/shop/pool.go:41 +0x1d fp=... sp=... pc=...`.
func (d *dump) fileLine(text []byte) {
	if bytes.HasPrefix(text, []byte("goroutine running on other thread")) {
		d.hidden = true
		return
	}
	if d.fn == nil {
		return
	}
	// What follows the line has no colon, and a path may have spaces: so from the last colon on.
	file, line := text, 0
	if i := bytes.LastIndexByte(text, ':'); i >= 0 {
		digits := i + 1
		for digits < len(text) && text[digits] >= '0' && text[digits] <= '9' {
			digits++
		}
		if n, err := strconv.Atoi(string(text[i+1 : digits])); err == nil && n < 1<<31 {
			file, line = text[:i], n
		}
	}
	if d.byLine {
		if d.s.creator == (span{}) {
			d.s.creator = d.s.span(d.fn, file, line)
		}
	} else {
		d.s.push(d.fn, file, line)
	}
	d.fn = nil
}

// withoutArguments is `main.(*T[...]).f` of `main.(*T[...]).f(0x1, {0x2, ...})`: no argument has a parenthesis.
func withoutArguments(line []byte) []byte {
	if i := bytes.LastIndexByte(line, '('); i > 0 && line[len(line)-1] == ')' {
		return line[:i]
	}
	return line
}

// dropHidden drops the runtime's own frames; where there are no others, only where
// all goroutines begin. Crashes with GOTRACEBACK=system list them.
func (s *stack) dropHidden() {
	drop := func(f span) bool { return hidden(s.text[f.at:f.mid]) }
	if !slices.ContainsFunc(s.frames, func(f span) bool { return !drop(f) }) {
		drop = func(f span) bool { return string(s.text[f.at:f.mid]) == "runtime.goexit" }
	}
	s.frames = slices.DeleteFunc(s.frames, drop)
}
