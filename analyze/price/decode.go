package price

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"

	"github.com/quantra-l/quantra/internal/strictyaml"
)

// Bounds of a price file.
const (
	maxFile  = 64 << 10
	maxRules = 1000
	maxPrice = 1e6 // for one of anything: more is a slip
)

// ErrFile says that bytes are no price file. The error's text says at which line, in which field, and why.
var ErrFile = errors.New("not a price file")

// Decode reads a price file: YAML of at most 64 KiB, with no field but those that docs/price.md has, each once. What is not
// given of currency, hours, storage and network is as in [Default]; default must be given.
func Decode(r io.Reader) (*File, error) {
	p, err := decode(r)
	var e *strictyaml.Error
	switch {
	case errors.As(err, &e):
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	case err != nil:
		return nil, fmt.Errorf("price file: %w", err)
	}
	return p, nil
}

func decode(r io.Reader) (*File, error) {
	root, err := strictyaml.Parse(r, maxFile)
	if err != nil {
		return nil, err
	}
	p := Default()
	p.Default, p.builtIn = Rate{}, false
	seen, err := strictyaml.Fields(root, "", map[string]strictyaml.Reader{
		"currency": func(n *strictyaml.Node, f string) error {
			s, err := strictyaml.Text(n, f)
			if err == nil && !regexp.MustCompile(`^[A-Z]{3}$`).MatchString(s) {
				err = strictyaml.Wrong(n, f, "%q: it must be three capital letters, as USD", s)
			}
			p.Currency = s
			return err
		},
		"hours_a_month": func(n *strictyaml.Node, f string) error {
			if err := amount(n, f, &p.HoursAMonth); err != nil {
				return err
			}
			if p.HoursAMonth == 0 || p.HoursAMonth > 31*24 {
				return strictyaml.Wrong(n, f, "%v: it must be above 0 and at most %d", p.HoursAMonth, 31*24)
			}
			return nil
		},
		"default": func(n *strictyaml.Node, f string) error { return rate(n, f, &p.Default, nil) },
		"rules":   func(n *strictyaml.Node, f string) error { return rules(n, f, p) },
		"storage": func(n *strictyaml.Node, f string) error {
			_, err := strictyaml.Fields(n, f, map[string]strictyaml.Reader{
				"gib_month":         func(n *strictyaml.Node, f string) error { return amount(n, f, &p.Storage.GiBMonth) },
				"archive_gib_month": func(n *strictyaml.Node, f string) error { return amount(n, f, &p.Storage.ArchiveGiBMonth) },
			})
			return err
		},
		"network": func(n *strictyaml.Node, f string) error {
			_, err := strictyaml.Fields(n, f, map[string]strictyaml.Reader{
				"gib": func(n *strictyaml.Node, f string) error { return amount(n, f, &p.NetworkGiB) },
			})
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	if !slices.Contains(seen, "default") {
		return nil, strictyaml.Wrong(root, "default", "it is missing: it is the price where no rule fits")
	}
	return p, nil
}

// rules reads the list of rules.
func rules(n *strictyaml.Node, field string, p *File) error {
	names := map[string]int{}
	return strictyaml.Items(n, field, maxRules, func(item *strictyaml.Node, f string) error {
		var r Rule
		if err := rate(item, f, &r.Rate, map[string]strictyaml.Reader{
			"region":  func(n *strictyaml.Node, f string) (err error) { r.Region, err = strictyaml.Text(n, f); return err },
			"machine": func(n *strictyaml.Node, f string) (err error) { r.Machine, err = strictyaml.Text(n, f); return err },
			"spot": func(n *strictyaml.Node, f string) error {
				r.Spot = new(bool)
				return strictyaml.Bool(n, f, r.Spot)
			},
		}); err != nil {
			return err
		}
		if r.name() == "" {
			return strictyaml.Wrong(item, f, "it has none of region, machine and spot: what fits all is the default")
		}
		if line, ok := names[r.name()]; ok {
			return strictyaml.Wrong(item, f, "it is about the same machines as the rule at line %d", line)
		}
		names[r.name()] = item.Line
		p.Rules = append(p.Rules, r)
		return nil
	})
}

// rate reads a rate, which must have a price of a core, and the fields of more beside it.
func rate(n *strictyaml.Node, field string, r *Rate, more map[string]strictyaml.Reader) error {
	all := map[string]strictyaml.Reader{
		"core_hour": func(n *strictyaml.Node, f string) error { return amount(n, f, &r.CoreHour) },
		"gib_hour":  func(n *strictyaml.Node, f string) error { return amount(n, f, &r.GiBHour) },
	}
	for k, v := range more {
		all[k] = v
	}
	seen, err := strictyaml.Fields(n, field, all)
	if err == nil && !slices.Contains(seen, "core_hour") {
		err = strictyaml.Wrong(n, field+".core_hour", "it is missing")
	}
	return err
}

// amount reads a price.
func amount(n *strictyaml.Node, field string, to *float64) error {
	return strictyaml.Number(n, field, 0, maxPrice, to)
}
