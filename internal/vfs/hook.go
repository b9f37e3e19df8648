package vfs

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// Op is one operation on a file system, as a hook sees it before it is done.
type Op struct {
	Kind string // create, append, open, read, write, sync, truncate, close, rename, remove, mkdir, list, stat, syncdir, lock, unlock
	Path string
	To   string // of a rename
	Size int64  // of a write: how many bytes; of a truncate: the new size
}

func (o Op) String() string {
	switch {
	case o.To != "":
		return fmt.Sprintf("%s %s -> %s", o.Kind, o.Path, o.To)
	case o.Kind == "write" || o.Kind == "truncate":
		return fmt.Sprintf("%s %s %d", o.Kind, o.Path, o.Size)
	}
	return o.Kind + " " + o.Path
}

// Changes says whether the operation can change what is on disk.
func (o Op) Changes() bool {
	switch o.Kind {
	case "create", "write", "sync", "truncate", "rename", "remove", "mkdir", "syncdir", "lock":
		return true
	}
	return false
}

// Hook is inner, with before called ahead of each operation. An error of
// before fails the operation in its place, in the way a disk would: a write leaves half of
// its bytes behind, a sync loses what it should have written (see [Mem]),
// a close releases the file all the same. Nothing else is done. before may be called
// by many goroutines at once.
func Hook(inner FS, before func(Op) error) FS { return &hookFS{inner, before} }

type hookFS struct {
	inner  FS
	before func(Op) error
}

func (h *hookFS) file(kind, name string, open func(string) (File, error)) (File, error) {
	if err := h.before(Op{Kind: kind, Path: name}); err != nil {
		return nil, err
	}
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	return &hookFile{f, name, h.before}, nil
}

func (h *hookFS) Create(name string) (File, error) { return h.file("create", name, h.inner.Create) }
func (h *hookFS) Append(name string) (File, error) { return h.file("append", name, h.inner.Append) }
func (h *hookFS) Open(name string) (File, error)   { return h.file("open", name, h.inner.Open) }

func (h *hookFS) Rename(oldName, newName string) error {
	if err := h.before(Op{Kind: "rename", Path: oldName, To: newName}); err != nil {
		return err
	}
	return h.inner.Rename(oldName, newName)
}

func (h *hookFS) Remove(name string) error {
	if err := h.before(Op{Kind: "remove", Path: name}); err != nil {
		return err
	}
	return h.inner.Remove(name)
}

func (h *hookFS) MkdirAll(dir string) error {
	if err := h.before(Op{Kind: "mkdir", Path: dir}); err != nil {
		return err
	}
	return h.inner.MkdirAll(dir)
}

func (h *hookFS) List(dir string) ([]string, error) {
	if err := h.before(Op{Kind: "list", Path: dir}); err != nil {
		return nil, err
	}
	return h.inner.List(dir)
}

func (h *hookFS) Stat(name string) (Info, error) {
	if err := h.before(Op{Kind: "stat", Path: name}); err != nil {
		return Info{}, err
	}
	return h.inner.Stat(name)
}

func (h *hookFS) SyncDir(dir string) error {
	if err := h.before(Op{Kind: "syncdir", Path: dir}); err != nil {
		return err
	}
	return h.inner.SyncDir(dir)
}

func (h *hookFS) Lock(name string) (io.Closer, error) {
	if err := h.before(Op{Kind: "lock", Path: name}); err != nil {
		return nil, err
	}
	c, err := h.inner.Lock(name)
	if err != nil {
		return nil, err
	}
	return &hookLock{c, name, h.before}, nil
}

type hookLock struct {
	inner  io.Closer
	name   string
	before func(Op) error
}

func (l *hookLock) Close() error {
	return errors.Join(l.before(Op{Kind: "unlock", Path: l.name}), l.inner.Close())
}

type hookFile struct {
	inner  File
	name   string
	before func(Op) error
}

func (f *hookFile) Read(p []byte) (int, error) {
	if err := f.before(Op{Kind: "read", Path: f.name}); err != nil {
		return 0, err
	}
	return f.inner.Read(p)
}

func (f *hookFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.before(Op{Kind: "read", Path: f.name}); err != nil {
		return 0, err
	}
	return f.inner.ReadAt(p, off)
}

func (f *hookFile) Write(p []byte) (int, error) {
	if err := f.before(Op{Kind: "write", Path: f.name, Size: int64(len(p))}); err != nil {
		n, werr := f.inner.Write(p[:len(p)/2])
		return n, errors.Join(err, werr)
	}
	return f.inner.Write(p)
}

func (f *hookFile) Sync() error {
	if err := f.before(Op{Kind: "sync", Path: f.name}); err != nil {
		if l, ok := f.inner.(interface{ loseDirty() }); ok {
			l.loseDirty()
		}
		return err
	}
	return f.inner.Sync()
}

func (f *hookFile) Truncate(size int64) error {
	if err := f.before(Op{Kind: "truncate", Path: f.name, Size: size}); err != nil {
		return err
	}
	return f.inner.Truncate(size)
}

func (f *hookFile) Size() (int64, error) {
	if err := f.before(Op{Kind: "stat", Path: f.name}); err != nil {
		return 0, err
	}
	return f.inner.Size()
}

func (f *hookFile) Close() error {
	return errors.Join(f.before(Op{Kind: "close", Path: f.name}), f.inner.Close())
}

func (f *hookFile) loseDirty() {
	if l, ok := f.inner.(interface{ loseDirty() }); ok {
		l.loseDirty()
	}
}

// FailNth is a hook that lets n operations pass and fails the next with err,
// that one alone.
func FailNth(n int, err error) func(Op) error {
	var mu sync.Mutex
	return func(op Op) error {
		mu.Lock()
		defer mu.Unlock()
		n--
		if n == -1 {
			return fmt.Errorf("%s: %w", op, err)
		}
		return nil
	}
}

// Recorder keeps the operations it sees; its Hook is for [Hook].
type Recorder struct {
	Root string // cut from the front of paths

	mu  sync.Mutex
	ops []Op
}

// Hook records op.
func (r *Recorder) Hook(op Op) error {
	op.Path, op.To = r.rel(op.Path), r.rel(op.To)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, op)
	return nil
}

func (r *Recorder) rel(path string) string {
	if path == "" || r.Root == "" {
		return path
	}
	if rel, err := filepath.Rel(r.Root, path); err == nil {
		return filepath.ToSlash(rel)
	}
	return path
}

// Ops is what was recorded so far.
func (r *Recorder) Ops() []Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Op(nil), r.ops...)
}

// String is one line for each operation that can change the disk.
func (r *Recorder) String() string {
	var b strings.Builder
	for _, op := range r.Ops() {
		if op.Changes() {
			b.WriteString(op.String())
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// FullDisk is a hook for a disk that has no space left while full is set: it
// still makes files, as most do, but takes no bytes.
func FullDisk(full *atomic.Bool) func(Op) error {
	return func(op Op) error {
		if op.Kind == "write" && full.Load() {
			return fmt.Errorf("%s: %w", op, syscall.ENOSPC)
		}
		return nil
	}
}
