// Package pulltest is GitHub for tests, on loopback: as much of it as a pull request needs.
package pulltest

import (
	"crypto/sha1" // git's names of objects are SHA-1
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Hub is GitHub, as far as a pull request needs it: its routes, its payloads and its refusals, on loopback
// (docs.github.com/en/rest, version 2022-11-28).
type Hub struct {
	*httptest.Server
	mu      sync.Mutex
	Log     []string                     // METHOD PATH, as they came
	Refs    map[string]string            // branch -> commit
	Commits map[string]map[string]any    // name -> {message, tree}
	Trees   map[string]map[string]string // name -> path -> blob
	Blobs   map[string][]byte
	Modes   map[string]string // path -> git's mode, where that is not 100644
	Pulls   []map[string]any
	Tokens  []string                                              // that came
	Fault   func(w http.ResponseWriter, method, path string) bool // answers instead
}

// New starts one with a repository shop/checkout whose branch main has these files; it ends with the test.
func New(t testing.TB, files map[string]string) *Hub {
	h := &Hub{Refs: map[string]string{"main": "c0"}, Commits: map[string]map[string]any{"c0": {"message": "first", "tree": "t0"}},
		Trees: map[string]map[string]string{"t0": {}}, Blobs: map[string][]byte{}, Modes: map[string]string{}}
	for p, text := range files {
		id := blobID([]byte(text))
		h.Blobs[id], h.Trees["t0"][p] = []byte(text), id
	}
	h.Server = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.Close)
	return h
}

func (h *Hub) reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("X-GitHub-Media-Type", "github.v3; format=json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v)
}

// Refuse answers with an error as GitHub's are.
func (h *Hub) Refuse(w http.ResponseWriter, code int, message string, details ...map[string]any) {
	v := map[string]any{"message": message, "documentation_url": "https://docs.github.com/rest", "status": fmt.Sprint(code)}
	if len(details) > 0 {
		v["errors"] = details
	}
	h.reply(w, code, v)
}

func object(kind, id string) map[string]any {
	return map[string]any{"type": kind, "sha": id, "url": "https://api.github.com/repos/shop/checkout/git/" + kind + "s/" + id}
}

func (h *Hub) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ours := strings.CutPrefix(r.URL.Path, "/api/v3/repos/shop/checkout")
	h.Log = append(h.Log, r.Method+" "+p)
	h.Tokens = append(h.Tokens, r.Header.Get("Authorization"))
	if h.Fault != nil && h.Fault(w, r.Method, p) {
		return
	}
	var in map[string]any
	if r.Method != http.MethodGet {
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			h.Refuse(w, 400, "Problems parsing JSON")
			return
		}
	}
	text := func(k string) string { s, _ := in[k].(string); return s }
	switch rest := p; {
	case !ours:
		h.Refuse(w, 404, "Not Found")
	case rest == "" && r.Method == http.MethodGet:
		h.reply(w, 200, map[string]any{"id": 1, "full_name": "shop/checkout", "default_branch": "main", "private": false})
	case strings.HasPrefix(rest, "/git/ref/heads/"):
		branch := strings.TrimPrefix(rest, "/git/ref/heads/")
		id, ok := h.Refs[branch]
		if !ok {
			h.Refuse(w, 404, "Not Found")
			return
		}
		h.reply(w, 200, map[string]any{"ref": "refs/heads/" + branch, "object": object("commit", id)})
	case strings.HasPrefix(rest, "/contents/"):
		h.contents(w, strings.TrimPrefix(rest, "/contents/"), r.URL.Query().Get("ref"))
	case strings.HasPrefix(rest, "/git/commits/"):
		c := h.Commits[strings.TrimPrefix(rest, "/git/commits/")]
		h.reply(w, 200, map[string]any{"sha": strings.TrimPrefix(rest, "/git/commits/"), "message": c["message"], "tree": object("tree", c["tree"].(string))})
	case strings.HasPrefix(rest, "/git/blobs/"):
		w.Write(h.Blobs[strings.TrimPrefix(rest, "/git/blobs/")])
	case rest == "/git/blobs":
		b, err := base64.StdEncoding.DecodeString(text("content"))
		if err != nil || text("encoding") != "base64" {
			h.Refuse(w, 422, "content is not valid Base64")
			return
		}
		h.Blobs[blobID(b)] = b
		h.reply(w, 201, map[string]any{"sha": blobID(b), "url": "https://api.github.com/"})
	case strings.HasPrefix(rest, "/git/trees/") && r.Method == http.MethodGet:
		h.folder(w, strings.TrimPrefix(rest, "/git/trees/"))
	case rest == "/git/trees":
		id := fmt.Sprint("t", len(h.Trees))
		tree := map[string]string{}
		for k, v := range h.Trees[text("base_tree")] {
			tree[k] = v
		}
		for _, e := range in["tree"].([]any) {
			e := e.(map[string]any)
			if sha, named := e["sha"]; named && sha == nil { // it is to go
				if _, ok := tree[e["path"].(string)]; !ok {
					h.Refuse(w, 422, "GitRPC::BadObjectState")
					return
				}
				delete(tree, e["path"].(string))
				continue
			}
			if _, ok := h.Blobs[e["sha"].(string)]; !ok || e["mode"] != h.mode(e["path"].(string)) || e["type"] != "blob" {
				h.Refuse(w, 422, "tree.sha "+e["sha"].(string)+" is not a valid blob")
				return
			}
			tree[e["path"].(string)] = e["sha"].(string)
		}
		h.Trees[id] = tree
		h.reply(w, 201, map[string]any{"sha": id, "tree": []any{}, "truncated": false})
	case rest == "/git/commits":
		id := fmt.Sprint("c", len(h.Commits))
		h.Commits[id] = map[string]any{"message": text("message"), "tree": text("tree"), "parents": in["parents"]}
		h.reply(w, 201, map[string]any{"sha": id, "message": text("message"), "tree": object("tree", text("tree"))})
	case rest == "/git/refs":
		branch := strings.TrimPrefix(text("ref"), "refs/heads/")
		if _, ok := h.Refs[branch]; ok {
			h.Refuse(w, 422, "Reference already exists")
			return
		}
		h.Refs[branch] = text("sha")
		h.reply(w, 201, map[string]any{"ref": text("ref"), "object": object("commit", text("sha"))})
	case strings.HasPrefix(rest, "/git/refs/heads/") && r.Method == http.MethodPatch:
		branch := strings.TrimPrefix(rest, "/git/refs/heads/")
		if in["force"] != true {
			h.Refuse(w, 422, "Update is not a fast forward")
			return
		}
		h.Refs[branch] = text("sha")
		h.reply(w, 200, map[string]any{"ref": "refs/heads/" + branch, "object": object("commit", text("sha"))})
	default:
		h.servePulls(w, r, rest, in)
	}
}

func (h *Hub) servePulls(w http.ResponseWriter, r *http.Request, rest string, in map[string]any) {
	switch {
	case rest == "/pulls" && r.Method == http.MethodGet:
		var out = []map[string]any{}
		for _, p := range slices.Backward(h.Pulls) { // the newest first
			q := r.URL.Query()
			if "shop:"+p["head"].(map[string]any)["ref"].(string) == q.Get("head") && (q.Get("state") == "all" || q.Get("state") == p["state"]) {
				out = append(out, p)
			}
		}
		h.reply(w, 200, out)
	case rest == "/pulls":
		if _, ok := h.Refs[in["head"].(string)]; !ok {
			h.Refuse(w, 422, "Validation Failed", map[string]any{"resource": "PullRequest", "field": "head", "code": "invalid"})
			return
		}
		n := len(h.Pulls) + 7
		pr := map[string]any{"number": n, "html_url": fmt.Sprintf("https://github.com/shop/checkout/pull/%d", n), "state": "open",
			"title": in["title"], "body": in["body"], "head": map[string]any{"ref": in["head"]}, "base": map[string]any{"ref": in["base"]}}
		h.Pulls = append(h.Pulls, pr)
		h.reply(w, 201, pr)
	case strings.HasPrefix(rest, "/pulls/") && r.Method == http.MethodPatch:
		for _, pr := range h.Pulls {
			if fmt.Sprint("/pulls/", pr["number"]) == rest {
				for k, v := range in {
					pr[k] = v
				}
				h.reply(w, 200, pr)
				return
			}
		}
		h.Refuse(w, 404, "Not Found")
	default:
		h.Refuse(w, 404, "Not Found")
	}
}

func (h *Hub) contents(w http.ResponseWriter, p, branch string) {
	if branch == "" {
		branch = "main"
	}
	if id, ok := h.Refs[branch]; ok {
		branch = id
	}
	commit, ok := h.Commits[branch]
	if !ok {
		h.Refuse(w, 404, "No commit found for the ref "+branch)
		return
	}
	tree := h.Trees[commit["tree"].(string)]
	if id, ok := tree[p]; ok {
		h.reply(w, 200, map[string]any{"type": "file", "encoding": "base64", "size": len(h.Blobs[id]), "name": p, "path": p, "sha": id,
			"content": base64.StdEncoding.EncodeToString(h.Blobs[id])})
		return
	}
	for have := range tree {
		if strings.HasPrefix(have, p+"/") {
			h.reply(w, 200, []map[string]any{{"type": "file", "name": have, "path": have, "sha": tree[have]}})
			return
		}
	}
	h.Refuse(w, 404, "Not Found")
}

func (h *Hub) mode(path string) string {
	if m, ok := h.Modes[path]; ok {
		return m
	}
	return "100644"
}

// folder answers with one folder of a tree; that of a folder in it is called TREE:FOLDER here.
func (h *Hub) folder(w http.ResponseWriter, id string) {
	id, in, _ := strings.Cut(id, ":")
	tree, ok := h.Trees[id]
	if !ok {
		h.Refuse(w, 404, "Not Found")
		return
	}
	entries, seen := []map[string]any{}, map[string]bool{}
	for p, blob := range tree {
		rest, ok := strings.CutPrefix(p, in)
		if !ok {
			continue
		}
		name, _, deeper := strings.Cut(rest, "/")
		switch {
		case !deeper:
			entries = append(entries, map[string]any{"path": name, "mode": h.mode(p), "type": "blob", "sha": blob})
		case !seen[name]:
			seen[name] = true
			entries = append(entries, map[string]any{"path": name, "mode": "040000", "type": "tree", "sha": id + ":" + in + name + "/"})
		}
	}
	h.reply(w, 200, map[string]any{"sha": id, "tree": entries, "truncated": false})
}

// Commit commits files to a branch, as somebody else does; "" removes one.
func (h *Hub) Commit(branch string, files map[string]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	tree := map[string]string{}
	for p, id := range h.Trees[h.Commits[h.Refs[branch]]["tree"].(string)] {
		tree[p] = id
	}
	for p, text := range files {
		id := blobID([]byte(text))
		if h.Blobs[id], tree[p] = []byte(text), id; text == "" {
			delete(tree, p)
		}
	}
	t, c := fmt.Sprint("t", len(h.Trees)), fmt.Sprint("c", len(h.Commits))
	h.Trees[t], h.Commits[c], h.Refs[branch] = tree, map[string]any{"message": "somebody's", "tree": t}, c
}

// Writes is what came and was no question.
func (h *Hub) Writes() (out []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.Log {
		if !strings.HasPrefix(l, "GET ") {
			out = append(out, l)
		}
	}
	h.Log = nil
	return out
}

// Merge merges a pull request at a time, as a person does, and removes its branch.
func (h *Hub) Merge(number int, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.Pulls {
		if p["number"] != number {
			continue
		}
		head, base := p["head"].(map[string]any)["ref"].(string), p["base"].(map[string]any)["ref"].(string)
		h.Refs[base] = h.Refs[head]
		delete(h.Refs, head)
		p["state"], p["merged_at"] = "closed", at.UTC().Format(time.RFC3339)
	}
}

// Pull is a pull request as it is now: from which branch, and open or closed; "" is that there is none.
func (h *Hub) Pull(number int) (head, state string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.Pulls {
		if p["number"] == number {
			head, state = p["head"].(map[string]any)["ref"].(string), p["state"].(string)
		}
	}
	return head, state
}

// Branch is the files of a branch, with their contents.
func (h *Hub) Branch(name string) map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]string{}
	for p, id := range h.Trees[h.Commits[h.Refs[name]]["tree"].(string)] {
		out[p] = string(h.Blobs[id])
	}
	return out
}

// blobID is git's name of a content.
func blobID(b []byte) string {
	return fmt.Sprintf("%x", sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(b), b)))
}
