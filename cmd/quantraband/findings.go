package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/watch"
)

func (a *app) findingsCommand() *cobra.Command {
	var q question
	var kinds, states []string
	since := age(24 * time.Hour)
	cmd := &cobra.Command{
		Use:     "findings",
		GroupID: "main",
		Short:   "What a running server has found: what got slower, since when, and what it costs",
		Long: `List what the server has found in the profiles of its services, what to look at first comes first: by what it costs
a month, then by its part of the service. Without --state all that is not fixed.`,
		Example: `  quantraband findings
  quantraband findings --service checkout --since 24h --json
  quantraband findings show 5f0c8d2a9b1e4c77
  quantraband findings mute 5f0c8d2a9b1e4c77 --for 7d --note 'known, waits for the new cache'`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		v := url.Values{}
		if q.service != "" {
			v.Set("service", q.service)
		}
		if since > 0 {
			v.Set("since", time.Duration(since).String())
		}
		for name, list := range map[string][]string{"kind": kinds, "state": states} {
			if len(list) > 0 {
				v.Set(name, strings.Join(list, ","))
			}
		}
		var raw struct {
			Findings []json.RawMessage `json:"findings"`
			Analysis watch.Status      `json:"analysis"`
		}
		if err := q.ask(ctx, http.MethodGet, watch.FindingsPath+"?"+v.Encode(), nil, &raw); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, append([]json.RawMessage{}, raw.Findings...)) // all of each, also what this program does not know
		}
		records := make([]watch.Record, len(raw.Findings))
		for i, b := range raw.Findings {
			if err := json.Unmarshal(b, &records[i]); err != nil {
				return unavailablef("%s is a server of another version: %w", q.server, err)
			}
		}
		return a.listFindings(records, raw.Analysis)
	})
	q.serverFlags(cmd)
	f := cmd.Flags()
	f.StringVarP(&q.service, "service", "s", "", "only this service")
	f.Var(&since, "since", "only what was there within this time; 0 is all")
	f.StringSliceVar(&kinds, "kind", nil, "only these `kinds`: "+join(analyze.Kinds))
	f.StringSliceVar(&states, "state", nil, "only in these `states`: "+join(watch.States)+", open, all")
	cmd.AddCommand(a.findingsShow(), a.findingsStatus(), a.findingsDeploy())
	for _, do := range []struct{ name, short, long string }{
		{"ack", "acknowledge", "Say that somebody is at it. It stays listed, and is told of again only if it grows."},
		{"mute", "mute", "Hear no more of it, for a time (--for) or for ever."},
		{"unmute", "unmute", "Hear of it again."},
		{"fix", "fix", "Say that it is fixed. If it is not, it comes back."},
		{"reopen", "reopen", "Make it new again."},
	} {
		cmd.AddCommand(a.findingsAct(do.name, do.short, do.long))
	}
	return cmd
}

func join[T ~string](list []T) string {
	var s []string
	for _, v := range list {
		s = append(s, string(v))
	}
	return strings.Join(s, ", ")
}

func (a *app) listFindings(records []watch.Record, status watch.Status) error {
	now := time.Now()
	if len(records) > 0 {
		err := a.lines("ID\tSTATE\tKIND\tSINCE\tA MONTH\tFINDING", func(line func(...any)) {
			for i := range records {
				r := &records[i]
				line(plain(r.ID), plain(string(r.State)), plain(string(r.Finding.Kind)), sinceText(r, now), moneyText(r.Finding.Price), sentenceText(r.Finding.Sentence))
			}
		})
		if err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(a.stderr, statusText(len(records), status))
	return err
}

// sentenceText is the whole sentence: it is what the list is for.
func sentenceText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func sinceText(r *watch.Record, now time.Time) string {
	t := r.Finding.Since
	if t.IsZero() {
		t = r.FirstSeen
	}
	t = t.Local()
	if now.Sub(t) < 20*time.Hour {
		return t.Format("15:04")
	}
	return t.Format("2006-01-02 15:04")
}

func moneyText(m *analyze.Money) string {
	if m == nil {
		return "-"
	}
	if m.Amount > 0 && m.Amount < 1 {
		return plain("<1 " + m.Currency)
	}
	return plain(fmt.Sprintf("%.0f %s", m.Amount, m.Currency))
}

// statusText says how far to trust that there is no more.
func statusText(n int, s watch.Status) string {
	var b strings.Builder
	switch {
	case s.AnalysedTo.IsZero():
		fmt.Fprintf(&b, "The analysis has not looked at anything yet.")
	case n == 0:
		fmt.Fprintf(&b, "Nothing found. %d series of %d services are analysed up to %s.", s.Series, s.Services, s.AnalysedTo.Local().Format("15:04:05"))
	default:
		fmt.Fprintf(&b, "%d found; %d series of %d services are analysed up to %s.", n, s.Series, s.Services, s.AnalysedTo.Local().Format("15:04:05"))
	}
	if s.BehindSeconds > 60 {
		fmt.Fprintf(&b, " The analysis is %s behind.", time.Duration(s.BehindSeconds*1e9).Round(time.Second))
	}
	if k := len(s.SetAside); k > 0 {
		fmt.Fprintf(&b, " %d parts were set aside: see findings status.", k)
	}
	return b.String()
}

func (a *app) findingsShow() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "All of one finding: figures, doubt, history",
		Example: `  quantraband findings show 5f0c8d2a9b1e4c77`,
		Args:    cobra.ExactArgs(1),
	}
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		var raw json.RawMessage
		if err := q.ask(ctx, http.MethodGet, watch.FindingsPath+"/"+url.PathEscape(args[0]), nil, &raw); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, raw)
		}
		var answer struct {
			Finding watch.Record
			History []watch.Event
		}
		if err := json.Unmarshal(raw, &answer); err != nil {
			return unavailablef("%s is a server of another version: %w", q.server, err)
		}
		return a.showFinding(&answer.Finding, answer.History)
	})
	q.serverFlags(cmd)
	return cmd
}

func (a *app) showFinding(r *watch.Record, history []watch.Event) error {
	f := &r.Finding
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("%s", sentenceText(f.Sentence))
	if f.Next != "" {
		say("Next: %s", sentenceText(f.Next))
	}
	for _, w := range f.Warnings {
		say("Warning: %s", sentenceText(w))
	}
	say("")
	row := func(name, format string, args ...any) {
		say("  %-10s %s", name, sentenceText(fmt.Sprintf(format, args...)))
	}
	row("state", "%s, first seen %s, last %s", r.State, r.FirstSeen.Local().Format(time.DateTime), r.LastSeen.Local().Format(time.DateTime))
	if !r.MutedUntil.IsZero() {
		row("muted", "until %s", r.MutedUntil.Local().Format(time.DateTime))
	}
	row("kind", "%s of %s", f.Kind, f.Service)
	if f.Before != (analyze.Estimate{}) {
		row("before", "%s", estimateText(f.Before, f.Unit))
	}
	row("after", "%s", estimateText(f.After, f.Unit))
	if f.Change != (analyze.Estimate{}) {
		row("change", "%s", estimateText(f.Change, f.Unit))
	}
	if !f.Since.IsZero() {
		row("since", "%s", f.Since.Local().Format(time.DateTime))
	}
	if c := f.Cause; c != nil {
		what := c.Event
		if c.Label != "" {
			what = c.Label + "=" + c.Value
		}
		row("with", "%s, which explains %.0f %%", what, 100*c.Share)
	}
	row("rests on", "%.0f samples of %d instances", f.Samples, f.Instances)
	if f.Test != "" {
		row("test", "%s, p %.2g, q %.2g over all that was looked at", f.Test, f.P, f.Q)
	}
	if f.Price != nil {
		row("price", "%.0f %s a month (%.0f..%.0f): %s", f.Price.Amount, f.Price.Currency, f.Price.Low, f.Price.High, f.Price.Basis)
	}
	if s := r.Saved; s != nil {
		row("saved", "%s", profileAmount(s.Amount, s.Unit)+savedMoney(s))
	}
	row("type", "%s, %s", f.Type, f.Metric)
	for i, m := range f.Also {
		name := ""
		if i == 0 {
			name = "also moved"
		}
		why := m.Why
		if why != "" {
			why = " (" + why + ")"
		}
		row(name, "%6.2f %% -> %6.2f %%  %s%s", 100*m.Before, 100*m.After, m.Function, why)
	}
	if len(history) > 0 {
		say("")
	}
	for _, e := range history {
		note := ""
		if e.Note != "" && e.Note != f.Sentence {
			note = ": " + e.Note
		}
		say("  %s  %s by %s%s", e.Time.Local().Format(time.DateTime), plain(e.What), plain(e.Actor), sentenceText(note))
	}
	_, err := a.stdout.Write([]byte(b.String()))
	return err
}

func savedMoney(s *watch.Saved) string {
	if s.Price == nil {
		return ""
	}
	return fmt.Sprintf(", %.0f %s a month", s.Price.Amount, s.Price.Currency)
}

func profileAmount(v float64, unit string) string {
	switch unit {
	case "share":
		return fmt.Sprintf("%.2f %%", 100*v)
	case "bytes":
		return profile.FormatValue(int64(v), "bytes")
	case "bytes/s":
		return profile.FormatValue(int64(v), "bytes") + "/s"
	case "seconds":
		return profile.FormatValue(int64(v*1e9), "nanoseconds")
	}
	return fmt.Sprintf("%.3g %s", v, unit)
}

func estimateText(e analyze.Estimate, unit string) string {
	return fmt.Sprintf("%s (95 %%: %s to %s)", profileAmount(e.Value, unit), profileAmount(e.Low, unit), profileAmount(e.High, unit))
}

func (a *app) findingsStatus() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "status",
		Short: "How the analysis is: up to when, how far behind, what was set aside",
		Args:  cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		var s watch.Status
		if err := q.ask(ctx, http.MethodGet, watch.AnalysisPath, nil, &s); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, s)
		}
		fmt.Fprintf(a.stdout, "analysed up to %s, %.1f s behind\n%d services, %d series, %d looks, the last took %.0f ms\nfrom a profile to its finding: %.0f ms (p50), %.0f ms (p99)\n",
			timeOr(s.AnalysedTo, "never"), s.BehindSeconds, s.Services, s.Series, s.Passes, s.LastPassMs, s.LatencyP50Ms, s.LatencyP99Ms)
		if !s.Leader {
			fmt.Fprintln(a.stdout, "another server on the same control database analyses")
		}
		for _, x := range s.Faults {
			fmt.Fprintf(a.stdout, "a file is wrong: %s\n", plain(x))
		}
		for _, x := range s.SetAside {
			fmt.Fprintf(a.stdout, "set aside: %s %s, %s to %s: %s\n", plain(x.Service), plain(x.Type), timeOr(x.From, "?"), timeOr(x.To, "?"), plain(x.Reason))
		}
		return nil
	})
	q.serverFlags(cmd)
	return cmd
}

func timeOr(t time.Time, none string) string {
	if t.IsZero() {
		return none
	}
	return t.Local().Format(time.DateTime)
}

// me is who acts: what the log of a finding names.
func me() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return os.Getenv("USER")
}

func (a *app) findingsAct(name, do, long string) *cobra.Command {
	var q question
	var note, by string
	var howLong age
	if do == "ack" {
		do = "acknowledge"
	}
	cmd := &cobra.Command{
		Use:     name + " ID",
		Short:   strings.SplitAfter(long, ".")[0][:len(strings.SplitAfter(long, ".")[0])-1],
		Long:    long,
		Example: "  quantraband findings " + name + ` 5f0c8d2a9b1e4c77 --note 'see ticket 4711'`,
		Args:    cobra.ExactArgs(1),
	}
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		act := watch.Action{Do: do, By: by, Note: note}
		if howLong > 0 {
			act.Until = time.Now().Add(time.Duration(howLong)).UTC().Truncate(time.Second)
		}
		var answer struct{ Finding watch.Record }
		if err := q.ask(ctx, http.MethodPost, watch.FindingsPath+"/"+url.PathEscape(args[0]), act, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer.Finding)
		}
		_, err := fmt.Fprintf(a.stdout, "%s is %s\n", plain(answer.Finding.ID), plain(string(answer.Finding.State)))
		return err
	})
	q.serverFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&note, "note", "", "`text` for its history")
	f.StringVar(&by, "by", me(), "`name` for its history")
	if do == "mute" {
		f.Var(&howLong, "for", "how long, as 7d; without it for ever")
	}
	return cmd
}

func (a *app) findingsDeploy() *cobra.Command {
	var q question
	var d watch.Deploy
	var at string
	cmd := &cobra.Command{
		Use:   "deploy",
		Short: "Tell the server of a deploy, so that what changes with it is said to",
		Long: `Tell the server that a service was deployed or changed. A version that the profiles carry is seen without this;
a change of configuration, of a database or of traffic is not.`,
		Example: `  quantraband findings deploy -s checkout --version v2 --note 'new cache'`,
		Args:    cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		d.Service, d.By = q.service, me()
		if at != "" {
			t, err := parseTime(at, time.Now())
			if err != nil {
				return usagef("--at %q: it must be RFC 3339 (2026-11-23T15:04:05Z), now, or now-15m", at)
			}
			d.Time = t
		}
		var answer struct{ Deploy watch.Deploy }
		if err := q.ask(ctx, http.MethodPost, watch.DeploysPath, d, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer.Deploy)
		}
		_, err := fmt.Fprintf(a.stdout, "kept: %s at %s\n", plain(answer.Deploy.Service), timeOr(answer.Deploy.Time, "?"))
		return err
	})
	q.serverFlags(cmd)
	q.serviceFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&d.Version, "version", "", "`version` that was deployed")
	f.StringVar(&d.Note, "note", "", "`text` that says what it was")
	f.StringVar(&at, "at", "", "`time` of it: RFC 3339, or now-5m (default: now)")
	return cmd
}
