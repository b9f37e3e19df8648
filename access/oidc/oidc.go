// Package oidc logs people in by an OpenID provider: the authorization code flow with PKCE, state and nonce. It knows what the provider says of
// somebody and what a file gives such a one; sessions are its importer's. It fences go-oidc and oauth2.
//
// What must hold: OpenID Connect Core 1.0, 3.1; RFC 7636 (PKCE); RFC 9207 (iss); RFC 9700 (best current practice).
package oidc

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// The words a caller branches on; the text says what and where.
var (
	ErrUnavailable = errors.New("the identity provider is unavailable") // it does not answer, or not as it must
	ErrDenied      = errors.New("the login is denied")                  // what came back is not a login
)

// CallbackPath is where the provider sends people back to.
const CallbackPath = "/login/callback"

// Times and bounds.
const (
	// FlowTTL is how long somebody may take at the provider.
	FlowTTL = 10 * time.Minute
	// skew is how far the provider's clock may be from ours.
	skew = 2 * time.Minute
	// askTimeout bounds each question to the provider, maxAnswer its answer in bytes.
	askTimeout = 10 * time.Second
	maxAnswer  = 1 << 20
	// A provider that did not answer is left alone for retryAfter; what it says of itself is asked again after freshFor.
	retryAfter = 5 * time.Second
	freshFor   = time.Hour
	maxCode    = 4 << 10
	maxIDToken = 64 << 10
)

// algorithms are those that an ID token may be signed by: none that need a secret, and not none.
var algorithms = []string{gooidc.RS256, gooidc.RS384, gooidc.RS512, gooidc.ES256, gooidc.ES384, gooidc.PS256, gooidc.PS384, gooidc.PS512, gooidc.EdDSA}

// Options are a provider's beside its file.
type Options struct {
	Config
	// Secret is the client's, asked for at each login so that it can be replaced; nil, or "", is a public client.
	Secret func() (string, error)
	CAs    *x509.CertPool   // nil is the system's
	Now    func() time.Time // nil is time.Now
}

// Provider is an OpenID provider. It is asked for the first time when somebody logs in, so that a server starts without it.
type Provider struct {
	o      Options
	client *http.Client

	mu    sync.Mutex
	known *known
	at    time.Time // when it was asked last
	err   error     // of that
}

// known is what a provider says of itself.
type known struct {
	provider *gooidc.Provider
	verifier *gooidc.IDTokenVerifier
	said     struct {
		EndSession string `json:"end_session_endpoint"`
		UserInfo   string `json:"userinfo_endpoint"`
		IssInReply bool   `json:"authorization_response_iss_parameter_supported"`
	}
}

// New makes a provider. Redirect must be set.
func New(o Options) (*Provider, error) {
	if o.Issuer == "" || o.ClientID == "" || o.Redirect == "" {
		return nil, errors.New("oidc: Options: Issuer, ClientID and Redirect are needed")
	}
	if err := errors.Join(checkURL(o.Issuer), checkURL(o.Redirect)); err != nil {
		return nil, fmt.Errorf("oidc: %w", err)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.CAs}
	return &Provider{o: o, client: &http.Client{
		Transport: bounded{t}, Timeout: askTimeout,
		// A provider is where its file says. It sends nobody's secrets elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// bounded cuts off answers that are longer than they may be.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.next.RoundTrip(r)
	if err == nil {
		res.Body = http.MaxBytesReader(nil, res.Body, maxAnswer)
	}
	return res, err
}

// Issuer is the provider's name.
func (p *Provider) Issuer() string { return p.o.Issuer }

// Config is what its file says.
func (p *Provider) Config() *Config { return &p.o.Config }

// discover is what the provider says of itself, asked at most every few seconds. What was known goes on where it does not answer.
func (p *Provider) discover(ctx context.Context) (*known, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	age := now.Sub(p.at)
	switch {
	case p.known != nil && age < freshFor:
		return p.known, nil
	case p.err != nil && age < retryAfter:
		return nil, p.err
	}
	// Those who come meanwhile wait for this answer: it is not to end with the one who asks.
	ctx, cancel := context.WithTimeout(gooidc.ClientContext(context.WithoutCancel(ctx), p.client), askTimeout)
	defer cancel()
	provider, err := gooidc.NewProvider(ctx, p.o.Issuer)
	k := &known{provider: provider}
	if err == nil {
		err = provider.Claims(&k.said)
	}
	if err == nil {
		end := provider.Endpoint()
		err = errors.Join(checkEndpoint("authorization_endpoint", end.AuthURL), checkEndpoint("token_endpoint", end.TokenURL))
	}
	p.at = now
	if err != nil {
		p.err = fmt.Errorf("%w: %s: %w", ErrUnavailable, p.o.Issuer, err)
		if p.known != nil {
			p.at = now.Add(retryAfter - freshFor) // what is known goes on, and it is asked again soon
			return p.known, nil
		}
		return nil, p.err
	}
	k.verifier = provider.Verifier(&gooidc.Config{ClientID: p.o.ClientID, SupportedSigningAlgs: algorithms, Now: func() time.Time { return p.o.Now().Add(-skew) }})
	p.known, p.err = k, nil
	return k, nil
}

// checkEndpoint is checkURL for an address that may have a query.
func checkEndpoint(name, s string) error {
	bare, _, _ := strings.Cut(s, "?")
	if err := checkURL(bare); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Flow is one login under way. Its secret is the browser's alone, in a cookie: state, nonce and PKCE's verifier follow from it, so nothing of a
// login is kept here before it is one.
type Flow struct{ secret [32]byte }

// NewFlow begins a login.
func NewFlow() (f Flow) {
	rand.Read(f.secret[:]) // never fails: crypto/rand ends the program first
	return f
}

// ParseFlow reads [Flow.Secret].
func ParseFlow(text string) (f Flow, err error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != len(f.secret) {
		return f, fmt.Errorf("%w: the cookie of the login is not one of ours", ErrDenied)
	}
	copy(f.secret[:], b)
	return f, nil
}

// Secret is what the browser keeps.
func (f Flow) Secret() string { return base64.RawURLEncoding.EncodeToString(f.secret[:]) }

// State names the login towards the provider, and tells nothing of the secret.
func (f Flow) State() string { return f.derive("state") }

// derive is 43 characters of base64url, as RFC 7636, 4.1, wants at least of a verifier.
func (f Flow) derive(what string) string {
	h := hmac.New(sha256.New, f.secret[:])
	h.Write([]byte("quantra oidc v1 " + what))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Begin is where a browser is sent.
func (p *Provider) Begin(ctx context.Context, f Flow) (string, error) {
	k, err := p.discover(ctx)
	if err != nil {
		return "", err
	}
	return p.oauth(k, "").AuthCodeURL(f.State(), gooidc.Nonce(f.derive("nonce")), oauth2.S256ChallengeOption(f.derive("verifier"))), nil
}

func (p *Provider) oauth(k *known, secret string) *oauth2.Config {
	scopes := append([]string{gooidc.ScopeOpenID, gooidc.ScopeEmail, gooidc.ScopeProfile}, p.o.Scopes...)
	return &oauth2.Config{ClientID: p.o.ClientID, ClientSecret: secret, Endpoint: k.provider.Endpoint(), RedirectURL: p.o.Redirect, Scopes: scopes}
}

// Finish is who has logged in, by what the provider's redirect brought. Errors are [ErrDenied] or [ErrUnavailable].
func (p *Provider) Finish(ctx context.Context, f Flow, q url.Values) (*Who, error) {
	k, err := p.discover(ctx)
	if err != nil {
		return nil, err
	}
	code, err := p.reply(k, f, q)
	if err != nil {
		return nil, err
	}
	secret := ""
	if p.o.Secret != nil {
		if secret, err = p.o.Secret(); err != nil {
			return nil, fmt.Errorf("%w: the client's secret: %w", ErrUnavailable, err)
		}
	}
	ctx, cancel := context.WithTimeout(gooidc.ClientContext(ctx, p.client), 2*askTimeout)
	defer cancel()
	token, err := p.oauth(k, secret).Exchange(ctx, code, oauth2.VerifierOption(f.derive("verifier")))
	if err != nil {
		return nil, exchangeError(err)
	}
	raw, _ := token.Extra("id_token").(string)
	if raw == "" || len(raw) > maxIDToken {
		return nil, fmt.Errorf("%w: the provider's answer has no ID token, or one of more than %d bytes", ErrDenied, maxIDToken)
	}
	id, err := k.verifier.Verify(ctx, raw)
	if err != nil {
		if ctx.Err() != nil || strings.Contains(err.Error(), "fetching keys") {
			return nil, fmt.Errorf("%w: its keys: %w", ErrUnavailable, err)
		}
		return nil, fmt.Errorf("%w: the ID token: %w", ErrDenied, err)
	}
	if err := p.check(id, f, token.AccessToken); err != nil {
		return nil, fmt.Errorf("%w: the ID token: %w", ErrDenied, err)
	}
	return p.who(ctx, k, id, token)
}

// reply is the code of a redirect that answers this login.
func (p *Provider) reply(k *known, f Flow, q url.Values) (string, error) {
	one := func(name string) string {
		if len(q[name]) > 1 {
			return "" // which is meant is not to be told
		}
		return q.Get(name)
	}
	if subtle.ConstantTimeCompare([]byte(one("state")), []byte(f.State())) != 1 {
		return "", fmt.Errorf("%w: it is not the one that this browser began", ErrDenied)
	}
	if iss := one("iss"); iss != "" && iss != p.o.Issuer || iss == "" && (k.said.IssInReply || len(q["iss"]) > 0) {
		return "", fmt.Errorf("%w: the answer is another issuer's", ErrDenied)
	}
	if e := one("error"); e != "" {
		return "", fmt.Errorf("%w: the provider says %.60q", ErrDenied, e)
	}
	code := one("code")
	if code == "" || len(code) > maxCode {
		return "", fmt.Errorf("%w: the answer has no code", ErrDenied)
	}
	return code, nil
}

// exchangeError tells a code that is refused from a provider that is away.
func exchangeError(err error) error {
	var e *oauth2.RetrieveError
	if errors.As(err, &e) && e.Response != nil && e.Response.StatusCode >= 400 && e.Response.StatusCode < 500 && e.Response.StatusCode != http.StatusTooManyRequests {
		return fmt.Errorf("%w: the provider does not take the code: %d %.60q", ErrDenied, e.Response.StatusCode, e.ErrorCode)
	}
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		return fmt.Errorf("%w: an answer of more than %d bytes", ErrUnavailable, long.Limit)
	}
	return fmt.Errorf("%w: its token endpoint: %w", ErrUnavailable, err)
}

// check is what go-oidc leaves to its caller.
func (p *Provider) check(id *gooidc.IDToken, f Flow, access string) error {
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(f.derive("nonce"))) != 1 {
		return errors.New("the nonce is not this login's")
	}
	var c struct {
		Azp string `json:"azp"`
	}
	if err := id.Claims(&c); err != nil {
		return err
	}
	switch {
	case c.Azp != "" && c.Azp != p.o.ClientID, c.Azp == "" && len(id.Audience) > 1:
		return errors.New("it is for another client")
	case id.IssuedAt.After(p.o.Now().Add(skew)):
		return fmt.Errorf("it is of %s, after our time: set the clocks", id.IssuedAt.UTC().Format(time.RFC3339))
	case id.AccessTokenHash != "":
		return id.VerifyAccessToken(access)
	}
	return nil
}

// Logout is where a browser ends the provider's own session, coming back to our page; "" where the provider has no such place.
func (p *Provider) Logout() string {
	p.mu.Lock()
	k := p.known
	p.mu.Unlock()
	if k == nil || checkEndpoint("", k.said.EndSession) != nil {
		return ""
	}
	u, err := url.Parse(k.said.EndSession)
	if err != nil {
		return ""
	}
	q := u.Query()
	q.Set("client_id", p.o.ClientID)
	q.Set("post_logout_redirect_uri", strings.TrimSuffix(p.o.Redirect, CallbackPath)+"/")
	u.RawQuery = q.Encode()
	return u.String()
}

// ReadSecret reads a client's secret: one line.
func ReadSecret(r io.Reader) (string, error) {
	const most = 4 << 10
	raw, err := io.ReadAll(io.LimitReader(r, most+1))
	s := strings.TrimSpace(string(raw))
	switch {
	case err != nil:
		return "", err
	case len(raw) > most || s == "" || strings.ContainsAny(s, "\r\n"):
		return "", fmt.Errorf("a client's secret is one line of at most %d bytes", most)
	}
	return s, nil
}

// hasMFA says whether the provider tells of a second factor.
func (p *Provider) hasMFA(amr []string, acr string) bool {
	return slices.ContainsFunc(p.o.MFA, func(v string) bool { return v != "" && (v == acr || slices.Contains(amr, v)) })
}
