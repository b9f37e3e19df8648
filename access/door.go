package access

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/quantra-l/quantra/zerotrust"
)

// Bounds of what is looked at before anybody is known.
const (
	maxCookies       = 8 << 10  // bytes of all cookies
	maxAuthorization = 512      // bytes of Authorization
	maxLook          = 64 << 10 // bytes of a body in which the service is looked for: more than the rooms read of such
)

type callerKey struct{}

// CallerOf is who asks, nil where nobody is known.
func CallerOf(ctx context.Context) *Caller {
	c, _ := ctx.Value(callerKey{}).(*Caller)
	return c
}

// Door is next for those who may: it stands before all of a server's routes.
func (a *Access) Door(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	a.routes(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, err := a.admit(w, r)
		if err != nil {
			a.refuse(w, r, err)
			return
		}
		if _, pattern := mux.Handler(r); pattern != "" {
			secure(w.Header(), a.opt.Secure)
			mux.ServeHTTP(w, r)
			return
		}
		if a.opt.Secure {
			w.Header().Set("Strict-Transport-Security", hsts)
		}
		next.ServeHTTP(w, r)
	})
}

// admit finds out who asks and has the guard decide. The request that is returned knows the caller.
func (a *Access) admit(w http.ResponseWriter, r *http.Request) (*http.Request, error) {
	if err := wellFormed(r); err != nil {
		return r, err
	}
	d, pattern := a.demandOf(r)
	c, err := a.authenticate(r)
	if err != nil && d.kind != public {
		return r, err
	}
	if c != nil && err == nil {
		// A browser sends the password that it was given once by itself, as it does a cookie; programs say nothing of where they come from.
		_, _, basic := r.BasicAuth()
		if c.Session != "" || basic && (r.Header.Get("Sec-Fetch-Site") != "" || r.Header.Get("Origin") != "") {
			if err := sameOrigin(r); err != nil {
				return r, err
			}
		}
		r = r.WithContext(context.WithValue(r.Context(), callerKey{}, c))
	}
	switch d.kind {
	case public:
		if pattern == "/" && r.Method != http.MethodGet && r.Method != http.MethodHead {
			return r, &Refusal{Status: http.StatusMethodNotAllowed, Code: "unimplemented", Text: r.Method + " is not understood here: GET a page"}
		}
		return r, nil
	case sender:
		if c == nil && !a.opt.Open && !signs(r) {
			return r, &Refusal{Status: http.StatusUnauthorized, Code: "unsigned", Text: "a sender must sign by a key that has enrolled, or show a token with the role writer: docs/access.md"}
		}
		return r, nil
	case denied:
		if c == nil {
			return r, stranger("log in")
		}
		return r, &Refusal{Status: http.StatusNotFound, Code: "not_found", Text: fmt.Sprintf("there is nothing at %s %.100s; docs/api.md lists what there is", r.Method, r.URL.Path)}
	}
	if c == nil {
		return r, stranger("log in: open the one-time link that `quantraband up` prints, or `quantraband login --link`; programs show a token")
	}
	if d.kind == decided {
		service, err := a.serviceOf(r, d, pattern)
		if err != nil {
			return r, err
		}
		return r, a.decide(r.Context(), c, c.roles(service), d.action, under(d.resource, service))
	}
	return r, nil
}

// signs says that the request claims a signature: whoever takes it checks it.
func signs(r *http.Request) bool { return r.Header.Get("Signature-Input") != "" }

// wellFormed refuses what one part of a server could read otherwise than another.
func wellFormed(r *http.Request) error {
	bad := func(status int, format string, args ...any) error {
		return &Refusal{Status: status, Code: "invalid_argument", Text: fmt.Sprintf(format, args...)}
	}
	p := r.URL.Path
	clean := path.Clean(p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	if p != clean || !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "\\\x00") {
		return bad(http.StatusBadRequest, "the path %.100q is not written in its one way: no //, no dots", p)
	}
	if raw := strings.ToLower(r.URL.RawPath); strings.Contains(raw, "%2f") || strings.Contains(raw, "%2e") || strings.Contains(raw, "%5c") {
		return bad(http.StatusBadRequest, "the path %.100q escapes what need not be", r.URL.RawPath)
	}
	n := 0
	for _, c := range r.Header["Cookie"] {
		n += len(c)
	}
	if n > maxCookies {
		return bad(http.StatusRequestHeaderFieldsTooLarge, "the cookies have %d bytes, the limit is %d", n, maxCookies)
	}
	if len(r.Header["Authorization"]) > 1 {
		return bad(http.StatusBadRequest, "there are %d headers Authorization", len(r.Header["Authorization"]))
	}
	return nil
}

// authenticate is who asks: nil where nobody says. A credential that is wrong is an error, also where another would do.
func (a *Access) authenticate(r *http.Request) (c *Caller, err error) {
	remote := a.remote(r)
	defer func() {
		if c != nil {
			c.remote = remote
		}
		var u *unproven
		if errors.As(err, &u) {
			err = a.failed(r, remote, u)
		}
	}()
	auth := r.Header.Get("Authorization")
	if key := r.Header.Get("DD-API-KEY"); auth == "" && key != "" { // how Datadog's clients give a token
		auth = "Bearer " + key
	}
	if auth != "" {
		secret, ok := secretIn(r, auth)
		if !ok {
			return nil, &unproven{"", "Authorization is not Bearer and a token, nor Basic with a token for the password"}
		}
		if c, err = a.byBearer(r.Context(), secret); errors.Is(err, ErrDenied) {
			if u := (*unproven)(nil); !errors.As(err, &u) {
				err = &unproven{"", "the token is not one of ours"}
			}
		}
		return c, err
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && a.opt.Certificates != nil {
		return a.byCertificate(r)
	}
	var secrets []string
	for _, k := range r.Cookies() {
		if k.Name == a.cookieName() {
			secrets = append(secrets, k.Value)
		}
	}
	switch len(secrets) {
	case 0:
		return nil, nil
	case 1:
	default: // one of them is another site's doing, and which is not to be told
		return nil, &unproven{"", "there are several cookies of a session"}
	}
	if c, err = a.bySession(r.Context(), secrets[0]); errors.Is(err, ErrDenied) {
		if u := (*unproven)(nil); !errors.As(err, &u) {
			err = &unproven{"", "the cookie is not one of ours"}
		}
	}
	return c, err
}

// secretIn is the token in Authorization: of Bearer, or the password of Basic, which is how pprof, Grafana and the SDKs of others carry one.
// The name beside a password says nothing.
func secretIn(r *http.Request, auth string) (string, bool) {
	if len(auth) > maxAuthorization {
		return "", false
	}
	if _, password, ok := r.BasicAuth(); ok {
		return password, true
	}
	scheme, secret, _ := strings.Cut(auth, " ")
	return strings.TrimSpace(secret), strings.EqualFold(scheme, "Bearer")
}

// byCertificate is whom a verified client certificate names.
func (a *Access) byCertificate(r *http.Request) (*Caller, error) {
	cert := a.opt.Certificates(r)
	switch {
	case cert.Broken:
		return nil, &unproven{"", "the certificate's name of an agent cannot be read"}
	case cert.Agent:
		g := Grant{Role: "writer", Service: cert.Service}
		if cert.Service == "" || g.check() != nil {
			return nil, &unproven{"", "the certificate's service is not one"}
		}
		return &Caller{Principal: "c-" + cert.Key, Kind: "service", Name: "the certificate of " + cert.Service, Grants: []Grant{g}, Trust: TrustBasic, How: "certificate"}, nil
	case cert.Person == "":
		return nil, nil
	}
	p, err := a.Find(r.Context(), cert.Person)
	if errors.Is(err, ErrNotFound) || err == nil && p.Blocked {
		return nil, &unproven{"", "nobody has the certificate's name"}
	}
	if err != nil {
		return nil, err
	}
	return &Caller{Principal: p.ID, Kind: "person", Name: p.Name, Grants: p.grants(a.opt.Now()), Trust: TrustVerified, How: "certificate", Person: p.ID}, nil
}

// remote is where the request comes from. A header counts only where a proxy of ours has written it: the last that is none of ours.
func (a *Access) remote(r *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr := at.Addr().Unmap()
	ours := func(x netip.Addr) bool {
		for _, p := range a.opt.Proxies {
			if p.Contains(x) {
				return true
			}
		}
		return false
	}
	if !ours(addr) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			return addr // what is before it was written by whoever likes
		}
		if addr = hop.Unmap(); !ours(addr) {
			return addr
		}
	}
	return addr
}

// sameOrigin refuses what another site's page asks for in the name of a browser that is logged in. Every browser says where a request comes
// from, by fetch metadata or at least by Origin; reading is refused as well, so that other pages cannot measure answers.
func sameOrigin(r *http.Request) error {
	refused := &Refusal{Status: http.StatusForbidden, Code: "permission_denied", Text: "a page of another origin may not ask in your name"}
	safe := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch site := r.Header.Get("Sec-Fetch-Site"); site {
	case "same-origin":
		return nil
	case "none": // typed, or from a bookmark
		if safe {
			return nil
		}
		return refused
	case "":
		origin := r.Header.Get("Origin")
		if origin == "" && safe {
			return nil
		}
		scheme := "http://"
		if r.TLS != nil {
			scheme = "https://"
		}
		if origin == scheme+r.Host {
			return nil
		}
		return refused
	default: // cross-site, same-site: following a link to the page is all that is left
		if safe && r.Header.Get("Sec-Fetch-Mode") == "navigate" && !strings.HasPrefix(r.URL.Path, "/api/") && !strings.HasPrefix(r.URL.Path, "/quantra.") {
			return nil
		}
		return refused
	}
}

// serviceOf is the service that a request is about; "" is all.
func (a *Access) serviceOf(r *http.Request, d demand, pattern string) (string, error) {
	invalid := func(format string, args ...any) error {
		return &Refusal{Status: http.StatusBadRequest, Code: "invalid_argument", Text: fmt.Sprintf(format, args...)}
	}
	switch d.service {
	case fromQuery, needService:
		q := r.URL.Query()["service"]
		if len(q) > 1 {
			return "", invalid("service is given %d times", len(q))
		}
		if len(q) == 0 || q[0] == "" {
			if d.service == needService {
				return "", invalid("service is missing")
			}
			return "", nil
		}
		return q[0], nil
	case fromBody:
		raw, err := io.ReadAll(io.LimitReader(r.Body, maxLook+1))
		if err != nil {
			return "", invalid("the body: %v", err)
		}
		if len(raw) > maxLook {
			return "", &Refusal{Status: http.StatusRequestEntityTooLarge, Code: "invalid_argument", Text: fmt.Sprintf("the body has more than %d bytes", maxLook)}
		}
		r.Body = io.NopCloser(bytes.NewReader(raw))
		var about struct {
			Service string `json:"service"`
		}
		// As the rooms read it, by the same decoder: of two services the last. What it cannot read is about all, and the room's to refuse.
		_ = json.NewDecoder(bytes.NewReader(raw)).Decode(&about)
		return about.Service, nil
	case ofFinding, ofChange:
		return a.serviceOfRow(r, d.service, pattern)
	}
	return "", nil
}

// serviceOfRow is the service of a finding or change; "" where there is no such, which the room says.
func (a *Access) serviceOfRow(r *http.Request, from serviceFrom, pattern string) (string, error) {
	_, id, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/api/v1/"), "/")
	id, _, _ = strings.Cut(id, "/")
	tenant := cmp.Or(r.Header.Get("X-Scope-OrgID"), defaultTenant)
	get := a.db.Finding
	if from == ofChange {
		get = a.db.Change
	}
	row, _, err := get(r.Context(), tenant, id)
	if err != nil {
		return "", fmt.Errorf("%s: %w", pattern, a.word(err))
	}
	return row.Service, nil
}

// defaultTenant is whose what nobody's name stands on is, as in the store.
const defaultTenant = "default"

// hsts makes a browser ask by TLS only, for a year.
const hsts = "max-age=31536000"

// secure are the headers of this room's own answers.
func secure(h http.Header, tls bool) {
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if tls {
		h.Set("Strict-Transport-Security", hsts)
	}
}

// refuse answers a request that is not let in.
func (a *Access) refuse(w http.ResponseWriter, r *http.Request, err error) {
	f := a.refusal(err)
	h := w.Header()
	secure(h, a.opt.Secure)
	h.Set("Content-Type", "application/json")
	if f.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(f.RetryAfter.Seconds()))))
	}
	if f.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	body := map[string]any{"code": f.Code, "message": f.Text, "error": f.Text}
	if len(f.Policies) > 0 {
		body["policies"] = f.Policies
	}
	b, merr := json.Marshal(body)
	if merr != nil { // cannot be: strings marshal
		b = []byte(`{}`)
	}
	w.WriteHeader(f.Status)
	if r.Method != http.MethodHead {
		w.Write(append(b, '\n')) // an error means that the asker is gone
	}
}

// refusal is any error as the asker sees it.
func (a *Access) refusal(err error) *Refusal {
	var f *Refusal
	switch {
	case errors.As(err, &f):
		if f.RetryAfter > 0 && f.Status == http.StatusForbidden {
			g := *f
			g.Status, g.Code = http.StatusTooManyRequests, "resource_exhausted"
			return &g
		}
		return f
	case errors.Is(err, ErrInvalid):
		return &Refusal{Status: http.StatusBadRequest, Code: "invalid_argument", Text: err.Error()}
	case errors.Is(err, ErrNotFound):
		return &Refusal{Status: http.StatusNotFound, Code: "not_found", Text: err.Error()}
	case errors.Is(err, ErrDenied):
		return &Refusal{Status: http.StatusForbidden, Code: "permission_denied", Text: err.Error()}
	}
	a.opt.Logger.Error("access: a request could not be decided, and is refused", "err", err)
	return &Refusal{Status: http.StatusServiceUnavailable, Code: "unavailable", Text: "it cannot be decided now who may ask; the server's log says why", RetryAfter: 5 * time.Second}
}

// record notes that a credential was refused. Of its owner there is the pseudonym that it names, and no address.
func (a *Access) record(ctx context.Context, principal, what, reason string) error {
	const most = 200
	return a.opt.Record(ctx, zerotrust.Event{Time: a.opt.Now(), What: "credential", Principal: principal, Action: "connect", Resource: what[:min(len(what), most)], Reason: reason})
}
