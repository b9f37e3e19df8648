//go:build race

package simulate

// crashStep: the race detector makes a run ten times as slow. It looks at every fifth crash point; the others are looked at without it.
const crashStep = 5
