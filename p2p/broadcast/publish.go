package broadcast

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// readyBundles is how many full envelopes of a topic wait to be signed and sent; who publishes then waits.
	readyBundles = 32
	readyBytes   = 8 << 20
	// outboundQueue is how many RPCs wait to be written to a neighbour: pubsub drops what is more.
	outboundQueue = 128
	// pressureWait is how long an envelope waits for neighbours' queues at most.
	pressureWait = 100 * time.Millisecond
	// meshWait is how long the first envelope waits for somebody to go to: gossipsub's mesh is mended each second.
	meshWait = 2500 * time.Millisecond
	// meshSize is how many neighbours an envelope goes to, about: gossipsub's D.
	meshSize = 6
)

// topic is one that is subscribed to or published to.
type topic struct {
	s              *Service
	name, resource string
	handle         *pubsub.Topic

	listeners atomic.Pointer[[]*neighbour]    // who hears it, of our neighbours
	hearMu    sync.Mutex                      // held by who changes listeners, or the mesh
	mesh      map[peer.ID]struct{}            // whom pubsub forwards to; changed in its one loop
	grafted   chan struct{}                   // has one when the mesh got its first
	subs      atomic.Pointer[[]*Subscription] // changed under Service.mu
	unrelay   pubsub.RelayCancelFunc          // under Service.mu; nil where nobody is subscribed
	past      history
	counts    counts

	mu     sync.Mutex
	open   *bundle   // to which payloads are added
	ready  []*bundle // full ones
	bytes  int       // of ready
	queued int       // messages in open, in ready, and in what is being sent
	hurry  bool      // somebody waits until nothing is queued
	closed bool
	used   time.Time // last published to
	hint   int       // bytes of the last bundle
	empty  chan struct{}
	room   chan struct{} // closed when ready has room; nil where nobody waits
	wake   chan struct{}
	done   chan struct{}
}

// Publish signs a message and hands it to the network, and says which id it has. It returns when the message has its number and a place in
// the queue, which it waits for: what is published within a millisecond is signed and sent together. [Service.Flush] waits until it is sent.
// Our own subscriptions hear it too.
func (s *Service) Publish(ctx context.Context, topic string, payload []byte) (ID, error) {
	if len(payload) > s.o.MaxPayload {
		return ID{}, fmt.Errorf("%w: a message of %d bytes; %d are allowed", ErrCorrupt, len(payload), s.o.MaxPayload)
	}
	for {
		t, err := s.join(topic)
		if err != nil {
			return ID{}, err
		}
		id, again, err := t.add(ctx, payload)
		if !again {
			return id, err
		}
	}
}

// add puts a payload into the open bundle. Again says that the topic was closed meanwhile, as nobody used it.
func (t *topic) add(ctx context.Context, payload []byte) (id ID, again bool, err error) {
	o := &t.s.o
	for {
		t.mu.Lock()
		if t.closed {
			t.mu.Unlock()
			if err := t.s.ctx.Err(); err != nil {
				return ID{}, false, fmt.Errorf("%w: the service is closed", ErrUnavailable)
			}
			return ID{}, true, nil
		}
		if t.open != nil && len(t.open.buf)+payloadHead+len(payload) > o.BundleBytes {
			t.fill()
		}
		if len(t.ready) < readyBundles && t.bytes < readyBytes {
			break
		}
		if t.room == nil {
			t.room = make(chan struct{})
		}
		room := t.room
		t.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ID{}, false, context.Cause(ctx)
		}
	}
	defer t.mu.Unlock()
	t.used = o.Now()
	first := t.open == nil
	if first {
		epoch, n, err := t.s.sequence.take()
		if err != nil {
			return ID{}, false, err
		}
		t.open = newBundle(t.s.key, epoch, n, t.name, max(payloadHead+len(payload), min(t.hint, o.BundleBytes)))
		t.empty = orNew(t.empty)
	}
	id = ID{From: t.s.self, Epoch: t.s.sequence.epoch, Sequence: t.open.sequence, Index: t.open.add(payload)}
	t.queued++
	if t.open.count == o.Bundle {
		t.fill()
	}
	if first || t.open == nil {
		signal(t.wake)
	}
	return id, false, nil
}

func orNew(c chan struct{}) chan struct{} {
	if c == nil {
		return make(chan struct{})
	}
	return c
}

// fill says that the open bundle is full. The caller has the lock.
func (t *topic) fill() {
	t.ready = append(t.ready, t.open)
	t.bytes += len(t.open.buf)
	t.hint = len(t.open.buf)
	t.open = nil
}

// next is the next bundle to send; where there is none yet, it says how long to wait for one: 0 is until woken. The first after a while goes
// at once, so that little traffic has no delay; what comes within the wait after that goes together.
func (t *topic) next(last time.Time) (b *bundle, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.ready) > 0 {
		b = t.ready[0]
		t.ready[0] = nil
		t.ready = t.ready[1:]
		t.bytes -= len(b.buf)
		if t.room != nil {
			close(t.room)
			t.room = nil
		}
		return b, 0
	}
	if t.open == nil {
		return nil, 0
	}
	if since := time.Since(last); since < t.s.o.BundleWait && !t.hurry && !t.closed {
		return nil, t.s.o.BundleWait - since
	}
	b, t.open = t.open, nil
	t.hint = len(b.buf)
	return b, 0
}

// send is the goroutine that signs and sends, until the topic is closed and all is sent, or the service ends.
func (t *topic) send() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var last time.Time
	alone := false // waited in vain for a mesh
	for {
		b, wait := t.next(last)
		if b != nil {
			alone = t.meet(alone)
			last = time.Now()
			t.hand(b)
			continue
		}
		var tick <-chan time.Time
		if wait > 0 {
			timer.Reset(wait)
			tick = timer.C
		} else {
			select {
			case <-t.done: // and nothing is left
				return
			default:
			}
		}
		select {
		case <-t.wake:
		case <-tick:
		case <-t.done:
		case <-t.s.ctx.Done():
			return
		}
	}
}

// meet waits, where there are listeners and pubsub has nobody to send to yet, as it has just been told of them: what is sent meanwhile would
// be lost. Alone says that it has waited before and nobody came; then it does not wait again until somebody has.
func (t *topic) meet(alone bool) bool {
	met := func() bool {
		t.hearMu.Lock()
		defer t.hearMu.Unlock()
		return len(t.mesh) > 0
	}
	if met() {
		return false
	}
	if alone || len(*t.listeners.Load()) == 0 || len(*t.subs.Load()) == 0 { // who only publishes needs no mesh
		return alone
	}
	over := time.NewTimer(meshWait)
	defer over.Stop()
	for !met() {
		select {
		case <-t.grafted:
		case <-over.C:
			return true
		case <-t.s.ctx.Done():
			return true
		}
	}
	return false
}

// graft notes who is in the mesh.
func (t *topic) graft(p peer.ID, in bool) {
	t.hearMu.Lock()
	defer t.hearMu.Unlock()
	if !in {
		delete(t.mesh, p)
		return
	}
	t.mesh[p] = struct{}{}
	signal(t.grafted)
}

// hand signs a bundle and hands it to pubsub.
func (t *topic) hand(b *bundle) {
	s := t.s
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.queued -= b.count; t.queued == 0 {
			t.hurry = false
			close(t.empty)
			t.empty = nil
		}
	}()
	data, err := b.sign(s.o.Key, s.o.Now())
	if err == nil {
		s.listen(t)
		s.pressure(t)
		err = t.handle.Publish(s.ctx, data)
	}
	if err != nil {
		s.m.publishFailed.Add(float64(b.count))
		if s.ctx.Err() == nil {
			s.o.Log.Error("broadcast: messages could not be sent", "topic", t.name, "messages", b.count, "error", err)
		}
		return
	}
	s.m.published.Add(float64(b.count))
	s.handed.Add(uint64(b.count))
	t.counts.out.Add(uint64(b.count))
	s.m.publishedEnvelopes.Inc()
}

// pressure waits while the queues to most of the neighbours that we send to are half full: pubsub would drop what does not fit, and does not
// tell. One that is slow holds up nobody but where it is the only one.
func (s *Service) pressure(t *topic) {
	crowded := func() bool {
		all, busy := 0, 0
		for _, n := range *t.listeners.Load() {
			all++
			if n.queued.Load() > outboundQueue/2 {
				busy++
			}
		}
		return busy*2 > min(all, meshSize)
	}
	if !crowded() {
		return
	}
	s.m.sendWaits.Inc()
	over := time.NewTimer(pressureWait)
	defer over.Stop()
	for crowded() {
		select {
		case <-s.sent:
		case <-over.C:
			return
		case <-s.ctx.Done():
			return
		}
	}
}

// Flush waits until what was published is handed to the network.
func (s *Service) Flush(ctx context.Context) error {
	for _, t := range *s.topics.Load() {
		if err := t.flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (t *topic) flush(ctx context.Context) error {
	t.mu.Lock()
	if t.queued == 0 {
		t.mu.Unlock()
		return nil
	}
	t.hurry = true
	empty := t.empty
	t.mu.Unlock()
	signal(t.wake)
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.s.ctx.Done():
		return fmt.Errorf("%w: the service is closed", ErrUnavailable)
	}
}

// waiting is how many messages wait to be sent.
func (s *Service) waiting() (n int) {
	for _, t := range *s.topics.Load() {
		t.mu.Lock()
		n += t.queued
		t.mu.Unlock()
	}
	return n
}

// history is the last messages of a topic.
type history struct {
	mu   sync.Mutex
	ring []Message
	next int
}

// keep keeps the last most messages.
func (h *history) keep(messages []Message, most int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range messages {
		if len(h.ring) < most {
			h.ring = append(h.ring, m)
			continue
		}
		h.ring[h.next] = m
		h.next = (h.next + 1) % most
	}
}

func (h *history) list() []Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append(append(make([]Message, 0, len(h.ring)), h.ring[h.next:]...), h.ring[:h.next]...)
}
