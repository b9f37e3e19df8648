// Package vfs is the seam between an engine and its disk: the real file
// system, one in memory that forgets what was not synced when it crashes, and
// one that fails when told to.
//
// The contract is POSIX's, taken at its word. Written bytes survive a crash
// once [File.Sync] has returned nil. A name that was created, renamed or
// removed survives once [FS.SyncDir] of its directory has. A sync that failed
// says nothing of what is on disk, and the next one that succeeds does not
// either: the kernel may have dropped the pages it could not write.
package vfs

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"time"
)

// FS is the part of a file system that an engine needs. Names are paths of
// the host. Errors are those of package os: errors.Is with fs.ErrNotExist and
// fs.ErrExist holds for all implementations. All methods may be called by many
// goroutines.
type FS interface {
	// Create makes a new file to write; one that is there is fs.ErrExist.
	Create(name string) (File, error)
	// Append opens a file that is there, to read, truncate and write at its end.
	Append(name string) (File, error)
	// Open opens a file that is there, to read.
	Open(name string) (File, error)
	// Rename replaces newName, atomically.
	Rename(oldName, newName string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// MkdirAll makes a directory and those above it.
	MkdirAll(dir string) error
	// List is the names in a directory, sorted.
	List(dir string) ([]string, error)
	Stat(name string) (Info, error)
	// SyncDir makes the names in a directory durable. It does nothing
	// where the system has no such call (Windows journals names itself).
	SyncDir(dir string) error
	// Lock takes name, made if need be, for this process alone. It
	// fails at once with [ErrLocked] when another holder has it. The lock ends with
	// Close, or with the process.
	Lock(name string) (io.Closer, error)
}

// File is an open file. One goroutine writes; many may ReadAt.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.Closer
	Sync() error
	Truncate(size int64) error
	Size() (int64, error)
}

// Info is what [FS.Stat] says.
type Info struct {
	Size     int64
	Dir      bool
	Modified time.Time // of the bytes, by the host's clock
}

// RemoveAll removes a file, or a folder with all that is in it; it is nil if there is none. A crash
// may leave a part.
func RemoveAll(f FS, name string) error {
	st, err := f.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if st.Dir {
		names, err := f.List(name)
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := RemoveAll(f, filepath.Join(name, n)); err != nil {
				return err
			}
		}
	}
	return f.Remove(name)
}
