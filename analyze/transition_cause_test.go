package analyze

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// TestCauseTransitions: a step's change is laid to the one version that has it, or that all have become when it began, and to none where that
// cannot be told.
func TestCauseTransitions(t *testing.T) {
	const slow, windows = 70, 74
	type version struct {
		name   string
		part   float64 // of the spans
		factor float64 // of what it takes, from window slow on
		first  int     // window
	}
	for _, c := range []struct {
		name     string
		versions []version
		want     string
	}{
		{"one of two", []version{{"v1", 0.5, 1, 0}, {"v2", 0.5, 4, 68}}, "v2"},
		{"all are new", []version{{"v1", 0, 1, 0}, {"v2", 1, 3, slow}}, "v2"},
		{"all are new for long", []version{{"v1", 0, 1, 0}, {"v2", 1, 3, 30}}, ""},
		{"always the same", []version{{"v1", 1, 3, 0}}, ""},
		{"both", []version{{"v1", 0.5, 3, 0}, {"v2", 0.5, 3, slow}}, ""},
		{"the other is hardly seen", []version{{"v1", 0.001, 1, 0}, {"v2", 0.999, 3, 30}}, ""},
		{"faster, one of two", []version{{"v1", 0.5, 1, 0}, {"v2", 0.5, 0.1, 68}}, "v2"},
	} {
		r := rand.New(rand.NewPCG(7, 7))
		draw := func(v version, n int) func(i int, l *spanLog) {
			return func(i int, l *spanLog) {
				for range n {
					factor := 1.0
					if i >= slow {
						factor = v.factor
					}
					l.add("a", around(r, 4e6*factor), false)
				}
			}
		}
		all := fleet(windows, func(i int, l *spanLog) {
			for _, v := range c.versions {
				draw(v, int(2000*v.part))(i, l)
			}
		})
		in := TransitionInput{Service: "s", Now: 2, Windows: all}
		edges, found := mustTransitions(t, in, TransitionOptions{})
		if len(found) != 1 {
			t.Errorf("%s: found %d", c.name, len(found))
			continue
		}
		var versions []TransitionVersion
		for _, v := range c.versions {
			of := TransitionVersion{Version: v.name, First: all[v.first].From.Add(time.Minute)}
			if v.part > 0 {
				of.Windows = fleet(windows, draw(v, int(2000*v.part)))[windows-2:]
			}
			versions = append(versions, of)
		}
		if err := CauseTransitions(found, edges, versions, TransitionOptions{}); err != nil {
			t.Fatal(err)
		}
		f, got := found[0], ""
		if f.Cause != nil {
			if f.Cause.Label != profile.LabelVersion || f.Cause.Share != 1 {
				t.Errorf("%s: the cause is %+v", c.name, f.Cause)
			}
			got = f.Cause.Value
		}
		if got != c.want || strings.HasSuffix(f.Sentence, ", with version v2.") != (c.want != "") || (f.Head.Labels[profile.LabelVersion] == "v2") != (c.want != "") {
			t.Errorf("%s: laid to %q, want %q: %s %+v", c.name, got, c.want, f.Sentence, f.Head)
		}
	}
}
