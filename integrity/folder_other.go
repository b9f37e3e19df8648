//go:build !linux && !darwin

package integrity

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// folder is a directory by its path: this system has no calls that are relative to an open one which Go would offer, so what is swapped
// while it is looked at may be followed. There are no inodes and no change times; times can be set back by whoever may write.
type folder struct{ path string }

func nowhere() *folder { return &folder{} }

func (d *folder) retain() *folder { return d }
func (d *folder) release()        {}

func (d *folder) of(name string) string {
	if d.path == "" {
		return filepath.FromSlash(name)
	}
	return filepath.Join(d.path, name)
}

func (d *folder) open(name string) (*folder, error) {
	info, err := os.Lstat(d.of(name))
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, errMoved
	}
	return &folder{d.of(name)}, nil
}

func (d *folder) names() ([]string, error) {
	f, err := os.Open(d.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := f.Readdirnames(maxNames + 1)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(all) > maxNames {
		return nil, errNames
	}
	slices.Sort(all)
	return all, nil
}

func (d *folder) state() (any, error) {
	info, err := os.Lstat(d.path)
	if err != nil {
		return nil, err
	}
	return info.ModTime(), nil
}

func (d *folder) stat(name string) (*Entry, error) {
	info, err := os.Lstat(d.of(name))
	if err != nil {
		return nil, err
	}
	e := &Entry{Mode: uint32(info.Mode().Perm())}
	switch m := info.Mode(); {
	case m.IsRegular():
		e.Type, e.Size = Regular, info.Size()
	case m.IsDir():
		e.Type = Directory
		return e, nil
	case m&fs.ModeSymlink != 0:
		e.Type = Symlink
	default:
		e.Type = Other
	}
	e.MTime = info.ModTime().UnixNano()
	return e, nil
}

func (d *folder) mounted(string, *Entry) bool { return false }

func (d *folder) look(ctx context.Context, name string, e *Entry, h *hasher) (err error) {
	switch e.Type {
	case Symlink:
		e.Target, err = os.Readlink(d.of(name))
		return err
	case Regular:
	default:
		return nil
	}
	f, err := os.Open(d.of(name))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := h.sum(ctx, f.Read, e); err != nil {
		return err
	}
	now, err := d.stat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !same(now, e) {
		return errMoved
	}
	return err
}
