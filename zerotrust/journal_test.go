package zerotrust

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
)

var golden = flag.Bool("golden", false, "write testdata/order.golden anew")

var birth = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

const (
	crashDir    = "/guard"
	crashRoom   = 4   // records
	crashFrames = 900 // bytes of logs before a snapshot: a few commits
)

// table is records of a folder, as a guard opens them. It is closed with the test, also one that has failed: its goroutine would keep
// the bubble's time going for ever.
func table(t *testing.T, f vfs.FS, room int) (*records, error) {
	tb := newRecords(room, func() time.Time { return birth })
	j, err := openJournal(f, crashDir, tb, new(atomic.Int64), crashFrames)
	if err == nil {
		t.Cleanup(func() { _ = j.close() }) // again, or without power
	}
	return tb, err
}

// counts are failures by principal: what the tests' model has of a record.
type counts map[string]uint32

func countsOf(t *records) counts {
	c := counts{}
	for _, r := range t.list() {
		c[r.Principal] = r.Failures
	}
	return c
}

// work changes records until an operation fails or all is done, and is what was acknowledged last and what was asked for by then.
// The fifth principal puts out another.
func work(t *records) (acked, asked counts) {
	acked, asked = counts{}, counts{}
	for i := range 14 {
		name := fmt.Sprint("p", i%5)
		r, err := t.need(name, false, false, birth)
		if err != nil {
			return acked, asked
		}
		t.update(r, (*Record).failed)
		asked = countsOf(t)
		if t.commit(context.Background()) != nil {
			return acked, asked
		}
		acked = asked
	}
	return acked, asked
}

// TestCrashEverywhere: the power fails at each operation in turn. What was acknowledged is there, nothing is that was not asked for,
// and the folder is one that works.
func TestCrashEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := false
		for n := 0; !done; n++ {
			mem := vfs.NewMem()
			left := n
			var cut bool
			f := vfs.Hook(mem, func(op vfs.Op) error {
				if left--; left < 0 {
					cut = true
					return errors.New("no power")
				}
				return nil
			})
			var acked, asked counts
			tb, err := table(t, f, crashRoom)
			if err == nil {
				acked, asked = work(tb)
				synctest.Wait()
			}
			done = !cut
			for seed := range uint64(4) {
				var rng *rand.Rand
				if seed > 0 {
					rng = rand.New(rand.NewPCG(uint64(n), seed))
				}
				after := mem.Crash(rng)
				if err := after.MkdirAll(crashDir); err != nil { // for fsck
					t.Fatal(err)
				}
				survives(t, after, acked, asked, fmt.Sprintf("operation %d, seed %d", n, seed))
			}
			if err == nil {
				_ = tb.journal.close() // without power it fails
			}
			if n > 2000 {
				t.Fatal("it does not end")
			}
		}
	})
}

func survives(t *testing.T, f vfs.FS, acked, asked counts, where string) {
	t.Helper()
	if _, err := Fsck(f, crashDir); err != nil {
		t.Fatalf("%s: fsck: %v", where, err)
	}
	tb, err := table(t, f, crashRoom)
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	got := countsOf(tb)
	for p, n := range acked {
		if _, put := asked[p]; put && got[p] < n {
			t.Fatalf("%s: %s has %d failures, %d were acknowledged", where, p, got[p], n)
		}
	}
	for p, n := range got {
		if was, ok := acked[p]; n > max(asked[p], was) || !ok && asked[p] == 0 {
			t.Fatalf("%s: %s has %d failures, of which nothing was known", where, p, n)
		}
	}
	r, err := tb.need("p0", true, false, birth)
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	tb.update(r, (*Record).failed)
	want := countsOf(tb)
	if err := tb.journal.close(); err != nil {
		t.Fatalf("%s: after the crash: %v", where, err)
	}
	again, err := table(t, f, crashRoom)
	if err != nil {
		t.Fatalf("%s: the second time: %v", where, err)
	}
	if got := countsOf(again); !maps.Equal(got, want) {
		t.Fatalf("%s: the second time %v, not %v", where, got, want)
	}
	if err := again.journal.close(); err != nil {
		t.Fatal(err)
	}
}

// TestFaultEverywhere: each operation fails once, and the process goes on: what was not kept is kept later.
func TestFaultEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for n := 0; n < 2000; n++ {
			mem := vfs.NewMem()
			var hit atomic.Bool
			nth := vfs.FailNth(n, errors.New("a bad sector"))
			f := vfs.Hook(mem, func(op vfs.Op) error {
				err := nth(op)
				if err != nil {
					hit.Store(true)
				}
				return err
			})
			tb, err := table(t, f, crashRoom)
			if err != nil {
				continue
			}
			for i := range 14 {
				r, err := tb.need(fmt.Sprint("p", i%5), false, false, birth)
				if err != nil {
					t.Fatal(err)
				}
				tb.update(r, (*Record).failed)
				_ = tb.commit(context.Background()) // one fails
			}
			if err := tb.commit(context.Background()); err != nil {
				t.Fatalf("operation %d: long after it: %v", n, err)
			}
			want := countsOf(tb)
			if err := tb.journal.close(); err != nil && hit.Load() && !strings.Contains(err.Error(), "bad sector") {
				t.Fatal(err)
			}
			if err := tb.journal.healthy(); err != nil {
				t.Fatalf("operation %d: %v", n, err)
			}
			again, err := table(t, mem.Crash(nil), crashRoom)
			if err != nil {
				t.Fatalf("operation %d: %v", n, err)
			}
			if got := countsOf(again); !maps.Equal(got, want) {
				t.Fatalf("operation %d: %v, not %v", n, got, want)
			}
			_ = again.journal.close()
			if !hit.Load() {
				return
			}
		}
		t.Fatal("it does not end")
	})
}

// TestOrder: what is done to the disk, in order: a log is synced before it is written to, a snapshot before it is renamed, and the logs
// that it stands for go last.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &vfs.Recorder{Root: crashDir}
		tb, err := table(t, vfs.Hook(vfs.NewMem(), rec.Hook), crashRoom)
		if err != nil {
			t.Fatal(err)
		}
		work(tb)
		if err := tb.journal.close(); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join("testdata", "order.golden")
		if *golden {
			if err := os.WriteFile(name, []byte(rec.String()), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := rec.String(); got != strings.ReplaceAll(string(want), "\r\n", "\n") {
			t.Errorf("the order is another:\n%s", got)
		}
	})
}

func contents(t *testing.T, f vfs.FS) map[string][]byte {
	t.Helper()
	names, err := f.List(crashDir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, n := range names {
		if n == lockName {
			continue
		}
		r, err := f.Open(filepath.Join(crashDir, n))
		if err != nil {
			t.Fatal(err)
		}
		if out[n], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	return out
}

func folderOf(t *testing.T, files map[string][]byte) vfs.FS {
	t.Helper()
	m := vfs.NewMem()
	if err := m.MkdirAll(crashDir); err != nil {
		t.Fatal(err)
	}
	for n, b := range files {
		w, err := m.Create(filepath.Join(crashDir, n))
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(b)
		if err = errors.Join(err, w.Sync(), w.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// TestDamage: any byte of any file changed, any file cut or gone, is found, but for the last frame of all, which a crash may have torn:
// then that alone is missing.
func TestDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		tb, err := table(t, mem, crashRoom)
		if err != nil {
			t.Fatal(err)
		}
		work(tb)
		if err := tb.journal.close(); err != nil {
			t.Fatal(err)
		}
		files := contents(t, mem)
		names := slices.Sorted(maps.Keys(files))
		if len(names) < 2 {
			t.Fatalf("only %v", names)
		}
		last := names[len(names)-1]
		if strings.HasSuffix(last, "snap") {
			last = names[len(names)-2]
		}
		tail := bytes.LastIndex(files[last], []byte(frameMagic))
		try := func(what, name string, at int, change func(map[string][]byte)) {
			t.Helper()
			c := maps.Clone(files)
			c[name] = bytes.Clone(c[name])
			change(c)
			k, err := readDir(folderOf(t, c), crashDir)
			if err != nil {
				if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "trust-") {
					t.Fatalf("%s: %s at byte %d: %v", what, name, at, err)
				}
				return
			}
			if name != last || at < tail {
				t.Fatalf("%s: %s at byte %d of %d is not found", what, name, at, len(files[name]))
			}
			for p, e := range k.entries {
				if !e.removed && e.state.Failures > 3 {
					t.Fatalf("%s: %s has %d failures", what, p, e.state.Failures)
				}
			}
		}
		for _, name := range names {
			for at := range files[name] {
				try("a changed byte", name, at, func(c map[string][]byte) { c[name][at] ^= 0x20 })
				if name == last && at < tail {
					continue // whole frames off the end cannot be told from a crash before they were written
				}
				try("cut", name, at, func(c map[string][]byte) { c[name] = c[name][:at] })
			}
			if name != last {
				try("gone", name, 0, func(c map[string][]byte) { delete(c, name) })
			}
		}
	})
}

// TestKeptFixture: what version 1 has written is read, and is written the same.
func TestKeptFixture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		tb, err := table(t, mem, crashRoom)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := work(tb)
		if err := tb.journal.close(); err != nil {
			t.Fatal(err)
		}
		files := contents(t, mem)
		dir := filepath.Join("testdata", "v1", "trust")
		if *golden {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			for n, b := range files {
				if err := os.WriteFile(filepath.Join(dir, n), b, 0o666); err != nil {
					t.Fatal(err)
				}
			}
		}
		k, err := readDir(vfs.Default, dir)
		if err != nil {
			t.Fatal(err)
		}
		got := counts{}
		for p, e := range k.entries {
			if !e.removed {
				got[p] = e.state.Failures
			}
		}
		if !maps.Equal(got, want) || len(k.files) < 2 {
			t.Errorf("%v in %v, not %v", got, k.files, want)
		}
		for n, b := range files {
			have, err := os.ReadFile(filepath.Join(dir, n))
			if err != nil || !bytes.Equal(have, b) {
				t.Errorf("%s is written otherwise now: %v", n, err)
			}
		}
	})
}

// TestRoom: who goes where there is no room: the lowest class, the one longest not seen; nobody for one of his own class but strangers
// for strangers, and nobody who is here.
func TestRoom(t *testing.T) {
	now := birth
	tb := newRecords(3, func() time.Time { return now })
	need := func(p string, vouched bool) (*record, error) {
		now = now.Add(time.Second)
		return tb.need(p, vouched, false, now)
	}
	mustNeed := func(p string, vouched bool) *record {
		t.Helper()
		r, err := need(p, vouched)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		return r
	}
	a := mustNeed("a", false)
	mustNeed("b", false)
	mustNeed("c", false)
	tb.update(a, func(*Record) {}) // seen last
	mustNeed("d", false)
	if tb.get("b") != nil || tb.get("a") == nil {
		t.Error("not the one longest not seen went")
	}
	tb.update(a, func(r *Record) { r.Connections = historyEvery })
	mustNeed("v1", true)
	mustNeed("v2", true)
	if tb.get("a") == nil {
		t.Error("who is known went before a stranger")
	}
	if _, err := need("stranger", false); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a stranger has put out one who is known: %v", err)
	}
	mustNeed("v3", true)
	if tb.get("a") != nil {
		t.Error("who is known stays before who is vouched for")
	}
	if _, err := need("v4", true); !errors.Is(err, ErrUnavailable) {
		t.Errorf("one vouched for has put out another: %v", err)
	}
	if n := tb.count(); n != 3 {
		t.Errorf("%d records", n)
	}
	tb = newRecords(1, func() time.Time { return now })
	if _, err := tb.need("here", false, true, now); err != nil {
		t.Fatal(err)
	}
	if _, err := need("other", false); !errors.Is(err, ErrUnavailable) {
		t.Errorf("who is here was put out: %v", err)
	}
}

// TestEntryRoundTrip: every field of a record is kept.
func TestEntryRoundTrip(t *testing.T) {
	r := Record{Principal: "p", Vouched: true, First: birth, Last: birth.Add(time.Hour), Counted: birth.Add(time.Minute), Merit: 77, Penalty: 15, Connections: 12, Failures: 3, Passed: 4, Failed: 5, History: 6, Age: 7}
	r.Baseline.N, r.Baseline.Reanchored, r.Baseline.Learnt = 70, 2, 60
	for i, c := range r.Baseline.columns() {
		for j := range c {
			c[j] = float32(10*i + j)
		}
	}
	b := appendEntry(nil, &entry{seq: 9, state: r})
	e, rest, err := decodeEntry(b)
	if err != nil || len(rest) > 0 || e.seq != 9 || e.state != r {
		t.Errorf("%+v, %d left, %v", e, len(rest), err)
	}
	if long := (Record{Principal: strings.Repeat("p", maxPrincipal)}); len(appendEntry(nil, &entry{state: long})) > maxEntry {
		t.Error("an entry is longer than maxEntry")
	}
	for what, change := range map[string]func(*Record){
		"merit":     func(r *Record) { r.Merit = 101 },
		"penalty":   func(r *Record) { r.Penalty = 31 },
		"principal": func(r *Record) { r.Principal = "" },
		"number":    func(r *Record) { r.Baseline.Mean[1] = float32(math.NaN()) },
		"infinite":  func(r *Record) { r.Baseline.Var[1] = float32(math.Inf(1)) },
		"anchor":    func(r *Record) { r.Baseline.Learnt = 61 },
	} {
		bad := r
		change(&bad)
		if _, _, err := decodeEntry(appendEntry(nil, &entry{seq: 1, state: bad})); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}

// FuzzKept: whatever a file holds, reading it ends, and what it says is written as the same.
func FuzzKept(f *testing.F) {
	state := Record{Principal: "p", First: birth, Last: birth, Merit: 50}
	b := appendHeader(nil, header{kind: kindLog, number: 1})
	b, _ = appendFrame(b, []entry{{seq: 1, state: state}, {seq: 2, removed: true, state: Record{Principal: "q"}}}, birth.Unix())
	b, _ = appendFrame(b, []entry{{seq: 3, state: state}}, birth.Unix())
	f.Add(b)
	f.Add(appendHeader(nil, header{kind: kindSnapshot, number: 7, before: 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		out := []byte(nil)
		h, good, err := decodeFile(b, func(e entry, floor int64) {
			if e.seq == 0 && e.state.Principal == "" {
				return
			}
			one := appendEntry(nil, &e)
			back, rest, err := decodeEntry(one)
			if err != nil || len(rest) > 0 || back != e {
				t.Fatalf("%+v is read back as %+v: %v", e, back, err)
			}
			out = append(out, one...)
		})
		if good > int64(len(b)) || err == nil && good < headerSize {
			t.Fatalf("%d of %d bytes are good", good, len(b))
		}
		if err == nil && !bytes.Equal(appendHeader(nil, h), b[:headerSize]) {
			t.Fatal("the header is written as another")
		}
	})
}
