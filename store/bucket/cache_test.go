package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store/bucket"
)

const chunk = 256 << 10

// counted counts what is asked of a bucket, and can hold it up.
type counted struct {
	bucket.Bucket
	gets  atomic.Int64
	bytes atomic.Int64
	hold  func(ctx context.Context) error // may be nil
}

func (c *counted) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	c.gets.Add(1)
	if c.hold != nil {
		if err := c.hold(ctx); err != nil {
			return nil, err
		}
	}
	p, err := c.Bucket.Get(ctx, key, off, n)
	c.bytes.Add(int64(len(p)))
	return p, err
}

// newCache is a cache on fs over a bucket in memory, when it has looked at its disk.
func newCache(t testing.TB, b bucket.Bucket, fs vfs.FS, max int64) *bucket.Cache {
	t.Helper()
	c := bucket.NewCache(b, fs, "/cache", max)
	c.Forget("\x00") // waits
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

// random is a body that is like no other.
func random(seed byte, n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

func backing(t testing.TB) *counted { return &counted{Bucket: openFile(t, vfs.NewMem(), "/b")} }

func putBytes(t testing.TB, b bucket.Bucket, key string, p []byte) {
	t.Helper()
	must(t, b.Put(t.Context(), key, bytes.NewReader(p)))
}

func TestCacheConforms(t *testing.T) {
	conform(t, newCache(t, openFile(t, vfs.NewMem(), "/b"), vfs.NewMem(), 4<<20))
}

// checkRange reads through the cache and compares.
func wantRange(t testing.TB, c bucket.Bucket, key string, body []byte, off, n int) {
	t.Helper()
	got, err := c.Get(t.Context(), key, int64(off), int64(n))
	must(t, err)
	from := min(off, len(body))
	to := len(body)
	if n >= 0 {
		to = min(to, max(from, off+n))
	}
	if !bytes.Equal(got, body[from:to]) {
		t.Fatalf("%s from %d, %d bytes: %d bytes came, or others; want %d", key, off, n, len(got), to-from)
	}
}

// TestCacheModel: random ranges of random objects, in a cache that is too small, with a
// restart, damage and Forget in between, are always those of the bucket.
func TestCacheModel(t *testing.T) {
	b, fs := backing(t), vfs.NewMem()
	rng := rand.New(rand.NewPCG(1, 2))
	bodies := map[string][]byte{}
	sizes := []int{0, 1, 100, chunk - 1, chunk, chunk + 1, 2 * chunk, 3*chunk + 7, 9 * chunk}
	for i, n := range sizes {
		k := fmt.Sprintf("eu/t/%d/x", i)
		bodies[k] = random(byte(i), n)
		putBytes(t, b, k, bodies[k])
	}
	const bound = 8 * (chunk + 8)
	c := newCache(t, b, fs, bound)
	for step := range 3000 {
		i := rng.IntN(len(sizes))
		k := fmt.Sprintf("eu/t/%d/x", i)
		off := rng.IntN(sizes[i] + chunk/2)
		wantRange(t, c, k, bodies[k], off, rng.IntN(2*chunk)-1)
		switch rng.IntN(100) {
		case 0:
			must(t, c.Close())
			c = newCache(t, b, fs, bound)
		case 1:
			c.Forget(fmt.Sprintf("eu/t/%d/", i))
		}
		if s := c.Stats(); s.Bytes > bound || s.Bytes != diskBytes(t, fs, "/cache") {
			t.Fatalf("step %d: %+v, %d bytes on disk", step, s, diskBytes(t, fs, "/cache"))
		}
	}
	if s := c.Stats(); s.Damaged > 0 || s.DiskErrors > 0 {
		t.Errorf("%+v", s)
	}
}

// diskBytes is what files below dir hold.
func diskBytes(t testing.TB, fs vfs.FS, dir string) int64 {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		return 0
	}
	n := int64(0)
	for _, name := range names {
		name = filepath.Join(dir, name)
		st, err := fs.Stat(name)
		must(t, err)
		if st.Dir {
			n += diskBytes(t, fs, name)
		} else {
			n += st.Size
		}
	}
	return n
}

// TestCacheAsksOnce: side by side chunks are one request, a second read none, also after a restart.
func TestCacheAsksOnce(t *testing.T) {
	b, fs := backing(t), vfs.NewMem()
	body := random(1, 5*chunk+99)
	putBytes(t, b, "a/x", body)
	c := newCache(t, b, fs, 64<<20)
	asks := func(want int64) {
		t.Helper()
		if n := b.gets.Swap(0); n != want {
			t.Errorf("%d requests, want %d", n, want)
		}
	}
	wantRange(t, c, "a/x", body, 100, 10)
	asks(1)
	if n := b.bytes.Load(); n != chunk {
		t.Errorf("10 bytes cost %d", n)
	}
	wantRange(t, c, "a/x", body, 3*chunk, 1)
	asks(1)
	wantRange(t, c, "a/x", body, 0, -1) // chunks 1 and 2 in one, then 4 and the end
	asks(2)
	wantRange(t, c, "a/x", body, 7, -1)
	wantRange(t, c, "a/x", body, 5*chunk, 1000)
	asks(0)
	must(t, c.Close())
	c = newCache(t, b, fs, 64<<20)
	wantRange(t, c, "a/x", body, 0, -1)
	asks(0)
	if s := c.Stats(); s.Hits != 6 || s.Chunks != 6 || s.Bytes != int64(len(body)+6*8) {
		t.Errorf("%+v", s)
	}
	c.Forget("a/")
	if n := diskBytes(t, fs, "/cache"); n != 0 {
		t.Errorf("%d bytes are left of what was forgotten", n)
	}
	wantRange(t, c, "a/x", body, 0, 5)
	asks(1)
	putBytes(t, c, "a/x", []byte("other"))
	wantRange(t, c, "a/x", []byte("other"), 0, -1)
}

// TestCacheDamage: whatever happens to a chunk's file, what is read is right, and it is mended.
func TestCacheDamage(t *testing.T) {
	b := backing(t)
	body := random(2, chunk+50)
	putBytes(t, b, "a/x", body)
	putBytes(t, b, "a/y", random(3, chunk+50))
	harms := map[string]func(p []byte) []byte{
		"empty": func([]byte) []byte { return nil },
		"short": func(p []byte) []byte { return p[:5] },
		"cut":   func(p []byte) []byte { return p[:len(p)-1] },
		"grown": func(p []byte) []byte { return append(p, 0) },
		"huge":  func(p []byte) []byte { return append(p, make([]byte, 2*chunk)...) },
		"zero":  func(p []byte) []byte { return make([]byte, len(p)) },
	}
	for _, at := range []int{0, 7, 8, 30, 57} {
		harms[fmt.Sprintf("bit at %d", at)] = func(p []byte) []byte { p[at] ^= 1; return p }
	}
	for name, harm := range harms {
		for _, restart := range []bool{false, true} {
			fs := vfs.NewMem()
			c := newCache(t, b, fs, 1<<20)
			wantRange(t, c, "a/x", body, 0, -1)
			wantRange(t, c, "a/y", random(3, chunk+50), 0, -1)
			rewrite(t, fs, "/cache/a/x/.1", harm)
			if restart {
				must(t, c.Close())
				c = newCache(t, b, fs, 1<<20)
			}
			b.gets.Store(0)
			wantRange(t, c, "a/x", body, 0, -1)
			wantRange(t, c, "a/x", body, 0, -1)
			if s, n := c.Stats(), b.gets.Load(); n != 1 || s.Damaged != 1 {
				t.Errorf("%s, restart %v: %d requests, %+v", name, restart, n, s)
			}
		}
	}
	// Whole, but of another object, or another place in it.
	fs := vfs.NewMem()
	c := newCache(t, b, fs, 1<<20)
	wantRange(t, c, "a/x", body, 0, -1)
	wantRange(t, c, "a/y", random(3, chunk+50), 0, -1)
	must(t, fs.Rename("/cache/a/y/.0", "/cache/a/x/.0"))
	wantRange(t, c, "a/x", body, 0, -1)
	wantRange(t, c, "a/y", random(3, chunk+50), 0, -1)
}

func rewrite(t *testing.T, fs vfs.FS, name string, harm func([]byte) []byte) {
	t.Helper()
	f, err := fs.Open(name)
	must(t, err)
	n, err := f.Size()
	must(t, err)
	p := make([]byte, n)
	_, err = f.ReadAt(p, 0)
	must(t, err)
	must(t, f.Close())
	must(t, fs.Remove(name))
	f, err = fs.Create(name)
	must(t, err)
	_, err = f.Write(harm(p))
	must(t, err)
	must(t, f.Close())
}

// TestCacheCrash: what a power cut leaves of a cache, which never syncs, is used or fetched again.
func TestCacheCrash(t *testing.T) {
	b, fs := backing(t), vfs.NewMem()
	body := random(4, 6*chunk+1)
	putBytes(t, b, "a/x", body)
	c := newCache(t, b, fs, 64<<20)
	wantRange(t, c, "a/x", body, 0, -1)
	for seed := range uint64(40) {
		wantRange(t, newCache(t, b, fs.Crash(rand.New(rand.NewPCG(seed, 1))), 64<<20), "a/x", body, 0, -1)
	}
}

// TestCacheEvicts: what is asked again and again outlives a scan of much more than fits.
func TestCacheEvicts(t *testing.T) {
	b, fs := backing(t), vfs.NewMem()
	hot, scan := random(5, 4*chunk), random(6, 100*chunk)
	putBytes(t, b, "hot", hot)
	putBytes(t, b, "scan", scan)
	c := newCache(t, b, fs, 10*(chunk+8))
	wantRange(t, c, "hot", hot, 0, len(hot))
	before := b.bytes.Load()
	for i := range 100 {
		wantRange(t, c, "scan", scan, i*chunk, chunk)
		if i%3 == 0 {
			wantRange(t, c, "hot", hot, 0, len(hot))
		}
	}
	if n := (b.bytes.Load() - before - int64(len(scan))) / chunk; n > 4 {
		t.Errorf("%d chunks of what is hot were fetched again", n)
	}
	if s := c.Stats(); s.Chunks != 10 || s.Evicted < 90 {
		t.Errorf("%+v", s)
	}
}

// TestCacheTogether: who asks for a chunk that is on its way waits for it; when the one who
// fetches goes away, another takes over.
func TestCacheTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backing(t)
		body := random(7, 2*chunk)
		putBytes(t, b, "a/x", body)
		open := make(chan struct{})
		b.hold = func(ctx context.Context) error {
			select {
			case <-open:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		c := bucket.NewCache(b, vfs.NewMem(), "/cache", 1<<20)
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Get(ctx, "a/x", 0, 10); !errors.Is(err, context.Canceled) {
				t.Errorf("the one who left: %v", err)
			}
		})
		synctest.Wait()
		for i := range 20 {
			wg.Go(func() {
				p, err := c.Get(t.Context(), "a/x", int64(i), 10)
				if err != nil || !bytes.Equal(p, body[i:i+10]) {
					t.Errorf("%d bytes, %v", len(p), err)
				}
			})
		}
		synctest.Wait()
		if n := b.gets.Load(); n != 1 {
			t.Errorf("%d requests for one chunk", n)
		}
		cancel()
		synctest.Wait()
		close(open)
		wg.Wait()
		if n := b.gets.Load(); n != 2 {
			t.Errorf("%d requests, want the first and the one that took over", n)
		}
		must(t, c.Close())
	})
}

// TestCacheForgetUnderWay: what was on its way when its object was replaced is not kept.
func TestCacheForgetUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backing(t)
		putBytes(t, b, "a/x", []byte("old"))
		arrived := make(chan struct{})
		c := bucket.NewCache(late{b, arrived}, vfs.NewMem(), "/cache", 1<<20)
		synctest.Wait()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Get(t.Context(), "a/x", 0, 3); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait() // the old bytes have left the bucket
		putBytes(t, c, "a/x", []byte("new"))
		close(arrived)
		wg.Wait()
		wantRange(t, c, "a/x", []byte("new"), 0, -1)
		must(t, c.Close())
	})
}

// late is a bucket whose bytes take their time.
type late struct {
	bucket.Bucket
	arrived chan struct{}
}

func (l late) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	p, err := l.Bucket.Get(ctx, key, off, n)
	<-l.arrived
	return p, err
}

// TestCacheFails: the bucket's errors are given as they are, and not kept.
func TestCacheFails(t *testing.T) {
	b := backing(t)
	c := newCache(t, b, vfs.NewMem(), 1<<20)
	if _, err := c.Get(t.Context(), "a/x", 0, -1); !errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("not there: %v", err)
	}
	putBytes(t, b, "a/x", []byte("now"))
	wantRange(t, c, "a/x", []byte("now"), 0, -1)
	if s := c.Stats(); s.DiskErrors != 0 || c.Err() != nil {
		t.Errorf("%+v, %v", s, c.Err())
	}
}

// TestCacheDiskFull: a full disk makes reads slower, is said, and is tried again after a while.
func TestCacheDiskFull(t *testing.T) {
	for name, hook := range map[string]func(*atomic.Bool) func(vfs.Op) error{
		"full": vfs.FullDisk,
		"broken": func(on *atomic.Bool) func(vfs.Op) error {
			return func(vfs.Op) error {
				if on.Load() {
					return syscall.EIO
				}
				return nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, mem := backing(t), vfs.NewMem()
				body := random(8, 3*chunk)
				putBytes(t, b, "a/x", body)
				var full atomic.Bool
				c := bucket.NewCache(b, vfs.Hook(mem, hook(&full)), "/cache", 64<<20)
				synctest.Wait()
				wantRange(t, c, "a/x", body, 0, 10)
				full.Store(true)
				for range 5 {
					wantRange(t, c, "a/x", body, 0, -1)
				}
				if err := c.Err(); err == nil || !strings.HasPrefix(err.Error(), "cache /cache: reads go to the bucket, as the disk failed: ") {
					t.Errorf("what it says: %v", err)
				}
				if s := c.Stats(); s.DiskErrors != 1 {
					t.Errorf("%d failures: a broken disk must be left alone for a while", s.DiskErrors)
				}
				full.Store(false)
				time.Sleep(2 * time.Minute) // virtual
				wantRange(t, c, "a/x", body, 0, -1)
				b.gets.Store(0)
				wantRange(t, c, "a/x", body, 0, 3*chunk)
				if n := b.gets.Load(); n != 0 || c.Err() != nil {
					t.Errorf("after it recovered: %d requests, %v", n, c.Err())
				}
				must(t, c.Close())
			})
		})
	}
}

// TestCacheParallel is for the race detector: all methods at once, within the bound.
func TestCacheParallel(t *testing.T) {
	b, fs := backing(t), vfs.NewMem()
	bodies := map[string][]byte{}
	for i := range 6 {
		k := fmt.Sprintf("a/%d", i)
		bodies[k] = random(byte(i), 3*chunk+i)
		putBytes(t, b, k, bodies[k])
	}
	c := newCache(t, b, fs, 5*(chunk+8))
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 3))
			for range 150 {
				k := fmt.Sprintf("a/%d", rng.IntN(6))
				off, n := rng.IntN(3*chunk), rng.IntN(chunk)
				p, err := c.Get(t.Context(), k, int64(off), int64(n))
				if want := bodies[k][off:min(len(bodies[k]), off+n)]; err != nil || !bytes.Equal(p, want) {
					t.Errorf("%s from %d: %d bytes of %d, %v", k, off, len(p), len(want), err)
				}
				if rng.IntN(20) == 0 {
					c.Forget(k)
				}
				if s := c.Stats(); s.Bytes > 5*(chunk+8) {
					t.Errorf("%d bytes", s.Bytes)
				}
			}
		})
	}
	wg.Wait()
	if err := c.Err(); err != nil {
		t.Error(err)
	}
}

func BenchmarkCacheGet(b *testing.B) {
	src := openFile(b, nil, b.TempDir())
	body := random(9, 64*chunk)
	putBytes(b, src, "a/x", body)
	c := bucket.NewCache(src, vfs.Default, b.TempDir(), 1<<30)
	defer c.Close()
	c.Forget("\x00")
	for _, n := range []int64{4 << 10, chunk, 8 << 20} {
		b.Run(fmt.Sprint(n>>10, "KiB"), func(b *testing.B) {
			b.SetBytes(n)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := c.Get(b.Context(), "a/x", int64(i)%8*chunk, n); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
