//go:build linux && (amd64 || arm64)

package oci_test

import (
	"os"
	"runtime"
	"testing"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/sandbox/jail"
	"github.com/quantra-l/quantra/sandbox/oci"
	"github.com/quantra-l/quantra/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	jail.Main() // this binary starts itself again
	os.Exit(m.Run())
}

func TestRunc(t *testing.T) { suite(t, "runc") }

// The kernel of gVisor has threads of its own, which its memory bounds.
func TestRunsc(t *testing.T) { suite(t, "runsc", "threads") }

func suite(t *testing.T, name string, own ...string) {
	before := sandboxtest.Leftovers(t)
	handler := sandboxtest.Build(t, "linux", runtime.GOARCH)
	iso, err := oci.New(oci.Options{Runtime: name, Echo: []string{handler, "echo"}})
	if err != nil {
		sandboxtest.Unavailable(t, err)
	}
	// execve: the runtime becomes the handler by it, and there is no other program in the container, whose files are its own.
	sandboxtest.Suite(t, before, sandboxtest.Config{Kind: sandbox.OCI, Isolation: iso, Handler: handler, Reach: "execve",
		Own: append(own, "list /", "list ..", "list /proc", "read /proc/self/", "read /proc/1/")})
}

// BenchmarkStart is from the wish to the handler's Hello.
func BenchmarkStart(b *testing.B) {
	handler := sandboxtest.Build(b, "linux", runtime.GOARCH)
	for _, name := range []string{"runc", "runsc"} {
		b.Run(name, func(b *testing.B) {
			iso, err := oci.New(oci.Options{Runtime: name, Launcher: handler, Echo: []string{handler, "echo"}})
			if err != nil {
				sandboxtest.Unavailable(b, err)
			}
			pool, err := sandbox.New(sandbox.Options{Isolations: map[sandbox.Kind]sandbox.Isolation{sandbox.OCI: iso}, StartTimeout: sandboxtest.Patience})
			if err != nil {
				b.Fatal(err)
			}
			defer pool.Close()
			sandboxtest.BenchmarkStart(b, pool, sandbox.Spec{Isolation: sandbox.OCI, Principal: "x", Handler: handler})
		})
	}
}
