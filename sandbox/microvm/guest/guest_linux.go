//go:build amd64 || arm64

package guest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quantra-l/quantra/sandbox/jail"
)

// Main is called by the main function of a program that serves as a machine's init, before all else. In a machine it does not return.
func Main() {
	// The kernel puts what it does not know of its command line before ours.
	at := slices.Index(os.Args, Word)
	if os.Getpid() != 1 || at < 0 || at+1 >= len(os.Args) {
		return
	}
	runtime.LockOSThread()
	err := begin(os.Args[at+1])
	fmt.Fprintln(os.Stderr, "quantra-guest:", err)
	os.Exit(1) // the kernel panics, which ends the machine
}

func begin(word string) error {
	raw, err := base64.RawURLEncoding.DecodeString(word)
	if err != nil {
		return fmt.Errorf("the order: %w", err)
	}
	var o Order
	if err := json.Unmarshal(raw, &o); err != nil {
		return fmt.Errorf("the order: %w", err)
	}
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"sysfs", "/sys"}} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[0], unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m[1], err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := openChannel(&o); err != nil {
		return err
	}
	handler, err := unix.Open(HandlerPath, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the handler: %w", err)
	}
	for _, at := range []string{"/dev", "/sys"} {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmounting %s: %w", at, err)
		}
	}
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return err
	}
	return jail.Become(handler, o.Args, o.Env, User)
}

func loadModules() error {
	names, err := filepath.Glob(ModulesPath + "/*")
	if err != nil {
		return err
	}
	for _, name := range names { // in order
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("loading %s: %w", name, err)
		}
	}
	return nil
}

// openChannel makes the channel 0 and 1, and what the handler says beside it 2 where the machine has a port for that.
func openChannel(o *Order) error {
	if o.Vsock != 0 {
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("the channel's socket: %w", err)
		}
		if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: o.Vsock}); err != nil {
			return fmt.Errorf("connecting to the host: %w", err)
		}
		return errors.Join(unix.Dup3(fd, 0, 0), unix.Dup3(fd, 1, 0))
	}
	// First where to complain, then what could go wrong.
	if fd, err := openPort(StderrPort); err == nil {
		if err := unix.Dup3(fd, 2, 0); err != nil {
			return err
		}
	}
	fd, err := openPort(ChannelPort)
	if err != nil {
		return err
	}
	return errors.Join(unix.Dup3(fd, 0, 0), unix.Dup3(fd, 1, 0))
}

// portWithin is how long a port may take to come: the host tells of it after the driver was loaded.
const portWithin = 10 * time.Second

func openPort(name string) (int, error) {
	for begin := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return 0, err
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil || strings.TrimSpace(string(b)) != name {
				continue
			}
			fd, err := unix.Open("/dev/"+filepath.Base(filepath.Dir(f)), unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err == nil || !errors.Is(err, unix.ENOENT) {
				return fd, err
			}
		}
		if time.Since(begin) > portWithin {
			return 0, fmt.Errorf("the machine has no port %s", name)
		}
	}
}
