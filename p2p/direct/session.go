package direct

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	dialTime      = 15 * time.Second // to find and reach a peer
	requestTime   = 30 * time.Second // an answer is waited for, where the context does not say
	maxRequest    = 5 * time.Minute  // an answer is worked on
	maxRunning    = 64               // requests of a session that are worked on at once; the next waits, and with it all behind it
	maxSessions   = 4                // that a peer has opened to us
	idleAfter     = 5 * time.Minute  // who opened a session closes it when nothing was said for so long
	idleLimit     = 15 * time.Minute // who accepted it waits longer
	maxHandshakes = 32               // that are made with peers that open sessions, at once
)

// Methods of requests.
const (
	methodApp     = 0 // what was given to Request
	methodWhere   = 1 // asked: an epoch of the asker's; answer: the highest sequence of it that was received
	methodKeys    = 2 // asked: a key; answer: that peer's bundle
	methodDeposit = 3 // asked: sealed bytes, to be kept for their recipient
	methodHand    = 4 // asked: sealed bytes that were kept for who is asked; answered when they are on its disk
)

// methodName is what spans of requests by a method are called.
func methodName(method byte) string {
	switch method {
	case methodApp:
		return "direct.request"
	case methodWhere:
		return "direct.where"
	case methodKeys:
		return "direct.keys"
	case methodDeposit:
		return "direct.deposit"
	case methodHand:
		return "direct.hand"
	}
	return "direct.unknown"
}

// records are buffers of records; an idle session has none.
var records = sync.Pool{New: func() any { return new(record) }}

// slot is where the session that we have opened to a peer is, or is being made.
type slot struct {
	current atomic.Pointer[session]
	making  chan struct{} // holds one: who makes it
}

// session is an encrypted stream. Who opened it says messages and requests, the other side acknowledges and answers.
type session struct {
	s    *Service
	peer peer.ID
	c    *secured
	out  *queue
	said *counted // with this peer
	ours bool     // we opened it

	ctx  context.Context
	end  context.CancelCauseFunc
	used atomic.Int64 // Unix seconds of the last write

	nextID atomic.Uint64
	mu     sync.Mutex
	calls  map[uint64]chan reply              // of ours: answers that are waited for
	cancel map[uint64]context.CancelCauseFunc // of theirs: requests that are worked on

	running chan struct{} // of theirs: holds one for each request that is worked on
	written chan struct{} // closed when nothing will be written any more
	orderly atomic.Bool   // the other side has closed it: there is nothing to break off
}

type reply struct {
	body []byte
	err  error
}

// session is the one to a peer, made if there is none.
func (s *Service) session(ctx context.Context, p peer.ID) (*session, error) {
	s.mu.Lock()
	sl := s.slots[p]
	if sl == nil {
		sl = &slot{making: make(chan struct{}, 1)}
		s.slots[p] = sl
	}
	s.mu.Unlock()
	if x := sl.current.Load(); x != nil {
		return x, nil
	}
	select {
	case sl.making <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.ctx.Done():
		return nil, errClosed
	}
	defer func() { <-sl.making }()
	if x := sl.current.Load(); x != nil {
		return x, nil
	}
	x, err := s.dial(ctx, p)
	if err != nil {
		return nil, err
	}
	sl.current.Store(x)
	if !s.run(x.write) {
		x.fail(errClosed)
		return nil, errClosed
	}
	s.run(func() {
		x.read()
		sl.current.CompareAndSwap(x, nil)
	})
	s.run(func() { // one session's keys are not used for longer than this
		t := time.NewTimer(s.o.SessionAge)
		defer t.Stop()
		select {
		case <-t.C:
			s.retire(x)
		case <-x.ctx.Done():
		}
	})
	return x, nil
}

func (s *Service) dial(ctx context.Context, p peer.ID) (*session, error) {
	if err := s.o.Allow(p, "connect", s.here); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDenied, err)
	}
	if _, err := keyOf(p); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(ctx, "private messages"), dialTime)
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel)
	defer stop()
	stream, err := s.host.NewStream(ctx, p, ProtocolMessages)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not reached: %w", ErrUnavailable, p, err)
	}
	unhook := context.AfterFunc(ctx, func() { stream.Reset() })
	c, err := secure(stream, s.keys, true, s.o.Now())
	if !unhook() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		stream.Reset()
		s.m.sessions.WithLabelValues("failed").Inc()
		if !errors.Is(err, ErrDenied) && !errors.Is(err, ErrCorrupt) {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return nil, err
	}
	s.m.sessions.WithLabelValues("opened").Inc()
	s.ledger.noteBundle(c.bundle)
	return s.newSession(c, p, true), nil
}

func (s *Service) newSession(c *secured, p peer.ID, ours bool) *session {
	x := &session{s: s, peer: p, c: c, out: newQueue(), ours: ours, calls: map[uint64]chan reply{}, cancel: map[uint64]context.CancelCauseFunc{},
		running: make(chan struct{}, maxRunning), written: make(chan struct{})}
	x.ctx, x.end = context.WithCancelCause(s.ctx)
	x.used.Store(time.Now().Unix())
	x.said = s.traffic.begin(p)
	// What ends the session also ends reads and writes that wait.
	context.AfterFunc(x.ctx, func() {
		x.said.end()
		if x.orderly.Load() {
			c.stream.Close()
		} else {
			c.stream.Reset()
		}
	})
	return x
}

// accept is the handler of the protocol of messages.
func (s *Service) accept(stream network.Stream) {
	p := stream.Conn().RemotePeer()
	if !s.enter() {
		stream.Reset()
		return
	}
	defer s.work.Done()
	x, err := s.admit(stream, p)
	if err != nil {
		stream.Reset()
		s.m.sessions.WithLabelValues("failed").Inc()
		s.o.Log.Debug("a session was refused", "peer", p, "error", err)
		return
	}
	s.m.sessions.WithLabelValues("accepted").Inc()
	s.ledger.noteBundle(x.c.bundle)
	s.run(x.write)
	x.read()
	s.mu.Lock()
	delete(s.inbound, x)
	s.mu.Unlock()
}

// admit makes the handshake with a peer that has opened a stream, unless it has opened too many.
func (s *Service) admit(stream network.Stream, p peer.ID) (*session, error) {
	if err := s.o.Allow(p, "connect", s.here); err != nil {
		return nil, err
	}
	x := &session{peer: p} // a place for it
	s.mu.Lock()
	n, making := 0, 0
	for other := range s.inbound {
		if other.peer == p {
			n++
		}
		if other.c == nil {
			making++
		}
	}
	full := n >= maxSessions || making >= maxHandshakes
	if !full {
		s.inbound[x] = true
	}
	s.mu.Unlock()
	if full {
		return nil, fmt.Errorf("%w: it has %d sessions, and %d are being made", ErrUnavailable, n, making)
	}
	stop := context.AfterFunc(s.ctx, func() { stream.Reset() })
	c, err := secure(stream, s.keys, false, s.o.Now())
	stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.inbound, x)
	if err != nil {
		return nil, err
	}
	x = s.newSession(c, p, false)
	s.inbound[x] = true
	return x, nil
}

// fail ends a session at once.
func (x *session) fail(why error) {
	if x.end == nil {
		return // its handshake is not over; what it may is decided then
	}
	x.out.close(why)
	x.end(why)
}

// retire lets a session of ours end in order: what is queued is written, then our side is closed, and the other side closes when it has
// answered all. The next message opens another.
func (s *Service) retire(x *session) {
	s.forget(x)
	x.out.close(errRetired)
}

// forget lets the next message open another session.
func (s *Service) forget(x *session) {
	s.mu.Lock()
	sl := s.slots[x.peer]
	s.mu.Unlock()
	if sl != nil {
		sl.current.CompareAndSwap(x, nil)
	}
}

// errRetired says that a session has ended in order.
var errRetired = fmt.Errorf("%w: the session has ended", ErrUnavailable)

// with does something with the session to a peer. What was not said, as the session ended before, is said on another.
func (s *Service) with(ctx context.Context, p peer.ID, do func(*session) error) error {
	for attempt := 0; ; attempt++ {
		x, err := s.session(ctx, p)
		if err != nil {
			return err
		}
		err = do(x)
		if err == nil || !errors.Is(err, errUnsaid) || attempt == 2 {
			return err
		}
		s.forget(x)
	}
}

// retireIdle ends sessions that nothing was said on.
func (s *Service) retireIdle() {
	before := time.Now().Add(-idleAfter).Unix()
	var idle []*session
	s.mu.Lock()
	for p, sl := range s.slots {
		x := sl.current.Load()
		if x != nil && x.used.Load() < before {
			idle = append(idle, x)
		}
		if x == nil && len(sl.making) == 0 && len(s.slots) > 1<<10 {
			delete(s.slots, p)
		}
	}
	s.mu.Unlock()
	for _, x := range idle {
		s.retire(x)
	}
}

// write encrypts and writes what is queued, until that has ended.
func (x *session) write() {
	defer close(x.written)
	var spare []byte
	for {
		select {
		case <-x.out.wake:
		case <-x.ctx.Done():
			return
		}
		b, ended := x.out.take(spare)
		if err := x.flush(b); err != nil {
			x.fail(fmt.Errorf("%w: %s: %w", ErrUnavailable, x.peer, err))
			return
		}
		if spare = b; cap(spare) > 2*queueBytes {
			spare = nil
		}
		if ended {
			if b, _ = x.out.take(nil); x.flush(b) == nil {
				x.closeWrite()
			}
			return
		}
		if len(x.out.wake) == 0 && len(b) < queueBytes/16 {
			spare = nil // it is quiet: an idle session holds nothing
		}
	}
}

// flush writes frames in as few records as they fit in.
func (x *session) flush(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	x.used.Store(time.Now().Unix())
	buf := records.Get().(*record)
	defer records.Put(buf)
	for len(b) > 0 {
		n := min(len(b), maxPlain)
		if err := x.c.write(buf, b[:n], x.s.o.Stall); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// closeWrite ends our side of the stream. Of a session of ours the rest of the answers is then waited for, but not for ever.
func (x *session) closeWrite() {
	x.c.stream.CloseWrite()
	if x.ours {
		t := time.AfterFunc(x.s.o.Stall, func() { x.fail(errRetired) })
		context.AfterFunc(x.ctx, func() { t.Stop() })
	}
}

// read takes what comes until the stream ends, and then ends the session.
func (x *session) read() {
	err := x.readAll()
	if err == io.EOF {
		if !x.ours {
			x.finish()
		}
		x.orderly.Store(true)
	}
	if err != io.EOF && x.ctx.Err() == nil {
		x.s.m.sessions.WithLabelValues("broken").Inc()
		x.s.o.Log.Debug("a session broke", "peer", x.peer, "error", err)
	}
	if err == io.EOF {
		err = errRetired
	}
	x.fail(fmt.Errorf("%w: the session with %s: %w", ErrUnavailable, x.peer, err))
}

// finish waits until what the other side has asked is answered, writes that, and ends our side.
func (x *session) finish() {
	for range maxRunning { // all places free is that nothing is worked on
		select {
		case x.running <- struct{}{}:
		case <-x.ctx.Done():
			return
		}
	}
	// What came before is on disk when this is, and acknowledged.
	_ = x.s.ledger.commit(x.ctx, &op{prepare: func(*commitBatch) error { return nil }})
	x.out.close(errRetired)
	<-x.written
}

// readAll returns why nothing more is read: io.EOF where the other side has closed its own.
func (x *session) readAll() error {
	idle := time.Duration(0)
	if !x.ours {
		idle = idleLimit
	}
	var f frames
	each := x.theirs
	if x.ours {
		each = x.answered
	}
	for {
		n, err := x.c.next(idle)
		if err != nil {
			return err
		}
		buf := records.Get().(*record)
		plain, err := x.c.read(buf, n, x.s.o.Stall)
		if err == nil {
			err = f.feed(plain, each)
		}
		records.Put(buf)
		if err != nil {
			return err
		}
	}
}

// answered takes a frame on a session of ours. It never waits, as what it would wait for may be behind it.
func (x *session) answered(kind byte, id uint64, payload []byte) error {
	switch kind {
	case frameAnswer, frameRefusal:
		x.mu.Lock()
		ch := x.calls[id]
		delete(x.calls, id)
		x.mu.Unlock()
		if ch == nil {
			return nil // it is not waited for any more
		}
		if kind == frameAnswer {
			ch <- reply{body: append([]byte(nil), payload...)}
			return nil
		}
		s := scan{b: payload}
		ch <- reply{err: refusal(x.peer, s.u8(), string(s.rest()))}
	case frameAck, frameNack:
		s := scan{b: payload}
		epoch, seq, code := s.u64(), s.u64(), byte(0)
		if kind == frameNack {
			code = s.u8()
		}
		if err := s.done("an acknowledgement"); err != nil {
			return err
		}
		x.s.settled(x.peer, epoch, seq, code)
	default:
		return fmt.Errorf("%w: a frame of kind %d from who accepted the session", ErrCorrupt, kind)
	}
	return nil
}

// refusal is the error that a code stands for.
func refusal(p peer.ID, code byte, why string) error {
	of := map[byte]error{codeDenied: ErrDenied, codeBusy: ErrUnavailable, codeNever: ErrCorrupt, codeFailed: errAnswer}[code]
	if of == nil {
		of = ErrUnavailable
	}
	return fmt.Errorf("%w: %s says: %q", of, p, why)
}

// errAnswer says that the other side's Answer returned an error.
var errAnswer = errors.New("the request failed")

// codeOf is the code of an error of ours.
func codeOf(err error) byte {
	switch {
	case errors.Is(err, ErrDenied):
		return codeDenied
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrNotMember):
		return codeNever
	}
	return codeBusy
}

func (s *Service) refuse(code byte) {
	why := "busy"
	switch code {
	case codeDenied:
		why = "denied"
	case codeNever:
		why = "never"
	}
	s.m.refused.WithLabelValues(why).Inc()
}

// mayWrite says whether a peer may send to us now.
func (s *Service) mayWrite(p peer.ID) error {
	if err := s.o.Allow(p, "send", s.here); err != nil {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	return nil
}

// theirs takes a frame on a session that the other side has opened.
func (x *session) theirs(kind byte, id uint64, payload []byte) error {
	if err := x.out.ready(x.ctx); err != nil { // who does not take our answers is not listened to
		return err
	}
	switch kind {
	case frameOneWay:
		return x.post(payload)
	case frameRequest:
		x.said.in.Add(1)
		return x.request(id, payload)
	case frameCancel:
		x.mu.Lock()
		cancel := x.cancel[id]
		x.mu.Unlock()
		if cancel != nil {
			cancel(context.Canceled)
		}
		return nil
	case frameEnvelope:
		f := x.s.follow(x.peer, SpanMessage, len(payload))
		e, err := decodeEnvelope(payload)
		if err != nil {
			x.s.refuse(codeNever)
			f.end(err)
			return err // whose envelope it would be cannot be said
		}
		return x.envelope(&e, f)
	}
	return fmt.Errorf("%w: a frame of kind %d from who opened the session", ErrCorrupt, kind)
}

// post takes what is kept nowhere.
func (x *session) post(body []byte) (err error) {
	f := x.s.followPost(x.peer, len(body))
	f.step("verify")
	if err := x.s.mayWrite(x.peer); err != nil {
		x.s.refuse(codeDenied)
		f.end(err)
		return nil
	}
	defer func() { f.end(err) }()
	if len(body) > MaxMessage {
		return fmt.Errorf("%w: a message of %d bytes, of at most %d", ErrCorrupt, len(body), MaxMessage)
	}
	f.step("route")
	x.s.m.posts.Inc()
	x.said.in.Add(1)
	return x.s.receivePost(x.peer, body)
}

func (s *Service) receivePost(p peer.ID, body []byte) (err error) {
	if s.o.Receive == nil {
		return nil
	}
	defer recovered(&err)
	return s.o.Receive(p, body)
}

// envelope takes a durable message and acknowledges it when it is on disk.
func (x *session) envelope(e *envelope, f *followed) error {
	epoch, seq := e.epoch, e.seq
	answer := func(err error) {
		f.step("send")
		defer f.end(err)
		var b [17]byte
		binary.BigEndian.PutUint64(b[:], epoch)
		binary.BigEndian.PutUint64(b[8:], seq)
		if err == nil {
			x.out.force(frameAck, 0, b[:16])
			return
		}
		b[16] = codeOf(err)
		x.s.refuse(b[16])
		x.s.o.Log.Debug("a message was refused", "from", x.peer, "error", err)
		x.out.force(frameNack, 0, b[:])
	}
	f.step("verify")
	if e.kind == kindReceipt {
		err := fmt.Errorf("%w: a receipt on a session", ErrCorrupt)
		f.end(err)
		return err
	}
	err := x.s.mayWrite(x.peer)
	if err == nil {
		x.said.in.Add(1)
		came := x.s.o.Now()
		err = x.s.receive(x.ctx, x.peer, e, f, func(err error) {
			x.s.load.add(came, x.s.o.Now())
			answer(err)
		})
	}
	if err != nil {
		answer(err)
	}
	return x.ctx.Err()
}

// receive makes a message durable and calls done when it is, from another goroutine. With an error done is not called.
func (s *Service) receive(ctx context.Context, from peer.ID, e *envelope, f *followed, done func(error)) error {
	s.m.received.Inc()
	var raw []byte
	if e.kind != kindMessage {
		body, newer, err := s.ledger.kept(from, e)
		if err != nil {
			return err
		}
		e.body, raw = body, newer
	}
	f.step("route")
	return s.ledger.receive(ctx, from, e, raw, done)
}

// request answers a request in a goroutine of its own.
func (x *session) request(id uint64, payload []byte) error {
	f := scan{b: payload}
	method, millis := f.u8(), f.u32()
	body := append([]byte(nil), f.rest()...)
	if f.bad {
		return fmt.Errorf("%w: a request of %d bytes", ErrCorrupt, len(payload))
	}
	way := x.s.follow(x.peer, methodName(method), len(body))
	select {
	case x.running <- struct{}{}:
	case <-x.ctx.Done():
		way.end(x.ctx.Err())
		return x.ctx.Err()
	}
	ctx, cancel := context.WithTimeout(x.ctx, min(time.Duration(millis)*time.Millisecond, maxRequest))
	ctx, stop := context.WithCancelCause(ctx)
	x.mu.Lock()
	x.cancel[id] = stop
	x.mu.Unlock()
	if !x.s.run(func() {
		came := x.s.o.Now()
		way.live(ctx)
		way.step("verify")
		answer, err := x.s.answer(ctx, x.peer, method, body, way)
		x.s.load.add(came, x.s.o.Now())
		way.step("send")
		if err == nil && len(answer) > maxFrame-frameHead {
			err = fmt.Errorf("%w: an answer of %d bytes, of at most %d", errAnswer, len(answer), maxFrame-frameHead)
		}
		x.mu.Lock()
		delete(x.cancel, id)
		x.mu.Unlock()
		if err != nil {
			x.refuse(id, err)
		} else {
			_ = x.out.put(x.ctx, frameAnswer, id, answer, nil) // it fails when the session has ended: nobody waits
		}
		way.end(err)
		stop(nil)
		cancel()
		<-x.running
	}) {
		cancel()
		way.end(errClosed)
		return errClosed
	}
	return nil
}

func (x *session) refuse(id uint64, err error) {
	code := codeOf(err)
	if errors.Is(err, errAnswer) {
		code = codeFailed
	}
	why := err.Error()
	_ = x.out.put(x.ctx, frameRefusal, id, []byte{code}, []byte(why[:min(len(why), maxReason)]))
}

// answer is what a request is answered by.
func (s *Service) answer(ctx context.Context, p peer.ID, method byte, body []byte, way *followed) ([]byte, error) {
	if method == methodApp {
		if err := s.mayWrite(p); err != nil {
			return nil, err
		}
	}
	way.step("route")
	switch method {
	case methodApp:
		return s.answerApp(way.within(ctx), p, body)
	case methodWhere:
		f := scan{b: body}
		epoch := f.u64()
		if err := f.done("a question for a sequence"); err != nil {
			return nil, err
		}
		return binary.BigEndian.AppendUint64(nil, s.ledger.top(p, epoch)), nil
	case methodKeys:
		f := scan{b: body}
		key := f.key()
		if err := f.done("a question for keys"); err != nil {
			return nil, err
		}
		// Only keepers say whom they know.
		if b := s.ledger.bundle(idOf(key)); b != nil && s.o.Keep > 0 {
			return b.raw, nil
		}
		return nil, fmt.Errorf("%w: the keys of %s are not known here", ErrUnavailable, idOf(key))
	case methodDeposit:
		return nil, s.takeDeposit(p, body)
	case methodHand:
		return nil, s.takeHanded(ctx, p, body)
	}
	return nil, fmt.Errorf("%w: a request by method %d, which is none", ErrCorrupt, method)
}

func (s *Service) answerApp(ctx context.Context, p peer.ID, body []byte) (answer []byte, err error) {
	if s.o.Answer == nil {
		return nil, fmt.Errorf("%w: no requests are answered here", ErrUnavailable)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", errAnswer, err)
		}
	}()
	defer recovered(&err)
	return s.o.Answer(ctx, p, body)
}

// ask asks a peer; what is asked is two parts, one after the other.
func (s *Service) ask(ctx context.Context, p peer.ID, method byte, a, b []byte) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTime)
		defer cancel()
	}
	var answer []byte
	err := s.with(ctx, p, func(x *session) (err error) {
		answer, err = x.ask(ctx, method, a, b)
		return err
	})
	return answer, err
}

func (x *session) ask(ctx context.Context, method byte, a, b []byte) ([]byte, error) {
	deadline, _ := ctx.Deadline()
	head := make([]byte, 0, 5+len(a))
	head = append(head, method)
	head = binary.BigEndian.AppendUint32(head, uint32(min(max(time.Until(deadline), 0)/time.Millisecond, 1<<31)))
	id, ch := x.nextID.Add(1), make(chan reply, 1)
	x.mu.Lock()
	x.calls[id] = ch
	x.mu.Unlock()
	if err := x.out.put(ctx, frameRequest, id, append(head, a...), b); err != nil {
		x.forget(id)
		return nil, err
	}
	x.said.out.Add(1)
	select {
	case r := <-ch:
		return r.body, r.err
	case <-ctx.Done():
		x.forget(id)
		_ = x.out.force(frameCancel, id, nil)
		return nil, context.Cause(ctx)
	case <-x.ctx.Done():
		x.forget(id)
		select {
		case r := <-ch: // it came before the end
			return r.body, r.err
		default:
			return nil, context.Cause(x.ctx)
		}
	}
}

func (x *session) forget(id uint64) {
	x.mu.Lock()
	delete(x.calls, id)
	x.mu.Unlock()
}
