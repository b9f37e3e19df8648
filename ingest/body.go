package ingest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/quantra-l/quantra/profile"
)

// budget is the bytes that all requests together may hold.
type budget struct {
	limit int64 // negative is none
	used  atomic.Int64
}

// hold is one request's part of a budget, its tenant, and its signature, which its body must fit. One goroutine at a time.
type hold struct {
	*budget
	n       int64
	signed  *signed // nil where it is not signed
	tenant  string
	method  string // of HTTP, that its route has
	leave   func() // gives back its place among the requests at work; nil where it has none
	length  int64  // that the request claims for its body, negative where it does not
	arrived int64  // bytes of the body as they came
}

// grow takes n more bytes, or says that there is no room. Who is alone may
// take any number: a profile within its own limits always gets through
// sometime, even where it is larger than the whole budget.
func (h *hold) grow(n int64) error {
	for {
		used := h.used.Load()
		if h.limit >= 0 && used+n > h.limit && used != h.n {
			return busy("the server holds %d bytes of uploads already, and may hold %d", used, h.limit)
		}
		if h.used.CompareAndSwap(used, used+n) {
			h.n += n
			return nil
		}
	}
}

func (h *hold) release() {
	h.used.Add(-h.n)
	h.n = 0
}

// undeadline lifts the read deadline when the body has been read: what follows
// (waiting for the disk) is not the sender's fault, and the server itself still
// reads the connection to see whether the sender is there.
type undeadline struct {
	io.ReadCloser
	rc *http.ResponseController
}

func (u *undeadline) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if err == io.EOF {
		_ = u.rc.SetReadDeadline(time.Time{}) // it could be set, so it can be lifted
	}
	return n, err
}

// read reads all of r, at most limit bytes (negative is no limit), and takes
// each byte from the budget before it allocates it. size is a guess at the length,
// -1 for none: a claim that costs nothing, so it is believed only by 64 KiB ahead.
func (h *hold) read(r io.Reader, size, limit int64) ([]byte, error) {
	const ahead = 64 << 10
	var buf []byte
	for {
		if len(buf) == cap(buf) {
			want := int64(max(ahead, 2*cap(buf)))
			if size >= int64(len(buf)) && want > size+1 { // one more, so that EOF is seen without growing
				want = size + 1
			}
			if want <= int64(cap(buf)) {
				want = int64(2 * cap(buf))
			}
			if err := h.grow(want - int64(cap(buf))); err != nil {
				return nil, err
			}
			next := make([]byte, len(buf), want)
			copy(next, buf)
			buf = next
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if limit >= 0 && int64(len(buf)) > limit {
			return nil, &http.MaxBytesError{Limit: limit}
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

var (
	magicGzip = []byte{0x1f, 0x8b}
	magicZstd = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

func packed(b []byte) bool { return bytes.HasPrefix(b, magicGzip) || bytes.HasPrefix(b, magicZstd) }

// arrive reads a request's body as it came, and checks the signature over it.
func (in *Ingest) arrive(r *http.Request, h *hold) ([]byte, error) {
	limit := in.opt.Limits.Compressed
	if limit >= 0 && r.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	b, err := h.read(r.Body, r.ContentLength, limit)
	if err != nil {
		return nil, err
	}
	h.arrived = int64(len(b))
	if h.signed != nil {
		if err := h.signed.finish(b); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// encodingOf is what a header says that a body is packed with: gzip, zstd or "".
func encodingOf(header string) (string, error) {
	switch enc := strings.ToLower(strings.TrimSpace(header)); enc {
	case "gzip", "zstd":
		return enc, nil
	case "", "identity":
		return "", nil
	default:
		return "", faultf(http.StatusUnsupportedMediaType, "content_encoding", "Content-Encoding %.40q is not understood: send gzip, zstd or none", enc)
	}
}

// body reads a request's body. A Content-Encoding is undone, but for one case:
// where the body is a profile and was packed once only, it is left as it is, for a
// packed profile is what Append wants (wrapped says that it is something else).
func (in *Ingest) body(r *http.Request, h *hold, wrapped bool) ([]byte, error) {
	enc, err := encodingOf(r.Header.Get("Content-Encoding"))
	if err != nil {
		return nil, err
	}
	b, err := in.arrive(r, h)
	if err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return nil, faultf(http.StatusBadRequest, "empty", "the body is empty: send the bytes of a profile")
	}
	// Senders that mean "the file is gzip" set the header too; then there is nothing to undo twice.
	if enc == "" || !packed(b) {
		return b, nil
	}
	return undo(h, enc, b, in.opt.Limits.Compressed, !wrapped)
}

// undo unpacks what an encoding packed, to at most limit bytes. With onlyTwice it is left packed
// unless it was packed twice.
func undo(h *hold, enc string, b []byte, limit int64, onlyTwice bool) ([]byte, error) {
	bad := func(err error) error {
		return faultf(http.StatusBadRequest, "content_encoding", "Content-Encoding %s cannot be undone: %v", enc, err)
	}
	z, err := unpack(b)
	if err != nil {
		return nil, bad(err)
	}
	defer z.Close()
	var head [4]byte
	n, err := io.ReadFull(z, head[:])
	if onlyTwice && !packed(head[:n]) {
		return b, nil
	}
	if err != nil && (onlyTwice || err != io.EOF && err != io.ErrUnexpectedEOF) {
		return nil, bad(err)
	}
	inner, err := h.read(io.MultiReader(bytes.NewReader(head[:n]), z), -1, limit)
	var f *fault
	var long *http.MaxBytesError
	if err != nil && !errors.As(err, &f) && !errors.As(err, &long) {
		err = bad(err)
	}
	return inner, err
}

// unpack is a reader of what packed says is packed.
func unpack(b []byte) (io.ReadCloser, error) {
	if bytes.HasPrefix(b, magicGzip) {
		return gzip.NewReader(bytes.NewReader(b))
	}
	z, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}

// decode decodes b within the limits and the budget. What unpacking will yield
// is known only by the packer's claim, so that claim is taken from the budget
// and enforced; who claimed too little is charged the whole limit and decoded once more.
func (in *Ingest) decode(ctx context.Context, h *hold, b []byte) (*profile.Profile, error) {
	done, err := in.decoding(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	limit := in.opt.Limits.Decoded
	claim := claimed(b)
	if limit >= 0 && claim >= limit || claim <= 0 {
		claim = limit
	}
	if err := h.grow(max(claim, 0)); err != nil {
		return nil, err
	}
	lim := in.opt.Limits
	lim.Decoded = claim
	p, err := profile.DecodeBytes(b, lim)
	if claim == limit || !errors.Is(err, profile.ErrTooLarge) {
		return p, err
	}
	if err := h.grow(max(limit-claim, 0)); err != nil {
		return nil, err
	}
	lim.Decoded = limit
	return profile.DecodeBytes(b, lim)
}

// decoding waits for one of the decoders' places, which done gives back.
func (in *Ingest) decoding(ctx context.Context) (done func(), err error) {
	select {
	case in.decoders <- struct{}{}:
		return func() { <-in.decoders }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// claimed is the size that packed bytes say they will have, 0 where they do not say.
func claimed(b []byte) int64 {
	switch {
	case bytes.HasPrefix(b, magicGzip) && len(b) >= 18:
		return int64(binary.LittleEndian.Uint32(b[len(b)-4:])) // RFC 1952: ISIZE, modulo 2^32, of the last member
	case bytes.HasPrefix(b, magicZstd):
		var h zstd.Header
		if h.Decode(b) == nil && h.HasFCS && h.FrameContentSize < 1<<40 {
			return int64(h.FrameContentSize)
		}
		return 0
	}
	return int64(len(b))
}
