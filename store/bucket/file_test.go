package bucket_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store/bucket"
)

func openFile(t testing.TB, fs vfs.FS, dir string) bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), fileURL(dir), bucket.Options{FS: fs, Create: true})
	must(t, err)
	return b
}

// fileURL is the folder's URL, also of C:\x.
func fileURL(dir string) string { return "file:///" + strings.TrimPrefix(filepath.ToSlash(dir), "/") }

func TestFile(t *testing.T)    { conform(t, openFile(t, nil, t.TempDir())) }
func TestFileMem(t *testing.T) { conform(t, openFile(t, vfs.NewMem(), "/b")) }

// TestFileNames: what is on disk can be looked at, and is what every system takes.
func TestFileNames(t *testing.T) {
	dir := t.TempDir()
	b := openFile(t, nil, dir)
	put(t, b, "eu/acme corp/blocks/01JABC/meta.json", "{}")
	put(t, b, "CON/nul.a/é.", "x")
	for _, name := range []string{"eu/acme%20corp/blocks/01JABC/meta.json", "%43ON/%6Eul.a/%C3%A9%2E"} {
		if _, err := os.Stat(filepath.Join(dir, filepath.FromSlash(name))); err != nil {
			t.Error(err)
		}
	}
	// What others leave there is not an object.
	for _, name := range []string{".DS_Store", "Thumbs~1", "a%2fb", "bad%zz", "cut%4"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600))
	}
	if got := keys(t, b, "", true); !slices.Equal(got, []string{"CON/", "eu/"}) {
		t.Errorf("listed %q", got)
	}
}

// TestFileOrder is the golden order of side effects.
func TestFileOrder(t *testing.T) {
	m := vfs.NewMem()
	openFile(t, m, "/b")
	rec := vfs.Recorder{Root: "/b"}
	b := openFile(t, vfs.Hook(m, rec.Hook), "/b")
	before := rec.String()
	put(t, b, "r/x", "abc")
	must(t, b.Delete(t.Context(), "r/x"))
	got := strings.TrimPrefix(rec.String(), before)
	for _, op := range rec.Ops() {
		if strings.HasPrefix(op.Path, ".tmp/") {
			got = strings.ReplaceAll(got, op.Path, ".tmp/T")
		}
	}
	want := `mkdir .tmp
create .tmp/T
write .tmp/T 3
sync .tmp/T
mkdir r
rename .tmp/T -> r/x
syncdir r
syncdir .
remove r/x
syncdir r
remove r
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

var errPower = errors.New("power cut")

// TestFileCrash cuts the power at every operation of a put that makes, a put
// that replaces, and a delete: afterwards each object is old or new, whole, and what was
// answered with nil stands.
func TestFileCrash(t *testing.T) {
	type state = map[string]string // "" is: not there
	steps := []struct {
		do   func(bucket.Bucket) error
		want state
	}{
		{func(b bucket.Bucket) error { return b.Put(t.Context(), "a/b/c", strings.NewReader("one")) }, state{"a/b/c": "one"}},
		{func(b bucket.Bucket) error { return b.Put(t.Context(), "a/b/d", strings.NewReader("two")) }, state{"a/b/c": "one", "a/b/d": "two"}},
		{func(b bucket.Bucket) error { return b.Put(t.Context(), "a/b/c", strings.NewReader("three")) }, state{"a/b/c": "three", "a/b/d": "two"}},
		{func(b bucket.Bucket) error { return b.Delete(t.Context(), "a/b/d") }, state{"a/b/c": "three"}},
		{func(b bucket.Bucket) error { return b.Delete(t.Context(), "a/b/c") }, state{}},
	}
	crashes := 0
	for n := 0; ; n++ {
		m := vfs.NewMem()
		openFile(t, m, "/b")
		left, dead := n, false
		hooked := vfs.Hook(m, func(op vfs.Op) error {
			if dead || left == 0 {
				dead = true
				return errPower
			}
			if op.Changes() {
				left--
			}
			return nil
		})
		b, err := bucket.Open(t.Context(), "file:///b", bucket.Options{FS: hooked, ReadOnly: true})
		if err != nil {
			continue
		}
		before, after := state{}, state{}
		for _, s := range steps {
			after = s.want
			if err := s.do(b); err != nil || dead {
				break
			}
			before = s.want
		}
		for seed := range uint64(20) {
			var rng *rand.Rand
			if seed > 0 {
				rng = rand.New(rand.NewPCG(seed, uint64(n)))
			}
			c := openFile(t, m.Crash(rng), "/b")
			got := state{}
			for _, k := range keys(t, c, "a/", false) {
				got[k] = get(t, c, k)
			}
			for _, k := range []string{"a/b/c", "a/b/d"} {
				if got[k] != before[k] && got[k] != after[k] {
					t.Fatalf("power cut at operation %d, seed %d: %s is %q, want %q or %q", n, seed, k, got[k], before[k], after[k])
				}
			}
			crashes++
		}
		if !dead {
			break
		}
	}
	if crashes < 400 {
		t.Errorf("only %d crashes: did the hook see the operations?", crashes)
	}
}

// TestFileFails: a disk that fails at any operation leaves the old object or the new one.
func TestFileFails(t *testing.T) {
	failed := 0
	for n := range 40 {
		m := vfs.NewMem()
		put(t, openFile(t, m, "/b"), "x/y", "old")
		b, err := bucket.Open(t.Context(), "file:///b", bucket.Options{FS: vfs.Hook(m, vfs.FailNth(n+3, syscall.EIO)), ReadOnly: true})
		if err != nil {
			failed++
			continue
		}
		err = b.Put(t.Context(), "x/y", strings.NewReader("new"))
		got := get(t, openFile(t, m, "/b"), "x/y")
		if err == nil && got != "new" || err != nil && (got != "new" && got != "old" || !errors.Is(err, bucket.ErrUnavailable)) {
			t.Errorf("operation %d: %v, and the object is %q", n, err, got)
		}
		if err != nil {
			failed++
			if names, _ := m.List("/b/.tmp"); len(names) > 0 {
				t.Errorf("operation %d: left %q", n, names)
			}
		}
	}
	if failed < 5 {
		t.Errorf("only %d failures", failed)
	}
}

func TestFileErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, []byte("x"), 0o600))
	for _, c := range []struct {
		url  string
		word error
		text string
	}{
		{fileURL(dir) + "/none", bucket.ErrNotFound, "mkdir -p"},
		{fileURL(file), bucket.ErrInvalid, "it is a file, not a folder"},
	} {
		_, err := bucket.Open(t.Context(), c.url, bucket.Options{})
		if !errors.Is(err, c.word) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.url, err)
		}
	}
	denied := func(kind string) vfs.FS {
		return vfs.Hook(vfs.NewMem(), func(op vfs.Op) error {
			if op.Kind == kind && strings.HasPrefix(op.Path, "/b") {
				return &os.PathError{Op: op.Kind, Path: op.Path, Err: syscall.EACCES}
			}
			return nil
		})
	}
	for _, kind := range []string{"list", "create", "rename", "remove"} {
		_, err := bucket.Open(t.Context(), "file:///b", bucket.Options{FS: denied(kind), Create: true})
		if !errors.Is(err, bucket.ErrDenied) || !strings.Contains(err.Error(), "bucket file:///b: ") {
			t.Errorf("%s not permitted: %v", kind, err)
		}
	}
}

// TestFileSweep: what a process that died was writing is taken away when it is old.
func TestFileSweep(t *testing.T) {
	dir := t.TempDir()
	tmp := filepath.Join(dir, ".tmp")
	must(t, os.Mkdir(tmp, 0o700))
	for _, name := range []string{"old", "young"} {
		must(t, os.WriteFile(filepath.Join(tmp, name), []byte("x"), 0o600))
	}
	st, err := os.Stat(filepath.Join(tmp, "old"))
	must(t, err)
	past := st.ModTime().AddDate(0, 0, -2)
	must(t, os.Chtimes(filepath.Join(tmp, "old"), past, past))
	openFile(t, nil, dir)
	names, err := vfs.Default.List(tmp)
	must(t, err)
	if !slices.Equal(names, []string{"young"}) {
		t.Errorf("left %q", names)
	}
}
