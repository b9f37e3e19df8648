//go:build !linux || mips || mipsle || mips64 || mips64le

package agent

import "io"

// startCPUAt: no other system lets one thread alone go without standard error,
// where the runtime would write a warning at every window.
func startCPUAt(io.Writer, int) error { return errRate }
