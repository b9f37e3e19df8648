package places

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/rebalance"
	"github.com/quantra-l/quantra/p2p"
)

// Nodes moves peers between nodes of ours, which are asked by a node that may: docs/format/move.md. It implements [rebalance.Mover]; all
// services of it are one. What a move is stands at the nodes, and nowhere else.
type Nodes struct {
	By      *p2p.Node // who asks
	Members []peer.ID // the nodes
}

var _ rebalance.Mover = (*Nodes)(nil)

// maxAsked is how many nodes are asked at the same time.
const maxAsked = 16

// ask asks a node. What is denied stays so until a person changes a policy: it is final.
func (m *Nodes) ask(ctx context.Context, p peer.ID, q p2p.MoveRequest) (p2p.MoveAnswer, error) {
	a, err := m.By.AskMove(ctx, p, q)
	switch {
	case errors.Is(err, p2p.ErrDenied), errors.Is(err, p2p.ErrCorrupt):
		return a, fmt.Errorf("places: %w: node %s: %w", optimize.ErrRefused, p, err)
	case err != nil:
		return a, fmt.Errorf("places: node %s: %w", p, err)
	}
	return a, nil
}

// all asks all nodes the same, some at a time.
func (m *Nodes) all(ctx context.Context, q p2p.MoveRequest) ([]p2p.MoveAnswer, []error) {
	answers, errs := make([]p2p.MoveAnswer, len(m.Members)), make([]error, len(m.Members))
	room := make(chan struct{}, maxAsked)
	var wg sync.WaitGroup
	for i, p := range m.Members {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			answers[i], errs[i] = m.ask(ctx, p, q)
		})
	}
	wg.Wait()
	return answers, errs
}

// Nodes implements [rebalance.Mover]. One that does not answer is not measured, and nothing is moved to it or from it.
func (m *Nodes) Nodes(ctx context.Context, _ string) ([]rebalance.Node, error) {
	answers, errs := m.all(ctx, p2p.RequestNode(m.Members))
	out := make([]rebalance.Node, len(m.Members))
	silent := 0
	for i, p := range m.Members {
		out[i] = rebalance.Node{ID: p.String(), RIF: math.NaN(), Latency: math.NaN(), Fixed: true}
		n := answers[i].Node
		if errs[i] != nil || n == nil || n.Peers < 0 || n.InFlight < 0 || n.Latency < 0 {
			silent++
			continue
		}
		out[i].Peers, out[i].RIF, out[i].Latency, out[i].Since, out[i].Fixed = n.Peers, n.InFlight, n.Latency, n.Since, false
	}
	if silent == len(out) {
		return nil, fmt.Errorf("places: no node says what it bears: %w", errors.Join(errs...))
	}
	return out, nil
}

// ends are the nodes of a move, which must be members.
func (m *Nodes) ends(move rebalance.Move) (from, to peer.ID, err error) {
	for _, p := range m.Members {
		switch p.String() {
		case move.From:
			from = p
		case move.To:
			to = p
		}
	}
	if from == "" || to == "" {
		return "", "", fmt.Errorf("places: %w: %.80s or %.80s is none of the nodes", optimize.ErrGone, move.From, move.To)
	}
	return from, to, nil
}

// Check implements [rebalance.Mover]: the one has the peers, and each would take them from the other.
func (m *Nodes) Check(ctx context.Context, _ string, move rebalance.Move) error {
	from, to, err := m.ends(move)
	if err != nil {
		return err
	}
	a, err := m.ask(ctx, from, p2p.RequestNode(m.Members))
	if err != nil {
		return err
	}
	if a.Node == nil || a.Node.Peers < move.Peers {
		return fmt.Errorf("places: node %s has fewer than %d peers that can be moved", from, move.Peers)
	}
	if _, err = m.ask(ctx, to, p2p.RequestTake("check", from, move.Peers, false)); err == nil {
		_, err = m.ask(ctx, from, p2p.RequestTake("check", to, move.Peers, true))
	}
	return err
}

// Move implements [rebalance.Mover].
func (m *Nodes) Move(ctx context.Context, _, id string, move rebalance.Move) error {
	from, to, err := m.ends(move)
	if err != nil {
		return err
	}
	a, err := m.ask(ctx, from, p2p.RequestMoved(id))
	if err != nil || a.Given {
		return err
	}
	if a, err = m.ask(ctx, to, p2p.RequestTake(id, from, move.Peers, false)); err != nil {
		return err
	}
	_, err = m.ask(ctx, from, p2p.RequestGive(id, move.Peers, a.Ticket, m.Members))
	return err
}

// end asks one of the two nodes of a move that may have been made, which is a member or was one. That it is denied is not final: what is in force
// there stays so. A node that is no member any more and is not reached is gone.
func (m *Nodes) end(ctx context.Context, text string, q p2p.MoveRequest) (a p2p.MoveAnswer, p peer.ID, err error) {
	if p, err = peer.Decode(text); err != nil {
		return a, "", fmt.Errorf("places: %w: node %.80q: %w", optimize.ErrRefused, text, err)
	}
	if a, err = m.By.AskMove(ctx, p, q); err == nil {
		return a, p, nil
	}
	if errors.Is(err, p2p.ErrUnavailable) && !slices.Contains(m.Members, p) {
		return a, p, fmt.Errorf("places: %w: node %s is not reached, and is none of the members: %w", optimize.ErrGone, p, err)
	}
	return a, p, fmt.Errorf("places: node %s: %w", p, err)
}

// Back implements [rebalance.Mover]. Both nodes are told that the move is taken back: who gives stops, and who has got turns back who comes later. Then
// who is there is led back.
func (m *Nodes) Back(ctx context.Context, _, id string, move rebalance.Move) error {
	_, from, errFrom := m.end(ctx, move.From, p2p.RequestStop(id))
	_, to, errTo := m.end(ctx, move.To, p2p.RequestStop(id))
	if err := cmp.Or(errFrom, errTo); err != nil {
		return err
	}
	a, _, err := m.end(ctx, move.To, p2p.RequestMoved(id))
	if err != nil || a.Here == 0 {
		return err
	}
	if a, _, err = m.end(ctx, move.From, p2p.RequestTake(id, to, a.Here, true)); err != nil {
		return fmt.Errorf("%w: peers of %s are still at %s", err, from, to)
	}
	_, _, err = m.end(ctx, move.To, p2p.RequestBack(id, a.Ticket))
	return err
}

// Moved implements [rebalance.Mover].
func (m *Nodes) Moved(ctx context.Context, _, id string, move rebalance.Move) (peers int, made bool, err error) {
	given, _, err := m.end(ctx, move.From, p2p.RequestMoved(id))
	if err != nil {
		return 0, false, err // of a node that is gone there is nobody to take back, or nobody to take anybody back
	}
	got, _, err := m.end(ctx, move.To, p2p.RequestMoved(id))
	return got.Here, given.Given || got.Here > 0, err
}
