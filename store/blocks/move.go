package blocks

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/zeebo/xxh3"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
	"github.com/quantra-l/quantra/store/bucket"
)

// Moved is what Export or Import has done.
type Moved struct {
	Blocks   int   `json:"blocks"`
	Profiles int64 `json:"profiles"`
	Bytes    int64 `json:"bytes"`
	// Of Import: blocks that were there before, and those that had been there and were deleted; neither is written.
	Present int `json:"present"`
	Deleted int `json:"deleted"`
}

func (m *Moved) add(meta *block.Meta) {
	m.Blocks++
	m.Profiles += int64(meta.Profiles)
	m.Bytes += meta.Bytes()
}

// ExportOptions of [Blocks.Export]. The zero value is all there is.
type ExportOptions struct {
	Tenant   string    // "" is all
	From, To time.Time // blocks that have profiles of the range; zero is open
	Progress func(bytes int64)
}

// Export writes blocks that the bucket has as a tar: of each its files as they lie, under their keys, and then its meta.json. Blocks that
// another replaces are left out. What is damaged ends it, with the block's name.
func (b *Blocks) Export(ctx context.Context, w io.Writer, opt ExportOptions) (Moved, error) {
	var out Moved
	tw := tar.NewWriter(w)
	s := b.now.Load()
	for _, tenant := range slices.Sorted(maps.Keys(s.ask)) {
		for _, k := range s.ask[tenant] {
			m := &k.Meta
			if k.Waiting || opt.Tenant != "" && m.Tenant != opt.Tenant || !opt.To.IsZero() && !m.From.Before(opt.To) || !opt.From.IsZero() && !m.To.After(opt.From) {
				continue
			}
			if err := b.exportBlock(ctx, tw, k, opt.Progress); err != nil {
				return out, fmt.Errorf("blocks: export block %s: %w", m.ULID, err)
			}
			out.add(m)
		}
	}
	return out, tw.Close()
}

// moveBytes are read of an object at a time.
const moveBytes = 4 << 20

func (b *Blocks) exportBlock(ctx context.Context, tw *tar.Writer, k *Block, progress func(int64)) error {
	if why := k.damage.Load(); why != nil {
		return fmt.Errorf("%w: %s", store.ErrCorrupt, *why)
	}
	meta, err := b.bucket.Get(ctx, k.Key+block.MetaFile, 0, -1)
	if err != nil {
		return err
	}
	header := func(name string, size int64) error {
		return tw.WriteHeader(&tar.Header{Name: k.Key + name, Size: size, Mode: 0o644, ModTime: k.Meta.Created, Format: tar.FormatPAX})
	}
	for _, name := range slices.Sorted(maps.Keys(k.Meta.Files)) {
		f := k.Meta.Files[name]
		if err := header(name, f.Bytes); err != nil {
			return err
		}
		h := xxh3.New()
		for at := int64(0); at < f.Bytes; {
			part, err := b.bucket.Get(ctx, k.Key+name, at, min(moveBytes, f.Bytes-at))
			if err != nil {
				return err
			}
			if len(part) == 0 {
				return fmt.Errorf("%w: %s ends at %d of %d bytes", store.ErrCorrupt, name, at, f.Bytes)
			}
			h.Write(part)
			if _, err := tw.Write(part); err != nil {
				return err
			}
			at += int64(len(part))
			if progress != nil {
				progress(int64(len(part)))
			}
		}
		if got := sumText(h); got != f.XXH3 {
			return fmt.Errorf("%w: %s has the checksum %s, meta.json says %s", store.ErrCorrupt, name, got, f.XXH3)
		}
	}
	if err := header(block.MetaFile, int64(len(meta))); err != nil {
		return err
	}
	_, err = tw.Write(meta)
	return err
}

// ExportBytes is about how much Export will write.
func (b *Blocks) ExportBytes() (n int64) {
	for _, ks := range b.now.Load().ask {
		for _, k := range ks {
			n += k.bytes
		}
	}
	return n
}

// maxImport is the most that one block of an import may have.
const maxImport = 16 << 30

// Import takes in what Export has written. Each block is checked whole, as Fsck does, before the bucket gets it, and
// one that is there already, or has been deleted, is passed over. What is wrong ends it; the blocks before are in. It can be given the same tar again.
func (b *Blocks) Import(ctx context.Context, r io.Reader) (Moved, error) {
	var out Moved
	in := &importer{b: b, tr: tar.NewReader(r)}
	defer in.drop()
	for {
		h, err := in.tr.Next()
		if err == io.EOF && in.prefix == "" {
			return out, nil
		}
		if err == io.EOF {
			return out, fmt.Errorf("blocks: import: %w: the archive ends within block %s", store.ErrCorrupt, in.id)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = in.entry(ctx, h, &out)
		}
		if err != nil {
			return out, fmt.Errorf("blocks: import: %w", tarError(err))
		}
	}
}

// tarError tells what the archive has wrong from what this machine has.
func tarError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrInsecurePath) {
		return fmt.Errorf("%w: %w; is it what `quantraband store export` wrote, and all of it?", store.ErrCorrupt, err)
	}
	return err
}

// importer reads the files of one block after the other into a folder.
type importer struct {
	b      *Blocks
	tr     *tar.Reader
	prefix string // of the block whose files are read; "" between blocks
	id     ulid.ULID
	dir    string
	files  map[string]int64
	bytes  int64
}

func (in *importer) entry(ctx context.Context, h *tar.Header, out *Moved) error {
	prefix, id, file, ok := parseKey(h.Name)
	for record := range h.PAXRecords {
		// Of a sparse file a few bytes claim to be many.
		ok = ok && !strings.HasPrefix(record, "GNU.sparse.")
	}
	if !ok || h.Typeflag != tar.TypeReg || h.Size < 0 || filepath.Base(file) != file || len(file) > 64 || file == TombstoneFile {
		return fmt.Errorf("%w: entry %.200q is not a file of a block", store.ErrCorrupt, h.Name)
	}
	switch {
	case in.prefix == "":
		if err := in.begin(prefix, id); err != nil {
			return err
		}
	case in.prefix != prefix:
		return fmt.Errorf("%w: entry %.200q comes before block %s is complete", store.ErrCorrupt, h.Name, in.id)
	}
	if file == block.MetaFile {
		if err := in.block(ctx, h.Size, out); err != nil {
			return fmt.Errorf("block %s: %w", id, err)
		}
		return in.drop()
	}
	if in.bytes += h.Size; in.bytes > maxImport {
		return fmt.Errorf("%w: block %s has more than %d bytes", store.ErrCorrupt, id, int64(maxImport))
	}
	if _, ok := in.files[file]; ok || len(in.files) >= 16 {
		return fmt.Errorf("%w: block %s has %s twice, or too many files", store.ErrCorrupt, id, file)
	}
	in.files[file] = h.Size
	return in.write(file)
}

func (in *importer) begin(prefix string, id ulid.ULID) error {
	in.prefix, in.id, in.files, in.bytes = prefix, id, map[string]int64{}, 0
	in.dir = filepath.Join(in.b.opt.Dir, workDir, "import-"+id.String())
	if err := vfs.RemoveAll(in.b.fs, in.dir); err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return makeDir(in.b.fs, in.dir)
}

// drop forgets the block that was read last.
func (in *importer) drop() error {
	if in.prefix == "" {
		return nil
	}
	in.prefix = ""
	return vfs.RemoveAll(in.b.fs, in.dir)
}

func (in *importer) write(name string) error {
	f, err := in.b.fs.Create(filepath.Join(in.dir, name))
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	_, err = io.Copy(f, in.tr)
	return errors.Join(err, f.Close())
}

// block has all files of a block but meta.json, which comes now.
func (in *importer) block(ctx context.Context, size int64, out *Moved) error {
	if size > maxMeta {
		return fmt.Errorf("%w: %s has %d bytes", store.ErrCorrupt, block.MetaFile, size)
	}
	raw, err := io.ReadAll(in.tr)
	if err != nil {
		return err
	}
	m, err := block.ReadMeta(raw)
	if err != nil {
		return err
	}
	if at := Prefix(m.Region, m.Tenant, m.ULID); at != in.prefix {
		return fmt.Errorf("%w: %s%s is of %s", store.ErrCorrupt, in.prefix, block.MetaFile, at)
	}
	b := in.b
	if m.Region != b.opt.Region {
		return fmt.Errorf("%w: it is of region %q, this is %q", store.ErrInvalid, m.Region, b.opt.Region)
	}
	for name, f := range m.Files {
		if n, ok := in.files[name]; !ok || n != f.Bytes {
			return fmt.Errorf("%w: %s has %d bytes, %s says %d", store.ErrCorrupt, name, n, block.MetaFile, f.Bytes)
		}
	}
	if len(in.files) != len(m.Files) {
		return fmt.Errorf("%w: it has %d files, %s names %d", store.ErrCorrupt, len(in.files), block.MetaFile, len(m.Files))
	}
	there, deleted, err := b.inBucket(ctx, in.prefix)
	switch {
	case err != nil:
		return err
	case deleted:
		out.Deleted++
		return nil
	case there:
		out.Present++
		return nil
	}
	if err := block.Verify(ctx, m, block.DirSource(b.fs, in.dir)); err != nil {
		return err
	}
	k := newBlock(m)
	k.Dir = in.dir
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		if err := b.uploadFile(ctx, k, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := b.bucket.Put(ctx, k.Key+block.MetaFile, bytes.NewReader(raw)); err != nil {
		return err
	}
	out.add(&m)
	return nil
}

// inBucket says whether the bucket has a block, and whether it had it and it was deleted.
func (b *Blocks) inBucket(ctx context.Context, prefix string) (there, deleted bool, err error) {
	_, tomb := b.bucket.Stat(ctx, prefix+TombstoneFile)
	_, meta := b.bucket.Stat(ctx, prefix+block.MetaFile)
	for _, e := range []error{tomb, meta} {
		if e != nil && !errors.Is(e, bucket.ErrNotFound) {
			err = cmp.Or(err, e)
		}
	}
	return meta == nil, tomb == nil, err
}
