package agent

import (
	"io"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// calibrateSignal measures what one SIGPROF costs here: the signal's way into
// the thread and back, and the walk of a stack of usual depth. It profiles for a
// few milliseconds into nothing, and sends its own thread signals meanwhile: the runtime
// counts those like the timer's. It is assumedSignalCost where another profile runs.
func calibrateSignal(start func(io.Writer, int) error, stop func()) time.Duration {
	const rounds, signals, depth = 5, 16, 24
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if start(io.Discard, defaultRate) != nil {
		return assumedSignalCost
	}
	defer stop()
	var costs []time.Duration
	pid, tid := syscall.Getpid(), syscall.Gettid()
	for range rounds {
		took := atDepth(depth, func() time.Duration {
			began := time.Now()
			for range signals {
				if syscall.Tgkill(pid, tid, syscall.SIGPROF) != nil {
					return assumedSignalCost * signals
				}
			}
			return time.Since(began)
		})
		costs = append(costs, took/signals)
	}
	slices.Sort(costs)
	return costs[rounds/2]
}

// atDepth calls f below n frames.
//
//go:noinline
func atDepth(n int, f func() time.Duration) time.Duration {
	if n == 0 {
		return f()
	}
	d := atDepth(n-1, f)
	runtime.KeepAlive(&n) // not a tail call
	return d
}
