package uitest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/watch"
	"github.com/quantra-l/quantra/web"
)

// The states of a record, as they travel.
const (
	stNew          watch.State = "new"
	stAcknowledged watch.State = "acknowledged"
	stMuted        watch.State = "muted"
	stFixed        watch.State = "fixed"
	stCameBack     watch.State = "came_back"
)

// book answers docs/format/findings.md from records that a test writes down, so that states which take days are there at once.
// It refuses what that page does not have: parameters, fields and acts that are spelled wrong.
type book struct {
	mu       sync.Mutex
	records  []watch.Record // in the order in which they are listed
	history  map[string][]watch.Event
	analysis map[string]any
	acts     []watch.Action
	asked    []string // the queries of lists
	fault    *bookFault
	gate     chan struct{} // an act waits for it; nil is not
	ledger   *ledger       // the changes beside the findings; nil is none
	rust     []string      // service and instance of programs whose tasks are watched, where there are agents
}

// bookFault is what is answered instead: to POST, or to GET.
type bookFault struct {
	method     string
	status     int
	code, text string
}

func (b *book) change(f func(b *book)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b)
}

// did is the acts so far.
func (b *book) did() []watch.Action {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.acts)
}

func (b *book) queries() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.asked)
}

// routes are where a server has its findings and its changes.
func (b *book) routes() map[string]http.Handler {
	l := b.ledger
	if l == nil {
		l = ledgerOf()
	}
	routes := l.routes()
	routes["/api/v1/findings"], routes["/api/v1/findings/"] = b, b
	return routes
}

func (b *book) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	gate := b.gate
	b.mu.Unlock()
	if r.Method == http.MethodPost && gate != nil {
		select {
		case <-gate:
		case <-r.Context().Done():
			return
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	status, answer := b.answer(r)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(http.ErrAbortHandler)
	}
}

func refusal(status int, code, format string, args ...any) (int, any) {
	return status, map[string]string{"code": code, "message": fmt.Sprintf(format, args...)}
}

func (b *book) answer(r *http.Request) (int, any) {
	if f := b.fault; f != nil && f.method == r.Method {
		return refusal(f.status, f.code, "%s", f.text)
	}
	id := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/api/v1/findings"), "/")
	i := slices.IndexFunc(b.records, func(r watch.Record) bool { return r.ID == id })
	switch {
	case id == "" && r.Method == http.MethodGet:
		return b.list(r)
	case i < 0:
		return refusal(http.StatusNotFound, "not_found", "there is no finding %q", id)
	case r.Method == http.MethodGet:
		return http.StatusOK, map[string]any{"finding": b.records[i], "history": append([]watch.Event{}, b.history[id]...)}
	}
	var a watch.Action
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&a); err != nil || !slices.Contains(watch.Actions, a.Do) {
		return refusal(http.StatusBadRequest, "invalid_argument", "the body is not what is asked for: %v, do=%q", err, a.Do)
	}
	b.acts = append(b.acts, a)
	rec := &b.records[i]
	e := watch.Event{Time: time.Now().UTC(), Actor: a.By, Note: a.Note}
	switch a.Do {
	case "acknowledge":
		rec.State, e.What = stAcknowledged, "acknowledged"
	case "mute":
		rec.State, rec.MutedUntil, e.What = stMuted, a.Until, "muted"
	case "unmute":
		rec.State, rec.MutedUntil, e.What = stNew, time.Time{}, "unmuted"
	case "fix":
		rec.State, rec.FixedAt, e.What = stFixed, e.Time, "fixed"
	case "reopen":
		rec.State, rec.FixedAt, rec.Saved, e.What = stNew, time.Time{}, nil, "reopened"
	}
	b.history[id] = append(b.history[id], e)
	return http.StatusOK, map[string]any{"finding": rec}
}

func (b *book) list(r *http.Request) (int, any) {
	b.asked = append(b.asked, r.URL.RawQuery)
	q := r.URL.Query()
	for name := range q {
		if !slices.Contains([]string{"service", "kind", "state", "since", "limit"}, name) {
			return refusal(http.StatusBadRequest, "invalid_argument", "parameter %q is not understood here", name)
		}
	}
	out := []watch.Record{}
	for _, rec := range b.records {
		in := func(name, v string) bool {
			return q.Get(name) == "" || slices.Contains(strings.Split(q.Get(name), ","), v)
		}
		state := in("state", string(rec.State)) && (q.Get("state") != "" || rec.State != stFixed) || q.Get("state") == "all" || q.Get("state") == "open" && rec.Open()
		if !in("service", rec.Finding.Service) || !in("kind", string(rec.Finding.Kind)) || !state {
			continue
		}
		if s := q.Get("since"); s != "" {
			d, err := time.ParseDuration(s)
			if err != nil {
				return refusal(http.StatusBadRequest, "invalid_argument", "since=%q: it must be a time as 24h", s)
			}
			if time.Since(rec.LastSeen) > d {
				continue
			}
		}
		out = append(out, rec)
	}
	return http.StatusOK, map[string]any{"findings": out, "analysis": b.analysis}
}

// watched is the page over the fleet's sixteen minutes, and a book of its own. Nobody may change the profiles.
func watched(t *testing.T, b *book) *httptest.Server {
	t.Helper()
	quarter(t)
	return watchedStore(t, shared.store, b)
}

func watchedStore(t *testing.T, st store.Store, b *book) *httptest.Server {
	t.Helper()
	h, err := web.New(web.Options{Store: st, Routes: b.routes()})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

const cpuType = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"

// wave is a chart that goes from one level to another at a moment.
func wave(from, to, since time.Time, before, after float64, n int) []analyze.ChartPoint {
	r, out := rand.New(rand.NewPCG(5, uint64(n))), []analyze.ChartPoint{}
	for i := range n {
		at := from.Add(to.Sub(from) * time.Duration(i) / time.Duration(n))
		v := before
		if !at.Before(since) {
			v = after
		}
		v *= 1 + 0.04*r.NormFloat64()
		d := 0.1 * max(before, after) * (1 + 0.2*math.Sin(float64(i)))
		out = append(out, analyze.ChartPoint{Time: at, Value: v, Low: max(0, v-d), High: v + d})
	}
	return out
}

// rose is the regression that [fill] has planted, as the analysis would tell of it.
func rose(now time.Time) analyze.Finding {
	from, since := now.Add(-15*time.Minute), now.Add(-9*time.Minute)
	return analyze.Finding{
		Kind: analyze.Regression, Service: "checkout", Function: planted, Type: cpuType, Metric: "total",
		Sentence: fmt.Sprintf("`%s` rose from 2.8 %% to 19.5 %% of checkout's CPU (95 %% interval +16.1..+17.2 points, 2 instances) at %s, with version v2.", planted, since.UTC().Format("15:04")),
		Next:     fmt.Sprintf("Compare v1 with v2 in the flame graph, below `%s`.", planted), Unit: "share",
		Before: analyze.Estimate{Value: 0.028, Low: 0.026, High: 0.030}, After: analyze.Estimate{Value: 0.195, Low: 0.190, High: 0.200}, Change: analyze.Estimate{Value: 0.167, Low: 0.161, High: 0.172},
		Since: since, From: from, To: now, Cause: &analyze.Cause{Label: "service_version", Value: "v2", Share: 0.98}, Samples: 41250, Instances: 2, Test: "likelihood ratio", P: 1e-12, Q: 3e-9,
		Warnings: []string{"Only 2 instances ran v2: what they share may be theirs and not the version's."},
		Also: []analyze.Moved{{Function: "github.com/acme/shop/cache.(*LRU).Put", Before: 0.08, After: 0.24, Why: "caller"}, {Function: "github.com/acme/shop/order.(*Book).Place", Before: 0.12, After: 0.27, Why: "caller"},
			{Function: "runtime.mapiternext", Before: 0.006, After: 0.058, Why: "callee"}},
		Chart:  wave(from, now, since, 0.028, 0.195, 60),
		Base:   &analyze.Selection{Type: cpuType, From: from, To: now, Labels: map[string]string{"service_version": "v1"}},
		Head:   &analyze.Selection{Type: cpuType, From: from, To: now, Labels: map[string]string{"service_version": "v2"}},
		Saving: 1.14, SavingUnit: "cores", Price: &analyze.Money{Amount: 310, Low: 270, High: 350, Currency: "USD", Basis: "0.031 USD a core-hour (default), 730 h a month"},
	}
}

// record is a finding that was found some time ago and is there.
func record(f analyze.Finding, ago time.Duration) watch.Record {
	return watch.Record{ID: f.ID(), Tenant: "default", State: stNew, Finding: f, FirstSeen: time.Now().Add(-ago), LastSeen: time.Now().Add(-3 * time.Second), Episode: 1}
}

// analysed is how the analysis is when all is well.
func analysed() map[string]any {
	return map[string]any{"leader": true, "analysed_to": time.Now().Add(-2 * time.Second), "behind_seconds": 2.1, "services": 3, "series": 1834, "passes": 5121, "last_pass_ms": 84, "latency_p50_ms": 1400, "latency_p99_ms": 3900, "set_aside": []any{}}
}

// bookOf is a book of these, each found once.
func bookOf(records ...watch.Record) *book {
	b := &book{records: records, history: map[string][]watch.Event{}, analysis: analysed()}
	for _, r := range records {
		b.history[r.ID] = []watch.Event{{Time: r.FirstSeen, Actor: "analysis", What: "found", Note: r.Finding.Sentence}}
	}
	return b
}

// fullBook has findings in all the ways in which one can be.
func fullBook() *book {
	now := time.Now().Truncate(time.Second)
	from := now.Add(-2 * time.Hour)
	head := func(typ string) *analyze.Selection {
		return &analyze.Selection{Type: typ, From: now.Add(-15 * time.Minute), To: now}
	}
	first := record(rose(now), 8*time.Minute)
	first.Alerts = map[string]watch.Told{"team": {Episode: 1, At: now.Add(-7 * time.Minute)}, "pager": {Episode: 1, Tries: 3, Error: "POST https://events.pagerduty.com/v2/enqueue: 401 Unauthorized"}}
	gzip := record(analyze.Finding{
		Kind: analyze.HotSpot, Service: "checkout", Function: "compress/flate.(*compressor).deflate", Type: cpuType, Metric: "total", Unit: "share",
		Sentence: "`compress/flate.(*compressor).deflate` takes 14.8 % of checkout's CPU (95 % interval 14.1..15.4 %, 4 instances), all of it below `api.(*Server).report`.",
		Next:     "A lower level of compression, or answers that are compressed once and kept, would save most of it.", After: analyze.Estimate{Value: 0.148, Low: 0.141, High: 0.154}, From: from, To: now,
		Samples: 81200, Instances: 4, P: 1, Q: 1, Chart: wave(from, now, from, 0.148, 0.148, 60), Head: head(cpuType), Saving: 0.62, SavingUnit: "cores",
		Price: &analyze.Money{Amount: 14.03, Low: 13.2, High: 14.9, Currency: "USD", Basis: "0.031 USD a core-hour (default), 730 h a month"},
	}, 26*time.Hour)
	gzip.State = stAcknowledged
	gc := record(analyze.Finding{
		Kind: analyze.GCPressure, Service: "catalog", Subject: "gc_cpu", Type: "runtime:gc_cpu:nanoseconds:cpu:nanoseconds", Metric: "value", Unit: "share",
		Sentence: "Garbage collection takes 22 % of catalog's CPU (95 % interval 20..24 %, 2 instances); the heap is a fifth of its limit.", Next: "GOGC of 300 would take about 9 % and 120 MiB more a process.",
		After: analyze.Estimate{Value: 0.22, Low: 0.20, High: 0.24}, From: from, To: now, Samples: 720, Instances: 2, P: 1, Q: 1, Chart: wave(from, now, from, 0.22, 0.22, 60),
		Warnings: []string{"The container's memory limit is not known.", "One of two instances was restarted at 12:04."}, Saving: 0.4, SavingUnit: "cores",
		Price: &analyze.Money{Amount: 9.05, Low: 7.7, High: 10.2, Currency: "USD", Basis: "0.031 USD a core-hour (default), 730 h a month"},
	}, 3*time.Hour)
	gc.State, gc.Episode = stCameBack, 2
	leak := record(analyze.Finding{
		Kind: analyze.GoroutineGrowth, Service: "billing", Function: "github.com/acme/shop/mail.(*Sender).send", Type: "goroutine:goroutine:count:goroutine:count", Metric: "total", Unit: "count",
		Sentence: "Goroutines in `mail.(*Sender).send` grow by 34 an hour in billing (95 % interval 31..37, 2 instances); none has ended in 2 h.", Next: "Nobody takes from the channel that they send to: see who creates them.",
		Before: analyze.Estimate{Value: 12, Low: 10, High: 14}, After: analyze.Estimate{Value: 80, Low: 76, High: 84}, Change: analyze.Estimate{Value: 68, Low: 63, High: 73}, Since: from.Add(20 * time.Minute), From: from, To: now,
		Samples: 240, Instances: 2, Test: "Mann-Kendall", P: 2e-5, Q: 4e-4, Chart: wave(from, now, from.Add(20*time.Minute), 12, 80, 60), Head: head("goroutine:goroutine:count:goroutine:count"),
	}, 90*time.Minute)
	saved := record(analyze.Finding{
		Kind: analyze.Improvement, Service: "catalog", Function: "encoding/json.(*decodeState).object", Type: cpuType, Metric: "total", Unit: "share",
		Sentence: "`encoding/json.(*decodeState).object` fell from 9.1 % to 6.4 % of catalog's CPU (95 % interval -3.1..-2.3 points, 2 instances) at 13:20.",
		Before:   analyze.Estimate{Value: 0.091, Low: 0.088, High: 0.094}, After: analyze.Estimate{Value: 0.064, Low: 0.062, High: 0.066}, Change: analyze.Estimate{Value: -0.027, Low: -0.031, High: -0.023},
		Since: from.Add(40 * time.Minute), From: from, To: now, Samples: 9100, Instances: 2, Test: "likelihood ratio", P: 1e-7, Q: 2e-5, Chart: wave(from, now, from.Add(40*time.Minute), 0.091, 0.064, 60), Head: head(cpuType),
		Saving: 0.09, SavingUnit: "cores", Price: &analyze.Money{Amount: 2.04, Low: 1.7, High: 2.4, Currency: "USD", Basis: "0.031 USD a core-hour (default), 730 h a month"},
	}, time.Hour)
	muted := record(analyze.Finding{
		Kind: analyze.Contention, Service: "checkout", Function: "github.com/acme/shop/order.(*Book).Place", Subject: "order.book", Type: "lock:wait:nanoseconds:contentions:count", Metric: "total", Unit: "seconds",
		Sentence: "Requests of checkout wait 41 ms in the mean for the lock `order.book`, which `order.(*Book).audit` holds 88 % of the time.", After: analyze.Estimate{Value: 0.041, Low: 0.036, High: 0.047}, From: from, To: now,
		Samples: 5210, Instances: 4, P: 1, Q: 1, Chart: wave(from, now, from, 0.041, 0.041, 60), Head: head("lock:wait:nanoseconds:contentions:count"),
	}, 40*time.Hour)
	muted.State, muted.MutedUntil = stMuted, now.Add(7*24*time.Hour)
	fixed := record(analyze.Finding{
		Kind: analyze.Regression, Service: "billing", Function: "crypto/sha256.(*digest).Write", Type: cpuType, Metric: "total", Unit: "share",
		Sentence: "`crypto/sha256.(*digest).Write` rose from 11 % to 17 % of billing's CPU (95 % interval +5.2..+6.9 points, 2 instances) at 09:12, with version 2024.11.3.",
		Before:   analyze.Estimate{Value: 0.11, Low: 0.105, High: 0.115}, After: analyze.Estimate{Value: 0.17, Low: 0.165, High: 0.176}, Change: analyze.Estimate{Value: 0.06, Low: 0.052, High: 0.069},
		Since: from, From: from.Add(-time.Hour), To: now, Samples: 4000, Instances: 2, Test: "likelihood ratio", P: 1e-9, Q: 1e-7, Chart: wave(from.Add(-time.Hour), now, from, 0.11, 0.17, 60), Head: head(cpuType),
		Saving: 1.2, SavingUnit: "cores", Price: &analyze.Money{Amount: 27, Low: 22, High: 31, Currency: "USD", Basis: "0.031 USD a core-hour (default), 730 h a month"},
	}, 50*time.Hour)
	fixed.State, fixed.FixedAt = stFixed, now.Add(-25*time.Minute)
	fixed.Saved = &watch.Saved{Amount: 1.1, Unit: "cores", Price: &analyze.Money{Amount: 25.2, Low: 21, High: 29, Currency: "USD", Basis: "0.031 USD a core-hour (default), 730 h a month"}}
	b := bookOf(first, gzip, gc, leak, saved, muted, fixed)
	b.history[gc.ID] = append(b.history[gc.ID], watch.Event{Time: now.Add(-2 * time.Hour), Actor: "ada", What: "fixed", Note: "GOGC=200 in the manifest"}, watch.Event{Time: now.Add(-time.Hour), Actor: "analysis", What: "came back", Note: gc.Finding.Sentence})
	return b
}

// anew is an answer that says what another run of the analysis would: the same, seen later.
func (b *book) anew() {
	b.change(func(b *book) {
		b.analysis = maps.Clone(b.analysis)
		b.analysis["passes"] = b.analysis["passes"].(int) + 1
		b.analysis["analysed_to"] = time.Now()
		for i := range b.records {
			b.records[i].LastSeen = time.Now()
		}
	})
}
