package builds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/patch"
	"github.com/quantra-l/quantra/optimize/pull"
)

// Pulls is a [Place] that is files in a repository, which people merge into its base branch by pull requests. One that is not merged is closed by an undo;
// of one that is, the undo is another one that gives the files back what they had: it is done when that is merged.
type Pulls struct {
	Pull
	// Client opens pull requests, Dry rehearses that ([pull.Options].DryRun).
	Client, Dry *pull.Client
	// Diffs are set where it is a patch of files that people go on with, by lines: it is there as long as its lines are, and is taken back by them. Path is not
	// used then. nil is one file that is ours as a whole.
	Diffs []patch.FileDiff
	// Of are git's names of what those files must have had.
	Of map[string]string
}

// pullWas are git's names of what the base had ("" is no file), and of what is to be there, by the paths of files.
type pullWas struct {
	Files map[string]fileNames `json:"files,omitempty"`
	// Old is the newest pull request that there was of the change already, from when it was started before: it, and those before it, say nothing of this time.
	Old       int `json:"old,omitempty"`
	fileNames     // of the one file, as snapshots had it before there were patches
}

type fileNames struct {
	Was  string `json:"was"`
	Ours string `json:"ours"`
}

func (s *Pulls) names() (owner, repo string) {
	owner, repo, _ = strings.Cut(s.Repository, "/")
	return owner, repo
}

// what is it that goes there, for people.
func (s *Pulls) what() string {
	if s.Diffs != nil {
		return "the patch"
	}
	return "the profile"
}

// String is as shop/checkout:cmd/checkout/default.pgo; of a patch without the file.
func (s *Pulls) String() string {
	if s.Diffs != nil {
		return s.Repository
	}
	return Where{Pull: &s.Pull}.String()
}

// branch is one of the change's own, so that what became of its pull request is never another's.
func (s *Pulls) branch(p Put) string {
	part := strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, p.Service[:min(80, len(p.Service))])
	kind := "pgo"
	if s.Diffs != nil {
		kind = "patch"
	}
	return "quantraband/" + kind + "-" + part + "-" + p.Change
}

func (s *Pulls) undoBranch(p Put) string { return s.branch(p) + "-undo" }

func (s *Pulls) request(p Put) pull.Request {
	owner, repo := s.names()
	return pull.Request{Owner: owner, Repo: repo, Base: s.Base, Branch: s.branch(p), Title: p.Title, Body: p.Body}
}

// there is the pull request that puts the files there.
func (s *Pulls) there(p Put, files map[string][]byte) pull.Request {
	r := s.request(p)
	r.Files, r.Was = files, s.Of
	return r
}

// back is the pull request that puts back what was, where all is ours still.
func (s *Pulls) back(p Put, w *pullWas) pull.Request {
	r := s.request(p)
	r.Branch, r.Old = s.undoBranch(p), map[string]string{}
	for name, n := range w.Files {
		r.Old[name] = n.Was
	}
	return r
}

func (s *Pulls) was(p Put) (w pullWas, err error) {
	err = json.Unmarshal(p.Was, &w)
	if err == nil && w.Files == nil && s.Diffs == nil && w.Ours != "" {
		w.Files = map[string]fileNames{s.Path: w.fileNames}
	}
	if err == nil && len(w.Files) == 0 {
		err = errors.New("it names no file")
	}
	if err != nil {
		return w, fmt.Errorf("builds: %s: %w: the snapshot cannot be read: %v", s.Repository, optimize.ErrRefused, err)
	}
	return w, nil
}

// now is what the base has of a file.
func (s *Pulls) now(ctx context.Context, name string) (string, error) {
	owner, repo := s.names()
	id, err := s.Client.Blob(ctx, owner, repo, s.Base, name)
	return id, worded(err)
}

// fileNow is how a file in the base is.
type fileNow struct {
	id    string // git's name of it
	state State  // There, Before or Other
	back  []byte // of a patch that is There in a file which others have gone on with: the file without it
}

// look is how all of the files are, and the state that they have together: There and Before only where all have that.
func (s *Pulls) look(ctx context.Context, w *pullWas) (files map[string]fileNow, all State, other string, err error) {
	files = map[string]fileNow{}
	for _, name := range slices.Sorted(maps.Keys(w.Files)) {
		f, err := s.file(ctx, name, w.Files[name])
		if err != nil {
			return nil, "", "", err
		}
		files[name] = f
		switch {
		case f.state == Other && other == "":
			other = name
		case all == "":
			all = f.state
		case all != f.state && other == "":
			other = name
		}
	}
	if other != "" {
		all = Other
	}
	return files, all, other, nil
}

func (s *Pulls) file(ctx context.Context, name string, n fileNames) (f fileNow, err error) {
	if f.id, err = s.now(ctx, name); err != nil {
		return f, err
	}
	f.state = Other
	switch f.id {
	case n.Ours:
		f.state = There
		return f, nil
	case n.Was:
		f.state = Before
		return f, nil
	}
	i := slices.IndexFunc(s.Diffs, func(d patch.FileDiff) bool { return d.Path == name })
	if i < 0 || f.id == "" {
		return f, nil
	}
	owner, repo := s.names()
	b, err := s.Client.Content(ctx, owner, repo, f.id)
	if err != nil {
		return f, worded(err)
	}
	back, has, had := s.Diffs[i].Find(b)
	switch {
	case has:
		f.state, f.back = There, back
	case had:
		f.state = Before
	}
	return f, nil
}

// find is the newest pull request from a branch that is newer than old.
func (s *Pulls) find(ctx context.Context, branch string, old int) (pull.Found, error) {
	owner, repo := s.names()
	f, err := s.Client.Find(ctx, owner, repo, branch)
	if f.Number <= old {
		f = pull.Found{}
	}
	return f, worded(err)
}

// worded gives errors of pull the optimizer's words: what is wrong with the request or the rights is final, all else passes.
func worded(err error) error {
	if errors.Is(err, pull.ErrInvalid) || errors.Is(err, pull.ErrDenied) || errors.Is(err, pull.ErrNotFound) || errors.Is(err, pull.ErrRefused) {
		return fmt.Errorf("%w: %w", optimize.ErrRefused, err)
	}
	return err
}

// Was implements [Place].
func (s *Pulls) Was(ctx context.Context, p Put, files map[string][]byte) (json.RawMessage, error) {
	w := pullWas{Files: map[string]fileNames{}}
	for _, b := range []string{s.branch(p), s.undoBranch(p)} {
		f, err := s.find(ctx, b, w.Old)
		if err != nil {
			return nil, err
		}
		w.Old = max(w.Old, f.Number)
	}
	same := true
	for name, b := range files {
		now, err := s.now(ctx, name)
		if err != nil {
			return nil, err
		}
		n := fileNames{now, pull.BlobID(b)}
		w.Files[name], same = n, same && n.Was == n.Ours
		if of, ok := s.Of[name]; ok && of != now && n.Ours != now {
			return nil, fmt.Errorf("builds: %s: %w: %s has changed since the patch was proposed: lint it again, and propose what is found then", s, optimize.ErrRefused, name)
		}
	}
	if same {
		return nil, fmt.Errorf("builds: %s is there already, byte by byte: %w", s, optimize.ErrRefused)
	}
	return json.Marshal(struct {
		Files map[string]fileNames `json:"files"`
		Old   int                  `json:"old,omitempty"`
	}{w.Files, w.Old})
}

// Rehearse implements [Place]: both pull requests are opened but for what would write. While the base has what it had, the one back has
// nothing to do, and what it needs is read: the repository, the branches, the files.
func (s *Pulls) Rehearse(ctx context.Context, p Put, files map[string][]byte) error {
	w, err := s.was(p)
	if err != nil {
		return err
	}
	if _, err := s.Dry.Open(ctx, s.there(p, files)); err != nil {
		return fmt.Errorf("builds: dry run of the pull request: %w", worded(err))
	}
	if _, err := s.Dry.Open(ctx, s.back(p, &w)); err != nil {
		return fmt.Errorf("builds: dry run of the pull request back: %w", worded(err))
	}
	return nil
}

// Put implements [Place]. One that was opened is left as it is, whatever became of it.
func (s *Pulls) Put(ctx context.Context, p Put, files map[string][]byte) error {
	w, err := s.was(p)
	if err != nil {
		return err
	}
	f, err := s.find(ctx, s.branch(p), w.Old)
	if err != nil || f.Number != 0 {
		return err
	}
	_, err = s.Client.Open(ctx, s.there(p, files))
	return worded(err)
}

// Back implements [Place].
func (s *Pulls) Back(ctx context.Context, p Put) error {
	w, err := s.was(p)
	if err != nil {
		return err
	}
	f, err := s.find(ctx, s.branch(p), w.Old)
	switch {
	case err != nil:
		return err
	case f.Open:
		owner, repo := s.names()
		return worded(s.Client.Close(ctx, owner, repo, f.Number))
	case f.Number == 0 || f.MergedAt.IsZero():
		return nil
	}
	files, all, other, err := s.look(ctx, &w)
	switch {
	case err != nil || all == Before:
		return err
	case all == Other:
		return fmt.Errorf("builds: %s: %w: somebody has changed %s since pull request %d: it is left so", s, optimize.ErrRefused, other, f.Number)
	}
	if back, err := s.find(ctx, s.undoBranch(p), w.Old); err != nil || back.Open {
		return err
	}
	r := s.back(p, &w)
	name := path.Base(s.Path)
	if s.Diffs != nil {
		r.Was, name = map[string]string{}, s.Repository
		for file, now := range files {
			r.Was[file] = now.id
			if now.back != nil {
				delete(r.Old, file)
				if r.Files == nil {
					r.Files = map[string][]byte{}
				}
				r.Files[file] = now.back
			}
		}
	}
	r.Title = fmt.Sprintf("%s: back to what it was before #%d", name, f.Number)
	_, err = s.Client.Open(ctx, r)
	return worded(err)
}

// Look implements [Place].
func (s *Pulls) Look(ctx context.Context, p Put) (Look, error) {
	w, err := s.was(p)
	if err != nil {
		return Look{}, err
	}
	f, err := s.find(ctx, s.branch(p), w.Old)
	switch {
	case err != nil:
		return Look{}, err
	case f.Number == 0:
		return Look{State: Before}, nil
	case f.Open:
		return Look{State: Waiting, Note: fmt.Sprintf("pull request %d waits to be merged: %s", f.Number, f.URL)}, nil
	case f.MergedAt.IsZero():
		return Look{State: Denied, Note: fmt.Sprintf("pull request %d was closed and not merged: %s", f.Number, f.URL)}, nil
	}
	_, all, other, err := s.look(ctx, &w)
	switch {
	case err != nil:
		return Look{}, err
	case all == Before:
		return Look{State: Before, Note: fmt.Sprintf("pull request %d was merged, and taken back since", f.Number)}, nil
	case all == Other:
		return Look{State: Other, Note: fmt.Sprintf("somebody has changed %s since pull request %d", other, f.Number)}, nil
	}
	back, err := s.find(ctx, s.undoBranch(p), w.Old)
	if err != nil {
		return Look{}, err
	}
	switch {
	case back.Open:
		return Look{State: Asked, Since: f.MergedAt, Note: fmt.Sprintf("pull request %d, which takes it back, waits to be merged: %s", back.Number, back.URL)}, nil
	case back.Number != 0:
		return Look{State: Kept, Since: f.MergedAt, Note: fmt.Sprintf("pull request %d, which takes it back, was closed: %s stays where it is: %s", back.Number, s.what(), back.URL)}, nil
	}
	return Look{State: There, Since: f.MergedAt}, nil
}

// Every implements [Place]: of 5,000 requests that GitHub answers in an hour a change takes about two hundred, and sixty more for each further file of a patch.
func (s *Pulls) Every() time.Duration { return time.Minute }
