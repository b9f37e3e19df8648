package p2p

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// patience is how long a test waits for an event. It is no promise about speed: only what hangs takes that long.
const patience = 30 * time.Second

// seats gives everybody a seat, and counts them.
type seats struct {
	mu    sync.Mutex
	taken int
}

func (s *seats) reserve(context.Context, policy.Level) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.taken--
	}), nil
}

func newGuard(t testing.TB, change ...func(*zerotrust.Options)) *zerotrust.Guard {
	t.Helper()
	s := &seats{}
	o := zerotrust.Options{SelfSigned: []string{"peer"}, Record: func(context.Context, zerotrust.Event) error { return nil }, Capacity: s.reserve}
	for _, c := range change {
		c(&o)
	}
	g, err := zerotrust.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// newNode starts a node on loopback, which ends with the test.
func newNode(t testing.TB, change ...func(*Options)) *Node {
	t.Helper()
	o := Options{Key: seal.NewKey(), Listen: []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"}, NoDHT: true}
	o.Admission = zerotrust.AdmissionOptions{PerAddress: 1 << 20, Total: 1 << 20}
	o.Log = slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, c := range change {
		c(&o)
	}
	if o.Guard == nil {
		o.Guard = newGuard(t)
	}
	n, err := New(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// logWriter shows the log where a test has failed.
type logWriter struct{ t testing.TB }

func (w logWriter) Write(b []byte) (int, error) {
	defer func() { _ = recover() }() // a word after the test's end is nobody's
	w.t.Log(string(bytes.TrimSpace(b)))
	return len(b), nil
}

func info(n *Node) peer.AddrInfo {
	return peer.AddrInfo{ID: n.ID(), Addrs: n.inner.Network().ListenAddresses()}
}

func connect(t testing.TB, a, b *Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := a.Connect(ctx, info(b)); err != nil {
		t.Fatal(err)
	}
}

// plain is a host of libp2p's that speaks nothing of ours.
func plain(t testing.TB) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// eventually waits for a condition that no event tells of.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// TestConnect: over each transport, both ends have judged each other; what one may is known to the other, and a stream goes through.
func TestConnect(t *testing.T) {
	for _, c := range []struct{ name, listen, transport string }{
		{"tcp", "/ip4/127.0.0.1/tcp/0", "tcp"}, {"quic", "/ip4/127.0.0.1/udp/0/quic-v1", "quic-v1"}, {"ipv6", "/ip6/::1/tcp/0", "tcp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newNode(t)
			b := newNode(t, func(o *Options) { o.Listen = []string{c.listen} })
			const echo protocol.ID = "/test/echo/1"
			b.Host().SetStreamHandler(echo, func(s network.Stream) {
				defer s.Close()
				io.Copy(s, s)
			})
			connect(t, a, b)
			if err := b.await(context.Background(), a.ID()); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(a.Allow(b.ID(), "send", "topic/news"), b.Allow(a.ID(), "send", "peer/"+b.ID().String())); err != nil {
				t.Fatal(err)
			}
			if err := b.Allow(a.ID(), "send", "critical/keys"); !errors.Is(err, ErrDenied) {
				t.Errorf("critical/keys: %v", err)
			}
			s, err := a.Host().NewStream(context.Background(), b.ID(), echo)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			s.Write([]byte("hello"))
			s.CloseWrite()
			if got, err := io.ReadAll(s); string(got) != "hello" {
				t.Errorf("%q, %v", got, err)
			}
			if rtt, err := a.Ping(context.Background(), b.ID()); err != nil || rtt <= 0 {
				t.Errorf("ping: %s, %v", rtt, err)
			}
			st := a.Status()
			if len(st.Peers) != 1 || st.Peers[0].Transport != c.transport || st.Peers[0].Level != "verified" || st.Peers[0].Trust != 55 || st.Counts.Judged != 1 {
				t.Errorf("status %+v", st)
			}
		})
	}
}

// TestStranger: whoever does not come to be judged gets an answer from no protocol but those of Open, and is sent away.
func TestStranger(t *testing.T) {
	n := newNode(t, func(o *Options) {
		o.NoDHT = false
		o.RelayService, o.HolePunch, o.Reach, o.JudgeTime = true, true, ReachPublic, 3*time.Second
	})
	n.Host().SetStreamHandler("/quantra/msg/1", func(s network.Stream) { t.Error("a stranger came through"); s.Reset() })
	h := plain(t)
	h.SetStreamHandler(GuardProtocol, func(s network.Stream) { io.Copy(io.Discard, s) }) // it hears what it is asked, and says nothing
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := connected(t, ctx, h, n)
	names := n.inner.Mux().Protocols()
	want := []protocol.ID{GuardProtocol, InviteProtocol, "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0"}
	if got := n.Unguarded(); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("open protocols %v, want %v", got, want)
	}
	for _, must := range []protocol.ID{"/ipfs/ping/1.0.0", "/quantra/kad/1.0.0", "/libp2p/circuit/relay/0.2.0/hop", "/quantra/msg/1"} {
		if !slices.Contains(names, must) {
			t.Errorf("the node has no %s: the test shows nothing of it; it has %v", must, names)
		}
	}
	var wg sync.WaitGroup
	for _, name := range names {
		if slices.Contains(Open, name) {
			continue
		}
		wg.Go(func() {
			s, err := c.NewStream(ctx)
			if err != nil {
				return // it has been sent away by now
			}
			defer s.Reset()
			s.SetProtocol(name)
			s.Write([]byte("\x13/multistream/1.0.0\n" + string(rune(len(name)+1)) + string(name) + "\n"))
			s.SetReadDeadline(time.Now().Add(patience))
			got, err := io.ReadAll(s)
			if err == nil || len(got) > len("\x13/multistream/1.0.0\n")+len(name)+2 {
				t.Errorf("%s: answered %q, %v", name, got, err)
			}
		})
	}
	wg.Wait()
	eventually(t, "the stranger is sent away", func() bool { return n.inner.Network().Connectedness(h.ID()) != network.Connected })
	if err := n.Allow(h.ID(), "connect", n.ownResource); !errors.Is(err, ErrUnguarded) {
		t.Errorf("its right: %v", err)
	}
}

func keyOf(seed byte) seal.Key {
	k, err := seal.KeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	if err != nil {
		panic(err)
	}
	return k
}

func libp2pKey(t testing.TB, k seal.Key) crypto.PrivKey {
	t.Helper()
	pub := k.Public()
	key, err := crypto.UnmarshalEd25519PrivateKey(append(k.Seed(), pub[:]...))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestIDs: our id of a key is libp2p's.
func TestIDs(t *testing.T) {
	for seed := range byte(8) {
		k := keyOf(seed + 1)
		want, err := peer.IDFromPrivateKey(libp2pKey(t, k))
		if err != nil {
			t.Fatal(err)
		}
		if got := IDOf(k.Public()); got != want || got.String() != zerotrust.IDOf(k.Public()) {
			t.Errorf("%s, want %s", got, want)
		}
		if key, ok := KeyOf(want); !ok || key != k.Public() {
			t.Errorf("the key of %s is %v, %v", want, key, ok)
		}
	}
}

// connected is a connection with the node, which may end those of whom it does not know at any moment.
func connected(t *testing.T, ctx context.Context, h host.Host, n *Node) network.Conn {
	t.Helper()
	for {
		if err := h.Connect(ctx, info(n)); ctx.Err() != nil {
			t.Fatal(err)
		}
		if conns := h.Network().ConnsToPeer(n.ID()); len(conns) > 0 {
			return conns[0]
		}
	}
}
