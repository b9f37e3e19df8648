package integrity

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata/v1.baseline anew: only where the format has a new version")

// sample is a baseline with one of everything.
func sample() (Header, []*Entry) {
	h := Header{Number: 3, Created: time.Unix(1764150000, 5).UTC(), Previous: Hash{9, 8, 7}, Algorithm: BLAKE3, Roots: []string{"/etc", "/usr/bin"}, Exclude: []string{"/etc/mtab", "**/*.tmp"}}
	at := int64(1764149999123456789)
	return h, []*Entry{
		{Path: "/etc", Type: Directory, Mode: 0o755, Inode: 2},
		{Path: "/etc/a", Type: Regular, Mode: 0o4755, UID: 1, GID: 1<<32 - 1, Inode: 1 << 60, Links: 2, Size: 5, MTime: at, CTime: at + 1, Hash: Hash{1, 2, 3},
			XAttrs: []XAttr{{"security.capability", Hash{4}}, {"user.x", Hash{5}}}},
		{Path: "/etc/a/\xff\n", Type: Symlink, Mode: 0o777, Inode: 3, Links: 1, MTime: -1, CTime: at, Target: "../x"},
		{Path: "/etc/a-b", Type: FIFO, Mode: 0o600, Inode: 4, Links: 1, MTime: at, CTime: at, Racy: true},
		{Path: "/etc/c", Type: CharDevice, Inode: 5, Links: 1, Device: 259},
		{Path: "/etc/d", Type: BlockDevice, Inode: 6, Links: 1, Device: 1 << 40},
		{Path: "/etc/m", Type: Directory, Mode: 0o1777, Inode: 7, Mount: true},
		{Path: "/etc/o", Type: Other, Inode: 8, Links: 1},
		{Path: "/etc/s", Type: Socket, Inode: 9, Links: 1},
		{Path: "/etc/u", Type: Regular, Inode: 10, Links: 1, Size: 1 << 62, Unread: true},
		{Path: "/usr/bin", Type: Symlink, Inode: 11, Links: 1, Target: "bin"},
	}
}

func encode(t testing.TB, h *Header, entries []*Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := newWriter(&b, h)
	for _, e := range entries {
		must(t, w.add(e))
	}
	_, err := w.finish(sign)
	must(t, err)
	return b.Bytes()
}

func decode(raw []byte, verify func(string, []byte, []byte) error) (*Baseline, []*Entry, error) {
	b, err := readBaseline(bytes.NewReader(raw), int64(len(raw)), verify)
	if err != nil {
		return nil, nil, err
	}
	var out []*Entry
	for c := b.from(""); ; {
		e, err := c.next()
		if e == nil || err != nil {
			return b, out, err
		}
		out = append(out, e)
	}
}

// TestFrozen: the first version's bytes are read, and written the same.
func TestFrozen(t *testing.T) {
	h, entries := sample()
	raw := encode(t, &h, entries)
	const name = "testdata/v1.baseline"
	if *update {
		must(t, os.MkdirAll("testdata", 0o755), os.WriteFile(name, raw, 0o644))
	}
	frozen, err := os.ReadFile(name)
	must(t, err)
	if !bytes.Equal(frozen, raw) {
		t.Error("the same entries are other bytes now: readers of the first version could not read them")
	}
	b, got, err := decode(frozen, verify)
	must(t, err)
	if fmt.Sprintf("%+v", b.Header) != fmt.Sprintf("%+v", h) || len(got) != len(entries) {
		t.Fatalf("%+v, %d entries", b.Header, len(got))
	}
	for i := range got {
		if fmt.Sprintf("%+v", got[i]) != fmt.Sprintf("%+v", entries[i]) {
			t.Errorf("%+v\nnot %+v", got[i], entries[i])
		}
	}
}

// TestDamage: no byte can be another, and no end be missing.
func TestDamage(t *testing.T) {
	h, entries := sample()
	raw := encode(t, &h, entries)
	for i := range raw {
		for _, bit := range []byte{1, 0x80} {
			bad := bytes.Clone(raw)
			bad[i] ^= bit
			if _, _, err := decode(bad, verify); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrSignature) {
				t.Fatalf("byte %d: %v", i, err)
			}
		}
		if _, _, err := decode(raw[:i], verify); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, _, err := decode(append(bytes.Clone(raw), 0), verify); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte more: %v", err)
	}
	// It is changed after it was verified.
	live := bytes.Clone(raw)
	b, err := readBaseline(bytes.NewReader(live), int64(len(live)), verify)
	must(t, err)
	live[b.index[0].at+5] ^= 1
	if _, err := b.from("").next(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("changed while in use: %v", err)
	}
}

// TestCanonical: what a careless writer might make is refused.
func TestCanonical(t *testing.T) {
	h, entries := sample()
	bad := func(name string, change func(h *Header, e []*Entry) []*Entry) {
		t.Helper()
		h, copied := h, []*Entry{}
		for _, e := range entries {
			c := *e
			copied = append(copied, &c)
		}
		copied = change(&h, copied)
		var out bytes.Buffer
		w := newWriter(&out, &h)
		w.err = nil // whatever the writer has against it
		for _, e := range copied {
			w.last = ""
			w.count = 0
			w.add(e)
		}
		w.count = uint64(len(copied))
		_, err := w.finish(sign)
		must(t, err)
		if _, _, err := decode(out.Bytes(), verify); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad("order", func(_ *Header, e []*Entry) []*Entry { e[1], e[3] = e[3], e[1]; return e })
	bad("twice", func(_ *Header, e []*Entry) []*Entry { return slices.Insert(e, 2, e[1]) })
	bad("a path with ..", func(_ *Header, e []*Entry) []*Entry { e[1].Path = "/etc/.."; return e })
	bad("a path outside", func(_ *Header, e []*Entry) []*Entry { e[10].Path = "/usr/lib"; return e })
	bad("a path with NUL", func(_ *Header, e []*Entry) []*Entry { e[10].Path = "/usr/bin/\x00"; return e })
	bad("a mode", func(_ *Header, e []*Entry) []*Entry { e[1].Mode = 0o10000; return e })
	bad("attributes out of order", func(_ *Header, e []*Entry) []*Entry { slices.Reverse(e[1].XAttrs); return e })
	bad("a mounted file", func(_ *Header, e []*Entry) []*Entry { e[1].Mount = true; return e })
	bad("roots", func(h *Header, e []*Entry) []*Entry { h.Roots = []string{"/", "/etc", "/usr/bin"}; return e })
	bad("no root", func(h *Header, e []*Entry) []*Entry { h.Roots = nil; return nil })
	bad("a pattern", func(h *Header, e []*Entry) []*Entry { h.Exclude = []string{"x"}; return e })
	bad("number 0", func(h *Header, e []*Entry) []*Entry { h.Number = 0; return e })
}

// TestCanonicalBytes: what only other writers than ours can make is refused.
func TestCanonicalBytes(t *testing.T) {
	d := decoder{b: []byte{0x85, 0x00}}
	if d.uvarint("a number", 100); !errors.Is(d.err, ErrCorrupt) {
		t.Error("5 in two bytes is taken")
	}
	_, entries := sample()
	d = decoder{b: appendEntry(nil, "", entries[1])}
	if d.entry("/etc"); !errors.Is(d.err, ErrCorrupt) {
		t.Error("a path that says less than it shares is taken")
	}
	h, entries := sample()
	var out bytes.Buffer
	w := newWriter(&out, &h)
	for _, e := range entries {
		must(t, w.add(e))
		if e == entries[2] {
			w.flush()
		}
	}
	_, err := w.finish(sign)
	must(t, err)
	if _, _, err := decode(out.Bytes(), verify); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a block that ends early: %v", err)
	}
}

// TestBlocks: a cursor from any path begins there, whatever blocks there are.
func TestBlocks(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var entries []*Entry
	for i := range 20_000 {
		entries = append(entries, &Entry{Path: fmt.Sprintf("/r/%05d/%s", i/10, strings.Repeat("n", 1+i%10)), Type: Regular, Size: int64(i), Inode: rng.Uint64(), Hash: Hash{byte(i)}})
	}
	h := Header{Number: 1, Created: time.Unix(0, 0).UTC(), Algorithm: SHA256, Roots: []string{"/r"}}
	b, got, err := decode(encode(t, &h, entries), verify)
	must(t, err)
	if len(got) != len(entries) || len(b.index) < 10 {
		t.Fatalf("%d entries in %d blocks", len(got), len(b.index))
	}
	for range 300 {
		i := rng.IntN(len(entries))
		c := b.from(entries[i].Path)
		for {
			e, err := c.next()
			must(t, err)
			if e == nil {
				t.Fatalf("%s is not found", entries[i].Path)
			}
			if compare(e.Path, entries[i].Path) >= 0 {
				if e.Path != entries[i].Path || e.Inode != entries[i].Inode {
					t.Fatalf("%+v, not %+v", e, entries[i])
				}
				break
			}
		}
	}
}

// FuzzBaseline: no bytes crash or bloat the reader, and what it takes is written as the same bytes.
func FuzzBaseline(f *testing.F) {
	h, entries := sample()
	raw := encode(f, &h, entries)
	f.Add(raw)
	f.Add(raw[:len(raw)/2])
	h.Algorithm, h.CrossMounts = SHA256, true
	f.Add(encode(f, &h, entries[:1]))
	tr := newTree(f)
	tr.write("a/b", "c")
	tr.baseline()
	made, err := os.ReadFile(tr.store.Dir + "/baseline-1")
	must(f, err)
	f.Add(made)
	f.Fuzz(func(t *testing.T, raw []byte) {
		// Neither digest nor signature keep the fuzzer out: it is what a key's owner may have signed.
		raw = resigned(raw)
		b, entries, err := decode(raw, func(string, []byte, []byte) error { return nil })
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if again := encode(t, &b.Header, entries); !bytes.Equal(again[:len(again)-66], raw[:len(again)-66]) {
			t.Fatalf("%x\nis written as\n%x", raw, again)
		}
		if b.Entries != uint64(len(entries)) {
			t.Fatalf("%d entries, not %d", len(entries), b.Entries)
		}
	})
}

// resigned puts the right digest in the place where one with a signature of 64 bytes has it.
func resigned(raw []byte) []byte {
	const tail = HashSize + 2 + 64
	if len(raw) < tail+9 {
		return raw
	}
	out := bytes.Clone(raw)
	h := Algorithm(out[8]).new()
	h.Write(out[:len(out)-tail])
	copy(out[len(out)-tail:], h.Sum(nil))
	return out
}

// TestHashes: both algorithms give the published values, so that a listing can be compared with other tools'.
func TestHashes(t *testing.T) {
	for a, want := range map[Algorithm]string{
		BLAKE3: "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85", // of "abc": the test vector of b3sum's repository
		SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", // FIPS 180-2, B.1
	} {
		tr := newTree(t)
		tr.write("f", "abc")
		_, err := tr.store.Create(context.Background(), Header{Roots: []string{tr.path("f")}, Algorithm: a}, Look{}, false)
		must(t, err)
		e, err := tr.open().from("").next()
		must(t, err)
		if e.Hash.String() != want {
			t.Errorf("%v: %v", a, e.Hash)
		}
	}
}
