//go:build amd64 || arm64

package microvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/sandbox/jail"
	"github.com/quantra-l/quantra/sandbox/microvm/guest"
)

// firecracker is a monitor that is told what to do over a socket (src/firecracker/swagger/firecracker.yaml of its repository). The channel is
// a vsock: the guest connects to a port of the host's, which arrives at a socket in the file system (docs/vsock.md there).
type firecracker struct {
	program string
	host    *jail.Host
	dir     string
	count   atomic.Int64
}

const (
	vsockPort = 5000
	vsockCID  = 3 // the first that a guest may have
	maxReply  = 64 << 10
)

func (f *firecracker) name() string { return "Firecracker" }

func (f *firecracker) order(o *guest.Order) { o.Vsock = vsockPort }

func (f *firecracker) start(ctx context.Context, m *machine) (_ *sandbox.Guest, err error) {
	dir := filepath.Join(f.dir, fmt.Sprintf("fc%d", f.count.Add(1)))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	api, vsock := filepath.Join(dir, "api"), filepath.Join(dir, "vsock")
	listener, err := net.Listen("unix", fmt.Sprintf("%s_%d", vsock, vsockPort))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer listener.Close()
	group, err := f.host.NewGroup(jail.GroupLimits{Memory: m.limits.Memory + overheadMemory, CPU: m.limits.CPU, Tasks: overheadTasks})
	if err != nil {
		return nil, errors.Join(sandbox.Unavailable("%w", err), os.RemoveAll(dir))
	}
	proc, err := f.host.Start(ctx, jail.Config{Mode: jail.Shared, Path: f.program, Args: []string{"firecracker", "--api-sock", api}, Env: []string{}, Dir: dir, Group: group, Stderr: m.stderr})
	if err != nil {
		if errors.Is(err, jail.ErrUnsupported) {
			err = sandbox.Unavailable("%w", err)
		}
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	conn, err := f.boot(ctx, m, api, vsock, listener)
	if err != nil {
		proc.Kill()
		return nil, errors.Join(err, proc.Wait(), os.RemoveAll(dir))
	}
	return &sandbox.Guest{Stdin: conn, Stdout: conn, Kill: proc.Kill, Wait: func() error {
		err := proc.Wait()
		conn.Close()
		return errors.Join(err, os.RemoveAll(dir))
	}}, nil
}

// boot tells the monitor what the machine is, starts it, and waits for the guest to connect.
func (f *firecracker) boot(ctx context.Context, m *machine, api, vsock string, listener net.Listener) (net.Conn, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialWhenThere(ctx, api)
	}}}
	for _, call := range []struct {
		path string
		body any
	}{
		{"/machine-config", map[string]any{"vcpu_count": 1, "mem_size_mib": m.limits.Memory >> 20, "smt": false}},
		{"/boot-source", map[string]any{"kernel_image_path": m.kernel, "initrd_path": m.disk, "boot_args": m.commandLine}},
		{"/vsock", map[string]any{"guest_cid": vsockCID, "uds_path": vsock}},
		{"/actions", map[string]any{"action_type": "InstanceStart"}},
	} {
		if err := put(ctx, client, call.path, call.body); err != nil {
			return nil, err
		}
	}
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	conn, err := listener.Accept()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("waiting for the machine to connect: %w", err)
	}
	return conn, nil
}

// dialWhenThere waits for the monitor to listen.
func dialWhenThere(ctx context.Context, path string) (net.Conn, error) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if err == nil {
			return conn, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(err, context.Cause(ctx))
		}
	}
}

func put(ctx context.Context, client *http.Client, path string, body any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://localhost"+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("telling Firecracker, PUT %s: %w", path, err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return fmt.Errorf("telling Firecracker, PUT %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusNoContent {
		var fault struct {
			Message string `json:"fault_message"`
		}
		_ = json.Unmarshal(said, &fault) // then the status says it
		return fmt.Errorf("telling Firecracker, PUT %s: %s %.400q", path, resp.Status, fault.Message)
	}
	return nil
}
