package p2p

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"
)

// MoveProtocol is how peers are moved from a node to another: docs/format/move.md. It is answered to those alone that were let in.
const MoveProtocol protocol.ID = "/quantra/move/1"

// The bounds of moving.
const (
	// maxMoves are the moves of whose peers a node remembers who has gone by them, and as many who has come; the oldest are forgotten, of those that
	// brought somebody who is here only where there is no other.
	maxMoves = 256
	// maxMoveID bounds the name of a move.
	maxMoveID = 128
	// ticketLife is how long a ticket leads anybody: so long a move may take.
	ticketLife = 10 * time.Minute
	// moveTime bounds a request: a peer that follows dials, is judged, and settles with both nodes.
	moveTime = 90 * time.Second
	// settleTime is how long what is under way may take to be done before a peer goes. What is not is sent when the two meet again.
	settleTime = 5 * time.Second
	// leading is how many peers are asked to go at the same time.
	leading = 8
	// askAgain is how often a peer is asked again that cannot go now, as one that has not left where it was before, and askPause is between.
	askAgain, askPause = 5, 2 * time.Second
	// followEvery, and so many at once, is how often a peer follows: a node cannot send it around for ever.
	followEvery, followBurst = 10 * time.Second, 6
)

// moves are those of peers from this node and to it, and its own. What must outlive the process is in kept; who came is said anew by those who did.
type moves struct {
	n *Node

	mu    sync.Mutex
	given map[string]*given // moves from here
	came  map[string]*came  // moves to here
	order [2][]string       // of both, by age
	kept  *keptMoves
	led   map[peer.ID][]led // by which moves this node has come to where it is, by whom it keeps to: the last is the newest
	since time.Time         // when peers last went or came, or the node began
	going bool              // this node follows somebody, or goes home

	follows *rate.Limiter
}

// given is a move from here.
type given struct {
	to     peer.ID
	undone bool                  // it is taken back: nobody is asked to go any more
	asked  int                   // who are under way, or have gone
	gone   map[peer.ID]time.Time // who have, and have not come back
}

// came is a move to here.
type came struct {
	from  peer.ID
	peers map[peer.ID]bool
	back  bool // they are being led back
}

func newMoves(n *Node) (*moves, error) {
	kept, err := openKeptMoves(n.opt.FS, n.opt.Dir)
	if err != nil {
		return nil, err
	}
	m := &moves{
		n: n, given: map[string]*given{}, came: map[string]*came{}, kept: kept, led: map[peer.ID][]led{}, since: n.opt.Now(),
		follows: rate.NewLimiter(rate.Every(followEvery), followBurst),
	}
	n.inner.Network().Notify(&network.NotifyBundle{ConnectedF: m.joined})
	return m, nil
}

// AskMove asks a node, or this one itself, what docs/format/move.md has; what it answers is known to be of that node. Errors are one of the words.
func (n *Node) AskMove(ctx context.Context, p peer.ID, q MoveRequest) (MoveAnswer, error) {
	if p == n.ID() {
		return n.moves.command(&q)
	}
	ctx, cancel := context.WithTimeout(ctx, moveTime)
	defer cancel()
	s, err := n.moves.open(ctx, p)
	if err != nil {
		return MoveAnswer{}, err
	}
	defer s.Reset()
	return exchangeMove(s, &q)
}

// open opens a stream, whose deadline is ctx's.
func (m *moves) open(ctx context.Context, p peer.ID) (network.Stream, error) {
	s, err := m.n.host.NewStream(ctx, p, MoveProtocol)
	if err != nil {
		if errors.Is(err, ErrDenied) || errors.Is(err, ErrUnguarded) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %s is not reached: %w", ErrUnavailable, p, err)
	}
	if at, ok := ctx.Deadline(); ok {
		_ = s.SetDeadline(at)
	}
	return s, nil
}

// incoming is the handler of the protocol.
func (m *moves) incoming(s network.Stream) {
	if !m.n.start(func() { m.serve(s) }) {
		_ = s.Reset()
	}
}

func (m *moves) serve(s network.Stream) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(moveTime))
	p := s.Conn().RemotePeer()
	var q MoveRequest
	if err := readMove(s, &q); err != nil {
		_ = s.ResetWithError(network.StreamProtocolViolation)
		return
	}
	var a MoveAnswer
	var err error
	switch q.Op {
	case moveFollow:
		m.follow(s, p, q.Ticket)
		return
	case moveCame:
		a.Home, err = m.arrive(p, q.Ticket)
	default:
		// Whoever moves the peers of others must have been given the right to by a policy: the standard set gives it to nobody.
		if err = m.n.Allow(p, "change", m.n.ownResource); err == nil {
			q.Others = append(q.Others, p.String())
			a, err = m.command(&q)
		}
	}
	a.fault(err)
	_ = writeMove(s, &a) // who asked is gone, and knows nothing
}

// command is what whoever moves peers asks of a node.
func (m *moves) command(q *MoveRequest) (a MoveAnswer, err error) {
	if q.Op != moveNode && (q.ID == "" || len(q.ID) > maxMoveID) {
		return a, fmt.Errorf("%w: the name of a move has 1 to %d bytes, not %d", ErrCorrupt, maxMoveID, len(q.ID))
	}
	switch q.Op {
	case moveNode:
		a.Node = m.node(q.Others)
	case moveTake:
		a.Ticket, err = m.take(q)
	case moveGive:
		err = m.give(q)
	case moveStop:
		err = m.stop(q.ID)
	case moveBack:
		err = m.back(q)
	case moveMoved:
		m.mu.Lock()
		k := m.kept.get(q.ID)
		a.Given = k.Given && !k.Stopped
		if c := m.came[q.ID]; c != nil {
			a.From, a.Here = c.from.String(), len(m.here(c))
		}
		m.mu.Unlock()
	default:
		err = fmt.Errorf("%w: %.40q is nothing that a node is asked", ErrCorrupt, q.Op)
	}
	return a, err
}

// stop asks nobody more to go by a move, and turns back who comes by it from now on.
func (m *moves) stop(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if g := m.given[id]; g != nil {
		g.undone = true
	}
	return m.kept.note(keptMove{ID: id, Stopped: true})
}

// here are the peers of a move that are here now. The lock is held.
func (m *moves) here(c *came) (out []peer.ID) {
	for p := range c.peers {
		if m.n.guards.get(p) != nil {
			out = append(out, p)
		}
	}
	return out
}

// node is what this node says of itself.
func (m *moves) node(others []string) *MoveNode {
	m.mu.Lock()
	v := &MoveNode{Since: m.since.UTC()}
	m.mu.Unlock()
	v.Peers = len(m.movable(others))
	if m.n.opt.Load != nil {
		v.InFlight, v.Latency = m.n.opt.Load()
	}
	return v
}

// movable are the peers that could be moved, who takes longest to answer first: those that have come to us, know how, and have not gone.
func (m *moves) movable(except []string) (out []peer.ID) {
	all := m.n.guards.all()
	slices.SortFunc(all, func(a, b *guarded) int {
		return cmp.Or(cmp.Compare(b.rtt.Load(), a.rtt.Load()), cmp.Compare(a.peer, b.peer))
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range all {
		knows, err := m.n.inner.Peerstore().SupportsProtocols(g.peer, MoveProtocol)
		if g.inbound && err == nil && len(knows) > 0 && !slices.Contains(except, g.peer.String()) && !m.isGone(g) {
			out = append(out, g.peer)
		}
	}
	return out
}

// isGone says that a peer has gone by a move. It may come by soon after for what was left to say; when it comes later, or the move was taken back, it
// has come home. The lock is held.
func (m *moves) isGone(p *guarded) bool {
	for _, g := range m.given {
		if at, ok := g.gone[p.peer]; ok && !g.undone && p.since.Sub(at) < ticketLife {
			return true
		}
	}
	return false
}

// take makes a ticket by which peers of another node come here.
func (m *moves) take(q *MoveRequest) ([]byte, error) {
	from, err := peer.Decode(q.From)
	if err != nil || from == m.n.ID() {
		return nil, fmt.Errorf("%w: %.80q is not the id of another node", ErrCorrupt, q.From)
	}
	if room := m.n.opt.Limits.Peers - len(m.n.guards.all()); q.Peers < 1 || q.Peers > room {
		return nil, fmt.Errorf("%w: %d peers: there is room for %d", ErrUnavailable, q.Peers, max(0, room))
	}
	t := ticket{ID: q.ID, From: from.String(), To: m.n.ID().String(), Peers: q.Peers, Back: q.Back, Until: m.n.opt.Now().Add(ticketLife).Unix(), Addrs: addressesOf(m.n.inner.Addrs())}
	if len(t.Addrs) == 0 {
		return nil, fmt.Errorf("%w: this node is reached at no address", ErrUnavailable)
	}
	return t.sign(m.n.opt.Key)
}

// remember makes room for a move. The lock is held.
func (m *moves) remember(of int, id string) {
	m.order[of] = append(m.order[of], id)
	if len(m.order[of]) <= maxMoves {
		return
	}
	at := 0
	if of == 1 { // who is here can be led back by what is remembered alone; the others say it again when they come
		at = max(0, slices.IndexFunc(m.order[of][:maxMoves], func(id string) bool { return len(m.here(m.came[id])) == 0 }))
	}
	oldest := m.order[of][at]
	m.order[of] = slices.Delete(m.order[of], at, at+1)
	if of == 0 {
		delete(m.given, oldest)
	} else {
		delete(m.came, oldest)
	}
}

// give asks peers to go where a ticket leads, once for each move.
func (m *moves) give(q *MoveRequest) error {
	t, err := decodeTicket(q.Ticket)
	if err != nil {
		return err
	}
	to, err := m.good(t, m.n.ID())
	switch {
	case err != nil:
		return err
	case t.ID != q.ID || t.Back || q.Peers < 1 || q.Peers > t.Peers:
		return fmt.Errorf("%w: the ticket is for %d peers of move %q, not %d of %q", ErrCorrupt, t.Peers, t.ID, q.Peers, q.ID)
	}
	who := m.movable(append(q.Others, to.ID.String()))
	m.mu.Lock()
	defer m.mu.Unlock()
	switch k := m.kept.get(q.ID); {
	case k.Stopped:
		return errTakenBack(q.ID)
	case k.Given:
		return nil
	case len(who) < q.Peers:
		return fmt.Errorf("%w: of its peers %d can be moved, not %d", ErrUnavailable, len(who), q.Peers)
	}
	if err := m.kept.note(keptMove{ID: q.ID, Given: true}); err != nil {
		return err
	}
	g := &given{to: to.ID, gone: map[peer.ID]time.Time{}}
	m.given[q.ID] = g
	m.remember(0, q.ID)
	m.since = m.n.opt.Now()
	m.lead(who, q.Ticket, func() bool { // whether another is to be asked
		m.mu.Lock()
		defer m.mu.Unlock()
		if g.undone || g.asked >= q.Peers {
			return false
		}
		g.asked++
		return true
	}, func(p peer.ID, err error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if err != nil {
			g.asked--
			return
		}
		g.gone[p] = m.n.opt.Now()
		m.since = m.n.opt.Now()
		m.n.known.away(p, true)
	})
	return nil
}

// back asks the peers that came by a move to go back. It is asked again for those that have not.
func (m *moves) back(q *MoveRequest) error {
	t, err := decodeTicket(q.Ticket)
	if err != nil {
		return err
	}
	if _, err := m.good(t, m.n.ID()); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.came[q.ID]
	switch {
	case c == nil:
		return nil
	case t.ID != q.ID || !t.Back || t.To != c.from.String():
		return fmt.Errorf("%w: the ticket does not lead the peers of move %q back", ErrCorrupt, q.ID)
	case c.back:
		return nil
	}
	c.back = true
	var left sync.Once
	m.lead(m.here(c), q.Ticket, func() bool { return true }, func(p peer.ID, err error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if err == nil {
			delete(c.peers, p)
			m.since = m.n.opt.Now()
		}
	}, func() { left.Do(func() { m.mu.Lock(); c.back = false; m.mu.Unlock() }) })
	return nil
}

// lead asks peers to follow a ticket, some at a time, while next is true; each is told to done, and the end to after. It does not wait.
func (m *moves) lead(who []peer.ID, ticket []byte, next func() bool, done func(peer.ID, error), after ...func()) {
	queue := make(chan peer.ID, len(who))
	for _, p := range who {
		queue <- p
	}
	close(queue)
	m.n.start(func() {
		var wg sync.WaitGroup
		for range min(leading, len(who)) {
			wg.Go(func() {
				for next() {
					p, ok := <-queue
					if !ok {
						done("", ErrUnavailable) // nobody is left for the place that was taken
						return
					}
					err := m.ask(p, ticket)
					for range askAgain {
						if !errors.Is(err, ErrUnavailable) || !m.pause(askPause) {
							break
						}
						err = m.ask(p, ticket)
					}
					if err != nil {
						m.n.opt.Log.Info("a peer does not go to another node", "peer", p, "why", err)
					}
					done(p, err)
				}
			})
		}
		wg.Wait()
		for _, f := range after {
			f()
		}
	})
}

// ask asks a peer to follow a ticket, and lets it go when what is under way between the two is done.
func (m *moves) ask(p peer.ID, ticket []byte) error {
	ctx, cancel := context.WithTimeout(m.n.ctx, moveTime)
	defer cancel()
	s, err := m.open(ctx, p)
	if err != nil {
		return err
	}
	defer s.Reset()
	if _, err := exchangeMove(s, &MoveRequest{Op: moveFollow, Ticket: ticket}); err != nil {
		return err
	}
	m.settle(p) // it is with the other node now, and waits for this
	if err := s.CloseWrite(); err != nil {
		return nil // it has gone
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(s, 1)) // until it closes
	return nil
}

// pause waits; it is false when the node ends.
func (m *moves) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-m.n.ctx.Done():
		return false
	}
}

// settle waits until nothing is under way with a peer, but not for long.
func (m *moves) settle(p peer.ID) {
	if m.n.opt.Settle == nil {
		return
	}
	ctx, cancel := context.WithTimeout(m.n.ctx, settleTime)
	defer cancel()
	m.n.opt.Settle(ctx, p)
}

// good says that a ticket leads from a node, now, and where to.
func (m *moves) good(t *ticket, from peer.ID) (to peer.AddrInfo, err error) {
	if to, err = t.to(); err != nil {
		return to, err
	}
	switch {
	case t.From != from.String():
		return to, fmt.Errorf("%w: the ticket leads from %.80s, not from %s", ErrDenied, t.From, from)
	case m.n.opt.Now().Unix() > t.Until:
		return to, fmt.Errorf("%w: the ticket has expired", ErrDenied)
	}
	return to, nil
}

// arrive takes note of a peer that has come by a ticket of ours, or has come home from where one has led it. home is that the move was taken back
// meanwhile: it is to go back to whom it keeps to.
func (m *moves) arrive(p peer.ID, raw []byte) (home bool, err error) {
	t, err := decodeTicket(raw)
	if err != nil {
		return false, err
	}
	from, err := peer.Decode(t.From)
	self := m.n.ID()
	if err != nil || t.To != self.String() && from != self || from == p {
		return false, fmt.Errorf("%w: the ticket does not lead here", ErrDenied)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.since = m.n.opt.Now()
	switch {
	case t.Back || from == self:
		if g := m.given[t.ID]; g != nil {
			delete(g.gone, p)
		}
		m.n.known.away(p, false)
		return false, nil
	case m.kept.get(t.ID).Stopped:
		return true, nil
	}
	c := m.came[t.ID]
	if c == nil {
		c = &came{from: from, peers: map[peer.ID]bool{}}
		m.came[t.ID] = c
		m.remember(1, t.ID)
	}
	if !c.peers[p] && len(c.peers) >= m.n.opt.Limits.Peers {
		return false, fmt.Errorf("%w: %d peers have come by this move", ErrUnavailable, len(c.peers))
	}
	c.peers[p] = true
	return false, nil
}

// follow goes where a node leads that this one keeps to: to the other node first, and away from this one when nothing is under way with it.
func (m *moves) follow(s network.Stream, from peer.ID, raw []byte) {
	home, t, err := m.mayFollow(from, raw)
	var a MoveAnswer
	if err != nil {
		a.fault(err)
		_ = writeMove(s, &a) // it is asked again, or knows nothing
		return
	}
	to, err := m.goTo(home, t, raw)
	a.fault(err)
	if werr := writeMove(s, &a); werr != nil || err != nil {
		m.gone()
		return
	}
	m.n.inner.ConnManager().Protect(to, "moved")
	m.n.inner.ConnManager().Unprotect(from, "moved")
	_, _ = io.Copy(io.Discard, io.LimitReader(s, 1)) // until it has settled with us, or its time is over
	m.settle(from)
	m.n.opt.Log.Info("moved to another node", "from", from, "to", to)
	_ = s.Close()
	if err := m.n.Disconnect(from); err != nil {
		m.n.opt.Log.Debug("the connection did not end in order", "peer", from, "err", err)
	}
	m.gone()
	if t.Back { // by which move it was there before, or that this one is home
		m.claim(to)
	}
}

// mayFollow says whether a node may lead this one, for which of those that it keeps to, and by what. The turn is taken where it may.
func (m *moves) mayFollow(from peer.ID, raw []byte) (home peer.ID, t *ticket, err error) {
	if t, err = decodeTicket(raw); err != nil {
		return "", nil, err
	}
	to, err := m.good(t, from)
	if err != nil {
		return "", nil, err
	}
	home, ok := m.n.known.homeOf(from)
	switch {
	case !ok:
		return "", nil, fmt.Errorf("%w: this node does not keep to %s, and is not led by it", ErrDenied, from)
	case to.ID == m.n.ID():
		return "", nil, fmt.Errorf("%w: the ticket leads here", ErrCorrupt)
	}
	if err := m.n.Allow(from, "send", m.n.ownResource); err != nil {
		return "", nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.going || !m.follows.Allow() {
		return "", nil, fmt.Errorf("%w: it was led elsewhere a moment ago", ErrUnavailable)
	}
	m.going = true
	return home, t, nil
}

// goTo is let in by a node, keeps to it in the place of another, and says by which move it came.
func (m *moves) goTo(home peer.ID, t *ticket, raw []byte) (peer.ID, error) {
	to, err := t.to()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(m.n.ctx, dialTime+m.n.opt.JudgeTime)
	defer cancel()
	m.n.forgive(to.ID)
	if err := m.n.host.Connect(ctx, to); err != nil {
		return "", fmt.Errorf("%w: %s does not let it in: %w", ErrUnavailable, to.ID, err)
	}
	was := m.n.known.move(home, to) // before that is said: the other may lead it on, or back, from then on
	a, err := m.n.AskMove(ctx, to.ID, MoveRequest{Op: moveCame, Ticket: raw})
	if err == nil && a.Home {
		err = errTakenBack(t.ID)
	}
	if err != nil {
		m.n.known.move(home, was)
		return "", err
	}
	m.noteLed(home, t, to.ID, raw)
	return to.ID, nil
}

// to is where a ticket leads.
func (t *ticket) to() (p peer.AddrInfo, err error) {
	if p, err = ParsePeer(t.To); err != nil {
		return p, err
	}
	var addrs []ma.Multiaddr
	if addrs, err = parseAddresses(t.Addrs); err != nil {
		return p, err
	}
	p.Addrs = addrs
	return p, nil
}
