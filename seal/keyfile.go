package seal

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"
)

// What callers branch on.
var (
	// ErrCorrupt says that bytes are not what they must be: damaged, cut short, changed by someone, or never of this format.
	ErrCorrupt = errors.New("corrupt")
	// ErrPassphrase says that a passphrase is wrong, or that there is none.
	ErrPassphrase = errors.New("the passphrase is wrong")
	// ErrUnsafe says that a key's file could be read or replaced by others than its user.
	ErrUnsafe = errors.New("unsafe")
)

// maxKeyFile bounds a key file: ours have under 700 bytes, OpenSSH's under 500.
const maxKeyFile = 64 << 10

// The work of scrypt as the logarithm of its N, with r = 8: 2^18 takes 256 MiB and about a second, which is what the age command asks
// for. More than 2^20 (1 GiB) is refused in files of others.
const (
	standardWork = 18
	maxWork      = 20
)

// A key file's version, and the lines before its block.
const (
	keyVersion     = "1"
	versionLine    = "# quantra key "
	publicLine     = "# public "
	fingerprintTag = "# fingerprint "
)

// Names of blocks.
const (
	pemPKCS8   = "PRIVATE KEY"
	pemOpenSSH = "OPENSSH PRIVATE KEY"
	pemAge     = "AGE ENCRYPTED FILE"
)

// Passphrase is asked for the passphrase of a key or a file, when one is needed and not before. What it returns is set to zero after use.
type Passphrase func() ([]byte, error)

// KeyOptions are how a key is written. The zero value is a key without a passphrase in a file that must not exist.
type KeyOptions struct {
	Passphrase []byte // encrypts the key; empty is none
	Work       int    // of scrypt, as the logarithm of N; 0 is 18 (256 MiB, a second)
	Replace    bool   // a file that exists is replaced
}

// KeyInfo is what a key file says without its passphrase. Public is not to be trusted where Encrypted is true: a file's owner can
// write any key there, and only [DecodeKey] finds that it is another.
type KeyInfo struct {
	Public    PublicKey
	Format    string // "quantra", "pkcs8" or "openssh"
	Encrypted bool
}

// EncodeKey is a key file (docs/format/key.md).
func EncodeKey(k Key, o KeyOptions) ([]byte, error) {
	block, err := encodePKCS8(k)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%s\n%s%s\n%s%s\n", versionLine, keyVersion, publicLine, k.public, fingerprintTag, k.public.Fingerprint())
	if len(o.Passphrase) == 0 {
		b.Write(block)
		clear(block)
		return b.Bytes(), nil
	}
	defer clear(block)
	to, err := PassphraseRecipient(o.Passphrase, o.Work)
	if err != nil {
		return nil, err
	}
	w, err := Encrypt(&b, true, to)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(block); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// EncodePKCS8 is the key as PKCS #8 in PEM (RFC 5958, RFC 8410), as OpenSSL and agents read it: a secret.
func EncodePKCS8(k Key) ([]byte, error) { return encodePKCS8(k) }

func encodePKCS8(k Key) ([]byte, error) {
	if len(k.private()) == 0 {
		return nil, errors.New("there is no key to write")
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.private())
	if err != nil {
		return nil, err
	}
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: pemPKCS8, Bytes: der}), nil
}

// EncodeOpenSSH is the key as ssh-keygen writes it, encrypted where there is a passphrase: a secret.
func EncodeOpenSSH(k Key, comment string, passphrase []byte) ([]byte, error) {
	if len(k.private()) == 0 {
		return nil, errors.New("there is no key to write")
	}
	block, err := (*pem.Block)(nil), error(nil)
	if len(passphrase) == 0 {
		block, err = ssh.MarshalPrivateKey(k.private(), comment)
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(k.private(), comment, passphrase)
	}
	if err != nil {
		return nil, err
	}
	defer clear(block.Bytes)
	return pem.EncodeToMemory(block), nil
}

// DecodeKey reads a key file of ours, PKCS #8 in PEM, or OpenSSH's. The error is [ErrCorrupt], [ErrPassphrase], or what ask returns.
func DecodeKey(raw []byte, ask Passphrase) (Key, error) { return decodeKey(raw, ask, maxWork) }

func decodeKey(raw []byte, ask Passphrase, work int) (Key, error) {
	f, err := parseKeyFile(raw)
	if err != nil {
		return Key{}, err
	}
	var k Key
	switch f.kind {
	case pemPKCS8:
		k, err = decodePKCS8(f.block)
	case pemOpenSSH:
		k, err = decodeOpenSSH(f.block, ask)
	default:
		k, err = decodeEncrypted(f.block, ask, work)
	}
	if err != nil {
		return Key{}, err
	}
	if f.public != (PublicKey{}) && f.public != k.public {
		return Key{}, fmt.Errorf("%w: the key is %s, the line above it says %s", ErrCorrupt, k.public, f.public)
	}
	return k, nil
}

// InspectKey says what a key file is, as far as it does so without its passphrase.
func InspectKey(raw []byte) (KeyInfo, error) {
	f, err := parseKeyFile(raw)
	if err != nil {
		return KeyInfo{}, err
	}
	info := KeyInfo{Public: f.public, Format: "quantra"}
	switch f.kind {
	case pemAge:
		info.Encrypted = true
		if !f.ours {
			return KeyInfo{}, fmt.Errorf("%w: an encrypted key file of ours begins with %q", ErrCorrupt, versionLine+keyVersion)
		}
		return info, nil
	case pemOpenSSH:
		info.Format = "openssh"
		var missing *ssh.PassphraseMissingError
		if _, err := ssh.ParseRawPrivateKey(f.block); errors.As(err, &missing) {
			info.Encrypted = true
			if missing.PublicKey != nil {
				info.Public, err = ParsePublicKey(string(ssh.MarshalAuthorizedKey(missing.PublicKey)))
				return info, err
			}
		}
	case pemPKCS8:
		if !f.ours {
			info.Format = "pkcs8"
		}
	}
	k, err := DecodeKey(raw, nil)
	if err != nil {
		return KeyInfo{}, err
	}
	info.Public = k.public
	k.Wipe()
	return info, nil
}

// keyFile is a key file taken apart, and nothing decrypted.
type keyFile struct {
	ours   bool      // it has the lines of ours
	public PublicKey // as the line says; zero is none
	kind   string    // of the block
	block  []byte    // with its BEGIN and END
}

func parseKeyFile(raw []byte) (keyFile, error) {
	var f keyFile
	if len(raw) > maxKeyFile {
		return f, fmt.Errorf("%w: a key file has at most %d bytes", ErrCorrupt, maxKeyFile)
	}
	const begin = "-----BEGIN "
	rest := raw
	for len(rest) > 0 && !bytes.HasPrefix(rest, []byte(begin)) {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		text := strings.TrimSpace(string(line))
		if v, ok := strings.CutPrefix(text, versionLine); ok {
			if f.ours = true; v != keyVersion {
				return f, fmt.Errorf("%w: a key file of version %.20q, this program reads version %s", ErrCorrupt, v, keyVersion)
			}
		}
		if v, ok := strings.CutPrefix(text, publicLine); ok && f.ours {
			k, err := ParsePublicKey(v)
			if err != nil {
				return f, fmt.Errorf("%w: the line %q: %w", ErrCorrupt, strings.TrimSpace(publicLine), err)
			}
			f.public = k
		}
	}
	label, _, ok := bytes.Cut(bytes.TrimPrefix(rest, []byte(begin)), []byte("-----"))
	if len(rest) == 0 || !ok {
		return f, fmt.Errorf("%w: no key is in it: no line begins with -----BEGIN", ErrCorrupt)
	}
	switch f.kind = string(label); f.kind {
	case pemPKCS8, pemOpenSSH, pemAge:
		f.block = rest
		return f, nil
	case "ENCRYPTED PRIVATE KEY":
		return f, errors.New("it is PKCS #8 with a passphrase of its own: decrypt it by openssl pkey, and encrypt the key here")
	}
	return f, fmt.Errorf("%w: a block %.40q is no key: it must be %s, %s or %s", ErrCorrupt, label, pemPKCS8, pemOpenSSH, pemAge)
}

func decodePKCS8(raw []byte) (Key, error) {
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != pemPKCS8 || len(bytes.TrimSpace(rest)) > 0 {
		return Key{}, fmt.Errorf("%w: it is not one PEM block %s", ErrCorrupt, pemPKCS8)
	}
	defer clear(block.Bytes)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return ownKey(parsed)
}

func decodeOpenSSH(raw []byte, ask Passphrase) (Key, error) {
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != pemOpenSSH || len(bytes.TrimSpace(rest)) > 0 {
		return Key{}, fmt.Errorf("%w: it is not one PEM block %s", ErrCorrupt, pemOpenSSH)
	}
	clear(block.Bytes)
	parsed, err := ssh.ParseRawPrivateKey(raw)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		var pass []byte
		if pass, err = askFor(ask); err != nil {
			return Key{}, err
		}
		defer clear(pass)
		if parsed, err = ssh.ParseRawPrivateKeyWithPassphrase(raw, pass); errors.Is(err, x509.IncorrectPasswordError) {
			return Key{}, ErrPassphrase
		}
	}
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return ownKey(parsed)
}

// ownKey is a key of the standard library's as ours, with a seed of its own.
func ownKey(parsed any) (Key, error) {
	if p, ok := parsed.(*ed25519.PrivateKey); ok { // x/crypto/ssh
		parsed = *p
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return Key{}, fmt.Errorf("it is a key of another kind (%T), it must be Ed25519", parsed)
	}
	defer clear(private)
	k, err := KeyFromSeed(private.Seed())
	if err == nil && !bytes.Equal(private[ed25519.SeedSize:], k.public[:]) {
		return Key{}, fmt.Errorf("%w: the public key is not the private key's", ErrCorrupt)
	}
	return k, err
}

func decodeEncrypted(raw []byte, ask Passphrase, work int) (Key, error) {
	plain, err := decryptSmall(armor.NewReader(bytes.NewReader(raw)), ask, work)
	if err != nil {
		return Key{}, err
	}
	defer clear(plain)
	return decodePKCS8(plain)
}

// decryptSmall is what a passphrase has encrypted, where that is not more than a key file.
func decryptSmall(r io.Reader, ask Passphrase, work int) ([]byte, error) {
	opened, err := age.Decrypt(r, &askIdentity{ask, work})
	if err != nil {
		return nil, openError(err)
	}
	plain, err := io.ReadAll(io.LimitReader(opened, maxKeyFile+1))
	if err != nil || len(plain) > maxKeyFile {
		return nil, fmt.Errorf("%w: what the passphrase opens is damaged", ErrCorrupt)
	}
	return plain, nil
}

func askFor(ask Passphrase) ([]byte, error) {
	if ask == nil {
		return nil, fmt.Errorf("%w: there is none, and the key is encrypted", ErrPassphrase)
	}
	return ask()
}

// LoadKey reads the key in a file that is its user's alone: a regular file, not a link to one, which no other user owns, can read or
// can write ([ErrUnsafe]).
func LoadKey(path string, ask Passphrase) (Key, error) {
	raw, err := ReadSecret(path)
	if err != nil {
		return Key{}, err
	}
	defer clear(raw)
	k, err := DecodeKey(raw, ask)
	if err != nil {
		return Key{}, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// ReadSecret is the bytes of a file by the same rules as [LoadKey], 64 KiB at most. The caller sets them to zero after use.
func ReadSecret(path string) ([]byte, error) {
	f, err := openSecret(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w: it is not a regular file", path, ErrUnsafe)
	}
	if err := ownedAlone(info); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrUnsafe, err)
	}
	raw := make([]byte, maxKeyFile+1)
	n, err := io.ReadFull(f, raw)
	switch {
	case err == nil:
		return nil, fmt.Errorf("%s: %w: it has more than %d bytes", path, ErrCorrupt, maxKeyFile)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return raw[:n:n], nil
	}
	return nil, err
}

// SaveKey writes a key file that only its user can read. The file appears whole or not at all, and survives a crash from then on.
func SaveKey(path string, k Key, o KeyOptions) error {
	raw, err := EncodeKey(k, o)
	if err != nil {
		return err
	}
	defer clear(raw)
	return WriteSecret(path, raw, o.Replace)
}

// WriteSecret writes a file as [SaveKey] does. Without replace the error is [fs.ErrExist] where there is one.
func WriteSecret(path string, raw []byte, replace bool) (err error) {
	switch info, err := os.Lstat(path); {
	case err == nil && !replace:
		return &fs.PathError{Op: "write", Path: path, Err: fs.ErrExist}
	case err == nil && !info.Mode().IsRegular():
		return fmt.Errorf("%s: %w: it is not a regular file, and would be replaced by one", path, ErrUnsafe)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	dir := filepath.Dir(path)
	tmp := filepath.Join(dir, "."+filepath.Base(path)+"."+rand.Text()[:8]+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if replace {
		err = os.Rename(tmp, path)
	} else if err = os.Link(tmp, path); err == nil { // a rename would replace what another has written meanwhile
		os.Remove(tmp)
	} else if !errors.Is(err, fs.ErrExist) {
		err = os.Rename(tmp, path) // a file system without links
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}
