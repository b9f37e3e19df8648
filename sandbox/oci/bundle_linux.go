//go:build amd64 || arm64

package oci

import (
	"fmt"
	"runtime"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/sandbox/jail"
)

// The parts of the runtime specification (github.com/opencontainers/runtime-spec, config.md, version 1.0.2) that a bundle of ours has.
type config struct {
	Version  string  `json:"ociVersion"`
	Process  process `json:"process"`
	Root     root    `json:"root"`
	Hostname string  `json:"hostname"`
	Mounts   []mount `json:"mounts"`
	Linux    linux   `json:"linux"`
}

type process struct {
	User            map[string]int      `json:"user"`
	Args            []string            `json:"args"`
	Env             []string            `json:"env"`
	Cwd             string              `json:"cwd"`
	Capabilities    map[string][]string `json:"capabilities"`
	Rlimits         []rlimit            `json:"rlimits"`
	NoNewPrivileges bool                `json:"noNewPrivileges"`
}

type rlimit struct {
	Type string `json:"type"`
	Hard uint64 `json:"hard"`
	Soft uint64 `json:"soft"`
}

type root struct {
	Path     string `json:"path"`
	Readonly bool   `json:"readonly"`
}

type mount struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Source      string   `json:"source"`
	Options     []string `json:"options"`
}

type linux struct {
	Namespaces    []map[string]string `json:"namespaces"`
	UIDMappings   []mapping           `json:"uidMappings"`
	GIDMappings   []mapping           `json:"gidMappings"`
	CgroupsPath   string              `json:"cgroupsPath"`
	Resources     resources           `json:"resources"`
	Seccomp       seccomp             `json:"seccomp"`
	MaskedPaths   []string            `json:"maskedPaths"`
	ReadonlyPaths []string            `json:"readonlyPaths"`
}

type mapping struct {
	ContainerID int `json:"containerID"`
	HostID      int `json:"hostID"`
	Size        int `json:"size"`
}

type resources struct {
	Devices []device       `json:"devices"`
	Memory  map[string]any `json:"memory"`
	CPU     map[string]any `json:"cpu"`
	Pids    map[string]any `json:"pids"`
}

type device struct {
	Allow  bool   `json:"allow"`
	Access string `json:"access"`
}

type seccomp struct {
	DefaultAction   string        `json:"defaultAction"`
	DefaultErrnoRet int           `json:"defaultErrnoRet"`
	Architectures   []string      `json:"architectures"`
	Syscalls        []seccompRule `json:"syscalls"`
}

type seccompRule struct {
	Names    []string     `json:"names"`
	Action   string       `json:"action"`
	ErrnoRet int          `json:"errnoRet,omitempty"`
	Args     []seccompArg `json:"args,omitempty"`
}

type seccompArg struct {
	Index    int    `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo"`
	Op       string `json:"op"`
}

// errno numbers of Linux
const (
	ePERM  = 1
	eNOSYS = 38
)

// bundle is the config of a container.
func bundle(l sandbox.Launch, rootfs, cgroups string, uid int) config {
	nobody := []mapping{{ContainerID: 0, HostID: uid, Size: 1}}
	c := config{
		Version:  "1.0.2",
		Hostname: "sandbox",
		Root:     root{Path: rootfs, Readonly: true},
		Process: process{
			User: map[string]int{"uid": 0, "gid": 0}, // of a namespace, and nobody outside
			Args: append([]string{"/handler"}, l.Args...),
			Env:  []string{fmt.Sprintf("GOMAXPROCS=%d", max(1, int(l.Limits.CPU))), fmt.Sprintf("GOMEMLIMIT=%d", l.Limits.Memory/10*9)},
			Cwd:  "/", NoNewPrivileges: true,
			Capabilities: map[string][]string{"bounding": {}, "effective": {}, "inheritable": {}, "permitted": {}, "ambient": {}},
			Rlimits: []rlimit{{Type: "RLIMIT_CORE"}, {Type: "RLIMIT_FSIZE"}, {Type: "RLIMIT_MEMLOCK"}, {Type: "RLIMIT_MSGQUEUE"},
				{Type: "RLIMIT_NOFILE", Hard: 64, Soft: 64}},
		},
		// The runtime itself needs /proc; the handler may not open anything of it.
		Mounts: []mount{{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}}},
		Linux: linux{
			UIDMappings: nobody, GIDMappings: nobody, CgroupsPath: cgroups,
			Resources: resources{
				Devices: []device{{Allow: false, Access: "rwm"}},
				Memory:  map[string]any{"limit": l.Limits.Memory},
				CPU:     map[string]any{"period": 100_000, "quota": max(1000, int64(l.Limits.CPU*100_000))},
				Pids:    map[string]any{"limit": l.Limits.Tasks},
			},
			MaskedPaths: []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			Seccomp:       filter(),
		},
	}
	for _, ns := range []string{"pid", "network", "ipc", "uts", "mount", "user", "cgroup"} {
		c.Linux.Namespaces = append(c.Linux.Namespaces, map[string]string{"type": ns})
	}
	return c
}

// filter is package jail's, for a runtime that becomes the handler by execve after the filter is on.
func filter() seccomp {
	s := seccomp{DefaultAction: "SCMP_ACT_ERRNO", DefaultErrnoRet: ePERM, Architectures: []string{map[string]string{"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}[runtime.GOARCH]}}
	const create = 0x40 // O_CREAT
	s.Syscalls = []seccompRule{
		// After the filter is on, runc lists and closes what is open and opens the pipe that it waits at. So the handler can open what is
		// in the container: itself, /proc of its own processes, and devices that are none.
		{Names: []string{"openat"}, Action: "SCMP_ACT_ALLOW", Args: []seccompArg{{Index: 2, Value: create, ValueTwo: 0, Op: "SCMP_CMP_MASKED_EQ"}}},
		{Names: []string{"close_range", "fstatfs", "getdents64", "newfstatat", "readlinkat"}, Action: "SCMP_ACT_ALLOW"},
		{Names: []string{"execve"}, Action: "SCMP_ACT_ALLOW"},
		{Names: []string{"clone3"}, Action: "SCMP_ACT_ERRNO", ErrnoRet: eNOSYS},
	}
	for _, call := range jail.Syscalls() {
		if call.Name == "execveat" {
			continue
		}
		r := seccompRule{Names: []string{call.Name}, Action: "SCMP_ACT_ALLOW"}
		if call.Mask != 0 {
			r.Args = []seccompArg{{Index: call.Arg, Value: call.Mask, ValueTwo: call.Want, Op: "SCMP_CMP_MASKED_EQ"}}
		}
		s.Syscalls = append(s.Syscalls, r)
	}
	return s
}
