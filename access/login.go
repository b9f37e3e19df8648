package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/quantra-l/quantra/access/oidc"
	"github.com/quantra-l/quantra/control"
)

// ProviderPath sends a browser to the identity provider.
const ProviderPath = "/login/provider"

// What a login by a provider keeps.
const (
	kindSubject = "subject" // a person's id by the hash of who she is at the provider
	kindFlow    = "flow"    // a login that is over: its state is used
)

// loginRoutes are those by which people come in, and what the page asks of them. They are there without a provider, too, and say so.
func (a *Access) loginRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET "+LoginPath, a.openLink)
	mux.HandleFunc("POST "+LoginPath, a.logIn)
	mux.HandleFunc("POST /logout", a.logOut)
	mux.HandleFunc("POST "+FactorPath, a.showFactor)
	mux.HandleFunc("GET "+ProviderPath, a.toProvider)
	mux.HandleFunc("GET "+oidc.CallbackPath, a.fromProvider)
	mux.HandleFunc("GET "+APIPath+"/login", func(w http.ResponseWriter, r *http.Request) {
		var ways struct {
			Provider string `json:"provider,omitempty"` // where people log in, for them to read
		}
		if a.opt.Provider != nil {
			_, ways.Provider, _ = strings.Cut(a.opt.Provider.Issuer(), "://")
		}
		writeAnswer(w, ways)
	})
}

// writeAnswer answers a route of these, which need no tenant.
func writeAnswer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return // the asker is gone: what we answer marshals
	}
}

var errNoProvider = &Refusal{Status: http.StatusNotFound, Code: "not_found", Text: "this server has no identity provider: `quantraband up --oidc FILE` gives it one"}

// flowCookie is the cookie of a login under way.
func (a *Access) flowCookie(value string, age int) *http.Cookie {
	name := "quantra_login" + a.opt.Cookie
	if a.opt.Secure {
		name = "__Host-" + name
	}
	return &http.Cookie{Name: name, Value: value, Path: "/", HttpOnly: true, Secure: a.opt.Secure, SameSite: http.SameSiteLaxMode, MaxAge: age}
}

// toProvider begins a login. Nothing of it is kept here.
func (a *Access) toProvider(w http.ResponseWriter, r *http.Request) {
	if a.opt.Provider == nil {
		a.refuse(w, r, errNoProvider)
		return
	}
	f := oidc.NewFlow()
	to, err := a.opt.Provider.Begin(r.Context(), f)
	if err != nil {
		a.opt.Logger.Warn("nobody can log in by the identity provider", "err", err)
		http.Redirect(w, r, "/?login=away", http.StatusSeeOther)
		return
	}
	http.SetCookie(w, a.flowCookie(f.Secret(), int(oidc.FlowTTL.Seconds())))
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// fromProvider is where the provider sends the browser back to. What went wrong is for the page to say, in words of ours: the address has a word
// alone.
func (a *Access) fromProvider(w http.ResponseWriter, r *http.Request) {
	if a.opt.Provider == nil {
		a.refuse(w, r, errNoProvider)
		return
	}
	http.SetCookie(w, a.flowCookie("", -1)) // once, however it ends
	err := a.byProvider(w, r)
	var f *Refusal
	word := "refused"
	switch {
	case err == nil:
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	case errors.Is(err, oidc.ErrUnavailable):
		a.opt.Logger.Warn("a login by the identity provider did not end", "err", err)
		word = "away"
	case errors.As(err, &f) && f.Status != http.StatusUnauthorized:
		a.refuse(w, r, err)
		return
	case errors.As(err, &f) && f.Code == codeNoRole:
		word = "norole"
	case f == nil:
		a.refuse(w, r, err)
		return
	}
	http.Redirect(w, r, "/?login="+word, http.StatusSeeOther)
}

// codeNoRole is the refusal of somebody whom the provider knows and nobody has given a role.
const codeNoRole = "no_role"

func (a *Access) byProvider(w http.ResponseWriter, r *http.Request) error {
	remote := a.remote(r)
	denied := func(principal, why string) error { return a.failed(r, remote, &unproven{principal, why}) }
	var secrets []string
	name := a.flowCookie("", 0).Name
	for _, k := range r.Cookies() {
		if k.Name == name {
			secrets = append(secrets, k.Value)
		}
	}
	if len(secrets) != 1 {
		return denied("", "a login by the identity provider ended in a browser that had not begun it, or too late")
	}
	flow, err := oidc.ParseFlow(secrets[0])
	var who *oidc.Who
	if err == nil {
		who, err = a.opt.Provider.Finish(r.Context(), flow, r.URL.Query())
	}
	if errors.Is(err, oidc.ErrDenied) {
		return denied("", err.Error())
	}
	if err != nil {
		return err
	}
	// The provider takes a code once; so do we, whatever it does.
	err = a.keep(r.Context(), control.AccessRow{Kind: kindFlow, ID: hashText(flow.State()), Expires: a.opt.Now().Add(2 * oidc.FlowTTL)}, nil)
	if errors.Is(err, control.ErrConflict) {
		return denied("", "a login by the identity provider was brought twice")
	}
	if err != nil {
		return err
	}
	p, err := a.personAt(r.Context(), who)
	var u *unproven
	if errors.As(err, &u) {
		err := denied(u.id, u.why)
		if f := (*Refusal)(nil); errors.As(err, &f) && f.Status == http.StatusUnauthorized && errors.Is(u, errNoRole) {
			f.Code = codeNoRole
		}
		return err
	}
	if err != nil {
		return err
	}
	l := Login{Person: p, How: "provider", Trust: TrustVerified, TTL: a.opt.Provider.Config().Session}
	if who.MFA {
		l.Trust, l.MFA = TrustCritical, true
	}
	return a.welcome(w, r, l)
}

// errNoRole is why somebody has no person here.
var errNoRole = &unproven{"", "nobody has given a role to this account of the identity provider"}

// personAt is who somebody is here whom the provider has shown. She is found by issuer and subject; the first time also by a verified address of
// mail that an admin has made a person of, if that is nobody else's; and is made where the provider's groups give her a role. What they give
// is what the provider says now, in place of what it said before.
func (a *Access) personAt(ctx context.Context, w *oidc.Who) (*Person, error) {
	cfg := a.opt.Provider.Config()
	given, err := parseGrants(cfg.Given(w))
	if err == nil && len(given) > maxGrants {
		err = fmt.Errorf("%w: the provider's groups give %d roles, at most %d", ErrDenied, len(given), maxGrants)
	}
	if err != nil {
		return nil, err
	}
	subject := hashText(w.Issuer + "\x00" + w.Subject)
	p, err := a.bySubject(ctx, subject)
	if errors.Is(err, ErrNotFound) {
		p, err = a.adopt(ctx, w, subject, given)
	}
	if err != nil {
		return nil, err
	}
	if p.Blocked {
		return nil, &unproven{p.ID, "the person is blocked"}
	}
	if len(p.Grants) == 0 && len(given) == 0 {
		return nil, errNoRole
	}
	until := a.opt.Now().UTC().Add(cfg.Keep)
	return a.changePerson(ctx, p.ID, func(p *Person) error { p.Given, p.GivenUntil = given, until; return nil })
}

func (a *Access) bySubject(ctx context.Context, subject string) (*Person, error) {
	row, ok, err := a.db.Access(ctx, kindSubject, subject)
	if err != nil {
		return nil, a.word(err)
	}
	if !ok {
		return nil, ErrNotFound
	}
	return a.Person(ctx, row.Owner)
}

// adopt makes somebody of the provider a person here.
func (a *Access) adopt(ctx context.Context, w *oidc.Who, subject string, given []Grant) (*Person, error) {
	_, host, _ := strings.Cut(w.Issuer, "://")
	name := fmt.Sprintf("%.120s at %.120s", w.Subject, host)
	var p *Person
	err := ErrNotFound
	if w.EmailVerified {
		name = strings.ToLower(w.Email)
		p, err = a.Find(ctx, w.Email)
		if errors.Is(err, ErrNotFound) {
			p, err = a.Find(ctx, name)
		}
	}
	if errors.Is(err, ErrNotFound) {
		if len(given) == 0 {
			return nil, errNoRole
		}
		p, err = a.CreatePerson(ctx, name, nil)
	}
	if err != nil {
		return nil, err
	}
	// An address that was given to somebody else since must not open what was another's.
	rows, err := a.db.AccessRows(ctx, kindSubject, p.ID, 1)
	if err != nil {
		return nil, a.word(err)
	}
	if len(rows) > 0 {
		return nil, &unproven{p.ID, "the address of mail is that of another account of the identity provider: an admin removes the person first"}
	}
	err = a.keep(ctx, control.AccessRow{Kind: kindSubject, ID: subject, Owner: p.ID}, nil)
	if errors.Is(err, control.ErrConflict) { // two logins at a time
		return a.bySubject(ctx, subject)
	}
	return p, err
}

// logOut ends the session at both ends, and says where the provider's own is ended.
func (a *Access) logOut(w http.ResponseWriter, r *http.Request) {
	c := CallerOf(r.Context())
	var err error
	if c.Session != "" {
		err = a.RevokeSession(r.Context(), c.Session)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		a.refuse(w, r, err)
		return
	}
	a.setCookie(w, "", 0)
	w.Header().Set("Clear-Site-Data", `"cache", "storage"`)
	var next struct {
		Next string `json:"next,omitempty"`
	}
	if c.How == "provider" && a.opt.Provider != nil {
		next.Next = a.opt.Provider.Logout()
	}
	writeAnswer(w, next)
}

// logIn takes a code that somebody has typed into the page.
func (a *Access) logIn(w http.ResponseWriter, r *http.Request) {
	err := sameOrigin(r)
	var q struct {
		Code string `json:"code"`
	}
	if err == nil {
		if err = json.NewDecoder(io.LimitReader(r.Body, maxLogin)).Decode(&q); err != nil {
			err = &Refusal{Status: http.StatusBadRequest, Code: "invalid_argument", Text: "the body is not what is asked for: {\"code\": ...}"}
		}
	}
	if err == nil {
		err = a.enter(w, r, q.Code)
	}
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	writeAnswer(w, struct{}{})
}
