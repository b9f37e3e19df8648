//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package agent

import (
	"os"
	"path/filepath"
	"syscall"
)

// lockFolder takes a folder for this process, until the file is closed or the
// process ends, however it does. It fails where another holds it.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, spoolLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
