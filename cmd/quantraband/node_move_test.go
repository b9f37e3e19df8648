//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/cmd/quantraband/places"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/rebalance"
	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// quietGuard is a guard with the standard policies and more.
func quietGuard(t *testing.T, with string) *zerotrust.Guard {
	t.Helper()
	set, err := policy.Parse("p.cedar", policy.StandardText()+with)
	if err != nil {
		t.Fatal(err)
	}
	guard, err := zerotrust.New(zerotrust.Options{
		SelfSigned: []string{"peer"}, Policy: func() *policy.Set { return set }, Record: func(context.Context, zerotrust.Event) error { return nil },
		Capacity: func(context.Context, policy.Level) (func(), error) { return func() {}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guard.Close() })
	return guard
}

// quietNode is a node on loopback within the test, which finds nobody by itself and keeps to those of bootstrap.
func quietNode(t *testing.T, with string, bootstrap ...*runningNode) *runningNode {
	t.Helper()
	guard := quietGuard(t, with)
	c := p2p.DefaultConfig()
	c.Listen, c.MDNS, c.DHT, c.HolePunch, c.PerAddress = []string{"/ip4/127.0.0.1/tcp/0"}, false, false, false, 1000
	for _, b := range bootstrap {
		c.Bootstrap = append(c.Bootstrap, b.core.Addrs()[0].String())
	}
	n, err := openNode(context.Background(), nodeParts{
		dir: t.TempDir(), config: c, guard: guard, opt: nodeOptions{topics: []string{"news"}, history: 1000}, log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// mayMove lets peers move others: in these tests whoever asks.
const mayMove = `
@id("movers")
permit (principal is Peer, action == Action::"change", resource in Path::"peer");
`

// TestNodeMove: peers go from a node to another, and come back; what is said meanwhile, to one and to all, comes once. Who may not is denied.
func TestNodeMove(t *testing.T) {
	a := quietNode(t, mayMove)
	b := quietNode(t, mayMove, a)
	asker := quietNode(t, "", a, b)
	var peers []*runningNode
	for range 3 {
		peers = append(peers, quietNode(t, "", a))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	m := &places.Nodes{By: asker.core, Members: []peer.ID{a.core.ID(), b.core.ID()}}
	has := func(what string, atA, atB int) {
		t.Helper()
		soon(t, what, func() (string, bool) {
			nodes, err := m.Nodes(ctx, "")
			return fmt.Sprint(nodes, err), err == nil && nodes[0].Peers == atA && nodes[1].Peers == atB && !nodes[0].Fixed && !nodes[1].Fixed
		})
	}
	has("all are at the first", 3, 0)
	toB := rebalance.Move{From: m.Members[0].String(), To: m.Members[1].String(), Peers: 2}
	if err := m.Check(ctx, "", toB); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []rebalance.Move{{From: toB.From, To: toB.To, Peers: 4}, {From: toB.To, To: toB.From, Peers: 1}, {From: toB.From, To: peers[0].core.ID().String(), Peers: 1}} {
		if err := m.Check(ctx, "", wrong); err == nil {
			t.Errorf("%+v could be made", wrong)
		}
	}
	// A node whose policies give nobody the right.
	deaf := &places.Nodes{By: a.core, Members: []peer.ID{a.core.ID(), peers[0].core.ID()}}
	there := rebalance.Move{From: a.core.ID().String(), To: peers[0].core.ID().String(), Peers: 1}
	if err := deaf.Move(ctx, "", "x", there); !errors.Is(err, optimize.ErrRefused) {
		t.Errorf("whoever may not is answered: %v", err)
	}
	// What may be in force there is not given up for that.
	if _, _, err := deaf.Moved(ctx, "", "x", there); err == nil || errors.Is(err, optimize.ErrRefused) || errors.Is(err, optimize.ErrGone) {
		t.Errorf("how a move stands where it is denied: %v", err)
	}
	if err := deaf.Back(ctx, "", "x", there); err == nil || errors.Is(err, optimize.ErrRefused) || errors.Is(err, optimize.ErrGone) {
		t.Errorf("back from where it is denied: %v", err)
	}
	// One that has ended, and that the policy has not any more.
	ended := quietNode(t, "")
	if err := ended.Close(); err != nil {
		t.Fatal(err)
	}
	there.To = ended.core.ID().String()
	if err := m.Back(ctx, "", "x", there); !errors.Is(err, optimize.ErrGone) {
		t.Errorf("back from one that is gone: %v", err)
	}

	// Without anything under way.
	moved := func(id string, n int, want bool) {
		t.Helper()
		soon(t, fmt.Sprintf("%d peers have moved", n), func() (string, bool) {
			got, made, err := m.Moved(ctx, "", id, toB)
			return fmt.Sprint(got, made, err), err == nil && got == n && made == want
		})
	}
	for range 2 { // asked twice, it is made once
		if err := m.Move(ctx, "", "c1/0", toB); err != nil {
			t.Fatal(err)
		}
	}
	moved("c1/0", 2, true)
	has("two are at the second", 1, 2)
	soon(t, "they have left the first", func() (string, bool) {
		n := 0
		for _, p := range peers {
			if a.core.LetIn(p.core.ID()) {
				n++
			}
		}
		return fmt.Sprint(n), n == 1
	})
	if err := m.Back(ctx, "", "c1/0", toB); err != nil {
		t.Fatal(err)
	}
	moved("c1/0", 0, false)
	has("all are back", 3, 0)
	if err := m.Back(ctx, "", "never", toB); err != nil {
		t.Errorf("a move that never was: %v", err)
	}

	// While everybody speaks.
	const said = 60
	var wg sync.WaitGroup
	for i, p := range peers {
		for _, pair := range [][2]*runningNode{{p, a}, {a, p}} {
			wg.Go(func() {
				for k := range said {
					if _, err := pair[0].direct.Send(ctx, pair[1].core.ID(), fmt.Appendf(nil, "%d of %d", k, i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for k := range said {
			if _, err := a.broadcast.Publish(ctx, "news", fmt.Appendf(nil, "news %d", k)); err != nil {
				t.Error(err)
			}
			<-tick.C
		}
	})
	if err := m.Move(ctx, "", "c2/0", toB); err != nil {
		t.Fatal(err)
	}
	moved("c2/0", 2, true)
	if err := m.Back(ctx, "", "c2/0", toB); err != nil {
		t.Fatal(err)
	}
	moved("c2/0", 0, false)
	wg.Wait()
	for i, p := range peers {
		for _, pair := range [][2]*runningNode{{p, a}, {a, p}} {
			if err := pair[0].direct.Flush(ctx, pair[1].core.ID()); err != nil {
				t.Fatal(err)
			}
			got := heardFrom(t, pair[1], pair[0].core.ID())
			for k := range said {
				if n := got[fmt.Sprintf("%d of %d", k, i)]; n != 1 {
					t.Errorf("message %d of %d is there %d times", k, i, n)
				}
			}
		}
		soon(t, "the news", func() (string, bool) {
			got := map[string]int{}
			for _, msg := range p.broadcast.History("news") {
				got[string(msg.Payload)]++
			}
			for k := range said {
				if n := got[fmt.Sprintf("news %d", k)]; n != 1 {
					return fmt.Sprintf("news %d is there %d times", k, n), false
				}
			}
			return "", true
		})
	}
}

// heardFrom is what a node has from a peer, and how often.
func heardFrom(t *testing.T, n *runningNode, from peer.ID) map[string]int {
	t.Helper()
	all, err := n.direct.History(from, maxHistory)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, m := range all {
		if m.From == from {
			got[string(m.Body)]++
		}
	}
	return got
}

// TestNodeRights: of a peer whose rights change the rooms are told: what waits for it goes at once, also where it only has another level, and
// what an author who was revoked has said is not heard, whoever brings it.
func TestNodeRights(t *testing.T) {
	a := quietNode(t, "")
	b := quietNode(t, "", a)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	soon(t, "they are connected", func() (string, bool) { return "", a.core.LetIn(b.core.ID()) && b.core.LetIn(a.core.ID()) })
	if _, err := a.direct.Request(ctx, b.core.ID(), nil); err == nil {
		t.Error("a request that nobody answers is answered")
	}
	a.changed(b.core.ID()) // as when b has come to another level
	if _, err := a.direct.Send(ctx, b.core.ID(), []byte("after it")); err != nil {
		t.Fatal(err)
	}
	if err := a.direct.Flush(ctx, b.core.ID()); err != nil {
		t.Error(err)
	}
	if got := heardFrom(t, b, a.core.ID()); got["after it"] != 1 {
		t.Errorf("b has %v", got)
	}
	soon(t, "the topic", func() (string, bool) { return "", len(a.broadcast.Listeners("news")) == 1 })
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	a.changed(b.core.ID()) // of one who is gone
	if a.core.LetIn(b.core.ID()) {
		t.Error("a closed node is let in")
	}
}
