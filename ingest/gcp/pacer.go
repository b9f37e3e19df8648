package gcp

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// Bounds of what a Pacer remembers.
const (
	maxDeployments = 10_000
	maxAsked       = 50_000
	maxWaiting     = 5_000
	// askedFor is how long a profile that was asked for may take to come.
	askedFor = 10 * time.Minute
)

// Options are how a [Pacer] paces.
type Options struct {
	// Every is the time between two profiles of one service, version and zone, whatever the number of its instances. 0 is a minute, which is
	// Google's: roughly ten profiles in ten minutes (cloud.google.com/profiler/docs/about-profiler, "Performance impact").
	Every time.Duration
	// Duration is how long a profile covers whose kind covers a time. 0 is 10 s, and at most half of Every.
	Duration time.Duration
	// Wait is how long a call hangs before it is told to come again. 0 is 50 s: the protocol has it come to an end "within ~1m".
	Wait time.Duration
	Now  func() time.Time // nil is time.Now
}

// Pacer says who is to take which profile when.
type Pacer struct {
	opt Options

	mu          sync.Mutex
	deployments map[string]*deployment
	asked       map[string]asked
	waiting     int
	stopped     chan struct{} // closed by Close
}

type deployment struct {
	next time.Time // when its next profile is to be taken
	turn int       // counts the profiles asked for
	last [8]int    // by kind, the turn at which it was asked for last
}

type asked struct {
	profile Profile
	tenant  string
	at      time.Time
}

// NewPacer fills in the defaults of o.
func NewPacer(o Options) *Pacer {
	if o.Every == 0 {
		o.Every = time.Minute
	}
	if o.Duration == 0 {
		o.Duration = min(10*time.Second, o.Every/2)
	}
	if o.Wait == 0 {
		o.Wait = 50 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Pacer{opt: o, deployments: map[string]*deployment{}, asked: map[string]asked{}, stopped: make(chan struct{})}
}

// Close ends the calls that hang, and has later ones not hang: all are told to come [Later], when there may be another server. It may be called
// more than once.
func (p *Pacer) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed() {
		close(p.stopped)
	}
}

func (p *Pacer) closed() bool {
	select {
	case <-p.stopped:
		return true
	default:
		return false
	}
}

// Later says that there is nothing to profile now, and when to come again.
type Later struct {
	After time.Duration
	why   string
}

func (l *Later) Error() string {
	return fmt.Sprintf("%s; ask again in %v", l.why, l.After.Round(time.Millisecond))
}

// Next waits until an agent is to take a profile, and says which: of the kinds that it has the one that is longest ago for its service, so that the
// kinds go round over all instances. Of several that wait any may be asked. Where it is nobody's turn within the time that a call may hang, it is told
// to come [Later].
func (p *Pacer) Next(ctx context.Context, tenant string, c Create) (Profile, error) {
	id, end := deploymentID(tenant, c.Deployment), p.opt.Now().Add(p.opt.Wait)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting >= maxWaiting {
		return Profile{}, &Later{p.opt.Every, fmt.Sprintf("%d agents are waiting already", p.waiting)}
	}
	p.waiting++
	defer func() { p.waiting-- }()
	for {
		if p.closed() {
			return Profile{}, &Later{time.Second + rand.N(stopSpread), "the server is stopping"}
		}
		now := p.opt.Now()
		d, err := p.deployment(id, now)
		if err != nil {
			return Profile{}, err
		}
		if !now.Before(d.next) {
			return p.ask(d, tenant, c, now)
		}
		if d.next.After(end) {
			// Back before it is time, at random: else who was just asked would be the only one that waits.
			after := d.next.Sub(now) - rand.N(min(p.opt.Wait, d.next.Sub(now)))
			return Profile{}, &Later{after, "the next profile of this service, version and zone is not to be taken soon"}
		}
		// Whoever wakes first has it.
		wait := d.next.Sub(now) + rand.N(p.opt.Every/jitter)
		p.mu.Unlock()
		err = p.sleep(ctx, wait)
		p.mu.Lock()
		if err != nil {
			return Profile{}, err
		}
	}
}

const (
	// jitter is the part of the time between two profiles over which agents are spread that wait for the same one.
	jitter = 20
	// stopSpread is the time over which agents are spread whose server stops: they all come to the next one.
	stopSpread = 10 * time.Second
)

// sleep sleeps until d is over, ctx ends, which is an error, or p is closed.
func (p *Pacer) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-p.stopped:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// deploymentID is whom one pace is for.
func deploymentID(tenant string, d Deployment) string {
	return strings.Join([]string{tenant, d.Project, d.Target, d.Labels["version"], d.Labels["zone"]}, "\x00")
}

// deployment is what is known of one; p.mu is held.
func (p *Pacer) deployment(id string, now time.Time) (*deployment, error) {
	d := p.deployments[id]
	if d != nil {
		return d, nil
	}
	if len(p.deployments) >= maxDeployments {
		for id, d := range p.deployments {
			if d.next.Before(now) {
				delete(p.deployments, id) // it has asked for nothing since
			}
		}
	}
	if len(p.deployments) >= maxDeployments {
		return nil, &Later{p.opt.Every, fmt.Sprintf("%d services are profiled already", maxDeployments)}
	}
	d = &deployment{}
	p.deployments[id] = d
	return d, nil
}

// ask says what is to be profiled, and remembers it; p.mu is held.
func (p *Pacer) ask(d *deployment, tenant string, c Create, now time.Time) (Profile, error) {
	if len(p.asked) >= maxAsked {
		for name, a := range p.asked {
			if now.Sub(a.at) > askedFor {
				delete(p.asked, name)
			}
		}
		if len(p.asked) >= maxAsked {
			return Profile{}, &Later{p.opt.Every, fmt.Sprintf("%d profiles have been asked for and have not come", maxAsked)}
		}
	}
	// The pace is constant where who was to wake has overslept a little.
	if d.next = d.next.Add(p.opt.Every); d.next.Before(now.Add(p.opt.Every / 2)) {
		d.next = now.Add(p.opt.Every)
	}
	d.turn++
	kind := c.Kinds[0]
	for _, k := range c.Kinds {
		if d.last[k] < d.last[kind] {
			kind = k
		}
	}
	d.last[kind] = d.turn
	q := Profile{Name: "projects/" + projectOf(c) + "/profiles/" + crand.Text(), Kind: kind, Deployment: c.Deployment}
	if kind.Timed() {
		q.Duration = p.opt.Duration
	}
	p.asked[q.Name] = asked{q, tenant, now}
	return q, nil
}

func projectOf(c Create) string {
	if _, id, ok := strings.Cut(c.Parent, "projects/"); ok && id != "" && !strings.Contains(id, "/") {
		return id
	}
	if c.Deployment.Project != "" {
		return c.Deployment.Project
	}
	return "-"
}

// ErrNotAsked says that a profile came that nobody asked for, or that came too late.
var ErrNotAsked = errors.New("the profile was not asked for, or has come already, or more than 10 minutes late")

// Came fills in what a profile's sender left out, from what it was asked for. What was asked for may come once, after [Pacer.Done]. A profile that says
// itself whose it is may have been asked for by another server of the same store.
func (p *Pacer) Came(tenant string, q *Profile) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.asked[q.Name]
	if !ok || a.tenant != tenant || p.opt.Now().Sub(a.at) > askedFor {
		if q.Deployment.Target != "" && q.Kind.known() {
			return nil
		}
		return ErrNotAsked
	}
	q.Kind, q.Deployment = a.profile.Kind, a.profile.Deployment
	if q.Duration == 0 {
		q.Duration = a.profile.Duration
	}
	return nil
}

// Done forgets a profile that was kept.
func (p *Pacer) Done(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.asked, name)
}

// Waiting is how many calls hang now.
func (p *Pacer) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting
}
