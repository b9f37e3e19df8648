// Package builds changes what a service is built with: it puts a profile for the Go compiler where builds take it from, a file or a pull request, or a patch of its
// source into a pull request, waits for somebody to build and roll out, and has the new version judged beside the old one.
//
// It rolls nothing out, merges nothing, and cannot: undoing puts the file back as it was, or opens the pull request that does, and is not done before the builds
// with the profile run no more. So a person who rolls back is part of every undo, and [Actuator.Standing] says what is to be done.
//
// [Propose] is a pure function of a profile and what is known of it, and [ProposePatch] of a patch. [Actuator] acts through a [Place] and func fields, and keeps nothing.
package builds

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Where is where a service's builds take the profile from: exactly one of its fields is set.
type Where struct {
	// File is a path, or an object's URL as gs://BUCKET/checkout/default.pgo.
	File string `json:"file,omitempty"`
	Pull *Pull  `json:"pull_request,omitempty"`
}

// Pull is a file in a repository on GitHub.
type Pull struct {
	Repository string `json:"repository"`     // OWNER/NAME
	Path       string `json:"path"`           // as cmd/checkout/default.pgo
	Base       string `json:"base,omitempty"` // "" is the repository's default branch
	API        string `json:"api,omitempty"`  // "" is github.com
}

// String is the file's name, or as shop/checkout:cmd/checkout/default.pgo.
func (w Where) String() string {
	if w.Pull != nil {
		return w.Pull.Repository + ":" + w.Pull.Path
	}
	return w.File
}

// Check says what is wrong with it.
func (w Where) Check() error {
	switch {
	case (w.File == "") == (w.Pull == nil):
		return errors.New("it must be either a file or a pull request")
	case w.File != "" && strings.HasSuffix(w.File, "/"):
		return fmt.Errorf("%q is a folder: name the file, as %sdefault.pgo", w.File, w.File)
	case w.Pull != nil && (strings.Count(w.Pull.Repository, "/") != 1 || strings.HasPrefix(w.Pull.Repository, "/") || strings.HasSuffix(w.Pull.Repository, "/")):
		return fmt.Errorf("repository %q must be OWNER/NAME", w.Pull.Repository)
	case w.Pull != nil && w.Pull.Path == "":
		return errors.New("a pull request must have the file's path")
	}
	return nil
}

// equal says that both are the same place.
func (w Where) equal(o Where) bool {
	return w.File == o.File && (w.Pull == nil) == (o.Pull == nil) && (w.Pull == nil || *w.Pull == *o.Pull)
}

// Spec is a change, as it is in [optimize.Proposal].Spec.
type Spec struct {
	Where   Where  `json:"where"`
	Profile string `json:"profile"` // the SHA-256 of its bytes, in hexadecimal
	Version string `json:"version"` // whose code it is of
}

var sum = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Sum names a profile by its bytes.
func Sum(profile []byte) string {
	h := sha256.Sum256(profile)
	return hex.EncodeToString(h[:])
}

// ParseSpec reads a proposal's Spec.
func ParseSpec(raw json.RawMessage) (s Spec, err error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return s, fmt.Errorf("builds: spec: %w", err)
	}
	if err := s.Where.Check(); err != nil {
		return s, fmt.Errorf("builds: spec: where: %w", err)
	}
	if !sum.MatchString(s.Profile) {
		return s, fmt.Errorf("builds: spec: profile %.80q: it must be a SHA-256 of 64 hexadecimal digits", s.Profile)
	}
	return s, nil
}

func (s Spec) raw() json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings
	}
	return b
}

// Place is where builds take a profile, or a service's source, from. What is to be put there is by the names of files. Each call may be repeated. Errors that are
// [optimize.ErrRefused] are final, all others worth another try.
type Place interface {
	// Was is what is there now: all that the other calls need to know of it, but for bytes that Rehearse keeps.
	Was(ctx context.Context, p Put, files map[string][]byte) (json.RawMessage, error)
	// Rehearse proves that the files can be put there, and what is there now be put back, and leaves what builds read as it is.
	Rehearse(ctx context.Context, p Put, files map[string][]byte) error
	// Put puts the files there, or asks people to.
	Put(ctx context.Context, p Put, files map[string][]byte) error
	// Back puts back what was there, or asks people to. What is neither that nor ours is somebody else's, and is left: [optimize.ErrRefused].
	Back(ctx context.Context, p Put) error
	// Look is how it is.
	Look(ctx context.Context, p Put) (Look, error)
	// Every is how often it may be looked at: a server elsewhere has its limits.
	Every() time.Duration
}

// Put is what goes to a place, or comes back from there, for one change.
type Put struct {
	Change, Service string
	Sum             string // of a profile
	Was             json.RawMessage
	Title, Body     string // for people, the body in Markdown
}

// Look is how a place is.
type Look struct {
	State State
	Since time.Time // of There, where the place tells: builds before it are without it. Zero is not known
	Note  string    // for people: what is waited for, and of whom
}

// State is what is at a place.
type State string

// The states.
const (
	There   State = "there"   // the profile, or the patch: it stands for both below
	Before  State = "before"  // what was there before
	Waiting State = "waiting" // what was there before, and people are asked to take the profile
	Asked   State = "asked"   // the profile, and people are asked to take it back
	Denied  State = "denied"  // what was there before: people were asked to take the profile, and did not want to
	Kept    State = "kept"    // the profile: people were asked to take it back, and did not want to
	Other   State = "other"   // something that somebody else put there
)
