// Package microvm runs a handler as the only program of a small virtual machine: a kernel, a disk in memory with the handler and our binary
// for an init, and a channel over virtio. The monitor is QEMU, or Firecracker by its API.
//
// Where the processor's virtualisation is usable, which a small guest on a clock shows, the machine is a boundary. Where it is not, QEMU
// emulates (TCG): that runs handlers, and is no boundary; it was never meant to be one, and is not called one.
package microvm
