package broadcast

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

// keyAt is the key of a number, the same each time.
func keyAt(n int) seal.Key {
	seed := make([]byte, 32)
	copy(seed, fmt.Sprintf("broadcast test key %d", n))
	k, err := seal.KeyFromSeed(seed)
	if err != nil {
		panic(err)
	}
	return k
}

// newHost is a real host on loopback, TCP and Noise, without anything that would reach out by itself.
func newHost(t testing.TB, key seal.Key) host.Host {
	t.Helper()
	public := key.Public()
	private, err := crypto.UnmarshalEd25519PrivateKey(append(key.Seed(), public[:]...))
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(private), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(noise.ID, noise.New), libp2p.Muxer(yamux.ID, yamux.DefaultTransport), libp2p.DisableRelay(), libp2p.DisableMetrics(),
		libp2p.ResourceManager(&network.NullResourceManager{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// connect connects two hosts. On a busy machine a handshake may take longer than libp2p waits for it.
func connect(t testing.TB, a, b host.Host) {
	t.Helper()
	eventually(t, "they are connected", func() bool {
		return a.Connect(context.Background(), peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}) == nil
	})
}

// rights are those that a test gives and takes. The zero value allows everything.
type rights struct {
	mu     sync.RWMutex
	denied map[string]bool // "peer action resource", with * for any
}

func (r *rights) allow(p peer.ID, action, resource string) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, pattern := range []string{fmt.Sprintf("%s %s %s", p, action, resource), fmt.Sprintf("%s %s *", p, action), fmt.Sprintf("%s * *", p), "* * *"} {
		if r.denied[pattern] {
			return errors.New("denied by the test")
		}
	}
	return nil
}

func (r *rights) deny(pattern string, denied bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.denied == nil {
		r.denied = map[string]bool{}
	}
	r.denied[pattern] = denied
}

// node is a host with a service, as a test has them.
type node struct {
	*Service
	host   host.Host
	rights *rights
	disk   *vfs.Mem
}

// start starts a node of its own key, with what change makes of its options.
func start(t testing.TB, n int, change ...func(*Options)) *node {
	t.Helper()
	key := keyAt(n)
	x := &node{host: newHost(t, key), rights: &rights{}, disk: vfs.NewMem()}
	x.serve(t, key, change...)
	return x
}

func (x *node) serve(t testing.TB, key seal.Key, change ...func(*Options)) {
	t.Helper()
	o := Options{Key: key, Allow: x.rights.allow, Dir: "/broadcast", FS: x.disk, Log: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&o)
	}
	s, err := New(context.Background(), x.host, o)
	if err != nil {
		t.Fatal(err)
	}
	x.Service = s
	t.Cleanup(func() { s.Close() })
}

// subscribe subscribes, and waits until those who are connected know.
func (x *node) subscribe(t testing.TB, topic string, o ...SubscribeOptions) *Subscription {
	t.Helper()
	sub, err := x.SubscribeWith(topic, append(o, SubscribeOptions{})[0])
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

// patience is how long a test waits for what is to come: long, for machines that are busy.
const patience = time.Minute

// eventually waits for what something else brings about, looking every few milliseconds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	over := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-over:
			t.Fatalf("it did not come to this: %s", what)
		}
	}
}

// hears waits until x knows that y hears a topic.
func (x *node) hears(t testing.TB, topic string, y *node) {
	t.Helper()
	eventually(t, "the neighbour hears the topic", func() bool { return x.hearsNow(topic, y) })
}

func (x *node) hearsNow(topic string, y *node) bool {
	for _, p := range x.Listeners(topic) {
		if p == y.host.ID() {
			return true
		}
	}
	return false
}

func (x *node) publish(t testing.TB, topic, text string) ID {
	t.Helper()
	id, err := x.Publish(context.Background(), topic, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// next is the next message, which is to come.
func next(t testing.TB, sub *Subscription) Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m, err := sub.Next(ctx)
	if err != nil {
		t.Fatalf("no message: %v", err)
	}
	return m
}
