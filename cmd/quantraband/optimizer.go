package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/analyze/price"
	"github.com/quantra-l/quantra/cmd/quantraband/places"
	"github.com/quantra-l/quantra/cmd/quantraband/tune"
	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/journal"
	"github.com/quantra-l/quantra/optimize/measure"
	"github.com/quantra-l/quantra/optimize/notices"
	"github.com/quantra-l/quantra/optimize/policyfile"
	"github.com/quantra-l/quantra/optimize/runtime"
	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/watch"
)

// killFile is in the data folder: its presence freezes all changes.
const killFile = "optimizer.off"

// envOptimizer is the switch of agents and servers alike.
const envOptimizer = "PROFILER_OPTIMIZER_ENABLED"

// changesOptions are what up's flags and environment say of changes.
type changesOptions struct {
	dir      string             // the data folder
	policy   *policyfile.Source // nil is builtIn
	builtIn  *optimize.Policy   // nil is the default
	disabled string             // why the environment wants none; "" is that it does not

	node   *p2p.Node           // the server's own; nil where it has none
	getenv func(string) string // the server's environment, of which commands of places get what the policy names
	// now is the time that changes are looked at in; nil is the clock's. tick and consider are how often, 0 is as usual.
	now            func() time.Time
	tick, consider time.Duration
	demo           bool         // the demo's fleet is there
	places         *tune.Places // where builds take profiles from
}

// openPolicy reads what up --policy and the environment say.
func openPolicy(dir, flag string, getenv func(string) string, log *slog.Logger) (c changesOptions, err error) {
	c.dir, c.getenv, c.places = dir, getenv, openPlaces()
	switch v := getenv(envOptimizer); strings.ToLower(v) {
	case "", "1", "t", "true", "on", "yes":
	case "0", "f", "false", "off", "no":
		c.disabled = fmt.Sprintf("The server's environment has %s=%s: nothing is begun or promoted.", envOptimizer, v)
	default:
		return c, usagef("%s=%q: set it to true or false", envOptimizer, v)
	}
	if flag == "" {
		return c, nil
	}
	if c.policy, err = policyfile.Open(flag, log, nil); err != nil {
		return c, usagef("--policy: %w", err)
	}
	return c, nil
}

// enabled says why nothing may be begun, as the environment or a file has it; "" is that it may. It is asked at each look.
func (c *changesOptions) enabled() string {
	if c.disabled != "" {
		return c.disabled
	}
	names := []string{filepath.Join(c.dir, killFile)}
	if c.policy != nil {
		if f := c.policy.File().KillFile; f != "" {
			names = append(names, f)
		}
	}
	for _, name := range names {
		// A file that cannot be looked at may be there: what is meant to stop everything errs on that side.
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Sprintf("The file %s is there: nothing is begun or promoted until it is removed.", name)
		}
	}
	return ""
}

// openOptimizer makes what looks after changes ready; its Run makes it act.
func openOptimizer(e *engine, c changesOptions, audit *auditLog, agents *fleet.Fleet, growing func(ctx context.Context, tenant, service string) ([]string, error), rules analysis, registry prometheus.Registerer, log *slog.Logger) (*optimize.Runner, error) {
	price := priceOf(rules.prices.get, agents)
	opt := optimize.Options{Journal: journal.New(e.control), Enabled: c.enabled, Record: audit.record, Price: price, Logger: log, Now: c.now}
	run := optimize.RunOptions{
		Tenants: func(context.Context) ([]string, error) { return agents.Tenants(), nil },
		Lease:   leases(e.control, log), Tenant: tenantOf, Registry: registry, TickEvery: c.tick, ConsiderEvery: c.consider,
		By: byCaller,
		DecodePolicy: func(r io.Reader) (*optimize.Policy, error) {
			f, err := policyfile.Decode(r)
			if err != nil {
				return nil, err
			}
			return f.Policy, nil
		},
	}
	reader := measure.New(e.db, c.now)
	opt.Look = reader.Look
	if err := settings(&opt, e, agents, reader, growing); err != nil {
		return nil, err
	}
	build, proposeBuilds, err := openBuilds(e, &c, agents)
	if err != nil {
		return nil, err
	}
	opt.Actuators[optimize.PGO], opt.Propose = build, append(opt.Propose, proposeBuilds)
	patcher, patches, err := openPatches(e, &c, agents)
	if err != nil {
		return nil, err
	}
	opt.Actuators[optimize.Patch], run.Patch = patcher, patches.Propose
	if err := c.placed(&opt, &run, e, agents, reader, price); err != nil {
		return nil, err
	}
	if c.builtIn != nil {
		opt.Policy = func() *optimize.Policy { return c.builtIn }
	}
	if c.policy != nil {
		opt.Policy = func() *optimize.Policy { return c.policy.File().Policy }
		run.PolicyFile = c.policy.Status
	}
	if rules.alerts.get() != nil {
		told := notices.Options{Journal: opt.Journal, Control: e.control, Alerts: rules.alerts.get, Link: rules.changeLink, Logger: log}
		if c.policy != nil {
			told.Told = func() []string { return c.policy.File().Told }
		}
		teller, err := notices.New(told)
		if err != nil {
			return nil, err
		}
		run.Beside = teller.Run
	}
	return optimize.NewRunner(opt, run)
}

// proposeFrom is how much of the past proposals rest on: long enough for a trend of what is live, and short enough to be of now.
const proposeFrom = 30 * time.Minute

// settings adds changes of the runtime's settings, which are leased to agents.
func settings(opt *optimize.Options, e *engine, agents *fleet.Fleet, reader *measure.Reader, growing func(ctx context.Context, tenant, service string) ([]string, error)) error {
	leases, err := runtime.NewActuator(tune.Agents(agents))
	if err != nil {
		return err
	}
	opt.Actuators = map[optimize.Kind]optimize.Actuator{optimize.Runtime: leases}
	kept := journal.New(e.control)
	proposer := &tune.Proposer{Store: e.db, Reader: reader, Fleet: agents, Growing: growing, Done: func(ctx context.Context, tenant, service string) ([]optimize.Change, error) {
		return kept.Changes(ctx, tenant, optimize.Filter{Service: service, Kinds: []optimize.Kind{optimize.Runtime}, States: []optimize.State{optimize.Done}})
	}}
	opt.Propose = append(opt.Propose, func(ctx context.Context, tenant string) (all []optimize.Proposal, err error) {
		var errs []error
		now := time.Now()
		for _, service := range agents.Services(tenant) {
			ps, err := proposer.Propose(ctx, tenant, service, now.Add(-proposeFrom), now)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", service, err))
			}
			all = append(all, ps...)
		}
		return all, errors.Join(errs...)
	})
	return nil
}

// placed adds changes of replicas, machines and peers, where the policy file has places for them. A file without any may get some.
func (c *changesOptions) placed(opt *optimize.Options, run *optimize.RunOptions, e *engine, agents *fleet.Fleet, reader *measure.Reader, price func(string, analyze.Estimate) *analyze.Money) error {
	if c.policy == nil {
		return nil
	}
	at, err := places.New(places.Options{
		File: c.policy.File, Store: e.db, Reader: reader, Fleet: agents, Getenv: c.getenv, Node: c.node, Now: c.now,
		CoreMonth: func(service string) float64 {
			return price(service, analyze.Estimate{Value: 1, Low: 1, High: 1}).Amount
		},
	})
	if err != nil {
		return err
	}
	acts, err := at.Actuators()
	if err != nil {
		return err
	}
	maps.Copy(opt.Actuators, acts)
	opt.CallTimeout = places.CallTimeout
	opt.Propose = append(opt.Propose, at.Propose)
	run.Places = at.Status
	run.Tenants = func(context.Context) ([]string, error) { return append(agents.Tenants(), at.Tenants()...), nil }
	return nil
}

// growingOf is what is known of a service to grow without end, from open findings: it gets neither more room nor a limit.
func growingOf(w *watch.Watcher) func(ctx context.Context, tenant, service string) ([]string, error) {
	return func(ctx context.Context, tenant, service string) (out []string, err error) {
		records, err := w.Findings(ctx, tenant, watch.Filter{Service: service, Kinds: []analyze.Kind{analyze.GoroutineLeak, analyze.GoroutineGrowth}})
		for i := range records {
			out = append(out, records[i].Finding.Sentence)
		}
		return out, err
	}
}

// priceOf is what cores of a service cost a month, on the machines that its agents run on.
func priceOf(prices func() *price.File, agents *fleet.Fleet) func(service string, cores analyze.Estimate) *analyze.Money {
	return func(service string, cores analyze.Estimate) *analyze.Money {
		var machines []profile.Labels
		for _, a := range agents.Agents("", service) {
			var pairs []profile.Label
			for name, value := range a.Labels {
				pairs = append(pairs, profile.Label{Name: name, Value: value})
			}
			if labels, err := profile.NewLabels(pairs...); err == nil { // labels that are none say nothing of the machine
				machines = append(machines, labels)
			}
		}
		m := prices().Cores(cores, machines...)
		return &m
	}
}
