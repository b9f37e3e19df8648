package nodeapi

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/integrity"
	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/p2p/broadcast"
	"github.com/quantra-l/quantra/p2p/direct"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// node is a real one on loopback.
type node struct {
	o    Options
	time time.Time
	cpu  time.Duration
}

func start(t *testing.T) *node {
	t.Helper()
	n, key, dir := &node{time: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}, seal.NewKey(), t.TempDir()
	events := &Events{}
	guard, err := zerotrust.New(zerotrust.Options{
		SelfSigned: []string{"peer"}, Record: func(_ context.Context, e zerotrust.Event) error { events.Decided(e); return nil },
		Capacity: func(context.Context, policy.Level) (func(), error) { return func() {}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guard.Close() })
	n.o = Options{Guard: guard, Events: events, Version: "v1", Now: func() time.Time { return n.time }, Usage: func() (time.Duration, int64) { return n.cpu, 1 << 20 }, Log: slog.New(slog.DiscardHandler)}
	o := p2p.Options{
		Key: key, Guard: guard, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoDHT: true, Log: n.o.Log,
		Lost:  func(p peer.ID) { n.o.Direct.Lost(p); n.o.Broadcast.Changed(p) },
		Ready: func(p peer.ID) { n.o.Direct.Ready(p); n.o.Broadcast.Changed(p) },
	}
	o.Before = func(core *p2p.Node) (err error) {
		if n.o.Broadcast, err = broadcast.New(context.Background(), core.Host(), broadcast.Options{Key: key, Allow: core.Allow, Dir: dir + "/broadcast", Log: n.o.Log}); err == nil {
			n.o.Direct, err = direct.New(core.Host(), direct.Options{Key: key, Allow: core.Allow, Dir: dir + "/direct", Log: n.o.Log})
		}
		return err
	}
	if n.o.Node, err = p2p.New(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, end := range []func() error{n.o.Direct.Close, n.o.Broadcast.Close, n.o.Node.Close} {
			if err := end(); err != nil {
				t.Error(err)
			}
		}
	})
	return n
}

// ask asks an API, and reads the answer into v where it is one.
func ask(t *testing.T, a *API, method, path, body string, v any) int {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, r)
	if v != nil && w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), v); err != nil {
			t.Fatalf("%s: %v: %s", path, err, w.Body)
		}
	}
	return w.Code
}

// TestFigures: what one peer sends to another is in the figures, the rates, the peers and the topics of who gets it; the session ends by the API.
func TestFigures(t *testing.T) {
	here, there := start(t), start(t)
	a := New(here.o)
	sub, err := here.o.Broadcast.Subscribe("news")
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	id := there.o.Node.ID()
	if err := there.o.Node.Connect(t.Context(), peer.AddrInfo{ID: here.o.Node.ID(), Addrs: here.o.Node.Host().Network().ListenAddresses()}); err != nil {
		t.Fatal(err)
	}
	soon(t, "the topic is heard", func() bool {
		if _, err := there.o.Broadcast.Publish(t.Context(), "news", []byte("x")); err != nil {
			t.Fatal(err)
		}
		return here.o.Broadcast.Stats().In > 0
	})
	if err := there.o.Broadcast.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := here.o.Direct.Send(t.Context(), id, []byte("y")); err != nil {
		t.Fatal(err)
	}
	if err := here.o.Direct.Flush(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	came := here.o.Broadcast.Stats().In
	here.time, here.cpu = here.time.Add(10*time.Second), 5*time.Second

	var f Figures
	if code := ask(t, a, "GET", Path, "", &f); code != 200 || !f.Running || f.ID != here.o.Node.ID().String() || f.Peers.All != 1 || f.Peers.Levels["verified"] != 1 {
		t.Fatalf("%d: %+v", code, f)
	}
	if want := (Rates{rate(0, came, 10*time.Second), 0.1}); f.Rates != want || f.Process.Cores != 0.5 || f.Process.Memory != 1<<20 {
		t.Errorf("the rates are %+v with %v cores, want %+v with 0.5: %d came and one went in ten seconds", f.Rates, f.Process.Cores, want, came)
	}
	soon(t, "the bytes are counted, by libp2p once a second", func() bool { ask(t, a, "GET", Path, "", &f); return f.BytesIn > 0 && f.BytesOut > 0 })
	if len(f.Topics) != 1 || f.Topics[0].In != came || f.Topics[0].Rates.In != f.Rates.In || !f.Topics[0].Heard {
		t.Errorf("the topics: %+v", f.Topics)
	}
	var p Peers
	if code := ask(t, a, "GET", Path+"/peers?sort=messages&limit=1", "", &p); code != 200 || len(p.Peers) != 1 || p.Peers[0].ID != id.String() || p.Peers[0].In != came || p.Peers[0].Out != 1 || p.Peers[0].Trust != 55 || p.Peers[0].RTT <= 0 {
		t.Fatalf("%d: %+v", code, p)
	}
	var e Happened
	if code := ask(t, a, "GET", Path+"/events", "", &e); code != 200 || !slices.ContainsFunc(e.Decisions, func(d Decision) bool {
		return d.Allowed && d.Action == "connect" && d.Principal == id.String() && slices.Contains(d.Policies, "peers-connect")
	}) {
		t.Errorf("%d: %+v", code, e)
	}

	for path, code := range map[string]int{"/peers?sort=name": 400, "/peers?limit=0": 400, "/peers?limit=1001": 400, "/peers?x=1": 400, "/events?refused=maybe": 400, "/events?limit=257": 400, "/nothing": 404} {
		if got := ask(t, a, "GET", Path+path, "", nil); got != code {
			t.Errorf("GET %s is answered by %d, not %d", path, got, code)
		}
	}
	end := Path + "/peers/" + id.String() + "/terminate"
	for body, code := range map[string]int{`{"why":"x"}`: 400, `{"reason":"` + strings.Repeat("x", maxReason+1) + `"}`: 400} {
		if got := ask(t, a, "POST", end, body, nil); got != code {
			t.Errorf("%.40s is answered by %d, not %d", body, got, code)
		}
	}
	if code := ask(t, a, "POST", Path+"/peers/"+here.o.Node.ID().String()+"/terminate", `{}`, nil); code != 404 {
		t.Errorf("the end of a session that is not there: %d", code)
	}
	if code := ask(t, a, "POST", end, `{"reason":"too loud"}`, nil); code != 200 {
		t.Fatalf("the end of a session: %d", code)
	}
	soon(t, "the peer is gone", func() bool { return len(here.o.Node.Status().Peers) == 0 })
	ask(t, a, "GET", Path+"/events?refused=true", "", &e)
	if d := e.Decisions[0]; d.What != "session" || d.Reason != "terminated: too loud" || d.Allowed {
		t.Errorf("the newest is %+v", d)
	}
	if _, err := here.o.Direct.Send(t.Context(), id, []byte("z")); err != nil {
		t.Fatal(err)
	}
	if ask(t, a, "GET", Path+"/peers", "", &p); len(p.Peers) != 0 || !slices.Equal(p.Away, []Away{{id.String(), 1}}) {
		t.Errorf("after the end: %+v", p)
	}
}

func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(30 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// TestNone: without a node that is what is answered, and nothing is ended.
func TestNone(t *testing.T) {
	a := New(Options{Log: slog.New(slog.DiscardHandler)})
	for _, path := range []string{"", "/peers", "/events"} {
		var got map[string]any
		if code := ask(t, a, "GET", Path+path, "", &got); code != 200 || len(got) != 1 || got["running"] != false {
			t.Errorf("%s: %d %v", path, code, got)
		}
	}
	if code := ask(t, a, "POST", Path+"/peers/x/terminate", `{}`, nil); code != 404 {
		t.Errorf("the end of a session without a node: %d", code)
	}
	a.Run(t.Context()) // returns: there is nothing to count
}

// TestPast: rates are of the last two steps, the past is bounded, and a counter that begins anew is no rate.
func TestPast(t *testing.T) {
	at := time.Unix(1000, 0)
	a := &API{}
	a.last = &sample{at: at}
	a.before = a.last
	for i := range uint64(3 * points) {
		at = at.Add(sampleEvery)
		a.note(&sample{at: at, all: moved{in: 10 * i, out: 5 * i}, cpu: time.Duration(i) * time.Second})
	}
	if n := len(a.past.In); n != points || len(a.past.Out) != points || len(a.past.Cores) != points {
		t.Fatalf("%d points are kept", n)
	}
	if in, out, cores := a.past.In[points-1], a.past.Out[points-1], a.past.Cores[points-1]; in != 2 || out != 1 || cores != 0.2 {
		t.Errorf("10 in and 5 out in five seconds, of which one second of processor, are %v, %v and %v", in, out, cores)
	}
	if a.last.at != at || a.before.at != at.Add(-sampleEvery) {
		t.Errorf("rates are since %v at %v", a.before.at, at)
	}
	now := &sample{at: at.Add(10 * time.Second), byPeer: map[peer.ID]p2p.Bytes{"old": {In: 3000, Out: 500}, "new": {In: 1e9}}}
	was := &sample{at: at, byPeer: map[peer.ID]p2p.Bytes{"old": {In: 1000}}}
	if in, out := now.bytesSince(was, "old"); in != 200 || out != 50 {
		t.Errorf("2,000 bytes in and 500 out in ten seconds are %v and %v", in, out)
	}
	if in, _ := now.bytesSince(was, "new"); in != 0 {
		t.Errorf("the bytes of a peer that has come just now, of any time, are %v a second", in)
	}
	if r := rate(10, 4, time.Second); r != 0 {
		t.Errorf("a counter that began anew has the rate %v", r)
	}
	if r := rate(0, 7, time.Millisecond); r != 7 {
		t.Errorf("7 in the first millisecond are %v a second", r)
	}
}

// TestEvents: what is alike is one line, refusals outlive any number of permissions, people's questions are not there, and all of it is bounded.
func TestEvents(t *testing.T) {
	var e Events
	at := time.Unix(0, 0)
	say := func(what string, allowed bool, principal, resource, reason string) {
		at = at.Add(time.Second)
		e.Decided(zerotrust.Event{Time: at, What: what, Kind: "peer", Principal: principal, Action: "send", Resource: resource, Allowed: allowed, Reason: reason})
	}
	say("decision", false, "mallory", "topic/news", "no policy permits it")
	for i := range 4 * kept {
		say("decision", true, fmt.Sprint("peer ", i), "topic/news", "a policy permits it")
	}
	for range 5 {
		say("decision", true, "alice", "topic/news", "a policy permits it")
		say("decision", true, "bob", "topic/news", "a policy permits it")
	}
	e.Decided(zerotrust.Event{Time: at.Add(time.Second), What: "decision", Kind: "person", Principal: "p-1", Action: "read", Resource: "findings", Allowed: true})
	all, _ := e.recent(maxEvents, false)
	if len(all) != maxEvents || all[0].Principal != "bob" || all[0].Times != 5 || all[1].Principal != "alice" || all[1].Times != 5 || all[0].First.Sub(all[1].First) != time.Second {
		t.Errorf("%d are told, first of them %+v and %+v", len(all), all[0], all[1])
	}
	for i, d := range all {
		if i > 0 && d.Time.After(all[i-1].Time) || d.Principal == "p-1" {
			t.Fatalf("at %d there is %+v", i, d)
		}
	}
	if refused, _ := e.recent(maxEvents, true); len(refused) != 1 || refused[0].Principal != "mallory" {
		t.Errorf("refused is %+v", refused)
	}

	long := strings.Repeat("ä", maxText)
	for range 2 * kept {
		e.Touched(integrity.Event{Time: at, Kind: integrity.EventChange, Severity: integrity.Critical, Path: long, Change: &integrity.Change{
			What: integrity.Changed, Path: long, Aspects: []integrity.Aspect{integrity.AspectContent}, Who: []integrity.Who{{PID: 4711, Args: "secret"}},
		}})
	}
	_, files := e.recent(maxEvents, false)
	raw, err := json.Marshal(files[0])
	if err != nil || len(files) != kept || e.bySeverity()["critical"] != 2*kept || len(files[0].Path) > maxText+3 {
		t.Errorf("%d events, %v, %v: %s", len(files), e.bySeverity(), err, raw)
	}
	if text := string(raw); strings.Contains(text, "4711") || strings.Contains(text, "secret") || !strings.Contains(text, `"what":"changed"`) {
		t.Errorf("an event of a file is %s", text)
	}
	var none *Events
	none.Decided(zerotrust.Event{Kind: "peer"})
	none.Touched(integrity.Event{})
}
