package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/profile"
	quantrav1 "github.com/quantra-l/quantra/wire/quantra/v1"
)

// asking wraps a query command's work: the server's address is checked before.
func (q *question) asking(work func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := q.checkServer(); err != nil {
			return err
		}
		return work(cmd.Context(), args)
	}
}

// lines writes columns of text that line up.
func (a *app) lines(header string, rows func(line func(cells ...any))) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, header)
	rows(func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, c)
		}
		fmt.Fprintln(w)
	})
	return w.Flush()
}

// list writes one name a line, or a JSON array.
func (a *app) list(asJSON bool, names []string) error {
	if asJSON {
		return writeJSON(a.stdout, append([]string{}, names...))
	}
	for _, n := range names {
		if _, err := fmt.Fprintln(a.stdout, n); err != nil {
			return err
		}
	}
	return nil
}

type serviceJSON struct {
	Name      string    `json:"name"`
	Types     []string  `json:"types"`
	Versions  []string  `json:"versions"`
	Instances uint32    `json:"instances"`
	Profiles  uint32    `json:"profiles"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
}

func (a *app) queryServices() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "services",
		Short: "What sends profiles",
		Example: `  quantraband query services --since 24h
  quantraband query services --json | jq -r '.[].name'`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		r, err := q.timeRange(time.Now())
		if err != nil {
			return err
		}
		resp, err := q.client().Services(ctx, connect.NewRequest(&quantrav1.ServicesRequest{Range: r}))
		if err != nil {
			return q.serverError(err)
		}
		if q.asJSON {
			out := []serviceJSON{}
			for _, s := range resp.Msg.Services {
				out = append(out, serviceJSON{s.Name, s.ProfileTypes, append([]string{}, s.Versions...), s.Instances, s.Profiles,
					time.UnixMilli(s.FirstMs).UTC(), time.UnixMilli(s.LastMs).UTC()})
			}
			return writeJSON(a.stdout, out)
		}
		return a.lines("SERVICE\tVERSIONS\tINSTANCES\tPROFILES\tLAST", func(line func(...any)) {
			for _, s := range resp.Msg.Services {
				line(s.Name, cmp.Or(strings.Join(s.Versions, ", "), "-"), s.Instances, s.Profiles, time.UnixMilli(s.LastMs).Format(time.RFC3339))
			}
		})
	})
	q.flags(cmd)
	return cmd
}

func (a *app) queryLabels() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "labels [NAME]",
		Short: "The names of labels, or the values of one",
		Example: `  quantraband query labels
  quantraband query labels service_version --service checkout`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		matchers, err := q.selector()
		if err != nil {
			return err
		}
		r, err := q.timeRange(time.Now())
		if err != nil {
			return err
		}
		if len(args) == 0 {
			resp, err := q.client().LabelNames(ctx, connect.NewRequest(&quantrav1.LabelNamesRequest{Matchers: matchers, Range: r}))
			if err != nil {
				return q.serverError(err)
			}
			return a.list(q.asJSON, resp.Msg.Names)
		}
		resp, err := q.client().LabelValues(ctx, connect.NewRequest(&quantrav1.LabelValuesRequest{Name: args[0], Matchers: matchers, Range: r}))
		if err != nil {
			return q.serverError(err)
		}
		return a.list(q.asJSON, resp.Msg.Values)
	})
	q.seriesFlags(cmd)
	return cmd
}

func (a *app) queryTypes() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:     "types",
		Short:   "The types of profiles there are",
		Example: `  quantraband query types --service checkout`,
		Args:    cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		matchers, err := q.selector()
		if err != nil {
			return err
		}
		r, err := q.timeRange(time.Now())
		if err != nil {
			return err
		}
		resp, err := q.client().ProfileTypes(ctx, connect.NewRequest(&quantrav1.ProfileTypesRequest{Matchers: matchers, Range: r}))
		if err != nil {
			return q.serverError(err)
		}
		return a.list(q.asJSON, resp.Msg.ProfileTypes)
	})
	q.seriesFlags(cmd)
	return cmd
}

// warnMeta passes on the doubts of an answer.
func (a *app) warnMeta(m *quantrav1.Meta) {
	for _, w := range m.GetWarnings() {
		a.warn(w)
	}
}

// sampleOf is what the values of an answer measure.
func sampleOf(m *quantrav1.Meta) profile.ValueType {
	t, err := profile.ParseType(m.GetProfileType())
	if err != nil {
		return profile.ValueType{Type: m.GetProfileType(), Unit: m.GetUnit()}
	}
	return t.Sample
}

func (a *app) queryTop() *cobra.Command {
	var q question
	var n int
	cmd := &cobra.Command{
		Use:   "top",
		Short: "The functions that cost most",
		Example: `  quantraband query top --service checkout
  quantraband query top -s checkout -t alloc -n 10 --since 1h
  quantraband query top -m 'service_version="v2"' --focus 'json' --json`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		if n < 0 {
			return usagef("-n %d: it must not be negative", n)
		}
		c := q.client()
		sel, err := q.selection(ctx, c)
		if err != nil {
			return err
		}
		// All rows are asked for: the percentages of a table are of all of them.
		resp, err := c.Top(ctx, connect.NewRequest(&quantrav1.TopRequest{Selection: sel}))
		if err != nil {
			return q.serverError(err)
		}
		meta := resp.Msg.GetMeta()
		a.warnMeta(meta)
		var rows []profile.TopRow
		for _, r := range resp.Msg.Rows {
			rows = append(rows, profile.TopRow{Name: r.Name, File: r.File, Self: int64(r.Self), Total: int64(r.Total)})
		}
		t, total := sampleOf(meta), int64(meta.GetTotal())
		if q.asJSON {
			return writeJSON(a.stdout, newTable(t, total, rows, n))
		}
		return profile.WriteTop(a.stdout, rows, profile.TextOptions{Unit: t.Unit, Total: total, N: n})
	})
	q.sampleFlags(cmd)
	filterFlags(cmd, &q.filter)
	cmd.Flags().IntVarP(&n, "count", "n", 30, "rows to write, 0 for all")
	return cmd
}

func (a *app) queryFlame() *cobra.Command {
	var q question
	var d drawing
	cmd := &cobra.Command{
		Use:   "flame",
		Short: "Draw a flame graph, in the terminal or as SVG",
		Example: `  quantraband query flame --service checkout
  quantraband query flame -s checkout -t mutex --svg mutex.svg`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		c := q.client()
		sel, err := q.selection(ctx, c)
		if err != nil {
			return err
		}
		resp, err := c.FlameGraph(ctx, connect.NewRequest(&quantrav1.FlameGraphRequest{Selection: sel}))
		if err != nil {
			return q.serverError(err)
		}
		a.warnMeta(resp.Msg.Meta)
		if q.asJSON {
			return writeJSON(a.stdout, resp.Msg)
		}
		tree, err := treeOf(resp.Msg.GetTree())
		if err != nil {
			return fmt.Errorf("%s: %w", q.server, err)
		}
		t := sampleOf(resp.Msg.Meta)
		return a.draw(&d, tree, t, cmp.Or(q.service, "all services")+", "+t.Type)
	})
	q.sampleFlags(cmd)
	filterFlags(cmd, &q.filter)
	d.flags(cmd)
	return cmd
}

// treeOf is the tree of an answer. What it says is checked: a server is another program.
func treeOf(w *quantrav1.Tree) (*profile.Tree, error) {
	n := len(w.GetName())
	t := &profile.Tree{
		Names: append([]string{}, w.GetNames()...), Parent: make([]int32, n), Name: w.GetName(),
		Self: make([]int64, n), Total: make([]int64, n), LeftOut: int(w.GetLeftOut()), Other: -1,
	}
	t.Files = make([]string, len(t.Names))
	if n == 0 {
		return &profile.Tree{Names: []string{profile.RootName}, Files: []string{""}, Parent: []int32{0}, Name: []uint32{0},
			Self: []int64{0}, Total: []int64{0}, Other: -1}, nil
	}
	if len(w.Level) != n || len(w.Self) != n || len(w.Total) != n || w.Level[0] != 0 {
		return nil, errors.New("the answer's tree is not one: its columns differ in length")
	}
	if o := w.GetOther(); o > 0 && int(o) < len(t.Names) {
		t.Other = int32(o)
	}
	path := []int32{0}
	for i := range n {
		level := int(w.Level[i])
		if int(w.Name[i]) >= len(t.Names) || i > 0 && (level == 0 || level > len(path)) {
			return nil, fmt.Errorf("the answer's tree is not one: row %d is out of place", i)
		}
		if i > 0 {
			t.Parent[i] = path[level-1]
			path = append(path[:level], int32(i))
		}
		t.Self[i], t.Total[i] = int64(w.Self[i]), int64(w.Total[i])
	}
	return t, nil
}

type lineJSON struct {
	Labels map[string]string `json:"labels"`
	Points []pointJSON       `json:"points"`
}

type pointJSON struct {
	Time     time.Time `json:"time"`
	Value    float64   `json:"value"`
	Profiles uint32    `json:"profiles"`
}

func (a *app) querySeries() *cobra.Command {
	var q question
	var step time.Duration
	var groupBy []string
	cmd := &cobra.Command{
		Use:   "series",
		Short: "Values over time",
		Example: `  quantraband query series --service checkout --step 1m
  quantraband query series -s checkout -t alloc --by service_version --json`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		c := q.client()
		sel, err := q.selection(ctx, c)
		if err != nil {
			return err
		}
		resp, err := c.Series(ctx, connect.NewRequest(&quantrav1.SeriesRequest{Selection: sel, StepMs: step.Milliseconds(), GroupBy: groupBy}))
		if err != nil {
			return q.serverError(err)
		}
		for _, w := range resp.Msg.Warnings {
			a.warn(w)
		}
		t, err := profile.ParseType(sel.ProfileType)
		if err != nil {
			return fmt.Errorf("%s: %w", q.server, err)
		}
		return a.writeSeries(resp.Msg, t.Sample, q.asJSON)
	})
	q.sampleFlags(cmd)
	cmd.Flags().DurationVar(&step, "step", 0, "time between points (default: the server chooses)")
	cmd.Flags().StringSliceVar(&groupBy, "by", nil, "`labels` to group by, with commas between")
	return cmd
}

func (a *app) writeSeries(resp *quantrav1.SeriesResponse, t profile.ValueType, asJSON bool) error {
	out := []lineJSON{}
	for _, l := range resp.Lines {
		line := lineJSON{Labels: map[string]string{}, Points: []pointJSON{}}
		for _, lb := range l.Labels {
			line.Labels[lb.Name] = lb.Value
		}
		for i := range min(len(l.TMs), len(l.Value), len(l.Profiles)) {
			line.Points = append(line.Points, pointJSON{time.UnixMilli(int64(l.TMs[i])).UTC(), l.Value[i], l.Profiles[i]})
		}
		out = append(out, line)
	}
	if asJSON {
		return writeJSON(a.stdout, struct {
			Type  string     `json:"type"`
			Unit  string     `json:"unit"`
			Step  float64    `json:"stepSeconds"`
			Lines []lineJSON `json:"lines"`
		}{t.Type, t.Unit, float64(resp.StepMs) / 1000, out})
	}
	return a.lines("TIME\tVALUE\tPROFILES\tLABELS", func(line func(...any)) {
		for i, l := range resp.Lines {
			var labels profile.Labels
			for _, lb := range l.Labels {
				labels = append(labels, profile.Label{Name: lb.Name, Value: lb.Value})
			}
			for _, p := range out[i].Points {
				line(p.Time.Local().Format(time.RFC3339), profile.FormatValue(int64(p.Value), t.Unit), p.Profiles, labels)
			}
		}
	})
}

func (a *app) queryExport() *cobra.Command {
	var q question
	var format, out string
	cmd := &cobra.Command{
		Use:   "export -o OUT",
		Short: "Write what matches as one profile: pprof, folded, speedscope, svg or top",
		Example: `  quantraband query export --service checkout -o checkout.pb.gz
  quantraband query export -s checkout -t heap --since 1h --format svg -o heap.svg`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		i, err := formatFor(format, cmp.Or(out, "-.pprof"))
		if err != nil {
			return err
		}
		sel, err := q.selection(ctx, q.client())
		if err != nil {
			return err
		}
		body, err := q.export(ctx, formats[i].name, sel)
		if err != nil {
			return err
		}
		defer body.Close()
		return a.emit(out, formats[i].binary, func(w io.Writer) error {
			_, err := io.Copy(w, body)
			return err
		})
	})
	q.sampleFlags(cmd)
	filterFlags(cmd, &q.filter)
	cmd.Flags().StringVar(&format, "format", "", "`format`: "+formatNames()+" (default: from the name of the output, else pprof)")
	cmd.Flags().StringVarP(&out, "output", "o", "", "write to `file` (default: standard output)")
	cmd.Flags().MarkHidden("json")
	return cmd
}

// export asks for the download that the dashboard offers too.
func (q *question) export(ctx context.Context, format string, sel *quantrav1.Selection) (io.ReadCloser, error) {
	v := url.Values{"format": {format}, "profile_type": {sel.ProfileType}}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("matchers", sel.Matchers)
	for name, ms := range map[string]int64{"from": sel.Range.FromMs, "to": sel.Range.ToMs} {
		if ms != 0 {
			v.Set(name, strconv.FormatInt(ms, 10))
		}
	}
	f := q.filter
	set("focus", f.Focus)
	set("ignore", f.Ignore)
	set("hide", f.Hide)
	set("show", f.Show)
	set("show_from", f.ShowFrom)
	set("tag_focus", f.TagFocus)
	set("tag_ignore", f.TagIgnore)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, q.server+"/api/v1/export?"+v.Encode(), nil)
	if err != nil {
		return nil, usagef("%w", err)
	}
	resp, err := q.http().Do(req)
	if err != nil {
		return nil, q.serverError(err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000)) // only adds to an error we have
		return nil, fmt.Errorf("%s: the server answers %s: %s", q.server, resp.Status, strings.TrimSpace(string(text)))
	}
	return resp.Body, nil
}
