package profile

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grafana/pyroscope-go/godeltaprof"
)

var codecMakeCorpus = flag.Bool("make-corpus", false, "profile real work and write testdata/corpus anew")

// codecWork is the programs whose profiles are the corpus. Each call is some milliseconds of work.
var codecWork = []struct {
	name string
	do   func(i int)
}{
	{"json", func(i int) {
		var v any
		b, _ := json.Marshal(map[string]any{"id": i, "tags": strings.Split(strings.Repeat("a,b,", 500), ",")})
		if err := json.Unmarshal(b, &v); err != nil {
			panic(err)
		}
	}},
	{"hash", func(i int) {
		b := bytes.Repeat([]byte{byte(i)}, 1<<20)
		sha256.Sum256(b)
	}},
	{"deflate", func(i int) {
		w, _ := flate.NewWriter(io.Discard, 6)
		for j := range 2000 {
			fmt.Fprintf(w, "line %d of %d\n", j, i)
		}
		w.Close()
	}},
	{"cache", func(i int) {
		m := map[string]int{}
		for j := range 5000 {
			m[fmt.Sprint("key", (i*j)%3001)]++
		}
	}},
	{"sort", func(i int) {
		s := make([]string, 5000)
		for j := range s {
			s[j] = fmt.Sprint((j * 7919 * (i + 1)) % 10007)
		}
		slices.SortFunc(s, strings.Compare)
	}},
	{"regexp", func(i int) {
		regexp.MustCompile(`(a+)(b|c)*d?[x-z]{2,5}`).FindAllString(strings.Repeat("aabcbcdxyz ", 2000), -1)
		codecRecurse(i%40, func() { _ = make([]byte, 4096) })
	}},
}

// codecRecurse makes deep and recursive stacks.
func codecRecurse(n int, f func()) {
	if n > 0 {
		codecRecurse(n-1, f)
	}
	f()
}

// codecLoad does the work in labelled goroutines that meet at a lock and at a channel.
func codecLoad(name string, do func(int)) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	done := make(chan int)
	for g := range 4 {
		wg.Go(func() {
			pprof.Do(context.Background(), pprof.Labels("work", name, "worker", fmt.Sprint(g)), func(context.Context) {
				for i := range 40 {
					do(i)
					mu.Lock()
					do(i)
					mu.Unlock()
					done <- i
				}
			})
		})
	}
	go func() { wg.Wait(); close(done) }()
	for range done {
	}
}

// TestMakeCorpus writes testdata/corpus: `go test ./profile -run TestMakeCorpus -make-corpus`.
func TestMakeCorpus(t *testing.T) {
	if !*codecMakeCorpus {
		t.Skip("the corpus is committed; -make-corpus makes it anew")
	}
	dir := filepath.Join("testdata", "corpus")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	write := func(name string, f func(w io.Writer) error) {
		var b bytes.Buffer
		if err := f(&b); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".pb.gz"), b.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	runtime.MemProfileRate = 4096
	runtime.SetBlockProfileRate(1)
	runtime.SetMutexProfileFraction(1)
	heap, block, mutex := godeltaprof.NewHeapProfiler(), godeltaprof.NewBlockProfiler(), godeltaprof.NewMutexProfiler()
	for _, w := range codecWork {
		write(w.name+"_cpu", func(out io.Writer) error {
			if err := pprof.StartCPUProfile(out); err != nil {
				return err
			}
			for began := time.Now(); time.Since(began) < time.Second; {
				codecLoad(w.name, w.do)
			}
			pprof.StopCPUProfile()
			return nil
		})
		stop := make(chan bool)
		for range 3 {
			go pprof.Do(context.Background(), pprof.Labels("waits", w.name), func(context.Context) { codecRecurse(5, func() { <-stop }) })
		}
		for _, kind := range []string{"heap", "allocs", "goroutine", "block", "mutex", "threadcreate"} {
			write(w.name+"_"+kind, func(out io.Writer) error { return pprof.Lookup(kind).WriteTo(out, 0) })
		}
		close(stop)
		write(w.name+"_delta_heap", heap.Profile)
		write(w.name+"_delta_block", block.Profile)
		write(w.name+"_delta_mutex", mutex.Profile)
	}
}

// codecCorpus is the bytes of every profile in the corpus, by name.
func codecCorpus(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/corpus/*.pb.gz")
	if err != nil || len(files) < 40 {
		t.Fatalf("the corpus has %d profiles, want at least 40 (%v)", len(files), err)
	}
	corpus := map[string][]byte{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		corpus[strings.TrimSuffix(filepath.Base(f), ".pb.gz")] = b
	}
	return corpus
}
