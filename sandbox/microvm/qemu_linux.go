//go:build amd64 || arm64

package microvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/sandbox/jail"
	"github.com/quantra-l/quantra/sandbox/microvm/guest"
)

// qemuName is the program for this architecture's machines.
var qemuName = map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}[runtime.GOARCH]

// qemu is a monitor. The channel is its standard input and output. It runs as a user of its own, without capabilities, with the host's
// programs and libraries to read and nothing to write, and with its own seccomp filter.
type qemu struct {
	program string
	host    *jail.Host
}

func (q *qemu) name() string { return "QEMU" }

func (q *qemu) order(*guest.Order) {}

// qemuArgs are for QEMU 7.2 and later.
func qemuArgs(m *machine) []string {
	kind, accel, cpu := "pc", "tcg,thread=single,tb-size=64", "max"
	if runtime.GOARCH == "arm64" {
		kind = "virt"
	}
	if m.hardware {
		accel, cpu = "kvm", "host"
	}
	return []string{"qemu", "-M", kind, "-accel", accel, "-cpu", cpu, "-smp", "1", "-m", fmt.Sprintf("%dM", m.limits.Memory>>20),
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-parallel", "none", "-serial", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-kernel", m.kernel, "-initrd", m.disk, "-append", m.commandLine,
		"-device", "virtio-serial-pci",
		"-chardev", "stdio,id=channel,signal=off", "-device", "virtserialport,chardev=channel,name=" + guest.ChannelPort,
		"-add-fd", fmt.Sprintf("fd=%d,set=1", jail.StderrFD),
		"-chardev", "file,id=stderr,path=/dev/fdset/1,append=on", "-device", "virtserialport,chardev=stderr,name=" + guest.StderrPort,
	}
}

func (q *qemu) start(ctx context.Context, m *machine) (*sandbox.Guest, error) {
	c := jail.Config{Mode: jail.Confined, Path: q.program, Args: qemuArgs(m), Env: []string{"PATH=/usr/bin:/bin"}, Dir: "/", Stderr: m.stderr, Again: true,
		Read:  existing("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/proc", "/sys/devices/system", "/dev/urandom", m.kernel, m.disk),
		Write: existing("/dev/null", "/dev/zero")}
	if m.hardware {
		c.Write = append(c.Write, existing("/dev/kvm")...)
		c.GID = groupOf("/dev/kvm")
	}
	cpu := m.limits.CPU
	if !m.hardware {
		cpu *= 2 // emulating takes many times of what the handler does; this is for trying, and so that starts are bearable
	}
	group, err := q.host.NewGroup(jail.GroupLimits{Memory: m.limits.Memory + overheadMemory, CPU: cpu, Tasks: overheadTasks})
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
	c.Group, c.Stdin, c.Stdout = group, inR, outW
	proc, err := q.host.Start(ctx, c)
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
		return err
	}}, nil
}

// existing are those of the paths that are there.
func existing(paths ...string) []string {
	var out []string
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// groupOf is the group of a file, 0 if that is not to be had: then the program is refused by the file itself.
func groupOf(path string) int {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return int(st.Gid)
}
