package p2p

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/p2p/cpace"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
)

// believing is a node whose guard believes nobody but its own issuer, who vouches for whoever was met.
func believing(t *testing.T, change ...func(*Options)) *Node {
	issuer := seal.NewKey()
	guard := newGuard(t, func(o *zerotrust.Options) { o.Issuers, o.SelfSigned = []seal.PublicKey{issuer.Public()}, nil })
	return newNode(t, append([]func(*Options){func(o *Options) {
		o.Guard = guard
		o.Issue = func(key seal.PublicKey) ([]byte, error) {
			d := zerotrust.Identity{Kind: "peer", Key: key, Issuer: issuer.Public(), NotBefore: time.Now().Add(-time.Minute), Expires: time.Now().Add(time.Hour)}
			return d.Sign(issuer)
		}
	}}, change...)...)
}

// TestInvite: two that nobody vouches for, and that would not let each other in, meet by a code; both see the same words, both know the other from
// then on, and come together again after both have started anew.
func TestInvite(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	disk := vfs.NewMem()
	in := func(dir string) func(*Options) { return func(o *Options) { o.Dir, o.FS = dir, disk } }
	a, b := believing(t, in("/a")), believing(t, in("/b"))
	if b.Connect(ctx, info(a)) == nil { // the word that it is denied, or the end of the connection, whichever comes first
		t.Fatal("it is let in before it was invited")
	}
	v, err := a.Invite("", 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Join(ctx, strings.ToLower(v.Code))
	if err != nil {
		t.Fatal(err)
	}
	met, err := v.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if met.Peer != b.ID() || got.Peer != a.ID() || met.Words != got.Words || len(strings.Fields(met.Words)) != shownWords {
		t.Errorf("%+v and %+v", met, got)
	}
	if err := errors.Join(a.await(ctx, b.ID()), a.Allow(b.ID(), "send", "topic/x"), b.Allow(a.ID(), "send", "topic/x")); err != nil {
		t.Error(err)
	}
	if _, err := b.Join(ctx, v.Code); !errors.Is(err, ErrDenied) && !errors.Is(err, ErrUnavailable) {
		t.Errorf("a code that was used: %v", err)
	}
	for _, name := range []string{"/a", "/b"} {
		k, err := openKnown(disk, name)
		if err != nil || len(k.peers) != 1 {
			t.Fatalf("%s knows %d peers, %v", name, len(k.peers), err)
		}
		if names, err := disk.List(name); err != nil || !slices.Equal(names, []string{knownFile}) {
			t.Errorf("%s has %v, %v", name, names, err)
		}
	}
	// b starts anew and comes back by itself.
	old := b.opt
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	again := newNode(t, func(o *Options) { *o = old; o.Log = nil })
	eventually(t, "it comes back by itself", func() bool { return again.Allow(a.ID(), "send", "topic/x") == nil })
}

// TestWrongCode: a code with a wrong word opens nothing, and after three tries nor does the right one.
func TestWrongCode(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a, b := newNode(t), newNode(t)
	v, err := a.Invite("", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseCode(v.Code)
	if err != nil {
		t.Fatal(err)
	}
	c.password[1] ^= 1
	for i := range inviteTries {
		if _, err := b.Join(ctx, c.String()); !errors.Is(err, ErrCode) {
			t.Errorf("try %d: %v", i, err)
		}
	}
	if _, err := b.Join(ctx, v.Code); err == nil {
		t.Error("the right code after three wrong ones opens it")
	}
	if _, err := v.Wait(ctx); !errors.Is(err, ErrCode) {
		t.Errorf("the one who invited sees %v", err)
	}
	if len(b.known.list()) != 0 {
		t.Error("somebody is known")
	}
	if _, err := a.Join(ctx, v.Code); err == nil {
		t.Error("a node joins itself")
	}
}

// TestGuess: who has not the words gets nothing from either side, whatever he sends in the place of the proof.
func TestGuess(t *testing.T) {
	n := newNode(t, func(o *Options) { o.Listen = nil })
	stranger := IDOf(keyOf(77).Public())
	guess := []byte{1, 2, 3}
	gift := encodeGift(nil, nil)
	run := func(honest func(*exchange) error, other func(io.ReadWriter)) error {
		x, y := net.Pipe()
		go func() { defer y.Close(); other(y) }()
		defer x.Close()
		return honest(&exchange{n: n, peer: stranger, s: x, in: bufio.NewReader(x)})
	}
	read := func(c io.Reader) []byte { _, body, _ := readInvite(c); return body }

	v, err := n.Invite("127.0.0.1:1", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	err = run(func(x *exchange) error { return x.invite(n.invites) }, func(c io.ReadWriter) {
		c.Write(appendFrame(nil, inviteOpen, []byte{v.code.slot}, make([]byte, inviteSession), cpace.Start(guess, nil, nil).Share()))
		read(c)
		c.Write(appendFrame(nil, inviteConfirm, make([]byte, 32)))
		c.Write(appendFrame(nil, inviteGift, gift))
	})
	if !errors.Is(err, ErrCode) {
		t.Errorf("who joins without the words: %v", err)
	}
	err = run(func(x *exchange) error { _, err := x.join(&code{password: [passwordSize]byte{9, 9, 9}}); return err }, func(c io.ReadWriter) {
		read(c)
		c.Write(appendFrame(nil, inviteShare, cpace.Start(guess, nil, nil).Share()))
		read(c)
		c.Write(appendFrame(nil, inviteConfirm, make([]byte, 32)))
		read(c)
		c.Write(appendFrame(nil, inviteGift, gift))
	})
	if !errors.Is(err, ErrCode) {
		t.Errorf("who invites without the words: %v", err)
	}
	if got := n.known.list(); len(got) != 0 {
		t.Errorf("%d are known", len(got))
	}
}

// TestNobodyInvites: without an invitation its protocol is not answered.
func TestNobodyInvites(t *testing.T) {
	n := newNode(t)
	h := plain(t)
	var s network.Stream
	for s == nil { // the node ends the connection of whom it does not know, which may be before a stream is there
		if err := h.Connect(t.Context(), info(n)); t.Context().Err() != nil {
			t.Fatal(err)
		}
		if conns := h.Network().ConnsToPeer(n.ID()); len(conns) > 0 {
			s, _ = conns[0].NewStream(t.Context()) // nil is a connection that has ended
		}
	}
	s.SetProtocol(InviteProtocol)
	s.Write([]byte("\x13/multistream/1.0.0\n\x12/quantra/invite/1\n" + string(appendFrame(nil, inviteOpen, make([]byte, 49)))))
	s.SetReadDeadline(time.Now().Add(patience))
	const echoed = len("\x13/multistream/1.0.0\n\x12/quantra/invite/1\n")
	if got, err := io.ReadAll(s); err == nil || len(got) > echoed {
		t.Errorf("it is answered: %q, %v", got, err)
	}
}

func TestCode(t *testing.T) {
	for _, text := range []string{"/ip4/192.0.2.7/tcp/4242", "/ip6/2001:db8::1/tcp/1", "/ip4/192.0.2.1/udp/4242/quic-v1/p2p/" + zerotrust.IDOf(keyOf(1).Public()),
		"/ip4/192.0.2.1/tcp/4242/p2p/" + zerotrust.IDOf(keyOf(1).Public()) + "/p2p-circuit/p2p/" + zerotrust.IDOf(keyOf(2).Public())} {
		c := code{slot: 9, addr: ma.StringCast(text), password: [passwordSize]byte{0, 255, 7}}
		s := c.String()
		got, err := parseCode(" " + strings.ReplaceAll(strings.ToLower(s), "-", " "))
		if err != nil || got.slot != 9 || got.password != c.password || !got.addr.Equal(c.addr) {
			t.Errorf("%s: %s is read as %+v, %v", text, s, got, err)
		}
	}
	c := code{addr: ma.StringCast("/ip4/192.0.2.7/tcp/4242"), password: [passwordSize]byte{1, 2, 3}}
	if got := c.String(); len(got) > 40 {
		t.Errorf("the code is %s: that is not short", got)
	}
	for _, bad := range []string{"", "x", "ABC-acid-acid", "20-acid-acid-acid", "2301000788AG-acid-acid-nosuch", "2301000788AG-acid-acid-acid-acid", strings.Repeat("A", 700), "UUUU-acid-acid-acid", "F0000000-acid-acid-acid"} {
		if c, err := parseCode(bad); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%.30q is %v, %v", bad, c, err)
		}
	}
	if len(wordList) != 256 {
		t.Fatalf("%d words", len(wordList))
	}
	heads := map[string]bool{}
	for i, w := range wordList {
		heads[w[:min(4, len(w))]] = true
		if b, ok := wordByte(strings.ToUpper(w)); !ok || int(b) != i {
			t.Errorf("%s is word %d", w, b)
		}
	}
	if len(heads) != 256 || !slices.IsSorted(wordList) {
		t.Errorf("%d beginnings of words, and they are in order: %v", len(heads), slices.IsSorted(wordList))
	}
}

// TestKnownFile: what is damaged is said, and a write that fails changes nothing.
func TestKnownFile(t *testing.T) {
	var k *known
	var err error
	id := IDOf(keyOf(1).Public()).String()
	first := Known{ID: id, Addrs: []string{"/ip4/192.0.2.1/tcp/1"}}
	faults := 0
	for n := 1; ; n++ {
		disk := vfs.NewMem()
		if k, err = openKnown(disk, "/d"); err == nil {
			err = k.add(&first)
		}
		if err != nil {
			t.Fatal(err)
		}
		planted := false
		fail := vfs.FailNth(n, errors.New("planted"))
		failing := vfs.Hook(disk, func(op vfs.Op) error {
			err := fail(op)
			planted = planted || err != nil
			return err
		})
		again, err := openKnown(failing, "/d")
		if err == nil {
			err = again.add(&Known{ID: IDOf(keyOf(2).Public()).String()})
			if faults++; (err == nil) != (len(again.peers) == 2) {
				t.Errorf("fault %d: %v, and %d peers", n, err, len(again.peers))
			}
		}
		check, err := openKnown(disk, "/d")
		if err != nil || check.peers[IDOf(keyOf(1).Public())] == nil {
			t.Fatalf("fault %d: what was known is gone: %v", n, err)
		}
		if !planted {
			break
		}
	}
	if faults < 5 { // create, write, sync, rename, sync of the folder
		t.Errorf("only %d faults were planted in writing", faults)
	}
	for name, raw := range map[string]string{
		"no JSON": "{", "no peer": `{"peers":[null]}`, "no id": `{"peers":[{"id":"x"}]}`, "no address": `{"peers":[{"id":"` + id + `","addresses":["x"]}]}`,
		"no document": `{"peers":[{"id":"` + id + `","document":"eHg="}]}`,
	} {
		if err := (&known{}).decode([]byte(raw)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
