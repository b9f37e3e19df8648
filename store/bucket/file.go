package bucket

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
)

// folder is a bucket in a folder. A key is a path, each part escaped (see escape). An object is
// written beside the others in .tmp, synced, renamed into its place, and the names on its
// path are synced: so a crash leaves it whole or not at all. Files that are not named
// as escape names them are not ours and not seen.
type folder struct {
	fs       vfs.FS
	root     string
	url      string
	requests chan struct{} // a slot for each request at once: bounds open files
}

// tmpDir holds files being written; its name cannot be a part of an escaped key.
const tmpDir = ".tmp"

// staleTmp is the age at which a temporary file is of a process that died: several servers may
// share a folder, so younger ones may be another's.
const staleTmp = 24 * time.Hour

func openFolder(root string, o Options) (*folder, error) {
	root = filepath.Clean(root)
	b := &folder{fs: o.FS, root: root, url: fileURL(root), requests: make(chan struct{}, o.Requests)}
	st, err := o.FS.Stat(root)
	switch {
	case errors.Is(err, fs.ErrNotExist) && o.Create:
		if err := b.makeDir(root, filepath.VolumeName(root)+string(filepath.Separator)); err != nil {
			return nil, b.fail("make the folder", err)
		}
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("bucket %s: %w: there is no such folder; is its disk mounted? If it is new: mkdir -p %s", b.url, ErrNotFound, root)
	case err != nil:
		return nil, b.fail("open", err)
	case !st.Dir:
		return nil, fmt.Errorf("bucket %s: %w: it is a file, not a folder", b.url, ErrInvalid)
	}
	if !o.ReadOnly {
		b.sweep()
	}
	return b, nil
}

// sweep removes what a process that died was writing. What it cannot remove does no harm.
func (b *folder) sweep() {
	dir := filepath.Join(b.root, tmpDir)
	names, err := b.fs.List(dir)
	if err != nil {
		return // none: nothing was written yet
	}
	for _, name := range names {
		name = filepath.Join(dir, name)
		if st, err := b.fs.Stat(name); err == nil && !st.Dir && time.Since(st.Modified) > staleTmp {
			_ = b.fs.Remove(name)
		}
	}
}

func (b *folder) URL() string  { return b.url }
func (b *folder) Close() error { return nil }

// fail is err with what was done where, and the word that callers branch on.
func (b *folder) fail(what string, err error) error {
	word := ErrUnavailable
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, ErrInvalid):
		return fmt.Errorf("bucket %s: %s: %w", b.url, what, err)
	case errors.Is(err, fs.ErrNotExist):
		word = ErrNotFound
	case errors.Is(err, fs.ErrPermission):
		word = ErrDenied
	}
	return fmt.Errorf("bucket %s: %s: %w: %w", b.url, what, word, err)
}

func (b *folder) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case b.requests <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *folder) end() { <-b.requests }

func (b *folder) path(key string) string {
	parts := strings.Split(key, "/")
	for i := range parts {
		parts[i] = escape(parts[i])
	}
	return filepath.Join(b.root, filepath.Join(parts...))
}

func (b *folder) Put(ctx context.Context, key string, body io.ReadSeeker) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if err := b.begin(ctx); err != nil {
		return b.fail("write "+key, err)
	}
	defer b.end()
	tmp := filepath.Join(b.root, tmpDir, rand.Text())
	if err := b.fs.MkdirAll(filepath.Dir(tmp)); err != nil {
		return b.fail("write "+key, err)
	}
	if err := b.write(ctx, tmp, body); err != nil {
		return b.fail("write "+key, errors.Join(err, b.drop(tmp)))
	}
	if err := b.publish(tmp, b.path(key)); err != nil {
		return b.fail("write "+key, errors.Join(err, b.drop(tmp)))
	}
	return nil
}

// drop removes what a failed Put left. That it is gone already is well.
func (b *folder) drop(tmp string) error {
	if err := b.fs.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("and its temporary file is left: %w", err)
	}
	return nil
}

func (b *folder) write(ctx context.Context, name string, body io.ReadSeeker) error {
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return err
	}
	f, err := b.fs.Create(name)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(onlyWriter{f}, ctxReader{ctx, body}, make([]byte, 256<<10))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// onlyWriter hides ReadFrom, which would not go through ctxReader piece by piece.
type onlyWriter struct{ io.Writer }

// ctxReader ends a long copy when its caller goes away.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// publish gives the synced file tmp its name. The folder may be taken away between its making
// and the rename by a Delete that found it empty, so that is tried a few times.
func (b *folder) publish(tmp, name string) error {
	dir := filepath.Dir(name)
	var err error
	for range 8 {
		if err = b.fs.MkdirAll(dir); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
		if err = b.fs.Rename(tmp, name); err == nil {
			return b.syncUp(dir, b.root)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

// syncUp makes the names from dir up to top durable. All of them, always: another writer may
// have made one of them a moment ago and not synced it yet. A clean folder's sync is cheap.
func (b *folder) syncUp(dir, top string) error {
	for {
		if err := b.fs.SyncDir(dir); err != nil {
			return err
		}
		if dir == top || dir == filepath.Dir(dir) {
			return nil
		}
		dir = filepath.Dir(dir)
	}
}

// makeDir is for the bucket's own folder: durable up to the first folder that may not be synced.
func (b *folder) makeDir(dir, top string) error {
	if err := b.fs.MkdirAll(dir); err != nil {
		return err
	}
	if err := b.syncUp(dir, top); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

func (b *folder) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := checkRange(key, off); err != nil {
		return nil, err
	}
	if err := b.begin(ctx); err != nil {
		return nil, b.fail("read "+key, err)
	}
	defer b.end()
	p, err := readFile(b.fs, b.path(key), off, n)
	if err != nil {
		return nil, b.fail("read "+key, b.notDir(key, err))
	}
	return p, nil
}

// notDir turns "that is a folder", and "a part of the path is a file", into what they mean of an
// object: there is none.
func (b *folder) notDir(key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for p := b.path(key); p != b.root && p != filepath.Dir(p); p = filepath.Dir(p) {
		st, serr := b.fs.Stat(p)
		if serr == nil && st.Dir == (p == b.path(key)) {
			return fs.ErrNotExist
		}
	}
	return err
}

func readFile(fsys vfs.FS, name string, off, n int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	left := max(size-off, 0)
	if n < 0 || n > left {
		n = left
	}
	p := make([]byte, n)
	m, err := f.ReadAt(p, off)
	if err == io.EOF && int64(m) == n {
		err = nil
	}
	return p[:m], errors.Join(err, f.Close())
}

func (b *folder) Stat(ctx context.Context, key string) (Object, error) {
	if err := CheckKey(key); err != nil {
		return Object{}, err
	}
	if err := ctx.Err(); err != nil {
		return Object{}, b.fail("look up "+key, err)
	}
	st, err := b.fs.Stat(b.path(key))
	if err == nil && st.Dir {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Object{}, b.fail("look up "+key, b.notDir(key, err))
	}
	return Object{Key: key, Bytes: st.Size, Modified: st.Modified, Class: Standard}, nil
}

func (b *folder) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return b.fail("delete "+key, err)
	}
	name := b.path(key)
	if st, err := b.fs.Stat(name); err == nil && st.Dir {
		return nil // a folder is no object
	}
	dir := filepath.Dir(name)
	err := b.fs.Remove(name)
	if err == nil {
		err = b.fs.SyncDir(dir)
	}
	if err = b.notDir(key, err); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return b.fail("delete "+key, err)
	}
	// A prefix without objects is not there in any other bucket. A folder that is not
	// empty refuses; one that comes back after a crash is not listed.
	for ; dir != b.root && b.fs.Remove(dir) == nil; dir = filepath.Dir(dir) {
	}
	return nil
}

// SetClass only says whether the object is there.
func (b *folder) SetClass(ctx context.Context, key string, _ Class) error {
	_, err := b.Stat(ctx, key)
	return err
}

func (b *folder) List(ctx context.Context, prefix string, dirs bool) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		w := walk{b: b, ctx: ctx, prefix: prefix, dirs: dirs, yield: yield}
		start := ""
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			start = prefix[:i+1]
			if CheckKey(strings.TrimSuffix(start, "/")) != nil {
				return // no key starts so
			}
		}
		if _, err := w.dir(start); err != nil {
			yield(Object{}, b.fail("list "+prefix, err))
		}
	}
}

// walk is a listing under way. Depth is bounded by maxKey.
type walk struct {
	b      *folder
	ctx    context.Context
	prefix string
	dirs   bool
	yield  func(Object, error) bool
}

// dir gives what is below key, which is "" or ends in '/'. It is false when the caller has enough.
func (w *walk) dir(key string) (bool, error) {
	found, err := w.b.entries(w.ctx, key)
	if err != nil {
		return false, err
	}
	for _, o := range found {
		isDir := strings.HasSuffix(o.Key, "/")
		if !strings.HasPrefix(o.Key, w.prefix) && !(isDir && strings.HasPrefix(w.prefix, o.Key)) {
			continue
		}
		switch {
		case !isDir:
			if !w.yield(o, nil) {
				return false, nil
			}
		case !w.dirs || len(o.Key) <= len(w.prefix):
			if more, err := w.dir(o.Key); !more || err != nil {
				return false, err
			}
		default:
			any, err := w.b.holds(w.ctx, o.Key)
			if err != nil {
				return false, err
			}
			if any && !w.yield(Object{Key: o.Key}, nil) {
				return false, nil
			}
		}
	}
	return true, nil
}

// holds says whether there is any object below key.
func (b *folder) holds(ctx context.Context, key string) (bool, error) {
	any := false
	w := walk{b: b, ctx: ctx, prefix: key, yield: func(Object, error) bool {
		any = true
		return false
	}}
	_, err := w.dir(key)
	return any, err
}

// entries is what a folder holds, in the order of whole keys: a folder's
// name sorts with its '/', so that "a-b" comes before "a/b".
func (b *folder) entries(ctx context.Context, key string) ([]Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir := b.root
	if key != "" {
		dir = b.path(strings.TrimSuffix(key, "/"))
	}
	names, err := b.fs.List(dir)
	if errors.Is(err, fs.ErrNotExist) && dir != b.root {
		return nil, nil // taken away while we walked, or never there
	}
	if err != nil {
		if st, serr := b.fs.Stat(dir); serr == nil && !st.Dir {
			return nil, nil // an object: nothing is below it
		}
		return nil, err
	}
	found := make([]Object, 0, len(names))
	for _, name := range names {
		part, ours := unescape(name)
		if !ours || CheckKey(key+part) != nil {
			continue
		}
		st, err := b.fs.Stat(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, err
		case st.Dir:
			found = append(found, Object{Key: key + part + "/"})
		default:
			found = append(found, Object{Key: key + part, Bytes: st.Size, Modified: st.Modified, Class: Standard})
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].Key < found[j].Key })
	return found, nil
}
