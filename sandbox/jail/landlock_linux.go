//go:build amd64 || arm64

package jail

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What Landlock knows to restrict, by the version of its interface (Documentation/userspace-api/landlock.rst): each bit is refused unless
// a rule allows it.
const (
	landlockV1       = 1<<13 - 1   // execute, read, write, list, make and remove
	landlockRefer    = 1 << 13     // v2
	landlockTruncate = 1 << 14     // v3
	landlockIoctl    = 1 << 15     // v5
	landlockTCP      = 1<<0 | 1<<1 // v4: bind, connect
	landlockScopes   = 1<<0 | 1<<1 // v6: abstract sockets, signals

	landlockRead  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	landlockWrite = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | landlockIoctl
)

type landlockRule struct {
	fd     int
	access uint64
}

type landlockRuleset struct{ fs, net, scoped uint64 }

// landlockVersion is the kernel's, or an error if it has none.
func landlockVersion() (int, error) {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, fmt.Errorf("the kernel has no Landlock (5.13 and later have, if it is not turned off): %w", errno)
	}
	return int(v), nil
}

// landlock restricts this thread to the rules, in all that this kernel's Landlock knows. no_new_privs is set before.
func landlock(rules []landlockRule, network bool) error {
	version, err := landlockVersion()
	if err != nil {
		return err
	}
	set := landlockRuleset{fs: landlockV1}
	size := unsafe.Sizeof(set.fs)
	if version >= 2 {
		set.fs |= landlockRefer
	}
	if version >= 3 {
		set.fs |= landlockTruncate
	}
	if version >= 4 {
		size += unsafe.Sizeof(set.net)
		if !network {
			set.net = landlockTCP
		}
	}
	if version >= 5 {
		set.fs |= landlockIoctl
	}
	if version >= 6 {
		size += unsafe.Sizeof(set.scoped)
		set.scoped = landlockScopes
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&set)), size, 0)
	if errno != 0 {
		return fmt.Errorf("making Landlock's rules (version %d): %w", version, errno)
	}
	for _, r := range rules {
		// A rule may name only what the set restricts, and for a file nothing that is of folders.
		allow := r.access & set.fs
		var st unix.Stat_t
		if err := unix.Fstat(r.fd, &st); err != nil {
			return fmt.Errorf("looking at what Landlock is to allow: %w", err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			allow &^= unix.LANDLOCK_ACCESS_FS_READ_DIR
		}
		attr := unix.LandlockPathBeneathAttr{Allowed_access: allow, Parent_fd: int32(r.fd)}
		if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, fd, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0); errno != 0 {
			return fmt.Errorf("adding a rule of Landlock's: %w", errno)
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("restricting by Landlock: %w", errno)
	}
	return unix.Close(int(fd))
}
