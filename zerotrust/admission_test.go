package zerotrust_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/zerotrust"
)

func admission(t testing.TB, o zerotrust.AdmissionOptions) (*zerotrust.Admission, *clock) {
	t.Helper()
	c := newClock(epoch)
	o.Now = c.now
	a, err := zerotrust.NewAdmission(o)
	must(t, err)
	return a, c
}

func v4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}) }

// TestPerAddress: each address has its own rate, an IPv6 host all of its /64, and an IPv4 address is the same in IPv6's form.
func TestPerAddress(t *testing.T) {
	a, c := admission(t, zerotrust.AdmissionOptions{PerAddress: 6})
	admits := func(s string) int {
		n := 0
		for range 10 {
			if _, err := a.Admit(netip.MustParseAddr(s), nil); err == nil {
				n++
			} else if !errors.Is(err, zerotrust.ErrBusy) {
				t.Fatal(err)
			}
		}
		return n
	}
	for _, w := range []struct {
		addr string
		want int
	}{{"192.0.2.1", 6}, {"::ffff:192.0.2.1", 0}, {"192.0.2.2", 6}, {"2001:db8::1", 6}, {"2001:db8::ffff:1", 0}, {"2001:db8:0:1::1", 6}} {
		if got := admits(w.addr); got != w.want {
			t.Errorf("%s: %d of 10, not %d", w.addr, got, w.want)
		}
	}
	c.advance(20 * time.Second)
	if got := admits("192.0.2.1"); got != 2 {
		t.Errorf("20 s later %d, not 2", got)
	}
	if _, err := a.Admit(netip.Addr{}, nil); !errors.Is(err, zerotrust.ErrBusy) {
		t.Errorf("no address: %v", err)
	}
}

// TestFlood: a flood from a hundred thousand addresses makes us do no more than the total rate, and who solves what is asked still comes in.
func TestFlood(t *testing.T) {
	a, c := admission(t, zerotrust.AdmissionOptions{Total: 100, MaxBits: 14})
	in, hardest := 0, 0
	for i := range 100_000 {
		if i%1000 == 0 { // ten thousand a second
			c.advance(100 * time.Millisecond)
		}
		p, err := a.Admit(v4(i), nil)
		switch {
		case err == nil:
			in++
		case errors.Is(err, zerotrust.ErrPuzzle):
			hardest = max(hardest, int(p[5]))
		}
	}
	if in > 100 || hardest != 14 {
		t.Errorf("%d of a flood in 10 s came in without work; the hardest puzzle has %d bits", in, hardest)
	}
	friend := netip.MustParseAddr("192.0.2.7")
	p, err := a.Admit(friend, nil)
	if !errors.Is(err, zerotrust.ErrPuzzle) {
		t.Fatal(err)
	}
	answer, err := zerotrust.Solve(context.Background(), p, 20)
	must(t, err)
	if _, err := a.Admit(friend, answer); err != nil {
		t.Errorf("who has solved it: %v", err)
	}
	if st := a.Status(); st.Admitted != uint64(in)+1 || st.Bits != 14 || st.PerSecond < 1000 {
		t.Errorf("%+v", st)
	}
	c.advance(5 * time.Second)
	if _, err := a.Admit(v4(1), nil); err != nil {
		t.Errorf("when it is over: %v", err)
	}
}

// TestPuzzle: an answer is good for one address, for 30 s, once, and only where it is solved and was asked here.
func TestPuzzle(t *testing.T) {
	busy := func() (*zerotrust.Admission, *clock, []byte, netip.Addr) {
		a, c := admission(t, zerotrust.AdmissionOptions{Total: 10})
		for i := range 30 {
			a.Admit(v4(i), nil)
		}
		me := netip.MustParseAddr("192.0.2.7")
		p, err := a.Admit(me, nil)
		if !errors.Is(err, zerotrust.ErrPuzzle) || len(p) != zerotrust.PuzzleSize || p[5] < 12 {
			t.Fatalf("%x, %v", p, err)
		}
		return a, c, p, me
	}
	a, c, p, me := busy()
	answer, err := zerotrust.Solve(context.Background(), p, 20)
	must(t, err)
	refused := func(what string, addr netip.Addr, answer []byte) {
		t.Helper()
		if _, err := a.Admit(addr, answer); !errors.Is(err, zerotrust.ErrPuzzle) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("another address", netip.MustParseAddr("192.0.2.8"), answer)
	easier := bytes.Clone(answer)
	easier[5] = 0
	refused("made easier", me, easier)
	unsolved := append(bytes.Clone(p), make([]byte, 8)...)
	for i := byte(0); ; i++ {
		unsolved[zerotrust.PuzzleSize] = i
		if !bytes.Equal(unsolved, answer) {
			break
		}
	}
	refused("not solved", me, unsolved)
	refused("cut", me, answer[:zerotrust.PuzzleSize])
	other, _, _, _ := busy()
	if _, err := other.Admit(me, answer); !errors.Is(err, zerotrust.ErrPuzzle) {
		t.Errorf("of another server: %v", err)
	}
	c.advance(time.Second / 2) // room for one
	for i := range 4 {
		a.Admit(v4(100+i), nil)
	}
	if _, err := a.Admit(me, answer); err != nil {
		t.Errorf("solved: %v", err)
	}
	refused("again", me, answer)
	for i := range 40 {
		a.Admit(v4(200+i), nil)
	}
	p, err = a.Admit(me, nil)
	if !errors.Is(err, zerotrust.ErrPuzzle) {
		t.Fatal(err)
	}
	answer, err = zerotrust.Solve(context.Background(), p, 20)
	must(t, err)
	c.advance(31 * time.Second)
	for i := range 40 {
		a.Admit(v4(300+i), nil)
	}
	refused("after 31 s", me, answer)
	if _, err := zerotrust.Solve(context.Background(), p, 3); !errors.Is(err, zerotrust.ErrDenied) {
		t.Errorf("a puzzle that is too hard is tried: %v", err)
	}
	if _, err := zerotrust.Solve(context.Background(), p[1:], 20); !errors.Is(err, zerotrust.ErrCorrupt) {
		t.Errorf("what is no puzzle is tried: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	hard := bytes.Clone(p)
	hard[5] = 32
	if _, err := zerotrust.Solve(ctx, hard, 32); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestAdmissionConcurrent: for the race detector, and no more than the total comes in.
func TestAdmissionConcurrent(t *testing.T) {
	a, _ := admission(t, zerotrust.AdmissionOptions{Total: 50})
	var group sync.WaitGroup
	for w := range 4 {
		group.Go(func() {
			for i := range 500 {
				a.Admit(v4(w<<16|i), nil)
			}
		})
	}
	group.Wait()
	if st := a.Status(); st.Admitted > 50 || st.Admitted+st.Asked+st.Refused != 2000 {
		t.Errorf("%+v", st)
	}
}

func BenchmarkAdmit(b *testing.B) {
	a, err := zerotrust.NewAdmission(zerotrust.AdmissionOptions{Total: 1})
	must(b, err)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		a.Admit(v4(i&0xffffff), nil)
	}
}
