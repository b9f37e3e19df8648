package console

import (
	"math"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// What a thing in memory is counted as, in bytes beside its texts: its struct and its share of the map that has it (Go 1.26, 64 bits, measured
// by TestMemory).
const (
	taskBytes     = 280
	opBytes       = 130
	resourceBytes = 150
	metaBytes     = 200
	siteBytes     = 300
)

// Bounds of what one program may send.
const (
	maxText   = 256 // bytes of a name; the rest is cut off
	maxFields = 64  // of a task, and names of fields of metadata
)

// budget is what all programs hold together.
type budget struct {
	limit int64
	used  atomic.Int64
}

func (b *budget) take(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

// Dropped counts events that the program itself threw away, as its buffer was full: what is shown may lack something.
type Dropped struct {
	Tasks     uint64 `json:"tasks"`
	Resources uint64 `json:"resources"`
	Ops       uint64 `json:"async_ops"`
}

// model is what is known of one program: its live tasks, what they wait for, and what has come together since the last profile. Who has it
// sees to it that one goroutine at a time does.
//
// What is past a bound is left out and counted. Times are nanoseconds since 1970 by the program's clock, 0 where there is none.
type model struct {
	limit  int64 // bytes
	shared *budget
	bytes  int64

	metas     map[uint64]*meta
	tasks     map[uint64]*task
	ops       map[uint64]*op
	resources map[uint64]*resource
	sites     map[siteKey]*site

	now     int64 // of the last update
	updates uint64
	dropped Dropped
	leftOut uint64 // tasks, operations and resources past the bound
}

func newModel(limit int64, shared *budget) *model {
	return &model{
		limit: limit, shared: shared,
		metas: map[uint64]*meta{}, tasks: map[uint64]*task{}, ops: map[uint64]*op{}, resources: map[uint64]*resource{}, sites: map[siteKey]*site{},
	}
}

// close gives back what the model holds. It is of no use after.
func (m *model) close() {
	m.shared.used.Add(-m.bytes)
	*m = model{shared: m.shared}
}

// charge counts n bytes more, or says that they are too many.
func (m *model) charge(n int64) bool {
	if n > 0 && (m.bytes+n > m.limit || !m.shared.take(n)) {
		m.leftOut++
		return false
	}
	if n <= 0 {
		m.shared.used.Add(n)
	}
	m.bytes += n
	return true
}

// meta describes spans of the program: what a task's fields are called, and whose it is.
type meta struct {
	target string
	fields []string
	bytes  int64
}

// siteKey is a place where tasks are spawned, and as what.
type siteKey struct {
	file         string
	line, column uint32
	kind, name   string
}

// site sums the tasks of one place.
type site struct {
	siteKey
	live   int
	window figures // since the last profile, of what has ended and of what lives
	bytes  int64
}

// figures are what is counted of tasks. Times are nanoseconds.
type figures struct {
	busy, scheduled         int64
	polls, wakes, selfWakes uint64
	spawned, ended          uint64
}

func (f *figures) add(g figures) {
	f.busy = plus(f.busy, g.busy)
	f.scheduled = plus(f.scheduled, g.scheduled)
	f.polls += g.polls
	f.wakes += g.wakes
	f.selfWakes += g.selfWakes
	f.spawned += g.spawned
	f.ended += g.ended
}

// stats are a task's figures since it was spawned.
type stats struct {
	created, dropped        int64
	lastWake                int64
	pollStarted, pollEnded  int64
	busy, scheduled         int64 // of polls that have ended, and of waits for one that have
	polls, wakes, selfWakes uint64
	wakerClones, wakerDrops uint64
}

// task is a task that lives.
type task struct {
	id       uint64 // its span's, by which the program speaks of it
	number   uint64 // tokio's own; 0 if the program does not say
	target   string
	parent   uint64 // the span of the task that spawned it, 0 if it is not known
	size     uint64 // of its future in bytes; 0 if it is not known
	original uint64 // the same before the runtime moved it to the heap
	site     *site
	stats    stats
	counted  figures // of stats what is in the site's window already
	bytes    int64
}

// op is an operation that a task waits for: to acquire a semaphore, to receive.
type op struct {
	source           string
	resource, parent uint64
	task             uint64 // the last that polled it
	polled           int64
	bytes            int64
}

// resource is what operations are on: a timer, a semaphore.
type resource struct {
	typ, kind string
	internal  bool // a part of another one
	file      string
	line      uint32
	bytes     int64
}

// state of a task, in the words of tokio's own console.
const (
	stateRunning   = "running"
	stateScheduled = "scheduled" // woken, and not polled yet
	stateIdle      = "idle"
)

func (t *task) running() bool { return t.stats.pollStarted > t.stats.pollEnded }

// awakened says that the runtime will poll it: it was woken since, or never polled.
func (t *task) awakened() bool { return t.stats.polls == 0 || t.stats.lastWake > t.stats.pollStarted }

func (t *task) state() string {
	switch {
	case t.running():
		return stateRunning
	case t.stats.lastWake > t.stats.pollStarted || t.stats.polls == 0:
		return stateScheduled
	}
	return stateIdle
}

// blocking says that its code is no future: it is not polled again and again.
func (t *task) blocking() bool { return t.site.kind == kindBlocking || t.site.kind == kindBlockOn }

func (t *task) wakers() uint64 {
	if t.stats.wakerDrops > t.stats.wakerClones {
		return 0
	}
	return t.stats.wakerClones - t.stats.wakerDrops
}

// busy is how long it has been polled, up to now where a poll is under way.
func (t *task) busy(now int64) int64 {
	if t.running() {
		return plus(t.stats.busy, max(0, now-t.stats.pollStarted))
	}
	return t.stats.busy
}

// scheduled is how long it has waited to be polled, up to now where it waits.
func (t *task) scheduled(now int64) int64 {
	if !t.running() && t.stats.lastWake > t.stats.pollStarted {
		return plus(t.stats.scheduled, max(0, now-max(t.stats.lastWake, t.stats.pollEnded)))
	}
	return t.stats.scheduled
}

// idle is how long it has waited for something to wake it.
func (t *task) idle(now int64) int64 {
	return max(0, now-t.stats.created-plus(t.busy(now), t.scheduled(now)))
}

// waiting is since when it has waited for what wakes it, 0 where it does not.
func (t *task) waiting(now int64) time.Duration {
	if t.state() != stateIdle {
		return 0
	}
	return time.Duration(max(0, now-max(t.stats.pollEnded, t.stats.created)))
}

// figures are a task's now.
func (t *task) figures(now int64) figures {
	return figures{busy: t.busy(now), scheduled: t.scheduled(now), polls: t.stats.polls, wakes: t.stats.wakes, selfWakes: t.stats.selfWakes}
}

// advance brings what t has done since into its site's window. What a program takes back is not taken off: a profile counts up.
func (t *task) advance(now int64) {
	f := t.figures(now)
	t.site.window.add(figures{
		busy: max(0, f.busy-t.counted.busy), scheduled: max(0, f.scheduled-t.counted.scheduled),
		polls: since(f.polls, t.counted.polls), wakes: since(f.wakes, t.counted.wakes), selfWakes: since(f.selfWakes, t.counted.selfWakes),
	})
	t.counted = figures{
		busy: max(f.busy, t.counted.busy), scheduled: max(f.scheduled, t.counted.scheduled),
		polls: max(f.polls, t.counted.polls), wakes: max(f.wakes, t.counted.wakes), selfWakes: max(f.selfWakes, t.counted.selfWakes),
	}
}

// plus adds two times that are not negative. A program that tells of thousands of years has no sum that fits.
func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

func since(now, before uint64) uint64 {
	if now < before {
		return 0
	}
	return now - before
}

// remove takes a task out that has ended, or whose id another one has now.
func (m *model) remove(t *task) {
	t.advance(m.now)
	t.site.live--
	if m.updates > 1 {
		t.site.window.ended++
	}
	delete(m.tasks, t.id)
	m.charge(-t.bytes)
}

// siteOf is the place of a task, nil where there is no room for it.
func (m *model) siteOf(k siteKey) *site {
	s := m.sites[k]
	if s == nil {
		n := siteBytes + int64(len(k.file)+len(k.kind)+len(k.name))
		if !m.charge(n) {
			return nil
		}
		s = &site{siteKey: k, bytes: n}
		m.sites[k] = s
	}
	return s
}

// rest forgets the places where nothing lives and nothing has happened, and begins the next window.
func (m *model) rest() {
	for k, s := range m.sites {
		s.window = figures{}
		if s.live == 0 {
			delete(m.sites, k)
			m.charge(-s.bytes)
		}
	}
}

// cut is a name within its bound, at a whole character. It keeps nothing of a longer one alive.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	n := maxText
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.Clone(s[:n])
}
