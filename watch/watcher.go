package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/watch/alert"
)

// Options of [New]. Store, Control and Watch have no default.
type Options struct {
	Store   store.Store
	Control *control.DB
	// Watch says what profiles come, late ones too: [store.DB.Watch].
	Watch func(since time.Time) (*store.Watch, error)
	// Lease lets one of the servers that share the control database analyse. nil is a server alone.
	Lease func(ctx context.Context, name string) (held context.Context, release func(), ok bool, err error)
	// Region names the lease; "" is "local".
	Region string
	// Price fills in what a finding costs a month, on machines with these labels; nil is unknown. It, Machines and Alerts are asked each time: what
	// they go by may change.
	Price func(f *analyze.Finding, machines []profile.Labels)

	// Machines are state machines whose transitions are watched, beside every span by its name; nil is none.
	Machines func() []analyze.Machine
	// Alerts say who is told; nil, and a nil answer, is nobody. Link is the page of a finding, for alerts; nil is none.
	Alerts func() *alert.Config
	Link   func(id string) string
	// Faults say what is wrong with what people have written for Price, Machines and Alerts, for the status; nil is nothing.
	Faults func() []string
	// By is who asks, where something else knows that better than the request's body, which says said; nil believes the body.
	By func(r *http.Request, said string) string
	// Tenant is whose findings a request is about; nil is [store.DefaultTenant].
	Tenant func(*http.Request) (string, error)

	Rules  Rules
	Window time.Duration // that the scan for changes looks at; 0 is 2 h
	// Pause is the least time between two looks at a service; 0 is 1 s. A look that takes long makes it longer: looking takes a fifth
	// of one processor at most.
	Pause time.Duration
	// MaxSeries is how many functions of one type of one service are followed; 0 is 50,000.
	MaxSeries int

	Logger   *slog.Logger          // nil is silent
	Registry prometheus.Registerer // nil is nowhere
	Now      func() time.Time      // nil is time.Now
}

// Watcher looks at profiles, keeps findings and tells people. One goroutine, in Run, looks; others ask.
type Watcher struct {
	opt  Options
	book *book
	m    *metrics

	mu     sync.Mutex
	status Status
	aside  []Aside
	waits  *waits // of profiles for their findings
	edges  map[key][]analyze.Edge
}

// Status is how the analysis is.
type Status struct {
	Leader        bool      `json:"leader"` // this server analyses; else another on the same control database does
	AnalysedTo    time.Time `json:"analysed_to,omitzero"`
	BehindSeconds float64   `json:"behind_seconds"`
	Services      int       `json:"services"`
	Series        int       `json:"series"`
	Passes        int64     `json:"passes"`
	LastPassMs    float64   `json:"last_pass_ms"`
	// From a profile's acknowledgement until all that is found in it is kept.
	LatencyP50Ms float64 `json:"latency_p50_ms"`
	LatencyP99Ms float64 `json:"latency_p99_ms"`
	SetAside     []Aside `json:"set_aside"`
	// Faults are what is wrong with files of rules, prices or machines; what they said before still holds.
	Faults []string `json:"faults,omitempty"`
}

// Aside is a part that could not be analysed; the rest went on without it.
type Aside struct {
	Tenant  string    `json:"-"`
	Service string    `json:"service"`
	Type    string    `json:"type,omitempty"`
	From    time.Time `json:"from,omitzero"`
	To      time.Time `json:"to,omitzero"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
}

// New makes a watcher ready; Run makes it look.
func New(o Options) (*Watcher, error) {
	if o.Store == nil || o.Control == nil || o.Watch == nil {
		return nil, errors.New("watch: Options need Store, Control and Watch")
	}
	o.Region = cmp.Or(o.Region, "local")
	o.Window = cmp.Or(o.Window, 2*time.Hour)
	o.Pause = cmp.Or(o.Pause, time.Second)
	o.MaxSeries = cmp.Or(o.MaxSeries, 50_000)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Tenant == nil {
		o.Tenant = func(*http.Request) (string, error) { return store.DefaultTenant, nil }
	}
	if o.Price == nil {
		o.Price = func(*analyze.Finding, []profile.Labels) {}
	}
	if o.Machines == nil {
		o.Machines = func() []analyze.Machine { return nil }
	}
	if o.Alerts == nil {
		o.Alerts = func() *alert.Config { return nil }
	}
	if o.Faults == nil {
		o.Faults = func() []string { return nil }
	}
	if o.Link == nil {
		o.Link = func(string) string { return "" }
	}
	w := &Watcher{opt: o, book: &book{o.Control}, waits: newWaits(), edges: map[key][]analyze.Edge{}}
	var err error
	w.m, err = newMetrics(o.Registry)
	if err != nil {
		return nil, fmt.Errorf("watch: metrics: %w", err)
	}
	return w, nil
}

// Status says how the analysis is. On a server that does not lead it is what is kept of the one that does.
func (w *Watcher) Status(ctx context.Context, tenant string) (Status, error) {
	w.mu.Lock()
	s := w.status
	s.SetAside = []Aside{}
	for _, a := range w.aside {
		if a.Tenant == tenant {
			s.SetAside = append(s.SetAside, a)
		}
	}
	s.LatencyP50Ms, s.LatencyP99Ms = w.waits.quantiles()
	w.mu.Unlock()
	s.Faults = w.opt.Faults()
	if s.Leader {
		return s, nil
	}
	to, err := w.book.analysedTo(ctx, tenant)
	s.AnalysedTo = to
	return s, err
}

// Healthy says why nothing is being analysed; nil where it is, here or elsewhere.
func (w *Watcher) Healthy() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status.Leader && w.status.BehindSeconds > stuckAfter.Seconds() {
		return fmt.Errorf("watch: the analysis is %.0f s behind", w.status.BehindSeconds)
	}
	return nil
}

const (
	leaseEvery = 5 * time.Second // between tries to lead
	stuckAfter = 30 * time.Minute
	tellEvery  = 5 * time.Second
	maxAside   = 100
)

// Run looks and tells until ctx ends. It returns when all it started has ended.
func (w *Watcher) Run(ctx context.Context) {
	said := ""
	for ctx.Err() == nil {
		err := w.tryLead(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			w.opt.Logger.Error("analysis; it is tried again", "error", err)
		}
		sleep(ctx, leaseEvery)
	}
}

func (w *Watcher) tryLead(ctx context.Context) error {
	held, release := ctx, func() {}
	if w.opt.Lease != nil {
		h, r, ok, err := w.opt.Lease(ctx, "analysis/"+w.opt.Region)
		if err != nil || !ok {
			return err
		}
		held, release = h, r
	}
	defer release()
	w.mu.Lock()
	w.status = Status{Leader: true}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.status.Leader = false
		w.mu.Unlock()
	}()
	held, cancel := context.WithCancel(held)
	var tellers sync.WaitGroup
	tellers.Go(func() { w.tellLoop(held) })
	err := w.lead(held)
	cancel()
	tellers.Wait()
	return err
}

// lead works off what came while nobody looked, and then looks at what comes.
func (w *Watcher) lead(ctx context.Context) error {
	l := &leader{w: w, subjects: map[key]*subject{}}
	// The watch first: what comes while the backlog is worked off is not missed.
	feed, err := w.opt.Watch(w.opt.Now().Add(-watchSince))
	if err != nil {
		return err
	}
	defer feed.Close()
	if err := l.discover(ctx); err != nil {
		return err
	}
	var forgotten time.Time
	for {
		if now := w.opt.Now(); now.Sub(forgotten) >= 24*time.Hour {
			if err := w.opt.Control.ForgetFindings(ctx, string(StateFixed), now.Add(-keepFixed)); err != nil {
				return err
			}
			forgotten = now
		}
		next := l.next()
		wait, stop := ctx, context.CancelFunc(func() {})
		if next != nil {
			wait, stop = context.WithTimeout(ctx, next.due.Sub(w.opt.Now()))
		}
		changes, err := feed.Next(wait)
		due := wait.Err() != nil
		stop()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !due:
			return err
		case err == nil:
			l.take(changes)
		}
		if due {
			if err := l.pass(ctx, next); err != nil {
				return err
			}
		}
	}
}

// keepFixed is how long what is fixed stays in the book, with its history.
const keepFixed = 90 * 24 * time.Hour

// watchSince is how far back blocks are reported that another server may have put while nobody led here: longer than profiles stay in a
// server's memory.
const watchSince = 30 * time.Minute

// key names a service.
type key struct{ tenant, service string }

// leader is what one who leads knows. One goroutine has it.
type leader struct {
	w        *Watcher
	subjects map[key]*subject
}

// subject is a service that is watched.
type subject struct {
	key
	dirty   map[int64]bool // minutes that have changed, Unix
	arrived time.Time      // of the oldest profile that has not been looked at; zero is none
	due     time.Time      // of the next look
	to      time.Time      // up to when it was looked at, as profiles count time

	known       catalog
	catalogedAt time.Time
	rings       map[string]*ring // by type
	every       map[string]time.Time
	last        map[string][]analyze.Finding // what a part found that does not look each time
	bad         map[time.Time]bool           // minutes that were set aside
	season      map[string]*analyze.Table    // by type: the last two weeks by the hour
	explained   map[string]*explanation
	levels      map[string]float64             // of figures, lately
	steps       map[string][2]analyze.Estimate // median and p99 of steps, lately
	shapes      map[shapeKey]analyze.Shape
	spans       map[time.Time]analyze.SpanWindow
}

func newSubject(k key) *subject {
	return &subject{key: k, dirty: map[int64]bool{}, rings: map[string]*ring{}, every: map[string]time.Time{}, last: map[string][]analyze.Finding{},
		bad: map[time.Time]bool{}, season: map[string]*analyze.Table{}, explained: map[string]*explanation{}, levels: map[string]float64{}}
}

// take notes what has come.
func (l *leader) take(changes []store.Change) {
	now := l.w.opt.Now()
	oldest := now.Add(-l.w.opt.Window - time.Hour)
	for _, c := range changes {
		if c.Service != "" {
			k := key{c.Tenant, c.Service}
			if l.subjects[k] == nil {
				l.subjects[k] = newSubject(k)
			}
		}
		for k, s := range l.subjects {
			if k.tenant != c.Tenant || c.Service != "" && k.service != c.Service {
				continue
			}
			for t := maxTime(c.From, oldest); t.Before(c.To); t = t.Add(column) {
				s.dirty[t.Unix()/60] = true
			}
			if s.arrived.IsZero() {
				s.arrived = now
			}
			if s.due.Before(now) {
				s.due = now.Add(settle)
			}
		}
	}
}

// settle is how long a look waits for more: the windows of an upload come one by one.
const settle = 200 * time.Millisecond

// next is the subject to look at next, nil if nothing has come.
func (l *leader) next() *subject {
	var next *subject
	for _, s := range l.subjects {
		if s.arrived.IsZero() {
			continue
		}
		if next == nil || s.due.Before(next.due) || s.due.Equal(next.due) && s.arrived.Before(next.arrived) {
			next = s
		}
	}
	return next
}

// discover finds what there is, and works off what came while nobody looked: minute by minute, as it would have been.
func (l *leader) discover(ctx context.Context) error {
	usage, err := l.w.opt.Store.Usage(ctx)
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	for _, u := range usage {
		k := key{u.Tenant, u.Service}
		if k.service != "" && l.subjects[k] == nil {
			l.subjects[k] = newSubject(k)
		}
	}
	keys := make([]key, 0, len(l.subjects))
	for k := range l.subjects {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b key) int { return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.service, b.service)) })
	for _, k := range keys {
		if err := l.catchUp(ctx, l.subjects[k]); err != nil {
			return err
		}
	}
	return nil
}

// catchUp looks at each minute since the last look of whoever led before. The first time ever it looks once: what was before is history,
// not news.
func (l *leader) catchUp(ctx context.Context, s *subject) error {
	w := l.w
	now := w.opt.Now().UTC()
	from, err := w.book.analysed(ctx, s.tenant, s.service)
	if err != nil {
		return err
	}
	if err := l.catalog(ctx, s, now); err != nil {
		return err
	}
	last := s.known.last
	if last.IsZero() {
		return nil
	}
	last = minTime(last, now)
	if from.IsZero() || from.After(last) {
		from = last
	}
	first := true
	for at := minTime(from.Truncate(column).Add(column), last); ; at = minTime(at.Add(column), last) {
		if first {
			for m := at.Add(-w.opt.Window).Unix() / 60; m*60 < at.Unix(); m++ {
				s.dirty[m] = true
			}
			first = false
		} else {
			s.dirty[at.Add(-1).Unix()/60] = true
		}
		w.setBehind(now.Sub(at))
		if err := l.look(ctx, s, at); err != nil {
			return err
		}
		w.m.caughtUp.Inc()
		if !at.Before(last) {
			return nil
		}
	}
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// pass is a look at what has come.
func (l *leader) pass(ctx context.Context, s *subject) error {
	w := l.w
	began := w.opt.Now()
	arrived := s.arrived
	s.arrived = time.Time{}
	if err := l.look(ctx, s, began.UTC()); err != nil {
		s.arrived = arrived
		return err
	}
	done := w.opt.Now()
	took := done.Sub(began)
	s.due = done.Add(max(w.opt.Pause, 4*took))
	w.mu.Lock()
	w.waits.add(done.Sub(arrived))
	w.status.Passes++
	w.status.LastPassMs = float64(took) / 1e6
	w.status.Services = len(l.subjects)
	w.status.Series, w.status.AnalysedTo = 0, time.Time{}
	oldest := done
	for _, s := range l.subjects {
		for _, r := range s.rings {
			w.status.Series += 2 * len(r.lines)
		}
		if s.to.After(w.status.AnalysedTo) {
			w.status.AnalysedTo = s.to
		}
		if !s.arrived.IsZero() && s.arrived.Before(oldest) {
			oldest = s.arrived
		}
	}
	w.status.BehindSeconds = done.Sub(oldest).Seconds()
	w.m.set(w.status)
	w.mu.Unlock()
	w.m.latency.Observe(done.Sub(arrived).Seconds())
	w.m.took.Observe(took.Seconds())
	return nil
}

func (w *Watcher) setBehind(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.BehindSeconds = d.Seconds()
	w.m.set(w.status)
}

// setAside notes what could not be analysed. The line goes on.
func (w *Watcher) setAside(a Aside) {
	a.At = w.opt.Now().UTC()
	a.Reason = clip(a.Reason, 500)
	w.m.aside.Inc()
	w.opt.Logger.Error("a part of the profiles cannot be analysed; it is set aside and the rest goes on", "service", a.Service, "type", a.Type, "from", a.From, "to", a.To, "reason", a.Reason)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.aside = append(w.aside, a)
	w.aside = w.aside[max(0, len(w.aside)-maxAside):]
}

// safely runs a part of the analysis: a fault of ours on some profile must not stop the line.
func safely(do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &poisoned{fmt.Sprint(r), string(debug.Stack())}
		}
	}()
	return do()
}

// poisoned is a panic in the analysis.
type poisoned struct{ what, stack string }

func (p *poisoned) Error() string { return "a fault in the analysis: " + p.what }

// sleep ends early with ctx.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
