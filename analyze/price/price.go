// Package price says what profiles and findings cost in money: a file of prices, by region and machine, and what follows
// from it for a month.
//
// docs/price.md has the file's format. Where there is no file, the built-in prices are public list prices, and every amount says
// so in its basis.
package price

import (
	"fmt"
	"math"
	"slices"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
)

// Labels of a profile's series by which rules tell machines apart.
const (
	LabelRegion  = "region"
	LabelMachine = "machine_type"
	LabelSpot    = "spot" // "true" or "false"
)

const gib = 1 << 30

// File is prices. Decode and Default make it; it is not changed after.
type File struct {
	Currency    string  // three letters, as USD
	HoursAMonth float64 // 730 is a year's hours by twelve
	Default     Rate    // where no rule fits
	Rules       []Rule
	Storage     Storage
	NetworkGiB  float64 // for a GiB that goes over the network

	builtIn bool
}

// Rate is what a machine costs, by what is used of it.
type Rate struct {
	CoreHour float64 // one core (a provider's vCPU) for an hour
	GiBHour  float64 // a GiB of memory for an hour
}

// Rule is the rate of some machines. An empty field fits all.
type Rule struct {
	Region  string // a profile's label region
	Machine string // its label machine_type
	Spot    *bool  // its label spot
	Rate
}

// Storage is what it costs to keep bytes, for a GiB and month.
type Storage struct {
	GiBMonth        float64
	ArchiveGiBMonth float64 // in the archive class
}

// Default is the built-in prices.
//
// A core and memory are Google Compute Engine's N2 machines, predefined, on demand, in us-central1: 0.031611 USD a vCPU
// and hour and 0.004237 USD a GiB and hour (cloud.google.com/compute/vm-instance-pricing; an n2-standard-2 of 2 vCPUs
// and 8 GiB is 0.0971 an hour by them, as still listed in 2025). Storage is Amazon S3's Standard and Glacier
// Instant Retrieval in us-east-1, 0.023 and 0.004 USD a GiB and month, the same as `quantraband store usage` has.
// Network is 0.01 USD a GiB, what the large providers take between zones of one region; agents rarely are farther away.
func Default() *File {
	return &File{
		Currency: "USD", HoursAMonth: 730, Default: Rate{CoreHour: 0.031611, GiBHour: 0.004237},
		Storage: Storage{GiBMonth: 0.023, ArchiveGiBMonth: 0.004}, NetworkGiB: 0.01, builtIn: true,
	}
}

// Rate is what a machine with these labels costs: by the rule that says most of it, the first of those; else the default. named
// says which.
func (p *File) Rate(labels profile.Labels) (r Rate, named string) {
	r, named = p.Default, "default"
	most := 0
	for i := range p.Rules {
		if said, fits := p.Rules[i].fits(labels); fits && said > most {
			r, named, most = p.Rules[i].Rate, p.Rules[i].name(), said
		}
	}
	return r, named
}

// fits says whether the rule is about machines with these labels, and by how many fields.
func (r *Rule) fits(labels profile.Labels) (said int, ok bool) {
	for _, f := range []struct{ want, name string }{{r.Region, LabelRegion}, {r.Machine, LabelMachine}} {
		if f.want == "" {
			continue
		}
		if said++; labels.Get(f.name) != f.want {
			return 0, false
		}
	}
	if r.Spot != nil {
		// Who does not say that it is a spot machine is none.
		if said++; (labels.Get(LabelSpot) == "true") != *r.Spot {
			return 0, false
		}
	}
	return said, true
}

// name is how a basis calls the rule.
func (r *Rule) name() string {
	var s string
	add := func(part string) {
		if s != "" {
			s += " "
		}
		s += part
	}
	if r.Region != "" {
		add(r.Region)
	}
	if r.Machine != "" {
		add(r.Machine)
	}
	if r.Spot != nil && *r.Spot {
		add("spot")
	} else if r.Spot != nil {
		add("on demand")
	}
	return s
}

// average is the mean rate of machines, and what to call it. Of none it is the default.
func (p *File) average(machines []profile.Labels) (Rate, string) {
	if len(machines) == 0 {
		return p.Default, "default"
	}
	var sum Rate
	var names []string
	for _, m := range machines {
		r, name := p.Rate(m)
		sum.CoreHour += r.CoreHour / float64(len(machines))
		sum.GiBHour += r.GiBHour / float64(len(machines))
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) > 1 {
		return sum, fmt.Sprintf("mean of %d machines", len(machines))
	}
	return sum, names[0]
}

// Cores is what it costs to keep so many cores busy, on average, for a month, on machines with these labels, in equal parts. None
// is the default rate.
func (p *File) Cores(cores analyze.Estimate, machines ...profile.Labels) analyze.Money {
	r, name := p.average(machines)
	return p.money(cores, r.CoreHour, fmt.Sprintf("%s %s a core-hour (%s), %s h a month", number(r.CoreHour), p.Currency, name, number(p.HoursAMonth)))
}

// Memory is what it costs to hold so many bytes of memory for a month.
func (p *File) Memory(bytes analyze.Estimate, machines ...profile.Labels) analyze.Money {
	r, name := p.average(machines)
	b := analyze.Estimate{Value: bytes.Value / gib, Low: bytes.Low / gib, High: bytes.High / gib}
	return p.money(b, r.GiBHour, fmt.Sprintf("%s %s a GiB-hour (%s), %s h a month", number(r.GiBHour), p.Currency, name, number(p.HoursAMonth)))
}

func (p *File) money(e analyze.Estimate, hour float64, basis string) analyze.Money {
	m := hour * p.HoursAMonth
	return analyze.Money{Amount: e.Value * m, Low: e.Low * m, High: e.High * m, Currency: p.Currency, Basis: basis}
}

// CoreHours is how many core-hours a month so many busy cores are.
func (p *File) CoreHours(cores float64) float64 { return cores * p.HoursAMonth }

// BuiltIn says that these are the built-in prices.
func (p *File) BuiltIn() bool { return p.builtIn }

// Price sets the finding's price, that of its Saving a month, on machines with these labels. Its interval is the finding's own,
// of what Saving was reckoned from: the change where there is one, else the value. It sets none where no saving is known.
func (p *File) Price(f *analyze.Finding, machines ...profile.Labels) {
	f.Price = nil
	if f.Saving == 0 || math.IsNaN(f.Saving) || math.IsInf(f.Saving, 0) {
		return
	}
	e := scaled(f.Saving, f.Change)
	if f.Kind != analyze.Regression && f.Kind != analyze.Improvement {
		e = scaled(f.Saving, f.After)
	}
	var m analyze.Money
	switch f.SavingUnit {
	case "cores":
		m = p.Cores(e, machines...)
	case "bytes":
		m = p.Memory(e, machines...)
	default:
		return
	}
	f.Price = &m
}

// scaled is value with the relative interval of another figure.
func scaled(value float64, by analyze.Estimate) analyze.Estimate {
	if by.Value == 0 || by.Low == by.High {
		return analyze.Estimate{Value: value, Low: value, High: value}
	}
	low, high := value*by.Low/by.Value, value*by.High/by.Value
	return analyze.Estimate{Value: value, Low: min(low, high), High: max(low, high)}
}

// Usage is what profiling itself uses.
type Usage struct {
	StoredBytes, ArchivedBytes float64 // that lie in the bucket
	SentBytes                  float64 // over the network, in Seconds
	Seconds                    float64
	Cores                      float64 // that the server keeps busy
}

// Own is what profiling itself costs a month, in parts.
type Own struct {
	Storage, Network, Server analyze.Money
}

// Total is the sum of the parts.
func (o *Own) Total() float64 { return o.Storage.Amount + o.Network.Amount + o.Server.Amount }

// Profiling is what profiling itself costs a month, if all goes on as it did. The agents' processor time is in the profiles
// of the programs that they are in.
func (p *File) Profiling(u Usage) Own {
	exact := func(amount float64, basis string) analyze.Money {
		return analyze.Money{Amount: amount, Low: amount, High: amount, Currency: p.Currency, Basis: basis}
	}
	o := Own{
		Storage: exact(u.StoredBytes/gib*p.Storage.GiBMonth+u.ArchivedBytes/gib*p.Storage.ArchiveGiBMonth,
			fmt.Sprintf("%s %s a GiB and month, %s archived", number(p.Storage.GiBMonth), p.Currency, number(p.Storage.ArchiveGiBMonth))),
		Server: p.Cores(analyze.Estimate{Value: u.Cores, Low: u.Cores, High: u.Cores}),
	}
	month := 0.0
	if u.Seconds > 0 {
		month = u.SentBytes / u.Seconds * 3600 * p.HoursAMonth
	}
	o.Network = exact(month/gib*p.NetworkGiB, fmt.Sprintf("%s %s a GiB", number(p.NetworkGiB), p.Currency))
	return o
}

// number is a price as short as it is exact to four figures.
func number(v float64) string { return fmt.Sprintf("%.4g", v) }
