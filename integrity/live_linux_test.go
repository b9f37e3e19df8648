package integrity

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// kernels runs a test with each of what tells of changes here.
func kernels(t *testing.T, test func(t *testing.T, run func(t *testing.T, tr *tree, m *Monitor))) {
	for _, name := range []string{"fanotify", "inotify"} {
		t.Run(name, func(t *testing.T) {
			if name == "fanotify" && os.Geteuid() != 0 {
				t.Log("NOT TESTED: only root may use fanotify so that it tells who")
				return
			}
			test(t, func(t *testing.T, tr *tree, m *Monitor) { runLive(t, tr, m, name) })
		})
	}
}

// runLive runs a monitor until the test ends, and returns when its first look is done.
func runLive(t *testing.T, tr *tree, m *Monitor, name string) {
	t.Helper()
	if name == "inotify" {
		m.openKernel = func(*folder) (kernel, error) { return openInotify() }
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-done) })
	eventually(t, func() string {
		if s := m.Status(); s.Rehashed.IsZero() || s.Events != name {
			return fmt.Sprintf("status %+v", s)
		}
		return ""
	})
}

// eventually waits until what says nothing more; what it said last fails the test.
func eventually(t *testing.T, what func() string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(30 * time.Second)
	last := ""
	for {
		if last = what(); last == "" {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatal(last)
		}
	}
}

// TestLive: what is done to a tree while it is watched is told within its time to settle, each change once; new folders are watched, too.
func TestLive(t *testing.T) {
	kernels(t, func(t *testing.T, run func(*testing.T, *tree, *Monitor)) {
		for seed := range uint64(3) {
			rng := rand.New(rand.NewPCG(seed, 88))
			tr := newTree(t)
			for range 30 {
				operate(t, rng, tr.dir)
			}
			tr.baseline()
			tr.settle()
			before := naive(t, tr.dir)
			e := newEvents()
			// So long between whole looks that only events can have told.
			m := tr.monitor(e, Options{Settle: 20 * time.Millisecond, Every: time.Hour, Rehash: -1})
			run(t, tr, m)
			state := map[string]string{}
			for range 12 {
				for range 4 {
					operate(t, rng, tr.dir)
				}
				after := naive(t, tr.dir)
				eventually(t, func() string {
					fold(t, e, state)
					want := map[string]bool{}
					for _, p := range slices.Collect(maps.Keys(before)) {
						want[p] = after[p] != before[p]
					}
					for p := range after {
						want[p] = after[p] != before[p]
					}
					for p, differs := range want {
						if (state[p] != "") != differs {
							return fmt.Sprintf("seed %d: %s: differs %v, was told %q", seed, p, differs, state[p])
						}
					}
					return ""
				})
			}
		}
	})
}

// fold takes in what was told. The same change may not be told twice.
func fold(t *testing.T, e *events, state map[string]string) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.list {
		switch {
		case ev.Kind == EventRestored:
			if state[ev.Path] == "" {
				t.Errorf("%s is told as restored, and was not told as changed", ev.Path)
			}
			delete(state, ev.Path)
		case ev.Change != nil:
			id := ev.Change.ID()
			if state[ev.Change.Path] == id {
				t.Errorf("%v is told twice", ev.Change)
			}
			state[ev.Change.Path] = id
			if ev.Change.From != "" {
				state[ev.Change.From] = id
			}
		}
	}
	e.list = nil
}

// TestWho: where the kernel tells which process it was, the change says so.
func TestWho(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("NOT TESTED: only root is told who")
		return
	}
	tr := newTree(t)
	tr.write("f", "x")
	tr.baseline()
	e := newEvents()
	runLive(t, tr, tr.monitor(e, Options{Settle: 20 * time.Millisecond}), "fanotify")
	// It stays alive until it is asked to end, as what changes files for long does.
	cmd := exec.Command("sh", "-c", `echo other > "$1"; read end`, "sh", tr.path("f"))
	stdin, err := cmd.StdinPipe()
	must(t, err, cmd.Start())
	var c *Change
	eventually(t, func() string {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, ev := range e.list {
			if ev.Change != nil && ev.Change.Path == tr.path("f") {
				c = ev.Change
				return ""
			}
		}
		return "nothing was told"
	})
	must(t, stdin.Close())
	cmd.Wait() // read ends with an error where there is no line
	if len(c.Who) != 1 || c.Who[0].PID != cmd.Process.Pid || c.Who[0].UID == nil || *c.Who[0].UID != 0 || filepath.Base(c.Who[0].Exe) == "" || c.Who[0].Args == "" {
		t.Errorf("%+v", c.Who)
	}
}

// TestLost: where events were dropped that is said, and everything is looked at.
func TestLost(t *testing.T) {
	tr := newTree(t)
	tr.write("f", "x")
	tr.baseline()
	synctest.Test(t, func(t *testing.T) {
		e := newEvents()
		m := tr.monitor(e, Options{Blind: true, Poll: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		time.Sleep(time.Second)
		synctest.Wait()
		tr.write("f", "other")
		m.pending.add(nil, true)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := e.lines(tr); !slices.Equal(got, []string{"lost", "changed f: content, size, mtime, ctime"}) || m.Status().Lost != 1 {
			t.Errorf("%q", got)
		}
		cancel()
		must(t, <-done)
	})
	// That is what the kernel says.
	f := &fanotify{paths: map[string]string{}}
	if _, lost, err := f.parse(fanotifyEvent(unix.FAN_Q_OVERFLOW, nil)); !lost || err != nil {
		t.Errorf("fanotify: %v, %v", lost, err)
	}
	i := &inotify{paths: map[int32]string{}}
	raw := binary.NativeEndian.AppendUint32(nil, ^uint32(0))
	raw = binary.NativeEndian.AppendUint32(raw, unix.IN_Q_OVERFLOW)
	if _, lost, err := i.parse(append(raw, make([]byte, 8)...)); !lost || err != nil {
		t.Errorf("inotify: %v, %v", lost, err)
	}
}

func fanotifyEvent(mask uint64, infos []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(24+len(infos)))
	b = append(b, unix.FANOTIFY_METADATA_VERSION, 0)
	b = binary.NativeEndian.AppendUint16(b, 24)
	b = binary.NativeEndian.AppendUint64(b, mask)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // no descriptor
	b = binary.NativeEndian.AppendUint32(b, 0)
	return append(b, infos...)
}

// FuzzEvents: no bytes crash what reads events, or name a path outside of the folders that are watched.
func FuzzEvents(f *testing.F) {
	key := append(make([]byte, 8), 4, 0, 0, 0, 1, 0, 0, 0, 'k', 'e', 'y', '!')
	info := append([]byte{unix.FAN_EVENT_INFO_TYPE_DFID_NAME, 0, byte(4 + len(key) + 2), 0}, key...)
	f.Add(fanotifyEvent(unix.FAN_CREATE, append(info, 'f', 0)))
	f.Add(append([]byte{1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0}, 'f', 0, 0, 0))
	f.Fuzz(func(t *testing.T, raw []byte) {
		fa, in := &fanotify{paths: map[string]string{string(key): "/watched"}}, &inotify{paths: map[int32]string{1: "/watched"}}
		if bytes.Contains(raw, []byte{unix.FAN_EVENT_INFO_TYPE_PIDFD}) {
			raw = bytes.ReplaceAll(raw, []byte{unix.FAN_EVENT_INFO_TYPE_PIDFD}, nil) // its descriptor would be closed, and is one of ours
		}
		a, _, _ := fa.parse(raw)
		b, _, _ := in.parse(raw)
		for _, h := range append(a, b...) {
			if !within(h.path, "/watched") {
				t.Fatalf("%q", h.path)
			}
		}
	})
}
