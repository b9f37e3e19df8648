package analyze

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// TransitionVersion is one version of a service, with the spans of its instances.
type TransitionVersion struct {
	Version string
	First   time.Time    // when it was first seen; zero is unknown
	Windows []SpanWindow // the judged ones, as in TransitionInput
}

// CauseTransitions lays findings of [Transitions] to a version, in place: where of several versions one alone is as the finding says while all
// others that have enough spans are as the step was; or where the whole service has become a version that was first seen when the finding
// began. Edges are those that came with the findings, opt what they were made with. The error is that of Transitions.
//
// Which side a version is on is told by the 95 % interval of its quantile, all of it: above, or below, the threshold, or what is half-way
// between before and after in logarithms, as for the windows of a finding.
func CauseTransitions(found []Finding, edges []Edge, versions []TransitionVersion, opt TransitionOptions) error {
	if len(found) == 0 || len(versions) == 0 {
		return nil
	}
	by := make([]map[string]*Edge, len(versions))
	for i, v := range versions {
		if len(v.Windows) == 0 {
			continue
		}
		of, _, err := Transitions(TransitionInput{Service: found[0].Service, Windows: v.Windows, Now: len(v.Windows)}, opt)
		if err != nil {
			return fmt.Errorf("version %q: %w", v.Version, err)
		}
		by[i] = map[string]*Edge{}
		for j := range of {
			by[i][of[j].Name] = &of[j]
		}
	}
	all := map[string]*Edge{}
	for i := range edges {
		all[edges[i].Name] = &edges[i]
	}
	for i := range found {
		f := &found[i]
		e := all[f.Subject]
		if e == nil || f.Cause != nil || f.Kind != Transition && f.Kind != Improvement {
			continue
		}
		median := f.After == e.P50
		if v := versionOf(f, median, by, versions); v != "" {
			f.Cause = &Cause{Label: profile.LabelVersion, Value: v, Share: 1}
			f.Sentence = strings.TrimSuffix(f.Sentence, ".") + ", with version " + v + "."
			if f.Head != nil {
				if f.Head.Labels == nil {
					f.Head.Labels = map[string]string{}
				}
				f.Head.Labels[profile.LabelVersion] = v
			}
		}
	}
	return nil
}

// versionOf is the version that a finding is of; "" is that none can be told.
func versionOf(f *Finding, median bool, by []map[string]*Edge, versions []TransitionVersion) string {
	bound := f.After.Low // of a step with a threshold there may be no past
	if f.Before.Value > 0 {
		bound = math.Sqrt(f.Before.Value * f.After.Value)
	}
	changed, others, unclear := -1, 0, 0
	seen := 0
	for i := range versions {
		e := by[i][f.Subject]
		if e == nil || e.N == 0 {
			continue
		}
		seen++
		q := e.P99
		if median {
			q = e.P50
		}
		after, before := q.Low >= bound, q.High < bound
		if f.Kind == Improvement {
			after, before = before, after
		}
		switch {
		case q == (Estimate{}) || !after && !before:
			unclear++
		case before:
			others++
		case changed >= 0:
			return "" // more than one has it
		default:
			changed = i
		}
	}
	if changed < 0 {
		return ""
	}
	v := &versions[changed]
	if others > 0 && unclear == 0 {
		return v.Version
	}
	// All of the service is this version, and was another until the change began.
	if seen == 1 && !f.Since.IsZero() && !v.First.IsZero() && v.First.After(f.From) {
		window := v.Windows[0].To.Sub(v.Windows[0].From)
		if d := f.Since.Sub(v.First); d <= window && d >= -window {
			return v.Version
		}
	}
	return ""
}
