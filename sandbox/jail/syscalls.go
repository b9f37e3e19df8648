package jail

// Syscall is one that handlers may make.
type Syscall struct {
	Name string
	Arg  int    // which argument is looked at, 0 for the first; only with Mask
	Mask uint64 // the bits of it that are compared; 0 compares nothing
	Want uint64 // what they must be
}

// Constants of Linux that conditions name; the same on all architectures here.
const (
	cloneThread  = 0x00010000 // sched.h
	cloneNewAny  = 0x7e020000 // all CLONE_NEW flags: cgroup, uts, ipc, user, pid, net, ns
	protExec     = 0x4        // mman.h
	archSetFS    = 0x1002     // asm/prctl.h
	allBits      = ^uint64(0)
	lowBits      = 0xffffffff
	atEmptyPath  = 0x1000 // fcntl.h
	currentOwner = 0
)

// Syscalls are what a static program needs to compute, to use memory and threads, and to read and write what it was given: no files, no
// other processes, no memory that can be written and executed. Whatever is not in the list fails with EPERM.
func Syscalls() []Syscall {
	out := []Syscall{
		// threads only: no process, and no namespace
		{Name: "clone", Arg: 0, Mask: cloneThread | cloneNewAny, Want: cloneThread},
		// only a descriptor can be executed, and after the start there is none
		{Name: "execveat", Arg: 4, Mask: lowBits, Want: atEmptyPath},
		{Name: "mmap", Arg: 2, Mask: protExec, Want: 0},
		{Name: "mprotect", Arg: 2, Mask: protExec, Want: 0},
		{Name: "arch_prctl", Arg: 0, Mask: lowBits, Want: archSetFS}, // thread-local storage of C programs
		{Name: "prlimit64", Arg: 0, Mask: lowBits, Want: currentOwner},
	}
	for _, name := range []string{
		"brk", "clock_getres", "clock_gettime", "clock_nanosleep", "close", "dup", "dup2", "dup3", "epoll_create1", "epoll_ctl", "epoll_pwait",
		"epoll_pwait2", "epoll_wait", "eventfd2", "exit", "exit_group", "fcntl", "fstat", "futex", "getegid", "geteuid", "getgid", "getpid",
		"getppid", "getrandom", "getrlimit", "gettid", "gettimeofday", "getuid", "lseek", "madvise", "mincore", "mremap", "munmap", "nanosleep",
		"pipe2", "poll", "ppoll", "pread64", "pwrite64", "read", "readv", "restart_syscall", "rseq", "rt_sigaction", "rt_sigprocmask",
		"rt_sigreturn", "sched_getaffinity", "sched_yield", "set_robust_list", "set_tid_address", "setitimer", "sigaltstack", "tgkill", "time",
		"timer_create", "timer_delete", "timer_settime", "uname", "write", "writev",
	} {
		out = append(out, Syscall{Name: name})
	}
	return out
}

// NetworkSyscalls are added where the network is granted.
func NetworkSyscalls() []Syscall {
	var out []Syscall
	// AF_INET and AF_INET6 by the first argument: 2 and 10. Others reach into the host (AF_UNIX, AF_NETLINK) or the link (AF_PACKET).
	for _, family := range []uint64{2, 10} {
		out = append(out, Syscall{Name: "socket", Arg: 0, Mask: lowBits, Want: family})
	}
	for _, name := range []string{"accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom", "recvmmsg",
		"recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown"} {
		out = append(out, Syscall{Name: name})
	}
	return out
}
