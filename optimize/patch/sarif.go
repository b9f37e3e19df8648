// Package patch makes of a finding with a fix, as linters write it in SARIF 2.1.0, a change of source files: it reads reports, applies the replacements of one
// fix to the files that they are of, holds the outcome to what can be known of it, and says it as a unified diff, which it can apply, and take back, again.
//
// It is pure: files come from a func, and nothing is written. SARIF is OASIS' (docs.oasis-open.org/sarif/sarif/v2.1.0); numbers of sections are of that.
package patch

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrInvalid is that a report, or a fix in it, cannot be what is meant: the text says what is wrong, where, and what to do.
var ErrInvalid = errors.New("invalid")

// Bounds of reports, and of what is made of them.
const (
	MaxReport       = 16 << 20 // bytes of a report
	MaxFiles        = 10       // of a fix
	MaxFile         = 1 << 20  // bytes of a file that is patched
	MaxDiff         = 40 << 10 // bytes of a diff
	maxReplacements = 1000     // of a fix
	maxInserted     = 48 << 10
	maxBases        = 10 // uriBaseIds that rest on each other
	maxPath         = 1000
	maxText         = 1000 // bytes of a message
)

func wrong(format string, args ...any) error {
	return fmt.Errorf("patch: %w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// Report is a SARIF log.
type Report struct {
	log  sarif
	opts Options
}

// Options say how a report's files are called in the repository.
type Options struct {
	// Trim is the folder of the repository where the report was made, as /home/ci/checkout: absolute names below it are relative to it. "" takes
	// what the report says itself.
	Trim string
	// Under is the folder of the repository that the report's relative names are in; "" is its root.
	Under string
	// Columns is what the linter counts columns in, one of [ColumnKinds], where the report does not say.
	Columns string
	// Local is a file as it was where the report was made, by its path in the repository: [Finding.Cut] has its hash, where the report has none. nil is not known.
	Local func(path string) (b []byte, ok bool)
}

type sarif struct {
	Version string `json:"version"`
	Runs    []run  `json:"runs"`
}

type run struct {
	Tool struct {
		Driver     component   `json:"driver"`
		Extensions []component `json:"extensions,omitempty"`
	} `json:"tool"`
	Bases      map[string]location `json:"originalUriBaseIds,omitempty"`
	Artifacts  []artifact          `json:"artifacts,omitempty"`
	Results    []result            `json:"results"`
	ColumnKind string              `json:"columnKind,omitempty"`
	Newlines   []string            `json:"newlineSequences,omitempty"`
}

type component struct {
	Name    string               `json:"name"`
	Version string               `json:"version,omitempty"`
	Rules   []rule               `json:"rules,omitempty"`
	Strings map[string]multiText `json:"globalMessageStrings,omitempty"`
}

type rule struct {
	ID      string               `json:"id"`
	Strings map[string]multiText `json:"messageStrings,omitempty"`
}

type multiText struct {
	Text string `json:"text"`
}

type message struct {
	Text      string   `json:"text,omitempty"`
	ID        string   `json:"id,omitempty"`
	Arguments []string `json:"arguments,omitempty"`
}

type artifact struct {
	Location *location         `json:"location,omitempty"`
	Hashes   map[string]string `json:"hashes,omitempty"`
}

type location struct {
	URI    string `json:"uri,omitempty"`
	BaseID string `json:"uriBaseId,omitempty"`
	Index  *int   `json:"index,omitempty"`
}

type result struct {
	RuleID    string `json:"ruleId,omitempty"`
	RuleIndex *int   `json:"ruleIndex,omitempty"`
	Rule      *struct {
		ID    string `json:"id,omitempty"`
		Index *int   `json:"index,omitempty"`
	} `json:"rule,omitempty"`
	Level     string     `json:"level,omitempty"`
	Message   message    `json:"message"`
	Locations []place    `json:"locations,omitempty"`
	Fixes     []sarifFix `json:"fixes,omitempty"`
}

type place struct {
	Physical struct {
		Artifact location `json:"artifactLocation"`
		Region   *region  `json:"region,omitempty"`
	} `json:"physicalLocation"`
}

type sarifFix struct {
	Description *message `json:"description,omitempty"`
	Changes     []change `json:"artifactChanges"`
}

type change struct {
	Artifact     location      `json:"artifactLocation"`
	Replacements []replacement `json:"replacements"`
}

type replacement struct {
	Deleted  region   `json:"deletedRegion"`
	Inserted *content `json:"insertedContent,omitempty"`
}

type content struct {
	Text   *string `json:"text,omitempty"`
	Binary *string `json:"binary,omitempty"`
}

type region struct {
	StartLine   *int     `json:"startLine,omitempty"`
	StartColumn *int     `json:"startColumn,omitempty"`
	EndLine     *int     `json:"endLine,omitempty"`
	EndColumn   *int     `json:"endColumn,omitempty"`
	CharOffset  *int     `json:"charOffset,omitempty"`
	CharLength  *int     `json:"charLength,omitempty"`
	ByteOffset  *int     `json:"byteOffset,omitempty"`
	ByteLength  *int     `json:"byteLength,omitempty"`
	Snippet     *content `json:"snippet,omitempty"`
}

// Read reads a SARIF log of at most [MaxReport] bytes. Errors that are not the reader's are [ErrInvalid].
func Read(r io.Reader, o Options) (*Report, error) {
	raw, err := io.ReadAll(io.LimitReader(r, MaxReport+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > MaxReport {
		return nil, wrong("a report of more than %d bytes: have the linter look at fewer packages at once", MaxReport)
	}
	raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))
	rep := &Report{opts: o}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if err := dec.Decode(&rep.log); err != nil {
		return nil, wrong("it is no SARIF: %v", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, wrong("there is something behind the report")
	}
	if rep.log.Version != "2.1.0" {
		return nil, wrong("version %.40q: only SARIF 2.1.0 is read", rep.log.Version)
	}
	for i := range rep.log.Runs {
		ru := &rep.log.Runs[i]
		ru.ColumnKind = cmp.Or(ru.ColumnKind, o.Columns)
	}
	if o.Under != "" {
		if _, err := repositoryPath(o.Under); err != nil {
			return nil, err
		}
	}
	return rep, nil
}

// Results counts the report's results, with and without fixes.
func (r *Report) Results() (n int) {
	for i := range r.log.Runs {
		n += len(r.log.Runs[i].Results)
	}
	return n
}

// Finding is a result that has at least one fix.
type Finding struct {
	N     int // of the report's results, from 1, through all of its runs
	Tool  string
	Rule  string
	Text  string // one line
	File  string // as it is called in the repository; "" where the report says none that can be
	Line  int    // 0 is not known
	Fixes int    // different ways to mend it

	opts Options
	run  *run
	res  *result
}

// Findings are the report's results that have fixes.
func (r *Report) Findings() (out []Finding) {
	n := 0
	for i := range r.log.Runs {
		ru := &r.log.Runs[i]
		for k := range ru.Results {
			n++
			if res := &ru.Results[k]; len(res.Fixes) > 0 {
				out = append(out, r.finding(n, ru, res))
			}
		}
	}
	return out
}

func (r *Report) finding(n int, ru *run, res *result) Finding {
	ruleOf := ru.rule(res)
	f := Finding{N: n, Tool: line(ru.Tool.Driver.Name, 100), Rule: line(res.ruleID(ruleOf), 200), Text: line(ru.text(res, ruleOf), maxText), Fixes: len(res.Fixes), opts: r.opts, run: ru, res: res}
	if len(res.Locations) > 0 {
		at := &res.Locations[0].Physical
		if p, err := f.path(&at.Artifact); err == nil {
			f.File = p
		}
		if at.Region != nil && at.Region.StartLine != nil {
			f.Line = max(0, *at.Region.StartLine)
		}
	}
	return f
}

// rule is what the run says of a result's rule; nil is nothing.
func (ru *run) rule(res *result) *rule {
	index := res.RuleIndex
	if index == nil && res.Rule != nil {
		index = res.Rule.Index
	}
	rules := ru.Tool.Driver.Rules
	if index != nil && *index >= 0 && *index < len(rules) {
		return &rules[*index]
	}
	for i := range rules {
		if rules[i].ID != "" && rules[i].ID == res.RuleID {
			return &rules[i]
		}
	}
	return nil
}

func (res *result) ruleID(of *rule) string {
	switch {
	case res.RuleID != "":
		return res.RuleID
	case res.Rule != nil && res.Rule.ID != "":
		return res.Rule.ID
	case of != nil:
		return of.ID
	}
	return ""
}

var argument = regexp.MustCompile(`\{(\d+)\}`)

// text is a result's message: itself, or the rule's or the tool's under its name (3.11.7).
func (ru *run) text(res *result, of *rule) string {
	m := res.Message
	text := m.Text
	if text == "" && m.ID != "" {
		if of != nil {
			text = of.Strings[m.ID].Text
		}
		if text == "" {
			text = ru.Tool.Driver.Strings[m.ID].Text
		}
	}
	return argument.ReplaceAllStringFunc(text, func(s string) string {
		if n, err := strconv.Atoi(s[1 : len(s)-1]); err == nil && n < len(m.Arguments) {
			return m.Arguments[n]
		}
		return s
	})
}

// line is text in one line of at most n bytes.
func line(s string, n int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f && r < 0xa0 }), " ")
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "..."
	}
	return s
}

// Name is as "staticcheck S1003 at cart/price.go:22".
func (f *Finding) Name() string {
	s := strings.TrimSpace(f.Tool + " " + f.Rule)
	if f.File != "" {
		s += " at " + f.File
		if f.Line > 0 {
			s += fmt.Sprint(":", f.Line)
		}
	}
	return s
}

// Cut is a report with this finding alone, and of its fixes this one (from 1): files are called as in the repository, and hashes of those that it changes are kept.
func (f *Finding) Cut(fix int) ([]byte, error) {
	fx, err := f.fix(fix)
	if err != nil {
		return nil, err
	}
	zero := 0
	out := run{ColumnKind: f.run.ColumnKind, Newlines: f.run.Newlines}
	out.Tool.Driver.Name, out.Tool.Driver.Version = f.Tool, line(f.run.Tool.Driver.Version, 100)
	if f.Rule != "" {
		out.Tool.Driver.Rules = []rule{{ID: f.Rule}}
	}
	cut := sarifFix{Changes: []change{}}
	for i := range fx.Changes {
		ch := &fx.Changes[i]
		p, err := f.path(&ch.Artifact)
		if err != nil {
			return nil, err
		}
		c := change{Artifact: location{URI: uriOf(p)}, Replacements: ch.Replacements}
		hashes := f.hashes(p)
		if f.opts.Local != nil && len(hashes) == 0 {
			if b, ok := f.opts.Local(p); ok {
				h := sha256.Sum256(b)
				hashes = map[string]string{"sha-256": hex.EncodeToString(h[:])}
			}
		}
		if len(hashes) > 0 {
			at := slices.IndexFunc(out.Artifacts, func(a artifact) bool { return a.Location.URI == c.Artifact.URI })
			if at < 0 {
				at = len(out.Artifacts)
				out.Artifacts = append(out.Artifacts, artifact{Location: &location{URI: c.Artifact.URI}, Hashes: hashes})
			}
			c.Artifact.Index = &at
		}
		cut.Changes = append(cut.Changes, c)
	}
	res := result{RuleID: f.Rule, Message: message{Text: f.Text}, Fixes: []sarifFix{cut}}
	if f.Rule != "" {
		res.RuleIndex = &zero
	}
	if f.File != "" {
		var at place
		at.Physical.Artifact = location{URI: uriOf(f.File)}
		if f.Line > 0 {
			at.Physical.Region = &region{StartLine: &f.Line}
		}
		res.Locations = []place{at}
	}
	out.Results = []result{res}
	return json.Marshal(sarif{"2.1.0", []run{out}})
}

// uriOf is a relative path as a URI: a first segment with a colon gets ./ before it.
func uriOf(p string) string { return (&url.URL{Path: p}).String() }

// fix is one of the finding's, from 1.
func (f *Finding) fix(n int) (*sarifFix, error) {
	if n < 1 || n > len(f.res.Fixes) {
		return nil, wrong("result %d has %d fixes, and no fix %d", f.N, len(f.res.Fixes), n)
	}
	fx := &f.res.Fixes[n-1]
	total := 0
	for i := range fx.Changes {
		total += len(fx.Changes[i].Replacements)
	}
	if total == 0 || total > maxReplacements {
		return nil, wrong("result %d: the fix has %d replacements; it must have 1 to %d", f.N, total, maxReplacements)
	}
	return fx, nil
}

// path is what the repository calls an artifact (3.4).
func (f *Finding) path(l *location) (string, error) {
	p, err := f.resolve(l)
	if err != nil {
		return "", fmt.Errorf("%w (result %d)", err, f.N)
	}
	return repositoryPath(p)
}

func (f *Finding) resolve(l *location) (string, error) {
	if l.URI == "" && l.Index != nil && *l.Index >= 0 && *l.Index < len(f.run.Artifacts) && f.run.Artifacts[*l.Index].Location != nil {
		l = f.run.Artifacts[*l.Index].Location
	}
	if l.URI == "" {
		return "", wrong("a file has no uri")
	}
	u, err := url.Parse(l.URI)
	if err != nil {
		return "", wrong("the uri %.200q cannot be read: %v", l.URI, err)
	}
	if u.IsAbs() || u.Host != "" || strings.HasPrefix(u.Path, "/") {
		rest, ok := f.below(u)
		if !ok {
			return "", wrong("%.200q is absolute: say which folder is the repository's (--trim), or have the linter write relative names", l.URI)
		}
		return rest, nil
	}
	folder, err := f.base(l.BaseID, 0)
	if err != nil {
		return "", err
	}
	// Names may climb within what the report says of its folders, and no further.
	return path.Join(f.opts.Under, folder, u.Path), nilIf(climbs(path.Join(folder, u.Path)), l.URI)
}

func climbs(p string) bool { return p == ".." || strings.HasPrefix(p, "../") }

func nilIf(bad bool, uri string) error {
	if bad {
		return wrong("%.200q leads out of the repository", uri)
	}
	return nil
}

// below is an absolute URI's path below the folder where the report was made.
func (f *Finding) below(u *url.URL) (string, bool) {
	if u.Scheme != "" && u.Scheme != "file" || u.Host != "" && u.Host != "localhost" {
		return "", false
	}
	p := path.Clean(u.Path)
	if f.opts.Trim != "" {
		if rest, ok := strings.CutPrefix(p, strings.TrimSuffix(trimOf(f.opts.Trim), "/")+"/"); ok {
			return path.Join(f.opts.Under, rest), true
		}
	}
	best := ""
	for _, b := range f.run.Bases {
		if r, err := url.Parse(b.URI); err == nil && r.Scheme == "file" {
			if root := strings.TrimSuffix(path.Clean(r.Path), "/") + "/"; strings.HasPrefix(p, root) && len(root) > len(best) && root != "/" {
				best = root
			}
		}
	}
	return path.Join(f.opts.Under, p[len(best):]), best != ""
}

// trimOf is a folder as URIs have it: with slashes, and one before a drive's letter.
func trimOf(s string) string {
	s = path.Clean(strings.ReplaceAll(s, `\`, "/"))
	if len(s) > 1 && s[1] == ':' {
		s = "/" + s
	}
	return s
}

// base is the folder that a uriBaseId stands for, from the repository's root; an absolute one is the root (3.14.14).
func (f *Finding) base(id string, depth int) (string, error) {
	b, ok := f.run.Bases[id]
	if id == "" || !ok || b.URI == "" {
		return "", nil
	}
	if depth == maxBases {
		return "", wrong("uriBaseId %.100q rests on more than %d others", id, maxBases)
	}
	u, err := url.Parse(b.URI)
	if err != nil {
		return "", wrong("uriBaseId %.100q: %v", id, err)
	}
	if u.IsAbs() || strings.HasPrefix(u.Path, "/") {
		if f.opts.Trim != "" {
			if rest, ok := strings.CutPrefix(path.Clean(u.Path)+"/", strings.TrimSuffix(trimOf(f.opts.Trim), "/")+"/"); ok {
				return rest, nil
			}
		}
		return "", nil
	}
	folder, err := f.base(b.BaseID, depth+1)
	return path.Join(folder, u.Path), err
}

// repositoryPath checks a path as git has it, from the root. What tells a CI what to do is nobody's to patch from outside.
func repositoryPath(p string) (string, error) {
	p = path.Clean(p)
	switch {
	case p == "." || p == "" || len(p) > maxPath:
		return "", wrong("%.200q names no file", p)
	case path.IsAbs(p) || climbs(p):
		return "", wrong("%.200q leads out of the repository", p)
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' || r == 0xfffd }):
		return "", wrong("%.200q has a character that no path here may have", p)
	}
	for i, s := range strings.Split(p, "/") {
		if strings.EqualFold(s, ".git") || i == 0 && strings.EqualFold(s, ".github") {
			return "", wrong("%.200q is not for patches: what is in %s says what git and GitHub do", p, s)
		}
	}
	return p, nil
}

// hashes are those that the report has of a file.
func (f *Finding) hashes(p string) map[string]string {
	for i := range f.run.Artifacts {
		a := &f.run.Artifacts[i]
		if a.Location == nil || len(a.Hashes) == 0 {
			continue
		}
		if have, err := f.path(a.Location); err == nil && have == p {
			return a.Hashes
		}
	}
	return nil
}

// mostListed are the findings that an error names.
const mostListed = 20

// Pick is the finding that is meant: the nth of the report's results, or, where n is 0, the only one of a rule, or, where that is "", the only one that has a fix.
// Errors name those that there are.
func (r *Report) Pick(n int, rule string) (*Finding, error) {
	all := r.Findings()
	if len(all) == 0 {
		return nil, wrong("none of its %d results has a fix: not every linter writes them into SARIF (docs/patch.md)", r.Results())
	}
	var fit []Finding
	for _, f := range all {
		if n == f.N || n == 0 && (rule == "" || rule == f.Rule) {
			fit = append(fit, f)
		}
	}
	switch {
	case len(fit) == 1 && (n == 0 || rule == "" || rule == fit[0].Rule):
		return &fit[0], nil
	case len(fit) == 1:
		return nil, wrong("result %d is of rule %s, not %.100q", n, fit[0].Rule, rule)
	case len(fit) > 1:
		return nil, wrong("%d results have a fix: name one by its number (--result):%s", len(fit), list(fit))
	case n > 0:
		return nil, wrong("result %d has no fix; those that have one:%s", n, list(all))
	}
	return nil, wrong("no result of rule %.100q has a fix; those that have one:%s", rule, list(all))
}

func list(all []Finding) string {
	var b strings.Builder
	for i := range all {
		if i == mostListed {
			fmt.Fprintf(&b, "\n  and %d more", len(all)-mostListed)
			break
		}
		fmt.Fprintf(&b, "\n  %d  %s: %s", all[i].N, all[i].Name(), line(all[i].Text, 120))
	}
	return b.String()
}
