package seal_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/quantra-l/quantra/seal"
)

// TestSignNote: RFC 8032 section 7.1, test 2, and that a signature of a domain is none of a note, nor the other way round.
func TestSignNote(t *testing.T) {
	seed, _ := hex.DecodeString("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
	want := "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
	k, err := seal.KeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	s, err := k.SignNote([]byte{0x72})
	if err != nil || hex.EncodeToString(s[:]) != want {
		t.Fatalf("%x, %v", s, err)
	}
	if err := k.Public().VerifyNote([]byte{0x72}, s); err != nil {
		t.Error(err)
	}
	if err := k.Public().Verify("d", []byte{0x72}, s); !errors.Is(err, seal.ErrSignature) {
		t.Errorf("in a domain: %v", err)
	}
	d, err := k.Sign("d", []byte{0x72})
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"another message":       k.Public().VerifyNote([]byte{0x73}, s),
		"another key":           seal.NewKey().Public().VerifyNote([]byte{0x72}, s),
		"a domain's":            k.Public().VerifyNote([]byte{0x72}, d),
		"the small-order point": seal.PublicKey{1}.VerifyNote([]byte{0x72}, seal.Signature{1}),
	} {
		if !errors.Is(err, seal.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (seal.Key{}).SignNote(nil); err == nil {
		t.Error("no key signs")
	}
	pub := k.Public()
	if !ed25519.Verify(pub[:], []byte{0x72}, s[:]) {
		t.Error("others cannot verify it")
	}
}
