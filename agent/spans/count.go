package spans

import (
	"hash/maphash"
	"math/bits"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	// MaxNames bounds the operations, and the pairs of events, that are counted by name; spans of further
	// ones are counted as "other".
	MaxNames = 1000
	// MaxPaths bounds the distinct paths of operations; spans on further ones are counted as "other".
	MaxPaths = 2000
	// MaxDepth is how many operations a path has. A span further in takes the last place of it.
	MaxDepth = 16

	maxOctaves  = 4096 // of all histograms together: 0.8 MB, and at most eight samples of the profile each
	maxEvents   = 128  // of a span, the SDK's own default limit
	maxNameByte = 1024 // of a name, where Options.MaxOperation sets no limit
	arrow       = " -> "

	otherName   = "other"
	forgotten   = "(forgotten)" // above spans whose start was not seen, or is forgotten
	unnamed     = "(unnamed)"
	eventsFile  = "event"     // the source file of a frame that is a pair of events
	exceptions  = "exception" // semantic conventions' name of an event that is an error, which is no state
	liveShards  = 64
	tableHeads  = 1024
	dropMapFrom = 1024 // a shard's map that had so many is let go when it is empty: maps do not shrink
)

// counts is what is known of the spans that have ended. Nothing leaves its tables, so that its totals only grow.
//
// Lock order: a shard's lock is the only one, and nothing is called under it. The tables take none: a list's head
// changes by compare and swap and what is in a list never moves.
type counts struct {
	seed    maphash.Seed
	cut     int // bytes of a name
	stopped atomic.Bool

	maxLive int64
	nlive   atomic.Int64
	shards  [liveShards]shard // by trace: a span and its parent have one lock

	frames                      [tableHeads]atomic.Pointer[frame]
	nframes                     atomic.Int64
	ids                         atomic.Uint64 // of frames
	other, otherEvent, orphaned *frame        // without a list

	paths     [tableHeads]atomic.Pointer[path]
	npaths    atomic.Int64
	rest      *path // of spans past MaxPaths
	orphans   *path // above spans whose start was not seen
	noctaves  atomic.Int64
	ended     atomic.Uint64
	unseen    atomic.Uint64
	elsewhere atomic.Uint64 // counted as "other"
}

// shard has the spans that live.
type shard struct {
	mu             sync.Mutex
	live           map[spanKey]*counted
	peak           int
	oldest, newest *counted
}

// counted is a span that lives. up is its parent if that lived when it began; one that has ended refers to no other.
type counted struct {
	key          spanKey
	path         *path
	inside       int64 // ns that spans inside of it took
	up           *counted
	older, newer *counted
}

// frame is an operation, or two events of which one follows the other. Its id is the address of its frames in the profile.
type frame struct {
	next     *frame
	hash     uint64
	name, to string // as they came
	text     string
	event    bool
	id       uint64
}

// path is operations from a root to here.
type path struct {
	next  *path
	hash  uint64
	up    *path // nil at a root
	frame *frame
	depth int
	// by status: 0 is well, 1 is error
	durations [2]atomic.Pointer[histogram]
	rest      [2]cell // what found no room in a histogram
}

// cell is what is counted of one bucket of one path.
type cell struct{ count, duration, self atomic.Int64 } // ns

// A bucket has durations above its lower bound up to its upper one. There are eight in each octave, of one width: so a duration
// is at most 1/16 off its bucket's middle, by 6.25 % of the bucket's lower bound. Durations to 16 ns have a bucket each.
const (
	perOctave = 8
	// octaves ends at 2^50 ns, 13 days; the last bucket has what is longer, too.
	octaves = 48
)

type (
	histogram struct {
		octaves [octaves]atomic.Pointer[octave]
	}
	octave [perOctave]cell
)

// bucketOf is the octave, and the bucket in it, of a duration.
func bucketOf(ns int64) (o, slot int) {
	u := uint64(max(ns, 1) - 1) // so that a bucket's upper bound is in it
	if u < perOctave {
		return 0, int(u)
	}
	e := bits.Len64(u) - 4 // u>>e is 8 to 15
	if e+1 >= octaves {
		return octaves - 1, perOctave - 1
	}
	return e + 1, int(u>>e) - perOctave
}

// upperBound is the longest duration of a bucket, in ns.
func upperBound(o, slot int) int64 {
	if o == 0 {
		return int64(slot) + 1
	}
	return int64(perOctave+slot+1) << (o - 1)
}

func newCounts(opt Options) *counts {
	c := &counts{seed: maphash.MakeSeed(), maxLive: int64(opt.MaxSpans), cut: opt.MaxOperation}
	if c.cut < 0 || c.cut > maxNameByte {
		c.cut = maxNameByte
	}
	c.other = &frame{text: otherName, id: c.ids.Add(1)}
	c.otherEvent = &frame{text: otherName, event: true, id: c.ids.Add(1)}
	c.orphaned = &frame{text: forgotten, id: c.ids.Add(1)}
	c.rest = &path{frame: c.other, depth: 1}
	c.orphans = &path{frame: c.orphaned, depth: 1}
	return c
}

func (c *counts) shard(id trace.TraceID) *shard {
	// Generators that are not all random are so at the end.
	return &c.shards[(id[15]^id[14])%liveShards]
}

// start takes note of a span that begins.
func (c *counts) start(s sdktrace.ReadOnlySpan) {
	sc := s.SpanContext()
	if !sc.IsSampled() || c.stopped.Load() {
		return
	}
	f := c.frame(cut(s.Name(), c.cut), "", false)
	key, up := keyOf(sc), s.Parent()
	l := &counted{key: key}
	sh := c.shard(key.trace)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if twin := sh.live[key]; twin != nil { // an id generator that repeats itself
		c.unlink(sh, twin)
	}
	if c.nlive.Add(1) > c.maxLive {
		if sh.oldest == nil {
			c.nlive.Add(-1)
			return // it will be one whose start was not seen
		}
		c.unlink(sh, sh.oldest)
	}
	if up.IsValid() && !up.IsRemote() {
		l.up = sh.live[keyOf(up)]
	}
	if l.up == nil {
		l.path = c.path(nil, f)
	} else {
		l.path = c.path(l.up.path, f)
	}
	if sh.live == nil {
		sh.live = map[spanKey]*counted{}
	}
	sh.live[key] = l
	sh.peak = max(sh.peak, len(sh.live))
	if l.older = sh.newest; l.older == nil {
		sh.oldest = l
	} else {
		l.older.newer = l
	}
	sh.newest = l
}

// end counts a span.
func (c *counts) end(s sdktrace.ReadOnlySpan) {
	sc := s.SpanContext()
	if !sc.IsSampled() || c.stopped.Load() {
		return
	}
	began, ended := s.StartTime(), s.EndTime()
	took := max(0, int64(ended.Sub(began))) // the program may set both
	self := took
	key := keyOf(sc)
	sh := c.shard(key.trace)
	sh.mu.Lock()
	l := sh.live[key]
	if l != nil {
		self = max(0, took-l.inside)
		if l.up != nil {
			l.up.inside += took
		}
		c.unlink(sh, l)
	}
	sh.mu.Unlock()
	var p *path
	if l != nil {
		p = l.path
	} else {
		c.unseen.Add(1)
		p = c.path(c.orphans, c.frame(cut(s.Name(), c.cut), "", false))
	}
	c.ended.Add(1)
	if p == c.rest || p.frame == c.other {
		c.elsewhere.Add(1)
	}
	status := 0
	if s.Status().Code == codes.Error {
		status = 1
	}
	c.add(p, status, took, self)
	c.events(p, status, s.Events())
}

// events counts the steps from each of a span's events to the next of another name: its states.
func (c *counts) events(p *path, status int, events []sdktrace.Event) {
	if p == c.rest {
		return // which counts spans
	}
	state, since := "", time.Time{}
	for _, e := range events[:min(len(events), maxEvents)] {
		if e.Name == state || e.Name == exceptions || e.Name == "" {
			continue
		}
		if state != "" {
			f := c.frame(cut(state, c.cut), cut(e.Name, c.cut), true)
			c.add(c.path(p, f), status, max(0, int64(e.Time.Sub(since))), 0)
		}
		state, since = e.Name, e.Time
	}
}

// unlink takes l out of its shard, under its lock.
func (c *counts) unlink(sh *shard, l *counted) {
	delete(sh.live, l.key)
	c.nlive.Add(-1)
	if l.older != nil {
		l.older.newer = l.newer
	} else {
		sh.oldest = l.newer
	}
	if l.newer != nil {
		l.newer.older = l.older
	} else {
		sh.newest = l.older
	}
	l.up, l.older, l.newer = nil, nil, nil
	if len(sh.live) == 0 && sh.peak >= dropMapFrom {
		sh.live, sh.peak = nil, 0
	}
}

// stop forgets all that live. What is counted stays, for the agent's last window.
func (c *counts) stop() {
	c.stopped.Store(true)
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		for sh.oldest != nil {
			c.unlink(sh, sh.oldest)
		}
		sh.mu.Unlock()
	}
}

// frame finds or makes the frame of a name, or of two events.
func (c *counts) frame(name, to string, event bool) *frame {
	hash := maphash.String(c.seed, name)
	if event {
		hash ^= bits.RotateLeft64(maphash.String(c.seed, to), 32) + 1
	}
	head := &c.frames[hash%tableHeads]
	var made *frame
	for {
		first := head.Load()
		for f := first; f != nil; f = f.next {
			if f.hash == hash && f.name == name && f.to == to && f.event == event {
				if made != nil {
					c.nframes.Add(-1)
				}
				return f
			}
		}
		if made == nil {
			if c.nframes.Add(1) > MaxNames {
				c.nframes.Add(-1)
				if event {
					return c.otherEvent
				}
				return c.other
			}
			// What came may be a piece of something large.
			made = &frame{hash: hash, name: strings.Clone(name), to: strings.Clone(to), event: event, id: c.ids.Add(1)}
			made.text = readable(name)
			if event {
				made.text += arrow + readable(to)
			}
		}
		made.next = first
		if head.CompareAndSwap(first, made) {
			return made
		}
	}
}

// readable is a name as the decoder of profiles would leave it.
func readable(name string) string {
	if name == "" {
		return unnamed
	}
	return strings.ToValidUTF8(name, "\uFFFD")
}

// path finds or makes the path on which f follows up, which is nil at a root.
func (c *counts) path(up *path, f *frame) *path {
	if up != nil && up.depth >= MaxDepth && !f.event {
		up = up.up
	}
	if up == c.rest {
		return c.rest
	}
	hash, depth := f.id*0x9e3779b97f4a7c15, 1 // 2^64 by the golden ratio, as Knuth multiplies
	if up != nil {
		hash, depth = (up.hash^f.id)*0x9e3779b97f4a7c15, up.depth+1
		hash ^= hash >> 29
	}
	head := &c.paths[(hash>>32)%tableHeads]
	var made *path
	for {
		first := head.Load()
		for p := first; p != nil; p = p.next {
			if p.up == up && p.frame == f {
				if made != nil {
					c.npaths.Add(-1)
				}
				return p
			}
		}
		if made == nil {
			if c.npaths.Add(1) > MaxPaths {
				c.npaths.Add(-1)
				return c.rest
			}
			made = &path{hash: hash, up: up, frame: f, depth: depth}
		}
		made.next = first
		if head.CompareAndSwap(first, made) {
			return made
		}
	}
}

// add counts one that took so many ns.
func (c *counts) add(p *path, status int, took, self int64) {
	cell := c.cell(p, status, took)
	cell.count.Add(1)
	cell.duration.Add(took)
	cell.self.Add(self)
}

func (c *counts) cell(p *path, status int, took int64) *cell {
	h := p.durations[status].Load()
	if h == nil {
		p.durations[status].CompareAndSwap(nil, &histogram{})
		h = p.durations[status].Load()
	}
	o, slot := bucketOf(took)
	oct := h.octaves[o].Load()
	if oct == nil {
		if c.noctaves.Add(1) > maxOctaves {
			c.noctaves.Add(-1)
			return &p.rest[status]
		}
		if !h.octaves[o].CompareAndSwap(nil, &octave{}) {
			c.noctaves.Add(-1)
		}
		oct = h.octaves[o].Load()
	}
	return &oct[slot]
}

// each calls f for every path.
func (c *counts) each(f func(*path)) {
	for i := range c.paths {
		for p := c.paths[i].Load(); p != nil; p = p.next {
			f(p)
		}
	}
	f(c.rest)
}

// cells calls f for every cell of a path that counts something. le is the longest duration that it counts, in ns; 0 is any.
func (p *path) cells(f func(status int, le int64, c *cell)) {
	for status := range p.durations {
		if h := p.durations[status].Load(); h != nil {
			for o := range h.octaves {
				oct := h.octaves[o].Load()
				if oct == nil {
					continue
				}
				for slot := range oct {
					if c := &oct[slot]; c.count.Load() > 0 {
						f(status, upperBound(o, slot), c)
					}
				}
			}
		}
		if c := &p.rest[status]; c.count.Load() > 0 {
			f(status, 0, c)
		}
	}
}
