package p2p

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/zerotrust"
)

// someTicket leads from key 1 to key 2.
func someTicket() ticket {
	return ticket{ID: "c1/0", From: IDOf(keyOf(1).Public()).String(), To: IDOf(keyOf(2).Public()).String(), Peers: 3, Until: 1767225600, Addrs: []string{"/ip4/192.0.2.1/tcp/4242"}}
}

func signed(t testing.TB, v ticket) []byte {
	t.Helper()
	raw, err := v.sign(keyOf(2))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestTicketFrozen: what version 1 has written is read, and written the same.
func TestTicketFrozen(t *testing.T) {
	want := someTicket()
	path := filepath.Join("testdata", "v1", "ticket")
	now := signed(t, want)
	if *freeze {
		if err := os.WriteFile(path, now, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, now) {
		t.Error("a ticket is written otherwise than version 1 has it")
	}
	got, err := decodeTicket(raw)
	if err != nil || got.ID != want.ID || got.From != want.From || got.To != want.To || got.Peers != want.Peers || got.Until != want.Until || got.Addrs[0] != want.Addrs[0] {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestTicketWrong: no ticket is believed of which a bit is another, that another has signed, or that has expired or leads from elsewhere.
func TestTicketWrong(t *testing.T) {
	raw := signed(t, someTicket())
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if _, err := decodeTicket(bad); err == nil {
			t.Fatalf("byte %d may be another", i)
		}
	}
	for name, change := range map[string]func(*ticket){
		"another signer": func(v *ticket) { v.To = IDOf(keyOf(3).Public()).String() }, "no peers": func(v *ticket) { v.Peers = 0 }, "no address": func(v *ticket) { v.Addrs = nil },
		"no name": func(v *ticket) { v.ID = "" }, "a long name": func(v *ticket) { v.ID = strings.Repeat("x", maxMoveID+1) }, "nobody": func(v *ticket) { v.To = "x" },
		"many addresses": func(v *ticket) { v.Addrs = make([]string, maxAddrs+1) },
	} {
		v := someTicket()
		change(&v)
		if _, err := decodeTicket(signed(t, v)); err == nil {
			t.Errorf("%s: it is believed", name)
		}
	}
	n := newNode(t, func(o *Options) { o.Listen = nil })
	v := someTicket()
	if _, err := n.moves.good(&v, IDOf(keyOf(1).Public())); !errors.Is(err, ErrDenied) {
		t.Errorf("an expired one: %v", err)
	}
	v.Until = time.Now().Add(time.Minute).Unix()
	if _, err := n.moves.good(&v, IDOf(keyOf(1).Public())); err != nil {
		t.Error(err)
	}
	if _, err := n.moves.good(&v, IDOf(keyOf(4).Public())); !errors.Is(err, ErrDenied) {
		t.Errorf("one from elsewhere: %v", err)
	}
}

// TestMoveMay: nobody is led but by a node that it keeps to, with a ticket of the other; nobody commands who was not given the right; and a peer whose
// new node is gone comes home.
func TestMoveMay(t *testing.T) {
	a, b := newNode(t), newNode(t)
	home := func(o *Options) {
		o.Bootstrap = []string{a.Addrs()[0].String()}
		o.Listen = nil
	}
	p, stranger := newNode(t, home), newNode(t)
	eventually(t, "it is at home", func() bool { return p.LetIn(a.ID()) && a.LetIn(p.ID()) })
	connect(t, stranger, a)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	for _, q := range []MoveRequest{RequestNode(nil), RequestTake("c", b.ID(), 1, false), RequestStop("c"), RequestMoved("c"), RequestBack("c", nil), {Op: "nonsense"}} {
		if _, err := stranger.AskMove(ctx, a.ID(), q); !errors.Is(err, ErrDenied) {
			t.Errorf("%s by one who may not: %v", q.Op, err)
		}
	}
	if _, err := a.AskMove(ctx, a.ID(), MoveRequest{Op: "nonsense", ID: "c"}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("nonsense: %v", err)
	}
	take := func(from *Node, back bool) []byte {
		t.Helper()
		got, err := b.AskMove(ctx, b.ID(), RequestTake("c1/0", from.ID(), 1, back))
		if err != nil {
			t.Fatal(err)
		}
		return got.Ticket
	}
	if _, err := exchangeTo(ctx, a, stranger.ID(), MoveRequest{Op: moveFollow, Ticket: take(a, false)}); !errors.Is(err, ErrDenied) {
		t.Errorf("one who does not keep to it is led: %v", err)
	}
	if _, err := exchangeTo(ctx, a, p.ID(), MoveRequest{Op: moveFollow, Ticket: take(stranger, false)}); !errors.Is(err, ErrDenied) {
		t.Errorf("it is led by another's ticket: %v", err)
	}
	if _, err := exchangeTo(ctx, stranger, b.ID(), MoveRequest{Op: moveCame, Ticket: signed(t, someTicket())}); err == nil {
		t.Error("a ticket of nobody here is good for coming")
	}
	if err := a.moves.ask(p.ID(), take(a, false)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has moved", func() bool { return b.LetIn(p.ID()) && !a.LetIn(p.ID()) && p.LetIn(b.ID()) })
	if got, err := b.AskMove(ctx, b.ID(), RequestMoved("c1/0")); err != nil || got.Here != 1 || got.From != a.ID().String() || got.Given {
		t.Errorf("%+v, %v", got, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it comes home", func() bool { return a.LetIn(p.ID()) })
}

// exchangeTo asks a peer as its own node would not.
func exchangeTo(ctx context.Context, n *Node, to peer.ID, q MoveRequest) (MoveAnswer, error) {
	s, err := n.Host().NewStream(network.WithAllowLimitedConn(ctx, "a test"), to, MoveProtocol)
	if err != nil {
		return MoveAnswer{}, err
	}
	defer s.Reset()
	return exchangeMove(s, &q)
}

// TestAllowAuthor: of one who is let in its own right counts, of others that they were not revoked.
func TestAllowAuthor(t *testing.T) {
	issuer := keyOf(9)
	g := newGuard(t, func(o *zerotrust.Options) { o.Issuers = append(o.Issuers, issuer.Public()) })
	a, b := newNode(t, func(o *Options) { o.Guard = g }), newNode(t)
	connect(t, a, b)
	away := IDOf(keyOf(7).Public())
	for _, who := range []peer.ID{b.ID(), away} {
		if err := a.AllowAuthor(who, b.ID(), "topic/news"); err != nil {
			t.Error(err)
		}
	}
	if err := a.AllowAuthor(b.ID(), b.ID(), "critical/keys"); !errors.Is(err, ErrDenied) {
		t.Errorf("one who is let in, where it has no right: %v", err)
	}
	l := zerotrust.RevocationList{Number: 1, Issuer: issuer.Public(), Issued: time.Unix(time.Now().Unix(), 0), Entries: []zerotrust.Revocation{{Principal: away.String(), At: time.Unix(time.Now().Unix(), 0), Reason: "stolen"}}}
	raw, err := l.Sign(issuer)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Revoke(raw); err != nil {
		t.Fatal(err)
	}
	if err := a.AllowAuthor(away, b.ID(), "topic/news"); !errors.Is(err, ErrDenied) {
		t.Errorf("one who was revoked: %v", err)
	}
}

// moveSeeds are frames of moving, for FuzzFrames.
func moveSeeds(f *testing.F) {
	var b bytes.Buffer
	if err := writeMove(&b, &MoveRequest{Op: moveFollow, Ticket: signed(f, someTicket())}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte(`{"moves":[{"id":"c1/0","given":true},{"id":"c2/0","stopped":true}]}`))
}

// fuzzMove: no bytes of a peer's are more than a frame may have, and no signature is good for another ticket than its own.
func fuzzMove(t *testing.T, in []byte) {
	if list, err := decodeKeptMoves(in); err != nil && !errors.Is(err, ErrCorrupt) || len(list) > maxKeptMoves {
		t.Errorf("the file of moves: %d, %v", len(list), err)
	}
	var q MoveRequest
	r := bytes.NewReader(in)
	if err := readMove(r, &q); err != nil {
		return
	}
	if len(in)-r.Len() > 4+maxMoveFrame {
		t.Errorf("a frame of %d bytes was read", len(in)-r.Len())
	}
	if v, err := decodeTicket(q.Ticket); err == nil && v.To == someTicket().To {
		if own := signed(t, someTicket()); !bytes.Equal(own, q.Ticket) {
			t.Errorf("a ticket is believed that was never signed: %+v", v)
		}
	}
}
