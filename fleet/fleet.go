// Package fleet is the agents as the server knows them: who is there and how each is, what settings each shall have and
// for how long, and the tasks (a snapshot of goroutines, an execution trace) that someone waits for. The protocol
// is drawn in docs/format/agents.md. Agents ask (long polls) and the server only answers:
//
//	POST /api/v1/agents/poll      how an agent is; the answer is its lease and its tasks
//	POST /api/v1/agents/results   the outcome of a task
//
// [Fleet.Handler] is the other side, for people and programs; who mounts it decides who may use it.
//
// All of it is in memory. A server that ends forgets leases and tasks, and that is safe: a lease is told
// to an agent for a few minutes at a time ([Options.Hold]), and an agent that hears nothing more restores what it found.
// An agent that is counted as gone follows no lease any more.
//
// Everything belongs to one lock. Nothing is called under it: not [Options.Record], no ResponseWriter.
package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// What an error of a Fleet is, for who branches on it. The text says what, where, and what to do.
var (
	ErrInvalid     = errors.New("invalid")     // the question is wrong and will never do
	ErrNotFound    = errors.New("not found")   // there is no such agent
	ErrRefused     = errors.New("refused")     // the agent does not take leases
	ErrOverloaded  = errors.New("overloaded")  // a bound was reached
	ErrUnavailable = errors.New("unavailable") // the agent or the server went away
	ErrTimeout     = errors.New("timeout")     // the agent did not answer in time
	ErrFailed      = errors.New("failed")      // the agent answered that it could not
)

// Options are what a Fleet may be told. The zero value works.
type Options struct {
	// Authorize refuses an agent's request by returning an error, whose text it reads (403, or what a [Refusal] says). nil allows everyone.
	Authorize func(*http.Request) error
	// Verify checks the signature of an agent's request over its body, as it came, and names its key; "" where there is
	// none and none is needed. Its error refuses the request, with 401 or what a [Refusal] says. nil checks nothing.
	Verify func(r *http.Request, body []byte) (keyID string, err error)
	// By is who asks for a lease or its end, where something else knows that better than the request's body, which says said; nil believes the
	// body.
	By func(r *http.Request, said string) string
	// Record is told of each lease, release and task before it takes effect. Its error keeps it from happening: what
	// cannot be recorded is not done. ctx is the asker's. nil records nothing.
	Record func(ctx context.Context, e Event) error
	// Summarize makes of an execution trace what a reader is shown, as JSON. nil is not available: only raw traces are to be had.
	Summarize func(trace []byte) (any, error)

	// MaxAgents bounds the agents that are known; past it those that were away longest make room, and new ones get 429
	// when there are none. 0 is 20,000.
	MaxAgents int
	// MaxBytes bounds what agents say of themselves and is kept, over all of them. Past it their status is left out,
	// then new ones get 429. 0 is 256 MiB.
	MaxBytes int64
	// Hold is how long an agent keeps a lease without hearing more; the server prolongs it until it ends. 0 is 3 min.
	Hold time.Duration
	// Away is how long after its last word an agent is offline, Forget when it is forgotten. 0 is 3 min (3 polls of the longest kind) and 1 h.
	Away, Forget time.Duration
	// MaxRequests bounds the bodies that are read at a time; past it agents get 429. 0 is 256.
	MaxRequests int
	// MaxTasks bounds the tasks that someone waits for. 0 is 256; an agent has at most 8 of them, and MaxTraces of all are traces (0 is 4).
	MaxTasks, MaxTraces int
	// ResultBytes bounds what results hold that are on their way from an agent to who asked. 0 is 128 MiB.
	ResultBytes int64
	// TaskTimeout is how long an agent has for a task, beside the seconds that a trace lasts. 0 is 15 s.
	TaskTimeout time.Duration
	// ReadTimeout bounds the reading of a request's body. 0 is 30 s.
	ReadTimeout time.Duration

	Logger   *slog.Logger          // for faults of ours; nil is slog.Default()
	Registry prometheus.Registerer // where metrics go; nil is nowhere
}

// Event is something that is about to be done to an agent.
type Event struct {
	Time              time.Time
	Kind              string // lease, release, goroutines, trace
	ID                string // of the lease or the task; of a release, the lease that ends
	Tenant            string
	Service, Instance string
	Settings          Settings  // of a lease
	Expires           time.Time // of a lease
	Seconds           int       // of a trace
	// By is who asked for a lease or a release over HTTP: the name that the request gives, else the address that it came from. "" is a
	// call of this program's own.
	By string
}

// Target is an agent. Where Instance is "" it is any one of the service's that is there; leases need one.
type Target struct{ Tenant, Service, Instance string }

// Agent is one agent as it was at its last poll.
type Agent struct {
	Tenant string `json:"-"`
	Report
	Seen     time.Time `json:"seen"`    // when the server last heard of it
	Online   bool      `json:"online"`  // it was heard of within Options.Away
	Polling  bool      `json:"polling"` // it waits for an answer now
	SignedBy string    `json:"signed_by,omitempty"`
	Granted  *Lease    `json:"granted,omitempty"` // what it shall have
}

// Report is what an agent says of itself in a poll.
type Report struct {
	Service    string            `json:"service"`
	Version    string            `json:"version,omitempty"`
	Instance   string            `json:"instance"`
	Region     string            `json:"region,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Agent      string            `json:"agent,omitempty"`
	Go         string            `json:"go,omitempty"`
	OS         string            `json:"os,omitempty"`
	PID        int64             `json:"pid,omitempty"`
	Started    time.Time         `json:"started,omitzero"`
	Settings   Settings          `json:"settings"`
	Lease      string            `json:"lease,omitempty"`
	LeaseError string            `json:"lease_error,omitempty"`
	Optimizer  bool              `json:"optimizer"`
	PGO        *bool             `json:"pgo,omitempty"` // it was built with a profile for the compiler; nil is not known
	Status     json.RawMessage   `json:"status,omitempty"`
}

// Fleet knows the agents. See [New].
type Fleet struct {
	opt     Options
	origins *http.CrossOriginProtection
	reading chan struct{} // a token for each body that is read
	metrics *metrics
	closed  chan struct{}

	mu          sync.Mutex
	agents      map[key]*agent
	tasks       map[string]*task // those that someone waits for
	traces      int              // of them
	bytes       int64            // what reports hold
	resultBytes int64            // what results hold
	swept       time.Time
}

// key is who an agent is.
type key struct{ tenant, service, instance string }

// agent is one agent. All of it is under Fleet.mu.
type agent struct {
	key
	report   Report
	size     int64
	signedBy string
	seen     time.Time
	limit    *rate.Limiter // of its polls
	poll     *poll         // the one that waits; nil is none
	granted  *grant
	sent     sent
	queue    []*task // not handed out yet
	handed   map[string]*task
}

// poll is a request that waits for something to say.
type poll struct {
	wake     chan struct{} // one token: there may be something
	replaced chan struct{} // closed when a newer poll is here
}

// New checks o and fills in its defaults.
func New(o Options) (*Fleet, error) {
	for _, b := range []struct {
		name string
		n    *int
		def  int
	}{{"MaxAgents", &o.MaxAgents, 20_000}, {"MaxRequests", &o.MaxRequests, 256}, {"MaxTasks", &o.MaxTasks, 256}, {"MaxTraces", &o.MaxTraces, 4}} {
		if *b.n < 0 {
			return nil, fmt.Errorf("fleet: Options.%s is %d: it must not be below 0; leave it 0 for %d", b.name, *b.n, b.def)
		}
		*b.n = cmp.Or(*b.n, b.def)
	}
	for _, b := range []struct {
		name string
		d    *time.Duration
		def  time.Duration
	}{{"Hold", &o.Hold, 3 * time.Minute}, {"Away", &o.Away, 3 * time.Minute}, {"Forget", &o.Forget, time.Hour}, {"TaskTimeout", &o.TaskTimeout, 15 * time.Second}, {"ReadTimeout", &o.ReadTimeout, 30 * time.Second}} {
		if *b.d < 0 {
			return nil, fmt.Errorf("fleet: Options.%s is %v: it must not be below 0; leave it 0 for %v", b.name, *b.d, b.def)
		}
		*b.d = cmp.Or(*b.d, b.def)
	}
	for _, b := range []struct {
		name string
		n    *int64
		def  int64
	}{{"MaxBytes", &o.MaxBytes, 256 << 20}, {"ResultBytes", &o.ResultBytes, 128 << 20}} {
		if *b.n < 0 {
			return nil, fmt.Errorf("fleet: Options.%s is %d: it must not be below 0; leave it 0 for %d", b.name, *b.n, b.def)
		}
		*b.n = cmp.Or(*b.n, b.def)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	f := &Fleet{
		opt: o, origins: http.NewCrossOriginProtection(), reading: make(chan struct{}, o.MaxRequests), closed: make(chan struct{}),
		agents: map[key]*agent{}, tasks: map[string]*task{},
	}
	var err error
	if f.metrics, err = newMetrics(o.Registry, f); err != nil {
		return nil, fmt.Errorf("fleet: metrics: %w", err)
	}
	return f, nil
}

// Close ends every poll and every wait at once (503), so that a server that stops need not wait for them. Agents then ask
// again, and restore what they found where nobody answers. The second call does nothing.
func (f *Fleet) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.isClosed() {
		close(f.closed)
	}
}

func (f *Fleet) isClosed() bool {
	select {
	case <-f.closed:
		return true
	default:
		return false
	}
}

// errClosed is what is said once Close was called.
var errClosed = errorf(ErrUnavailable, "the server is stopping")

// Agents are those of a tenant, by service and instance; of one service where it is not "".
func (f *Fleet) Agents(tenant, service string) []Agent {
	tenant = cmp.Or(tenant, DefaultTenant)
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sweep(now)
	out := []Agent{}
	for _, a := range f.agents {
		if a.tenant == tenant && (service == "" || a.service == service) {
			out = append(out, f.show(a, now))
		}
	}
	slices.SortFunc(out, func(a, b Agent) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Instance, b.Instance))
	})
	return out
}

// show is a as others see it. What it refers to (labels, status, settings) is never written again.
func (f *Fleet) show(a *agent, now time.Time) Agent {
	s := Agent{Tenant: a.tenant, Report: a.report, Seen: a.seen.UTC(), Online: f.online(a, now), Polling: a.poll != nil, SignedBy: a.signedBy}
	if g := f.current(a, now); g != nil {
		s.Granted = g.show(&a.report)
	}
	return s
}

func (f *Fleet) online(a *agent, now time.Time) bool {
	return a.poll != nil || now.Sub(a.seen) < f.opt.Away
}

// find is the agent that t names. Without an instance it is one that waits for work, else the one heard of last.
func (f *Fleet) find(t Target, now time.Time) (*agent, error) {
	if t.Service == "" {
		return nil, errorf(ErrInvalid, "no service is named")
	}
	t.Tenant = cmp.Or(t.Tenant, DefaultTenant)
	f.sweep(now)
	if t.Instance != "" {
		if a := f.agents[key{t.Tenant, t.Service, t.Instance}]; a != nil {
			return a, nil
		}
		return nil, errorf(ErrNotFound, "there is no agent of service %.200q with instance %.200q", t.Service, t.Instance)
	}
	var best *agent
	for _, a := range f.agents {
		if a.tenant == t.Tenant && a.service == t.Service && (best == nil || better(a, best)) {
			best = a
		}
	}
	if best == nil {
		return nil, errorf(ErrNotFound, "there is no agent of service %.200q", t.Service)
	}
	return best, nil
}

// better says whether a is rather to be asked than b.
func better(a, b *agent) bool {
	if (a.poll != nil) != (b.poll != nil) {
		return a.poll != nil
	}
	if n, m := len(a.queue)+len(a.handed), len(b.queue)+len(b.handed); n != m {
		return n < m
	}
	if a.poll == nil && !a.seen.Equal(b.seen) {
		return a.seen.After(b.seen)
	}
	return a.instance < b.instance
}

// sweepEvery is how often agents are looked through for those to forget: when something is asked, for there is no
// goroutine that would do it, and an agent that nobody asks about costs nothing but its bounded bytes.
const sweepEvery = time.Minute

func (f *Fleet) sweep(now time.Time) {
	if now.Sub(f.swept) < sweepEvery {
		return
	}
	f.swept = now
	for _, a := range f.agents {
		if !f.online(a, now) && now.Sub(a.seen) >= f.opt.Forget {
			f.forget(a)
		}
	}
}

func (f *Fleet) forget(a *agent) {
	f.dropTasks(a, errorf(ErrUnavailable, "the agent went away"))
	if a.granted != nil {
		f.metrics.leases.WithLabelValues("forgotten").Inc()
	}
	f.bytes -= a.size
	delete(f.agents, a.key)
}

// room makes sure that one more agent may come.
func (f *Fleet) room(now time.Time) error {
	if len(f.agents) < f.opt.MaxAgents {
		return nil
	}
	var oldest *agent
	for _, a := range f.agents {
		if !f.online(a, now) && (oldest == nil || a.seen.Before(oldest.seen)) {
			oldest = a
		}
	}
	if oldest == nil {
		return errorf(ErrOverloaded, "the server knows %d agents already, and may know no more", len(f.agents))
	}
	f.forget(oldest)
	return nil
}
