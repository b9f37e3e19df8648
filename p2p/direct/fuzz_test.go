package direct

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/internal/vfs"
)

// specimens are real bytes of each kind that comes from outside, in the order of decoders.
func specimens(t testing.TB, keys *keyring) [][]byte {
	_, b := keys.newest()
	e := envelope{kind: kindMessage, epoch: 3, seq: 9, floor: 2, at: birth, body: []byte("hello")}
	sealed, err := sealTo(keyNumber(1), b, e.append(nil))
	if err != nil {
		t.Fatal(err)
	}
	g, err := signList(keyNumber(1), Group{Name: "team", Owner: idA, Members: []peer.ID{idA, idB}, Version: 1, Changed: birth}, [nonceSize]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	offer := append(append([]byte{fileVersion, 0, 0, 0, 0, 0, 0, 1, 0}, make([]byte, 32)...), "f.txt"...)
	return [][]byte{e.append(nil), b.raw, g.raw, sealed, encodeKept(idA, [tagSize]byte{1}, birth, sealed), encodeState(5, []byte("midstate")), offer}
}

// decoders are those of bytes from outside. Each makes again what it has read.
func decoders(keys *keyring) []func([]byte) ([]byte, error) {
	return []func([]byte) ([]byte, error){
		func(b []byte) ([]byte, error) { e, err := decodeEnvelope(b); return e.append(nil), err },
		func(b []byte) ([]byte, error) {
			k, err := decodeBundle(b)
			if err != nil {
				return nil, err
			}
			return k.raw, nil
		},
		func(b []byte) ([]byte, error) {
			g, err := decodeList(b)
			if err != nil {
				return nil, err
			}
			return g.raw, nil
		},
		func(b []byte) ([]byte, error) { _, _, err := keys.open(b); return b, err },
		func(b []byte) ([]byte, error) {
			k, sealed, err := decodeKept(b)
			if err != nil {
				return nil, err
			}
			return encodeKept(k.from, k.tag, k.at, sealed), nil
		},
		func(b []byte) ([]byte, error) { at, mid, err := decodeState(b); return encodeState(at, mid), err },
		func(b []byte) ([]byte, error) {
			o, err := decodeOffer(b)
			out := binary.BigEndian.AppendUint64([]byte{fileVersion}, uint64(o.Size))
			return append(append(out, o.SHA256[:]...), o.Name...), err
		},
	}
}

// FuzzDecoders: no bytes make a decoder fail otherwise than by ErrCorrupt, and what it takes is what is made of it again.
func FuzzDecoders(f *testing.F) {
	keys := frozenKeys(f)
	all := decoders(keys)
	for i, b := range specimens(f, keys) {
		if again, err := all[i](b); err != nil || !bytes.Equal(again, b) {
			f.Fatal(i, err)
		}
		f.Add(byte(i), b)
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		i := int(kind) % len(all)
		again, err := all[i](b)
		switch {
		case err != nil && !errors.Is(err, ErrCorrupt):
			t.Fatal(err)
		case err != nil:
		case i == 4: // three bytes are not read
			if len(again) != len(b) {
				t.Fatal(len(again), len(b))
			}
		case !bytes.Equal(again, b):
			t.Fatalf("%x was read as %x", b, again)
		}
	})
}

// FuzzFrames: however records part a stream, the same frames come out, or the same error; and no more is held than came.
func FuzzFrames(f *testing.F) {
	q := newQueue()
	for i, body := range []string{"", "x", "a longer one", string(make([]byte, 300))} {
		if err := q.put(context.Background(), byte(i+1), uint64(i), []byte(body), []byte("!")); err != nil {
			f.Fatal(err)
		}
	}
	whole, _ := q.take(nil)
	f.Add(whole, uint16(1))
	f.Add(whole, uint16(7))
	f.Add(whole[:len(whole)-3], uint16(100))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1}, uint16(3))
	f.Fuzz(func(t *testing.T, b []byte, step uint16) {
		var one, many bytes.Buffer
		read := func(to *bytes.Buffer, n int) error {
			var fr frames
			for at := 0; at < len(b); at += n {
				err := fr.feed(b[at:min(at+n, len(b))], func(kind byte, id uint64, payload []byte) error {
					fmt.Fprintf(to, "%d %d %x\n", kind, id, payload)
					return nil
				})
				if err != nil {
					return err
				}
				if len(fr.part) > len(b) {
					t.Fatalf("%d bytes are held of %d", len(fr.part), len(b))
				}
			}
			return nil
		}
		e1, e2 := read(&one, max(len(b), 1)), read(&many, int(step)+1)
		if (e1 == nil) != (e2 == nil) || one.String() != many.String() {
			t.Fatalf("%v, %v\n%s\n%s", e1, e2, one.String(), many.String())
		}
	})
}

// FuzzLog: whatever records a frame of the log has, opening it fails by ErrCorrupt or works, and then all of a ledger's work does.
func FuzzLog(f *testing.F) {
	g, err := signList(keyNumber(1), Group{Name: "team", Owner: idA, Members: []peer.ID{idA, idB}, Version: 1, Changed: birth}, [nonceSize]byte{1})
	if err != nil {
		f.Fatal(err)
	}
	group := append(append(bytes.Clone(g.ID[:]), make([]byte, contentSize)...), "hi"...)
	_, b := testKeys(f, keyNumber(2), birth).newest()
	seeds := []rec{
		{typ: recSent, peer: idB, epoch: 5, seq: 1, at: birth, kind: kindMessage, body: []byte("one")},
		{typ: recSent, peer: idC, epoch: 5, seq: 1, at: birth, kind: kindGroup, body: group}, {typ: recSent, peer: idB, epoch: 5, seq: 2, kind: kindGroup, flags: flagSame | flagCopy},
		{typ: recDone, peer: idB, epoch: 5, seq: 1, how: doneAcked},
		{typ: recReceived, index: 1, peer: idB, epoch: 9, seq: 3, floor: 2, at: birth, got: birth, kind: kindMessage, body: []byte("two")},
		{typ: recShown, index: 1}, {typ: recRenew, peer: idB, epoch: 7}, {typ: recList, body: g.raw}, {typ: recBundle, body: b.raw},
		{typ: recChannel, peer: idB, epoch: 7, seq: 4}, {typ: recWindow, peer: idB, epoch: 9, low: 64, used: 1, body: []byte{0, 0, 0, 0, 0, 0, 0, 5}},
		{typ: recCursor, index: 1, nextIdx: 2}, {typ: recEnd},
	}
	var all []byte
	for i := range seeds {
		f.Add(appendRecord(nil, &seeds[i]))
		all = appendRecord(all, &seeds[i])
	}
	f.Add(all)
	box := testBox()
	f.Fuzz(func(t *testing.T, plain []byte) {
		if len(plain) > 1<<16 {
			return
		}
		mem := vfs.NewMem()
		if err := mem.MkdirAll("/d"); err != nil {
			t.Fatal(err)
		}
		raw := appendSegmentHead(nil, 1, 0)
		for _, p := range [][]byte{appendRecord(nil, &rec{typ: recEnd}), plain} {
			frame, err := sealFrame(box, p, 1, int64(len(raw)))
			if err != nil {
				t.Fatal(err)
			}
			raw = append(raw, frame...)
		}
		if err := writeNew(mem, "/d/"+segmentName(1), raw); err != nil {
			t.Fatal(err)
		}
		l, err := openLedger(mem, "/d", idA, box, tiny, func() time.Time { return birth })
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		_, _ = l.send(context.Background(), []outgoing{{idB, kindMessage, []byte("more")}}, birth)
		done := make(chan error, 1)
		if err := l.receive(context.Background(), idB, &envelope{kind: kindMessage, epoch: 9, seq: 5, floor: 1, at: birth}, nil, func(err error) { done <- err }); err == nil {
			<-done
		}
		for _, id := range []peer.ID{idB, idC} {
			if _, err := l.peerHistory(id, 100); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.prune(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		again, err := openLedger(mem, "/d", idA, box, tiny, func() time.Time { return birth })
		if err != nil {
			t.Fatalf("it opened, and does not open again: %v", err)
		}
		if err := again.close(); err != nil {
			t.Fatal(err)
		}
	})
}
