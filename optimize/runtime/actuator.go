package runtime

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/quantra-l/quantra/optimize"
)

const (
	// keepEvery is how often a lease is prolonged. It lasts leaseFor, so that one call may be lost; who does not prolong it any more
	// has no say any more.
	keepEvery = time.Minute
	leaseFor  = 3 * time.Minute
	// rehearseFor is how long the lease of a rehearsal lasts, should nobody end it, and lookEvery how often it is asked whether the agent has heard.
	rehearseFor = 10 * time.Second
	lookEvery   = 50 * time.Millisecond
	// heardWithin is the longest since an agent's last word where no poll of its waits: one that does not listen would take a change minutes late.
	heardWithin = 15 * time.Second
)

// Agent is one agent as its server knows it.
type Agent struct {
	Instance, Version, Zone string
	Started                 time.Time
	Online                  bool
	Polling                 bool      // a poll of its waits for an answer now
	Seen                    time.Time // its last word
	Optimizer               bool      // it takes leases
	Settings                Settings  // in force, as it says
	Lease, LeaseError       string    // the lease that it follows, and why the last was refused or ended before its time
	Granted                 *Lease    // what it shall have
}

// Lease is what an agent shall have.
type Lease struct {
	ID       string
	Settings Settings
	Other    bool // it sets something beside Settings, as the sampling rate
	Expires  time.Time
	InForce  bool   // the agent follows it
	Refused  string // why it does not want to
}

// empty is a lease that sets nothing: it asks to be shown each window.
func (l *Lease) empty() bool { return l.Settings == Settings{} && !l.Other }

// Options of [NewActuator]: the agents' server. None has a default. Errors that are [optimize.ErrGone] or [optimize.ErrRefused] are
// final, as those of [optimize.Actuator].
type Options struct {
	// Agents are a service's.
	Agents func(tenant, service string) []Agent
	// Lease gives an agent settings for a time, in place of the lease that it had; the same settings prolong it.
	Lease func(ctx context.Context, tenant, service, instance string, s Settings, ttl time.Duration) error
	// Release ends an agent's lease; that there is none is no error.
	Release func(ctx context.Context, tenant, service, instance string) error
}

// Actuator makes changes of the Go runtime's settings by leases. It implements [optimize.Actuator] and [optimize.Watcher].
//
// It keeps nothing: a lease is known by what it sets. An agent has one lease, so a process is of one change of this kind at a time, the one that is
// done and kept in force included, and one that a person has given a lease is left alone.
type Actuator struct{ o Options }

// NewActuator makes one of options that are complete.
func NewActuator(o Options) (*Actuator, error) {
	if o.Agents == nil || o.Lease == nil || o.Release == nil {
		return nil, errors.New("runtime: Options.Agents, Lease and Release are needed")
	}
	return &Actuator{o}, nil
}

// Check says of a person's proposal that its settings are none that an agent would take.
func (*Actuator) Check(p *optimize.Proposal) error {
	_, err := ParseSpec(p.Spec)
	return err
}

// Traits are those of leases: they can be switched, and must be prolonged.
func (*Actuator) Traits(*optimize.Change) optimize.Traits {
	return optimize.Traits{Toggles: true, AtOnce: 16, Keep: keepEvery}
}

// find is a target's agent; [optimize.ErrGone] where it is not there.
func (a *Actuator) find(c *optimize.Change, t optimize.Target) (*Agent, error) {
	for _, g := range a.o.Agents(c.Tenant, c.Service) {
		if g.Instance == t.ID && g.Online {
			return &g, nil
		}
	}
	return nil, fmt.Errorf("runtime: %s: no agent of %s by this name is online: %w", t.ID, c.Service, optimize.ErrGone)
}

// Targets are the agents that are there, take leases and have none of somebody else's.
func (a *Actuator) Targets(_ context.Context, c *optimize.Change) ([]optimize.Target, error) {
	spec, err := ParseSpec(c.Spec)
	if err != nil {
		return nil, err
	}
	var out []optimize.Target
	now := time.Now()
	for _, g := range a.o.Agents(c.Tenant, c.Service) {
		if !g.Online || !g.Optimizer || !g.Polling && now.Sub(g.Seen) > heardWithin {
			continue
		}
		if l := g.Granted; l != nil && !l.empty() && !ours(l, spec) && !passing(l, now) {
			continue
		}
		out = append(out, optimize.Target{ID: g.Instance, Zone: g.Zone, Version: g.Version, Started: g.Started})
	}
	slices.SortFunc(out, func(a, b optimize.Target) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// ours says that a lease is the change's.
func ours(l *Lease, spec Settings) bool { return !l.Other && l.Settings.equal(spec) }

// passing says that a lease ends so soon that it can be waited for, as that of a rehearsal which a crash has cut off.
func passing(l *Lease, now time.Time) bool { return l.Expires.Sub(now) <= rehearseFor }

// Snapshot is the settings in force. With a lease of somebody else's in force it is refused, as undo could not bring that back; a
// lease that is about to end is waited for.
func (a *Actuator) Snapshot(_ context.Context, c *optimize.Change, t optimize.Target) (json.RawMessage, error) {
	spec, err := ParseSpec(c.Spec)
	if err != nil {
		return nil, err
	}
	g, err := a.find(c, t)
	if err != nil {
		return nil, err
	}
	l := g.Granted
	switch {
	case l != nil && !l.empty() && !passing(l, time.Now()) && !ours(l, spec):
		return nil, fmt.Errorf("runtime: %s has a lease of %s already, until %s: release it first: %w", t.ID, leaseText(l), l.Expires.Format(time.TimeOnly), optimize.ErrRefused)
	case l != nil && !l.empty():
		return nil, fmt.Errorf("runtime: %s still has a lease of %s, until %s", t.ID, leaseText(l), l.Expires.Format(time.TimeOnly))
	case g.Lease != "" && (l == nil || l.ID != g.Lease):
		return nil, fmt.Errorf("runtime: %s has not heard yet that its lease has ended", t.ID)
	}
	if _, ok := g.Settings.of(spec); !ok {
		return nil, fmt.Errorf("runtime: %s does not say what its settings are: %w", t.ID, optimize.ErrRefused)
	}
	return g.Settings.raw(), nil
}

func leaseText(l *Lease) string {
	if l.Other {
		return "other settings"
	}
	return l.Settings.String()
}

// Rehearse leases the very settings that are in force, sees them followed, releases them, and sees them as they were: all that undo does, and
// nothing changes. It takes a second or two. What a rehearsal that was cut off has left is prolonged and then released.
func (a *Actuator) Rehearse(ctx context.Context, c *optimize.Change, t optimize.Target, snapshot json.RawMessage) error {
	_, same, err := a.pair(c, snapshot)
	if err != nil {
		return err
	}
	g, err := a.find(c, t)
	if err != nil {
		return err
	}
	if l := g.Granted; l != nil && !l.empty() && !ours(l, same) {
		return fmt.Errorf("runtime: %s has a lease of %s: undo cannot be rehearsed over it", t.ID, leaseText(l))
	}
	if err := a.o.Lease(ctx, c.Tenant, c.Service, t.ID, same, rehearseFor); err != nil {
		return err
	}
	followed := a.await(ctx, c, t, func(g *Agent) (bool, error) {
		l := g.Granted
		switch {
		case l == nil || !ours(l, same):
			return false, fmt.Errorf("runtime: %s: the lease of the rehearsal has ended before it was followed", t.ID)
		case l.Refused != "":
			return false, fmt.Errorf("runtime: %s does not take back what it has (%s): %s: %w", t.ID, same, l.Refused, optimize.ErrRefused)
		}
		return l.InForce && same.within(g.Settings), nil
	})
	// Whatever came of it, and though the caller may have given up: what is leased is taken back.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), rehearseFor)
	defer cancel()
	if err := errors.Join(followed, a.o.Release(end, c.Tenant, c.Service, t.ID)); err != nil {
		return err
	}
	return a.await(ctx, c, t, func(g *Agent) (bool, error) {
		if g.Granted != nil && !g.Granted.empty() || g.Lease != "" && (g.Granted == nil || g.Granted.ID != g.Lease) {
			return false, nil
		}
		if !same.within(g.Settings) {
			now, _ := g.Settings.of(same)
			return false, fmt.Errorf("runtime: %s had %s, and after the rehearsal of undo it has %s: %w", t.ID, same, now, optimize.ErrRefused)
		}
		return true, nil
	})
}

// await looks at an agent until seen says so, or says that it never will.
func (a *Actuator) await(ctx context.Context, c *optimize.Change, t optimize.Target, seen func(*Agent) (bool, error)) error {
	again := time.NewTicker(lookEvery)
	defer again.Stop()
	for {
		g, err := a.find(c, t)
		if err != nil {
			return err
		}
		if done, err := seen(g); done || err != nil {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("runtime: %s has not answered in time: %w", t.ID, context.Cause(ctx))
		}
	}
}

// pair is what a change sets, and what of that the snapshot has.
func (a *Actuator) pair(c *optimize.Change, snapshot json.RawMessage) (spec, found Settings, err error) {
	if spec, err = ParseSpec(c.Spec); err != nil {
		return spec, found, err
	}
	all, err := parse(snapshot)
	if err != nil {
		return spec, found, fmt.Errorf("runtime: snapshot: %w", err)
	}
	found, ok := all.of(spec)
	if !ok {
		return spec, found, fmt.Errorf("runtime: snapshot %s does not say what %s was before", all, spec)
	}
	return spec, found, nil
}

// Apply leases the settings, or prolongs their lease. A lease of somebody else's that has taken its place is left alone.
func (a *Actuator) Apply(ctx context.Context, c *optimize.Change, t optimize.Target, snapshot json.RawMessage) error {
	spec, found, err := a.pair(c, snapshot)
	if err != nil {
		return err
	}
	g, err := a.find(c, t)
	if err != nil {
		return err
	}
	switch l := g.Granted; {
	case l == nil || l.empty():
	case ours(l, spec):
		if l.Refused != "" {
			return fmt.Errorf("runtime: %s: %s: %w", t.ID, l.Refused, optimize.ErrRefused)
		}
	case ours(l, found) && passing(l, time.Now()): // of a rehearsal
	default:
		return fmt.Errorf("runtime: %s has a lease of %s, which somebody else gave: %w", t.ID, leaseText(l), optimize.ErrRefused)
	}
	return a.o.Lease(ctx, c.Tenant, c.Service, t.ID, spec, leaseFor)
}

// Undo releases the lease; the agent restores what it found. One of somebody else's stays.
func (a *Actuator) Undo(ctx context.Context, c *optimize.Change, t optimize.Target, snapshot json.RawMessage) error {
	spec, found, err := a.pair(c, snapshot)
	if err != nil {
		return err
	}
	g, err := a.find(c, t)
	if err != nil {
		return err
	}
	if l := g.Granted; l == nil || l.empty() || !ours(l, spec) && !(ours(l, found) && passing(l, time.Now())) {
		return nil
	}
	return a.o.Release(ctx, c.Tenant, c.Service, t.ID)
}

// Standing is how the change stands at an agent, by what that says of itself.
func (a *Actuator) Standing(_ context.Context, c *optimize.Change, t optimize.Target, snapshot json.RawMessage) (optimize.Standing, string, error) {
	spec, found, err := a.pair(c, snapshot)
	if err != nil {
		return "", "", err
	}
	g, err := a.find(c, t)
	if err != nil {
		return optimize.Gone, "its agent is not online", nil
	}
	s, why := standing(g, spec, found, t.Started)
	return s, why, nil
}

// standing is of an agent that is online. started is when the process began of which found is the snapshot.
func standing(g *Agent, spec, found Settings, started time.Time) (optimize.Standing, string) {
	l := g.Granted
	if l != nil && ours(l, spec) {
		switch {
		case l.Refused != "":
			return optimize.Refused, l.Refused
		case !g.Optimizer:
			return optimize.Refused, "the agent refuses all leases"
		case l.InForce && spec.within(g.Settings):
			return optimize.InForce, ""
		}
		return optimize.Pending, "the agent has not said yet that it follows the lease"
	}
	if g.Lease != "" && (l == nil || l.ID != g.Lease) {
		return optimize.Pending, "the agent has not said yet that its lease has ended"
	}
	switch now, _ := g.Settings.of(spec); {
	case l != nil && !l.empty():
		return optimize.Absent, fmt.Sprintf("another lease has taken its place: %s", leaseText(l))
	case found.within(g.Settings):
		return optimize.Absent, ""
	case !g.Started.Equal(started):
		return optimize.Absent, fmt.Sprintf("its process is another, and began with %s", now)
	case g.LeaseError != "":
		return optimize.Absent, fmt.Sprintf("%s; before it was %s", g.LeaseError, found)
	default:
		return optimize.Pending, fmt.Sprintf("it has no lease, and yet %s instead of %s", now, found)
	}
}

// Watch gives controls a lease that sets nothing: their agents send each window as it closes, as those of the treated do. Who
// has a lease already does that anyway.
func (a *Actuator) Watch(ctx context.Context, c *optimize.Change, controls []optimize.Target) error {
	agents := map[string]*Agent{}
	for _, g := range a.o.Agents(c.Tenant, c.Service) {
		agents[g.Instance] = &g
	}
	var errs []error
	for _, t := range controls {
		g := agents[t.ID]
		if g == nil || !g.Online || !g.Optimizer || g.Granted != nil && !g.Granted.empty() {
			continue
		}
		err := a.o.Lease(ctx, c.Tenant, c.Service, t.ID, Settings{}, leaseFor)
		if err != nil && !errors.Is(err, optimize.ErrGone) && !errors.Is(err, optimize.ErrRefused) {
			errs = append(errs, fmt.Errorf("%s: %w", t.ID, err))
		}
	}
	return errors.Join(errs...)
}

var (
	_ optimize.Actuator = (*Actuator)(nil)
	_ optimize.Watcher  = (*Actuator)(nil)
)
