package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/quantra-l/quantra/cmd/quantraband/demo"
	"github.com/quantra-l/quantra/cmd/quantraband/tune"
	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/builds"
	"github.com/quantra-l/quantra/optimize/policyfile"
)

// pgoDir is the folder in the data folder that profiles for the compiler are kept in, and demoBuild the file there that the demo's builds take one from.
const (
	pgoDir    = "pgo"
	demoBuild = "demo/default.pgo"
)

// openPlaces are where builds take profiles from.
func openPlaces() *tune.Places {
	return &tune.Places{Token: func() string { return os.Getenv(githubToken) }}
}

// goals are the services whose builds take a profile, as the policy has them now; the demo's has one of its own where the policy names none.
func (c *changesOptions) goals() (out []tune.Goal) {
	if c.policy != nil {
		for _, g := range c.policy.File().PGO {
			out = append(out, goalOf(&g))
		}
	}
	if c.demo && !slices.ContainsFunc(out, func(g tune.Goal) bool { return g.Service == demo.Service }) {
		out = append(out, tune.Goal{Service: demo.Service, Where: builds.Where{File: filepath.Join(c.dir, pgoDir, demoBuild)}, After: demo.BuildAfter})
	}
	for i := range out {
		if c.demo && out[i].Service == demo.Service {
			out[i].Warnings = []string{demo.BuildWarning}
		}
	}
	return out
}

func goalOf(g *policyfile.PGO) tune.Goal {
	w := builds.Where{File: g.File}
	if g.Repository != "" {
		w.Pull = &builds.Pull{Repository: g.Repository, Path: g.Path, Base: g.Base, API: g.API}
	}
	return tune.Goal{Service: g.Service, Where: w, Since: g.Since, After: g.After}
}

// source is where a service's source is, as the policy has it now.
func (c *changesOptions) source(service string) (builds.Source, bool) {
	if c.policy != nil {
		for _, p := range c.policy.File().Patch {
			if p.Service == service {
				return builds.Source{Repository: p.Repository, Base: p.Base, API: p.API}, true
			}
		}
	}
	return builds.Source{}, false
}

// openPatches is how this server patches source, and what makes proposals of linters' findings.
func openPatches(e *engine, c *changesOptions, agents *fleet.Fleet) (optimize.Actuator, *tune.Patches, error) {
	act, err := builds.NewPatcher(builds.PatchOptions{Source: c.source, Clients: c.places.Clients, Instances: tune.Instances(agents), Now: c.now})
	return act, &tune.Patches{Store: e.db, Source: c.source, Clients: c.places.Clients, Now: c.now}, err
}

// demoFile is the file from which the demo's builds take a profile; "" where they take it from elsewhere.
func (c *changesOptions) demoFile() string {
	for _, g := range c.goals() {
		if g.Service == demo.Service {
			return g.Where.File
		}
	}
	return ""
}

// openBuilds is how this server changes what services are built with, and what proposes it.
func openBuilds(e *engine, c *changesOptions, agents *fleet.Fleet) (optimize.Actuator, func(context.Context, string) ([]optimize.Proposal, error), error) {
	profiles := &tune.Profiles{Store: e.db, Fleet: agents, Dir: filepath.Join(c.dir, pgoDir), Goals: c.goals, Read: c.places.Read}
	act, err := builds.NewActuator(builds.Options{
		Where: profiles.Where, Open: c.places.Open, Profile: profiles.Profile, Instances: tune.Instances(agents), AnyVersion: c.demo,
	})
	return act, func(ctx context.Context, tenant string) ([]optimize.Proposal, error) {
		return profiles.Propose(ctx, tenant, time.Now())
	}, err
}
