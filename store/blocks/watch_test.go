package blocks

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

// watching collects what a server's watch says.
type watching struct {
	mu  sync.Mutex
	got []string
}

func watch1(t *testing.T, b *Blocks, since time.Time) *watching {
	t.Helper()
	w := &watching{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := b.Watch(ctx, since, w.see); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	for { // until it is in the list
		b.mu.Lock()
		n := len(b.watches)
		b.mu.Unlock()
		if n > 0 {
			return w
		}
		runtime.Gosched()
	}
}

func (w *watching) see(c store.Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got = append(w.got, fmt.Sprintf("%s/%s/%s %d+%d", c.Tenant, c.Service, c.Name, int(c.From.Sub(epoch)/time.Minute), int(c.To.Sub(c.From)/time.Minute)))
}

// take is what was said since the last time.
func (w *watching) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	got := w.got
	w.got = nil
	slices.Sort(got)
	return got
}

// TestWatch: a server hears of what another put, not of what it put itself, nor of what the other made of it. One
// that sees only the merged block hears of that.
func TestWatch(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	bk := folder(t, mem)
	var now clock
	open := func(n int) *Blocks {
		opt := testOptions(mem)
		opt.Now = now.now
		opt.Dir = fmt.Sprint("/data/server", n)
		opt.RefreshEvery = time.Hour
		return openBlocks(t, bk, opt)
	}
	a, b := open(0), open(1)
	heard, own := watch1(t, b, time.Time{}), watch1(t, a, time.Time{})
	refreshed := func() {
		t.Helper()
		for _, s := range []*Blocks{a, b} {
			settled(t, s)
			if err := s.Refresh(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	put := func(n int, us ...*upload) {
		t.Helper()
		if err := a.Put(ctx, []store.Staged{writeBlock(t, mem, n, block.LevelHead, epoch, us)}); err != nil {
			t.Fatal(err)
		}
	}
	one, two := plainUpload(1), plainUpload(2)
	two.from, two.to = two.from+int64(7*time.Minute), two.to+int64(7*time.Minute)
	put(1, one, two)
	if got := heard.take(); got != nil {
		t.Errorf("before it is listed: %q", got)
	}
	refreshed()
	minuteOf := func(u *upload) int { return int((u.from - epoch.UnixNano()) / minute) }
	span := minuteOf(two) - minuteOf(one) + 1
	want := []string{fmt.Sprintf("t/%s/%s %d+%d", one.labels.Get("service_name"), "process_cpu", minuteOf(one), span), fmt.Sprintf("t/%s/%s %d+%d", two.labels.Get("service_name"), "process_cpu", minuteOf(one), span)}
	slices.Sort(want)
	if got := heard.take(); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	put(2, plainUpload(3))
	put(3, plainUpload(4))
	refreshed()
	if got := heard.take(); len(got) != 2 {
		t.Errorf("two more: %q", got)
	}
	before := a.Stats().Compactions
	now.turn(10 * time.Hour)
	maintained(t, a)
	if a.Stats().Compactions == before {
		t.Fatal("nothing was merged")
	}
	refreshed()
	if got := heard.take(); got != nil {
		t.Errorf("merged blocks are told: %q", got)
	}
	if got := own.take(); got != nil {
		t.Errorf("its own are told: %q", got)
	}

	// Its sources have gone: all of it is new to one who comes now.
	for _, k := range a.now.Load().all {
		if len(k.Meta.Sources) == 0 {
			deleteBlock(t, bk, k.Meta)
		}
	}
	c := open(2)
	if got := watch1(t, c, time.Time{}); !slices.ContainsFunc(wait1(t, got), func(s string) bool { return s[:2] == "t/" }) {
		t.Error("nothing is told of a merged block whose sources have gone")
	}
	if got := watch1(t, open(3), epoch.Add(1000*time.Hour)).take(); got != nil {
		t.Errorf("made before: %q", got)
	}
}

// wait1 waits until something is said.
func wait1(t *testing.T, w *watching) []string {
	t.Helper()
	for t.Context().Err() == nil {
		if got := w.take(); got != nil {
			return got
		}
		runtime.Gosched()
	}
	return nil
}
