package p2p

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// maxLed bounds by how many moves, one after the other, a node remembers to have come to where it is.
const maxLed = 16

// led is a move by which this node was led somewhere.
type led struct {
	id     string
	to     peer.ID
	ticket []byte
}

// joined has whoever this node was led to told of it when a connection with it begins. A node that was started anew has forgotten who came to it,
// and what came to an end while this one was away it could not be told: the ticket says both again.
func (m *moves) joined(_ network.Network, c network.Conn) {
	if _, ok := m.claimAt(c.RemotePeer()); ok {
		m.n.start(func() { m.claim(c.RemotePeer()) })
	}
}

// claimed is what is to be said to a node, and for whom of those that this one keeps to it stands.
type claimed struct {
	home   peer.ID
	ticket []byte
}

// claimAt is what is to be said to a node: by which move we are there, or that we have come home by ourselves from one.
func (m *moves) claimAt(at peer.ID) (c claimed, ok bool) {
	home, kept := m.n.known.homeOf(at)
	m.mu.Lock()
	defer m.mu.Unlock()
	by := m.led[home]
	if !kept || m.going || len(by) == 0 {
		return c, false
	}
	switch last := by[len(by)-1]; {
	case last.to == at:
		return claimed{home, last.ticket}, true
	case home == at:
		return claimed{home, by[0].ticket}, true // it has given us by this one
	}
	return c, false
}

// claim says it, and goes home where the move was taken back.
func (m *moves) claim(at peer.ID) {
	for again := range askAgain {
		c, ok := m.claimAt(at)
		if !ok || again > 0 && !m.pause(askPause) {
			return
		}
		ctx, cancel := context.WithTimeout(m.n.ctx, moveTime)
		a, err := m.n.AskMove(ctx, at, MoveRequest{Op: moveCame, Ticket: c.ticket})
		cancel()
		switch {
		case err == nil && a.Home && at != c.home:
			m.goHome(c.home, at)
			return
		case err == nil || !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrUnguarded):
			if at == c.home { // nothing is to be said of what is over
				m.mu.Lock()
				delete(m.led, c.home)
				m.mu.Unlock()
			}
			return
		}
		m.n.opt.Log.Debug("the node that this one was led to was not told so", "node", at, "err", err)
	}
}

// goHome goes back to one that this node keeps to, from another to which it was led by a move that was taken back.
func (m *moves) goHome(home, from peer.ID) {
	m.mu.Lock()
	by := m.led[home]
	if m.going || len(by) == 0 {
		m.mu.Unlock()
		return
	}
	m.going = true
	delete(m.led, home)
	m.mu.Unlock()
	defer m.gone()
	m.n.known.move(home, peer.AddrInfo{ID: home})
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		m.n.forgive(home)
		err := m.n.Connect(m.n.ctx, peer.AddrInfo{ID: home})
		if err == nil {
			break
		}
		m.n.opt.Log.Debug("home is not reached", "home", home, "err", err, "again", wait)
		if !m.pause(wait) {
			return
		}
	}
	ctx, cancel := context.WithTimeout(m.n.ctx, moveTime)
	defer cancel()
	if _, err := m.n.AskMove(ctx, home, MoveRequest{Op: moveCame, Ticket: by[0].ticket}); err != nil {
		m.n.opt.Log.Debug("home was not told that this node is back", "home", home, "err", err) // it sees so by itself, later
	}
	m.settle(from)
	m.n.inner.ConnManager().Unprotect(from, "moved")
	m.n.opt.Log.Info("back from another node, as the move was taken back", "from", from, "to", home)
	if err := m.n.Disconnect(from); err != nil {
		m.n.opt.Log.Debug("the connection did not end in order", "peer", from, "err", err)
	}
}

// gone ends a turn of following.
func (m *moves) gone() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.going = false
}

// noteLed remembers by which move this node has come to where it is, or that one was taken back, with those that came after it.
func (m *moves) noteLed(home peer.ID, t *ticket, to peer.ID, raw []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	by := m.led[home]
	at := slices.IndexFunc(by, func(l led) bool { return l.id == t.ID })
	switch {
	case t.Back && at >= 0:
		by = by[:at]
	case !t.Back:
		by = append(slices.DeleteFunc(by, func(l led) bool { return l.id == t.ID }), led{t.ID, to, raw})
	}
	if m.led[home] = by[max(0, len(by)-maxLed):]; len(by) == 0 {
		delete(m.led, home)
	}
}

// errTakenBack says that a node is not come to by a move that was taken back.
func errTakenBack(id string) error {
	return fmt.Errorf("%w: the move %s was taken back", ErrDenied, id)
}
