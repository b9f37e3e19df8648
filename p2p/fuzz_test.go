package p2p

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/quantra-l/quantra/zerotrust"
)

// FuzzFrames: whatever comes, a frame is what is encoded again as the same bytes, or an error that is one of our words.
func FuzzFrames(f *testing.F) {
	o := Options{Key: keyOf(1)}
	d := zerotrust.Identity{Kind: "peer", Key: o.Key.Public(), Issuer: o.Key.Public()}
	doc, err := d.Sign(o.Key)
	if err != nil { // an identity without times is none: its bytes are as good a seed
		doc = bytes.Repeat([]byte{1}, 300)
	}
	f.Add(appendFrame(appendFrame(nil, frameHello, make([]byte, nonceSize), doc), frameChallenge, make([]byte, zerotrust.ChallengeSize)))
	f.Add(appendFrame(appendFrame(nil, frameAnswer, make([]byte, zerotrust.AnswerSize)), frameVerdict, []byte{0}))
	f.Add(appendFrame(appendFrame(nil, framePuzzle, make([]byte, zerotrust.PuzzleSize)), frameSolution, make([]byte, zerotrust.SolutionSize)))
	f.Add(appendFrame(nil, frameBye, []byte{4}))
	f.Add([]byte{frameHello, 0xff, 0xff, 0})
	moveSeeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, buf := bytes.NewReader(raw), make([]byte, frameHead+maxFrame)
		for at := 0; ; {
			kind, body, err := readFrame(r, buf)
			if err != nil {
				if !errors.Is(err, ErrCorrupt) && err != io.EOF && err != io.ErrUnexpectedEOF {
					t.Fatalf("%v is none of the words", err)
				}
				break
			}
			again := appendFrame(nil, kind, body)
			if !bytes.Equal(again, raw[at:at+len(again)]) {
				t.Fatalf("%x is encoded as %x", raw[at:at+len(again)], again)
			}
			at += len(again)
		}
		small := make([]byte, smallFrame)
		if _, body, err := readFrame(bytes.NewReader(raw), small); err == nil && len(body) > smallFrame-frameHead {
			t.Fatalf("a body of %d bytes", len(body))
		}
		if kind, body, err := readInvite(bytes.NewReader(raw)); err == nil {
			if size := inviteSizes[kind]; len(body) < size[0] || len(body) > size[1] {
				t.Fatalf("a frame of kind %d with %d bytes", kind, len(body))
			}
		}
		fuzzMove(t, raw)
	})
}

// FuzzCode: a code is read as what is written again as a code of the same meaning.
func FuzzCode(f *testing.F) {
	for _, a := range []string{"/ip4/192.0.2.7/tcp/4242", "/ip6/2001:db8::1/tcp/1", "/ip4/192.0.2.1/udp/1/quic-v1/p2p/" + zerotrust.IDOf(keyOf(1).Public())} {
		c := code{slot: 3, addr: ma.StringCast(a), password: [passwordSize]byte{1, 2, 3}}
		f.Add(c.String())
	}
	f.Add("2O01000788AG-ACID-acor-alarm")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseCode(text)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v is none of the words", err)
			}
			return
		}
		again, err := parseCode(c.String())
		if err != nil || again.slot != c.slot || again.password != c.password || !again.addr.Equal(c.addr) {
			t.Fatalf("%q is %+v, which is written as %s and read as %+v, %v", text, c, c, again, err)
		}
	})
}

// FuzzGift: what an invitation gives, and the file of known peers, are read whole or not at all.
func FuzzGift(f *testing.F) {
	addrs := []ma.Multiaddr{ma.StringCast("/ip4/192.0.2.7/tcp/4242"), ma.StringCast("/ip4/192.0.2.7/udp/4242/quic-v1")}
	f.Add(encodeGift(nil, nil))
	f.Add(encodeGift(bytes.Repeat([]byte{7}, 200), addrs))
	f.Add([]byte(`{"peers":[{"id":"` + zerotrust.IDOf(keyOf(1).Public()) + `","addresses":["/ip4/192.0.2.7/tcp/4242"],"met":"2026-11-26T12:00:00Z"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if doc, addrs, err := decodeGift(raw); err == nil {
			if again := encodeGift(doc, addrs); !bytes.Equal(again, raw) {
				t.Fatalf("%x is encoded as %x", raw, again)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%v is none of the words", err)
		}
		k, _ := openKnown(nil, "")
		if err := k.decode(raw); err == nil {
			for _, p := range k.list() {
				if strings.TrimSpace(p.ID.String()) == "" {
					t.Fatal("a peer without an id")
				}
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%v is none of the words", err)
		}
	})
}
