package places

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/policyfile"
	"github.com/quantra-l/quantra/store"
)

const (
	atOnce  = 8                // places that are asked at a time
	askedIn = 25 * time.Second // how long one of them may take
)

// answer is what comes of one place.
type answer struct {
	proposal *optimize.Proposal // nil is none
	why      string
}

// job is one place to ask.
type job struct {
	key
	place string // as people read it
	ask   func(ctx context.Context) (answer, error)
}

// Propose asks all places of a tenant's, each by itself: one that cannot be reached is an error, and keeps no other from being asked.
func (p *Places) Propose(ctx context.Context, tenant string) ([]optimize.Proposal, error) {
	tenant = cmp.Or(tenant, store.DefaultTenant)
	jobs := p.jobs(p.o.File(), tenant)
	proposals, errs := make([]*optimize.Proposal, len(jobs)), make([]error, len(jobs))
	said := make([]optimize.PlaceStatus, len(jobs))
	turns := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, j := range jobs {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			a, err := j.run(ctx)
			proposals[i] = a.proposal
			said[i] = optimize.PlaceStatus{Service: j.service, Kind: j.kind, Place: j.place, Says: a.why, At: p.o.Now().UTC()}
			if err != nil {
				said[i].Error = err.Error()
				errs[i] = fmt.Errorf("%s of %s at %s: %w", j.kind, j.service, j.place, err)
			}
		})
	}
	wg.Wait()
	p.keep(tenant, jobs, said)
	var out []optimize.Proposal
	for _, q := range proposals {
		if q != nil {
			out = append(out, *q)
		}
	}
	return out, errors.Join(errs...)
}

// run asks within a time. A fault of ours in one place does not end the others.
func (j *job) run(ctx context.Context) (a answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, askedIn)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			a, err = answer{}, fmt.Errorf("a fault of the program's: %v", v)
		}
	}()
	return j.ask(ctx)
}

// jobs are the places of a tenant's whose kind the policy has not off, by service.
func (p *Places) jobs(f *policyfile.File, tenant string) (out []job) {
	for _, service := range slices.Sorted(maps.Keys(f.Places)) {
		place := f.Places[service]
		if cmp.Or(place.Tenant, store.DefaultTenant) != tenant {
			continue
		}
		add := func(k optimize.Kind, group string, ask func(ctx context.Context) (answer, error)) {
			if f.Policy.For(k, service).Mode != optimize.Off {
				out = append(out, job{key{tenant, service, k, group}, group, ask})
			}
		}
		if r := place.Replicas; r != nil {
			name, group := r.Place()
			add(optimize.Scale, name+":"+group, func(ctx context.Context) (answer, error) { return p.replicas(ctx, tenant, service, r, place.Peers) })
		}
		if m := place.Machines; m != nil {
			add(optimize.Machine, "projects/"+m.Project+"/zones/"+m.Zone, func(ctx context.Context) (answer, error) { return p.machines(ctx, tenant, service, m) })
		}
		if place.Peers != nil {
			add(optimize.Rebalance, "command", func(ctx context.Context) (answer, error) { return p.peers(ctx, tenant, service, place.Peers) })
		}
	}
	return out
}

// keep notes what was said of a tenant's places, and forgets those that are not in the file any more.
func (p *Places) keep(tenant string, jobs []job, said []optimize.PlaceStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.said, func(k key, _ optimize.PlaceStatus) bool { return k.tenant == tenant })
	there := map[key]bool{}
	for i, j := range jobs {
		p.said[j.key], there[j.key] = said[i], true
	}
	gone := func(k key) bool { return k.tenant == tenant && !there[k] }
	maps.DeleteFunc(p.seen, func(k key, _ counted) bool { return gone(k) })
	maps.DeleteFunc(p.loads, func(k key, _ *history) bool { return gone(k) })
	maps.DeleteFunc(p.fits, func(k key, _ fit) bool { return gone(k) })
}

// Status is what was last said of a tenant's places, by service and kind.
func (p *Places) Status(tenant string) []optimize.PlaceStatus {
	tenant = cmp.Or(tenant, store.DefaultTenant)
	p.mu.Lock()
	defer p.mu.Unlock()
	out := []optimize.PlaceStatus{}
	for k, s := range p.said {
		if k.tenant == tenant {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b optimize.PlaceStatus) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Kind, b.Kind))
	})
	return out
}
