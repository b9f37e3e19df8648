package lock

import (
	"io"
	"runtime"
	"testing"
)

// BenchmarkWriteProfile writes as many stacks as are kept, of about 35 frames: the most that a window can cost.
func BenchmarkWriteProfile(b *testing.B) {
	g := newRegistry()
	m := g.series(b.Name()).mode(plain)
	for path := range MaxStacks {
		step(path, 14, func() {
			var pcs [maxDepth]uintptr
			m.record(pcs[:runtime.Callers(1, pcs[:])]).waitEnded(int64(path))
		})
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := g.writeProfile(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/MaxStacks, "ns/stack")
}
