package overhead

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper is a sleep that is right to some tens of microseconds, for one goroutine, until done is called. The runtime's own timers are not:
// an idle program waits for them in epoll_wait, which counts milliseconds.
func sleeper() (sleep func(time.Duration), done func()) {
	runtime.LockOSThread()
	// prctl(2): the kernel may delay a thread's timers by its slack, by default 50 µs. A kernel that refuses leaves it there.
	const slack = time.Microsecond
	unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0)
	sleep = func(d time.Duration) {
		ts := unix.NsecToTimespec(int64(d))
		unix.Nanosleep(&ts, nil) // a signal may end it early: the caller looks at the clock
	}
	done = func() {
		unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // back to the thread's default
		runtime.UnlockOSThread()
	}
	return sleep, done
}
