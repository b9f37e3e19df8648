package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/store/bucket"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, b bucket.Bucket, key, text string) {
	t.Helper()
	must(t, b.Put(t.Context(), key, strings.NewReader(text)))
}

func get(t testing.TB, b bucket.Bucket, key string) string {
	t.Helper()
	p, err := b.Get(t.Context(), key, 0, -1)
	must(t, err)
	return string(p)
}

func keys(t testing.TB, b bucket.Bucket, prefix string, dirs bool) []string {
	t.Helper()
	var found []string
	for o, err := range b.List(t.Context(), prefix, dirs) {
		must(t, err)
		found = append(found, o.Key)
	}
	return found
}

// odd are keys that have undone someone's storage.
var odd = []string{
	"a b", "a+b", "a%2Fb", "a%b", "ä/ö/日本", "a&b=c?d#e", "CON", "nul.txt", "com1", "x.", ".hidden", "..x",
	"~/'\"`", "a:b|c<d>e*f", "emoji-🙂", "plus+ space", "eq=1,2;3", "(x)[y]{z}", "@at!$^",
}

// conform holds every kind of bucket to one contract.
func conform(t *testing.T, b bucket.Bucket) {
	t.Run("object", func(t *testing.T) { conformObject(t, b) })
	t.Run("ranges", func(t *testing.T) { conformRanges(t, b) })
	t.Run("keys", func(t *testing.T) { conformKeys(t, b) })
	t.Run("list", func(t *testing.T) { conformList(t, b) })
	t.Run("pages", func(t *testing.T) { conformPages(t, b) })
	t.Run("large", func(t *testing.T) { conformLarge(t, b) })
	t.Run("together", func(t *testing.T) { conformTogether(t, b) })
	t.Run("cancel", func(t *testing.T) { conformCancel(t, b) })
	t.Run("class", func(t *testing.T) { conformClass(t, b) })
	t.Run("clean", func(t *testing.T) {
		for _, k := range keys(t, b, "", false) {
			must(t, b.Delete(t.Context(), k))
		}
		if left := keys(t, b, "", true); len(left) > 0 {
			t.Errorf("left after everything was deleted: %q", left)
		}
	})
}

func conformObject(t *testing.T, b bucket.Bucket) {
	ctx := t.Context()
	if _, err := b.Get(ctx, "o/none", 0, -1); !errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("get of what is not there: %v", err)
	}
	if _, err := b.Stat(ctx, "o/none"); !errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("stat of what is not there: %v", err)
	}
	if err := b.SetClass(ctx, "o/none", bucket.Archive); !errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("class of what is not there: %v", err)
	}
	must(t, b.Delete(ctx, "o/none"))
	put(t, b, "o/one", "first")
	for _, key := range []string{"o", "o/one/below"} { // a folder, and below an object
		if _, err := b.Get(ctx, key, 0, -1); !errors.Is(err, bucket.ErrNotFound) {
			t.Errorf("get of %s: %v", key, err)
		}
		if _, err := b.Stat(ctx, key); !errors.Is(err, bucket.ErrNotFound) {
			t.Errorf("stat of %s: %v", key, err)
		}
		must(t, b.Delete(ctx, key))
	}
	put(t, b, "o/one", "the second, longer")
	if s := get(t, b, "o/one"); s != "the second, longer" {
		t.Errorf("after it was replaced: %q", s)
	}
	put(t, b, "o/one", "3")
	o, err := b.Stat(ctx, "o/one")
	must(t, err)
	if o.Key != "o/one" || o.Bytes != 1 || o.Class != bucket.Standard || time.Since(o.Modified).Abs() > time.Hour {
		t.Errorf("stat: %+v", o)
	}
	half := strings.NewReader("whole")
	_, err = half.Seek(3, io.SeekStart)
	must(t, err)
	must(t, b.Put(ctx, "o/one", half))
	if s := get(t, b, "o/one"); s != "whole" {
		t.Errorf("put begins at the start of its body: %q", s)
	}
	must(t, b.Delete(ctx, "o/one"))
	must(t, b.Delete(ctx, "o/one"))
	if got := keys(t, b, "o/", false); len(got) > 0 {
		t.Errorf("after delete: %q", got)
	}
	put(t, b, "o/empty", "")
	if s := get(t, b, "o/empty"); s != "" {
		t.Errorf("an empty object: %q", s)
	}
	if p, err := b.Get(ctx, "o/empty", 0, 10); len(p) > 0 || err != nil {
		t.Errorf("part of an empty object: %q, %v", p, err)
	}
	broken := errors.New("disk on fire")
	if err := b.Put(ctx, "o/broken", brokenBody{strings.NewReader("abcdef"), broken}); !errors.Is(err, broken) {
		t.Errorf("put of what cannot be read: %v", err)
	}
	if _, err := b.Stat(ctx, "o/broken"); !errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("half of a body was kept: %v", err)
	}
}

// brokenBody gives a few bytes, then fails.
type brokenBody struct {
	*strings.Reader
	err error
}

func (b brokenBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p[:min(len(p), 3)])
	if b.Len() == 0 || err != nil {
		return n, b.err
	}
	return n, nil
}

func conformRanges(t *testing.T, b bucket.Bucket) {
	put(t, b, "r/ten", "0123456789")
	for _, c := range []struct {
		off, n int64
		want   string
	}{{0, -1, "0123456789"}, {0, 10, "0123456789"}, {0, 11, "0123456789"}, {3, 4, "3456"}, {3, -1, "3456789"},
		{9, 1, "9"}, {9, 5, "9"}, {10, 1, ""}, {10, -1, ""}, {11, 1, ""}, {1000, -1, ""}, {0, 0, ""}, {5, 0, ""}} {
		p, err := b.Get(t.Context(), "r/ten", c.off, c.n)
		if string(p) != c.want || err != nil {
			t.Errorf("get from %d, %d bytes: %q, %v; want %q", c.off, c.n, p, err, c.want)
		}
	}
	if _, err := b.Get(t.Context(), "r/ten", -1, 2); !errors.Is(err, bucket.ErrInvalid) {
		t.Errorf("get from -1: %v", err)
	}
	if _, err := b.Get(t.Context(), "r/none", 5, 0); !errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("no bytes of what is not there: %v", err)
	}
}

func conformKeys(t *testing.T, b bucket.Bucket) {
	for _, k := range odd {
		put(t, b, "k/"+k, k)
	}
	var want []string
	for _, k := range odd {
		if s := get(t, b, "k/"+k); s != k {
			t.Errorf("%q holds %q", k, s)
		}
		want = append(want, "k/"+k)
	}
	slices.Sort(want)
	got := keys(t, b, "k/", false)
	if strings.HasPrefix(b.URL(), "azblob:") {
		slices.Sort(got) // Azurite sorts by language, Azure itself by bytes
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed\n%q, want\n%q", got, want)
	}
	for _, k := range want {
		must(t, b.Delete(t.Context(), k))
	}
	for _, k := range []string{"", "/", "/a", "a/", "a//b", ".", "a/../b", "./a", "a\x00b", "a\nb", "a\\b", "\xff", strings.Repeat("x", 801), strings.Repeat("y", 201), strings.Repeat("é", 60)} {
		if err := b.Put(t.Context(), k, strings.NewReader("x")); !errors.Is(err, bucket.ErrInvalid) {
			t.Errorf("put of key %q: %v", k, err)
		}
		if _, err := b.Get(t.Context(), k, 0, 1); !errors.Is(err, bucket.ErrInvalid) {
			t.Errorf("get of key %q: %v", k, err)
		}
		if _, err := b.Stat(t.Context(), k); !errors.Is(err, bucket.ErrInvalid) {
			t.Errorf("stat of key %q: %v", k, err)
		}
		if err := b.Delete(t.Context(), k); !errors.Is(err, bucket.ErrInvalid) {
			t.Errorf("delete of key %q: %v", k, err)
		}
	}
}

func conformList(t *testing.T, b bucket.Bucket) {
	all := []string{"l/a-b", "l/a/1", "l/a/2/x", "l/a/2/y", "l/a0", "l/b", "l/c/z", "l2"}
	for _, k := range all {
		put(t, b, k, k)
	}
	for _, c := range []struct {
		prefix string
		dirs   bool
		want   []string
	}{
		{"l", false, all},
		{"l/", false, all[:7]},
		{"l/", true, []string{"l/a-b", "l/a/", "l/a0", "l/b", "l/c/"}},
		{"l/a", false, all[:5]},
		{"l/a", true, []string{"l/a-b", "l/a/", "l/a0"}},
		{"l/a/", true, []string{"l/a/1", "l/a/2/"}},
		{"l/a/2/x", false, []string{"l/a/2/x"}},
		{"l", true, []string{"l/", "l2"}},
		{"l/b/", false, nil}, {"none", true, nil}, {"none/deep/", true, nil},
	} {
		if got := keys(t, b, c.prefix, c.dirs); !slices.Equal(got, c.want) {
			t.Errorf("list %q, dirs %v:\n%q, want\n%q", c.prefix, c.dirs, got, c.want)
		}
	}
	for o, err := range b.List(t.Context(), "l/a/2/x", false) {
		must(t, err)
		if o.Bytes != 7 || o.Class != bucket.Standard || time.Since(o.Modified).Abs() > time.Hour {
			t.Errorf("listed %+v", o)
		}
	}
	n := 0
	for range b.List(t.Context(), "l", false) {
		if n++; n == 2 {
			break
		}
	}
	for _, k := range all[1:4] {
		must(t, b.Delete(t.Context(), k))
	}
	if got := keys(t, b, "l/", true); slices.Contains(got, "l/a/") {
		t.Errorf("a prefix without objects is listed: %q", got)
	}
}

// manyObjects is more than any provider puts on one page.
const manyObjects = 1100

func conformPages(t *testing.T, b bucket.Bucket) {
	var want, dirs []string
	var wg sync.WaitGroup
	work := make(chan string)
	for range 16 {
		wg.Go(func() {
			for k := range work {
				if err := b.Put(t.Context(), k, strings.NewReader("x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range manyObjects {
		k := fmt.Sprintf("p/%04d/meta.json", i)
		want, dirs = append(want, k), append(dirs, strings.TrimSuffix(k, "meta.json"))
		work <- k
	}
	close(work)
	wg.Wait()
	if got := keys(t, b, "p/", false); !slices.Equal(got, want) {
		t.Errorf("listed %d of %d, or not in order", len(got), len(want))
	}
	if got := keys(t, b, "p/", true); !slices.Equal(got, dirs) {
		t.Errorf("listed %d of %d folders, or not in order", len(got), len(dirs))
	}
}

// conformLarge is for bodies of several parts.
func conformLarge(t *testing.T, b bucket.Bucket) {
	body := make([]byte, 20<<20+12345)
	rng := rand.NewChaCha8([32]byte{1})
	_, err := rng.Read(body)
	must(t, err)
	must(t, b.Put(t.Context(), "large/x", bytes.NewReader(body)))
	got, err := b.Get(t.Context(), "large/x", 0, -1)
	must(t, err)
	if !bytes.Equal(got, body) {
		t.Errorf("read back %d other bytes, want %d", len(got), len(body))
	}
	const off, n = 8<<20 - 100, 300
	got, err = b.Get(t.Context(), "large/x", off, n)
	must(t, err)
	if !bytes.Equal(got, body[off:off+n]) {
		t.Error("a range over two parts differs")
	}
	must(t, b.Delete(t.Context(), "large/x"))
}

// conformTogether: of many who write one key, one wins, whole.
func conformTogether(t *testing.T, b bucket.Bucket) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			text := strings.Repeat(string(rune('a'+i)), 100_000)
			for range 4 {
				if err := b.Put(t.Context(), "t/same", strings.NewReader(text)); err != nil {
					t.Error(err)
				}
				p, err := b.Get(t.Context(), "t/same", 0, -1)
				if err != nil || len(p) != 100_000 || p[0] != p[len(p)-1] {
					t.Errorf("read %d bytes, %v", len(p), err)
				}
			}
		})
		wg.Go(func() { // a folder that comes and goes
			for j := range 4 {
				k := fmt.Sprintf("t/churn/%d-%d", i, j)
				if err := b.Put(t.Context(), k, strings.NewReader(k)); err != nil {
					t.Error(err)
				}
				if err := b.Delete(t.Context(), k); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	must(t, b.Delete(t.Context(), "t/same"))
}

func conformCancel(t *testing.T, b bucket.Bucket) {
	put(t, b, "c/x", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	check := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s after cancel: %v", what, err)
		}
	}
	_, err := b.Get(ctx, "c/x", 0, -1)
	check("get", err)
	_, err = b.Stat(ctx, "c/x")
	check("stat", err)
	check("put", b.Put(ctx, "c/y", strings.NewReader("y")))
	check("delete", b.Delete(ctx, "c/x"))
	check("class", b.SetClass(ctx, "c/x", bucket.Archive))
	for _, err = range b.List(ctx, "c/", false) {
	}
	check("list", err)
	if got := keys(t, b, "c/", false); !slices.Equal(got, []string{"c/x"}) {
		t.Errorf("after cancelled calls: %q", got)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	body := &cancelBody{Reader: bytes.NewReader(make([]byte, 12<<20)), at: 9 << 20, cancel: cancel}
	check("put under way", b.Put(ctx, "c/big", body))
	if _, err := b.Stat(t.Context(), "c/big"); !errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("an object whose put was cancelled: %v", err)
	}
}

// cancelBody cancels after some bytes.
type cancelBody struct {
	*bytes.Reader
	at     int64
	cancel func()
}

func (b *cancelBody) Read(p []byte) (int, error) {
	if b.Size()-int64(b.Len()) >= b.at {
		b.cancel()
	}
	return b.Reader.Read(p)
}

func conformClass(t *testing.T, b bucket.Bucket) {
	put(t, b, "cl/x y", "kept")
	if err := b.SetClass(t.Context(), "cl/x y", bucket.Archive); err != nil {
		t.Fatal(err)
	}
	must(t, b.SetClass(t.Context(), "cl/x y", bucket.Archive))
	o, err := b.Stat(t.Context(), "cl/x y")
	must(t, err)
	want := bucket.Standard // all but Azurite forget the class; TestClassRequest sees what is asked of the others
	if strings.HasPrefix(b.URL(), "azblob:") {
		want = bucket.Archive
	}
	if o.Class != want {
		t.Errorf("class %q, want %q", o.Class, want)
	}
	for l, err := range b.List(t.Context(), "cl/", false) {
		must(t, err)
		if l.Class != want {
			t.Errorf("listed as %q", l.Class)
		}
	}
	if s := get(t, b, "cl/x y"); s != "kept" {
		t.Errorf("archived: %q", s)
	}
	must(t, b.Delete(t.Context(), "cl/x y"))
}
