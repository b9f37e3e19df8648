package chain_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/optimize/chain"
)

const name = "/d/audit.jsonl"

type entry struct {
	Act    string `json:"act"`
	Target string `json:"target"`
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func folder(t *testing.T) *vfs.Mem {
	m := vfs.NewMem()
	must(t, m.MkdirAll("/d"))
	must(t, m.SyncDir("/"))
	return m
}

func open(t *testing.T, f vfs.FS) *chain.Log {
	t.Helper()
	l, err := chain.Open(f, name)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func read(t *testing.T, f vfs.FS, name string) []byte {
	t.Helper()
	r, err := f.Open(name)
	must(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	must(t, err)
	return b
}

func write(t *testing.T, f vfs.FS, name string, b []byte) {
	t.Helper()
	_ = f.Remove(name)
	w, err := f.Create(name)
	must(t, err)
	_, err = w.Write(b)
	must(t, errors.Join(err, w.Sync(), w.Close()))
}

func TestAppend(t *testing.T) {
	for what, f := range map[string]vfs.FS{"memory": folder(t), "disk": vfs.Default} {
		name := name
		if what == "disk" {
			name = filepath.Join(t.TempDir(), "audit.jsonl")
		}
		for i := range 25 {
			l, err := chain.Open(f, name) // anew each time: what is there is gone on with
			must(t, err)
			must(t, l.Append(entry{"apply", fmt.Sprint("n", i)}))
			must(t, l.Append(entry{"undo", fmt.Sprint("n", i)}))
			must(t, l.Close())
			if l.Append(entry{}) == nil {
				t.Error("a closed log takes an entry")
			}
		}
		r, err := chain.Verify(f, name)
		if err != nil || r.Lines != 50 || r.Torn || len(r.Head) != 64 {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
	}
}

// TestFrozen: the bytes are those of docs/format/audit.md, for ever.
func TestFrozen(t *testing.T) {
	f := folder(t)
	l := open(t, f)
	must(t, l.Append(entry{"start", ""}))
	must(t, l.Append(entry{"apply", "host-1"}))
	want := `{"n":1,"prev":"0000000000000000000000000000000000000000000000000000000000000000","entry":{"act":"start","target":""}}
{"n":2,"prev":"4e3018f95f806c53f2367a0bf6d9432292744d3f65fb22fa5881dc69d1864d37","entry":{"act":"apply","target":"host-1"}}
`
	if got := string(read(t, f, name)); got != want {
		t.Errorf("the log is\n%swant\n%s", got, want)
	}
}

// TestTampered: whatever is altered, removed, added, moved or doubled in the log or its heads is found, at its line or the one behind it.
func TestTampered(t *testing.T) {
	f := folder(t)
	l := open(t, f)
	const n = 12
	for i := range n {
		must(t, l.Append(entry{"apply", fmt.Sprint("n", i)}))
	}
	good, heads := read(t, f, name), read(t, f, name+".heads")
	lines, sums := bytes.SplitAfter(good, []byte("\n"))[:n], bytes.SplitAfter(heads, []byte("\n"))[:n]
	tried := 0
	try := func(what string, near int, log, heads []byte) {
		t.Helper()
		tried++
		m := folder(t)
		write(t, m, name, log)
		write(t, m, name+".heads", heads)
		_, err := chain.Verify(m, name)
		if !errors.Is(err, chain.ErrBroken) || near > 0 && !strings.Contains(err.Error(), fmt.Sprintf("line %d ", near)) {
			t.Errorf("%s: %v, want line %d", what, err, near)
		}
		if _, err := chain.Open(m, name); !errors.Is(err, chain.ErrBroken) {
			t.Errorf("%s: it is opened: %v", what, err)
		}
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for i := range lines {
		without := join(join(lines[:i]...), join(lines[i+1:]...))
		try(fmt.Sprint("line removed ", i+1), i+1, without, heads)
		if i > 0 {
			swapped := join(join(lines[:i-1]...), lines[i], lines[i-1], join(lines[i+1:]...))
			try(fmt.Sprint("lines swapped ", i), i, swapped, heads)
			try(fmt.Sprint("heads swapped ", i), i, good, join(join(sums[:i-1]...), sums[i], sums[i-1], join(sums[i+1:]...)))
		}
		if i < n-2 { // one line more than heads is what a crash leaves
			try(fmt.Sprint("heads cut after ", i), 0, good, join(sums[:i]...))
		}
		if i < n-1 {
			try(fmt.Sprint("both cut out ", i+1), i+1, without, join(join(sums[:i]...), join(sums[i+1:]...)))
		}
		try(fmt.Sprint("line doubled ", i+1), 0, join(join(lines[:i+1]...), join(lines[i:]...)), heads)
	}
	for i := range good { // one bit of each byte of some lines, and of some of all
		if i > 3*len(lines[0]) && i%7 > 0 {
			continue
		}
		b := bytes.Clone(good)
		b[i] ^= 1
		near := bytes.Count(good[:i], []byte("\n")) + 1
		try(fmt.Sprint("byte ", i), near, b, heads)
	}
	m := folder(t)
	write(t, m, name, good)
	if _, err := chain.Verify(m, name); !errors.Is(err, chain.ErrBroken) {
		t.Errorf("heads are missing: %v", err)
	}
	if tried < 500 {
		t.Errorf("only %d", tried)
	}
}

// TestCrash: the machine stops ahead of every operation. What was acknowledged is there, whole and in order, the log goes on, and nobody
// is told that it is broken.
func TestCrash(t *testing.T) {
	const each = 4
	story := func(f vfs.FS, acked *int) error {
		for range 2 {
			l, err := chain.Open(f, name)
			if err != nil {
				return err
			}
			for range each {
				if err := l.Append(entry{"apply", fmt.Sprint("n", *acked)}); err != nil {
					return errors.Join(err, l.Close())
				}
				*acked++
			}
			if err := l.Close(); err != nil {
				return err
			}
		}
		return nil
	}
	stop := errors.New("power cut")
	points := 0
	for at := 0; ; at++ {
		mem, acked, ops := folder(t), 0, 0
		var crashes []*vfs.Mem
		var then int
		err := story(vfs.Hook(mem, func(op vfs.Op) error {
			if ops++; ops-1 == at {
				then = acked
				for seed := range uint64(4) {
					crashes = append(crashes, mem.Crash(rand.New(rand.NewPCG(seed, uint64(at)))))
				}
				crashes = append(crashes, mem.Crash(nil))
			}
			if ops-1 >= at {
				return stop
			}
			return nil
		}), &acked)
		if err == nil {
			break
		}
		points++
		for i, c := range crashes {
			l, err := chain.Open(c, name)
			if err != nil {
				t.Fatalf("ahead of operation %d, crash %d: %v", at, i, err)
			}
			must(t, l.Append(entry{"resume", ""}))
			must(t, l.Close())
			r, err := chain.Verify(c, name)
			if err != nil || r.Torn || r.Lines < int64(then)+1 || r.Lines > int64(then)+2 {
				t.Fatalf("ahead of operation %d, crash %d: %d were acknowledged: %+v, %v", at, i, then, r, err)
			}
			log := string(read(t, c, name))
			for k := range then {
				if !strings.Contains(log, fmt.Sprintf(`"target":"n%d"`, k)) {
					t.Fatalf("ahead of operation %d, crash %d: entry %d is missing", at, i, k)
				}
			}
		}
	}
	if points < 40 {
		t.Errorf("only %d operations", points)
	}
}

// TestFails: one operation fails. The entry is refused, or it is there; the next one goes in all the same, on the same log.
func TestFails(t *testing.T) {
	bad := errors.New("disk")
	for at := 0; ; at++ {
		mem := folder(t)
		l := open(t, mem)
		must(t, l.Append(entry{"apply", "first"}))
		must(t, l.Close())
		failed := false
		hook := vfs.FailNth(at, bad)
		f := vfs.Hook(mem, func(op vfs.Op) error {
			err := hook(op)
			failed = failed || err != nil
			return err
		})
		l, err := chain.Open(f, name)
		if err == nil {
			if l.Append(entry{"apply", "second"}) != nil {
				if err := l.Append(entry{"apply", "again"}); err != nil {
					t.Fatalf("operation %d: %v", at, err)
				}
			}
			l.Close()
		} else if !errors.Is(err, bad) {
			t.Fatalf("operation %d: %v", at, err)
		}
		r, verr := chain.Verify(mem, name)
		if verr != nil || err == nil && r.Lines != 2 {
			t.Fatalf("operation %d: %+v, %v", at, r, verr)
		}
		if !failed {
			if at < 10 {
				t.Errorf("only %d operations", at)
			}
			return
		}
	}
}

func TestTooLarge(t *testing.T) {
	l := open(t, folder(t))
	if err := l.Append(strings.Repeat("x", chain.MaxLine)); err == nil {
		t.Error("it is taken")
	}
	must(t, l.Append(strings.Repeat("x", chain.MaxLine-200)))
	if err := l.Append(func() {}); err == nil {
		t.Error("a function is taken")
	}
}

// FuzzVerify: no bytes crash it, and what it takes whole can be appended to.
func FuzzVerify(f *testing.F) {
	m := vfs.NewMem()
	if err := m.MkdirAll("/d"); err != nil {
		f.Fatal(err)
	}
	l, err := chain.Open(m, name)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 3 {
		if err := l.Append(entry{"apply", fmt.Sprint(i)}); err != nil {
			f.Fatal(err)
		}
	}
	l.Close()
	seed := func(name string) []byte {
		r, err := m.Open(name)
		if err != nil {
			f.Fatal(err)
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	log, heads := seed(name), seed(name+".heads")
	f.Add(log, heads)
	f.Add(log, heads[:140])
	f.Add(log[:150], heads[:67])
	f.Add([]byte("\x00\x00\n"), []byte(""))
	f.Fuzz(func(t *testing.T, log, heads []byte) {
		m := folder(t)
		write(t, m, name, log)
		write(t, m, name+".heads", heads)
		if _, err := chain.Verify(m, name); err != nil {
			if !errors.Is(err, chain.ErrBroken) {
				t.Fatal(err)
			}
			return
		}
		l := open(t, m)
		must(t, l.Append(entry{"apply", ""}))
		if r, err := chain.Verify(m, name); err != nil || r.Torn {
			t.Fatalf("%+v, %v", r, err)
		}
	})
}

// TestAnchor: a log that was written anew, whole, is found by what was kept elsewhere.
func TestAnchor(t *testing.T) {
	logs := map[string]string{}
	for _, who := range []string{"ada", "eve"} {
		f := folder(t)
		l := open(t, f)
		for i := range 3 {
			must(t, l.Append(entry{who, fmt.Sprint(i)}))
			r, err := chain.Verify(f, name)
			must(t, err)
			logs[fmt.Sprint(who, i)] = fmt.Sprintf("%d:%s", r.Lines, r.Head)
		}
		for _, c := range []struct{ anchor, want string }{
			{"", ""}, {logs["ada1"], map[string]string{"eve": "line 2 has another hash"}[who]}, {logs["ada2"], map[string]string{"eve": "line 3 has another hash"}[who]},
			{"4:" + strings.Repeat("0", 64), "line 4, which was there, is missing"}, {"0:" + strings.Repeat("0", 64), ""},
		} {
			a, err := chain.ParseAnchors(c.anchor)
			must(t, err)
			_, err = chain.Verify(f, name, a...)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %s: %v, want %q", who, c.anchor, err, c.want)
			}
		}
	}
	for _, bad := range []string{"x", "1:", "-1:" + strings.Repeat("0", 64), strings.Repeat("0", 64)} {
		if _, err := chain.ParseAnchors(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
