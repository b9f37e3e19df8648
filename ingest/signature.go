package ingest

import (
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// SignatureOptions say whose requests a [Verifier] lets in. The zero value lets in those that are not signed, and
// those that are signed rightly by any key.
type SignatureOptions struct {
	// Require refuses requests that are not signed.
	Require bool
	// Keys refuses a key by returning an error, whose text the sender reads (403). nil accepts any: the signature then says
	// that the same sender is back, and not who it is. One that wraps ErrUnavailable is told as 503. It is called for each request before its signature is checked.
	Keys func(ed25519.PublicKey) error
	// Nonces bounds the requests that are remembered so that none is accepted twice, NoncesPerKey those of one
	// key. Past it signed requests get 503. Each takes about 40 bytes for at most 10 minutes. 0 is 1,048,576 and 16,384.
	Nonces, NoncesPerKey int
	// Verify checks an Ed25519 signature. A house has one rule for that, so it is the caller's to give: where it is nil, requests that are
	// signed get 503.
	Verify func(key ed25519.PublicKey, message, signature []byte) bool
	// Since is when this server began to remember nonces, where another may have taken requests before it: what was signed until then gets
	// 503 and is to be signed anew, as nobody knows whether it was here before. The zero time is that nobody has.
	Since time.Time
	Now   func() time.Time // nil is time.Now
}

// The profile of RFC 9421 that docs/format/signature.md draws.
const (
	signatureLabel = "quantra"
	signatureTag   = "quantra-agent"
	signatureAlg   = "ed25519"
	// SignatureSkew is how far created may be from the server's clock, either way.
	SignatureSkew = 5 * time.Minute

	nonceSize = 16
	// maxSignatureHeader bounds Signature-Input, Signature and Content-Digest each, in bytes; ours have some 300.
	maxSignatureHeader = 8 << 10
	// tenantComponent is covered where the request has the header, or another could choose the tenant.
	tenantComponent = "x-scope-orgid"
)

var signatureComponents = []string{"@method", "@path", "@query", "content-type", "content-digest"}

// SignatureError is why a request is refused for its signature, or for the want of one. Status and Code are those of docs/format/signature.md.
type SignatureError struct {
	Status     int
	Code, Text string
	RetryAfter time.Duration // 0 is none
}

func (e *SignatureError) Error() string { return e.Text }

func badSignature(format string, args ...any) error {
	return &SignatureError{Status: http.StatusUnauthorized, Code: "signature", Text: "the signature is not right: " + fmt.Sprintf(format, args...)}
}

// Verifier checks signed requests. One may serve many routes, and should: it remembers what it has seen.
type Verifier struct {
	opt  SignatureOptions
	seen nonces
}

// NewVerifier fills in o's defaults.
func NewVerifier(o SignatureOptions) *Verifier {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Verifier{opt: o, seen: nonces{limit: cmp.Or(o.Nonces, 1<<20), perKey: cmp.Or(o.NoncesPerKey, 1<<14), buckets: map[int64]*nonceBucket{}}}
}

// Verify checks a request whose body has been read, as it was sent: before a Content-Encoding is undone. keyID is who signed it,
// "" where nobody did and nobody must. An error is a *[SignatureError]. A request is good once: a second call refuses it as replayed.
func (v *Verifier) Verify(r *http.Request, body []byte) (keyID string, err error) {
	s, err := v.begin(r)
	if err != nil || s == nil {
		return "", err
	}
	return s.keyID, s.finish(body)
}

// signed is a request whose signature is right, but whose body is still to be seen. Splitting the check lets a stranger's
// request be refused before its body takes memory.
type signed struct {
	v        *Verifier
	keyID    string
	key      [ed25519.PublicKeySize]byte
	nonce    [nonceSize]byte
	digest   [sha256.Size]byte
	created  int64
	finished bool
}

// begin checks all but the body. It is nil where there is no signature and none is required.
func (v *Verifier) begin(r *http.Request) (*signed, error) {
	p, err := parseSignature(r.Header)
	if err != nil {
		return nil, err
	}
	if p == nil {
		if v.opt.Require {
			return nil, &SignatureError{Status: http.StatusUnauthorized, Code: "unsigned", Text: "this server takes signed requests only: sign it as docs/format/signature.md draws it, or give the agent a key"}
		}
		return nil, nil
	}
	if v.opt.Verify == nil {
		return nil, &SignatureError{Status: http.StatusServiceUnavailable, Code: "unavailable", Text: "this server was given no rule to verify signatures by"}
	}
	now := v.opt.Now()
	if off := time.Duration(now.Unix()-p.created) * time.Second; off > SignatureSkew || off < -SignatureSkew {
		return nil, &SignatureError{Status: http.StatusUnauthorized, Code: "clock",
			Text: fmt.Sprintf("the request was signed at %s and the server's clock says %s, more than %v apart: set the clock, and sign it anew",
				time.Unix(p.created, 0).UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), SignatureSkew)}
	}
	if !v.opt.Since.IsZero() && p.created <= v.opt.Since.Unix() {
		return nil, &SignatureError{Status: http.StatusServiceUnavailable, Code: "unavailable", RetryAfter: time.Second,
			Text: "the request was signed before this server started, which cannot know whether it was here before: sign it anew"}
	}
	if v.opt.Keys != nil {
		if err := v.opt.Keys(p.key); err != nil {
			if errors.Is(err, ErrUnavailable) {
				return nil, &SignatureError{Status: http.StatusServiceUnavailable, Code: "unavailable", Text: err.Error() + "; send it again later", RetryAfter: 30 * time.Second}
			}
			return nil, &SignatureError{Status: http.StatusForbidden, Code: "unknown_key", Text: fmt.Sprintf("key %s: %v", p.keyID, err)}
		}
	}
	base, err := signatureBase(r, p)
	if err != nil {
		return nil, err
	}
	if !v.opt.Verify(p.key, base, p.signature) {
		return nil, badSignature("it does not verify: the method, path, query, Content-Type or Content-Digest is not what was signed, or another key signed it")
	}
	s := &signed{v: v, keyID: p.keyID, key: [ed25519.PublicKeySize]byte(p.key), nonce: p.nonce, created: p.created}
	s.digest, err = contentDigest(r.Header)
	return s, err
}

// finish checks the body, and that the request was not here before.
func (s *signed) finish(body []byte) error {
	s.finished = true
	sum := sha256.Sum256(body)
	if subtle.ConstantTimeCompare(sum[:], s.digest[:]) != 1 {
		return badSignature("Content-Digest is not that of the body's %d bytes", len(body))
	}
	switch err := s.v.seen.take(s.key, s.nonce, s.created+int64(SignatureSkew/time.Second), s.v.opt.Now().Unix()); {
	case errors.Is(err, errReplayed):
		return &SignatureError{Status: http.StatusUnauthorized, Code: "replayed", Text: "a request with this nonce was here before: each is accepted once; sign what you send again with a new nonce"}
	case err != nil:
		return &SignatureError{Status: http.StatusServiceUnavailable, Code: "unavailable", Text: err.Error() + "; send it again later", RetryAfter: 30 * time.Second}
	}
	return nil
}

// parsedSignature is what the two headers say under our label.
type parsedSignature struct {
	tenant    bool   // x-scope-orgid is covered
	params    string // the components and parameters, as RFC 9421, 2.5, has them in the base
	created   int64
	nonce     [nonceSize]byte
	keyID     string
	key       ed25519.PublicKey
	signature []byte
}

// parseSignature is nil where there is no signature of ours.
func parseSignature(h http.Header) (*parsedSignature, error) {
	inputs, err := headerDictionary(h, "Signature-Input")
	if err != nil {
		return nil, err
	}
	sigs, err := headerDictionary(h, "Signature")
	if err != nil {
		if len(h.Values("Signature-Input")) == 0 {
			return nil, nil // a header of another scheme under the same name
		}
		return nil, err
	}
	input, err := ours(inputs, "Signature-Input")
	if err != nil {
		return nil, err
	}
	sig, err := ours(sigs, "Signature")
	switch {
	case err != nil:
		return nil, err
	case input == nil && sig == nil:
		return nil, nil
	case input == nil:
		return nil, badSignature("Signature has %s, and Signature-Input has not", signatureLabel)
	case sig == nil:
		return nil, badSignature("Signature-Input has %s, and Signature has not", signatureLabel)
	}
	p := &parsedSignature{}
	if p.signature, err = sfBytes(sig.item, ed25519.SignatureSize); err != nil || sig.isList || len(sig.params) > 0 {
		return nil, badSignature("Signature: %s must be %d bytes in base64 between colons", signatureLabel, ed25519.SignatureSize)
	}
	if !input.isList {
		return nil, badSignature("Signature-Input: %s must be a list of components", signatureLabel)
	}
	if err := p.readComponents(input); err != nil {
		return nil, err
	}
	return p, p.readParams(input)
}

// ours is the member with our label, nil where there is none. Two are refused: which of them was meant is for an attacker to choose.
func ours(members []sfMember, header string) (m *sfMember, err error) {
	for i := range members {
		if members[i].key != signatureLabel {
			continue
		}
		if m != nil {
			return nil, badSignature("%s has %s twice", header, signatureLabel)
		}
		m = &members[i]
	}
	return m, nil
}

func (p *parsedSignature) readComponents(input *sfMember) error {
	want := signatureComponents
	if len(input.list) == len(want)+1 {
		want = append(want[:len(want):len(want)], tenantComponent)
		p.tenant = true
	}
	var base strings.Builder
	for i, c := range input.list {
		if i >= len(want) || c.kind != sfString || c.text != want[i] || c.hasParams {
			return badSignature("Signature-Input: the components must be %q in this order, and then %q where the request has it", signatureComponents, tenantComponent)
		}
		fmt.Fprintf(&base, " %q", c.text)
	}
	if len(input.list) < len(want) {
		return badSignature("Signature-Input: it covers %d components; they must be %q", len(input.list), signatureComponents)
	}
	p.params = "(" + base.String()[1:] + ")"
	return nil
}

func (p *parsedSignature) readParams(input *sfMember) error {
	have := map[string]bool{}
	for _, q := range input.params {
		if have[q.key] {
			return badSignature("Signature-Input: the parameter %s is there twice", q.key)
		}
		have[q.key] = true
		text, ok, want := strconv.Quote(q.text), q.kind == sfString, "" // none that is accepted has what a quoted string escapes
		switch q.key {
		case "created":
			var err error
			p.created, err = strconv.ParseInt(q.text, 10, 64)
			text, ok, want = strconv.FormatInt(p.created, 10), q.kind == sfNumber && err == nil, "whole seconds"
		case "nonce":
			b, err := base64.RawURLEncoding.Strict().DecodeString(q.text)
			if ok, want = ok && err == nil && len(b) == nonceSize, "16 bytes in base64url without padding"; ok {
				p.nonce = [nonceSize]byte(b)
			}
		case "keyid":
			b, err := base64.RawURLEncoding.Strict().DecodeString(q.text)
			if ok, want = ok && err == nil && len(b) == ed25519.PublicKeySize, "32 bytes in base64url without padding"; ok {
				p.key, p.keyID = b, q.text
			}
		case "alg":
			ok, want = ok && q.text == signatureAlg, strconv.Quote(signatureAlg)
		case "tag":
			ok, want = ok && q.text == signatureTag, strconv.Quote(signatureTag)
		default:
			return badSignature("Signature-Input: the parameter %.40s is not understood", q.key)
		}
		if !ok {
			return badSignature("Signature-Input: %s must be %s", q.key, want)
		}
		p.params += ";" + q.key + "=" + text
	}
	for _, name := range []string{"created", "nonce", "alg", "keyid", "tag"} {
		if !have[name] {
			return badSignature("Signature-Input: the parameter %s is missing", name)
		}
	}
	if err := CheckKey(p.key); err != nil {
		return badSignature("keyid: %v", err)
	}
	return nil
}

// signatureBase is what was signed (RFC 9421, 2.5), made from the request as it came.
func signatureBase(r *http.Request, p *parsedSignature) ([]byte, error) {
	path, query := requestTarget(r)
	names, values := signatureComponents, []string{r.Method, path, query}
	if p.tenant {
		names = append(names[:len(names):len(names)], tenantComponent)
	}
	for _, name := range names[len(values):] {
		have := r.Header.Values(name)
		if len(have) != 1 {
			return nil, badSignature("it covers %s, which the request has %d times; it must have it once", name, len(have))
		}
		values = append(values, strings.TrimSpace(have[0]))
	}
	if !p.tenant && len(r.Header.Values(tenantComponent)) > 0 {
		return nil, badSignature("the request has X-Scope-OrgID, and it does not cover it")
	}
	var b strings.Builder
	for i, name := range names {
		fmt.Fprintf(&b, "%q: %s\n", name, values[i])
	}
	fmt.Fprintf(&b, "\"@signature-params\": %s", p.params)
	return []byte(b.String()), nil
}

// requestTarget is the path and the query, with its ?, as they stand in the request line.
func requestTarget(r *http.Request) (path, query string) {
	target := r.RequestURI
	if target == "" { // the request did not come through a server
		target = r.URL.RequestURI()
	}
	if !strings.HasPrefix(target, "/") { // to a proxy: http://host/path
		_, rest, _ := strings.Cut(target, "://")
		if i := strings.IndexAny(rest, "/?"); i >= 0 {
			target = rest[i:]
		} else {
			target = ""
		}
	}
	path, query, _ = strings.Cut(target, "?")
	return cmp.Or(path, "/"), "?" + query
}

// contentDigest is the SHA-256 that Content-Digest claims (RFC 9530, 2).
func contentDigest(h http.Header) (sum [sha256.Size]byte, err error) {
	members, err := headerDictionary(h, "Content-Digest")
	if err != nil {
		return sum, err
	}
	n := 0
	for _, m := range members {
		if m.key != "sha-256" {
			continue
		}
		b, err := sfBytes(m.item, sha256.Size)
		if err != nil || m.isList {
			return sum, badSignature("Content-Digest: sha-256 must be %d bytes in base64 between colons", sha256.Size)
		}
		sum = [sha256.Size]byte(b)
		n++
	}
	if n != 1 {
		return sum, badSignature("Content-Digest has sha-256 %d times; it must have it once", n)
	}
	return sum, nil
}

// headerDictionary reads a header that is a dictionary (RFC 9651, 3.2), over all its lines.
func headerDictionary(h http.Header, name string) ([]sfMember, error) {
	lines := h.Values(name)
	if len(lines) == 0 {
		return nil, nil
	}
	s := strings.Join(lines, ", ")
	if len(s) > maxSignatureHeader {
		return nil, badSignature("%s has %d bytes, the limit is %d", name, len(s), maxSignatureHeader)
	}
	members, err := parseDictionary(s)
	if err != nil {
		return nil, badSignature("%s cannot be read: %v", name, err)
	}
	return members, nil
}

// sfBytes is an item of n bytes, in canonical base64: there is one way to write each signature.
func sfBytes(v sfItem, n int) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(v.text)
	if v.kind != sfBinary || err != nil || len(b) != n {
		return nil, errors.New("not the bytes that were expected")
	}
	return b, nil
}

// CheckKey refuses Ed25519 keys that prove nothing, which crypto/ed25519 lets pass: points of small order, under which one
// signature fits many messages, and those that are not written in the one canonical way (RFC 8032, 5.1.3: y < 2^255-19), by
// which one key would have two names. The list is that of libsodium's ge25519_has_small_order, without the non-canonical ones.
func CheckKey(key ed25519.PublicKey) error {
	if len(key) != ed25519.PublicKeySize {
		return fmt.Errorf("a key has %d bytes, this one has %d", ed25519.PublicKeySize, len(key))
	}
	y := [ed25519.PublicKeySize]byte(key)
	y[31] &= 0x7f // the sign of x
	canonical := y[31] != 0x7f || y[0] < 0xed
	for _, b := range y[1:31] {
		canonical = canonical || b != 0xff
	}
	if !canonical {
		return errors.New("the key is not written in canonical form")
	}
	for _, small := range smallOrder {
		if y == small {
			return errors.New("the key is a point of small order, under which signatures prove nothing")
		}
	}
	return nil
}

// smallOrder are the y of the points whose order divides 8, little-endian.
var smallOrder = [][ed25519.PublicKeySize]byte{
	{},  // order 4
	{1}, // order 1
	{0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, // order 2
	{0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05}, // order 8
	{0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a}, // order 8
}

// nonces are the requests that were accepted, as long as they could be again. They go by the minute in which they could
// be for the last time, so that forgetting is dropping a map.
type nonces struct {
	limit, perKey int

	mu      sync.Mutex
	buckets map[int64]*nonceBucket // by minute of expiry; SignatureSkew allows no more than 12
	n       int
	floor   int64 // what expires before this second has been forgotten, and is not taken
}

type nonceBucket struct {
	// A truncated hash of key and nonce: 128 bits, for which nobody finds another's, and who finds two of his own only refuses himself.
	seen   map[[16]byte]struct{}
	perKey map[[ed25519.PublicKeySize]byte]int
}

var errReplayed = errors.New("replayed")

// take notes a request that could be replayed until the second expires, or says why it may not be taken.
func (s *nonces) take(key [ed25519.PublicKeySize]byte, nonce [nonceSize]byte, expires, now int64) error {
	const minute = 60
	sum := sha256.Sum256(append(key[:], nonce[:]...))
	id := [16]byte(sum[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	for m, b := range s.buckets {
		if end := (m + 1) * minute; end <= now {
			s.n -= len(b.seen)
			s.floor = max(s.floor, end)
			delete(s.buckets, m)
		}
	}
	if expires < s.floor { // only where the clock was set back
		return errors.New("the server's clock was set back, and what was seen before that is forgotten")
	}
	ofKey := 0
	for _, b := range s.buckets { // another created does not make an old nonce new
		if _, ok := b.seen[id]; ok {
			return errReplayed
		}
		ofKey += b.perKey[key]
	}
	if s.n >= s.limit || ofKey >= s.perKey {
		return fmt.Errorf("%d signed requests are remembered, %d of this key, and there is no room for more", s.n, ofKey)
	}
	b := s.buckets[expires/minute]
	if b == nil {
		b = &nonceBucket{map[[16]byte]struct{}{}, map[[ed25519.PublicKeySize]byte]int{}}
		s.buckets[expires/minute] = b
	}
	b.seen[id] = struct{}{}
	b.perKey[key]++
	s.n++
	return nil
}
