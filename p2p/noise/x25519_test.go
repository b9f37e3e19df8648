package noise

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	mrand "math/rand/v2"
	"net"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestVectors are RFC 7748's: section 5.2, the one of 1,000 rounds among them, and section 6.1.
func TestVectors(t *testing.T) {
	for _, v := range [][3]string{
		{"a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4", "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c", "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"},
		{"4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d", "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493", "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"},
	} {
		got, err := x25519DH{}.DH(unhex(t, v[0]), unhex(t, v[1]))
		if err != nil || hex.EncodeToString(got) != v[2] {
			t.Errorf("%s: %x, %v", v[0], got, err)
		}
	}
	// Of section 6.1: Alice's key pair, Bob's public key, what they share.
	key, err := x25519DH{}.GenerateKeypair(bytes.NewReader(unhex(t, "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")))
	if err != nil || hex.EncodeToString(key.Public) != "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a" {
		t.Errorf("Alice's public key: %x, %v", key.Public, err)
	}
	shared, err := x25519DH{}.DH(key.Private, unhex(t, "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"))
	if err != nil || hex.EncodeToString(shared) != "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742" {
		t.Errorf("what Alice and Bob share: %x, %v", shared, err)
	}
	k, u := make([]byte, 32), make([]byte, 32)
	k[0], u[0] = 9, 9
	for i := 1; i <= 1000; i++ {
		got, err := x25519DH{}.DH(k, u)
		if err != nil {
			t.Fatal(err)
		}
		k, u = got, k
		want := map[int]string{1: "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079", 1000: "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"}[i]
		if want != "" && hex.EncodeToString(k) != want {
			t.Errorf("after %d rounds: %x", i, k)
		}
	}
}

// TestAgainstStandard: keys and secrets are those of the standard library, which computes them in another way.
func TestAgainstStandard(t *testing.T) {
	random := mrand.NewChaCha8([32]byte{1})
	for range 50 {
		key, err := x25519DH{}.GenerateKeypair(random)
		if err != nil {
			t.Fatal(err)
		}
		own, err := ecdh.X25519().NewPrivateKey(key.Private)
		if err != nil || !bytes.Equal(own.PublicKey().Bytes(), key.Public) {
			t.Fatalf("%x: %x, %v", key.Private, key.Public, err)
		}
		point := make([]byte, 32) // on the curve, or on its twist, in canonical form or not
		random.Read(point)
		other, err := ecdh.X25519().NewPublicKey(point)
		if err != nil {
			t.Fatal(err)
		}
		want, err := own.ECDH(other)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := (x25519DH{}).DH(key.Private, point); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%x and %x: %x, %v", key.Private, point, got, err)
		}
	}
	if _, err := (x25519DH{}).GenerateKeypair(strings.NewReader("too short")); err == nil {
		t.Error("a key of nine bytes")
	}
}

// lowOrder are the points of small order, in all forms of 32 bytes: https://cr.yp.to/ecdh.html has them, section "How do I validate".
var lowOrder = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
	"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

// TestLowOrder: a point of low order is refused, the top bit set or not, and ends a handshake in either role, be it the ephemeral key or the static
// one.
func TestLowOrder(t *testing.T) {
	bob := identity(t, crypto.Ed25519, 2)
	tr := ours(t, identity(t, crypto.Ed25519, 1))
	own, err := x25519DH{}.GenerateKeypair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range lowOrder {
		for _, bit := range []byte{0, 0x80} {
			point := unhex(t, text)
			point[31] |= bit
			if got, err := (x25519DH{}).DH(own.Private, point); err == nil {
				t.Errorf("%x is taken: %x", point, got)
			}
			// As a dialer's first message.
			a, b := net.Pipe()
			go a.Write(append([]byte{0, 32}, point...))
			if _, err := tr.SecureInbound(t.Context(), b, ""); err == nil || !strings.Contains(err.Error(), "low order") {
				t.Errorf("%x as ephemeral key: %v", point, err)
			}
			a.Close()
			// As a static key, which the identity has signed well.
			payload, err := sign(bob, point, nil)
			if err != nil {
				t.Fatal(err)
			}
			key := own
			key.Public = point
			for _, initiator := range []bool{true, false} {
				a, b := net.Pipe()
				done := make(chan error, 1)
				go func() { done <- stranger(b, !initiator, key, payload) }()
				secure := tr.SecureInbound
				if initiator {
					secure = tr.SecureOutbound
				}
				if _, err := secure(t.Context(), a, idOf(t, bob)); err == nil || !strings.Contains(err.Error(), "low order") {
					t.Errorf("%x as static key, initiator %v: %v", point, initiator, err)
				}
				a.Close()
				<-done
			}
		}
	}
}
