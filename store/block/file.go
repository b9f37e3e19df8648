package block

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"path/filepath"

	"github.com/parquet-go/parquet-go"
	"github.com/zeebo/xxh3"

	"github.com/quantra-l/quantra/internal/vfs"
)

// fileWriter writes one file and sums it up on the way.
type fileWriter struct {
	f     vfs.File
	buf   []byte // not written yet, for whole writes; and not summed yet, as chunks are
	n     int64
	whole *xxh3.Hasher
	sums  []byte
}

func createFile(fs vfs.FS, path string) (*fileWriter, error) {
	f, err := fs.Create(path)
	if err != nil {
		return nil, err
	}
	return &fileWriter{f: f, whole: xxh3.New(), buf: make([]byte, 0, ChunkBytes)}, nil
}

func (w *fileWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), ChunkBytes-len(w.buf))
		w.buf = append(w.buf, p[:k]...)
		p = p[k:]
		if len(w.buf) == ChunkBytes {
			if err := w.chunk(); err != nil {
				return 0, err
			}
		}
	}
	w.n += int64(n)
	return n, nil
}

func (w *fileWriter) chunk() error {
	w.sums = binary.BigEndian.AppendUint64(w.sums, xxh3.Hash(w.buf))
	w.whole.Write(w.buf)
	_, err := w.f.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// finish writes the rest, syncs and closes.
func (w *fileWriter) finish(rows, tail int64) (File, error) {
	if len(w.buf) > 0 {
		if err := w.chunk(); err != nil {
			return File{}, err
		}
	}
	if err := w.f.Sync(); err != nil {
		return File{}, err
	}
	return File{Bytes: w.n, Rows: rows, XXH3: FormatID(w.whole.Sum128()), Chunks: w.sums, Tail: tail}, w.f.Close()
}

// table writes the rows of one Parquet file.
type table[T any] struct {
	name  string
	out   *fileWriter
	w     *parquet.GenericWriter[T]
	buf   []T
	texts int // bytes of the long texts in the row group, counted by who adds them
	rows  int64
}

const (
	tableBuffer = 1024 // rows handed to Parquet at a time
	// groupTexts are the bytes of long texts after which a row group ends: it has its dictionary in one page, and few
	// profiles with names that are long and much alike would make that too large to be read.
	groupTexts = maxPage / 4 * 3
)

func newTable[T any](fs vfs.FS, dir, name string) (*table[T], error) {
	out, err := createFile(fs, filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	return &table[T]{name: name, out: out, w: parquet.NewGenericWriter[T](out, writerOptions()...), buf: make([]T, 0, tableBuffer)}, nil
}

func (t *table[T]) add(row T) error {
	t.buf = append(t.buf, row)
	t.rows++
	if t.texts > groupTexts {
		t.texts = 0
		if err := t.flush(); err != nil {
			return err
		}
		return t.w.Flush()
	}
	if len(t.buf) == cap(t.buf) {
		return t.flush()
	}
	return nil
}

func (t *table[T]) flush() error {
	_, err := t.w.Write(t.buf)
	t.buf = t.buf[:0]
	if err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	return nil
}

func (t *table[T]) close(files map[string]File) error {
	if err := t.flush(); err != nil {
		return err
	}
	if err := t.w.Flush(); err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	tail := t.out.n
	if err := t.w.Close(); err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	f, err := t.out.finish(t.rows, tail)
	files[t.name] = f
	return err
}

// Source gives n bytes from off of a block's file, all of them or an error.
type Source func(ctx context.Context, file string, off, n int64) ([]byte, error)

// DirSource reads a block in a folder.
func DirSource(fs vfs.FS, dir string) Source {
	return func(_ context.Context, file string, off, n int64) ([]byte, error) {
		f, err := fs.Open(filepath.Join(dir, file))
		if err != nil {
			return nil, err
		}
		defer f.Close() // nothing was written
		b := make([]byte, n)
		got, err := f.ReadAt(b, off)
		if err == io.EOF && got == len(b) {
			err = nil
		}
		if err == io.EOF {
			return nil, fmt.Errorf("%w: %s ends at %d, %d bytes are wanted", ErrCorrupt, filepath.Join(dir, file), off+int64(got), off+n)
		}
		return b, err
	}
}

// checkedFile reads parts of one file and holds them to their checksums: no byte that was altered is
// ever decoded. It lives as long as ctx; one goroutine uses it.
type checkedFile struct {
	ctx  context.Context
	name string
	meta File
	src  Source

	tail []byte // from the chunk that Tail is in to the end
	last []byte // the chunks read last
	at   int64  // of last
	err  error  // the first error of src: what a decoder makes of it says less
}

func (f *checkedFile) tailAt() int64 { return f.meta.Tail / ChunkBytes * ChunkBytes }

// bytes gives n bytes from off, which are not the caller's to change.
func (f *checkedFile) bytes(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off > f.meta.Bytes-n {
		return nil, fmt.Errorf("%w: bytes %d to %d, there are %d", ErrCorrupt, off, off+n, f.meta.Bytes)
	}
	from := off / ChunkBytes * ChunkBytes
	to := min((off+n+ChunkBytes-1)/ChunkBytes*ChunkBytes, f.meta.Bytes)
	switch {
	case f.tail != nil && from >= f.tailAt():
		return f.tail[off-f.tailAt():][:n], nil
	case f.last != nil && from >= f.at && to <= f.at+int64(len(f.last)):
	default:
		c, err := f.chunks(from, to)
		if err != nil {
			return nil, err
		}
		f.last, f.at = c, from
	}
	return f.last[off-f.at:][:n], nil
}

// inTail gives bytes that were read when the file was opened, as a page index must have been.
func (f *checkedFile) inTail(r byteRange) ([]byte, error) {
	at := f.tailAt()
	if r.off < at || r.n <= 0 || r.n > f.meta.Bytes-r.off {
		return nil, fmt.Errorf("%w: bytes %d to %d are not in the tail, which is from %d to %d", ErrCorrupt, r.off, r.off+r.n, at, f.meta.Bytes)
	}
	return f.tail[r.off-at:][:r.n], nil
}

// chunks reads and checks whole chunks.
func (f *checkedFile) chunks(from, to int64) ([]byte, error) {
	b, err := f.src(f.ctx, f.name, from, to-from)
	if err == nil && int64(len(b)) != to-from {
		err = fmt.Errorf("%w: %s: %d bytes of %d at %d", ErrCorrupt, f.name, len(b), to-from, from)
	}
	for at := int64(0); err == nil && at < int64(len(b)); at += ChunkBytes {
		c := b[at:min(at+ChunkBytes, int64(len(b)))]
		want := binary.BigEndian.Uint64(f.meta.Chunks[(from+at)/ChunkBytes*8:])
		if got := xxh3.Hash(c); got != want {
			err = fmt.Errorf("%w: %s: bytes %d to %d have the checksum %016x, meta.json says %016x", ErrCorrupt, f.name, from+at, from+at+int64(len(c)), got, want)
		}
	}
	if err != nil && f.err == nil {
		f.err = err
	}
	return b, err
}
