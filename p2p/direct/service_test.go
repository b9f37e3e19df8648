package direct

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/quantra-l/quantra/internal/vfs"
)

// TestCrashOfServices: either side loses its power in the middle of a conversation over real sockets, and comes back. The points are
// some of those that TestCrashEverywhere has all of.
func TestCrashOfServices(t *testing.T) {
	points := []int{9, 27, 44}
	for _, side := range []string{"sender", "recipient"} {
		for _, n := range points {
			t.Run(fmt.Sprint(side, n), func(t *testing.T) { crashOfServices(t, side, n) })
		}
	}
}

func crashOfServices(t *testing.T, side string, n int) {
	var left atomic.Int64
	left.Store(int64(n))
	mem := vfs.NewMem()
	hooked := vfs.Hook(mem, func(vfs.Op) error {
		if left.Add(-1) < 0 {
			return errors.New("no power")
		}
		return nil
	})
	r := newReader()
	ka, kb := keyNumber(1), keyNumber(2)
	oa, ob := fast(ka, vfs.NewMem(), "/n"), fast(kb, vfs.NewMem(), "/n")
	failing := &oa
	if side == "recipient" {
		failing = &ob
	}
	failing.FS, ob.Deliver = hooked, r.deliver
	ha, hb := newHost(t, ka), newHost(t, kb)
	meet(ha, hb)
	services := make([]*Service, 2)
	var errs [2]error
	services[0], errs[0] = New(ha, oa)
	services[1], errs[1] = New(hb, ob)
	ctx := soon(t)
	var acked []string
	send := func(i int) {
		if services[0] == nil {
			return
		}
		body := fmt.Sprint("message ", i)
		if _, err := services[0].Send(ctx, hb.ID(), []byte(body)); err == nil {
			acked = append(acked, body)
		}
	}
	for i := range 30 {
		send(i)
	}
	for _, s := range services {
		if s != nil {
			_ = s.Close()
		}
	}
	failing.FS = mem.Crash(rand.New(rand.NewPCG(uint64(n), 1)))
	services[0], services[1] = start(t, ha, oa), start(t, hb, ob)
	send(-1)
	if err := services[0].Flush(ctx, hb.ID()); err != nil {
		t.Fatal(err)
	}
	got := r.bodies(t, len(acked))
	if len(slices.Compact(slices.Sorted(slices.Values(got)))) != len(got) {
		t.Fatalf("one of %d was shown twice", len(got))
	}
	for _, body := range acked {
		if !slices.Contains(got, body) {
			t.Fatalf("%q was acknowledged and not shown", body)
		}
	}
}

// TestSlowReader: a reader that takes nothing makes the sender wait, with a bounded amount on the way; a context ends the wait.
func TestSlowReader(t *testing.T) {
	hold := make(chan struct{})
	var got atomic.Int64
	a, b := pair(t, func(_, b *Options) {
		b.Receive = func(peer.ID, []byte) error { <-hold; got.Add(1); return nil }
	})
	ctx, cancel := context.WithCancel(soon(t))
	body := make([]byte, 64<<10)
	var sent int64
	last := make(chan struct{}, 1)
	done := make(chan error)
	go func() {
		for {
			if err := a.Post(ctx, b.self, body); err != nil {
				done <- err
				return
			}
			atomic.AddInt64(&sent, 1)
			signal(last)
		}
	}()
	for stuck := false; !stuck; {
		select {
		case <-last:
		case <-time.After(2 * time.Second):
			stuck = true
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	// libp2p's window of a stream is 16 MiB; ours are on both sides of it.
	if n := atomic.LoadInt64(&sent) * int64(len(body)); n > 40<<20 {
		t.Fatalf("%d bytes were taken for a reader that takes none", n)
	}
	close(hold)
	if err := a.Post(soon(t), b.self, body); err != nil {
		t.Fatal(err)
	}
	for got.Load() < atomic.LoadInt64(&sent)+1 {
		<-time.After(time.Millisecond)
	}
}

// TestRights: nothing is taken from a peer without the right, and nothing is sent to one that may not be connected.
func TestRights(t *testing.T) {
	var may atomic.Bool
	var asked atomic.Pointer[string]
	r := newReader()
	reg := prometheus.NewRegistry()
	a, b := pair(t, func(a, b *Options) {
		b.Registry = reg
		b.Deliver = r.deliver
		b.Receive = func(peer.ID, []byte) error { t.Error("a message without the right"); return nil }
		b.Answer = func(context.Context, peer.ID, []byte) ([]byte, error) { return nil, nil }
		b.Allow = func(p peer.ID, action, resource string) error {
			if p != idOf(a.Key.Public()) {
				t.Errorf("it was asked for %s", p)
			}
			asked.Store(&resource)
			if action == "send" && !may.Load() {
				return errors.New("level untrusted")
			}
			return nil
		}
	})
	ctx := soon(t)
	if _, err := a.Request(ctx, b.self, nil); !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "level untrusted") {
		t.Fatal(err)
	}
	if err := a.Post(ctx, b.self, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Send(ctx, b.self, []byte("later")); err != nil {
		t.Fatal(err)
	}
	for testutil.ToFloat64(b.m.refused.WithLabelValues("denied")) < 2 {
		<-time.After(time.Millisecond)
	}
	if got := *asked.Load(); got != "peer/"+b.self.String() {
		t.Fatal(got)
	}
	may.Store(true)
	a.Ready(b.self)
	if got := r.bodies(t, 1); got[0] != "later" {
		t.Fatal(got)
	}
	may.Store(false)
	b.Lost(a.self)
	if _, err := a.Request(ctx, b.self, nil); err == nil {
		t.Fatal("answered without the right")
	}
	if n, err := testutil.GatherAndCount(reg); err != nil || n < 10 {
		t.Fatal(n, err)
	}
}

// TestSessionsEndInOrder: sessions that are renewed all the time lose nothing that was taken, and no request.
func TestSessionsEndInOrder(t *testing.T) {
	var posts atomic.Int64
	r := newReader()
	a, b := pair(t, func(a, b *Options) {
		a.SessionAge = 20 * time.Millisecond
		b.Deliver = r.deliver
		b.Receive = func(peer.ID, []byte) error { posts.Add(1); return nil }
		b.Answer = func(_ context.Context, _ peer.ID, body []byte) ([]byte, error) { return body, nil }
	})
	ctx := soon(t)
	n, sent := int64(0), 0
	for began := time.Now(); time.Since(began) < time.Second || n < 200; n++ {
		if err := a.Post(ctx, b.self, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if got, err := a.Request(ctx, b.self, []byte("y")); err != nil || string(got) != "y" {
			t.Fatal(err)
		}
		if n%10 == 0 {
			if _, err := a.Send(ctx, b.self, []byte("z")); err != nil {
				t.Fatal(err)
			}
			sent++
		}
	}
	r.bodies(t, sent)
	if posts.Load() != n {
		t.Fatalf("%d came of %d", posts.Load(), n)
	}
	if len(r.got) != sent || r.again > 0 {
		t.Fatalf("%d were shown of %d", len(r.got), sent)
	}
}

// trio is three hosts: A and B that are never there at the same time, and K that keeps messages for them.
type trio struct {
	t     *testing.T
	hosts map[string]*node
}

type node struct {
	o       Options
	r       *reader
	service *Service
	stop    func()
	id      peer.ID
}

func newTrio(t *testing.T) *trio {
	x := &trio{t, map[string]*node{}}
	for i, name := range []string{"a", "b", "k"} {
		n := &node{o: fast(keyNumber(byte(i+1)), vfs.NewMem(), "/n"), r: newReader(), id: idOf(keyNumber(byte(i + 1)).Public())}
		n.o.Deliver = n.r.deliver
		x.hosts[name] = n
	}
	k := x.hosts["k"]
	k.o.Keep = 1 << 20
	for _, name := range []string{"a", "b"} {
		x.hosts[name].o.Keepers = []peer.ID{k.id}
	}
	return x
}

// up brings a node up and connects it to those that are there.
func (x *trio) up(name string) *Service {
	x.t.Helper()
	n := x.hosts[name]
	h := newHost(x.t, n.o.Key)
	for _, other := range x.hosts {
		if other.service != nil {
			meet(h, other.service.host)
		}
	}
	n.service = start(x.t, h, n.o)
	n.stop = func() { n.service.Close(); h.Close(); n.service = nil }
	for _, other := range x.hosts {
		if other.service != nil && other != n {
			if err := h.Connect(soon(x.t), peer.AddrInfo{ID: other.id, Addrs: other.service.host.Addrs()}); err != nil {
				x.t.Fatal(err)
			}
		}
	}
	return n.service
}

// TestStoreAndForward: a message goes from A to B, who are never there at the same time, by way of K, who cannot read it; A hears that B
// has it.
func TestStoreAndForward(t *testing.T) {
	x := newTrio(t)
	a, b, k := x.hosts["a"], x.hosts["b"], x.hosts["k"]
	ctx := soon(t)
	// They have met once, so that they know each other's keys.
	x.up("a")
	x.up("b")
	for _, pair := range [][2]*node{{a, b}, {b, a}} {
		if _, err := pair[0].service.Send(ctx, pair[1].id, []byte("we have met")); err != nil {
			t.Fatal(err)
		}
		if err := pair[0].service.Flush(ctx, pair[1].id); err != nil {
			t.Fatal(err)
		}
	}
	b.stop()
	x.up("k")
	const secret = "nobody between reads this"
	for i := range 5 {
		if _, err := a.service.Send(ctx, b.id, fmt.Append(nil, secret, i)); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, func() bool { return len(k.service.keeper.recipients()) == 1 && held(k.service) == 5 })
	names, err := k.o.FS.List("/n/kept")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		raw, err := readWhole(k.o.FS, "/n/kept/"+name, 1<<20)
		if err != nil || strings.Contains(string(raw), secret) || len(raw) < 100 {
			t.Fatalf("K can read it: %q %v", raw, err)
		}
	}
	k.stop() // K restarts, too
	a.stop()
	x.up("k")
	x.up("b")
	got := b.r.bodies(t, 6)
	if len(got) != 6 || got[1] != secret+"0" || got[5] != secret+"4" {
		t.Fatalf("%q", got)
	}
	waitFor(t, func() bool {
		return held(k.service) == 5 && slices.Equal(k.service.keeper.recipients(), []peer.ID{a.id})
	}) // the receipts
	b.stop()
	x.up("a")
	if err := a.service.Flush(ctx, b.id); err != nil {
		t.Fatal(err)
	}
	// A message that was left and is also brought is shown once.
	if _, err := a.service.Send(ctx, b.id, []byte("both ways")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return slices.Contains(k.service.keeper.recipients(), b.id) })
	x.up("b")
	if err := a.service.Flush(ctx, b.id); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return !slices.Contains(k.service.keeper.recipients(), b.id) })
	if got := b.r.bodies(t, 7); len(got) != 7 || got[6] != "both ways" {
		t.Fatalf("%q", got)
	}
	if b.r.again > 0 {
		t.Fatalf("%d were shown again", b.r.again)
	}
}

func held(s *Service) int {
	s.keeper.mu.Lock()
	defer s.keeper.mu.Unlock()
	return len(s.keeper.all)
}

// waitFor waits until something is so.
func waitFor(t testing.TB, so func() bool) {
	t.Helper()
	ctx := soon(t)
	for !so() {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			t.Fatal("it does not come to that")
		}
	}
}

// TestKeeperRefuses: without the right, beyond the bounds, and what is no message.
func TestKeeperRefuses(t *testing.T) {
	var may atomic.Bool
	a, k := pair(t, func(a, k *Options) {
		k.Keep = 64 << 10
		k.Allow = func(_ peer.ID, action, resource string) error {
			if action == "send" && resource == "peer/"+idC.String() && !may.Load() {
				return errors.New("no")
			}
			return nil
		}
	})
	ctx := soon(t)
	keys := testKeys(t, keyNumber(3), birth)
	_, bundle := keys.newest()
	sealed, err := sealTo(keyNumber(1), bundle, (&envelope{kind: kindMessage, epoch: 1, seq: 1, floor: 1, at: birth, body: make([]byte, 3000)}).append(nil))
	if err != nil {
		t.Fatal(err)
	}
	var tag [tagSize]byte
	deposit := func(b []byte) error { _, err := a.ask(ctx, k.self, methodDeposit, tag[:], b); return err }
	if err := deposit(sealed); !errors.Is(err, ErrDenied) {
		t.Fatal(err)
	}
	may.Store(true)
	for range 2 { // the same is kept once
		if err := deposit(sealed); err != nil {
			t.Fatal(err)
		}
	}
	if n := held(k); n != 1 {
		t.Fatal(n)
	}
	for i := byte(1); ; i++ {
		tag[0]++ // K cannot know what is in it: it goes by the tag
		err := deposit(sealed)
		if errors.Is(err, ErrUnavailable) && i >= 1 {
			break
		} else if err != nil || i > 3 {
			t.Fatal(i, err)
		}
	}
	for _, bad := range [][]byte{nil, sealed[:50], append([]byte{9}, sealed[1:]...)} {
		if err := deposit(bad); !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	}
	if _, err := a.ask(ctx, k.self, 77, nil, nil); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	if err := k.keeper.expire(); err != nil || held(k) == 0 {
		t.Fatal(err)
	}
	k.keeper.now = func() time.Time { return time.Now().Add(heldFor + time.Hour) }
	if err := k.keeper.expire(); err != nil || held(k) != 0 || k.keeper.bytes() != 0 {
		t.Fatal(err, held(k))
	}
}

// TestGroup: who is in a group gets what is said in it, who was removed gets nothing more, and nobody but the owner says who is.
func TestGroup(t *testing.T) {
	var s []*Service
	var rs []*reader
	for i := range byte(4) {
		k := keyNumber(i + 1)
		o, r := fast(k, vfs.NewMem(), "/n"), newReader()
		o.Deliver = r.deliver
		h := newHost(t, k)
		for _, other := range s {
			meet(h, other.host)
		}
		s, rs = append(s, start(t, h, o)), append(rs, r)
	}
	ctx := soon(t)
	flush := func(from int) {
		for i := range s {
			if i != from {
				if err := s[from].Flush(ctx, s[i].self); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	g, err := s[0].CreateGroup(ctx, "team", []peer.ID{s[1].self, s[2].self})
	if err != nil || len(g.Members) != 3 || g.Version != 1 {
		t.Fatal(g, err)
	}
	flush(0)
	id, err := s[1].SendGroup(ctx, g.ID, []byte("hello all"))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 2} {
		if got := rs[i].bodies(t, 1); got[0] != "hello all" || rs[i].got[0].Group != g.ID || rs[i].got[0].ID != id || rs[i].got[0].From != s[1].self {
			t.Fatalf("%+v", rs[i].got)
		}
	}
	flush(1)
	if _, err := s[3].SendGroup(ctx, g.ID, []byte("let me in")); !errors.Is(err, ErrNotMember) {
		t.Fatal(err)
	}
	if _, err := s[1].ChangeGroup(ctx, g.ID, nil, []peer.ID{s[0].self}); !errors.Is(err, ErrNotMember) {
		t.Fatal(err)
	}
	if g, err = s[0].ChangeGroup(ctx, g.ID, []peer.ID{s[3].self}, []peer.ID{s[2].self}); err != nil || g.Version != 2 || g.Has(s[2].self) || !g.Has(s[3].self) {
		t.Fatal(g, err)
	}
	flush(0)
	if _, err := s[0].SendGroup(ctx, g.ID, []byte("without you")); err != nil {
		t.Fatal(err)
	}
	flush(0)
	for _, i := range []int{1, 3} {
		got := rs[i].bodies(t, 1)
		if got[len(got)-1] != "without you" {
			t.Fatal(i, got)
		}
	}
	if len(rs[2].got) != 1 {
		t.Fatalf("who was removed got %+v", rs[2].got)
	}
	if _, err := s[2].SendGroup(ctx, g.ID, []byte("I am still here")); !errors.Is(err, ErrNotMember) {
		t.Fatal(err)
	}
	// What one who was removed sends all the same, as if it had the old list, is refused.
	old := s[2].list(g.ID)
	forged := old.Group
	forged.Version, forged.Members = 3, []peer.ID{s[1].self, s[2].self}
	if _, err := signList(keyNumber(3), forged, old.nonce); err == nil {
		t.Fatal("a list that is signed by another than its owner was taken")
	}
	e := envelope{kind: kindGroup, body: append(append([]byte{0, byte(len(old.raw))}, old.raw...), make([]byte, contentSize+3)...)}
	e.body[0], e.body[1] = byte(len(old.raw)>>8), byte(len(old.raw))
	if _, _, err := s[1].ledger.kept(s[2].self, &e); !errors.Is(err, ErrNotMember) || codeOf(err) != codeNever {
		t.Fatal(err)
	}
	h, err := s[1].GroupHistory(g.ID, 10)
	if err != nil || len(h) != 2 || string(h[0].Body) != "hello all" || string(h[1].Body) != "without you" {
		t.Fatalf("%+v %v", h, err)
	}
	if got := s[3].Groups(); len(got) != 1 || got[0].Name != "team" || got[0].Version != 2 {
		t.Fatalf("%+v", got)
	}
	if h, err := s[1].History(s[0].self, 10); err != nil || len(h) != 0 {
		t.Fatalf("a group's messages are in the history of a peer: %+v %v", h, err)
	}
}

// TestDeliverFails: a message that was not taken is given again, and those behind it wait.
func TestDeliverFails(t *testing.T) {
	var calls atomic.Int64
	r := newReader()
	a, b := pair(t, func(_, b *Options) {
		b.Deliver = func(ctx context.Context, m Message) error {
			switch calls.Add(1) {
			case 1:
				return errors.New("not now")
			case 2:
				panic("planted")
			}
			return r.deliver(ctx, m)
		}
	})
	for _, body := range []string{"one", "two"} {
		if _, err := a.Send(soon(t), b.self, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.bodies(t, 2); strings.Join(got, " ") != "one two" {
		t.Fatal(got)
	}
}

// TestOptions: what cannot work is said at the start.
func TestOptions(t *testing.T) {
	h := newHost(t, keyNumber(1))
	for _, o := range []Options{
		{}, {Key: keyNumber(2), Allow: allowAll, Dir: "/d"}, {Key: keyNumber(1), Dir: "/d"}, {Key: keyNumber(1), Allow: allowAll},
		{Key: keyNumber(1), Allow: allowAll, Dir: "/d", FS: vfs.NewMem(), HistoryBytes: 100}, {Key: keyNumber(1), Allow: allowAll, Dir: "/d", FS: vfs.NewMem(), Keep: -1},
		{Key: keyNumber(1), Allow: allowAll, Dir: "/d", FS: vfs.NewMem(), Stall: -1},
	} {
		if s, err := New(h, o); err == nil {
			s.Close()
			t.Errorf("%+v was taken", o)
		}
	}
	s, err := New(h, fast(keyNumber(1), vfs.NewMem(), "/d"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Send(context.Background(), idB, nil); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	if err := s.Post(context.Background(), idB, nil); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
}

// TestSetBack: a node whose folder was set back to an earlier state, over sockets: what it sends then is shown.
func TestSetBack(t *testing.T) {
	r := newReader()
	ka, kb := keyNumber(1), keyNumber(2)
	ha, hb := newHost(t, ka), newHost(t, kb)
	meet(ha, hb)
	mem := vfs.NewMem()
	oa, ob := fast(ka, mem, "/n"), fast(kb, vfs.NewMem(), "/n")
	ob.Deliver = r.deliver
	a, _ := start(t, ha, oa), start(t, hb, ob)
	ctx := soon(t)
	send := func(s *Service, body string) {
		if _, err := s.Send(ctx, hb.ID(), []byte(body)); err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(ctx, hb.ID()); err != nil {
			t.Fatal(err)
		}
	}
	send(a, "one")
	early := mem.Crash(nil)
	send(a, "two")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	oa.FS = early
	a = start(t, ha, oa)
	send(a, "three")
	if got := r.bodies(t, 3); got[len(got)-1] != "three" {
		t.Fatal(got)
	}
}
