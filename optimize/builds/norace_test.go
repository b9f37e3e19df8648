//go:build !race

package builds

// crashStep is how far apart the effects are at which the optimizer dies: each, before it or after it.
const crashStep = 1
