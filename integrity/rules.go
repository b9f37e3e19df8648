package integrity

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/quantra-l/quantra/internal/strictyaml"
)

// Severity is how bad a change is.
type Severity int

// The severities, in their order.
const (
	Ignore   Severity = iota // it is counted, and told nobody
	Info                     // it is recorded
	Warning                  // it is an alert
	Critical                 // likewise, and worse
)

var severityNames = []string{"ignore", "info", "warning", "critical"}

func (s Severity) String() string { return severityNames[s] }

// MarshalText is its name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// ErrRules says that bytes are no file of rules; the text says at which line, in which field, and why.
var ErrRules = errors.New("not a file of integrity rules")

// Bounds of a file of rules.
const (
	maxRulesFile = 256 << 10 // bytes
	maxRules     = 1000
)

// Rules say how bad a change is: the first that matches. Where none does, the defaults do.
type Rules struct{ rules []rule }

// rule matches a change of one of its paths (none: all) in one of its aspects or ways (none: all).
type rule struct {
	paths    patterns
	allPaths bool
	what     []What
	aspects  []Aspect
	severity Severity
}

// defaults are the rules behind all others: whoever gets more rights than he had is critical, and so is a root that is gone or of another
// kind; a touched time is told, and no alarm.
var defaults = []rule{
	{allPaths: true, aspects: []Aspect{AspectSetUID, AspectSetGID, AspectType, AspectDevice}, severity: Critical},
	{allPaths: true, what: []What{Added, Removed, Renamed}, severity: Warning},
	{allPaths: true, aspects: []Aspect{AspectContent, AspectSize, AspectTarget, AspectMode, AspectOwner, AspectGroup, AspectXAttrs, AspectMount}, severity: Warning},
	{allPaths: true, severity: Info},
}

// Severity is what the rules say of a change. Nil Rules are the defaults.
func (r *Rules) Severity(c *Change) Severity {
	var own []rule
	if r != nil {
		own = r.rules
	}
	for _, list := range [][]rule{own, defaults} {
		for _, r := range list {
			if r.match(c) {
				return r.severity
			}
		}
	}
	return Info // not reached: the last default matches all
}

func (r *rule) match(c *Change) bool {
	if !r.allPaths && !r.paths.match(c.Path) && (c.From == "" || !r.paths.match(c.From)) {
		return false
	}
	if len(r.what) == 0 && len(r.aspects) == 0 || slices.Contains(r.what, c.What) {
		return true
	}
	for _, a := range c.Aspects {
		if slices.Contains(r.aspects, a) {
			return true
		}
	}
	return false
}

// ReadRules reads a file of rules, of at most 256 KiB: docs/integrity.md has its form. Errors that are not the reader's are [ErrRules].
func ReadRules(r io.Reader) (*Rules, error) {
	rules, err := readRules(r)
	var e *strictyaml.Error
	switch {
	case errors.As(err, &e):
		return nil, fmt.Errorf("%w: %w", ErrRules, err)
	case err != nil:
		return nil, fmt.Errorf("integrity rules: %w", err)
	}
	return rules, nil
}

type node = strictyaml.Node

func readRules(r io.Reader) (*Rules, error) {
	root, err := strictyaml.Parse(r, maxRulesFile)
	if err != nil {
		return nil, err
	}
	out := &Rules{}
	seen, err := strictyaml.Fields(root, "", map[string]strictyaml.Reader{
		"rules": func(n *node, field string) error {
			return strictyaml.Items(n, field, maxRules, func(n *node, field string) error {
				one, err := readRule(n, field)
				out.rules = append(out.rules, one)
				return err
			})
		},
	})
	if err != nil {
		return nil, err
	}
	if len(seen) == 0 || len(out.rules) == 0 {
		return nil, strictyaml.Wrong(root, "rules", "there is no rule")
	}
	return out, nil
}

func readRule(n *node, field string) (rule, error) {
	var r rule
	var paths []string
	var pathsAt *node
	seen, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"paths": func(n *node, field string) error {
			pathsAt = n
			return strictyaml.Items(n, field, maxPatterns, func(n *node, field string) error {
				p, err := strictyaml.Text(n, field)
				if err != nil {
					return err
				}
				if _, err := toRegexp(p); err != nil {
					return strictyaml.Wrong(n, field, "%q: %v", p, err)
				}
				paths = append(paths, p)
				return nil
			})
		},
		"changes": func(n *node, field string) error {
			return strictyaml.Items(n, field, 100, func(n *node, field string) error { return r.changes(n, field) })
		},
		"severity": func(n *node, field string) error {
			i := slices.Index(severityNames, n.Value)
			if i < 0 {
				return strictyaml.Wrong(n, field, "%q: it must be one of %s", n.Value, strings.Join(severityNames, ", "))
			}
			r.severity = Severity(i)
			return nil
		},
	})
	if err != nil {
		return r, err
	}
	if !slices.Contains(seen, "severity") {
		return r, strictyaml.Wrong(n, field, "it has no severity")
	}
	for f, empty := range map[string]bool{"paths": len(paths) == 0, "changes": len(r.what)+len(r.aspects) == 0} {
		if slices.Contains(seen, f) && empty {
			return r, strictyaml.Wrong(n, field+"."+f, "it is empty: leave it out to mean all")
		}
	}
	r.allPaths = pathsAt == nil
	if r.paths, err = compilePatterns(paths); err != nil {
		return r, strictyaml.Wrong(pathsAt, field+".paths", "%v", err)
	}
	return r, nil
}

// changes reads one word of a rule's changes: a way or an aspect.
func (r *rule) changes(n *node, field string) error {
	word := n.Value
	ways := []What{Added, Removed, Changed, Renamed}
	switch {
	case slices.Contains(ways, What(word)):
		r.what = append(r.what, What(word))
	case slices.Contains(Aspects, Aspect(word)):
		r.aspects = append(r.aspects, Aspect(word))
	default:
		return strictyaml.Wrong(n, field, "%q: it must be added, removed, changed, renamed or one of %s", word, join(Aspects))
	}
	return nil
}
