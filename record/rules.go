package record

import (
	"fmt"
	"io"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/quantra-l/quantra/internal/strictyaml"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// Bounds of a file.
const (
	maxFile    = 1 << 20
	maxRules   = 200
	maxRemotes = 10
	maxGroups  = 10
)

// Config is what a file says.
type Config struct {
	Rules   []Rule
	Remotes []Remote
}

// Rule makes one series, or one for each group, of a profile type.
type Rule struct {
	Name     string // of the metric
	Tenant   string
	Type     profile.Type
	Matchers []store.Matcher
	Function string // "" is all of the type
	Share    bool   // of the type's total in the same group, 0 to 1; else the sum of the minute, in the sample's unit
	Self     bool   // what the function does itself; else with all that it calls
	GroupBy  []string
	Labels   map[string]string // further ones of the series
}

// Remote is where series are sent by Prometheus's remote write.
type Remote struct {
	URL       string
	Version   int // 1 or 2; 0 is 2, and 1 where the receiver knows no 2
	TokenFile string
	User      string // with PasswordFile
	Password  string // the file that it is in
	Headers   map[string]string
}

// Names as Prometheus has them. Ours, and those of the libraries that we show metrics of, are taken.
var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	taken      = []string{"quantra_", "go_", "process_", "promhttp_"}
)

// Parse reads a file of rules.
func Parse(r io.Reader) (*Config, error) {
	root, err := strictyaml.Parse(r, maxFile)
	if err != nil {
		return nil, err
	}
	c := &Config{}
	_, err = strictyaml.Fields(root, "", map[string]strictyaml.Reader{
		"rules": func(n *strictyaml.Node, f string) error {
			return strictyaml.Items(n, f, maxRules, func(n *strictyaml.Node, f string) error {
				rule, err := readRule(n, f)
				c.Rules = append(c.Rules, rule)
				return err
			})
		},
		"remote_write": func(n *strictyaml.Node, f string) error {
			return strictyaml.Items(n, f, maxRemotes, func(n *strictyaml.Node, f string) error {
				remote, err := readRemote(n, f)
				c.Remotes = append(c.Remotes, remote)
				return err
			})
		},
	})
	if err != nil {
		return nil, err
	}
	if len(c.Rules) == 0 {
		return nil, strictyaml.Wrong(root, "rules", "there is none: nothing would be recorded")
	}
	return c, nil
}

func readRule(n *strictyaml.Node, within string) (Rule, error) {
	r := Rule{Labels: map[string]string{}}
	text := func(to *string) strictyaml.Reader {
		return func(n *strictyaml.Node, f string) (err error) {
			*to, err = strictyaml.TextOf(n, f, profile.MaxLabelValue)
			return err
		}
	}
	choice := func(to *bool, no, yes string) strictyaml.Reader {
		return func(n *strictyaml.Node, f string) error {
			if *to = n.Value == yes; n.Value != yes && n.Value != no {
				return strictyaml.Wrong(n, f, "%.40q: it must be %s or %s", n.Value, no, yes)
			}
			return nil
		}
	}
	seen, err := strictyaml.Fields(n, within, map[string]strictyaml.Reader{
		"record": text(&r.Name), "tenant": text(&r.Tenant), "function": text(&r.Function),
		"value": choice(&r.Share, "sum", "share"), "of": choice(&r.Self, "total", "self"),
		"profile_type": func(n *strictyaml.Node, f string) (err error) {
			if r.Type, err = profile.ParseType(n.Value); err != nil {
				return strictyaml.Wrong(n, f, "%v", err)
			}
			return nil
		},
		"matchers": func(n *strictyaml.Node, f string) (err error) {
			if r.Matchers, err = store.ParseMatchers(n.Value); err != nil {
				return strictyaml.Wrong(n, f, "%v", err)
			}
			return nil
		},
		"group_by": func(n *strictyaml.Node, f string) error {
			return strictyaml.Items(n, f, maxGroups, func(n *strictyaml.Node, f string) error {
				if err := profile.CheckLabelName(n.Value); err != nil {
					return strictyaml.Wrong(n, f, "%v", err)
				}
				r.GroupBy = append(r.GroupBy, n.Value)
				return nil
			})
		},
		"labels": func(n *strictyaml.Node, f string) error { return readPairs(n, f, r.Labels, profile.CheckLabelName) },
	})
	if err != nil {
		return r, err
	}
	for _, must := range []string{"record", "profile_type"} {
		if !slices.Contains(seen, must) {
			return r, strictyaml.Wrong(n, within+"."+must, "it is missing")
		}
	}
	if !metricName.MatchString(r.Name) || slices.ContainsFunc(taken, func(p string) bool { return strings.HasPrefix(r.Name, p) }) {
		return r, strictyaml.Wrong(n, within+".record", "%.40q: it must be a metric's name, that does not begin with any of %v", r.Name, taken)
	}
	if r.Function == "" && (r.Share || slices.Contains(seen, "of")) {
		return r, strictyaml.Wrong(n, within+".function", "it is missing: a share, and what it is of, are a function's")
	}
	for _, name := range r.GroupBy {
		if _, ok := r.Labels[name]; ok {
			return r, strictyaml.Wrong(n, within+".labels", "%s is in group_by as well", name)
		}
	}
	return r, nil
}

func readPairs(n *strictyaml.Node, within string, to map[string]string, check func(string) error) error {
	_, err := strictyaml.Each(n, within, func(key, value *strictyaml.Node, f string) error {
		if err := check(key.Value); err != nil {
			return strictyaml.Wrong(key, f, "%v", err)
		}
		v, err := strictyaml.TextOf(value, f, profile.MaxLabelValue)
		to[key.Value] = v
		return err
	})
	return err
}

func readRemote(n *strictyaml.Node, within string) (Remote, error) {
	r := Remote{Headers: map[string]string{}}
	text := func(to *string) strictyaml.Reader {
		return func(n *strictyaml.Node, f string) (err error) {
			*to, err = strictyaml.TextOf(n, f, 4096)
			return err
		}
	}
	_, err := strictyaml.Fields(n, within, map[string]strictyaml.Reader{
		"url": text(&r.URL), "token_file": text(&r.TokenFile), "username": text(&r.User), "password_file": text(&r.Password),
		"version": func(n *strictyaml.Node, f string) error {
			var v float64
			err := strictyaml.Number(n, f, 1, 2, &v)
			if r.Version = int(v); err == nil && float64(r.Version) != v {
				err = strictyaml.Wrong(n, f, "it must be 1 or 2")
			}
			return err
		},
		"headers": func(n *strictyaml.Node, f string) error {
			return readPairs(n, f, r.Headers, func(name string) error {
				if strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || len(name) > 64 {
					return fmt.Errorf("%.40q is not a header's name", name)
				}
				return nil
			})
		},
	})
	if err != nil {
		return r, err
	}
	u, err := url.Parse(r.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return r, strictyaml.Wrong(n, within+".url", "it must be an address as http://localhost:9090/api/v1/write, without a password in it")
	}
	if (r.User == "") != (r.Password == "") || r.User != "" && r.TokenFile != "" {
		return r, strictyaml.Wrong(n, within, "it must have username and password_file, or token_file, or neither")
	}
	return r, nil
}

// labelsOf are a series' labels, sorted by name as remote write wants them, the metric's name among them.
func (r *Rule) labelsOf(group profile.Labels) []profile.Label {
	ls := []profile.Label{{Name: "__name__", Value: r.Name}}
	for _, name := range slices.Sorted(maps.Keys(r.Labels)) {
		ls = append(ls, profile.Label{Name: name, Value: r.Labels[name]})
	}
	for _, l := range group {
		ls = append(ls, profile.Label{Name: strings.TrimLeft(l.Name, "_"), Value: l.Value}) // names with two at the start are Prometheus's own
	}
	slices.SortFunc(ls, func(a, b profile.Label) int { return strings.Compare(a.Name, b.Name) })
	return ls
}
