// Package access is who may ask the profiler what: people and their roles, tokens, sessions, one-time links, agents and how they enrol.
// Its [Door] stands before every route of the server: it finds out who asks, looks up in one table what the route demands, and has the
// guard decide (package zerotrust); what is not in the table is denied. It keeps documents in the control database, and of secrets only
// what they hash to.
//
// What is kept, and under which name it stands in records: docs/access.md.
package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/access/oidc"
	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// The words a caller branches on; the text says what and where.
var (
	ErrInvalid     = errors.New("invalid")     // a name, a role, a service that cannot be
	ErrDenied      = errors.New("denied")      // nobody who may
	ErrNotFound    = errors.New("not found")   // no such person, token or session
	ErrUnavailable = errors.New("unavailable") // the database does not answer, the decision could not be recorded
)

// Roles are what may be granted, and writer, which is for programs' tokens. What each may do is policy's: docs/policy.md.
var Roles = []string{"reader", "analyst", "operator", "admin", "writer"}

// What a login proves, as trust: docs/policy.md, "People".
const (
	TrustCritical = 100
	TrustVerified = 60
	TrustBasic    = 50
)

// How long things hold.
const (
	LinkTTL        = 10 * time.Minute
	SessionIdle    = 12 * time.Hour
	SessionTTL     = 7 * 24 * time.Hour
	EnrolTTL       = time.Hour
	DefaultToken   = 90 * 24 * time.Hour
	MaxTokenTTL    = 366 * 24 * time.Hour
	agentTTL       = 365 * 24 * time.Hour
	seenEvery      = time.Minute // a session's last use is written so often at most
	maxListed      = 10_000      // rows of one answer
	maxGrants      = 64          // of one person or token
	maxServiceName = 2048        // bytes, as of labels of profiles
)

// Grant is a role, for one service or for all.
type Grant struct {
	Role    string `json:"role"`
	Service string `json:"service,omitempty"` // "" is all
}

func (g Grant) String() string {
	if g.Service == "" {
		return g.Role
	}
	return g.Role + ":" + g.Service
}

// ParseGrant reads ROLE or ROLE:SERVICE.
func ParseGrant(s string) (Grant, error) {
	role, service, scoped := strings.Cut(s, ":")
	g := Grant{Role: role, Service: service}
	if scoped && service == "" {
		return g, fmt.Errorf("%w: %.60q: there is no service after the colon", ErrInvalid, s)
	}
	return g, g.check()
}

func (g Grant) check() error {
	if !slices.Contains(Roles, g.Role) {
		return fmt.Errorf("%w: role %.40q: there are %s", ErrInvalid, g.Role, strings.Join(Roles, ", "))
	}
	if len(g.Service) > maxServiceName || strings.ContainsFunc(g.Service, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return fmt.Errorf("%w: service %.40q: a name has at most %d bytes and no control characters", ErrInvalid, g.Service, maxServiceName)
	}
	if g.Service != "" && g.Role == "admin" {
		return fmt.Errorf("%w: an admin is one of the whole server: grant operator for a service", ErrInvalid)
	}
	return nil
}

func checkGrants(all []Grant) error {
	if len(all) > maxGrants {
		return fmt.Errorf("%w: %d grants, at most %d", ErrInvalid, len(all), maxGrants)
	}
	for _, g := range all {
		if err := g.check(); err != nil {
			return err
		}
	}
	return nil
}

// covers says that whoever has these grants may hand on g.
func covers(have []Grant, g Grant) bool {
	return slices.ContainsFunc(have, func(h Grant) bool {
		return (h.Role == g.Role || h.Role == "admin") && (h.Service == "" || h.Service == g.Service)
	})
}

// Caller is who asks, once that has been shown.
type Caller struct {
	Principal string // a pseudonym, as in records
	Kind      string // person, token or service
	Name      string // for people to read; never in records
	Grants    []Grant
	Trust     int
	MFA       bool
	How       string // link, provider, token, certificate, local, open
	Person    string // whose the token is, or herself; "" is nobody
	Session   string // its id, where it came by one
	Expires   time.Time

	remote netip.Addr
	key    seal.PublicKey // of an agent, with its document
	doc    []byte
}

// roles are the caller's roles for a service; for "" those that hold for all.
func (c *Caller) roles(service string) (out []string) {
	for _, g := range c.Grants {
		if (g.Service == "" || g.Service == service) && !slices.Contains(out, g.Role) {
			out = append(out, g.Role)
		}
	}
	return out
}

// Options are what an Access needs to know. Control, Evaluate, Record and Issuer have no default.
type Options struct {
	Control *control.DB
	// Evaluate is the guard's, and so is Record where the guard is not asked: a credential that nobody has.
	Evaluate func(context.Context, zerotrust.Request) (zerotrust.Decision, error)
	Record   func(context.Context, zerotrust.Event) error
	// Policy is what is in force, to tell a caller what she may before she tries; nil tells nothing.
	Policy func() *policy.Set
	// Issuer vouches for agents that enrol here.
	Issuer seal.Key
	// Open lets in senders of profiles who show neither a key that has enrolled nor a token, as service "local" with the role writer.
	Open bool
	// Allowed are keys of agents that need not enrol; nil is none. It is asked for each signed request.
	Allowed func(seal.PublicKey) bool
	// Secure says that people come by TLS: cookies are never sent otherwise. Cookie tells this server's cookie from that of another one on
	// the same host, as browsers do not look at the port: letters and digits.
	Secure bool
	Cookie string
	// Proxies are those whose X-Forwarded-For is believed; nil is none.
	Proxies []netip.Prefix
	// Certificates says whom a verified client certificate names; nil is that certificates say nothing.
	Certificates func(*http.Request) Certificate
	// Provider logs people in who are known elsewhere; nil is that links do alone.
	Provider *oidc.Provider
	// Redact are the rules by which frames' names are hidden from those who are readers only; nil is none.
	Redact func() *Redaction
	Logger *slog.Logger
	Now    func() time.Time // nil is time.Now
}

// Certificate is whom a verified client certificate names: a person, or what sends a service's profiles.
type Certificate struct {
	Person  string // her name here; "" is nobody
	Agent   bool
	Service string // whose profiles an agent may send, and no other's
	Key     string // of an agent: names its key in records
	Broken  bool   // it names an agent, and cannot be read
}

// Access knows who may ask. Its methods may be called by many goroutines.
type Access struct {
	opt      Options
	db       *control.DB
	owner    secretHash // of the credential file; the zero value is none
	failures *failures
	factors  *seal.Box // of second factors' secrets
	table    *http.ServeMux
	own      map[seal.PublicKey][]byte // identities of the server's own agents; set before the first request
}

// New checks o. Expired rows are removed by [Access.Sweep].
func New(o Options) (*Access, error) {
	if o.Control == nil || o.Evaluate == nil || o.Record == nil {
		return nil, errors.New("access: Options: Control, Evaluate and Record are needed: nobody is let in without a decision, and none is made without a record")
	}
	if o.Issuer.Seed() == nil {
		return nil, errors.New("access: Options.Issuer is needed: it vouches for agents, and secrets are sealed by what follows from it")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	for _, c := range o.Cookie {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			return nil, fmt.Errorf("access: Options.Cookie %q: only letters and digits", o.Cookie)
		}
	}
	box, err := factorBox(o.Issuer)
	if err != nil {
		return nil, err
	}
	a := &Access{opt: o, db: o.Control, failures: newFailures(o.Now), factors: box, own: map[seal.PublicKey][]byte{}}
	a.table = a.demands()
	return a, nil
}

// Sweep removes what has expired: sessions, links, tokens.
func (a *Access) Sweep(ctx context.Context) error { return a.word(a.db.ExpireAccess(ctx)) }

// word is a database's error in this room's words.
func (a *Access) word(err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, control.ErrInvalid):
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// decide has the guard decide what a caller wants to do with something of a service; "" is of all.
func (a *Access) decide(ctx context.Context, c *Caller, roles []string, action, resource string) error {
	req := zerotrust.Request{
		Principal: c.Principal, Kind: c.Kind, Roles: roles, Trust: c.Trust, MFA: c.MFA, Remote: c.remote, Action: action, Resource: resource,
		Document: c.doc, Key: c.key,
	}
	d, err := a.opt.Evaluate(ctx, req)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	d.Release()
	if d.Allow {
		return nil
	}
	return &Refusal{Status: http.StatusForbidden, Code: "permission_denied", Reason: d.Reason, Policies: d.Policies, RetryAfter: d.RetryAfter, Text: explain(c, &d, action, resource)}
}

// Refusal is why a request is not answered, and what to do. It is [ErrDenied].
type Refusal struct {
	Status     int
	Code       string // of docs/api.md
	Text       string
	Reason     string   // the guard's
	Policies   []string // that decided
	RetryAfter time.Duration
}

func (r *Refusal) Error() string { return r.Text }
func (r *Refusal) Unwrap() error { return ErrDenied }

// explain says which policy decided, and how to get the right.
func explain(c *Caller, d *zerotrust.Decision, action, resource string) string {
	by := ""
	if len(d.Policies) > 0 {
		by = " (" + strings.Join(d.Policies, ", ") + ")"
	}
	text := fmt.Sprintf("%s of %s is denied to %s: %s%s", action, resource, cmp.Or(c.Name, c.Principal), d.Reason, by)
	switch {
	case d.RetryAfter > 0:
		return text + "; ask again in a moment"
	case d.Conditions.MFA && !c.MFA:
		return text + "; show your second factor: `quantraband access mfa`, or log in with one"
	case slices.Contains(d.Policies, "raw-level"):
		return text + "; single profiles want a login with a second factor, or the one-time link of `quantraband login --link` on the server's machine"
	case len(d.Policies) == 0 && c.Kind == "token":
		return text + "; a token has the roles that it was made with: `quantraband token create`"
	case len(d.Policies) == 0:
		return text + "; an admin grants roles: `quantraband user grant " + cmp.Or(c.Name, "NAME") + " ROLE`"
	}
	return text
}

// Segment is a service's name as one segment of a resource's path: letters, digits and -._ stand for themselves, the rest is escaped, so that a
// name cannot be another path. One that is too long is named by its beginning and hash.
func Segment(service string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(service) {
		switch c := service[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && service != "." && service != "..":
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	const most = 256
	if s := b.String(); len(s) <= most {
		return s
	}
	return b.String()[:most-70] + "~" + hashText(service)
}

// under is a resource, of a service where one is named.
func under(resource, service string) string {
	if service == "" {
		return resource
	}
	return resource + "/" + Segment(service)
}
