package optimize

import (
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"time"
)

// Mode is how far changes of a kind go by themselves.
type Mode string

// The modes.
const (
	Off     Mode = "off"     // not even proposed
	Propose Mode = "propose" // a person starts each: the default
	Auto    Mode = "auto"    // started by itself; rails and approvals hold all the same
)

// Policy is what may be done, by which plan, and when not. Its zero value is not ready: see [DefaultPolicy].
type Policy struct {
	// Kinds are by kind; what is missing is propose, by DefaultPlan.
	Kinds map[Kind]KindPolicy
	// Services override the kinds for services by a pattern as checkout*; the first that fits decides.
	Services []ServicePolicy

	BreakerFailures int           // changes that failed in a row, until it opens
	BreakerOpen     time.Duration // how long it stays open until one trial
	NodeEvery       time.Duration // the least time between two changes at one node
	Budget          float64       // what changes may add to the bill in a calendar month (UTC)
	ApproveAbove    float64       // a change that adds more a month needs a person's approval
	// Windows are when changes may start and be promoted; none is always. A change under way is watched, and undone, at all times.
	Windows []Window
	// WithdrawAfter is how long a proposal stays that is not made any more.
	WithdrawAfter time.Duration
}

// KindPolicy is a kind's.
type KindPolicy struct {
	Mode    Mode
	Approve bool // each needs a person's approval, whatever it costs
	Plan    Plan
}

// ServicePolicy is a kind's for some services.
type ServicePolicy struct {
	Match string // a pattern of path.Match
	Kinds map[Kind]KindPolicy
}

// Window is a part of the week.
type Window struct {
	Days     []time.Weekday // none is every day
	From, To time.Duration  // since midnight; To may be 24 h, and before From it is the next day's
	Zone     *time.Location // nil is UTC
}

// holds says that t is in the window.
func (w *Window) holds(t time.Time) bool {
	zone := w.Zone
	if zone == nil {
		zone = time.UTC
	}
	t = t.In(zone)
	// The clock's reading, not the time since midnight: a day with a change of summer time is not 24 h long.
	since := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second
	on := func(d time.Weekday) bool { return len(w.Days) == 0 || slices.Contains(w.Days, d) }
	if w.From <= w.To {
		return on(t.Weekday()) && since >= w.From && since < w.To
	}
	return on(t.Weekday()) && since >= w.From || on((t.Weekday()+6)%7) && since < w.To
}

// DefaultPolicy proposes and acts on nothing by itself.
func DefaultPolicy() *Policy {
	return &Policy{
		Kinds:           map[Kind]KindPolicy{Machine: {Mode: Propose, Approve: true, Plan: DefaultPlan().For(Machine)}},
		BreakerFailures: 3,
		BreakerOpen:     time.Hour,
		NodeEvery:       time.Hour,
		Budget:          500,
		ApproveAbove:    50,
		WithdrawAfter:   24 * time.Hour,
	}
}

// For is what holds for a kind of change of a service.
func (p *Policy) For(k Kind, service string) KindPolicy {
	kp, ok := p.Kinds[k]
	for i := range p.Services {
		s := &p.Services[i]
		if fits, _ := path.Match(s.Match, service); !fits { // patterns are checked by Check
			continue
		}
		if own, has := s.Kinds[k]; has {
			kp, ok = own, true
			break
		}
	}
	if !ok {
		return KindPolicy{Mode: Propose, Plan: DefaultPlan().For(k)}
	}
	if kp.Mode == Auto && k.ByPerson() { // Check refuses it: nobody who forgot to ask has it all the same
		kp.Mode = Propose
	}
	return kp
}

// Check says what is wrong with the policy; nil is nothing. Errors are [ErrInvalid].
func (p *Policy) Check() error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("optimize: policy: %w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	kinds := func(where string, m map[Kind]KindPolicy) error {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !slices.Contains(Kinds, k) {
				return wrong("%skind %q: it must be one of %v", where, k, Kinds)
			}
			kp := m[k]
			if kp.Mode != Off && kp.Mode != Propose && kp.Mode != Auto {
				return wrong("%s%s: mode %q: it must be off, propose or auto", where, k, kp.Mode)
			}
			if kp.Mode == Auto && k.ByPerson() {
				return wrong("%s%s: mode auto: only a person starts changes of this kind: it must be off or propose", where, k)
			}
			if err := kp.Plan.check(); err != nil {
				return wrong("%s%s: %v", where, k, err)
			}
		}
		return nil
	}
	if err := kinds("", p.Kinds); err != nil {
		return err
	}
	for _, s := range p.Services {
		if _, err := path.Match(s.Match, ""); err != nil || s.Match == "" {
			return wrong("service %q: it is no pattern", s.Match)
		}
		if err := kinds("service "+s.Match+": ", s.Kinds); err != nil {
			return err
		}
	}
	for _, w := range p.Windows {
		if w.From < 0 || w.To < 0 || w.From >= 24*time.Hour || w.To > 24*time.Hour || w.From == w.To {
			return wrong("window %v to %v: both must be within a day, and differ", w.From, w.To)
		}
	}
	switch {
	case p.BreakerFailures < 1 || p.BreakerOpen <= 0:
		return wrong("breaker: %d failures, open for %v: both must be above 0", p.BreakerFailures, p.BreakerOpen)
	case p.NodeEvery < 0 || p.WithdrawAfter <= 0:
		return wrong("node_every %v, withdraw_after %v: they must not be negative, the last above 0", p.NodeEvery, p.WithdrawAfter)
	case !(p.Budget >= 0) || !(p.ApproveAbove >= 0) || math.IsInf(p.Budget, 0):
		return wrong("budget %v, approve_above %v: they must be amounts", p.Budget, p.ApproveAbove)
	}
	return nil
}

// maxStages bounds a plan.
const maxStages = 20

func (p *Plan) check() error {
	if len(p.Stages) == 0 || len(p.Stages) > maxStages {
		return fmt.Errorf("%d stages: there must be 1 to %d", len(p.Stages), maxStages)
	}
	for i, s := range p.Stages {
		switch {
		case (s.Nodes > 0) == (s.Percent > 0) || s.Nodes < 0 || !(s.Percent >= 0 && s.Percent <= 100):
			return fmt.Errorf("stage %d: it must have either nodes or percent (up to 100)", i+1)
		case s.Dwell <= 0 || s.Deadline < s.Dwell:
			return fmt.Errorf("stage %d: dwell %v, deadline %v: a dwell is above 0, and a deadline not before its end", i+1, s.Dwell, s.Deadline)
		}
	}
	if p.ApplyWithin <= 0 || p.Baseline < 0 {
		return fmt.Errorf("apply_within %v, baseline %v: the first must be above 0, the other not below", p.ApplyWithin, p.Baseline)
	}
	if len(p.Metrics) == 0 {
		return fmt.Errorf("there are no metrics to judge by")
	}
	for _, m := range p.Metrics {
		if m.Critical {
			return nil
		}
	}
	return fmt.Errorf("no metric is critical: nothing could fail")
}
