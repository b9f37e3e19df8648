package direct

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// courier brings what is pending to one peer. There is one for each peer that something waits for.
type courier struct {
	more    chan struct{} // holds one: there is another message
	now     chan struct{} // holds one: the peer may be there, or have rights
	acked   atomic.Uint64 // acknowledgements that came
	refused atomic.Uint32 // the code of the last refusal that ends an attempt; 0 is none

	left map[[2]uint64]time.Time // epoch and sequence: when keepers got it
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// rouse says that something waits for a peer, which is tried now.
func (s *Service) rouse(p peer.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.couriers[p]
	if c != nil {
		signal(c.more)
		return
	}
	if s.closed {
		return
	}
	s.employ(p)
}

// tryNow is rouse for a peer that may be there now, or have rights: what waits for it waits no longer.
func (s *Service) tryNow(p peer.ID) {
	if s.ledger.count(p) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.couriers[p]; c != nil {
		signal(c.now)
	} else if !s.closed {
		s.employ(p)
	}
}

// employ starts the courier to a peer. The lock is held.
func (s *Service) employ(p peer.ID) {
	c := &courier{more: make(chan struct{}, 1), now: make(chan struct{}, 1), left: map[[2]uint64]time.Time{}}
	s.couriers[p] = c
	s.work.Add(1)
	go func() {
		defer s.work.Done()
		s.carry(p, c)
	}()
}

// carry runs until nothing is pending.
func (s *Service) carry(p peer.ID, c *courier) {
	wait := s.o.RetryMin
	for !s.leaves(p, c) {
		before := c.acked.Load()
		err := s.bring(p, c)
		if s.ctx.Err() != nil {
			return
		}
		if c.acked.Load() > before {
			wait = s.o.RetryMin
		}
		if err == nil {
			continue
		}
		s.o.Log.Debug("messages wait", "peer", p, "messages", s.ledger.count(p), "error", err)
		if errors.Is(err, ErrUnavailable) {
			s.leave(p, c)
		}
		// Half of it by chance, so that peers that lost the same one do not come back together.
		delay := wait/2 + rand.N(wait/2+1)
		if !s.pause(min(delay, s.o.RetryMin), c.now) || delay > s.o.RetryMin && !s.pauseEither(delay-s.o.RetryMin, c) {
			return
		}
		wait = min(2*wait, s.o.RetryMax)
	}
}

// leaves ends the courier when nothing is pending.
func (s *Service) leaves(p peer.ID, c *courier) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ledger.count(p) > 0 {
		return false
	}
	delete(s.couriers, p)
	return true
}

func (s *Service) pauseEither(d time.Duration, c *courier) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.now:
	case <-c.more:
	case <-s.ctx.Done():
		return false
	}
	return true
}

// bring says all that is pending on a session, and what comes meanwhile, until all is acknowledged.
func (s *Service) bring(p peer.ID, c *courier) error {
	c.refused.Store(0)
	if err := s.align(p); err != nil {
		return err
	}
	x, err := s.session(s.ctx, p)
	if err != nil {
		return err
	}
	var epoch, last uint64
	var head [envelopeHead]byte
	heard, since := c.acked.Load(), time.Now()
	stall := time.NewTimer(s.o.Stall)
	defer stall.Stop()
	for {
		if code := byte(c.refused.Load()); code != 0 {
			return refusal(p, code, "a message was refused")
		}
		s.ledger.mu.Lock()
		changed := s.ledger.changed
		s.ledger.mu.Unlock()
		m, floor := s.ledger.waiting(p, epoch, last)
		if m != nil {
			e := envelope{kind: m.kind, epoch: m.epoch, seq: m.seq, floor: floor, at: m.at}
			err := x.out.put(x.ctx, frameEnvelope, 0, e.append(head[:0]), s.ledger.wire(m))
			if errors.Is(err, errUnsaid) && x.ctx.Err() == nil {
				s.forget(x)
				return nil // the session was retired
			} else if err != nil {
				return fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
			x.said.out.Add(1)
			epoch, last = m.epoch, m.seq
			continue
		}
		if floor == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-c.more:
		case <-c.now:
		case <-stall.C:
			now := c.acked.Load()
			if now == heard && time.Since(since) >= s.o.Stall {
				x.fail(fmt.Errorf("%w: %s has acknowledged nothing for %v", ErrUnavailable, p, s.o.Stall))
			}
			heard, since = now, time.Now()
			stall.Reset(s.o.Stall)
		case <-x.ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(x.ctx))
		case <-s.ctx.Done():
			return errClosed
		}
	}
}

// align asks a peer how far it is, once after a start and before anything is said. If it has messages that our disk knows nothing of, that
// was set back to an earlier state and our sequences are spent: what is pending is sent in another epoch, as it would be dropped as duplicates
// in this one.
func (s *Service) align(p peer.ID) error {
	epoch, found := s.ledger.unsure(p)
	if found == 0 {
		return nil
	}
	answer, err := s.ask(s.ctx, p, methodWhere, binary.BigEndian.AppendUint64(nil, epoch), nil)
	if err != nil {
		return err
	}
	f := scan{b: answer}
	top := f.u64()
	if err := f.done("a sequence"); err != nil {
		return err
	}
	was, err := s.ledger.sure(s.ctx, p, top)
	if was {
		s.o.Log.Warn("a peer has messages of ours that we know nothing of: the folder was set back to an earlier state", "peer", p, "dir", s.o.Dir)
	}
	return err
}

// settled takes an acknowledgement, or a refusal. It does not wait.
func (s *Service) settled(p peer.ID, epoch, seq uint64, code byte) {
	s.mu.Lock()
	c := s.couriers[p]
	s.mu.Unlock()
	switch code {
	case 0:
		s.m.acked.Inc()
		s.ledger.finished(p, epoch, seq, doneAcked)
	case codeNever:
		s.o.Log.Warn("a message was refused for good and is given up", "peer", p, "id", messageID(s.self, p, epoch, seq))
		s.ledger.finished(p, epoch, seq, doneRefused)
	default:
		if c != nil {
			c.refused.Store(uint32(code))
			signal(c.more)
		}
		return
	}
	if c != nil {
		c.acked.Add(1)
	}
}
