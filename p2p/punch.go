package p2p

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// The times of trying for direct connections.
const (
	// punchEach is how often it is looked who is reached by a relay alone; it is tried first so soon, and again after twice as long each time, up
	// to punchMost.
	punchEach = 2 * time.Second
	punchMost = 5 * time.Minute
	// maxSeen are the public addresses of ours that peers are told, the last that others have seen; maxNoted are those that are remembered.
	maxSeen, maxNoted = 4, 64
)

// puncher has peers that are reached by a relay alone try for a direct connection (DCUtR). libp2p's service does so once, when the two meet. That is in vain
// where one of them has not heard yet by which address others see it, as when it has begun a moment ago; and a node that is connected to its relay by
// TCP knows of no address for QUIC, so that two may have none in common. So it is tried again here, and addresses are guessed from each other.
type puncher struct {
	n       *Node
	service *holepunch.Service
	events  event.Subscription

	mu   sync.Mutex
	seen []seenAs // the last first; of anybody, as it comes before he is judged
	next map[peer.ID]attempt
}

// seenAs is an address at which a peer says to have seen us. It counts while he is let in: others dial what we tell them, and a stranger could name anybody's.
type seenAs struct {
	by    peer.ID
	at    netip.AddrPort
	udp   bool
	local uint16 // our port
}

// attempt is when it is tried again, and what is waited after that.
type attempt struct {
	at   time.Time
	wait time.Duration
}

// punch starts it.
func (n *Node) punch() error {
	ids, ok := n.inner.(interface{ IDService() identify.IDService })
	if !ok {
		return fmt.Errorf("p2p: libp2p's host %T does not say who identifies peers", n.inner)
	}
	p := &puncher{n: n, next: map[peer.ID]attempt{}}
	var err error
	if p.events, err = n.inner.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted)); err != nil {
		return fmt.Errorf("p2p: %w", err)
	}
	if p.service, err = holepunch.NewService(n.inner, ids.IDService(), p.addresses); err != nil {
		p.events.Close()
		return fmt.Errorf("p2p: %w", err)
	}
	n.start(p.run)
	return nil
}

func (p *puncher) run() {
	tick := time.NewTicker(punchEach)
	defer tick.Stop()
	defer p.service.Close()
	defer p.events.Close()
	for {
		select {
		case <-p.n.ctx.Done():
			return
		case e, ok := <-p.events.Out():
			if !ok {
				return // the host has ended
			}
			if e, ok := e.(event.EvtPeerIdentificationCompleted); ok && e.ObservedAddr != nil && e.Conn != nil {
				p.note(e.Peer, e.Conn.LocalMultiaddr(), e.ObservedAddr)
			}
		case <-tick.C:
			p.again()
		}
	}
}

// portOf is the address and port of a multiaddress of TCP or QUIC; false where it goes by a relay, or is of something else.
func portOf(a ma.Multiaddr) (at netip.AddrPort, udp, ok bool) {
	if _, err := a.ValueForProtocol(ma.P_CIRCUIT); err == nil {
		return at, false, false
	}
	ip, err := manet.ToIP(a)
	if err != nil {
		return at, false, false
	}
	addr, _ := netip.AddrFromSlice(ip)
	name := ma.P_TCP
	if _, err := a.ValueForProtocol(ma.P_QUIC_V1); err == nil {
		name, udp = ma.P_UDP, true
	}
	text, err := a.ValueForProtocol(name)
	if err != nil {
		return at, false, false
	}
	port, err := strconv.ParseUint(text, 10, 16)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), udp, err == nil
}

// addressAt is the multiaddress of an address and port.
func addressAt(at netip.AddrPort, udp bool) ma.Multiaddr {
	family := "ip4"
	if at.Addr().Is6() {
		family = "ip6"
	}
	form := "/%s/%s/tcp/%d"
	if udp {
		form = "/%s/%s/udp/%d/quic-v1"
	}
	a, err := ma.NewMultiaddr(fmt.Sprintf(form, family, at.Addr(), at.Port()))
	if err != nil {
		return nil // it cannot be: all of it is an address
	}
	return a
}

// note remembers by which address a peer has seen us, if that is one by which others can reach a port that we listen on.
func (p *puncher) note(by peer.ID, local, seen ma.Multiaddr) {
	here, udp, ok := portOf(local)
	at, same, public := portOf(seen)
	if !ok || !public || udp != same || !manet.IsPublicAddr(seen) || !p.listens(here.Port(), udp) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	one := seenAs{by, at, udp, here.Port()}
	p.seen = slices.DeleteFunc(p.seen, func(s seenAs) bool { return s == one })
	p.seen = slices.Insert(p.seen, 0, one)
	if len(p.seen) > maxNoted {
		last := maxNoted
		for i := last; i > 0; i-- { // who is not let in makes no room for himself at the cost of those who are
			if p.n.guards.get(p.seen[i].by) == nil {
				last = i
				break
			}
		}
		p.seen = slices.Delete(p.seen, last, last+1)
	}
}

// listens says that the node listens on a port.
func (p *puncher) listens(port uint16, udp bool) bool {
	return slices.ContainsFunc(p.n.inner.Network().ListenAddresses(), func(a ma.Multiaddr) bool {
		at, u, ok := portOf(a)
		return ok && u == udp && at.Port() == port
	})
}

// addresses are those that a peer is told to try: public ones of ours, and those at which peers have seen us. Where a NAT has left the port as it is for one of TCP
// and QUIC, it likely does for the other.
func (p *puncher) addresses() (out []ma.Multiaddr) {
	for _, a := range p.n.inner.Addrs() {
		if _, _, direct := portOf(a); direct && manet.IsPublicAddr(a) {
			out = append(out, a)
		}
	}
	p.mu.Lock()
	seen := slices.Clone(p.seen)
	p.mu.Unlock()
	told := map[netip.AddrPort]bool{}
	for _, s := range seen {
		if p.n.guards.get(s.by) == nil || len(told) == maxSeen && !told[s.at] {
			continue
		}
		told[s.at] = true
		out = append(out, addressAt(s.at, s.udp))
		if s.at.Port() == s.local && p.listens(s.local, !s.udp) {
			out = append(out, addressAt(s.at, !s.udp))
		}
	}
	return ma.Unique(slices.DeleteFunc(out, func(a ma.Multiaddr) bool { return a == nil }))
}

// again tries for those who are due.
func (p *puncher) again() {
	if !slices.Contains(p.n.inner.Mux().Protocols(), holepunch.Protocol) {
		return // no address of ours is known yet
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	next := map[peer.ID]attempt{} // who has gone, or is reached directly, is forgotten
	for _, g := range p.n.guards.all() {
		if !p.waits(g.peer) {
			continue
		}
		a, known := p.next[g.peer]
		switch {
		case !known:
			a = attempt{now.Add(punchEach), 2 * punchEach}
		case !now.Before(a.at):
			a = attempt{now.Add(a.wait), min(2*a.wait, punchMost)}
			p.try(g.peer)
		}
		next[g.peer] = a
	}
	p.next = next
}

// waits says that a peer is reached by a relay alone, and has dialed us: it is for whoever was dialed to begin.
func (p *puncher) waits(id peer.ID) bool {
	dialed := false
	for _, c := range p.n.inner.Network().ConnsToPeer(id) {
		if _, _, direct := portOf(c.RemoteMultiaddr()); direct {
			return false
		}
		dialed = dialed || c.Stat().Direction == network.DirInbound
	}
	return dialed
}

// try tries once. It ends with the service.
func (p *puncher) try(id peer.ID) {
	p.n.start(func() {
		done := make(chan error, 1)
		// The service may have ended before it has begun; then this is never answered.
		go func() { done <- p.service.DirectConnect(id) }()
		select {
		case err := <-done:
			if err != nil {
				p.n.opt.Log.Debug("there is no direct way to a peer", "peer", id, "why", err)
				return
			}
			p.n.opt.Log.Info("a peer is reached directly", "peer", id)
		case <-p.n.ctx.Done():
		}
	})
}
