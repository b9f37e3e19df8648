package integrity

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Look says how a look is taken.
type Look struct {
	// Full reads every file. Without it a file whose size, inode and times are those of the baseline is taken as unchanged: the change time
	// is the kernel's, so what fools it is writing to the disk below the file system, or setting the clock back.
	Full bool
	// Workers is how many files are read at a time; 0 is one for each processor, or one where Pace.Yield is set.
	Workers int
	Pace    Pace
	// Rules say how bad changes are; nil is the defaults.
	Rules *Rules
	// MaxChanges bounds what a report keeps; more are counted. 0 is 1 << 20.
	MaxChanges int
}

func (l *Look) workers() int {
	switch {
	case l.Workers > 0:
		return l.Workers
	case l.Pace.Yield:
		return 1
	}
	return runtime.GOMAXPROCS(0)
}

// racyWindow is how long after a change another may bear the same time: FAT has 2 s, and all else less.
const racyWindow = 2 * time.Second

// inFlight is how many entries a scan holds at most between its walk and what it tells.
const inFlight = 256

// seen is what a scan tells of a path.
type seen struct {
	before, after *Entry // nil: it is not in the baseline, not there
	problem       error
}

// tally is what a scan did.
type tally struct {
	entries int64 // that are there
	hashed  int64 // files
	bytes   int64
}

// job is a seen on its way, and what is still to be looked at.
type job struct {
	seen
	in     *folder // nil: nothing to look at
	name   string
	looked time.Time
	done   chan struct{} // closed when it is; nil: it always was
}

// scan walks paths (nil: the roots), compares each with the baseline's entries, and tells all of both once, in the order of paths: tell is called by
// one goroutine. base may have no file (a Header alone): nothing is compared. enter is as in walker.
func scan(ctx context.Context, base *Baseline, paths []string, l Look, enter func(string, *folder), tell func(seen) error) (tally, error) {
	if paths == nil {
		paths = base.Roots
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &scanner{base: base, look: l, ctx: ctx, pace: newPacer(l.Pace), queue: make(chan *job, inFlight), work: make(chan *job, inFlight)}
	var wg sync.WaitGroup
	hashers := make([]*hasher, l.workers())
	for i := range hashers {
		hashers[i] = newHasher(base.Algorithm, s.pace)
		wg.Go(func() {
			for j := range s.work {
				s.finish(j, hashers[i])
			}
		})
	}
	wg.Go(func() {
		defer close(s.queue)
		defer close(s.work)
		s.own = newHasher(base.Algorithm, s.pace)
		if err := s.walk(paths, enter); err != nil {
			cancel(err)
		}
	})
	var t tally
	for j := range s.queue {
		if j.done != nil {
			<-j.done
		}
		if ctx.Err() != nil {
			continue // all are taken, so that nobody waits
		}
		if j.before == nil && j.after == nil && j.problem == nil {
			continue
		}
		if j.after != nil {
			t.entries++
		}
		if err := tell(j.seen); err != nil {
			cancel(err)
		}
	}
	wg.Wait()
	for _, h := range hashers {
		t.bytes += h.read
	}
	t.hashed = s.hashed.Load()
	if ctx.Err() != nil {
		return t, context.Cause(ctx)
	}
	return t, nil
}

// walk queues all that is in the trees and in the baseline.
func (s *scanner) walk(paths []string, enter func(string, *folder)) error {
	w := &walker{h: &s.base.Header, exclude: s.base.exclude, pace: s.pace, enter: enter}
	for _, p := range paths {
		m := &merge{s: s, within: p, c: s.base.from(p)}
		if err := m.advance(); err != nil {
			return err
		}
		w.visit = m.visit
		if err := w.start(s.ctx, p); err != nil {
			return err
		}
		if err := m.rest(""); err != nil { // all that is left
			return err
		}
	}
	return nil
}

// merge goes over a tree and the baseline's entries of it side by side.
type merge struct {
	s      *scanner
	c      *cursor
	within string
	next   *Entry // of the baseline; nil: no more
	blind  string // what is below is not known
}

// advance takes the baseline's next entry of the tree.
func (m *merge) advance() (err error) {
	for {
		if m.next, err = m.c.next(); err != nil || m.next == nil {
			return err
		}
		if within(m.next.Path, m.within) {
			if m.blind != "" && within(m.next.Path, m.blind) {
				continue
			}
			return nil
		}
		if compare(m.next.Path, m.within) > 0 {
			m.next = nil
			return nil
		}
	}
}

// rest says of the baseline's entries before path ("": all) that they are gone.
func (m *merge) rest(path string) error {
	for m.next != nil && (path == "" || compare(m.next.Path, path) < 0) {
		if err := m.s.put(&job{seen: seen{before: m.next}}); err != nil {
			return err
		}
		if err := m.advance(); err != nil {
			return err
		}
	}
	return nil
}

func (m *merge) visit(it item) error {
	path := it.e.Path
	if it.e.Type == 0 { // only that it could not be looked at
		if it.blind {
			if err := m.rest(path); err != nil {
				return err
			}
			m.blind = path
			if m.next != nil && within(m.next.Path, path) {
				if err := m.advance(); err != nil {
					return err
				}
			}
		}
		return m.s.put(&job{seen: seen{problem: Problem{path, it.problem}}})
	}
	if err := m.rest(path); err != nil {
		return err
	}
	j := &job{seen: seen{after: it.e}, name: it.name, looked: it.looked}
	if it.problem != nil {
		j.problem = Problem{path, it.problem}
	}
	if it.blind {
		m.blind = path
	}
	if m.next != nil && (m.next.Path == path || it.blind && within(m.next.Path, path)) {
		if m.next.Path == path {
			j.before = m.next
		}
		if err := m.advance(); err != nil {
			return err
		}
	}
	return m.s.judge(j, it.in)
}

// scanner is a scan under way.
type scanner struct {
	base   *Baseline
	look   Look
	ctx    context.Context
	pace   *pacer
	own    *hasher // the walk's own, for what is not worth a hand-over
	queue  chan *job
	work   chan *job
	hashed atomic.Int64
}

// put queues what needs no look.
func (s *scanner) put(j *job) error {
	select {
	case s.queue <- j:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// judge decides what of an entry must be looked at, and queues it.
func (s *scanner) judge(j *job, in *folder) error {
	e, b := j.after, j.before
	switch {
	case in == nil: // a mount, or a directory that cannot be opened
		return s.put(j)
	case e.Type == Directory:
		// An access list changes none of the times that are kept of a directory, so it is always read.
		j.in = in
		s.settle(j, s.own)
		return s.put(j)
	case !s.look.Full && b != nil && !b.Racy && !b.Unread && same(b, e):
		e.Hash, e.Target, e.XAttrs = b.Hash, b.Target, b.XAttrs
		return s.put(j)
	}
	j.in, j.done = in.retain(), make(chan struct{})
	if err := s.put(j); err != nil {
		j.in.release()
		return err
	}
	s.work <- j // it has room for all that the queue has, or a worker takes it
	return nil
}

// finish is a worker's part of a job.
func (s *scanner) finish(j *job, h *hasher) {
	s.settle(j, h)
	j.in.release()
	close(j.done)
}

// settle looks at what a job is about, again while it changes.
func (s *scanner) settle(j *job, h *hasher) {
	e := j.after
	for n := 1; ; n++ {
		err := j.in.look(s.ctx, j.name, e, h)
		switch {
		case err == nil:
			if e.Type == Regular {
				s.hashed.Add(1)
			}
			changed := e.CTime
			if changed == 0 {
				changed = e.MTime
			}
			e.Racy = e.Type != Directory && changed > j.looked.Add(-racyWindow).UnixNano()
			return
		case absent(err) && e.Type != Directory && !errors.Is(err, errMoved):
			j.after, j.problem = nil, nil // it is gone
			return
		case errors.Is(err, errMoved) && n < tries && e.Type != Directory:
			j.looked = time.Now()
			again, err := j.in.stat(j.name)
			if absent(err) {
				j.after, j.problem = nil, nil
				return
			}
			if err == nil && again.Type != Directory {
				again.Path = e.Path
				*e = *again
				continue
			}
			if err == nil {
				err = errMoved // into a folder, which only a new walk goes through
			}
			j.unread(err)
			return
		default:
			j.unread(err)
			return
		}
	}
}

// unread says that what is behind the metadata could not be told.
func (j *job) unread(err error) {
	e := j.after
	e.Unread, e.Hash, e.Target, e.XAttrs = true, Hash{}, "", nil
	j.problem = Problem{e.Path, err}
}

// Report is what a check found.
type Report struct {
	Baseline Mark      `json:"baseline"`
	Created  time.Time `json:"created"` // the baseline
	Full     bool      `json:"full"`
	Entries  int64     `json:"entries"` // that are there
	Hashed   int64     `json:"hashed"`  // files
	Bytes    int64     `json:"bytes"`   // of them
	Seconds  float64   `json:"seconds"`
	// Changes are in the order of paths, without those that rules ignore.
	Changes  []*Change `json:"changes"`
	Ignored  int       `json:"ignored"`        // by rules
	More     int       `json:"more,omitempty"` // changes past the bound
	Problems []Problem `json:"problems"`       // what could not be told: at most maxProblems
	// MoreProblems counts those past the bound.
	MoreProblems int `json:"more_problems,omitempty"`
}

const maxProblems = 1000

func (r *Report) problem(err error) {
	var p Problem
	if !errors.As(err, &p) {
		p = Problem{Err: err}
	}
	if len(r.Problems) == maxProblems {
		r.MoreProblems++
		return
	}
	r.Problems = append(r.Problems, p)
}

// judged pairs renames, and gives each change its severity.
func (l *Look) judged(changes []*Change) (told []*Change, ignored int) {
	for _, c := range Pair(changes) {
		if c.Severity = l.Rules.Severity(c); c.Severity == Ignore {
			ignored++
			continue
		}
		told = append(told, c)
	}
	return told, ignored
}

// Check compares what is there with the baseline. Each difference is in the report once; what could not be told is among its problems. An error is
// that there is no report at all.
func (b *Baseline) Check(ctx context.Context, l Look) (*Report, error) {
	start := time.Now()
	r := &Report{Baseline: b.Mark, Created: b.Created, Full: l.Full, Changes: []*Change{}, Problems: []Problem{}}
	most := l.MaxChanges
	if most == 0 {
		most = 1 << 20
	}
	var changes []*Change
	t, err := scan(ctx, b, nil, l, nil, func(s seen) error {
		if s.problem != nil {
			r.problem(s.problem)
		}
		if s.before == nil && s.after == nil {
			return nil
		}
		if c := change(s.before, s.after); c != nil {
			if len(changes) == most {
				r.More++
				return nil
			}
			changes = append(changes, c)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("integrity: check: %w", err)
	}
	told, ignored := l.judged(changes)
	r.Changes, r.Ignored = append(r.Changes, told...), ignored
	r.Entries, r.Hashed, r.Bytes, r.Seconds = t.entries, t.hashed, t.bytes, time.Since(start).Seconds()
	return r, nil
}

// Diff is how b differs from an older baseline, in the order of paths.
func (b *Baseline) Diff(old *Baseline, rules *Rules) ([]*Change, error) {
	x, y := old.from(""), b.from("")
	p, err := x.next()
	if err != nil {
		return nil, err
	}
	q, err := y.next()
	if err != nil {
		return nil, err
	}
	var changes []*Change
	for p != nil || q != nil {
		before, after := p, q
		switch {
		case p == nil || q != nil && compare(q.Path, p.Path) < 0:
			before = nil
		case q == nil || compare(p.Path, q.Path) < 0:
			after = nil
		}
		if c := change(before, after); c != nil {
			changes = append(changes, c)
		}
		if before != nil {
			if p, err = x.next(); err != nil {
				return nil, err
			}
		}
		if after != nil {
			if q, err = y.next(); err != nil {
				return nil, err
			}
		}
	}
	l := Look{Rules: rules}
	told, _ := l.judged(changes)
	return told, nil
}
