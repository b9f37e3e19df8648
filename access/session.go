package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/quantra-l/quantra/control"
)

// Session is a browser that is logged in. ID is public.
type Session struct {
	ID      string    `json:"id"`
	Person  string    `json:"person"`
	Name    string    `json:"name,omitempty"`
	How     string    `json:"how"` // link, provider
	Trust   int       `json:"trust"`
	MFA     bool      `json:"mfa"`
	Created time.Time `json:"created"`
	Seen    time.Time `json:"seen"`
	Expires time.Time `json:"expires"`
}

type keptSession struct {
	Session
	Hash secretHash `json:"hash"`
}

// Login is what somebody has proved.
type Login struct {
	Person *Person
	How    string
	Trust  int
	MFA    bool
	TTL    time.Duration // of its session; 0 is SessionTTL
}

// begin makes a session. Its secret is for the cookie alone.
func (a *Access) begin(ctx context.Context, l Login) (s Session, secret string, err error) {
	now := a.opt.Now().UTC().Truncate(time.Second)
	k := keptSession{Session: Session{ID: newID(), Person: l.Person.ID, How: l.How, Trust: l.Trust, MFA: l.MFA, Created: now, Seen: now, Expires: now.Add(cmp.Or(l.TTL, SessionTTL))}}
	secret, k.Hash = newSecret(prefixSession, k.ID)
	err = a.keep(ctx, control.AccessRow{Kind: kindSession, ID: k.ID, Owner: l.Person.ID, Expires: earlier(now.Add(SessionIdle), k.Expires)}, k)
	if err == nil {
		_, err = a.changePerson(ctx, l.Person.ID, func(p *Person) error { p.Last = now; return nil })
	}
	return k.Session, secret, err
}

// bySession is the caller who shows a session's cookie.
func (a *Access) bySession(ctx context.Context, secret string) (*Caller, error) {
	id, err := parseSecret(prefixSession, secret)
	if err != nil {
		return nil, err
	}
	row, ok, err := a.db.Access(ctx, kindSession, id)
	if err != nil {
		return nil, a.word(err)
	}
	if !ok {
		return nil, &unproven{id, "the session has ended"}
	}
	k, err := decodeRow[keptSession](row)
	if err != nil {
		return nil, err
	}
	now := a.opt.Now().UTC().Truncate(time.Second)
	if !k.Hash.matches(secret) {
		return nil, &unproven{id, "the session's secret is not right"}
	}
	if !now.Before(k.Expires) || now.Sub(k.Seen) >= SessionIdle {
		return nil, &unproven{id, "the session has ended"}
	}
	p, err := a.Person(ctx, k.Person)
	if errors.Is(err, ErrNotFound) || err == nil && p.Blocked {
		return nil, &unproven{id, "the session's owner is no longer here"}
	}
	if err != nil {
		return nil, err
	}
	if now.Sub(k.Seen) >= seenEvery {
		k.Seen = now
		row.Expires = earlier(now.Add(SessionIdle), k.Expires)
		// Another request may have done it, or the session may have been revoked meanwhile, which must stay so.
		if err := a.keep(ctx, row, k); err != nil && !errors.Is(err, control.ErrConflict) {
			return nil, err
		}
	}
	return &Caller{Principal: p.ID, Kind: "person", Name: p.Name, Grants: p.grants(now), Trust: k.Trust, MFA: k.MFA, How: k.How, Person: p.ID, Session: k.ID, Expires: k.Expires}, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Sessions are a person's; of "" they are all.
func (a *Access) Sessions(ctx context.Context, person string) ([]Session, error) {
	rows, err := a.db.AccessRows(ctx, kindSession, person, maxListed)
	if err != nil {
		return nil, a.word(err)
	}
	names := map[string]string{}
	out := make([]Session, 0, len(rows))
	for _, row := range rows {
		k, err := decodeRow[keptSession](row)
		if err != nil {
			return nil, err
		}
		if _, ok := names[k.Person]; !ok {
			names[k.Person] = ""
			if p, err := a.Person(ctx, k.Person); err == nil { // else it is one of a person who has just been removed
				names[k.Person] = p.Name
			}
		}
		k.Name = names[k.Person]
		out = append(out, k.Session)
	}
	slices.SortFunc(out, func(x, y Session) int { return y.Seen.Compare(x.Seen) })
	return out, nil
}

// RevokeSession ends a session at once.
func (a *Access) RevokeSession(ctx context.Context, id string) error {
	n, err := a.db.DropAccess(ctx, kindSession, id, "")
	if err == nil && n == 0 {
		return fmt.Errorf("%w: there is no session %.40s", ErrNotFound, id)
	}
	return a.word(err)
}

// Link makes a one-time link's code for a person: whoever opens it first within LinkTTL is logged in as her.
func (a *Access) Link(ctx context.Context, p *Person) (code string, err error) {
	id := newID()
	code, hash := newSecret(prefixLink, id)
	return code, a.keep(ctx, control.AccessRow{Kind: kindLink, ID: id, Owner: p.ID, Expires: a.opt.Now().Add(LinkTTL)}, struct {
		Hash secretHash `json:"hash"`
	}{hash})
}

// FirstPerson is who opens the link that `up` prints: the first admin, made where there is none.
func (a *Access) FirstPerson(ctx context.Context) (*Person, error) {
	const name = "owner"
	p, err := a.Find(ctx, name)
	if errors.Is(err, ErrNotFound) {
		p, err = a.CreatePerson(ctx, name, []Grant{{Role: "admin"}, {Role: "analyst"}, {Role: "operator"}})
	}
	return p, err
}

// useLink takes a code: of two that show it one is let in.
func (a *Access) useLink(ctx context.Context, code string) (*Person, error) {
	id, err := parseSecret(prefixLink, code)
	if err != nil {
		return nil, &unproven{"", "the link is not one of this server"}
	}
	row, ok, err := a.db.Access(ctx, kindLink, id)
	if err != nil {
		return nil, a.word(err)
	}
	gone := &unproven{id, "the link has been used, or is older than " + LinkTTL.String()}
	if !ok {
		return nil, gone
	}
	k, err := decodeRow[struct {
		Hash secretHash `json:"hash"`
	}](row)
	if err != nil {
		return nil, err
	}
	if !k.Hash.matches(code) { // who knows the id alone must not be able to use it up
		return nil, &unproven{id, "the link's code is not right"}
	}
	if _, ok, err = a.db.TakeAccess(ctx, kindLink, id); err != nil {
		return nil, a.word(err)
	} else if !ok {
		return nil, gone
	}
	p, err := a.Person(ctx, row.Owner)
	if errors.Is(err, ErrNotFound) || err == nil && p.Blocked {
		return nil, &unproven{id, "the link's owner is no longer here"}
	}
	return p, err
}

// cookieName is __Host- where it can be: such a cookie is of this host alone, and comes by TLS.
func (a *Access) cookieName() string {
	name := "quantra_session" + a.opt.Cookie
	if a.opt.Secure {
		return "__Host-" + name
	}
	return name
}

// setCookie gives a browser its session for a time; "" takes it away.
func (a *Access) setCookie(w http.ResponseWriter, secret string, ttl time.Duration) {
	c := &http.Cookie{Name: a.cookieName(), Value: secret, Path: "/", HttpOnly: true, Secure: a.opt.Secure, SameSite: http.SameSiteLaxMode, MaxAge: int(ttl / time.Second)}
	if secret == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}
