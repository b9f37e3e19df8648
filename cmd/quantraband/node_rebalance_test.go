//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/quantra-l/quantra/agent/spans"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/p2p/direct"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
)

// asked is a node that answers requests, as a program of an operator's that has one within it.
type asked struct {
	core   *p2p.Node
	direct *direct.Service
	turn   chan struct{}         // one request is worked on at a time
	takes  atomic.Pointer[takes] // by which time each
	spans  *spans.Processor
	got    map[string]int // durable messages, by what they say
	mu     sync.Mutex     // of got
}

// takes is how long a request takes: by turns, or each by itself.
type takes struct {
	d     time.Duration
	turns bool
}

func newAsked(t *testing.T, with string, work takes, bootstrap ...*asked) *asked {
	t.Helper()
	a := &asked{turn: make(chan struct{}, 1), spans: nodeSpans(), got: map[string]int{}}
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(a.spans)).Tracer("feed")
	a.spans.Source() // they are counted from here on
	a.takes.Store(&work)
	key, dir := seal.NewKey(), t.TempDir()
	o := p2p.Options{
		Key: key, Guard: quietGuard(t, with), Dir: dir, NoDHT: true, Admission: zerotrust.AdmissionOptions{PerAddress: 1000, Total: 1000},
		Listen: []string{"/ip4/127.0.0.1/tcp/0"},
		Lost:   func(p peer.ID) { a.direct.Lost(p) }, Ready: func(p peer.ID) { a.direct.Ready(p) },
		Load:   func() (float64, float64) { return a.direct.Load() },
		Settle: func(ctx context.Context, p peer.ID) { _ = a.direct.Settle(ctx, p) }, // what is left is sent when they meet again
	}
	for _, b := range bootstrap {
		o.Bootstrap = append(o.Bootstrap, b.core.Addrs()[0].String())
	}
	o.Before = func(core *p2p.Node) (err error) {
		a.core = core
		a.direct, err = direct.New(core.Host(), direct.Options{
			Key: key, Allow: core.Allow, Dir: filepath.Join(dir, "direct"), Answer: a.answer, Tracer: tracer,
			Deliver: func(_ context.Context, m direct.Message) error {
				a.mu.Lock()
				defer a.mu.Unlock()
				a.got[string(m.Body)]++
				return nil
			},
		})
		return err
	}
	core, err := p2p.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(a.direct.Close(), core.Close()); err != nil {
			t.Error(err)
		}
	})
	return a
}

func (a *asked) answer(ctx context.Context, _ peer.ID, body []byte) ([]byte, error) {
	w := a.takes.Load()
	if w.turns {
		select {
		case a.turn <- struct{}{}:
			defer func() { <-a.turn }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	done := time.NewTimer(w.d)
	defer done.Stop()
	select {
	case <-done.C:
		return body, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// crowd is peers that ask the nodes that they are at, and what it took them.
type crowd struct {
	t       *testing.T
	base    string
	members []*asked
	peers   []*asked
	stop    context.CancelFunc
	wg      sync.WaitGroup
	told    atomic.Int64 // windows
	cut     atomic.Int64 // requests whose connection ended

	mu   sync.Mutex
	sent map[string]bool // durable messages to the first member
}

func newCrowd(t *testing.T, base string, members, peers []*asked) *crowd {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	c := &crowd{t: t, base: base, members: members, peers: peers, stop: cancel, sent: map[string]bool{}}
	for i, p := range peers {
		workers, pause := 4, time.Duration(0)
		if c.home(i) == 1 {
			workers, pause = 1, 50*time.Millisecond
		} else {
			c.wg.Go(func() { c.says(ctx, i, p) })
		}
		for range workers {
			c.wg.Go(func() { c.asks(ctx, i, pause) })
		}
	}
	c.wg.Go(func() { c.tells(ctx) })
	t.Cleanup(c.end)
	return c
}

func (c *crowd) end() {
	c.stop()
	c.wg.Wait()
}

func rests(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// at is the member that a peer is at, -1 while it is at none.
func (c *crowd) at(i int) int {
	at := c.peers[i].core.At(c.members[c.home(i)].core.ID())
	return slices.IndexFunc(c.members, func(m *asked) bool { return m.core.ID() == at && c.peers[i].core.LetIn(at) })
}

// home is the member that a peer keeps to: the last one's is the second.
func (c *crowd) home(i int) int {
	if i == len(c.peers)-1 {
		return 1
	}
	return 0
}

// asks asks one request after the other.
func (c *crowd) asks(ctx context.Context, of int, pause time.Duration) {
	for ctx.Err() == nil {
		i := c.at(of)
		if i >= 0 {
			if _, err := c.peers[of].direct.Request(ctx, c.members[i].core.ID(), []byte("what?")); err != nil && ctx.Err() == nil {
				c.cut.Add(1)
			}
		}
		if i < 0 || pause > 0 {
			rests(ctx, max(pause, 5*time.Millisecond))
		}
	}
}

// says says something durable to the first member, wherever the peer is.
func (c *crowd) says(ctx context.Context, i int, p *asked) {
	for n := 0; ctx.Err() == nil; n++ {
		text := fmt.Sprintf("%d of %d", n, i)
		if _, err := p.direct.Send(context.WithoutCancel(ctx), c.members[0].core.ID(), []byte(text)); err != nil {
			c.t.Error(err)
		}
		c.mu.Lock()
		c.sent[text] = true
		c.mu.Unlock()
		rests(ctx, 100*time.Millisecond)
	}
}

// tells tells the server each second of the members' spans, as agents of them would: there is one agent in a process, and they are in one here.
func (c *crowd) tells(ctx context.Context) {
	told := make([]*profile.Profile, len(c.members))
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for from := time.Now(); ; {
		var to time.Time
		select {
		case to = <-tick.C:
		case <-ctx.Done():
			return
		}
		for i, m := range c.members {
			since, err := m.newSpans(&told[i])
			if err != nil {
				c.t.Error(err)
				return
			}
			figures := profile.NewBuilder(profile.ValueType{Type: "process_cpu", Unit: "nanoseconds"})
			figures.Add(figures.Stack(0, figures.Location(profile.Location{}, profile.Line{Function: figures.Function(profile.Function{Name: figures.String("all")})})), 0, 1e8)
			for name, p := range map[string]*profile.Profile{"spans": since, "runtime": figures.Profile()} {
				q := url.Values{
					"name": {name}, "service_name": {"feed"}, "service_version": {"v1"}, "service_instance_id": {m.core.ID().String()},
					"from": {fmt.Sprint(from.UnixNano())}, "until": {fmt.Sprint(to.UnixNano())},
				}
				if code, err := push(c.base, q.Encode(), p.AppendPprof(nil)); ctx.Err() == nil && (err != nil || code/100 != 2) {
					c.t.Errorf("a profile of %s: %d, %v", name, code, err)
				}
			}
		}
		c.told.Add(1)
		from = to
	}
}

// newSpans is a profile of the spans that have ended since the last one.
func (a *asked) newSpans(last **profile.Profile) (*profile.Profile, error) {
	var raw bytes.Buffer
	if err := a.spans.WriteProfile(&raw); err != nil {
		return nil, err
	}
	all, err := profile.Decode(&raw, profile.Limits{})
	if err != nil {
		return nil, err
	}
	m := profile.NewMerger(all.SampleTypes...)
	err = m.Add(all, 1)
	if *last != nil {
		err = errors.Join(err, m.Add(*last, -1))
	}
	*last = all
	return m.Profile(), err
}

// membersPolicy has the two members; its times are short, as the test is.
const membersPolicy = `
plan:
  stages: [{percent: 100, dwell: 4s, deadline: 40s}]
  baseline: 20s
  judge: {min_windows: 3, min_requests: 0, warm_up: 0s}
kinds:
  rebalance: {mode: auto}
places:
  feed:
    peers: {members: [%s, %s], settle: 2s, damp: 1, most: 0.5}
`

// TestNodeRebalance: a node that is slow has requests of its peers in flight; the optimizer moves some of them to the other node by itself, judges that
// by how long requests take, and keeps it. A person has it undone, and all are at home; begun again with a target that has become slow meanwhile it is
// taken back, and all are at home. What peers say meanwhile is there once.
func TestNodeRebalance(t *testing.T) {
	a := newAsked(t, mayMove, takes{10 * time.Millisecond, true})
	b := newAsked(t, mayMove, takes{5 * time.Millisecond, true}, a)
	members := []*asked{a, b}
	var peers []*asked
	for _, home := range []*asked{a, a, a, a, b} {
		peers = append(peers, newAsked(t, "", takes{}, home))
	}
	data := t.TempDir()
	file := filepath.Join(data, "policy.yaml")
	off := filepath.Join(data, killFile) // until there is a past to compare with
	if err := errors.Join(os.WriteFile(file, fmt.Appendf(nil, membersPolicy, a.core.ID(), b.core.ID()), 0o600), os.WriteFile(off, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	changes, err := openPolicy(data, file, func(string) string { return "" }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	changes.node, changes.tick, changes.consider = newAsked(t, "", takes{}, a, b).core, 50*time.Millisecond, 500*time.Millisecond
	p := &pooled{t: t}
	p.base, p.secret = startWhole(t, changes)
	c := newCrowd(t, p.base, members, peers)
	soon(t, "a past", func() (string, bool) { n := c.told.Load(); return fmt.Sprint(n), n >= 8 })
	if err := os.Remove(off); err != nil {
		t.Fatal(err)
	}
	moved := func() (n int) {
		for _, q := range peers[:4] {
			if q.core.LetIn(b.core.ID()) && !q.core.LetIn(a.core.ID()) {
				n++
			}
		}
		return n
	}
	home := func() bool {
		for _, q := range peers[:4] {
			if q.core.LetIn(b.core.ID()) || !q.core.LetIn(a.core.ID()) {
				return false
			}
		}
		return true
	}
	var id string
	var answer changeAnswer
	reaches := func(want ...optimize.State) optimize.State {
		t.Helper()
		p.until(fmt.Sprintf("a change is %v", want), func() (string, bool) {
			var all changesAnswer
			if id == "" {
				p.ask("GET", optimize.ChangesPath+"?kind=rebalance&state=all", "", &all)
				for i := range all.Changes {
					if s := all.Changes[i].State; s.Acting() || s == optimize.Done {
						id = all.Changes[i].ID
					}
				}
				return fmt.Sprintf("%+v", all.Status), false
			}
			p.ask("GET", changePath(id), "", &answer)
			for _, s := range want {
				if answer.Change.State == s {
					return "", true
				}
			}
			if answer.Change.State.Ended() {
				t.Fatalf("it is %s: %s", answer.Change.State, answer.Change.Reason)
			}
			return fmt.Sprintf("%s: %s %s", answer.Change.State, answer.Change.Held, answer.Change.Reason), false
		})
		return answer.Change.State
	}
	reaches(optimize.Done)
	t.Logf("%s; kept: %s", answer.Change.Sentence, answer.Change.Reason)
	if n := moved(); n < 1 || n > 2 || !strings.Contains(answer.Change.Sentence, a.core.ID().String()) {
		t.Errorf("%d peers are at the second node: %s", n, answer.Change.Sentence)
	}

	p.ask("POST", changePath(id), `{"do":"undo","by":"ada"}`, &answer)
	reaches(optimize.Undone)
	soon(t, "all are at home", func() (string, bool) { return fmt.Sprint(moved()), home() })

	b.takes.Store(&takes{time.Second, false}) // the planted fault
	p.ask("POST", changePath(id), `{"do":"start","by":"ada"}`, &answer)
	reaches(optimize.Dwelling)
	soon(t, "peers have moved a second time", func() (string, bool) { n := moved(); return fmt.Sprint(n), n >= 1 })
	end := reaches(optimize.Failed, optimize.Undone)
	t.Logf("%s: %s", end, answer.Change.Reason)
	soon(t, "all are at home again", func() (string, bool) { return fmt.Sprint(moved()), home() })
	c.end()

	for _, q := range peers[:4] {
		if err := q.direct.Flush(t.Context(), a.core.ID()); err != nil {
			t.Fatal(err)
		}
	}
	soon(t, "all that was said", func() (string, bool) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return fmt.Sprintf("%d of %d", len(a.got), len(c.sent)), len(a.got) == len(c.sent)
	})
	for text := range c.sent {
		if a.got[text] != 1 {
			t.Errorf("%q is there %d times", text, a.got[text])
		}
	}
	if n := c.cut.Load(); n > 2 { // one that is asked of the old node in its last moment may be
		t.Errorf("%d requests were cut off", n)
	}
	t.Logf("%d messages, each once", len(c.sent))
}
