package simulate

import (
	"flag"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/optimize"
)

var long = flag.Bool("long", false, "run each story many times")

// TestReport: of a few runs of each story no harmful change is promoted and no promise is broken; most good ones are. The full form is
// `quantraband bench changes --full`.
func TestReport(t *testing.T) {
	each := 1
	if *long {
		each = 20
	}
	rows, err := Report(t.Context(), each*len(Families()), 1, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + Markdown(rows))
	good, promoted := 0, 0
	for _, r := range rows {
		if len(r.Escaped)+len(r.Broken) > 0 {
			t.Errorf("%s:\n%s", r.Name, strings.Join(append(r.Escaped, r.Broken...), "\n"))
		}
		if r.Truth == Good {
			good, promoted = good+r.Runs, promoted+r.Promoted
		}
	}
	if 2*promoted < good {
		t.Errorf("%d of %d good changes are promoted", promoted, good)
	}
}

// TestOncePromoted are harmful changes that were promoted once. Of two slow leaks one was before the whole course was looked at, one because its second half
// happened to look flat at one look of many; one that harmed every second node's version was because the last stage had no baseline any more.
func TestOncePromoted(t *testing.T) {
	once := map[string][]uint64{"slow burn": {20396, 500126}, "bad on one version": {7279}}
	for _, f := range Families() {
		for _, seed := range once[f.Name] {
			s := f.Make(rand.New(rand.NewPCG(seed, 0xfa3)))
			o, err := Run(t.Context(), seed, s)
			if err != nil {
				t.Fatal(err)
			}
			if o.Change.State == optimize.Done || o.On != 0 {
				t.Errorf("%s, seed %d: it is %s, in force at %d of %d: %s", f.Name, seed, o.Change.State, o.On, o.Of, o.Change.Reason)
			}
		}
		delete(once, f.Name)
	}
	if len(once) > 0 {
		t.Errorf("there are no such stories: %v", once)
	}
}
