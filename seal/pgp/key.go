// Package pgp is OpenPGP (RFC 9580, RFC 4880) for those who need it: keys, encryption and signatures that GnuPG reads and makes. What
// Quantra-L signs itself is signed by seal's keys, not by these.
//
// Bytes of strangers are held to bounds, and everything of any size passes in constant memory but clear-signed text. Messages without integrity
// protection, SHA-1, MD5 and DSA signatures, RSA under 2,048 bits and ElGamal are refused, as go-crypto does by itself.
package pgp

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ProtonMail/go-crypto/openpgp/s2k"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// Bounds on what strangers send.
const (
	maxKeys       = 1 << 20  // bytes of keys, as they come and without armour
	maxKeyCount   = 256      // keys in them
	maxHeaders    = 64 << 10 // bytes of armour before its data
	maxStart      = 4 << 20  // bytes of a message before what is in it: session keys of recipients
	maxSignature  = 64 << 10 // bytes of a detached signature
	maxClear      = 16 << 20 // bytes of clear-signed text, which is held in memory
	maxDecompress = 1 << 40  // bytes that a compressed message may become: they are passed on, not held
	maxName       = 256      // bytes of a name or an address
)

// What callers branch on.
var (
	// ErrCorrupt says that bytes are not what they must be: damaged, cut short, changed, or never OpenPGP.
	ErrCorrupt = errors.New("corrupt")
	// ErrPassphrase says that a passphrase is wrong, or that there is none.
	ErrPassphrase = errors.New("the passphrase is wrong")
	// ErrNoKey says that no key is there that opens a message.
	ErrNoKey = errors.New("none of the keys opens it")
	// ErrSignature says that no valid signature by one of the keys is there.
	ErrSignature = errors.New("no signature by one of the keys verifies")
)

// Passphrase is asked for a passphrase when one is needed.
type Passphrase func() ([]byte, error)

// config is the one way that we make and read things. AES-256, SHA-512, and the most rounds that an iterated passphrase has (2^26 or so bytes
// through SHA-256), as GnuPG 2.2 does not know Argon2.
func config(now func() time.Time) *packet.Config {
	most := int64(maxDecompress)
	return &packet.Config{
		Time:                       now,
		DefaultHash:                crypto.SHA512,
		DefaultCipher:              packet.CipherAES256,
		Algorithm:                  packet.PubKeyAlgoEdDSA,
		Curve:                      packet.Curve25519,
		S2KConfig:                  &s2k.Config{S2KMode: s2k.IteratedSaltedS2K, Hash: crypto.SHA256, S2KCount: 65011712},
		MaxDecompressedMessageSize: &most,
	}
}

// Key is a key of OpenPGP with its subkeys, public or with its secrets.
type Key struct {
	e   *openpgp.Entity
	now func() time.Time // nil is the clock
}

// Options are those of a new key.
type Options struct {
	Name, Email string           // of its owner; one is needed
	Lifetime    time.Duration    // 0 is without an end; whole seconds
	Now         func() time.Time // nil is the clock
}

// Generate makes a key: Ed25519 to sign and X25519 to encrypt, of version 4, which GnuPG reads.
func Generate(o Options) (*Key, error) {
	if strings.TrimSpace(o.Name+o.Email) == "" {
		return nil, errors.New("a key of OpenPGP has its owner's name or address")
	}
	for what, s := range map[string]string{"name": o.Name, "address": o.Email} {
		if len(s) > maxName || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune("()<>", r) }) {
			return nil, fmt.Errorf("the %s %.60q: it may have %d bytes, and none of ()<> and control characters", what, s, maxName)
		}
	}
	c := config(o.Now)
	if o.Lifetime < 0 || o.Lifetime > 100*365*24*time.Hour || o.Lifetime > 0 && o.Lifetime < time.Second {
		return nil, fmt.Errorf("a key's lifetime of %v: it must be a second to 100 years, or 0 for no end", o.Lifetime)
	}
	c.KeyLifetimeSecs = uint32(o.Lifetime / time.Second)
	e, err := openpgp.NewEntity(o.Name, "", o.Email, c)
	if err != nil {
		return nil, err
	}
	return &Key{e, o.Now}, nil
}

// ReadKeys reads keys, public and secret, armoured or not. The error is [ErrCorrupt]. Keys of kinds that are not supported are passed over as
// long as there is another.
func ReadKeys(raw []byte) ([]*Key, error) {
	if len(raw) > maxKeys {
		return nil, fmt.Errorf("%w: keys have at most %d bytes", ErrCorrupt, maxKeys)
	}
	body, kind, err := unarmour(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	if kind != "" && kind != openpgp.PublicKeyType && kind != openpgp.PrivateKeyType {
		return nil, fmt.Errorf("%w: a block %.40q has no keys", ErrCorrupt, kind)
	}
	list, err := openpgp.ReadKeyRing(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(list) == 0 || len(list) > maxKeyCount {
		return nil, fmt.Errorf("%w: %d keys are in it, it may be 1 to %d", ErrCorrupt, len(list), maxKeyCount)
	}
	keys := make([]*Key, len(list))
	for i, e := range list {
		keys[i] = &Key{e: e}
	}
	return keys, nil
}

// Fingerprint is the key's, in hexadecimal capitals: 40 characters of version 4.
func (k *Key) Fingerprint() string { return fmt.Sprintf("%X", k.e.PrimaryKey.Fingerprint) }

// User is whose key it says it is: its primary identity, or one of them; "" is none. It comes from the key, so it may have any character.
func (k *Key) User() string {
	if _, id := k.e.PrimaryIdentity(time.Time{}, config(k.now)); id != nil {
		return id.Name
	}
	for name := range k.e.Identities {
		return name
	}
	return ""
}

// Secret says that the secret part is there.
func (k *Key) Secret() bool { return k.e.PrivateKey != nil }

// Locked says that the secret part needs a passphrase.
func (k *Key) Locked() bool {
	if k.e.PrivateKey != nil && k.e.PrivateKey.Encrypted {
		return true
	}
	for _, s := range k.e.Subkeys {
		if s.PrivateKey != nil && s.PrivateKey.Encrypted {
			return true
		}
	}
	return false
}

// Unlock opens the secret part of the key in memory. The error is [ErrPassphrase].
func (k *Key) Unlock(passphrase []byte) error {
	if err := k.e.DecryptPrivateKeys(passphrase); err != nil {
		return ErrPassphrase
	}
	return nil
}

// String shows no secret.
func (k *Key) String() string { return "pgp.Key(" + k.Fingerprint() + ")" }

// Format shows no secret, whatever the verb.
func (k *Key) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// WritePublic writes the public part, armoured.
func (k *Key) WritePublic(w io.Writer) error {
	return armoured(w, openpgp.PublicKeyType, k.e.Serialize)
}

// WriteSecret writes the key with its secrets, armoured; encrypted by the passphrase, where there is one. A locked key is unlocked first.
func (k *Key) WriteSecret(w io.Writer, passphrase []byte) error {
	if !k.Secret() {
		return errors.New("only the public part of the key is here")
	}
	if k.Locked() {
		return fmt.Errorf("%w: the key is locked", ErrPassphrase)
	}
	e := k.e
	c := config(k.now)
	if len(passphrase) > 0 {
		// Encrypting changes the key, so a copy of it is encrypted.
		var raw bytes.Buffer
		if err := e.SerializePrivateWithoutSigning(&raw, c); err != nil {
			return err
		}
		defer clear(raw.Bytes())
		copied, err := openpgp.ReadEntity(packet.NewReader(bytes.NewReader(raw.Bytes())))
		if err != nil {
			return err
		}
		if err := copied.EncryptPrivateKeys(passphrase, c); err != nil {
			return err
		}
		e = copied
	}
	return armoured(w, openpgp.PrivateKeyType, func(w io.Writer) error { return e.SerializePrivateWithoutSigning(w, c) })
}

func armoured(w io.Writer, kind string, write func(io.Writer) error) error {
	a, err := armor.Encode(w, kind, nil)
	if err != nil {
		return err
	}
	if err := write(a); err != nil {
		return err
	}
	if err := a.Close(); err != nil {
		return err
	}
	_, err = io.WriteString(w, "\n")
	return err
}

func entities(keys []*Key) openpgp.EntityList {
	list := make(openpgp.EntityList, len(keys))
	for i, k := range keys {
		list[i] = k.e
	}
	return list
}
