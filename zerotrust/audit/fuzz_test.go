package audit

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

func fuzzKey() seal.Key {
	k, _ := seal.KeyFromSeed(bytes.Repeat([]byte{1}, 32))
	return k
}

// FuzzProof: no text crashes it, what it reads it writes the same, and a proof that holds has an entry that was logged.
func FuzzProof(f *testing.F) {
	entries := [][]byte{[]byte(`{"a":1}`), []byte(`{"b":2}`), []byte(`{"c":3}`)}
	var at frontier
	for _, e := range entries {
		at.add(tlog.RecordHash(e))
	}
	c, err := Checkpoint{"example.com/audit", 3, at.root()}.sign(newSigner("example.com/audit", fuzzKey()))
	if err != nil {
		f.Fatal(err)
	}
	leaf := tlog.RecordHash
	paths := [][]tlog.Hash{{leaf(entries[1]), leaf(entries[2])}, {leaf(entries[0]), leaf(entries[2])}, {tlog.NodeHash(leaf(entries[0]), leaf(entries[1]))}}
	trust := []PublicKey{{Name: "example.com/audit", Key: fuzzKey().Public()}}
	for i, e := range entries {
		p := &Proof{Index(i), e, paths[i], c}
		if _, err := p.Check(trust); err != nil {
			f.Fatal(err)
		}
		f.Add(p.Encode())
	}
	cosigned, err := Cosign(c, "witness.example", fuzzKey(), time.Unix(1e9, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add((&Proof{0, entries[0], paths[0], cosigned}).Encode())
	f.Add([]byte(proofMagic + "\nextra \nindex 0\n\nexample.com\n0\n\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseProof(b)
		if err != nil {
			if !errors.Is(err, ErrProof) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(p.Encode(), b) {
			t.Fatalf("%q is written as %q", b, p.Encode())
		}
		if _, err := p.Check(trust); err == nil && (p.Index > 2 || !bytes.Equal(p.Entry, entries[p.Index])) {
			t.Fatalf("a proof of %q at %d", p.Entry, p.Index)
		}
	})
}

// FuzzNotes: no text crashes what reads checkpoints, keys and hand-overs; what they read they write the same.
func FuzzNotes(f *testing.F) {
	s := newSigner("example.com/audit", fuzzKey())
	c, err := Checkpoint{"example.com/audit", 12, tlog.Hash{1}}.sign(s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c)
	f.Add([]byte(s.k.String()))
	f.Add([]byte(PublicKey{"witness.example", fuzzKey().Public(), true}.String()))
	f.Add([]byte(handover(s.k, 1, 12)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ParsePublicKey(string(b)); err == nil && k.String() != string(b) {
			t.Fatalf("key %q is written as %q", b, k)
		}
		if k, size, err := parseHandover(string(b), 1); err == nil && handover(k, 1, size) != string(b) {
			t.Fatalf("hand-over %q", b)
		}
		if c, err := parseCheckpoint(b); err == nil && !bytes.HasPrefix(b, []byte(c.text())) {
			t.Fatalf("checkpoint %q is written as %q", b, c.text())
		}
		_, _, _ = openCheckpoint(b, []PublicKey{s.k})
	})
}

// FuzzFiles: no bytes of a bundle, a tile or a file of records crash what reads them; a log that has such files of records is opened with
// what it had, or is broken.
func FuzzFiles(f *testing.F) {
	m := vfs.NewMem()
	open := func(m *vfs.Mem) (*Log, error) {
		return Open(Options{Dir: "/d", FS: m, Key: fuzzKey(), Origin: "example.com/audit", PublishEvery: time.Hour})
	}
	l, err := open(m)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 3 {
		if _, err := l.Append(f.Context(), []byte(`{"n":"`+string(rune('a'+i))+`"}`), true); err != nil {
			f.Fatal(err)
		}
	}
	frozen := m.Crash(nil)
	raw, err := readFile(frozen, segmentPath("/d", 0), 1<<20)
	if err != nil || len(raw) == 0 {
		f.Fatal(err)
	}
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(raw, 3)
	f.Add(raw[:len(raw)-5], 3)
	f.Add(append(bytes.Clone(raw[:len(raw)/2]), raw...), 3)
	f.Add(appendEntry(appendEntry(nil, []byte(`{"a":1}`)), []byte(`{}`)), 2)
	f.Add(make([]byte, 64), 2)
	f.Add([]byte("0"), -72)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if es, err := splitBundle(b, n); err == nil {
			var back []byte
			for _, e := range es {
				back = appendEntry(back, e)
			}
			if !bytes.Equal(back, b) || len(es) != n {
				t.Fatalf("%x is written as %x", b, back)
			}
		}
		if h, err := splitTile(b, n); err == nil && !bytes.Equal(join(h), b) {
			t.Fatal("a tile is written otherwise")
		}
		m := frozen.Crash(nil)
		name := segmentPath("/d", 0)
		if err := errors.Join(m.Remove(name), writeFile(m, name, b)); err != nil {
			t.Fatal(err)
		}
		l, err := open(m)
		if err != nil {
			if !errors.Is(err, ErrBroken) {
				t.Fatal(err)
			}
			return
		}
		if s := l.Stats(); s.Size > 3 {
			t.Fatalf("%d entries", s.Size)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestQueue: a queue gives what was put, in order, and is full when it says so.
func TestQueue(t *testing.T) {
	q := newQueue(5)
	for round := range 100 {
		n := 0
		for q.push(item{entry: []byte{byte(n)}}) {
			n++
		}
		if n != 8 || q.len() != 8 {
			t.Fatalf("round %d: %d", round, n)
		}
		for i := range round%8 + 1 {
			if it, ok := q.pop(); !ok || it.entry[0] != byte(i) {
				t.Fatalf("round %d: %v, %v", round, it, ok)
			}
		}
		for ok := true; ok; {
			_, ok = q.pop()
		}
	}
}
