// Package oci runs a handler as a container, by runc or gVisor's runsc, from a bundle made for it: a root that has the handler and nothing
// else, no capabilities, no network, the system calls of package jail. The boundary of runc is the host's kernel, that of runsc a kernel in
// user space before it.
package oci
