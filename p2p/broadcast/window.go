package broadcast

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/seal"
)

// windowBits is how far behind the newest envelope of an author one may come: eight seconds at a thousand envelopes a second, which is
// longer than gossip takes to bring what was missed (history of 5 heartbeats of a second).
const windowBits = 8192

// window remembers which numbers of an author have been taken. The zero value has seen none.
type window struct {
	epoch  uint64
	high   uint64 // the highest number that was taken
	floor  uint64 // numbers up to here count as taken: what was before a restart
	latest int64  // the latest time signed in an envelope that was taken
	barred int64  // envelopes signed no later than this are refused: a crash may have forgotten that they were taken
	bits   [windowBits / 64]uint64
}

// fresh says that an envelope was not taken yet, as far as is known: what is too old to be known counts as taken.
func (w *window) fresh(epoch, n uint64, at int64) bool {
	switch {
	case epoch != w.epoch:
		return epoch > w.epoch && at > w.barred
	case at <= w.barred || n <= w.floor:
		return false
	case n > w.high:
		return true
	case w.high-n >= windowBits:
		return false
	}
	return w.bits[n%windowBits/64]&(1<<(n%64)) == 0
}

// take takes an envelope, once.
func (w *window) take(epoch, n uint64, at int64) bool {
	if !w.fresh(epoch, n, at) {
		return false
	}
	if epoch != w.epoch {
		w.epoch, w.high, w.floor = epoch, 0, 0
		clear(w.bits[:])
	}
	switch {
	case n > w.high && n-w.high >= windowBits:
		clear(w.bits[:])
		w.high = n
	case n > w.high:
		for i := w.high + 1; i <= n; i++ {
			w.bits[i%windowBits/64] &^= 1 << (i % 64)
		}
		w.high = n
	}
	w.bits[n%windowBits/64] |= 1 << (n % 64)
	w.latest = max(w.latest, at)
	return true
}

// author is what we know of one who signs.
type author struct {
	payloads, bytes bucket

	mu     sync.Mutex
	window window
	seen   time.Time // when the last envelope was taken; or the start, where that was before it
	via    peer.ID   // who brought the first one
}

// authors is the table of those who sign. It is bounded, in all and by who brings them: a neighbour who makes up authors fills his own share.
// An author stays for as long as anything that was taken from him would not be refused for its age alone.
type authors struct {
	most, share int           // in all, and by one neighbour
	keep        time.Duration // after the last envelope

	mu     sync.RWMutex
	all    map[seal.PublicKey]*author
	by     map[peer.ID]int
	barred int64 // of authors who are not in the table: window.barred
	dirty  bool  // something was taken since it was last kept
}

func newAuthors(most int, keep time.Duration) *authors {
	return &authors{most: most, share: max(most/4, 1), keep: keep, all: map[seal.PublicKey]*author{}, by: map[peer.ID]int{}}
}

// fresh says whether an envelope may be new. It is asked before the signature is verified, and changes nothing.
func (t *authors) fresh(e *envelope) bool {
	t.mu.RLock()
	a, barred := t.all[e.author], t.barred
	t.mu.RUnlock()
	if a == nil {
		return e.time > barred
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.window.fresh(e.epoch, e.sequence, e.time)
}

// of is the author, put into the table if need be: only one whose signature has verified. It is nil where there is no room.
func (t *authors) of(key seal.PublicKey, via peer.ID, now time.Time) *author {
	t.mu.RLock()
	a := t.all[key]
	t.mu.RUnlock()
	if a != nil {
		return a
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.all[key]; a != nil {
		return a
	}
	if len(t.all) >= t.most || t.by[via] >= t.share {
		return nil
	}
	a = &author{seen: now, via: via}
	a.window.barred = t.barred
	t.all[key] = a
	t.by[via]++
	return a
}

// take takes an envelope of an author, once.
func (t *authors) take(a *author, e *envelope, now time.Time) bool {
	a.mu.Lock()
	ok := a.window.take(e.epoch, e.sequence, e.time)
	if ok {
		a.seen = now
	}
	a.mu.Unlock()
	if ok {
		t.touch()
	}
	return ok
}

// touch notes that the table is to be kept. It takes the lock for writing once between two times that it is.
func (t *authors) touch() {
	t.mu.RLock()
	dirty := t.dirty
	t.mu.RUnlock()
	if !dirty {
		t.mu.Lock()
		t.dirty = true
		t.mu.Unlock()
	}
}

// expire lets go of authors of whom nothing could come twice any more.
func (t *authors) expire(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, a := range t.all {
		a.mu.Lock()
		gone := now.Sub(a.seen) > t.keep
		a.mu.Unlock()
		if !gone {
			continue
		}
		delete(t.all, key)
		if t.by[a.via]--; t.by[a.via] <= 0 {
			delete(t.by, a.via)
		}
	}
}

func (t *authors) len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.all)
}
