package runtime

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
)

// Input is what [Propose] looks at: a service over a range of time. What is not known stays zero, and what rests on it is not proposed.
type Input struct {
	Service   string
	From, To  time.Time
	CPU       analyze.Profiles // of the whole service over the range; see analyze.Snapshot
	Cores     float64          // that the whole service used
	Instances []Instance
	// Growing says of which instances it is known that they hold ever more, as open findings of leaks have it, each in a sentence: such a
	// program gets neither more room nor a limit.
	Growing  []string
	Warnings []string // of who measured; every proposal repeats them
}

// Instance is one process.
type Instance struct {
	ID, Version string
	Settings    Settings // in force
	// Leased is what changes that are done have set of them: nothing is proposed on top of that. Foreign says that somebody else's lease may be in
	// force: then they are not the program's own, and nothing is proposed at all.
	Leased  Settings
	Foreign bool
	Windows []Window // ascending
}

// Window is what the runtime's figures had of one window (docs/agent.md). 0 is not known.
type Window struct {
	From, To  time.Time
	CPU, GC   float64 // seconds: of the process, as the operating system counts them; of the collector, as the runtime does
	Live      float64 // bytes that the last collection found alive
	Goal      float64 // bytes of heap at which the next one is to be done
	Memory    float64 // bytes that the runtime has from the operating system
	RSS       float64 // bytes resident
	MemoryMax float64 // bytes that its container may have; 0 is no limit, or not known
	// Cores that it may run on, the cores' worth of time that its container allows, and the machine's load.
	Cores, Quota, Load float64
	Throttled          float64 // seconds that its threads stood still, as the quota was used up
	SchedTime          float64 // seconds that goroutines waited for a processor
}

const (
	// minWindows and minSpan are the least that is known of an instance for it to count.
	minWindows = 12
	minSpan    = 2 * time.Minute
	// soonWindows and soonSpan are the same where windows are short: there are more of them, and what rises is taken for a rise with soonP in place of
	// risesP. That finds leaks no more rarely than minWindows over minSpan do with risesP, and one of five instances that do not rise is taken for
	// one that does: it waits for minSpan (docs/runtime.md has the rates, TestProposeSoon holds them).
	soonWindows = 20
	soonSpan    = 80 * time.Second
	soonP       = 0.2
	// minSamples of the CPU profile: below it a share of 10 % is known to a third of itself only (Wilson's interval).
	minSamples = 500
	// What rises by risesBy of itself within what is known, or would double within risesTo, rises where chance is a poor explanation: with
	// less than risesP for one among all instances, or more of them than chance explains. One of twenty services that do not rise is
	// taken for one that does, and nothing is proposed this time.
	risesBy = 0.02
	risesTo = 24 * time.Hour
	risesP  = 0.05
)

// Propose is what could be set otherwise, at most one change of the collector (Subject "gc") and one of processors ("procs").
// The same input gives the same proposals. Every figure that one rests on is in its sentence; prices are added elsewhere.
func Propose(in Input) []optimize.Proposal {
	seen, ok := known(&in)
	if !ok {
		return nil
	}
	var out []optimize.Proposal
	for _, propose := range []func(*Input, []*measured) *optimize.Proposal{proposeGC, proposeProcs} {
		p := propose(&in, seen)
		if p == nil {
			continue
		}
		p.Kind, p.Service, p.Basis = optimize.Runtime, in.Service, basis(seen)
		p.Warnings = slices.Concat(in.Warnings, p.Warnings)
		if len(seen) == 1 {
			p.Warnings = append(p.Warnings, "It is measured in one instance.")
		}
		out = append(out, *p)
	}
	return out
}

// basis is the versions that run, sorted.
func basis(seen []*measured) string {
	var versions []string
	for _, m := range seen {
		versions = append(versions, m.Version)
	}
	slices.Sort(versions)
	return strings.Join(slices.Compact(versions), ",")
}

// measured is an instance with what its windows say together.
type measured struct {
	*Instance
	span                 time.Duration
	cores                float64 // used
	gc                   float64 // seconds of the collector, as the runtime counts
	cpu                  float64 // seconds
	live, goal, memory   float64 // means, bytes
	peak, livePeak       float64 // the most of memory and live in any window
	rss                  float64 // the most; 0 is not known
	memoryMax            float64 // the least of any window; 0 is none
	usable, quota, load  float64 // cores: usable the least, load the most of any window
	throttled, schedTime float64 // seconds
	// rises is the p-value that what is live does not rise; 1 where it rises by so little that it does not matter. Below level chance is a poor explanation.
	rises, level float64
}

// known is the instances of which enough is known. ok is false where nothing can be proposed: too little is known of too many of them, or
// what is said of one cannot be.
func known(in *Input) (seen []*measured, ok bool) {
	for i := range in.Instances {
		of := &in.Instances[i]
		if of.Foreign {
			return nil, false
		}
		m, sound := measure(of)
		if !sound {
			return nil, false
		}
		if m != nil {
			seen = append(seen, m)
		}
	}
	return seen, len(seen) > 0 && 2*len(seen) >= len(in.Instances)
}

// measure sums an instance's windows; nil is too few. sound is false where one has what cannot be.
func measure(of *Instance) (m *measured, sound bool) {
	if len(of.Windows) < minWindows {
		return nil, true
	}
	m = &measured{Instance: of, usable: math.Inf(1), memoryMax: math.Inf(1), quota: math.Inf(1)}
	live := make([]float64, len(of.Windows))
	seconds, n := 0.0, float64(len(of.Windows))
	for i := range of.Windows {
		w := &of.Windows[i]
		if !w.sound() || i > 0 && w.From.Before(of.Windows[i-1].From) {
			return nil, false
		}
		seconds += w.To.Sub(w.From).Seconds()
		m.cpu, m.gc = m.cpu+w.CPU, m.gc+w.GC
		m.throttled, m.schedTime = m.throttled+w.Throttled, m.schedTime+w.SchedTime
		m.live, m.goal, m.memory = m.live+w.Live/n, m.goal+w.Goal/n, m.memory+w.Memory/n
		m.peak, m.livePeak, m.rss, m.load = max(m.peak, w.Memory), max(m.livePeak, w.Live), max(m.rss, w.RSS), max(m.load, w.Load)
		least(&m.memoryMax, w.MemoryMax)
		least(&m.usable, w.Cores)
		least(&m.quota, w.Quota)
		live[i] = w.Live
	}
	for _, x := range []*float64{&m.memoryMax, &m.usable, &m.quota} {
		if math.IsInf(*x, 1) {
			*x = 0
		}
	}
	m.span = of.Windows[len(of.Windows)-1].To.Sub(of.Windows[0].From)
	soon := len(of.Windows) >= soonWindows && m.span >= soonSpan
	if m.span < minSpan && !soon || m.live <= 0 || m.goal <= 0 || m.memory <= 0 || m.cpu <= 0 {
		return nil, true
	}
	m.cores = m.cpu / seconds
	m.rises, m.level = rising(live, m.live, m.span), risesP
	if m.span < minSpan {
		m.level = soonP
	}
	return m, true
}

func least(to *float64, v float64) {
	if v > 0 {
		*to = min(*to, v)
	}
}

// sound says that the window's figures can be: what is not sound was not measured.
func (w *Window) sound() bool {
	for _, x := range []float64{w.CPU, w.GC, w.Live, w.Goal, w.Memory, w.RSS, w.MemoryMax, w.Cores, w.Quota, w.Load, w.Throttled, w.SchedTime} {
		if !(x >= 0) || x > 1e18 {
			return false
		}
	}
	// A process cannot have more time than its cores had, give or take a clock tick.
	s := w.To.Sub(w.From).Seconds()
	return s > 0 && (w.Cores == 0 || w.CPU <= 1.1*w.Cores*s+0.1)
}

// rising is the p-value that what is live does not rise, 1 where it rises little.
func rising(live []float64, mean float64, span time.Duration) float64 {
	slope, p := analyze.Rise(live)
	added := slope * float64(len(live)) // within the span
	if added > risesBy*mean || added*float64(risesTo)/float64(span) > mean {
		return p
	}
	return 1
}

// grows says why the service's memory is known to grow, "" where it is not. Among many instances some rise by chance: one alone must do so
// beyond what the luckiest of all would, and many must be more than two standard deviations above what is usual.
func grows(in *Input, seen []*measured) string {
	if len(in.Growing) > 0 {
		return in.Growing[0]
	}
	n, many, level := float64(len(seen)), 0.0, risesP
	for _, m := range seen {
		level = max(level, m.level)
	}
	for _, m := range seen {
		if m.rises < level/n {
			return fmt.Sprintf("what is live in %s rises", m.ID)
		}
		if m.rises < level {
			many++
		}
	}
	if many > n*level+2*math.Sqrt(n*level*(1-level)) {
		return fmt.Sprintf("what is live in %.0f of %.0f instances rises", many, n)
	}
	return ""
}

// evidence is pages that show what a proposal rests on, over its own range of time.
func evidence(in *Input, whats ...[2]string) (out []optimize.Evidence) {
	for _, w := range whats {
		q := url.Values{"service": {in.Service}, "type": {w[1]}, "from": {fmt.Sprint(in.From.UnixMilli())}, "to": {fmt.Sprint(in.To.UnixMilli())}}
		out = append(out, optimize.Evidence{What: w[0], Link: "/explore?" + q.Encode()})
	}
	return out
}

// percent is a part of 1 as "19 %".
func percent(x float64) string {
	if p := 100 * math.Abs(x); p < 10 && p >= 0.05 {
		return fmt.Sprintf("%.1f %%", 100*x)
	}
	return fmt.Sprintf("%.0f %%", 100*x)
}

// interval is "95 % interval 17 to 21 %".
func interval(e analyze.Estimate) string {
	return fmt.Sprintf("95 %% interval %s to %s", strings.TrimSuffix(percent(e.Low), " %"), percent(e.High))
}
