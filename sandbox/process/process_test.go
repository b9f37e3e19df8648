//go:build linux && (amd64 || arm64)

package process_test

import (
	"os"
	"runtime"
	"testing"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/sandbox/jail"
	"github.com/quantra-l/quantra/sandbox/process"
	"github.com/quantra-l/quantra/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	jail.Main() // this binary starts itself again
	os.Exit(m.Run())
}

func TestSuite(t *testing.T) {
	before := sandboxtest.Leftovers(t)
	handler := sandboxtest.Build(t, "linux", runtime.GOARCH)
	iso, err := process.New(process.Options{Echo: []string{handler, "echo"}})
	if err != nil {
		sandboxtest.Unavailable(t, err)
	}
	sandboxtest.Suite(t, before, sandboxtest.Config{Kind: sandbox.Process, Isolation: iso, Handler: handler})
}
