package direct

import (
	"slices"
	"sync"
	"time"
)

const (
	// loadSpan is over what time load is taken, and loadLeast of a service that has just begun.
	loadSpan, loadLeast = time.Minute, time.Second
	// loadKept are the requests that it is taken of: where more come in that time, it is of a shorter one.
	loadKept = 1024
)

// load is how long the last requests took. One with no time of beginning has been there for ever.
type load struct {
	since time.Time // its beginning
	mu    sync.Mutex
	last  [loadKept]worked
	n     int // that were added ever
}

// worked is one request.
type worked struct{ came, done time.Time }

func (l *load) add(came, done time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last[l.n%loadKept] = worked{came, done}
	l.n++
}

// at is what was in flight on average up to a time, and the median of how long one took, in seconds. By Little's law the first is the time that all
// of them took together, by the time in which they came.
func (l *load) at(now time.Time) (inFlight, latency float64) {
	l.mu.Lock()
	kept := slices.Clone(l.last[:min(l.n, loadKept)])
	full := l.n > loadKept
	l.mu.Unlock()
	var took []float64
	sum, first := 0.0, now
	for _, w := range kept {
		if now.Sub(w.done) > loadSpan {
			full = false // all of the last minute are there
			continue
		}
		d := max(0, w.done.Sub(w.came).Seconds())
		sum += d
		took = append(took, d)
		if w.done.Before(first) {
			first = w.done
		}
	}
	if len(took) == 0 {
		return 0, 0
	}
	span := min(loadSpan, max(now.Sub(l.since), loadLeast))
	if full {
		span = max(now.Sub(first), time.Millisecond)
	}
	slices.Sort(took)
	return sum / span.Seconds(), took[len(took)/2]
}
