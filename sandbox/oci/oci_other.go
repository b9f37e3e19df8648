//go:build !linux || !(amd64 || arm64)

package oci

import (
	"runtime"

	"github.com/quantra-l/quantra/sandbox"
)

// New says that this system has no such isolation.
func New(Options) (sandbox.Isolation, error) {
	return nil, sandbox.Unavailable("containers run on Linux (amd64, arm64) only, this is %s/%s", runtime.GOOS, runtime.GOARCH)
}
