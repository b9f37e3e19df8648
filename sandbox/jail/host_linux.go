//go:build amd64 || arm64

package jail

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// firstUID is the first of the users that guests are on the host where root starts them, one for each that runs: far above the ids of
// people, of services, and of what subuid(5) is usually given (100000 to 600100000).
const (
	firstUID = 0x7000_0000
	maxUIDs  = 1 << 16
)

// What a program says beside its channel is read at this rate, in bytes a second, with so much at once. One that says more waits.
const (
	stderrRate  = 64 << 10
	stderrBurst = 256 << 10
)

// Host starts jails. It keeps one thread for that, as the kernel ends children with the thread that made them, not with the process.
type Host struct {
	launcher int    // a descriptor of the binary that children begin as
	name     string // of its groups' folder
	in       *hierarchy
	run      chan func()
	thread   sync.WaitGroup
	count    atomic.Int64

	mu     sync.Mutex
	uids   map[int]bool // taken
	closed bool
}

// NewHost finds the host's cgroups and makes a folder of groups in them. launcher is a binary whose main calls [Main], "" this program's; parent
// is the cgroup to make groups in, "" this process's own or the one above. Errors are [ErrUnsupported].
func NewHost(launcher, parent string) (*Host, error) {
	if launcher == "" {
		launcher = "/proc/self/exe"
	}
	if _, err := landlockVersion(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	found, err := findHierarchy(parent)
	if err != nil {
		return nil, err
	}
	name, err := folderName(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	name = fmt.Sprintf("%s-%d", name, hosts.Add(1))
	binary, err := openLauncher(launcher)
	if err != nil {
		return nil, fmt.Errorf("%w: opening the launcher: %w", ErrUnsupported, err)
	}
	in, err := found.open(name)
	if err != nil {
		return nil, errors.Join(err, unix.Close(binary))
	}
	h := &Host{launcher: binary, name: name, in: in, run: make(chan func()), uids: map[int]bool{}}
	h.thread.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, when no child is left
		for f := range h.run {
			f()
		}
	})
	return h, nil
}

// openLauncher opens the binary, as who executes it is a user that may not be able to go where it is. The number is above those that a
// child is given, so that it is there until the child has become it.
func openLauncher(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 64)
}

// hosts numbers the folders of one process.
var hosts atomic.Int64

// CgroupVersion is 1 or 2.
func (h *Host) CgroupVersion() int { return h.in.version }

// Close removes the folder of groups. No program may be left.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	close(h.run)
	h.thread.Wait()
	return errors.Join(h.in.remove(), unix.Close(h.launcher))
}

// NewGroup makes a group for one program.
func (h *Host) NewGroup(l GroupLimits) (*Group, error) {
	return h.in.group(fmt.Sprint(h.count.Add(1)), l)
}

// Name is a new name for a group that a program makes for itself, in whatever hierarchies it knows. [Host.RemoveNamed] removes it; where
// nobody lives to do that the next host does.
func (h *Host) Name() string { return fmt.Sprintf("%s-%d", h.name, h.count.Add(1)) }

// RemoveNamed removes a group that a program has made below this process's groups.
func (h *Host) RemoveNamed(name string) error {
	var errs []error
	for _, folder := range h.in.all {
		errs = append(errs, removeTree(filepath.Join(folder, name)))
	}
	return errors.Join(errs...)
}

// TakeUser returns a user and group on the host that no other guest of this host is now, for programs that make guests themselves. Give it
// back with FreeUser.
func (h *Host) TakeUser() (int, error) {
	id, err := h.takeUID()
	if err == nil && id == 0 {
		err = fmt.Errorf("%w: only root can choose a user for a guest", ErrUnsupported)
	}
	return id, err
}

// FreeUser gives a user back.
func (h *Host) FreeUser(id int) { h.freeUID(id) }

// takeUID returns a user that no other guest is now; 0 where this process may not choose one.
func (h *Host) takeUID() (int, error) {
	if os.Geteuid() != 0 {
		return 0, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	// Processes side by side begin at different places, so that their guests are different users as well, mostly.
	begin := os.Getpid() * 256
	for i := range maxUIDs {
		id := firstUID + (begin+i)%maxUIDs
		if !h.uids[id] {
			h.uids[id] = true
			return id, nil
		}
	}
	return 0, fmt.Errorf("%w: all %d users for guests are taken", ErrUnsupported, maxUIDs)
}

func (h *Host) freeUID(id int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.uids, id)
}

// Proc is a program in its jail.
type Proc struct {
	host   *Host
	cmd    *exec.Cmd
	group  *Group
	uid    int
	stderr *os.File
	said   sync.WaitGroup
	ended  context.CancelFunc // of what waits to read stderr
}

// Start starts a program, and returns when the program itself runs. It owns the config's group from then on, also when it fails. Errors are
// [ErrUnsupported] where the host does not have what the jail needs.
func (h *Host) Start(ctx context.Context, c Config) (_ *Proc, err error) {
	p := &Proc{host: h, group: c.Group}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Group.Remove())
			h.freeUID(p.uid)
		}
	}()
	if c.Mode == Empty || c.Mode == Confined {
		if p.uid, err = h.takeUID(); err != nil {
			return nil, err
		}
	}
	orderR, orderW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer orderW.Close()
	statusR, statusW, err := os.Pipe()
	if err != nil {
		orderR.Close()
		return nil, err
	}
	defer statusR.Close()
	err = p.spawn(c, orderR, statusW)
	orderR.Close()
	statusW.Close()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, p.Kill)
	err = p.tell(c, orderW, statusR)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		p.Kill()
		p.reap()
		return nil, err
	}
	return p, nil
}

// spawn makes the child in its namespaces, on the host's thread.
func (p *Proc) spawn(c Config, orderR, statusW *os.File) error {
	p.cmd = &exec.Cmd{Path: fmt.Sprintf("/proc/self/fd/%d", p.host.launcher), Args: []string{launcherName}, Env: []string{"GOMAXPROCS=1", "GOGC=off"}, Dir: "/",
		Stdin: c.Stdin, Stdout: c.Stdout, ExtraFiles: []*os.File{orderR, statusW}}
	if c.Program != nil {
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, c.Program)
	}
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
	if !c.Network {
		flags |= unix.CLONE_NEWNET
	}
	attr := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if c.Mode == Empty {
		flags |= unix.CLONE_NEWUSER
		outside, groupOutside := os.Geteuid(), os.Getegid()
		if p.uid != 0 {
			outside, groupOutside = p.uid, p.uid
		}
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: outside, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: groupOutside, Size: 1}}
		attr.GidMappingsEnableSetgroups = p.uid != 0
		attr.Credential = &syscall.Credential{NoSetGroups: p.uid == 0}
	}
	attr.Cloneflags = flags
	p.cmd.SysProcAttr = attr
	if c.Stderr != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer w.Close()
		p.stderr, p.cmd.Stderr = r, w
		if c.Again {
			p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, w)
		}
	}
	done := make(chan error, 1)
	p.host.run <- func() { done <- p.cmd.Start() }
	if err := <-done; err != nil {
		if p.stderr != nil {
			p.stderr.Close()
		}
		return fmt.Errorf("%w: making a process in namespaces of its own: %w", ErrUnsupported, err)
	}
	if p.stderr != nil {
		ctx, cancel := context.WithCancel(context.Background())
		p.ended = cancel
		p.said.Go(func() { p.listen(ctx, c.Stderr) })
	}
	return nil
}

// listen reads stderr. When the program has ended it reads what is left, which is a pipe full at most.
func (p *Proc) listen(ctx context.Context, to io.Writer) {
	l := rate.NewLimiter(stderrRate, stderrBurst)
	buf := make([]byte, 4<<10)
	for {
		n, err := p.stderr.Read(buf)
		_, _ = to.Write(buf[:n]) // it keeps a tail: nothing can go wrong
		if err != nil {
			return
		}
		_ = l.WaitN(ctx, n) // its end is an error as well
	}
}

// tell gives the child its order when it is in its group, and waits until it has become the program.
func (p *Proc) tell(c Config, orderW, statusR *os.File) error {
	if err := p.group.add(p.cmd.Process.Pid); err != nil {
		return err
	}
	o := order{Mode: c.Mode, Path: c.Path, Args: c.Args, Env: c.Env, Dir: c.Dir, Network: c.Network, Read: c.Read, Write: c.Write, Keep: c.Again, Without: c.without, UID: p.uid, GID: c.GID}
	if o.GID == 0 {
		o.GID = p.uid
	}
	raw, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if len(raw) > maxOrder {
		return fmt.Errorf("arguments and environment of %d bytes are too long", len(raw))
	}
	// A child that is gone breaks the pipe; what it said before is worth more.
	_, writeErr := orderW.Write(raw)
	writeErr = errors.Join(writeErr, orderW.Close())
	said, err := io.ReadAll(io.LimitReader(statusR, 4<<10))
	switch {
	case err != nil:
		return err
	case len(said) == 1 && said[0] == understood:
		return writeErr
	case len(said) > 0:
		return fmt.Errorf("%w: %s", ErrUnsupported, bytes.TrimPrefix(said, []byte{understood}))
	}
	return errors.Join(fmt.Errorf("%w: the launcher ended before it was told what to do: does its main call jail.Main?", ErrUnsupported), writeErr)
}

// Pid is the program's on the host.
func (p *Proc) Pid() int { return p.cmd.Process.Pid }

// Kill ends the program and all that it has started: it is the first process of a namespace, with which the kernel ends the others.
func (p *Proc) Kill() { _ = p.cmd.Process.Kill() } // it may have ended

// Wait returns when nothing of the program is left, and says how it ended.
func (p *Proc) Wait() error {
	err := p.reap()
	if p.group.outOfMemory() {
		err = errors.New("it was ended by the kernel, as it had more memory than its limit")
	}
	removed := p.removeGroup()
	p.host.freeUID(p.uid)
	return errors.Join(err, removed)
}

func (p *Proc) reap() error {
	err := p.cmd.Wait()
	if p.stderr != nil {
		// What is in the pipe is read, but nobody is waited for who has kept its other end.
		p.ended()
		_ = p.stderr.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		p.said.Wait()
		p.stderr.Close()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("it ended with %s", exit.ProcessState)
	}
	return err
}

// removeGroup removes the group. The kernel counts a process as the group's for a moment after its end was told.
func (p *Proc) removeGroup() error {
	var err error
	for range 100 {
		if err = p.group.Remove(); err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return err
}
