package p2p

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// The bounds of an established line.
const (
	// smallFrame is the longest frame that comes after the handshake: an answer.
	smallFrame = frameHead + zerotrust.AnswerSize
	// challengesMin is how many challenges a peer may send a minute: one in five minutes is due, and odd behaviour asks for more.
	challengesMin = 12
)

// guarded is a peer that was let in: the session, and the line that its challenges go by. The line's end is the session's.
type guarded struct {
	node    *Node
	peer    peer.ID
	session *zerotrust.Session
	kind    string
	binding []byte
	line    line
	conn    network.Conn // of the line; nil in tests of the protocol alone
	in      *bufio.Reader
	since   time.Time
	inbound bool
	rtt     atomic.Int64 // nanoseconds, the last that was measured
	bytes   atomic.Int64 // of the peer when its behaviour was last told

	ctx    context.Context // ends with the line
	cancel context.CancelFunc
	answer chan []byte // to our challenge

	rights atomic.Pointer[map[asked]*right] // replaced, never changed

	mu         sync.Mutex // of decisions: one at a time, so that they are asked for once
	termsLevel policy.Level
	readOnly   bool

	out sync.Mutex // of writing to the line
	bye atomic.Uint32
}

func newGuarded(n *Node, p peer.ID, m *met, l line, c network.Conn) *guarded {
	g := &guarded{
		node: n, peer: p, session: m.session, kind: m.decision.Kind, binding: m.binding, line: l, conn: c, in: m.in, since: n.opt.Now(),
		answer: make(chan []byte, 1), termsLevel: m.decision.Level, readOnly: m.decision.Conditions.ReadOnly,
	}
	g.rtt.Store(int64(m.rtt))
	select { // that the handshake itself has moved the level is no news to anybody
	case <-g.session.Changed():
	default:
	}
	g.rights.Store(&map[asked]*right{})
	g.ctx, g.cancel = context.WithCancel(n.ctx)
	return g
}

// serve watches the peer until its line or its session ends, and says why it did, and whether it was the line. The session has ended then.
func (g *guarded) serve() (why error, broken bool) {
	defer g.cancel()
	_ = g.line.SetDeadline(time.Time{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = g.session.Run(g.ctx, g.exchange) // its error is the session's, which is asked below
		g.end()
	})
	wg.Go(g.watch)
	err := g.listen()
	if err != nil && g.session.Err() == nil {
		broken = true
		g.session.Terminate("the connection is gone: " + err.Error())
	}
	g.cancel() // where it is still open, Run closes it in order
	wg.Wait()
	return g.session.Err(), broken
}

// end has the line end, after the other end was told why.
func (g *guarded) end() {
	v := byeClosed
	if ended := (*zerotrust.Ended)(nil); errors.As(g.session.Err(), &ended) {
		v = verdictDenied
	}
	if g.bye.Load() != 0 {
		v = verdict(g.bye.Load())
	}
	_ = g.write(appendFrame(nil, frameBye, []byte{byte(v)}))
	// The other end closes the line when it has read that. Where the connection is closed before, it may never arrive.
	_ = g.line.SetReadDeadline(time.Now().Add(lingerTime))
}

// leave ends the line for a reason of ours.
func (g *guarded) leave(v verdict) {
	g.bye.CompareAndSwap(0, uint32(v))
	g.session.Close()
}

// listen reads frames until the line ends. It is nil where the other end has said goodbye, or we have.
func (g *guarded) listen() error {
	buf := make([]byte, smallFrame)
	window, n := g.node.opt.Now(), 0
	for {
		kind, body, err := readFrame(g.in, buf)
		switch {
		case g.session.Err() != nil || g.ctx.Err() != nil:
			return nil
		case err == io.EOF:
			return errors.New("it has closed the line without a word")
		case err != nil:
			return err
		}
		switch kind {
		case frameChallenge:
			if now := g.node.opt.Now(); now.Sub(window) > time.Minute {
				window, n = now, 0
			}
			if n++; n > challengesMin {
				return fmt.Errorf("%w: more than %d challenges a minute", ErrDenied, challengesMin)
			}
			answer, err := zerotrust.Answer(g.node.opt.Key, g.binding, body)
			if err != nil {
				return err
			}
			if err := g.write(appendFrame(nil, frameAnswer, answer)); err != nil {
				return err
			}
		case frameAnswer:
			select {
			case g.answer <- append([]byte(nil), body...):
			default:
				return fmt.Errorf("%w: an answer that nobody asked for", ErrCorrupt)
			}
		case frameBye:
			g.session.Close()
			return nil
		default:
			return fmt.Errorf("%w: a frame of kind %d within a session", ErrCorrupt, kind)
		}
	}
}

// exchange carries a challenge of the guard's. Before it, it is asked whether the policies of now have the peer connected at all.
func (g *guarded) exchange(ctx context.Context, challenge []byte) ([]byte, error) {
	if why := g.mayStay(ctx); why != "" {
		g.session.Terminate("it may not be connected any more: " + why)
		return nil, errEnded
	}
	select { // an answer that came too late for the last one
	case <-g.answer:
	default:
	}
	sent := g.node.opt.Now()
	if err := g.write(appendFrame(nil, frameChallenge, challenge)); err != nil {
		return nil, err
	}
	select {
	case a := <-g.answer:
		g.rtt.Store(int64(g.node.opt.Now().Sub(sent)))
		g.node.count.verified.Add(1)
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// watch tells of changes of the level, and ends the session of a peer that may not be connected at its new one.
func (g *guarded) watch() {
	for {
		select {
		case <-g.session.Done():
			return
		case <-g.session.Changed():
			g.node.tag(g)
			if why := g.mayStay(g.ctx); why != "" {
				g.session.Terminate("it may not be connected at its level: " + why)
				return
			}
			g.node.tellLost(g.peer)
		}
	}
}

func (g *guarded) write(b []byte) error {
	g.out.Lock()
	defer g.out.Unlock()
	_ = g.line.SetWriteDeadline(time.Now().Add(writeTime)) // the line's clock is the system's
	_, err := g.line.Write(b)
	return err
}
