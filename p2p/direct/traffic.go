package direct

import (
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Traffic is messages of both kinds and requests, each counted once for each time that it was said: what was sent anew after a session broke
// counts again. Answers and acknowledgements do not count.
type Traffic struct{ In, Out uint64 }

// PeerStats is what is between us and one peer.
type PeerStats struct {
	Traffic      // while it is counted: see maxTraffic
	InFlight int // requests that are waited for, ours and theirs
	Pending  int // durable messages to it that it has not acknowledged
}

// Stats are a service's.
type Stats struct {
	Traffic                            // of all peers since New
	Pending      int                   // durable messages that are not acknowledged
	PendingBytes int64                 // of them
	Peers        map[peer.ID]PeerStats // those that have been spoken with, and those that something waits for
}

// maxTraffic is how many peers are counted by themselves; past it those that have no session go.
const maxTraffic = 4096

// counted is one peer's part. Sessions hold it, so that a message costs one addition.
type counted struct {
	in, out  atomic.Uint64
	sessions atomic.Int32
}

// traffic is who was spoken with how much.
type traffic struct {
	mu    sync.Mutex
	peers map[peer.ID]*counted
	gone  Traffic // of those that are counted no more
}

// begin is the part of a peer with which a session begins; end is to be called when it has ended.
func (t *traffic) begin(p peer.ID) *counted {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.peers[p]
	if c == nil {
		if len(t.peers) >= maxTraffic {
			t.drop()
		}
		c = &counted{}
		t.peers[p] = c
	}
	c.sessions.Add(1)
	return c
}

func (c *counted) end() { c.sessions.Add(-1) }

// drop forgets those without a session. The caller has the lock.
func (t *traffic) drop() {
	for p, c := range t.peers {
		if c.sessions.Load() > 0 {
			continue
		}
		t.gone.In += c.in.Load()
		t.gone.Out += c.out.Load()
		delete(t.peers, p)
	}
}

// Stats says what is between us and others. It costs what there are peers; nothing that sends or receives waits for it long.
func (s *Service) Stats() Stats {
	out := Stats{Peers: map[peer.ID]PeerStats{}}
	s.traffic.mu.Lock()
	out.Traffic = s.traffic.gone
	for p, c := range s.traffic.peers {
		one := Traffic{c.in.Load(), c.out.Load()}
		out.In += one.In
		out.Out += one.Out
		out.Peers[p] = PeerStats{Traffic: one}
	}
	s.traffic.mu.Unlock()
	for _, x := range s.sessions() {
		one := out.Peers[x.peer]
		x.mu.Lock()
		one.InFlight += len(x.calls) + len(x.cancel)
		x.mu.Unlock()
		out.Peers[x.peer] = one
	}
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	out.PendingBytes = s.ledger.outBytes
	for p, ch := range s.ledger.channels {
		if n := len(ch.pending); n > 0 {
			one := out.Peers[p]
			one.Pending = n
			out.Peers[p] = one
			out.Pending += n
		}
	}
	return out
}

// sessions are those that are open, ours and theirs.
func (s *Service) sessions() (out []*session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sl := range s.slots {
		if x := sl.current.Load(); x != nil {
			out = append(out, x)
		}
	}
	for x := range s.inbound {
		if x.c != nil { // not only a place for one
			out = append(out, x)
		}
	}
	return out
}
