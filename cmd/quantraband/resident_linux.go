package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// forgetStart gives back the memory of this program's own file that starting alone has needed: of code and constants that all packages touch once, and
// of what the kernel maps beside each page that is touched, some 80 MB stay mapped otherwise. What is used again is mapped again, from the page cache;
// the rest can be dropped where memory is short. Only what nobody can write is given back. It does nothing where it cannot.
func forgetStart() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		// Addresses, rights, offset, device, inode, and a name behind spaces: proc_pid_maps(5).
		var from, to uintptr
		var rights string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &rights); n < 3 || rights != "r-xp" && rights != "r--p" || !strings.HasSuffix(strings.TrimSuffix(line, "\n"), " "+exe) {
			continue
		}
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
	}
}
