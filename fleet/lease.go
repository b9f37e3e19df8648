package fleet

import (
	"cmp"
	"context"
	"crypto/rand"
	"math"
	"time"
)

// Settings of the Go runtime and of the agent. A nil one is left alone, or not said. A lease without any sets nothing: it asks the
// agent to send each window as it closes, as every lease does.
type Settings struct {
	GOGC        *int64 `json:"gogc,omitempty"`       // percent; -1 is off
	MemoryLimit *int64 `json:"gomemlimit,omitempty"` // bytes; math.MaxInt64 is none
	MaxProcs    *int64 `json:"gomaxprocs,omitempty"` // threads that run Go code
	CPURate     *int64 `json:"cpu_rate,omitempty"`   // samples a second of the CPU profile; 0 is none
}

// The bounds on leases. Agents have guards of their own, which know the machine.
const (
	minGOGC        = 10
	minMemoryLimit = 4 << 20 // Go's runtime alone needs about that
	maxProcs       = 10_000
	minLease       = time.Second
	maxLease       = 24 * time.Hour
)

// check says what no agent would take.
func (s Settings) check() error {
	switch {
	case s.GOGC != nil && *s.GOGC != -1 && *s.GOGC < minGOGC:
		return errorf(ErrInvalid, "gogc %d: it must be %d or more, or -1 for off", *s.GOGC, minGOGC)
	case s.MemoryLimit != nil && *s.MemoryLimit < minMemoryLimit:
		return errorf(ErrInvalid, "gomemlimit %d: it must be at least %d bytes (4 MiB)", *s.MemoryLimit, int64(minMemoryLimit))
	case s.MaxProcs != nil && (*s.MaxProcs < 1 || *s.MaxProcs > maxProcs):
		return errorf(ErrInvalid, "gomaxprocs %d: it must be 1 to %d", *s.MaxProcs, maxProcs)
	case s.CPURate != nil && *s.CPURate != 0 && *s.CPURate != 50 && *s.CPURate != 100 && *s.CPURate != 200:
		return errorf(ErrInvalid, "cpu_rate %d: it must be 50, 100 or 200, or 0 for none", *s.CPURate)
	}
	return nil
}

// checkFor says what is wrong with s for this agent.
func (s Settings) checkFor(r *Report) error {
	limit := s.MemoryLimit
	if limit == nil {
		limit = r.Settings.MemoryLimit
	}
	if s.GOGC != nil && *s.GOGC == -1 && (limit == nil || *limit == math.MaxInt64) {
		return errorf(ErrInvalid, "gogc -1 turns the collector off and the program has no memory limit: give a gomemlimit with it, or it grows until it is killed")
	}
	return nil
}

// Lease is settings for a time.
type Lease struct {
	ID      string    `json:"id"`
	Expires time.Time `json:"expires"`
	Settings
	// InForce says that the agent follows it, Refused why it does not want to.
	InForce bool   `json:"in_force"`
	Refused string `json:"refused,omitempty"`
}

// grant is the lease that an agent shall have.
type grant struct {
	id       string
	expires  time.Time
	settings Settings
	refused  string
}

func (g *grant) show(r *Report) *Lease {
	l := &Lease{ID: g.id, Expires: g.expires.UTC(), Settings: g.settings, InForce: r.Lease == g.id, Refused: g.refused}
	if l.Refused == "" && !r.Optimizer {
		l.Refused = refusesAll
	}
	return l
}

const refusesAll = "the agent refuses all leases (PROFILER_OPTIMIZER_ENABLED=false)"

// sent is what the agent was last told to follow.
type sent struct {
	at       time.Time // zero is never
	lease    string    // "" is none
	hold     time.Duration
	wasError string // what lease_error was before: a refusal is a new one
	untaken  int    // polls since then that still follow something else
}

// retry is how long after it was told an agent that still follows something else is told again at once. It hears it
// with every answer anyway; this keeps one that does not listen from asking without a pause.
func (s *sent) retry() time.Time {
	if s.untaken == 0 {
		return s.at
	}
	return s.at.Add(min(time.Second<<min(s.untaken-1, 5), 30*time.Second))
}

// prolongAfter is the part of a hold after which it is prolonged. The protocol says one half at the latest.
const prolongAfter = 0.4

// current is a's lease, nil where it has none or its time is over.
func (f *Fleet) current(a *agent, now time.Time) *grant {
	if a.granted != nil && !now.Before(a.granted.expires) {
		a.granted = nil
		f.metrics.leases.WithLabelValues("expired").Inc()
	}
	return a.granted
}

// wanted is the lease that a is to be told of.
func (f *Fleet) wanted(a *agent, now time.Time) *grant {
	g := f.current(a, now)
	if g == nil || g.refused != "" || !a.report.Optimizer {
		return nil
	}
	return g
}

// heard takes what a poll says of leases: was what was sent taken, or refused?
func (f *Fleet) heard(a *agent, now time.Time) {
	s, r := &a.sent, &a.report
	if s.at.IsZero() {
		return
	}
	if r.Lease == s.lease {
		s.untaken = 0
		return
	}
	s.untaken++
	g := f.current(a, now)
	if g == nil || g.id != s.lease || g.refused != "" || r.LeaseError == "" {
		return
	}
	// An old error stays until the next lease. Where the text is as before the answer may have been lost: once more then.
	if r.LeaseError != s.wasError || s.untaken > 1 {
		g.refused = r.LeaseError
		f.metrics.leases.WithLabelValues("refused").Inc()
	}
}

// due says whether a is to be told of its lease at once; else when there will be something to say, zero for never.
func (f *Fleet) due(a *agent, now time.Time) (at time.Time, yes bool) {
	g, s := f.wanted(a, now), &a.sent
	id := ""
	if g != nil {
		id = g.id
	}
	switch {
	case a.report.Lease != id && (s.at.IsZero() || s.lease != id):
		return time.Time{}, true
	case a.report.Lease != id:
		at = s.retry()
	case g == nil:
		return time.Time{}, false
	case s.at.IsZero() || s.lease != id: // it follows what it was told by another; it must hear for how long
		return time.Time{}, true
	case s.at.Add(s.hold).Before(g.expires):
		at = s.at.Add(time.Duration(prolongAfter * float64(s.hold)))
	default:
		at = g.expires
	}
	if !now.Before(at) {
		return time.Time{}, true
	}
	if g != nil && g.expires.Before(at) {
		at = g.expires
	}
	return at, false
}

// leaseReply is a lease as an agent is told of it.
type leaseReply struct {
	ID  string `json:"id"`
	TTL int64  `json:"ttl_ms"`
	Settings
}

// tell is what a is told now, and note that it was.
func (f *Fleet) tell(a *agent, now time.Time, note bool) *leaseReply {
	g := f.wanted(a, now)
	next := sent{at: now, wasError: a.report.LeaseError}
	var reply *leaseReply
	if g != nil {
		next.lease, next.hold = g.id, min(f.opt.Hold, g.expires.Sub(now))
		reply = &leaseReply{g.id, max(1, next.hold.Milliseconds()), g.settings}
	}
	if !note {
		return reply
	}
	if !a.sent.at.IsZero() && a.sent.lease == next.lease {
		next.untaken, next.wasError = a.sent.untaken, a.sent.wasError
	}
	a.sent = next
	return reply
}

// Lease gives an agent settings until ttl is over or [Fleet.Release]; the lease that it had is replaced, or prolonged where it has
// the same settings and the agent has not refused it. It does not wait for the agent: [Fleet.Agents] says whether it is in
// force. The agent restores what it found when it ends.
func (f *Fleet) Lease(ctx context.Context, t Target, s Settings, ttl time.Duration) (Lease, error) {
	return f.lease(ctx, t, s, ttl, "")
}

// lease is Lease, asked for by somebody: [Event].By.
func (f *Fleet) lease(ctx context.Context, t Target, s Settings, ttl time.Duration, by string) (Lease, error) {
	if err := s.check(); err != nil {
		return Lease{}, err
	}
	if ttl < minLease || ttl > maxLease {
		return Lease{}, errorf(ErrInvalid, "a lease for %v: it must be %v to %v", ttl, minLease, maxLease)
	}
	if t.Instance == "" {
		return Lease{}, errorf(ErrInvalid, "a lease needs an instance")
	}
	g := &grant{id: rand.Text(), settings: s.clone()}
	prolongs := false
	may := func(a *agent, now time.Time) error {
		if !a.report.Optimizer {
			return errorf(ErrRefused, "%s", refusesAll)
		}
		if !f.online(a, now) {
			return a.gone(now)
		}
		return g.settings.checkFor(&a.report)
	}
	if err := f.look(t, func(a *agent, now time.Time) error {
		if had := f.current(a, now); had != nil && had.refused == "" && had.settings.equal(g.settings) {
			g.id, prolongs = had.id, true
		}
		return may(a, now)
	}); err != nil {
		return Lease{}, err
	}
	g.expires = time.Now().Add(ttl)
	err := f.record(ctx, Event{Kind: "lease", ID: g.id, Settings: s.clone(), Expires: g.expires.UTC(), Tenant: t.Tenant, Service: t.Service, Instance: t.Instance, By: by})
	if err != nil {
		return Lease{}, err
	}
	var l Lease
	err = f.look(t, func(a *agent, now time.Time) error {
		if err := may(a, now); err != nil {
			return err
		}
		switch had := f.current(a, now); {
		case prolongs && (had == nil || had.id != g.id || had.refused != ""):
			// Under its old name an agent would not take it again.
			return errorf(ErrUnavailable, "the lease that was to be prolonged has ended meanwhile: ask again")
		case prolongs:
			had.expires = g.expires
			f.metrics.leases.WithLabelValues("prolonged").Inc()
			l = *had.show(&a.report)
			a.wake() // the poll that waits reckons anew when there is something to say
			return nil
		case had != nil:
			f.metrics.leases.WithLabelValues("replaced").Inc()
		}
		a.granted = g
		f.metrics.leases.WithLabelValues("granted").Inc()
		l = *g.show(&a.report)
		a.wake()
		return nil
	})
	return l, err
}

// Release ends an agent's lease before its time. That there is none is no error.
func (f *Fleet) Release(ctx context.Context, t Target) error { return f.release(ctx, t, "") }

// release is Release, asked for by somebody: [Event].By.
func (f *Fleet) release(ctx context.Context, t Target, by string) error {
	if t.Instance == "" {
		return errorf(ErrInvalid, "a release needs an instance")
	}
	id := ""
	if err := f.look(t, func(a *agent, now time.Time) error {
		if g := f.current(a, now); g != nil {
			id = g.id
		}
		return nil
	}); err != nil || id == "" {
		return err
	}
	if err := f.record(ctx, Event{Kind: "release", ID: id, Tenant: t.Tenant, Service: t.Service, Instance: t.Instance, By: by}); err != nil {
		return err
	}
	return f.look(t, func(a *agent, now time.Time) error {
		if g := f.current(a, now); g != nil && g.id == id { // one that was given since is not the one that was meant
			a.granted = nil
			f.metrics.leases.WithLabelValues("released").Inc()
			a.wake()
		}
		return nil
	})
}

// look runs do on the agent that t names, under the lock.
func (f *Fleet) look(t Target, do func(a *agent, now time.Time) error) error {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isClosed() {
		return errClosed
	}
	a, err := f.find(t, now)
	if err != nil {
		return err
	}
	return do(a, now)
}

// record says what is about to be done.
func (f *Fleet) record(ctx context.Context, e Event) error {
	if f.opt.Record == nil {
		return nil
	}
	e.Time, e.Tenant = time.Now().UTC(), cmp.Or(e.Tenant, DefaultTenant)
	if err := f.opt.Record(ctx, e); err != nil {
		return errorf(ErrUnavailable, "it could not be recorded and was not done: %w", err)
	}
	return nil
}

// equal says that s and o set the same to the same.
func (s Settings) equal(o Settings) bool {
	same := func(a, b *int64) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }
	return same(s.GOGC, o.GOGC) && same(s.MemoryLimit, o.MemoryLimit) && same(s.MaxProcs, o.MaxProcs) && same(s.CPURate, o.CPURate)
}

// clone is s with values of its own: the caller keeps what it gave.
func (s Settings) clone() Settings {
	for _, p := range []**int64{&s.GOGC, &s.MemoryLimit, &s.MaxProcs, &s.CPURate} {
		if *p != nil {
			v := **p
			*p = &v
		}
	}
	return s
}
