// Package broadcast is messages to everybody who hears a topic, over gossipsub: signed by who sends them, verified in batches by who hears
// them, each taken once.
//
// What goes around is an envelope of ours (docs/format/envelope.md), one or more messages under one signature. Nothing is taken that is not
// signed, that is too old, or that was taken before, also by a run before this one. Each neighbour has buckets, each author has, and
// everything between them is bounded; what is refused is counted by its reason. Who may send or hear is asked of Options.Allow for every
// message, and whose right has gone is out of the topic.
package broadcast

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

// Options are those of a [Service]. Key, Allow and Dir must be there.
type Options struct {
	Key seal.Key // the host's identity, which messages are signed by
	// Allow is the right of a neighbour: nil, or why not. It is asked for each message and each neighbour who would get it, from many
	// goroutines, so it must be quick, and must not call the service. Actions are "send" and "subscribe", the resource is "topic/NAME".
	Allow func(p peer.ID, action, resource string) error
	// Author is the right to send of an author whose message another neighbour brings. Nil asks Allow where the author is connected to us,
	// and else takes the word of the neighbour, who may send on the topic.
	Author func(author, via peer.ID, resource string) error
	Dir    string // what is kept: numbers of ours, and what was taken of others
	FS     vfs.FS // nil is the host's
	Now    func() time.Time
	Log    *slog.Logger // nil is slog.Default()

	Metrics    prometheus.Registerer // nil is none
	Tracer     trace.Tracer          // spans of envelopes on their way; nil is none
	TraceEvery int                   // one envelope in so many has spans. 0 is 1,000

	MaxPayload  int           // bytes of a message. 0 is 1 MiB, which is the most
	Bundle      int           // messages in an envelope. 0 is 64, which is the most; 1 signs each by itself
	BundleBytes int           // of an envelope with more than one message. 0 is 64 KiB
	BundleWait  time.Duration // what is published so soon after an envelope waits for others. 0 is 1 ms, below 0 not at all

	Batch     int            // signatures that are verified together. 0 is 64
	BatchWait time.Duration  // how long the first of a batch waits for others. 0 is 1 ms, below 0 for none but those that wait already
	Verifiers int            // batches at a time. 0 is half of the processors, at least one
	Keys      *seal.KeyCache // of public keys, shared with others who verify; nil is one of the service's own

	MaxAge   time.Duration // of an envelope, by its author's clock and ours. 0 is 2 min
	MaxAhead time.Duration // of an author's clock. 0 is 30 s

	PeerEnvelopes  Rate  // of one neighbour. 0 is 25,000 a second and at once
	PeerBytes      Rate  // of one neighbour. 0 is 64 MiB a second and at once
	AuthorMessages Rate  // of one author. 0 is 50,000 a second and 100,000 at once
	AuthorBytes    Rate  // of one author. 0 is 64 MiB a second and at once
	InFlight       int   // envelopes that are being verified and delivered. 0 is 4,096
	InFlightBytes  int64 // of them. 0 is 64 MiB

	Authors int // that are remembered, about 1 KiB each; a quarter of them by one neighbour. 0 is 16,384
	Topics  int // that are subscribed to or published to at a time. 0 is 1,024
	History int // messages of a topic that are remembered while it is subscribed to. 0 is none
}

const (
	defaultMaxPayload = 1 << 20
	// rpcOverhead is what pubsub's RPC has around an envelope.
	rpcOverhead = 1 << 10
	// controlMost is what an RPC's control part may have: 5,000 ids of 48 bytes, what gossip tells at once.
	controlMost = 256 << 10
	// publishIdle is after how long a topic that is only published to is left.
	publishIdle = 2 * time.Minute
	// closeWait is how long Close waits for what was published to be sent.
	closeWait = 2 * time.Second
	sweepEach = time.Second
)

// check sets defaults, and says what is wrong.
func (o *Options) check() error {
	if o.Allow == nil || o.Dir == "" {
		return errors.New("broadcast: Options.Allow and Options.Dir must be there")
	}
	for _, v := range []struct {
		name           string
		n              *int
		standard, most int
	}{
		{"MaxPayload", &o.MaxPayload, defaultMaxPayload, defaultMaxPayload}, {"Bundle", &o.Bundle, maxBundle, maxBundle}, {"BundleBytes", &o.BundleBytes, 64 << 10, defaultMaxPayload},
		{"Batch", &o.Batch, 64, 4096}, {"Verifiers", &o.Verifiers, max(1, runtime.GOMAXPROCS(0)/2), 1024}, {"TraceEvery", &o.TraceEvery, 1000, 1 << 30},
		{"InFlight", &o.InFlight, 4096, 1 << 16}, {"Authors", &o.Authors, 16384, maxKept}, {"Topics", &o.Topics, 1024, 1 << 16},
	} {
		if *v.n == 0 {
			*v.n = v.standard
		}
		if *v.n < 1 || *v.n > v.most {
			return fmt.Errorf("broadcast: Options.%s is %d: it must be 1 to %d, or 0 for %d", v.name, *v.n, v.most, v.standard)
		}
	}
	for _, r := range []struct {
		name     string
		r        *Rate
		standard Rate
	}{
		{"PeerEnvelopes", &o.PeerEnvelopes, Rate{25_000, 25_000}}, {"PeerBytes", &o.PeerBytes, Rate{64 << 20, 64 << 20}},
		{"AuthorMessages", &o.AuthorMessages, Rate{50_000, 100_000}}, {"AuthorBytes", &o.AuthorBytes, Rate{64 << 20, 64 << 20}},
	} {
		if *r.r == (Rate{}) {
			*r.r = r.standard
		}
		if r.r.PerSecond < 1 || r.r.PerSecond > 1e9 || r.r.Burst < 1 || r.r.Burst > 1e9 {
			return fmt.Errorf("broadcast: Options.%s is %d a second and %d at once: both must be 1 to 1e9", r.name, r.r.PerSecond, r.r.Burst)
		}
	}
	for _, d := range []struct {
		d        *time.Duration
		standard time.Duration
	}{{&o.BundleWait, time.Millisecond}, {&o.BatchWait, time.Millisecond}, {&o.MaxAge, 2 * time.Minute}, {&o.MaxAhead, 30 * time.Second}} {
		if *d.d == 0 {
			*d.d = d.standard
		}
	}
	if o.MaxAge < time.Second || o.MaxAhead < time.Second || o.MaxAge > time.Hour || o.MaxAhead > time.Hour {
		return fmt.Errorf("broadcast: Options.MaxAge is %v and Options.MaxAhead %v: both must be a second to an hour", o.MaxAge, o.MaxAhead)
	}
	if o.InFlightBytes == 0 {
		o.InFlightBytes = 64 << 20
	}
	if o.InFlightBytes < 1 || o.History < 0 || o.History > 1<<16 {
		return fmt.Errorf("broadcast: Options.InFlightBytes is %d and Options.History %d: they must be above 0, and 0 to %d", o.InFlightBytes, o.History, 1<<16)
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Keys == nil {
		o.Keys = seal.NewKeyCache(0)
	}
	return nil
}

// Service is a node's broadcast. It is safe for concurrent use.
type Service struct {
	o           Options
	host        host.Host
	self        peer.ID
	key         seal.PublicKey
	maxEnvelope int

	ctx              context.Context
	cancel           context.CancelFunc
	running          sync.WaitGroup
	lock             io.Closer
	ps               *pubsub.PubSub
	verifier         *seal.Verifier
	protocolsUpdated event.Emitter
	notifiee         network.Notifiee

	m          *metrics
	sequence   *sequence
	authors    *authors
	neighbours neighbours
	inFlight   budget
	blames     bucket
	samples    samples
	sent       chan struct{} // has one when an RPC was written
	keepErr    atomic.Pointer[error]

	taken, handed atomic.Uint64 // messages of others, and of ours

	mu     sync.Mutex // held by who changes topics, or what is subscribed to
	topics atomic.Pointer[map[string]*topic]
	ended  bool
}

// New starts the broadcast of a host, and takes hold of Options.Dir. It ends with Close; when the context ends first, nothing is received or
// sent any more, and Close is still due.
func New(ctx context.Context, h host.Host, o Options) (_ *Service, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &Service{o: o, host: h, self: h.ID(), key: o.Key.Public(), maxEnvelope: o.MaxPayload + overhead, sent: make(chan struct{}, 1)}
	if peerOf(s.key) != s.self {
		return nil, errors.New("broadcast: Options.Key is not that of the host's id")
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.topics.Store(&map[string]*topic{})
	s.neighbours.all = map[peer.ID]*neighbour{}
	s.samples.all = map[*byte]*sampled{}
	s.inFlight = budget{mostBytes: o.InFlightBytes, mostCount: int64(o.InFlight)}
	s.authors = newAuthors(o.Authors, o.MaxAge+o.MaxAhead+time.Minute)
	defer func() {
		if err != nil {
			s.cancel()
			err = errors.Join(err, s.unhold())
		}
	}()
	if err := s.hold(); err != nil {
		return nil, err
	}
	if s.m, err = newMetrics(o.Metrics, s); err != nil {
		return nil, fmt.Errorf("broadcast: %w", err)
	}
	if s.protocolsUpdated, err = h.EventBus().Emitter(new(event.EvtPeerProtocolsUpdated)); err != nil {
		return nil, fmt.Errorf("broadcast: %w", err)
	}
	batched := func(signatures int) { s.m.batch.Observe(float64(signatures)) }
	if s.verifier, err = seal.NewVerifier(seal.VerifierOptions{Size: o.Batch, Wait: o.BatchWait, Queue: o.InFlight, Workers: o.Verifiers, Cache: o.Keys, Batched: batched}); err != nil {
		return nil, errors.Join(fmt.Errorf("broadcast: %w", err), s.protocolsUpdated.Close())
	}
	if err := s.startPubsub(); err != nil {
		s.verifier.Close()
		return nil, errors.Join(fmt.Errorf("broadcast: %w", err), s.protocolsUpdated.Close())
	}
	s.notifiee = s.notified()
	h.Network().Notify(s.notifiee)
	for _, p := range h.Network().Peers() {
		n := s.neighbours.of(p)
		n.connected.Store(true)
		s.judge(n)
	}
	s.running.Go(s.sweep)
	return s, nil
}

// hold takes the folder, and reads what is in it.
func (s *Service) hold() (err error) {
	if err := errors.Join(s.o.FS.MkdirAll(s.o.Dir), s.o.FS.SyncDir(filepath.Dir(s.o.Dir))); err != nil {
		return fmt.Errorf("broadcast: %w", err)
	}
	if s.lock, err = s.o.FS.Lock(filepath.Join(s.o.Dir, "LOCK")); err != nil {
		return fmt.Errorf("broadcast: %s: %w", s.o.Dir, err)
	}
	if s.sequence, err = openSequence(s.o.FS, s.o.Dir, s.key, s.o.Now(), reserve); err != nil {
		return fmt.Errorf("broadcast: %w", err)
	}
	if err := s.load(); err != nil {
		return fmt.Errorf("broadcast: %w", err)
	}
	return nil
}

func (s *Service) unhold() error {
	if s.lock == nil {
		return nil
	}
	err := s.lock.Close()
	s.lock = nil
	return err
}

func (s *Service) startPubsub() (err error) {
	s.ps, err = pubsub.NewGossipSub(s.ctx, guarded{s.host, s},
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor(),
		pubsub.WithMessageIdFn(func(m *pb.Message) string { return gossipID(m.GetTopic(), m.GetData()) }),
		pubsub.WithMaxMessageSize(s.maxEnvelope+rpcOverhead), pubsub.WithMaxControlMessageSize(controlMost),
		pubsub.WithSeenMessagesTTL(seenTTL), pubsub.WithPeerOutboundQueueSize(outboundQueue),
		pubsub.WithValidateQueueSize(256), pubsub.WithValidateThrottle(2*s.o.InFlight),
		pubsub.WithGossipSubParams(gossipParams()), pubsub.WithGossipSubProtocols(protocols, protocolHas),
		pubsub.WithPeerScore(scoreParams(s.ownScore), scoreThresholds()),
		pubsub.WithBlacklist(strangers{s}), pubsub.WithPeerFilter(s.mayHear), pubsub.WithSubscriptionFilter(filter{s}),
		pubsub.WithAppSpecificRpcInspector(s.inspect), pubsub.WithRawTracer(tracer{s: s}),
		pubsub.WithDefaultValidator(pubsub.ValidatorEx(s.check), pubsub.WithValidatorInline(true)),
		pubsub.WithDefaultValidator(pubsub.ValidatorEx(s.verify), pubsub.WithValidatorConcurrency(2*s.o.InFlight)),
		pubsub.WithLogger(quiet), pubsub.WithRPCLogger(quiet)) // anybody can make it say something; what matters is counted
	return err
}

// ownScore is our part of a neighbour's score.
func (s *Service) ownScore(p peer.ID) float64 {
	n := s.neighbours.get(p)
	if n == nil {
		return 0
	}
	return n.score(s.o.Now())
}

// join is a topic, made if need be.
func (s *Service) join(name string) (*topic, error) {
	if t := (*s.topics.Load())[name]; t != nil {
		return t, nil
	}
	if err := checkTopic(name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.joinLocked(name)
}

func (s *Service) joinLocked(name string) (*topic, error) {
	all := *s.topics.Load()
	switch {
	case s.ended || s.ctx.Err() != nil:
		return nil, fmt.Errorf("%w: the service is closed", ErrUnavailable)
	case all[name] != nil:
		return all[name], nil
	case len(all) >= s.o.Topics:
		return nil, fmt.Errorf("%w: %d topics are in use, which is the most", ErrUnavailable, len(all))
	}
	handle, err := s.ps.Join(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := handle.SetScoreParams(topicScore()); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrUnavailable, err), handle.Close())
	}
	t := &topic{s: s, name: name, resource: resourceOf(name), handle: handle, used: s.o.Now(),
		mesh: map[peer.ID]struct{}{}, grafted: make(chan struct{}, 1), wake: make(chan struct{}, 1), done: make(chan struct{})}
	t.listeners.Store(&[]*neighbour{})
	t.subs.Store(&[]*Subscription{})
	next := maps.Clone(all)
	next[name] = t
	s.topics.Store(&next)
	s.running.Go(t.send)
	for _, n := range s.neighbours.list() { // after the topic can be found: who announces it meanwhile is there either way
		n.mu.Lock()
		hears := n.heard[name]
		n.mu.Unlock()
		if hears {
			t.hear(n, true)
		}
		if n.connected.Load() {
			s.judge(n)
		}
	}
	return t, nil
}

func (s *Service) subscribe(name string, sub *Subscription) error {
	if err := checkTopic(name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.joinLocked(name)
	if err != nil {
		return err
	}
	sub.topic = t
	list := append(slices.Clone(*t.subs.Load()), sub)
	t.subs.Store(&list)
	if t.unrelay == nil {
		if t.unrelay, err = t.handle.Relay(); err != nil {
			t.subs.Store(&[]*Subscription{})
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return nil
}

func (s *Service) unsubscribe(sub *Subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := sub.topic
	list := slices.DeleteFunc(slices.Clone(*t.subs.Load()), func(x *Subscription) bool { return x == sub })
	t.subs.Store(&list)
	if len(list) == 0 && t.unrelay != nil {
		t.unrelay()
		t.unrelay = nil
		t.mu.Lock()
		t.used = s.o.Now()
		t.mu.Unlock()
	}
}

// History is what was last heard of a topic while it was subscribed to, the oldest first: Options.History of them at most.
func (s *Service) History(topic string) []Message {
	if t := (*s.topics.Load())[topic]; t != nil {
		return t.past.list()
	}
	return nil
}

// Listeners are the neighbours who hear a topic, as far as is known.
func (s *Service) Listeners(topic string) []peer.ID {
	t := (*s.topics.Load())[topic]
	if t == nil {
		return nil
	}
	var out []peer.ID
	for _, n := range *t.listeners.Load() {
		out = append(out, n.id)
	}
	return out
}

// left takes a neighbour out of what is known of topics.
func (s *Service) left(n *neighbour) {
	n.mu.Lock()
	clear(n.heard)
	n.mu.Unlock()
	for _, t := range *s.topics.Load() {
		t.hear(n, false)
	}
}

// sweep does each second what nothing else is the occasion for.
func (s *Service) sweep() {
	tick := time.NewTicker(sweepEach)
	defer tick.Stop()
	var kept time.Time
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		now := s.o.Now()
		for _, n := range s.neighbours.list() {
			if n.connected.Load() {
				s.judge(n)
			}
		}
		s.neighbours.forget(now)
		s.authors.expire(now)
		s.leaveIdle(now)
		s.endSamples(now.Add(-sendWait))
		if since := now.Sub(kept); since >= keepEvery || since < 0 {
			kept = now
			s.keepNow()
		}
	}
}

// keepNow keeps what was taken, and notes whether that can be done: it is said once.
func (s *Service) keepNow() {
	s.authors.mu.RLock()
	dirty := s.authors.dirty
	s.authors.mu.RUnlock()
	if !dirty {
		return
	}
	err := s.keep(false)
	if err == nil {
		s.keepErr.Store(nil)
		return
	}
	s.m.keepFailed.Inc()
	if s.keepErr.Swap(&err) == nil {
		s.o.Log.Error("broadcast: after a crash, messages of now may be taken twice", "error", err)
	}
}

// Health is nil, or what is wrong at this time.
func (s *Service) Health() error {
	if err := s.keepErr.Load(); err != nil {
		return *err
	}
	return nil
}

// leaveIdle closes topics that nobody hears or publishes to any more.
func (s *Service) leaveIdle(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := *s.topics.Load()
	var idle []*topic
	for _, t := range all {
		t.mu.Lock()
		if len(*t.subs.Load()) == 0 && t.queued == 0 && now.Sub(t.used) > publishIdle {
			t.closed = true
			idle = append(idle, t)
		}
		t.mu.Unlock()
	}
	if len(idle) == 0 {
		return
	}
	next := maps.Clone(all)
	for _, t := range idle {
		delete(next, t.name)
		close(t.done)
		if err := t.handle.Close(); err != nil && s.ctx.Err() == nil {
			s.o.Log.Error("broadcast: a topic cannot be left", "topic", t.name, "error", err)
		}
	}
	s.topics.Store(&next)
}

// Close sends what was published, for two seconds at most, ends everything, and keeps what was taken.
func (s *Service) Close() error {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return nil
	}
	s.ended = true
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.ctx, closeWait)
	flushed := s.Flush(ctx)
	cancel()
	if s.ctx.Err() != nil {
		flushed = nil // the caller has ended it, and knows
	}
	for _, t := range *s.topics.Load() {
		t.mu.Lock()
		t.closed = true
		t.mu.Unlock()
		for _, sub := range *t.subs.Load() {
			sub.Close()
		}
	}
	s.host.Network().StopNotify(s.notifiee)
	for _, p := range protocols {
		s.host.RemoveStreamHandler(p)
	}
	s.cancel()
	for _, n := range s.neighbours.list() {
		n.cut()
	}
	s.verifier.Close()
	s.running.Wait()
	return errors.Join(flushed, s.protocolsUpdated.Close(), s.keep(true), s.unhold())
}
