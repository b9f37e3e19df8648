package watch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/internal/jsonapi"
	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// world is a store and a control database, on a clock that the test moves.
type world struct {
	t   *testing.T
	db  *store.DB
	ctl *control.DB
	now time.Time
	rnd *rand.Rand

	feed *store.Watch
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: noon, rnd: rand.New(rand.NewPCG(1, 2))}
	var err error
	w.db, err = store.Open(t.Context(), "/data", store.Options{FS: vfs.NewMem(), Now: func() time.Time { return w.now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.db.Close() })
	w.ctl, err = control.Open(t.Context(), filepath.Join(t.TempDir(), "control.db"), control.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.ctl.Close() })
	return w
}

func (w *world) watcher(o Options) *Watcher {
	w.t.Helper()
	o.Store, o.Control, o.Watch, o.Now = w.db, w.ctl, w.db.Watch, func() time.Time { return w.now }
	o.Logger = slog.New(slog.NewTextHandler(w.t.Output(), nil))
	x, err := New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return x
}

func (w *world) leader(o Options) *leader {
	w.t.Helper()
	l := &leader{w: w.watcher(o), subjects: map[key]*subject{}}
	if w.feed != nil {
		w.feed.Close()
	}
	var err error
	if w.feed, err = w.db.Watch(w.now); err != nil {
		w.t.Fatal(err)
	}
	if err := l.discover(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return l
}

// shares are functions and their part of the CPU, of a thousand.
type shares map[string]int

var usual = shares{"cache.evict": 30, "cache.get": 40, "cache.put": 60, "json.encode": 180, "json.decode": 120, "sha256.block": 250, "gzip.deflate": 100,
	"http.serve": 70, "http.read": 50, "sql.scan": 60, "log.format": 40}

// push sends one window of ten seconds of an instance, that ends now: 1000 samples, give or take.
func (w *world) push(instance, version string, of shares) {
	w.t.Helper()
	b := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	root := b.Stack(0, b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String("main.main")})}))
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for n := range of {
			if !yield(n) {
				return
			}
		}
	}) {
		fn := b.Function(profile.Function{Name: b.String(name)})
		n := int64(of[name])
		if n > 0 {
			n = max(0, n+int64(w.rnd.NormFloat64()*float64(n)*0.05))
		}
		b.Add(b.Stack(root, b.Location(profile.Location{}, profile.Line{Function: fn})), 0, n*1e7)
	}
	p := b.Profile()
	p.PeriodType, p.Period = profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, 1e7
	labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: "checkout"}, profile.Label{Name: profile.LabelVersion, Value: version}, profile.Label{Name: profile.LabelInstance, Value: instance})
	if err != nil {
		w.t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := p.Encode(&buf); err != nil {
		w.t.Fatal(err)
	}
	err = w.db.Append(context.Background(), store.Upload{Name: "process_cpu", Labels: labels, From: w.now.Add(-10 * time.Second), To: w.now, Pprof: buf.Bytes(), Profile: p})
	if err != nil {
		w.t.Fatal(err)
	}
}

// minute lets a minute pass in which three instances run.
func (w *world) minute(version string, of shares) {
	for range 6 {
		w.now = w.now.Add(10 * time.Second)
		for i := range 3 {
			w.push(fmt.Sprint(version, "-", i), version, of)
		}
	}
}

// pass takes what has come and looks at it.
func (w *world) pass(l *leader) {
	w.t.Helper()
	changes, err := w.feed.Next(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	l.take(changes)
	for s := l.next(); s != nil; s = l.next() {
		if err := l.pass(w.t.Context(), s); err != nil {
			w.t.Fatal(err)
		}
	}
}

func grown() shares {
	s := shares{}
	for k, v := range usual {
		s[k] = v
	}
	s["cache.evict"] = 90
	return s
}

// harm are the findings but hot spots: that most of the time is spent somewhere is no news.
func (w *world) harm(x *Watcher) (out []Record) {
	w.t.Helper()
	list, err := x.Findings(w.t.Context(), store.DefaultTenant, Filter{States: States})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range list {
		if r.Finding.Kind != analyze.HotSpot {
			out = append(out, r)
		}
	}
	return out
}

func describe(rs []Record) string {
	var s []string
	for _, r := range rs {
		s = append(s, string(r.Finding.Kind)+" "+r.Finding.Function+r.Finding.Subject+" "+string(r.State))
	}
	return strings.Join(s, ", ")
}

// TestRegressionFromProfiles: from uploads to a finding, once, over a restart, until it is fixed.
func TestRegressionFromProfiles(t *testing.T) {
	w := newWorld(t)
	l := w.leader(Options{})
	for range 45 {
		w.minute("v1", usual)
		w.pass(l)
	}
	if got := w.harm(l.w); len(got) != 0 {
		t.Fatalf("of noise: %s", describe(got))
	}
	began := w.now
	for range 25 {
		w.minute("v1", grown())
		w.pass(l)
	}
	got := w.harm(l.w)
	if describe(got) != "regression cache.evict new" {
		t.Fatalf("%s", describe(got))
	}
	f := got[0].Finding
	if d := f.Since.Sub(began); max(d, -d) > 2*time.Minute || f.Before.Value < 0.025 || f.Before.Value > 0.035 || f.After.Value < 0.075 || f.After.Value > 0.09 || f.Instances != 3 || len(f.Chart) == 0 || f.Base == nil {
		t.Errorf("%+v", f)
	}
	// A restart neither forgets nor repeats.
	l = w.leader(Options{})
	w.minute("v1", grown())
	w.pass(l)
	rec, events, err := l.w.Finding(t.Context(), store.DefaultTenant, got[0].ID)
	if err != nil || len(events) != 1 || events[0].What != "found" || rec.Episode != 1 {
		t.Errorf("%+v, %+v, %v", rec, events, err)
	}
	for range 45 {
		w.minute("v1", usual)
		w.pass(l)
	}
	if got := w.harm(l.w); describe(got) != "regression cache.evict fixed" || got[0].Saved == nil {
		t.Errorf("%s", describe(got))
	}
}

// TestVersionsSideBySide: a new version beside the old one is judged at once.
func TestVersionsSideBySide(t *testing.T) {
	w := newWorld(t)
	l := w.leader(Options{Price: func(f *analyze.Finding, _ []profile.Labels) {
		if f.Saving > 0 {
			f.Price = &analyze.Money{Amount: 100 * f.Saving, Currency: "USD"}
		}
	}})
	for i := range 4 {
		for range 6 {
			w.now = w.now.Add(10 * time.Second)
			for n := range 2 {
				w.push(fmt.Sprint("a", n), "v1", usual)
				if i > 0 {
					w.push(fmt.Sprint("b", n), "v2", grown())
				}
			}
		}
		w.pass(l)
	}
	got := w.harm(l.w)
	if describe(got) != "regression cache.evict new" {
		t.Fatalf("%s", describe(got))
	}
	f := got[0].Finding
	if n := len(f.Chart); n < 3 || f.Chart[n-1].Value < 0.07 || f.Chart[n-1].Value > 0.1 || f.Chart[n-1].Low >= f.Chart[n-1].Value {
		t.Errorf("its chart is %+v", f.Chart)
	}
	if f.Cause == nil || f.Cause.Value != "v2" || f.Price == nil || f.Head.Labels[profile.LabelVersion] != "v2" || f.Base.Labels[profile.LabelVersion] != "v1" {
		t.Errorf("%+v, cause %+v, price %+v", f, f.Cause, f.Price)
	}
}

// TestBacklog: what came while nobody looked is worked off minute by minute, as it would have been found.
func TestBacklog(t *testing.T) {
	w := newWorld(t)
	l := w.leader(Options{})
	for range 45 {
		w.minute("v1", usual)
		w.pass(l)
	}
	began := w.now
	for range 60 {
		w.minute("v1", grown())
	}
	l = w.leader(Options{})
	if n := testutil.ToFloat64(l.w.m.caughtUp); n < 59 || n > 61 {
		t.Errorf("%v minutes were worked off", n)
	}
	got := w.harm(l.w)
	if describe(got) != "regression cache.evict new" {
		t.Fatalf("%s", describe(got))
	}
	if d := got[0].FirstSeen.Sub(began); d < 15*time.Minute || d > 35*time.Minute {
		t.Errorf("it is said to have been found after %v", d)
	}
}

// TestPoison: a profile that cannot be analysed is set aside and the line goes on.
func TestPoison(t *testing.T) {
	w := newWorld(t)
	reg := prometheus.NewRegistry()
	l := w.leader(Options{Registry: reg})
	for range 45 {
		w.minute("v1", usual)
		w.pass(l)
	}
	w.push("v1-0", "v1", shares{"cache.evict": -1_000_000, "json.encode": 10})
	for range 25 {
		w.minute("v1", grown())
		w.pass(l)
	}
	s, err := l.w.Status(t.Context(), store.DefaultTenant)
	if err != nil || len(s.SetAside) == 0 || s.SetAside[0].Service != "checkout" || s.SetAside[0].Reason == "" {
		t.Errorf("%+v, %v", s, err)
	}
	if got := w.harm(l.w); !strings.Contains(describe(got), "regression cache.evict new") {
		t.Errorf("%s", describe(got))
	}
	if n := testutil.ToFloat64(l.w.m.aside); n == 0 || n > 20 {
		t.Errorf("%v parts were set aside", n)
	}
}

func ask(t *testing.T, h http.Handler, method, path, body string) (int, map[string]json.RawMessage) {
	t.Helper()
	r := httptest.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	b, _ := io.ReadAll(rec.Body)
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatalf("%s %s: %s", method, path, b)
	}
	return rec.Code, m
}

func TestAPI(t *testing.T) {
	w := newWorld(t)
	x := w.watcher(Options{})
	big := rose(0.03, 0.05, noon)
	small := contention()
	other := rose(0.01, 0.02, noon)
	other.Service, other.Price = "billing", nil
	for i := range 300 {
		big.Chart = append(big.Chart, analyze.ChartPoint{Time: noon.Add(time.Duration(i) * time.Minute)})
	}
	var updates []Update
	for _, f := range []analyze.Finding{small, big, other} {
		updates = append(updates, Update{Record: record(f, noon), Events: []Event{{Time: noon, Actor: "analysis", What: "found"}}})
	}
	if err := x.book.keep(t.Context(), "default", "checkout", noon, updates); err != nil {
		t.Fatal(err)
	}
	h := x.Handler()
	list := func(query string) (ids []string) {
		t.Helper()
		code, m := ask(t, h, "GET", FindingsPath+query, "")
		var rs []Record
		if err := json.Unmarshal(m["findings"], &rs); code != 200 || err != nil {
			t.Fatalf("%s: %d, %v, %s", query, code, err, m["message"])
		}
		for _, r := range rs {
			ids = append(ids, r.ID)
			if len(r.Finding.Chart) > listedPoints {
				t.Errorf("a list has charts of %d points", len(r.Finding.Chart))
			}
		}
		return ids
	}
	B, S, O := big.ID(), small.ID(), other.ID()
	for query, want := range map[string][]string{
		"":                                    {B, S, O},
		"?service=checkout":                   {B, S},
		"?kind=contention,regression&limit=1": {B},
		"?state=fixed":                        nil,
		"?state=open&since=1h":                {B, S, O},
		"?since=2026-11-02T12:00:01Z":         nil,
	} {
		if got := list(query); !slices.Equal(got, want) && !(query == "" || strings.HasPrefix(query, "?state=open")) {
			t.Errorf("%s: %v, want %v", query, got, want)
		} else if len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}

	code, m := ask(t, h, "POST", FindingsPath+"/"+B, `{"do":"mute","by":"ada","note":"known","until":"2026-11-03T00:00:00Z"}`)
	var r Record
	if err := json.Unmarshal(m["finding"], &r); code != 200 || err != nil || r.State != StateMuted {
		t.Fatalf("%d, %s", code, m)
	}
	code, m = ask(t, h, "GET", FindingsPath+"/"+B, "")
	var events []Event
	if err := json.Unmarshal(m["history"], &events); code != 200 || err != nil || len(events) != 2 || events[1].Actor != "ada" || events[1].Note != "known" {
		t.Errorf("%d, %s", code, m["history"])
	}
	if got := list("?state=muted"); !slices.Equal(got, []string{B}) {
		t.Errorf("%v", got)
	}

	code, _ = ask(t, h, "POST", DeploysPath, `{"service":"checkout","version":"v2","note":"new cache","by":"ci"}`)
	_, m = ask(t, h, "GET", DeploysPath+"?service=checkout", "")
	var deploys []Deploy
	if err := json.Unmarshal(m["deploys"], &deploys); code != 200 || err != nil || len(deploys) != 1 || !deploys[0].Time.Equal(noon) {
		t.Errorf("%d, %s", code, m)
	}
	if code, m := ask(t, h, "GET", AnalysisPath, ""); code != 200 || string(m["leader"]) != "false" || !strings.Contains(string(m["analysed_to"]), "2026-11-02T12:00:00Z") {
		t.Errorf("%d, %s", code, m)
	}

	for _, c := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", FindingsPath + "?servcie=x", "", 400, "servcie"},
		{"GET", FindingsPath + "?kind=x", "", 400, "none of"},
		{"GET", FindingsPath + "?state=x", "", 400, "none of"},
		{"GET", FindingsPath + "?since=yesterday", "", 400, "24h"},
		{"GET", FindingsPath + "?limit=0", "", 400, "from 1 to"},
		{"GET", FindingsPath + "/nope", "", 404, "no finding"},
		{"POST", FindingsPath + "/nope", `{"do":"mute"}`, 404, "no finding"},
		{"POST", FindingsPath + "/" + S, `{"do":"unmute"}`, 400, "not muted"},
		{"POST", FindingsPath + "/" + S, `{"dont":"mute"}`, 400, "dont"},
		{"POST", FindingsPath + "/" + S, `{"do":"mute"}{}`, 400, "more than one"},
		{"POST", FindingsPath + "/" + S, strings.Repeat(" ", jsonapi.MaxBody+1), 400, "large"},
		{"DELETE", FindingsPath + "/" + S, "", 404, "nothing here"},
		{"GET", DeploysPath, "", 400, "service is missing"},
		{"POST", DeploysPath, `{"version":"v2"}`, 400, "needs its service"},
		{"POST", DeploysPath, `{"service":"s","time":"2027-01-01T00:00:00Z"}`, 400, "future"},
	} {
		code, m := ask(t, h, c.method, c.path, c.body)
		if code != c.code || !strings.Contains(string(m["message"]), c.want) {
			t.Errorf("%s %s %.40s: %d %s, want %d %q", c.method, c.path, c.body, code, m["message"], c.code, c.want)
		}
	}
	// Another web page can neither ask for changes nor be told.
	req := httptest.NewRequest("POST", "http://localhost"+FindingsPath+"/"+S, strings.NewReader(`{"do":"mute"}`))
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	if rec.Code != http.StatusForbidden {
		t.Errorf("another page's: %d", rec.Code)
	}
	// The control database is away.
	w.ctl.Close()
	if code, m := ask(t, h, "GET", FindingsPath, ""); code != 503 || !strings.Contains(string(m["message"]), "control database") {
		t.Errorf("%d %s", code, m)
	}
}

// TestConflict: a person who acts while a look is being kept loses nothing.
func TestConflict(t *testing.T) {
	w := newWorld(t)
	x := w.watcher(Options{})
	u := Update{Record: record(rose(0.03, 0.05, noon), noon)}
	if err := x.book.write(t.Context(), "default", []Update{u}); err != nil {
		t.Fatal(err)
	}
	l := &leader{w: x, subjects: map[key]*subject{}}
	s := newSubject(key{"default", "checkout"})
	if _, err := x.Act(t.Context(), "default", u.Record.ID, Action{Do: "acknowledge", By: "ada"}); err != nil {
		t.Fatal(err)
	}
	if err := l.keep(t.Context(), s, Look{Tenant: "default", Service: "checkout", At: noon.Add(time.Hour), Found: []analyze.Finding{rose(0.03, 0.051, noon)}}); err != nil {
		t.Fatal(err)
	}
	r, _, err := x.Finding(t.Context(), "default", u.Record.ID)
	if err != nil || r.State != StateAcknowledged || !r.LastSeen.Equal(noon.Add(time.Hour)) {
		t.Errorf("%+v, %v", r, err)
	}
	// One who has read it before is told.
	stale := r
	stale.version--
	if err := x.book.write(t.Context(), "default", []Update{{Record: stale}}); err == nil || !strings.Contains(err.Error(), ErrConflict.Error()) {
		t.Errorf("a stale record: %v", err)
	}
}

// TestOutstanding: what comes of a large regression is not told as another change.
func TestOutstanding(t *testing.T) {
	of := func(changes ...float64) (out []analyze.Finding) {
		for _, c := range changes {
			f := analyze.Finding{Kind: analyze.Regression, Change: analyze.Estimate{Value: c}}
			if c < 0 {
				f.Kind = analyze.Improvement
			}
			out = append(out, f)
		}
		return out
	}
	for _, c := range []struct{ in, want []float64 }{
		{[]float64{0.2, 0.03, 0.01, -0.05, -0.12}, []float64{0.2, 0.03, -0.12}},
		{[]float64{-0.01, -0.2}, []float64{-0.01, -0.2}},
		{nil, nil},
	} {
		if got, want := fmt.Sprint(outstanding(of(c.in...))), fmt.Sprint(of(c.want...)); got != want {
			t.Errorf("%v: %s", c.in, got)
		}
	}
}

// TestRun: the loop itself, on a real clock: it leads, looks at what comes, forgets what is long fixed, and ends when it is told to.
func TestRun(t *testing.T) {
	w := newWorld(t)
	w.now = time.Now()
	old := record(rose(0.03, 0.05, w.now.Add(-100*24*time.Hour)), w.now.Add(-100*24*time.Hour))
	old.State = StateFixed
	x, err := New(Options{Store: w.db, Control: w.ctl, Watch: w.db.Watch, Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.book.write(t.Context(), store.DefaultTenant, []Update{{Record: old}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	done := make(chan struct{})
	go func() {
		defer close(done)
		x.Run(ctx)
	}()
	w.push("a", "v1", usual)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := x.Status(t.Context(), store.DefaultTenant)
		if err != nil {
			t.Fatal(err)
		}
		if s.Leader && s.Passes > 0 && !s.AnalysedTo.IsZero() && s.Services == 1 && s.Series > 0 {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it never looked: %+v", s)
		}
	}
	cancel()
	<-done
	if list, err := x.Findings(t.Context(), store.DefaultTenant, Filter{States: []State{StateFixed}}); err != nil || len(list) != 0 {
		t.Errorf("what was fixed 100 days ago is still there: %v, %v", list, err)
	}
}
