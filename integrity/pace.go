package integrity

import (
	"context"
	"runtime/metrics"
	"sync"
	"time"
)

// Pace bounds how much a look takes from other work. The zero value takes all it can.
type Pace struct {
	// BytesPerSecond is the most that is read; 0 is as much as there is.
	BytesPerSecond int64
	// Yield makes way for the other goroutines of this process: while they wait for a processor the look slows down, to minRate at the least.
	Yield bool
}

// How a look yields: as TCP does, it slows down by half when others wait, and speeds up by a tenth when none does.
const (
	minRate   = 4 << 20 // bytes a second: a file of 1 GB is still read within minutes
	maxRate   = 4 << 30
	firstRate = 64 << 20
	// others wait when the 99th percentile of the time from ready to running is above this. A thread of the kernel's own scheduler is woken
	// within 0.1 ms on a machine with a processor to spare.
	lateness = 500 * time.Microsecond
	askEvery = 50 * time.Millisecond
	// entryCost is what one stat counts as, in bytes: about the time of hashing as many.
	entryCost = 8 << 10
	// burst is how long a pause is saved up to, so that a look neither sleeps for each file nor runs for long.
	burst = 2 * time.Millisecond
)

// pacer is a bucket of tokens, of which each byte takes one. Nil paces nothing.
type pacer struct {
	yield bool
	most  float64 // bytes a second

	mu    sync.Mutex
	rate  float64
	free  time.Time // when what was taken so far is paid for
	asked time.Time
	last  []uint64 // of the histogram of waits
	now   func() time.Time
	sleep func(context.Context, time.Duration) error
	waits func() *metrics.Float64Histogram
}

func newPacer(p Pace) *pacer {
	if p == (Pace{}) {
		return nil
	}
	out := &pacer{yield: p.Yield, most: maxRate, now: time.Now, sleep: sleep, waits: schedulerWaits}
	if p.BytesPerSecond > 0 {
		out.most = float64(p.BytesPerSecond)
	}
	out.rate = out.most
	if p.Yield {
		out.rate = min(out.most, firstRate)
	}
	return out
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// schedulerWaits is how long goroutines of this process were ready before they ran, since it began.
func schedulerWaits() *metrics.Float64Histogram {
	s := []metrics.Sample{{Name: "/sched/latencies:seconds"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindFloat64Histogram {
		return nil
	}
	return s[0].Value.Float64Histogram()
}

// wait returns when n bytes may be read.
func (p *pacer) wait(ctx context.Context, n int) error {
	if p == nil {
		return ctx.Err()
	}
	p.mu.Lock()
	now := p.now()
	if p.yield && now.Sub(p.asked) >= askEvery {
		p.asked = now
		p.adapt()
	}
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
	d := p.free.Sub(now)
	p.mu.Unlock()
	if d < burst {
		return ctx.Err()
	}
	return p.sleep(ctx, d)
}

// adapt sets the rate by how long others have waited since it was last asked.
func (p *pacer) adapt() {
	h := p.waits()
	if h == nil {
		return
	}
	late, all := uint64(0), uint64(0)
	for i, c := range h.Counts {
		if i < len(p.last) {
			c -= p.last[i]
		}
		all += c
		if h.Buckets[i] >= lateness.Seconds() {
			late += c
		}
	}
	first := p.last == nil
	p.last = append(p.last[:0], h.Counts...)
	switch {
	case first || all == 0:
	case late*100 > all:
		p.rate = max(minRate, p.rate/2)
	default:
		p.rate = p.rate * 1.1
	}
	p.rate = min(p.rate, p.most)
}
