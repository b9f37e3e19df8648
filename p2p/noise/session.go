package noise

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/flynn/noise"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A frame is two bytes of length, big endian, and as many bytes: a message of Noise, whose last 16 are its tag.
const (
	headSize = 2
	tagSize  = 16
	maxFrame = 1<<16 - 1
	maxPlain = maxFrame - tagSize
)

// session is a connection whose handshake is done. One goroutine may read while another writes.
type session struct {
	net.Conn // what bears the frames: its addresses and deadlines are ours, too

	transport *Transport
	remote    peer.ID
	remoteKey crypto.PubKey
	state     network.ConnectionState

	reading sync.Mutex // guards what follows
	open    *noise.CipherState
	in      []byte // what came, of the pool; nil where nothing has been read, and after Close
	at, end int    // in[at:end] came and was not opened
	plain   []byte // opened, and not read; it lies in in[:at]
	broken  error  // nothing is read after it

	writing sync.Mutex // guards what follows
	seal    *noise.CipherState
	cut     error // nothing is written after it
}

// Read is net.Conn's. After a deadline has passed it can go on: no byte is lost.
func (s *session) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	for len(s.plain) == 0 {
		if s.broken != nil {
			return 0, s.broken
		}
		message, err := s.frame(maxFrame)
		if err != nil {
			return 0, err
		}
		if len(message) < tagSize {
			s.broken = fmt.Errorf("noise: a frame of %d bytes, and a tag alone has %d", len(message), tagSize)
			return 0, s.broken
		}
		into, direct := message[:0], len(p) >= len(message)-tagSize
		if direct {
			into = p[:0]
		}
		plain, err := s.open.Decrypt(into, nil, message)
		if err != nil {
			s.broken = fmt.Errorf("noise: what came is not what the peer sent: %w", err)
			return 0, s.broken
		}
		if direct && len(plain) > 0 { // an empty frame is passed over: a read of none is no read
			return len(plain), nil
		}
		s.plain = plain
	}
	n := copy(p, s.plain)
	s.plain = s.plain[n:]
	return n, nil
}

// frame is the message of the next frame, at most limit bytes. It lies in s.in and holds until the next call. What has come of it stays where the
// connection fails.
func (s *session) frame(limit int) ([]byte, error) {
	need := headSize
	for {
		if have := s.end - s.at; have >= headSize {
			size := int(binary.BigEndian.Uint16(s.in[s.at:]))
			if size > limit {
				return nil, fmt.Errorf("a message of %d bytes, more than %d", size, limit)
			}
			if need = headSize + size; have >= need {
				message := s.in[s.at+headSize : s.at+need]
				s.at += need
				return message, nil
			}
		}
		s.room(need)
		n, err := s.Conn.Read(s.in[s.end:])
		s.end += n
		switch {
		case n > 0: // if there is an error it comes again
		case err == io.EOF && s.end > s.at:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
	}
}

// room has s.in hold need bytes from s.at on. Between frames it is a small buffer again, so that a connection on which nothing comes holds little.
func (s *session) room(need int) {
	if s.at == s.end {
		s.at, s.end = 0, 0
	}
	switch idle := s.end == 0; {
	case len(s.in) < need || idle && len(s.in) > small && need <= small:
		in := get(need)
		s.end = copy(in, s.in[s.at:s.end])
		s.at = 0
		put(s.in)
		s.in = in
	case len(s.in)-s.at < need:
		s.end = copy(s.in, s.in[s.at:s.end])
		s.at = 0
	}
}

// Write is net.Conn's. After an error nothing can be written any more, a deadline's included: the other side would miss a part of a frame.
func (s *session) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.cut != nil {
		return 0, fmt.Errorf("noise: an earlier write failed: %w", s.cut)
	}
	buf := get(headSize + min(len(p), maxPlain) + tagSize)
	defer put(buf)
	written := 0
	for written < len(p) {
		part := p[written:min(written+maxPlain, len(p))]
		frame, err := s.seal.Encrypt(buf[:headSize], nil, part)
		if err != nil {
			s.cut = err
			return written, err
		}
		binary.BigEndian.PutUint16(frame, uint16(len(frame)-headSize))
		if _, err := s.Conn.Write(frame); err != nil {
			s.cut = err
			return written, err
		}
		written += len(part)
	}
	return written, nil
}

// Close closes the connection. Reads and writes that wait end.
func (s *session) Close() error {
	err := s.Conn.Close()
	s.reading.Lock() // whoever reads does no longer
	defer s.reading.Unlock()
	put(s.in)
	s.in, s.at, s.end, s.plain = nil, 0, 0, nil
	if s.broken == nil {
		s.broken = net.ErrClosed
	}
	return err
}

func (s *session) LocalPeer() peer.ID { return s.transport.local }

func (s *session) RemotePeer() peer.ID { return s.remote }

func (s *session) RemotePublicKey() crypto.PubKey { return s.remoteKey }

// ConnState tells what multiplexer the handshake has chosen, if any. What the connection goes over is not known here.
func (s *session) ConnState() network.ConnectionState { return s.state }

// small is the size of the buffer that every connection holds, bytes. The other size is a whole frame's.
const small = 4 << 10

var (
	smalls = sync.Pool{New: func() any { return new([small]byte) }}
	frames = sync.Pool{New: func() any { return new([headSize + maxFrame]byte) }}
)

// get is a buffer of n bytes or more, at most a frame's.
func get(n int) []byte {
	if n <= small {
		return smalls.Get().(*[small]byte)[:]
	}
	return frames.Get().(*[headSize + maxFrame]byte)[:]
}

// put gives back what get gave, whole.
func put(buf []byte) {
	switch len(buf) {
	case small:
		smalls.Put((*[small]byte)(buf))
	case headSize + maxFrame:
		frames.Put((*[headSize + maxFrame]byte)(buf))
	}
}
