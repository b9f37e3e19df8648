//go:build amd64 || arm64

package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// launcherName is argv[0] of a child that [Start] has made.
const launcherName = "quantra-jail"

// Descriptors of the child. The last is the program in mode Empty, else [StderrFD].
const (
	orderFD   = 3
	statusFD  = 4
	programFD = 5
)

// understood is the first byte of a child's status: a program that is no launcher of ours does not say it. What follows is an error.
const understood = '+'

// maxOrder bounds the order, which is of our own making.
const maxOrder = 1 << 20

// order is what the child is told, through a pipe that ends with the parent.
type order struct {
	Mode    Mode
	Path    string `json:",omitempty"`
	Args    []string
	Env     []string
	Dir     string `json:",omitempty"`
	Network bool
	UID     int      // Confined: whom to become; 0 is nobody else
	GID     int      // likewise
	Read    []string `json:",omitempty"`
	Write   []string `json:",omitempty"`
	Keep    bool     // Shared, Confined: the descriptor after the status stays open
	Without layers
}

// Main is called first of all by the main function of a program that starts jails. In a child that [Start] has made it does not return.
func Main() {
	if len(os.Args) == 0 || os.Args[0] != launcherName {
		return
	}
	runtime.LockOSThread()
	err := enter()
	// Only an error comes back. The parent reads it; nobody else is there to be told.
	_, _ = unix.Write(statusFD, []byte(err.Error()))
	os.Exit(1)
}

// enter turns this process into the ordered program.
func enter() error {
	raw, err := io.ReadAll(io.LimitReader(os.NewFile(orderFD, "order"), maxOrder))
	if err != nil {
		return fmt.Errorf("reading the order: %w", err)
	}
	var o order
	if err := json.Unmarshal(raw, &o); err != nil {
		// The parent went away before it had said all: then nothing may run.
		return fmt.Errorf("reading the order: %w", err)
	}
	if _, err := unix.Write(statusFD, []byte{understood}); err != nil {
		return fmt.Errorf("answering: %w", err)
	}
	// What is not wanted by the program ends with this program. The status pipe is read until then.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("closing descriptors at exec: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts its own: %w", err)
	}
	switch o.Mode {
	case Empty:
		return enterEmpty(&o)
	case Shared:
		if err := freshProc(); err != nil {
			return err
		}
		return become(&o)
	case Confined:
		return enterConfined(&o)
	}
	return fmt.Errorf("mode %q", o.Mode)
}

func enterEmpty(o *order) error {
	if err := unix.Sethostname([]byte("sandbox")); err != nil {
		return fmt.Errorf("setting the host's name: %w", err)
	}
	if !o.Without.Root {
		if err := emptyRoot(); err != nil {
			return err
		}
	}
	return becomeStatic(programFD, o, dieWithParent)
}

// Become makes this process a handler without making namespaces or groups: for the first process of a virtual machine, which is all of them.
// It comes back only with an error. The caller has locked the thread, and what is open but for 0, 1 and 2 is closed at exec.
func Become(program int, args, env []string, uid int) error {
	return becomeStatic(program, &order{Args: args, Env: env, UID: uid, GID: uid}, func() error { return nil })
}

// becomeStatic gives up all rights and becomes the program behind a descriptor. last is done when nothing else changes the process any more.
func becomeStatic(program int, o *order, last func() error) error {
	if err := limitResources(); err != nil {
		return err
	}
	uid, gid := o.UID, o.GID
	if o.Mode == Empty {
		uid, gid = 0, 0 // clone has made it user 0 of a namespace, which is nobody outside
	}
	if err := dropCapabilities(uid, gid); err != nil {
		return err
	}
	if !o.Without.Landlock {
		rule := landlockRule{fd: program, access: unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE}
		if err := landlock([]landlockRule{rule}, o.Network); err != nil {
			return err
		}
	}
	if err := last(); err != nil {
		return err
	}
	argv, env, err := cStrings(o.Args, o.Env)
	if err != nil {
		return err
	}
	empty, err := unix.BytePtrFromString("")
	if err != nil {
		return err
	}
	if !o.Without.Seccomp {
		if err := seccomp(o.Network); err != nil {
			return err
		}
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(program), uintptr(unsafe.Pointer(empty)), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&env[0])), unix.AT_EMPTY_PATH, 0)
	return fmt.Errorf("starting the program (it must be a static one for this machine, and others may execute it): %w", errno)
}

func enterConfined(o *order) error {
	if err := freshProc(); err != nil {
		return err
	}
	rules := make([]landlockRule, 0, len(o.Read)+len(o.Write))
	for _, group := range []struct {
		paths  []string
		access uint64
	}{{o.Read, landlockRead}, {o.Write, landlockWrite}} {
		for _, path := range group.paths {
			fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("opening %s: %w", path, err)
			}
			rules = append(rules, landlockRule{fd: fd, access: group.access})
		}
	}
	if err := dropCapabilities(o.UID, o.GID); err != nil {
		return err
	}
	if err := landlock(rules, o.Network); err != nil {
		return err
	}
	return become(o)
}

// become executes a program of the host.
func become(o *order) error {
	if o.Dir != "" {
		if err := os.Chdir(o.Dir); err != nil {
			return err
		}
	}
	if o.Keep {
		if _, err := unix.FcntlInt(programFD, unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keeping descriptor %d: %w", programFD, err)
		}
	}
	if err := dieWithParent(); err != nil {
		return err
	}
	return fmt.Errorf("starting %s: %w", o.Path, unix.Exec(o.Path, o.Args, o.Env))
}

// emptyRoot makes the root a file system without a file, which cannot be written. What was mounted before is gone from this namespace.
func emptyRoot() error {
	const at = "/proc" // a folder that every Linux has; the host's /proc is of no use here anyway
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("tmpfs", at, "tmpfs", flags, "size=4k,nr_inodes=1,mode=0555"); err != nil {
		return fmt.Errorf("mounting the empty root: %w", err)
	}
	if err := os.Chdir(at); err != nil {
		return fmt.Errorf("entering the empty root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("making the empty root the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("letting go of the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("entering the empty root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|flags, ""); err != nil {
		return fmt.Errorf("making the root read-only: %w", err)
	}
	return nil
}

// freshProc shows the namespace's own processes in /proc, so that runc and QEMU find themselves there.
func freshProc() error {
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	return nil
}

// limitResources sets what cgroups do not count. The memory and tasks limits are the group's.
func limitResources() error {
	for name, l := range map[string]struct {
		resource int
		max      uint64
	}{
		"core":       {unix.RLIMIT_CORE, 0},
		"fsize":      {unix.RLIMIT_FSIZE, 0}, // files only: pipes have none
		"nofile":     {unix.RLIMIT_NOFILE, 64},
		"memlock":    {unix.RLIMIT_MEMLOCK, 0},
		"msgqueue":   {unix.RLIMIT_MSGQUEUE, 0},
		"nice":       {unix.RLIMIT_NICE, 0},
		"rtprio":     {unix.RLIMIT_RTPRIO, 0},
		"sigpending": {unix.RLIMIT_SIGPENDING, 256},
	} {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.max, Max: l.max}); err != nil {
			return fmt.Errorf("setting the limit of %s: %w", name, err)
		}
	}
	return nil
}

// Bits of securebits(7), each with its lock, so that being user 0 means nothing: NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE. KEEP_CAPS
// stays off, and is locked.
const secureBits = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<5 | 1<<6 | 1<<7

// dropCapabilities gives up all capabilities of this thread, the bound of what could come back with a program included, becomes another user
// unless uid is 0, and sets no_new_privs.
func dropCapabilities(uid, gid int) error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		// A kernel older than the constant does not know the last ones.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("dropping ambient capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secureBits, 0, 0, 0); err != nil {
		return fmt.Errorf("setting securebits: %w", err)
	}
	if uid != 0 {
		// For this thread only, unlike package syscall's: the others end with exec.
		for _, call := range []struct {
			name string
			nr   uintptr
			id   int
		}{{"groups", unix.SYS_SETGROUPS, 0}, {"group", unix.SYS_SETGID, gid}, {"user", unix.SYS_SETUID, uid}} {
			if _, _, errno := unix.RawSyscall(call.nr, uintptr(call.id), 0, 0); errno != 0 {
				return fmt.Errorf("becoming %s %d: %w", call.name, call.id, errno)
			}
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&head, &none[0]); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	return nil
}

// dieWithParent has the kernel kill this process when the thread that started it ends. A change of user before would have undone it. A
// parent that ended before is seen by the status pipe, whose other end it held.
func dieWithParent() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("asking to end with the parent: %w", err)
	}
	poll := []unix.PollFd{{Fd: statusFD}}
	if _, err := unix.Poll(poll, 0); err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	if poll[0].Revents&unix.POLLERR != 0 { // nobody reads it any more
		return errors.New("the parent is gone")
	}
	return nil
}

func cStrings(args, env []string) (argv, envv []*byte, err error) {
	if len(args) == 0 {
		return nil, nil, errors.New("a program needs a name")
	}
	if argv, err = syscall.SlicePtrFromStrings(args); err != nil {
		return nil, nil, err
	}
	envv, err = syscall.SlicePtrFromStrings(env)
	return argv, envv, err
}
