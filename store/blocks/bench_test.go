package blocks

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
	"github.com/quantra-l/quantra/store/bucket"
)

// corpus is the CPU profiles of real programs.
func corpus(b *testing.B) (ps []*profile.Profile) {
	names, err := filepath.Glob("../../profile/testdata/corpus/*_cpu.pb.gz")
	if err != nil || len(names) < 5 {
		b.Fatalf("%d profiles, %v", len(names), err)
	}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		p, err := profile.Decode(bytes.NewReader(raw), profile.Limits{})
		if err != nil {
			b.Fatal(err)
		}
		ps = append(ps, p)
	}
	return ps
}

// fleet puts blocks of 20 services with 5 instances each, a profile a minute: per block as many minutes as
// each is long, from epoch for as long as span.
func fleet(b *testing.B, level block.Level, each, span time.Duration) *Blocks {
	b.Helper()
	ps := corpus(b)
	dir := b.TempDir()
	f := vfs.Default
	bk, err := bucket.Open(context.Background(), "file://"+filepath.ToSlash(dir)+"/bucket", bucket.Options{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { bk.Close() })
	bs := openBlocks(b, bk, Options{FS: f, Dir: filepath.Join(dir, "blocks"), Now: func() time.Time { return epoch }})
	id := 0
	for n, at := 1, time.Duration(0); at < span; n, at = n+1, at+each {
		var ups []*upload
		for m := time.Duration(0); m < each; m += time.Minute {
			for s := range 20 {
				for i := range 5 {
					id++
					from := epoch.Add(at + m + time.Duration(s)*time.Second)
					ups = append(ups, &upload{id: uint64(id), labels: labelsOf(profile.LabelService, fmt.Sprint("svc", s), profile.LabelInstance, fmt.Sprint("i", i)),
						from: from.UnixNano(), to: from.Add(10 * time.Second).UnixNano(), period: 10_000_000, p: ps[id%len(ps)]})
				}
			}
		}
		partition := epoch.Add(at).Truncate(time.Hour)
		if level == block.LevelDay {
			partition = epoch.Add(at).Truncate(24 * time.Hour)
		}
		st := writeBlockIn(b, f, filepath.Join(dir, "staged"), n, level, partition, ups)
		if err := bs.Put(context.Background(), []store.Staged{st}); err != nil {
			b.Fatal(err)
		}
	}
	settled(b, bs)
	return bs
}

// BenchmarkSelect is the flame graph's question: from blocks of a minute, as the last hour is before it
// is merged, and from a merged hour. Cold is with nothing decoded in memory.
func BenchmarkSelect(b *testing.B) {
	one := []store.Matcher{{Name: profile.LabelService, Op: store.MatchEqual, Value: "svc7"}}
	for _, c := range []struct {
		name  string
		level block.Level
		each  time.Duration
	}{{"minutes", block.LevelHead, 4 * time.Minute}, {"hour", block.LevelHour, time.Hour}} {
		bs := fleet(b, c.level, c.each, time.Hour)
		for _, q := range []struct {
			name     string
			matchers []store.Matcher
			span     time.Duration
		}{{"1service15m", one, 15 * time.Minute}, {"1service1h", one, time.Hour}, {"20services1h", nil, time.Hour}} {
			for _, cold := range []bool{false, true} {
				name := c.name + "/" + q.name
				if cold {
					name += "/cold"
				}
				b.Run(name, func(b *testing.B) {
					p := planOf(b, store.Query{Type: cpuTime, Matchers: q.matchers, From: epoch, To: epoch.Add(q.span)})
					for b.Loop() {
						if cold {
							for id := range bs.now.Load().all {
								bs.memory.forget(id)
							}
						}
						g := store.NewGather(1 << 30)
						if err := bs.Select(context.Background(), p, nil, g); err != nil {
							b.Fatal(err)
						}
						if g.Result(p).Profiles == 0 {
							b.Fatal("nothing")
						}
					}
				})
			}
		}
	}
}

// BenchmarkRollup is all functions of 20 services over two hours, from blocks of a quarter of an hour: with what they had to say kept
// in memory, and without.
func BenchmarkRollup(b *testing.B) {
	bs := fleet(b, block.LevelPart, 15*time.Minute, 2*time.Hour)
	q := store.RollupQuery{Query: store.Query{Type: cpuTime, From: epoch, To: epoch.Add(2 * time.Hour)}, Step: time.Minute, GroupBy: []string{profile.LabelService}, MinShare: 0.0001}
	p := planOf(b, q.Query)
	for _, cold := range []bool{false, true} {
		b.Run(fmt.Sprintf("cold=%v", cold), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if cold {
					for id := range bs.now.Load().all {
						bs.memory.forget(id)
					}
				}
				g := store.NewRollupGather(1<<30, p, q)
				if err := bs.Rollup(context.Background(), p, q, nil, g); err != nil {
					b.Fatal(err)
				}
				if r, err := g.Result(context.Background()); err != nil || len(r.Groups) != 20 {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpen is a start with a bucket of many blocks.
func BenchmarkOpen(b *testing.B) {
	const blocks = 1000
	mem := vfs.NewMem()
	bk := folder(b, mem)
	bs := openBlocks(b, bk, testOptions(mem))
	for n := range blocks {
		if err := bs.Put(context.Background(), []store.Staged{stage(b, mem, n+1)}); err != nil {
			b.Fatal(err)
		}
	}
	settled(b, bs)
	bs.Close()
	for b.Loop() {
		bs, err := Open(context.Background(), bk, testOptions(mem))
		if err != nil || bs.Stats().Asked != blocks {
			b.Fatal(bs.Stats(), err)
		}
		bs.Close()
	}
}
