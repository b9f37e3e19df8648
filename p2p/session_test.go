package p2p

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// end is one of two ends that meet over a pipe, on the bubble's clock: the protocol alone, without libp2p.
type end struct {
	key   seal.Key
	guard *zerotrust.Guard
	doc   []byte
	node  *Node // with nothing of libp2p's in it but a connection manager
	line  *mutable
	lost  atomic.Int32
	g     *guarded
	err   error
	why   error
}

func newEnd(t *testing.T, seed byte, change ...func(*zerotrust.Options)) *end {
	t.Helper()
	e := &end{key: keyOf(seed)}
	e.guard = newGuard(t, append(change, func(o *zerotrust.Options) { o.Now = time.Now })...)
	o := Options{Key: e.key, Guard: e.guard, Lost: func(peer.ID) { e.lost.Add(1) }}
	if err := o.defaults(); err != nil {
		t.Fatal(err)
	}
	e.doc = o.Document
	e.node = &Node{opt: o, ownResource: "peer/" + zerotrust.IDOf(e.key.Public()), inner: hostless{}}
	e.node.ctx, e.node.cancel = context.WithCancel(context.Background())
	t.Cleanup(e.node.cancel)
	return e
}

// hostless is the little of a host that a session asks for.
type hostless struct{ host.Host }

func (hostless) ConnManager() connmgr.ConnManager { return connmgr.NullConnMgr{} }

var loopback = netip.MustParseAddr("127.0.0.1")

// mutable is a line that holds a little, as streams do, and that can lose what is written to it.
type mutable struct {
	net.Conn
	mute atomic.Bool
	held chan []byte
	once sync.Once
}

func newMutable(c net.Conn) *mutable {
	m := &mutable{Conn: c, held: make(chan []byte, 64)}
	go func() {
		for b := range m.held {
			if _, err := m.Conn.Write(b); err != nil {
				return
			}
		}
		m.Conn.Close()
	}()
	return m
}

func (m *mutable) Write(b []byte) (int, error) {
	if !m.mute.Load() {
		m.held <- bytes.Clone(b)
	}
	return len(b), nil
}

// Close lets what is held go out first.
func (m *mutable) Close() error {
	m.once.Do(func() { close(m.held) })
	return nil
}

func (m *mutable) SetDeadline(t time.Time) error    { return m.Conn.SetReadDeadline(t) }
func (m *mutable) SetWriteDeadline(time.Time) error { return nil }

// pair has two ends meet, and serve until one of them ends.
func pair(t *testing.T, a, b *end) (wait func()) {
	t.Helper()
	x, y := net.Pipe()
	a.line, b.line = newMutable(x), newMutable(y)
	var met, served sync.WaitGroup
	for _, x := range []struct {
		e, other *end
		asker    bool
	}{{a, b, true}, {b, a, false}} {
		met.Add(1)
		served.Go(func() {
			j := &judge{self: IDOf(x.e.key.Public()), key: x.e.key, guard: x.e.guard, document: func(peer.ID) []byte { return x.e.doc }, now: time.Now}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			m, err := j.meet(ctx, x.e.line, IDOf(x.other.key.Public()), loopback, x.asker, nil)
			cancel()
			if x.e.err = err; err != nil {
				x.e.line.Close()
				met.Done()
				return
			}
			x.e.g = newGuarded(x.e.node, IDOf(x.other.key.Public()), m, x.e.line, nil)
			met.Done()
			x.e.why, _ = x.e.g.serve()
			x.e.line.Close()
		})
	}
	met.Wait()
	return served.Wait
}

func trustOf(e *end, other *end) int {
	r, _ := e.guard.Record(zerotrust.IDOf(other.key.Public()))
	return r.Trust()
}

// TestVerifiedAgain: every five minutes each challenges the other over the line that they met on; trust and level grow with it, the rooms hear of
// the level, and the rights are those of the level at once.
func TestVerifiedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, 1), newEnd(t, 2)
		wait := pair(t, a, b)
		if err := errors.Join(a.err, b.err); err != nil {
			t.Fatal(err)
		}
		if a.g.session.Level() != policy.Verified || trustOf(a, b) != 55 {
			t.Fatalf("after the handshake: %s, %d", a.g.session.Level(), trustOf(a, b))
		}
		time.Sleep(16 * time.Minute)
		synctest.Wait()
		if got := trustOf(a, b); got != 70 || trustOf(b, a) != 70 {
			t.Errorf("after three challenges: %d and %d, want 70", got, trustOf(b, a))
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if a.g.session.Level() != policy.Privileged || a.lost.Load() == 0 {
			t.Errorf("after four: %s, and the rooms were told %d times", a.g.session.Level(), a.lost.Load())
		}
		a.g.leave(byeClosed)
		wait()
		if !errors.Is(a.why, zerotrust.ErrClosed) || !errors.Is(b.why, zerotrust.ErrClosed) {
			t.Errorf("it ended with %v and %v, not in order", a.why, b.why)
		}
	})
}

// TestNoAnswer: who does not answer a challenge within its time is let go, and pays for it.
func TestNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, 1), newEnd(t, 2)
		wait := pair(t, a, b)
		b.line.mute.Store(true) // it reads, and nothing of what it writes arrives
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if a.g.session.Err() == nil {
			t.Error("the session goes on without an answer")
		}
		if got := trustOf(a, b); got != 40 {
			t.Errorf("trust %d, want 55 - 15", got)
		}
		if err := a.g.allow("send", "topic/x"); !errors.Is(err, ErrUnguarded) {
			t.Errorf("its rights: %v", err)
		}
		wait()
	})
}

// TestWrongDocument: whom a guard does not believe it does not let in, and the other end is told that it was denied.
func TestWrongDocument(t *testing.T) {
	other := keyOf(9)
	foreign := zerotrust.Identity{Kind: "peer", Key: other.Public(), Issuer: other.Public(), NotBefore: time.Unix(946684800, 0), Expires: time.Unix(946684800, 0).AddDate(5, 0, 0)}
	foreignDoc, err := foreign.Sign(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(a, b *end){
		"another's document": func(_, b *end) { b.doc = foreignDoc },
		"a changed document": func(_, b *end) { b.doc = slices.Clone(b.doc); b.doc[len(b.doc)-1] ^= 1 },
		"no document":        func(_, b *end) { b.doc = []byte{0} },
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := newEnd(t, 1), newEnd(t, 2)
			change(a, b)
			wait := pair(t, a, b)
			if !errors.Is(a.err, ErrDenied) || !errors.Is(b.err, ErrDenied) {
				t.Errorf("%s: %v and %v", name, a.err, b.err)
			}
			if r := (*refusal)(nil); !errors.As(b.err, &r) || !r.theirs {
				t.Errorf("%s: who was denied knows it as %v", name, b.err)
			}
			wait()
		})
	}
}

// TestRelayed: an answer that was made for another meeting is none in this one: in between stands somebody who passes challenges on.
func TestRelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, 1), newEnd(t, 2)
		wait := pair(t, a, b)
		// A third opens a meeting with b in a's name; b's challenge is handed to a, who answers it: for the meeting of a and b.
		challenge := b.g.session.Challenge()
		forged, err := zerotrust.Answer(a.key, bytes.Repeat([]byte{7}, 32), challenge)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.g.session.Verify(context.Background(), forged); !errors.Is(err, ErrDenied) {
			t.Errorf("an answer of another meeting: %v", err)
		}
		wait()
	})
}

// TestRights: a right is that of the level now; what is limited is limited; nothing is allocated where it was asked before.
func TestRights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, 1), newEnd(t, 2)
		wait := pair(t, a, b)
		if err := a.g.allow("send", "topic/x"); err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() { _ = a.g.allow("send", "topic/x") }); n != 0 {
			t.Errorf("an answer that is known allocates %v times", n)
		}
		synctest.Wait()
		before := a.lost.Load()
		if err := a.guard.Failed(context.Background(), a.g.session.Principal()); err != nil { // 55 - 5: basic
			t.Fatal(err)
		}
		synctest.Wait()
		if got := a.lost.Load() - before; got != 1 {
			t.Errorf("the rooms were told %d times, want once", got)
		}
		n, limited := 0, error(nil)
		for range 100 {
			if err := a.g.allow("send", "topic/x"); err != nil {
				limited = err
				break
			}
			n++
		}
		if rate := (*RateError)(nil); n != 60 || !errors.As(limited, &rate) || !errors.Is(limited, ErrDenied) {
			t.Errorf("a basic peer sends %d at once, then %v; want 60, then a limit", n, limited)
		}
		if got := testing.AllocsPerRun(100, func() { _ = a.g.allow("send", "topic/x") }); got != 0 {
			t.Errorf("a refusal allocates %v times", got)
		}
		time.Sleep(11 * time.Second) // the decision is asked for again, and its bucket is the old one
		for n = 0; a.g.allow("send", "topic/x") == nil; n++ {
		}
		if n != 11 {
			t.Errorf("after 11 s it sends %d more, want 11", n)
		}
		for i := range 3 * maxRights {
			_ = a.g.allow("subscribe", "topic/"+string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676)))
		}
		if got := len(*a.g.rights.Load()); got > maxRights {
			t.Errorf("%d decisions are remembered, more than %d", got, maxRights)
		}
		if err := a.g.allow("send", "topic/"+string(bytes.Repeat([]byte{'x'}, 200))); !errors.Is(err, ErrDenied) {
			t.Errorf("a name that is too long: %v", err)
		}
		a.g.leave(byeClosed)
		wait()
	})
}
