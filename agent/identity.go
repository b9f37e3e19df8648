package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// maxKeyFile bounds a key file: an Ed25519 key in PEM has 119 bytes, and may have comments around it.
const maxKeyFile = 64 << 10

// identity is the key that an agent signs its requests with.
type identity struct {
	key ed25519.PrivateKey
}

// loadIdentity reads an Ed25519 key: PKCS#8 in PEM, as "openssl genpkey -algorithm ed25519"
// writes it. A file that is missing is made, for its owner alone, and so is its folder.
// path "" is a new key that lives in memory only.
func loadIdentity(path string) (*identity, error) {
	if path == "" {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("agent: making a key: %w", err)
		}
		return &identity{key}, nil
	}
	id, err := readIdentity(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	if err := createIdentity(path); err != nil {
		return nil, fmt.Errorf("agent: making the key file %s: %w", path, err)
	}
	// Read again, also what was just written: where several processes made one at the same time, all use the one that stayed.
	return readIdentity(path)
}

func readIdentity(path string) (*identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("agent: key file: %w", err)
	}
	defer f.Close()
	// The open file is asked, not the path, which may lead elsewhere by now.
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("agent: key file: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("agent: key file %s is no regular file", path)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		// Windows has no such bits; there the folder's access list decides.
		return nil, fmt.Errorf("agent: key file %s can be read by others (mode %#o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("agent: key file %s: %w", path, err)
	}
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("agent: key file %s has more than %d bytes; it is no key", path, maxKeyFile)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("agent: key file %s has no PEM block \"PRIVATE KEY\"; move it away, and a new key is made, or make one: openssl genpkey -algorithm ed25519 -out %s", path, path)
	}
	// The parser's error is left out: it may quote the key.
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("agent: key file %s is no PKCS#8 private key", path)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("agent: key file %s holds a key of another kind (%T); it must be Ed25519", path, parsed)
	}
	return &identity{key}, nil
}

// createIdentity writes a new key whole or not at all, and never over a file that is there.
func createIdentity(path string) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".quantra-key-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := writeSync(f, text); err != nil {
		return err
	}
	// A link fails where the name is taken; a rename would replace the other's key, which that one uses already.
	err = os.Link(f.Name(), path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		syncDir(dir)
		return nil
	}
	// This file system has no links. A reader may meet the file half-written then; it
	// fails with a clear error and finds it whole the next time.
	g, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := writeSync(g, text); err != nil {
		os.Remove(path)
		return err
	}
	syncDir(dir)
	return nil
}

// writeSync writes text, makes it durable, and closes f. A key that is lost with the power
// is another agent to the server that was told this one.
func writeSync(f *os.File, text []byte) error {
	_, err := f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// syncDir makes the names in dir durable, where the system can.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		d.Sync()
		d.Close()
	}
}

// Key is an agent's key, for a program that sends something in an agent's name.
type Key struct{ id *identity }

// ReadKey reads the key file of [Options].KeyFile. One that is missing is an error.
func ReadKey(path string) (*Key, error) {
	id, err := readIdentity(path)
	if err != nil {
		return nil, err
	}
	return &Key{id}, nil
}

// Sign signs a request as agents sign theirs (docs/format/signature.md). Nothing of it may change after that; each time that it is
// sent it is signed anew.
func (k *Key) Sign(req *http.Request, body []byte) error { return k.id.sign(req, body, time.Now()) }

// keyID is the public key in base64url without padding, 43 characters.
func (id *identity) keyID() string {
	return base64.RawURLEncoding.EncodeToString(id.key.Public().(ed25519.PublicKey))
}

// sign signs req, whose body is body, as docs/format/signature.md draws it (RFC 9421 and
// RFC 9530). It is the last to touch the request: what it covers must not change after
// it. Each time a request is sent it is signed anew.
func (id *identity) sign(req *http.Request, body []byte, now time.Time) error {
	var nonce [16]byte
	rand.Read(nonce[:]) // never fails: it ends the program where there is no randomness
	return id.signWith(req, body, now, nonce)
}

func (id *identity) signWith(req *http.Request, body []byte, now time.Time, nonce [16]byte) error {
	sum := sha256.Sum256(body)
	digest := "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	// The very text that stands in the request line.
	path, query, _ := strings.Cut(req.URL.RequestURI(), "?")

	var base, covered strings.Builder
	cover := func(name, value string) {
		fmt.Fprintf(&base, "%q: %s\n", name, value)
		if covered.Len() > 0 {
			covered.WriteByte(' ')
		}
		fmt.Fprintf(&covered, "%q", name)
	}
	method := req.Method
	if method == "" {
		method = http.MethodGet // as net/http has it
	}
	cover("@method", method)
	cover("@path", path)
	cover("@query", "?"+query)
	for _, name := range []string{"content-type", "content-digest", "x-scope-orgid"} {
		values := req.Header.Values(name)
		switch {
		case name == "content-digest":
			values = []string{digest}
		case len(values) == 0 && name == "x-scope-orgid":
			continue
		case len(values) != 1:
			return fmt.Errorf("agent: signing: the request has %d headers %s, not one", len(values), name)
		}
		// net/http sends line ends as spaces and trims; a value that it would alter cannot be signed.
		v := textproto.TrimString(values[0])
		if strings.ContainsAny(v, "\r\n") {
			return fmt.Errorf("agent: signing: the header %s has a line end", name)
		}
		cover(name, v)
	}
	params := "(" + covered.String() + ");created=" + strconv.FormatInt(now.Unix(), 10) +
		`;nonce="` + base64.RawURLEncoding.EncodeToString(nonce[:]) +
		`";alg="ed25519";keyid="` + id.keyID() + `";tag="quantra-agent"`
	base.WriteString(`"@signature-params": ` + params)

	signature := ed25519.Sign(id.key, []byte(base.String()))
	req.Header.Set("Content-Digest", digest)
	req.Header.Set("Signature-Input", "quantra="+params)
	req.Header.Set("Signature", "quantra=:"+base64.StdEncoding.EncodeToString(signature)+":")
	return nil
}
