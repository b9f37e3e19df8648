package oidc

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// Bounds of what a provider says of somebody.
const (
	maxSubject = 255 // OpenID Connect Core 1.0, 2
	maxEmail   = 254 // RFC 5321, 4.5.3.1.3
	maxGroups  = 2000
	maxGroup   = 256
)

// Who is somebody as the provider knows her. Issuer and Subject together name her for good; the address of mail may become another's.
type Who struct {
	Issuer, Subject string
	Email           string
	EmailVerified   bool
	Groups          []string
	MFA             bool
}

// claims are what is read of an ID token, or of what the provider says of a user. Providers differ in how they write some.
type claims struct {
	Subject       string   `json:"sub"`
	Email         string   `json:"email"`
	EmailVerified truth    `json:"email_verified"`
	AMR           []string `json:"amr"`
	ACR           string   `json:"acr"`
	groups        []string
	hasGroups     bool
}

// truth is true, "true", or anything else for no.
type truth bool

func (t *truth) UnmarshalJSON(b []byte) error {
	*t = string(b) == "true" || string(b) == `"true"`
	return nil
}

// read reads claims, with the groups under the name that the file gives them: a text, or a list of texts.
func (p *Provider) read(into func(any) error) (c claims, err error) {
	var all map[string]json.RawMessage
	if err = into(&all); err == nil {
		err = into(&c)
	}
	if err != nil {
		return c, fmt.Errorf("%w: what the provider says of the user cannot be read: %w", ErrDenied, err)
	}
	raw, ok := all[p.o.Groups]
	if !ok {
		return c, nil
	}
	c.hasGroups = true
	var one string
	switch {
	case json.Unmarshal(raw, &one) == nil:
		c.groups = []string{one}
	case json.Unmarshal(raw, &c.groups) != nil:
		return c, fmt.Errorf("%w: the claim %.60s is neither a text nor a list of texts", ErrDenied, p.o.Groups)
	}
	if len(c.groups) > maxGroups {
		return c, fmt.Errorf("%w: the claim %.60s has %d groups, at most %d", ErrDenied, p.o.Groups, len(c.groups), maxGroups)
	}
	for _, g := range c.groups {
		if len(g) > maxGroup {
			return c, fmt.Errorf("%w: the claim %.60s has a group of %d bytes, at most %d", ErrDenied, p.o.Groups, len(g), maxGroup)
		}
	}
	return c, nil
}

// who reads an ID token that is right, and asks the provider for what it has not.
func (p *Provider) who(ctx context.Context, k *known, id *gooidc.IDToken, token *oauth2.Token) (*Who, error) {
	c, err := p.read(id.Claims)
	if err != nil {
		return nil, err
	}
	if (c.Email == "" || !c.hasGroups) && k.said.UserInfo != "" {
		if c, err = p.userInfo(ctx, k, c, id.Subject, token); err != nil {
			return nil, err
		}
	}
	w := &Who{Issuer: p.o.Issuer, Subject: id.Subject, Email: c.Email, EmailVerified: bool(c.EmailVerified), Groups: c.groups, MFA: p.hasMFA(c.AMR, c.ACR)}
	if w.Subject == "" || len(w.Subject) > maxSubject || !utf8.ValidString(w.Subject) {
		return nil, fmt.Errorf("%w: the ID token's subject has %d bytes; it has 1 to %d", ErrDenied, len(w.Subject), maxSubject)
	}
	if !isEmail(w.Email) {
		w.Email, w.EmailVerified = "", false
	}
	return w, nil
}

// userInfo adds what the ID token has not. What it has stays: it is signed.
func (p *Provider) userInfo(ctx context.Context, k *known, c claims, subject string, token *oauth2.Token) (claims, error) {
	info, err := k.provider.UserInfo(ctx, oauth2.StaticTokenSource(token))
	if err != nil {
		return c, fmt.Errorf("%w: its userinfo endpoint: %w", ErrUnavailable, err)
	}
	if info.Subject != subject { // OpenID Connect Core 1.0, 5.3.2
		return c, fmt.Errorf("%w: the userinfo endpoint speaks of another user", ErrDenied)
	}
	more, err := p.read(info.Claims)
	if err != nil {
		return c, err
	}
	if c.Email == "" {
		c.Email, c.EmailVerified = more.Email, more.EmailVerified
	}
	if !c.hasGroups {
		c.groups, c.hasGroups = more.groups, more.hasGroups
	}
	return c, nil
}

// isEmail is loose: an address is a name to us, and nothing is sent to it.
func isEmail(s string) bool {
	at := strings.LastIndexByte(s, '@')
	return at > 0 && at < len(s)-1 && len(s) <= maxEmail && utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == 0x7f })
}
