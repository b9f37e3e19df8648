package access

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// The attacks that were tried on the door, each with what refuses it. Beside them: a stolen, expired or revoked session (TestSession), token
// (TestTokens) and link (TestLink); an unknown agent, a token for two agents, an agent of another service (TestEnrol); replayed uploads
// (ingest: TestReplay, TestSince); logins by a provider that another began, twice, with a forged or another's ID token (TestProviderAttacks,
// TestProviderRefuses; access/oidc: TestReply, TestIDToken, TestOtherUser); codes of a second factor guessed, reused, in parallel, and a stolen session that
// would make one (TestFactorAttacks, TestFactorEnrol); acts in another's name (TestBy); hidden names looked for in sentences (TestRedactedAnswers).

// TestPathTricks: a path in another spelling than the one that is decided on is none.
func TestPathTricks(t *testing.T) {
	h := open(t)
	_, cookie := h.person("rita", TrustCritical, "reader")
	for _, path := range []string{"//api/v1/access/people", "/api//v1/access/people", "/api/v1/findings/../access/people", "/api/v1/./access/people", "/api/v1/findings%2f..%2faccess/people",
		"/api/v1/findings/%2e%2e/access/people", "/%2e%2e/api/v1/access/people", "/api/v1/access%5cpeople", "/api/v1/access/people/", "/API/v1/access/people", "/api/v1/access/people;x"} {
		if a := h.do("GET", path, "", "Cookie: "+cookie); a.status < 400 && !(a.body == "inside" && strings.HasPrefix(path, "/API")) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

// TestMethodTricks: the method that is decided on is the request's own.
func TestMethodTricks(t *testing.T) {
	h := open(t)
	_, cookie := h.person("rita", TrustCritical, "reader")
	h.inside = func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			t.Errorf("%s came in", r.Method)
		}
	}
	for _, header := range []string{"X-HTTP-Method-Override: POST", "X-Method-Override: DELETE"} {
		h.do("GET", "/api/v1/changes/1", "", "Cookie: "+cookie, header)
	}
	for _, method := range []string{"PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "BREW"} {
		if a := h.do(method, "/api/v1/findings", "", "Cookie: "+cookie); a.status < 400 {
			t.Errorf("%s: %d", method, a.status)
		}
	}
}

// TestHeaderTricks: what a client writes about itself is not believed.
func TestHeaderTricks(t *testing.T) {
	h := open(t)
	_, cookie := h.person("ann", TrustCritical, "admin")
	if a := h.do("GET", "/api/v1/access/me", "", "Cookie: "+cookie+"; "+cookie); a.status != 401 {
		t.Errorf("two cookies: %d", a.status)
	}
	if a := h.do("GET", "/api/v1/access/me", "", "Authorization: Bearer x", "Authorization: Bearer y"); a.status != 400 {
		t.Errorf("two tokens: %d", a.status)
	}
	for _, value := range []string{"Bearer x", "Basic YTpi", "Bearer " + strings.Repeat("x", 1000), "qlt_0123456789abcdef_" + strings.Repeat("A", 43)} {
		if a := h.do("GET", "/api/v1/access/me", "", "Authorization: "+value, "Cookie: "+cookie); a.status != 401 {
			t.Errorf("a token that is none, and a cookie that holds: %d", a.status)
		}
	}
	if a := h.do("GET", "/", "", "Cookie: a="+strings.Repeat("x", maxCookies)); a.status != 431 {
		t.Errorf("oversized cookies: %d", a.status)
	}
	if a := h.do("GET", "/api/v1/access/people", "", "X-Forwarded-User: ann", "X-Remote-User: ann", "X-Forwarded-For: 127.0.0.1"); a.status != 401 {
		t.Errorf("a name in a header: %d", a.status)
	}
}

// TestForwarded: X-Forwarded-For counts from proxies that were named alone, and of it only what they wrote.
func TestForwarded(t *testing.T) {
	for _, c := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:5", "10.9.9.9", "192.0.2.1"},
		{"10.0.0.1:5", "192.0.2.7", "192.0.2.7"},
		{"10.0.0.1:5", "203.0.113.1, 192.0.2.7", "192.0.2.7"},
		{"10.0.0.1:5", "203.0.113.1, 192.0.2.7, 10.0.0.2", "192.0.2.7"},
		{"10.0.0.1:5", "192.0.2.7, nonsense", "10.0.0.1"},
		{"10.0.0.1:5", "", "10.0.0.1"},
		{"[::ffff:10.0.0.1]:5", "2001:db8::1", "2001:db8::1"},
	} {
		a := &Access{opt: Options{Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
		r := &http.Request{RemoteAddr: c.remote, Header: http.Header{}}
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := a.remote(r).String(); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// TestForgery: what another site's page asks for in a browser that is logged in.
func TestForgery(t *testing.T) {
	h := open(t)
	_, cookie := h.person("olga", TrustCritical, "operator")
	for _, c := range []struct {
		method, path, headers string
		want                  int
	}{
		{"POST", "/api/v1/changes/pause", "Sec-Fetch-Site: same-origin", 200},
		{"POST", "/api/v1/changes/pause", "Sec-Fetch-Site: cross-site", 403},
		{"POST", "/api/v1/changes/pause", "Sec-Fetch-Site: same-site", 403},
		{"POST", "/api/v1/changes/pause", "Sec-Fetch-Site: none", 403},
		{"POST", "/api/v1/changes/pause", "Origin: https://evil.example", 403},
		{"POST", "/api/v1/changes/pause", "Origin: null", 403},
		{"POST", "/api/v1/changes/pause", "Origin: " + h.srv.URL, 200},
		{"POST", "/api/v1/changes/pause", "Sec-Fetch-Mode: cors", 403}, // no browser says neither
		{"GET", "/api/v1/changes", "Sec-Fetch-Site: cross-site", 403},
		{"GET", "/api/v1/changes", "Sec-Fetch-Site: cross-site|Sec-Fetch-Mode: navigate", 403},
		{"GET", "/findings", "Sec-Fetch-Site: cross-site|Sec-Fetch-Mode: navigate", 200},
		{"POST", "/logout", "Sec-Fetch-Site: cross-site", 403},
	} {
		if a := h.do(c.method, c.path, "{}", append([]string{"Cookie: " + cookie}, strings.Split(c.headers, "|")...)...); a.status != c.want {
			t.Errorf("%+v: %d %s", c, a.status, a.body)
		}
	}
}

// TestFixation: a session that was there before a login is not the one after it, and ends.
func TestFixation(t *testing.T) {
	h := open(t)
	_, planted := h.person("eve", TrustCritical, "reader")
	p, err := h.CreatePerson(t.Context(), "ann", nil)
	if err != nil {
		t.Fatal(err)
	}
	code, err := h.Link(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	a := h.do("GET", "/login?code="+code, "", "Cookie: "+planted)
	if set := a.header.Get("Set-Cookie"); set == "" || strings.HasPrefix(set, planted) {
		t.Fatalf("the session that was planted goes on: %q", set)
	}
	if a := h.do("GET", "/api/v1/access/me", "", "Cookie: "+planted); a.status != 401 {
		t.Errorf("the one before has not ended: %d", a.status)
	}
}

// TestCertificates: an agent's certificate sends its own service's profiles and does nothing else; one that names nobody, or what cannot be read, is
// refused.
func TestCertificates(t *testing.T) {
	var shown Certificate
	h := open(t, func(o *Options) { o.Certificates = func(*http.Request) Certificate { return shown } })
	by := func() (*Caller, error) { return h.byCertificate(&http.Request{Header: http.Header{}}) }
	shown = Certificate{Agent: true, Service: "checkout", Key: "0123456789abcdef"}
	c, err := by()
	if err != nil || c.Principal != "c-0123456789abcdef" || c.MFA || c.Person != "" {
		t.Fatalf("%+v, %v", c, err)
	}
	ctx := context.WithValue(t.Context(), callerKey{}, c)
	if err := h.Send(ctx, nil, "write", "checkout"); err != nil {
		t.Errorf("its own service: %v", err)
	}
	for _, service := range []string{"billing", ""} {
		if err := h.Send(ctx, nil, "write", service); err == nil {
			t.Errorf("it sends as %q", service)
		}
	}
	if _, err := h.Allow(ctx, false, []string{"checkout"}); err == nil {
		t.Error("it reads")
	}
	for _, bad := range []Certificate{{Agent: true}, {Agent: true, Broken: true, Service: "checkout"}, {Agent: true, Service: "a\nb"}, {Person: "nobody"}} {
		shown = bad
		if c, err := by(); err == nil {
			t.Errorf("%+v is %+v", bad, c)
		}
	}
	shown = Certificate{}
	if c, err := by(); c != nil || err != nil {
		t.Errorf("a certificate without a name: %+v, %v", c, err)
	}
}

// TestCompare: secrets are compared by their hashes, in a time that does not depend on them: two that differ in the first and in the last
// character are told apart by nothing but the answer. What is compared are digests, so that a prefix that is right brings nobody nearer.
func TestCompare(t *testing.T) {
	text, hash := newSecret(prefixToken, newID())
	if !hash.matches(text) {
		t.Fatal("a secret does not match itself")
	}
	for i := range text {
		other := []byte(text)
		other[i] ^= 1
		if hash.matches(string(other)) {
			t.Errorf("changed at %d it matches", i)
		}
	}
	if hash.matches("") || hash.matches(text+"x") || (secretHash{}).matches("") {
		t.Error("what is no secret matches")
	}
}

// TestFlood: wrong credentials of one address are bounded, in what they cost and in what they fill the log with; others come in.
func TestFlood(t *testing.T) {
	h := open(t)
	_, cookie := h.person("ann", TrustCritical, "reader")
	last := 0
	for range failuresPerMinute + 10 {
		last = h.do("GET", "/api/v1/findings", "", "Authorization: Bearer nonsense").status
	}
	if last != http.StatusTooManyRequests || len(h.events) > failuresPerMinute {
		t.Errorf("the last is answered %d, %d are recorded", last, len(h.events))
	}
	if a := h.do("GET", "/api/v1/findings", "", "Cookie: "+cookie); a.status != 200 {
		t.Errorf("who is known is refused with them: %d", a.status)
	}
	h.clock.Add(int64(time.Minute))
	if a := h.do("GET", "/api/v1/findings", "", "Authorization: Bearer nonsense"); a.status != 401 {
		t.Errorf("a minute later: %d", a.status)
	}
	f := newFailures(h.now)
	for i := range maxFailing + 100 {
		f.take(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if len(f.all) > maxFailing {
		t.Errorf("%d addresses are remembered", len(f.all))
	}
}

// TestRateOfOne: 100 requests a minute for a person, then 429 with when to come again.
func TestRateOfOne(t *testing.T) {
	h := open(t)
	_, cookie := h.person("ann", TrustCritical, "reader")
	var a answer
	for range 102 {
		if a = h.do("GET", "/api/v1/findings", "", "Cookie: "+cookie); a.status != 200 {
			break
		}
	}
	if a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") != "1" || a.code != "resource_exhausted" {
		t.Errorf("%d %s %s", a.status, a.header.Get("Retry-After"), a.body)
	}
}

// TestResources: the name of a service is one part of a path, whatever it is.
func TestResources(t *testing.T) {
	h := open(t)
	c := &Caller{Principal: "p-1", Kind: "person", Grants: []Grant{{Role: "reader"}}, Trust: TrustVerified}
	ctx := context.WithValue(t.Context(), callerKey{}, c)
	for _, name := range []string{"..", ".", "a/b", "a//b", " ", "ü", "a\x7f", "%2e", strings.Repeat("/", 2048)} {
		if s := Segment(name); s == "." || s == ".." || strings.ContainsAny(s, "/ \x7f") || len(s) > 256 {
			t.Errorf("%.20q is the segment %q", name, s)
		}
		if _, err := h.Allow(ctx, false, []string{name}); err != nil {
			t.Errorf("%.20q: %v", name, err)
		}
	}
	if Segment("a%2Fb") == Segment("a/b") {
		t.Error("two services have one name")
	}
}

// FuzzSecret: no text that is not exactly a secret of its kind has an id.
func FuzzSecret(f *testing.F) {
	for _, prefix := range []string{prefixToken, prefixSession, prefixLink, prefixEnrol} {
		text, _ := newSecret(prefix, newID())
		f.Add(text)
		f.Add(text[:len(text)-1])
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := parseSecret(prefixToken, text)
		if err == nil && (len(id) != 16 || len(text) != 4+16+1+43 || !strings.HasPrefix(text, "qlt_"+id+"_")) {
			t.Errorf("%q has the id %q", text, id)
		}
	})
}
