package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// measurable says why other processes cannot be measured here.
func measurable() error { return nil }

// keepChild makes a process group of cmd, so that a terminal's Ctrl-C reaches us alone and all that cmd starts can be ended with it, and lets
// the kernel end it if we die without having ended it. (PR_SET_PDEATHSIG of prctl(2) is of the thread that starts it: none of
// this program's threads ends before the program.)
func keepChild(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// signalGroup signals a child and what it has started.
func signalGroup(cmd *exec.Cmd, s syscall.Signal) error {
	err := syscall.Kill(-cmd.Process.Pid, s)
	if errors.Is(err, syscall.ESRCH) {
		return nil // it has ended
	}
	return err
}

func interruptChild(cmd *exec.Cmd) error { return signalGroup(cmd, syscall.SIGTERM) }
func killChild(cmd *exec.Cmd) error      { return signalGroup(cmd, syscall.SIGKILL) }

// cpuTime is the user and system time of a process, of all its threads, those that ended, too. It is the process's own CPU-time
// clock, whose id is made of the pid as clock_getcpuclockid(3) makes it: what getrusage(2) would tell in the process itself, to the
// nanosecond, where /proc/PID/stat counts in hundredths of a second.
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED of the kernel's linux/posix-timers.h: user and system time
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// memoryOf is a process's resident memory and its high-water mark, in bytes.
func memoryOf(pid int) (rss, peak int64, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(line, ":")
		kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "VmRSS":
			rss = kb << 10
		case "VmHWM":
			peak = kb << 10
		}
	}
	if rss == 0 {
		return 0, 0, fmt.Errorf("process %d: /proc has no VmRSS of it: it has ended", pid)
	}
	return rss, peak, nil
}

// resetPeak makes a process's high-water mark what it has now: 5 in clear_refs, of proc(5). Some containers forbid it.
func resetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// machineFacts are the processor's name, the machine's memory in bytes, and the kernel's release.
func machineFacts() (cpu string, memory int64, kernel string) {
	cpu, kernel = "unknown", "unknown"
	raw, _ := os.ReadFile("/proc/cpuinfo") // where it is not there, it is unknown
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			cpu = strings.TrimSpace(value)
			break
		}
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		memory = int64(info.Totalram) * int64(info.Unit)
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		kernel = string(bytes.TrimRight(uts.Release[:], "\x00"))
	}
	return cpu, memory, kernel
}
