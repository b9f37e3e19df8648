package seal

import (
	"crypto/ed25519"
	"errors"

	voi "github.com/oasisprotocol/curve25519-voi/primitives/ed25519"
)

// SignNote signs a message that names its own kind, for the formats of others that have no domain: signed notes (C2SP signed-note), which
// begin with the name of their log. It is plain Ed25519; a key that signs notes should sign nothing else. Everything that is ours is
// signed by [Key.Sign].
func (k Key) SignNote(message []byte) (Signature, error) {
	var s Signature
	if len(k.private()) == 0 {
		return s, errors.New("signing with no key")
	}
	copy(s[:], ed25519.Sign(k.private(), message))
	return s, nil
}

// VerifyNote returns [ErrSignature] unless s is k's plain Ed25519 signature over the message, by the same cofactored rule as
// [PublicKey.Verify].
func (k PublicKey) VerifyNote(message []byte, s Signature) error {
	if !voi.VerifyWithOptions(k[:], message, s[:], &voi.Options{Verify: rule}) {
		return ErrSignature
	}
	return nil
}
