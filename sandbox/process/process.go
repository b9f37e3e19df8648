// Package process runs a handler as a Linux process that has nothing around it: no files, no network, no other processes, no rights, and
// of the kernel only the system calls that computing needs. What holds it is package jail; the boundary is the host's kernel.
package process
