package pgp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// unarmour is what is in armour, and of which kind it is; bytes that are not armoured stay as they are, of kind "".
func unarmour(r io.Reader) (body io.Reader, kind string, err error) {
	buffered := bufio.NewReader(r)
	first, err := buffered.Peek(1)
	if err != nil {
		if err == io.EOF {
			return nil, "", fmt.Errorf("%w: it is empty", ErrCorrupt)
		}
		return nil, "", err
	}
	if first[0]&0x80 != 0 { // every packet begins with this bit (RFC 9580 section 4.2)
		return buffered, "", nil
	}
	head := &limited{r: buffered, left: maxHeaders}
	block, err := armor.Decode(head)
	if err != nil {
		return nil, "", fmt.Errorf("%w: neither packets nor armour of OpenPGP: %w", ErrCorrupt, err)
	}
	head.left = -1
	return block.Body, block.Type, nil
}

var errStart = errors.New("what comes before the data is too long")

// limited reads left bytes, or as many as there are where left is below 0.
type limited struct {
	r    io.Reader
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left < 0 {
		return l.r.Read(p)
	}
	if l.left == 0 {
		return 0, errStart
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

// Encryption says how a message is made.
type Encryption struct {
	To         []*Key // who can open it
	Passphrase []byte // and who knows this; empty is nobody
	Signers    []*Key // who sign it, unlocked
	Binary     bool   // without armour
}

// Encrypt writes to dst, as an encrypted message, what is written to it. The message is whole when it was closed.
func Encrypt(dst io.Writer, o Encryption) (io.WriteCloser, error) {
	if len(o.To) == 0 && len(o.Passphrase) == 0 {
		return nil, errors.New("encrypting to nobody: name a key or a passphrase")
	}
	signers, err := signing(o.Signers)
	if err != nil {
		return nil, err
	}
	c := config(nil)
	p := &openpgp.EncryptParams{Signers: signers, Config: c}
	if len(o.To) > 0 {
		c.Time = o.To[0].now
	}
	out, outer, err := target(dst, openpgp.MessageType, o.Binary)
	if err != nil {
		return nil, err
	}
	var w io.WriteCloser
	if len(o.To) == 0 {
		w, err = openpgp.SymmetricallyEncryptWithParams(o.Passphrase, out, p)
	} else {
		if len(o.Passphrase) > 0 {
			p.Passwords = [][]byte{o.Passphrase}
		}
		w, err = openpgp.EncryptWithParams(out, entities(o.To), nil, p)
	}
	if err != nil {
		return nil, err
	}
	return &chain{w, outer}, nil
}

// target is dst, in armour unless binary.
func target(dst io.Writer, kind string, binary bool) (io.Writer, []io.Closer, error) {
	if binary {
		return dst, nil, nil
	}
	a, err := armor.Encode(dst, kind, nil)
	if err != nil {
		return nil, nil, err
	}
	return a, []io.Closer{a, lineEnd{dst}}, nil
}

// lineEnd ends armour's last line, which the library leaves open.
type lineEnd struct{ w io.Writer }

func (l lineEnd) Close() error {
	_, err := io.WriteString(l.w, "\n")
	return err
}

// chain closes what is written through, from the inside.
type chain struct {
	io.WriteCloser
	outer []io.Closer
}

func (c *chain) Close() error {
	if err := c.WriteCloser.Close(); err != nil {
		return err
	}
	for _, o := range c.outer {
		if err := o.Close(); err != nil {
			return err
		}
	}
	return nil
}

func signing(keys []*Key) (openpgp.EntityList, error) {
	for _, k := range keys {
		if !k.Secret() {
			return nil, fmt.Errorf("signing by %s: only its public part is here", k.Fingerprint())
		}
		if k.Locked() {
			return nil, fmt.Errorf("signing by %s: %w: it is locked", k.Fingerprint(), ErrPassphrase)
		}
	}
	return entities(keys), nil
}

// Opened is what a message was.
type Opened struct {
	Encrypted bool
	Signed    bool // there is a signature, by whomever
	By        *Key // whose signature verifies; nil is none of the keys'
}

// Decrypt writes to dst what an encrypted message has. keys are those that open it and those whose signatures are wanted; ask is asked
// once, for the passphrase of a locked key or of the message.
//
// OpenPGP proves at its end that a message is whole: what was written to dst is worth nothing unless the error is nil. The caller keeps it from
// everyone until then. A signature that does not verify, or is by another key, is no error here: see [Opened].
func Decrypt(dst io.Writer, src io.Reader, keys []*Key, ask Passphrase) (Opened, error) {
	return read(dst, src, keys, ask, true)
}

// Verify writes to dst what a signed message has, clear-signed or not, and returns by whom; the same holds as for [Decrypt]. The error is
// [ErrSignature] unless a signature by one of the keys verifies.
func Verify(dst io.Writer, src io.Reader, keys []*Key) (*Key, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: there is no key", ErrSignature)
	}
	buffered := bufio.NewReaderSize(src, 4096)
	start, _ := buffered.Peek(2048)
	if bytes.HasPrefix(bytes.TrimLeft(start, " \t\r\n"), []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return verifyClear(dst, buffered, keys)
	}
	o, err := read(dst, buffered, keys, nil, false)
	if err == nil && o.By == nil {
		err = ErrSignature
	}
	return o.By, err
}

func read(dst io.Writer, src io.Reader, keys []*Key, ask Passphrase, encrypted bool) (Opened, error) {
	in := &source{r: src}
	body, kind, err := unarmour(in)
	if err != nil {
		return Opened{}, in.fault(err)
	}
	if kind != "" && kind != openpgp.MessageType {
		return Opened{}, fmt.Errorf("%w: a block %.40q is no message", ErrCorrupt, kind)
	}
	start := &limited{r: body, left: maxStart}
	p := &prompt{ask: ask}
	md, err := openpgp.ReadMessage(start, entities(keys), p.answer, config(clockOf(keys)))
	if err != nil {
		return Opened{}, in.fault(messageError(err, p))
	}
	start.left = -1
	if encrypted && !md.IsEncrypted {
		return Opened{}, fmt.Errorf("%w: the message is not encrypted", ErrCorrupt)
	}
	if _, err := io.Copy(dst, &reading{md.UnverifiedBody, in}); err != nil {
		return Opened{}, err
	}
	o := Opened{Encrypted: md.IsEncrypted, Signed: md.IsSigned}
	if md.IsSigned && md.IsVerified && md.SignatureError == nil && md.SignedBy != nil {
		o.By = find(keys, md.SignedBy.Entity)
	}
	return o, nil
}

// reading tells faults of the message from those of where it is read and of where it goes.
type reading struct {
	r  io.Reader
	in *source
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		err = r.in.fault(fmt.Errorf("%w: the message is cut short or was changed: %w", ErrCorrupt, err))
	}
	return n, err
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

// fault is the reader's own error, else err.
func (s *source) fault(err error) error {
	if s.err != nil {
		return s.err
	}
	return err
}

// prompt asks once.
type prompt struct {
	ask   Passphrase
	asked bool
	err   error
}

func (p *prompt) answer(locked []openpgp.Key, symmetric bool) ([]byte, error) {
	switch {
	case p.asked:
		p.err = ErrPassphrase
	case p.ask == nil:
		p.err = fmt.Errorf("%w: there is none", ErrPassphrase)
	}
	if p.err != nil {
		return nil, p.err
	}
	p.asked = true
	pass, err := p.ask()
	if err != nil {
		p.err = err
		return nil, err
	}
	for _, k := range locked {
		if k.Entity.DecryptPrivateKeys(pass) == nil {
			break
		}
	}
	return pass, nil
}

func messageError(err error, p *prompt) error {
	switch {
	case p.err != nil:
		return p.err
	case errors.Is(err, pgperrors.ErrKeyIncorrect):
		return ErrNoKey
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

func find(keys []*Key, e *openpgp.Entity) *Key {
	for _, k := range keys {
		if e != nil && bytes.Equal(k.e.PrimaryKey.Fingerprint, e.PrimaryKey.Fingerprint) {
			return k
		}
	}
	return nil
}

func clockOf(keys []*Key) func() time.Time {
	for _, k := range keys {
		if k.now != nil {
			return k.now
		}
	}
	return nil
}

// Form is how a signature is put.
type Form int

// The forms.
const (
	Detached Form = iota // the signature alone
	Inline               // what is signed and its signature, as a message
	Clear                // readable text with its signature below; line ends and spaces before them are not signed
)

// Sign signs what is read from src and writes it to dst in the form, armoured unless binary (which clear text never is). The key is unlocked.
func Sign(dst io.Writer, src io.Reader, k *Key, form Form, binary bool) error {
	signers, err := signing([]*Key{k})
	if err != nil {
		return err
	}
	p := &openpgp.SignParams{Config: config(k.now)}
	kind := openpgp.MessageType
	if form == Detached {
		kind = openpgp.SignatureType
	}
	if form == Clear {
		return signClear(dst, src, k, p.Config)
	}
	out, outer, err := target(dst, kind, binary)
	if err != nil {
		return err
	}
	var w io.WriteCloser
	if form == Detached {
		w, err = openpgp.DetachSignWriter(out, signers, p)
	} else {
		w, err = openpgp.SignWithParams(out, signers, p)
	}
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, src); err != nil {
		return err
	}
	return (&chain{w, outer}).Close()
}

func signClear(dst io.Writer, src io.Reader, k *Key, c *packet.Config) error {
	with, ok := k.e.SigningKey(c.Now(), c)
	if !ok {
		return fmt.Errorf("%s has no valid key to sign with", k.Fingerprint())
	}
	text, err := io.ReadAll(io.LimitReader(src, maxClear+1))
	if err != nil {
		return err
	}
	if len(text) > maxClear {
		return fmt.Errorf("clear-signed text has at most %d bytes: sign it detached", maxClear)
	}
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, with.PrivateKey, c)
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	// The library leaves the armour's checksum out, without which GnuPG 2.2 does not find the end of every third signature.
	signature := bytes.LastIndex(b.Bytes(), []byte("-----BEGIN "+openpgp.SignatureType))
	if signature < 0 {
		return errors.New("the signature is missing below the text")
	}
	block, err := armor.Decode(bytes.NewReader(b.Bytes()[signature:]))
	if err != nil {
		return err
	}
	if _, err := dst.Write(b.Bytes()[:signature]); err != nil {
		return err
	}
	return armoured(dst, openpgp.SignatureType, func(w io.Writer) error {
		_, err := io.Copy(w, block.Body)
		return err
	})
}

func verifyClear(dst io.Writer, src io.Reader, keys []*Key) (*Key, error) {
	raw, err := io.ReadAll(io.LimitReader(src, maxClear+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxClear {
		return nil, fmt.Errorf("%w: clear-signed text has at most %d bytes", ErrCorrupt, maxClear)
	}
	block, rest := clearsign.Decode(raw)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%w: it is not one clear-signed text", ErrCorrupt)
	}
	by, err := verifyDetached(bytes.NewReader(block.Bytes), block.ArmoredSignature.Body, keys)
	if err != nil {
		return nil, err
	}
	_, err = dst.Write(block.Plaintext)
	return by, err
}

// VerifyDetached returns whose signature it is over what is read from signed. The error is [ErrSignature] unless one by one of the keys verifies.
func VerifyDetached(signed io.Reader, signature []byte, keys []*Key) (*Key, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: there is no key", ErrSignature)
	}
	if len(signature) > maxSignature {
		return nil, fmt.Errorf("%w: a signature has at most %d bytes", ErrCorrupt, maxSignature)
	}
	body, kind, err := unarmour(bytes.NewReader(signature))
	if err != nil {
		return nil, err
	}
	if kind != "" && kind != openpgp.SignatureType {
		return nil, fmt.Errorf("%w: a block %.40q is no signature", ErrCorrupt, kind)
	}
	return verifyDetached(signed, body, keys)
}

func verifyDetached(signed, signature io.Reader, keys []*Key) (*Key, error) {
	in := &source{r: signed}
	_, signer, err := openpgp.VerifyDetachedSignature(entities(keys), in, signature, config(clockOf(keys)))
	if in.err != nil {
		return nil, in.err
	}
	if err != nil {
		var structure pgperrors.StructuralError
		if errors.As(err, &structure) {
			return nil, fmt.Errorf("%w: the signature: %w", ErrCorrupt, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	by := find(keys, signer)
	if by == nil {
		return nil, ErrSignature
	}
	return by, nil
}
