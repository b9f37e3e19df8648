//go:build !race

package zerotrust_test

const raceEnabled = false
