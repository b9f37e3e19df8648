// Package load is a steady load of messages between users, and what became of each of them: when it arrived, whether it did, and how often.
//
// A message is due at a fixed time and its latency counts from then, not from when it could be sent: a system that makes its senders wait is not
// spared the wait (coordinated omission). What is due is sent late rather than not at all, within a grace.
//
// Nothing here knows what is measured. [Serve] is the side of it in a process of its own, which whoever measures speaks with over its standard
// input and output; a system of another module measures itself by it.
package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Plan is a load, and who bears it.
type Plan struct {
	Kind     string   `json:"kind"`     // what is sent; the system knows its own kinds
	Users    int      `json:"users"`    // who send, each one message after the other
	Spawn    float64  `json:"spawn"`    // users that begin in a second; 0 is all at once
	Rate     float64  `json:"rate"`     // messages a second of all users; 0 is as fast as each has sent the one before
	Size     int      `json:"size"`     // bytes of a message, at least HeaderSize
	Seconds  float64  `json:"seconds"`  // that are measured, from when all users are there
	Nodes    int      `json:"nodes"`    // between which messages go
	Topology string   `json:"topology"` // who is connected with whom: full, ring, star, line
	First    int      `json:"first"`    // of the nodes of this process
	Count    int      `json:"count"`    // of them
	Dir      string   `json:"dir"`      // for what they keep
	With     []string `json:"with"`     // what runs beside; the system knows what
}

// Topologies are the values of Plan.Topology.
var Topologies = []string{"full", "ring", "star", "line"}

// Bounds of a plan.
const (
	MaxUsers = 100_000
	MaxNodes = 50
	MaxSize  = 512 << 10
)

// Check says what is wrong with a plan.
func (p *Plan) Check() error {
	switch {
	case p.Users < 1 || p.Users > MaxUsers:
		return fmt.Errorf("%d users: it must be 1 to %d", p.Users, MaxUsers)
	case p.Spawn < 0 || p.Rate < 0 || p.Rate > 1e7:
		return errors.New("a rate must not be negative, nor above 1e7")
	case p.Size < HeaderSize || p.Size > MaxSize:
		return fmt.Errorf("messages of %d bytes: it must be %d to %d", p.Size, HeaderSize, MaxSize)
	case p.Seconds <= 0 || p.Seconds > 24*3600:
		return fmt.Errorf("%g seconds: it must be above 0, and a day at most", p.Seconds)
	case p.Nodes < 2 || p.Nodes > MaxNodes:
		return fmt.Errorf("%d nodes: it must be 2 to %d", p.Nodes, MaxNodes)
	case p.First < 0 || p.Count < 1 || p.First+p.Count > p.Nodes:
		return fmt.Errorf("nodes %d to %d of %d", p.First, p.First+p.Count, p.Nodes)
	}
	if len(p.Neighbours(0)) == 0 {
		return fmt.Errorf("topology %q: it must be one of %v", p.Topology, Topologies)
	}
	return nil
}

// Neighbours are the nodes that a node is connected with, in ascending order from the one behind it; nil for an unknown topology.
func (p *Plan) Neighbours(node int) (out []int) {
	n := p.Nodes
	switch p.Topology {
	case "full":
		for i := 1; i < n; i++ {
			out = append(out, (node+i)%n)
		}
	case "ring":
		out = append(out, (node+1)%n)
		if n > 2 {
			out = append(out, (node+n-1)%n)
		}
	case "line":
		if node+1 < n {
			out = append(out, node+1)
		}
		if node > 0 {
			out = append(out, node-1)
		}
	case "star":
		if node > 0 {
			return []int{0}
		}
		for i := 1; i < n; i++ {
			out = append(out, i)
		}
	}
	return out
}

// Home is the node of a user.
func (p *Plan) Home(user int) int { return user % p.Nodes }

// Target is the node that a user writes to, where a message goes to one: users of a node share its neighbours out among them.
func (p *Plan) Target(user int) int {
	all := p.Neighbours(p.Home(user))
	return all[user/p.Nodes%len(all)]
}

// ramp is how long it takes until all users are there.
func (p *Plan) ramp() time.Duration {
	if p.Spawn == 0 {
		return 0
	}
	return time.Duration(float64(p.Users) / p.Spawn * float64(time.Second))
}

// Measured is the time from which on messages count, and until when, of a load that begins at start.
func (p *Plan) Measured(start time.Time) (from, to time.Time) {
	from = start.Add(p.ramp())
	return from, from.Add(time.Duration(p.Seconds * float64(time.Second)))
}

// The header of a message: a mark, the user, the user's number of it with the top bit set if it counts, and when it was due in Unix
// nanoseconds. All processes of a run are on one machine, and so have one clock.
const (
	HeaderSize = 4 + 4 + 8 + 8
	mark       = 0x514c4f44
	counts     = 1 << 63
)

func stamp(b []byte, user int, n uint64, counted bool, due time.Time) {
	if counted {
		n |= counts
	}
	binary.BigEndian.PutUint32(b, mark)
	binary.BigEndian.PutUint32(b[4:], uint32(user))
	binary.BigEndian.PutUint64(b[8:], n)
	binary.BigEndian.PutUint64(b[16:], uint64(due.UnixNano()))
}

// Sender sends a message of a user. The body may be used again when it returns.
type Sender func(ctx context.Context, user int, body []byte) error

// grace is how long after its end what was due before is still sent.
func (p *Plan) grace() time.Duration {
	return max(2*time.Second, time.Duration(p.Seconds/2*float64(time.Second)))
}

// Sent is what users have done.
type Sent struct {
	Offered uint64   `json:"offered"` // messages that were due
	Sent    uint64   `json:"sent"`    // that were taken
	Failed  uint64   `json:"failed"`  // that were refused
	Unsent  uint64   `json:"unsent"`  // that were due and not even tried before the grace was over
	To      []uint64 `json:"to"`      // taken messages that each node should hear
	Error   string   `json:"error"`   // of the first that was refused
}

func (s *Sent) add(o *Sent) {
	s.Offered, s.Sent, s.Failed, s.Unsent = s.Offered+o.Offered, s.Sent+o.Sent, s.Failed+o.Failed, s.Unsent+o.Unsent
	for len(s.To) < len(o.To) {
		s.To = append(s.To, 0)
	}
	for i, n := range o.To {
		s.To[i] += n
	}
	if s.Error == "" {
		s.Error = o.Error
	}
}

// Drive has the users of the plan's nodes of this process send, from start on, and returns when all have ended. late is told for each
// message how long after it was due it was handed to send.
func Drive(ctx context.Context, p *Plan, start time.Time, send Sender, late func(time.Duration)) Sent {
	_, to := p.Measured(start)
	ctx, cancel := context.WithDeadline(ctx, to.Add(p.grace()))
	defer cancel()
	var mu sync.Mutex
	all := Sent{To: make([]uint64, p.Nodes)}
	var group sync.WaitGroup
	for user := range p.Users {
		home := p.Home(user)
		if home < p.First || home >= p.First+p.Count {
			continue
		}
		group.Go(func() {
			u := p.user(ctx, user, start, send, late)
			mu.Lock()
			defer mu.Unlock()
			all.add(&u)
		})
	}
	group.Wait()
	return all
}

// user is the load of one.
func (p *Plan) user(ctx context.Context, user int, start time.Time, send Sender, late func(time.Duration)) Sent {
	s := Sent{To: make([]uint64, p.Nodes)}
	from, to := p.Measured(start)
	begin, every := start, time.Duration(0)
	if p.Spawn > 0 {
		begin = start.Add(time.Duration(float64(user) / p.Spawn * float64(time.Second)))
	}
	if p.Rate > 0 {
		every = time.Duration(float64(p.Users) / p.Rate * float64(time.Second))
		if p.Spawn == 0 { // else they begin one after the other by themselves
			begin = begin.Add(time.Duration(float64(user) / p.Rate * float64(time.Second)))
		}
	}
	body := make([]byte, p.Size)
	for i := range body[HeaderSize:] {
		body[HeaderSize+i] = byte(i * (user + 7)) // not all alike, for whoever compresses
	}
	timer := time.NewTimer(time.Until(begin))
	defer timer.Stop()
	for n := uint64(0); ; n++ {
		due := begin.Add(time.Duration(n) * every)
		if p.Rate == 0 && n > 0 {
			due = time.Now()
		}
		if !due.Before(to) {
			return s
		}
		s.Offered++
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			s.Unsent++
			if p.Rate == 0 || errors.Is(ctx.Err(), context.Canceled) {
				return s
			}
			continue
		}
		late(time.Since(due))
		stamp(body, user, n, !due.Before(from), due)
		if err := send(ctx, user, body); err != nil {
			s.Failed++
			if s.Error == "" {
				s.Error = err.Error()
			}
			continue
		}
		s.Sent++
		p.hears(user, s.To)
	}
}

// hears counts a message for each node that should hear it.
func (p *Plan) hears(user int, to []uint64) {
	if p.Kind != Broadcast {
		to[p.Target(user)]++
		return
	}
	for i := range to {
		if i != p.Home(user) {
			to[i]++
		}
	}
}

// Broadcast is the kind whose messages go to all nodes but the sender's.
const Broadcast = "broadcast"
