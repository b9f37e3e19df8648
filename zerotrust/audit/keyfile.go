package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/quantra-l/quantra/seal"
)

// maxKeyFile bounds a file with a key, in bytes.
const maxKeyFile = 4 << 10

// Outside says that a file is not in a log's folder, whatever symbolic links are on the way: who can write the log must not find its key
// there.
func Outside(dir, file string) error {
	real, err := realPath(file)
	if err != nil {
		return err
	}
	in, err := realPath(dir)
	if err != nil {
		return err
	}
	if rel, err := filepath.Rel(in, real); err == nil && filepath.IsLocal(rel) {
		return fmt.Errorf("%s is in the log's own folder, %s: who can change the log could sign it anew; keep it elsewhere", file, dir)
	}
	return nil
}

// realPath is the path without symbolic links, of a file that need not be there, nor its folder.
func realPath(name string) (string, error) {
	name, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	rest := ""
	for at := name; ; {
		real, err := filepath.EvalSymlinks(at)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		up := filepath.Dir(at)
		if !errors.Is(err, fs.ErrNotExist) || up == at {
			return "", err
		}
		at, rest = up, filepath.Join(filepath.Base(at), rest)
	}
}

// OpenKey reads the key of a log from a file (PKCS#8 in PEM), which only its user may read and which is no symbolic link, or makes it.
func OpenKey(name string) (seal.Key, error) {
	seed, err := secret(name, "PRIVATE KEY", func(b []byte) ([]byte, error) {
		parsed, err := x509.ParsePKCS8PrivateKey(b)
		if err != nil {
			return nil, err
		}
		key, ok := parsed.(ed25519.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("a key of another kind (%T), it must be Ed25519", parsed)
		}
		return key.Seed(), nil
	}, func(seed []byte) ([]byte, error) { return x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(seed)) })
	if err != nil {
		return seal.Key{}, err
	}
	return seal.KeyFromSeed(seed)
}

// secret reads 32 secret bytes from a PEM file, or makes them.
func secret(name, kind string, decode, encode func([]byte) ([]byte, error)) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("the key file %s: %w", name, err) }
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeSecret(name, kind, encode); err != nil && !errors.Is(err, fs.ErrExist) {
			return fail(err)
		}
		info, err = os.Lstat(name)
	}
	if err != nil {
		return fail(err)
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return fail(errors.New("it is a symbolic link: name the file itself"))
	case !info.Mode().IsRegular():
		return fail(errors.New("it is no regular file"))
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0: // Windows has no such bits
		return fail(fmt.Errorf("it can be read by others (%v): chmod 600 it", info.Mode().Perm()))
	}
	f, err := os.Open(name)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	if now, err := f.Stat(); err != nil || !os.SameFile(info, now) {
		return fail(errors.Join(errors.New("it was replaced while it was opened"), err))
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return fail(err)
	}
	block, rest := pem.Decode(raw)
	if len(raw) > maxKeyFile || block == nil || block.Type != kind || len(bytes.TrimSpace(rest)) > 0 {
		return fail(fmt.Errorf("it is not one PEM block %s", kind))
	}
	b, err := decode(block.Bytes)
	if err == nil && len(b) != 32 {
		err = fmt.Errorf("it has %d bytes, not 32", len(b))
	}
	if err != nil {
		return fail(err)
	}
	return b, nil
}

// makeSecret writes a new one. The file appears whole, or not at all, and never in place of another.
func makeSecret(name, kind string, encode func([]byte) ([]byte, error)) (err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	b := make([]byte, 32)
	rand.Read(b)
	der, err := encode(b)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".key-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), name) // unlike a rename it replaces nothing
}

// Pseudonyms give people names that say nothing without the key. The zero value is not ready.
type Pseudonyms struct{ key []byte }

// OpenPseudonyms reads the key from a file, or makes it. Who deletes it makes all pseudonyms those of nobody.
func OpenPseudonyms(name string) (Pseudonyms, error) {
	same := func(b []byte) ([]byte, error) { return b, nil }
	key, err := secret(name, "QUANTRA PSEUDONYM KEY", same, same)
	return Pseudonyms{key}, err
}

// NewPseudonyms is of a key of 32 bytes.
func NewPseudonyms(key []byte) (Pseudonyms, error) {
	if len(key) != 32 {
		return Pseudonyms{}, fmt.Errorf("a key of pseudonyms has 32 bytes, not %d", len(key))
	}
	return Pseudonyms{bytes.Clone(key)}, nil
}

// base32Lower has no characters that are taken for others.
var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Of is the pseudonym of a person's name, address or the like: "~" and 26 characters, 128 bits of HMAC-SHA-256. Letters' case and spaces
// around it do not matter, as in addresses of mail.
func (p Pseudonyms) Of(id string) string {
	m := hmac.New(sha256.New, p.key)
	m.Write([]byte("quantra pseudonym v1\x00" + strings.ToLower(strings.TrimSpace(id))))
	return "~" + base32Lower.EncodeToString(m.Sum(nil)[:16])
}
