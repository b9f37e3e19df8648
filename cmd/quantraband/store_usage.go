package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/blocks"
	"github.com/quantra-l/quantra/store/bucket"
	"github.com/quantra-l/quantra/store/clickhouse"
)

// usageBy are what bytes can be told apart by, in the order of the columns.
var usageBy = []string{"tenant", "service", "type", "age", "class"}

// ages are the groups of --by age: up to so many days.
var ages = []struct {
	days int
	name string
}{{1, "1 day"}, {7, "7 days"}, {30, "30 days"}, {1 << 20, "older"}}

type prices struct{ standard, archive float64 }

func (a *app) storeUsage() *cobra.Command {
	var o storeOptions
	var by []string
	var p prices
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Whose bytes these are, how old, and what they cost",
		Long: `Show what the bucket has, by tenant, service, type of profile, age and storage class, the largest
first, with what it costs a month. A block belongs to those in it by their samples, about. Replaced and deleted
blocks count until their bytes are gone. What is in a server's log, or waits for the bucket, is not in it.

The default prices are Amazon S3's for Standard and Glacier Instant Retrieval in us-east-1, in
dollars a GiB and month, without requests.`,
		Example: `  quantraband store usage
  quantraband store usage --by service,type --json
  quantraband store usage --by age --price 0.020 --archive-price 0.0012`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, b := range by {
				if !slices.Contains(usageBy, b) {
					return usagef("--by %s: it must be some of %s", b, strings.Join(usageBy, ","))
				}
			}
			if p.standard < 0 || p.archive < 0 {
				return usagef("a price must not be less than 0")
			}
			return a.usage(cmd.Context(), &o, by, p)
		},
	}
	o.flags(cmd)
	o.place.clickhouseFlag(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&by, "by", []string{"service"}, "what to tell apart: some of `"+strings.Join(usageBy, ",")+"`")
	f.Float64Var(&p.standard, "price", 0.023, "`dollars` for a GiB and month")
	f.Float64Var(&p.archive, "archive-price", 0.004, "`dollars` for a GiB and month in the archive class")
	return cmd
}

// usageRow is a group of bytes. Of what was not asked the fields are empty.
type usageRow struct {
	Tenant   string  `json:"tenant,omitempty"`
	Service  string  `json:"service,omitempty"`
	Type     string  `json:"type,omitempty"`
	Age      string  `json:"age,omitempty"` // at most
	Class    string  `json:"class,omitempty"`
	Profiles float64 `json:"profiles"`
	Bytes    int64   `json:"bytes"`
	Cost     float64 `json:"dollars_a_month"`
}

func (a *app) usage(ctx context.Context, o *storeOptions, by []string, p prices) error {
	return a.backendBeside(ctx, o, func(of store.Backend) error {
		all, err := of.Usage(ctx)
		if err != nil {
			return err
		}
		rows, sum := groupUsage(all, by, p, time.Now())
		if o.asJSON {
			return writeJSON(a.stdout, struct {
				Rows []usageRow `json:"rows"`
				Sum  usageRow   `json:"sum"`
			}{rows, sum})
		}
		header := ""
		for _, b := range usageBy {
			if slices.Contains(by, b) {
				header += strings.ToUpper(b) + "\t"
			}
		}
		return a.lines(header+"PROFILES\tBYTES\tDOLLARS/MONTH", func(line func(...any)) {
			for _, r := range append(rows, sum) {
				var cells []any
				for i, cell := range []string{r.Tenant, r.Service, r.Type, r.Age, r.Class} {
					if slices.Contains(by, usageBy[i]) {
						cells = append(cells, cmp.Or(cell, "all"))
					}
				}
				line(append(cells, int64(math.Round(r.Profiles)), sizeText(r.Bytes), fmt.Sprintf("%.4f", r.Cost))...)
			}
		})
	})
}

// backendBeside opens the bucket, or ClickHouse, to be read.
func (a *app) backendBeside(ctx context.Context, o *storeOptions, use func(store.Backend) error) (err error) {
	if o.place.clickhouse == "" {
		return a.beside(ctx, o, true, func(bs *blocks.Blocks, _ bucket.Bucket) error { return use(bs) })
	}
	db, err := openClickHouse(ctx, o.place.clickhouse, clickhouse.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return use(db)
}

// groupUsage sums up by what by names, the largest first.
func groupUsage(all []store.Usage, by []string, p prices, now time.Time) (rows []usageRow, sum usageRow) {
	groups := map[usageRow]int{}
	for _, u := range all {
		key := usageRow{}
		for _, b := range by {
			switch b {
			case "tenant":
				key.Tenant = u.Tenant
			case "service":
				key.Service = u.Service
			case "type":
				key.Type = cmp.Or(u.Type, "not told apart")
			case "age":
				days := int(now.Sub(u.Day) / (24 * time.Hour))
				i := slices.IndexFunc(ages, func(x struct {
					days int
					name string
				}) bool {
					return days < x.days
				})
				key.Age = ages[max(0, i)].name
			case "class":
				key.Class = u.Class
			}
		}
		i, ok := groups[key]
		if !ok {
			i = len(rows)
			groups[key] = i
			rows = append(rows, key)
		}
		price := p.standard
		if u.Class == string(bucket.Archive) {
			price = p.archive
		}
		for _, r := range []*usageRow{&rows[i], &sum} {
			r.Profiles += u.Profiles
			r.Bytes += u.Bytes
			r.Cost += float64(u.Bytes) / (1 << 30) * price
		}
	}
	slices.SortStableFunc(rows, func(x, y usageRow) int { return cmp.Compare(y.Bytes, x.Bytes) })
	return slices.Clip(rows), sum
}
