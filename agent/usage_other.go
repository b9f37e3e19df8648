//go:build !unix && !windows

package agent

import "time"

// processCPU is not known here.
func processCPU() (user, system time.Duration) { return 0, 0 }
