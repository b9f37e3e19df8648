package places

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/policyfile"
	"github.com/quantra-l/quantra/optimize/scale"
	"github.com/quantra-l/quantra/optimize/scale/gce"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

const (
	// fitEvery is how often machines are looked at: what they used in a week moves slowly.
	fitEvery = 30 * time.Minute
	// usageStep is what usage is averaged over. Peaks of memory within it are not seen.
	usageStep   = 15 * time.Minute
	maxMachines = 200 // of a service that are looked at: each is a call
)

// fit is what was last said of a service's machines.
type fit struct {
	answer
	at    time.Time
	words string // of the file
}

// machines proposes which type a service's machines should have.
func (p *Places) machines(ctx context.Context, tenant, service string, m *policyfile.Machines) (answer, error) {
	k := key{tenant, service, optimize.Machine, "projects/" + m.Project + "/zones/" + m.Zone}
	words, err := json.Marshal(m)
	if err != nil {
		return answer{}, err
	}
	now := p.o.Now()
	p.mu.Lock()
	last, ok := p.fits[k]
	cloud, err := p.google()
	p.mu.Unlock()
	if err != nil {
		return answer{}, err
	}
	if ok && last.words == string(words) && now.Sub(last.at) < fitEvery && !now.Before(last.at) {
		return last.answer, nil
	}
	in := scale.MachineInput{Service: service, Version: p.version(tenant, service), Now: now}
	if in.Shapes, err = cloud.Shapes(ctx, m.Project, m.Zone); err != nil {
		return answer{}, err
	}
	unfit, err := p.sized(ctx, cloud, tenant, service, m, &in)
	if err != nil {
		return answer{}, err
	}
	used := map[string]bool{}
	for i := range in.Machines {
		used[in.Machines[i].Type] = true
	}
	for i := range in.Shapes {
		if s := &in.Shapes[i]; s.Odd == "" && !m.May(s.Name) && !used[s.Name] {
			s.Odd = "the policy does not have it among its types"
		}
	}
	rules := m.Rules
	rules.CoreMonth = p.o.CoreMonth(service)
	d, err := scale.ProposeMachine(in, rules)
	if err != nil {
		return answer{}, err
	}
	if d.Proposal != nil {
		var s scale.MachineSpec
		if err := json.Unmarshal(d.Proposal.Spec, &s); err != nil {
			return answer{}, err
		}
		if !m.May(s.To) { // one of them runs on a type that the policy does not have
			d = scale.Decision{Why: d.Why + "; " + s.To + " would do, and the policy does not have it among its types"}
		}
	}
	if unfit != "" {
		d.Why += "; left out: " + unfit
	}
	a := answer{d.Proposal, d.Why}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fits[k] = fit{a, now, string(words)}
	return a, nil
}

// sized fills in the machines that have the names of a service's instances, with what they used. unfit says of one why it is left out.
func (p *Places) sized(ctx context.Context, cloud *gce.Cloud, tenant, service string, m *policyfile.Machines, in *scale.MachineInput) (unfit string, err error) {
	names, err := p.o.Reader.Instances(ctx, tenant, service, in.Now.Add(-time.Hour), in.Now)
	if err != nil {
		return "", err
	}
	if len(names) > maxMachines {
		return "", fmt.Errorf("%s has %d instances, and %d machines are looked at at most", service, len(names), maxMachines)
	}
	window := max(m.Rules.Window, 7*24*time.Hour)
	hours, err := p.usage(ctx, tenant, service, in.Now.Add(-window), in.Now, m.Others)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		resource := resourceOf(m, name)
		typ, why, err := cloud.Machine(ctx, resource)
		switch {
		case errors.Is(err, optimize.ErrGone), errors.Is(err, optimize.ErrRefused):
			why = err.Error() // no machine has this name: the instance is named otherwise, or not there
		case err != nil:
			return "", err
		}
		if why != "" {
			unfit = name + ": " + why
			continue
		}
		in.Machines = append(in.Machines, scale.Machine{ID: name, Resource: resource, Type: typ, Hours: hours[name]})
	}
	return unfit, nil
}

// resourceOf is the machine of an instance: it has its name.
func resourceOf(m *policyfile.Machines, instance string) string {
	return "projects/" + m.Project + "/zones/" + m.Zone + "/instances/" + instance
}

// usage is what the machines of a service's instances used: cores by the machine's load or by what the program took, whichever is more, and
// memory by what the program has resident and others take.
func (p *Places) usage(ctx context.Context, tenant, service string, from, to time.Time, others float64) (map[string][]scale.Usage, error) {
	type sums struct{ cpu, load, rss float64 }
	by := map[string]map[time.Time]*sums{}
	for _, f := range []struct {
		name, unit string
		add        func(s *sums, value, windows float64)
	}{
		{"process_cpu", "nanoseconds", func(s *sums, v, _ float64) { s.cpu = v / 1e9 / usageStep.Seconds() }},
		{"machine_load", "millicores", func(s *sums, v, n float64) { s.load = v / n / 1e3 }},
		{"rss", "bytes", func(s *sums, v, n float64) { s.rss = v / n }},
	} {
		res, err := p.o.Store.Series(ctx, store.SeriesQuery{Step: usageStep, GroupBy: []string{profile.LabelInstance}, Query: store.Query{
			Tenant: tenant, Type: profile.Type{Name: "runtime", Sample: profile.ValueType{Type: f.name, Unit: f.unit}},
			Matchers: []store.Matcher{{Name: profile.LabelService, Value: service}}, From: from.Truncate(usageStep), To: to,
		}})
		if err != nil {
			return nil, fmt.Errorf("places: what machines of %s used: %w", service, err)
		}
		for _, line := range res.Lines {
			id := line.Labels.Get(profile.LabelInstance)
			if by[id] == nil {
				by[id] = map[time.Time]*sums{}
			}
			for _, pt := range line.Points {
				if by[id][pt.Time] == nil {
					by[id][pt.Time] = &sums{cpu: math.NaN(), load: math.NaN(), rss: math.NaN()}
				}
				f.add(by[id][pt.Time], float64(pt.Value), float64(max(1, pt.Profiles)))
			}
		}
	}
	out := map[string][]scale.Usage{}
	for id, points := range by {
		for at, s := range points {
			u := scale.Usage{At: at.Add(usageStep), Cores: s.cpu, Memory: s.rss + others}
			if !(s.load <= s.cpu) && !math.IsNaN(s.load) {
				u.Cores = s.load
			}
			if !u.At.After(to) {
				out[id] = append(out[id], u)
			}
		}
	}
	return out, nil
}

// machinist is the actuator of machine types: Google Cloud's, held to what the file allows.
type machinist struct{ p *Places }

// allowed says that a change is of machines and types that the file has.
func (m machinist) allowed(tenant, service string, spec json.RawMessage) error {
	var s scale.MachineSpec
	if err := json.Unmarshal(spec, &s); err != nil {
		return fmt.Errorf("the spec cannot be read: %v", err)
	}
	place := m.p.o.File().Places[service]
	if tenant != "" {
		place = m.p.of(tenant, service)
	}
	if place == nil || place.Machines == nil {
		return fmt.Errorf("the policy has no places.%s.machines", service)
	}
	if !place.Machines.May(s.To) {
		return fmt.Errorf("machine type %.100s is not among places.%s.machines.types", s.To, service)
	}
	for _, ref := range s.Machines {
		if ref.Resource != resourceOf(place.Machines, ref.ID) || strings.Contains(ref.ID, "/") {
			return fmt.Errorf("machine %.200s is not the one of instance %.100s in places.%s.machines", ref.Resource, ref.ID, service)
		}
	}
	return nil
}

// Check implements [optimize.Checker].
func (m machinist) Check(p *optimize.Proposal) error { return m.allowed("", p.Service, p.Spec) }

func (m machinist) cloud() (*gce.Machines, error) {
	m.p.mu.Lock()
	defer m.p.mu.Unlock()
	c, err := m.p.google()
	if err != nil {
		return nil, err
	}
	return gce.NewMachines(gce.MachineOptions{Cloud: c, Rejoined: m.rejoined})
}

// rejoined says that the agent of a machine's instance has begun, and was heard of, since a time.
func (m machinist) rejoined(_ context.Context, t optimize.Target, since time.Time) (bool, error) {
	for _, tenant := range m.p.o.Fleet.Tenants() {
		for _, a := range m.p.o.Fleet.Agents(tenant, "") {
			if a.Instance == t.ID && a.Online && a.Started.After(since) && a.Seen.After(since) {
				return true, nil
			}
		}
	}
	return false, nil
}

// Traits implements [optimize.Actuator].
func (machinist) Traits(c *optimize.Change) optimize.Traits { return (*gce.Machines)(nil).Traits(c) }

// Targets implements [optimize.Actuator].
func (m machinist) Targets(ctx context.Context, c *optimize.Change) ([]optimize.Target, error) {
	if err := m.allowed(c.Tenant, c.Service, c.Spec); err != nil && !c.State.Acting() && c.State != optimize.Done {
		return nil, nil // the file may have changed since it was proposed
	}
	a, err := m.cloud()
	if err != nil {
		return nil, err
	}
	return a.Targets(ctx, c)
}

// Snapshot implements [optimize.Actuator].
func (m machinist) Snapshot(ctx context.Context, c *optimize.Change, t optimize.Target) (json.RawMessage, error) {
	a, err := m.cloud()
	if err != nil {
		return nil, err
	}
	return a.Snapshot(ctx, c, t)
}

// Rehearse implements [optimize.Actuator].
func (m machinist) Rehearse(ctx context.Context, c *optimize.Change, t optimize.Target, snapshot json.RawMessage) error {
	if err := m.allowed(c.Tenant, c.Service, c.Spec); err != nil {
		return fmt.Errorf("places: %w: %v", optimize.ErrRefused, err)
	}
	a, err := m.cloud()
	if err != nil {
		return err
	}
	return a.Rehearse(ctx, c, t, snapshot)
}

// Apply implements [optimize.Actuator].
func (m machinist) Apply(ctx context.Context, c *optimize.Change, t optimize.Target, snapshot json.RawMessage) error {
	a, err := m.cloud()
	if err != nil {
		return err
	}
	return a.Apply(ctx, c, t, snapshot)
}

// Undo implements [optimize.Actuator].
func (m machinist) Undo(ctx context.Context, c *optimize.Change, t optimize.Target, snapshot json.RawMessage) error {
	a, err := m.cloud()
	if err != nil {
		return err
	}
	return a.Undo(ctx, c, t, snapshot)
}

// Standing implements [optimize.Actuator].
func (m machinist) Standing(ctx context.Context, c *optimize.Change, t optimize.Target, snapshot json.RawMessage) (optimize.Standing, string, error) {
	a, err := m.cloud()
	if err != nil {
		return "", "", err
	}
	return a.Standing(ctx, c, t, snapshot)
}
