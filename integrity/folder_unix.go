//go:build linux || darwin

package integrity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// folder is an open directory. What is in it is reached through it, so that no link put in place of a parent leads elsewhere.
type folder struct {
	f    *os.File // nil: names are whole paths
	fd   int
	refs atomic.Int32
}

// nowhere is the folder of whole paths.
func nowhere() *folder {
	d := &folder{fd: unix.AT_FDCWD}
	d.refs.Store(1)
	return d
}

func (d *folder) retain() *folder { d.refs.Add(1); return d }

func (d *folder) release() {
	if d.refs.Add(-1) == 0 && d.f != nil {
		d.f.Close() // opened to read: nothing can be lost
	}
}

// open opens a directory in d; a link is no directory.
func (d *folder) open(name string) (*folder, error) {
	fd, err := again(func() (int, error) {
		return unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, err
	}
	sub := &folder{f: os.NewFile(uintptr(fd), name), fd: fd}
	sub.refs.Store(1)
	return sub, nil
}

// again calls a system call until no signal interrupts it.
func again(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != unix.EINTR {
			return n, err
		}
	}
}

// names are of what is in d, sorted.
func (d *folder) names() ([]string, error) {
	if _, err := d.f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	var all []string
	for {
		names, err := d.f.Readdirnames(4096)
		all = append(all, names...)
		switch {
		case err == io.EOF:
			slices.Sort(all)
			return slices.Compact(all), nil
		case err != nil:
			return nil, err
		case len(all) > maxNames:
			return nil, errNames
		}
	}
}

// state is of d itself; it differs when names came or went.
func (d *folder) state() (any, error) {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return nil, err
	}
	return [3]int64{st.Mtim.Nano(), st.Ctim.Nano(), int64(st.Ino)}, nil
}

// stat is what is at name in d, without what must be opened for.
func (d *folder) stat(name string) (*Entry, error) {
	var st unix.Stat_t
	if _, err := again(func() (int, error) { return 0, unix.Fstatat(d.fd, name, &st, statFlags) }); err != nil {
		return nil, err
	}
	return entryOf(&st), nil
}

func entryOf(st *unix.Stat_t) *Entry {
	e := &Entry{Mode: uint32(st.Mode) & 0o7777, UID: st.Uid, GID: st.Gid, Inode: uint64(st.Ino), dev: uint64(st.Dev)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type, e.Size = Regular, st.Size
	case unix.S_IFDIR:
		e.Type = Directory
		return e
	case unix.S_IFLNK:
		e.Type = Symlink
	case unix.S_IFIFO:
		e.Type = FIFO
	case unix.S_IFSOCK:
		e.Type = Socket
	case unix.S_IFCHR:
		e.Type, e.Device = CharDevice, uint64(st.Rdev)
	case unix.S_IFBLK:
		e.Type, e.Device = BlockDevice, uint64(st.Rdev)
	default:
		e.Type = Other
	}
	e.Links, e.MTime, e.CTime = uint64(st.Nlink), st.Mtim.Nano(), st.Ctim.Nano()
	return e
}

// look reads what is behind a stat into e: bytes, a target, extended attributes. Nothing but regular files and directories is opened.
// errMoved says that it is not what stat said any more.
func (d *folder) look(ctx context.Context, name string, e *Entry, h *hasher) error {
	switch e.Type {
	case Regular:
		return d.lookFile(ctx, name, e, h)
	case Directory: // d itself
		var err error
		e.XAttrs, err = xattrs(h, func(b []byte) (int, error) { return unix.Flistxattr(d.fd, b) },
			func(n string, b []byte) (int, error) { return unix.Fgetxattr(d.fd, n, b) })
		return err
	case Symlink:
		buf := make([]byte, maxPath+1)
		n, err := again(func() (int, error) { return unix.Readlinkat(d.fd, name, buf) })
		switch {
		case err == unix.EINVAL:
			return errMoved
		case err != nil:
			return err
		case n > maxPath:
			return fmt.Errorf("it leads to a path of more than %d bytes", maxPath)
		}
		e.Target = string(buf[:n])
	}
	path := d.within(name, e.Path)
	var err error
	e.XAttrs, err = xattrs(h, func(b []byte) (int, error) { return unix.Llistxattr(path, b) },
		func(n string, b []byte) (int, error) { return unix.Lgetxattr(path, n, b) })
	if err != nil {
		return err
	}
	return d.still(name, e)
}

// still returns errMoved unless name is as e says.
func (d *folder) still(name string, e *Entry) error {
	now, err := d.stat(name)
	switch {
	case err != nil:
		return err
	case !same(now, e) || now.dev != e.dev:
		return errMoved
	}
	return nil
}

func (d *folder) lookFile(ctx context.Context, name string, e *Entry, h *hasher) error {
	// What is put in a file's place meanwhile is not waited for (a FIFO), not followed (a link) and does not become our terminal.
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, err := again(func() (int, error) { return unix.Openat(d.fd, name, flags|noATime, 0) })
	if err == unix.EPERM && noATime != 0 { // of another user: the time of its last reading changes
		fd, err = again(func() (int, error) { return unix.Openat(d.fd, name, flags, 0) })
	}
	switch err {
	case nil:
	case unix.ELOOP, unix.ENXIO, unix.ENODEV:
		return errMoved
	default:
		return err
	}
	defer unix.Close(fd)
	check := func() error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if now := entryOf(&st); !same(now, e) || now.dev != e.dev {
			return errMoved
		}
		return nil
	}
	if err := check(); err != nil {
		return err
	}
	if err := h.sum(ctx, func(b []byte) (int, error) { return again(func() (int, error) { return unix.Read(fd, b) }) }, e); err != nil {
		return err
	}
	e.XAttrs, err = xattrs(h, func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(n string, b []byte) (int, error) { return unix.Fgetxattr(fd, n, b) })
	if err != nil {
		return err
	}
	return check()
}

// xattrs lists extended attributes with the hashes of their values, sorted.
func xattrs(h *hasher, list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]XAttr, error) {
	n, err := sized(h, list)
	switch {
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES): // special files have none
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var out []XAttr
	for raw := range bytes.SplitSeq(bytes.Clone(h.buf[:n]), []byte{0}) {
		if len(raw) == 0 {
			continue
		}
		x := XAttr{Name: string(raw)}
		n, err := sized(h, func(b []byte) (int, error) { return get(x.Name, b) })
		switch {
		case errors.Is(err, noXAttr):
			return nil, errMoved
		case err != nil:
			return nil, fmt.Errorf("extended attribute %q: %w", x.Name, err)
		case len(x.Name) > maxXAttrName || len(out) == maxXAttrs:
			return nil, fmt.Errorf("extended attributes have more than %d names, or a name more than %d bytes", maxXAttrs, maxXAttrName)
		}
		x.Hash = h.of(h.buf[:n])
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b XAttr) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return out, nil
}

// sized calls a system call that fills h.buf, which has more room than Linux allows such values (64 KiB).
func sized(h *hasher, call func([]byte) (int, error)) (int, error) {
	return again(func() (int, error) { return call(h.buf) })
}

// otherDevice says that e, which is in d, is on another device.
func (d *folder) otherDevice(e *Entry) bool {
	var st unix.Stat_t
	return d.f != nil && unix.Fstat(d.fd, &st) == nil && uint64(st.Dev) != e.dev
}
