package broadcast

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/multiformats/go-varint"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"

	"github.com/quantra-l/quantra/seal"
)

// attacker is a host that says whatever a test wants in gossipsub's protocol, and keeps what it is told.
type attacker struct {
	t    testing.TB
	host host.Host
	key  seal.Key
	out  network.Stream

	mu    sync.Mutex
	heard []*pb.Message
	told  []string // topics that were announced to it
}

// attack makes an attacker that is connected to x, and has a stream to it. One who is deaf lets nobody open a stream to him.
func attack(t testing.TB, n int, x *node, deaf bool) *attacker {
	t.Helper()
	a := &attacker{t: t, key: keyAt(n), host: newHost(t, keyAt(n))}
	if !deaf {
		a.host.SetStreamHandler(protocols[0], a.listen)
	}
	connect(t, a.host, x.host)
	a.open(x)
	return a
}

func (a *attacker) open(x *node) {
	a.t.Helper()
	st, err := a.host.NewStream(context.Background(), x.host.ID(), protocols[0])
	if err != nil {
		a.t.Fatal(err)
	}
	if _, err := st.Write([]byte{0}); err != nil { // an empty RPC: the protocol is settled with the first byte, and within ten seconds
		a.t.Fatal(err)
	}
	a.out = st
}

func (a *attacker) listen(st network.Stream) {
	r := &byteReader{st}
	for {
		n, err := varint.ReadUvarint(r)
		if err != nil {
			return
		}
		raw := make([]byte, n)
		if _, err := io.ReadFull(st, raw); err != nil {
			return
		}
		var rpc pb.RPC
		if proto.Unmarshal(raw, &rpc) != nil {
			return
		}
		a.mu.Lock()
		a.heard = append(a.heard, rpc.Publish...)
		for _, sub := range rpc.Subscriptions {
			a.told = append(a.told, sub.GetTopicid())
		}
		a.mu.Unlock()
	}
}

type byteReader struct{ io.Reader }

func (r *byteReader) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r.Reader, b[:])
	return b[0], err
}

// say sends an RPC; the error is that of the stream, which the other side may have ended.
func (a *attacker) say(rpc *pb.RPC) error {
	raw, err := proto.Marshal(rpc)
	if err != nil {
		a.t.Fatal(err)
	}
	_, err = a.out.Write(append(binary.AppendUvarint(nil, uint64(len(raw))), raw...))
	return err
}

// publish sends envelopes as messages of a topic.
func (a *attacker) publish(topic string, envelopes ...[]byte) {
	a.t.Helper()
	rpc := &pb.RPC{}
	for _, e := range envelopes {
		rpc.Publish = append(rpc.Publish, &pb.Message{Topic: &topic, Data: e})
	}
	if err := a.say(rpc); err != nil {
		a.t.Fatal(err)
	}
}

func (a *attacker) subscribe(topic string) {
	a.t.Helper()
	if err := a.say(&pb.RPC{Subscriptions: []*pb.RPC_SubOpts{{Topicid: &topic, Subscribe: proto.Bool(true)}}, Control: &pb.ControlMessage{Graft: []*pb.ControlGraft{{TopicID: &topic}}}}); err != nil {
		a.t.Fatal(err)
	}
}

// refusals is how many were refused for a reason.
func (x *node) refusals(why reason) int { return int(testutil.ToFloat64(x.m.refused[why])) }

func (x *node) refuses(t testing.TB, why reason, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d are refused for %s", n, reasonNames[why]), func() bool { return x.refusals(why) >= n })
}

// TestForged: what is false is refused before the true one comes, and does not stand in its way; it names its sender, and the second one
// puts him on the gray list, also where he keeps pubsub from scoring him.
func TestForged(t *testing.T) {
	t.Parallel()
	for _, deaf := range []bool{false, true} {
		var log lockedBuffer
		x := start(t, 10, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		sub := x.subscribe(t, "news")
		a := attack(t, 11, x, deaf)
		b := attack(t, 12, x, false)
		if !deaf {
			eventually(t, "pubsub knows the attacker", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return len(a.told) > 0 })
		}
		victim, now := keyAt(13), time.Now()
		real := made(t, victim, 1, 1, "news", now, "true")
		forged := bytes.Clone(real)
		forged[len(forged)-1] ^= 1 // the same number, text and R
		a.publish("news", forged)
		x.refuses(t, refusedSignature, 1)
		a.publish("other", real) // under another topic: x is not in it
		b.publish("news", real)
		if m := next(t, sub); string(m.Payload) != "true" || m.ID.From != peerOf(victim.Public()) || m.Via != b.host.ID() {
			t.Fatalf("heard %+v", m)
		}
		if !strings.Contains(log.String(), "neighbour="+a.host.ID().String()) || !strings.Contains(log.String(), "author="+peerOf(victim.Public()).String()) {
			t.Errorf("the log does not name who brought the false one, and in whose name: %s", log.String())
		}
		a.publish("news", append(bytes.Clone(real), 'x'))
		x.refuses(t, refusedCorrupt, 1)
		for i := range 5 { // true ones, of its own
			a.publish("news", made(t, a.key, 1, uint64(1+i), "news", time.Now(), "spam"))
		}
		b.publish("news", made(t, victim, 1, 2, "news", time.Now(), "also true"))
		if m := next(t, sub); string(m.Payload) != "also true" {
			t.Errorf("deaf %v: heard %q of one who is on the gray list", deaf, m.Payload)
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestOtherTopic: a true envelope under another topic is refused, and does not stand in the way of it under its own.
func TestOtherTopic(t *testing.T) {
	t.Parallel()
	x := start(t, 20)
	sub, other := x.subscribe(t, "news"), x.subscribe(t, "sport")
	a, b := attack(t, 21, x, false), attack(t, 22, x, false)
	real := made(t, keyAt(23), 1, 1, "news", time.Now(), "true")
	a.publish("sport", real)
	x.refuses(t, refusedTopic, 1)
	b.publish("news", real)
	if m := next(t, sub); string(m.Payload) != "true" {
		t.Errorf("heard %q", m.Payload)
	}
	if n := other.Dropped() + uint64(other.count); n != 0 {
		t.Errorf("%d were heard on the other topic", n)
	}
}

// TestReplay: an envelope that was taken is not taken again: now, with another signature, after an orderly end, after a crash; nor are ones
// that are too old, from the future, or in our own name. What comes after them is.
func TestReplay(t *testing.T) {
	t.Parallel()
	x := start(t, 30)
	sub := x.subscribe(t, "news")
	a := attack(t, 31, x, false)
	author, epoch := keyAt(32), uint64(time.Now().UnixNano())
	text := func(n uint64) []byte { return made(t, author, epoch, n, "news", time.Now(), fmt.Sprint(n)) }
	first, second := text(1), text(2)
	a.publish("news", first, second, first)
	for range 2 {
		next(t, sub)
	}
	a.publish("news", first, second)
	eventually(t, "they are known", func() bool { return testutil.ToFloat64(x.m.duplicate) >= 3 })
	a.publish("news", made(t, author, epoch, 2, "news", time.Now(), "another text under the number"))
	x.refuses(t, refusedReplay, 1)
	a.publish("news", made(t, author, epoch, 3, "news", time.Now().Add(-x.o.MaxAge-time.Second), "old"))
	x.refuses(t, refusedLate, 1)
	a.publish("news", made(t, author, epoch, 3, "news", time.Now().Add(x.o.MaxAhead+10*time.Second), "of the future"))
	x.refuses(t, refusedEarly, 1)
	a.publish("news", made(t, keyAt(30), 1, 1, "news", time.Now(), "of its own"))
	x.refuses(t, refusedOwn, 1)
	a.publish("news", made(t, author, epoch-1, 9, "news", time.Now(), "of an epoch before"))
	x.refuses(t, refusedReplay, 2)
	a.publish("news", text(3))
	if m := next(t, sub); string(m.Payload) != "3" {
		t.Fatalf("heard %q", m.Payload)
	}
	var variants [][]byte // under one number, all on their way before any is taken
	for i := range 20 {
		variants = append(variants, made(t, author, epoch, 4, "news", time.Now(), fmt.Sprint("variant ", i)))
	}
	a.publish("news", variants...)
	x.refuses(t, refusedReplay, 2+len(variants)-1)
	next(t, sub)
	if n := sub.count; n != 0 {
		t.Fatalf("%d more were heard of %d under one number", n, len(variants))
	}
	for i, crash := range []bool{false, true} {
		if crash {
			if err := x.keep(false); err != nil {
				t.Fatal(err)
			}
		}
		last := text(uint64(10 + i))
		a.publish("news", last)
		next(t, sub)
		crashed := x.disk.Crash(nil)
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
		if crash {
			x.disk = crashed
		}
		x.serve(t, keyAt(30))
		sub = x.subscribe(t, "news")
		a.open(x)
		a.publish("news", first, last)
		x.refuses(t, refusedReplay, 2)
		fresh := made(t, author, epoch, uint64(20+i), "news", time.Now().Add(time.Duration(1+i)*2*(keepSlack+time.Second)), "fresh")
		a.publish("news", fresh)
		if m := next(t, sub); string(m.Payload) != "fresh" {
			t.Fatalf("crash %v: heard %q", crash, m.Payload)
		}
	}
}

// TestFlood: who sends too much is held to his rate, and after a while to nothing, and others are heard.
func TestFlood(t *testing.T) {
	t.Parallel()
	x := start(t, 40, func(o *Options) {
		o.PeerEnvelopes = Rate{50, 50}
		o.AuthorMessages = Rate{20, 20}
	})
	sub := x.subscribe(t, "news", SubscribeOptions{Queue: 1 << 16})
	var batch [][]byte
	for i := range 500 { // buckets come before duplicates are looked for, so a few will do for a flood
		batch = append(batch, made(t, keyAt(41), 1, uint64(1+min(i, 99)), "news", time.Now(), "flood"))
	}
	a, b := attack(t, 41, x, false), attack(t, 42, x, false)
	for range 12 {
		a.publish("news", batch...)
	}
	x.refuses(t, refusedPeerRate, 3000)
	x.refuses(t, refusedGray, 500)
	x.refuses(t, refusedAuthorRate, 1)
	b.publish("news", made(t, b.key, 1, 1, "news", time.Now(), "heard all the same"))
	flood := 0
	for m := next(t, sub); m.ID.From == a.host.ID(); m = next(t, sub) {
		flood++
	}
	if flood < 10 || flood > 100 {
		t.Errorf("%d messages of the flood were heard; 20, and 20 a second, are its author's", flood)
	}
}

// TestNonsense: what no node says is dropped whole, and costs him who says it.
func TestNonsense(t *testing.T) {
	t.Parallel()
	x := start(t, 50, func(o *Options) { o.MaxPayload = 60_000 })
	sub := x.subscribe(t, "news")
	a, b := attack(t, 51, x, false), attack(t, 52, x, false)
	topic := "news"
	many := &pb.RPC{}
	for range maxPublish + 1 {
		many.Publish = append(many.Publish, &pb.Message{Topic: &topic})
	}
	if err := a.say(many); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is held against him", func() bool { return x.neighbours.of(a.host.ID()).score(time.Now()) < -40 })
	strange := &pb.Message{Topic: &topic, Data: made(t, a.key, 1, 1, topic, time.Now(), "x")}
	strange.ProtoReflect().SetUnknown([]byte{0xa2, 0x06, 1, 'x'}) // field 100
	if err := a.say(&pb.RPC{Publish: []*pb.Message{strange}}); err != nil {
		t.Fatal(err)
	}
	x.refuses(t, refusedCorrupt, 1)
	b.publish(topic, made(t, b.key, 1, 1, topic, time.Now(), strings.Repeat("x", x.maxEnvelope+2000)))
	eventually(t, "a stream with an RPC that is too long is ended", func() bool {
		return b.say(&pb.RPC{Publish: []*pb.Message{{Topic: &topic, Data: made(t, b.key, 1, 2, topic, time.Now(), "y")}}}) != nil
	})
	b.open(x)
	b.publish(topic, made(t, b.key, 1, 3, topic, time.Now(), "after all"))
	for m := next(t, sub); string(m.Payload) != "after all"; m = next(t, sub) {
		if string(m.Payload) != "y" {
			t.Errorf("heard %.20q of %s", m.Payload, m.ID)
		}
	}
	if _, err := x.Publish(context.Background(), topic, make([]byte, 60_001)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a message of 60,001 bytes of 60,000: %v", err)
	}
	if _, err := x.Publish(context.Background(), topic, make([]byte, 60_000)); err != nil {
		t.Errorf("a message of 60,000 bytes of 60,000: %v", err)
	}
	if m := next(t, sub); len(m.Payload) != 60_000 {
		t.Errorf("heard %d bytes", len(m.Payload))
	}
}
