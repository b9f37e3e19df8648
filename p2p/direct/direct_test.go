package direct

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

// keyNumber is a key that is the same in every run.
func keyNumber(n byte) seal.Key {
	k, err := seal.KeyFromSeed(bytes.Repeat([]byte{n}, 32))
	if err != nil {
		panic(err)
	}
	return k
}

// newHost is a host of a key on loopback: TCP and Noise, as the node has.
func newHost(t testing.TB, k seal.Key) host.Host {
	t.Helper()
	public := k.Public()
	private, err := crypto.UnmarshalEd25519PrivateKey(append(k.Seed(), public[:]...))
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(private), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(noise.ID, noise.New), libp2p.DisableRelay(), libp2p.ResourceManager(nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// meet tells hosts each other's addresses; nobody dials.
func meet(hosts ...host.Host) {
	for _, a := range hosts {
		for _, b := range hosts {
			if a != b {
				a.Peerstore().AddAddrs(b.ID(), b.Addrs(), peerstore.PermanentAddrTTL)
			}
		}
	}
}

func allowAll(peer.ID, string, string) error { return nil }

// fast is options with which nothing waits for long.
func fast(k seal.Key, f vfs.FS, dir string) Options {
	return Options{Key: k, Allow: allowAll, Dir: dir, FS: f, RetryMin: 5 * time.Millisecond, RetryMax: 50 * time.Millisecond}
}

func start(t testing.TB, h host.Host, o Options) *Service {
	t.Helper()
	if testing.Verbose() && o.Log == nil && os.Getenv("DIRECT_LOG") != "" {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("self", h.ID().String()[48:])
	}
	s, err := New(h, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// soon is a context that ends a test which hangs.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// reader is a reader of messages that keeps what it has been shown, by index, as Options.Deliver says.
type reader struct {
	mu    sync.Mutex
	last  uint64
	again int // times that a message was given which it had
	got   []Message
	came  chan struct{}
}

func newReader() *reader { return &reader{came: make(chan struct{}, 1)} }

func (r *reader) deliver(_ context.Context, m Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.Index <= r.last {
		r.again++
		return nil
	}
	r.last = m.Index
	r.got = append(r.got, m)
	signal(r.came)
	return nil
}

// bodies waits for so many messages and is what they say.
func (r *reader) bodies(t testing.TB, n int) (out []string) {
	t.Helper()
	ctx := soon(t)
	for {
		r.mu.Lock()
		if len(r.got) >= n {
			for _, m := range r.got {
				out = append(out, string(m.Body))
			}
			r.mu.Unlock()
			return out
		}
		r.mu.Unlock()
		select {
		case <-r.came:
		case <-ctx.Done():
			t.Fatalf("%d messages came, of %d", len(r.got), n)
		}
	}
}

// pair is two services on loopback.
func pair(t testing.TB, change func(a, b *Options)) (a, b *Service) {
	t.Helper()
	ka, kb := keyNumber(1), keyNumber(2)
	oa, ob := fast(ka, vfs.NewMem(), "/a"), fast(kb, vfs.NewMem(), "/b")
	if change != nil {
		change(&oa, &ob)
	}
	ha, hb := newHost(t, ka), newHost(t, kb)
	meet(ha, hb)
	return start(t, ha, oa), start(t, hb, ob)
}

func TestPostAndRequest(t *testing.T) {
	var n atomic.Int64
	got := make(chan string, 10)
	a, b := pair(t, func(_, b *Options) {
		b.Receive = func(_ peer.ID, body []byte) error { n.Add(1); got <- string(body); return nil }
		b.Answer = func(ctx context.Context, _ peer.ID, body []byte) ([]byte, error) {
			switch {
			case bytes.HasPrefix(body, []byte("wait")):
				got <- "working"
				<-ctx.Done()
				got <- "cancelled"
				return nil, ctx.Err()
			case bytes.HasPrefix(body, []byte("fail")):
				return nil, errors.New("no such thing")
			case bytes.HasPrefix(body, []byte("panic")):
				panic("planted")
			}
			return append([]byte("re: "), body...), nil
		}
	})
	ctx := soon(t)
	if err := a.Post(ctx, b.self, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if s := <-got; s != "hello" {
		t.Fatalf("%q came", s)
	}
	large := bytes.Repeat([]byte("x"), MaxMessage)
	answer, err := a.Request(ctx, b.self, large[:MaxMessage-4])
	if err != nil || string(answer) != "re: "+string(large[:MaxMessage-4]) {
		t.Fatalf("%d bytes, %v", len(answer), err)
	}
	if _, err := a.Request(ctx, b.self, []byte("fail")); !errors.Is(err, errAnswer) || !strings.Contains(err.Error(), "no such thing") {
		t.Fatal(err)
	}
	if _, err := a.Request(ctx, b.self, []byte("panic")); !errors.Is(err, errAnswer) {
		t.Fatal(err)
	}
	waiting, cancel := context.WithCancel(ctx)
	ended := make(chan error)
	go func() { _, err := a.Request(waiting, b.self, []byte("wait")); ended <- err }()
	if s := <-got; s != "working" {
		t.Fatal(s)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if s := <-got; s != "cancelled" {
		t.Fatal(s)
	}
	if err := a.Post(ctx, b.self, make([]byte, MaxMessage+1)); err == nil {
		t.Fatal("a message that is too large was taken")
	}
	if _, err := b.Request(ctx, a.self, []byte("x")); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
}

// TestDurable: messages in both directions, each once and in order, and what history says of them.
func TestDurable(t *testing.T) {
	ra, rb := newReader(), newReader()
	a, b := pair(t, func(a, b *Options) { a.Deliver, b.Deliver = ra.deliver, rb.deliver })
	ctx := soon(t)
	var want []string
	var ids []string
	for i := range 200 {
		body := fmt.Sprint("message ", i)
		want = append(want, body)
		id, err := a.Send(ctx, b.self, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if _, err := b.Send(ctx, a.self, nil); err != nil {
		t.Fatal(err)
	}
	if got := rb.bodies(t, 200); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("came %q", got)
	}
	if got := ra.bodies(t, 1); got[0] != "" {
		t.Fatal(got)
	}
	for _, err := range []error{a.Flush(ctx, b.self), b.Flush(ctx, a.self)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	ha, err := a.History(b.self, 50)
	if err != nil || len(ha) != 50 {
		t.Fatal(len(ha), err)
	}
	hb, err := b.History(a.self, 1000)
	if err != nil || len(hb) != 201 {
		t.Fatal(len(hb), err)
	}
	seen := map[string]bool{}
	for _, m := range hb {
		seen[m.ID] = true
		if m.Pending {
			t.Errorf("%+v is pending", m)
		}
	}
	for _, id := range ids {
		if !seen[id] {
			t.Errorf("%s is not in the recipient's history", id)
		}
	}
	if rb.again > 0 {
		t.Errorf("%d were given twice, without a crash", rb.again)
	}
}
