package zerotrust

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/quantra-l/quantra/seal"
)

// Bounds on a list of revocations.
const (
	MaxRevocations    = 65_536
	MaxRevocationList = 8 << 20 // bytes
	maxPrincipal      = 128     // bytes of a principal's name
	maxReason         = 128     // bytes
)

// Revocation takes back an identity (Principal, with all its documents), or one document.
type Revocation struct {
	Principal string            // an id, or the name of whoever has no key; "" where it is a document
	Document  [sha256.Size]byte // the SHA-256 of the whole document
	At        time.Time         // whole seconds
	Reason    string
}

// order is by what is revoked: principals first.
func (r *Revocation) order(o *Revocation) int {
	if c := cmp.Compare(r.kind(), o.kind()); c != 0 {
		return c
	}
	return cmp.Or(strings.Compare(r.Principal, o.Principal), bytes.Compare(r.Document[:], o.Document[:]))
}

const (
	revokesPrincipal = 1
	revokesDocument  = 2
)

func (r *Revocation) kind() byte {
	if r.Principal != "" {
		return revokesPrincipal
	}
	return revokesDocument
}

// RevocationList is all that one issuer has revoked. A list replaces that issuer's list of a lower number.
type RevocationList struct {
	Issuer  seal.PublicKey
	Number  uint64    // from 1
	Issued  time.Time // whole seconds
	Entries []Revocation
}

const (
	revocationMagic   = "QLRV"
	revocationVersion = 1
	revocationFixed   = 4 + 1 + 32 + 8 + 8 + 4
)

// Sign is the list as bytes, signed by its issuer. Entries may be in any order.
func (l *RevocationList) Sign(issuer seal.Key) ([]byte, error) {
	if issuer.Public() != l.Issuer {
		return nil, fmt.Errorf("the key is not that of the issuer whom the list names")
	}
	c := *l
	c.Entries = slices.SortedFunc(slices.Values(l.Entries), func(a, b Revocation) int { return a.order(&b) })
	if err := c.check(); err != nil {
		return nil, err
	}
	b := append(make([]byte, 0, 256), revocationMagic...)
	b = append(b, revocationVersion)
	b = append(b, c.Issuer[:]...)
	b = binary.BigEndian.AppendUint64(b, c.Number)
	b = binary.BigEndian.AppendUint64(b, uint64(c.Issued.Unix()))
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.Entries)))
	for i := range c.Entries {
		e := &c.Entries[i]
		b = append(b, e.kind())
		if e.Principal != "" {
			b = append(b, byte(len(e.Principal)))
			b = append(b, e.Principal...)
		} else {
			b = append(b, e.Document[:]...)
		}
		b = binary.BigEndian.AppendUint64(b, uint64(e.At.Unix()))
		b = append(b, byte(len(e.Reason)))
		b = append(b, e.Reason...)
	}
	sig, err := issuer.Sign(domainRevocation, b)
	if err != nil {
		return nil, err
	}
	if b = append(b, sig[:]...); len(b) > MaxRevocationList {
		return nil, fmt.Errorf("%w: revocations: a list has at most %d bytes, this one %d", ErrCorrupt, MaxRevocationList, len(b))
	}
	return b, nil
}

func (l *RevocationList) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: revocations: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
	if l.Number == 0 || l.Issued.Unix() < 0 || l.Issued.Unix() > 1<<40 {
		return bad("number %d of %s: numbers begin at 1, and times after 1970", l.Number, l.Issued.UTC().Format(time.RFC3339))
	}
	if len(l.Entries) > MaxRevocations {
		return bad("%d entries; %d are allowed", len(l.Entries), MaxRevocations)
	}
	for i := range l.Entries {
		e := &l.Entries[i]
		switch {
		case e.Principal != "" && e.Document != [sha256.Size]byte{}:
			return bad("entry %d has both a principal and a document", i+1)
		case e.Principal != "" && !principalOK(e.Principal):
			return bad("entry %d: a principal is 1 to %d bytes of printable ASCII without blanks", i+1, maxPrincipal)
		case len(e.Reason) > maxReason || !utf8.ValidString(e.Reason) || strings.ContainsFunc(e.Reason, unicode.IsControl):
			return bad("entry %d: a reason is at most %d bytes of UTF-8 without control characters", i+1, maxReason)
		case e.At.Unix() < 0 || e.At.Unix() > 1<<40:
			return bad("entry %d: its time is out of range", i+1)
		case i > 0 && l.Entries[i-1].order(e) >= 0:
			return bad("entry %d: entries are sorted, each once", i+1)
		}
	}
	return nil
}

// principalOK says that s may be a principal's name: it is a key in maps and files, and stands in logs.
func principalOK(s string) bool {
	if s == "" || len(s) > maxPrincipal {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// DecodeRevocations reads a list and checks its signature: whether its issuer may revoke is the guard's question.
func DecodeRevocations(b []byte) (*RevocationList, error) {
	bad := func(format string, args ...any) (*RevocationList, error) {
		return nil, fmt.Errorf("%w: revocations: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
	if len(b) < revocationFixed+seal.SignatureSize || len(b) > MaxRevocationList {
		return bad("a list has %d to %d bytes, this one %d", revocationFixed+seal.SignatureSize, MaxRevocationList, len(b))
	}
	if string(b[:4]) != revocationMagic || b[4] != revocationVersion {
		return bad("it begins with %x, not with %q and version %d", b[:5], revocationMagic, revocationVersion)
	}
	l := &RevocationList{Issuer: seal.PublicKey(b[5:37]), Number: binary.BigEndian.Uint64(b[37:])}
	issued := binary.BigEndian.Uint64(b[45:])
	n := int(binary.BigEndian.Uint32(b[53:]))
	body, sig := b[:len(b)-seal.SignatureSize], seal.Signature(b[len(b)-seal.SignatureSize:])
	if issued > 1<<40 || n > MaxRevocations {
		return bad("issued at %d, with %d entries", issued, n)
	}
	l.Issued = time.Unix(int64(issued), 0).UTC()
	rest := body[revocationFixed:]
	for i := range n {
		e, left, ok := decodeRevocation(rest)
		if !ok {
			return bad("entry %d is cut off, or of an unknown kind", i+1)
		}
		l.Entries, rest = append(l.Entries, e), left
	}
	if len(rest) > 0 {
		return bad("%d bytes between its entries and its signature", len(rest))
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	if err := l.Issuer.Verify(domainRevocation, body, sig); err != nil {
		return nil, fmt.Errorf("%w: revocations: %w", ErrDenied, err)
	}
	return l, nil
}

func decodeRevocation(b []byte) (e Revocation, rest []byte, ok bool) {
	take := func(n int) []byte {
		if len(b) < n {
			b, ok = nil, false
			return make([]byte, n)
		}
		out := b[:n]
		b = b[n:]
		return out
	}
	ok = true
	switch take(1)[0] {
	case revokesPrincipal:
		e.Principal = string(take(int(take(1)[0])))
		if e.Principal == "" {
			return e, nil, false
		}
	case revokesDocument:
		copy(e.Document[:], take(sha256.Size))
	default:
		return e, nil, false
	}
	at := binary.BigEndian.Uint64(take(8))
	if at > 1<<40 {
		return e, nil, false
	}
	e.At = time.Unix(int64(at), 0).UTC()
	e.Reason = string(take(int(take(1)[0])))
	return e, b, ok
}
