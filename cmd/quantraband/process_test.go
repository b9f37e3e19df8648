package main

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// childrenOf lists the processes that pid started and that live, from ps,
// which every Unix has.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=,stat=").Output()
	if err != nil {
		if os.Getenv("QUANTRA_CI") != "" {
			t.Fatalf("ps: %v", err)
		}
		t.Skipf("no ps on this machine (%s): %v", runtime.GOOS, err)
	}
	var children []int
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[1] != strconv.Itoa(pid) || strings.HasPrefix(f[2], "Z") {
			continue
		}
		child, err := strconv.Atoi(f[0])
		if err != nil {
			t.Fatal(err)
		}
		children = append(children, child)
	}
	return children
}

// syscallAlive says whether a process exists. Signal 0 asks without sending.
func syscallAlive(pid int) bool {
	p, err := os.FindProcess(pid)
	return err == nil && p.Signal(syscall.Signal(0)) == nil
}
