package broadcast

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
)

// TestSequenceCrash: at whatever operation the power goes, no number is given out twice, by any number of runs.
func TestSequenceCrash(t *testing.T) {
	const step = 3
	for stop := range 60 {
		disk, rng := vfs.NewMem(), rand.New(rand.NewPCG(uint64(stop), 1))
		if err := errors.Join(disk.MkdirAll("/b"), disk.SyncDir("/")); err != nil {
			t.Fatal(err)
		}
		given := map[[2]uint64]bool{}
		for run := range 4 {
			fail := errors.New("the power is gone")
			f := vfs.Hook(disk, func(op vfs.Op) error {
				if stop--; stop < 0 && run == 0 {
					return fail
				}
				return nil
			})
			s, err := openSequence(f, "/b", keyAt(1).Public(), birth, step)
			for range 10 {
				if err != nil {
					break
				}
				var epoch, n uint64
				if epoch, n, err = s.take(); err == nil {
					if given[[2]uint64{epoch, n}] {
						t.Fatalf("number %d of epoch %d is given out twice", n, epoch)
					}
					given[[2]uint64{epoch, n}] = true
				}
			}
			if run > 0 && err != nil {
				t.Fatal(err)
			}
			disk = disk.Crash(rng)
		}
		if len(given) < 30 {
			t.Fatalf("%d numbers were given out in three whole runs", len(given))
		}
	}
}

// TestSequenceRefused: a damaged file is refused and named; another key's numbers are not gone on with.
func TestSequenceRefused(t *testing.T) {
	disk := vfs.NewMem()
	if err := disk.MkdirAll("/b"); err != nil {
		t.Fatal(err)
	}
	s, err := openSequence(disk, "/b", keyAt(1).Public(), birth, reserve)
	if err != nil {
		t.Fatal(err)
	}
	other, err := openSequence(disk, "/b", keyAt(2).Public(), birth.Add(time.Hour), reserve)
	if err != nil || other.epoch <= s.epoch || other.next != 1 {
		t.Fatalf("another key begins with %d/%d: %v", other.epoch, other.next, err)
	}
	raw, err := readFile(disk, "/b/sequence", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		raw[i] ^= 4
		if _, _, _, err := decodeSequence(raw); !errors.Is(err, ErrCorrupt) {
			t.Errorf("byte %d can be changed", i)
		}
		raw[i] ^= 4
	}
	raw[20] ^= 1
	if err := replaceFile(disk, "/b", "sequence", raw); err != nil {
		t.Fatal(err)
	}
	if _, err := openSequence(disk, "/b", keyAt(1).Public(), birth, reserve); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a damaged file of numbers: %v", err)
	}
}

// kept is a service's table alone, opened on a disk.
func kept(t *testing.T, disk vfs.FS, now time.Time) *Service {
	t.Helper()
	o := Options{Dir: "/b", FS: disk, Now: func() time.Time { return now }, Allow: (&rights{}).allow, Log: quiet}
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	s := &Service{o: o, authors: newAuthors(o.Authors, time.Minute)}
	if err := errors.Join(disk.MkdirAll("/b"), disk.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	if err := s.load(); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestKeptCrash: what was taken is not taken again: after an end, after a crash at any time, and where the file is damaged; and what is
// signed later is taken.
func TestKeptCrash(t *testing.T) {
	take := func(s *Service, author int, n uint64, at time.Time) bool {
		e := &envelope{author: keyAt(author).Public(), epoch: 9, sequence: n, time: at.UnixNano()}
		if !s.authors.fresh(e) {
			return false
		}
		return s.authors.take(s.authors.of(e.author, "via", at), e, at)
	}
	for _, how := range []string{"closed", "crashed", "damaged"} {
		disk := vfs.NewMem()
		s := kept(t, disk, birth)
		for n := range uint64(10) {
			if !take(s, 1, 1+n, birth.Add(time.Duration(n))) {
				t.Fatal("the first time it is not taken")
			}
		}
		if err := s.keep(false); err != nil {
			t.Fatal(err)
		}
		later := birth.Add(time.Second) // not on disk when it crashes, and the author's clock goes ten seconds wrong
		if !take(s, 1, 11, later) || !take(s, 2, 1, birth) {
			t.Fatal("it is not taken")
		}
		switch how {
		case "closed":
			if err := s.keep(true); err != nil {
				t.Fatal(err)
			}
		case "damaged":
			if err := replaceFile(disk, "/b", authorsName, []byte("QLBW nonsense")); err != nil {
				t.Fatal(err)
			}
		}
		s = kept(t, disk.Crash(nil), later)
		for n := range uint64(10) {
			if take(s, 1, 1+n, birth.Add(time.Duration(n))) {
				t.Errorf("%s: number %d is taken twice", how, 1+n)
			}
		}
		if take(s, 1, 11, later) || take(s, 2, 1, birth) {
			t.Errorf("%s: what was not on disk is taken twice", how)
		}
		if !take(s, 1, 12, later.Add(keepSlack)) || !take(s, 3, 1, later.Add(1)) {
			t.Errorf("%s: what is new is not taken", how)
		}
		if how == "closed" && (!take(s, 2, 2, birth) || !take(s, 4, 1, birth)) {
			t.Error("after an orderly end what was on its way is not taken")
		}
	}
}

// FuzzKept: files are read as they are written, or refused.
func FuzzKept(f *testing.F) {
	f.Add(encodeAuthors(true, nil))
	f.Add(encodeAuthors(false, []keptAuthor{{keyAt(1).Public(), 1, 2, 3}, {keyAt(2).Public(), 4, 5, 6}}))
	f.Add(encodeSequence(keyAt(1).Public(), 1, 65536))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if clean, all, err := decodeAuthors(raw); err == nil {
			if !bytes.Equal(raw, encodeAuthors(clean, all)) {
				t.Fatal("authors are written otherwise than they were read")
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
		if key, epoch, limit, err := decodeSequence(raw); err == nil && !bytes.Equal(raw, encodeSequence(key, epoch, limit)) {
			t.Fatal("numbers are written otherwise than they were read")
		}
	})
}

// TestKeptFrozen: the files of version 1 are what is written today.
func TestKeptFrozen(t *testing.T) {
	for name, raw := range map[string][]byte{
		"authors":  encodeAuthors(true, []keptAuthor{{keyAt(1).Public(), 7, 42, birth.UnixNano()}}),
		"sequence": encodeSequence(keyAt(1).Public(), 7, 65536),
	} {
		file := filepath.Join("testdata", "v1", name)
		if *golden {
			if err := os.WriteFile(file, raw, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(file); err != nil || !bytes.Equal(raw, want) {
			t.Errorf("%s is written otherwise than it was: %v", file, err)
		}
	}
}
