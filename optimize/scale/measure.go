package scale

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// figures is what the rules look at.
type figures struct {
	load     float64 // cores that all replicas use now
	used     float64 // the same as a share of what they are allowed
	lowest   float64 // the lowest share of a minute in Options.UpFor
	allowed  float64 // cores of one replica
	peers    float64 // of a node, on average
	requests float64 // per second and replica
	sched    float64 // seconds
	asked    bool    // requests are measured
	whole    bool    // all replicas were measured
	uneven   string  // one of them bears more than the rest
	spike    string  // why this is no time for fewer
	scatter  float64 // of the load within an hour, relative

	history    time.Duration
	seasonal   bool
	soon, peak forecast
}

func (f *figures) total() float64 { return f.load / f.used }

// recent is the last hour, which what is now is compared with.
const recent = time.Hour

// measure makes the figures, or says what is missing.
func measure(in *Input, o Options) (f figures, why string) {
	n := int(o.UpFor / step)
	var (
		used, allowed = make([]float64, n), make([]float64, n) // by minute back from now
		count         = make([]int, n)
		each          []float64 // allowed of each
		peers, reqs   []float64
		sched         []float64
		lately, hour  []float64 // p99
		hottest       string
		hot           float64
		measured      int
	)
	for i := range in.Instances {
		inst := &in.Instances[i]
		var own, may float64
		for _, m := range inst.Minutes {
			back := in.Now.Sub(m.At)
			if back < 0 || back >= recent {
				continue
			}
			if known(m.P99) {
				hour = append(hour, m.P99)
			}
			at := int(back / step)
			if at >= n || !known(m.Used) || !known(m.Allowed) || m.Allowed == 0 {
				continue
			}
			used[at] += m.Used
			allowed[at] += m.Allowed
			count[at]++
			own, may = own+m.Used, may+m.Allowed
			each = append(each, m.Allowed)
			for _, of := range []struct {
				x  float64
				to *[]float64
			}{{m.Peers, &peers}, {m.Requests, &reqs}, {m.Sched, &sched}, {m.P99, &lately}} {
				if known(of.x) {
					*of.to = append(*of.to, of.x)
				}
			}
		}
		if may > 0 {
			measured++
			if own/may > hot {
				hot, hottest = own/may, inst.ID
			}
		}
	}
	if why := f.minutes(in, measured, used, allowed, count, o); why != "" {
		return f, why
	}
	f.allowed = quantile(each, 0.5)
	f.asked = len(reqs) > 0
	f.peers, f.requests, f.sched = mean(peers), mean(reqs), quantile(sched, 0.5)
	if hot > o.UpAt && hot > 1.3*f.used {
		f.uneven = fmt.Sprintf("instance %s takes %s of its CPU, and all together %s: moving load may do as well", hottest, percent(hot), percent(f.used))
	}
	b := newBins(in)
	f.history = b.span()
	f.foresee(b, o)
	if f.spike == "" && len(lately) > 0 {
		if a, b := quantile(lately, 0.5), quantile(hour, 0.5); a > 1.5*b && a > b+0.001 {
			f.spike = fmt.Sprintf("the 99th percentile of latency is %.0f ms, and was %.0f in the last hour", 1000*a, 1000*b)
		}
	}
	return f, ""
}

// minutes reads the minutes of Options.UpFor. One of them may be missing, as data is on its way.
func (f *figures) minutes(in *Input, measured int, used, allowed []float64, count []int, o Options) (why string) {
	var loads []float64
	seen, most := 0, 0
	f.lowest, f.whole = math.Inf(1), true
	var a float64
	for i := range used {
		most = max(most, count[i])
		if 2*count[i] < in.Replicas || count[i] == 0 {
			continue
		}
		seen++
		// A minute that is on its way is as those of the others. Replicas of which nothing was measured may be starting: they bear nothing.
		loads = append(loads, used[i]*float64(measured)/float64(count[i]))
		a += allowed[i]
		f.used += used[i]
		f.lowest = min(f.lowest, used[i]/allowed[i])
		f.whole = f.whole && 10*count[i] >= 9*in.Replicas
	}
	if seen < max(1, len(used)-1) {
		return fmt.Sprintf("too little was measured: %d of the last %v were, and at most %d of %d replicas", seen, o.UpFor, most, in.Replicas)
	}
	f.load, f.used = mean(loads), f.used/a
	if f.used == 0 {
		return "no CPU is used at all: it may be cut off, or not measured"
	}
	return ""
}

// known says that it was measured, and can be.
func known(x float64) bool { return x >= 0 && !math.IsInf(x, 1) }

// mean of nothing is 0.
func mean(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}

// quantile of nothing is 0. It sorts x.
func quantile(x []float64, q float64) float64 {
	if len(x) == 0 {
		return 0
	}
	slices.Sort(x)
	at := q * float64(len(x)-1)
	i := int(at)
	if i+1 == len(x) {
		return x[i]
	}
	return x[i] + (at-float64(i))*(x[i+1]-x[i])
}
