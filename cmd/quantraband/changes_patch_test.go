package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/pull/pulltest"
	"github.com/quantra-l/quantra/profile"
)

// cartProfile is 10 s of a service of which 30 % is in cart.Age, a third of that in the line that a linter would change.
func cartProfile() []byte {
	nanos := profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
	b := profile.NewBuilder(nanos)
	at := func(name string, line int64) uint32 {
		return b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String(name), StartLine: 1, File: b.String("/build/shop/cart/price.go")}), Line: line})
	}
	root := b.Stack(0, at("example.com/shop/cart.All", 33))
	b.Add(root, 0, 7e9)
	b.Add(b.Stack(root, at("example.com/shop/cart.Age", 29)), 0, 2e9)
	b.Add(b.Stack(root, at("example.com/shop/cart.Age", 30)), 0, 1e9)
	p := b.Profile()
	p.Period, p.PeriodType = 1e7, nanos
	return p.AppendPprof(nil)
}

// TestChangesPatch: from a real linter's report to a pull request that a person starts; the server reads the files itself, and takes only what fits them.
func TestChangesPatch(t *testing.T) {
	testdata := filepath.Join("..", "..", "optimize", "patch", "testdata")
	price := string(mustRead(t, filepath.Join(testdata, "price.go.txt")))
	report := filepath.Join(testdata, "staticcheck.sarif")
	hub := pulltest.New(t, map[string]string{"cart/price.go": price})
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, fmt.Appendf(nil, "patch:\n  - {service: shop, repository: shop/checkout, base: main, api: '%s/api/v3'}\n", hub.URL), 0o666); err != nil {
		t.Fatal(err)
	}
	t.Setenv(githubToken, "secret")
	s := mustStart(t, "--data", filepath.Join(dir, "data"), "--no-self-profile", "--policy", policy)
	t.Setenv("QUANTRA_SERVER", s.base)
	until := time.Now()
	if status, err := push(s.base, url.Values{"service_name": {"shop"}, "from": {fmt.Sprint(until.Add(-10 * time.Second).UnixNano())}, "until": {fmt.Sprint(until.UnixNano())}}.Encode(), cartProfile()); err != nil || status != http.StatusOK {
		t.Fatalf("%d, %v", status, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		(&fakeAgent{server: s.base, service: "shop", instance: "a"}).run(ctx, ready)
	}()
	defer func() { cancel(); <-ended }()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	do := func(want int, args ...string) string {
		t.Helper()
		code, stdout, stderr := quantraband(append([]string{"changes"}, args...)...)
		if code != want || strings.Contains(stdout+stderr, "secret") {
			t.Fatalf("changes %s: code %d, want %d: %s%s", strings.Join(args, " "), code, want, stdout, stderr)
		}
		return stdout + stderr
	}
	has := func(text string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("no %q in:\n%s", w, text)
			}
		}
	}
	patch := []string{"patch", "-s", "shop", "--checkout", ""}
	add := func(more ...string) []string { return append(append([]string{}, patch...), more...) }

	has(do(exitUsage, add(report)...), "   1  Staticcheck S1025 at cart/price.go:21: ", "\n   5  ", "5 results have a fix: name one with --result")
	has(do(exitCorrupt, add(filepath.Join(testdata, "golangci.sarif"))...), "none of its 6 results has a fix")
	has(do(exitCorrupt, add(filepath.Join(testdata, "price.go.txt"))...), "it is no SARIF")
	do(exitUsage, "patch", report)
	do(exitUsage, add(filepath.Join(dir, "nothing.sarif"))...)
	do(exitUsage, add(report, "--columns", "furlongs")...)
	dry := do(exitOK, add(report, "--rule", "S1012", "--dry-run")...)
	has(dry, "shop: Staticcheck S1012 at cart/price.go:30", "should use time.Since", "at most 30 % CPU", "the changed lines alone: 10 %", "Nothing was proposed", "-\treturn time.Now().Sub(made)\n+\treturn time.Since(made)\n", "Warning: The report says neither")
	has(do(exitOK, "list", "--kind", "patch"), "0 changes")
	has(do(exitFailed, add(report, "--rule", "S1012", "--repository", "shop/other")...), "the policy has the source of shop in shop/checkout")
	has(do(exitFailed, add(report, "--rule", "S1012", "--base", "release")...), "merged into main")
	has(do(exitFailed, "patch", "-s", "billing", report, "--rule", "S1012"), "name its repository under patch")
	has(do(exitUsage, add(report, "--rule", "S1012", "--under", "services")...), "services/cart/price.go is not there")

	// What was linted is not what the branch has.
	checkout := filepath.Join(dir, "checkout")
	if err := os.MkdirAll(filepath.Join(checkout, "cart"), 0o777); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(checkout, "cart", "price.go"), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write(price + "\n// Mine.\n")
	has(do(exitUsage, "patch", "-s", "shop", report, "--rule", "S1012", "--checkout", checkout), "by its sha-256")
	under := do(exitUsage, "patch", "-s", "shop", report, "--rule", "S1012", "--checkout", checkout, "--under", "svc")
	has(under, "svc/cart/price.go is not there")
	write(price)
	proposed := do(exitOK, "patch", "-s", "shop", report, "--rule", "S1012", "--checkout", checkout, "--by", "ada")
	id, rest, _ := strings.Cut(proposed, " ")
	if !strings.HasPrefix(rest, "is proposed: shop: ") {
		t.Fatal(proposed)
	}
	again := do(exitOK, "patch", "-s", "shop", report, "--rule", "S1012", "--checkout", checkout, "--json")
	var c optimize.Change
	if err := json.Unmarshal([]byte(again), &c); err != nil || c.ID != id || len(c.Warnings) != 0 || len(c.Evidence) != 1 || !strings.Contains(c.Evidence[0].Link, "focus=%5Eexample%5C.com%2Fshop%2Fcart%5C.Age%24") {
		t.Errorf("again it is %v: %s", err, again)
	}
	has(do(exitOK, "list", "--kind", "patch"), id, "1 changes")
	has(do(exitOK, "plan"), "Nobody has started it")
	if w := hub.Writes(); len(w) > 0 {
		t.Errorf("before anybody has started it, %v was sent", w)
	}
	do(exitOK, "start", id, "--by", "ada")
	eventually(t, "the pull request", func() (bool, error) {
		text := do(exitOK, "show", id)
		return strings.Contains(text, "pull request 7 waits to be merged"), fmt.Errorf("%s", text)
	})
	has(do(exitOK, "show", id), "a pull request at shop/checkout, into main: cart/price.go", "\n+\treturn time.Since(made)\n", "started")
	head, _ := hub.Pull(7)
	if got := hub.Branch(head)["cart/price.go"]; got != strings.Replace(price, "time.Now().Sub(made)", "time.Since(made)", 1) {
		t.Errorf("the branch has %q", got)
	}
	do(exitOK, "undo", id, "--by", "ada")
	eventually(t, "the undo", func() (bool, error) {
		text := do(exitOK, "show", id)
		return strings.Contains(text, "state      undone"), fmt.Errorf("%s", text)
	})
	if _, state := hub.Pull(7); state != "closed" {
		t.Errorf("it is %s", state)
	}

	// Of the API: a spec is not taken as it is said, a body is bounded, and GitHub that does not answer is unavailable.
	ask := func(path, body string) (int, string) {
		t.Helper()
		res, err := owner(s.base).Post(s.base+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var fault struct{ Code, Message string }
		if err := json.NewDecoder(res.Body).Decode(&fault); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, fault.Message
	}
	if status, text := ask(optimize.ChangesPath, `{"kind":"patch","service":"shop","spec":`+string(c.Spec)+`,"sentence":"x","by":"ada"}`); status != 400 || !strings.Contains(text, "/patch") {
		t.Errorf("a spec of one's own: %d %s", status, text)
	}
	if status, text := ask(optimize.ChangesPath+"/patch", `{"service":"shop","report":"`+strings.Repeat("x", 64<<10)+`"}`); status != 413 {
		t.Errorf("a long body: %d %s", status, text)
	}
	if status, text := ask(optimize.ChangesPath+"/patch", `{"service":"shop","reports":{}}`); status != 400 {
		t.Errorf("a name that is not known: %d %s", status, text)
	}
	hub.Close()
	has(do(exitUnavailable, add(report, "--rule", "S1012")...), "cannot do it now")
}

// TestCutReport: what was linted is found in the folder of the repository, and in that which the report is of; its hash goes with the report.
func TestCutReport(t *testing.T) {
	report, err := filepath.Abs(filepath.Join("..", "..", "optimize", "patch", "testdata", "staticcheck.sarif"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "svc", "cart"), 0o777); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "svc", "cart", "price.go")
	a := &app{stdin: strings.NewReader("")}
	for _, c := range []struct {
		checkout, text string
		hashed         bool
	}{{dir, "package cart\n", true}, {filepath.Join(dir, "svc"), "package cart\n", true}, {t.TempDir(), "package cart\n", false}, {"", "package cart\n", false}, {dir, "package cart\r\n", false}} {
		if err := os.WriteFile(file, []byte(c.text), 0o666); err != nil {
			t.Fatal(err)
		}
		o := patchOptions{rule: "S1012", fix: 1, checkout: c.checkout}
		o.report.Under = "svc"
		cut, err := a.cutReport(&o, report)
		if err != nil || !strings.Contains(string(cut), `"uri":"svc/cart/price.go"`) || strings.Contains(string(cut), "sha-256") != c.hashed || strings.Contains(string(cut), "S1011") {
			t.Errorf("%q: %v: %s", c.checkout, err, cut)
		}
	}
	if _, err := a.cutReport(&patchOptions{rule: "S1012", fix: 1, checkout: filepath.Join(dir, "nothing")}, report); exitCode(err) != exitUsage {
		t.Errorf("a folder that is not there: %v", err)
	}
}
