package integrity

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	statFlags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	noATime   = unix.O_NOATIME
	noXAttr   = unix.ENODATA
)

// within is a path that leads to name in d through the open directory.
func (d *folder) within(name, path string) string {
	if d.f == nil {
		return path
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.fd, name)
}

// mounted says that another file system, or another part of this one, is mounted at the directory name in d.
func (d *folder) mounted(name string, e *Entry) bool {
	var st unix.Statx_t
	if err := unix.Statx(d.fd, name, statFlags, 0, &st); err == nil && st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	}
	return d.otherDevice(e) // Linux before 5.8
}
