package access

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestBy: nobody does anything in another's name, or in that of a part of the server.
func TestBy(t *testing.T) {
	machine := func(s string) bool { return s == "optimizer" }
	for _, c := range []struct {
		who        *Caller
		said, want string
	}{
		{&Caller{Kind: "person", Name: "ann@example.com"}, "bob", "ann@example.com"},
		{&Caller{Kind: "person", Name: "ann@example.com"}, "", "ann@example.com"},
		{&Caller{Kind: "person", Name: "optimizer"}, "ann", "person optimizer"},
		{&Caller{Kind: "token", Name: "optimizer", Principal: "t-1"}, "ann", "token optimizer (t-1)"},
		{&Caller{Kind: "service", Principal: "c-12", How: "certificate"}, "ann", "c-12"},
		{&Caller{Kind: "service", Principal: "local-owner", How: "local"}, "ada", "ada"},
		{&Caller{Kind: "service", Principal: "local-owner", How: "local"}, "", "local-owner"},
		{nil, "ada", "ada"},
	} {
		if got := c.who.By(c.said, machine); got != c.want {
			t.Errorf("%+v says %q: %q", c.who, c.said, got)
		}
	}
	if got := (&Caller{Kind: "person", Name: strings.Repeat("ü", 150)}).By("", nil); len(got) > maxBy || !utf8.ValidString(got) {
		t.Errorf("%d bytes", len(got))
	}
}

// TestRedactedAnswers: what names functions in words hides them from a reader, and from nobody else.
func TestRedactedAnswers(t *testing.T) {
	rules, err := ParseRedaction([]byte(`^github\.com/example/pricing/secret\.(\(\*\w+\)\.)?(\w+) => pricing.(hidden)` + "\n" + `^ns::Secret => ns::(hidden)`))
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"github.com/example/pricing/secret.Discount got slower.":           "pricing.(hidden) got slower.",
		"It is github.com/example/pricing/secret.(*Table).Get, since v2.":  "It is pricing.(hidden), since v2.",
		"`github.com/example/pricing/secret.F` and main.work: 0.5 % more.": "`pricing.(hidden)` and main.work: 0.5 % more.",
		"github.com/example/pricing/secret.F":                              "pricing.(hidden)",
		"ns::Secret::operator std::string() const":                         "ns::(hidden)",
		"open":                   "open",
		"2026-11-02T12:00:00.5Z": "2026-11-02T12:00:00.5Z",
		"What grew is github.com/example/pricing/secret.F. It holds since 2 windows.": "What grew is pricing.(hidden). It holds since 2 windows.",
	} {
		if got := rules.Text(in); got != want {
			t.Errorf("%q\n  is %q\nwant %q", in, got, want)
		}
	}
	h := open(t, func(o *Options) { o.Redact = func() *Redaction { return rules } })
	const body = `{"finding":{"function":"github.com/example/pricing/secret.F","sentence":"github.com/example/pricing/secret.F is slow.","n":12345678901234567890,"list":["ns::Secret"]}}`
	inner := h.Redacted(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("broken") != "" {
			io.WriteString(w, body[:20])
			return
		}
		w.Header().Set("ETag", "x")
		io.WriteString(w, body)
	}))
	h.inside = inner.ServeHTTP
	_, reader := h.person("rita", TrustVerified, "reader")
	_, analyst := h.person("ana", TrustVerified, "reader", "analyst")
	a := h.do("GET", "/api/v1/findings", "", "Cookie: "+reader)
	if strings.Contains(a.body, "secret.F") || !strings.Contains(a.body, "pricing.(hidden) is slow.") || !strings.Contains(a.body, "12345678901234567890") || strings.Contains(a.body, "Secret") || a.header.Get("ETag") != "" {
		t.Errorf("a reader sees %s", a.body)
	}
	if a := h.do("GET", "/api/v1/findings?broken=1", "", "Cookie: "+reader); a.status != 500 || strings.Contains(a.body, "function") {
		t.Errorf("an answer that cannot be read: %d %s", a.status, a.body)
	}
	if a := h.do("GET", "/api/v1/findings", "", "Cookie: "+analyst); a.body != body {
		t.Errorf("an analyst sees %s", a.body)
	}
}
