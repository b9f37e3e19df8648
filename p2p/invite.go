package p2p

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/multiformats/go-multistream"

	"github.com/quantra-l/quantra/p2p/cpace"
	"github.com/quantra-l/quantra/zerotrust"
)

// The bounds of invitations.
const (
	// DefaultInvitation is how long an invitation holds where nothing else is said.
	DefaultInvitation = 10 * time.Minute
	// inviteTries are the guesses that an invitation survives. Each try is one run of CPace, which is one guess.
	inviteTries = 3
	inviteTime  = 30 * time.Second // of one exchange
	// shownWords are the words that both sides see.
	shownWords = 5

	inviteSession = 16 // bytes of chance, from the one who joins
	maxGift       = 16 << 10
)

// The frames of an invitation, drawn in docs/format/guard-protocol.md: a kind, two bytes of length, a body.
const (
	inviteOpen    = 1 // slot, session, share
	inviteShare   = 2 // share
	inviteConfirm = 3 // an HMAC
	inviteGift    = 4 // an identity for the other, and addresses
	inviteDone    = 5
	inviteRefused = 6
)

var inviteSizes = map[byte][2]int{
	inviteOpen:    {1 + inviteSession + cpace.ShareSize, 1 + inviteSession + cpace.ShareSize},
	inviteShare:   {cpace.ShareSize, cpace.ShareSize},
	inviteConfirm: {sha256.Size, sha256.Size},
	inviteGift:    {3, maxGift},
	inviteDone:    {0, 0},
	inviteRefused: {0, 0},
}

// ErrCode says that an invitation's code is not the one: wrong, used, expired, or somebody stands between.
var ErrCode = fmt.Errorf("%w: the invitation's code is not right, was used, or has expired", ErrDenied)

// Acquaintance is who was met by an invitation.
type Acquaintance struct {
	Peer peer.ID
	// Words are to be compared by the two people, by telephone or face to face: the same on both sides, unless somebody stands between.
	Words string
}

// Invitation is one that is open.
type Invitation struct {
	Code    string
	Expires time.Time
	code    code
	tries   int
	met     chan Acquaintance // receives once
	done    chan struct{}     // closed when it is over
	of      *invites
}

// invites are a node's open invitations, by slot.
type invites struct {
	n  *Node
	mu sync.Mutex
	at [maxSlots]*Invitation
}

func newInvites(n *Node) *invites { return &invites{n: n} }

// Invite opens an invitation. Whoever joins by its code within the time (0 is [DefaultInvitation]) is known from then on, and we are to it. The
// address is where the other side reaches us; "" is the best that we know of ourselves.
func (n *Node) Invite(address string, life time.Duration) (*Invitation, error) {
	addr, err := n.hint(address)
	if err != nil {
		return nil, err
	}
	if life == 0 {
		life = DefaultInvitation
	}
	if life < 0 || life > 24*time.Hour {
		return nil, fmt.Errorf("p2p: an invitation for %s: it must be more than nothing, and a day at most", life)
	}
	v := &Invitation{code: code{addr: addr}, Expires: n.opt.Now().Add(life), met: make(chan Acquaintance, 1), done: make(chan struct{}), of: n.invites}
	rand.Read(v.code.password[:]) // never fails: crypto/rand ends the program first
	w := n.invites
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.at {
		if w.at[i] != nil && w.at[i].over() {
			w.drop(w.at[i])
		}
		if w.at[i] == nil {
			v.code.slot, w.at[i] = byte(i), v
			v.Code = v.code.String()
			return v, nil
		}
	}
	return nil, fmt.Errorf("%w: %d invitations are open", ErrUnavailable, maxSlots)
}

// Wait waits until somebody has joined, or the invitation is over.
func (v *Invitation) Wait(ctx context.Context) (Acquaintance, error) {
	ctx, cancel := context.WithTimeout(ctx, v.Expires.Sub(v.of.n.opt.Now()))
	defer cancel()
	select {
	case a := <-v.met:
		return a, nil
	case <-v.done:
		select {
		case a := <-v.met:
			return a, nil
		default:
			return Acquaintance{}, ErrCode
		}
	case <-ctx.Done():
		v.Close()
		return Acquaintance{}, fmt.Errorf("%w: nobody has joined", ErrUnavailable)
	case <-v.of.n.ctx.Done():
		return Acquaintance{}, ErrClosed
	}
}

// Close takes an invitation back.
func (v *Invitation) Close() {
	v.of.mu.Lock()
	defer v.of.mu.Unlock()
	v.of.drop(v)
}

// over says that nobody can join any more. The lock of invites is held.
func (v *Invitation) over() bool {
	return v.tries >= inviteTries || !v.of.n.opt.Now().Before(v.Expires)
}

// drop takes one out. The lock is held.
func (w *invites) drop(v *Invitation) {
	if w.at[v.code.slot] == v {
		w.at[v.code.slot] = nil
		close(v.done)
	}
}

// open says whether there is an invitation.
func (w *invites) open() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range w.at {
		if v != nil && !v.over() {
			return true
		}
	}
	return false
}

// try takes one of an invitation's tries.
func (w *invites) try(slot byte) *Invitation {
	w.mu.Lock()
	defer w.mu.Unlock()
	if int(slot) >= len(w.at) || w.at[slot] == nil {
		return nil
	}
	v := w.at[slot]
	if v.over() {
		w.drop(v)
		return nil
	}
	v.tries++
	return v
}

// failed ends an invitation whose tries are used up.
func (w *invites) failed(v *Invitation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if v.over() {
		w.drop(v)
	}
}

// used is after somebody has joined.
func (w *invites) used(v *Invitation, a Acquaintance) {
	v.met <- a // there is room for one, and one it is: drop closes it to others
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(v)
}

// hint is the address that goes into a code.
func (n *Node) hint(text string) (ma.Multiaddr, error) {
	if text != "" {
		if host, port, err := net.SplitHostPort(text); err == nil {
			ip := net.ParseIP(host)
			if ip == nil {
				return nil, fmt.Errorf("p2p: %q: an invitation's address is an IP and a port, or a multiaddress", text)
			}
			family := "ip6"
			if ip.To4() != nil {
				family = "ip4"
			}
			return ma.NewMultiaddr(fmt.Sprintf("/%s/%s/tcp/%s", family, ip, port))
		}
		a, err := ParseAddress(text)
		if err != nil {
			return nil, err
		}
		return n.whole(a), nil
	}
	var best ma.Multiaddr
	worth := 0
	for _, a := range n.inner.Addrs() {
		at, ok := tcpOf(a)
		_, relay := a.ValueForProtocol(ma.P_CIRCUIT)
		v := 0
		switch {
		case ok && manet.IsPublicAddr(a) && at.Addr().Is4():
			v = 5
		case ok && manet.IsPublicAddr(a):
			v = 4
		case relay == nil:
			v = 3
		case ok && !at.Addr().IsLoopback() && !at.Addr().IsLinkLocalUnicast():
			v = 2
		case ok && !at.Addr().IsLinkLocalUnicast():
			v = 1
		}
		if v > worth {
			best, worth = a, v
		}
	}
	if best == nil {
		return nil, fmt.Errorf("%w: the node listens on no TCP address: say by which one it is reached", ErrUnavailable)
	}
	return n.whole(best), nil
}

// whole is an address with our id, unless it is one that a code has a short form of.
func (n *Node) whole(a ma.Multiaddr) ma.Multiaddr {
	if _, ok := tcpOf(a); ok {
		return a
	}
	if _, err := a.ValueForProtocol(ma.P_P2P); err == nil {
		if _, id := peer.SplitAddr(a); id != "" {
			return a
		}
	}
	self, err := ma.NewComponent("p2p", n.ID().String())
	if err != nil {
		return a
	}
	return a.AppendComponent(self)
}

// Join goes to whom a code names, and is known to it from then on.
func (n *Node) Join(ctx context.Context, text string) (Acquaintance, error) {
	c, err := parseCode(text)
	if err != nil {
		return Acquaintance{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, inviteTime)
	defer cancel()
	info := peer.AddrInfo{}
	if at, ok := tcpOf(c.addr); ok {
		// libp2p dials nobody whose id it has not. Who is there is asked first; that it is whom the code means CPace shows.
		if info.ID, err = whoIs(ctx, at.String()); err != nil {
			return Acquaintance{}, fmt.Errorf("%w: nobody answers at %s: %w", ErrUnavailable, at, err)
		}
		info.Addrs = []ma.Multiaddr{c.addr}
	} else if info, err = ParsePeer(c.addr.String()); err != nil {
		return Acquaintance{}, err
	}
	if info.ID == n.ID() {
		return Acquaintance{}, fmt.Errorf("%w: this is an invitation of this node itself", ErrDenied)
	}
	done := n.meeting(info.ID)
	defer done()
	if err := n.inner.Connect(limited(ctx), info); err != nil {
		return Acquaintance{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	s, err := n.inner.NewStream(limited(ctx), info.ID, InviteProtocol)
	if err != nil {
		return Acquaintance{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(inviteTime))
	x := &exchange{n: n, peer: info.ID, s: s, in: bufio.NewReader(s)}
	a, err := x.join(c)
	if err != nil {
		_ = s.Reset()
		if gone := (*network.StreamError)(nil); errors.As(err, &gone) && gone.ErrorCode == network.StreamGated {
			err = ErrCode // nobody is invited there
		} else if !errors.Is(err, ErrDenied) && !errors.Is(err, ErrCorrupt) {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return Acquaintance{}, err
	}
	done()
	return a, n.await(ctx, info.ID)
}

// meeting notes that an invitation goes on with a peer: that it is not let in meanwhile does not end the connection. When it is over the peer
// is judged again, if it was not let in.
func (n *Node) meeting(p peer.ID) (done func()) {
	n.mu.Lock()
	n.meetings[p]++
	n.mu.Unlock()
	return sync.OnceFunc(func() {
		n.mu.Lock()
		if n.meetings[p]--; n.meetings[p] == 0 {
			delete(n.meetings, p)
		}
		l := n.links[p]
		now := l != nil && !l.pending
		if l != nil {
			l.again = l.pending
		}
		n.mu.Unlock()
		if now && n.guards.get(p) == nil {
			n.broken(l, p, nil, nil)
		}
	})
}

// incoming is the protocol's handler.
func (w *invites) incoming(s network.Stream) {
	n, p := w.n, s.Conn().RemotePeer()
	if !w.open() {
		_ = s.ResetWithError(network.StreamGated)
		return
	}
	done := n.meeting(p)
	defer done()
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(inviteTime))
	x := &exchange{n: n, peer: p, s: s, in: bufio.NewReader(s)}
	if err := x.invite(w); err != nil {
		n.opt.Log.Info("an invitation was not taken up", "peer", p, "why", err)
		if errors.Is(err, ErrCode) {
			_ = x.send(inviteRefused)
			return
		}
		_ = s.Reset()
	}
}

// exchange is one run of an invitation.
type exchange struct {
	n    *Node
	peer peer.ID
	s    io.Writer
	in   *bufio.Reader
}

func (x *exchange) send(kind byte, body ...[]byte) error {
	_, err := x.s.Write(appendFrame(nil, kind, body...))
	return err
}

func (x *exchange) read(want byte) ([]byte, error) {
	kind, body, err := readInvite(x.in)
	switch {
	case err != nil:
		return nil, err
	case kind == inviteRefused:
		return nil, ErrCode
	case kind != want:
		return nil, fmt.Errorf("%w: a frame of kind %d came where one of kind %d was to come", ErrCorrupt, kind, want)
	}
	return body, nil
}

// readInvite reads a frame of an invitation.
func readInvite(r io.Reader) (kind byte, body []byte, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size, ok := inviteSizes[head[0]]
	n := int(binary.BigEndian.Uint16(head[1:]))
	if !ok || n < size[0] || n > size[1] {
		return 0, nil, fmt.Errorf("%w: a frame of kind %d with %d bytes", ErrCorrupt, head[0], n)
	}
	body = make([]byte, n)
	_, err = io.ReadFull(r, body)
	return head[0], body, err
}

// channel names both sides: the one who joins first. libp2p's handshake has shown both ids, so whoever stands between has another.
func (x *exchange) channel(joins bool) []byte {
	first, second := x.n.ID(), x.peer
	if !joins {
		first, second = second, first
	}
	out := []byte("quantra invite v1")
	for _, id := range []peer.ID{first, second} {
		out = append(append(out, byte(len(id))), id...)
	}
	return out
}

// derive is something that only the two have, by name.
func derive(key []byte, name string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte("quantra invite v1 " + name))
	return m.Sum(nil)
}

// join is the side of the one who has the code.
func (x *exchange) join(c *code) (Acquaintance, error) {
	session := make([]byte, inviteSession)
	rand.Read(session)
	run := cpace.Start(c.password[:], x.channel(true), session)
	if err := x.send(inviteOpen, []byte{c.slot}, session, run.Share()); err != nil {
		return Acquaintance{}, err
	}
	share, err := x.read(inviteShare)
	if err != nil {
		return Acquaintance{}, err
	}
	key, err := run.Key(true, share, nil, nil)
	if err != nil {
		return Acquaintance{}, fmt.Errorf("%w: %w", ErrCode, err)
	}
	if err := x.send(inviteConfirm, derive(key, "joins")); err != nil {
		return Acquaintance{}, err
	}
	proof, err := x.read(inviteConfirm)
	if err != nil {
		return Acquaintance{}, err
	}
	if !hmac.Equal(proof, derive(key, "invites")) {
		return Acquaintance{}, ErrCode
	}
	a := Acquaintance{x.peer, wordsOf(derive(key, "words")[:shownWords], " ")}
	if err := x.give(); err != nil {
		return a, err
	}
	if err := x.accept(a); err != nil {
		return a, err
	}
	return a, x.send(inviteDone) // both have kept the other by now
}

// invite is the side of the one who has opened it.
func (x *exchange) invite(w *invites) error {
	body, err := x.read(inviteOpen)
	if err != nil {
		return err
	}
	v := w.try(body[0])
	if v == nil {
		return ErrCode
	}
	defer w.failed(v)
	session, theirs := body[1:1+inviteSession], body[1+inviteSession:]
	run := cpace.Start(v.code.password[:], x.channel(false), session)
	key, err := run.Key(false, theirs, nil, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCode, err)
	}
	if err := x.send(inviteShare, run.Share()); err != nil {
		return err
	}
	proof, err := x.read(inviteConfirm)
	if err != nil {
		return err
	}
	if !hmac.Equal(proof, derive(key, "joins")) {
		return ErrCode
	}
	if err := x.send(inviteConfirm, derive(key, "invites")); err != nil {
		return err
	}
	a := Acquaintance{x.peer, wordsOf(derive(key, "words")[:shownWords], " ")}
	if err := x.accept(a); err != nil {
		return err
	}
	if err := x.give(); err != nil {
		return err
	}
	if _, err := x.read(inviteDone); err != nil {
		return err
	}
	w.used(v, a)
	return nil
}

// give sends the identity that we issue to the other, and our addresses.
func (x *exchange) give() error {
	var doc []byte
	if x.n.opt.Issue != nil {
		key, ok := KeyOf(x.peer)
		if !ok {
			return fmt.Errorf("%w: its key is not of Ed25519", ErrDenied)
		}
		var err error
		if doc, err = x.n.opt.Issue(key); err != nil {
			return fmt.Errorf("an identity for %s: %w", x.peer, err)
		}
	}
	return x.send(inviteGift, encodeGift(doc, x.n.inner.Addrs()))
}

// encodeGift is: the document's length and the document, the number of addresses, and each after its length.
func encodeGift(doc []byte, addrs []ma.Multiaddr) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(doc)))
	b = append(b, doc...)
	count := len(b)
	b = append(b, 0)
	for _, a := range addrs {
		raw := a.Bytes()
		if b[count] == maxAddrs || len(raw) > 255 {
			continue
		}
		b[count]++
		b = append(append(b, byte(len(raw))), raw...)
	}
	return b
}

func decodeGift(b []byte) (doc []byte, addrs []ma.Multiaddr, err error) {
	bad := fmt.Errorf("%w: what was given by the invitation makes no sense", ErrCorrupt)
	if len(b) < 2 {
		return nil, nil, bad
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; n > zerotrust.MaxDocument || len(b) < n+1 {
		return nil, nil, bad
	}
	doc, b = b[:n], b[n:]
	count := int(b[0])
	if b = b[1:]; count > maxAddrs {
		return nil, nil, bad
	}
	for range count {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return nil, nil, bad
		}
		a, err := ma.NewMultiaddrBytes(b[1 : 1+int(b[0])])
		if err != nil {
			return nil, nil, bad
		}
		addrs = append(addrs, a)
		b = b[1+int(b[0]):]
	}
	if len(b) > 0 {
		return nil, nil, bad
	}
	return doc, addrs, nil
}

// accept keeps what the other gives.
func (x *exchange) accept(a Acquaintance) error {
	body, err := x.read(inviteGift)
	if err != nil {
		return err
	}
	doc, addrs, err := decodeGift(body)
	if err != nil {
		return err
	}
	if len(doc) > 0 {
		d, err := zerotrust.VerifyDocument(doc)
		if err != nil {
			return err
		}
		if d.Key != x.n.opt.Key.Public() {
			return fmt.Errorf("%w: the identity that the peer gives us is of another key", ErrCorrupt)
		}
	}
	k := &Known{ID: x.peer.String(), Addrs: addressesOf(addrs), Met: x.n.opt.Now().UTC().Truncate(time.Second), Words: a.Words, Document: doc}
	if err := x.n.known.add(k); err != nil {
		return err
	}
	x.n.inner.Peerstore().AddAddrs(x.peer, addrs, peerstore.PermanentAddrTTL)
	x.n.inner.ConnManager().Protect(x.peer, "known")
	return nil
}

// whoIs asks at a TCP address whose it is, by a Noise handshake with a key for this once.
func whoIs(ctx context.Context, address string) (peer.ID, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := multistream.SelectProtoOrFail(noise.ID, conn); err != nil {
		return "", err
	}
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return "", err
	}
	t, err := noise.New(noise.ID, key, nil)
	if err != nil {
		return "", err
	}
	once, err := t.WithSessionOptions(noise.DisablePeerIDCheck())
	if err != nil {
		return "", err
	}
	secured, err := once.SecureOutbound(ctx, conn, "")
	if err != nil {
		return "", err
	}
	return secured.RemotePeer(), nil
}
