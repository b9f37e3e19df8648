//go:build !race

package simulate

const crashStep = 1
