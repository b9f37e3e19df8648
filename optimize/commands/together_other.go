//go:build !unix

package commands

import "os/exec"

// together is for systems that have groups of processes: elsewhere only the command itself is ended.
func together(*exec.Cmd) {}
