package integrity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options say how a [Monitor] watches. The zero value of each duration is its default.
type Options struct {
	Store *Store
	// Floor is a baseline that was in force: no older one is taken. The zero Mark is none.
	Floor Mark
	// Look is how looks are taken. Full is set by the monitor.
	Look Look
	// Every is how often everything is looked at by its times (default 10 min), Poll the same where the kernel does not tell of changes, or not of
	// all (1 min), and Rehash how often every file is read (24 h; < 0 is never).
	Every, Poll, Rehash time.Duration
	// Settle is how long a path is left alone after an event before it is looked at (default 250 ms), and at most eight times as long.
	Settle time.Duration
	// Blind does without the kernel's events.
	Blind bool
	// Record writes an event down, and Alert tells people: of Warning and worse. Both may be nil. An event that either refuses is found and told
	// again by the next look.
	Record, Alert func(context.Context, Event) error
	Logger        *slog.Logger // nil: none
}

const (
	// maxDeviations bounds what a monitor knows to differ. Past it a tree is another one, and that is said.
	maxDeviations = 1 << 17
	// reloadEvery is how often the monitor asks whether another baseline is in force.
	reloadEvery = 2 * time.Second
)

// Monitor keeps looking. What it has told it tells again only when it has changed further, or when it starts anew.
type Monitor struct {
	o   Options
	log *slog.Logger
	// openKernel opens what tells of changes; try is a folder that it must be able to watch.
	openKernel func(try *folder) (kernel, error)

	mu     sync.Mutex
	status Status

	// What follows belongs to Run's loop.
	base     *Baseline
	kernel   kernel
	pending  *pending
	differ   map[string]string // path -> ID of the change that was told
	problems map[string]string // path -> what was told
	refused  string            // what was told of a baseline that is not taken
	full     bool              // more than maxDeviations, which was told

	partMu  sync.Mutex
	partial error // why the kernel does not tell all; nil: it does
}

// Status is how a monitor does.
type Status struct {
	Baseline Mark      `json:"baseline"`
	Events   string    `json:"events"` // "fanotify", "inotify", or "" where it looks from time to time
	Watched  int       `json:"watched"`
	Partial  string    `json:"partial,omitempty"` // why some folders are only looked at from time to time
	Looked   time.Time `json:"looked"`            // all of it, by its times at the least
	Rehashed time.Time `json:"rehashed"`          // all of it, every byte
	Changes  int       `json:"changes"`           // that stand
	Problems int       `json:"problems"`          // likewise
	Lost     int       `json:"lost"`              // how often the kernel dropped events
}

// NewMonitor is a monitor, which watches while Run does.
func NewMonitor(o Options) (*Monitor, error) {
	if o.Store == nil || o.Store.Verify == nil {
		return nil, errors.New("integrity: a monitor needs a store, and the store a Verify")
	}
	for _, d := range []struct {
		v    *time.Duration
		def  time.Duration
		name string
	}{{&o.Every, 10 * time.Minute, "Every"}, {&o.Poll, time.Minute, "Poll"}, {&o.Rehash, 24 * time.Hour, "Rehash"}, {&o.Settle, 250 * time.Millisecond, "Settle"}} {
		if *d.v == 0 {
			*d.v = d.def
		}
		if *d.v < 0 && d.name != "Rehash" {
			return nil, fmt.Errorf("integrity: %s is %v: it must be more than 0", d.name, *d.v)
		}
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Monitor{o: o, log: log, openKernel: openKernel, pending: newPending(), differ: map[string]string{}, problems: map[string]string{}}, nil
}

// Status is how it does now.
func (m *Monitor) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status
}

func (m *Monitor) set(f func(*Status)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.status)
}

// look is a whole look, taken beside the loop: what it found to differ, for the loop to look at again by itself.
type look struct {
	full     bool
	differ   map[string]string
	problems map[string]string
	more     int
	err      error
}

// Run watches until ctx ends, which is no error. An error is that there is no baseline to watch by, or that another monitor watches by it. One
// monitor runs at a time for a store.
func (m *Monitor) Run(ctx context.Context) (err error) {
	if m.base, err = m.o.Store.Open(m.o.Floor); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.base.Close()) }()
	lock, err := m.o.Store.fs().Lock(m.o.Store.path("monitor.lock"))
	if err != nil {
		return fmt.Errorf("integrity: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	m.set(func(s *Status) { s.Baseline = m.base.Mark })
	m.watch(&wg)
	if m.kernel != nil {
		// Closing it ends who reads it.
		defer func() { err = errors.Join(err, m.kernel.close()) }()
	}
	m.loop(ctx, &wg)
	return nil
}

// watch opens what the kernel tells, where it does.
func (m *Monitor) watch(wg *sync.WaitGroup) {
	if m.o.Blind {
		return
	}
	at, err := nowhere().open(path.Dir(m.base.Roots[0]))
	if err == nil {
		m.kernel, err = m.openKernel(at)
		at.release()
	}
	if err != nil {
		m.log.Warn("the kernel does not tell of changes: files are looked at from time to time", "err", err, "every", m.o.Poll)
		m.missed(err)
		return
	}
	m.set(func(s *Status) { s.Events = m.kernel.name() })
	// Whoever removes, replaces or renames a root does it in the folder that it is in.
	m.watchParents()
	k := m.kernel
	wg.Go(func() {
		for {
			hints, lost, err := k.read()
			if err != nil && !errors.Is(err, os.ErrClosed) {
				m.log.Error("the kernel's events cannot be read: files are looked at from time to time", "err", err)
				m.missed(err)
				lost = true
			}
			m.pending.add(hints, lost)
			if err != nil {
				return
			}
		}
	})
}

func (m *Monitor) watchParents() {
	for _, r := range m.base.Roots {
		dir := path.Dir(r)
		if dir == r {
			continue
		}
		d, err := nowhere().open(dir)
		if err == nil {
			err = m.kernel.add(dir, d)
			d.release()
		}
		if err != nil {
			m.missed(fmt.Errorf("%s: %w", dir, err))
		}
	}
}

// missed keeps why the kernel does not tell all.
func (m *Monitor) missed(err error) {
	m.partMu.Lock()
	first := m.partial == nil
	m.partial = err
	m.partMu.Unlock()
	if first && m.kernel != nil {
		m.log.Warn("some folders cannot be watched: all are looked at more often", "err", err, "every", m.o.Poll)
	}
	m.set(func(s *Status) { s.Partial = err.Error() })
}

// enter watches a folder that a look goes into.
func (m *Monitor) enter(path string, d *folder) {
	if err := m.kernel.add(path, d); err != nil {
		m.missed(fmt.Errorf("%s: %w", path, err))
	}
}

func (m *Monitor) every() time.Duration {
	m.partMu.Lock()
	defer m.partMu.Unlock()
	if m.kernel == nil || m.partial != nil {
		return min(m.o.Poll, m.o.Every)
	}
	return m.o.Every
}

// loop owns what is known. Whole looks run beside it, one at a time, and only name paths that it then looks at itself: so what changes while
// a whole look is under way is told at once, and nothing is told by a look that is older than another.
func (m *Monitor) loop(ctx context.Context, wg *sync.WaitGroup) {
	looks := make(chan look, 1)
	looking := false
	var stop context.CancelFunc = func() {}
	defer func() { stop() }()
	begin := func(full bool) {
		looking = true
		var lctx context.Context
		lctx, stop = context.WithCancel(ctx)
		base := m.base
		wg.Go(func() { looks <- m.whole(lctx, base, full) })
	}
	// The first look reads all, and sets the watches on its way.
	begin(true)
	soon, again := time.NewTimer(m.every()), time.NewTicker(reloadEvery)
	defer soon.Stop()
	defer again.Stop()
	var rehash <-chan time.Time
	if m.o.Rehash > 0 {
		t := time.NewTicker(m.o.Rehash)
		defer t.Stop()
		rehash = t.C
	}
	due, dueFull := false, false // asked for while another look was under way
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-m.pending.signal:
			if m.hinted(ctx) {
				due = true
			}
		case l := <-looks:
			stop()
			looking = false
			m.looked(ctx, l)
			soon.Reset(m.every())
		case <-soon.C:
			due = true
		case <-rehash:
			dueFull = true
		case <-again.C:
			if b := m.reload(ctx); b != nil {
				if looking { // it reads the old one
					stop()
					<-looks
					looking = false
				}
				m.swap(ctx, b)
				due = true
			}
		}
		if !looking && (due || dueFull) && ctx.Err() == nil {
			begin(dueFull)
			due, dueFull = false, false
		}
	}
	stop()
	if looking {
		<-looks
	}
}

// whole is a look at everything.
func (m *Monitor) whole(ctx context.Context, base *Baseline, full bool) look {
	out := look{full: full, differ: map[string]string{}, problems: map[string]string{}}
	l := m.o.Look
	l.Full = full
	var enter func(string, *folder)
	if m.kernel != nil {
		enter = m.enter
	}
	_, out.err = scan(ctx, base, nil, l, enter, func(s seen) error {
		if p, text := problemOf(s); text != "" && len(out.problems) < maxProblems {
			out.problems[p] = text
		}
		if s.before == nil && s.after == nil {
			return nil
		}
		if c := change(s.before, s.after); c != nil {
			if len(out.differ) == maxDeviations {
				out.more++
				return nil
			}
			out.differ[c.Path] = c.ID()
		}
		return nil
	})
	return out
}

func problemOf(s seen) (path, text string) {
	var p Problem
	if s.problem == nil || !errors.As(s.problem, &p) {
		return "", ""
	}
	return p.Path, p.Err.Error()
}

// looked takes in a whole look: what differs from what is known is looked at again.
func (m *Monitor) looked(ctx context.Context, l look) {
	if l.err != nil {
		if ctx.Err() == nil && !errors.Is(l.err, context.Canceled) {
			m.tell(ctx, Event{Kind: EventProblem, Severity: Critical, Text: "files cannot be looked at: " + l.err.Error()})
		}
		return
	}
	again := map[string][]Who{}
	for _, pair := range []struct{ was, is map[string]string }{{m.differ, l.differ}, {m.problems, l.problems}} {
		for p, id := range pair.is {
			if pair.was[p] != id {
				again[p] = nil
			}
		}
		for p := range pair.was {
			if _, ok := pair.is[p]; !ok {
				again[p] = nil
			}
		}
	}
	if l.more > 0 && !m.full {
		m.tell(ctx, Event{Kind: EventProblem, Severity: Critical, Text: fmt.Sprintf("%d changes more than the %d that are told one by one: this is another tree", l.more, maxDeviations)})
	}
	m.full = l.more > 0
	m.at(ctx, again, l.full, true)
	now := time.Now()
	m.set(func(s *Status) {
		s.Looked = now
		if l.full {
			s.Rehashed = now
		}
		if m.kernel != nil {
			s.Watched = m.kernel.watched()
		}
	})
}

// hinted looks at what the kernel told of, once it has settled. It is true where all must be looked at.
func (m *Monitor) hinted(ctx context.Context) (all bool) {
	settle, end := time.NewTimer(m.o.Settle), time.NewTimer(8*m.o.Settle)
	defer settle.Stop()
	defer end.Stop()
	for waiting := true; waiting; {
		select {
		case <-ctx.Done():
			return false
		case <-settle.C:
			waiting = false
		case <-end.C:
			waiting = false
		case <-m.pending.signal:
			settle.Reset(m.o.Settle)
		}
	}
	paths, lost := m.pending.take()
	if lost {
		m.set(func(s *Status) { s.Lost++ })
		m.tell(ctx, Event{Kind: EventLost, Severity: Warning, Text: "more changed at once than the kernel tells: everything is looked at"})
	}
	m.at(ctx, paths, false, true)
	return lost
}

// scope are the paths of which the trees have something, sorted, none within another.
func (m *Monitor) scope(paths map[string][]Who) []string {
	var all []string
	for p := range paths {
		if m.base.inRoots(p) && !m.base.exclude.match(p) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, compare)
	var out []string
	for _, p := range all {
		if len(out) == 0 || !within(p, out[len(out)-1]) {
			out = append(out, p)
		}
	}
	return out
}

// covers says that one of paths, as scope has them, is path or above it.
func covers(paths []string, path string) bool {
	i, ok := slices.BinarySearchFunc(paths, path, compare)
	return ok || i > 0 && within(path, paths[i-1])
}

// at looks at paths and below, and tells what is new, and where tellBack is set what is not any more. It is the only one that tells of paths.
func (m *Monitor) at(ctx context.Context, paths map[string][]Who, full, tellBack bool) {
	scope := m.scope(paths)
	if len(scope) == 0 {
		return
	}
	l := m.o.Look
	l.Full = full
	var enter func(string, *folder)
	if m.kernel != nil {
		enter = m.enter
	}
	found, problems := map[string]*Change{}, map[string]string{}
	if _, err := scan(ctx, m.base, scope, l, enter, func(s seen) error {
		if p, text := problemOf(s); text != "" {
			problems[p] = text
		}
		if s.before == nil && s.after == nil {
			return nil
		}
		if c := change(s.before, s.after); c != nil && (len(found) < maxDeviations || m.differ[c.Path] != "") {
			found[c.Path] = c
		}
		return nil
	}); err != nil {
		if ctx.Err() == nil {
			m.tell(ctx, Event{Kind: EventProblem, Severity: Critical, Text: "files cannot be looked at: " + err.Error()})
		}
		return
	}
	m.tellProblems(ctx, scope, problems)
	m.tellChanges(ctx, found, paths)
	m.tellRestored(ctx, scope, found, problems, tellBack)
	m.set(func(s *Status) { s.Changes, s.Problems = len(m.differ), len(m.problems) })
}

// tellChanges tells what differs, or differs otherwise than was told.
func (m *Monitor) tellChanges(ctx context.Context, found map[string]*Change, who map[string][]Who) {
	ids := map[string]string{}
	var fresh []*Change
	for p, c := range found {
		id := c.ID()
		if m.differ[p] == id || m.differ[p] == "" && len(m.differ)+len(fresh) >= maxDeviations {
			continue
		}
		ids[p], c.Who = id, who[p]
		fresh = append(fresh, c)
	}
	slices.SortFunc(fresh, func(a, b *Change) int { return compare(a.Path, b.Path) })
	for _, c := range Pair(fresh) {
		c.Severity = m.o.Look.Rules.Severity(c)
		if c.Severity == Ignore || m.tell(ctx, Event{Kind: EventChange, Severity: c.Severity, Path: inJSON(c.Path).text, Change: c}) {
			m.differ[c.Path] = ids[c.Path]
			if c.From != "" {
				m.differ[c.From] = ids[c.From]
			}
		}
	}
}

// tellRestored tells what differed, and does not any more, or only forgets it. Of what could not be looked at that is not known.
func (m *Monitor) tellRestored(ctx context.Context, scope []string, found map[string]*Change, problems map[string]string, tell bool) {
	var back []string
	for p := range m.differ {
		if found[p] != nil || !covers(scope, p) {
			continue
		}
		unknown := false
		for q := p; !unknown && q != ""; q = parent(q) {
			_, unknown = problems[q]
		}
		if !unknown {
			back = append(back, p)
		}
	}
	slices.SortFunc(back, compare)
	for _, p := range back {
		if !tell || m.tell(ctx, Event{Kind: EventRestored, Severity: Info, Path: inJSON(p).text, Text: "it is as in the baseline again"}) {
			delete(m.differ, p)
		}
	}
}

// parent is the folder of a path, or "".
func parent(p string) string {
	i := strings.LastIndexByte(p, '/')
	switch {
	case i < 0 || p == "/":
		return ""
	case i == 0:
		return "/"
	}
	return p[:i]
}

// tellProblems tells what could not be told, once while it stays so.
func (m *Monitor) tellProblems(ctx context.Context, scope []string, problems map[string]string) {
	for p := range m.problems {
		if _, ok := problems[p]; !ok && covers(scope, p) {
			delete(m.problems, p)
		}
	}
	for _, p := range sortedKeys(problems) {
		if m.problems[p] == problems[p] || len(m.problems) >= maxProblems {
			continue
		}
		if m.tell(ctx, Event{Kind: EventProblem, Severity: Warning, Path: inJSON(p).text, Text: problems[p]}) {
			m.problems[p] = problems[p]
		}
	}
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compare)
	return keys
}

// tell records and alerts. It is false where that failed, and what it is about must be found again.
func (m *Monitor) tell(ctx context.Context, e Event) bool {
	e.Time, e.Baseline = time.Now().UTC(), m.base.Mark
	var errs []error
	if m.o.Record != nil {
		errs = append(errs, m.o.Record(ctx, e))
	}
	if m.o.Alert != nil && e.Severity >= Warning {
		errs = append(errs, m.o.Alert(ctx, e))
	}
	if err := errors.Join(errs...); err != nil {
		m.log.Error("an integrity event could not be told; it will be again", "event", e.String(), "err", err)
		return false
	}
	return true
}

// reload opens the baseline in force if it is another than the one that is watched by. One that is older, altered or not signed is not taken,
// and told once.
func (m *Monitor) reload(ctx context.Context) *Baseline {
	mark, err := m.o.Store.Head()
	if err == nil && mark == m.base.Mark {
		m.refused = ""
		return nil
	}
	var b *Baseline
	if err == nil {
		b, err = m.o.Store.Open(m.base.Mark)
	}
	if err == nil {
		m.refused = ""
		return b
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("it is gone: %w", err)
	}
	if err.Error() != m.refused && m.tell(ctx, Event{Kind: EventProblem, Severity: Critical, Text: "the baseline was tampered with, and the one before is kept: " + err.Error()}) {
		m.refused = err.Error()
	}
	return nil
}

// swap goes over to a new baseline. What it has approved is forgotten without a word: who approved it knows.
func (m *Monitor) swap(ctx context.Context, b *Baseline) {
	old := m.base
	m.base = b
	if err := old.Close(); err != nil {
		m.log.Warn("an old baseline could not be closed", "err", err)
	}
	if m.kernel != nil {
		m.watchParents()
	}
	m.set(func(s *Status) { s.Baseline = b.Mark })
	paths := map[string][]Who{}
	for p := range m.differ {
		paths[p] = nil
	}
	m.at(ctx, paths, false, false)
	m.tell(ctx, Event{Kind: EventBaseline, Severity: Info, Text: "it is watched by from now on"})
}
