package broadcast

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// guarded is the host as pubsub sees it: who has no right in any topic has no stream, and what comes in is read no faster than it is worked off.
type guarded struct {
	host.Host
	s *Service
}

// SetStreamHandler is that of the host, for streams of those who are admitted.
func (g guarded) SetStreamHandler(p protocol.ID, h network.StreamHandler) {
	g.Host.SetStreamHandler(p, func(st network.Stream) {
		n := g.s.neighbours.of(st.Conn().RemotePeer())
		if !g.s.waitAdmitted(n) {
			g.s.m.refused[refusedStream].Inc()
			st.Reset()
			return
		}
		w := n.open(g.s, st)
		defer w.gone()
		h(w)
	})
}

// NewStream is that of the host.
func (g guarded) NewStream(ctx context.Context, p peer.ID, protocols ...protocol.ID) (network.Stream, error) {
	n := g.s.neighbours.of(p)
	if !n.admitted.Load() {
		return nil, ErrDenied
	}
	st, err := g.Host.NewStream(ctx, p, protocols...)
	if err != nil {
		return nil, err
	}
	w := n.open(g.s, st)
	if !n.admitted.Load() { // put out while we opened it
		w.Reset()
		return nil, ErrDenied
	}
	return w, nil
}

// stream is one of pubsub with a neighbour.
type stream struct {
	network.Stream
	s *Service
	n *neighbour
}

func (n *neighbour) open(s *Service, st network.Stream) *stream {
	w := &stream{st, s, n}
	n.mu.Lock()
	n.streams[w] = struct{}{}
	n.mu.Unlock()
	return w
}

func (w *stream) gone() {
	w.n.mu.Lock()
	delete(w.n.streams, w)
	w.n.mu.Unlock()
}

// Close is that of the stream.
func (w *stream) Close() error {
	w.gone()
	return w.Stream.Close()
}

// Reset is that of the stream.
func (w *stream) Reset() error {
	w.gone()
	return w.Stream.Reset()
}

// Read is that of the stream, once there is room for what is read: until then the transport's window fills, and the sender waits.
func (w *stream) Read(b []byte) (int, error) {
	w.s.inFlight.wait(w.s.ctx)
	return w.Stream.Read(b)
}

// readWait is how long a read waits for room at most, so that no stream stands still for ever whatever goes wrong elsewhere.
const readWait = time.Second

// budget bounds what is being verified and delivered.
type budget struct {
	mostBytes, mostCount int64

	mu           sync.Mutex
	bytes, count int64
	room         chan struct{} // closed when there is room again; nil where nobody waits
}

// take reserves, or says that it is too much.
func (b *budget) take(bytes int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.count >= b.mostCount || b.count > 0 && b.bytes+bytes > b.mostBytes {
		return false
	}
	b.count++
	b.bytes += bytes
	return true
}

func (b *budget) give(bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count--
	b.bytes -= bytes
	if b.room != nil && !b.crowded() {
		close(b.room)
		b.room = nil
	}
}

// crowded says that more than half is taken: reading stops there, as what was read already comes on top.
func (b *budget) crowded() bool { return 2*b.count > b.mostCount || 2*b.bytes > b.mostBytes }

// wait waits for room.
func (b *budget) wait(ctx context.Context) {
	b.mu.Lock()
	if !b.crowded() {
		b.mu.Unlock()
		return
	}
	if b.room == nil {
		b.room = make(chan struct{})
	}
	room := b.room
	b.mu.Unlock()
	timer := time.NewTimer(readWait)
	defer timer.Stop()
	select {
	case <-room:
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (b *budget) used() (bytes, count int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes, b.count
}
