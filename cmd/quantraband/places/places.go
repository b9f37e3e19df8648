// Package places joins changes of replicas, machines and peers with the places that a policy file names, and with the profiles that a
// server keeps.
//
// The file is asked each time: a place that is added to it is there, and one that is taken out proposes nothing more. What was begun
// at one that is gone is undone there all the same, for as long as this process runs.
package places

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/measure"
	"github.com/quantra-l/quantra/optimize/policyfile"
	"github.com/quantra-l/quantra/optimize/rebalance"
	peers "github.com/quantra-l/quantra/optimize/rebalance/command"
	"github.com/quantra-l/quantra/optimize/scale"
	"github.com/quantra-l/quantra/optimize/scale/command"
	"github.com/quantra-l/quantra/optimize/scale/gce"
	"github.com/quantra-l/quantra/optimize/scale/kube"
	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/store"
)

const (
	// kubeTimeout and cloudTimeout bound one call of a place: the optimizer waits for it.
	kubeTimeout  = 8 * time.Second
	cloudTimeout = 20 * time.Second
	// CallTimeout is what an optimizer with these actuators gives one call: the longest command, the one before it, and some.
	CallTimeout = time.Minute
)

// Options of [New]. All but Node, Cloud and Now are needed.
type Options struct {
	File   func() *policyfile.File // what is in force now
	Store  store.Store
	Reader *measure.Reader
	Fleet  *fleet.Fleet
	// CoreMonth is what a core of a service costs a month, in the currency of the policy; 0 is unknown.
	CoreMonth func(service string) float64
	// Getenv is the server's environment, of which commands get what the policy names.
	Getenv func(string) string
	Node   *p2p.Node        // by which nodes of ours are asked; nil is that there is none, and their peers are not moved
	Cloud  gce.Options      // how Google Cloud is reached; its zero value is Google's own
	Now    func() time.Time // nil is time.Now
}

// Places are where replicas, machines and peers are. Make it with [New].
type Places struct {
	o Options

	mu     sync.Mutex
	opened map[string]*gate             // by the place's own words in the file
	past   map[key]policyfile.Replicas  // the last words on each group, for undo
	movers map[key]policyfile.Peers     // the same of peers
	cloud  *gce.Cloud                   // nil is not yet
	seen   map[key]counted              // how many replicas there were last
	loads  map[key]*history             // what services used
	fits   map[key]fit                  // what was last said of machines
	said   map[key]optimize.PlaceStatus // the last of each place
}

// key is a place of a service: kind, and of replicas the group.
type key struct {
	tenant, service string
	kind            optimize.Kind
	group           string
}

// New checks the options.
func New(o Options) (*Places, error) {
	if o.File == nil || o.Store == nil || o.Reader == nil || o.Fleet == nil || o.CoreMonth == nil || o.Getenv == nil {
		return nil, errors.New("places: File, Store, Reader, Fleet, CoreMonth and Getenv are needed")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Cloud.Timeout = cmp.Or(o.Cloud.Timeout, cloudTimeout)
	return &Places{
		o: o, opened: map[string]*gate{}, past: map[key]policyfile.Replicas{}, movers: map[key]policyfile.Peers{}, seen: map[key]counted{},
		loads: map[key]*history{}, fits: map[key]fit{}, said: map[key]optimize.PlaceStatus{},
	}, nil
}

// of is what the file says of a service of a tenant; nil is nothing.
func (p *Places) of(tenant, service string) *policyfile.Place {
	place := p.o.File().Places[service]
	if place == nil || cmp.Or(place.Tenant, store.DefaultTenant) != cmp.Or(tenant, store.DefaultTenant) {
		return nil
	}
	return place
}

// Tenants are those that have places, sorted.
func (p *Places) Tenants() (out []string) {
	for _, place := range p.o.File().Places {
		out = append(out, cmp.Or(place.Tenant, store.DefaultTenant))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Actuators are those of the kinds that have places.
func (p *Places) Actuators() (map[optimize.Kind]optimize.Actuator, error) {
	replicas, err := scale.NewActuator(scale.ActuatorOptions{Place: p.find})
	if err != nil {
		return nil, err
	}
	moves, err := rebalance.NewActuator(mover{p})
	if err != nil {
		return nil, err
	}
	return map[optimize.Kind]optimize.Actuator{optimize.Scale: replicas, optimize.Machine: machinist{p}, optimize.Rebalance: balancer{moves, p}}, nil
}

// find is where a change's replicas are.
func (p *Places) find(c *optimize.Change, s scale.Spec) (scale.Place, error) {
	k := key{cmp.Or(c.Tenant, store.DefaultTenant), c.Service, optimize.Scale, s.Place + ":" + s.Group}
	var r *policyfile.Replicas
	if place := p.of(c.Tenant, c.Service); place != nil && place.Replicas != nil {
		if name, group := place.Replicas.Place(); name == s.Place && group == s.Group {
			r = place.Replicas
		}
	}
	p.mu.Lock()
	switch {
	case r != nil:
		p.past[k] = *r
	case c.State.Acting() || c.State == optimize.Done: // it may be in force there
		if was, ok := p.past[k]; ok {
			r = &was
		}
	}
	p.mu.Unlock()
	if r == nil {
		return scale.Place{}, fmt.Errorf("%w in the policy: put places.%s.replicas with it back there, or propose for one that is there", scale.ErrNoPlace, c.Service)
	}
	g, err := p.open(r)
	if err != nil {
		return scale.Place{}, err
	}
	return scale.Place{Replicas: g, Floor: r.Rules.Floor, Ceiling: r.Rules.Ceiling}, nil
}

// open is the way to where replicas are, which is made once.
func (p *Places) open(r *policyfile.Replicas) (*gate, error) {
	words, err := json.Marshal([]any{r.Kube, r.Managed, r.Command})
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.opened[string(words)]; g != nil {
		return g, nil
	}
	var to scale.Replicas
	switch {
	case r.Kube != nil:
		to, err = kube.New(kube.Options{Kubeconfig: r.Kube.Kubeconfig, Context: r.Kube.Context, Timeout: kubeTimeout})
	case r.Managed != nil:
		to, err = p.google()
	default:
		to, err = command.New(r.Command.Options(p.o.Getenv))
	}
	if err != nil {
		return nil, err
	}
	g := &gate{to: to, now: p.o.Now}
	p.opened[string(words)] = g
	return g, nil
}

// google is Google Cloud, with the credentials of the environment. It is called under mu.
func (p *Places) google() (*gce.Cloud, error) {
	if p.cloud == nil {
		c, err := gce.New(context.Background(), p.o.Cloud)
		if err != nil {
			return nil, err
		}
		p.cloud = c
	}
	return p.cloud, nil
}

// gate keeps a place that does not answer from holding up all others: after a call that took long and failed it is not called again for a
// while. What fails fast may be tried as often as anybody likes.
type gate struct {
	to  scale.Replicas
	now func() time.Time

	mu    sync.Mutex
	until time.Time
	why   error
}

const (
	longCall = 3 * time.Second
	shutFor  = 30 * time.Second
)

func (g *gate) call(f func() error) error {
	g.mu.Lock()
	if left := g.until.Sub(g.now()); left > 0 && left <= shutFor {
		defer g.mu.Unlock()
		return g.why // in the same words, which are said once
	}
	g.mu.Unlock()
	began := g.now()
	err := f()
	if err == nil || errors.Is(err, optimize.ErrGone) || errors.Is(err, optimize.ErrRefused) || g.now().Sub(began) < longCall {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.until, g.why = g.now().Add(shutFor), err
	return err
}

// Get implements [scale.Replicas].
func (g *gate) Get(ctx context.Context, group string) (st scale.State, err error) {
	err = g.call(func() error { st, err = g.to.Get(ctx, group); return err })
	return st, err
}

// Set implements [scale.Replicas].
func (g *gate) Set(ctx context.Context, group string, was scale.State, n int, dry bool) error {
	return g.call(func() error { return g.to.Set(ctx, group, was, n, dry) })
}

// mover moves the peers of services by the commands that the file has for each, or by the nodes of ours that it names.
type mover struct{ p *Places }

func (m mover) of(service string) (rebalance.Mover, error) {
	k := key{service: service, kind: optimize.Rebalance}
	m.p.mu.Lock()
	defer m.p.mu.Unlock()
	if place := m.p.o.File().Places[service]; place != nil && place.Peers != nil {
		m.p.movers[k] = *place.Peers
	}
	has, ok := m.p.movers[k]
	if !ok {
		return nil, fmt.Errorf("places: the policy has no places.%s.peers: put it back there", service)
	}
	if len(has.Members) == 0 {
		return peers.New(has.Options(m.p.o.Getenv))
	}
	if m.p.o.Node == nil {
		return nil, fmt.Errorf("places: places.%s.peers has members, which this server cannot ask: start it with --node", service)
	}
	nodes := &Nodes{By: m.p.o.Node}
	for _, text := range has.Members {
		id, err := peer.Decode(text)
		if err != nil {
			return nil, fmt.Errorf("places: places.%s.peers.members: %.80q: %w", service, text, err)
		}
		nodes.Members = append(nodes.Members, id)
	}
	return nodes, nil
}

// Nodes implements [rebalance.Mover].
func (m mover) Nodes(ctx context.Context, service string) ([]rebalance.Node, error) {
	c, err := m.of(service)
	if err != nil {
		return nil, err
	}
	return c.Nodes(ctx, service)
}

// Check implements [rebalance.Mover].
func (m mover) Check(ctx context.Context, service string, move rebalance.Move) error {
	c, err := m.of(service)
	if err != nil {
		return err
	}
	return c.Check(ctx, service, move)
}

// Move implements [rebalance.Mover].
func (m mover) Move(ctx context.Context, service, id string, move rebalance.Move) error {
	c, err := m.of(service)
	if err != nil {
		return err
	}
	return c.Move(ctx, service, id, move)
}

// Back implements [rebalance.Mover].
func (m mover) Back(ctx context.Context, service, id string, move rebalance.Move) error {
	c, err := m.of(service)
	if err != nil {
		return err
	}
	return c.Back(ctx, service, id, move)
}

// Moved implements [rebalance.Mover].
func (m mover) Moved(ctx context.Context, service, id string, move rebalance.Move) (n int, made bool, err error) {
	c, err := m.of(service)
	if err != nil {
		return 0, false, err
	}
	return c.Moved(ctx, service, id, move)
}

// balancer is the actuator of moves, for services that have peers in the file.
type balancer struct {
	*rebalance.Actuator
	p *Places
}

// Targets implements [optimize.Actuator].
func (b balancer) Targets(ctx context.Context, c *optimize.Change) ([]optimize.Target, error) {
	if place := b.p.of(c.Tenant, c.Service); place == nil || place.Peers == nil {
		return nil, nil
	}
	return b.Actuator.Targets(ctx, c)
}

// Check implements [optimize.Checker].
func (b balancer) Check(p *optimize.Proposal) error {
	if place := b.p.o.File().Places[p.Service]; place == nil || place.Peers == nil {
		return fmt.Errorf("the policy has no places.%s.peers", p.Service)
	}
	return nil
}
