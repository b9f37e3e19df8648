package agent

import (
	"sync"
	"time"
)

// item is a profile on its way.
type item struct {
	name        string
	from, until time.Time
	body        []byte // gzip pprof
	labels      string // as a query; "" are those of this process
}

// itemOverhead is what an item takes in the queue beside its body, so that
// a flood of empty profiles is bounded too.
const itemOverhead = 128

func (i item) size() int { return len(i.body) + itemOverhead }

// queue holds profiles until they are uploaded, oldest first. It is bounded
// in bytes: past the bound the oldest go.
type queue struct {
	limit int

	mu      sync.Mutex
	items   []item
	bytes   int // of items and of taken
	taken   int // size of the item under way
	dropped int64
}

func newQueue(limit int) *queue { return &queue{limit: limit} }

func (q *queue) push(i item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, i)
	q.bytes += i.size()
	q.shed()
}

// shed drops the oldest until the bound holds. The newest gives way only where
// it is too large by itself, never to an older one that is under way: that one
// is beyond the bound until it is done or back. q.mu is held.
func (q *queue) shed() {
	for q.bytes > q.limit && (len(q.items) > 1 || len(q.items) == 1 && q.bytes-q.taken > q.limit) {
		q.bytes -= q.items[0].size()
		q.items[0] = item{} // the array keeps no body alive
		q.items = q.items[1:]
		q.dropped++
	}
}

// take is the oldest item. It counts in the bound until done or putBack.
func (q *queue) take() (i item, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return item{}, false
	}
	i = q.items[0]
	q.items[0] = item{}
	q.items = q.items[1:]
	q.taken = i.size()
	return i, true
}

// done forgets the item under way.
func (q *queue) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= q.taken
	q.taken = 0
}

// putBack returns the item under way to the front; it may be the first to be dropped.
func (q *queue) putBack(i item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append([]item{i}, q.items...)
	q.taken = 0
	q.shed()
}

// clear drops everything and is how much that was.
func (q *queue) clear() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.items)
	q.dropped += int64(n)
	q.items, q.bytes = nil, q.taken
	return n
}

func (q *queue) halfFull() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes > q.limit/2
}

func (q *queue) stats() (n, bytes int, dropped int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = len(q.items)
	if q.taken > 0 {
		n++
	}
	return n, q.bytes, q.dropped
}
