package p2p

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/quantra-l/quantra/zerotrust"
)

var freeze = flag.Bool("freeze", false, "write testdata/v1 anew: only before it was released")

// frozenTalk are the first frames of both ends, with chance that is none.
func frozenTalk(t *testing.T) []byte {
	t.Helper()
	from := time.Unix(1767225600, 0) // 2026
	d := zerotrust.Identity{Kind: "peer", Key: keyOf(1).Public(), Issuer: keyOf(1).Public(), NotBefore: from, Expires: from.AddDate(1, 0, 0)}
	doc, err := d.Sign(keyOf(1))
	if err != nil {
		t.Fatal(err)
	}
	challenge := append([]byte("QLCH\x01"), bytes.Repeat([]byte{3}, 32)...)
	answer, err := zerotrust.Answer(keyOf(1), frozenBinding(), challenge)
	if err != nil {
		t.Fatal(err)
	}
	b := appendFrame(nil, frameHello, bytes.Repeat([]byte{1}, nonceSize), doc)
	b = appendFrame(b, frameChallenge, challenge)
	b = appendFrame(b, frameAnswer, answer)
	b = appendFrame(b, frameVerdict, []byte{byte(verdictOK)})
	return appendFrame(b, frameBye, []byte{byte(byeClosed)})
}

// frozenBinding is that of an asker with the chance 1 and an asked with the chance 2.
func frozenBinding() []byte {
	one := talk{judge: &judge{self: IDOf(keyOf(1).Public())}, peer: IDOf(keyOf(2).Public()), asker: true, mine: [32]byte(bytes.Repeat([]byte{1}, 32)), theirs: [32]byte(bytes.Repeat([]byte{2}, 32))}
	return one.binding()
}

// TestFrozen: what version 1 has written is read, and written the same.
func TestFrozen(t *testing.T) {
	file := func(name string, now []byte) []byte {
		path := filepath.Join("testdata", "v1", name)
		if *freeze {
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, now, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	// The frames: docs/format/guard-protocol.md.
	raw := file("frames.bin", frozenTalk(t))
	if !bytes.Equal(raw, frozenTalk(t)) {
		t.Error("the frames are written as other bytes than version 1's")
	}
	r, buf := bytes.NewReader(raw), make([]byte, frameHead+maxFrame)
	for _, want := range []byte{frameHello, frameChallenge, frameAnswer, frameVerdict, frameBye} {
		if kind, _, err := readFrame(r, buf); err != nil || kind != want {
			t.Fatalf("kind %d, %v; want %d", kind, err, want)
		}
	}
	// The binding, from both ends.
	two := talk{judge: &judge{self: IDOf(keyOf(2).Public())}, peer: IDOf(keyOf(1).Public()), mine: [32]byte(bytes.Repeat([]byte{2}, 32)), theirs: [32]byte(bytes.Repeat([]byte{1}, 32))}
	if got := two.binding(); !bytes.Equal(got, frozenBinding()) {
		t.Error("the ends have different bindings")
	}
	if got := file("binding.hex", []byte(hex.EncodeToString(frozenBinding())+"\n")); string(bytes.TrimSpace(got)) != hex.EncodeToString(frozenBinding()) {
		t.Errorf("the binding is %x, version 1 has %s", frozenBinding(), got)
	}
	// A code, and a file of known peers.
	c := code{slot: 5, addr: ma.StringCast("/ip4/192.0.2.7/tcp/4242"), password: [passwordSize]byte{9, 99, 199}}
	if got := string(bytes.TrimSpace(file("code", []byte(c.String()+"\n")))); got != c.String() {
		t.Errorf("the code is %s, version 1 has %s", c.String(), got)
	}
	k := &known{peers: map[peer.ID]*Known{}}
	if err := k.decode(file("peers.json", []byte(`{"peers": [{"id": "`+zerotrust.IDOf(keyOf(2).Public())+`", "addresses": ["/ip4/192.0.2.7/tcp/4242"], "met": "2026-11-26T12:00:00Z", "words": "acid acorn alarm album amber"}]}`+"\n"))); err != nil || len(k.peers) != 1 {
		t.Errorf("the known peers of version 1: %d, %v", len(k.peers), err)
	}
}

// TestBinding: it is of who meets whom, in which role, and of both ends' chance: where any of them is another, it is another.
func TestBinding(t *testing.T) {
	base := talk{judge: &judge{self: "a"}, peer: "b", asker: true}
	seen := map[string]string{string(base.binding()): "the base"}
	for name, change := range map[string]func(*talk){
		"who asks": func(x *talk) { x.asker = false }, "ourselves": func(x *talk) { x.judge = &judge{self: "c"} }, "the peer": func(x *talk) { x.peer = "c" },
		"our chance": func(x *talk) { x.mine[31] = 1 }, "their chance": func(x *talk) { x.theirs[0] = 1 }, "a border": func(x *talk) { x.judge, x.peer = &judge{self: "ab"}, "" },
	} {
		x := base
		change(&x)
		got := string(x.binding())
		if other, ok := seen[got]; ok {
			t.Errorf("%s changes nothing beside %s", name, other)
		}
		seen[got] = name
	}
}

// TestToll: who owes a puzzle is not looked at before it is solved, whichever end it is that asks; who solves it comes in.
func TestToll(t *testing.T) {
	for _, asks := range []bool{false, true} {
		for _, pays := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				a, b := newEnd(t, 1), newEnd(t, 2)
				gate, err := zerotrust.NewAdmission(zerotrust.AdmissionOptions{Total: 4, PerAddress: 1000, MaxBits: 12, Now: time.Now})
				if err != nil {
					t.Fatal(err)
				}
				addr := netip.MustParseAddr("192.0.2.9")
				var puzzle []byte
				for err == nil { // until one is asked for
					puzzle, err = gate.Admit(addr, nil)
				}
				x, y := net.Pipe()
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				judges := func(e *end) *judge {
					return &judge{self: IDOf(e.key.Public()), key: e.key, guard: e.guard, document: func(peer.ID) []byte { return e.doc }, now: time.Now}
				}
				left, line := newLine(x), newLine(y)
				defer left.Close()
				defer line.Close()
				done := make(chan error, 1)
				go func() {
					if !pays { // it presents itself, and passes over the puzzle
						line.Write(appendFrame(nil, frameHello, make([]byte, nonceSize), b.doc))
						readFrame(y, make([]byte, frameHead+maxFrame))
						line.Write(appendFrame(nil, frameHello, make([]byte, nonceSize), b.doc))
						done <- nil
						return
					}
					_, err := judges(b).meet(ctx, line, IDOf(a.key.Public()), loopback, !asks, nil)
					done <- err
				}()
				_, err = judges(a).meet(ctx, left, IDOf(b.key.Public()), addr, asks, &toll{gate, addr, puzzle})
				if !pays {
					if !errors.Is(err, ErrDenied) || a.guard.Status().Verified != 0 || a.guard.Status().Allowed != 0 {
						t.Errorf("asks %v: who does not pay: %v, and %d documents were looked at", asks, err, a.guard.Status().Verified)
					}
					y.Close()
					<-done
					return
				}
				if err := errors.Join(err, <-done); err != nil {
					t.Errorf("asks %v: who pays: %v", asks, err)
				}
			})
		}
	}
}
