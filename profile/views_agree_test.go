package profile

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	gpprof "github.com/google/pprof/profile"
)

// viewCorpus is profiles of every kind, as pprof bytes: the corpus if it is
// there, what this process can tell of itself, and random ones.
func viewCorpus(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	files, err := filepath.Glob(filepath.Join("testdata", "corpus", "*.pb.gz"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(f)] = b
	}
	for _, kind := range []string{"goroutine", "heap", "allocs", "threadcreate"} {
		var b bytes.Buffer
		if err := pprof.Lookup(kind).WriteTo(&b, 0); err != nil {
			t.Fatal(err)
		}
		out["self-"+kind] = b.Bytes()
	}
	for seed := range uint64(8) {
		var b bytes.Buffer
		if err := viewRandom(rand.New(rand.NewPCG(seed, 9)), 60).Encode(&b); err != nil {
			t.Fatal(err)
		}
		out[fmt.Sprint("random-", seed)] = b.Bytes()
	}
	return out
}

// viewGoogleTop is self and total by function name as google/pprof counts them.
func viewGoogleTop(p *gpprof.Profile, col int, ours *Profile) string {
	frames := map[uint64][]string{}
	for _, l := range p.Location {
		for _, ln := range l.Line {
			frames[l.ID] = append(frames[l.ID], cmp.Or(ln.Function.Name, ln.Function.SystemName, "unsymbolised"))
		}
		if len(l.Line) == 0 {
			frames[l.ID] = []string{"unsymbolised"}
		}
	}
	self, total := map[string]int64{}, map[string]int64{}
	for _, s := range p.Sample {
		seen := map[string]bool{}
		leaf := true
		for _, l := range s.Location {
			for _, name := range frames[l.ID] {
				if leaf {
					self[name] += s.Value[col]
					leaf = false
				}
				if !seen[name] {
					seen[name] = true
					total[name] += s.Value[col]
				}
			}
		}
	}
	return viewRows(self, total)
}

func viewRows(self, total map[string]int64) string {
	var lines []string
	for name, v := range total {
		if v != 0 || self[name] != 0 {
			lines = append(lines, fmt.Sprintf("%s %d %d\n", name, self[name], v))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// viewOurTop is the same of ours, with every address called "unsymbolised" as above.
func viewOurTop(p *Profile, col int) string {
	tree := NewTree(p, col)
	names := slices.Clone(tree.Names)
	index := map[string]uint32{}
	to := make([]uint32, len(names))
	for i, n := range names {
		if i > 0 && tree.Files[i] == "" && strings.Contains(n, "0x") || n == "<unknown>" {
			n = "unsymbolised"
		}
		if _, ok := index[n]; !ok || i == 0 {
			index[n] = uint32(i)
		}
		names[i], to[i] = n, index[n]
	}
	delete(index, "")
	for i := range tree.Name {
		if i > 0 {
			tree.Name[i] = to[tree.Name[i]]
		}
	}
	tree.Names = names
	self, total := map[string]int64{}, map[string]int64{}
	for _, r := range tree.Top() {
		self[r.Name], total[r.Name] = r.Self, r.Total
	}
	return viewRows(self, total)
}

// TestFilterAgreesWithPprof runs each filter through google/pprof as well, on
// every profile, and compares every column of the table that comes out.
func TestFilterAgreesWithPprof(t *testing.T) {
	filters := []Filter{
		{}, {Focus: "runtime|main|^a$"}, {Ignore: "runtime|^b$"}, {Hide: "runtime|^c$"}, {Show: "runtime|testing|^[ab]$"},
		{ShowFrom: "testing|^d$"}, {ShowFrom: "prog|profile"}, {Focus: "a", Ignore: "b", Hide: "c"}, {Hide: "a", Show: "a|b|c"},
		{Hide: "[.]go$"}, {Show: "nothing at all"}, {Focus: "/bin/prog"}, {Hide: "/bin/prog"}, {Show: "b", ShowFrom: "b"},
		{Hide: "^a$", ShowFrom: "^b$", Focus: "d"},
	}
	var n atomic.Int32
	t.Run("all", func(t *testing.T) { // which ends when its parallel parts have ended
		for name, raw := range viewCorpus(t) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				ours, err := DecodeBytes(raw, Limits{})
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range filters {
					theirs, err := gpprof.ParseData(raw)
					if err != nil {
						t.Fatal(err)
					}
					theirs.FilterSamplesByName(viewExpr(f.Focus), viewExpr(f.Ignore), viewExpr(f.Hide), viewExpr(f.Show))
					theirs.ShowFrom(viewExpr(f.ShowFrom))
					got, _, err := ours.Filter(f)
					if err != nil {
						t.Fatal(err)
					}
					for col := range got.SampleTypes {
						n.Add(1)
						if g, w := viewOurTop(got, col), viewGoogleTop(theirs, col, got); g != w {
							t.Fatalf("%+v, column %d: got\n%s\nwant\n%s", f, col, g, w)
						}
					}
				}
			})
		}
	})
	if n.Load() < 100 {
		t.Fatalf("only %d comparisons", n.Load())
	}
}

// viewExpr is nil for no expression, as google/pprof has it.
func viewExpr(s string) *regexp.Regexp {
	if s == "" {
		return nil
	}
	return regexp.MustCompile(s)
}

// TestLabelAndInlineFiltersAgreeWithPprof: tagshow, taghide and noinlines give
// the same samples as google/pprof's, frame by frame and label by label, and tagshow and taghide warn when
// google/pprof says that nothing matched.
func TestLabelAndInlineFiltersAgreeWithPprof(t *testing.T) {
	filters := []Filter{{TagShow: "^handler$"}, {TagShow: "work"}, {TagHide: "^bytes$"}, {TagHide: "work|handler"}, {TagShow: "nothing"},
		{TagHide: "nothing"}, {TagShow: "e", TagHide: "^bytes|er$"}, {NoInlines: true}, {NoInlines: true, TagHide: "."}}
	changed := make([]int, len(filters))
	for name, raw := range viewCorpus(t) {
		if !strings.HasPrefix(name, "json_") && !strings.HasPrefix(name, "random-") {
			continue // the other programs' have labels and inlined frames like these
		}
		ours, err := DecodeBytes(raw, Limits{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		whole := codecSums(ours)
		for i, f := range filters {
			theirs, err := gpprof.ParseData(raw)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			shown, hidden := theirs.FilterTagsByName(viewExpr(f.TagShow), viewExpr(f.TagHide))
			if f.NoInlines {
				if err := theirs.Aggregate(false, true, true, true, true, true); err != nil {
					t.Fatal(err)
				}
			}
			got, warnings, err := ours.Filter(f)
			if err != nil {
				t.Fatal(err)
			}
			if err := got.Check(); err != nil {
				t.Errorf("%s, %+v: %v", name, f, err)
			}
			sums := codecSums(got)
			if want := codecGoogleSums(theirs); !maps.EqualFunc(sums, want, slices.Equal) {
				t.Errorf("%s, %+v: got\n%v\nwant\n%v", name, f, sums, want)
			}
			if !maps.EqualFunc(sums, whole, slices.Equal) {
				changed[i]++
			}
			want := 0
			if f.TagShow != "" && !shown {
				want++
			}
			if f.TagHide != "" && !hidden {
				want++
			}
			if len(warnings) != want {
				t.Errorf("%s, %+v: warnings %q; google/pprof says shown %v, hidden %v", name, f, warnings, shown, hidden)
			}
		}
	}
	for i, f := range filters {
		if changed[i] == 0 && f.TagHide != "nothing" {
			t.Errorf("%+v changed no profile: nothing was compared", f)
		}
	}
}

// TestTopReadsAsPprof compares our table with that of `go tool pprof -top`,
// line by line: figures, percentages and units. Functions of the same self are
// in order of their total in ours and of their name in pprof's, so order is not
// compared.
func TestTopReadsAsPprof(t *testing.T) {
	p := viewInput(t)
	// pprof names what has no function by its mapping; that is compared above.
	p, _, err := p.Filter(Filter{Ignore: "libc"})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "in.pb.gz")
	var b bytes.Buffer
	if err := p.Encode(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"-top", "-tree"} {
		want := runPprof(t, mode, "-nodecount=1000", "-nodefraction=0", "-edgefraction=0", file)
		var got bytes.Buffer
		var err error
		tree := NewTree(p, 0)
		opt := TextOptions{Unit: "nanoseconds"}
		if mode == "-top" {
			err = WriteTop(&got, tree.Top(), opt)
		} else {
			err = WriteTree(&got, tree, opt)
		}
		if err != nil {
			t.Fatal(err)
		}
		if g, w := viewTable(got.String()), viewTable(want); g != w || len(w) < 500 {
			t.Errorf("%s: got\n%s\nwant\n%s", mode, g, w)
		}
	}
}

// TestTagFiltersAgreeWithPprof compares tagfocus and tagignore with those of
// `go tool pprof`, whose matcher no package exports.
func TestTagFiltersAgreeWithPprof(t *testing.T) {
	b := NewBuilder(ValueType{"samples", "count"})
	handler, size, tenant := b.String("handler"), b.String("size"), b.String("tenant")
	for i := range 12 {
		s := b.String(fmt.Sprintf("main.f%02d", i))
		st := b.Stack(0, b.Location(Location{Address: uint64(0x100 + i)}, Line{Function: b.Function(Function{Name: s, SystemName: s})}))
		var labels []SampleLabel
		if i%3 > 0 {
			labels = append(labels, SampleLabel{Key: handler, Str: b.String([]string{"", "cart", "pay"}[i%3])})
		}
		if i%4 > 0 {
			labels = append(labels, SampleLabel{Key: size, Num: int64(i) << 10, Unit: b.String("bytes")})
		}
		if i%5 == 0 {
			labels = append(labels, SampleLabel{Key: tenant, Str: b.String("acme"), Num: 0})
		}
		b.Add(st, b.LabelSet(labels), int64(100+i))
	}
	p := b.Profile()
	var raw bytes.Buffer
	if err := p.Encode(&raw); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "in.pb.gz")
	if err := os.WriteFile(file, raw.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	for i, expr := range []string{"handler=cart", "handler=cart,pay", "cart", "handler:pay,acme", "size=4kb:8kb", "5kb", ":3kb", "size=7kb:", "2kb:1mb", "a.m"} {
		// tagignore is the same match turned round: every third shows that.
		options := map[string]Filter{"-tagfocus=": {TagFocus: expr}}
		if i%3 == 0 {
			options["-tagignore="] = Filter{TagIgnore: expr}
		}
		for option, f := range options {
			t.Run(option+expr, func(t *testing.T) {
				t.Parallel()
				want := runPprof(t, "-top", "-nodecount=1000", "-nodefraction=0", option+expr, file)
				q, _, err := p.Filter(f)
				if err != nil {
					t.Fatal(err)
				}
				var got bytes.Buffer
				if err := WriteTop(&got, Top(q, 0), TextOptions{Unit: "count", Total: p.Total(0)}); err != nil {
					t.Fatal(err)
				}
				if g, w := viewTable(got.String()), viewTable(want); g != w {
					t.Errorf("got\n%s\nwant\n%s", g, w)
				}
			})
		}
	}
}

// viewTable is the rows of a table, or the blocks of a tree, from the line of
// headings on, sorted.
func viewTable(s string) string {
	_, rows, _ := strings.Cut(s, "cum%")
	_, rows, _ = strings.Cut(rows, "\n")
	sep := "\n"
	if strings.Contains(rows, "-+-") {
		sep = "----------------------------------------------------------+-------------\n"
	}
	parts := strings.Split(rows, sep)
	slices.Sort(parts)
	return strings.Join(parts, sep)
}
