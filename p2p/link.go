package p2p

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Which of two peers asks is settled by their ids: the lesser one. So each new connection has one handshake, whoever dialed and however many
// of them there are at the same time, and as the one who asks does so in turn, both ends agree which came last. The last one holds: a peer
// that has started anew is judged anew while we may still think it connected.

// refusedAt is why a peer was not let in, and when: for those who ask after its connection is gone.
type refusedAt struct {
	why error
	at  time.Time
}

// asks says that we are the one who asks.
func (n *Node) asks(p peer.ID) bool { return n.inner.ID() < p }

// notified is the node as libp2p tells it of connections.
type notified Node

func (*notified) Listen(network.Network, ma.Multiaddr)      {}
func (*notified) ListenClose(network.Network, ma.Multiaddr) {}

// Connected is called before the first stream of a connection comes in.
func (v *notified) Connected(_ network.Network, c network.Conn) {
	n := (*Node)(v)
	p := c.RemotePeer()
	if c.Stat().Direction == network.DirInbound {
		n.count.accepted.Add(1)
	} else {
		n.count.dialed.Add(1)
	}
	n.mu.Lock()
	l := n.links[p]
	if l == nil {
		l = &link{changed: make(chan struct{}), turn: make(chan struct{}, 1)}
		n.links[p] = l
	}
	l.conns++
	n.mu.Unlock()
	n.expect(l, p, c)
}

// Disconnected is called when a connection has ended. With the last one the link is forgotten.
func (v *notified) Disconnected(_ network.Network, c network.Conn) {
	n, p := (*Node)(v), c.RemotePeer()
	n.mu.Lock()
	l := n.links[p]
	if l != nil {
		l.conns--
	}
	gone := l != nil && l.conns == 0
	if gone {
		delete(n.links, p)
	}
	n.mu.Unlock()
	if !gone {
		return
	}
	n.settle(l, false, fmt.Errorf("%w: its connection has ended", ErrUnguarded))
	n.wake()
}

// wake has keep look anew at who is gone.
func (n *Node) wake() {
	select {
	case n.nudge <- struct{}{}:
	default:
	}
}

// expect has a connection judged: by asking, or by waiting to be asked, but not for long.
func (n *Node) expect(l *link, p peer.ID, c network.Conn) {
	n.settle(l, true, nil)
	n.start(func() {
		if n.asks(p) {
			n.ask(l, p, c)
			return
		}
		timer := time.NewTimer(n.opt.JudgeTime)
		defer timer.Stop()
		for {
			n.mu.Lock()
			pending, changed := l.pending, l.changed
			n.mu.Unlock()
			if !pending {
				return
			}
			select {
			case <-n.ctx.Done():
				return
			case <-changed:
			case <-timer.C:
				n.refused(l, p, fmt.Errorf("%w: it did not ask to be let in within %s", ErrUnavailable, n.opt.JudgeTime))
				return
			}
		}
	})
}

// settle notes where a link stands, and wakes who waits for it.
func (n *Node) settle(l *link, pending bool, last error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.conns == 0 && l.last != nil { // why it has ended is more than that it has
		last = l.last
	}
	l.pending, l.last = pending, last
	close(l.changed)
	l.changed = make(chan struct{})
}

// await waits for the verdict on a peer that is connected. nil is that it is let in.
func (n *Node) await(ctx context.Context, p peer.ID) error {
	for {
		n.mu.Lock()
		l := n.links[p]
		var pending bool
		var last error
		var changed chan struct{}
		if l != nil {
			pending, last, changed = l.pending, l.last, l.changed
		}
		n.mu.Unlock()
		switch {
		case n.guards.get(p) != nil:
			return nil
		case l == nil:
			if r, ok := n.refusals.get(string(p)); ok && n.opt.Now().Sub(r.at) < n.opt.JudgeTime {
				return r.why
			}
			return fmt.Errorf("%w: it is not connected", ErrUnguarded)
		case !pending && last != nil:
			return last
		case !pending:
			return ErrUnguarded
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: there is no verdict yet: %w", ErrUnguarded, ctx.Err())
		case <-n.ctx.Done():
			return ErrClosed
		}
	}
}

// refused ends the connections of a peer that was not let in, but for one that an invitation is going on with.
func (n *Node) refused(l *link, p peer.ID, why error) {
	if r := (*refusal)(nil); errors.As(why, &r) {
		n.count.denied.Add(1)
	} else {
		n.count.failed.Add(1)
	}
	n.opt.Log.Info("a peer was not let in", "peer", p, "why", why)
	n.refusals.put(string(p), refusedAt{why, n.opt.Now()})
	n.mu.Lock()
	again := l.again
	l.again = false
	n.mu.Unlock()
	if again { // an invitation has come to its end meanwhile: it may be otherwise now
		n.broken(l, p, nil, why)
		return
	}
	n.settle(l, false, why)
	if n.guards.get(p) != nil {
		return
	}
	if n.meets(p) {
		return
	}
	if !n.invites.open() {
		_ = n.inner.Network().ClosePeer(p)
		return
	}
	// Somebody may be about to take an invitation up.
	n.start(func() {
		timer := time.NewTimer(n.opt.JudgeTime)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-n.ctx.Done():
		}
		if !n.meets(p) && n.guards.get(p) == nil {
			_ = n.inner.Network().ClosePeer(p)
		}
	})
}

// meets says that an invitation goes on with a peer.
func (n *Node) meets(p peer.ID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.meetings[p] > 0
}

// take is one of the places for handshakes, and the link's turn; it waits for both.
func (n *Node) take(ctx context.Context, l *link) (give func(), err error) {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case n.busy <- struct{}{}:
		return func() { <-n.busy; <-l.turn }, nil
	case <-ctx.Done():
		<-l.turn
		return nil, fmt.Errorf("%w: too many handshakes go on", ErrUnavailable)
	}
}

// ask opens a line on a connection, and has both ends judged over it.
func (n *Node) ask(l *link, p peer.ID, c network.Conn) {
	ctx, cancel := context.WithTimeout(n.ctx, n.opt.JudgeTime)
	defer cancel()
	give, err := n.take(ctx, l)
	if err != nil {
		n.refused(l, p, err)
		return
	}
	s, err := c.NewStream(limited(ctx))
	if err == nil {
		err = s.SetProtocol(GuardProtocol)
	}
	if err != nil {
		give()
		n.broken(l, p, c, err)
		return
	}
	// The name of the protocol goes out with the first frame, and nothing waits for its confirmation.
	n.meet(ctx, l, p, &asking{s, multistream.NewMSSelect(s, GuardProtocol)}, c, true, give)
}

// asking is a stream whose protocol is agreed on while it is spoken.
type asking struct {
	network.Stream
	lazy multistream.LazyConn
}

func (a *asking) Read(b []byte) (int, error)  { return a.lazy.Read(b) }
func (a *asking) Write(b []byte) (int, error) { return a.lazy.Write(b) }

// Close does not wait for a confirmation that never comes.
func (a *asking) Close() error {
	_ = a.Stream.SetReadDeadline(time.Now().Add(lingerTime))
	return a.lazy.Close()
}

// asked is the handler of the guard's protocol: a line that the other end has opened.
func (n *Node) asked(s network.Stream) {
	p, c := s.Conn().RemotePeer(), s.Conn()
	if n.asks(p) || !n.start(func() { n.answer(p, s, c) }) {
		_ = s.ResetWithError(network.StreamProtocolViolation)
	}
}

func (n *Node) answer(p peer.ID, s network.Stream, c network.Conn) {
	ctx, cancel := context.WithTimeout(n.ctx, n.opt.JudgeTime)
	defer cancel()
	n.mu.Lock()
	l := n.links[p]
	n.mu.Unlock()
	if l == nil {
		_ = s.Reset()
		return
	}
	give, err := n.take(ctx, l)
	if err != nil {
		_ = s.Reset()
		n.refused(l, p, err)
		return
	}
	n.meet(ctx, l, p, s, c, false, give)
}

// meet is the handshake, and what follows: it returns when the line has ended.
func (n *Node) meet(ctx context.Context, l *link, p peer.ID, s line, c network.Conn, asker bool, give func()) {
	ctx, span := n.trace(ctx, p, c)
	addr, _ := addressOf(c.RemoteMultiaddr())
	m, err := n.judge.meet(ctx, s, p, addr, asker, n.gate.toll(c))
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		span.End()
		_ = s.Close()
		give()
		if r := (*refusal)(nil); errors.As(err, &r) || ctx.Err() != nil {
			n.refused(l, p, err)
		} else {
			n.broken(l, p, c, err)
		}
		return
	}
	g := newGuarded(n, p, m, s, c)
	g.inbound = c.Stat().Direction == network.DirInbound
	old := n.guards.put(g)
	n.count.judged.Add(1)
	if addr.IsValid() {
		n.gate.known.put(addr.String(), struct{}{})
	}
	n.tag(g)
	n.settle(l, false, nil)
	give()
	span.SetAttributes(attribute.String("level", m.session.Level().String()))
	span.End()
	n.opt.Log.Info("a peer is let in", "peer", p, "level", m.session.Level(), "trust", m.decision.Trust, "rtt", m.rtt, "address", c.RemoteMultiaddr())
	if old != nil {
		old.leave(byeReplaced)
	}
	if n.opt.Ready != nil {
		n.opt.Ready(p)
	}
	why, broken := g.serve()
	_ = s.Close()
	n.ended(l, g, why, broken)
}

// ended is after a session: the peer's rights are gone, and where it is still connected it is judged again or sent away.
func (n *Node) ended(l *link, g *guarded, why error, broken bool) {
	if !n.guards.remove(g) { // another has taken its place
		return
	}
	n.count.lost.Add(1)
	n.inner.ConnManager().UntagPeer(g.peer, "guard")
	n.opt.Log.Info("a peer's session has ended", "peer", g.peer, "why", why)
	n.tellLost(g.peer)
	defer func() { // libp2p may have told of the connection's end before this, when the peer still counted as let in
		n.mu.Lock()
		gone := n.links[g.peer] == nil
		n.mu.Unlock()
		if gone {
			n.wake()
		}
	}()
	if !broken && errors.Is(why, ErrDenied) {
		n.refused(l, g.peer, why)
		return
	}
	n.broken(l, g.peer, g.conn, why)
}

// broken is after a line that has ended by itself. Where another connection of the peer stands, it is asked over that.
func (n *Node) broken(l *link, p peer.ID, c network.Conn, why error) {
	others := slices.DeleteFunc(slices.Clone(n.inner.Network().ConnsToPeer(p)), func(o network.Conn) bool { return o == c || o.IsClosed() })
	switch {
	case n.ctx.Err() != nil:
	case len(others) > 0:
		n.expect(l, p, others[len(others)-1])
	default:
		if why == nil {
			why = fmt.Errorf("%w: its session has ended", ErrUnguarded)
		}
		n.settle(l, false, why)
		_ = n.inner.Network().ClosePeer(p) // a connection without its line is of no use, and nobody's
	}
}

// trace begins the span of the guard, within one of the whole connection that began when libp2p began it.
func (n *Node) trace(ctx context.Context, p peer.ID, c network.Conn) (context.Context, trace.Span) {
	if n.opt.Tracer == nil {
		return ctx, trace.SpanFromContext(ctx) // one that does nothing
	}
	t := n.opt.Tracer.Tracer("github.com/quantra-l/quantra/p2p")
	now := n.opt.Now()
	at, _ := n.gate.begun.take(c.RemoteMultiaddr().String())
	begun, secured := at[0], at[1]
	if begun.IsZero() {
		begun = now
	}
	if secured.IsZero() {
		secured = now
	}
	who := trace.WithAttributes(attribute.String("peer", p.String()), attribute.String("direction", c.Stat().Direction.String()), attribute.String("transport", c.ConnState().Transport))
	ctx, whole := t.Start(ctx, "p2p.connection", trace.WithTimestamp(begun), who)
	first := "p2p.dial"
	if c.Stat().Direction == network.DirInbound {
		first = "p2p.accept"
	}
	_, span := t.Start(ctx, first, trace.WithTimestamp(begun))
	span.End(trace.WithTimestamp(secured))
	_, span = t.Start(ctx, "p2p.handshake", trace.WithTimestamp(secured))
	span.End(trace.WithTimestamp(now))
	ctx, span = t.Start(ctx, "p2p.guard")
	return ctx, &nested{span, whole}
}

// nested ends two spans at once.
type nested struct {
	trace.Span
	whole trace.Span
}

func (s *nested) End(o ...trace.SpanEndOption) { s.Span.End(o...); s.whole.End(o...) }

func (s *nested) SetStatus(c codes.Code, text string) {
	s.Span.SetStatus(c, text)
	s.whole.SetStatus(c, text)
}
