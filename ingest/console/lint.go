package console

import (
	"fmt"
	"time"
)

// The codes of what is wrong with a task, and the bounds of it: those of tokio's own console.
const (
	SelfWakes    = "self-wakes"    // more than half of its wakes are its own: it asks again instead of waiting
	LostWaker    = "lost-waker"    // nothing can wake it any more
	NeverYielded = "never-yielded" // its first poll goes on: it holds a thread of the runtime
	LargeFuture  = "large-future"  // its state is copied with each move
	AutoBoxed    = "auto-boxed"    // its state was so large that the runtime moved it to the heap

	selfWakePercent = 50
	yieldWithin     = time.Second
	largeFuture     = 1024 // bytes
)

// Warning is one thing that is wrong with a task.
type Warning struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

// lint is what is wrong with a task at a time of the program's clock.
func (t *task) lint(now int64) (out []Warning) {
	warn := func(code, format string, args ...any) {
		out = append(out, Warning{code, fmt.Sprintf(format, args...)})
	}
	s := &t.stats
	if t.size != 0 && t.original != 0 && t.size != t.original {
		warn(AutoBoxed, "Its future has %d bytes, so the runtime moved it to the heap. Box what is large in it.", t.original)
	}
	if t.blocking() {
		return out
	}
	if share := percent(s.selfWakes, s.wakes); share > selfWakePercent {
		warn(SelfWakes, "%d %% of its %d wakes are its own: it asks again instead of waiting to be told.", share, s.wakes)
	}
	if t.wakers() == 0 && !t.running() && !t.awakened() {
		warn(LostWaker, "Nothing holds its waker, so nothing can wake it: it never ends.")
	}
	if busy := time.Duration(t.busy(now)); t.running() && s.polls <= 1 && busy >= yieldWithin {
		warn(NeverYielded, "Its first poll has gone on for %v: it holds a thread of the runtime. Move what blocks to spawn_blocking.", busy.Round(100*time.Millisecond))
	}
	if t.size >= largeFuture {
		warn(LargeFuture, "Its future has %d bytes, which are copied when it is moved. Box what is large in it.", t.size)
	}
	return out
}

// percent is a of b in whole percents, rounded down.
func percent(a, b uint64) uint64 {
	if b == 0 {
		return 0
	}
	return uint64(100 * float64(a) / float64(b))
}
