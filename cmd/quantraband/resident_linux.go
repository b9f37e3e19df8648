package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// forgetStart gives back the memory of this program's own file that starting alone has needed: of code and constants that all packages touch once, and
// of what the kernel maps beside each page that is touched, some 80 MB stay mapped otherwise. What is used again is mapped again, from the page cache;
// the rest can be dropped where memory is short. Only what nobody can write, and nobody has written, is given back: the dynamic linker writes to
// tables that it protects then, and the file has not what it wrote. It does nothing where it cannot.
func forgetStart() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	var from, to uintptr // of the mapping that the lines are of, if it is one that is looked for
	for line := range strings.Lines(string(maps)) {
		line = strings.TrimSuffix(line, "\n")
		// A mapping begins with addresses, rights, offset, device, inode, and a name behind spaces (proc_pid_maps(5)); lines of what it has follow.
		var a, b uintptr
		var rights string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &a, &b, &rights); n == 3 {
			from, to = 0, 0
			if (rights == "r-xp" || rights == "r--p") && strings.HasSuffix(line, " "+exe) {
				from, to = a, b
			}
			continue
		}
		// Pages of a private mapping that were written are anonymous.
		if f := strings.Fields(line); to > 0 && len(f) == 3 && f[0] == "Anonymous:" && f[1] == "0" {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}
