package clickhouse

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/store"
)

var update = flag.Bool("update", false, "write testdata anew")

func TestURL(t *testing.T) {
	for _, c := range []struct{ url, base, text string }{
		{"clickhouse://db", "http://db:8123/", "db:8123/default"},
		{"clickhouse://u:p%40ss@db:9/x", "http://db:9/", "db:9/x"},
		{"clickhouse://db/x?secure=true", "https://db:8443/", "db:8443/x"},
		{"clickhouse://[::1]/x?cluster=c1&storage_policy=tiers&cold_volume=cold&timeout=5s&insert.insert_quorum=2&select.max_threads=4", "http://[::1]:8123/", "[::1]:8123/x (cluster c1)"},
	} {
		got, err := parseURL(c.url)
		if err != nil || got.base.String() != c.base || got.String() != c.text {
			t.Errorf("%s: %s, %s, %v", c.url, got.base.String(), got, err)
		}
	}
	for url, says := range map[string]string{
		"http://db/x":                         `scheme is "http"`,
		"clickhouse:///x":                     "no host",
		"clickhouse://u:s3cret@db:x/%zz":      "cannot be read",
		"clickhouse://u:s3cret@db/a'b":        "letters, digits",
		"clickhouse://db/x?cluster=a`b":       "letters, digits",
		"clickhouse://db/x?nope=1":            "unknown option",
		"clickhouse://db/x?insert.A=1":        "unknown option",
		"clickhouse://db/x?timeout=soon":      `timeout="soon"`,
		"clickhouse://db/x?timeout=0s":        "more than 0",
		"clickhouse://db/x?secure=perhaps":    `secure="perhaps"`,
		"clickhouse://db/x?cluster=a&cluster": "2 times",
		"clickhouse://db/x?cold_volume=cold":  "needs the storage_policy",
	} {
		if _, err := parseURL(url); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// TestClusterSQL is what a cluster is asked to make, word for word. Run with -update after a change that is meant.
func TestClusterSQL(t *testing.T) {
	target, err := parseURL("clickhouse://db/profiles?cluster=main&storage_policy=tiers&cold_volume=cold")
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(ClusterSQL(target), ";\n\n") + ";\n"
	name := filepath.Join("testdata", "cluster.sql")
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil || strings.ReplaceAll(string(want), "\r\n", "\n") != got {
		t.Errorf("%v; have\n%s", err, got)
	}
}

// ClusterSQL is all statements that make and alter tables.
func ClusterSQL(t target) []string {
	out := append([]string{t.createSchema()}, migrations[0](t)...)
	return append(out, t.ttl(&Options{Retention: 30 * 24 * time.Hour, ColdAfter: 7 * 24 * time.Hour, Keep: []Keep{{Tenant: "o'neil", Service: "shop", For: -1}, {Service: "batch", For: time.Hour}}})...)
}
