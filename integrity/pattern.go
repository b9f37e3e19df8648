package integrity

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Bounds of patterns.
const (
	maxPatterns = 1000
	maxPattern  = 1024 // bytes
)

// patterns is a set of patterns of paths; the zero value matches nothing. It is made into one regular expression, whose time is linear in the
// path whatever the patterns are.
type patterns struct{ re *regexp.Regexp }

func (p patterns) match(path string) bool { return p.re != nil && p.re.MatchString(path) }

// compilePatterns reads patterns: * is any bytes of one name, ** any bytes at all, ? one byte or letter of a name. A pattern matches whole
// paths, and all that is below them. It begins with / (on Windows a drive) or with **.
func compilePatterns(list []string) (patterns, error) {
	if len(list) == 0 {
		return patterns{}, nil
	}
	if len(list) > maxPatterns {
		return patterns{}, fmt.Errorf("there are %d patterns, more than %d", len(list), maxPatterns)
	}
	var all []string
	for _, p := range list {
		s, err := toRegexp(p)
		if err != nil {
			return patterns{}, fmt.Errorf("pattern %q: %w", p, err)
		}
		all = append(all, s)
	}
	re, err := regexp.Compile(`(?s)^(?:` + strings.Join(all, "|") + `)(?:/|$)`)
	if err != nil {
		return patterns{}, fmt.Errorf("the patterns are too much together: %w", err)
	}
	return patterns{re}, nil
}

func toRegexp(p string) (string, error) {
	switch {
	case p == "" || len(p) > maxPattern:
		return "", fmt.Errorf("it must have 1 to %d bytes", maxPattern)
	case !utf8.ValidString(p) || strings.ContainsRune(p, 0):
		return "", errors.New("it must be UTF-8 without NUL")
	case !isAbs(p) && !strings.HasPrefix(p, "**"):
		return "", errors.New("it must begin with / or with **")
	}
	var b strings.Builder
	p = strings.TrimRight(p, "/")
	for p != "" {
		switch {
		case strings.HasPrefix(p, "**"):
			b.WriteString(".*")
			p = strings.TrimLeft(p, "*")
			continue
		case p[0] == '*':
			b.WriteString("[^/]*")
		case p[0] == '?':
			b.WriteString("[^/]")
		default:
			_, n := utf8.DecodeRuneInString(p)
			b.WriteString(regexp.QuoteMeta(p[:n]))
			p = p[n:]
			continue
		}
		p = p[1:]
	}
	return b.String(), nil
}

// isAbs says that a path with slashes is absolute: from the root, or from a drive.
func isAbs(p string) bool {
	return strings.HasPrefix(p, "/") || len(p) >= 3 && p[1] == ':' && p[2] == '/'
}
