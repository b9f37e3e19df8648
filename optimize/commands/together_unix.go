//go:build unix

package commands

import (
	"os/exec"
	"syscall"
)

// together makes a command and what it starts a group of processes, so that all of it ends when its time is over.
func together(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
