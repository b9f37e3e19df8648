// Package sandbox runs handlers of sessions that are trusted with much, each in an isolation of its own: a WebAssembly module, a Linux
// process with nothing around it, a container, or a virtual machine.
//
// A [Pool] holds the seats, the deadlines and the sessions; what isolates is an [Isolation], of which the rooms beside this one have four.
// A session that cannot have the isolation that was asked for is refused with [ErrUnavailable]: there is no falling back. Whether an
// isolation can be had is found by starting a small guest in it and taking the time, never by looking whether a file is there.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrUnavailable says that the wanted isolation cannot be had here and now; the reason is beside it.
var ErrUnavailable = errors.New("the isolation is unavailable")

// ErrFull says that all seats are taken: the same may work later.
var ErrFull = errors.New("all sandbox seats are taken")

// ErrDeadline is why a session ended that lived until its deadline.
var ErrDeadline = errors.New("the session's deadline")

// ErrEnded says that a session is over; why is beside it.
var ErrEnded = errors.New("the sandbox session has ended")

// Kind is a way to isolate.
type Kind string

// The kinds, from the lightest. What each of them stands on is a [Boundary].
const (
	Wasm    Kind = "wasm"    // a WebAssembly module (wasip1) in this process
	Process Kind = "process" // a Linux process in namespaces, behind Landlock and seccomp, in cgroups
	OCI     Kind = "oci"     // a container by runc or runsc
	MicroVM Kind = "microvm" // a virtual machine
)

// Kinds are all of them, from the lightest.
func Kinds() []Kind { return []Kind{Wasm, Process, OCI, MicroVM} }

// ParseKind reads a kind's name.
func ParseKind(s string) (Kind, error) {
	for _, k := range Kinds() {
		if string(k) == s {
			return k, nil
		}
	}
	return "", fmt.Errorf("%.40q is no isolation: wasm, process, oci or microvm", s)
}

// Boundary is what a handler would have to break to get out.
type Boundary string

// Boundaries.
const (
	BoundaryNone       Boundary = "none"       // nothing that is meant to hold: an emulated machine
	BoundarySoftware   Boundary = "software"   // the WebAssembly compiler and runtime
	BoundaryKernel     Boundary = "kernel"     // the host's kernel, by the system calls that are left
	BoundaryHypervisor Boundary = "hypervisor" // what runs virtual machines, and the devices it gives them
)

// Class is how much a session may use.
type Class uint8

// The classes, by the level of trust of whoever the session is for.
const (
	Privileged Class = iota
	Critical
)

// ParseClass reads a class's name.
func ParseClass(s string) (Class, error) {
	switch s {
	case "privileged":
		return Privileged, nil
	case "critical":
		return Critical, nil
	}
	return 0, fmt.Errorf("%.40q is no class of sessions: privileged or critical", s)
}

func (c Class) String() string {
	if c == Critical {
		return "critical"
	}
	return "privileged"
}

// Limits bound a guest. All are enforced from outside of it.
type Limits struct {
	Memory    int64   // bytes, of all that the guest holds
	CPU       float64 // processors: 0.5 is half the time of one. WebAssembly guests have no share, only a deadline.
	Tasks     int     // processes and threads
	Bandwidth int64   // bytes a second through the channel, both ways together
	Burst     int64   // bytes that may go at once
	Answer    int64   // bytes of one answer
}

// Limits are the class's: 512 MiB and half a processor, or 1 GiB and one.
func (c Class) Limits() Limits {
	l := Limits{Memory: 512 << 20, CPU: 0.5, Tasks: 64, Bandwidth: 16 << 20, Burst: 4 << 20, Answer: 16 << 20}
	if c == Critical {
		l.Memory, l.CPU, l.Tasks, l.Bandwidth, l.Burst = 1<<30, 1, 128, 32<<20, 8<<20
	}
	return l
}

// Launch is what an isolation starts.
type Launch struct {
	Image   *Image
	Args    []string // after the program's name
	Limits  Limits
	Network bool      // the host's network; without it there is none
	Fixed   bool      // clock and randomness are the same at each start, where the isolation can do that
	Stderr  io.Writer // what the guest says beside the channel; it must not block
}

// Guest is a handler that runs. Its streams are the channel's; they fail when it ends.
type Guest struct {
	Stdin  io.WriteCloser
	Stdout io.ReadCloser
	// Kill ends the guest and all that it has started, at once. It may be called at any time, by several, and again.
	Kill func()
	// Wait returns when nothing of the guest is left on the host: no process, mount, cgroup or file. Its error says how the guest
	// ended, nil where it ended by itself with success. It may be called once.
	Wait func() error
}

// Isolation is a way to run guests.
type Isolation interface {
	// Echo is a handler for this isolation that says Hello and sends back what it gets, to start for a trial. The image stays the
	// isolation's.
	Echo() (*Image, []string, error)
	// Start starts a guest. It returns when the handler's code is about to run, or an error that is [ErrUnavailable] if the
	// isolation cannot be had. ctx bounds the start, not the guest.
	Start(ctx context.Context, l Launch) (*Guest, error)
	// Boundary says what guests are held by, and in a few words how, or an error that is [ErrUnavailable].
	Boundary(ctx context.Context) (Boundary, string, error)
	// Warm says that a guest may be kept for its principal's next session. It is false where a fresh one costs next to nothing.
	Warm() bool
	// Close gives back what is kept between guests. None is left by then.
	Close() error
}

// Spec is a session that is wanted.
type Spec struct {
	Isolation Kind
	Principal string        // whom it is for: sessions of two principals never share a guest
	Handler   string        // path of a WebAssembly module (wasip1) for wasm, of a static Linux program else
	Args      []string      // the handler's, after its name
	Class     Class         // what it may use
	Deadline  time.Duration // how long it may live; 0 is the pool's, more than that is refused
	Network   bool          // grants the host's network, where the isolation can
	Fixed     bool          // wants the same clock and randomness at each start; wasm only
	Emulated  bool          // accepts an isolation without a boundary: to try things
	Seat      *Seat         // reserved before, and the session's from then on if it starts; nil reserves one
}

// bounds of a Spec, so that what comes from outside stays small
const (
	maxPrincipal = 1 << 10
	maxArgs      = 64
	maxArgBytes  = 64 << 10
)

func (s *Spec) check(deadline time.Duration) error {
	if _, err := ParseKind(string(s.Isolation)); err != nil {
		return err
	}
	switch {
	case s.Principal == "" || len(s.Principal) > maxPrincipal:
		return fmt.Errorf("a sandbox session is for a principal, whose name has 1 to %d bytes", maxPrincipal)
	case s.Handler == "":
		return errors.New("a sandbox session needs a handler's path")
	case s.Class > Critical:
		return fmt.Errorf("class %d of a sandbox session", s.Class)
	case s.Deadline < 0 || s.Deadline > deadline:
		return fmt.Errorf("a deadline of %v: the longest is %v", s.Deadline, deadline)
	case s.Fixed && s.Isolation != Wasm:
		return fmt.Errorf("%w: %s has no clock of its own; wasm has", ErrUnavailable, s.Isolation)
	case len(s.Args) > maxArgs:
		return fmt.Errorf("%d arguments of a handler, at most %d", len(s.Args), maxArgs)
	}
	n := 0
	for _, a := range s.Args {
		n += len(a)
	}
	if n > maxArgBytes {
		return fmt.Errorf("arguments of %d bytes, at most %d", n, maxArgBytes)
	}
	return nil
}

// Unavailable is an error that is [ErrUnavailable], with the reason.
func Unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUnavailable, fmt.Errorf(format, args...))
}
