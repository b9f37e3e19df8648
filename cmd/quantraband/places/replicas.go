package places

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
	"github.com/quantra-l/quantra/optimize/policyfile"
	"github.com/quantra-l/quantra/optimize/scale"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

const (
	// lately is what the rules compare now with: an hour, and what is on its way.
	lately = 70 * time.Minute
	// oldest is how old the newest figures may be: agents upload once a minute.
	oldest = 3 * time.Minute
	// upFor is scale.Options.UpFor where the file says nothing.
	upFor = 5 * time.Minute
	// remembered is how far back load is asked for: four weeks, and the day that the hours of four weeks ago go on in.
	remembered = 29 * 24 * time.Hour
	loadStep   = 5 * time.Minute
)

// allowedUnits are the figures of what a replica is allowed (docs/agent.md).
var allowedUnits = map[string]string{"gomaxprocs": "count", "cpu_quota": "millicores"}

// counted is how many replicas there were, and since when no other number was seen.
type counted struct {
	n     int
	since time.Time
}

// changed is when the number of replicas was last seen to change; what was never seen before may have changed just now.
func (p *Places) changed(k key, n int, now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.seen[k]
	if !ok || c.n != n {
		c = counted{n, now}
		p.seen[k] = c
	}
	return c.since
}

// replicas proposes how many replicas a service should have.
func (p *Places) replicas(ctx context.Context, tenant, service string, r *policyfile.Replicas, with *policyfile.Peers) (answer, error) {
	name, group := r.Place()
	k := key{tenant, service, optimize.Scale, name + ":" + group}
	place, err := p.open(r)
	if err != nil {
		return answer{}, err
	}
	st, err := place.Get(ctx, group)
	if err != nil {
		return answer{}, err
	}
	if st.Owner != "" {
		return answer{why: st.Owner + " decides how many there are: change its bounds, or remove it"}, nil
	}
	now := p.o.Now()
	changed := p.changed(k, st.Replicas, now)
	in := scale.Input{Service: service, Place: name, Group: group, Now: now, Replicas: st.Replicas, Changed: changed}
	rules := r.Rules
	rules.CoreMonth = p.o.CoreMonth(service)
	if err := p.measure(ctx, tenant, service, max(rules.UpFor, upFor), &in); err != nil {
		return answer{}, err
	}
	var unknown error // who is connected
	if with != nil {
		unknown = p.connected(ctx, service, &in)
	}
	if in.History, err = p.history(ctx, k, in.Now); err != nil {
		return answer{}, err
	}
	d, err := scale.Propose(in, rules)
	if unknown != nil && d.Proposal != nil && d.Proposal.Saving > 0 {
		d = scale.Decision{Why: "fewer replicas might do, but how many peers each has is not known"}
	}
	return answer{d.Proposal, d.Why}, errors.Join(err, unknown)
}

// measure fills in what was measured of the replicas. Now becomes the time up to which nearly all of them were.
func (p *Places) measure(ctx context.Context, tenant, service string, window time.Duration, in *scale.Input) error {
	now := in.Now
	names, err := p.o.Reader.Instances(ctx, tenant, service, now.Add(-window-oldest), now)
	if err != nil {
		return err
	}
	sight, err := p.o.Reader.Look(ctx, optimize.Question{Tenant: tenant, Service: service, Instances: names, From: now.Add(-lately), To: now})
	if err != nil {
		return err
	}
	in.Now = upTo(sight.Members, in.Replicas, now)
	figures, err := p.o.Reader.Figures(ctx, tenant, service, allowedUnits, now.Add(-window-oldest), now)
	if err != nil {
		return err
	}
	allowed := map[string]float64{}
	for i := range figures {
		for _, w := range figures[i].Windows {
			if a := w.Values["gomaxprocs"]; a > 0 {
				if q := w.Values["cpu_quota"] / 1e3; q > 0 {
					a = min(a, q)
				}
				allowed[figures[i].ID] = a
			}
		}
	}
	sched := math.NaN()
	if s, ok, err := p.o.Reader.Scheduling(ctx, tenant, service, 0.99, in.Now.Add(-window), in.Now); err != nil {
		return err
	} else if ok {
		sched = s
	}
	versions := map[string]int{}
	for i := range sight.Members {
		m := &sight.Members[i]
		a, ok := allowed[m.Name]
		if !ok {
			a = math.NaN()
		}
		in.Instances = append(in.Instances, scale.Instance{ID: m.Name, Minutes: minutes(m, in.Now, a, sched)})
		if versions[m.Version]++; versions[m.Version] > versions[in.Version] || in.Version == "" {
			in.Version = m.Version
		}
	}
	q := url.Values{"service": {service}, "type": {"runtime:process_cpu:nanoseconds::"}, "from": {fmt.Sprint(in.Now.Add(-time.Hour).UnixMilli())}, "to": {fmt.Sprint(in.Now.UnixMilli())}}
	in.Evidence = []optimize.Evidence{{What: "CPU that its replicas use", Link: "/explore?" + q.Encode()}}
	return nil
}

// upTo is the time up to which nine of ten replicas were measured, and at least now less what is too old. Those that have ended are as if
// there were more of them.
func upTo(members []judge.Member, replicas int, now time.Time) time.Time {
	var ends []time.Time
	for i := range members {
		if ps := members[i].Series["cpu"]; len(ps) > 0 {
			ends = append(ends, ps[len(ps)-1].To)
		}
	}
	floor := now.Add(-oldest)
	if len(ends) == 0 {
		return now
	}
	slices.SortFunc(ends, func(a, b time.Time) int { return b.Compare(a) })
	at := ends[min(len(ends), max(1, int(math.Ceil(0.9*float64(replicas)))))-1]
	switch {
	case at.Before(floor):
		return floor
	case at.After(now):
		return now
	}
	return at
}

// minutes are an instance's up to a time, ascending.
func minutes(m *judge.Member, now time.Time, allowed, sched float64) []scale.Minute {
	const most = 60
	type sum struct{ value, weight float64 }
	var by [3][most]sum // used, requests, p99
	for i, name := range []string{"cpu", "throughput", "latency_p99"} {
		for _, pt := range m.Series[name] {
			if at := int(now.Sub(pt.To) / time.Minute); !pt.To.After(now) && at < most {
				by[i][at].value += pt.Value * pt.Weight
				by[i][at].weight += pt.Weight
			}
		}
	}
	mean := func(s sum) float64 {
		if s.weight == 0 {
			return math.NaN()
		}
		return s.value / s.weight
	}
	var out []scale.Minute
	for at := most - 1; at >= 0; at-- {
		if by[0][at].weight == 0 {
			continue
		}
		out = append(out, scale.Minute{
			At: now.Add(-time.Duration(at) * time.Minute), Used: mean(by[0][at]), Allowed: allowed, Requests: mean(by[1][at]), P99: mean(by[2][at]), Sched: sched, Peers: math.NaN(),
		})
	}
	return out
}

// connected fills in how many peers are connected to each node, as whoever holds them says: now, so for the last minutes.
func (p *Places) connected(ctx context.Context, service string, in *scale.Input) error {
	nodes, err := mover{p}.Nodes(ctx, service)
	if err != nil {
		return err
	}
	of := map[string]int{}
	for _, n := range nodes {
		of[n.ID] = n.Peers
	}
	for i := range in.Instances {
		inst := &in.Instances[i]
		if n, ok := of[inst.ID]; ok {
			for j := range inst.Minutes {
				inst.Minutes[j].Peers = float64(n)
			}
		}
	}
	return nil
}

// history is what a service used, in steps of five minutes, ascending.
type history struct {
	loads []scale.Load
	asked time.Time // up to when
}

// load is what a service used up to a time. Most of it is asked for once.
func (p *Places) history(ctx context.Context, k key, now time.Time) ([]scale.Load, error) {
	p.mu.Lock()
	h := p.loads[k]
	p.mu.Unlock()
	from := now.Add(-remembered)
	var old []scale.Load
	if h != nil {
		if now.Sub(h.asked) < loadStep && !now.Before(h.asked) {
			return h.loads, nil
		}
		// What came late is found in the hour before; a clock that went back asks anew.
		if back := h.asked.Add(-time.Hour); back.After(from) && !now.Before(h.asked) {
			old, from = h.loads, back
		}
	}
	from = from.Truncate(loadStep)
	res, err := p.o.Store.Series(ctx, store.SeriesQuery{Step: loadStep, Query: store.Query{
		Tenant: k.tenant, Type: profile.Type{Name: "runtime", Sample: profile.ValueType{Type: "process_cpu", Unit: "nanoseconds"}},
		Matchers: []store.Matcher{{Name: profile.LabelService, Value: k.service}}, From: from, To: now,
	}})
	if err != nil {
		return nil, fmt.Errorf("places: what %s used: %w", k.service, err)
	}
	var loads []scale.Load
	for _, l := range old {
		if !l.At.After(from) && now.Sub(l.At) < remembered {
			loads = append(loads, l)
		}
	}
	for _, line := range res.Lines {
		for _, pt := range line.Points {
			if at := pt.Time.Add(loadStep); !at.After(now) {
				loads = append(loads, scale.Load{At: at, Cores: float64(pt.Value) / 1e9 / loadStep.Seconds()})
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loads[k] = &history{loads, now}
	return loads, nil
}
