package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/analyze/price"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/bucket"
	quantrav1 "github.com/quantra-l/quantra/wire/quantra/v1"
	"github.com/quantra-l/quantra/wire/quantra/v1/quantrav1connect"
)

type costOptions struct {
	q      question
	prices string
	check  string
	store  storeOptions
	kept   bool // the store was named
	count  int
	self   bool
}

func (a *app) costCommand() *cobra.Command {
	var o costOptions
	cmd := &cobra.Command{
		Use:     "cost",
		GroupID: "main",
		Short:   "What services and their functions cost a month, and what profiling does",
		Long: `Show how many cores each service keeps busy, and what that costs a month, by the processor time in its profiles; with
--service the same of its functions. Below is what profiling itself costs: the server's processor time, what agents send it, and
what is kept, where --data, --bucket or --clickhouse says where that is.

Prices are of a price file, or the built-in list prices; docs/price.md has the file's format and what amounts mean.
--check reads a price file and shows what it says, and asks no server.`,
		Example: `  quantraband cost --since 24h
  quantraband cost -s checkout --price prices.yaml -n 10
  quantraband cost --check prices.yaml`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.count < 0 {
			return usagef("-n %d: it must not be negative", o.count)
		}
		if o.check != "" {
			return a.checkPrices(o.check)
		}
		if err := o.q.checkServer(); err != nil {
			return err
		}
		for _, name := range []string{"data", "bucket", "clickhouse"} {
			o.kept = o.kept || cmd.Flags().Changed(name)
		}
		return a.cost(cmd.Context(), &o)
	}
	o.q.seriesFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.prices, "price", "", "price `file` (default: built-in list prices)")
	f.StringVar(&o.check, "check", "", "read a price `file`, say what is wrong in it, or what it says")
	f.IntVarP(&o.count, "count", "n", 30, "rows to write, 0 for all")
	f.BoolVar(&o.self, "self", false, "order functions by what they cost themselves, not with what they call")
	f.StringVar(&o.store.data, "data", "", "the server's data `folder`, to count what is kept")
	o.store.place.placeFlags(cmd)
	o.store.place.clickhouseFlag(cmd)
	return cmd
}

// checkPrices says what a price file says.
func (a *app) checkPrices(name string) error {
	p, err := readPrices(name)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(a.stdout, "%s is a price file: %s, %v hours a month, %d rules\n", name, p.Currency, p.HoursAMonth, len(p.Rules)); err != nil {
		return err
	}
	return a.lines("REGION\tMACHINE\tSPOT\tCORE-HOUR\tGIB-HOUR\tCORE A MONTH", func(line func(...any)) {
		for _, r := range p.Rules {
			spot := "-"
			if r.Spot != nil {
				spot = fmt.Sprint(*r.Spot)
			}
			line(cmp.Or(r.Region, "-"), cmp.Or(r.Machine, "-"), spot, r.CoreHour, r.GiBHour, fmt.Sprintf("%.2f", r.CoreHour*p.HoursAMonth))
		}
		line("any other", "", "", p.Default.CoreHour, p.Default.GiBHour, fmt.Sprintf("%.2f", p.Default.CoreHour*p.HoursAMonth))
	})
}

// costRow is a service, or a function of one.
type costRow struct {
	Name      string        `json:"name"`
	Cores     float64       `json:"cores"`
	SelfCores float64       `json:"self_cores,omitempty"` // of a function
	Hours     float64       `json:"core_hours_a_month"`
	Instances int           `json:"instances,omitempty"` // of a service
	Share     float64       `json:"share,omitempty"`     // of its service, for a function
	Price     analyze.Money `json:"price"`
}

type costReport struct {
	Rows     []costRow `json:"rows"`
	Sum      *costRow  `json:"sum,omitempty"`
	Own      costOwn   `json:"profiling"`
	Warnings []string  `json:"warnings,omitempty"`
}

// costOwn is what profiling costs.
type costOwn struct {
	Server  analyze.Money  `json:"server"`
	Network analyze.Money  `json:"network"`
	Storage *analyze.Money `json:"storage,omitempty"` // nil where it was not said where that is
	Cores   float64        `json:"server_cores"`
	Sent    float64        `json:"bytes_a_second"`
	Kept    float64        `json:"bytes_kept,omitempty"`
}

func (a *app) cost(ctx context.Context, o *costOptions) error {
	prices, err := readPrices(o.prices)
	if err != nil {
		return err
	}
	r := costReport{Rows: []costRow{}}
	if o.q.service != "" {
		err = o.functions(ctx, prices, &r)
	} else {
		err = o.services(ctx, prices, &r)
	}
	if err != nil {
		return err
	}
	if err := a.ownCost(ctx, o, prices, &r); err != nil {
		return err
	}
	for _, w := range r.Warnings {
		a.warn(w)
	}
	more := 0
	if o.count > 0 && len(r.Rows) > o.count {
		r.Rows, more = r.Rows[:o.count], len(r.Rows)-o.count
	}
	if o.q.asJSON {
		return writeJSON(a.stdout, r)
	}
	return a.writeCost(o, &r, more)
}

func (a *app) writeCost(o *costOptions, r *costReport, more int) error {
	header := "SERVICE\tINSTANCES\tCORES\tCORE-HOURS/MONTH\tCOST/MONTH"
	if o.q.service != "" {
		header = "SHARE\tCORES\tSELF\tCORE-HOURS/MONTH\tCOST/MONTH\tFUNCTION"
	}
	basis := ""
	if err := a.lines(header, func(line func(...any)) {
		for _, row := range r.Rows {
			basis = cmp.Or(basis, row.Price.Basis)
			hours, amount := fmt.Sprintf("%.1f", row.Hours), fmt.Sprintf("%.2f %s", row.Price.Amount, row.Price.Currency)
			if o.q.service != "" {
				line(analyze.Percent(row.Share), fmt.Sprintf("%.4f", row.Cores), fmt.Sprintf("%.4f", row.SelfCores), hours, amount, printable(row.Name))
			} else {
				line(printable(row.Name), row.Instances, fmt.Sprintf("%.4f", row.Cores), hours, amount)
			}
		}
	}); err != nil {
		return err
	}
	if more > 0 {
		fmt.Fprintf(a.stdout, "and %d more; -n shows them\n", more)
	}
	if r.Sum != nil {
		fmt.Fprintf(a.stdout, "all: %.4f cores, %.1f core-hours and %.2f %s a month\n", r.Sum.Cores, r.Sum.Hours, r.Sum.Price.Amount, r.Sum.Price.Currency)
	}
	if basis != "" {
		fmt.Fprintf(a.stdout, "%s\n", basis)
	}
	kept := "not counted; --data or --bucket says where it is"
	if s := r.Own.Storage; s != nil {
		kept = fmt.Sprintf("%s, %.4f %s", sizeText(int64(r.Own.Kept)), s.Amount, s.Currency)
	}
	_, err := fmt.Fprintf(a.stdout, "\nprofiling itself, a month: the server %.2f %s (%.4f cores), network %.4f %s (%s a second), kept: %s\n",
		r.Own.Server.Amount, r.Own.Server.Currency, r.Own.Cores, r.Own.Network.Amount, r.Own.Network.Currency, sizeText(int64(r.Own.Sent)), kept)
	return err
}

// busy is what a selection of processor time keeps busy: its cores, over the time from its first profile to its last, and its machines.
type busy struct {
	cores    float64
	seconds  float64
	machines []profile.Labels
	top      *quantrav1.TopResponse
	unit     float64 // seconds
}

// cpuOf asks for the processor time of one service; limit as in TopRequest.
func (o *costOptions) cpuOf(ctx context.Context, c quantrav1connect.QuerierServiceClient, service string, limit uint32) (*busy, error) {
	q := o.q
	q.service, q.sampleType = service, "cpu"
	sel, err := q.selection(ctx, c)
	if err != nil {
		return nil, err
	}
	t, err := profile.ParseType(sel.ProfileType)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", q.server, err)
	}
	b := &busy{}
	switch t.Sample.Unit {
	case "nanoseconds":
		b.unit = 1e-9
	case "microseconds":
		b.unit = 1e-6
	default:
		return nil, fmt.Errorf("%s: %s is measured in %s, which is no time: it cannot be priced", q.server, service, t.Sample.Unit)
	}
	resp, err := c.Top(ctx, connect.NewRequest(&quantrav1.TopRequest{Selection: sel, Limit: limit}))
	if err != nil {
		return nil, q.serverError(err)
	}
	sets, err := c.LabelSets(ctx, connect.NewRequest(&quantrav1.LabelSetsRequest{Matchers: sel.Matchers, Range: sel.Range}))
	if err != nil {
		return nil, q.serverError(err)
	}
	seen := map[string]bool{}
	for _, s := range sets.Msg.Sets {
		if s.ProfileType != sel.ProfileType {
			continue
		}
		if l := labelsOf(s.Labels); !seen[l.String()] {
			seen[l.String()] = true
			b.machines = append(b.machines, l)
		}
	}
	meta := resp.Msg.GetMeta()
	b.top = resp.Msg
	if b.seconds = float64(meta.GetRange().GetToMs()-meta.GetRange().GetFromMs()) / 1000; b.seconds <= 0 {
		return nil, fmt.Errorf("%s: the profiles of %s cover no time", q.server, service)
	}
	b.cores = meta.GetTotal() * b.unit / b.seconds
	return b, nil
}

func exactly(v float64) analyze.Estimate { return analyze.Estimate{Value: v, Low: v, High: v} }

// services is a row for each service.
func (o *costOptions) services(ctx context.Context, prices *price.File, r *costReport) error {
	tr, err := o.q.timeRange(time.Now())
	if err != nil {
		return err
	}
	c := o.q.client()
	resp, err := c.Services(ctx, connect.NewRequest(&quantrav1.ServicesRequest{Range: tr}))
	if err != nil {
		return o.q.serverError(err)
	}
	sum := costRow{Name: "all", Price: prices.Cores(analyze.Estimate{})}
	for _, s := range resp.Msg.Services {
		if _, err := chooseType("cpu", s.ProfileTypes); err != nil {
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s sends no processor time and is not in the table", s.Name))
			continue
		}
		b, err := o.cpuOf(ctx, c, s.Name, 1)
		if err != nil {
			return err
		}
		row := costRow{Name: s.Name, Cores: b.cores, Hours: prices.CoreHours(b.cores), Instances: int(s.Instances), Price: prices.Cores(exactly(b.cores), b.machines...)}
		r.Rows = append(r.Rows, row)
		sum.Cores, sum.Hours = sum.Cores+row.Cores, sum.Hours+row.Hours
		sum.Price.Amount += row.Price.Amount
	}
	sum.Price.Low, sum.Price.High = sum.Price.Amount, sum.Price.Amount
	r.Sum = &sum
	slices.SortStableFunc(r.Rows, func(x, y costRow) int { return cmp.Compare(y.Price.Amount, x.Price.Amount) })
	return nil
}

// functions is a row for each function of the service.
func (o *costOptions) functions(ctx context.Context, prices *price.File, r *costReport) error {
	b, err := o.cpuOf(ctx, o.q.client(), o.q.service, 0)
	if err != nil {
		return err
	}
	r.Warnings = append(r.Warnings, b.top.GetMeta().GetWarnings()...)
	for _, f := range b.top.Rows {
		cores := f.Total * b.unit / b.seconds
		r.Rows = append(r.Rows, costRow{Name: f.Name, Cores: cores, SelfCores: f.Self * b.unit / b.seconds, Hours: prices.CoreHours(cores), Share: f.Total / b.top.GetMeta().GetTotal(),
			Price: prices.Cores(exactly(cores), b.machines...)})
	}
	slices.SortStableFunc(r.Rows, func(x, y costRow) int {
		if o.self {
			return cmp.Or(cmp.Compare(y.SelfCores, x.SelfCores), cmp.Compare(x.Name, y.Name))
		}
		return cmp.Or(cmp.Compare(y.Cores, x.Cores), cmp.Compare(x.Name, y.Name))
	})
	r.Sum = &costRow{Name: o.q.service, Cores: b.cores, Hours: prices.CoreHours(b.cores), Price: prices.Cores(exactly(b.cores), b.machines...)}
	return nil
}

// ownCost is what profiling costs, from the server's own figures since it started, and from what is kept.
func (a *app) ownCost(ctx context.Context, o *costOptions, prices *price.File, r *costReport) error {
	mctx, cancel := context.WithTimeout(ctx, o.q.timeout)
	defer cancel()
	m, err := serverMetrics(mctx, o.q.server)
	if err != nil {
		return o.q.serverError(err)
	}
	var u price.Usage
	for name, v := range m {
		if strings.HasPrefix(name, "quantra_ingest_bytes_total") {
			u.SentBytes += v
		}
	}
	if start, ok := m["process_start_time_seconds"]; ok {
		u.Seconds = float64(time.Now().UnixNano())/1e9 - start
		u.Cores = m["process_cpu_seconds_total"] / u.Seconds
	} else {
		r.Warnings = append(r.Warnings, "the server does not say since when it runs: what profiling costs is not known but for what is kept")
	}
	if o.kept {
		if err := a.backendBeside(ctx, &o.store, func(of store.Backend) error {
			all, err := of.Usage(ctx)
			for _, x := range all {
				if x.Class == string(bucket.Archive) {
					u.ArchivedBytes += float64(x.Bytes)
				} else {
					u.StoredBytes += float64(x.Bytes)
				}
			}
			return err
		}); err != nil {
			return err
		}
	}
	own := prices.Profiling(u)
	r.Own = costOwn{Server: own.Server, Network: own.Network, Cores: u.Cores, Kept: u.StoredBytes + u.ArchivedBytes}
	if u.Seconds > 0 {
		r.Own.Sent = u.SentBytes / u.Seconds
	}
	if o.kept {
		r.Own.Storage = &own.Storage
	}
	return nil
}
