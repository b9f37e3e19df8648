package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	quantrav1 "github.com/quantra-l/quantra/wire/quantra/v1"
	"github.com/quantra-l/quantra/wire/quantra/v1/quantrav1connect"
)

const (
	maxGateFiles     = 500
	maxGateInstances = 64    // of a side: the largest; more would add little but time
	maxGateWindows   = 10000 // of a side, as many as the server lists at once
)

// gateSide is one side, read.
type gateSide struct {
	cohort   analyze.Cohort
	server   string // what it is at the server; "" where it is files
	ranged   bool   // it is a range of time
	machines []profile.Labels
	from, to time.Time
	warnings []string
}

// gateSpec is what one side was said to be.
type gateSpec struct {
	texts []string // as they were given
	files []string
	// At the server:
	matchers []store.Matcher
	from, to string // of a range; "" is --since, --from and --to
}

// gateSides reads both sides. What the server has says the type; files must have it, too.
func (a *app) gateSides(ctx context.Context, o *gateOptions) (sides [2]gateSide, err error) {
	var specs [2]gateSpec
	for i, texts := range [][]string{o.base, o.head} {
		if specs[i], err = o.spec(texts); err != nil {
			return sides, err
		}
	}
	s := selection{in: input{timeout: o.q.timeout}, filter: o.q.filter}
	if o.typeGiven {
		s.sampleType = o.q.sampleType
	}
	for i := range specs {
		if len(specs[i].files) > 0 {
			continue
		}
		if err := o.q.checkServer(); err != nil {
			return sides, err
		}
		var sample profile.ValueType
		if sides[i], sample, err = a.gateInstances(ctx, o, &specs[i]); err != nil {
			return sides, err
		}
		s.sampleType = sample.Type
	}
	for i := range specs {
		if len(specs[i].files) > 0 {
			if sides[i], err = a.gateFiles(ctx, &s, &specs[i]); err != nil {
				return sides, err
			}
			// The head's own default may be another.
			r := sides[i].cohort.Replicates[0]
			s.sampleType = r.Profile.SampleTypes[r.Column].Type
		}
	}
	return sides, nil
}

// spec says what the texts of one side are: files, or one thing at the server.
func (o *gateOptions) spec(texts []string) (gateSpec, error) {
	s := gateSpec{texts: texts}
	if o.q.service != "" && len(texts) == 1 && !looksLikeFile(texts[0]) {
		text := texts[0]
		if from, to, ok := strings.Cut(text, ".."); ok {
			s.from, s.to = from, to
			return s, nil
		}
		if strings.Contains(text, "=") {
			ms, err := store.ParseMatchers(text)
			if err != nil {
				return s, usagef("%s: %w", text, err)
			}
			s.matchers = ms
			return s, nil
		}
		s.matchers = []store.Matcher{{Name: profile.LabelVersion, Op: store.MatchEqual, Value: text}}
		return s, nil
	}
	for _, text := range texts {
		found, err := expand(text)
		if err != nil {
			return s, err
		}
		s.files = append(s.files, found...)
	}
	if len(s.files) > maxGateFiles {
		return s, usagef("%s: %d files, more than %d", strings.Join(texts, " "), len(s.files), maxGateFiles)
	}
	return s, nil
}

// looksLikeFile tells a file's name from a version's: it is there, has a folder or a pattern, or ends as profiles do.
func looksLikeFile(s string) bool {
	if _, err := os.Stat(s); err == nil {
		return true
	}
	if strings.ContainsAny(s, "=\"") {
		return false // a matcher
	}
	return s == "-" || strings.ContainsAny(s, "/*?[") || slices.ContainsFunc([]string{".gz", ".pb", ".pprof", ".prof", ".folded", ".zst"}, func(end string) bool { return strings.HasSuffix(s, end) })
}

// expand is the files that a pattern means, in order; what is no pattern is itself.
func expand(text string) ([]string, error) {
	if _, err := os.Stat(text); err == nil || text == "-" || strings.Contains(text, "://") || !strings.ContainsAny(text, "*?[") {
		return []string{text}, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, pathError("open", text, err)
	}
	found, err := filepath.Glob(text)
	if err != nil {
		return nil, usagef("%s: it is no pattern: %w", text, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: no file is called so", text)
	}
	return found, nil
}

// gateFiles reads files, each a replicate.
func (a *app) gateFiles(ctx context.Context, s *selection, spec *gateSpec) (side gateSide, err error) {
	side.cohort.Name = strings.Join(spec.texts, " ")
	for _, name := range spec.files {
		p, err := a.read(ctx, &s.in, name)
		if err != nil {
			return side, err
		}
		if s.sampleType != "" && len(p.SampleTypes) > 0 && p.Column(s.sampleType) < 0 {
			return side, corruptf("%s has no sample type %q, it has %s: it cannot be compared", name, s.sampleType, sampleTypes(p))
		}
		one, err := a.choose(p, s, name)
		if err != nil {
			return side, err
		}
		s.sampleType = one.sample().Type
		side.cohort.Replicates = append(side.cohort.Replicates, analyze.Replicate{
			Name: name, Profile: one.p, Column: one.col, Seconds: float64(p.DurationNanos) / 1e9,
		})
	}
	return side, nil
}

// gateInstances reads one side from the server, each instance as a replicate.
func (a *app) gateInstances(ctx context.Context, o *gateOptions, spec *gateSpec) (side gateSide, sample profile.ValueType, err error) {
	q := o.q // its range may be another
	side.server, side.ranged = spec.texts[0], spec.from+spec.to != ""
	side.cohort.Name = spec.texts[0]
	if side.ranged {
		q.from, q.to = spec.from, spec.to
	}
	if len(spec.matchers) > 0 {
		text := store.FormatMatchers(spec.matchers)
		if q.matchers != "" {
			ms, err := store.ParseMatchers(q.matchers)
			if err != nil {
				return side, sample, usagef("--matchers %s: %w", q.matchers, err)
			}
			text = store.FormatMatchers(append(ms, spec.matchers...))
		}
		q.matchers = text
	}
	c := q.client()
	sel, err := q.selection(ctx, c)
	switch {
	case errors.Is(err, errNoProfiles):
		return side, sample, undecidedf("%w: %s: %w", analyze.ErrNothingToCompare, side.server, err)
	case err != nil:
		return side, sample, fmt.Errorf("%s: %w", side.server, err)
	}
	t, err := profile.ParseType(sel.ProfileType)
	if err != nil {
		return side, sample, fmt.Errorf("%s: %w", q.server, err)
	}
	instances, err := q.instances(ctx, c, sel, &side)
	if err != nil {
		return side, sample, err
	}
	for _, in := range instances {
		p, err := a.instanceProfile(ctx, &q, sel, in.name)
		if err != nil {
			return side, sample, err
		}
		col := p.Column(t.Sample.Type)
		if col < 0 {
			if p.NumSamples() > 0 {
				return side, sample, fmt.Errorf("%s: the profile of %s has no %s", q.server, in.name, t.Sample.Type)
			}
			continue
		}
		side.cohort.Replicates = append(side.cohort.Replicates, analyze.Replicate{Name: cmp.Or(in.name, "an instance without a name"), Profile: p, Column: col, Seconds: in.seconds})
		side.machines = append(side.machines, in.labels)
	}
	return side, t.Sample, nil
}

// instance is one process of a side.
type instance struct {
	name     string
	labels   profile.Labels
	seconds  float64 // that its profiles cover
	profiles int
}

// instances lists the instances of a selection, those with the most profiles first, by their windows.
func (q *question) instances(ctx context.Context, c quantrav1connect.QuerierServiceClient, sel *quantrav1.Selection, side *gateSide) ([]instance, error) {
	plain := &quantrav1.Selection{ProfileType: sel.ProfileType, Matchers: sel.Matchers, Range: sel.Range}
	resp, err := c.Profiles(ctx, connect.NewRequest(&quantrav1.ProfilesRequest{Selection: plain, Limit: maxGateWindows}))
	if err != nil {
		return nil, q.serverError(err)
	}
	side.warnings = append(side.warnings, resp.Msg.Warnings...)
	listed := len(resp.Msg.Profiles)
	if listed == 0 {
		return nil, undecidedf("%s: %w: the server has no profile of it in this range", side.server, analyze.ErrNothingToCompare)
	}
	share := float64(resp.Msg.All) / float64(listed)
	if share > 1 {
		side.warnings = append(side.warnings, fmt.Sprintf("%s has %d profiles, and the time that they cover is known of the %d largest: it is taken for the rest to be alike", side.server, resp.Msg.All, listed))
	}
	byName := map[string]*instance{}
	var all []*instance
	for _, p := range resp.Msg.Profiles {
		labels := labelsOf(p.Labels)
		name := labels.Get(profile.LabelInstance)
		in, ok := byName[name]
		if !ok {
			in = &instance{name: name, labels: labels}
			byName[name] = in
			all = append(all, in)
		}
		in.profiles++
		in.seconds += float64(p.ToMs-p.FromMs) / 1000 * max(1, share)
		if from := time.UnixMilli(p.FromMs); side.from.IsZero() || from.Before(side.from) {
			side.from = from
		}
		if to := time.UnixMilli(p.ToMs); to.After(side.to) {
			side.to = to
		}
	}
	slices.SortStableFunc(all, func(x, y *instance) int {
		return cmp.Or(cmp.Compare(y.profiles, x.profiles), cmp.Compare(x.name, y.name))
	})
	if len(all) > maxGateInstances {
		side.warnings = append(side.warnings, fmt.Sprintf("%s has %d instances, of which the %d with the most profiles are compared", side.server, len(all), maxGateInstances))
		all = all[:maxGateInstances]
	}
	var out []instance
	for _, in := range all {
		out = append(out, *in)
	}
	return out, nil
}

// instanceProfile is the sum of one instance's profiles.
func (a *app) instanceProfile(ctx context.Context, q *question, sel *quantrav1.Selection, name string) (*profile.Profile, error) {
	ms, err := store.ParseMatchers(sel.Matchers)
	if err != nil {
		return nil, fmt.Errorf("matchers of our own: %w", err)
	}
	ms = append(ms, store.Matcher{Name: profile.LabelInstance, Op: store.MatchEqual, Value: name})
	body, err := q.export(ctx, "pprof", &quantrav1.Selection{ProfileType: sel.ProfileType, Matchers: store.FormatMatchers(ms), Range: sel.Range, Filter: sel.Filter})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	p, _, err := profile.Read(body, profile.Limits{})
	if err != nil {
		return nil, fmt.Errorf("%s: the profile of %s: %w", q.server, cmp.Or(name, "an instance without a name"), err)
	}
	return p, nil
}
