package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Mem is a file system in memory that can crash. It keeps apart what was
// written and what was synced, for bytes and for names, and [Mem.Crash] is what
// a machine would find after a power cut. The zero Mem is not ready; use [NewMem].
type Mem struct {
	mu    sync.Mutex // guards all nodes
	root  *memNode
	locks map[string]bool
}

// memNode is a file or a directory.
type memNode struct {
	dir bool

	// A file: what is read back, what is on disk, and the first byte of data that
	// may differ from disk.
	data, synced []byte
	dirty        int
	modified     time.Time

	// A directory: what is seen, what is on disk, and what has been done since.
	names, durable map[string]*memNode
	pending        []*nameOp
}

// names are entries of a directory.
type names = map[string]*memNode

// nameOp is one atomic change of a directory.
type nameOp struct {
	names map[string]*memNode // a nil node takes the name away
	// Of the half of a rename that takes the old name away: the half that makes the
	// new one, and where.
	first *nameOp
	in    *memNode
	done  bool // it is on disk
}

// NewMem is an empty file system with a root directory.
func NewMem() *Mem { return &Mem{root: newMemDir(), locks: map[string]bool{}} }

func newMemDir() *memNode {
	return &memNode{dir: true, names: map[string]*memNode{}, durable: map[string]*memNode{}}
}

// Crash is the file system as a machine finds it when it starts again after
// losing its power now. What was synced is there. With a nil rng nothing else
// is; else each directory keeps a random prefix of its unsynced changes, and each
// file a random prefix of its unsynced bytes, with zeros in their place some of
// the time, as file systems that grow a file before writing it leave them. Locks are
// gone. The receiver is untouched.
func (m *Mem) Crash(rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := NewMem()
	keep := map[*memNode]int{}
	if rng != nil {
		m.root.choose(rng, keep)
		for !settle(keep) {
		}
	}
	c.root = m.root.crash(rng, keep, map[*memNode]*memNode{})
	return c
}

// choose decides how many of its unsynced changes each directory keeps.
func (n *memNode) choose(rng *rand.Rand, keep map[*memNode]int) {
	if _, ok := keep[n]; ok || !n.dir {
		return
	}
	keep[n] = rng.IntN(len(n.pending) + 1)
	names := maps.Clone(n.durable)
	for _, op := range n.pending[:keep[n]] {
		op.apply(names)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		names[name].choose(rng, keep)
	}
}

// settle takes back an old name's end that was kept without its new name. It is true if there was none.
func settle(keep map[*memNode]int) bool {
	for n, k := range keep {
		for i, op := range n.pending[:k] {
			if op.first != nil && !op.first.done && slices.Index(op.in.pending, op.first) >= keep[op.in] {
				keep[n] = i
				return false
			}
		}
	}
	return true
}

func (n *memNode) crash(rng *rand.Rand, keep map[*memNode]int, done map[*memNode]*memNode) *memNode {
	if c := done[n]; c != nil {
		return c
	}
	if !n.dir {
		b := n.crashBytes(rng)
		c := &memNode{data: b, synced: slices.Clone(b), dirty: len(b), modified: n.modified}
		done[n] = c
		return c
	}
	c := newMemDir()
	done[n] = c
	names := maps.Clone(n.durable)
	for _, op := range n.pending[:keep[n]] {
		op.apply(names)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		c.names[name] = names[name].crash(rng, keep, done)
	}
	c.durable = maps.Clone(c.names)
	return c
}

func (n *memNode) crashBytes(rng *rand.Rand) []byte {
	b := slices.Clone(n.synced)
	if rng == nil || n.dirty < len(n.synced) && rng.IntN(2) == 0 {
		return b // an unsynced truncation or rewrite did not reach the disk
	}
	if n.dirty < len(n.synced) {
		b = b[:n.dirty]
	}
	tail := n.data[n.dirty:]
	keep := tail[:rng.IntN(len(tail)+1)]
	if len(keep) == 0 {
		return b
	}
	b = append(zeroTo(b, n.dirty), keep...)
	if rng.IntN(4) == 0 {
		clear(b[len(b)-rng.IntN(len(keep)+1):])
	}
	return b
}

// zeroTo makes b n bytes long; the hole is what a failed sync dropped.
func zeroTo(b []byte, n int) []byte {
	if len(b) < n {
		b = append(b, make([]byte, n-len(b))...)
	}
	return b
}

func (op *nameOp) apply(names map[string]*memNode) {
	for name, node := range op.names {
		if node == nil {
			delete(names, name)
		} else {
			names[name] = node
		}
	}
}

func (n *memNode) change(names map[string]*memNode) *nameOp {
	op := &nameOp{names: names}
	op.apply(n.names)
	n.pending = append(n.pending, op)
	return op
}

// commit brings the first k unsynced changes to disk, and those that must be there before them.
func (n *memNode) commit(k int) {
	ops := n.pending[:k]
	n.pending = n.pending[k:]
	for _, op := range ops {
		if op.first != nil && !op.first.done {
			op.in.commit(slices.Index(op.in.pending, op.first) + 1)
		}
		op.apply(n.durable)
		op.done = true
	}
}

// find is the node at name, and the directory it would be in.
func (m *Mem) find(op, name string) (dir *memNode, base string, node *memNode, err error) {
	dir, node = nil, m.root
	for part := range strings.SplitSeq(filepath.ToSlash(filepath.Clean(name)), "/") {
		if part == "" || part == "." {
			continue
		}
		if node == nil || !node.dir {
			return nil, "", nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
		}
		dir, base, node = node, part, node.names[part]
	}
	return dir, base, node, nil
}

func (m *Mem) get(op, name string, dir bool) (*memNode, error) {
	_, _, n, err := m.find(op, name)
	if err == nil && (n == nil || n.dir != dir) {
		err = &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return n, err
}

// Create is of [FS].
func (m *Mem) Create(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, n, err := m.find("create", name)
	switch {
	case err != nil:
		return nil, err
	case n != nil || dir == nil:
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	n = &memNode{modified: time.Now()}
	dir.change(names{base: n})
	return &memFile{m: m, n: n, name: name, write: true}, nil
}

// Append is of [FS].
func (m *Mem) Append(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.get("open", name, false)
	if err != nil {
		return nil, err
	}
	return &memFile{m: m, n: n, name: name, write: true}, nil
}

// Open is of [FS].
func (m *Mem) Open(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.get("open", name, false)
	if err != nil {
		return nil, err
	}
	return &memFile{m: m, n: n, name: name}, nil
}

// Rename is of [FS]. Between two directories it is two changes, which a crash may part: the
// thing may be found under both names, worse than most disks and so a fair
// test. It is never under neither: journals keep the order of the two.
func (m *Mem) Rename(oldName, newName string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	from, oldBase, n, err := m.find("rename", oldName)
	if err == nil && (n == nil || from == nil) {
		err = &fs.PathError{Op: "rename", Path: oldName, Err: fs.ErrNotExist}
	}
	if err != nil {
		return err
	}
	to, newBase, _, err := m.find("rename", newName)
	switch {
	case err != nil:
		return err
	case to == nil:
		return &fs.PathError{Op: "rename", Path: newName, Err: fs.ErrInvalid}
	case from == to && oldBase == newBase:
		return nil
	case from == to:
		from.change(names{oldBase: nil, newBase: n})
	default:
		first := to.change(names{newBase: n})
		second := from.change(names{oldBase: nil})
		second.first, second.in = first, to
	}
	return nil
}

// Remove is of [FS].
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, n, err := m.find("remove", name)
	switch {
	case err != nil:
		return err
	case n == nil || dir == nil:
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	case len(n.names) > 0:
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
	}
	dir.change(names{base: nil})
	return nil
}

// MkdirAll is of [FS].
func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.root
	for part := range strings.SplitSeq(filepath.ToSlash(filepath.Clean(dir)), "/") {
		if part == "" || part == "." {
			continue
		}
		next := n.names[part]
		switch {
		case next == nil:
			next = newMemDir()
			n.change(names{part: next})
		case !next.dir:
			return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		n = next
	}
	return nil
}

// List is of [FS].
func (m *Mem) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.get("list", dir, true)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(n.names)), nil
}

// Stat is of [FS].
func (m *Mem) Stat(name string) (Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _, n, err := m.find("stat", name)
	if err == nil && n == nil {
		err = &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	if err != nil {
		return Info{}, err
	}
	return Info{Size: int64(len(n.data)), Dir: n.dir, Modified: n.modified}, nil
}

// SyncDir is of [FS].
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.get("syncdir", dir, true)
	if err != nil {
		return err
	}
	n.commit(len(n.pending))
	return nil
}

// Lock is of [FS].
func (m *Mem) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = filepath.Clean(name)
	dir, base, n, err := m.find("lock", name)
	switch {
	case err != nil:
		return nil, err
	case dir == nil:
		return nil, &fs.PathError{Op: "lock", Path: name, Err: fs.ErrInvalid}
	case m.locks[name]:
		return nil, fmt.Errorf("lock %s: %w", name, ErrLocked)
	case n == nil:
		dir.change(names{base: &memNode{}})
	}
	m.locks[name] = true
	return &memLock{m: m, name: name}, nil
}

type memLock struct {
	m    *Mem
	name string
	once sync.Once
}

func (l *memLock) Close() error {
	l.once.Do(func() {
		l.m.mu.Lock()
		defer l.m.mu.Unlock()
		delete(l.m.locks, l.name)
	})
	return nil
}

// memFile is an open file. Its node lives on when its name is removed.
type memFile struct {
	m      *Mem
	n      *memNode
	name   string
	off    int64
	write  bool
	closed bool
}

func (f *memFile) fault(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.name, Err: err}
}

// begin locks, and says why the file cannot be used.
func (f *memFile) begin(op string, write bool) error {
	f.m.mu.Lock()
	if f.closed {
		return f.fault(op, fs.ErrClosed)
	}
	if write && !f.write {
		return f.fault(op, syscall.EBADF)
	}
	return nil
}

func (f *memFile) Read(p []byte) (int, error) {
	defer f.m.mu.Unlock()
	if err := f.begin("read", false); err != nil {
		return 0, err
	}
	n, err := f.readAt(p, f.off)
	f.off += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	defer f.m.mu.Unlock()
	if err := f.begin("read", false); err != nil {
		return 0, err
	}
	return f.readAt(p, off)
}

func (f *memFile) readAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, f.fault("read", fs.ErrInvalid)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) Write(p []byte) (int, error) {
	defer f.m.mu.Unlock()
	if err := f.begin("write", true); err != nil {
		return 0, err
	}
	f.n.data = append(f.n.data, p...)
	f.n.modified = time.Now()
	return len(p), nil
}

func (f *memFile) Sync() error {
	defer f.m.mu.Unlock()
	if err := f.begin("sync", false); err != nil {
		return err
	}
	n := f.n
	n.synced = zeroTo(n.synced[:min(len(n.synced), n.dirty)], n.dirty)
	n.synced = append(n.synced, n.data[n.dirty:]...)
	n.dirty = len(n.data)
	return nil
}

// loseDirty is what the kernel does to a file whose sync failed: the pages stay
// readable and count as clean, and no later sync writes them.
func (f *memFile) loseDirty() {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.n.dirty = len(f.n.data)
}

func (f *memFile) Truncate(size int64) error {
	defer f.m.mu.Unlock()
	if err := f.begin("truncate", true); err != nil {
		return err
	}
	if size < 0 {
		return f.fault("truncate", fs.ErrInvalid)
	}
	n := f.n
	n.modified = time.Now()
	if size > int64(len(n.data)) {
		n.data = zeroTo(n.data, int(size))
		return nil
	}
	n.data = n.data[:size:size]
	n.dirty = min(n.dirty, int(size))
	return nil
}

func (f *memFile) Size() (int64, error) {
	defer f.m.mu.Unlock()
	if err := f.begin("stat", false); err != nil {
		return 0, err
	}
	return int64(len(f.n.data)), nil
}

func (f *memFile) Close() error {
	defer f.m.mu.Unlock()
	if err := f.begin("close", false); err != nil {
		return err
	}
	f.closed = true
	return nil
}
