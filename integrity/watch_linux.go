package integrity

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// openKernel opens what tells of changes in a directory of the trees.
func openKernel(try *folder) (kernel, error) {
	f, ferr := openFanotify()
	if ferr == nil {
		if ferr = f.add("/", try); ferr == nil {
			// The mark was only to see whether this file system can: what it says of "/" would be wrong.
			if ferr = unix.FanotifyMark(f.fd, unix.FAN_MARK_REMOVE|unix.FAN_MARK_ONLYDIR, fanotifyMask, try.fd, "."); ferr == nil {
				f.paths = map[string]string{}
				return f, nil
			}
		}
		f.close()
	}
	i, err := openInotify()
	if err != nil {
		return nil, fmt.Errorf("fanotify: %w; inotify: %w", ferr, err)
	}
	return i, nil
}

// fanotify marks each directory, and so hears only of what is in the trees; it tells which process did it.
type fanotify struct {
	f   *os.File
	fd  int
	buf []byte

	mu    sync.Mutex
	paths map[string]string // of directories, by file system and handle as events have them
}

const fanotifyMask = unix.FAN_MODIFY | unix.FAN_CLOSE_WRITE | unix.FAN_ATTRIB | unix.FAN_CREATE | unix.FAN_DELETE | unix.FAN_DELETE_SELF |
	unix.FAN_MOVED_FROM | unix.FAN_MOVED_TO | unix.FAN_EVENT_ON_CHILD | unix.FAN_ONDIR

func openFanotify() (*fanotify, error) {
	const flags = unix.FAN_CLASS_NOTIF | unix.FAN_CLOEXEC | unix.FAN_NONBLOCK | unix.FAN_REPORT_DFID_NAME
	// Without its pidfd (Linux before 5.15) a process that has ended cannot be told from one that has its number now.
	fd, err := unix.FanotifyInit(flags|unix.FAN_REPORT_PIDFD, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &fanotify{f: os.NewFile(uintptr(fd), "fanotify"), fd: fd, buf: make([]byte, 256<<10), paths: map[string]string{}}, nil
}

func (f *fanotify) name() string { return "fanotify" }

func (f *fanotify) close() error { return f.f.Close() }

func (f *fanotify) watched() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.paths)
}

func (f *fanotify) add(path string, d *folder) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(d.fd, &st); err != nil {
		return err
	}
	h, _, err := unix.NameToHandleAt(d.fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	key := binary.NativeEndian.AppendUint32(nil, uint32(st.Fsid.Val[0]))
	key = binary.NativeEndian.AppendUint32(key, uint32(st.Fsid.Val[1]))
	key = binary.NativeEndian.AppendUint32(key, uint32(h.Size()))
	key = binary.NativeEndian.AppendUint32(key, uint32(h.Type()))
	key = append(key, h.Bytes()...)
	f.mu.Lock()
	f.paths[string(key)] = path // before the mark: an event that comes at once finds it
	f.mu.Unlock()
	if err := unix.FanotifyMark(f.fd, unix.FAN_MARK_ADD|unix.FAN_MARK_ONLYDIR, fanotifyMask, d.fd, "."); err != nil {
		f.mu.Lock()
		delete(f.paths, string(key))
		f.mu.Unlock()
		return err
	}
	return nil
}

func (f *fanotify) read() ([]hint, bool, error) {
	n, err := f.f.Read(f.buf)
	if err != nil {
		return nil, false, err
	}
	return f.parse(f.buf[:n])
}

// parse reads events as fanotify(7) draws them.
func (f *fanotify) parse(b []byte) (hints []hint, lost bool, err error) {
	const head = 24 // of an event, in bytes
	known := map[int32]*Who{}
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(b) >= head {
		size, version := int(binary.NativeEndian.Uint32(b)), b[4]
		start := int(binary.NativeEndian.Uint16(b[6:]))
		mask := binary.NativeEndian.Uint64(b[8:])
		pid := int32(binary.NativeEndian.Uint32(b[20:]))
		if version != unix.FANOTIFY_METADATA_VERSION || size < start || start < head || size > len(b) {
			return hints, true, fmt.Errorf("fanotify: an event of version %d with %d bytes is not understood", version, size)
		}
		if mask&unix.FAN_Q_OVERFLOW != 0 {
			lost = true
		}
		path, pidfd := f.infos(b[start:size], mask)
		who := known[pid]
		if who == nil && pid != 0 && path != "" {
			who = whoIs(pid, pidfd)
			known[pid] = who
		}
		if pidfd >= 0 {
			unix.Close(int(pidfd))
		}
		if path != "" {
			hints = append(hints, hint{path, who})
		}
		b = b[size:]
	}
	return hints, lost, nil
}

// infos reads the records of an event: the path that it is about ("" is of a directory that is not known any more), and the process.
func (f *fanotify) infos(b []byte, mask uint64) (path string, pidfd int32) {
	pidfd = -1
	for len(b) >= 4 {
		size := int(binary.NativeEndian.Uint16(b[2:]))
		if size < 4 || size > len(b) {
			return path, pidfd
		}
		body := b[4:size]
		switch b[0] {
		case unix.FAN_EVENT_INFO_TYPE_PIDFD:
			if len(body) >= 4 {
				pidfd = int32(binary.NativeEndian.Uint32(body))
			}
		case unix.FAN_EVENT_INFO_TYPE_DFID_NAME, unix.FAN_EVENT_INFO_TYPE_DFID:
			if len(body) < 16 {
				break
			}
			end := 16 + int(binary.NativeEndian.Uint32(body[8:]))
			if end < 16 || end > len(body) {
				break
			}
			key := string(body[:end])
			dir, ok := f.paths[key]
			if !ok {
				break
			}
			name, _, _ := bytes.Cut(body[end:], []byte{0})
			if path = dir; len(name) > 0 && string(name) != "." {
				path = join2(dir, string(name))
			} else if mask&unix.FAN_DELETE_SELF != 0 {
				delete(f.paths, key)
			}
		}
		b = b[size:]
	}
	return path, pidfd
}

// whoIs asks /proc of a process. pidfd, where there is one, shows afterwards that it has been asked of that one.
func whoIs(pid, pidfd int32) *Who {
	w := &Who{PID: int(pid)}
	if pidfd < 0 {
		return w // it had ended, or another has its number
	}
	proc := "/proc/" + strconv.Itoa(int(pid))
	exe, _ := os.Readlink(proc + "/exe")
	args, _ := os.ReadFile(proc + "/cmdline")
	status, err := os.ReadFile(proc + "/status")
	if err != nil || unix.PidfdSendSignal(int(pidfd), 0, nil, 0) != nil {
		return w
	}
	w.Exe = exe
	line := strings.TrimSpace(string(bytes.ReplaceAll(args, []byte{0}, []byte{' '})))
	w.Args = strings.ToValidUTF8(line[:min(len(line), 256)], "\uFFFD")
	for l := range strings.Lines(string(status)) {
		if ids, ok := strings.CutPrefix(l, "Uid:"); ok {
			if f := strings.Fields(ids); len(f) > 1 {
				if uid, err := strconv.Atoi(f[1]); err == nil { // the effective one
					w.UID = &uid
				}
			}
		}
	}
	return w
}

// inotify watches each directory. It does not tell who.
type inotify struct {
	f   *os.File
	fd  int
	buf []byte

	mu    sync.Mutex
	paths map[int32]string
}

const inotifyMask = unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_ONLYDIR

func openInotify() (*inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return &inotify{f: os.NewFile(uintptr(fd), "inotify"), fd: fd, buf: make([]byte, 256<<10), paths: map[int32]string{}}, nil
}

func (i *inotify) name() string { return "inotify" }

func (i *inotify) close() error { return i.f.Close() }

func (i *inotify) watched() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.paths)
}

func (i *inotify) add(path string, d *folder) error {
	i.mu.Lock() // an event that comes at once waits until its path is known
	defer i.mu.Unlock()
	wd, err := unix.InotifyAddWatch(i.fd, d.within(".", path), inotifyMask)
	if err != nil {
		return err
	}
	i.paths[int32(wd)] = path
	return nil
}

func (i *inotify) read() ([]hint, bool, error) {
	n, err := i.f.Read(i.buf)
	if err != nil {
		return nil, false, err
	}
	return i.parse(i.buf[:n])
}

// parse reads events as inotify(7) draws them.
func (i *inotify) parse(b []byte) (hints []hint, lost bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for len(b) >= unix.SizeofInotifyEvent {
		wd, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if size < unix.SizeofInotifyEvent || size > len(b) {
			return hints, true, fmt.Errorf("inotify: an event of %d bytes is not understood", size)
		}
		name, _, _ := bytes.Cut(b[unix.SizeofInotifyEvent:size], []byte{0})
		b = b[size:]
		lost = lost || mask&unix.IN_Q_OVERFLOW != 0
		dir, ok := i.paths[wd]
		if mask&unix.IN_IGNORED != 0 {
			delete(i.paths, wd) // the directory is gone
			continue
		}
		if !ok {
			continue
		}
		if len(name) > 0 {
			dir = join2(dir, string(name))
		}
		hints = append(hints, hint{path: dir})
	}
	return hints, lost, nil
}
