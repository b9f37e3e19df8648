package agent

import (
	"errors"
	"io"
	"runtime/pprof"
	"slices"
	"sync"
)

// cpuRates are the sampling rates that there are, in samples a second. 100 is the runtime's own.
var cpuRates = []int{50, 100, 200}

const defaultRate = 100

// errRate is why a rate other than 100 cannot be had on this system.
var errRate = errors.New("only 100 samples a second can be had here")

// startCPU starts the runtime's CPU profile at a rate. It is errRate where
// this system has no way to another than the runtime's.
func startCPU(w io.Writer, hz int) error {
	if hz == defaultRate {
		return pprof.StartCPUProfile(w)
	}
	return startCPUAt(w, hz)
}

// turns lets the agents of one process share its one CPU profiler: who has had
// a window waits while others want one.
type turns struct {
	mu     sync.Mutex
	holder *Agent
	last   *Agent   // who held it last
	want   []*Agent // who was refused and asks again
}

// take is whether a may profile now. Who was refused is expected to ask again, or to leave.
func (t *turns) take(a *Agent) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	others := len(t.want) > 1 || len(t.want) == 1 && t.want[0] != a
	if t.holder != nil || t.last == a && others {
		if !slices.Contains(t.want, a) {
			t.want = append(t.want, a)
		}
		return false
	}
	t.holder = a
	t.forget(a)
	return true
}

// release is the end of a's window.
func (t *turns) release(a *Agent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder == a {
		t.holder, t.last = nil, a
	}
}

// leave is the end of a.
func (t *turns) leave(a *Agent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(a)
	if t.holder == a {
		t.holder = nil
	}
	if t.last == a {
		t.last = nil
	}
}

func (t *turns) forget(a *Agent) {
	t.want = slices.DeleteFunc(t.want, func(b *Agent) bool { return a == b })
}
