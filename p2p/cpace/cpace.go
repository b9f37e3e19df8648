// Package cpace is CPace, a key exchange by a password: two who know the same password come to share a key, and whoever stands between them, or
// pretends to be one of them, has one guess at the password for each run and learns nothing else.
//
// The construction is CPACE-RISTR255-SHA512 of the draft of the IRTF's crypto forum (draft-irtf-cfrg-cpace), in its form with an initiator and a
// responder. The group is ristretto255 (RFC 9496) by github.com/gtank/ristretto255, which this package fences. The draft's vectors are the test.
package cpace

import (
	"crypto/rand"
	"crypto/sha512"
	"encoding/binary"
	"errors"

	"github.com/gtank/ristretto255"
)

// ShareSize is the bytes of what each side sends.
const ShareSize = 32

// KeySize is the bytes of the key.
const KeySize = sha512.Size

// The draft's section on the group ristretto255.
const (
	dsi    = "CPaceRistretto255"
	dsiISK = dsi + "_ISK"
	block  = sha512.BlockSize // s_in_bytes
)

// ErrShare says that the other side's share is none of the group, or its identity.
var ErrShare = errors.New("cpace: the other side's share is not valid")

// Run is one side of a run. It is used once.
type Run struct {
	secret *ristretto255.Scalar
	sid    []byte
	share  [ShareSize]byte
}

// Start begins a run with a password. The channel is what names both parties and how they speak, the session is chance that both have; both
// sides must give the same.
func Start(password, channel, session []byte) *Run {
	var wide [64]byte
	rand.Read(wide[:]) // never fails: crypto/rand ends the program first
	return start(password, channel, session, ristretto255.NewScalar().FromUniformBytes(wide[:]))
}

func start(password, channel, session []byte, secret *ristretto255.Scalar) *Run {
	r := &Run{secret: secret, sid: session}
	y := ristretto255.NewElement().ScalarMult(secret, generator(password, channel, session))
	copy(r.share[:], y.Encode(nil))
	return r
}

// Share is what is sent to the other side.
func (r *Run) Share() []byte { return r.share[:] }

// Key is the key that both share, by what the other side has sent. The data of each side are bound to the key.
func (r *Run) Key(initiator bool, share, ownData, otherData []byte) ([]byte, error) {
	theirs := ristretto255.NewElement()
	if len(share) != ShareSize || theirs.Decode(share) != nil {
		return nil, ErrShare
	}
	k := ristretto255.NewElement().ScalarMult(r.secret, theirs)
	if k.Equal(ristretto255.NewElement()) == 1 {
		return nil, ErrShare
	}
	first, firstData, second, secondData := r.share[:], ownData, share, otherData
	if !initiator {
		first, firstData, second, secondData = second, secondData, first, firstData
	}
	h := sha512.New()
	h.Write(cat([]byte(dsiISK), r.sid, k.Encode(nil)))
	h.Write(cat(first, firstData))
	h.Write(cat(second, secondData))
	return h.Sum(nil), nil
}

// generator is the draft's calculate_generator.
func generator(password, channel, session []byte) *ristretto255.Element {
	sum := sha512.Sum512(generatorString(password, channel, session))
	return ristretto255.NewElement().FromUniformBytes(sum[:])
}

// generatorString fills the hash's first block with the password, so that how long it is shows in no time.
func generatorString(password, channel, session []byte) []byte {
	zeros := max(0, block-1-len(cat(password))-len(cat([]byte(dsi))))
	return cat([]byte(dsi), password, make([]byte, zeros), channel, session)
}

// cat is the draft's lv_cat: each part after its length as LEB128.
func cat(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		out = binary.AppendUvarint(out, uint64(len(p)))
		out = append(out, p...)
	}
	return out
}
