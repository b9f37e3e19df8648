package oidc_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quantra-l/quantra/access/oidc"
	"github.com/quantra-l/quantra/access/oidc/oidctest"
)

const redirect = "http://127.0.0.1:4040" + oidc.CallbackPath

// provider is one that believes a real issuer, and a clock that is set by a test, ahead of the real one.
func provider(t *testing.T, change ...func(*oidc.Options)) (*oidctest.Issuer, *oidc.Provider, *atomic.Int64) {
	t.Helper()
	i := oidctest.Start(t, redirect)
	i.Users["ann"] = &oidctest.User{Email: "ann@example.com", Groups: []string{"sre", "payments"}}
	ahead := new(atomic.Int64)
	o := oidc.Options{
		Config: oidc.Config{Issuer: i.URL, ClientID: oidctest.ClientID, Redirect: redirect, Groups: "groups", MFA: []string{"mfa"}},
		Secret: func() (string, error) { return oidctest.Secret, nil },
		Now:    func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	}
	for _, c := range change {
		c(&o)
	}
	p, err := oidc.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return i, p, ahead
}

// login logs somebody in, as a browser would.
func login(t *testing.T, i *oidctest.Issuer, p *oidc.Provider, user string) (*oidc.Who, error) {
	t.Helper()
	f := oidc.NewFlow()
	to, err := p.Begin(t.Context(), f)
	if err != nil {
		return nil, err
	}
	return p.Finish(t.Context(), f, i.Browse(t, to, user).Query())
}

func TestLogin(t *testing.T) {
	i, p, _ := provider(t)
	w, err := login(t, i, p, "ann")
	if err != nil {
		t.Fatal(err)
	}
	if w.Issuer != i.URL || w.Subject != "ann" || w.Email != "ann@example.com" || !w.EmailVerified || strings.Join(w.Groups, " ") != "sre payments" || w.MFA {
		t.Errorf("%+v", w)
	}
	i.Lock()
	i.Users["ann"].AMR, i.Users["ann"].Unverified = []string{"pwd", "mfa"}, true
	i.Unlock()
	if w, err = login(t, i, p, "ann"); err != nil || !w.MFA || w.EmailVerified {
		t.Errorf("%+v, %v", w, err)
	}
	if out, err := url.Parse(p.Logout()); err != nil || !strings.HasPrefix(out.String(), i.URL) || out.Query().Get("client_id") != oidctest.ClientID || out.Query().Get("post_logout_redirect_uri") != "http://127.0.0.1:4040/" {
		t.Errorf("%v, %v", out, err)
	}
}

// TestReply: what a redirect brings is an answer to this login, whole, once.
func TestReply(t *testing.T) {
	i, p, _ := provider(t)
	f := oidc.NewFlow()
	to, err := p.Begin(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	good := i.Browse(t, to, "ann").Query()
	for what, change := range map[string]func(url.Values){
		"another state":      func(q url.Values) { q.Set("state", oidc.NewFlow().State()) },
		"no state":           func(q url.Values) { q.Del("state") },
		"two states":         func(q url.Values) { q.Add("state", q.Get("state")) },
		"no code":            func(q url.Values) { q.Del("code") },
		"two codes":          func(q url.Values) { q.Add("code", "x") },
		"another code":       func(q url.Values) { q.Set("code", "x") },
		"a long code":        func(q url.Values) { q.Set("code", strings.Repeat("x", 5000)) },
		"another issuer":     func(q url.Values) { q.Set("iss", "https://evil.example") },
		"the provider's no":  func(q url.Values) { q.Set("error", "access_denied") },
		"code and a refusal": func(q url.Values) { q.Set("error", "x") },
	} {
		q, _ := url.ParseQuery(good.Encode())
		change(q)
		if w, err := p.Finish(t.Context(), f, q); !errors.Is(err, oidc.ErrDenied) {
			t.Errorf("%s: %+v, %v", what, w, err)
		}
	}
	// The code of one browser in another: its own state, and PKCE's verifier is another.
	other := oidc.NewFlow()
	stolen, _ := url.ParseQuery(good.Encode())
	stolen.Set("state", other.State())
	if w, err := p.Finish(t.Context(), other, stolen); !errors.Is(err, oidc.ErrDenied) {
		t.Errorf("a stolen code: %+v, %v", w, err)
	}
	// The provider has seen a wrong verifier, and may have dropped the code: begin anew.
	w, err := login(t, i, p, "ann")
	if err != nil || w.Subject != "ann" {
		t.Fatalf("%+v, %v", w, err)
	}
	f = oidc.NewFlow()
	if to, err = p.Begin(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	back := i.Browse(t, to, "ann").Query()
	if _, err := p.Finish(t.Context(), f, back); err != nil {
		t.Fatal(err)
	}
	if w, err := p.Finish(t.Context(), f, back); !errors.Is(err, oidc.ErrDenied) {
		t.Errorf("a code that was used: %+v, %v", w, err)
	}
}

// TestIDToken: an ID token that is not one for this login is refused, whoever signed it.
func TestIDToken(t *testing.T) {
	i, p, _ := provider(t)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString
	past, future := time.Now().Add(-10*time.Minute).Unix(), time.Now().Add(10*time.Minute).Unix()
	for what, c := range map[string]struct {
		tamper func(map[string]any)
		sign   func([]byte) string
		want   string // "" is that it is taken
	}{
		"as it is":             {func(map[string]any) {}, nil, ""},
		"another nonce":        {func(c map[string]any) { c["nonce"] = "x" }, nil, "nonce"},
		"no nonce":             {func(c map[string]any) { delete(c, "nonce") }, nil, "nonce"},
		"another audience":     {func(c map[string]any) { c["aud"] = "other"; delete(c, "azp") }, nil, "audience"},
		"two audiences":        {func(c map[string]any) { c["aud"] = []string{oidctest.ClientID, "other"}; delete(c, "azp") }, nil, "another client"},
		"two and azp":          {func(c map[string]any) { c["aud"] = []string{oidctest.ClientID, "other"}; c["azp"] = "other" }, nil, "another client"},
		"two, for us":          {func(c map[string]any) { c["aud"] = []string{oidctest.ClientID, "other"}; c["azp"] = oidctest.ClientID }, nil, ""},
		"another issuer":       {func(c map[string]any) { c["iss"] = "https://evil.example" }, nil, "issue"},
		"expired":              {func(c map[string]any) { c["exp"] = past }, nil, "expired"},
		"expired a minute ago": {func(c map[string]any) { c["exp"] = time.Now().Add(-time.Minute).Unix() }, nil, ""}, // clocks differ
		"of the future":        {func(c map[string]any) { c["iat"] = future }, nil, "set the clocks"},
		"not yet":              {func(c map[string]any) { c["nbf"] = future }, nil, "before the nbf"},
		"another access token": {func(c map[string]any) { c["at_hash"] = text(make([]byte, 16)) }, nil, "hash"},
		"no subject":           {func(c map[string]any) { c["sub"] = "" }, nil, ""},
		"a long subject": {func(c map[string]any) {
			c["sub"] = strings.Repeat("x", 300)
			c["email"] = "a@b.example"
			c["groups"] = []string{}
		}, nil, "subject has 300"},
		"groups are a number": {func(c map[string]any) { c["groups"] = 7 }, nil, "neither a text"},
		"too many groups":     {func(c map[string]any) { c["groups"] = make([]string, 3000) }, nil, "3000 groups"},
		"a stranger's key":    {nil, func(b []byte) string { return oidctest.SignES256(b, stranger, "1") }, "signature"},
		"no key":              {nil, func(b []byte) string { return text([]byte(`{"alg":"none"}`)) + "." + text(b) + "." }, "alg"},
		"the secret as a key": {nil, func(b []byte) string {
			return text([]byte(`{"alg":"HS256","kid":"1"}`)) + "." + text(b) + "." + text(make([]byte, 32))
		}, "alg"},
		"no token":   {nil, func([]byte) string { return "" }, "no ID token"},
		"a long one": {nil, func([]byte) string { return strings.Repeat("x", 100<<10) }, "no ID token"},
		"noise":      {nil, func([]byte) string { return "x.y.z" }, "ID token"},
	} {
		i.Lock()
		i.Tamper, i.Sign = c.tamper, c.sign
		i.Unlock()
		w, err := login(t, i, p, "ann")
		switch {
		case what == "no subject":
			if err == nil {
				t.Errorf("%s: %+v", what, w)
			}
		case c.want == "" && err != nil, c.want != "" && (!errors.Is(err, oidc.ErrDenied) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %+v, %v", what, w, err)
		}
	}
}

// TestRotation: a key that the provider has not signed with before is asked for.
func TestRotation(t *testing.T) {
	i, p, _ := provider(t)
	for range 3 {
		if w, err := login(t, i, p, "ann"); err != nil {
			t.Fatalf("%+v, %v", w, err)
		}
		i.RotateKey()
	}
}

// TestAway: a provider that does not answer is named, is not asked again at once, and logs people in again when it is back. What it says is
// bounded.
func TestAway(t *testing.T) {
	i, p, ahead := provider(t)
	down := func(answer func(http.ResponseWriter, *http.Request) bool) {
		i.Lock()
		i.Answer = answer
		i.Unlock()
	}
	fail := func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "no", http.StatusBadGateway)
		return true
	}
	const discovery = "/.well-known/openid-configuration"
	down(fail)
	for range 3 {
		if _, err := login(t, i, p, "ann"); !errors.Is(err, oidc.ErrUnavailable) || !strings.Contains(err.Error(), i.URL) {
			t.Fatal(err)
		}
	}
	if n := i.Requests(discovery); n != 1 {
		t.Errorf("it was asked %d times in a moment", n)
	}
	ahead.Add(int64(10 * time.Second))
	down(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "application/json")
		chunk := []byte(strings.Repeat(" ", 1<<16))
		for range 64 {
			if _, err := w.Write(chunk); err != nil {
				break
			}
		}
		return true
	})
	if _, err := login(t, i, p, "ann"); !errors.Is(err, oidc.ErrUnavailable) || !strings.Contains(err.Error(), "too large") {
		t.Errorf("an endless answer: %v", err)
	}
	ahead.Add(int64(10 * time.Second))
	down(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		return true
	})
	if _, err := login(t, i, p, "ann"); !errors.Is(err, oidc.ErrUnavailable) {
		t.Errorf("a provider that is elsewhere: %v", err)
	}
	ahead.Store(0)
	down(nil)
	i2, p2, ahead := provider(t)
	i, p = i2, p2
	if _, err := login(t, i, p, "ann"); err != nil {
		t.Fatal(err)
	}
	// What is known goes on where only the document is away; a token endpoint that is away is said.
	f := oidc.NewFlow()
	to, err := p.Begin(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	back := i.Browse(t, to, "ann").Query()
	down(func(w http.ResponseWriter, r *http.Request) bool {
		return strings.HasSuffix(r.URL.Path, "/token") && fail(w, r)
	})
	if _, err := p.Finish(t.Context(), f, back); !errors.Is(err, oidc.ErrUnavailable) {
		t.Errorf("a token endpoint that is away: %v", err)
	}
	down(func(w http.ResponseWriter, r *http.Request) bool {
		return strings.HasSuffix(r.URL.Path, "/keys") && fail(w, r)
	})
	i.RotateKey()
	if _, err := login(t, i, p, "ann"); !errors.Is(err, oidc.ErrUnavailable) {
		t.Errorf("keys that are away: %v", err)
	}
	down(func(w http.ResponseWriter, r *http.Request) bool { return r.URL.Path == discovery && fail(w, r) })
	ahead.Store(int64(61 * time.Minute))
	asked := i.Requests(discovery)
	for range 2 {
		if to, err := p.Begin(t.Context(), f); err != nil || !strings.HasPrefix(to, i.URL) || i.Requests(discovery) != asked+1 {
			t.Errorf("with what was known: %q, %v, asked %d times", to, err, i.Requests(discovery)-asked)
		}
	}
}

// TestOtherUser: userinfo that speaks of somebody else is nobody's.
func TestOtherUser(t *testing.T) {
	i, p, _ := provider(t)
	i.Answer = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/userinfo") {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"sub":"root","email":"root@example.com","email_verified":true,"groups":["admins"]}`))
		return true
	}
	if w, err := login(t, i, p, "ann"); !errors.Is(err, oidc.ErrDenied) {
		t.Errorf("%+v, %v", w, err)
	}
}

func TestSecretAway(t *testing.T) {
	i, p, _ := provider(t, func(o *oidc.Options) { o.Secret = func() (string, error) { return "", errors.New("no such file") } })
	if w, err := login(t, i, p, "ann"); !errors.Is(err, oidc.ErrUnavailable) {
		t.Errorf("%+v, %v", w, err)
	}
	i, p, _ = provider(t, func(o *oidc.Options) { o.Secret = func() (string, error) { return "wrong", nil } })
	if w, err := login(t, i, p, "ann"); !errors.Is(err, oidc.ErrDenied) {
		t.Errorf("%+v, %v", w, err)
	}
	for in, ok := range map[string]bool{"s\n": true, "": false, "a\nb": false, strings.Repeat("x", 5000): false} {
		if _, err := oidc.ReadSecret(strings.NewReader(in)); (err == nil) != ok {
			t.Errorf("%.10q: %v", in, err)
		}
	}
}

// TestFlow: what the provider sees of a login does not tell the browser's secret, and two logins share nothing.
func TestFlow(t *testing.T) {
	f := oidc.NewFlow()
	again, err := oidc.ParseFlow(f.Secret())
	if err != nil || again != f || again.State() != f.State() || f.State() == oidc.NewFlow().State() || f.State() == f.Secret() {
		t.Error(err)
	}
	for _, s := range []string{"", "x", f.Secret() + "A", f.Secret()[:42], strings.Repeat("é", 30)} {
		if _, err := oidc.ParseFlow(s); !errors.Is(err, oidc.ErrDenied) {
			t.Errorf("%q: %v", s, err)
		}
	}
}
