package rebalance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/quantra-l/quantra/optimize"
)

// Mover holds the peers. Errors that are [optimize.ErrGone] or [optimize.ErrRefused] are final. A move has an ID, by which it is made once,
// however often it is asked for.
type Mover interface {
	// Nodes are those of a service there are.
	Nodes(ctx context.Context, service string) ([]Node, error)
	// Check proves that a move could be made and taken back, and moves nothing.
	Check(ctx context.Context, service string, m Move) error
	// Move moves peers, gracefully: what they have in flight is done first. It does not wait for that.
	Move(ctx context.Context, service, id string, m Move) error
	// Back takes the move m back that was made under an ID: those of its peers that are still where it took them. A move that was never made is
	// no error. That it may not is not final: it is in force until it can be taken back.
	Back(ctx context.Context, service, id string, m Move) error
	// Moved is how many peers of a move are where it took them, and whether there is such a move that was not taken back.
	Moved(ctx context.Context, service, id string, m Move) (peers int, made bool, err error)
}

// Actuator makes changes of the kind [optimize.Rebalance]. It implements [optimize.Actuator], and keeps nothing.
type Actuator struct{ m Mover }

// NewActuator is one that acts by m.
func NewActuator(m Mover) (*Actuator, error) {
	if m == nil {
		return nil, errors.New("rebalance: there is nobody who moves: give a Mover")
	}
	return &Actuator{m}, nil
}

// snapshot is how many peers the nodes of the moves had.
type snapshot struct {
	Peers map[string]int `json:"peers"`
	// Began is when the change was begun, in Unix milliseconds; 0 is not known.
	Began int64 `json:"began,omitempty"`
}

// Traits implements [optimize.Actuator]: what leaves a node comes to another, so the service is changed as a whole.
func (a *Actuator) Traits(*optimize.Change) optimize.Traits { return optimize.Traits{Whole: true} }

func spec(c *optimize.Change) (s Spec, err error) {
	if err := json.Unmarshal(c.Spec, &s); err != nil {
		return s, fmt.Errorf("rebalance: %w: the change's spec cannot be read: %v", optimize.ErrRefused, err)
	}
	seen := map[string]bool{}
	for _, m := range s.Moves {
		if m.From == "" || m.To == "" || m.Peers < 1 || m.From == m.To || seen[m.From] || seen[m.To] {
			return s, fmt.Errorf("rebalance: %w: move %+v: a move is of peers between two nodes that no other move has", optimize.ErrRefused, m)
		}
		seen[m.From], seen[m.To] = true, true
	}
	if len(s.Moves) == 0 || len(s.Moves) > maxNodes {
		return s, fmt.Errorf("rebalance: %w: it has %d moves", optimize.ErrRefused, len(s.Moves))
	}
	return s, nil
}

// id is a move's. A change that is begun again has other moves than the first time: those were taken back, and are not made a second time.
func id(c *optimize.Change, snap json.RawMessage, i int) string {
	var s snapshot
	if err := json.Unmarshal(snap, &s); err != nil || s.Began == 0 {
		return fmt.Sprintf("%s/%d", c.ID, i)
	}
	return fmt.Sprintf("%s/%d/%d", c.ID, s.Began, i)
}

// Targets implements [optimize.Actuator]: the service, if all nodes of the moves are there.
func (a *Actuator) Targets(ctx context.Context, c *optimize.Change) ([]optimize.Target, error) {
	_, err := a.Snapshot(ctx, c, optimize.Target{})
	if errors.Is(err, optimize.ErrGone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []optimize.Target{{ID: c.Service}}, nil
}

// Snapshot implements [optimize.Actuator].
func (a *Actuator) Snapshot(ctx context.Context, c *optimize.Change, _ optimize.Target) (json.RawMessage, error) {
	s, err := spec(c)
	if err != nil {
		return nil, err
	}
	nodes, err := a.m.Nodes(ctx, c.Service)
	if err != nil {
		return nil, err
	}
	has := map[string]Node{}
	for _, n := range nodes {
		has[n.ID] = n
	}
	out := snapshot{Peers: map[string]int{}}
	if !c.StartedAt.IsZero() {
		out.Began = c.StartedAt.UnixMilli()
	}
	for _, m := range s.Moves {
		for _, id := range []string{m.From, m.To} {
			n, ok := has[id]
			if !ok || n.Fixed {
				return nil, fmt.Errorf("rebalance: %w: node %s is not there any more, or takes no moves", optimize.ErrGone, id)
			}
			out.Peers[id] = n.Peers
		}
	}
	return json.Marshal(out)
}

// Rehearse implements [optimize.Actuator].
func (a *Actuator) Rehearse(ctx context.Context, c *optimize.Change, _ optimize.Target, _ json.RawMessage) error {
	s, err := spec(c)
	for _, m := range s.Moves {
		if err == nil {
			err = a.m.Check(ctx, c.Service, m)
		}
	}
	return err
}

// Apply implements [optimize.Actuator]. If a move is refused for good, those before it are taken back before that is said: what is refused
// is not in force.
func (a *Actuator) Apply(ctx context.Context, c *optimize.Change, t optimize.Target, snap json.RawMessage) error {
	s, err := spec(c)
	if err != nil {
		return err
	}
	for i, m := range s.Moves {
		err := a.m.Move(ctx, c.Service, id(c, snap, i), m)
		if errors.Is(err, optimize.ErrRefused) || errors.Is(err, optimize.ErrGone) {
			if uerr := a.Undo(ctx, c, t, snap); uerr != nil {
				return fmt.Errorf("rebalance: %v; and what was moved could not be taken back: %v", err, uerr) // not final
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Undo implements [optimize.Actuator]: the moves backwards. All are tried.
func (a *Actuator) Undo(ctx context.Context, c *optimize.Change, _ optimize.Target, snap json.RawMessage) error {
	s, err := spec(c)
	if err != nil {
		return err
	}
	var errs []error
	for i := len(s.Moves) - 1; i >= 0; i-- {
		// A node that is gone has taken its peers with it: there is nothing to take back.
		if err := a.m.Back(ctx, c.Service, id(c, snap, i), s.Moves[i]); err != nil && !errors.Is(err, optimize.ErrGone) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Standing implements [optimize.Actuator]. Peers come and go by themselves, so four fifths of those that were moved are enough.
func (a *Actuator) Standing(ctx context.Context, c *optimize.Change, _ optimize.Target, snap json.RawMessage) (optimize.Standing, string, error) {
	s, err := spec(c)
	if err != nil {
		return "", "", err
	}
	made, peers, want := 0, 0, 0
	for i, m := range s.Moves {
		n, ok, err := a.m.Moved(ctx, c.Service, id(c, snap, i), m)
		if err != nil && !errors.Is(err, optimize.ErrGone) {
			return "", "", err
		}
		want += m.Peers
		if ok && err == nil {
			made++
			peers += n
		}
	}
	word := fmt.Sprintf("%d of %d moves, %d of %d peers", made, len(s.Moves), peers, want)
	switch {
	case made == 0:
		return optimize.Absent, word, nil
	case made == len(s.Moves) && 5*peers >= 4*want:
		return optimize.InForce, word, nil
	}
	return optimize.Pending, word, nil
}
