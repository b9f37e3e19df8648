package vfs_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/quantra-l/quantra/internal/vfs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, f vfs.FS, name, text string, sync bool) {
	t.Helper()
	w, err := f.Create(name)
	must(t, err)
	_, err = w.Write([]byte(text))
	must(t, err)
	if sync {
		must(t, w.Sync())
	}
	must(t, w.Close())
}

func get(t *testing.T, f vfs.FS, name string) string {
	t.Helper()
	r, err := f.Open(name)
	must(t, err)
	b, err := io.ReadAll(r)
	must(t, err)
	must(t, r.Close())
	return string(b)
}

// TestConformance holds every implementation to one contract.
func TestConformance(t *testing.T) {
	for name, f := range map[string]vfs.FS{"os": vfs.Default, "mem": vfs.NewMem(),
		"hook": vfs.Hook(vfs.NewMem(), func(vfs.Op) error { return nil })} {
		t.Run(name, func(t *testing.T) { conformance(t, f, t.TempDir()) })
	}
}

func conformance(t *testing.T, f vfs.FS, root string) {
	at := func(s ...string) string { return filepath.Join(append([]string{root}, s...)...) }
	must(t, f.MkdirAll(at("a", "b")))
	must(t, f.MkdirAll(at("a", "b")))
	put(t, f, at("a", "one"), "hello", true)
	if _, err := f.Create(at("a", "one")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create of a file that is there: %v", err)
	}
	for what, err := range map[string]error{
		"open":   second(f.Open(at("none"))),
		"append": second(f.Append(at("none"))),
		"stat":   second(f.Stat(at("a", "none", "deep"))),
		"list":   second(f.List(at("none"))),
		"remove": f.Remove(at("none")),
		"rename": f.Rename(at("none"), at("other")),
		"create": second(f.Create(at("none", "x"))),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s of what is not there: %v", what, err)
		}
	}
	w, err := f.Append(at("a", "one"))
	must(t, err)
	_, err = w.Write([]byte(" world"))
	must(t, err)
	must(t, w.Truncate(8))
	_, err = w.Write([]byte("!"))
	must(t, err)
	if n, err := w.Size(); n != 9 || err != nil {
		t.Errorf("size %d, %v", n, err)
	}
	b := make([]byte, 4)
	if n, err := w.ReadAt(b, 6); n != 3 || err != io.EOF || string(b[:n]) != "wo!" {
		t.Errorf("read at 6: %q, %v", b[:n], err)
	}
	must(t, w.Sync())
	must(t, w.Close())
	if err := w.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	if _, err := w.Write(b); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("write to closed: %v", err)
	}
	if s := get(t, f, at("a", "one")); s != "hello wo!" {
		t.Errorf("got %q", s)
	}
	r, err := f.Open(at("a", "one"))
	must(t, err)
	if _, err := r.Write(b); err == nil {
		t.Error("wrote to a file opened to read")
	}
	must(t, r.Close())
	put(t, f, at("a", "two"), "2", false)
	must(t, f.Rename(at("a", "two"), at("a", "one")))
	if s := get(t, f, at("a", "one")); s != "2" {
		t.Errorf("after rename: %q", s)
	}
	if names, err := f.List(at("a")); !slices.Equal(names, []string{"b", "one"}) || err != nil {
		t.Errorf("list: %q, %v", names, err)
	}
	if st, err := f.Stat(at("a")); !st.Dir || err != nil {
		t.Errorf("stat of a directory: %+v, %v", st, err)
	}
	if err := f.Remove(at("a")); err == nil {
		t.Error("removed a directory that is not empty")
	}
	must(t, f.SyncDir(at("a")))
	l, err := f.Lock(at("LOCK"))
	must(t, err)
	if _, err := f.Lock(at("LOCK")); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("second lock: %v", err)
	}
	must(t, l.Close())
	l, err = f.Lock(at("LOCK"))
	must(t, err)
	must(t, l.Close())
}

func second[T any](_ T, err error) error { return err }

// outcomes is what a crash may leave of name, over many seeds and the strict one.
func outcomes(t *testing.T, m *vfs.Mem, name string) map[string]bool {
	t.Helper()
	seen := map[string]bool{}
	for seed := range 200 {
		var rng *rand.Rand
		if seed > 0 {
			rng = rand.New(rand.NewPCG(uint64(seed), 1))
		}
		c := m.Crash(rng)
		if _, err := c.Stat(name); err != nil {
			seen["-"] = true
			continue
		}
		seen[strings.ReplaceAll(get(t, c, name), "\x00", "0")] = true
	}
	return seen
}

func TestCrash(t *testing.T) {
	m := vfs.NewMem()
	put(t, m, "/f", "ab", false)
	if got := outcomes(t, m, "/f"); !got["-"] || !got[""] || !got["ab"] || !got["a"] || !got["a0"] {
		t.Errorf("nothing synced: %v", got)
	}
	must(t, m.SyncDir("/"))
	if got := outcomes(t, m, "/f"); got["-"] || !got[""] || !got["ab"] {
		t.Errorf("name synced: %v", got)
	}
	w, err := m.Append("/f")
	must(t, err)
	must(t, w.Sync())
	if got := outcomes(t, m, "/f"); len(got) != 1 || !got["ab"] {
		t.Errorf("all synced: %v", got)
	}
	_, err = w.Write([]byte("c"))
	must(t, err)
	if got := outcomes(t, m, "/f"); len(got) != 3 || !got["ab"] || !got["abc"] || !got["ab0"] {
		t.Errorf("unsynced tail: %v", got)
	}
	must(t, w.Truncate(1))
	if got := outcomes(t, m, "/f"); len(got) != 2 || !got["ab"] || !got["a"] {
		t.Errorf("unsynced truncation: %v", got)
	}
	must(t, w.Sync())
	must(t, m.Rename("/f", "/g"))
	if got := outcomes(t, m, "/g"); len(got) != 2 || !got["-"] || !got["a"] {
		t.Errorf("unsynced rename: %v", got)
	}
	for seed := range uint64(50) {
		c := m.Crash(rand.New(rand.NewPCG(seed, 2)))
		if names, err := c.List("/"); err != nil || len(names) != 1 {
			t.Fatalf("rename must be atomic: %q, %v", names, err)
		}
	}
	must(t, m.SyncDir("/"))
	must(t, m.Remove("/g"))
	if got := outcomes(t, m, "/g"); len(got) != 2 || !got["-"] || !got["a"] {
		t.Errorf("unsynced remove: %v", got)
	}
	must(t, m.SyncDir("/"))
	if got := outcomes(t, m, "/g"); len(got) != 1 || !got["-"] {
		t.Errorf("synced remove: %v", got)
	}
}

// TestFailedSyncLoses: after a sync that failed, one that succeeds has not written what the first did not.
func TestFailedSyncLoses(t *testing.T) {
	m := vfs.NewMem()
	f := vfs.Hook(m, vfs.FailNth(4, syscall.EIO)) // create, write, sync, write, sync
	w, err := f.Create("/f")
	must(t, err)
	for i, want := range []error{nil, syscall.EIO, nil} {
		_, err = w.Write([]byte("abc"))
		must(t, err)
		if err := w.Sync(); !errors.Is(err, want) {
			t.Fatalf("sync %d: %v", i, err)
		}
	}
	must(t, f.SyncDir("/"))
	if got := get(t, m, "/f"); got != "abcabcabc" {
		t.Errorf("before the crash: %q", got)
	}
	if got := get(t, m.Crash(nil), "/f"); !bytes.Equal([]byte(got), []byte("abc\x00\x00\x00abc")) {
		t.Errorf("after: %q", got)
	}
}

func TestFailNthAndRecorder(t *testing.T) {
	rec := vfs.Recorder{Root: "/d"}
	m := vfs.NewMem()
	f := vfs.Hook(vfs.Hook(m, vfs.FailNth(2, syscall.ENOSPC)), rec.Hook)
	must(t, f.MkdirAll("/d"))
	w, err := f.Create("/d/f")
	must(t, err)
	if n, err := w.Write([]byte("abcd")); n != 2 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("wrote %d, %v: a full disk takes a part", n, err)
	}
	_, err = w.Write([]byte("ef"))
	must(t, err)
	must(t, w.Close())
	must(t, f.Rename("/d/f", "/d/g"))
	if got := get(t, m, "/d/g"); got != "abef" {
		t.Errorf("got %q", got)
	}
	if want := "mkdir .\ncreate f\nwrite f 4\nwrite f 2\nrename f -> g\n"; rec.String() != want {
		t.Errorf("recorded\n%s", rec.String())
	}
}

// TestCrashMove: after a rename from one directory to another the file is under one name
// or both, never under none, whichever directory is synced.
func TestCrashMove(t *testing.T) {
	for _, synced := range []string{"", "/a", "/b"} {
		m := vfs.NewMem()
		must(t, m.MkdirAll("/a"))
		must(t, m.MkdirAll("/b"))
		must(t, m.SyncDir("/"))
		put(t, m, "/a/f", "x", true)
		put(t, m, "/a/g", "y", true)
		must(t, m.SyncDir("/a"))
		put(t, m, "/b/before", "z", true)
		must(t, m.Rename("/a/f", "/b/f"))
		must(t, m.Rename("/b/f", "/a/h"))
		must(t, m.Rename("/a/g", "/b/g"))
		if synced != "" {
			must(t, m.SyncDir(synced))
		}
		both := 0
		for seed := range uint64(300) {
			c := m.Crash(rand.New(rand.NewPCG(seed, 2)))
			_, f := c.Stat("/a/f")
			_, bf := c.Stat("/b/f")
			_, h := c.Stat("/a/h")
			_, g := c.Stat("/a/g")
			_, bg := c.Stat("/b/g")
			if f != nil && bf != nil && h != nil || g != nil && bg != nil {
				t.Fatalf("synced %q, seed %d: lost: %v %v %v, %v %v", synced, seed, f, bf, h, g, bg)
			}
			if g == nil && bg == nil {
				both++
			}
			if synced == "/a" && g == nil || synced == "/b" && bg != nil {
				t.Fatalf("synced %q, seed %d: a synced change is gone", synced, seed)
			}
		}
		if synced == "" && both == 0 {
			t.Error("a crash never parts a move")
		}
	}
}
