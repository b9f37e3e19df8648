package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
)

// gateProfile writes a CPU profile with function names, files and lines as given: name, file, line, samples.
func gateProfile(t *testing.T, path string, rows ...[]any) string {
	t.Helper()
	b := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	frame := func(name, file string, line int) uint32 {
		f := b.Function(profile.Function{Name: b.String(name), SystemName: b.String(name), File: b.String(file), StartLine: int64(line)})
		return b.Location(profile.Location{}, profile.Line{Function: f, Line: int64(line) + 3})
	}
	root := b.Stack(0, frame("main.main", "main.go", 1))
	for _, r := range rows {
		b.Add(b.Stack(root, frame(r[0].(string), r[1].(string), r[2].(int))), 0, int64(r[3].(int))*10_000_000)
	}
	p := b.Profile()
	p.Period, p.PeriodType, p.DurationNanos = 10_000_000, p.SampleTypes[0], int64(10*time.Second)
	var out bytes.Buffer
	if err := p.Encode(&out); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// hostile is a function's name as a sender may choose it.
const hostile = "evil|`<img src=x>`\n\x1b[31m@all"

// gatePair is two profiles in dir: the hostile function and shop.slow grew, shop.fast fell, and the rest is as it was.
func gatePair(t *testing.T) (base, head string) {
	dir := t.TempDir()
	row := func(name, file string, line, n int) []any { return []any{name, file, line, n} }
	same := func(n int) (rows [][]any) {
		for i := range 8 {
			rows = append(rows, row(fmt.Sprintf("shop.same%d", i), "/build/src/shop/same.go", 10*i+1, 900+i))
		}
		return append(rows, row("shop.slow", "/build/src/shop/slow file.go", 42, 200*n), row(hostile, "", 0, 100*n), row("shop.fast", "/elsewhere/fast.go", 7, 1200/n))
	}
	return gateProfile(t, filepath.Join(dir, "base.pb"), same(1)...), gateProfile(t, filepath.Join(dir, "head.pb"), same(6)...)
}

func gateRun(t *testing.T, want int, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), append([]string{"diff"}, args...), strings.NewReader(""), &stdout, &stderr); code != want {
		t.Fatalf("code %d, want %d; %s", code, want, &stderr)
	}
	if strings.ContainsRune(stderr.String(), 0x1b) || want != exitOK && strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("standard error is not one plain line: %q", &stderr)
	}
	return stdout.String()
}

// TestDiffSARIF: what is written is SARIF by its schema, and by a library that has no field more than the standard; each result is
// at its function.
func TestDiffSARIF(t *testing.T) {
	base, head := gatePair(t)
	out := gateRun(t, exitGate, base, head, "--fail-on", "3%", "--fail-on", "10usd", "--cores", "8", "--format", "sarif", "--trim-prefix", "/build/src/")
	dec := json.NewDecoder(strings.NewReader(out))
	dec.DisallowUnknownFields()
	var known sarif.Report
	if err := dec.Decode(&known); err != nil {
		t.Fatal(err)
	}
	r, err := validSARIF(out)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, res := range r.Runs[0].Results {
		loc := res.Locations[0]
		where := "nowhere"
		if p := loc.PhysicalLocation; p != nil {
			where = *p.ArtifactLocation.URI
			if p.Region != nil {
				where += fmt.Sprintf(":%d", *p.Region.StartLine)
			}
		}
		got[*loc.LogicalLocations[0].FullyQualifiedName] = *res.RuleID + " " + res.Level + " " + where
	}
	for name, want := range map[string]string{
		"shop.slow": "slower error shop/slow%20file.go:42", "shop.fast": "faster note file:///elsewhere/fast.go:7", printable(hostile): "slower error nowhere",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	// The check itself sees what is wrong.
	for _, bad := range [][2]string{{`"level": "error"`, `"level": "awful"`}, {`"version": "2.1.0"`, `"version": "2.0.0"`}, {`"startLine": 42`, `"startLine": 0`}} {
		if !strings.Contains(out, bad[0]) {
			t.Fatalf("there is no %s to spoil", bad[0])
		}
		if _, err := validSARIF(strings.Replace(out, bad[0], bad[1], 1)); err == nil {
			t.Errorf("%s is taken", bad[1])
		}
	}
}

// validSARIF holds a document to the standard's schema.
func validSARIF(text string) (*sarif.Report, error) {
	r, err := sarif.FromBytes([]byte(text))
	if err != nil {
		return nil, err
	}
	for _, run := range r.Runs { // the library makes empty what is not there, and its own schema refuses that
		lang := "en-US"
		run.Language, run.Tool.Driver.Language, run.NewlineSequences = lang, lang, []string{"\n"}
	}
	return r, r.Validate()
}

// TestDiffMarkdown: no name can leave its cell, be read as HTML, call people, or steer a terminal.
func TestDiffMarkdown(t *testing.T) {
	base, head := gatePair(t)
	gateRun(t, exitGate, base, head, "--focus", "main", "--ignore", "slow", "--fail-on", "2%") // the hostile one is what fails
	for _, format := range []string{"markdown", "text"} {
		out := gateRun(t, exitGate, base, head, "--fail-on", "5%", "--format", format)
		if strings.ContainsRune(out, 0x1b) {
			t.Errorf("%s: an escape came through: %q", format, out)
		}
		if !strings.Contains(out, "shop.slow") || !strings.Contains(out, "img src") {
			t.Errorf("%s lacks what grew: %s", format, out)
		}
		if format == "text" {
			continue
		}
		for line := range strings.Lines(out) {
			if cells := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|"); strings.HasPrefix(line, "| ``") && cells != 7 && cells != 3 {
				t.Errorf("%d bars: %s", cells, line)
			}
			// Outside of code nothing of the name may stand.
			if i := strings.Index(line, "<img"); i >= 0 && !strings.Contains(line[:i], "`` ") {
				t.Errorf("not in code: %s", line)
			}
		}
	}
}

// TestDiffJSON: figures by hand.
func TestDiffJSON(t *testing.T) {
	base, head := gatePair(t)
	var r gateReport
	if err := json.Unmarshal([]byte(gateRun(t, exitGate, base, head, "--fail-on", "5%", "--cores", "8", "--format", "json")), &r); err != nil {
		t.Fatal(err)
	}
	// The rest is 7228 samples. Before it is beside 200, 100 and 1200, after beside 1200, 600 and 200.
	const before, after = 7228 + 1500, 7228 + 2000
	if r.Verdict != verdictFail || r.Base.Samples != before || r.Head.Samples != after || r.Cores != 8 || len(r.Changes) != 3 {
		t.Fatalf("%+v", r)
	}
	g := r.Changes[0]
	near := func(got, want float64) bool { return got > want*0.97 && got < want*1.03 }
	if g.Function != "shop.slow" || !near(g.Before.Value, 200.0/before) || !near(g.After.Value, 1200.0/after) || len(g.Exceeds) != 1 {
		t.Errorf("%+v", g)
	}
	// For the same work it has 1000 samples of 9228 more, of 8 cores, of 23.08 USD each.
	if !near(g.Cores.Value, 1000.0/after*8) || !near(g.Price.Amount, 1000.0/after*8*23.076) || g.Price.Low >= g.Price.Amount || g.Price.High <= g.Price.Amount {
		t.Errorf("%+v %+v", g.Cores, g.Price)
	}
}

func TestDiffLimits(t *testing.T) {
	for in, want := range map[string]limit{
		"2%": {"2%", "share", 0.02}, "0.5 %": {"0.5 %", "share", 0.005}, "50usd": {"50usd", "USD", 50}, "50 USD": {"50 USD", "USD", 50}, "1core": {"1core", "cores", 1}, "0.25cores": {"0.25cores", "cores", 0.25}, "0%": {"0%", "share", 0},
	} {
		if got, err := parseLimit(in, "USD"); err != nil || got != want {
			t.Errorf("%q: %+v %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "%", "2", "-2%", "200%", "2goats", "NaN%", "1e999usd", "50eur"} {
		if got, err := parseLimit(bad, "USD"); err == nil || exitCode(err) != exitUsage {
			t.Errorf("%q is taken: %+v %v", bad, got, err)
		}
	}
	// Surely above, surely below, and neither.
	l := []limit{{"2%", "share", 0.02}}
	for _, c := range []struct {
		low, high    float64
		v            analyze.Verdict
		exceeds, may bool
	}{
		{0.021, 0.04, analyze.Grew, true, false}, {0.019, 0.04, analyze.Grew, false, true}, {0.001, 0.019, analyze.Grew, false, false},
		{-0.01, 0.03, analyze.Same, false, true}, {-0.01, 0.01, analyze.Same, false, false}, {0.03, 0.05, analyze.Explained, false, false}, {0.03, 0.05, analyze.Shifted, false, false},
	} {
		g := gateChange{Verdict: c.v, Change: analyze.Estimate{Value: (c.low + c.high) / 2, Low: c.low, High: c.high}, Real: analyze.Estimate{Value: (c.low + c.high) / 2, Low: c.low, High: c.high}}
		if g.judge(l, false); (len(g.Exceeds) > 0) != c.exceeds || (len(g.MayReach) > 0) != c.may {
			t.Errorf("%+v: exceeds %v, may exceed %v", c, g.Exceeds, g.MayReach)
		}
	}
	// Its share rose because another's fell: for the same work it is what it was.
	g := gateChange{Verdict: analyze.Same, Change: analyze.Estimate{Value: 0.03, Low: 0.02, High: 0.04}, Real: analyze.Estimate{Value: 0, Low: -0.01, High: 0.01}}
	if g.judge(l, false); len(g.MayReach) > 0 {
		t.Errorf("what was not diluted any more may exceed %v", g.MayReach)
	}
}

func TestDiffArtifacts(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ file, trim, uri, base string }{
		{filepath.Join(wd, "a b", "c.go"), "", "a%20b/c.go", "%SRCROOT%"},
		{"/usr/lib/go/src/fmt/print.go", "", "file:///usr/lib/go/src/fmt/print.go", ""},
		{"example.com/x@v1.2.3/y.go", "example.com/x@v1.2.3/", "y.go", "%SRCROOT%"},
		{"shop/cart.go", "", "shop/cart.go", "%SRCROOT%"},
		{"a:b.go", "", "./a:b.go", "%SRCROOT%"},
		{"C:/src/a.go", "", "file:///C:/src/a.go", ""},
	} {
		if got := artifactOf(c.file, c.trim); got.URI != c.uri || got.BaseID != c.base {
			t.Errorf("%s: %+v, want %s %s", c.file, got, c.uri, c.base)
		}
	}
}

// TestDiffAA: a program compared with itself does not fail, whatever the noise, and passes where there are samples enough to
// know: the rate of false alarms of the gate itself.
func TestDiffAA(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for i := range 12 {
		rows := [][]any{}
		for f := range 30 {
			// Counts as a Poisson variable has them, by a walk that is the same each time.
			mean := 4000 / (f + 2)
			z := float64((i*7919+f*104729)%2001-1000) / 1000 * 1.7 // about its spread
			rows = append(rows, []any{fmt.Sprintf("shop.f%d", f), "shop.go", f + 1, max(0, mean+int(z*math.Sqrt(float64(mean))))})
		}
		files = append(files, gateProfile(t, filepath.Join(dir, fmt.Sprintf("%d.pb", i)), rows...))
	}
	failed, passed, runs := 0, 0, 0
	for i := 0; i+4 <= len(files); i++ {
		for j := i + 2; j+2 <= len(files); j++ {
			runs++
			var stdout, stderr bytes.Buffer
			switch code := run(context.Background(), []string{"diff", "--base", files[i], "--base", files[i+1], "--head", files[j], "--head", files[j+1], "--fail-on", "2%", "--strict"}, strings.NewReader(""), &stdout, &stderr); code {
			case exitGate:
				failed++
			case exitOK:
				passed++
			case exitUndecided:
			default:
				t.Fatalf("code %d: %s", code, &stderr)
			}
		}
	}
	t.Logf("%d of %d pass, %d fail", passed, runs, failed)
	if failed > 0 || passed < runs*8/10 || runs < 30 {
		t.Errorf("%d of %d comparisons of a program with itself pass, %d fail", passed, runs, failed)
	}
}
