package broadcast

import (
	"sync/atomic"
	"time"
)

// Rate is a token bucket: so many a second, and so many at once.
type Rate struct{ PerSecond, Burst int64 }

// bucket is a token bucket in one number, the time at which it would be full again (the generic cell rate algorithm, ITU-T I.371 annex A).
// No lock, no allocation; the zero value is full.
type bucket struct{ at atomic.Int64 }

// take takes n tokens, all or none. The clock is in Unix nanoseconds; one that goes back gives nothing away, but is not waited for longer
// than a full bucket takes to fill.
func (b *bucket) take(r Rate, n, now int64) bool {
	cost, full := n*int64(time.Second)/r.PerSecond, r.Burst*int64(time.Second)/r.PerSecond
	for {
		at := b.at.Load()
		next := max(min(at, now+full), now) + cost
		if next > now+full {
			if at > now+full { // the clock went back
				b.at.CompareAndSwap(at, now+full)
			}
			return false
		}
		if b.at.CompareAndSwap(at, next) {
			return true
		}
	}
}
