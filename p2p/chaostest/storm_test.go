package chaostest

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/seal"
)

var stormFlag = flag.Int("chaos.storm", 20, "peers that start at once in TestRestartStorm")

// TestRestartStorm: a node and all of its peers lose their power in the middle of their messages and start again at the same moment, and then the node alone does,
// so that all come back to it at once. What was acknowledged is shown once, to each of them, and all are let in again. Of 200, in 20 s:
// go test ./p2p/chaostest -run TestRestartStorm -chaos.storm 200 -v
func TestRestartStorm(t *testing.T) {
	n := *stormFlag
	r := &real{t: t, rng: rand.New(rand.NewPCG(*seedFlag, 200)), books: NewBooks()}
	link, err := NewLink() // to the node, which may be at another port after each start
	if err != nil {
		t.Fatal(err)
	}
	for i := range n + 1 {
		w := &whole{member: member{name: fmt.Sprint("node", i), key: seal.NewKey(), mem: vfs.NewMem()}, links: map[int]*Link{}}
		if i > 0 {
			w.links[0] = link
		}
		r.nodes = append(r.nodes, w)
	}
	all := make([]int, n+1)
	for i := range all {
		all[i] = i
	}
	r.startAll(all)
	hub := r.nodes[0]
	t.Logf("%d peers are let in after %v", n, r.joined(hub))
	r.crosswise(hub)

	for _, w := range r.nodes {
		_ = w.stop(r.rng) // by a loss of power, which is an error to what was at work
	}
	r.startAll(all)
	t.Logf("all started: let in again after %v", r.joined(hub))
	r.crosswise(hub)

	_ = hub.stop(r.rng)
	r.startAll([]int{0})
	t.Logf("the node started: let in again after %v", r.joined(hub))
	r.crosswise(hub)
	began := time.Now()
	r.wait("what was acknowledged is shown", func() bool { return len(r.books.Missing()) == 0 })
	promised, _ := r.books.Size()
	t.Logf("%d messages promised, all shown %v after the last", promised, time.Since(began).Round(time.Millisecond))
	r.publish(hub, 1)
	r.wait("it is heard", func() bool { _, heard := r.books.Size(); return heard > 0 })
	for _, what := range r.books.Missing() {
		t.Errorf("acknowledged and not shown: %s", what)
	}
	for _, what := range r.books.Wrong() {
		t.Error(what)
	}
	for _, w := range r.nodes {
		if err := w.stop(nil); err != nil {
			t.Errorf("%s does not end in order: %v", w.name, err)
		}
	}
	if err := link.Close(); err != nil {
		t.Error(err)
	}
}

// startAll starts nodes at once.
func (r *real) startAll(which []int) {
	r.t.Helper()
	errs := make([]error, len(which))
	var group sync.WaitGroup
	for k, i := range which {
		group.Go(func() { errs[k] = r.start(i) })
	}
	group.Wait()
	for k, err := range errs {
		if err != nil {
			r.t.Fatalf("%s does not start on the disk that it has: %v", r.nodes[which[k]].name, err)
		}
	}
}

// joined waits until all peers are let in at a node, and says how long that took.
func (r *real) joined(hub *whole) time.Duration {
	r.t.Helper()
	began := time.Now()
	r.wait("all are let in", func() bool {
		for _, w := range r.nodes {
			if w != hub && hub.core.Allow(p2p.IDOf(w.key.Public()), "send", "peer/"+hub.host.ID().String()) != nil {
				return false
			}
		}
		return true
	})
	return time.Since(began).Round(time.Millisecond)
}

// crosswise has each peer send to the node, and the node to each, at once.
func (r *real) crosswise(hub *whole) {
	var group sync.WaitGroup
	var said atomic.Int64
	send := func(from, to *whole) {
		what := fmt.Sprintf("private %s %d of %s", to.name, r.said+int(said.Add(1)), from.name)
		if _, err := from.life.direct.Send(r.t.Context(), p2p.IDOf(to.key.Public()), []byte(what)); err != nil {
			r.t.Errorf("%s cannot send to %s: %v", from.name, to.name, err)
			return
		}
		r.books.Promise(what, to.name)
	}
	for _, w := range r.nodes {
		if w == hub {
			continue
		}
		group.Go(func() {
			for range 3 {
				send(w, hub)
				send(hub, w)
			}
		})
	}
	group.Wait()
	r.said += int(said.Load())
}

// wait waits for what no event tells of, without any help.
func (r *real) wait(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	over := time.After(time.Duration(1+*stormFlag/50) * patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-over:
			r.t.Errorf("it does not come to this: %s", what)
			return
		}
	}
}
