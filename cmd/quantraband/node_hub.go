package main

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/quantra-l/quantra/p2p/direct"
)

// hubQueue is how many private messages wait for a command that hears them; those that have no room are counted, and are in the history.
const hubQueue = 1024

// hub passes private messages on to the commands that hear them at the time. What nobody hears is in the history.
type hub struct {
	mu     sync.Mutex
	to     map[*listener]bool
	closed bool
}

// listener is one of them.
type listener struct {
	of      *hub
	c       chan direct.Message // closed with the hub
	dropped atomic.Uint64
}

func newHub() *hub { return &hub{to: map[*listener]bool{}} }

// deliver is direct.Options.Deliver.
func (h *hub) deliver(_ context.Context, m direct.Message) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := range h.to {
		select {
		case l.c <- m:
		default:
			l.dropped.Add(1)
		}
	}
	return nil
}

func (h *hub) listen() *listener {
	l := &listener{of: h, c: make(chan direct.Message, hubQueue)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(l.c)
		return l
	}
	h.to[l] = true
	return l
}

func (l *listener) close() {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	delete(l.of.to, l)
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for l := range h.to {
		close(l.c)
	}
	clear(h.to)
}
