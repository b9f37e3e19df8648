package seal

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/oasisprotocol/curve25519-voi/curve"
	"golang.org/x/crypto/ssh"
)

// maxPublicText is more than any text of an Ed25519 key needs; the rest of an OpenSSH line is a comment.
const maxPublicText = 4 << 10

// String is the key in base64url without padding, 43 characters: what [ParsePublicKey] reads and agents name theirs by.
func (k PublicKey) String() string { return base64.RawURLEncoding.EncodeToString(k[:]) }

// MarshalText is [PublicKey.String].
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText is [ParsePublicKey].
func (k *PublicKey) UnmarshalText(text []byte) (err error) {
	*k, err = ParsePublicKey(string(text))
	return err
}

// Check returns an error for bytes that are no key of the rule: not a point, not written in the one canonical way, or of small order,
// where one signature would fit many messages.
func (k PublicKey) Check() error {
	c := curve.CompressedEdwardsY(k)
	p, err := curve.NewEdwardsPoint().SetCompressedY(&c)
	switch {
	case err != nil:
		return errors.New("it is not an Ed25519 public key: no point of the curve")
	case p.IsSmallOrder():
		return errors.New("it is a weak Ed25519 public key, of small order")
	case !c.IsCanonicalVartime():
		return errors.New("it is not an Ed25519 public key in canonical form")
	}
	return nil
}

// ParsePublicKey reads a public key: 43 characters of base64url, or a line of OpenSSH's ("ssh-ed25519 AAAA... comment").
func ParsePublicKey(text string) (PublicKey, error) {
	var k PublicKey
	text = strings.TrimSpace(text)
	if len(text) > maxPublicText {
		return k, fmt.Errorf("a public key has at most %d bytes of text", maxPublicText)
	}
	if strings.HasPrefix(text, "ssh-") {
		p, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(text))
		if err != nil || len(rest) > 0 || len(options) > 0 {
			return k, fmt.Errorf("%.60q is not one OpenSSH public key", text)
		}
		c, ok := p.(ssh.CryptoPublicKey)
		if !ok {
			return k, fmt.Errorf("%s is not an Ed25519 key: ssh-keygen -t ed25519 makes one", p.Type())
		}
		e, ok := c.CryptoPublicKey().(ed25519.PublicKey)
		if !ok || p.Type() != ssh.KeyAlgoED25519 {
			return k, fmt.Errorf("%s is not an Ed25519 key: ssh-keygen -t ed25519 makes one", p.Type())
		}
		copy(k[:], e)
		return k, k.Check()
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != PublicKeySize {
		return k, fmt.Errorf("%.60q is not a public key: it must be 43 characters of base64url, or a line that begins with ssh-ed25519", text)
	}
	copy(k[:], b)
	return k, k.Check()
}

func (k PublicKey) ssh() (ssh.PublicKey, error) { return ssh.NewPublicKey(ed25519.PublicKey(k[:])) }

// SSH is the key as a line of OpenSSH's, without a comment and a line's end.
func (k PublicKey) SSH() string {
	p, err := k.ssh()
	if err != nil {
		return "" // 32 bytes never fail
	}
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(p)), "\n")
}

// Fingerprint is what people compare, as ssh-keygen -l shows it: "SHA256:" and 43 characters.
func (k PublicKey) Fingerprint() string {
	p, err := k.ssh()
	if err != nil {
		return ""
	}
	return ssh.FingerprintSHA256(p)
}
