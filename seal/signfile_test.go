package seal

import (
	"bytes"
	"crypto/sha512"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

// TestFileSignature: the frozen one of this version, and everything that must not verify.
func TestFileSignature(t *testing.T) {
	k := testKey(t)
	s, err := k.SignFile(strings.NewReader("abc"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "v1.sig")
	if *update {
		if err := os.WriteFile(path, s.Encode(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, s.Encode()) {
		t.Errorf("the signature is written as %s", s.Encode())
	}
	frozen, err := DecodeFileSignature(raw)
	if err != nil || frozen != s {
		t.Fatalf("%+v %v", frozen, err)
	}
	other := NewKey()
	if err := frozen.Verify(strings.NewReader("abc"), other.Public(), k.Public()); err != nil {
		t.Error(err)
	}
	if err := frozen.Verify(strings.NewReader("abd"), k.Public()); !errors.Is(err, ErrSignature) {
		t.Errorf("another file: %v", err)
	}
	if err := frozen.Verify(strings.NewReader("abc"), other.Public()); !errors.Is(err, ErrSigner) {
		t.Errorf("another key: %v", err)
	}
	if err := frozen.Verify(strings.NewReader("abc")); !errors.Is(err, ErrSigner) {
		t.Errorf("no key: %v", err)
	}
	claimed := frozen
	claimed.Key = other.Public()
	if err := claimed.Verify(strings.NewReader("abc"), other.Public()); !errors.Is(err, ErrSignature) {
		t.Errorf("another's name on it: %v", err)
	}
	fault := errors.New("the disk is on fire")
	if err := frozen.Verify(iotest.ErrReader(fault), k.Public()); !errors.Is(err, fault) {
		t.Error(err)
	}
	if _, err := k.SignFile(iotest.ErrReader(fault)); !errors.Is(err, fault) {
		t.Error(err)
	}
	if _, err := (Key{}).SignFile(strings.NewReader("abc")); err == nil {
		t.Error("signed with no key")
	}
	// A signature of a file is none of a message, in the same domain, over the same digest; nor the other way round.
	digest := sha512.Sum512([]byte("abc"))
	if err := k.Public().Verify(fileDomain, digest[:], s.Signature); !errors.Is(err, ErrSignature) {
		t.Errorf("as a message: %v", err)
	}
	m, err := k.Sign(fileDomain, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	if err := (FileSignature{k.Public(), m}).Verify(strings.NewReader("abc"), k.Public()); !errors.Is(err, ErrSignature) {
		t.Errorf("a message's as a file's: %v", err)
	}
}

// FuzzFileSignature: what is read is written again as the same, and what is broken is refused.
func FuzzFileSignature(f *testing.F) {
	s, err := testKey(f).SignFile(strings.NewReader("abc"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.Encode())
	for _, bad := range []string{"", "x", string(s.Encode()) + "x", strings.Repeat("A", maxSignatureFile+1),
		string(pem.EncodeToMemory(&pem.Block{Type: pemSignature})),
		string(pem.EncodeToMemory(&pem.Block{Type: pemSignature, Bytes: []byte{2}})),
		string(pem.EncodeToMemory(&pem.Block{Type: pemSignature, Bytes: []byte{1, 2}})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PGP SIGNATURE", Bytes: make([]byte, fileSize)})),
	} {
		if _, err := DecodeFileSignature([]byte(bad)); !errors.Is(err, ErrCorrupt) {
			f.Errorf("%q: %v", bad, err)
		}
		f.Add([]byte(bad))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := DecodeFileSignature(raw)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Error(err)
			}
			return
		}
		if back, err := DecodeFileSignature(s.Encode()); err != nil || back != s {
			t.Errorf("%+v became %+v: %v", s, back, err)
		}
		if s.Verify(strings.NewReader("another"), s.Key) == nil {
			t.Error("a file that nobody signed verifies")
		}
	})
}
