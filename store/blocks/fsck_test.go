package blocks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
	"github.com/quantra-l/quantra/store/bucket"
)

const quarantineDir = "/data/quarantine"

// fill puts blocks into the bucket as a server does, and ends it.
func fill(t testing.TB, fs vfs.FS, b bucket.Bucket, staged ...store.Staged) {
	t.Helper()
	bs, err := Open(context.Background(), b, testOptions(fs))
	if err != nil {
		t.Fatal(err)
	}
	if err := bs.Put(context.Background(), staged); err != nil {
		t.Fatal(err)
	}
	settled(t, bs)
	if err := bs.Close(); err != nil {
		t.Fatal(err)
	}
}

func fsckOptions(fs vfs.FS, later time.Duration) FsckOptions {
	return FsckOptions{FS: fs, Dir: dataDir, Now: func() time.Time { return time.Now().Add(later) }}
}

// says runs Fsck and compares what it finds, as "kind where: what".
func says(t *testing.T, b bucket.Bucket, opt FsckOptions, want ...string) Report {
	t.Helper()
	r, err := Fsck(context.Background(), b, opt)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range r.Findings {
		got = append(got, fmt.Sprintf("%s %s: %s", f.Kind, f.Where, f.What))
	}
	ok := len(got) == len(want)
	for i := range got {
		ok = ok && strings.HasPrefix(got[i], want[i])
	}
	if !ok {
		t.Errorf("fsck finds\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	return r
}

func get(t *testing.T, b bucket.Bucket, key string) []byte {
	t.Helper()
	p, err := b.Get(context.Background(), key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func put(t *testing.T, b bucket.Bucket, key string, p []byte) {
	t.Helper()
	if err := b.Put(context.Background(), key, bytes.NewReader(p)); err != nil {
		t.Fatal(err)
	}
}

func TestFsckClean(t *testing.T) {
	mem := vfs.NewMem()
	b := folder(t, mem)
	if r := says(t, b, fsckOptions(mem, 0)); r.Blocks != 0 {
		t.Errorf("an empty bucket has %d blocks", r.Blocks)
	}
	fill(t, mem, b, stage(t, mem, 1), stage(t, mem, 2), stage(t, mem, 3))
	for _, later := range []time.Duration{0, 1000 * time.Hour} {
		if r := says(t, b, fsckOptions(mem, later)); r.Blocks != 3 || r.Bytes == 0 || r.Damaged != 0 {
			t.Errorf("%+v", r)
		}
	}
	other := fsckOptions(mem, 0)
	other.Region = "eu"
	if r := says(t, b, other); r.Blocks != 0 {
		t.Errorf("region eu has %d blocks", r.Blocks)
	}
}

// TestFsckDamage harms each file of a block in each way. It is named; a repair moves the block aside, whole, and deletes nothing;
// what is left is clean, and answers.
func TestFsckDamage(t *testing.T) {
	harms := map[string]func(p []byte) []byte{
		"flipped": func(p []byte) []byte { p = bytes.Clone(p); p[len(p)/2] ^= 1; return p },
		"cut":     func(p []byte) []byte { return p[:len(p)-2] },
		"longer":  func(p []byte) []byte { return append(bytes.Clone(p), 0) },
		"gone":    nil,
	}
	mem := vfs.NewMem()
	n := 0
	for _, file := range append(slices.Sorted(keysOf(stage(t, mem, 1).Meta.Files)), block.MetaFile) {
		for how, harm := range harms {
			if file == block.MetaFile && harm == nil {
				continue // then there is no block
			}
			n++
			t.Run(file+" "+how, func(t *testing.T) {
				mem := vfs.NewMem()
				b := folder(t, mem)
				bad, good := stage(t, mem, 1), stage(t, mem, 2)
				fill(t, mem, b, bad, good)
				prefix := Prefix("local", "t", bad.Meta.ULID)
				harmed := map[string][]byte{}
				for name := range bad.Meta.Files {
					harmed[name] = get(t, b, prefix+name)
				}
				harmed[block.MetaFile] = get(t, b, prefix+block.MetaFile)
				if harm == nil {
					delete(harmed, file)
					if err := b.Delete(t.Context(), prefix+file); err != nil {
						t.Fatal(err)
					}
				} else {
					harmed[file] = harm(harmed[file])
					put(t, b, prefix+file, harmed[file])
				}
				where := "damaged file:///bucket/" + prefix + ": "
				opt := fsckOptions(mem, 0)
				r := says(t, b, opt, where)
				if len(r.Findings) == 1 && !strings.Contains(r.Findings[0].What, file) {
					t.Errorf("%q does not name %s", r.Findings[0].What, file)
				}
				says(t, b, opt, where) // nothing has been changed

				opt.Quarantine = quarantineDir
				r = says(t, b, opt, where)
				if len(r.Findings) != 1 || r.Findings[0].Aside != "file:///bucket/"+strings.Replace(prefix, "/blocks/", "/quarantine/", 1) {
					t.Fatalf("%+v", r.Findings)
				}
				for name, p := range harmed {
					if got := get(t, b, "local/t/quarantine/"+bad.Meta.ULID.String()+"/"+name); !bytes.Equal(got, p) {
						t.Errorf("%s in quarantine is not what it was", name)
					}
				}
				if r := says(t, b, opt); r.Blocks != 1 {
					t.Errorf("%d blocks are left", r.Blocks)
				}
				if got := present(t, openBlocks(t, b, testOptions(mem))); fmt.Sprint(got) != "[2]" {
					t.Errorf("left: %v", got)
				}
			})
		}
	}
	if n < 20 {
		t.Fatalf("only %d harms", n)
	}
}

func keysOf(m map[string]block.File) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// TestFsckQuick sees what lengths and meta.json tell, and reads no block.
func TestFsckQuick(t *testing.T) {
	mem := vfs.NewMem()
	b := folder(t, mem)
	one, two := stage(t, mem, 1), stage(t, mem, 2)
	fill(t, mem, b, one, two)
	key := Prefix("local", "t", one.Meta.ULID) + block.SamplesFile
	p := get(t, b, key)
	p[len(p)/2] ^= 1
	put(t, b, key, p)
	put(t, b, Prefix("local", "t", two.Meta.ULID)+block.StacksFile, []byte("short"))
	sw := newSwitch()
	h := &hooked{Bucket: b, before: sw.before}
	opt := fsckOptions(mem, 0)
	opt.Quick = true
	says(t, h, opt, "damaged file:///bucket/"+Prefix("local", "t", two.Meta.ULID)+": corrupt: stacks.parquet has 5 bytes")
	for _, key := range sw.of("get") {
		if path.Base(key) != block.MetaFile {
			t.Errorf("it read %s", key)
		}
	}
}

// TestFsckQueue: blocks that only this machine has.
func TestFsckQueue(t *testing.T) {
	mem := vfs.NewMem()
	sw := newSwitch()
	b := folder(t, mem)
	bs, err := Open(context.Background(), &hooked{Bucket: b, before: sw.before}, switched(mem, sw))
	if err != nil {
		t.Fatal(err)
	}
	sw.set(errAway)
	one, two := stage(t, mem, 1), stage(t, mem, 2)
	if err := bs.Put(context.Background(), []store.Staged{one, two}); err != nil {
		t.Fatal(err)
	}
	if err := bs.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(dataDir, queueDir, one.Meta.ULID.String())
	name := filepath.Join(dir, block.FramesFile)
	p, err := readFile(mem, name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	p[len(p)/2] ^= 1
	rewrite(t, mem, name, p)

	waiting := "waiting " + filepath.Join(dataDir, queueDir, two.Meta.ULID.String()) + ": made"
	opt := fsckOptions(mem, 0)
	opt.Now = func() time.Time { return epoch }
	says(t, b, opt, "damaged "+dir+": block "+one.Meta.ULID.String()+": corrupt: "+block.FramesFile)
	opt.Now = func() time.Time { return epoch.Add(2 * waitingAfter) }
	opt.Quarantine = quarantineDir
	says(t, b, opt, "damaged "+dir, waiting)
	if _, err := mem.Stat(filepath.Join(quarantineDir, "queue-"+one.Meta.ULID.String(), block.FramesFile)); err != nil {
		t.Error(err)
	}
	r := says(t, b, opt, waiting)
	if r.Damaged != 0 {
		t.Errorf("what waits is counted as damage: %+v", r)
	}
	// A second one of the same name does not replace the first.
	if err := mem.MkdirAll(dir); err != nil {
		t.Fatal(err)
	}
	r = says(t, b, opt, "damaged "+dir, waiting)
	if len(r.Findings) != 2 || r.Findings[0].Aside != filepath.Join(quarantineDir, "queue-"+one.Meta.ULID.String()+"-2") {
		t.Errorf("%+v", r.Findings)
	}
}

func rewrite(t *testing.T, fs vfs.FS, name string, p []byte) {
	t.Helper()
	if err := fs.Remove(name); err != nil {
		t.Fatal(err)
	}
	f, err := fs.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(p); err != nil {
		t.Fatal(err)
	}
}

// TestFsckTraces: what servers deal with themselves is told only when they have not for long.
func TestFsckTraces(t *testing.T) {
	mem := vfs.NewMem()
	b := folder(t, mem)
	one, two, three := stage(t, mem, 1), stage(t, mem, 2), stage(t, mem, 3)
	merged := stageMerged(t, mem, 4, one.Meta, two.Meta)
	fill(t, mem, b, one, two, three, merged)
	at := func(id store.Staged) string { return Prefix("local", "t", id.Meta.ULID) }
	put(t, b, at(three)+TombstoneFile, []byte("{}"))
	half := Prefix("local", "t", idOf(9))
	put(t, b, half+block.SamplesFile, []byte("half"))
	put(t, b, "local/README", []byte("hello"))
	put(t, b, at(one)+"notes.txt", []byte("hello"))
	put(t, b, "local/t/quarantine/x/meta.json", []byte("{}"))

	strange := []string{"unknown file:///bucket/local/README: it is not of a block", "unknown file:///bucket/" + at(one) + "notes.txt: meta.json"}
	// The ids of these tests are of 1970: they have been replaced for long.
	says(t, b, fsckOptions(mem, 0),
		strange[0],
		"superseded file:///bucket/"+at(one)+": block "+merged.Meta.ULID.String(), strange[1],
		"superseded file:///bucket/"+at(two)+": block "+merged.Meta.ULID.String())
	r := says(t, b, fsckOptions(mem, buriedAfter+time.Hour),
		strange[0],
		"superseded file:///bucket/"+at(one), strange[1],
		"superseded file:///bucket/"+at(two),
		"tombstone file:///bucket/"+at(three)+": deleted 169h0m0s ago",
		"orphan file:///bucket/"+half+": 1 files without meta.json",
	)
	if r.Damaged != 0 {
		t.Errorf("%+v", r)
	}
}

// TestFsckDoubled: one upload in two blocks, of which neither replaces the other.
func TestFsckDoubled(t *testing.T) {
	mem := vfs.NewMem()
	b := folder(t, mem)
	one := stage(t, mem, 1)
	again := writeBlock(t, mem, 2, block.LevelHead, epoch, []*upload{plainUpload(1), plainUpload(7)})
	fill(t, mem, b, one, again)
	r := says(t, b, fsckOptions(mem, 0), "doubled file:///bucket/"+Prefix("local", "t", again.Meta.ULID)+": 2 rows are of profiles that are in block "+one.Meta.ULID.String())
	if r.Damaged != 1 {
		t.Errorf("%+v", r)
	}
}

// TestFsckMisplaced: a block of one tenant where another's are is refused; else he would be answered from it.
func TestFsckMisplaced(t *testing.T) {
	mem := vfs.NewMem()
	b := folder(t, mem)
	one := stage(t, mem, 1)
	fill(t, mem, b, one)
	from, to := Prefix("local", "t", one.Meta.ULID), Prefix("local", "u", one.Meta.ULID)
	for name := range one.Meta.Files {
		put(t, b, to+name, get(t, b, from+name))
	}
	put(t, b, to+block.MetaFile, get(t, b, from+block.MetaFile))
	says(t, b, fsckOptions(mem, 0), "damaged file:///bucket/"+to+": corrupt: meta.json is of "+from)
}

// TestFsckUploaded: a block that is in the queue still, and in the bucket already, is one.
func TestFsckUploaded(t *testing.T) {
	mem := vfs.NewMem()
	b := folder(t, mem)
	one := stage(t, mem, 1)
	fill(t, mem, b, one)
	queue := filepath.Join(dataDir, queueDir, one.Meta.ULID.String())
	if err := mem.Rename(stage(t, mem, 1).Dir, queue); err != nil {
		t.Fatal(err)
	}
	opt := fsckOptions(mem, 0)
	opt.Now = func() time.Time { return epoch }
	says(t, b, opt)
}

// TestFsckLater: a block that a later program wrote is not damage, and no repair touches it.
func TestFsckLater(t *testing.T) {
	mem := vfs.NewMem()
	b := folder(t, mem)
	one := stage(t, mem, 1)
	fill(t, mem, b, one)
	key := Prefix("local", "t", one.Meta.ULID) + block.MetaFile
	p := bytes.Replace(get(t, b, key), []byte(`"version":1`), []byte(`"version":9`), 1)
	p = bytes.Replace(p, []byte(`"version": 1`), []byte(`"version": 9`), 1)
	put(t, b, key, p)
	opt := fsckOptions(mem, 0)
	opt.Quarantine = quarantineDir
	for range 2 {
		says(t, b, opt, "unknown file:///bucket/"+path.Dir(key)+"/: block "+one.Meta.ULID.String()+": written by a later version")
	}
}

// TestFsckCannotLook: an answer that did not come is an error, never a finding, and never a repair.
func TestFsckCannotLook(t *testing.T) {
	mem := vfs.NewMem()
	b := folder(t, mem)
	fill(t, mem, b, stage(t, mem, 1), stage(t, mem, 2))
	for _, op := range []string{"list", "get"} {
		h := &hooked{Bucket: b, before: func(o, key string) error {
			if o == op {
				return errAway
			}
			if o == "put" || o == "delete" {
				t.Errorf("%s %s", o, key)
			}
			return nil
		}}
		opt := fsckOptions(mem, 0)
		opt.Quarantine = quarantineDir
		if r, err := Fsck(context.Background(), h, opt); !errors.Is(err, bucket.ErrUnavailable) || len(r.Findings) > 0 {
			t.Errorf("%s: %v, %+v", op, err, r.Findings)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Fsck(ctx, b, fsckOptions(mem, 0)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestFsckRepairCrash turns the machine off at each operation of a repair: then all of the damaged block is in one
// place or the other, and a second repair ends what the first began.
func TestFsckRepairCrash(t *testing.T) {
	for n := 0; ; n++ {
		mem := vfs.NewMem()
		bad, good := stage(t, mem, 1), stage(t, mem, 2)
		fill(t, mem, folder(t, mem), bad, good)
		prefix := Prefix("local", "t", bad.Meta.ULID)
		key := prefix + block.SamplesFile
		harmed := get(t, folder(t, mem), key)
		harmed[len(harmed)/2] ^= 1
		put(t, folder(t, mem), key, harmed)

		fail := vfs.FailNth(n, errors.New("off"))
		broken := vfs.Hook(mem, func(op vfs.Op) error {
			if !op.Changes() {
				return nil
			}
			return fail(op)
		})
		b, err := bucket.Open(t.Context(), "file:///bucket", bucket.Options{FS: broken, ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		opt := fsckOptions(broken, 0)
		opt.Quarantine = quarantineDir
		_, err = Fsck(t.Context(), b, opt)
		mem = mem.Crash(nil)
		after := folder(t, mem)
		kept := 0
		for _, k := range []string{key, strings.Replace(key, "/blocks/", "/quarantine/", 1)} {
			if p, err := after.Get(t.Context(), k, 0, -1); err == nil && bytes.Equal(p, harmed) {
				kept++
			}
		}
		if kept == 0 {
			t.Fatalf("operation %d: the damaged file is in neither place", n)
		}
		again := fsckOptions(mem, 0)
		again.Quarantine = quarantineDir
		if _, err := Fsck(t.Context(), after, again); err != nil {
			t.Fatal(err)
		}
		if r := says(t, after, fsckOptions(mem, 0)); r.Blocks != 1 {
			t.Errorf("operation %d: %d blocks", n, r.Blocks)
		}
		if err == nil {
			if n < 5 {
				t.Fatalf("only %d operations", n)
			}
			return
		}
	}
}

func TestObjectReader(t *testing.T) {
	mem := vfs.NewMem()
	b := folder(t, mem)
	want := bytes.Repeat([]byte("0123456789"), objectPiece/10*2)
	put(t, b, "x", want)
	r := &objectReader{ctx: t.Context(), b: b, key: "x", size: int64(len(want))}
	for range 2 {
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if at, err := r.Seek(0, io.SeekStart); at != 0 || err != nil {
			t.Fatal(at, err)
		}
	}
	if at, err := r.Seek(-3, io.SeekEnd); at != int64(len(want))-3 || err != nil {
		t.Error(at, err)
	}
	if got, err := io.ReadAll(r); string(got) != string(want[len(want)-3:]) || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("a seek to before the start")
	}
}
