package pull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize/pull/pulltest"
)

const token = "ghp_topsecret"

func client(t *testing.T, h *pulltest.Hub, dry io.Writer) *Client {
	t.Helper()
	c, err := New(Options{API: h.URL + "/api/v3", Token: token, DryRun: dry})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func request(content string) Request {
	return Request{Owner: "shop", Repo: "checkout", Branch: "quantraband/pgo-checkout", Title: "default.pgo: newer", Body: "Evidence.",
		Files: map[string][]byte{"cmd/checkout/default.pgo": []byte(content)}}
}

// TestOpen: one branch, one commit, one pull request; the same again is nothing; something new is the same one brought up to date.
func TestOpen(t *testing.T) {
	h := pulltest.New(t, map[string]string{"cmd/checkout/main.go": "package main"})
	c, ctx := client(t, h, nil), context.Background()
	got, err := c.Open(ctx, request("\x1f\x8b\x00one"))
	if err != nil || got != (Result{Number: 7, URL: "https://github.com/shop/checkout/pull/7"}) {
		t.Fatalf("%+v %v", got, err)
	}
	if w := h.Writes(); !slices.Equal(w, []string{"POST /git/blobs", "POST /git/trees", "POST /git/commits", "POST /git/refs", "POST /pulls"}) {
		t.Errorf("sent: %q", w)
	}
	commit := h.Commits[h.Refs["quantraband/pgo-checkout"]]
	tree := h.Trees[commit["tree"].(string)]
	if string(h.Blobs[tree["cmd/checkout/default.pgo"]]) != "\x1f\x8b\x00one" || len(tree) != 2 {
		t.Errorf("the branch has %v", tree)
	}
	if commit["message"] != "default.pgo: newer\n\nMade-By: quantraband" || fmt.Sprint(commit["parents"]) != "[c0]" {
		t.Errorf("the commit is %v", commit)
	}
	if pr := h.Pulls[0]; pr["body"] != "Evidence." || pr["base"].(map[string]any)["ref"] != "main" {
		t.Errorf("the pull request is %v", pr)
	}

	got, err = c.Open(ctx, request("\x1f\x8b\x00one"))
	if w := h.Writes(); err != nil || got != (Result{Number: 7, URL: "https://github.com/shop/checkout/pull/7", Unchanged: true}) || len(w) > 0 {
		t.Errorf("the same again: %+v %v, sent %q", got, err, w)
	}

	newer := request("two")
	newer.Body = "Newer evidence."
	got, err = c.Open(ctx, newer)
	if err != nil || !got.Updated || got.Number != 7 || len(h.Pulls) != 1 || h.Pulls[0]["body"] != "Newer evidence." {
		t.Errorf("something new: %+v %v, %v", got, err, h.Pulls)
	}
	if w := h.Writes(); !slices.Equal(w, []string{"POST /git/blobs", "POST /git/trees", "POST /git/commits", "PATCH /git/refs/heads/quantraband/pgo-checkout", "PATCH /pulls/7"}) {
		t.Errorf("sent: %q", w)
	}
	// It stands on the base alone, not on what was there before.
	if c := h.Commits[h.Refs["quantraband/pgo-checkout"]]; fmt.Sprint(c["parents"]) != "[c0]" {
		t.Errorf("the commit is %v", c)
	}
	for _, a := range h.Tokens {
		if a != "Bearer "+token {
			t.Fatalf("a request was made as %q", a)
		}
	}
}

// TestOpenGoesOn: what an Open that failed half-way left is used, where it is ours.
func TestOpenGoesOn(t *testing.T) {
	h := pulltest.New(t, nil)
	c, ctx := client(t, h, nil), context.Background()
	h.Fault = func(w http.ResponseWriter, method, path string) bool {
		if method == "POST" && path == "/pulls" {
			h.Refuse(w, 502, "Server Error")
			return true
		}
		return false
	}
	if _, err := c.Open(ctx, request("one")); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	h.Fault = nil
	if got, err := c.Open(ctx, request("one")); err != nil || got.Number != 7 || got.Updated {
		t.Errorf("%+v %v", got, err)
	}

	h.Commits["c9"] = map[string]any{"message": "a fix by hand", "tree": "t0"}
	h.Refs["quantraband/pgo-checkout"] = "c9"
	h.Writes()
	_, err := c.Open(ctx, request("two"))
	if w := h.Writes(); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "somebody else's") || len(w) > 0 {
		t.Errorf("a branch that another has committed to: %v, sent %q", err, w)
	}
}

func TestOpenUnchanged(t *testing.T) {
	h := pulltest.New(t, map[string]string{"cmd/checkout/default.pgo": "one"})
	got, err := client(t, h, nil).Open(context.Background(), request("one"))
	if w := h.Writes(); err != nil || got != (Result{Unchanged: true}) || len(w) > 0 {
		t.Errorf("%+v %v, sent %q", got, err, w)
	}
}

// TestDryRun: what would be sent is told, all of it but for the file's bytes, and nothing of it is.
func TestDryRun(t *testing.T) {
	h := pulltest.New(t, nil)
	var dry, told bytes.Buffer
	if _, err := client(t, h, &dry).Open(context.Background(), request("\x00one")); err != nil {
		t.Fatal(err)
	}
	if w := h.Writes(); len(w) > 0 || len(h.Pulls) > 0 || len(h.Refs) != 1 {
		t.Errorf("sent %q", w)
	}
	api := h.URL + "/api/v3/repos/shop/checkout"
	fmt.Fprintf(&told, `POST %[1]s/git/blobs
{
  "content": "(4 bytes, %[2]s)",
  "encoding": "base64"
}

POST %[1]s/git/trees
{
  "base_tree": "t0",
  "tree": [
    {
      "mode": "100644",
      "path": "cmd/checkout/default.pgo",
      "sha": "%[2]s",
      "type": "blob"
    }
  ]
}

POST %[1]s/git/commits
{
  "message": "default.pgo: newer\n\nMade-By: quantraband",
  "parents": [
    "c0"
  ],
  "tree": "the tree made above"
}

POST %[1]s/git/refs
{
  "ref": "refs/heads/quantraband/pgo-checkout",
  "sha": "the commit made above"
}

POST %[1]s/pulls
{
  "base": "main",
  "body": "Evidence.",
  "head": "quantraband/pgo-checkout",
  "title": "default.pgo: newer"
}

`, api, BlobID([]byte("\x00one")))
	if dry.String() != told.String() {
		t.Errorf("told:\n%s\nwant:\n%s", &dry, &told)
	}
	if strings.Contains(dry.String(), token) {
		t.Error("the token is told")
	}
}

// TestFaults: each refusal of GitHub's is one of our words, with what to do, and never with the token.
func TestFaults(t *testing.T) {
	limited := map[string]string{"X-RateLimit-Limit": "5000", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "4102444800"}
	for _, c := range []struct {
		name, at string // METHOD PATH that answers so
		code     int
		header   map[string]string
		body     string
		want     error
		text     string
	}{
		{"no such token", "GET ", 401, nil, `{"message":"Bad credentials","documentation_url":"https://docs.github.com/rest","status":"401"}`, ErrDenied, "does not know the token (Bad credentials)"},
		{"read only token", "POST /git/blobs", 403, nil, `{"message":"Resource not accessible by personal access token","status":"403"}`, ErrDenied, "contents: write"},
		{"single sign-on", "GET ", 403, nil, `{"message":"Resource protected by organization SAML enforcement."}`, ErrDenied, "SAML"},
		{"no such repository", "GET ", 404, nil, `{"message":"Not Found"}`, ErrNotFound, "find shop/checkout: there is none, or the token may not see it"},
		{"no such base", "GET /git/ref/heads/main", 404, nil, `{"message":"Not Found"}`, ErrNotFound, "find branch main"},
		{"no right to write hidden as 404", "POST /git/blobs", 404, nil, `{"message":"Not Found"}`, ErrNotFound, "send cmd/checkout/default.pgo"},
		{"empty repository", "GET /git/ref/heads/main", 409, nil, `{"message":"Git Repository is empty."}`, ErrRefused, "Git Repository is empty."},
		{"race on the branch", "POST /git/refs", 422, nil, `{"message":"Reference already exists"}`, ErrRefused, "Reference already exists"},
		{"no difference", "POST /pulls", 422, nil, `{"message":"Validation Failed","errors":[{"resource":"PullRequest","code":"custom","message":"No commits between main and quantraband/pgo-checkout"}]}`, ErrRefused, "No commits between"},
		{"field", "POST /pulls", 422, nil, `{"message":"Validation Failed","errors":[{"resource":"PullRequest","field":"head","code":"invalid"}]}`, ErrRefused, "PullRequest head invalid"},
		{"protected branch", "POST /git/refs", 403, nil, `{"message":"Resource not accessible by integration"}`, ErrDenied, "write branch"},
		{"limit", "GET ", 403, limited, `{"message":"API rate limit exceeded for user ID 1."}`, ErrUnavailable, "try again after 2100-01-01T00:00:00Z"},
		{"limit by 429", "GET ", 429, limited, `{"message":"API rate limit exceeded"}`, ErrUnavailable, "2100-01-01"},
		{"second limit", "POST /pulls", 403, map[string]string{"Retry-After": "60"}, `{"message":"You have exceeded a secondary rate limit.","documentation_url":"https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"}`, ErrUnavailable, "try again in 1m0s"},
		{"second limit, without its address", "POST /pulls", 403, map[string]string{"Retry-After": "60"}, `{"message":"You have exceeded a secondary rate limit."}`, ErrUnavailable, "in 60 seconds"},
		{"second factor", "GET ", 401, map[string]string{"X-GitHub-OTP": "required; app"}, `{"message":"Must specify two-factor authentication OTP code."}`, ErrDenied, "second factor"},
		{"server", "GET ", 500, nil, `{"message":"Server Error"}`, ErrUnavailable, "500"},
		{"proxy's page", "POST /git/trees", 502, nil, `<html>Bad Gateway</html>`, ErrUnavailable, "502"},
		{"not GitHub", "GET ", 200, nil, `<html>hello</html>`, ErrUnavailable, "find shop/checkout"},
		{"gone for legal reasons", "GET ", 451, nil, `{"message":"Repository access blocked","block":{"reason":"dmca"}}`, ErrRefused, "451"},
	} {
		h := pulltest.New(t, nil)
		h.Fault = func(w http.ResponseWriter, method, path string) bool {
			if method+" "+path != c.at {
				return false
			}
			for k, v := range c.header {
				w.Header().Set(k, v)
			}
			w.WriteHeader(c.code)
			io.WriteString(w, c.body)
			return true
		}
		_, err := client(t, h, nil).Open(context.Background(), request("one"))
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && strings.Contains(err.Error(), token) {
			t.Errorf("%s: the token is told: %v", c.name, err)
		}
	}
	h := pulltest.New(t, nil)
	c := client(t, h, nil)
	h.Close()
	if _, err := c.Open(context.Background(), request("one")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Open(ctx, request("one")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestFile(t *testing.T) {
	h := pulltest.New(t, map[string]string{"cmd/checkout/default.pgo": "\x1f\x8b\xff"})
	c, ctx := client(t, h, nil), context.Background()
	b, ok, err := c.File(ctx, "shop", "checkout", "", "cmd/checkout/default.pgo")
	if string(b) != "\x1f\x8b\xff" || !ok || err != nil {
		t.Errorf("%q %v %v", b, ok, err)
	}
	if _, ok, err := c.File(ctx, "shop", "checkout", "main", "default.pgo"); ok || err != nil {
		t.Errorf("not there: %v %v", ok, err)
	}
	if _, _, err := c.File(ctx, "shop", "checkout", "", "cmd"); !errors.Is(err, ErrRefused) {
		t.Errorf("a folder: %v", err)
	}
	for _, p := range []string{"", "/etc/passwd", "../x", "a/../b", "a//b", ".git/config", "x/.GIT/hooks", `a\b`, "a\nb"} {
		if _, _, err := c.File(ctx, "shop", "checkout", "", p); !errors.Is(err, ErrInvalid) {
			t.Errorf("path %q: %v", p, err)
		}
	}
	if _, _, err := c.File(ctx, "shop/..", "checkout", "", "x"); !errors.Is(err, ErrInvalid) {
		t.Errorf("owner: %v", err)
	}
}

func TestInvalid(t *testing.T) {
	h := pulltest.New(t, nil)
	c := client(t, h, nil)
	for name, change := range map[string]func(*Request){
		"no owner":            func(r *Request) { r.Owner = "" },
		"a way out":           func(r *Request) { r.Repo = ".." },
		"a path in the owner": func(r *Request) { r.Owner = "a/b" },
		"no branch":           func(r *Request) { r.Branch = "" },
		"a branch to itself":  func(r *Request) { r.Base = r.Branch },
		"an option":           func(r *Request) { r.Branch = "-f" },
		"a space":             func(r *Request) { r.Branch = "a b" },
		"dots":                func(r *Request) { r.Branch = "a..b" },
		"a lock":              func(r *Request) { r.Branch = "a.lock/b" },
		"an empty part":       func(r *Request) { r.Branch = "a/" },
		"a control character": func(r *Request) { r.Base = "a\x01" },
		"no title":            func(r *Request) { r.Title = "" },
		"two lines":           func(r *Request) { r.Title = "a\nb" },
		"a long body":         func(r *Request) { r.Body = strings.Repeat("x", maxBody+1) },
		"no files":            func(r *Request) { r.Files = nil },
		"no old content":      func(r *Request) { r.Old = map[string]string{"x": "HEAD"} },
		"new and old":         func(r *Request) { r.Old = map[string]string{"cmd/checkout/default.pgo": ""} },
		"a bad old path":      func(r *Request) { r.Old = map[string]string{"../x": ""} },
		"a bad path":          func(r *Request) { r.Files = map[string][]byte{"../x": nil} },
		"a large file":        func(r *Request) { r.Files = map[string][]byte{"x": make([]byte, maxFileBytes+1)} },
	} {
		r := request("one")
		change(&r)
		if _, err := c.Open(context.Background(), r); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(h.Log) > 0 {
		t.Errorf("asked %q before it was checked", h.Log)
	}
	r := request("one")
	r.Branch = "main"
	if _, err := c.Open(context.Background(), r); !errors.Is(err, ErrInvalid) || len(h.Writes()) > 0 {
		t.Errorf("the default branch: %v", err)
	}
	for _, api := range []string{"ftp://x", "github.example.com", "https://%zz"} {
		if _, err := New(Options{API: api}); !errors.Is(err, ErrInvalid) {
			t.Errorf("API %q: %v", api, err)
		}
	}
}

// TestOld: a file gets the content that it had, or goes; a pull request is found whatever became of it, and can be closed.
func TestOld(t *testing.T) {
	const file = "cmd/checkout/default.pgo"
	h := pulltest.New(t, map[string]string{file: "one", "main.go": "package main"})
	c, ctx := client(t, h, nil), context.Background()
	was, err := c.Blob(ctx, "shop", "checkout", "", file)
	if err != nil || was != BlobID([]byte("one")) {
		t.Fatal(was, err)
	}
	none, err := c.Find(ctx, "shop", "checkout", "quantraband/pgo-checkout")
	if err != nil || none != (Found{}) {
		t.Errorf("before it was opened: %+v %v", none, err)
	}
	if _, err := c.Open(ctx, request("two")); err != nil {
		t.Fatal(err)
	}
	found, err := c.Find(ctx, "shop", "checkout", "quantraband/pgo-checkout")
	if err != nil || found.Number != 7 || !found.Open || !found.MergedAt.IsZero() || !strings.HasSuffix(found.URL, "/pull/7") {
		t.Errorf("open: %+v %v", found, err)
	}
	merged := time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)
	h.Merge(7, merged)
	found, err = c.Find(ctx, "shop", "checkout", "quantraband/pgo-checkout")
	if err != nil || found.Open || !found.MergedAt.Equal(merged) {
		t.Errorf("merged: %+v %v", found, err)
	}
	back := request("")
	back.Branch, back.Files, back.Old = "quantraband/pgo-checkout-undo", nil, map[string]string{file: was}
	if got, err := c.Open(ctx, back); err != nil || got.Number != 8 {
		t.Fatalf("back: %+v %v", got, err)
	}
	if got := h.Branch(back.Branch); got[file] != "one" || got["main.go"] != "package main" {
		t.Errorf("the branch back has %q", got)
	}
	h.Merge(8, merged)
	if got, err := c.Open(ctx, back); err != nil || !got.Unchanged {
		t.Errorf("back once more: %+v %v", got, err)
	}
	back.Branch, back.Old = "quantraband/gone", map[string]string{file: ""}
	if got, err := c.Open(ctx, back); err != nil || got.Number != 9 {
		t.Fatalf("away: %+v %v", got, err)
	}
	if got := h.Branch(back.Branch); len(got) != 1 {
		t.Errorf("the branch without has %q", got)
	}
	if err := errors.Join(c.Close(ctx, "shop", "checkout", 9), c.Close(ctx, "shop", "checkout", 9)); err != nil {
		t.Error(err)
	}
	if found, err = c.Find(ctx, "shop", "checkout", back.Branch); err != nil || found.Open || !found.MergedAt.IsZero() {
		t.Errorf("closed: %+v %v", found, err)
	}
	if err := c.Close(ctx, "shop", "checkout", 99); !errors.Is(err, ErrNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
}

// TestWas: what was made of another version of a file than the base has is not opened, whoever is quicker; files keep their modes.
func TestWas(t *testing.T) {
	const script = "scripts/run.sh"
	hub := pulltest.New(t, map[string]string{"a.go": "package a\n", script: "#!/bin/sh\n"})
	hub.Modes[script] = "100755"
	c, err := New(Options{API: hub.URL + "/api/v3", Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Owner: "shop", Repo: "checkout", Branch: "quantraband/patch", Title: "a patch",
		Files: map[string][]byte{"a.go": []byte("package b\n"), script: []byte("#!/bin/bash\n")},
		Was:   map[string]string{"a.go": BlobID([]byte("package a\n")), script: BlobID([]byte("#!/bin/sh\n"))}}
	if _, err := c.Open(t.Context(), r); err != nil { // the hub refuses another mode
		t.Fatal(err)
	}
	if got := hub.Branch(r.Branch); got[script] != "#!/bin/bash\n" || got["a.go"] != "package b\n" {
		t.Errorf("the branch has %q", got)
	}
	hub.Modes["a.go"] = "120000"
	r.Branch = "quantraband/link"
	if _, err := c.Open(t.Context(), r); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "a.go is no plain file") || hub.Refs[r.Branch] != "" {
		t.Errorf("a link: %v", err)
	}
	hub.Commit("main", map[string]string{"a.go": "package c\n"})
	r.Branch = "quantraband/late"
	if _, err := c.Open(t.Context(), r); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "a.go has changed in main since") || hub.Refs[r.Branch] != "" {
		t.Errorf("upon another version: %v", err)
	}
	r.Was = map[string]string{"b.go": ""}
	if _, err := c.Open(t.Context(), r); !errors.Is(err, ErrInvalid) {
		t.Errorf("a file that is not to change: %v", err)
	}
	if b, err := c.Content(t.Context(), "shop", "checkout", BlobID([]byte("package a\n"))); err != nil || string(b) != "package a\n" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := c.Content(t.Context(), "shop", "checkout", "../../user"); !errors.Is(err, ErrInvalid) {
		t.Errorf("a name that is none: %v", err)
	}
}
