package blocks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
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

// known is a block that is only a meta.json.
func known(n int, level block.Level, partition time.Time, bytes int64, created time.Time) *Block {
	k := newBlock(block.Meta{ULID: idOf(n), Region: "local", Tenant: "t", Level: level, Partition: partition, Created: created})
	k.bytes = bytes
	return k
}

func describe(jobs []job) (out []string) {
	for _, j := range jobs {
		s := fmt.Sprintf("%s level %d:", j.partition.Format("02T15"), j.level)
		for _, k := range j.inputs {
			s += fmt.Sprint(" ", k.Meta.ULID[15])
		}
		out = append(out, s)
	}
	return out
}

// TestPlan is what is merged when, in words.
func TestPlan(t *testing.T) {
	o := CompactOptions{FanIn: 4, MaxInputs: 6, MaxBlockBytes: 1000}.withDefaults()
	d := time.Date(2026, 3, 10, 0, 0, 0, 0, time.UTC)
	h := func(n int) time.Time { return d.Add(time.Duration(n) * time.Hour) }
	heads := func(from, n, hour int) (out []*Block) {
		for i := range n {
			out = append(out, known(from+i, block.LevelHead, h(hour), 10, h(hour)))
		}
		return out
	}
	late := []*Block{known(1, block.LevelHour, h(9), 10, d), known(2, block.LevelHead, h(9), 10, h(10))}
	for _, c := range []struct {
		name string
		ask  []*Block
		now  time.Time
		want []string
	}{
		{"too few", heads(1, 3, 9), h(9), nil},
		{"enough", heads(1, 4, 9), h(9), []string{"10T09 level 1: 1 2 3 4"}},
		{"bounded", heads(1, 9, 9), h(9), []string{"10T09 level 1: 1 2 3 4 5 6"}},
		{"parts", append(heads(9, 1, 9), known(1, block.LevelPart, h(9), 10, d), known(2, block.LevelPart, h(9), 10, d), known(3, block.LevelPart, h(9), 10, d), known(4, block.LevelPart, h(9), 10, d)), h(9), []string{"10T09 level 1: 1 2 3 4"}},
		{"the hour is over", heads(1, 2, 9), h(10).Add(5 * time.Minute), []string{"10T09 level 2: 1 2"}},
		{"a single one", heads(1, 1, 9), h(10).Add(5 * time.Minute), []string{"10T09 level 2: 1"}},
		{"done", []*Block{known(1, block.LevelHour, h(9), 10, d)}, h(11), nil},
		{"too many at once", heads(1, 7, 9), h(11), []string{"10T09 level 1: 1 2 3 4 5 6"}},
		{"a late one may not be alone", late, h(10).Add(6 * time.Minute), nil},
		{"a late one waits no longer than LateFor", late, h(11).Add(6 * time.Minute), []string{"10T09 level 2: 1 2"}},
		{"late ones are enough", append(late, known(3, block.LevelHead, h(9), 10, h(10))), h(10).Add(6 * time.Minute), []string{"10T09 level 2: 1 2 3"}},
		{"the day is over", []*Block{known(1, block.LevelHour, h(1), 10, d), known(2, block.LevelHour, h(2), 10, d)}, h(25), []string{"10T00 level 3: 1 2"}},
		{"the day is not over", []*Block{known(1, block.LevelHour, h(1), 10, d), known(2, block.LevelHour, h(2), 10, d)}, h(24), nil},
		{"the day is done", []*Block{known(1, block.LevelDay, d, 10, d)}, h(90), nil},
		{"large ones stay", []*Block{known(1, block.LevelHour, h(1), 600, d), known(2, block.LevelHour, h(2), 10, d), known(3, block.LevelHour, h(3), 10, d)}, h(25), []string{"10T00 level 3: 2 3"}},
	} {
		got := describe(planCompaction(map[string][]*Block{"t": c.ask}, c.now, o))
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	waiting := heads(1, 5, 9)
	waiting[0].Waiting = true
	if got := describe(planCompaction(map[string][]*Block{"t": waiting}, h(30), o)); len(got) != 1 || !strings.Contains(got[0], "level 1: 2 3 4 5") {
		t.Errorf("a block that waits for the bucket: %q", got)
	}
}

// maintained does what there is to do, until there is nothing more.
func maintained(t testing.TB, b *Blocks) {
	t.Helper()
	for range 20 {
		settled(t, b)
		before := len(b.now.Load().all)
		if err := b.Maintain(context.Background()); err != nil {
			t.Fatal(err)
		}
		settled(t, b)
		if len(planCompaction(b.now.Load().ask, b.opt.Now(), b.opt.Compact)) == 0 && before == len(b.now.Load().all) {
			return
		}
	}
	t.Fatalf("it never ends: %q", describe(planCompaction(b.now.Load().ask, b.opt.Now(), b.opt.Compact)))
}

// TestCompact: random blocks of three hours become hours and a day; every question is answered as before at every step, and at the
// end the bucket has one block and what marks the others.
func TestCompact(t *testing.T) {
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(4, 2))
	mem := vfs.NewMem()
	var c clock
	opt := testOptions(mem)
	opt.Now = c.now
	opt.Compact = CompactOptions{FanIn: 3, Every: time.Hour}
	opt.Retention = RetentionOptions{Keep: -1}
	b := openBlocks(t, folder(t, mem), opt)
	morning := epoch.Add(-4 * time.Hour) // three hours of one day
	var all []*upload
	n := 0
	for h := range 3 {
		for range 7 {
			var ups []*upload
			for range 4 {
				n++
				u := randomUpload(rng, uint64(n), morning.Add(time.Duration(h)*time.Hour+time.Duration(rng.IntN(3600))*time.Second))
				ups = append(ups, u)
			}
			all = append(all, ups...)
			if err := b.Put(ctx, []store.Staged{writeBlock(t, mem, 1000+n, block.LevelHead, morning.Add(time.Duration(h)*time.Hour), ups)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask := func() {
		t.Helper()
		for range 15 {
			q := randomQuestion(rng, all)
			q.ask(t, b)
		}
	}
	ask()
	for _, step := range []time.Duration{0, time.Hour, 3 * time.Hour, 40 * time.Hour} {
		c.turn(step)
		maintained(t, b)
		ask()
	}
	st := b.Stats()
	if st.Asked != 1 || st.Compactions < 4 {
		t.Errorf("%+v", st)
	}
	c.turn(time.Hour)
	maintained(t, b)
	ask()
	if st := b.Stats(); st.Blocks != 1 || st.DeletedBlocks == 0 {
		t.Errorf("after the grace %+v", st)
	}
	for _, k := range b.now.Load().all {
		if err := block.Verify(ctx, k.Meta, b.Source(k)); err != nil {
			t.Error(err)
		}
		if k.Meta.Level != block.LevelDay || k.Meta.Profiles != n {
			t.Errorf("level %d, %d profiles of %d", k.Meta.Level, k.Meta.Profiles, n)
		}
	}
	c.turn(time.Since(c.now()) + 100*time.Hour) // objects have the time of the machine
	maintained(t, b)
	ask()
	objects := 0
	for _, err := range b.bucket.List(ctx, "", false) {
		if err != nil {
			t.Fatal(err)
		}
		objects++
	}
	if objects > 10 {
		t.Errorf("%d objects are left of one block", objects)
	}
}

// TestSameUploadTwice: two servers got the same upload; merged, it is there once.
func TestSameUploadTwice(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	var c clock
	opt := testOptions(mem)
	opt.Now = c.now
	b := openBlocks(t, folder(t, mem), opt)
	for n, ups := range [][]*upload{{plainUpload(1), plainUpload(2)}, {plainUpload(2), plainUpload(3)}} {
		if err := b.Put(ctx, []store.Staged{writeBlock(t, mem, n+1, block.LevelHead, epoch, ups)}); err != nil {
			t.Fatal(err)
		}
	}
	c.turn(2 * time.Hour)
	maintained(t, b)
	if got := fmt.Sprint(present(t, b)); got != "[1 2 3]" {
		t.Error(got)
	}
	for _, ks := range b.now.Load().ask {
		for _, k := range ks {
			if err := block.Verify(ctx, k.Meta, b.Source(k)); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestCrashWhileCompacting turns the machine off ahead of each operation of merging, marking and deleting: after it all uploads are
// there, once, and the bucket verifies.
func TestCrashWhileCompacting(t *testing.T) {
	ctx := context.Background()
	base := vfs.NewMem()
	b := openBlocks(t, folder(t, base), testOptions(base))
	want := []int{}
	for n := 1; n <= 6; n++ {
		if err := b.Put(ctx, []store.Staged{writeBlock(t, base, n, block.LevelHead, epoch, []*upload{plainUpload(2*n - 1), plainUpload(2 * n)})}); err != nil {
			t.Fatal(err)
		}
		want = append(want, 2*n-1, 2*n)
	}
	settled(t, b)
	b.Close()
	step := 3
	if testing.Short() || underRace { // the detector looks for something else, and is ten times as slow
		step = 17
	}
	dead := errors.New("the machine is off")
	for at := 0; ; at += step {
		mem := base.Crash(nil)
		var ops atomic.Int64
		var crashes []*vfs.Mem
		var mu sync.Mutex
		hook := vfs.Hook(mem, func(op vfs.Op) error {
			n := int(ops.Add(1)) - 1
			if n < at {
				return nil
			}
			if n == at {
				mu.Lock()
				defer mu.Unlock()
				for _, rng := range []*rand.Rand{nil, rand.New(rand.NewPCG(1, uint64(at)))} {
					crashes = append(crashes, mem.Crash(rng))
				}
			}
			return dead
		})
		var c clock
		c.turn(3 * time.Hour)
		if bk, err := bucket.Open(ctx, "file:///bucket", bucket.Options{FS: hook}); err == nil {
			opt := testOptions(hook)
			opt.Now = c.now
			if b, err := Open(ctx, bk, opt); err == nil {
				for range 3 {
					if b.Maintain(ctx) != nil {
						break
					}
					for range 200 {
						if b.Stats().QueueBlocks == 0 || int(ops.Load()) > at {
							break
						}
						time.Sleep(time.Millisecond)
					}
					c.turn(time.Hour)
				}
				b.Close()
			}
			bk.Close()
		}
		if int(ops.Load()) <= at {
			if at < 100 {
				t.Fatalf("the workload has %d operations: too few to prove anything", at)
			}
			return
		}
		for i, mem := range crashes {
			what := fmt.Sprintf("crash ahead of operation %d, kind %d", at, i)
			opt := testOptions(mem)
			opt.Now = c.now
			b := openBlocks(t, folder(t, mem), opt)
			if got := present(t, b); !slices.Equal(got, want) {
				t.Fatalf("%s: %v, want %v", what, got, want)
			}
			maintained(t, b)
			if got := present(t, b); !slices.Equal(got, want) || len(b.Warnings()) > 0 {
				t.Fatalf("%s: after another merge %v, want %v; %q", what, got, want, b.Warnings())
			}
			for _, k := range b.now.Load().ask["t"] {
				if err := block.Verify(ctx, k.Meta, b.Source(k)); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			b.Close()
		}
	}
}

// leases is a lease table.
type leases struct {
	mu   sync.Mutex
	held map[string]bool
	most int
}

func (l *leases) lease(ctx context.Context, name string) (context.Context, func(), bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[name] {
		return nil, nil, false, nil
	}
	l.held[name] = true
	l.most = max(l.most, len(l.held))
	return ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, name)
	}, true, nil
}

// TestTwoServersCompact: with a lease two servers on one bucket never merge the same blocks twice.
func TestTwoServersCompact(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	bk := folder(t, mem)
	table := &leases{held: map[string]bool{}}
	var c clock
	var servers []*Blocks
	for n := range 2 {
		opt := testOptions(mem)
		opt.Dir, opt.Now, opt.Lease = fmt.Sprint("/data/server", n), c.now, table.lease
		servers = append(servers, openBlocks(t, bk, opt))
	}
	var want []int
	for n := 1; n <= 12; n++ {
		if err := servers[n%2].Put(ctx, []store.Staged{writeBlock(t, mem, n, block.LevelHead, epoch.Add(time.Duration(n%3)*time.Hour), []*upload{shifted(n)})}); err != nil {
			t.Fatal(err)
		}
		want = append(want, n)
	}
	for _, b := range servers {
		settled(t, b)
	}
	for _, b := range servers {
		if err := b.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
	}
	c.turn(10 * time.Hour)
	var wg sync.WaitGroup
	for _, b := range servers {
		wg.Go(func() {
			for range 3 {
				if err := b.Maintain(ctx); err != nil {
					t.Error(err)
				}
				settled(t, b)
			}
		})
	}
	wg.Wait()
	merged := map[ulid.ULID]int{}
	for _, b := range servers {
		if err := b.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		if got := present(t, b); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	for _, k := range servers[0].now.Load().all {
		for _, s := range k.Meta.Sources {
			merged[s]++
		}
	}
	for s, n := range merged {
		if n > 1 {
			t.Errorf("block %s was merged %d times", s, n)
		}
	}
	if n := servers[0].Stats().Compactions + servers[1].Stats().Compactions; n != 3 {
		t.Errorf("%d merges of 3 hours", n)
	}
}

// TestMergeWaitsForTheBucket: a merge whose output the bucket does not take does not come through once another server has
// merged the same blocks, and does if none has; the lease is held until the bucket has the output.
func TestMergeWaitsForTheBucket(t *testing.T) {
	for _, other := range []bool{true, false} {
		t.Run(fmt.Sprint("merged by another: ", other), func(t *testing.T) {
			ctx := context.Background()
			mem := vfs.NewMem()
			table := &leases{held: map[string]bool{}}
			sw := newSwitch()
			var c clock
			bk := folder(t, mem)
			var unleased atomic.Int32
			var servers []*Blocks
			for n := range 2 {
				opt := switched(mem, sw)
				opt.Dir, opt.Now, opt.Lease = fmt.Sprint("/data/server", n), c.now, table.lease
				var hook = func(op, key string) error { return nil }
				if n == 0 {
					hook = func(op, key string) error {
						if op != "put" || !strings.HasSuffix(key, block.SamplesFile) || c.now().Equal(epoch) {
							return nil
						}
						table.mu.Lock()
						if len(table.held) == 0 {
							unleased.Add(1)
						}
						table.mu.Unlock()
						return sw.before(op, key)
					}
				}
				servers = append(servers, openBlocks(t, &hooked{Bucket: bk, before: hook}, opt))
			}
			want := []int{1, 2, 3}
			for _, n := range want {
				if err := servers[0].Put(ctx, []store.Staged{writeBlock(t, mem, n, block.LevelHead, epoch, []*upload{plainUpload(n)})}); err != nil {
					t.Fatal(err)
				}
			}
			settled(t, servers[0])
			c.turn(10 * time.Hour)
			sw.set(errAway)
			if err := servers[0].Maintain(ctx); err != nil {
				t.Fatal(err)
			}
			if st := servers[0].Stats(); st.Compactions != 1 || st.QueueBlocks != 1 {
				t.Fatalf("%+v", st)
			}
			if got := present(t, servers[0]); !slices.Equal(got, want) {
				t.Errorf("while it waits %v", got)
			}
			if err := servers[1].Refresh(ctx); err != nil {
				t.Fatal(err)
			}
			sw.failed(t) // the uploader has tried too, and has let go of the lease
			if other {
				maintained(t, servers[1])
			}
			sw.set(nil)
			settled(t, servers[0])
			for n, b := range servers {
				if err := b.Refresh(ctx); err != nil {
					t.Fatal(err)
				}
				if got := present(t, b); !slices.Equal(got, want) {
					t.Errorf("server %d has %v, want %v", n, got, want)
				}
				if n := len(b.now.Load().ask["t"]); n != 1 {
					t.Errorf("%d blocks are asked", n)
				}
			}
			if n := unleased.Load(); n > 0 {
				t.Errorf("%d outputs were given to the bucket without a lease", n)
			}
		})
	}
}

// shifted is plainUpload in one of three hours.
func shifted(n int) *upload {
	u := plainUpload(n)
	u.from += int64(time.Duration(n%3) * time.Hour)
	u.to += int64(time.Duration(n%3) * time.Hour)
	return u
}

// TestRetention: blocks are marked when their time is over, by service; archived before; and the bytes go after the grace.
func TestRetention(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	var c clock
	classes := &classy{Bucket: &hooked{Bucket: folder(t, mem), url: "gs://far", before: newSwitch().before}, class: map[string]bucket.Class{}}
	opt := testOptions(mem)
	opt.Now = c.now
	opt.Retention = RetentionOptions{Rules: []KeepRule{{Service: "svc1", Keep: 10 * day}, {Tenant: "t", Service: "svc2", Keep: -1}}}
	b := openBlocks(t, classes, opt)
	var ups []*upload
	for n := 1; n <= 9; n++ {
		ups = append(ups, plainUpload(n))
	}
	if err := b.Put(ctx, []store.Staged{writeBlock(t, mem, 1, block.LevelHead, epoch, ups)}); err != nil {
		t.Fatal(err)
	}
	at := func(days int, want string) {
		t.Helper()
		c.at.Store(int64(days) * int64(day))
		maintained(t, b)
		if got := fmt.Sprint(present(t, b)); got != want {
			t.Errorf("after %d days %s, want %s", days, got, want)
		}
	}
	at(2, "[1 2 3 4 5 6 7 8 9]")
	if n := len(classes.class); n != 0 {
		t.Errorf("%d objects were archived at once", n)
	}
	at(8, "[1 2 3 4 5 6 7 8 9]")
	if st := b.Stats(); st.ArchivedBlocks != 1 || len(classes.class) < 5 {
		t.Errorf("archived: %+v, %v", st, classes.class)
	}
	at(11, "[2 3 5 6 8 9]")
	at(31, "[2 5 8]")
	at(900, "[2 5 8]")
	usage, err := b.Usage(ctx)
	if err != nil || len(usage) == 0 {
		t.Errorf("%+v, %v", usage, err)
	}
}

// classy is a bucket with storage classes.
type classy struct {
	bucket.Bucket
	mu    sync.Mutex
	class map[string]bucket.Class
}

func (b *classy) SetClass(_ context.Context, key string, c bucket.Class) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.class[key] = c
	return nil
}

// TestCompactionStuck: when merging fails for long, health says so.
func TestCompactionStuck(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	var c clock
	opt := testOptions(mem)
	opt.Now = c.now
	opt.Lease = func(context.Context, string) (context.Context, func(), bool, error) {
		return nil, nil, false, errors.New("the control database is away")
	}
	b := openBlocks(t, folder(t, mem), opt)
	for n := 1; n <= 2; n++ {
		if err := b.Put(ctx, []store.Staged{stage(t, mem, n)}); err != nil {
			t.Fatal(err)
		}
	}
	settled(t, b)
	c.turn(3 * time.Hour)
	if err := b.Maintain(ctx); err == nil || !strings.Contains(err.Error(), "control database") {
		t.Error(err)
	}
	if err := b.Healthy(); err != nil {
		t.Errorf("not stuck yet: %v", err)
	}
	c.turn(3 * time.Hour)
	b.Maintain(ctx)
	if err := b.Healthy(); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "blocks to merge") {
		t.Errorf("healthy: %v", err)
	}
}
