package noise

import (
	"context"
	"io"
	mrand "math/rand/v2"
	"net"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
)

// recorded keeps what is written.
type recorded struct {
	net.Conn
	bytes []byte
}

func (r *recorded) Write(p []byte) (int, error) {
	r.bytes = append(r.bytes, p...)
	return r.Conn.Write(p)
}

// FuzzHandshake: whatever comes from outside in a handshake, as the initiator and as the responder, ends it with an error, but a payload whose identity
// has signed the key of its handshake. Bytes are what comes as it is (sealed false), and a payload in a handshake that is sound but for it.
func FuzzHandshake(f *testing.F) {
	bob := identity(f, crypto.Ed25519, 2)
	own, err := x25519DH{}.GenerateKeypair(mrand.NewChaCha8([32]byte{5}))
	if err != nil {
		f.Fatal(err)
	}
	tr := ours(f, identity(f, crypto.Ed25519, 1), "/yamux/1.0.0")
	a, b := net.Pipe()
	ra, rb := &recorded{Conn: a}, &recorded{Conn: b}
	pair(f, tr, theirs(f, bob, "/yamux/1.0.0"), ra, rb, idOf(f, bob))
	good, err := sign(bob, own.Public, tr.(*Transport).muxers)
	if err != nil {
		f.Fatal(err)
	}
	for _, initiator := range []bool{true, false} {
		f.Add(initiator, false, ra.bytes)
		f.Add(initiator, false, rb.bytes)
		f.Add(initiator, true, good)
		f.Add(initiator, true, tr.(*Transport).payload)
	}
	f.Fuzz(func(t *testing.T, initiator, sealed bool, from []byte) {
		if len(from) > 16<<10 {
			return
		}
		a, b := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if sealed {
				stranger(b, !initiator, own, from)
				return
			}
			go io.Copy(io.Discard, b)
			b.Write(from)
			b.Close()
		}()
		secure := tr.SecureInbound
		if initiator {
			secure = tr.SecureOutbound
		}
		conn, err := secure(context.Background(), a, idOf(t, bob))
		a.Close()
		<-done
		if err != nil {
			return
		}
		key, muxers, err := verify(from, own.Public)
		if !sealed || err != nil || !key.Equals(bob.GetPublic()) || conn.RemotePeer() != idOf(t, bob) || len(muxers) > maxMuxers {
			t.Errorf("a session with %v, sealed %v: %v", conn.RemotePeer(), sealed, err)
		}
	})
}
