package tune

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/builds"
	"github.com/quantra-l/quantra/optimize/patch"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// TestIsOf: functions of profiles are told by their names in source, closures and generic ones among them.
func TestIsOf(t *testing.T) {
	for _, c := range []struct {
		name, want string
		is         bool
	}{
		{"example.com/shop/cart.Total", "Total", true},
		{"example.com/shop/cart.Total.func1.2", "Total", true},
		{"example.com/shop/cart.Total-fm", "Total", true},
		{"example.com/shop/cart.(*Cart).Total", "Cart.Total", true},
		{"example.com/shop/cart.Cart.Total", "Cart.Total", true},
		{"example.com/shop/cart.(*Cart).Total.func1", "Cart.Total", true},
		{"example.com/shop/cart.Sum[...]", "Sum", true},
		{"example.com/shop/cart.(*List[go.shape.struct { a/b.T[int] }]).Add", "List.Add", true},
		{"main.main", "main", true},
		{"cart.Sum" + strings.Repeat("[", 1<<17) + strings.Repeat("]", 1<<17), "Sum", false}, // in a moment
		{"example.com/shop/cart.Totals", "Total", false},
		{"example.com/shop/cart.(*Cart).Total", "Total", false},
		{"example.com/shop/cart.Total", "Cart.Total", false},
		{"Total", "Total", false},
		{"", "Total", false},
	} {
		if got := isOf(c.name, c.want); got != c.is {
			t.Errorf("%.100q is %q: %t", c.name, c.want, got)
		}
	}
}

// TestGain: the share of processor time with a changed function, or line, on the stack, each sample once; where profiles do not know it that is said.
func TestGain(t *testing.T) {
	now := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	db, err := store.Open(t.Context(), "data", store.Options{FS: vfs.NewMem(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	p := &Patches{Store: db, Now: func() time.Time { return now }}
	upload := func(service, file string) {
		t.Helper()
		nanos := profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
		b := profile.NewBuilder(nanos)
		at := func(name, file string, line int64) uint32 {
			return b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String(name), StartLine: 1, File: b.String(file)}), Line: line})
		}
		main := b.Stack(0, at("main.main", file, 3))
		total := b.Stack(main, at("shop/cart.Total", file, 12))
		b.Add(main, 0, 4e9)
		b.Add(total, 0, 1e9)
		b.Add(b.Stack(b.Stack(total, at("sort.Slice", "", 5)), at("shop/cart.Total.func1", file, 14)), 0, 3e9) // twice on the stack
		b.Add(b.Stack(main, at("shop/other.Total", "/src/shop/other/price.go", 14)), 0, 2e9)
		q := b.Profile()
		q.Period, q.PeriodType = 1e7, nanos
		labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: service})
		if err == nil {
			err = db.Append(t.Context(), store.Upload{Name: "process_cpu", Labels: labels, From: now.Add(-10 * time.Second), To: now, Profile: q, Pprof: q.AppendPprof(nil)})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	upload("shop", "/src/shop/cart/price.go")
	upload("windows", `C:\src\shop\cart\price.go`)
	upload("nameless", "")
	touched := func(path string, ts ...patch.Touched) *patch.Patch {
		return &patch.Patch{Files: []patch.File{{Path: path, Touched: ts}}}
	}
	total, line := patch.Touched{Function: "Total", From: 10, To: 16}, patch.Touched{Function: "Total", From: 14, To: 14}
	for _, c := range []struct {
		what, service    string
		made             *patch.Patch
		known, found     bool
		functions, lines float64
		outside          bool
	}{
		{"a function, with what it calls", "shop", touched("cart/price.go", total), true, true, 0.4, 0.4, false},
		{"a line", "shop", touched("cart/price.go", line), true, true, 0.4, 0.3, false},
		{"a file of Windows", "windows", touched("cart/price.go", line), true, true, 0.4, 0.3, false},
		{"another function", "shop", touched("cart/price.go", patch.Touched{Function: "All", From: 14, To: 14}), true, false, 0, 0, false},
		{"another file", "shop", touched("art/price.go", total), true, false, 0, 0, false},
		{"out of functions", "shop", touched("cart/price.go", patch.Touched{From: 14, To: 14}), true, false, 0, 0, true},
		{"partly", "shop", touched("cart/price.go", patch.Touched{From: 2, To: 2}, line), true, true, 0.4, 0.3, true},
		{"no profiles", "nobody", touched("cart/price.go", total), false, false, 0, 0, false},
	} {
		g, focus, err := p.gain(t.Context(), "", c.service, c.made)
		if err != nil {
			t.Fatal(err)
		}
		if g.Known != c.known || g.Found != c.found || g.Outside != c.outside || !near(g.Functions, c.functions) || !near(g.Lines, c.lines) || (focus != "") != c.found || c.known && !near(g.Cores, 1) {
			t.Errorf("%s: %+v, %q", c.what, g, focus)
		}
	}
	// Which function lines of other languages are in only the lines tell.
	g, _, err := p.gain(t.Context(), "", "shop", touched("price.go.rs", total))
	if err != nil || g.Found || g.Outside {
		t.Errorf("%+v, %v", g, err)
	}
	if g, _, err := p.gain(t.Context(), "", "nameless", touched("cart/price.go", total)); err != nil || !g.Known || g.Found {
		t.Errorf("some functions have files: %+v, %v", g, err)
	}
}

func near(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 }

// TestPatchesRefuses: a service without source in the policy is refused before anything is read.
func TestPatchesRefuses(t *testing.T) {
	p := &Patches{Source: func(string) (builds.Source, bool) { return builds.Source{}, false }}
	if _, err := p.Propose(t.Context(), "", optimize.PatchAsk{Service: "shop"}); !errors.Is(err, optimize.ErrState) {
		t.Errorf("%v", err)
	}
}
