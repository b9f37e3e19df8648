// Package jail is what Linux has to hold a program: namespaces, an empty root, dropped capabilities, Landlock, seccomp, resource limits and
// cgroups, in pure Go. The rooms process, oci and microvm start their guests by it.
//
// A Go program has threads before its first line runs, and most of this is done for a thread or wants a process with one thread. So the
// program starts itself again: [Start] makes a child with [Launcher]'s binary and a name for argv[0] that [Main] knows. The child is made
// in its namespaces by clone, waits until it was put into its cgroups, does the rest on one thread that it never leaves, and becomes the
// wanted program by execveat, which ends all other threads. Nothing of a stranger's runs before that. See DESIGN.md for the order.
package jail

import "errors"

// ErrUnsupported says that this system has no jails, or not all of what one needs.
var ErrUnsupported = errors.New("this host cannot jail a program")
