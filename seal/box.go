package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
)

// A box's bytes (docs/format/box.md): a version, a salt, a commitment, and AES-256-GCM's output with its tag.
const (
	boxVersion    = 1
	boxSalt       = 32
	boxCommitment = 32
	boxTag        = 16
	boxHead       = 1 + boxSalt + boxCommitment

	// BoxKeySize is a key's bytes.
	BoxKeySize = 32
	// BoxOverhead is how much longer a box is than what is in it.
	BoxOverhead = boxHead + boxTag
	// MaxBox is what may be in a box, 1 MiB: it is opened in memory. Larger things are for [Encrypt].
	MaxBox = 1 << 20
)

// Box seals small values under one secret key: AES-256-GCM with a key and a nonce of its own for each value, drawn by HKDF-SHA-256 from
// the secret key and 32 random bytes. So no number of values brings a nonce back. A commitment beside it makes a box one of this
// key and context alone, which GCM by itself does not. It is safe for concurrent use.
type Box struct{ secret *boxSecret }

// boxSecret is behind two pointers, as that of [Key] is.
type boxSecret struct{ key *[BoxKeySize]byte }

// ErrBox says that a box was not sealed by this key in this context, or was changed.
var ErrBox = errors.New("the box does not open: another key, another context, or it was changed")

// NewBoxKey is a key of the system's randomness.
func NewBoxKey() []byte {
	k := make([]byte, BoxKeySize)
	rand.Read(k)
	return k
}

// NewBox is a box by a key of 32 bytes, of which it keeps a copy.
func NewBox(key []byte) (*Box, error) {
	if len(key) != BoxKeySize {
		return nil, fmt.Errorf("a box's key has %d bytes, not %d", BoxKeySize, len(key))
	}
	return &Box{&boxSecret{new([BoxKeySize]byte(key))}}, nil
}

// String shows no secret.
func (b *Box) String() string { return "seal.Box" }

// Format shows no secret, whatever the verb.
func (b *Box) Format(f fmt.State, _ rune) { io.WriteString(f, b.String()) }

// Seal seals a value of up to [MaxBox] bytes. The context says what it is for ("token of user 7"): it is not in the box, and a box
// opens in its context alone.
func (b *Box) Seal(value, context []byte) ([]byte, error) {
	salt := make([]byte, boxSalt)
	rand.Read(salt)
	return b.seal(salt, value, context)
}

func (b *Box) seal(salt, value, context []byte) ([]byte, error) {
	if len(value) > MaxBox {
		return nil, fmt.Errorf("a box holds %d bytes, not %d: larger things are for Encrypt", MaxBox, len(value))
	}
	aead, nonce, commitment, err := b.derive(salt, context)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(value)+BoxOverhead)
	out = append(out, boxVersion)
	out = append(out, salt...)
	out = append(out, commitment...)
	return aead.Seal(out, nonce, value, out[:boxHead]), nil
}

// Open is the value of a box. The error is [ErrBox].
func (b *Box) Open(sealed, context []byte) ([]byte, error) {
	if len(sealed) < BoxOverhead || len(sealed) > MaxBox+BoxOverhead || sealed[0] != boxVersion {
		return nil, ErrBox
	}
	aead, nonce, commitment, err := b.derive(sealed[1:1+boxSalt], context)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(commitment, sealed[1+boxSalt:boxHead]) != 1 {
		return nil, ErrBox
	}
	value, err := aead.Open(nil, nonce, sealed[boxHead:], sealed[:boxHead])
	if err != nil {
		return nil, ErrBox
	}
	return value, nil
}

// derive is a value's own cipher and nonce, and what the box shows of its key and context.
func (b *Box) derive(salt, context []byte) (aead cipher.AEAD, nonce, commitment []byte, err error) {
	const nonceSize = 12
	digest := sha256.Sum256(context)
	drawn, err := hkdf.Key(sha256.New, b.secret.key[:], salt, "quantra box v1"+string(digest[:]), BoxKeySize+nonceSize+boxCommitment)
	if err != nil {
		return nil, nil, nil, err
	}
	block, err := aes.NewCipher(drawn[:BoxKeySize])
	if err != nil {
		return nil, nil, nil, err
	}
	if aead, err = cipher.NewGCM(block); err != nil {
		return nil, nil, nil, err
	}
	clear(drawn[:BoxKeySize])
	return aead, drawn[BoxKeySize : BoxKeySize+nonceSize], drawn[BoxKeySize+nonceSize:], nil
}
