package access

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/quantra-l/quantra/internal/jsonapi"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// APIPath is under what people, tokens, sessions and agents are asked about.
const APIPath = "/api/v1/access"

// LoginPath takes a one-time link's code, as ?code=.
const LoginPath = "/login"

// maxLogin bounds the body of a login.
const maxLogin = 4 << 10

// Me is who asks, and what she may.
type Me struct {
	Principal string    `json:"principal"`
	Kind      string    `json:"kind"`
	Name      string    `json:"name"`
	How       string    `json:"how"`
	Grants    []Grant   `json:"grants"`
	Level     string    `json:"level"`
	MFA       bool      `json:"mfa"`
	Factor    bool      `json:"factor,omitempty"` // she has a second factor to show
	Session   string    `json:"session,omitempty"`
	Expires   time.Time `json:"expires,omitzero"`
	// May is what a policy would allow, of any service: what it would not need not be offered.
	May map[string]bool `json:"may"`
}

// rights are what Me.May tells of.
var rights = map[string]struct{ action, resource string }{
	"read_aggregate": {"read", "profiles/aggregate"}, "read_raw": {"read", "profiles/raw"},
	"change": {"change", "changes"}, "triage": {"change", "findings"}, "administer": {"administer", "people"},
	"read_node": {"read", "node/peers"}, "change_node": {"change", "node/peers"},
}

// Me is what a caller is told of herself.
func (a *Access) Me(c *Caller) Me {
	m := Me{Principal: c.Principal, Kind: c.Kind, Name: c.Name, How: c.How, Grants: append([]Grant{}, c.Grants...), Level: policy.LevelOf(c.Trust).String(), MFA: c.MFA, Session: c.Session,
		Expires: c.Expires, May: map[string]bool{}}
	if a.opt.Policy == nil {
		return m
	}
	var roles []string
	for _, g := range c.Grants {
		roles = append(roles, g.Role)
	}
	set := a.opt.Policy()
	for name, r := range rights {
		m.May[name] = set.Decide(&policy.Request{Principal: c.Principal, Kind: c.Kind, Roles: roles, Trust: c.Trust, Level: policy.LevelOf(c.Trust), MFA: c.MFA,
			Action: r.action, Resource: r.resource, Remote: c.remote, Time: a.opt.Now()}).Allow
	}
	return m
}

// routes are this room's own, behind the door.
func (a *Access) routes(mux *http.ServeMux) {
	door := &jsonapi.Door{Tenant: func(*http.Request) (string, error) { return "", nil }, Fault: a.fault, Logger: a.opt.Logger}
	handle := func(pattern string, params []string, do func(ctx context.Context, r *http.Request, c *Caller) (any, error)) {
		door.Handle(mux, pattern, params, func(r *http.Request, _ string) (any, error) { return do(r.Context(), r, CallerOf(r.Context())) })
	}
	a.loginRoutes(mux)
	handle("GET "+APIPath+"/me", nil, func(ctx context.Context, _ *http.Request, c *Caller) (any, error) {
		me := a.Me(c)
		var err error
		if c.Session != "" {
			_, _, me.Factor, err = a.factorOf(ctx, c.Person)
		}
		return me, err
	})
	handle("GET "+APIPath+"/sessions", []string{"all"}, func(ctx context.Context, r *http.Request, c *Caller) (any, error) {
		whose, err := a.whose(ctx, c, r.URL.Query().Get("all") == "true", "read")
		if err != nil {
			return nil, err
		}
		list, err := a.Sessions(ctx, whose)
		return map[string]any{"sessions": list}, err
	})
	handle("DELETE "+APIPath+"/sessions/{id}", nil, func(ctx context.Context, r *http.Request, c *Caller) (any, error) {
		return a.endSession(ctx, c, r.PathValue("id"))
	})
	handle("GET "+APIPath+"/tokens", []string{"all"}, func(ctx context.Context, r *http.Request, c *Caller) (any, error) {
		whose, err := a.whose(ctx, c, r.URL.Query().Get("all") == "true", "read")
		if err != nil {
			return nil, err
		}
		list, err := a.Tokens(ctx, whose)
		return map[string]any{"tokens": list}, err
	})
	handle("POST "+APIPath+"/tokens", nil, a.askToken)
	handle("DELETE "+APIPath+"/tokens/{id}", nil, func(ctx context.Context, r *http.Request, c *Caller) (any, error) {
		t, err := a.Token(ctx, r.PathValue("id"))
		if err == nil && t.Person != c.Person || err == nil && c.Person == "" {
			err = a.decide(ctx, c, c.roles(""), "administer", "people")
		}
		if err == nil {
			err = a.RevokeToken(ctx, t.ID)
		}
		return struct{}{}, err
	})
	handle("GET "+APIPath+"/people", nil, func(ctx context.Context, _ *http.Request, _ *Caller) (any, error) {
		list, err := a.People(ctx)
		return map[string]any{"people": list}, err
	})
	handle("POST "+APIPath+"/people", nil, a.askPerson)
	handle("POST "+APIPath+"/people/{id}", nil, a.askGrant)
	handle("DELETE "+APIPath+"/people/{id}", nil, func(ctx context.Context, r *http.Request, _ *Caller) (any, error) {
		p, err := a.Find(ctx, r.PathValue("id"))
		if err == nil {
			err = a.RemovePerson(ctx, p.ID)
		}
		return struct{}{}, err
	})
	handle("POST "+APIPath+"/links", nil, a.askLink)
	a.agentRoutes(handle)
	a.factorRoutes(handle)
}

// fault is what an error of this room's means to the asker.
func (a *Access) fault(err error) *jsonapi.Fault {
	f := a.refusal(err)
	return &jsonapi.Fault{Status: f.Status, Code: f.Code, Text: f.Text}
}

// whose are the sessions or tokens that are asked for: the caller's own, or all, which is for those who look after people.
func (a *Access) whose(ctx context.Context, c *Caller, all bool, action string) (string, error) {
	if all || c.Person == "" {
		return "", a.decide(ctx, c, c.roles(""), action, "people")
	}
	return c.Person, a.decide(ctx, c, c.roles(""), action, "people/"+c.Principal)
}

// endSession ends one of the caller's own, or another's, which is for those who look after people.
func (a *Access) endSession(ctx context.Context, c *Caller, id string) (any, error) {
	own := false
	if c.Person != "" {
		mine, err := a.Sessions(ctx, c.Person)
		if err != nil {
			return nil, err
		}
		own = slices.ContainsFunc(mine, func(s Session) bool { return s.ID == id })
	}
	resource, action := "people", "administer"
	if own {
		resource, action = "people/"+c.Principal, "change"
	}
	err := a.decide(ctx, c, c.roles(""), action, resource)
	if err == nil {
		err = a.RevokeSession(ctx, id)
	}
	return struct{}{}, err
}

// tokenRequest asks for a token.
type tokenRequest struct {
	Name   string   `json:"name"`
	Grants []string `json:"grants"`
	Level  string   `json:"level"` // "" is verified, or what the maker has
	For    string   `json:"for"`   // "" is DefaultToken
}

func (a *Access) askToken(ctx context.Context, r *http.Request, c *Caller) (any, error) {
	var q tokenRequest
	if err := jsonapi.Body(r, &q); err != nil {
		return nil, err
	}
	if c.Kind == "token" {
		return nil, fmt.Errorf("%w: a token makes no tokens", ErrDenied)
	}
	resource, action := "people/"+c.Principal, "change" // for oneself
	if c.Person == "" {
		resource, action = "people", "administer"
	}
	if err := a.decide(ctx, c, c.roles(""), action, resource); err != nil {
		return nil, err
	}
	grants, err := parseGrants(q.Grants)
	if err != nil {
		return nil, err
	}
	var ttl time.Duration
	if q.For != "" {
		if ttl, err = time.ParseDuration(q.For); err != nil {
			return nil, jsonapi.Invalid("for=%.40q: it must be a time as 24h", q.For)
		}
	}
	trust := 0
	if q.Level != "" {
		level, err := policy.ParseLevel(q.Level)
		if err != nil {
			return nil, jsonapi.Invalid("level: %v", err)
		}
		trust = trustOf(level)
	}
	t, secret, err := a.CreateToken(ctx, c, q.Name, grants, trust, ttl)
	return map[string]any{"token": t, "secret": secret}, err
}

// trustOf is the least trust that a level needs.
func trustOf(level policy.Level) int {
	for trust := 1; trust < 100; trust++ {
		if policy.LevelOf(trust) >= level {
			return trust
		}
	}
	return 100
}

func parseGrants(texts []string) (out []Grant, err error) {
	for _, s := range texts {
		g, err := ParseGrant(s)
		if err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, nil
}

func (a *Access) askPerson(ctx context.Context, r *http.Request, c *Caller) (any, error) {
	var q struct {
		Name   string   `json:"name"`
		Grants []string `json:"grants"`
	}
	if err := jsonapi.Body(r, &q); err != nil {
		return nil, err
	}
	grants, err := parseGrants(q.Grants)
	if err != nil {
		return nil, err
	}
	p, err := a.CreatePerson(ctx, q.Name, grants)
	return map[string]any{"person": p}, err
}

func (a *Access) askGrant(ctx context.Context, r *http.Request, _ *Caller) (any, error) {
	var q struct {
		Give    []string `json:"give"`
		Take    []string `json:"take"`
		Blocked *bool    `json:"blocked"`
	}
	if err := jsonapi.Body(r, &q); err != nil {
		return nil, err
	}
	give, gerr := parseGrants(q.Give)
	take, terr := parseGrants(q.Take)
	if err := errors.Join(gerr, terr); err != nil {
		return nil, err
	}
	p, err := a.Find(ctx, r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if p, err = a.GrantTo(ctx, p.ID, give, take); err == nil && q.Blocked != nil {
		p, err = a.changePerson(ctx, p.ID, func(p *Person) error { p.Blocked = *q.Blocked; return nil })
	}
	return map[string]any{"person": p}, err
}

func (a *Access) askLink(ctx context.Context, r *http.Request, c *Caller) (any, error) {
	var q struct {
		Person string `json:"person"` // "" is the first
	}
	if err := jsonapi.Body(r, &q); err != nil {
		return nil, err
	}
	// A link logs in with level critical: it is for who sits at the machine, and those may use it who are there already.
	if c.Trust < TrustCritical {
		return nil, fmt.Errorf("%w: a one-time link is worth level critical, which your login is not", ErrDenied)
	}
	p, err := a.FirstPerson(ctx)
	if err == nil && q.Person != "" {
		p, err = a.Find(ctx, q.Person)
	}
	if err != nil {
		return nil, err
	}
	code, err := a.Link(ctx, p)
	return map[string]any{"person": p.Name, "code": code, "path": LoginPath + "?code=" + code, "for": LinkTTL.String()}, err
}

// openLink is a one-time link as a browser opens it. The code leaves the address by the redirect.
func (a *Access) openLink(w http.ResponseWriter, r *http.Request) {
	code := r.URL.Query().Get("code")
	if code == "" || r.Method != http.MethodGet { // a HEAD of some preview must not use it up
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	if err := a.enter(w, r, code); err != nil {
		f := a.refusal(err)
		switch f.Status {
		case http.StatusUnauthorized:
			http.Redirect(w, r, "/?login=used", http.StatusSeeOther)
		case http.StatusServiceUnavailable:
			http.Redirect(w, r, "/?login=undecided", http.StatusSeeOther)
		default:
			a.refuse(w, r, f)
		}
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// enter logs in by a one-time code. A session that the browser had ends: who was logged in before has nothing of the new one.
func (a *Access) enter(w http.ResponseWriter, r *http.Request, code string) error {
	p, err := a.useLink(r.Context(), code)
	var u *unproven
	if errors.As(err, &u) {
		return a.failed(r, a.remote(r), u)
	}
	if err != nil {
		return err
	}
	return a.welcome(w, r, Login{Person: p, How: "link", Trust: TrustCritical})
}

// welcome begins a session, records it and sets its cookie.
func (a *Access) welcome(w http.ResponseWriter, r *http.Request, l Login) error {
	// The decision first: nobody is in without one. A person sees her own account, at whatever level.
	c := &Caller{Principal: l.Person.ID, Kind: "person", Name: l.Person.Name, Trust: l.Trust, MFA: l.MFA, remote: a.remote(r)}
	if err := a.decide(r.Context(), c, nil, "read", "people/"+l.Person.ID); err != nil {
		return err
	}
	a.forget(r)
	s, secret, err := a.begin(r.Context(), l)
	if err != nil {
		return err
	}
	a.setCookie(w, secret, s.Expires.Sub(s.Created))
	return nil
}

// forget ends the session that a browser shows, if there is one.
func (a *Access) forget(r *http.Request) {
	for _, k := range r.Cookies() {
		if k.Name != a.cookieName() {
			continue
		}
		if c, err := a.bySession(r.Context(), k.Value); err == nil {
			if err := a.RevokeSession(r.Context(), c.Session); err != nil && !errors.Is(err, ErrNotFound) {
				a.opt.Logger.Warn("a session that another takes the place of could not be ended; it ends by itself", "err", err)
			}
		}
	}
}
