//go:build unix

package broadcast

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
)

// BenchmarkTwo is two hosts on loopback, both in this process, one publishing and one hearing: deliveries a second, and of a core, which is
// deliveries by the processor time of both hosts together. Stock is go-libp2p-pubsub as it comes, signing and verifying each message
// (StrictSign), with queues made as long as the window so that it drops nothing; single is ours with one message an envelope. All keep
// 1,000 messages on the way.
//
//	go test ./p2p/broadcast -run xxx -bench Two -benchtime 3s -count 5
func BenchmarkTwo(b *testing.B) {
	for _, size := range []int{100, 1024} {
		payload := make([]byte, size)
		b.Run(fmt.Sprintf("size=%d/stock", size), func(b *testing.B) { benchStock(b, payload) })
		b.Run(fmt.Sprintf("size=%d/single", size), func(b *testing.B) { benchOurs(b, payload, func(o *Options) { o.Bundle = 1 }) })
		b.Run(fmt.Sprintf("size=%d/bundles", size), func(b *testing.B) { benchOurs(b, payload, func(*Options) {}) })
	}
}

// window is how many messages are on the way in a benchmark.
const benchWindow = 1000

func benchOurs(b *testing.B, payload []byte, change func(*Options)) {
	from, to := start(b, 1, unlimited, change), start(b, 2, unlimited, change)
	connect(b, from.host, to.host)
	from.subscribe(b, "bench")
	sub := to.subscribe(b, "bench")
	from.hears(b, "bench", to)
	from.publish(b, "bench", "warm")
	next(b, sub)
	var messages [256]Message
	run(b, func() error {
		_, err := from.Publish(context.Background(), "bench", payload)
		return err
	}, func(ctx context.Context) (int, error) { return sub.Read(ctx, messages[:]) })
	b.ReportMetric(float64(sub.Dropped()), "dropped")
}

func benchStock(b *testing.B, payload []byte) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	from, to := newHost(b, keyAt(1)), newHost(b, keyAt(2))
	var topics [2]*pubsub.Topic
	for i, h := range []struct {
		ps  *pubsub.PubSub
		err error
	}{pair(pubsub.NewGossipSub(ctx, from, pubsub.WithPeerOutboundQueueSize(2*benchWindow), pubsub.WithValidateQueueSize(2*benchWindow))),
		pair(pubsub.NewGossipSub(ctx, to, pubsub.WithPeerOutboundQueueSize(2*benchWindow), pubsub.WithValidateQueueSize(2*benchWindow)))} {
		if h.err != nil {
			b.Fatal(h.err)
		}
		var err error
		if topics[i], err = h.ps.Join("bench"); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := topics[0].Relay(); err != nil {
		b.Fatal(err)
	}
	sub, err := topics[1].Subscribe(pubsub.WithBufferSize(2 * benchWindow))
	if err != nil {
		b.Fatal(err)
	}
	connect(b, from, to)
	warm, stop := context.WithTimeout(ctx, patience)
	defer stop()
	heard := make(chan error, 1)
	go func() {
		_, err := sub.Next(warm)
		heard <- err
	}()
	eventually(b, "the mesh carries", func() bool {
		if err := topics[0].Publish(warm, []byte("warm")); err != nil {
			b.Fatal(err)
		}
		select {
		case err := <-heard:
			if err != nil {
				b.Fatal(err)
			}
			return true
		default:
			return false
		}
	})
	for drained := false; !drained; { // what else was published while the mesh was made
		quiet, stop := context.WithTimeout(ctx, 200*time.Millisecond)
		_, err := sub.Next(quiet)
		stop()
		drained = err != nil
	}
	run(b, func() error { return topics[0].Publish(ctx, payload) }, func(ctx context.Context) (int, error) {
		_, err := sub.Next(ctx)
		return 1, err
	})
}

// BenchmarkLatency is 1,000 messages a second of 100 bytes between two hosts, sent when they are due whatever has become of those before: the
// time from when each was due to be published until it was read, and the share of a processor that both hosts together take.
func BenchmarkLatency(b *testing.B) {
	from, to := start(b, 1, unlimited), start(b, 2, unlimited)
	connect(b, from.host, to.host)
	from.subscribe(b, "bench")
	sub := to.subscribe(b, "bench")
	from.hears(b, "bench", to)
	from.publish(b, "bench", "warm")
	next(b, sub)
	const every = time.Millisecond
	took := make([]time.Duration, b.N)
	begin, before := time.Now(), cpu(b)
	b.ResetTimer()
	go func() {
		payload := make([]byte, 100)
		for i := range b.N {
			if wait := time.Until(begin.Add(time.Duration(i) * every)); wait > 0 {
				<-time.After(wait)
			}
			binary.BigEndian.PutUint64(payload, uint64(i))
			if _, err := from.Publish(context.Background(), "bench", payload); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	for range b.N {
		i := binary.BigEndian.Uint64(next(b, sub).Payload)
		took[i] = time.Since(begin.Add(time.Duration(i) * every))
	}
	b.StopTimer()
	b.ReportMetric(100*(cpu(b)-before).Seconds()/b.Elapsed().Seconds(), "%core")
	slices.Sort(took)
	for _, q := range []float64{0.5, 0.99, 0.999} {
		b.ReportMetric(float64(took[int(q*float64(len(took)-1))].Microseconds())/1000, fmt.Sprintf("p%g-ms", 100*q))
	}
	b.ReportMetric(0, "ns/op")
}

func pair(ps *pubsub.PubSub, err error) struct {
	ps  *pubsub.PubSub
	err error
} {
	return struct {
		ps  *pubsub.PubSub
		err error
	}{ps, err}
}

// run publishes b.N messages, a window of them at a time, and hears them.
func run(b *testing.B, publish func() error, hear func(context.Context) (int, error)) {
	b.Helper()
	window := make(chan struct{}, benchWindow)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	before := cpu(b)
	b.ResetTimer()
	go func() {
		for range b.N {
			select {
			case window <- struct{}{}:
			case <-ctx.Done():
				return
			}
			if err := publish(); err != nil {
				b.Error(err)
				cancel()
				return
			}
		}
	}()
	for heard := 0; heard < b.N; {
		n, err := hear(ctx)
		if err != nil {
			b.Fatalf("%d of %d heard: %v", heard, b.N, err)
		}
		heard += n
		for range n {
			<-window
		}
	}
	b.StopTimer()
	spent := cpu(b) - before
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
	b.ReportMetric(float64(b.N)/spent.Seconds(), "deliveries/core-s")
	b.ReportMetric(0, "ns/op")
}

// cpu is the processor time that this process has had.
func cpu(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
