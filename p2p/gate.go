package p2p

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/time/rate"

	"github.com/quantra-l/quantra/zerotrust"
)

// negotiateTime bounds how long a stream may take to say which protocol it is of.
const negotiateTime = 10 * time.Second

// reserve is which part of the admissions a second is let through libp2p's handshake while strangers must solve a puzzle: libp2p has no
// message before its handshake by which one could be sent, so it comes right after it, before anything of ours is computed.
const reserve = 4

// gate is what libp2p asks of each connection.
type gate struct {
	admission *zerotrust.Admission
	now       func() time.Time
	known     *memory[struct{}]     // addresses of peers that were let in lately
	tolls     *memory[[]byte]       // puzzles that are owed, by the connection's remote address
	begun     *memory[[2]time.Time] // when connections began and were secured, by their remote address; nil where nobody wants to know
	flood     *rate.Limiter
	refused   *atomic.Uint64
}

func newGate(o *Options, refused *atomic.Uint64) (*gate, error) {
	a, err := zerotrust.NewAdmission(o.Admission)
	if err != nil {
		return nil, err
	}
	total := o.Admission.Total
	if total == 0 {
		total = 1000 // zerotrust.AdmissionOptions' default
	}
	room := max(1, total/reserve)
	g := &gate{
		admission: a, now: o.Now, known: newMemory[struct{}](o.Limits.RememberedAddresses), tolls: newMemory[[]byte](2 * o.Limits.Judging),
		flood: rate.NewLimiter(rate.Limit(room), room), refused: refused,
	}
	if o.Tracer != nil {
		g.begun = newMemory[[2]time.Time](4 * o.Limits.Judging)
	}
	return g, nil
}

// InterceptPeerDial lets us dial whoever can be of ours.
func (g *gate) InterceptPeerDial(p peer.ID) bool {
	_, ok := KeyOf(p)
	return ok
}

// InterceptAddrDial lets all addresses be dialed: whom they lead to is shown by the handshake.
func (g *gate) InterceptAddrDial(_ peer.ID, a ma.Multiaddr) bool {
	g.step(a, 0)
	return true
}

// InterceptAccept is before any work with keys.
func (g *gate) InterceptAccept(c network.ConnMultiaddrs) bool {
	addr, direct := addressOf(c.RemoteMultiaddr())
	if !direct {
		return true // it came by a relay that was let in, and that has limits of its own
	}
	puzzle, err := g.admission.Admit(addr, nil)
	if errors.Is(err, zerotrust.ErrPuzzle) {
		if g.known.has(addr.String()) {
			err = nil
		} else if g.flood.AllowN(g.now(), 1) {
			g.tolls.put(c.RemoteMultiaddr().String(), puzzle)
			err = nil
		}
	}
	if err != nil {
		g.refused.Add(1)
		return false
	}
	g.step(c.RemoteMultiaddr(), 0)
	return true
}

// InterceptSecured refuses whoever cannot be of ours: an identity is of an Ed25519 key.
func (g *gate) InterceptSecured(_ network.Direction, p peer.ID, c network.ConnMultiaddrs) bool {
	g.step(c.RemoteMultiaddr(), 1)
	_, ok := KeyOf(p)
	return ok
}

// InterceptUpgraded lets what has come so far be judged.
func (g *gate) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// step notes when a connection began (0), and when it was secured (1).
func (g *gate) step(remote ma.Multiaddr, i int) {
	if g.begun == nil {
		return
	}
	key := remote.String()
	at, _ := g.begun.get(key)
	at[i] = g.now()
	g.begun.put(key, at)
}

// toll is what an inbound connection owes, nil for nothing.
func (g *gate) toll(c network.Conn) *toll {
	if c.Stat().Direction != network.DirInbound {
		return nil
	}
	puzzle, owed := g.tolls.take(c.RemoteMultiaddr().String())
	if !owed {
		return nil
	}
	addr, _ := addressOf(c.RemoteMultiaddr())
	return &toll{g.admission, addr, puzzle}
}

// addressOf is where a connection comes from; false where it is by a relay.
func addressOf(a ma.Multiaddr) (netip.Addr, bool) {
	if _, err := a.ValueForProtocol(ma.P_CIRCUIT); err == nil {
		return netip.Addr{}, false
	}
	ip, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}, true // of no address: the admission refuses it
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap(), true
}

// memory remembers so many things by name. The oldest go where there is no room.
type memory[V any] struct {
	mu    sync.Mutex
	most  int
	what  map[string]V
	order []string // by age; some may be gone
}

func newMemory[V any](most int) *memory[V] {
	return &memory[V]{most: most, what: map[string]V{}}
}

func (m *memory[V]) put(name string, what V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.what[name]; !ok {
		m.order = append(m.order, name)
	}
	m.what[name] = what
	for len(m.what) > m.most || len(m.order) > 2*m.most {
		delete(m.what, m.order[0])
		m.order = m.order[1:]
	}
}

func (m *memory[V]) get(name string) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	what, ok := m.what[name]
	return what, ok
}

func (m *memory[V]) has(name string) bool {
	_, ok := m.get(name)
	return ok
}

func (m *memory[V]) take(name string) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	what, ok := m.what[name]
	delete(m.what, name)
	return what, ok
}

// incoming is the one place where streams come in, in the place of libp2p's own: which protocol a stream is of is found out as there, and
// then it waits until its peer was judged, unless the protocol is one of [Open].
func (n *Node) incoming(s network.Stream) {
	if err := s.SetDeadline(time.Now().Add(negotiateTime)); err != nil {
		_ = s.Reset()
		return
	}
	name, handle, err := n.inner.Mux().Negotiate(s)
	if err != nil {
		_ = s.ResetWithError(network.StreamProtocolNegotiationFailed)
		return
	}
	if err := s.SetProtocol(name); err != nil {
		_ = s.ResetWithError(network.StreamResourceLimitExceeded)
		return
	}
	if !slices.Contains(Open, name) {
		if err := n.hold(s.Conn().RemotePeer(), name); err != nil {
			_ = s.ResetWithError(network.StreamGated)
			return
		}
	}
	if err := s.SetDeadline(time.Time{}); err != nil {
		_ = s.Reset()
		return
	}
	_ = handle(name, s) // what our handlers and libp2p's return is nil
}

// hold waits for the verdict on a peer that has opened a stream before it. Few may wait.
func (n *Node) hold(p peer.ID, name protocol.ID) error {
	if n.guards.get(p) != nil {
		return nil
	}
	n.mu.Lock()
	l := n.links[p]
	if l == nil || l.held >= n.opt.Limits.Waiting {
		n.mu.Unlock()
		n.count.reset.Add(1)
		return ErrUnguarded
	}
	l.held++
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		l.held--
		n.mu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(n.ctx, n.opt.JudgeTime)
	defer cancel()
	err := n.await(ctx, p)
	if err != nil {
		n.count.reset.Add(1)
		n.opt.Log.Debug("a stream was reset, as its peer is not let in", "peer", p, "protocol", name)
	}
	return err
}
