package block_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
	"github.com/quantra-l/quantra/store/clickhouse/clickhousetest"
)

const cpuType = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"

func TestMain(m *testing.M) {
	clickhousetest.Main()
	os.Exit(m.Run())
}

// duckdb reads statements from its input, JSON, and writes the rows of each.
const duckdb = `
import duckdb, json, sys
con = duckdb.connect()
con.execute("SET TimeZone = 'UTC'")
out = []
for s in json.load(sys.stdin):
    if s.startswith("CREATE"):
        con.execute(s)
        out.append([])
    else:
        out.append(con.execute("SELECT CAST(COLUMNS(*) AS VARCHAR) FROM (" + s + ")").fetchall())
json.dump(out, sys.stdout)
`

// missing says that an engine is not here.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("QUANTRA_CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// answers runs the page's SQL in an engine: the rows of each statement.
func answers(t *testing.T, engine string, statements []string) (all [][][]string) {
	t.Helper()
	if engine == "clickhouse" {
		db := clickhousetest.Database(t)
		for _, s := range statements {
			rows := [][]string{}
			if !strings.HasPrefix(s, "CREATE") {
				s += " FORMAT JSONCompactStringsEachRow"
			}
			for dec := json.NewDecoder(strings.NewReader(clickhousetest.Query(t, db, s))); dec.More(); {
				var row []string
				if err := dec.Decode(&row); err != nil {
					t.Fatal(err)
				}
				rows = append(rows, row)
			}
			all = append(all, rows)
		}
		return all
	}
	python := cmp.Or(os.Getenv("QUANTRA_PYTHON"), "python3")
	if exec.Command(python, "-c", "import duckdb").Run() != nil {
		missing(t, "QUANTRA_PYTHON (python3 if unset) has no module duckdb (pip install duckdb): the SQL of docs/format/block.md is not held to DuckDB")
	}
	raw, err := json.Marshal(statements)
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), python, "-c", duckdb)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(raw), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatalf("%v\n%.2000s", err, out)
	}
	return all
}

// page is the SQL of docs/format/block.md by name.
func page(t *testing.T) map[string]string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/format/block.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)```sql (\\w+)\n(.*?)```").FindAllStringSubmatch(string(raw), -1) {
		out[m[1]] = m[2]
	}
	if n := strings.Count(string(raw), "```sql"); n != len(out) || n < 7 {
		t.Fatalf("%d pieces of SQL with names, the page has %d", len(out), n)
	}
	return out
}

// shop are profiles of two versions of a service, and of another.
func shop(t *testing.T, rng *rand.Rand, n int) []timed {
	t.Helper()
	ps := randomProfiles(t, rng, n)
	for i := range ps {
		labels := []profile.Label{{Name: profile.LabelService, Value: "cart"}}
		if rng.IntN(4) > 0 {
			labels = []profile.Label{{Name: profile.LabelService, Value: "shop"}, {Name: profile.LabelVersion, Value: []string{"v1", "v2"}[rng.IntN(2)]}, {Name: profile.LabelInstance, Value: fmt.Sprint(rng.IntN(3))}}
		}
		ls, err := profile.NewLabels(labels...)
		if err != nil {
			t.Fatal(err)
		}
		ps[i].labels = ls
		if i < 4 { // the page asks about CPU
			for ps[i].name != "process_cpu" {
				ps[i].p = randomProfiles(t, rng, 1)[0].p
				if ps[i].p.PeriodType.Type == "cpu" {
					ps[i].name = "process_cpu"
				}
			}
		}
	}
	return ps
}

// TestSQL runs the page's SQL over blocks of which one has been replaced by another, and holds each answer
// to a naive one.
func TestSQL(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 11))
	dir := t.TempDir()
	id := uint64(0)
	var sources []ulid.ULID
	var all []*content
	put := func(level block.Level, ps []timed, counts bool) {
		id++
		c := contentOf(t, level, ps)
		c.meta.ULID = ulid.MustNew(id, bytes.NewReader(make([]byte, 10)))
		c.meta.Sources = sources
		if _, err := c.write(vfs.Default, filepath.Join(dir, c.meta.ULID.String())); err != nil {
			t.Fatal(err)
		}
		os.RemoveAll(filepath.Join(dir, c.meta.ULID.String()+".low"))
		sources = []ulid.ULID{c.meta.ULID}
		if counts {
			all, sources = append(all, c), nil
		}
	}
	first, second := shop(t, rng, 40), shop(t, rng, 40)
	put(block.LevelHead, first, false)
	put(block.LevelHour, first, true)
	put(block.LevelHead, second, true)

	sql := page(t)
	want := naive(all)
	for _, engine := range []string{"clickhouse", "duckdb"} {
		t.Run(engine, func(t *testing.T) {
			var statements []string
			for s := range strings.SplitSeq(sql[engine], ";\n") {
				if s = strings.TrimSpace(s); s != "" {
					statements = append(statements, strings.ReplaceAll(s, "BLOCKS", dir))
				}
			}
			views := len(statements)
			var names []string
			for name := range want {
				names = append(names, name)
				statements = append(statements, strings.TrimSpace(sql[name]))
			}
			got := answers(t, engine, statements)
			if len(got) != len(statements) {
				t.Fatalf("%d answers to %d statements", len(got), len(statements))
			}
			for i, name := range names {
				rows := got[views+i]
				for _, r := range rows {
					if name == "trend" {
						r[0] = r[0][:len(time.DateTime)]
					}
				}
				if len(want[name]) < 3 {
					t.Errorf("%s: only %d rows are wanted: that proves little", name, len(want[name]))
				}
				if !slices.EqualFunc(rows, want[name], slices.Equal[[]string]) {
					t.Errorf("%s: %d rows\n%.1500q\nwant %d\n%.1500q", name, len(rows), rows, len(want[name]), want[name])
				}
			}
		})
	}
}

// naive answers what the page asks, sample by sample.
func naive(all []*content) map[string][][]string {
	type pair struct{ own, cum int64 }
	top, trend := map[string]pair{}, map[string]pair{}
	flame, label, lines := map[string]int64{}, map[string]int64{}, map[string]int64{}
	versions, whole := map[string]map[string]int64{"v1": {}, "v2": {}}, map[string]int64{}
	for _, c := range all {
		tb := &c.dict.Tables
		for _, row := range c.rows {
			if c.meta.Types[row.Type] != cpuType {
				continue
			}
			ls := c.meta.Series[row.Series].Labels
			isShop, version := ls.Get(profile.LabelService) == "shop", ls.Get(profile.LabelVersion)
			minute := time.Unix(0, row.From).UTC().Truncate(time.Minute).Format(time.DateTime)
			for i, v := range row.Values {
				path, leaf, line := framesOf(tb, row.Stacks[i])
				if isShop && path != nil {
					flame[strings.Join(path, ";")] += v
				}
				for _, l := range tb.LabelSets[row.Sets[i]] {
					if tb.Strings[l.Key] == "route" {
						label[tb.Strings[l.Str]] += v
					}
				}
				if isShop {
					whole[version] += v
				}
				if leaf == "f7" {
					lines[line] += v
				}
				for f := range onStack(tb, row.Stacks[i]) {
					x := top[f]
					x.cum += v
					if f == leaf {
						x.own += v
					}
					top[f] = x
					if f == "f7" {
						x := trend[minute]
						x.cum += v
						if leaf == f {
							x.own += v
						}
						trend[minute] = x
					}
					if isShop {
						own := int64(0)
						if leaf == f {
							own = v
						}
						versions[version][f] += own
					}
				}
			}
		}
	}
	var topRows, trendRows, diffRows, flameRows, labelRows, lineRows [][]string
	for f, x := range top {
		topRows = append(topRows, []string{f, fmt.Sprint(x.own), fmt.Sprint(x.cum)})
		a, inA := versions["v1"][f]
		b, inB := versions["v2"][f]
		if inA || inB {
			share := func(n int64, version string) int64 {
				return int64(math.Floor(1000000 * float64(n) / float64(whole[version])))
			}
			diffRows = append(diffRows, []string{f, fmt.Sprint(share(a, "v1")), fmt.Sprint(share(b, "v2"))})
		}
	}
	for m, x := range trend {
		trendRows = append(trendRows, []string{m, fmt.Sprint(x.own), fmt.Sprint(x.cum)})
	}
	for p, v := range flame {
		flameRows = append(flameRows, []string{p, fmt.Sprint(v)})
	}
	for r, v := range label {
		labelRows = append(labelRows, []string{r, fmt.Sprint(v)})
	}
	for l, v := range lines {
		lineRows = append(lineRows, append(strings.Split(l, "|"), fmt.Sprint(v)))
	}
	number := func(s string) (n int64) { fmt.Sscan(s, &n); return n }
	byName := func(a, b []string) int { return cmp.Compare(a[0], b[0]) }
	for _, rows := range [][][]string{trendRows, flameRows, labelRows} {
		slices.SortFunc(rows, byName)
	}
	slices.SortFunc(topRows, func(a, b []string) int { return cmp.Or(cmp.Compare(number(b[1]), number(a[1])), byName(a, b)) })
	slices.SortFunc(lineRows, func(a, b []string) int {
		return cmp.Or(cmp.Compare(number(b[2]), number(a[2])), byName(a, b), cmp.Compare(number(a[1]), number(b[1])))
	})
	moved := func(r []string) int64 { return max(number(r[2])-number(r[1]), number(r[1])-number(r[2])) }
	slices.SortFunc(diffRows, func(a, b []string) int { return cmp.Or(cmp.Compare(moved(b), moved(a)), byName(a, b)) })
	return map[string][][]string{"top": topRows[:min(20, len(topRows))], "flame": flameRows, "diff": diffRows[:min(20, len(diffRows))],
		"trend": trendRows, "label": labelRows, "lines": lineRows}
}

// framesOf is a stack's frames, the outermost first, the name of the innermost if it has one, and its file and line.
func framesOf(tb *block.Tables, stack uint32) (path []string, leaf, line string) {
	for s := stack; s != 0; s = tb.Stacks.Parent[s] {
		l := tb.Locations[tb.Stacks.Loc[s]]
		if l.NumLines == 0 {
			path = append(path, fmt.Sprintf("%s+0x%x", tb.Strings[tb.Mappings[l.Mapping].File], l.Address))
		}
		for i, ln := range tb.Lines[l.FirstLine : l.FirstLine+l.NumLines] {
			f := tb.Functions[ln.Function]
			path = append(path, tb.Strings[f.Name])
			if s == stack && i == 0 {
				leaf, line = tb.Strings[f.Name], fmt.Sprint(tb.Strings[f.File], "|", ln.Line)
			}
		}
	}
	slices.Reverse(path)
	return path, leaf, line
}

// onStack is the functions on a stack, each once.
func onStack(tb *block.Tables, stack uint32) map[string]bool {
	on := map[string]bool{}
	for s := stack; s != 0; s = tb.Stacks.Parent[s] {
		l := tb.Locations[tb.Stacks.Loc[s]]
		for _, ln := range tb.Lines[l.FirstLine : l.FirstLine+l.NumLines] {
			on[tb.Strings[tb.Functions[ln.Function].Name]] = true
		}
	}
	return on
}
