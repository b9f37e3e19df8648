package runtime

import (
	"fmt"
	"math"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
)

const (
	// heapMinimum is the goal of a small heap at GOGC=100 (heapMinimum in runtime/mgcpacer.go); it goes with GOGC.
	heapMinimum = 4 << 20
	// reserve is the part of the memory limit that the pacer keeps free, leastReserve at least (memoryLimitHeapGoal in runtime/mgcpacer.go).
	reserve      = 0.03
	leastReserve = 1 << 20
	// containerShare is the part of a container's memory that a limit takes, beside what is not the runtime's: the Go GC guide
	// (go.dev/doc/gc-guide, "Suggested uses") leaves 5 to 10 % for what the runtime does not know of.
	containerShare = 0.9
	// roomGOGC is the GOGC that a limit must leave at the most live heap: twice what an agent takes a lease for.
	roomGOGC = 40
	// modelLow and modelHigh are by how much the model's saving may be off, beside the interval of what it rests on: docs/runtime.md has the
	// measured table. Measured was up to twice what the model says, as workers that yield and park cost time that no stack lays to the
	// collector; below it, more memory makes more misses in caches, and idle processors mark for nothing.
	modelLow, modelHigh = 0.75, 2
)

// room is how much is allocated from one cycle of the collector to the next, as the pacer of Go 1.26 has it. A cycle is to be done at the goal:
//
//	goal = live + (live + roots) * GOGC/100, heapMinimum * GOGC/100 at least, and not above what the limit leaves
//
// where live is what the last cycle found and roots are stacks and globals (gcControllerState in runtime/mgcpacer.go). What it
// marks, live and roots, does not depend on GOGC, so the time for marking goes with the number of cycles: with 1/(goal - live). What it
// sweeps is what is live and what was allocated since: the time for sweeping goes with 1 + live/(goal - live).
func room(live, roots, gogc float64) float64 {
	return max((live+roots)*gogc/100, heapMinimum*gogc/100-live)
}

// plan is what a memory limit and a GOGC could be at an instance.
type plan struct {
	*measured
	gogc  float64 // in force
	roots float64 // bytes
	limit float64 // bytes, in force or to be set
	set   bool    // it is to be set
	free  float64 // bytes below the limit at the fullest, without the pacer's reserve
	most  float64 // GOGC
}

// room is that of a GOGC.
func (p *plan) room(gogc float64) float64 { return room(p.live, p.roots, gogc) }

// other is what counts for the limit and is no heap.
func (p *plan) other() float64 { return max(0, p.peak-p.goal) }

// planOf says what can be done at an instance. ok is false where nothing can: nobody knows what memory there is, or it is the limit that makes
// the collector run already.
func planOf(m *measured) (p *plan, ok bool) {
	s := m.Settings
	if m.Leased.GOGC != nil || m.Leased.MemoryLimit != nil {
		return nil, false // a change of the collector is done already
	}
	if s.GOGC == nil || s.MemoryLimit == nil || *s.GOGC < 0 {
		return nil, false
	}
	p = &plan{measured: m, gogc: float64(*s.GOGC), limit: float64(*s.MemoryLimit)}
	if *s.MemoryLimit == NoLimit {
		if m.memoryMax == 0 || m.rss == 0 {
			return nil, false
		}
		outside := max(0, m.rss-m.peak) // code, C's memory: not the runtime's
		p.limit, p.set = math.Floor((containerShare*m.memoryMax-outside)/(1<<20))*(1<<20), true
	}
	if p.limit < leastLimit || p.gogc < leastGOGC {
		return nil, false
	}
	p.free = p.limit - max(reserve*p.limit, leastReserve) - m.peak
	if m.peak >= analyze.GCTight*p.limit || p.free <= 0 {
		return nil, false
	}
	// The pacer's goal tells what it counts beside the heap. A goal below that of GOGC alone is the limit's.
	room := m.goal - m.live
	if room < 0.8*p.room(p.gogc) {
		return nil, false
	}
	if room > p.room(p.gogc) {
		p.roots = room*100/p.gogc - m.live
		if heapMinimum*p.gogc/100 >= m.goal*0.95 {
			p.roots = 0 // the least heap, not roots
		}
	}
	p.most = p.gogc * (1 + analyze.GCUseOfRoom*p.free/(p.room(p.gogc)*m.livePeak/m.live))
	left := 100 * (p.limit*(1-reserve) - p.other() - m.livePeak) / (m.livePeak + p.roots)
	return p, left >= roomGOGC
}

// proposeGC is more room for the collector, or a limit where there is none.
func proposeGC(in *Input, seen []*measured) *optimize.Proposal {
	if grows(in, seen) != "" {
		return nil
	}
	var plans []*plan
	limit, want, most := math.Inf(1), math.Inf(1), math.Inf(1)
	for _, m := range seen {
		p, ok := planOf(m)
		if !ok || p.set != (plans != nil && plans[0].set) && plans != nil {
			return nil // settings of one kind cannot be right for all of them
		}
		plans = append(plans, p)
		limit, want, most = min(limit, p.limit), min(want, p.gogc*analyze.GCMaxFactor), min(most, p.most)
	}
	if p := roomier(in, plans, analyze.NeatGOGC(want, most), limit); p != nil {
		return p
	}
	if plans[0].set {
		return limited(in, plans, limit)
	}
	return nil
}

// gain is what a GOGC changes, over all instances by the processor time that they use.
type gain struct {
	factor          float64          // how many times more is allocated from one cycle to the next, where that is least
	marking, sweeps analyze.Estimate // the parts of marking and sweeping that are saved: the mean, the least and the most of an instance
	more            float64          // bytes: the mean
	rss             analyze.Estimate
}

func gainOf(plans []*plan, gogc float64) (g gain) {
	g.factor, g.marking.Low, g.sweeps.Low = math.Inf(1), 1, 1
	cpu := 0.0
	for _, p := range plans {
		cpu += p.cpu
	}
	for _, p := range plans {
		now, then := p.room(p.gogc), p.room(gogc)
		g.factor = min(g.factor, then/now)
		for _, part := range []struct {
			of    *analyze.Estimate
			saved float64
		}{{&g.marking, 1 - now/then}, {&g.sweeps, 1 - (1+p.live/then)/(1+p.live/now)}} {
			part.of.Value += part.saved * p.cpu / cpu
			part.of.Low, part.of.High = min(part.of.Low, part.saved), max(part.of.High, part.saved)
		}
		g.more += (then - now) / float64(len(plans))
		rise := (then - now) / max(p.rss, p.peak)
		g.rss.Value += rise / float64(len(plans))
		g.rss.High = max(g.rss.High, 1.3*rise)
	}
	g.rss.Low = 0.3 * g.rss.Value // the peak stays resident where it is reached between two looks of the scavenger
	return g
}

// saved is the part of the CPU that the gain saves of what the collector takes.
func (g *gain) saved(cost *analyze.Collecting) analyze.Estimate {
	return analyze.Estimate{
		Value: cost.Marking.Value*g.marking.Value + cost.Sweeping.Value*g.sweeps.Value,
		Low:   modelLow * (cost.Marking.Low*g.marking.Low + cost.Sweeping.Low*g.sweeps.Low),
		High:  min(0.9, modelHigh*(cost.Marking.High*g.marking.High+cost.Sweeping.High*g.sweeps.High)),
	}
}

// roomier is a higher GOGC, nil where it is not worth it.
func roomier(in *Input, plans []*plan, gogc, limit float64) *optimize.Proposal {
	cost, ok := analyze.ReadCollecting(in.CPU)
	if !ok || cost.Of < minSamples || gogc <= leastGOGC {
		return nil
	}
	g := gainOf(plans, gogc)
	if g.factor < analyze.GCLeast {
		return nil
	}
	saved := g.saved(&cost)
	if saved.Low < analyze.GCSaving {
		return nil
	}
	n := int64(gogc)
	spec := Settings{GOGC: &n}
	under := fmt.Sprintf("under GOMEMLIMIT %s", bytesText(limit))
	if plans[0].set {
		b := int64(limit)
		spec.MemoryLimit = &b
		under += fmt.Sprintf(", which is not set yet (its container has %s)", bytesText(plans[0].memoryMax))
	}
	full := fullest(plans, limit)
	p := &optimize.Proposal{
		Subject: "gc", Spec: spec.raw(), Saving: saved.Value * in.Cores, Metrics: gcMetrics(plans, g, limit),
		Expected: map[string]analyze.Estimate{"cpu_per_request": {Value: -saved.Value, Low: -saved.High, High: -saved.Low}, "rss": g.rss},
		Evidence: evidence(in, [2]string{"where the processor time goes", "process_cpu:cpu:nanoseconds:cpu:nanoseconds"}, [2]string{"the collector's own account", "runtime:gc_cpu:nanoseconds::"},
			[2]string{"what is live", "runtime:heap_live:bytes::"}, [2]string{"memory", "runtime:memory:bytes::"}),
		Sentence: fmt.Sprintf("%s spends %s of its CPU in GC (%s; %s is marking) with %s of its memory limit unused (%s of %s at the fullest, %s live, a goal of %s; %s): GOGC %s -> %d %s, expected %s CPU (%s) for %s more memory in each.",
			in.Service, percent(cost.All.Value), interval(cost.All), percent(cost.Marking.Value), percent(1-full.peak/limit), bytesText(full.peak), bytesText(limit), bytesText(full.live), bytesText(full.goal),
			instances(len(plans)), gogcs(plans), n, under, percent(-saved.Value), interval(analyze.Estimate{Low: -saved.High, High: -saved.Low}), bytesText(g.more)),
	}
	p.Warnings = gcWarnings(plans, cost)
	return p
}

// limited is a limit alone, which costs nothing and saves nothing: at a peak the collector works, and the container is not killed.
func limited(in *Input, plans []*plan, limit float64) *optimize.Proposal {
	b := int64(limit)
	full := fullest(plans, limit)
	none := analyze.Estimate{Low: -0.01, High: 0.01}
	return &optimize.Proposal{
		Subject: "gc", Spec: Settings{MemoryLimit: &b}.raw(), Metrics: gcMetrics(plans, gain{}, limit),
		Expected: map[string]analyze.Estimate{"cpu_per_request": none, "rss": none},
		Evidence: evidence(in, [2]string{"memory", "runtime:memory:bytes::"}, [2]string{"resident memory", "runtime:rss:bytes::"}),
		Sentence: fmt.Sprintf("%s has no memory limit though its container ends at %s (it has %s at the fullest, %s live; %s): GOMEMLIMIT %s makes the collector work at a peak instead of being killed, expected no change of CPU.",
			in.Service, bytesText(full.memoryMax), bytesText(max(full.rss, full.peak)), bytesText(full.live), instances(len(plans)), bytesText(limit)),
	}
}

func fullest(plans []*plan, limit float64) *plan {
	full := plans[0]
	for _, p := range plans {
		if p.peak > full.peak {
			full = p
		}
	}
	return full
}

func instances(n int) string {
	if n == 1 {
		return "1 instance"
	}
	return fmt.Sprintf("%d instances", n)
}

// gogcs is the GOGC in force, or the least and the most.
func gogcs(plans []*plan) string {
	lo, hi := plans[0].gogc, plans[0].gogc
	for _, p := range plans {
		lo, hi = min(lo, p.gogc), max(hi, p.gogc)
	}
	if lo == hi {
		return fmt.Sprintf("%.0f", lo)
	}
	return fmt.Sprintf("%.0f to %.0f", lo, hi)
}

// gcMetrics are the judge's: memory is what this change pays with, so as much more of it is tolerated as is expected, and a tenth; past
// the limit and what is outside of it there is no peak that is meant.
func gcMetrics(plans []*plan, g gain, limit float64) []judge.Metric {
	outside := 0.0
	for _, p := range plans {
		outside = max(outside, p.rss-p.peak)
	}
	ms := judge.DefaultMetrics()
	for i := range ms {
		if ms[i].Name == "rss" {
			ms[i].Tolerate += g.rss.High
			ms[i].Bound = 1.05*limit + max(0, outside)
		}
	}
	return ms
}

func gcWarnings(plans []*plan, cost analyze.Collecting) (out []string) {
	gc, cpu, windows := 0.0, 0.0, math.MaxInt
	for _, p := range plans {
		gc, cpu, windows = gc+p.gc, cpu+p.cpu, min(windows, len(p.Windows))
	}
	if account := gc / cpu; account > 1.5*cost.All.High {
		out = append(out, fmt.Sprintf("The runtime's own account has %s in GC: it counts time on the clock, so other programs kept the processors busy.", percent(account)))
	}
	if windows < 60 {
		out = append(out, fmt.Sprintf("It rests on %d windows of an instance: peaks may be higher than what was seen.", windows))
	}
	return out
}
