package store_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/storetest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func openMem(t testing.TB, fs vfs.FS, opt store.Options) *store.DB {
	t.Helper()
	opt.FS = fs
	db, err := store.Open(context.Background(), dataDir, opt)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func fill(t testing.TB, db *store.DB, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := db.Append(context.Background(), numbered(t, i)); err != nil {
			t.Fatal(err)
		}
	}
}

func slurp(t testing.TB, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return b
}

// disk is a file system with these segments.
func disk(t testing.TB, segments map[string][]byte) *vfs.Mem {
	t.Helper()
	m := vfs.NewMem()
	if err := m.MkdirAll(dataDir + "/log"); err != nil {
		t.Fatal(err)
	}
	for name, b := range segments {
		f, err := m.Create(dataDir + "/log/" + name)
		if err != nil {
			t.Fatal(err)
		}
		f.Write(b)
		f.Close()
	}
	return m
}

// threeSegments is a log of ten uploads.
func threeSegments(t testing.TB) (segments map[string][]byte, names []string) {
	t.Helper()
	mem := vfs.NewMem()
	db := openMem(t, mem, options(mem, -1))
	fill(t, db, 0, 10)
	db.Close()
	names, err := mem.List(dataDir + "/log")
	if err != nil || len(names) < 3 {
		t.Fatalf("want three segments: %q, %v", names, err)
	}
	segments = map[string][]byte{}
	for _, n := range names {
		segments[n] = slurp(t, mem, dataDir+"/log/"+n)
	}
	return segments, names
}

// TestDamage changes each byte of each segment. The store starts, serves nothing that
// was not written, loses one upload at most, says so, and leaves the segment as it is.
func TestDamage(t *testing.T) {
	segments, names := threeSegments(t)
	tested := 0
	for _, name := range names {
		good := segments[name]
		for at := range good {
			bad := bytes.Clone(good)
			bad[at] ^= 1 << (at % 8)
			segments[name] = bad
			mem := disk(t, segments)
			db := openMem(t, mem, options(mem, -1))
			got, r := present(t, db), db.Stats().Recovered
			switch {
			case len(got) < 9:
				t.Fatalf("%s byte %d: %d of 10 are left", name, at, len(got))
			case at < 32 && len(got) != 10:
				t.Fatalf("%s byte %d: only the header is damaged, %d of 10 are left", name, at, len(got))
			case at >= 32 && len(got) != 9:
				t.Fatalf("%s byte %d: damage was not seen", name, at)
			case at >= 32 && r.Skipped+r.Torn == 0:
				t.Fatalf("%s byte %d: not said: %+v", name, at, r)
			}
			last := name == names[len(names)-1]
			if !last && (r.Torn != 0 || !bytes.Equal(slurp(t, mem, dataDir+"/log/"+name), bad)) {
				t.Fatalf("%s byte %d: a segment that is not the last was changed", name, at)
			}
			if r.Skipped > 0 {
				res, err := db.Select(context.Background(), store.Query{Type: cpu})
				if err != nil || len(res.Warnings) == 0 {
					t.Fatalf("%s byte %d: an answer over a damaged log warns: %v, %v", name, at, res.Warnings, err)
				}
			}
			fill(t, db, 100, 101)
			db.Close()
			tested++
		}
		segments[name] = good
	}
	if tested < 1500 {
		t.Fatalf("%d bytes tested", tested)
	}
}

// TestTornTail cuts the last segment at each length, and puts zeros or noise after.
func TestTornTail(t *testing.T) {
	segments, names := threeSegments(t)
	last := names[len(names)-1]
	good := segments[last]
	for n := range len(good) {
		for _, tail := range []string{"", "\x00\x00\x00\x00\x00\x00\x00\x00\x00", strings.Repeat("noise", 9)} {
			if n < 32 && tail != "" {
				continue // a header is synced before more is written
			}
			var log bytes.Buffer
			segments[last] = append(bytes.Clone(good[:n]), tail...)
			mem := disk(t, segments)
			opt := options(mem, -1)
			opt.Logger = slog.New(slog.NewTextHandler(&log, nil))
			db := openMem(t, mem, opt)
			before := len(present(t, db))
			if r := db.Stats().Recovered; r.Torn > 0 && (!strings.Contains(log.String(), "bytes=") || r.Skipped != 0) || r.Torn == 0 && n != 32 && tail != "" {
				t.Fatalf("cut at %d and %q: %+v, said %s", n, tail, r, log.String())
			}
			fill(t, db, 100, 102)
			db.Close()
			db = openMem(t, mem, options(mem, -1))
			if got := len(present(t, db)); got != before+2 || before < 5 {
				t.Fatalf("cut at %d: %d uploads, then two more, then %d", n, before, got)
			}
			if r := db.Stats().Recovered; r.Torn+r.Skipped != 0 {
				t.Fatalf("cut at %d: the second start finds damage: %+v", n, r)
			}
			db.Close()
		}
	}
}

// TestLargerDamage takes whole regions, whole segments, and foreign files.
func TestLargerDamage(t *testing.T) {
	segments, names := threeSegments(t)
	good := segments[names[1]]
	for what, bad := range map[string][]byte{
		"zeros":        make([]byte, len(good)),
		"half zeros":   append(bytes.Clone(good[:len(good)/2]), make([]byte, len(good)/2)...),
		"noise":        bytes.Repeat([]byte("quantra"), 500),
		"empty":        {},
		"front gone":   good[100:],
		"another file": segments[names[0]],
		"twice":        append(bytes.Clone(good), good[32:]...),
	} {
		t.Run(what, func(t *testing.T) {
			segments[names[1]] = bad
			mem := disk(t, segments)
			f, err := mem.Create(dataDir + "/log/readme.txt")
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			db := openMem(t, mem, options(mem, -1))
			if got := present(t, db); len(got) < 5 {
				t.Errorf("%d of 10 are left", len(got))
			}
			fill(t, db, 100, 110)
			db.Close()
		})
	}
}

// TestLaterVersion: a segment of a later version is refused, not guessed at.
func TestLaterVersion(t *testing.T) {
	b := []byte("QLOG\x02\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00abcdefgh\x00\x00\x00\x00\x00\x00\x00\x00")
	store.SealHeader(b)
	mem := disk(t, map[string][]byte{"00000001.qlog": b})
	_, err := store.Open(context.Background(), dataDir, options(mem, -1))
	if err == nil || !strings.Contains(err.Error(), "later version") {
		t.Errorf("got %v", err)
	}
}

// TestOrder: the order of what is done to the disk is testdata/order.golden, for people to review.
func TestOrder(t *testing.T) {
	mem := vfs.NewMem()
	rec := &vfs.Recorder{Root: dataDir}
	opt := options(nil, 2800)
	opt.SegmentBytes = 700
	db := openMem(t, vfs.Hook(mem, rec.Hook), opt)
	for i := range 12 {
		fill(t, db, i, i+1)
		db.Tend() // what the applier removes has its place in the order
	}
	db.Close()
	names, err := mem.List(dataDir + "/log")
	if err != nil || len(names) < 2 {
		t.Fatal(names, err)
	}
	f, err := mem.Append(dataDir + "/log/" + names[len(names)-1])
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte("torn"))
	f.Close()
	rec.Hook(vfs.Op{Kind: "mkdir", Path: dataDir + "/(started again after a torn write)"})
	db = openMem(t, vfs.Hook(mem, rec.Hook), opt)
	fill(t, db, 12, 13)
	db.Tend()
	db.Close()
	golden(t, "testdata/order.golden", []byte(rec.String()))
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s has\n%s\ngot\n%s", path, want, got)
	}
}

// TestFixture reads the log of version 1 as it was frozen. It is never written anew: a program that
// cannot read it cannot read what people have.
func TestFixture(t *testing.T) {
	const frozen = "testdata/v1/log/00000001.qlog"
	if _, err := os.Stat(frozen); os.IsNotExist(err) && *update {
		db, err := store.Open(context.Background(), "testdata/v1", store.Options{Now: func() time.Time { return epoch }})
		if err != nil {
			t.Fatal(err)
		}
		fill(t, db, 0, 5)
		db.Close()
		os.Remove("testdata/v1/LOCK")
	}
	b, err := os.ReadFile(frozen)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "log"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "log", filepath.Base(frozen)), b, 0o644); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(context.Background(), dir, store.Options{Now: func() time.Time { return epoch }})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if got := present(t, db); len(got) != 5 {
		t.Errorf("read %v", got)
	}
	r, err := db.Select(context.Background(), store.Query{Type: cpu, Matchers: []store.Matcher{{Name: profile.LabelService, Value: "svc1"}}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{"main.main:12": 2005, "main.main:12;main.serve:12": 2005, "main.main:12;main.serve:12;main.work_svc1:12": 2005}
	if got := storetest.Canon(r.Profile, 0, nil); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("svc1 is %v, want %v", got, want)
	}
}
