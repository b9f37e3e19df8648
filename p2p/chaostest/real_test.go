package chaostest

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/p2p/direct"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// patience is how long a test waits for what must come. It is no promise about speed: only what hangs takes that long.
const patience = time.Minute

// nowhere is what nodes say that they are reached by, so that nobody finds a way around the links: a port that nobody listens on.
const nowhere = "/ip4/127.0.0.1/tcp/1"

// whole is a whole node, and the links by which it reaches those behind it in the list.
type whole struct {
	member
	core  *p2p.Node
	guard *zerotrust.Guard
	links map[int]*Link
}

// real is a round over sockets.
type real struct {
	t     *testing.T
	rng   *rand.Rand
	nodes []*whole
	eve   *eve
	evil  *p2p.Node
	books *Books
	said  int
	done  []string
}

func (r *real) say(format string, args ...any) { r.done = append(r.done, fmt.Sprintf(format, args...)) }

func newReal(t *testing.T, seed uint64, n int) *real {
	r := &real{t: t, rng: rand.New(rand.NewPCG(seed, 88)), books: NewBooks()}
	for i := range n {
		w := &whole{member: member{name: fmt.Sprint("node", i), key: seal.NewKey(), mem: vfs.NewMem()}, links: map[int]*Link{}}
		r.nodes = append(r.nodes, w)
		for j := range i {
			l, err := NewLink()
			if err != nil {
				t.Fatal(err)
			}
			r.nodes[j].links[i] = l
		}
	}
	for i := range r.nodes {
		if err := r.start(i); err != nil {
			t.Fatal(err)
		}
	}
	guard, core, err := r.newNode(seal.NewKey(), "peer", func(o *p2p.Options) {})
	if err != nil {
		t.Fatal(err)
	}
	r.evil = core
	r.eve = newEve(core.Host(), seal.NewKey())
	t.Cleanup(func() { guard.Close() })
	return r
}

// newNode is a node, and a guard that lets peers in which vouch for themselves.
func (r *real) newNode(key seal.Key, kind string, change func(*p2p.Options)) (*zerotrust.Guard, *p2p.Node, error) {
	seat := func(context.Context, policy.Level) (func(), error) { return func() {}, nil }
	record := func(context.Context, zerotrust.Event) error { return nil }
	guard, err := zerotrust.New(zerotrust.Options{SelfSigned: []string{"peer"}, Record: record, Capacity: seat})
	if err != nil {
		return nil, nil, err
	}
	from := time.Now().Add(-time.Hour)
	doc, err := (&zerotrust.Identity{Kind: kind, Key: key.Public(), Issuer: key.Public(), NotBefore: from, Expires: from.Add(24 * time.Hour)}).Sign(key)
	if err != nil {
		return guard, nil, err
	}
	o := p2p.Options{Key: key, Guard: guard, Document: doc, NoDHT: true, Announce: []string{nowhere}, JudgeTime: 2 * time.Second, Log: slog.New(slog.DiscardHandler)}
	o.Admission, o.Limits.ConnectionsAddress = zerotrust.AdmissionOptions{PerAddress: 1 << 20, Total: 1 << 20}, 1<<20 // all come from one address
	change(&o)
	core, err := p2p.New(context.Background(), o)
	return guard, core, errors.Join(err)
}

// start starts a node on the disk that it has.
func (r *real) start(i int) (err error) {
	w, l := r.nodes[i], newLife()
	w.guard, w.core, err = r.newNode(w.key, "peer", func(o *p2p.Options) {
		o.FS, o.Dir, o.Listen = w.disk(l), "/node", []string{"/ip4/127.0.0.1/tcp/0"}
		for j, link := range w.links {
			o.Bootstrap = append(o.Bootstrap, fmt.Sprintf("/ip4/127.0.0.1/tcp/%d/p2p/%s", link.Port(), p2p.IDOf(r.nodes[j].key.Public())))
		}
		o.Before = func(core *p2p.Node) error {
			w.host = core.Host()
			return w.begin(l, r.books, core.Allow)
		}
		o.Ready = func(p peer.ID) { l.direct.Ready(p); l.broadcast.Changed(p) }
		o.Lost = func(p peer.ID) { l.direct.Lost(p); l.broadcast.Changed(p) }
	})
	if err != nil {
		w.life = nil
		return err
	}
	address := w.core.Host().Network().ListenAddresses()[0]
	port, err := address.ValueForProtocol(ma.P_TCP)
	if err != nil {
		return err
	}
	for j := range r.nodes {
		if l := r.nodes[j].links[i]; l != nil {
			l.Target("127.0.0.1:" + port)
		}
	}
	return nil
}

// stop ends a node: in order, or by a loss of power.
func (w *whole) stop(crash *rand.Rand) error {
	err := w.end(crash)
	return errors.Join(err, w.core.Close(), w.guard.Close())
}

// meet connects whoever can be connected.
func (r *real) meet() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, w := range r.nodes {
		for j, link := range w.links {
			if to := r.nodes[j]; w.life != nil && to.life != nil {
				// An error is seen by what does not arrive.
				_ = w.core.Connect(ctx, peer.AddrInfo{ID: to.host.ID(), Addrs: []ma.Multiaddr{ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", link.Port()))}})
			}
		}
		if w.life != nil && r.evil.Connect(ctx, peer.AddrInfo{ID: w.host.ID(), Addrs: w.core.Host().Network().ListenAddresses()}) == nil {
			r.eve.greet(w.host.ID())
		}
	}
}

// step does one thing, and lets it work for a moment: the time is the experiment's, nothing is waited for.
func (r *real) step() {
	i := r.rng.IntN(len(r.nodes))
	w := r.nodes[i]
	switch k := r.rng.IntN(17); {
	case k < 5:
		r.send(w, r.nodes[r.rng.IntN(len(r.nodes))], 1+r.rng.IntN(16), false)
	case k < 9:
		r.publish(w, 1+r.rng.IntN(16))
	case k < 12:
		r.weather(Weather{Hold: r.rng.IntN(3) == 0, Delay: time.Duration(r.rng.IntN(50)) * time.Millisecond, Rate: (1 + r.rng.IntN(8)) << 16})
	case k == 12:
		r.say("all links of %s are cut", w.name)
		for j, other := range r.nodes {
			for to, l := range other.links {
				if j == i || to == i {
					l.Cut()
				}
			}
		}
	case k == 13 && w.life != nil:
		r.say("%s loses its power", w.name)
		_ = w.stop(r.rng)
	case k == 14 && w.life != nil:
		r.say("eve attacks %s", w.name)
		r.eve.attack(w.host.ID(), r.rng)
	case k == 15:
		r.say("the reader of %s reads: %v", w.name, w.hold.Load() != nil)
		w.holdBack(w.hold.Load() == nil)
	case k == 16:
		w.full.Store(!w.full.Load())
		r.say("the disk of %s is full: %v", w.name, w.full.Load())
	}
	<-time.After(time.Duration(r.rng.IntN(200)) * time.Millisecond)
}

// weather is new for half of the links.
func (r *real) weather(w Weather) {
	r.say("some links are %+v", w)
	for _, n := range r.nodes {
		for j := range r.nodes {
			if l := n.links[j]; l != nil && r.rng.IntN(2) == 0 {
				l.Set(w)
			}
		}
	}
}

func (r *real) send(w, to *whole, n int, must bool) {
	if w.life == nil || w == to {
		return
	}
	r.say("%s sends %d to %s", w.name, n, to.name)
	for range n {
		r.said++
		what := fmt.Sprintf("private %d of %s", r.said, w.name)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, err := w.life.direct.Send(ctx, p2p.IDOf(to.key.Public()), []byte(what))
		cancel()
		if err == nil {
			r.books.Promise(what, to.name)
		} else if must {
			r.t.Errorf("%s cannot send though all is well: %v", w.name, err)
		}
	}
}

func (r *real) publish(w *whole, n int) (last string) {
	if w.life == nil {
		return ""
	}
	r.say("%s says %d", w.name, n)
	for range n {
		r.said++
		last = fmt.Sprintf("broadcast %d of %s", r.said, w.name)
		r.books.Say(w.host.ID().String(), last)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if _, err := w.life.broadcast.Publish(ctx, topic, []byte(last)); err != nil {
			last = ""
		}
		cancel()
	}
	return last
}

// settle makes all well again, and waits until what was promised is kept and everybody hears everybody.
func (r *real) settle() {
	for i, w := range r.nodes {
		w.full.Store(false)
		w.holdBack(false)
		for _, l := range w.links {
			l.Set(Weather{})
		}
		if w.life == nil {
			if err := r.start(i); err != nil {
				r.t.Fatalf("%s does not start on the disk that it has: %v", w.name, err)
			}
		}
	}
	r.meet()
	for i, w := range r.nodes {
		r.send(w, r.nodes[(i+1)%len(r.nodes)], 1, true)
	}
	r.eventually("what was acknowledged is shown", func() bool { return len(r.books.Missing()) == 0 })
	for _, what := range r.books.Missing() {
		r.t.Errorf("acknowledged and not shown: %s", what)
	}
	for _, w := range r.nodes {
		// One may be said before its hearers are known to the speaker: the last of several must arrive.
		last, next := "", time.Time{}
		r.eventually("everybody hears "+w.name, func() bool {
			if now := time.Now(); now.After(next) {
				next = now.Add(2 * time.Second)
				last = r.publish(w, 1)
			}
			for _, other := range r.nodes {
				if !r.books.Heard(other.name, last) {
					return false
				}
			}
			return true
		})
	}
}

// eventually waits for what no event tells of, and connects meanwhile who lost each other.
func (r *real) eventually(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	over := time.After(patience)
	for n := 1; !ok(); n++ {
		select {
		case <-tick.C:
			if n%50 == 0 {
				r.meet()
			}
		case <-over:
			r.t.Errorf("it does not come to this: %s", what)
			return
		}
	}
}

// stranger has somebody who does not come to be judged ask for everything: no protocol of ours answers. One that answers everybody shows that an
// answer would be seen; where it is so late that the stranger has been sent away, another one comes.
func (r *real) strangers() {
	for range 5 {
		if r.stranger() {
			return
		}
	}
	r.t.Error("no stranger came as far as to ask")
}

func (r *real) stranger() (answered bool) {
	key, err := r.lesser()
	if err != nil {
		r.t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(key), libp2p.NoListenAddrs, libp2p.DisableMetrics(), libp2p.ResourceManager(&network.NullResourceManager{}))
	if err != nil {
		r.t.Fatal(err)
	}
	defer h.Close()
	guard, denied, err := r.newNode(seal.NewKey(), "agent", func(*p2p.Options) {})
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = errors.Join(denied.Close(), guard.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var group sync.WaitGroup
	var seen atomic.Bool
	for _, w := range r.nodes {
		if w.life == nil {
			continue
		}
		to := peer.AddrInfo{ID: w.host.ID(), Addrs: w.core.Host().Network().ListenAddresses()}
		// That it was denied may not reach it before its connection ends, or the time of a handshake does.
		if err := denied.Connect(ctx, to); !errors.Is(err, p2p.ErrDenied) && !errors.Is(err, p2p.ErrUnguarded) && !errors.Is(err, p2p.ErrUnavailable) {
			r.t.Errorf("who has no identity that %s knows is told %v", w.name, err)
		}
		if h.Connect(ctx, to) != nil {
			continue // it has been sent away
		}
		for _, name := range []protocol.ID{gossip, direct.ProtocolMessages, direct.ProtocolFiles, "/ipfs/ping/1.0.0", everybodys} {
			group.Go(func() {
				switch yes := ask(ctx, h, to.ID, name); {
				case yes && name == everybodys:
					seen.Store(true)
				case yes:
					r.t.Errorf("%s answers a stranger who asks for %s", w.name, name)
				}
			})
		}
	}
	group.Wait()
	return seen.Load()
}

// lesser is a key by which a node that is up waits to be asked: who it asks itself is sent away at once when it knows nothing of the guard's
// protocol, often before it has asked for anything.
func (r *real) lesser() (crypto.PrivKey, error) {
	if !slices.ContainsFunc(r.nodes, func(w *whole) bool { return w.life != nil }) {
		if err := r.start(0); err != nil {
			return nil, err
		}
	}
	var greatest peer.ID
	for _, w := range r.nodes {
		if w.life != nil {
			greatest = max(greatest, w.host.ID())
		}
	}
	for {
		key, _, err := crypto.GenerateEd25519Key(crand.Reader)
		if err != nil {
			return nil, err
		}
		if id, err := peer.IDFromPrivateKey(key); err != nil || id < greatest {
			return key, err
		}
	}
}

// everybodys is a protocol that is answered to everybody: who somebody is.
const everybodys protocol.ID = "/ipfs/id/1.0.0"

// ask asks a node for a protocol, and says whether it answers by it before it sends the asker away. That it speaks of the protocol is no answer: the
// lines of multistream-select are echoed before it is known who asks.
func ask(ctx context.Context, h host.Host, to peer.ID, name protocol.ID) bool {
	conns := h.Network().ConnsToPeer(to)
	if len(conns) == 0 {
		return false
	}
	s, err := conns[0].NewStream(ctx)
	if err != nil {
		return false
	}
	defer s.Reset()
	_ = s.SetReadDeadline(time.Now().Add(patience))
	const head, ping, most = "\x13/multistream/1.0.0\n", 32, 64 << 10
	fmt.Fprintf(s, "%s%c%s\n", head, rune(len(name)+1), name)
	_, _ = s.Write(make([]byte, ping))
	got, _ := io.ReadAll(io.LimitReader(s, most)) // the end, in whichever way, is that it has been sent away
	return len(got) > len(head)+1+len(name)+1
}

func (r *real) close() {
	for _, w := range r.nodes {
		if err := w.stop(nil); err != nil {
			r.t.Errorf("%s does not end in order: %v", w.name, err)
		}
		for _, l := range w.links {
			if err := l.Close(); err != nil {
				r.t.Error(err)
			}
		}
	}
	r.eve.close()
	if err := r.evil.Close(); err != nil {
		r.t.Error(err)
	}
}

// Bounds of a round's memory: what a hundred peers may take of a node (DESIGN.md, budgets), and goroutines that libp2p keeps for itself.
const (
	mostHeap      = 100 << 20
	goroutineRest = 10
)

// TestReal is the narrow search: whole nodes, over sockets and links, one of five without manners, strangers before the door.
func TestReal(t *testing.T) {
	rounds := max(1, *roundsFlag)
	for i := range rounds {
		seed := *seedFlag + uint64(i)
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			before := runtime.NumGoroutine()
			r := newReal(t, seed, 4)
			r.meet()
			for i, w := range r.nodes { // something is promised, whatever the seed
				r.send(w, r.nodes[(i+1)%len(r.nodes)], 1, false)
			}
			for range *stepsFlag / 2 {
				r.step()
			}
			r.strangers()
			r.settle()
			for _, what := range r.books.Wrong() {
				t.Error(what)
			}
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			promised, heard := r.books.Size()
			t.Logf("%d messages promised, %d broadcasts heard, eve sent %d; heap %d MiB", promised, heard, r.eve.sent, m.HeapAlloc>>20)
			if m.HeapAlloc > mostHeap {
				t.Errorf("the heap has %d bytes, more than %d", m.HeapAlloc, mostHeap)
			}
			r.close()
			r.eventually("what ran has ended", func() bool { return runtime.NumGoroutine() <= before+goroutineRest })
			if t.Failed() {
				for _, what := range r.done {
					t.Log(what)
				}
			}
		})
	}
}
