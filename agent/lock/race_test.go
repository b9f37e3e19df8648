//go:build race

package lock

const race = true
