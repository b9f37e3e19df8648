package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func attemptSystem(what, arg string) (string, error) {
	switch what {
	case "exec":
		return "started", exec.Command(arg).Run()
	case "threads":
		// each takes a thread of its own and keeps it
		n, err := strconv.Atoi(arg)
		for range n {
			go func() {
				runtime.LockOSThread()
				time.Sleep(time.Hour)
			}()
		}
		time.Sleep(time.Second)
		return "started", err
	case "fork":
		return forks()
	case "syscalls":
		return syscalls(arg)
	case "rights":
		return rights()
	case "ids":
		return fmt.Sprint(os.Getpid(), os.Getuid(), os.Getgid()), nil
	}
	return "", fmt.Errorf("no attempt called %q", what)
}

// rights are the capabilities that are effective, permitted and inheritable, how many could come back, and whether no_new_privs is set.
func rights() (string, error) {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&head, &caps[0]); err != nil {
		return "", err
	}
	bound := 0
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err == nil {
			bound += has
		}
	}
	locked, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	return fmt.Sprint(caps[0].Effective|caps[1].Effective, caps[0].Permitted|caps[1].Permitted, caps[0].Inheritable|caps[1].Inheritable, bound, locked), err
}

// forks makes processes until it may not. Each stays.
func forks() (string, error) {
	for n := 0; n < 10_000; n++ {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			if n == 0 {
				return "", errno
			}
			return fmt.Sprintf("%d processes, then %v", n, errno), nil
		}
		if pid == 0 { // a copy of a Go program with one thread: all it can do is wait
			for {
				unix.RawSyscall(unix.SYS_PPOLL, 0, 0, 0)
			}
		}
	}
	return "no bound", nil
}

// syscalls tries what would be a way out, or into others, and names what was let through but for those in known.
func syscalls(known string) (string, error) {
	path, err := unix.BytePtrFromString("/")
	if err != nil {
		return "", err
	}
	root := uintptr(unsafe.Pointer(path))
	buf := make([]byte, 4096)
	mem := uintptr(unsafe.Pointer(&buf[0]))
	page := uintptr(os.Getpagesize())
	tries := []struct {
		name string
		nr   uintptr
		args [6]uintptr
	}{
		{"socket inet", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_STREAM}},
		{"socket unix", unix.SYS_SOCKET, [6]uintptr{unix.AF_UNIX, unix.SOCK_STREAM}},
		{"socket netlink", unix.SYS_SOCKET, [6]uintptr{unix.AF_NETLINK, unix.SOCK_RAW}},
		{"socket packet", unix.SYS_SOCKET, [6]uintptr{unix.AF_PACKET, unix.SOCK_RAW}},
		{"socket vsock", unix.SYS_SOCKET, [6]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM}},
		{"ptrace", unix.SYS_PTRACE, [6]uintptr{unix.PTRACE_TRACEME}},
		{"process_vm_readv", unix.SYS_PROCESS_VM_READV, [6]uintptr{1, mem, 0, mem, 0}},
		{"kill all", unix.SYS_KILL, [6]uintptr{^uintptr(0), 0}},
		{"pidfd_open", unix.SYS_PIDFD_OPEN, [6]uintptr{1}},
		{"mount", unix.SYS_MOUNT, [6]uintptr{root, root, 0, unix.MS_BIND}},
		{"umount2", unix.SYS_UMOUNT2, [6]uintptr{root, unix.MNT_DETACH}},
		{"open_tree", unix.SYS_OPEN_TREE, [6]uintptr{^uintptr(99), root, 1}},
		{"fsopen", unix.SYS_FSOPEN, [6]uintptr{root, 0}},
		{"pivot_root", unix.SYS_PIVOT_ROOT, [6]uintptr{root, root}},
		{"chroot", unix.SYS_CHROOT, [6]uintptr{root}},
		{"unshare user", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER}},
		{"setns", unix.SYS_SETNS, [6]uintptr{0, 0}},
		{"clone3", unix.SYS_CLONE3, [6]uintptr{mem, 64}},
		{"execve", unix.SYS_EXECVE, [6]uintptr{root, 0, 0}},
		{"memfd_create", unix.SYS_MEMFD_CREATE, [6]uintptr{root, 0}},
		{"mmap exec", unix.SYS_MMAP, [6]uintptr{0, page, unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC, unix.MAP_PRIVATE | unix.MAP_ANON, ^uintptr(0)}},
		{"bpf", unix.SYS_BPF, [6]uintptr{0, mem, 64}},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uintptr{mem, 0, ^uintptr(0), ^uintptr(0)}},
		{"userfaultfd", unix.SYS_USERFAULTFD, [6]uintptr{1}},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uintptr{1, mem}},
		{"keyctl", unix.SYS_KEYCTL, [6]uintptr{0, ^uintptr(2)}},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [6]uintptr{0, mem, 0}},
		{"mknodat", unix.SYS_MKNODAT, [6]uintptr{0, root, unix.S_IFCHR, 0x101}},
		{"capset", unix.SYS_CAPSET, [6]uintptr{mem, mem}},
		{"setuid", unix.SYS_SETUID, [6]uintptr{1}},
		{"init_module", unix.SYS_INIT_MODULE, [6]uintptr{mem, 1, mem}},
		{"kexec_load", unix.SYS_KEXEC_LOAD, [6]uintptr{0, 0, 0, 0}},
		{"reboot", unix.SYS_REBOOT, [6]uintptr{0, 0, 0, 0}},
		{"swapon", unix.SYS_SWAPON, [6]uintptr{root}},
		{"acct", unix.SYS_ACCT, [6]uintptr{root}},
		{"sethostname", unix.SYS_SETHOSTNAME, [6]uintptr{mem, 1}},
		{"clock_settime", unix.SYS_CLOCK_SETTIME, [6]uintptr{0, mem}},
		{"tiocsti", unix.SYS_IOCTL, [6]uintptr{0, unix.TIOCSTI, mem}},
		{"seccomp", unix.SYS_SECCOMP, [6]uintptr{0, 0, 0}},
		{"shmget", unix.SYS_SHMGET, [6]uintptr{0, page, 0o600 | 0o1000}},
		{"fanotify_init", unix.SYS_FANOTIFY_INIT, [6]uintptr{0, 0}},
		{"syslog", unix.SYS_SYSLOG, [6]uintptr{3, mem, 64}},
	}
	var passed []string
	for _, t := range tries {
		_, _, errno := unix.RawSyscall6(t.nr, t.args[0], t.args[1], t.args[2], t.args[3], t.args[4], t.args[5])
		// EPERM and ENOSYS are the filter's answers, and what a lack of capabilities gives; all others mean that the kernel looked
		// at the call.
		if errno != unix.EPERM && errno != unix.ENOSYS && !slices.Contains(strings.Fields(known), t.name) {
			passed = append(passed, fmt.Sprintf("%s (%v)", t.name, errno))
		}
	}
	if len(passed) > 0 {
		return strings.Join(passed, ", "), nil
	}
	return "", errors.New("all " + strconv.Itoa(len(tries)))
}
