package profile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var viewUpdate = flag.Bool("update-views", false, "write the golden files of testdata/views anew")

// viewGolden compares got with testdata/views/name.
func viewGolden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "views", name)
	if *viewUpdate {
		if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; make it with go test -run %s -update-views", err, t.Name())
	}
	if got != string(want) {
		t.Errorf("%s differs; got\n%s\nwant\n%s", file, got, want)
	}
}

// viewInput is the stacks of testdata/views/in.folded.
func viewInput(t testing.TB) *Profile {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "views", "in.folded"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := ParseFolded(f, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	p.SampleTypes[0] = ValueType{"cpu", "nanoseconds"}
	return p
}

func TestViewsGolden(t *testing.T) {
	p := viewInput(t)
	tree := NewTree(p, 0)
	opt := TextOptions{Unit: "nanoseconds"}
	write := func(f func(io.Writer) error) string {
		var b bytes.Buffer
		if err := f(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	viewGolden(t, "top.golden", write(func(w io.Writer) error { return WriteTop(w, tree.Top(), opt) }))
	viewGolden(t, "tree.golden", write(func(w io.Writer) error { return WriteTree(w, tree, opt) }))
	viewGolden(t, "calltree.golden", write(func(w io.Writer) error { return WriteCallTree(w, tree, opt) }))
	viewGolden(t, "calltree8.golden", write(func(w io.Writer) error {
		return WriteCallTree(w, tree, TextOptions{Unit: "nanoseconds", N: 8})
	}))
	viewGolden(t, "folded.golden", write(func(w io.Writer) error { return WriteFolded(w, p, 0) }))
	viewGolden(t, "speedscope.golden", write(func(w io.Writer) error { return WriteSpeedscope(w, p) }))
	viewGolden(t, "flame.golden", write(func(w io.Writer) error {
		return WriteFlame(w, tree, FlameOptions{Width: 100, Unit: "nanoseconds"})
	}))
	viewGolden(t, "flame.svg", write(func(w io.Writer) error {
		return WriteSVG(w, tree, SVGOptions{Title: "CPU time", Unit: "nanoseconds", Width: 800})
	}))
	callers, callees := tree.Sandwich("runtime.mallocgc")
	viewGolden(t, "callers.golden", write(func(w io.Writer) error { return WriteCallTree(w, callers, opt) }))
	viewGolden(t, "callees.golden", write(func(w io.Writer) error { return WriteCallTree(w, callees, opt) }))
	viewGolden(t, "inverted.golden", write(func(w io.Writer) error { return WriteCallTree(w, tree.Invert(), opt) }))
	head, _, err := p.Filter(Filter{Ignore: "gzip"})
	if err != nil {
		t.Fatal(err)
	}
	d := NewDiffTree(tree, NewTree(head, 0), true)
	viewGolden(t, "topdiff.golden", write(func(w io.Writer) error {
		return WriteTop(w, d.Top(), TextOptions{Unit: "nanoseconds", Diff: true})
	}))
}

// viewCheckTree says what every tree must be.
func viewCheckTree(t *testing.T, tree *Tree, total int64) {
	t.Helper()
	var self int64
	sum := slices.Clone(tree.Self)
	for i := tree.Len() - 1; i >= 0; i-- {
		self += tree.Self[i]
		if i > 0 {
			if tree.Parent[i] >= int32(i) {
				t.Fatalf("parent of %d is %d", i, tree.Parent[i])
			}
			sum[tree.Parent[i]] += sum[i]
		}
		if sum[i] != tree.Total[i] {
			t.Fatalf("node %d: total %d, self and descendants are %d", i, tree.Total[i], sum[i])
		}
	}
	if self != total || tree.Total[0] != total {
		t.Fatalf("sum of self %d, total of the root %d, want %d", self, tree.Total[0], total)
	}
	levels, ends := tree.Levels(), tree.Ends()
	for i := range levels {
		for j := i + 1; j < int(ends[i]); j++ {
			if levels[j] <= levels[i] {
				t.Fatalf("not in preorder at %d", j)
			}
		}
	}
}

// viewNaive is self and total by function, counted sample by sample with sets.
func viewNaive(p *Profile, col int) (self, total map[string]int64) {
	self, total = map[string]int64{}, map[string]int64{}
	frames := newFrameNames(p, allStacks(p))
	for s, st := range p.SampleStack {
		v := p.Values[col][s]
		seen := map[string]bool{}
		leaf := true
		for at := st; at != 0; at = p.Stacks.Parent[at] {
			for _, f := range slices.Backward(frames.of(p.Stacks.Loc[at])) {
				name := frames.names[f]
				if leaf {
					self[name] += v
					leaf = false
				}
				if !seen[name] {
					total[name] += v
					seen[name] = true
				}
			}
		}
	}
	return self, total
}

func TestTreeInvariants(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := viewRandom(r, 1+r.IntN(60))
		total := p.Total(1)
		tree := NewTree(p, 1)
		viewCheckTree(t, tree, total)
		viewCheckTree(t, tree.Invert(), total)
		for _, n := range []int{1, 2, 3, 5, 10, 30, 1000} {
			lim := tree.Limit(n)
			viewCheckTree(t, lim, total)
			if lim.Len() > max(n, 2) {
				t.Fatalf("Limit(%d) has %d nodes", n, lim.Len())
			}
			others := 0
			for i := range lim.Name {
				if int32(lim.Name[i]) == lim.Other {
					others++
				}
			}
			if lim.Len()-others+lim.LeftOut != tree.Len() {
				t.Fatalf("Limit(%d): %d kept and %d left out of %d", n, lim.Len()-others, lim.LeftOut, tree.Len())
			}
		}
		self, cum := viewNaive(p, 1)
		rows := tree.Top()
		for _, row := range rows {
			if row.Self != self[row.Name] || row.Total != cum[row.Name] {
				t.Fatalf("seed %d: %s: self %d, total %d, want %d, %d", seed, row.Name, row.Self, row.Total, self[row.Name], cum[row.Name])
			}
			callers, callees := tree.Sandwich(row.Name)
			viewCheckTree(t, callers, row.Total)
			viewCheckTree(t, callees, row.Total)
		}
		if n := len(cum); n < len(rows) {
			t.Fatalf("%d rows, want at most %d", len(rows), n)
		}
	}
}

func TestDiffTreeInvariants(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		p, q := viewRandom(r, 1+r.IntN(40)), viewRandom(r, 1+r.IntN(40))
		base, head := NewTree(p, 1), NewTree(q, 1)
		for _, normalize := range []bool{false, true} {
			want := base.Total[0]
			if normalize && want != 0 {
				want = head.Total[0]
			}
			d := NewDiffTree(base, head, normalize)
			for _, n := range []int{0, 2, 7, 25} {
				lim := d.Limit(n)
				viewCheckTree(t, &lim.Tree, head.Total[0])
				b := lim.Tree
				b.Self, b.Total = lim.BaseSelf, lim.BaseTotal
				viewCheckTree(t, &b, want)
			}
		}
		same := NewDiffTree(head, head, true)
		for _, row := range same.Top() {
			if row.Self != row.BaseSelf || row.Total != row.BaseTotal {
				t.Fatalf("a profile differs from itself: %+v", row)
			}
		}
	}
}

func TestFilterPartitions(t *testing.T) {
	for seed := range uint64(200) {
		p := viewRandom(rand.New(rand.NewPCG(seed, 3)), 50)
		// Samples without frames are dropped by every filter by name, as in pprof.
		framed, _, err := p.Filter(Filter{Focus: "."})
		if err != nil {
			t.Fatal(err)
		}
		for _, expr := range []string{"^a$", "runtime", "b|c", "prog", "nothing"} {
			in, _, err := p.Filter(Filter{Focus: expr})
			if err != nil {
				t.Fatal(err)
			}
			out, _, err := p.Filter(Filter{Ignore: expr})
			if err != nil {
				t.Fatal(err)
			}
			if in.Total(1)+out.Total(1) != framed.Total(1) {
				t.Fatalf("seed %d, %q: %d + %d is not %d", seed, expr, in.Total(1), out.Total(1), framed.Total(1))
			}
		}
		for _, expr := range []string{"handler=a", "x", ":2kb", "bytes=1kb:2kb"} {
			in, _, err := p.Filter(Filter{TagFocus: expr})
			if err != nil {
				t.Fatal(err)
			}
			out, _, err := p.Filter(Filter{TagIgnore: expr})
			if err != nil {
				t.Fatal(err)
			}
			if in.Total(1)+out.Total(1) != p.Total(1) {
				t.Fatalf("seed %d, %q does not partition", seed, expr)
			}
		}
	}
}

func TestFilterErrorsAndWarnings(t *testing.T) {
	p := viewProfile(t, "a;b 1")
	for field, f := range map[string]Filter{
		"focus": {Focus: "("}, "ignore": {Ignore: "("}, "hide": {Hide: "("}, "show": {Show: "("}, "show_from": {ShowFrom: "("},
		"tagfocus": {TagFocus: "k=("}, "tagignore": {TagIgnore: "("}, "tagshow": {TagShow: "("}, "taghide": {TagHide: "("},
	} {
		if _, _, err := p.Filter(f); err == nil || !strings.HasPrefix(err.Error(), field+":") {
			t.Errorf("%s: %v", field, err)
		}
		// The same field with an expression that fits, but nothing here.
		b, _ := json.Marshal(f)
		var g Filter
		if err := json.Unmarshal(bytes.ReplaceAll(b, []byte(`(`), []byte(`zzz`)), &g); err != nil {
			t.Fatal(err)
		}
		if _, warn, err := p.Filter(g); err != nil || len(warn) != 1 && field != "taghide" && field != "tagshow" {
			t.Errorf("%s: warnings %q, error %v", field, warn, err)
		}
	}
}

func TestByLabel(t *testing.T) {
	b := NewBuilder(ValueType{"cpu", "nanoseconds"})
	key, k2 := b.String("handler"), b.String("bytes")
	st := b.Stack(0, b.Location(Location{Address: 1}))
	b.Add(st, b.LabelSet([]SampleLabel{{Key: key, Str: b.String("cart")}}), 5)
	b.Add(st, b.LabelSet([]SampleLabel{{Key: key, Str: b.String("pay")}, {Key: k2, Num: 2048}}), 7)
	b.Add(st, 0, 3)
	b.Add(st, b.LabelSet([]SampleLabel{{Key: key, Str: b.String("idle")}}), 0)
	p := b.Profile()
	got := p.ByLabel(0)
	want := []LabelKey{
		{"handler", []LabelValue{{"pay", 7}, {"cart", 5}, {"", 3}}},
		{"bytes", []LabelValue{{"2kB", 7}, {"", 8}}},
	}
	if g, w := mustJSON(t, got), mustJSON(t, want); g != w {
		t.Errorf("got %s, want %s", g, w)
	}
	// Whatever is listed can be chosen, and then nothing else is listed.
	for _, k := range got {
		for _, v := range k.Values {
			f := Filter{TagFocus: k.Key + "=^" + regexp.QuoteMeta(v.Value) + "$"}
			if v.Value == "" {
				f = Filter{TagIgnore: k.Key + "=.*"}
			}
			q, warnings, err := p.Filter(f)
			if err != nil || len(warnings) > 0 || q.Total(0) != v.Total {
				t.Fatalf("%+v: total %d, want %d; %v %v", f, q.Total(0), v.Total, warnings, err)
			}
			for _, left := range q.ByLabel(0) {
				if left.Key == k.Key && (len(left.Values) != 1 || left.Values[0] != v) {
					t.Errorf("%+v leaves %+v", f, left)
				}
			}
		}
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSVGHostileNames(t *testing.T) {
	names := []string{`</script><script>alert(1)</script>`, `]]>`, `"><img src=x onerror=alert(1)>`, "a\x00b\x1b[31mc", "<&'\"", "\u202eevil", "\ufffe"}
	b := NewBuilder(ValueType{"cpu", "nanoseconds"})
	at := uint32(0)
	for _, n := range names {
		fn := b.Function(Function{Name: b.String(n)})
		at = b.Stack(at, b.Location(Location{}, Line{Function: fn}))
	}
	b.Add(at, 0, 100)
	tree := NewTree(b.Profile(), 0)
	var out bytes.Buffer
	if err := WriteSVG(&out, tree, SVGOptions{Title: names[0], Subtitle: names[1] + names[2]}); err != nil {
		t.Fatal(err)
	}
	scripts, titles := 0, 0
	for dec := xml.NewDecoder(&out); ; {
		tok, err := dec.Token()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("not XML: %v", err)
		}
		if s, ok := tok.(xml.StartElement); ok {
			switch s.Name.Local {
			case "script":
				scripts++
			case "title":
				titles++
			case "img":
				t.Error("a name became an element")
			}
			for _, a := range s.Attr {
				if n := strings.ToLower(a.Name.Local); n == "href" || n == "src" || strings.HasPrefix(n, "on") {
					t.Errorf("attribute %s=%q", n, a.Value)
				}
			}
		}
	}
	if scripts != 1 || titles != len(names)+1 {
		t.Errorf("%d scripts, %d titles", scripts, titles)
	}
}

func TestTerminalIsNotSteered(t *testing.T) {
	tree := NewTree(viewProfile(t, "main;\x1b]0;owned\x07 5"), 0)
	for name, f := range map[string]func(io.Writer) error{
		"top":      func(w io.Writer) error { return WriteTop(w, tree.Top(), TextOptions{}) },
		"tree":     func(w io.Writer) error { return WriteTree(w, tree, TextOptions{}) },
		"calltree": func(w io.Writer) error { return WriteCallTree(w, tree, TextOptions{}) },
		"flame":    func(w io.Writer) error { return WriteFlame(w, tree, FlameOptions{}) },
	} {
		var b bytes.Buffer
		if err := f(&b); err != nil {
			t.Fatal(err)
		}
		if bytes.ContainsAny(b.Bytes(), "\x1b\x07") || b.Len() == 0 {
			t.Errorf("%s: %q", name, b.String())
		}
	}
}

func TestPerfScript(t *testing.T) {
	const in = `# captured on: today
java-worker 1 4242/4243 [003] 1234.567890:     250000 cycles:u: 
	    7f01aa Lorg/App; foo(int) const+0x1a (/tmp/perf-4242.map (deleted))
	    7f01bb inner (inlined)
	    7f01bb outer+0x10 (/usr/bin/app)
	    7f01cc [unknown] ([unknown])
	    7f01dd [unknown] (/usr/lib/libc.so.6)

      swapper     0 [000] 12.5: cpu-clock: 
	ffffffff81 native_safe_halt+0x6 ([kernel.kallsyms])
	src/main.c:12

swapper     0 [000] 12.6: cpu-clock:  ffffffff81 native_safe_halt+0x6 ([kernel.kallsyms])
`
	p, format, err := Read(strings.NewReader(in), Limits{})
	if err != nil || format != FormatPerf {
		t.Fatal(format, err)
	}
	if got, want := mustJSON(t, p.SampleTypes), `[{"Type":"samples","Unit":"count"},{"Type":"cycles:u","Unit":"count"},{"Type":"cpu-clock","Unit":"nanoseconds"}]`; got != want {
		t.Errorf("types %s", got)
	}
	var b bytes.Buffer
	for col := range p.SampleTypes {
		if err := WriteFolded(&b, p, col); err != nil {
			t.Fatal(err)
		}
	}
	const want = `java-worker 1;libc.so.6+0x7f01dd;0x7f01cc;outer;inner;Lorg/App: foo(int) const 1
swapper;native_safe_halt 2
java-worker 1;libc.so.6+0x7f01dd;0x7f01cc;outer;inner;Lorg/App: foo(int) const 250000
swapper;native_safe_halt 2
`
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
}

func TestReadRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "empty",
		"<!DOCTYPE html><html>":             "understood are",
		"{\"a\": 1}":                        "understood are",
		"main;a 1\nmain;b x\n":              "line 2",
		"main;a 1\nnovalue\n":               "line 2",
		"a 1 [0] 1.0: 5 cycles:\n\tgarbage": "line 2",
		"\x1f\x8b\x08nonsense":              "",
	} {
		_, _, err := Read(strings.NewReader(in), Limits{})
		if err == nil || !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v", in, err)
		}
	}
	for name, lim := range map[string]Limits{"depth": {Depth: 2}, "samples": {Samples: 1}, "functions": {Functions: 2}, "bytes": {Decoded: 9}, "one line": {StringBytes: 5}} {
		_, err := ParseFolded(strings.NewReader("a;b;c 1\nd 2\n"), lim)
		if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseFolded(f *testing.F) {
	for _, s := range []string{"main;a;b 12\nmain 3\n", "a;;b 1.5\n# x\n\n", "[empty stack] 4\n", "a b;c\td 7\r\n", "\xff;\x00 -1"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseFolded(bytes.NewReader(b), Limits{Depth: 64, Samples: 1000})
		if err != nil {
			return
		}
		viewRoundTrip(t, p)
	})
}

func FuzzParsePerfScript(f *testing.F) {
	f.Add([]byte("a 1/2 [000] 1.5: 100 cycles:\n\t7f a+0x1 (/x)\n\t7f b (inlined)\n\n"))
	f.Add([]byte("swapper 0 cpu-clock: ff x ([k])\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePerfScript(bytes.NewReader(b), Limits{Depth: 64, Samples: 1000})
		if err != nil {
			return
		}
		for col := range p.SampleTypes {
			viewCheckTree(t, NewTree(p, col), p.Total(col))
		}
	})
}

// viewRoundTrip writes p as folded stacks, reads that, and writes it again.
func viewRoundTrip(t *testing.T, p *Profile) {
	var one, two bytes.Buffer
	if err := WriteFolded(&one, p, 0); err != nil {
		t.Fatal(err)
	}
	if one.Len() == 0 {
		return // every value was zero, or cancelled another
	}
	q, err := ParseFolded(bytes.NewReader(one.Bytes()), Limits{})
	if err != nil {
		t.Fatalf("%v in what was written:\n%q", err, one.String())
	}
	if err := WriteFolded(&two, q, 0); err != nil {
		t.Fatal(err)
	}
	if one.String() != two.String() {
		t.Fatalf("written\n%q\nread and written again\n%q", one.String(), two.String())
	}
}

// TestLimitedTree holds what the heap chooses to a sort of all nodes, and a tree that
// was limited before it was sorted to one that was sorted first.
func TestLimitedTree(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		p := viewRandom(r, 1+r.IntN(120))
		if r.IntN(3) == 0 { // a difference of two profiles: a child may outweigh its parent
			p.Values[1] = slices.Clone(p.Values[1])
			for i := range p.Values[1] {
				p.Values[1][i] *= int64(1 - 2*r.IntN(2))
			}
		}
		tree := NewTree(p, 1)
		n := 1 + r.IntN(tree.Len()+1)
		want := tree.Limit(n)
		if got := NewLimitedTree(p, 1, n); !reflect.DeepEqual(got, want) {
			t.Fatalf("limit %d of %d nodes: got\n%+v\nwant\n%+v", n, tree.Len(), got, want)
		}
		if tree.Len() > max(n, 2) {
			if got, want := tree.keepLargest(max(n, 2), magnitudes(tree.Total), nil), viewKeepLargest(tree, max(n, 2)); !slices.Equal(got, want) {
				t.Fatalf("limit %d of %d nodes keeps\n%v\nwant\n%v", n, tree.Len(), got, want)
			}
		}
	}
}

// viewKeepLargest is [Tree.keepLargest] by sorting: nodes are taken as long as
// they and what sums the rest of them, counted anew each time, are not too many.
func viewKeepLargest(t *Tree, maxNodes int) []bool {
	n := t.Len()
	least, order := magnitudes(t.Total), make([]int, n)
	for i := n - 1; i >= 0; i-- {
		order[i] = i
		if i > 0 {
			least[t.Parent[i]] = max(least[t.Parent[i]], least[i])
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(least[b], least[a]) })
	keep := make([]bool, n)
	lost := func() (size int, by map[int32][]int) {
		by = map[int32][]int{}
		for i := range n {
			if keep[i] {
				size++
			} else if keep[t.Parent[i]] {
				by[t.Parent[i]] = append(by[t.Parent[i]], i)
			}
		}
		return size + len(by), by
	}
	for _, i := range order {
		keep[i] = true
		if size, _ := lost(); size > maxNodes {
			keep[i] = false
			break
		}
	}
	ends := t.Ends()
	_, by := lost()
	for _, nodes := range by {
		if i := nodes[0]; len(nodes) == 1 && int(ends[i]) == i+1 {
			keep[i] = true
		}
	}
	return keep
}

// TestPerfReal: testdata/perf-6.1.txt is what perf 6.1 (Debian's linux-perf) printed of `perf record -e cpu-clock -F 99 -g`, a C program that calls slow and
// fast by turns. Only its folder was changed.
func TestPerfReal(t *testing.T) {
	f, err := os.Open(filepath.Join("testdata", "perf-6.1.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, format, err := Read(f, Limits{})
	if err != nil || format != FormatPerf {
		t.Fatal(format, err)
	}
	if p.Total(0) != 25 || p.Total(1) != 25*10101010 || p.SampleTypes[1] != (ValueType{"cpu-clock", "nanoseconds"}) {
		t.Errorf("%v: %d samples, %d ns", p.SampleTypes, p.Total(0), p.Total(1))
	}
	if p.DurationNanos != 518_500_000 || p.TimeNanos != 0 { // 65991.449031 to 65991.967531
		t.Errorf("duration %d, time %d", p.DurationNanos, p.TimeNanos)
	}
	self := map[string]int64{}
	for _, r := range Top(p, 0) {
		self[r.Name] = r.Self
	}
	if self["slow"] != 21 || self["fast"] != 3 || self["_raw_spin_unlock_irqrestore"] != 1 {
		t.Errorf("%v", self)
	}
}
