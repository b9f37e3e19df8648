package agent

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/seal"
)

// rfc8032 is the key of RFC 8032, 7.1, test 1.
func rfc8032(t *testing.T) *identity {
	seed, err := hex.DecodeString("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	if got := hex.EncodeToString(key.Public().(ed25519.PublicKey)); got != "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a" {
		t.Fatalf("public key %s, not the RFC's", got)
	}
	return &identity{key}
}

// vector is the request that docs/format/signature.md and the server agree on.
func vector(t *testing.T) (*http.Request, []byte, time.Time) {
	body := []byte("profile")
	req, err := http.NewRequest("POST", "http://example.test/api/v1/profiles?service_name=checkout&name=process_cpu&from=1&until=2", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	return req, body, time.Unix(1764064800, 0)
}

// TestSignVector: the base is written out here by hand, and an independent implementation
// of Ed25519 (OpenSSL) made the signature.
func TestSignVector(t *testing.T) {
	id := rfc8032(t)
	req, body, now := vector(t)
	if err := id.signWith(req, body, now, [16]byte{}); err != nil {
		t.Fatal(err)
	}
	const params = `("@method" "@path" "@query" "content-type" "content-digest");created=1764064800;nonce="AAAAAAAAAAAAAAAAAAAAAA";alg="ed25519";keyid="11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";tag="quantra-agent"`
	const base = `"@method": POST
"@path": /api/v1/profiles
"@query": ?service_name=checkout&name=process_cpu&from=1&until=2
"content-type": application/octet-stream
"content-digest": sha-256=:GQDqtsAoSD1xJlme5vUN4NJ5B7XGX6kFJFgLSw+YUrA=:
"@signature-params": ` + params
	for header, want := range map[string]string{
		"Content-Digest":  "sha-256=:GQDqtsAoSD1xJlme5vUN4NJ5B7XGX6kFJFgLSw+YUrA=:",
		"Signature-Input": "quantra=" + params,
		"Signature":       "quantra=:BGV9ZthSt8ze0fmxQ7Al4dwmk5UUW3LVjaAy5NgLLQp7cSptxy3Qa0TfkybpXOIBSPHtJvEU+9B8fy3tiyznCA==:",
	} {
		if got := req.Header.Get(header); got != want {
			t.Errorf("%s is\n%s\nwant\n%s", header, got, want)
		}
	}
	sig, err := base64.StdEncoding.DecodeString("BGV9ZthSt8ze0fmxQ7Al4dwmk5UUW3LVjaAy5NgLLQp7cSptxy3Qa0TfkybpXOIBSPHtJvEU+9B8fy3tiyznCA==")
	if err != nil || seal.PublicKey(id.key.Public().(ed25519.PublicKey)).VerifyNote([]byte(base), seal.Signature(sig)) != nil {
		t.Errorf("the vector's own signature does not verify (%v)", err)
	}
}

// TestSignServed: what a real server receives verifies, with the base rebuilt from what is on the wire.
func TestSignServed(t *testing.T) {
	id, err := loadIdentity("")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	nonces := map[string]bool{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		nonce := checkSigned(t, r, body, id.keyID())
		mu.Lock()
		defer mu.Unlock()
		if nonces[nonce] {
			t.Errorf("nonce %s came twice", nonce)
		}
		nonces[nonce] = true
	}))
	defer s.Close()
	for _, tt := range []struct {
		url  string
		body []byte
		org  string
	}{
		{"/api/v1/profiles?name=a%20b&x=%C3%A4;y", []byte("profile"), ""},
		{"/api/v1/agents/poll?wait=30s", []byte("{}"), "team a"},
		{"/a%2Fb/ü", nil, ""},
		{"", []byte{0}, ""},
		{"/?", nil, ""},
		{"/?a?b", nil, ""},
	} {
		req, err := http.NewRequest("POST", s.URL+tt.url, bytes.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", " application/octet-stream ")
		if tt.org != "" {
			req.Header.Set("X-Scope-OrgID", tt.org)
		}
		if err := id.sign(req, tt.body, time.Now()); err != nil {
			t.Fatal(err)
		}
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if len(nonces) != 6 {
		t.Errorf("%d requests were checked, want 6", len(nonces))
	}
}

// checkSigned verifies r as docs/format/signature.md says, sharing no code with what signs. It is the nonce.
func checkSigned(t *testing.T, r *http.Request, body []byte, keyID string) string {
	t.Helper()
	input := r.Header.Get("Signature-Input")
	m := regexp.MustCompile(`^quantra=(\(([^)]*)\);created=(\d+);nonce="([A-Za-z0-9_-]{22})";alg="ed25519";keyid="([A-Za-z0-9_-]{43})";tag="quantra-agent")$`).FindStringSubmatch(input)
	if m == nil {
		t.Errorf("Signature-Input is %q", input)
		return ""
	}
	if m[5] != keyID {
		t.Errorf("keyid is %s, want %s", m[5], keyID)
	}
	want := `"@method" "@path" "@query" "content-type" "content-digest"`
	if r.Header.Get("X-Scope-Orgid") != "" {
		want += ` "x-scope-orgid"`
	}
	if m[2] != want {
		t.Errorf("%s covers %s, want %s", r.RequestURI, m[2], want)
	}
	sum := sha256.Sum256(body)
	if d := "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"; r.Header.Get("Content-Digest") != d {
		t.Errorf("Content-Digest is %s, want %s", r.Header.Get("Content-Digest"), d)
	}
	base := ""
	for _, name := range strings.Fields(m[2]) {
		path, query, _ := strings.Cut(r.RequestURI, "?")
		value := map[string]string{`"@method"`: r.Method, `"@path"`: path, `"@query"`: "?" + query}[name]
		if value == "" {
			value = r.Header.Get(strings.Trim(name, `"`))
		}
		base += name + ": " + value + "\n"
	}
	base += `"@signature-params": ` + m[1]
	public, err := base64.RawURLEncoding.DecodeString(m[5])
	if err != nil {
		t.Error(err)
		return ""
	}
	sig, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(strings.TrimPrefix(r.Header.Get("Signature"), "quantra=:"), ":"))
	if err != nil || len(public) != seal.PublicKeySize || len(sig) != seal.SignatureSize || seal.PublicKey(public).VerifyNote([]byte(base), seal.Signature(sig)) != nil {
		t.Errorf("%s: the signature does not verify (%v), over\n%s", r.RequestURI, err, base)
	}
	return m[4]
}

func TestSignRefuses(t *testing.T) {
	id := rfc8032(t)
	for want, header := range map[string]http.Header{
		"0 headers content-type":    {},
		"2 headers content-type":    {"Content-Type": {"a/b", "c/d"}},
		"2 headers x-scope-orgid":   {"Content-Type": {"a/b"}, "X-Scope-Orgid": {"a", "b"}},
		"content-type has a line e": {"Content-Type": {"a/b\r\nx"}},
	} {
		req, body, now := vector(t)
		req.Header = header
		if err := id.sign(req, body, now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v, want one with %q", header, err, want)
		}
		if req.Header.Get("Signature") != "" {
			t.Errorf("%v: signed in spite of the error", header)
		}
	}
}

// TestIdentityFile: made once, for the owner alone, and the same ever after.
func TestIdentityFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	path := filepath.Join(dir, "key.pem")
	first, err := loadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := loadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	if first.keyID() != again.keyID() || len(first.keyID()) != 43 {
		t.Errorf("key %s, then %s", first.keyID(), again.keyID())
	}
	if runtime.GOOS != "windows" {
		for name, want := range map[string]os.FileMode{path: 0o600, dir: 0o700} {
			if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v, want %o", name, info.Mode(), err, want)
			}
		}
	}
	onlyFile(t, dir, "key.pem")
	other, err := loadIdentity(filepath.Join(dir, "other.pem"))
	if err != nil || other.keyID() == first.keyID() {
		t.Errorf("another file has the same key (%v)", err)
	}
	m1, err1 := loadIdentity("")
	m2, err2 := loadIdentity("")
	if err1 != nil || err2 != nil || m1.keyID() == m2.keyID() {
		t.Errorf("keys in memory are the same, or fail: %v %v", err1, err2)
	}
}

func onlyFile(t *testing.T, dir, name string) {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 || names[0].Name() != name {
		t.Errorf("the folder has %v (%v), want only %s", names, err, name)
	}
}

// TestIdentityAtOnce: of many that start together all have the one key that stays.
func TestIdentityAtOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key.pem")
	const n = 32
	ids := make([]string, n)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			id, err := loadIdentity(path)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = id.keyID()
		})
	}
	close(start)
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("keys %s and %s from one file", id, ids[0])
		}
	}
	// One that saw no file, and is late, finds the other's.
	if err := createIdentity(path); err != nil {
		t.Fatal(err)
	}
	if id, err := loadIdentity(path); err != nil || id.keyID() != ids[0] {
		t.Errorf("who came late replaced the key (%v)", err)
	}
	onlyFile(t, dir, "key.pem")
}

func TestIdentityRefuses(t *testing.T) {
	dir := t.TempDir()
	pemOf := func(kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	good := func() string {
		der, err := x509.MarshalPKCS8PrivateKey(rfc8032(t).key)
		return pemOf("PRIVATE KEY", der, err)
	}()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ec)
	other := pemOf("PRIVATE KEY", der, err)
	for _, tt := range []struct {
		name, text, want string
		mode             os.FileMode
	}{
		{"good", good, "", 0o600},
		{"readonly", good, "", 0o400},
		{"commented", "made on Monday\n" + good, "", 0o600},
		{"group", good, "chmod 600", 0o640},
		{"world", good, "chmod 600", 0o604},
		{"writable", good, "chmod 600", 0o620},
		{"empty", "", "no PEM block", 0o600},
		{"text", "secret", "no PEM block", 0o600},
		{"public", pemOf("PUBLIC KEY", []byte{1}, nil), "no PEM block", 0o600},
		{"garbage", pemOf("PRIVATE KEY", []byte("secret"), nil), "no PKCS#8", 0o600},
		{"ecdsa", other, "must be Ed25519", 0o600},
		{"large", good + strings.Repeat("\n", maxKeyFile), "more than", 0o600},
	} {
		if runtime.GOOS == "windows" && tt.mode&0o077 != 0 {
			continue
		}
		path := filepath.Join(dir, tt.name)
		if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tt.mode); err != nil {
			t.Fatal(err)
		}
		id, err := loadIdentity(path)
		switch {
		case tt.want == "" && (err != nil || id.keyID() != rfc8032(t).keyID()):
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path)):
			t.Errorf("%s: error %v, want one with %q and the path", tt.name, err, tt.want)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("%s: the error quotes the file: %v", tt.name, err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != tt.text {
			t.Errorf("%s: the file was changed (%v)", tt.name, err)
		}
	}
	if _, err := loadIdentity(dir); err == nil {
		t.Error("a folder was taken for a key file")
	}
	if _, err := loadIdentity(filepath.Join(dir, "good", "key")); err == nil {
		t.Error("a file was taken for a folder")
	}
}

// TestIdentityOpenSSL: a key of OpenSSL's is read, and OpenSSL reads ours.
func TestIdentityOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("no openssl")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "theirs")
	if out, err := exec.Command("openssl", "genpkey", "-algorithm", "ed25519", "-out", path).CombinedOutput(); err != nil {
		t.Skipf("this openssl has no Ed25519: %s", out)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadIdentity(path); err != nil {
		t.Error(err)
	}
	id, err := loadIdentity(filepath.Join(dir, "ours"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("openssl", "pkey", "-in", filepath.Join(dir, "ours"), "-pubout", "-outform", "DER").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := base64.RawURLEncoding.EncodeToString(out[len(out)-32:]); got != id.keyID() {
		t.Errorf("openssl reads the key as %s, we as %s", got, id.keyID())
	}
}

func BenchmarkSign(b *testing.B) {
	id, err := loadIdentity("")
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, 64<<10)
	req, err := http.NewRequest("POST", "http://example.test/api/v1/profiles?service_name=checkout&name=process_cpu&from=1&until=2", nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if err := id.sign(req, body, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
