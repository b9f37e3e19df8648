package blocks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
	"github.com/quantra-l/quantra/store/bucket"
)

// epoch is where the clock of these tests stands; the start of an hour.
var epoch = time.Unix(1_700_002_800, 0).UTC()

const (
	dataDir   = "/data/blocks"
	stagedDir = "/data/flush"
)

// hooked is a bucket that asks before each call.
type hooked struct {
	bucket.Bucket
	url    string // instead of its own, "" is its own
	before func(op, key string) error
}

func (h *hooked) URL() string {
	if h.url != "" {
		return h.url
	}
	return h.Bucket.URL()
}

func (h *hooked) Put(ctx context.Context, key string, body io.ReadSeeker) error {
	if err := h.before("put", key); err != nil {
		return err
	}
	return h.Bucket.Put(ctx, key, body)
}

func (h *hooked) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := h.before("get", key); err != nil {
		return nil, err
	}
	return h.Bucket.Get(ctx, key, off, n)
}

func (h *hooked) Stat(ctx context.Context, key string) (bucket.Object, error) {
	if err := h.before("stat", key); err != nil {
		return bucket.Object{}, err
	}
	return h.Bucket.Stat(ctx, key)
}

func (h *hooked) List(ctx context.Context, prefix string, dirs bool) iter.Seq2[bucket.Object, error] {
	if err := h.before("list", prefix); err != nil {
		return func(yield func(bucket.Object, error) bool) { yield(bucket.Object{}, err) }
	}
	return h.Bucket.List(ctx, prefix, dirs)
}

func (h *hooked) Delete(ctx context.Context, key string) error {
	if err := h.before("delete", key); err != nil {
		return err
	}
	return h.Bucket.Delete(ctx, key)
}

// switchable is a hook that fails all calls while it is off. Its sleep, for Options, lasts until it is on.
type switchable struct {
	mu    sync.Mutex
	err   error
	on    chan struct{} // closed when err is nil again
	calls []string
	slept []time.Duration
	tired chan struct{} // holds one when somebody sleeps
}

func newSwitch() *switchable { return &switchable{tired: make(chan struct{}, 1)} }

func (s *switchable) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		close(s.on)
	}
	if s.err = err; err != nil {
		s.on = make(chan struct{})
	}
}

func (s *switchable) sleep(ctx context.Context, d time.Duration) {
	s.mu.Lock()
	s.slept = append(s.slept, d)
	off, on := s.err != nil, s.on
	s.mu.Unlock()
	select {
	case s.tired <- struct{}{}:
	default:
	}
	if off {
		select {
		case <-on:
		case <-ctx.Done():
		}
	}
}

// failed waits until an upload has failed.
func (s *switchable) failed(t testing.TB) {
	t.Helper()
	select {
	case <-s.tired:
	case <-time.After(20 * time.Second):
		t.Fatal("waited in vain for an upload to fail")
	}
}

func (s *switchable) before(op, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, op+" "+key)
	if s.err != nil {
		return fmt.Errorf("%s %s: %w", op, key, s.err)
	}
	return nil
}

func (s *switchable) of(op string) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if rest, ok := strings.CutPrefix(c, op+" "); ok {
			out = append(out, rest)
		}
	}
	return out
}

func folder(t testing.TB, fs vfs.FS) bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(context.Background(), "file:///bucket", bucket.Options{FS: fs, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func testOptions(fs vfs.FS) Options {
	return Options{FS: fs, Dir: dataDir, Now: func() time.Time { return epoch }}
}

// switched is testOptions whose pauses last as long as sw is off.
func switched(fs vfs.FS, sw *switchable) Options {
	opt := testOptions(fs)
	opt.sleep = sw.sleep
	return opt
}

func openBlocks(t testing.TB, b bucket.Bucket, opt Options) *Blocks {
	t.Helper()
	bs, err := Open(context.Background(), b, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bs.Close() })
	return bs
}

// settled waits until nothing waits for the bucket.
func settled(t testing.TB, b *Blocks) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := b.wait(ctx, func(s *set) bool {
		for _, k := range s.all {
			if k.Waiting {
				return false
			}
		}
		return true
	})
	if err != nil {
		t.Fatalf("waited in vain for the queue to be empty: %+v", b.Stats())
	}
	b.queueMu.Lock() // until what the uploader does with the folder is done
	defer b.queueMu.Unlock()
}

var errAway = fmt.Errorf("%w: no route to host", bucket.ErrUnavailable)

// TestPut: a block is asked as soon as it is put; its folder moves; the bucket gets meta.json last; then the queue is empty.
func TestPut(t *testing.T) {
	mem := vfs.NewMem()
	sw := newSwitch()
	b := openBlocks(t, &hooked{Bucket: folder(t, mem), before: sw.before}, switched(mem, sw))
	sw.set(errAway)
	s := stage(t, mem, 1)
	for range 2 { // again: it is known
		if err := b.Put(context.Background(), []store.Staged{s}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := mem.Stat(s.Dir); err == nil {
		t.Error("the staged folder is still there")
	}
	if got := present(t, b); fmt.Sprint(got) != "[1]" {
		t.Errorf("asked at once: %v", got)
	}
	sw.failed(t)
	sw.set(nil)
	settled(t, b)
	puts := sw.of("put")
	if last := puts[len(puts)-1]; last != Prefix("local", "t", s.Meta.ULID)+block.MetaFile {
		t.Errorf("put last: %s", last)
	}
	if got := present(t, b); fmt.Sprint(got) != "[1]" {
		t.Errorf("asked from the bucket: %v", got)
	}
	if names, err := mem.List(dataDir + "/queue"); len(names) != 0 || err != nil {
		t.Errorf("the queue's folder has %v, %v", names, err)
	}
	if st := b.Stats(); st.Put != 1 || st.Uploaded != 1 || st.Blocks != 1 || st.Asked != 1 || st.LocalBytes != 0 {
		t.Errorf("%+v", st)
	}
	// Put again after a crash that kept the staged folder: it is the same block, and once.
	again := stage(t, mem, 1)
	if err := b.Put(context.Background(), []store.Staged{again}); err != nil {
		t.Fatal(err)
	}
	if _, err := mem.Stat(again.Dir); err == nil {
		t.Error("the second staged folder is still there")
	}
	if got := present(t, b); fmt.Sprint(got) != "[1]" || b.Stats().QueueBlocks != 0 {
		t.Errorf("put again: %v, %+v", got, b.Stats())
	}
}

func TestPutRefuses(t *testing.T) {
	mem := vfs.NewMem()
	b := openBlocks(t, folder(t, mem), testOptions(mem))
	s := stage(t, mem, 1)
	s.Meta.Region = "mars"
	if err := b.Put(context.Background(), []store.Staged{s}); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("another region's: %v", err)
	}
	if err := b.Put(context.Background(), []store.Staged{{Dir: stagedDir + "/none", Meta: stage(t, mem, 2).Meta}}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("no folder: %v", err)
	}
	b.Close()
	if err := b.Put(context.Background(), []store.Staged{stage(t, mem, 3)}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("closed: %v", err)
	}
	if err := b.Healthy(); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("closed: %v", err)
	}
	opt := testOptions(mem)
	opt.Region = "Not/OK"
	if _, err := Open(context.Background(), folder(t, mem), opt); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("bad region: %v", err)
	}
}

// TestOneProcess: a second server on the same local folder is turned away.
func TestOneProcess(t *testing.T) {
	mem := vfs.NewMem()
	b := openBlocks(t, folder(t, mem), testOptions(mem))
	if _, err := Open(context.Background(), folder(t, mem), testOptions(mem)); !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("%v", err)
	}
	b.Close()
	openBlocks(t, folder(t, mem), testOptions(mem))
}

// TestQueueBound: while the bucket is away the queue fills up to its bound; more is turned
// away with a reason, and taken again once there is room.
func TestQueueBound(t *testing.T) {
	mem := vfs.NewMem()
	sw := newSwitch()
	opt := testOptions(mem)
	opt.QueueBytes, opt.sleep = 1, sw.sleep
	b := openBlocks(t, &hooked{Bucket: folder(t, mem), before: sw.before}, opt)
	sw.set(errAway)
	if err := b.Put(context.Background(), []store.Staged{stage(t, mem, 1)}); err != nil {
		t.Fatalf("one always may wait: %v", err)
	}
	sw.failed(t)
	two := stage(t, mem, 2)
	if err := b.Put(context.Background(), []store.Staged{two}); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "no route to host") {
		t.Fatalf("past the bound: %v", err)
	}
	if _, err := mem.Stat(two.Dir); err != nil {
		t.Errorf("what was turned away must stay where it is: %v", err)
	}
	sw.set(nil)
	settled(t, b)
	if err := b.Put(context.Background(), []store.Staged{two}); err != nil {
		t.Fatal(err)
	}
	settled(t, b)
	if got := present(t, b); fmt.Sprint(got) != "[1 2]" {
		t.Errorf("%v", got)
	}
}

// TestSeveralServers: what one server puts another sees after a listing, and what one merges and deletes
// the other stops asking.
func TestSeveralServers(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	shared := folder(t, mem)
	a := openBlocks(t, shared, testOptions(mem))
	opt := testOptions(mem)
	opt.Dir = "/data2/blocks"
	b := openBlocks(t, shared, opt)
	one, two := stage(t, mem, 1), stage(t, mem, 2)
	if err := a.Put(ctx, []store.Staged{one, two}); err != nil {
		t.Fatal(err)
	}
	settled(t, a)
	if got := present(t, b); got != nil {
		t.Errorf("before a listing: %v", got)
	}
	if err := b.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if got := present(t, b); fmt.Sprint(got) != "[1 2]" {
		t.Errorf("after a listing: %v", got)
	}
	merged := stageMerged(t, mem, 100, one.Meta, two.Meta)
	if err := a.enqueue([]store.Staged{merged}); err != nil {
		t.Fatal(err)
	}
	settled(t, a)
	for _, bs := range []*Blocks{a, b} {
		if err := bs.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		if got := present(t, bs); fmt.Sprint(got) != "[1 2]" || bs.Stats().Asked != 1 || bs.Stats().Blocks != 3 {
			t.Errorf("merged: %v, %+v", got, bs.Stats())
		}
	}
	// The sources go: tombstones, then bytes.
	for _, s := range []store.Staged{one, two} {
		key := Prefix("local", "t", s.Meta.ULID)
		if err := shared.Put(ctx, key+TombstoneFile, strings.NewReader("{}")); err != nil {
			t.Fatal(err)
		}
		a.bury(s.Meta.ULID)
	}
	if err := b.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if k := b.now.Load().all[one.Meta.ULID]; k == nil || !k.Tombstoned {
		t.Errorf("the other server does not see the tombstone: %+v", k)
	}
	for _, s := range []store.Staged{one, two} {
		deleteBlock(t, shared, s.Meta)
		if err := a.forget(s.Meta.ULID); err != nil {
			t.Fatal(err)
		}
	}
	for _, bs := range []*Blocks{a, b} {
		if err := bs.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		if got := present(t, bs); fmt.Sprint(got) != "[1 2]" || bs.Stats().Blocks != 1 {
			t.Errorf("deleted: %v, %+v", got, bs.Stats())
		}
	}
}

func deleteBlock(t *testing.T, b bucket.Bucket, m block.Meta) {
	t.Helper()
	key := Prefix(m.Region, m.Tenant, m.ULID)
	for o, err := range b.List(context.Background(), key, false) {
		if err == nil && !strings.HasSuffix(o.Key, TombstoneFile) {
			err = b.Delete(context.Background(), o.Key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestOldListing: what a listing says is older than what has happened here since it began.
func TestOldListing(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	b := openBlocks(t, folder(t, mem), testOptions(mem))
	one, two, three := stage(t, mem, 1), stage(t, mem, 2), stage(t, mem, 3)
	if err := b.Put(ctx, []store.Staged{one, two}); err != nil {
		t.Fatal(err)
	}
	settled(t, b)
	change := b.change
	found, err := b.list(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// Now one is deleted, and three is put and uploaded.
	if err := b.forget(one.Meta.ULID); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(ctx, []store.Staged{three}); err != nil {
		t.Fatal(err)
	}
	settled(t, b)
	fresh, _, err := b.learn(ctx, found)
	if err != nil {
		t.Fatal(err)
	}
	b.merge(found, fresh, change, true)
	if got := present(t, b); fmt.Sprint(got) != "[2 3]" {
		t.Errorf("%v", got)
	}
}

// TestComesBackLate: a server that went down after the last file of a block was put, and
// comes back when the block has been merged and deleted, does not bring it back.
func TestComesBackLate(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	shared := folder(t, mem)
	sw := newSwitch()
	b := openBlocks(t, &hooked{Bucket: shared, before: sw.before}, switched(mem, sw))
	sw.set(errAway)
	s := stage(t, mem, 1)
	if err := b.Put(ctx, []store.Staged{s}); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if err := shared.Put(ctx, Prefix("local", "t", s.Meta.ULID)+TombstoneFile, strings.NewReader("{}")); err != nil {
		t.Fatal(err)
	}
	sw.set(nil)
	b = openBlocks(t, shared, testOptions(mem))
	settled(t, b)
	if got := present(t, b); got != nil || b.Stats().Blocks != 0 {
		t.Errorf("it is back: %v", got)
	}
	if names, err := mem.List(filepath.Join(dataDir, queueDir)); len(names) != 0 || err != nil {
		t.Errorf("%v, %v", names, err)
	}
}

// TestAwayAtStart: with the bucket away what is here is asked: the queue, and copies of what the bucket has.
// The answer says what may be missing, and nothing has been lost once it is back.
func TestAwayAtStart(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	sw := newSwitch()
	far := &hooked{Bucket: folder(t, mem), url: "s3://far", before: sw.before}
	b := openBlocks(t, far, switched(mem, sw))
	if err := b.Put(ctx, []store.Staged{stage(t, mem, 1), stage(t, mem, 2)}); err != nil {
		t.Fatal(err)
	}
	settled(t, b)
	if st := b.Stats(); st.LocalBytes == 0 {
		t.Errorf("no copies are kept: %+v", st)
	}
	sw.set(errAway)
	if err := b.Put(ctx, []store.Staged{stage(t, mem, 3)}); err != nil {
		t.Fatal(err)
	}
	b.Close()
	b = openBlocks(t, far, switched(mem, sw))
	if got := present(t, b); fmt.Sprint(got) != "[1 2 3]" {
		t.Errorf("while it is away: %v", got)
	}
	if ws := b.Warnings(); len(ws) != 1 || !strings.Contains(ws[0], "s3://far cannot be listed") {
		t.Errorf("%q", ws)
	}
	sw.set(nil)
	if err := b.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	settled(t, b)
	if got := present(t, b); fmt.Sprint(got) != "[1 2 3]" || len(b.Warnings()) != 0 {
		t.Errorf("when it is back: %v, %q", got, b.Warnings())
	}
	b.Close()
	sw.set(fmt.Errorf("%w: bad key", bucket.ErrDenied))
	if _, err := Open(ctx, far, testOptions(mem)); !errors.Is(err, bucket.ErrDenied) {
		t.Errorf("credentials that are refused are an error at once: %v", err)
	}
}

// TestLocalBound: copies stay within half of CacheBytes, the newest; none with a negative bound.
func TestLocalBound(t *testing.T) {
	ctx := context.Background()
	for _, fits := range []int64{-1, 2, 3} {
		mem := vfs.NewMem()
		far := &hooked{Bucket: folder(t, mem), url: "gs://far", before: (newSwitch()).before}
		opt := testOptions(mem)
		one := stage(t, mem, 1)
		size := newBlock(one.Meta).bytes
		opt.CacheBytes = fits * (size + size/4) * 2
		b := openBlocks(t, far, opt)
		if err := b.Put(ctx, []store.Staged{one}); err != nil {
			t.Fatal(err)
		}
		for n := 2; n <= 6; n++ {
			if err := b.Put(ctx, []store.Staged{stage(t, mem, n)}); err != nil {
				t.Fatal(err)
			}
		}
		settled(t, b)
		names, err := mem.List(filepath.Join(dataDir, localDir))
		if len(names) != int(max(fits, 0)) || err != nil || b.Stats().LocalBytes > max(opt.CacheBytes, 0)/2 {
			t.Errorf("room for %d: %v, %v, %+v", fits, names, err, b.Stats())
		}
		if got := present(t, b); fmt.Sprint(got) != "[1 2 3 4 5 6]" {
			t.Errorf("%v", got)
		}
		b.Close()
		b = openBlocks(t, far, opt)
		if st := b.Stats(); fits > 0 && st.LocalBytes == 0 || st.LocalBytes > max(opt.CacheBytes, 0)/2 {
			t.Errorf("after a restart %+v", st)
		}
	}
}

// TestMetaCopies: a second start fetches no meta.json from a bucket that is far, and one whose copy
// is spoilt again.
func TestMetaCopies(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	sw := newSwitch()
	far := &hooked{Bucket: folder(t, mem), url: "gs://far", before: sw.before}
	b := openBlocks(t, far, switched(mem, sw))
	var metas []ulid.ULID
	for n := range 5 {
		s := stage(t, mem, n+1)
		metas = append(metas, s.Meta.ULID)
		if err := b.Put(ctx, []store.Staged{s}); err != nil {
			t.Fatal(err)
		}
	}
	settled(t, b)
	b.Close()
	opt := testOptions(mem)
	opt.Dir = "/data2/blocks"
	openBlocks(t, far, opt).Close()
	if n := len(sw.of("get")); n != 5 {
		t.Errorf("%d fetched by a server that has none", n)
	}
	name := filepath.Join(opt.Dir, metasDir, metas[2].String())
	raw, err := readFile(mem, name, maxMeta)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	mem.Remove(name)
	f, err := mem.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	f.Write(raw)
	f.Close()
	b = openBlocks(t, far, opt)
	if got := sw.of("get"); len(got) != 6 || !strings.Contains(got[5], metas[2].String()) {
		t.Errorf("fetched: %v", got)
	}
	if got := present(t, b); fmt.Sprint(got) != "[1 2 3 4 5]" {
		t.Errorf("%v", got)
	}
}

// clock is a clock that a test turns.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time       { return epoch.Add(time.Duration(c.at.Load())) }
func (c *clock) turn(d time.Duration) { c.at.Add(int64(d)) }

// TestUploadsRetry: uploads are tried again for ever, with pauses that grow to a minute; what is wrong is said
// once; health is red when a block has waited too long, and green when it is through.
func TestUploadsRetry(t *testing.T) {
	mem := vfs.NewMem()
	sw := newSwitch()
	var log strings.Builder
	var c clock
	pauses := make(chan time.Duration)
	opt := testOptions(mem)
	opt.Now, opt.Logger = c.now, slog.New(slog.NewTextHandler(&log, nil))
	opt.sleep = func(ctx context.Context, d time.Duration) {
		select {
		case pauses <- d:
		case <-ctx.Done():
		}
	}
	b := openBlocks(t, &hooked{Bucket: folder(t, mem), before: sw.before}, opt)
	sw.set(errAway)
	if err := b.Put(context.Background(), []store.Staged{stage(t, mem, 1)}); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		most := min(maxPause, firstPause<<i)
		if d := <-pauses; d < most/2 || d > most {
			t.Errorf("pause %d lasts %v, want up to %v", i, d, most)
		}
	}
	c.turn(9 * time.Minute)
	if err := b.Healthy(); err != nil {
		t.Errorf("not stuck yet: %v", err)
	}
	c.turn(2 * time.Minute)
	if err := b.Healthy(); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "1 blocks wait") || !strings.Contains(err.Error(), "no route to host") {
		t.Errorf("stuck: %v", err)
	}
	sw.set(nil)
	go func() {
		for range pauses { // if it was just trying while the bucket came back
		}
	}()
	settled(t, b)
	defer close(pauses)
	if err := b.Healthy(); err != nil {
		t.Errorf("through: %v", err)
	}
	b.Close()
	if n := strings.Count(log.String(), "level=ERROR msg=upload"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
	if n := strings.Count(log.String(), "go through again"); n != 1 {
		t.Errorf("the end of it was said %d times", n)
	}
}

// TestListingFails: health is red when the bucket has not been listed for too long.
func TestListingFails(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	sw := newSwitch()
	var c clock
	opt := testOptions(mem)
	opt.Now = c.now
	b := openBlocks(t, &hooked{Bucket: folder(t, mem), before: sw.before}, opt)
	sw.set(errAway)
	c.turn(5 * time.Minute)
	if err := b.Refresh(ctx); !errors.Is(err, bucket.ErrUnavailable) {
		t.Fatal(err)
	}
	if err := b.Healthy(); err != nil || len(b.Warnings()) != 1 {
		t.Errorf("a while: %v, %q", err, b.Warnings())
	}
	c.turn(6 * time.Minute)
	if err := b.Healthy(); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "last listed 11m") {
		t.Errorf("too long: %v", err)
	}
	sw.set(nil)
	if err := b.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.Healthy(); err != nil || b.Warnings() != nil {
		t.Errorf("again: %v, %q", err, b.Warnings())
	}
}

// TestRefreshLoop: what another server put is found without asking for it.
func TestRefreshLoop(t *testing.T) {
	mem := vfs.NewMem()
	shared := folder(t, mem)
	a := openBlocks(t, shared, testOptions(mem))
	opt := testOptions(mem)
	opt.Dir, opt.RefreshEvery = "/data2/blocks", time.Millisecond
	b := openBlocks(t, shared, opt)
	if err := a.Put(context.Background(), []store.Staged{stage(t, mem, 1)}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := b.wait(ctx, func(s *set) bool { return len(s.all) == 1 }); err != nil {
		t.Fatal(err)
	}
}

// TestDamageInQueue: a file that has changed on disk is not given to the bucket; its block is
// refused and stays where it is, others go.
func TestDamageInQueue(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	sw := newSwitch()
	b := openBlocks(t, &hooked{Bucket: folder(t, mem), before: sw.before}, switched(mem, sw))
	sw.set(errAway)
	one, two, three := stage(t, mem, 1), stage(t, mem, 2), stage(t, mem, 3)
	if err := b.Put(ctx, []store.Staged{one, two, three}); err != nil {
		t.Fatal(err)
	}
	flip(t, mem, filepath.Join(dataDir, queueDir, two.Meta.ULID.String(), block.SamplesFile), 0)
	// The third loses its meta.json: it is found at the next start.
	if err := mem.Remove(filepath.Join(dataDir, queueDir, three.Meta.ULID.String(), block.MetaFile)); err != nil {
		t.Fatal(err)
	}
	b.Close()
	sw.set(nil)
	b = openBlocks(t, &hooked{Bucket: folder(t, mem), before: sw.before}, switched(mem, sw))
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := b.wait(ctx, func(s *set) bool { k := s.all[one.Meta.ULID]; return k != nil && !k.Waiting }); err != nil {
		t.Fatal(err)
	}
	b.Close() // the round of uploads is over
	if err := b.Put(ctx, nil); !errors.Is(err, store.ErrUnavailable) {
		t.Error(err)
	}
	b = openBlocks(t, folder(t, mem), testOptions(mem))
	if err := b.Select(ctx, planOf(t, store.Query{Type: counts}), nil, store.NewGather(1<<30)); err != nil {
		t.Fatal(err) // it meets the damage, if the uploader has not yet
	}
	if got := present(t, b); fmt.Sprint(got) != "[1]" {
		t.Errorf("%v", got)
	}
	if st := b.Stats(); st.QueueBlocks != 1 || st.Blocks != 2 || st.Damaged != 1 {
		t.Errorf("%+v", st)
	}
	ws := strings.Join(b.Warnings(), "\n")
	if !strings.Contains(ws, two.Meta.ULID.String()) || !strings.Contains(ws, three.Meta.ULID.String()) || strings.Contains(ws, one.Meta.ULID.String()) {
		t.Errorf("%s", ws)
	}
	for _, s := range []store.Staged{two, three} {
		if _, err := mem.Stat(filepath.Join(dataDir, queueDir, s.Meta.ULID.String(), block.SamplesFile)); err != nil {
			t.Errorf("a damaged block must stay: %v", err)
		}
	}
}

// flip changes one byte of a file.
func flip(t testing.TB, fs vfs.FS, name string, at int) {
	t.Helper()
	raw, err := readFile(fs, name, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	raw[at] ^= 0x40
	if err := fs.Remove(name); err != nil {
		t.Fatal(err)
	}
	f, err := fs.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// TestCrashAtEveryOperation turns the machine off ahead of each operation on the file system while blocks are put and
// uploaded to a bucket in a folder, starts again on what the disk then holds, and puts what is
// still staged, as the store does. Every block that was staged is there, once.
func TestCrashAtEveryOperation(t *testing.T) {
	base := vfs.NewMem()
	var staged []store.Staged
	for i := range 3 {
		staged = append(staged, stage(t, base, i+1))
	}
	step := 1
	if testing.Short() {
		step = 5
	}
	for at := 0; ; at += step {
		mem := base.Crash(nil) // a copy: all of it is synced
		var crashes []*vfs.Mem
		var mu sync.Mutex
		ops := 0
		dead := errors.New("the machine is off")
		fs := vfs.Hook(mem, func(op vfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			ops++
			if ops-1 < at || !op.Changes() && crashes == nil {
				return nil
			}
			if crashes == nil {
				for seed := range uint64(3) {
					var rng *rand.Rand
					if seed > 0 {
						rng = rand.New(rand.NewPCG(seed, uint64(at)))
					}
					crashes = append(crashes, mem.Crash(rng))
				}
			}
			return dead
		})
		workload(fs, staged)
		if crashes == nil {
			if at < 100 {
				t.Fatalf("the workload has %d operations: too few to prove anything", at)
			}
			return
		}
		for seed, c := range crashes {
			afterCrash(t, fmt.Sprintf("crash ahead of operation %d, seed %d", at, seed), c, staged)
		}
	}
}

// workload puts and uploads blocks until it is done or the disk fails it.
func workload(fs vfs.FS, staged []store.Staged) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	shared, err := bucket.Open(ctx, "file:///bucket", bucket.Options{FS: fs, Create: true, RetryFor: -1})
	if err != nil {
		return
	}
	defer shared.Close()
	opt := testOptions(fs)
	opt.sleep = func(loop context.Context, _ time.Duration) {
		cancel() // an upload has failed: the machine is off
		<-loop.Done()
	}
	b, err := Open(ctx, shared, opt)
	if err != nil {
		return
	}
	defer b.Close()
	if b.Put(ctx, staged[:2]) == nil && b.Put(ctx, staged[2:]) == nil {
		b.wait(ctx, func(s *set) bool {
			done := 0
			for _, k := range s.all {
				if !k.Waiting {
					done++
				}
			}
			return done == len(staged)
		})
	}
}

func afterCrash(t *testing.T, what string, mem *vfs.Mem, staged []store.Staged) {
	ctx := context.Background()
	rounds := 1
	if strings.HasSuffix(what, "seed 0") {
		rounds = 2 // and again, for what the first start left
	}
	for round := range rounds {
		var left []store.Staged
		for _, s := range staged {
			if _, err := mem.Stat(filepath.Join(s.Dir, block.MetaFile)); err == nil {
				left = append(left, s)
			}
		}
		b := openBlocks(t, folder(t, mem), testOptions(mem))
		if err := b.Put(ctx, left); err != nil {
			t.Fatalf("%s: round %d: %v", what, round, err)
		}
		settled(t, b)
		if got := present(t, b); fmt.Sprint(got) != "[1 2 3]" || b.Warnings() != nil {
			t.Fatalf("%s: round %d: %v, %q, %+v", what, round, got, b.Warnings(), b.Stats())
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{queueDir, localDir, workDir} {
			if names, err := mem.List(filepath.Join(dataDir, dir)); len(names) != 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("%s: round %d: %s has %v, %v", what, round, dir, names, err)
			}
		}
	}
}
