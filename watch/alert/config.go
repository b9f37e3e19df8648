// Package alert tells people: by webhook, Slack or PagerDuty, as rules in a file say. It knows nothing of when: package watch
// calls it once for each cause and channel.
package alert

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/quantra-l/quantra/analyze"
)

// ErrInvalid says that a file of rules is wrong. The text says where and what to do.
var ErrInvalid = errors.New("invalid alert rules")

// Config is a file of rules: docs/alerts.md.
type Config struct {
	Channels []Channel `yaml:"channels"`
	// Rules: a finding goes to the channels of each rule that it matches. Without any, one rule sends to all channels what
	// DefaultKinds has.
	Rules []Rule `yaml:"rules"`
	// Changes: what happens to a change of the fleet goes to the channels of each rule that it matches. Without any of both sorts of rules
	// one sends to all channels what DefaultWhats has.
	Changes []ChangeRule `yaml:"changes"`
	// Files: what is wrong with watched files goes to the channels of each rule that it matches. Without any of the three sorts of rules one sends
	// all of severity warning to all channels.
	Files []FileRule `yaml:"files"`
}

// FileRule says which events of watched files go where.
type FileRule struct {
	Name        string   `yaml:"name"`
	MinSeverity string   `yaml:"min_severity"` // of FileSeverities; "" is warning
	Channels    []string `yaml:"channels"`
}

// FileSeverities are how bad an event of watched files can be that is told, as package integrity has them.
var FileSeverities = []string{"warning", "critical"}

// ChangeRule says what of which changes goes where.
type ChangeRule struct {
	Name     string   `yaml:"name"`
	Kinds    []string `yaml:"kinds"`    // of ChangeKinds; none is all
	Services []string `yaml:"services"` // patterns as checkout*; none is all
	What     []string `yaml:"what"`     // of Whats; none is DefaultWhats
	Channels []string `yaml:"channels"`
}

// ChangeKinds are the kinds of changes, as package optimize has them.
var ChangeKinds = []string{"runtime", "pgo", "scale", "machine", "rebalance", "patch"}

// Whats are what can be told of changes: of one, or with "breaker", "paused" and "resumed" also of all.
var Whats = []string{"proposed", "waiting", "started", "approved", "stage", "verdict", "undoing", "undone", "failed", "done", "withdrawn", "paused", "resumed", "breaker", "not_undone"}

// DefaultWhats is what a team wants to see of changes.
var DefaultWhats = []string{"proposed", "started", "verdict", "undone", "failed", "done", "paused", "resumed", "breaker", "not_undone"}

// Channel is where alerts go. Secrets are named, not written: a file of rules lies in a repository.
type Channel struct {
	Name string `yaml:"name"`
	Type string `yaml:"type"` // webhook, slack, pagerduty
	// URL is where to post. Slack's is a secret: give it by URLEnv. PagerDuty's has a default.
	URL    string `yaml:"url"`
	URLEnv string `yaml:"url_env"`
	// KeyEnv names the variable with PagerDuty's routing key, or with the key that signs a webhook's body.
	KeyEnv string `yaml:"key_env"`

	url, key string // resolved
}

// Rule says which findings go where.
type Rule struct {
	Name     string         `yaml:"name"`
	Kinds    []analyze.Kind `yaml:"kinds"`     // none is DefaultKinds
	Services []string       `yaml:"services"`  // patterns as checkout*; none is all
	MinMonth float64        `yaml:"min_month"` // money a month, in the price file's currency; what has no price passes
	MinShare float64        `yaml:"min_share"` // of the service, 0 to 1; what is no share passes
	Channels []string       `yaml:"channels"`
	Fixed    *bool          `yaml:"fixed"` // tell also when it is fixed; true if left out
}

// DefaultKinds is what is worth waking somebody, or at least their channel.
var DefaultKinds = []analyze.Kind{analyze.Regression, analyze.GoroutineLeak, analyze.GoroutineGrowth, analyze.Recursion, analyze.Contention, analyze.Blocking, analyze.GCPressure, analyze.Transition, analyze.Anomaly}

// maxConfig bounds a file of rules.
const maxConfig = 256 << 10

var channelName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)

// Load reads and checks a file of rules. env is os.LookupEnv. Errors wrap ErrInvalid.
func Load(name string, env func(string) (string, bool)) (*Config, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
	}
	c, err := Parse(raw, env)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// Parse is Load of bytes.
func Parse(raw []byte, env func(string) (string, bool)) (*Config, error) {
	if len(raw) > maxConfig {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrInvalid, maxConfig)
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	var c Config
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %s", ErrInvalid, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: there is more than one document", ErrInvalid)
	}
	if err := c.check(env); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return &c, nil
}

func (c *Config) check(env func(string) (string, bool)) error {
	if len(c.Channels) == 0 {
		return errors.New("there are no channels: nobody would be told")
	}
	names := map[string]bool{}
	for i := range c.Channels {
		ch := &c.Channels[i]
		if !channelName.MatchString(ch.Name) {
			return fmt.Errorf("channel %d: name %.40q: it must be letters, digits and _.-, from 1 to 63", i+1, ch.Name)
		}
		if names[ch.Name] {
			return fmt.Errorf("channel %s is there twice", ch.Name)
		}
		names[ch.Name] = true
		if err := ch.resolve(env); err != nil {
			return fmt.Errorf("channel %s: %w", ch.Name, err)
		}
	}
	if len(c.Rules) == 0 {
		all := Rule{Name: "default"}
		for _, ch := range c.Channels {
			all.Channels = append(all.Channels, ch.Name)
		}
		c.Rules = []Rule{all}
		if len(c.Changes) == 0 {
			c.Changes = []ChangeRule{{Name: "default", Channels: all.Channels}}
			if len(c.Files) == 0 {
				c.Files = []FileRule{{Name: "default", Channels: all.Channels}}
			}
		}
	}
	for i := range c.Files {
		if err := c.Files[i].check(names); err != nil {
			return fmt.Errorf("files rule %s: %w", cmp.Or(c.Files[i].Name, strconv.Itoa(i+1)), err)
		}
	}
	for i := range c.Changes {
		if err := c.Changes[i].check(names); err != nil {
			return fmt.Errorf("changes: rule %d %.40s: %w", i+1, c.Changes[i].Name, err)
		}
	}
	for i := range c.Rules {
		if err := c.Rules[i].check(names); err != nil {
			return fmt.Errorf("rule %d %.40s: %w", i+1, c.Rules[i].Name, err)
		}
	}
	return nil
}

func (r *Rule) check(channels map[string]bool) error {
	if len(r.Kinds) == 0 {
		r.Kinds = DefaultKinds
	}
	for _, k := range r.Kinds {
		if !slices.Contains(analyze.Kinds, k) {
			return fmt.Errorf("kind %.40q is none of %v", k, analyze.Kinds)
		}
	}
	if err := checkPatterns(r.Services); err != nil {
		return err
	}
	if r.MinMonth < 0 || !(r.MinShare >= 0 && r.MinShare <= 1) {
		return fmt.Errorf("min_month is 0 or more, min_share from 0 to 1; they are %v and %v", r.MinMonth, r.MinShare)
	}
	return checkChannels(r.Channels, channels)
}

func checkPatterns(patterns []string) error {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("service %.40q: %w", p, err)
		}
	}
	return nil
}

func checkChannels(names []string, channels map[string]bool) error {
	if len(names) == 0 {
		return errors.New("it has no channels")
	}
	for _, n := range names {
		if !channels[n] {
			return fmt.Errorf("there is no channel %.40q", n)
		}
	}
	return nil
}

func (r *FileRule) check(channels map[string]bool) error {
	r.MinSeverity = cmp.Or(r.MinSeverity, FileSeverities[0])
	if !slices.Contains(FileSeverities, r.MinSeverity) {
		return fmt.Errorf("min_severity %.40q is none of %v", r.MinSeverity, FileSeverities)
	}
	return checkChannels(r.Channels, channels)
}

func (r *ChangeRule) check(channels map[string]bool) error {
	if len(r.What) == 0 {
		r.What = DefaultWhats
	}
	for _, w := range r.What {
		if !slices.Contains(Whats, w) {
			return fmt.Errorf("what %.40q is none of %v", w, Whats)
		}
	}
	for _, k := range r.Kinds {
		if !slices.Contains(ChangeKinds, k) {
			return fmt.Errorf("kind %.40q is none of %v", k, ChangeKinds)
		}
	}
	if err := checkPatterns(r.Services); err != nil {
		return err
	}
	return checkChannels(r.Channels, channels)
}

func (ch *Channel) resolve(env func(string) (string, bool)) error {
	named := func(name string) (string, error) {
		v, ok := env(name)
		if !ok || v == "" {
			return "", fmt.Errorf("the environment variable %s is not set", name)
		}
		return v, nil
	}
	var err error
	ch.url = ch.URL
	if ch.URLEnv != "" {
		if ch.URL != "" {
			return errors.New("url and url_env are the same thing: give one")
		}
		if ch.url, err = named(ch.URLEnv); err != nil {
			return err
		}
	}
	if ch.KeyEnv != "" {
		if ch.key, err = named(ch.KeyEnv); err != nil {
			return err
		}
	}
	switch ch.Type {
	case "webhook", "slack":
		if ch.url == "" {
			return errors.New("it has neither url nor url_env")
		}
		if ch.Type == "slack" && ch.KeyEnv != "" {
			return errors.New("key_env is of no use for slack: the URL is the secret")
		}
	case "pagerduty":
		if ch.key == "" {
			return errors.New("it needs key_env: the variable with the routing key of an Events API v2 integration")
		}
		if ch.url == "" {
			ch.url = "https://events.pagerduty.com"
		}
	default:
		return fmt.Errorf("type %.40q is none of webhook, slack, pagerduty", ch.Type)
	}
	u, err := url.Parse(ch.url)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("its URL must be http:// or https:// with a host") // not shown: it may be a secret
	}
	return nil
}

// Route is the channels that a finding goes to, sorted, and of these the ones that hear when it is fixed.
func (c *Config) Route(f *analyze.Finding) (to, fixed []string) {
	for i := range c.Rules {
		r := &c.Rules[i]
		if !r.matches(f) {
			continue
		}
		to = append(to, r.Channels...)
		if r.Fixed == nil || *r.Fixed {
			fixed = append(fixed, r.Channels...)
		}
	}
	slices.Sort(to)
	slices.Sort(fixed)
	return slices.Compact(to), slices.Compact(fixed)
}

// RouteChange is the channels that something about changes goes to, sorted. What is of all services or kinds goes to each rule that has
// it, whatever its services and kinds.
func (c *Config) RouteChange(kind, service, what string) (to []string) {
	for i := range c.Changes {
		r := &c.Changes[i]
		if !slices.Contains(r.What, what) ||
			kind != "" && len(r.Kinds) > 0 && !slices.Contains(r.Kinds, kind) ||
			service != "" && !fits(r.Services, service) {
			continue
		}
		to = append(to, r.Channels...)
	}
	slices.Sort(to)
	return slices.Compact(to)
}

// RouteFile is where an event of watched files goes.
func (c *Config) RouteFile(severity string) (to []string) {
	for i := range c.Files {
		if slices.Index(FileSeverities, severity) >= slices.Index(FileSeverities, c.Files[i].MinSeverity) {
			to = append(to, c.Files[i].Channels...)
		}
	}
	slices.Sort(to)
	return slices.Compact(to)
}

// fits says whether a service is one of those that patterns name; none names all.
func fits(patterns []string, service string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, service); return ok })
}

func (r *Rule) matches(f *analyze.Finding) bool {
	if !slices.Contains(r.Kinds, f.Kind) {
		return false
	}
	if !fits(r.Services, f.Service) {
		return false
	}
	if f.Price != nil && f.Price.Amount < r.MinMonth {
		return false
	}
	if share := max(f.Change.Value, -f.Change.Value); f.Unit == "share" {
		if f.Change == (analyze.Estimate{}) {
			share = f.After.Value
		}
		if share < r.MinShare {
			return false
		}
	}
	return true
}

// Channel is the one of that name, nil if there is none.
func (c *Config) Channel(name string) *Channel {
	for i := range c.Channels {
		if c.Channels[i].Name == name {
			return &c.Channels[i]
		}
	}
	return nil
}
