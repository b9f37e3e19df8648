package access

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// house is a server behind the door: a real guard, a real database, and a clock that tests set.
type house struct {
	*Access
	t      *testing.T
	srv    *httptest.Server
	clock  atomic.Int64
	issuer seal.Key

	mu     sync.Mutex
	events []zerotrust.Event
	full   error                                        // why nothing can be recorded
	inside func(w http.ResponseWriter, r *http.Request) // what is behind the door
}

func (h *house) now() time.Time { return time.Unix(0, h.clock.Load()).UTC() }

func (h *house) record(_ context.Context, e zerotrust.Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.full != nil {
		return h.full
	}
	h.events = append(h.events, e)
	return nil
}

// recorded is whether an event has this reason in it.
func (h *house) recorded(reason string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.events, func(e zerotrust.Event) bool { return strings.Contains(e.Reason, reason) })
}

func open(t *testing.T, change ...func(*Options)) *house {
	t.Helper()
	h := &house{t: t, issuer: seal.NewKey()}
	h.clock.Store(time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC).UnixNano())
	db, err := control.Open(t.Context(), filepath.Join(t.TempDir(), "control.db"), control.Options{Now: h.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	guard, err := zerotrust.New(zerotrust.Options{Issuers: []seal.PublicKey{h.issuer.Public()}, Record: h.record, Now: h.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guard.Close() })
	o := Options{Control: db, Evaluate: guard.Evaluate, Record: h.record, Policy: policy.Standard, Issuer: h.issuer, Cookie: "4040", Now: h.now, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&o)
	}
	if h.Access, err = New(o); err != nil {
		t.Fatal(err)
	}
	h.inside = func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "inside") }
	h.srv = httptest.NewServer(h.Door(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.inside(w, r) })))
	t.Cleanup(h.srv.Close)
	return h
}

// person makes one with grants, and is a session's cookie of hers.
func (h *house) person(name string, trust int, grants ...string) (p *Person, cookie string) {
	h.t.Helper()
	all, err := parseGrants(grants)
	if err != nil {
		h.t.Fatal(err)
	}
	if p, err = h.CreatePerson(h.t.Context(), name, all); err != nil {
		h.t.Fatal(err)
	}
	_, secret, err := h.begin(h.t.Context(), Login{Person: p, How: "link", Trust: trust})
	if err != nil {
		h.t.Fatal(err)
	}
	return p, h.cookieName() + "=" + secret
}

type answer struct {
	status        int
	header        http.Header
	code, message string
	body          string
}

// do asks; header is NAME: VALUE lines. A cookie comes with what a browser says of its own page.
func (h *house) do(method, path, body string, header ...string) answer {
	h.t.Helper()
	r, err := http.NewRequest(method, h.srv.URL+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
		if name == "Cookie" && r.Header.Get("Sec-Fetch-Site") == "" && !slices.ContainsFunc(header, func(l string) bool { return strings.HasPrefix(l, "Sec-") || strings.HasPrefix(l, "Origin") }) {
			r.Header.Set("Sec-Fetch-Site", "same-origin")
		}
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	a := answer{status: res.StatusCode, header: res.Header, body: string(raw)}
	var fault struct{ Code, Message string }
	if json.Unmarshal(raw, &fault) == nil {
		a.code, a.message = fault.Code, fault.Message
	}
	return a
}

// TestRoles: what each role may ask at which routes, through the door, with the standard policies.
func TestRoles(t *testing.T) {
	h := open(t)
	cookies := map[string]string{}
	for _, role := range []string{"reader", "analyst", "operator", "admin"} {
		_, cookies[role] = h.person(role, TrustCritical, role)
	}
	_, cookies["scoped"] = h.person("scoped", TrustCritical, "operator:checkout", "reader:shop")
	_, cookies["nobody"] = h.person("nobody", TrustCritical)
	_, cookies["weak"] = h.person("weak", TrustVerified, "analyst", "operator")
	for _, c := range []struct{ who, method, path, body string }{
		{"reader analyst operator admin weak", "GET", "/metrics", ""},
		{"reader analyst operator admin weak", "GET", "/api/v1/findings", ""},
		{"reader analyst operator admin weak scoped", "GET", "/api/v1/findings?service=shop", ""},
		{"analyst admin", "GET", "/api/v1/agents/goroutines?service=checkout", ""},
		{"operator admin", "POST", "/api/v1/changes/pause", `{}`},
		{"operator admin scoped", "POST", "/api/v1/changes/patch", `{"service":"checkout","report":{}}`},
		{"operator admin", "POST", "/api/v1/changes/patch", `{"service":"shop","report":{}}`},
		{"operator admin", "POST", "/api/v1/changes/patch", `{"report":{}}`},
		{"operator admin scoped", "POST", "/api/v1/agents/lease", `{"service":"checkout"}`},
		{"operator admin", "POST", "/api/v1/agents/lease", `{"service":"shop"}`},
		{"operator admin", "POST", "/api/v1/agents/lease", `{"service":"checkout","service":"shop"}`},
		{"admin", "GET", "/api/guard/status", ""},
		{"reader analyst operator admin weak", "GET", "/api/v1/node", ""},
		{"operator admin weak", "GET", "/api/v1/node/peers", ""},
		{"operator admin weak", "GET", "/api/v1/node/events", ""},
		{"operator admin", "POST", "/api/v1/node/peers/12D3KooWx/terminate", `{}`},
		{"admin", "GET", "/api/v1/access/people", ""},
		{"admin", "POST", "/api/v1/access/enrol", `{}`},
		{"reader analyst operator admin scoped nobody weak", "GET", "/api/v1/access/me", ""},
	} {
		for who, cookie := range cookies {
			a := h.do(c.method, c.path, c.body, "Cookie: "+cookie)
			want := slices.Contains(strings.Fields(c.who), who)
			if got := a.status == http.StatusOK; got != want || !want && a.status != http.StatusForbidden {
				t.Errorf("%s: %s %s %s: %d %s, allowed is to be %v", who, c.method, c.path, c.body, a.status, a.body, want)
			}
		}
		if a := h.do(c.method, c.path, c.body); a.status != http.StatusUnauthorized || a.code != "unauthenticated" {
			t.Errorf("a stranger: %s %s: %d %s", c.method, c.path, a.status, a.code)
		}
	}
	if !h.recorded("no policy permits it") {
		t.Error("nothing was recorded")
	}
	a := h.do("GET", "/api/v1/agents/goroutines?service=checkout", "", "Cookie: "+cookies["weak"])
	if !strings.Contains(a.message, "raw-level") || !strings.Contains(a.message, "second factor") {
		t.Errorf("a denial does not say by which policy, and what to do: %s", a.message)
	}
}

// TestUnknownRoutes: what is not in the table is denied, whoever asks.
func TestUnknownRoutes(t *testing.T) {
	h := open(t)
	_, cookie := h.person("ada", TrustCritical, "admin")
	for _, c := range []string{"GET /api/v1/secrets", "POST /api/v1/export", "DELETE /api/v1/findings", "POST /quantra.v1.QuerierService/Drop", "GET /ingest/x", "GET /metrics/x", "PUT /api/v1/changes/1"} {
		method, path, _ := strings.Cut(c, " ")
		if a := h.do(method, path, "", "Cookie: "+cookie); a.body == "inside" || a.status < 400 {
			t.Errorf("%s: an admin gets %d %s", c, a.status, a.body)
		}
		if a := h.do(method, path, ""); a.status != http.StatusUnauthorized {
			t.Errorf("%s: a stranger gets %d", c, a.status)
		}
	}
	if a := h.do("POST", "/findings", ""); a.status != http.StatusMethodNotAllowed {
		t.Errorf("a page that is posted to: %d", a.status)
	}
	for _, path := range []string{"/", "/findings/1", "/app.js", "/healthz"} {
		if a := h.do("GET", path, ""); a.body != "inside" {
			t.Errorf("%s is for everyone: %d", path, a.status)
		}
	}
}

func TestLink(t *testing.T) {
	h := open(t)
	p, err := h.FirstPerson(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := h.FirstPerson(t.Context()); err != nil || again.ID != p.ID {
		t.Fatalf("the first person is made anew: %+v, %v", again, err)
	}
	link := func() string {
		t.Helper()
		code, err := h.Link(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
	code := link()
	if a := h.do("HEAD", "/login?code="+code, ""); len(a.header["Set-Cookie"]) > 0 {
		t.Error("a HEAD has used the link")
	}
	a := h.do("GET", "/login?code="+code, "")
	set := a.header.Get("Set-Cookie")
	if a.status != http.StatusSeeOther || a.header.Get("Location") != "/" || !strings.Contains(set, "HttpOnly") || !strings.Contains(set, "SameSite=Lax") || strings.Contains(a.header.Get("Location"), code) {
		t.Fatalf("%d %v", a.status, a.header)
	}
	cookie, _, _ := strings.Cut(set, ";")
	if a := h.do("GET", "/api/v1/access/me", "", "Cookie: "+cookie); a.status != 200 || !strings.Contains(a.body, `"level":"critical"`) || !strings.Contains(a.body, `"read_raw":true`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	for what, code := range map[string]string{"used": code, "made up": "qll_0123456789abcdef_" + strings.Repeat("A", 43), "nonsense": "x"} {
		a := h.do("GET", "/login?code="+code, "")
		if a.header.Get("Location") != "/?login=used" || len(a.header["Set-Cookie"]) > 0 {
			t.Errorf("%s: %d %v", what, a.status, a.header)
		}
	}
	if !h.recorded("the link has been used") {
		t.Error("a link that was used twice is not in the record")
	}
	// The id alone does not use it up.
	code = link()
	forged := code[:len(code)-43] + strings.Repeat("A", 43)
	h.do("GET", "/login?code="+forged, "")
	if a := h.do("GET", "/login?code="+code, ""); a.header.Get("Location") != "/" {
		t.Error("a forged code has used up the link")
	}
	code = link()
	h.clock.Add(int64(LinkTTL))
	if a := h.do("GET", "/login?code="+code, ""); a.header.Get("Location") != "/?login=used" {
		t.Error("an old link still opens")
	}
	// Nobody comes in unrecorded; the page says so, not bare JSON.
	code = link()
	h.mu.Lock()
	h.full = errors.New("the disk is full")
	h.mu.Unlock()
	if a := h.do("GET", "/login?code="+code, ""); a.header.Get("Location") != "/?login=undecided" || len(a.header["Set-Cookie"]) > 0 {
		t.Errorf("where nothing can be recorded: %d %v", a.status, a.header)
	}
}

// TestSession: it ends when idle, in the end, when it is revoked, with its owner, and at logout; a login takes the place of the one before.
func TestSession(t *testing.T) {
	h := open(t)
	me := func(cookie string) int { return h.do("GET", "/api/v1/access/me", "", "Cookie: "+cookie).status }
	p, cookie := h.person("ann", TrustCritical, "reader")
	for range 5 {
		h.clock.Add(int64(SessionIdle - time.Minute))
		if me(cookie) != 200 {
			t.Fatal("a session that is used has ended")
		}
	}
	h.clock.Add(int64(SessionIdle))
	if me(cookie) != 401 {
		t.Error("an idle session goes on")
	}
	begin := func() string {
		_, secret, err := h.begin(t.Context(), Login{Person: p, How: "link", Trust: 100})
		if err != nil {
			t.Fatal(err)
		}
		return h.cookieName() + "=" + secret
	}
	cookie = begin()
	for at := time.Duration(0); at < SessionTTL; at += SessionIdle - time.Hour {
		me(cookie)
		h.clock.Add(int64(SessionIdle - time.Hour))
	}
	if me(cookie) != 401 {
		t.Error("a session goes on for ever")
	}
	cookie = begin()
	list, err := h.Sessions(t.Context(), p.ID)
	if err != nil || len(list) != 1 || list[0].Name != "ann" {
		t.Fatalf("%+v, %v", list, err)
	}
	if a := h.do("DELETE", "/api/v1/access/sessions/"+list[0].ID, "", "Cookie: "+cookie); a.status != 200 || me(cookie) != 401 {
		t.Errorf("revoked by herself: %d %s", a.status, a.body)
	}
	_, other := h.person("eve", TrustCritical, "reader")
	cookie = begin()
	list, _ = h.Sessions(t.Context(), p.ID)
	if a := h.do("DELETE", "/api/v1/access/sessions/"+list[0].ID, "", "Cookie: "+other); a.status != 403 || me(cookie) != 200 {
		t.Errorf("another ends her session: %d", a.status)
	}
	if a := h.do("POST", "/logout", "", "Cookie: "+cookie); a.status != 200 || me(cookie) != 401 || !strings.Contains(a.header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("logout: %d %v", a.status, a.header)
	}
	cookie = begin()
	if err := h.RemovePerson(t.Context(), p.ID); err != nil || me(cookie) != 401 {
		t.Errorf("a person who is gone is still logged in: %v", err)
	}
}

func TestTokens(t *testing.T) {
	h := open(t)
	p, cookie := h.person("ann", TrustCritical, "analyst", "operator:checkout")
	a := h.do("POST", "/api/v1/access/tokens", `{"name":"ci","grants":["reader:checkout"]}`, "Cookie: "+cookie)
	if a.status != 403 {
		t.Errorf("a role that is not hers: %d %s", a.status, a.body)
	}
	a = h.do("POST", "/api/v1/access/tokens", `{"name":"ci","grants":["analyst","operator:checkout"],"for":"1h"}`, "Cookie: "+cookie)
	var made struct {
		Token  Token
		Secret string
	}
	if json.Unmarshal([]byte(a.body), &made) != nil || a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	bearer := "Authorization: Bearer " + made.Secret
	if a := h.do("GET", "/api/v1/findings", "", bearer); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := h.do("GET", "/api/v1/agents/goroutines?service=checkout", "", bearer); a.status != 403 {
		t.Errorf("a token of level verified reads raw: %d", a.status)
	}
	basic := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("anyone:"+made.Secret))
	for headers, want := range map[string]int{"": 200, "Sec-Fetch-Site: same-origin": 200, "Sec-Fetch-Site: cross-site": 403, "Origin: https://evil.example": 403} {
		with := []string{basic}
		if headers != "" {
			with = append(with, headers)
		}
		if a := h.do("GET", "/api/v1/findings", "", with...); a.status != want {
			t.Errorf("a token as a password, %s: %d %s, want %d", headers, a.status, a.body, want)
		}
	}
	if a := h.do("POST", "/api/v1/access/tokens", `{"name":"more","grants":["analyst"]}`, bearer); a.status != 403 {
		t.Errorf("a token makes a token: %d", a.status)
	}
	rows, err := h.db.AccessRows(t.Context(), kindToken, "", 10)
	if err != nil || len(rows) != 1 || bytes.Contains(rows[0].Doc, []byte(made.Secret[len(made.Secret)-43:])) {
		t.Errorf("the secret is kept: %s, %v", rows[0].Doc, err)
	}
	if _, err := h.GrantTo(t.Context(), p.ID, nil, []Grant{{Role: "analyst"}}); err != nil {
		t.Fatal(err)
	}
	if a := h.do("GET", "/api/v1/findings", "", bearer); a.status != 403 {
		t.Errorf("what she has lost her token has still: %d", a.status)
	}
	h.clock.Add(int64(time.Hour))
	if a := h.do("GET", "/api/v1/findings?service=checkout", "", bearer); a.status != 401 {
		t.Errorf("an expired token: %d", a.status)
	}
	if _, _, err := h.CreateToken(t.Context(), h.Owner(), "x", []Grant{{Role: "admin"}}, 0, 2*MaxTokenTTL); !errors.Is(err, ErrInvalid) {
		t.Errorf("for ever: %v", err)
	}
}

func TestEnrol(t *testing.T) {
	h := open(t)
	_, cookie := h.person("ada", TrustCritical, "admin")
	a := h.do("POST", "/api/v1/access/enrol", `{"service":"checkout"}`, "Cookie: "+cookie)
	var made struct{ Secret string }
	if json.Unmarshal([]byte(a.body), &made) != nil || made.Secret == "" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	key, other := seal.NewKey(), seal.NewKey()
	ctx := t.Context()
	if err := h.Known(ctx, key.Public()); !errors.Is(err, ErrDenied) || !h.recorded("has not enrolled") {
		t.Errorf("an unknown agent: %v", err)
	}
	enrol := func(k seal.Key, by seal.Key) answer {
		t.Helper()
		proof, err := EnrolProof(by, made.Secret)
		if err != nil {
			t.Fatal(err)
		}
		pub := k.Public()
		body, _ := json.Marshal(map[string]any{"token": made.Secret, "key": pub[:], "proof": proof[:]})
		return h.do("POST", "/api/v1/access/agents", string(body))
	}
	if a := enrol(key, other); a.status != 401 {
		t.Errorf("a key that is not the enroller's: %d %s", a.status, a.body)
	}
	if a := enrol(key, key); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := enrol(other, other); a.status != 401 {
		t.Errorf("the token a second time: %d %s", a.status, a.body)
	}
	pub, stranger := key.Public(), other.Public()
	for _, c := range []struct {
		key             *seal.PublicKey
		action, service string
		want            bool
	}{{&pub, "write", "checkout", true}, {&pub, "write", "shop", false}, {&pub, "connect", "checkout", true}, {&pub, "connect", "shop", false}, {&stranger, "write", "checkout", false}, {nil, "write", "checkout", false}} {
		if err := h.Send(ctx, c.key, c.action, c.service); (err == nil) != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}
	list, err := h.Agents(ctx)
	if err != nil || len(list) != 1 || list[0].Service != "checkout" {
		t.Fatalf("%+v, %v", list, err)
	}
	if a := h.do("DELETE", "/api/v1/access/agents/"+list[0].ID, "", "Cookie: "+cookie); a.status != 200 || h.Known(ctx, pub) == nil {
		t.Errorf("removed, it still sends: %d %s", a.status, a.body)
	}
	if err := h.EnrolOwn(other.Public()); err != nil || h.Send(ctx, &stranger, "write", "anything") != nil {
		t.Errorf("the server's own: %v", err)
	}
}

// TestOpen: where the owner says so whoever sends is let in, and decided on and recorded all the same; a sender's token is asked for elsewhere.
func TestOpen(t *testing.T) {
	h := open(t, func(o *Options) { o.Open = true })
	if a := h.do("POST", "/ingest", ""); a.body != "inside" {
		t.Errorf("%d %s", a.status, a.body)
	}
	n := len(h.events)
	if err := h.Send(t.Context(), nil, "write", "shop"); err != nil || len(h.events) != n+1 || h.events[n].Principal != "local" {
		t.Errorf("%v, %+v", err, h.events[n:])
	}
	if a := h.do("GET", "/api/v1/findings", ""); a.status != 401 {
		t.Errorf("what is open to senders is open to readers: %d", a.status)
	}
	closed := open(t)
	if a := closed.do("POST", "/ingest", ""); a.status != 401 || a.code != "unsigned" {
		t.Errorf("%d %s", a.status, a.code)
	}
	_, secret, err := closed.CreateToken(t.Context(), closed.Owner(), "sdk", []Grant{{Role: "writer", Service: "shop"}}, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	closed.inside = func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, closed.Send(r.Context(), nil, "write", "shop") == nil, closed.Send(r.Context(), nil, "write", "checkout") == nil)
	}
	if a := closed.do("POST", "/ingest", "", "Authorization: Bearer "+secret); a.body != "true false" {
		t.Errorf("a writer's token: %s", a.body)
	}
	// Clients that know passwords only send it as one.
	basic := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("anyone:"+secret))
	if a := closed.do("POST", "/ingest", "", basic); a.body != "true false" {
		t.Errorf("a writer's token as a password: %d %s", a.status, a.body)
	}
	if a := closed.do("POST", "/profiling/v1/input", "", "DD-API-KEY: "+secret); a.body != "true false" {
		t.Errorf("a writer's token as Datadog's key: %d %s", a.status, a.body)
	}
	if a := closed.do("POST", "/profiling/v1/input", "", "DD-API-KEY: "+secret[1:]); a.status != 401 {
		t.Errorf("a key that is none of ours: %d", a.status)
	}
	for _, site := range []string{"cross-site", "same-site"} {
		if a := closed.do("POST", "/ingest", "", basic, "Sec-Fetch-Site: "+site); a.status != 403 {
			t.Errorf("a password that a browser sends for a page of another site (%s): %d", site, a.status)
		}
	}
}

// TestScope: who has roles for some services sees those, and only those.
func TestScope(t *testing.T) {
	h := open(t, func(o *Options) {
		r, err := ParseRedaction([]byte("# ours\n^secret\\.(.*) => hidden $1\n"))
		if err != nil {
			t.Fatal(err)
		}
		o.Redact = func() *Redaction { return r }
	})
	ask := func(raw bool, services []string, grants ...Grant) (Scope, error) {
		c := &Caller{Principal: "p-1", Kind: "person", Grants: grants, Trust: TrustCritical}
		return h.Allow(context.WithValue(t.Context(), callerKey{}, c), raw, services)
	}
	if s, err := ask(false, nil, Grant{"reader", "a"}, Grant{"analyst", "b"}); err != nil || !slices.Equal(s.Services, []string{"a", "b"}) || s.Redact == nil {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := ask(true, nil, Grant{"reader", "a"}, Grant{"analyst", "b"}); err != nil || !slices.Equal(s.Services, []string{"b"}) {
		t.Errorf("raw: %+v, %v", s, err)
	}
	if s, err := ask(false, []string{"b"}, Grant{"analyst", "b"}); err != nil || s.Services != nil || s.Redact != nil {
		t.Errorf("one: %+v, %v", s, err)
	}
	if _, err := ask(false, []string{"b", "c"}, Grant{"analyst", "b"}); !errors.Is(err, ErrDenied) {
		t.Errorf("one that is hers and one that is not: %v", err)
	}
	if _, err := ask(false, nil); !errors.Is(err, ErrDenied) {
		t.Errorf("no roles: %v", err)
	}
	if _, err := h.Allow(t.Context(), false, nil); !errors.Is(err, ErrDenied) {
		t.Errorf("nobody: %v", err)
	}
	s, err := ask(false, nil, Grant{Role: "reader"})
	if err != nil || s.Services != nil {
		t.Fatalf("%+v, %v", s, err)
	}
	if name, hidden := s.Redact.Name("secret.Key"); name != "hidden Key" || !hidden {
		t.Errorf("%q %v", name, hidden)
	}
	if name, hidden := s.Redact.Name("main.main"); name != "main.main" || hidden {
		t.Errorf("%q %v", name, hidden)
	}
	for _, bad := range []string{"", "# only words", "x", "( => y", "x => "} {
		if _, err := ParseRedaction([]byte(bad)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
