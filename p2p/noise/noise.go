// Package noise is libp2p's Noise security transport (the spec is noise/README.md of libp2p's specs): Noise_XX_25519_ChaChaPoly_SHA256, in which each
// side's Noise key is signed by its libp2p identity. On the wire it is go-libp2p's own; what differs is what a connection costs. The Diffie-Hellman
// function is curve25519-voi's X25519, where flynn/noise takes one that makes the public key anew at every step; the Noise key is made and signed once
// for all connections, as the spec allows; identities of Ed25519 are verified by seal's rule; and the handshake has no goroutine of its own.
package noise

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/flynn/noise"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	tptu "github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/security/noise/pb"
	"google.golang.org/protobuf/proto"
)

// ID is the transport's name in the negotiation of security protocols.
const ID = "/noise"

// Transport secures connections as one peer. It may be used by any number of goroutines.
type Transport struct {
	id       protocol.ID
	local    peer.ID
	identity crypto.PrivKey
	muxers   []protocol.ID // by preference
	// static is the Noise key, of this process alone: it is as secret as the identity that lies beside it in memory, and each session has keys that
	// are forgotten besides.
	static noise.DHKey
	// payload is what every handshake of ours says: the identity, its signature of static, and muxers.
	payload []byte
}

// New makes the transport of a peer that has an identity and these multiplexers, by preference; id is the transport's name (ID). It is a constructor
// for libp2p.Security.
func New(id protocol.ID, identity crypto.PrivKey, muxers []tptu.StreamMuxer) (*Transport, error) {
	t := &Transport{id: id, identity: identity}
	for _, m := range muxers {
		t.muxers = append(t.muxers, m.ID)
	}
	var err error
	if t.local, err = peer.IDFromPrivateKey(identity); err != nil {
		return nil, fmt.Errorf("noise: the identity has no peer id: %w", err)
	}
	if t.static, err = (x25519DH{}).GenerateKeypair(rand.Reader); err != nil {
		return nil, fmt.Errorf("noise: no key: %w", err)
	}
	if t.payload, err = sign(identity, t.static.Public, t.muxers); err != nil {
		return nil, err
	}
	return t, nil
}

// sign is the payload of a handshake: an identity and its signature of a Noise key.
func sign(identity crypto.PrivKey, static []byte, muxers []protocol.ID) ([]byte, error) {
	key, err := crypto.MarshalPublicKey(identity.GetPublic())
	if err != nil {
		return nil, fmt.Errorf("noise: the identity's public key: %w", err)
	}
	signature, err := identity.Sign(signed(static))
	if err != nil {
		return nil, fmt.Errorf("noise: the identity does not sign: %w", err)
	}
	payload, err := proto.Marshal(&pb.NoiseHandshakePayload{
		IdentityKey: key, IdentitySig: signature,
		Extensions: &pb.NoiseExtensions{StreamMuxers: protocol.ConvertToStrings(muxers)},
	})
	if err != nil {
		return nil, fmt.Errorf("noise: the handshake's payload: %w", err)
	}
	if len(payload) > maxHandshake-handshakeKeys {
		return nil, fmt.Errorf("noise: identity and multiplexers take %d bytes of the handshake, which has room for %d", len(payload), maxHandshake-handshakeKeys)
	}
	return payload, nil
}

// signed is what the identity signs.
func signed(static []byte) []byte { return append([]byte("noise-libp2p-static-key:"), static...) }

// ID is the transport's name.
func (t *Transport) ID() protocol.ID { return t.id }

// SecureInbound is the handshake as the one that was dialed. Where p is not empty the other side must be p, else the error is a sec.ErrPeerIDMismatch.
// Where there is an error, or ctx ends first, the connection is closed.
func (t *Transport) SecureInbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	return t.secure(ctx, insecure, p, false)
}

// SecureOutbound is the handshake as the one that dialed p. It is as SecureInbound, but that p must be known.
func (t *Transport) SecureOutbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	if p == "" {
		_ = insecure.Close()
		return nil, errors.New("noise: who dials must say whom: the peer id is empty")
	}
	return t.secure(ctx, insecure, p, true)
}

func (t *Transport) secure(ctx context.Context, insecure net.Conn, p peer.ID, initiator bool) (sec.SecureConn, error) {
	s := &session{Conn: insecure, transport: t, remote: p}
	// The connection is closed when ctx ends, its deadline with it: so none is set, and none has to be taken back.
	stop := context.AfterFunc(ctx, func() { _ = insecure.Close() })
	err := s.handshake(initiator)
	if !stop() {
		err = ctx.Err() // what else went wrong came of it
	}
	if err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("noise: handshake with %v: %w", insecure.RemoteAddr(), err)
	}
	return s, nil
}

// chosen is the multiplexer of both: the first of the initiator's that the responder has, and none where there is none.
func chosen(initiator, responder []protocol.ID) protocol.ID {
	for _, m := range initiator {
		if slices.Contains(responder, m) {
			return m
		}
	}
	return ""
}
