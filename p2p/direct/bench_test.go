//go:build unix

package direct

import (
	"context"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/internal/vfs"
)

// processor is the time that this process has used so far, of both ends.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// report is rates, also of processor time: on a machine that others use, too, that is the figure that holds.
func report(b *testing.B, began time.Duration) {
	used := processor(b) - began
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric(float64(used.Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// BenchmarkPost is messages of 1 KiB over one connection of loopback, from one peer to another, end to end: both ends are in this process,
// and the time is until the last one was received. The aim is 150,000 a second.
func BenchmarkPost(b *testing.B) {
	var n atomic.Int64
	var want atomic.Int64
	all := make(chan struct{})
	x, y := pair(b, func(_, o *Options) {
		o.Receive = func(peer.ID, []byte) error {
			if n.Add(1) == want.Load() {
				close(all)
			}
			return nil
		}
	})
	body := make([]byte, 1<<10)
	ctx := context.Background()
	want.Store(-1)
	if err := x.Post(ctx, y.self, body); err != nil { // the session is made
		b.Fatal(err)
	}
	for n.Load() == 0 {
		runtime.Gosched()
	}
	n.Store(0)
	want.Store(int64(b.N))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	began := processor(b)
	b.ResetTimer()
	for range b.N {
		if err := x.Post(ctx, y.self, body); err != nil {
			b.Fatal(err)
		}
	}
	<-all
	b.StopTimer()
	report(b, began)
}

// BenchmarkSend is durable messages of 1 KiB by 64 senders: on the sender's disk when Send returns, and on the recipient's at the end.
func BenchmarkSend(b *testing.B) {
	x, y := pair(b, func(a, o *Options) {
		a.FS, o.FS = vfs.Default, vfs.Default
		a.Dir, o.Dir = b.TempDir(), b.TempDir()
	})
	body := make([]byte, 1<<10)
	ctx := context.Background()
	b.SetParallelism(32)
	b.ReportAllocs()
	began := processor(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			for {
				if _, err := x.Send(ctx, y.self, body); err == nil {
					break
				} else if x.Flush(ctx, y.self) != nil { // the outbox was full
					b.Error(err)
					return
				}
			}
		}
	})
	if err := x.Flush(ctx, y.self); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	report(b, began)
}

// BenchmarkRequest is requests and answers of 100 bytes, one after the other.
func BenchmarkRequest(b *testing.B) {
	x, y := pair(b, func(_, o *Options) {
		o.Answer = func(_ context.Context, _ peer.ID, body []byte) ([]byte, error) { return body, nil }
	})
	body := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := x.Request(context.Background(), y.self, body); err != nil {
			b.Fatal(err)
		}
	}
}
