package zerotrust

import (
	"sync/atomic"
	"time"
)

// bucket is a token bucket in one number, the time at which it would be full again (the generic cell rate algorithm, ITU-T I.371 annex A):
// a take moves it by one interval, and is refused where that is further ahead than a full bucket holds. No lock, no allocation.
type bucket struct {
	every time.Duration // one token
	burst int           // tokens that a full one holds, at least 1
}

// take takes a token. The clock is in Unix nanoseconds; one that goes back gives nothing away.
func (b bucket) take(arrival *atomic.Int64, now int64) bool {
	limit := now + int64(b.every)*int64(b.burst)
	for {
		at := arrival.Load()
		next := max(at, now) + int64(b.every)
		if next > limit {
			return false
		}
		if arrival.CompareAndSwap(at, next) {
			return true
		}
	}
}

// empty is how empty it is, from 0 (full) to 1.
func (b bucket) empty(arrival *atomic.Int64, now int64) float64 {
	return min(1, max(0, float64(arrival.Load()-now)/(float64(b.every)*float64(b.burst))))
}
