//go:build linux && !mips && !mipsle && !mips64 && !mips64le

package agent

import (
	"fmt"
	"io"
	"runtime"
	"runtime/pprof"
	"syscall"
)

// sysCloseRange has one number on all of Linux's architectures but MIPS (Linux 5.9).
const (
	sysCloseRange     = 436
	closeRangeUnshare = 1 << 1
)

// startCPUAt starts the CPU profile at a rate that runtime/pprof does not offer.
//
// The runtime keeps a rate that is set already when pprof.StartCPUProfile sets
// its own, but writes "cannot set cpu profile rate until previous profile has
// finished" to descriptor 2, which sounds like a fault in the program's log at every
// window. So both calls are made on a thread that has a table of descriptors
// of its own, without number 2 in it, and that ends with them. All else on the thread
// works: the other descriptors are there (the scheduler may poll on it).
func startCPUAt(w io.Writer, hz int) error {
	started := make(chan error, 1)
	go onOwnThread(func() error {
		if err := muteThread(); err != nil {
			return err
		}
		// Without effect where another profile runs; StartCPUProfile says so then.
		runtime.SetCPUProfileRate(hz)
		return pprof.StartCPUProfile(w)
	}, started)
	return <-started
}

// onOwnThread runs f on a thread that ends with the goroutine. Not on the
// process's first thread: that one cannot end, and would stay mute.
func onOwnThread(f func() error, result chan<- error) {
	runtime.LockOSThread()
	if syscall.Gettid() == syscall.Getpid() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			onOwnThread(f, result)
		}()
		<-done // until then this goroutine holds the first thread
		runtime.UnlockOSThread()
		return
	}
	result <- f() // and the goroutine ends without unlocking, which ends the thread
}

// muteThread takes descriptor 2 from this thread alone.
func muteThread() error {
	_, _, errno := syscall.RawSyscall(sysCloseRange, 2, 2, closeRangeUnshare)
	if errno == 0 {
		return nil
	}
	// Before Linux 5.9, or a filter of system calls that does not know it.
	if err := syscall.Unshare(syscall.CLONE_FILES); err != nil {
		return fmt.Errorf("%w: close_range: %w, unshare: %w", errRate, errno, err)
	}
	return syscall.Close(2)
}
