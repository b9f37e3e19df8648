package blocks

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
	"github.com/quantra-l/quantra/store/bucket"
)

// Kind is what a [Finding] is about.
type Kind string

// The kinds. The first two are damage; the others are traces that the servers deal with themselves, told so
// that a person can see that they do.
const (
	Damaged    Kind = "damaged"    // bytes are not what was written, or files are missing
	Doubled    Kind = "doubled"    // a profile is in two blocks that are both asked
	Orphan     Kind = "orphan"     // objects of a block without meta.json, for longer than an upload takes
	Superseded Kind = "superseded" // a block that another replaces, without a tombstone, for longer than that takes
	Buried     Kind = "tombstone"  // a deleted block whose bytes are there for longer than the grace
	Unknown    Kind = "unknown"    // an object that is not of a block, or a block of a later version
	Waiting    Kind = "waiting"    // a block that the bucket does not have yet, for longer than an upload takes
)

// Finding is one thing that Fsck has found.
type Finding struct {
	Kind  Kind   `json:"kind"`
	Where string `json:"where"` // the folder, or the bucket and the key
	What  string `json:"what"`
	Aside string `json:"aside,omitempty"` // where a repair has moved it
}

// IsDamage says whether data cannot be read, or counts twice.
func (f Finding) IsDamage() bool { return f.Kind == Damaged || f.Kind == Doubled }

// FsckOptions of [Fsck].
type FsckOptions struct {
	FS     vfs.FS // vfs.Default
	Dir    string // of the local blocks, as in Options; "" is none
	Region string // "" is all that the bucket has
	Now    func() time.Time
	Quick  bool // lengths only, no block is read
	// Quarantine is the folder that Repair moves damaged local blocks to; those of the bucket go to
	// <region>/<tenant>/quarantine/ in it. "" repairs nothing. The caller must have the locks of the folder.
	Quarantine string
	Progress   func(bytes int64) // hears what has been read; from many goroutines
}

// Patience before something is told that a server will deal with.
const (
	orphanAfter     = 24 * time.Hour
	supersededAfter = 24 * time.Hour
	buriedAfter     = 7 * 24 * time.Hour
	waitingAfter    = time.Hour
)

// maxFindings are listed; what is beyond is counted.
const maxFindings = 10_000

// maxDoubles is how many profiles of a tenant are compared: 24 bytes each.
const maxDoubles = 4 << 20

// Report is what Fsck has seen.
type Report struct {
	Blocks, Bytes int64
	Findings      []Finding // sorted by where
	More          int       // findings beyond maxFindings
	Damaged       int       // findings that are damage
	Uncompared    []string  // tenants that have too many profiles to look for doubled ones
}

// Fsck checks all blocks in a bucket and in the local folder: names, lengths, checksums, bounds, order, totals and roll-ups,
// and that no profile is in two blocks that are asked. It changes nothing unless
// told where to put what is damaged, and then deletes nothing. It may run beside servers: blocks that go while it reads
// are no finding. An error is that it could not look.
func Fsck(ctx context.Context, b bucket.Bucket, opt FsckOptions) (Report, error) {
	if opt.FS == nil {
		opt.FS = vfs.Default
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Progress == nil {
		opt.Progress = func(int64) {}
	}
	f := &fsck{ctx: ctx, b: b, opt: opt, now: opt.Now()}
	err := f.bucket()
	if err == nil && opt.Dir != "" {
		err = errors.Join(f.folder(queueDir), f.folder(localDir))
	}
	if err == nil && !opt.Quick {
		err = f.doubles()
	}
	slices.SortFunc(f.report.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Where, b.Where), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.What, b.What))
	})
	return f.report, err
}

type fsck struct {
	ctx context.Context
	b   bucket.Bucket
	opt FsckOptions
	now time.Time

	mu     sync.Mutex
	report Report
	whole  []checkedBlock
	names  interner
}

// checkedBlock is a block that was read and found whole.
type checkedBlock struct {
	meta block.Meta
	src  block.Source
}

func (f *fsck) find(kind Kind, where, aside, format string, args ...any) {
	x := Finding{Kind: kind, Where: where, What: strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " "), Aside: aside}
	f.mu.Lock()
	defer f.mu.Unlock()
	if x.IsDamage() {
		f.report.Damaged++
	}
	if len(f.report.Findings) < maxFindings {
		f.report.Findings = append(f.report.Findings, x)
	} else {
		f.report.More++
	}
}

func (f *fsck) url(key string) string { return strings.TrimSuffix(f.b.URL(), "/") + "/" + key }

// seen is the objects of one block, as listed.
type seen struct {
	id     ulid.ULID
	prefix string
	files  map[string]bucket.Object
}

// latest is when the last of them was written.
func (s *seen) latest() (t time.Time) {
	for _, o := range s.files {
		if o.Modified.After(t) {
			t = o.Modified
		}
	}
	return t
}

// bucket checks all that the bucket has. Keys come in order, so that a block's are together.
func (f *fsck) bucket() error {
	work := make(chan *seen)
	var wg sync.WaitGroup
	var failed error
	ctx, cancel := context.WithCancelCause(f.ctx)
	defer cancel(nil)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for s := range work {
				if err := f.stored(ctx, s); err != nil {
					cancel(err)
				}
			}
		})
	}
	hand := func(s *seen) {
		if s == nil {
			return
		}
		select {
		case work <- s:
		case <-ctx.Done():
		}
	}
	prefix := ""
	if f.opt.Region != "" {
		prefix = f.opt.Region + "/"
	}
	var at *seen
	for o, err := range f.b.List(ctx, prefix, false) {
		if err != nil {
			failed = err
			break
		}
		prefix, id, file, ok := parseKey(o.Key)
		if !ok {
			if !strings.Contains(o.Key, "/quarantine/") {
				f.find(Unknown, f.url(o.Key), "", "it is not of a block")
			}
			continue
		}
		if at == nil || at.prefix != prefix {
			hand(at)
			at = &seen{id: id, prefix: prefix, files: map[string]bucket.Object{}}
		}
		if len(at.files) < 100 { // a block has nine
			at.files[file] = o
		}
	}
	if failed == nil {
		hand(at)
	}
	close(work)
	wg.Wait()
	return cmp.Or(f.ctx.Err(), failed, context.Cause(ctx))
}

// stored checks one block in the bucket. An error is that the bucket does not answer.
func (f *fsck) stored(ctx context.Context, s *seen) error {
	where := f.url(s.prefix)
	age := f.now.Sub(s.latest())
	_, buried := s.files[TombstoneFile]
	metaObject, whole := s.files[block.MetaFile]
	switch {
	case buried:
		if len(s.files) > 1 && age > buriedAfter {
			f.find(Buried, where, "", "deleted %v ago, and its bytes are still there", age.Round(time.Hour))
		}
		return nil
	case !whole:
		if age > orphanAfter {
			f.find(Orphan, where, "", "%d files without %s, the last written %v ago: an upload that never finished", len(s.files), block.MetaFile, age.Round(time.Hour))
		}
		return nil
	}
	src := func(ctx context.Context, file string, off, n int64) ([]byte, error) {
		return f.b.Get(ctx, s.prefix+file, off, n)
	}
	m, err := f.meta(ctx, s, metaObject, src)
	if err == nil {
		err = f.lengths(&m, s.files)
	}
	if err == nil && !f.opt.Quick {
		err = block.Verify(ctx, m, src)
		f.opt.Progress(m.Bytes())
	}
	f.mu.Lock()
	f.report.Blocks++
	f.report.Bytes += m.Bytes()
	f.mu.Unlock()
	switch {
	case err == nil:
		f.names.share(&m)
		f.mu.Lock()
		f.whole = append(f.whole, checkedBlock{meta: m, src: src})
		f.mu.Unlock()
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, bucket.ErrNotFound):
		return f.vanished(ctx, s, where, err)
	case errors.Is(err, block.ErrVersion):
		f.find(Unknown, where, "", "%v; check it with the program that wrote it", err)
		return nil
	case errors.Is(err, block.ErrCorrupt), errors.Is(err, store.ErrCorrupt):
		return f.aside(ctx, s, where, err)
	}
	return err
}

func (f *fsck) meta(ctx context.Context, s *seen, o bucket.Object, src block.Source) (block.Meta, error) {
	if o.Bytes > maxMeta {
		return block.Meta{}, fmt.Errorf("%w: %s has %d bytes", block.ErrCorrupt, block.MetaFile, o.Bytes)
	}
	raw, err := src(ctx, block.MetaFile, 0, o.Bytes)
	if err != nil {
		return block.Meta{}, err
	}
	m, err := block.ReadMeta(raw)
	if err == nil && Prefix(m.Region, m.Tenant, m.ULID) != s.prefix {
		err = fmt.Errorf("%w: %s is of %s", block.ErrCorrupt, block.MetaFile, Prefix(m.Region, m.Tenant, m.ULID))
	}
	return m, err
}

// lengths checks that the files that meta.json names are there, as long as it says, and no others.
func (f *fsck) lengths(m *block.Meta, files map[string]bucket.Object) error {
	var errs []error
	for name, want := range m.Files {
		switch o, ok := files[name]; {
		case !ok:
			errs = append(errs, fmt.Errorf("%w: %s is missing", block.ErrCorrupt, name))
		case o.Bytes != want.Bytes:
			errs = append(errs, fmt.Errorf("%w: %s has %d bytes, %s says %d", block.ErrCorrupt, name, o.Bytes, block.MetaFile, want.Bytes))
		}
	}
	for name, o := range files {
		if _, ok := m.Files[name]; !ok && name != block.MetaFile {
			f.find(Unknown, f.url(o.Key), "", "%s of its block does not name it", block.MetaFile)
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// vanished is a block of which a file was gone when it was read: deleted meanwhile, or never there.
func (f *fsck) vanished(ctx context.Context, s *seen, where string, why error) error {
	if _, err := f.b.Stat(ctx, s.prefix+block.MetaFile); errors.Is(err, bucket.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if _, err := f.b.Stat(ctx, s.prefix+TombstoneFile); err == nil {
		return nil
	} else if !errors.Is(err, bucket.ErrNotFound) {
		return err
	}
	return f.aside(ctx, s, where, why)
}

// aside tells of a damaged block in the bucket, and moves it if it is to be repaired. All is copied before anything goes,
// and meta.json goes first: from then on it is no block.
func (f *fsck) aside(ctx context.Context, s *seen, where string, why error) error {
	if f.opt.Quarantine == "" {
		f.find(Damaged, where, "", "%v", why)
		return nil
	}
	to := strings.Replace(s.prefix, "/blocks/", "/quarantine/", 1)
	names := []string{block.MetaFile}
	for name := range s.files {
		if name != block.MetaFile {
			names = append(names, name)
		}
	}
	for _, name := range names {
		o := s.files[name]
		if err := f.b.Put(ctx, to+name, &objectReader{ctx: ctx, b: f.b, key: s.prefix + name, size: o.Bytes}); err != nil {
			return fmt.Errorf("set %s aside: %w", where, err)
		}
	}
	for _, name := range names {
		if err := f.b.Delete(ctx, s.prefix+name); err != nil {
			return fmt.Errorf("set %s aside: %w", where, err)
		}
	}
	f.find(Damaged, where, f.url(to), "%v", why)
	return nil
}

// folder checks the local blocks in queue/, of which there is no other copy, or in local/, which are copies.
func (f *fsck) folder(name string) error {
	dir := filepath.Join(f.opt.Dir, name)
	ids, err := f.opt.FS.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	for _, id := range ids {
		if err := f.local(filepath.Join(dir, id), name == queueDir); err != nil {
			return err
		}
	}
	return nil
}

func (f *fsck) local(dir string, queued bool) error {
	reader := &Blocks{fs: f.opt.FS}
	k, err := reader.readBlock(dir)
	if err == nil && k.Meta.ULID.String() != filepath.Base(dir) {
		err = fmt.Errorf("%w: %s says that it is block %s", block.ErrCorrupt, block.MetaFile, k.Meta.ULID)
	}
	if err == nil && !f.opt.Quick {
		err = block.Verify(f.ctx, k.Meta, block.DirSource(f.opt.FS, dir))
		f.opt.Progress(k.bytes)
	}
	if err := f.ctx.Err(); err != nil {
		return err
	}
	if _, e := f.opt.FS.Stat(dir); err != nil && errors.Is(e, fs.ErrNotExist) {
		return nil // it has gone to the bucket, or was dropped
	}
	switch {
	case errors.Is(err, block.ErrVersion):
		f.find(Unknown, dir, "", "%v; check it with the program that wrote it", err)
	case err != nil:
		return f.asideLocal(dir, err)
	case queued:
		f.mu.Lock()
		f.report.Blocks++
		f.report.Bytes += k.bytes
		f.whole = append(f.whole, checkedBlock{meta: k.Meta, src: block.DirSource(f.opt.FS, dir)})
		f.mu.Unlock()
		if age := f.now.Sub(k.Meta.Created); age > waitingAfter {
			f.find(Waiting, dir, "", "made %v ago, and the bucket does not have it yet", age.Round(time.Minute))
		}
	}
	return nil
}

func (f *fsck) asideLocal(dir string, why error) error {
	if f.opt.Quarantine == "" {
		f.find(Damaged, dir, "", "%v", why)
		return nil
	}
	to, err := SetAside(f.opt.FS, dir, f.opt.Quarantine)
	if err != nil {
		return err
	}
	f.find(Damaged, dir, to, "%v", why)
	return nil
}

// SetAside moves a file or a folder into the folder quarantine, made if need be, under a name that is free there.
func SetAside(fsys vfs.FS, path, quarantine string) (string, error) {
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("set %s aside: %w: %w", path, store.ErrUnavailable, err)
	}
	if err := makeDir(fsys, quarantine); err != nil {
		return fail(err)
	}
	base := filepath.Base(filepath.Dir(path)) + "-" + filepath.Base(path)
	to := filepath.Join(quarantine, base)
	for n := 2; ; n++ {
		if _, err := fsys.Stat(to); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return fail(err)
		}
		to = filepath.Join(quarantine, fmt.Sprintf("%s-%d", base, n))
	}
	if err := fsys.Rename(path, to); err != nil {
		return fail(err)
	}
	if err := errors.Join(fsys.SyncDir(quarantine), fsys.SyncDir(filepath.Dir(path))); err != nil {
		return fail(err)
	}
	return to, nil
}

// doubles looks for profiles that are in two blocks which are both asked, and for blocks that should have gone.
func (f *fsck) doubles() error {
	slices.SortFunc(f.whole, func(a, b checkedBlock) int { return a.meta.ULID.Compare(b.meta.ULID) })
	replaced := map[ulid.ULID]ulid.ULID{}
	once := map[ulid.ULID]bool{}
	for _, k := range f.whole {
		for _, src := range k.meta.Sources {
			replaced[src] = k.meta.ULID
		}
	}
	tenants := map[string][]checkedBlock{}
	for _, k := range f.whole {
		id := k.meta.ULID
		by, ok := replaced[id]
		switch {
		case once[id]: // in the queue and in the bucket: it has just been uploaded
		case ok:
			if age := f.now.Sub(by.Timestamp()); age > supersededAfter {
				f.find(Superseded, f.url(Prefix(k.meta.Region, k.meta.Tenant, id)), "", "block %s replaced it %v ago", by, age.Round(time.Hour))
			}
		default:
			at := k.meta.Region + "/" + k.meta.Tenant
			tenants[at] = append(tenants[at], k)
		}
		once[id] = true
	}
	for at, ks := range tenants {
		n := 0
		for _, k := range ks {
			n += k.meta.Profiles
		}
		if n > maxDoubles {
			f.report.Uncompared = append(f.report.Uncompared, at)
			continue
		}
		if err := f.compare(ks, make(map[block.ID]int32, n)); err != nil {
			return err
		}
	}
	slices.Sort(f.report.Uncompared)
	return nil
}

func (f *fsck) compare(ks []checkedBlock, where map[block.ID]int32) error {
	for i, k := range ks {
		r, err := block.Open(f.ctx, k.meta, k.src)
		if err != nil {
			return err
		}
		c, err := r.Profiles(f.ctx, nil)
		switch {
		case f.ctx.Err() != nil:
			return f.ctx.Err()
		case errors.Is(err, bucket.ErrNotFound), errors.Is(err, fs.ErrNotExist):
			continue // it has gone meanwhile
		case err != nil:
			return err
		}
		shared := map[int32]int{}
		for _, id := range c.ID {
			if j, ok := where[id]; ok && j != int32(i) {
				shared[j]++
			} else {
				where[id] = int32(i)
			}
		}
		for j, n := range shared {
			f.find(Doubled, f.url(Prefix(k.meta.Region, k.meta.Tenant, k.meta.ULID)), "",
				"%d rows are of profiles that are in block %s too; compaction will keep them once", n, ks[j].meta.ULID)
		}
	}
	return nil
}

// objectReader reads an object of a bucket piece by piece.
type objectReader struct {
	ctx  context.Context
	b    bucket.Bucket
	key  string
	size int64
	off  int64
	buf  bytes.Reader
}

const objectPiece = 8 << 20

func (r *objectReader) Read(p []byte) (int, error) {
	if r.buf.Len() == 0 {
		if r.off >= r.size {
			return 0, io.EOF
		}
		piece, err := r.b.Get(r.ctx, r.key, r.off, min(objectPiece, r.size-r.off))
		if err != nil {
			return 0, err
		}
		if len(piece) == 0 {
			return 0, io.ErrUnexpectedEOF
		}
		r.off += int64(len(piece))
		r.buf.Reset(piece)
	}
	return r.buf.Read(p)
}

func (r *objectReader) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += r.off - int64(r.buf.Len())
	case io.SeekEnd:
		off += r.size
	}
	if off < 0 {
		return 0, fmt.Errorf("seek to %d", off)
	}
	r.off = off
	r.buf.Reset(nil)
	return off, nil
}
