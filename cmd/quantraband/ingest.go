package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/agent"
	"github.com/quantra-l/quantra/ingest"
	"github.com/quantra-l/quantra/ingest/files"
	"github.com/quantra-l/quantra/profile"
)

// ingesting is what the command ingest was told.
type ingesting struct {
	question
	labels      []string
	name        string
	format      string
	numbers     ingest.Numbers
	begin, end  string
	keyFile     string
	dryRun      bool
	in          input
	now         time.Time
	given       [2]time.Time // --from and --until; zero where they were not given
	pairs       url.Values   // the labels
	key         *agent.Key   // nil: by token
	interactive io.Writer    // where each file is told of as it is done; nil with --json
}

// ingested is what became of one profile of a file, or of a file that has none.
type ingested struct {
	File    string     `json:"file"`
	Kept    bool       `json:"kept"`
	Format  string     `json:"format,omitempty"`
	Profile string     `json:"profile,omitempty"` // process_cpu, ...
	Types   []string   `json:"profile_types,omitempty"`
	Samples int        `json:"samples"`
	From    *time.Time `json:"from,omitempty"`
	Until   *time.Time `json:"until,omitempty"`
	Times   string     `json:"times,omitempty"` // by what From and Until are known: see timesBy
	Notes   []string   `json:"notes,omitempty"` // what was left out of the file, or will not be seen of it
	Reason  string     `json:"reason,omitempty"`

	err error
}

// timesBy says to a person by what a profile's time is known.
var timesBy = map[string]string{
	"given":    "as given",
	"file":     "the file's own times",
	"length":   "the file's own length, and that it ended when it was written",
	"modified": "from when the file was written: it has no times",
}

func (a *app) ingestCommand() *cobra.Command {
	var o ingesting
	cmd := &cobra.Command{
		Use:     "ingest --service NAME FILE...",
		GroupID: "main",
		Short:   "Send profile files of any profiler to a running server",
		Long: `Send profile files to a running server, which keeps them like profiles that an agent sends: pprof, folded stacks,
the text of "perf script", speedscope, V8's .cpuprofile (node --cpu-prof), the CPU profiles of Chrome's traces, and
recordings of Java's Flight Recorder, raw, gzip or zstd. What a file is, its bytes say; --format says it instead. - is
standard input, and an http:// or https:// address is fetched.

When a profile was, the file says where it can (pprof, Flight Recorder, DevTools' traces). Others know only for how long
(perf, V8), and count as having ended when the file was last written; the rest is the 10 s before that. --from and
--until say it instead. The answer tells which it was.

Folded stacks are CPU at --rate samples a second, and speedscope's are CPU, where --measure says nothing else. docs/model.md has what
becomes of each format. A file that cannot be read or is refused is skipped, and the reason told; the others are sent.
The exit code is that of the first that was skipped. A file that was kept before counts once.

The server wants a token with the role writer, or the key of an agent that has enrolled for the service (--key); its own
user needs neither.`,
		Example: `  quantraband ingest --service checkout cpu.pb.gz heap.pb.gz
  node --cpu-prof app.js && quantraband ingest --service shop --label zone=eu *.cpuprofile
  perf record -e cpu-clock -g ./build && perf script | quantraband ingest --service build -
  quantraband ingest --service batch --dry-run --json stacks.folded`,
		Args: cobra.MinimumNArgs(1),
	}
	cmd.RunE = o.asking(func(ctx context.Context, args []string) error {
		if err := o.check(time.Now()); err != nil {
			return err
		}
		if !o.asJSON {
			o.interactive = a.stdout
		}
		return a.ingest(ctx, &o, args)
	})
	o.serverFlags(cmd)
	f := cmd.Flags()
	f.StringVarP(&o.service, "service", "s", "", "`whose` profiles these are (required)")
	f.StringArrayVarP(&o.labels, "label", "l", nil, "a label of the profiles, as `NAME=VALUE`; may be repeated")
	f.StringVar(&o.name, "name", "", "the profiles' `name`, as mutex (default: what the types tell)")
	f.StringVar(&o.format, "format", "", "`what` the files are: "+strings.Join(files.Formats(), ", ")+" (default: what their bytes say)")
	f.StringVar(&o.numbers.Measure, "measure", "", "`what` the numbers of folded stacks and speedscope are: "+strings.Join(ingest.Measures(), ", ")+" (default: cpu)")
	f.IntVar(&o.numbers.Rate, "rate", 0, "samples a `second` of what is counted in samples (default: 100)")
	f.StringVar(&o.begin, "from", "", "when the profiles began: RFC 3339, or now-15m")
	f.StringVar(&o.end, "until", "", "when they ended: RFC 3339, now, or now-5m")
	f.StringVar(&o.keyFile, "key", "", "sign with the Ed25519 key in this `file`, as the agent that it is of")
	f.BoolVar(&o.dryRun, "dry-run", false, "read the files and say what would be sent; no server is asked")
	return cmd
}

// check reads what does not depend on a file.
func (o *ingesting) check(now time.Time) (err error) {
	o.now, o.in.timeout = now, o.timeout
	if o.service == "" {
		return usagef("add --service NAME: whose profiles these are")
	}
	o.pairs = url.Values{profile.LabelService: {o.service}}
	all := []profile.Label{{Name: profile.LabelService, Value: o.service}}
	for _, l := range o.labels {
		name, value, ok := strings.Cut(l, "=")
		name = profile.LabelName(name)
		switch {
		case !ok || name == "" || value == "":
			return usagef("--label %q: it must be NAME=VALUE", l)
		case o.pairs.Has(name):
			return usagef("--label %q: the label %s is given twice", l, name)
		case name == "name" || name == "from" || name == "until":
			return usagef("--label %q: no label can be called %s: add --%[2]s", l, name)
		}
		o.pairs.Set(name, value)
		all = append(all, profile.Label{Name: name, Value: value})
	}
	if _, err := profile.NewLabels(all...); err != nil {
		return usagef("--label: %w", err)
	}
	if o.name != "" {
		if err := profile.CheckLabelName(o.name); err != nil {
			return usagef("--name %q: %w", o.name, err)
		}
	}
	if o.format != "" && !slices.Contains(files.Formats(), o.format) {
		return usagef("--format %q: it must be one of %s", o.format, strings.Join(files.Formats(), ", "))
	}
	if o.numbers.Measure != "" && !slices.Contains(ingest.Measures(), o.numbers.Measure) {
		return usagef("--measure %q: it must be one of %s", o.numbers.Measure, strings.Join(ingest.Measures(), ", "))
	}
	if o.numbers.Rate < 0 || o.numbers.Rate > 1e6 {
		return usagef("--rate %d: it must be from 1 to 1000000", o.numbers.Rate)
	}
	for i, end := range []struct{ flag, text string }{{"--from", o.begin}, {"--until", o.end}} {
		if end.text == "" {
			continue
		}
		if o.given[i], err = parseTime(end.text, now); err != nil {
			return usagef("%s %q: it must be RFC 3339 (2026-11-23T15:04:05Z), now, or now-15m", end.flag, end.text)
		}
	}
	if from, until := o.given[0], o.given[1]; !from.IsZero() && !until.IsZero() && !from.Before(until) {
		return usagef("--until %s is not after --from %s", o.end, o.begin)
	}
	if o.keyFile != "" {
		if o.key, err = agent.ReadKey(o.keyFile); err != nil {
			return usagef("--key: %w", err)
		}
		o.anonymous = true
	}
	return nil
}

// ingest sends all files, and says what became of each.
func (a *app) ingest(ctx context.Context, o *ingesting, names []string) error {
	var all []ingested
	for i, name := range names {
		done := a.ingestFile(ctx, o, name)
		all = append(all, done...)
		for _, d := range done {
			o.tell(d)
		}
		last := done[len(done)-1].err
		if errors.Is(last, context.Canceled) {
			return context.Canceled
		}
		var coded *codedError
		if errors.As(last, &coded) && (coded.code == exitUnavailable || coded.code == exitDenied) && i+1 < len(names) {
			// It would be the same with each of the others.
			for _, rest := range names[i+1:] {
				d := ingested{File: argName(rest), err: &codedError{coded.code, errors.New("not tried, after the one before")}}
				d.Reason = d.err.Error()
				all = append(all, d)
				o.tell(d)
			}
			break
		}
	}
	return a.ingestSummary(o, all)
}

// tell says what became of one profile, as soon as it is known.
func (o *ingesting) tell(d ingested) {
	w := o.interactive
	if w == nil {
		return
	}
	if !d.Kept {
		fmt.Fprintf(w, "skipped  %s: %s\n", plain(d.File), plain(oneLine(d.Reason)))
		return
	}
	verb := "kept    "
	if o.dryRun {
		verb = "would be"
	}
	fmt.Fprintf(w, "%s %s: %s, %s, %d samples, %s to %s (%s)\n", verb, plain(d.File), d.Format, plain(d.Profile), d.Samples,
		d.From.Format(time.RFC3339), d.Until.Format(time.RFC3339), timesBy[d.Times])
	for _, n := range d.Notes {
		fmt.Fprintf(w, "         %s\n", plain(oneLine(n)))
	}
}

// ingestSummary ends the command: with the code of the first that was skipped.
func (a *app) ingestSummary(o *ingesting, all []ingested) error {
	kept := 0
	var first *ingested
	for i := range all {
		if all[i].Kept {
			kept++
		} else if first == nil {
			first = &all[i]
		}
	}
	if o.asJSON {
		err := writeJSON(a.stdout, struct {
			DryRun  bool       `json:"dryRun"`
			Kept    int        `json:"kept"`
			Skipped int        `json:"skipped"`
			Files   []ingested `json:"profiles"`
		}{o.dryRun, kept, len(all) - kept, all})
		if err != nil {
			return err
		}
	} else if len(all) > 1 || first != nil {
		fmt.Fprintf(a.stdout, "%d kept, %d skipped\n", kept, len(all)-kept)
	}
	if first == nil {
		return nil
	}
	return &codedError{exitCode(first.err), fmt.Errorf("%d of %d profiles were skipped; the first is %s: %w", len(all)-kept, len(all), first.File, first.err)}
}

// ingestFile reads one file and sends its profiles: one for all formats but Flight Recorder's.
func (a *app) ingestFile(ctx context.Context, o *ingesting, name string) []ingested {
	skipped := func(format string, err error) []ingested {
		return []ingested{{File: argName(name), Format: format, Reason: err.Error(), err: err}}
	}
	f, modified, err := a.readFile(ctx, o, name)
	if err != nil {
		return skipped("", err)
	}
	var out []ingested
	for _, n := range f.Profiles {
		d := ingested{File: argName(name), Format: f.Format}
		if err := a.ingestOne(ctx, o, f.Format, n, modified, &d); err != nil {
			d.err, d.Reason = err, err.Error()
		}
		d.Kept = d.err == nil
		if out = append(out, d); d.err != nil && exitCode(d.err) != exitCorrupt && exitCode(d.err) != exitFailed {
			break // what is wrong is not wrong with this profile
		}
	}
	return out
}

// readFile reads a file, and says when it was last written: now, where that cannot be known.
func (a *app) readFile(ctx context.Context, o *ingesting, name string) (*files.File, time.Time, error) {
	src, err := a.open(ctx, &o.in, name)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer src.Close()
	bar := a.progress("reading "+name, src.size)
	defer bar.end()
	f, err := files.Read(&ctxReader{ctx, bar.reader(src)}, files.Options{Format: o.format, Rate: o.numbers.Rate, Size: src.size})
	if src.modified.IsZero() {
		src.modified = o.now
	}
	return f, src.modified, err
}

// ingestOne brings one profile into the model, and sends it.
func (a *app) ingestOne(ctx context.Context, o *ingesting, format string, n files.Named, modified time.Time, d *ingested) (err error) {
	p := n.Profile
	switch format {
	case files.Folded, files.Speedscope:
		d.Profile, err = ingest.ModelStacks(p, o.numbers)
	case files.Perf:
		d.Profile = ingest.ModelPerf(p)
	default:
		d.Profile = ingest.Model(p, n.Name)
	}
	if err != nil {
		return usagef("--measure: %w", err)
	}
	if o.name != "" {
		d.Profile = o.name
	}
	for _, t := range p.SampleTypes {
		d.Types = append(d.Types, profile.Type{Name: d.Profile, Sample: t, Period: p.PeriodType}.String())
	}
	d.Samples = p.NumSamples()
	if format == files.CPUProfile || format == files.Chrome { // theirs are comments of our reader
		d.Notes = p.Comments
	}
	if n := nameless(p); n > 0 {
		d.Notes = append(d.Notes, fmt.Sprintf("places without names or build ids, which symbols upload cannot name: %d of %d (docs/symbols.md)", n, len(p.Locations)))
	}
	from, until := o.window(p, modified, d)
	if d.From, d.Until = &from, &until; o.dryRun {
		return nil
	}
	var body bytes.Buffer
	if err := p.Encode(&body); err != nil {
		return err
	}
	q := url.Values{"name": {d.Profile}, "from": {strconv.FormatInt(from.UnixNano(), 10)}, "until": {strconv.FormatInt(until.UnixNano(), 10)}}
	for k, v := range o.pairs {
		q[k] = v
	}
	return a.send(ctx, o, q, body.Bytes(), "sending "+d.File)
}

// nameless is how many of a profile's addresses have no function, and no build id by which symbols could be found for them.
func nameless(p *profile.Profile) int {
	n := 0
	for _, l := range p.Locations {
		if l.NumLines == 0 && p.Mappings[l.Mapping].BuildID == 0 {
			n++
		}
	}
	return n
}

// window is when a profile was: as given, else as the file knows it.
func (o *ingesting) window(p *profile.Profile, modified time.Time, d *ingested) (from, until time.Time) {
	f, u, by := files.Window(p, modified.UnixNano())
	from, until, d.Times = time.Unix(0, f).UTC(), time.Unix(0, u).UTC(), by
	length := until.Sub(from)
	switch begin, end := o.given[0], o.given[1]; {
	case begin.IsZero() && end.IsZero():
		return from, until
	case end.IsZero():
		end = begin.Add(length)
		fallthrough
	default:
		if begin.IsZero() {
			begin = end.Add(-length)
		}
		d.Times = "given"
		return begin.UTC(), end.UTC()
	}
}

// send sends one profile. A server that is busy says when to come again; that is done as long as --timeout lets it.
func (a *app) send(ctx context.Context, o *ingesting, q url.Values, body []byte, what string) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	hc := o.http()
	for {
		wait, err := a.sendOnce(ctx, o, hc, q, body, what)
		if err == nil || wait == 0 {
			return err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			if errors.Is(ctx.Err(), context.Canceled) {
				return context.Canceled
			}
			return err
		}
	}
}

// sendOnce is one try. wait is how long to wait before the next, 0 where none is of use.
func (a *app) sendOnce(ctx context.Context, o *ingesting, hc *http.Client, q url.Values, body []byte, what string) (wait time.Duration, err error) {
	bar := a.progress(what, int64(len(body)))
	defer bar.end()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.server+"/api/v1/profiles?"+q.Encode(), bar.reader(bytes.NewReader(body)))
	if err != nil {
		return 0, usagef("--server %q: %w", o.server, err)
	}
	req.ContentLength = int64(len(body))
	req.Header.Set("Content-Type", "application/octet-stream")
	if o.key != nil {
		if err := o.key.Sign(req, body); err != nil {
			return 0, err
		}
	}
	res, err := hc.Do(req)
	if err != nil {
		return 0, o.callError(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return 0, o.callError(err)
	}
	if res.StatusCode == http.StatusOK {
		return 0, nil
	}
	text := refusalText(raw)
	switch res.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		s, err := strconv.Atoi(res.Header.Get("Retry-After"))
		if err != nil || s < 1 || s > 60 {
			s = 1
		}
		return time.Duration(s) * time.Second, unavailablef("%s: %s", o.server, text)
	case http.StatusUnauthorized, http.StatusForbidden:
		return 0, deniedf("%s: %s", o.server, text)
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		return 0, corruptf("%s refuses it: %s", o.server, text)
	case http.StatusUnprocessableEntity:
		return 0, fmt.Errorf("%s refuses it: %s", o.server, text)
	}
	return 0, unavailablef("%s is not a quantraband server, or one of another version: it answers %s", o.server, res.Status)
}

// refusalText is what an answer says to a person: of what takes profiles, or of the guard before it.
func refusalText(raw []byte) string {
	var f struct{ Error, Message string }
	if json.Unmarshal(raw, &f) == nil && f.Error+f.Message != "" {
		return f.Error + f.Message
	}
	return fmt.Sprintf("%.200q", raw)
}
