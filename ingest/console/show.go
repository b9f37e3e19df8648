package console

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Bounds of what is shown of one program.
const (
	maxGroups = 2000 // the largest; the others are summed
	maxIDs    = 100  // of a group
	maxDeep   = 8    // operations that are parts of one another
	maxShown  = 10_000
)

// Snapshot is what the tasks of one program do, in the form in which agents tell of goroutines (docs/format/agents.md), so that one page shows
// both; what only tasks have comes after.
type Snapshot struct {
	Time      time.Time `json:"time"`    // when the program said so, by its clock
	Took      int64     `json:"took_ns"` // nothing stands still for it: 0
	Detail    string    `json:"detail"`  // full
	Total     int       `json:"total"`
	Truncated bool      `json:"truncated"` // something is left out past a bound
	Groups    []Group   `json:"groups"`    // the largest first

	Runtime   string          `json:"runtime"` // tokio
	Dropped   Dropped         `json:"dropped_events"`
	LeftOut   uint64          `json:"left_out"` // tasks, operations and resources that there was no room for
	Resources []ResourceGroup `json:"resources"`
}

// Group is tasks that were spawned in one place, and are in one state for the same operation.
type Group struct {
	Count   int            `json:"count"`
	State   string         `json:"state"`      // running, scheduled, idle
	WaitMax int            `json:"wait_max_s"` // seconds
	WaitMin int            `json:"wait_min_s"`
	Leaked  int            `json:"leaked,omitempty"` // they lost their wakers
	Stack   []Frame        `json:"stack"`            // the operation that is waited for first, the task itself last
	Creator *Frame         `json:"creator,omitempty"`
	Parents map[string]int `json:"parents,omitempty"`
	IDs     []uint64       `json:"ids,omitempty"` // of at most 100

	// Sums over the tasks since each was spawned.
	Busy      int64  `json:"busy_ns"`
	Scheduled int64  `json:"scheduled_ns"`
	Idle      int64  `json:"idle_ns"`
	Polls     uint64 `json:"polls"`
	Wakes     uint64 `json:"wakes"`
	SelfWakes uint64 `json:"self_wakes"`
	Wakers    uint64 `json:"wakers"`
	// Warnings are how many of them have which: see [SelfWakes].
	Warnings map[string]int `json:"warnings,omitempty"`
}

// Frame is a function, or what stands for one, and where it is.
type Frame struct {
	Func string `json:"func"`
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
}

// ResourceGroup is resources that were made in one place.
type ResourceGroup struct {
	Type     string `json:"type"` // Rust's
	Kind     string `json:"kind"` // timer, Sync, ...
	Internal bool   `json:"internal,omitempty"`
	File     string `json:"file,omitempty"`
	Line     uint32 `json:"line,omitempty"`
	Count    int    `json:"count"`
	Waiting  int    `json:"waiting"` // operations on them that have not ended
}

// Task is one task.
type Task struct {
	ID       uint64    `json:"id"` // tokio's own, where the program tells it
	Name     string    `json:"name,omitempty"`
	Kind     string    `json:"kind"` // task, blocking, block_on, local
	Target   string    `json:"target,omitempty"`
	Location string    `json:"location"` // file:line:column of where it was spawned
	State    string    `json:"state"`
	Waits    []string  `json:"waits_for,omitempty"` // the operation first, what it is a part of after
	Spawned  time.Time `json:"spawned"`

	Total     int64  `json:"total_ns"`
	Busy      int64  `json:"busy_ns"`
	Scheduled int64  `json:"scheduled_ns"`
	Idle      int64  `json:"idle_ns"`
	Polls     uint64 `json:"polls"`
	Wakes     uint64 `json:"wakes"`
	SelfWakes uint64 `json:"self_wakes"`
	Wakers    uint64 `json:"wakers"`
	Size      uint64 `json:"size_bytes,omitempty"`
	Original  uint64 `json:"original_size_bytes,omitempty"`

	Warnings []Warning `json:"warnings,omitempty"`
}

// spawnedBy is how a kind of task comes to be.
var spawnedBy = map[string]string{
	kindTask: "tokio::spawn", kindBlocking: "tokio::task::spawn_blocking", kindBlockOn: "tokio::runtime::block_on", kindLocal: "tokio::task::spawn_local",
}

// entry is what stands for the function of a place's tasks: their name, else where they were spawned, as the program does not tell it.
func (k siteKey) entry() string {
	switch {
	case k.name != "":
		return k.name
	case k.file == "":
		return "(task)"
	}
	return fmt.Sprintf("%s:%d", k.file, k.line)
}

func (k siteKey) spawner() string { return cmp.Or(spawnedBy[k.kind], k.kind, "(spawner not known)") }

func (k siteKey) location() string {
	if k.file == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d:%d", k.file, k.line, k.column)
}

func (t *task) shownID() uint64 { return cmp.Or(t.number, t.id) }

// waitsFor is for each task the operation that it polled last, of several that are parts of one another the innermost.
func (m *model) waitsFor() map[uint64]*op {
	outer := map[*op]bool{}
	for _, o := range m.ops {
		if p := m.ops[o.parent]; p != nil && p.task == o.task {
			outer[p] = true
		}
	}
	out := map[uint64]*op{}
	for _, o := range m.ops {
		if o.task == 0 || outer[o] {
			continue
		}
		if last := out[o.task]; last == nil || o.polled > last.polled || o.polled == last.polled && o.source < last.source {
			out[o.task] = o
		}
	}
	return out
}

// frames are what a task waits for and what that is a part of.
func (m *model) frames(o *op) (out []Frame) {
	for ; o != nil && len(out) < maxDeep; o = m.ops[o.parent] {
		f := Frame{Func: o.source}
		if r := m.resources[o.resource]; r != nil {
			f.File, f.Line = r.file, int(r.line)
			f.Func = cmp.Or(f.Func, r.typ)
		}
		out = append(out, f)
	}
	return out
}

// snapshot is what the tasks do.
func (m *model) snapshot() Snapshot {
	s := Snapshot{Time: time.Unix(0, m.now).UTC(), Detail: "full", Total: len(m.tasks), Runtime: "tokio", Dropped: m.dropped, LeftOut: m.leftOut,
		Truncated: m.leftOut > 0, Groups: []Group{}, Resources: m.resourceGroups()}
	waits := m.waitsFor()
	byKey := map[string]*Group{}
	var key strings.Builder
	for _, t := range m.tasks {
		var frames []Frame
		state := t.state()
		if state == stateIdle {
			frames = m.frames(waits[t.id])
		}
		key.Reset()
		fmt.Fprintf(&key, "%s\n%p", state, t.site)
		for _, f := range frames {
			fmt.Fprintf(&key, "\n%s\n%s\n%d", f.Func, f.File, f.Line)
		}
		g := byKey[key.String()]
		if g == nil {
			k := t.site.siteKey
			entry := Frame{k.entry(), k.file, int(k.line)}
			g = &Group{State: state, Stack: append(frames, entry), Creator: &Frame{k.spawner(), k.file, int(k.line)}}
			byKey[key.String()] = g
		}
		g.add(m, t)
	}
	for _, g := range byKey {
		slices.Sort(g.IDs)
		s.Groups = append(s.Groups, *g)
	}
	slices.SortFunc(s.Groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Stack[len(a.Stack)-1].Func, b.Stack[len(b.Stack)-1].Func),
			cmp.Compare(a.State, b.State), slices.Compare(a.IDs, b.IDs))
	})
	if len(s.Groups) > maxGroups {
		rest := Group{State: "other", Stack: []Frame{}}
		for _, g := range s.Groups[maxGroups:] {
			rest.Count += g.Count
			rest.Leaked += g.Leaked
			rest.WaitMax = max(rest.WaitMax, g.WaitMax)
		}
		s.Groups, s.Truncated = append(s.Groups[:maxGroups], rest), true
	}
	return s
}

// add counts a task among a group's.
func (g *Group) add(m *model, t *task) {
	wait := int(t.waiting(m.now) / time.Second)
	if g.Count == 0 || wait < g.WaitMin {
		g.WaitMin = wait
	}
	g.WaitMax = max(g.WaitMax, wait)
	g.Count++
	f := t.figures(m.now)
	g.Busy, g.Scheduled, g.Idle = plus(g.Busy, f.busy), plus(g.Scheduled, f.scheduled), plus(g.Idle, t.idle(m.now))
	g.Polls, g.Wakes, g.SelfWakes, g.Wakers = g.Polls+f.polls, g.Wakes+f.wakes, g.SelfWakes+f.selfWakes, g.Wakers+t.wakers()
	if len(g.IDs) < maxIDs {
		g.IDs = append(g.IDs, t.shownID())
	}
	for _, w := range t.lint(m.now) {
		if g.Warnings == nil {
			g.Warnings = map[string]int{}
		}
		g.Warnings[w.Code]++
		if w.Code == LostWaker {
			g.Leaked++
		}
	}
	if p := m.tasks[t.parent]; p != nil {
		if g.Parents == nil {
			g.Parents = map[string]int{}
		}
		g.Parents[p.site.entry()]++
	}
}

func (m *model) resourceGroups() []ResourceGroup {
	waiting := map[uint64]int{}
	for _, o := range m.ops {
		waiting[o.resource]++
	}
	sums := map[ResourceGroup]*ResourceGroup{}
	for id, r := range m.resources {
		k := ResourceGroup{Type: r.typ, Kind: r.kind, Internal: r.internal, File: r.file, Line: r.line}
		g := sums[k]
		if g == nil {
			g = &k
			sums[*g] = g
		}
		g.Count++
		g.Waiting += waiting[id]
	}
	out := []ResourceGroup{}
	for _, g := range sums {
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b ResourceGroup) int {
		return cmp.Or(cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Type, b.Type), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return out[:min(len(out), maxGroups)]
}

// list is single tasks: those with warnings first, then the busiest.
func (m *model) list(limit int) []Task {
	out := make([]Task, 0, len(m.tasks))
	waits := m.waitsFor()
	for _, t := range m.tasks {
		out = append(out, m.show(t, waits))
	}
	slices.SortFunc(out, func(a, b Task) int {
		return cmp.Or(cmp.Compare(len(b.Warnings), len(a.Warnings)), cmp.Compare(b.Busy, a.Busy), cmp.Compare(a.ID, b.ID))
	})
	return out[:min(len(out), limit)]
}

func (m *model) show(t *task, waits map[uint64]*op) Task {
	k, s := t.site.siteKey, &t.stats
	out := Task{ID: t.shownID(), Name: k.name, Kind: k.kind, Target: t.target, Location: k.location(), State: t.state(), Spawned: time.Unix(0, s.created).UTC(),
		Total: max(0, m.now-s.created), Busy: t.busy(m.now), Scheduled: t.scheduled(m.now), Idle: t.idle(m.now),
		Polls: s.polls, Wakes: s.wakes, SelfWakes: s.selfWakes, Wakers: t.wakers(), Size: t.size, Original: t.original, Warnings: t.lint(m.now)}
	if out.State == stateIdle {
		for _, f := range m.frames(waits[t.id]) {
			out.Waits = append(out.Waits, f.Func)
		}
	}
	return out
}

// find is the task with this id of [Task], nil if there is none.
func (m *model) find(id uint64) *task {
	for _, t := range m.tasks {
		if t.shownID() == id {
			return t
		}
	}
	return nil
}
