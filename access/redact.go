package access

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// Bounds of a file of rules.
const (
	maxRules     = 200
	maxRuleBytes = 64 << 10
	maxRuleLine  = 1 << 10
)

// Redaction are rules by which functions are shown under another name. The first that matches holds.
type Redaction struct {
	rules []rule
}

type rule struct {
	match *regexp.Regexp
	name  string
}

// ParseRedaction reads rules, one a line: a regular expression (RE2), a space, =>, a space, and the name that is shown. $1 in it is what the
// expression's first group matched. Lines that begin with # are for people.
func ParseRedaction(raw []byte) (*Redaction, error) {
	if len(raw) > maxRuleBytes {
		return nil, fmt.Errorf("%w: %d bytes of rules, at most %d", ErrInvalid, len(raw), maxRuleBytes)
	}
	out := &Redaction{}
	n := 0
	for line := range bytes.Lines(raw) {
		n++
		text := strings.TrimSpace(string(line))
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if len(text) > maxRuleLine || len(out.rules) == maxRules {
			return nil, fmt.Errorf("%w: line %d: a line has at most %d bytes, and there are at most %d rules", ErrInvalid, n, maxRuleLine, maxRules)
		}
		expr, name, ok := strings.Cut(text, " => ")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("%w: line %d: it must be: EXPRESSION => NAME", ErrInvalid, n)
		}
		re, err := regexp.Compile(strings.TrimSpace(expr))
		if err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrInvalid, n, err)
		}
		out.rules = append(out.rules, rule{re, name})
	}
	if len(out.rules) == 0 {
		return nil, fmt.Errorf("%w: there are no rules: nothing would be hidden", ErrInvalid)
	}
	return out, nil
}

// Name is what a function is called, and whether that is another name than its own.
func (r *Redaction) Name(function string) (string, bool) {
	if r == nil {
		return function, false
	}
	for i := range r.rules {
		rule := &r.rules[i]
		if m := rule.match.FindStringSubmatchIndex(function); m != nil {
			return string(rule.match.ExpandString(nil, rule.name, function, m)), true
		}
	}
	return function, false
}
