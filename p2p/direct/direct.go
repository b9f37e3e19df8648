// Package direct is private messages between peers of a libp2p network: at line rate while both are there, kept and delivered once when
// they are not, to groups, and files.
//
// What is said to a peer is read by that peer alone. Sessions are Noise KK between keys that identities have signed; what is left for a
// peer that is away is sealed by HPKE to a prekey of its, which is deleted after two weeks. The bytes, and what a thief of keys can read,
// are in docs/format/direct.md.
//
// Rights are not decided here: Options.Allow is asked for each message that comes.
package direct

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

// What callers branch on.
var (
	// ErrCorrupt says that bytes are not what they must be.
	ErrCorrupt = errors.New("corrupt")
	// ErrDenied says that there is no right to it.
	ErrDenied = errors.New("denied")
	// ErrUnavailable says that it cannot be done now: the peer is away, the disk is full, there is no room.
	ErrUnavailable = errors.New("unavailable")
)

// Protocols.
const (
	ProtocolMessages protocol.ID = "/quantra/msg/1"
	ProtocolFiles    protocol.ID = "/quantra/file/1"
)

// Options are those of a [Service]. Key, Allow and Dir must be given.
type Options struct {
	Key seal.Key // the node's identity; the host's id must be that of this key

	// Allow says what a peer may do: nil, or why not. It is asked for each message, and must be cheap. The actions are "connect" for a peer
	// that is written to, and "send" for what comes from it, on "peer/" and our id, or the id of whom a message is left for.
	Allow func(p peer.ID, action, resource string) error
	// Away says whether messages are taken from a peer that is not connected, by way of a keeper. nil takes them from peers that have
	// been connected since the last restart or before, as far as their keys are still known.
	Away func(p peer.ID) error

	Dir string // for what is kept; made if need be
	FS  vfs.FS // nil is the host's file system
	Now func() time.Time
	Log *slog.Logger // nil is nowhere

	// Deliver is given each durable message, one at a time, in the order in which they were received. When it returns nil the next one
	// comes; after an error the same one does, a while later. A message is given again only if the process died before it was noted that
	// Deliver had it: who must know keeps [Message.Index] with what it does. nil leaves messages in history.
	Deliver func(ctx context.Context, m Message) error
	// Receive is given what peers Post. It is called where the bytes are read, so that a slow one slows the sender; the bytes are good until
	// it returns. An error ends the session. nil drops them.
	Receive func(p peer.ID, body []byte) error
	// Answer answers requests. nil refuses them.
	Answer func(ctx context.Context, p peer.ID, body []byte) ([]byte, error)
	// AcceptFile says in which folder a file that is offered is put, or why it is refused. nil refuses all.
	AcceptFile func(ctx context.Context, o FileOffer) (dir string, err error)
	// FileEnded is told of each file that AcceptFile has let in: where it is, whole, or "" and why it is not. A file that was broken off may be
	// offered again, and one that is there already is not received twice. nil is nobody.
	FileEnded func(o FileOffer, path string, err error)

	// Keepers are peers that are asked to keep messages for others that are away.
	Keepers []peer.ID
	// Keep is how many bytes we keep for others, an eighth of it from one and for one. 0 is none.
	Keep int64

	OutboxBytes  int64         // messages that are not acknowledged; 0 is 16 MiB. A quarter of it is for one peer
	InboxBytes   int64         // messages that Deliver has not had; 0 is 16 MiB. Beyond them none are acknowledged
	HistoryBytes int64         // on disk; 0 is 64 MiB, at least twice OutboxBytes
	HistoryAge   time.Duration // 0 is 30 days
	Expire       time.Duration // messages that are not acknowledged are given up after this; 0 is 30 days

	SessionAge time.Duration // another handshake is made after this; 0 is an hour
	RetryMin   time.Duration // between two attempts to reach a peer: from this, 0 is a second,
	RetryMax   time.Duration // doubling to this; 0 is five minutes
	Stall      time.Duration // a peer that takes nothing, or acknowledges nothing, for so long is given up; 0 is a minute

	Registry prometheus.Registerer // where metrics go; nil is nowhere
	// Tracer gets spans of what comes: of each request, each durable message, and one post in TraceEvery, with one in it for each step:
	// receive, verify, route and, where something is said back, send. nil is none.
	Tracer     trace.Tracer
	TraceEvery int // 0 is 1,000
}

func (o *Options) check(self peer.ID) error {
	switch {
	case o.Key.Public() == (seal.PublicKey{}) || idOf(o.Key.Public()) != self:
		return fmt.Errorf("direct: the host is %s, which is not the id of Options.Key", self)
	case o.Allow == nil:
		return errors.New("direct: there is no Options.Allow: nothing would be decided")
	case o.Dir == "":
		return errors.New("direct: there is no Options.Dir to keep messages in")
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		v    *int64
		or   int64
		name string
	}{{&o.OutboxBytes, 16 << 20, "OutboxBytes"}, {&o.InboxBytes, 16 << 20, "InboxBytes"}, {&o.HistoryBytes, max(64<<20, 4*o.OutboxBytes), "HistoryBytes"}} {
		if *d.v == 0 {
			*d.v = d.or
		}
		if *d.v < 0 {
			return fmt.Errorf("direct: Options.%s is %d", d.name, *d.v)
		}
	}
	if o.TraceEvery == 0 {
		o.TraceEvery = 1000
	}
	if o.TraceEvery < 0 {
		return fmt.Errorf("direct: Options.TraceEvery is %d", o.TraceEvery)
	}
	if o.HistoryBytes < 2*o.OutboxBytes {
		return fmt.Errorf("direct: Options.HistoryBytes is %d, less than twice OutboxBytes, which is %d", o.HistoryBytes, o.OutboxBytes)
	}
	for _, d := range []struct {
		v    *time.Duration
		or   time.Duration
		name string
	}{{&o.HistoryAge, 30 * 24 * time.Hour, "HistoryAge"}, {&o.Expire, 30 * 24 * time.Hour, "Expire"}, {&o.SessionAge, time.Hour, "SessionAge"},
		{&o.RetryMin, time.Second, "RetryMin"}, {&o.RetryMax, 5 * time.Minute, "RetryMax"}, {&o.Stall, time.Minute, "Stall"}} {
		if *d.v == 0 {
			*d.v = d.or
		}
		if *d.v < 0 {
			return fmt.Errorf("direct: Options.%s is %v", d.name, *d.v)
		}
	}
	return nil
}

// Service is private messages of one node. Its methods may be called by many goroutines.
type Service struct {
	o      Options
	host   host.Host
	self   peer.ID
	here   string // the resource that peers send to: "peer/" and our id
	keys   *keyring
	ledger *ledger
	keeper *keeper
	tagKey []byte // of the tags of what is left with keepers
	files  fileRoom
	load   load
	posts  atomic.Uint64 // that came, for those that are followed
	m      *metrics
	notify *network.NotifyBundle

	ctx  context.Context
	end  context.CancelCauseFunc
	work sync.WaitGroup

	groupMu sync.Mutex // one change of groups at a time; held before any other

	mu       sync.Mutex // guards what follows; nothing is waited for while it is held
	closed   bool
	slots    map[peer.ID]*slot
	inbound  map[*session]bool
	couriers map[peer.ID]*courier

	traffic traffic // has a lock of its own
}

// maintainEvery is how often keys are turned, and what has expired is looked for.
const maintainEvery = time.Minute

// New starts a service on a host. What was pending when the last one ended is sent on.
func New(h host.Host, o Options) (*Service, error) {
	s := &Service{o: o, host: h, self: h.ID(), here: "peer/" + h.ID().String(), slots: map[peer.ID]*slot{}, inbound: map[*session]bool{},
		couriers: map[peer.ID]*courier{}, traffic: traffic{peers: map[peer.ID]*counted{}}}
	if err := s.o.check(s.self); err != nil {
		return nil, err
	}
	s.load.since = s.o.Now()
	s.files = fileRoom{room: make(chan struct{}, maxTransfers), every: syncEvery, parts: map[string]bool{}, streams: map[network.Stream]peer.ID{}}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("direct: %w", err)
	}
	var err error
	if s.m, err = newMetrics(o.Registry, s); err != nil {
		return nil, errors.Join(fmt.Errorf("direct: %w", err), s.ledger.close())
	}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	s.notify = &network.NotifyBundle{ConnectedF: func(_ network.Network, c network.Conn) { s.Ready(c.RemotePeer()) }}
	h.Network().Notify(s.notify)
	h.SetStreamHandler(ProtocolMessages, s.accept)
	h.SetStreamHandler(ProtocolFiles, s.acceptFile)
	s.run(s.deliver)
	s.run(s.maintain)
	for _, p := range s.ledger.recipients() {
		s.rouse(p)
	}
	return s, nil
}

// open is all that is on disk.
func (s *Service) open() error {
	secret, err := storeKey(s.o.Key)
	if err != nil {
		return err
	}
	defer clear(secret)
	if s.tagKey, err = hkdf.Key(sha256.New, secret, nil, "quantra direct tags v1", sha256.Size); err != nil {
		return err
	}
	box, err := seal.NewBox(secret)
	if err != nil {
		return err
	}
	if err := errors.Join(s.o.FS.MkdirAll(s.o.Dir), s.o.FS.SyncDir(filepath.Dir(s.o.Dir))); err != nil {
		return err
	}
	lim := limits{outbox: s.o.OutboxBytes, perPeer: s.o.OutboxBytes / 4, inbox: s.o.InboxBytes, history: s.o.HistoryBytes, age: s.o.HistoryAge,
		segment: min(4<<20, s.o.HistoryBytes/8)}
	if s.ledger, err = openLedger(s.o.FS, s.o.Dir, s.self, box, lim, s.o.Now); err != nil {
		return err
	}
	if s.keys, err = openKeyring(s.o.FS, s.o.Dir, s.o.Key, box, s.o.Now()); err == nil {
		s.keeper, err = openKeeper(s.o.FS, filepath.Join(s.o.Dir, "kept"), s.o.Keep, s.o.Now)
	}
	if err != nil {
		return errors.Join(err, s.ledger.close())
	}
	return nil
}

// Close ends all sessions and waits for them. What is pending is sent by the next service in the same folder.
func (s *Service) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.work.Wait()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.host.RemoveStreamHandler(ProtocolMessages)
	s.host.RemoveStreamHandler(ProtocolFiles)
	s.host.Network().StopNotify(s.notify)
	s.end(errClosed)
	s.work.Wait()
	s.m.unregister()
	return s.ledger.close()
}

// enter says that something runs that Close waits for, until leave. It is false when the service is closed.
func (s *Service) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.work.Add(1)
	return true
}

// run starts a goroutine that Close waits for.
func (s *Service) run(f func()) bool {
	if !s.enter() {
		return false
	}
	go func() {
		defer s.work.Done()
		f()
	}()
	return true
}

// Post sends a message that is kept nowhere: it is lost if the session breaks. It returns when it is queued, and waits where the peer
// takes no more. The body may be used again when it returns.
func (s *Service) Post(ctx context.Context, p peer.ID, body []byte) error {
	if len(body) > MaxMessage {
		return fmt.Errorf("a message of %d bytes, of at most %d: larger things are files", len(body), MaxMessage)
	}
	err := s.with(ctx, p, func(x *session) error {
		err := x.out.put(ctx, frameOneWay, 0, body, nil)
		if err == nil {
			x.said.out.Add(1)
		}
		return err
	})
	if err == nil {
		s.m.posted.Inc()
	}
	return err
}

// Request asks a peer and waits for its answer, 30 seconds unless the context says otherwise. When the context ends the peer is told.
func (s *Service) Request(ctx context.Context, p peer.ID, body []byte) ([]byte, error) {
	return s.ask(ctx, p, methodApp, body, nil)
}

// Send sends a durable message. It returns its id when the message is on disk; from then on it is sent until the peer says that it has it
// on its own. An error after the context has ended leaves open whether it is.
func (s *Service) Send(ctx context.Context, p peer.ID, body []byte) (string, error) {
	if len(body) > MaxMessage {
		return "", fmt.Errorf("a message of %d bytes, of at most %d: larger things are files", len(body), MaxMessage)
	}
	if _, err := keyOf(p); err != nil {
		return "", err
	}
	if p == s.self {
		return "", errors.New("a message to ourselves")
	}
	made, err := s.ledger.send(ctx, []outgoing{{p, kindMessage, body}}, s.o.Now())
	if err != nil {
		return "", err
	}
	s.m.sent.Inc()
	s.rouse(p)
	return messageID(s.self, p, made[0].epoch, made[0].seq), nil
}

// Flush waits until nothing is pending for a peer.
func (s *Service) Flush(ctx context.Context, p peer.ID) error {
	for {
		s.ledger.mu.Lock()
		changed := s.ledger.changed
		n := 0
		if ch := s.ledger.channels[p]; ch != nil {
			n = len(ch.pending)
		}
		s.ledger.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %d messages still wait for %s", context.Cause(ctx), n, p)
		case <-s.ctx.Done():
			return errClosed
		}
	}
}

// Settle waits until nothing is under way with a peer that is about to go: what is pending for it is said, and the session of ours ends in order, once
// all that was asked on it is answered. What is asked meanwhile is asked on another one.
func (s *Service) Settle(ctx context.Context, p peer.ID) error {
	if err := s.Flush(ctx, p); err != nil {
		return err
	}
	s.mu.Lock()
	sl := s.slots[p]
	s.mu.Unlock()
	if sl == nil {
		return nil
	}
	x := sl.current.Load()
	if x == nil {
		return nil
	}
	s.retire(x)
	select {
	case <-x.ctx.Done():
		return nil
	case <-ctx.Done():
		x.mu.Lock()
		defer x.mu.Unlock()
		return fmt.Errorf("%w: %d requests to %s are not answered", context.Cause(ctx), len(x.calls), p)
	}
}

// Pending is how many messages wait for a peer.
func (s *Service) Pending(p peer.ID) int { return s.ledger.count(p) }

// History is the last messages to and from a peer, the oldest first.
func (s *Service) History(p peer.ID, limit int) ([]Message, error) {
	return s.ledger.peerHistory(p, limit)
}

// Load is what this service bears: requests and durable messages of peers that are being worked on or written to disk, on average over the last
// minute or since it began, and the median of how many seconds one takes. Both are 0 where none came.
func (s *Service) Load() (inFlight, latency float64) { return s.load.at(s.o.Now()) }

// Healthy is why the last write to disk failed, nil where it did not.
func (s *Service) Healthy() error {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return s.ledger.fault
}

// Ready says that a peer may be reached now, as when a guarded session with it has begun: what waits for it is sent at once.
func (s *Service) Ready(p peer.ID) {
	s.tryNow(p)
	s.hand(p)
}

// Lost says that a peer's rights have changed or ended: its sessions end. New ones are made as far as it has rights.
func (s *Service) Lost(p peer.ID) {
	s.mu.Lock()
	var gone []*session
	if sl := s.slots[p]; sl != nil {
		if x := sl.current.Load(); x != nil {
			gone = append(gone, x)
		}
	}
	for x := range s.inbound {
		if x.peer == p {
			gone = append(gone, x)
		}
	}
	s.mu.Unlock()
	for _, x := range gone {
		x.fail(fmt.Errorf("%w: the rights of %s have changed", ErrDenied, p))
	}
	s.files.end(p)
}

// deliver gives messages to Deliver.
func (s *Service) deliver() {
	var given uint64
	wait := s.o.RetryMin
	for {
		m, ok, changed := s.ledger.after(given)
		if !ok {
			select {
			case <-changed:
				continue
			case <-s.ctx.Done():
				return
			}
		}
		if s.ctx.Err() != nil {
			return
		}
		if err := s.deliverOne(m); err != nil {
			if s.ctx.Err() != nil {
				return
			}
			s.o.Log.Warn("a message was not delivered and will be again", "from", m.From, "id", m.ID, "error", err)
			if !s.pause(wait, nil) {
				return
			}
			wait = min(2*wait, s.o.RetryMax)
			continue
		}
		given, wait = m.Index, s.o.RetryMin
		s.m.delivered.Inc()
		s.ledger.show(given)
	}
}

// deliverOne gives one message; a Deliver that panics has returned an error.
func (s *Service) deliverOne(m Message) (err error) {
	if s.o.Deliver == nil {
		return nil
	}
	defer recovered(&err)
	return s.o.Deliver(s.ctx, m)
}

// recovered turns a panic of a function that was given into an error.
func recovered(err *error) {
	if r := recover(); r != nil {
		stack := make([]byte, 4<<10)
		*err = fmt.Errorf("panic: %v\n%s", r, stack[:runtime.Stack(stack, false)])
	}
}

// pause waits; it is false when the service ends.
func (s *Service) pause(d time.Duration, sooner <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-sooner:
	case <-s.ctx.Done():
		return false
	}
	return true
}

// maintain does what is due by time.
func (s *Service) maintain() {
	for s.pause(maintainEvery, nil) {
		if err := s.keys.turn(s.o.Now()); err != nil {
			s.o.Log.Error("keys could not be turned", "error", err)
		}
		if n := s.ledger.expire(s.o.Now().Add(-s.o.Expire)); n > 0 {
			s.m.expired.Add(float64(n))
			s.o.Log.Warn("messages were given up: their recipients have not been there", "messages", n, "after", s.o.Expire)
		}
		if err := s.ledger.prune(s.ctx); err != nil && s.ctx.Err() == nil {
			s.o.Log.Error("history could not be shortened", "error", err)
		}
		if err := s.keeper.expire(); err != nil {
			s.o.Log.Error("what was kept for others could not be removed", "error", err)
		}
		s.retireIdle()
		for _, p := range s.keeper.recipients() {
			if s.host.Network().Connectedness(p) == network.Connected {
				s.hand(p)
			}
		}
	}
}
