//go:build race

package demo

// underRace: the race detector does work of its own in every function.
const underRace = true
