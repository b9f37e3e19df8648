//go:build linux && (amd64 || arm64)

package microvm_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/sandbox/jail"
	"github.com/quantra-l/quantra/sandbox/microvm"
	"github.com/quantra-l/quantra/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	jail.Main() // this binary starts itself again
	if os.Args[0] == "firecracker" {
		if err := monitorServer(os.Args); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestSuite(t *testing.T) {
	before := sandboxtest.Leftovers(t)
	handler := sandboxtest.Build(t, "linux", runtime.GOARCH)
	iso, err := microvm.New(microvm.Options{Launcher: handler, Echo: []string{handler, "echo"}})
	if err != nil {
		sandboxtest.Unavailable(t, err)
	}
	sandboxtest.Suite(t, before, sandboxtest.Config{Kind: sandbox.MicroVM, Isolation: iso, Handler: handler, Emulated: true, Slow: true})
}

// BenchmarkStart is from the wish to the handler's Hello, on hardware or emulated as the host has it.
func BenchmarkStart(b *testing.B) {
	handler := sandboxtest.Build(b, "linux", runtime.GOARCH)
	iso, err := microvm.New(microvm.Options{Launcher: handler, Echo: []string{handler, "echo"}})
	if err != nil {
		sandboxtest.Unavailable(b, err)
	}
	pool, err := sandbox.New(sandbox.Options{Isolations: map[sandbox.Kind]sandbox.Isolation{sandbox.MicroVM: iso}, StartTimeout: sandboxtest.Patience})
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	sandboxtest.BenchmarkStart(b, pool, sandbox.Spec{Isolation: sandbox.MicroVM, Principal: "x", Handler: handler, Emulated: true})
}
