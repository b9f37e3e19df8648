package broadcast

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Message is one that was verified and had not been taken before.
type Message struct {
	ID      ID
	Topic   string
	Signed  time.Time // when, by its sender's clock
	Via     peer.ID   // the neighbour who brought it; ID.From's own is the same, and our own id where we published it
	Payload []byte    // shared with others who hear it: not to be written to
}

// SubscribeOptions are those of a subscription; the zero value is ready.
type SubscribeOptions struct {
	Queue int // messages that wait to be read. 0 is 4,096
	Bytes int // of their payloads; a single one may be longer. 0 is 8 MiB
	// Wait is how long a message waits for room in the queue. It keeps its neighbours' messages waiting too, and in the end the senders: for
	// who must miss nothing and reads steadily. 0 is not at all: a message without room is dropped and counted.
	Wait time.Duration
	// Oldest drops the oldest in the queue for one that has no room, in place of the new one.
	Oldest bool
}

const (
	defaultQueue      = 4096
	defaultQueueBytes = 8 << 20
	maxQueue          = 1 << 20
)

// Subscription is what one reader hears of a topic. Messages of one sender come mostly, but not always, in the order of their ids: envelopes
// take different ways. Each comes once.
type Subscription struct {
	topic   *topic
	o       SubscribeOptions
	dropped atomic.Uint64

	mu     sync.Mutex
	ring   []Message // grows up to o.Queue
	first  int
	count  int
	bytes  int
	closed bool
	some   chan struct{} // has one when there may be something to read
	room   chan struct{} // has one when something was read
}

// Subscribe hears a topic from now on, with the defaults of [SubscribeOptions].
func (s *Service) Subscribe(topic string) (*Subscription, error) {
	return s.SubscribeWith(topic, SubscribeOptions{})
}

// SubscribeWith is Subscribe with options.
func (s *Service) SubscribeWith(topic string, o SubscribeOptions) (*Subscription, error) {
	if o.Queue == 0 {
		o.Queue = defaultQueue
	}
	if o.Bytes == 0 {
		o.Bytes = defaultQueueBytes
	}
	if o.Queue < 1 || o.Queue > maxQueue || o.Bytes < 1 || o.Wait < 0 {
		return nil, fmt.Errorf("SubscribeOptions: a queue of 1 to %d messages, of bytes, with a wait of 0 or more, not %d, %d, %v", maxQueue, o.Queue, o.Bytes, o.Wait)
	}
	sub := &Subscription{o: o, some: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	if err := s.subscribe(topic, sub); err != nil {
		return nil, err
	}
	return sub, nil
}

// Next waits for the next message. After Close it is what is left, and then ErrUnavailable.
func (b *Subscription) Next(ctx context.Context) (Message, error) {
	var one [1]Message
	if _, err := b.Read(ctx, one[:]); err != nil {
		return Message{}, err
	}
	return one[0], nil
}

// Read waits for messages, and reads as many as there are and into has room for. After Close it is what is left, and then ErrUnavailable.
func (b *Subscription) Read(ctx context.Context, into []Message) (int, error) {
	if len(into) == 0 {
		return 0, nil
	}
	for {
		b.mu.Lock()
		n, closed := 0, b.closed
		for n < len(into) && b.count > 0 {
			into[n] = b.pop()
			n++
		}
		left := b.count > 0
		b.mu.Unlock()
		if n > 0 {
			signal(b.room)
			if left {
				signal(b.some) // for another who reads
			}
			return n, nil
		}
		if closed {
			signal(b.some)
			return 0, fmt.Errorf("%w: the subscription is closed", ErrUnavailable)
		}
		select {
		case <-b.some:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// pop is the oldest message, taken out. The caller has the lock, and there is one.
func (b *Subscription) pop() Message {
	m := b.ring[b.first]
	b.ring[b.first] = Message{}
	b.first = (b.first + 1) % len(b.ring)
	b.count--
	b.bytes -= len(m.Payload)
	return m
}

// Dropped is how many messages there was no room for.
func (b *Subscription) Dropped() uint64 { return b.dropped.Load() }

// Topic is what is heard.
func (b *Subscription) Topic() string { return b.topic.name }

// Close ends it. The last one of a topic takes the node out of it.
func (b *Subscription) Close() {
	b.mu.Lock()
	done := b.closed
	b.closed = true
	b.mu.Unlock()
	if !done {
		signal(b.some)
		signal(b.room)
		b.topic.s.unsubscribe(b)
	}
}

// push puts messages into the queue, and says how many had room. It waits for as long as the options say, in all.
func (b *Subscription) push(ctx context.Context, messages []Message) (taken int) {
	var over <-chan time.Time
	for {
		b.mu.Lock()
		for len(messages) > 0 && !b.closed && b.fits(len(messages[0].Payload)) {
			b.add(messages[0])
			messages = messages[1:]
			taken++
		}
		closed := b.closed
		b.mu.Unlock()
		if taken > 0 {
			signal(b.some)
		}
		if len(messages) == 0 || closed {
			return taken
		}
		if b.o.Wait > 0 && over == nil {
			timer := time.NewTimer(b.o.Wait)
			defer timer.Stop()
			over = timer.C
		}
		if over == nil {
			break
		}
		select {
		case <-b.room:
			continue
		case <-over:
		case <-ctx.Done():
		}
		break
	}
	b.drop(len(messages))
	return taken
}

func (b *Subscription) drop(n int) {
	b.dropped.Add(uint64(n))
	b.topic.s.m.dropped.Add(float64(n))
}

// fits says that there is room for a payload, after having made it where the oldest are to be dropped. The caller has the lock.
func (b *Subscription) fits(size int) bool {
	full := func() bool { return b.count >= b.o.Queue || b.count > 0 && b.bytes+size > b.o.Bytes }
	for b.o.Oldest && full() {
		b.pop()
		b.drop(1)
	}
	return !full()
}

// add adds a message. The caller has the lock.
func (b *Subscription) add(m Message) {
	if b.count == len(b.ring) {
		ring := make([]Message, min(max(2*len(b.ring), 64), b.o.Queue))
		for i := range b.count {
			ring[i] = b.ring[(b.first+i)%len(b.ring)]
		}
		b.ring, b.first = ring, 0
	}
	b.ring[(b.first+b.count)%len(b.ring)] = m
	b.count++
	b.bytes += len(m.Payload)
}

// signal puts one into a channel that has room for one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
