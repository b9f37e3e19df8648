package audit

import "sync/atomic"

// item is an entry on its way into the log. done, if not nil, is told once what became of it, and has room for that.
type item struct {
	entry []byte
	done  chan result
}

type result struct {
	index Index
	err   error
}

// queue is a bounded queue without locks for many who push and one who pops: each slot has the number of the turn that it is ready
// for, so a push takes one compare-and-swap (D. Vyukov's bounded queue, 2010).
type queue struct {
	mask  uint64
	slots []slot

	_    [64]byte // who pushes and who pops have a cache line each
	tail atomic.Uint64
	_    [64]byte
	head atomic.Uint64 // changed by who pops alone
}

type slot struct {
	turn atomic.Uint64 // its position: free for that push; position + 1: full
	item item
}

// newQueue has room for n items, rounded up to a power of two.
func newQueue(n int) *queue {
	size := 2
	for size < n {
		size *= 2
	}
	q := &queue{mask: uint64(size - 1), slots: make([]slot, size)}
	for i := range q.slots {
		q.slots[i].turn.Store(uint64(i))
	}
	return q
}

// push is false if the queue is full.
func (q *queue) push(it item) bool {
	for {
		at := q.tail.Load()
		s := &q.slots[at&q.mask]
		switch turn := s.turn.Load(); {
		case turn == at:
			if q.tail.CompareAndSwap(at, at+1) {
				s.item = it
				s.turn.Store(at + 1)
				return true
			}
		case turn < at:
			return false
		}
	}
}

// pop is false if the queue is empty, or its first item is still being put there.
func (q *queue) pop() (it item, ok bool) {
	at := q.head.Load()
	s := &q.slots[at&q.mask]
	if s.turn.Load() != at+1 {
		return item{}, false
	}
	it, s.item = s.item, item{}
	s.turn.Store(at + q.mask + 1)
	q.head.Store(at + 1)
	return it, true
}

// len is about how many are in it.
func (q *queue) len() int { return int(q.tail.Load() - q.head.Load()) }
