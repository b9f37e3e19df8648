package builds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/pull"
)

// Pulls is a [Place] that is a file in a repository, which people merge into its base branch by pull requests. One that is not merged is closed by an undo;
// of one that is, the undo is another one that gives the file back what it had: it is done when that is merged.
type Pulls struct {
	Pull
	// Client opens pull requests, Dry rehearses that ([pull.Options].DryRun).
	Client, Dry *pull.Client
}

// pullWas are git's names of what the base had ("" is no file), and of the profile.
type pullWas struct {
	Was  string `json:"was"`
	Ours string `json:"ours"`
}

func (s *Pulls) names() (owner, repo string) {
	owner, repo, _ = strings.Cut(s.Repository, "/")
	return owner, repo
}

// branch is one of the change's own, so that what became of its pull request is never another's.
func branch(p Put) string {
	part := strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, p.Service[:min(80, len(p.Service))])
	return "quantraband/pgo-" + part + "-" + p.Change
}

func undoBranch(p Put) string { return branch(p) + "-undo" }

// request is the pull request that puts the profile there, or with nil the one that puts back what was.
func (s *Pulls) request(p Put, was *pullWas, profile []byte) pull.Request {
	owner, repo := s.names()
	r := pull.Request{Owner: owner, Repo: repo, Base: s.Base, Branch: branch(p), Title: p.Title, Body: p.Body, Files: map[string][]byte{s.Path: profile}}
	if profile == nil {
		r.Branch, r.Files, r.Old = undoBranch(p), nil, map[string]string{s.Path: was.Was}
	}
	return r
}

func (s *Pulls) was(p Put) (w pullWas, err error) {
	if err := json.Unmarshal(p.Was, &w); err != nil {
		return w, fmt.Errorf("builds: %s: %w: the snapshot cannot be read: %v", s.Repository, optimize.ErrRefused, err)
	}
	return w, nil
}

// now is what the base has.
func (s *Pulls) now(ctx context.Context) (string, error) {
	owner, repo := s.names()
	id, err := s.Client.Blob(ctx, owner, repo, s.Base, s.Path)
	return id, worded(err)
}

func (s *Pulls) find(ctx context.Context, branch string) (pull.Found, error) {
	owner, repo := s.names()
	f, err := s.Client.Find(ctx, owner, repo, branch)
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
func (s *Pulls) Was(ctx context.Context, profile []byte) (json.RawMessage, error) {
	now, err := s.now(ctx)
	if err != nil {
		return nil, err
	}
	w := pullWas{now, pull.BlobID(profile)}
	if w.Was == w.Ours {
		return nil, fmt.Errorf("builds: %s is there already, byte by byte: %w", Where{Pull: &s.Pull}, optimize.ErrRefused)
	}
	return json.Marshal(w)
}

// Rehearse implements [Place]: both pull requests are opened but for what would write. While the base has what it had, the one back has
// nothing to do, and what it needs is read: the repository, the branches, the file.
func (s *Pulls) Rehearse(ctx context.Context, p Put, profile []byte) error {
	w, err := s.was(p)
	if err != nil {
		return err
	}
	if _, err := s.Dry.Open(ctx, s.request(p, &w, profile)); err != nil {
		return fmt.Errorf("builds: dry run of the pull request: %w", worded(err))
	}
	if _, err := s.Dry.Open(ctx, s.request(p, &w, nil)); err != nil {
		return fmt.Errorf("builds: dry run of the pull request back: %w", worded(err))
	}
	return nil
}

// Put implements [Place]. One that was opened is left as it is, whatever became of it.
func (s *Pulls) Put(ctx context.Context, p Put, profile []byte) error {
	w, err := s.was(p)
	if err != nil {
		return err
	}
	f, err := s.find(ctx, branch(p))
	if err != nil || f.Number != 0 {
		return err
	}
	_, err = s.Client.Open(ctx, s.request(p, &w, profile))
	return worded(err)
}

// Back implements [Place].
func (s *Pulls) Back(ctx context.Context, p Put) error {
	w, err := s.was(p)
	if err != nil {
		return err
	}
	f, err := s.find(ctx, branch(p))
	switch {
	case err != nil:
		return err
	case f.Open:
		owner, repo := s.names()
		return worded(s.Client.Close(ctx, owner, repo, f.Number))
	case f.Number == 0 || f.MergedAt.IsZero():
		return nil
	}
	now, err := s.now(ctx)
	switch {
	case err != nil || now == w.Was:
		return err
	case now != w.Ours:
		return fmt.Errorf("builds: %s: %w: somebody has changed it since pull request %d: it is left so", Where{Pull: &s.Pull}, optimize.ErrRefused, f.Number)
	}
	if back, err := s.find(ctx, undoBranch(p)); err != nil || back.Open {
		return err
	}
	p.Title = fmt.Sprintf("%s: back to what it was before #%d", path.Base(s.Path), f.Number)
	_, err = s.Client.Open(ctx, s.request(p, &w, nil))
	return worded(err)
}

// Look implements [Place].
func (s *Pulls) Look(ctx context.Context, p Put) (Look, error) {
	w, err := s.was(p)
	if err != nil {
		return Look{}, err
	}
	f, err := s.find(ctx, branch(p))
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
	now, err := s.now(ctx)
	if err != nil {
		return Look{}, err
	}
	if now == w.Was {
		return Look{State: Before, Note: fmt.Sprintf("pull request %d was merged, and taken back since", f.Number)}, nil
	}
	if now != w.Ours {
		return Look{State: Other, Note: fmt.Sprintf("somebody has changed %s since pull request %d", s.Path, f.Number)}, nil
	}
	back, err := s.find(ctx, undoBranch(p))
	if err != nil {
		return Look{}, err
	}
	switch {
	case back.Open:
		return Look{State: Asked, Since: f.MergedAt, Note: fmt.Sprintf("pull request %d, which takes it back, waits to be merged: %s", back.Number, back.URL)}, nil
	case back.Number != 0:
		return Look{State: Kept, Since: f.MergedAt, Note: fmt.Sprintf("pull request %d, which takes it back, was closed: the profile stays where it is: %s", back.Number, back.URL)}, nil
	}
	return Look{State: There, Since: f.MergedAt}, nil
}

// Every implements [Place]: of 5,000 requests that GitHub answers in an hour a change takes about two hundred.
func (s *Pulls) Every() time.Duration { return time.Minute }
