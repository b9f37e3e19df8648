package price

import (
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of a price file.
const (
	maxFile  = 64 << 10
	maxRules = 1000
	maxPrice = 1e6 // for one of anything: more is a slip
)

// ErrFile says that bytes are no price file. The error's text says at which line, in which field, and why.
var ErrFile = errors.New("not a price file")

func wrong(n *yaml.Node, field, format string, args ...any) error {
	at := ""
	if n != nil && n.Line > 0 {
		at = fmt.Sprintf("line %d: ", n.Line)
	}
	if field != "" {
		field += ": "
	}
	return fmt.Errorf("%w: %s%s%s", ErrFile, at, field, fmt.Sprintf(format, args...))
}

// Decode reads a price file: YAML of at most 64 KiB, with no field but those that docs/price.md has, each once. What is not
// given of currency, hours, storage and network is as in [Default]; default must be given.
func Decode(r io.Reader) (*File, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("price file: %w", err)
	}
	if len(b) > maxFile {
		return nil, wrong(nil, "", "it is larger than %d bytes", maxFile)
	}
	dec := yaml.NewDecoder(strings.NewReader(string(b)))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case err == io.EOF:
		return nil, wrong(nil, "", "it is empty")
	case err != nil:
		return nil, wrong(nil, "", "%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&more); err != io.EOF {
		return nil, wrong(&more, "", "it has more than one document")
	}
	p := Default()
	p.Default, p.builtIn = Rate{}, false
	root := doc.Content[0]
	seen, err := fields(root, "", map[string]func(*yaml.Node, string) error{
		"currency": func(n *yaml.Node, f string) error {
			s, err := text(n, f)
			if err == nil && !regexp.MustCompile(`^[A-Z]{3}$`).MatchString(s) {
				err = wrong(n, f, "%q: it must be three capital letters, as USD", s)
			}
			p.Currency = s
			return err
		},
		"hours_a_month": func(n *yaml.Node, f string) error {
			if err := amount(n, f, &p.HoursAMonth); err != nil {
				return err
			}
			if p.HoursAMonth == 0 || p.HoursAMonth > 31*24 {
				return wrong(n, f, "%v: it must be above 0 and at most %d", p.HoursAMonth, 31*24)
			}
			return nil
		},
		"default": func(n *yaml.Node, f string) error { return rate(n, f, &p.Default, nil) },
		"rules":   func(n *yaml.Node, f string) error { return rules(n, f, p) },
		"storage": func(n *yaml.Node, f string) error {
			_, err := fields(n, f, map[string]func(*yaml.Node, string) error{
				"gib_month":         func(n *yaml.Node, f string) error { return amount(n, f, &p.Storage.GiBMonth) },
				"archive_gib_month": func(n *yaml.Node, f string) error { return amount(n, f, &p.Storage.ArchiveGiBMonth) },
			})
			return err
		},
		"network": func(n *yaml.Node, f string) error {
			_, err := fields(n, f, map[string]func(*yaml.Node, string) error{
				"gib": func(n *yaml.Node, f string) error { return amount(n, f, &p.NetworkGiB) },
			})
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	if !slices.Contains(seen, "default") {
		return nil, wrong(root, "default", "it is missing: it is the price where no rule fits")
	}
	return p, nil
}

// rules reads the list of rules.
func rules(n *yaml.Node, field string, p *File) error {
	if n.Kind != yaml.SequenceNode {
		return wrong(n, field, "it must be a list")
	}
	if len(n.Content) > maxRules {
		return wrong(n, field, "it has %d rules, more than %d", len(n.Content), maxRules)
	}
	names := map[string]int{}
	for i, item := range n.Content {
		var r Rule
		f := fmt.Sprintf("%s[%d]", field, i)
		if err := rate(item, f, &r.Rate, map[string]func(*yaml.Node, string) error{
			"region":  func(n *yaml.Node, f string) (err error) { r.Region, err = text(n, f); return err },
			"machine": func(n *yaml.Node, f string) (err error) { r.Machine, err = text(n, f); return err },
			"spot": func(n *yaml.Node, f string) error {
				if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
					return wrong(n, f, "it must be true or false")
				}
				spot := strings.EqualFold(n.Value, "true")
				r.Spot = &spot
				return nil
			},
		}); err != nil {
			return err
		}
		if r.name() == "" {
			return wrong(item, f, "it has none of region, machine and spot: what fits all is the default")
		}
		if line, ok := names[r.name()]; ok {
			return wrong(item, f, "it is about the same machines as the rule at line %d", line)
		}
		names[r.name()] = item.Line
		p.Rules = append(p.Rules, r)
	}
	return nil
}

// rate reads a rate, which must have a price of a core, and the fields of more beside it.
func rate(n *yaml.Node, field string, r *Rate, more map[string]func(*yaml.Node, string) error) error {
	all := map[string]func(*yaml.Node, string) error{
		"core_hour": func(n *yaml.Node, f string) error { return amount(n, f, &r.CoreHour) },
		"gib_hour":  func(n *yaml.Node, f string) error { return amount(n, f, &r.GiBHour) },
	}
	for k, v := range more {
		all[k] = v
	}
	seen, err := fields(n, field, all)
	if err == nil && !slices.Contains(seen, "core_hour") {
		err = wrong(n, field+".core_hour", "it is missing")
	}
	return err
}

// fields hands each field of a mapping to its reader. One that has none, or that is there twice, is an error.
func fields(n *yaml.Node, within string, read map[string]func(*yaml.Node, string) error) (seen []string, err error) {
	if n.Kind != yaml.MappingNode {
		return nil, wrong(n, within, "it must be fields with a colon after each")
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := key.Value
		if within != "" {
			name = within + "." + name
		}
		f, ok := read[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || !ok:
			var have []string
			for k := range read {
				have = append(have, k)
			}
			slices.Sort(have)
			return nil, wrong(key, name, "there is no such field; there are %s", strings.Join(have, ", "))
		case slices.Contains(seen, key.Value):
			return nil, wrong(key, name, "it is there twice")
		}
		seen = append(seen, key.Value)
		if err := f(value, name); err != nil {
			return nil, err
		}
	}
	return seen, nil
}

func text(n *yaml.Node, field string) (string, error) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "" || len(n.Value) > 128 {
		return "", wrong(n, field, "it must be a text of 1 to 128 bytes")
	}
	return n.Value, nil
}

// amount reads a price.
func amount(n *yaml.Node, field string, to *float64) error {
	v, err := strconv.ParseFloat(n.Value, 64)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" && n.Tag != "!!float" || err != nil || math.IsNaN(v) || v < 0 || v > maxPrice {
		return wrong(n, field, "%q: it must be a number from 0 to %d", n.Value, int(maxPrice))
	}
	*to = v
	return nil
}
