package runtime

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
)

// host is an agent with the server that it polls: what is leased it follows at once, as a whole or not at all, and when a lease ends it restores
// what it found.
type host struct {
	id      string
	found   Settings // before the first lease that set it, of what is leased
	now     Settings
	granted *Lease
	refuses func(Settings) string
}

// follow makes the agent's settings those of its lease.
func (h *host) follow() {
	l := h.granted
	if l != nil && !time.Now().Before(l.Expires) {
		h.granted, l = nil, nil
	}
	want := Settings{}
	if l != nil {
		if l.Refused == "" && h.refuses != nil {
			l.Refused = h.refuses(l.Settings)
		}
		if l.InForce = l.Refused == ""; l.InForce {
			want = l.Settings
		}
	}
	for i, f := range want.fields() {
		found, now := h.found.fields()[i], h.now.fields()[i]
		switch {
		case *f != nil && *found == nil:
			*found, *now = *now, *f
		case *f != nil:
			*now = *f
		case *found != nil:
			*now, *found = *found, nil
		}
	}
}

// park is a fleet of hosts, and what an optimizer does to it: it dies at one of its effects.
type park struct {
	t       *testing.T
	hosts   []*host
	journal optimize.Memory
	o       *optimize.Optimizer

	ids, effects, dieAt int
	dieAfter, dead      bool
	steady              bool // GOGC must be 300
}

var errDead = errors.New("the optimizer is dead")

func (p *park) effect(f func() error) error {
	if p.dead {
		return errDead
	}
	p.effects++
	if p.effects == p.dieAt && !p.dieAfter {
		p.dead = true
		return errDead
	}
	err := f()
	if p.effects == p.dieAt {
		p.dead = true
		return errDead
	}
	return err
}

// Keep implements [optimize.Journal], with the rest from its memory.
func (p *park) Keep(ctx context.Context, c *optimize.Change, r *optimize.Rails, events ...optimize.Event) error {
	return p.effect(func() error { return p.journal.Keep(ctx, c, r, events...) })
}

type parkJournal struct {
	*optimize.Memory
	p *park
}

func (j parkJournal) Keep(ctx context.Context, c *optimize.Change, r *optimize.Rails, events ...optimize.Event) error {
	return j.p.Keep(ctx, c, r, events...)
}

func newPark(t *testing.T, n int) *park {
	p := &park{t: t}
	for i := range n {
		p.hosts = append(p.hosts, &host{id: fmt.Sprint("host-", i+1), now: Settings{num(100), num(NoLimit), num(4)}})
	}
	p.start()
	return p
}

// start makes an optimizer that knows what the journal knows.
func (p *park) start() {
	act, err := NewActuator(Options{
		Agents: func(string, string) (out []Agent) {
			for _, h := range p.hosts {
				h.follow()
				a := Agent{Instance: h.id, Version: "v1", Online: true, Polling: true, Seen: time.Now(), Optimizer: true, Settings: h.now}
				if h.granted != nil {
					l := *h.granted
					a.Granted = &l
					if l.InForce {
						a.Lease = l.ID
					}
				}
				out = append(out, a)
			}
			return out
		},
		Lease: func(_ context.Context, _, _, instance string, s Settings, ttl time.Duration) error {
			return p.effect(func() error {
				h := p.host(instance)
				if l := h.granted; l != nil && l.Settings.equal(s) && l.Refused == "" {
					l.Expires = time.Now().Add(ttl)
					return nil
				}
				p.ids++
				h.granted = &Lease{ID: fmt.Sprint("lease-", p.ids), Settings: s, Expires: time.Now().Add(ttl)}
				h.follow()
				return nil
			})
		},
		Release: func(_ context.Context, _, _, instance string) error {
			return p.effect(func() error {
				h := p.host(instance)
				h.granted = nil
				h.follow()
				return nil
			})
		},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	policy := optimize.DefaultPolicy()
	plan := optimize.DefaultPlan()
	plan.Stages = []optimize.Stage{{Nodes: 1, Dwell: 4 * time.Minute, Deadline: 20 * time.Minute}, {Percent: 100, Dwell: 4 * time.Minute, Deadline: 20 * time.Minute}}
	plan.Baseline = 10 * time.Minute
	policy.Kinds[optimize.Runtime] = optimize.KindPolicy{Mode: optimize.Auto, Plan: plan}
	policy.NodeEvery = 0
	p.o, err = optimize.New(optimize.Options{
		Journal: parkJournal{&p.journal, p}, Actuators: map[optimize.Kind]optimize.Actuator{optimize.Runtime: act},
		Policy: func() *optimize.Policy { return policy }, Look: p.measure,
		Record: func(context.Context, optimize.Entry) error { return p.effect(func() error { return nil }) },
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *park) host(id string) *host {
	return p.hosts[slices.IndexFunc(p.hosts, func(h *host) bool { return h.id == id })]
}

// measure is the same of all hosts but for a percent of noise, and the same at each look.
func (p *park) measure(_ context.Context, q optimize.Question) (s optimize.Sight, err error) {
	for _, id := range q.Instances {
		m := judge.Member{Name: id, Series: map[string][]judge.Point{}}
		for at := q.From.Truncate(10 * time.Second); at.Before(q.To.Add(-10 * time.Second)); at = at.Add(10 * time.Second) {
			r := rand.New(rand.NewPCG(uint64(at.Unix()), uint64(id[len(id)-1])))
			for name, v := range map[string]float64{"cpu_per_request": 0.01, "latency_p99": 0.1, "rss": 1e8, "gc_cpu": 0.1, "errors": 0, "throughput": 100} {
				m.Series[name] = append(m.Series[name], judge.Point{From: at, To: at.Add(10 * time.Second), Value: v * (1 + 0.01*r.NormFloat64()), Weight: 1000})
			}
		}
		s.Members = append(s.Members, m)
	}
	return s, nil
}

func (p *park) propose(subject, spec string) string {
	proposal := optimize.Proposal{Kind: optimize.Runtime, Service: "shop", Subject: subject, Basis: "v1", Spec: []byte(spec), Sentence: spec}
	for {
		if c, err := p.o.Submit(p.t.Context(), "t", proposal, "ada"); err == nil {
			return c.ID
		}
		p.pass()
	}
}

// pass lets ten seconds pass. One that died is followed by another half a minute later.
func (p *park) pass() {
	time.Sleep(10 * time.Second) // of the bubble
	if p.dead {
		time.Sleep(20 * time.Second)
		p.dead = false
		p.start()
	}
	p.o.Tick(p.t.Context(), "t") // errors are what the test plants
	for _, h := range p.hosts {
		if p.steady && *h.now.GOGC != 300 {
			p.t.Errorf("%s has %s while the first change is kept", h.id, h.now)
		}
	}
}

func (p *park) change(id string) optimize.Change {
	c, _, err := p.journal.Change(p.t.Context(), "t", id)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// until lets time pass until a change is in a state, and in force at so many hosts as its units say.
func (p *park) until(what, id string, want optimize.State, units int) {
	p.t.Helper()
	for range 600 {
		p.pass()
		c := p.change(id)
		on := 0
		for _, u := range c.Units {
			if u.State == optimize.UnitApplied {
				on++
			}
		}
		if c.State == want && on == units && !p.dead {
			return
		}
	}
	c := p.change(id)
	events, _ := p.journal.Events(p.t.Context(), "t", id, 0)
	for _, e := range events {
		p.t.Logf("%s %s %s %s", e.Time.Format(time.TimeOnly), e.What, e.Target, e.Note)
	}
	p.t.Fatalf("%s: it is %s (%s; held: %s), want %s at %d", what, c.State, c.Reason, c.Held, want, units)
}

// undo is a person's wish, said until it is heard.
func (p *park) undo(id string) {
	for p.change(id).State == optimize.Done {
		p.o.Act(p.t.Context(), "t", id, optimize.Action{Do: "undo", By: "ada"})
		p.pass()
	}
}

func (p *park) has(what string, gogc, procs int64) {
	p.t.Helper()
	for _, h := range p.hosts {
		h.follow()
		if *h.now.GOGC != gogc || *h.now.MaxProcs != procs || *h.now.MemoryLimit != NoLimit {
			p.t.Fatalf("%s: %s has %s, want GOGC %d, GOMAXPROCS %d; lease %+v", what, h.id, h.now, gogc, procs, h.granted)
		}
	}
}

// twoChanges makes one change of the collector and, when that is done, one of processors; then the first is undone, and then the second. Each undo
// restores its own part.
func twoChanges(p *park) {
	for range 65 { // a baseline
		time.Sleep(10 * time.Second)
	}
	gc := p.propose("gc", `{"gogc":300}`)
	p.until("the first", gc, optimize.Done, len(p.hosts))
	p.has("after the first", 300, 4)
	p.steady = p.dieAt == 0 // where nobody dies what is kept stays in force all the while
	procs := p.propose("procs", `{"gomaxprocs":2}`)
	p.until("the second", procs, optimize.Done, len(p.hosts))
	p.has("after both", 300, 2)
	p.steady = false
	p.undo(gc)
	p.until("the first undone", gc, optimize.Undone, 0)
	p.until("the second kept", procs, optimize.Done, len(p.hosts))
	p.has("the first undone", 100, 2)
	p.undo(procs)
	p.until("the second undone", procs, optimize.Undone, 0)
	p.has("both undone", 100, 4)
	for _, h := range p.hosts {
		if h.granted != nil && !h.granted.empty() {
			p.t.Fatalf("%s still has a lease: %+v", h.id, h.granted)
		}
	}
}

// TestShare: two changes share an agent's lease, one after the other, and each undo restores its own part, wherever the optimizer dies.
func TestShare(t *testing.T) {
	effects := 0
	synctest.Test(t, func(t *testing.T) {
		p := newPark(t, 2)
		twoChanges(p)
		effects = p.effects
	})
	if effects < 80 {
		t.Fatalf("%d effects: there is nothing to die at", effects)
	}
	for at := 1; at <= effects; at += crashStep {
		for _, after := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				p := newPark(t, 2)
				p.dieAt, p.dieAfter = at, after
				twoChanges(p)
				if p.effects < at {
					t.Fatalf("it had %d effects, and never died", p.effects)
				}
			})
			if t.Failed() {
				t.Fatalf("died at effect %d (after it: %t)", at, after)
			}
		}
	}
}

// TestShareRefused: an agent that does not take the second change keeps the first, also where it ends what both had leased by itself later.
func TestShareRefused(t *testing.T) {
	for name, late := range map[string]bool{"at once": false, "later": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPark(t, 2)
				for range 65 {
					time.Sleep(10 * time.Second)
				}
				gc := p.propose("gc", `{"gogc":300}`)
				p.until("the first", gc, optimize.Done, 2)
				var until time.Time
				for _, h := range p.hosts {
					h.refuses = func(s Settings) string {
						if s.MaxProcs != nil && *s.MaxProcs == 2 && (!late || !until.IsZero() && time.Now().After(until)) {
							return "GOMAXPROCS 2 does harm"
						}
						return ""
					}
				}
				procs := p.propose("procs", `{"gomaxprocs":2}`)
				want := optimize.Undone // nothing takes it
				if late {
					for p.change(procs).State != optimize.Dwelling {
						p.pass()
					}
					want, until = optimize.Failed, time.Now().Add(time.Minute)
				}
				p.until("the second", procs, want, 0)
				p.until("the first kept", gc, optimize.Done, 2)
				p.has("the second refused", 300, 4)
			})
		})
	}
}

// TestShareNothing: no two changes have one setting, and who has leased something in person is left alone with all of it.
func TestShareNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPark(t, 2)
		for range 65 {
			time.Sleep(10 * time.Second)
		}
		gc := p.propose("gc", `{"gogc":300}`)
		p.until("the first", gc, optimize.Done, 2)
		same := p.propose("by hand", `{"gogc":200,"gomaxprocs":2}`)
		for range 10 {
			p.pass()
		}
		if c := p.change(same); c.State != optimize.Waiting {
			t.Errorf("a second change of GOGC is %s", c.State)
		}
		p.has("a second change of GOGC waits", 300, 4)
		if _, err := p.o.Act(t.Context(), "t", same, optimize.Action{Do: "reject", By: "ada"}); err != nil {
			t.Fatal(err)
		}
		// A person takes the place of the lease on one host, with our GOGC among other things.
		h := p.hosts[0]
		h.granted = &Lease{ID: "person", Settings: Settings{GOGC: num(300), MaxProcs: num(3)}, Expires: time.Now().Add(time.Hour)}
		p.undo(gc)
		p.until("the undo", gc, optimize.Undone, 0)
		if h.follow(); *h.now.GOGC != 300 || *h.now.MaxProcs != 3 || h.granted.ID != "person" {
			t.Errorf("a person's lease was changed: %s, %+v", h.now, h.granted)
		}
		if h := p.hosts[1]; *h.now.GOGC != 100 {
			t.Errorf("it was not undone: %s", h.now)
		}
	})
}

// TestParts: whose a setting in a lease is.
func TestParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &Actuator{}
		spec, was := Settings{MaxProcs: num(2)}, Settings{num(100), num(NoLimit), num(4)}
		c := &optimize.Change{Beside: map[string][]json.RawMessage{"a": {Settings{GOGC: num(300)}.raw(), Settings{MemoryLimit: num(1 << 30)}.raw()}}}
		for name, s := range map[string]struct {
			lease Settings
			ttl   time.Duration
			other bool
			want  parts
		}{
			"none":                     {want: parts{}},
			"its own":                  {lease: spec, want: parts{own: true}},
			"another's":                {lease: Settings{GOGC: num(300)}, want: parts{kept: Settings{GOGC: num(300)}}},
			"all":                      {lease: Settings{num(300), num(1 << 30), num(2)}, want: parts{own: true, kept: Settings{GOGC: num(300), MemoryLimit: num(1 << 30)}}},
			"a person's":               {lease: Settings{MaxProcs: num(3)}, want: parts{foreign: true}},
			"a person's beside":        {lease: Settings{GOGC: num(300), MaxProcs: num(3)}, want: parts{kept: Settings{GOGC: num(300)}, foreign: true}},
			"another value":            {lease: Settings{GOGC: num(299)}, want: parts{foreign: true}},
			"a rehearsal's":            {lease: Settings{GOGC: num(300), MaxProcs: num(4)}, ttl: 5 * time.Second, want: parts{kept: Settings{GOGC: num(300)}, left: true}},
			"what was there, for long": {lease: Settings{MaxProcs: num(4)}, want: parts{foreign: true}},
			"a sampling rate":          {lease: spec, other: true, want: parts{own: true, foreign: true}},
		} {
			l := &Lease{Settings: s.lease, Other: s.other, Expires: time.Now().Add(cmp.Or(s.ttl, time.Minute))}
			got, err := a.partsOf(c, &Agent{Instance: "a", Granted: l}, spec, was)
			if err != nil || got.own != s.want.own || got.left != s.want.left || got.foreign != s.want.foreign || !got.kept.equal(s.want.kept) {
				t.Errorf("%s: %+v, %v; want %+v", name, got, err, s.want)
			}
		}
	})
}
