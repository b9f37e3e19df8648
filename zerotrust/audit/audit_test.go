package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust/audit"
)

const dir = "/d/audit"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// keyOf is a key that is the same each time.
func keyOf(n byte) seal.Key {
	k, err := seal.KeyFromSeed(bytes.Repeat([]byte{n}, 32))
	if err != nil {
		panic(err)
	}
	return k
}

// disk is an empty file system with the folder that logs are in.
func disk(t testing.TB) *vfs.Mem {
	m := vfs.NewMem()
	must(t, m.MkdirAll("/d"))
	must(t, m.MkdirAll("/keys"))
	must(t, m.SyncDir("/"))
	return m
}

var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func options(f vfs.FS) audit.Options {
	return audit.Options{Dir: dir, FS: f, Key: keyOf(1), Origin: "example.com/audit", Writers: 1, PublishEvery: time.Hour, Now: func() time.Time { return start }}
}

func open(t testing.TB, o audit.Options) *audit.Log {
	t.Helper()
	l, err := audit.Open(o)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func entry(n int) []byte {
	return fmt.Appendf(nil, `{"time":"2026-11-25T12:05:11Z","action":"read","n":%d}`, n)
}

// fill makes a log of n entries, closed.
func fill(t testing.TB, f vfs.FS, n int, change ...func(*audit.Options)) *audit.Log {
	t.Helper()
	o := options(f)
	for _, c := range change {
		c(&o)
	}
	l := open(t, o)
	for i := range n {
		_, err := l.Append(context.Background(), entry(i), false)
		for errors.Is(err, audit.ErrDropped) {
			t.Fatal("the queue is too small for this test")
		}
		must(t, err)
		if i%5000 == 4999 {
			_, err := l.Append(context.Background(), []byte(`{"n":"wait"}`), true)
			must(t, err)
		}
	}
	must(t, l.Close())
	return l
}

func verify(t testing.TB, f vfs.FS, since ...[]byte) (audit.Report, error) {
	t.Helper()
	return audit.Verify(context.Background(), f, dir, audit.VerifyOptions{Trust: []audit.PublicKey{{Name: "example.com/audit", Key: keyOf(1).Public()}}, Since: since})
}

func whole(t testing.TB, f vfs.FS, size uint64, since ...[]byte) audit.Report {
	t.Helper()
	r, err := verify(t, f, since...)
	if err != nil || r.Checkpoint.Size != size || !r.Trusted {
		t.Fatalf("%d entries, want %d: %v", r.Checkpoint.Size, size, err)
	}
	return r
}

// entries are those of a log's view, in order.
func entries(t testing.TB, f vfs.FS) (out [][]byte) {
	t.Helper()
	v, err := audit.OpenView(f, dir, nil)
	must(t, err)
	at := audit.Index(-1)
	for r, err := range v.Entries(context.Background(), 0) {
		must(t, err)
		if r.Index <= at {
			t.Fatalf("entry %d comes behind %d", r.Index, at)
		}
		at = r.Index
		out = append(out, r.Entry)
	}
	return out
}

func read(t testing.TB, f vfs.FS, name string) []byte {
	t.Helper()
	r, err := f.Open(name)
	must(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	must(t, err)
	return b
}

func write(t testing.TB, f vfs.FS, name string, b []byte) {
	t.Helper()
	_ = f.Remove(name)
	w, err := f.Create(name)
	must(t, err)
	_, err = w.Write(b)
	must(t, errors.Join(err, w.Sync(), w.Close()))
}

// files are all files under a folder.
func files(t testing.TB, f vfs.FS, at string) (out []string) {
	t.Helper()
	names, err := f.List(at)
	must(t, err)
	for _, n := range names {
		name := filepath.Join(at, n)
		st, err := f.Stat(name)
		must(t, err)
		if st.Dir {
			out = append(out, files(t, f, name)...)
		} else {
			out = append(out, name)
		}
	}
	return out
}

func TestAppend(t *testing.T) {
	for what, f := range map[string]vfs.FS{"memory": disk(t), "disk": vfs.Default} {
		o := options(f)
		if what == "disk" {
			o.Dir = filepath.Join(t.TempDir(), "audit")
		}
		var want [][]byte
		for i := range 25 { // anew each time: what is there is gone on with
			l, err := audit.Open(o)
			must(t, err)
			for k := range 11 {
				e := entry(i*100 + k)
				at, err := l.Append(context.Background(), e, k%3 == 0)
				if err != nil || k%3 == 0 && at != audit.Index(len(want)) || k%3 > 0 && at != audit.Unknown {
					t.Fatalf("entry %d is at %d: %v", len(want), at, err)
				}
				want = append(want, e)
			}
			must(t, l.Close())
			if _, err := l.Append(context.Background(), entry(0), true); !errors.Is(err, audit.ErrClosed) {
				t.Errorf("a closed log takes an entry: %v", err)
			}
		}
		v, err := audit.OpenView(f, o.Dir, nil)
		must(t, err)
		n := 0
		for r, err := range v.Entries(context.Background(), 0) {
			if err != nil || int(r.Index) != n || !bytes.Equal(r.Entry, want[n]) {
				t.Fatalf("%s: entry %d: %s, %v", what, r.Index, r.Entry, err)
			}
			n++
		}
		if n != len(want) {
			t.Errorf("%s: %d entries of %d", what, n, len(want))
		}
		r, err := audit.Verify(context.Background(), f, o.Dir, audit.VerifyOptions{})
		if err != nil || r.Checkpoint.Size != uint64(len(want)) || r.Published != r.Checkpoint.Size {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
	}
}

// TestConfirmed: what Append has confirmed is there after a power cut, ahead of any tile.
func TestConfirmed(t *testing.T) {
	m := disk(t)
	l := open(t, options(m))
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 20 {
				if _, err := l.Append(context.Background(), entry(w*100+i), true); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if s := l.Stats(); s.Published != 0 || s.Size != 160 || s.Commits > 160 {
		t.Errorf("%+v", s)
	}
	c := m.Crash(nil)
	r := whole(t, c, 160)
	if r.Published != 0 {
		t.Errorf("%d are published", r.Published)
	}
	fill(t, c, 1)
	whole(t, c, 161, r.Note)
}

func TestRefused(t *testing.T) {
	m := disk(t)
	l := open(t, options(m))
	big := []byte(`{"a":"` + strings.Repeat("x", audit.MaxEntry-8) + `"}`)
	for what, e := range map[string][]byte{"empty": nil, "no object": []byte(`[1]`), "no JSON": []byte(`{"a":}`), "two": []byte(`{} {}`), "no UTF-8": []byte("{\"a\":\"\xff\"}"),
		"large": append(big[:len(big)-2:len(big)-2], `x"}`...), "as the log's own": []byte(`{"log":"dropped","count":3}`)} {
		for _, wait := range []bool{false, true} {
			if _, err := l.Append(context.Background(), e, wait); !errors.Is(err, audit.ErrEntry) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	at, err := l.Append(context.Background(), big, true)
	if err != nil || at != 0 {
		t.Errorf("the largest: %d, %v", at, err)
	}
	must(t, l.Close())
	if got := entries(t, m); !bytes.Equal(got[0], big) {
		t.Error("the largest is another")
	}
}

// TestSizes: trees of all kinds of sizes, up to two levels of full tiles and a third.
func TestSizes(t *testing.T) {
	m := disk(t)
	n := 0
	var kept [][]byte
	sizes := []int{0, 1, 254, 1, 1, 255, 256, 3000, 61_768, 300}
	if race {
		sizes[8] = 3000 // two levels
	}
	for _, add := range sizes {
		l := open(t, options(m))
		for range add {
			if _, err := l.Append(context.Background(), entry(n), false); errors.Is(err, audit.ErrDropped) {
				_, err = l.Append(context.Background(), entry(n), true)
				must(t, err)
			}
			n++
		}
		must(t, l.Close())
		got := entries(t, m)
		var dropped uint64
		for _, e := range got {
			var d struct{ Count uint64 }
			if bytes.Contains(e, []byte(`"log"`)) {
				must(t, json.Unmarshal(e, &d))
				dropped += d.Count
			}
		}
		r := whole(t, m, uint64(len(got)), kept...)
		if r.Dropped != dropped || dropped != l.Stats().Dropped && add > 0 && dropped == 0 {
			t.Errorf("%d dropped, the log says %d", dropped, r.Dropped)
		}
		kept = append(kept, r.Note)
	}
	if !race && n < 65_536 || len(kept) != 10 {
		t.Errorf("%d entries", n)
	}
	for _, name := range files(t, m, dir) { // partial tiles go when the full one is there, and records when tiles are
		if strings.Contains(name, ".p/") {
			full := strings.Split(name, ".p/")[0]
			if _, err := m.Stat(full); err == nil {
				t.Errorf("%s is still there", name)
			}
		}
		if strings.Contains(name, "/wal/") || strings.HasSuffix(name, ".tmp") {
			t.Errorf("%s is still there", name)
		}
	}
}

// TestCrash: the machine stops ahead of every operation. What was confirmed is there, whole and in order, the log goes on, and nobody is
// told that it is broken.
func TestCrash(t *testing.T) {
	stop := errors.New("power cut")
	const each = 3
	story := func(f vfs.FS, confirmed *atomic.Int64) error {
		for run := range 2 {
			o := options(f)
			o.Anchor = "/keys/anchor"
			if run == 1 {
				o.PublishEvery = time.Nanosecond
			}
			l, err := audit.Open(o)
			if err != nil {
				return err
			}
			for range each {
				if _, err := l.Append(context.Background(), entry(int(confirmed.Load())), true); err != nil {
					return errors.Join(err, l.Close())
				}
				confirmed.Add(1)
			}
			for i := range 260 { // a full tile in each run
				if _, err := l.Append(context.Background(), fmt.Appendf(nil, `{"other":%d}`, i), false); err != nil {
					return errors.Join(err, l.Close())
				}
			}
			if err := l.Close(); err != nil {
				return err
			}
		}
		return nil
	}
	points := 0
	step := 1
	if race {
		step = 7
	}
	for at := 0; ; at += step {
		mem, ops, then := disk(t), 0, 0
		var confirmed atomic.Int64
		var mu sync.Mutex
		var crashes []*vfs.Mem
		err := story(vfs.Hook(mem, func(op vfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if ops++; ops-1 == at {
				then = int(confirmed.Load())
				for seed := range uint64(3) {
					crashes = append(crashes, mem.Crash(rand.New(rand.NewPCG(seed, uint64(at)))))
				}
				crashes = append(crashes, mem.Crash(nil))
			}
			if ops-1 >= at {
				return stop
			}
			return nil
		}), &confirmed)
		if err == nil {
			break
		}
		points++
		for i, c := range crashes {
			o := options(c)
			o.Anchor = "/keys/anchor"
			l, err := audit.Open(o)
			if err != nil {
				t.Fatalf("ahead of operation %d, crash %d: %v", at, i, err)
			}
			_, err = l.Append(context.Background(), []byte(`{"act":"resume"}`), true)
			must(t, errors.Join(err, l.Close()))
			if _, err := verify(t, c, read(t, c, "/keys/anchor")); err != nil {
				t.Fatalf("ahead of operation %d, crash %d: %v", at, i, err)
			}
			next := 0
			for _, e := range entries(t, c) {
				if bytes.Equal(e, entry(next)) {
					next++
				}
			}
			if next < then {
				t.Fatalf("ahead of operation %d, crash %d: %d were confirmed, %d are there", at, i, then, next)
			}
		}
	}
	if points < 60/step {
		t.Errorf("only %d operations", points)
	}
}

// TestFails: one operation fails. Whoever waited is told, or the entry is there; the log goes on by itself and stays whole.
func TestFails(t *testing.T) {
	bad := errors.New("disk")
	step := 1
	if race {
		step = 5
	}
	for at := 0; ; at += step {
		mem := disk(t)
		hook := vfs.FailNth(at, bad)
		var mu sync.Mutex
		failed := false
		o := options(vfs.Hook(mem, func(op vfs.Op) error {
			err := hook(op)
			mu.Lock()
			failed = failed || err != nil
			mu.Unlock()
			return err
		}))
		o.RetryEvery = time.Millisecond
		l, err := audit.Open(o)
		if err != nil {
			if !errors.Is(err, bad) {
				t.Fatalf("operation %d: %v", at, err)
			}
			l = open(t, o) // it was the one that fails
		}
		confirmed := 0
		for i := range 300 {
			if _, err := l.Append(context.Background(), entry(i), i%50 == 0); err == nil && i%50 == 0 {
				confirmed++
			} else if err != nil && !errors.Is(err, audit.ErrUnavailable) {
				t.Fatalf("operation %d: %v", at, err)
			}
		}
		cerr := l.Close()
		if cerr != nil && !errors.Is(cerr, bad) {
			t.Fatalf("operation %d: %v", at, cerr)
		}
		l = open(t, options(mem))
		must(t, l.Close())
		if _, err := verify(t, mem); err != nil {
			t.Fatalf("operation %d: %v", at, err)
		}
		got := entries(t, mem)
		waited := 0
		for i := range 6 {
			if slices.ContainsFunc(got, func(e []byte) bool { return bytes.Equal(e, entry(50*i)) }) {
				waited++
			}
		}
		if waited < confirmed {
			t.Fatalf("operation %d: %d were confirmed, %d are there", at, confirmed, waited)
		}
		if !failed {
			if at < 25 || confirmed != 6 {
				t.Errorf("only %d operations, %d confirmed", at, confirmed)
			}
			return
		}
	}
}
