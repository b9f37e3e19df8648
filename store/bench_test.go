package store_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// corpusCPU is the real CPU profiles that the codec's tests have.
func corpusCPU(b *testing.B) []*profile.Profile {
	b.Helper()
	paths, err := filepath.Glob("../profile/testdata/corpus/*cpu*.pb.gz")
	if err != nil || len(paths) == 0 {
		b.Fatalf("no CPU profiles in profile/testdata/corpus: %v", err)
	}
	var ps []*profile.Profile
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		p, err := profile.DecodeBytes(raw, profile.Limits{})
		if err != nil {
			b.Fatalf("%s: %v", path, err)
		}
		if p.Column("cpu") >= 0 && p.NumSamples() > 20 {
			ps = append(ps, p)
		}
	}
	if len(ps) == 0 {
		b.Fatal("no CPU profile of more than 20 samples")
	}
	return ps
}

// perturbed is p with other values, as the next window of the same program would have.
func perturbed(b *testing.B, p *profile.Profile, rng *rand.Rand) *profile.Profile {
	q := *p
	q.Values = make([][]int64, len(p.Values))
	for t, values := range p.Values {
		q.Values[t] = make([]int64, len(values))
		for i, v := range values {
			q.Values[t][i] = v * int64(rng.IntN(4))
		}
	}
	return &q
}

func encode(b *testing.B, p *profile.Profile) []byte {
	b.Helper()
	var buf bytes.Buffer
	if err := p.Encode(&buf); err != nil {
		b.Fatal(err)
	}
	return buf.Bytes()
}

func benchUpload(b *testing.B, p *profile.Profile, raw []byte, service, pod int, from time.Time) store.Upload {
	labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: fmt.Sprint("service-", service)},
		profile.Label{Name: profile.LabelInstance, Value: fmt.Sprint("pod-", pod)})
	if err != nil {
		b.Fatal(err)
	}
	return store.Upload{Name: "process_cpu", Labels: labels, From: from, To: from.Add(10 * time.Second), Profile: p, Pprof: raw}
}

// BenchmarkAppend is durable appends of real profiles to a real disk.
func BenchmarkAppend(b *testing.B) {
	ps := corpusCPU(b)
	raws := make([][]byte, len(ps))
	for i, p := range ps {
		raws[i] = encode(b, p)
	}
	for _, workers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("appenders=%d", workers), func(b *testing.B) {
			db, err := store.Open(context.Background(), b.TempDir(), store.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			start := time.Now()
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for w := range workers {
				wg.Go(func() {
					for n := w; n < b.N; n += workers {
						k := n % len(ps)
						if err := db.Append(context.Background(), benchUpload(b, ps[k], raws[k], k, w, start.Add(time.Duration(n)))); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			st := db.Stats()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "profiles/s")
			b.ReportMetric(float64(st.Syncs)/float64(b.N), "syncs/op")
			b.ReportMetric(float64(st.HeadBytes)/float64(max(1, st.Profiles)), "headB/profile")
		})
	}
}

// fleet fills a store with an hour of 20 services of 5 pods each, a profile a minute.
func fleet(b *testing.B, dir string) (*store.DB, time.Time) {
	b.Helper()
	ps := corpusCPU(b)
	db, err := store.Open(context.Background(), dir, store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now().Truncate(time.Minute).Add(-time.Hour)
	var wg sync.WaitGroup
	for service := range 20 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(service), 1))
			for minute := range 60 {
				for pod := range 5 {
					p := perturbed(b, ps[service%len(ps)], rng)
					if err := db.Append(context.Background(), benchUpload(b, p, encode(b, p), service, pod, start.Add(time.Duration(minute)*time.Minute))); err != nil {
						b.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	return db, start
}

func BenchmarkSelect(b *testing.B) {
	db, start := fleet(b, b.TempDir())
	defer db.Close()
	one := []store.Matcher{{Name: profile.LabelService, Value: "service-3"}}
	for _, c := range []struct {
		name string
		q    store.Query
		want int
	}{
		{"1 service, 15 min", store.Query{Matchers: one, From: start, To: start.Add(15 * time.Minute)}, 75},
		{"1 service, 1 h", store.Query{Matchers: one}, 300},
		{"20 services, 1 h", store.Query{}, 6000},
	} {
		c.q.Type = cpu
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			samples := 0
			for b.Loop() {
				r, err := db.Select(context.Background(), c.q)
				if err != nil || r.Profiles != c.want {
					b.Fatalf("%d profiles, want %d: %v", r.Profiles, c.want, err)
				}
				samples = r.Profile.NumSamples()
			}
			b.ReportMetric(float64(c.want), "profiles/op")
			b.ReportMetric(float64(samples), "samples")
		})
	}
	b.Run("series of 20 services, 1 h", func(b *testing.B) {
		for b.Loop() {
			if _, err := db.Series(context.Background(), store.SeriesQuery{Query: store.Query{Type: cpu}, Step: time.Minute, GroupBy: []string{profile.LabelService}}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkReplay is a start on the fleet's hour.
func BenchmarkReplay(b *testing.B) {
	dir := b.TempDir()
	db, _ := fleet(b, dir)
	st := db.Stats()
	db.Close()
	b.SetBytes(st.LogBytes)
	b.ReportAllocs()
	for b.Loop() {
		db, err := store.Open(context.Background(), dir, store.Options{})
		if err != nil || db.Stats().Profiles != st.Profiles {
			b.Fatal(err)
		}
		db.Close()
	}
	b.ReportMetric(float64(st.Profiles)*float64(b.N)/b.Elapsed().Seconds(), "profiles/s")
}
