package noise

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/flynn/noise"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/security/noise/pb"
	"google.golang.org/protobuf/proto"

	"github.com/quantra-l/quantra/seal"
)

const (
	// maxHandshake bounds a message of the handshake, bytes. The largest identity that libp2p takes is RSA's of 8,192 bits: about 1 KiB of key and as
	// much of signature; the rest is for names of multiplexers.
	maxHandshake = 8 << 10
	// handshakeKeys is what the second message, the longest, has beside its payload: an ephemeral key, a static key with its tag, the payload's tag.
	handshakeKeys = 32 + 32 + tagSize + tagSize
	// maxMuxers bounds the multiplexers that are looked at. Of who names more, none is: go-libp2p's rule.
	maxMuxers = 100
)

// handshake is XX: e to the responder, e ee s es back, s se to it. The second message and the third bear who sent them.
// A panic of a library over what came is an error: the connection is lost, and not the node.
func (s *session) handshake(initiator bool) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	state, err := noise.NewHandshakeState(noise.Config{CipherSuite: suite, Pattern: noise.HandshakeXX, Initiator: initiator, StaticKeypair: s.transport.static})
	if err != nil {
		return err
	}
	if initiator {
		if err := s.send(state, initiator, nil); err != nil {
			return fmt.Errorf("first message: %w", err)
		}
		if err := s.meet(state, initiator); err != nil {
			return fmt.Errorf("second message: %w", err)
		}
		if err := s.send(state, initiator, s.transport.payload); err != nil {
			return fmt.Errorf("third message: %w", err)
		}
		return nil
	}
	if _, err := s.receive(state, initiator); err != nil { // a payload here is nobody's yet
		return fmt.Errorf("first message: %w", err)
	}
	if err := s.send(state, initiator, s.transport.payload); err != nil {
		return fmt.Errorf("second message: %w", err)
	}
	if err := s.meet(state, initiator); err != nil {
		return fmt.Errorf("third message: %w", err)
	}
	return nil
}

// send sends the next message of the handshake.
func (s *session) send(state *noise.HandshakeState, initiator bool, payload []byte) error {
	buf := get(headSize + handshakeKeys + len(payload))
	defer put(buf)
	message, first, second, err := state.WriteMessage(buf[:headSize], payload)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint16(message, uint16(len(message)-headSize))
	s.keep(initiator, first, second)
	_, err = s.Conn.Write(message)
	return err
}

// receive is the payload of the other side's next message.
func (s *session) receive(state *noise.HandshakeState, initiator bool) ([]byte, error) {
	message, err := s.frame(maxHandshake)
	if err != nil {
		return nil, err
	}
	payload, first, second, err := state.ReadMessage(nil, message)
	if err != nil {
		return nil, err
	}
	s.keep(initiator, first, second)
	return payload, nil
}

// keep has the keys of the session, which the last message of the handshake gives: the first is the initiator's to send with.
func (s *session) keep(initiator bool, first, second *noise.CipherState) {
	if !initiator {
		first, second = second, first
	}
	s.seal, s.open = first, second
}

// meet receives who the other side is, and chooses the multiplexer.
func (s *session) meet(state *noise.HandshakeState, initiator bool) error {
	payload, err := s.receive(state, initiator)
	if err != nil {
		return err
	}
	key, muxers, err := verify(payload, state.PeerStatic())
	if err != nil {
		return err
	}
	id, err := peer.IDFromPublicKey(key)
	if err != nil {
		return fmt.Errorf("its identity has no peer id: %w", err)
	}
	if s.remote != "" && s.remote != id {
		return sec.ErrPeerIDMismatch{Expected: s.remote, Actual: id}
	}
	muxer := chosen(s.transport.muxers, muxers)
	if !initiator {
		muxer = chosen(muxers, s.transport.muxers)
	}
	s.remote, s.remoteKey = id, key
	s.state = network.ConnectionState{Security: s.transport.id, StreamMultiplexer: muxer, UsedEarlyMuxerNegotiation: muxer != ""}
	return nil
}

// verify is the identity and the multiplexers of a payload, which came with a static key of Noise.
func verify(payload, static []byte) (crypto.PubKey, []protocol.ID, error) {
	var said pb.NoiseHandshakePayload
	if err := proto.Unmarshal(payload, &said); err != nil {
		return nil, nil, fmt.Errorf("its payload: %w", err)
	}
	key, err := crypto.UnmarshalPublicKey(said.GetIdentityKey())
	if err != nil {
		return nil, nil, fmt.Errorf("its identity key: %w", err)
	}
	if err := verifySignature(key, signed(static), said.GetIdentitySig()); err != nil {
		return nil, nil, err
	}
	muxers := said.GetExtensions().GetStreamMuxers()
	if len(muxers) > maxMuxers {
		muxers = nil
	}
	return key, protocol.ConvertFromStrings(muxers), nil
}

// verifySignature verifies what an identity has signed: Ed25519 as everywhere in this program, by seal's rule, which is also the faster one; other
// kinds of keys as libp2p does.
func verifySignature(key crypto.PubKey, message, signature []byte) error {
	ok, err := false, error(nil)
	if raw, rawErr := key.Raw(); key.Type() == crypto.Ed25519 && rawErr == nil && len(raw) == seal.PublicKeySize {
		ok = len(signature) == seal.SignatureSize && seal.PublicKey(raw).VerifyNote(message, seal.Signature(signature)) == nil
	} else {
		ok, err = key.Verify(message, signature)
	}
	switch {
	case err != nil:
		return fmt.Errorf("its identity's signature of its Noise key: %w", err)
	case !ok:
		return errors.New("its identity has not signed its Noise key")
	}
	return nil
}
