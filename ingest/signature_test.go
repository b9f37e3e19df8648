package ingest

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/edwards25519"

	"github.com/quantra-l/quantra/seal"
)

// testKey is the first of RFC 8032's test vectors (7.1).
func testKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	seed, err := hex.DecodeString("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
	if err != nil {
		t.Fatal(err)
	}
	return ed25519.NewKeyFromSeed(seed)
}

// verifier judges by the house's rule, unless o has another.
func verifier(o SignatureOptions) *Verifier {
	if o.Verify == nil {
		o.Verify = func(key ed25519.PublicKey, message, signature []byte) bool {
			return seal.PublicKey(key).VerifyNote(message, seal.Signature(signature)) == nil
		}
	}
	return NewVerifier(o)
}

// signing is how a test signs. It makes the base from the page's words, by itself.
type signing struct {
	key     ed25519.PrivateKey
	created int64
	nonce   string // "" is a new one
	// Where they are set they are what the headers say; what is signed follows.
	components, params string
	tenant             string
	digest             string
}

func (s signing) headers(method, target, contentType string, body []byte) map[string]string {
	if s.nonce == "" {
		b := make([]byte, 16)
		rand.Read(b)
		s.nonce = base64.RawURLEncoding.EncodeToString(b)
	}
	if s.digest == "" {
		sum := sha256.Sum256(body)
		s.digest = "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	}
	if s.components == "" {
		s.components = `"@method" "@path" "@query" "content-type" "content-digest"`
		if s.tenant != "" {
			s.components += ` "x-scope-orgid"`
		}
	}
	if s.params == "" {
		s.params = fmt.Sprintf(`;created=%d;nonce="%s";alg="ed25519";keyid="%s";tag="quantra-agent"`,
			s.created, s.nonce, base64.RawURLEncoding.EncodeToString(s.key.Public().(ed25519.PublicKey)))
	}
	path, query, _ := strings.Cut(target, "?")
	value := map[string]string{`"@method"`: method, `"@path"`: path, `"@query"`: "?" + query, `"content-type"`: contentType, `"content-digest"`: s.digest, `"x-scope-orgid"`: s.tenant}
	var base strings.Builder
	for _, c := range strings.Fields(s.components) {
		base.WriteString(c + ": " + value[c] + "\n")
	}
	input := "(" + s.components + ")" + s.params
	base.WriteString(`"@signature-params": ` + input)
	h := map[string]string{
		"Content-Type": contentType, "Content-Digest": s.digest, "Signature-Input": "quantra=" + input,
		"Signature": "quantra=:" + base64.StdEncoding.EncodeToString(ed25519.Sign(s.key, []byte(base.String()))) + ":",
	}
	if s.tenant != "" {
		h["X-Scope-OrgID"] = s.tenant
	}
	return h
}

// TestSignatureVector: the request of docs/format/signature.md, byte for byte, is right, and its base is the one there. Agents'
// signers are held to the same files. They were made, and verified, by other programs than this one.
func TestSignatureVector(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "signature", "request.http"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join("testdata", "signature", "base.txt"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join("..", "docs", "format", "signature.md"))
	if err != nil {
		t.Fatal(err)
	}
	unix := func(b []byte) string { return strings.ReplaceAll(string(b), "\r\n", "\n") }
	read := func() *http.Request {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := read()
	p, err := parseSignature(r.Header)
	if err != nil {
		t.Fatal(err)
	}
	base, err := signatureBase(r, p)
	if err != nil || string(base) != unix(want) {
		t.Errorf("base is\n%s\nwant\n%s\n%v", base, want, err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	v := verifier(SignatureOptions{Require: true, Now: func() time.Time { return time.Unix(1764064800, 0) }})
	if key, err := v.Verify(read(), body); err != nil || key != "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" {
		t.Errorf("%s, %v", key, err)
	}
	// Ed25519 has one signature for each message: the test's own signer must find the same.
	s := signing{key: testKey(t), created: 1764064800, nonce: "AAAAAAAAAAAAAAAAAAAAAA"}
	for k, v := range s.headers("POST", r.RequestURI, "application/octet-stream", body) {
		if r.Header.Get(k) != v {
			t.Errorf("%s is %s, want %s", k, r.Header.Get(k), v)
		}
	}
	for _, part := range []string{unix(want), r.Header.Get("Signature-Input"), r.Header.Get("Signature"), r.Header.Get("Content-Digest")} {
		if !strings.Contains(unix(page), part) {
			t.Errorf("docs/format/signature.md has not %s", part)
		}
	}
}

const signedPath = "/api/v1/profiles?service_name=a"

// TestSigned: signed uploads come in on both routes, whatever is packed, and it is known who signed.
func TestSigned(t *testing.T) {
	raw := sample().AppendPprof(nil)
	key := testKey(t)
	s := signing{key: key, created: now.Unix()}
	for name, c := range map[string]struct {
		s       signing
		path    string
		body    []byte
		headers map[string]string
	}{
		"push":            {s, signedPath, raw, nil},
		"packed, as sent": {s, signedPath, gz(gz(raw)), map[string]string{"Content-Encoding": "gzip"}},
		"pyroscope":       {s, "/ingest?name=a", raw, nil},
		"escapes":         {s, "/api/v1/profiles?service_name=a%20b&zone=%C3%A4", raw, nil},
		"tenant":          {signing{key: key, created: s.created, tenant: "acme"}, signedPath, raw, nil},
		"5 min behind":    {signing{key: key, created: s.created - 300}, signedPath, raw, nil},
		"5 min ahead":     {signing{key: key, created: s.created + 300}, signedPath, raw, nil},
		"another beside":  {s, signedPath, raw, map[string]string{"+Signature-Input": `proxy=("@authority";req "x";sf);created=1;expires=2.5;b=?1;t=tok/en;d=@7`, "+Signature": `proxy=:AAAA:`}},
		"another digest":  {signing{key: key, created: s.created, digest: digestOf(raw, `, sha-512=:AAAA:`)}, signedPath, raw, nil},
		"order of params": {signing{key: key, created: s.created, params: fmt.Sprintf(`;tag="quantra-agent";keyid="%s";alg="ed25519";nonce="AAAAAAAAAAAAAAAAAAAAAA";created=%d`, base64.RawURLEncoding.EncodeToString(key.Public().(ed25519.PublicKey)), now.Unix())}, signedPath, raw, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var out sink
			_, srv := serve(t, Options{Append: out.append, Signatures: verifier(SignatureOptions{
				Require: true, Now: func() time.Time { return now },
				Keys: func(k ed25519.PublicKey) error {
					if !k.Equal(key.Public()) {
						return errors.New("another key")
					}
					return nil
				},
			})})
			h := c.s.headers("POST", c.path, "application/octet-stream", c.body)
			for k, v := range c.headers {
				if k, more := strings.CutPrefix(k, "+"); more {
					h[k] = v + ", " + h[k]
				} else {
					h[k] = v
				}
			}
			if status, code, text, _ := (request{path: c.path, header: h, body: c.body}).do(t, srv); status != 200 {
				t.Fatalf("%d %s: %s", status, code, text)
			}
			if p := out.last(t); p.SignedBy != "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" || p.Tenant != c.s.tenant {
				t.Errorf("signed by %q, tenant %q", p.SignedBy, p.Tenant)
			}
		})
	}
}

func digestOf(body []byte, more string) string {
	sum := sha256.Sum256(body)
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":" + more
}

// TestSignatureRefused is every way in which a signature may be wrong. None is let in where signatures are required, nor, but for the first, where they are not.
func TestSignatureRefused(t *testing.T) {
	raw := sample().AppendPprof(nil)
	key := testKey(t)
	keyID := base64.RawURLEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
	good := signing{key: key, created: now.Unix()}
	const nonce = "AAAAAAAAAAAAAAAAAAAAAA"
	created := fmt.Sprint(now.Unix())
	params := func(created, nonce, alg, keyid, tag string) signing {
		s := good
		for _, p := range []struct{ name, value string }{{"created", created}, {"nonce", nonce}, {"alg", alg}, {"keyid", keyid}, {"tag", tag}} {
			if p.value != "" {
				s.params += ";" + p.name + "=" + p.value
			}
		}
		return s
	}
	q := func(s string) string { return `"` + s + `"` }
	covers := func(c string) signing { s := good; s.components = c; return s }
	small := good
	small.params = fmt.Sprintf(`;created=%s;nonce="%s";alg="ed25519";keyid="%s";tag="quantra-agent"`, created, nonce, base64.RawURLEncoding.EncodeToString(append([]byte{1}, make([]byte, 31)...)))
	other := good
	_, other.key, _ = ed25519.GenerateKey(nil)
	other.params = params(created, q(nonce), q("ed25519"), q(keyID), q("quantra-agent")).params
	set := func(name, value string) func(r *request) { return func(r *request) { r.header[name] = value } }
	replace := func(name, old, new string) func(r *request) {
		return func(r *request) {
			if !strings.Contains(r.header[name], old) {
				t.Fatalf("%s has no %s", name, old)
			}
			r.header[name] = strings.Replace(r.header[name], old, new, 1)
		}
	}
	drop := func(names ...string) func(r *request) {
		return func(r *request) {
			for _, n := range names {
				delete(r.header, n)
			}
		}
	}
	for _, c := range []struct {
		name   string
		s      signing
		change func(r *request)
		status int
		code   string
		text   string
	}{
		{"unsigned", good, drop("Signature", "Signature-Input", "Content-Digest"), 401, "unsigned", "docs/format/signature.md"},
		{"another's only", good, func(r *request) {
			r.header["Signature"], r.header["Signature-Input"] = "x=:AAAA:", `x=("date");created=1`
		}, 401, "unsigned", ""},
		{"another scheme", good, func(r *request) {
			delete(r.header, "Signature-Input")
			r.header["Signature"] = `keyId="x",algorithm="y"`
		}, 401, "unsigned", ""},
		{"no Signature", good, drop("Signature"), 401, "signature", "Signature-Input has quantra, and Signature has not"},
		{"no Signature-Input", good, drop("Signature-Input"), 401, "signature", "Signature has quantra, and Signature-Input has not"},
		{"body altered", good, func(r *request) { r.body = gz(r.body) }, 401, "signature", "Content-Digest is not that of the body"},
		{"body empty", good, func(r *request) { r.body = nil }, 401, "signature", "0 bytes"},
		{"query altered", good, func(r *request) { r.path += "&x=1" }, 401, "signature", "does not verify"},
		{"query reordered", good, func(r *request) { r.path = strings.Replace(r.path, "?service_name=a", "?&service_name=a", 1) }, 401, "signature", "does not verify"},
		{"path altered", good, func(r *request) { r.path = "/ingest?service_name=a" }, 401, "signature", "does not verify"},
		{"path escaped", good, func(r *request) { r.path = "/api/v1/%70rofiles?service_name=a" }, 401, "signature", "does not verify"},
		{"type altered", good, set("Content-Type", "text/plain"), 401, "signature", "does not verify"},
		{"no type", good, drop("Content-Type"), 401, "signature", "content-type, which the request has 0 times"},
		{"no digest", good, drop("Content-Digest"), 401, "signature", "content-digest, which the request has 0 times"},
		{"digest altered", good, set("Content-Digest", digestOf([]byte("x"), "")), 401, "signature", "does not verify"},
		{"digest of another kind", signing{key: key, created: now.Unix(), digest: "sha-512=:AAAA:"}, nil, 401, "signature", "sha-256 0 times"},
		{"digest twice", signing{key: key, created: now.Unix(), digest: digestOf(raw, ", "+digestOf(raw, ""))}, nil, 401, "signature", "2 times"},
		{"digest short", signing{key: key, created: now.Unix(), digest: "sha-256=:AAAA:"}, nil, 401, "signature", "32 bytes"},
		{"digest no dictionary", signing{key: key, created: now.Unix(), digest: "SHA-256=AAAA"}, nil, 401, "signature", "at byte 0"},
		{"tenant not covered", good, set("X-Scope-OrgID", "acme"), 401, "signature", "does not cover it"},
		{"tenant altered", signing{key: key, created: now.Unix(), tenant: "acme"}, set("X-Scope-OrgID", "other"), 401, "signature", "does not verify"},
		{"tenant taken away", signing{key: key, created: now.Unix(), tenant: "acme"}, drop("X-Scope-OrgID"), 401, "signature", "0 times"},
		{"another key signed", other, nil, 401, "signature", "does not verify"},
		{"clock ahead", signing{key: key, created: now.Unix() + 301}, nil, 401, "clock", "set the clock"},
		{"clock behind", signing{key: key, created: now.Unix() - 301}, nil, 401, "clock", "2026-05-04T11:54:59Z"},
		{"clock at 0", signing{key: key, created: 0}, nil, 401, "clock", "1970"},
		{"clock far", params("999999999999999", q(nonce), q("ed25519"), q(keyID), q("quantra-agent")), nil, 401, "clock", ""},
		{"clock far below", params("-999999999999999", q(nonce), q("ed25519"), q(keyID), q("quantra-agent")), nil, 401, "clock", ""},
		{"label", good, func(r *request) {
			replace("Signature", "quantra=", "sig1=")(r)
			replace("Signature-Input", "quantra=", "sig1=")(r)
		}, 401, "unsigned", ""},
		{"label in one", good, replace("Signature", "quantra=", "sig1="), 401, "signature", "Signature has not"},
		{"two of ours", good, func(r *request) { r.header["Signature"] += ", " + r.header["Signature"] }, 401, "signature", "quantra twice"},
		{"two inputs of ours", good, func(r *request) { r.header["Signature-Input"] += "," + r.header["Signature-Input"] }, 401, "signature", "quantra twice"},
		{"not bytes", good, set("Signature", `quantra="AAAA"`), 401, "signature", "64 bytes"},
		{"short", good, set("Signature", "quantra=:AAAA:"), 401, "signature", "64 bytes"},
		{"not canonical", good, func(r *request) {
			s := r.header["Signature"]
			i := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", s[len(s)-4])
			r.header["Signature"] = s[:len(s)-4] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[i|1]) + "==:"
		}, 401, "signature", "64 bytes"},
		{"signature with a parameter", good, func(r *request) { r.header["Signature"] += ";x" }, 401, "signature", "64 bytes"},
		{"a list of signatures", good, func(r *request) {
			r.header["Signature"] = "quantra=(" + strings.TrimPrefix(r.header["Signature"], "quantra=") + ")"
		}, 401, "signature", "64 bytes"},
		{"no list", good, set("Signature-Input", `quantra="@method"`), 401, "signature", "list of components"},
		{"cut", good, func(r *request) { h := r.header["Signature-Input"]; r.header["Signature-Input"] = h[:len(h)-1] }, 401, "signature", "end with a quote"},
		{"comma", good, func(r *request) { r.header["Signature-Input"] += "," }, 401, "signature", "last comma"},
		{"long", good, func(r *request) {
			r.header["Signature-Input"] += `, x="` + strings.Repeat("x", maxSignatureHeader) + `"`
		}, 401, "signature", "limit is 8192"},
		{"many", good, func(r *request) { r.header["Signature"] += strings.Repeat(", x", maxMembers) }, 401, "signature", "more than 32 members"},
		{"many items", covers(strings.Repeat(`"x" `, 40)), nil, 401, "signature", "more than 32 items"},
		{"no components", good, set("Signature-Input", "quantra=()"), 401, "signature", "covers 0 components"},
		{"missing component", covers(`"@method" "@path" "@query" "content-type"`), nil, 401, "signature", "covers 4 components"},
		{"no query covered", covers(`"@method" "@path" "content-type" "content-digest"`), nil, 401, "signature", "in this order"},
		{"order", covers(`"@path" "@method" "@query" "content-type" "content-digest"`), nil, 401, "signature", "in this order"},
		{"more", covers(`"@method" "@path" "@query" "content-type" "content-digest" "host"`), nil, 401, "signature", "in this order"},
		{"twice", covers(`"@method" "@path" "@query" "content-type" "content-digest" "x-scope-orgid" "@method"`), nil, 401, "signature", "in this order"},
		{"component of another message", covers(`"@method";req "@path" "@query" "content-type" "content-digest"`), nil, 401, "signature", "in this order"},
		{"token", covers(`"@method" "@path" "@query" content-type "content-digest"`), nil, 401, "signature", "in this order"},
		{"no created", params("", q(nonce), q("ed25519"), q(keyID), q("quantra-agent")), nil, 401, "signature", "created is missing"},
		{"created text", params(q(created), q(nonce), q("ed25519"), q(keyID), q("quantra-agent")), nil, 401, "signature", "whole seconds"},
		{"created fraction", params(created+".5", q(nonce), q("ed25519"), q(keyID), q("quantra-agent")), nil, 401, "signature", "whole seconds"},
		{"created date", params("@"+created, q(nonce), q("ed25519"), q(keyID), q("quantra-agent")), nil, 401, "signature", "whole seconds"},
		{"created long", params("1234567890123456", q(nonce), q("ed25519"), q(keyID), q("quantra-agent")), nil, 401, "signature", "15 digits"},
		{"no nonce", params(created, "", q("ed25519"), q(keyID), q("quantra-agent")), nil, 401, "signature", "nonce is missing"},
		{"short nonce", params(created, q("AAAA"), q("ed25519"), q(keyID), q("quantra-agent")), nil, 401, "signature", "16 bytes"},
		{"padded nonce", params(created, q(nonce+"=="), q("ed25519"), q(keyID), q("quantra-agent")), nil, 401, "signature", "16 bytes"},
		{"nonce not canonical", params(created, q("AAAAAAAAAAAAAAAAAAAAAB"), q("ed25519"), q(keyID), q("quantra-agent")), nil, 401, "signature", "16 bytes"},
		{"nonce with line ends", params(created, q("AAAAAAAAAAAA\\\\nAAAAAAAA"), q("ed25519"), q(keyID), q("quantra-agent")), nil, 401, "signature", "16 bytes"},
		{"no alg", params(created, q(nonce), "", q(keyID), q("quantra-agent")), nil, 401, "signature", "alg is missing"},
		{"alg", params(created, q(nonce), q("hmac-sha256"), q(keyID), q("quantra-agent")), nil, 401, "signature", `alg must be "ed25519"`},
		{"alg token", params(created, q(nonce), "ed25519", q(keyID), q("quantra-agent")), nil, 401, "signature", `alg must be "ed25519"`},
		{"no keyid", params(created, q(nonce), q("ed25519"), "", q("quantra-agent")), nil, 401, "signature", "keyid is missing"},
		{"keyid", params(created, q(nonce), q("ed25519"), q("AAAA"), q("quantra-agent")), nil, 401, "signature", "32 bytes"},
		{"keyid of small order", small, nil, 401, "signature", "small order"},
		{"no tag", params(created, q(nonce), q("ed25519"), q(keyID), ""), nil, 401, "signature", "tag is missing"},
		{"tag", params(created, q(nonce), q("ed25519"), q(keyID), q("other")), nil, 401, "signature", `tag must be "quantra-agent"`},
		{"parameter", params(created, q(nonce), q("ed25519"), q(keyID), q("quantra-agent")+";x"), nil, 401, "signature", "parameter x is not understood"},
		{"parameter twice", params(created, q(nonce), q("ed25519"), q(keyID), q("quantra-agent")+`;tag="quantra-agent"`), nil, 401, "signature", "tag is there twice"},
	} {
		for _, require := range []bool{true, false} {
			if !require && c.code == "unsigned" {
				continue
			}
			t.Run(fmt.Sprintf("%s/require=%v", c.name, require), func(t *testing.T) {
				var out sink
				in, srv := serve(t, Options{Append: out.append, Signatures: verifier(SignatureOptions{Require: require, Now: func() time.Time { return now }})})
				r := request{path: signedPath, header: c.s.headers("POST", signedPath, "application/octet-stream", raw), body: raw}
				if c.change != nil {
					c.change(&r)
				}
				status, code, text, h := r.do(t, srv)
				if status != c.status || code != c.code || !strings.Contains(text, c.text) {
					t.Errorf("%d %s %q, want %d %s ...%q...", status, code, text, c.status, c.code, c.text)
				}
				if h.Get("Date") == "" {
					t.Error("the answer does not say what time it is")
				}
				if len(out.pushes) != 0 || in.InFlightBytes() != 0 {
					t.Errorf("%d kept, %d bytes held", len(out.pushes), in.InFlightBytes())
				}
				if c.s.nonce == "" && in.opt.Signatures.seen.n != 0 {
					t.Error("a refused request takes a place among the nonces")
				}
			})
		}
	}
}

// TestUnsigned: required, both routes refuse it before its body is read; not required, it comes in and nobody has signed it.
func TestUnsigned(t *testing.T) {
	raw := sample().AppendPprof(nil)
	for _, path := range []string{signedPath, "/ingest?name=a"} {
		var out sink
		_, srv := serve(t, Options{Append: out.append, Signatures: verifier(SignatureOptions{Require: true, Now: func() time.Time { return now }})})
		if status, code, _, _ := (request{path: path, body: raw}).do(t, srv); status != 401 || code != "unsigned" {
			t.Errorf("%s: %d %s", path, status, code)
		}
		_, srv = serve(t, Options{Append: out.append})
		if status, _, text, _ := (request{path: path, body: raw}).do(t, srv); status != 200 || out.last(t).SignedBy != "" {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	var out sink
	in, err := New(Options{Append: out.append, Signatures: verifier(SignatureOptions{Require: true})})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	in.Register(mux)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("POST", signedPath, readerFunc(func([]byte) (int, error) {
		t.Error("a stranger's body is read")
		return 0, io.EOF
	})))
	if w.Code != 401 {
		t.Errorf("%d", w.Code)
	}
}

// TestReplay: each signed request is taken once, whatever is changed that is not signed; another nonce is another request.
func TestReplay(t *testing.T) {
	raw := sample().AppendPprof(nil)
	var out sink
	clock := now
	_, srv := serve(t, Options{Append: out.append, Signatures: verifier(SignatureOptions{Require: true, Now: func() time.Time { return clock }})})
	s := signing{key: testKey(t), created: now.Unix() + 200}
	r := request{path: signedPath, header: s.headers("POST", signedPath, "application/octet-stream", raw), body: raw}
	send := func() string {
		_, code, _, _ := r.do(t, srv)
		return code
	}
	if got := send(); got != "" {
		t.Fatal(got)
	}
	r.header["User-Agent"] = "another"
	for _, after := range []time.Duration{0, time.Minute, 200 * time.Second, 499 * time.Second, 500 * time.Second} {
		if clock = now.Add(after); send() != "replayed" {
			t.Errorf("after %v: it is taken again", after)
		}
	}
	clock = now.Add(501 * time.Second)
	if got := send(); got != "clock" {
		t.Errorf("past its time: %q", got)
	}
	clock = now.Add(100 * time.Second) // the clock was set back: what was forgotten is not let in
	if got := send(); got != "replayed" && got != "unavailable" {
		t.Errorf("the clock was set back: %q", got)
	}
	clock = now.Add(30 * time.Minute)
	s.created = clock.Unix()
	r.header = s.headers("POST", signedPath, "application/octet-stream", raw)
	if got := send(); got != "" {
		t.Errorf("a new one: %q", got)
	}
	if clock = now.Add(100 * time.Second); send() != "clock" {
		t.Error("created is far ahead now")
	}
	s.created = clock.Unix()
	r.header = s.headers("POST", signedPath, "application/octet-stream", raw)
	if got := send(); got != "unavailable" {
		t.Errorf("what expires in a time that was forgotten: %q", got)
	}
	// The same nonce with another time is no new nonce.
	clock = now.Add(40 * time.Minute)
	s.created, s.nonce = clock.Unix(), "AAAAAAAAAAAAAAAAAAAAAA"
	r.header = s.headers("POST", signedPath, "application/octet-stream", raw)
	if got := send(); got != "" {
		t.Fatal(got)
	}
	s.created += 120
	r.header = s.headers("POST", signedPath, "application/octet-stream", raw)
	if got := send(); got != "replayed" {
		t.Errorf("the same nonce at another time: %q", got)
	}
	_, s.key, _ = ed25519.GenerateKey(nil)
	r.header = s.headers("POST", signedPath, "application/octet-stream", raw)
	if got := send(); got != "" {
		t.Errorf("the same nonce of another key: %q", got)
	}
}

// TestReplayAtOnce: of many copies that come at once one is taken.
func TestReplayAtOnce(t *testing.T) {
	v := verifier(SignatureOptions{Now: func() time.Time { return now }})
	s := signing{key: testKey(t), created: now.Unix()}
	h := s.headers("POST", signedPath, "application/octet-stream", []byte("x"))
	var taken atomic.Int64
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			r := httptest.NewRequest("POST", signedPath, nil)
			for k, v := range h {
				r.Header.Set(k, v)
			}
			if _, err := v.Verify(r, []byte("x")); err == nil {
				taken.Add(1)
			}
		})
	}
	group.Wait()
	if taken.Load() != 1 {
		t.Errorf("%d copies are taken", taken.Load())
	}
}

// TestNoncesFull: without room for what must be remembered nothing is taken, of one key or of all, until time makes room.
func TestNoncesFull(t *testing.T) {
	clock := now
	v := verifier(SignatureOptions{Nonces: 5, NoncesPerKey: 3, Now: func() time.Time { return clock }})
	key := testKey(t)
	_, key2, _ := ed25519.GenerateKey(nil)
	send := func(k ed25519.PrivateKey) string {
		r := httptest.NewRequest("POST", signedPath, nil)
		for k, v := range (signing{key: k, created: clock.Unix()}).headers("POST", signedPath, "application/octet-stream", nil) {
			r.Header.Set(k, v)
		}
		_, err := v.Verify(r, nil)
		var e *SignatureError
		if err == nil {
			return ""
		}
		if !errors.As(err, &e) || e.Status == 503 && e.RetryAfter == 0 {
			t.Errorf("%T %v", err, err)
		}
		return e.Code
	}
	got := []string{send(key), send(key), send(key), send(key), send(key2), send(key2), send(key2)}
	if want := []string{"", "", "", "unavailable", "", "", "unavailable"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	clock = clock.Add(6 * time.Minute)
	if got := send(key); got != "" || v.seen.n != 1 {
		t.Errorf("after 6 min: %q, %d remembered", got, v.seen.n)
	}
}

// TestKeys: a key that the server was not given is refused, in the words that it is given.
func TestKeys(t *testing.T) {
	raw := sample().AppendPprof(nil)
	var out sink
	_, srv := serve(t, Options{Append: out.append, Signatures: verifier(SignatureOptions{
		Now: func() time.Time { return now }, Keys: func(ed25519.PublicKey) error { return errors.New("it is not in agents.keys") },
	})})
	s := signing{key: testKey(t), created: now.Unix()}
	r := request{path: signedPath, header: s.headers("POST", signedPath, "application/octet-stream", raw), body: raw}
	if status, code, text, _ := r.do(t, srv); status != 403 || code != "unknown_key" || text != "key 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo: it is not in agents.keys" {
		t.Errorf("%d %s %s", status, code, text)
	}
}

// TestSince: what may have been taken before this server began to remember is to be signed anew, and what was signed after is taken.
func TestSince(t *testing.T) {
	raw := sample().AppendPprof(nil)
	var out sink
	_, srv := serve(t, Options{Append: out.append, Signatures: verifier(SignatureOptions{Now: func() time.Time { return now }, Since: now.Add(-time.Minute)})})
	for created, want := range map[int64]int{now.Add(-2 * time.Minute).Unix(): 503, now.Add(-time.Minute).Unix(): 503, now.Add(-59 * time.Second).Unix(): 200} {
		s := signing{key: testKey(t), created: created}
		r := request{path: signedPath, header: s.headers("POST", signedPath, "application/octet-stream", raw), body: raw}
		if status, code, text, _ := r.do(t, srv); status != want {
			t.Errorf("signed %d s before: %d %s %s, want %d", now.Unix()-created, status, code, text, want)
		}
	}
}

// TestVerify: signatures are judged by the rule that is given.
func TestVerify(t *testing.T) {
	raw := sample().AppendPprof(nil)
	var out sink
	_, srv := serve(t, Options{Append: out.append, Signatures: verifier(SignatureOptions{Now: func() time.Time { return now }, Verify: func(ed25519.PublicKey, []byte, []byte) bool { return false }})})
	s := signing{key: testKey(t), created: now.Unix()}
	r := request{path: signedPath, header: s.headers("POST", signedPath, "application/octet-stream", raw), body: raw}
	if status, code, _, _ := r.do(t, srv); status != 401 || code != "signature" {
		t.Errorf("%d %s", status, code)
	}
	_, srv = serve(t, Options{Append: out.append, Signatures: NewVerifier(SignatureOptions{Now: func() time.Time { return now }})})
	if status, code, _, _ := r.do(t, srv); status != 503 || code != "unavailable" {
		t.Errorf("without a rule: %d %s", status, code)
	}
}

// TestRequestTarget: what is signed is the request line's, whatever form it has.
func TestRequestTarget(t *testing.T) {
	for line, want := range map[string][2]string{
		"/a?b=c":              {"/a", "?b=c"},
		"/a":                  {"/a", "?"},
		"/a?":                 {"/a", "?"},
		"/a%2Fb/../c?x=%20?y": {"/a%2Fb/../c", "?x=%20?y"},
		"http://h/a?b=c":      {"/a", "?b=c"},
		"http://h:1/a":        {"/a", "?"},
		"http://h":            {"/", "?"},
		"http://h?b":          {"/", "?b"},
		"*":                   {"/", "?"},
	} {
		if path, query := requestTarget(&http.Request{RequestURI: line}); path != want[0] || query != want[1] {
			t.Errorf("%s: %s and %s, want %v", line, path, query, want)
		}
	}
	r, err := http.NewRequest("POST", "http://h/a%2Fb?c=d", nil)
	if err != nil {
		t.Fatal(err)
	}
	if path, query := requestTarget(r); path != "/a%2Fb" || query != "?c=d" {
		t.Errorf("a client's: %s and %s", path, query)
	}
}

// TestCheckKey: the keys that are refused are of small order indeed, and real keys pass.
func TestCheckKey(t *testing.T) {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	for _, y := range smallOrder {
		for _, sign := range []byte{0, 0x80} {
			k := slices.Clone(y[:])
			k[31] |= sign
			if CheckKey(k) == nil {
				t.Errorf("%x passes", k)
			}
			point, err := new(edwards25519.Point).SetBytes(k)
			if err == nil && point.MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) != 1 {
				t.Errorf("%x is of no small order", k)
			}
			// Where x is 0 the encoding with its sign set may be no point; refusing it costs nothing.
			if err != nil && (sign == 0 || y[1] != 0 && y[1] != 0xff) {
				t.Errorf("%x is no point: %v", k, err)
			}
		}
	}
	for i := range int64(19) { // p to 2^255-1
		b := new(big.Int).Add(p, big.NewInt(i)).FillBytes(make([]byte, 32))
		slices.Reverse(b)
		if err := CheckKey(b); err == nil || !strings.Contains(err.Error(), "canonical") {
			t.Errorf("p+%d: %v", i, err)
		}
	}
	for range 100 {
		k, _, err := ed25519.GenerateKey(nil)
		if err != nil || CheckKey(k) != nil {
			t.Errorf("%x: %v %v", k, err, CheckKey(k))
		}
	}
	if CheckKey(nil) == nil {
		t.Error("no key passes")
	}
}

// TestStructured is RFC 9651's grammar at its edges.
func TestStructured(t *testing.T) {
	for in, want := range map[string]string{
		"": "[]", "  ": "[]",
		"a":                               "[a]",
		"a=1, b=-2.5;x;y=?0,c=tok/en:x":   "[a b c]",
		"a=(1 \"x\";p  :AA==:)\t,\tb=@-7": "[a b]",
		`a="q\"\\"`:                       "[a]",
		`a=%"f%c3%bc"`:                    "[a]",
		"*a.b-c_d=?1":                     "[*a.b-c_d]",
		"a=()":                            "[a]",
		"A=1":                             "error", "a=": "error", "a=,b": "error", "a b": "error", "a,": "error", ",a": "error", "a;X=1": "error", "a=\"": "error",
		`a="\n"`: "error", "a=\"\x7f\"": "error", "a=:!:": "error", "a=:AA": "error", "a=?2": "error", "a=@1.5": "error", "a=1.": "error", "a=-": "error", "a=1234567890123.5": "error",
		"a=(1": "error", "a=(1\t2)": "error", "a=(1,2)": "error", "a=%x": "error", `a=%"x`: "error", "a=1.2345": "error", "\ta": "error",
	} {
		got := "error"
		if ms, err := parseDictionary(in); err == nil {
			var keys []string
			for _, m := range ms {
				keys = append(keys, m.key)
			}
			got = fmt.Sprint(keys)
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// FuzzSignature: whatever the headers are, what is let in is what was signed: the one request of the vector, in the writings that mean the same.
func FuzzSignature(f *testing.F) {
	raw, err := os.ReadFile(filepath.Join("testdata", "signature", "request.http"))
	if err != nil {
		f.Fatal(err)
	}
	vector, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		f.Fatal(err)
	}
	input, sig, digest := vector.Header.Get("Signature-Input"), vector.Header.Get("Signature"), vector.Header.Get("Content-Digest")
	f.Add(input, sig, digest)
	f.Add(`proxy=("@authority";req "x";sf);created=1;expires=2.5;b=?1;t=tok/en;d=@7, `+input, "proxy=:AAAA:,\t"+sig, digest+", sha-512=:AAAA:")
	f.Add(strings.Replace(input, "(", "(  ", 1), sig, digest)
	f.Add(strings.Replace(input, ";", ";  ", 3), sig, digest)
	f.Add(`sig1=("date");keyid="x"`, `keyId="x",algorithm="hs2019"`, "SHA-256=x")
	p, err := parseSignature(vector.Header)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, input, sig, digest string) {
		r := httptest.NewRequest("POST", vector.RequestURI, nil)
		r.Header = http.Header{"Content-Type": {"application/octet-stream"}, "Content-Digest": {digest}, "Signature-Input": {input}, "Signature": {sig}}
		v := verifier(SignatureOptions{Require: true, Now: func() time.Time { return time.Unix(1764064800, 0) }})
		keyID, err := v.Verify(r, []byte("profile"))
		var e *SignatureError
		if err != nil && (!errors.As(err, &e) || e.Status != 401 || keyID != "" && e.Code == "unsigned") {
			t.Fatalf("%q, %v", keyID, err)
		}
		got, perr := parseSignature(r.Header)
		if perr == nil && got != nil && got.params == p.params && bytes.Equal(got.signature, p.signature) && digest == vector.Header.Get("Content-Digest") {
			if err != nil {
				t.Fatalf("the vector is refused: %v", err)
			}
			return
		}
		if err == nil && (keyID != p.keyID || got.params != p.params || !bytes.Equal(got.signature, p.signature)) {
			t.Fatalf("it is taken, and is not what was signed: %s %s", input, sig)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	v := verifier(SignatureOptions{Require: true, Nonces: 1 << 30, NoncesPerKey: 1 << 30, Now: func() time.Time { return now }})
	key := testKey(b)
	body := make([]byte, 20<<10)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		r := httptest.NewRequest("POST", signedPath, nil)
		for k, v := range (signing{key: key, created: now.Unix()}).headers("POST", signedPath, "application/octet-stream", body) {
			r.Header.Set(k, v)
		}
		b.StartTimer()
		if _, err := v.Verify(r, body); err != nil {
			b.Fatal(err)
		}
	}
}
