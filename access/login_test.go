package access

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/access/oidc"
	"github.com/quantra-l/quantra/access/oidc/oidctest"
)

const loginRedirect = "http://127.0.0.1:4040" + oidc.CallbackPath

// withProvider is a house that people come into by a real provider.
func withProvider(t *testing.T, rules ...oidc.Rule) (*house, *oidctest.Issuer) {
	t.Helper()
	i := oidctest.Start(t, loginRedirect)
	var h *house
	p, err := oidc.New(oidc.Options{
		Config: oidc.Config{Issuer: i.URL, ClientID: oidctest.ClientID, Redirect: loginRedirect, Groups: "groups", MFA: []string{"mfa"}, Session: oidc.DefaultSession, Keep: 48 * time.Hour, Rules: rules},
		Secret: func() (string, error) { return oidctest.Secret, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	h = open(t, func(o *Options) { o.Provider = p })
	return h, i
}

// begin is the cookie of a login that a browser has begun, and where the provider sends it back to.
func begun(t *testing.T, h *house, i *oidctest.Issuer, user string) (cookie string, back *url.URL) {
	t.Helper()
	a := h.do("GET", ProviderPath, "")
	cookie, _, _ = strings.Cut(a.header.Get("Set-Cookie"), ";")
	if a.status != http.StatusSeeOther || !strings.HasPrefix(cookie, "quantra_login4040=") || !strings.Contains(a.header.Get("Set-Cookie"), "HttpOnly; SameSite=Lax") {
		t.Fatalf("%d %s %q", a.status, a.body, a.header.Get("Set-Cookie"))
	}
	return cookie, i.Browse(t, a.header.Get("Location"), user)
}

// comesBack is how the browser's return is answered: the session's cookie, "" for none, and where it is sent.
func comesBack(h *house, cookie string, back *url.URL) (session, to string) {
	h.t.Helper()
	a := h.do("GET", back.RequestURI(), "", "Cookie: "+cookie, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate")
	for _, c := range a.header.Values("Set-Cookie") {
		if name, _, _ := strings.Cut(c, ";"); strings.HasPrefix(name, h.cookieName()+"=qls_") {
			session = name
		}
	}
	return session, a.header.Get("Location")
}

func logsIn(t *testing.T, h *house, i *oidctest.Issuer, user string) (session, to string) {
	t.Helper()
	cookie, back := begun(t, h, i, user)
	return comesBack(h, cookie, back)
}

// TestProvider: somebody whom the provider knows comes in with the roles of her groups, for as long as the provider says so.
func TestProvider(t *testing.T) {
	h, i := withProvider(t, oidc.Rule{Group: "sre", Give: []string{"analyst", "operator:checkout"}}, oidc.Rule{Domain: "example.com", Give: []string{"reader"}})
	i.Users["ann"] = &oidctest.User{Email: "Ann@example.com", Groups: []string{"sre"}}
	session, to := logsIn(t, h, i, "ann")
	if session == "" || to != "/" {
		t.Fatalf("%q to %q; recorded %+v", session, to, h.events)
	}
	me := h.do("GET", "/api/v1/access/me", "", "Cookie: "+session)
	for _, want := range []string{`"name":"ann@example.com"`, `"how":"provider"`, `"level":"verified"`, `"mfa":false`, `"service":"checkout"`, `"analyst"`, `"reader"`} {
		if !strings.Contains(me.body, want) {
			t.Errorf("she is %s: no %s", me.body, want)
		}
	}
	if a := h.do("GET", "/api/v1/findings", "", "Cookie: "+session); a.status != 200 {
		t.Errorf("findings: %d %s", a.status, a.body)
	}
	if a := h.do("POST", "/api/v1/changes", `{"service":"checkout"}`, "Cookie: "+session); a.status != 403 || !strings.Contains(a.message, "second factor") {
		t.Errorf("a change without a second factor: %d %s", a.status, a.body)
	}
	p, err := h.Find(t.Context(), "ann@example.com")
	if err != nil {
		t.Fatal(err)
	}

	// With the provider's second factor; the group is gone, and so is what it gave, also from the session before.
	i.Lock()
	i.Users["ann"].AMR, i.Users["ann"].Groups = []string{"mfa"}, []string{}
	i.Unlock()
	second, _ := logsIn(t, h, i, "ann")
	if me := h.do("GET", "/api/v1/access/me", "", "Cookie: "+second); !strings.Contains(me.body, `"mfa":true`) || !strings.Contains(me.body, `"level":"critical"`) || strings.Contains(me.body, "analyst") || !strings.Contains(me.body, p.ID) {
		t.Errorf("the second time she is %s", me.body)
	}
	if me := h.do("GET", "/api/v1/access/me", "", "Cookie: "+session); strings.Contains(me.body, "analyst") {
		t.Errorf("what the group gave is still there: %s", me.body)
	}

	// Her address is another now: she is who she was. The session ends when the file says.
	i.Lock()
	i.Users["ann"].Email = "ann.smith@example.com"
	i.Unlock()
	third, _ := logsIn(t, h, i, "ann")
	if me := h.do("GET", "/api/v1/access/me", "", "Cookie: "+third); !strings.Contains(me.body, p.ID) {
		t.Errorf("with another address she is %s", me.body)
	}
	out := h.do("POST", "/logout", "", "Cookie: "+third, "Sec-Fetch-Site: same-origin")
	if !strings.Contains(out.body, i.URL) {
		t.Errorf("logging out does not say where the provider's session ends: %s", out.body)
	}
	h.clock.Add(int64(oidc.DefaultSession))
	if a := h.do("GET", "/api/v1/access/me", "", "Cookie: "+second); a.status != 401 {
		t.Errorf("after its time: %d", a.status)
	}
}

// TestProviderKeeps: what the provider gave holds for tokens as long as the file says, and no longer.
func TestProviderKeeps(t *testing.T) {
	h, i := withProvider(t, oidc.Rule{All: true, Give: []string{"reader"}})
	i.Users["bob"] = &oidctest.User{Email: "bob@example.com"}
	session, _ := logsIn(t, h, i, "bob")
	made := h.do("POST", "/api/v1/access/tokens", `{"name":"ci","grants":["reader"]}`, "Cookie: "+session)
	_, rest, ok := strings.Cut(made.body, `"secret":"`)
	secret, _, _ := strings.Cut(rest, `"`)
	if !ok {
		t.Fatal(made.body)
	}
	if a := h.do("GET", "/api/v1/findings", "", "Authorization: Bearer "+secret); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	h.clock.Add(int64(49 * time.Hour))
	if a := h.do("GET", "/api/v1/findings", "", "Authorization: Bearer "+secret); a.status != 403 {
		t.Errorf("49 h after the last login: %d %s", a.status, a.body)
	}
}

// TestProviderRefuses: who has no role, whose address is another's, or who is blocked is not let in, and the log says why.
func TestProviderRefuses(t *testing.T) {
	h, i := withProvider(t, oidc.Rule{Group: "sre", Give: []string{"reader"}})
	i.Users["eve"] = &oidctest.User{Email: "eve@example.com"}
	i.Users["ann"] = &oidctest.User{Email: "ann@example.com"}
	i.Users["mallory"] = &oidctest.User{Email: "ann@example.com", Groups: []string{"sre"}}
	i.Users["trudy"] = &oidctest.User{Email: "owner@example.com", Unverified: true, Groups: []string{"sre"}}
	if session, to := logsIn(t, h, i, "eve"); session != "" || to != "/?login=norole" || !h.recorded("nobody has given a role") {
		t.Errorf("without a role: %q, %q", session, to)
	}
	if _, err := h.Find(t.Context(), "eve@example.com"); err == nil {
		t.Error("somebody without a role is a person now")
	}
	// An admin has made ann a person before: she is it at her first login, and nobody else is.
	admin, err := h.CreatePerson(t.Context(), "ann@example.com", []Grant{{Role: "analyst"}})
	if err != nil {
		t.Fatal(err)
	}
	session, _ := logsIn(t, h, i, "ann")
	if me := h.do("GET", "/api/v1/access/me", "", "Cookie: "+session); !strings.Contains(me.body, admin.ID) || !strings.Contains(me.body, "analyst") {
		t.Errorf("she is not whom the admin has made: %s", me.body)
	}
	if session, to := logsIn(t, h, i, "mallory"); session != "" || to != "/?login=refused" || !h.recorded("is that of another account") {
		t.Errorf("the address of another: %q, %q", session, to)
	}
	// An address that the provider has not verified is no name of anybody's.
	if _, err := h.CreatePerson(t.Context(), "owner@example.com", []Grant{{Role: "admin"}}); err != nil {
		t.Fatal(err)
	}
	session, _ = logsIn(t, h, i, "trudy")
	if me := h.do("GET", "/api/v1/access/me", "", "Cookie: "+session); strings.Contains(me.body, `"role":"admin"`) || !strings.Contains(me.body, "trudy at 127.0.0.1") {
		t.Errorf("an address that is not verified: %s", me.body)
	}
	if _, err := h.changePerson(t.Context(), admin.ID, func(p *Person) error { p.Blocked = true; return nil }); err != nil {
		t.Fatal(err)
	}
	if session, to := logsIn(t, h, i, "ann"); session != "" || to != "/?login=refused" {
		t.Errorf("who is blocked: %q, %q", session, to)
	}
	if err := h.RemovePerson(t.Context(), admin.ID); err != nil {
		t.Fatal(err)
	}
	if session, to := logsIn(t, h, i, "mallory"); session == "" {
		t.Errorf("the address is free again: %q", to)
	}
	for _, e := range h.events {
		if strings.Contains(e.Reason, "example.com") || strings.Contains(e.Principal, "example.com") {
			t.Errorf("an address stands in the record: %+v", e)
		}
	}
}

// TestProviderAttacks: logins that another began, twice, or without the cookie; a session that was planted before; a provider that is away.
func TestProviderAttacks(t *testing.T) {
	h, i := withProvider(t, oidc.Rule{All: true, Give: []string{"reader"}})
	i.Users["ann"], i.Users["eve"] = &oidctest.User{Email: "ann@example.com"}, &oidctest.User{Email: "eve@example.com"}
	_, planted := h.person("someone", TrustCritical, "reader")

	// Eve begins, and has ann's browser end it: it has no cookie of eve's login, or one of its own.
	_, back := begun(t, h, i, "eve")
	own, _ := begun(t, h, i, "ann")
	for what, cookie := range map[string]string{"no cookie": "a=b", "her own": own, "noise": "quantra_login4040=x", "two": own + "; " + own} {
		if session, to := comesBack(h, cookie, back); session != "" || to != "/?login=refused" {
			t.Errorf("a login of another browser, with %s: %q, %q", what, session, to)
		}
	}
	cookie, back := begun(t, h, i, "ann")
	session, _ := comesBack(h, cookie+"; "+planted, back)
	if session == "" || strings.HasPrefix(session, planted) {
		t.Fatalf("%q", session)
	}
	if a := h.do("GET", "/api/v1/access/me", "", "Cookie: "+planted); a.status != 401 {
		t.Errorf("the session that was planted goes on: %d", a.status)
	}
	if again, to := comesBack(h, cookie, back); again != "" || to != "/?login=refused" {
		t.Errorf("the same once more: %q, %q", again, to)
	}
	i.Lock()
	i.Answer = func(w http.ResponseWriter, r *http.Request) bool {
		http.Error(w, "away", http.StatusServiceUnavailable)
		return true
	}
	i.Unlock()
	a := h.do("GET", ProviderPath, "") // what is known of it is: the browser is sent there
	if a.status != http.StatusSeeOther {
		t.Errorf("%d", a.status)
	}
	if session, to := comesBack(h, cookie, back); session != "" || to != "/?login=away" {
		t.Errorf("a provider that is away: %q, %q", session, to)
	}
	none := open(t)
	for _, path := range []string{ProviderPath, oidc.CallbackPath} {
		if a := none.do("GET", path, ""); a.status != 404 || a.code != "not_found" {
			t.Errorf("without a provider: %d %s", a.status, a.body)
		}
	}
	if a := h.do("GET", "/api/v1/access/login", ""); !strings.Contains(a.body, `"provider":"127.0.0.1:`) {
		t.Error(a.body)
	}
	if a := none.do("GET", "/api/v1/access/login", ""); a.body != "{}\n" {
		t.Error(a.body)
	}
}
