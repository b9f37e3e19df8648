//go:build linux && (amd64 || arm64)

package jail

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/quantra-l/quantra/sandbox/channel"
	"github.com/quantra-l/quantra/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	Main() // this binary starts itself again
	if program := os.Getenv("QUANTRA_TEST_ORPHAN"); program != "" {
		if err := orphan(program); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

var limits = GroupLimits{Memory: 256 << 20, CPU: 1, Tasks: 32}

func newHost(t *testing.T) *Host {
	t.Helper()
	h, err := NewHost("", "")
	if err != nil {
		sandboxtest.Unavailable(t, err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// startDoing starts a handler that does as it is told, and returns how to tell it.
func startDoing(t *testing.T, h *Host, program string, without layers) func(string) string {
	t.Helper()
	f, err := os.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	g, err := h.NewGroup(limits)
	if err != nil {
		sandboxtest.Unavailable(t, err)
	}
	p, err := h.Start(t.Context(), Config{Mode: Empty, Program: f, Args: []string{"handler", "do"}, Group: g, Stdin: inR, Stdout: outW, Stderr: io.Discard, without: without})
	if err != nil {
		sandboxtest.Unavailable(t, err)
	}
	inR.Close()
	outW.Close()
	t.Cleanup(func() {
		p.Kill()
		p.Wait()
		inW.Close()
		outR.Close()
	})
	frames := channel.NewReader(outR)
	if _, _, err := frames.Read(); err != nil {
		t.Fatal(err)
	}
	return func(request string) string {
		t.Helper()
		if err := channel.Write(inW, channel.End, []byte(request)); err != nil {
			t.Fatal(err)
		}
		answer := ""
		for {
			kind, payload, err := frames.Read()
			if err != nil {
				t.Fatalf("%s: %v", request, err)
			}
			answer += string(payload)
			if kind != channel.Data {
				return answer
			}
		}
	}
}

// Each layer holds by itself what it is there for: the others are taken away and the attempt is refused still. Where nothing is left to
// refuse it the attempt works, so the test sees what it says.
func TestLayers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	program := sandboxtest.Build(t, "linux", runtime.GOARCH)
	h := newHost(t)
	for _, c := range []struct {
		name    string
		without layers
		refused []string // what, and how
		done    []string
	}{
		{"all", layers{}, []string{"read /etc/passwd: not permitted", "fork: not permitted"}, nil},
		{"empty root", layers{Seccomp: true, Landlock: true}, []string{"read /etc/passwd: no such file", "list /proc: no such file", "write /x: read-only"}, []string{"list /"}},
		{"Landlock", layers{Seccomp: true, Root: true}, []string{"read /etc/passwd: permission denied", "list /: permission denied", "write /tmp/x: permission denied", "exec /bin/true: permission denied"}, nil},
		{"seccomp", layers{Landlock: true, Root: true}, []string{"read /etc/passwd: not permitted", "fork: not permitted", "syscalls: all"}, nil},
		{"namespaces and capabilities", layers{Seccomp: true, Landlock: true, Root: true}, []string{"dial tcp " + l.Addr().String() + ": unreachable", "read /etc/shadow: permission denied", "write /x: permission denied"},
			[]string{"read /etc/passwd", "list /", "listen"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tell := startDoing(t, h, program, c.without)
			for _, r := range c.refused {
				at := strings.LastIndex(r, ": ")
				request, how := r[:at], r[at+2:]
				if got := tell(request); !strings.HasPrefix(got, "refused: ") || !strings.Contains(got, how) {
					t.Errorf("%s: %.200q, not %q", request, got, how)
				}
			}
			for _, request := range c.done {
				if got := tell(request); !strings.HasPrefix(got, "done: ") {
					t.Errorf("%s: %.200q, and nothing should have refused it", request, got)
				}
			}
		})
	}
	t.Run("rights", func(t *testing.T) {
		tell := startDoing(t, h, program, layers{Seccomp: true, Landlock: true, Root: true})
		if got := tell("rights"); got != "done: 0 0 0 0 1" {
			t.Errorf("capabilities effective, permitted, inheritable, to come back, and no_new_privs: %q", got)
		}
	})
	t.Run("tasks of the group", func(t *testing.T) {
		tell := startDoing(t, h, program, layers{Seccomp: true})
		got := tell("fork")
		n, err := strconv.Atoi(strings.TrimPrefix(strings.SplitN(got, " processes", 2)[0], "done: "))
		if err != nil || n < 1 || n > limits.Tasks {
			t.Errorf("a bomb of processes: %q, the limit is %d", got, limits.Tasks)
		}
	})
}

// What a guest is inside and outside: user 0 of nothing.
func TestIdentity(t *testing.T) {
	program := sandboxtest.Build(t, "linux", runtime.GOARCH)
	h := newHost(t)
	tell := startDoing(t, h, program, layers{})
	if got := tell("ids"); got != "done: 1 0 0" {
		t.Errorf("inside: %q", got)
	}
	if os.Geteuid() == 0 {
		a, err := h.TakeUser()
		if err != nil {
			t.Fatal(err)
		}
		b, err := h.TakeUser()
		if err != nil || a == b || a < firstUID {
			t.Errorf("users %d and %d, %v", a, b, err)
		}
	}
}

// orphan starts a handler that computes without end, says its id, and waits to be killed.
func orphan(program string) error {
	f, err := os.Open(program)
	if err != nil {
		return err
	}
	h, err := NewHost("", "")
	if err != nil {
		return err
	}
	g, err := h.NewGroup(limits)
	if err != nil {
		return err
	}
	p, err := h.Start(context.Background(), Config{Mode: Empty, Program: f, Args: []string{"handler", "spin"}, Group: g})
	if err != nil {
		return err
	}
	fmt.Println(p.Pid())
	select {}
}

// TestParentKilled: kill -9 of the process that started a handler ends the handler, and the next host removes what was left.
func TestParentKilled(t *testing.T) {
	newHost(t) // skips where there is none
	program := sandboxtest.Build(t, "linux", runtime.GOARCH)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "QUANTRA_TEST_ORPHAN="+program)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	guest, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(guest)
	cmd.Process.Kill()
	cmd.Wait()
	const patience = 60_000 // ms; it ends at once, on whatever machine
	poll := []unix.PollFd{{Fd: int32(guest), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, patience); n != 1 {
		unix.PidfdSendSignal(guest, unix.SIGKILL, nil, 0)
		t.Fatalf("the handler outlived its parent: %v", err)
	}
	if len(sandboxtest.Groups(t, cmd.Process.Pid)) == 0 {
		t.Error("the dead left no groups: the test shows nothing")
	}
	newHost(t)
	// A process counts as its group's for a moment after its end.
	for range 1000 {
		if len(sandboxtest.Groups(t, cmd.Process.Pid)) == 0 {
			return
		}
		runtime.Gosched()
		newHost(t)
	}
	t.Errorf("left by the dead: %v", sandboxtest.Groups(t, cmd.Process.Pid))
}

func TestStartFails(t *testing.T) {
	h := newHost(t)
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.WriteFile(closed, []byte("\x7fELF"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := sandboxtest.Leftovers(t)
	for name, c := range map[string]Config{
		"a script":                    {Mode: Empty, Args: []string{script}},
		"a file that nobody may run":  {Mode: Empty, Args: []string{closed}},
		"a mode that is none":         {Mode: "open", Args: []string{script}},
		"a program that is not there": {Mode: Shared, Path: "/no/such", Args: []string{script}},
		"no name":                     {Mode: Empty},
	} {
		f, err := os.Open(script)
		if len(c.Args) > 0 {
			f.Close()
			f, err = os.Open(c.Args[0])
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Program = f
		if c.Group, err = h.NewGroup(limits); err != nil {
			sandboxtest.Unavailable(t, err)
		}
		if _, err := h.Start(t.Context(), c); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
		f.Close()
	}
	if _, err := NewHost("/no/such", ""); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a launcher that is not there: %v", err)
	}
	other, err := NewHost("/bin/true", "")
	if err != nil {
		t.Fatal(err)
	}
	g, err := other.NewGroup(limits)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Start(t.Context(), Config{Mode: Shared, Path: script, Args: []string{"x"}, Group: g}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a launcher that is none: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	if after := sandboxtest.Leftovers(t); after != before {
		t.Errorf("left: %s; before: %s", after, before)
	}
	for _, l := range []GroupLimits{{}, {Memory: 1 << 20, CPU: 1}, {Memory: 1 << 20, Tasks: 1}} {
		if _, err := h.NewGroup(l); err == nil {
			t.Errorf("a group with limits %+v", l)
		}
	}
}

func TestParseHierarchy(t *testing.T) {
	const v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
	const v1 = "31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
		"32 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n33 23 0:29 /docker/x /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
	for _, c := range []struct {
		name, self, mounts, parent string
		version                    int
		folders                    string
		fails                      bool
	}{
		{"version 2", "0::/system.slice/q.service\n", v2, "", 2, "/sys/fs/cgroup/system.slice/q.service", false},
		{"version 2, named", "0::/system.slice/q.service\n", v2, "/quantra", 2, "/sys/fs/cgroup/quantra", false},
		{"version 2, a container's", "0::/\n", v2, "", 2, "/sys/fs/cgroup", false},
		{"version 1", "4:cpu,cpuacct:/a\n3:memory:/b\n2:pids:/docker/x\n1:name=systemd:/\n", v1, "", 1, "/sys/fs/cgroup/cpu,cpuacct/a /sys/fs/cgroup/memory/b /sys/fs/cgroup/pids", false},
		{"both, version 1 has them", "4:cpu,cpuacct:/\n3:memory:/\n2:pids:/docker/x/y\n0::/\n", v1 + v2, "", 1, "/sys/fs/cgroup/cpu,cpuacct /sys/fs/cgroup/memory /sys/fs/cgroup/pids/y", false},
		{"both, version 1 lacks one", "4:cpu,cpuacct:/\n0::/z\n", v1 + v2, "", 2, "/sys/fs/cgroup/z", false},
		{"none mounted", "0::/\n", "", "", 0, "", true},
		{"a line that is none", "nonsense\n", v2, "", 0, "", true},
	} {
		h, err := parseHierarchy(c.self, c.mounts, c.parent)
		if (err != nil) != c.fails {
			t.Errorf("%s: %v", c.name, err)
		} else if err == nil && (h.version != c.version || strings.Join(h.folders, " ") != c.folders) {
			t.Errorf("%s: version %d, %v", c.name, h.version, h.folders)
		}
	}
}

// run is the filter's answer, by the rules of classic BPF as far as the filter uses them.
func run(t *testing.T, prog []unix.SockFilter, data []byte) uint32 {
	t.Helper()
	var a uint32
	for pc := 0; pc < len(prog); pc++ {
		switch i := prog[pc]; i.Code {
		case opLoad:
			a = binary.LittleEndian.Uint32(data[i.K:])
		case opAnd:
			a &= i.K
		case opEqual, opAtLeast:
			if i.Code == opEqual && a == i.K || i.Code == opAtLeast && a >= i.K {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		case opReturn:
			return i.K
		default:
			t.Fatalf("instruction %#x", i.Code)
		}
	}
	t.Fatal("the filter ends without an answer")
	return 0
}

func TestFilter(t *testing.T) {
	prog, err := program(append(Syscalls(), NetworkSyscalls()...))
	if err != nil {
		t.Fatal(err)
	}
	if len(prog) > 4096 { // BPF_MAXINSNS
		t.Fatalf("%d instructions", len(prog))
	}
	const eperm, enosys = actErrno | uint32(unix.EPERM), actErrno | uint32(unix.ENOSYS)
	for _, c := range []struct {
		name string
		arch uint32
		nr   uint32
		args [6]uint64
		want uint32
	}{
		{"read", auditArch, unix.SYS_READ, [6]uint64{}, actAllow},
		{"another architecture", 0x40000003, unix.SYS_READ, [6]uint64{}, actKill},
		{"a thread", auditArch, unix.SYS_CLONE, [6]uint64{0x50f00}, actAllow},
		{"a process", auditArch, unix.SYS_CLONE, [6]uint64{uint64(unix.SIGCHLD)}, eperm},
		{"a thread in a namespace", auditArch, unix.SYS_CLONE, [6]uint64{cloneThread | unix.CLONE_NEWUSER}, eperm},
		{"clone3", auditArch, unix.SYS_CLONE3, [6]uint64{}, enosys},
		{"memory", auditArch, unix.SYS_MMAP, [6]uint64{0, 4096, 3}, actAllow},
		{"memory that runs", auditArch, unix.SYS_MMAP, [6]uint64{0, 4096, 7}, eperm},
		{"a descriptor's program", auditArch, unix.SYS_EXECVEAT, [6]uint64{5, 0, 0, 0, atEmptyPath}, actAllow},
		{"a path's program", auditArch, unix.SYS_EXECVEAT, [6]uint64{5, 0, 0, 0, 0}, eperm},
		{"execve", auditArch, unix.SYS_EXECVE, [6]uint64{}, eperm},
		{"limits of its own", auditArch, unix.SYS_PRLIMIT64, [6]uint64{0}, actAllow},
		{"limits of another", auditArch, unix.SYS_PRLIMIT64, [6]uint64{1}, eperm},
		{"opening", auditArch, unix.SYS_OPENAT, [6]uint64{}, eperm},
		{"an internet socket", auditArch, unix.SYS_SOCKET, [6]uint64{unix.AF_INET}, actAllow},
		{"another internet socket", auditArch, unix.SYS_SOCKET, [6]uint64{unix.AF_INET6}, actAllow},
		{"a socket in the host", auditArch, unix.SYS_SOCKET, [6]uint64{unix.AF_UNIX}, eperm},
	} {
		data := make([]byte, 64)
		binary.LittleEndian.PutUint32(data[dataNumber:], c.nr)
		binary.LittleEndian.PutUint32(data[dataArch:], c.arch)
		for i, a := range c.args {
			binary.LittleEndian.PutUint64(data[dataArgs+8*i:], a)
		}
		if got := run(t, prog, data); got != c.want {
			t.Errorf("%s: %#x, not %#x", c.name, got, c.want)
		}
	}
	if x32Bit != 0 {
		data := make([]byte, 64)
		binary.LittleEndian.PutUint32(data[dataNumber:], uint32(x32Bit)|unix.SYS_READ)
		binary.LittleEndian.PutUint32(data[dataArch:], auditArch)
		if got := run(t, prog, data); got != actKill {
			t.Errorf("the other ABI: %#x", got)
		}
	}
}
