package simulate

import (
	"flag"
	"strings"
	"testing"
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
