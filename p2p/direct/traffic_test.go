package direct

import (
	"context"
	"fmt"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/internal/vfs"
)

// TestStats: each message and request is counted once at both ends; a request that is waited for is in flight, and what waits for a peer that is
// away is pending.
func TestStats(t *testing.T) {
	asked, answer := make(chan bool), make(chan bool)
	r := newReader()
	a, b := pair(t, func(a, b *Options) {
		b.Deliver = r.deliver
		b.Answer = func(_ context.Context, _ peer.ID, body []byte) ([]byte, error) {
			asked <- true
			<-answer
			return body, nil
		}
	})
	ctx := soon(t)
	for range 3 {
		if err := a.Post(ctx, b.self, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := a.Send(ctx, b.self, []byte("y")); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Flush(ctx, b.self); err != nil {
		t.Fatal(err)
	}
	r.bodies(t, 2)
	done := make(chan error, 1)
	go func() {
		_, err := a.Request(ctx, b.self, []byte("z"))
		done <- err
	}()
	<-asked
	from, to := a.Stats(), b.Stats()
	if p := from.Peers[b.self]; p != (PeerStats{Traffic{0, 6}, 1, 0}) || from.Traffic != p.Traffic {
		t.Errorf("who asks: %+v", from)
	}
	if p := to.Peers[a.self]; p != (PeerStats{Traffic{6, 0}, 1, 0}) || to.Traffic != p.Traffic {
		t.Errorf("who is asked: %+v", to)
	}
	answer <- true
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if p := a.Stats().Peers[b.self]; p.InFlight != 0 {
		t.Errorf("after the answer: %+v", p)
	}

	away := idOf(keyNumber(99).Public())
	if _, err := a.Send(ctx, away, []byte("for later")); err != nil {
		t.Fatal(err)
	}
	if s := a.Stats(); s.Pending != 1 || s.PendingBytes <= 0 || s.Peers[away] != (PeerStats{Pending: 1}) {
		t.Errorf("one who is away: %+v", s)
	}
}

// TestTrafficBound: peers without a session are forgotten past the bound, and stay in the sum.
func TestTrafficBound(t *testing.T) {
	k := keyNumber(1)
	s := start(t, newHost(t, k), fast(k, vfs.NewMem(), "/d"))
	stays := s.traffic.begin("stays")
	stays.in.Add(1)
	for i := range 3 * maxTraffic {
		c := s.traffic.begin(peer.ID(fmt.Sprint("peer ", i)))
		c.out.Add(2)
		c.end()
	}
	st := s.Stats()
	if len(st.Peers) > maxTraffic || st.Peers["stays"].In != 1 {
		t.Errorf("%d peers are counted; the one with a session has %+v", len(st.Peers), st.Peers["stays"])
	}
	if st.In != 1 || st.Out != 2*3*maxTraffic {
		t.Errorf("in all %d came and %d went", st.In, st.Out)
	}
}
