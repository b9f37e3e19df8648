package patch

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func report(t testing.TB, raw []byte, o Options) *Report {
	t.Helper()
	r, err := Read(bytes.NewReader(raw), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// files is a func that reads of a map.
func files(m map[string]string) func(string) ([]byte, bool, error) {
	return func(p string) ([]byte, bool, error) { s, ok := m[p]; return []byte(s), ok, nil }
}

// TestStaticcheck: a real report's fixes, each by itself, give Go that is formatted; the one behind a character of four bytes only where it is known what columns count.
func TestStaticcheck(t *testing.T) {
	src := map[string]string{"cart/price.go": string(read(t, "price.go.txt"))}
	bytewise := report(t, read(t, "staticcheck.sarif"), Options{Columns: utf8Units})
	all := bytewise.Findings()
	if len(all) != 5 || bytewise.Results() != 5 {
		t.Fatalf("%d findings of %d", len(all), bytewise.Results())
	}
	want := map[string]string{
		"S1025": "-\ts := \"🛒 \" + fmt.Sprintf(\"%s\", name) // a cart\n+\ts := \"🛒 \" + name // a cart\n",
		"S1002": "+\tif strings.Index(s, \"x\") != -1 {\n",
		"S1003": "+\tif strings.Contains(s, \"x\") == true {\n",
		"S1012": "-\treturn time.Now().Sub(made)\n+\treturn time.Since(made)\n",
		"S1011": "-\tfor _, s := range in {\n-\t\tout = append(out, s)\n-\t}\n+\tout = append(out, in...)\n",
	}
	for i := range all {
		f := &all[i]
		p, err := f.Apply(1, files(src))
		if err != nil {
			t.Errorf("%s: %v", f.Name(), err)
			continue
		}
		if w := want[f.Rule]; w == "" || !strings.Contains(p.Diff, w) || f.Tool != "staticcheck" && f.Tool != "Staticcheck" || f.File != "cart/price.go" || f.Line == 0 {
			t.Errorf("%+v\n%s", *f, p.Diff)
		}
		if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "neither") {
			t.Errorf("%s: warnings %q", f.Name(), p.Warnings)
		}
	}
	unsaid := report(t, read(t, "staticcheck.sarif"), Options{})
	f, err := unsaid.Pick(0, "S1025")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Apply(1, files(src)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "no columnKind") || !strings.Contains(err.Error(), "line 21") {
		t.Errorf("behind a cart, with columns of nobody knows what: %v", err)
	}
	if f, err = unsaid.Pick(0, "S1012"); err != nil {
		t.Fatal(err)
	}
	p, err := f.Apply(1, files(src))
	if err != nil {
		t.Fatalf("where all columns are the same: %v", err)
	}
	if got := p.Where(); got != "Age in cart/price.go:30" || len(p.Files) != 1 || len(p.Files[0].Touched) != 1 {
		t.Errorf("it touches %s: %+v", got, p.Files[0].Touched)
	}
}

// TestRuff: absolute names are found below the folder of the report, and refused without one.
func TestRuff(t *testing.T) {
	src := map[string]string{"app.py": string(read(t, "app.py.txt")), "svc/app.py": string(read(t, "app.py.txt"))}
	for under, name := range map[string]string{"": "app.py", "svc": "svc/app.py"} {
		r := report(t, read(t, "ruff.sarif"), Options{Trim: "/home/ci/checkout/", Under: under})
		f, err := r.Pick(0, "C416")
		if err != nil {
			t.Fatal(err)
		}
		p, err := f.Apply(1, files(src))
		if err != nil || !strings.Contains(p.Diff, "--- a/"+name+"\n") || !strings.Contains(p.Diff, "+    return sum(list(prices))\n") {
			t.Errorf("%v\n%+v", err, p)
		}
		if got := p.Files[0].Touched; len(got) != 1 || got[0] != (Touched{"", 4, 4}) {
			t.Errorf("touched %+v", got)
		}
	}
	f, err := report(t, read(t, "ruff.sarif"), Options{}).Pick(0, "C416")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Apply(1, files(src)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "--trim") {
		t.Errorf("an absolute name: %v", err)
	}
	_, err = report(t, read(t, "ruff.sarif"), Options{Trim: "/home/ci/checkout"}).Pick(0, "F401")
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "--result") || strings.Count(err.Error(), "F401 at app.py:1") != 2 {
		t.Errorf("two of one rule: %v", err)
	}
}

// TestNoFixes: linters that write none are told so.
func TestNoFixes(t *testing.T) {
	for name, results := range map[string]int{"golangci.sarif": 6, "eslint.sarif": 4, "gosec.sarif": 0} {
		r := report(t, read(t, name), Options{})
		if n := r.Results(); n != results {
			t.Errorf("%s has %d results, want %d", name, n, results)
		}
		if _, err := r.Pick(0, ""); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), fmt.Sprintf("none of its %d results has a fix", results)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// sarifOf is a report of one result with one fix of one file.
func sarifOf(kind, uri string, replacements string, more string) []byte {
	if kind != "" {
		kind = `"columnKind":"` + kind + `",`
	}
	return []byte(`{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"lint"}},` + kind + more + `"results":[{"ruleId":"R1","message":{"text":"no good."},"fixes":[{"artifactChanges":[{"artifactLocation":{"uri":"` + uri + `"},"replacements":[` + replacements + `]}]}]}]}]}`)
}

func apply(t testing.TB, raw []byte, src map[string]string) (*Patch, error) {
	t.Helper()
	r, err := Read(bytes.NewReader(raw), Options{})
	if err != nil {
		return nil, err
	}
	f, err := r.Pick(0, "")
	if err != nil {
		return nil, err
	}
	return f.Apply(1, files(src))
}

// TestRegions: lines, columns, characters and bytes, in each unit, at each kind of a line's end.
func TestRegions(t *testing.T) {
	const ascii, cart = "one two\nthree\nlast", "a 🛒 b\nä – c\n"
	for _, c := range []struct{ name, kind, file, region, text, want string }{
		{"columns", codePoints, ascii, `"startLine":1,"startColumn":5,"endColumn":8`, "2", "one 2\nthree\nlast"},
		{"no end is the line's", codePoints, ascii, `"startLine":2`, "3", "one two\n3\nlast"},
		{"several lines", codePoints, ascii, `"startLine":1,"startColumn":4,"endLine":2,"endColumn":3`, "-", "one-ree\nlast"},
		{"a whole line with its end", codePoints, ascii, `"startLine":2,"startColumn":1,"endLine":3,"endColumn":1`, "", "one two\nlast"},
		{"nothing goes", codePoints, ascii, `"startLine":2,"startColumn":1,"endColumn":1`, "in ", "one two\nin three\nlast"},
		{"the last line without an end", codePoints, ascii, `"startLine":3,"startColumn":1,"endColumn":5`, "end", "one two\nthree\nend"},
		{"behind its last character", codePoints, ascii, `"startLine":3,"startColumn":5,"endColumn":5`, "!", "one two\nthree\nlast!"},
		{"behind the last line's end", codePoints, "one\n", `"startLine":2,"startColumn":1,"endColumn":1`, "two\n", "one\ntwo\n"},
		{"an empty file", codePoints, "", `"startLine":1,"startColumn":1,"endColumn":1`, "one\n", "one\n"},
		{"emoji, code points", codePoints, cart, `"startLine":1,"startColumn":5,"endColumn":6`, "B", "a 🛒 B\nä – c\n"},
		{"emoji, UTF-16", utf16Units, cart, `"startLine":1,"startColumn":6,"endColumn":7`, "B", "a 🛒 B\nä – c\n"},
		{"emoji, bytes", utf8Units, cart, `"startLine":1,"startColumn":8,"endColumn":9`, "B", "a 🛒 B\nä – c\n"},
		{"umlauts, UTF-16", utf16Units, cart, `"startLine":2,"startColumn":5,"endColumn":6`, "C", "a 🛒 b\nä – C\n"},
		{"no kind, and no difference", "", ascii, `"startLine":1,"startColumn":5,"endColumn":8`, "2", "one 2\nthree\nlast"},
		{"no kind, before what differs", "", cart, `"startLine":1,"startColumn":1,"endColumn":2`, "A", "A 🛒 b\nä – c\n"},
		{"characters", codePoints, cart, `"charOffset":2,"charLength":1`, "x", "a x b\nä – c\n"},
		{"characters, UTF-16", utf16Units, cart, `"charOffset":2,"charLength":2`, "x", "a x b\nä – c\n"},
		{"bytes", utf16Units, cart, `"byteOffset":2,"byteLength":4`, "x", "a x b\nä – c\n"},
		{"both agree", codePoints, ascii, `"startLine":2,"startColumn":1,"endColumn":6,"charOffset":8,"charLength":5,"byteOffset":8,"byteLength":5`, "3", "one two\n3\nlast"},
		{"offsets that are not said", codePoints, ascii, `"startLine":2,"charOffset":-1,"byteOffset":-1`, "3", "one two\n3\nlast"},
		{"CR LF: a line has no CR", codePoints, "one\r\ntwo\r\n", `"startLine":1`, "1", "1\r\ntwo\r\n"},
		{"CR LF: what comes has it, too", codePoints, "one\r\ntwo\r\n", `"startLine":1`, "1\n2", "1\r\n2\r\ntwo\r\n"},
		{"LF: what comes has no CR", codePoints, "one\ntwo\n", `"startLine":1`, "1\r\n2", "1\n2\ntwo\n"},
		{"snippet", codePoints, ascii, `"startLine":2,"snippet":{"text":"three"}`, "3", "one two\n3\nlast"},
		{"snippet of other ends", codePoints, "one\r\ntwo\r\n", `"startLine":1,"endLine":2,"snippet":{"text":"one\ntwo"}`, "1", "1\r\n"},
	} {
		text, _ := json.Marshal(c.text)
		p, err := apply(t, sarifOf(c.kind, "a.txt", `{"deletedRegion":{`+c.region+`},"insertedContent":{"text":`+string(text)+`}}`, ""), map[string]string{"a.txt": c.file})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := string(p.Files[0].After); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestRefused: each with where, and what to do.
func TestRefused(t *testing.T) {
	const file, goFile = "one two\nthree\n🛒 cart\n", "package a\n\nfunc F() int { return 1 }\n"
	edit := func(region, text string) string {
		return `{"deletedRegion":{` + region + `},"insertedContent":{"text":"` + text + `"}}`
	}
	src := map[string]string{"a.txt": file, "a.go": goFile, "loose.go": "package a\n\nfunc  F() {}\n", "broken.go": "package a\n\nfunc F( {\n",
		"made.go": "// Code generated by x. DO NOT EDIT.\n\npackage a\n\nfunc F() {}\n", "binary": "a\x00b", "latin1": "\xe4\n", "bom.txt": "\xef\xbb\xbfone\n", "ls.txt": "a\u2028b\n"}
	for _, c := range []struct {
		name, kind, uri, replacements, more, want string
	}{
		{"overlap", codePoints, "a.txt", edit(`"startLine":1,"startColumn":1,"endColumn":5`, "x") + "," + edit(`"startLine":1,"startColumn":3,"endColumn":8`, "y"), "", "overlap at line 1"},
		{"in another", codePoints, "a.txt", edit(`"startLine":1`, "x") + "," + edit(`"startLine":1,"startColumn":3,"endColumn":3`, "y"), "", "overlap at line 1"},
		{"twice", codePoints, "a.txt", edit(`"startLine":1`, "x") + "," + edit(`"startLine":1`, "x"), "", "overlap at line 1"},
		{"a line too many", codePoints, "a.txt", edit(`"startLine":5`, "x"), "", "line 5: the file has 4"},
		{"line 0", codePoints, "a.txt", edit(`"startLine":0`, "x"), "", "line 0"},
		{"an end that is not there", codePoints, "a.txt", edit(`"startLine":1,"endLine":9`, "x"), "", "line 9"},
		{"a column too many", codePoints, "a.txt", edit(`"startLine":2,"startColumn":7,"endColumn":7`, "x"), "", "line 2, column 7"},
		{"column 0", codePoints, "a.txt", edit(`"startLine":2,"startColumn":0`, "x"), "", "line 2, column 0"},
		{"backwards", codePoints, "a.txt", edit(`"startLine":2,"startColumn":3,"endColumn":2`, "x"), "", "ends at line 2 before it begins"},
		{"half an emoji", utf16Units, "a.txt", edit(`"startLine":3,"startColumn":2,"endColumn":3`, "x"), "", "within a character"},
		{"half an emoji's bytes", codePoints, "a.txt", edit(`"byteOffset":16,"byteLength":1`, "x"), "", "within a character"},
		{"bytes behind the end", codePoints, "a.txt", edit(`"byteOffset":99,"byteLength":1`, "x"), "", "bytes 99 to 100"},
		{"characters behind the end", codePoints, "a.txt", edit(`"charOffset":0,"charLength":99`, "x"), "", "charLength 99"},
		{"lines and bytes that differ", codePoints, "a.txt", edit(`"startLine":2,"byteOffset":9,"byteLength":5`, "x"), "", "another file"},
		{"no place", codePoints, "a.txt", edit(``, "x"), "", "neither a line nor an offset"},
		{"no kind", "", "a.txt", edit(`"startLine":3,"startColumn":3`, "x"), "", "--columns"},
		{"a kind that is none", "furlongs", "a.txt", edit(`"startLine":3`, "x"), "", "furlongs"},
		{"another snippet", codePoints, "a.txt", edit(`"startLine":2,"snippet":{"text":"thee"}`, "x"), "", "lint that branch again"},
		{"nothing changes", codePoints, "a.txt", edit(`"startLine":2`, "three"), "", "changes nothing"},
		{"nothing is replaced", codePoints, "a.txt", "", "", "0 replacements"},
		{"binary is put in", codePoints, "a.txt", `{"deletedRegion":{"startLine":1},"insertedContent":{"binary":"AA=="}}`, "", "binary"},
		{"NUL is put in", codePoints, "a.txt", edit(`"startLine":1`, `\u0000`), "", "no text"},
		{"text that runs backwards", codePoints, "a.txt", edit(`"startLine":1`, `x\u202ey`), "", "CVE-2021-42574"},
		{"another hash", codePoints, "a.txt", edit(`"startLine":1`, "x"), `"artifacts":[{"location":{"uri":"a.txt"},"hashes":{"SHA-256":"00"}}],`, "by its sha-256"},
		{"no such file", codePoints, "b.txt", edit(`"startLine":1`, "x"), "", "b.txt is not there"},
		{"up", codePoints, "../a.txt", edit(`"startLine":1`, "x"), "", "leads out"},
		{"up, in between", codePoints, "b/../../a.txt", edit(`"startLine":1`, "x"), "", "leads out"},
		{"up, hidden", codePoints, "%2e%2e/a.txt", edit(`"startLine":1`, "x"), "", "leads out"},
		{"absolute", codePoints, "/etc/passwd", edit(`"startLine":1`, "x"), "", "absolute"},
		{"absolute, a URI", codePoints, "file:///etc/passwd", edit(`"startLine":1`, "x"), "", "absolute"},
		{"elsewhere", codePoints, "https://example.com/a.txt", edit(`"startLine":1`, "x"), "", "absolute"},
		{"git's", codePoints, "sub/.GIT/config", edit(`"startLine":1`, "x"), "", "not for patches"},
		{"the CI's", codePoints, ".github/workflows/ci.yml", edit(`"startLine":1`, "x"), "", "not for patches"},
		{"backslashes", codePoints, `a%5cb.txt`, edit(`"startLine":1`, "x"), "", "character"},
		{"a folder", codePoints, `.`, edit(`"startLine":1`, "x"), "", "names no file"},
		{"no text", codePoints, "binary", edit(`"startLine":1`, "x"), "", "no text in UTF-8"},
		{"another encoding", codePoints, "latin1", edit(`"startLine":1`, "x"), "", "no text in UTF-8"},
		{"byte order mark", codePoints, "bom.txt", edit(`"startLine":1`, "x"), "", "byte order mark"},
		{"other lines", codePoints, "ls.txt", edit(`"startLine":1`, "x"), `"newlineSequences":["\n","\u2028"],`, "takes to end a line"},
		{"Go that does not parse then", codePoints, "a.go", edit(`"startLine":3,"startColumn":24,"endColumn":26`, ""), "", "a.go does not parse any more: 3:25"},
		{"Go that is no file then", codePoints, "a.go", edit(`"startLine":1`, ""), "", "does not parse any more: 3:1"},
		{"Go that did not parse", codePoints, "broken.go", edit(`"startLine":1`, "package b"), "", "does not parse as it is"},
		{"Go that was not formatted", codePoints, "loose.go", edit(`"startLine":1`, "package b"), "", "first in line 3"},
		{"Go that is generated", codePoints, "made.go", edit(`"startLine":5`, "func G() {}"), "", "is generated"},
	} {
		_, err := apply(t, sarifOf(c.kind, c.uri, c.replacements, c.more), src)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	for _, c := range []struct{ what, raw, want string }{
		{"no JSON", "<sarif>", "no SARIF"},
		{"another version", `{"version":"2.0.0","runs":[]}`, "only SARIF 2.1.0"},
		{"two", `{"version":"2.1.0"}{}`, "behind the report"},
		{"numbers that are none", `{"version":"2.1.0","runs":[{"results":[{"fixes":[{"artifactChanges":[{"replacements":[{"deletedRegion":{"startLine":1e99}}]}]}]}]}]}`, "startLine"},
		{"too deep", strings.Repeat(`{"runs":[`, 1e5), "no SARIF"},
		{"too long", strings.Repeat(" ", MaxReport+1), "more than 16777216 bytes"},
	} {
		if _, err := Read(strings.NewReader(c.raw), Options{}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	// Names may not climb out of the folder that the report is of, be that in the repository or not.
	r := report(t, sarifOf(codePoints, "../a.txt", edit(`"startLine":1`, "x"), ""), Options{Under: "svc"})
	if _, err := r.Findings()[0].Apply(1, files(src)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "leads out") {
		t.Errorf("out of --under: %v", err)
	}
	if _, err := Read(bytes.NewReader(sarifOf("", "a.txt", "", "")), Options{Under: "../x"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("--under leads out: %v", err)
	}
}

// TestFormatted: what a fix leaves unformatted is formatted, and a file of CR LF keeps them.
func TestFormatted(t *testing.T) {
	for _, end := range []string{"\n", "\r\n"} {
		file := strings.ReplaceAll("package a\n\ntype T struct {\n\tA   int\n\tBcd int\n}\n", "\n", end)
		p, err := apply(t, sarifOf(codePoints, "a.go", `{"deletedRegion":{"startLine":5,"startColumn":1,"endLine":6,"endColumn":1}}`, ""), map[string]string{"a.go": file})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(p.Files[0].After), strings.ReplaceAll("package a\n\ntype T struct {\n\tA int\n}\n", "\n", end); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if got := p.Files[0].Touched; len(got) != 1 || got[0] != (Touched{"", 5, 5}) {
			t.Errorf("touched %+v", got)
		}
	}
}

// TestNames: files are found by bases that rest on each other, by an index, and by absolute bases; a cut report says the same with plain names, and has the hashes.
func TestNames(t *testing.T) {
	const body = `"columnKind":"utf16CodeUnits","results":[{"message":{"id":"bad","arguments":["a cart"]},"ruleIndex":0,"locations":[{"physicalLocation":{"artifactLocation":{"index":0},"region":{"startLine":2}}}],"fixes":[{"artifactChanges":[{"artifactLocation":%s,"replacements":[{"deletedRegion":{"startLine":2},"insertedContent":{"text":"2"}}]}]}]}]`
	hash := sha256.Sum256([]byte("one\ntwo\n"))
	head := `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"lint","rules":[{"id":"R7","messageStrings":{"bad":{"text":"{0} is\nno good"}}}]}},"originalUriBaseIds":{"ROOT":{"uri":"file:///home/ci/checkout/"},"SRC":{"uri":"src/","uriBaseId":"ROOT"},"LOOP":{"uri":"x/","uriBaseId":"LOOP"}},"artifacts":[{"location":{"uri":"a%20b.txt","uriBaseId":"SRC"},"hashes":{"sha-256":"` + hex.EncodeToString(hash[:]) + `"}}],`
	for _, loc := range []string{`{"uri":"a%20b.txt","uriBaseId":"SRC"}`, `{"index":0}`, `{"uri":"file:///home/ci/checkout/src/a%20b.txt"}`, `{"uri":"src/./a%20b.txt"}`, `{"uri":"../src/a%20b.txt","uriBaseId":"SRC"}`} {
		r := report(t, []byte(head+fmt.Sprintf(body, loc)+`}]}`), Options{})
		f, err := r.Pick(0, "R7")
		if err != nil {
			t.Fatal(err)
		}
		if f.Name() != "lint R7 at src/a b.txt:2" || f.Text != "a cart is no good" {
			t.Errorf("%s: %q, %q", f.Name(), f.Text, loc)
		}
		cut, err := f.Cut(1)
		if err != nil {
			t.Errorf("%s: %v", loc, err)
			continue
		}
		again, err := report(t, cut, Options{}).Pick(0, "")
		if err != nil || again.Name() != f.Name() || again.Text != f.Text {
			t.Fatalf("%s is cut to %s: %v", loc, cut, err)
		}
		p, err := again.Apply(1, files(map[string]string{"src/a b.txt": "one\ntwo\n"}))
		if err != nil || p.Files[0].Path != "src/a b.txt" || len(p.Warnings) != 0 {
			t.Errorf("%s: %+v, %v", loc, p, err)
		}
		if _, err := again.Apply(1, files(map[string]string{"src/a b.txt": "one\ntwo\n\n"})); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: a file of another hash is taken", loc)
		}
	}
	f := report(t, []byte(head+fmt.Sprintf(body, `{"uri":"a.txt","uriBaseId":"LOOP"}`)+`}]}`), Options{}).Findings()[0]
	if _, err := f.Cut(1); !errors.Is(err, ErrInvalid) {
		t.Errorf("a base that rests on itself: %v", err)
	}
	// What the report has no hash of has that of the file that was linted.
	r := report(t, sarifOf(codePoints, "a.txt", `{"deletedRegion":{"startLine":1},"insertedContent":{"text":"x"}}`, ""), Options{Local: func(p string) ([]byte, bool) { return []byte("one\n"), p == "a.txt" }})
	cut, err := r.Findings()[0].Cut(1)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := apply(t, cut, map[string]string{"a.txt": "one\n"}); err != nil || len(p.Warnings) != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := apply(t, cut, map[string]string{"a.txt": "one\ntwo\n"}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "sha-256") {
		t.Errorf("the branch has another file than was linted: %v", err)
	}
}

// TestBounds: fixes that are too large are refused.
func TestBounds(t *testing.T) {
	var changes []string
	src := map[string]string{}
	for i := range MaxFiles + 1 {
		name := fmt.Sprintf("f%d.txt", i)
		src[name] = "one\n"
		changes = append(changes, `{"artifactLocation":{"uri":"`+name+`"},"replacements":[{"deletedRegion":{"startLine":1},"insertedContent":{"text":"x"}}]}`)
	}
	many := func(n int) []byte {
		return []byte(`{"version":"2.1.0","runs":[{"columnKind":"utf16CodeUnits","results":[{"message":{"text":"x"},"fixes":[{"artifactChanges":[` + strings.Join(changes[:n], ",") + `]}]}]}]}`)
	}
	if p, err := apply(t, many(MaxFiles), src); err != nil || len(p.Files) != MaxFiles {
		t.Errorf("%d files: %v", MaxFiles, err)
	}
	if _, err := apply(t, many(MaxFiles+1), src); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "11 files") {
		t.Errorf("a file too many: %v", err)
	}
	one := func(text string) []byte {
		return sarifOf(codePoints, "a.txt", `{"deletedRegion":{"startLine":1},"insertedContent":{"text":"`+text+`"}}`, "")
	}
	for what, c := range map[string]struct{ file, text, want string }{
		"much is put in":  {"one\n", strings.Repeat("x", maxInserted+1), "are put in"},
		"a large diff":    {"one\n", strings.Repeat("x", maxInserted-1), "as a diff"},
		"a large file":    {strings.Repeat("x", MaxFile+1), "y", "are not patched"},
		"many lines come": {"one\n", strings.Repeat(`x\n`, maxEdits+1), "lines differ"},
	} {
		if _, err := apply(t, one(c.text), map[string]string{"a.txt": c.file}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	many1000 := strings.Repeat(`{"deletedRegion":{"startLine":1,"startColumn":1,"endColumn":1},"insertedContent":{"text":"x"}},`, maxReplacements+1)
	if _, err := apply(t, sarifOf(codePoints, "a.txt", strings.TrimSuffix(many1000, ","), ""), map[string]string{"a.txt": "one\n"}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "1001 replacements") {
		t.Errorf("many replacements: %v", err)
	}
}

// TestOrder: what is put in at one place keeps its order, before what goes there.
func TestOrder(t *testing.T) {
	at := func(text string) string {
		return `{"deletedRegion":{"startLine":1,"startColumn":2,"endColumn":2},"insertedContent":{"text":"` + text + `"}}`
	}
	p, err := apply(t, sarifOf(codePoints, "a.txt", `{"deletedRegion":{"startLine":1,"startColumn":2,"endColumn":3},"insertedContent":{"text":"3"}},`+at("1")+","+at("2"), ""), map[string]string{"a.txt": "abc\n"})
	if err != nil || string(p.Files[0].After) != "a123c\n" {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestDiff: what is written is what git writes and applies, and what was changed is found again after others went on with the file.
func TestDiff(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	text := func(n int) []byte {
		var b bytes.Buffer
		for range n {
			fmt.Fprintf(&b, "line %d\n", r.IntN(12))
		}
		if r.IntN(4) == 0 && b.Len() > 0 {
			b.Truncate(b.Len() - 1)
		}
		return b.Bytes()
	}
	git, err := exec.LookPath("git")
	if err != nil {
		t.Log("git is not here: what it makes of the diffs is not tried")
	}
	for i := range 2000 {
		a := text(r.IntN(30))
		b := text(r.IntN(30))
		if r.IntN(3) > 0 { // mostly like each other
			lines := split(a)
			for range r.IntN(4) {
				if len(lines) > 0 {
					k := r.IntN(len(lines))
					lines = append(lines[:k:k], append([]string{fmt.Sprintf("new %d\n", r.IntN(5))}, lines[min(len(lines), k+r.IntN(3)):]...)...)
				}
			}
			b = []byte(strings.Join(lines, ""))
			if len(a) > 0 && a[len(a)-1] != '\n' {
				b = []byte(strings.ReplaceAll(string(b), string(split(a)[len(split(a))-1]), "joined\n"))
			}
		}
		d, err := Diff("a/b c.txt", a, b)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(a, b) {
			if d != "" {
				t.Fatalf("the same is %q", d)
			}
			continue
		}
		fs, err := ParseDiff(d)
		if err != nil || len(fs) != 1 || fs[0].Path != "a/b c.txt" {
			t.Fatalf("%v\n%s", err, d)
		}
		if got, err := fs[0].Apply(a); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%q is %q, want %q: %v\n%s", a, got, b, err, d)
		}
		if back, has, _ := fs[0].Find(b); !has || !bytes.Equal(back, a) {
			t.Fatalf("taken back from %q: %t %q, want %q\n%s", b, has, back, a, d)
		}
		if git != "" && i < 60 {
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, "a"), 0o755); err != nil {
				t.Fatal(err)
			}
			name := filepath.Join(dir, "a", "b c.txt")
			if err := os.WriteFile(name, a, 0o644); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(git, "-c", "core.autocrlf=false", "apply", "--unidiff-zero", "-")
			cmd.Dir, cmd.Stdin = dir, strings.NewReader(d)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("git: %v: %s\n%s", err, out, d)
			}
			if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, b) {
				t.Fatalf("git makes %q of it, want %q\n%s", got, b, d)
			}
		}
	}
}

// TestFind: a change is found where others have gone on, and is not where they have changed what it changed.
func TestFind(t *testing.T) {
	number := func(from, to int) (s string) {
		for i := from; i <= to; i++ {
			s += fmt.Sprintf("line %d\n", i)
		}
		return s
	}
	before := number(1, 40)
	after := strings.Replace(before, "line 20\n", "twenty\n", 1)
	d, err := Diff("a.txt", []byte(before), []byte(after))
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ParseDiff(d)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		file, back string
		has, had   bool
	}{
		"as it was":         {before, "", false, true},
		"as it became":      {after, before, true, false},
		"lines before it":   {"new\nnew\n" + after, "new\nnew\n" + before, true, false},
		"lines behind it":   {after + "new\n", before + "new\n", true, false},
		"fewer before it":   {strings.TrimPrefix(after, number(1, 10)), strings.TrimPrefix(before, number(1, 10)), true, false},
		"taken back, moved": {"new\n" + before, "", false, true},
		"changed itself":    {strings.Replace(after, "twenty\n", "20\n", 1), "", false, false},
		"changed beside it": {strings.Replace(after, "line 19\n", "nineteen\n", 1), "", false, false},
		"all gone":          {"", "", false, false},
	} {
		back, has, had := fs[0].Find([]byte(c.file))
		if has != c.has || had != c.had || string(back) != c.back {
			t.Errorf("%s: has %t, had %t, back %q", what, has, had, back)
		}
	}
	joins, err := ParseDiff("--- a/a.txt\n+++ b/a.txt\n@@ -1 +1,2 @@\n one\n\\ No newline at end of file\n+two\n")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := joins[0].Apply([]byte("one")); !errors.Is(err, ErrInvalid) {
		t.Errorf("a line that goes on behind its missing end: %q, %v", got, err)
	}
	if _, err := fs[0].Apply([]byte("new\n" + before)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a file that is another one: %v", err)
	}
}

// TestParseDiff: what is no diff of ours is refused.
func TestParseDiff(t *testing.T) {
	const head = "--- a/a.txt\n+++ b/a.txt\n"
	for what, d := range map[string]string{
		"nothing": "", "no head": "@@ -1 +1 @@\n-a\n+b\n", "two names": "--- a/a.txt\n+++ b/b.txt\n@@ -1 +1 @@\n-a\n+b\n", "no hunk": head, "out": "--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n",
		"a short hunk": head + "@@ -1,2 +1 @@\n-a\n+b\n", "a long hunk": head + "@@ -1 +1 @@\n-a\n-a\n+b\n", "backwards": head + "@@ -9 +9 @@\n-a\n+b\n@@ -1 +1 @@\n-a\n+b\n", "no change": head + "@@ -1 +1 @@\n a\n",
		"another mark": head + "@@ -1 +1 @@\n?a\n+b\n", "huge": head + "@@ -1,99999999 +1 @@\n-a\n+b\n", "negative": head + "@@ --1 +1 @@\n-a\n+b\n", "no end": head + "@@ -1 +1 @@\n-a\n+b", "moved": head + "@@ -1 +5 @@\n-a\n+b\n", "twice": head + "@@ -1 +1 @@\n-a\n+b\n" + head + "@@ -1 +1 @@\n-a\n+b\n",
		"CI": "--- a/.github/x\n+++ b/.github/x\n@@ -1 +1 @@\n-a\n+b\n", "long": head + "@@ -1 +1 @@\n-" + strings.Repeat("a", MaxDiff) + "\n+b\n",
	} {
		if _, err := ParseDiff(d); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzReport: whatever a report says of whatever a file has, it ends, within bounds, and what is made of it is what the diff makes of it.
func FuzzReport(f *testing.F) {
	price, app := string(read(f, "price.go.txt")), string(read(f, "app.py.txt"))
	for _, s := range []struct{ report, file string }{{"staticcheck.sarif", price}, {"ruff.sarif", app}, {"golangci.sarif", price}, {"eslint.sarif", app}, {"gosec.sarif", price}} {
		f.Add(read(f, s.report), s.file)
	}
	f.Add(sarifOf(utf16Units, "a.txt", `{"deletedRegion":{"startLine":1,"startColumn":2,"endLine":2,"endColumn":1},"insertedContent":{"text":"🛒"}},{"deletedRegion":{"charOffset":7,"charLength":2}}`, `"artifacts":[{"location":{"uri":"a.txt"},"hashes":{"sha-256":"00"}}],`), "a🛒\r\nb\r\nlast")
	f.Fuzz(func(t *testing.T, raw []byte, file string) {
		r, err := Read(bytes.NewReader(raw), Options{Trim: "/home/ci/checkout"})
		if err != nil {
			return
		}
		for _, fd := range r.Findings()[:min(len(r.Findings()), 10)] {
			p, err := fd.Apply(1, func(string) ([]byte, bool, error) { return []byte(file), true, nil })
			if err != nil {
				if !errors.Is(err, ErrInvalid) {
					t.Fatalf("%v", err)
				}
				continue
			}
			diffs, err := ParseDiff(p.Diff)
			if err != nil || len(diffs) != len(p.Files) || len(diffs) > MaxFiles {
				t.Fatalf("%v\n%s", err, p.Diff)
			}
			for i, d := range diffs {
				got, err := d.Apply(p.Files[i].Before)
				if err != nil || !bytes.Equal(got, p.Files[i].After) || d.Path != p.Files[i].Path {
					t.Fatalf("%q, want %q: %v", got, p.Files[i].After, err)
				}
				if strings.HasPrefix(d.Path, "/") || strings.Contains("/"+d.Path+"/", "/../") {
					t.Fatalf("path %q", d.Path)
				}
			}
			cut, err := fd.Cut(1)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Read(bytes.NewReader(cut), Options{})
			if err != nil {
				t.Fatal(err)
			}
			fs := again.Findings()
			q, err := fs[0].Apply(1, func(string) ([]byte, bool, error) { return []byte(file), true, nil })
			if err != nil || q.Diff != p.Diff {
				t.Fatalf("cut it is another: %v\n%s\n%s", err, p.Diff, q.Diff)
			}
		}
	})
}

// FuzzDiff: a diff that is read is applied, found and refused without harm.
func FuzzDiff(f *testing.F) {
	f.Add("--- a/a.txt\n+++ b/a.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n", "one\ntwo\nthree\n")
	f.Add("--- a/a.txt\n+++ b/a.txt\n@@ -0,0 +1 @@\n+one\n\\ No newline at end of file\n", "")
	f.Fuzz(func(t *testing.T, diff, file string) {
		fs, err := ParseDiff(diff)
		if err != nil {
			return
		}
		for i := range fs {
			if out, err := fs[i].Apply([]byte(file)); err == nil {
				if _, has, _ := fs[i].Find(out); !has {
					t.Errorf("%q of %q has it not", out, file)
				}
			}
			fs[i].Find([]byte(file))
		}
	})
}
