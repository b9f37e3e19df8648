package nodeapi

import (
	"context"
	"math"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/p2p/broadcast"
	"github.com/quantra-l/quantra/p2p/direct"
)

const (
	// sampleEvery is how often the counters are read. A rate is of the time since the sample before the last one: 5 to 10 s.
	sampleEvery = 5 * time.Second
	// points is how many of the past are shown: five minutes.
	points = 60
	// shortest is the least time that a rate is of, so that the first ones after the start are no bursts.
	shortest = time.Second
)

// moved is what came and went, as counters.
type moved struct{ in, out uint64 }

// sample is the counters at a time.
type sample struct {
	at     time.Time
	cpu    time.Duration
	memory int64
	all    moved
	peers  map[peer.ID]moved
	topics map[string]moved
	direct direct.Stats
	topic  []broadcast.TopicStats
	gossip map[peer.ID]broadcast.PeerStats
	bytes  p2p.Bytes
	byPeer map[peer.ID]p2p.Bytes
}

// look reads all counters.
func (a *API) look() *sample {
	s := &sample{at: a.o.Now(), peers: map[peer.ID]moved{}, topics: map[string]moved{}, direct: a.o.Direct.Stats()}
	s.cpu, s.memory = a.o.Usage()
	s.bytes, s.byPeer = a.o.Node.Bytes()
	b := a.o.Broadcast.Stats()
	s.topic, s.gossip = b.Topics, b.Peers
	s.all = moved{s.direct.In + b.In, s.direct.Out + b.Out}
	for p, d := range s.direct.Peers {
		s.peers[p] = moved{d.In, d.Out}
	}
	for p, n := range b.Peers {
		m := s.peers[p]
		s.peers[p] = moved{m.in + n.In, m.out + n.Out}
	}
	for _, t := range b.Topics {
		s.topics[t.Topic] = moved{t.In, t.Out}
	}
	return s
}

// rate is so many a second: 0 where a counter began anew.
func rate(before, now uint64, d time.Duration) float64 {
	if now < before {
		return 0
	}
	return math.Round(float64(now-before)/max(d, shortest).Seconds()*100) / 100
}

// since is the rates from one sample to another.
func (m moved) since(before moved, d time.Duration) Rates {
	return Rates{rate(before.in, m.in, d), rate(before.out, m.out, d)}
}

// bytesSince is a peer's bytes a second from one sample to another; none of a peer that has come meanwhile, whose bytes may be of an earlier time.
func (s *sample) bytesSince(before *sample, p peer.ID) (in, out float64) {
	was, there := before.byPeer[p]
	if !there {
		return 0, 0
	}
	now, d := s.byPeer[p], s.at.Sub(before.at)
	return rate(was.In, now.In, d), rate(was.Out, now.Out, d)
}

// cores is how many processors were busy with this process, from one sample to another.
func (s *sample) cores(before *sample) float64 {
	return math.Round(max(0, (s.cpu-before.cpu).Seconds())/max(s.at.Sub(before.at), shortest).Seconds()*1e4) / 1e4
}

// Run reads the counters now and then until ctx ends; without it rates are of the whole time.
func (a *API) Run(ctx context.Context) {
	if a.o.Node == nil {
		return
	}
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.note(a.look())
		}
	}
}

// note keeps a sample, and what came between it and the one before.
func (a *API) note(s *sample) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.last
	a.before, a.last = before, s
	r := s.all.since(before.all, s.at.Sub(before.at))
	add := func(to *[]float64, v float64) {
		if *to = append(*to, v); len(*to) > points {
			*to = (*to)[len(*to)-points:]
		}
	}
	add(&a.past.In, r.In)
	add(&a.past.Out, r.Out)
	add(&a.past.Cores, s.cores(before))
}

// now is the counters as they are, and those that rates are since.
func (a *API) now() (s, before *sample, past Past) {
	s = a.look()
	a.mu.Lock()
	defer a.mu.Unlock()
	past = Past{sampleEvery.Seconds(), append([]float64{}, a.past.In...), append([]float64{}, a.past.Out...), append([]float64{}, a.past.Cores...)}
	return s, a.before, past
}
