//go:build !unix

package seal

import (
	"fmt"
	"io/fs"
	"os"
)

// openSecret opens a file, not what a link points to.
func openSecret(path string) (*os.File, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return nil, fmt.Errorf("%s: %w: it is a symbolic link; name the file itself", path, ErrUnsafe)
	}
	return os.Open(path)
}

// ownedAlone finds nothing: who may read a file is in Windows' access lists, which a user's own folders keep from others.
func ownedAlone(fs.FileInfo) error { return nil }

// syncDir does nothing: Windows keeps its folders itself.
func syncDir(string) error { return nil }
