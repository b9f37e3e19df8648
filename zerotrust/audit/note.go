package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

// Kinds of signatures in notes (C2SP signed-note): the first byte of a verifier key's bytes.
const (
	algEd25519     = 1
	algCosignature = 4 // cosignature/v1 of a witness (C2SP tlog-cosignature)
)

const (
	maxNote = 32 << 10 // bytes; a log's own lines and a hundred cosignatures are 15 KiB
	maxName = 100      // bytes of an origin or of a witness's name
	maxKeys = 10_000   // rotations in a log's life
)

// PublicKey is what checkpoints of a log are verified by: a key, and the origin of the log that it signs for. Its text is a verifier
// key of C2SP signed-note: NAME+HASH+BASE64.
type PublicKey struct {
	Name    string
	Key     seal.PublicKey
	Witness bool // it cosigns (cosignature/v1) and is no log's own
}

func (k PublicKey) alg() byte {
	if k.Witness {
		return algCosignature
	}
	return algEd25519
}

// bytes are what stands in the text and is hashed.
func (k PublicKey) bytes() []byte { return append([]byte{k.alg()}, k.Key[:]...) }

func (k PublicKey) hash() uint32 {
	h := sha256.New()
	h.Write([]byte(k.Name + "\n"))
	h.Write(k.bytes())
	return binary.BigEndian.Uint32(h.Sum(nil))
}

func (k PublicKey) String() string {
	return fmt.Sprintf("%s+%08x+%s", k.Name, k.hash(), base64.StdEncoding.EncodeToString(k.bytes()))
}

// checkName says what is wrong with the name of a key, which is a log's origin, too.
func checkName(s string) error {
	if s == "" || len(s) > maxName {
		return fmt.Errorf("a name has 1 to %d bytes", maxName)
	}
	for _, r := range s {
		if r <= ' ' || r > '~' || r == '+' {
			return fmt.Errorf("%q in a name: it is printable ASCII without spaces and without +", r)
		}
	}
	return nil
}

// ParsePublicKey reads the text of a [PublicKey].
func ParsePublicKey(s string) (PublicKey, error) {
	bad := func(why string) (PublicKey, error) {
		return PublicKey{}, fmt.Errorf("audit: %.80q is no public key of a log: %s; it must be NAME+HASH+BASE64", s, why)
	}
	name, rest, _ := strings.Cut(s, "+")
	hash, b64, ok := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.Strict().DecodeString(b64)
	switch {
	case !ok || len(s) > maxName+100:
		return bad("its parts are not three")
	case checkName(name) != nil:
		return bad(checkName(name).Error())
	case err != nil || len(raw) != 1+seal.PublicKeySize:
		return bad("its last part is not the base64 of a kind and an Ed25519 key")
	case raw[0] != algEd25519 && raw[0] != algCosignature:
		return bad(fmt.Sprintf("it is of kind %d", raw[0]))
	}
	k := PublicKey{Name: name, Key: seal.PublicKey(raw[1:]), Witness: raw[0] == algCosignature}
	if hash != fmt.Sprintf("%08x", k.hash()) {
		return bad("its hash is of another key or name")
	}
	return k, nil
}

// verifier is a PublicKey as package note wants it.
type verifier struct {
	k PublicKey
	h uint32
}

func (v verifier) Name() string    { return v.k.Name }
func (v verifier) KeyHash() uint32 { return v.h }

// Verify is by seal's rule. A cosignature is over the time that it has in front and the note's text.
func (v verifier) Verify(msg, sig []byte) bool {
	if v.k.Witness {
		t, rest, ok := cosignedAt(sig)
		return ok && v.k.Key.VerifyNote(cosigned(t, msg), seal.Signature(rest)) == nil
	}
	return len(sig) == seal.SignatureSize && v.k.Key.VerifyNote(msg, seal.Signature(sig)) == nil
}

func cosignedAt(sig []byte) (t uint64, rest []byte, ok bool) {
	if len(sig) != 8+seal.SignatureSize {
		return 0, nil, false
	}
	return binary.BigEndian.Uint64(sig), sig[8:], true
}

// cosigned is what a witness signs (C2SP tlog-cosignature).
func cosigned(t uint64, msg []byte) []byte {
	return fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", t, msg)
}

// verifiers are a note.Verifiers of some keys.
func verifiers(keys []PublicKey) note.Verifiers {
	var vs []note.Verifier
	seen := map[PublicKey]bool{}
	for _, k := range keys {
		if !seen[k] { // note takes two of the same for a slip
			seen[k] = true
			vs = append(vs, verifier{k, k.hash()})
		}
	}
	return note.VerifierList(vs...)
}

// signer is a log's key as package note wants it.
type signer struct {
	verifier
	key seal.Key
}

func newSigner(origin string, k seal.Key) signer {
	p := PublicKey{Name: origin, Key: k.Public()}
	return signer{verifier{p, p.hash()}, k}
}

func (s signer) Sign(msg []byte) ([]byte, error) {
	sig, err := s.key.SignNote(msg)
	return sig[:], err
}

// Cosign is the note of a checkpoint with a witness's signature of it added, as of now. The witness must have seen that the checkpoint is
// consistent with the last one it has signed.
func Cosign(checkpoint []byte, name string, key seal.Key, now time.Time) ([]byte, error) {
	if _, err := parseCheckpoint(checkpoint); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	text, _, _ := bytes.Cut(checkpoint, []byte("\n\n"))
	text = append(bytes.Clone(text), '\n')
	t := uint64(now.Unix())
	sig, err := key.SignNote(cosigned(t, text))
	if err != nil {
		return nil, err
	}
	k := PublicKey{Name: name, Key: key.Public(), Witness: true}
	b := binary.BigEndian.AppendUint32(nil, k.hash())
	b = binary.BigEndian.AppendUint64(b, t)
	b = append(b, sig[:]...)
	return fmt.Appendf(bytes.Clone(checkpoint), "\u2014 %s %s\n", name, base64.StdEncoding.EncodeToString(b)), nil
}

// Checkpoint is what a log says of itself: how many entries it has, and the hash of the tree over them.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   tlog.Hash
}

func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root)
}

// sign is the signed note of c.
func (c Checkpoint) sign(signers ...note.Signer) ([]byte, error) {
	return note.Sign(&note.Note{Text: c.text()}, signers...)
}

// parseCheckpoint reads the text of a note, whatever its signatures. Lines behind the third are extensions, which we have none of.
func parseCheckpoint(b []byte) (c Checkpoint, err error) {
	if len(b) > maxNote {
		return c, fmt.Errorf("a checkpoint of %d bytes; it has at most %d", len(b), maxNote)
	}
	lines := strings.SplitN(string(b), "\n", 5)
	if len(lines) < 5 {
		return c, errors.New("a checkpoint has an origin, a size, a hash and signatures, each on its lines")
	}
	if err := checkName(lines[0]); err != nil {
		return c, fmt.Errorf("the origin of a checkpoint: %w", err)
	}
	c.Origin = lines[0]
	if c.Size, err = strconv.ParseUint(lines[1], 10, 63); err != nil || strconv.FormatUint(c.Size, 10) != lines[1] {
		return c, fmt.Errorf("the size of a checkpoint is %.40q", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != hashSize {
		return c, fmt.Errorf("the hash of a checkpoint is %.60q", lines[2])
	}
	copy(c.Root[:], root)
	return c, nil
}

// openCheckpoint reads a checkpoint that one of keys has signed. Where none of them has, the error is a *note.UnverifiedNoteError; a
// signature of one of them that does not verify is an error, too.
func openCheckpoint(b []byte, keys []PublicKey) (c Checkpoint, n *note.Note, err error) {
	if c, err = parseCheckpoint(b); err != nil {
		return c, nil, err
	}
	n, err = note.Open(b, verifiers(keys))
	return c, n, err
}

// handover is the text by which a key of a log names the next one: number n, from entry size on.
func handover(next PublicKey, n int, size uint64) string {
	return fmt.Sprintf("%s\nquantra audit key %d\n%s\n%d\n", next.Name, n, next, size)
}

// parseHandover reads what [handover] writes.
func parseHandover(text string, n int) (k PublicKey, size uint64, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 5 {
		return k, 0, errors.New("it is no note of a key")
	}
	if k, err = ParsePublicKey(lines[2]); err != nil {
		return k, 0, err
	}
	size, err = strconv.ParseUint(lines[3], 10, 63)
	if err != nil || handover(k, n, size) != text || k.Witness {
		return k, 0, errors.New("it is no note of a key")
	}
	return k, size, nil
}

// keyPath is where key n of a log is: of 0 its text, of the others the note by which the one before names it.
func keyPath(dir string, n int) string { return filepath.Join(dir, keysDir, strconv.Itoa(n)) }

// readKeys is the chain of a log's keys, the first one first, each named by the one before. It says nothing of whether the first is
// trusted. A log without keys is fs.ErrNotExist.
func readKeys(f vfs.FS, dir string) (keys []PublicKey, err error) {
	for n := range maxKeys {
		raw, err := readFile(f, keyPath(dir, n), maxNote)
		if n > 0 && errors.Is(err, fs.ErrNotExist) {
			return keys, nil
		} else if err != nil {
			return nil, err
		}
		k, err := nextKey(raw, keys)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrBroken, keyPath(dir, n), err)
		}
		keys = append(keys, k)
	}
	return nil, fmt.Errorf("%w: it has more than %d keys", ErrBroken, maxKeys)
}

// nextKey reads key number len(before).
func nextKey(raw []byte, before []PublicKey) (k PublicKey, err error) {
	if len(before) == 0 {
		k, err = ParsePublicKey(strings.TrimSuffix(string(raw), "\n"))
		if err == nil && k.Witness {
			err = errors.New("it is the key of a witness")
		}
		return k, err
	}
	last := before[len(before)-1]
	n, err := note.Open(raw, verifiers([]PublicKey{last}))
	if err != nil {
		return k, err
	}
	k, _, err = parseHandover(n.Text, len(before))
	if err == nil && k.Name != last.Name {
		err = fmt.Errorf("it is the key of another log, %s", k.Name)
	}
	return k, err
}

// trusted are those of a log's chain of keys that follow from a key in trust. Without trust it is all.
func trusted(chain, trust []PublicKey) []PublicKey {
	if len(trust) == 0 {
		return chain
	}
	for i, k := range chain {
		for _, t := range trust {
			if k == t {
				return chain[i:]
			}
		}
	}
	return nil
}
