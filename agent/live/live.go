// Package live says what the goroutines of a Go program are doing: of this
// process ([Take]), or of what another one printed ([ParseDump], [ParseCounts]).
//
// A full list of goroutines stops the world while it is made, about 3 µs for each
// with a short stack; a goroutine profile does not, but knows no creators, ids and
// times. Take chooses: full while the stop is predicted to stay below a bound,
// else counts. [Tree] arranges either by who created whom, [Compare] says what grew.
//
// It imports the standard library only and nothing of this module, so that it can
// live in any program.
package live

import (
	"errors"
	"time"
)

// Detail is how much a [Snapshot] knows.
type Detail string

const (
	Full   Detail = "full"   // each goroutine with its creator, id and waiting time
	Counts Detail = "counts" // goroutines by stack, the state told from the stack
)

// Snapshot is what the goroutines of one program were doing at one time. As JSON it
// is what docs/format/agents.md draws.
type Snapshot struct {
	Time      time.Time     `json:"time"`
	Took      time.Duration `json:"took_ns"` // of making it; for Full the program stood still about so long
	Detail    Detail        `json:"detail"`
	Total     int           `json:"total"`     // goroutines, those among Groups' "other" too
	Truncated bool          `json:"truncated"` // groups, frames or goroutines were left out past a bound
	Groups    []Group       `json:"groups"`    // the largest first
}

// Group is goroutines with the same state, stack and creator.
type Group struct {
	Count int    `json:"count"`
	State string `json:"state"` // the runtime's word, or StateOther
	// How long they have waited, in whole minutes as the runtime tells them; below one it is 0.
	WaitMax int `json:"wait_max_s"` // seconds
	WaitMin int `json:"wait_min_s"` // seconds
	Locked  int `json:"locked"`     // locked to a thread
	Leaked  int `json:"leaked,omitempty"`
	// Stack has the leaf first. A frame named [Elided] stands for Line frames that are left out.
	Stack   []Frame `json:"stack"`
	Creator *Frame  `json:"creator,omitempty"` // where the go statement is
	// Parents counts them by the entry function of the goroutine that created them,
	// or ParentEnded, or ParentUnknown.
	Parents map[string]int `json:"parents,omitempty"`
	IDs     []uint64       `json:"ids,omitempty"` // of at most 100 of them
}

// Frame is a function and where in it a goroutine is.
type Frame struct {
	Func string `json:"func"`
	File string `json:"file,omitempty"` // as the compiler noted it: often a whole path
	Line int    `json:"line,omitempty"`
}

// Words in places of names. No Go function is called so.
const (
	StateOther    = "other"     // the state of the group that sums what was left out
	Elided        = "..."       // the function of a frame that stands for others
	ParentEnded   = "(ended)"   // the creator is no more
	ParentUnknown = "(unknown)" // the creator is not listed, in a list that was cut
)

// wrappers are functions that only call what they were given: a goroutine that
// begins with one is named by what it calls.
var wrappers = map[string]bool{
	"sync.(*WaitGroup).Go.func1":                     true,
	"golang.org/x/sync/errgroup.(*Group).Go.func1":   true,
	"golang.org/x/sync/errgroup.(*Group).Go.func1.1": true,
	"runtime/pprof.Do":                               true,
}

// Entry is the function that the goroutines began with, or "" if their stack is not
// known. Where that only calls what it was given, as sync.WaitGroup.Go does, it is the function called.
func (g *Group) Entry() string {
	for i := len(g.Stack) - 1; i >= 0; i-- {
		if i == 0 || !wrappers[g.Stack[i].Func] || g.Stack[i-1].Func == Elided {
			return g.Stack[i].Func
		}
	}
	return ""
}

// Limits bound what is read and what is kept. Zero fields have the defaults beside them.
type Limits struct {
	Bytes      int64 // of text read: 256 MiB
	Goroutines int   // whose creators are looked up, 24 bytes each: 1,000,000
	Groups     int   // kept, the largest; the others are summed: 2,000
	Frames     int   // of a stack, at least 3; the middle is left out: 64
}

func (l Limits) orDefaults() Limits {
	if l.Bytes <= 0 {
		l.Bytes = 256 << 20
	}
	if l.Goroutines <= 0 {
		l.Goroutines = 1_000_000
	}
	if l.Groups <= 0 {
		l.Groups = 2000
	}
	if l.Frames <= 0 {
		l.Frames = 64
	}
	l.Frames = max(l.Frames, 3)
	return l
}

// ErrNotGoroutines says that a text is no list of goroutines.
var ErrNotGoroutines = errors.New("live: this is not a list of goroutines as the Go runtime prints it")
