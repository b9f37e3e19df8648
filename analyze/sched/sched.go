// Package sched says what a Go program's goroutines did with their time, from an
// execution trace (runtime/trace, Go 1.22 or later): how long they ran, how long they
// were ready and no processor took them, in what they were blocked, and what the
// garbage collector took. It is for Go what tokio-console is for Rust's tasks.
//
// golang.org/x/exp/trace reads the bytes and checks that the events make sense; this
// package bounds what it is given, adds up, and imports nothing else.
package sched

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/exp/trace"
)

// Limits bound what is read and kept. Zero fields have the defaults beside them.
type Limits struct {
	Bytes int64 // of the trace; what is past them is not read: 64 MiB
	Alive int   // goroutines that may live at once; further ones are only counted: 1,000,000
	Top   int   // goroutines told one by one: 200
	Group int   // groups; the rest is summed in one: 1,000
}

func (l Limits) orDefaults() Limits {
	if l.Bytes <= 0 {
		l.Bytes = 64 << 20
	}
	if l.Alive <= 0 {
		l.Alive = 1_000_000
	}
	if l.Top <= 0 {
		l.Top = 200
	}
	if l.Group <= 0 {
		l.Group = 1000
	}
	return l
}

// Summary is what a trace says. All times are within its window. As JSON it is
// what docs/format/agents.md draws.
type Summary struct {
	Window     time.Duration `json:"window_ns"`
	Procs      int           `json:"procs"`  // GOMAXPROCS, the highest in the window
	Events     int64         `json:"events"` // in the trace
	Goroutines int           `json:"goroutines"`
	Times                    // of all goroutines
	GC         GC            `json:"gc"`
	Groups     []Group       `json:"groups"` // by entry function; run and runnable together decide, the largest first
	Top        []Goroutine   `json:"top"`    // single goroutines, in the same order
	Truncated  bool          `json:"truncated"`
	Warnings   []string      `json:"warnings"` // why the answer is not whole
}

// Times is how goroutines spent their lives: Run + Runnable + Syscall + the sum of
// Blocked + Unknown is Lifetime, to the nanosecond. Assist and RunnableMax are within them.
type Times struct {
	Lifetime    time.Duration            `json:"lifetime_ns"`
	Run         time.Duration            `json:"run_ns"`
	Runnable    time.Duration            `json:"runnable_ns"`     // ready to run, waiting for a processor: scheduler latency
	RunnableMax time.Duration            `json:"runnable_max_ns"` // the longest such wait
	Syscall     time.Duration            `json:"syscall_ns"`
	Blocked     map[string]time.Duration `json:"blocked_ns"` // by the runtime's reason: see docs/format/agents.md
	Unknown     time.Duration            `json:"unknown_ns"` // in states that this package does not know
	Assist      time.Duration            `json:"assist_ns"`  // marking for the garbage collector; may be within Run, Runnable and Blocked
	Runs        int64                    `json:"runs"`       // how often they were given a processor
}

// Group is the goroutines that began with one function.
type Group struct {
	Entry  string `json:"entry"`
	System bool   `json:"system,omitempty"` // of the runtime itself
	Count  int    `json:"count"`
	Times
}

// Goroutine is one of them.
type Goroutine struct {
	ID    int64  `json:"id"`
	Entry string `json:"entry"`
	Times
}

// GC is what the garbage collector did. STW is all time for which the world stood still,
// for other reasons than the collector's too (goroutine lists, GOMAXPROCS, ...).
type GC struct {
	Cycles   int           `json:"cycles"`  // concurrent mark phases, those cut off by the window too
	Marking  time.Duration `json:"mark_ns"` // their wall time
	STW      time.Duration `json:"stw_ns"`
	STWMax   time.Duration `json:"stw_max_ns"`
	STWCount int           `json:"stw_count"`
}

// ErrNotTrace says that the bytes are no execution trace, or one that is broken from the start.
var ErrNotTrace = errors.New("sched: not an execution trace")

// ErrVersion says that the trace is of a Go version that cannot be read.
var ErrVersion = errors.New("sched: the trace is of a Go version that is not understood (1.22 and later are)")

const headerSize = 16 // "go 1.26 trace\x00\x00\x00"

var header = regexp.MustCompile(`^go 1\.(\d\d) trace\x00\x00\x00$`)

// firstVersion is the first Go version with the present form of traces. The reader of
// the form before knows no bounds, so such traces are refused.
const firstVersion = 22

// Summarize reads an execution trace to its end. A trace that breaks off, or that
// is longer than the bound, gives what it has, with Truncated and a warning that says why.
func Summarize(r io.Reader, lim Limits) (Summary, error) {
	lim = lim.orDefaults()
	counted := &counter{r: r, left: lim.Bytes}
	in := bufio.NewReaderSize(counted, 64<<10)
	head, err := in.Peek(headerSize)
	m := header.FindSubmatch(head)
	switch {
	case err != nil && err != io.EOF:
		return Summary{}, fmt.Errorf("sched: reading the trace: %w", err)
	case m == nil && bytes.HasPrefix([]byte("go 1."), head[:min(len(head), 5)]) && len(head) < headerSize && len(head) > 0:
		return Summary{}, fmt.Errorf("%w: it ends within its first %d bytes", ErrNotTrace, headerSize)
	case m == nil:
		return Summary{}, ErrNotTrace
	}
	if v, err := strconv.Atoi(string(m[1])); err != nil || v < firstVersion {
		return Summary{}, fmt.Errorf("%w: it is of Go 1.%s", ErrVersion, m[1])
	}
	s := newSummer(lim)
	err = readEvents(in, s.event)
	switch {
	case counted.err != nil:
		return Summary{}, fmt.Errorf("sched: reading the trace: %w", counted.err)
	case err != nil && s.events <= 1: // the reader makes up the first, a synchronization
		return Summary{}, fmt.Errorf("%w: %w", ErrNotTrace, err)
	case counted.cut:
		s.warn(fmt.Sprintf("the trace is longer than %d bytes: this is its first %v", lim.Bytes, s.now.Sub(s.start)))
	case err != nil:
		s.warn(fmt.Sprintf("the trace breaks off after %v: %v", s.now.Sub(s.start), err))
	}
	return s.summary(), nil
}

// readEvents calls f with each event of a trace. The reader is of another module:
// where it panics on bytes it did not foresee, that is an error like any other.
func readEvents(in io.Reader, f func(*trace.Event)) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the trace makes no sense: %v", p)
		}
	}()
	events, err := trace.NewReader(in)
	if err != nil {
		return err
	}
	for {
		ev, err := events.ReadEvent()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		f(&ev)
	}
}

// counter reads up to so many bytes, and says whether there were more.
type counter struct {
	r    io.Reader
	left int64
	cut  bool
	err  error // of r, but its end
}

func (c *counter) Read(p []byte) (int, error) {
	if c.left <= 0 {
		n, err := c.r.Read(p[:min(len(p), 1)])
		c.cut = c.cut || n > 0
		if err != nil && err != io.EOF {
			c.err = err
			return 0, err
		}
		return 0, io.EOF
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}
