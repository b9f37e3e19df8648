package oidc

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/internal/strictyaml"
)

// ErrFile says that a configuration is not one; the text says where and why.
var ErrFile = errors.New("not a configuration of an identity provider")

// Bounds of a configuration.
const (
	MaxFile   = 64 << 10
	maxRules  = 500
	maxGiven  = 16 // grants of one rule
	maxValues = 32
	maxText   = 1 << 10
)

// What holds where the file says nothing.
const (
	DefaultSession = 12 * time.Hour
	DefaultKeep    = 30 * 24 * time.Hour
)

// Config is what the file of an identity provider says. docs/access.md has its fields.
type Config struct {
	Issuer     string // its URL, as its discovery document has it
	ClientID   string
	SecretFile string   // of the client's secret; "" is the environment's, or none: a public client
	CAFile     string   // whom the issuer's certificate is signed by; "" is the system's
	Redirect   string   // our callback's URL as it is registered; "" is made from the server's own
	Scopes     []string // beside openid, email and profile
	Groups     string   // the claim that has the groups
	MFA        []string // values of amr or acr by which the provider says that a second factor was shown
	Session    time.Duration
	Keep       time.Duration // how long without a login what the provider has given holds, for tokens
	Rules      []Rule
}

// Rule gives roles to those whom it fits: of a group, of an address of mail or its domain, or all. One of them is set.
type Rule struct {
	Group, Email, Domain string
	All                  bool
	Give                 []string
}

// fits says whether a rule is for somebody. Addresses count where the provider has verified them.
func (r *Rule) fits(w *Who) bool {
	switch {
	case r.All:
		return true
	case r.Group != "":
		return slices.Contains(w.Groups, r.Group)
	case !w.EmailVerified || w.Email == "":
		return false
	case r.Email != "":
		return strings.EqualFold(r.Email, w.Email)
	}
	at := strings.LastIndexByte(w.Email, '@')
	return r.Domain != "" && strings.EqualFold(r.Domain, w.Email[at+1:])
}

// Given is what the rules give somebody, each once.
func (c *Config) Given(w *Who) (out []string) {
	for i := range c.Rules {
		if !c.Rules[i].fits(w) {
			continue
		}
		for _, g := range c.Rules[i].Give {
			if !slices.Contains(out, g) {
				out = append(out, g)
			}
		}
	}
	return out
}

// Decode reads a configuration: YAML with no field but those that docs/access.md has, each once. grant is why a text is no grant, nil where it is
// one. Errors that are not the reader's are [ErrFile].
func Decode(r io.Reader, grant func(string) error) (*Config, error) {
	c, err := decode(r, grant)
	var e *strictyaml.Error
	switch {
	case errors.As(err, &e):
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	case err != nil:
		return nil, fmt.Errorf("the identity provider's file: %w", err)
	}
	return c, nil
}

func decode(r io.Reader, grant func(string) error) (*Config, error) {
	root, err := strictyaml.Parse(r, MaxFile)
	if err != nil {
		return nil, err
	}
	c := &Config{Groups: "groups", MFA: []string{"mfa"}, Session: DefaultSession, Keep: DefaultKeep}
	seen, err := strictyaml.Fields(root, "", map[string]strictyaml.Reader{
		"issuer": func(n *strictyaml.Node, f string) (err error) {
			if c.Issuer, err = strictyaml.TextOf(n, f, maxText); err != nil {
				return err
			}
			if err := checkURL(c.Issuer); err != nil {
				return strictyaml.Wrong(n, f, "%v", err)
			}
			return nil
		},
		"redirect": func(n *strictyaml.Node, f string) (err error) {
			if c.Redirect, err = strictyaml.TextOf(n, f, maxText); err != nil {
				return err
			}
			u, err := url.Parse(c.Redirect)
			if err := checkURL(c.Redirect); err != nil {
				return strictyaml.Wrong(n, f, "%v", err)
			}
			if err != nil || path.Clean(u.Path) != CallbackPath {
				return strictyaml.Wrong(n, f, "it must end with %s", CallbackPath)
			}
			return nil
		},
		"client_id":          text(&c.ClientID),
		"client_secret_file": text(&c.SecretFile),
		"ca_file":            text(&c.CAFile),
		"groups_claim":       text(&c.Groups),
		"scopes":             texts(&c.Scopes),
		"mfa":                texts(&c.MFA),
		"session": func(n *strictyaml.Node, f string) error {
			return strictyaml.Duration(n, f, 5*time.Minute, 7*24*time.Hour, &c.Session)
		},
		"keep": func(n *strictyaml.Node, f string) error {
			return strictyaml.Duration(n, f, time.Hour, 366*24*time.Hour, &c.Keep)
		},
		"grants": func(n *strictyaml.Node, f string) error {
			return strictyaml.Items(n, f, maxRules, func(n *strictyaml.Node, f string) error {
				r, err := rule(n, f, grant)
				c.Rules = append(c.Rules, r)
				return err
			})
		},
	})
	if err != nil {
		return nil, err
	}
	for _, f := range []string{"issuer", "client_id"} {
		if !slices.Contains(seen, f) {
			return nil, strictyaml.Wrong(root, f, "it is missing")
		}
	}
	return c, nil
}

func rule(n *strictyaml.Node, field string, grant func(string) error) (r Rule, err error) {
	seen, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"group":  text(&r.Group),
		"email":  text(&r.Email),
		"domain": text(&r.Domain),
		"all":    func(n *strictyaml.Node, f string) error { return strictyaml.Bool(n, f, &r.All) },
		"give": func(n *strictyaml.Node, f string) error {
			return strictyaml.Items(n, f, maxGiven, func(n *strictyaml.Node, f string) error {
				g, err := strictyaml.TextOf(n, f, maxText)
				if err != nil {
					return err
				}
				if err := grant(g); err != nil {
					return strictyaml.Wrong(n, f, "%v", err)
				}
				r.Give = append(r.Give, g)
				return nil
			})
		},
	})
	if err != nil {
		return r, err
	}
	who := 0
	for _, f := range []string{"group", "email", "domain", "all"} {
		if slices.Contains(seen, f) {
			who++
		}
	}
	switch {
	case who != 1:
		return r, strictyaml.Wrong(n, field, "it must have one of group, email, domain and all")
	case slices.Contains(seen, "all") && !r.All:
		return r, strictyaml.Wrong(n, field, "all: false fits nobody")
	case len(r.Give) == 0:
		return r, strictyaml.Wrong(n, field+".give", "it is missing: what are they given?")
	case strings.ContainsRune(r.Domain, '@'):
		return r, strictyaml.Wrong(n, field+".domain", "%.80q: what comes after the @", r.Domain)
	}
	return r, nil
}

func text(to *string) strictyaml.Reader {
	return func(n *strictyaml.Node, f string) (err error) {
		*to, err = strictyaml.TextOf(n, f, maxText)
		return err
	}
}

// texts reads a list, which takes the place of what was there.
func texts(to *[]string) strictyaml.Reader {
	return func(n *strictyaml.Node, f string) error {
		*to = nil
		return strictyaml.Items(n, f, maxValues, func(n *strictyaml.Node, f string) error {
			s, err := strictyaml.TextOf(n, f, maxText)
			*to = append(*to, s)
			return err
		})
	}
}

// checkURL refuses what would show codes and tokens to whoever is on the way.
func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return fmt.Errorf("%.100q is not the URL of a server, as https://accounts.example.com", s)
	case u.Scheme == "https", u.Scheme == "http" && (u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()):
		return nil
	}
	return fmt.Errorf("%.100q must begin with https://: who is on the way could log in as anybody", s)
}
