package places

import (
	"context"
	"math"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/policyfile"
	"github.com/quantra-l/quantra/optimize/rebalance"
)

// waitedFor is over what time requests in flight and their latency are taken: a minute, and what is on its way.
const waitedFor = 150 * time.Second

// peers proposes who of a service's nodes gives peers to whom.
func (p *Places) peers(ctx context.Context, tenant, service string, with *policyfile.Peers) (answer, error) {
	nodes, err := mover{p}.Nodes(ctx, service)
	if err != nil {
		return answer{}, err
	}
	now := p.o.Now()
	q := optimize.Question{Tenant: tenant, Service: service, From: now.Add(-waitedFor), To: now}
	for i := range nodes {
		if n := &nodes[i]; math.IsNaN(n.RIF) || math.IsNaN(n.Latency) {
			q.Instances = append(q.Instances, n.ID)
		}
	}
	waits, err := p.o.Reader.Waits(ctx, q)
	if err != nil {
		return answer{}, err
	}
	for i := range nodes {
		// Both of one source: two that measure differently are no pair.
		if w, ok := waits[nodes[i].ID]; ok {
			nodes[i].RIF, nodes[i].Latency = w.InFlight, w.Median
		}
	}
	d, err := rebalance.Propose(rebalance.Input{Service: service, Version: p.version(tenant, service), Now: now, Nodes: nodes}, with.Rules)
	return answer{d.Proposal, d.Why}, err
}

// version is that of a service's newest agent; "" is not known.
func (p *Places) version(tenant, service string) string {
	version, started := "", time.Time{}
	for _, a := range p.o.Fleet.Agents(tenant, service) {
		if a.Online && !a.Started.Before(started) {
			version, started = a.Version, a.Started
		}
	}
	return version
}
