package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/zerotrust/audit"
)

// logged are the entries of the log's own of a kind.
func logged(t testing.TB, f vfs.FS, kind string) (out []map[string]any) {
	t.Helper()
	for _, e := range entries(t, f) {
		var m map[string]any
		must(t, json.Unmarshal(e, &m))
		if m["log"] == kind {
			out = append(out, m)
		}
	}
	return out
}

// TestBatches: what nobody waits for is written when a hundred are there or after five seconds; who waits takes all ahead of him along.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := disk(t)
		l := open(t, options(m))
		add := func(n int) {
			for i := range n {
				_, err := l.Append(t.Context(), entry(i), false)
				must(t, err)
			}
			synctest.Wait()
		}
		size := func(want uint64, what string) {
			t.Helper()
			if s := l.Stats(); s.Size != want {
				t.Errorf("%s: %d are written, want %d", what, s.Size, want)
			}
		}
		add(3)
		size(0, "three")
		time.Sleep(4 * time.Second)
		synctest.Wait()
		size(0, "three, after 4 s")
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		size(3, "three, after 5 s")
		add(99)
		size(3, "99")
		add(1)
		size(103, "a hundred")
		add(5)
		at, err := l.Append(t.Context(), entry(9), true)
		if err != nil || at != 108 {
			t.Errorf("index %d, %v", at, err)
		}
		size(109, "with one who waits")
		if s := l.Stats(); s.Commits != 3 || s.Queued != 0 || s.QueueBytes != 0 {
			t.Errorf("%+v", s)
		}
		must(t, l.Close())
	})
}

// TestPublish: tiles follow within PublishEvery, and the records go.
func TestPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := disk(t)
		o := options(m)
		o.PublishEvery = time.Second
		l := open(t, o)
		time.Sleep(time.Minute)
		for i := range 3 {
			_, err := l.Append(t.Context(), entry(i), true)
			must(t, err)
		}
		synctest.Wait()
		if s := l.Stats(); s.Published == 0 { // the last time was long ago
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if s := l.Stats(); s.Published != 3 {
			t.Errorf("%+v", s)
		}
		must(t, l.Close())
	})
}

// TestFull: the queue is full. Who waits waits, as long as he likes; the others are counted, and the log says how many.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := disk(t)
		block := make(chan struct{})
		var held atomic.Bool
		o := options(vfs.Hook(m, func(op vfs.Op) error {
			if op.Kind == "write" && strings.Contains(op.Path, "wal") && held.Load() {
				<-block
			}
			return nil
		}))
		o.QueueEntries, o.BatchEntries = 8, 1
		l := open(t, o)
		held.Store(true)
		_, err := l.Append(t.Context(), entry(0), false)
		must(t, err)
		synctest.Wait() // the first is being written
		dropped := 0
		for i := range 20 {
			if _, err := l.Append(t.Context(), entry(1+i), false); errors.Is(err, audit.ErrDropped) {
				dropped++
			}
		}
		if dropped != 12 || l.Stats().Dropped != 12 || l.Stats().Queued != 8 {
			t.Errorf("%d dropped: %+v", dropped, l.Stats())
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Append(short, entry(100), true); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a wait without end: %v", err)
		}
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if _, err := l.Append(t.Context(), entry(200+i), true); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		held.Store(false)
		close(block)
		wg.Wait()
		must(t, l.Close())
		r := whole(t, m, 1+8+20+1)
		if got := logged(t, m, "dropped"); r.Dropped != 12 || len(got) != 1 || got[0]["count"] != 12.0 || got[0]["from"] == nil || got[0]["to"] == nil {
			t.Errorf("%v", got)
		}
		if s := l.Stats(); s.Queued != 0 || s.QueueBytes != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestFullBytes: the queue is bounded in bytes, too, but one entry alone always fits.
func TestFullBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := options(disk(t))
		o.QueueBytes = 100
		l := open(t, o)
		_, err := l.Append(t.Context(), fmt.Appendf(nil, `{"a":"%0200d"}`, 1), false)
		must(t, err)
		if _, err := l.Append(t.Context(), entry(1), false); !errors.Is(err, audit.ErrDropped) {
			t.Errorf("%v", err)
		}
		if _, err := l.Append(t.Context(), entry(1), true); err != nil { // who waits has it written
			t.Error(err)
		}
		must(t, l.Close())
	})
}

// TestDiskFull: who waits is refused at once, health says why, and when there is space the log goes on by itself, and says what was late.
func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := disk(t)
		var full atomic.Bool
		o := options(vfs.Hook(m, vfs.FullDisk(&full)))
		l := open(t, o)
		_, err := l.Append(t.Context(), entry(0), true)
		must(t, err)
		full.Store(true)
		for i := range 5 {
			if _, err := l.Append(t.Context(), entry(10+i), true); !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("on a full disk: %v", err)
			}
			if i == 1 {
				time.Sleep(time.Second)
			}
		}
		for i := range 50 {
			if _, err := l.Append(t.Context(), entry(100+i), false); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if err := l.Healthy(); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("health: %v", err)
		}
		time.Sleep(time.Minute)
		n := 0
		for _, name := range files(t, m, dir) {
			if strings.Contains(name, "/wal/") {
				n++
			}
		}
		if n > 2 {
			t.Errorf("a minute of attempts left %d files", n)
		}
		full.Store(false)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if err := l.Healthy(); err != nil {
			t.Errorf("health: %v", err)
		}
		at, err := l.Append(t.Context(), entry(1), true)
		must(t, err)
		whole(t, m.Crash(nil), uint64(at)+1)
		must(t, l.Close())
		r := whole(t, m, uint64(at)+1)
		lates := logged(t, m, "late")
		// The one that was on its way when the disk was full was written late; the four that came later were not taken.
		if len(lates) != 1 || lates[0]["first"] != 1.0 || lates[0]["next"] != 2.0 || r.Checkpoint.Size != 1+1+1+50+1 {
			t.Errorf("%d entries, late: %v", r.Checkpoint.Size, lates)
		}
	})
}

// TestCloseFails: Close says how much could not be recorded.
func TestCloseFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := disk(t)
		var full atomic.Bool
		l := open(t, options(vfs.Hook(m, vfs.FullDisk(&full))))
		_, err := l.Append(t.Context(), entry(0), true)
		must(t, err)
		full.Store(true)
		for i := range 7 {
			_, err := l.Append(t.Context(), entry(i), false)
			must(t, err)
		}
		if err := l.Close(); !errors.Is(err, audit.ErrUnavailable) || !strings.Contains(err.Error(), "7 entries") {
			t.Errorf("%v", err)
		}
		fill(t, m, 1)
		whole(t, m, 2)
	})
}

// TestTilesFail: while tiles cannot be written, records are, up to a bound; past it nothing is confirmed any more. Later all is made good.
func TestTilesFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := disk(t)
		var bad atomic.Bool
		o := options(vfs.Hook(m, func(op vfs.Op) error {
			if bad.Load() && op.Kind == "create" && strings.Contains(op.Path, "/tile/") {
				return syscall.EIO
			}
			return nil
		}))
		o.PublishEvery, o.PendingBytes = time.Millisecond, 1<<20
		l := open(t, o)
		bad.Store(true)
		big := fmt.Appendf(nil, `{"a":"%01000d"}`, 1)
		n, refused := 0, error(nil)
		for n < 2000 {
			if _, refused = l.Append(t.Context(), big, true); refused != nil {
				break
			}
			n++
			if n == 10 {
				time.Sleep(time.Second)
				if l.Healthy() == nil {
					t.Error("health says nothing")
				}
			}
		}
		if !errors.Is(refused, syscall.EIO) || n < 1000 || n > 1300 {
			t.Errorf("after %d: %v", n, refused)
		}
		bad.Store(false)
		time.Sleep(5 * time.Second)
		if _, err := l.Append(t.Context(), entry(1), true); err != nil || l.Healthy() != nil {
			t.Errorf("%v, %v", err, l.Healthy())
		}
		must(t, l.Close())
		if _, err := verify(t, m); err != nil {
			t.Error(err)
		}
	})
}

// TestMany: many at once, each confirmed at an index of its own, and nothing is lost.
func TestMany(t *testing.T) {
	m := disk(t)
	o := options(m)
	o.PublishEvery, o.QueueEntries = time.Millisecond, 64
	l := open(t, o)
	var wg sync.WaitGroup
	var dropped, kept atomic.Int64
	at := make([][]audit.Index, 16)
	for w := range at {
		wg.Go(func() {
			for i := range 300 {
				wait := i%3 == 0
				n, err := l.Append(context.Background(), fmt.Appendf(nil, `{"w":%d,"i":%d}`, w, i), wait)
				switch {
				case errors.Is(err, audit.ErrDropped):
					dropped.Add(1)
				case err != nil:
					t.Error(err)
				default:
					kept.Add(1)
					if wait {
						at[w] = append(at[w], n)
					}
				}
			}
		})
	}
	wg.Wait()
	must(t, l.Close())
	r, err := verify(t, m)
	must(t, err)
	if r.Dropped != uint64(dropped.Load()) || int64(r.Checkpoint.Size) != kept.Load()+int64(len(logged(t, m, "dropped"))) {
		t.Errorf("%d kept, %d dropped: %+v", kept.Load(), dropped.Load(), r)
	}
	got := entries(t, m)
	for w := range at {
		for k, n := range at[w] {
			if want := fmt.Appendf(nil, `{"w":%d,"i":%d}`, w, 3*k); !bytes.Equal(got[n], want) {
				t.Fatalf("entry %d is %s, want %s", n, got[n], want)
			}
		}
	}
}
