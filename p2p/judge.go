package p2p

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
)

// bindingDomain is before what a session's binding is a hash of: docs/format/guard-protocol.md.
const bindingDomain = "quantra guard binding v1"

// solveBits is the hardest puzzle that we solve for somebody: what zerotrust.AdmissionOptions asks at most where nothing else is said.
const solveBits = 22

// line is what the protocol is spoken over: a stream of libp2p, or a pipe.
type line interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// judge judges whoever is at the other end of a line.
type judge struct {
	self     peer.ID
	key      seal.Key
	guard    *zerotrust.Guard
	document func(peer.ID) []byte // that is shown to a peer
	now      func() time.Time
}

// toll is what a stranger owes who came in while there was a flood: a puzzle, before anything is computed for it.
type toll struct {
	admission *zerotrust.Admission
	addr      netip.Addr
	puzzle    []byte
}

// met is what two that have judged each other share.
type met struct {
	session  *zerotrust.Session
	decision zerotrust.Decision
	binding  []byte
	rtt      time.Duration
	in       *bufio.Reader // of the line: what was read ahead is in it
}

// refusal is that one end did not let the other in.
type refusal struct {
	verdict verdict
	theirs  bool   // it is they who refused
	reason  string // of ours
}

func (r *refusal) Error() string {
	if r.theirs {
		return fmt.Sprintf("the peer did not let us in: %s", r.verdict)
	}
	return fmt.Sprintf("the peer was not let in (%s): %s", r.verdict, r.reason)
}

// Unwrap is ErrDenied, or ErrUnavailable where it is for now.
func (r *refusal) Unwrap() error {
	if r.verdict == verdictDenied {
		return ErrDenied
	}
	return ErrUnavailable
}

// talk is one handshake under way.
type talk struct {
	*judge
	line  line
	in    *bufio.Reader
	buf   []byte
	peer  peer.ID
	key   seal.PublicKey // of the peer: libp2p's handshake has shown it
	addr  netip.Addr
	asker bool
	toll  *toll

	mine, theirs [nonceSize]byte
	doc          []byte // theirs
	solved       bool   // we have solved one puzzle: one is enough
}

// meet has the two ends judge each other. The asker is the one who speaks first. An error that is not the line's is a refusal, which the
// other end has been told of.
func (j *judge) meet(ctx context.Context, l line, p peer.ID, addr netip.Addr, asker bool, owed *toll) (*met, error) {
	key, ok := KeyOf(p)
	if !ok {
		return nil, &refusal{verdict: verdictDenied, reason: "its key is not of Ed25519"}
	}
	// The line has a deadline of its own: a context that ends must end a read as well.
	stop := context.AfterFunc(ctx, func() { l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	t := &talk{judge: j, line: l, in: bufio.NewReaderSize(l, 512), buf: make([]byte, frameHead+maxFrame), peer: p, key: key, addr: addr, asker: asker, toll: owed}
	rand.Read(t.mine[:]) // never fails: crypto/rand ends the program first
	m, err := t.run(ctx)
	if err == nil {
		return m, nil
	}
	if m != nil && m.session != nil {
		m.session.Close()
	}
	if r := (*refusal)(nil); errors.As(err, &r) && !r.theirs {
		t.refuse(r.verdict)
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: the handshake took too long: %w", ErrUnavailable, err)
	}
	return nil, err
}

// refuse tells the other end, and waits until it has heard it: after that its connection is closed.
func (t *talk) refuse(v verdict) {
	if t.send(appendFrame(nil, frameVerdict, []byte{byte(v)})) == nil {
		_ = t.line.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.Copy(io.Discard, io.LimitReader(t.in, maxFrame))
	}
}

func (t *talk) run(ctx context.Context) (*met, error) {
	if t.asker {
		return t.ask(ctx)
	}
	return t.answer(ctx)
}

// ask is the handshake of the one who speaks first.
func (t *talk) ask(ctx context.Context) (*met, error) {
	if err := t.collect(); err != nil {
		return nil, err
	}
	sent := t.now()
	if err := t.hello(nil); err != nil {
		return nil, err
	}
	if err := t.readHello(ctx); err != nil {
		return nil, err
	}
	rtt := t.now().Sub(sent)
	challenge, err := t.read(ctx, frameChallenge)
	if err != nil {
		return nil, err
	}
	challenge = slices.Clone(challenge)
	m, err := t.begin(ctx)
	if err != nil {
		return m, err
	}
	m.rtt = rtt
	answer, err := zerotrust.Answer(t.judge.key, m.binding, challenge)
	if err != nil {
		return m, err
	}
	b := appendFrame(nil, frameAnswer, answer)
	if err := t.send(appendFrame(b, frameChallenge, m.session.Challenge())); err != nil {
		return m, err
	}
	if err := t.verify(ctx, m); err != nil {
		return m, err
	}
	if err := t.readVerdict(ctx); err != nil {
		return m, err
	}
	return m, t.send(appendFrame(nil, frameVerdict, []byte{byte(verdictOK)}))
}

// answer is the handshake of the other one.
func (t *talk) answer(ctx context.Context) (*met, error) {
	if err := t.readHello(ctx); err != nil {
		return nil, err
	}
	if err := t.collect(); err != nil {
		return nil, err
	}
	m, err := t.begin(ctx)
	if err != nil {
		return m, err
	}
	sent := t.now()
	if err := t.hello(m.session.Challenge()); err != nil {
		return m, err
	}
	if err := t.verify(ctx, m); err != nil {
		return m, err
	}
	m.rtt = t.now().Sub(sent)
	challenge, err := t.read(ctx, frameChallenge)
	if err != nil {
		return m, err
	}
	answer, err := zerotrust.Answer(t.judge.key, m.binding, challenge)
	if err != nil {
		return m, err
	}
	b := appendFrame(nil, frameAnswer, answer)
	if err := t.send(appendFrame(b, frameVerdict, []byte{byte(verdictOK)})); err != nil {
		return m, err
	}
	return m, t.readVerdict(ctx)
}

// send writes frames, all at once.
func (t *talk) send(b []byte) error {
	_, err := t.line.Write(b)
	return err
}

// hello presents our identity, and our challenge if there is one.
func (t *talk) hello(challenge []byte) error {
	b := appendFrame(nil, frameHello, t.mine[:], t.document(t.peer))
	if challenge != nil {
		b = appendFrame(b, frameChallenge, challenge)
	}
	return t.send(b)
}

func (t *talk) readHello(ctx context.Context) error {
	body, err := t.read(ctx, frameHello)
	if err != nil {
		return err
	}
	copy(t.theirs[:], body)
	t.doc = bytes.Clone(body[nonceSize:])
	if t.theirs == t.mine { // our own frame, sent back: the ids of a binding would still differ, but nobody honest does this
		return &refusal{verdict: verdictDenied, reason: "it sends back what we have sent"}
	}
	return nil
}

// read reads the frame that is to come now. A puzzle may come in its place, once.
func (t *talk) read(ctx context.Context, want byte) ([]byte, error) {
	for {
		kind, body, err := readFrame(t.in, t.buf)
		switch {
		case errors.Is(err, ErrCorrupt):
			return nil, &refusal{verdict: verdictDenied, reason: err.Error()}
		case err != nil:
			return nil, err
		case kind == want:
			return body, nil
		case kind == frameVerdict:
			return nil, &refusal{verdict: verdict(body[0]), theirs: true}
		case kind == framePuzzle && want == frameHello && !t.solved:
			t.solved = true
			solution, err := zerotrust.Solve(ctx, bytes.Clone(body), solveBits)
			if err != nil {
				return nil, err
			}
			if err := t.send(appendFrame(nil, frameSolution, solution)); err != nil {
				return nil, err
			}
		default:
			return nil, &refusal{verdict: verdictDenied, reason: fmt.Sprintf("a frame of kind %d came where one of kind %d was to come", kind, want)}
		}
	}
}

// collect has the peer solve its puzzle, if it owes one.
func (t *talk) collect() error {
	if t.toll == nil {
		return nil
	}
	if err := t.send(appendFrame(nil, framePuzzle, t.toll.puzzle)); err != nil {
		return err
	}
	kind, body, err := readFrame(t.in, t.buf)
	if err != nil {
		return err
	}
	if kind != frameSolution {
		return &refusal{verdict: verdictDenied, reason: "it did not solve its puzzle"}
	}
	if _, err := t.toll.admission.Admit(t.toll.addr, body); err != nil {
		return &refusal{verdict: verdictBusy, reason: err.Error()}
	}
	return nil
}

// begin judges the peer by what it has presented.
func (t *talk) begin(ctx context.Context) (*met, error) {
	m := &met{binding: t.binding(), in: t.in}
	var err error
	m.session, m.decision, err = t.guard.Begin(ctx, zerotrust.Request{
		Document: t.doc, Key: t.key, Action: "connect", Resource: "peer/" + t.self.String(), Remote: t.addr,
	}, m.binding)
	switch {
	case m.session != nil:
		return m, nil
	case m.decision.RetryAfter > 0:
		return m, &refusal{verdict: verdictBusy, reason: m.decision.Reason}
	case errors.Is(err, ErrUnavailable):
		return m, &refusal{verdict: verdictUnavailable, reason: err.Error()}
	case err != nil && ctx.Err() != nil:
		return m, err
	}
	return m, &refusal{verdict: verdictDenied, reason: m.decision.Reason}
}

// binding names this meeting: who, and what chance each has brought to it. Nothing that was signed for another meeting is good here.
func (t *talk) binding() []byte {
	first, second, a, b := t.self, t.peer, &t.mine, &t.theirs
	if !t.asker {
		first, second, a, b = second, first, b, a
	}
	h := sha256.New()
	h.Write([]byte(bindingDomain))
	for _, part := range [][]byte{[]byte(first), []byte(second), a[:], b[:]} {
		h.Write(append([]byte{byte(len(part))}, part...))
	}
	return h.Sum(nil)
}

// verify reads the answer to our challenge.
func (t *talk) verify(ctx context.Context, m *met) error {
	answer, err := t.read(ctx, frameAnswer)
	if err != nil {
		return err
	}
	if err := m.session.Verify(ctx, answer); err != nil {
		return &refusal{verdict: verdictDenied, reason: err.Error()}
	}
	return nil
}

func (t *talk) readVerdict(ctx context.Context) error {
	body, err := t.read(ctx, frameVerdict)
	if err != nil {
		return err
	}
	if v := verdict(body[0]); v != verdictOK {
		return &refusal{verdict: v, theirs: true}
	}
	return nil
}
