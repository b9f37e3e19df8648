package integrity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// events collects what a monitor tells.
type events struct {
	mu   sync.Mutex
	list []Event
	more chan struct{} // one token where there is more
}

func newEvents() *events { return &events{more: make(chan struct{}, 1)} }

func (e *events) record(_ context.Context, ev Event) error {
	e.mu.Lock()
	e.list = append(e.list, ev)
	e.mu.Unlock()
	select {
	case e.more <- struct{}{}:
	default:
	}
	return nil
}

// lines are what was told since last asked, as text.
func (e *events) lines(t *tree) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := []string{}
	for _, ev := range e.list {
		if ev.Change != nil {
			out = append(out, t.lines([]*Change{ev.Change})...)
			continue
		}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s", ev.Kind, strings.TrimPrefix(ev.Path, t.dir+"/"))))
	}
	e.list = nil
	return out
}

func (t *tree) monitor(e *events, o Options) *Monitor {
	t.Helper()
	o.Store, o.Record = t.store, e.record
	m, err := NewMonitor(o)
	must(t, err)
	return m
}

// TestMonitorPolls: without the kernel's events, each change and each return is told once, by the look that is due.
func TestMonitorPolls(t *testing.T) {
	tr := newTree(t)
	tr.write("a", "a")
	tr.write("d/b", "b")
	tr.baseline()
	tr.write("a", "before it runs")
	synctest.Test(t, func(t *testing.T) {
		e := newEvents()
		var refuse atomic.Bool
		refuse.Store(true)
		m := tr.monitor(e, Options{Blind: true, Poll: time.Minute, Rehash: time.Hour, Alert: func(_ context.Context, ev Event) error {
			if strings.HasSuffix(ev.Path, "/refused") && refuse.Load() {
				return errors.New("no")
			}
			return nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		next := func(want ...string) {
			t.Helper()
			time.Sleep(time.Minute + time.Second) // of the bubble
			synctest.Wait()
			if got := e.lines(tr); !slices.Equal(got, append([]string{}, want...)) {
				t.Errorf("told %q, not %q", got, want)
			}
		}
		next("changed a: content, size, mtime, ctime")
		next()
		tr.write("a", "and again")
		tr.write("new", "n")
		must(t, os.Rename(tr.path("d/b"), tr.path("d/c")))
		next("changed a: content, size, mtime, ctime", "renamed d/c from d/b", "added new")
		must(t, os.Remove(tr.path("new")), os.Rename(tr.path("d/c"), tr.path("d/b")))
		next("changed d/b: ctime", "restored d/c", "restored new")
		next()

		// What an alert refuses is told again.
		tr.write("refused", "r")
		next("added refused")
		next("added refused")
		refuse.Store(false)
		next("added refused")
		next()

		// What is approved is not told as restored, and what is not approved is not told again.
		b, err := tr.store.Open(Mark{})
		must(t, err)
		r, err := b.Check(t.Context(), Look{Full: true})
		must(t, err)
		_, err = tr.store.Approve(t.Context(), b, r.Changes[:1])
		must(t, err, b.Close())
		next("baseline")
		if s := m.Status(); s.Baseline.Number != 2 || s.Changes != 2 || s.Events != "" || s.Looked.IsZero() || s.Rehashed.IsZero() {
			t.Errorf("%+v", s)
		}

		// An old baseline in the new one's place is told, and not taken.
		head, err := os.ReadFile(filepath.Join(tr.store.Dir, "head"))
		must(t, err)
		text := headText(Mark{1, b.Mark.Digest})
		sig, err := sign(HeadDomain, []byte(text))
		must(t, err, os.WriteFile(filepath.Join(tr.store.Dir, "head"), fmt.Appendf(nil, "%s%x\n", text, sig), 0o600))
		next("problem")
		next()
		if s := m.Status(); s.Baseline.Number != 2 {
			t.Errorf("%+v", s)
		}
		must(t, os.WriteFile(filepath.Join(tr.store.Dir, "head"), head, 0o600))
		next()
		cancel()
		must(t, <-done)
	})
}

// otherBytes makes the baseline's bytes others and leaves its times those of the files, as if the disk had been written to.
func (t *tree) otherBytes(racy bool) {
	t.Helper()
	b := t.open()
	h := b.Header
	h.Number, h.Previous = b.Number+1, b.Mark.Digest
	_, _, err := t.store.write(context.Background(), &h, Event{}, func(w *writer) error {
		for c := b.from(""); ; {
			e, err := c.next()
			if e == nil || err != nil {
				return err
			}
			e.Racy = racy
			if e.Type == Regular {
				e.Hash[0]++
			}
			if err := w.add(e); err != nil {
				return err
			}
		}
	})
	must(t, err)
}

// TestRacy: times are proof unless the change was too near to the look, as another may have had the same.
func TestRacy(t *testing.T) {
	tr := newTree(t)
	tr.write("a", "a")
	tr.baseline()
	tr.otherBytes(true)
	tr.expect(false, "changed a: content")
}

// TestMonitorRehash: what changes below the file system's times is found by the look that reads all.
func TestMonitorRehash(t *testing.T) {
	tr := newTree(t)
	tr.write("a", "a")
	tr.baseline()
	tr.otherBytes(false)
	tr.expect(false)
	tr.expect(true, "changed a: content")
	synctest.Test(t, func(t *testing.T) {
		e := newEvents()
		m := tr.monitor(e, Options{Blind: true})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		time.Sleep(time.Second)
		synctest.Wait()
		if got := e.lines(tr); !slices.Equal(got, []string{"changed a: content"}) {
			t.Errorf("%q", got)
		}
		cancel()
		must(t, <-done)
	})
}

func TestMonitorRefuses(t *testing.T) {
	tr := newTree(t)
	tr.write("a", "a")
	e := newEvents()
	if err := tr.monitor(e, Options{}).Run(t.Context()); !errors.Is(err, ErrNone) {
		t.Errorf("%v", err)
	}
	tr.baseline()
	if err := tr.monitor(e, Options{Floor: Mark{Number: 9}}).Run(t.Context()); !errors.Is(err, ErrRollback) {
		t.Errorf("%v", err)
	}
	if _, err := NewMonitor(Options{Store: tr.store, Poll: -1}); err == nil {
		t.Error("a time below 0")
	}
	if _, err := NewMonitor(Options{}); err == nil {
		t.Error("no store")
	}
	lock, err := tr.store.fs().Lock(tr.store.path("monitor.lock"))
	must(t, err)
	if err := tr.monitor(e, Options{}).Run(t.Context()); err == nil {
		t.Error("two at a time")
	}
	must(t, lock.Close())
}

// TestPending: past its bound all is to be looked at.
func TestPending(t *testing.T) {
	p := newPending()
	p.add(nil, false)
	select {
	case <-p.signal:
		t.Error("a signal for nothing")
	default:
	}
	for i := range maxPending + 1 {
		p.add([]hint{{path: fmt.Sprint(i)}}, false)
	}
	<-p.signal
	paths, lost := p.take()
	if !lost || len(paths) != maxPending {
		t.Errorf("%d, %v", len(paths), lost)
	}
	for i := range 9 {
		p.add([]hint{{"x", &Who{PID: i}}, {"x", &Who{PID: i}}}, false)
	}
	if paths, _ := p.take(); len(paths["x"]) != maxWho || paths["x"][maxWho-1].PID != 8 {
		t.Errorf("%v", paths)
	}
}
