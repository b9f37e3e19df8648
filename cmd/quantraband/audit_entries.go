package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/zerotrust/audit"
)

// auditFilter chooses entries.
type auditFilter struct {
	since    age
	from     int64
	resource string
	by       string
	denied   bool
	who      string // the pseudonym of by
}

func (f *auditFilter) flags(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.Var(&f.since, "since", "only entries of the last while, as 24h or 7d; 0 is all")
	fl.Int64Var(&f.from, "from", 0, "only entries from this `index` on")
	fl.StringVar(&f.resource, "resource", "", "only entries about this `path`, or about what is under it: changes, profiles/raw")
	fl.StringVar(&f.by, "by", "", "only entries by this `name`, or by its pseudonym")
	fl.BoolVar(&f.denied, "denied", false, "only what was refused")
}

// common is what entries have in common.
type common struct {
	Time      time.Time `json:"time"`
	Log       string    `json:"log"`
	Resource  string    `json:"resource"`
	Action    string    `json:"action"`
	Act       string    `json:"act"`
	Principal string    `json:"principal"`
	Actor     string    `json:"actor"`
	Target    string    `json:"target"`
	Reason    string    `json:"reason"`
	Note      string    `json:"note"`
	Count     uint64    `json:"count"`
	Allowed   *bool     `json:"allowed"`
}

// takes says that an entry is wanted.
func (f *auditFilter) takes(c *common, now time.Time) bool {
	under := func() bool {
		rest, ok := strings.CutPrefix(c.Resource, strings.TrimSuffix(f.resource, "/"))
		return ok && (rest == "" || rest[0] == '/')
	}
	who := c.Principal
	if who == "" {
		who = c.Actor
	}
	return (f.since == 0 || !c.Time.Before(now.Add(-time.Duration(f.since)))) && (f.resource == "" || under()) &&
		(f.by == "" || who == f.by || who == f.who) && (!f.denied || c.Allowed != nil && !*c.Allowed)
}

// each gives the entries of a log that a filter wants, from an index on.
func (f *auditFilter) each(ctx context.Context, v *audit.View, from audit.Index, do func(audit.Record, *common) error) error {
	now := time.Now()
	for r, err := range v.Entries(ctx, max(from, audit.Index(f.from), 0)) {
		if err != nil {
			return auditError(err)
		}
		var c common
		_ = json.Unmarshal(r.Entry, &c) // an entry of another form has no fields that a filter could want
		if !f.takes(&c, now) {
			continue
		}
		if err := do(r, &c); err != nil {
			return err
		}
	}
	return nil
}

// prepare finds the pseudonym of --by, if the key is there.
func (f *auditFilter) prepare(q *auditQuestion) {
	if f.by != "" {
		if names, err := q.pseudonyms(""); err == nil {
			f.who = names.Of(f.by)
		}
	}
}

func (a *app) auditExport() *cobra.Command {
	var q auditQuestion
	var f auditFilter
	var out string
	cmd := &cobra.Command{
		Use:   "export [DIR]",
		Short: "Entries as JSON lines, each with its index",
		Long:  `Write entries as lines of JSON: {"index":N,"entry":{...}}. Each is held to the log's tree before it is written.`,
		Example: `  quantraband audit export -o audit.jsonl
  quantraband audit export --since 7d --denied`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := q.view(args)
			if err != nil {
				return err
			}
			f.prepare(&q)
			return a.emit(out, false, func(w io.Writer) error {
				return f.each(cmd.Context(), v, 0, func(r audit.Record, _ *common) error { return writeEntry(w, r) })
			})
		},
	}
	q.keyFlag(cmd)
	q.trustFlag(cmd)
	f.flags(cmd)
	cmd.Flags().StringVarP(&out, "output", "o", "", "`file` to write to (default: standard output)")
	return cmd
}

func writeEntry(w io.Writer, r audit.Record) error {
	_, err := fmt.Fprintf(w, "{\"index\":%d,\"entry\":%s}\n", r.Index, escaped(r.Entry))
	return err
}

// escaped is JSON in one line, with what could steer a terminal in its strings as \u escapes: it says the same.
func escaped(entry []byte) []byte {
	var b bytes.Buffer
	if json.Compact(&b, entry) != nil {
		b.Reset()
		fmt.Fprintf(&b, "%q", printable(string(entry))) // an entry of another program
	}
	var out []byte
	for _, r := range b.String() {
		if steers(r) {
			out = fmt.Appendf(out, "\\u%04x", r)
		} else {
			out = utf8.AppendRune(out, r)
		}
	}
	return out
}

func (a *app) auditTail() *cobra.Command {
	var q auditQuestion
	var f auditFilter
	var follow, asJSON bool
	lines := 20
	cmd := &cobra.Command{
		Use:   "tail [DIR]",
		Short: "The last entries, one a line; with -f also those that come",
		Long:  `Write the last entries, in a form for people or as JSON lines, and go on with those that come until it is interrupted.`,
		Example: `  quantraband audit tail
  quantraband audit tail -f --denied
  quantraband audit tail --resource changes/checkout --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if lines < 0 || lines > maxTail {
				return usagef("-n %d: it must be 0 to %d", lines, maxTail)
			}
			f.prepare(&q)
			return a.tail(cmd.Context(), &q, &f, args, lines, follow, asJSON)
		},
	}
	q.keyFlag(cmd)
	q.trustFlag(cmd)
	f.flags(cmd)
	fl := cmd.Flags()
	fl.BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	fl.IntVarP(&lines, "lines", "n", lines, "how many of those that are there")
	fl.BoolVar(&asJSON, "json", false, "as JSON lines, as audit export writes them")
	return cmd
}

const (
	maxTail   = 100_000
	tailEvery = 500 * time.Millisecond // how often tail -f looks
)

func (a *app) tail(ctx context.Context, q *auditQuestion, f *auditFilter, args []string, lines int, follow, asJSON bool) error {
	write := func(r audit.Record, c *common) error {
		if asJSON {
			return writeEntry(a.stdout, r)
		}
		_, err := fmt.Fprintln(a.stdout, entryText(r, c))
		return err
	}
	v, err := q.view(args)
	if err != nil {
		return err
	}
	if !v.Trusted() {
		a.warn("no key was given, so the log was held to the key that it names itself; give --key")
	}
	type kept struct {
		r audit.Record
		c *common
	}
	var last []kept
	// The end of a large log is read first: where no filter leaves anything out that is enough.
	from := audit.Index(0)
	if n := v.Size(); f.resource == "" && f.by == "" && !f.denied && n > audit.Index(lines) {
		from = n - audit.Index(lines)
	}
	err = f.each(ctx, v, from, func(r audit.Record, c *common) error {
		if last = append(last, kept{r, c}); len(last) > 2*lines+16 {
			last = append(last[:0], last[len(last)-lines:]...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range last[max(0, len(last)-lines):] {
		if err := write(k.r, k.c); err != nil {
			return err
		}
	}
	at := v.Size()
	for follow && pauseFor(ctx, tailEvery) {
		if v, err = q.view(args); err != nil {
			return err
		}
		if err := f.each(ctx, v, at, write); err != nil {
			return err
		}
		at = max(at, v.Size())
	}
	return nil
}

// entryText is an entry for people, in one line that cannot steer a terminal.
func entryText(r audit.Record, c *common) string {
	text := fmt.Sprintf("%d  %s", r.Index, c.Time.Local().Format(time.DateTime))
	add := func(format string, args ...any) { text += "  " + printable(fmt.Sprintf(format, args...)) }
	switch {
	case c.Log == "dropped":
		add("%d events were not recorded", c.Count)
	case c.Log != "":
		add("log: %s", c.Log)
	}
	if c.Allowed != nil {
		add("%s", map[bool]string{true: "allowed", false: "DENIED"}[*c.Allowed])
	}
	for _, s := range []string{c.Action, c.Act, c.Resource, c.Target, c.Principal, c.Actor, c.Reason, c.Note} {
		if s != "" {
			add("%s", s)
		}
	}
	if c.Time.IsZero() {
		add("%.200s", r.Entry)
	}
	return text
}

// steers says that a character could do something to a terminal, or to the order of what is read.
func steers(r rune) bool {
	return r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff
}
