package p2p

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	routed "github.com/libp2p/go-libp2p/p2p/host/routed"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	tls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/quantra-l/quantra/p2p/noise"
	"github.com/quantra-l/quantra/zerotrust"
)

// The times of keeping to peers.
const (
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
	// observeEvery is how often the bytes of a peer are told as its behaviour: the guard's interval.
	observeEvery = 10 * time.Second
	// relayTime and relayBytes are how long one connection lasts over our relay, and how much goes over it each way. libp2p's own (two minutes,
	// 128 KiB) are for strangers; ours serves peers that were let in.
	relayTime  = 30 * time.Minute
	relayBytes = 64 << 20
	// relayAgain is how long it waits before it asks a relay again that could not give it a place.
	relayAgain = 10 * time.Second
	// found bounds how many peers of the local network are dialed at once.
	found = 8
)

// hostOptions are libp2p's. Noise and TLS over TCP, and QUIC, which has TLS in it; WebSocket, WebTransport and WebRTC are left out: browsers are no
// peers of ours.
func (n *Node) hostOptions() ([]libp2p.Option, error) {
	o := &n.opt
	announce, err := parseAddresses(o.Announce)
	if err != nil {
		return nil, err
	}
	if n.listening, err = parseAddresses(o.Listen); err != nil {
		return nil, err
	}
	relays, err := parsePeers("Relays", o.Relays)
	if err != nil {
		return nil, err
	}
	resources, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limitsOf(&o.Limits)), rcmgr.WithLimitPerSubnet(
		[]rcmgr.ConnLimitPerSubnet{{ConnCount: o.Limits.ConnectionsAddress, PrefixLength: 32}},
		[]rcmgr.ConnLimitPerSubnet{{ConnCount: o.Limits.ConnectionsAddress, PrefixLength: 56}},
	), rcmgr.WithMetricsDisabled())
	if err != nil {
		return nil, err
	}
	keeper, err := connmgr.NewConnManager(o.Limits.Peers, o.Limits.Peers+max(1, o.Limits.Peers/8))
	if err != nil {
		return nil, err
	}
	opts := []libp2p.Option{
		libp2p.NoListenAddrs, // until our door is in its place: see New
		libp2p.Transport(tcp.NewTCPTransport), libp2p.Transport(libp2pquic.NewTransport),
		libp2p.Security(noise.ID, noise.New), libp2p.Security(tls.ID, tls.New),
		libp2p.ConnectionGater(n.gate), libp2p.ConnectionManager(keeper), libp2p.ResourceManager(resources),
		libp2p.BandwidthReporter(n.bandwidth), libp2p.DisableMetrics(), libp2p.UserAgent("quantra"), libp2p.WithDialTimeout(dialTime),
		libp2p.Ping(true),
	}
	if len(announce) > 0 {
		opts = append(opts, libp2p.AddrsFactory(func([]ma.Multiaddr) []ma.Multiaddr { return announce }))
	}
	if len(relays) > 0 || o.RelayService || o.HolePunch {
		opts = append(opts, libp2p.EnableRelay())
	}
	if len(relays) > 0 {
		opts = append(opts, libp2p.EnableAutoRelayWithPeerSource(n.relaySource(relays), autorelay.WithMinCandidates(1), autorelay.WithNumRelays(min(2, len(relays))),
			autorelay.WithBootDelay(0), autorelay.WithMinInterval(relayAgain), autorelay.WithBackoff(relayAgain)))
	}
	if o.RelayService {
		opts = append(opts, libp2p.EnableRelayService(relay.WithLimit(&relay.RelayLimit{Duration: relayTime, Data: relayBytes})))
	}
	switch o.Reach {
	case ReachPublic:
		opts = append(opts, libp2p.ForceReachabilityPublic())
	case ReachPrivate:
		opts = append(opts, libp2p.ForceReachabilityPrivate())
	}
	return opts, nil
}

// relaySource names the relays when the node listens, and not before: what is dialed earlier goes out by another port than those that it listens on, and
// what the relay sees of that is no address by which others could reach us.
func (n *Node) relaySource(relays []peer.AddrInfo) autorelay.PeerSource {
	return func(ctx context.Context, num int) <-chan peer.AddrInfo {
		out := make(chan peer.AddrInfo, len(relays))
		if !n.start(func() {
			defer close(out)
			select {
			case <-n.listened:
			case <-ctx.Done():
				return
			case <-n.ctx.Done():
				return
			}
			for _, r := range relays[:min(num, len(relays))] {
				out <- r
			}
		}) {
			close(out)
		}
		return out
	}
}

func parseAddresses(list []string) (out []ma.Multiaddr, err error) {
	for _, text := range list {
		a, err := ParseAddress(text)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// limitsOf are the bounds of libp2p's resource manager: those of the whole and of a peer are ours, the others libp2p's defaults for a machine of
// that much memory, never above the whole.
func limitsOf(l *Limits) rcmgr.ConcreteLimitConfig {
	defaults := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&defaults)
	scaled := defaults.Scale(l.Memory, l.Connections+256)
	whole := rcmgr.ResourceLimits{
		Conns: rcmgr.LimitVal(l.Connections), ConnsInbound: rcmgr.LimitVal(l.Connections), ConnsOutbound: rcmgr.LimitVal(l.Connections), FD: rcmgr.LimitVal(l.Connections),
		Streams: rcmgr.LimitVal(l.Streams), StreamsInbound: rcmgr.LimitVal(l.Streams), StreamsOutbound: rcmgr.LimitVal(l.Streams), Memory: rcmgr.LimitVal64(l.Memory),
	}
	one := rcmgr.ResourceLimits{
		Streams: rcmgr.LimitVal(l.StreamsPeer), StreamsInbound: rcmgr.LimitVal(l.StreamsPeer), StreamsOutbound: rcmgr.LimitVal(l.StreamsPeer),
		Memory: rcmgr.LimitVal64(max(l.Memory/16, 16<<20)),
	}
	// What has not been let in yet has a place of its own at libp2p (transient): as many as may be judged at once.
	transient := rcmgr.ResourceLimits{
		Conns: rcmgr.LimitVal(l.Judging), ConnsInbound: rcmgr.LimitVal(l.Judging), ConnsOutbound: rcmgr.LimitVal(l.Judging), FD: rcmgr.LimitVal(l.Judging),
		Streams: rcmgr.LimitVal(2 * l.Judging), StreamsInbound: rcmgr.LimitVal(2 * l.Judging), StreamsOutbound: rcmgr.LimitVal(2 * l.Judging),
		Memory: rcmgr.LimitVal64(l.Memory / 4),
	}
	many := rcmgr.ResourceLimits{
		Streams: rcmgr.LimitVal(l.Streams), StreamsInbound: rcmgr.LimitVal(l.Streams), StreamsOutbound: rcmgr.LimitVal(l.Streams), Memory: rcmgr.LimitVal64(l.Memory),
	}
	return rcmgr.PartialLimitConfig{System: whole, Transient: transient, PeerDefault: one, ProtocolDefault: many, ProtocolPeerDefault: one, ServiceDefault: many, ServicePeerDefault: one}.Build(scaled)
}

// discover has what peers are found by: the DHT, and the list of those that it keeps to.
func (n *Node) discover(keep []peer.AddrInfo) error {
	for _, p := range keep {
		n.known.keep(p)
	}
	for _, p := range n.known.list() {
		n.inner.Peerstore().AddAddrs(p.ID, p.Addrs, peerstore.PermanentAddrTTL)
		n.inner.ConnManager().Protect(p.ID, "known")
	}
	var below host.Host = n.inner
	if !n.opt.NoDHT {
		// Records are not kept for anybody: it is for the addresses of peers alone.
		table, err := dht.New(n.host, dht.ProtocolPrefix(DHTPrefix), dht.Mode(dht.ModeServer), dht.DisableProviders(), dht.DisableValues())
		if err != nil {
			return err
		}
		n.dht = table
		below = routed.Wrap(n.inner, table)
	}
	n.host = &guardedHost{below, n}
	return nil
}

// find looks for peers on the local network, and is found there. That it cannot is said, and no more.
func (n *Node) find() {
	if !n.opt.MDNS {
		return
	}
	service := mdns.NewMdnsService(n.inner, mdnsService, &finder{n, make(chan struct{}, found)})
	if err := service.Start(); err != nil {
		n.opt.Log.Warn("peers of the local network are not found", "err", err)
		return
	}
	n.mdns = service
}

// finder dials what is found on the local network.
type finder struct {
	n    *Node
	room chan struct{}
}

// HandlePeerFound is mdns.Notifee's.
func (f *finder) HandlePeerFound(p peer.AddrInfo) {
	if p.ID == f.n.ID() || f.n.guards.get(p.ID) != nil {
		return
	}
	if len(p.Addrs) > most {
		p.Addrs = p.Addrs[:most]
	}
	select {
	case f.room <- struct{}{}:
	default:
		return // it is announced again
	}
	if !f.n.start(func() {
		defer func() { <-f.room }()
		if err := f.n.Connect(f.n.ctx, p); err != nil {
			f.n.opt.Log.Debug("a peer of the local network could not be connected to", "peer", p.ID, "err", err)
		}
	}) {
		<-f.room
	}
}

// keep keeps connected to the peers that are known: those of Options.Bootstrap, and those that came by invitation. After a failure it waits, each
// time twice as long, with chance in it so that those who lost the same peer do not come back together.
func (n *Node) keep() {
	wait := map[peer.ID]time.Duration{}
	due := map[peer.ID]time.Time{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.nudge:
		case <-timer.C:
		}
		next := lastRetry
		for _, p := range n.known.now() {
			switch left := time.Until(due[p.ID]); {
			case p.ID == n.ID():
			case n.guards.get(p.ID) != nil:
				delete(wait, p.ID)
				delete(due, p.ID)
			case left > 0:
				next = min(next, left)
			default:
				d := min(max(wait[p.ID]*2, firstRetry), lastRetry)
				wait[p.ID] = d
				due[p.ID] = time.Now().Add(d/2 + rand.N(d))
				next = min(next, d/2)
				n.start(func() {
					n.forgive(p.ID)
					if err := n.Connect(n.ctx, p); err != nil {
						n.known.home(p.ID)
						n.opt.Log.Debug("a known peer could not be connected to", "peer", p.ID, "err", err, "again", d)
						return
					}
					if n.dht != nil {
						n.dht.RefreshRoutingTable()
					}
				})
			}
		}
		timer.Reset(max(next, firstRetry/10))
	}
}

// forgive has libp2p dial a peer that it could not reach a moment ago: when that is tried again is for keep to say alone.
func (n *Node) forgive(p peer.ID) {
	if s, ok := n.inner.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(p)
	}
}

// observe tells the guard what each peer sends and gets.
func (n *Node) observe() {
	tick := time.NewTicker(observeEvery)
	defer tick.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-tick.C:
		}
		for _, g := range n.guards.all() {
			s := n.bandwidth.GetBandwidthForPeer(g.peer)
			total := s.TotalIn + s.TotalOut
			if d := total - g.bytes.Swap(total); d > 0 {
				g.session.Observe(zerotrust.Activity{Bytes: uint64(d)})
			}
		}
		n.bandwidth.TrimIdle(time.Now().Add(-time.Hour))
	}
}

// limited is ctx in which a connection by a relay will do: it is slower and bounded, and encrypted between its ends as any other.
func limited(ctx context.Context) context.Context {
	return network.WithAllowLimitedConn(ctx, "quantra")
}

// hasAddr says that a list has an address.
func hasAddr(list []ma.Multiaddr, a ma.Multiaddr) bool {
	return slices.ContainsFunc(list, a.Equal)
}
