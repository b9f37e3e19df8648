package access

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// Secrets of this room are 32 random bytes behind the id of what they open, as "qlt_0123456789abcdef_<43 characters>": the prefix lets scanners
// for leaked secrets find them, and the id lets a row be found without comparing secrets. They have 256 bits of chance, so that one
// SHA-256 of them is kept: a slow hash is for what people choose.
const (
	idBytes     = 8
	secretBytes = 32
	secretText  = 43 // base64url without padding
)

// The prefixes by what is opened.
const (
	prefixToken   = "qlt" // an API token
	prefixSession = "qls"
	prefixLink    = "qll" // a one-time link
	prefixEnrol   = "qle" // an agent's enrolment
	prefixOwner   = "qlo" // the credential file of a running server
)

type secretHash [sha256.Size]byte

// newID is 16 hex digits.
func newID() string {
	b := make([]byte, idBytes)
	rand.Read(b) // never fails: crypto/rand ends the program first
	return hex.EncodeToString(b)
}

// newSecret is a secret of a kind for an id, and what is kept of it.
func newSecret(prefix, id string) (text string, hash secretHash) {
	b := make([]byte, secretBytes)
	rand.Read(b)
	text = prefix + "_" + id + "_" + base64.RawURLEncoding.EncodeToString(b)
	return text, sha256.Sum256([]byte(text))
}

// parseSecret is the id in a secret. Its text is written in one way only.
func parseSecret(prefix, text string) (id string, err error) {
	bad := fmt.Errorf("%w: it is not one of ours", ErrDenied)
	rest, ok := strings.CutPrefix(text, prefix+"_")
	if !ok || len(rest) != 2*idBytes+1+secretText || rest[2*idBytes] != '_' {
		return "", bad
	}
	id = rest[:2*idBytes]
	for _, c := range id {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return "", bad
		}
	}
	if b, err := base64.RawURLEncoding.Strict().DecodeString(rest[2*idBytes+1:]); err != nil || len(b) != secretBytes {
		return "", bad
	}
	return id, nil
}

// matches compares in a time that does not depend on where the two differ.
func (h secretHash) matches(text string) bool {
	sum := sha256.Sum256([]byte(text))
	return subtle.ConstantTimeCompare(sum[:], h[:]) == 1
}

func (h secretHash) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h[:])), nil }

func (h *secretHash) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(h) {
		return fmt.Errorf("%w: a hash has %d hex digits", ErrInvalid, 2*len(h))
	}
	copy(h[:], b)
	return nil
}

func hashText(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
