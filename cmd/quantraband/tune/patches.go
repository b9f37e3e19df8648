package tune

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/builds"
	"github.com/quantra-l/quantra/optimize/patch"
	"github.com/quantra-l/quantra/optimize/pull"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// gainOf is how much of the past says what a patch can gain.
const gainOf = 3 * time.Hour

// mostFocus bounds a function's name in a link.
const mostFocus = 1000

// Patches makes proposals of linters' findings. It reads the files itself, from the branch that they would be merged into, with the server's token: of what is sent only
// the replacements are taken, and they are held against those files.
type Patches struct {
	Store store.Store
	// Source is where a service's source is, as the policy has it; ok is false where it does not say.
	Source  func(service string) (s builds.Source, ok bool)
	Clients func(builds.Source) (client, dry *pull.Client, err error)
	Now     func() time.Time // nil is time.Now
}

// Clients are those for a repository of source: one that sends, and one that rehearses.
func (p *Places) Clients(s builds.Source) (client, dry *pull.Client, err error) {
	return p.clients(&builds.Pull{API: s.API})
}

// Propose is [optimize.RunOptions].Patch.
func (p *Patches) Propose(ctx context.Context, tenant string, a optimize.PatchAsk) (none optimize.Proposal, err error) {
	state := func(format string, args ...any) (optimize.Proposal, error) {
		return none, fmt.Errorf("%w: %s", optimize.ErrState, fmt.Sprintf(format, args...))
	}
	src, ok := p.Source(a.Service)
	switch {
	case !ok:
		return state("the policy does not say where the source of %.200q is: name its repository under patch", a.Service)
	case a.Repository != "" && a.Repository != src.Repository:
		return state("the policy has the source of %s in %s, not in %.200s", a.Service, src.Repository, a.Repository)
	case a.Base != "" && a.Base != src.Base:
		return state("the policy has %s merged into %s, not into %.200s", a.Service, cmp.Or(src.Base, "its repository's default branch"), a.Base)
	}
	rep, err := patch.Read(bytes.NewReader(a.Report), patch.Options{})
	if err != nil {
		return none, invalid("report", err)
	}
	f, err := rep.Pick(a.Result, a.Rule)
	if err != nil {
		return none, invalid("report", err)
	}
	client, _, err := p.Clients(src)
	if err != nil {
		return none, invalid("repository", err)
	}
	owner, repo, _ := strings.Cut(src.Repository, "/")
	made, err := f.Apply(cmp.Or(a.Fix, 1), func(name string) ([]byte, bool, error) { return client.File(ctx, owner, repo, src.Base, name) })
	switch {
	case errors.Is(err, patch.ErrInvalid):
		return none, invalid("report", err)
	case errors.Is(err, pull.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return none, fmt.Errorf("tune: %s: %w", src, err)
	case err != nil:
		return state("%s: %v", src, err)
	}
	gain, focus, err := p.gain(ctx, tenant, a.Service, made)
	if err != nil {
		return none, fmt.Errorf("tune: %w", err)
	}
	in := builds.PatchInput{Service: a.Service, Source: src, Finding: f.Name(), Text: f.Text, Patch: made, Gain: gain}
	if focus != "" && len(focus) <= mostFocus {
		q := url.Values{"service": {a.Service}, "type": {cpuType.String()}, "from": {fmt.Sprint(gain.From.UnixMilli())}, "to": {fmt.Sprint(gain.To.UnixMilli())}, "focus": {"^" + regexp.QuoteMeta(focus) + "$"}}
		in.Evidence = []optimize.Evidence{{What: "what it takes", Link: "/flame?" + q.Encode()}}
	}
	proposal, err := builds.ProposePatch(in)
	if err != nil {
		return none, invalid("patch", err)
	}
	return *proposal, nil
}

// invalid is an error in the optimizer's words.
func invalid(what string, err error) error {
	text := strings.TrimPrefix(err.Error(), "patch: "+patch.ErrInvalid.Error()+": ")
	return fmt.Errorf("optimize: %w: %s: %s", optimize.ErrInvalid, what, text)
}

// gain is what profiles of the service have of the code that a patch changes. focus is a function of it in them, "" where there is none.
func (p *Patches) gain(ctx context.Context, tenant, service string, made *patch.Patch) (g builds.Gain, focus string, err error) {
	now := time.Now()
	if p.Now != nil {
		now = p.Now()
	}
	res, err := p.Store.Select(ctx, store.Query{Tenant: tenant, Type: cpuType, Matchers: []store.Matcher{{Name: profile.LabelService, Value: service}}, From: now.Add(-gainOf), To: now})
	if err != nil {
		return g, "", err
	}
	for i := range made.Files {
		for _, t := range made.Files[i].Touched {
			g.Outside = g.Outside || t.Function == "" && strings.HasSuffix(made.Files[i].Path, ".go")
		}
	}
	total := 0.0
	if res.Profiles > 0 {
		total = float64(res.Profile.Total(0))
	}
	span := res.To.Sub(res.From)
	if total <= 0 || span <= 0 {
		return g, "", nil
	}
	if !slices.ContainsFunc(res.Profile.Functions, func(f profile.Function) bool { return f.File != 0 }) {
		g.Warnings = append(g.Warnings, "The service's profiles do not say which files its functions are in: what the patch gains cannot be read from them.")
		return g, "", nil
	}
	g.Known, g.From, g.To, g.Cores, g.Warnings = true, res.From, res.To, total/float64(span), res.Warnings
	functions, lines, focus := shares(res.Profile, made)
	g.Found, g.Functions, g.Lines = focus != "", min(1, functions/total), min(1, lines/total)
	return g, focus, nil
}

// shares are the values of samples that have a changed function, or a changed line, anywhere on their stacks. focus is the first such function, "" where there is none.
func shares(p *profile.Profile, made *patch.Patch) (functions, lines float64, focus string) {
	const isFunction, isLine = 1, 2
	at := make([]byte, len(p.Locations))
	for l := range p.Locations {
		for _, ln := range p.LinesOf(uint32(l)) {
			fn := &p.Functions[ln.Function]
			file := strings.ReplaceAll(p.Strings[fn.File], `\`, "/")
			for i := range made.Files {
				f := &made.Files[i]
				if file != f.Path && !strings.HasSuffix(file, "/"+f.Path) {
					continue
				}
				for _, t := range f.Touched {
					within := ln.Line >= int64(t.From) && ln.Line <= int64(t.To)
					switch {
					case strings.HasSuffix(f.Path, ".go") && (t.Function == "" || !isOf(p.Strings[fn.Name], t.Function)):
						continue
					case !strings.HasSuffix(f.Path, ".go") && !within: // which functions lines of other languages are in only the lines tell
						continue
					}
					at[l] |= isFunction
					if within {
						at[l] |= isLine
					}
					focus = cmp.Or(focus, p.Strings[fn.Name])
				}
			}
		}
	}
	on := make([]byte, p.Stacks.Len())
	for i := 1; i < len(on); i++ {
		on[i] = on[p.Stacks.Parent[i]] | at[p.Stacks.Loc[i]]
	}
	for i, s := range p.SampleStack {
		v := float64(p.Values[0][i])
		if on[s]&isFunction != 0 {
			functions += v
		}
		if on[s]&isLine != 0 {
			lines += v
		}
	}
	return functions, lines, focus
}

// mostNested is how deep type arguments are taken out of names.
const mostNested = 8

var brackets = regexp.MustCompile(`\[[^\[\]]*\]`)

// isOf says that a function of a profile, as example.com/shop/cart.(*Cart).Total.func1, is one of source, as Cart.Total, or a closure in it.
func isOf(name, want string) bool {
	for range mostNested { // type arguments may have type arguments, and names be made to cost time
		if !brackets.MatchString(name) {
			break
		}
		name = brackets.ReplaceAllString(name, "")
	}
	_, name, _ = strings.Cut(path.Base(name), ".")
	name = strings.NewReplacer("(*", "", ")", "").Replace(name)
	return name == want || strings.HasPrefix(name, want+".") || strings.HasPrefix(name, want+"-")
}
