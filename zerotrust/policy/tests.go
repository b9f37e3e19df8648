package policy

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/internal/strictyaml"
)

// ErrTests says that bytes are no file of tests. The error's text says at which line, in which field, and why.
var ErrTests = errors.New("not a file of policy tests")

// Bounds of a file of tests.
const (
	MaxTestFile = 1 << 20
	maxTests    = 2000
)

// TestTime is when a test's request is made that says no time, so that a test gives the same answer tomorrow: a Thursday, at noon UTC.
var TestTime = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// TestFile are requests with the answers that are expected: docs/format/policy-tests.md.
type TestFile struct {
	Policies string // a folder or file, relative to the file of tests; "" is none said
	Tests    []Test
}

// Test is one request.
type Test struct {
	Name       string
	Line       int
	Request    Request
	Allow      bool
	By         *[]string   // the policies that decide, in any order; nil: not said
	Conditions *Conditions // exactly; nil: not said
}

type node = strictyaml.Node

// DecodeTests reads a file of tests: YAML of at most 1 MiB, with no field but those of docs/format/policy-tests.md, each once. Errors that
// are not the reader's are [ErrTests].
func DecodeTests(r io.Reader) (*TestFile, error) {
	f, err := decodeTests(r)
	var e *strictyaml.Error
	switch {
	case errors.As(err, &e):
		return nil, fmt.Errorf("%w: %w", ErrTests, err)
	case err != nil:
		return nil, fmt.Errorf("policy tests: %w", err)
	}
	return f, nil
}

func decodeTests(r io.Reader) (*TestFile, error) {
	root, err := strictyaml.Parse(r, MaxTestFile)
	if err != nil {
		return nil, err
	}
	f := &TestFile{}
	if _, err := strictyaml.Fields(root, "", map[string]strictyaml.Reader{
		"policies": text(1024, &f.Policies),
		"tests": func(n *node, field string) error {
			return strictyaml.Items(n, field, maxTests, func(n *node, field string) error {
				t, err := decodeTest(n, field)
				f.Tests = append(f.Tests, t)
				return err
			})
		},
	}); err != nil {
		return nil, err
	}
	if len(f.Tests) == 0 {
		return nil, strictyaml.Wrong(root, "tests", "there are none, which would show nothing")
	}
	return f, nil
}

// text reads a text of 1 to most bytes.
func text(most int, to *string) strictyaml.Reader {
	return func(n *node, field string) (err error) { *to, err = strictyaml.TextOf(n, field, most); return err }
}

// word reads one of several words.
func word(of []string, to *string) strictyaml.Reader {
	return func(n *node, field string) (err error) {
		if *to, err = strictyaml.Text(n, field); err == nil && !slices.Contains(of, *to) {
			err = strictyaml.Wrong(n, field, "%.40q must be one of %s", n.Value, strings.TrimPrefix(strings.Join(of, ", "), ", "))
		}
		return err
	}
}

func list(most int, to *[]string) strictyaml.Reader {
	return func(n *node, field string) error {
		*to = []string{}
		return strictyaml.Items(n, field, most, func(n *node, field string) error {
			s, err := strictyaml.Text(n, field)
			*to = append(*to, s)
			return err
		})
	}
}

func truth(to *bool) strictyaml.Reader {
	return func(n *node, field string) error { return strictyaml.Bool(n, field, to) }
}

func decodeTest(n *node, field string) (t Test, err error) {
	t.Line = n.Line
	var expect string
	seen, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"name":    text(256, &t.Name),
		"request": func(n *node, field string) (err error) { t.Request, err = decodeRequest(n, field); return err },
		"expect":  word([]string{"allow", "deny"}, &expect),
		"by": func(n *node, field string) error {
			t.By = new([]string)
			return list(MaxPolicies, t.By)(n, field)
		},
		"conditions": func(n *node, field string) error {
			t.Conditions = &Conditions{}
			return decodeConditions(n, field, t.Conditions)
		},
	})
	if err != nil {
		return t, err
	}
	for _, f := range []string{"request", "expect"} {
		if !slices.Contains(seen, f) {
			return t, strictyaml.Wrong(n, field+"."+f, "it is missing")
		}
	}
	t.Allow = expect == "allow"
	if t.Name == "" {
		t.Name = fmt.Sprintf("%s %s %s", t.Request.Principal, t.Request.Action, t.Request.Resource)
	}
	return t, nil
}

func decodeConditions(n *node, field string, c *Conditions) error {
	_, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"mfa":       truth(&c.MFA),
		"read_only": truth(&c.ReadOnly),
		"isolation": word(Isolations, &c.Isolation),
		"rate": func(n *node, field string) error {
			text, err := strictyaml.Text(n, field)
			if err != nil {
				return err
			}
			if c.Rate, err = ParseRate(text); err != nil {
				return strictyaml.Wrong(n, field, "%v", err)
			}
			return nil
		},
	})
	return err
}

// decodeRequest reads a request. Of trust and level either gives the other; without both it is what an identity begins with.
func decodeRequest(n *node, field string) (r Request, err error) {
	r = Request{Time: TestTime}
	trust, level := float64(startTrust), ""
	seen, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"principal": text(maxPrincipal, &r.Principal),
		"kind":      word(Kinds, &r.Kind),
		"roles":     list(maxRoles, &r.Roles),
		"action":    word(Actions, &r.Action),
		"resource":  text(maxPath, &r.Resource),
		"trust":     func(n *node, field string) error { return strictyaml.Number(n, field, 0, 100, &trust) },
		"level":     word(levels, &level),
		"mfa":       truth(&r.MFA),
		"isolation": word(Isolations, &r.Isolation),
		"remote": func(n *node, field string) error {
			text, err := strictyaml.Text(n, field)
			if err != nil {
				return err
			}
			if r.Remote, err = netip.ParseAddr(text); err != nil {
				return strictyaml.Wrong(n, field, "%.60q must be an address as 10.0.0.1", text)
			}
			return nil
		},
		"time": func(n *node, field string) error {
			text, err := strictyaml.Text(n, field)
			if err != nil {
				return err
			}
			if r.Time, err = time.Parse(time.RFC3339, text); err != nil {
				return strictyaml.Wrong(n, field, "%.60q must be a time as 2026-01-31T09:30:00Z", text)
			}
			return nil
		},
		"attributes": func(n *node, field string) error {
			r.Attributes = map[string]string{}
			if len(n.Content) > 2*maxAttributes {
				return strictyaml.Wrong(n, field, "there are more than %d", maxAttributes)
			}
			_, err := strictyaml.Each(n, field, func(key, value *node, field string) error {
				var v string
				err := text(maxAttribute, &v)(value, field)
				r.Attributes[key.Value] = v
				return err
			})
			return err
		},
	})
	if err != nil {
		return r, err
	}
	for _, f := range []string{"principal", "kind", "action", "resource"} {
		if !slices.Contains(seen, f) {
			return r, strictyaml.Wrong(n, field+"."+f, "it is missing")
		}
	}
	r.Trust = int(trust)
	if float64(r.Trust) != trust {
		return r, strictyaml.Wrong(n, field+".trust", "it must be a whole number")
	}
	if err := r.SetLevel(level, slices.Contains(seen, "trust")); err != nil {
		return r, strictyaml.Wrong(n, field+".level", "%v", err)
	}
	return r, nil
}

// startTrust is what an identity begins with.
const startTrust = 50

// SetLevel sets the level by its name, and the least trust that has it where none was given; "" is the level that the trust has.
func (r *Request) SetLevel(name string, trustGiven bool) (err error) {
	r.Level = LevelOf(r.Trust)
	if name == "" {
		return nil
	}
	if r.Level, err = ParseLevel(name); err != nil {
		return err
	}
	switch {
	case !trustGiven:
		r.Trust = r.Level.Trust()
	case r.Level > LevelOf(r.Trust):
		return fmt.Errorf("%s is above what a trust of %d has: %s", name, r.Trust, LevelOf(r.Trust))
	}
	return nil
}

// Run says in what the set's answer is another than the one that is expected; nothing where it is the one.
func (t *Test) Run(s *Set) []string {
	var wrong []string
	res := s.Decide(&t.Request)
	if res.Allow != t.Allow {
		wrong = append(wrong, fmt.Sprintf("expected %s, got %s: %s", verdict(t.Allow), verdict(res.Allow), res.Reason+by(res.Policies)))
	}
	if t.By != nil {
		for _, id := range *t.By {
			if !slices.Contains(s.ids, id) {
				wrong = append(wrong, fmt.Sprintf("there is no policy %q", id))
			}
		}
		if !slices.Equal(slices.Sorted(slices.Values(*t.By)), slices.Sorted(slices.Values(res.Policies))) {
			wrong = append(wrong, fmt.Sprintf("expected to be decided by [%s], got [%s]", strings.Join(*t.By, ", "), strings.Join(res.Policies, ", ")))
		}
	}
	if t.Conditions != nil && *t.Conditions != res.Conditions {
		wrong = append(wrong, fmt.Sprintf("expected the conditions [%s], got [%s]", t.Conditions, res.Conditions))
	}
	return wrong
}

func verdict(allow bool) string {
	if allow {
		return "allow"
	}
	return "deny"
}

func by(policies []string) string {
	if len(policies) == 0 {
		return ""
	}
	return " (" + strings.Join(policies, ", ") + ")"
}
