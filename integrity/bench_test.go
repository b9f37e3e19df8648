package integrity

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// BenchmarkHash is both algorithms on bytes in memory, by the size of a file.
func BenchmarkHash(b *testing.B) {
	for _, a := range []Algorithm{BLAKE3, SHA256} {
		for _, size := range []int{4 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%v/%dKiB", a, size>>10), func(b *testing.B) {
				h, raw := newHasher(a, nil), bytes.Repeat([]byte{7}, size)
				b.SetBytes(int64(size))
				for b.Loop() {
					h.of(raw)
				}
			})
		}
	}
}

// BenchmarkBeside is how late a loop is that has 0.1 ms of work each millisecond, without a look in the same process, beside one that takes all it can,
// and beside one that yields: the median and the 99th percentile in microseconds, and how much the look read a second.
func BenchmarkBeside(b *testing.B) {
	tr := newTree(b)
	raw := bytes.Repeat([]byte("some bytes that are looked at. "), 32<<10)
	for i := range 200 {
		must(b, os.WriteFile(tr.path(fmt.Sprint(i)), raw, 0o644))
	}
	tr.baseline()
	base, err := tr.store.Open(Mark{})
	must(b, err)
	defer base.Close()
	for _, c := range []struct {
		name string
		look *Look
	}{{"alone", nil}, {"all", &Look{}}, {"yield", &Look{Pace: Pace{Yield: true}}}, {"rate", &Look{Pace: Pace{BytesPerSecond: 50 << 20}, Workers: 1}}} {
		b.Run(c.name, func(b *testing.B) {
			ctx, cancel := context.WithCancel(b.Context())
			read, done := int64(0), make(chan struct{})
			go func() {
				defer close(done)
				for c.look != nil && ctx.Err() == nil {
					l := *c.look
					l.Full = true
					t, _ := scan(ctx, base, nil, l, nil, func(seen) error { return nil }) // it ends by its context
					read += t.bytes
				}
			}()
			start := time.Now()
			late := lateness1kHz(2 * time.Second)
			took := time.Since(start)
			cancel()
			<-done
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(late[len(late)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(late[len(late)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(read)/took.Seconds()/1e6, "MB/s")
		})
	}
}

// lateness1kHz is how much later than it should each turn of a loop began, sorted.
func lateness1kHz(d time.Duration) []time.Duration {
	start := time.Now()
	var late []time.Duration
	for at := time.Duration(0); at < d; at += time.Millisecond {
		time.Sleep(time.Until(start.Add(at)))
		now := time.Since(start)
		late = append(late, now-at)
		for end := now + 100*time.Microsecond; time.Since(start) < end; {
		}
	}
	slices.Sort(late)
	return late
}
