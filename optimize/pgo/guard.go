package pgo

import (
	"fmt"
	"time"
)

// BuildFacts are what a build and its program cost. 0 is not known.
type BuildFacts struct {
	BinaryBytes int64
	BuildTime   time.Duration // from an empty cache, so that two builds do the same work
	StackBytes  int64         // of all goroutines' stacks (/memory/classes/heap/stacks:bytes) at the same load
	RSSBytes    int64         // resident memory at the same load
}

// Objection is why a build is not to be rolled out as it is.
type Objection struct {
	What          string
	Before, After string
	Growth, Limit float64 // as shares: 0.1 is 10 % more
}

func (o Objection) String() string {
	return fmt.Sprintf("%s grew from %s to %s, by %.1f %%: more than %.0f %%", o.What, o.Before, o.After, o.Growth*100, o.Limit*100)
}

// The limits of Guard, as shares of what was before. Inlining copies code: binaries grow by 2 to 5 % as a rule, builds
// take a few tenths longer (go.dev/doc/pgo), and a function that took others in has a larger frame, which deep or many goroutines pay
// (golang/go#65532: stacks grew so much that a service lost more memory than it gained time). Each limit is
// beyond what is usual and within what an operator would shrug at.
const (
	maxBinaryGrowth = 0.15
	maxBuildGrowth  = 1.00
	maxStackGrowth  = 0.20
	maxRSSGrowth    = 0.10
)

// Guard says what became so much larger that a profile should not be used as it is. What is not known on
// both sides is not judged: who acts on it asks for [BuildFacts] that are whole.
func Guard(before, after BuildFacts) []Objection {
	var out []Objection
	judge := func(what string, a, b int64, limit float64, text func(int64) string) {
		if a <= 0 || b <= 0 {
			return
		}
		if g := float64(b)/float64(a) - 1; g > limit {
			out = append(out, Objection{what, text(a), text(b), g, limit})
		}
	}
	size := func(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
	judge("the binary", before.BinaryBytes, after.BinaryBytes, maxBinaryGrowth, size)
	judge("the build's time", int64(before.BuildTime), int64(after.BuildTime), maxBuildGrowth, func(n int64) string { return time.Duration(n).Round(100 * time.Millisecond).String() })
	judge("goroutine stacks", before.StackBytes, after.StackBytes, maxStackGrowth, size)
	judge("resident memory", before.RSSBytes, after.RSSBytes, maxRSSGrowth, size)
	return out
}
