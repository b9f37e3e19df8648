//go:build linux && (amd64 || arm64)

package process_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/sandbox/jail"
	"github.com/quantra-l/quantra/sandbox/process"
	"github.com/quantra-l/quantra/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	jail.Main() // this binary starts itself again
	if os.Getenv("QUANTRA_TEST_UNPRIVILEGED") != "" {
		if _, err := process.New(process.Options{Echo: []string{"x"}}); errors.Is(err, sandbox.ErrUnavailable) {
			fmt.Println("unavailable:", err)
		}
		os.Exit(0)
	}
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

// A granted network is the internet's kind only.
func TestNetwork(t *testing.T) {
	handler := sandboxtest.Build(t, "linux", runtime.GOARCH)
	pool := newPool(t, handler)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := pool.Start(t.Context(), sandbox.Spec{Isolation: sandbox.Process, Principal: "x", Handler: handler, Args: []string{"do"}, Network: true})
	if err != nil {
		t.Fatal(err)
	}
	for request, want := range map[string]string{"dial tcp " + l.Addr().String(): "done: ", "dial unix @abstract": "refused: ", "read /etc/passwd": "refused: ", "fork": "refused: "} {
		if got, err := s.Call(t.Context(), []byte(request)); err != nil || !strings.HasPrefix(string(got), want) {
			t.Errorf("%s: %q, %v", request, got, err)
		}
	}
}

func newPool(t testing.TB, handler string) *sandbox.Pool {
	t.Helper()
	iso, err := process.New(process.Options{Launcher: handler, Echo: []string{handler, "echo"}})
	if err != nil {
		sandboxtest.Unavailable(t, err)
	}
	pool, err := sandbox.New(sandbox.Options{Isolations: map[sandbox.Kind]sandbox.Isolation{sandbox.Process: iso}, StartTimeout: sandboxtest.Patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
	if r := pool.Probe(t.Context(), sandbox.Process); !r.Available {
		sandboxtest.Unavailable(t, errors.New(r.Reason))
	}
	return pool
}

// Who may not make cgroups gets no sandbox without limits instead.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: only root can become somebody else")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "QUANTRA_TEST_UNPRIVILEGED=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	said, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(said), "unavailable: ") {
		t.Errorf("%q, %v", said, err)
	}
}

// BenchmarkStart is from the wish to the handler's Hello.
func BenchmarkStart(b *testing.B) {
	handler := sandboxtest.Build(b, "linux", runtime.GOARCH)
	sandboxtest.BenchmarkStart(b, newPool(b, handler), sandbox.Spec{Isolation: sandbox.Process, Principal: "x", Handler: handler})
}
