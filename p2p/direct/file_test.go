package direct

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
)

// noise of a fixed seed.
func content(n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{7})
	rng.Read(b)
	return b
}

// filePair is a sender and a receiver that takes files into a folder of the host.
func filePair(t *testing.T, change func(a, b *Options)) (a, b *Service, dir string) {
	dir = t.TempDir()
	a, b = pair(t, func(a, b *Options) {
		b.FS, b.Dir = vfs.Default, filepath.Join(t.TempDir(), "state")
		b.AcceptFile = func(context.Context, FileOffer) (string, error) { return dir, nil }
		if change != nil {
			change(a, b)
		}
	})
	return a, b, dir
}

func names(t *testing.T, dir string) []string { return namesIn(t, vfs.Default, dir) }

func namesIn(t *testing.T, f vfs.FS, dir string) []string {
	t.Helper()
	out, err := f.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSendFile(t *testing.T) {
	var offered FileOffer
	a, b, dir := filePair(t, func(_, b *Options) {
		accept := b.AcceptFile
		b.AcceptFile = func(ctx context.Context, o FileOffer) (string, error) { offered = o; return accept(ctx, o) }
	})
	ctx := soon(t)
	for _, size := range []int{0, 1, maxPlain, 3<<20 + 5} {
		want := content(size)
		var last int64
		if err := a.SendFile(ctx, b.self, "a file.bin", bytes.NewReader(want), func(done, size int64) { last = done }); err != nil {
			t.Fatal(err)
		}
		if last != int64(size) || offered.From != a.self || offered.Size != int64(size) || offered.SHA256 != sha256.Sum256(want) || offered.Name != "a file.bin" {
			t.Fatalf("%d bytes told, %+v", last, offered)
		}
	}
	// None replaced another, and nothing else is there.
	if got := names(t, dir); !slices.Equal(got, []string{"a file (2).bin", "a file (3).bin", "a file (4).bin", "a file.bin"}) {
		t.Fatal(got)
	}
	got, err := os.ReadFile(filepath.Join(dir, "a file (4).bin"))
	if err != nil || !bytes.Equal(got, content(3<<20+5)) {
		t.Fatal(len(got), err)
	}
}

// TestSendFileAgain: whoever was not told that a file is there sends it again, and it is there once; the receiver is told of each end.
func TestSendFileAgain(t *testing.T) {
	type end struct {
		name, path string
		bad        bool
	}
	var mu sync.Mutex
	var ends []end
	a, b, dir := filePair(t, func(_, b *Options) {
		b.FileEnded = func(o FileOffer, path string, err error) {
			mu.Lock()
			defer mu.Unlock()
			ends = append(ends, end{o.Name, path, err != nil})
		}
	})
	ctx := soon(t)
	send := func(name string, r io.ReadSeeker) (at int64, err error) {
		at = -1
		err = a.SendFile(ctx, b.self, name, r, func(done, _ int64) {
			if at < 0 {
				at = done
			}
		})
		return at, err
	}
	want := content(100_000)
	for i, from := range []int64{0, int64(len(want))} {
		if at, err := send("f.bin", bytes.NewReader(want)); err != nil || at != from {
			t.Fatalf("attempt %d begins at %d, %v", i, at, err)
		}
	}
	other := content(100_001)[1:]
	if _, err := send("f.bin", bytes.NewReader(other)); err != nil {
		t.Fatal(err)
	}
	if at, err := send("f.bin", bytes.NewReader(other)); err != nil || at != int64(len(other)) {
		t.Fatalf("the second of the name begins at %d, %v", at, err)
	}
	if _, err := send("g", &breaks{ReadSeeker: bytes.NewReader(want), left: 1000, saved: func() {}}); err == nil {
		t.Fatal("a file that cannot be read was sent")
	}
	if got := names(t, dir); !slices.Contains(got, "f (2).bin") || !slices.Contains(got, "f.bin") || slices.Contains(got, "f (3).bin") {
		t.Fatal(got)
	}
	b.Close() // all that was begun has ended
	first, second := filepath.Join(dir, "f.bin"), filepath.Join(dir, "f (2).bin")
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(ends, []end{{"f.bin", first, false}, {"f.bin", first, false}, {"f.bin", second, false}, {"f.bin", second, false}, {"g", "", true}}) {
		t.Error(ends)
	}
}

// breaks is a file whose reading fails after so many bytes of its second reading.
type breaks struct {
	io.ReadSeeker
	left  int
	seeks int
	saved func() // waits until the receiver has made something durable
}

var errBroken = errors.New("the line broke")

func (b *breaks) Seek(off int64, whence int) (int64, error) {
	b.seeks++
	return b.ReadSeeker.Seek(off, whence)
}

func (b *breaks) Read(p []byte) (int, error) {
	if b.seeks > 0 {
		if b.left <= 0 {
			b.saved()
			return 0, errBroken
		}
		p = p[:min(len(p), b.left)]
	}
	n, err := b.ReadSeeker.Read(p)
	if b.seeks > 0 {
		b.left -= n
	}
	return n, err
}

// saves waits until there is a state in a folder.
func saves(t *testing.T, dir string) func() {
	return func() {
		waitFor(t, func() bool {
			return slices.ContainsFunc(names(t, dir), func(n string) bool { return strings.HasSuffix(n, ".state") })
		})
	}
}

// TestResume: a transfer that broke off goes on where it was, the hash is of all, and the name appears at the end.
func TestResume(t *testing.T) {
	a, b, dir := filePair(t, nil)
	ctx := soon(t)
	const every = 300_000
	b.files.every = every
	want := content(2*every + 12345)
	if err := a.SendFile(ctx, b.self, "big", &breaks{ReadSeeker: bytes.NewReader(want), left: every + 100_000, saved: saves(t, dir)}, nil); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	waitFor(t, func() bool { b.files.mu.Lock(); defer b.files.mu.Unlock(); return len(b.files.parts) == 0 })
	for _, name := range names(t, dir) {
		if !strings.HasPrefix(name, partPrefix) {
			t.Fatalf("%s is there before it is whole", name)
		}
	}
	first := int64(-1)
	if err := a.SendFile(ctx, b.self, "big", bytes.NewReader(want), func(done, _ int64) {
		if first < 0 {
			first = done
		}
	}); err != nil {
		t.Fatal(err)
	}
	if first < every {
		t.Fatalf("it began at %d again", first)
	}
	got, err := os.ReadFile(filepath.Join(dir, "big"))
	if err != nil || !bytes.Equal(got, want) || len(names(t, dir)) != 1 {
		t.Fatal(len(got), err, names(t, dir))
	}
}

// TestPartDamaged: what a state says of a part that is not so is begun anew, and what was damaged on the disk is found by the hash.
func TestPartDamaged(t *testing.T) {
	a, b, dir := filePair(t, nil)
	ctx := soon(t)
	b.files.every = 200_000
	want := content(500_000)
	for _, damage := range []func(part, state string) error{
		func(part, state string) error { return os.Truncate(part, 100) },
		func(part, state string) error { return os.WriteFile(state, []byte("QLDPnonsense"), 0o600) },
		func(part, state string) error { return os.Remove(part) },
		func(part, state string) error { return os.Remove(state) },
	} {
		if err := a.SendFile(ctx, b.self, "big", &breaks{ReadSeeker: bytes.NewReader(want), left: len(want) - 10, saved: saves(t, dir)}, nil); !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
		waitFor(t, func() bool { b.files.mu.Lock(); defer b.files.mu.Unlock(); return len(b.files.parts) == 0 })
		var part, state string
		for _, name := range names(t, dir) {
			if strings.HasSuffix(name, ".part") {
				part = filepath.Join(dir, name)
			} else if strings.HasSuffix(name, ".state") {
				state = filepath.Join(dir, name)
			}
		}
		if err := damage(part, state); err != nil {
			t.Fatal(err)
		}
		if err := a.SendFile(ctx, b.self, "big", bytes.NewReader(want), nil); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "big"))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatal(len(got), err)
		}
		if err := os.Remove(filepath.Join(dir, "big")); err != nil || len(names(t, dir)) != 0 {
			t.Fatal(err, names(t, dir))
		}
	}
}

// changes is a file that is another the second time it is read.
type changes struct {
	*bytes.Reader
	seeks int
}

func (c *changes) Seek(off int64, whence int) (int64, error) {
	c.seeks++
	return c.Reader.Seek(off, whence)
}

func (c *changes) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if c.seeks > 0 && n > 0 {
		p[0] ^= 1
	}
	return n, err
}

// TestFileRefused: what is no name, what the recipient does not want, what is another file than was offered, and a disk that is full.
func TestFileRefused(t *testing.T) {
	var full atomic.Bool
	var why atomic.Pointer[error]
	a, b, dir := filePair(t, func(_, b *Options) {
		b.FS = vfs.Hook(vfs.Default, vfs.FullDisk(&full))
		accept := b.AcceptFile
		b.AcceptFile = func(ctx context.Context, o FileOffer) (string, error) {
			if p := why.Load(); p != nil {
				return "", *p
			}
			if o.Name == "panic" {
				panic("planted")
			}
			return accept(ctx, o)
		}
	})
	ctx := soon(t)
	for _, name := range []string{"", "..", "a/b", `a\b`, "/etc/passwd", "C:x", ".hidden", "a\x00b", "gpj\u202egnp.exe", strings.Repeat("x", 256), "x.", "x ", "\xff"} {
		if err := a.SendFile(ctx, b.self, name, strings.NewReader("x"), nil); err == nil {
			t.Errorf("%q was sent", name)
		}
		if _, err := decodeOffer(append(append([]byte{fileVersion, 7: 0, 8: 1}, make([]byte, 32)...), name...)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("an offer of %q was taken: %v", name, err)
		}
	}
	if err := a.SendFile(ctx, b.self, "changed", &changes{Reader: bytes.NewReader(content(100000))}, nil); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	if err := a.SendFile(ctx, b.self, "panic", strings.NewReader("x"), nil); !errors.Is(err, ErrDenied) {
		t.Fatal(err)
	}
	no := errors.New("not from you")
	why.Store(&no)
	if err := a.SendFile(ctx, b.self, "x", strings.NewReader("x"), nil); !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "not from you") {
		t.Fatal(err)
	}
	why.Store(nil)
	full.Store(true)
	if err := a.SendFile(ctx, b.self, "x", bytes.NewReader(content(5<<20)), nil); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "no space left") {
		t.Fatal(err)
	}
	full.Store(false)
	if err := b.SendFile(ctx, a.self, "x", strings.NewReader("x"), nil); !errors.Is(err, ErrDenied) {
		t.Fatal(err)
	}
	for _, name := range names(t, dir) {
		if !strings.HasPrefix(name, partPrefix) {
			t.Fatal(name)
		}
	}
	stale := filepath.Join(dir, partPrefix+"old.part")
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * partAge)
	if err := os.Chtimes(stale, old, old); err != nil {
		t.Fatal(err)
	}
	if err := a.SendFile(ctx, b.self, "x", strings.NewReader("x"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("a stale part is still there", err)
	}
}

// TestFileCrash: the power of the receiver fails at each operation of its disk. Then the file is whole under its name, or not there but
// as a part that is gone on with.
func TestFileCrash(t *testing.T) {
	want := content(2500)
	o := FileOffer{From: idA, Name: "f", Size: int64(len(want)), SHA256: sha256.Sum256(want)}
	receive := func(f vfs.FS) (err error) {
		s := &Service{o: Options{FS: f, Now: time.Now}}
		s.files.parts, s.files.every = map[string]bool{}, 1000
		p, err := s.openPart("/in", o)
		if err != nil {
			return err
		}
		defer p.close()
		for p.at < o.Size {
			if err := p.write(want[p.at:min(p.at+300, o.Size)]); err != nil {
				p.pause()
				return err
			}
		}
		_, err = p.finish()
		return err
	}
	for n := 0; ; n++ {
		mem := vfs.NewMem()
		if err := errors.Join(mem.MkdirAll("/in"), mem.SyncDir("/")); err != nil {
			t.Fatal(err)
		}
		cut := false
		left := n
		err := receive(vfs.Hook(mem, func(vfs.Op) error {
			if left--; left < 0 {
				cut = true
				return errors.New("no power")
			}
			return nil
		}))
		for seed := range uint64(10) {
			after := mem.Crash(rand.New(rand.NewPCG(uint64(n), seed)))
			where := fmt.Sprintf("operation %d, seed %d", n, seed)
			if got, bad := readWhole(after, "/in/f", 1<<30); err == nil && (bad != nil || !bytes.Equal(got, want)) {
				t.Fatalf("%s: it was said to be there: %d bytes, %v", where, len(got), bad)
			} else if bad == nil && len(got) > 0 && !bytes.Equal(got, want) {
				t.Fatalf("%s: %d bytes that are not the file", where, len(got))
			}
			if err := receive(after); err != nil {
				t.Fatalf("%s: after the crash: %v", where, err)
			}
			for _, name := range namesIn(t, after, "/in") { // "f", or "f (2)" where the name had been taken
				if got, err := readWhole(after, "/in/"+name, 1<<30); err != nil || len(got) > 0 && !bytes.Equal(got, want) {
					t.Fatalf("%s: %s has %d bytes that are not the file, %v", where, name, len(got), err)
				}
			}
		}
		if !cut {
			if n < 15 {
				t.Fatalf("there were %d operations", n)
			}
			return
		}
	}
}
