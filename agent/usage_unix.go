//go:build unix

package agent

import (
	"syscall"
	"time"
)

// processCPU is the processor time of this process, in user mode and in the kernel.
func processCPU() (user, system time.Duration) {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0, 0
	}
	return time.Duration(r.Utime.Nano()), time.Duration(r.Stime.Nano())
}
