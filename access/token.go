package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/control"
)

// Token lets a program ask in somebody's name, with some of her rights. ID is its pseudonym, and public.
type Token struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"` // what it is for
	Person  string    `json:"person,omitempty"`
	Grants  []Grant   `json:"grants"`
	Trust   int       `json:"trust"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

type keptToken struct {
	Token
	Hash secretHash `json:"hash"`
}

// CreateToken makes a token with grants, of which its maker has each. The secret is told once.
func (a *Access) CreateToken(ctx context.Context, by *Caller, name string, grants []Grant, trust int, ttl time.Duration) (t Token, secret string, err error) {
	if err := errors.Join(checkName(name), checkGrants(grants)); err != nil {
		return t, "", err
	}
	if len(grants) == 0 {
		return t, "", fmt.Errorf("%w: a token needs at least one role", ErrInvalid)
	}
	if ttl == 0 {
		ttl = DefaultToken
	}
	if ttl < time.Minute || ttl > MaxTokenTTL {
		return t, "", fmt.Errorf("%w: a token holds for 1m to %v", ErrInvalid, MaxTokenTTL)
	}
	if trust == 0 {
		trust = min(by.Trust, TrustVerified)
	}
	if trust < 1 || trust > by.Trust {
		return t, "", fmt.Errorf("%w: a token is not worth more than the login of its maker, which is %d", ErrDenied, by.Trust)
	}
	for _, g := range grants {
		if !covers(by.Grants, g) {
			return t, "", fmt.Errorf("%w: %s is not yours to hand on", ErrDenied, g)
		}
	}
	now := a.opt.Now().UTC().Truncate(time.Second)
	id := newID()
	k := keptToken{Token: Token{ID: "t-" + id, Name: name, Person: by.Person, Grants: grants, Trust: trust, Created: now, Expires: now.Add(ttl)}}
	secret, k.Hash = newSecret(prefixToken, id)
	err = a.keep(ctx, control.AccessRow{Kind: kindToken, ID: k.ID, Owner: by.Person, Expires: k.Expires}, k)
	return k.Token, secret, err
}

// byToken is the caller who shows a token.
func (a *Access) byToken(ctx context.Context, secret string) (*Caller, error) {
	id, err := parseSecret(prefixToken, secret)
	if err != nil {
		return nil, err
	}
	id = "t-" + id
	row, ok, err := a.db.Access(ctx, kindToken, id)
	if err != nil {
		return nil, a.word(err)
	}
	if !ok {
		return nil, &unproven{id, "the token is not known, has expired or was revoked"}
	}
	k, err := decodeRow[keptToken](row)
	if err != nil {
		return nil, err
	}
	if !k.Hash.matches(secret) {
		return nil, &unproven{id, "the token's secret is not right"}
	}
	if !a.opt.Now().Before(k.Expires) {
		return nil, &unproven{id, "the token has expired"}
	}
	c := &Caller{Principal: k.ID, Kind: "token", Name: k.Name, Grants: k.Grants, Trust: k.Trust, How: "token", Person: k.Person, Expires: k.Expires}
	if k.Person == "" { // made by whoever has the server's files
		return c, nil
	}
	p, err := a.Person(ctx, k.Person)
	if errors.Is(err, ErrNotFound) || err == nil && p.Blocked {
		return nil, &unproven{id, "the token's owner is no longer here"}
	}
	if err != nil {
		return nil, err
	}
	have := p.grants(a.opt.Now()) // what she has lost, her tokens have lost
	c.Grants = slices.DeleteFunc(slices.Clone(k.Grants), func(g Grant) bool { return !covers(have, g) })
	return c, nil
}

// unproven is a credential that nobody has: it is recorded, and refused.
type unproven struct{ id, why string }

func (u *unproven) Error() string { return u.why }
func (u *unproven) Unwrap() error { return ErrDenied }

// Tokens are a person's; of "" they are all.
func (a *Access) Tokens(ctx context.Context, person string) ([]Token, error) {
	rows, err := a.db.AccessRows(ctx, kindToken, person, maxListed)
	if err != nil {
		return nil, a.word(err)
	}
	out := make([]Token, 0, len(rows))
	for _, row := range rows {
		k, err := decodeRow[keptToken](row)
		if err != nil {
			return nil, err
		}
		out = append(out, k.Token)
	}
	slices.SortFunc(out, func(x, y Token) int { return strings.Compare(x.Name, y.Name) })
	return out, nil
}

// Token is one by its id.
func (a *Access) Token(ctx context.Context, id string) (t Token, err error) {
	row, ok, err := a.db.Access(ctx, kindToken, id)
	if err != nil {
		return t, a.word(err)
	}
	if !ok {
		return t, fmt.Errorf("%w: there is no token %.40s", ErrNotFound, id)
	}
	k, err := decodeRow[keptToken](row)
	return k.Token, err
}

// RevokeToken ends a token at once.
func (a *Access) RevokeToken(ctx context.Context, id string) error {
	n, err := a.db.DropAccess(ctx, kindToken, id, "")
	if err == nil && n == 0 {
		return fmt.Errorf("%w: there is no token %.40s", ErrNotFound, id)
	}
	return a.word(err)
}

// OwnerCredential makes the secret of this process's owner: whoever can read the file that cmd puts it in has the server's data as well. It
// is known to this process only, so a file that is left behind opens nothing.
func (a *Access) OwnerCredential() (secret string) {
	secret, a.owner = newSecret(prefixOwner, newID())
	return secret
}

// Owner is who has the credential file.
func (a *Access) Owner() *Caller {
	return &Caller{Principal: "local-owner", Kind: "service", Name: "the server's owner", Grants: []Grant{{Role: "admin"}}, Trust: TrustCritical, MFA: true, How: "local"}
}

// byBearer is the caller who shows a secret in Authorization.
func (a *Access) byBearer(ctx context.Context, secret string) (*Caller, error) {
	if strings.HasPrefix(secret, prefixOwner+"_") {
		if a.owner == (secretHash{}) || !a.owner.matches(secret) {
			return nil, &unproven{"local-owner", "the credential is of another run of the server"}
		}
		return a.Owner(), nil
	}
	return a.byToken(ctx, secret)
}
