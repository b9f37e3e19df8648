//go:build !linux

package agent

import (
	"io"
	"time"
)

// calibrateSignal: a thread cannot send itself the profiler's signal here.
func calibrateSignal(func(io.Writer, int) error, func()) time.Duration { return assumedSignalCost }
