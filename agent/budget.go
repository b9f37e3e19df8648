package agent

import (
	"fmt"
	"math"
	"time"
)

// Budget is what an agent may cost. It is measured all the time and kept: an
// agent above it takes fewer profiles, then samples at a lower rate, then pauses, and
// comes back step by step; [Status] and the server show each step.
type Budget struct {
	// CPU is the agent's processor time as a share of the program's: 0.01 is 1 %. A
	// program that does next to nothing counts as one that uses a fifth of a core.
	// 0 is 0.01; <0 is no bound.
	CPU float64
	// Memory is the bytes that the agent itself holds: profiles that wait, what
	// it remembers between windows, buffers, the runtime's CPU profile buffer.
	// 0 is 10 MB; <0 is no bound.
	Memory int64
	// BytesPerMinute is the profiles that are made, as they are sent. 0 is 1 MB; <0 is no bound.
	BytesPerMinute int64
}

const (
	// assumedSignalCost is what a SIGPROF is taken to cost where it cannot be measured: a
	// signal's way in and out and a walk of 24 frames, about twice what is measured on Linux machines.
	assumedSignalCost = 5 * time.Microsecond
	// idleShare of a core is what an idle program counts as using.
	idleShare = 0.2
	// cpuProfileBuffer is what the runtime allocates for each CPU profile:
	// 2^17 words of samples and 2^14 of labels (runtime/cpuprof.go).
	cpuProfileBuffer = 8 * (1<<17 + 1<<14)
	// decideAfter so much at the soonest a step is taken, as the cost is measured by few samples.
	decideAfter = 30 * time.Second
	// remember is what the estimate is over.
	remember = 2 * time.Minute
	// calmFor the agent is well under the budget before a step is taken back; it is doubled each
	// time that it was too soon, up to maxCalm.
	calmFor = 3 * time.Minute
	maxCalm = time.Hour
	// calmly is the part of the budget below which a step may be taken back.
	calmly = 0.6
	// sure is the one-sided 95 % quantile of the normal distribution, by which a count of samples is trusted.
	sure = 1.645
	// busy and calm are shares of all processors above which the sampling rate falls to
	// the lowest, and below which it rises again.
	busyShare, calmShare = 0.85, 0.7
	busyFor              = 20 * time.Second
	// maxSteps of the budget's latest steps are told by Status.
	maxSteps = 20
)

// rung is one step down.
type rung struct {
	off  Types  // not taken from here on
	rate int    // sampled at most at this rate; 0 is no change
	all  bool   // nothing is taken
	name string // as Status tells it
}

// ladder is what can be shed, in order: profile types by what they cost and how much is
// lost with them, then the rate, then everything.
func ladder(types Types, rate int, rates bool) []rung {
	var l []rung
	for _, t := range []Types{Block, GoroutineLeak, Mutex, Goroutine, Allocs | Heap} {
		if off := types & t; off != 0 {
			l = append(l, rung{off: off, name: "no " + off.String()})
		}
	}
	if types&CPU != 0 && rates {
		for i := len(cpuRates) - 1; i >= 0; i-- {
			if cpuRates[i] < rate {
				l = append(l, rung{rate: cpuRates[i], name: fmt.Sprintf("CPU at %d Hz", cpuRates[i])})
			}
		}
	}
	return append(l, rung{all: true, name: "paused"})
}

// windowCost is what one window cost.
type windowCost struct {
	agent   time.Duration // the agent's processor time, by samples of its goroutines and signals
	samples int           // of its goroutines, on which that rests
	period  time.Duration // that a sample stands for
	program time.Duration // processor time of the process
	length  time.Duration
	bytes   int64 // of profiles made
	memory  int64 // that the agent holds at the window's end
}

// plan is what a window may take.
type plan struct {
	types Types
	rate  int // 0 takes no CPU profile
}

// governor decides what windows may take. One goroutine at a time.
type governor struct {
	budget Budget
	types  Types
	rate   int // that is asked for
	leased int // that is wanted now, by the options or a lease; <0 is rate
	rungs  []rung
	rates  bool // other rates than the runtime's can be had

	level  int // rungs taken
	recent []windowCost
	calm   time.Duration // that the agent is well under the budget
	need   time.Duration // of calm before a step up
	climb  time.Duration // since the last step up; <0 is never
	hot    time.Duration // of high load
	loaded bool
}

func newGovernor(b Budget, types Types, rate int, rates bool) *governor {
	return &governor{budget: b, types: types, rate: rate, leased: -1, rates: rates, rungs: ladder(types, rate, rates), need: calmFor, climb: -1}
}

// plan is what the next window may take.
func (g *governor) plan() plan {
	p := plan{types: g.types, rate: g.rate}
	if g.leased >= 0 {
		p.rate = g.leased
	}
	if g.loaded && g.rates {
		p.rate = min(p.rate, cpuRates[0])
	}
	for _, r := range g.rungs[:g.level] {
		p.types &^= r.off
		if r.rate > 0 {
			p.rate = min(p.rate, r.rate)
		}
		if r.all {
			return plan{}
		}
	}
	if !g.rates && p.rate != 0 {
		p.rate = defaultRate
	}
	if p.rate == 0 || p.types&CPU == 0 {
		p.types &^= CPU
		p.rate = 0
	}
	return p
}

// shed names what is not taken at the moment.
func (g *governor) shed() []string {
	var names []string
	for _, r := range g.rungs[:g.level] {
		names = append(names, r.name)
	}
	if g.loaded && g.rates && g.rate > cpuRates[0] {
		names = append(names, fmt.Sprintf("CPU at %d Hz: high load", cpuRates[0]))
	}
	return names
}

// estimate is the agent's share of the program's processor time, and how far
// off it may be: one-sided 95 %, from the number of samples it rests on (a Poisson count).
func (g *governor) estimate() (share, doubt float64) {
	var agent, program, variance float64
	for _, w := range g.recent {
		agent += float64(w.agent)
		program += max(float64(w.program), idleShare*float64(w.length))
		variance += float64(w.samples) * float64(w.period) * float64(w.period)
	}
	if program == 0 {
		return 0, 0
	}
	return agent / program, sure * math.Sqrt(variance) / program
}

// spanned is the time that the estimate is over.
func (g *governor) spanned() (d time.Duration) {
	for _, w := range g.recent {
		d += w.length
	}
	return d
}

// perMinute is the profiles made in a minute, in bytes.
func (g *governor) perMinute() int64 {
	var bytes int64
	for _, w := range g.recent {
		bytes += w.bytes
	}
	length := g.spanned()
	if length <= 0 {
		return 0
	}
	return int64(float64(bytes) * float64(time.Minute) / float64(length))
}

// observe takes a window's cost into account, and is the step that follows from it; "" is none.
func (g *governor) observe(w windowCost, procs int) (step string) {
	g.recent = append(g.recent, w)
	for len(g.recent) > 1 && g.spanned() > remember {
		g.recent = append(g.recent[:0], g.recent[1:]...)
	}
	if g.climb >= 0 {
		g.climb += w.length
	}
	if step := g.load(w, procs); step != "" {
		return step
	}
	if why := g.over(w); why != "" {
		g.calm = 0
		if g.level == len(g.rungs) {
			return ""
		}
		if g.climb >= 0 && g.climb <= g.need { // back up was too soon
			g.need = min(2*g.need, maxCalm)
		}
		g.level++
		g.recent = g.recent[:0]
		return fmt.Sprintf("%s: %s", g.rungs[g.level-1].name, why)
	}
	if g.level == 0 {
		if g.climb > 4*g.need {
			g.need = calmFor
		}
		return ""
	}
	if !g.quiet(w) {
		g.calm = 0
		return ""
	}
	if g.calm += w.length; g.calm < g.need {
		return ""
	}
	g.calm, g.climb = 0, 0
	g.level--
	g.recent = g.recent[:0]
	return fmt.Sprintf("%s: taken back after %v well within the budget", g.rungs[g.level].name, g.need)
}

// over is why the budget is overdrawn, for sure; "" if it is not.
func (g *governor) over(w windowCost) string {
	b := g.budget
	if b.Memory > 0 && w.memory > b.Memory {
		return fmt.Sprintf("the agent holds %d bytes, it may hold %d", w.memory, b.Memory)
	}
	if g.spanned() < decideAfter {
		return ""
	}
	if share, doubt := g.estimate(); b.CPU > 0 && share-doubt > b.CPU {
		return fmt.Sprintf("the agent takes %.2f %% of the program's processor time, it may take %.2f %%", 100*share, 100*b.CPU)
	}
	if n := g.perMinute(); b.BytesPerMinute > 0 && n > b.BytesPerMinute {
		return fmt.Sprintf("the agent makes %d bytes of profiles a minute, it may make %d", n, b.BytesPerMinute)
	}
	return ""
}

// quiet is whether the budget is far from being overdrawn.
func (g *governor) quiet(w windowCost) bool {
	b := g.budget
	share, doubt := g.estimate()
	return !(b.CPU > 0 && share+doubt > calmly*b.CPU && g.level < len(g.rungs)) && // paused costs nothing, whatever the doubt
		!(b.Memory > 0 && float64(w.memory) > calmly*float64(b.Memory)) &&
		!(b.BytesPerMinute > 0 && float64(g.perMinute()) > calmly*float64(b.BytesPerMinute))
}

// load lowers the sampling rate while the program keeps all its processors busy.
func (g *governor) load(w windowCost, procs int) string {
	if !g.rates || w.length <= 0 || procs < 1 {
		return ""
	}
	share := float64(w.program) / float64(w.length) / float64(procs)
	switch {
	case share >= busyShare:
		if g.hot += w.length; g.hot >= busyFor && !g.loaded {
			g.loaded = true
			return fmt.Sprintf("CPU at %d Hz: the program keeps %.0f %% of its processors busy", cpuRates[0], 100*share)
		}
	case share < calmShare:
		g.hot = 0
		if g.loaded {
			g.loaded = false
			return fmt.Sprintf("CPU rate as before: the program keeps %.0f %% of its processors busy", 100*share)
		}
	}
	return ""
}
