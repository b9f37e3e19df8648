package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/builds"
	"github.com/quantra-l/quantra/optimize/patch"
)

// maxPatchQuestion is what the guard reads of a question about a service (access/door.go), less what is beside the report.
const maxPatchQuestion = 60 << 10

// patchOptions are what changes patch is asked for.
type patchOptions struct {
	q                question
	repository, base string
	rule, by         string
	result, fix      int
	report           patch.Options
	checkout         string
	dryRun           bool
}

// changesPatch lets a person propose the fix of a linter's finding as a pull request.
func (a *app) changesPatch() *cobra.Command {
	var o patchOptions
	cmd := &cobra.Command{
		Use:   "patch REPORT.sarif",
		Short: "Propose the fix of a linter's finding (SARIF 2.1.0) as a pull request; it goes the way of all changes",
		Long: `Propose what a linter would change as a pull request: a report in SARIF 2.1.0 whose results have fixes, from a file, or - for standard input. The
server reads the files from the branch that it would be merged into, makes the replacements, and proposes a change of the kind patch. 'changes start' opens
its pull request; people merge it and roll it out; then the new version is judged beside the one before. docs/patch.md tells of it.

Where the report has more than one finding with a fix and none is named, they are listed, and the code is 2. Files that lie in the folder --checkout are held against
those on the server's branch, so that a fix of another version is refused.`,
		Example: `  staticcheck -f sarif ./... > report.sarif
  quantraband changes patch -s checkout report.sarif --result 3 --dry-run
  quantraband changes patch -s checkout report.sarif --rule S1003`,
		Args: cobra.ExactArgs(1),
	}
	cmd.RunE = o.q.asking(func(ctx context.Context, args []string) error { return a.proposePatch(ctx, &o, args[0]) })
	o.q.serverFlags(cmd)
	f := cmd.Flags()
	f.StringVarP(&o.q.service, "service", "s", "", "the `service` that is built of it")
	f.StringVar(&o.repository, "repository", "", "`OWNER/NAME` on GitHub (default: where the policy has the service's source; another is refused)")
	f.StringVar(&o.base, "base", "", "`branch` to merge into (default: the policy's; another is refused)")
	f.IntVar(&o.result, "result", 0, "`number` of the result in the report, from 1")
	f.StringVar(&o.rule, "rule", "", "`name` of the rule, where one result of it has a fix")
	f.IntVar(&o.fix, "fix", 1, "which fix of the result, where there are several, from 1")
	f.StringVar(&o.report.Under, "under", "", "`folder` of the repository that the report's names begin in (default: its root)")
	f.StringVar(&o.report.Trim, "trim", "", "`folder` of the repository where the report was made, for absolute names (default: this folder)")
	f.StringVar(&o.report.Columns, "columns", "", "what the linter counts columns in, where the report does not say: "+join(patch.ColumnKinds)+" (bytes)")
	f.StringVar(&o.checkout, "checkout", ".", "`folder` of the repository with the files that were linted; \"\" is that there are none")
	f.BoolVar(&o.dryRun, "dry-run", false, "show the diff and the sentence, and propose nothing")
	f.StringVar(&o.by, "by", me(), "`name` for its history")
	return cmd
}

// patchError is an error of a report's with its code.
func patchError(name string, err error) error {
	if errors.Is(err, patch.ErrInvalid) {
		return corruptf("%s: %s", name, strings.TrimPrefix(err.Error(), "patch: "+patch.ErrInvalid.Error()+": "))
	}
	return pathError("read", name, err)
}

func (a *app) proposePatch(ctx context.Context, o *patchOptions, name string) error {
	switch {
	case o.q.service == "":
		return usagef("--service is needed: which service is built of it?")
	case o.result < 0 || o.fix < 1:
		return usagef("--result and --fix count from 1")
	case o.report.Columns != "" && !slices.Contains(patch.ColumnKinds, o.report.Columns):
		return usagef("--columns %q: it must be one of %s", o.report.Columns, join(patch.ColumnKinds))
	}
	cut, err := a.cutReport(o, name)
	if err != nil {
		return err
	}
	if len(cut) > maxPatchQuestion {
		return corruptf("%s: the finding has %d bytes with its fix, and a patch has at most %d: make it by hand", name, len(cut), maxPatchQuestion)
	}
	var answer struct {
		Proposal optimize.Proposal `json:"proposal"`
		ID       string            `json:"id"`
		Change   optimize.Change   `json:"change"`
	}
	body := optimize.PatchAsk{Service: o.q.service, Repository: o.repository, Base: o.base, Report: cut, DryRun: o.dryRun, By: o.by}
	if err := o.q.ask(ctx, http.MethodPost, optimize.ChangesPath+"/patch", body, &answer); err != nil {
		return err
	}
	switch {
	case o.q.asJSON && o.dryRun:
		return writeJSON(a.stdout, answer.Proposal)
	case o.q.asJSON:
		return writeJSON(a.stdout, answer.Change)
	case o.dryRun:
		p := &answer.Proposal
		var b strings.Builder
		for _, w := range p.Warnings {
			fmt.Fprintf(&b, "Warning: %s\n", sentenceText(w))
		}
		fmt.Fprintf(a.stderr, "%s\n%sNothing was proposed: without --dry-run it would be change %s.\n", sentenceText(p.Sentence), b.String(), plain(answer.ID))
		return a.showDiff(p.Spec)
	}
	c := &answer.Change
	_, err = fmt.Fprintf(a.stdout, "%s is %s: %s\n", plain(c.ID), plain(stateText(&optimize.Listed{Change: *c})), sentenceText(c.Sentence))
	return err
}

// cutReport is a report of the one finding that is meant.
func (a *app) cutReport(o *patchOptions, name string) ([]byte, error) {
	r := io.ReadCloser(io.NopCloser(a.stdin))
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usagef("%w", pathError("read", name, err))
		}
		r = f
	}
	defer r.Close()
	opt := o.report
	if opt.Trim == "" {
		if dir, err := os.Getwd(); err == nil { // without it absolute names are refused, which says what to do
			opt.Trim = dir
		}
	}
	if o.checkout != "" {
		root, err := os.OpenRoot(o.checkout)
		if err != nil {
			return nil, usagef("--checkout: %w", pathError("open", o.checkout, err))
		}
		defer root.Close()
		opt.Local = func(p string) ([]byte, bool) {
			b, ok := linted(root, p)
			if rest, under := strings.CutPrefix(p, path.Clean(opt.Under)+"/"); !ok && under { // the folder is that which the report is of
				b, ok = linted(root, rest)
			}
			return b, ok
		}
	}
	rep, err := patch.Read(r, opt)
	if err != nil {
		return nil, patchError(name, err)
	}
	if all := rep.Findings(); len(all) > 1 && o.result == 0 && o.rule == "" {
		for i := range all {
			if _, err := fmt.Fprintf(a.stdout, "%4d  %s: %s\n", all[i].N, plain(all[i].Name()), sentenceText(all[i].Text)); err != nil {
				return nil, err
			}
		}
		return nil, usagef("%d results have a fix: name one with --result NUMBER, or with --rule where it has one alone", len(all))
	}
	f, err := rep.Pick(o.result, o.rule)
	if err != nil {
		return nil, patchError(name, err)
	}
	cut, err := f.Cut(o.fix)
	if err != nil {
		return nil, patchError(name, err)
	}
	return cut, nil
}

// linted is a file as it was linted. One that was checked out with other ends of lines than git has would have another hash for that alone: it is not known.
func linted(root *os.Root, name string) ([]byte, bool) {
	f, err := root.Open(name)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, patch.MaxFile+1))
	return b, err == nil && len(b) <= patch.MaxFile && !bytes.Contains(b, []byte("\r\n"))
}

// patchText is what a patch does, in a line; "" where the spec is none.
func patchText(raw json.RawMessage) string {
	s, _, err := builds.ParsePatchSpec(raw)
	if err != nil {
		return ""
	}
	var names []string
	for _, f := range s.Files {
		names = append(names, f.Path)
	}
	return fmt.Sprintf("a pull request at %s, into %s: %s", s.Repository, cmp.Or(s.Base, "its default branch"), few(names))
}

// showDiff writes a patch's diff: what steers a terminal in it is shown as what it is.
func (a *app) showDiff(raw json.RawMessage) error {
	var s builds.PatchSpec
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil // it is no patch
	}
	var b strings.Builder
	for l := range strings.Lines(s.Diff) {
		parts := strings.Split(strings.TrimRight(l, "\r\n"), "\t")
		for i := range parts {
			parts[i] = printable(parts[i])
		}
		b.WriteString(strings.Join(parts, "\t") + "\n")
	}
	_, err := io.WriteString(a.stdout, b.String())
	return err
}
