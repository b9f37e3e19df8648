package tune

import (
	"context"
	"fmt"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/measure"
	"github.com/quantra-l/quantra/optimize/runtime"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// units are the figures that proposals rest on, with their units (docs/agent.md).
var units = map[string]string{
	"process_cpu": "nanoseconds", "gc_cpu": "nanoseconds", "heap_live": "bytes", "heap_goal": "bytes", "memory": "bytes", "rss": "bytes", "memory_max": "bytes",
	"cores": "count", "cpu_quota": "millicores", "machine_load": "millicores", "cpu_throttled": "nanoseconds", "sched_latency_time": "nanoseconds",
}

var cpuType = profile.Type{Name: "process_cpu", Sample: profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: profile.ValueType{Type: "cpu", Unit: "nanoseconds"}}

// Proposer makes proposals for services from the profiles that a server keeps and the agents that poll it.
type Proposer struct {
	Store  store.Store
	Reader *measure.Reader
	Fleet  *fleet.Fleet
	// Growing says of a service what is known to grow without end, from open findings, each in a sentence; nil knows nothing.
	Growing func(ctx context.Context, tenant, service string) ([]string, error)
	// Done are a service's changes of the runtime that are kept in force; nil is none.
	Done func(ctx context.Context, tenant, service string) ([]optimize.Change, error)
}

// Propose looks at a service over a range of time. Only instances whose agents are online count, each by itself. Errors are the store's.
func (p *Proposer) Propose(ctx context.Context, tenant, service string, from, to time.Time) ([]optimize.Proposal, error) {
	measured, err := p.Reader.Figures(ctx, tenant, service, units, from, to)
	if err != nil {
		return nil, fmt.Errorf("tune: %w", err)
	}
	by := map[string]*measure.Instance{}
	for i := range measured {
		by[measured[i].ID] = &measured[i]
	}
	done, err := p.done(ctx, tenant, service)
	if err != nil {
		return nil, err
	}
	in := runtime.Input{Service: service, From: from, To: to}
	for _, a := range p.Fleet.Agents(tenant, service) {
		if !a.Online {
			continue
		}
		of := runtime.Instance{ID: a.Instance, Version: a.Version, Settings: settings(a.Settings)}
		of.Leased, of.Foreign = leased(&a, done[a.Instance])
		if m := by[a.Instance]; m != nil {
			of.Windows = windows(m.Windows)
			in.Cores += cores(of.Windows)
		}
		in.Instances = append(in.Instances, of)
	}
	if len(in.Instances) == 0 {
		return nil, nil
	}
	if p.Growing != nil {
		if in.Growing, err = p.Growing(ctx, tenant, service); err != nil {
			return nil, fmt.Errorf("tune: %w", err)
		}
	}
	res, err := p.Store.Select(ctx, store.Query{Tenant: tenant, Type: cpuType, Matchers: []store.Matcher{{Name: profile.LabelService, Value: service}}, From: from, To: to})
	if err != nil {
		return nil, fmt.Errorf("tune: %w", err)
	}
	in.CPU, in.Warnings = analyze.Profiles{res.Profile}, res.Warnings
	return runtime.Propose(in), nil
}

// done is what changes that are done have set, by instance.
func (p *Proposer) done(ctx context.Context, tenant, service string) (map[string][]runtime.Settings, error) {
	if p.Done == nil {
		return nil, nil
	}
	changes, err := p.Done(ctx, tenant, service)
	if err != nil {
		return nil, fmt.Errorf("tune: %w", err)
	}
	out := map[string][]runtime.Settings{}
	for i := range changes {
		spec, err := runtime.ParseSpec(changes[i].Spec)
		if err != nil {
			return nil, fmt.Errorf("tune: change %s: %w", changes[i].ID, err)
		}
		for k := range changes[i].Units {
			if u := &changes[i].Units[k]; u.State == optimize.UnitApplied {
				out[u.ID] = append(out[u.ID], spec)
			}
		}
	}
	return out, nil
}

// leased is what an agent's lease sets. foreign says that there is something in it that no change has set, or that it may not be in force any more.
func leased(a *fleet.Agent, done []runtime.Settings) (s runtime.Settings, foreign bool) {
	if a.Lease != "" && (a.Granted == nil || a.Granted.ID != a.Lease) {
		return s, true
	}
	if a.Granted == nil {
		return s, false
	}
	s = settings(a.Granted.Settings)
	return s, a.Granted.CPURate != nil || !s.Of(done...)
}

// cores is how many cores were used over all windows together.
func cores(ws []runtime.Window) float64 {
	cpu, seconds := 0.0, 0.0
	for i := range ws {
		cpu, seconds = cpu+ws[i].CPU, seconds+ws[i].To.Sub(ws[i].From).Seconds()
	}
	if seconds == 0 {
		return 0
	}
	return cpu / seconds
}

// windows are those that have the heap's figures: one without, as the first of an agent, is no measurement of it.
func windows(ms []measure.Window) []runtime.Window {
	var out []runtime.Window
	for i := range ms {
		m := &ms[i]
		if m.Values["heap_live"] == 0 {
			continue
		}
		out = append(out, runtime.Window{
			From: m.From, To: m.To,
			CPU: m.Values["process_cpu"] / 1e9, GC: m.Values["gc_cpu"] / 1e9,
			Live: m.Values["heap_live"], Goal: m.Values["heap_goal"], Memory: m.Values["memory"], RSS: m.Values["rss"], MemoryMax: m.Values["memory_max"],
			Cores: m.Values["cores"], Quota: m.Values["cpu_quota"] / 1e3, Load: m.Values["machine_load"] / 1e3,
			Throttled: m.Values["cpu_throttled"] / 1e9, SchedTime: m.Values["sched_latency_time"] / 1e9,
		})
	}
	return out
}
