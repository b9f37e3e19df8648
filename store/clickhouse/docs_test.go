package clickhouse_test

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/clickhouse/clickhousetest"
	"github.com/quantra-l/quantra/store/storetest"
)

// TestPage runs the SQL of docs/clickhouse.md and holds it to what the store answers.
func TestPage(t *testing.T) {
	raw, err := os.ReadFile("../../docs/clickhouse.md")
	if err != nil {
		t.Fatal(err)
	}
	name, url := newDatabase(t)
	fs := vfs.NewMem()
	db := openStore(t, fs, openBackend(t, fs, url, trusting))
	uploads(t, db, 4, 120)
	if err := db.Close(); err != nil { // a restart ends the last segment
		t.Fatal(err)
	}
	db = openStore(t, fs, openBackend(t, fs, url, careful))
	for range 30_000 {
		if db.Stats().Profiles == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	defer db.Close()
	rows := map[string][][]string{}
	for _, m := range regexp.MustCompile("(?s)```sql (\\w+)\n(.*?)```").FindAllStringSubmatch(string(raw), -1) {
		for line := range strings.Lines(clickhousetest.Query(t, name, m[2])) {
			rows[m[1]] = append(rows[m[1]], strings.Split(strings.TrimSpace(line), "\t"))
		}
	}
	for _, of := range []string{"top", "hours", "lines", "weight"} {
		if len(rows[of]) < 3 {
			t.Errorf("%s: %q", of, rows[of])
		}
	}

	q := anything
	q.Matchers = []store.Matcher{{Name: profile.LabelService, Value: "s1"}}
	q.From = storetest.Epoch.Add(-4000 * time.Second).Truncate(time.Minute)
	r, err := db.Select(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	var want [][]string
	for _, x := range profile.Top(r.Profile, 0) {
		want = append(want, []string{x.Name, fmt.Sprint(x.Self), fmt.Sprint(x.Total)})
	}
	number := func(s string) int64 { n, _ := strconv.ParseInt(s, 10, 64); return n }
	slices.SortFunc(want, func(a, b []string) int {
		return cmp.Or(cmp.Compare(number(b[1]), number(a[1])), cmp.Compare(a[0], b[0]))
	})
	want = slices.DeleteFunc(want, func(r []string) bool { return !strings.HasPrefix(r[0], "f") })
	if !slices.EqualFunc(rows["top"], want[:min(20, len(want))], slices.Equal[[]string]) {
		t.Errorf("top functions\n%q\nwant\n%q", rows["top"], want)
	}
	sum := int64(0)
	for _, row := range rows["hours"] {
		sum += number(row[2])
	}
	if r, err = db.Select(t.Context(), anything); err != nil || r.Profile.Total(0) != sum {
		t.Errorf("a total of %d: %v", sum, err)
	}
}

// TestClusterSyntax: the engine reads what a cluster is asked to make.
func TestClusterSyntax(t *testing.T) {
	raw, err := os.ReadFile("testdata/cluster.sql")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for s := range strings.SplitSeq(string(raw), ";\n") {
		if s = strings.TrimSpace(s); s != "" {
			n++
			clickhousetest.Query(t, "default", "EXPLAIN AST "+s)
		}
	}
	if n < 20 {
		t.Errorf("%d statements", n)
	}
}
