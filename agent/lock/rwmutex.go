package lock

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// A RWMutex is a sync.RWMutex that reports waits and holds, those of readers apart from those of writers. Its
// zero value is an unlocked mutex. It must not be copied after first use, and as with
// sync's, a goroutine that holds it for reading must not ask for it again.
type RWMutex struct {
	// Name is as Mutex's.
	Name string `json:"-"`

	rw sync.RWMutex
	// since is also a bound for readers: all that are in have been since then. Who comes in for reading while
	// somebody waits moves it on.
	site
	waiting   atomic.Int32 // readers and writers
	exclusive              // guarded by the write lock
}

// Lock locks m for writing, waiting until it can.
func (m *RWMutex) Lock() {
	if !m.rw.TryLock() {
		m.wait()
		return
	}
	if m.left > 1 && m.since.Load() == 0 {
		m.left--
		return
	}
	m.enter(&m.site, write, m.Name)
}

// TryLock tries to lock m for writing and reports whether it succeeded. A failure is no wait.
func (m *RWMutex) TryLock() bool {
	if !m.rw.TryLock() {
		return false
	}
	if m.left > 1 && m.since.Load() == 0 {
		m.left--
		return true
	}
	m.enter(&m.site, write, m.Name)
	return true
}

// Unlock unlocks m for writing. It is a run-time error if m is not locked for writing, as sync's is.
func (m *RWMutex) Unlock() {
	if m.start == 0 && m.since.Load() == 0 && m.waiting.Load() == 0 {
		m.rw.Unlock()
		return
	}
	m.leave()
}

// RLock locks m for reading, waiting until it can.
func (m *RWMutex) RLock() {
	if !m.rw.TryRLock() {
		m.waitRead()
		return
	}
	if m.since.Load() != 0 {
		m.since.Store(now())
	}
}

// TryRLock tries to lock m for reading and reports whether it succeeded. A failure is no wait.
func (m *RWMutex) TryRLock() bool {
	if !m.rw.TryRLock() {
		return false
	}
	if m.since.Load() != 0 {
		m.since.Store(now())
	}
	return true
}

// RUnlock undoes one RLock. It is a run-time error if m is not locked for reading, as sync's is.
func (m *RWMutex) RUnlock() {
	if m.since.Load() == 0 {
		m.rw.RUnlock()
		return
	}
	m.leaveRead()
}

// RLocker returns a Locker whose Lock and Unlock are m's RLock and RUnlock.
func (m *RWMutex) RLocker() sync.Locker { return (*rlocker)(m) }

type rlocker RWMutex

func (r *rlocker) Lock() {
	m := (*RWMutex)(r)
	if !m.rw.TryRLock() {
		m.waitRead()
		return
	}
	if m.since.Load() != 0 {
		m.since.Store(now())
	}
}

func (r *rlocker) Unlock() {
	m := (*RWMutex)(r)
	if m.since.Load() == 0 {
		m.rw.RUnlock()
		return
	}
	m.leaveRead()
}

//go:noinline
func (m *RWMutex) wait() {
	start := now()
	m.waiting.Add(1)
	m.came()
	var pcs [maxDepth]uintptr
	stack := pcs[:runtime.Callers(3, pcs[:])] // not Callers, wait, Lock
	r := m.of(m.Name, stack).mode(write).record(stack)
	r.mode.waiting.Add(1)
	m.rw.Lock()
	m.got(&m.site, r, start)
	m.waiting.Add(-1)
}

//go:noinline
func (m *RWMutex) leave() {
	h := m.end(&m.site)
	if m.waiting.Load() > 0 {
		// Whoever waits now may wait for the readers who come next.
		m.since.Store(now())
	}
	m.rw.Unlock()
	if !h.known {
		return
	}
	if h.record == nil {
		var pcs [maxDepth]uintptr
		stack := pcs[:runtime.Callers(3, pcs[:])] // not Callers, leave, Unlock
		h.record = m.of(m.Name, stack).mode(write).record(stack)
	}
	h.end()
}

//go:noinline
func (m *RWMutex) waitRead() {
	start := now()
	m.waiting.Add(1)
	m.came()
	var pcs [maxDepth]uintptr
	stack := pcs[:runtime.Callers(3, pcs[:])] // not Callers, waitRead, RLock
	r := m.of(m.Name, stack).mode(read).record(stack)
	r.mode.waiting.Add(1)
	m.rw.RLock()
	t := now()
	if m.waiting.Add(-1) > 0 {
		m.since.Store(t)
	} else {
		m.taken()
	}
	r.mode.waiting.Add(-1)
	r.waitEnded(t - start)
}

//go:noinline
func (m *RWMutex) leaveRead() {
	since, waiting, t := m.since.Load(), m.waiting.Load(), now()
	m.rw.RUnlock()
	if waiting == 0 {
		// Whoever waited has the lock by now, and a reader that came in then wrote since anew: without
		// this every RUnlock would come here.
		m.since.CompareAndSwap(since, 0)
		return
	}
	if since <= 0 || t-since < leastWaited {
		return
	}
	var pcs [maxDepth]uintptr
	stack := pcs[:runtime.Callers(3, pcs[:])] // not Callers, leaveRead, RUnlock
	m.of(m.Name, stack).mode(read).record(stack).holdEnded(t-since, 1)
}
