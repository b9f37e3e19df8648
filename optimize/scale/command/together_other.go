//go:build !unix

package command

import "os/exec"

// together is for systems that have groups of processes: elsewhere only the command itself is ended.
func together(*exec.Cmd) {}
