package optimize_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
)

// place is a fleet that changes are made at, and an actuator of it.
type place struct {
	mu      sync.Mutex
	targets []optimize.Target
	on      map[string]bool
	applies int
}

func newPlace(n int) *place {
	p := &place{on: map[string]bool{}}
	for i := range n {
		p.targets = append(p.targets, optimize.Target{ID: fmt.Sprint("n", i+1), Zone: "a", Version: "v1", Started: wednesday.Add(-time.Duration(n-i) * time.Hour)})
	}
	return p
}

func (p *place) Traits(*optimize.Change) optimize.Traits { return optimize.Traits{} }

func (p *place) Targets(context.Context, *optimize.Change) ([]optimize.Target, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.targets), nil
}

func (p *place) Snapshot(context.Context, *optimize.Change, optimize.Target) (json.RawMessage, error) {
	return json.RawMessage(`{"gogc":100}`), nil
}

func (p *place) Rehearse(context.Context, *optimize.Change, optimize.Target, json.RawMessage) error {
	return nil
}

func (p *place) Apply(_ context.Context, _ *optimize.Change, t optimize.Target, _ json.RawMessage) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.on[t.ID] = true
	p.applies++
	return nil
}

func (p *place) Undo(_ context.Context, _ *optimize.Change, t optimize.Target, _ json.RawMessage) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.on, t.ID)
	return nil
}

func (p *place) Standing(_ context.Context, _ *optimize.Change, t optimize.Target, _ json.RawMessage) (optimize.Standing, string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.on[t.ID] {
		return optimize.InForce, "", nil
	}
	return optimize.Absent, "", nil
}

func (p *place) inForce() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprint(slices.Sorted(maps.Keys(p.on)))
}

var wednesday = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func gogc(service string) optimize.Proposal {
	return optimize.Proposal{Kind: optimize.Runtime, Service: service, Subject: "gc", Spec: json.RawMessage(`{"gogc":300}`), Sentence: service + " spends 19 % of CPU in GC: GOGC 100 -> 300."}
}

// desk is a runner with what it runs on, in a time that the test sets.
type desk struct {
	t *testing.T
	*optimize.Runner
	place *place
	j     *optimize.Memory
	now   time.Time
	look  func(q optimize.Question) (optimize.Sight, error)
	h     http.Handler
}

func newDesk(t *testing.T, proposals ...optimize.Proposal) *desk {
	d := &desk{t: t, place: newPlace(4), j: &optimize.Memory{}, now: wednesday}
	d.look = func(optimize.Question) (optimize.Sight, error) { return optimize.Sight{}, nil }
	var err error
	d.Runner, err = optimize.NewRunner(optimize.Options{
		Journal: d.j, Actuators: map[optimize.Kind]optimize.Actuator{optimize.Runtime: d.place},
		Look:    func(_ context.Context, q optimize.Question) (optimize.Sight, error) { return d.look(q) },
		Propose: []func(context.Context, string) ([]optimize.Proposal, error){func(context.Context, string) ([]optimize.Proposal, error) { return proposals, nil }},
		Now:     func() time.Time { return d.now },
	}, optimize.RunOptions{
		Tenants: func(context.Context) ([]string, error) { return []string{"default"}, nil },
		DecodePolicy: func(r io.Reader) (*optimize.Policy, error) {
			b, err := io.ReadAll(r)
			if err != nil || string(b) != "auto" {
				return nil, fmt.Errorf("%w: line 1: %q", optimize.ErrInvalid, b)
			}
			p := optimize.DefaultPolicy()
			p.Kinds[optimize.Runtime] = optimize.KindPolicy{Mode: optimize.Auto, Plan: optimize.DefaultPlan()}
			return p, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	d.h = d.Handler()
	if err := d.Consider(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	return d
}

// ask is the answer to a request as any JSON.
func (d *desk) ask(method, path, body string, want int) map[string]any {
	d.t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	rec := httptest.NewRecorder()
	d.h.ServeHTTP(rec, req)
	var answer map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil {
		d.t.Fatalf("%s %s: %v: %s", method, path, err, rec.Body)
	}
	if rec.Code != want {
		d.t.Errorf("%s %s %s: %d, want %d: %s", method, path, body, rec.Code, want, rec.Body)
	}
	return answer
}

func (d *desk) tick(after time.Duration) {
	d.t.Helper()
	d.now = d.now.Add(after)
	if err := d.Tick(d.t.Context(), "default"); err != nil {
		d.t.Fatal(err)
	}
}

// at is what is at a path in JSON.
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p < 0 {
				p += len(l)
			}
			if p < 0 || p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

// TestAPIStory: what a person does with a change over the API, from its proposal until it is taken back.
func TestAPIStory(t *testing.T) {
	d := newDesk(t, gogc("checkout"))
	p := gogc("checkout")
	id := p.ID()
	list := d.ask("GET", "/api/v1/changes", "", 200)
	if at(list, "changes", 0, "id") != id || at(list, "changes", 0, "state") != "proposed" || at(list, "changes", 1) != nil {
		t.Fatalf("%v", list)
	}
	if at(list, "status", "budget", "limit") != 500.0 || at(list, "status", "budget", "month") != "2026-11" || at(list, "status", "kinds", 0) != "runtime" || at(list, "holds") == nil {
		t.Errorf("%v", list)
	}

	d.ask("POST", "/api/v1/changes/"+id, `{"do":"undo","by":"ada"}`, 409)
	if s := at(d.ask("POST", "/api/v1/changes/"+id, `{"do":"start","by":"ada","note":"try it"}`, 200), "change", "state"); s != "waiting" {
		t.Errorf("it is %v", s)
	}
	d.ask("GET", "/api/v1/changes/"+id+"/series", "", 409)
	d.tick(time.Second)
	d.tick(time.Second)
	one := d.ask("GET", "/api/v1/changes/"+id, "", 200)
	if at(one, "change", "state") != "dwelling" || d.place.inForce() != "[n1]" || at(one, "history", 0, "what") != "proposed" || at(one, "history", 1, "actor") != "ada" {
		t.Errorf("%v at %s", one, d.place.inForce())
	}
	n := len(at(one, "history").([]any))
	if got := at(d.ask("GET", fmt.Sprint("/api/v1/changes/", id, "?after=", n-1), "", 200), "history"); len(got.([]any)) != 1 || at(got, 0, "seq") != float64(n) {
		t.Errorf("after %d: %v", n-1, got)
	}
	list = d.ask("GET", "/api/v1/changes?state=open&service=checkout&kind=runtime&since=24h&limit=1", "", 200)
	if at(list, "changes", 0, "nodes", "applied") != 1.0 || at(list, "changes", 0, "nodes", "control") != 1.0 || at(list, "changes", 0, "units") != nil {
		t.Errorf("%v", at(list, "changes", 0))
	}

	if h := at(d.ask("POST", "/api/v1/changes/pause", `{"by":"bob","note":"release","for":"2h"}`, 200), "holds", "paused", "until"); h != "2026-11-25T14:00:02Z" {
		t.Errorf("paused until %v", h)
	}
	if s := at(d.ask("GET", "/api/v1/changes/status", "", 200), "status", "frozen"); s == nil || !strings.Contains(s.(string), "bob") {
		t.Errorf("frozen: %v", s)
	}
	d.ask("POST", "/api/v1/changes/resume", `{"by":"bob"}`, 200)
	d.ask("POST", "/api/v1/changes/"+id, `{"do":"undo","by":"ada","note":"no"}`, 200)
	d.tick(time.Second)
	one = d.ask("GET", "/api/v1/changes/"+id, "", 200)
	if at(one, "change", "state") != "undone" || d.place.inForce() != "[]" || at(one, "history", -1, "what") != "undone" {
		t.Errorf("%v at %s", at(one, "change", "state"), d.place.inForce())
	}
}

// TestAPIRefuses: what is wrong is said, and by which word.
func TestAPIRefuses(t *testing.T) {
	d := newDesk(t, gogc("checkout"))
	p := gogc("checkout")
	id := p.ID()
	for _, c := range []struct {
		method, path, body string
		status             int
		code, text         string
	}{
		{"GET", "/api/v1/changes?kind=magic", "", 400, "invalid_argument", "kind \"magic\" is none of"},
		{"GET", "/api/v1/changes?state=gone", "", 400, "invalid_argument", "open and all"},
		{"GET", "/api/v1/changes?since=x", "", 400, "invalid_argument", "it must be a time"},
		{"GET", "/api/v1/changes?limit=0", "", 400, "invalid_argument", "from 1 to 1000"},
		{"GET", "/api/v1/changes?statee=done", "", 400, "invalid_argument", "not understood"},
		{"GET", "/api/v1/changes/nosuch", "", 404, "not_found", "no change"},
		{"POST", "/api/v1/changes/nosuch", `{"do":"start","by":"ada"}`, 404, "not_found", "no change"},
		{"POST", "/api/v1/changes/" + id, `{"do":"dance","by":"ada"}`, 400, "invalid_argument", "must be one of"},
		{"POST", "/api/v1/changes/" + id, `{"do":"start"}`, 400, "invalid_argument", "by has 1 to"},
		{"POST", "/api/v1/changes/" + id, `{"do":"pause","by":"ada"}`, 409, "failed_precondition", "cannot be made to pause"},
		{"POST", "/api/v1/changes/" + id, `{"do":"start","who":"ada"}`, 400, "invalid_argument", "unknown field"},
		{"POST", "/api/v1/changes/" + id, `{"do":"start","by":"ada"}{}`, 400, "invalid_argument", "more than one"},
		{"POST", "/api/v1/changes/" + id, `{"do":"start","by":"ada"}}`, 400, "invalid_argument", "more than one"},
		{"POST", "/api/v1/changes/pause", `{"by":"ada","for":"-1h"}`, 400, "invalid_argument", "90m or 2h"},
		{"POST", "/api/v1/changes/resume", `{"by":"ada","for":"1h"}`, 400, "invalid_argument", "belongs to pause"},
		{"POST", "/api/v1/changes/plan", `x`, 400, "invalid_argument", "line 1"},
		{"POST", "/api/v1/incidents", `{"name":"x","state":"half","by":"ada"}`, 400, "invalid_argument", "open or closed"},
		{"POST", "/api/v1/incidents?format=mail", `{}`, 400, "invalid_argument", "pagerduty or alertmanager"},
		{"POST", "/api/v1/incidents?format=pagerduty", `{}`, 400, "invalid_argument", "version 3"},
		{"POST", "/api/v1/incidents?format=alertmanager", `{"alerts":[{"status":"firing"}]}`, 400, "invalid_argument", "fingerprint"},
		{"GET", "/api/v1/changes/" + id + "/nothing", "", 404, "not_found", "nothing here"},
	} {
		a := d.ask(c.method, c.path, c.body, c.status)
		if a["code"] != c.code || !strings.Contains(fmt.Sprint(a["message"]), c.text) || strings.HasPrefix(fmt.Sprint(a["message"]), "invalid") {
			t.Errorf("%s %s %s: %v", c.method, c.path, c.body, a)
		}
	}
	// A page of another origin decides nothing.
	req := httptest.NewRequest("POST", "/api/v1/changes/pause", strings.NewReader(`{"by":"eve"}`))
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	rec := httptest.NewRecorder()
	d.h.ServeHTTP(rec, req)
	if h, _ := d.j.Holds(t.Context(), "default"); rec.Code != 403 || h.Paused != nil {
		t.Errorf("%d, %+v", rec.Code, h)
	}
}

// TestAPIIncidents: an incident freezes until it is closed, in whatever form it comes.
func TestAPIIncidents(t *testing.T) {
	d := newDesk(t)
	pagerduty := func(event, status string) string {
		return fmt.Sprintf(`{"event":{"id":"01","event_type":"incident.%s","resource_type":"incident","occurred_at":"2026-11-25T12:00:00Z","agent":{"type":"user_reference"},
			"data":{"id":"PGR0VU2","type":"incident","number":2,"title":"A little bump","status":"%s","service":{"id":"P1"}}}}`, event, status)
	}
	alert := func(status string) string {
		return `{"version":"4","groupKey":"{}","status":"` + status + `","receiver":"q","alerts":[{"status":"` + status + `","labels":{"alertname":"HighErrors","service":"checkout"},
			"annotations":{"summary":"5 % of requests fail"},"startsAt":"2026-11-25T12:00:00Z","endsAt":"0001-01-01T00:00:00Z","generatorURL":"","fingerprint":"c4f7"}]}`
	}
	for _, c := range []struct{ path, body, want string }{
		{"", `{"name":"INC-7","state":"open","by":"ada","note":"errors"}`, "INC-7"},
		{"?format=pagerduty", pagerduty("triggered", "triggered"), "INC-7 pagerduty/PGR0VU2"},
		{"?format=pagerduty", pagerduty("acknowledged", "acknowledged"), "INC-7 pagerduty/PGR0VU2"},
		{"?format=pagerduty", `{"event":{"event_type":"pagey.ping","resource_type":"pagey","data":{"message":"Hello"}}}`, "INC-7 pagerduty/PGR0VU2"},
		{"?format=alertmanager&for=6h", alert("firing"), "INC-7 alertmanager/HighErrors/c4f7 pagerduty/PGR0VU2"},
		{"?format=pagerduty", pagerduty("resolved", "resolved"), "INC-7 alertmanager/HighErrors/c4f7"},
		{"?format=alertmanager", alert("resolved"), "INC-7"},
		{"", `{"name":"INC-7","state":"closed","by":"ada"}`, ""},
	} {
		d.ask("POST", "/api/v1/incidents"+c.path, c.body, 200)
		h, err := d.j.Holds(t.Context(), "default")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(slices.Sorted(maps.Keys(h.Incidents)), " "); got != c.want {
			t.Errorf("after %s %s: %q, want %q", c.path, c.body, got, c.want)
		}
		frozen := at(d.ask("GET", "/api/v1/changes/status", "", 200), "status", "frozen")
		if (frozen != nil) != (c.want != "") {
			t.Errorf("after %s %s: frozen: %v", c.path, c.body, frozen)
		}
		if i, ok := h.Incidents["alertmanager/HighErrors/c4f7"]; ok && (!i.Until.Equal(wednesday.Add(6*time.Hour)) || i.Note != "5 % of requests fail") {
			t.Errorf("%+v", i)
		}
	}
}

// TestNeedsApproval: who asks reads it in a field, in every answer, until somebody has approved or the change has ended.
func TestNeedsApproval(t *testing.T) {
	costly := gogc("billing")
	costly.Cost = 80
	d := newDesk(t, gogc("checkout"), costly)
	path := "/api/v1/changes/" + costly.ID()
	for _, step := range []struct {
		do   string
		want any // nil is that it is left out
	}{{"", true}, {"start", true}, {"pause", true}, {"approve", nil}} {
		if step.do != "" {
			if got := at(d.ask("POST", path, `{"do":"`+step.do+`","by":"ada"}`, 200), "change", "needs_approval"); got != step.want {
				t.Errorf("the answer to %s: %v", step.do, got)
			}
		}
		if got := at(d.ask("GET", path, "", 200), "change", "needs_approval"); got != step.want {
			t.Errorf("after %q: %v", step.do, got)
		}
		list, _ := d.ask("GET", "/api/v1/changes", "", 200)["changes"].([]any)
		for _, c := range list {
			want := step.want
			if at(c, "service") == "checkout" {
				want = nil
			}
			if got := at(c, "needs_approval"); got != want {
				t.Errorf("after %q, listed: %v of %v", step.do, got, at(c, "service"))
			}
		}
	}
	if c, _, err := d.j.Change(t.Context(), "default", costly.ID()); err != nil || c.NeedsApproval {
		t.Errorf("the journal has it: %v", err)
	}
}

// TestAPIPlan: what would happen is said for each, with the rail or the nodes, and nothing happens.
func TestAPIPlan(t *testing.T) {
	other := gogc("checkout")
	other.Subject = "procs"
	costly := gogc("billing")
	costly.Cost = 80
	d := newDesk(t, gogc("checkout"), other, costly)
	plan := func(body string) (said []string) {
		l, _ := d.ask("POST", "/api/v1/changes/plan", body, 200)["plan"].([]any)
		for _, p := range l {
			said = append(said, fmt.Sprint(at(p, "change", "service"), " ", at(p, "change", "subject"), " ", at(p, "starts"), " ", at(p, "why"), " ", at(p, "stages"), at(p, "nodes"), at(p, "controls")))
		}
		slices.Sort(said)
		return said
	}
	got := plan("")
	if len(got) != 3 || !strings.Contains(got[1], "checkout gc false Nobody has started it. [1 1 2 3] [n1] [n2]") {
		t.Errorf("%q", got)
	}
	got = plan("auto")
	started := 0
	for _, g := range got {
		switch {
		case strings.HasPrefix(g, "billing") && strings.Contains(g, "needs an approval"):
		case strings.Contains(g, "true <nil> [1 1 2 3] [n1] [n2]"):
			started++
		case strings.Contains(g, "there is one at a time"):
		default:
			t.Errorf("%q", g)
		}
	}
	if started != 1 {
		t.Errorf("%d start: %q", started, got)
	}
	if l, err := d.j.Changes(t.Context(), "default", optimize.Filter{States: []optimize.State{optimize.Proposed}}); err != nil || len(l) != 3 || d.place.applies > 0 {
		t.Errorf("%d are proposed, %v", len(l), err)
	}
}

// TestAPISeries: charts have the points that were measured, thinned, treated and control apart; what cannot be measured is said.
func TestAPISeries(t *testing.T) {
	d := newDesk(t, gogc("checkout"))
	p := gogc("checkout")
	id := p.ID()
	d.ask("POST", "/api/v1/changes/"+id, `{"do":"start","by":"ada"}`, 200)
	d.tick(time.Second)
	d.tick(time.Second)
	var asked optimize.Question
	d.look = func(q optimize.Question) (optimize.Sight, error) {
		asked = q
		s := optimize.Sight{}
		for _, n := range append(q.Instances, "stranger") {
			m := judge.Member{Name: n, Series: map[string][]judge.Point{}}
			for i := range 1000 {
				from := wednesday.Add(time.Duration(i) * time.Second)
				m.Series["rss"] = append(m.Series["rss"], judge.Point{From: from, To: from.Add(time.Second), Value: float64(i % 2), Weight: 1})
			}
			s.Members = append(s.Members, m)
		}
		return s, nil
	}
	s := d.ask("GET", "/api/v1/changes/"+id+"/series", "", 200)
	if !reflect.DeepEqual(asked.Instances, []string{"n1", "n2"}) || asked.Service != "checkout" || !asked.From.Equal(wednesday.Add(-30*time.Minute+time.Second)) && !asked.From.Equal(wednesday.Add(-30*time.Minute+2*time.Second)) {
		t.Errorf("%+v", asked)
	}
	if at(s, "members", 0, "name") != "n1" || at(s, "members", 0, "treated") != true || at(s, "members", 1, "treated") != false || at(s, "members", 2) != nil || at(s, "stage") != 0.0 {
		t.Errorf("%v", s)
	}
	points := at(s, "members", 0, "series", "rss").([]any)
	if len(points) != 250 || at(points, 0, "value") != 0.5 || at(points, 0, "weight") != 4.0 || at(points, -1, "to") != "2026-11-25T12:16:40Z" {
		t.Errorf("%d points, %v", len(points), points[0])
	}
	d.ask("GET", "/api/v1/changes/"+id+"/series?stage=1", "", 409)
	d.ask("GET", "/api/v1/changes/"+id+"/series?stage=9", "", 400)
	d.look = func(optimize.Question) (optimize.Sight, error) { return optimize.Sight{}, errors.New("not measured") }
	if a := d.ask("GET", "/api/v1/changes/"+id+"/series", "", 503); !strings.Contains(fmt.Sprint(a["message"]), "not measured") {
		t.Errorf("%v", a)
	}
}

// FuzzIncident: no webhook crashes the server or is its fault, and what is taken leaves no more than the bounded incidents.
func FuzzIncident(f *testing.F) {
	f.Add("", `{"name":"INC-7","state":"open","by":"ada","note":"errors","for":"6h"}`)
	f.Add("pagerduty", `{"event":{"id":"01","event_type":"incident.triggered","resource_type":"incident","data":{"id":"PGR0VU2","title":"A little bump","status":"triggered"}}}`)
	f.Add("alertmanager", `{"version":"4","status":"firing","alerts":[{"status":"firing","labels":{"alertname":"HighErrors"},"annotations":{"summary":"5 %"},"fingerprint":"c4f7"}]}`)
	f.Add("pagerduty", `{"event":{"event_type":"pagey.ping","resource_type":"pagey"}}`)
	j := &optimize.Memory{}
	r, err := optimize.NewRunner(optimize.Options{Journal: j, Look: func(context.Context, optimize.Question) (optimize.Sight, error) { return optimize.Sight{}, nil }},
		optimize.RunOptions{Tenants: func(context.Context) ([]string, error) { return nil, nil }})
	if err != nil {
		f.Fatal(err)
	}
	h := r.Handler()
	f.Fuzz(func(t *testing.T, format, body string) {
		req := httptest.NewRequest("POST", "/api/v1/incidents?format="+url.QueryEscape(format), strings.NewReader(body))
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, req)
		if rec.Code >= 500 {
			t.Fatalf("%d: %s", rec.Code, rec.Body)
		}
		holds, err := j.Holds(t.Context(), "default")
		if err != nil || len(holds.Incidents) > 100 {
			t.Fatalf("%d incidents, %v", len(holds.Incidents), err)
		}
	})
}
