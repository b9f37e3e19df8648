package optimize

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// RunOptions of [NewRunner]. Tenants has no default.
type RunOptions struct {
	// Tenants are those for whom proposals are asked: those that have agents. Those that have changes are looked after whether they are
	// among them or not.
	Tenants func(ctx context.Context) ([]string, error)
	// Lease lets one of the servers that share the journal act. nil is a server alone.
	Lease func(ctx context.Context, name string) (held context.Context, release func(), ok bool, err error)
	// Tenant is whose changes a request is about; nil is "default".
	Tenant func(*http.Request) (string, error)
	// By is who asks, where something else knows that better than the request's body, which says said; nil believes the body.
	By func(q *http.Request, said string) string
	// Places says what is known of the places of a tenant's services where changes are made; nil is nothing.
	Places func(tenant string) []PlaceStatus
	// PolicyFile says where the policy comes from; nil is nowhere.
	PolicyFile func() PolicyFile
	// DecodePolicy reads a policy that somebody asks about; nil is that none can be asked about.
	DecodePolicy func(io.Reader) (*Policy, error)
	// Patch makes a proposal of a linter's finding. Errors are [ErrInvalid] and [ErrState]; all others are that somebody else does not answer now. nil is that this
	// server makes none.
	Patch func(ctx context.Context, tenant string, a PatchAsk) (Proposal, error)

	// Beside runs while this server is the one that acts, until its context ends: as what tells people does. nil is nothing.
	Beside func(ctx context.Context)

	TickEvery     time.Duration // between two looks at all changes; 0 is 2 s
	ConsiderEvery time.Duration // between two rounds of proposals; 0 is 20 s
	LeaseEvery    time.Duration // between two tries to be the one who acts; 0 is 5 s

	Registry prometheus.Registerer // nil is nowhere
}

// PolicyFile is where a policy comes from.
type PolicyFile struct {
	Name string    `json:"name,omitempty"` // "" is the built-in one
	Read time.Time `json:"read,omitzero"`  // when what is in force was read
	// Error is what is wrong with the file as it is now: what was read before stays in force. "" is nothing.
	Error string `json:"error,omitempty"`
}

// PlaceStatus is what was last known of a place where changes of a service are made: where its replicas, its machines or its peers are.
type PlaceStatus struct {
	Service string `json:"service"`
	Kind    Kind   `json:"kind"`
	Place   string `json:"place"`           // as kube:deployments/shop/checkout
	Says    string `json:"says,omitempty"`  // why nothing is proposed there, or what is
	Error   string `json:"error,omitempty"` // why it cannot be reached or measured; nothing is proposed there meanwhile
	// At is when it was asked last.
	At time.Time `json:"at"`
}

// Runner lets an [Optimizer] act again and again, on one of the servers that share its journal, and answers those who ask.
type Runner struct {
	*Optimizer
	run  RunOptions
	m    *runMetrics
	kick chan struct{} // something is due: look now

	mu       sync.Mutex
	leader   bool
	began    time.Time // of the tick that is under way; zero is none
	last     time.Time // when all changes had been looked at
	took     time.Duration
	ticks    int64
	problems map[string]string // what went wrong last, by tenant and loop
	undoing  map[string]time.Time
}

// NewRunner makes an optimizer that runs. Its journal is o's, watched for what is counted; a fault of one that makes proposals does not
// keep the others from being asked.
func NewRunner(o Options, run RunOptions) (*Runner, error) {
	if run.Tenants == nil {
		return nil, fmt.Errorf("optimize: %w: RunOptions.Tenants is needed", ErrInvalid)
	}
	run.TickEvery = cmp.Or(run.TickEvery, 2*time.Second)
	run.ConsiderEvery = cmp.Or(run.ConsiderEvery, 20*time.Second)
	run.LeaseEvery = cmp.Or(run.LeaseEvery, 5*time.Second)
	if run.Tenant == nil {
		run.Tenant = func(*http.Request) (string, error) { return "default", nil }
	}
	if run.PolicyFile == nil {
		run.PolicyFile = func() PolicyFile { return PolicyFile{} }
	}
	r := &Runner{run: run, kick: make(chan struct{}, 1), problems: map[string]string{}, undoing: map[string]time.Time{}}
	var err error
	if r.m, err = newRunMetrics(run.Registry); err != nil {
		return nil, fmt.Errorf("optimize: metrics: %w", err)
	}
	if o.Journal != nil {
		o.Journal = watched{o.Journal, r.happened}
	}
	o.Propose = slices.Clone(o.Propose)
	for i, f := range o.Propose {
		o.Propose[i] = func(ctx context.Context, tenant string) (ps []Proposal, err error) {
			err = safely(func() (err error) {
				ps, err = f(ctx, tenant)
				return err
			})
			return ps, err
		}
	}
	r.Optimizer, err = New(o)
	return r, err
}

// watched tells of what was kept.
type watched struct {
	Journal
	kept func(c *Change, events []Event)
}

// Keep implements [Journal].
func (w watched) Keep(ctx context.Context, c *Change, rails *Rails, events ...Event) error {
	err := w.Journal.Keep(ctx, c, rails, events...)
	if err == nil {
		w.kept(c, events)
	}
	return err
}

// happened counts what was kept.
func (r *Runner) happened(c *Change, events []Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range events {
		switch e := &events[i]; e.What {
		case WhatVerdict:
			if e.Verdict != nil {
				r.m.verdicts.WithLabelValues(string(c.Kind), string(e.Verdict.Decision)).Inc()
			}
		case WhatProposed, WhatStarted, WhatStage:
			r.look() // the next step is due at once
		case WhatUndoing:
			r.undoing[c.Tenant+"\x00"+c.ID] = e.Time
		case WhatUndone, WhatFailed:
			if at, ok := r.undoing[c.Tenant+"\x00"+c.ID]; ok {
				r.m.undo.Observe(e.Time.Sub(at).Seconds())
				delete(r.undoing, c.Tenant+"\x00"+c.ID)
			}
		}
	}
}

// Run acts until ctx ends. It returns when all it started has ended.
func (r *Runner) Run(ctx context.Context) {
	said := ""
	for ctx.Err() == nil {
		err := r.tryLead(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			r.o.Logger.Error("changes cannot be looked after; it is tried again", "error", err)
		}
		wait(ctx, r.run.LeaseEvery, nil)
	}
}

// LeaseName is the lease of who acts: one of all that share a journal, whatever their region, as they share its changes.
const LeaseName = "optimize"

func (r *Runner) tryLead(ctx context.Context) error {
	held, release := ctx, func() {}
	if r.run.Lease != nil {
		h, rel, ok, err := r.run.Lease(ctx, LeaseName)
		if err != nil || !ok {
			return err
		}
		held, release = h, rel
	}
	defer release()
	r.lead(true)
	defer r.lead(false)
	// Proposals are asked beside: however long they take, what is in force is watched every few seconds.
	var beside sync.WaitGroup
	if r.run.Beside != nil {
		beside.Go(func() { r.run.Beside(held) })
	}
	beside.Go(func() { r.loop(held, "proposals", r.run.ConsiderEvery, nil, r.considerAll) })
	r.loop(held, "changes", r.run.TickEvery, r.kick, r.tickAll)
	beside.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(held)
}

func (r *Runner) lead(is bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leader, r.began, r.last = is, time.Time{}, time.Time{}
	if is {
		r.last = r.o.Now() // it has not been late yet
	} else {
		r.m.states.Reset() // who leads now says them
	}
	r.m.leader.Set(map[bool]float64{true: 1}[is])
}

// loop does something for all tenants, again and again, until ctx ends; never twice at once.
func (r *Runner) loop(ctx context.Context, name string, every time.Duration, kick <-chan struct{}, do func(ctx context.Context, tenants []string)) {
	for ctx.Err() == nil {
		tenants, err := r.tenants(ctx)
		r.problem("", name, err)
		do(ctx, tenants) // those that are known, if not all are
		wait(ctx, every, kick)
	}
}

// tenants are those that have changes or agents, sorted.
func (r *Runner) tenants(ctx context.Context) ([]string, error) {
	all, err := r.o.Journal.Tenants(ctx)
	more, merr := r.run.Tenants(ctx)
	all = append(all, more...)
	slices.Sort(all)
	return slices.Compact(all), errors.Join(err, merr)
}

func (r *Runner) tickAll(ctx context.Context, tenants []string) {
	r.mu.Lock()
	r.began = r.o.Now()
	r.mu.Unlock()
	for _, t := range tenants {
		r.problem(t, "changes", safely(func() error { return r.Tick(ctx, t) }))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.o.Now()
	r.last, r.took, r.began = now, now.Sub(r.began), time.Time{}
	r.ticks++
	r.m.ticks.Inc()
	r.m.took.Observe(r.took.Seconds())
	r.m.last.Set(float64(now.UnixMilli()) / 1e3)
}

// considerWithin bounds one tenant's round of proposals.
const considerWithin = 2 * time.Minute

func (r *Runner) considerAll(ctx context.Context, tenants []string) {
	counts := map[[2]string]int{}
	for _, t := range tenants {
		r.problem(t, "proposals", safely(func() error {
			ctx, cancel := context.WithTimeout(ctx, considerWithin)
			defer cancel()
			return r.Consider(ctx, t)
		}))
		changes, err := r.o.Journal.Changes(ctx, t, Filter{Limit: maxChanges})
		if err != nil {
			return // the next round counts
		}
		for i := range changes {
			counts[[2]string{string(changes[i].Kind), string(changes[i].State)}]++
		}
	}
	r.m.states.Reset()
	for k, n := range counts {
		r.m.states.WithLabelValues(k[0], k[1]).Set(float64(n))
	}
}

// safely runs a part: a fault of ours in it must not end the watch over all changes.
func safely(do func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("optimize: a fault of the program's: %v\n%s", v, debug.Stack())
		}
	}()
	return do()
}

// problem notes what went wrong for a tenant in a loop, and says it once; nil is nothing.
func (r *Runner) problem(tenant, in string, err error) {
	key := tenant + "\x00" + in
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil || errors.Is(err, context.Canceled) {
		delete(r.problems, key)
		return
	}
	r.m.errors.WithLabelValues(in).Inc()
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if r.problems[key] != text {
		r.o.Logger.Log(context.Background(), slog.LevelError, "a round met errors; it is tried again", "tenant", tenant, "of", in, "err", text)
	}
	r.problems[key] = text
}

// stuckAfter is how long a round over all changes may take, or be due, until the server says that it is failing.
const stuckAfter = 2 * time.Minute

// Healthy says why changes are not being looked after by this server, though it is the one that does; nil is that nothing is wrong.
func (r *Runner) Healthy() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leader && r.o.Now().Sub(r.last) > stuckAfter {
		return fmt.Errorf("optimize: changes have not been looked at for %s", r.o.Now().Sub(r.last).Round(time.Second))
	}
	if text := r.problems["\x00changes"]; r.leader && text != "" {
		return fmt.Errorf("optimize: %s", text)
	}
	return nil
}

// wait ends early with ctx, or when kick says so.
func wait(ctx context.Context, d time.Duration, kick <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-kick:
	}
}

// Status is how changes are looked after.
type Status struct {
	Leader bool `json:"leader"` // this server acts; else another on the same journal does
	// Frozen says in a sentence what holds all changes; "" is nothing.
	Frozen string     `json:"frozen,omitempty"`
	Policy PolicyFile `json:"policy"`
	// Kinds are those of which this server can make changes.
	Kinds    []Kind           `json:"kinds"`
	Breakers map[Kind]Breaker `json:"breakers"` // that have counted a failure or are open; "" is the one of all
	Budget   Budget           `json:"budget"`
	Places   []PlaceStatus    `json:"places,omitempty"` // that the policy names, as the server that acts found them
	LastTick time.Time        `json:"last_tick,omitzero"`
	TickMs   float64          `json:"tick_ms"`
	Ticks    int64            `json:"ticks"`
	Errors   []string         `json:"errors"` // of the last rounds
}

// Budget is what changes have added to the bill in this calendar month (UTC), and may.
type Budget struct {
	Month        string  `json:"month"`
	Spent        float64 `json:"spent"`
	Limit        float64 `json:"limit"`
	ApproveAbove float64 `json:"approve_above"`
}

// Status says how changes of a tenant are looked after, and what holds all of them.
func (r *Runner) Status(ctx context.Context, tenant string) (Status, Holds, error) {
	holds, err := r.o.Journal.Holds(ctx, tenant)
	if err != nil {
		return Status{}, holds, err
	}
	rails, err := r.o.Journal.Rails(ctx, tenant)
	if err != nil {
		return Status{}, holds, err
	}
	now, policy := r.o.Now().UTC(), r.o.Policy()
	s := Status{
		Frozen: frozen(holds, r.o.Enabled(), now), Policy: r.run.PolicyFile(), Kinds: []Kind{}, Breakers: rails.Breakers, Errors: []string{},
		Budget: Budget{Month: month(now), Spent: rails.Spent[month(now)], Limit: policy.Budget, ApproveAbove: policy.ApproveAbove},
	}
	for _, k := range Kinds {
		if r.o.Actuators[k] != nil {
			s.Kinds = append(s.Kinds, k)
		}
	}
	if r.run.Places != nil {
		s.Places = r.run.Places(tenant)
	}
	if s.Breakers == nil {
		s.Breakers = map[Kind]Breaker{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Leader, s.TickMs, s.Ticks = r.leader, float64(r.took)/1e6, r.ticks
	if r.leader && r.ticks > 0 {
		s.LastTick = r.last.UTC()
	}
	for _, key := range sortedKeys(r.problems) {
		if t, in, _ := strings.Cut(key, "\x00"); t == tenant || t == "" {
			s.Errors = append(s.Errors, in+": "+r.problems[key])
		}
	}
	return s, holds, nil
}

// look makes the loop look at once.
func (r *Runner) look() {
	select {
	case r.kick <- struct{}{}:
	default: // it is about to
	}
}

// runMetrics is what Prometheus is told.
type runMetrics struct {
	states       *prometheus.GaugeVec
	ticks        prometheus.Counter
	errors       *prometheus.CounterVec
	took, undo   prometheus.Histogram
	last, leader prometheus.Gauge
	verdicts     *prometheus.CounterVec
}

func newRunMetrics(reg prometheus.Registerer) (*runMetrics, error) {
	m := &runMetrics{
		states:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "quantra_changes", Help: "Changes by kind and state, as the server that acts counted them last."}, []string{"kind", "state"}),
		ticks:    prometheus.NewCounter(prometheus.CounterOpts{Name: "quantra_optimizer_ticks_total", Help: "Looks at all changes."}),
		errors:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "quantra_optimizer_errors_total", Help: "Rounds that met errors, by what they were about."}, []string{"of"}),
		took:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "quantra_optimizer_tick_seconds", Help: "Time of one look at all changes.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}),
		undo:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "quantra_optimizer_undo_seconds", Help: "Time from the decision to undo a change until it was taken back everywhere.", Buckets: prometheus.ExponentialBuckets(0.1, 2, 16)}),
		last:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "quantra_optimizer_last_tick_timestamp_seconds", Help: "When this server had last looked at all changes; 0 is never."}),
		leader:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "quantra_optimizer_leader", Help: "1 on the server that acts."}),
		verdicts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "quantra_optimizer_verdicts_total", Help: "Verdicts that ended a stage, by kind and decision."}, []string{"kind", "decision"}),
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.states, m.ticks, m.errors, m.took, m.undo, m.last, m.leader, m.verdicts} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}
