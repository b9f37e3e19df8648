package broadcast

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/quantra-l/quantra/seal"
)

// The way of what a neighbour sends, in this order. What costs nothing comes first, and nothing is verified twice.
//
//	stream   only of a neighbour with a right; read while there is room in the budget
//	inspect  each RPC: his right to send on the topic, size, his buckets. One goroutine for all, pubsub's
//	pubsub   duplicates are dropped, by the hash of all bytes; a bounded queue
//	check    form, topic, age, the author's right and window; a place in the budget
//	verify   the signature, in a batch with others; the author's bucket and window; then our subscriptions
//	pubsub   on to the mesh

const (
	actionSend      = "send"
	actionSubscribe = "subscribe"
	// maxPublish is how many messages an RPC has at most, and maxSubscriptions how many announcements: more is nothing that a node does.
	maxPublish, maxSubscriptions = 1024, 4096
	// disputed is what two honest clocks and a slow way may make of an age; only beyond that it is held against who brought it.
	disputed = time.Minute
	// floodFault is what each envelope beyond a bucket costs its sender: four thousand in a minute put him on the gray list.
	floodFault = 0.03
	// invalidFault is for what no honest neighbour sends: the second puts him on the gray list.
	invalidFault = 70
)

func resourceOf(topic string) string { return "topic/" + topic }

// received is an envelope on its way through the validators.
type received struct {
	*envelope
	digest   []byte // what the signature is over
	size     int64  // taken from the budget
	given    atomic.Bool
	came     time.Time
	received *sampled // nil but for one in many
}

// release gives back what was taken from the budget, once.
func (s *Service) release(r *received) {
	if r.given.CompareAndSwap(false, true) {
		s.inFlight.give(r.size)
	}
}

// inspect looks at an RPC before pubsub does anything with it, and takes out what is not let through. An error drops all of it. It runs in
// pubsub's one loop.
func (s *Service) inspect(from peer.ID, rpc *pubsub.RPC) error {
	n := s.neighbours.of(from)
	if !n.admitted.Load() {
		return ErrDenied
	}
	if len(rpc.Publish) > 0 && n.score(s.o.Now()) < thresholdGraylist {
		for _, m := range rpc.Publish {
			s.refuse(refusedGray, m.GetTopic())
		}
		return ErrDenied
	}
	if len(rpc.Publish) > maxPublish || len(rpc.Subscriptions) > maxSubscriptions {
		n.fault(invalidFault, s.o.Now())
		return ErrCorrupt
	}
	if len(rpc.Publish) == 0 {
		return nil
	}
	now := s.o.Now().UnixNano()
	keep := rpc.Publish[:0]
	for _, m := range rpc.Publish {
		if s.passes(n, m, now) {
			keep = append(keep, m)
		}
	}
	clear(rpc.Publish[len(keep):])
	rpc.Publish = keep
	return nil
}

// passes is inspect for one message.
func (s *Service) passes(n *neighbour, m *pb.Message, now int64) bool {
	t := (*s.topics.Load())[m.GetTopic()]
	if t == nil || len(*t.subs.Load()) == 0 {
		return false // we have left it, and the neighbour does not know yet
	}
	if s.o.Allow(n.id, actionSend, t.resource) != nil {
		s.refuse(refusedPeer, t.name)
		return false
	}
	// Fields that pubsub does not know would go along with the message, and are no part of its id.
	if len(m.Data) > s.maxEnvelope || len(m.ProtoReflect().GetUnknown()) > 0 {
		s.refuse(refusedCorrupt, t.name)
		n.fault(invalidFault, s.o.Now())
		return false
	}
	if !n.envelopes.take(s.o.PeerEnvelopes, 1, now) || !n.bytes.take(s.o.PeerBytes, int64(len(m.Data)), now) {
		s.refuse(refusedPeerRate, t.name)
		n.fault(floodFault, s.o.Now())
		return false
	}
	return true
}

// ignored is an envelope that is not taken, and not held against who brought it.
func (s *Service) ignored(why reason, m *pubsub.Message) pubsub.ValidationResult {
	s.refuse(why, m.GetTopic())
	return pubsub.ValidationIgnore
}

// invalid is one that no honest neighbour brings.
func (s *Service) invalid(why reason, from peer.ID, m *pubsub.Message) pubsub.ValidationResult {
	s.refuse(why, m.GetTopic())
	s.neighbours.of(from).fault(invalidFault, s.o.Now())
	return pubsub.ValidationReject
}

// check is the validator for all that costs little. It runs before verify, which gets what it has decoded.
func (s *Service) check(_ context.Context, from peer.ID, m *pubsub.Message) pubsub.ValidationResult {
	if from == s.self {
		return pubsub.ValidationAccept
	}
	s.m.received.Inc()
	s.m.receivedBytes.Add(float64(len(m.Data)))
	e, err := decodeEnvelope(m.Data, s.maxEnvelope)
	switch {
	case err != nil:
		return s.invalid(refusedCorrupt, from, m)
	case e.topic != m.GetTopic():
		return s.invalid(refusedTopic, from, m)
	case e.author == s.key:
		return s.ignored(refusedOwn, m) // not in the cache of what we have seen: it is of another run, or somebody else's
	}
	now := s.o.Now()
	if age := now.Sub(time.Unix(0, e.time)); age > s.o.MaxAge || age < -s.o.MaxAhead {
		if age > s.o.MaxAge+disputed || age < -s.o.MaxAhead-disputed {
			s.neighbours.of(from).fault(1, now)
		}
		if age > 0 {
			return s.ignored(refusedLate, m)
		}
		return s.ignored(refusedEarly, m)
	}
	if !s.authors.fresh(e) {
		return s.ignored(refusedReplay, m)
	}
	if err := s.mayWrite(peerOf(e.author), from, e.topic); err != nil {
		return s.ignored(refusedRights, m)
	}
	r := &received{envelope: e, digest: []byte(m.ID[:32]), size: int64(len(m.Data)), came: now}
	if !s.inFlight.take(r.size) {
		return s.ignored(refusedOverload, m)
	}
	r.received = s.sample(m, r)
	m.ValidatorData = r
	return pubsub.ValidationAccept
}

// mayWrite says whether an author may send on a topic. The neighbour who brings it was asked already (inspect).
func (s *Service) mayWrite(author, via peer.ID, topic string) error {
	if author == via {
		return nil
	}
	resource := (*s.topics.Load())[topic]
	if resource == nil {
		return ErrDenied
	}
	if s.o.Author != nil {
		return s.o.Author(author, via, resource.resource)
	}
	if n := s.neighbours.get(author); n != nil && n.connected.Load() {
		return s.o.Allow(author, actionSend, resource.resource)
	}
	return nil
}

// verify is the validator for what check has let through, and for what we publish. It has a goroutine for each.
func (s *Service) verify(_ context.Context, from peer.ID, m *pubsub.Message) pubsub.ValidationResult {
	if from == s.self {
		return s.own(m)
	}
	r, ok := m.ValidatorData.(*received)
	if !ok {
		return s.ignored(refusedClosed, m) // check comes first, whatever happens
	}
	defer s.release(r)
	r.received.step("verify")
	err := s.verifier.Verify(s.ctx, domain, r.author, r.digest, r.signature)
	s.m.verify.Observe(s.o.Now().Sub(r.came).Seconds())
	switch {
	case errors.Is(err, seal.ErrSignature):
		s.m.badSignatures.Inc()
		s.blame(from, r)
		return s.invalid(refusedSignature, from, m)
	case err != nil:
		return s.ignored(refusedClosed, m)
	}
	now := s.o.Now()
	a := s.authors.of(r.author, from, now)
	if a == nil {
		return s.ignored(refusedAuthors, m)
	}
	if !a.payloads.take(s.o.AuthorMessages, int64(len(r.payloads)), now.UnixNano()) || !a.bytes.take(s.o.AuthorBytes, r.size, now.UnixNano()) {
		if peerOf(r.author) == from {
			s.neighbours.of(from).fault(floodFault, now)
		}
		return s.ignored(refusedAuthorRate, m)
	}
	if !s.authors.take(a, r.envelope, now) {
		return s.ignored(refusedReplay, m)
	}
	s.m.receivedMessages.Add(float64(len(r.payloads)))
	s.count(r.envelope, from)
	s.m.age.Observe(max(0, now.Sub(time.Unix(0, r.time)).Seconds()))
	r.received.step("route")
	if t := (*s.topics.Load())[r.topic]; t != nil {
		t.deliver(r.envelope, from)
		s.listen(t)
	}
	return pubsub.ValidationAccept
}

// count notes messages that were taken.
func (s *Service) count(e *envelope, from peer.ID) {
	messages := uint64(len(e.payloads))
	s.taken.Add(messages)
	if t := (*s.topics.Load())[e.topic]; t != nil {
		t.counts.in.Add(messages)
	}
	if n := s.neighbours.get(from); n != nil {
		n.in.Add(messages)
	}
}

// own delivers what we publish to our own subscriptions. It is not verified: we have signed it.
func (s *Service) own(m *pubsub.Message) pubsub.ValidationResult {
	t := (*s.topics.Load())[m.GetTopic()]
	if t == nil || len(*t.subs.Load()) == 0 {
		return pubsub.ValidationAccept
	}
	e, err := decodeEnvelope(m.Data, s.maxEnvelope)
	if err != nil { // what encode writes is decoded: see FuzzEnvelope
		s.o.Log.Error("broadcast: an envelope of our own is malformed", "topic", t.name, "error", err)
		return pubsub.ValidationReject
	}
	t.deliver(e, s.self)
	return pubsub.ValidationAccept
}

// deliver puts an envelope's messages into the queues of subscriptions.
func (t *topic) deliver(e *envelope, via peer.ID) {
	messages := make([]Message, len(e.payloads))
	from, signed := peerOf(e.author), time.Unix(0, e.time)
	for i, p := range e.payloads {
		messages[i] = Message{ID: ID{From: from, Epoch: e.epoch, Sequence: e.sequence, Index: i}, Topic: t.name, Signed: signed, Via: via, Payload: p}
	}
	if t.s.o.History > 0 {
		t.past.keep(messages, t.s.o.History)
	}
	for _, sub := range *t.subs.Load() {
		t.s.m.delivered.Add(float64(sub.push(t.s.ctx, messages)))
	}
}

// blame says whose signature it was not, and who brought it. Pubsub lowers his score for the rejection.
func (s *Service) blame(from peer.ID, r *received) {
	if s.blames.take(Rate{1, 10}, 1, s.o.Now().UnixNano()) {
		s.o.Log.Warn("broadcast: a signature does not verify", "neighbour", from.String(), "author", peerOf(r.author).String(), "topic", r.topic)
	}
}

// CanSubscribe is of pubsub.SubscriptionFilter: we may hear what we have joined.
func (f filter) CanSubscribe(string) bool { return true }

// filter lets announcements through of topics that a neighbour may hear.
type filter struct{ s *Service }

// FilterIncomingSubscriptions is of pubsub.SubscriptionFilter. It runs in pubsub's one loop, as inspect does.
func (f filter) FilterIncomingSubscriptions(from peer.ID, subs []*pb.RPC_SubOpts) ([]*pb.RPC_SubOpts, error) {
	n := f.s.neighbours.of(from)
	keep := subs[:0]
	for _, sub := range subs {
		name := sub.GetTopicid()
		if !f.s.announced(n, name, sub.GetSubscribe()) {
			continue
		}
		if t := (*f.s.topics.Load())[name]; t != nil {
			t.hear(n, sub.GetSubscribe())
		}
		keep = append(keep, sub)
	}
	return keep, nil
}

// mayHear is pubsub's filter of peers: who is grafted and gossiped to.
func (s *Service) mayHear(p peer.ID, topic string) bool {
	t := (*s.topics.Load())[topic]
	return t != nil && s.o.Allow(p, actionSubscribe, t.resource) == nil
}

// strangers is pubsub's blacklist: who has no right.
type strangers struct{ s *Service }

// Add is of pubsub.Blacklist; rights are what decides.
func (strangers) Add(peer.ID) bool { return false }

// Contains is of pubsub.Blacklist.
func (b strangers) Contains(p peer.ID) bool {
	if p == "" || p == b.s.self { // a message of ours has no author as pubsub sees it
		return false
	}
	n := b.s.neighbours.get(p)
	return n == nil || !n.admitted.Load()
}

// tracer hears from pubsub what became of messages. What it is not interested in is embedded.
type tracer struct {
	ignoring
	s *Service
}

// DuplicateMessage counts what was dropped before it was verified.
func (t tracer) DuplicateMessage(*pubsub.Message) { t.s.m.duplicate.Inc() }

// RejectMessage counts what pubsub refuses for reasons of its own; the validators have counted theirs.
func (t tracer) RejectMessage(m *pubsub.Message, why string) {
	switch why {
	case pubsub.RejectValidationQueueFull, pubsub.RejectValidationThrottled:
		t.s.refuse(refusedQueue, m.GetTopic())
	case pubsub.RejectUnexpectedSignature, pubsub.RejectUnexpectedAuthInfo:
		t.s.refuse(refusedCorrupt, m.GetTopic())
	}
	if r, ok := m.ValidatorData.(*received); ok {
		t.s.release(r)
		r.received.end(fmt.Errorf("refused: %s", why))
	}
}

// DeliverMessage is when pubsub hands a message to its neighbours' queues.
func (t tracer) DeliverMessage(m *pubsub.Message) {
	if r, ok := m.ValidatorData.(*received); ok {
		r.received.step("send")
	}
}

// SendRPC counts what is in the queue to a neighbour.
func (t tracer) SendRPC(rpc *pubsub.RPC, p peer.ID) {
	if n := t.s.neighbours.get(p); n != nil {
		n.queued.Add(1)
		n.out.Add(messagesIn(rpc.Publish))
	}
}

// SendRPCCompleted is of another goroutine for each neighbour.
func (t tracer) SendRPCCompleted(rpc *pubsub.RPC, p peer.ID, _ time.Duration) {
	if n := t.s.neighbours.get(p); n != nil && n.queued.Add(-1) < 0 {
		n.queued.Store(0) // the first RPC of a stream is in no queue
	}
	signal(t.s.sent)
	t.s.wentOut(rpc)
}

// DropRPC counts what found no room.
func (t tracer) DropRPC(*pubsub.RPC, peer.ID) { t.s.m.sendDropped.Inc() }

// OnClosedOutboundStream empties the count: what was in the queue is gone.
func (t tracer) OnClosedOutboundStream(p peer.ID) {
	if n := t.s.neighbours.get(p); n != nil {
		n.queued.Store(0)
	}
	for _, topic := range *t.s.topics.Load() {
		topic.graft(p, false)
	}
}

// Graft is when a neighbour comes into the mesh.
func (t tracer) Graft(p peer.ID, topic string) { t.mesh(p, topic, true) }

// Prune is when it goes.
func (t tracer) Prune(p peer.ID, topic string) { t.mesh(p, topic, false) }

func (t tracer) mesh(p peer.ID, name string, in bool) {
	if topic := (*t.s.topics.Load())[name]; topic != nil {
		topic.graft(p, in)
	}
}

// ignoring is a tracer that does nothing.
type ignoring struct{}

func (ignoring) OnNewOutboundStream(peer.ID, protocol.ID) {}
func (ignoring) Join(string)                              {}
func (ignoring) Leave(string)                             {}
func (ignoring) ValidateMessage(*pubsub.Message)          {}
func (ignoring) ThrottlePeer(peer.ID)                     {}
func (ignoring) RecvRPC(*pubsub.RPC)                      {}
func (ignoring) UndeliverableMessage(*pubsub.Message)     {}

var quiet = slog.New(slog.DiscardHandler)
