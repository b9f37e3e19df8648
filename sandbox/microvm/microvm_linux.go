//go:build amd64 || arm64

package microvm

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/sandbox/channel"
	"github.com/quantra-l/quantra/sandbox/jail"
	"github.com/quantra-l/quantra/sandbox/microvm/guest"
)

// maxCommandLine is what a kernel takes: COMMAND_LINE_SIZE is 2048 on both architectures.
const maxCommandLine = 2047

// overheadMemory and overheadTasks are what a monitor may have beside the machine's memory.
const (
	overheadMemory = 256 << 20
	overheadTasks  = 64
)

// trust is how long it is believed what a trial of the hardware has shown.
const trust = 10 * time.Minute

// machine is what a monitor is to run.
type machine struct {
	kernel, disk, commandLine string
	hardware                  bool // the processor's virtualisation, else emulated
	limits                    sandbox.Limits
	stderr                    io.Writer
}

// monitor runs machines: QEMU or Firecracker.
type monitor interface {
	name() string
	order(*guest.Order) // how the guest is to open its channel
	start(ctx context.Context, m *machine) (*sandbox.Guest, error)
}

// isolation implements [sandbox.Isolation].
type isolation struct {
	o        Options
	kernel   string
	modules  []string
	dir      string // memory disks
	host     *jail.Host
	monitor  monitor
	emulates bool // the monitor can do without hardware

	disks sandbox.Kept // memory disks with a handler
	count atomic.Int64 // of them

	mu   sync.Mutex
	echo *sandbox.Image

	tried   sync.Mutex // held while the hardware is tried
	triedAt time.Time
	took    time.Duration // what the small guest took on hardware
	noHW    error         // why it is not to be used
}

// New finds the monitor, a kernel and what they need. Errors are [sandbox.ErrUnavailable].
func New(o Options) (_ sandbox.Isolation, err error) {
	if len(o.Echo) == 0 {
		return nil, errors.New("microvm: Options.Echo is needed to try the isolation")
	}
	if o.Within == 0 {
		o.Within = 3 * time.Second
	}
	if os.Geteuid() != 0 {
		return nil, sandbox.Unavailable("machines are started as root only, which makes a user for each")
	}
	i := &isolation{o: o, kernel: o.Kernel}
	program, err := findMonitor(o)
	if err != nil {
		return nil, sandbox.Unavailable("%w", err)
	}
	modules := o.Modules
	if i.kernel == "" {
		if i.kernel, modules, err = findKernel(); err != nil {
			return nil, sandbox.Unavailable("%w", err)
		}
	}
	name := o.Monitor
	if name == "" {
		name = "qemu"
	}
	if i.modules, err = modulesFor(modules, wanted[name]); err != nil {
		return nil, sandbox.Unavailable("%w", err)
	}
	if i.host, err = jail.NewHost(o.Launcher, o.Cgroup); err != nil {
		return nil, sandbox.Unavailable("%w", err)
	}
	if i.dir, err = os.MkdirTemp(o.Dir, "quantra-vm-"); err != nil {
		return nil, errors.Join(err, i.host.Close())
	}
	if err := os.Chmod(i.dir, 0o711); err != nil { // the monitors' users go through to the disks, which they may only read
		return nil, errors.Join(err, i.Close())
	}
	switch name {
	case "qemu":
		i.monitor, i.emulates = &qemu{program: program, host: i.host}, true
	case "firecracker":
		i.monitor = &firecracker{program: program, host: i.host, dir: i.dir}
	}
	return i, nil
}

func findMonitor(o Options) (string, error) {
	name := o.Program
	switch {
	case name != "":
	case o.Monitor == "" || o.Monitor == "qemu":
		name = qemuName
	case o.Monitor == "firecracker":
		name = "firecracker"
	default:
		return "", fmt.Errorf("%.40q is no monitor of virtual machines: qemu or firecracker", o.Monitor)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed (Debian: qemu-system-x86)", name)
	}
	return path, nil
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

func (i *isolation) Warm() bool { return true }

func (i *isolation) Boundary(ctx context.Context) (sandbox.Boundary, string, error) {
	took, err := i.hardware(ctx)
	switch {
	case err == nil:
		return sandbox.BoundaryHypervisor, fmt.Sprintf("%s with KVM, a machine in %v", i.monitor.name(), took.Round(time.Millisecond)), nil
	case !i.emulates:
		return sandbox.BoundaryNone, "", sandbox.Unavailable("%s needs KVM: %w", i.monitor.name(), err)
	}
	return sandbox.BoundaryNone, fmt.Sprintf("%s, emulated, which holds nobody; KVM: %v", i.monitor.name(), err), nil
}

// hardware tries a small guest on KVM and returns how long it took, or why KVM is not to be used.
func (i *isolation) hardware(ctx context.Context) (time.Duration, error) {
	i.tried.Lock()
	defer i.tried.Unlock()
	if !i.triedAt.IsZero() && time.Since(i.triedAt) < trust {
		return i.took, i.noHW
	}
	begin := time.Now()
	i.noHW = i.tryHardware(ctx)
	i.triedAt, i.took = time.Now(), time.Since(begin)
	return i.took, i.noHW
}

func (i *isolation) tryHardware(ctx context.Context) error {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return errors.New("there is no /dev/kvm")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, i.o.Within, fmt.Errorf("it is there, but a small guest did not answer within %v", i.o.Within))
	defer cancel()
	image, args, err := i.Echo()
	if err != nil {
		return err
	}
	g, err := i.run(ctx, sandbox.Launch{Image: image, Args: args, Limits: sandbox.Critical.Limits(), Stderr: io.Discard}, true)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, g.Kill)
	kind, _, err := channel.NewReader(g.Stdout).Read()
	switch {
	case !stop():
		err = context.Cause(ctx)
	case err == nil && kind != channel.Hello:
		err = fmt.Errorf("the small guest said kind %d", kind)
	}
	g.Kill()
	ended := g.Wait()
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("the small guest ended without a word: %w", ended)
	}
	return err
}

func (i *isolation) Start(ctx context.Context, l sandbox.Launch) (*sandbox.Guest, error) {
	if l.Network {
		return nil, sandbox.Unavailable("machines here have no network that could be granted: use process")
	}
	_, noHW := i.hardware(ctx)
	if noHW != nil && !i.emulates {
		return nil, sandbox.Unavailable("%s needs KVM: %w", i.monitor.name(), noHW)
	}
	return i.run(ctx, l, noHW == nil)
}

func (i *isolation) run(ctx context.Context, l sandbox.Launch, hardware bool) (*sandbox.Guest, error) {
	if err := l.Image.Static(); err != nil {
		return nil, err
	}
	path, drop, err := i.disks.Take(l.Image, func() (string, error) { return i.makeDisk(l.Image) })
	if err != nil {
		return nil, err
	}
	g, err := i.runDisk(ctx, l, hardware, path)
	if err != nil {
		drop()
		return nil, err
	}
	wait := g.Wait
	g.Wait = func() error {
		defer drop()
		return wait()
	}
	return g, nil
}

func (i *isolation) runDisk(ctx context.Context, l sandbox.Launch, hardware bool, path string) (*sandbox.Guest, error) {
	o := &guest.Order{Args: append([]string{"handler"}, l.Args...), Env: []string{"GOMAXPROCS=1", fmt.Sprintf("GOMEMLIMIT=%d", l.Limits.Memory/10*7)}}
	i.monitor.order(o)
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	// panic=-1: the first process's end is the machine's. The kernel gives what follows -- to its init.
	line := "panic=-1 quiet loglevel=0 reboot=t random.trust_cpu=on -- " + guest.Word + " " + base64.RawURLEncoding.EncodeToString(raw)
	if !hardware {
		// Nothing is held anyway, and there is no clock to measure by.
		line = "mitigations=off tsc=reliable no_timer_check cryptomgr.notests " + line
	}
	if len(line) > maxCommandLine {
		return nil, fmt.Errorf("a machine's handler takes arguments of about 1000 bytes together, not %d", len(strings.Join(l.Args, " ")))
	}
	return i.monitor.start(ctx, &machine{kernel: i.kernel, disk: path, commandLine: line, hardware: hardware, limits: l.Limits, stderr: l.Stderr})
}

// makeDisk makes the memory disk with a handler.
func (i *isolation) makeDisk(im *sandbox.Image) (string, error) {
	launcher := i.o.Launcher
	if launcher == "" {
		launcher = "/proc/self/exe"
	}
	initBinary, err := os.ReadFile(launcher)
	if err != nil {
		return "", err
	}
	handler, err := im.Bytes()
	if err != nil {
		return "", err
	}
	path := filepath.Join(i.dir, fmt.Sprintf("disk%d", i.count.Add(1)))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return "", err
	}
	err = errors.Join(disk(f, initBinary, handler, i.modules), f.Close())
	if err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	return path, nil
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
