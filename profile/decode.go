package profile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Decode reads one pprof profile to the end of r: gzip (of any number of
// members), zstd or raw, told apart by their first bytes.
//
// Whatever google/pprof's Parse accepts in this format is accepted, and means the
// same, but for four things. Bytes that are not UTF-8 become U+FFFD, because
// the dashboard's protocol cannot carry them. Varints of more than 64 bits are
// corrupt. Several values under one label key are a sorted set, not a list.
// The text formats from before 2015 are not read. Unknown fields are skipped.
//
// Errors are [ErrCorrupt], naming the field and the offset in the decompressed
// bytes, [ErrTooLarge], naming the limit, or r's own.
func Decode(r io.Reader, lim Limits) (*Profile, error) {
	lim = lim.withDefaults()
	b, err := readBounded(r, sizeHint(r), lim.Compressed, "bytes before decompression")
	if err != nil {
		return nil, err
	}
	return decode(b, lim)
}

// DecodeBytes is [Decode] of bytes in memory. The profile keeps nothing of b.
func DecodeBytes(b []byte, lim Limits) (*Profile, error) {
	lim = lim.withDefaults()
	if int64(len(b)) > lim.Compressed {
		return nil, tooLarge("bytes before decompression", int64(len(b)), lim.Compressed)
	}
	return decode(b, lim)
}

func decode(b []byte, lim Limits) (*Profile, error) {
	raw, err := decompress(b, lim)
	if err != nil {
		return nil, err
	}
	d, _ := decoders.Get().(*pprofDecoder)
	if d == nil {
		d = new(pprofDecoder)
	}
	d.b, d.lim = raw, lim
	p, err := d.profile()
	if len(raw) <= maxKept {
		d.reset()
		decoders.Put(d)
	}
	return p, err
}

// decoders are kept for their arrays: a small profile's decoding is a third allocation else.
// Those of large profiles, over maxKept bytes, are left to the garbage collector.
var decoders sync.Pool

const maxKept = 1 << 20

// reset leaves nothing of the profile before but the room of the arrays named here.
func (d *pprofDecoder) reset() {
	s := &d.samples
	old := *d
	*d = pprofDecoder{strs: old.strs[:0], seen: old.seen,
		mappings: idTable{dense: old.mappings.dense}, funcs: idTable{dense: old.funcs.dense}, locs: idTable{dense: old.locs.dense}}
	for i, t := range old.tables {
		d.tables[i].runs = t.runs[:0]
	}
	s.path, s.vals, s.labels, s.tree.nodes = old.samples.path[:0], old.samples.vals[:0], old.samples.labels[:0], old.samples.tree.nodes[:0]
}

// zeroed is n zeroes, in old if that has the room.
func zeroed[T any](old []T, n int) []T {
	if cap(old) < n {
		return make([]T, n)
	}
	old = old[:n]
	clear(old)
	return old
}

// sizeHint is how many bytes r is about to give, 0 if it does not say.
func sizeHint(r io.Reader) int64 {
	switch r := r.(type) {
	case interface{ Len() int }:
		return int64(r.Len())
	case interface{ Stat() (fs.FileInfo, error) }:
		if fi, err := r.Stat(); err == nil {
			return fi.Size()
		}
	}
	return 0
}

// readBounded reads r to its end. A hint that is right means one allocation.
func readBounded(r io.Reader, hint, limit int64, what string) ([]byte, error) {
	// One byte more than expected, so that the read that finds the end has room.
	b := make([]byte, 0, min(max(hint, 4095), limit, math.MaxInt-1)+1)
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if int64(len(b)) > limit {
			return nil, fmt.Errorf("%w: more than %d %s", ErrTooLarge, limit, what)
		}
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}

// gzipReaders are kept because one has 40 KB of tables, several times a small profile.
var gzipReaders sync.Pool

func decompress(b []byte, lim Limits) ([]byte, error) {
	const what = "bytes after decompression"
	var raw []byte
	var err error
	switch {
	case len(b) >= 2 && b[0] == 0x1f && b[1] == 0x8b:
		z, _ := gzipReaders.Get().(*gzip.Reader)
		if z == nil {
			z = new(gzip.Reader)
		}
		defer gzipReaders.Put(z)
		if err = z.Reset(bytes.NewReader(b)); err != nil {
			return nil, fmt.Errorf("%w: gzip: %w", ErrCorrupt, err)
		}
		// The last member's length, as it claims. Deflate cannot do better than
		// 1 to 1032, so a lie costs no more than the truth would.
		var hint int64
		if n := len(b); n >= 18 {
			hint = int64(b[n-4]) | int64(b[n-3])<<8 | int64(b[n-2])<<16 | int64(b[n-1])<<24
			hint = min(hint, 1032*int64(n))
		}
		raw, err = readBounded(z, hint, lim.Decoded, what)
	case len(b) >= 4 && b[0] == 0x28 && b[1] == 0xb5 && b[2] == 0x2f && b[3] == 0xfd:
		var z *zstd.Decoder
		// The window is the only memory that zstd takes before it gives bytes. 8 MiB is
		// what every decoder should accept (RFC 8878, section 3.1.1.1.2).
		z, err = zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(uint64(min(max(lim.Decoded, 8<<20), 64<<20))))
		if err != nil {
			return nil, fmt.Errorf("%w: zstd: %w", ErrCorrupt, err)
		}
		defer z.Close()
		raw, err = readBounded(z, int64(len(b))*4, lim.Decoded, what)
	default:
		if int64(len(b)) > lim.Decoded {
			return nil, tooLarge(what, int64(len(b)), lim.Decoded)
		}
		return b, nil
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return nil, fmt.Errorf("%w: zstd: %w", ErrTooLarge, err)
	}
	if err != nil && !errors.Is(err, ErrTooLarge) {
		return nil, fmt.Errorf("%w: decompress: %w", ErrCorrupt, err)
	}
	return raw, err
}

// wireReader walks the fields of one protobuf message in b. Offsets are of
// the whole buffer, so that an error can say where.
type wireReader struct {
	b []byte

	// The field that next found.
	num    uint64
	typ    byte
	u      uint64 // the value of types 0, 1 and 5
	lo, hi int    // the bytes of type 2
	at     int    // where the field starts
}

// Wire types of protobuf.
const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

func corrupt(at int, format string, args ...any) error {
	return fmt.Errorf("%w: byte %d: %s", ErrCorrupt, at, fmt.Sprintf(format, args...))
}

// varint reads at pos, not past end. Its next is -1 if there is none.
func (r *wireReader) varint(pos, end int) (u uint64, next int) {
	var s uint
	for ; pos < end; pos++ {
		c := r.b[pos]
		if c < 0x80 {
			if s == 63 && c > 1 {
				return 0, -1
			}
			return u | uint64(c)<<s, pos + 1
		}
		if s == 63 {
			return 0, -1
		}
		u |= uint64(c&0x7f) << s
		s += 7
	}
	return 0, -1
}

// next reads the field at pos of a message that ends at end, and says where the
// one after it starts.
func (r *wireReader) next(pos, end int) (int, error) {
	// Nearly every field: a tag of one byte, then a number or a length of one or two.
	if b := r.b[:end]; pos+2 < len(b) && b[pos] < 0x80 {
		tag, u, p := b[pos], uint64(b[pos+1]), pos+2
		if u >= 0x80 {
			u, p = u&0x7f|uint64(b[p])<<7, p+1
		}
		if u < 0x80<<7 {
			r.num, r.typ, r.at = uint64(tag>>3), tag&7, pos
			switch {
			case r.typ == wireVarint:
				r.u = u
				return p, nil
			case r.typ == wireBytes && u <= uint64(end-p):
				r.lo, r.hi = p, p+int(u)
				return r.hi, nil
			}
		}
	}
	return r.nextOfAnyForm(pos, end)
}

func (r *wireReader) nextOfAnyForm(pos, end int) (int, error) {
	r.at = pos
	tag, p := r.varint(pos, end)
	if p < 0 {
		return 0, corrupt(pos, "field tag is no varint")
	}
	r.num, r.typ = tag>>3, byte(tag&7)
	switch r.typ {
	case wireVarint:
		if r.u, p = r.varint(p, end); p < 0 {
			return 0, corrupt(pos, "field %d is no varint of 64 bits", r.num)
		}
	case wireBytes:
		n, q := r.varint(p, end)
		if q < 0 {
			return 0, corrupt(pos, "length of field %d is no varint", r.num)
		}
		if n > uint64(end-q) {
			return 0, corrupt(pos, "field %d has %d bytes, its message only %d more", r.num, n, end-q)
		}
		r.lo, r.hi = q, q+int(n)
		p = r.hi
	case wire64, wire32:
		n := 8
		if r.typ == wire32 {
			n = 4
		}
		if n > end-p {
			return 0, corrupt(pos, "field %d has %d bytes, its message only %d more", r.num, n, end-p)
		}
		p += n
	default:
		return 0, corrupt(pos, "field %d has wire type %d, which pprof does not use", r.num, r.typ)
	}
	return p, nil
}

// want says that the field of the message called what must have type typ.
func (r *wireReader) want(typ byte, what string) error {
	if r.typ != typ {
		return corrupt(r.at, "%s: field %d has wire type %d, want %d", what, r.num, r.typ, typ)
	}
	return nil
}

// idTable maps the identifiers of a message to indexes. Almost every writer
// counts from 1, so almost every look-up is one array's.
type idTable struct {
	dense  []uint32 // id -> index+1
	sparse map[uint64]uint32
}

// init makes t ready for n identifiers.
func (t *idTable) init(n int) { t.dense = zeroed(t.dense, n+n/8+2) }

// varints reads the numbers of fields 1 to len(dst) from pos, as long as each is
// one of them, with a tag of one byte and a number of at most nine. It says where the first field that is not so starts; what
// that is, and what is wrong with it, is for [wireReader.next] to say.
func varints(b []byte, pos int, dst []uint64) int {
	for pos+1 < len(b) {
		tag, u, p := b[pos], uint64(b[pos+1]), pos+2
		i := int(tag>>3) - 1
		if tag&0x87 != wireVarint || uint(i) >= uint(len(dst)) {
			return pos
		}
		if u >= 0x80 {
			u &= 0x7f
			for s := 7; ; s += 7 {
				if p >= len(b) || s > 56 {
					return pos
				}
				c := b[p]
				p++
				u |= uint64(c&0x7f) << s
				if c < 0x80 {
					break
				}
			}
		}
		dst[i], pos = u, p
	}
	return pos
}

// set says whether id was free.
func (t *idTable) set(id uint64, index uint32) bool {
	if id < uint64(len(t.dense)) {
		free := t.dense[id] == 0
		t.dense[id] = index + 1
		return free
	}
	if t.sparse == nil {
		t.sparse = map[uint64]uint32{}
	}
	_, taken := t.sparse[id]
	t.sparse[id] = index + 1
	return !taken
}

// get is index+1, or 0 if there is no such id.
func (t *idTable) get(id uint64) uint32 {
	if id < uint64(len(t.dense)) {
		return t.dense[id]
	}
	return t.sparse[id]
}
