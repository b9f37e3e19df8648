package pull

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// hub is GitHub, as far as a pull request needs it: its routes, its payloads and its refusals, on loopback
// (docs.github.com/en/rest, version 2022-11-28).
type hub struct {
	*httptest.Server
	mu      sync.Mutex
	log     []string                     // METHOD PATH, as they came
	refs    map[string]string            // branch -> commit
	commits map[string]map[string]any    // name -> {message, tree}
	trees   map[string]map[string]string // name -> path -> blob
	blobs   map[string][]byte
	pulls   []map[string]any
	tokens  []string                                              // that came
	fault   func(w http.ResponseWriter, method, path string) bool // answers instead
}

const token = "ghp_topsecret"

func newHub(t *testing.T, files map[string]string) *hub {
	h := &hub{refs: map[string]string{"main": "c0"}, commits: map[string]map[string]any{"c0": {"message": "first", "tree": "t0"}},
		trees: map[string]map[string]string{"t0": {}}, blobs: map[string][]byte{}}
	for p, text := range files {
		id := blobID([]byte(text))
		h.blobs[id], h.trees["t0"][p] = []byte(text), id
	}
	h.Server = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.Close)
	return h
}

func (h *hub) reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("X-GitHub-Media-Type", "github.v3; format=json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v)
}

func (h *hub) refuse(w http.ResponseWriter, code int, message string, details ...map[string]any) {
	v := map[string]any{"message": message, "documentation_url": "https://docs.github.com/rest", "status": fmt.Sprint(code)}
	if len(details) > 0 {
		v["errors"] = details
	}
	h.reply(w, code, v)
}

func object(kind, id string) map[string]any {
	return map[string]any{"type": kind, "sha": id, "url": "https://api.github.com/repos/shop/checkout/git/" + kind + "s/" + id}
}

func (h *hub) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ours := strings.CutPrefix(r.URL.Path, "/api/v3/repos/shop/checkout")
	h.log = append(h.log, r.Method+" "+p)
	h.tokens = append(h.tokens, r.Header.Get("Authorization"))
	if h.fault != nil && h.fault(w, r.Method, p) {
		return
	}
	var in map[string]any
	if r.Method != http.MethodGet {
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			h.refuse(w, 400, "Problems parsing JSON")
			return
		}
	}
	text := func(k string) string { s, _ := in[k].(string); return s }
	switch rest := p; {
	case !ours:
		h.refuse(w, 404, "Not Found")
	case rest == "" && r.Method == http.MethodGet:
		h.reply(w, 200, map[string]any{"id": 1, "full_name": "shop/checkout", "default_branch": "main", "private": false})
	case strings.HasPrefix(rest, "/git/ref/heads/"):
		branch := strings.TrimPrefix(rest, "/git/ref/heads/")
		id, ok := h.refs[branch]
		if !ok {
			h.refuse(w, 404, "Not Found")
			return
		}
		h.reply(w, 200, map[string]any{"ref": "refs/heads/" + branch, "object": object("commit", id)})
	case strings.HasPrefix(rest, "/contents/"):
		h.contents(w, strings.TrimPrefix(rest, "/contents/"), r.URL.Query().Get("ref"))
	case strings.HasPrefix(rest, "/git/commits/"):
		c := h.commits[strings.TrimPrefix(rest, "/git/commits/")]
		h.reply(w, 200, map[string]any{"sha": strings.TrimPrefix(rest, "/git/commits/"), "message": c["message"], "tree": object("tree", c["tree"].(string))})
	case strings.HasPrefix(rest, "/git/blobs/"):
		w.Write(h.blobs[strings.TrimPrefix(rest, "/git/blobs/")])
	case rest == "/git/blobs":
		b, err := base64.StdEncoding.DecodeString(text("content"))
		if err != nil || text("encoding") != "base64" {
			h.refuse(w, 422, "content is not valid Base64")
			return
		}
		h.blobs[blobID(b)] = b
		h.reply(w, 201, map[string]any{"sha": blobID(b), "url": "https://api.github.com/"})
	case rest == "/git/trees":
		id := fmt.Sprint("t", len(h.trees))
		tree := map[string]string{}
		for k, v := range h.trees[text("base_tree")] {
			tree[k] = v
		}
		for _, e := range in["tree"].([]any) {
			e := e.(map[string]any)
			if _, ok := h.blobs[e["sha"].(string)]; !ok || e["mode"] != "100644" || e["type"] != "blob" {
				h.refuse(w, 422, "tree.sha "+e["sha"].(string)+" is not a valid blob")
				return
			}
			tree[e["path"].(string)] = e["sha"].(string)
		}
		h.trees[id] = tree
		h.reply(w, 201, map[string]any{"sha": id, "tree": []any{}, "truncated": false})
	case rest == "/git/commits":
		id := fmt.Sprint("c", len(h.commits))
		h.commits[id] = map[string]any{"message": text("message"), "tree": text("tree"), "parents": in["parents"]}
		h.reply(w, 201, map[string]any{"sha": id, "message": text("message"), "tree": object("tree", text("tree"))})
	case rest == "/git/refs":
		branch := strings.TrimPrefix(text("ref"), "refs/heads/")
		if _, ok := h.refs[branch]; ok {
			h.refuse(w, 422, "Reference already exists")
			return
		}
		h.refs[branch] = text("sha")
		h.reply(w, 201, map[string]any{"ref": text("ref"), "object": object("commit", text("sha"))})
	case strings.HasPrefix(rest, "/git/refs/heads/") && r.Method == http.MethodPatch:
		branch := strings.TrimPrefix(rest, "/git/refs/heads/")
		if in["force"] != true {
			h.refuse(w, 422, "Update is not a fast forward")
			return
		}
		h.refs[branch] = text("sha")
		h.reply(w, 200, map[string]any{"ref": "refs/heads/" + branch, "object": object("commit", text("sha"))})
	default:
		h.servePulls(w, r, rest, in)
	}
}

func (h *hub) servePulls(w http.ResponseWriter, r *http.Request, rest string, in map[string]any) {
	switch {
	case rest == "/pulls" && r.Method == http.MethodGet:
		var out = []map[string]any{}
		for _, p := range h.pulls {
			if "shop:"+p["head"].(map[string]any)["ref"].(string) == r.URL.Query().Get("head") && r.URL.Query().Get("state") == "open" {
				out = append(out, p)
			}
		}
		h.reply(w, 200, out)
	case rest == "/pulls":
		if _, ok := h.refs[in["head"].(string)]; !ok {
			h.refuse(w, 422, "Validation Failed", map[string]any{"resource": "PullRequest", "field": "head", "code": "invalid"})
			return
		}
		n := len(h.pulls) + 7
		pr := map[string]any{"number": n, "html_url": fmt.Sprintf("https://github.com/shop/checkout/pull/%d", n), "state": "open",
			"title": in["title"], "body": in["body"], "head": map[string]any{"ref": in["head"]}, "base": map[string]any{"ref": in["base"]}}
		h.pulls = append(h.pulls, pr)
		h.reply(w, 201, pr)
	case strings.HasPrefix(rest, "/pulls/") && r.Method == http.MethodPatch:
		for _, pr := range h.pulls {
			if fmt.Sprint("/pulls/", pr["number"]) == rest {
				pr["title"], pr["body"] = in["title"], in["body"]
				h.reply(w, 200, pr)
				return
			}
		}
		h.refuse(w, 404, "Not Found")
	default:
		h.refuse(w, 404, "Not Found")
	}
}

func (h *hub) contents(w http.ResponseWriter, p, branch string) {
	if branch == "" {
		branch = "main"
	}
	commit, ok := h.commits[h.refs[branch]]
	if !ok {
		h.refuse(w, 404, "No commit found for the ref "+branch)
		return
	}
	tree := h.trees[commit["tree"].(string)]
	if id, ok := tree[p]; ok {
		h.reply(w, 200, map[string]any{"type": "file", "encoding": "base64", "size": len(h.blobs[id]), "name": p, "path": p, "sha": id,
			"content": base64.StdEncoding.EncodeToString(h.blobs[id])})
		return
	}
	for have := range tree {
		if strings.HasPrefix(have, p+"/") {
			h.reply(w, 200, []map[string]any{{"type": "file", "name": have, "path": have, "sha": tree[have]}})
			return
		}
	}
	h.refuse(w, 404, "Not Found")
}

func (h *hub) client(t *testing.T, dry io.Writer) *Client {
	t.Helper()
	c, err := New(Options{API: h.URL + "/api/v3", Token: token, DryRun: dry})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// writes is what came and was no question.
func (h *hub) writes() (out []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.log {
		if !strings.HasPrefix(l, "GET ") {
			out = append(out, l)
		}
	}
	h.log = nil
	return out
}

func request(content string) Request {
	return Request{Owner: "shop", Repo: "checkout", Branch: "quantraband/pgo-checkout", Title: "default.pgo: newer", Body: "Evidence.",
		Files: map[string][]byte{"cmd/checkout/default.pgo": []byte(content)}}
}

// TestOpen: one branch, one commit, one pull request; the same again is nothing; something new is the same one brought up to date.
func TestOpen(t *testing.T) {
	h := newHub(t, map[string]string{"cmd/checkout/main.go": "package main"})
	c, ctx := h.client(t, nil), context.Background()
	got, err := c.Open(ctx, request("\x1f\x8b\x00one"))
	if err != nil || got != (Result{Number: 7, URL: "https://github.com/shop/checkout/pull/7"}) {
		t.Fatalf("%+v %v", got, err)
	}
	if w := h.writes(); !slices.Equal(w, []string{"POST /git/blobs", "POST /git/trees", "POST /git/commits", "POST /git/refs", "POST /pulls"}) {
		t.Errorf("sent: %q", w)
	}
	commit := h.commits[h.refs["quantraband/pgo-checkout"]]
	tree := h.trees[commit["tree"].(string)]
	if string(h.blobs[tree["cmd/checkout/default.pgo"]]) != "\x1f\x8b\x00one" || len(tree) != 2 {
		t.Errorf("the branch has %v", tree)
	}
	if commit["message"] != "default.pgo: newer\n\nMade-By: quantraband" || fmt.Sprint(commit["parents"]) != "[c0]" {
		t.Errorf("the commit is %v", commit)
	}
	if pr := h.pulls[0]; pr["body"] != "Evidence." || pr["base"].(map[string]any)["ref"] != "main" {
		t.Errorf("the pull request is %v", pr)
	}

	got, err = c.Open(ctx, request("\x1f\x8b\x00one"))
	if w := h.writes(); err != nil || got != (Result{Number: 7, URL: "https://github.com/shop/checkout/pull/7", Unchanged: true}) || len(w) > 0 {
		t.Errorf("the same again: %+v %v, sent %q", got, err, w)
	}

	newer := request("two")
	newer.Body = "Newer evidence."
	got, err = c.Open(ctx, newer)
	if err != nil || !got.Updated || got.Number != 7 || len(h.pulls) != 1 || h.pulls[0]["body"] != "Newer evidence." {
		t.Errorf("something new: %+v %v, %v", got, err, h.pulls)
	}
	if w := h.writes(); !slices.Equal(w, []string{"POST /git/blobs", "POST /git/trees", "POST /git/commits", "PATCH /git/refs/heads/quantraband/pgo-checkout", "PATCH /pulls/7"}) {
		t.Errorf("sent: %q", w)
	}
	// It stands on the base alone, not on what was there before.
	if c := h.commits[h.refs["quantraband/pgo-checkout"]]; fmt.Sprint(c["parents"]) != "[c0]" {
		t.Errorf("the commit is %v", c)
	}
	for _, a := range h.tokens {
		if a != "Bearer "+token {
			t.Fatalf("a request was made as %q", a)
		}
	}
}

// TestOpenGoesOn: what an Open that failed half-way left is used, where it is ours.
func TestOpenGoesOn(t *testing.T) {
	h := newHub(t, nil)
	c, ctx := h.client(t, nil), context.Background()
	h.fault = func(w http.ResponseWriter, method, path string) bool {
		if method == "POST" && path == "/pulls" {
			h.refuse(w, 502, "Server Error")
			return true
		}
		return false
	}
	if _, err := c.Open(ctx, request("one")); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	h.fault = nil
	if got, err := c.Open(ctx, request("one")); err != nil || got.Number != 7 || got.Updated {
		t.Errorf("%+v %v", got, err)
	}

	h.commits["c9"] = map[string]any{"message": "a fix by hand", "tree": "t0"}
	h.refs["quantraband/pgo-checkout"] = "c9"
	h.writes()
	_, err := c.Open(ctx, request("two"))
	if w := h.writes(); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "somebody else's") || len(w) > 0 {
		t.Errorf("a branch that another has committed to: %v, sent %q", err, w)
	}
}

func TestOpenUnchanged(t *testing.T) {
	h := newHub(t, map[string]string{"cmd/checkout/default.pgo": "one"})
	got, err := h.client(t, nil).Open(context.Background(), request("one"))
	if w := h.writes(); err != nil || got != (Result{Unchanged: true}) || len(w) > 0 {
		t.Errorf("%+v %v, sent %q", got, err, w)
	}
}

// TestDryRun: what would be sent is told, all of it but for the file's bytes, and nothing of it is.
func TestDryRun(t *testing.T) {
	h := newHub(t, nil)
	var dry, told bytes.Buffer
	if _, err := h.client(t, &dry).Open(context.Background(), request("\x00one")); err != nil {
		t.Fatal(err)
	}
	if w := h.writes(); len(w) > 0 || len(h.pulls) > 0 || len(h.refs) != 1 {
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

`, api, blobID([]byte("\x00one")))
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
		h := newHub(t, nil)
		h.fault = func(w http.ResponseWriter, method, path string) bool {
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
		_, err := h.client(t, nil).Open(context.Background(), request("one"))
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && strings.Contains(err.Error(), token) {
			t.Errorf("%s: the token is told: %v", c.name, err)
		}
	}
	h := newHub(t, nil)
	c := h.client(t, nil)
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
	h := newHub(t, map[string]string{"cmd/checkout/default.pgo": "\x1f\x8b\xff"})
	c, ctx := h.client(t, nil), context.Background()
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
	h := newHub(t, nil)
	c := h.client(t, nil)
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
		"a bad path":          func(r *Request) { r.Files = map[string][]byte{"../x": nil} },
		"a large file":        func(r *Request) { r.Files = map[string][]byte{"x": make([]byte, maxFileBytes+1)} },
	} {
		r := request("one")
		change(&r)
		if _, err := c.Open(context.Background(), r); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(h.log) > 0 {
		t.Errorf("asked %q before it was checked", h.log)
	}
	r := request("one")
	r.Branch = "main"
	if _, err := c.Open(context.Background(), r); !errors.Is(err, ErrInvalid) || len(h.writes()) > 0 {
		t.Errorf("the default branch: %v", err)
	}
	for _, api := range []string{"ftp://x", "github.example.com", "https://%zz"} {
		if _, err := New(Options{API: api}); !errors.Is(err, ErrInvalid) {
			t.Errorf("API %q: %v", api, err)
		}
	}
}
