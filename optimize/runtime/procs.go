package runtime

import (
	"fmt"
	"math"

	"github.com/quantra-l/quantra/optimize"
)

const (
	// throttledLeast is the time that threads stood still, as a part of the processor time used, from which on GOMAXPROCS is too high for the quota.
	throttledLeast = 0.05
	// waitingLeast is the same of goroutines that waited for a processor: as long as they ran, or half of it.
	waitingLeast = 0.5
	// busyLeast is the part of GOMAXPROCS in use from which on it may be what holds a program back.
	busyLeast = 0.75
	// leastProcs is the least that is proposed: Go 1.25's own default does not go below it, as a collector needs a processor beside the program.
	leastProcs = 2
)

// allowed is how many processors an instance can make use of: its cores, or what its quota gives in a period, rounded up, as Go's
// own default has it since 1.25. 0 is not known.
func (m *measured) allowed() float64 {
	n := m.usable
	if m.quota > 0 && n > 0 {
		n = min(n, max(leastProcs, math.Ceil(m.quota)))
	}
	return n
}

// proposeProcs is fewer processors where the quota throttles them, or more where goroutines wait for one while cores idle.
func proposeProcs(in *Input, seen []*measured) *optimize.Proposal {
	most, least := 0.0, math.Inf(1) // of what is allowed
	lowest, highest := math.Inf(1), 0.0
	cpu, throttled, waited, busy, idle := 0.0, 0.0, 0.0, math.Inf(1), math.Inf(1)
	for _, m := range seen {
		a := m.allowed()
		if a == 0 || m.Leased.MaxProcs != nil || m.Settings.MaxProcs == nil || *m.Settings.MaxProcs < 1 {
			return nil
		}
		procs := float64(*m.Settings.MaxProcs)
		most, least = max(most, a), min(least, a)
		lowest, highest = min(lowest, procs), max(highest, procs)
		cpu, throttled, waited = cpu+m.cpu, throttled+m.throttled, waited+m.schedTime
		busy = min(busy, m.cores/procs)
		if m.load == 0 {
			idle = 0 // not known
		}
		idle = min(idle, m.usable-m.load)
	}
	links := evidence(in, [2]string{"waiting for a processor", "runtime:sched_latency_time:nanoseconds::"}, [2]string{"throttled", "runtime:cpu_throttled:nanoseconds::"},
		[2]string{"processor time", "runtime:process_cpu:nanoseconds::"})
	now := fmt.Sprintf("%.0f", lowest)
	if lowest != highest {
		now = fmt.Sprintf("%.0f to %.0f", lowest, highest)
	}
	unknown := "How much that changes is not known before it is tried: the comparison with instances that are left alone tells."
	switch {
	case lowest > most && throttled >= throttledLeast*cpu: // at each instance, and not below what any is allowed
		n := int64(most)
		return &optimize.Proposal{
			Subject: "procs", Spec: Settings{MaxProcs: &n}.raw(), Evidence: links, Warnings: []string{unknown},
			Sentence: fmt.Sprintf("%s runs on GOMAXPROCS %s with a quota of %.3g cores, and its threads stood still for %s of the CPU time they used (goroutines waited %s of it for a processor; %s): GOMAXPROCS %s -> %d, so that the quota lasts for a whole period.",
				in.Service, now, quotaOf(seen), percent(throttled/cpu), percent(waited/cpu), instances(len(seen)), now, n),
		}
	case highest < least && busy >= busyLeast && waited >= waitingLeast*cpu && idle >= 1 && throttled < throttledLeast*cpu:
		n := int64(min(least, highest+math.Floor(idle)))
		return &optimize.Proposal{
			Subject: "procs", Spec: Settings{MaxProcs: &n}.raw(), Evidence: links, Warnings: []string{unknown},
			Sentence: fmt.Sprintf("%s uses %s of GOMAXPROCS %s and its goroutines waited %s of the CPU time for a processor, while %.1f of %.0f cores are idle (%s): GOMAXPROCS %s -> %d.",
				in.Service, percent(busy), now, percent(waited/cpu), idle, least, instances(len(seen)), now, n),
		}
	}
	return nil
}

// quotaOf is the highest quota of any instance; where one has none it is its cores.
func quotaOf(seen []*measured) (q float64) {
	for _, m := range seen {
		if m.quota > 0 {
			q = max(q, m.quota)
		} else {
			q = max(q, m.usable)
		}
	}
	return q
}
