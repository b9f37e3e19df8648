package agent

import (
	"syscall"
	"time"
)

// processCPU is the processor time of this process, in user mode and in the kernel.
func processCPU() (user, system time.Duration) {
	h, err := syscall.GetCurrentProcess()
	if err != nil {
		return 0, 0
	}
	var created, exited, kernel, inUser syscall.Filetime
	if syscall.GetProcessTimes(h, &created, &exited, &kernel, &inUser) != nil {
		return 0, 0
	}
	since := func(f syscall.Filetime) time.Duration {
		return time.Duration(int64(f.HighDateTime)<<32|int64(f.LowDateTime)) * 100 // of 100 ns
	}
	return since(inUser), since(kernel)
}
