package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/quantra-l/quantra/agent/live"
	"github.com/quantra-l/quantra/analyze/sched"
	"github.com/quantra-l/quantra/cmd/quantraband/console"
	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/profile"
	quantrav1 "github.com/quantra-l/quantra/wire/quantra/v1"
)

// hottestSince is how far back a service's hottest functions are asked for: its agents upload each minute.
const hottestSince = 5 * time.Minute

// serviceSource is a program with our agent, through the server that it reports to
// (docs/format/agents.md).
type serviceSource struct {
	t        *liveTop
	instance string // whose goroutines and traces are shown: two looks at two programs would say nothing
}

// source chooses an instance, where the user named none: the first that is there. Where none is,
// the views that need one will say so; the profiles that it has sent can be shown all the same.
func (s *serviceSource) source(ctx context.Context) *console.Source {
	name := s.t.q.service
	if s.instance = s.t.instance; s.instance == "" {
		agents, err := s.list(ctx)
		here := slices.DeleteFunc(agents, func(a fleet.Agent) bool { return !a.Online })
		if err == nil && len(here) > 0 {
			s.instance = slices.MinFunc(here, func(a, b fleet.Agent) int { return cmp.Compare(a.Instance, b.Instance) }).Instance
		}
		if len(here) > 1 {
			name = fmt.Sprintf("%s, one of %d: %s", name, len(here), s.instance)
		}
	}
	if !strings.Contains(name, ":") && s.instance != "" {
		name += ": " + s.instance
	}
	return &console.Source{
		Name:       name + " at " + strings.TrimPrefix(s.t.q.server, "http://"),
		Goroutines: s.goroutines, Functions: s.functions, Runtime: s.agents, Trace: s.trace,
	}
}

// ask asks the server about the service's agents, and decodes the answer into out. takes is how long the answer needs by itself.
func (s *serviceSource) ask(ctx context.Context, route string, takes time.Duration, extra url.Values, out any) error {
	q := s.t.q
	q.timeout += takes
	v := url.Values{"service": {q.service}}
	maps.Copy(v, extra)
	return q.call(ctx, http.MethodGet, route+"?"+v.Encode(), nil, out)
}

// ofInstance is a parameter, and the instance where there is one.
func (s *serviceSource) ofInstance(name, value string) url.Values {
	v := url.Values{name: {value}}
	if s.instance != "" {
		v.Set("instance", s.instance)
	}
	return v
}

func (s *serviceSource) goroutines(ctx context.Context, full bool) (out live.Snapshot, err error) {
	err = s.ask(ctx, "/goroutines", 0, s.ofInstance("full", strconv.FormatBool(full || s.t.full)), &out)
	return out, err
}

func (s *serviceSource) trace(ctx context.Context) (out sched.Summary, err error) {
	seconds := s.t.seconds
	err = s.ask(ctx, "/trace", time.Duration(seconds)*time.Second, s.ofInstance("seconds", strconv.Itoa(seconds)), &out)
	return out, err
}

// functions are the hottest of the profiles that the service has sent.
func (s *serviceSource) functions(ctx context.Context) (out console.Functions, err error) {
	q := s.t.q
	q.since, q.sampleType = age(hottestSince), "cpu"
	if s.t.instance != "" {
		q.matchers = fmt.Sprintf("{%s=%q}", profile.LabelInstance, s.t.instance)
	}
	c := q.client()
	sel, err := q.selection(ctx, c)
	if err != nil {
		return out, err
	}
	resp, err := c.Top(ctx, connect.NewRequest(&quantrav1.TopRequest{Selection: sel}))
	if err != nil {
		return out, q.serverError(err)
	}
	meta := resp.Msg.GetMeta()
	out = console.Functions{Rows: []profile.TopRow{}, Sample: sampleOf(meta), Total: int64(meta.GetTotal()), Over: "the last 5 minutes"}
	for _, r := range resp.Msg.Rows {
		out.Rows = append(out.Rows, profile.TopRow{Name: r.Name, File: r.File, Self: int64(r.Self), Total: int64(r.Total)})
	}
	return out, nil
}

func (s *serviceSource) list(ctx context.Context) ([]fleet.Agent, error) {
	var answer struct{ Agents []fleet.Agent }
	err := s.ask(ctx, "", 0, nil, &answer)
	return answer.Agents, err
}

// agents is what the service's agents say of their programs.
func (s *serviceSource) agents(ctx context.Context) (console.Runtime, error) {
	out := console.Runtime{Time: time.Now(), Figures: []console.Figure{}}
	list, err := s.list(ctx)
	if err != nil {
		return out, err
	}
	for _, g := range list {
		if s.t.instance != "" && g.Instance != s.t.instance {
			continue
		}
		add := func(name, text string) {
			out.Figures = append(out.Figures, console.Figure{Group: g.Instance, Name: name, Text: text})
		}
		add("version", g.Version)
		add("runs", fmt.Sprintf("%s on %s, since %s", g.Go, g.OS, g.Started.Local().Format(time.DateTime)))
		seen := "here"
		if !g.Online {
			seen = "away, seen last " + g.Seen.Local().Format(time.DateTime)
		}
		add("agent", g.Agent+", "+seen)
		add("settings", settingsText(g.Settings))
		add("cost", costText(g.Status))
		if g.Granted != nil {
			add("lease", leaseText(g.Granted, out.Time))
		}
		if g.LeaseError != "" {
			add("lease refused", g.LeaseError)
		}
		if !g.Optimizer {
			add("optimizer", "not allowed to change settings here")
		}
	}
	if len(out.Figures) == 0 {
		return out, fmt.Errorf("%s knows no agent of service %s; `quantraband query services` says who sends profiles", s.t.q.server, s.t.q.service)
	}
	return out, nil
}
