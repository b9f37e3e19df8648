package measure

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/blocks"
	"github.com/quantra-l/quantra/store/bucket"
)

// BenchmarkLook is a look every 5 s at instances with half an hour behind them, in windows of 10 s: the first, which has all to read, until
// it has read it, and those that follow, in which half of the instances have a new window.
func BenchmarkLook(b *testing.B) {
	for _, n := range []int{2, 20, 200} {
		for _, where := range []string{"memory", "blocks"} {
			b.Run(fmt.Sprintf("%s/%d", where, n), func(b *testing.B) { benchLook(b, where, n) })
		}
	}
}

func benchLook(b *testing.B, where string, n int) {
	var backend store.Backend
	var flushed *blocks.Blocks
	if where == "blocks" {
		bk, err := bucket.Open(context.Background(), "file://"+filepath.ToSlash(b.TempDir()), bucket.Options{Create: true})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { bk.Close() })
		if flushed, err = blocks.Open(context.Background(), bk, blocks.Options{Dir: b.TempDir()}); err != nil {
			b.Fatal(err)
		}
		backend = flushed
	}
	s := newShelf(b, backend)
	const windows = 180
	q := optimize.Question{Service: "shop", From: began}
	for i := range n {
		q.Instances = append(q.Instances, fmt.Sprintf("i-%03d", i))
	}
	window := func(k int) {
		for i, name := range q.Instances {
			s.put(usual(name, 10*float64(k)+5*float64(i%2)))
		}
	}
	for k := range windows {
		window(k)
		if flushed != nil && k%6 == 5 { // a minute's worth
			handedOver(b, s)
		}
	}
	r := New(s, nil)
	q.To = began.Add(windows * 10 * time.Second)
	at := time.Now()
	looks := 0
	for first := true; first || unread(r) > 0; first = false {
		if _, err := r.Look(context.Background(), q); err != nil {
			b.Fatal(err)
		}
		looks++
	}
	cold := time.Since(at)
	k := windows
	for b.Loop() {
		b.StopTimer()
		window(k)
		k++
		q.To = q.To.Add(10 * time.Second)
		b.StartTimer()
		for _, to := range []time.Time{q.To.Add(-5 * time.Second), q.To} {
			at := q
			at.To = to
			if _, err := r.Look(context.Background(), at); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(cold.Milliseconds()), "cold-ms")
	b.ReportMetric(float64(looks), "cold-looks")
}

// handedOver waits until nothing is in memory any more.
func handedOver(b *testing.B, s *shelf) {
	b.Helper()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for range again.C {
		use, err := s.Usage(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		if !slices.ContainsFunc(use, func(u store.Usage) bool { return u.Class == "memory" }) {
			return
		}
	}
}

// unread is how many windows' spans were not read yet.
func unread(r *Reader) (n int) {
	for _, in := range r.seen {
		for i := range in.windows {
			if w := &in.windows[i]; !w.read && w.spans.Lo != 0 {
				n++
			}
		}
	}
	return n
}
