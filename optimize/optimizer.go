package optimize

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize/judge"
)

// Options of [New]. Journal, Actuators and Look have no default.
type Options struct {
	Journal   Journal
	Actuators map[Kind]Actuator
	// Look measures instances of a service. What it cannot measure it leaves out: missing data is never a pass.
	Look func(ctx context.Context, q Question) (Sight, error)
	// Propose are what makes proposals for a tenant.
	Propose []func(ctx context.Context, tenant string) ([]Proposal, error)
	// Policy is what is in force now; nil is [DefaultPolicy]. What a change started with stays its plan.
	Policy func() *Policy
	// Enabled says why nothing may be done, as the environment or a file has it; "" is that it may. nil is always.
	Enabled func() string
	// Record is told of each act before it happens. Its error keeps it from happening. nil records nothing.
	Record func(ctx context.Context, e Entry) error
	// Price is what cores of a service cost a month; nil is unknown.
	Price func(service string, cores analyze.Estimate) *analyze.Money

	// CallTimeout bounds one call of an actuator; 0 is 10 s. LookTimeout one of Look; 0 is 20 s.
	CallTimeout, LookTimeout time.Duration

	Logger *slog.Logger     // nil is silent
	Now    func() time.Time // nil is time.Now
}

// Entry is one act, for the audit log.
type Entry struct {
	Time    time.Time `json:"time"`
	Tenant  string    `json:"tenant"`
	Change  string    `json:"change"`
	Kind    Kind      `json:"kind"`
	Service string    `json:"service"`
	Act     string    `json:"act"` // apply, undo, off (for a period), start, approve, pause, resume, reject
	Actor   string    `json:"actor"`
	Target  string    `json:"target,omitempty"`
	Stage   int       `json:"stage"`
	Spec    string    `json:"spec,omitempty"`   // of an apply
	Reason  string    `json:"reason,omitempty"` // why, with the figures
}

// Optimizer takes changes through their states. One goroutine calls Tick; others may ask and decide meanwhile, in this process or in
// another on the same journal.
type Optimizer struct {
	o Options

	mu     sync.Mutex
	latest map[string]judge.Verdict // the last one of each change that acts: newer than what is kept

	// Tick's alone, and found anew after a restart:
	applied map[string]time.Time // when Apply was last called, by change and target
	judged  map[string]time.Time // when a stage was last judged, by change
	asked   map[string]time.Time // when it was last asked whether others have done what a change waits for, by change
}

// self is the actor of what the optimizer does itself.
const self = "optimizer"

// New checks o and fills in its defaults.
func New(o Options) (*Optimizer, error) {
	if o.Journal == nil || o.Look == nil {
		return nil, fmt.Errorf("optimize: %w: Options.Journal and Look are needed", ErrInvalid)
	}
	for k := range o.Actuators {
		if !slices.Contains(Kinds, k) {
			return nil, fmt.Errorf("optimize: %w: actuator of kind %q: it must be one of %v", ErrInvalid, k, Kinds)
		}
	}
	if o.Policy == nil {
		p := DefaultPolicy()
		o.Policy = func() *Policy { return p }
	}
	if o.Enabled == nil {
		o.Enabled = func() string { return "" }
	}
	if o.Record == nil {
		o.Record = func(context.Context, Entry) error { return nil }
	}
	if o.Price == nil {
		o.Price = func(string, analyze.Estimate) *analyze.Money { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.CallTimeout, o.LookTimeout = cmp.Or(o.CallTimeout, 10*time.Second), cmp.Or(o.LookTimeout, 20*time.Second)
	return &Optimizer{o: o, latest: map[string]judge.Verdict{}, applied: map[string]time.Time{}, judged: map[string]time.Time{}, asked: map[string]time.Time{}}, nil
}

// round is one look at a tenant's changes.
type round struct {
	*Optimizer
	tenant string
	now    time.Time
	policy *Policy
	frozen string // why nothing may go on; "" is that it may
	rails  Rails
	busy   map[string]string // the change that acts on a service
	all    []Change          // that are looked at in this round, as they are by now
}

// order is in which order changes are looked at: harm is taken back before anything is begun.
var order = []State{Undoing, Dwelling, Applying, Done, Waiting, Proposed}

// Tick does what is due for a tenant's changes and returns the first error, after all have been looked at. A change that meets an
// error is tried again at a later Tick. Call it every few seconds.
func (o *Optimizer) Tick(ctx context.Context, tenant string) error {
	r := round{Optimizer: o, tenant: tenant, now: o.o.Now().UTC(), policy: o.o.Policy(), busy: map[string]string{}}
	holds, err := o.o.Journal.Holds(ctx, tenant)
	if err != nil {
		return err
	}
	if r.rails, err = o.o.Journal.Rails(ctx, tenant); err != nil {
		return err
	}
	r.frozen = frozen(holds, o.o.Enabled(), r.now)
	changes, err := o.o.Journal.Changes(ctx, tenant, Filter{States: order, Limit: maxChanges})
	if err != nil {
		return err
	}
	slices.SortStableFunc(changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.State), slices.Index(order, b.State)), a.ProposedAt.Compare(b.ProposedAt), cmp.Compare(a.ID, b.ID))
	})
	for i := range changes {
		if changes[i].busies() {
			r.busy[changes[i].Service] = changes[i].ID
		}
	}
	r.all = changes
	var errs []error
	for i := range changes {
		if ctx.Err() != nil {
			break
		}
		if err := r.step(ctx, &changes[i]); err != nil && !errors.Is(err, ErrConflict) {
			errs = append(errs, fmt.Errorf("optimize: change %s (%s of %s): %w", changes[i].ID, changes[i].Kind, changes[i].Service, err))
		}
	}
	return errors.Join(errs...)
}

// maxChanges are looked at in one round.
const maxChanges = 10_000

// frozen says in a sentence what holds all changes; "" is nothing.
func frozen(h Holds, disabled string, now time.Time) string {
	if disabled != "" {
		return disabled
	}
	if p := h.Paused; p != nil && (p.Until.IsZero() || now.Before(p.Until)) {
		return fmt.Sprintf("All changes are paused by %s since %s.%s", p.By, p.At.Format("15:04"), note(p.Note))
	}
	for _, name := range sortedKeys(h.Incidents) {
		if i := h.Incidents[name]; i.Until.IsZero() || now.Before(i.Until) {
			return fmt.Sprintf("Incident %s is open since %s.%s", name, i.At.Format("15:04"), note(i.Note))
		}
	}
	return ""
}

func note(s string) string {
	if s == "" {
		return ""
	}
	return " " + s
}

// step does what is due for one change.
func (r *round) step(ctx context.Context, c *Change) error {
	if r.now.Before(c.NextTry) {
		return nil
	}
	act := r.o.Actuators[c.Kind]
	if act == nil && c.State != Proposed {
		return r.hold(ctx, c, fmt.Sprintf("This server makes no changes of the kind %s.", c.Kind), false)
	}
	c.Beside = r.beside(c)
	switch c.State {
	case Proposed:
		return r.proposed(ctx, c)
	case Waiting:
		return r.waiting(ctx, c, act)
	case Applying:
		return r.applying(ctx, c, act)
	case Dwelling:
		return r.dwelling(ctx, c, act)
	case Undoing:
		return r.undoing(ctx, c, act)
	case Done:
		return r.tend(ctx, c, act)
	}
	return nil
}

// keep writes c, and the rails if they changed.
func (r *round) keep(ctx context.Context, c *Change, rails bool, events ...Event) error {
	for i := range events {
		e := &events[i]
		e.Time, e.Stage = r.now, c.Stage
		if e.of != nil {
			e.Stage = *e.of
		}
		e.Actor = cmp.Or(e.Actor, self)
	}
	var write *Rails
	if rails {
		write = &r.rails
	}
	return r.o.Journal.Keep(ctx, c, write, events...)
}

// hold says why c does not go on, once; quietly where the figures in it alone are new.
func (r *round) hold(ctx context.Context, c *Change, why string, quiet bool) error {
	if c.Held == why {
		return nil
	}
	c.Held = why
	if quiet {
		return r.keep(ctx, c, false)
	}
	return r.keep(ctx, c, false, Event{What: WhatWaiting, Note: why})
}

// record puts an act into the audit log, before it happens.
func (r *round) record(ctx context.Context, c *Change, act, target, why string) error {
	e := Entry{Time: r.now, Tenant: c.Tenant, Change: c.ID, Kind: c.Kind, Service: c.Service, Act: act, Actor: self, Target: target, Stage: c.Stage, Reason: why}
	if act == "apply" {
		e.Spec = string(c.Spec)
	}
	if err := r.o.Record(ctx, e); err != nil {
		return fmt.Errorf("%s %s is not done, as it could not be recorded: %w", act, target, err)
	}
	return nil
}

// call runs one call of an actuator within its time. A panic of it is an error: one kind of change does not end the others.
func (r *round) call(ctx context.Context, f func(ctx context.Context) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, r.o.CallTimeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the actuator panicked: %v", v)
		}
	}()
	return f(ctx)
}

// again keeps that a step met an error, and tries it later: after 1, 2, 4 ... 60 s.
func (r *round) again(ctx context.Context, c *Change, err error) error {
	c.NextTry = r.now.Add(min(time.Minute, time.Second<<min(c.Tries, 6)))
	c.Tries++
	return errors.Join(err, r.keep(ctx, c, false, Event{What: WhatError, Note: err.Error()}))
}
