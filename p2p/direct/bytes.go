package direct

import (
	"encoding/binary"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/seal"
)

// scan reads fields of fixed order from bytes that came from outside, integers big endian. After a field that is not there everything is
// zero and bad is set, so that a decoder asks once, at its end.
type scan struct {
	b   []byte
	bad bool
}

func (s *scan) next(n int) []byte {
	if n < 0 || n > len(s.b) {
		s.b, s.bad = nil, true
		return nil
	}
	out := s.b[:n:n]
	s.b = s.b[n:]
	return out
}

func (s *scan) u8() byte {
	if b := s.next(1); b != nil {
		return b[0]
	}
	return 0
}

func (s *scan) u16() uint16 {
	if b := s.next(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (s *scan) u32() uint32 {
	if b := s.next(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (s *scan) u64() uint64 {
	if b := s.next(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (s *scan) key() (k seal.PublicKey) {
	copy(k[:], s.next(len(k)))
	return k
}

// rest is all that is left.
func (s *scan) rest() []byte { return s.next(len(s.b)) }

// done is an error unless everything was there and nothing is left.
func (s *scan) done(what string) error {
	switch {
	case s.bad:
		return fmt.Errorf("%w: %s ends too early", ErrCorrupt, what)
	case len(s.b) > 0:
		return fmt.Errorf("%w: %s has %d bytes too many", ErrCorrupt, what, len(s.b))
	}
	return nil
}

// What stands before an Ed25519 key in a libp2p peer id (libp2p specification, peer-ids.md): an identity multihash of the key's protobuf.
const idPrefix = "\x00\x24\x08\x01\x12\x20"

// idOf is the peer id of a key.
func idOf(k seal.PublicKey) peer.ID { return peer.ID(idPrefix + string(k[:])) }

// keyOf is the key of a peer id. Ids of other kinds of keys are refused: nothing could be sealed to them.
func keyOf(p peer.ID) (k seal.PublicKey, err error) {
	if len(p) != len(idPrefix)+len(k) || string(p[:len(idPrefix)]) != idPrefix {
		return k, fmt.Errorf("the id %q is not that of an Ed25519 key", p)
	}
	copy(k[:], p[len(idPrefix):])
	return k, nil
}

func appendKey(b []byte, p peer.ID) []byte { return append(b, p[len(idPrefix):]...) }
