package audit_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/zerotrust/audit"
)

// decision is an entry as a guard writes them, 296 bytes.
var decision = []byte(`{"time":"2026-11-25T12:05:11.123456789Z","id":"5f0c8d2a9b1e4c77a1","principal":"~zay2zjhycknymnxn4bkiv6zcii","kind":"person","action":"read","resource":"profiles/aggregate/checkout","allowed":true,"level":"verified","policies":["standard.readers"],"reason":"the role reader may read aggregates"}`)

// BenchmarkAppend is on the disk of the temporary folder: entries a second until Close has returned, so with all of them in tiles.
func BenchmarkAppend(b *testing.B) {
	for _, wait := range []bool{true, false} {
		for _, writers := range []int{1, 64} {
			b.Run(fmt.Sprintf("wait=%v/writers=%d", wait, writers), func(b *testing.B) { benchAppend(b, writers, wait) })
		}
	}
}

func benchAppend(b *testing.B, writers int, wait bool) {
	l, err := audit.Open(audit.Options{Dir: filepath.Join(b.TempDir(), "audit"), FS: vfs.Default, Key: keyOf(1), QueueEntries: 1 << 16})
	must(b, err)
	var left, full atomic.Int64
	left.Store(int64(b.N))
	worst := make([]time.Duration, writers)
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				start := time.Now()
				for {
					_, err := l.Append(context.Background(), decision, wait)
					if err == nil {
						break
					} else if !errors.Is(err, audit.ErrDropped) {
						b.Error(err)
						return
					}
					full.Add(1)
					runtime.Gosched()
				}
				worst[w] = max(worst[w], time.Since(start))
			}
		})
	}
	wg.Wait()
	if _, err := l.Append(context.Background(), decision, true); err != nil { // when it is durable all before it are
		b.Fatal(err)
	}
	durable := b.Elapsed()
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	var most time.Duration
	for _, d := range worst {
		most = max(most, d)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(float64(b.N)/durable.Seconds(), "durable/s")
	b.ReportMetric(float64(l.Stats().Commits), "commits")
	if wait {
		b.ReportMetric(float64(most.Microseconds()), "worst-µs")
	}
}

// BenchmarkVerify reads and holds to its tree a log of 100,000 entries.
func BenchmarkVerify(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "audit")
	l, err := audit.Open(audit.Options{Dir: dir, FS: vfs.Default, Key: keyOf(1)})
	must(b, err)
	const n = 100_000
	for i := range n {
		_, err := l.Append(context.Background(), decision, i%4096 == 0)
		must(b, err)
	}
	must(b, l.Close())
	for b.Loop() {
		r, err := audit.Verify(context.Background(), vfs.Default, dir, audit.VerifyOptions{Trust: []audit.PublicKey{l.Key()}})
		if err != nil || r.Checkpoint.Size != n {
			b.Fatal(r.Checkpoint.Size, err)
		}
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
