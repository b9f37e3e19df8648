// Package zerotrust is the guard: nobody is let in without a decision, and no decision is given without a record of it.
//
// An identity is a document that an issuer signed ([Identity]). [Guard.Evaluate] judges a request by it: identity, revocation, policy,
// trust, level, a seat in a sandbox, record. What it has let in stays under watch as a [Session]: challenged every five minutes, and
// measured against how it has behaved so far. Before all of that [Admission] bounds what strangers can make us compute.
//
// The guard has no transport: messages are bytes in and bytes out. What is not shown to be allowed is denied, and an error is a denial.
// The bytes of documents, lists and challenges are drawn in docs/format/identity.md, those of what is kept in docs/format/trust.md.
package zerotrust

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/quantra-l/quantra/seal"
)

// The words to branch on. Each error of this room that has to do with its inputs is one of them.
var (
	// ErrCorrupt says that bytes are not what they should be: malformed, cut, damaged, or in a form that is not the one form.
	ErrCorrupt = errors.New("corrupt")
	// ErrDenied says that somebody was judged, and is not let in.
	ErrDenied = errors.New("denied")
	// ErrUnavailable says that it cannot be judged now, so it is denied.
	ErrUnavailable = errors.New("unavailable")
)

// Domains of signatures: one of a kind is none of another.
const (
	domainIdentity   = "quantra identity v1"
	domainRevocation = "quantra revocations v1"
	domainChallenge  = "quantra challenge v1"
)

// Bounds on a document.
const (
	MaxDocument   = 8 << 10 // bytes
	MaxAttributes = 32
	maxName       = 64  // bytes of an attribute's name
	maxValue      = 256 // bytes of its value
	// DefaultLife is how long an identity is good for (issue 7, item 2: 365 days).
	DefaultLife = 365 * 24 * time.Hour
	// maxLife keeps a slip from issuing for ever: ten years.
	maxLife = 10 * DefaultLife
)

// RolesAttribute names the attribute that grants roles, with commas between them. Only an issuer can give it.
const RolesAttribute = "roles"

// Kinds are the kinds of identities; the number of one in a document is its place here, from 1.
var Kinds = []string{"peer", "agent", "person", "token", "service"}

// Attribute is something that an issuer says of an identity.
type Attribute struct{ Name, Value string }

// Identity is what a document says. It is bound to a key, whose [IDOf] is its id.
type Identity struct {
	Kind   string // one of [Kinds]
	Key    seal.PublicKey
	Issuer seal.PublicKey // who signed; equal to Key where it vouches for itself
	// It holds from NotBefore, inclusive, to Expires, exclusive. Whole seconds.
	NotBefore, Expires time.Time
	Attributes         []Attribute // sorted by name, each name once
}

// ID is the identity's id.
func (d *Identity) ID() string { return IDOf(d.Key) }

// SelfSigned says that nobody but itself vouches for it.
func (d *Identity) SelfSigned() bool { return d.Key == d.Issuer }

const (
	identityMagic   = "QLID"
	identityVersion = 1
	identityFixed   = 4 + 1 + 1 + 32 + 32 + 8 + 8 + 1 // up to and with the count of attributes
)

// Sign is the document of d, signed by its issuer's key. Attributes may be in any order.
func (d *Identity) Sign(issuer seal.Key) ([]byte, error) {
	if issuer.Public() != d.Issuer {
		return nil, errors.New("the key is not that of the issuer whom the identity names")
	}
	c := *d
	c.Attributes = slices.SortedFunc(slices.Values(d.Attributes), func(a, b Attribute) int { return strings.Compare(a.Name, b.Name) })
	c.NotBefore, c.Expires = c.NotBefore.Truncate(time.Second), c.Expires.Truncate(time.Second)
	if err := c.check(); err != nil {
		return nil, err
	}
	body := c.body()
	sig, err := issuer.Sign(domainIdentity, body)
	if err != nil {
		return nil, err
	}
	doc := append(body, sig[:]...)
	if len(doc) > MaxDocument {
		return nil, fmt.Errorf("%w: a document has at most %d bytes, this one %d: shorten its attributes", ErrCorrupt, MaxDocument, len(doc))
	}
	return doc, nil
}

// body is all of the document but the signature. Each field has a fixed width or its length before it, in one form, so that no two
// identities have the same bytes and no identity has two forms.
func (d *Identity) body() []byte {
	b := make([]byte, 0, 256)
	b = append(b, identityMagic...)
	b = append(b, identityVersion, byte(slices.Index(Kinds, d.Kind)+1))
	b = append(b, d.Key[:]...)
	b = append(b, d.Issuer[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(d.NotBefore.Unix()))
	b = binary.BigEndian.AppendUint64(b, uint64(d.Expires.Unix()))
	b = append(b, byte(len(d.Attributes)))
	for _, a := range d.Attributes {
		b = append(b, byte(len(a.Name)))
		b = append(b, a.Name...)
		b = binary.BigEndian.AppendUint16(b, uint16(len(a.Value)))
		b = append(b, a.Value...)
	}
	return b
}

// check says what is wrong with the fields. Times are compared with each other only: whether it holds now is the guard's question.
func (d *Identity) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: identity: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
	if !slices.Contains(Kinds, d.Kind) {
		return bad("kind %.20q is none of %s", d.Kind, strings.Join(Kinds, ", "))
	}
	if err := checkKey(d.Key); err != nil {
		return bad("its key: %v", err)
	}
	if err := checkKey(d.Issuer); err != nil {
		return bad("its issuer's key: %v", err)
	}
	if life := d.Expires.Sub(d.NotBefore); life <= 0 || life > maxLife || d.NotBefore.Unix() < 0 {
		return bad("it holds from %s to %s, which must be forward, after 1970 and at most ten years", d.NotBefore.UTC().Format(time.RFC3339), d.Expires.UTC().Format(time.RFC3339))
	}
	if len(d.Attributes) > MaxAttributes {
		return bad("%d attributes; %d are allowed", len(d.Attributes), MaxAttributes)
	}
	last := ""
	for _, a := range d.Attributes {
		switch {
		case !nameOK(a.Name):
			return bad("attribute %.70q: a name is 1 to %d of a-z, 0-9, _, - and ., and begins with a letter", a.Name, maxName)
		case a.Name <= last:
			return bad("attribute %q: names are sorted, each once", a.Name)
		case len(a.Value) > maxValue || !utf8.ValidString(a.Value) || strings.ContainsFunc(a.Value, unicode.IsControl):
			return bad("attribute %q: a value is at most %d bytes of UTF-8 without control characters", a.Name, maxValue)
		case a.Name == RolesAttribute && d.SelfSigned():
			return bad("attribute %q: nobody grants roles to himself: an issuer must sign", a.Name)
		}
		last = a.Name
	}
	return nil
}

func nameOK(s string) bool {
	if s == "" || len(s) > maxName || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// Decode reads a document without asking whether its signature is good: that is [VerifyDocument]. What is not the one form of an
// identity is [ErrCorrupt].
func Decode(doc []byte) (*Identity, error) {
	bad := func(format string, args ...any) (*Identity, error) {
		return nil, fmt.Errorf("%w: identity: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
	if len(doc) < identityFixed+seal.SignatureSize || len(doc) > MaxDocument {
		return bad("a document has %d to %d bytes, this one %d", identityFixed+seal.SignatureSize, MaxDocument, len(doc))
	}
	if string(doc[:4]) != identityMagic {
		return bad("it begins with %x, not with %q", doc[:4], identityMagic)
	}
	if doc[4] != identityVersion {
		return bad("version %d; this program understands %d", doc[4], identityVersion)
	}
	if doc[5] == 0 || int(doc[5]) > len(Kinds) {
		return bad("kind %d at byte 5 is not known", doc[5])
	}
	d := &Identity{Kind: Kinds[doc[5]-1], Key: seal.PublicKey(doc[6:38]), Issuer: seal.PublicKey(doc[38:70])}
	from, to := binary.BigEndian.Uint64(doc[70:]), binary.BigEndian.Uint64(doc[78:])
	const latest = 1 << 40 // seconds: the year 36812, so that no sum of times overflows
	if from > latest || to > latest {
		return bad("a time at byte 70 or 78 is out of range")
	}
	d.NotBefore, d.Expires = time.Unix(int64(from), 0).UTC(), time.Unix(int64(to), 0).UTC()
	rest := doc[identityFixed : len(doc)-seal.SignatureSize]
	n := int(doc[identityFixed-1])
	if n > MaxAttributes {
		return bad("%d attributes; %d are allowed", n, MaxAttributes)
	}
	for range n {
		at := len(doc) - seal.SignatureSize - len(rest)
		var name, value []byte
		if len(rest) < 1 || len(rest) < 1+int(rest[0])+2 {
			return bad("it is cut off in an attribute at byte %d", at)
		}
		name, rest = rest[1:1+int(rest[0])], rest[1+int(rest[0]):]
		size := int(binary.BigEndian.Uint16(rest))
		if rest = rest[2:]; len(rest) < size {
			return bad("it is cut off in an attribute at byte %d", at)
		}
		value, rest = rest[:size], rest[size:]
		d.Attributes = append(d.Attributes, Attribute{string(name), string(value)})
	}
	if len(rest) > 0 {
		return bad("%d bytes between its attributes and its signature", len(rest))
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	return d, nil
}

// VerifyDocument decodes a document and checks its issuer's signature: nothing says yet that the issuer is to be believed, that the time
// is right, or that it was not revoked.
func VerifyDocument(doc []byte) (*Identity, error) {
	d, err := Decode(doc)
	if err != nil {
		return nil, err
	}
	if err := d.verify(doc, d.Issuer.Verify); err != nil {
		return nil, err
	}
	return d, nil
}

// verify checks the signature of the document that d was decoded from, by its issuer's key.
func (d *Identity) verify(doc []byte, verify func(domain string, message []byte, s seal.Signature) error) error {
	body, sig := doc[:len(doc)-seal.SignatureSize], seal.Signature(doc[len(doc)-seal.SignatureSize:])
	if err := verify(domainIdentity, body, sig); err != nil {
		return fmt.Errorf("%w: identity: %w", ErrDenied, err)
	}
	return nil
}

// smallOrder are the y coordinates of the points of small order, without the sign of x: 1 (order 1), -1 (order 2), 0 (order 4) and the
// two of order 8. One signature by such a key fits many messages. Source: the torsion subgroup of edwards25519 (RFC 8032, 5.1), checked
// by a test.
var smallOrder = [...]seal.PublicKey{
	{0: 1},
	{0: 0xec, 1: 0xff, 2: 0xff, 3: 0xff, 4: 0xff, 5: 0xff, 6: 0xff, 7: 0xff, 8: 0xff, 9: 0xff, 10: 0xff, 11: 0xff, 12: 0xff, 13: 0xff, 14: 0xff, 15: 0xff, 16: 0xff, 17: 0xff, 18: 0xff, 19: 0xff, 20: 0xff, 21: 0xff, 22: 0xff, 23: 0xff, 24: 0xff, 25: 0xff, 26: 0xff, 27: 0xff, 28: 0xff, 29: 0xff, 30: 0xff, 31: 0x7f},
	{},
	{0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05},
	{0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a},
}

// checkKey refuses keys that are not in the one form (y below 2^255 - 19) or of small order. The signature's rule refuses them too, but
// the key that an issuer vouches for is verified by no signature here.
func checkKey(k seal.PublicKey) error {
	y := k
	y[31] &= 0x7f
	if y[31] == 0x7f && y[0] >= 0xed && bytes.Count(y[1:31], []byte{0xff}) == 30 {
		return errors.New("it is not in canonical form")
	}
	if slices.Contains(smallOrder[:], y) {
		return errors.New("it is of small order: one signature fits many messages")
	}
	return nil
}
