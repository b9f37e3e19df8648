package seal

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
)

// fileDomain is what a file's signature is for. The signature is Ed25519ph's (RFC 8032 section 5.1), over SHA-512 of the file: a file
// is read once and not held, which Ed25519ctx, whose signer reads twice, cannot offer. Ed25519ph's prefix differs from Ed25519ctx's, so a
// signature of a file is no signature of a message even in the same domain.
const fileDomain = "quantra file v1"

// A signature file's block (docs/format/signature-file.md).
const (
	pemSignature     = "QUANTRA SIGNATURE"
	fileVersion      = 1
	fileSize         = 1 + PublicKeySize + SignatureSize
	maxSignatureFile = 4 << 10
)

// FileSignature is a signature of a file, and by which key it says it is: that key is worth nothing until [FileSignature.Verify] has
// found it among the ones that are trusted.
type FileSignature struct {
	Key       PublicKey
	Signature Signature
}

// ErrSigner says that a signature is by a key that is not one of those allowed.
var ErrSigner = errors.New("it is signed by another key")

// SignFile signs what is read from r, to its end, in constant memory.
func (k Key) SignFile(r io.Reader) (FileSignature, error) {
	f := FileSignature{Key: k.public}
	if len(k.private()) == 0 {
		return f, errors.New("signing with no key")
	}
	digest, err := digestFile(r)
	if err != nil {
		return f, err
	}
	b, err := k.private().Sign(nil, digest, &ed25519.Options{Hash: crypto.SHA512, Context: fileDomain})
	if err != nil {
		return f, err
	}
	copy(f.Signature[:], b)
	return f, nil
}

// Verify returns nil when the signature is by one of the keys over what is read from r. Else it is [ErrSigner] (nothing is read then)
// or [ErrSignature].
func (f FileSignature) Verify(r io.Reader, allowed ...PublicKey) error {
	if len(allowed) == 0 {
		return fmt.Errorf("%w: no key is allowed", ErrSigner)
	}
	if !slices.Contains(allowed, f.Key) {
		return fmt.Errorf("%w: %s", ErrSigner, f.Key)
	}
	digest, err := digestFile(r)
	if err != nil {
		return err
	}
	return verify(nil, fileDomain, f.Key, digest, f.Signature, crypto.SHA512)
}

func digestFile(r io.Reader) ([]byte, error) {
	h := sha512.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{r}, make([]byte, 64<<10)); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

// Encode is the signature file: one PEM block.
func (f FileSignature) Encode() []byte {
	raw := make([]byte, 0, fileSize)
	raw = append(raw, fileVersion)
	raw = append(raw, f.Key[:]...)
	raw = append(raw, f.Signature[:]...)
	return pem.EncodeToMemory(&pem.Block{Type: pemSignature, Bytes: raw})
}

// DecodeFileSignature reads a signature file. The error is [ErrCorrupt].
func DecodeFileSignature(raw []byte) (FileSignature, error) {
	var f FileSignature
	if len(raw) > maxSignatureFile {
		return f, fmt.Errorf("%w: a signature file has at most %d bytes", ErrCorrupt, maxSignatureFile)
	}
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != pemSignature || len(block.Headers) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return f, fmt.Errorf("%w: it is not one PEM block %s", ErrCorrupt, pemSignature)
	}
	switch b := block.Bytes; {
	case len(b) == 0:
		return f, fmt.Errorf("%w: the block is empty", ErrCorrupt)
	case b[0] != fileVersion:
		return f, fmt.Errorf("%w: a signature file of version %d, this program reads version %d", ErrCorrupt, b[0], fileVersion)
	case len(b) != fileSize:
		return f, fmt.Errorf("%w: the block has %d bytes, not %d", ErrCorrupt, len(b), fileSize)
	}
	copy(f.Key[:], block.Bytes[1:])
	copy(f.Signature[:], block.Bytes[1+PublicKeySize:])
	return f, nil
}
