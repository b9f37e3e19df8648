package analyze

import (
	"math"

	"github.com/quantra-l/quantra/profile"
)

// RuntimeFigures are those of the runtime, of all windows that were summed. Bytes and counts are means over windows of one process, times
// are sums. What is not known is 0.
type RuntimeFigures struct {
	Windows float64

	CPU                             float64 // seconds, as the operating system counts them
	GCMark, GCAssist, GCIdle, Pause float64 // seconds, as the runtime counts them: see Collecting

	HeapLive, HeapGoal float64 // bytes
	MemoryLimit        float64 // bytes; 0 is none
	Memory, Stacks     float64 // bytes that the runtime has from the operating system, and those of goroutines' stacks
	Goroutines         float64
	Procs              float64 // GOMAXPROCS

	SchedCount, SchedTime float64 // goroutines that waited for a processor, and their seconds
	MutexWait             float64 // seconds
}

// ReadRuntime reads the profile "runtime" of Go's agent, one profile or the sum of many.
func ReadRuntime(ps Profiles) (f RuntimeFigures) {
	f.Windows = ps.total("windows")
	if f.Windows == 0 {
		return RuntimeFigures{}
	}
	mean := func(name string) float64 { return ps.total(name) / f.Windows }
	f.CPU = ps.total("process_cpu") / 1e9
	gc := figureParts(ps, "gc_cpu")
	f.GCMark, f.GCAssist = gc["mark, dedicated worker"]/1e9, gc["mark assist"]/1e9
	f.GCIdle, f.Pause = gc["mark, idle processor"]/1e9, gc["pause"]/1e9
	f.HeapLive, f.HeapGoal = mean("heap_live"), mean("heap_goal")
	f.Memory, f.Stacks = mean("memory"), figureParts(ps, "memory")["stacks"]/f.Windows
	f.Goroutines, f.Procs = mean("goroutines"), mean("gomaxprocs")
	f.SchedCount, f.SchedTime = ps.total("sched_latency"), ps.total("sched_latency_time")/1e9
	f.MutexWait = ps.total("mutex_wait") / 1e9
	// An instance without a limit has no such sample: the mean would be too low, and a limit that is too low claims less.
	if limit := mean("memory_limit"); limit < math.MaxInt64/2 {
		f.MemoryLimit = limit
	}
	return f
}

// figureParts is a figure by its frames' names, each with what is below it.
func figureParts(ps Profiles, name string) map[string]float64 {
	out := map[string]float64{}
	p, col, ok := ps.column(name)
	if !ok {
		return out
	}
	for _, r := range profile.Top(p, col) {
		out[r.Name] = float64(r.Total)
	}
	return out
}
