package agent

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"runtime/metrics"
	"time"
)

// With each window goes a profile named "runtime": figures of the runtime and
// of the agent itself, as sample types of their own, so that they are kept, summed and
// drawn like all else. What a figure is made of are its frames.
//
// Sums over windows are right for what is counted (nanoseconds, bytes sent, latencies). Of what is
// measured once a window (memory, goroutines) the mean is the sum divided by that of "windows".
var gaugeTypes = []struct{ name, unit string }{
	gWindows:      {"windows", "count"},
	gCPU:          {"process_cpu", "nanoseconds"},
	gGC:           {"gc_cpu", "nanoseconds"},
	gHeapLive:     {"heap_live", "bytes"},
	gHeapGoal:     {"heap_goal", "bytes"},
	gMemory:       {"memory", "bytes"},
	gMemoryLimit:  {"memory_limit", "bytes"},
	gGoroutines:   {"goroutines", "count"},
	gProcs:        {"gomaxprocs", "count"},
	gLatency:      {"sched_latency", "count"},
	gLatencyTime:  {"sched_latency_time", "nanoseconds"},
	gMutexWait:    {"mutex_wait", "nanoseconds"},
	gAgentCPU:     {"agent_cpu", "nanoseconds"},
	gAgentMemory:  {"agent_memory", "bytes"},
	gAgentSent:    {"agent_sent", "bytes"},
	gAgentSamples: {"agent_rate", "hertz"},
	gRSS:          {"rss", "bytes"},
	gCores:        {"cores", "count"},
	gQuota:        {"cpu_quota", "millicores"},
	gThrottled:    {"cpu_throttled", "nanoseconds"},
	gMemoryMax:    {"memory_max", "bytes"},
	gLoad:         {"machine_load", "millicores"},
	gStacks:       {"stacks", "bytes"},
}

const (
	gWindows = iota
	gCPU
	gGC
	gHeapLive
	gHeapGoal
	gMemory
	gMemoryLimit
	gGoroutines
	gProcs
	gLatency
	gLatencyTime
	gMutexWait
	gAgentCPU
	gAgentMemory
	gAgentSent
	gAgentSamples
	gRSS
	gCores
	gQuota
	gThrottled
	gMemoryMax
	gLoad
	gStacks
)

// gauge is one figure: what it is made of, outermost first, and its value.
type gauge struct {
	typ    int
	frames []string
	value  int64
}

// runtimeMetrics is what is read of runtime/metrics. Those that a version of Go does not have are left out.
var runtimeMetrics = []struct {
	name   string
	typ    int
	frames []string
	total  bool // counts since the program began: a window has what was added
}{
	{"/cpu/classes/gc/mark/assist:cpu-seconds", gGC, []string{"garbage collection", "mark assist"}, true},
	{"/cpu/classes/gc/mark/dedicated:cpu-seconds", gGC, []string{"garbage collection", "mark, dedicated worker"}, true},
	{"/cpu/classes/gc/mark/idle:cpu-seconds", gGC, []string{"garbage collection", "mark, idle processor"}, true},
	{"/cpu/classes/gc/pause:cpu-seconds", gGC, []string{"garbage collection", "pause"}, true},
	{"/gc/heap/live:bytes", gHeapLive, []string{"heap live"}, false},
	{"/gc/heap/goal:bytes", gHeapGoal, []string{"heap goal"}, false},
	{"/memory/classes/heap/objects:bytes", gMemory, []string{"heap", "objects"}, false},
	{"/memory/classes/heap/unused:bytes", gMemory, []string{"heap", "unused"}, false},
	{"/memory/classes/heap/free:bytes", gMemory, []string{"heap", "free"}, false},
	{"/memory/classes/heap/stacks:bytes", gMemory, []string{"stacks"}, false},
	{"/memory/classes/heap/stacks:bytes", gStacks, []string{"stacks"}, false},
	{"/memory/classes/os-stacks:bytes", gMemory, []string{"stacks", "of the operating system"}, false},
	{"/memory/classes/metadata/mcache/inuse:bytes", gMemory, []string{"metadata"}, false},
	{"/memory/classes/metadata/mspan/inuse:bytes", gMemory, []string{"metadata"}, false},
	{"/memory/classes/metadata/other:bytes", gMemory, []string{"metadata"}, false},
	{metricBuckets, gMemory, []string{"profiling buckets"}, false},
	{"/memory/classes/other:bytes", gMemory, []string{"other"}, false},
	{metricLimit, gMemoryLimit, []string{"memory limit"}, false},
	{"/sched/goroutines/running:goroutines", gGoroutines, []string{"running"}, false},
	{"/sched/goroutines/runnable:goroutines", gGoroutines, []string{"runnable"}, false},
	{"/sched/goroutines/waiting:goroutines", gGoroutines, []string{"waiting"}, false},
	{"/sched/goroutines/not-in-go:goroutines", gGoroutines, []string{"not in Go"}, false},
	{"/sched/gomaxprocs:threads", gProcs, []string{"GOMAXPROCS"}, false},
	{"/sync/mutex/wait/total:seconds", gMutexWait, []string{"waiting for a mutex"}, true},
}

const (
	metricBuckets   = "/memory/classes/profiling/buckets:bytes"
	metricLimit     = "/gc/gomemlimit:bytes"
	metricLatencies = "/sched/latencies:seconds"
	metricCycles    = "/gc/cycles/total:gc-cycles"
)

// vital reads the runtime's figures window by window. One goroutine at a time.
type vital struct {
	samples []metrics.Sample // runtimeMetrics, then latencies and cycles
	last    []float64        // of runtimeMetrics, those that count since the program began
	counts  []uint64         // at the last look
	first   bool
	machine *machine
	user    time.Duration
	system  time.Duration
}

func newVital() *vital {
	v := &vital{last: make([]float64, len(runtimeMetrics)), first: true, machine: newMachine()}
	for _, m := range runtimeMetrics {
		v.samples = append(v.samples, metrics.Sample{Name: m.name})
	}
	v.samples = append(v.samples, metrics.Sample{Name: metricLatencies}, metrics.Sample{Name: metricCycles})
	return v
}

// figures are what a look tells the agent itself.
type figures struct {
	cpu     time.Duration // processor time of the process in the window
	buckets int64         // bytes that the runtime's profiling buckets hold
	limit   int64         // GOMEMLIMIT; math.MaxInt64 is none
	cycles  uint64        // garbage collections since the program began
}

// look is what was in the window since the last look. The first look only begins the first window.
func (v *vital) look() ([]gauge, figures) {
	metrics.Read(v.samples)
	var f figures
	var gs []gauge
	for i, m := range runtimeMetrics {
		n, ok := number64(v.samples[i].Value)
		if !ok {
			continue
		}
		switch m.name {
		case metricBuckets:
			f.buckets = int64(n)
		case metricLimit:
			f.limit = clampInt64(n)
		}
		if m.total {
			n, v.last[i] = n-v.last[i], n
			n *= 1e9 // all totals are seconds
		}
		if n := clampInt64(n); n > 0 && (m.name != metricLimit || n < math.MaxInt64) {
			gs = append(gs, gauge{m.typ, m.frames, n})
		}
	}
	if c := v.samples[len(v.samples)-1].Value; c.Kind() == metrics.KindUint64 {
		f.cycles = c.Uint64()
	}
	gs = v.latencies(gs)
	user, system := processCPU()
	gs = append(gs, gauge{gCPU, []string{"user"}, int64(user - v.user)}, gauge{gCPU, []string{"kernel"}, int64(system - v.system)})
	f.cpu = user - v.user + system - v.system
	v.user, v.system = user, system
	gs = append(v.machine.figures(gs), gauge{gCores, []string{"usable"}, int64(runtime.NumCPU())})
	if v.first {
		v.first = false
		return nil, figures{buckets: f.buckets, limit: f.limit, cycles: f.cycles}
	}
	return append(gs, gauge{gWindows, []string{"windows"}, 1}), f
}

func number64(v metrics.Value) (float64, bool) {
	switch v.Kind() {
	case metrics.KindUint64:
		return float64(v.Uint64()), true
	case metrics.KindFloat64:
		return v.Float64(), true
	}
	return 0, false
}

func clampInt64(f float64) int64 {
	if f >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(f)
}

// latencies adds how long goroutines waited for a processor once they could
// run, in buckets of a quarter of a decade or so, and their time, taken from the middle of each of
// the runtime's own buckets, which are finer (a sixteenth of a power of two).
func (v *vital) latencies(gs []gauge) []gauge {
	val := v.samples[len(v.samples)-2].Value
	if val.Kind() != metrics.KindFloat64Histogram {
		return gs
	}
	h := val.Float64Histogram()
	if len(v.counts) != len(h.Counts) {
		v.counts = make([]uint64, len(h.Counts))
	}
	var count [len(latencyBounds) + 1]int64
	var nanos [len(latencyBounds) + 1]float64
	for i, n := range h.Counts {
		added := n - v.counts[i]
		v.counts[i] = n
		if added == 0 {
			continue
		}
		low, high := max(0, h.Buckets[i]), h.Buckets[i+1]
		if math.IsInf(high, 1) {
			high = low
		}
		b := 0
		for b < len(latencyBounds) && low >= latencyBounds[b].Seconds() {
			b++
		}
		count[b] += int64(added)
		nanos[b] += float64(added) * (low + high) / 2 * 1e9
	}
	for b, n := range count {
		if n > 0 {
			name := []string{latencyName(b)}
			gs = append(gs, gauge{gLatency, name, n}, gauge{gLatencyTime, name, clampInt64(nanos[b])})
		}
	}
	return gs
}

var latencyBounds = [...]time.Duration{
	time.Microsecond, 3 * time.Microsecond, 10 * time.Microsecond, 30 * time.Microsecond, 100 * time.Microsecond, 300 * time.Microsecond,
	time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond, time.Second,
}

func latencyName(b int) string {
	switch b {
	case 0:
		return fmt.Sprintf("under %v", latencyBounds[0])
	case len(latencyBounds):
		return fmt.Sprintf("%v and more", latencyBounds[b-1])
	}
	return fmt.Sprintf("%v to %v", latencyBounds[b-1], latencyBounds[b])
}

// gaugeProfile writes gauges as pprof.
func gaugeProfile(gs []gauge, from, until time.Time) []byte {
	var out, msg, sub []byte
	table := map[string]uint64{"": 0}
	names := []string{""}
	str := func(s string) uint64 {
		i, ok := table[s]
		if !ok {
			i = uint64(len(names))
			table[s] = i
			names = append(names, s)
		}
		return i
	}
	for _, t := range gaugeTypes {
		msg = number(number(msg[:0], 1, str(t.name)), 2, str(t.unit))
		out = text(out, 1, msg)
	}
	frames := map[string]uint64{} // a location and a function each, with one number
	for _, g := range gs {
		sub = sub[:0]
		for i := len(g.frames) - 1; i >= 0; i-- { // a stack has its leaf first
			id, ok := frames[g.frames[i]]
			if !ok {
				id = uint64(len(frames)) + 1
				frames[g.frames[i]] = id
			}
			sub = binary.AppendUvarint(sub, id)
		}
		msg = text(msg[:0], 1, sub)
		sub = sub[:0]
		for t := range gaugeTypes {
			n := uint64(0)
			if t == g.typ {
				n = uint64(g.value)
			}
			sub = binary.AppendUvarint(sub, n)
		}
		out = text(out, 2, text(msg, 2, sub))
	}
	for name, id := range frames {
		msg = number(msg[:0], 1, id)
		out = text(out, 4, text(msg, 4, number(nil, 1, id)))
		msg = number(number(number(msg[:0], 1, id), 2, str(name)), 3, str(name))
		out = text(out, 5, msg)
	}
	out = number(out, 9, uint64(from.UnixNano()))
	out = number(out, 10, uint64(max(0, until.Sub(from))))
	for _, s := range names {
		out = text(out, 6, []byte(s))
	}
	return out
}
