package integrity

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Background gives this whole process the least claim to processors and disks: nice 19, and reads only when the disk has nothing else to do (where its
// scheduler knows such a class). It is for a process that does nothing but look; within another, [Pace] is the way: a thread that waits for a processor
// would keep the collector of all waiting.
func Background() error {
	// Threads that come later inherit it from those that are there.
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	const (
		whoProcess = 1
		idle       = 3 << 13 // IOPRIO_CLASS_IDLE, as ioprio_set(2) has it
	)
	var errs []error
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		errs = append(errs, unix.Setpriority(unix.PRIO_PROCESS, tid, 19))
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, uintptr(tid), idle); errno != 0 {
			errs = append(errs, errno)
		}
	}
	return errors.Join(errs...)
}
