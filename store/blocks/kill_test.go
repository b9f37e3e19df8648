package blocks

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/bucket"
	"github.com/quantra-l/quantra/store/storetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("QUANTRA_BLOCKS_CHILD"); dir != "" {
		err := killed(dir, os.Getenv("QUANTRA_BLOCKS_ROUND"))
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	goleak.VerifyTestMain(m)
}

// ofWorker is upload n of a worker in a round: one sample, of n+1, in second n of a series of its own.
func ofWorker(round string, worker, n int) store.Upload {
	b := profile.NewBuilder(storetest.Kinds["process_cpu"]...)
	f := b.Function(profile.Function{Name: b.String(fmt.Sprint("work", n%50))})
	b.Add(b.Stack(0, b.Location(profile.Location{}, profile.Line{Function: f, Line: int64(worker)})), 0, 1, int64(n+1))
	p := b.Profile()
	p.PeriodType = storetest.Kinds["process_cpu"][1]
	// Over three hours, so that there are partitions.
	from := storetest.Epoch.Add(time.Duration(n)*time.Second - time.Duration(worker%3)*time.Hour)
	return store.Upload{Labels: labelsOf(profile.LabelService, "child", profile.LabelInstance, fmt.Sprint(round, "-", worker)), From: from, To: from.Add(time.Second), Profile: p, Pprof: p.AppendPprof(nil)}
}

// openAll opens a store on blocks, which hands over, merges and deletes as fast as it can.
func openAll(dir string) (*store.DB, *Blocks, bucket.Bucket, error) {
	ctx := context.Background()
	bk, err := bucket.Open(ctx, "file://"+filepath.ToSlash(dir)+"/bucket", bucket.Options{Create: true})
	if err != nil {
		return nil, nil, nil, err
	}
	b, err := Open(ctx, bk, Options{Dir: filepath.Join(dir, "blocks"), Region: "local",
		Now:       func() time.Time { return storetest.Epoch.Add(3 * time.Hour) }, // all hours are over
		Compact:   CompactOptions{Every: 20 * time.Millisecond, FanIn: 3},
		Retention: RetentionOptions{Keep: -1, Grace: 1}})
	if err != nil {
		return nil, nil, nil, errors.Join(err, bk.Close())
	}
	db, err := store.Open(ctx, dir, store.Options{Now: func() time.Time { return storetest.Epoch }, SegmentBytes: 50_000,
		Backend: b, Region: "local", FlushEvery: 10 * time.Millisecond})
	if err != nil {
		return nil, nil, nil, errors.Join(err, b.Close(), bk.Close())
	}
	return db, b, bk, nil
}

// killed appends from many goroutines until it is killed, and prints what was acknowledged.
func killed(dir, round string) error {
	db, b, _, err := openAll(dir)
	if err != nil {
		return err
	}
	failed := make(chan error)
	for w := range 8 {
		go func() {
			for n := 0; ; n++ {
				if err := db.Append(context.Background(), ofWorker(round, w, n)); err != nil {
					failed <- err
					return
				}
				fmt.Println(w, n, b.Stats().Compactions) // one write: a line is whole or not there
			}
		}()
	}
	return <-failed
}

// TestKill kills a real process with SIGKILL while it takes uploads in, hands them over, merges and deletes; what it
// acknowledged is there once each time, and at the end the data folder and the bucket check clean. QUANTRA_STORE_KILLS sets how often.
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
	merges, total := 0, 0
	for round := range rounds {
		n, m := killOne(t, dir, round, acked)
		total += n
		merges += m
		db, _, bk, err := openAll(dir)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		allThere(t, fmt.Sprint("round ", round), db, acked)
		if err := errors.Join(db.Close(), bk.Close()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	if merges == 0 {
		t.Error("nothing was merged: nothing was proven of it")
	}
	checkClean(t, dir)
	t.Logf("%d kills, %d acknowledged uploads, all there once; %d merges", rounds, total, merges)
}

// killOne runs one life of the child and notes what it acknowledged.
func killOne(t *testing.T, dir string, round int, acked map[string]map[int]bool) (seen, merges int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "QUANTRA_BLOCKS_CHILD="+dir, "QUANTRA_BLOCKS_ROUND="+fmt.Sprint(round))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dead := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var w, n, m int
		if _, err := fmt.Sscan(lines.Text(), &w, &n, &m); err != nil {
			continue
		}
		merges = max(merges, m)
		k := fmt.Sprint(round, "-", w)
		if acked[k] == nil {
			acked[k] = map[int]bool{}
		}
		acked[k][n] = true
		if seen++; seen >= 200+131*(round%20) && !dead {
			dead = true
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd.Wait()
	if !dead {
		t.Fatalf("round %d: the child ended by itself", round)
	}
	return seen, merges
}

// allThere asks for each upload by itself: it is there once, and as it was.
func allThere(t *testing.T, what string, db *store.DB, acked map[string]map[int]bool) {
	t.Helper()
	cpu := storetest.Kinds["process_cpu"][1]
	r, err := db.Series(context.Background(), store.SeriesQuery{Query: store.Query{Type: profile.Type{Name: "process_cpu", Sample: cpu, Period: cpu}},
		Step: time.Second, GroupBy: []string{profile.LabelInstance}})
	if err != nil || len(r.Warnings) > 0 {
		t.Fatalf("%s: %v %q", what, err, r.Warnings)
	}
	missing := 0
	for _, ns := range acked {
		missing += len(ns)
	}
	for _, l := range r.Lines {
		var round, worker int
		instance := l.Labels.Get(profile.LabelInstance)
		if _, err := fmt.Sscanf(instance, "%d-%d", &round, &worker); err != nil {
			t.Fatal(err)
		}
		first := storetest.Epoch.Add(-time.Duration(worker%3) * time.Hour)
		for _, p := range l.Points {
			n := int(p.Time.Sub(first) / time.Second)
			if p.Profiles != 1 || p.Value != int64(n+1) {
				t.Fatalf("%s: upload %d of %s is there %d times, with %d", what, n, instance, p.Profiles, p.Value)
			}
			if acked[instance][n] {
				missing--
			}
		}
	}
	if missing != 0 {
		t.Fatalf("%s: %d acknowledged uploads are gone", what, missing)
	}
}

// checkClean is fsck of all that is on disk.
func checkClean(t *testing.T, dir string) {
	t.Helper()
	ctx := context.Background()
	err := store.CheckDir(ctx, vfs.Default, dir, nil, func(p store.Problem) {
		if p.Damage {
			t.Errorf("%s: %s", p.Path, p.What)
		}
	})
	if err != nil {
		t.Error(err)
	}
	bk, err := bucket.Open(ctx, "file://"+filepath.ToSlash(dir)+"/bucket", bucket.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer bk.Close()
	report, err := Fsck(ctx, bk, FsckOptions{Region: "local", Dir: filepath.Join(dir, "blocks")})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		if f.IsDamage() {
			t.Errorf("%+v", f)
		}
	}
}
