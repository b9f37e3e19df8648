package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/optimize/pgo"
	"github.com/quantra-l/quantra/optimize/pull"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/bucket"
)

// githubToken is where the token for pull requests is, and nowhere else: a flag would be in the list of processes.
const githubToken = "GITHUB_TOKEN"

type pgoOptions struct {
	q           question
	version     string
	allVersions bool
	cells       int
	maxSize     byteSize
	output      string

	// Of a pull request:
	repo, path   string
	base, branch string
	apiURL       string
	dryRun       bool
	always       bool
}

func (a *app) pgoCommand() *cobra.Command {
	o := pgoOptions{maxSize: 1 << 20}
	cmd := &cobra.Command{
		Use:     "pgo [FILE...]",
		GroupID: "main",
		Short:   "Make default.pgo, the profile that the Go compiler optimises by, of a whole fleet",
		Long: `Make the profile that "go build -pgo" optimises by, of what a service's instances did in a week (or --since): every hour of
the week weighs alike, and in it every instance, so that neither a busy one nor one that lives long decides. Only what the
compiler reads is kept, and the same profiles give the same bytes. It is of the newest version's code; --version names
another, --all-versions takes older ones too, where their functions start in the same lines.

How much it was made of, and how far two halves of the same profiles agree, is told on standard error, or on
standard output where the profile is written to a file (-o; also to a bucket, as gs://BUCKET/FOLDER/default.pgo).
With FILEs no server is asked: each is an instance of its own.

--pull-request OWNER/NAME opens a pull request on GitHub that puts the file to --path, with what it was made of; the token is in
` + githubToken + `. Where there is a file already that differs no more than two halves of the same profiles do, nothing is done.
--dry-run shows what would be sent.

It ends with 6 if there are no samples, and with 3 if the profiles are none of a Go program, or have no start lines.
When a build with it is out, quantraband diff -s SERVICE --base OLD --head NEW says what it gained.
docs/pgo.md has how the profile is made, and how to use it.`,
		Example: `  quantraband pgo --service checkout --since 7d > default.pgo
  quantraband pgo -s checkout -m 'region="eu"' --version v41 -o cmd/checkout/default.pgo
  quantraband pgo -s checkout --pull-request shop/checkout --path cmd/checkout/default.pgo
  quantraband pgo check --package ./cmd/checkout --profile cmd/checkout/default.pgo`,
		Args: cobra.ArbitraryArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := o.check(args); err != nil {
			return err
		}
		return a.pgo(cmd.Context(), &o, args)
	}
	o.q.seriesFlags(cmd)
	f := cmd.Flags()
	o.q.since = age(7 * 24 * time.Hour)
	f.Lookup("since").DefValue = o.q.since.String()
	f.Lookup("service").Usage = "of this service's profiles"
	f.Lookup("json").Usage = "tell what it was made of as JSON"
	f.StringVar(&o.version, "version", "", "of this `version`'s profiles (default: the newest with enough samples)")
	f.BoolVar(&o.allVersions, "all-versions", false, "take older versions' profiles, too, where functions start in the same lines")
	f.IntVar(&o.cells, "cells", 600, "read at most so many stretches of an instance's time (an hour each in a week), spread evenly; 0 is all")
	f.Var(&o.maxSize, "max-size", "leave out the coldest calls until the file is no larger; 0 is no bound")
	f.StringVarP(&o.output, "output", "o", "", "write to `file`, or to an object in a bucket by its URL (default: standard output)")
	f.StringVar(&o.repo, "pull-request", "", "open a pull request in `repository` OWNER/NAME on GitHub")
	f.StringVar(&o.path, "path", "default.pgo", "the file's `path` in that repository: in the folder of the program's package main")
	f.StringVar(&o.base, "base", "", "the `branch` to merge into (default: the repository's)")
	f.StringVar(&o.branch, "branch", "", "the `branch` to make (default: quantraband/pgo-SERVICE)")
	f.StringVar(&o.apiURL, "api-url", "", "`URL` of GitHub's API (default: https://api.github.com; of GitHub Enterprise https://HOST/api/v3)")
	f.BoolVar(&o.dryRun, "dry-run", false, "show what would be sent for the pull request, and send nothing that changes anything")
	f.BoolVar(&o.always, "always", false, "open the pull request even if the file there is as good")
	cmd.AddCommand(a.pgoCheck())
	return cmd
}

func (o *pgoOptions) check(files []string) error {
	switch {
	case len(files) > 0 && (o.q.service != "" || o.q.matchers != "" || o.version != "" || o.allVersions):
		return usagef("give files, or --service and what chooses at the server, not both")
	case len(files) == 0 && o.q.service == "":
		return usagef("say of which --service, or give profile files")
	case o.version != "" && o.allVersions:
		return usagef("--version and --all-versions exclude each other")
	case o.cells < 0:
		return usagef("--cells %d: it must not be negative", o.cells)
	case o.repo == "" && (o.dryRun || o.base != "" || o.branch != "" || o.apiURL != "" || o.always):
		return usagef("--dry-run, --base, --branch, --api-url and --always are about a pull request: name its repository with --pull-request")
	case o.repo != "" && strings.Count(o.repo, "/") != 1:
		return usagef("--pull-request %s: it must be OWNER/NAME", o.repo)
	case o.q.asJSON && o.repo == "" && (o.output == "" || o.output == "-"):
		return usagef("--json tells what the profile was made of: add -o FILE for the profile itself")
	}
	if len(files) > 0 {
		return nil
	}
	return o.q.checkServer()
}

// pgo makes the profile, and puts it where it is wanted.
func (a *app) pgo(ctx context.Context, o *pgoOptions, files []string) error {
	var res *pgo.Result
	var err error
	if len(files) > 0 {
		res, err = a.pgoOfFiles(ctx, o, files)
	} else {
		res, err = a.pgoOfServer(ctx, o)
	}
	if err != nil {
		return pgoError(err)
	}
	for _, w := range res.Report.Warnings {
		a.warn(w)
	}
	told, onStdout := a.stderr, o.repo == "" && (o.output == "" || o.output == "-")
	if !onStdout {
		told = a.stdout
	}
	switch {
	case strings.Contains(o.output, "://"):
		err = putObject(ctx, o.output, res.Profile)
	case o.output != "" || o.repo == "":
		err = a.emit(o.output, true, func(w io.Writer) error {
			_, err := w.Write(res.Profile)
			return err
		})
	}
	if err != nil {
		return err
	}
	if o.q.asJSON {
		if err := writeJSON(told, res.Report); err != nil {
			return err
		}
	} else if _, err := io.WriteString(told, pgoText(o, &res.Report)); err != nil {
		return err
	}
	if o.repo != "" {
		return a.pgoPull(ctx, o, res)
	}
	return nil
}

// pgoError gives errors of optimize/pgo their exit codes.
func pgoError(err error) error {
	switch {
	case errors.Is(err, pgo.ErrNoSamples):
		return undecidedf("%w", err)
	case errors.Is(err, pgo.ErrNotCPU), errors.Is(err, pgo.ErrNotGo), errors.Is(err, pgo.ErrNoStartLines):
		return corruptf("%w", err)
	case errors.Is(err, pgo.ErrSize):
		return usagef("--max-size: %w", err)
	}
	return err
}

// most is --max-size as the room has it.
func (o *pgoOptions) most() int {
	if o.maxSize == 0 {
		return -1
	}
	return int(o.maxSize)
}

func (a *app) pgoOfFiles(ctx context.Context, o *pgoOptions, files []string) (*pgo.Result, error) {
	m := pgo.NewMerger("")
	in := input{timeout: o.q.timeout}
	for _, text := range files {
		names, err := expand(text)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			p, err := a.read(ctx, &in, name)
			if err != nil {
				return nil, err
			}
			if err := m.Add(pgo.Cell{Instance: name}, p); err != nil {
				return nil, err
			}
		}
	}
	return m.Result(o.most())
}

// putObject writes an object that is named by its whole URL.
func putObject(ctx context.Context, url string, b []byte) error {
	where, query, _ := strings.Cut(url, "?")
	folder, key := path.Split(where)
	if key == "" || strings.HasSuffix(folder, "://") {
		return usagef("-o %s: name the object, as gs://BUCKET/FOLDER/default.pgo", url)
	}
	folder = strings.TrimSuffix(folder, "/")
	if query != "" {
		folder += "?" + query
	}
	to, err := bucket.Open(ctx, folder, bucket.Options{Create: true})
	switch {
	case errors.Is(err, bucket.ErrInvalid):
		return usagef("-o %s: %w", url, err)
	case errors.Is(err, bucket.ErrUnavailable):
		return unavailablef("-o: %w", err)
	case err != nil:
		return fmt.Errorf("-o %s: %w", url, err)
	}
	err = to.Put(ctx, key, bytes.NewReader(b))
	if err := errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("write %s: %w", url, err)
	}
	return nil
}

// pgoText is what the profile was made of.
func pgoText(o *pgoOptions, r *pgo.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s samples of %s, in %s of %s\n", printable(cmp.Or(o.q.service, "files")), thousands(r.Samples), count(r.Instances, "instance"),
		count(r.Cells, "stretch", "stretches"), count(r.Slots, "place of the week", "places of the week"))
	for _, v := range r.Versions {
		if v.Version != "" {
			fmt.Fprintf(&b, "version %s: %s samples in %s\n", printable(v.Version), thousands(v.Samples), count(v.Cells, "stretch", "stretches"))
		}
	}
	agree := ""
	if r.Agreement >= 0 {
		agree = fmt.Sprintf("; two halves of the profiles agree on %.0f %% of their weight", r.Agreement*100)
	}
	fmt.Fprintf(&b, "%s, of which the compiler acts on %d%s\n", count(r.Edges, "call"), r.Hot, agree)
	fmt.Fprintf(&b, "%s bytes", thousands(float64(r.Bytes)))
	if r.Lost > 0 {
		fmt.Fprintf(&b, "; to fit, %d cold calls with %.2f %% of the weight are left out", r.Edges-r.Kept, r.Lost*100)
	}
	return b.String() + "\n"
}

// count is a number with its noun.
func count(n int, noun ...string) string {
	switch {
	case n == 1:
		return "1 " + noun[0]
	case len(noun) > 1:
		return fmt.Sprint(n, " ", noun[1])
	}
	return fmt.Sprint(n, " ", noun[0], "s")
}

// thousands is a whole number with commas.
func thousands(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// pgoPull opens the pull request, where the file there is not as good.
func (a *app) pgoPull(ctx context.Context, o *pgoOptions, res *pgo.Result) error {
	owner, repo, _ := strings.Cut(o.repo, "/")
	opt := pull.Options{API: o.apiURL, Token: os.Getenv(githubToken)}
	if o.dryRun {
		opt.DryRun = a.stdout
	}
	if opt.Token == "" && !o.dryRun {
		return usagef("--pull-request needs a token in %s, with contents: write and pull requests: write for %s", githubToken, o.repo)
	}
	c, err := pull.New(opt)
	if err != nil {
		return pullError(err)
	}
	was, there, err := c.File(ctx, owner, repo, o.base, o.path)
	if err != nil {
		return pullError(err)
	}
	change := pgoChange{path: o.path, there: there}
	if there {
		change.compare(was, res)
		if !o.always && change.noMore(&res.Report) {
			_, err := fmt.Fprintf(a.stdout, "nothing to do: %s\n", change.text(&res.Report))
			return err
		}
	}
	service := cmp.Or(o.q.service, "files")
	got, err := c.Open(ctx, pull.Request{
		Owner: owner, Repo: repo, Base: o.base, Branch: cmp.Or(o.branch, "quantraband/pgo-"+branchPart(service)),
		Title: path.Base(o.path) + ": " + map[bool]string{true: "newer", false: "new"}[there] + " profile of " + clip(oneLine(printable(service)), 80) + " for the compiler",
		Body:  pgoBody(o, res, &change), Files: map[string][]byte{o.path: res.Profile},
	})
	if err != nil {
		return pullError(err)
	}
	switch {
	case o.dryRun && got.Unchanged:
		_, err = fmt.Fprintln(a.stdout, "nothing would be sent: the file is there as it should be")
	case o.dryRun:
		_, err = fmt.Fprintln(a.stdout, "dry run: nothing of this was sent")
	case got.Unchanged:
		_, err = fmt.Fprintln(a.stdout, "nothing to do: the file is there as it should be", got.URL)
	case got.Updated:
		_, err = fmt.Fprintln(a.stdout, "brought up to date:", got.URL)
	default:
		_, err = fmt.Fprintln(a.stdout, "opened:", got.URL)
	}
	return err
}

func pullError(err error) error {
	switch {
	case errors.Is(err, pull.ErrInvalid):
		return usagef("pull request: %w", err)
	case errors.Is(err, pull.ErrUnavailable):
		return unavailablef("pull request: %w", err)
	}
	return fmt.Errorf("pull request: %w", err)
}

// branchPart is s as a part of a branch's name.
func branchPart(s string) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, clip(s, 80)), "-")
}

func clip(s string, n int) string { return s[:min(n, len(s))] }

// pgoChange is what the new profile changes against the file that is there.
type pgoChange struct {
	path      string
	there     bool
	same      bool    // byte by byte
	read      bool    // it could be read
	agreement float64 // of the hot calls
	hot       int     // of the file there
}

func (c *pgoChange) compare(was []byte, res *pgo.Result) {
	c.same = bytes.Equal(was, res.Profile)
	p, _, err := profile.Read(bytes.NewReader(was), profile.Limits{Decoded: 128 << 20})
	if err != nil {
		return // whatever it is, it is to be replaced
	}
	edges, err := pgo.EdgesOf(p)
	if err != nil {
		return
	}
	c.read, c.hot, c.agreement = true, len(edges.Hot()), pgo.Agreement(edges, res.Edges)
}

// noMore says that the change is no more than what two halves of the same profiles differ by.
func (c *pgoChange) noMore(r *pgo.Report) bool {
	return c.same || c.read && r.Agreement >= 0 && c.agreement >= r.Agreement
}

func (c *pgoChange) text(r *pgo.Report) string {
	switch {
	case !c.there:
		return "there is no " + c.path + " yet"
	case c.same:
		return c.path + " is the same, byte by byte"
	case !c.read:
		return c.path + " is there, and is no profile that the compiler reads"
	}
	s := fmt.Sprintf("%s agrees with the new profile on %.0f %% of the weight of the hot calls", c.path, c.agreement*100)
	if r.Agreement >= 0 {
		s += fmt.Sprintf(" (two halves of the new one: %.0f %%)", r.Agreement*100)
	}
	return s
}

// pgoBody is the pull request's description: the evidence.
func pgoBody(o *pgoOptions, res *pgo.Result, change *pgoChange) string {
	r := &res.Report
	var b strings.Builder
	fmt.Fprintf(&b, "A CPU profile of %s for the Go compiler (`go build` takes a `default.pgo` in the folder of package main by itself, any other by `-pgo=FILE`).\n\n", code(cmp.Or(o.q.service, "files")))
	fmt.Fprintf(&b, "| made of | |\n| --- | --- |\n| samples | %s |\n| instances | %d |\n| stretches of time | %d, in %d places of the week |\n", thousands(r.Samples), r.Instances, r.Cells, r.Slots)
	for _, v := range r.Versions {
		if v.Version != "" {
			fmt.Fprintf(&b, "| version %s | %s samples |\n", code(clip(v.Version, 100)), thousands(v.Samples))
		}
	}
	fmt.Fprintf(&b, "| calls | %d, of which the compiler acts on %d |\n", r.Edges, r.Hot)
	if r.Agreement >= 0 {
		fmt.Fprintf(&b, "| two halves of the profiles agree on | %.0f %% of the hot weight |\n", r.Agreement*100)
	}
	fmt.Fprintf(&b, "| bytes | %s |\n\n", thousands(float64(r.Bytes)))
	fmt.Fprintf(&b, "Against the file there: %s.\n\n", inMarkdown(change.text(r)))
	b.WriteString("**Expected gain:** Go's own benchmarks gain 2 to 14 % of processor time ([go.dev/doc/pgo](https://go.dev/doc/pgo)); this program's is known when it has run. ")
	fmt.Fprintf(&b, "When a build with this file is out beside one without, %s says what it gained, and how surely. ", code("quantraband diff --service "+clip(cmp.Or(o.q.service, "SERVICE"), 100)+" --base OLD --head NEW"))
	b.WriteString("Before that, `quantraband pgo check` says what it costs in size and build time; look at goroutine stacks and memory in a canary (golang/go#65532).\n")
	if len(r.Warnings) > 0 {
		b.WriteString("\n**Mind:**\n\n")
		for _, w := range r.Warnings {
			fmt.Fprintf(&b, "- %s\n", inMarkdown(clip(oneLine(w), 500)))
		}
	}
	b.WriteString("\nThe heaviest calls:\n\n| share | caller | callee |\n| ---: | --- | --- |\n")
	for _, e := range res.Edges.List[:min(15, len(res.Edges.List))] {
		fmt.Fprintf(&b, "| %.1f %% | %s, line %+d | %s |\n", float64(e.Weight)/float64(res.Edges.Total)*100, code(clip(e.Caller, 200)), e.Offset, code(clip(e.Callee, 200)))
	}
	return b.String()
}
