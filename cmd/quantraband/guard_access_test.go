package main

import (
	"crypto/sha512"
	"testing"

	"filippo.io/edwards25519"

	"github.com/quantra-l/quantra/seal"
)

// TestVerifyUpload: uploads are judged by seal's cofactored rule. The signature that is crafted here, by a key with a part of small order, tells
// the two rules apart: the standard library's refuses it, unless the hash happens to be a multiple of 8.
func TestVerifyUpload(t *testing.T) {
	scalar := func(wide []byte) *edwards25519.Scalar {
		s, err := edwards25519.NewScalar().SetUniformBytes(wide)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	small, err := new(edwards25519.Point).SetBytes([]byte{0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05})
	if err != nil {
		t.Fatal(err)
	}
	seedA, seedR := sha512.Sum512([]byte("a")), sha512.Sum512([]byte("r"))
	a, r := scalar(seedA[:]), scalar(seedR[:])
	key := new(edwards25519.Point).Add(new(edwards25519.Point).ScalarBaseMult(a), small).Bytes()
	commitment := new(edwards25519.Point).ScalarBaseMult(r).Bytes()
	for i := range byte(20) {
		message := []byte{i}
		h := sha512.New()
		h.Write(commitment)
		h.Write(key)
		h.Write(message)
		signature := append(commitment[:32:32], edwards25519.NewScalar().MultiplyAdd(scalar(h.Sum(nil)), a, r).Bytes()...)
		if !verifyUpload(key, message, signature) {
			t.Errorf("message %d: refused, so the rule is not seal's", i)
		}
		signature[40] ^= 1
		if verifyUpload(key, message, signature) {
			t.Errorf("message %d: what was changed verifies", i)
		}
	}
	k := seal.NewKey()
	pub := k.Public()
	s, err := k.SignNote([]byte("m"))
	if err != nil || !verifyUpload(pub[:], []byte("m"), s[:]) || verifyUpload(pub[:31], []byte("m"), s[:]) || verifyUpload(pub[:], []byte("m"), s[:63]) {
		t.Errorf("an ordinary key, and what is too short: %v", err)
	}
}
