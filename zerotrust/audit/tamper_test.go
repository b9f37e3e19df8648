package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust/audit"
)

// copyOf is a file system with the same log.
func copyOf(t testing.TB, m *vfs.Mem) *vfs.Mem { return m.Crash(nil) }

// synced is the log of n entries, all of it on disk, names too.
func synced(t testing.TB, n int, change ...func(*audit.Options)) *vfs.Mem {
	m := disk(t)
	fill(t, m, n, change...)
	var sync func(string)
	sync = func(at string) {
		must(t, m.SyncDir(at))
		names, err := m.List(at)
		must(t, err)
		for _, name := range names {
			if st, err := m.Stat(filepath.Join(at, name)); err == nil && st.Dir {
				sync(filepath.Join(at, name))
			}
		}
	}
	sync("/")
	return m
}

// TestTampered: a bit of every file of a log, each file removed, each two files of a kind swapped, is found; entries are named.
func TestTampered(t *testing.T) {
	const n = 600
	m := synced(t, n)
	kept := whole(t, m, n).Note
	all := files(t, m, dir)
	tried := 0
	try := func(what string, f *vfs.Mem, near int) {
		t.Helper()
		tried++
		_, err := verify(t, f)
		if !errors.Is(err, audit.ErrBroken) && !errors.Is(err, audit.ErrKey) {
			t.Errorf("%s: %v", what, err)
		} else if near >= 0 && !strings.Contains(err.Error(), fmt.Sprintf("entry %d ", near)) {
			t.Errorf("%s: want entry %d: %v", what, near, err)
		}
	}
	for _, name := range all {
		rel, _ := filepath.Rel(dir, name)
		if rel == "LOCK" {
			continue
		}
		good := read(t, m, name)
		step := max(1, len(good)/40)
		for i := 0; i < len(good); i += step {
			if rel == filepath.Join("keys", "0") && i == len(good)-1 {
				continue // its newline is not of the key
			}
			f := copyOf(t, m)
			b := bytes.Clone(good)
			b[i] ^= 1
			write(t, f, name, b)
			try(fmt.Sprintf("bit of byte %d of %s", i, rel), f, -1)
		}
		f := copyOf(t, m)
		must(t, f.Remove(name))
		if rel == "checkpoint" || strings.HasPrefix(rel, "keys") {
			if _, err := verify(t, f); err == nil {
				t.Errorf("%s removed: nothing is said", rel)
			}
			if _, err := audit.Open(options(f)); !errors.Is(err, audit.ErrBroken) {
				t.Errorf("%s removed: it is opened: %v", rel, err)
			}
		} else {
			try(rel+" removed", f, -1)
		}
		f = copyOf(t, m)
		write(t, f, name, good[:len(good)/2])
		try(rel+" cut", f, -1)
	}
	// Whole bundles swapped, entries altered: by their index.
	at := func(k int) string {
		if k == 2 {
			return filepath.Join(dir, "tile", "entries", "002.p", fmt.Sprint(n-512))
		}
		return filepath.Join(dir, "tile", "entries", fmt.Sprintf("%03d", k))
	}
	f := copyOf(t, m)
	one, two := read(t, f, at(0)), read(t, f, at(1))
	write(t, f, at(0), two)
	write(t, f, at(1), one)
	try("bundles swapped", f, 0)
	for _, k := range []int{0, 7, 255, 256, 511, 512, 599} {
		f := copyOf(t, m)
		b := read(t, f, at(k/256))
		was := entry(k)
		now := bytes.Replace(was, []byte("read"), []byte("look"), 1)
		write(t, f, at(k/256), bytes.Replace(b, was, now, 1))
		try(fmt.Sprint("entry altered ", k), f, k)
		// With its hash, too: the tile above, or the checkpoint, has it otherwise.
		tile := filepath.Join(dir, "tile", "0", strings.TrimPrefix(at(k/256), filepath.Join(dir, "tile", "entries")))
		h := read(t, f, tile)
		copy(h[32*(k%256):], rfc6962.DefaultHasher.HashLeaf(now))
		write(t, f, tile, h)
		try(fmt.Sprint("entry and hash altered ", k), f, -1)
	}
	// A log that was cut back, or begun anew, by who can write its folder; and one that was signed anew, by who has the key.
	old := synced(t, 300)
	if _, err := verify(t, old); err != nil {
		t.Fatal(err) // it is a whole log
	}
	if _, err := verify(t, old, kept); !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), "entries 300 to 599 are missing") {
		t.Errorf("cut back: %v", err)
	}
	fork := disk(t)
	l := open(t, options(fork))
	for i := range n + 5 {
		e := entry(i)
		if i == 100 {
			e = []byte(`{"forged":true}`)
		}
		_, err := l.Append(context.Background(), e, false)
		must(t, err)
	}
	must(t, l.Close())
	if _, err := verify(t, fork, kept); !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), "replaced") {
		t.Errorf("forked: %v", err)
	}
	if tried < 300 {
		t.Errorf("only %d", tried)
	}
}

// TestAnchor: a server finds out by the checkpoint beside its key that its log was cut back, replaced or removed.
func TestAnchor(t *testing.T) {
	anchored := func(o *audit.Options) { o.Anchor = "/keys/anchor" }
	m := synced(t, 600, anchored)
	kept := read(t, m, "/keys/anchor")
	for what, f := range map[string]*vfs.Mem{"cut back": synced(t, 300), "gone": disk(t)} {
		write(t, f, "/keys/anchor", kept)
		o := options(f)
		anchored(&o)
		if _, err := audit.Open(o); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%s: it is opened: %v", what, err)
		}
	}
	f := disk(t)
	fill(t, f, 700, func(o *audit.Options) { o.Now = time.Now })
	l := open(t, options(f)) // another log, longer
	must(t, l.Close())
	other := disk(t)
	lo := options(other)
	l2 := open(t, lo)
	for i := range 700 {
		_, err := l2.Append(context.Background(), entry(i+1), false)
		must(t, err)
	}
	must(t, l2.Close())
	write(t, other, "/keys/anchor", kept)
	anchored(&lo)
	if _, err := audit.Open(lo); !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), "replaced") {
		t.Errorf("replaced: %v", err)
	}
	o := options(m)
	o.Anchor = filepath.Join(dir, "anchor")
	if _, err := audit.Open(o); err == nil {
		t.Error("an anchor in the log's folder is taken")
	}
}

// TestRecords: what is done to the files of records, which tiles do not have yet.
func TestRecords(t *testing.T) {
	m := disk(t)
	o := options(m)
	l := open(t, o)
	for i := range 10 {
		_, err := l.Append(context.Background(), entry(i), true)
		must(t, err)
	}
	c := m.Crash(nil)
	must(t, l.Close())
	whole(t, c, 10)
	var name string
	for _, f := range files(t, c, dir) {
		if strings.Contains(f, "wal") {
			name = f
		}
	}
	good := read(t, c, name)
	broken, torn, tried := 0, 0, 0
	step := 7
	if race {
		step = 41
	}
	for i := 0; i < len(good); i += step {
		tried++
		f := copyOf(t, c)
		b := bytes.Clone(good)
		b[i] ^= 1
		write(t, f, name, b)
		r, err := verify(t, f)
		switch {
		case errors.Is(err, audit.ErrBroken):
			broken++
			if _, err := audit.Open(options(f)); !errors.Is(err, audit.ErrBroken) {
				t.Fatalf("byte %d: it is opened: %v", i, err)
			}
		case err == nil && r.Checkpoint.Size == 9: // the last record: as a crash would leave it
			torn++
		default:
			t.Fatalf("byte %d: %d entries, %v", i, r.Checkpoint.Size, err)
		}
	}
	if torn > tried/8 || broken+torn != tried {
		t.Errorf("%d broken, %d torn of %d", broken, torn, tried)
	}
}

// TestOthers: other implementations of signed notes, RFC 6962 trees and their proofs take ours.
func TestOthers(t *testing.T) {
	const n = 1000
	m := synced(t, n)
	old := whole(t, synced(t, 300), 300).Checkpoint
	v, err := audit.OpenView(m, dir, nil)
	must(t, err)
	pub := audit.PublicKey{Name: "example.com/audit", Key: keyOf(1).Public()}
	theirs, err := note.NewVerifier(pub.String())
	must(t, err)
	if _, err := note.Open(v.Published(), note.VerifierList(theirs)); err != nil {
		t.Error(err)
	}
	c := v.Checkpoint()
	for _, i := range []int{0, 1, 255, 256, 511, 767, 768, 998, 999} {
		p, err := v.Prove(audit.Index(i))
		must(t, err)
		back, err := audit.ParseProof(p.Encode())
		must(t, err)
		if !bytes.Equal(back.Entry, entry(i)) {
			t.Errorf("entry %d is %s", i, back.Entry)
		}
		if got, err := back.Check([]audit.PublicKey{pub}); err != nil || got != c {
			t.Errorf("entry %d: %v", i, err)
		}
		var path [][]byte
		for _, h := range back.Path {
			path = append(path, h[:])
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(i), n, rfc6962.DefaultHasher.HashLeaf(entry(i)), path, c.Root[:]); err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
		for what, change := range map[string]func(*audit.Proof){
			"entry": func(p *audit.Proof) { p.Entry = entry(i + 1) }, "index": func(p *audit.Proof) { p.Index++ },
			"path": func(p *audit.Proof) { p.Path[0][0] ^= 1 }, "short": func(p *audit.Proof) { p.Path = p.Path[1:] },
			"checkpoint": func(p *audit.Proof) { p.Note = bytes.Replace(p.Note, []byte("1000"), []byte("1001"), 1) },
		} {
			bad, err := audit.ParseProof(p.Encode())
			must(t, err)
			change(bad)
			if _, err := bad.Check([]audit.PublicKey{pub}); !errors.Is(err, audit.ErrProof) {
				t.Errorf("entry %d, another %s: %v", i, what, err)
			}
		}
		if _, err := back.Check([]audit.PublicKey{{Name: pub.Name, Key: keyOf(2).Public()}}); !errors.Is(err, audit.ErrProof) {
			t.Errorf("entry %d, another key: %v", i, err)
		}
	}
	path, err := v.ProveSince(old.Size)
	must(t, err)
	var hashes [][]byte
	for _, h := range path {
		hashes = append(hashes, h[:])
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, old.Size, n, hashes, old.Root[:], c.Root[:]); err != nil {
		t.Error(err)
	}
	if _, err := v.Prove(n); err == nil {
		t.Error("an entry that is not there is proved")
	}
}

// TestTessera: the fsck of github.com/transparency-dev/tessera finds our log whole. It is built by the Go command, from the module proxy,
// so it is asked for by a flag, or by the environment of CI.
func TestTessera(t *testing.T) {
	if !*tessera && os.Getenv("QUANTRA_CI") == "" {
		t.Skip("NOT RUN: give -tessera to have tessera's fsck, which is downloaded, read a log of ours")
	}
	o := options(vfs.Default)
	base := t.TempDir()
	o.Dir = filepath.Join(base, "audit")
	l := open(t, o)
	for i := range 70_000 {
		_, err := l.Append(context.Background(), entry(i), i%4000 == 0)
		must(t, err)
	}
	must(t, l.Close())
	key := filepath.Join(base, "key.pub")
	write(t, vfs.Default, key, []byte(l.Key().String()))
	out, err := exec.Command("go", "run", "github.com/transparency-dev/tessera/cmd/fsck@v1.0.4", "--ui=false", "--storage_url=file://"+o.Dir+"/", "--public_key="+key).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// TestRotate: a log whose key has changed twice is verified by the first key, and by the last; not by another. Checkpoints of before are
// still good.
func TestRotate(t *testing.T) {
	m := disk(t)
	fill(t, m, 300)
	first := whole(t, m, 300).Note
	size := uint64(300)
	for n := byte(2); n <= 3; n++ {
		o := options(m)
		next := keyOf(n)
		o.Key, o.NextKey = keyOf(n-1), &next
		l := open(t, o)
		must(t, l.Close())
		l = open(t, o) // as after a crash ahead of the key file's change
		_, err := l.Append(context.Background(), entry(int(n)), true)
		must(t, errors.Join(err, l.Close()))
		size += 2
		whole(t, m, size, first)
		o = options(m)
		o.Key = keyOf(n - 1)
		if _, err := audit.Open(o); !errors.Is(err, audit.ErrKey) {
			t.Errorf("the key before is taken: %v", err)
		}
	}
	for n, want := range map[byte]error{1: nil, 2: nil, 3: nil, 4: audit.ErrKey} {
		pub := audit.PublicKey{Name: "example.com/audit", Key: keyOf(n).Public()}
		r, err := audit.Verify(context.Background(), m, dir, audit.VerifyOptions{Trust: []audit.PublicKey{pub}, Since: [][]byte{first}})
		if !errors.Is(err, want) || want == nil && (err != nil || len(r.Keys) != 3) {
			t.Errorf("key %d: %v", n, err)
		}
	}
	f := copyOf(t, m) // a key that nobody handed over to
	stolen := open(t, func() audit.Options {
		o := options(disk(t))
		o.Key = keyOf(9)
		return o
	}())
	write(t, f, filepath.Join(dir, "keys", "3"), []byte(stolen.Key().String()+"\n"))
	if _, err := audit.OpenView(f, dir, nil); err == nil {
		t.Error("a key that no key names is taken")
	}
}

// TestPrune: old bundles go, into an archive or for good; all else can be verified and proved as before, and more than was said is missed.
func TestPrune(t *testing.T) {
	m := disk(t)
	fill(t, m, 1000)
	before := whole(t, m, 1000).Note
	l := open(t, options(m))
	p, err := l.Prune(context.Background(), start.Add(time.Hour), "/d/archive")
	if err != nil || p.Next != 768 || p.Bundles != 3 {
		t.Fatalf("%+v, %v", p, err)
	}
	if p, err := l.Prune(context.Background(), start.Add(time.Hour), "/d/archive"); err != nil || p.Bundles != 0 {
		t.Errorf("again: %+v, %v", p, err)
	}
	_, err = l.Append(context.Background(), entry(1), true)
	must(t, errors.Join(err, l.Close()))
	r := whole(t, m, 1002, before)
	if r.Pruned != 768 || r.Absent != 768 {
		t.Errorf("%+v", r)
	}
	if got := entries(t, m); len(got) != 1002-768 {
		t.Errorf("%d entries", len(got))
	}
	v, err := audit.OpenView(m, dir, nil)
	must(t, err)
	if _, err := v.Prove(800); err != nil {
		t.Error(err)
	}
	if _, err := v.Prove(10); err == nil {
		t.Error("an entry that is not here is proved")
	}
	with := audit.VerifyOptions{Archive: "/d/archive"}
	if r, err := audit.Verify(context.Background(), m, dir, with); err != nil || r.Absent != 0 {
		t.Errorf("with the archive: %+v, %v", r, err)
	}
	name := "/d/archive/tile/entries/001"
	b := read(t, m, name)
	write(t, m, name, bytes.Replace(b, entry(300), bytes.Replace(entry(300), []byte("read"), []byte("look"), 1), 1))
	if _, err := audit.Verify(context.Background(), m, dir, with); !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), "entry 300 ") {
		t.Errorf("altered in the archive: %v", err)
	}
	must(t, m.Remove(filepath.Join(dir, "tile", "entries", "003.p", fmt.Sprint(1002-768))))
	if _, err := verify(t, m); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("more is gone than was pruned: %v", err)
	}
}

// TestWitness: a cosigned checkpoint is the log's as before, and shows who saw it.
func TestWitness(t *testing.T) {
	m := disk(t)
	fill(t, m, 10)
	name := filepath.Join(dir, "checkpoint")
	w := keyOf(7)
	cosigned, err := audit.Cosign(read(t, m, name), "witness.example", w, start)
	must(t, err)
	pub := audit.PublicKey{Name: "witness.example", Key: w.Public(), Witness: true}
	if _, err := audit.ParsePublicKey(pub.String()); err != nil {
		t.Error(err)
	}
	check := func(k audit.PublicKey) error {
		_, err := audit.Verify(context.Background(), m, dir, audit.VerifyOptions{Witnesses: []audit.PublicKey{k}})
		return err
	}
	if check(pub) == nil {
		t.Error("a checkpoint is cosigned by nobody")
	}
	write(t, m, name, cosigned)
	whole(t, m, 10)
	if err := check(pub); err != nil {
		t.Error(err)
	}
	if check(audit.PublicKey{Name: "witness.example", Key: seal.NewKey().Public(), Witness: true}) == nil {
		t.Error("another witness did")
	}
	fill(t, m, 1)
}
