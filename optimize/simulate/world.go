// Package simulate is a fleet with known truth, in virtual time: nodes with noise, load and latency, a change with a planted effect, and what
// goes wrong in the world, as spikes, lost data, lost nodes, and crashes of the optimizer at any of its steps. It shows what the optimizer
// does over many seeded runs, and is what `quantraband changes simulate` shows a policy on.
package simulate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
)

// Epoch is when each simulation begins: a Wednesday, 9:00 UTC.
var Epoch = time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)

// fillMinutes is how long a heap takes to 1-1/e of the room that it is given.
const fillMinutes = 2.5

// Window is what one measurement covers, as an agent's.
const Window = 10 * time.Second

// Effect is what a change does to a node where it is in force. Factors are of what the metric would be without; 0 is 1.
type Effect struct {
	CPU, P99, RSS, Throughput float64
	Errors                    float64       // share of requests that fail beside those that do anyway
	Leak                      float64       // of RSS, by hour since it is in force
	Fill                      float64       // of RSS, that it comes to take within minutes, as a heap does that is given room
	Late                      time.Duration // it shows only after so long
	Versions                  []string      // it is only there; nil is everywhere
	AboveLoad                 float64       // it shows only where the load is at least so many times its mean; 0 is always
	Crash                     time.Duration // the process dies so long after, each time; 0 never
}

// Trouble is what goes wrong beside the change.
type Trouble struct {
	CommonSpikes  float64       // by hour: load and latency of all nodes rise for a minute or two
	OwnSpikes     float64       // by hour and node: one node's latency and CPU rise for a minute
	DataLoss      float64       // share of the time that nothing is measured of a node, in stretches of minutes
	TreatedBlind  bool          // nothing is measured where the change is in force
	NoRequests    bool          // the service is idle
	NodeLoss      float64       // by hour and node: it goes away, and another comes a minute later
	Restarts      float64       // by hour and node
	ActuatorFails float64       // share of the actuator's calls that fail, effect or not
	LookFails     float64       // share of looks that fail
	Crashes       float64       // share of calls, of journal and actuator, at which the optimizer dies
	Rollout       time.Duration // all nodes get a new version, one after the other, from then on
}

// Fleet is the world's size and noise.
type Fleet struct {
	Nodes    int // 0 is 8
	Versions int // 0 is 1
	Zones    int // 0 is 2
	// Host is by how much hosts differ, Noise by how much windows of one do, as standard deviations of logarithms; Memory is
	// how much of a window's noise is the one before's, 0 to 1. 0 is 0.05, 0.06 and 0.5; <0 is none.
	Host, Noise, Memory float64
	Rate                float64 // requests a second of a node; 0 is 50
}

// node is a process of the fleet.
type node struct {
	optimize.Target
	host    float64
	ar      [metrics]float64
	has     map[string]bool // the changes that are in force
	onSince time.Time
	gone    bool
	blind   time.Time // nothing is measured until then
	spike   time.Time
	points  [metrics][]judge.Point
	crashes int
}

// on says that a change is in force: they all have the world's effect, once.
func (n *node) on() bool { return len(n.has) > 0 }

const (
	cpuPerRequest = iota
	p99
	rss
	gcCPU
	failures
	throughput
	cpu
	metrics
)

var names = [metrics]string{"cpu_per_request", "latency_p99", "rss", "gc_cpu", "errors", "throughput", "cpu"}

// World is a fleet of one service and one change. It is an [optimize.Actuator], and measures. One goroutine uses it.
type World struct {
	Now     time.Time
	fleet   Fleet
	effect  Effect
	trouble Trouble
	rng     *rand.Rand // of the world
	luck    *rand.Rand // of faults: apart, so that a fault changes nothing else
	nodes   []*node
	spike   time.Time // of all
	born    int

	// dead says that the optimizer's process has died: nothing of it has an effect any more.
	dead bool
	// calls counts effects of the optimizer; it dies at call dieAt, before or after the effect.
	calls    int
	dieAt    int
	dieAfter bool

	// Hook, if it is set, is asked before each call of the actuator; its error is the call's. Stands, likewise, may say how the change stands.
	Hook   func(call string, t optimize.Target) error
	Stands func(t optimize.Target) (optimize.Standing, string)

	// Acts is what was done, for checks: each apply must be recorded and intended first.
	Acts []Act
}

// Act is an effect that the optimizer had.
type Act struct {
	At   time.Time
	What string // record, intent, apply, undo
	Node string
}

// NewWorld makes a fleet that has run for a day. The same seed is the same world.
func NewWorld(seed uint64, f Fleet, e Effect, t Trouble) *World {
	def := func(x *float64, d float64) {
		switch {
		case *x == 0:
			*x = d
		case *x < 0:
			*x = 0
		}
	}
	def(&f.Host, 0.05)
	def(&f.Noise, 0.06)
	def(&f.Memory, 0.5)
	def(&f.Rate, 50)
	if f.Nodes == 0 {
		f.Nodes = 8
	}
	f.Versions, f.Zones = max(1, f.Versions), max(1, f.Zones)
	for _, x := range []*float64{&e.CPU, &e.P99, &e.RSS, &e.Throughput} {
		def(x, 1)
	}
	w := &World{Now: Epoch, fleet: f, effect: e, trouble: t, rng: rand.New(rand.NewPCG(seed, 0x51c7)), luck: rand.New(rand.NewPCG(seed, 0xfa17))}
	for range f.Nodes {
		w.birth(Epoch.Add(-24*time.Hour), fmt.Sprintf("v%d", 1+w.born%f.Versions))
	}
	return w
}

func (w *World) birth(at time.Time, version string) {
	n := &node{
		Target: optimize.Target{
			ID: fmt.Sprintf("node-%02d", w.born), Version: version,
			Zone: string(rune('a' + w.born/w.fleet.Versions%w.fleet.Zones)), Started: at,
		},
		host: math.Exp(w.rng.NormFloat64() * w.fleet.Host),
	}
	w.born++
	w.nodes = append(w.nodes, n)
}

// chance says that something that happens so often by hour happens in this window.
func (w *World) chance(byHour float64) bool {
	return byHour > 0 && w.rng.Float64() < byHour*Window.Hours()
}

// Advance lets a window pass, and measures it.
func (w *World) Advance() {
	from := w.Now
	w.Now = from.Add(Window)
	if w.chance(w.trouble.CommonSpikes) {
		w.spike = w.Now.Add(time.Minute + time.Duration(w.rng.IntN(60))*time.Second)
	}
	for _, n := range w.nodes {
		if !n.gone {
			w.live(n, from)
		}
	}
	if at := w.trouble.Rollout; at > 0 && from.Sub(Epoch) >= at {
		w.rollOut(from)
	}
}

// rollOut replaces one node by one of the next version each minute.
func (w *World) rollOut(now time.Time) {
	if now.Sub(Epoch)%time.Minute != 0 {
		return
	}
	for _, n := range w.nodes {
		if !n.gone && n.Version != "v9" {
			n.gone, n.has = true, nil
			w.birth(now, "v9")
			return
		}
	}
}

// live is a window of one node's.
func (w *World) live(n *node, from time.Time) {
	switch {
	case w.chance(w.trouble.NodeLoss):
		n.gone, n.has = true, nil
		w.birth(w.Now, n.Version)
		return
	case w.chance(w.trouble.Restarts), n.on() && w.effect.Crash > 0 && w.Now.Sub(n.onSince) >= w.effect.Crash:
		n.has, n.Started = nil, w.Now
		n.crashes++
		return
	}
	if w.trouble.DataLoss > 0 && w.chance(w.trouble.DataLoss*20) { // stretches of three minutes
		n.blind = w.Now.Add(3 * time.Minute)
	}
	if w.chance(w.trouble.OwnSpikes) {
		n.spike = w.Now.Add(time.Minute)
	}
	// A diurnal load of a fifth, in common, and a random walk around it of each node's own.
	day := w.Now.Sub(Epoch).Hours() / 24
	load := 1 + 0.2*math.Sin(2*math.Pi*day)
	slow, hot := 1.0, 1.0
	if w.Now.Before(w.spike) {
		load, slow = load*1.8, 2
	}
	if w.Now.Before(n.spike) {
		slow, hot = slow*2.5, 1.4
	}
	w.measure(n, from, load, slow, hot)
}

// measure adds a window's points.
func (w *World) measure(n *node, from time.Time, load, slow, hot float64) {
	noise := func(m int, scale float64) float64 {
		a := w.fleet.Memory
		n.ar[m] = a*n.ar[m] + math.Sqrt(1-a*a)*w.rng.NormFloat64()
		return math.Exp(n.ar[m] * w.fleet.Noise * scale)
	}
	e, on := w.effect, n.on() && (len(w.effect.Versions) == 0 || slices.Contains(w.effect.Versions, n.Version))
	if on && (w.Now.Sub(n.onSince) < e.Late || load < e.AboveLoad) {
		on = false
	}
	if !on {
		e = Effect{CPU: 1, P99: 1, RSS: 1, Throughput: 1}
	}
	leak := 1 + e.Leak*w.Now.Sub(n.onSince).Hours() + e.Fill*(1-math.Exp(-w.Now.Sub(n.onSince).Minutes()/fillMinutes))
	// A process warms up: for two minutes it takes half as much again for the same work.
	warm := 1.0
	if age := w.Now.Sub(n.Started); age < 2*time.Minute {
		warm = 1.5
	}
	rate := w.fleet.Rate * load * e.Throughput * noise(throughput, 0.5)
	if w.trouble.NoRequests {
		rate = 0
	}
	secs := Window.Seconds()
	requests := math.Round(rate * secs)
	perRequest := 0.010 * n.host * e.CPU * warm * hot * noise(cpuPerRequest, 1)
	failed := 0.0
	for range int(requests) {
		if w.rng.Float64() < 0.001+e.Errors {
			failed++
		}
	}
	v := [metrics]float64{
		cpuPerRequest: perRequest,
		p99:           0.120 * n.host * e.P99 * slow * warm * noise(p99, 2.5),
		rss:           300e6 * e.RSS * leak * noise(rss, 0.3),
		gcCPU:         0.10 * noise(gcCPU, 1),
		failures:      failed / max(1, requests),
		throughput:    rate,
		cpu:           perRequest * rate,
	}
	if w.Now.Before(n.blind) || w.trouble.TreatedBlind && n.on() {
		return
	}
	for m := range v {
		weight := requests
		if m == rss || m == gcCPU || m == cpu || m == throughput {
			weight = secs
		}
		if weight > 0 {
			n.points[m] = append(n.points[m], judge.Point{From: from, To: w.Now, Value: v[m], Weight: weight})
		}
	}
}

// errDead is what calls of a dead optimizer come to.
var errDead = errors.New("the optimizer is dead")

// effect runs one effect of the optimizer's: it may be dead, die before or after it, or be told that it failed.
func (w *World) effectOf(f func()) error {
	if w.dead {
		return errDead
	}
	w.calls++
	at := w.calls == w.dieAt || w.trouble.Crashes > 0 && w.luck.Float64() < w.trouble.Crashes
	after := w.dieAfter
	if w.dieAt == 0 {
		after = w.luck.IntN(2) == 0
	}
	if at && !after {
		w.dead = true
		return errDead
	}
	f()
	if at {
		w.dead = true
		return errDead
	}
	return nil
}

// flaky is an actuator's call, which may fail whether it had its effect or not.
func (w *World) flaky(f func()) error {
	fails := w.trouble.ActuatorFails > 0 && w.luck.Float64() < w.trouble.ActuatorFails
	if fails && w.luck.IntN(2) == 0 {
		return errors.New("the call was lost")
	}
	if err := w.effectOf(f); err != nil {
		return err
	}
	if fails {
		return errors.New("the answer was lost")
	}
	return nil
}

func (w *World) node(id string) (*node, error) {
	if w.dead {
		return nil, errDead
	}
	for _, n := range w.nodes {
		if n.ID == id && !n.gone {
			return n, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", id, optimize.ErrGone)
}

// Traits implements [optimize.Actuator].
func (w *World) Traits(*optimize.Change) optimize.Traits {
	return optimize.Traits{Toggles: true, Keep: time.Minute}
}

// Targets implements [optimize.Actuator].
func (w *World) Targets(context.Context, *optimize.Change) (ts []optimize.Target, err error) {
	if w.dead {
		return nil, errDead
	}
	for _, n := range w.nodes {
		if !n.gone {
			ts = append(ts, n.Target)
		}
	}
	return ts, nil
}

// Snapshot implements [optimize.Actuator].
func (w *World) Snapshot(_ context.Context, _ *optimize.Change, t optimize.Target) (json.RawMessage, error) {
	if _, err := w.asked("snapshot", t); err != nil {
		return nil, err
	}
	return json.RawMessage(`{"on":false}`), nil
}

// Rehearse implements [optimize.Actuator].
func (w *World) Rehearse(_ context.Context, _ *optimize.Change, t optimize.Target, _ json.RawMessage) error {
	_, err := w.asked("rehearse", t)
	return err
}

// asked is the node that a call is about.
func (w *World) asked(call string, t optimize.Target) (*node, error) {
	if w.Hook != nil {
		if err := w.Hook(call, t); err != nil {
			return nil, err
		}
	}
	return w.node(t.ID)
}

// Apply implements [optimize.Actuator].
func (w *World) Apply(_ context.Context, c *optimize.Change, t optimize.Target, _ json.RawMessage) error {
	n, err := w.asked("apply", t)
	if err != nil {
		return err
	}
	return w.flaky(func() {
		w.Acts = append(w.Acts, Act{w.Now, "apply", t.ID})
		if !n.on() {
			n.has, n.onSince = map[string]bool{}, w.Now
		}
		n.has[c.ID] = true
	})
}

// Undo implements [optimize.Actuator].
func (w *World) Undo(_ context.Context, c *optimize.Change, t optimize.Target, _ json.RawMessage) error {
	n, err := w.asked("undo", t)
	if err != nil {
		return err
	}
	return w.flaky(func() {
		w.Acts = append(w.Acts, Act{w.Now, "undo", t.ID})
		delete(n.has, c.ID)
	})
}

// Standing implements [optimize.Actuator].
func (w *World) Standing(_ context.Context, c *optimize.Change, t optimize.Target, _ json.RawMessage) (optimize.Standing, string, error) {
	if w.dead {
		return "", "", errDead
	}
	n, err := w.node(t.ID)
	switch {
	case err != nil:
		return optimize.Gone, "it went away", nil
	case w.Stands != nil && n.has[c.ID]:
		s, why := w.Stands(t)
		return s, why, nil
	case n.has[c.ID]:
		return optimize.InForce, "", nil
	}
	return optimize.Absent, "", nil
}

// Look measures.
func (w *World) Look(_ context.Context, q optimize.Question) (s optimize.Sight, err error) {
	if w.dead {
		return s, errDead
	}
	if w.trouble.LookFails > 0 && w.luck.Float64() < w.trouble.LookFails {
		return s, errors.New("the store does not answer")
	}
	for _, n := range w.nodes {
		if !slices.Contains(q.Instances, n.ID) {
			continue
		}
		m := judge.Member{Name: n.ID, Series: map[string][]judge.Point{}}
		for i, ps := range n.points {
			from, _ := slices.BinarySearchFunc(ps, q.From, func(p judge.Point, t time.Time) int { return p.From.Compare(t) })
			m.Series[names[i]] = slices.Clone(ps[from:])
		}
		s.Members = append(s.Members, m)
	}
	return s, nil
}

// On counts the nodes at which the change is in force, and those that there are.
func (w *World) On() (on, all int) {
	for _, n := range w.nodes {
		if !n.gone {
			all++
			if n.on() {
				on++
			}
		}
	}
	return on, all
}
