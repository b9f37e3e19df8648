package oidc_test

import (
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/access/oidc"
)

const whole = `
issuer: https://accounts.example.com
client_id: quantra
client_secret_file: /etc/quantra/oidc.secret
redirect: https://profiles.example.com/login/callback
scopes: [groups]
groups_claim: roles
mfa: [mfa, hwk]
session: 8h
keep: 168h
grants:
  - group: sre
    give: [analyst, "operator:checkout"]
  - domain: example.com
    give: [reader]
  - email: Root@example.com
    give: [admin, reader]
  - all: true
    give: [writer]
`

func grant(s string) error {
	if role, _, _ := strings.Cut(s, ":"); role == "wizard" {
		return errors.New("there are no wizards")
	}
	return nil
}

func TestDecode(t *testing.T) {
	c, err := oidc.Decode(strings.NewReader(whole), grant)
	if err != nil {
		t.Fatal(err)
	}
	if c.Issuer != "https://accounts.example.com" || c.Groups != "roles" || strings.Join(c.MFA, " ") != "mfa hwk" || c.Session != 8*time.Hour || c.Keep != 7*24*time.Hour || len(c.Rules) != 4 || c.Scopes[0] != "groups" {
		t.Errorf("%+v", c)
	}
	for _, x := range []struct {
		who  oidc.Who
		want string
	}{
		{oidc.Who{}, "writer"},
		{oidc.Who{Groups: []string{"sre"}}, "analyst operator:checkout writer"},
		{oidc.Who{Groups: []string{"SRE"}}, "writer"}, // groups are as they are written
		{oidc.Who{Email: "ann@example.com"}, "writer"},
		{oidc.Who{Email: "ann@example.com", EmailVerified: true}, "reader writer"},
		{oidc.Who{Email: "root@EXAMPLE.com", EmailVerified: true}, "reader admin writer"},
		{oidc.Who{Email: "ann@example.com.evil.example", EmailVerified: true}, "writer"},
		{oidc.Who{Email: "\"ann@example.com\"@evil.example", EmailVerified: true}, "writer"},
		{oidc.Who{Email: "ann@sub.example.com", EmailVerified: true}, "writer"},
	} {
		if got := strings.Join(c.Given(&x.who), " "); got != x.want {
			t.Errorf("%+v: %q, want %q", x.who, got, x.want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	base := "issuer: https://a.example\nclient_id: q\n"
	for in, want := range map[string]string{
		"client_id: q": "issuer", "issuer: https://a.example": "client_id",
		"issuer: http://a.example\nclient_id: q":                    "https://",
		"issuer: https://u:p@a.example\nclient_id: q":               "not the URL",
		"issuer: http://127.evil.example\nclient_id: q":             "https://",
		"issuer: a.example\nclient_id: q":                           "not the URL",
		base + "secret: x":                                          "secret",
		base + "redirect: https://p.example/callback":               "/login/callback",
		base + "redirect: http://p.example/login/callback":          "https://",
		base + "session: 1s":                                        "session",
		base + "grants: [{group: a}]":                               "give",
		base + "grants: [{give: [reader]}]":                         "one of",
		base + "grants: [{group: a, email: b@c.d, give: [reader]}]": "one of",
		base + "grants: [{all: false, give: [reader]}]":             "nobody",
		base + "grants: [{domain: a@b.example, give: [reader]}]":    "after the @",
		base + "grants: [{group: a, give: [wizard]}]":               "wizards",
		base + "client_id: r":                                       "client_id",
		strings.Repeat("#", 1<<17):                                  "",
	} {
		if c, err := oidc.Decode(strings.NewReader(in), grant); !errors.Is(err, oidc.ErrFile) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q: %+v, %v", in, c, err)
		}
	}
}

// FuzzDecode: no text makes a configuration that would ask by a way that others can listen to.
func FuzzDecode(f *testing.F) {
	f.Add(whole)
	f.Add("issuer: http://127.0.0.1:1\nclient_id: q\ngrants: []\n")
	f.Fuzz(func(t *testing.T, in string) {
		c, err := oidc.Decode(strings.NewReader(in), grant)
		if err != nil {
			return
		}
		if u, err := url.Parse(c.Issuer); err != nil || u.Scheme != "https" && u.Hostname() != "localhost" && !net.ParseIP(u.Hostname()).IsLoopback() {
			t.Errorf("%q: %v", c.Issuer, err)
		}
	})
}
