package blocks

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/oklog/ulid/v2"
	"github.com/zeebo/xxh3"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

// The folders in Options.Dir.
const (
	queueDir = "queue"
	localDir = "local"
	metasDir = "metas"
	cacheDir = "cache"
	workDir  = "work"
)

// maxMeta bounds a meta.json that is read: ten thousand series of some labels each fit well.
const maxMeta = 64 << 20

// makeDir makes dir, and makes its name and those above it durable.
func makeDir(f vfs.FS, dir string) error {
	if err := f.MkdirAll(dir); err != nil {
		return err
	}
	for d := filepath.Clean(dir); d != filepath.Dir(d); d = filepath.Dir(d) {
		if err := f.SyncDir(filepath.Dir(d)); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}

// readFile reads a file of at most limit bytes.
func readFile(f vfs.FS, name string, limit int64) ([]byte, error) {
	r, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	n, err := r.Size()
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("%s: %w: %d bytes, the limit is %d", name, store.ErrCorrupt, n, limit)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	return b, nil
}

// discard takes a folder away at once, and removes its bytes after. A crash
// between leaves it in work/, which the next start empties.
func (b *Blocks) discard(dir string) error {
	work := filepath.Join(b.opt.Dir, workDir)
	if err := b.fs.MkdirAll(work); err != nil {
		return err
	}
	to := filepath.Join(work, filepath.Base(dir)+".gone")
	if err := vfs.RemoveAll(b.fs, to); err != nil {
		return err
	}
	if err := b.fs.Rename(dir, to); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := b.fs.SyncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	return vfs.RemoveAll(b.fs, to)
}

// readDir finds the blocks in queue/ or local/. A folder that is not a whole block is
// given to bad, with what is wrong.
func (b *Blocks) readDir(dir string, see func(*Block), bad func(name string, err error)) error {
	dir = filepath.Join(b.opt.Dir, dir)
	names, err := b.fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		k, err := b.readBlock(filepath.Join(dir, name))
		if err == nil && k.Meta.ULID.String() != name {
			err = fmt.Errorf("%w: %s says that it is block %s", store.ErrCorrupt, block.MetaFile, k.Meta.ULID)
		}
		if err != nil {
			bad(name, err)
			continue
		}
		see(k)
	}
	return nil
}

// readBlock is the block in a local folder: its meta.json can be read, and its files have the lengths that says.
func (b *Blocks) readBlock(dir string) (*Block, error) {
	raw, err := readFile(b.fs, filepath.Join(dir, block.MetaFile), maxMeta)
	if err != nil {
		return nil, err
	}
	m, err := block.ReadMeta(raw)
	if err != nil {
		return nil, err
	}
	for name, f := range m.Files {
		st, err := b.fs.Stat(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if st.Size != f.Bytes {
			return nil, fmt.Errorf("%w: %s has %d bytes, %s says %d", store.ErrCorrupt, name, st.Size, block.MetaFile, f.Bytes)
		}
	}
	b.names.share(&m)
	k := newBlock(m)
	k.Dir = dir
	return k, nil
}

// A copy of meta.json in metas/ has the 64-bit xxh3 of its bytes ahead of them. It is not synced:
// a copy that a crash spoilt is fetched again.

func (b *Blocks) metaCopy(id ulid.ULID) string {
	return filepath.Join(b.opt.Dir, metasDir, id.String())
}

func (b *Blocks) readMetaCopy(id ulid.ULID) ([]byte, bool) {
	raw, err := readFile(b.fs, b.metaCopy(id), maxMeta+8)
	if err != nil || len(raw) < 8 || binary.LittleEndian.Uint64(raw) != xxh3.Hash(raw[8:]) {
		return nil, false
	}
	return raw[8:], true
}

// keepMetaCopy does what it can: without the copy the next start is slower, and no more.
func (b *Blocks) keepMetaCopy(id ulid.ULID, raw []byte) {
	name := b.metaCopy(id)
	if b.fs.Remove(name); b.near {
		return
	}
	f, err := b.fs.Create(name)
	if err != nil {
		return
	}
	defer f.Close()
	f.Write(append(binary.LittleEndian.AppendUint64(nil, xxh3.Hash(raw)), raw...))
}

// source reads a block's files: from the folder here, or from the bucket. Where the block
// is may change between two reads.
func (b *Blocks) source(id ulid.ULID) block.Source {
	return func(ctx context.Context, file string, off, n int64) ([]byte, error) {
		k := b.now.Load().all[id]
		if k == nil {
			return nil, fmt.Errorf("blocks: block %s: %w", id, errGone)
		}
		if k.Dir != "" {
			p, err := block.DirSource(b.fs, k.Dir)(ctx, file, off, n)
			if err == nil || k.Waiting && !errors.Is(err, fs.ErrNotExist) {
				return p, err
			}
			// It has just been uploaded, or the copy is bad: the bucket has it.
		}
		return b.reads.Get(ctx, k.Key+file, off, n)
	}
}

// errGone: a block that was known when the question was asked has been deleted since.
var errGone = errors.New("it is deleted")

// Source reads the files of a block that is known.
func (b *Blocks) Source(k *Block) block.Source { return b.source(k.Meta.ULID) }
