package direct

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

const frozen = "testdata/v1"

// freeze writes the fixture: a folder of a node, and one of each thing that goes over the wire.
func freeze(t *testing.T) {
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	secret, err := storeKey(keyNumber(2))
	if err != nil {
		t.Fatal(err)
	}
	box, err := seal.NewBox(secret)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := openKeyring(mem, "/d", keyNumber(2), box, birth)
	if err != nil {
		t.Fatal(err)
	}
	l, err := openLedger(mem, "/d", idB, box, tiny, func() time.Time { return birth })
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, err := l.send(ctx, []outgoing{{idC, kindMessage, []byte("pending")}}, birth); err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= 3; seq++ {
		done := make(chan error, 1)
		e := envelope{kind: kindMessage, epoch: 77, seq: seq, floor: 1, at: birth, body: fmt.Append(nil, "message ", seq)}
		if err := errors.Join(l.receive(ctx, idA, &e, nil, func(err error) { done <- err }), <-done); err != nil {
			t.Fatal(err)
		}
	}
	l.show(2)
	g, err := signList(keyNumber(1), Group{Name: "team", Owner: idA, Members: []peer.ID{idA, idB}, Version: 1, Changed: birth}, [nonceSize]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.note(ctx, recList, g.raw), l.close()); err != nil {
		t.Fatal(err)
	}
	_, b := keys.newest()
	e := envelope{kind: kindMessage, epoch: 3, seq: 9, floor: 2, at: birth, body: []byte("hello")}
	sealed, err := sealTo(keyNumber(1), b, e.append(nil))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"envelope": e.append(nil), "bundle": b.raw, "list": g.raw, "sealed": sealed, "kept": encodeKept(idA, [tagSize]byte{1}, birth, sealed),
		"state": encodeState(5, []byte("midstate"))}
	for _, name := range []string{keysName, segmentName(1)} {
		if files["node/"+name], err = readWhole(mem, "/d/"+name, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	for name, raw := range files {
		path := filepath.Join(frozen, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, raw, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// frozenKeys is the fixture's keyring: the same in each process of a fuzz test.
func frozenKeys(t testing.TB) *keyring {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(frozen, "node", keysName))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := storeKey(keyNumber(2))
	if err != nil {
		t.Fatal(err)
	}
	box, err := seal.NewBox(secret)
	if err != nil {
		t.Fatal(err)
	}
	mem := vfs.NewMem()
	if err := errors.Join(mem.MkdirAll("/d"), writeNew(mem, "/d/"+keysName, raw)); err != nil {
		t.Fatal(err)
	}
	keys, err := openKeyring(mem, "/d", keyNumber(2), box, birth)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestFrozen reads what version 1 wrote. Every later version must.
func TestFrozen(t *testing.T) {
	if *golden {
		freeze(t)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(frozen, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{keysName, segmentName(1)} {
		if err := writeNew(mem, "/d/"+name, read("node/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	r := newReader()
	h := newHost(t, keyNumber(2))
	o := fast(keyNumber(2), mem, "/d")
	o.Now, o.Deliver = func() time.Time { return birth.Add(time.Hour) }, r.deliver
	s := start(t, h, o)
	if got := r.bodies(t, 1); len(got) != 1 || got[0] != "message 3" {
		t.Fatal(got)
	}
	hist, err := s.History(idA, 10)
	if err != nil || len(hist) != 3 || string(hist[0].Body) != "message 1" || !hist[0].Sent.Equal(birth) || hist[2].Index != 3 {
		t.Fatalf("%+v %v", hist, err)
	}
	if n := s.Pending(idC); n != 1 {
		t.Fatal(n)
	}
	if g := s.Groups(); len(g) != 1 || g[0].Name != "team" || g[0].Owner != idA || len(g[0].Members) != 2 {
		t.Fatalf("%+v", g)
	}
	from, raw, err := s.keys.open(read("sealed"))
	if err != nil || from != idA || !bytes.Equal(raw, read("envelope")) {
		t.Fatal(from, err)
	}
	e, err := decodeEnvelope(raw)
	if err != nil || e.epoch != 3 || e.seq != 9 || e.floor != 2 || string(e.body) != "hello" || !e.at.Equal(birth) {
		t.Fatalf("%+v %v", e, err)
	}
	b, err := decodeBundle(read("bundle"))
	if err != nil || b.generation != 1 || idOf(b.key) != idB {
		t.Fatalf("%+v %v", b, err)
	}
	if _, err := decodeList(read("list")); err != nil {
		t.Fatal(err)
	}
	if k, _, err := decodeKept(read("kept")); err != nil || k.from != idA || k.to != idB || k.tag[0] != 1 {
		t.Fatalf("%+v %v", k, err)
	}
	if at, mid, err := decodeState(read("state")); err != nil || at != 5 || string(mid) != "midstate" {
		t.Fatal(at, mid, err)
	}
}
