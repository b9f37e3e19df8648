package price

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
)

const example = `# Our prices.
currency: EUR
hours_a_month: 720
default:
  core_hour: 0.04
  gib_hour: 0.005
rules:
  - region: eu
    core_hour: 0.035
  - machine: n2-standard-4
    core_hour: 0.03
  - region: eu
    machine: n2-standard-4
    spot: true
    core_hour: 0.01
    gib_hour: 0.001
storage:
  gib_month: 0.02
network:
  gib: 0.08
`

func decoded(t testing.TB, s string) *File {
	t.Helper()
	p, err := Decode(strings.NewReader(s))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func labels(t testing.TB, pairs ...string) profile.Labels {
	t.Helper()
	var ls []profile.Label
	for i := 0; i < len(pairs); i += 2 {
		ls = append(ls, profile.Label{Name: pairs[i], Value: pairs[i+1]})
	}
	out, err := profile.NewLabels(ls...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRate: the rule that says most of a machine wins; of two that say as much, the first.
func TestRate(t *testing.T) {
	p := decoded(t, example)
	for _, c := range []struct {
		labels profile.Labels
		core   float64
		named  string
	}{
		{nil, 0.04, "default"},
		{labels(t, "region", "us"), 0.04, "default"},
		{labels(t, "region", "eu"), 0.035, "eu"},
		{labels(t, "machine_type", "n2-standard-4"), 0.03, "n2-standard-4"},
		{labels(t, "region", "eu", "machine_type", "n2-standard-4"), 0.035, "eu"},
		{labels(t, "region", "eu", "machine_type", "n2-standard-4", "spot", "false"), 0.035, "eu"},
		{labels(t, "region", "eu", "machine_type", "n2-standard-4", "spot", "true"), 0.01, "eu n2-standard-4 spot"},
	} {
		if r, named := p.Rate(c.labels); r.CoreHour != c.core || named != c.named {
			t.Errorf("%v: %v (%s), want %v (%s)", c.labels, r.CoreHour, named, c.core, c.named)
		}
	}
}

// TestPrice: amounts by hand.
func TestPrice(t *testing.T) {
	p := decoded(t, example)
	f := analyze.Finding{Kind: analyze.Regression, Saving: 2, SavingUnit: "cores", Change: analyze.Estimate{Value: 0.04, Low: 0.03, High: 0.06}, After: analyze.Estimate{Value: 1, Low: 0, High: 2}}
	p.Price(&f, labels(t, "region", "eu"))
	// 2 cores of 0.035 for 720 hours; the interval from three quarters of that to one and a half.
	want := analyze.Money{Amount: 50.4, Low: 37.8, High: 75.6, Currency: "EUR", Basis: "0.035 EUR a core-hour (eu), 720 h a month"}
	if f.Price == nil || !same(*f.Price, want) {
		t.Errorf("%+v, want %+v", f.Price, want)
	}
	// A change downwards has its bounds the other way round, and saves a positive amount.
	f.Kind, f.Change = analyze.Improvement, analyze.Estimate{Value: -0.04, Low: -0.06, High: -0.03}
	if p.Price(&f, labels(t, "region", "eu")); !same(*f.Price, want) {
		t.Errorf("improvement: %+v", f.Price)
	}
	// What is no change has the interval of its value.
	f.Kind, f.After = analyze.HotSpot, analyze.Estimate{Value: 0.1, Low: 0.05, High: 0.2}
	if p.Price(&f, labels(t, "region", "eu")); f.Price.Low != f.Price.Amount/2 || f.Price.High != 2*f.Price.Amount {
		t.Errorf("hot spot: %+v", f.Price)
	}
	// Two machines of different rates: their mean, (0.035 + 0.04)/2.
	if p.Price(&f, labels(t, "region", "eu"), nil); math.Abs(f.Price.Amount-54) > 1e-9 || !strings.Contains(f.Price.Basis, "0.0375 EUR a core-hour (mean of 2 machines)") {
		t.Errorf("mixed: %+v", f.Price)
	}
	// 3 GiB of the default's 0.005.
	f.Saving, f.SavingUnit = 3<<30, "bytes"
	if p.Price(&f); math.Abs(f.Price.Amount-3*0.005*720) > 1e-9 || f.Price.Basis != "0.005 EUR a GiB-hour (default), 720 h a month" {
		t.Errorf("memory: %+v", f.Price)
	}
	for _, nothing := range []analyze.Finding{{}, {Saving: 1}, {Saving: 1, SavingUnit: "goats"}, {Saving: math.NaN(), SavingUnit: "cores"}, {Saving: math.Inf(1), SavingUnit: "cores"}} {
		nothing.Price = &analyze.Money{}
		if p.Price(&nothing); nothing.Price != nil {
			t.Errorf("%+v has a price", nothing)
		}
	}
}

func same(a, b analyze.Money) bool {
	near := func(x, y float64) bool { return math.Abs(x-y) < 1e-9 }
	return near(a.Amount, b.Amount) && near(a.Low, b.Low) && near(a.High, b.High) && a.Currency == b.Currency && a.Basis == b.Basis
}

// TestDefault: one core for a month is 23.08 USD, as a thirtieth of a cent more or less changes nothing for anybody.
func TestDefault(t *testing.T) {
	p := Default()
	m := p.Cores(analyze.Estimate{Value: 1, Low: 1, High: 1})
	if math.Abs(m.Amount-23.07603) > 1e-9 || m.Basis != "0.03161 USD a core-hour (default), 730 h a month" || !p.BuiltIn() || p.CoreHours(2) != 1460 {
		t.Errorf("%+v", m)
	}
}

func TestProfiling(t *testing.T) {
	p := decoded(t, example)
	o := p.Profiling(Usage{StoredBytes: 50 << 30, ArchivedBytes: 100 << 30, SentBytes: 1 << 30, Seconds: 3600, Cores: 0.5})
	// Storage 50*0.02 + 100*0.004 (not given: the default's); network 720 GiB of 0.08; half a core of 0.04.
	if math.Abs(o.Storage.Amount-1.4) > 1e-9 || math.Abs(o.Network.Amount-57.6) > 1e-9 || math.Abs(o.Server.Amount-14.4) > 1e-9 || math.Abs(o.Total()-73.4) > 1e-9 {
		t.Errorf("%+v", o)
	}
	if o := p.Profiling(Usage{SentBytes: 5}); o.Network.Amount != 0 {
		t.Errorf("bytes in no time cost %v", o.Network.Amount)
	}
}

// TestDecodeRefuses: every slip is said with its line and its field.
func TestDecodeRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                "it is empty",
		"- a":             "line 1: it must be fields",
		"a: [":            "line 1: did not find",
		"currency: USD\n": "line 1: default: it is missing",
		"default:\n  core_hour: 1\ndefault:\n  core_hour: 1\n":                                               "line 3: default: it is there twice",
		"default:\n  core_hour: -1\n":                                                                        `line 2: default.core_hour: "-1": it must be a number from 0`,
		"default:\n  core_hour: .inf\n":                                                                      "line 2: default.core_hour: ",
		"default:\n  core_hour: \"1\"\n":                                                                     "line 2: default.core_hour: ",
		"default:\n  core_hour: .nan\n":                                                                      "line 2: default.core_hour: ",
		"default:\n  core_hour: cheap\n":                                                                     "line 2: default.core_hour: \"cheap\"",
		"default:\n  gib_hour: 1\n":                                                                          "default.core_hour: it is missing",
		"default:\n  core_hours: 1\n":                                                                        "line 2: default.core_hours: there is no such field; there are core_hour, gib_hour",
		"currency: dollars\ndefault:\n  core_hour: 1\n":                                                      "line 1: currency: \"dollars\"",
		"hours_a_month: 0\ndefault:\n  core_hour: 1\n":                                                       "line 1: hours_a_month: 0: it must be above 0",
		"hours_a_month: 8760\ndefault:\n  core_hour: 1\n":                                                    "line 1: hours_a_month: 8760: it must be above 0 and at most 744",
		"default:\n  core_hour: 1\nrules: 5\n":                                                               "line 3: rules: it must be a list",
		"default:\n  core_hour: 1\nrules:\n  - core_hour: 1\n":                                               "line 4: rules[0]: it has none of region",
		"default:\n  core_hour: 1\nrules:\n  - region: eu\n":                                                 "rules[0].core_hour: it is missing",
		"default:\n  core_hour: 1\nrules:\n  - {region: eu, spot: often, core_hour: 1}\n":                    "line 4: rules[0].spot: it must be true or false",
		"default:\n  core_hour: 1\nrules:\n  - {region: eu, core_hour: 1}\n  - {region: eu, core_hour: 2}\n": "line 5: rules[1]: it is about the same machines as the rule at line 4",
		"default: &d\n  core_hour: 1\nrules: [*d]\n":                                                         "line 3: rules[0]: it must be fields",
		"default:\n  core_hour: 1\n---\na: 1\n":                                                              "more than one document",
		"default:\n  core_hour: 1\n? [a]\n: 1\n":                                                             "there is no such field",
		strings.Repeat("# x\n", 20000):                                                                       "larger than 65536 bytes",
	} {
		_, err := Decode(strings.NewReader(in))
		if !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", in, err, want)
		}
	}
}

// FuzzDecode: what is taken has prices that can be reckoned with.
func FuzzDecode(f *testing.F) {
	f.Add(example)
	f.Add("default: {core_hour: 1}\nrules: [{spot: no, core_hour: 0x10}]")
	f.Add("default: &a {core_hour: 1}\nstorage: *a")
	f.Fuzz(func(t *testing.T, in string) {
		p, err := Decode(strings.NewReader(in))
		if err != nil {
			if !errors.Is(err, ErrFile) {
				t.Fatal(err)
			}
			return
		}
		for _, v := range []float64{p.HoursAMonth, p.Default.CoreHour, p.Default.GiBHour, p.Storage.GiBMonth, p.Storage.ArchiveGiBMonth, p.NetworkGiB} {
			if !(v >= 0) || v > maxPrice {
				t.Fatalf("%+v", p)
			}
		}
		if len(p.Currency) != 3 || p.HoursAMonth == 0 || len(p.Rules) > maxRules {
			t.Fatalf("%+v", p)
		}
		for i := range p.Rules {
			if p.Rules[i].name() == "" {
				t.Fatalf("rule %d fits all", i)
			}
		}
	})
}
