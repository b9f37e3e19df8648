//go:build amd64 || arm64

package jail

import (
	"io"
	"os"
)

// Mode is how much of the host a program sees.
type Mode string

// Modes.
const (
	// Empty is for handlers: an empty read-only root, no users or capabilities, the system calls of [Syscalls] only.
	Empty Mode = "empty"
	// Shared is for programs of the host that hold guests themselves (runc): its own process ids, mounts and IPC, but the host's files
	// and rights.
	Shared Mode = "shared"
	// Confined is Shared for programs that need no rights (QEMU): another user, no capabilities, and of the host's files only what
	// [Config.Read] and [Config.Write] name.
	Confined Mode = "confined"
)

// StderrFD is the descriptor of [Config.Again].
const StderrFD = programFD

// Config is a program and its jail.
type Config struct {
	Mode    Mode
	Program *os.File // Empty: the static program, by descriptor, so that no path leads to it
	Path    string   // Shared, Confined: the program
	Args    []string // with the program's name
	Env     []string
	Dir     string
	Group   *Group   // its cgroups; required
	UID     int      // Empty and Confined, started by root: the user on the host
	GID     int      // likewise; 0 is UID
	Network bool     // the host's network
	Read    []string // Confined: files and folders that it may read and execute
	Write   []string // Confined: files that it may also write and use as devices
	Stdin   *os.File
	Stdout  *os.File
	Stderr  io.Writer // must not block
	Again   bool      // Shared, Confined: stderr is there as [StderrFD] as well, for programs that do not hand on their own

	without layers // for tests: what each layer holds alone
}

// layers are left out.
type layers struct {
	Seccomp  bool `json:",omitempty"`
	Landlock bool `json:",omitempty"`
	Root     bool `json:",omitempty"`
}
