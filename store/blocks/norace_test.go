//go:build !race

package blocks

const underRace = false
