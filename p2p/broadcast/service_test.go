package broadcast

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"github.com/quantra-l/quantra/internal/vfs"
)

// TestTwo: what one publishes the other hears once, with its id, and so does the publisher, from the first message on.
func TestTwo(t *testing.T) {
	t.Parallel()
	a, b := start(t, 1), start(t, 2)
	connect(t, a.host, b.host)
	mine, theirs := a.subscribe(t, "news"), b.subscribe(t, "news")
	a.hears(t, "news", b)
	const many = 1000
	sent := map[ID]string{}
	for i := range many {
		text := fmt.Sprintf("message %d", i%10) // equal payloads are different messages
		sent[a.publish(t, "news", text)] = text
	}
	if len(sent) != many {
		t.Fatalf("%d ids for %d messages", len(sent), many)
	}
	if err := a.Flush(t.Context()); err != nil || a.waiting() != 0 {
		t.Fatalf("%d messages wait after Flush: %v", a.waiting(), err)
	}
	for _, sub := range []*Subscription{mine, theirs} {
		heard := map[ID]bool{}
		for range many {
			m := next(t, sub)
			if sent[m.ID] != string(m.Payload) || heard[m.ID] || m.Topic != "news" || m.ID.From != a.host.ID() || m.Via != a.host.ID() {
				t.Fatalf("heard %v %q via %s: it was not sent so, or was heard before", m.ID, m.Payload, m.Via)
			}
			heard[m.ID] = true
		}
	}
	envelopes := testutil.ToFloat64(a.m.publishedEnvelopes)
	if envelopes > many/2 || testutil.ToFloat64(a.m.published) != many {
		t.Errorf("%v messages went in %v envelopes", testutil.ToFloat64(a.m.published), envelopes)
	}
}

// TestRestart: a publisher that starts again, also after a crash, has new numbers, and is heard by those who knew it.
func TestRestart(t *testing.T) {
	t.Parallel()
	a, b := start(t, 60), start(t, 61)
	connect(t, a.host, b.host)
	sub := b.subscribe(t, "news")
	a.publish(t, "warm", "a topic of its own") // is heard by nobody
	last := ID{}
	for run := range 3 {
		a.hearsOrJoins(t, "news", b)
		id := a.publish(t, "news", fmt.Sprint(run))
		if m := next(t, sub); m.ID != id || string(m.Payload) != fmt.Sprint(run) {
			t.Fatalf("run %d: heard %v %q, not %v", run, m.ID, m.Payload, id)
		}
		if id.Epoch < last.Epoch || id.Epoch == last.Epoch && id.Sequence <= last.Sequence {
			t.Errorf("run %d has number %v after %v", run, id, last)
		}
		last = id
		crashed := a.disk.Crash(nil)
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if run == 1 {
			a.disk = crashed
		}
		a.serve(t, keyAt(60))
	}
}

// hearsOrJoins joins a topic to publish to it, and waits for one who hears it.
func (x *node) hearsOrJoins(t testing.TB, topic string, y *node) {
	t.Helper()
	if _, err := x.join(topic); err != nil {
		t.Fatal(err)
	}
	x.hears(t, topic, y)
}

// TestRights: nobody says or hears what he may not, from the message on at which his right is gone, and again when it is back.
func TestRights(t *testing.T) {
	t.Parallel()
	a, b, c := start(t, 70), start(t, 71), start(t, 72)
	connect(t, a.host, b.host)
	connect(t, b.host, c.host)
	subs := map[*node]*Subscription{}
	for _, x := range []*node{a, b, c} {
		subs[x] = x.subscribe(t, "news")
	}
	b.hears(t, "news", a)
	b.hears(t, "news", c)
	c.hears(t, "news", b)
	const first = "by way of b" // said until a hears it: b hands nothing on to a before both are in the topic's mesh
	heard := func(x *node, text string) {
		t.Helper()
		for {
			switch m := next(t, subs[x]); string(m.Payload) {
			case text:
				return
			case first:
			default:
				t.Fatalf("heard %q, not %q", m.Payload, text)
			}
		}
	}
	say := func(x *node, text string) {
		t.Helper()
		x.publish(t, "news", text)
		heard(x, text)
		if err := x.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a hears c", func() bool {
		c.publish(t, "news", first)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := subs[a].Next(ctx)
		return err == nil
	})
	heard(b, first)

	// c may not send: b takes nothing of it, by its own rule, and a hears nothing.
	b.rights.deny(c.host.ID().String()+" send *", true)
	say(c, "unheard")
	b.refuses(t, refusedPeer, 1)
	say(b, "b is heard")
	heard(c, "b is heard")
	heard(a, "b is heard")

	// a may not hear: the next message does not get to it any more, though nobody has said that its right is gone.
	b.rights.deny(a.host.ID().String()+" subscribe *", true)
	say(b, "not for a")
	heard(c, "not for a")
	if b.refusals(refusedListener) == 0 {
		eventually(t, "a is out of the topic", func() bool { return !b.hearsNow("news", a) })
	}
	b.rights.deny(a.host.ID().String()+" subscribe *", false)
	b.Changed(a.host.ID())
	b.hears(t, "news", a)
	a.hears(t, "news", b)
	eventually(t, "a hears b again, and what was not for it not at all", func() bool {
		b.publish(t, "news", "again")
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		m, err := subs[a].Next(ctx)
		if err == nil && string(m.Payload) != "again" && string(m.Payload) != first {
			t.Fatalf("a heard %q", m.Payload)
		}
		return err == nil && string(m.Payload) == "again"
	})
}

// TestAuthorRights: of an author who is a neighbour his own right counts, whoever brings his message; of others Options.Author's word.
func TestAuthorRights(t *testing.T) {
	t.Parallel()
	x := start(t, 80)
	sub := x.subscribe(t, "news")
	a, b := attack(t, 81, x, false), attack(t, 82, x, false)
	x.rights.deny(b.host.ID().String()+" send *", true)
	x.Changed(b.host.ID())
	a.publish("news", made(t, b.key, 1, 1, "news", time.Now(), "of b, by a"))
	x.refuses(t, refusedRights, 1)
	a.publish("news", made(t, keyAt(83), 1, 1, "news", time.Now(), "of a stranger, by a"))
	if m := next(t, sub); string(m.Payload) != "of a stranger, by a" {
		t.Errorf("heard %q", m.Payload)
	}
	asked := make(chan string, 1)
	y := start(t, 84, func(o *Options) {
		o.Author = func(author, via peer.ID, resource string) error {
			asked <- fmt.Sprintf("%s by %s on %s", author, via, resource)
			return errors.New("no")
		}
	})
	y.subscribe(t, "news")
	c := attack(t, 85, y, false)
	c.publish("news", made(t, keyAt(83), 1, 1, "news", time.Now(), "of a stranger"))
	y.refuses(t, refusedRights, 1)
	if got, want := <-asked, fmt.Sprintf("%s by %s on topic/news", peerOf(keyAt(83).Public()), c.host.ID()); got != want {
		t.Errorf("asked for %s, not %s", got, want)
	}
}

// TestUnguarded: who has no right hears nothing at all, not even which topics there are, and nothing is taken of him; from the moment on at
// which he has one he is as good as any, whoever connected first.
func TestUnguarded(t *testing.T) {
	t.Parallel()
	x := start(t, 90)
	x.rights.deny("* * *", true)
	sub := x.subscribe(t, "secret")
	a := attack(t, 91, x, false)
	a.publish("secret", made(t, a.key, 1, 1, "secret", time.Now(), "too early"))
	eventually(t, "its stream is kept waiting", func() bool {
		n := x.neighbours.of(a.host.ID())
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.held
	})
	x.publish(t, "secret", "for itself")
	next(t, sub)
	x.Changed(a.host.ID())
	if n := testutil.ToFloat64(x.m.received); n != 0 {
		t.Fatalf("%v envelopes were taken", n)
	}
	a.mu.Lock()
	told := len(a.told) + len(a.heard)
	a.mu.Unlock()
	if told > 0 {
		t.Fatalf("one without rights was told %v", a.told)
	}
	x.rights.deny("* * *", false)
	x.Changed(a.host.ID())
	if m := next(t, sub); string(m.Payload) != "too early" { // the stream has waited
		t.Errorf("heard %q", m.Payload)
	}
	eventually(t, "it is told", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return len(a.told) > 0 })
}

// TestSlow: a reader that does not read holds up nobody, and what he misses is counted; one that says so is waited for.
func TestSlow(t *testing.T) {
	t.Parallel()
	a, b := start(t, 100), start(t, 101)
	connect(t, a.host, b.host)
	newest := b.subscribe(t, "news", SubscribeOptions{Queue: 10})
	oldest := b.subscribe(t, "news", SubscribeOptions{Queue: 10, Oldest: true})
	narrow := b.subscribe(t, "news", SubscribeOptions{Bytes: 8})
	waits := b.subscribe(t, "news", SubscribeOptions{Queue: 10, Wait: patience})
	a.hearsOrJoins(t, "news", b)
	const many = 100
	var reader sync.WaitGroup
	reader.Go(func() {
		for i := range many {
			if m := next(t, waits); string(m.Payload) != fmt.Sprintf("%03d", i) {
				t.Errorf("the one that is waited for heard %q as number %d", m.Payload, i)
			}
		}
	})
	for i := range many {
		a.publish(t, "news", fmt.Sprintf("%03d", i))
		if err := a.Flush(t.Context()); err != nil { // one an envelope, so that they come in order
			t.Fatal(err)
		}
		eventually(t, "it has come", func() bool { return testutil.ToFloat64(b.m.receivedMessages) == float64(i+1) })
	}
	reader.Wait()
	eventually(t, "all have come", func() bool {
		return newest.Dropped() == many-10 && oldest.Dropped() == many-10 && narrow.Dropped() == many-2
	})
	if first := next(t, newest); string(first.Payload) != "000" {
		t.Errorf("the one that keeps the first has %q", first.Payload)
	}
	if first := next(t, oldest); string(first.Payload) != "090" {
		t.Errorf("the one that keeps the last has %q", first.Payload)
	}
	if waits.Dropped() != 0 {
		t.Errorf("the one that is waited for missed %d", waits.Dropped())
	}
	if n := testutil.ToFloat64(b.m.dropped); n != 2*(many-10)+many-2 {
		t.Errorf("%v are counted as dropped", n)
	}
	newest.Close()
	for range 9 {
		next(t, newest)
	}
	if _, err := newest.Next(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("behind the end: %v", err)
	}
}

// TestSlowBackpressure: where a reader is waited for, the publisher is in the end held up, and nothing is lost on the way.
func TestSlowBackpressure(t *testing.T) {
	t.Parallel()
	a := start(t, 110, unlimited, func(o *Options) { o.Bundle = 1; o.BundleWait = -1 })
	b := start(t, 111, unlimited, func(o *Options) { o.InFlight = 100 })
	connect(t, a.host, b.host)
	sub := b.subscribe(t, "news", SubscribeOptions{Queue: 1, Wait: patience})
	a.hearsOrJoins(t, "news", b)
	const many = 300 // of 200 KB: more than the streams' windows hold
	go func() {
		for range many {
			if _, err := a.Publish(t.Context(), "news", make([]byte, 200_000)); err != nil {
				t.Errorf("it cannot be published: %v", err)
				return
			}
		}
	}()
	eventually(t, "the publisher is held up", func() bool { return testutil.ToFloat64(a.m.sendWaits) >= 10 }) // a second
	heard := map[ID]bool{}
	for range many {
		heard[next(t, sub).ID] = true
	}
	if len(heard) != many || sub.Dropped() > 0 {
		t.Errorf("%d of %d were heard, %d dropped", len(heard), many, sub.Dropped())
	}
}

// TestDisk: where numbers cannot be reserved nothing is published, and what is received is still heard, with a word of the danger.
func TestDisk(t *testing.T) {
	t.Parallel()
	disk := vfs.NewMem()
	full := errors.New("no space left")
	var mu sync.Mutex
	failing := false
	hook := vfs.Hook(disk, func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if failing && op.Kind == "write" {
			return full
		}
		return nil
	})
	x := start(t, 120, func(o *Options) { o.FS = hook })
	sub := x.subscribe(t, "news")
	x.sequence.mu.Lock()
	x.sequence.next = x.sequence.limit + 1
	x.sequence.mu.Unlock()
	mu.Lock()
	failing = true
	mu.Unlock()
	if _, err := x.Publish(t.Context(), "news", nil); !errors.Is(err, ErrUnavailable) || !errors.Is(err, full) {
		t.Errorf("without numbers: %v", err)
	}
	a := attack(t, 121, x, false)
	a.publish("news", made(t, a.key, 1, 1, "news", time.Now(), "heard"))
	if m := next(t, sub); string(m.Payload) != "heard" {
		t.Errorf("heard %q", m.Payload)
	}
	eventually(t, "it is said", func() bool { return errors.Is(x.Health(), full) })
	mu.Lock()
	failing = false
	mu.Unlock()
	eventually(t, "it is well again", func() bool { return x.Health() == nil })
	x.publish(t, "news", "out")
	if _, err := New(t.Context(), x.host, x.o); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("a second one on the folder: %v", err)
	}
}

// TestClose: nothing of a service outlives it, and its folder is another's. It is not parallel: it counts goroutines.
func TestClose(t *testing.T) {
	a, b := newHost(t, keyAt(160)), start(t, 161)
	b.subscribe(t, "news")
	before := goleak.IgnoreCurrent()
	x := &node{host: a, rights: &rights{}, disk: vfs.NewMem()}
	for range 2 {
		x.serve(t, keyAt(160))
		sub := x.subscribe(t, "news")
		connect(t, a, b.host)
		x.hears(t, "news", b)
		x.publish(t, "news", "x")
		next(t, sub)
		if err := errors.Join(x.Close(), x.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := x.Publish(t.Context(), "news", nil); !errors.Is(err, ErrUnavailable) {
			t.Errorf("after the end: %v", err)
		}
		if _, err := x.Subscribe("news"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("after the end: %v", err)
		}
	}
	if err := a.Network().ClosePeer(b.host.ID()); err != nil {
		t.Fatal(err)
	}
	// A host begins to identify its peers at a moment of its own, which may be after the goroutines were counted.
	hosts := goleak.IgnoreAnyFunction("github.com/libp2p/go-libp2p/p2p/protocol/identify.(*idService).loop.func1")
	eventually(t, "what began has ended", func() bool { return goleak.Find(before, hosts) == nil })
}

// TestOptions: what is missing or out of bounds is said by name.
func TestOptions(t *testing.T) {
	t.Parallel()
	h := newHost(t, keyAt(130))
	good := Options{Key: keyAt(130), Allow: (&rights{}).allow, Dir: "/b", FS: vfs.NewMem()}
	for says, change := range map[string]func(*Options){
		"Allow": func(o *Options) { o.Allow = nil }, "Dir": func(o *Options) { o.Dir = "" }, "Key": func(o *Options) { o.Key = keyAt(1) },
		"Bundle is 65": func(o *Options) { o.Bundle = 65 }, "MaxPayload": func(o *Options) { o.MaxPayload = 2 << 20 }, "MaxAge": func(o *Options) { o.MaxAge = 1 },
		"PeerBytes": func(o *Options) { o.PeerBytes = Rate{1, 0} }, "History": func(o *Options) { o.History = -1 }, "InFlight": func(o *Options) { o.InFlight = -1 },
	} {
		o := good
		change(&o)
		if _, err := New(t.Context(), h, o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

// TestHistory: the last messages are there, and topics are bounded.
func TestHistory(t *testing.T) {
	t.Parallel()
	x := start(t, 140, func(o *Options) { o.History, o.Topics = 3, 2 })
	sub := x.subscribe(t, "news")
	for i := range 5 {
		x.publish(t, "news", fmt.Sprint(i))
		next(t, sub)
	}
	var got []string
	for _, m := range x.History("news") {
		got = append(got, string(m.Payload))
	}
	if strings.Join(got, " ") != "2 3 4" || x.History("none") != nil {
		t.Errorf("the history is %v", got)
	}
	x.publish(t, "second", "")
	if _, err := x.Publish(t.Context(), "third", nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a third of two topics: %v", err)
	}
	if err := x.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.leaveIdle(time.Now().Add(time.Hour)) // news is subscribed to
	if topics := *x.topics.Load(); len(topics) != 1 || topics["news"] == nil {
		t.Errorf("%d topics are left", len(topics))
	}
	x.publish(t, "third", "")
	if _, err := x.Publish(t.Context(), "not/a//topic", nil); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

// TestSpans: the way of an envelope is four steps in a span.
func TestSpans(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	registry := prometheus.NewPedanticRegistry()
	x := start(t, 150, func(o *Options) { o.Tracer, o.TraceEvery, o.Metrics = provider.Tracer("test"), 2, registry })
	y := start(t, 151)
	connect(t, x.host, y.host)
	sub, far := x.subscribe(t, "news"), y.subscribe(t, "news")
	x.hears(t, "news", y)
	eventually(t, "y is in the mesh", func() bool {
		topic := (*x.topics.Load())["news"]
		topic.hearMu.Lock()
		defer topic.hearMu.Unlock()
		return len(topic.mesh) == 1
	})
	a := attack(t, 152, x, false)
	for i := range 4 {
		a.publish("news", made(t, a.key, 1, uint64(1+i), "news", time.Now(), "x"))
		next(t, sub)
		next(t, far)
	}
	eventually(t, "both have ended", func() bool { return len(spans.Ended()) == 10 })
	names := map[string]int{}
	for _, s := range spans.Ended() {
		names[s.Name()]++
	}
	for _, name := range []string{"broadcast", "receive", "verify", "route", "send"} {
		if names[name] != 2 {
			t.Errorf("%d spans are %s; one envelope in two of 4 is followed", names[name], name)
		}
	}
	families, err := registry.Gather()
	if err != nil || len(families) < 20 {
		t.Errorf("%d metrics: %v", len(families), err)
	}
}

// unlimited takes the rates away, which are there to bound exactly this, and what the tests' rights cost.
func unlimited(o *Options) {
	o.Allow = func(peer.ID, string, string) error { return nil }
	most := Rate{1e9, 1e9}
	o.PeerEnvelopes, o.PeerBytes, o.AuthorMessages, o.AuthorBytes = most, most, most, most
}
