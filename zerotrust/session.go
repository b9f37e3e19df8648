package zerotrust

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// The times of continuous verification: issue 7, item 5.
const (
	verifyEvery    = 5 * time.Minute
	challengeValid = 30 * time.Second
	// recordTime bounds how long the end of a session waits for its record.
	recordTime = 5 * time.Second
)

// The bytes of a challenge and of its answer, drawn in docs/format/identity.md.
const (
	challengeHead = "QLCH\x01" // with the version
	answerHead    = "QLCR\x01"
	nonceSize     = 32
	ChallengeSize = len(challengeHead) + nonceSize
	AnswerSize    = len(answerHead) + nonceSize + seal.SignatureSize
	minBinding    = 16 // bytes of a channel's binding: less could be guessed, or be nothing
)

// Session is somebody who was let in, and is watched. Its rights are what trust and behaviour are worth at each moment.
type Session struct {
	g       *Guard
	id      string
	w       who
	binding [sha256.Size]byte
	remote  netip.Addr
	from    time.Time
	basis   Request // what was let in: who, isolation, second factor
	release func()

	changed chan struct{} // its level may be another
	verify  chan struct{} // it is to be challenged now

	mu      sync.Mutex
	nonce   [nonceSize]byte
	issued  time.Time // of the nonce; zero: none is out
	faulted bool
	ended   atomic.Bool
	done    chan struct{}
	err     error // why, once done is closed
}

type sessionShard struct {
	mu   sync.Mutex
	open map[*Session]struct{}
	_    [40]byte
}

// Ended says why a session has ended other than by [Session.Close]. It is [ErrDenied].
type Ended struct{ Reason string }

func (e *Ended) Error() string { return "the session has ended: " + e.Reason }

// Unwrap is [ErrDenied].
func (e *Ended) Unwrap() error { return ErrDenied }

// ErrClosed is what a session has ended with that was closed in order.
var ErrClosed = errors.New("the session was closed")

// Begin evaluates a request, and lets it in as a session. binding is what only the two ends of this channel know or what names it (an
// exported key of TLS, the hash of a Noise handshake), 16 bytes or more: an answer on another channel is none. The session is nil where
// the decision is a denial.
func (g *Guard) Begin(ctx context.Context, req Request, binding []byte) (*Session, Decision, error) {
	if len(binding) < minBinding {
		return nil, Decision{Reason: reasonRequest}, fmt.Errorf("%w: a channel's binding has %d bytes or more, this one %d", ErrDenied, minBinding, len(binding))
	}
	d, w, err := g.evaluate(ctx, &req, nil)
	if err != nil || !d.Allow {
		return nil, d, err
	}
	s := &Session{
		g: g, id: hex.EncodeToString(d.ID[:]), w: w, binding: sha256.Sum256(binding), remote: req.Remote, from: g.opt.Now(), basis: req, release: d.release,
		changed: make(chan struct{}, 1), verify: make(chan struct{}, 1), done: make(chan struct{}),
	}
	d.release = nil // the session's now
	if s.w.r, err = g.records.need(w.principal, w.vouched, true, s.from); err != nil {
		s.free()
		d.Allow, d.Reason = false, reasonRoom
		return nil, d, err
	}
	s.w.r.attach(s)
	shard := s.shard()
	shard.mu.Lock()
	shard.open[s] = struct{}{}
	shard.mu.Unlock()
	// What was revoked since it was judged finds it from here on; what was before is found now.
	if reason := s.refused(g.authority.Load()); reason != "" {
		s.Terminate(reason)
	} else if g.closed.Load() {
		s.Terminate("the guard is closed")
	}
	if err := s.Err(); err != nil {
		d.Allow, d.Reason = false, err.Error()
		return nil, d, nil
	}
	return s, d, nil
}

// attach adds a session to those of its principal.
func (r *record) attach(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.open) == 0 {
		r.meter.reset(s.from)
	}
	r.open = append(r.open, s)
}

func (s *Session) shard() *sessionShard { return &s.g.sessions[s.id[0]&15] }

// openSessions are all that are open.
func (g *Guard) openSessions() (out []*Session) {
	for i := range g.sessions {
		shard := &g.sessions[i]
		shard.mu.Lock()
		for s := range shard.open {
			out = append(out, s)
		}
		shard.mu.Unlock()
	}
	return out
}

// ID names the session: the id of the decision that let it in.
func (s *Session) ID() string { return s.id }

// Principal is who it is.
func (s *Session) Principal() string { return s.w.principal }

// Level is what it may now: never more than trust and behaviour are worth at this moment, and nothing once it has ended.
func (s *Session) Level() policy.Level {
	if s.ended.Load() {
		return policy.Untrusted
	}
	return s.g.records.level(s.w.r, s.g.opt.Now())
}

// Changed receives when the level may have changed. One reader.
func (s *Session) Changed() <-chan struct{} { return s.changed }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is why it has ended: [ErrClosed], or an [Ended]; nil while it is open.
func (s *Session) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Evaluate decides what the session wants to do, by the rights that it has now.
func (s *Session) Evaluate(ctx context.Context, action, resource string) (Decision, error) {
	if s.ended.Load() {
		return Decision{Reason: reasonEnded}, s.Err()
	}
	req := s.basis
	req.Action, req.Resource = action, resource
	d, _, err := s.g.evaluate(ctx, &req, s)
	if s.ended.Load() { // meanwhile
		d.Allow, d.Reason = false, reasonEnded
	}
	return d, err
}

// Observe tells what was done in the session since it was last told.
func (s *Session) Observe(a Activity) { s.w.r.meter.add(a) }

// Challenge is a challenge to be answered on this session's channel: 32 bytes of chance, good for 30 s and once. It takes the place of
// one that is out.
func (s *Session) Challenge() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	rand.Read(s.nonce[:]) // never fails: crypto/rand ends the program first
	s.issued = s.g.opt.Now()
	return append([]byte(challengeHead), s.nonce[:]...)
}

// Answer is what the holder of an identity's key answers to a challenge that came by the channel with this binding.
func Answer(key seal.Key, binding, challenge []byte) ([]byte, error) {
	if len(challenge) != ChallengeSize || string(challenge[:len(challengeHead)]) != challengeHead {
		return nil, fmt.Errorf("%w: this is no challenge of version 1", ErrCorrupt)
	}
	if len(binding) < minBinding {
		return nil, fmt.Errorf("%w: a channel's binding has %d bytes or more, this one %d", ErrDenied, minBinding, len(binding))
	}
	sum := sha256.Sum256(binding)
	sig, err := key.Sign(domainChallenge, append(slices.Clone(challenge), sum[:]...))
	if err != nil {
		return nil, err
	}
	out := append([]byte(answerHead), challenge[len(challengeHead):]...)
	return append(out, sig[:]...), nil
}

// check is why an answer is not one to the challenge that is out, which is used up by it.
func (s *Session) check(answer []byte) error {
	s.mu.Lock()
	nonce, issued := s.nonce, s.issued
	s.issued = time.Time{}
	s.mu.Unlock()
	if issued.IsZero() {
		return fmt.Errorf("%w: no challenge is out", ErrDenied)
	}
	if age := s.g.opt.Now().Sub(issued); age < 0 || age > challengeValid {
		return fmt.Errorf("%w: the answer came after %s", ErrDenied, challengeValid)
	}
	if len(answer) != AnswerSize || string(answer[:len(answerHead)]) != answerHead {
		return fmt.Errorf("%w: this is no answer of version 1", ErrCorrupt)
	}
	if [nonceSize]byte(answer[len(answerHead):]) != nonce {
		return fmt.Errorf("%w: it answers another challenge", ErrDenied)
	}
	if s.w.c == nil {
		return fmt.Errorf("%w: who has no document has no key to be challenged by", ErrDenied)
	}
	message := append([]byte(challengeHead), nonce[:]...)
	message = append(message, s.binding[:]...)
	if err := s.w.c.Key.Verify(domainChallenge, message, seal.Signature(answer[len(answerHead)+nonceSize:])); err != nil {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	return nil
}

// Verify takes the answer to the challenge that is out. A good one is worth trust, once in five minutes however many sessions there are;
// anything else costs trust and ends the session. It returns when a failure is on disk.
func (s *Session) Verify(ctx context.Context, answer []byte) error {
	if s.ended.Load() {
		return s.Err()
	}
	if err := s.check(answer); err != nil {
		return errors.Join(err, s.fail(ctx, "a challenge failed: "+err.Error()))
	}
	s.passed(ctx)
	return nil
}

// Reauthenticated says that the caller has authenticated a principal anew who has no key to be challenged by: as good as an answer.
func (s *Session) Reauthenticated(ctx context.Context) error {
	switch {
	case s.ended.Load():
		return s.Err()
	case s.w.c != nil:
		return fmt.Errorf("%w: who has a key is challenged", ErrDenied)
	}
	s.passed(ctx)
	return nil
}

// passed is what a verification brings.
func (s *Session) passed(ctx context.Context) {
	g, r := s.g, s.w.r
	now := g.opt.Now()
	drifted := r.meter.drift.Swap(false)
	g.records.update(r, func(rec *Record) {
		rec.Passed++
		if r.rewarded.IsZero() || now.Sub(r.rewarded) >= verifyEvery {
			r.rewarded = now
			rec.earn(passedReward)
		}
		if drifted {
			rec.Baseline.reanchor()
		}
	})
	if drifted {
		g.tell(ctx, s, "drift", "its behaviour has moved, slowly: it was verified, and what it does now is taken for ordinary")
	}
	if r.meter.lastScore() <= scoreBasic && r.ceiling.Swap(uint32(policy.Critical)) != uint32(policy.Critical) {
		g.tell(ctx, s, "behaviour", "it is ordinary again, and was verified: its level is that of its trust")
		r.tell()
	}
}

// fail ends the session and counts it.
func (s *Session) fail(ctx context.Context, why string) error {
	s.g.records.update(s.w.r, func(r *Record) { r.challenged(false) })
	s.mu.Lock()
	s.faulted = true
	s.mu.Unlock()
	s.end(&Ended{why})
	s.g.tell(ctx, s, "challenge", why)
	return s.g.records.commit(ctx)
}

// tell records what was not decided on request. That it cannot be recorded changes nothing: what it tells of has taken rights away,
// or is only more of what a decision has allowed.
func (g *Guard) tell(ctx context.Context, s *Session, what, reason string) {
	now := g.opt.Now()
	_ = g.opt.Record(context.WithoutCancel(ctx), Event{
		Time: now, What: what, Principal: s.w.principal, Kind: s.w.kind, Action: s.basis.Action, Resource: s.basis.Resource,
		Allowed: !s.ended.Load(), Trust: int(s.w.r.trust.Load()), Level: s.Level(), Reason: reason,
	})
}

// Terminate ends the session, now, for a reason that its record shows.
func (s *Session) Terminate(reason string) {
	if s.end(&Ended{reason}) {
		s.g.tell(context.Background(), s, "session", "terminated: "+reason)
	}
}

// Close ends the session in order: a good connection, if it stood long enough.
func (s *Session) Close() { s.end(ErrClosed) }

// end ends it once, and says whether it was this call that did.
func (s *Session) end(why error) bool {
	s.mu.Lock()
	if s.ended.Swap(true) {
		s.mu.Unlock()
		return false
	}
	s.err = why
	good := errors.Is(why, ErrClosed) && !s.faulted
	s.mu.Unlock()
	close(s.done)
	shard := s.shard()
	shard.mu.Lock()
	delete(shard.open, s)
	shard.mu.Unlock()
	r := s.w.r
	r.mu.Lock()
	r.open = slices.DeleteFunc(r.open, func(o *Session) bool { return o == s })
	r.mu.Unlock()
	now := s.g.opt.Now()
	s.g.records.update(r, func(rec *Record) {
		if good {
			rec.connected(s.from, now)
		}
	})
	r.sessions.Add(-1)
	s.free()
	return true
}

func (s *Session) free() {
	if s.release != nil {
		s.release()
		s.release = nil
	}
}

// refused is why an authority does not bear the session.
func (s *Session) refused(a *authority) string {
	if s.w.c != nil {
		return a.refuses(&s.w.c.passport)
	}
	if _, ok := a.principals[s.w.principal]; ok {
		return reasonRevoked
	}
	return ""
}

// holds is why a session's principal is not to be believed now.
func (s *Session) holds(m moment) string {
	if s.w.c != nil {
		return s.g.holds(s.w.c, m)
	}
	return s.refused(s.g.authority.Load())
}

func (s *Session) notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run watches the session until it or ctx ends: it measures behaviour every ten seconds, ends with the document, and every five minutes,
// or when behaviour asks for it, has a challenge carried over the channel by exchange, which sends it and returns the answer. An error of
// exchange other than that the time was up means that the channel is gone. Run ends the session, and returns why; nil where ctx has
// ended.
//
// Who has no document is not challenged: exchange may be nil then.
func (s *Session) Run(ctx context.Context, exchange func(ctx context.Context, challenge []byte) ([]byte, error)) error {
	if s.w.c != nil && exchange == nil {
		s.Terminate("nobody carries its challenges")
		return s.Err()
	}
	measure := time.NewTicker(interval)
	defer measure.Stop()
	due := time.NewTimer(verifyEvery)
	defer due.Stop()
	for {
		scheduled := false
		select {
		case <-ctx.Done():
			s.Close()
			return nil
		case <-s.done:
			return s.err
		case <-measure.C:
			s.measure(ctx)
			continue
		case <-s.verify:
		case <-due.C:
			scheduled = true
		}
		if scheduled {
			due.Reset(verifyEvery)
		}
		if s.w.c == nil {
			continue
		}
		if err := s.exchange(ctx, exchange); err != nil {
			return err
		}
	}
}

// exchange has one challenge answered.
func (s *Session) exchange(ctx context.Context, exchange func(context.Context, []byte) ([]byte, error)) error {
	in, cancel := context.WithTimeout(ctx, challengeValid)
	answer, err := exchange(in, s.Challenge())
	late := in.Err() != nil && ctx.Err() == nil
	cancel()
	keep, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	switch {
	case ctx.Err() != nil:
		s.Close()
		return nil
	case late:
		return errors.Join(&Ended{"a challenge was not answered in time"}, s.fail(keep, "a challenge was not answered in time"))
	case err != nil:
		s.end(&Ended{"the channel is gone: " + err.Error()})
		return s.Err()
	}
	return s.Verify(keep, answer)
}

// measure looks at the behaviour of the principal, once for all its sessions, and does what follows.
func (s *Session) measure(ctx context.Context) {
	g, r := s.g, s.w.r
	m := g.moment()
	if reason := s.holds(m); reason != "" {
		s.Terminate(reason)
		return
	}
	a, d, ok := r.meter.take(m.now)
	if !ok {
		return
	}
	var score float64
	var drift bool
	g.records.update(r, func(rec *Record) { score, drift = rec.Baseline.look(a, d) })
	r.meter.note(score)
	ceiling, why := policy.Critical, ""
	switch {
	case score > scoreUntrusted:
		ceiling, why = policy.Untrusted, "it behaves far out of the ordinary: down to untrusted"
	case score > scoreBasic:
		ceiling, why = policy.Basic, "it behaves out of the ordinary: down to basic"
	}
	before := policy.Level(r.ceiling.Load())
	if ceiling < before {
		r.ceiling.Store(uint32(ceiling))
		g.tell(ctx, s, "behaviour", why)
		r.tell()
	}
	if drift && !r.meter.drift.Swap(true) {
		g.tell(ctx, s, "drift", "its behaviour has moved away, slowly, from what it was")
	}
	// Verified again where it is odd, and where it was and is not any more, as that gives its level back.
	if score >= scoreReverify || drift || score <= scoreBasic && before < policy.Critical {
		r.mu.Lock()
		open := slices.Clone(r.open)
		r.mu.Unlock()
		for _, o := range open {
			o.notify(o.verify)
		}
	}
}

// meter counts what the sessions of a principal do, together: more sessions do not make more room.
type meter struct {
	messages, bytes, faults, resources atomic.Uint64

	drift atomic.Bool // seen, and not yet verified

	mu    sync.Mutex
	from  time.Time // of the interval
	score float64   // of the last one
}

func (m *meter) add(a Activity) {
	for _, c := range []struct {
		to *atomic.Uint64
		n  uint64
	}{{&m.messages, a.Messages}, {&m.bytes, a.Bytes}, {&m.faults, a.Faults}, {&m.resources, a.Resources}} {
		if c.n > 0 {
			c.to.Add(c.n)
		}
	}
}

// reset begins an interval: nobody was there before.
func (m *meter) reset(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.from = now
	m.swap()
}

func (m *meter) swap() Activity {
	return Activity{m.messages.Swap(0), m.bytes.Swap(0), m.faults.Swap(0), m.resources.Swap(0)}
}

// take is what was done in the interval that is over now; false where it is not over.
func (m *meter) take(now time.Time) (a Activity, d time.Duration, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	// Tickers of several sessions do not strike together: nine tenths are an interval.
	if d = now.Sub(m.from); d < interval*9/10 {
		return a, 0, false
	}
	m.from = now
	return m.swap(), d, true
}

func (m *meter) note(score float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.score = score
}

func (m *meter) lastScore() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.score
}
