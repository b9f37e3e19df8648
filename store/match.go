package store

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/quantra-l/quantra/profile"
)

func (op MatchOp) String() string {
	switch op {
	case MatchEqual:
		return "="
	case MatchNotEqual:
		return "!="
	case MatchRegexp:
		return "=~"
	case MatchNotRegexp:
		return "!~"
	}
	return fmt.Sprintf("MatchOp(%d)", uint8(op))
}

// String is the matcher as [ParseMatchers] reads it.
func (m Matcher) String() string { return m.Name + m.Op.String() + strconv.Quote(m.Value) }

// FormatMatchers is ms as [ParseMatchers] reads them.
func FormatMatchers(ms []Matcher) string {
	s := make([]string, len(ms))
	for i, m := range ms {
		s[i] = m.String()
	}
	return "{" + strings.Join(s, ", ") + "}"
}

// MaxMatchers bounds what one question may ask.
const MaxMatchers = 100

// ParseMatchers reads {service_name="checkout", version!~"v1.*"}, with or without the
// braces. The empty string and {} are no matchers: everything. Values stand in double quotes,
// with Go's escapes, or in back quotes, as they are. Errors are [ErrInvalid] and name the
// place, counted in bytes from 1.
func ParseMatchers(s string) ([]Matcher, error) {
	p := matcherParser{s: s}
	p.space()
	braced := p.eat("{")
	var ms []Matcher
	for {
		p.space()
		if p.done(braced) {
			break
		}
		m, err := p.matcher()
		if err != nil {
			return nil, err
		}
		if ms = append(ms, m); len(ms) > MaxMatchers {
			return nil, p.errorf("more than %d matchers", MaxMatchers)
		}
		p.space()
		if !p.eat(",") && !p.done(braced) {
			if braced {
				return nil, p.errorf(`want "," or "}"`)
			}
			return nil, p.errorf(`want "," or the end`)
		}
	}
	if braced {
		p.eat("}")
		p.space()
		if p.at < len(s) {
			return nil, p.errorf(`want nothing after "}"`)
		}
	}
	return ms, nil
}

type matcherParser struct {
	s  string
	at int
}

func (p *matcherParser) errorf(format string, args ...any) error {
	found := "the end"
	if p.at < len(p.s) {
		found = fmt.Sprintf("%.20q", p.s[p.at:])
	}
	return fmt.Errorf("%w: matchers, at %d: %s, found %s", ErrInvalid, p.at+1, fmt.Sprintf(format, args...), found)
}

func (p *matcherParser) space() {
	p.at = len(p.s) - len(strings.TrimLeft(p.s[p.at:], " \t\r\n"))
}

func (p *matcherParser) eat(tok string) bool {
	if strings.HasPrefix(p.s[p.at:], tok) {
		p.at += len(tok)
		return true
	}
	return false
}

func (p *matcherParser) done(braced bool) bool {
	if braced {
		return strings.HasPrefix(p.s[p.at:], "}")
	}
	return p.at == len(p.s)
}

func (p *matcherParser) matcher() (Matcher, error) {
	var m Matcher
	end := p.at
	for end < len(p.s) && profile.CheckLabelName(p.s[p.at:end+1]) == nil {
		end++
	}
	if end == p.at {
		return m, p.errorf("want a label's name")
	}
	m.Name = p.s[p.at:end]
	p.at = end
	p.space()
	switch {
	case p.eat("=~"):
		m.Op = MatchRegexp
	case p.eat("!~"):
		m.Op = MatchNotRegexp
	case p.eat("!="):
		m.Op = MatchNotEqual
	case p.eat("="):
		m.Op = MatchEqual
	default:
		return m, p.errorf("want =, !=, =~ or !~ after %s", m.Name)
	}
	p.space()
	quoted, err := strconv.QuotedPrefix(p.s[p.at:])
	if err != nil || quoted[0] == '\'' {
		return m, p.errorf("want a quoted value for %s", m.Name)
	}
	m.Value, err = strconv.Unquote(quoted)
	if err != nil {
		return m, p.errorf("bad quoting of the value for %s", m.Name)
	}
	if _, err := m.compile(); err != nil {
		return m, p.errorf("%v", err)
	}
	p.at += len(quoted)
	return m, nil
}

// test is a matcher ready to run.
type test struct {
	Matcher
	re *regexp.Regexp
}

// compile checks m. The error does not wrap a sentinel.
func (m Matcher) compile() (test, error) {
	t := test{Matcher: m}
	if err := profile.CheckLabelName(m.Name); err != nil {
		return t, err
	}
	if m.Op > MatchNotRegexp {
		return t, fmt.Errorf("matcher on %s: unknown operator %v", m.Name, m.Op)
	}
	if m.Op == MatchRegexp || m.Op == MatchNotRegexp {
		if len(m.Value) > profile.MaxLabelValue {
			return t, fmt.Errorf("matcher on %s: regular expression has %d bytes, the limit is %d", m.Name, len(m.Value), profile.MaxLabelValue)
		}
		re, err := regexp.Compile("^(?s:" + m.Value + ")$")
		if err != nil {
			return t, fmt.Errorf("matcher on %s: %w", m.Name, err)
		}
		t.re = re
	}
	return t, nil
}

func (t *test) match(value string) bool {
	switch t.Op {
	case MatchEqual:
		return value == t.Value
	case MatchNotEqual:
		return value != t.Value
	case MatchRegexp:
		return t.re.MatchString(value)
	}
	return !t.re.MatchString(value)
}
