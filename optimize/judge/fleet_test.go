package judge

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// noon is when simulated stages begin.
var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

const window = 10 * time.Second

// scene is a simulated stage: what was planted in it, and how noisy it is.
type scene struct {
	treated, control int
	before, stage    int                // windows
	effect           map[string]float64 // relative change of the treated from the stage on; of errors it is added
	slope            map[string]float64 // relative change an hour of the treated
	correlation      float64            // of neighbouring windows of one process; 0 is 0.5
	tails            bool               // every 50th window is off by 3 to 6 standard deviations
	spikes           bool               // load spikes of both sides, p99 by 2 to 5 times with it
	hosts            float64            // by which hosts differ; 0 is 0.03, <0 is none
	requests         float64            // by window; 0 is 800
	seed             uint64
}

// spread is by how much metrics vary from window to window, as a coefficient of variation.
var spread = map[string]float64{"cpu_per_request": 0.05, "latency_p99": 0.15, "rss": 0.02, "gc_cpu": 0.08}

var typical = map[string]float64{"cpu_per_request": 0.004, "latency_p99": 0.080, "rss": 300e6, "gc_cpu": 0.12}

// input draws the scene.
func (s scene) input() Input {
	r := rand.New(rand.NewPCG(s.seed, 77))
	hosts := s.hosts
	if hosts == 0 {
		hosts = 0.03
	}
	phi := s.correlation
	if phi == 0 {
		phi = 0.5
	}
	requests := s.requests
	if requests == 0 {
		requests = 800
	}
	n := s.before + s.stage
	// What both sides have in common: the hour, and spikes of load.
	load, tail := make([]float64, n), make([]float64, n)
	left := 0
	size := 0.0
	for t := range n {
		load[t] = 0.3 * math.Sin(2*math.Pi*float64(t)/700+float64(s.seed%7))
		if s.spikes && left == 0 && r.Float64() < 0.02 {
			left, size = 1+r.IntN(6), 0.7+r.Float64()
		}
		if left > 0 {
			left--
			load[t] += size / 2
			tail[t] = size
		}
	}
	in := Input{From: noon, To: noon.Add(time.Duration(s.stage) * window)}
	for side, count := range [2]int{s.treated, s.control} {
		for i := range count {
			m := Member{Name: fmt.Sprintf("%s-%d", []string{"treated", "control"}[side], i+1), Series: map[string][]Point{}, Started: noon.Add(-50 * time.Hour)}
			if side == 0 {
				m.Applied = noon
			}
			s.draw(r, &m, side == 0, phi, max(0, hosts), requests, load, tail)
			if side == 0 {
				in.Treated = append(in.Treated, m)
			} else {
				in.Control = append(in.Control, m)
			}
		}
	}
	return in
}

func (s scene) draw(r *rand.Rand, m *Member, treated bool, phi, hosts, requests float64, load, tail []float64) {
	names := []string{"cpu_per_request", "latency_p99", "rss", "gc_cpu"}
	host := map[string]float64{}
	state := map[string]float64{}
	for _, name := range names {
		host[name] = hosts * r.NormFloat64()
		state[name] = r.NormFloat64()
	}
	for t := range load {
		from := noon.Add(time.Duration(t-s.before) * window)
		on := treated && t >= s.before
		hours := from.Sub(noon).Hours()
		grow := func(name string) float64 {
			if !on {
				return 0
			}
			return math.Log1p(s.effect[name]) + hours*s.slope[name]
		}
		served := requests * math.Exp(load[t]) * math.Exp(grow("throughput"))
		served = max(0, math.Round(served+math.Sqrt(served)*r.NormFloat64()))
		add := func(name string, v, w float64) {
			m.Series[name] = append(m.Series[name], Point{From: from, To: from.Add(window), Value: v, Weight: w})
		}
		for _, name := range names {
			shock := math.Sqrt(1-phi*phi) * r.NormFloat64()
			if s.tails && r.Float64() < 0.02 {
				shock += (3 + 3*r.Float64()) * float64(1-2*r.IntN(2))
			}
			state[name] = phi*state[name] + shock
			y := math.Log(typical[name]) + host[name] + spread[name]*state[name] + grow(name)
			weight := window.Seconds()
			switch name {
			case "latency_p99":
				y += tail[t] + 0.5*load[t]
				weight = served
			case "cpu_per_request":
				y += 0.05 * load[t]
				weight = served
			}
			add(name, math.Exp(y), weight)
		}
		p := 0.001
		if on {
			p += s.effect["errors"]
		}
		failed := 0.0
		if mean := p * served; mean > 30 {
			failed = max(0, math.Round(mean+math.Sqrt(mean)*r.NormFloat64()))
		} else {
			for e := r.ExpFloat64(); e < mean; e += r.ExpFloat64() {
				failed++
			}
		}
		if served > 0 {
			add("errors", min(1, failed/served), served)
		}
		add("throughput", served/window.Seconds(), window.Seconds())
	}
}

// until is the input as it was after so many windows of the stage.
func (s scene) until(in Input, windows int) Input {
	out := in
	out.To = noon.Add(time.Duration(windows) * window)
	cut := func(members []Member) []Member {
		var c []Member
		for _, m := range members {
			series := map[string][]Point{}
			for name, p := range m.Series {
				k := len(p)
				for k > 0 && p[k-1].To.After(out.To) {
					k--
				}
				series[name] = p[:k]
			}
			m.Series = series
			c = append(c, m)
		}
		return c
	}
	out.Treated, out.Control = cut(in.Treated), cut(in.Control)
	return out
}
