//go:build unix

package seal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// openSecret opens a file, not what a link points to, and waits for no pipe's other end.
func openSecret(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.EMLINK) { // EMLINK is FreeBSD's
		return nil, fmt.Errorf("%s: %w: it is a symbolic link; name the file itself", path, ErrUnsafe)
	}
	return f, err
}

// ownedAlone says why others than this user could have read or written a file.
func ownedAlone(info fs.FileInfo) error {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("the system does not say whose file it is")
	}
	if int(s.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to the user %d, not to %d who runs this", s.Uid, os.Geteuid())
	}
	if p := info.Mode().Perm(); p&0o077 != 0 {
		return fmt.Errorf("it can be read by others (%v): chmod 600 it", p)
	}
	return nil
}

// syncDir makes what was renamed in a folder survive a crash.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
