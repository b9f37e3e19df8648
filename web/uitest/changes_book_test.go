package uitest

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
)

// ledger answers what is asked of changes from those that a test writes down, so that stages which take half an hour are there at once.
// It refuses what optimize refuses: acts that do not fit the state, fields that are spelled wrong, acts without a name.
type ledger struct {
	mu      sync.Mutex
	changes []optimize.Change
	history map[string][]optimize.Event
	latest  map[string]judge.Verdict
	series  map[string]*measured // by change and stage, as "ID 0"
	holds   optimize.Holds
	status  map[string]any
	plan    []map[string]any
	acts    []string // as "start ID ada: note"
	asked   map[string]int
	fault   *bookFault
	gate    chan struct{} // an act waits for it; nil is not
}

func (l *ledger) change(f func(l *ledger)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
}

func (l *ledger) did() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.acts)
}

func (l *ledger) routes() map[string]http.Handler {
	return map[string]http.Handler{"/api/v1/changes": l, "/api/v1/changes/": l}
}

func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	gate := l.gate
	l.mu.Unlock()
	if r.Method == http.MethodPost && gate != nil {
		select {
		case <-gate:
		case <-r.Context().Done():
			return
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	status, answer := l.answer(r)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(http.ErrAbortHandler)
	}
}

func (l *ledger) answer(r *http.Request) (int, any) {
	if f := l.fault; f != nil && f.method == r.Method {
		return refusal(f.status, f.code, "%s", f.text)
	}
	id, part, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/api/v1/changes"), "/"), "/")
	for name := range r.URL.Query() {
		if !slices.Contains([]string{"service", "kind", "state", "since", "limit", "after", "stage"}, name) {
			return refusal(http.StatusBadRequest, "invalid_argument", "parameter %q is not understood here", name)
		}
	}
	if r.Method == http.MethodPost && id == "plan" {
		return http.StatusOK, map[string]any{"plan": l.plan}
	}
	if r.Method == http.MethodPost {
		var a optimize.Action
		dec := json.NewDecoder(r.Body)
		dec.DisallowUnknownFields()
		if err := dec.Decode(&a); err != nil || a.By == "" {
			return refusal(http.StatusBadRequest, "invalid_argument", "the body is not what is asked for: %v, by=%q", err, a.By)
		}
		if id == "pause" || id == "resume" {
			return l.all(id, a)
		}
		return l.act(id, a)
	}
	switch {
	case id == "":
		l.asked["list"]++
		q := r.URL.Query()
		in := func(name, v string) bool {
			return q.Get(name) == "" || slices.Contains(strings.Split(q.Get(name), ","), v)
		}
		out := []any{}
		for _, c := range l.changes {
			if in("service", c.Service) && in("state", string(c.State)) {
				out = append(out, inList(c))
			}
		}
		return http.StatusOK, map[string]any{"changes": out, "holds": l.holds, "status": l.status}
	case l.find(id) == nil:
		return refusal(http.StatusNotFound, "not_found", "there is no change %q", id)
	case part == "series":
		l.asked["series"]++
		n, err := strconv.Atoi(r.FormValue("stage"))
		if err != nil {
			return refusal(http.StatusBadRequest, "invalid_argument", "stage=%q: it must be a number", r.FormValue("stage"))
		}
		if c := l.find(id); n > c.Stage || !slices.ContainsFunc(c.Units, func(u optimize.Unit) bool { return !u.Applied.IsZero() }) {
			return refusal(http.StatusConflict, "failed_precondition", "stage %d of change %s has not been in force", n, id)
		}
		return http.StatusOK, l.series[fmt.Sprintf("%s %d", id, n)]
	}
	l.asked["one"]++
	a := map[string]any{"change": marked(*l.find(id)), "history": l.history[id], "latest": nil}
	if v, ok := l.latest[id]; ok {
		a["latest"] = v
	}
	return http.StatusOK, a
}

// inList is a change as a list has it: its nodes are counted, and nothing is there that a list has no use for.
func inList(c optimize.Change) any {
	nodes := map[optimize.UnitState]int{}
	for _, u := range c.Units {
		nodes[u.State]++
	}
	c = marked(c)
	c.Units, c.Verdicts, c.Periods = nil, nil, nil
	if c.Verdict != nil {
		v := *c.Verdict
		v.Functions, c.Verdict = nil, &v
	}
	return struct {
		optimize.Change
		Nodes map[optimize.UnitState]int `json:"nodes"`
	}{c, nodes}
}

// marked is a change as answers have it, by a policy that asks for an approval above 50 a month.
func marked(c optimize.Change) optimize.Change {
	c.NeedsApproval = (c.State == optimize.Proposed || c.State == optimize.Waiting) && c.ApprovedBy == "" && c.Cost > 50
	return c
}

func (l *ledger) find(id string) *optimize.Change {
	if i := slices.IndexFunc(l.changes, func(c optimize.Change) bool { return c.ID == id }); i >= 0 {
		return &l.changes[i]
	}
	return nil
}

func (l *ledger) all(do string, a optimize.Action) (int, any) {
	l.acts = append(l.acts, strings.TrimSuffix(fmt.Sprintf("%s all %s: %s", do, a.By, a.Note), ": "))
	l.holds.Paused = nil
	delete(l.status, "frozen")
	if do == "pause" {
		l.status["frozen"] = "All changes are paused by " + a.By + " since 12:04. " + a.Note
		l.holds.Paused = &optimize.Hold{By: a.By, At: time.Now().UTC(), Note: a.Note}
	}
	return http.StatusOK, map[string]any{"holds": l.holds}
}

func (l *ledger) act(id string, a optimize.Action) (int, any) {
	c := l.find(id)
	if c == nil {
		return refusal(http.StatusNotFound, "not_found", "there is no change %q", id)
	}
	now := time.Now().UTC()
	e := optimize.Event{Time: now, Actor: a.By, Note: a.Note, Stage: c.Stage}
	open := c.State == optimize.Proposed || c.State == optimize.Waiting
	switch {
	case a.Do == "start" && (c.State == optimize.Proposed || c.State == optimize.Undone):
		c.State, c.StartedAt, c.StartedBy, e.What = optimize.Waiting, now, a.By, optimize.WhatStarted
	case a.Do == "approve" && open:
		if c.State == optimize.Proposed {
			c.State, c.StartedAt, c.StartedBy = optimize.Waiting, now, a.By
		}
		c.ApprovedBy, c.Held, e.What = a.By, "", optimize.WhatApproved
	case a.Do == "pause" && (c.State == optimize.Waiting || c.State.Acting()):
		c.Paused, c.PausedBy, e.What = true, a.By, optimize.WhatPaused
	case a.Do == "resume":
		c.Paused, c.PausedBy, e.What = false, "", optimize.WhatResumed
	case a.Do == "undo" && (c.State == optimize.Applying || c.State == optimize.Dwelling || c.State == optimize.Done):
		c.State, c.UndoTo, c.Reason, e.What = optimize.Undoing, optimize.Undone, a.By+" wants it undone. "+a.Note, optimize.WhatUndoing
	case a.Do == "reject" && open:
		c.State, c.EndedAt, c.Rejected, c.Reason, e.What = optimize.Withdrawn, now, true, a.By+" has rejected it. "+a.Note, optimize.WhatWithdrawn
	default:
		return refusal(http.StatusConflict, "failed_precondition", "a change that is %s cannot be made to %s", c.State, a.Do)
	}
	l.acts = append(l.acts, strings.TrimSuffix(fmt.Sprintf("%s %s %s: %s", a.Do, id, a.By, a.Note), ": "))
	l.add(c, e)
	return http.StatusOK, map[string]any{"change": marked(*c)}
}

// add is an event of a change, as the optimizer's unless it says whose.
func (l *ledger) add(c *optimize.Change, es ...optimize.Event) {
	for _, e := range es {
		if e.Time.IsZero() {
			e.Time = time.Now().UTC()
		}
		if e.Actor == "" {
			e.Actor = "optimizer"
		}
		e.Seq = int64(len(l.history[c.ID]) + 1)
		l.history[c.ID] = append(l.history[c.ID], e)
	}
}

// The nodes of checkout, by the names that the fleet's profiles have.
var (
	changed = optimize.Target{ID: "checkout-v2-0", Zone: "eu-west1-b", Version: "v2"}
	beside  = optimize.Target{ID: "checkout-v1-0", Zone: "eu-west1-c", Version: "v1"}
)

// dwell brings a change's stage into force, since so long ago.
func (l *ledger) dwell(id string, stage int, ago time.Duration) {
	c, now := l.find(id), time.Now().UTC()
	at := now.Add(-ago)
	if c.StartedAt.IsZero() || c.StartedAt.After(at) {
		c.StartedAt = at.Add(-2 * time.Second)
	}
	c.Plan = optimize.DefaultPlan()
	c.State, c.Stage, c.Held = optimize.Dwelling, stage, ""
	c.StageAt, c.StageUntil, c.Deadline = at, at.Add(10*time.Minute), at.Add(30*time.Minute)
	c.Units = []optimize.Unit{{Target: changed, State: optimize.UnitApplied, Applied: at, Rehearsed: true}, {Target: beside, State: optimize.UnitControl, Stage: stage}}
	l.add(c, optimize.Event{Time: at.Add(-time.Second), What: optimize.WhatStage, Stage: stage, Note: fmt.Sprintf("Stage %d of 4: %s.", stage+1, changed.ID)},
		optimize.Event{Time: at.Add(-time.Second), What: optimize.WhatIntent, Stage: stage, Target: changed.ID, Note: `Undo was rehearsed: {"gogc":100}`},
		optimize.Event{Time: at, What: optimize.WhatApplied, Stage: stage, Target: changed.ID},
		optimize.Event{Time: at, What: optimize.WhatDwelling, Stage: stage, Note: fmt.Sprintf("In force at %s; %s left as before.", changed.ID, beside.ID)})
	l.series[fmt.Sprintf("%s %d", id, stage)] = course(at, ago, 0.89)
}

// judged adds a verdict, written together with the stage that comes of it as the optimizer does.
func (l *ledger) judged(id string, v judge.Verdict, next int) {
	c := l.find(id)
	v.At = time.Now().UTC()
	c.Verdict = &v
	c.Verdicts = append(c.Verdicts, v)
	l.latest[id] = v
	l.add(c, optimize.Event{What: optimize.WhatVerdict, Stage: next, Note: v.Reason, Verdict: &v, Evidence: []optimize.Evidence{{What: "stage", Link: fmt.Sprintf("/changes/%s?from=%d&until=%d", id, c.StageAt.UnixMilli(), v.At.UnixMilli())}}})
}

// course is what was measured of one node and one control around at, up to so long after it: by from there the treated's CPU per request.
func course(at time.Time, after time.Duration, by float64) *measured {
	const step = 10 * time.Second
	m := &measured{From: at.Add(-10 * time.Minute), To: at.Add(after), StageAt: at}
	m.Members = []member{{Name: changed.ID, Treated: true, Applied: at, Series: map[string][]point{}}, {Name: beside.ID, Series: map[string][]point{}}}
	for i, x := range []struct {
		metric           judge.Metric
		value, by, noise float64
	}{
		{judge.Metric{Name: "cpu_per_request", Critical: true, Tolerate: 0.05}, 0.00112, by, 0.03}, {judge.Metric{Name: "latency_p99", Critical: true, Tolerate: 0.15}, 0.062, 1, 0.1},
		{judge.Metric{Name: "rss", Critical: true, Tolerate: 0.25}, 310 << 20, 1.04, 0.01}, {judge.Metric{Name: "gc_cpu", Tolerate: 0.1, Floor: 0.02}, 0.19, 0.4, 0.05},
		{judge.Metric{Name: "errors", Critical: true, Tolerate: 0.25, Floor: 0.002}, 0.0004, 1, 0.5}, {judge.Metric{Name: "throughput", Better: judge.Higher, Critical: true, Tolerate: 0.1}, 480, 1, 0.03},
	} {
		m.Metrics = append(m.Metrics, x.metric)
		for j, who := range m.Members {
			r := rand.New(rand.NewPCG(uint64(i), uint64(j)))
			for t := m.From; !t.After(m.To); t = t.Add(step) {
				v := x.value * (1 + 0.05*math.Sin(float64(t.Unix())/140) + x.noise*r.NormFloat64())
				if who.Treated && t.After(at) {
					v *= x.by
				}
				who.Series[x.metric.Name] = append(who.Series[x.metric.Name], point{t.Add(-step), t, max(0, v), 10})
			}
		}
	}
	return m
}

// measured is what is answered of a stage.
type measured struct {
	Stage    int            `json:"stage"`
	From     time.Time      `json:"from"`
	To       time.Time      `json:"to"`
	StageAt  time.Time      `json:"stage_at"`
	Metrics  []judge.Metric `json:"metrics"`
	Members  []member       `json:"members"`
	Warnings []string       `json:"warnings,omitempty"`
}

type member struct {
	Name    string             `json:"name"`
	Treated bool               `json:"treated"`
	Applied time.Time          `json:"applied,omitzero"`
	Series  map[string][]point `json:"series"`
}

type point struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Value  float64   `json:"value"`
	Weight float64   `json:"weight"`
}

func est(value, low, high float64) analyze.Estimate {
	return analyze.Estimate{Value: value, Low: low, High: high}
}

// passed and harmed are what is judged of a good change and of a bad one; unknown is what is said while there is too little.
func passed() judge.Verdict {
	m := func(name string, before, after, e, low, high, worse float64, d judge.Decision) judge.MetricVerdict {
		return judge.MetricVerdict{Name: name, Critical: name != "gc_cpu", Decision: d, Before: before, After: after, Effect: est(e, low, high), Difference: est(after-before, (after-before)*1.2, (after-before)*0.8), Worse: worse,
			Windows: 57, ControlWindows: 58, BaselineWindows: 120, Members: 1, ControlMembers: 1, Units: 19, Test: "Mann-Whitney U of 19 blocks of 3 windows", P: 0.0004, PHarm: 0.98, E: 0.02}
	}
	fell := func(fn string, before, after float64) analyze.Compared {
		d := analyze.Difference{Before: est(before, before*0.95, before*1.05), After: est(after, after*0.95, after*1.05), Change: est(after-before, (after-before)*1.1, (after-before)*0.9), Real: est(after-before, (after-before)*1.1, (after-before)*0.9), P: 1e-9, Q: 1e-7}
		return analyze.Compared{Function: fn, Self: d, Full: d, Own: d, Verdict: analyze.Fell, Metric: "total"}
	}
	throughput := m("throughput", 480, 478, -0.004, -0.02, 0.012, 0.1, judge.Pass)
	throughput.Better = judge.Higher
	return judge.Verdict{Decision: judge.Pass, Reason: "CPU per request fell by 10.8 % (95 %: 8.1 to 13.4 %, n = 57 windows); nothing else became worse than tolerated.",
		Metrics:   []judge.MetricVerdict{m("cpu_per_request", 0.00112, 0.000999, -0.108, -0.134, -0.081, 0.05, judge.Pass), m("latency_p99", 0.062, 0.0613, -0.011, -0.06, 0.04, 0.15, judge.Pass), m("rss", 310<<20, 322<<20, 0.039, 0.031, 0.047, 0.25, judge.Pass), m("gc_cpu", 0.19, 0.076, -0.6, -0.63, -0.57, 0.1, judge.Pass), throughput},
		Functions: []analyze.Compared{fell("runtime.gcBgMarkWorker", 0.19, 0.076), fell("runtime.scanobject", 0.11, 0.04)}}
}

func harmed() judge.Verdict {
	v := passed()
	v.Decision, v.Final, v.Guilty = judge.Fail, true, planted
	v.Reason = "CPU per request rose by 31 % (95 %: 26 to 36 %), of which 5 % is tolerated. What grew is " + planted + "."
	m := &v.Metrics[0]
	m.Decision, m.After, m.Effect, m.P, m.PHarm, m.E = judge.Fail, 0.00147, est(0.31, 0.26, 0.36), 0.9999, 1e-8, 4000
	d := analyze.Difference{Before: est(0.028, 0.026, 0.03), After: est(0.195, 0.19, 0.2), Change: est(0.167, 0.161, 0.172), Real: est(0.17, 0.163, 0.176), P: 1e-12, Q: 1e-10}
	caller := analyze.Compared{Function: "github.com/acme/shop/cache.(*LRU).Put", Self: d, Full: d, Own: d, Verdict: analyze.Explained, Metric: "total", By: planted}
	v.Functions = []analyze.Compared{{Function: planted, Self: d, Full: d, Own: d, Verdict: analyze.Grew, Metric: "total"}, caller}
	return v
}

func unknown() judge.Verdict {
	v := passed()
	v.Decision, v.Reason, v.Functions = judge.Hold, "Of 12 windows that are needed there are 4.", nil
	for i := range v.Metrics {
		v.Metrics[i].Decision, v.Metrics[i].Windows, v.Metrics[i].ControlWindows, v.Metrics[i].P = judge.Hold, 4, 4, 0.4
		v.Metrics[i].Effect.High = math.MaxFloat64 // an interval without an end, as the optimizer keeps it
	}
	return v
}

func usd(v float64) *analyze.Money {
	return &analyze.Money{Amount: v, Low: v * 0.8, High: v * 1.2, Currency: "USD", Basis: "0.031 USD a core-hour (default), 730 h a month"}
}

// proposal is the change of the demo, with an id that a test can name.
func proposal(id string) optimize.Change {
	p := optimize.Proposal{Kind: optimize.Runtime, Service: "checkout", Subject: "gc", Spec: json.RawMessage(`{"gogc":300,"gomemlimit":419430400}`),
		Sentence: "checkout spends 19 % of its CPU in garbage collection with 70 % of its memory limit unused: GOGC 100 -> 300 under GOMEMLIMIT 400 MiB is expected to take 11 % of the CPU away.",
		Evidence: []optimize.Evidence{{What: "GC's share of CPU", Link: "/explore?service=checkout&type=runtime:gc_cpu:nanoseconds:cpu:nanoseconds"}},
		Expected: map[string]analyze.Estimate{"cpu_per_request": est(-0.11, -0.14, -0.08)}, Saving: 1.1, Price: usd(190)}
	at := time.Now().Add(-20 * time.Minute).UTC()
	return optimize.Change{ID: id, Tenant: "default", Proposal: p, State: optimize.Proposed, ProposedAt: at, SeenAt: time.Now().UTC()}
}

// ledgerOf is a ledger of these, each proposed once.
func ledgerOf(changes ...optimize.Change) *ledger {
	l := &ledger{changes: changes, history: map[string][]optimize.Event{}, latest: map[string]judge.Verdict{}, series: map[string]*measured{}, asked: map[string]int{},
		status: map[string]any{"leader": true, "policy": map[string]any{}, "kinds": optimize.Kinds, "breakers": map[string]any{}, "budget": map[string]any{"month": "2026-11", "spent": 12, "limit": 500, "approve_above": 50}, "ticks": 1200, "errors": []string{}}}
	for i := range l.changes {
		c := &l.changes[i]
		l.add(c, optimize.Event{Time: c.ProposedAt, What: optimize.WhatProposed, Note: c.Sentence, Evidence: c.Evidence})
	}
	return l
}

// fullLedger has changes in all the ways in which one can be.
func fullLedger() *ledger {
	of := func(id string, kind optimize.Kind, service, sentence string, price float64) optimize.Change {
		c := proposal(id)
		c.Kind, c.Service, c.Sentence, c.Subject, c.Expected, c.Evidence = kind, service, sentence, "", nil, nil
		c.Price, c.Saving = usd(price), price/172
		return c
	}
	more := of("more", optimize.Scale, "search", "search runs at 84 % of its CPU since 12 min: 6 -> 8 replicas.", 0)
	more.Price, more.Saving, more.Cost = nil, -2, 120
	more.State, more.StartedBy, more.StartedAt, more.Held = optimize.Waiting, "ada", time.Now().Add(-time.Minute), "It adds 120 a month, above 50: it needs an approval."
	small := of("small", optimize.PGO, "catalog", "catalog is built without a profile of its own: one of the last 7 days is expected to take 4 % of the CPU away.", 31)
	small.Warnings = []string{"2 of 14 instances run another version: their profiles are left out."}
	acting, undoing, done, failed := of("acting", optimize.Runtime, "billing", "billing has 8 processors and uses 2: GOMAXPROCS 8 -> 3.", 44), of("undoing", optimize.Rebalance, "feed", "2 of 9 nodes of feed have half of its load.", 20),
		of("done", optimize.Runtime, "cart", "cart collects 4 times a second: GOGC 100 -> 200.", 80), of("failed", optimize.Runtime, "mail", "mail keeps 2 GiB free: GOGC 100 -> 20.", 12)
	rejected := of("rejected", optimize.Machine, "batch", "batch uses a tenth of its machines: n2-standard-8 -> n2-standard-4.", 300)
	rejected.State, rejected.Rejected, rejected.Reason, rejected.EndedAt = optimize.Withdrawn, true, "ada has rejected it. Black Friday.", time.Now().Add(-time.Hour)
	l := ledgerOf(small, rejected, proposal("gc"), more, acting, undoing, done, failed)
	l.dwell("acting", 1, 4*time.Minute)
	l.latest["acting"] = unknown()
	l.dwell("undoing", 0, 3*time.Minute)
	l.judged("undoing", harmed(), 0)
	u := l.find("undoing")
	u.State, u.UndoTo, u.Reason, u.Units[0].State = optimize.Undoing, optimize.Failed, harmed().Reason, optimize.UnitUndoing
	l.finish("done", optimize.Done, passed())
	l.find("done").EndedAt = time.Now().Add(-5 * time.Minute)
	l.finish("failed", optimize.Failed, harmed())
	return l
}

// finish brings a change to its end.
func (l *ledger) finish(id string, to optimize.State, v judge.Verdict) {
	last := 0
	if to == optimize.Done {
		last = 3
	}
	for stage := range last + 1 {
		l.dwell(id, stage, 10*time.Minute)
		l.judged(id, v, min(stage+1, last))
	}
	c := l.find(id)
	c.State, c.EndedAt, c.Reason = to, time.Now().UTC(), v.Reason
	c.Units = slices.DeleteFunc(c.Units, func(u optimize.Unit) bool { return u.State == optimize.UnitControl })
	what := optimize.WhatDone
	if to == optimize.Failed {
		c.Units[0].State, c.Units[0].Undone, what = optimize.UnitUndone, c.EndedAt, optimize.WhatFailed
	} else {
		c.Saved = &optimize.Saved{Cores: est(1.06, 0.8, 1.32), Price: usd(182)}
	}
	l.add(c, optimize.Event{What: what, Stage: c.Stage, Note: c.Reason})
}

// changing is the page over the fleet's sixteen minutes and a ledger of its own.
func changing(t *testing.T, l *ledger) *httptest.Server {
	t.Helper()
	b := bookOf()
	b.ledger = l
	return watched(t, b)
}
