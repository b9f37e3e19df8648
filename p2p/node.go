package p2p

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/metrics"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/quantra-l/quantra/zerotrust"
)

// Node is a peer among peers. Its methods may be called by many goroutines.
//
// Locks: mu is of links, and held for looks and changes alone. A guarded's own locks come after it, never before.
type Node struct {
	opt         Options
	inner       host.Host // libp2p's, with nothing of ours around it
	host        *guardedHost
	gate        *gate
	judge       *judge
	known       *known
	bandwidth   *metrics.BandwidthCounter
	ownResource string // of connecting to us
	dht         *dht.IpfsDHT
	mdns        mdns.Service
	invites     *invites
	moves       *moves
	guards      guards
	count       counts
	listening   []ma.Multiaddr
	listened    chan struct{} // closed when it does
	ctx         context.Context
	cancel      context.CancelFunc
	busy        chan struct{} // handshakes under way
	refusals    *memory[refusedAt]
	nudge       chan struct{} // somebody of those that we keep to has gone

	mu       sync.Mutex
	links    map[peer.ID]*link
	meetings map[peer.ID]int // invitations that go on: a denial does not end the connection meanwhile
	closed   bool
	wg       sync.WaitGroup // of all goroutines; added to under mu, while not closed
}

// link is what is going on with a peer: from its first connection to the end of the last.
type link struct {
	conns   int           // connections
	pending bool          // a verdict is to come
	last    error         // why the last one was no
	changed chan struct{} // closed and made anew when pending or last change
	again   bool          // the verdict that is to come is to be followed by another, if it is a no
	turn    chan struct{} // held by the one handshake that goes on
	held    int           // streams that wait
}

// counts are of the node's life.
type counts struct {
	accepted, dialed, refused, judged, denied, failed, verified, reset, lost atomic.Uint64
}

// New starts a node. What ctx carries is not kept: the node lives until [Node.Close].
func New(ctx context.Context, o Options) (_ *Node, err error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	n := &Node{
		opt: o, links: map[peer.ID]*link{}, meetings: map[peer.ID]int{}, refusals: newMemory[refusedAt](o.Limits.Judging), busy: make(chan struct{}, o.Limits.Judging), listened: make(chan struct{}), nudge: make(chan struct{}, 1),
		bandwidth: metrics.NewBandwidthCounter(), ownResource: "peer/" + zerotrust.IDOf(o.Key.Public()),
	}
	n.guards.init()
	n.ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	keep, err := parsePeers("Bootstrap", o.Bootstrap)
	if err != nil {
		return nil, err
	}
	if n.known, err = openKnown(o.FS, o.Dir); err != nil {
		return nil, err
	}
	if n.gate, err = newGate(&n.opt, &n.count.refused); err != nil {
		return nil, err
	}
	if err := n.open(); err != nil {
		return nil, err
	}
	n.judge = &judge{self: n.inner.ID(), key: o.Key, guard: o.Guard, document: n.documentFor, now: o.Now}
	n.invites = newInvites(n)
	if n.moves, err = newMoves(n); err != nil {
		return nil, err
	}
	// From here on streams come in by our door, and only now is anybody listened to.
	n.inner.Network().SetStreamHandler(n.incoming)
	n.inner.SetStreamHandler(GuardProtocol, n.asked)
	n.inner.SetStreamHandler(InviteProtocol, n.invites.incoming)
	n.inner.SetStreamHandler(MoveProtocol, n.moves.incoming)
	n.inner.Network().Notify((*notified)(n))
	if err := n.discover(keep); err != nil {
		return nil, err
	}
	if o.Before != nil {
		if err := o.Before(n); err != nil {
			return nil, err
		}
	}
	if len(n.listening) > 0 {
		if err := n.inner.Network().Listen(n.listening...); err != nil {
			return nil, fmt.Errorf("p2p: listen on %s: %w", o.Listen, err)
		}
	}
	close(n.listened)
	if o.HolePunch {
		if err := n.punch(); err != nil {
			return nil, err
		}
	}
	n.find()
	n.start(n.keep)
	n.start(n.observe)
	return n, nil
}

// open makes libp2p's host, which does not listen yet.
func (n *Node) open() error {
	o := &n.opt
	key, err := crypto.UnmarshalEd25519PrivateKey(append(o.Key.Seed(), keyBytes(o)...))
	if err != nil {
		return fmt.Errorf("p2p: Options.Key: %w", err)
	}
	opts, err := n.hostOptions()
	if err != nil {
		return err
	}
	if n.inner, err = libp2p.New(append(opts, libp2p.Identity(key))...); err != nil {
		return fmt.Errorf("p2p: %w", err)
	}
	n.host = &guardedHost{n.inner, n}
	return nil
}

func keyBytes(o *Options) []byte {
	k := o.Key.Public()
	return k[:]
}

// start runs something until the node closes.
func (n *Node) start(run func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.wg.Go(run)
	return true
}

// Host is libp2p's host, as the rooms that speak with peers use it: to connect is to be let in, and a stream is opened to peers that were.
func (n *Node) Host() host.Host { return n.host }

// ID is the node's id.
func (n *Node) ID() peer.ID { return n.inner.ID() }

// Addrs are the addresses at which others reach it, with its id.
func (n *Node) Addrs() []ma.Multiaddr {
	self, err := ma.NewComponent("p2p", n.ID().String())
	if err != nil {
		return nil
	}
	var out []ma.Multiaddr
	for _, a := range n.inner.Addrs() {
		out = append(out, a.AppendComponent(self))
	}
	return out
}

// Close ends all sessions in order, and everything that the node runs.
func (n *Node) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	n.mu.Unlock()
	n.farewell()
	n.cancel()
	var err error
	if n.mdns != nil {
		err = errors.Join(err, n.mdns.Close())
	}
	if n.dht != nil {
		err = errors.Join(err, n.dht.Close())
	}
	if n.inner != nil {
		err = errors.Join(err, n.inner.Close())
	}
	n.wg.Wait()
	return err
}

// farewell ends all sessions in order, and waits until that is said, but not for long.
func (n *Node) farewell() {
	all := n.guards.all()
	for _, g := range all {
		g.leave(byeClosed)
	}
	timer := time.NewTimer(lingerTime)
	defer timer.Stop()
	for _, g := range all {
		select {
		case <-g.ctx.Done():
		case <-timer.C:
			return
		}
	}
}

// Allow is the right of a peer, by the guard's session with it, at this moment. nil is that it may. It takes no lock and allocates
// nothing where the same was asked within the last ten seconds; what it answers is counted as the peer's behaviour. The error is
// [ErrUnguarded], [ErrDenied] (a [RateError] where it is only too often), or [ErrUnavailable].
func (n *Node) Allow(p peer.ID, action, resource string) error {
	g := n.guards.get(p)
	if g == nil {
		return ErrUnguarded
	}
	return g.allow(action, resource)
}

// AllowAuthor is the right to send of the author of something that another peer has brought. Of one that is let in it is its own, of others what
// the peer says that brings it, unless they were revoked: whoever was, was so by our issuers, and the other may not have heard of it yet.
func (n *Node) AllowAuthor(author, _ peer.ID, resource string) error {
	if err := n.Allow(author, "send", resource); !errors.Is(err, ErrUnguarded) {
		return err
	}
	if key, ok := KeyOf(author); !ok || n.opt.Guard.Revoked(key) {
		return errRevoked
	}
	return nil
}

// LetIn says that there is a session with a peer.
func (n *Node) LetIn(p peer.ID) bool { return n.guards.get(p) != nil }

// At is whom to ask in the place of a node that this one keeps to: the node itself, or the one that it has led this one to. It is the new one as soon as
// that has let this node in; what the old one was asked before is still answered.
func (n *Node) At(home peer.ID) peer.ID { return n.known.at(home) }

// Connect connects to a peer, and is nil when both ends have let each other in.
func (n *Node) Connect(ctx context.Context, p peer.AddrInfo) error {
	ctx, cancel := context.WithTimeout(ctx, dialTime+n.opt.JudgeTime)
	defer cancel()
	return n.host.Connect(ctx, p)
}

// Disconnect ends all connections with a peer.
func (n *Node) Disconnect(p peer.ID) error {
	if g := n.guards.get(p); g != nil {
		g.leave(byeClosed)
		select { // the goodbye is on its way then
		case <-g.ctx.Done():
		case <-n.ctx.Done():
		}
	}
	return n.inner.Network().ClosePeer(p)
}

// Ping is how long a message to a peer that was let in takes there and back.
func (n *Node) Ping(ctx context.Context, p peer.ID) (time.Duration, error) {
	if n.guards.get(p) == nil {
		return 0, ErrUnguarded
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case r := <-ping.Ping(limited(ctx), n.inner, p):
		return r.RTT, r.Error
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// documentFor is what is shown to a peer: what it has given us, if it has.
func (n *Node) documentFor(p peer.ID) []byte {
	if doc := n.known.document(p, n.opt.Now()); doc != nil {
		return doc
	}
	return n.opt.Document
}

// tellLost tells the rooms of a peer's rights.
func (n *Node) tellLost(p peer.ID) {
	if n.opt.Lost != nil {
		n.opt.Lost(p)
	}
}

// tag has the connection manager keep those whom it is worth most to keep.
func (n *Node) tag(g *guarded) {
	n.inner.ConnManager().TagPeer(g.peer, "guard", 20+20*int(g.session.Level()))
}

// guards are the peers that were let in, by id: read without a lock, replaced as a whole a shard at a time.
type guards struct {
	seed   maphash.Seed
	shards [32]guardShard
}

type guardShard struct {
	mu sync.Mutex // of writers
	at atomic.Pointer[map[peer.ID]*guarded]
}

func (s *guards) init() {
	s.seed = maphash.MakeSeed()
	for i := range s.shards {
		s.shards[i].at.Store(&map[peer.ID]*guarded{})
	}
}

func (s *guards) shard(p peer.ID) *guardShard {
	return &s.shards[maphash.String(s.seed, string(p))%uint64(len(s.shards))]
}

// get is the peer, nil where it is not let in now.
func (s *guards) get(p peer.ID) *guarded {
	g := (*s.shard(p).at.Load())[p]
	if g == nil || g.session.Err() != nil { // its goodbye is on its way
		return nil
	}
	return g
}

// put puts a peer in, and returns the one that was there in its name.
func (s *guards) put(g *guarded) *guarded {
	shard := s.shard(g.peer)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	next := maps.Clone(*shard.at.Load())
	old := next[g.peer]
	next[g.peer] = g
	shard.at.Store(&next)
	return old
}

// remove takes a peer out, if it is still this session of it.
func (s *guards) remove(g *guarded) bool {
	shard := s.shard(g.peer)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if (*shard.at.Load())[g.peer] != g {
		return false
	}
	next := maps.Clone(*shard.at.Load())
	delete(next, g.peer)
	shard.at.Store(&next)
	return true
}

func (s *guards) all() (out []*guarded) {
	for i := range s.shards {
		for _, g := range *s.shards[i].at.Load() {
			if g.session.Err() == nil {
				out = append(out, g)
			}
		}
	}
	return out
}
