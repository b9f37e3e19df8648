package zerotrust

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

// authority is who may vouch for others, and who was revoked. It never changes: a new one takes its place, so that decisions read it
// without a lock, and know by its address whether what they have checked before still holds.
type authority struct {
	issuers    map[seal.PublicKey]string // their ids
	keys       *seal.KeyCache            // holds the issuers' keys, in the form that verifies fastest
	selfSigned map[string]bool           // kinds that may vouch for themselves
	lists      map[seal.PublicKey]*revocations
	principals map[string]string // revoked, with the reason
	documents  map[[sha256.Size]byte]string
}

// revocations is a list with the bytes it came in.
type revocations struct {
	*RevocationList
	raw  []byte
	kept bool // on disk; guarded by Guard.revoking
}

// newAuthority is an authority of these issuers and lists.
func newAuthority(issuers map[seal.PublicKey]string, selfSigned map[string]bool, lists map[seal.PublicKey]*revocations) *authority {
	a := &authority{issuers: issuers, keys: seal.NewKeyCache(max(1, len(issuers))), selfSigned: selfSigned, lists: lists, principals: map[string]string{}, documents: map[[sha256.Size]byte]string{}}
	for k := range issuers {
		a.keys.Hold(k)
	}
	for _, l := range lists {
		for i := range l.Entries {
			if e := &l.Entries[i]; e.Principal != "" {
				a.principals[e.Principal] = e.Reason
			} else {
				a.documents[e.Document] = e.Reason
			}
		}
	}
	return a
}

// The reasons of a denial, as they stand in answers and records. A text of its own may follow after a colon.
const (
	reasonIdentity   = "the identity does not hold"
	reasonProof      = "the channel's key is not the identity's"
	reasonIssuer     = "nobody who may vouches for the identity"
	reasonNotYet     = "the identity does not hold yet"
	reasonExpired    = "the identity has expired"
	reasonRevoked    = "revoked"
	reasonRequest    = "the request is malformed"
	reasonCritical   = "critical resources demand level critical"
	reasonMFA        = "a second factor is required"
	reasonIsolation  = "a stronger isolation is required"
	reasonIsolated   = "the isolation that it asks for cannot be had"
	reasonReadOnly   = "only reading is allowed"
	reasonRate       = "too many requests"
	reasonRoom       = "no room for another record"
	reasonSeat       = "no place in a sandbox"
	reasonRecord     = "the decision could not be recorded"
	reasonPolicy     = "no policy permits it"
	reasonEnded      = "the session has ended"
	reasonUnverified = "the principal is malformed, or its kind not known"
)

// passport is a document whose signature was verified: what the guard caches.
type passport struct {
	Identity
	doc        []byte // its bytes
	sum        [sha256.Size]byte
	id         string // ID, made once
	from, to   int64  // Unix seconds
	roles      []string
	attributes map[string]string // those that an issuer has signed; of one who vouches for himself none
}

// newPassport verifies a document that was decoded.
func (a *authority) newPassport(d *Identity, doc []byte) (*passport, error) {
	verify := d.Issuer.Verify
	if a.issuers[d.Issuer] != "" {
		verify = func(domain string, message []byte, s seal.Signature) error {
			return a.keys.Verify(domain, d.Issuer, message, s)
		}
	}
	if err := d.verify(doc, verify); err != nil {
		return nil, err
	}
	p := &passport{Identity: *d, doc: bytes.Clone(doc), sum: sha256.Sum256(doc), id: d.ID(), from: d.NotBefore.Unix(), to: d.Expires.Unix()}
	if d.SelfSigned() {
		return p, nil
	}
	p.attributes = map[string]string{}
	for _, a := range d.Attributes {
		p.attributes[a.Name] = a.Value
		if a.Name == RolesAttribute {
			for role := range strings.SplitSeq(a.Value, ",") {
				if role = strings.TrimSpace(role); role != "" {
					p.roles = append(p.roles, role)
				}
			}
		}
	}
	return p, nil
}

// vouched says that whoever has signed an identity, if he has, may.
func (a *authority) vouched(d *Identity) bool {
	if d.SelfSigned() {
		return a.selfSigned[d.Kind]
	}
	return a.issuers[d.Issuer] != ""
}

// refuses is why a passport is not believed, "" where it is.
func (a *authority) refuses(p *passport) (reason string) {
	if !a.vouched(&p.Identity) {
		return reasonIssuer
	}
	if _, ok := a.principals[p.id]; ok {
		return reasonRevoked
	}
	if _, ok := a.principals[a.issuers[p.Issuer]]; ok && !p.SelfSigned() {
		return reasonRevoked
	}
	if _, ok := a.documents[p.sum]; ok {
		return reasonRevoked
	}
	return ""
}

const (
	revokedExt  = ".qrl"
	revokedTemp = revokedExt + ".tmp"
)

func revokedName(issuer seal.PublicKey) string {
	return "revoked-" + hex.EncodeToString(issuer[:]) + revokedExt
}

// readRevocations reads the lists that a guard has kept.
func readRevocations(f vfs.FS, dir string) (map[seal.PublicKey]*revocations, error) {
	names, err := f.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("zerotrust: %w", err)
	}
	lists := map[seal.PublicKey]*revocations{}
	for _, name := range names {
		if !strings.HasPrefix(name, "revoked-") || !strings.HasSuffix(name, revokedExt) {
			continue
		}
		raw, err := readFile(f, filepath.Join(dir, name), MaxRevocationList)
		if err != nil {
			return nil, fmt.Errorf("zerotrust: %w", err)
		}
		l, err := DecodeRevocations(raw)
		if err == nil && revokedName(l.Issuer) != name {
			err = fmt.Errorf("%w: it is the list of another issuer", ErrCorrupt)
		}
		if err != nil {
			return nil, fmt.Errorf("zerotrust: %s: %w; put the issuer's newest list in its place", filepath.Join(dir, name), err)
		}
		lists[l.Issuer] = &revocations{l, raw, true}
	}
	return lists, nil
}

// keepRevocations makes a list durable. The file is there whole, as it was or as it is.
func keepRevocations(f vfs.FS, dir string, issuer seal.PublicKey, raw []byte) (err error) {
	name := filepath.Join(dir, revokedName(issuer))
	temp := strings.TrimSuffix(name, revokedExt) + revokedTemp
	if err := f.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	w, err := f.Create(temp)
	if err != nil {
		return err
	}
	_, err = w.Write(raw)
	if err == nil {
		err = w.Sync()
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	if err := f.Rename(temp, name); err != nil {
		return err
	}
	return f.SyncDir(dir)
}

// Revoke takes a signed list, and applies it at once: it is durable, sessions of those whom it names have ended, and from then on no
// decision lets them in. A list with a lower number than the one in force is refused, and so is another one with the same.
func (g *Guard) Revoke(raw []byte) error {
	l, err := DecodeRevocations(raw)
	if err != nil {
		return err
	}
	g.revoking.Lock()
	defer g.revoking.Unlock()
	a := g.authority.Load()
	if a.issuers[l.Issuer] == "" {
		return fmt.Errorf("%w: revocations: %s is none of the issuers of this guard", ErrDenied, IDOf(l.Issuer))
	}
	if have := a.lists[l.Issuer]; have != nil {
		switch {
		case bytes.Equal(have.raw, raw):
			return g.keep(have)
		case l.Number <= have.Number:
			return fmt.Errorf("%w: revocations: list %d of %s is in force, and this one has number %d: sign the newer state with a higher number",
				ErrDenied, have.Number, IDOf(l.Issuer), l.Number)
		}
	}
	lists := maps.Clone(a.lists)
	if lists == nil {
		lists = map[seal.PublicKey]*revocations{}
	}
	list := &revocations{RevocationList: l, raw: bytes.Clone(raw)}
	lists[l.Issuer] = list
	// In force first: a disk that fails must not keep somebody in who was revoked.
	g.install(newAuthority(a.issuers, a.selfSigned, lists))
	return g.keep(list)
}

// keep makes a list durable, once.
func (g *Guard) keep(l *revocations) error {
	if l.kept || g.opt.Dir == "" || g.opt.ReadOnly {
		return nil
	}
	if err := keepRevocations(g.opt.FS, g.opt.Dir, l.Issuer, l.raw); err != nil {
		return fmt.Errorf("%w: revocations: they are in force, but cannot be kept, and a restart would not know them: %w", ErrUnavailable, err)
	}
	l.kept = true
	return nil
}

// Revoked says that whoever has a key was revoked as a whole: also who is not here, and has no session that could have ended.
func (g *Guard) Revoked(key seal.PublicKey) bool {
	a := g.authority.Load()
	if len(a.principals) == 0 {
		return false // as nearly always: the id need not be made
	}
	_, revoked := a.principals[IDOf(key)]
	return revoked
}

// SetIssuers puts other issuers in force, at once as [Guard.Revoke] does.
func (g *Guard) SetIssuers(issuers []seal.PublicKey) error {
	set, err := issuerSet(issuers)
	if err != nil {
		return err
	}
	g.revoking.Lock()
	defer g.revoking.Unlock()
	a := g.authority.Load()
	g.install(newAuthority(set, a.selfSigned, a.lists))
	return nil
}

func issuerSet(issuers []seal.PublicKey) (map[seal.PublicKey]string, error) {
	set := map[seal.PublicKey]string{}
	for i, k := range issuers {
		if err := checkKey(k); err != nil {
			return nil, fmt.Errorf("zerotrust: issuer %d: %w", i+1, err)
		}
		set[k] = IDOf(k)
	}
	return set, nil
}

// install puts an authority in force and ends the sessions that it does not bear.
func (g *Guard) install(a *authority) {
	g.authority.Store(a)
	var ended []*Session
	for _, s := range g.openSessions() {
		if reason := s.refused(a); reason != "" && s.end(&Ended{reason}) {
			ended = append(ended, s)
		}
	}
	for _, s := range ended { // all are out before the first is told of
		g.tell(context.Background(), s, "session", s.err.Error())
	}
}

// revokedAt is when the newest list was issued: the clock was at least there.
func (a *authority) revokedAt() (latest time.Time) {
	for _, l := range slices.Collect(maps.Values(a.lists)) {
		if l.Issued.After(latest) {
			latest = l.Issued
		}
	}
	return latest
}
