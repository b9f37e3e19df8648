package integrity

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Bounds of a look.
const (
	maxNames = 4 << 20  // in one folder, which are sorted in memory
	maxDepth = 512      // folders below a root, each of which is open while what is in it is walked
	maxBytes = 64 << 30 // of one file
	chunk    = 128 << 10
)

var (
	errMoved = errors.New("it changed while it was looked at")
	errNames = fmt.Errorf("it has more than %d names", maxNames)
)

// hasher is what one worker hashes with.
type hasher struct {
	h    hash.Hash
	buf  []byte
	pace *pacer
	read int64 // bytes, so far
}

func newHasher(a Algorithm, p *pacer) *hasher {
	return &hasher{h: a.new(), buf: make([]byte, chunk), pace: p}
}

// of is the hash of b.
func (h *hasher) of(b []byte) (sum Hash) {
	h.h.Reset()
	h.h.Write(b)
	h.h.Sum(sum[:0])
	return sum
}

// sum hashes what read gives into e, which must be as many bytes as e says.
func (h *hasher) sum(ctx context.Context, read func([]byte) (int, error), e *Entry) error {
	if e.Size > maxBytes {
		return fmt.Errorf("it has %d bytes, and more than %d are not hashed", e.Size, int64(maxBytes))
	}
	h.h.Reset()
	left := e.Size
	for {
		if err := h.pace.wait(ctx, int(min(left, chunk))); err != nil {
			return err
		}
		n, err := read(h.buf)
		if n > 0 {
			if left -= int64(n); left < 0 {
				return errMoved
			}
			h.h.Write(h.buf[:n])
			h.read += int64(n)
		}
		if err != nil && err != io.EOF {
			return err
		}
		if n <= 0 {
			break
		}
		if left == 0 && n < len(h.buf) {
			break // fstat says so, and asks again behind it
		}
	}
	if left > 0 {
		return errMoved
	}
	h.h.Sum(e.Hash[:0])
	return nil
}
