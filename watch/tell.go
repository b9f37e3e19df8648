package watch

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/watch/alert"
)

// How alerts go.
const (
	gather    = 10 * time.Second // from a finding to its alert: the same cause may show in another service
	together  = 10 * time.Minute // changes of one function in several services within it are one cause
	firstWait = 5 * time.Second  // after a try that failed; doubled up to lastWait
	lastWait  = 10 * time.Minute
	refusedIn = time.Hour // another try of what was refused: the file or the other side may have been mended
	maxTries  = 50
)

// telling is one thing that a channel is to be told.
type telling struct {
	record  *Record
	channel string
	fixed   bool
	also    []string // other services of the same cause
}

// due is who is to be told what, now; nobody where cfg is nil. It sets CoveredBy where another record stands for one, and returns the
// changed ones.
func due(cfg *alert.Config, records []Record, now time.Time) (tell []telling, covered []*Record) {
	also := map[*Record][]string{}
	open := []*Record{}
	for i := range records {
		r := &records[i]
		if (r.State == StateNew || r.State == StateCameBack) && now.Sub(r.FirstSeen) >= gather {
			open = append(open, r)
		}
	}
	// Who was told already stands for the others, then who weighs most.
	slices.SortFunc(open, func(a, b *Record) int {
		if x, y := told(a), told(b); x != y {
			if x {
				return -1
			}
			return 1
		}
		return analyze.Rank(&a.Finding, &b.Finding)
	})
	for i, r := range open {
		if r.CoveredBy != "" && !slices.ContainsFunc(records, func(o Record) bool { return o.ID == r.CoveredBy && o.State != StateFixed }) {
			r.CoveredBy = "" // who stood for it is fixed, and it is not
			covered = append(covered, r)
		}
		if r.CoveredBy != "" {
			continue
		}
		for _, leader := range open[:i] {
			if leader.CoveredBy == "" && sameCause(leader, r) {
				if !told(r) {
					r.CoveredBy = leader.ID
					covered = append(covered, r)
				}
				also[leader] = append(also[leader], r.Finding.Service)
				break
			}
		}
	}
	if cfg == nil {
		return nil, covered
	}
	for _, r := range open {
		if r.CoveredBy != "" {
			continue
		}
		to, _ := cfg.Route(&r.Finding)
		for _, ch := range to {
			if t := r.Alerts[ch]; !t.tried(r.Episode, false, now) {
				slices.Sort(also[r])
				tell = append(tell, telling{r, ch, false, slices.Compact(also[r])})
			}
		}
	}
	for i := range records {
		r := &records[i]
		if r.State != StateFixed {
			continue
		}
		_, fixed := cfg.Route(&r.Finding)
		for ch, t := range r.Alerts {
			if slices.Contains(fixed, ch) && !t.At.IsZero() && !t.Fixed && !t.tried(r.Episode, true, now) {
				tell = append(tell, telling{record: r, channel: ch, fixed: true})
			}
		}
	}
	slices.SortStableFunc(tell, func(a, b telling) int {
		return cmp.Or(cmp.Compare(a.record.ID, b.record.ID), cmp.Compare(a.channel, b.channel))
	})
	return tell, covered
}

func told(r *Record) bool {
	for _, t := range r.Alerts {
		if !t.At.IsZero() {
			return true
		}
	}
	return false
}

// tried says whether there is nothing to do now: it came through, or it is not time yet, or it never will.
func (t Told) tried(episode int, fixed bool, now time.Time) bool {
	if t.Episode < episode && !fixed {
		return false
	}
	if !fixed && !t.At.IsZero() {
		return true
	}
	return t.Tries >= maxTries || now.Before(t.Next)
}

// sameCause says whether two findings of different services are one for those who are told: the same function changed
// in the same way at about the same time.
func sameCause(a, b *Record) bool {
	f, g := &a.Finding, &b.Finding
	if f.Service == g.Service || f.Kind != g.Kind || f.Type != g.Type || !isChange(f.Kind) || f.Function == "" || f.Function != g.Function {
		return false
	}
	d := f.Since.Sub(g.Since)
	return max(d, -d) <= together
}

// after is what is known of a channel after a try.
func (t Told) after(episode int, fixed bool, now time.Time, err error) Told {
	if t.Episode != episode && !fixed {
		t = Told{Episode: episode}
	}
	if err == nil {
		t.Tries, t.Next, t.Error = 0, time.Time{}, ""
		if fixed {
			t.Fixed = true
		} else {
			t.At = now
		}
		return t
	}
	t.Tries++
	t.Error = clip(err.Error(), 300)
	wait := min(lastWait, firstWait<<min(t.Tries-1, 10))
	var refused *alert.Refused
	var later *alert.Later
	switch {
	case errors.As(err, &refused):
		wait = refusedIn
	case errors.As(err, &later):
		wait = max(wait, later.After)
	}
	t.Next = now.Add(wait)
	return t
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
