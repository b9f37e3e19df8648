package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/profile"
)

const profileInputsHelp = `FILE is a pprof profile, folded stacks, the text of "perf script", speedscope's,
V8's .cpuprofile, a trace of Chrome's or a recording of Java's Flight Recorder,
raw, gzip or zstd; - is standard input, and an http:// or https:// address is
fetched. Several files are summed.`

// selection is what the profile commands share: which values of which samples.
type selection struct {
	in         input
	sampleType string
	filter     profile.Filter
}

func (s *selection) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&s.sampleType, "type", "t", "", "sample `type` to show, as cpu or alloc_space (default: the profile's own)")
	f.DurationVar(&s.in.timeout, "timeout", time.Minute, "how long to wait for an http address")
	filterFlags(cmd, &s.filter)
}

// filterFlags are pprof's filters under pprof's names.
func filterFlags(cmd *cobra.Command, filter *profile.Filter) {
	f := cmd.Flags()
	f.StringVar(&filter.Focus, "focus", "", "keep samples with a frame that matches `regexp`")
	f.StringVar(&filter.Ignore, "ignore", "", "drop samples with a frame that matches `regexp`")
	f.StringVar(&filter.Hide, "hide", "", "drop frames that match `regexp`, keep the samples")
	f.StringVar(&filter.Show, "show", "", "keep only frames that match `regexp`")
	f.StringVar(&filter.ShowFrom, "show-from", "", "drop the callers of the outermost frame that matches `regexp`")
	f.StringVar(&filter.TagFocus, "tagfocus", "", "keep samples with a label that matches, as `key=regexp`")
	f.StringVar(&filter.TagIgnore, "tagignore", "", "drop samples with a label that matches, as `key=regexp`")
}

// one is one column of one profile, ready to be drawn.
type one struct {
	p   *profile.Profile
	col int
}

func (o one) sample() profile.ValueType { return o.p.SampleTypes[o.col] }

// load reads and sums the files and applies the selection.
func (a *app) load(ctx context.Context, s *selection, names []string) (one, error) {
	p, err := a.readAll(ctx, &s.in, names)
	if err != nil {
		return one{}, err
	}
	return a.choose(p, s, strings.Join(names, " "))
}

// choose picks the column and filters.
func (a *app) choose(p *profile.Profile, s *selection, name string) (one, error) {
	col := p.Column(s.sampleType)
	if col < 0 {
		if len(p.SampleTypes) == 0 {
			return one{}, corruptf("%s: the profile has no sample types", name)
		}
		return one{}, usagef("%s has no sample type %q; it has %s", name, s.sampleType, sampleTypes(p))
	}
	p, warnings, err := p.Filter(s.filter)
	if err != nil {
		return one{}, usagef("%w", err)
	}
	for _, w := range warnings {
		a.warn(w)
	}
	return one{p, col}, nil
}

// warn says what may mislead, beside an answer.
func (a *app) warn(text string) {
	fmt.Fprintf(a.stderr, "quantraband: warning: %s\n", oneLine(text))
}

func sampleTypes(p *profile.Profile) string {
	var names []string
	for _, t := range p.SampleTypes {
		names = append(names, t.Type)
	}
	return strings.Join(names, ", ")
}

// readAll is the sum of the files. It has the sample types of the first, which
// all others must have.
func (a *app) readAll(ctx context.Context, in *input, names []string) (*profile.Profile, error) {
	if len(names) == 1 {
		return a.read(ctx, in, names[0])
	}
	var merger *profile.Merger
	var types []profile.ValueType
	for _, name := range names {
		p, err := a.read(ctx, in, name)
		if err != nil {
			return nil, err
		}
		if merger == nil {
			types = p.SampleTypes
			merger = profile.NewMerger(types...)
		}
		if err := merger.Add(p, 1); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if !slices.Equal(types, p.SampleTypes) {
			a.warn(fmt.Sprintf("%s has other sample types than %s; only those of %[2]s are summed", name, names[0]))
		}
	}
	return merger.Profile(), nil
}

func (a *app) profileCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "profile",
		GroupID: "main",
		Short:   "Look at profile files: top, flame, tree, diff, merge, convert",
		Long: `Look at profile files. No server is needed.

` + profileInputsHelp,
		Example: `  quantraband profile top cpu.pb.gz
  quantraband profile flame --svg cpu.svg cpu.pb.gz
  quantraband profile diff before.pb.gz after.pb.gz
  curl -s localhost:6060/debug/pprof/heap | quantraband profile top -t inuse_space -`,
	}, a.topCommand(), a.flameCommand(), a.treeCommand(), a.diffCommand(), a.mergeCommand(), a.convertCommand())
}

// table is a table as JSON.
type table struct {
	Type  string           `json:"type"`
	Unit  string           `json:"unit"`
	Total int64            `json:"total"`
	Base  *int64           `json:"baseTotal,omitempty"`
	Count int              `json:"functions"` // all there are, also where rows are fewer
	Rows  []profile.TopRow `json:"rows"`
}

func newTable(t profile.ValueType, total int64, rows []profile.TopRow, n int) table {
	out := table{Type: t.Type, Unit: t.Unit, Total: total, Count: len(rows), Rows: rows}
	if n > 0 && len(rows) > n {
		out.Rows = rows[:n]
	}
	if out.Rows == nil {
		out.Rows = []profile.TopRow{}
	}
	return out
}

// byTotal orders rows by their total instead of by their self.
func byTotal(rows []profile.TopRow) {
	slices.SortStableFunc(rows, func(a, b profile.TopRow) int {
		return cmp.Compare(abs(b.Total), abs(a.Total))
	})
}

func abs(v int64) int64 { return max(v, -v) }

func (a *app) topCommand() *cobra.Command {
	var s selection
	var n int
	var cum, asJSON bool
	cmd := &cobra.Command{
		Use:   "top FILE...",
		Short: "The functions that cost most",
		Long: `Write a table of the functions that cost most, as "go tool pprof -top" does:
flat is what a function spent itself, cum what it and all it called spent.

` + profileInputsHelp,
		Example: `  quantraband profile top cpu.pb.gz
  quantraband profile top -n 10 --cum --focus 'encoding/json' cpu.pb.gz
  quantraband profile top --json heap.pb.gz | jq '.rows[0].name'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := a.load(cmd.Context(), &s, args)
			if err != nil {
				return err
			}
			rows, total := profile.Top(o.p, o.col), o.p.Total(o.col)
			if cum {
				byTotal(rows)
			}
			if asJSON {
				return writeJSON(a.stdout, newTable(o.sample(), total, rows, n))
			}
			return profile.WriteTop(a.stdout, rows, profile.TextOptions{Unit: o.sample().Unit, Total: total, N: n})
		},
	}
	s.flags(cmd)
	cmd.Flags().IntVarP(&n, "count", "n", 30, "rows to write, 0 for all")
	cmd.Flags().BoolVar(&cum, "cum", false, "order by cum instead of by flat")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

func (a *app) treeCommand() *cobra.Command {
	var s selection
	var n int
	cmd := &cobra.Command{
		Use:   "tree FILE...",
		Short: "Who calls whom, as text",
		Long: `Write each costly function with its callers above it and what it calls below,
as "go tool pprof -tree" does.

` + profileInputsHelp,
		Example: `  quantraband profile tree cpu.pb.gz
  quantraband profile tree -n 5 --focus 'compress/flate' cpu.pb.gz`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := a.load(cmd.Context(), &s, args)
			if err != nil {
				return err
			}
			return profile.WriteTree(a.stdout, profile.NewTree(o.p, o.col), profile.TextOptions{Unit: o.sample().Unit, N: n})
		},
	}
	s.flags(cmd)
	cmd.Flags().IntVarP(&n, "count", "n", 30, "functions to write, 0 for all")
	return cmd
}

func (a *app) mergeCommand() *cobra.Command {
	var out string
	in := input{}
	cmd := &cobra.Command{
		Use:   "merge -o OUT FILE...",
		Short: "Sum profiles into one",
		Long: `Sum profiles into one pprof file, which "go tool pprof" reads too.

` + profileInputsHelp,
		Example: `  quantraband profile merge -o all.pb.gz host1.pb.gz host2.pb.gz
  quantraband profile merge *.pb.gz > all.pb.gz`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := a.readAll(cmd.Context(), &in, args)
			if err != nil {
				return err
			}
			return a.emit(out, true, p.Encode)
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "write to `file` (default: standard output)")
	cmd.Flags().DurationVar(&in.timeout, "timeout", time.Minute, "how long to wait for an http address")
	return cmd
}
