package direct

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

var golden = flag.Bool("golden", false, "write testdata/order.golden anew")

var birth = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

var (
	idA = idOf(keyNumber(1).Public())
	idB = idOf(keyNumber(2).Public())
	idC = idOf(keyNumber(3).Public())
)

// tiny are limits with which segments are begun, carried from and removed all the time.
var tiny = limits{outbox: 1 << 20, perPeer: 1 << 20, inbox: 1 << 20, history: 1800, age: time.Hour, segment: 600}

func testBox() *seal.Box {
	b, err := seal.NewBox([]byte(strings.Repeat("k", seal.BoxKeySize)))
	if err != nil {
		panic(err)
	}
	return b
}

// disk opens a ledger in a folder of a file system. It is closed with the test, also one whose disk has failed.
func disk(t *testing.T, f vfs.FS, self peer.ID, o limits) (*ledger, error) {
	if err := errors.Join(f.MkdirAll("/d"), f.SyncDir("/")); err != nil {
		return nil, err
	}
	l, err := openLedger(f, "/d", self, testBox(), o, func() time.Time { return birth })
	if err == nil {
		t.Cleanup(func() { _ = l.close() })
	}
	return l, err
}

// bring is the wire: it takes what is pending at a to b, some of it twice and some out of order, and acknowledges what b has on its disk.
func bring(a, b *ledger) error {
	ctx := context.Background()
	var all []envelope
	for epoch, last := uint64(0), uint64(0); ; {
		p, floor := a.waiting(b.self, epoch, last)
		if p == nil {
			break
		}
		epoch, last = p.epoch, p.seq
		all = append(all, envelope{kind: p.kind, epoch: p.epoch, seq: p.seq, floor: floor, at: p.at, body: p.body})
	}
	if len(all) > 2 {
		all[0], all[1] = all[1], all[0]
		all = append(all, all[2])
	}
	for _, e := range all {
		e, err := decodeEnvelope(e.append(nil))
		if err != nil {
			return err
		}
		done := make(chan error, 1)
		if err := b.receive(ctx, a.self, &e, nil, func(err error) { done <- err }); err != nil {
			return err
		}
		if err := <-done; err != nil {
			return err
		}
		a.finished(b.self, e.epoch, e.seq, doneAcked)
	}
	return nil
}

// show gives what b has to its reader.
func show(b *ledger, r *reader) {
	for {
		m, ok, _ := b.after(r.last)
		if !ok {
			return
		}
		_ = r.deliver(context.Background(), m)
		b.show(m.Index)
	}
}

const crashMessages = 9

// story is what happens until all is done or a disk fails: messages are sent, some before they are brought.
func story(a, b *ledger, r *reader, from int, acked *[]string) (next int, err error) {
	for i := from; i < crashMessages; i++ {
		body := fmt.Sprintf("%02d %s", i, strings.Repeat("x", 40*(i%3)))
		if _, err := a.send(context.Background(), []outgoing{{b.self, kindMessage, []byte(body)}}, birth); err != nil {
			return i + 1, err // it may be there or not, and is not sent again
		}
		*acked = append(*acked, body)
		if i%3 == 2 {
			if err := bring(a, b); err != nil {
				return i + 1, err
			}
			show(b, r)
		}
	}
	if err := bring(a, b); err != nil {
		return crashMessages, err
	}
	show(b, r)
	synctest.Wait()
	return crashMessages, errors.Join(a.fault, b.fault)
}

// killed is the seed with which it is not the power that fails, but the process that dies: what it has written and not synced is there when
// the next one starts, and is on no disk.
const killed = 2

// TestCrashEverywhere: the power of one side fails at each operation of its disk in turn. After it is there again each message whose Send
// has returned is shown once, and no other more than once.
func TestCrashEverywhere(t *testing.T) {
	for _, side := range []string{"sender", "recipient"} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { crashEverywhere(t, side) })
		})
	}
}

func crashEverywhere(t *testing.T, side string) {
	for n, cut := 0, true; cut; n++ {
		if n > 5000 {
			t.Fatal("it does not end")
		}
		for seed := range uint64(3) {
			cut = crashAt(t, side, n, seed)
		}
	}
}

func crashAt(t *testing.T, side string, n int, seed uint64) (cut bool) {
	where := fmt.Sprintf("operation %d of the %s, seed %d", n, side, seed)
	var left, power atomic.Int64
	left.Store(int64(n))
	mems := []*vfs.Mem{vfs.NewMem(), vfs.NewMem()}
	failing := 0
	if side == "recipient" {
		failing = 1
	}
	fss := []vfs.FS{mems[0], mems[1]}
	fss[failing] = vfs.Hook(mems[failing], func(op vfs.Op) error {
		if !op.Changes() && left.Load() > 0 { // without power at a reading the disk is as at the next change
			return nil
		}
		if left.Add(-1) < 0 {
			power.Store(1)
			return errors.New("no power")
		}
		return nil
	})
	r := newReader()
	var acked []string
	next := 0
	ledgers := make([]*ledger, 2)
	var err error
	for i, id := range []peer.ID{idA, idB} {
		var e error
		ledgers[i], e = disk(t, fss[i], id, tiny)
		err = errors.Join(err, e)
	}
	if err == nil {
		next, err = story(ledgers[0], ledgers[1], r, 0, &acked)
		synctest.Wait()
	}
	cut = power.Load() == 1
	if err != nil && !cut {
		t.Fatalf("%s: %v", where, err)
	}
	var rng *rand.Rand
	if seed > 0 {
		rng = rand.New(rand.NewPCG(uint64(n), seed))
	}
	if seed < killed {
		mems[failing] = mems[failing].Crash(rng)
	}
	for i, l := range ledgers {
		if l != nil {
			_ = l.close()
		}
		if i != failing {
			mems[i] = mems[i].Crash(nil) // of the other side nothing may be lost either: it was closed
		}
	}
	for i, id := range []peer.ID{idA, idB} {
		if ledgers[i], err = disk(t, mems[i], id, tiny); err != nil {
			t.Fatalf("%s: %v", where, err)
		}
	}
	show(ledgers[1], r)
	if _, err := story(ledgers[0], ledgers[1], r, next, &acked); err != nil {
		t.Fatalf("%s: after the crash: %v", where, err)
	}
	if n := ledgers[0].count(idB); n != 0 {
		t.Fatalf("%s: %d are still pending", where, n)
	}
	var got []string
	for _, m := range r.got {
		got = append(got, string(m.Body))
	}
	sorted := slices.Sorted(slices.Values(got))
	if len(slices.Compact(slices.Clone(sorted))) != len(got) {
		t.Fatalf("%s: one was shown twice: %q", where, got)
	}
	for _, body := range acked {
		if !slices.Contains(got, body) {
			t.Fatalf("%s: %q was acknowledged and never shown; shown were %q", where, body, got)
		}
	}
	stays(t, ledgers, mems, where)
	return cut
}

// stays closes ledgers and sees that all that they know is on disk.
func stays(t *testing.T, ledgers []*ledger, mems []*vfs.Mem, where string) {
	next2 := ledgers[0].channels[idB].next
	top := ledgers[1].top(idA, ledgers[0].channels[idB].epoch)
	for i, l := range ledgers {
		if err := l.close(); err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		var err error
		if ledgers[i], err = disk(t, mems[i].Crash(nil), l.self, tiny); err != nil {
			t.Fatalf("%s: %v", where, err)
		}
	}
	if _, found := ledgers[0].unsure(idB); found != next2 || ledgers[0].count(idB) != 0 {
		t.Fatalf("%s: the sender goes on with %d, not with %d", where, found, next2)
	}
	if got := ledgers[1].top(idA, ledgers[0].channels[idB].epoch); got != top {
		t.Fatalf("%s: the recipient has %d, not %d", where, got, top)
	}
	for _, l := range ledgers {
		if err := l.close(); err != nil {
			t.Fatalf("%s: %v", where, err)
		}
	}
}

// TestFaultEverywhere: each operation of the disk fails once, and the process goes on. What failed is said, and nothing that was
// acknowledged is lost, also after a crash.
func TestFaultEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for n := 0; ; n++ {
			mem := vfs.NewMem()
			var hit atomic.Bool
			nth := vfs.FailNth(n, errors.New("a bad sector"))
			a, err := disk(t, vfs.Hook(mem, func(op vfs.Op) error {
				err := nth(op)
				if err != nil {
					hit.Store(true)
				}
				return err
			}), idA, tiny)
			if err != nil {
				continue
			}
			b, err := disk(t, vfs.NewMem(), idB, tiny)
			if err != nil {
				t.Fatal(err)
			}
			r := newReader()
			var acked []string
			for next := 0; next < crashMessages; {
				next, _ = story(a, b, r, next, &acked)
			}
			if err := bring(a, b); err != nil {
				t.Fatalf("operation %d: %v", n, err)
			}
			<-time.After(2 * retryEvery) // virtual: what nobody waits for is tried again
			synctest.Wait()
			if n2 := a.count(idB); n2 > 0 {
				t.Fatalf("operation %d: %d are pending", n, n2)
			}
			_ = a.close() // it may be what fails
			again, err := disk(t, mem.Crash(nil), idA, tiny)
			if err != nil {
				t.Fatalf("operation %d: after a crash: %v", n, err)
			}
			if err := bring(again, b); err != nil {
				t.Fatal(err)
			}
			show(b, r)
			if len(r.got) < len(acked) {
				t.Fatalf("operation %d: %d were shown, %d acknowledged", n, len(r.got), len(acked))
			}
			for _, l := range []*ledger{again, b} {
				if err := l.close(); err != nil {
					t.Fatal(err)
				}
			}
			if !hit.Load() {
				if n < 50 {
					t.Fatalf("there were only %d operations", n)
				}
				return
			}
		}
	})
}

// TestFullDisk: without space messages are refused by an error that says so; with space again all is as it was.
func TestFullDisk(t *testing.T) {
	var full atomic.Bool
	mem := vfs.NewMem()
	a, err := disk(t, vfs.Hook(mem, vfs.FullDisk(&full)), idA, tiny)
	if err != nil {
		t.Fatal(err)
	}
	send := func(body string) error {
		_, err := a.send(context.Background(), []outgoing{{idB, kindMessage, []byte(body)}}, birth)
		return err
	}
	if err := send("before"); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	for range 3 {
		if err := send("lost"); !errors.Is(err, ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "/d") {
			t.Fatal(err)
		}
	}
	full.Store(false)
	if err := send("after"); err != nil {
		t.Fatal(err)
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	if a, err = disk(t, mem.Crash(nil), idA, tiny); err != nil {
		t.Fatal(err)
	}
	h, err := a.peerHistory(idB, 10)
	if err != nil || len(h) != 2 || string(h[0].Body) != "before" || string(h[1].Body) != "after" || !h[1].Pending {
		t.Fatalf("%+v %v", h, err)
	}
}

// TestDamage: a byte of each place of a log is changed. What is acknowledged and damaged is an error that names the file, not silence; the
// end of the last segment, where it cannot be told from a write that was cut, is left out.
func TestDamage(t *testing.T) {
	mem := vfs.NewMem()
	a, err := disk(t, mem, idA, limits{outbox: 1 << 20, perPeer: 1 << 20, inbox: 1 << 20, history: 1 << 20, age: time.Hour, segment: 400})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if _, err := a.send(context.Background(), []outgoing{{idB, kindMessage, fmt.Append(nil, "message ", i)}}, birth); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	names, err := mem.List("/d")
	if err != nil {
		t.Fatal(err)
	}
	found, cut := 0, 0
	for _, name := range names {
		if name == lockName {
			continue
		}
		raw, err := readWhole(mem, "/d/"+name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for at := range raw {
			bad := slices.Clone(raw)
			bad[at] ^= 0x10
			f := mem.Crash(nil)
			if err := writeNew(f, "/d/"+name, bad); err != nil {
				t.Fatal(err)
			}
			l, err := openLedger(f, "/d", idA, testBox(), tiny, time.Now)
			switch {
			case errors.Is(err, ErrCorrupt) && strings.Contains(err.Error(), name[:4]):
				found++
			case err == nil && name == names[len(names)-1] && l.count(idB) < 4:
				cut++ // of the last frame alone
				if l.count(idB) != 3 {
					t.Fatalf("byte %d of %s: %d messages are left", at, name, l.count(idB))
				}
			default:
				t.Fatalf("byte %d of %s is changed: %v", at, name, err)
			}
			if l != nil {
				_ = l.close()
			}
		}
	}
	if found < 500 || cut < 50 {
		t.Fatalf("%d changes were found, %d cut the end", found, cut)
	}
}

// TestRetention: the log stays within its bounds, what is pending and was not shown stays whatever its age, and the last of history is
// there.
func TestRetention(t *testing.T) {
	now := birth
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	a, err := openLedger(mem, "/d", idA, testBox(), limits{outbox: 1 << 20, perPeer: 1 << 20, inbox: 1 << 20, history: 20000, age: time.Hour, segment: 2000},
		func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	send := func(to peer.ID, body string) (epoch, seq uint64) {
		made, err := a.send(ctx, []outgoing{{to, kindMessage, []byte(body)}}, now)
		if err != nil {
			t.Fatal(err)
		}
		return made[0].epoch, made[0].seq
	}
	send(idC, "old and pending")
	for i := range 500 {
		epoch, seq := send(idB, fmt.Sprint("message ", i))
		a.finished(idB, epoch, seq, doneAcked)
	}
	if err := a.prune(ctx); err != nil {
		t.Fatal(err)
	}
	if _, _, n := a.sizes(); n > 25000 || n < 10000 {
		t.Errorf("the log has %d bytes", n)
	}
	h, err := a.peerHistory(idB, 7)
	if err != nil || len(h) != 7 || string(h[6].Body) != "message 499" || string(h[0].Body) != "message 493" || h[6].Pending {
		t.Errorf("%+v %v", h, err)
	}
	if h, _ := a.peerHistory(idB, 1000); len(h) > 200 || len(h) < 20 {
		t.Errorf("history has %d messages", len(h))
	}
	now = now.Add(2 * time.Hour)
	for range 2 {
		if err := a.prune(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if h, _ := a.peerHistory(idB, 1000); len(h) > 0 {
		t.Errorf("history has %d messages that are too old", len(h))
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	if a, err = disk(t, mem, idA, tiny); err != nil {
		t.Fatal(err)
	}
	if p, _ := a.waiting(idC, 0, 0); p == nil || string(p.body) != "old and pending" {
		t.Errorf("what was pending is %+v", p)
	}
	if _, seq := a.unsure(idB); seq != 501 {
		t.Errorf("the next message is %d", seq)
	}
}

// TestBounds: each bound refuses, and says which.
func TestBounds(t *testing.T) {
	a, err := disk(t, vfs.NewMem(), idA, limits{outbox: 3000, perPeer: 2000, inbox: 500, history: 1 << 20, age: time.Hour, segment: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	body := make([]byte, 900)
	send := func(to peer.ID) error {
		_, err := a.send(ctx, []outgoing{{to, kindMessage, body}}, birth)
		return err
	}
	for i, err := range []error{send(idB), send(idB), send(idC)} {
		if (err != nil) != (i == 3) {
			t.Fatal(i, err)
		}
	}
	if err := send(idB); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	if err := send(idC); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	receive := func(seq, floor uint64) error {
		done := make(chan error, 1)
		if err := a.receive(ctx, idB, &envelope{kind: kindMessage, epoch: 7, seq: seq, floor: floor, at: birth, body: make([]byte, 200)}, nil,
			func(err error) { done <- err }); err != nil {
			return err
		}
		return <-done
	}
	if err := errors.Join(receive(1, 1), receive(2, 1)); err != nil {
		t.Fatal(err)
	}
	if err := receive(3, 1); !errors.Is(err, ErrUnavailable) { // the inbox is full
		t.Fatal(err)
	}
	if err := receive(2, 1); err != nil { // a duplicate is one, also then
		t.Fatal(err)
	}
	a.show(2)
	if err := receive(windowSize+1, 1); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	if err := receive(windowSize+1, 65); err != nil {
		t.Fatal(err)
	}
}

// TestExpire: what was not acknowledged in time is given up, and history says so, also after a restart.
func TestExpire(t *testing.T) {
	mem := vfs.NewMem()
	a, err := disk(t, mem, idA, limits{outbox: 1 << 20, perPeer: 1 << 20, inbox: 1 << 20, history: 1 << 20, age: 1000 * time.Hour, segment: 300})
	if err != nil {
		t.Fatal(err)
	}
	for i, at := range []time.Time{birth.Add(-2 * time.Hour), birth.Add(-time.Hour), birth} {
		if _, err := a.send(context.Background(), []outgoing{{idB, kindMessage, fmt.Append(nil, i)}}, at); err != nil {
			t.Fatal(err)
		}
	}
	if n := a.expire(birth.Add(-time.Minute)); n != 2 {
		t.Fatal(n)
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	if a, err = disk(t, mem.Crash(nil), idA, tiny); err != nil {
		t.Fatal(err)
	}
	h, err := a.peerHistory(idB, 10)
	if err != nil || len(h) != 3 || !h[0].GivenUp || !h[1].GivenUp || h[2].GivenUp || h[0].Pending || !h[2].Pending {
		t.Fatalf("%+v %v", h, err)
	}
}

// TestRenew: a folder that was set back to an earlier state goes on in another epoch, and what is sent then is no duplicate.
func TestRenew(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	open := func(f vfs.FS, id peer.ID) *ledger {
		l, err := disk(t, f, id, tiny)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	a, b, r := open(mem, idA), open(vfs.NewMem(), idB), newReader()
	send := func(l *ledger, body string) {
		if _, err := l.send(ctx, []outgoing{{idB, kindMessage, []byte(body)}}, birth); err != nil {
			t.Fatal(err)
		}
	}
	send(a, "one")
	copied := mem.Crash(nil)
	send(a, "two")
	if err := bring(a, b); err != nil {
		t.Fatal(err)
	}
	show(b, r)
	set := open(copied, idA)
	send(set, "three") // by the sequence that "two" had
	for i := range 2 { // also from what is on disk
		epoch, found := set.unsure(idB)
		if found == 0 {
			t.Fatal("nothing is asked after a start")
		}
		if was, err := set.sure(ctx, idB, b.top(idA, epoch)); err != nil || was != (i == 0) {
			t.Fatal(i, was, err)
		}
		if err := bring(set, b); err != nil {
			t.Fatal(err)
		}
		show(b, r)
		if err := set.close(); err != nil {
			t.Fatal(err)
		}
		set = open(copied.Crash(nil), idA)
	}
	var got []string
	for _, m := range r.got {
		got = append(got, string(m.Body))
	}
	// "one" is again what is pending in the folder that was set back: it comes twice, and nothing is lost.
	if strings.Join(got, ",") != "one,two,one,three" {
		t.Fatalf("shown were %q", got)
	}
}

// TestWindow is the window against a plain set.
func TestWindow(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		var w window
		have := map[uint64]bool{}
		floor, top := uint64(1), uint64(0)
		for range 400 {
			if rng.IntN(10) == 0 {
				floor += uint64(rng.IntN(100))
			}
			seq := floor + uint64(rng.IntN(300))
			if w.has(seq) != have[seq] {
				t.Fatalf("%d: the window says %v, with floor %d", seq, w.has(seq), floor)
			}
			if !w.fits(seq, floor) {
				t.Fatalf("%d does not fit at %d", seq, floor)
			}
			w.add(seq, floor)
			have[seq] = true
			top = max(top, seq)
			if w.top() != top {
				t.Fatalf("top %d, not %d", w.top(), top)
			}
			for s := floor; s < floor+300; s++ {
				if w.has(s) != have[s] {
					t.Fatalf("%d: %v, not %v (low %d, floor %d)", s, w.has(s), have[s], w.low, floor)
				}
			}
			if floor > 1 && !w.has(floor-1) {
				t.Fatalf("%d is before the floor and not done", floor-1)
			}
		}
	}
}

// TestOrder is the order of side effects, as text to review.
func TestOrder(t *testing.T) {
	rec := &vfs.Recorder{Root: "/d"}
	a, err := disk(t, vfs.Hook(vfs.NewMem(), rec.Hook), idA, limits{outbox: 1 << 20, perPeer: 1 << 20, inbox: 1 << 20, history: 900, age: time.Hour, segment: 500})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		made, err := a.send(context.Background(), []outgoing{{idB, kindMessage, make([]byte, 50)}}, birth)
		if err != nil {
			t.Fatal(err)
		}
		a.finished(idB, made[0].epoch, made[0].seq, doneAcked)
		if err := a.commit(context.Background(), &op{prepare: func(*commitBatch) error { return nil }}); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "order.golden")
	if *golden {
		if err := os.WriteFile(path, []byte(rec.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if rec.String() != string(want) {
		t.Errorf("the order of side effects is another:\n%s", rec.String())
	}
}
