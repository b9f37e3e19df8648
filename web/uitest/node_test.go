package uitest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/access"
	"github.com/quantra-l/quantra/integrity"
	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/p2p/broadcast"
	"github.com/quantra-l/quantra/p2p/direct"
	"github.com/quantra-l/quantra/p2p/nodeapi"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/web"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// realNode is a node as up --node has it: on loopback, with a guard, private messages and broadcast.
type realNode struct {
	core      *p2p.Node
	direct    *direct.Service
	broadcast *broadcast.Service
	guard     *zerotrust.Guard
	events    *nodeapi.Events
}

// startRealNode starts one, which ends with the test.
func startRealNode(t *testing.T) *realNode {
	t.Helper()
	n, key := &realNode{events: &nodeapi.Events{}}, seal.NewKey()
	var err error
	n.guard, err = zerotrust.New(zerotrust.Options{
		SelfSigned: []string{"peer"}, Record: func(_ context.Context, e zerotrust.Event) error { n.events.Decided(e); return nil },
		Capacity: func(context.Context, policy.Level) (func(), error) { return func() {}, nil },
		Seats: func() zerotrust.Seats {
			return zerotrust.Seats{All: 4, Taken: 1, Sessions: 1, Kinds: []zerotrust.Isolation{{Name: "wasm", State: "yes", Boundary: "software", Start: 3 * time.Millisecond, At: time.Now()}}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.guard.Close() })
	dir := t.TempDir()
	o := p2p.Options{
		Key: key, Guard: n.guard, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoDHT: true, Log: slog.New(slog.DiscardHandler),
		Lost:  func(p peer.ID) { n.direct.Lost(p); n.broadcast.Changed(p) },
		Ready: func(p peer.ID) { n.direct.Ready(p); n.broadcast.Changed(p) },
	}
	o.Before = func(core *p2p.Node) (err error) {
		if n.broadcast, err = broadcast.New(context.Background(), core.Host(), broadcast.Options{Key: key, Allow: core.Allow, Dir: dir + "/broadcast", Log: o.Log, History: 10}); err == nil {
			n.direct, err = direct.New(core.Host(), direct.Options{Key: key, Allow: core.Allow, Dir: dir + "/direct", Log: o.Log})
		}
		return err
	}
	if n.core, err = p2p.New(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, end := range []func() error{n.direct.Close, n.broadcast.Close, n.core.Close} {
			if err := end(); err != nil {
				t.Error(err)
			}
		}
	})
	return n
}

func (n *realNode) hear(t *testing.T, topic string) {
	t.Helper()
	s, err := n.broadcast.Subscribe(topic)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
}

// serveNode is the page over what answers for a node.
func serveNode(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	routes := bookOf().routes()
	routes[nodeapi.Path], routes[nodeapi.Path+"/"] = h, h
	page, err := web.New(web.Options{Store: openStore(t), Routes: routes})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(page)
	t.Cleanup(s.Close)
	return s
}

// TestNodeOfTwo: the page of a real node with a real peer, from nobody to messages, decisions, and the end of the peer's session by the page.
func TestNodeOfTwo(t *testing.T) {
	here, there := startRealNode(t), startRealNode(t)
	began := time.Now()
	api := nodeapi.New(nodeapi.Options{
		Node: here.core, Direct: here.direct, Broadcast: here.broadcast, Guard: here.guard, Events: here.events, Watched: true,
		Usage: func() (time.Duration, int64) { return time.Since(began) / 4, 84 << 20 }, Version: "v1.2.3", Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); api.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	b := open(t, serveNode(t, api.Handler()).URL)
	b.visit("/node")
	b.until(`/Nobody is connected/.test(` + text(".n-body") + `) && /quantraband p2p invite/.test(` + text(".n-body") + `) && ` + text(".n-body") + `.includes("` + here.core.ID().String() + `")`)
	if over := eval[int](b, `[...document.querySelectorAll(".code")].filter((e) => e.querySelector("pre").getBoundingClientRect().right > e.querySelector("button").getBoundingClientRect().left).length`); over != 0 {
		t.Errorf("%d buttons cover what they copy", over)
	}

	// A peer comes; the page finds out by itself.
	here.hear(t, "news")
	there.hear(t, "news")
	id, self := there.core.ID(), here.core.ID()
	if err := there.core.Connect(t.Context(), peer.AddrInfo{ID: self, Addrs: here.core.Host().Network().ListenAddresses()}); err != nil {
		t.Fatal(err)
	}
	row := `document.querySelector('[data-peer="` + id.String() + `"]')`
	b.until(row + ` && /verified\s+55/.test(` + row + `.innerText) && /direct/.test(` + row + `.innerText) && /came/.test(` + row + `.innerText)`)
	b.until(`/1\s+1 verified/.test(` + text(".n-tiles") + `) && /up \d/.test(` + text(".page-head") + `) && /v1\.2\.3/.test(` + text(".page-head") + `)`)

	// Messages on a topic, and private ones; what waits for an answer is in flight.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); !slices.Contains(there.broadcast.Listeners("news"), self); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the topic is not heard by the other")
		}
	}
	for i := range 70 {
		if _, err := there.broadcast.Publish(t.Context(), "news", []byte(fmt.Sprint("story ", i))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := here.direct.Send(t.Context(), id, []byte("for you alone")); err != nil {
		t.Fatal(err)
	}
	if err := here.direct.Flush(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	b.click(".n-bar button", "Topics 1")
	b.until(`/view=topics/.test(location.search) && document.title === "Node: topics · Quantra-L"`)
	b.until(`/news\s+1\s.*70\s+0 ours\s+–\s+nothing/s.test(` + text(`[data-topic="news"]`) + `)`)
	b.click(".n-bar button", "Peers 1")
	const twist = `.g-twist`
	b.until(`document.querySelector("` + twist + `") && !/view/.test(location.search)`)
	b.until(`(document.querySelector("` + twist + `").focus(), document.activeElement.matches("` + twist + `"))`) // in one, as the page may be drawn anew between two
	b.do(chromedp.KeyEvent(kb.Enter))                                                                             // by keyboard: what is unfolded is in the URL, and the focus stays
	b.until(`document.activeElement.matches('` + twist + `[aria-expanded="true"]') && new URLSearchParams(location.search).get("open") === "` + id.String() + `"`)
	b.until(`/came\s+70\s+went\s+1\s/.test(` + text(".a-more") + `) && /hears\s+1 topic/.test(` + text(".a-more") + `) && ` + text(".a-more") + `.includes("/ip4/127.0.0.1/tcp/")`)
	b.do(chromedp.Reload())
	b.until(`/came\s+70/.test(` + text(".a-more") + `)`)

	// What the guard decided of it.
	b.visit("/node?view=decisions")
	b.until(`/allowed/.test(` + text(".n-list") + `) && /connect/.test(` + text(".n-list") + `) && /peers-connect/.test(` + text(".n-list") + `)`)
	b.click(".pick", "All")
	b.click(".menu-item", "Refused only")
	b.until(`/only=refused/.test(location.search) && /Nothing was refused/.test(` + text(".n-body") + `)`)
	b.visit("/node?view=sandbox")
	b.until(`/1 of 4 seats taken/.test(` + text(".n-body") + `) && /wasm\s+there\s+software/.test(` + text(".n-body") + `)`)

	// Its session is ended, once that is confirmed.
	b.visit("/node?open=" + id.String())
	b.until(`!!document.querySelector(".btn.danger")`)
	b.click(".a-acts button", "End its session…")
	b.until(`document.querySelector("dialog[open]") && document.activeElement.name === "reason"`)
	b.do(chromedp.KeyEvent(kb.Escape))
	b.until(`!document.querySelector("dialog") && /End its session/.test(document.activeElement.textContent)`)
	if len(here.core.Status().Peers) != 1 {
		t.Fatal("a dialog that was left has ended the session")
	}
	b.do(chromedp.KeyEvent(kb.Enter))
	b.until(`document.activeElement.name === "reason"`)
	b.do(chromedp.SendKeys(`dialog [name="reason"]`, "too loud"), chromedp.KeyEvent(kb.Enter))
	b.until(`/The session has ended/.test(` + text(".toast") + `) && !` + row)
	b.visit("/node?view=decisions&only=refused")
	b.until(`/ended\s+session/.test(` + text(".n-list") + `) && /terminated: too loud/.test(` + text(".n-list") + `)`)
	if _, err := here.direct.Send(t.Context(), id, []byte("for later")); err != nil {
		t.Fatal(err)
	}
	b.visit("/node")
	b.until(`/Away, with messages waiting/.test(` + text(".n-body") + `) && /1 private message/.test(` + text(".n-away") + `)`)
	b.quiet()
}

// nodeBook answers what a node would, from what a test writes down: states that take long, and faults.
type nodeBook struct {
	mu     sync.Mutex
	f      nodeapi.Figures
	p      nodeapi.Peers
	e      nodeapi.Happened
	none   bool              // no node runs
	broken map[string]string // by the end of a path: the code of an error
	asked  []string
}

func (b *nodeBook) change(f func(b *nodeBook)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b)
}

func (b *nodeBook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, nodeapi.Path)
	b.asked = append(b.asked, path+"?"+r.URL.RawQuery)
	w.Header().Set("Content-Type", "application/json")
	if code := b.broken[path]; code != "" {
		w.WriteHeader(map[string]int{"permission_denied": 403}[code] + map[string]int{"internal": 500}[code])
		io.WriteString(w, `{"code":"`+code+`","message":"a fault of the server's, which is in its log"}`)
		return
	}
	var answer any = map[string]bool{"running": false}
	if !b.none {
		answer = map[string]any{"": b.f, "/peers": b.p, "/events": b.e}[path]
	}
	json.NewEncoder(w).Encode(answer)
}

func (b *nodeBook) routes() map[string]http.Handler {
	return map[string]http.Handler{nodeapi.Path: b, nodeapi.Path + "/": b}
}

// fullNode is a node with much of everything, and with text that would be markup if it could.
func fullNode(peers int) *nodeBook {
	const evil = `<img src=x onerror="window.__hit=1">`
	now := time.Now().UTC()
	b := &nodeBook{broken: map[string]string{}}
	b.f = nodeapi.Figures{
		Running: true, ID: "12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR", Version: "v1.2.3", Time: now, Since: now.Add(-3*time.Hour - 4*time.Minute), Reach: "public",
		Rates: nodeapi.Rates{In: 1043.5, Out: 212.25}, BytesIn: 1_250_000, BytesOut: 96_000, Process: nodeapi.Process{Cores: 0.31, Memory: 96 << 20, Goroutines: 1834},
		Peers:   nodeapi.Crowd{All: peers, Levels: map[string]int{"verified": peers - 3, "privileged": 2, "basic": 1}, Relayed: 1, RTT: 48 * time.Millisecond, Known: 4, Table: 19},
		Pending: 31, PendingBytes: 12_400, Counts: p2p.Counts{Accepted: 40, Refused: 17, Judged: 38, Denied: 2, Failed: 1}, AllTopics: 3, Faults: 1,
		Seats: &zerotrust.Seats{All: 8, Taken: 8, Sessions: 7, Kinds: []zerotrust.Isolation{{Name: "wasm", State: "yes", Boundary: "software", Text: "wazero", Start: 3 * time.Millisecond, At: now}, {Name: "microvm", State: "no", Text: "there is no /dev/kvm: " + evil, At: now}}},
		Files: nodeapi.Files{Watched: true, Events: map[string]int{"critical": 1}},
		Topics: []nodeapi.Topic{
			{Topic: "news", Heard: true, Listeners: 9, Mesh: 6, Rates: nodeapi.Rates{In: 1040, Out: 12}, In: 1_204_331, Out: 4021, Refused: map[string]uint64{"peer_rate": 120, "signature": 3}},
			{Topic: evil, Heard: true, Listeners: 1, Refused: map[string]uint64{}}, {Topic: "orders/" + strings.Repeat("long/", 20) + "name", Waiting: 4, Refused: map[string]uint64{}},
		},
	}
	for i := range 60 {
		b.f.Past.In, b.f.Past.Out, b.f.Past.Cores = append(b.f.Past.In, float64(900+i*3%70)), append(b.f.Past.Out, 200), append(b.f.Past.Cores, 0.3+float64(i%7)/50)
	}
	b.f.Past.Step = 5
	b.p = nodeapi.Peers{Running: true, Addresses: []string{"/ip4/192.0.2.7/tcp/4242/p2p/" + b.f.ID}, All: peers, Away: []nodeapi.Away{{ID: "12D3KooWAwayAwayAwayAwayAwayAwayAwayAwayAwayAwayAway", Pending: 28}}}
	for i := range peers {
		p := nodeapi.Peer{Peer: p2p.Peer{ID: fmt.Sprintf("12D3KooW%044d", i), Session: "s", Address: "/ip4/192.0.2.9/udp/4242/quic-v1", Transport: "quic-v1", Direction: "inbound", Since: now.Add(-time.Duration(i) * time.Minute),
			Trust: 55, Level: "verified", RTT: time.Duration(i%40) * time.Millisecond, BytesIn: float64(i * 900), Agent: evil}, In: uint64(i), Rates: nodeapi.Rates{In: float64(i % 11)}}
		switch i {
		case 0:
			p.Relayed, p.Pending, p.InFlight, p.Score, p.Address = true, 3, 2, -12, "/ip6/2001:db8:0:1:aaaa:bbbb:cccc:dddd/tcp/4242/p2p/12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR/p2p-circuit"
		case 1:
			p.Level, p.Trust, p.Direction, p.Transport = "privileged", 82, "outbound", "tcp"
		case 2:
			p.Level, p.Trust, p.ReadOnly = "untrusted", 24, true
		}
		b.p.Peers = append(b.p.Peers, p)
	}
	d := nodeapi.Decision{Time: now, First: now.Add(-time.Hour), Times: 340, What: "decision", Principal: b.p.Peers[0].ID, Action: "send", Resource: "topic/news", Allowed: true, Trust: 55, Level: "verified", Policies: []string{"peers-send"}, Reason: "a policy permits it"}
	no := d
	no.Allowed, no.Times, no.Principal, no.Action, no.Resource, no.Policies, no.Reason = false, 1, "", "connect", "peer/"+b.f.ID, []string{}, "nobody believed vouches for it: "+evil
	odd := d
	odd.What, odd.Allowed, odd.Times, odd.Reason, odd.Policies = "session", false, 1, "terminated: by hand", []string{}
	b.e = nodeapi.Happened{Running: true, Decisions: []nodeapi.Decision{d, no, odd}, Watched: true, Faults: []string{"the folder of messages is full: " + evil}, Files: []nodeapi.File{
		{Time: now, Kind: "change", Severity: "critical", Path: "/srv/quantra/node/" + evil, What: "changed", Aspects: []integrity.Aspect{"content", "mtime"}}, {Time: now.Add(-time.Minute), Kind: "lost", Severity: "info", Text: "the kernel dropped events"},
	}}
	return b
}

// TestNodeStates: no node, a fault and its end, who may not see peers, thousands of peers, and nothing that others write becomes markup.
func TestNodeStates(t *testing.T) {
	book := fullNode(1000)
	book.p.All = 1200
	s := serveNode(t, book)
	b := open(t, s.URL)
	book.change(func(b *nodeBook) { b.none = true })
	b.visit("/node?refresh=off")
	b.until(`/No node runs beside this server/.test(` + text(".n-body") + `) && /quantraband up --node/.test(` + text(".n-body") + `) && !document.querySelector(".tile")`)
	b.quiet()

	book.change(func(b *nodeBook) { b.none = false })
	b.again()
	b.until(`document.querySelectorAll("[data-peer]").length === 100 && /up 3 h 4 min/.test(` + text(".page-head") + `) && /1\.26 k/.test(` + text(".n-tiles") + `) && document.querySelectorAll(".n-tiles .spark").length === 2`)
	b.until(`/1 fault/.test(` + text(".a-notices") + `)`)
	b.click(".n-body .linkish", "Show 100")
	b.until(`document.querySelectorAll("[data-peer]").length === 200`)
	b.click(".t-sort", "Round trip")
	b.until(`/sort=rtt/.test(location.search) && document.querySelector(".n-rtt[role=columnheader]").getAttribute("aria-sort") === "descending"`)
	book.change(func(b *nodeBook) {
		if last := b.asked[len(b.asked)-1]; !slices.ContainsFunc(b.asked, func(q string) bool { return strings.HasPrefix(q, "/peers?") && strings.Contains(q, "sort=rtt") }) {
			t.Errorf("the server was not asked for that order, but last %s", last)
		}
	})
	b.quiet()

	book.change(func(b *nodeBook) { b.broken["/peers"] = "internal" })
	b.again()
	b.until(`/a fault of the server's/.test(` + text(".banner:not([hidden])") + `) && document.querySelectorAll("[data-peer]").length === 200`)
	book.change(func(b *nodeBook) { delete(b.broken, "/peers") })
	b.click(".banner button", "Try again")
	b.until(`document.querySelector(".banner").hidden`)
	book.change(func(b *nodeBook) { b.broken["/peers"], b.broken["/events"] = "permission_denied", "permission_denied" })
	b.again()
	b.until(`document.querySelector(".banner").hidden && [...document.querySelectorAll(".n-bar [role=radio]")].map((x) => x.dataset.value).join() === "topics,sandbox"`)
	b.until(`/peer rate 120/.test(` + text(`[data-topic="news"]`) + `)`)
}

// TestNodeLooks: all views are in sight at each width, with contrast in both themes, and what others write is text.
func TestNodeLooks(t *testing.T) {
	book := fullNode(12)
	b := open(t, serveNode(t, book).URL)
	views := map[string]string{"peers": `document.querySelectorAll("[data-peer]").length === 12`, "topics": `document.querySelectorAll("[data-topic]").length === 3`,
		"decisions": `document.querySelectorAll(".n-list li").length === 3`, "sandbox": `/All seats are taken/.test(` + text(".n-body") + `)`, "files": `document.querySelectorAll(".n-list li").length === 2`}
	for _, w := range []int64{390, 640, 900, 1100, 1440} {
		b.do(chromedp.EmulateViewport(w, 900))
		for _, view := range slices.Sorted(maps.Keys(views)) {
			b.visit("/node?refresh=off&open=" + book.p.Peers[0].ID + "&view=" + view)
			b.until(views[view])
			if !eval[bool](b, visible) {
				t.Errorf("at %d px the view of %s is wider than the screen: %s", w, view, eval[string](b, `[...document.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > innerWidth + 1).slice(0, 9).map((e) => e.tagName + "." + e.className).join()`))
			}
			if n := eval[int](b, `document.querySelectorAll("main img").length + (window.__hit ?? 0)`); n != 0 {
				t.Errorf("in the view of %s text has become markup", view)
			}
		}
	}
	for _, theme := range []string{"light", "dark"} {
		b.do(scheme(theme))
		for _, view := range slices.Sorted(maps.Keys(views)) {
			b.visit("/node?refresh=off&open=" + book.p.Peers[0].ID + "&view=" + view)
			b.until(fmt.Sprintf(`document.documentElement.dataset.theme === %q && %s`, theme, views[view]))
			if low := eval[string](b, contrast); low != "" {
				t.Errorf("in the %s theme, %s has too little contrast: %s", theme, view, low)
			}
		}
	}
	b.quiet()
}

// TestNodeRoles: a reader sees figures and topics and is offered no more; an operator sees peers, and may end their sessions.
func TestNodeRoles(t *testing.T) {
	a, base, _ := guarded(t)
	b := open(t, base)
	b.visit(linkFor(t, a, "rita", access.Grant{Role: "reader"}))
	b.until(`document.querySelector(".who-name")?.textContent === "rita"`)
	b.visit("/node")
	b.until(`[...document.querySelectorAll(".n-bar [role=radio]")].map((x) => x.dataset.value).join() === "topics,sandbox" && !!document.querySelector('[data-topic="news"]') && /Messages a second/.test(` + text(".n-tiles") + `)`)
	b.do(chromedp.Evaluate[chromedp.Void](`window.__answer = ""; Promise.all(["", "/peers", "/events"].map((p) => fetch("/api/v1/node" + p).then((r) => r.status))).then((x) => { window.__answer = x.join(); })`))
	b.until(`window.__answer !== ""`)
	if got := eval[string](b, `window.__answer`); got != "200,403,403" {
		t.Errorf("a reader who asks for figures, peers and events gets %s", got)
	}

	b = open(t, base)
	b.visit(linkFor(t, a, "olga", access.Grant{Role: "operator"}))
	b.until(`document.querySelector(".who-name")?.textContent === "olga"`)
	b.visit("/node?open=" + fmt.Sprintf("12D3KooW%044d", 0))
	b.until(`document.querySelectorAll("[data-peer]").length === 12 && /End its session/.test(` + text(".a-acts") + `)`)
	b.quiet()
}
