package chaostest

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	mocknet "github.com/libp2p/go-libp2p/p2p/net/mock"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/p2p/broadcast"
	"github.com/quantra-l/quantra/p2p/direct"
	"github.com/quantra-l/quantra/seal"
)

var (
	seedFlag   = flag.Uint64("chaos.seed", 1, "seed of the first round")
	roundsFlag = flag.Int("chaos.rounds", 0, "rounds, each with the next seed; 0 is as many as a default run has")
	stepsFlag  = flag.Int("chaos.steps", 40, "what is done in a round")
)

const (
	topic   = "chaos"
	padding = "." // behind some messages, so that what must be bounded fills up
	// What a member keeps, small enough for a round to reach it.
	outboxBytes, historyBytes = 1 << 20, 4 << 20
)

// life is a node's from one start to the next crash: the disk of a life that has ended takes nothing more.
type life struct {
	dead      atomic.Bool
	fuse      atomic.Int64 // operations on the disk until the power goes; 0 is that it does not
	registry  *prometheus.Registry
	direct    *direct.Service
	broadcast *broadcast.Service
	sub       *broadcast.Subscription
	reading   sync.WaitGroup
}

// member is a node, of which everything but its key and its disk may be lost.
type member struct {
	name string
	key  seal.Key
	host host.Host
	mem  *vfs.Mem
	full atomic.Bool
	skew atomic.Int64 // of its clock, in nanoseconds
	hold atomic.Pointer[chan struct{}]
	life *life
}

var errPower = errors.New("no power")

func (m *member) now() time.Time { return time.Now().Add(time.Duration(m.skew.Load())) }

// disk is the member's in one life.
func (m *member) disk(l *life) vfs.FS {
	full := vfs.FullDisk(&m.full)
	return vfs.Hook(m.mem, func(op vfs.Op) error {
		if l.fuse.Load() > 0 && l.fuse.Add(-1) == 0 {
			l.dead.Store(true)
		}
		if l.dead.Load() {
			return errPower
		}
		return full(op)
	})
}

func newLife() *life { return &life{registry: prometheus.NewRegistry()} }

func allowAll(peer.ID, string, string) error { return nil }

// begin starts the member's services, as far as its disk lets it.
func (m *member) begin(l *life, b *Books, allow func(p peer.ID, action, resource string) error) error {
	quiet := slog.New(slog.DiscardHandler)
	var err error
	l.broadcast, err = broadcast.New(context.Background(), m.host, broadcast.Options{Key: m.key, Allow: allow, Dir: "/broadcast", FS: m.disk(l), Now: m.now, Log: quiet, Authors: 256})
	if err != nil {
		return err
	}
	if l.sub, err = l.broadcast.SubscribeWith(topic, broadcast.SubscribeOptions{Wait: time.Minute}); err != nil {
		return errors.Join(err, l.broadcast.Close())
	}
	l.reading.Go(func() {
		for {
			got, err := l.sub.Next(context.Background())
			if err != nil {
				return
			}
			if l.dead.Load() {
				continue // a reader in a process that has died
			}
			b.Hear(m.name, string(got.Payload), got.ID.From.String())
		}
	})
	deliver := func(ctx context.Context, got direct.Message) error {
		if hold := m.hold.Load(); hold != nil {
			select {
			case <-*hold:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if l.dead.Load() {
			return errPower
		}
		b.Show(m.name, strings.TrimRight(string(got.Body), padding), got.Index)
		return nil
	}
	l.direct, err = direct.New(m.host, direct.Options{Key: m.key, Allow: allow, Dir: "/direct", FS: m.disk(l), Now: m.now, Log: quiet, Deliver: deliver, RetryMax: 20 * time.Second,
		OutboxBytes: outboxBytes, InboxBytes: outboxBytes, HistoryBytes: historyBytes, Registry: l.registry})
	if err != nil {
		l.sub.Close()
		return errors.Join(err, l.broadcast.Close())
	}
	m.life = l
	return nil
}

// end ends a life: in order, or by a loss of power, of which the disk is what synced bytes and chance leave.
func (m *member) end(crash *rand.Rand) error {
	l := m.life
	m.life = nil
	if l == nil {
		return nil
	}
	l.dead.Store(crash != nil)
	err := errors.Join(l.direct.Close(), l.broadcast.Close())
	l.reading.Wait()
	if crash != nil {
		m.mem, err = m.mem.Crash(crash), nil
	}
	return err
}

// virtual is a round on virtual time.
type virtual struct {
	t       *testing.T
	rng     *rand.Rand
	net     mocknet.Mocknet
	members []*member
	eve     *eve
	books   *Books
	said    int
	done    []string // what was done, for whoever asks why
	apart   map[[2]int]bool
}

func newVirtual(t *testing.T, seed uint64, n int) *virtual {
	v := &virtual{t: t, rng: rand.New(rand.NewPCG(seed, 8)), net: mocknet.New(), books: NewBooks(), apart: map[[2]int]bool{}}
	for i := range n + 1 {
		var raw [32]byte
		binary.BigEndian.PutUint64(raw[:], seed)
		raw[31] = byte(i + 1)
		key, err := seal.KeyFromSeed(raw[:])
		if err != nil {
			t.Fatal(err)
		}
		public := key.Public()
		private, err := crypto.UnmarshalEd25519PrivateKey(append(key.Seed(), public[:]...))
		if err != nil {
			t.Fatal(err)
		}
		h, err := v.net.AddPeer(private, ma.StringCast(fmt.Sprintf("/ip4/192.0.2.%d/tcp/4242", i+1)))
		if err != nil {
			t.Fatal(err)
		}
		if i == n {
			v.eve = newEve(h, key)
			break
		}
		v.members = append(v.members, &member{name: fmt.Sprint("node", i), key: key, host: h, mem: vfs.NewMem()})
	}
	if err := v.net.LinkAll(); err != nil {
		t.Fatal(err)
	}
	for _, m := range v.members {
		if err := m.begin(newLife(), v.books, allowAll); err != nil {
			t.Fatal(err)
		}
	}
	v.meet()
	return v
}

// meet connects whoever can be connected.
func (v *virtual) meet() {
	for i, a := range v.members {
		for j, b := range v.members[:i] {
			if !v.apart[[2]int{j, i}] && a.host.Network().Connectedness(b.host.ID()) != network.Connected {
				_, _ = v.net.ConnectPeers(a.host.ID(), b.host.ID())
			}
		}
		if a.host.Network().Connectedness(v.eve.host.ID()) != network.Connected {
			if _, err := v.net.ConnectPeers(v.eve.host.ID(), a.host.ID()); err == nil {
				v.eve.greet(a.host.ID())
			}
		}
	}
}

// step does one thing.
func (v *virtual) step() {
	r := v.rng
	m := v.members[r.IntN(len(v.members))]
	switch k := r.IntN(20); {
	case k < 6:
		v.send(m, 1+r.IntN(8))
	case k < 10:
		v.publish(m, 1+r.IntN(8))
	case k < 12:
		v.part(r.IntN(1 << len(v.members)))
	case k == 12:
		v.part(0)
	case k == 13:
		v.say("%s loses its connections", m.name)
		for _, c := range m.host.Network().Conns() {
			c.Close()
		}
	case k == 14:
		if m.life != nil && r.IntN(2) == 0 {
			m.life.fuse.Store(int64(1 + r.IntN(60)))
			v.say("%s is about to lose its power", m.name)
			break
		}
		v.say("%s loses its power", m.name)
		_ = m.end(r)
	case k == 15:
		m.full.Store(!m.full.Load())
		v.say("the disk of %s is full: %v", m.name, m.full.Load())
	case k == 16:
		m.skew.Store(int64(time.Duration(r.IntN(600)-300) * time.Second))
		v.say("the clock of %s is off by %s", m.name, time.Duration(m.skew.Load()))
	case k == 17:
		v.holdBack(m, m.hold.Load() == nil)
	case k == 18:
		v.say("eve attacks %s", m.name)
		v.eve.attack(m.host.ID(), r)
	default:
		v.say("who has no power gets it")
		for _, m := range v.members {
			if m.life == nil {
				_ = m.begin(newLife(), v.books, allowAll) // a full disk may keep it from that
			}
		}
	}
	time.Sleep(time.Duration(r.IntN(30_000)) * time.Millisecond)
	v.look()
	v.meet()
}

// look has an end with those whose power has gone by itself, and sees to it that nobody keeps more than it may.
func (v *virtual) look() {
	for _, m := range v.members {
		switch l := m.life; {
		case l == nil:
		case l.dead.Load():
			v.say("%s has lost its power", m.name)
			_ = m.end(v.rng)
		default:
			if got := l.gauge(v.t, "quantra_direct_pending_bytes"); got > outboxBytes {
				v.t.Errorf("%s keeps %.0f bytes to be sent, of %d", m.name, got, outboxBytes)
			}
			// A segment that is being written, or one that still has what is pending, is beyond it: half as much.
			if got := l.gauge(v.t, "quantra_direct_history_bytes"); got > historyBytes*3/2 {
				v.t.Errorf("%s keeps %.0f bytes of history, of %d", m.name, got, historyBytes)
			}
		}
	}
}

// gauge is a metric of the member's.
func (l *life) gauge(t *testing.T, name string) float64 {
	all, err := l.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			return f.Metric[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

func (v *virtual) say(format string, args ...any) {
	v.done = append(v.done, fmt.Sprintf(format, args...))
}

func (v *virtual) holdBack(m *member, hold bool) {
	old := m.hold.Load()
	if hold && old == nil {
		c := make(chan struct{})
		m.hold.Store(&c)
	} else if !hold && old != nil {
		m.hold.Store(nil)
		close(*old)
	}
	v.say("the reader of %s reads: %v", m.name, !hold)
}

// part keeps those whose bit is set and those whose bit is not apart.
func (v *virtual) part(set int) {
	v.say("those of %b and the others are apart", set)
	for i, a := range v.members {
		for j, b := range v.members[:i] {
			pair, apart := [2]int{j, i}, set>>i&1 != set>>j&1
			if apart == v.apart[pair] {
				continue
			}
			v.apart[pair] = apart
			var err error
			if apart {
				err = errors.Join(v.net.UnlinkPeers(a.host.ID(), b.host.ID()), v.net.DisconnectPeers(a.host.ID(), b.host.ID()))
			} else {
				_, err = v.net.LinkPeers(a.host.ID(), b.host.ID())
			}
			if err != nil {
				v.t.Error(err)
			}
		}
	}
}

// send sends private messages to somebody.
func (v *virtual) send(m *member, n int) {
	to := v.members[v.rng.IntN(len(v.members))]
	if m.life == nil || to == m {
		return
	}
	v.say("%s sends %d to %s", m.name, n, to.name)
	for range n {
		v.sendTo(m, to, false)
	}
}

func (v *virtual) sendTo(m, to *member, must bool) {
	v.said++
	what := fmt.Sprintf("private %d of %s", v.said, m.name)
	body := what
	if !must && v.rng.IntN(4) == 0 {
		body += strings.Repeat(padding, v.rng.IntN(100_000))
	}
	_, err := m.life.direct.Send(context.Background(), to.host.ID(), []byte(body))
	if err == nil {
		v.books.Promise(what, to.name)
	} else if must {
		v.t.Errorf("%s cannot send though all is well: %v", m.name, err)
	}
}

// publish broadcasts, and is what was said.
func (v *virtual) publish(m *member, n int) (all []string) {
	if m.life == nil {
		return nil
	}
	v.say("%s says %d", m.name, n)
	for range n {
		v.said++
		what := fmt.Sprintf("broadcast %d of %s", v.said, m.name)
		v.books.Say(m.host.ID().String(), what)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if _, err := m.life.broadcast.Publish(ctx, topic, []byte(what)); err == nil {
			all = append(all, what)
		}
		cancel()
	}
	return all
}

// settle makes all well again, and waits until what was promised is kept.
func (v *virtual) settle() {
	v.part(0)
	for _, m := range v.members {
		m.full.Store(false)
		m.skew.Store(0)
		v.holdBack(m, false)
	}
	time.Sleep(time.Minute)
	v.look()
	for _, m := range v.members {
		if m.life != nil {
			m.life.fuse.Store(0)
		}
		if m.life == nil {
			if err := m.begin(newLife(), v.books, allowAll); err != nil {
				v.t.Errorf("%s does not start on the disk that it has: %v", m.name, err)
				return
			}
		}
	}
	for i, m := range v.members { // where all is well a message is taken, whatever was before
		v.sendTo(m, v.members[(i+1)%len(v.members)], true)
	}
	for range 30 { // minutes
		v.meet()
		time.Sleep(time.Minute)
		if len(v.books.Missing()) == 0 {
			break
		}
	}
	for _, what := range v.books.Missing() {
		v.t.Errorf("acknowledged and not shown: %s", what)
	}
	for _, m := range v.members {
		for _, what := range v.publish(m, 1) {
			time.Sleep(10 * time.Second)
			for _, other := range v.members {
				if !v.books.Heard(other.name, what) {
					v.t.Errorf("%s does not hear %q though all is well", other.name, what)
				}
			}
		}
	}
}

func (v *virtual) close() {
	for _, m := range v.members {
		if err := m.end(nil); err != nil {
			v.t.Errorf("%s does not end in order: %v", m.name, err)
		}
	}
	v.eve.close()
	if err := v.net.Close(); err != nil {
		v.t.Error(err)
	}
}

// TestVirtual is the wide search.
func TestVirtual(t *testing.T) {
	rounds := *roundsFlag
	if rounds == 0 {
		rounds = 3
	}
	for i := range rounds {
		seed := *seedFlag + uint64(i)
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVirtual(t, seed, 4)
				began := time.Now()
				for range *stepsFlag {
					v.step()
				}
				v.settle()
				for _, what := range v.books.Wrong() {
					t.Error(what)
				}
				promised, heard := v.books.Size()
				t.Logf("%s of virtual time, %d messages promised, %d broadcasts heard, eve sent %d and has heard %d", time.Since(began).Round(time.Second), promised, heard, v.eve.sent, v.eve.count())
				v.close()
				if t.Failed() {
					for _, what := range v.done {
						t.Log(what)
					}
				}
			})
		})
	}
}

// eve is a peer with all rights and no manners: she says again what she has heard, changes it, and floods.
type eve struct {
	host host.Host
	key  seal.Key
	sent int

	mu    sync.Mutex
	heard []*pb.Message
	open  sync.WaitGroup
}

// gossip is what broadcasts go by.
const gossip protocol.ID = "/meshsub/1.2.0"

// keptByEve bounds what she remembers.
const keptByEve = 1000

func newEve(h host.Host, key seal.Key) *eve {
	e := &eve{host: h, key: key}
	h.SetStreamHandler(gossip, e.listen)
	return e
}

func (e *eve) listen(s network.Stream) {
	e.open.Add(1)
	defer e.open.Done()
	defer s.Reset()
	for {
		raw, err := readDelimited(s)
		if err != nil {
			return
		}
		var rpc pb.RPC
		if proto.Unmarshal(raw, &rpc) != nil {
			return
		}
		e.mu.Lock()
		e.heard = append(e.heard, rpc.Publish...)
		e.heard = e.heard[max(0, len(e.heard)-keptByEve):]
		e.mu.Unlock()
	}
}

func readDelimited(r io.Reader) ([]byte, error) {
	n, err := binary.ReadUvarint(oneByte{r})
	if err != nil || n > 4<<20 {
		return nil, errors.Join(err, io.ErrUnexpectedEOF)
	}
	raw := make([]byte, n)
	_, err = io.ReadFull(r, raw)
	return raw, err
}

type oneByte struct{ io.Reader }

func (r oneByte) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r, b[:])
	return b[0], err
}

// attack does something bad to a node. What comes of it, errors of a node that has sent her away among it, is not hers to know.
func (e *eve) attack(to peer.ID, r *rand.Rand) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	e.mu.Lock()
	heard := append([]*pb.Message(nil), e.heard...)
	e.mu.Unlock()
	name, rpc := topic, greeting()
	switch r.IntN(4) {
	case 0: // again, several times
		for range 3 {
			rpc.Publish = append(rpc.Publish, heard...)
		}
	case 1: // forged
		for _, m := range heard {
			data := append([]byte(nil), m.GetData()...)
			data[r.IntN(len(data))] ^= 1 << r.IntN(8)
			rpc.Publish = append(rpc.Publish, &pb.Message{Topic: &name, Data: data})
		}
	case 2: // nonsense
		for range 200 {
			data := make([]byte, r.IntN(300))
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			rpc.Publish = append(rpc.Publish, &pb.Message{Topic: &name, Data: data})
		}
	case 3: // private messages that are none
		e.say(ctx, to, direct.ProtocolMessages, make([]byte, 1+r.IntN(4096)))
		e.say(ctx, to, direct.ProtocolFiles, make([]byte, 1+r.IntN(4096)))
	}
	e.sent += len(rpc.Publish)
	e.gossip(ctx, to, rpc)
}

// greeting is that she hears the topic, and wants to be told.
func greeting() *pb.RPC {
	name := topic
	return &pb.RPC{Subscriptions: []*pb.RPC_SubOpts{{Topicid: &name, Subscribe: proto.Bool(true)}}, Control: &pb.ControlMessage{Graft: []*pb.ControlGraft{{TopicID: &name}}}}
}

// greet has a node tell her what it hears.
func (e *eve) greet(to peer.ID) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	e.gossip(ctx, to, greeting())
}

func (e *eve) gossip(ctx context.Context, to peer.ID, rpc *pb.RPC) {
	raw, err := proto.Marshal(rpc)
	if err != nil {
		panic(err)
	}
	e.say(ctx, to, gossip, append(binary.AppendUvarint(nil, uint64(len(raw))), raw...))
}

func (e *eve) say(ctx context.Context, to peer.ID, name protocol.ID, raw []byte) {
	s, err := e.host.NewStream(ctx, to, name)
	if err != nil {
		return
	}
	defer s.Close()
	_, _ = s.Write(raw)
}

func (e *eve) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.heard)
}

func (e *eve) close() {
	for _, c := range e.host.Network().Conns() {
		c.Close()
	}
	e.open.Wait()
}
