//go:build !linux

package main

import (
	"errors"
	"os"
	"os/exec"
	"time"
)

var errNeedsLinux = errors.New("it needs Linux: it reads another process's processor time and memory as the kernel there tells them")

func measurable() error { return errNeedsLinux }

func keepChild(*exec.Cmd) {}

// interruptChild asks a child to end. Windows has no such signal for one process: there it is killed.
func interruptChild(cmd *exec.Cmd) error {
	if err := cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return killChild(cmd)
	}
	return nil
}

func killChild(cmd *exec.Cmd) error {
	if err := cmd.Process.Kill(); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func cpuTime(int) (time.Duration, error)                    { return 0, errNeedsLinux }
func memoryOf(int) (rss, peak int64, err error)             { return 0, 0, errNeedsLinux }
func resetPeak(int) error                                   { return errNeedsLinux }
func machineFacts() (cpu string, memory int64, kern string) { return "unknown", 0, "unknown" }
