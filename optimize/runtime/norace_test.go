//go:build !race

package runtime

// crashStep is how far apart the effects are at which the optimizer dies: prime to what repeats.
const crashStep = 7
