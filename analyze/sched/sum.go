package sched

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"golang.org/x/exp/trace"
)

// summer adds up events as they come, in the order of time.
type summer struct {
	lim        Limits
	start, now trace.Time
	sync       trace.Time // of the last synchronization: what existed then has been named by the next
	events     int64
	procs      map[trace.ProcID]bool
	maxProcs   int

	alive map[trace.GoID]*life
	seen  int
	lost  int // goroutines past the bound
	sum   Times
	top   []Goroutine
	group map[string]*Group

	gc      GC
	marking open
	stw     map[trace.GoID]trace.Time // world stops that go on, by who stopped it

	warnings []string
}

// open is a range of time that has begun.
type open struct {
	on    bool
	since trace.Time
}

// life is a goroutine that lives.
type life struct {
	Goroutine
	begun  trace.Time
	state  trace.GoState
	since  trace.Time
	reason string // why it waits
	assist open
}

func newSummer(lim Limits) *summer {
	return &summer{lim: lim, procs: map[trace.ProcID]bool{}, alive: map[trace.GoID]*life{}, group: map[string]*Group{}, stw: map[trace.GoID]trace.Time{}}
}

func (s *summer) warn(text string) { s.warnings = append(s.warnings, text) }

func (s *summer) event(ev *trace.Event) {
	if s.events++; s.events == 1 {
		s.start, s.sync = ev.Time(), ev.Time()
	}
	s.now = max(s.now, ev.Time())
	switch ev.Kind() {
	case trace.EventSync:
		s.sync = s.now
	case trace.EventMetric:
		if m := ev.Metric(); m.Name == "/sched/gomaxprocs:threads" && m.Value.Kind() == trace.ValueUint64 {
			s.maxProcs = max(s.maxProcs, int(min(m.Value.Uint64(), 1<<20)))
		}
	case trace.EventStateTransition:
		st := ev.StateTransition()
		switch st.Resource.Kind {
		case trace.ResourceGoroutine:
			s.transition(st)
		case trace.ResourceProc:
			s.procs[st.Resource.Proc()] = true
		}
	case trace.EventRangeBegin, trace.EventRangeActive, trace.EventRangeEnd:
		s.ranges(ev)
	}
}

// transition adds the time in the state that a goroutine leaves, and begins the next.
func (s *summer) transition(st trace.StateTransition) {
	id := st.Resource.Goroutine()
	from, to := st.Goroutine()
	l := s.alive[id]
	if l == nil {
		if to == trace.GoNotExist {
			return
		}
		if len(s.alive) >= s.lim.Alive {
			s.lost++
			return
		}
		l = &life{Goroutine: Goroutine{ID: int64(id)}, begun: s.now, state: to, since: s.now}
		if from == trace.GoUndetermined {
			// It was there before, in this state already: since the last
			// synchronization at least, which is the window's begin for all but broken traces.
			l.begun, l.since = s.sync, s.sync
		}
		s.alive[id] = l
		s.seen++
	} else if from != to {
		l.leave(s.now)
		l.state, l.since = to, s.now
		if to == trace.GoRunning {
			l.Runs++
		}
	}
	if l.Entry == "" || wrappers[l.Entry] {
		l.Entry = cmp.Or(entry(st.Stack), l.Entry)
	}
	if to == trace.GoWaiting && (from != to || l.reason == "") {
		l.reason = st.Reason
		if l.reason == "" { // a trace that begins while it waits does not say why
			l.reason = reasonOf(st.Stack)
		}
	}
	if to == trace.GoNotExist {
		s.end(l)
		delete(s.alive, id)
	}
}

// leave adds the time in the present state, up to now.
func (l *life) leave(now trace.Time) {
	d := now.Sub(l.since)
	switch l.state {
	case trace.GoRunning:
		l.Run += d
	case trace.GoRunnable:
		l.Runnable += d
		l.RunnableMax = max(l.RunnableMax, d)
	case trace.GoSyscall:
		l.Syscall += d
	case trace.GoWaiting:
		if l.Blocked == nil {
			l.Blocked = map[string]time.Duration{}
		}
		l.Blocked[cmp.Or(l.reason, reasonUnknown)] += d
		l.reason = ""
	default:
		l.Unknown += d
	}
	l.since = now
}

// end adds a goroutine that has ended, or that the window ends for, to the sums.
func (s *summer) end(l *life) {
	l.Lifetime = s.now.Sub(l.begun)
	l.assist.close(s.now, &l.Assist)
	if l.Blocked == nil {
		l.Blocked = map[string]time.Duration{}
	}
	if l.Entry == "" {
		l.Entry = "(not known)"
	}
	s.sum.add(&l.Times)
	g := s.group[l.Entry]
	if g == nil {
		name := l.Entry
		if len(s.group) >= 10*s.lim.Group {
			name = "other"
		}
		if g = s.group[name]; g == nil {
			g = &Group{Entry: name, System: strings.HasPrefix(name, "runtime.") && name != "runtime.main"}
			s.group[name] = g
		}
	}
	g.Count++
	g.Times.add(&l.Times)
	if s.top = append(s.top, l.Goroutine); len(s.top) >= 4*s.lim.Top {
		s.cutTop()
	}
}

func (t *Times) add(o *Times) {
	t.Lifetime += o.Lifetime
	t.Run += o.Run
	t.Runnable += o.Runnable
	t.RunnableMax = max(t.RunnableMax, o.RunnableMax)
	t.Syscall += o.Syscall
	t.Unknown += o.Unknown
	t.Assist += o.Assist
	t.Runs += o.Runs
	if t.Blocked == nil {
		t.Blocked = map[string]time.Duration{}
	}
	for r, d := range o.Blocked {
		t.Blocked[r] += d
	}
}

// weight orders goroutines and groups: what wanted a processor, then what was there.
func weigh(a, b *Times) int {
	return cmp.Or(cmp.Compare(b.Run+b.Runnable, a.Run+a.Runnable), cmp.Compare(b.Lifetime, a.Lifetime))
}

func (s *summer) cutTop() {
	slices.SortFunc(s.top, func(a, b Goroutine) int { return cmp.Or(weigh(&a.Times, &b.Times), cmp.Compare(a.ID, b.ID)) })
	s.top = s.top[:min(len(s.top), s.lim.Top)]
}

// ranges adds up what has a begin and an end: marking, assists, and stops of the world.
func (s *summer) ranges(ev *trace.Event) {
	r := ev.Range()
	since := s.now
	if ev.Kind() == trace.EventRangeActive {
		since = s.sync // it goes on already
	}
	ends := ev.Kind() == trace.EventRangeEnd
	switch {
	case r.Name == "GC concurrent mark phase":
		if ends {
			s.marking.close(s.now, &s.gc.Marking)
		} else if s.marking.begin(since) {
			s.gc.Cycles++
		}
	case r.Name == "GC mark assist" && r.Scope.Kind == trace.ResourceGoroutine:
		l := s.alive[r.Scope.Goroutine()]
		switch {
		case l == nil:
		case ends:
			l.assist.close(s.now, &l.Assist)
		default:
			l.assist.begin(max(since, l.begun))
		}
	case strings.HasPrefix(r.Name, "stop-the-world") && r.Scope.Kind == trace.ResourceGoroutine:
		id := r.Scope.Goroutine()
		if ends {
			s.started(id)
		} else if _, on := s.stw[id]; !on && len(s.stw) < 1000 { // one, but for made-up traces
			s.stw[id] = since
			s.gc.STWCount++
		}
	}
}

func (s *summer) started(by trace.GoID) {
	since, on := s.stw[by]
	if !on {
		return
	}
	delete(s.stw, by)
	d := s.now.Sub(since)
	s.gc.STW += d
	s.gc.STWMax = max(s.gc.STWMax, d)
}

func (o *open) begin(at trace.Time) bool {
	if o.on {
		return false
	}
	*o = open{true, at}
	return true
}

func (o *open) close(at trace.Time, into *time.Duration) {
	if o.on {
		*into += at.Sub(o.since)
		o.on = false
	}
}

// summary ends the window and what still goes on in it.
func (s *summer) summary() Summary {
	for _, l := range s.alive {
		l.leave(s.now)
		s.end(l)
	}
	for id := range s.stw {
		s.started(id)
	}
	s.marking.close(s.now, &s.gc.Marking)
	s.cutTop()
	if s.lost > 0 {
		s.warn("there were more goroutines at once than can be told apart; the rest is left out")
	}
	if s.sum.Blocked == nil {
		s.sum.Blocked = map[string]time.Duration{}
	}
	out := Summary{
		Window: s.now.Sub(s.start), Procs: s.maxProcs, Events: s.events, Goroutines: s.seen, Times: s.sum, GC: s.gc,
		Groups: []Group{}, Top: append([]Goroutine{}, s.top...), Truncated: len(s.warnings) > 0, Warnings: append([]string{}, s.warnings...),
	}
	if out.Procs == 0 {
		out.Procs = len(s.procs)
	}
	for _, g := range s.group {
		out.Groups = append(out.Groups, *g)
	}
	slices.SortFunc(out.Groups, func(a, b Group) int { return cmp.Or(weigh(&a.Times, &b.Times), cmp.Compare(a.Entry, b.Entry)) })
	if len(out.Groups) > s.lim.Group {
		other := Group{Entry: "other"}
		for i := range out.Groups[s.lim.Group:] {
			g := &out.Groups[s.lim.Group+i]
			other.Count += g.Count
			other.Times.add(&g.Times)
		}
		out.Groups = append(out.Groups[:s.lim.Group:s.lim.Group], other)
		out.Truncated = true
		out.Warnings = append(out.Warnings, "there were more entry functions than are told; the rest is in the group other")
	}
	return out
}

// wrappers are functions that only call what they were given: a goroutine that
// begins with one is named by what it calls.
var wrappers = map[string]bool{
	"sync.(*WaitGroup).Go.func1":                   true,
	"golang.org/x/sync/errgroup.(*Group).Go.func1": true,
	"runtime/pprof.Do":                             true,
	"runtime.main":                                 true,
}

// entry is the function that a goroutine with this stack began with.
func entry(stack trace.Stack) string {
	root, above := "", ""
	for f := range stack.Frames() {
		if f.Func == "" || f.Func == "runtime.goexit" {
			continue
		}
		if root, above = f.Func, root; wrappers[root] && above != "" {
			root = above
		}
	}
	return root
}

const reasonUnknown = "unknown"

// reasons are the runtime's words (traceBlockReasonStrings of runtime/traceruntime.go) for what
// these functions block in, for goroutines that waited when the trace began.
var reasons = []struct{ prefix, reason string }{
	{"runtime.chanrecv", "chan receive"},
	{"runtime.chansend", "chan send"},
	{"runtime.selectgo", "select"},
	{"runtime.block", "forever"},
	{"time.Sleep", "sleep"},
	{"internal/poll.runtime_pollWait", "network"},
	{"sync.runtime_notifyListWait", "sync.(*Cond).Wait"},
	{"sync.runtime_Semacquire", "sync"},
	{"internal/sync.runtime_Semacquire", "sync"},
	{"runtime.gcBgMarkWorker", "system goroutine wait"},
	{"runtime.bgsweep", "GC background sweeper wait"},
	{"runtime.bgscavenge", "system goroutine wait"},
	{"runtime.forcegchelper", "system goroutine wait"},
	{"runtime.runFinalizers", "system goroutine wait"},
	{"runtime.runfinq", "system goroutine wait"},
}

func reasonOf(stack trace.Stack) string {
	for f := range stack.Frames() {
		for _, r := range reasons {
			if strings.HasPrefix(f.Func, r.prefix) {
				return r.reason
			}
		}
	}
	return reasonUnknown
}
