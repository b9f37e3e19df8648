// Package channel is what a host and a handler in a sandbox say to each other, over two pipes: frames of bounded size.
//
// A frame is a kind (1 byte), the length of what follows (4 bytes, big endian, at most [MaxFrame]) and that many bytes. The handler
// begins with one Hello, whose payload is the protocol's version (1 byte). Then the host makes calls, one at a time: Data frames and an
// End; the handler answers with Data frames and an End, or with a Fail whose payload says why. Both may speak at once, so a call can be a
// stream. A Ping, between calls, is sent back as it came. Whoever finds a frame that may not be there ends the session.
//
// The package is small and of the standard library only, as handlers are built with it, for WebAssembly as well.
package channel

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Version is the protocol's, as it is in Hello.
const Version = 1

// MaxFrame is the most bytes that a frame carries: what either side must have room for.
const MaxFrame = 64 << 10

// HeaderSize is the bytes of a frame before its payload.
const HeaderSize = 5

// Kind says what a frame is.
type Kind byte

// Kinds of frames.
const (
	Hello Kind = 1 // the handler is ready
	Data  Kind = 2 // a part of a call or of its answer
	End   Kind = 3 // the call, or its answer, is whole
	Fail  Kind = 4 // the handler has no answer; why
	Ping  Kind = 5 // are you there
)

// ErrCorrupt says that the other side does not keep to the protocol.
var ErrCorrupt = errors.New("the channel's bytes are no frames of the protocol")

// MaxFailText is the most bytes of a Fail that are kept.
const MaxFailText = 4 << 10

// A Reader reads frames. It keeps one buffer of [MaxFrame].
type Reader struct {
	r   io.Reader
	buf []byte
}

// NewReader reads frames from r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r, buf: make([]byte, HeaderSize+MaxFrame)} }

// Read returns the next frame. The payload is valid until the next call. At the end of the stream, between frames, it returns io.EOF.
func (r *Reader) Read() (Kind, []byte, error) {
	head := r.buf[:HeaderSize]
	if _, err := io.ReadFull(r.r, head); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: they end within a frame", ErrCorrupt)
		}
		return 0, nil, err
	}
	kind, n := Kind(head[0]), binary.BigEndian.Uint32(head[1:])
	if kind < Hello || kind > Ping {
		return 0, nil, fmt.Errorf("%w: kind %d", ErrCorrupt, kind)
	}
	if n > MaxFrame {
		return 0, nil, fmt.Errorf("%w: a frame of %d bytes, the limit is %d", ErrCorrupt, n, MaxFrame)
	}
	payload := r.buf[HeaderSize : HeaderSize+n]
	if _, err := io.ReadFull(r.r, payload); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: they end within a frame", ErrCorrupt)
		}
		return 0, nil, err
	}
	return kind, payload, nil
}

// Write writes one frame, in one write. A payload of more than [MaxFrame] is an error, not cut.
func Write(w io.Writer, kind Kind, payload []byte) error {
	if len(payload) > MaxFrame {
		return fmt.Errorf("a frame of %d bytes, the limit is %d", len(payload), MaxFrame)
	}
	b := make([]byte, HeaderSize+len(payload))
	b[0] = byte(kind)
	binary.BigEndian.PutUint32(b[1:], uint32(len(payload)))
	copy(b[HeaderSize:], payload)
	_, err := w.Write(b)
	return err
}

// Serve is a handler's whole life: it says Hello, answers each call with handle, and returns nil when r ends. handle reads the call from
// in until io.EOF, and writes the answer; what it leaves unread is thrown away. Its error becomes a Fail, and the next call is served.
func Serve(r io.Reader, w io.Writer, handle func(in io.Reader, out io.Writer) error) error {
	if err := Write(w, Hello, []byte{Version}); err != nil {
		return err
	}
	frames := NewReader(r)
	for {
		kind, payload, err := frames.Read()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case kind == Ping:
			err = Write(w, Ping, payload)
		case kind == Data || kind == End:
			err = serveCall(&callReader{frames: frames, rest: payload, last: kind == End}, w, handle)
		default:
			err = fmt.Errorf("%w: the host sent kind %d", ErrCorrupt, kind)
		}
		if err != nil {
			return err
		}
	}
}

func serveCall(in *callReader, w io.Writer, handle func(io.Reader, io.Writer) error) error {
	out := bufio.NewWriterSize(dataWriter{w}, MaxFrame)
	failed := handle(in, out)
	if in.broken != nil {
		return in.broken // the host is gone or confused: nobody waits for an answer
	}
	if failed == nil {
		failed = out.Flush()
	}
	end, text := End, ""
	if failed != nil {
		end, text = Fail, failed.Error()
		text = text[:min(len(text), MaxFailText)]
	}
	if err := Write(w, end, []byte(text)); err != nil {
		return err
	}
	// Only now: the host may stop sending when it has the answer.
	_, err := io.Copy(io.Discard, in)
	return err
}

// callReader is the bytes of one call.
type callReader struct {
	frames *Reader
	rest   []byte
	last   bool  // rest is the last of it
	broken error // the stream cannot be read any further
}

func (c *callReader) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		if c.broken != nil {
			return 0, c.broken
		}
		if c.last {
			return 0, io.EOF
		}
		kind, payload, err := c.frames.Read()
		switch {
		case errors.Is(err, io.EOF):
			c.broken = fmt.Errorf("%w: they end within a call", ErrCorrupt)
		case err != nil:
			c.broken = err
		case kind == Data || kind == End:
			c.rest, c.last = payload, kind == End
		default:
			c.broken = fmt.Errorf("%w: kind %d within a call", ErrCorrupt, kind)
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

type dataWriter struct{ w io.Writer }

func (d dataWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		part := p[done:min(done+MaxFrame, len(p))]
		if err := Write(d.w, Data, part); err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, nil
}
