package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/storetest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("QUANTRA_STORE_CHILD"); dir != "" {
		child(dir, os.Getenv("QUANTRA_STORE_ROUND"))
	}
	goleak.VerifyTestMain(m)
}

// ofWorker is upload n of a worker in a round.
func ofWorker(round, worker, n int) store.Upload {
	b := profile.NewBuilder(storetest.Kinds["process_cpu"]...)
	f := b.Function(profile.Function{Name: b.String(fmt.Sprint("work", n%50))})
	b.Add(b.Stack(0, b.Location(profile.Location{}, profile.Line{Function: f, Line: int64(worker)})), 0, 1, int64(n+1))
	p := b.Profile()
	p.PeriodType = storetest.Kinds["process_cpu"][1]
	labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: "child"},
		profile.Label{Name: profile.LabelInstance, Value: fmt.Sprint(round, "-", worker)})
	if err != nil {
		panic(err)
	}
	from := epoch.Add(time.Duration(n) * time.Second)
	return store.Upload{Labels: labels, From: from, To: from.Add(time.Second), Profile: p, Pprof: p.AppendPprof(nil)}
}

// child appends from many goroutines until it is killed, and prints what was acknowledged.
func child(dir, round string) {
	r, err := strconv.Atoi(round)
	if err == nil {
		var db *store.DB
		db, err = store.Open(context.Background(), dir, store.Options{Now: func() time.Time { return epoch }, SegmentBytes: 50_000})
		for w := range 8 {
			go func() {
				for n := 0; ; n++ {
					if err := db.Append(context.Background(), ofWorker(r, w, n)); err != nil {
						fmt.Fprintln(os.Stderr, err)
						os.Exit(3)
					}
					fmt.Println(w, n) // one write: a line is whole or not there
				}
			}()
		}
		if err == nil {
			select {}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(2)
}

// TestKill kills a real process with SIGKILL under load, again and again. QUANTRA_STORE_KILLS
// sets how often.
func TestKill(t *testing.T) {
	rounds := 5
	if s := os.Getenv("QUANTRA_STORE_KILLS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	acked := map[string]map[int]bool{}
	total := 0
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "QUANTRA_STORE_CHILD="+dir, "QUANTRA_STORE_ROUND="+fmt.Sprint(round))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, killed := bufio.NewScanner(out), false
		for seen := 0; lines.Scan(); {
			var w, n int
			if _, err := fmt.Sscan(lines.Text(), &w, &n); err != nil {
				continue
			}
			k := fmt.Sprint(round, "-", w)
			if acked[k] == nil {
				acked[k] = map[int]bool{}
			}
			acked[k][n] = true
			if seen++; seen >= 100+37*(round%20) && !killed {
				killed = true
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			total++
		}
		cmd.Wait()
		if !killed {
			t.Fatalf("round %d: the child ended by itself", round)
		}
		db, err := store.Open(context.Background(), dir, store.Options{Now: func() time.Time { return epoch }})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		r, err := db.Series(context.Background(), store.SeriesQuery{Query: store.Query{Type: cpu}, Step: time.Second, GroupBy: []string{profile.LabelInstance}})
		if err != nil {
			t.Fatal(err)
		}
		missing := 0
		for _, ns := range acked {
			missing += len(ns)
		}
		for _, l := range r.Lines {
			for _, p := range l.Points {
				n := int(p.Time.Sub(epoch) / time.Second)
				if p.Profiles != 1 || p.Value != int64(n+1) {
					t.Fatalf("round %d: %v %d is there %d times, with %d", round, l.Labels, n, p.Profiles, p.Value)
				}
				if acked[l.Labels.Get(profile.LabelInstance)][n] {
					missing--
				}
			}
		}
		if missing != 0 {
			t.Fatalf("round %d: %d of %d acknowledged uploads are gone", round, missing, total)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills, %d acknowledged uploads, all there", rounds, total)
}

// TestTogether appends, asks and drops all at once; it is for -race, and for the sum.
func TestTogether(t *testing.T) {
	mem := vfs.NewMem()
	db := openMem(t, mem, store.Options{Now: func() time.Time { return epoch }, SegmentBytes: 5000, MaxBytes: -1})
	ctx := context.Background()
	var writers, readers sync.WaitGroup
	var stop atomic.Bool
	const workers, each = 8, 50
	for w := range workers {
		writers.Go(func() {
			for n := range each {
				for range 2 { // the second is a client that lost the answer
					if err := db.Append(ctx, ofWorker(0, w, n)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for range 3 {
		readers.Go(func() {
			last := 0
			for !stop.Load() {
				r, err := db.Select(ctx, store.Query{Type: cpu})
				if err != nil || r.Profiles < last {
					t.Errorf("%d profiles after %d: %v", r.Profiles, last, err)
					return
				}
				last = r.Profiles
				if _, err := db.Services(ctx, store.Query{}); err != nil {
					t.Error(err)
				}
				db.Stats()
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	readers.Wait()
	r, err := db.Select(ctx, store.Query{Type: cpu})
	if err != nil || r.Profiles != workers*each || r.Profile.Total(0) != workers*each*(each+1)/2 {
		t.Errorf("%d profiles, total %d, %v", r.Profiles, r.Profile.Total(0), err)
	}
	if st := db.Stats(); st.Duplicates != workers*each || st.Appended != workers*each || st.InFlightBytes != 0 {
		t.Errorf("%+v", st)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if err := db.Append(ctx, ofWorker(0, 0, 0)); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("append after close: %v", err)
	}
	if _, err := db.Select(ctx, store.Query{Type: cpu}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("select after close: %v", err)
	}
}

// TestStuckDisk: while a sync hangs, uploads wait up to the bound, more are turned
// away, a caller may leave, and health turns red by the clock. Then all go with one sync.
func TestStuckDisk(t *testing.T) {
	hang, entered := make(chan struct{}), make(chan struct{}, 100)
	var on atomic.Bool
	var clock atomic.Int64
	fs := vfs.Hook(vfs.NewMem(), func(op vfs.Op) error {
		if op.Kind == "sync" && on.Load() {
			entered <- struct{}{}
			<-hang
		}
		return nil
	})
	db := openMem(t, fs, store.Options{Now: func() time.Time { return epoch.Add(time.Duration(clock.Load())) }, MaxInFlight: 4000})
	ctx := context.Background()
	if err := db.Append(ctx, ofWorker(0, 0, 0)); err != nil {
		t.Fatal(err)
	}
	before := db.Stats().Syncs
	on.Store(true)
	results := make(chan error, 200)
	var wg sync.WaitGroup
	send := func(n int) { wg.Go(func() { results <- db.Append(ctx, ofWorker(0, 1, n)) }) }
	send(0)
	<-entered
	for n := 1; n < 100; n++ {
		send(n)
	}
	over := 0
	for db.Stats().InFlightBytes < 3000 || over < 5 {
		if err := <-results; !errors.Is(err, store.ErrOverloaded) {
			t.Fatal(err)
		}
		over++
	}
	left, cancel := context.WithCancel(ctx)
	cancel()
	if err := db.Append(left, ofWorker(0, 2, 0)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if r, err := db.Select(ctx, store.Query{Type: cpu}); err != nil || r.Profiles != 1 {
		t.Errorf("questions are answered meanwhile: %v", err)
	}
	if err := db.Healthy(); err != nil {
		t.Errorf("not stuck yet: %v", err)
	}
	clock.Store(int64(31 * time.Second))
	if err := db.Healthy(); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "wait") {
		t.Errorf("stuck: %v", err)
	}
	on.Store(false)
	close(hang)
	wg.Wait()
	close(results)
	ok := 0
	for err := range results {
		if err == nil {
			ok++
		} else if !errors.Is(err, store.ErrOverloaded) {
			t.Error(err)
		} else {
			over++
		}
	}
	if ok < 5 || over < 5 || ok+over != 100 {
		t.Errorf("%d acknowledged, %d turned away", ok, over)
	}
	if n := db.Stats().Syncs - before; n >= int64(ok) {
		t.Errorf("%d uploads took %d syncs: none were shared", ok, n)
	}
	if err := db.Healthy(); err != nil {
		t.Errorf("after: %v", err)
	}
	db.Close()
}

// TestFullDisk: nothing is acknowledged while the disk is full, no files pile up, questions are
// answered, and it recovers by itself.
func TestFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	var full atomic.Bool
	fs := vfs.Hook(mem, vfs.FullDisk(&full))
	var log strings.Builder
	db := openMem(t, fs, store.Options{Now: func() time.Time { return epoch }, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	fill(t, db, 0, 5)
	full.Store(true)
	for i := range 20 {
		if err := db.Append(context.Background(), numbered(t, 10+i)); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "full") {
			t.Fatal(err)
		}
	}
	db.Tend()
	if got := present(t, db); len(got) != 5 || db.Healthy() == nil {
		t.Errorf("%d uploads, healthy: %v", len(got), db.Healthy())
	}
	if names, err := mem.List(dataDir + "/log"); len(names) != 1 || err != nil {
		t.Errorf("files: %q, %v", names, err)
	}
	full.Store(false)
	db.Tend()
	if err := db.Healthy(); err != nil {
		t.Errorf("there is space again: %v", err)
	}
	fill(t, db, 10, 30)
	if got := present(t, db); len(got) != 25 {
		t.Errorf("%d uploads", len(got))
	}
	db.Close()
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
	db = openMem(t, mem, store.Options{Now: func() time.Time { return epoch }})
	defer db.Close()
	if got := present(t, db); len(got) != 25 {
		t.Errorf("%d uploads after a restart", len(got))
	}
}

func TestRetention(t *testing.T) {
	var clock atomic.Int64
	mem := vfs.NewMem()
	opt := store.Options{Now: func() time.Time { return epoch.Add(time.Duration(clock.Load())) }, Retention: 6 * time.Hour, SegmentBytes: 1200}
	db := openMem(t, mem, opt)
	fill(t, db, 0, 10)
	clock.Store(int64(2 * time.Hour))
	db.Tend() // the segment is older than Retention/24: a new one starts
	fill(t, db, 1500, 1510)
	if got := present(t, db); len(got) != 20 {
		t.Fatalf("%d uploads", len(got))
	}
	clock.Store(int64(7 * time.Hour))
	db.Tend()
	if got := present(t, db); len(got) != 10 || got[0] {
		t.Errorf("%d uploads are left: %v", len(got), got)
	}
	if st := db.Stats(); st.DroppedProfiles != 10 || st.Series != 3 {
		t.Errorf("%+v", st)
	}
	if err := db.Append(context.Background(), numbered(t, 0)); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("older than the retention: %v", err)
	}
	db.Close()
	clock.Store(int64(24 * time.Hour))
	db = openMem(t, mem, opt)
	defer db.Close()
	if got := present(t, db); len(got) != 0 {
		t.Errorf("%d uploads a day later", len(got))
	}
}

func TestMemoryBound(t *testing.T) {
	mem := vfs.NewMem()
	opt := store.Options{Now: func() time.Time { return epoch }, MaxHeadBytes: 200_000}
	db := openMem(t, mem, opt)
	for i := range 2000 {
		if err := db.Append(context.Background(), upload(t, fmt.Sprint("s", i%50), epoch.Add(time.Duration(i)*time.Second), int64(i+1))); err != nil {
			t.Fatal(err)
		}
	}
	db.Tend()
	st := db.Stats()
	if st.HeadBytes > opt.MaxHeadBytes || st.Profiles < 100 || st.DroppedSegments == 0 {
		t.Errorf("%+v", st)
	}
	db.Close()
	db = openMem(t, mem, opt)
	defer db.Close()
	if again := db.Stats(); again.HeadBytes > opt.MaxHeadBytes || again.Profiles < 100 {
		t.Errorf("after a restart %+v", again)
	}
}

func TestLimits(t *testing.T) {
	db := openMem(t, vfs.NewMem(), store.Options{Now: func() time.Time { return epoch }, MaxSeries: 3, MaxTenants: 2, MaxInFlight: 1 << 20})
	defer db.Close()
	ctx := context.Background()
	good := func() store.Upload { return numbered(t, 0) }
	for i, c := range []struct {
		change func(*store.Upload)
		want   error
		text   string
	}{
		{func(u *store.Upload) {}, nil, ""},
		{func(u *store.Upload) { u.Profile = nil }, store.ErrInvalid, "no profile"},
		{func(u *store.Upload) { u.Pprof = nil }, store.ErrInvalid, "no profile"},
		{func(u *store.Upload) { u.Pprof = make([]byte, 2<<20) }, store.ErrInvalid, "the limit is 1048576"},
		{func(u *store.Upload) { u.Labels = nil }, store.ErrInvalid, "service_name is missing"},
		{func(u *store.Upload) {
			u.Labels = profile.Labels{{Name: profile.LabelService, Value: "x"}, {Name: "__profile_type__", Value: "x"}}
		}, store.ErrInvalid, "reserved"},
		{func(u *store.Upload) { u.To = u.From }, store.ErrInvalid, "end must be after its start"},
		{func(u *store.Upload) { u.From = time.Time{} }, store.ErrInvalid, "1678"},
		{func(u *store.Upload) { u.Name = "a:b" }, store.ErrInvalid, "profile name"},
		{func(u *store.Upload) { u.Tenant = strings.Repeat("x", 1000) }, store.ErrInvalid, "tenant"},
		{func(u *store.Upload) { u.Profile.SampleStack[0] = 99 }, store.ErrInvalid, "profile"},
		{func(u *store.Upload) { u.Name = "b" }, nil, ""},
		{func(u *store.Upload) { u.Name = "c" }, nil, ""},
		{func(u *store.Upload) { u.Name = "d" }, store.ErrOverloaded, "the limit is 3"},
		{func(u *store.Upload) { u.Tenant = "two" }, nil, ""},
		{func(u *store.Upload) { u.Tenant = "three" }, store.ErrOverloaded, "tenants, the limit is 2"},
	} {
		u := good()
		c.change(&u)
		err := db.Append(ctx, u)
		if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%d: got %v, want %v with %q", i, err, c.want, c.text)
		}
	}
	if _, err := store.Open(ctx, t.TempDir()+"\x00", store.Options{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a folder that cannot be: %v", err)
	}
	dir := t.TempDir()
	one, err := store.Open(ctx, dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(ctx, dir, store.Options{}); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second open: %v", err)
	}
	one.Close()
}

// TestSameAgain: a segment that is there twice, as a failed write may leave it, counts once.
func TestSameAgain(t *testing.T) {
	segments, names := threeSegments(t)
	segments["00000009.qlog"] = segments[names[0]]
	mem := disk(t, segments)
	db := openMem(t, mem, options(mem, -1))
	defer db.Close()
	if got, r := present(t, db), db.Stats().Recovered; len(got) != 10 || r.Duplicates != 4 {
		t.Errorf("%d uploads, %+v", len(got), r)
	}
	fill(t, db, 0, 10)
	if st := db.Stats(); st.Duplicates != 10 || st.Profiles != 10 {
		t.Errorf("sent again: %+v", st)
	}
}

func TestAnswers(t *testing.T) {
	ctx := context.Background()
	db := openMem(t, vfs.NewMem(), store.Options{Now: func() time.Time { return epoch }})
	defer db.Close()
	fill(t, db, 0, 6)
	services, err := db.Services(ctx, store.Query{})
	if err != nil || len(services) != 3 || services[1].Name != "svc1" || services[1].Profiles != 2 || len(services[1].Types) != 2 ||
		!services[1].Last.Equal(services[1].First.Add(40*time.Second)) {
		t.Errorf("%+v, %v", services, err)
	}
	types, err := db.ProfileTypes(ctx, store.Query{})
	if err != nil || fmt.Sprint(types) != "[process_cpu:cpu:nanoseconds:cpu:nanoseconds process_cpu:samples:count:cpu:nanoseconds]" {
		t.Errorf("%v, %v", types, err)
	}
	names, err := db.LabelNames(ctx, store.Query{})
	if err != nil || fmt.Sprint(names) != "[__profile_type__ service_name]" {
		t.Errorf("%v, %v", names, err)
	}
	none, err := db.Select(ctx, store.Query{Type: cpu, Tenant: "nobody"})
	if err != nil || none.Profiles != 0 || none.Profile.NumSamples() != 0 || none.Profile.Check() != nil {
		t.Errorf("%+v, %v", none, err)
	}
	if r, err := db.Select(ctx, store.Query{Type: cpu}); err != nil || r.Profile.Period != 10_000_000 || r.Profile.DurationNanos != int64(60*time.Second) || len(r.Warnings) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, err := range []error{
		second(db.Select(ctx, store.Query{})),
		second(db.Select(ctx, store.Query{Type: cpu, Matchers: []store.Matcher{{Name: "a", Op: store.MatchRegexp, Value: "("}}})),
		second(db.Series(ctx, store.SeriesQuery{Query: store.Query{Type: cpu}, Step: time.Millisecond})),
		second(db.LabelValues(ctx, "a b", store.Query{})),
	} {
		if !errors.Is(err, store.ErrInvalid) {
			t.Errorf("got %v", err)
		}
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := db.Select(done, store.Query{Type: cpu}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }
