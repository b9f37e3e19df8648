package symbols

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/bucket"
)

// goProgram says of each of its own frames, as Go's runtime knows them with what was inlined, the address, function and line.
const goProgram = `package main

import (
	"fmt"
	"path/filepath"
	"runtime"
)

func main() { outer(3) }

//go:noinline
func outer(n int) {
	inner(n)
}

func inner(n int) { innermost(n + 1) }

func innermost(n int) {
	pcs := make([]uintptr, 10)
	for _, pc := range pcs[:runtime.Callers(1, pcs)] {
		one := runtime.CallersFrames([]uintptr{pc})
		f, _ := one.Next()
		fmt.Println(pc-1, f.Function, filepath.Base(f.File), f.Line)
	}
}
`

// frame is a line of what goProgram and addr2line tell.
type frame struct {
	name, file string
	line       int64
}

func buildGo(t *testing.T, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"main.go": goProgram, "go.mod": "module program\n\ngo 1.26\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", append(append([]string{"build", "-buildvcs=false", "-o", "program"}, flags...), ".")...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Join(dir, "program")
}

func readBinary(t testing.TB, path string) *Table {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := ReadBinary(f, path)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(table.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back.Encode(), table.Encode()) {
		t.Error("a table is another after it was written and read")
	}
	return back
}

// TestGo: names, files, lines and what was inlined are those that Go's runtime tells of the same addresses; a stripped program has
// names all the same.
func TestGo(t *testing.T) {
	path := buildGo(t)
	table := readBinary(t, path)
	if table.Source != FromDWARF || len(table.BuildIDs) == 0 || table.File != "program" {
		t.Fatalf("%+v", table.BuildIDs)
	}
	if runtime.GOOS == "linux" && runtime.GOARCH == "amd64" { // it runs here
		out, err := exec.CommandContext(t.Context(), path).Output()
		if err != nil {
			t.Fatal(err)
		}
		var want []frame // each with what called it after it
		var pcs []uint64
		for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
			var pc uint64
			var f frame
			if _, err := fmt.Sscan(lines.Text(), &pc, &f.name, &f.file, &f.line); err != nil {
				t.Fatal(err)
			}
			want, pcs = append(want, f), append(pcs, pc)
		}
		inlined := 0
		for i, pc := range pcs {
			var got []frame
			for _, f := range table.Frames(pc) {
				got = append(got, frame{f.Name, filepath.Base(f.File), f.Line})
			}
			if strings.HasPrefix(want[i].name, "main.") && (len(got) == 0 || !reflect.DeepEqual(got, want[i:i+len(got)])) {
				t.Errorf("%#x: %v, and the runtime says %v", pc, got, want[i:])
			}
			inlined = max(inlined, len(got))
		}
		if inlined != 2 {
			t.Errorf("at most %d functions at one address: inner is inlined into outer\n%s", inlined, out)
		}
	}
	stripped := readBinary(t, buildGo(t, "-ldflags=-s -w"))
	if stripped.Source != FromGo {
		t.Errorf("source %s", stripped.Source)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	syms, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, s := range syms {
		if s.Name != "main.outer" && s.Name != "runtime.mallocgc" {
			continue
		}
		seen++
		for _, of := range []*Table{table, stripped} {
			if got := of.Frames(s.Value); len(got) == 0 || got[len(got)-1].Name != s.Name || got[len(got)-1].StartLine == 0 {
				t.Errorf("%s: %s at its start is %+v", of.Source, s.Name, got)
			}
		}
		if got := table.Frames(s.Value + s.Size); len(got) > 0 && got[len(got)-1].Name == s.Name {
			t.Errorf("%s after its end", s.Name)
		}
	}
	if seen != 2 {
		t.Errorf("%d of the 2 symbols are there", seen)
	}
}

const cppProgram = `
#include <cmath>
#include <cstdio>
namespace shop {
struct Cart {
  double total;
  __attribute__((always_inline)) void add(double x) {
    total += std::sqrt(x);
  }
  __attribute__((noinline)) double price(int n) {
    for (int i = 0; i < n; i++)
      add(i + total);
    return total;
  }
};
}
int main(int argc, char **) { shop::Cart c{0}; std::printf("%f\n", c.price(argc)); }
`

// TestCPP: as binutils' addr2line tells of the same addresses, and the mangled names as c++filt does.
func TestCPP(t *testing.T) {
	for _, tool := range []string{"g++", "addr2line"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("QUANTRA_CI") != "" {
				t.Fatalf("%s is not there", tool)
			}
			t.Skipf("NOT TESTED: %s is not there, so no C++ program can be built and asked", tool)
		}
	}
	dir := t.TempDir()
	source, path := filepath.Join(dir, "cart.cc"), filepath.Join(dir, "cart")
	if err := os.WriteFile(source, []byte(cppProgram), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "g++", "-O2", "-g", "-Wl,--build-id", "-o", path, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	table := readBinary(t, path)
	at := uint64(0)
	size := uint32(0)
	for i := range table.funcs {
		if table.strings[table.funcs[i].name] == "_ZN4shop4Cart5priceEi" {
			at, size = table.funcs[i].start, table.funcs[i].size
		}
	}
	if at == 0 {
		t.Fatal("Cart::price is not there")
	}
	inlined := 0
	for pc := at; pc < at+uint64(size); pc++ {
		out, err := exec.CommandContext(t.Context(), "addr2line", "-f", "-i", "-e", path, fmt.Sprintf("%#x", pc)).Output()
		if err != nil {
			t.Fatal(err)
		}
		var want []frame
		lines := strings.Fields(strings.ReplaceAll(string(out), " (discriminator", "#"))
		for i := 0; i+1 < len(lines); i++ {
			file, number, ok := strings.Cut(lines[i+1], ":")
			if !ok {
				continue
			}
			n, err := strconv.ParseInt(strings.TrimRight(number, "#"), 10, 64)
			if err != nil {
				n = 0 // ?
			}
			want = append(want, frame{lines[i], filepath.Base(file), n})
		}
		var got []frame
		for _, f := range table.Frames(pc) {
			got = append(got, frame{f.Name, filepath.Base(f.File), f.Line})
		}
		if len(got) != len(want) || got[len(got)-1].name != want[len(want)-1].name || got[0].line != want[0].line {
			t.Errorf("%#x: %v, and addr2line says %v", pc, got, want)
		}
		inlined = max(inlined, len(got))
	}
	if inlined < 2 {
		t.Error("nothing was inlined")
	}
	// A stripped one has the dynamic symbols at most, and says so.
	if out, err := exec.CommandContext(t.Context(), "strip", path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := ReadBinary(f, path); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "stripped") {
		t.Error(err)
	}
}

// planted is a table of two functions in a file of which code at offset 0x1000 is loaded at 0x401000.
func planted() *Table {
	return &Table{BuildIDs: []string{"abcd"}, File: "app", Source: FromDWARF, strings: []string{"", "_ZN4core3fmt5write17h0123456789abcdefE", "main", "inner", "a.c"},
		segments: []segment{{0x1000, 0x401000, 0x1000}},
		funcs:    []function{{0x401000, 0x100, 1, 4, 10, 0}, {0x401200, 0x80, 2, 4, 20, 0}},
		inlined:  []inlined{{0x401210, 0x20, 1, 3, 4, 5, 22}},
		lines:    []line{{0x401000, 4, 11}, {0x401200, 4, 21}, {0x401210, 4, 6}, {0x401230, 4, 23}}}
}

func TestFrames(t *testing.T) {
	table := planted()
	for at, want := range map[uint64][]Frame{
		0x400fff: nil, 0x401100: nil, 0x401280: nil,
		0x4010ff: {{"_ZN4core3fmt5write17h0123456789abcdefE", "a.c", 10, 11}},
		0x401200: {{"main", "a.c", 20, 21}},
		0x40122f: {{"inner", "a.c", 5, 6}, {"main", "a.c", 20, 22}},
		0x401230: {{"main", "a.c", 20, 23}},
	} {
		if got := table.Frames(at); !reflect.DeepEqual(got, want) {
			t.Errorf("%#x: %+v, want %+v", at, got, want)
		}
	}
}

// addressed is a profile of one stack of two addresses.
func addressed(start, limit, offset uint64, addresses ...uint64) *profile.Profile {
	b := profile.NewBuilder(profile.ValueType{Type: "samples", Unit: "count"})
	m := b.Mapping(profile.Mapping{Start: start, Limit: limit, Offset: offset, File: b.String("/usr/bin/app"), BuildID: b.String("abcd")})
	at := uint32(0)
	for _, a := range addresses {
		at = b.Stack(at, b.Location(profile.Location{Address: a, Mapping: m}))
	}
	b.Add(at, 0, 7)
	return b.Profile()
}

func foldedOf(t *testing.T, p *profile.Profile) string {
	t.Helper()
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := profile.WriteFolded(&b, p, 0); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(b.String())
}

// TestResolve: the same stack, however its addresses were told, before it is kept and after.
func TestResolve(t *testing.T) {
	tables := map[string]*Table{"abcd": planted()}
	const want = "main;inner;core::fmt::write 7"
	loaded := addressed(0x7f0000001000, 0x7f0000002000, 0x1000, 0x7f0000001215, 0x7f0000001010)
	own := addressed(0, 0, 0, 0x401215, 0x401010)
	kept := addressed(0, 0, 0, 0x1215, 0x1010)
	for name, c := range map[string]struct {
		p      *profile.Profile
		whence Whence
	}{"arriving, loaded somewhere": {loaded, Arriving}, "arriving, the binary's own": {own, Arriving}, "kept": {kept, Kept},
		"kept, the binary's own": {Resolve(own, nil, Arriving), Kept}} {
		before := foldedOf(t, c.p)
		got := Resolve(c.p, tables, c.whence)
		if folded := foldedOf(t, got); folded != want {
			t.Errorf("%s: %s", name, folded)
		}
		if again := Resolve(got, tables, c.whence); again != got {
			t.Errorf("%s: resolved twice", name)
		}
		if foldedOf(t, c.p) != before {
			t.Errorf("%s: what was handed in has changed", name)
		}
		f := got.Functions[len(got.Functions)-1]
		if got.Strings[f.Name] == "core::fmt::write" && got.Strings[f.SystemName] != "_ZN4core3fmt5write17h0123456789abcdefE" {
			t.Errorf("%s: the linker's name is %q", name, got.Strings[f.SystemName])
		}
	}
	if ids := Unnamed(Resolve(own, nil, Arriving)); !reflect.DeepEqual(ids, []string{"abcd"}) {
		t.Error(ids)
	}
	// An address outside all code, one before its mapping, and a profile that has names.
	for _, p := range []*profile.Profile{addressed(0x7f0000001000, 0, 0x1000, 0x7f0000009000), addressed(0x7f0000001000, 0, 0x1000, 0x1010)} {
		if Resolve(p, tables, Arriving) != p {
			t.Error("a name from nowhere")
		}
	}
}

func TestDemangle(t *testing.T) {
	for mangled, want := range map[string]string{
		"_ZN4shop4Cart5priceEi":                     "shop::Cart::price",
		"__ZN4shop4Cart5priceEi":                    "shop::Cart::price", // macOS
		"_ZSt4sortIPiEvT_S1_":                       "std::sort<int*>",
		"_ZN4core3fmt5write17h0123456789abcdefE":    "core::fmt::write",
		"_RNvNtCs1234_7mycrate3foo3bar":             "mycrate::foo::bar",
		"_RNvMs_NtCs1234_7mycrate3fooNtB4_3Bar3new": "<mycrate::foo::Bar>::new",
		"main.slow":                              "main.slow",
		"_ZN":                                    "_ZN",
		"_R":                                     "_R",
		"":                                       "",
		"_Z" + strings.Repeat("N", maxMangled):   "_Z" + strings.Repeat("N", maxMangled),
		"java.lang.Object._ZN4shop4Cart5priceEi": "java.lang.Object._ZN4shop4Cart5priceEi",
	} {
		got := Name(mangled)
		if got != want {
			t.Errorf("%.80q: %.80q, want %.80q", mangled, got, want)
		}
		if again := Name(got); again != got {
			t.Errorf("%.80q twice is %.80q", got, again)
		}
	}
	// A few bytes that would be very many: each S_ is twice the one before.
	bomb := "_Z1fISt4pairI" + strings.Repeat("S_IS_S_E", 900) + "EE"
	if n := len(Name(bomb)); n > 1<<14 {
		t.Errorf("%d bytes of a name of %d", n, len(bomb))
	}
	b := profile.NewBuilder(profile.ValueType{Type: "samples", Unit: "count"})
	n := b.String("_ZN4shop4Cart5priceEi")
	b.Add(b.Stack(0, b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: n})})), 0, 1)
	p := b.Profile()
	q := Demangle(p)
	if f := q.Functions[0]; q.Strings[f.Name] != "shop::Cart::price" || q.Strings[f.SystemName] != "_ZN4shop4Cart5priceEi" || p.Functions[0].Name != n {
		t.Errorf("%q %q", q.Strings[f.Name], q.Strings[f.SystemName])
	}
	if Demangle(q) != q {
		t.Error("demangled twice")
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := planted().Encode()
	if _, err := Decode(good); err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if _, err := Decode(good[:n]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	for name, change := range map[string]func(*Table){
		"no build id":   func(t *Table) { t.BuildIDs = nil },
		"no string 0":   func(t *Table) { t.strings[0] = "x" },
		"a name":        func(t *Table) { t.funcs[0].name = 9 },
		"a file":        func(t *Table) { t.lines[0].file = 9 },
		"overlap":       func(t *Table) { t.funcs[0].size = 0x300 },
		"inlined calls": func(t *Table) { t.funcs[1].first = 2 },
		"no text":       func(t *Table) { t.strings[1] = "\xff" },
		"depth":         func(t *Table) { t.inlined[0].depth = maxInlined + 1 },
		"a segment":     func(t *Table) { t.segments[0].size = 1<<64 - 1 },
	} {
		table := planted()
		change(table)
		if _, err := Decode(table.Encode()); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Decode(append(good, 0)); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	if _, err := Decode(make([]byte, MaxTable+1)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

// TestStore: tables of a tenant are that tenant's, are found by each of their build ids, and what was missing is found once it is there.
func TestStore(t *testing.T) {
	dir := t.TempDir()
	b, err := bucket.Open(t.Context(), "file://"+filepath.ToSlash(dir), bucket.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	now := time.Unix(1e9, 0)
	open := func() *Store {
		s, err := NewStore(StoreOptions{Bucket: b, CacheBytes: 1, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s, other := open(), open() // two servers on one bucket
	named := func(s *Store, tenant string) string {
		p, err := s.Named(t.Context(), tenant, addressed(0, 0, 0, 0x401215, 0x401010), Arriving)
		if err != nil {
			t.Fatal(err)
		}
		return foldedOf(t, p)
	}
	const want, unknown = "main;inner;core::fmt::write 7", "app+0x401215;app+0x401010 7"
	if got := named(s, "a") + named(other, "a"); got != unknown+unknown {
		t.Error(got)
	}
	table := planted()
	table.BuildIDs = []string{"x/Y", "abcd"}
	noise := rand.New(rand.NewPCG(1, 2))
	for range 20_000 { // more than the beginning that a listing reads, packed
		table.strings = append(table.strings, fmt.Sprintf("%016x", noise.Uint64()))
	}
	info, err := s.Put(t.Context(), "a", Pack(table.Encode()))
	if err != nil || info.Functions != 2 {
		t.Fatal(info, err)
	}
	if got := named(s, "a"); got != want {
		t.Error(got)
	}
	if got := named(s, "A"); got != unknown {
		t.Error("another tenant has it: " + got)
	}
	if got := named(other, "a"); got != unknown {
		t.Error("the other server has looked again at once")
	}
	now = now.Add(missingFor)
	if got := named(other, "a"); got != want {
		t.Error(got)
	}
	list, err := s.List(t.Context(), "a")
	if err != nil || len(list) != 1 || list[0].File != "app" || list[0].Functions != 2 || list[0].Lines != 4 || list[0].Inlined != 1 || !reflect.DeepEqual(list[0].BuildIDs, table.BuildIDs) {
		t.Errorf("%+v %v", list, err)
	}
	if list, err := s.List(t.Context(), "b"); err != nil || len(list) != 0 {
		t.Error(list, err)
	}
	for _, bad := range [][]byte{nil, []byte("x"), Pack([]byte("x")), Pack(make([]byte, MaxTable+1)), append([]byte{}, zstdMagic...)} {
		if _, err := s.Put(t.Context(), "a", bad); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	// One that is damaged is as if it were not there.
	if err := b.Put(t.Context(), prefix("a")+"abcd", strings.NewReader("damaged")); err != nil {
		t.Fatal(err)
	}
	if got := named(open(), "a"); got != unknown {
		t.Error(got)
	}
}

// FuzzDecode: whatever comes, a table is sound or there is an error of the contract.
func FuzzDecode(f *testing.F) {
	f.Add(planted().Encode(), uint64(0x401215))
	f.Fuzz(func(t *testing.T, b []byte, at uint64) {
		table, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("%v is of no kind", err)
			}
			return
		}
		for i := range table.funcs {
			table.Frames(table.funcs[i].start)
		}
		if n := len(table.Frames(at)); n > maxInlined+1 {
			t.Fatalf("%d frames", n)
		}
		if back, err := Decode(table.Encode()); err != nil || !bytes.Equal(back.Encode(), table.Encode()) {
			t.Fatal(err)
		}
	})
}
