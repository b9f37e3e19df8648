package p2p

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

// movers are nodes between which peers are moved, each of which can be started anew as itself.
type movers struct {
	t    *testing.T
	ctx  context.Context
	node [3]*Node
	opts [3]func(*Options)
}

func newMovers(t *testing.T) *movers {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	m := &movers{t: t, ctx: ctx}
	for i := range m.node {
		key, dir := seal.NewKey(), t.TempDir()
		m.opts[i] = func(o *Options) { o.Key, o.Dir = key, dir }
		m.node[i] = newNode(t, m.opts[i])
	}
	return m
}

// restart ends a node, and starts it at the addresses that it had.
func (m *movers) restart(i int) {
	m.t.Helper()
	var listen []string
	for _, a := range m.node[i].inner.Addrs() {
		listen = append(listen, a.String())
	}
	if err := m.node[i].Close(); err != nil {
		m.t.Fatal(err)
	}
	m.node[i] = newNode(m.t, m.opts[i], func(o *Options) { o.Listen = listen })
}

// forget has a node begin anew with what is on disk of moves, and its peers come again. Where the process ends they may find it gone, and go home.
func (m *movers) forget(i int) {
	m.t.Helper()
	n := m.node[i]
	fresh, err := newMoves(n)
	if err != nil {
		m.t.Fatal(err)
	}
	n.moves = fresh
	n.inner.SetStreamHandler(MoveProtocol, fresh.incoming)
	for _, g := range n.guards.all() {
		// Without a goodbye: after one a peer is back before the rest of this is closed, and loses that connection, too.
		if err := n.inner.Network().ClosePeer(g.peer); err != nil {
			m.t.Fatal(err)
		}
	}
}

// peer is one that keeps to a node.
func (m *movers) peer(at int, change ...func(*Options)) *Node {
	m.t.Helper()
	home := func(o *Options) { o.Bootstrap, o.Listen = []string{m.node[at].Addrs()[0].String()}, nil }
	p := newNode(m.t, append([]func(*Options){home}, change...)...)
	m.is(p, at)
	return p
}

// is waits until a peer is at a node, and at no other.
func (m *movers) is(p *Node, at int) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("it is at %d alone", at), func() bool {
		for i, n := range m.node {
			if n.LetIn(p.ID()) != (i == at) || p.LetIn(n.ID()) != (i == at) {
				return false
			}
		}
		return true
	})
}

func (m *movers) ask(i int, q MoveRequest) MoveAnswer {
	m.t.Helper()
	a, err := m.node[i].AskMove(m.ctx, m.node[i].ID(), q)
	if err != nil {
		m.t.Fatalf("%s of %d: %v", q.Op, i, err)
	}
	return a
}

// move moves a peer, and is done when it is there.
func (m *movers) move(id string, from, to int, p *Node) {
	m.t.Helper()
	t := m.ask(to, RequestTake(id, m.node[from].ID(), 1, false))
	m.has(from, 1)
	m.ask(from, RequestGive(id, 1, t.Ticket, nil))
	m.is(p, to)
	m.here(id, to, 1)
}

// has waits until a node knows of so many peers that they could be moved: what a peer speaks is said after it was let in.
func (m *movers) has(at, want int) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("%d has %d peers", at, want), func() bool { return m.ask(at, RequestNode(nil)).Node.Peers >= want })
}

func (m *movers) here(id string, at, want int) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("%d of move %s are at %d", want, id, at), func() bool { return m.ask(at, RequestMoved(id)).Here == want })
}

// undo takes a move back, as far as it is seen; it says whether anything of it was.
func (m *movers) undo(id string, from, to int) bool {
	m.t.Helper()
	m.ask(from, RequestStop(id))
	m.ask(to, RequestStop(id))
	a := m.ask(to, RequestMoved(id))
	if a.Here == 0 {
		return false
	}
	t := m.ask(from, RequestTake(id, m.node[to].ID(), a.Here, true))
	m.ask(to, RequestBack(id, t.Ticket))
	return true
}

// undone takes a move back until nothing of it is seen any more.
func (m *movers) undone(id string, from, to int) {
	m.t.Helper()
	eventually(m.t, "nothing of move "+id+" is left", func() bool { return !m.undo(id, from, to) && !m.ask(from, RequestMoved(id)).Given })
}

// TestMoveRestarts: whoever of the two nodes of a move is started anew, it stands as it stood, is not made a second time, and is taken back.
func TestMoveRestarts(t *testing.T) {
	for name, who := range map[string][]int{"the giver": {0}, "the taker": {1}, "both": {0, 1}} {
		t.Run(name, func(t *testing.T) {
			m := newMovers(t)
			p, other := m.peer(0), m.peer(0)
			m.move1(p, other)
			for _, i := range who {
				if i == 1 {
					m.forget(1)
				} else {
					m.restart(i)
				}
			}
			moved, left := p, other
			if !m.atTaker(p) {
				moved, left = other, p
			}
			m.here("c1/0", 1, 1)
			if a := m.ask(0, RequestMoved("c1/0")); !a.Given {
				t.Error("the giver does not know of it")
			}
			m.is(left, 0)
			again := m.ask(1, RequestTake("c1/0", m.node[0].ID(), 1, false))
			m.ask(0, RequestGive("c1/0", 1, again.Ticket, nil))
			m.is(left, 0) // it was given already
			m.undone("c1/0", 0, 1)
			m.is(moved, 0)
			if _, err := m.node[0].AskMove(m.ctx, m.node[0].ID(), RequestGive("c1/0", 1, again.Ticket, nil)); !errors.Is(err, ErrDenied) {
				t.Errorf("it is given again after it was taken back: %v", err)
			}
		})
	}
}

// move1 moves one of two peers from the first node to the second.
func (m *movers) move1(ps ...*Node) {
	m.t.Helper()
	t := m.ask(1, RequestTake("c1/0", m.node[0].ID(), 1, false))
	m.has(0, len(ps))
	m.ask(0, RequestGive("c1/0", 1, t.Ticket, nil))
	eventually(m.t, "one has moved", func() bool {
		n := 0
		for _, p := range ps {
			if m.atTaker(p) && !p.LetIn(m.node[0].ID()) {
				n++
			}
		}
		return n == 1
	})
	m.here("c1/0", 1, 1)
}

func (m *movers) atTaker(p *Node) bool { return p.known.now()[0].ID == m.node[1].ID() }

// TestMoveAway: a peer of whom the taker, started anew, has not heard yet that it had come goes home when it says so, if the move was taken back
// meanwhile; also where both nodes have been started anew once more since.
func TestMoveAway(t *testing.T) {
	for name, again := range map[string]bool{"the nodes run on": false, "the nodes are started anew": true} {
		t.Run(name, func(t *testing.T) {
			m := newMovers(t)
			p := m.peer(0)
			m.move("c1/0", 0, 1, p)
			m.silent(p, true)
			m.forget(1)
			m.is(p, 1)
			if m.undo("c1/0", 0, 1) {
				t.Fatal("it is known that it has come")
			}
			if again {
				m.restart(0)
				m.forget(1)
				m.is(p, 1)
			}
			m.silent(p, false)
			if err := m.node[1].Disconnect(p.ID()); err != nil { // it comes again, and speaks
				t.Fatal(err)
			}
			m.is(p, 0)
			if a := m.ask(1, RequestMoved("c1/0")); a.Here != 0 || a.Given {
				t.Errorf("%+v", a)
			}
			m.move("c2/0", 0, 1, p)
			m.undone("c2/0", 0, 1)
			m.is(p, 0)
		})
	}
}

// silent keeps a peer from saying by which move it is where it is, once it is done with following.
func (m *movers) silent(p *Node, is bool) {
	m.t.Helper()
	eventually(m.t, "it does not follow", func() bool {
		p.moves.mu.Lock()
		defer p.moves.mu.Unlock()
		was := p.moves.going
		p.moves.going = is
		return was != is
	})
}

// TestMoveTakerEnds: where the taker's process is another, who was there comes again or goes home, and is home when the move was taken back.
func TestMoveTakerEnds(t *testing.T) {
	m := newMovers(t)
	p := m.peer(0)
	m.move("c1/0", 0, 1, p)
	m.restart(1)
	m.undone("c1/0", 0, 1)
	m.is(p, 0)
}

// TestMovePeerRestarts: a peer that is started anew goes home, and nothing of the move is left.
func TestMovePeerRestarts(t *testing.T) {
	m := newMovers(t)
	key := seal.NewKey()
	mine := func(o *Options) { o.Key = key }
	p := m.peer(0, mine)
	m.move("c1/0", 0, 1, p)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	m.peer(0, mine)
	m.here("c1/0", 1, 0)
	m.undone("c1/0", 0, 1)
}

// TestMoveChain: who was led on by a second move is home when both were taken back, whichever was first.
func TestMoveChain(t *testing.T) {
	for name, first := range map[string]int{"the later first": 2, "the earlier first": 1} {
		t.Run(name, func(t *testing.T) {
			m := newMovers(t)
			p := m.peer(0)
			m.move("c1/0", 0, 1, p)
			m.move("c2/0", 1, 2, p)
			for _, c := range []int{first, 3 - first} {
				m.undone(fmt.Sprintf("c%d/0", c), c-1, c)
			}
			m.is(p, 0)
			if n := len(p.moves.led); n != 0 {
				t.Errorf("it remembers %d moves", n)
			}
		})
	}
}

// TestMoveLate: who arrives by a move that was taken back meanwhile is not taken, and stays where it is.
func TestMoveLate(t *testing.T) {
	m := newMovers(t)
	p := m.peer(0)
	late := m.ask(1, RequestTake("c1/0", m.node[0].ID(), 1, false)).Ticket
	m.undone("c1/0", 0, 1)
	if err := m.node[0].moves.ask(p.ID(), late); !errors.Is(err, ErrDenied) {
		t.Errorf("it follows: %v", err)
	}
	if !p.LetIn(m.node[0].ID()) || m.atTaker(p) {
		t.Error("it does not keep to where it was")
	}
	if a := m.ask(1, RequestMoved("c1/0")); a.Here != 0 {
		t.Errorf("%+v", a)
	}
}

// TestKeptMoves: at whatever operation the machine loses its power the file is what it was before or after, and a write that fails changes nothing.
func TestKeptMoves(t *testing.T) {
	const dir = "/node"
	names := func(k *keptMoves) (out []string) {
		for _, m := range k.list {
			out = append(out, fmt.Sprintf("%s %v %v", m.ID, m.Given, m.Stopped))
		}
		return out
	}
	steps := []keptMove{{ID: "a", Given: true}, {ID: "b", Stopped: true}, {ID: "a", Stopped: true}}
	want := [][]string{nil, {"a true false"}, {"a true false", "b false true"}, {"b false true", "a true true"}}
	failed := 0
	for n := 1; ; n++ {
		disk := vfs.NewMem()
		if err := errors.Join(disk.MkdirAll(dir), disk.SyncDir("/")); err != nil {
			t.Fatal(err)
		}
		k, err := openKeptMoves(vfs.Hook(disk, vfs.FailNth(n, errors.New("planted"))), dir)
		if err != nil {
			continue // the opening itself
		}
		done, wrong := 0, false
		for _, s := range steps {
			if err = k.note(s); err != nil {
				wrong = true
				break
			}
			done++
		}
		if got := names(k); !slices.Equal(got, want[done]) || wrong && !errors.Is(err, ErrUnavailable) {
			t.Fatalf("operation %d fails: %q, %v; want %q", n, got, err, want[done])
		}
		for seed := range uint64(8) {
			again, err := openKeptMoves(disk.Crash(rand.New(rand.NewPCG(seed, 1))), dir)
			if err != nil {
				t.Fatalf("operation %d, crash %d: %v", n, seed, err)
			}
			if got := names(again); !slices.Equal(got, want[done]) && (!wrong || !slices.Equal(got, want[done+1])) {
				t.Fatalf("operation %d, crash %d: %q, want %q", n, seed, got, want[done])
			}
		}
		if !wrong {
			break
		}
		failed++
	}
	if failed < 10 {
		t.Errorf("only %d operations failed", failed)
	}
}

// TestKeptMovesBounds: the oldest are forgotten; what nobody of ours has written is refused, and keeps the node from starting.
func TestKeptMovesBounds(t *testing.T) {
	disk := vfs.NewMem()
	k, err := openKeptMoves(disk, "/")
	if err != nil {
		t.Fatal(err)
	}
	name := func(i int) string { return fmt.Sprintf("%0*d", maxMoveID, i) }
	for i := range maxKeptMoves + 1 {
		if err := k.note(keptMove{ID: name(i), Given: true}); err != nil {
			t.Fatal(err)
		}
	}
	again, err := openKeptMoves(disk, "/")
	if err != nil || len(again.list) != maxKeptMoves || again.get(name(0)).Given || !again.get(name(maxKeptMoves)).Given {
		t.Errorf("%d are left, %v", len(again.list), err)
	}
	for _, bad := range []string{"", "[]", `{"moves":[{"id":""}]}`, `{"moves":[{"id":"a"},{"id":"a"}]}`, `{"moves":[{"id":"` + name(1) + `1"}]}`} {
		if _, err := decodeKeptMoves([]byte(bad)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	f, err := disk.Create(filepath.Join("/", movesFile+".bad"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("{")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Close(), disk.Rename("/"+movesFile+".bad", "/"+movesFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := openKeptMoves(disk, "/"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a damaged file: %v", err)
	}
}
