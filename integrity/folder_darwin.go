package integrity

import "golang.org/x/sys/unix"

const (
	statFlags = unix.AT_SYMLINK_NOFOLLOW
	noATime   = 0
	noXAttr   = unix.ENOATTR
)

func (d *folder) within(_, path string) string { return path }

// mounted says that another file system is mounted at the directory name in d.
func (d *folder) mounted(_ string, e *Entry) bool { return d.otherDevice(e) }
