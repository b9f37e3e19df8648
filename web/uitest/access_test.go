package uitest

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/chromedp/chromedp"

	"github.com/quantra-l/quantra/access"
	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/web"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// guarded is the fleet's server behind a real door. paused counts who has paused all changes.
func guarded(t *testing.T) (a *access.Access, base string, paused *atomic.Int32) {
	t.Helper()
	quarter(t) // fills the store
	db, err := control.Open(t.Context(), filepath.Join(t.TempDir(), "control.db"), control.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	record := func(context.Context, zerotrust.Event) error { return nil }
	guard, err := zerotrust.New(zerotrust.Options{Record: record})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guard.Close() })
	if a, err = access.New(access.Options{Control: db, Evaluate: guard.Evaluate, Record: record, Policy: policy.Standard, Issuer: seal.NewKey(), Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	paused = new(atomic.Int32)
	routes := fullBook().routes()
	maps.Copy(routes, fullNode(12).routes())
	routes["/api/v1/changes/pause"] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { paused.Add(1); w.Write([]byte("{}\n")) })
	ui, err := web.New(web.Options{Store: shared.store, Routes: routes, Allow: func(ctx context.Context, q web.Question) (web.Scope, error) {
		s, err := a.Allow(ctx, q.Raw, q.Services)
		var f *access.Refusal
		if errors.As(err, &f) {
			err = &web.Refusal{Code: connect.CodePermissionDenied, Text: f.Text}
		}
		return web.Scope{Services: s.Services}, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(a.Door(ui))
	t.Cleanup(s.Close)
	return a, s.URL, paused
}

// linkFor is a one-time link's path for a person with grants.
func linkFor(t *testing.T, a *access.Access, name string, grants ...access.Grant) string {
	t.Helper()
	p, err := a.CreatePerson(t.Context(), name, grants)
	if err != nil {
		t.Fatal(err)
	}
	code, err := a.Link(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return access.LoginPath + "?code=" + code
}

const atLogin = `/Log in/.test(document.querySelector("main h2")?.textContent ?? "")`

func TestOneTimeLink(t *testing.T) {
	a, base, _ := guarded(t)
	b := open(t, base)
	b.visit("/explore?service=checkout")
	b.until(atLogin + ` && !document.querySelector(".nav-item")`)

	link := linkFor(t, a, "ann", access.Grant{Role: "admin"})
	b.visit(link)
	b.until(`document.querySelectorAll("[data-service]").length === 3 && document.querySelector(".who-name").textContent === "ann"`)
	if got := eval[string](b, `location.pathname + location.search + document.cookie`); got != "/" {
		t.Errorf("after the link the page has %q: the code is still there, or scripts see the cookie", got)
	}
	other := open(t, base)
	other.visit(link)
	other.until(atLogin + ` && /has been used/.test(document.querySelector("main").innerText)`)

	b.do(chromedp.Click(`//button[text()="Log out"]`))
	b.until(atLogin)
	b.visit("/")
	b.until(atLogin)

	// A link that is pasted into the page does as well.
	p, err := a.Find(t.Context(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	code, err := a.Link(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.SendKeys(`input[name="code"]`, base+access.LoginPath+"?code="+code+"\r"))
	b.until(`document.querySelectorAll("[data-service]").length === 3`)
}

// TestBarFits: whoever is logged in, the bar is no wider than the page, and nothing in it lies over another.
func TestBarFits(t *testing.T) {
	a, base, _ := guarded(t)
	b := open(t, base)
	b.do(chromedp.EmulateViewport(900, 800))
	b.visit(linkFor(t, a, "somebody.with.a.long.name@example.org", access.Grant{Role: "admin"}))
	b.until(`document.querySelectorAll("[data-service]").length === 3 && !!document.querySelector(".who-name")`)
	if got := eval[int](b, `document.documentElement.scrollWidth`); got > 900 {
		t.Errorf("at 900 px the page is %d px wide", got)
	}
	b.visit("/explore?service=checkout")
	b.until(drawn)
	if got := eval[int](b, `document.documentElement.scrollWidth`); got > 900 {
		t.Errorf("at 900 px the flame graph's page is %d px wide", got)
	}
	b.do(chromedp.EmulateViewport(400, 800))
	b.visit("/findings")
	b.until(`!!document.querySelector(".who-name") && !!document.querySelector(".page.narrow")`)
	if over := eval[string](b, `(() => { const r = [...document.querySelectorAll(".top button, .top .who-name, .top .live, .top .nav")].filter((e) => e.offsetWidth > 0).map((e) => [e, e.getBoundingClientRect()]).sort((a, b) => a[1].left - b[1].left);
		return r.slice(1).filter(([, x], i) => x.left < r[i][1].right - 1).map(([e]) => e.className + " " + e.textContent).join() })()`); over != "" {
		t.Errorf("at 400 px these lie over what stands before them: %s", over)
	}
}

// totp is the code that an authenticator shows now (RFC 6238), by the address that it was set up with.
func totp(t *testing.T, uri string) string {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := base32.StdEncoding.DecodeString(u.Query().Get("secret"))
	if err != nil {
		t.Fatal(err)
	}
	h := hmac.New(sha1.New, secret)
	binary.Write(h, binary.BigEndian, time.Now().Unix()/30)
	sum := h.Sum(nil)
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[sum[len(sum)-1]&15:])&0x7fffffff%1_000_000)
}

// TestSecondFactor: whoever has one is asked for it once, may put it off, and is more when she has shown it.
func TestSecondFactor(t *testing.T) {
	a, base, _ := guarded(t)
	link := linkFor(t, a, "mia", access.Grant{Role: "reader"})
	p, err := a.Find(t.Context(), "mia")
	if err != nil {
		t.Fatal(err)
	}
	uri, err := a.EnrolFactor(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, base)
	b.visit(link)
	const asked = `document.querySelector("main h2")?.textContent === "Second factor" && !document.querySelector(".nav-item")`
	b.until(asked)
	b.do(chromedp.Click(`//button[text()="Later"]`))
	b.until(`document.querySelectorAll("[data-service]").length === 3`)
	b.do(chromedp.Click(`//button[text()="Second factor"]`))
	b.until(asked)
	b.do(chromedp.SendKeys(`input[name="totp"]`, "abcdef\r"))
	b.until(`/is not right/.test(document.querySelector("main").innerText)`)
	b.do(chromedp.SendKeys(`input[name="totp"]`, totp(t, uri)+"\r"))
	b.until(`document.querySelectorAll("[data-service]").length === 3 && /Log out/.test(document.querySelector(".who").innerText) && !/Second factor/.test(document.querySelector(".who").innerText)`)
	list, err := a.Sessions(t.Context(), p.ID)
	if err != nil || len(list) != 1 || !list[0].MFA {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestReader: sums, and nothing that she may not; what she asks for all the same is refused with the policy's name.
func TestReader(t *testing.T) {
	a, base, _ := guarded(t)
	b := open(t, base)
	b.visit(linkFor(t, a, "rita", access.Grant{Role: "reader", Service: "checkout"}))
	b.until(`document.querySelectorAll("[data-service]").length === 1 && document.querySelector("[data-service]").dataset.service === "checkout"`)
	b.visit("/explore?service=checkout")
	b.until(drawn + ` && !!document.querySelector(".who-name")`)
	if got := eval[string](b, `document.querySelector(".nav").innerText + document.querySelector(".viewbar, main").innerText`); strings.Contains(got, "Goroutines") || strings.Contains(got, "Labels") {
		t.Errorf("a reader is offered raw profiles: %s", got)
	}
	ask := func(method, matchers string) string {
		t.Helper()
		b.do(chromedp.Evaluate[chromedp.Void](`window.__answer = ""; fetch("/quantra.v1.QuerierService/` + method + `", { method: "POST", headers: { "Content-Type": "application/json" },
			body: JSON.stringify({ selection: { profileType: "process_cpu:cpu:nanoseconds:cpu:nanoseconds", matchers: '` + matchers + `' } }) }).then(async (r) => { window.__answer = r.status + " " + await r.text(); })`))
		b.until(`window.__answer !== ""`)
		return eval[string](b, `window.__answer`)
	}
	if got := ask("Top", `{service_name="checkout"}`); !strings.HasPrefix(got, "200 ") {
		t.Errorf("sums of her service: %.200s", got)
	}
	for method, matchers := range map[string]string{"SampleLabels": `{service_name="checkout"}`, "Profiles": `{service_name="checkout"}`, "Top": `{service_name="billing"}`} {
		if got := ask(method, matchers); !strings.HasPrefix(got, "403 ") || !strings.Contains(got, "is denied to rita") {
			t.Errorf("%s of %s: %.300s", method, matchers, got)
		}
	}
}

// TestRevokedMidway: a session that is ended elsewhere ends here with the next request.
func TestRevokedMidway(t *testing.T) {
	a, base, _ := guarded(t)
	b := open(t, base)
	b.visit(linkFor(t, a, "ann", access.Grant{Role: "analyst"}))
	b.until(`document.querySelectorAll("[data-service]").length === 3`)
	list, err := a.Sessions(t.Context(), "")
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	if err := a.RevokeSession(t.Context(), list[0].ID); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Click(`button[aria-label="Refresh now"]`))
	b.until(atLogin + ` && /Log in to go on/.test(document.querySelector("main").innerText)`)
}

// TestOtherOrigin: a page of another origin on the same host, to which the browser sends the cookie, changes nothing and reads nothing.
func TestOtherOrigin(t *testing.T) {
	a, base, paused := guarded(t)
	foreign := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Write([]byte("<!doctype html><title>x</title>"))
	}))
	defer foreign.Close()
	b := open(t, base)
	b.visit(linkFor(t, a, "olga", access.Grant{Role: "operator"}))
	b.until(`document.querySelectorAll("[data-service]").length === 3`)
	b.do(chromedp.Navigate(foreign.URL))
	b.do(chromedp.Evaluate[chromedp.Void](`window.__done = 0; for (const o of [{ method: "POST", body: "{}" }, {}]) fetch("` + base + `/api/v1/changes" + (o.method ? "/pause" : ""), { ...o, mode: "no-cors", credentials: "include" }).finally(() => window.__done++)`))
	b.until(`window.__done === 2`)
	if n := paused.Load(); n != 0 {
		t.Errorf("another origin's page has paused changes %d times", n)
	}
	b.visit("/")
	b.do(chromedp.Evaluate[chromedp.Void](`window.__done = 0; fetch("/api/v1/changes/pause", { method: "POST", body: "{}" }).finally(() => window.__done++)`))
	b.until(`window.__done === 1`)
	if n := paused.Load(); n != 1 {
		t.Errorf("our own page's request came %d times: the test shows nothing", n)
	}
}
