package blocks

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
	"github.com/quantra-l/quantra/store/bucket"
	"github.com/quantra-l/quantra/store/bucket/buckettest"
	"github.com/quantra-l/quantra/store/storetest"
)

// conform runs the suite that every store is held to, with blocks in a bucket of its own each time.
func conform(t *testing.T, fs func(*testing.T) (vfs.FS, string), url func(*testing.T, vfs.FS, string) bucket.Bucket) {
	region := 0
	storetest.Run(t, func(t *testing.T) storetest.Target {
		region++ // so that stores that share a bucket do not see each other
		f, dir := fs(t)
		b := url(t, f, dir)
		t.Cleanup(func() { b.Close() })
		var put, merged int64
		var backend *Blocks
		open := func() *store.DB {
			var err error
			backend, err = Open(context.Background(), b, Options{FS: f, Dir: filepath.Join(dir, "blocks"), Region: fmt.Sprint("r", region), MemoryBytes: 1 << 20,
				Compact: CompactOptions{FanIn: 3}, Retention: RetentionOptions{Keep: -1}})
			if err != nil {
				t.Fatal(err)
			}
			db, err := store.Open(context.Background(), dir, store.Options{FS: f, Now: func() time.Time { return storetest.Epoch }, SegmentBytes: 20_000,
				Backend: backend, Region: fmt.Sprint("r", region)})
			if err != nil {
				backend.Close()
				t.Fatal(err)
			}
			return db
		}
		db := open()
		t.Cleanup(func() {
			if put += backend.Stats().Put; put == 0 {
				t.Error("no block was put: nothing was proven of them")
			}
			if merged += backend.Stats().Compactions; merged == 0 && strings.Contains(t.Name(), "seed") {
				t.Error("no block was merged: nothing was proven of compaction")
			}
		})
		return storetest.Target{Store: db, Settle: func() { maintained(t, backend) }, Reopen: func() store.Store {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
			put += backend.Stats().Put
			merged += backend.Stats().Compactions
			db = open()
			return db
		}}
	})
}

func inMemory(*testing.T) (vfs.FS, string) { return vfs.NewMem(), "/data" }
func onDisk(t *testing.T) (vfs.FS, string) { return vfs.Default, t.TempDir() }

func TestConformsInMemory(t *testing.T) {
	conform(t, inMemory, func(t *testing.T, f vfs.FS, _ string) bucket.Bucket { return folder(t, f) })
}

// TestConformsFar is a bucket that is not a local folder: local copies and the cache of ranges take part.
func TestConformsFar(t *testing.T) {
	conform(t, inMemory, func(t *testing.T, f vfs.FS, _ string) bucket.Bucket {
		return &hooked{Bucket: folder(t, f), url: "s3://far", before: newSwitch().before}
	})
}

func TestConformsOnDisk(t *testing.T) {
	conform(t, onDisk, func(t *testing.T, f vfs.FS, dir string) bucket.Bucket {
		b, err := bucket.Open(context.Background(), "file://"+filepath.ToSlash(dir)+"/bucket", bucket.Options{FS: f, Create: true})
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

func TestConformsOnGCS(t *testing.T) {
	s := buckettest.GCS(t)
	conform(t, inMemory, func(t *testing.T, _ vfs.FS, _ string) bucket.Bucket { return openURL(t, s.URL) })
}

func TestConformsOnS3(t *testing.T) {
	s := buckettest.S3(t)
	conform(t, inMemory, func(t *testing.T, _ vfs.FS, _ string) bucket.Bucket { return openURL(t, s.URL) })
}

func openURL(t *testing.T, url string) bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(context.Background(), url, bucket.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDamage: a block with a changed byte, in any file, is left out by name or answers as before; the
// rest answers; nothing panics.
func TestDamage(t *testing.T) {
	ctx := context.Background()
	base := vfs.NewMem()
	b := openBlocks(t, folder(t, base), testOptions(base))
	good := writeBlock(t, base, 1, block.LevelHour, epoch, []*upload{plainUpload(1), plainUpload(2)})
	bad := writeBlock(t, base, 2, block.LevelHour, epoch, []*upload{plainUpload(3), plainUpload(4)})
	if err := b.Put(ctx, []store.Staged{good, bad}); err != nil {
		t.Fatal(err)
	}
	settled(t, b)
	b.Close()
	shared := folder(t, base)
	refused, told := 0, 0
	for o, err := range shared.List(ctx, Prefix("local", "t", bad.Meta.ULID), false) {
		if err != nil {
			t.Fatal(err)
		}
		for at := int64(0); at < o.Bytes; at += 1 + o.Bytes/9 {
			mem := base.Crash(nil)
			damaged := folder(t, mem)
			raw, err := damaged.Get(ctx, o.Key, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			raw[at] ^= 0x55
			if err := damaged.Put(ctx, o.Key, strings.NewReader(string(raw))); err != nil {
				t.Fatal(err)
			}
			b := openBlocks(t, damaged, testOptions(mem))
			for range 2 {
				p := planOf(t, store.Query{Type: cpuTime})
				g := store.NewGather(1 << 30)
				if err := b.Select(ctx, p, nil, g); err != nil {
					t.Fatalf("%s at %d: %v", o.Key, at, err)
				}
				r := g.Result(p)
				ws := strings.Join(b.Warnings(), "\n")
				switch r.Profiles {
				case 4:
					if r.Profile.Total(0) != 10*10_000_000 {
						t.Fatalf("%s at %d: an answer of altered bytes", o.Key, at)
					}
				case 2:
					told++
					if r.Profile.Total(0) != 3*10_000_000 || !strings.Contains(ws, bad.Meta.ULID.String()) {
						t.Fatalf("%s at %d: total %d, %s", o.Key, at, r.Profile.Total(0), ws)
					}
				default:
					t.Fatalf("%s at %d: %d profiles", o.Key, at, r.Profiles)
				}
			}
			// Whole series, profiles and trends do not panic either, and never fail for one bad block.
			p := planOf(t, store.Query{})
			roll := store.RollupQuery{Query: store.Query{Type: cpuTime, From: epoch.Add(-time.Hour), To: epoch.Add(2 * time.Hour)}, Step: time.Minute}
			whole := planOf(t, roll.Query)
			err = errors.Join(
				b.Series(ctx, p, time.Minute, nil, nil, func(_ profile.Labels, _ store.Point) {}),
				b.Catalog(ctx, p, nil, func(store.Known) {}),
				b.Profiles(ctx, p, nil, func(store.ProfileInfo) bool { return true }),
				b.Trend(ctx, p, store.TrendQuery{Functions: []string{"work1"}, Step: time.Minute}, nil, func(string, profile.Labels, store.TrendPoint) {}),
				b.Rollup(ctx, whole, roll, nil, store.NewRollupGather(1<<30, whole, roll)),
			)
			if _, e := b.Recent(ctx, time.Time{}); err != nil || e != nil {
				t.Fatalf("%s at %d: %v, %v", o.Key, at, err, e)
			}
			if b.Stats().Damaged > 0 {
				refused++
			}
			b.Close()
		}
	}
	if refused < 20 || told < 20 {
		t.Errorf("%d refused, %d told: the damage was not looked at", refused, told)
	}
}

// TestAwayWhileAsked: a block that cannot be read now is left out with a warning and asked again when
// it can; if none can be read it is an error.
func TestAwayWhileAsked(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	sw := newSwitch()
	opt := switched(mem, sw)
	var c clock
	opt.Now, opt.CacheBytes = c.now, -1
	b := openBlocks(t, &hooked{Bucket: folder(t, mem), url: "gs://far", before: sw.before}, opt)
	if err := b.Put(ctx, []store.Staged{stage(t, mem, 1)}); err != nil {
		t.Fatal(err)
	}
	settled(t, b)
	sw.set(errAway)
	p := planOf(t, store.Query{Type: counts})
	if err := b.Select(ctx, p, nil, store.NewGather(1<<30)); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "no route to host") {
		t.Errorf("nothing can be said: %v", err)
	}
	if err := b.Put(ctx, []store.Staged{stage(t, mem, 2)}); err != nil {
		t.Fatal(err)
	}
	g := store.NewGather(1 << 30)
	if err := b.Select(ctx, p, nil, g); err != nil {
		t.Fatal(err)
	}
	if r, ws := g.Result(p), b.Warnings(); r.Profiles != 1 || len(ws) != 1 || !strings.Contains(ws[0], idOf(1).String()) {
		t.Errorf("%d profiles, %q", r.Profiles, ws)
	}
	sw.set(nil)
	settled(t, b)
	c.turn(2 * missFor)
	if got, ws := present(t, b), b.Warnings(); fmt.Sprint(got) != "[1 2]" || ws != nil {
		t.Errorf("%v, %q", got, ws)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.Select(done, p, nil, store.NewGather(1<<30)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := b.Select(ctx, p, nil, store.NewGather(10)); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if ws := b.Warnings(); ws != nil {
		t.Errorf("neither says anything of the blocks: %q", ws)
	}
}

// TestBadCopy: a local copy that has gone bad is given up for the bucket's.
func TestBadCopy(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	b := openBlocks(t, &hooked{Bucket: folder(t, mem), url: "gs://far", before: newSwitch().before}, testOptions(mem))
	s := stage(t, mem, 1)
	if err := b.Put(ctx, []store.Staged{s}); err != nil {
		t.Fatal(err)
	}
	settled(t, b)
	flip(t, mem, filepath.Join(dataDir, localDir, s.Meta.ULID.String(), block.SamplesFile), 4)
	p := planOf(t, store.Query{Type: counts})
	for range 2 { // the first meets the damage
		if err := b.Select(ctx, p, nil, store.NewGather(1<<30)); err != nil && !errors.Is(err, store.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if got, st := present(t, b), b.Stats(); fmt.Sprint(got) != "[1]" || st.Damaged != 0 || st.LocalBytes != 0 {
		t.Errorf("%v, %+v", got, st)
	}
}

// TestUsage: bytes and profiles by service, type, day and class.
func TestUsage(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	sw := newSwitch()
	b := openBlocks(t, &hooked{Bucket: folder(t, mem), before: sw.before}, switched(mem, sw))
	one := stage(t, mem, 1)
	if err := b.Put(ctx, []store.Staged{one}); err != nil {
		t.Fatal(err)
	}
	settled(t, b)
	sw.set(errAway)
	if err := b.Put(ctx, []store.Staged{stage(t, mem, 2), stage(t, mem, 4)}); err != nil {
		t.Fatal(err)
	}
	us, err := b.Usage(ctx)
	if err != nil || len(us) != 6 {
		t.Fatalf("%+v, %v", us, err)
	}
	day := epoch.Truncate(24 * time.Hour)
	at := 0
	for _, of := range []struct {
		service string
		classes []string
	}{{"svc1", []string{"local", "standard"}}, {"svc2", []string{"local"}}} {
		for _, typ := range one.Meta.Types {
			for _, class := range of.classes {
				u := us[at]
				at++
				// Each profile has two types, with as many samples each.
				if u.Tenant != "t" || u.Service != of.service || u.Type != typ || u.Class != class || !u.Day.Equal(day) || u.Profiles != 0.5 || u.Bytes < 100 {
					t.Errorf("%+v, want half a profile of %s, %s, %s", u, of.service, typ, class)
				}
			}
		}
	}
}

// TestRecent: uploads of blocks made since.
func TestRecent(t *testing.T) {
	mem := vfs.NewMem()
	b := openBlocks(t, folder(t, mem), testOptions(mem))
	if err := b.Put(context.Background(), []store.Staged{stage(t, mem, 1), stage(t, mem, 2)}); err != nil {
		t.Fatal(err)
	}
	for since, want := range map[time.Time]int{epoch.Add(-time.Hour): 2, epoch.Add(time.Second): 0} {
		if ids, err := b.Recent(context.Background(), since); len(ids) != want || err != nil {
			t.Errorf("since %v: %v, %v", since, ids, err)
		}
	}
}
