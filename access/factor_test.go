package access

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestTOTP is RFC 6238's appendix B, and RFC 4226's appendix D.
func TestTOTP(t *testing.T) {
	secret := []byte("12345678901234567890")
	for at, want := range map[int64]string{59: "94287082", 1111111109: "07081804", 1111111111: "14050471", 1234567890: "89005924", 2000000000: "69279037", 20000000000: "65353130"} {
		if got := totp(secret, at/30, 8); got != want {
			t.Errorf("at %d: %s, want %s", at, got, want)
		}
	}
	for i, want := range []string{"755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"} {
		if got := totp(secret, int64(i), 6); got != want {
			t.Errorf("counter %d: %s, want %s", i, got, want)
		}
	}
}

// factor gives somebody a factor, as her authenticator has it.
func factor(t *testing.T, h *house, p *Person) (code func() string) {
	t.Helper()
	uri, err := h.EnrolFactor(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "otpauth" || u.Host != "totp" || u.Path != "/Quantra-L:"+p.Name || u.Query().Get("issuer") != "Quantra-L" {
		t.Fatalf("%s, %v", uri, err)
	}
	secret, err := base32Text.DecodeString(u.Query().Get("secret"))
	if err != nil || len(secret) != totpSecret {
		t.Fatal(err)
	}
	return func() string { return totp(secret, h.now().Unix()/30, totpDigits) }
}

func show(h *house, cookie, code string) (answer, string) {
	h.t.Helper()
	a := h.do("POST", FactorPath, fmt.Sprintf(`{"code":%q}`, code), "Cookie: "+cookie)
	next, _, _ := strings.Cut(a.header.Get("Set-Cookie"), ";")
	return a, next
}

// TestFactor: with a second factor the policy's condition is met, in a session of its own; without it it is not.
func TestFactor(t *testing.T) {
	h := open(t)
	p, cookie := h.person("olga", TrustVerified, "operator")
	code := factor(t, h, p)
	change := func(cookie string) answer { return h.do("POST", "/api/v1/changes", "{}", "Cookie: "+cookie) }
	if a := change(cookie); a.status != 403 || !strings.Contains(a.message, "second factor") {
		t.Fatalf("without it: %d %s", a.status, a.body)
	}
	if me := h.do("GET", "/api/v1/access/me", "", "Cookie: "+cookie); !strings.Contains(me.body, `"factor":true`) || !strings.Contains(me.body, `"mfa":false`) {
		t.Error(me.body)
	}
	a, raised := show(h, cookie, code())
	if a.status != 200 || raised == "" || raised == cookie {
		t.Fatalf("%d %s %q", a.status, a.body, raised)
	}
	if a := change(raised); a.status != 200 {
		t.Errorf("with it: %d %s", a.status, a.body)
	}
	if me := h.do("GET", "/api/v1/access/me", "", "Cookie: "+raised); !strings.Contains(me.body, `"mfa":true`) || !strings.Contains(me.body, `"level":"critical"`) {
		t.Error(me.body)
	}
	if a := h.do("GET", "/api/v1/access/me", "", "Cookie: "+cookie); a.status != 401 {
		t.Errorf("the session that was raised goes on under its old secret: %d", a.status)
	}
	list, err := h.Factors(t.Context())
	if err != nil || len(list) != 1 || !list[0].Confirmed || list[0].Name != "olga" {
		t.Errorf("%+v, %v", list, err)
	}
	// Without the factor what it has raised ends.
	if err := h.RemoveFactor(t.Context(), p.ID); err != nil {
		t.Fatal(err)
	}
	if a := change(raised); a.status != 401 {
		t.Errorf("after it was removed: %d", a.status)
	}
}

// TestFactorAttacks: a code twice, an old one, guesses one after the other and at the same time, another's code, another's factor, a stolen session.
func TestFactorAttacks(t *testing.T) {
	h := open(t)
	p, cookie := h.person("olga", TrustVerified, "operator")
	code := factor(t, h, p)
	used := code()
	if a, next := show(h, cookie, used); a.status != 200 {
		t.Fatal(a.body)
	} else {
		cookie = next
	}
	if a, next := show(h, cookie, used); a.status != 403 || next != "" || !h.recorded("used before") {
		t.Errorf("the same code again: %d %s", a.status, a.body)
	}
	old := code()
	h.clock.Add(int64(90 * time.Second))
	if a, _ := show(h, cookie, old); a.status != 403 {
		t.Errorf("a code of before: %d", a.status)
	}
	other, _ := h.person("eve", TrustVerified, "reader")
	theirs := factor(t, h, other)
	if a, _ := show(h, cookie, theirs()); a.status != 403 {
		t.Errorf("another's code: %d", a.status)
	}
	for _, text := range []string{"", "12345", "1234567", " 123456", "１２３４５６"} {
		if err := h.checkFactor(t.Context(), p.ID, text); err == nil {
			t.Errorf("%q is right", text)
		}
		h.clock.Add(int64(longestWait))
	}

	// A right code is of no use while the wait lasts, and who guesses in parallel has no more tries.
	h.clock.Add(int64(longestWait))
	guesser, _ := h.person("gus", TrustVerified, "reader")
	good := factor(t, h, guesser)
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if err := h.checkFactor(t.Context(), guesser.ID, "000000"); err == nil {
				t.Error("000000 is right: once in a million")
			}
		})
	}
	wg.Wait()
	for range freeTries {
		h.checkFactor(t.Context(), guesser.ID, "000000")
	}
	k, _, _, err := h.factorOf(t.Context(), guesser.ID)
	if err != nil || k.Wrong != freeTries || k.Until.IsZero() {
		t.Errorf("%+v, %v", k, err)
	}
	err = h.checkFactor(t.Context(), guesser.ID, good())
	if f := h.refusal(err); f.Status != http.StatusTooManyRequests || f.RetryAfter <= 0 {
		t.Errorf("a right code while the wait lasts: %v", err)
	}
	h.clock.Add(int64(firstWait))
	if err := h.checkFactor(t.Context(), guesser.ID, good()); err != nil {
		t.Errorf("after the wait: %v", err)
	}

	// The secret is sealed, for this person, by this server.
	row, _, err := h.db.Access(t.Context(), kindFactor, p.ID)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := decodeRow[keptFactor](row)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := h.factors.Open(mine.Sealed, factorContext(p.ID))
	if err != nil || bytes.Contains(row.Doc, secret) || strings.Contains(string(row.Doc), base32Text.EncodeToString(secret)) {
		t.Errorf("the secret lies open: %v", err)
	}
	if _, err := h.factors.Open(mine.Sealed, factorContext(other.ID)); err == nil {
		t.Error("one person's secret opens as another's")
	}
}

// TestFactorEnrol: who may set one up. A stolen session of less than level critical must not become more.
func TestFactorEnrol(t *testing.T) {
	h := open(t)
	_, weak := h.person("ann", TrustVerified, "operator")
	_, link := h.person("lin", TrustCritical, "reader")
	_, admin := h.person("root", TrustCritical, "admin")
	enrol := func(cookie, body string) answer {
		return h.do("POST", "/api/v1/access/mfa", body, "Cookie: "+cookie)
	}
	if a := enrol(weak, "{}"); a.status != 403 || !strings.Contains(a.message, "one-time link") {
		t.Errorf("a session of level verified: %d %s", a.status, a.body)
	}
	if a := enrol(link, `{"person":"ann"}`); a.status != 403 {
		t.Errorf("for another: %d %s", a.status, a.body)
	}
	if a := enrol(link, "{}"); a.status != 200 || !strings.Contains(a.body, "otpauth://totp/Quantra-L:lin?") {
		t.Errorf("for herself: %d %s", a.status, a.body)
	}
	if a := enrol(link, "{}"); a.status != 403 || !strings.Contains(a.message, "show it first") {
		t.Errorf("another in its place, without it: %d %s", a.status, a.body)
	}
	if a := enrol(admin, `{"person":"ann"}`); a.status != 200 {
		t.Errorf("by an admin: %d %s", a.status, a.body)
	}
	if a := h.do("DELETE", "/api/v1/access/mfa/ann", "", "Cookie: "+link); a.status != 403 {
		t.Errorf("removed by a reader: %d", a.status)
	}
	if a := h.do("DELETE", "/api/v1/access/mfa/ann", "", "Cookie: "+admin); a.status != 200 {
		t.Errorf("removed by an admin: %d %s", a.status, a.body)
	}
	if a := h.do("POST", FactorPath, `{"code":"123456"}`); a.status != 401 {
		t.Errorf("of nobody: %d", a.status)
	}
	if a, _ := show(h, weak, "123456"); a.status != 403 {
		t.Errorf("without a factor: %d", a.status)
	}
}
