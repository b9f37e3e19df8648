package builds

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/patch"
	"github.com/quantra-l/quantra/optimize/pull"
)

// Source is where a service's source is: a branch on GitHub.
type Source struct {
	Repository string `json:"repository"`     // OWNER/NAME
	Base       string `json:"base,omitempty"` // "" is the repository's default branch
	API        string `json:"api,omitempty"`  // "" is github.com
}

func (s Source) String() string {
	if s.Base != "" {
		return s.Repository + " (" + s.Base + ")"
	}
	return s.Repository
}

// PatchSpec is a change of the kind [optimize.Patch], as it is in [optimize.Proposal].Spec: all that there is of it, so that any server can go on with it.
type PatchSpec struct {
	Source
	Title string      `json:"title"` // of the pull request
	Files []PatchFile `json:"files"`
	Diff  string      `json:"diff"` // unified
}

// PatchFile is one of its files, with git's names of what it had and has then.
type PatchFile struct {
	Path    string `json:"path"`
	Was     string `json:"was"`
	Becomes string `json:"becomes"`
}

// maxTitle is what a pull request's title may have.
const maxTitle = 200

var gitName = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// ParsePatchSpec reads a proposal's Spec, and its diff.
func ParsePatchSpec(raw json.RawMessage) (s PatchSpec, diffs []patch.FileDiff, err error) {
	bad := func(format string, args ...any) (PatchSpec, []patch.FileDiff, error) {
		return s, nil, fmt.Errorf("builds: spec of a patch: "+format, args...)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return bad("%w", err)
	}
	if err := (Where{Pull: &Pull{Repository: s.Repository, Path: "."}}).Check(); err != nil {
		return bad("%w", err)
	}
	if s.Title == "" || len(s.Title) > maxTitle || s.Title != plain(s.Title, maxTitle) {
		return bad("title: it is one line of 1 to %d bytes", maxTitle)
	}
	if diffs, err = patch.ParseDiff(s.Diff); err != nil {
		return bad("%w", err)
	}
	if len(diffs) != len(s.Files) {
		return bad("%d files, and the diff is of %d", len(s.Files), len(diffs))
	}
	for i, f := range s.Files {
		if f.Path != diffs[i].Path || !gitName.MatchString(f.Was) || !gitName.MatchString(f.Becomes) || f.Was == f.Becomes {
			return bad("file %.200q: it must be that of the diff, with two names of git's", f.Path)
		}
	}
	return s, diffs, nil
}

// PatchOptions are those of [NewPatcher]. Only Now has a default.
type PatchOptions struct {
	// Source is where a service's source is; ok is false where nobody has said.
	Source func(service string) (s Source, ok bool)
	// Clients are one that sends, and one that rehearses.
	Clients func(Source) (client, dry *pull.Client, err error)
	// Instances are those of a service that are there now.
	Instances func(tenant, service string) []Instance
	Now       func() time.Time // nil is time.Now
}

// NewPatcher makes an actuator of changes of the kind [optimize.Patch].
func NewPatcher(o PatchOptions) (*Actuator, error) {
	if o.Source == nil || o.Clients == nil || o.Instances == nil {
		return nil, errors.New("builds: PatchOptions.Source, Clients and Instances are needed")
	}
	return newActuator(o.Instances, o.Now, o.job, o.allowed), nil
}

func (o *PatchOptions) allowed(service string, raw json.RawMessage) error {
	s, _, err := ParsePatchSpec(raw)
	if err != nil {
		return err
	}
	return o.Allowed(service, s.Source)
}

// Allowed says why a service's source may not be patched there; nil is that it may. It is [optimize.ErrRefused].
func (o *PatchOptions) Allowed(service string, s Source) error {
	have, ok := o.Source(service)
	switch {
	case !ok:
		return fmt.Errorf("builds: %w: the policy does not say where the source of %s is: name its repository under patch", optimize.ErrRefused, service)
	case have != s:
		return fmt.Errorf("builds: %w: the policy has the source of %s at %s, and the change is of %s", optimize.ErrRefused, service, have, s)
	}
	return nil
}

// job is that of a change which patches source. The new files are made anew of what the old ones were, each time, and are what was proposed to the byte.
func (o *PatchOptions) job(_ string, raw json.RawMessage) (*job, error) {
	s, diffs, err := ParsePatchSpec(raw)
	if err != nil {
		return nil, err
	}
	of := map[string]string{}
	var names []string
	for _, f := range s.Files {
		of[f.Path] = f.Was
		names = append(names, f.Path)
	}
	where := s.Repository + ":" + names[0]
	if len(names) > 1 {
		where += fmt.Sprintf(" and %d more", len(names)-1)
	}
	j := &job{
		where: where, title: s.Title, what: "the patch", any: true,
		mind: "Nobody has compiled or tested it: this repository's own checks do.",
		open: func() (Place, error) {
			client, dry, err := o.Clients(s.Source)
			if err != nil {
				return nil, err
			}
			return &Pulls{Pull: Pull{Repository: s.Repository, Base: s.Base, API: s.API}, Client: client, Dry: dry, Diffs: diffs, Of: of}, nil
		},
	}
	j.files = func(ctx context.Context) (map[string][]byte, error) {
		client, _, err := o.Clients(s.Source)
		if err != nil {
			return nil, err
		}
		owner, repo, _ := strings.Cut(s.Repository, "/")
		out := map[string][]byte{}
		for i, f := range s.Files {
			b, err := client.Content(ctx, owner, repo, f.Was)
			if err != nil {
				return nil, worded(err)
			}
			after, err := diffs[i].Apply(b)
			if err != nil || pull.BlobID(b) != f.Was || pull.BlobID(after) != f.Becomes {
				return nil, fmt.Errorf("builds: %w: the diff does not make of %s what was proposed (%v): propose it again", optimize.ErrRefused, f.Path, err)
			}
			out[f.Path] = after
		}
		return out, nil
	}
	return j, nil
}

// PatchInput is what [ProposePatch] looks at: a patch, and what is known of what runs.
type PatchInput struct {
	Service string
	Source  Source
	Finding string // as "staticcheck S1003 at cart/price.go:22"
	Text    string // what the linter says of it
	Patch   *patch.Patch
	Gain    Gain
	// Evidence are pages that show it, by what they show.
	Evidence []optimize.Evidence
}

// Gain is what a service's profiles have of the code that a patch changes.
type Gain struct {
	// Known says that there are profiles of the service; From and To bound them.
	Known    bool
	From, To time.Time
	// Functions is the share of processor time with one of the changed functions on the stack, itself or in what it calls; Lines that with one of the changed lines,
	// which are counted as they are in the base, and may be others in what runs. Outside says that something is changed outside of functions.
	Functions, Lines float64
	Found            bool // the changed functions, or lines, are in the profiles
	Outside          bool
	Cores            float64 // that the service uses
	Warnings         []string
}

// named takes out of a title what GitHub takes for names of people and of issues, which the message of a merge may close.
var named = strings.NewReplacer("@", "-", "#", "-")

// patchStands is how long a patch is worth something: it is refused once its files have changed.
const patchStands = 14 * 24 * time.Hour

// ProposePatch is the change that opens the patch's pull request. What it can gain is at most what its functions take now; where profiles do not know them it
// says so, and expects nothing. The same finding of the same files gives the same change, however its figures moved.
func ProposePatch(in PatchInput) (*optimize.Proposal, error) {
	s := PatchSpec{Source: in.Source, Diff: in.Patch.Diff, Title: plain("Patch: "+named.Replace(in.Finding), maxTitle)}
	for i := range in.Patch.Files {
		f := &in.Patch.Files[i]
		s.Files = append(s.Files, PatchFile{f.Path, pull.BlobID(f.Before), pull.BlobID(f.After)})
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("builds: spec of a patch: %w", err)
	}
	if _, _, err := ParsePatchSpec(raw); err != nil {
		return nil, err
	}
	g := &in.Gain
	p := &optimize.Proposal{
		Kind: optimize.Patch, Service: in.Service, Subject: plain(in.Finding, 200), Spec: raw, Basis: Sum(fmt.Append(nil, s.Files, s.Diff))[:16], Stands: patchStands,
		Evidence: in.Evidence, Warnings: append(slices.Clone(in.Patch.Warnings), g.Warnings...),
	}
	gain := "what it gains is not known: there are no profiles of the service"
	share := g.Functions
	switch {
	case math.IsNaN(g.Functions+g.Lines+g.Cores) || g.Functions < 0 || g.Functions > 1 || g.Cores < 0 || math.IsInf(g.Cores, 0):
		return nil, fmt.Errorf("builds: a gain of %v of %v cores cannot be", g.Functions, g.Cores)
	case g.Known && g.Outside && !g.Found:
		gain = "what it gains is not known: what is changed is in no function"
	case g.Known && !g.Found:
		gain = fmt.Sprintf("no profile of %s has what is changed on a stack: nothing is expected", span(g.From, g.To))
		p.Expected = map[string]analyze.Estimate{"cpu_per_request": {}}
	case g.Known:
		gain = fmt.Sprintf("at most %s CPU, which is the share of processor time in %s with what it changes on the stack (the changed lines alone: %s)", percent(share), span(g.From, g.To), percent(g.Lines))
		p.Expected = map[string]analyze.Estimate{"cpu_per_request": {Value: -share, Low: -share}}
		p.Saving = share * g.Cores
		if g.Outside {
			p.Warnings = append(p.Warnings, "Some of it is outside of functions: what that gains is not known.")
		}
	}
	p.Sentence = plain(fmt.Sprintf("%s: %s has %s: open a pull request for %s (%s). Gain: %s.",
		in.Service, plain(in.Finding, 300), quoted(in.Text), in.Source, plain(in.Patch.Where(), 300), gain), 1900)
	return p, nil
}

// quoted is what a linter says, without a point at its end.
func quoted(s string) string {
	if s = strings.TrimRight(plain(s, 500), ". "); s == "" {
		return "a finding"
	}
	return "“" + s + "”"
}

// span is as "3 hours to 12:00 UTC".
func span(from, to time.Time) string {
	return fmt.Sprintf("%s up to %s", spanText(to.Sub(from)), to.UTC().Format("2 Jan 15:04 MST"))
}
