package direct

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/quantra-l/quantra/internal/vfs"
)

// readWhole is a file of at most limit bytes.
func readWhole(f vfs.FS, name string, limit int64) ([]byte, error) {
	r, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: %s has more than %d bytes", ErrCorrupt, name, limit)
	}
	return b, err
}

// writeNew writes and syncs a file that is not there yet. What an earlier attempt left under the name is removed.
func writeNew(f vfs.FS, name string, b []byte) error {
	if err := f.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	w, err := f.Create(name)
	if err != nil {
		return err
	}
	if _, err = w.Write(b); err == nil {
		err = w.Sync()
	}
	return errors.Join(err, w.Close())
}

// replaceFile makes name have these bytes, as a whole or not at all, and for good.
func replaceFile(f vfs.FS, dir, temp, name string, b []byte) error {
	if err := writeNew(f, filepath.Join(dir, temp), b); err != nil {
		return err
	}
	if err := f.Rename(filepath.Join(dir, temp), filepath.Join(dir, name)); err != nil {
		return err
	}
	return f.SyncDir(dir)
}
