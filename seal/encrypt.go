package seal

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
)

// Bounds on encrypted files of others.
const (
	maxArmorLine  = 1 << 10 // bytes; the format has 64
	maxIdentities = 256     // in a file
)

// ErrNoKey says that none of the keys opens a file.
var ErrNoKey = errors.New("none of the keys opens it")

// Recipient is who can open what is encrypted.
type Recipient struct{ r age.Recipient }

// Identity is what opens it: a key, or a passphrase.
type Identity struct{ i age.Identity }

// ParseRecipient reads a recipient: one of age's ("age1...", with X25519 or, as "age1pq1...", with ML-KEM-768 beside it), or an Ed25519
// key as [ParsePublicKey] has it.
func ParseRecipient(text string) (Recipient, error) {
	text = strings.TrimSpace(text)
	switch {
	case strings.HasPrefix(text, "AGE-SECRET-KEY-"):
		return Recipient{}, errors.New("it is a secret key, not a recipient: age-keygen -y says whose")
	case strings.HasPrefix(text, "age1pq1"):
		r, err := age.ParseHybridRecipient(text)
		return Recipient{r}, err
	case strings.HasPrefix(text, "age1"):
		r, err := age.ParseX25519Recipient(text)
		return Recipient{r}, err
	}
	k, err := ParsePublicKey(text)
	if err != nil {
		return Recipient{}, fmt.Errorf("%.60q is not a recipient: it must be age1..., ssh-ed25519 AAAA... or 43 characters of base64url", text)
	}
	return k.Recipient()
}

// Recipient is the key's owner as a recipient: of the kind ssh-ed25519 of age, which turns the point into one of X25519 by the
// birational map of RFC 7748 and binds the shared secret to the Ed25519 key, so that the same key may sign and decrypt.
func (k PublicKey) Recipient() (Recipient, error) {
	if err := k.Check(); err != nil {
		return Recipient{}, err
	}
	p, err := k.ssh()
	if err != nil {
		return Recipient{}, err
	}
	r, err := agessh.NewEd25519Recipient(p)
	return Recipient{r}, err
}

// PassphraseRecipient is who knows a passphrase. It is a file's only recipient. The work is that of [KeyOptions].
func PassphraseRecipient(passphrase []byte, work int) (Recipient, error) {
	if work == 0 {
		work = standardWork
	}
	if work < 1 || work > maxWork {
		return Recipient{}, fmt.Errorf("the work of scrypt is 2 to the power of %d: it must be 1 to %d", work, maxWork)
	}
	r, err := age.NewScryptRecipient(string(passphrase))
	if err != nil {
		return Recipient{}, err
	}
	r.SetWorkFactor(work)
	return Recipient{r}, nil
}

// Identity opens what is encrypted to the key.
func (k Key) Identity() (Identity, error) {
	if len(k.private()) == 0 {
		return Identity{}, errors.New("there is no key to open with")
	}
	i, err := agessh.NewEd25519Identity(k.private())
	return Identity{i}, err
}

// AskIdentity opens what is encrypted to a passphrase, which is asked for when a file needs it.
func AskIdentity(ask Passphrase) Identity { return Identity{&askIdentity{ask, maxWork}} }

type askIdentity struct {
	ask  Passphrase
	work int
}

// Unwrap is age.Identity's.
func (a *askIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	if len(stanzas) != 1 || stanzas[0].Type != "scrypt" {
		return nil, age.ErrIncorrectIdentity
	}
	pass, err := askFor(a.ask)
	if err != nil {
		return nil, &ownError{err}
	}
	defer clear(pass)
	i, err := age.NewScryptIdentity(string(pass))
	if err != nil {
		return nil, &ownError{fmt.Errorf("%w: %w", ErrPassphrase, err)} // an empty one
	}
	i.SetMaxWorkFactor(a.work)
	key, err := i.Unwrap(stanzas)
	if errors.Is(err, age.ErrIncorrectIdentity) {
		return nil, &ownError{ErrPassphrase}
	}
	return key, err
}

// LazyIdentity opens what is encrypted to a key that is loaded when a file asks for it: a key with a passphrase is not asked for in
// vain. A public key that is not the loaded one's opens nothing.
func LazyIdentity(k PublicKey, load func() (Key, error)) Identity {
	return Identity{&lazyIdentity{tag: k.tag(), load: load}}
}

// tag is how a file names the key: the start of the hash of its OpenSSH form, as age has it.
func (k PublicKey) tag() string {
	p, err := k.ssh()
	if err != nil {
		return ""
	}
	digest := sha256.Sum256(p.Marshal())
	return base64.RawStdEncoding.EncodeToString(digest[:4])
}

type lazyIdentity struct {
	tag  string
	load func() (Key, error)
	key  age.Identity
}

// Unwrap is age.Identity's.
func (l *lazyIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	if !slices.ContainsFunc(stanzas, func(s *age.Stanza) bool {
		return s.Type == "ssh-ed25519" && len(s.Args) > 0 && s.Args[0] == l.tag
	}) {
		return nil, age.ErrIncorrectIdentity
	}
	if l.key == nil {
		k, err := l.load()
		if err != nil {
			return nil, &ownError{err}
		}
		i, err := k.Identity()
		if err != nil {
			return nil, &ownError{err}
		}
		l.key = i.i
	}
	return l.key.Unwrap(stanzas)
}

// ParseIdentities reads a file of secret keys: one of age's ("AGE-SECRET-KEY-1...", one a line), or a key file as [DecodeKey] has it.
func ParseIdentities(raw []byte, ask Passphrase) ([]Identity, error) {
	if len(raw) > maxKeyFile {
		return nil, fmt.Errorf("%w: a key file has at most %d bytes", ErrCorrupt, maxKeyFile)
	}
	if !bytes.Contains(raw, []byte("AGE-SECRET-KEY-")) {
		k, err := DecodeKey(raw, ask)
		if err != nil {
			return nil, err
		}
		i, err := k.Identity()
		return []Identity{i}, err
	}
	all, err := age.ParseIdentities(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%w: age's keys: a line is not one", ErrCorrupt) // age's own error may quote the line
	}
	if len(all) > maxIdentities {
		return nil, fmt.Errorf("%w: more than %d keys are in it", ErrCorrupt, maxIdentities)
	}
	out := make([]Identity, len(all))
	for i := range all {
		out[i] = Identity{all[i]}
	}
	return out, nil
}

// Encrypt writes to dst what is written to it, encrypted in age's format (age-encryption.org/v1), as text where armored. The file is
// whole when it was closed, and any cut is found on opening.
func Encrypt(dst io.Writer, armored bool, to ...Recipient) (io.WriteCloser, error) {
	if len(to) == 0 {
		return nil, errors.New("encrypting to nobody: name a recipient")
	}
	recipients := make([]age.Recipient, len(to))
	for i := range to {
		recipients[i] = to[i].r
	}
	if !armored {
		return age.Encrypt(dst, recipients...)
	}
	text := armor.NewWriter(dst)
	w, err := age.Encrypt(text, recipients...)
	if err != nil {
		return nil, err
	}
	return &both{w, text}, nil
}

// both closes the inner, then the outer.
type both struct{ inner, outer io.WriteCloser }

func (b *both) Write(p []byte) (int, error) { return b.inner.Write(p) }

func (b *both) Close() error {
	if err := b.inner.Close(); err != nil {
		return err
	}
	return b.outer.Close()
}

// Decrypt opens an age file, binary or armored. What is read from it is authenticated: of a changed or cut file come the whole pieces
// (64 KiB) before the damage, and then [ErrCorrupt] instead of the end. Only with [io.EOF] was it all. The error is [ErrNoKey] where
// no identity opens it, [ErrPassphrase] where a passphrase is not its.
func Decrypt(src io.Reader, by ...Identity) (io.Reader, error) {
	if len(by) == 0 {
		return nil, fmt.Errorf("%w: there is none", ErrNoKey)
	}
	identities := make([]age.Identity, len(by))
	for i := range by {
		identities[i] = by[i].i
	}
	o := &opened{src: source{r: src}}
	buffered := bufio.NewReader(&o.src)
	var file io.Reader = buffered
	if start, _ := buffered.Peek(len(armor.Header) + 1024); bytes.HasPrefix(bytes.TrimLeft(start, " \t\r\n"), []byte(armor.Header)) {
		file = armor.NewReader(&shortLines{r: buffered})
	}
	var err error
	if o.clear, err = age.Decrypt(file, identities...); err != nil { // which holds 2 MiB of a header at most
		if o.src.err != nil {
			return nil, o.src.err
		}
		return nil, openError(err)
	}
	return o, nil
}

// ownError is what asking for a passphrase or loading a key has said: no fault of the file.
type ownError struct{ err error }

func (e *ownError) Error() string { return e.err.Error() }
func (e *ownError) Unwrap() error { return e.err }

// openError says what keeps a file from being opened.
func openError(err error) error {
	var none *age.NoIdentityMatchError
	var own *ownError
	switch {
	case errors.As(err, &own):
		return own.err
	case errors.As(err, &none):
		return fmt.Errorf("%w: it is for %s", ErrNoKey, strings.Join(kinds(none.StanzaTypes), ", "))
	}
	return fmt.Errorf("%w: not a whole age file: %w", ErrCorrupt, err)
}

// kinds are the kinds of recipients, each once, in words of our own: they come from the file.
func kinds(types []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, t := range types {
		switch t {
		case "X25519", "ssh-ed25519", "ssh-rsa", "scrypt", "mlkem768x25519":
		default:
			t = "others"
		}
		if t == "scrypt" {
			t = "a passphrase"
		}
		if !seen[t] {
			seen[t] = true
			out = append(out, t)
		}
	}
	return out
}

// opened tells faults of the file from those of where it is read.
type opened struct {
	src   source
	clear io.Reader
}

func (o *opened) Read(p []byte) (int, error) {
	n, err := o.clear.Read(p)
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case o.src.err != nil:
		return n, o.src.err
	}
	return n, fmt.Errorf("%w: the file is cut short or was changed: %w", ErrCorrupt, err)
}

// source remembers its reader's own error.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

var errLine = fmt.Errorf("a line has more than %d bytes", maxArmorLine)

// shortLines refuses what would be held in memory as one line.
type shortLines struct {
	r io.Reader
	n int // of the line so far
}

func (s *shortLines) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	for _, c := range p[:n] {
		if s.n++; c == '\n' {
			s.n = 0
		}
		if s.n > maxArmorLine {
			return 0, errLine
		}
	}
	return n, err
}
