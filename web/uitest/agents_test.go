package uitest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/agent"
	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/web"
)

// program is an agent that speaks docs/format/agents.md with a script instead of a Go runtime behind it: what
// real ones show only after hours, as a full disk or ten thousand goroutines, is there at once.
type program struct {
	mu     sync.Mutex
	report map[string]any
	before map[string]any             // settings before a lease
	take   func(full bool) any        // a snapshot of its goroutines; an error is why there is none
	guard  func(map[string]any) error // refuses a lease
	asked  []string                   // the tasks that it was given
	stop   context.CancelFunc
	ended  chan struct{}
}

// scripted is a program as it is when nothing is the matter.
func scripted(service, version, instance string) *program {
	st := agent.Status{
		Enabled: true, Uploaded: 1842, UploadedBytes: 48 << 20, LastUpload: time.Now().Add(-21 * time.Second), Queued: 5, QueuedBytes: 61_000,
		Region: "eu-west", RegionSource: "env", Server: "http://127.0.0.1:4040", KeyID: "Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE",
		CPURate: 100, Types: "CPU|Heap|Allocs|Goroutine|Mutex",
		Cost: agent.Cost{CPUPercent: 0.41, CPUDoubt: 0.12, CorePercent: 0.18, SignalNanos: 4300, Memory: 6_400_000, Buckets: 1_900_000, BytesPerMinute: 212_000},
	}
	st.Cost.Budget.CPUPercent, st.Cost.Budget.Memory, st.Cost.Budget.BytesPerMinute = 1, 10<<20, 2<<20
	return &program{
		report: map[string]any{
			"service": service, "version": version, "instance": instance, "region": "eu-west", "labels": map[string]string{"env": "demo", "zone": "b"},
			"agent": "quantra-agent/1", "go": "go1.26.8", "os": "linux/amd64", "pid": 4711, "started": time.Now().Add(-26 * time.Hour).UTC().Format(time.RFC3339),
			"settings":  map[string]any{"gogc": 100, "gomemlimit": int64(1<<63 - 1), "gomaxprocs": 4, "cpu_rate": 100},
			"optimizer": true, "status": st,
		},
		take: func(bool) any { return shop(0) },
	}
}

// status changes what the program says of itself.
func (p *program) status(change func(*agent.Status)) *program {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.report["status"].(agent.Status)
	change(&st)
	p.report["status"] = st
	return p
}

// set changes a field of what the program reports.
func (p *program) set(name string, v any) *program {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report[name] = v
	return p
}

// taking changes what its goroutines are.
func (p *program) taking(f func(full bool) any) *program {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.take = f
	return p
}

func (p *program) settings() map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.report["settings"].(map[string]any))
}

func (p *program) tasks() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// run lets the program ask the server until the test, or stop, ends it.
func (p *program) run(t *testing.T, base string) *program {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	p.stop, p.ended = stop, make(chan struct{})
	t.Cleanup(func() { stop(); <-p.ended })
	here := make(chan struct{})
	go func() {
		defer close(p.ended)
		for first := true; ; first = false {
			wait := "50s"
			if first {
				wait = "0s"
			}
			err := p.poll(ctx, base, wait)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				t.Errorf("a scripted agent: %v", err)
				return
			}
			if first {
				close(here)
			}
		}
	}()
	select {
	case <-here:
	case <-p.ended:
		t.FailNow()
	}
	return p
}

func (p *program) post(ctx context.Context, u, kind string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", kind)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK && res.StatusCode != http.StatusNotFound { // nobody waits any more: the page went on
		err = fmt.Errorf("%s: %s %s", u, res.Status, b)
	}
	return b, err
}

func (p *program) poll(ctx context.Context, base, wait string) error {
	p.mu.Lock()
	body, err := json.Marshal(p.report)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	b, err := p.post(ctx, base+"/api/v1/agents/poll?wait="+wait, "application/json", body)
	if err != nil {
		return err
	}
	var reply struct {
		Lease map[string]any
		Tasks []struct {
			ID, Kind string
			Full     bool
		}
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&reply); err != nil {
		return err
	}
	if wait != "0s" || reply.Lease != nil {
		p.follow(reply.Lease)
	}
	for _, task := range reply.Tasks {
		p.mu.Lock()
		p.asked = append(p.asked, fmt.Sprintf("%s full=%v", task.Kind, task.Full))
		take := p.take
		p.mu.Unlock()
		kind, out := "application/octet-stream", []byte("go 1.26 trace\x00\x00\x00")
		if task.Kind == "goroutines" {
			v := take(task.Full)
			if why, ok := v.(error); ok {
				kind, out = "text/plain", []byte(why.Error())
			} else if kind = "application/json"; true {
				if out, err = json.Marshal(v); err != nil {
					return err
				}
			}
		}
		if _, err := p.post(ctx, base+"/api/v1/agents/results?task="+url.QueryEscape(task.ID), kind, out); err != nil {
			return err
		}
	}
	return nil
}

// follow does with a lease what an agent does.
func (p *program) follow(lease map[string]any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.before != nil {
		p.report["settings"] = p.before
		p.before = nil
	}
	p.report["lease"] = ""
	if lease == nil {
		return
	}
	if p.guard != nil {
		if err := p.guard(lease); err != nil {
			p.report["lease_error"] = err.Error()
			return
		}
	}
	p.before = p.report["settings"].(map[string]any)
	now := maps.Clone(p.before)
	for k := range now {
		if v, ok := lease[k]; ok {
			now[k] = v
		}
	}
	p.report["settings"], p.report["lease"], p.report["lease_error"] = now, lease["id"], ""
}

// snapshot and group are what docs/format/agents.md says of goroutines.
type snapshot struct {
	Time      time.Time `json:"time"`
	Took      int64     `json:"took_ns"`
	Detail    string    `json:"detail"`
	Total     int       `json:"total"`
	Truncated bool      `json:"truncated"`
	Groups    []group   `json:"groups"`
}

type group struct {
	Count   int            `json:"count"`
	State   string         `json:"state"`
	WaitMax int            `json:"wait_max_s"`
	Locked  int            `json:"locked"`
	Leaked  int            `json:"leaked,omitempty"`
	Stack   []frame        `json:"stack"`
	Creator *frame         `json:"creator,omitempty"`
	Parents map[string]int `json:"parents,omitempty"`
	IDs     []int          `json:"ids,omitempty"`
}

type frame struct {
	Func string `json:"func"`
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
}

// frames are the functions of a stack, the root first as people say it.
func frames(root ...string) []frame {
	var out []frame
	for i, f := range slices.Backward(root) {
		out = append(out, frame{Func: f, File: "/src/" + file(f), Line: 20 + i})
	}
	return out
}

func made(by, in string, g group) group {
	g.Creator = &frame{Func: in, File: "/src/" + file(in), Line: 77}
	g.Parents = map[string]int{by: g.Count}
	for i := range min(g.Count, 100) {
		g.IDs = append(g.IDs, 20+i)
	}
	return g
}

const (
	pool = "github.com/acme/shop/work.(*Pool).run"
	mail = "github.com/acme/shop/mail.(*Sender).send"
)

// shop is a service's goroutines: main made a pool and a server, the server a goroutine for each connection, those what
// they need; and mail, whose creators have ended and which nobody takes from a channel, has grown by so many.
func shop(grown int) snapshot {
	const serve, conn, shopPath = "net/http.(*Server).Serve", "net/http.(*conn).serve", "github.com/acme/shop/"
	s := snapshot{Time: time.Now(), Took: 1_900_000, Detail: "full", Groups: []group{
		made("main.main", shopPath+"work.New", group{Count: 800, State: "chan receive", WaitMax: 240, Stack: frames(pool, "runtime.chanrecv2", "runtime.gopark")}),
		made("main.main", shopPath+"work.New", group{Count: 24, State: "running", Stack: frames(pool, shopPath+"work.(*Job).do", shopPath+"cache.(*LRU).evict")}),
		made("main.main", shopPath+"work.New", group{Count: 9, State: "runnable", Stack: frames(pool, shopPath+"work.(*Job).do")}),
		made("main.main", serve, group{Count: 140, State: "IO wait", WaitMax: 120, Stack: frames(conn, "net/http.(*connReader).Read", "net.(*conn).Read", "internal/poll.(*FD).Read", "runtime.gopark")}),
		made("main.main", serve, group{Count: 31, State: "sync.Mutex.Lock", Stack: frames(conn, "net/http.serverHandler.ServeHTTP", shopPath+"api.(*Server).checkout", shopPath+"order.(*Book).Place", "sync.(*Mutex).Lock")}),
		made("main.main", serve, group{Count: 12, State: "select", Stack: frames(conn, "net/http.serverHandler.ServeHTTP", shopPath+"api.(*Server).search", "runtime.selectgo")}),
		made(conn, shopPath+"order.(*Book).Place", group{Count: 31, State: "chan receive", Stack: frames(shopPath+"order.(*Book).audit", "runtime.chanrecv1")}),
		made(conn, "net/http.(*connReader).startBackgroundRead", group{Count: 12, State: "IO wait", Stack: frames("net/http.(*connReader).backgroundRead", "net.(*conn).Read", "internal/poll.(*FD).Read")}),
		made("(ended)", shopPath+"api.(*Server).notify", group{Count: 60 + grown, State: "chan send", WaitMax: 420, Stack: frames(mail, "runtime.chansend1", "runtime.gopark")}),
		made("main.main", "database/sql.OpenDB", group{Count: 1, State: "select", WaitMax: 5400, Stack: frames("database/sql.(*DB).connectionOpener", "runtime.selectgo")}),
		made("main.main", shopPath+"cache.New", group{Count: 1, State: "sleep", Stack: frames(shopPath+"cache.(*LRU).sweep", "time.Sleep")}),
		made("main.main", "os/signal.Notify.func1.1", group{Count: 1, State: "syscall", Locked: 1, WaitMax: 93600, Stack: frames("os/signal.loop", "os/signal.signal_recv")}),
		{Count: 1, State: "IO wait", WaitMax: 93600, Stack: frames("main.main", "net/http.ListenAndServe", "net/http.(*Server).Serve", "net.(*TCPListener).Accept", "internal/poll.(*FD).Accept"), IDs: []int{1}},
	}}
	return s.sum()
}

func (s snapshot) sum() snapshot {
	s.Total = 0
	for _, g := range s.Groups {
		s.Total += g.Count
	}
	return s
}

// counted is a program with too many goroutines for a full list.
func counted(full bool) any {
	s := shop(0)
	for i := range s.Groups {
		s.Groups[i].Count *= 40
		s.Groups[i].IDs = nil
	}
	for i := range s.Groups {
		for k, n := range s.Groups[i].Parents {
			s.Groups[i].Parents[k] = n * 40
		}
	}
	if s = s.sum(); full {
		s.Took = 148_000_000
		return s
	}
	s.Detail, s.Took = "counts", 9_000_000
	for i := range s.Groups {
		g := &s.Groups[i]
		g.Creator, g.Parents, g.WaitMax, g.Locked = nil, nil, 0, 0
	}
	return s
}

// crowd is as many groups as an agent tells, with deep stacks, in a chain of creators and a broad layer below it.
func crowd(bool) any {
	s := snapshot{Time: time.Now(), Took: 4_800_000, Detail: "full", Truncated: true}
	states := []string{"chan receive", "select", "IO wait", "sync.Mutex.Lock", "sleep", "semacquire"}
	for i := range 2000 {
		st := []string{fmt.Sprintf("example.com/crowd/p%d.(*T).run%d", i%40, i)}
		for d := range 30 {
			st = append(st, fmt.Sprintf("example.com/crowd/q%d.step%d", (i*7+d)%60, d))
		}
		g := group{Count: 1 + (i*13)%50, State: states[i%len(states)], WaitMax: 60 * (i % 7), Stack: frames(st...)}
		parent := "main.main"
		if i > 0 && i < 30 {
			parent = fmt.Sprintf("example.com/crowd/p%d.(*T).run%d", (i-1)%40, i-1)
		} else if i >= 30 {
			parent = fmt.Sprintf("example.com/crowd/p%d.(*T).run%d", (i%30)%40, i%30)
		}
		s.Groups = append(s.Groups, made(parent, "example.com/crowd.Start", g))
	}
	s.Groups = append(s.Groups, group{Count: 321, State: "other", Stack: []frame{}})
	return s.sum()
}

// summed is what an execution trace of the shop says.
func summed([]byte) (any, error) {
	ms := func(n float64) int64 { return int64(n * 1e6) }
	times := func(life, run, ready, most, sys float64, assist float64, blocked map[string]int64) map[string]any {
		return map[string]any{"lifetime_ns": ms(life), "run_ns": ms(run), "runnable_ns": ms(ready), "runnable_max_ns": ms(most), "syscall_ns": ms(sys), "blocked_ns": blocked, "unknown_ns": 0, "assist_ns": ms(assist), "runs": 1800}
	}
	group := func(entry string, count int, t map[string]any) map[string]any {
		t = maps.Clone(t)
		t["entry"], t["count"] = entry, count
		return t
	}
	all := times(4_060_000, 7_400, 2_060, 14.2, 610, 96, map[string]int64{"chan receive": ms(3_900_000)})
	maps.Copy(all, map[string]any{"window_ns": ms(5003), "procs": 4, "events": 183_000, "goroutines": 1124, "gc": map[string]any{"cycles": 6, "mark_ns": ms(88), "stw_ns": ms(0.9), "stw_max_ns": ms(0.21), "stw_count": 12},
		"groups": []any{
			group(pool, 833, times(4_000_000, 6_100, 1_900, 14.2, 12, 90, map[string]int64{"chan receive": ms(3_950_000), "sync": ms(41_000)})),
			group("net/http.(*conn).serve", 183, times(900_000, 1_200, 150, 3.1, 590, 6, map[string]int64{"network": ms(760_000), "sync": ms(120_000), "select": ms(18_000)})),
			group("github.com/acme/shop/cache.(*LRU).sweep", 1, times(5003, 80, 2, 0.4, 0, 0, map[string]int64{"sleep": ms(4921)})),
			group(mail, 60, times(300_180, 0, 0, 0, 0, 0, map[string]int64{"chan send": ms(300_180)})),
			maps.Clone(map[string]any{"system": true}),
		}, "top": []any{}, "truncated": false, "warnings": []string{}})
	groups := all["groups"].([]any)
	groups[4] = group("runtime.gcBgMarkWorker", 4, times(20_012, 340, 8, 1.1, 0, 0, map[string]int64{"system goroutine wait": ms(19_660)}))
	groups[4].(map[string]any)["system"] = true
	return all, nil
}

// fleetServer is the page, the questions and the agents' side, all real, and what fails when it is told to.
type fleetServer struct {
	*httptest.Server
	mu     sync.Mutex
	broken string // the path that answers 500 for now
}

func (s *fleetServer) breaks(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = path
}

// readers are the routes on which people ask about agents.
func readers(f *fleet.Fleet) map[string]http.Handler {
	return map[string]http.Handler{fleet.ReaderPath: f.Handler(), fleet.ReaderPath + "/": f.Handler()}
}

// withAgents serves a store's profiles, a fleet, and findings where there are some. Agents are offline a second after they end.
func withAgents(t *testing.T, st store.Store, o fleet.Options, books ...*book) *fleetServer {
	t.Helper()
	o.Away, o.Logger = time.Second, slog.New(slog.DiscardHandler)
	f, err := fleet.New(o)
	if err != nil {
		t.Fatal(err)
	}
	routes := bookOf().routes()
	var rust []string
	for _, b := range books {
		routes, rust = b.routes(), b.rust
	}
	maps.Copy(routes, readers(f))
	maps.Copy(routes, tasksOf(t, rust...))
	h, err := web.New(web.Options{Store: st, Routes: routes})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	f.Register(mux)
	mux.Handle("/", h)
	s := &fleetServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		broken := s.broken == r.URL.Path
		s.mu.Unlock()
		if broken {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusInternalServerError)
			io.WriteString(w, `{"code":"internal","message":"a fault of the server's, which is in its log"}`)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { f.Close(); s.Close() })
	return s
}

// someAgents are agents in all the ways in which an agent can be.
func someAgents(t *testing.T, base string) map[string]*program {
	t.Helper()
	shed := scripted("checkout", "v2", "checkout-v2-0").status(func(s *agent.Status) {
		s.CPURate, s.Types, s.Shed = 50, "CPU|Heap|Allocs|Goroutine", []string{"no Mutex", "CPU at 50 Hz: high load"}
		s.Steps = []agent.Step{{At: time.Now().Add(-22 * time.Minute), What: "no Mutex: the agent takes 1.32 % of the program's processor time, it may take 1.00 %"}, {At: time.Now().Add(-4 * time.Minute), What: "CPU at 50 Hz: the program keeps 97 % of its processors busy"}}
		s.Cost.CPUPercent, s.Cost.CPUDoubt, s.Gaps, s.LastGap = 0.83, 0.2, 3, "CPU: another profiler has it"
		s.Notes = []string{"stderr: 200 Hz makes the runtime write a line to stderr, which is sent to /dev/null meanwhile"}
	})
	full := scripted("billing", "2024.11.3", "billing-0").set("optimizer", false).set("region", "us-east").status(func(s *agent.Status) {
		s.Queued, s.QueuedBytes, s.Spooled, s.SpooledBytes, s.Dropped = 14, 1<<20, 211, 63<<20, 12
		s.SpoolError, s.LastError = "write spool/000211: no space left on device", "Post \"http://127.0.0.1:4040/api/v1/profiles\": dial tcp 127.0.0.1:4040: connect: connection refused"
		s.Cost.Memory, s.Cost.CPUPercent, s.Cost.CPUDoubt = 11<<20, 1.6, 0.3
	})
	guarded := scripted("catalog", "v7", "catalog-v7-0").set("lease_error", "")
	guarded.guard = func(l map[string]any) error {
		return errors.New("gogc 200 would need 612 MiB, the memory limit of the container is 512 MiB")
	}
	guarded.taking(counted)
	crowded := scripted("crowd", "v1", "crowd-0").taking(crowd)
	all := map[string]*program{"plain": scripted("checkout", "v1", "checkout-v1-0"), "shed": shed, "full": full, "guarded": guarded, "crowded": crowded}
	for _, p := range all {
		p.run(t, base)
	}
	return all
}
