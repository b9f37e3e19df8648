package demo

import "syscall"

// alive says that the process runs.
func alive(pid int) bool {
	const synchronize, stillRunning = 0x100000, 0x102 // WAIT_TIMEOUT
	h, err := syscall.OpenProcess(synchronize, false, uint32(pid))
	if err != nil {
		return false
	}
	defer syscall.CloseHandle(h)
	s, err := syscall.WaitForSingleObject(h, 0)
	return err == nil && s == stillRunning
}
