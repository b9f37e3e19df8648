package clickhouse

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quantra-l/quantra/store"
)

// target is what a URL says.
type target struct {
	base           url.URL // of the HTTP interface, without credentials
	user, password string
	database       string
	cluster        string        // "": one server
	policy         string        // storage policy of the tables; "": the server's default
	coldVolume     string        // where old parts go; "": nowhere
	timeout        time.Duration // of one statement
	// Settings that go with every insert and every question, sorted by name.
	insert, ask []setting
}

type setting struct{ name, value string }

// String is the target without the password.
func (t target) String() string {
	s := t.base.Host + "/" + t.database
	if t.cluster != "" {
		s += " (cluster " + t.cluster + ")"
	}
	return s
}

const defaultTimeout = 2 * time.Minute

// identifier is what names of databases, clusters, policies and volumes may be here: they stand in statements
// that name paths and macros, where not every character that ClickHouse would take is safe.
var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)

var settingName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,99}$`)

// parseURL reads a URL. No error has the password in it.
func parseURL(s string) (target, error) {
	bad := func(format string, args ...any) (target, error) {
		return target{}, fmt.Errorf("clickhouse: %w: URL: %s; it should be clickhouse://user:password@host:8123/database", store.ErrInvalid, fmt.Sprintf(format, args...))
	}
	u, err := url.Parse(s)
	if err != nil {
		return bad("it cannot be read") // url.Parse would quote all of it
	}
	if u.Scheme != "clickhouse" {
		return bad("the scheme is %q", u.Scheme)
	}
	if u.Hostname() == "" {
		return bad("no host")
	}
	t := target{user: u.User.Username(), database: strings.Trim(u.Path, "/"), timeout: defaultTimeout}
	t.password, _ = u.User.Password()
	if t.database == "" {
		t.database = "default"
	}
	secure := false
	q := u.Query()
	for _, name := range sortedKeys(q) {
		if len(q[name]) != 1 {
			return bad("%s is given %d times", name, len(q[name]))
		}
		v := q[name][0]
		switch prefix, rest, _ := strings.Cut(name, "."); {
		case name == "cluster":
			t.cluster = v
		case name == "storage_policy":
			t.policy = v
		case name == "cold_volume":
			t.coldVolume = v
		case name == "timeout":
			t.timeout, err = time.ParseDuration(v)
		case name == "secure":
			secure, err = strconv.ParseBool(v)
		case prefix == "insert" && settingName.MatchString(rest):
			t.insert = append(t.insert, setting{rest, v})
		case prefix == "select" && settingName.MatchString(rest):
			t.ask = append(t.ask, setting{rest, v})
		default:
			return bad("unknown option %.100q; there are cluster, storage_policy, cold_volume, timeout, secure, insert.SETTING and select.SETTING", name)
		}
		if err != nil {
			return bad("%s=%.100q: %v", name, v, err)
		}
	}
	for name, v := range map[string]string{"database": t.database, "cluster": t.cluster, "storage_policy": t.policy, "cold_volume": t.coldVolume} {
		if v != "" && !identifier.MatchString(v) {
			return bad("%s %.100q: letters, digits, _ and - may be in it", name, v)
		}
	}
	if t.timeout <= 0 {
		return bad("timeout must be more than 0")
	}
	if t.coldVolume != "" && t.policy == "" {
		return bad("cold_volume %q needs the storage_policy that has it", t.coldVolume)
	}
	t.base = url.URL{Scheme: "http", Host: u.Host, Path: "/"}
	port := "8123"
	if secure {
		t.base.Scheme, port = "https", "8443"
	}
	if u.Port() == "" {
		t.base.Host = net.JoinHostPort(u.Hostname(), port)
	}
	return t, nil
}

func sortedKeys(q url.Values) []string {
	names := make([]string, 0, len(q))
	for name := range q {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
