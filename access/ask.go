package access

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// Scope is what a caller may see of what she asks for.
type Scope struct {
	Services []string // others' profiles are not there for her; nil is that all are
	Redact   *Redaction
}

// Allow has the guard decide a question about profiles: raw is single ones, and what shows the labels of samples. services are those that
// the question names, nil where it is about all. Who has a role for some services only sees of all those.
func (a *Access) Allow(ctx context.Context, raw bool, services []string) (Scope, error) {
	c := CallerOf(ctx)
	if c == nil {
		return Scope{}, stranger("log in")
	}
	resource := "profiles/aggregate"
	if raw {
		resource = "profiles/raw"
	}
	scope := Scope{Redact: a.redaction(c, services)}
	if len(services) > 0 {
		for _, s := range services {
			if err := a.decide(ctx, c, c.roles(s), "read", under(resource, s)); err != nil {
				return Scope{}, err
			}
		}
		return scope, nil
	}
	groups := c.groups()
	err := a.decide(ctx, c, c.roles(""), "read", resource)
	if err == nil || len(groups) == 0 {
		return scope, err
	}
	// One decision for each set of roles, not one for each service.
	for _, g := range groups {
		gerr := a.decide(ctx, c, g.roles, "read", resource)
		if gerr == nil {
			scope.Services = append(scope.Services, g.services...)
		} else if !errors.Is(gerr, ErrDenied) {
			return Scope{}, gerr
		}
	}
	if scope.Services == nil {
		return Scope{}, err
	}
	slices.Sort(scope.Services)
	return scope, nil
}

// group is services for which a caller has the same roles.
type group struct {
	roles    []string
	services []string
}

// groups are the services that a caller's grants name.
func (c *Caller) groups() (out []group) {
	var seen []string
	for _, g := range c.Grants {
		if g.Service == "" || slices.Contains(seen, g.Service) {
			continue
		}
		seen = append(seen, g.Service)
		roles := c.roles(g.Service)
		slices.Sort(roles)
		i := slices.IndexFunc(out, func(x group) bool { return strings.Join(x.roles, ",") == strings.Join(roles, ",") })
		if i < 0 {
			out = append(out, group{roles: roles})
			i = len(out) - 1
		}
		out[i].services = append(out[i].services, g.Service)
	}
	return out
}

// redaction is what hides names from this caller, nil where nothing does: from those who are no more than readers of every service
// that is asked for.
func (a *Access) redaction(c *Caller, services []string) *Redaction {
	if a.opt.Redact == nil {
		return nil
	}
	if len(services) == 0 {
		services = []string{""}
	}
	for _, s := range services {
		more := slices.ContainsFunc(c.roles(s), func(role string) bool { return role != "reader" && role != "writer" })
		if !more {
			return a.opt.Redact()
		}
	}
	return nil
}
