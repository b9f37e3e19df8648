//go:build amd64 || arm64

package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/sandbox/jail"
)

// overhead is what the runtime itself may have beside the container, in bytes and tasks: it stays to wait for it.
const (
	overheadMemory = 128 << 20
	overheadTasks  = 64
)

// isolation implements [sandbox.Isolation].
type isolation struct {
	o       Options
	runtime string // path
	dir     string // roots of containers by handler, bundles, the runtime's state
	host    *jail.Host
	count   atomic.Int64
	roots   sandbox.Kept // folders with a handler

	mu   sync.Mutex
	echo *sandbox.Image
}

// New finds the runtime and what it needs. Errors are [sandbox.ErrUnavailable].
func New(o Options) (_ sandbox.Isolation, err error) {
	if len(o.Echo) == 0 {
		return nil, errors.New("oci: Options.Echo is needed to try the isolation")
	}
	if os.Geteuid() != 0 {
		return nil, sandbox.Unavailable("containers are started as root only")
	}
	i := &isolation{o: o}
	if i.runtime, err = find(o.Runtime); err != nil {
		return nil, sandbox.Unavailable("%w", err)
	}
	if i.host, err = jail.NewHost(o.Launcher, o.Cgroup); err != nil {
		return nil, sandbox.Unavailable("%w", err)
	}
	if i.dir, err = os.MkdirTemp(o.Dir, "quantra-oci-"); err != nil {
		return nil, errors.Join(err, i.host.Close())
	}
	// The container's user goes through here to its root; names are not secret, and nothing in it can be written.
	if err := os.Chmod(i.dir, 0o711); err != nil {
		return nil, errors.Join(err, i.Close())
	}
	return i, nil
}

func find(runtime string) (string, error) {
	if runtime != "" {
		return exec.LookPath(runtime)
	}
	if path, err := exec.LookPath("runsc"); err == nil {
		return path, nil
	}
	path, err := exec.LookPath("runc")
	if err != nil {
		return "", errors.New("neither runsc nor runc is installed (Debian has packages of these names)")
	}
	return path, nil
}

func (i *isolation) gvisor() bool { return strings.HasPrefix(filepath.Base(i.runtime), "runsc") }

func (i *isolation) Echo() (*sandbox.Image, []string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.echo == nil {
		im, err := sandbox.OpenImage(i.o.Echo[0])
		if err != nil {
			return nil, nil, err
		}
		i.echo = im
	}
	return i.echo, i.o.Echo[1:], nil
}

func (i *isolation) Boundary(context.Context) (sandbox.Boundary, string, error) {
	how := fmt.Sprintf("%s, cgroups v%d", i.runtime, i.host.CgroupVersion())
	if i.gvisor() {
		how += ", a kernel in user space"
	}
	return sandbox.BoundaryKernel, how, nil
}

func (i *isolation) Warm() bool { return true }

// makeRoot makes a folder that has the handler and the folders that the runtime mounts on. Containers of one handler share it, read-only.
func (i *isolation) makeRoot(im *sandbox.Image) (string, error) {
	b, err := im.Bytes()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(i.dir, fmt.Sprintf("root%d", i.count.Add(1)))
	for _, d := range []string{dir, filepath.Join(dir, "proc"), filepath.Join(dir, "dev")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return "", err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "handler"), b, 0o755); err != nil {
		return "", err
	}
	return dir, nil
}

func (i *isolation) Start(ctx context.Context, l sandbox.Launch) (_ *sandbox.Guest, err error) {
	if l.Network {
		return nil, sandbox.Unavailable("containers here have no network that could be granted: use process")
	}
	if err := l.Image.Static(); err != nil {
		return nil, err
	}
	rootfs, drop, err := i.roots.Take(l.Image, func() (string, error) { return i.makeRoot(l.Image) })
	if err != nil {
		return nil, err
	}
	uid, err := i.host.TakeUser()
	if err != nil {
		drop()
		return nil, sandbox.Unavailable("%w", err)
	}
	c := &container{isolation: i, uid: uid, drop: drop, id: fmt.Sprintf("c%d", i.count.Add(1)), cgroup: i.host.Name()}
	c.bundle = filepath.Join(i.dir, c.id)
	defer func() {
		if err != nil {
			err = errors.Join(err, c.remove())
		}
	}()
	raw, err := json.Marshal(bundle(l, rootfs, c.cgroup, uid))
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(c.bundle, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(c.bundle, "config.json"), raw, 0o600); err != nil {
		return nil, err
	}
	return c.start(ctx, l)
}

// container is one that is being made, or runs.
type container struct {
	*isolation
	uid                int
	drop               func() // its root
	id, bundle, cgroup string
}

func (c *container) start(ctx context.Context, l sandbox.Launch) (*sandbox.Guest, error) {
	group, err := c.host.NewGroup(jail.GroupLimits{Memory: l.Limits.Memory + overheadMemory, CPU: l.Limits.CPU + 0.5, Tasks: l.Limits.Tasks + overheadTasks})
	if err != nil {
		return nil, sandbox.Unavailable("%w", err)
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, group.Remove())
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, group.Remove(), inR.Close(), inW.Close())
	}
	args := []string{c.runtime, "--root", filepath.Join(c.dir, "state")}
	if c.gvisor() {
		args = append(args, "--network=none", "--oci-seccomp") // the second: filters of the bundle are looked at
	}
	args = append(args, "run", "--bundle", c.bundle, c.id)
	// The runtime is the first process of a namespace and in a cgroup: with it all of the container ends, whatever state it is in.
	proc, err := c.host.Start(ctx, jail.Config{Mode: jail.Shared, Path: c.runtime, Args: args, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Dir: "/",
		Group: group, Stdin: inR, Stdout: outW, Stderr: l.Stderr})
	inR.Close()
	outW.Close()
	if err != nil {
		if errors.Is(err, jail.ErrUnsupported) {
			err = sandbox.Unavailable("%w", err)
		}
		return nil, errors.Join(err, inW.Close(), outR.Close())
	}
	return &sandbox.Guest{Stdin: inW, Stdout: outR, Kill: proc.Kill, Wait: func() error {
		err := proc.Wait()
		inW.Close()
		outR.Close()
		return errors.Join(err, c.remove())
	}}, nil
}

// remove removes what the container had on the host.
func (c *container) remove() error {
	c.host.FreeUser(c.uid)
	c.drop()
	return errors.Join(c.host.RemoveNamed(c.cgroup), os.RemoveAll(c.bundle), os.RemoveAll(filepath.Join(c.dir, "state", c.id)))
}

func (i *isolation) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	err := errors.Join(i.host.Close(), os.RemoveAll(i.dir))
	if i.echo != nil {
		err = errors.Join(err, i.echo.Close())
	}
	return err
}
