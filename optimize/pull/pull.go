// Package pull opens a pull request on GitHub, or on a GitHub Enterprise server, that changes some files: a branch with
// one commit on top of the base, and the request to merge it. It never merges, never pushes to a branch that anyone
// else has committed to, and does nothing where the files are there already as they should be.
//
// It fences the client library: nobody else speaks with GitHub.
package pull

import (
	"cmp"
	"context"
	"crypto/sha1" // git's names of objects are SHA-1
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-github/v92/github"
)

// What a caller branches on. The text says what was refused, and what to do.
var (
	ErrInvalid     = errors.New("invalid")     // the request itself is wrong
	ErrDenied      = errors.New("denied")      // no token, a wrong one, or one that may not do this
	ErrNotFound    = errors.New("not found")   // no such repository or branch, or the token may not see it
	ErrRefused     = errors.New("refused")     // GitHub understands and will not, or the branch is somebody else's
	ErrUnavailable = errors.New("unavailable") // no answer, a server's fault, or too many requests: later it may do
)

const (
	maxFileBytes = 16 << 20 // of a file here or there; GitHub's own bound on blobs is 100 MB
	maxFiles     = 100
	maxBody      = 60_000 // GitHub's bound on a description is 65,536 characters
	// Tries are bounded by this, each; there are about ten in an Open.
	timeout = 30 * time.Second
	// mark is the last line of each commit made here: a branch whose tip has it may be replaced.
	mark = "Made-By: quantraband"
)

// Options are whom to ask, and as whom. The zero value is github.com, as nobody: it can only read.
type Options struct {
	API   string // URL of the API; "" is https://api.github.com, of GitHub Enterprise it is https://HOST/api/v3
	Token string
	// DryRun, if it is there, is told what would be sent, and nothing that changes anything is.
	DryRun io.Writer
}

// Client speaks with one server.
type Client struct {
	gh  *github.Client
	dry bool
}

// New checks the options; it sends nothing. The error is ErrInvalid.
func New(o Options) (*Client, error) {
	var transport http.RoundTripper = http.DefaultTransport
	if o.DryRun != nil {
		transport = &rehearsal{transport, o.DryRun}
	}
	opts := []github.ClientOptionsFunc{github.WithTransport(transport), github.WithTimeout(timeout), github.WithUserAgent("quantraband")}
	if o.Token != "" {
		opts = append(opts, github.WithAuthToken(o.Token))
	}
	if o.API != "" {
		if !strings.HasPrefix(o.API, "https://") && !strings.HasPrefix(o.API, "http://") {
			return nil, fmt.Errorf("%w: the API's address %q must begin with https://", ErrInvalid, o.API)
		}
		api := strings.TrimRight(o.API, "/") + "/"
		opts = append(opts, github.WithURLs(&api, nil))
	}
	gh, err := github.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("%w: the API's address: %w", ErrInvalid, err)
	}
	return &Client{gh, o.DryRun != nil}, nil
}

// Request is a pull request to be.
type Request struct {
	Owner, Repo string
	Base        string // the branch to merge into; "" is the repository's default
	Branch      string // the branch to make
	Title, Body string // the body is Markdown
	Files       map[string][]byte
	// Old are files that get a content that the repository has already, by git's name of it ([Client.Blob]); with "" the file goes.
	Old map[string]string
	// Was are, by path, git's names of what the commit that it is made upon must have ("" is no file): else it is [ErrRefused], as what the new content was made
	// of is another. Such files keep their mode.
	Was map[string]string
}

// contents are git's names of what all files are to have; "" is that there is no such file.
func (r *Request) contents() map[string]string {
	out := maps.Clone(r.Old)
	if out == nil {
		out = map[string]string{}
	}
	for p, b := range r.Files {
		out[p] = BlobID(b)
	}
	return out
}

// Result is what came of it.
type Result struct {
	Number    int    // 0 in a dry run
	URL       string // for a browser
	Unchanged bool   // the files are in the base, or in an open pull request, as they should be: nothing was sent
	Updated   bool   // there was a pull request from this branch, which has the new files now
}

var blobName = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

var name = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,100}$`)

func (r *Request) check() error {
	switch {
	case !name.MatchString(r.Owner) || !name.MatchString(r.Repo) || strings.Trim(r.Repo, ".") == "":
		return fmt.Errorf("%w: repository %q must be OWNER/NAME", ErrInvalid, r.Owner+"/"+r.Repo)
	case !goodBranch(r.Branch) || r.Base != "" && !goodBranch(r.Base):
		return fmt.Errorf("%w: branch %q or base %q is no name of a branch", ErrInvalid, r.Branch, r.Base)
	case r.Branch == r.Base:
		return fmt.Errorf("%w: the branch %s would be merged into itself", ErrInvalid, r.Branch)
	case r.Title == "" || strings.ContainsAny(r.Title, "\r\n") || len(r.Title) > 200:
		return fmt.Errorf("%w: the title must be one line of 1 to 200 bytes", ErrInvalid)
	case len(r.Body) > maxBody:
		return fmt.Errorf("%w: the body has %d bytes, more than %d", ErrInvalid, len(r.Body), maxBody)
	case len(r.Files)+len(r.Old) == 0 || len(r.Files)+len(r.Old) > maxFiles:
		return fmt.Errorf("%w: %d files; it must be 1 to %d", ErrInvalid, len(r.Files)+len(r.Old), maxFiles)
	}
	for p, id := range r.Old {
		if err := checkPath(p); err != nil {
			return err
		}
		if _, twice := r.Files[p]; twice || id != "" && !blobName.MatchString(id) {
			return fmt.Errorf("%w: %s has the old content %q: it must be a name of git's, and the file not a new one, too", ErrInvalid, p, id)
		}
	}
	for p, id := range r.Was {
		_, new := r.Files[p]
		_, old := r.Old[p]
		if !new && !old || id != "" && !blobName.MatchString(id) {
			return fmt.Errorf("%w: %s was %q: it must be a name of git's, of a file that is to change", ErrInvalid, p, id)
		}
	}
	for p, b := range r.Files {
		if err := checkPath(p); err != nil {
			return err
		}
		if len(b) > maxFileBytes {
			return fmt.Errorf("%w: %s has %d bytes, more than %d", ErrInvalid, p, len(b), maxFileBytes)
		}
	}
	return nil
}

func checkPath(p string) error {
	if p == "" || p == "." || path.IsAbs(p) || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../") ||
		strings.ContainsAny(p, "\\\x00\r\n") || slices.ContainsFunc(strings.Split(p, "/"), func(s string) bool { return strings.EqualFold(s, ".git") }) {
		return fmt.Errorf("%w: %q is no path in a repository; write it as cmd/shop/default.pgo", ErrInvalid, p)
	}
	return nil
}

// goodBranch is what git check-ref-format allows, and a little less.
func goodBranch(s string) bool {
	if s == "" || len(s) > 200 || strings.ContainsAny(s, " ~^:?*[\\\x7f") || strings.Contains(s, "..") || strings.Contains(s, "@{") || strings.Contains(s, "//") {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock") || strings.HasSuffix(part, ".") {
			return false
		}
	}
	return !strings.HasPrefix(s, "-") && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' })
}

// File is a file as it is in a branch ("" is the default one); ok is false where there is none.
func (c *Client) File(ctx context.Context, owner, repo, branch, p string) (b []byte, ok bool, err error) {
	if !name.MatchString(owner) || !name.MatchString(repo) {
		return nil, false, fmt.Errorf("%w: repository %q must be OWNER/NAME", ErrInvalid, owner+"/"+repo)
	}
	if err := checkPath(p); err != nil {
		return nil, false, err
	}
	id, size, err := c.blob(ctx, owner, repo, branch, p)
	if err != nil || id == "" {
		return nil, false, err
	}
	if size > maxFileBytes {
		return nil, false, fmt.Errorf("%w: %s has %d bytes, more than %d", ErrRefused, p, size, maxFileBytes)
	}
	b, _, err = c.gh.Git.GetBlobRaw(ctx, owner, repo, id)
	if err != nil {
		return nil, false, fault("read "+p, err)
	}
	return b, true, nil
}

// Content is a content by git's name of it.
func (c *Client) Content(ctx context.Context, owner, repo, id string) ([]byte, error) {
	if !name.MatchString(owner) || !name.MatchString(repo) || !blobName.MatchString(id) {
		return nil, fmt.Errorf("%w: repository %q, content %q", ErrInvalid, owner+"/"+repo, id)
	}
	b, _, err := c.gh.Git.GetBlobRaw(ctx, owner, repo, id)
	if err != nil {
		return nil, fault("read content "+id, err)
	}
	if len(b) > maxFileBytes {
		return nil, fmt.Errorf("%w: content %s has %d bytes, more than %d", ErrRefused, id, len(b), maxFileBytes)
	}
	return b, nil
}

// Blob is git's name of a file's content in a branch ("" is the default one); "" is that there is no such file.
func (c *Client) Blob(ctx context.Context, owner, repo, branch, p string) (string, error) {
	if !name.MatchString(owner) || !name.MatchString(repo) {
		return "", fmt.Errorf("%w: repository %q must be OWNER/NAME", ErrInvalid, owner+"/"+repo)
	}
	if err := checkPath(p); err != nil {
		return "", err
	}
	id, _, err := c.blob(ctx, owner, repo, branch, p)
	return id, err
}

// Found is a pull request as it is.
type Found struct {
	Number   int // 0 is that there is none
	URL      string
	Open     bool
	MergedAt time.Time // zero is that it was not merged
}

// Find is the newest pull request from a branch, whatever its state.
func (c *Client) Find(ctx context.Context, owner, repo, branch string) (Found, error) {
	if !name.MatchString(owner) || !name.MatchString(repo) || !goodBranch(branch) {
		return Found{}, fmt.Errorf("%w: repository %q, branch %q", ErrInvalid, owner+"/"+repo, branch)
	}
	all, _, err := c.gh.PullRequests.List(ctx, owner, repo, &github.PullRequestListOptions{State: "all", Head: owner + ":" + branch, Sort: "created", Direction: "desc"})
	if err != nil {
		return Found{}, fault("list pull requests", err)
	}
	for _, pr := range all {
		if pr.GetHead().GetRef() == branch {
			return Found{Number: pr.GetNumber(), URL: pr.GetHTMLURL(), Open: pr.GetState() == "open", MergedAt: pr.GetMergedAt().Time}, nil
		}
	}
	return Found{}, nil
}

// Close closes a pull request without merging it. One that is closed already is no error.
func (c *Client) Close(ctx context.Context, owner, repo string, number int) error {
	if !name.MatchString(owner) || !name.MatchString(repo) || number < 1 {
		return fmt.Errorf("%w: pull request %d of %q", ErrInvalid, number, owner+"/"+repo)
	}
	if _, _, err := c.gh.PullRequests.Edit(ctx, owner, repo, number, &github.PullRequest{State: new("closed")}); err != nil {
		return fault(fmt.Sprintf("close pull request %d", number), err)
	}
	return nil
}

// blob is git's name of a file's content in a branch, "" where there is none.
func (c *Client) blob(ctx context.Context, owner, repo, branch, p string) (id string, size int, err error) {
	file, dir, _, err := c.gh.Repositories.GetContents(ctx, owner, repo, p, &github.RepositoryContentGetOptions{Ref: branch})
	switch {
	case status(err) == http.StatusNotFound:
		return "", 0, nil
	case err != nil:
		return "", 0, fault("read "+p, err)
	case dir != nil || file.GetType() != "file":
		return "", 0, fmt.Errorf("%w: %s is there, and is no file", ErrRefused, p)
	}
	return file.GetSHA(), file.GetSize(), nil
}

// Open makes the branch and the pull request, or brings them up to date where both are there. Where it fails half-way
// there may be a branch without a pull request, which the next Open goes on with.
func (c *Client) Open(ctx context.Context, r Request) (Result, error) {
	if err := r.check(); err != nil {
		return Result{}, err
	}
	repo, _, err := c.gh.Repositories.Get(ctx, r.Owner, r.Repo)
	if err != nil {
		return Result{}, fault("find "+r.Owner+"/"+r.Repo, err)
	}
	if r.Base == "" {
		r.Base = repo.GetDefaultBranch()
	}
	if r.Base == r.Branch || r.Branch == repo.GetDefaultBranch() {
		return Result{}, fmt.Errorf("%w: %s is the branch to merge into, or the repository's default; name another branch", ErrInvalid, r.Branch)
	}
	base, _, err := c.gh.Git.GetRef(ctx, r.Owner, r.Repo, "heads/"+r.Base)
	if err != nil {
		return Result{}, fault("find branch "+r.Base, err)
	}
	same, err := c.has(ctx, r, r.Base)
	if err != nil || same {
		return Result{Unchanged: same}, err
	}
	if err := c.was(ctx, r, base.GetObject().GetSHA()); err != nil {
		return Result{}, err
	}
	tip, err := c.tip(ctx, r)
	if err != nil {
		return Result{}, err
	}
	open, err := c.openFrom(ctx, r)
	if err != nil {
		return Result{}, err
	}
	if tip != "" && open != nil {
		same, err := c.has(ctx, r, r.Branch)
		if err != nil || same {
			return Result{Number: open.GetNumber(), URL: open.GetHTMLURL(), Unchanged: same}, err
		}
	}
	commit, err := c.commit(ctx, r, base.GetObject().GetSHA())
	if err != nil {
		return Result{}, err
	}
	if tip == "" {
		_, _, err = c.gh.Git.CreateRef(ctx, r.Owner, r.Repo, github.CreateRef{Ref: "refs/heads/" + r.Branch, SHA: commit})
	} else {
		_, _, err = c.gh.Git.UpdateRef(ctx, r.Owner, r.Repo, "heads/"+r.Branch, github.UpdateRef{SHA: commit, Force: new(true)})
	}
	if err != nil {
		return Result{}, fault("write branch "+r.Branch, err)
	}
	if open != nil {
		pr, _, err := c.gh.PullRequests.Edit(ctx, r.Owner, r.Repo, open.GetNumber(), &github.PullRequest{Title: &r.Title, Body: &r.Body})
		if err != nil {
			return Result{}, fault(fmt.Sprintf("describe pull request %d", open.GetNumber()), err)
		}
		return Result{Number: pr.GetNumber(), URL: pr.GetHTMLURL(), Updated: true}, nil
	}
	pr, _, err := c.gh.PullRequests.Create(ctx, r.Owner, r.Repo, github.CreatePullRequest{Title: &r.Title, Head: r.Branch, Base: r.Base, Body: &r.Body})
	if err != nil {
		return Result{}, fault("open the pull request", err)
	}
	return Result{Number: pr.GetNumber(), URL: pr.GetHTMLURL()}, nil
}

// has says that a branch has all files as they should be.
func (c *Client) has(ctx context.Context, r Request, branch string) (bool, error) {
	want := r.contents()
	for _, p := range slices.Sorted(maps.Keys(want)) {
		id, _, err := c.blob(ctx, r.Owner, r.Repo, branch, p)
		if err != nil || id != want[p] {
			return false, err
		}
	}
	return true, nil
}

// tip is the commit that the branch is at, "" where there is no such branch. Where it is not ours that is ErrRefused.
func (c *Client) tip(ctx context.Context, r Request) (string, error) {
	ref, _, err := c.gh.Git.GetRef(ctx, r.Owner, r.Repo, "heads/"+r.Branch)
	switch {
	case status(err) == http.StatusNotFound:
		return "", nil
	case err != nil:
		return "", fault("find branch "+r.Branch, err)
	}
	id := ref.GetObject().GetSHA()
	commit, _, err := c.gh.Git.GetCommit(ctx, r.Owner, r.Repo, id)
	if err != nil {
		return "", fault("read the last commit of "+r.Branch, err)
	}
	if !strings.HasSuffix(strings.TrimSpace(commit.GetMessage()), mark) {
		return "", fmt.Errorf("%w: branch %s has a commit of somebody else's; merge or remove it, or name another branch", ErrRefused, r.Branch)
	}
	return id, nil
}

// openFrom is the open pull request from the branch, nil where there is none.
func (c *Client) openFrom(ctx context.Context, r Request) (*github.PullRequest, error) {
	all, _, err := c.gh.PullRequests.List(ctx, r.Owner, r.Repo, &github.PullRequestListOptions{State: "open", Head: r.Owner + ":" + r.Branch, Base: r.Base})
	if err != nil {
		return nil, fault("list pull requests", err)
	}
	for _, pr := range all {
		if pr.GetHead().GetRef() == r.Branch {
			return pr, nil
		}
	}
	return nil, nil
}

// commit makes a commit of the files on top of parent, and is its name.
func (c *Client) commit(ctx context.Context, r Request, parent string) (string, error) {
	on, _, err := c.gh.Git.GetCommit(ctx, r.Owner, r.Repo, parent)
	if err != nil {
		return "", fault("read the last commit of "+r.Base, err)
	}
	modes, err := c.modes(ctx, r, on.GetTree().GetSHA())
	if err != nil {
		return "", err
	}
	var entries []*github.TreeEntry
	for _, p := range slices.Sorted(maps.Keys(r.Files)) {
		blob, _, err := c.gh.Git.CreateBlob(ctx, r.Owner, r.Repo, github.Blob{Content: new(base64Of(r.Files[p])), Encoding: new("base64")})
		if err != nil {
			return "", fault("send "+p, err)
		}
		entries = append(entries, &github.TreeEntry{Path: new(p), Mode: new(cmp.Or(modes[p], plainFile)), Type: new("blob"), SHA: blob.SHA})
	}
	for _, p := range slices.Sorted(maps.Keys(r.Old)) {
		e := &github.TreeEntry{Path: new(p), Mode: new(cmp.Or(modes[p], plainFile)), Type: new("blob")} // without a name the file is removed
		if id := r.Old[p]; id != "" {
			e.SHA = new(id)
		}
		entries = append(entries, e)
	}
	tree, _, err := c.gh.Git.CreateTree(ctx, r.Owner, r.Repo, on.GetTree().GetSHA(), entries)
	if err != nil {
		return "", fault("send the tree", err)
	}
	commit, _, err := c.gh.Git.CreateCommit(ctx, r.Owner, r.Repo, github.Commit{
		Message: new(r.Title + "\n\n" + mark), Tree: &github.Tree{SHA: tree.SHA}, Parents: []*github.Commit{{SHA: &parent}},
	}, nil)
	if err != nil {
		return "", fault("send the commit", err)
	}
	return commit.GetSHA(), nil
}

// was checks that a commit has of the files what the request was made of.
func (c *Client) was(ctx context.Context, r Request, commit string) error {
	for _, p := range slices.Sorted(maps.Keys(r.Was)) {
		id, _, err := c.blob(ctx, r.Owner, r.Repo, commit, p)
		if err != nil {
			return err
		}
		if id != r.Was[p] {
			return fmt.Errorf("%w: %s has changed in %s since: what is to be put there was made of another version of it", ErrRefused, p, r.Base)
		}
	}
	return nil
}

const plainFile = "100644" // git's mode of a file that is not to be run

// modes are those of the files of r.Was in a tree, which is read folder by folder: as a whole it may be too large for one answer.
func (c *Client) modes(ctx context.Context, r Request, root string) (map[string]string, error) {
	out, trees := map[string]string{}, map[string]map[string]*github.TreeEntry{}
	read := func(id string) (map[string]*github.TreeEntry, error) {
		if trees[id] == nil {
			tree, _, err := c.gh.Git.GetTree(ctx, r.Owner, r.Repo, id, false)
			if err != nil {
				return nil, fault("read a folder", err)
			}
			trees[id] = map[string]*github.TreeEntry{}
			for _, e := range tree.Entries {
				trees[id][e.GetPath()] = e
			}
		}
		return trees[id], nil
	}
	for p, was := range r.Was {
		if was == "" {
			continue
		}
		id, parts := root, strings.Split(p, "/")
		for i, part := range parts {
			entries, err := read(id)
			if err != nil {
				return nil, err
			}
			e := entries[part]
			switch {
			case e == nil:
				return nil, fmt.Errorf("%w: %s is not in the tree of %s", ErrRefused, p, r.Base)
			case i < len(parts)-1:
			case e.GetMode() != plainFile && e.GetMode() != "100755":
				return nil, fmt.Errorf("%w: %s is no plain file in %s (mode %s): a link, or another repository", ErrRefused, p, r.Base, e.GetMode())
			default:
				out[p] = e.GetMode()
			}
			id = e.GetSHA()
		}
	}
	return out, nil
}

// BlobID is git's name of a content.
func BlobID(b []byte) string {
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", len(b))
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil))
}
