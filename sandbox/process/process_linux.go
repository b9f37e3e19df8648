//go:build amd64 || arm64

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/sandbox/jail"
)

// isolation implements [sandbox.Isolation].
type isolation struct {
	o    Options
	host *jail.Host

	mu   sync.Mutex
	echo *sandbox.Image // opened when it is first asked for
}

// New finds out what this host has. Errors are [sandbox.ErrUnavailable].
func New(o Options) (sandbox.Isolation, error) {
	if len(o.Echo) == 0 {
		return nil, errors.New("process: Options.Echo is needed to try the isolation")
	}
	host, err := jail.NewHost(o.Launcher, o.Cgroup)
	if err != nil {
		return nil, sandbox.Unavailable("%w", err)
	}
	return &isolation{o: o, host: host}, nil
}

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
	return sandbox.BoundaryKernel, fmt.Sprintf("namespaces, Landlock, seccomp, cgroups v%d", i.host.CgroupVersion()), nil
}

func (i *isolation) Warm() bool { return true }

func (i *isolation) Start(ctx context.Context, l sandbox.Launch) (*sandbox.Guest, error) {
	if l.Image.File == nil {
		return nil, errors.New("a process needs a handler that is a file")
	}
	if err := l.Image.Static(); err != nil {
		return nil, err
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, inR.Close(), inW.Close())
	}
	group, err := i.host.NewGroup(jail.GroupLimits{Memory: l.Limits.Memory, CPU: l.Limits.CPU, Tasks: l.Limits.Tasks})
	var proc *jail.Proc
	if err == nil {
		proc, err = i.host.Start(ctx, jail.Config{
			Mode: jail.Empty, Program: l.Image.File, Args: append([]string{"handler"}, l.Args...),
			// A Go program would take itself to have the whole machine.
			Env:   []string{"GOMAXPROCS=" + fmt.Sprint(max(1, int(l.Limits.CPU))), fmt.Sprintf("GOMEMLIMIT=%d", l.Limits.Memory/10*9)},
			Group: group, Network: l.Network, Stdin: inR, Stdout: outW, Stderr: l.Stderr,
		})
	}
	inR.Close()
	outW.Close()
	if err != nil {
		inW.Close()
		outR.Close()
		if errors.Is(err, jail.ErrUnsupported) {
			err = sandbox.Unavailable("%w", err)
		}
		return nil, err
	}
	return &sandbox.Guest{Stdin: inW, Stdout: outR, Kill: proc.Kill, Wait: func() error {
		err := proc.Wait()
		inW.Close()
		outR.Close()
		return err
	}}, nil
}

func (i *isolation) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	err := i.host.Close()
	if i.echo != nil {
		err = errors.Join(err, i.echo.Close())
	}
	return err
}
