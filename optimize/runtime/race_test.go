//go:build race

package runtime

// crashStep is how far apart the effects are at which the optimizer dies. The race detector makes each run ten times as long.
const crashStep = 61
