//go:build race

package blocks

const underRace = true
