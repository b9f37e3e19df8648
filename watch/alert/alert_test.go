package alert

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/analyze"
)

var env = map[string]string{"HOOK": "http://127.0.0.1:9/secret-path", "KEY": "k3y-of-test", "EMPTY": ""}

func lookup(name string) (string, bool) { v, ok := env[name]; return v, ok }

func TestParse(t *testing.T) {
	c, err := Parse([]byte(`
channels:
  - {name: team, type: slack, url_env: HOOK}
  - {name: oncall, type: pagerduty, key_env: KEY}
  - {name: hook, type: webhook, url: "http://localhost:1/x", key_env: KEY}
rules:
  - {name: money, kinds: [regression], services: ["check*"], min_month: 50, min_share: 0.01, channels: [oncall, team]}
  - {name: leaks, kinds: [goroutine_leak], fixed: false, channels: [hook]}
`), lookup)
	if err != nil {
		t.Fatal(err)
	}
	f := analyze.Finding{Kind: analyze.Regression, Service: "checkout", Unit: "share", Change: analyze.Estimate{Value: 0.02}, Price: &analyze.Money{Amount: 50}}
	to, fixed := c.Route(&f)
	if want := []string{"oncall", "team"}; !reflect.DeepEqual(to, want) || !reflect.DeepEqual(fixed, want) {
		t.Errorf("%v, %v", to, fixed)
	}
	for _, change := range []func(f *analyze.Finding){
		func(f *analyze.Finding) { f.Service = "billing" },
		func(f *analyze.Finding) { f.Price = &analyze.Money{Amount: 49} },
		func(f *analyze.Finding) { f.Change.Value = 0.009 },
		func(f *analyze.Finding) { f.Kind = analyze.Improvement },
	} {
		g := f
		change(&g)
		if to, _ := c.Route(&g); len(to) > 0 {
			t.Errorf("%+v goes to %v", g, to)
		}
	}
	f = analyze.Finding{Kind: analyze.GoroutineLeak, Service: "x"}
	if to, fixed := c.Route(&f); len(to) != 1 || len(fixed) != 0 {
		t.Errorf("%v, %v", to, fixed)
	}

	// Without rules all that matters goes everywhere.
	c, err = Parse([]byte("channels: [{name: a, type: webhook, url: 'https://a/'}, {name: b, type: slack, url_env: HOOK}]"), lookup)
	if err != nil {
		t.Fatal(err)
	}
	if to, _ := c.Route(&f); len(to) != 2 {
		t.Errorf("%v", to)
	}
	if to, _ := c.Route(&analyze.Finding{Kind: analyze.HotSpot}); len(to) != 0 {
		t.Errorf("a hot spot goes to %v", to)
	}
}

func TestParseRefuses(t *testing.T) {
	ok := "channels: [{name: a, type: webhook, url: 'http://a/'}]\n"
	for in, want := range map[string]string{
		"": "no channels",
		"channels: [{name: a, type: webhook, url: 'http://a/', token: x}]":                                   "line 1: field token not found",
		"channels: [{name: 'a b', type: webhook, url: 'http://a/'}]":                                         "channel 1: name",
		"channels: [{name: a, type: webhook, url: 'http://a/'}, {name: a, type: webhook, url: 'http://a/'}]": "twice",
		"channels: [{name: a, type: carrier, url: 'http://a/'}]":                                             "none of webhook, slack, pagerduty",
		"channels: [{name: a, type: webhook}]":                                                               "neither url nor url_env",
		"channels: [{name: a, type: webhook, url: 'ftp://a/'}]":                                              "http:// or https://",
		"channels: [{name: a, type: webhook, url: 'http://a/', url_env: HOOK}]":                              "give one",
		"channels: [{name: a, type: slack, url_env: NOPE}]":                                                  "NOPE is not set",
		"channels: [{name: a, type: slack, url_env: EMPTY}]":                                                 "EMPTY is not set",
		"channels: [{name: a, type: pagerduty}]":                                                             "needs key_env",
		ok + "rules: [{kinds: [fast], channels: [a]}]":                                                       `kind "fast"`,
		ok + "rules: [{channels: [b]}]":                                                                      "no channel",
		ok + "rules: [{}]":                                                                                   "no channels",
		ok + "rules: [{services: ['['], channels: [a]}]":                                                     "syntax error",
		ok + "rules: [{min_share: 2, channels: [a]}]":                                                        "min_share",
		ok + "changes: [{what: [shouted], channels: [a]}]":                                                   `what "shouted" is none of`,
		ok + "changes: [{kinds: [regression], channels: [a]}]":                                               `changes: rule 1 : kind "regression"`,
		ok + "changes: [{channels: [b]}]":                                                                    "no channel",
		ok + "changes: [{services: ['['], channels: [a]}]":                                                   "syntax error",
		ok + "---\n" + ok:                "more than one document",
		"a: &a [*a]":                     "line 1",
		strings.Repeat("#", maxConfig+1): "more than",
	} {
		if _, err := Parse([]byte(in), lookup); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q: %v, want %q", in, err, want)
		}
	}
	if _, err := Load(t.TempDir()+"/none.yaml", lookup); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("channels:\n  - {name: team, type: slack, url_env: HOOK}\nrules:\n  - {kinds: [regression], services: ['a*'], channels: [team]}\n"))
	f.Add([]byte("channels: [{name: a, type: pagerduty, key_env: KEY}]"))
	f.Add([]byte("a: &a [*a, *a]\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := Parse(raw, lookup)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		for _, k := range analyze.Kinds {
			to, _ := c.Route(&analyze.Finding{Kind: k})
			for _, n := range to {
				if c.Channel(n) == nil {
					t.Fatalf("%q goes nowhere", n)
				}
			}
		}
	})
}

// said is what a server was told.
type said struct {
	header http.Header
	path   string
	body   string
}

func server(t *testing.T, status int, header map[string]string, answer string) (*httptest.Server, *[]said) {
	var all []said
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		all = append(all, said{r.Header, r.URL.Path, string(b)})
		for k, v := range header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(status)
		io.WriteString(w, answer)
	}))
	t.Cleanup(s.Close)
	return s, &all
}

func message() Message {
	return Message{ID: "0123456789abcdef", Episode: 2, Status: "open", Link: "http://q/findings/0123456789abcdef", Also: []string{"billing"},
		Finding: &analyze.Finding{Kind: analyze.Regression, Service: "checkout", Function: "cache.(*LRU).evict", Sentence: "`cache.(*LRU).evict` rose from 3.1 % to 5.4 % of checkout's CPU.",
			Next: "Compare <both>.", Warnings: []string{"One instance."}, Price: &analyze.Money{Amount: 310.4, Currency: "USD"}}}
}

func channel(t *testing.T, typ, url string) *Channel {
	t.Helper()
	ch := &Channel{Name: "c", Type: typ, URL: url}
	if typ != "slack" {
		ch.KeyEnv = "KEY"
	}
	if err := ch.resolve(lookup); err != nil {
		t.Fatal(err)
	}
	return ch
}

func TestSend(t *testing.T) {
	s, all := server(t, 200, nil, "ok")
	if err := channel(t, "webhook", s.URL+"/hook").Send(t.Context(), message()); err != nil {
		t.Fatal(err)
	}
	got := (*all)[0]
	mac := hmac.New(sha256.New, []byte(env["KEY"]))
	mac.Write([]byte(got.body))
	if sig := got.header.Get(SignatureHeader); sig != "sha256="+hex.EncodeToString(mac.Sum(nil)) {
		t.Errorf("signed %q", sig)
	}
	var back Message
	if err := json.Unmarshal([]byte(got.body), &back); err != nil || !reflect.DeepEqual(back, message()) {
		t.Errorf("%v: %s", err, got.body)
	}
	if k := got.header.Get("Idempotency-Key"); k != "0123456789abcdef-2-open" || got.path != "/hook" {
		t.Errorf("%q to %s", k, got.path)
	}

	s, all = server(t, 200, nil, "ok")
	if err := channel(t, "slack", s.URL+"/services/T/B").Send(t.Context(), message()); err != nil {
		t.Fatal(err)
	}
	var sl struct {
		Text   string
		Blocks []struct{ Text struct{ Type, Text string } }
	}
	if err := json.Unmarshal([]byte((*all)[0].body), &sl); err != nil {
		t.Fatal(err)
	}
	if want := "`cache.(*LRU).evict` rose from 3.1 % to 5.4 % of checkout's CPU. About 310 USD a month. Also in billing."; sl.Text != want {
		t.Errorf("%q", sl.Text)
	}
	if b := sl.Blocks[0].Text; b.Type != "mrkdwn" || !strings.Contains(b.Text, "Compare &lt;both&gt;.") || !strings.Contains(b.Text, "<http://q/findings/0123456789abcdef|") || !strings.Contains(b.Text, "One instance.") {
		t.Errorf("%+v", b)
	}

	// PagerDuty: opened and resolved under one key.
	s, all = server(t, 202, nil, `{"status":"success","message":"Event processed","dedup_key":"x"}`)
	pd := channel(t, "pagerduty", s.URL)
	fixed := message()
	fixed.Status = "fixed"
	for _, m := range []Message{message(), fixed} {
		if err := pd.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	type event struct {
		RoutingKey string `json:"routing_key"`
		Action     string `json:"event_action"`
		Dedup      string `json:"dedup_key"`
		Payload    struct{ Summary, Source, Severity, Component, Class string }
	}
	var e [2]event
	for i := range e {
		if err := json.Unmarshal([]byte((*all)[i].body), &e[i]); err != nil {
			t.Fatal(err)
		}
		if e[i].RoutingKey != env["KEY"] || e[i].Dedup != "quantra-0123456789abcdef" || e[i].Payload.Source != "checkout" || (*all)[i].path != "/v2/enqueue" {
			t.Errorf("%+v to %s", e[i], (*all)[i].path)
		}
	}
	if e[0].Action != "trigger" || e[1].Action != "resolve" || e[0].Payload.Component != "cache.(*LRU).evict" {
		t.Errorf("%+v", e)
	}
}

// TestRouteChange: rules of changes are apart from those of findings; a file without any rules tells all channels what is usual.
func TestRouteChange(t *testing.T) {
	const channels = "channels: [{name: a, type: webhook, url: 'https://a/'}, {name: b, type: webhook, url: 'https://b/'}]\n"
	for _, c := range []struct{ rules, kind, service, what, want string }{
		{"", "runtime", "checkout", "failed", "[a b]"},
		{"", "runtime", "checkout", "stage", "[]"},
		{"rules: [{channels: [a]}]", "runtime", "checkout", "failed", "[]"},
		{"changes: [{channels: [b]}]", "runtime", "checkout", "failed", "[b]"},
		{"changes: [{kinds: [scale], services: ['check*'], what: [failed, stage], channels: [b]}]", "scale", "checkout", "stage", "[b]"},
		{"changes: [{kinds: [scale], channels: [b]}]", "runtime", "checkout", "failed", "[]"},
		{"changes: [{services: ['x*'], channels: [b]}]", "runtime", "checkout", "failed", "[]"},
		{"changes: [{kinds: [scale], services: ['x*'], channels: [b, a]}, {channels: [a]}]", "", "", "paused", "[a b]"},
	} {
		cfg, err := Parse([]byte(channels+c.rules), lookup)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(cfg.RouteChange(c.kind, c.service, c.what)); got != c.want {
			t.Errorf("%s: %s of %s %s goes to %s, want %s", c.rules, c.what, c.kind, c.service, got, c.want)
		}
	}
}

// TestFiles: rules of watched files are apart from the others, by severity; each kind of channel gets them in its own form.
func TestFiles(t *testing.T) {
	const channels = "channels: [{name: a, type: webhook, url: 'https://a/'}, {name: b, type: webhook, url: 'https://b/'}]\n"
	for _, c := range []struct{ rules, severity, want string }{
		{"", "warning", "[a b]"}, {"", "critical", "[a b]"}, {"", "info", "[]"},
		{"rules: [{channels: [a]}]", "critical", "[]"},
		{"files: [{channels: [b]}]", "warning", "[b]"},
		{"files: [{min_severity: critical, channels: [b]}, {channels: [a]}]", "warning", "[a]"},
		{"files: [{min_severity: critical, channels: [b]}, {channels: [a, b]}]", "critical", "[a b]"},
	} {
		cfg, err := Parse([]byte(channels+c.rules), lookup)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(cfg.RouteFile(c.severity)); got != c.want {
			t.Errorf("%s: %s goes to %s, want %s", c.rules, c.severity, got, c.want)
		}
	}
	for _, bad := range []string{"files: [{min_severity: info, channels: [a]}]", "files: [{channels: [x]}]", "files: [{}]", "files: [{kinds: [a], channels: [a]}]"} {
		if _, err := Parse([]byte(channels+bad), lookup); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	m := Message{ID: "file-1", Episode: 1, Status: "open", Link: "http://q", File: &File{Severity: "critical", Kind: "changed", Path: "/bin/su", Host: "h", Sentence: "<x> changed"}}
	for typ, want := range map[string]string{"slack": "Files: \\u0026lt;x\\u0026gt; changed", "pagerduty": `"severity":"critical"`, "webhook": `"file":{"severity":"critical"`} {
		s, all := server(t, map[string]int{"pagerduty": 202}[typ]+map[string]int{"slack": 200, "webhook": 200}[typ], nil, map[string]string{"slack": "ok", "pagerduty": `{"status":"success","message":"x","dedup_key":"x"}`}[typ])
		if err := channel(t, typ, s.URL+"/x").Send(t.Context(), m); err != nil || !strings.Contains((*all)[0].body, want) {
			t.Errorf("%s: %v, %v", typ, err, (*all)[0].body)
		}
	}
}

// TestSendChange: Slack and PagerDuty get a change in their own form, with its page; what needs nobody any more is resolved.
func TestSendChange(t *testing.T) {
	change := func(what string) Message {
		return Message{ID: "c1", Episode: 7, Status: what, Link: "http://q/changes/c1", Change: &Change{Kind: "runtime", Service: "checkout", What: what, By: "ada",
			Sentence: "GOGC 100 -> 300.", Note: "p99 <rose>.", Price: &analyze.Money{Amount: 190, Currency: "USD"}}}
	}
	s, all := server(t, 200, nil, "ok")
	if err := channel(t, "slack", s.URL+"/x").Send(t.Context(), change("failed")); err != nil {
		t.Fatal(err)
	}
	var said struct {
		Blocks []struct{ Text struct{ Text string } }
	}
	if err := json.Unmarshal([]byte((*all)[0].body), &said); err != nil || len(said.Blocks) != 1 {
		t.Fatal(err, (*all)[0].body)
	}
	want := "Failed, and undone: GOGC 100 -&gt; 300. Expected: 190 USD a month.\n• p99 &lt;rose&gt;.\n• By ada.\n<http://q/changes/c1|Open the change: approve, pause, undo>"
	if got := said.Blocks[0].Text.Text; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	s, all = server(t, 202, nil, `{"status":"success","message":"Event processed","dedup_key":"x"}`)
	for i, c := range []struct{ what, action, severity string }{
		{"proposed", "trigger", "info"}, {"failed", "trigger", "warning"}, {"not_undone", "trigger", "critical"}, {"undone", "resolve", "info"}, {"breaker", "trigger", "warning"},
	} {
		if err := channel(t, "pagerduty", s.URL).Send(t.Context(), change(c.what)); err != nil {
			t.Fatal(err)
		}
		var e struct {
			Action  string `json:"event_action"`
			Dedup   string `json:"dedup_key"`
			Payload struct{ Summary, Source, Severity, Component, Class string }
		}
		if err := json.Unmarshal([]byte((*all)[i].body), &e); err != nil {
			t.Fatal(err)
		}
		if e.Action != c.action || e.Payload.Severity != c.severity || e.Dedup != "quantra-c1" || e.Payload.Source != "checkout" || e.Payload.Component != "runtime" || e.Payload.Class != "change "+c.what {
			t.Errorf("%s: %+v", c.what, e)
		}
	}
	for _, w := range Whats {
		if titles[w] == "" {
			t.Errorf("%s has no title", w)
		}
	}
}

// TestSendFails: what is worth another try is told from what is not, when is heard, and secrets are in no error.
func TestSendFails(t *testing.T) {
	type want int
	const (
		refused want = iota
		later
		again
	)
	for _, c := range []struct {
		typ    string
		status int
		header map[string]string
		want   want
	}{
		{"webhook", 400, nil, refused}, {"webhook", 301, map[string]string{"Location": "http://127.0.0.1:9/"}, refused},
		{"webhook", 429, map[string]string{"Retry-After": "7"}, later}, {"webhook", 500, nil, again},
		{"slack", 404, nil, refused}, {"slack", 429, map[string]string{"Retry-After": "7"}, later}, {"slack", 503, nil, again},
		{"pagerduty", 400, nil, refused}, {"pagerduty", 500, nil, again}, {"pagerduty", 429, nil, later},
	} {
		s, all := server(t, c.status, c.header, "no")
		err := channel(t, c.typ, s.URL+"/s3cret").Send(t.Context(), message())
		var r *Refused
		var l *Later
		got := again
		switch {
		case errors.As(err, &r):
			got = refused
		case errors.As(err, &l):
			got = later
			if c.header != nil && l.After != 7*time.Second {
				t.Errorf("%s %d: after %v", c.typ, c.status, l.After)
			}
		}
		if err == nil || got != c.want || len(*all) != 1 {
			t.Errorf("%s %d: %v, told %d times", c.typ, c.status, err, len(*all))
		}
		if err != nil && (strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), env["KEY"])) {
			t.Errorf("%s %d: a secret is in %v", c.typ, c.status, err)
		}
	}
	for _, typ := range []string{"webhook", "slack", "pagerduty"} {
		err := channel(t, typ, "http://127.0.0.1:9/s3cret").Send(t.Context(), message())
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", typ, err)
		}
	}
}
