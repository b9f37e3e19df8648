package noise

import (
	"fmt"
	"io"

	"github.com/flynn/noise"
	"github.com/oasisprotocol/curve25519-voi/primitives/x25519"
)

// X25519 is Noise's Diffie-Hellman function 25519 (revision 34, section 12.1). flynn/noise's own makes the public key anew at every step.
var X25519 noise.DHFunc = x25519DH{}

// suite is the only one that the spec has.
var suite = noise.NewCipherSuite(X25519, noise.CipherChaChaPoly, noise.HashSHA256)

// x25519DH is X25519 (RFC 7748, section 5) as Noise has it, under the name 25519.
type x25519DH struct{}

// GenerateKeypair makes a key of 32 bytes of random.
func (x25519DH) GenerateKeypair(random io.Reader) (noise.DHKey, error) {
	var private, public [32]byte
	if _, err := io.ReadFull(random, private[:]); err != nil {
		return noise.DHKey{}, err
	}
	x25519.ScalarBaseMult(&public, &private)
	return noise.DHKey{Private: private[:], Public: public[:]}, nil
}

// DH is the secret that both share, 32 bytes. A public key of low order, which makes it all zero whatever the private key is, is refused (RFC 7748,
// section 6.1): it would let the other side choose the secret.
func (x25519DH) DH(private, public []byte) ([]byte, error) {
	secret, err := x25519.X25519(private, public)
	if err != nil {
		return nil, fmt.Errorf("the other side's X25519 key: %w", err)
	}
	return secret, nil
}

func (x25519DH) DHLen() int { return 32 }

func (x25519DH) DHName() string { return "25519" }
