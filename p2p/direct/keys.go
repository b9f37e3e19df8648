package direct

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

// How long keys live. What is sealed to a bundle may lie at a keeper for heldFor, and a bundle may be sealed to for sealFor: so a
// prekey is deleted when the last that may have been sealed to it has expired, two weeks after it was made.
const (
	rotateEvery = 24 * time.Hour
	sealFor     = 7 * 24 * time.Hour
	heldFor     = 7 * 24 * time.Hour
	deleteAfter = sealFor + heldFor
	// clockSlack is how far two clocks may be apart: a bundle from the future by more is refused.
	clockSlack = 24 * time.Hour
)

const (
	bundleSize     = 1 + 32 + 4 + 32 + 32 + 8 + 8 + seal.SignatureSize
	bundleVersion  = 1
	bundleDomain   = "quantra direct keys v1"
	keysName       = "keys"
	keysTemp       = "keys.tmp"
	keysContext    = "quantra direct keys file v1"
	generationSize = 4 + 8 + 32 + 32
	// maxGenerations is what a file of keys may have: a day apart they are fifteen, and a clock that jumps makes more.
	maxGenerations = 64
)

// bundle is what others need to write to a peer: its keys of one generation, signed by its identity.
type bundle struct {
	key        seal.PublicKey // the identity
	generation uint32
	static     [32]byte  // X25519, of sessions
	prekey     [32]byte  // X25519, of what is sealed while the peer is away
	made       time.Time // whole seconds
	until      time.Time // nothing is sealed to it from then on
	raw        []byte    // as it was signed
}

func encodeBundle(k seal.Key, g generation) ([]byte, error) {
	public := k.Public()
	b := make([]byte, 0, bundleSize)
	b = append(b, bundleVersion)
	b = append(b, public[:]...)
	b = binary.BigEndian.AppendUint32(b, g.number)
	b = append(b, g.static.PublicKey().Bytes()...)
	b = append(b, g.prekey.PublicKey().Bytes()...)
	b = binary.BigEndian.AppendUint64(b, uint64(g.made.Unix()))
	b = binary.BigEndian.AppendUint64(b, uint64(g.made.Add(sealFor).Unix()))
	s, err := k.Sign(bundleDomain, b)
	return append(b, s[:]...), err
}

// decodeBundle reads a bundle and verifies that it is signed by the key it names, which is worth nothing until that is compared.
func decodeBundle(raw []byte) (*bundle, error) {
	s := scan{b: raw}
	version := s.u8()
	b := &bundle{key: s.key(), generation: s.u32()}
	copy(b.static[:], s.next(32))
	copy(b.prekey[:], s.next(32))
	b.made, b.until = time.Unix(int64(s.u64()), 0), time.Unix(int64(s.u64()), 0)
	var sig seal.Signature
	copy(sig[:], s.next(len(sig)))
	if err := s.done("a bundle of keys"); err != nil {
		return nil, err
	}
	if version != bundleVersion {
		return nil, fmt.Errorf("%w: a bundle of keys of version %d, not %d", ErrCorrupt, version, bundleVersion)
	}
	if life := b.until.Sub(b.made); life <= 0 || life > sealFor {
		return nil, fmt.Errorf("%w: a bundle of keys that holds for %v, not up to %v", ErrCorrupt, life, sealFor)
	}
	if err := b.key.Verify(bundleDomain, raw[:len(raw)-seal.SignatureSize], sig); err != nil {
		return nil, fmt.Errorf("%w: a bundle of keys: %w", ErrCorrupt, err)
	}
	b.raw = bytes.Clone(raw)
	return b, nil
}

// generation is the secret keys of a day.
type generation struct {
	number         uint32
	made           time.Time
	static, prekey *ecdh.PrivateKey
}

// keyring is this peer's generations of keys, in a file that is replaced as a whole: what was deleted is in no file of ours any more.
type keyring struct {
	fs  vfs.FS
	dir string
	key seal.Key
	box *seal.Box

	mu  sync.RWMutex
	all []generation // the newest last; never empty
	own *bundle      // of the newest
}

// storeKey is the secret that everything in the folder is sealed by: from the identity's key, so that who protects that protects this.
func storeKey(k seal.Key) ([]byte, error) {
	seed := k.Seed()
	if seed == nil {
		return nil, errors.New("direct: there is no key: give Options.Key the node's identity")
	}
	defer clear(seed)
	return hkdf.Key(sha256.New, seed, nil, "quantra direct store v1", seal.BoxKeySize)
}

func openKeyring(f vfs.FS, dir string, k seal.Key, box *seal.Box, now time.Time) (*keyring, error) {
	r := &keyring{fs: f, dir: dir, key: k, box: box}
	if err := f.Remove(filepath.Join(dir, keysTemp)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	raw, err := readWhole(f, filepath.Join(dir, keysName), seal.BoxOverhead+maxGenerations*generationSize)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		if r.all, err = r.decode(raw); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, keysName), err)
		}
	}
	// The name may be that of a rename that was never synced.
	if err := f.SyncDir(dir); err != nil {
		return nil, err
	}
	return r, r.turn(now)
}

// turn makes a new generation when the newest is a day old, and deletes those that nothing can have been sealed to. It is called at the
// start and from time to time; it writes only where something changed.
func (r *keyring) turn(now time.Time) error {
	r.mu.RLock()
	all := r.all
	r.mu.RUnlock()
	var kept []generation
	for _, g := range all {
		// One that is ahead of the clock is kept: the clock may have been set back.
		if now.Sub(g.made) < deleteAfter {
			kept = append(kept, g)
		}
	}
	fresh := len(kept) == 0 || now.Sub(kept[len(kept)-1].made) >= rotateEvery || kept[len(kept)-1].made.Sub(now) > clockSlack/2
	if fresh {
		g, err := newGeneration(all, now)
		if err != nil {
			return err
		}
		kept = append(kept, g)
	}
	if n := len(kept) - maxGenerations; n > 0 {
		kept = kept[n:]
	}
	if fresh || len(kept) != len(all) {
		if err := r.save(kept); err != nil {
			return fmt.Errorf("%w: keys cannot be kept: %w", ErrUnavailable, err)
		}
	}
	raw, err := encodeBundle(r.key, kept[len(kept)-1])
	if err != nil {
		return err
	}
	own, err := decodeBundle(raw)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.all, r.own = kept, own
	r.mu.Unlock()
	return nil
}

func newGeneration(all []generation, now time.Time) (generation, error) {
	g := generation{number: 1, made: now.Truncate(time.Second)}
	if len(all) > 0 {
		g.number = all[len(all)-1].number + 1
	}
	var errs [2]error
	g.static, errs[0] = ecdh.X25519().GenerateKey(rand.Reader)
	g.prekey, errs[1] = ecdh.X25519().GenerateKey(rand.Reader)
	return g, errors.Join(errs[:]...)
}

// save replaces the file: written and synced under another name, renamed, and the folder synced.
func (r *keyring) save(all []generation) (err error) {
	var b []byte
	for _, g := range all {
		b = binary.BigEndian.AppendUint32(b, g.number)
		b = binary.BigEndian.AppendUint64(b, uint64(g.made.Unix()))
		b = append(b, g.static.Bytes()...)
		b = append(b, g.prekey.Bytes()...)
	}
	defer clear(b)
	sealed, err := r.box.Seal(b, []byte(keysContext))
	if err != nil {
		return err
	}
	return replaceFile(r.fs, r.dir, keysTemp, keysName, sealed)
}

func (r *keyring) decode(sealed []byte) ([]generation, error) {
	raw, err := r.box.Open(sealed, []byte(keysContext))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	defer clear(raw)
	s := scan{b: raw}
	var all []generation
	for len(s.b) > 0 {
		g := generation{number: s.u32(), made: time.Unix(int64(s.u64()), 0)}
		var errs [2]error
		g.static, errs[0] = ecdh.X25519().NewPrivateKey(bytes.Clone(s.next(32)))
		g.prekey, errs[1] = ecdh.X25519().NewPrivateKey(bytes.Clone(s.next(32)))
		if err := errors.Join(errs[:]...); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		all = append(all, g)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: it has no keys", ErrCorrupt)
	}
	return all, nil
}

// newest is the keys of sessions and the bundle that goes with them.
func (r *keyring) newest() (generation, *bundle) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.all[len(r.all)-1], r.own
}

// prekey is the one of a generation, nil where it has been deleted or never was.
func (r *keyring) prekey(number uint32) *ecdh.PrivateKey {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, g := range r.all {
		if g.number == number {
			return g.prekey
		}
	}
	return nil
}

// What is sealed: HPKE (RFC 9180) in mode base with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM to the recipient's prekey. Who
// it is from is signed inside of it.
const (
	sealedVersion  = 1
	sealedHead     = 1 + 32 + 4 + 32 // version, recipient, generation, encapsulated key
	sealedOverhead = sealedHead + 32 + seal.SignatureSize + 16
	sealedDomain   = "quantra direct sealed v1"
	maxSealed      = maxEnvelope + sealedOverhead
)

// sealTo seals an envelope to a bundle's prekey. What is signed names the recipient, the prekey and the encapsulated key, so that the
// recipient cannot pass the envelope on as sent to somebody else.
func sealTo(k seal.Key, to *bundle, envelope []byte) ([]byte, error) {
	point, err := ecdh.X25519().NewPublicKey(to.prekey[:])
	if err != nil {
		return nil, err
	}
	public, err := hpke.NewDHKEMPublicKey(point)
	if err != nil {
		return nil, err
	}
	enc, sender, err := hpke.NewSender(public, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sealedDomain))
	if err != nil {
		return nil, err
	}
	head := make([]byte, 0, sealedOverhead+len(envelope))
	head = append(head, sealedVersion)
	head = append(head, to.key[:]...)
	head = binary.BigEndian.AppendUint32(head, to.generation)
	head = append(head, enc...)
	sig, err := k.Sign(sealedDomain, signedOf(head, envelope))
	if err != nil {
		return nil, err
	}
	from := k.Public()
	plain := append(append(from[:], sig[:]...), envelope...)
	sealed, err := sender.Seal(head, plain)
	if err != nil {
		return nil, err
	}
	return append(head, sealed...), nil
}

func signedOf(head, envelope []byte) []byte {
	digest := sha256.Sum256(envelope)
	return append(bytes.Clone(head), digest[:]...)
}

// recipientOf is whom sealed bytes are for, as far as one can say who cannot open them.
func recipientOf(sealed []byte) (peer.ID, error) {
	s := scan{b: sealed}
	version, to := s.u8(), s.key()
	if s.bad || len(sealed) < sealedOverhead || len(sealed) > maxSealed || version != sealedVersion {
		return "", fmt.Errorf("%w: %d bytes are no sealed message", ErrCorrupt, len(sealed))
	}
	return idOf(to), nil
}

// open is the envelope of sealed bytes and who it is from. The error is ErrCorrupt for all that never opens here: another's, damaged, or
// to a prekey that has been deleted.
func (r *keyring) open(sealed []byte) (from peer.ID, envelope []byte, err error) {
	to, err := recipientOf(sealed)
	if err != nil {
		return "", nil, err
	}
	if to != idOf(r.key.Public()) {
		return "", nil, fmt.Errorf("%w: it is sealed to %s", ErrCorrupt, to)
	}
	head, number := sealed[:sealedHead], binary.BigEndian.Uint32(sealed[33:])
	secret := r.prekey(number)
	if secret == nil {
		return "", nil, fmt.Errorf("%w: it is sealed to prekey %d, which is deleted", ErrCorrupt, number)
	}
	private, err := hpke.NewDHKEMPrivateKey(secret)
	if err != nil {
		return "", nil, err
	}
	recipient, err := hpke.NewRecipient(head[37:], private, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sealedDomain))
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	plain, err := recipient.Open(head, sealed[sealedHead:])
	if err != nil {
		return "", nil, fmt.Errorf("%w: it does not open: %w", ErrCorrupt, err)
	}
	s := scan{b: plain}
	key := s.key()
	var sig seal.Signature
	copy(sig[:], s.next(len(sig)))
	envelope = s.rest()
	if s.bad {
		return "", nil, fmt.Errorf("%w: a sealed message ends too early", ErrCorrupt)
	}
	if err := key.Verify(sealedDomain, signedOf(head, envelope), sig); err != nil {
		return "", nil, fmt.Errorf("%w: a sealed message: %w", ErrCorrupt, err)
	}
	return idOf(key), envelope, nil
}
