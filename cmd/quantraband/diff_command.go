package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/analyze/price"
)

// gateOptions are what `quantraband diff` was asked.
type gateOptions struct {
	q          question
	typeGiven  bool
	base, head []string
	failOn     []string
	strict     bool
	format     string
	output     string
	prices     string
	cores      float64
	count      int
	trim       string
}

// The formats of a report.
var gateFormats = []string{"text", "markdown", "json", "sarif"}

func (a *app) gateCommand() *cobra.Command {
	var o gateOptions
	cmd := &cobra.Command{
		Use:     "diff [BASE HEAD...]",
		GroupID: "main",
		Short:   "What became slower, surely, and what it costs: a gate for a change",
		Long: `Compare two sides, function by function, and say which functions cause a difference that is surely
there, how large it is with its 95 % interval, and what it costs a month. A function whose callee grew is not named, nor one
that was renamed, nor one whose share only fell because another's rose.

BASE and each HEAD is a profile file; --base and --head may be given more than once, and may be patterns as 'base-*.pb.gz'. Each
file is a run of its own: with several a side what runs differ by is measured, with one it is assumed. With --service a
side may also be, at the server, a version as v1, a matcher as 'region="eu"', or a range as now-2h..now-1h. Its
instances are what is compared.

--fail-on 2% fails if a function surely costs more by over two points of the whole (the lower end of the interval is above it);
--fail-on 50usd if one surely costs more by over 50 a month; --fail-on 0.5cores likewise. It ends with

    0  nothing is above the limits, or none were given
    7  something surely is
    6  it cannot tell: a side has no samples; with --strict also if something may be above a limit,
       and more samples would be needed to know. Without --strict that is a warning.

docs/diff.md has what is compared and how, and an example for GitHub Actions.`,
		Example: `  quantraband diff base.pb.gz head.pb.gz
  quantraband diff --base 'base-*.pb.gz' --head 'head-*.pb.gz' --fail-on 2%
  quantraband diff -s checkout --base v1 --head v2 --since 1h --fail-on 50usd --price prices.yaml
  quantraband diff -s checkout --base v1 --head head.pb.gz --format markdown --output comment.md
  quantraband diff -s checkout --base now-2h..now-1h --head now-1h..now`,
		Args: cobra.ArbitraryArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.typeGiven = cmd.Flags().Changed("type")
		if err := o.check(args); err != nil {
			return err
		}
		return a.gate(cmd.Context(), &o)
	}
	o.q.sampleFlags(cmd)
	filterFlags(cmd, &o.q.filter)
	f := cmd.Flags()
	f.Lookup("service").Usage = "compare profiles of this service at the server"
	f.Lookup("type").Usage = "profile `type` or sample type to compare (of files the default is their own)"
	for _, hidden := range []string{"json", "samples", "id"} {
		f.MarkHidden(hidden)
	}
	f.StringArrayVar(&o.base, "base", nil, "what to compare with: `files`, or with --service a version, matcher or range")
	f.StringArrayVar(&o.head, "head", nil, "what is compared: `files`, or with --service a version, matcher or range")
	f.StringArrayVar(&o.failOn, "fail-on", nil, "`limit` that no function may surely exceed: as 2%, 50usd or 0.5cores; may be given more than once")
	f.BoolVar(&o.strict, "strict", false, "fail, too, if it cannot tell")
	f.StringVar(&o.format, "format", "text", "`format` of the report: "+strings.Join(gateFormats, ", "))
	f.StringVarP(&o.output, "output", "o", "", "write the report to `file`, and one line here")
	f.StringVar(&o.prices, "price", "", "price `file` (default: built-in list prices; docs/price.md)")
	f.Float64Var(&o.cores, "cores", 0, "cores that the whole service keeps busy, for its cost (default: as the server's profiles say)")
	f.IntVarP(&o.count, "count", "n", 20, "functions to show, 0 for all")
	f.StringVar(&o.trim, "trim-prefix", "", "what to leave out at the beginning of file names in SARIF, as /build/src/ (default: this folder)")
	cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(gateFormats, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (o *gateOptions) check(args []string) error {
	switch {
	case len(args) == 1:
		return usagef("give BASE and HEAD, or --base and --head")
	case len(args) > 0 && len(o.base)+len(o.head) > 0:
		return usagef("give BASE and HEAD, or --base and --head, not both")
	case len(args) > 0:
		o.base, o.head = args[:1], args[1:]
	case len(o.base) == 0 || len(o.head) == 0:
		return usagef("there must be a base and a head: BASE and HEAD, or --base and --head")
	}
	if o.q.asJSON {
		o.format = "json"
	}
	switch {
	case !slices.Contains(gateFormats, o.format):
		return usagef("--format %s: it must be one of %s", o.format, strings.Join(gateFormats, ", "))
	case o.strict && len(o.failOn) == 0:
		return usagef("--strict says when to fail beside --fail-on, which is not given")
	case o.count < 0:
		return usagef("-n %d: it must not be negative", o.count)
	case o.cores < 0 || math.IsNaN(o.cores) || math.IsInf(o.cores, 0):
		return usagef("--cores %v: it must be a number above 0", o.cores)
	case o.q.service == "" && o.q.matchers != "":
		return usagef("--matchers chooses at the server: say of which --service")
	}
	return nil
}

// limit is one --fail-on.
type limit struct {
	text  string
	unit  string // "share", "cores", or a currency
	value float64
}

func parseLimit(s, currency string) (limit, error) {
	l := limit{text: s}
	t := strings.TrimSpace(s)
	i := strings.LastIndexAny(t, "0123456789.") + 1
	v, err := strconv.ParseFloat(t[:i], 64)
	if err != nil || !(v >= 0) || math.IsInf(v, 0) {
		return l, usagef("--fail-on %q: it must be a number from 0 with %%, cores or a currency behind it, as 2%%, 0.5cores or 50usd", s)
	}
	switch unit := strings.ToUpper(strings.TrimSpace(t[i:])); {
	case unit == "%" && v <= 100:
		l.unit, l.value = "share", v/100
	case unit == "CORES" || unit == "CORE":
		l.unit, l.value = "cores", v
	case unit == currency:
		l.unit, l.value = currency, v
	case len(unit) == 3:
		return l, usagef("--fail-on %q: prices are in %s; set `currency` in the file of --price", s, currency)
	default:
		return l, usagef("--fail-on %q: it must be a number from 0 with %%, cores or a currency behind it, as 2%%, 0.5cores or 50usd", s)
	}
	return l, nil
}

// readPrices reads the price file, or is the built-in prices.
func readPrices(name string) (*price.File, error) {
	if name == "" {
		return price.Default(), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	defer f.Close()
	p, err := price.Decode(f)
	if errors.Is(err, price.ErrFile) {
		return nil, corruptf("%s: %w", name, err)
	}
	if err != nil {
		return nil, pathError("read", name, err)
	}
	return p, nil
}

// gate compares, reports, and fails where it must.
func (a *app) gate(ctx context.Context, o *gateOptions) error {
	prices, err := readPrices(o.prices)
	if err != nil {
		return err
	}
	var limits []limit
	for _, s := range o.failOn {
		l, err := parseLimit(s, prices.Currency)
		if err != nil {
			return err
		}
		limits = append(limits, l)
	}
	sides, err := a.gateSides(ctx, o)
	if err != nil {
		return err
	}
	c, err := analyze.Compare(sides[0].cohort, sides[1].cohort, analyze.CompareOptions{})
	switch {
	case errors.Is(err, analyze.ErrNothingToCompare):
		return undecidedf("%w", err)
	case err != nil:
		return corruptf("%w", err)
	}
	r := newGateReport(o, sides, c, prices, limits)
	if err := a.emit(o.output, false, func(w io.Writer) error { return r.write(w, o) }); err != nil {
		return err
	}
	if o.output != "" && o.output != "-" {
		if _, err := fmt.Fprintln(a.stdout, r.headline()); err != nil {
			return err
		}
	}
	switch {
	case r.Verdict == verdictFail:
		return &codedError{exitGate, errors.New(r.headline())}
	case r.Verdict == verdictUndecided && o.strict:
		return undecidedf("%s", r.headline())
	case r.Verdict == verdictUndecided:
		a.warn(r.headline() + "; --strict makes that fail")
	}
	return nil
}

// The verdicts of a gate.
const (
	verdictNone      = "none" // no limit was given
	verdictPass      = "pass"
	verdictFail      = "fail"
	verdictUndecided = "undecided"
)

// gateReport is the report, and as it is the JSON of it.
type gateReport struct {
	Verdict   string       `json:"verdict"`
	FailOn    []string     `json:"fail_on,omitempty"`
	Service   string       `json:"service,omitempty"`
	Type      string       `json:"type"`
	Unit      string       `json:"unit"`
	Base      analyze.Side `json:"base"`
	Head      analyze.Side `json:"head"`
	Cores     float64      `json:"cores,omitempty"` // of the whole service, that costs are of
	Prices    string       `json:"prices,omitempty"`
	Test      string       `json:"test"`
	Scale     float64      `json:"scale"`
	Changes   []gateChange `json:"changes"`   // causes, the largest first
	Undecided []gateChange `json:"undecided"` // that may be above a limit
	Shifted   []gateChange `json:"shifted"`   // cost that only moved
	Functions int          `json:"functions"` // that were compared
	Warnings  []string     `json:"warnings"`
}

// gateChange is one function in a report.
type gateChange struct {
	Function string           `json:"function"`
	Was      string           `json:"was,omitempty"`
	File     string           `json:"file,omitempty"`
	Line     int64            `json:"line,omitempty"`
	Verdict  analyze.Verdict  `json:"verdict"`
	Metric   string           `json:"metric"`
	Before   analyze.Estimate `json:"before"`
	After    analyze.Estimate `json:"after"`
	Change   analyze.Estimate `json:"change"`
	Real     analyze.Estimate `json:"same_work"` // the change for the same work, as a share of the head
	P        float64          `json:"p"`
	Q        float64          `json:"q"`
	// Cores is what more is spent (less where below 0) for the same work; Price that by month.
	Cores    *analyze.Estimate `json:"cores,omitempty"`
	Price    *analyze.Money    `json:"price,omitempty"`
	By       string            `json:"by,omitempty"`
	Also     []analyze.Moved   `json:"also,omitempty"`
	Exceeds  []string          `json:"exceeds,omitempty"` // of the limits, surely
	MayReach []string          `json:"may_exceed,omitempty"`

	sentence string
}

func newGateReport(o *gateOptions, sides [2]gateSide, c *analyze.Comparison, prices *price.File, limits []limit) *gateReport {
	r := &gateReport{
		FailOn: o.failOn, Service: o.q.service, Type: c.Sample.Type, Unit: c.Sample.Unit, Base: c.Base, Head: c.Head,
		Cores: serviceCores(o, sides, c), Test: c.Test, Scale: c.Scale.Value, Functions: len(c.Changes),
		Changes: []gateChange{}, Undecided: []gateChange{}, Shifted: []gateChange{}, Warnings: append([]string{}, c.Warnings...),
	}
	for _, s := range sides {
		r.Warnings = append(r.Warnings, s.warnings...)
	}
	if r.Cores > 0 {
		r.Prices = prices.Cores(analyze.Estimate{}, sides[1].machines...).Basis
	} else if slices.ContainsFunc(limits, func(l limit) bool { return l.unit != "share" }) {
		r.Warnings = append(r.Warnings, "what the service costs is not known, so limits of cores and money hold nothing; name its cores with --cores")
	}
	for i := range c.Changes {
		ch := &c.Changes[i]
		g := gateChange{
			Function: ch.Function, Was: ch.Was, File: ch.File, Line: ch.Line, Verdict: ch.Verdict, Metric: cmp.Or(ch.Metric, "own"), By: ch.By,
			Also: c.Moved(ch.Function), sentence: c.Sentence(cmp.Or(o.q.service, "the program"), map[bool]string{true: "instances", false: "runs"}[o.q.service != ""], ch),
		}
		d := ch.Judged()
		if ch.Metric == "" {
			d = &ch.Own // the functions divide all samples among them by it
		}
		g.Before, g.After, g.Change, g.Real, g.P, g.Q = d.Before, d.After, d.Change, d.Real, d.P, d.Q
		if r.Cores > 0 {
			e := analyze.Estimate{Value: d.Real.Value * r.Cores, Low: d.Real.Low * r.Cores, High: d.Real.High * r.Cores}
			m := prices.Cores(e, sides[1].machines...)
			g.Cores, g.Price = &e, &m
		}
		g.judge(limits, r.Cores > 0)
		switch {
		case ch.Verdict == analyze.Grew || ch.Verdict == analyze.Fell:
			r.Changes = append(r.Changes, g)
		case ch.Verdict == analyze.Shifted:
			r.Shifted = append(r.Shifted, g)
		}
		if len(g.Exceeds) == 0 && len(g.MayReach) > 0 {
			r.Undecided = append(r.Undecided, g)
		}
	}
	slices.SortStableFunc(r.Undecided, func(x, y gateChange) int { return cmp.Compare(y.Change.High, x.Change.High) })
	r.Verdict = verdictPass
	unpriced := r.Cores <= 0 && slices.ContainsFunc(limits, func(l limit) bool { return l.unit != "share" })
	switch {
	case len(limits) == 0:
		r.Verdict = verdictNone
	case slices.ContainsFunc(r.Changes, func(g gateChange) bool { return len(g.Exceeds) > 0 }):
		r.Verdict = verdictFail
	case len(r.Undecided) > 0 || unpriced:
		r.Verdict = verdictUndecided
	}
	return r
}

// judge holds the function to the limits.
func (g *gateChange) judge(limits []limit, priced bool) {
	if g.Verdict == analyze.Explained || g.Verdict == analyze.Shifted || g.Verdict == analyze.Fell {
		return
	}
	for _, l := range limits {
		// What rose in share only because others fell has not become slower: it must be above the limit for the same work, too.
		e := analyze.Estimate{Value: g.Change.Value, Low: g.Change.Low, High: min(g.Change.High, g.Real.High)}
		switch {
		case l.unit == "share":
		case !priced:
			continue
		case l.unit == "cores":
			e = *g.Cores
		default:
			e = analyze.Estimate{Value: g.Price.Amount, Low: g.Price.Low, High: g.Price.High}
		}
		switch {
		case g.Verdict == analyze.Grew && e.Low > l.value:
			g.Exceeds = append(g.Exceeds, l.text)
		case e.High > l.value:
			g.MayReach = append(g.MayReach, l.text)
		}
	}
}

// serviceCores is what the whole service keeps busy; 0 is not known.
func serviceCores(o *gateOptions, sides [2]gateSide, c *analyze.Comparison) float64 {
	if o.cores > 0 {
		return o.cores
	}
	a, b := &sides[0], &sides[1]
	switch {
	case c.Base.Cores == 0 && c.Head.Cores == 0, a.server == "" && b.server == "":
		return 0 // what files were measured in is a benchmark as a rule, and not the service
	case b.server == "":
		return c.Base.Cores
	case a.server == "" || a.ranged:
		return c.Head.Cores
	}
	// Versions: both are the service. Where one came after the other their sum would be twice it.
	seconds := max(a.to.Sub(b.from), b.to.Sub(a.from), a.to.Sub(a.from), b.to.Sub(b.from)).Seconds()
	if seconds <= 0 {
		return c.Base.Cores + c.Head.Cores
	}
	busy := c.Base.Cores*a.to.Sub(a.from).Seconds() + c.Head.Cores*b.to.Sub(b.from).Seconds()
	return busy / seconds
}
