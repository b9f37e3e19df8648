package judge

import (
	"cmp"
	"fmt"
	"slices"
)

const (
	// maxVersions is how many versions are looked at each by itself: the rest is in the whole alone.
	maxVersions = 8
	// doubtful is how many times the level at which harm is shown lets nothing pass.
	doubtful = 5
)

// versions is asked at the end of the dwell, where several versions are treated: a change that harms one of them is harmful, however little the mean of all
// shows of it. Each is compared with the control of its own version, where there is one. harm is what is shown, at the level of all metrics together once
// more, shared among versions; where there is less, it is a reason not to pass.
func (j *judging) versions() (harm string) {
	of := map[string][]Member{}
	for _, m := range j.in.Treated {
		of[m.Version] = append(of[m.Version], m)
	}
	if len(of) < 2 || len(j.in.Control) == 0 {
		return ""
	}
	var names []string
	for v := range of {
		names = append(names, v)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(len(of[b])-len(of[a]), cmp.Compare(a, b)) })
	names = names[:min(len(names), maxVersions)]
	level := j.harm / float64(len(names))
	for _, name := range names {
		in := j.in
		in.Treated, in.Control = of[name], slices.Clone(j.in.Control)
		if own := slices.DeleteFunc(in.Control, func(m Member) bool { return m.Version != name || m.Gone }); len(own) > 0 {
			in.Control = own
		} else {
			in.Control = j.in.Control
		}
		for _, m := range j.in.Metrics {
			if !m.Critical {
				continue
			}
			g, err := gridOf(&in, m.Name)
			if err != nil {
				continue // it was told of the whole
			}
			x := measure(&in, &j.o, &g, m)
			x.pair()
			if !x.baseline || x.missing(&j.o) != "" {
				continue // two hosts that differ, or too little: the whole tells
			}
			v := x.judge(&j.o, level, evidence{})
			why := fmt.Sprintf("on version %s %s", cmp.Or(name, "unknown"), v.Why)
			switch {
			case v.Decision == Fail:
				return why
			case v.Decision == Hold && v.PHarm < doubtful*level:
				j.must("%s", why)
			}
		}
	}
	return ""
}
