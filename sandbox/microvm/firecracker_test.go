//go:build linux && (amd64 || arm64)

package microvm_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/sandbox/channel"
	"github.com/quantra-l/quantra/sandbox/microvm"
	"github.com/quantra-l/quantra/sandbox/sandboxtest"
)

// monitorServer is this test's binary as Firecracker: it takes the calls of the published API (src/firecracker/swagger/firecracker.yaml, v1),
// strictly, and stands in for a machine whose guest connects by vsock as docs/vsock.md says. No machine runs.
func monitorServer(args []string) error {
	at := slices.Index(args, "--api-sock")
	if at < 0 || at+1 >= len(args) {
		return errors.New("no --api-sock")
	}
	l, err := net.Listen("unix", args[at+1])
	if err != nil {
		return err
	}
	s := &monitorState{}
	return http.Serve(l, s)
}

type monitorState struct {
	config, boot bool
	vsock        string
}

func (s *monitorState) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := s.call(r)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"fault_message": err.Error()})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *monitorState) call(r *http.Request) error {
	if r.Method != http.MethodPut {
		return fmt.Errorf("method %s", r.Method)
	}
	strict := json.NewDecoder(r.Body)
	strict.DisallowUnknownFields()
	switch r.URL.Path {
	case "/machine-config":
		var b struct {
			VCPUs  int  `json:"vcpu_count"`
			Memory int  `json:"mem_size_mib"`
			SMT    bool `json:"smt"`
		}
		if err := strict.Decode(&b); err != nil || b.VCPUs != 1 || b.Memory < 128 {
			return fmt.Errorf("machine-config: %+v %v", b, err)
		}
		s.config = true
	case "/boot-source":
		var b struct {
			Kernel string `json:"kernel_image_path"`
			Disk   string `json:"initrd_path"`
			Args   string `json:"boot_args"`
		}
		if err := strict.Decode(&b); err != nil || !strings.Contains(b.Args, " -- quantra-guest ") {
			return fmt.Errorf("boot-source: %+v %v", b, err)
		}
		for _, path := range []string{b.Kernel, b.Disk} {
			if _, err := os.Stat(path); err != nil {
				return err
			}
		}
		s.boot = true
	case "/vsock":
		var b struct {
			CID  int    `json:"guest_cid"`
			Path string `json:"uds_path"`
		}
		if err := strict.Decode(&b); err != nil || b.CID < 3 || b.Path == "" {
			return fmt.Errorf("vsock: %+v %v", b, err)
		}
		s.vsock = b.Path
	case "/actions":
		var b struct {
			Type string `json:"action_type"`
		}
		if err := strict.Decode(&b); err != nil || b.Type != "InstanceStart" || !s.config || !s.boot || s.vsock == "" {
			return fmt.Errorf("actions: %+v %v, after %+v", b, err, *s)
		}
		conn, err := net.Dial("unix", s.vsock+"_5000")
		if err != nil {
			return err
		}
		go channel.Serve(conn, conn, func(in io.Reader, out io.Writer) error {
			_, err := io.Copy(out, in)
			return err
		})
	default:
		return fmt.Errorf("path %s", r.URL.Path)
	}
	return nil
}

// TestFirecracker drives a server that keeps to Firecracker's API: Firecracker itself needs hardware that most test machines do not have.
func TestFirecracker(t *testing.T) {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		sandboxtest.Unavailable(t, err)
	}
	before := sandboxtest.Leftovers(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	kernel, handler := filepath.Join(t.TempDir(), "vmlinux"), sandboxtest.Build(t, "linux", runtime.GOARCH)
	if err := os.WriteFile(kernel, []byte("not run here"), 0o644); err != nil {
		t.Fatal(err)
	}
	iso, err := microvm.New(microvm.Options{Monitor: "firecracker", Program: self, Kernel: kernel, Echo: []string{handler}, Within: sandboxtest.Patience})
	if err != nil {
		sandboxtest.Unavailable(t, err)
	}
	pool, err := sandbox.New(sandbox.Options{Isolations: map[sandbox.Kind]sandbox.Isolation{sandbox.MicroVM: iso}, StartTimeout: sandboxtest.Patience})
	if err != nil {
		t.Fatal(err)
	}
	s, err := pool.Start(t.Context(), sandbox.Spec{Isolation: sandbox.MicroVM, Principal: "x", Handler: handler})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Call(t.Context(), []byte("hello")); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	_, err = pool.Start(t.Context(), sandbox.Spec{Isolation: sandbox.MicroVM, Principal: "x", Handler: handler, Args: []string{strings.Repeat("x", 3000)}})
	if err == nil || !strings.Contains(err.Error(), "1000 bytes") {
		t.Errorf("arguments that no command line holds: %v", err)
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
	if after := sandboxtest.Leftovers(t); after != before {
		t.Errorf("left: %s; before: %s", after, before)
	}
}

func TestRefused(t *testing.T) {
	for name, o := range map[string]microvm.Options{
		"a monitor that is none":        {Monitor: "mock", Echo: []string{"x"}},
		"a monitor that is not there":   {Program: "no-such-monitor", Echo: []string{"x"}},
		"a kernel without its modules":  {Program: "true", Kernel: "/dev/null", Modules: t.TempDir(), Echo: []string{"x"}},
		"firecracker that is not there": {Monitor: "firecracker", Program: "no-such-monitor", Echo: []string{"x"}},
	} {
		if _, err := microvm.New(o); !errors.Is(err, sandbox.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
