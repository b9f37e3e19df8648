package broadcast

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sync/atomic"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Stats are a service's, since New.
type Stats struct {
	In, Out uint64       // messages that were verified and taken; messages of ours that were handed to the network
	Topics  []TopicStats // by name
	Peers   map[peer.ID]PeerStats
}

// TopicStats are of a topic, since it was joined.
type TopicStats struct {
	Topic     string
	Listeners int               // neighbours that hear it, as far as is known
	Mesh      int               // of them, whom messages are forwarded to
	Heard     bool              // we hear it, and do not only publish to it
	In, Out   uint64            // messages that were verified and taken; messages of ours
	Waiting   int               // messages of ours that wait to be signed and sent
	Refused   map[string]uint64 // what was refused, by the reasons of the metric quantra_broadcast_refused_total; none that is 0
}

// PeerStats are of a neighbour who is connected, since it was last forgotten: soon after it goes, where nothing is held against it.
type PeerStats struct {
	In, Out uint64  // messages in envelopes of it that were taken; messages in envelopes that were handed to its queue
	Queued  int     // RPCs in that queue
	Topics  int     // that it has announced and may hear
	Score   float64 // 0, or below it for what it did that no honest neighbour does
}

// counts are of a topic. All of them only grow.
type counts struct {
	in, out atomic.Uint64
	refused [reasons]atomic.Uint64
}

// refuse counts what was refused, also for its topic where we have that.
func (s *Service) refuse(why reason, topic string) {
	s.m.refused[why].Inc()
	if t := (*s.topics.Load())[topic]; t != nil {
		t.counts.refused[why].Add(1)
	}
}

// messagesIn is how many messages envelopes have by their heads, which are ours or were let through.
func messagesIn(publish []*pb.Message) (n uint64) {
	for _, m := range publish {
		if len(m.GetData()) >= envelopeFixed {
			n += uint64(binary.BigEndian.Uint16(m.GetData()[atCount:]))
		}
	}
	return n
}

// Stats says what goes on. It costs what there are topics and neighbours.
func (s *Service) Stats() Stats {
	out := Stats{In: s.taken.Load(), Out: s.handed.Load(), Peers: map[peer.ID]PeerStats{}}
	for _, t := range *s.topics.Load() {
		out.Topics = append(out.Topics, t.stats())
	}
	slices.SortFunc(out.Topics, func(a, b TopicStats) int { return cmp.Compare(a.Topic, b.Topic) })
	now := s.o.Now()
	for _, n := range s.neighbours.list() {
		if !n.connected.Load() {
			continue
		}
		one := PeerStats{In: n.in.Load(), Out: n.out.Load(), Queued: int(max(0, n.queued.Load())), Score: n.score(now)}
		n.mu.Lock()
		for _, may := range n.heard {
			if may {
				one.Topics++
			}
		}
		n.mu.Unlock()
		out.Peers[n.id] = one
	}
	return out
}

func (t *topic) stats() TopicStats {
	out := TopicStats{Topic: t.name, Listeners: len(*t.listeners.Load()), Heard: len(*t.subs.Load()) > 0, In: t.counts.in.Load(), Out: t.counts.out.Load(), Refused: map[string]uint64{}}
	for why := range t.counts.refused {
		if n := t.counts.refused[why].Load(); n > 0 {
			out.Refused[reasonNames[why]] = n
		}
	}
	t.hearMu.Lock()
	out.Mesh = len(t.mesh)
	t.hearMu.Unlock()
	t.mu.Lock()
	out.Waiting = t.queued
	t.mu.Unlock()
	return out
}
