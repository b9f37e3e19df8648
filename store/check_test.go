package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

// problems runs CheckDir, and says what it tells.
func problems(t testing.TB, fs vfs.FS) (all []store.Problem, damage int) {
	t.Helper()
	err := store.CheckDir(context.Background(), fs, dataDir, nil, func(p store.Problem) {
		all = append(all, p)
		if p.Damage {
			damage++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, damage
}

func TestCheckClean(t *testing.T) {
	if all, _ := problems(t, vfs.NewMem()); len(all) > 0 {
		t.Errorf("an empty folder: %v", all)
	}
	segments, _ := threeSegments(t)
	var read int64
	mem := disk(t, segments)
	err := store.CheckDir(t.Context(), mem, dataDir, func(n int64) { read += n }, func(p store.Problem) { t.Error(p) })
	var want int64
	for b := range maps.Values(segments) {
		want += int64(len(b))
	}
	if err != nil || read != want {
		t.Errorf("%v, read %d of %d", err, read, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := store.CheckDir(ctx, mem, dataDir, nil, func(store.Problem) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestCheckLog harms every region of every segment: it is told, where it is, and as damage if what a start would
// read is less than what was acknowledged. Nothing is changed.
func TestCheckLog(t *testing.T) {
	segments, names := threeSegments(t)
	for i, name := range names {
		for at := 0; at < len(segments[name]); at += 7 {
			harmed := maps.Clone(segments)
			harmed[name] = slices.Clone(segments[name])
			harmed[name][at] ^= 0x40
			mem := disk(t, harmed)
			all, damage := problems(t, mem)
			if len(all) == 0 || !strings.HasPrefix(all[0].Path, filepath.FromSlash(dataDir+"/log/"+name)) {
				t.Fatalf("%s, byte %d: %v", name, at, all)
			}
			if last := i == len(names)-1; damage == 0 && !last {
				t.Fatalf("%s, byte %d: not told as damage: %v", name, at, all)
			}
			for n, b := range harmed {
				if string(slurp(t, mem, dataDir+"/log/"+n)) != string(b) {
					t.Fatalf("%s has been changed", n)
				}
			}
		}
	}
}

func TestCheckLogTraces(t *testing.T) {
	segments, names := threeSegments(t)
	last := names[len(names)-1]
	torn := maps.Clone(segments)
	torn[last] = segments[last][:len(segments[last])-3]
	begun := maps.Clone(segments)
	begun["00000099.qlog"] = []byte("QLOG")
	skipped := maps.Clone(segments)
	delete(skipped, names[1])
	strange := maps.Clone(segments)
	strange["notes.txt"] = nil
	for what, c := range map[string]struct {
		segments map[string][]byte
		want     string
	}{
		"never finished":            {torn, "nothing acknowledged is in them"},
		"it was being made":         {begun, "nothing was in it"},
		"handed over out of order":  {skipped, "comes after segment"},
		"a file that is not of the": {strange, "it is not of the log"},
	} {
		all, damage := problems(t, disk(t, c.segments))
		if damage > 0 || len(all) == 0 || !slices.ContainsFunc(all, func(p store.Problem) bool { return strings.Contains(p.What, c.want) }) {
			t.Errorf("%s: %v", what, all)
		}
	}
}

// stagedDisk is a data folder as a crash leaves it between staging and handing over, with the segment still there, or not.
func stagedDisk(t *testing.T, segment bool) (fs *vfs.Mem, gen string, blocks []string) {
	t.Helper()
	mem := vfs.NewMem()
	away := errors.New("away")
	hook := vfs.Hook(mem, func(op vfs.Op) error {
		if op.Kind == "rename" && strings.Contains(op.String(), "/blocks/queue/") {
			return away
		}
		return nil
	})
	db, err := withBackend(hook, store.Options{Now: func() time.Time { return epoch }})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, db, 0, 5)
	for db.FlushErr() == nil {
		db.SealNow()
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	gens, err := mem.List(dataDir + "/flush")
	if err != nil || len(gens) != 1 {
		t.Fatalf("staged: %v, %v", gens, err)
	}
	gen = filepath.Join(dataDir, "flush", gens[0])
	ids, err := mem.List(gen)
	if err != nil || len(ids) == 0 {
		t.Fatalf("staged: %v, %v", ids, err)
	}
	for _, id := range ids {
		blocks = append(blocks, filepath.Join(gen, id))
	}
	names, err := mem.List(dataDir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if !segment {
			if err := mem.Remove(dataDir + "/log/" + n); err != nil {
				t.Fatal(err)
			}
		}
	}
	return mem, gen, blocks
}

// TestCheckStaged: a damaged block that waits to be handed over. While the log has it, all of the generation can go and
// nothing is lost; else the block alone.
func TestCheckStaged(t *testing.T) {
	for _, segment := range []bool{true, false} {
		t.Run(fmt.Sprint("segment ", segment), func(t *testing.T) {
			mem, gen, blocks := stagedDisk(t, segment)
			if all, _ := problems(t, mem); len(all) > 0 {
				t.Fatalf("whole: %v", all)
			}
			name := filepath.Join(blocks[0], block.StacksFile)
			b := slurp(t, mem, name)
			b[len(b)/2] ^= 1
			if err := mem.Remove(name); err != nil {
				t.Fatal(err)
			}
			f, err := mem.Create(name)
			if err != nil {
				t.Fatal(err)
			}
			f.Write(b)
			f.Close()
			all, damage := problems(t, mem)
			aside := blocks[0]
			if segment {
				aside = gen
			}
			if damage != 1 || len(all) != 1 || all[0].Path != blocks[0] || all[0].Aside != aside || !strings.Contains(all[0].What, block.StacksFile) {
				t.Fatalf("%+v", all)
			}
			// What is told to be moved away is what a start needs.
			if err := mem.Rename(all[0].Aside, dataDir+"/aside"); err != nil {
				t.Fatal(err)
			}
			db, err := withBackend(mem, store.Options{Now: func() time.Time { return epoch }})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if n := db.Stats().Profiles; segment && n != 5 {
				t.Errorf("%d of 5 profiles are there", n)
			}
		})
	}
}
