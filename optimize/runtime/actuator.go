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
// An agent has one lease, and changes share it: each adds what it sets to what is there of others ([optimize.Change].Beside), and takes away its own part.
// The actuator keeps nothing: whose a setting in a lease is follows from its value. What neither of the changes sets is somebody else's, a person's, and such
// a lease is left alone as a whole. One setting is one change's: two changes of the same one are not in force at an agent at a time.
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

// Targets are the agents that are there, take leases, have none of somebody else's, and none of what the change sets by another change.
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
		p, err := a.partsOf(c, &g, spec, Settings{})
		if err != nil {
			return nil, err
		}
		if p.foreign && !passing(g.Granted, now) || !p.own && p.kept.shares(spec) {
			continue
		}
		out = append(out, optimize.Target{ID: g.Instance, Zone: g.Zone, Version: g.Version, Started: g.Started})
	}
	slices.SortFunc(out, func(a, b optimize.Target) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// parts is whose the settings of an agent's lease are.
type parts struct {
	own     bool     // what the change sets is in it, as it sets it
	kept    Settings // what other changes have in it
	left    bool     // a rehearsal that was cut off has left what was there anyway; it ends soon
	foreign bool     // somebody else's are in it
}

// partsOf tells the settings in an agent's lease apart. was is what the agent had before the change, as far as that is known.
func (a *Actuator) partsOf(c *optimize.Change, g *Agent, spec, was Settings) (p parts, err error) {
	l := g.Granted
	if l == nil || l.empty() {
		return p, nil
	}
	p.own, p.foreign = spec.within(l.Settings), l.Other
	var others []Settings
	for _, raw := range c.Beside[g.Instance] {
		o, err := ParseSpec(raw)
		if err != nil {
			return p, fmt.Errorf("runtime: another change of %s: %w", c.Service, err)
		}
		others = append(others, o)
	}
	own, before := spec.fields(), was.fields()
	for i, f := range l.Settings.fields() {
		same := func(s **int64) bool { return *s != nil && **s == **f }
		switch {
		case *f == nil, p.own && *own[i] != nil:
		case slices.ContainsFunc(others, func(o Settings) bool { return same(o.fields()[i]) }):
			*p.kept.fields()[i] = *f
		case same(before[i]) && passing(l, time.Now()):
			p.left = true
		default:
			p.foreign = true
		}
	}
	return p, nil
}

// passing says that a lease ends so soon that it can be waited for, as that of a rehearsal which a crash has cut off.
func passing(l *Lease, now time.Time) bool { return l.Expires.Sub(now) <= rehearseFor }

// follows says that the agent follows the lease that it shall have, or none where it shall have none.
func (g *Agent) follows() bool {
	if g.Granted == nil || g.Granted.empty() {
		return g.Lease == "" || g.Granted != nil && g.Granted.ID == g.Lease
	}
	return g.Granted.InForce && g.Lease == g.Granted.ID
}

// Snapshot is the settings in force. With a lease of somebody else's in force it is refused, as undo could not bring that back; a
// lease that is about to end is waited for. What other changes have leased stays in force, and is part of it.
func (a *Actuator) Snapshot(_ context.Context, c *optimize.Change, t optimize.Target) (json.RawMessage, error) {
	spec, err := ParseSpec(c.Spec)
	if err != nil {
		return nil, err
	}
	g, err := a.find(c, t)
	if err != nil {
		return nil, err
	}
	p, err := a.partsOf(c, g, spec, Settings{})
	l := g.Granted
	switch {
	case err != nil:
		return nil, err
	case p.foreign && !passing(l, time.Now()):
		return nil, fmt.Errorf("runtime: %s has a lease of %s already, until %s: release it first: %w", t.ID, leaseText(l), l.Expires.Format(time.TimeOnly), optimize.ErrRefused)
	case p.foreign || p.own:
		return nil, fmt.Errorf("runtime: %s still has a lease of %s, until %s", t.ID, leaseText(l), l.Expires.Format(time.TimeOnly))
	case p.kept.shares(spec):
		return nil, fmt.Errorf("runtime: %s has %s by another change: undo that first: %w", t.ID, p.kept, optimize.ErrRefused)
	case !g.follows():
		return nil, fmt.Errorf("runtime: %s has not heard yet of its lease, or that it has ended", t.ID)
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

// Rehearse leases the very settings that are in force beside what other changes have leased, sees them followed, takes them away, and sees all as it
// was: all that undo does, and nothing changes. It takes a second or two. What a rehearsal that was cut off has left is prolonged and then taken away; where
// nobody does that it ends with what it was beside, which the changes that had leased it find out and lease again.
func (a *Actuator) Rehearse(ctx context.Context, c *optimize.Change, t optimize.Target, snapshot json.RawMessage) error {
	spec, was, same, err := a.read(c, snapshot)
	if err != nil {
		return err
	}
	g, err := a.find(c, t)
	if err != nil {
		return err
	}
	p, err := a.partsOf(c, g, spec, was)
	if err != nil {
		return err
	}
	if p.foreign || p.kept.shares(spec) {
		return fmt.Errorf("runtime: %s has a lease of %s: undo cannot be rehearsed over it", t.ID, leaseText(g.Granted))
	}
	with := p.kept.plus(same)
	if err := a.o.Lease(ctx, c.Tenant, c.Service, t.ID, with, rehearseFor); err != nil {
		return err
	}
	followed := a.await(ctx, c, t, func(g *Agent) (bool, error) {
		l := g.Granted
		switch {
		case l == nil || l.Other || !l.Settings.equal(with):
			return false, fmt.Errorf("runtime: %s: the lease of the rehearsal has ended before it was followed", t.ID)
		case l.Refused != "":
			return false, fmt.Errorf("runtime: %s does not take back what it has (%s): %s: %w", t.ID, with, l.Refused, optimize.ErrRefused)
		}
		return l.InForce && with.within(g.Settings), nil
	})
	// Whatever came of it, and though the caller may have given up: what is leased is taken back.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), rehearseFor)
	defer cancel()
	if err := errors.Join(followed, a.leave(end, c, t, p.kept)); err != nil {
		return err
	}
	return a.await(ctx, c, t, func(g *Agent) (bool, error) {
		if !g.follows() || g.Granted != nil && !g.Granted.empty() && !g.Granted.Settings.equal(p.kept) {
			return false, nil
		}
		if !with.within(g.Settings) {
			now, _ := g.Settings.of(with)
			return false, fmt.Errorf("runtime: %s had %s, and after the rehearsal of undo it has %s: %w", t.ID, with, now, optimize.ErrRefused)
		}
		return true, nil
	})
}

// leave is the lease with what others have in it alone; without that there is none.
func (a *Actuator) leave(ctx context.Context, c *optimize.Change, t optimize.Target, kept Settings) error {
	if kept == (Settings{}) {
		return a.o.Release(ctx, c.Tenant, c.Service, t.ID)
	}
	return a.o.Lease(ctx, c.Tenant, c.Service, t.ID, kept, leaseFor)
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

// read is what a change sets, all that the snapshot has, and what of that the change sets.
func (a *Actuator) read(c *optimize.Change, snapshot json.RawMessage) (spec, was, found Settings, err error) {
	if spec, err = ParseSpec(c.Spec); err != nil {
		return spec, was, found, err
	}
	if was, err = parse(snapshot); err != nil {
		return spec, was, found, fmt.Errorf("runtime: snapshot: %w", err)
	}
	found, ok := was.of(spec)
	if !ok {
		return spec, was, found, fmt.Errorf("runtime: snapshot %s does not say what %s was before", was, spec)
	}
	return spec, was, found, nil
}

// Apply adds the settings to what other changes have leased, or prolongs them. A lease of somebody else's that has taken its place is left alone.
func (a *Actuator) Apply(ctx context.Context, c *optimize.Change, t optimize.Target, snapshot json.RawMessage) error {
	spec, was, _, err := a.read(c, snapshot)
	if err != nil {
		return err
	}
	g, err := a.find(c, t)
	if err != nil {
		return err
	}
	p, err := a.partsOf(c, g, spec, was)
	l := g.Granted
	switch {
	case err != nil:
		return err
	case p.foreign || !p.own && p.kept.shares(spec):
		return fmt.Errorf("runtime: %s has a lease of %s, which somebody else gave: %w", t.ID, leaseText(l), optimize.ErrRefused)
	case p.own && l.Refused != "":
		return fmt.Errorf("runtime: %s: %s: %w", t.ID, l.Refused, optimize.ErrRefused)
	case p.kept != (Settings{}) && l.Refused != "":
		return fmt.Errorf("runtime: %s does not take what another change has leased: %s: it is waited until that is taken back", t.ID, l.Refused)
	}
	return a.o.Lease(ctx, c.Tenant, c.Service, t.ID, p.kept.plus(spec), leaseFor)
}

// Undo takes the change's own part out of the lease; the agent restores what it found, and what other changes have leased stays in force. A
// lease of somebody else's stays as it is.
func (a *Actuator) Undo(ctx context.Context, c *optimize.Change, t optimize.Target, snapshot json.RawMessage) error {
	spec, was, _, err := a.read(c, snapshot)
	if err != nil {
		return err
	}
	g, err := a.find(c, t)
	if err != nil {
		return err
	}
	p, err := a.partsOf(c, g, spec, was)
	if err != nil {
		return err
	}
	if p.foreign || !p.own && !p.left {
		return nil
	}
	return a.leave(ctx, c, t, p.kept)
}

// Standing is how the change stands at an agent, by what that says of itself.
func (a *Actuator) Standing(_ context.Context, c *optimize.Change, t optimize.Target, snapshot json.RawMessage) (optimize.Standing, string, error) {
	spec, was, found, err := a.read(c, snapshot)
	if err != nil {
		return "", "", err
	}
	g, err := a.find(c, t)
	if err != nil {
		return optimize.Gone, "its agent is not online", nil
	}
	p, err := a.partsOf(c, g, spec, was)
	if err != nil {
		return "", "", err
	}
	s, why := standing(g, p, spec, found, t.Started)
	return s, why, nil
}

// standing is of an agent that is online. started is when the process began of which found is the snapshot. That a lease is refused is laid to
// whichever of its changes asks first, the one that is not proven before those that are: what is left is leased without it.
func standing(g *Agent, p parts, spec, found Settings, started time.Time) (optimize.Standing, string) {
	l := g.Granted
	if p.own && !p.foreign {
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
	case p.foreign:
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
