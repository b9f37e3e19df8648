package microvm

import "time"

// Options are the isolation's.
type Options struct {
	Monitor  string        // "qemu" or "firecracker"; "" is qemu
	Program  string        // the monitor's, by name or path; "" is found by name
	Kernel   string        // the machine's kernel; "" is the newest of /boot that has modules in /lib/modules
	Modules  string        // the kernel's folder of modules; "" is what belongs to the kernel's name
	Launcher string        // a static binary whose main calls jail.Main and guest.Main; "" is this program's own
	Cgroup   string        // the cgroup to make groups in; "" is this process's own, or the one above
	Dir      string        // where memory disks are made; "" is a new folder of the system's for temporary files
	Echo     []string      // a static program that serves package channel by sending back, and its arguments
	Within   time.Duration // how soon a small guest must answer for hardware to count as usable; 0 is 3 seconds
}
