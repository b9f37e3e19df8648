//go:build race

package zerotrust_test

const raceEnabled = true
