// Package lock has mutexes that tell how long they are waited for and how long they are held.
//
// [Mutex] and [RWMutex] stand in for those of package sync: the same methods, the same rules, a zero
// value that works, and sync's own locks inside. What they see is in [Stats], as histograms by name,
// and in [WriteProfile], with stacks; [Source] hands both to the agent.
//
// What is exact, and what is not:
//
//   - A lock that is free costs a few nanoseconds more than sync's: no clock is read. It is larger:
//     72 bytes, and a RWMutex 96.
//   - A wait is always recorded, where it was waited: from the first try that failed until the lock is
//     had. That includes the microsecond it takes to note the stack, in which sync would have spun.
//     A wait that has not ended is in [Stat.Waiting] alone, and one below 0.1 ms may be counted first
//     when the lock is released.
//   - A hold is always recorded, whole, where the lock had to be waited for.
//   - A hold that began without waiting is always recorded where somebody came and waited a microsecond or
//     more for its end: from the moment the first one came, since nobody had looked at a clock before. So it
//     is no more than the true hold.
//   - Of the others each is recorded, whole, with a chance of 1 in [HoldSample] and counts for HoldSample of
//     them: sums are right on average, and rough where there were few.
//   - The holds of readers are recorded only where somebody came and waited a microsecond or more for
//     their end, and only for as long as that one waited and no other reader came in: RUnlock cannot tell
//     which reader it ends.
package lock

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// A Mutex is a sync.Mutex that reports waits and holds. Its zero value is an unlocked mutex. It must not be
// copied after first use.
type Mutex struct {
	// Name is what the lock is reported as; locks of one name are reported as one. Set it before
	// the first use, as in lock.Mutex{Name: "orders"}.
	//
	// "" takes the function and line that first had to be recorded for this lock: Go keeps no name of a
	// variable, an address says nothing to a reader, and so the locks of ten thousand connections
	// share the few lines that use them. Where a lock is used on several lines, which of
	// them it takes is chance: name the locks that matter.
	Name string `json:"-"` // sync.Mutex leaves no trace in JSON, where it is embedded

	mu sync.Mutex
	site
	exclusive
}

// site is what any goroutine may touch of a lock.
type site struct {
	// since is when the first waiter came since the lock was last taken; 0 is nobody. Who takes the lock
	// sets it to 0, so that a holder never counts a wait from before its time.
	since  atomic.Int64
	series atomic.Pointer[series] // by name; nil until something is recorded
}

// coming in since is a waiter who has not looked at the clock yet.
const coming = -1

// came tells the holder that somebody waits. The clock is read after the first word of it: who takes the lock in between
// finds that word and drops it, so that a waiter who was slow does not tell of a time before the hold.
func (s *site) came() {
	if s.since.Load() == 0 && s.since.CompareAndSwap(0, coming) {
		s.since.CompareAndSwap(coming, now())
	}
}

// taken forgets who came before.
func (s *site) taken() {
	if s.since.Load() != 0 { // a load is free, a store is not
		s.since.Store(0)
	}
}

// exclusive is what the lock itself guards: who holds it alone may touch it.
type exclusive struct {
	left    uint32  // acquisitions until the next sample, that one included; 0: not yet drawn
	sampled bool    // the hold stands for HoldSample
	start   int64   // of this hold; 0: not known
	record  *record // of the acquisition's stack; nil: not known
	waited  int64   // ns that are not recorded yet
}

// longWait is from where on a wait, in ns, is recorded as soon as it ends. A shorter one is when the lock has been
// released: the counters are in the caches of other cores, and with the lock held everybody would wait for them.
const longWait = 100_000

// got is the end of an acquisition that waited.
func (e *exclusive) got(s *site, r *record, start int64) {
	t := now()
	s.taken()
	e.start, e.record = t, r
	r.mode.waiting.Add(-1)
	if e.waited = t - start; e.waited >= longWait {
		r.waitEnded(e.waited)
		e.waited = 0
	}
}

// count is called where an acquisition did not wait, and says whether it is sampled.
func (e *exclusive) count() bool {
	if e.left == 0 {
		e.left = gap()
	}
	e.left--
	if e.left > 0 {
		return false
	}
	e.left = gap()
	return true
}

// Lock locks m, waiting until it can.
func (m *Mutex) Lock() {
	if !m.mu.TryLock() {
		m.wait()
		return
	}
	if m.left > 1 && m.since.Load() == 0 {
		m.left--
		return
	}
	m.enter(&m.site, plain, m.Name)
}

// TryLock tries to lock m and reports whether it succeeded. A failure is no wait.
func (m *Mutex) TryLock() bool {
	if !m.mu.TryLock() {
		return false
	}
	if m.left > 1 && m.since.Load() == 0 {
		m.left--
		return true
	}
	m.enter(&m.site, plain, m.Name)
	return true
}

// Unlock unlocks m. It is a run-time error if m is not locked, as sync's is. Another goroutine than
// the one that locked m may unlock it; the hold is recorded where m was locked, if that is known.
func (m *Mutex) Unlock() {
	if m.start == 0 && m.since.Load() == 0 {
		m.mu.Unlock()
		return
	}
	m.leave()
}

//go:noinline
func (m *Mutex) wait() {
	start := now()
	m.came()
	// The stack is noted while the lock is another's: nobody waits for that.
	var pcs [maxDepth]uintptr
	stack := pcs[:runtime.Callers(3, pcs[:])] // not Callers, wait, Lock
	r := m.of(m.Name, stack).mode(plain).record(stack)
	r.mode.waiting.Add(1)
	m.mu.Lock()
	m.got(&m.site, r, start)
}

// enter is the end of an acquisition that did not wait, where there is something to do.
//
//go:noinline
func (e *exclusive) enter(s *site, m modeID, name string) {
	s.taken()
	if !e.count() {
		return
	}
	var pcs [maxDepth]uintptr
	stack := pcs[:runtime.Callers(3, pcs[:])] // not Callers, enter, Lock
	e.record = s.of(name, stack).mode(m).record(stack)
	e.sampled = true
	e.start = now() // last, so that the hold is the program's, not ours
}

//go:noinline
func (m *Mutex) leave() {
	h := m.end(&m.site)
	m.mu.Unlock()
	if !h.known {
		return
	}
	if h.record == nil {
		var pcs [maxDepth]uintptr
		stack := pcs[:runtime.Callers(3, pcs[:])] // not Callers, leave, Unlock
		h.record = m.of(m.Name, stack).mode(plain).record(stack)
	}
	h.end()
}

// hold is a hold that ends: it is recorded when the lock is another's already.
type hold struct {
	known  bool    // that is worth a record
	record *record // nil: where it is released
	time   int64   // ns
	weight int64
	waited int64 // ns, before it; 0: recorded, or none
}

// end records it.
func (h hold) end() {
	if h.waited != 0 {
		h.record.waitEnded(h.waited)
	}
	h.record.holdEnded(h.time, h.weight)
}

func (e *exclusive) end(s *site) hold {
	since := s.since.Load()
	t := now()
	h := hold{record: e.record, weight: 1, waited: e.waited}
	waitedFor := int64(0)
	if since > 0 {
		waitedFor = t - since
	}
	h.time, h.known = waitedFor, waitedFor >= leastWaited
	if e.start != 0 {
		h.time, h.known = t-e.start, true
	}
	if e.sampled && waitedFor < leastWaited {
		// Holds that are waited for are all recorded, so these stand for those alone that are not.
		h.weight = HoldSample
	}
	e.start, e.record, e.sampled, e.waited = 0, nil, false, 0
	return h
}
