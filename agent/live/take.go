package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/pprof"
	"sync"
	"time"
)

const (
	// defaultPause is how long a program may stand still for a full list where nobody asked for one.
	defaultPause = 5 * time.Millisecond
	// firstCost is the cost of a goroutine in a full list before one was measured. 3 to 4 µs were, with
	// three frames; each frame more adds about 0.8 µs.
	firstCost = 6 * time.Microsecond
	// leastCost and mostCost bound what a measurement is believed to say: among few goroutines a hiccup
	// of the machine would pass for their cost.
	leastCost, mostCost = time.Microsecond, 50 * time.Microsecond
	// maxBuffer bounds the text of a full list. It is runtime/pprof's own bound.
	maxBuffer = 64 << 20
	minBuffer = 64 << 10
)

// Options say how [Take] works. The zero value is right for a console that refreshes.
type Options struct {
	Full     bool          // the full list, however long the program stands still for it
	MaxPause time.Duration // without Full: the predicted stop up to which the list is full; 0 is 5 ms, < 0 is never
	Limits   Limits
}

// taking is what earlier snapshots of this process have taught, and the lock that
// keeps two from being taken at once.
var taking struct {
	sync.Mutex
	cost  time.Duration // of a goroutine in a full list
	bytes int           // of its text
}

// Take is a snapshot of this process. It waits for one that is being taken, as
// long as ctx allows; one that has begun is not interrupted.
//
// A full list stops the world. It is taken where the stop is predicted to last at
// most MaxPause, from the cost of a goroutine in the last full list, or with Full.
// Else goroutines are counted by stack, which stops the world for some ten
// microseconds whatever their number.
func Take(ctx context.Context, o Options) (Snapshot, error) {
	if o.MaxPause == 0 {
		o.MaxPause = defaultPause
	}
	taking.Lock()
	defer taking.Unlock()
	if err := context.Cause(ctx); err != nil {
		return Snapshot{}, fmt.Errorf("live: no snapshot taken: %w", err)
	}
	if taking.cost == 0 {
		taking.cost, taking.bytes = firstCost, 1024
	}
	n := runtime.NumGoroutine()
	if o.Full || time.Duration(n)*taking.cost <= o.MaxPause {
		return takeFull(n, o)
	}
	// What made the last list dear may be over.
	taking.cost = (taking.cost + firstCost) / 2
	return takeCounts(o)
}

func takeFull(n int, o Options) (Snapshot, error) {
	size := max(minBuffer, min(maxBuffer, 2*taking.bytes*(n+16)))
	for {
		buf := make([]byte, size)
		begin := time.Now()
		used := runtime.Stack(buf, true)
		took := time.Since(begin)
		if used == len(buf) && size < maxBuffer && (o.Full || took <= o.MaxPause) {
			size = min(maxBuffer, 4*size)
			continue
		}
		s, err := ParseDump(bytes.NewReader(buf[:used]), o.Limits)
		if err != nil {
			return Snapshot{}, err
		}
		taking.cost = max(leastCost, min(mostCost, took/time.Duration(n+1)))
		taking.bytes = used/(n+1) + 1
		s.Time, s.Took = begin, took
		s.Truncated = s.Truncated || used == len(buf)
		return s, nil
	}
}

func takeCounts(o Options) (Snapshot, error) {
	begin := time.Now()
	text := boundedBuffer{left: maxBuffer}
	err := pprof.Lookup("goroutine").WriteTo(&text, 1)
	if err != nil && !errors.Is(err, errFull) {
		return Snapshot{}, fmt.Errorf("live: goroutine profile: %w", err)
	}
	s, perr := parseCounts(&text.Buffer, o.Limits, framesAt)
	if perr != nil {
		return Snapshot{}, perr
	}
	s.Time, s.Took = begin, time.Since(begin)
	s.Truncated = s.Truncated || err != nil
	return s, nil
}

var errFull = errors.New("live: the text is too long")

// boundedBuffer takes so many bytes and no more.
type boundedBuffer struct {
	bytes.Buffer
	left int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.left -= n
	b.Buffer.Write(p[:n]) // cannot fail
	if n < len(p) {
		return n, errFull
	}
	return n, nil
}
