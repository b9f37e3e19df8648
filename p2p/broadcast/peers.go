package broadcast

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

const (
	// faultHalf is the time in which half of a neighbour's faults are forgotten.
	faultHalf = 5 * time.Minute
	// faultFree is how many faults cost nothing. Beyond faultFree-thresholdGraylist we take nothing from a neighbour, whatever pubsub says:
	// it knows no score of one who does not let us open a stream to him. faultMost is how many count at most: 17 minutes of that.
	faultFree, faultMost = 20, 1200
	// maxAnnounced is how many topics a neighbour may announce, and as many again that he may not hear.
	maxAnnounced = 1024
	// maxNeighbours is how many are remembered, connected or not.
	maxNeighbours = 8192
	// admitWait is how long a stream of a neighbour waits for his first right: the guard is at work on both sides, and they are not done at
	// the same time. Nothing is read from it meanwhile.
	admitWait = 10 * time.Second
	// spareEach is how often it is looked who is in a mesh: gossipsub mends it each second.
	spareEach = 50 * time.Millisecond
)

// neighbour is what we know of a peer that is, or was, connected to us. Its rights are asked of Options.Allow each time; what is kept here is
// what was done about them.
type neighbour struct {
	id               peer.ID
	envelopes, bytes bucket
	connected        atomic.Bool
	admitted         atomic.Bool   // has a right in a topic of ours: streams with it may be
	queued           atomic.Int64  // RPCs in the queue to it
	in, out          atomic.Uint64 // messages

	mu       sync.Mutex
	faults   float64
	faultsAt time.Time
	wait     chan struct{}        // closed when it is admitted; nil where nobody waits
	held     bool                 // an inbound stream waits
	streams  map[*stream]struct{} // of pubsub with it
	heard    map[string]bool      // topics that it has announced: true where it may hear them
}

// fault adds to what is held against a neighbour.
func (n *neighbour) fault(x float64, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = min(n.decayed(now)+x, faultMost)
	n.faultsAt = now
}

// decayed is what is still held against it. The caller has the lock.
func (n *neighbour) decayed(now time.Time) float64 {
	if n.faults == 0 {
		return 0
	}
	return n.faults * math.Exp2(-max(0, float64(now.Sub(n.faultsAt))/float64(faultHalf)))
}

// score is the part of a neighbour's score that is ours: 0, or below.
func (n *neighbour) score(now time.Time) float64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return min(0, faultFree-n.decayed(now))
}

// neighbours are all of them. Its lock is taken before that of one.
type neighbours struct {
	mu  sync.RWMutex
	all map[peer.ID]*neighbour
}

func (t *neighbours) get(p peer.ID) *neighbour {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.all[p]
}

// of is the neighbour, made if need be: past the bound for this moment only.
func (t *neighbours) of(p peer.ID) *neighbour {
	if n := t.get(p); n != nil {
		return n
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.all[p]
	if n == nil {
		n = &neighbour{id: p, streams: map[*stream]struct{}{}, heard: map[string]bool{}}
		if len(t.all) < maxNeighbours {
			t.all[p] = n
		}
	}
	return n
}

func (t *neighbours) list() []*neighbour {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]*neighbour, 0, len(t.all))
	for _, n := range t.all {
		out = append(out, n)
	}
	return out
}

// forget drops those who are gone and against whom nothing is held.
func (t *neighbours) forget(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p, n := range t.all {
		n.mu.Lock()
		gone := !n.connected.Load() && len(n.streams) == 0 && !n.held && n.decayed(now) < 1
		n.mu.Unlock()
		if gone {
			delete(t.all, p)
		}
	}
}

// Changed says that a peer's rights have changed, or ended, or that it has some now: it is let in or put out accordingly before Changed
// returns. Without being told the service finds out within a second, or by the next message that would go to the peer.
func (s *Service) Changed(p peer.ID) {
	if p == s.self {
		return
	}
	s.judge(s.neighbours.of(p))
}

// Spare waits until in no topic a peer is the only one by whom we hear: it may go then, and nothing is missed. It is an error that the context ends
// first, as where nobody else hears a topic.
func (s *Service) Spare(ctx context.Context, p peer.ID) error {
	tick := time.NewTicker(spareEach)
	defer tick.Stop()
	for {
		name := ""
		for _, t := range *s.topics.Load() {
			t.hearMu.Lock()
			if _, in := t.mesh[p]; in && len(t.mesh) == 1 {
				name = t.name
			}
			t.hearMu.Unlock()
		}
		if name == "" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: topic %s is heard by %s alone", ErrUnavailable, name, p)
		}
	}
}

// judge asks for the rights of a neighbour in the topics that we have, and acts on the answers.
func (s *Service) judge(n *neighbour) {
	any := false
	for _, t := range *s.topics.Load() {
		if s.o.Allow(n.id, actionSubscribe, t.resource) == nil || s.o.Allow(n.id, actionSend, t.resource) == nil {
			any = true
			break
		}
	}
	n.mu.Lock()
	again := false // what it has announced is to be heard anew
	for topic, could := range n.heard {
		if can := s.o.Allow(n.id, actionSubscribe, resourceOf(topic)) == nil; can != could {
			again = true
		}
	}
	n.admitted.Store(any)
	if any && n.wait != nil {
		close(n.wait)
		n.wait = nil
	}
	outbound := false
	for st := range n.streams {
		outbound = outbound || st.Stat().Direction == network.DirOutbound
	}
	n.mu.Unlock()
	if !any || again {
		s.left(n)
		n.cut()
	}
	if any && !outbound {
		s.offer(n.id)
	}
}

// cut ends all streams of pubsub with a neighbour, at once: nothing is written to them any more, and it is out of all topics. Where it has
// rights both sides open new ones, and say anew what they want to hear.
func (n *neighbour) cut() {
	n.mu.Lock()
	streams := make([]*stream, 0, len(n.streams))
	for st := range n.streams {
		streams = append(streams, st)
	}
	n.mu.Unlock()
	for _, st := range streams {
		st.Reset()
	}
}

// offer has pubsub open a stream to a peer that it has passed over while it was not admitted. Pubsub hears of peers from the host's bus alone.
func (s *Service) offer(p peer.ID) {
	if s.host.Network().Connectedness(p) != network.Connected {
		return
	}
	known, err := s.host.Peerstore().SupportsProtocols(p, protocols...)
	if err != nil || len(known) == 0 {
		return // not identified yet, which will be told; or it has no pubsub
	}
	// An error says that the bus is closed: the host ends, and so do we.
	_ = s.protocolsUpdated.Emit(event.EvtPeerProtocolsUpdated{Peer: p, Added: known})
}

// waitAdmitted waits for a neighbour's first right, for one stream of its at a time.
func (s *Service) waitAdmitted(n *neighbour) bool {
	if n.admitted.Load() {
		return true
	}
	n.mu.Lock()
	if n.held || n.admitted.Load() {
		n.mu.Unlock()
		return n.admitted.Load()
	}
	n.held = true
	if n.wait == nil {
		n.wait = make(chan struct{})
	}
	wait := n.wait
	n.mu.Unlock()
	timer := time.NewTimer(admitWait)
	defer timer.Stop()
	select {
	case <-wait:
	case <-timer.C:
	case <-s.ctx.Done():
	}
	n.mu.Lock()
	n.held = false
	n.mu.Unlock()
	return n.admitted.Load()
}

// announced takes note of what a neighbour wants to hear, and says whether it may. Topics are bounded, as pubsub keeps all that are let through.
func (s *Service) announced(n *neighbour, topic string, want bool) bool {
	if checkTopic(topic) != nil {
		return false
	}
	can := want && s.o.Allow(n.id, actionSubscribe, resourceOf(topic)) == nil
	n.mu.Lock()
	defer n.mu.Unlock()
	if !want {
		delete(n.heard, topic)
		return true
	}
	if _, ok := n.heard[topic]; !ok && len(n.heard) >= maxAnnounced {
		return false
	}
	n.heard[topic] = can
	return can
}

// listen asks, for a message of a topic that is about to go out, for the right of each neighbour who hears it, and cuts off who has lost it.
func (s *Service) listen(t *topic) {
	for _, n := range *t.listeners.Load() {
		if s.o.Allow(n.id, actionSubscribe, t.resource) != nil {
			s.refuse(refusedListener, t.name)
			s.judge(n)
		}
	}
}

// hear sets who hears a topic, as far as we know.
func (t *topic) hear(n *neighbour, hears bool) {
	t.hearMu.Lock()
	defer t.hearMu.Unlock()
	old := *t.listeners.Load()
	at := slices.Index(old, n)
	if hears == (at >= 0) {
		return
	}
	list := slices.Clone(old)
	if hears {
		list = append(list, n)
	} else {
		list = slices.Delete(list, at, at+1)
	}
	t.listeners.Store(&list)
}

// notified tells of connections.
func (s *Service) notified() *network.NotifyBundle {
	return &network.NotifyBundle{
		ConnectedF: func(_ network.Network, c network.Conn) {
			n := s.neighbours.of(c.RemotePeer())
			n.connected.Store(true)
			go s.judge(n) // notifications are to be quick
		},
		DisconnectedF: func(w network.Network, c network.Conn) {
			if w.Connectedness(c.RemotePeer()) == network.Connected {
				return
			}
			if n := s.neighbours.get(c.RemotePeer()); n != nil {
				n.connected.Store(false)
				n.admitted.Store(false) // it is judged anew when it comes back, before anything is told to it
				s.left(n)
			}
		},
	}
}

// protocols are those of gossipsub that we speak: 1.2 and, for what has not come so far, 1.1.
var protocols = []protocol.ID{"/meshsub/1.2.0", "/meshsub/1.1.0"}
