//go:build amd64 || arm64

package jail

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (linux/seccomp.h): nr, arch, instruction pointer, six arguments. Both architectures are little endian.
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16
)

// Actions (linux/seccomp.h).
const (
	actKill  = 0x80000000 // the whole process
	actErrno = 0x00050000
	actAllow = 0x7fff0000
)

// instruction classes of classic BPF (linux/bpf_common.h)
const (
	opLoad    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opEqual   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opAtLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opAnd     = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opReturn  = unix.BPF_RET | unix.BPF_K
)

func stmt(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }

func jump(code uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: code, Jt: yes, Jf: no, K: k}
}

// program is the filter in BPF. Each system call is a block of its own that either answers or falls through to the next with the number
// loaded again, so no jump is far.
func program(calls []Syscall) ([]unix.SockFilter, error) {
	out := []unix.SockFilter{
		stmt(opLoad, dataArch),
		jump(opEqual, auditArch, 1, 0),
		stmt(opReturn, actKill), // numbers of another architecture mean other calls
		stmt(opLoad, dataNumber),
	}
	if x32Bit != 0 {
		out = append(out, jump(opAtLeast, x32Bit, 0, 1), stmt(opReturn, actKill))
	}
	// glibc and others take ENOSYS for "use the older one", whose flags can be looked at
	out = append(out, jump(opEqual, numbers["clone3"], 0, 1), stmt(opReturn, actErrno|uint32(unix.ENOSYS)))
	known := 0
	for _, c := range calls {
		nr, ok := numbers[c.Name]
		if !ok {
			continue // the architecture has no such call: a newer name for it is in the list as well
		}
		known++
		if c.Mask == 0 {
			out = append(out, jump(opEqual, nr, 0, 1), stmt(opReturn, actAllow))
			continue
		}
		arg := uint32(dataArgs + 8*c.Arg)
		out = append(out,
			jump(opEqual, nr, 0, 8),
			stmt(opLoad, arg), stmt(opAnd, uint32(c.Mask)), jump(opEqual, uint32(c.Want), 0, 4),
			stmt(opLoad, arg+4), stmt(opAnd, uint32(c.Mask>>32)), jump(opEqual, uint32(c.Want>>32), 0, 1),
			stmt(opReturn, actAllow),
			stmt(opLoad, dataNumber))
	}
	if known < len(calls)/2 {
		return nil, fmt.Errorf("of %d system calls only %d have a number here", len(calls), known)
	}
	return append(out, stmt(opReturn, actErrno|uint32(unix.EPERM))), nil
}

// seccomp puts the filter on this thread. What runs after it are only the calls that it allows. no_new_privs is set before.
func seccomp(network bool) error {
	calls := Syscalls()
	if network {
		calls = append(calls, NetworkSyscalls()...)
	}
	filter, err := program(calls)
	if err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const setModeFilter = 1 // SECCOMP_SET_MODE_FILTER
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, setModeFilter, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("setting the seccomp filter: %w", errno)
	}
	return nil
}
