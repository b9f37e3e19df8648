//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package agent

import (
	"os"
	"path/filepath"
)

// lockFolder takes a folder for this process, until the file is closed. It fails
// where another has it open: on Windows a file that is open cannot be removed.
func lockFolder(dir string) (*os.File, error) {
	name := filepath.Join(dir, spoolLock)
	if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
}
