// Package seal is what keeps things secret and true: keys, signatures, encryption. It knows nothing of who may do what.
//
// All of Quantra-L verifies Ed25519 by one rule, the cofactored one of this package (RFC 8032 section 5.1.7 with the factor 8;
// non-canonical and small-order keys refused): the rule by which signatures can be verified in batches. The standard library's rule is
// cofactorless, so the two differ on crafted signatures; nothing here mixes them.
package seal

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	voi "github.com/oasisprotocol/curve25519-voi/primitives/ed25519"
)

// Sizes in bytes.
const (
	PublicKeySize = 32
	SignatureSize = 64
	maxDomain     = 255 // RFC 8032 section 2: what a context may have
)

// ErrSignature says that a signature is not one of this key over this message in this domain.
var ErrSignature = errors.New("the signature does not verify")

// PublicKey is an Ed25519 public key. It is comparable.
type PublicKey [PublicKeySize]byte

// Signature is an Ed25519 signature.
type Signature [SignatureSize]byte

// Key is an Ed25519 key pair. Its zero value signs nothing. Copies share the secret.
type Key struct {
	secret *secret
	public PublicKey
}

// secret is behind two pointers, so that printing what holds a key prints no secret: fmt follows one where a verb does not fit.
type secret struct{ private *ed25519.PrivateKey }

// private is nil for no key.
func (k Key) private() ed25519.PrivateKey {
	if k.secret == nil {
		return nil
	}
	return *k.secret.private
}

// NewKey makes a key of the system's randomness.
func NewKey() Key {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed) // never fails: crypto/rand ends the program first
	k, _ := KeyFromSeed(seed)
	return k
}

// KeyFromSeed is the key of a seed of 32 bytes (RFC 8032's private key).
func KeyFromSeed(seed []byte) (Key, error) {
	if len(seed) != ed25519.SeedSize {
		return Key{}, fmt.Errorf("a seed has %d bytes, not %d", ed25519.SeedSize, len(seed))
	}
	private := ed25519.NewKeyFromSeed(seed)
	k := Key{secret: &secret{&private}}
	copy(k.public[:], private[ed25519.SeedSize:])
	return k, nil
}

// Public is the key that others verify by.
func (k Key) Public() PublicKey { return k.public }

// Seed is what [KeyFromSeed] takes: a secret. It is nil for no key.
func (k Key) Seed() []byte {
	if len(k.private()) == 0 {
		return nil
	}
	return k.private().Seed()
}

// Wipe sets the secret to zero, for all copies of the key, which sign nothing from then on. What the runtime has copied elsewhere it does
// not reach.
func (k Key) Wipe() {
	if k.secret != nil {
		clear(*k.secret.private)
		*k.secret.private = nil
	}
}

// String shows no secret.
func (k Key) String() string { return fmt.Sprintf("seal.Key(%x)", k.public[:4]) }

// Format shows no secret, whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// Sign signs a message for a domain, which says what the message is ("quantra identity v1"): a signature of one domain is none of
// another's (Ed25519ctx, RFC 8032 section 5.1). A domain has 1 to 255 bytes.
func (k Key) Sign(domain string, message []byte) (Signature, error) {
	var s Signature
	if err := checkDomain(domain); err != nil {
		return s, err
	}
	if len(k.private()) == 0 {
		return s, errors.New("signing with no key")
	}
	b, err := k.private().Sign(nil, message, &ed25519.Options{Hash: crypto.Hash(0), Context: domain})
	if err != nil {
		return s, err
	}
	copy(s[:], b)
	return s, nil
}

func checkDomain(domain string) error {
	if domain == "" || len(domain) > maxDomain {
		return fmt.Errorf("a domain of signatures has 1 to %d bytes, not %d", maxDomain, len(domain))
	}
	return nil
}

// rule is the one rule of verification, for one signature and for many.
var rule = &voi.VerifyOptions{AllowSmallOrderR: true}

// Verify returns [ErrSignature] unless s is k's signature over the message in the domain.
func (k PublicKey) Verify(domain string, message []byte, s Signature) error {
	return verify(nil, domain, k, message, s, 0)
}

// Verify is [PublicKey.Verify] by a key that may be in the cache, where it takes about an eighth less time.
func (c *KeyCache) Verify(domain string, k PublicKey, message []byte, s Signature) error {
	return verify(c, domain, k, message, s, 0)
}

// verify verifies one signature. The hash is 0, or SHA-512 where the message is a digest by it (Ed25519ph).
func verify(c *KeyCache, domain string, k PublicKey, message []byte, s Signature, hash crypto.Hash) error {
	if err := checkDomain(domain); err != nil {
		return err
	}
	if !verifyBy(c, k, message, s, &voi.Options{Context: domain, Verify: rule, Hash: hash}) {
		return ErrSignature
	}
	return nil
}

func verifyBy(c *KeyCache, k PublicKey, message []byte, s Signature, o *voi.Options) bool {
	if c == nil {
		return voi.VerifyWithOptions(k[:], message, s[:], o)
	}
	if form := c.get(k); form != nil {
		return voi.VerifyExpandedWithOptions(form, message, s[:], o)
	}
	if !voi.VerifyWithOptions(k[:], message, s[:], o) {
		return false
	}
	c.verified(k)
	return true
}
